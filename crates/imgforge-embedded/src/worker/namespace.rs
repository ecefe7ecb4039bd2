//! Where a worker does its work: a mount namespace of its own, and a user namespace when it is not root.

use std::io;
use std::process::ExitCode;

use nix::sched::CloneFlags;
use rustix::mount::{MountPropagationFlags, mount_change};

/// The name (`argv[0]`) of the process that maps ids.
pub(super) const MAPPER: &str = "imgforge-mapper";

/// Moves this process, which has one thread, there.
pub(super) fn enter() -> io::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    // What is mounted here must not be seen outside, and what is unmounted outside should not be held here.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    Ok(())
}

pub(super) fn mapper() -> ExitCode {
    ExitCode::FAILURE
}
