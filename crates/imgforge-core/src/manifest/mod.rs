//! What one manifest file says, as types with spans: nothing is resolved or looked up yet.
//!
//! `imgforge.kdl` becomes a [`WorkspaceManifest`], an `image.kdl` an [`ImageManifest`]. Both are plain
//! data (serde), so that an unchanged file need not be parsed twice.

mod around;
mod base;
mod cache;
mod image;
mod nodes;
mod reader;
mod rule;
mod run;
mod service;
mod strings;
mod test;
#[cfg(test)]
mod tests;
mod workspace;

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::Utf8PathBuf;
use imgforge_dockerfile::program::RunNetwork;
use imgforge_syntax::{Located, Span};
use serde::{Deserialize, Serialize};

pub use self::cache::ManifestCache;
pub use self::image::{ReadImages, read_images};
pub use self::nodes::NODES;
pub use self::rule::{Level, Rule};
pub use self::service::{
    GiveUp, Limit, Log, Need, Probe, Process, Ready, Reload, Restart, RestartBound, RestartPolicy, Service,
    ServiceType, Stop, Supervisor, SupervisorChoice, Wait,
};
pub use self::test::{Check, CommandCheck, FileCheck, FileKind, HttpCheck, Test, UserCheck};
pub use self::workspace::read_workspace;
use crate::diagnostic::SourceFile;
use crate::name::{ImageName, ServiceName};
use crate::tag::TagTemplate;

/// The platform of a workspace that names none.
const DEFAULT_PLATFORM: &str = "linux/amd64";

/// What `imgforge.kdl` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceManifest {
    /// The file itself.
    pub file: Arc<SourceFile>,
    /// `workspace "NAME"`: names the family in labels.
    pub name: Located<String>,
    /// `registry "HOST/PATH"`: where images are pushed to.
    pub registry: Option<RegistryPlace>,
    /// `version "3.1"`: `{{ version }}` in the release tags of images that have none of their own.
    pub version: Option<Located<String>>,
    /// `supervisor "s6"`: what services run under unless an image says otherwise.
    pub supervisor: Option<Located<SupervisorChoice>>,
    /// `platform "linux/amd64"`.
    pub platform: Option<Located<String>>,
    /// `trust "labels"|"built-here"`: which images count as fresh; see [`Trust`].
    pub trust: Trust,
    /// `compression "gzip"|"zstd"`: how layers are packed; see [`Compression`].
    pub compression: Compression,
    /// `network "none"|"default"|"host"`: what RUN steps of images reach that do not say it themselves.
    pub network: Option<Located<Network>>,
    /// `images "GLOB"`...: narrows where manifests are looked for.
    pub images: Vec<Located<String>>,
    /// `label "KEY" "VALUE"`: put on every image.
    pub labels: BTreeMap<String, Located<String>>,
    /// `arg "NAME" "VALUE"`: a build argument of every image that declares it.
    pub args: BTreeMap<String, Located<String>>,
    /// `lock vanished="relock"`: lock packages anew when nobody serves the locked version any more.
    pub relock_vanished: bool,
    /// `apt "NAME" { ... }`.
    pub apt: Vec<AptSource>,
    /// `apk "NAME" { ... }`.
    pub apk: Vec<ApkSource>,
    /// `external "REFERENCE" oci-layout="FOLDER"`.
    pub externals: Vec<ExternalPlace>,
    /// `group "NAME" "IMAGE"...`.
    pub groups: Vec<Group>,
}

/// Where an image from outside is, when it is in no registry: `external "debian:12-slim" oci-layout="vendor/debian"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalPlace {
    /// The reference, as manifests and Dockerfiles write it.
    pub reference: Located<String>,
    /// The folder of the OCI image layout, from the workspace's root if it is no whole path.
    pub oci_layout: Located<Utf8PathBuf>,
    /// `name="NAME"`: what the image is called there (`org.opencontainers.image.ref.name`), when that is neither the
    /// reference nor its tag.
    pub name: Option<Located<String>>,
}

/// `registry "HOST/PATH" plain-http=#true ca="FILE"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryPlace {
    /// `HOST/PATH`: prefix of the full repository names.
    pub place: Located<String>,
    /// Whether it is spoken to without TLS. When not given, only one on loopback is.
    pub plain_http: Option<Located<bool>>,
    /// The certificate authority that signs for it, in PEM, beside those that the system trusts.
    pub ca: Option<Located<Utf8PathBuf>>,
}

