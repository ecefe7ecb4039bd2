//! Runs one program in namespaces of its own: mount, pid, ipc, uts, cgroup and, where it reaches nothing, network.
//!
//! It takes two calls of this program: the first process of a pid namespace must be started by one outside it, and
//! only a new process is inside. The first is the worker ([`run`]), the second ([`inside`]) makes the mounts that
//! must be made inside, gives up what it may do, and becomes the program that was asked for. So that program is
//! process 1, as in Docker, and when it ends the kernel ends all others with it.

pub mod capabilities;
mod cgroup;
mod device;
mod inside;
mod keyring;
pub mod overlay;
mod place;
mod refused;
mod seccomp;
pub mod stubs;
mod submounts;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc;

use camino::{Utf8Path, Utf8PathBuf};
use nix::sched::CloneFlags;
use serde::{Deserialize, Serialize};

pub use self::inside::main as inside;
use self::overlay::Devices;
pub(crate) use self::place::{open_in_root, own};
use crate::cgroup::Group;
use crate::worker::is_full;
use crate::worker::message::NotStarted;

/// The name (`argv[0]`) under which this program is called to become a sandboxed one.
pub const NAME: &str = "imgforge-sandbox";

/// The host name of everything that a build runs; always the same, so that it cannot make two builds differ.
pub const HOST_NAME: &str = "imgforge";

/// A program to run, and what it sees.
#[derive(Debug, Serialize, Deserialize)]
pub struct Spec {
    /// The folder that its root file system is mounted on.
    pub root: Utf8PathBuf,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The whole environment; `HOME` is added where it is missing.
    pub env: Vec<(String, String)>,
    /// Absolute, in the root. It is made where it is missing.
    pub workdir: String,
    /// `USER[:GROUP]`, as the root's files know them; empty for root.
    pub user: String,
    /// In order.
    pub mounts: Vec<Bind>,
    /// Which network it is in.
    pub network: Network,
    /// The host name that `uname -n` prints.
    pub host_name: String,
    /// Whether nothing outside the program's mounts can be written.
    pub read_only: bool,
    /// Whether the program joins a container, whose namespaces and mounts are there.
    pub joins: bool,
    /// Its control groups, which it moves into.
    pub groups: Vec<Group>,
    /// The devices among its files that can be opened.
    pub devices: Devices,
}

/// The network of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// One of its own without another machine in it.
    Alone {
        /// Its address beside 127.0.0.1.
        address: Option<std::net::Ipv4Addr>,
    },
    /// The one in which it is started.
    Given,
}

/// A mount beside the root.
#[derive(Debug, Serialize, Deserialize)]
pub struct Bind {
    /// Absolute, in the root.
    pub target: String,
    /// The source of the mount.
    pub source: Source,
}

/// The source of a mount.
#[derive(Debug, Serialize, Deserialize)]
pub enum Source {
    /// A file or folder that the worker sees.
    Path {
        /// Absolute.
        path: Utf8PathBuf,
        /// Whether the file or folder can only be read.
        read_only: bool,
    },
    /// A file or folder below a root that the worker sees, out of which no link leads.
    Below {
        /// The path of the root, absolute.
        root: Utf8PathBuf,
        /// The path there.
        path: String,
        /// Whether the file or folder can only be read.
        read_only: bool,
    },
    /// A file system in memory.
    Tmpfs {
        /// At most so many bytes.
        size: Option<u64>,
        /// Mode of its root.
        mode: u32,
    },
}

/// Why a program does not run.
#[derive(Debug, Serialize, Deserialize)]
pub enum Trouble {
    /// The program cannot be started.
    NotStarted(NotStarted),
    /// The sandbox failed, since the disk is full: what, in words for people.
    DiskFull(String),
    /// The sandbox failed for another reason: what, in words for people.
    Sandbox(String),
}

impl Trouble {
    /// Of a sandbox that failed with an error of the system.
    fn of(error: &io::Error, message: String) -> Self {
        if is_full(error) { Self::DiskFull(message) } else { Self::Sandbox(message) }
    }

    /// Returns why the program cannot be started.
    ///
    /// # Errors
    /// What the sandbox failed with.
    pub fn not_started(self) -> io::Result<NotStarted> {
        match self {
            Self::NotStarted(found) => Ok(found),
            Self::DiskFull(message) => Err(io::Error::new(io::ErrorKind::StorageFull, message)),
            Self::Sandbox(message) => Err(io::Error::other(message)),
        }
    }
}

/// The descriptors that a program's output goes to.
#[derive(Debug)]
pub struct Outputs {
    /// Its stdout.
    pub stdout: OwnedFd,
    /// Its stderr.
    pub stderr: OwnedFd,
}

impl Outputs {
    /// Those of this process.
    ///
    /// # Errors
    /// Returns an error when there are no descriptors left.
    pub fn own() -> io::Result<Self> {
        Ok(Self {
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            stderr: io::stderr().as_fd().try_clone_to_owned()?,
        })
    }

    /// This process's stdout for both.
    ///
    /// # Errors
    /// Returns an error when there are no descriptors left.
    pub fn merged() -> io::Result<Self> {
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self { stderr: stdout.try_clone()?, stdout })
    }
}

