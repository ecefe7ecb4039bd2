//! Where nothing may be mounted: what Docker (runc's `checkProcMount`, and its own start of a container) refuses.
//!
//! What a target is, is asked of the descriptor that is mounted on, and not of its path: links lead to `/proc` too.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::place::Root;

/// Files of `/proc` that may be replaced: programs like lxcfs show a container its own figures there.
const REPLACEABLE: [&str; 9] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
];

/// `statfs` of procfs.
const PROC_MAGIC: i64 = 0x9fa0;

/// Refuses a target of a mount. `dev` is the folder `/dev`.
///
/// # Errors
/// A target in `/proc`, but a few files there; `/dev` itself; the root.
pub(super) fn check(root: &Root, dev: &OwnedFd, target: &OwnedFd, path: &str) -> io::Result<()> {
    let refuse = |why: &str| Err(io::Error::other(format!("nothing can be mounted on {path}: {why}")));
    let is = |other: &dyn AsFd| -> Result<bool, Errno> {
        let (one, other) = (rustix::fs::fstat(target)?, rustix::fs::fstat(other.as_fd())?);
        Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
    };
    if is(&root.fd())? {
        return refuse("it is the root of all files");
    }
    if is(dev)? {
        return refuse(
            "it is where the devices are that every program needs; a path in it can be mounted on",
        );
    }
    if rustix::fs::fstatfs(target)?.f_type != PROC_MAGIC {
        return Ok(());
    }
    for file in REPLACEABLE {
        if let Some(file) = root.find(file)?
            && is(&file)?
        {
            return Ok(());
        }
    }
    refuse("it is in /proc, which is the kernel's")
}
