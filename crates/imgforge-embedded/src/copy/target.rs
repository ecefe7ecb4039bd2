//! Where files are copied to: the root of a mounted file system. Nothing outside it can be reached: paths are opened
//! by their folders, which are opened with `RESOLVE_IN_ROOT`.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use camino::Utf8Path;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::tree::{self, Meta, Reader, Source, names, open_in};
use crate::node::{self, Attribute, create};

/// The owner and mode that copied files get in place of their own.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Change {
    pub(super) owner: Option<(u32, u32)>,
    pub(super) mode: Option<u32>,
}

/// The root that is written to.
pub(super) struct Target {
    root: OwnedFd,
    /// The same, to be looked at.
    view: Source<'static>,
    /// Whether links in paths are followed. Where they are not, folders take their place, as a layer that knows nothing
    /// of those below makes it (`COPY --link`).
    follow: bool,
    /// The time of folders that have no source.
    epoch: i64,
}

impl Target {
    pub(super) fn open(root: &Utf8Path, epoch: i64, follow: bool) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root.as_std_path(), flags, Mode::empty())?;
        Ok(Self { root: fd, view: Source::disk(root)?, follow, epoch })
    }

    /// The root as something to look at.
    pub(super) fn view(&self) -> &Source<'static> {
        &self.view
    }

    /// A path of the root, with its links followed if they are to be.
    pub(super) fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        if self.follow {
            return self.view.resolve(path);
        }
        let mut clean = PathBuf::new();
        for name in names(path) {
            if name == ".." {
                clean.pop();
            } else {
                clean.push(name);
            }
        }
        Ok(clean)
    }

    /// Makes a folder and those above it that are missing. The path that it has without links.
    /// New folders are 0755 and belong to `owner`, or to root.
    pub(super) fn make_folders(&self, path: &Path, owner: Option<(u32, u32)>) -> io::Result<PathBuf> {
        let resolved = self.resolve(path)?;
        let mut done = PathBuf::new();
        for name in names(&resolved) {
            let parent = self.folder(&done)?;
            done.push(&name);
            if !self.follow && self.view.meta(&done).is_ok_and(|meta| meta.kind != FileType::Directory) {
                clear(parent.as_fd(), &name)?;
            }
            match rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    let (uid, gid) = owner.unwrap_or((0, 0));
                    let meta = Meta {
                        kind: FileType::Directory,
                        mode: 0o755,
                        uid,
                        gid,
                        mtime: (self.epoch, 0),
                        rdev: 0,
                        linked: None,
                    };
                    set(parent.as_fd(), &name, &meta, &[], Change::default())?;
                }
                Err(Errno::EXIST) if self.view.meta(&done)?.kind == FileType::Directory => {}
                Err(Errno::EXIST) => {
                    return Err(io::Error::other(format!("/{} is no folder", done.display())));
                }
                Err(error) => return Err(tree::with_path(&error.into(), &format!("/{}", done.display()))),
            }
        }
        Ok(resolved)
    }

    /// Opens a folder whose path has no links.
    pub(super) fn folder(&self, path: &Path) -> io::Result<OwnedFd> {
        open_in(self.root.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|error| tree::with_path(&error, &format!("/{}", path.display())))
    }
}

/// Makes way for something that is no folder.
pub(super) fn clear(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(io::Error::other(format!(
            "{} is a folder there, and cannot be replaced by a file",
            name.display()
        ))),
        Err(error) => Err(error.into()),
    }
}

/// Makes a folder, or takes the one that is there. Whether it is new.
pub(super) fn make_folder(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                return Ok(false);
            }
            Err(io::Error::other(format!("{} is no folder there", name.display())))
        }
        Err(error) => Err(error.into()),
    }
}

/// Writes a regular file.
pub(super) fn write(parent: BorrowedFd<'_>, name: &OsStr, from: &mut Reader) -> io::Result<()> {
    let mut file = create(parent, name)?;
    // What need not be looked at is copied inside the kernel.
    match from.file() {
        Some(source) => drop(io::copy(&mut &*source, &mut file)?),
        None => copy_all(from, &mut file)?,
    }
    Ok(())
}

/// Makes what is neither a file nor a folder nor a link.
pub(super) fn make_node(parent: BorrowedFd<'_>, name: &OsStr, meta: &Meta) -> io::Result<()> {
    rustix::fs::mknodat(parent, name, meta.kind, Mode::from_raw_mode(0o600), meta.rdev)?;
    Ok(())
}

/// Gives what is at a name all that its source has, but for what is changed.
pub(super) fn set(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    meta: &Meta,
    attributes: &[Attribute],
    change: Change,
) -> io::Result<()> {
    let (uid, gid) = change.owner.unwrap_or((meta.uid, meta.gid));
    let mode = change.mode.unwrap_or(meta.mode);
    let set = node::Meta { uid, gid, mode, mtime: meta.mtime, attributes };
    set.set_at(parent, name).map_err(|refused| tree::with_path(&refused.into(), &name.to_string_lossy()))
}

/// Copies through a buffer.
pub(super) fn copy_all(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 17];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            read => to.write_all(&buffer[..read])?,
        }
    }
}
