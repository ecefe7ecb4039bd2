//! Runs a program in a container that another worker runs.

use std::io;
use std::os::fd::AsFd;

use camino::Utf8Path;
use nix::sched::CloneFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::container::STATE;
use super::message::{Alive, Exec, Reply};
use super::{Stop, namespace, start_of};
use crate::cgroup;
use crate::sandbox::overlay::Devices;
use crate::sandbox::{self, Outputs, Program, Spec};

/// Joins the container as far as a process can that still needs this machine's files. It has one thread when it begins.
pub(super) fn carry_out(exec: &Exec, folder: &Utf8Path, stop: &Stop) -> io::Result<Reply> {
    let ended = || io::Error::other("the container does not run");
    let alive = std::fs::read(exec.folder.join(STATE)).map_err(|_| ended())?;
    let alive: Alive = serde_json::from_slice(&alive)?;
    let pid = Pid::from_raw(alive.pid).ok_or_else(ended)?;
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| ended())?;
    // The number may have been given to another process, but not while this descriptor is open.
    if start_of(alive.pid) != Some(alive.start) {
        return Err(ended());
    }
    cgroup::enter_all(&alive.groups)?;
    if !namespace::may_mount()? {
        move_into_thread_name_spaces(process.as_fd(), ThreadNameSpaceType::USER)?;
    }
    namespace::enter_mounts()?;
    let program = Program::take(folder)?;
    stop.watch()?;
    // From here on there can be no other thread.
    nix::sched::setns(process.as_fd(), CloneFlags::CLONE_NEWPID)?;
    let spec = Spec {
        root: "/".into(),
        argv: exec.argv.clone(),
        env: exec.env.clone(),
        workdir: exec.workdir.clone(),
        user: exec.user.clone(),
        mounts: Vec::new(),
        network: sandbox::Network::Given,
        host_name: String::new(),
        read_only: false,
        joins: true,
        groups: Vec::new(),
        devices: Devices::Closed,
    };
    match sandbox::enter(&spec, &program, Outputs::own()?, |child| stop.wait(child, None)) {
        Ok(code) => Ok(Reply::Exec(code.unwrap_or(137))),
        Err(trouble) => trouble.not_started().map(Reply::NotStarted),
    }
}
