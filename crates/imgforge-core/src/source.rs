//! Where files come from: the work tree now, a git revision later. All paths are relative to the workspace root.
//!
//! A workspace may be somebody else's. So one rule holds for whatever is read of it: links are followed inside of it,
//! as in a build's context; one that leads out of it, a device, a pipe, and what is larger than any such file are
//! errors.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::{Arc, Mutex, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::context::clean;
use crate::file;
use crate::modes::Tracked;
use crate::stat_cache::StatCache;
use crate::state::StateDir;

/// How many links one path may pass through, as in the kernel (`ELOOP`).
pub(crate) const MAX_LINKS: usize = 40;
/// Folders that no search looks into: git's, and what imgforge remembers.
const OWN_FOLDERS: [&str; 2] = [".git", ".imgforge"];
/// The largest `.gitignore`; git reads none beyond 100 MB.
const MAX_IGNORE: u64 = 4 << 20;

/// BLAKE3 of a file's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl From<blake3::Hash> for ContentHash {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What lies at a path. Links are not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Dir {
        /// Its permissions, with setuid, setgid and sticky bits.
        mode: u32,
    },
    /// A regular file.
    File {
        /// Its permissions, with setuid, setgid and sticky bits.
        mode: u32,
        /// Its size in bytes.
        size: u64,
    },
    /// A symbolic link, with its target as written.
    Symlink {
        /// The target.
        target: String,
    },
    /// A socket.
    Socket {
        /// Its permissions.
        mode: u32,
    },
    /// A named pipe or a device.
    Node {
        /// Which.
        node: Node,
        /// Its permissions.
        mode: u32,
    },
}

/// An entry of a file system that stands for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Node {
    /// A named pipe.
    Pipe,
    /// A character device, by major and minor number.
    Character(u32, u32),
    /// A block device, by major and minor number.
    Block(u32, u32),
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pipe => f.write_str("pipe"),
            Self::Character(major, minor) => write!(f, "character device {major}:{minor}"),
            Self::Block(major, minor) => write!(f, "block device {major}:{minor}"),
        }
    }
}

/// What a search does with hidden folders: those whose names begin with a dot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hidden {
    /// They are passed over.
    PassedOver,
    /// They are searched, but for git's and imgforge's own.
    Shown,
}

/// A tree of files.
pub trait Source: Sync {
    /// The whole content of a file. Links are followed inside the tree.
    fn read(&self, path: &Utf8Path) -> io::Result<Vec<u8>>;
    /// What lies at `path`; a link is a link.
    fn kind(&self, path: &Utf8Path) -> io::Result<Kind>;
    /// The names in a folder, sorted bytewise. A name that is not UTF-8 is an error that shows it.
    fn list(&self, path: &Utf8Path) -> io::Result<Vec<String>>;
    /// Whether git tracks a file, or something in a folder. A git index that cannot be read is an error.
    fn is_tracked(&self, path: &Utf8Path) -> io::Result<bool>;
    /// The hash of a regular file's content.
    fn hash(&self, path: &Utf8Path) -> io::Result<ContentHash>;
    /// Every file below the root whose name is meant, sorted; what git ignores is passed over, and so may be hidden
    /// folders.
    fn find(&self, is_meant: &dyn Fn(&str) -> bool, hidden: Hidden) -> io::Result<Vec<Utf8PathBuf>>;
    /// Where a file is on disk, if it is: so that a large one can be streamed.
    fn disk_path(&self, path: &Utf8Path) -> Option<Utf8PathBuf>;
}

/// The files as they lie in the workspace's folder.
#[derive(Debug)]
pub struct WorkTree {
    root: Utf8PathBuf,
    cache: Option<StatCache>,
    tracked: Tracked,
}

impl WorkTree {
    /// The tree below `root`; every file is read when it is hashed.
    pub fn uncached(root: &Utf8Path) -> Self {
        Self { root: root.to_owned(), cache: None, tracked: Tracked::of(root) }
    }

