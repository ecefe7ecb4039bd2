//! One step: what it reads, and its request to a worker.

use std::sync::Arc;

use imgforge_core::manifest::Network;
use imgforge_dockerfile::program::{Action, Copy, CopySource, From, MountKind, Step};
use imgforge_engine::{BuildError, StepFailure};
use imgforge_oci::{Digest, chain_id};

use super::run::Held;
use super::{Builder, State, engine_error, store_error};
use crate::fetch;
use crate::key::{FetchedKey, FilesKey, context_hash};
use crate::lines::Lines;
use crate::worker::message::{self, Content, ContextEntry, Layer, NotStarted, Reply, Request, Tree};

/// The number of last lines of a failed step that are kept.
const TAIL: usize = 20;

impl Builder<'_> {
    /// Has a worker carry a step out, and keeps its layer.
    pub(super) async fn carry_out(
        &self,
        step: &Step,
        action: &Action,
        state: &State,
        files: Vec<Files>,
        fetched: Vec<message::CopySource>,
    ) -> Result<Option<Layer>, BuildError> {
        let stack = self.engine.unpacked(&state.layers, &state.chain, &self.cancel).await?;
        let mut trees = Vec::new();
        for files in files {
            trees.push(match files.what {
                What::Nothing => None,
                What::Context(entries) => Some(Tree::Context(entries)),
                What::Image { layers, chain } => {
                    Some(Tree::Stack(self.engine.unpacked(&layers, &chain, &self.cancel).await?))
                }
            });
        }
        let scratch = self.engine.store.scratch().map_err(store_error)?;
        let mut held = Held::new();
        let action = match action {
            Action::Run(run) => {
                let (run, holds) = self.run(step, run, trees, scratch.path()).await?;
                held = holds;
                message::Action::Run(run)
            }
            Action::Copy(copy) => message::Action::Copy(copied(copy, trees, fetched)),
            Action::Workdir { path, user } => {
                message::Action::Folder { path: path.clone(), owner: user.clone() }
            }
        };
        let request = Request::Step(message::Step {
            stack,
            action,
            blob: scratch.path().join("blob"),
            folder: scratch.path().join("layer"),
            epoch: self.epoch,
            compression: self.request.compression,
        });
        let lines = Lines::new(step.number, Arc::clone(&self.events), TAIL);
        let reply = self.engine.work(scratch.path(), &request, lines.sink(), &self.cancel).await;
        let tail = lines.finish();
        drop(held);
        let failed = |why: StepFailure| self.failed(step, why, tail);
        match reply? {
            Reply::Step(None) => Ok(None),
            Reply::Step(Some(layer)) => {
                let chain = chain_id(state.chain.last(), &layer.diff_id);
                self.engine
                    .store
                    .adopt(&scratch.path().join("blob"), &scratch.path().join("layer"), &layer, &chain)
                    .map_err(store_error)?;
                Ok(Some(layer))
            }
            Reply::Failed { code, is_full: true } => Err(failed(StepFailure::NoSpace { status: code })),
            Reply::Failed { code, is_full: false } => Err(failed(StepFailure::Exit(code))),
            Reply::NotStarted(NotStarted::NoProgram(program)) => Err(failed(StepFailure::NoProgram(program))),
            Reply::Error(message) => Err(failed(StepFailure::Other(message))),
            Reply::TimedOut => Err(failed(StepFailure::Other("the command took longer than it may".into()))),
            other => Err(engine_error(format!("a step was answered with {other:?}"))),
        }
    }

    /// The failure of a step.
    pub(super) fn failed(&self, step: &Step, why: StepFailure, log_tail: Vec<String>) -> BuildError {
        // What ONBUILD has brought has no line.
        let place = self.places.get(&step.line).copied();
        let (number, total, text) = (step.number, step.total, step.label.clone());
        BuildError::Step { number, total, text, place, why, log_tail }
    }

    /// The files that an action reads, in the order of its mounts.
    pub(super) fn files(&self, action: &Action) -> Result<Vec<Files>, BuildError> {
        match action {
            Action::Run(run) => run
                .mounts
                .iter()
                .map(|mount| match &mount.kind {
                    MountKind::Bind { from, source, .. } => self.from(from, &[source.as_str()], true),
                    MountKind::Cache { from: Some(from), source, .. } => {
                        self.from(from, &[source.as_str()], true)
                    }
                    _ => Ok(Files::nothing()),
                })
                .collect(),
            Action::Copy(copy) => {
                let paths: Vec<&str> = copy
                    .sources
                    .iter()
                    .filter_map(|source| match source {
                        CopySource::Path(path) => Some(path.as_str()),
                        CopySource::Inline { .. } | CopySource::Url { .. } => None,
                    })
                    .collect();
                Ok(vec![self.from(&copy.from, &paths, false)?])
            }
            Action::Workdir { .. } => Ok(Vec::new()),
        }
    }

    fn from(&self, from: &From, paths: &[&str], is_plain: bool) -> Result<Files, BuildError> {
        if *from == From::Context {
            let entries = crate::copy::reached(&self.context, paths, is_plain);
            let hash = context_hash(&entries).map_err(|error| BuildError::Unreadable {
                path: "the context".into(),
                message: error.to_string(),
            })?;
            return Ok(Files { key: FilesKey::Context(hash), what: What::Context(entries) });
        }
        let state = self.state(from)?;
        Ok(Files {
            key: FilesKey::Stack(state.top().to_owned()),
            what: What::Image { layers: state.layers.clone(), chain: state.chain.clone() },
        })
    }

    /// Fetches what ADD takes from URLs, and takes the content of COPY's heredocs; returns their files and keys.
    pub(super) async fn fetch(
        &self,
        action: &Action,
    ) -> Result<(Vec<message::CopySource>, Vec<FetchedKey>), BuildError> {
        let Action::Copy(copy) = action else { return Ok((Vec::new(), Vec::new())) };
        let (mut files, mut keys) = (Vec::new(), Vec::new());
        for source in &copy.sources {
            let CopySource::Url { url, checksum } = source else { continue };
            if self.request.network == Network::None {
                return Err(BuildError::Refused {
                    message: format!(
                        "ADD {url} needs the network, which this image's steps do not have: say network \"default\""
                    ),
                });
            }
            let fetched = fetch::fetch(url, checksum.as_deref(), &self.cancel).await?;
            let hash = blake3::hash(&fetched.bytes).to_hex().to_string();
            keys.push(FetchedKey { hash, name: fetched.name.clone(), time: fetched.time });
            files.push(message::CopySource::File {
                name: fetched.name,
                mode: 0o600,
                time: fetched.time,
                content: Content::Bytes(fetched.bytes),
            });
        }
        Ok((files, keys))
    }
}

