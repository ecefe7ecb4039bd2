//! Paths in unpacked layers that lie on one another, without a mount.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use camino::Utf8PathBuf;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{is_opaque, is_whiteout};
use crate::node::{BENEATH, open_folder_at};

/// Unpacked layers.
pub(super) struct Stack {
    /// Topmost first.
    layers: Vec<OwnedFd>,
}

/// The file that a stack has at a path.
pub(super) struct Found {
    /// The folder that it is in; itself for the root.
    pub(super) folder: OwnedFd,
    /// Its name there; `.` for the root.
    pub(super) name: std::ffi::OsString,
    /// Its metadata.
    pub(super) stat: Stat,
}

impl Found {
    /// Returns the kind of the file.
    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Opens it: a file or a folder.
    pub(super) fn open(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(rustix::fs::openat2(&self.folder, &self.name, flags, Mode::empty(), BENEATH)?)
    }
}

impl Stack {
    /// Opens the folders of layers, lowest first.
    pub(super) fn open(layers: &[Utf8PathBuf]) -> io::Result<Self> {
        let open = |path: &Utf8PathBuf| {
            open_folder(path.as_std_path())
                .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
        };
        Ok(Self { layers: layers.iter().rev().map(open).collect::<io::Result<_>>()? })
    }

    /// Finds the file at a relative path without `..`: the topmost layer that says something about it decides, as in
    /// overlay.
    pub(super) fn find(&self, path: &Path) -> io::Result<Option<Found>> {
        for layer in &self.layers {
            match look(layer, path)? {
                Answer::There(found) => return Ok(Some(found)),
                Answer::Gone => return Ok(None),
                Answer::Unknown => {}
            }
        }
        Ok(None)
    }
}

/// The answer of one layer about a path.
enum Answer {
    There(Found),
    /// It hides what layers below may have.
    Gone,
    Unknown,
}

fn look(layer: &OwnedFd, path: &Path) -> io::Result<Answer> {
    let mut folder = layer.try_clone()?;
    let mut unknown = Answer::Unknown;
    let mut names = path.components().peekable();
    if names.peek().is_none() {
        let stat = rustix::fs::fstat(&folder)?;
        return Ok(Answer::There(Found { folder, name: ".".into(), stat }));
    }
    while let Some(name) = names.next() {
        let name: &OsStr = name.as_os_str();
        let stat = match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(unknown),
            Err(error) => return Err(error.into()),
        };
        if is_whiteout(&stat) {
            return Ok(Answer::Gone);
        }
        if names.peek().is_none() {
            return Ok(Answer::There(Found { folder, name: name.to_owned(), stat }));
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(Answer::Gone);
        }
        folder = open_folder_at(&folder, Path::new(name))?;
        if is_opaque(&folder)? {
            unknown = Answer::Gone;
        }
    }
    Ok(unknown)
}

/// Opens a folder.
pub(super) fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}