    /// What git has checked out of a commit below `root`, without a `.git` beside it; every file is read when it is
    /// hashed.
    pub fn checkout(root: &Utf8Path) -> Self {
        Self { root: root.to_owned(), cache: None, tracked: Tracked::all(root) }
    }

    /// The tree below `root`; a file whose size, times and inode are as `state` remembers is not read again.
    pub fn cached(root: &Utf8Path, state: &StateDir) -> Self {
        Self { root: root.to_owned(), cache: Some(StatCache::load(state)), tracked: Tracked::of(root) }
    }

    /// Keeps what was learned for the next run. A cache that cannot be written costs time, nothing else.
    pub fn save_cache(&self) {
        if let Some(cache) = &self.cache {
            cache.save();
        }
    }
}

impl Source for WorkTree {
    fn read(&self, path: &Utf8Path) -> io::Result<Vec<u8>> {
        let end = match follow(self, path)? {
            Led::To(end, _) => end,
            Led::Outside(link) => return Err(leads_outside(&link)),
        };
        file::read(&self.root.join(end), file::MAX_TEXT)
    }

    fn kind(&self, path: &Utf8Path) -> io::Result<Kind> {
        let full = self.root.join(path);
        let meta = fs::symlink_metadata(&full)?;
        let (kind, mode) = (meta.file_type(), meta.mode() & 0o7777);
        let device = || (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        Ok(if kind.is_dir() {
            Kind::Dir { mode }
        } else if kind.is_file() {
            Kind::File { mode, size: meta.len() }
        } else if kind.is_symlink() {
            Kind::Symlink { target: full.read_link_utf8()?.into_string() }
        } else if kind.is_socket() {
            Kind::Socket { mode }
        } else if kind.is_fifo() {
            Kind::Node { node: Node::Pipe, mode }
        } else if kind.is_block_device() {
            Kind::Node { node: Node::Block(device().0, device().1), mode }
        } else {
            Kind::Node { node: Node::Character(device().0, device().1), mode }
        })
    }

    fn is_tracked(&self, path: &Utf8Path) -> io::Result<bool> {
        self.tracked.holds(&self.root.join(path))
    }

    fn list(&self, path: &Utf8Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(path))? {
            let name = entry?.file_name();
            let text = name.to_str().ok_or_else(|| {
                let shown = name.to_string_lossy();
                io::Error::new(io::ErrorKind::InvalidData, format!("the file name {shown:?} is not UTF-8"))
            })?;
            names.push(text.to_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn hash(&self, path: &Utf8Path) -> io::Result<ContentHash> {
        let full = self.root.join(path);
        match &self.cache {
            Some(cache) => cache.hash(path, &full),
            None => hash_file(&full),
        }
    }

    fn find(&self, is_meant: &dyn Fn(&str) -> bool, hidden: Hidden) -> io::Result<Vec<Utf8PathBuf>> {
        let mut found = Vec::new();
        let refused = Arc::new(Mutex::new(None));
        let is_sound = {
            let refused = Arc::clone(&refused);
            move |entry: &ignore::DirEntry| {
                let is_folder = entry.file_type().is_some_and(|kind| kind.is_dir());
                if is_folder && entry.depth() > 0 && OWN_FOLDERS.iter().any(|own| entry.file_name() == *own) {
                    return false;
                }
                let checked = if is_folder { check_ignore_files(entry.path()) } else { Ok(()) };
                let is_sound = checked.is_ok();
                if let Err(error) = checked {
                    refused.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
                is_sound
            }
        };
        // Those of the folders above hold too.
        for folder in self.root.ancestors() {
            check_ignore_files(folder.as_std_path())?;
        }
        let mut walk = ignore::WalkBuilder::new(&self.root);
        let walk = walk.require_git(false).follow_links(false).hidden(hidden == Hidden::PassedOver);
        let walk = walk.filter_entry(is_sound).build();
        for entry in walk {
            let entry = entry.map_err(|error| walk_error(&error))?;
            if entry.file_name().to_str().is_some_and(is_meant)
                && entry.file_type().is_some_and(|kind| !kind.is_dir())
            {
                let path = entry.path().strip_prefix(&self.root).map_err(io::Error::other)?;
                let path = Utf8Path::from_path(path)
                    .ok_or_else(|| io::Error::other(format!("the path {} is not UTF-8", path.display())))?;
                found.push(path.to_owned());
            }
        }
        if let Some(error) = refused.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        found.sort_unstable();
        Ok(found)
    }

    fn disk_path(&self, path: &Utf8Path) -> Option<Utf8PathBuf> {
        Some(self.root.join(path))
    }
}

/// What a path leads to when the links on it are followed.
pub(crate) enum Led {
    /// A path without links, and what lies there.
    To(Utf8PathBuf, Kind),
    /// Out of the tree, by the link at this path (or by the path's own `..`).
    Outside(Utf8PathBuf),
}

/// Follows the links on a path, as a build does in its context: their targets are relative, and stay in the tree.
///
/// # Errors
/// What the system says, and a path through more than [`MAX_LINKS`] links.
pub(crate) fn follow(source: &dyn Source, path: &Utf8Path) -> io::Result<Led> {
    let Some(mut path) = clean(path.as_str()) else { return Ok(Led::Outside(path.to_owned())) };
    for _ in 0..=MAX_LINKS {
        let Some((link, target)) = first_link(source, &path)? else {
            let kind =
                if path.as_str().is_empty() { Kind::Dir { mode: 0o755 } } else { source.kind(&path)? };
            return Ok(Led::To(path, kind));
        };
        let folder = link.parent().unwrap_or(Utf8Path::new(""));
        let rest = path.strip_prefix(&link).unwrap_or(Utf8Path::new(""));
        match clean(folder.join(&target).join(rest).as_str()).filter(|_| !target.starts_with('/')) {
            Some(onward) => path = onward,
            None => return Ok(Led::Outside(link)),
        }
    }
    let message = format!("it leads through more than {MAX_LINKS} links");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// The first component of a path that is a link, with its target.
fn first_link(source: &dyn Source, path: &Utf8Path) -> io::Result<Option<(Utf8PathBuf, String)>> {
    let mut walked = Utf8PathBuf::new();
    for component in path.components() {
        walked.push(component.as_str());
        if let Kind::Symlink { target } = source.kind(&walked)? {
            return Ok(Some((walked, target)));
        }
    }
    Ok(None)
}

fn leads_outside(link: &Utf8Path) -> io::Error {
    let message = format!(
        "the link {link} leads out of the workspace, where nothing is read; put the file itself into the workspace"
    );
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Whether the files that say what is ignored in a folder can be read to their ends: the walk reads them by itself
/// (gitignore(5); gitrepository-layout(5) for a `.git` that is a file).
fn check_ignore_files(folder: &std::path::Path) -> io::Result<()> {
    for name in [".gitignore", ".ignore"] {
        check_ignore_file(&folder.join(name))?;
    }
    let git = folder.join(".git");
    let Ok(found) = fs::metadata(&git) else { return Ok(()) };
    let common = if found.is_dir() {
        git
    } else {
        check_ignore_file(&git)?;
        let Some(repository) =
            first_line(&git).and_then(|line| Some(folder.join(line.strip_prefix("gitdir: ")?)))
        else {
            return Ok(());
        };
        let common = repository.join("commondir");
        check_ignore_file(&common)?;
        repository.join(first_line(&common).unwrap_or_default())
    };
    check_ignore_file(&common.join("info/exclude"))
}

fn check_ignore_file(path: &std::path::Path) -> io::Result<()> {
    let Ok(found) = fs::metadata(path) else { return Ok(()) };
    let message = if !found.is_file() {
        format!("{} is not a file", path.display())
    } else if found.len() > MAX_IGNORE {
        format!("{} is larger than {} MiB, the most that is read of it", path.display(), MAX_IGNORE >> 20)
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

fn first_line(path: &std::path::Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.lines().next()?.to_owned())
}

/// What kept a folder from being searched, with the path said once.
fn walk_error(error: &ignore::Error) -> io::Error {
    match (error, error.io_error()) {
        (ignore::Error::WithPath { path, .. }, Some(cause)) => {
            let why = io::Error::from(cause.kind());
            io::Error::new(
                cause.kind(),
                format!("{}: {why}; what git ignores is not searched", path.display()),
            )
        }
        _ => io::Error::other(error.to_string()),
    }
}

/// Reads the whole file.
pub(crate) fn hash_file(path: &Utf8Path) -> io::Result<ContentHash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs::File::open(path)?)?;
    Ok(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(dir.path().join("workspace")).unwrap();
        fs::create_dir(&root).unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        (dir, root)
    }

    fn link(target: &str, at: Utf8PathBuf) {
        std::os::unix::fs::symlink(target, at).unwrap();
    }

    #[test]
    fn links_are_followed_inside_the_workspace_and_not_out_of_it() {
        let (dir, root) = tree();
        let tree = WorkTree::uncached(&root);
        fs::create_dir_all(root.join("shared/deep")).unwrap();
        fs::write(root.join("shared/file"), "text").unwrap();
        link("shared", root.join("folder"));
        link("../folder/file", root.join("shared/inner"));
        assert_eq!(tree.read("shared/inner".into()).unwrap(), b"text");
        assert_eq!(tree.read("folder/deep/../file".into()).unwrap(), b"text");
        link("../secret", root.join("out"));
        link(dir.path().to_str().unwrap(), root.join("whole"));
        link("..", root.join("up"));
        link("shared/../../secret", root.join("around"));
        for path in ["out", "whole/secret", "up/secret", "around", "../secret"] {
            let refused = tree.read(path.into()).unwrap_err().to_string();
            assert!(refused.contains("out of the workspace"), "{path}: {refused}");
        }
        link("b", root.join("a"));
        link("a", root.join("b"));
        assert!(tree.read("a".into()).unwrap_err().to_string().contains("more than 40 links"));
        assert_eq!(tree.read("nothing".into()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_is_no_file_is_refused_instead_of_waited_for() {
        let (_dir, root) = tree();
        let made = std::process::Command::new("mkfifo").arg(root.join("pipe")).status().unwrap();
        assert!(made.success());
        let refused = WorkTree::uncached(&root).read("pipe".into()).unwrap_err();
        assert!(refused.to_string().contains("not a file"), "{refused}");
    }

    type Plant = fn(&Utf8Path);

    #[test]
    fn endless_files_of_what_is_ignored_end_the_search_with_an_error() {
        let plant: [(&str, Plant); 6] = [
            (".gitignore", |root| link("/dev/zero", root.join(".gitignore"))),
            ("sub/.ignore", |root| link("/dev/zero", root.join("sub/.ignore"))),
            (".git/info/exclude", |root| {
                fs::create_dir_all(root.join(".git/info")).unwrap();
                link("/dev/zero", root.join(".git/info/exclude"));
            }),
            (".git", |root| link("/dev/zero", root.join(".git"))),
            ("evil/commondir", |root| {
                fs::write(root.join(".git"), "gitdir: evil\n").unwrap();
                fs::create_dir(root.join("evil")).unwrap();
                link("/dev/zero", root.join("evil/commondir"));
            }),
            ("sub/.gitignore", |root| {
                fs::File::create(root.join("sub/.gitignore")).unwrap().set_len(MAX_IGNORE + 1).unwrap();
            }),
        ];
        for (name, plant) in plant {
            let (_dir, root) = tree();
            fs::create_dir(root.join("sub")).unwrap();
            plant(&root);
            let refused = WorkTree::uncached(&root)
                .find(&|name| name == "image.kdl", Hidden::PassedOver)
                .unwrap_err()
                .to_string();
            assert!(refused.contains(name), "{name}: {refused}");
        }
        let (dir, root) = tree();
        link("/dev/zero", Utf8PathBuf::from_path_buf(dir.path().join(".gitignore")).unwrap());
        assert!(
            WorkTree::uncached(&root).find(&|name| name == "image.kdl", Hidden::PassedOver).is_err(),
            "those above hold too"
        );
    }
}
