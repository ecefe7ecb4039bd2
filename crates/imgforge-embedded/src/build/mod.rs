//! One build: stages in order, each step looked up or carried out, the image written at the end.

mod context;
mod one_layer;
mod run;
mod step;

use std::collections::{BTreeMap, HashMap};

use imgforge_core::fingerprint::Fingerprint;
use imgforge_core::manifest::{Compression, Layers};
use imgforge_dockerfile::Dockerfile;
use imgforge_dockerfile::program::{Action, Base, Below, From, Program, Stage, Step};
use imgforge_engine::{
    BuildError, BuildRequest, BuiltImage, CancellationToken, Place, StepEvent, StepSink, labels,
};
use imgforge_oci::{Digest, History, ImageConfig, chain_id};

use self::context::context;
use crate::engine::Embedded;
use crate::key::{FilesKey, Inputs, StepKey, key};
use crate::store::Remembered;
use crate::worker::message::{ContextEntry, Layer};

/// The time of everything in an image that has none of its own: the first second of 2000, which zip archives can
/// hold too. A build that sets `SOURCE_DATE_EPOCH` as an argument says another.
const EPOCH: i64 = 946_684_800;

/// The files and the configuration that a stage has come to.
#[derive(Debug, Clone)]
struct State {
    /// Lowest first.
    layers: Vec<Layer>,
    /// The chain id of each layer with those below it (OCI image specification, "Layer ChainID").
    chain: Vec<Digest>,
    config: ImageConfig,
    /// The number of layers, and of entries of the history, that belong to the image that it stands on.
    below: (usize, usize),
}

impl State {
    /// Of an image without layers.
    fn new(config: ImageConfig) -> Self {
        let below = (0, config.history.len());
        Self { layers: Vec::new(), chain: Vec::new(), config, below }
    }

    fn top(&self) -> &str {
        self.chain.last().map_or("", Digest::as_str)
    }

    fn push(&mut self, layer: Layer) {
        self.chain.push(chain_id(self.chain.last(), &layer.diff_id));
        self.layers.push(layer);
    }
}

/// The result of a step: its layer, if it has changed something.
struct Known(Option<Layer>);

/// A build: what all its steps share.
struct Builder<'a> {
    engine: &'a Embedded,
    request: BuildRequest,
    context: Vec<ContextEntry>,
    /// The stages that are done, by number.
    stages: BTreeMap<usize, (Stage, State)>,
    /// The instructions of the Dockerfile, by the line that each begins on.
    places: BTreeMap<usize, Place>,
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
    let places = places(&request.dockerfile);
    let epoch = epoch(&request)?;
    let context = context(&request)?;
    let mut builder = Builder {
        engine,
        request,
        context,
        stages: BTreeMap::new(),
        places,
        images: HashMap::new(),
        epoch,
        events,
        cancel,
    };
    for image in program.images() {
        let state = builder.image(&image).await?;
        builder.images.insert(image, state);
    }
    let mut last = builder.stages(&program).await?;
    if builder.request.layers == Layers::One {
        last = builder.in_one_layer(last).await?;
    }
    builder.finish(last)
}

/// Finds the instructions of a Dockerfile by the lines that they begin on.
fn places(text: &str) -> BTreeMap<usize, Place> {
    let Ok(dockerfile) = Dockerfile::parse(text) else { return BTreeMap::new() };
    let places = Place::all(&dockerfile).into_iter();
    places.map(|(place, instruction)| (instruction.line(), place)).collect()
}

/// Returns the time that a build gives to everything it makes.
fn epoch(request: &BuildRequest) -> Result<i64, BuildError> {
    let Some(text) = request.args.get("SOURCE_DATE_EPOCH") else { return Ok(EPOCH) };
    text.parse().map_err(|_| BuildError::Refused {
        message: format!("SOURCE_DATE_EPOCH is \"{text}\", not seconds since 1970"),
    })
}

