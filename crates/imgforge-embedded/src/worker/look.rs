//! Looks at what is in a stack of layers.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::message::{Entry, EntryKind, Look};
use crate::sandbox::open_in_root;
use crate::sandbox::overlay::Overlay;

pub(super) fn look(look: &Look, folder: &Utf8Path) -> io::Result<Vec<Option<Entry>>> {
    let overlay = Overlay::read_only(&look.stack, folder)?;
    let root = open(overlay.root())?;
    look.paths.iter().map(|path| entry(root.as_fd(), path, look.follow)).collect()
}

pub(super) fn walk(stack: &[Utf8PathBuf], folder: &Utf8Path) -> io::Result<Vec<(String, Entry)>> {
    let overlay = Overlay::read_only(stack, folder)?;
    all(open(overlay.root())?)
}

pub(super) fn open(root: &Utf8Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(root.as_std_path(), flags, Mode::empty())?)
}

/// Returns the entry at a path, with a file's content.
pub(super) fn entry(root: BorrowedFd<'_>, path: &str, follow: bool) -> io::Result<Option<Entry>> {
    let flags = OFlags::PATH | if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    let fd = match open_in_root(root, Path::new(path), flags) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(io::Error::from(error)),
    };
    let stat = rustix::fs::fstat(&fd)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            // The same inode, whatever is at the path by now.
            let mut file = std::fs::File::open(crate::sandbox::own(&fd))?;
            let mut content = Vec::new();
            file.read_to_end(&mut content)?;
            EntryKind::File(content)
        }
        _ => kind(fd.as_fd(), OsStr::new(""), &stat)?,
    };
    Ok(Some(of(kind, &stat)))
}

/// Everything below a folder, depth first, by its absolute path there.
pub(super) fn all(root: OwnedFd) -> io::Result<Vec<(String, Entry)>> {
    let mut found = Vec::new();
    below(root.as_fd(), &PathBuf::from("/"), &mut found)?;
    Ok(found)
}

fn below(folder: BorrowedFd<'_>, path: &Path, found: &mut Vec<(String, Entry)>) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    for name in names {
        let name = OsStr::from_bytes(name.to_bytes());
        let stat = rustix::fs::statat(folder, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        let path = path.join(name);
        let kind = kind(folder, name, &stat)?;
        found.push((path.to_string_lossy().into_owned(), of(kind, &stat)));
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = rustix::fs::openat(folder, name, flags, Mode::empty())?;
            below(inner.as_fd(), &path, found)?;
        }
    }
    Ok(())
}

/// Returns the kind of a path, without a file's content.
fn kind(folder: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> io::Result<EntryKind> {
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File(Vec::new()),
        FileType::Directory => EntryKind::Folder,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(folder, name, Vec::new())?;
            EntryKind::Link(target.to_string_lossy().into_owned())
        }
        _ => EntryKind::Other,
    })
}

fn of(kind: EntryKind, stat: &Stat) -> Entry {
    Entry { kind, mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid }
}
