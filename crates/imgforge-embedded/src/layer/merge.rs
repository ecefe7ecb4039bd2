//! Several unpacked layers become one.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{AtFlags, FileType, Mode, Stat, XattrFlags};
use rustix::io::Errno;

use super::pack::names;
use super::stack::{Stack, open_folder};
use super::{OVERLAY_OPAQUE, at, is_opaque, is_whiteout};
use crate::node::{self, attributes, open_folder_at, remove};

/// Makes `upper`, an empty folder, into what lies on `stack` (lowest first, as all here) as `layers` together lie on
/// it. A file that a layer has added and a later one has removed is in neither.
///
/// All but folders are hard links to the files of the layers: `upper` is there to be packed, and to be removed then.
///
/// # Errors
/// Those of the disk.
pub fn merge(stack: &[Utf8PathBuf], layers: &[Utf8PathBuf], upper: &Utf8Path) -> io::Result<()> {
    let merge = Merge { below: Stack::open(stack)? };
    let to = open_folder(upper.as_std_path())?;
    for layer in layers {
        merge.folder(&open_folder(layer.as_std_path())?, &to, Path::new(""), false)?;
    }
    Ok(())
}

struct Merge {
    below: Stack,
}

impl Merge {
    /// Lays a folder of a layer over what there is of it. `hidden` says that nothing of the stack is seen here.
    fn folder(&self, from: &OwnedFd, to: &OwnedFd, path: &Path, hidden: bool) -> io::Result<()> {
        for name in names(from).map_err(|error| at(path, error))? {
            let path = path.join(&name);
            self.entry(from, to, (&name, &path), hidden)
                .map_err(|error| if error.get_ref().is_some() { error } else { at(&path, error) })?;
        }
        imitate(from, to)
    }

    fn entry(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        (name, path): (&OsStr, &Path),
        hidden: bool,
    ) -> io::Result<()> {
        let new = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let there = match rustix::fs::statat(to, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error.into()),
        };
        if !is_folder(&new) {
            clear(to, name, there.as_ref())?;
            if !is_whiteout(&new) {
                rustix::fs::linkat(from, name, to, name, AtFlags::empty())?;
            } else if !hidden && self.below.find(path)?.is_some() {
                rustix::fs::mknodat(to, name, FileType::CharacterDevice, Mode::empty(), 0)?;
            }
            return Ok(());
        }
        let from = open_folder_at(from, Path::new(name))?;
        let is_over = there.as_ref().is_some_and(is_folder) && !is_opaque(&from)?;
        if !is_over {
            clear(to, name, there.as_ref())?;
            rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
        }
        let to = open_folder_at(to, Path::new(name))?;
        // It hides what is below, or takes the place of something that has.
        if !is_over && (there.is_some() || is_opaque(&from)?) {
            rustix::fs::fsetxattr(&to, OVERLAY_OPAQUE, b"y", XattrFlags::empty())?;
        }
        let hidden = hidden || is_opaque(&to)?;
        self.folder(&from, &to, path, hidden)
    }
}

fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Makes way for what comes.
fn clear(parent: &OwnedFd, name: &OsStr, there: Option<&Stat>) -> io::Result<()> {
    match there {
        None => Ok(()),
        Some(stat) if is_folder(stat) => remove(parent.as_fd(), name),
        Some(_) => Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?),
    }
}

/// Gives a folder owner, mode, attributes and time of another, and takes from it what that has not.
fn imitate(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    for (name, _) in attributes(to)? {
        rustix::fs::fremovexattr(to, OsStr::from_bytes(&name))?;
    }
    let attributes = attributes(from)?;
    Ok(node::Meta::of(&rustix::fs::fstat(from)?, &attributes).set(to)?)
}
