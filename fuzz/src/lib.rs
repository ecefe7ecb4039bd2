//! What the fuzz targets share: tars of entries that are worth trying, and a place where they can do no harm.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use arbitrary::{Arbitrary, Unstructured};
use camino::{Utf8Path, Utf8PathBuf};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tar::{Builder, EntryType, Header};

/// Where the file system of [`Place`] is mounted, in a mount namespace of this process.
const MOUNTED: &str = "/mnt";
/// What is outside of the folder that may be written to.
const OUTSIDE: [&str; 3] = ["outside/folder/file", "outside/file", "file"];

/// A small file system in memory: a folder to unpack into, and what lies beside it.
pub struct Place {
    before: BTreeMap<Utf8PathBuf, String>,
}

impl Place {
    /// Mounts it: nothing else of the machine sees it, and it is gone with the process. Needs root.
    ///
    /// # Panics
    /// When it cannot be mounted.
    pub fn mount() -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace: are you root?");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts are made private");
        mount(Some("fuzz"), MOUNTED, Some("tmpfs"), MsFlags::empty(), Some("size=32m,nr_inodes=10k"))
            .expect("a tmpfs is mounted");
        for file in OUTSIDE {
            let file = Utf8Path::new(MOUNTED).join(file);
            fs::create_dir_all(file.parent().expect("it has one")).expect("a folder is made");
            fs::write(file, "outside").expect("a file is written");
        }
        Self { before: outside() }
    }

    /// A path of it.
    pub fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8Path::new(MOUNTED).join(name)
    }

    /// Removes the folder `inside` and the file `blob`, if they are there.
    ///
    /// # Panics
    /// When something else has changed.
    pub fn clean(&self) {
        for name in ["inside", "blob"] {
            let path = self.path(name);
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            assert!(removed.is_ok() || !path.exists(), "{path}: {removed:?}");
        }
        assert_eq!(outside(), self.before, "something outside was touched");
    }
}

/// All that is mounted, and how it is.
fn outside() -> BTreeMap<Utf8PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![Utf8PathBuf::from(MOUNTED)];
    while let Some(path) = todo.pop() {
        let meta = path.symlink_metadata().expect("it was listed");
        if meta.is_dir() {
            let entries = path.read_dir_utf8().expect("a folder can be listed");
            todo.extend(entries.map(|entry| entry.expect("an entry can be read").into_path()));
        }
        let content = if meta.is_file() { fs::read(&path).expect("a file can be read") } else { Vec::new() };
        // Times and size of the top change with what is made in it.
        let (time, size) =
            if path == MOUNTED { (0, 0) } else { (meta.mtime_nsec() + meta.mtime(), meta.size()) };
        let links = if meta.is_dir() { 0 } else { meta.nlink() };
        let seen = format!("{:o} {} {} {time} {size} {links}", meta.mode(), meta.uid(), meta.gid());
        found.insert(path, format!("{seen} {content:?}"));
    }
    found
}

/// A tar of an input: the input itself, or entries that it stands for when it begins with 0, as no tar does.
pub fn tar_of(input: &[u8]) -> Vec<u8> {
    match input.split_first() {
        Some((0, rest)) => entries(&mut Unstructured::new(rest)),
        _ => input.to_vec(),
    }
}

/// Names that collide, hide each other or lead elsewhere.
const NAMES: [&str; 16] = [
    "a",
    "b",
    "link",
    "a/b",
    "a/link",
    "a/link/b",
    "link/a",
    "link/link/file",
    "link/folder/file",
    "../outside/file",
    "/a/../b",
    "./",
    "a/.wh.b",
    ".wh.link",
    "link/.wh.file",
    "a/.wh..wh..opq",
];
/// Where links lead.
const TARGETS: [&str; 12] = [
    "a",
    "b",
    "link",
    "a/b",
    "..",
    "../outside",
    "../../outside/file",
    "/mnt/outside",
    "/mnt/outside/file",
    "/",
    ".",
    "/proc/self/cwd",
];
const KINDS: [EntryType; 8] = [
    EntryType::Regular,
    EntryType::Directory,
    EntryType::Symlink,
    EntryType::Link,
    EntryType::Char,
    EntryType::Block,
    EntryType::Fifo,
    EntryType::Continuous,
];

#[derive(Arbitrary)]
struct Entry {
    kind: u8,
    name: u8,
    target: u8,
    mode: u16,
    owner: u16,
    time: u32,
    content: u8,
    attribute: bool,
}

fn entries(input: &mut Unstructured) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    while !input.is_empty() {
        let Ok(entry) = Entry::arbitrary(input) else { break };
        let of = |list: &[&'static str], at: u8| list[usize::from(at) % list.len()];
        if entry.attribute {
            let pairs = [("SCHILY.xattr.user.a", &b"1"[..]), ("SCHILY.xattr.user.overlay.opaque", b"y")];
            tar.append_pax_extensions(pairs).expect("memory can be written to");
        }
        let content = vec![b'x'; usize::from(entry.content)];
        let mut header = Header::new_gnu();
        let kind = KINDS[usize::from(entry.kind) % KINDS.len()];
        header.set_entry_type(kind);
        // Set byte by byte: the crate refuses `..`.
        let name = of(&NAMES, entry.name).as_bytes();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        let target = of(&TARGETS, entry.target).as_bytes();
        if matches!(kind, EntryType::Symlink | EntryType::Link) {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        }
        header.set_mode(u32::from(entry.mode));
        header.set_uid(u64::from(entry.owner % 3));
        header.set_gid(u64::from(entry.owner / 3 % 3));
        header.set_mtime(u64::from(entry.time));
        header.set_device_major(0).expect("the header is GNU's");
        header.set_device_minor(u32::from(entry.owner % 2)).expect("the header is GNU's");
        header.set_size(if kind.is_file() || kind.is_contiguous() { content.len() as u64 } else { 0 });
        header.set_cksum();
        let data = &content[..usize::try_from(header.size().expect("it was set")).expect("it is small")];
        tar.append(&header, data).expect("memory can be written to");
    }
    tar.into_inner().expect("memory can be written to")
}
