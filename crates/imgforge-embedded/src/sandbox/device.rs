//! `/dev` of a sandbox.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, makedev};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::overlay::Devices;
use super::place::{self, PLAIN, Root, with_path};

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
pub(super) fn mount(root: &Root, devices: Devices) -> io::Result<OwnedFd> {
    let mut dev = memory(root, MountAttrFlags::empty())?;
    let mut make = DEVICES.iter().map(|(name, major, minor)| {
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(&dev, *name, FileType::CharacterDevice, mode, makedev(*major, *minor))
    });
    match (make.try_for_each(|made| made), devices) {
        (Ok(()), Devices::Filtered) => {}
        (Ok(()), Devices::Closed) => {
            // Each is a mount of its own, on a folder where no other node can be opened. It covers the first one.
            let nodes = nodes(|name| place::open_in_root(&dev, name.as_ref(), OFlags::PATH))?;
            dev = memory(root, MountAttrFlags::MOUNT_ATTR_NODEV)?;
            show(&dev, &nodes)?;
        }
        // In a user namespace no device can be made, but the host's can be shown: they belong to nobody in there.
        (Err(Errno::PERM), _) => {
            let host = |name: &str| {
                rustix::fs::open(format!("/dev/{name}"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            };
            show(&dev, &nodes(host)?)?;
        }
        (Err(error), _) => return Err(error.into()),
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

fn memory(root: &Root, flags: MountAttrFlags) -> io::Result<OwnedFd> {
    let flags = flags | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    root.mount("tmpfs", "/dev", &[("mode", Some("755")), ("size", Some("65536k"))], flags)?;
    Ok(root.at("/dev")?)
}

/// The nodes, to be mounted elsewhere.
fn nodes(find: impl Fn(&str) -> Result<OwnedFd, Errno>) -> io::Result<Vec<OwnedFd>> {
    let node = |name: &str| -> io::Result<OwnedFd> {
        find(name)
            .and_then(|found| place::tree(&found))
            .map_err(|error| with_path(error, &format!("/dev/{name}")))
    };
    DEVICES.iter().map(|(name, ..)| node(name)).collect()
}

/// Mounts them in a new folder.
fn show(dev: &OwnedFd, nodes: &[OwnedFd]) -> io::Result<()> {
    for ((name, ..), node) in DEVICES.iter().zip(nodes) {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::openat(dev, *name, flags, Mode::from_raw_mode(0o666))?;
        place::attach(node, &place::open_in_root(dev, name.as_ref(), OFlags::PATH)?)?;
    }
    Ok(())
}
