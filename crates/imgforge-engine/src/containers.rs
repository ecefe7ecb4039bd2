//! What runs images: starts containers, follows their output, asks what is in them and on their disk, and stops them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use futures_util::future::BoxFuture;
use imgforge_core::links::{self, Last, Scope, Walk};
use imgforge_oci::Digest;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::Error;

/// The request that starts a container.
#[derive(Debug, Clone, Default)]
pub struct RunRequest {
    /// The image, by id or name.
    pub image: String,
    /// The container's name; the engine makes one up when not given.
    pub name: Option<String>,
    /// The command instead of the image's own; empty for that. The image's entrypoint is given it.
    pub command: Vec<String>,
    /// The program in place of the image's entrypoint, and of its command too.
    pub entrypoint: Option<Vec<String>>,
    /// Who it runs as; the image's own user when not given.
    pub user: Option<String>,
    /// Labels beside the image's own.
    pub labels: BTreeMap<String, String>,
    /// Environment beside the image's own.
    pub env: BTreeMap<String, String>,
    /// Ports that are reached from this machine.
    pub ports: Vec<PublishedPort>,
    /// `NAME:/PATH` or `/HOST/PATH:/PATH`, as `docker run -v` has them.
    pub volumes: Vec<String>,
    /// Paths on which a file system in memory is mounted.
    pub tmpfs: Vec<String>,
    /// The memory that the container may use, in bytes.
    pub memory: Option<u64>,
    /// The part of the processors that the container may use, in thousandths of one.
    pub cpus: Option<u32>,
    /// Whether the container's root file system cannot be written to.
    pub read_only: bool,
    /// Whether the container has to reach other machines. With Docker it does so in any case.
    pub outside: bool,
    /// Whether the container makes control groups of its own, as systemd does: it is given the host's.
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
    /// Its own address on a network of the engine; `None` when it has none.
    pub address: Option<String>,
    /// The thing that the container was to have and has not, in words for people.
    pub lacks: Option<String>,
}

/// The state of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerState {
    /// Whether the container's process runs.
    pub running: bool,
    /// The exit code of the container's process; 0 while it runs.
    pub exit_code: i64,
    /// Whether the container was killed because it took more memory than it may.
    pub out_of_memory: bool,
    /// The result of the image's healthcheck; nothing where there is none.
    pub health: Option<Health>,
}

/// The result of a healthcheck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Nothing yet.
    Starting,
    /// It ended with 0.
    Healthy,
    /// It failed too often.
    Unhealthy,
}

/// A path in a container's file system. Links are not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The kind of the entry.
    pub kind: EntryKind,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// The number of its owner.
    pub uid: u64,
    /// The number of its group.
    pub gid: u64,
}

/// The kind of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file, and its content where that was asked for.
    File(Vec<u8>),
    /// A folder.
    Folder,
    /// A symbolic link, and where it leads.
    Link(Utf8PathBuf),
    /// A device, a socket or a pipe.
    Other,
}

