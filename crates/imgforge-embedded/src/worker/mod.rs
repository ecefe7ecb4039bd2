//! The worker: a process of its own that mounts, runs, copies, packs and unpacks. It is this program again, called
//! with a folder, into which it writes `reply.json`. What a command prints goes to its stdout.
//!
//! Its stdin is a pipe that whoever has started it holds. First comes the request, with its length before it: secrets
//! are in it, so it is never on a disk. When the pipe ends, the worker kills what it has started and ends. Its mounts
//! are in a namespace of its own, so nothing of them is left, however it ends.

mod client;
pub(crate) mod container;
mod exec;
mod look;
pub mod message;
mod namespace;
mod step;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

pub(crate) use self::client::copy as pump;
pub use self::client::{Client, Output, WorkerError};
use self::message::{Reply, Request};
use crate::{cgroup, layer, network, sandbox};

/// The name (`argv[0]`) under which this program is called to be a worker.
pub const NAME: &str = "imgforge-worker";

/// The exit code of a worker that was told to stop.
const STOPPED: i32 = 130;
/// The exit code of a worker whose answer has no room on the disk (`EX_IOERR` of `sysexits.h`).
pub(crate) const NO_ROOM: u8 = 74;

/// Is the worker, or the process in a sandbox, when this process was started as one. To be called first in `main`:
/// there is one thread, and no descriptor is open beside the first three.
pub fn called() -> Option<ExitCode> {
    let mut args = std::env::args_os();
    let name = args.next()?;
    if name == sandbox::NAME {
        return Some(sandbox::inside());
    }
    if name == network::NAME {
        return Some(network::main());
    }
    if name == namespace::MAPPER {
        return Some(namespace::mapper());
    }
    if name != NAME {
        return None;
    }
    let folder = args.next().and_then(|folder| Utf8PathBuf::try_from(std::path::PathBuf::from(folder)).ok());
    Some(folder.map_or(ExitCode::FAILURE, |folder| main(&folder)))
}

/// Carries out the request that comes through stdin.
pub fn main(folder: &Utf8Path) -> ExitCode {
    close_inherited();
    // The folder's path may lead elsewhere when this process is in a container.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let written = rustix::fs::open(folder.as_std_path(), flags, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|fd| {
            let reply = answer(folder).unwrap_or_else(|error| {
                let of = if is_full(&error) { Reply::DiskFull } else { Reply::Error };
                of(error.to_string())
            });
            write(&fd, &reply)
        });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever reads it may be gone.
            let _ = writeln!(io::stderr(), "{folder}/reply.json: {error}");
            if is_full(&error) { ExitCode::from(NO_ROOM) } else { ExitCode::FAILURE }
        }
    }
}

/// Returns whether an error, or what it was made of, says that a disk is full or that a user has used up their part.
pub(crate) fn is_full(error: &io::Error) -> bool {
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return true;
    }
    let mut cause = error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
    while let Some(inner) = cause {
        if inner.downcast_ref().is_some_and(is_full) {
            return true;
        }
        cause = inner.source();
    }
    false
}

/// Closes what somebody had left open when starting the program: a build should not hold it.
fn close_inherited() {
    let Ok(listed) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> =
        listed.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // The one that the list was read from is closed by now.
        let _ = nix::unistd::close(fd);
    }
}

fn answer(folder: &Utf8Path) -> io::Result<Reply> {
    let request = asked(&mut io::stdin().lock())?;
    let stop = Stop::default();
    if let Request::Exec(exec) = request {
        return exec::carry_out(&exec, folder, &stop);
    }
    namespace::enter()?;
    stop.watch()?;
    match request {
        Request::Step(step) => step::carry_out(&step, folder, &stop),
        Request::Unpack(unpack) => match layer::unpack(&unpack.blob, &unpack.stack, &unpack.folder) {
            Ok(layer::Unpacked { diff_id, size, .. }) => {
                Ok(Reply::Unpack(message::Unpacked { diff_id, size }))
            }
            Err(layer::LayerError::NoRoom { free }) => Ok(Reply::NoRoom(free)),
            Err(error) => Err(io::Error::other(error)),
        },
        Request::Look(look) => look::look(&look, folder).map(Reply::Look),
        Request::Walk(stack) => look::walk(&stack, folder).map(Reply::Walk),
        Request::Remove(folders) => {
            for folder in folders {
                remove(&folder)?;
            }
            Ok(Reply::Remove)
        }
        Request::Container(container) => container::carry_out(&container, &stop),
        Request::Exec(_) => Err(io::Error::other("it has been carried out")),
    }
}

