//! Tests with real overlay mounts, each in a mount namespace of its own. They need root, as all of this crate's do.

mod chance;
mod foreign;
mod steps;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use camino::{Utf8Path, Utf8PathBuf};
use nix::sched::CloneFlags;
use proptest::prelude::*;
use rustix::fs::{FileType, Mode, XattrFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};
use tar::EntryType;

use super::pack::pack_with;
use super::*;
use crate::node::{Attribute, attributes};
use crate::worker::message::{Compression, Layer};

const EPOCH: i64 = 1_700_000_000;
/// What was written later than this was written by a test.
const CLAMP: Clamp = Clamp { since: 1_750_000_000, epoch: EPOCH };

/// A folder for one test.
struct Place(#[expect(dead_code, reason = "keeps the folder")] tempfile::TempDir, Utf8PathBuf);

fn place() -> Place {
    imgforge_testkit::needs::root("making layers of what anybody may own");
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::try_from(folder.path().canonicalize().unwrap()).unwrap();
    Place(folder, path)
}

impl Place {
    fn at(&self, path: &str) -> Utf8PathBuf {
        self.1.join(path)
    }

    /// An empty folder, as the root of a layer is.
    fn folder(&self, path: &str) -> Utf8PathBuf {
        let path = self.at(path);
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        set_time(path.as_std_path(), 0);
        path
    }

    /// Changes a stack and leaves the changes in the folder `upper`.
    fn change<T: Send>(
        &self,
        stack: &[Utf8PathBuf],
        upper: &Utf8Path,
        work: impl FnOnce(&Path) -> T + Send,
    ) -> T {
        let work_folder = tempfile::tempdir_in(&self.1).unwrap();
        let options = format!("upperdir={upper},workdir={}", work_folder.path().display());
        self.mounted(stack, &options, work)
    }

    /// What a stack is when it is mounted.
    fn view(&self, stack: &[Utf8PathBuf]) -> BTreeMap<PathBuf, Seen> {
        // A lone lower folder would not do.
        let empty = tempfile::tempdir_in(&self.1).unwrap();
        let empty = Utf8PathBuf::try_from(empty.path().to_owned()).unwrap();
        let stack: Vec<_> = std::iter::once(&empty).chain(stack).cloned().collect();
        self.mounted(&stack, "", see)
    }

    fn mounted<T: Send>(
        &self,
        stack: &[Utf8PathBuf],
        options: &str,
        work: impl FnOnce(&Path) -> T + Send,
    ) -> T {
        let point = tempfile::tempdir_in(&self.1).unwrap();
        let lower: Vec<_> = stack.iter().rev().map(|layer| layer.as_str()).collect();
        let options = format!("userxattr,lowerdir={},{options}", lower.join(":"));
        let options = std::ffi::CString::new(options.trim_end_matches(',')).unwrap();
        in_namespace(|| {
            let options = Some(options.as_c_str());
            rustix::mount::mount("overlay", point.path(), "overlay", MountFlags::empty(), options).unwrap();
            work(point.path())
        })
    }

    fn pack(&self, upper: &Utf8Path, stack: &[Utf8PathBuf], blob: &str) -> Option<Layer> {
        pack(upper, stack, CLAMP, Compression::Gzip, &self.at(blob)).unwrap()
    }

    /// Writes a tar of these entries and unpacks it without anything below.
    fn unpack(&self, entries: &[Raw]) -> Result<Utf8PathBuf, LayerError> {
        self.unpack_over(entries, &[])
    }

    fn unpack_over(&self, entries: &[Raw], stack: &[Utf8PathBuf]) -> Result<Utf8PathBuf, LayerError> {
        self.unpack_bytes(&tar(entries), stack)
    }

    fn unpack_bytes(&self, bytes: &[u8], stack: &[Utf8PathBuf]) -> Result<Utf8PathBuf, LayerError> {
        let name = format!("unpacked-{:016x}", fastrand::u64(..));
        let (blob, folder) = (self.at(&format!("{name}.tar")), self.at(&name));
        std::fs::write(&blob, bytes).unwrap();
        let unpacked = unpack(&blob, stack, &folder);
        assert_eq!(folder.as_std_path().exists(), unpacked.is_ok());
        unpacked.map(|_| folder)
    }
}

/// Does something where mounts are nobody else's, and gone afterwards.
fn in_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
            rustix::mount::mount_change("/", private).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// A file as a program sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    kind: String,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    content: Vec<u8>,
    attributes: Vec<Attribute>,
    /// The first path of the same file.
    same: PathBuf,
}