/// Returns the entry at a path of a container's file system, links followed inside it; `None` where it leads nowhere.
///
/// `entry` is [`Containers::entry`], which follows the links on the way to a path by itself. So only a path that ends
/// in a link is walked part by part: `..` in the link's target is the folder above the one that really holds the link.
pub async fn follow_links<F: Future<Output = Result<Option<Entry>, Error>>>(
    path: &Utf8Path,
    mut entry: impl FnMut(Utf8PathBuf) -> F,
) -> Result<Option<Entry>, Error> {
    let mut found = entry(path.to_owned()).await?;
    if !matches!(found, Some(Entry { kind: EntryKind::Link(_), .. })) {
        return Ok(found);
    }
    let absolute = |path: &Path| Utf8PathBuf::from(format!("/{}", path.to_string_lossy()));
    let mut walk = Walk::new(path.as_std_path(), Scope::InRoot, Last::Followed);
    let mut asked = Utf8PathBuf::new();
    while let Ok(Some(at)) = walk.ask() {
        asked = absolute(at);
        found = entry(asked.clone()).await?;
        let lies = match &found {
            None => return Ok(None),
            Some(Entry { kind: EntryKind::Link(target), .. }) => links::Entry::Link(target.clone().into()),
            Some(Entry { kind: EntryKind::Folder, .. }) => links::Entry::Folder,
            Some(_) => links::Entry::File,
        };
        if walk.answer(lies).is_err() {
            return Ok(None);
        }
    }
    let end = absolute(&walk.end());
    if end == asked { Ok(found) } else { entry(end).await }
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

/// The output of a program in a container, and its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its exit code.
    pub code: i64,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

/// The sink of a container's output: pieces as they come, not lines; whether they are of its stderr.
pub type OutputSink = Arc<dyn Fn(bool, &[u8]) + Send + Sync>;

/// A connection to something in a container.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An engine that runs images.
pub trait Containers: Send + Sync {
    /// Returns whether a container goes on when the process that has started it has ended.
    fn keeps_containers(&self) -> bool {
        true
    }

    /// Starts a container. One that cannot be started is removed again.
    fn start(&self, request: RunRequest) -> BoxFuture<'_, Result<Started, Error>>;

    /// Makes a container that is not started, to look at its file system. Returns the engine's id of it.
    fn create(&self, request: RunRequest) -> BoxFuture<'_, Result<String, Error>>;

    /// Connects to a TCP port of a running container, published or not.
    ///
    /// # Errors
    /// Those of the connection: `ConnectionRefused` when nothing listens there; `NotConnected` for a container
    /// without a network.
    fn connect<'a>(&'a self, container: &'a Started, port: u16)
    -> BoxFuture<'a, io::Result<Box<dyn Stream>>>;

    /// Returns the state of a container.
    fn state<'a>(&'a self, container: &'a str) -> BoxFuture<'a, Result<ContainerState, Error>>;

    /// Returns the entry at an absolute path of a container's file system, running or not; `None` when there is
    /// nothing. Links in the path are followed inside the container, one at its end is not.
    fn entry<'a>(
        &'a self,
        container: &'a str,
        path: &'a Utf8Path,
    ) -> BoxFuture<'a, Result<Option<Entry>, Error>>;

    /// Everything in a container's file system by its path, files without their content.
    fn walk<'a>(&'a self, container: &'a str) -> BoxFuture<'a, Result<Vec<(String, Entry)>, Error>>;

    /// The ids of all containers with a label `KEY=VALUE`, running or not.
    fn labelled<'a>(&'a self, label: &'a str) -> BoxFuture<'a, Result<Vec<String>, Error>>;

    /// Gives `sink` all output of a container from its start on, until it ends. Returns its exit code.
    fn follow<'a>(&'a self, container: &'a str, sink: OutputSink) -> BoxFuture<'a, Result<i64, Error>>;

    /// Sends a container its stop signal, and kills it when it has not ended after `grace` (whole seconds).
    fn stop<'a>(&'a self, container: &'a str, grace: Duration) -> BoxFuture<'a, Result<(), Error>>;

    /// Kills a container if it runs, and removes it with the volumes that were made for it alone. What is not there is
    /// no error.
    fn remove<'a>(&'a self, container: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// The containers that run and were made from an image of some workspace, or of one image of them.
    fn running<'a>(&'a self, image: Option<&'a str>) -> BoxFuture<'a, Result<Vec<RunningContainer>, Error>>;

    /// The ids of all images that containers were made from, also of those that have ended. A container that ends with
    /// the process which has started it counts no more when that has ended without removing it.
    fn images_in_use(&self) -> BoxFuture<'_, Result<BTreeSet<Digest>, Error>>;

    /// The running container with this name or id (or the first digits of it).
    fn find<'a>(&'a self, container: &'a str) -> BoxFuture<'a, Result<Option<RunningContainer>, Error>>;

    /// Runs a program in a container, as the container's user, to its end.
    fn exec<'a>(
        &'a self,
        container: &'a str,
        argv: &'a [&'a str],
    ) -> BoxFuture<'a, Result<ExecOutput, Error>> {
        self.exec_as(container, argv, None)
    }

    /// The same as another user (`USER[:GROUP]`, as the container knows them).
    fn exec_as<'a>(
        &'a self,
        container: &'a str,
        argv: &'a [&'a str],
        user: Option<&'a str>,
    ) -> BoxFuture<'a, Result<ExecOutput, Error>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What lies in a made-up container; folders are what is not named.
    const LIES: [(&str, Option<&str>); 5] = [
        ("etc/conf", Some("../lib/real/../file")),
        ("lib/real", Some("/data/deep")),
        ("data/file", None),
        ("loop", Some("loop")),
        ("nowhere", Some("/missing/file")),
    ];

    fn lies_at(path: &Path) -> links::Entry {
        match LIES.iter().find(|(at, _)| Path::new(at) == path) {
            Some((_, Some(target))) => links::Entry::Link(target.into()),
            Some((_, None)) => links::Entry::File,
            None if path.starts_with("missing") => links::Entry::Missing,
            None => links::Entry::Folder,
        }
    }

    /// A container that is none: follows the links on the way to a path, as engines do, and keeps the last one.
    async fn entry(path: Utf8PathBuf) -> Result<Option<Entry>, Error> {
        let at = |at: &Path| Ok::<_, Error>(lies_at(at));
        let end = links::follow(path.as_std_path(), Scope::InRoot, Last::Kept, at)?.unwrap();
        let kind = match lies_at(&end) {
            links::Entry::Missing => return Ok(None),
            links::Entry::Folder => EntryKind::Folder,
            links::Entry::File => EntryKind::File(end.to_string_lossy().into_owned().into()),
            links::Entry::Link(target) => EntryKind::Link(target.to_string_lossy().into_owned().into()),
        };
        Ok(Some(Entry { kind, mode: 0o644, uid: 0, gid: 0 }))
    }

    async fn found(path: &str) -> Option<EntryKind> {
        follow_links(Utf8Path::new(path), entry).await.unwrap().map(|entry| entry.kind)
    }

    #[tokio::test]
    async fn a_path_leads_where_the_kernel_would_lead_it() {
        let file = Some(EntryKind::File(b"data/file".to_vec()));
        // Above /lib/real lies /data, since that is a link itself.
        for path in ["/etc/conf", "/lib/real/../file", "/data/file"] {
            assert_eq!(found(path).await, file, "{path}");
        }
        assert_eq!(found("/lib/real").await, Some(EntryKind::Folder));
        for path in ["/loop", "/nowhere"] {
            assert_eq!(found(path).await, None, "{path}");
        }
    }
}
