//! Mounts a stack of unpacked layers as one file system.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount, unmount,
};
use serde::{Deserialize, Serialize};

use crate::cgroup::Groups;

/// The options of every mount. `userxattr`: marks are `user.overlay.*`, which a user namespace may write too, so that
/// one store serves both. The others are what some kernels switch on by themselves, and what would leave marks in a
/// layer that only mean something together with the layers below it.
const OPTIONS: [(&str, &str); 2] = [("index", "off"), ("metacopy", "off")];

/// The kernel that has `userxattr`.
const OLDEST: (u32, u32) = (5, 11);
/// The kernel that has `lowerdir+`. It is not tried out: an older one logs each mount that it does not understand.
const WITH_LISTS: (u32, u32) = (6, 8);

/// `statfs` of an overlay file system, which cannot hold the upper folder of another.
const OVERLAY_MAGIC: i64 = 0x794c_7630;

/// The devices that can be opened in a mounted stack: images bring nodes along, and steps make them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Devices {
    /// None can be opened.
    Closed,
    /// Control groups say which can be opened.
    Filtered,
}

impl Devices {
    /// For what runs in these groups.
    pub(crate) fn of(groups: &Groups) -> Self {
        if groups.filters_devices() { Self::Filtered } else { Self::Closed }
    }
}

/// A mounted stack. It is unmounted when it is dropped.
#[derive(Debug)]
pub struct Overlay {
    root: Utf8PathBuf,
    folder: Utf8PathBuf,
}

impl Overlay {
    /// Mounts `stack` (lowest first) at `FOLDER/root`; what is written goes to `FOLDER/upper`. `folder` is there.
    ///
    /// # Errors
    /// A layer that is not there, a file system that takes no overlay.
    pub fn writable(stack: &[Utf8PathBuf], folder: &Utf8Path, devices: Devices) -> io::Result<Self> {
        for name in ["root", "upper", "work"] {
            make_folder(&folder.join(name))?;
        }
        if let Some(top) = stack.last() {
            like(top, &folder.join("upper"))?;
        }
        Self::mount(stack, folder, Some(devices))
    }

    /// Mounts `stack` at `FOLDER/root`, so that nothing can be written.
    ///
    /// # Errors
    /// The same.
    pub fn read_only(stack: &[Utf8PathBuf], folder: &Utf8Path) -> io::Result<Self> {
        make_folder(&folder.join("root"))?;
        Self::mount(stack, folder, None)
    }

    /// Without devices nothing is written either.
    fn mount(stack: &[Utf8PathBuf], folder: &Utf8Path, devices: Option<Devices>) -> io::Result<Self> {
        let writable = devices.is_some();
        let closed = devices != Some(Devices::Filtered);
        let root = folder.join("root");
        // An overlay needs a layer, and two where nothing is written.
        let mut lower: Vec<&Utf8Path> = stack.iter().rev().map(Utf8PathBuf::as_path).collect();
        let empty = folder.join("empty");
        while lower.len() < if writable { 1 } else { 2 } {
            make_folder(&empty)?;
            lower.push(&empty);
        }
        // A path in /proc is short, and has no characters that mean something in a list.
        let opened = lower.iter().map(|path| open(path)).collect::<io::Result<Vec<_>>>()?;
        let upper = writable.then(|| open(&folder.join("upper"))).transpose()?;
        let work = writable.then(|| open(&folder.join("work"))).transpose()?;
        let upper = upper.as_ref().zip(work.as_ref());
        let mounted = if is_older(&kernel_release(), WITH_LISTS) {
            mount_old(&opened, upper, &root, closed)
        } else {
            mount_new(&opened, upper, &root, closed)
        };
        mounted.map_err(|error| explain(error, folder))?;
        Ok(Self { root, folder: folder.to_owned() })
    }

    /// Returns the folder that it is mounted on.
    pub fn root(&self) -> &Utf8Path {
        &self.root
    }

    /// Unmounts it. Returns the folder that holds what was written.
    ///
    /// # Errors
    /// Returns an error when it cannot be unmounted.
    pub fn unmount(self) -> io::Result<Utf8PathBuf> {
        unmount(self.root.as_std_path(), UnmountFlags::DETACH)?;
        let upper = self.folder.join("upper");
        std::mem::forget(self);
        Ok(upper)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = unmount(self.root.as_std_path(), UnmountFlags::DETACH);
    }
}

/// Returns whether a kernel is older than this version, by its release.
fn is_older(release: &str, than: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().ok());
    let version = (numbers.next().flatten(), numbers.next().flatten());
    matches!(version, (Some(major), Some(minor)) if (major, minor) < than)
}

fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn mount_new(
    lower: &[OwnedFd],
    upper: Option<(&OwnedFd, &OwnedFd)>,
    root: &Utf8Path,
    closed: bool,
) -> Result<(), Errno> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(fs.as_fd(), "source", "overlay")?;
    for layer in lower {
        fsconfig_set_string(fs.as_fd(), "lowerdir+", own(layer))?;
    }
    if let Some((upper, work)) = upper {
        fsconfig_set_string(fs.as_fd(), "upperdir", own(upper))?;
        fsconfig_set_string(fs.as_fd(), "workdir", own(work))?;
        fsconfig_set_flag(fs.as_fd(), "volatile")?;
    }
    fsconfig_set_flag(fs.as_fd(), "userxattr")?;
    for (key, value) in OPTIONS {
        fsconfig_set_string(fs.as_fd(), key, value)?;
    }
    fsconfig_create(fs.as_fd())?;
    let flags = if closed { MountAttrFlags::MOUNT_ATTR_NODEV } else { MountAttrFlags::empty() };
    let mounted = fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(mounted.as_fd(), "", CWD, root.as_std_path(), flags)
}

fn mount_old(
    lower: &[OwnedFd],
    upper: Option<(&OwnedFd, &OwnedFd)>,
    root: &Utf8Path,
    closed: bool,
) -> Result<(), Errno> {
    let layers: Vec<String> = lower.iter().map(own).collect();
    let mut data = format!("userxattr,lowerdir={}", layers.join(":"));
    for (key, value) in OPTIONS {
        data.push_str(&format!(",{key}={value}"));
    }
    if let Some((upper, work)) = upper {
        data.push_str(&format!(",volatile,upperdir={},workdir={}", own(upper), own(work)));
    }
    let data = std::ffi::CString::new(data).map_err(|_| Errno::INVAL)?;
    let flags = if closed { MountFlags::NODEV } else { MountFlags::empty() };
    mount("overlay", root.as_std_path(), "overlay", flags, Some(data.as_c_str()))
}

fn own(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn open(path: &Utf8Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path.as_std_path(), flags, Mode::empty())
        .map_err(|error| io::Error::new(io::Error::from(error).kind(), format!("{path}: {error}")))
}

fn explain(error: Errno, folder: &Utf8Path) -> io::Error {
    let on = rustix::fs::statfs(folder.as_std_path()).map(|stat| stat.f_type);
    let release = kernel_release();
    let text = match error {
        Errno::INVAL if is_older(&release, OLDEST) => {
            let (major, minor) = OLDEST;
            format!(
                "the embedded engine needs Linux {major}.{minor}, and this is {release}; Docker works here"
            )
        }
        Errno::INVAL if on == Ok(OVERLAY_MAGIC) => format!(
            "{folder} is on an overlay file system, which cannot hold another one; put the workspace on a volume or a tmpfs, or mount one at its folder .imgforge"
        ),
        Errno::NODEV => "this kernel has no overlay file system (`modprobe overlay`)".to_owned(),
        error => format!("the layers cannot be mounted at {folder}/root: {error}"),
    };
    io::Error::other(text)
}

/// Makes a folder that may be there.
pub(crate) fn make_folder(path: &Utf8Path) -> io::Result<()> {
    match rustix::fs::mkdir(path.as_std_path(), Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(rustix::fs::chmod(path.as_std_path(), Mode::from_raw_mode(0o755))?),
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(io::Error::new(io::Error::from(error).kind(), format!("{path}: {error}"))),
    }
}

/// The root of what is mounted is like the upper folder; so this becomes like the root of the layer below it.
fn like(from: &Utf8Path, to: &Utf8Path) -> io::Result<()> {
    let stat = rustix::fs::stat(from.as_std_path())?;
    debug_assert_eq!(FileType::from_raw_mode(stat.st_mode), FileType::Directory);
    let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
    rustix::fs::chown(to.as_std_path(), Some(uid), Some(gid))?;
    rustix::fs::chmod(to.as_std_path(), Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, to.as_std_path(), &times, AtFlags::empty())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_known_by_their_release() {
        for (release, expected) in [
            ("6.1.0-56-cloud-amd64", true),
            ("5.15.0-91-generic", true),
            ("6.7.12", true),
            ("6.8.0-31-generic", false),
            ("6.12", false),
            ("7.0.1-rc3", false),
            ("of another kind", false),
        ] {
            assert_eq!(is_older(release, WITH_LISTS), expected, "{release}");
        }
        assert!(is_older("5.10.0-35-amd64", OLDEST) && !is_older("5.11.0", OLDEST));
    }
}
