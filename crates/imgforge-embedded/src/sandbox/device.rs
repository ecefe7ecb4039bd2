//! `/dev` of a sandbox.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, makedev};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::place::{PLAIN, Root};

/// The devices that every container has (OCI runtime specification, "Default Devices").
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Mounts it. The umask is 0 meanwhile. Returns its root.
pub(super) fn mount(root: &Root) -> io::Result<OwnedFd> {
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    root.mount("tmpfs", "/dev", &[("mode", Some("755")), ("size", Some("65536k"))], flags)?;
    let dev = root.at("/dev")?;
    for (name, major, minor) in DEVICES {
        let mode = Mode::from_raw_mode(0o666);
        match rustix::fs::mknodat(&dev, name, FileType::CharacterDevice, mode, makedev(major, minor)) {
            Ok(()) => {}
            // In a user namespace no device can be made, but the host's can be shown.
            Err(Errno::PERM) => {
                root.bind(Path::new(&format!("/dev/{name}")), &format!("/dev/{name}"), false)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, &dev, name)?;
    }
    for name in ["pts", "shm", "mqueue"] {
        rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755))?;
    }
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let options = [("newinstance", None), ("ptmxmode", Some("0666")), ("mode", Some("0620"))];
    // Terminals belong to the group `tty`, where the namespace has it.
    let with_group = [&options[..], &[("gid", Some("5"))]].concat();
    if root.mount("devpts", "/dev/pts", &with_group, quiet).is_err() {
        root.mount("devpts", "/dev/pts", &options, quiet)?;
    }
    root.mount("tmpfs", "/dev/shm", &[("mode", Some("1777")), ("size", Some("65536k"))], PLAIN)?;
    root.mount("mqueue", "/dev/mqueue", &[], PLAIN)?;
    Ok(dev)
}