impl RegistryPlace {
    /// `HOST`, with its port if it has one.
    pub fn host(&self) -> &str {
        self.place.value.split('/').next().unwrap_or_default()
    }

    /// What stands before an image's name in its repository: `PATH/`, or nothing.
    pub fn prefix(&self) -> String {
        self.place.value.split_once('/').map_or_else(String::new, |(_, path)| format!("{path}/"))
    }
}

/// A named set of images: `group "web" "webapp-base" "guestbook"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: Located<String>,
    /// Its images.
    pub members: Vec<Located<String>>,
}

/// An apt repository that packages come from: `apt "debian" { suite "bookworm"; component "main" }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AptSource {
    /// The name that images use.
    pub name: Located<String>,
    /// `suite "bookworm" "bookworm-security"`.
    pub suites: Vec<Located<String>>,
    /// `component "main"`; `main` when none is given.
    pub components: Vec<Located<String>>,
    /// `uri "http://..."`: where the repository is; found as the design's section 6 says when missing.
    pub uri: Option<Located<String>>,
    /// `keyring "FILE"`: the OpenPGP keys that sign it; the machine's Debian archive keyring when missing.
    pub keyring: Option<Located<Utf8PathBuf>>,
    /// `snapshot "http://..."`...: archives of its earlier states, below `ADDRESS/TIMESTAMP/`, for packages that it
    /// does not serve any more.
    pub snapshots: Vec<Located<String>>,
}

/// A source of Alpine's packages: `apk "alpine" { repository "https://..."; keys "keys" }`. With keys to check its
/// indexes with, its packages are locked. Without, apk installs them inside the build, over the network, in the
/// versions that manifests give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApkSource {
    /// The name that images use.
    pub name: Located<String>,
    /// `repository "https://HOST/alpine/v3.20/main"`...; those of the image's `/etc/apk/repositories` when none is
    /// given.
    pub repositories: Vec<Located<String>>,
    /// `keys "FOLDER"`: the public keys that may sign the indexes, under the names that signatures give.
    pub keys: Option<Located<Utf8PathBuf>>,
}

impl WorkspaceManifest {
    /// Returns the platform that is built for.
    pub fn platform(&self) -> &str {
        self.platform.as_ref().map_or(DEFAULT_PLATFORM, |platform| &platform.value)
    }

    /// Returns the apk source of this name, if its packages are locked.
    pub fn locked_apk(&self, source: &str) -> Option<&ApkSource> {
        self.apk.iter().find(|apk| apk.name.value == source && apk.keys.is_some())
    }
}

/// What one `image.kdl` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageManifest {
    /// The file itself; its folder is the image's folder.
    pub file: Arc<SourceFile>,
    /// `image "NAME"`.
    pub name: Located<ImageName>,
    /// `description "..."`.
    pub description: Option<String>,
    /// `alias "OTHER"`: other names under which hand-written Dockerfiles know this image.
    pub aliases: Vec<Located<String>>,
    /// What it stands on.
    pub base: Located<Base>,
    /// `from "NAME"` beside `dockerfile`: parents that the Dockerfile is expected to have.
    pub expected_parents: Vec<Located<String>>,
    /// `packages "SOURCE" "NAME"...` of sources that are locked; in a `root` too.
    pub packages: Vec<PackageRequest>,
    /// `packages "SOURCE" "NAME=VERSION"...` of [apk sources](ApkSource) without keys. Which sources these are is
    /// known once the workspace is put together; until then they are among `packages`.
    pub apk_packages: Vec<PackageRequest>,
    /// `docs #true`: keep documentation, manual pages and translations of packages.
    pub keep_docs: bool,
    /// `user "NAME" uid=N`.
    pub users: Vec<User>,
    /// `env "NAME" "VALUE"`.
    pub env: BTreeMap<String, Located<String>>,
    /// `arg "NAME" "DEFAULT"`: build arguments.
    pub args: BTreeMap<String, Located<Option<String>>>,
    /// `label "KEY" "VALUE"`.
    pub labels: BTreeMap<String, Located<String>>,
    /// `copy` and `run`, in the order of the manifest.
    pub steps: Vec<Step>,
    /// `service "NAME" { ... }`.
    pub services: Vec<Service>,
    /// `supervisor "s6"` of this image.
    pub supervisor: Option<Located<SupervisorChoice>>,
    /// `workdir "/srv"`.
    pub workdir: Option<Located<String>>,
    /// `run-as "web"`: the user that the container's process runs as (USER).
    pub run_as: Option<Located<String>>,
    /// `volume "/data"`.
    pub volumes: Vec<Located<String>>,
    /// `expose 80` or `expose "53/udp"`: normalised to `80/tcp`.
    pub expose: Vec<Located<String>>,
    /// `entrypoint "a" "b"`.
    pub entrypoint: Option<Located<Vec<String>>>,
    /// `cmd "a" "b"`.
    pub cmd: Option<Located<Vec<String>>>,
    /// `stop-signal "QUIT"`: as STOPSIGNAL has it (`SIGQUIT`).
    pub stop_signal: Option<Located<String>>,
    /// `healthcheck "curl" "-f" ... interval="30s"`.
    pub healthcheck: Option<Located<Healthcheck>>,
    /// `network "none"|"default"|"host"`: what RUN steps reach; see [`Network`]. The workspace's when it is not given.
    pub network: Option<Located<Network>>,
    /// `layers "each"|"one"`: what becomes a layer; see [`Layers`].
    pub layers: Layers,
    /// `resources memory="256MB" cpus="0.5"`: what a container of it may use.
    pub resources: Resources,
    /// `lint { allow ... }`.
    pub allowed: Vec<Allow>,
    /// `test "NAME" { ... }`.
    pub tests: Vec<Test>,
    /// `template "name.j2"`: extends or replaces the built-in Dockerfile template.
    pub template: Option<Located<Utf8PathBuf>>,
    /// `version "3.1"`: `{{ version }}` in its release tags.
    pub version: Option<Located<String>>,
    /// `tag "latest" "{{ version }}"`: release tags; `latest` when none is given.
    pub tags: Vec<Located<TagTemplate>>,
}

