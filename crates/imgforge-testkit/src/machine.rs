//! A machine of a test's own, as far as the network goes: a network namespace with servers on its loopback, and another
//! machine beside it, which is all the outside that there is.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where the other machine answers `outside`, over TCP and UDP. Its name is `server.test`.
pub const OUTSIDE: &str = "198.51.100.2:8000";

/// Where this machine answers `loopback` to itself, over TCP and UDP.
pub const LOOPBACK: &str = "127.0.0.1:8001";

/// `PATH` may be nothing that it is in.
const IP: &str = "/sbin/ip";

/// Where this machine's resolver listens.
const RESOLVER: &str = "127.0.0.53:53";

/// A machine. It is gone when it is dropped.
pub struct Machine {
    name: String,
    reached: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Machine {
    /// Makes one; it takes root.
    ///
    /// # Errors
    /// When `ip` is not there, or refuses.
    pub fn new() -> io::Result<Self> {
        let machine = Self { name: crate::unique("imgforge-test"), reached: Arc::default() };
        let (here, there) = (machine.name.as_str(), machine.other());
        // The ends of the pair are made where they belong: elsewhere each would have a name in this machine's own
        // network.
        for command in [
            format!("netns add {here}"),
            format!("netns add {there}"),
            format!("-n {here} link set lo up"),
            format!("-n {there} link set lo up"),
            format!("-n {here} link add out type veth peer name in netns {there}"),
            format!("-n {here} address add 198.51.100.1/24 dev out"),
            format!("-n {there} address add 198.51.100.2/24 dev in"),
            format!("-n {here} link set out up"),
            format!("-n {there} link set in up"),
            format!("-n {here} route add default via 198.51.100.2"),
        ] {
            let output = Command::new(IP).args(command.split(' ')).output()?;
            if !output.status.success() {
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(io::Error::other(format!("ip {command}: {error}")));
            }
        }
        std::fs::create_dir_all(machine.etc())?;
        // `ip netns exec` shows it at /etc/resolv.conf.
        std::fs::write(machine.etc().join("resolv.conf"), "nameserver 127.0.0.53\nsearch test\n")?;
        machine.serve()?;
        Ok(machine)
    }

    /// The other machine's namespace.
    fn other(&self) -> String {
        format!("{}-o", self.name)
    }

    fn etc(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.name)
    }

    fn serve(&self) -> io::Result<()> {
        let outside = within(&self.other(), || Ok((TcpListener::bind(OUTSIDE)?, UdpSocket::bind(OUTSIDE)?)))?;
        let tell = |_: &'static str| ();
        tcp(outside.0, "outside", tell);
        udp(outside.1, "outside", tell);
        let listeners = within(&self.name, || {
            let address = SocketAddr::from_abstract_name(&self.name)?;
            let sockets = (UdpSocket::bind(LOOPBACK)?, UdpSocket::bind(RESOLVER)?);
            Ok((TcpListener::bind(LOOPBACK)?, sockets.0, sockets.1, UnixListener::bind_addr(&address)?))
        })?;
        let teller = || {
            let reached = Arc::clone(&self.reached);
            move |what| {
                let _ = reached.lock().unwrap_or_else(PoisonError::into_inner).insert(what);
            }
        };
        tcp(listeners.0, "loopback", teller());
        udp(listeners.1, "loopback", teller());
        resolver(listeners.2);
        abstract_socket(listeners.3, teller());
        Ok(())
    }

    /// Starts a program on this machine.
    pub fn command(&self) -> Command {
        let mut command = Command::new(IP);
        command.args(["netns", "exec", &self.name]);
        command
    }

    /// The name of its abstract socket.
    pub fn abstract_name(&self) -> &str {
        &self.name
    }

    /// What of this machine's own was reached so far: `tcp`, `udp`, `abstract`.
    pub fn reached(&self) -> BTreeSet<&'static str> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connects to a port of its loopback.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn connect(&self, address: &str) -> io::Result<TcpStream> {
        within(&self.name, || TcpStream::connect(address))
    }

    /// The programs of this name that run in its network.
    pub fn running(&self, name: &str) -> usize {
        let Ok(network) = std::fs::metadata(format!("/run/netns/{}", self.name)) else { return 0 };
        let is_one = |process: &Path| {
            let comm = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
            comm.trim_end() == name
                && std::fs::metadata(process.join("ns/net")).is_ok_and(|found| found.ino() == network.ino())
        };
        let Ok(processes) = std::fs::read_dir("/proc") else { return 0 };
        processes.flatten().filter(|process| is_one(&process.path())).count()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for name in [&self.name, &self.other()] {
            let _ = Command::new(IP).args(["netns", "delete", name]).status();
        }
        let _ = std::fs::remove_dir_all(self.etc());
    }
}

/// Does something in a network namespace: a socket stays in the one in which it was made.
fn within<T: Send>(name: &str, run: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(format!("/run/netns/{name}"))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            run()
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("its thread has ended")))
    })
}

fn tcp(listener: TcpListener, answer: &'static str, tell: impl Fn(&'static str) + Send + 'static) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            tell("tcp");
            let _ = stream.and_then(|mut stream| stream.write_all(answer.as_bytes()));
        }
    });
}

fn udp(socket: UdpSocket, answer: &'static str, tell: impl Fn(&'static str) + Send + 'static) {
    std::thread::spawn(move || {
        while let Ok((_, from)) = socket.recv_from(&mut [0; 512]) {
            tell("udp");
            let _ = socket.send_to(answer.as_bytes(), from);
        }
    });
}

fn abstract_socket(listener: UnixListener, tell: impl Fn(&'static str) + Send + 'static) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            tell("abstract");
            let _ = stream.and_then(|mut stream| stream.write_all(b"abstract"));
        }
    });
}

/// Answers that every name has the address of the other machine, and no IPv6 address (RFC 1035, 4.1).
fn resolver(socket: UdpSocket) {
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut query) {
            let _ = resolved(&query[..len]).map(|answer| socket.send_to(&answer, from));
        }
    });
}

fn resolved(query: &[u8]) -> Option<Vec<u8>> {
    let name = query.get(12..)?.iter().position(|byte| *byte == 0)?;
    let question = query.get(12..12 + name + 5)?;
    let is_ipv4 = question[name + 1..].starts_with(&[0, 1]);
    // A response to a query; one question, maybe one answer.
    let mut answer = [&query[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0], question].concat();
    if is_ipv4 {
        // The name of the question; A, IN; for a minute; four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 2]);
    }
    Some(answer)
}
