//! A RUN as a worker is told it: its mounts, with secrets and agents, its environment, its network.

use std::collections::BTreeSet;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::manifest::Network;
use imgforge_dockerfile::program::{From, Mount, MountKind, Run, RunNetwork, Sharing, Step};
use imgforge_engine::{BuildError, StepFailure};

use super::{Builder, engine_error, store_error};
use crate::agent;
use crate::worker::message::{self, Tree};

/// The things that must not be dropped before a step has ended.
pub(super) type Held = Vec<Box<dyn Send>>;

/// The variable that says when everything is made.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Who may do what with a file, a folder or a socket that is made.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Access {
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Access {
    /// Of a cache for which nothing is said.
    const USUAL: Self = Self { mode: 0o755, uid: 0, gid: 0 };

    fn new(mode: u32, uid: u32, gid: u32) -> Self {
        Self { mode, uid, gid }
    }
}

/// A cache, as a mount asks for it.
struct Cache<'a> {
    id: &'a str,
    sharing: Sharing,
    access: Access,
    read_only: bool,
    /// The files that a cache begins as a copy of: whose they are, their path there, its layers.
    begin: Option<(&'a From, &'a str, Vec<Utf8PathBuf>)>,
}

/// Gathers what the mounts of a RUN need.
struct Gathering<'a> {
    builder: &'a Builder<'a>,
    step: &'a Step,
    /// The folder of the worker.
    place: &'a Utf8Path,
    env: Vec<(String, String)>,
    mounts: Vec<message::Mount>,
    /// Caches that no other step has at the same time.
    alone: BTreeSet<Utf8PathBuf>,
    held: Held,
}

impl Builder<'_> {
    /// A RUN for a worker whose folder is `place`, and what is to be kept until it has ended.
    pub(super) async fn run(
        &self,
        step: &Step,
        run: &Run,
        trees: Vec<Option<Tree>>,
        place: &Utf8Path,
    ) -> Result<(message::Run, Held), BuildError> {
        let mut gathering = Gathering {
            builder: self,
            step,
            place,
            env: run.env.clone(),
            mounts: Vec::new(),
            alone: BTreeSet::new(),
            held: Held::new(),
        };
        for (mount, tree) in run.mounts.iter().zip(trees) {
            if let Some(kind) = gathering.kind(mount, tree).await? {
                gathering.mounts.push(message::Mount { target: mount.target.clone(), kind });
            }
        }
        let Gathering { mut env, mut mounts, held, .. } = gathering;
        mounts.extend(run.heredocs.iter().map(|(name, content)| heredoc(name, content)));
        if !env.iter().any(|(name, _)| name == EPOCH) {
            env.push((EPOCH.into(), self.epoch.to_string()));
        }
        let run = message::Run {
            argv: run.argv.clone(),
            env,
            workdir: run.workdir.clone(),
            user: run.user.clone(),
            mounts,
            network: self.network(run)?,
            timeout: None,
        };
        Ok((run, held))
    }

    /// `--network=default` is what the whole build has, as in BuildKit. An ONBUILD may ask for more than the image has.
    fn network(&self, run: &Run) -> Result<Network, BuildError> {
        match run.network {
            Some(RunNetwork::None) => Ok(Network::None),
            Some(RunNetwork::Host) if self.request.network != Network::Host => Err(BuildError::Refused {
                message: "RUN --network=host needs network \"host\", and this image has less".into(),
            }),
            Some(RunNetwork::Default | RunNetwork::Host) | None => Ok(self.request.network),
        }
    }
}

