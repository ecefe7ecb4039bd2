//! The files of a build as a daemon gets them: exactly the listed ones, each hashed while it is read, so that what an
//! image is made of is what its fingerprint says.
//!
//! Nothing that is sent depends on the machine: files are sorted, owners are 0, modes are those of the list, times
//! are the first second of 1970. Within that second, the nanoseconds stand for the content: a daemon that has kept
//! the files of an earlier build compares sizes and times to see which it lacks, and with one time for all it would
//! take a changed file of the same size for the old one. Image layers hold whole seconds, so that no image shows
//! them. (Two contents of one size have the same mark once in 10⁹ times.) The times of folders are the daemon's
//! affair: those of 20.10 leave them at the moment of the transfer.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::context::{
    ContextEntry, EntryKind, FOLDER, Origin, SuppliedContent, SuppliedFile, generated_mode,
};
use imgforge_core::source::{ContentHash, Node};

use crate::BuildError;

/// The number of bytes that are sent at once.
const CHUNK: usize = 64 * 1024;

/// A folder as it is offered to a daemon, parents before what lies in them.
#[derive(Debug)]
pub(crate) struct Folder {
    /// In the order of a walk: that of paths compared by component.
    pub(crate) items: Vec<Item>,
}

/// One path in a folder.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Relative to the folder.
    pub(crate) path: Utf8PathBuf,
    /// The content of the path.
    pub(crate) content: Content,
}

/// The content of one path.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// A folder.
    Dir {
        /// Its permissions, with setuid, setgid and sticky bits.
        mode: u32,
    },
    /// A symbolic link with its target.
    Symlink(String),
    /// A named pipe or a device.
    Node {
        /// Which.
        node: Node,
        /// Its permissions.
        mode: u32,
    },
    /// A regular file.
    File {
        /// In bytes.
        size: u64,
        /// Its permissions, with setuid, setgid and sticky bits.
        mode: u32,
        /// Stands for the content, below 10⁹.
        mark: u32,
        /// The place of the bytes.
        stored: Stored,
    },
}

/// The place of a file's bytes.
#[derive(Debug, Clone)]
pub(crate) enum Stored {
    /// Here.
    Memory(Bytes),
    /// On disk; with a hash where it is known.
    Disk(Utf8PathBuf, Option<ContentHash>),
}

impl Folder {
    /// The context of a build. Blocks: supplied files are looked at.
    ///
    /// # Errors
    /// [`BuildError::Unreadable`] for a supplied file that is not there.
    pub(crate) fn context(
        root: &Utf8Path,
        entries: Vec<ContextEntry>,
        supplied: Vec<SuppliedFile>,
    ) -> Result<Self, BuildError> {
        let mut items = BTreeMap::new();
        for entry in entries {
            let content = match entry.kind {
                EntryKind::Dir { mode } => Content::Dir { mode },
                EntryKind::Symlink { target } => Content::Symlink(target),
                EntryKind::Node { node, mode } => Content::Node { node, mode },
                EntryKind::File { hash, size, mode, origin } => {
                    let stored = match origin {
                        Origin::Source(path) => Stored::Disk(root.join(path), Some(hash)),
                        Origin::Generated(bytes) => Stored::Memory(Bytes::from_owner(bytes)),
                    };
                    Content::File { size, mode, mark: mark(hash.to_string().as_bytes()), stored }
                }
            };
            add(&mut items, entry.path, content);
        }
        for file in supplied {
            let mode = generated_mode(file.executable);
            let content = match file.content {
                SuppliedContent::Bytes(bytes) => in_memory(bytes.into(), mode),
                SuppliedContent::File(disk) => supplied_on_disk(&file.path, disk, mode)?,
            };
            add(&mut items, file.path, content);
        }
        Ok(Self { items: items.into_iter().map(|(path, content)| Item { path, content }).collect() })
    }

    /// The same without all but one path at the top.
    pub(crate) fn only(&self, path: &str) -> Self {
        Self { items: self.items.iter().filter(|item| item.path == path).cloned().collect() }
    }

    /// A folder with files in memory.
    pub(crate) fn in_memory<const N: usize>(files: [(&str, Bytes); N]) -> Self {
        let mut items = BTreeMap::new();
        for (path, bytes) in files {
            add(&mut items, path.into(), in_memory(bytes, generated_mode(false)));
        }
        Self { items: items.into_iter().map(|(path, content)| Item { path, content }).collect() }
    }
}

