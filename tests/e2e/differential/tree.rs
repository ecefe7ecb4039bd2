//! The file system of an image, made of its layers, and how two of them differ.
//!
//! Rules: OCI image specification, "Image Layer Filesystem Changeset".

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Read;

use imgforge::engine::Exported;
use imgforge_oci::{Digest, MediaType};

/// The time of whatever a step writes in the embedded engine; nothing is later there.
pub(super) const EPOCH: u64 = 946_684_800;

/// One path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    kind: Kind,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    xattrs: BTreeMap<String, Vec<u8>>,
    /// Paths of one file have one number.
    file: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Folder,
    File(Vec<u8>),
    Link(Vec<u8>),
    Pipe,
    Device(u8, u32, u32),
}

/// Paths without a slash before them, as bytes.
#[derive(Debug, Default, Clone)]
pub(super) struct Tree(BTreeMap<Vec<u8>, Node>);

impl Tree {
    /// Puts an image's layers one upon the other.
    pub(super) fn of(exported: &Exported, id: &Digest) -> (Self, serde_json::Value) {
        let config: serde_json::Value = serde_json::from_slice(&exported.configs[id]).unwrap();
        let mut tree = Self::default();
        let mut next = 0;
        for diff_id in config["rootfs"]["diff_ids"].as_array().into_iter().flatten() {
            let blob = &exported.layers[diff_id.as_str().unwrap()];
            assert_eq!(blob.media_type, MediaType::ImageLayerGzip);
            let file = std::fs::File::open(&blob.file).unwrap();
            tree.apply(flate2::read::GzDecoder::new(file), &mut next);
        }
        (tree, config)
    }

    fn apply(&mut self, layer: impl Read, next: &mut usize) {
        let mut archive = tar::Archive::new(layer);
        let mut written: BTreeSet<Vec<u8>> = BTreeSet::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = plain(&entry.path_bytes());
            let Some(name) = path.rsplit(|byte| *byte == b'/').next().filter(|name| !name.is_empty()) else {
                continue;
            };
            let parent = path[..path.len() - name.len()].to_vec();
            if name == b".wh..wh..opq" {
                self.0.retain(|known, _| !known.starts_with(&parent) || written.contains(known));
                continue;
            }
            if let Some(hidden) = name.strip_prefix(b".wh.") {
                self.remove(&[&parent[..], hidden].concat());
                continue;
            }
            let header = entry.header();
            let (mode, mtime) = (header.mode().unwrap() & 0o7777, header.mtime().unwrap());
            let owner = (header.uid().unwrap(), header.gid().unwrap());
            let kind = header.entry_type();
            let device = (header.device_major().ok().flatten(), header.device_minor().ok().flatten());
            let target = entry.link_name_bytes().map(std::borrow::Cow::into_owned);
            let mut xattrs = BTreeMap::new();
            for extension in entry.pax_extensions().unwrap().into_iter().flatten() {
                let extension = extension.unwrap();
                if let Some(name) = extension.key().unwrap().strip_prefix("SCHILY.xattr.") {
                    xattrs.insert(name.to_owned(), extension.value_bytes().to_vec());
                }
            }
            let number = |wanted: Option<u32>| wanted.unwrap_or_default();
            let kind = match kind {
                tar::EntryType::Directory => Kind::Folder,
                tar::EntryType::Symlink => Kind::Link(target.unwrap()),
                tar::EntryType::Fifo => Kind::Pipe,
                tar::EntryType::Char => Kind::Device(b'c', number(device.0), number(device.1)),
                tar::EntryType::Block => Kind::Device(b'b', number(device.0), number(device.1)),
                tar::EntryType::Link => {
                    let node = self.0[&plain(&target.unwrap())].clone();
                    self.remove(&path);
                    written.insert(path.clone());
                    self.0.insert(path, node);
                    continue;
                }
                tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                    let mut bytes = Vec::new();
                    entry.read_to_end(&mut bytes).unwrap();
                    Kind::File(bytes)
                }
                other => panic!("{other:?} in a layer"),
            };
            let stays =
                kind == Kind::Folder && self.0.get(&path).is_some_and(|node| node.kind == Kind::Folder);
            if !stays {
                self.remove(&path);
            }
            *next += 1;
            written.insert(path.clone());
            self.0.insert(path, Node { kind, mode, owner, mtime, xattrs, file: *next });
        }
    }

    fn remove(&mut self, path: &[u8]) {
        let below = [path, b"/"].concat();
        self.0.retain(|known, _| known != path && !known.starts_with(&below));
    }

    /// What a path is, the time apart.
    pub(super) fn says(&self, path: &str) -> Option<String> {
        self.0.get(path.as_bytes()).map(Node::says)
    }

    /// Every path's other names, itself included.
    fn names(&self) -> BTreeMap<usize, Vec<&[u8]>> {
        let mut names: BTreeMap<usize, Vec<&[u8]>> = BTreeMap::new();
        for (path, node) in &self.0 {
            names.entry(node.file).or_default().push(path);
        }
        names
    }

    /// Where `ours` is not what `docker` is, one line each.
    pub(super) fn differences(docker: &Self, ours: &Self) -> Vec<String> {
        let (their_names, our_names) = (docker.names(), ours.names());
        let paths: BTreeSet<&Vec<u8>> = docker.0.keys().chain(ours.0.keys()).collect();
        let mut found = Vec::new();
        for path in paths {
            let text = format!("/{}", String::from_utf8_lossy(path));
            match (docker.0.get(path), ours.0.get(path)) {
                (Some(theirs), None) => found.push(format!("{text}: only Docker has it ({})", theirs.says())),
                (None, Some(mine)) => found.push(format!("{text}: only ours ({})", mine.says())),
                (Some(theirs), Some(mine)) => {
                    if theirs.says() != mine.says() {
                        found.push(format!("{text}: Docker {}, ours {}", theirs.says(), mine.says()));
                    } else if !theirs.has_time_of(mine) {
                        found.push(format!("{text}: of {}, ours of {}", theirs.mtime, mine.mtime));
                    }
                    if their_names[&theirs.file] != our_names[&mine.file] {
                        found.push(format!("{text}: is one file with other paths"));
                    }
                }
                (None, None) => {}
            }
        }
        found
    }
}

