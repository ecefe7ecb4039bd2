//! The programs that turn packets into connections: which of them is there, and how it is called.

use std::io;
use std::path::PathBuf;

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};

use super::{BEHIND, MTU, RESOLVER, ROUTER};

/// A program, and its arguments.
pub(crate) struct Stack {
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
}

impl Stack {
    /// The one that `what` can have on this machine.
    ///
    /// # Errors
    /// Returns an error that says what is missing, and what to do.
    pub(crate) fn ready(what: &str) -> io::Result<Self> {
        let stack = Self::find().ok_or_else(|| {
            let message = format!(
                "{what} needs slirp4netns or pasta, and neither is in PATH: apt-get install slirp4netns"
            );
            io::Error::new(io::ErrorKind::NotFound, message)
        })?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::open(DEVICE, flags, Mode::empty()).map_err(|error| {
            let error = io::Error::from(error);
            let message = format!(
                "{what} needs {DEVICE}, which cannot be opened: {error}; as root: modprobe tun; chmod 666 {DEVICE}"
            );
            io::Error::new(error.kind(), message)
        })?;
        Ok(stack)
    }

    /// The first that is there. slirp4netns comes first: Debian 12 has a release of it that rootless containers have
    /// used for years, and of pasta a snapshot of March 2023, from the middle of its making.
    fn find() -> Option<Self> {
        let all = [("slirp4netns", slirp4netns as fn() -> Vec<String>), ("pasta", pasta)];
        all.into_iter().find_map(|(name, args)| Some(Self { program: in_path(name)?, args: args() }))
    }
}

/// The device through which a program gets the packets of an interface.
const DEVICE: &str = "/dev/net/tun";

/// The program that a name means.
fn in_path(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders)
        .map(|folder| folder.join(name))
        .find(|program| rustix::fs::accessat(CWD, program, Access::EXEC_OK, AtFlags::EACCESS).is_ok())
}

/// Its stdin is the network namespace. It gives up its privileges and sees no file of this machine but its resolver's.
fn slirp4netns() -> Vec<String> {
    let mtu = format!("--mtu={MTU}");
    let words = [
        "--netns-type=path",
        "--cidr=10.88.0.128/25",
        mtu.as_str(),
        "--disable-host-loopback",
        "--enable-sandbox",
        "--enable-seccomp",
        "/proc/self/fd/0",
        "tap0",
    ];
    words.map(str::to_owned).into()
}

/// The same. It confines itself; nothing is passed on from either side to ports of the other.
fn pasta() -> Vec<String> {
    let [address, router, resolver] = [BEHIND, ROUTER, RESOLVER].map(|address| address.to_string());
    let mtu = MTU.to_string();
    let words = [
        ["--foreground", "--quiet", "--stderr", "--ipv4-only", "--no-map-gw", "--netns-only"].as_slice(),
        &["--runas", "0", "--ns-ifname", "tap0", "--mtu", &mtu],
        &["--address", &address, "--netmask", "25", "--gateway", &router, "--dns-forward", &resolver],
        &["--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none"],
        &["--netns", "/proc/self/fd/0"],
    ];
    words.concat().into_iter().map(str::to_owned).collect()
}