/// Adds a path and the folders that it lies in.
fn add(items: &mut BTreeMap<Utf8PathBuf, Content>, path: Utf8PathBuf, content: Content) {
    for parent in path.ancestors().skip(1).filter(|parent| !parent.as_str().is_empty()) {
        items.entry(parent.to_owned()).or_insert(Content::Dir { mode: FOLDER });
    }
    items.insert(path, content);
}

fn in_memory(bytes: Bytes, mode: u32) -> Content {
    Content::File { size: bytes.len() as u64, mode, mark: mark(&bytes), stored: Stored::Memory(bytes) }
}

/// A file that nobody changes under its name; should it have been made anew, its time says so.
fn supplied_on_disk(path: &Utf8Path, disk: Utf8PathBuf, mode: u32) -> Result<Content, BuildError> {
    let unreadable =
        |error: io::Error| BuildError::Unreadable { path: path.to_owned(), message: error.to_string() };
    let metadata = std::fs::symlink_metadata(&disk).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(io::Error::other("it is no regular file")));
    }
    let made = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let made = made.map_or(0, |made| made.as_nanos());
    let mark = mark(&[disk.as_str().as_bytes(), &made.to_le_bytes()].concat());
    Ok(Content::File { size: metadata.len(), mode, mark, stored: Stored::Disk(disk, None) })
}

fn mark(bytes: &[u8]) -> u32 {
    let hash = blake3::hash(bytes);
    let (first, _) = hash.as_bytes().split_first_chunk().expect("a hash is longer than 8 bytes");
    u32::try_from(u64::from_le_bytes(*first) % 1_000_000_000).expect("10⁹ is below 2³²")
}

impl Item {
    /// Reads a file and gives its bytes to `take`, piece by piece, until that says that it wants no more. Blocks. What
    /// is no file gives nothing.
    ///
    /// # Errors
    /// [`BuildError::ContextChanged`] and [`BuildError::Unreadable`]; what was given before is then not to be used.
    pub(crate) fn read(&self, mut take: impl FnMut(Bytes) -> bool) -> Result<(), BuildError> {
        let Content::File { size, stored, .. } = &self.content else { return Ok(()) };
        match stored {
            Stored::Memory(bytes) => {
                let mut rest = bytes.clone();
                while !rest.is_empty() && take(rest.split_to(CHUNK.min(rest.len()))) {}
                Ok(())
            }
            Stored::Disk(disk, hash) => {
                read_disk(disk, *size, *hash, take).map_err(|error| self.refuse(&error))
            }
        }
    }

    fn refuse(&self, error: &io::Error) -> BuildError {
        let path = self.path.clone();
        match error.kind() {
            io::ErrorKind::InvalidData => BuildError::ContextChanged { path },
            _ => BuildError::Unreadable { path, message: error.to_string() },
        }
    }
}

/// Gives exactly `size` bytes with the hash, or fails; a failure of the kind `InvalidData` means "not what it was".
fn read_disk(
    path: &Utf8Path,
    size: u64,
    hash: Option<ContentHash>,
    mut take: impl FnMut(Bytes) -> bool,
) -> io::Result<()> {
    let (mut file, mut left, mut hasher) = (open(path, size)?, size, blake3::Hasher::new());
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        // One byte more than is expected, to learn that a file has grown.
        let wanted = left.saturating_add(1).min(CHUNK as u64);
        if file.by_ref().take(wanted).read_to_end(&mut chunk)? == 0 {
            let is_same = left == 0 && hash.is_none_or(|hash| hash == hasher.finalize().into());
            return if is_same { Ok(()) } else { Err(changed()) };
        }
        left = left.checked_sub(chunk.len() as u64).ok_or_else(changed)?;
        if hash.is_some() {
            hasher.update(&chunk);
        }
        if !take(chunk.into()) {
            return Ok(());
        }
    }
}

/// Opens a regular file of `size` bytes. Another size means that it changed, and so does its absence.
fn open(path: &Utf8Path, size: u64) -> io::Result<File> {
    let is_changed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => changed(),
        _ => error,
    };
    let is_it = |metadata: &Metadata| metadata.is_file() && metadata.len() == size;
    // Looked at before it is opened: opening a named pipe would wait for ever.
    if !is_it(&std::fs::symlink_metadata(path).map_err(is_changed)?) {
        return Err(changed());
    }
    File::open(path).map_err(is_changed)
}

fn changed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "changed")
}
