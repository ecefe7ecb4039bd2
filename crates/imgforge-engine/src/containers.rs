//! What runs images: starts containers, follows their output, asks what is in them, and stops them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::Error;

/// How a container is started.
#[derive(Debug, Clone, Default)]
pub struct RunRequest {
    /// The image, by id or name.
    pub image: String,
    /// The container's name; the engine makes one up when not given.
    pub name: Option<String>,
    /// What is run instead of the image's own command; empty for that.
    pub command: Vec<String>,
    /// Environment beside the image's own.
    pub env: BTreeMap<String, String>,
    /// Ports that are reached from this machine.
    pub ports: Vec<PublishedPort>,
    /// `NAME:/PATH` or `/HOST/PATH:/PATH`, as `docker run -v` has them.
    pub volumes: Vec<String>,
    /// Paths on which a file system in memory is mounted.
    pub tmpfs: Vec<String>,
    /// How much memory it may use, in bytes.
    pub memory: Option<u64>,
    /// How much of the processors it may use, in thousandths of one.
    pub cpus: Option<u32>,
    /// Whether its root file system cannot be written to.
    pub read_only: bool,
    /// Whether it makes control groups of its own, as systemd does: it is given the host's.
    pub control_groups: bool,
}

/// A port of a container on an address of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedPort {
    /// `80/tcp`.
    pub container: String,
    /// The address; loopback is `127.0.0.1`.
    pub host_ip: String,
    /// The port on this machine; a free one when not given.
    pub host_port: Option<u16>,
}

/// A container that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// The engine's id of it.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Each published port of the container and the address that leads to it: `80/tcp`, `127.0.0.1:49153`.
    pub ports: Vec<(String, String)>,
}

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningContainer {
    /// The engine's id of it.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The image of the workspace that it was made from, as its labels say.
    pub image: Option<String>,
}

/// What a program in a container has printed, and its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its exit code.
    pub code: i64,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

/// Where a container's output goes: pieces as they come, not lines; whether they are of its stderr.
pub type OutputSink = Arc<dyn Fn(bool, &[u8]) + Send + Sync>;

/// What runs images.
pub trait Containers: Send + Sync {
    /// Starts a container. One that cannot be started is removed again.
    fn start(&self, request: RunRequest) -> BoxFuture<'_, Result<Started, Error>>;

    /// Gives `sink` all output of a container from its start on, until it ends. Returns its exit code.
    fn follow<'a>(&'a self, container: &'a str, sink: OutputSink) -> BoxFuture<'a, Result<i64, Error>>;

    /// Sends a container its stop signal, and kills it when it has not ended after `grace` (whole seconds).
    fn stop<'a>(&'a self, container: &'a str, grace: Duration) -> BoxFuture<'a, Result<(), Error>>;

    /// Kills a container if it runs, and removes it with the volumes that were made for it alone. What is not there is
    /// no error.
    fn remove<'a>(&'a self, container: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// The containers that run and were made from an image of some workspace, or of one image of them.
    fn running<'a>(&'a self, image: Option<&'a str>) -> BoxFuture<'a, Result<Vec<RunningContainer>, Error>>;

    /// The running container with this name or id (or the first digits of it).
    fn find<'a>(&'a self, container: &'a str) -> BoxFuture<'a, Result<Option<RunningContainer>, Error>>;

    /// Runs a program in a container, as the container's user, to its end.
    fn exec<'a>(
        &'a self,
        container: &'a str,
        argv: &'a [&'a str],
    ) -> BoxFuture<'a, Result<ExecOutput, Error>>;
}