/// What an image stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Base {
    /// `from "NAME"`: a workspace image or an external reference; which of them is resolved later.
    From(String),
    /// `from "scratch"`.
    Scratch,
    /// `root "SOURCE" { include "essential" }`: a root file system made of locked packages.
    Root(Root),
    /// `dockerfile "Dockerfile"`: a hand-written Dockerfile.
    Dockerfile(DockerfilePlace),
}

/// `dockerfile "sub/Dockerfile" context="." target="runtime"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerfilePlace {
    /// The file, relative to the image's folder.
    pub path: Utf8PathBuf,
    /// `context="FOLDER"`: where its COPYs find files; relative to the image's folder, or to the workspace with `/`
    /// at its beginning. The image's folder when it is not given.
    pub context: Option<Located<Utf8PathBuf>>,
    /// `target="STAGE"`: the stage that becomes the image, by name or number. The last one when it is not given.
    pub target: Option<Located<String>>,
}

/// `root "debian" { include "essential" }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// The apt source's name.
    pub source: Located<String>,
    /// Which packages it starts with, besides those that `packages` asks for.
    pub include: RootInclude,
}

/// The package set that a root starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootInclude {
    /// All packages marked Essential, and what they depend on: the floor for an image that packages
    /// are installed on later, since maintainer scripts may use them without depending on them.
    Essential,
    /// Essential and Priority: required.
    Required,
    /// Just what `packages` names and what that depends on.
    Nothing,
}

/// `packages "debian" "nginx-light" "ca-certificates"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageRequest {
    /// The source's name.
    pub source: Located<String>,
    /// Package names; `name=version` pins one.
    pub names: Vec<Located<String>>,
}

/// `user "web" uid=1000`: an account made in the image, locked, without a password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its name.
    pub name: Located<String>,
    /// Its numeric id; 0 is refused.
    pub uid: Located<u32>,
    /// Its group's numeric id; the uid when not given.
    pub gid: u32,
    /// The name of that group; the user's own when not given. A group that the image has already keeps its name.
    pub group: Option<String>,
    /// Its home; `/nonexistent` when not given.
    pub home: String,
}

/// One thing done while the image is built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// `copy "SRC" "DST"`.
    Copy(CopyStep),
    /// `run "COMMAND"`.
    Run(RunStep),
}

/// `copy "SOURCE"... "DESTINATION" mode="0644" owner="web" from="builder"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyStep {
    /// The node's place.
    pub span: Span,
    /// Relative to the image's folder, or absolute in `from`'s file system; `*` and `?` as in COPY.
    pub sources: Vec<Located<String>>,
    /// A path in the image; a folder when it ends with `/`.
    pub destination: Located<String>,
    /// Permission bits of files, for COPY --chmod's meaning.
    pub mode: Option<Located<u32>>,
    /// `user[:group]`, for COPY --chown.
    pub owner: Option<Located<String>>,
    /// Another image that the files come from: a second parent.
    pub from: Option<Located<String>>,
}

