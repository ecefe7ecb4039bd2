//! `service "NAME" { ... }`: what an image runs, in words that no supervisor owns.

mod read;

use std::collections::BTreeMap;
use std::fmt;

use imgforge_syntax::{Located, Span};
use serde::{Deserialize, Serialize};

pub(super) use self::read::{IN_SERVICE, absolute, parse_size, service, service_name, signal, supervisor};
use super::Millis;
use crate::name::ServiceName;

/// What runs an image's services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Supervisor {
    /// s6-svscan as PID 1.
    S6,
    /// runsvdir under a PID 1 that stops it in order.
    Runit,
    /// supervisord under tini, since it reaps nothing that it did not start.
    Supervisord,
    /// s6-overlay's `/init`: s6 and s6-rc.
    S6Overlay,
    /// systemd, for images that are really machines.
    Systemd,
    /// tini in front of exactly one process.
    Tini,
    /// dumb-init in front of exactly one process.
    DumbInit,
    /// Exactly one process, which is PID 1 itself.
    None,
}

impl Supervisor {
    /// All of them, the default first.
    pub const ALL: [Self; 8] = [
        Self::S6,
        Self::Runit,
        Self::Supervisord,
        Self::S6Overlay,
        Self::Systemd,
        Self::Tini,
        Self::DumbInit,
        Self::None,
    ];

    /// Whether it runs exactly one service, and keeps nothing in a running container.
    pub fn is_single(self) -> bool {
        matches!(self, Self::Tini | Self::DumbInit | Self::None)
    }

    /// As it is written in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::S6 => "s6",
            Self::Runit => "runit",
            Self::Supervisord => "supervisord",
            Self::S6Overlay => "s6-overlay",
            Self::Systemd => "systemd",
            Self::Tini => "tini",
            Self::DumbInit => "dumb-init",
            Self::None => "none",
        }
    }
}

/// `supervisor "s6" install=#false`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisorChoice {
    /// Which one.
    pub supervisor: Supervisor,
    /// Whether its Debian packages are added to the topmost image with services; else that image brings its programs
    /// in another way.
    pub install: bool,
}

/// `service "NAME" { ... }`: a process under the image's supervisor.
///
/// A field that is `None` is taken from the same service of the nearest parent that gives it; a child may
/// so override one field, or switch the whole service off with `enabled #false`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The node's place.
    pub span: Span,
    /// Its name, a folder name in the image.
    pub name: Located<ServiceName>,
    /// `enabled #false` switches a parent's service off.
    pub enabled: Option<Located<bool>>,
    /// `type "longrun"|"oneshot"`.
    pub kind: Option<Located<ServiceType>>,
    /// `command "PROGRAM" "ARG"...` or `script "TEXT"`.
    pub process: Option<Located<Process>>,
    /// `user "web"`: who it runs as; root when no one says.
    pub user: Option<Located<String>>,
    /// `group "web"`: its primary group; that of `user` when no one says.
    pub group: Option<Located<String>>,
    /// `dir "/srv/app"`: its working directory; `/` when no one says.
    pub dir: Option<Located<String>>,
    /// `env "NAME" "VALUE"`.
    pub env: BTreeMap<String, Located<String>>,
    /// `limit nofile=1024`: see [`Limit`]; `None` is no limit.
    pub limits: BTreeMap<Limit, Located<Option<u64>>>,
    /// `needs "OTHER"`: started after these are ready.
    pub needs: Vec<Located<Need>>,
    /// `before "OTHER"`: these are started after it is ready.
    pub before: Vec<Located<Wait>>,
    /// `ready ...`.
    pub ready: Option<Located<Ready>>,
    /// `restart "always" delay="1s"`.
    pub restart: Option<Located<Restart>>,
    /// `essential #true`: its end ends the container with its exit code.
    pub essential: Option<Located<bool>>,
    /// `stop signal="QUIT" grace="10s"`.
    pub stop: Option<Located<Stop>>,
    /// `reload signal="HUP"` or `reload "PROGRAM" "ARG"...`.
    pub reload: Option<Located<Reload>>,
    /// `before-start "PROGRAM" "ARG"...`: run before each start, as the container's user; the service starts when it
    /// ends with 0.
    pub before_start: Option<Located<Vec<String>>>,
    /// `after-stop "PROGRAM" "ARG"...`: run after each end, as the container's user.
    pub after_stop: Option<Located<Vec<String>>>,
    /// `log "stdout"|"file"|"null"`.
    pub log: Option<Located<Log>>,
}

/// What a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// It runs until it is stopped.
    Longrun,
    /// It runs to its end once, and is ready when that end is 0.
    Oneshot,
}

impl ServiceType {
    /// As it is written in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Longrun => "longrun",
            Self::Oneshot => "oneshot",
        }
    }
}

/// What a service runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Process {
    /// An argument vector, never a shell line.
    Command(Vec<String>),
    /// A script for `/bin/sh`.
    Script(String),
}

