//! Keeps a user-mode stack running exactly as long as somebody wants it: this program once more, process 1 of a pid
//! namespace in which the stack is all that runs. It dies with the thread that has started it, and the kernel ends
//! what is in the namespace with it, however that thread ends.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;

use super::netlink::Netlink;
use super::stack::Stack;

/// The name (`argv[0]`) under which this program is called to be a keeper.
pub(crate) const NAME: &str = "imgforge-stack";

/// The time that a stack may take to begin.
const PATIENCE: Duration = Duration::from_secs(10);

/// The keeper: its stdin is the stack's; a byte on its stdout says that it dies with its parent.
pub(crate) fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let Some(program) = args.next() else { return ExitCode::FAILURE };
    let alone = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // Nobody reads when the parent has ended before this was said.
    if alone.is_err() || io::stdout().write_all(&[0]).and_then(|()| io::stdout().flush()).is_err() {
        return ExitCode::FAILURE;
    }
    match Command::new(&program).args(args).status() {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", program.display());
            ExitCode::FAILURE
        }
    }
}

/// A stack that runs until this is dropped.
#[derive(Debug)]
pub(super) struct Keeper {
    child: Child,
    /// The pipe through which its output comes, and the end when it has ended.
    output: Option<io::PipeReader>,
    /// The thread that it dies with, and what ends that.
    thread: Option<(JoinHandle<()>, Sender<()>)>,
}

impl Keeper {
    /// Starts a stack for a network.
    pub(super) fn start(stack: &Stack, network: &OwnedFd) -> io::Result<Self> {
        let (output, theirs) = io::pipe()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0(NAME).arg(&stack.program).args(&stack.args).env_clear();
        command.stdin(network.try_clone()?).stderr(theirs.try_clone()?).stdout(theirs);
        let (begun, begins) = mpsc::channel();
        let (done, is_done) = mpsc::channel::<()>();
        let run = move || {
            let child =
                unshare(CloneFlags::CLONE_NEWPID).map_err(io::Error::from).and_then(|()| command.spawn());
            // It holds the other end of the pipe.
            drop(command);
            let _ = begun.send(child);
            let _ = is_done.recv();
        };
        let thread = std::thread::Builder::new().name("stack".into()).stack_size(256 << 10).spawn(run)?;
        let child = begins.recv().unwrap_or_else(|_| Err(io::Error::other("its thread has ended")));
        Ok(Self { child: child?, output: Some(output), thread: Some((thread, done)) })
    }

    /// Waits until the stack has made its interface. Its number.
    pub(super) fn wait(&mut self, heard: &Netlink) -> io::Result<u32> {
        let mut printed = Vec::new();
        let until = Instant::now() + PATIENCE;
        let Some(mut output) = self.output.take() else { return Err(io::Error::other("it was waited for")) };
        loop {
            let left = Timespec::try_from(until.saturating_duration_since(Instant::now()))
                .map_err(io::Error::other)?;
            let mut ready = [
                PollFd::new(heard.fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN),
            ];
            match poll(&mut ready, Some(&left)) {
                Ok(0) => return Err(failed("does not begin", &printed)),
                Err(Errno::INTR) => continue,
                polled => polled?,
            };
            let [has_heard, has_printed] = ready.map(|ready| !ready.revents().is_empty());
            if has_heard && let Some(index) = heard.heard()? {
                drain(output)?;
                return Ok(index);
            }
            if has_printed && !has_heard {
                let mut piece = [0; 1 << 10];
                match output.read(&mut piece)? {
                    0 => return Err(failed("has ended", &printed)),
                    read => printed.extend(&piece[..read]),
                }
            }
        }
    }
}

/// Reads what a stack prints later, which nobody wants, so that it need not wait.
fn drain(mut output: io::PipeReader) -> io::Result<()> {
    let read = move || drop(io::copy(&mut output, &mut io::sink()));
    std::thread::Builder::new().name("stack's output".into()).stack_size(256 << 10).spawn(read)?;
    Ok(())
}

fn failed(what: &str, printed: &[u8]) -> io::Error {
    let printed = String::from_utf8_lossy(printed);
    let printed = printed.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    io::Error::other(format!("the program that connects a step to the network {what}: {printed}"))
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some((thread, done)) = self.thread.take() {
            drop(done);
            let _ = thread.join();
        }
    }
}
