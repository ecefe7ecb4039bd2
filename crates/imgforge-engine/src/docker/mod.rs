//! The Docker daemon as an [`Engine`], through its HTTP interface.

mod archive;
mod ask;
mod build;
mod causes;
mod containers;
mod endpoint;
mod flags;
mod progress;
mod read;
mod session;
mod steps;
mod transfer;
mod wire;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bollard::query_parameters::{RemoveImageOptions, TagImageOptionsBuilder};
use camino::Utf8Path;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use imgforge_core::plan::Inventory;
use imgforge_oci::Digest;
use imgforge_oci::reference::{LATEST, Parts};
use tokio_util::sync::CancellationToken;

use self::endpoint::Endpoint;
use self::session::Counter;
use crate::export::{Exported, Named};
use crate::{
    BuildError, BuildRequest, BuiltImage, Engine, Error, ImageConfig, PullRequest, StepSink, Stored, labels,
};

/// Ten years in seconds: a build may take as long as it takes.
const NO_TIMEOUT: u64 = 10 * 365 * 24 * 3600;

/// A connection to a Docker daemon.
#[derive(Debug, Clone)]
pub struct Docker {
    client: bollard::Docker,
    endpoint: Endpoint,
    version: String,
    description: String,
    counter: Arc<Counter>,
}

/// The amount of context files that the daemon has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// The number of files.
    pub files: u64,
    /// Their sizes together.
    pub bytes: u64,
}

impl Docker {
    /// Connects to the daemon that the `docker` command would use: `DOCKER_HOST`, else the current Docker context, else
    /// `/var/run/docker.sock`. Agrees on the version of the interface.
    ///
    /// # Errors
    /// [`Error::Unreachable`], which says what to do; [`Error::Configuration`] for a host that cannot be used.
    pub async fn connect() -> Result<Self, Error> {
        let endpoint = Endpoint::find(|name| std::env::var(name).ok())?;
        Self::connect_endpoint(endpoint).await
    }

    /// Connects to the daemon at an address as `DOCKER_HOST` has it: `unix:///PATH` or `tcp://HOST:PORT`.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect).
    pub async fn connect_to(host: &str) -> Result<Self, Error> {
        Self::connect_endpoint(Endpoint::parse(host, "the address", false)?).await
    }

    /// Returns how much the daemon has asked for in all builds of this engine and its clones. Files that it had kept
    /// from earlier builds are not among them.
    pub fn sent(&self) -> Sent {
        let Counter { files, bytes } = &*self.counter;
        Sent { files: files.load(Ordering::Relaxed), bytes: bytes.load(Ordering::Relaxed) }
    }

    async fn connect_endpoint(endpoint: Endpoint) -> Result<Self, Error> {
        // A first connection only to learn why none can be had.
        wire::open(&endpoint).await.map_err(|error| unreachable(&endpoint, &error))?;
        let version = bollard::API_DEFAULT_VERSION;
        let client = match &endpoint {
            Endpoint::Unix(path) => bollard::Docker::connect_with_unix(path.as_str(), NO_TIMEOUT, version)?,
            Endpoint::Tcp(address) => bollard::Docker::connect_with_http(address, NO_TIMEOUT, version)?,
        };
        let client = client.negotiate_version().await?;
        let version = client.version().await?.version.unwrap_or_default();
        let description = format!("Docker {version} at {endpoint}");
        Ok(Self { client, endpoint, version, description, counter: Arc::default() })
    }

    /// A path in the version of the interface that was agreed on.
    fn path(&self, name: &str) -> String {
        format!("/v{}/{name}", self.client.client_version())
    }

    async fn list(&self, workspace: &str) -> Result<Inventory, Error> {
        let label = format!("{}={workspace}", labels::WORKSPACE);
        let mut inventory = Inventory::default();
        for image in self.images(("label", &label)).await? {
            let references: BTreeSet<String> =
                image.repo_tags.into_iter().filter(|tag| tag != "<none>:<none>").collect();
            if let Some((name, held)) = labels::read(image.id, image.created, references, &image.labels) {
                inventory.insert(name, held);
            }
        }
        Ok(inventory)
    }
}

fn unreachable(endpoint: &Endpoint, error: &io::Error) -> Error {
    let help = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "add yourself to the group `docker` (`sudo usermod -aG docker $USER`) and log in again"
        }
        io::ErrorKind::NotFound => "is Docker installed and its daemon running (`systemctl start docker`)?",
        _ => "is the daemon running (`systemctl start docker`), and is this the place where it listens?",
    };
    Error::Unreachable {
        endpoint: endpoint.to_string(),
        cause: error.to_string(),
        help: help.to_owned(),
        is_default: endpoint.is_default(),
    }
}

impl Engine for Docker {
    fn describe(&self) -> String {
        self.description.clone()
    }

    /// BuildKit makes a layer of each instruction, and the daemon keeps none of them packed.
    fn makes_layers_as_asked(&self) -> bool {
        false
    }

    fn inventory<'a>(&'a self, workspace: &'a str) -> BoxFuture<'a, Result<Inventory, Error>> {
        self.list(workspace).boxed()
    }

    fn build(
        &self,
        request: BuildRequest,
        events: StepSink,
        cancel: CancellationToken,
    ) -> BoxFuture<'_, Result<BuiltImage, BuildError>> {
        build::build(self, request, events, cancel).boxed()
    }

    fn tag<'a>(&'a self, id: &'a str, reference: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let parts = Parts::of(reference);
            let tag = parts.tag.unwrap_or(LATEST);
            let options = TagImageOptionsBuilder::default().repo(parts.name).tag(tag).build();
            Ok(self.client.tag_image(id, Some(options)).await?)
        }
        .boxed()
    }

    fn untag<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let removed = self.client.remove_image(reference, None::<RemoveImageOptions>, None).await;
            match removed.map_err(Error::from) {
                Err(error) if !error.is_absent() => Err(error),
                _ => Ok(()),
            }
        }
        .boxed()
    }

    fn read_file<'a>(
        &'a self,
        image: &'a str,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, Error>> {
        read::read_file(&self.client, image, path).boxed()
    }

    fn config<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<ImageConfig, Error>> {
        config(self, image).boxed()
    }

    fn size<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<u64, Error>> {
        async move { Ok(u64::try_from(self.image(image).await?.size).unwrap_or_default()) }.boxed()
    }

    fn stored<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        transfer::stored(self, image).boxed()
    }

    fn export<'a>(
        &'a self,
        images: &'a [Digest],
        there: BTreeSet<Digest>,
        folder: &'a Utf8Path,
    ) -> BoxFuture<'a, Result<Exported, Error>> {
        transfer::export(&self.client, images, there, folder).boxed()
    }

    fn load<'a>(
        &'a self,
        images: &'a Exported,
        named: &'a [Named],
        folder: &'a Utf8Path,
    ) -> BoxFuture<'a, Result<(), Error>> {
        transfer::load(self, images, named, folder).boxed()
    }

    fn pull(&self, request: PullRequest) -> BoxFuture<'_, Result<Stored, Error>> {
        transfer::pull(self, request).boxed()
    }
}

async fn config(docker: &Docker, image: &str) -> Result<ImageConfig, Error> {
    let config = docker.image(image).await?.config;
    let pair = |line: String| match line.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (line, String::new()),
    };
    Ok(ImageConfig {
        env: config.env.into_iter().map(pair).collect(),
        has_healthcheck: config.healthcheck.test.first().is_some_and(|word| word != "NONE"),
    })
}
