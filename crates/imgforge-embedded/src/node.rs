//! What an entry of a file system has besides its content, and the one way to give it that. Layers that are unpacked
//! and merged, COPY, ADD and copies of folders all go through here, so that none of them loses what another keeps.
//!
//! The order is owner, mode, extended attributes, time. A change of the owner takes setuid bits and file capabilities
//! away (chown(2), capabilities(7)); writing does so too, so that the content has to be there before; and whatever is
//! done moves the time.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

/// Nothing outside the folder, and no link, is followed.
pub(crate) const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Overlay's own attributes.
pub(crate) const OVERLAY: &[u8] = b"user.overlay.";

/// An extended attribute: name and value.
pub(crate) type Attribute = (Vec<u8>, Vec<u8>);

/// A value of `security.capability`, version 2: `cap_net_bind_service=ep`.
#[cfg(test)]
pub(crate) const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Reads the target of the link that a folder has under a name; of the folder's descriptor itself for an empty name.
pub(crate) fn link_target(folder: BorrowedFd<'_>, name: &OsStr) -> io::Result<PathBuf> {
    let target = rustix::fs::readlinkat(folder, name, Vec::new())?;
    Ok(PathBuf::from(OsStr::from_bytes(target.to_bytes())))
}

/// Owner, mode, time and attributes of an entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meta<'a> {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Permissions with setuid, setgid and sticky bits.
    pub(crate) mode: u32,
    /// Seconds since 1970 and nanoseconds.
    pub(crate) mtime: (i64, i64),
    /// Those that are no part of a layer are passed over.
    pub(crate) attributes: &'a [Attribute],
}

/// Why an entry cannot have what it should.
#[derive(Debug)]
pub(crate) enum Refused {
    /// This process cannot give it to this user and group.
    Owner(u32, u32),
    /// The machine said no.
    Io(io::Error),
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Io(error) => error,
            Refused::Owner(uid, gid) => Self::other(format!(
                "it cannot belong to {uid}:{gid}: this user has no subordinate id for it (see /etc/subuid)"
            )),
        }
    }
}

impl From<Errno> for Refused {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl<'a> Meta<'a> {
    /// Returns the metadata that an entry of another place has.
    pub(crate) fn of(stat: &Stat, attributes: &'a [Attribute]) -> Self {
        Self {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            mtime: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            attributes,
        }
    }

    /// The owner and the group. The kernel takes 4294967295 for "leave it as it is".
    fn owner(&self) -> Result<(Uid, Gid), Refused> {
        if self.uid == u32::MAX || self.gid == u32::MAX {
            return Err(Refused::Owner(self.uid, self.gid));
        }
        Ok((Uid::from_raw(self.uid), Gid::from_raw(self.gid)))
    }

    /// Sets all on a file or a folder that is open.
    pub(crate) fn set(&self, file: impl AsFd) -> Result<(), Refused> {
        self.set_but_time(&file)?;
        Ok(rustix::fs::futimens(&file, &times(self.mtime))?)
    }

    /// Sets all but the time on a file or a folder that is open.
    pub(crate) fn set_but_time(&self, file: impl AsFd) -> Result<(), Refused> {
        let owner = self.owner()?;
        rustix::fs::fchown(&file, Some(owner.0), Some(owner.1)).map_err(|error| self.unmapped(error))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(self.mode))?;
        self.set_attributes(|name, value| rustix::fs::fsetxattr(&file, name, value, XattrFlags::empty()))
    }