/// Runs a program in namespaces of its own. It is started in `network`, or in this process's. `wait` is given its
/// process when it is the program. Its stdin is empty.
///
/// # Errors
/// [`Trouble`] when it cannot be started, or not be waited for; nothing of it is left then.
pub fn run<T>(
    spec: &Spec,
    program: &Program,
    outputs: Outputs,
    network: Option<BorrowedFd<'_>>,
    wait: impl FnOnce(&mut Child) -> io::Result<T>,
) -> Result<T, Trouble> {
    let (begun, begins) = mpsc::channel();
    let (done, is_done) = mpsc::channel::<()>();
    // A thread that has a new pid namespace for its children can make no other thread, and may not be allowed to go
    // back. So it is one of its own, and it stays, because what it starts is killed when it ends.
    let thread = move || {
        let joined = network.map_or(Ok(()), |network| nix::sched::setns(network, CloneFlags::CLONE_NEWNET));
        let started = joined
            .and_then(|()| nix::sched::unshare(CloneFlags::CLONE_NEWPID))
            .map_err(|error| trouble("a network or pid namespace")(error.into()))
            .and_then(|()| begin(spec, program, outputs));
        let _ = begun.send(started);
        let _ = is_done.recv();
    };
    std::thread::scope(|scope| {
        scope.spawn(thread);
        let started = begins.recv();
        let ended = match started {
            Ok(started) => started.and_then(|child| finish(child, wait)),
            Err(_) => Err(Trouble::Sandbox("the thread of the sandbox has ended".into())),
        };
        drop(done);
        ended
    })
}

/// The same in the pid namespace that this thread has for its children.
///
/// # Errors
/// The same.
pub fn enter<T>(
    spec: &Spec,
    program: &Program,
    outputs: Outputs,
    wait: impl FnOnce(&mut Child) -> io::Result<T>,
) -> Result<T, Trouble> {
    begin(spec, program, outputs).and_then(|child| finish(child, wait))
}

fn begin(spec: &Spec, program: &Program, outputs: Outputs) -> Result<Child, Trouble> {
    let (ours, theirs) = UnixStream::pair().map_err(trouble("a socket"))?;
    let mut command = Command::new(own(&program.0));
    command.arg0(NAME).env_clear().stdin(OwnedFd::from(theirs)).stdout(outputs.stdout).stderr(outputs.stderr);
    let child = command.spawn();
    // It holds the other end of the socket.
    drop(command);
    let child = child.map_err(trouble("the sandbox cannot be started"))?;
    match talk(spec, &ours) {
        Ok(None) => Ok(child),
        Ok(Some(found)) => {
            end(child);
            Err(found)
        }
        Err(error) => {
            end(child);
            Err(trouble("the sandbox has ended")(error))
        }
    }
}

fn finish<T>(mut child: Child, wait: impl FnOnce(&mut Child) -> io::Result<T>) -> Result<T, Trouble> {
    let waited = wait(&mut child).map_err(trouble("the program"));
    if waited.is_err() {
        end(child);
    }
    waited
}

fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// This program, as a sandbox executes it: a file that nobody can write. What runs in a sandbox can reach it as
/// `/proc/PID/exe`, and would have the next call of it do as it likes (CVE-2019-5736).
#[derive(Debug)]
pub struct Program(OwnedFd);

impl Program {
    /// Takes it through a mount that can only be read. `folder` is in this process's own mount namespace.
    ///
    /// # Errors
    /// Returns an error when it cannot be mounted.
    pub fn take(folder: &Utf8Path) -> io::Result<Self> {
        let (name, copy) = (folder.join("program"), folder.join("program.copy"));
        let mut source = std::fs::read_link("/proc/self/exe")?;
        let id = |path: &std::path::Path| rustix::fs::stat(path).map(|stat| (stat.st_dev, stat.st_ino));
        if id(&source) != id("/proc/self/exe".as_ref()) {
            // Another one has been put in its place.
            std::fs::copy("/proc/self/exe", &copy)?;
            source = copy.clone().into();
        }
        std::fs::write(&name, "")?;
        let root = place::Root::open(folder.as_std_path())?;
        root.bind(&source, "program", true)?;
        let taken = root.at("program")?;
        // It stays what it is for whoever has it open.
        rustix::mount::unmount(name.as_std_path(), rustix::mount::UnmountFlags::DETACH)?;
        std::fs::remove_file(&name)?;
        if source == copy {
            std::fs::remove_file(&copy)?;
        }
        Ok(Self(taken))
    }
}

fn trouble(what: &'static str) -> impl Fn(io::Error) -> Trouble {
    move |error| Trouble::of(&error, format!("{what}: {error}"))
}

/// Gives the new process what it must know, once it says that it dies with this one. Returns its trouble: it says
/// nothing more when it has become the program.
fn talk(spec: &Spec, mut socket: &UnixStream) -> io::Result<Option<Trouble>> {
    socket.read_exact(&mut [0])?;
    socket.write_all(&serde_json::to_vec(spec)?)?;
    socket.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    if answer.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_slice(&answer)?)) }
}

/// A file system in memory on a folder that only root can enter. It is unmounted when it is dropped.
#[derive(Debug)]
pub struct Memory {
    folder: Utf8PathBuf,
}

impl Memory {
    /// Mounts one.
    ///
    /// # Errors
    /// Returns an error when it cannot be mounted.
    pub fn mount(folder: Utf8PathBuf) -> io::Result<Self> {
        let root = place::Root::open(folder.as_std_path())?;
        root.mount(
            "tmpfs",
            "/",
            &[("mode", Some("700"))],
            place::PLAIN.difference(rustix::mount::MountAttrFlags::MOUNT_ATTR_NOEXEC),
        )?;
        Ok(Self { folder })
    }

    /// Returns the folder that it is mounted on.
    pub fn folder(&self) -> &Utf8Path {
        &self.folder
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.folder.as_std_path(), rustix::mount::UnmountFlags::DETACH);
    }
}
