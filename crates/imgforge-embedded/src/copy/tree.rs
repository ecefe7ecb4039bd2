//! Where files are copied from: unpacked layers behind a mount, or a build context. Paths are relative to the tree's
//! root; links in them are followed inside it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use camino::Utf8Path;
use imgforge_core::glob::matches;
use imgforge_core::links::{Entry, Last, Scope, follow};
use imgforge_core::source::Node;
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::node::{self, Attribute};
use crate::worker::message::{Content, ContextEntry, ContextKind};

/// The metadata of a path.
#[derive(Debug, Clone)]
pub(super) struct Meta {
    pub(super) kind: FileType,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, i64),
    pub(super) rdev: u64,
    /// Device and inode of a file with more than one name.
    pub(super) linked: Option<(u64, u64)>,
}

/// Files that can be read.
pub(super) enum Source<'a> {
    /// A folder of this machine.
    Disk(OwnedFd),
    /// The entries of a context by their paths.
    Context { entries: BTreeMap<&'a Path, &'a ContextEntry>, time: i64 },
}

impl<'a> Source<'a> {
    pub(super) fn disk(folder: &Utf8Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self::Disk(rustix::fs::open(folder.as_std_path(), flags, Mode::empty())?))
    }

    pub(super) fn context(entries: &'a [ContextEntry], time: i64) -> Self {
        let entries = entries.iter().map(|entry| (Path::new(entry.path.as_str()), entry)).collect();
        Self::Context { entries, time }
    }

    /// Returns the metadata of a path; a link at its end is not followed.
    pub(super) fn meta(&self, path: &Path) -> io::Result<Meta> {
        match self {
            Self::Disk(root) => {
                let fd = open_in(root.as_fd(), path, OFlags::PATH | OFlags::NOFOLLOW)?;
                let stat = rustix::fs::fstat(&fd)?;
                let kind = FileType::from_raw_mode(stat.st_mode);
                let linked =
                    (kind != FileType::Directory && stat.st_nlink > 1).then_some((stat.st_dev, stat.st_ino));
                Ok(Meta {
                    kind,
                    mode: stat.st_mode & 0o7777,
                    uid: stat.st_uid,
                    gid: stat.st_gid,
                    mtime: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
                    rdev: stat.st_rdev,
                    linked,
                })
            }
            Self::Context { entries, time } => {
                let mut rdev = 0;
                let (kind, mode) = match entries.get(path).map(|entry| &entry.kind) {
                    Some(ContextKind::Folder { mode }) => (FileType::Directory, *mode),
                    Some(ContextKind::File { mode, .. }) => (FileType::RegularFile, *mode),
                    Some(ContextKind::Link { .. }) => (FileType::Symlink, 0o777),
                    Some(ContextKind::Node { node, mode }) => {
                        let kind;
                        (kind, rdev) = match *node {
                            Node::Pipe => (FileType::Fifo, 0),
                            Node::Character(major, minor) => {
                                (FileType::CharacterDevice, rustix::fs::makedev(major, minor))
                            }
                            Node::Block(major, minor) => {
                                (FileType::BlockDevice, rustix::fs::makedev(major, minor))
                            }
                        };
                        (kind, *mode)
                    }
                    None if path.as_os_str().is_empty() => (FileType::Directory, 0o755),
                    None => return Err(Errno::NOENT.into()),
                };
                Ok(Meta { kind, mode, uid: 0, gid: 0, mtime: (*time, 0), rdev, linked: None })
            }
        }
    }

    /// The names in a folder, sorted.
    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        match self {
            Self::Disk(root) => {
                let fd = open_in(root.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)?;
                for entry in Dir::read_from(fd)? {
                    let entry = entry?;
                    let name = entry.file_name().to_bytes();
                    if name != b"." && name != b".." {
                        names.push(OsString::from_vec(name.to_vec()));
                    }
                }
            }
            Self::Context { entries, .. } => {
                let below = entries.range(path..).map(|(path, _)| path);
                for entry in below.skip_while(|entry| **entry == path).take_while(|p| p.starts_with(path)) {
                    if entry.parent() == Some(path) {
                        names.extend(entry.file_name().map(OsStr::to_owned));
                    }
                }
            }
        }
        names.sort();
        Ok(names)
    }

    /// Returns the target of a link.
    pub(super) fn link(&self, path: &Path) -> io::Result<OsString> {
        match self {
            Self::Disk(root) => {
                let fd = open_in(root.as_fd(), path, OFlags::PATH | OFlags::NOFOLLOW)?;
                Ok(OsString::from_vec(rustix::fs::readlinkat(&fd, "", Vec::new())?.into_bytes()))
            }
            Self::Context { entries, .. } => match entries.get(path).map(|entry| &entry.kind) {
                Some(ContextKind::Link { target }) => Ok(target.into()),
                _ => Err(Errno::INVAL.into()),
            },
        }
    }

    /// Opens a regular file.
    pub(super) fn open(&self, path: &Path) -> io::Result<Reader> {
        match self {
            Self::Disk(root) => {
                Ok(Reader::plain(File::from(open_in(root.as_fd(), path, OFlags::RDONLY | OFlags::NOFOLLOW)?)))
            }
            Self::Context { entries, .. } => match entries.get(path).map(|entry| &entry.kind) {
                Some(ContextKind::File { content, .. }) => Reader::of(content),
                _ => Err(Errno::NOENT.into()),
            },
        }
    }

    /// The extended attributes of a file or a folder that a layer keeps.
    pub(super) fn attributes(&self, path: &Path) -> io::Result<Vec<Attribute>> {
        let Self::Disk(root) = self else { return Ok(Vec::new()) };
        node::attributes(open_in(root.as_fd(), path, OFlags::RDONLY | OFlags::NOFOLLOW)?)
    }

    /// A path with all links in it followed; what is missing at its end stays as it is. A slash behind a file's name
    /// means nothing, as in a Dockerfile.
    pub(super) fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let path: PathBuf = path.components().collect();
        let led: io::Result<_> =
            follow(&path, Scope::InRoot, Last::Followed, |at| match self.meta(at).map(|meta| meta.kind) {
                Ok(FileType::Symlink) => Ok(Entry::Link(self.link(at)?.into())),
                Ok(FileType::Directory) => Ok(Entry::Folder),
                Ok(_) => Ok(Entry::File),
                Err(_) => Ok(Entry::Missing),
            });
        Ok(led??)
    }

    /// The paths that a pattern of COPY means, sorted; the pattern's own path when it has no wildcard.
    ///
    /// As BuildKit does it: links are followed before the first wildcard only.
    pub(super) fn glob(&self, pattern: &str) -> io::Result<Vec<PathBuf>> {
        let parts: Vec<&str> = pattern.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        let plain = parts.iter().take_while(|part| !part.contains(['*', '?', '[', '\\'])).count();
        let start: PathBuf = parts[..plain].iter().collect();
        if plain == parts.len() {
            return Ok(vec![start]);
        }
        let mut found = vec![self.resolve(&start)?];
        for part in &parts[plain..] {
            let mut next = Vec::new();
            for folder in found {
                if !self.meta(&folder).is_ok_and(|meta| meta.kind == FileType::Directory) {
                    continue;
                }
                for name in self.list(&folder)? {
                    if matches(part, &name.to_string_lossy()) {
                        next.push(folder.join(name));
                    }
                }
            }
            found = next;
        }
        Ok(found)
    }
}

