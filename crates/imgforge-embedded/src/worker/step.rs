//! Carries out a step of a build.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::Stop;
use super::message::{Action, Begin, Mount, MountKind, Network, NotStarted, Reply, Run, Step, Tree};
use crate::cgroup::Groups;
use crate::network::Outside;
use crate::sandbox::overlay::{Devices, Overlay, make_folder};
use crate::sandbox::stubs::{Stubs, resolve};
use crate::sandbox::{self, Bind, HOST_NAME, Memory, Outputs, Program, Source, Spec, open_in_root};
use crate::{accounts, copy, layer, network};

/// The number of bytes below which a disk counts as full: file systems refuse to write before nothing is left.
const LAST_ROOM: u64 = 1 << 20;

/// The content of `/etc/hosts`: BuildKit's, with our host name.
const HOSTS: &str = "127.0.0.1\tlocalhost imgforge\n::1\tlocalhost ip6-localhost ip6-loopback\n";

pub(super) fn carry_out(step: &Step, folder: &Utf8Path, stop: &Stop) -> io::Result<Reply> {
    if let Action::Merge { layers } = &step.action {
        return merge(step, layers, folder);
    }
    // The kernel stamps files with a clock that is a few milliseconds behind.
    let since = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec - 1;
    let groups = match &step.action {
        Action::Run(_) => Groups::of_step()?,
        _ => Groups::default(),
    };
    stop.remove_too(groups.paths());
    let overlay = Overlay::writable(&step.stack, folder, Devices::of(&groups))?;
    let mut stubs = None;
    let mut ended = None;
    match &step.action {
        Action::Run(run) => {
            let made = stubs.insert(Stubs::new(overlay.root())?);
            ended = self::run(run, overlay.root(), made, folder, &groups, stop)?;
        }
        Action::Copy(what) => {
            let source = match &what.tree {
                Tree::Stack(stack) => Some(Overlay::read_only(stack, &trees(folder, "source")?)?),
                Tree::Context(_) => None,
            };
            copy::copy(overlay.root(), source.as_ref().map(Overlay::root), what, step.epoch)?;
        }
        Action::Folder { path, owner } => folders(overlay.root(), path, owner)?,
        Action::Merge { .. } => {}
    }
    if ended.is_none() {
        stubs.as_ref().map_or(Ok(()), Stubs::remove)?;
    }
    let upper = overlay.unmount()?;
    let reply = match ended {
        Some(reply) => reply,
        None => {
            stubs.map_or(Ok(()), |stubs| stubs.settle(&upper))?;
            let clamp = layer::Clamp { since, epoch: step.epoch };
            let layer = layer::pack(&upper, &step.stack, clamp, step.compression, &step.blob)?;
            if layer.is_some() {
                std::fs::rename(&upper, &step.folder)?;
            }
            Reply::Step(layer)
        }
    };
    // The work folder is one that nobody else may even read.
    for name in ["root", "upper", "work", "empty", "trees"] {
        super::remove(&folder.join(name))?;
    }
    Ok(reply)
}

fn merge(step: &Step, layers: &[Utf8PathBuf], folder: &Utf8Path) -> io::Result<Reply> {
    let upper = folder.join("upper");
    make_folder(&upper)?;
    layer::merge(&step.stack, layers, &upper)?;
    let layer = layer::pack(&upper, &step.stack, layer::Clamp::NONE, step.compression, &step.blob)?;
    super::remove(&upper)?;
    Ok(Reply::Step(layer))
}

/// A folder for what is mounted beside the root.
fn trees(folder: &Utf8Path, name: &str) -> io::Result<Utf8PathBuf> {
    let trees = folder.join("trees");
    make_folder(&trees)?;
    let tree = trees.join(name);
    make_folder(&tree)?;
    Ok(tree)
}

/// Makes a folder and those above it that are missing, with their owner.
pub(super) fn folders(root: &Utf8Path, path: &str, owner: &str) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root.as_std_path(), flags, Mode::empty())?;
    let (uid, gid) = accounts::owner(&root, owner)?;
    let owner = (Uid::from_raw(uid), Gid::from_raw(gid));
    let resolved = resolve(root.as_fd(), Path::new(path))?;
    let mut folder: OwnedFd = root;
    for name in &resolved {
        match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::chownat(&folder, name, Some(owner.0), Some(owner.1), flags)
                    .map_err(|error| owned(error, path, uid, gid))?;
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(said(error, path)),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        folder = rustix::fs::openat2(&folder, name, flags, Mode::empty(), ResolveFlags::BENEATH)
            .map_err(|error| said(error, path))?;
    }
    Ok(())
}

