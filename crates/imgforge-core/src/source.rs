//! Where files come from: the work tree now, a git revision later. All paths are relative to the workspace root.
//!
//! A workspace may be somebody else's. So one rule holds for whatever is read of it: links are followed inside of it,
//! as in a build's context; one that leads out of it, a device, a pipe, and what is larger than any such file are
//! errors.

#[cfg(test)]
pub(crate) mod memory;

use std::fmt;
use std::io;
use std::path::PathBuf;

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::links::{self, Entry, Last, Refused, Scope};

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

/// What a path leads to when the links on it are followed.
#[derive(Debug)]
pub enum Led {
    /// A path without links, and what lies there.
    To(Utf8PathBuf, Kind),
    /// Out of the tree, by the link at this path (or by the path's own `..`).
    Outside(Utf8PathBuf),
}

/// Follows the links on a path, as a build does in its context: their targets are relative, and stay in the tree.
///
/// # Errors
/// What the system says, and a path through more than [`links::MAX_LINKS`] links or through what is no folder.
pub fn follow(source: &dyn Source, path: &Utf8Path) -> io::Result<Led> {
    let Some(path) = clean(path.as_str()) else { return Ok(Led::Outside(path.to_owned())) };
    let led = follow_beneath(&path, |at| source.kind(at))?;
    match led {
        Ok(end) => {
            let is_root = end.as_str().is_empty();
            let kind = if is_root { Kind::Dir { mode: 0o755 } } else { source.kind(&end)? };
            Ok(Led::To(end, kind))
        }
        Err(Refused::Outside { link, .. }) => Ok(Led::Outside(utf8(link))),
        Err(refused) => Err(refused.into()),
    }
}

/// Follows the links on a path that is [clean], none of which may lead out of the tree. The outer error is that of
/// `kind`.
pub(crate) fn follow_beneath<E>(
    path: &Utf8Path,
    mut kind: impl FnMut(&Utf8Path) -> Result<Kind, E>,
) -> Result<Result<Utf8PathBuf, Refused>, E> {
    let led = links::follow(path.as_std_path(), Scope::Beneath, Last::Followed, |at| {
        Ok(match kind(&utf8(at.to_owned()))? {
            Kind::Dir { .. } => Entry::Folder,
            Kind::Symlink { target } => Entry::Link(target.into()),
            Kind::File { .. } | Kind::Socket { .. } | Kind::Node { .. } => Entry::File,
        })
    })?;
    Ok(led.map(utf8))
}

fn utf8(path: PathBuf) -> Utf8PathBuf {
    Utf8PathBuf::from_path_buf(path).expect("it is made of a path and targets that are UTF-8")
}

/// Returns the error of a path that a link leads out of the tree.
pub fn leads_outside(link: &Utf8Path) -> io::Error {
    let message = format!(
        "the link {link} leads out of the workspace, where nothing is read; put the file itself into the workspace"
    );
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Returns a path without `.`, `..` and leading `/`; `None` when it leads out of the tree.
pub fn clean(path: &str) -> Option<Utf8PathBuf> {
    let mut out = Utf8PathBuf::new();
    for component in Utf8Path::new(path).components() {
        match component {
            Utf8Component::Normal(name) => out.push(name),
            Utf8Component::ParentDir => {
                if !out.pop() {
                    return None;
                }
            }
            Utf8Component::CurDir | Utf8Component::RootDir | Utf8Component::Prefix(_) => {}
        }
    }
    Some(out)
}