/// `run "COMMAND"` (through `/bin/sh -c`) or `run "PROGRAM" "ARG"...` (exec form, no shell).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStep {
    /// The node's place.
    pub span: Span,
    /// One string is a shell command, more are an argument vector.
    pub argv: Vec<Located<String>>,
    /// `from="builder" target="/mnt"` mounts: another image's files, read-only, during this step.
    pub mounts: Vec<MountFrom>,
    /// What it may read and the image does not hold: `secret` and `ssh`, in their order.
    pub secrets: Vec<SecretMount>,
}

/// `mount from="builder" source="/out" target="/mnt"` inside `run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountFrom {
    /// The image that is mounted: a parent.
    pub from: Located<String>,
    /// Path in that image; `/` when not given.
    pub source: String,
    /// Where it is mounted.
    pub target: String,
}

/// `secret "ID" target="/PATH" mode="0400" uid=0 gid=0 required=#true`, or `ssh "ID"` with the same properties, inside
/// `run`. The id alone is written into Dockerfiles and hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretMount {
    /// Which of the two it is.
    pub kind: SecretKind,
    /// What `--secret id=ID` or `--ssh ID` calls it.
    pub id: String,
    /// Where it is; the engine's place for it when not given.
    pub target: Option<String>,
    /// Permission bits; the engine's when not given.
    pub mode: Option<u32>,
    /// Its owner; root when not given.
    pub uid: Option<u32>,
    /// Its group; root's when not given.
    pub gid: Option<u32>,
    /// Whether the step fails when it is not given. A manifest says so when it is not; a Dockerfile does not.
    pub required: bool,
}

/// What a [`SecretMount`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecretKind {
    /// A file with the secret's content.
    File,
    /// The socket of an ssh agent.
    Agent,
}

/// `healthcheck "PROGRAM" "ARG"... interval="30s" timeout="3s" start-period="5s" retries=3`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// One string is a shell command, more are an argument vector.
    pub argv: Vec<String>,
    /// Between two checks.
    pub interval: Option<Millis>,
    /// Of one check.
    pub timeout: Option<Millis>,
    /// Failures before this has passed do not count.
    pub start_period: Option<Millis>,
    /// Failures in a row until it is unhealthy.
    pub retries: Option<u32>,
}

/// `resources memory="256MB" cpus="0.5"`: limits of a container, each as the nearest image of the chain gives it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// In bytes.
    pub memory: Option<Located<u64>>,
    /// In thousandths of a processor.
    pub cpus: Option<Located<u32>>,
}

/// `allow "IF005" service="nginx" reason="..."` in `lint`: a rule that is broken on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allow {
    /// The node's place.
    pub span: Span,
    /// The rule.
    pub rule: Rule,
    /// The service that may break it; all, and the image itself, when not given.
    pub service: Option<Located<ServiceName>>,
    /// Why.
    pub reason: String,
}

/// A time in milliseconds; written `"250ms"`, `"10s"`, `"2m"` or `"1h"` in a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Millis(pub u64);

/// What of an image becomes a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layers {
    /// What each instruction has changed.
    #[default]
    Each,
    /// All that the image adds to what it stands on, together. The layers below stay as they are.
    One,
}

/// Which images that an engine or a registry holds count as fresh. No input of a fingerprint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trust {
    /// Those with the label of the fingerprint, and the content tag.
    #[default]
    Labels,
    /// Of those only what this user's imgforge has built.
    BuiltHere,
}

/// How layers are packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// gzip, which everything reads.
    #[default]
    Gzip,
    /// zstd: smaller, and faster to pack and to unpack.
    Zstd,
}

/// What the steps of a build reach on the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Network {
    /// Nothing, because what comes over the network is an input that cannot be hashed.
    #[default]
    None,
    /// Other machines, through a network of the steps' own; not what listens on this machine's loopback.
    Default,
    /// All that this machine reaches, with its loopback interface and its abstract sockets.
    Host,
}

impl Network {
    /// `none`, `default` or `host`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Default => "default",
            Self::Host => "host",
        }
    }
}

impl From<Network> for RunNetwork {
    fn from(network: Network) -> Self {
        match network {
            Network::None => Self::None,
            Network::Default => Self::Default,
            Network::Host => Self::Host,
        }
    }
}