/// A resource limit, by its name in setrlimit(2) without `RLIMIT_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Limit {
    /// Address space, in bytes.
    As,
    /// Size of a core file, in bytes.
    Core,
    /// Size of a file that it writes, in bytes.
    Fsize,
    /// Locked memory, in bytes.
    Memlock,
    /// Open files: one more than the greatest descriptor.
    Nofile,
    /// Processes of its user.
    Nproc,
    /// Stack, in bytes.
    Stack,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::As, Self::Core, Self::Fsize, Self::Memlock, Self::Nofile, Self::Nproc, Self::Stack];

    /// As it is written in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::As => "as",
            Self::Core => "core",
            Self::Fsize => "fsize",
            Self::Memlock => "memlock",
            Self::Nofile => "nofile",
            Self::Nproc => "nproc",
            Self::Stack => "stack",
        }
    }

    /// Whether it counts bytes.
    pub fn is_bytes(self) -> bool {
        !matches!(self, Self::Nofile | Self::Nproc)
    }
}

/// What a service waits for: another one, or a point in the start of the whole container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Wait {
    /// Another service.
    Service(ServiceName),
    /// The anchor `init`: everything that is `before "init"` is ready.
    Init,
    /// The anchor `ready`: everything that does not itself wait for it is ready.
    Ready,
}

/// `needs "OTHER"`, or `needs "OTHER" remove=#true`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// On what.
    pub on: Wait,
    /// Takes away what a parent says.
    pub remove: bool,
}

/// When a service is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// How it is found out.
    pub probe: Probe,
    /// Between two tries; 200 ms when not given.
    pub interval: Millis,
    /// After this long the service counts as failed; 30 s when not given.
    pub timeout: Millis,
}

/// How readiness is found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// `ready "PROGRAM" "ARG"...`: it exits with 0.
    Exec(Vec<String>),
    /// `ready http="http://127.0.0.1:8080/healthz"`: GET is answered with a status from 200 to 399.
    Http {
        /// The host's name or address.
        host: String,
        /// 80 when the address has none.
        port: u16,
        /// With the `/` at its start, and the query.
        path: String,
    },
    /// `ready tcp="127.0.0.1:5432"` or `ready tcp=5432`: a connection is accepted.
    Tcp {
        /// The host's name or address; `127.0.0.1` when only a port is given.
        host: String,
        /// The port.
        port: u16,
    },
    /// `ready fd=3`: the service writes a newline to this descriptor, as s6's notification-fd has it.
    Fd(u32),
}

impl fmt::Display for Probe {
    /// As a person would say it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exec(argv) => f.write_str(&argv.join(" ")),
            Self::Http { host, port: 80, path } => write!(f, "http://{host}{path}"),
            Self::Http { host, port, path } => write!(f, "http://{host}:{port}{path}"),
            Self::Tcp { host, port } => write!(f, "tcp {host}:{port}"),
            Self::Fd(fd) => write!(f, "told on descriptor {fd}"),
        }
    }
}

/// What happens when a service ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// When it is started again.
    pub policy: RestartPolicy,
    /// How long to wait before. A service that ends soon after its start waits longer each time.
    pub delay: Millis,
    /// How many restarts are too many; none are when not given.
    pub bound: Option<RestartBound>,
}

/// `max=5 within="60s" then="give-up"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartBound {
    /// The service may end by itself this many times ...
    pub max: u32,
    /// ... in this time, and is started again; once more is too many. 60 s when not given.
    pub within: Millis,
    /// What happens then.
    pub then: GiveUp,
}

/// What happens when a service has ended too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GiveUp {
    /// `then="give-up"`: it stays down (the default).
    Service,
    /// `then="stop"`: the container stops, with the service's exit code.
    Container,
}

/// When a service is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Whatever its exit code (the default of a longrun).
    Always,
    /// Only after a signal or an exit code other than 0.
    OnFailure,
    /// Never (the default of a oneshot).
    Never,
}

impl RestartPolicy {
    /// As it is written in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::OnFailure => "on-failure",
            Self::Never => "never",
        }
    }
}

/// How a service is stopped: `stop signal="QUIT" grace="10s"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Without `SIG`; `TERM` when not given.
    pub signal: String,
    /// After this long it is killed; 10 s when not given.
    pub grace: Millis,
    /// Whether its whole process group gets the signal, and has the grace; no when not given.
    pub group: bool,
}

/// How a service reads its configuration again, when the container gets HUP or someone asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reload {
    /// The service gets this signal (without `SIG`).
    Signal(String),
    /// A program is run, as the container's user.
    Command(Vec<String>),
}

/// Where a service's stdout and stderr go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Log {
    /// `log "stdout" prefix="web: "`: the container's log, each line with a prefix; the service's name and `: ` when
    /// not given, none with `prefix=#false`.
    Stdout {
        /// The prefix.
        prefix: Option<String>,
    },
    /// `log "file" dir="/var/log/web" max-size="1MB" keep=10`: the file `current` in a folder.
    File {
        /// The folder.
        dir: String,
        /// `current` is put aside when it reaches this many bytes; 1 MB when not given.
        max_size: u64,
        /// So many older files are kept; 10 when not given.
        keep: u32,
    },
    /// `log "null"`: nowhere.
    Null,
}