impl Gathering<'_> {
    /// Returns the mount that a step asks for; `None` for one of what is not there and need not be.
    async fn kind(
        &mut self,
        mount: &Mount,
        tree: Option<Tree>,
    ) -> Result<Option<message::MountKind>, BuildError> {
        Ok(Some(match &mount.kind {
            MountKind::Bind { source, writable, .. } => {
                let tree =
                    tree.ok_or_else(|| BuildError::Refused { message: "a bind mount of nothing".into() })?;
                message::MountKind::Tree { tree, path: source.clone(), read_only: !writable }
            }
            MountKind::Cache { id, from, source, sharing, mode, uid, gid, read_only } => {
                let begin = match (from, tree) {
                    (Some(from), Some(Tree::Stack(stack))) => Some((from, source.as_str(), stack)),
                    _ => None,
                };
                let access = Access::new(*mode, *uid, *gid);
                let (sharing, read_only) = (*sharing, *read_only);
                self.cache(Cache { id, sharing, access, read_only, begin }).await?
            }
            MountKind::Tmpfs { size } => message::MountKind::Tmpfs { size: *size, mode: 0o1777 },
            MountKind::Secret { id, env, required, mode, uid, gid } => {
                let Some(content) = self.secret(id, *required)? else { return Ok(None) };
                if let Some(variable) = env {
                    self.set(variable, id, &content)?;
                }
                if mount.target.is_empty() {
                    return Ok(None);
                }
                message::MountKind::File { content, mode: *mode, uid: *uid, gid: *gid }
            }
            MountKind::Ssh { id, required, mode, uid, gid } => {
                return self.agent(id, *required, Access::new(*mode, *uid, *gid));
            }
        }))
    }

    async fn cache(&mut self, cache: Cache<'_>) -> Result<message::MountKind, BuildError> {
        let Cache { id, sharing, access, read_only, begin } = cache;
        let Access { mode, uid, gid } = access;
        let (name, begin) = match begin {
            Some((from, source, stack)) => {
                let base = self.builder.state(from)?.top();
                let begin = message::Begin::Copy { stack, path: source.to_owned() };
                (format!("{id}\0{base}\0{source}"), begin)
            }
            None if access == Access::USUAL => (id.to_owned(), message::Begin::Empty { mode, uid, gid }),
            // As BuildKit has it, an owner or a mode makes it another cache.
            None => (format!("{id}\0{mode:o} {uid} {gid}"), message::Begin::Empty { mode, uid, gid }),
        };
        let path = self.builder.engine.store.cache(&name).map_err(store_error)?;
        if sharing != Sharing::Shared && self.alone.insert(path.clone()) {
            self.held.push(Box::new(self.builder.engine.hold(&path).await));
        }
        Ok(message::MountKind::Cache { path, begin, read_only })
    }

    fn secret(&self, id: &str, required: bool) -> Result<Option<Vec<u8>>, BuildError> {
        match self.builder.request.secrets.content(id) {
            Some(content) => Ok(Some(content.to_vec())),
            None if required => Err(self.failed(StepFailure::NoSecret(id.to_owned()))),
            None => Ok(None),
        }
    }

    /// Gives the command a secret as a variable.
    fn set(&mut self, variable: &str, id: &str, content: &[u8]) -> Result<(), BuildError> {
        let text = std::str::from_utf8(content).ok().filter(|text| !text.contains('\0'));
        let text = text.ok_or_else(|| {
            let why = format!("the secret \"{id}\" is no text, and so no variable {variable}");
            self.failed(StepFailure::Other(why))
        })?;
        self.env.retain(|(name, _)| name != variable);
        self.env.push((variable.to_owned(), text.to_owned()));
        Ok(())
    }

    /// A socket that leads to an agent.
    fn agent(
        &mut self,
        id: &str,
        required: bool,
        access: Access,
    ) -> Result<Option<message::MountKind>, BuildError> {
        let Some(agent) = self.builder.request.secrets.agent(id) else {
            let missing = || self.failed(StepFailure::NoAgent(id.to_owned()));
            return if required { Err(missing()) } else { Ok(None) };
        };
        let name = format!("agent.{}", self.mounts.len());
        let listening = agent::listen(self.place, &name, agent.to_owned())
            .map_err(|error| engine_error(format!("the way to the ssh agent: {error}")))?;
        self.held.push(Box::new(listening));
        let Access { mode, uid, gid } = access;
        Ok(Some(message::MountKind::Socket { path: self.place.join(name), mode, uid, gid }))
    }

    fn failed(&self, why: StepFailure) -> BuildError {
        self.builder.failed(self.step, why, Vec::new())
    }
}

/// A heredoc, where the command's descriptors would be.
fn heredoc(name: &str, content: &str) -> message::Mount {
    let content = content.as_bytes().to_vec();
    message::Mount {
        target: format!("/dev/pipes/{name}"),
        kind: message::MountKind::File { content, mode: 0o755, uid: 0, gid: 0 },
    }
}
