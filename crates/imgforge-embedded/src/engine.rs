//! The engine itself: a store, and workers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use imgforge_core::plan::Inventory;
use imgforge_engine::{
    BuildError, BuildRequest, BuiltImage, CancellationToken, Engine, Error, Exported, Named, PullRequest,
    StepSink, Stored, export, labels,
};
use imgforge_oci::{Digest, ImageConfig, chain_id};
use imgforge_state::StateDir;
use tokio::sync::OwnedMutexGuard;

use crate::build::{self, engine_error, store_error};
use crate::cgroup;
use crate::containers::Leftovers;
use crate::key::StepKey;
use crate::store::{ImageRecord, Store, StoreError};
use crate::worker::message::{self, Layer, Reply, Request};
use crate::worker::{Client, Output, WorkerError};

/// The age below which nothing is tidied away.
const YOUNG: Duration = Duration::from_secs(24 * 3600);

/// The settings with which an embedded engine is opened.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder of its store; it is made if it is not there.
    pub store: StateDir,
    /// Why it is this engine, for people; empty when nobody has to be told.
    pub why: String,
    /// The options of registries about which more is known than their hosts.
    pub registries: Vec<imgforge_registry::Options>,
    /// The program that is its worker: one whose `main` calls [`crate::called`] first.
    pub worker: PathBuf,
}

/// The engine that needs no daemon.
pub struct Embedded {
    pub(crate) store: Store,
    pub(crate) settings: Settings,
    pub(crate) client: Client,
    /// The containers that it runs.
    pub(crate) held: crate::containers::Held,
    /// One lock for each thing that two builds must not do at the same time.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Embedded {
    /// Opens the store.
    ///
    /// # Errors
    /// [`Error::Embedded`] when it cannot be made or is of a newer program.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        let store = Store::open(&settings.store).map_err(into_error)?;
        let client = Client::new(settings.worker.clone());
        Ok(Self {
            store,
            settings,
            client,
            held: crate::containers::Held::default(),
            turns: Mutex::default(),
        })
    }

    /// Waits until nobody else carries the same step out.
    pub(crate) async fn turn(&self, key: &StepKey) -> OwnedMutexGuard<()> {
        self.alone(key.as_str()).await
    }

    /// Waits until nobody else has a folder.
    pub(crate) async fn hold(&self, folder: &Utf8Path) -> OwnedMutexGuard<()> {
        self.alone(folder.as_str()).await
    }

    async fn alone(&self, what: &str) -> OwnedMutexGuard<()> {
        let mutex = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, mutex| Arc::strong_count(mutex) > 1);
            Arc::clone(turns.entry(what.to_owned()).or_default())
        };
        mutex.lock_owned().await
    }

    /// Has a worker do something.
    pub(crate) async fn work(
        &self,
        folder: &Utf8Path,
        request: &Request,
        output: Output,
        cancel: &CancellationToken,
    ) -> Result<Reply, BuildError> {
        match self.client.run(folder, request, output, cancel).await {
            Ok(Reply::DiskFull(_)) | Err(WorkerError::NoRoom) => Err(BuildError::NoSpace),
            Ok(reply) => Ok(reply),
            Err(WorkerError::Cancelled) => Err(BuildError::Cancelled),
            Err(other) => Err(engine_error(other.to_string())),
        }
    }

    /// The folders of layers, lowest first. Those that are not unpacked are unpacked.
    pub(crate) async fn unpacked(
        &self,
        layers: &[Layer],
        chain: &[Digest],
        cancel: &CancellationToken,
    ) -> Result<Vec<Utf8PathBuf>, BuildError> {
        let mut stack = Vec::new();
        for (layer, chain) in layers.iter().zip(chain) {
            if let Some(folder) = self.store.folder(chain) {
                stack.push(folder);
                continue;
            }
            let _turn = self.alone(chain.as_str()).await;
            if let Some(folder) = self.store.folder(chain) {
                stack.push(folder);
                continue;
            }
            let blob = self.store.blob(&layer.digest).map_err(store_error)?;
            let scratch = self.store.scratch().map_err(store_error)?;
            let folder = scratch.path().join("layer");
            let request =
                Request::Unpack(message::Unpack { blob, stack: stack.clone(), folder: folder.clone() });
            match self.work(scratch.path(), &request, silent(), cancel).await? {
                Reply::Unpack(found) if found.diff_id == layer.diff_id => {}
                Reply::Unpack(found) => {
                    let (digest, diff_id) = (&layer.digest, &layer.diff_id);
                    return Err(engine_error(format!("{digest} holds {}, not {diff_id}", found.diff_id)));
                }
                other => return Err(not_unpacked(layer.digest.as_str(), &other)),
            }
            self.store.adopt_folder(&folder, layer, chain).map_err(store_error)?;
            stack.extend(self.store.folder(chain));
        }
        Ok(stack)
    }

    /// An image of the store, or one that is pulled now.
    pub(crate) async fn image_or_pull(
        &self,
        name: &str,
        platform: &str,
        cancel: &CancellationToken,
    ) -> Result<(ImageConfig, Vec<Layer>), BuildError> {
        let record = match self.store.find(name).map_err(store_error)? {
            Some(record) => record,
            None => self.pull_reference(name, None, Some(platform), cancel).await?,
        };
        Ok((self.store.config(&record).map_err(store_error)?, record.layers))
    }

    /// The folders of an image's layers, lowest first.
    pub(crate) async fn stack(
        &self,
        record: &ImageRecord,
    ) -> Result<(ImageConfig, Vec<Utf8PathBuf>), BuildError> {
        let config = self.store.config(record).map_err(store_error)?;
        let mut chain: Vec<Digest> = Vec::new();
        for layer in &record.layers {
            chain.push(chain_id(chain.last(), &layer.diff_id));
        }
        let stack = self.unpacked(&record.layers, &chain, &CancellationToken::new()).await?;
        Ok((config, stack))
    }

    fn find(&self, image: &str) -> Result<ImageRecord, Error> {
        let found = self.store.find(image).map_err(into_error)?;
        found.ok_or_else(|| Error::Absent { message: format!("No such image: {image}") })
    }

    async fn read(&self, image: &str, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let record = self.find(image)?;
        let (_, stack) = self.stack(&record).await.map_err(of_build)?;
        let scratch = self.store.scratch().map_err(into_error)?;
        let look = message::Look { stack, paths: vec![path.to_owned()], follow: true };
        let cancel = CancellationToken::new();
        match self.work(scratch.path(), &Request::Look(look), silent(), &cancel).await.map_err(of_build)? {
            Reply::Look(found) => Ok(found.into_iter().next().flatten().and_then(|entry| match entry.kind {
                message::EntryKind::File(bytes) => Some(bytes),
                _ => None,
            })),
            other => Err(Error::Embedded { message: format!("{path} cannot be read: {}", words(&other)) }),
        }
    }

    fn export_images(
        &self,
        images: &[Digest],
        there: &BTreeSet<Digest>,
        folder: &Utf8Path,
    ) -> Result<Exported, Error> {
        let mut exported = Exported::default();
        let mut damaged = None;
        for image in images {
            let record = self.find(image.as_str())?;
            let config = self.store.read_blob(&record.id).map_err(into_error)?;
            exported.configs.insert(record.id.clone(), config);
            for layer in record.layers {
                if there.contains(&layer.diff_id) || exported.layers.contains_key(&layer.diff_id) {
                    continue;
                }
                // Whoever pushes it may remove it afterwards; a link costs nothing.
                let blob = match self.store.blob(&layer.digest) {
                    Ok(blob) => blob,
                    // Each that is damaged is found, so that one build makes all of them again.
                    Err(error @ (StoreError::Corrupt { .. } | StoreError::Missing { .. })) => {
                        damaged = Some(error);
                        continue;
                    }
                    Err(error) => return Err(into_error(error)),
                };
                let file = folder.join(layer.digest.as_str().replace(':', "-"));
                if std::fs::hard_link(&blob, &file).is_err() {
                    std::fs::copy(&blob, &file).map_err(export::ExportError::Io)?;
                }
                let blob = export::Blob {
                    file,
                    digest: layer.digest.clone(),
                    size: layer.size,
                    media_type: layer.media_type.clone(),
                };
                exported.layers.insert(layer.diff_id, blob);
            }
        }
        damaged.map_or(Ok(exported), |error| Err(into_error(error)))
    }
}