impl Builder<'_> {
    /// All stages that are needed, in order; what the last one has come to.
    async fn stages(&mut self, program: &Program) -> Result<State, BuildError> {
        let bases = program.bases();
        let needed = program.needed();
        for number in &needed {
            let begin = match &bases[*number] {
                Base::Scratch => State::new(ImageConfig::scratch(&self.request.platform)),
                Base::Stage(stage) => self.stages[stage].1.clone(),
                Base::Image(image) => self.images[image].clone(),
            };
            let stage = match &bases[*number] {
                Base::Stage(stage) => program.stage(*number, Below::Stage(&self.stages[stage].0)),
                Base::Scratch | Base::Image(_) => program.stage(*number, Below::Image(&begin.config)),
            };
            let stage = stage.map_err(|problems| refused(&self.request.dockerfile, &problems))?;
            let state = self.stage(&stage, begin).await?;
            self.stages.insert(*number, (stage, state));
        }
        let last = needed.last().and_then(|last| self.stages.remove(last)).map(|(_, state)| state);
        last.ok_or_else(|| BuildError::Refused { message: "there is no stage".into() })
    }

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
        let (fetched, fetched_keys) = self.fetch(action).await?;
        let files = self.files(action)?;
        let keys: Vec<FilesKey> = files.iter().map(|files| files.key.clone()).collect();
        let inputs = Inputs {
            chain: state.top(),
            files: &keys,
            fetched: &fetched_keys,
            network: self.request.network.as_str(),
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
        self.remember(&key, state.chain.last(), layer.as_ref())?;
        Ok(layer)
    }

    /// Keeps what a step has given on top of a chain.
    fn remember(
        &self,
        key: &StepKey,
        below: Option<&Digest>,
        layer: Option<&Layer>,
    ) -> Result<(), BuildError> {
        let chain = layer.map(|layer| chain_id(below, &layer.diff_id));
        let remembered = Remembered { chain, layer: layer.cloned() };
        self.engine.store.put_step(key.as_str(), &remembered).map_err(store_error)
    }

    fn packing(&self) -> &'static str {
        match self.request.compression {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }

    /// Returns the result that a step has given before, if it is still there.
    fn known(&self, key: &StepKey) -> Result<Option<Known>, BuildError> {
        let store = &self.engine.store;
        let Some(remembered) = store.step(key.as_str()).map_err(store_error)? else { return Ok(None) };
        let is_there = remembered.layer.as_ref().is_none_or(|layer| store.has_blob(&layer.digest));
        Ok(is_there.then_some(Known(remembered.layer)))
    }

    /// Returns the state that a stage or an image has come to.
    fn state(&self, from: &From) -> Result<&State, BuildError> {
        let state = match from {
            From::Context => None,
            From::Stage(stage) => self.stages.get(stage).map(|(_, state)| state),
            From::Image(image) => self.images.get(image),
        };
        state.ok_or_else(|| BuildError::Refused { message: format!("{from:?} is not there") })
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

/// The hash of what an image is: its configuration, without what says how it was made, and its layers, as they are
/// packed.
fn content(config: &ImageConfig, layers: &[Layer]) -> String {
    let mut config = ImageConfig { history: Vec::new(), ..config.clone() };
    if let Some(labels) = &mut config.config.labels {
        labels.retain(|name, _| !name.starts_with("imgforge."));
    }
    let digests: Vec<&str> = layers.iter().map(|layer| layer.digest.as_str()).collect();
    let bytes = serde_json::to_vec(&(config, digests)).expect("texts and numbers are JSON");
    blake3::hash(&bytes).to_hex().to_string()
}

/// The first problem of a Dockerfile with its line, and what else is wrong with it.
fn refused(text: &str, problems: &[imgforge_dockerfile::ParseProblem]) -> BuildError {
    let mut told = problems.iter().map(|problem| {
        let before = text.get(..problem.span.offset as usize).unwrap_or_default();
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let help = problem.help.as_ref().map_or_else(String::new, |help| format!("; {help}"));
        (line, format!("{}{help}", problem.message))
    });
    let (line, mut why) = told.next().unwrap_or_default();
    for (line, other) in told {
        why.push_str(&format!("; line {line}: {other}"));
    }
    BuildError::Source { line, why }
}

pub(crate) fn store_error(error: crate::store::StoreError) -> BuildError {
    if error.is_disk_full() { BuildError::NoSpace } else { engine_error(error.to_string()) }
}

pub(crate) fn engine_error(message: String) -> BuildError {
    BuildError::Engine(imgforge_engine::Error::Embedded { message })
}