/// Reads a request.
fn asked(from: &mut impl Read) -> io::Result<Request> {
    let mut len = [0; 8];
    from.read_exact(&mut len)?;
    let mut request = Vec::new();
    from.take(u64::from_le_bytes(len)).read_to_end(&mut request)?;
    Ok(serde_json::from_slice(&request)?)
}

fn write(folder: &OwnedFd, reply: &Reply) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let new = rustix::fs::openat(folder, "reply.json.new", flags, Mode::from_raw_mode(0o600))?;
    std::fs::File::from(new).write_all(&serde_json::to_vec(reply)?)?;
    Ok(rustix::fs::renameat(folder, "reply.json.new", folder, "reply.json")?)
}

/// Returns when a process was started, in ticks since the machine was (`proc(5)`, `/proc/PID/stat`).
pub(crate) fn start_of(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, a name in brackets, may hold anything.
    text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Removes a folder with all that is in it. What is not there is no error.
fn remove(folder: &Utf8Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io::Error::new(error.kind(), format!("{folder}: {error}")))
        }
        _ => Ok(()),
    }
}

/// The processes that have to be killed when the worker is told to stop.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    running: Arc<Mutex<Option<Arc<OwnedFd>>>>,
    /// Control groups that are removed then.
    groups: Arc<Mutex<Vec<Utf8PathBuf>>>,
}

impl Stop {
    /// Ends this process as soon as its stdin does. A byte that comes there is the number of a signal for what runs.
    fn watch(&self) -> io::Result<()> {
        let stop = self.clone();
        let watch = move || {
            let mut byte = [0];
            while let Ok(1) = io::stdin().read(&mut byte) {
                let signal = Signal::from_named_raw(i32::from(byte[0]));
                if let (Some(running), Some(signal)) = (stop.running(), signal) {
                    let _ = pidfd_send_signal(running.as_fd(), signal);
                }
            }
            if let Some(running) = stop.running() {
                let _ = pidfd_send_signal(running.as_fd(), Signal::KILL);
                // It has ended when all that it has started has.
                let _ = ended(&running, None);
            }
            cgroup::remove(&stop.groups.lock().unwrap_or_else(PoisonError::into_inner));
            std::process::exit(STOPPED);
        };
        std::thread::Builder::new().name("stop".into()).stack_size(256 << 10).spawn(watch)?;
        Ok(())
    }

    /// Removes these groups too when the worker is told to stop.
    pub(crate) fn remove_too(&self, groups: Vec<Utf8PathBuf>) {
        *self.groups.lock().unwrap_or_else(PoisonError::into_inner) = groups;
    }

    fn running(&self) -> Option<Arc<OwnedFd>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a process; kills it after `timeout`. `None` then.
    pub(crate) fn wait(&self, child: &mut Child, timeout: Option<Duration>) -> io::Result<Option<i64>> {
        let pid = Pid::from_child(child);
        let running = Arc::new(pidfd_open(pid, PidfdFlags::empty())?);
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(running.clone());
        let in_time = ended(&running, timeout)?;
        if !in_time {
            pidfd_send_signal(running.as_fd(), Signal::KILL)?;
            ended(&running, None)?;
        }
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let status = child.wait()?;
        Ok(in_time.then(|| code(status)))
    }
}

/// Waits until a process has ended. Whether it did in time.
fn ended(process: &OwnedFd, timeout: Option<Duration>) -> io::Result<bool> {
    let until = timeout.map(|timeout| std::time::Instant::now() + timeout);
    loop {
        let left = until.map(|until| until.saturating_duration_since(std::time::Instant::now()));
        let left = left.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(process, PollFlags::IN)], left.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// An exit code as a shell has it.
fn code(status: std::process::ExitStatus) -> i64 {
    use std::os::unix::process::ExitStatusExt;
    status.code().map_or_else(|| 128 + i64::from(status.signal().unwrap_or(0)), i64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_known_by_the_systems_error_however_it_is_wrapped() {
        let full = || io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        let in_layer = || layer::LayerError::Io { path: "etc".into(), error: full() };
        assert!(is_full(&full()));
        assert!(is_full(&io::Error::from(rustix::io::Errno::DQUOT)));
        assert!(is_full(&io::Error::new(full().kind(), format!("etc: {}", full()))));
        assert!(is_full(&io::Error::other(in_layer())));
        assert!(is_full(&io::Error::other(io::Error::other(in_layer()))));
        assert!(!is_full(&io::Error::other(full().to_string())), "words do not count");
    }
}
