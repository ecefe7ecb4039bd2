//! Mounts at paths of a root whose links lead nowhere outside it: what is mounted on is opened once, and never found
//! by its name again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_remount, move_mount, open_tree,
};

use super::stubs::resolve;

/// What no mount of the sandbox's own needs.
pub(super) const PLAIN: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// A root and what is mounted in it.
pub(super) struct Root {
    fd: OwnedFd,
}

impl Root {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::open(path, flags, Mode::empty())? })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What there is at a path, links followed.
    pub(super) fn at(&self, path: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)
    }

    /// The same; it is made where there is nothing.
    pub(super) fn ensure(&self, path: &str, is_folder: bool) -> io::Result<OwnedFd> {
        match self.at(path) {
            Err(Errno::NOENT) => {}
            other => return other.map_err(|error| with_path(error, path)),
        }
        let resolved = resolve(self.fd(), Path::new(path))?;
        let mut folder = self.fd.try_clone()?;
        let names: Vec<_> = resolved.iter().collect();
        for (index, name) in names.iter().enumerate() {
            let is_last = index + 1 == names.len();
            if is_last && !is_folder {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                rustix::fs::openat(&folder, *name, flags, Mode::from_raw_mode(0o644))?;
            } else {
                match rustix::fs::mkdirat(&folder, *name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(with_path(error, path)),
                }
            }
            let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            folder = rustix::fs::openat(&folder, *name, flags, Mode::empty())?;
        }
        Ok(folder)
    }

    /// Mounts a new file system of a type.
    pub(super) fn mount(
        &self,
        kind: &str,
        path: &str,
        options: &[(&str, Option<&str>)],
        flags: MountAttrFlags,
    ) -> io::Result<()> {
        let target = self.ensure(path, true)?;
        let mounted = create(kind, options, flags).map_err(|error| with_path(error, path))?;
        attach(&mounted, &target).map_err(|error| with_path(error, path))
    }

    /// Makes a file or folder from outside seen at a path, with what is mounted in it.
    pub(super) fn bind(&self, source: &Path, path: &str, read_only: bool) -> io::Result<()> {
        let named = |error: Errno| with_path(error, &source.display().to_string());
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(CWD, source, flags).map_err(named)?;
        let is_folder = FileType::from_raw_mode(rustix::fs::fstat(&tree)?.st_mode) == FileType::Directory;
        let target = self.ensure(path, is_folder)?;
        attach(&tree, &target).map_err(|error| with_path(error, path))?;
        if read_only {
            self.make_read_only(path)?;
        }
        Ok(())
    }

    /// Makes what is mounted at a path only readable.
    pub(super) fn make_read_only(&self, path: &str) -> io::Result<()> {
        let target = self.at(path).map_err(|error| with_path(error, path))?;
        make_read_only(&target).map_err(|error| with_path(error, path))
    }
}

/// Makes the mount that `target` is the root of only readable. What is switched off on it stays so: a user namespace
/// may not switch it on.
pub(super) fn make_read_only(target: &OwnedFd) -> Result<(), Errno> {
    let now = rustix::fs::fstatvfs(target)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY;
    for (is, flag) in [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        if now.contains(is) {
            flags |= flag;
        }
    }
    mount_remount(own(target), flags, "")
}

/// Makes a file system of a type, which is mounted nowhere yet.
pub(super) fn create(
    kind: &str,
    options: &[(&str, Option<&str>)],
    flags: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(fs.as_fd(), "source", kind)?;
    for (key, value) in options {
        match value {
            Some(value) => fsconfig_set_string(fs.as_fd(), *key, *value)?,
            None => fsconfig_set_flag(fs.as_fd(), *key)?,
        }
    }
    fsconfig_create(fs.as_fd())?;
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// Mounts what [`create`] has made.
pub(super) fn attach(mounted: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mounted.as_fd(), "", target.as_fd(), "", flags)
}

/// The name by which calls that take no descriptor reach it.
pub(crate) fn own(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

pub(super) fn with_path(error: Errno, path: &str) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("{path}: {error}"))
}