impl Engine for Embedded {
    fn describe(&self) -> String {
        match self.settings.why.as_str() {
            "" => "the embedded engine".into(),
            why => format!("the embedded engine, since {why}"),
        }
    }

    fn notice(&self) -> Option<String> {
        (!self.settings.why.is_empty()).then(|| format!("embedded, since {}", self.settings.why))
    }

    fn makes_layers_as_asked(&self) -> bool {
        true
    }

    fn inventory<'a>(&'a self, workspace: &'a str) -> BoxFuture<'a, Result<Inventory, Error>> {
        async move {
            let mut inventory = Inventory::default();
            for record in self.store.list().map_err(into_error)? {
                if record.labels.get(labels::WORKSPACE).map(String::as_str) != Some(workspace) {
                    continue;
                }
                let labels: HashMap<String, String> = record.labels.into_iter().collect();
                let names: BTreeSet<String> = record.names.into_iter().collect();
                if let Some((name, held)) = labels::read(record.id, record.created, names, &labels) {
                    inventory.insert(name, held);
                }
            }
            Ok(inventory)
        }
        .boxed()
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
        async move { self.store.tag(&self.find(id)?.id, reference).map_err(into_error) }.boxed()
    }

    fn untag<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move { self.store.untag(reference).map_err(into_error) }.boxed()
    }

    fn read_file<'a>(
        &'a self,
        image: &'a str,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, Error>> {
        self.read(image, path).boxed()
    }

    fn config<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<imgforge_engine::ImageConfig, Error>> {
        async move {
            let config = self.store.config(&self.find(image)?).map_err(into_error)?;
            let pairs = config.config.env.iter().filter_map(|pair| pair.split_once('='));
            let env: BTreeMap<String, String> = pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            let test = config.config.healthcheck.map(|check| check.test).unwrap_or_default();
            let has_healthcheck = test.first().is_some_and(|kind| kind != "NONE");
            Ok(imgforge_engine::ImageConfig { env, has_healthcheck })
        }
        .boxed()
    }

    fn size<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<u64, Error>> {
        async move { Ok(self.find(image)?.size) }.boxed()
    }

    fn stored<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        async move { Ok(self.store.find(image).map_err(into_error)?.map(stored)) }.boxed()
    }

    fn export<'a>(
        &'a self,
        images: &'a [Digest],
        there: BTreeSet<Digest>,
        folder: &'a Utf8Path,
    ) -> BoxFuture<'a, Result<Exported, Error>> {
        async move { tokio::task::block_in_place(|| self.export_images(images, &there, folder)) }.boxed()
    }

    fn load<'a>(
        &'a self,
        images: &'a Exported,
        named: &'a [Named],
        _folder: &'a Utf8Path,
    ) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let loaded = tokio::task::block_in_place(|| self.store.load(images, named));
            loaded.map(drop).map_err(|error| match error {
                StoreError::Load { .. } => Error::Load { message: error.to_string() },
                other => into_error(other),
            })
        }
        .boxed()
    }

    fn tidy(&self, remove: bool) -> BoxFuture<'_, Result<u64, Error>> {
        async move {
            let since = SystemTime::now() - YOUNG;
            if !remove {
                let left = self.leftovers(false).map_err(into_error)?;
                let unneeded = self.store.unneeded(&left.images_in_use, since).map_err(into_error)?;
                return Ok(unneeded.bytes + left.bytes);
            }
            let mut left = Leftovers::default();
            let keep = || {
                left = self.leftovers(true)?;
                Ok(left.images_in_use.clone())
            };
            let pruned = self.store.prune(keep, since).map_err(into_error)?;
            tokio::task::block_in_place(|| {
                cgroup::remove(&left.groups);
                self.store.flush()
            })
            .map_err(into_error)?;
            // Files in them may belong to others: a worker is root of them.
            let scratch = self.store.scratch().map_err(into_error)?;
            let request = Request::Remove([pruned.folders, left.folders].concat());
            let reply = self.work(scratch.path(), &request, silent(), &CancellationToken::new()).await;
            match reply.map_err(of_build)? {
                Reply::Remove => Ok(pruned.removed.bytes + left.bytes),
                other => Err(Error::Embedded { message: words(&other) }),
            }
        }
        .boxed()
    }

    fn pull(&self, request: PullRequest) -> BoxFuture<'_, Result<Stored, Error>> {
        async move {
            let PullRequest { repository, digest, login } = request;
            let reference = format!("{repository}@{digest}");
            let record = self
                .pull_reference(&reference, login, None, &CancellationToken::new())
                .await
                .map_err(of_build)?;
            Ok(stored(record))
        }
        .boxed()
    }
}

