//! One build: stages in order, each step looked up or carried out, the image written at the end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::context::{EntryKind, Origin, SuppliedContent};
use imgforge_core::dockerfile::program::{
    Action, Base, Below, Copy, CopySource, From, MountKind, Program, Run, RunNetwork, Sharing, Stage, Step,
};
use imgforge_core::fingerprint::Fingerprint;
use imgforge_core::image_config::{History, ImageConfig};
use imgforge_core::manifest::{Compression, Layers, Network};
use imgforge_engine::{
    BuildError, BuildRequest, BuiltImage, CancellationToken, StepEvent, StepSink, labels, secrets,
};

use crate::agent;
use crate::engine::{Embedded, silent, words};
use crate::fetch;
use crate::key::{FilesKey, Inputs, StepKey, context_hash, key, merge_key};
use crate::lines::Lines;
use crate::store::Remembered;
use crate::worker::message::{self, Content, ContextEntry, ContextKind, Layer, Reply, Request, Tree};

/// When everything in an image was made that does not say it itself: the first second of 2000, which zip archives can
/// hold too. A build that sets `SOURCE_DATE_EPOCH` as an argument says another.
const EPOCH: i64 = 946_684_800;

/// How many of the last lines of a failed step are kept.
const TAIL: usize = 20;

/// The files and the configuration that a stage has come to.
#[derive(Debug, Clone)]
struct State {
    /// Lowest first.
    layers: Vec<Layer>,
    /// The chain id of each layer with those below it (OCI image specification, "Layer ChainID").
    chain: Vec<String>,
    config: ImageConfig,
    /// How many of the layers, and of the entries of the history, are those of the image that it stands on.
    below: (usize, usize),
}

impl State {
    /// Of an image without layers.
    fn new(config: ImageConfig) -> Self {
        let below = (0, config.history.len());
        Self { layers: Vec::new(), chain: Vec::new(), config, below }
    }

    fn top(&self) -> &str {
        self.chain.last().map_or("", String::as_str)
    }

    fn push(&mut self, layer: Layer) {
        self.chain.push(crate::store::chain_id(self.chain.last().map(String::as_str), &layer.diff_id));
        self.layers.push(layer);
    }
}

/// What a step has given: its layer, if it has changed something.
struct Known(Option<Layer>);

/// What all steps of a build share.
struct Builder<'a> {
    engine: &'a Embedded,
    request: BuildRequest,
    context: Vec<ContextEntry>,
    /// The stages that are done, by number.
    stages: BTreeMap<usize, (Stage, State)>,
    /// Images that are not stages, by the name that the Dockerfile has for them.
    images: HashMap<String, State>,
    epoch: i64,
    events: StepSink,
    cancel: CancellationToken,
}

/// Builds an image.
pub(crate) async fn build(
    engine: &Embedded,
    request: BuildRequest,
    events: StepSink,
    cancel: CancellationToken,
) -> Result<BuiltImage, BuildError> {
    let program = Program::new(&request.dockerfile, &request.args, &request.platform)
        .map_err(|problems| refused(&request.dockerfile, &problems))?;
    let epoch = match request.args.get("SOURCE_DATE_EPOCH") {
        Some(text) => text.parse().map_err(|_| BuildError::Refused {
            message: format!("SOURCE_DATE_EPOCH is \"{text}\", not seconds since 1970"),
        })?,
        None => EPOCH,
    };
    let context = context(&request)?;
    let mut builder = Builder {
        engine,
        request,
        context,
        stages: BTreeMap::new(),
        images: HashMap::new(),
        epoch,
        events,
        cancel,
    };
    for image in program.images() {
        let state = builder.image(&image).await?;
        builder.images.insert(image, state);
    }
    let bases = program.bases();
    let needed = program.needed();
    for number in &needed {
        let begin = match &bases[*number] {
            Base::Scratch => State::new(ImageConfig::scratch(&builder.request.platform)),
            Base::Stage(stage) => builder.stages[stage].1.clone(),
            Base::Image(image) => builder.images[image].clone(),
        };
        let stage = match &bases[*number] {
            Base::Stage(stage) => program.stage(*number, Below::Stage(&builder.stages[stage].0)),
            Base::Scratch | Base::Image(_) => program.stage(*number, Below::Image(&begin.config)),
        };
        let stage = stage.map_err(|problems| refused(&builder.request.dockerfile, &problems))?;
        let state = builder.stage(&stage, begin).await?;
        builder.stages.insert(*number, (stage, state));
    }
    let last = needed.last().and_then(|last| builder.stages.remove(last)).map(|(_, state)| state);
    let mut last = last.ok_or_else(|| BuildError::Refused { message: "there is no stage".into() })?;
    if builder.request.layers == Layers::One {
        last = builder.in_one_layer(last).await?;
    }
    builder.finish(last)
}

