//! What turns a Dockerfile into an image: Docker, and the dispatcher that drives a schedule.
//!
//! [`Engine`] is cut so that a pool of daemons or an engine of our own can stand behind it: it knows nothing of
//! manifests and plans, and it says what happens only through a [`StepSink`].
//!
//! The way of one build: the caller fills a [`BuildRequest`]; the engine offers exactly the files that it lists
//! (`context`), tells steps and lines as they come, and returns an image that has no name. The caller looks into it
//! ([`Engine::read_file`]) and only then names it ([`Engine::tag`]), so that a run that is killed never leaves an
//! unchecked image under a name.
//!
//! What goes wrong is told by values ([`BuildError`], [`Error`]). What a daemon and the programs behind it say is read
//! in `docker`, and nowhere else.

pub mod containers;
mod context;
pub mod dispatcher;
mod docker;
mod error;
pub mod export;
pub mod labels;
pub mod secrets;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
pub use futures_util::future::BoxFuture;
use imgforge_core::context::{ContextEntry, SuppliedFile};
use imgforge_core::fingerprint::Fingerprint;
use imgforge_core::manifest::{Compression, Layers, Network};
use imgforge_core::name::ImageName;
use imgforge_core::plan::Inventory;
use imgforge_oci::Digest;
pub use tokio_util::sync::CancellationToken;

pub use containers::Containers;
pub use dispatcher::{EventSender, Failed, Work, dispatch};
pub use docker::{Docker, Sent};
pub use error::{BuildError, Error, NotStarted, Place, StepFailure};
pub use export::{Exported, Named};
pub use secrets::{SecretError, Secrets};

/// Everything that a build needs.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The image. An engine may keep the files of a target's build for its next one.
    pub target: ImageName,
    /// The Dockerfile as the engine gets it: parents stand in it by references that the engine holds.
    pub dockerfile: String,
    /// The workspace's folder on disk, in which the entries' sources are.
    pub root: Utf8PathBuf,
    /// The files of the context, exactly these.
    pub entries: Vec<ContextEntry>,
    /// Files besides the entries: packages and the scripts that install them.
    pub supplied: Vec<SuppliedFile>,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// Labels of the image; see [`labels`].
    pub labels: BTreeMap<String, String>,
    /// The network of RUN steps.
    pub network: Network,
    /// The way in which steps become layers. An engine that cannot do as it says does as usual: files are the same.
    pub layers: Layers,
    /// The compression of layers; the same goes for that.
    pub compression: Compression,
    /// As `linux/amd64`.
    pub platform: String,
    /// The secrets that its commands may read. Nothing that is kept tells of them: a step that was carried out with one
    /// content is not carried out again for another.
    pub secrets: Secrets,
    /// Whether every step is carried out, whatever is known of its result.
    pub anew: bool,
}

/// An image that was built. It has no name yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltImage {
    /// The engine's id of it.
    pub id: Digest,
    /// Its size in bytes, parents' layers included.
    pub size: u64,
    /// The fingerprints of images that the engine has built of this target before and that hold the same files and say
    /// the same: other inputs have led to the same result. Only an engine whose results are the same bit for bit can
    /// know.
    pub same_as: Vec<Fingerprint>,
}

/// The configuration of an image, as far as it concerns its containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// Whether the image has a healthcheck.
    pub has_healthcheck: bool,
}

/// An event of a build. The text is as the daemon sent it: readers clean it of control codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepEvent {
    /// A step begins, or its result was found in the cache. Each step is told once.
    Step {
        /// Its number in its stage, from 1.
        number: usize,
        /// The number of steps of its stage.
        total: usize,
        /// The instruction.
        text: String,
        /// Whether the step's result was taken from the cache.
        cached: bool,
    },
    /// A step has printed a line. The lines of a step are in order; all of them together are its whole log.
    Log {
        /// The number of the step that printed it; `None` for what belongs to no step.
        step: Option<usize>,
        /// The line without its end, or a piece of at most 16 KiB of a longer one.
        line: String,
    },
}