fn stored(record: ImageRecord) -> Stored {
    Stored {
        id: record.id,
        layers: record.layers.iter().map(|layer| layer.diff_id.clone()).collect(),
        labels: record.labels,
        size: record.size,
    }
}

/// Output that nobody wants.
pub(crate) fn silent() -> Output {
    Arc::new(|_, _| {})
}

/// The message about a full disk.
pub(crate) const FULL: &str =
    "there is no space left on the disk of the store: make room there, as `imgforge prune --yes` does";

/// A reply that was not expected, for people.
pub(crate) fn words(reply: &Reply) -> String {
    match reply {
        Reply::Error(message) => message.clone(),
        Reply::Failed { code, .. } => format!("it ended with status {code}"),
        other => format!("a worker has answered with {other:?}"),
    }
}

/// Why a layer of an image is not unpacked.
pub(crate) fn not_unpacked(what: &str, reply: &Reply) -> BuildError {
    match reply {
        Reply::NoRoom(free) => no_room(&format!("{what}: a layer of it unpacks to more"), *free),
        other => engine_error(format!("{what} cannot be unpacked: {}", words(other))),
    }
}

/// Something is larger than what the disk has free.
pub(crate) fn no_room(what: &str, free: u64) -> BuildError {
    let free = free / 1_000_000;
    BuildError::Refused { message: format!("{what} than the {free} MB that the disk of the store has free") }
}

pub(crate) fn into_error(error: StoreError) -> Error {
    Error::Embedded { message: error.to_string() }
}

/// An error of what is no build.
pub(crate) fn of_build(error: BuildError) -> Error {
    match error {
        BuildError::Engine(error) => error,
        BuildError::NoSpace => Error::Embedded { message: FULL.into() },
        other => Error::Embedded { message: other.to_string() },
    }
}
