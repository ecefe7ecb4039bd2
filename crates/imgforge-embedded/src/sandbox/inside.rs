//! The process that becomes the program: what must be done inside the namespaces.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use nix::sched::CloneFlags;
use rustix::fs::{Access, AtFlags, CWD, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags, MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Signal};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::overlay::Devices;
use super::place::{self, PLAIN, Root, with_path};
use super::{Bind, Network, Source, Spec, Trouble, capabilities, cgroup, device, keyring, refused, seccomp};
use crate::accounts::{self, Account};
use crate::cgroup::Group;
use crate::network;
use crate::worker::message::NotStarted;

/// The paths that Docker hides (moby's `oci/defaults.go`).
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// The paths that can only be read (the same).
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The `PATH` by which programs are found when the environment has none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The whole of this process, until it is the program.
pub fn main() -> ExitCode {
    let Ok(socket) = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from) else {
        return ExitCode::FAILURE;
    };
    let trouble = match prepare(&socket) {
        Ok((spec, account)) => become_program(&spec, &account),
        Err(error) => Trouble::of(&error, error.to_string()),
    };
    // Whoever would read it has ended when this fails.
    let _ = serde_json::to_writer(&socket, &trouble);
    ExitCode::FAILURE
}

fn prepare(mut socket: &UnixStream) -> io::Result<(Spec, Account)> {
    die_with_parent()?;
    socket.write_all(&[0])?;
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes)?;
    let spec: Spec = serde_json::from_slice(&bytes)?;
    rustix::process::setsid()?;
    keyring::new_session().map_err(|error| say("a session keyring", error))?;
    if spec.joins {
        join().map_err(|error| say("the container", error))?;
    } else {
        settle(&spec)?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let root = Root::open(Path::new("/"))?;
    let account = accounts::look_up(root.fd(), &spec.user)?;
    enter_workdir(&spec.workdir)?;
    Ok((spec, account))
}

/// The namespaces of the container whose pid namespace this process was made in: its process 1 has them.
fn join() -> io::Result<()> {
    // Nobody in there looks into this process while it still is more than they are.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let first = rustix::process::pidfd_open(Pid::INIT, PidfdFlags::empty())?;
    let types = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    Ok(move_into_thread_name_spaces(first.as_fd(), types)?)
}