/// The files that an action reads from one place.
pub(super) struct Files {
    pub(super) key: FilesKey,
    pub(super) what: What,
}

pub(super) enum What {
    Nothing,
    Context(Vec<ContextEntry>),
    Image { layers: Vec<Layer>, chain: Vec<Digest> },
}

impl Files {
    fn nothing() -> Self {
        Self { key: FilesKey::None, what: What::Nothing }
    }
}

fn copied(copy: &Copy, trees: Vec<Option<Tree>>, fetched: Vec<message::CopySource>) -> message::Copy {
    let mut fetched = fetched.into_iter();
    let sources = copy.sources.iter().filter_map(|source| match source {
        CopySource::Path(path) => Some(message::CopySource::Path(path.clone())),
        CopySource::Inline { name, content } => Some(message::CopySource::File {
            name: name.clone(),
            mode: 0o644,
            time: None,
            content: Content::Bytes(content.clone().into_bytes()),
        }),
        CopySource::Url { .. } => fetched.next(),
    });
    message::Copy {
        tree: trees.into_iter().next().flatten().unwrap_or(Tree::Context(Vec::new())),
        sources: sources.collect(),
        target: copy.target.clone(),
        chown: copy.chown.clone(),
        chmod: copy.chmod,
        link: copy.link,
        parents: copy.parents,
        excludes: copy.excludes.clone(),
        unpack: copy.is_add,
    }
}