/// All below a folder.
fn see(root: &Path) -> BTreeMap<PathBuf, Seen> {
    fn below(
        path: &Path,
        root: &Path,
        inodes: &mut BTreeMap<u64, PathBuf>,
        all: &mut BTreeMap<PathBuf, Seen>,
    ) {
        let meta = path.symlink_metadata().unwrap();
        let kind = meta.file_type();
        let name = path.strip_prefix(root).unwrap().to_owned();
        let open = || std::fs::File::open(path).unwrap();
        let seen = Seen {
            kind: format!("{:o} {:x}", meta.mode() & 0o170_000, meta.rdev()),
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            content: if kind.is_file() {
                std::fs::read(path).unwrap()
            } else if kind.is_symlink() {
                std::fs::read_link(path).unwrap().into_os_string().into_vec()
            } else {
                Vec::new()
            },
            attributes: if kind.is_file() || kind.is_dir() {
                attributes(open()).unwrap()
            } else {
                Vec::new()
            },
            same: if kind.is_dir() || meta.nlink() == 1 {
                PathBuf::new()
            } else {
                inodes.entry(meta.ino()).or_insert_with(|| name.clone()).clone()
            },
        };
        all.insert(name, seen);
        if kind.is_dir() {
            let mut inside: Vec<_> = path.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
            inside.sort();
            for path in inside {
                below(&path, root, inodes, all);
            }
        }
    }
    let mut all = BTreeMap::new();
    below(root, root, &mut BTreeMap::new(), &mut all);
    all
}

/// What differs between two views of the same files: folders that are in no layer keep their time, which a mount that
/// was written to has moved.
fn differences(one: &BTreeMap<PathBuf, Seen>, other: &BTreeMap<PathBuf, Seen>) -> Vec<String> {
    let paths: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let pairs = paths.into_iter().map(|path| (path, one.get(path), other.get(path)));
    pairs.filter(|(_, one, other)| one != other).map(|pair| format!("{pair:#?}")).collect()
}

fn set_time(path: &Path, seconds: i64) {
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn set_attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// An entry of a tar, as wrong as one likes.
#[derive(Debug, Clone)]
struct Raw {
    path: Vec<u8>,
    kind: EntryType,
    link: Vec<u8>,
    mode: u32,
    content: Vec<u8>,
    device: (u32, u32),
    attributes: Vec<Attribute>,
}

fn raw(kind: EntryType, path: impl AsRef<[u8]>, link: impl AsRef<[u8]>) -> Raw {
    Raw {
        path: path.as_ref().to_vec(),
        kind,
        link: link.as_ref().to_vec(),
        mode: if kind == EntryType::Directory { 0o755 } else { 0o644 },
        content: Vec::new(),
        device: (1, 3),
        attributes: Vec::new(),
    }
}

fn raw_file(path: &str, content: &str) -> Raw {
    Raw { content: content.into(), ..raw(EntryType::Regular, path, "") }
}

fn raw_folder(path: &str) -> Raw {
    raw(EntryType::Directory, path, "")
}

fn raw_link(path: &str, target: &str) -> Raw {
    raw(EntryType::Symlink, path, target)
}

fn raw_hard(path: &str, target: &str) -> Raw {
    raw(EntryType::Link, path, target)
}

fn tar(entries: &[Raw]) -> Vec<u8> {
    let mut out = Vec::new();
    for raw in entries {
        let entry = header::Entry {
            path: &raw.path,
            kind: raw.kind,
            link: &raw.link,
            mode: raw.mode,
            uid: 0,
            gid: 0,
            size: raw.content.len() as u64,
            mtime: EPOCH,
            device: raw.device,
            attributes: &raw.attributes,
        };
        entry.write(&mut out).unwrap();
        out.extend_from_slice(&raw.content);
        header::pad(&mut out, raw.content.len() as u64).unwrap();
    }
    out.extend_from_slice(&[0; 1024]);
    out
}

/// The names in a packed layer.
fn listed(blob: &Utf8Path) -> Vec<String> {
    let file = std::fs::File::open(blob).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let entries = archive.entries().unwrap();
    entries.map(|entry| String::from_utf8_lossy(&entry.unwrap().path_bytes()).into_owned()).collect()
}

/// A stack with one layer of many kinds of things.
fn base(place: &Place) -> Vec<Utf8PathBuf> {
    let base = place.folder("base");
    for folder in ["etc", "etc/app", "tmp", "usr", "usr/bin", "old", "old/deep"] {
        std::fs::create_dir(base.join(folder)).unwrap();
    }
    std::fs::set_permissions(base.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    for file in ["etc/passwd", "etc/app/conf", "usr/bin/tool", "old/one", "old/deep/two"] {
        std::fs::write(base.join(file), format!("{file} of the base")).unwrap();
    }
    symlink("usr/bin", base.join("bin")).unwrap();
    for path in see(base.as_std_path()).keys().rev() {
        set_time(&base.as_std_path().join(path), 1_600_000_000);
    }
    vec![base]
}

/// What stands around the folder that is unpacked to, and what attackers aim at.
fn victims(place: &Place) -> (Utf8PathBuf, BTreeMap<PathBuf, Seen>) {
    let outside = place.folder("outside");
    std::fs::create_dir(outside.join("folder")).unwrap();
    for name in ["file", "folder/file"] {
        std::fs::write(outside.join(name), "safe").unwrap();
    }
    let seen = see(outside.as_std_path());
    (outside, seen)
}
