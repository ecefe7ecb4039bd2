//! Runs a container to its end.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8Path;
use nix::sched::CloneFlags;
use rustix::fs::{Gid, Mode, OFlags, Uid};

use super::message::{Alive, Container, Copy, CopySource, Ended, Network, Reply, Tree, Volume};
use super::{Stop, start_of, step};
use crate::cgroup::{Groups, Limits};
use crate::copy;
use crate::network::{ADDRESS, Outside};
use crate::sandbox::overlay::{Devices, Overlay, make_folder};
use crate::sandbox::stubs::Stubs;
use crate::sandbox::{self, Bind, Outputs, Program, Source, Spec, open_in_root};

/// The socket in a container's folder, through which its ports are reached: whoever connects sends the port (two bytes,
/// the higher first) and is sent one byte, 0 or the number of the error; from then on it is the connection.
pub(crate) const DIAL: &str = "dial";

/// The file that describes a running container ([`Alive`]).
pub(crate) const STATE: &str = "state.json";

/// The time that a connection inside may take to be made.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn carry_out(container: &Container, stop: &Stop) -> io::Result<Reply> {
    let folder = &container.folder;
    // Whoever waits for a port wants to hear at once that it cannot be had.
    let listeners = container.ports.iter().map(listen).collect::<io::Result<Vec<_>>>()?;
    let limits = Limits { memory: container.memory, cpus: container.cpus };
    let groups = Groups::of_container(&container.id, limits)?;
    stop.remove_too(groups.paths());
    let devices = Devices::of(&groups);
    let overlay = Overlay::writable(&container.stack, folder, devices)?;
    step::folders(overlay.root(), &container.workdir, "")?;
    let mounts = mounts(container, overlay.root())?;
    step::mount_points(&mut Stubs::new(overlay.root())?, &mounts)?;
    let program = Program::take(folder)?;
    let outside = (container.network == Network::Default).then(Outside::open).transpose()?;
    let spec = Spec {
        root: overlay.root().to_owned(),
        argv: container.argv.clone(),
        env: container.env.clone(),
        workdir: container.workdir.clone(),
        user: container.user.clone(),
        mounts,
        network: if outside.is_some() {
            sandbox::Network::Given
        } else {
            sandbox::Network::Alone { address: Some(ADDRESS) }
        },
        host_name: container.id.chars().take(12).collect(),
        read_only: container.read_only,
        joins: false,
        groups: groups.each().to_vec(),
        devices,
    };
    let wait = |child: &mut Child| {
        serve(child, listeners, folder, &groups)?;
        stop.wait(child, None)
    };
    let network = outside.as_ref().map(Outside::namespace);
    let ended = sandbox::run(&spec, &program, Outputs::own()?, network, wait);
    match ended {
        Ok(code) => {
            Ok(Reply::Container(Ended { code: code.unwrap_or(137), out_of_memory: groups.out_of_memory() }))
        }
        Err(trouble) => trouble.not_started().map(Reply::NotStarted),
    }
}

/// All that is mounted in it, outer before inner.
fn mounts(container: &Container, root: &Utf8Path) -> io::Result<Vec<Bind>> {
    let files = container.folder.join("files");
    make_folder(&files)?;
    let mut binds = Vec::new();
    for (index, (target, content)) in container.files.iter().enumerate() {
        let path = files.join(index.to_string());
        std::fs::write(&path, content)?;
        binds.push(Bind { target: target.clone(), source: Source::Path { path, read_only: false } });
    }
    for volume in &container.volumes {
        if volume.fill {
            fill(volume, root)?;
        } else if !volume.path.exists() {
            std::fs::create_dir_all(&volume.path)?;
        }
        let source = Source::Path { path: volume.path.clone(), read_only: volume.read_only };
        binds.push(Bind { target: volume.target.clone(), source });
    }
    for target in &container.tmpfs {
        // As runc has it: like the folder that it hides.
        let mode = inside(root, target)?.and_then(|found| rustix::fs::fstat(found).ok());
        let mode = mode.map_or(0o1777, |stat| stat.st_mode & 0o7777);
        binds.push(Bind { target: target.clone(), source: Source::Tmpfs { size: None, mode } });
    }
    binds.sort_by_key(|bind| Path::new(&bind.target).components().count());
    Ok(binds)
}

