//! Where files come from: the work tree now, a git revision later. All paths are relative to the workspace root.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::stat_cache::StatCache;
use crate::state::StateDir;

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
    Dir,
    /// A regular file.
    File {
        /// Whether its owner may execute it: the one bit of its mode that counts.
        executable: bool,
        /// Its size in bytes.
        size: u64,
    },
    /// A symbolic link, with its target as written.
    Symlink {
        /// The target.
        target: String,
    },
    /// A device, a socket or a named pipe.
    Special,
}

/// A tree of files.
pub trait Source: Sync {
    /// The whole content of a file. Links are followed.
    fn read(&self, path: &Utf8Path) -> io::Result<Vec<u8>>;
    /// What lies at `path`; a link is a link.
    fn kind(&self, path: &Utf8Path) -> io::Result<Kind>;
    /// The names in a folder, sorted bytewise. A name that is not UTF-8 is an error that shows it.
    fn list(&self, path: &Utf8Path) -> io::Result<Vec<String>>;
    /// The hash of a regular file's content.
    fn hash(&self, path: &Utf8Path) -> io::Result<ContentHash>;
    /// Every file called `name` below the root, sorted; what git ignores and hidden folders are passed over.
    fn find(&self, name: &str) -> io::Result<Vec<Utf8PathBuf>>;
    /// Where a file is on disk, if it is: so that a large one can be streamed.
    fn disk_path(&self, path: &Utf8Path) -> Option<Utf8PathBuf>;
}

/// The files as they lie in the workspace's folder.
#[derive(Debug)]
pub struct WorkTree {
    root: Utf8PathBuf,
    cache: Option<StatCache>,
}

impl WorkTree {
    /// The tree below `root`; every file is read when it is hashed.
    pub fn uncached(root: &Utf8Path) -> Self {
        Self { root: root.to_owned(), cache: None }
    }

    /// The tree below `root`; a file whose size, times and inode are as `state` remembers is not read again.
    pub fn cached(root: &Utf8Path, state: &StateDir) -> Self {
        Self { root: root.to_owned(), cache: Some(StatCache::load(state)) }
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
        let full = self.root.join(path);
        // Opening a named pipe would wait for ever.
        if !fs::metadata(&full)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        fs::read(full)
    }

    fn kind(&self, path: &Utf8Path) -> io::Result<Kind> {
        let full = self.root.join(path);
        let meta = fs::symlink_metadata(&full)?;
        let kind = meta.file_type();
        Ok(if kind.is_dir() {
            Kind::Dir
        } else if kind.is_file() {
            Kind::File { executable: meta.permissions().mode() & 0o100 != 0, size: meta.len() }
        } else if kind.is_symlink() {
            Kind::Symlink { target: full.read_link_utf8()?.into_string() }
        } else {
            Kind::Special
        })
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

    fn find(&self, name: &str) -> io::Result<Vec<Utf8PathBuf>> {
        let mut found = Vec::new();
        let walk = ignore::WalkBuilder::new(&self.root).require_git(false).follow_links(false).build();
        for entry in walk {
            let entry = entry.map_err(|error| walk_error(&error))?;
            if entry.file_name() == name && entry.file_type().is_some_and(|kind| !kind.is_dir()) {
                let path = entry.path().strip_prefix(&self.root).map_err(io::Error::other)?;
                let path = Utf8Path::from_path(path)
                    .ok_or_else(|| io::Error::other(format!("the path {} is not UTF-8", path.display())))?;
                found.push(path.to_owned());
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    fn disk_path(&self, path: &Utf8Path) -> Option<Utf8PathBuf> {
        Some(self.root.join(path))
    }
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

    #[test]
    fn a_named_pipe_is_refused_instead_of_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        let made = std::process::Command::new("mkfifo").arg(root.join("pipe")).status().unwrap();
        assert!(made.success());
        let refused = WorkTree::uncached(root).read("pipe".into()).unwrap_err();
        assert!(refused.to_string().contains("not a regular file"), "{refused}");
    }
}