/// Namespaces, and what is in them.
fn settle(spec: &Spec) -> io::Result<()> {
    // The namespace begins at the groups that this process is in.
    let groups = cgroup::join(&spec.groups).map_err(|error| say("its control groups", error))?;
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    if spec.network != Network::Given {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    nix::sched::unshare(flags).map_err(|error| say("namespaces", error.into()))?;
    rustix::system::sethostname(spec.host_name.as_bytes())
        .map_err(|error| say("the host name", error.into()))?;
    if let Network::Alone { address } = spec.network {
        network::alone(address)?;
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    rustix::process::umask(Mode::empty());
    mounts(spec, &groups)
}

/// The kernel forgets this whenever a process changes who it is.
fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

fn mounts(spec: &Spec, groups: &[&Group]) -> io::Result<()> {
    let root = Root::open(spec.root.as_std_path())?;
    root.mount("proc", "/proc", &[], PLAIN).map_err(|error| say("proc", error))?;
    sys(&root).map_err(|error| say("sysfs", error))?;
    cgroup::show(&root, groups).map_err(|error| say("its control groups", error))?;
    let dev = device::mount(&root, spec.devices)?;
    let null = root.at("/dev/null")?;
    for mount in &spec.mounts {
        place_one(&root, &dev, mount, spec.devices)?;
    }
    for path in READ_ONLY {
        protect(&root, path).map_err(|error| say(path, error))?;
    }
    for path in MASKED.map(str::to_owned).into_iter().chain(heat()) {
        mask(&root, &null, &path).map_err(|error| say(&path, error))?;
    }
    if spec.read_only {
        place::restrict(&root.at("/")?, MountFlags::RDONLY)?;
    }
    rustix::process::chdir(spec.root.as_std_path())?;
    rustix::process::pivot_root(".", ".").map_err(|error| say("pivot_root", error.into()))?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// A user namespace that does not own the network namespace may not mount sysfs; the host's is shown then.
fn sys(root: &Root) -> io::Result<()> {
    let flags = PLAIN | MountAttrFlags::MOUNT_ATTR_RDONLY;
    match place::create("sysfs", &[], flags) {
        Ok(mounted) => Ok(place::attach(&mounted, &root.ensure("/sys", true)?)?),
        Err(Errno::PERM) => {
            root.bind(Path::new("/sys"), "/sys", true)?;
            // What is mounted there came with it, and this user may have been given a part of it.
            root.mount("tmpfs", "/sys/fs/cgroup", &[], PLAIN | MountAttrFlags::MOUNT_ATTR_RDONLY)
        }
        Err(error) => Err(error.into()),
    }
}

/// Mounts something that was asked for.
fn place_one(root: &Root, dev: &OwnedFd, mount: &Bind, devices: Devices) -> io::Result<()> {
    let path = &mount.target;
    let closed = if devices == Devices::Closed { MountFlags::NODEV } else { MountFlags::empty() };
    let flags = |read_only: bool| if read_only { MountFlags::RDONLY | closed } else { closed };
    let (tree, flags) = match &mount.source {
        Source::Path { path, read_only } => (place::tree_at(path.as_std_path())?, flags(*read_only)),
        Source::Below { root, path, read_only } => {
            let found = Root::open(root.as_std_path())?.at(path);
            let tree = found.and_then(|found| place::tree(&found));
            (tree.map_err(|error| with_path(error, path))?, flags(*read_only))
        }
        Source::Tmpfs { size, mode } => {
            let (mode, size) = (format!("{mode:o}"), size.map(|size| size.to_string()));
            let mut options = vec![("mode", Some(mode.as_str()))];
            options.extend(size.as_deref().map(|size| ("size", Some(size))));
            let plain = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
            let tree = place::create("tmpfs", &options, plain).map_err(|error| with_path(error, path))?;
            (tree, MountFlags::empty())
        }
    };
    let target = root.ensure(path, place::is_folder(&tree)?)?;
    refused::check(root, dev, &target, path)?;
    place::place(&tree, &target, flags).map_err(|error| with_path(error, path))
}

/// Makes what is at a path read-only. What was mounted in it on request stays as it was asked for, as with runc.
fn protect(root: &Root, path: &str) -> io::Result<()> {
    match root.find(path)? {
        Some(target) => {
            let tree = place::tree(&target)?;
            place::attach(&tree, &target)?;
            Ok(place::restrict(&tree, MountFlags::RDONLY)?)
        }
        None => Ok(()),
    }
}

/// Hides a path: a file behind the sandbox's own `/dev/null`, which root inside may change.
fn mask(root: &Root, null: &OwnedFd, path: &str) -> io::Result<()> {
    let Some(target) = root.find(path)? else { return Ok(()) };
    let hides = if place::is_folder(&target)? {
        place::create("tmpfs", &[], PLAIN | MountAttrFlags::MOUNT_ATTR_RDONLY)?
    } else {
        place::tree(null)?
    };
    Ok(place::attach(&hides, &target)?)
}

/// Returns the folders that tell how hot each processor is, and with that what else the machine does: Docker hides them
/// too.
fn heat() -> impl Iterator<Item = String> {
    const CPUS: &str = "/sys/devices/system/cpu";
    let names = std::fs::read_dir(CPUS).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let is_cpu = |name: &String| {
        name.strip_prefix("cpu").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    names.filter(is_cpu).map(|name| format!("{CPUS}/{name}/thermal_throttle"))
}

fn enter_workdir(path: &str) -> io::Result<()> {
    let path = if path.is_empty() { "/" } else { path };
    match rustix::process::chdir(path) {
        Err(Errno::NOENT) => {
            std::fs::create_dir_all(path).map_err(|error| say(path, error))?;
            Ok(rustix::process::chdir(path)?)
        }
        other => other.map_err(|error| say(path, error.into())),
    }
}

/// Gives up what is not the program's, and becomes it. Returns only when that fails.
fn become_program(spec: &Spec, account: &Account) -> Trouble {
    if let Err(error) = give_up(account) {
        return Trouble::of(&error, error.to_string());
    }
    let variable = |name: &str| spec.env.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value);
    let Some(name) = spec.argv.first() else {
        return Trouble::Sandbox("there is no command".into());
    };
    let program = match find(name, variable("PATH").map_or(PATH, |path| path)) {
        Ok(program) => program,
        Err(trouble) => return trouble,
    };
    let mut command = Command::new(&program);
    command.arg0(name).args(&spec.argv[1..]).env_clear().stdin(no_input());
    if variable("HOME").is_none() {
        command.env("HOME", &account.home);
    }
    command.envs(spec.env.iter().map(|(key, value)| (key, value)));
    let error = command.exec();
    let program = program.display();
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => not_executable(
            127,
            format!(
                "{program} is there, but what it needs to run is not: the interpreter of its first line, or its dynamic loader"
            ),
        ),
        Some(Errno::NOEXEC) => {
            not_executable(126, format!("{program} is no program of this machine, and has no `#!` line"))
        }
        _ => not_executable(126, format!("{program} cannot be executed: {error}")),
    }
}

fn not_executable(code: i64, message: String) -> Trouble {
    Trouble::NotStarted(NotStarted::NotExecutable { code, message })
}

/// `/dev/null`, or where something else is mounted at `/dev` that lacks it, a pipe that nobody writes to: not to be
/// able to open the one would be told as not being able to run the program.
fn no_input() -> Stdio {
    let null = std::fs::File::open("/dev/null").map(Stdio::from);
    null.or_else(|_| io::pipe().map(|(reader, _)| Stdio::from(reader))).unwrap_or_else(|_| Stdio::inherit())
}

fn give_up(account: &Account) -> io::Result<()> {
    let owner = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    if account.uid != 0 {
        // So that the program can open /dev/stdout, as runc has it. A user namespace may not know the id.
        let _ = rustix::fs::fchown(io::stdout(), Some(owner.0), None);
        let _ = rustix::fs::fchown(io::stderr(), Some(owner.0), None);
    }
    // As long as this process may have one without giving up that setuid programs work. What follows it allows.
    seccomp::install().map_err(|error| say("the filter of system calls", error))?;
    capabilities::bound().map_err(|error| say("capabilities", error))?;
    let groups: Vec<Gid> = account.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    match rustix::thread::set_thread_groups(&groups) {
        // A user namespace with one id has no groups to give up.
        Err(Errno::PERM) if groups.is_empty() => {}
        other => other.map_err(|error| say("groups", error.into()))?,
    }
    let who = format!("user {}:{}", account.uid, account.gid);
    let unmapped = |error: Errno| match error {
        Errno::INVAL => io::Error::other(format!(
            "{who}: this user has no subordinate id for it (see /etc/subuid and /etc/subgid)"
        )),
        error => say(&who, error.into()),
    };
    rustix::thread::set_thread_res_gid(owner.1, owner.1, owner.1).map_err(unmapped)?;
    rustix::thread::set_thread_res_uid(owner.0, owner.0, owner.0).map_err(unmapped)?;
    die_with_parent()
}

/// The program that a name means, as `execvp` finds it.
fn find(name: &str, path: &str) -> Result<PathBuf, Trouble> {
    let absent = || Trouble::NotStarted(NotStarted::NoProgram(name.to_owned()));
    let denied = |program: &Path| {
        let program = program.display();
        let why = "it has no mode bit that allows it, or it is a folder";
        not_executable(126, format!("{program} may not be executed: {why}"))
    };
    if name.contains('/') {
        let program = PathBuf::from(name);
        return match rustix::fs::accessat(CWD, &program, Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) if program.is_dir() => Err(denied(&program)),
            Ok(()) => Ok(program),
            Err(Errno::ACCESS) => Err(denied(&program)),
            Err(_) => Err(absent()),
        };
    }
    let mut refused = None;
    for folder in path.split(':') {
        let folder = if folder.is_empty() { "." } else { folder };
        let program = Path::new(OsStr::from_bytes(folder.as_bytes())).join(name);
        match rustix::fs::accessat(CWD, &program, Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) if program.is_file() => return Ok(program),
            Err(Errno::ACCESS) => refused = Some(program),
            _ => {}
        }
    }
    Err(refused.map_or_else(absent, |program| denied(&program)))
}

fn say(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
