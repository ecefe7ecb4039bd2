//! The control groups of a sandbox, from inside: moving into them, and seeing nothing but them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::Mode;
use rustix::mount::MountFlags;

use super::place::{self, PLAIN, Root};
use crate::cgroup::{self, Group};

/// The place at which control groups are seen.
const PLACE: &str = "/sys/fs/cgroup";

/// Moves this process, which has one thread, into groups. Returns those that it is in.
///
/// # Errors
/// A group that is required.
pub(super) fn join(groups: &[Group]) -> io::Result<Vec<&Group>> {
    let mut joined = Vec::new();
    for group in groups {
        match cgroup::enter(&group.path) {
            Ok(()) => joined.push(group),
            Err(error) if group.is_required => return Err(error),
            // A user may be allowed to make a group, and not to move a process into it.
            Err(_) => {}
        }
    }
    Ok(joined)
}

/// Shows groups, which can only be read. Nothing of the machine's other groups is there.
///
/// # Errors
/// Returns an error when the kernel refuses.
pub(super) fn show(root: &Root, groups: &[&Group]) -> io::Result<()> {
    let mut shown = groups.iter().filter_map(|group| Some((group, group.shown.as_deref()?))).peekable();
    match shown.peek() {
        None => return Ok(()),
        Some((group, "")) => return show_one(group, &root.at(PLACE)?),
        Some(_) => {}
    }
    let folder = place::create("tmpfs", &[("mode", Some("755"))], PLAIN)?;
    place::attach(&folder, &root.at(PLACE)?)?;
    for (group, name) in shown {
        rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755))?;
        show_one(group, &place::open_in_root(&folder, name.as_ref(), rustix::fs::OFlags::PATH)?)?;
        // `cpu,cpuacct` is where programs that look for `cpu` find it.
        for other in name.split(',').filter(|other| *other != name) {
            rustix::fs::symlinkat(name, folder.as_fd(), other)?;
        }
    }
    Ok(place::restrict(&folder, MountFlags::RDONLY)?)
}

fn show_one(group: &Group, target: &OwnedFd) -> io::Result<()> {
    let tree = place::tree_at(group.path.as_std_path())?;
    place::attach(&tree, target)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(place::restrict(&tree, flags)?)
}
