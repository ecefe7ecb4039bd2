//! Mount points that a file system does not have: they are made before a command runs and taken away after it, so that
//! a layer does not tell of them.
//!
//! The rules are BuildKit's (`executor/stubs.go`): what is still empty afterwards goes, and the times of the folder
//! that held it stay. Beyond that, folders that were only copied up to hold a mount point are taken out of the upper
//! folder, where nothing else has changed them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use camino::Utf8Path;
use imgforge_core::links::{Entry, Last, Scope, follow};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::place::open_in_root;
use crate::node::link_target;

/// The mount points that were made, and the folders that were copied up for them.
#[derive(Debug)]
pub struct Stubs {
    root: OwnedFd,
    /// In the order in which they were made; without links.
    made: Vec<PathBuf>,
    /// Folders as they were before something was made in them, the deepest last.
    lifted: Vec<(PathBuf, Stat)>,
}

impl Stubs {
    /// Begins with a mounted file system.
    ///
    /// # Errors
    /// Returns an error when it cannot be opened.
    pub fn new(root: &Utf8Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root.as_std_path(), flags, Mode::empty())?;
        Ok(Self { root, made: Vec::new(), lifted: Vec::new() })
    }

    /// Makes a mount point where there is none: a folder, or an empty file.
    ///
    /// # Errors
    /// A path that leads through a file, or too many links.
    pub fn make(&mut self, path: &str, is_folder: bool) -> io::Result<()> {
        let resolved = resolve(self.root.as_fd(), Path::new(path))?;
        let names: Vec<OsString> = resolved.iter().map(OsString::from).collect();
        let mut done = PathBuf::new();
        for (index, name) in names.iter().enumerate() {
            let parent_path = done.clone();
            done.push(name);
            if exists(self.root.as_fd(), &done)? {
                continue;
            }
            let parent = open_folder(self.root.as_fd(), &parent_path)?;
            self.remember(&parent_path)?;
            let before = rustix::fs::fstat(&parent)?;
            let is_last = index + 1 == names.len();
            if is_last && !is_folder {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?;
            } else {
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
            }
            set_mtime(parent.as_fd(), &before)?;
            self.made.push(done.clone());
        }
        Ok(())
    }

    /// Remembers a folder and those above it that were there before.
    fn remember(&mut self, folder: &Path) -> io::Result<()> {
        let mut path = PathBuf::new();
        for name in folder {
            path.push(name);
            if self.made.contains(&path) || self.lifted.iter().any(|(known, _)| *known == path) {
                continue;
            }
            let fd = open_folder(self.root.as_fd(), &path)?;
            self.lifted.push((path.clone(), rustix::fs::fstat(&fd)?));
        }
        Ok(())
    }

    /// Takes away what is still empty. The file system is still mounted.
    pub fn remove(&self) -> io::Result<()> {
        for path in self.made.iter().rev() {
            let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else { continue };
            // The command may have removed it, or put something in its place.
            let Ok(parent) = open_folder(self.root.as_fd(), parent) else { continue };
            let Ok(stat) = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let before = rustix::fs::fstat(&parent)?;
            let flags = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => AtFlags::REMOVEDIR,
                FileType::RegularFile if stat.st_size == 0 => AtFlags::empty(),
                _ => continue,
            };
            match rustix::fs::unlinkat(&parent, name, flags) {
                Ok(()) => set_mtime(parent.as_fd(), &before)?,
                Err(Errno::NOTEMPTY) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes folders out of the upper folder that nothing but a mount point has brought there. It is not mounted any
    /// more.
    ///
    /// # Errors
    /// Returns an error when the disk fails.
    pub fn settle(&self, upper: &Utf8Path) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let upper = rustix::fs::open(upper.as_std_path(), flags, Mode::empty())?;
        // Deepest first; the order of the list has every folder after the one that holds it.
        for (path, before) in self.lifted.iter().rev() {
            let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else { continue };
            let Ok(parent) = open_folder(upper.as_fd(), parent) else { continue };
            let Ok(folder) = open_folder(upper.as_fd(), path) else { continue };
            let now = rustix::fs::fstat(&folder)?;
            let same = (now.st_mode, now.st_uid, now.st_gid, now.st_mtime, now.st_mtime_nsec)
                == (before.st_mode, before.st_uid, before.st_gid, before.st_mtime, before.st_mtime_nsec);
            if !same || is_opaque(folder.as_fd()) {
                continue;
            }
            let held = rustix::fs::fstat(&parent)?;
            match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
                Ok(()) => set_mtime(parent.as_fd(), &held)?,
                Err(Errno::NOTEMPTY) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Returns whether an upper folder hides what is below it.
fn is_opaque(folder: BorrowedFd<'_>) -> bool {
    let mut value = [0; 4];
    rustix::fs::fgetxattr(folder, "user.overlay.opaque", &mut value[..]).is_ok()
}

/// A path without links; what does not exist stays as it is. It never leads out of `root`.
///
/// # Errors
/// Too many links, a path that goes through a file.
pub(crate) fn resolve(root: BorrowedFd<'_>, path: &Path) -> io::Result<PathBuf> {
    let led = follow(path, Scope::InRoot, Last::Followed, |at| {
        let fd = match open_any(root, at) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(Entry::Missing),
            Err(error) => return Err(io::Error::from(error)),
        };
        Ok(match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
            FileType::Directory => Entry::Folder,
            FileType::Symlink => Entry::Link(link_target(fd.as_fd(), OsStr::new(""))?),
            _ => Entry::File,
        })
    })?;
    Ok(led?)
}

fn open_any(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    open_in_root(root, path, OFlags::PATH | OFlags::NOFOLLOW)
}

fn stat(root: BorrowedFd<'_>, path: &Path) -> Result<Stat, Errno> {
    rustix::fs::fstat(open_any(root, path)?)
}

fn exists(root: BorrowedFd<'_>, path: &Path) -> io::Result<bool> {
    match stat(root, path) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens a folder whose path has no links.
fn open_folder(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve).map_err(|error| {
        io::Error::new(io::Error::from(error).kind(), format!("/{}: {error}", path.display()))
    })
}

fn set_mtime(folder: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    let of = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    let times = Timestamps {
        last_access: of(stat.st_atime, stat.st_atime_nsec),
        last_modification: of(stat.st_mtime, stat.st_mtime_nsec),
    };
    Ok(rustix::fs::futimens(folder, &times)?)
}