/// The names in a path, `..` included.
pub(super) fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}

/// Opens a path below `root`, whose links lead nowhere outside it.
pub(super) fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let fd = rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)?;
    Ok(fd)
}

/// Reads a file's bytes, and knows at their end whether they are those that were meant.
pub(super) struct Reader {
    inner: Inner,
    expected: Option<(blake3::Hash, blake3::Hasher, String)>,
}

enum Inner {
    File(File),
    Bytes(io::Cursor<Vec<u8>>),
}

impl Reader {
    fn plain(file: File) -> Self {
        Self { inner: Inner::File(file), expected: None }
    }

    /// Opens the bytes of a file.
    pub(super) fn of(content: &Content) -> io::Result<Self> {
        match content {
            Content::Bytes(bytes) => {
                Ok(Self { inner: Inner::Bytes(io::Cursor::new(bytes.clone())), expected: None })
            }
            Content::File { path, blake3 } => {
                let file = File::open(path).map_err(|error| with_path(&error, path.as_str()))?;
                let hash = blake3.as_deref().map(blake3::Hash::from_hex).transpose();
                let hash = hash.map_err(|error| io::Error::other(format!("{path}: {error}")))?;
                let expected = hash.map(|hash| (hash, blake3::Hasher::new(), path.to_string()));
                Ok(Self { inner: Inner::File(file), expected })
            }
        }
    }

    /// The file itself, where nobody has to look at its bytes.
    pub(super) fn file(&self) -> Option<&File> {
        match (&self.inner, &self.expected) {
            (Inner::File(file), None) => Some(file),
            _ => None,
        }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.inner {
            Inner::File(file) => file.read(buffer)?,
            Inner::Bytes(bytes) => bytes.read(buffer)?,
        };
        if let Some((hash, hasher, path)) = &mut self.expected {
            hasher.update(&buffer[..read]);
            if read == 0 && !buffer.is_empty() && hasher.finalize() != *hash {
                return Err(io::Error::other(format!("{path} has changed since it was hashed; build again")));
            }
        }
        Ok(read)
    }
}

/// An error that says where.
pub(super) fn with_path(error: &io::Error, path: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}