    /// Sets on whatever lies at a name what it can have; a link is meant itself.
    pub(crate) fn set_at(&self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Refused> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        let owner = self.owner()?;
        rustix::fs::chownat(&fd, "", Some(owner.0), Some(owner.1), AtFlags::EMPTY_PATH)
            .map_err(|error| self.unmapped(error))?;
        if kind != FileType::Symlink {
            rustix::fs::chmod(own(fd.as_fd()), Mode::from_raw_mode(self.mode))?;
        }
        if matches!(kind, FileType::RegularFile | FileType::Directory) {
            let path = own(fd.as_fd());
            self.set_attributes(|name, value| rustix::fs::setxattr(&path, name, value, XattrFlags::empty()))?;
        }
        Ok(rustix::fs::utimensat(parent, name, &times(self.mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn set_attributes(&self, set: impl Fn(&OsStr, &[u8]) -> rustix::io::Result<()>) -> Result<(), Refused> {
        for (name, value) in self.attributes.iter().filter(|(name, _)| is_kept(name)) {
            match set(OsStr::from_bytes(name), value) {
                // What this file system does not take is left out, as containerd does.
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// A user namespace that lacks an id refuses it with `EINVAL`; without one, `EPERM` says that this is not root.
    fn unmapped(&self, error: Errno) -> Refused {
        match error {
            Errno::INVAL | Errno::PERM => Refused::Owner(self.uid, self.gid),
            error => error.into(),
        }
    }
}

/// Both times of an entry.
pub(crate) fn times((seconds, nanoseconds): (i64, i64)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps { last_access: time, last_modification: time }
}

/// The name by which calls that take no path descriptor reach what it stands for.
pub(crate) fn own(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Makes an empty file that is not there yet.
pub(crate) fn create(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat2(parent, name, flags, Mode::from_raw_mode(0o600), BENEATH)?))
}

/// Removes a folder and all in it. Folders are opened from the top, so that depth costs no file descriptors; a path
/// that is too long for the kernel is an error.
pub(crate) fn remove(top: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let mut todo = vec![PathBuf::from(name)];
    while let Some(path) = todo.last().cloned() {
        let folder = open_folder_at(top, &path)?;
        let before = todo.len();
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if matches!(name.as_bytes(), b"." | b"..") {
                continue;
            }
            match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::ISDIR) => todo.push(path.join(name)),
                Err(error) => return Err(error.into()),
            }
        }
        if todo.len() == before {
            let parent = open_folder_at(top, path.parent().unwrap_or(Path::new("")))?;
            rustix::fs::unlinkat(&parent, path.file_name().unwrap_or(name), AtFlags::REMOVEDIR)?;
            todo.pop();
        }
    }
    Ok(())
}

/// Opens a folder in a folder, following no link on the way.
pub(crate) fn open_folder_at(folder: impl AsFd, path: &Path) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    rustix::fs::openat2(folder, path, flags, Mode::empty(), BENEATH)
}

/// Returns whether an extended attribute is part of a layer. containerd and BuildKit take `security.capability`;
/// `user.*` is what a program could set. Overlay's own are not the image's, and a name with `=` has no form in PAX.
pub(crate) fn is_kept(name: &[u8]) -> bool {
    (name == b"security.capability" || name.starts_with(b"user."))
        && !name.starts_with(OVERLAY)
        && !name.contains(&b'=')
}

/// The names of a file's extended attributes.
pub(crate) fn attribute_names(file: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    // Nearly every file has none: one call says so.
    let mut names = match rustix::fs::flistxattr_query(&file) {
        Ok(len) => vec![0_u8; len],
        Err(Errno::OPNOTSUPP) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    if !names.is_empty() {
        let len = rustix::fs::flistxattr(&file, &mut names)?;
        names.truncate(len);
    }
    Ok(names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

/// The extended attributes of an open file or folder that are part of a layer, sorted by name.
pub(crate) fn attributes(file: impl AsFd) -> io::Result<Vec<Attribute>> {
    let names = attribute_names(&file)?;
    kept(&file, names)
}

/// The same of those names alone that are part of a layer.
fn kept(file: impl AsFd, names: Vec<Vec<u8>>) -> io::Result<Vec<Attribute>> {
    let mut found = Vec::new();
    for name in names.into_iter().filter(|name| is_kept(name)) {
        let value = attribute(&file, OsStr::from_bytes(&name))?;
        found.extend(value.map(|value| (name, value)));
    }
    found.sort();
    Ok(found)
}

/// Takes from an open file or folder the attributes that a layer does not keep and a later step would still see: access
/// control lists, and what only root may read. Those that are left, as by [`attributes`].
///
/// Attributes that the machine gives to its files (`security.selinux` and the like) stay.
pub(crate) fn take_unkept(file: impl AsFd) -> io::Result<Vec<Attribute>> {
    let names = attribute_names(&file)?;
    for name in &names {
        if [b"system.posix_acl_".as_slice(), b"trusted."].iter().any(|begin| name.starts_with(begin)) {
            match rustix::fs::fremovexattr(&file, OsStr::from_bytes(name)) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    kept(file, names)
}

/// The value of an extended attribute.
fn attribute(file: impl AsFd, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0_u8; 1 << 16]; // The kernel's limit for one value.
    match rustix::fs::fgetxattr(&file, name, &mut value) {
        Ok(len) => {
            value.truncate(len);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