/// Opens what the image has at a path; `None` where there is nothing.
fn inside(root: &Utf8Path, path: &str) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root.as_std_path(), flags, Mode::empty())?;
    match open_in_root(&root, Path::new(path), OFlags::PATH) {
        Ok(found) => Ok(Some(found)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives an empty volume what the image has at its place, as Docker does.
fn fill(volume: &Volume, root: &Utf8Path) -> io::Result<()> {
    std::fs::create_dir_all(&volume.path)?;
    if std::fs::read_dir(&volume.path)?.next().is_some() {
        return Ok(());
    }
    let Some(found) = inside(root, &volume.target)? else { return Ok(()) };
    let stat = rustix::fs::fstat(&found)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory {
        return Ok(());
    }
    let what = Copy {
        tree: Tree::Stack(Vec::new()),
        sources: vec![CopySource::Path(volume.target.clone())],
        target: "/".into(),
        chown: None,
        chmod: None,
        link: false,
        parents: false,
        excludes: Vec::new(),
        unpack: false,
    };
    copy::copy(&volume.path, Some(root), &what, i64::MAX)?;
    rustix::fs::chown(
        volume.path.as_std_path(),
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    rustix::fs::chmod(volume.path.as_std_path(), Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    Ok(())
}

fn listen((port, address): &(u16, SocketAddr)) -> io::Result<(u16, TcpListener)> {
    let listener = TcpListener::bind(address).map_err(|error| {
        io::Error::new(error.kind(), format!("port {port} cannot be had at {address}: {error}"))
    })?;
    Ok((*port, listener))
}

/// Makes the ports of a running container reached from outside, and says that it runs.
fn serve(
    child: &Child,
    listeners: Vec<(u16, TcpListener)>,
    folder: &Utf8Path,
    groups: &Groups,
) -> io::Result<()> {
    // One that has ended already has no network any more.
    let Ok(network) = std::fs::File::open(format!("/proc/{}/ns/net", child.id())) else { return Ok(()) };
    let network = Arc::new(OwnedFd::from(network));
    let mut ports = Vec::new();
    for (port, listener) in listeners {
        ports.push((port, listener.local_addr()?));
        let network = Arc::clone(&network);
        thread("port", move || {
            for outer in listener.incoming().flatten() {
                let network = Arc::clone(&network);
                let _ = thread("connection", move || {
                    if let Ok(inner) = connect(&network, port) {
                        join(&outer, &inner);
                    }
                });
            }
        })?;
    }
    let _ = std::fs::remove_file(folder.join(DIAL));
    let dial = at(folder, DIAL, |path| UnixListener::bind(path))?;
    thread("dial", move || {
        for outer in dial.incoming().flatten() {
            let network = Arc::clone(&network);
            let _ = thread("connection", move || dialled(outer, &network));
        }
    })?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let start = start_of(pid).ok_or_else(|| io::Error::other("it has ended"))?;
    let alive = Alive { pid, start, groups: groups.paths(), ports };
    let new = folder.join("state.json.new");
    std::fs::write(&new, serde_json::to_vec(&alive)?)?;
    std::fs::rename(new, folder.join(STATE))
}

/// A socket's address has a hundred bytes or so for a path; a folder's may have more.
pub(crate) fn at<T>(
    folder: &Utf8Path,
    name: &str,
    with: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder.as_std_path(), flags, Mode::empty())?;
    with(&Path::new(&sandbox::own(&folder)).join(name))
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.into()).stack_size(256 << 10).spawn(run)?;
    Ok(())
}

fn dialled(mut outer: UnixStream, network: &OwnedFd) {
    let mut port = [0; 2];
    if outer.read_exact(&mut port).is_err() {
        return;
    }
    let connected = connect(network, u16::from_be_bytes(port));
    let code = match &connected {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().and_then(|code| u8::try_from(code).ok()).unwrap_or(111),
    };
    if outer.write_all(&[code]).is_ok()
        && let Ok(inner) = connected
    {
        join(&outer, &inner);
    }
}

/// Connects to a port inside: a socket belongs to the network in which it was made, whoever uses it later.
fn connect(network: &OwnedFd, port: u16) -> io::Result<TcpStream> {
    nix::sched::setns(network, CloneFlags::CLONE_NEWNET)?;
    TcpStream::connect_timeout(&SocketAddr::from((ADDRESS, port)), PATIENCE)
}

/// Two ends of a connection.
trait End: Sync {
    fn pass(&self, to: &TcpStream) -> io::Result<u64>;
    fn take(&self, from: &TcpStream) -> io::Result<u64>;
    fn finish(&self) -> io::Result<()>;
}

macro_rules! end {
    ($kind:ty) => {
        impl End for $kind {
            fn pass(&self, mut to: &TcpStream) -> io::Result<u64> {
                io::copy(&mut &*self, &mut to)
            }
            fn take(&self, mut from: &TcpStream) -> io::Result<u64> {
                io::copy(&mut from, &mut &*self)
            }
            fn finish(&self) -> io::Result<()> {
                self.shutdown(Shutdown::Write)
            }
        }
    };
}

end!(TcpStream);
end!(UnixStream);

/// Passes on what comes at either end, until both have ended.
fn join(outer: &impl End, inner: &TcpStream) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = outer.pass(inner);
            let _ = inner.shutdown(Shutdown::Write);
        });
        let _ = outer.take(inner);
        let _ = outer.finish();
    });
}