/// Gives what is mounted at a target its owner and mode.
fn give(path: &Utf8Path, target: &str, mode: u32, uid: u32, gid: u32) -> io::Result<()> {
    rustix::fs::chown(path.as_std_path(), Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .map_err(|error| owned(error, target, uid, gid))?;
    rustix::fs::chmod(path.as_std_path(), Mode::from_raw_mode(mode)).map_err(|error| said(error, target))
}

fn owned(error: Errno, path: &str, uid: u32, gid: u32) -> io::Error {
    match error {
        Errno::INVAL => io::Error::other(format!(
            "{path} cannot belong to {uid}:{gid}: this user has no subordinate id for it (see /etc/subuid)"
        )),
        error => said(error, path),
    }
}

fn said(error: Errno, path: &str) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

/// Runs a command. `None` when it has ended with 0.
fn run(
    run: &Run,
    root: &Utf8Path,
    stubs: &mut Stubs,
    folder: &Utf8Path,
    groups: &Groups,
    stop: &Stop,
) -> io::Result<Option<Reply>> {
    let devices = Devices::of(groups);
    let (mounts, _kept) = prepare(run, folder, devices)?;
    mount_points(stubs, &mounts)?;
    let outside = (run.network == Network::Default).then(Outside::open).transpose()?;
    let network = outside.as_ref().map(Outside::namespace);
    let spec = Spec {
        root: root.to_owned(),
        argv: run.argv.clone(),
        env: run.env.clone(),
        workdir: run.workdir.clone(),
        user: run.user.clone(),
        mounts,
        network: match run.network {
            Network::None => sandbox::Network::Alone { address: None },
            Network::Default | Network::Host => sandbox::Network::Given,
        },
        host_name: HOST_NAME.into(),
        read_only: false,
        joins: false,
        groups: groups.each().to_vec(),
        devices,
    };
    let timeout = run.timeout.map(Duration::from_secs);
    let program = Program::take(folder)?;
    match sandbox::run(&spec, &program, Outputs::merged()?, network, |child| stop.wait(child, timeout)) {
        Ok(None) => Ok(Some(Reply::TimedOut)),
        Ok(Some(0)) => Ok(None),
        // What the command has written is still there.
        Ok(Some(code)) => Ok(Some(Reply::Failed { code, is_full: has_no_room(folder)? })),
        Err(trouble) => Ok(Some(match trouble.not_started()? {
            // Told as a shell tells it: in the log, and by its status.
            NotStarted::NotExecutable { code, message } => {
                writeln!(io::stdout(), "{message}")?;
                Reply::Failed { code, is_full: false }
            }
            found @ NotStarted::NoProgram(_) => Reply::NotStarted(found),
        })),
    }
}

/// Returns whether the disk of a folder has no room, or no inode, for a file that this user would write.
fn has_no_room(folder: &Utf8Path) -> io::Result<bool> {
    let disk = rustix::fs::statvfs(folder.as_std_path())?;
    let is_full = disk.f_bavail.saturating_mul(disk.f_frsize) < LAST_ROOM;
    // Some file systems count no inodes.
    Ok(is_full || disk.f_files > 0 && disk.f_favail == 0)
}

/// Makes what is mounted on where it is missing.
pub(super) fn mount_points(stubs: &mut Stubs, mounts: &[Bind]) -> io::Result<()> {
    let mut covered = vec!["/proc", "/sys", "/dev"];
    for path in &covered {
        stubs.make(path, true)?;
    }
    for mount in mounts {
        // What is in another mount is made there.
        if !covered.iter().any(|outer| Path::new(&mount.target).starts_with(outer)) {
            stubs.make(&mount.target, is_folder(&mount.source)?)?;
        }
        covered.push(&mount.target);
    }
    Ok(())
}

fn is_folder(source: &Source) -> io::Result<bool> {
    let (found, path) = match source {
        Source::Path { path, .. } => (rustix::fs::stat(path.as_std_path()), path.as_str()),
        Source::Below { root, path, .. } => {
            let root = rustix::fs::open(root.as_std_path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            let found = open_in_root(&root, Path::new(path), OFlags::PATH).and_then(rustix::fs::fstat);
            (found, path.as_str())
        }
        Source::Tmpfs { .. } => return Ok(true),
    };
    let found = found.map_err(|error| said(error, path))?;
    Ok(FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

/// The mounts that must stay while a command runs, for them to be seen inside.
struct Kept {
    files: Memory,
    trees: Vec<Overlay>,
    devices: Devices,
}

/// Prepares the mounts of a command, and what must stay mounted meanwhile.
fn prepare(run: &Run, folder: &Utf8Path, devices: Devices) -> io::Result<(Vec<Bind>, Kept)> {
    // Secrets are among what is written here; they stay in memory.
    let mut kept = Kept { files: Memory::mount(trees(folder, "files")?)?, trees: Vec::new(), devices };
    let files = kept.files.folder().to_owned();
    let resolv = match run.network {
        Network::Host => std::fs::read("/etc/resolv.conf").unwrap_or_default(),
        Network::Default => network::resolv_conf().into(),
        Network::None => Vec::new(),
    };
    std::fs::write(files.join("resolv.conf"), resolv)?;
    std::fs::write(files.join("hosts"), HOSTS)?;
    let mut binds: Vec<Bind> = ["resolv.conf", "hosts"]
        .into_iter()
        .map(|name| Bind {
            target: format!("/etc/{name}"),
            source: Source::Path { path: files.join(name), read_only: true },
        })
        .collect();
    for (index, mount) in run.mounts.iter().enumerate() {
        binds.push(bind(mount, index, folder, &files, &mut kept)?);
    }
    Ok((binds, kept))
}

/// Makes a cache. It is there when it is whole, and the first one stays.
fn begin(cache: &Utf8Path, begin: &Begin, folder: &Utf8Path, index: usize) -> io::Result<()> {
    let new = folder.join(format!("cache-{index}"));
    make_folder(&new)?;
    match begin {
        Begin::Empty { mode, uid, gid } => give(&new, "a cache", *mode, *uid, *gid)?,
        Begin::Copy { stack, path } => {
            let stack = Overlay::read_only(stack, &trees(folder, &format!("begin-{index}"))?)?;
            copy::copy_folder(stack.root(), path, &new)?;
        }
    }
    match rustix::fs::renameat_with(CWD, new.as_std_path(), CWD, cache.as_std_path(), RenameFlags::NOREPLACE)
    {
        // Somebody else has made it meanwhile.
        Err(Errno::EXIST) => super::remove(&new),
        done => Ok(done?),
    }
}

fn bind(
    mount: &Mount,
    index: usize,
    folder: &Utf8Path,
    files: &Utf8Path,
    kept: &mut Kept,
) -> io::Result<Bind> {
    let source = match &mount.kind {
        MountKind::Host { path, read_only } => Source::Path { path: path.clone(), read_only: *read_only },
        MountKind::Cache { path, begin, read_only } => {
            if !path.exists() {
                self::begin(path, begin, folder, index)?;
            }
            Source::Path { path: path.clone(), read_only: *read_only }
        }
        MountKind::Tmpfs { size, mode } => Source::Tmpfs { size: *size, mode: *mode },
        MountKind::File { content, mode, uid, gid } => {
            let path = files.join(index.to_string());
            std::fs::write(&path, content)?;
            give(&path, &mount.target, *mode, *uid, *gid)?;
            Source::Path { path, read_only: true }
        }
        MountKind::Socket { path, mode, uid, gid } => {
            give(path, &mount.target, *mode, *uid, *gid)?;
            Source::Path { path: path.clone(), read_only: false }
        }
        MountKind::Tree { tree, path, read_only } => {
            let place = trees(folder, &index.to_string())?;
            let root = match tree {
                Tree::Stack(stack) => {
                    let overlay = if *read_only {
                        Overlay::read_only(stack, &place)?
                    } else {
                        Overlay::writable(stack, &place, kept.devices)?
                    };
                    kept.trees.push(overlay);
                    place.join("root")
                }
                Tree::Context(entries) => {
                    copy::materialise(entries, &place, copy::CONTEXT_TIME)?;
                    place
                }
            };
            Source::Below { root, path: path.clone(), read_only: *read_only }
        }
    };
    Ok(Bind { target: mount.target.clone(), source })
}