/// The receiver of a build's events.
pub type StepSink = Arc<dyn Fn(StepEvent) + Send + Sync>;

/// An image that an engine holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The engine's id of it: the digest of its configuration, or of its manifest in containerd's store.
    pub id: Digest,
    /// Its layers, lowest first, each by the digest of its uncompressed tar (`diff_id`).
    pub layers: Vec<Digest>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its size in bytes, parents' layers included.
    pub size: u64,
}

/// An image in a registry, and how it is got.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// Its repository, with the registry's host.
    pub repository: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Who asks for it, where the registry wants to know.
    pub login: Option<Login>,
}

/// A name and a password for a registry. It is not printed.
#[derive(Clone)]
pub struct Login {
    /// The name; `<token>` when the password is an identity token.
    pub user: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login")
    }
}

/// An engine that also runs what it holds.
pub trait Host: Engine + Containers {}

impl<T: Engine + Containers> Host for T {}

/// An engine: turns Dockerfiles into images, and holds images.
pub trait Engine: Send + Sync {
    /// Describes the engine and its place, for people: `Docker 20.10.24 at unix:///var/run/docker.sock`.
    fn describe(&self) -> String;

    /// Returns what people should know of its choice before it begins, in a few words; nothing for the usual one.
    fn notice(&self) -> Option<String> {
        None
    }

    /// Returns whether the engine makes layers as [`BuildRequest::layers`] and [`BuildRequest::compression`] say, or in
    /// its own way.
    fn makes_layers_as_asked(&self) -> bool;

    /// Returns what it holds of a workspace, in one request.
    fn inventory<'a>(&'a self, workspace: &'a str) -> BoxFuture<'a, Result<Inventory, Error>>;

    /// Builds an image and returns it without a name. When `cancel` is cancelled, or the future is dropped, what runs
    /// in the engine for it is ended.
    fn build(
        &self,
        request: BuildRequest,
        events: StepSink,
        cancel: CancellationToken,
    ) -> BoxFuture<'_, Result<BuiltImage, BuildError>>;

    /// Names an image (`NAME:TAG`); the name is taken from the image that had it.
    fn tag<'a>(&'a self, id: &'a str, reference: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// Takes a name away, and the image with it if that was its last. An id instead of a name removes an image that
    /// has none. What is not there is no error.
    fn untag<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// The content of one file of an image, by absolute path; links are followed inside the image. `None` when there
    /// is no such file or it is no regular one.
    fn read_file<'a>(
        &'a self,
        image: &'a str,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, Error>>;

    /// Returns what an image says of its containers.
    fn config<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<ImageConfig, Error>>;

    /// The size of an image in bytes, parents' layers included. What it adds is that minus its parent's.
    fn size<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<u64, Error>>;

    /// Returns what is held under a name or an id; `None` when there is none.
    fn stored<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<Option<Stored>, Error>>;

    /// Takes images, by id, out of the engine: their configurations, and in `folder` those of their layers whose
    /// `diff_id` is not in `there`.
    fn export<'a>(
        &'a self,
        images: &'a [Digest],
        there: BTreeSet<Digest>,
        folder: &'a Utf8Path,
    ) -> BoxFuture<'a, Result<Exported, Error>>;

    /// Takes in images that were taken out of another engine, or that lie in files, under these names. Content that is
    /// not what the configurations say (`diff_id`) is refused. `folder` is for what has to lie on disk meanwhile.
    fn load<'a>(
        &'a self,
        images: &'a Exported,
        named: &'a [Named],
        folder: &'a Utf8Path,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// Finds what the engine keeps beside images and that none of them needs, and removes it if `remove`; what is
    /// younger than a day stays. What containers have left goes too, but for volumes with a name. How many bytes it
    /// is. Nothing for an engine that sees to that itself.
    fn tidy(&self, _remove: bool) -> BoxFuture<'_, Result<u64, Error>> {
        Box::pin(async { Ok(0) })
    }

    /// Pulls an image from a registry. It has no tag afterwards.
    fn pull(&self, request: PullRequest) -> BoxFuture<'_, Result<Stored, Error>>;
}