impl Node {
    /// Everything but the time.
    fn says(&self) -> String {
        let mut out = match &self.kind {
            Kind::Folder => "folder".to_owned(),
            Kind::File(bytes) if bytes.len() < 600 => format!("file {:?}", String::from_utf8_lossy(bytes)),
            Kind::File(bytes) => format!("file of {} bytes, {}", bytes.len(), blake3::hash(bytes).to_hex()),
            Kind::Link(target) => format!("link to {:?}", String::from_utf8_lossy(target)),
            Kind::Pipe => "pipe".to_owned(),
            Kind::Device(kind, major, minor) => format!("device {kind} {major} {minor}"),
        };
        if !matches!(self.kind, Kind::Link(_)) {
            let _ = write!(out, " {:04o}", self.mode);
        }
        let _ = write!(out, " {}:{}", self.owner.0, self.owner.1);
        if !self.xattrs.is_empty() {
            let _ = write!(out, " {:?}", self.xattrs);
        }
        out
    }

    /// A time that something says is the same in both; what a step writes is of its moment in Docker, and of 2000 in
    /// ours. The daemon leaves the times of folders of the context at the moment of their transfer.
    fn has_time_of(&self, ours: &Self) -> bool {
        let is_explicit = self.mtime < 1_700_000_000;
        match self.kind {
            _ if is_explicit => self.mtime.min(EPOCH) == ours.mtime,
            Kind::Folder => ours.mtime <= EPOCH,
            _ => ours.mtime == EPOCH,
        }
    }
}

/// Without `./` and slashes around it.
fn plain(path: &[u8]) -> Vec<u8> {
    let mut path = path.strip_prefix(b"./").unwrap_or(path);
    while let Some(rest) = path.strip_prefix(b"/") {
        path = rest;
    }
    while let Some(rest) = path.strip_suffix(b"/") {
        path = rest;
    }
    if path == b"." { Vec::new() } else { path.to_vec() }
}
