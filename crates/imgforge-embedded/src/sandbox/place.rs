//! Mounts at paths of a root whose links lead nowhere outside it: what is mounted on is opened once, and never found
//! by its name again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_remount, move_mount, open_tree,
};

use super::stubs::resolve;
use super::submounts::restrict_below;

/// The attributes of all mounts of the sandbox's own: none of them needs what these switch off.
pub(super) const PLAIN: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// The number of times that a path is tried which others change meanwhile.
const TRIES: u32 = 1000;

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

    /// Opens what there is at a path, links followed.
    pub(super) fn at(&self, path: &str) -> Result<OwnedFd, Errno> {
        open_in_root(&self.fd, Path::new(path), OFlags::PATH)
    }

    /// The same; `None` where there is nothing.
    pub(super) fn find(&self, path: &str) -> Result<Option<OwnedFd>, Errno> {
        match self.at(path) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error),
        }
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
            let made = if is_last && !is_folder {
                // What somebody else has put there meanwhile is not opened: it may be a pipe.
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                rustix::fs::openat(&folder, *name, flags, Mode::from_raw_mode(0o644)).map(drop)
            } else {
                rustix::fs::mkdirat(&folder, *name, Mode::from_raw_mode(0o755))
            };
            match made {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(with_path(error, path)),
            }
            let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            folder = rustix::fs::openat(&folder, *name, flags, Mode::empty())
                .map_err(|error| with_path(error, path))?;
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

    /// Makes a file or folder of this process's own files seen at a path, with what is mounted in it.
    pub(super) fn bind(&self, source: &Path, path: &str, read_only: bool) -> io::Result<()> {
        let tree = tree_at(source)?;
        let target = self.ensure(path, is_folder(&tree)?)?;
        let flags = if read_only { MountFlags::RDONLY } else { MountFlags::empty() };
        place(&tree, &target, flags).map_err(|error| with_path(error, path))
    }
}

/// Opens a path below a root, out of which no link leads, whoever changes it meanwhile.
pub(crate) fn open_in_root(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = flags | OFlags::CLOEXEC;
    let open = || rustix::fs::openat2(root.as_fd(), path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
    // While folders are renamed the kernel cannot always tell where `..` leads, and says so (`openat2(2)`).
    let mut found = open();
    for _ in 0..TRIES {
        if !matches!(found, Err(Errno::AGAIN)) {
            break;
        }
        found = open();
    }
    found
}

/// Clones the tree that a path of this process's own files leads to, to be mounted elsewhere.
pub(super) fn tree_at(source: &Path) -> io::Result<OwnedFd> {
    let named = |error| with_path(error, &source.display().to_string());
    tree(&rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(named)?)
        .map_err(named)
}

/// Clones the tree that a descriptor stands for, with what is mounted in it, to be mounted elsewhere.
pub(super) fn tree(of: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(of.as_fd(), "", flags)
}

/// Mounts what [`tree`] has given; it and all that is mounted in it are restricted by `flags` as well.
pub(super) fn place(tree: &OwnedFd, target: &OwnedFd, flags: MountFlags) -> io::Result<()> {
    attach(tree, target)?;
    if flags.is_empty() {
        return Ok(());
    }
    // The descriptor stands for the mount, wherever its path leads by now.
    restrict(tree, flags)?;
    if is_folder(tree)? { restrict_below(tree, flags) } else { Ok(()) }
}

pub(super) fn is_folder(fd: &OwnedFd) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::Directory)
}

/// Restricts the mount that `target` is the root of. What is switched off on it stays so: a user namespace may not
/// switch it on.
pub(super) fn restrict(target: &OwnedFd, flags: MountFlags) -> Result<(), Errno> {
    /// `ST_NOSYMFOLLOW` of `linux/statfs.h`.
    const NO_LINKS: StatVfsMountFlags = StatVfsMountFlags::from_bits_retain(0x2000);
    let now = rustix::fs::fstatvfs(target)?.f_flag;
    let kept = [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (NO_LINKS, MountFlags::NOSYMFOLLOW),
    ];
    let kept = kept.into_iter().filter(|(is, _)| now.contains(*is)).map(|(_, flag)| flag);
    remount(target, kept.collect::<MountFlags>() | flags)
}

/// Gives the mount that `target` is the root of these flags. How it keeps access times stays, as always when nothing
/// is said of them (`mount(2)`).
pub(super) fn remount(target: &OwnedFd, flags: MountFlags) -> Result<(), Errno> {
    mount_remount(own(target), MountFlags::BIND | flags, "")
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

pub(super) fn with_path(error: impl Into<io::Error>, path: &str) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("{path}: {error}"))
}