impl Builder<'_> {
    /// An image that the Dockerfile names: one of the store, or one that is pulled.
    async fn image(&self, name: &str) -> Result<State, BuildError> {
        let (config, layers) = self.engine.image_or_pull(name, &self.request.platform, &self.cancel).await?;
        let mut state = State::new(config);
        for layer in layers {
            state.push(layer);
        }
        state.below.0 = state.layers.len();
        Ok(state)
    }

    async fn stage(&mut self, stage: &Stage, begin: State) -> Result<State, BuildError> {
        for from in stage.sources() {
            // An ONBUILD of the base may have brought others than the file names.
            if let From::Image(name) = from
                && !self.images.contains_key(name)
            {
                let state = self.image(name).await?;
                self.images.insert(name.clone(), state);
            }
        }
        let mut state = begin;
        let mut history = std::mem::take(&mut state.config.history);
        for step in &stage.steps {
            if self.cancel.is_cancelled() {
                return Err(BuildError::Cancelled);
            }
            let layer = match &step.action {
                Some(action) => self.step(step, action, &state).await?,
                None => None,
            };
            history.push(History {
                created: Some(self.created()),
                created_by: Some(step.created_by.clone()),
                comment: Some("imgforge".into()),
                empty_layer: layer.is_none(),
                ..History::default()
            });
            if let Some(layer) = layer {
                state.push(layer);
            }
        }
        state.config = ImageConfig { history, rootfs: state.config.rootfs, ..stage.config.clone() };
        Ok(state)
    }

    /// Looks a step up, or carries it out.
    async fn step(&self, step: &Step, action: &Action, state: &State) -> Result<Option<Layer>, BuildError> {
        let tell = |cached| {
            if step.number == 0 {
                return;
            }
            (self.events)(StepEvent::Step {
                number: step.number,
                total: step.total,
                text: step.label.clone(),
                cached,
            });
        };
        let (fetched, hashes) = self.fetch(action).await?;
        let files = self.files(action)?;
        let keys: Vec<FilesKey> = files.iter().map(|files| files.key.clone()).collect();
        let inputs = Inputs {
            chain: state.top(),
            files: &keys,
            fetched: &hashes,
            network: self.request.network == Network::Default,
            epoch: self.epoch,
            platform: &self.request.platform,
            packing: self.packing(),
        };
        let key = key(action, &inputs);
        // Two images with the same step on the same files carry it out once.
        let _turn = self.engine.turn(&key).await;
        if let Some(Known(layer)) = self.known(&key)?.filter(|_| !self.request.anew) {
            tell(true);
            return Ok(layer);
        }
        tell(false);
        let layer = self.carry_out(step, action, state, files, fetched).await?;
        self.remember(&key, state.chain.last().map(String::as_str), layer.as_ref())?;
        Ok(layer)
    }

    /// Keeps what a step has given on top of a chain.
    fn remember(&self, key: &StepKey, below: Option<&str>, layer: Option<&Layer>) -> Result<(), BuildError> {
        let chain = layer.map(|layer| crate::store::chain_id(below, &layer.diff_id));
        let remembered = Remembered { chain, layer: layer.cloned() };
        self.engine.store.put_step(key.as_str(), &remembered).map_err(store_error)
    }

    fn packing(&self) -> &'static str {
        match self.request.compression {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }

    /// Makes one layer of all that the image adds to the one that it stands on.
    async fn in_one_layer(&self, mut state: State) -> Result<State, BuildError> {
        let (below, told) = state.below;
        if state.layers.len() < below + 2 {
            return Ok(state);
        }
        let under = below.checked_sub(1).map(|last| state.chain[last].clone());
        let key = merge_key(under.as_deref().unwrap_or_default(), state.top(), self.packing());
        let _turn = self.engine.turn(&key).await;
        let layer = match self.known(&key)? {
            Some(Known(layer)) => layer,
            None => {
                let stack = self.engine.unpacked(&state.layers, &state.chain, &self.cancel).await?;
                let (stack, layers) = stack.split_at(below);
                let scratch = self.engine.store.scratch().map_err(store_error)?;
                let blob = scratch.path().join("blob");
                let request = Request::Step(message::Step {
                    stack: stack.to_vec(),
                    action: message::Action::Merge { layers: layers.to_vec() },
                    blob: blob.clone(),
                    folder: scratch.path().join("layer"),
                    epoch: self.epoch,
                    compression: self.request.compression,
                });
                let layer = match self.engine.work(scratch.path(), &request, silent(), &self.cancel).await? {
                    Reply::Step(layer) => layer,
                    Reply::Error(message) if message.contains("No space left on device") => {
                        return Err(BuildError::NoSpace);
                    }
                    other => return Err(engine_error(format!("no one layer: {}", words(&other)))),
                };
                if let Some(layer) = &layer {
                    self.engine.store.adopt_blob(&blob, &layer.digest).map_err(store_error)?;
                }
                self.remember(&key, under.as_deref(), layer.as_ref())?;
                layer
            }
        };
        state.layers.truncate(below);
        state.chain.truncate(below);
        state.config.history.iter_mut().skip(told).for_each(|entry| entry.empty_layer = true);
        if let Some(layer) = layer {
            state.push(layer);
            state.config.history.push(History {
                created: Some(self.created()),
                created_by: Some("all of the above in one layer".into()),
                comment: Some("imgforge".into()),
                ..History::default()
            });
        }
        Ok(state)
    }

    /// What a step has given before, if that is still there.
    fn known(&self, key: &StepKey) -> Result<Option<Known>, BuildError> {
        let store = &self.engine.store;
        let Some(remembered) = store.step(key.as_str()).map_err(store_error)? else { return Ok(None) };
        let Some(chain) = remembered.chain else { return Ok(Some(Known(None))) };
        if let Some(layer) = remembered.layer {
            return Ok(store.has_blob(&layer.digest).then_some(Known(Some(layer))));
        }
        Ok(store.layer(&chain).map_err(store_error)?.map(|layer| Known(Some(layer))))
    }

    async fn carry_out(
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
        let mut held = Vec::new();
        let scratch = self.engine.store.scratch().map_err(store_error)?;
        let action = match action {
            Action::Run(run) => {
                message::Action::Run(self.run(step, run, trees, scratch.path(), &mut held).await?)
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
        let failed = |message: String| BuildError::Step {
            number: step.number,
            total: step.total,
            text: step.label.clone(),
            message,
            log_tail: tail.clone(),
        };
        match reply? {
            Reply::Step(None) => Ok(None),
            Reply::Step(Some(layer)) => {
                let chain = crate::store::chain_id(state.chain.last().map(String::as_str), &layer.diff_id);
                self.engine
                    .store
                    .adopt(&scratch.path().join("blob"), &scratch.path().join("layer"), &layer, &chain)
                    .map_err(store_error)?;
                Ok(Some(layer))
            }
            Reply::Failed(code) => Err(failed(format!("the command ended with status {code}"))),
            Reply::TimedOut => Err(failed("the command took longer than it may".into())),
            Reply::Error(message) if message.contains("No space left on device") => Err(BuildError::NoSpace),
            Reply::Error(message) => Err(failed(message)),
            other => Err(engine_error(format!("a step was answered with {other:?}"))),
        }
    }

    /// The files that an action reads, in the order of its mounts.
    fn files(&self, action: &Action) -> Result<Vec<Files>, BuildError> {
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

    /// What a stage or an image has come to.
    fn state(&self, from: &From) -> Result<&State, BuildError> {
        let state = match from {
            From::Context => None,
            From::Stage(stage) => self.stages.get(stage).map(|(_, state)| state),
            From::Image(image) => self.images.get(image),
        };
        state.ok_or_else(|| BuildError::Refused { message: format!("{from:?} is not there") })
    }

    /// A RUN as a worker is told it, whose folder is `place`. `held` keeps what must not go before it has ended.
    async fn run(
        &self,
        step: &Step,
        run: &Run,
        trees: Vec<Option<Tree>>,
        place: &Utf8Path,
        held: &mut Vec<Box<dyn Send>>,
    ) -> Result<message::Run, BuildError> {
        let failed = |message: String| BuildError::Step {
            number: step.number,
            total: step.total,
            text: step.label.clone(),
            message,
            log_tail: Vec::new(),
        };
        let given = &self.request.secrets;
        let mut env = run.env.clone();
        let (mut mounts, mut alone) = (Vec::new(), BTreeSet::new());
        for (mount, tree) in run.mounts.iter().zip(trees) {
            let kind = match (&mount.kind, tree) {
                (MountKind::Bind { source, writable, .. }, Some(tree)) => {
                    message::MountKind::Tree { tree, path: source.clone(), read_only: !writable }
                }
                (MountKind::Cache { id, from, source, sharing, mode, uid, gid, read_only }, tree) => {
                    let (mode, uid, gid) = (*mode, *uid, *gid);
                    let (name, begin) = match (from, tree) {
                        (Some(from), Some(Tree::Stack(stack))) => {
                            let base = self.state(from)?.top();
                            let begin = message::Begin::Copy { stack, path: source.clone() };
                            (format!("{id}\0{base}\0{source}"), begin)
                        }
                        // As BuildKit has it, an owner or a mode makes it another cache.
                        _ if (mode, uid, gid) == (0o755, 0, 0) => {
                            (id.clone(), message::Begin::Empty { mode, uid, gid })
                        }
                        _ => {
                            let name = format!("{id}\0{mode:o} {uid} {gid}");
                            (name, message::Begin::Empty { mode, uid, gid })
                        }
                    };
                    let path = self.engine.store.cache(&name);
                    if *sharing != Sharing::Shared && alone.insert(path.clone()) {
                        held.push(Box::new(self.engine.hold(&path).await));
                    }
                    message::MountKind::Cache { path, begin, read_only: *read_only }
                }
                (MountKind::Tmpfs { size }, _) => message::MountKind::Tmpfs { size: *size, mode: 0o1777 },
                (MountKind::Secret { id, env: variable, required, mode, uid, gid }, _) => {
                    let Some(content) = given.content(id) else {
                        if *required {
                            return Err(failed(secrets::missing_secret(id)));
                        }
                        continue;
                    };
                    if let Some(variable) = variable {
                        let text = std::str::from_utf8(content).ok().filter(|text| !text.contains('\0'));
                        let text = text.ok_or_else(|| {
                            failed(format!("the secret \"{id}\" is no text, and so no variable {variable}"))
                        })?;
                        env.retain(|(name, _)| name != variable);
                        env.push((variable.clone(), text.to_owned()));
                    }
                    if mount.target.is_empty() {
                        continue;
                    }
                    let (mode, uid, gid) = (*mode, *uid, *gid);
                    message::MountKind::File { content: content.to_vec(), mode, uid, gid }
                }
                (MountKind::Ssh { id, required, mode, uid, gid }, _) => {
                    let Some(agent) = given.agent(id) else {
                        if *required {
                            return Err(failed(secrets::missing_agent(id)));
                        }
                        continue;
                    };
                    let name = format!("agent.{}", mounts.len());
                    let listening = agent::listen(place, &name, agent.to_owned())
                        .map_err(|error| engine_error(format!("the way to the ssh agent: {error}")))?;
                    held.push(Box::new(listening));
                    let (mode, uid, gid) = (*mode, *uid, *gid);
                    message::MountKind::Socket { path: place.join(name), mode, uid, gid }
                }
                (MountKind::Bind { .. }, None) => {
                    return Err(BuildError::Refused { message: "a bind mount of nothing".into() });
                }
            };
            mounts.push(message::Mount { target: mount.target.clone(), kind });
        }
        for (name, content) in &run.heredocs {
            mounts.push(message::Mount {
                target: format!("/dev/pipes/{name}"),
                kind: message::MountKind::File {
                    content: content.clone().into_bytes(),
                    mode: 0o755,
                    uid: 0,
                    gid: 0,
                },
            });
        }
        let has_network = match run.network {
            Some(RunNetwork::None) => false,
            Some(RunNetwork::Default | RunNetwork::Host) | None => self.request.network == Network::Default,
        };
        if !env.iter().any(|(name, _)| name == "SOURCE_DATE_EPOCH") {
            env.push(("SOURCE_DATE_EPOCH".into(), self.epoch.to_string()));
        }
        Ok(message::Run {
            argv: run.argv.clone(),
            env,
            workdir: run.workdir.clone(),
            user: run.user.clone(),
            mounts,
            network: if has_network { message::Network::Host } else { message::Network::None },
            timeout: None,
        })
    }

    /// What ADD takes from URLs and COPY from heredocs, and the hashes of that.
    async fn fetch(&self, action: &Action) -> Result<(Vec<message::CopySource>, Vec<String>), BuildError> {
        let Action::Copy(copy) = action else { return Ok((Vec::new(), Vec::new())) };
        let (mut files, mut hashes) = (Vec::new(), Vec::new());
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
            // Its name and its time are in the layer too.
            let hash = blake3::hash(&fetched.bytes);
            hashes.push(format!("{hash} {:?} {:?}", fetched.name, fetched.time));
            files.push(message::CopySource::File {
                name: fetched.name,
                mode: 0o600,
                time: fetched.time,
                content: Content::Bytes(fetched.bytes),
            });
        }
        Ok((files, hashes))
    }

    fn created(&self) -> String {
        crate::store::rfc3339(self.epoch)
    }

    /// Writes the image.
    fn finish(self, mut state: State) -> Result<BuiltImage, BuildError> {
        state.config.created = Some(self.created());
        state.config.rootfs.diff_ids = state.layers.iter().map(|layer| layer.diff_id.clone()).collect();
        if !self.request.labels.is_empty() {
            let labels = state.config.config.labels.get_or_insert_default();
            labels.extend(self.request.labels.clone());
        }
        let content = content(&state.config, &state.layers);
        let before = self.engine.store.with_content(&content).map_err(store_error)?;
        let name = self.request.labels.get(labels::IMAGE);
        let same = before.iter().filter(|record| name.is_some() && record.labels.get(labels::IMAGE) == name);
        let same_as: Vec<Fingerprint> =
            same.filter_map(|record| record.labels.get(labels::FINGERPRINT)?.parse().ok()).collect();
        let image =
            self.engine.store.put_image(&state.config, &state.layers, &content).map_err(store_error)?;
        Ok(BuiltImage { id: image.id, size: image.size, same_as })
    }
}

/// The hash of what an image is: its configuration, without what says how it was made, and its layers, as they are packed.
fn content(config: &ImageConfig, layers: &[Layer]) -> String {
    let mut config = ImageConfig { history: Vec::new(), ..config.clone() };
    if let Some(labels) = &mut config.config.labels {
        labels.retain(|name, _| !name.starts_with("imgforge."));
    }
    let digests: Vec<&str> = layers.iter().map(|layer| layer.digest.as_str()).collect();
    let bytes = serde_json::to_vec(&(config, digests)).expect("texts and numbers are JSON");
    blake3::hash(&bytes).to_hex().to_string()
}

/// The files that an action reads from one place.
struct Files {
    key: FilesKey,
    what: What,
}

enum What {
    Nothing,
    Context(Vec<ContextEntry>),
    Image { layers: Vec<Layer>, chain: Vec<String> },
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

/// The context as a worker gets it, sorted by path, with the folders that files lie in.
fn context(request: &BuildRequest) -> Result<Vec<ContextEntry>, BuildError> {
    let mut entries: BTreeMap<Utf8PathBuf, ContextKind> = BTreeMap::new();
    for entry in &request.entries {
        let kind = match &entry.kind {
            EntryKind::Dir => ContextKind::Folder,
            EntryKind::Symlink { target } => ContextKind::Link { target: target.clone() },
            EntryKind::File { hash, executable, origin, .. } => ContextKind::File {
                executable: *executable,
                content: match origin {
                    Origin::Source(path) => {
                        Content::File { path: request.root.join(path), blake3: Some(hash.to_string()) }
                    }
                    Origin::Generated(bytes) => Content::Bytes(bytes.to_vec()),
                },
            },
        };
        add(&mut entries, &entry.path, kind);
    }
    for file in &request.supplied {
        let content = match &file.content {
            SuppliedContent::Bytes(bytes) => Content::Bytes(bytes.clone()),
            SuppliedContent::File(path) if path.is_file() => {
                Content::File { path: path.clone(), blake3: None }
            }
            SuppliedContent::File(path) => {
                return Err(BuildError::Unreadable { path: path.clone(), message: "it is not there".into() });
            }
        };
        add(&mut entries, &file.path, ContextKind::File { executable: file.executable, content });
    }
    Ok(entries.into_iter().map(|(path, kind)| ContextEntry { path: path.into(), kind }).collect())
}

fn add(entries: &mut BTreeMap<Utf8PathBuf, ContextKind>, path: &Utf8Path, kind: ContextKind) {
    for parent in path.ancestors().skip(1).filter(|parent| !parent.as_str().is_empty()) {
        entries.entry(parent.to_owned()).or_insert(ContextKind::Folder);
    }
    entries.insert(path.to_owned(), kind);
}

/// Problems of a Dockerfile, in the words in which BuildKit says where they are.
fn refused(text: &str, problems: &[imgforge_core::dockerfile::ParseProblem]) -> BuildError {
    let lines = problems.iter().map(|problem| {
        let before = text.get(..problem.span.offset as usize).unwrap_or_default();
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        match &problem.help {
            Some(help) => format!("line {line}: {}; {help}", problem.message),
            None => format!("line {line}: {}", problem.message),
        }
    });
    let lines: Vec<String> = lines.collect();
    BuildError::Refused { message: format!("parse error {}", lines.join("; ")) }
}

pub(crate) fn store_error(error: crate::store::StoreError) -> BuildError {
    if error.is_disk_full() { BuildError::NoSpace } else { engine_error(error.to_string()) }
}

pub(crate) fn engine_error(message: String) -> BuildError {
    BuildError::Engine(imgforge_engine::Error::Embedded { message })
}
