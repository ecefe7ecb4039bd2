//! Puts images into the registry, each under its content tag, parents first.
//!
//! All images that the registry lacks are taken out of the engine at once, so that a layer that several share is read
//! and compressed once. Layers that an ancestor's manifest in the registry has already are not read at all.
//! An image is pushed by digest, read back, and only then gets its content tag, so that a tag never leads to an image
//! that is not whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use camino::{Utf8Path, Utf8PathBuf};
use futures_util::future::{FutureExt, Shared, join_all};
use imgforge_core::event::Event;
use imgforge_core::name::ImageName;
use imgforge_engine::{BoxFuture, CancellationToken, Engine, EventSender, Exported, Stored};
use imgforge_oci::annotation::{BASE_DIGEST, BASE_NAME};
use imgforge_oci::{Descriptor, Digest, diff_ids};
use imgforge_registry::{ProgressSink, PushImage, PushLayer};

use crate::Error;
use crate::registry::{FINGERPRINT, FamilyRegistry, IMAGE, MAX_CONFIG, Remote, TESTS, WORKSPACE};

/// One image to be in the registry.
#[derive(Debug, Clone)]
pub(crate) struct ToPush {
    pub(crate) name: ImageName,
    pub(crate) fingerprint: imgforge_core::fingerprint::Fingerprint,
    /// The images that it was made from; the first is the one that its layers begin with.
    pub(crate) parents: Vec<ImageName>,
    /// The engine's id of it; not needed for one that is in the registry already.
    pub(crate) id: Option<Digest>,
    /// The hash of the tests that it has passed.
    pub(crate) tests: Option<String>,
}

/// The outcome of pushing: what was pushed, and what could not be.
#[derive(Debug, Default)]
pub(crate) struct PushOutcome {
    /// All that are in the registry now.
    pub(crate) remotes: BTreeMap<ImageName, Remote>,
    /// Those that were not there before.
    pub(crate) pushed: BTreeSet<ImageName>,
    /// The images of which just what the engine has is there: the engine's id, and the digest of the configuration.
    pub(crate) own: BTreeMap<ImageName, (Digest, Digest)>,
    pub(crate) failures: Vec<(ImageName, Arc<Error>)>,
}

/// A layer that is in the registry: what it is there, and in which repository.
#[derive(Debug, Clone)]
struct KnownLayer {
    descriptor: Descriptor,
    repository: String,
}

/// The tools that all pushes of a run share.
struct Pusher {
    registry: FamilyRegistry,
    stored: BTreeMap<ImageName, Stored>,
    known: HashMap<Digest, KnownLayer>,
    exported: Exported,
    events: EventSender,
    cancel: CancellationToken,
}

type Pushing<'p> = Shared<BoxFuture<'p, Result<Remote, Stop>>>;

/// Why an image is not there.
#[derive(Clone)]
enum Stop {
    Failed(Arc<Error>),
    /// Because of a parent, which says why.
    Parent,
}

/// Pushes `images` (parents first, all ancestors among them) to `registry`, less those in `remotes`, which it holds.
pub(crate) async fn push(
    registry: &FamilyRegistry,
    engine: &dyn Engine,
    images: &[ToPush],
    remotes: BTreeMap<ImageName, Remote>,
    folder: &Utf8Path,
    events: EventSender,
    cancel: CancellationToken,
) -> Result<PushOutcome, Error> {
    let missing: Vec<&ToPush> = images.iter().filter(|image| !remotes.contains_key(&image.name)).collect();
    if missing.is_empty() {
        return Ok(PushOutcome { remotes, ..PushOutcome::default() });
    }
    let spool = Spool::new(folder)?;
    let mut stored = BTreeMap::new();
    for image in &missing {
        let found = match &image.id {
            Some(id) => engine.stored(id.as_str()).await?,
            None => None,
        };
        let found = found.ok_or_else(|| Error::NotBuilt { images: vec![image.name.to_string()] })?;
        stored.insert(image.name.clone(), found);
    }
    let known = known_layers(registry, engine, images, &missing, &remotes).await?;
    let ids: BTreeSet<Digest> = stored.values().map(|stored| stored.id.clone()).collect();
    let ids: Vec<Digest> = ids.into_iter().collect();
    let exporting = engine.export(&ids, known.keys().cloned().collect(), &spool.folder);
    let exported = tokio::select! {
        exported = exporting => exported?,
        () = cancel.cancelled() => return Err(Error::Interrupted),
    };
    let pusher = Pusher { registry: registry.clone(), stored, known, exported, events, cancel };
    Ok(pusher.run(images, remotes).await)
}

impl Pusher {
    async fn run(&self, images: &[ToPush], remotes: BTreeMap<ImageName, Remote>) -> PushOutcome {
        let mut pushing: HashMap<ImageName, Pushing<'_>> = HashMap::new();
        let mut order = Vec::new();
        for image in images.iter().filter(|image| !remotes.contains_key(&image.name)) {
            let parents: Vec<(ImageName, Pushing<'_>)> = image
                .parents
                .iter()
                .filter_map(|parent| Some((parent.clone(), pushing.get(parent)?.clone())))
                .collect();
            let there: BTreeMap<ImageName, Remote> = image
                .parents
                .iter()
                .filter_map(|parent| Some((parent.clone(), remotes.get(parent)?.clone())))
                .collect();
            let one = async move {
                let mut there = there;
                for (name, parent) in parents {
                    there.insert(name, parent.await.map_err(|_| Stop::Parent)?);
                }
                self.push_one(image, &there).await.map_err(|error| Stop::Failed(Arc::new(error)))
            };
            let one = one.boxed().shared();
            pushing.insert(image.name.clone(), one.clone());
            order.push((image.name.clone(), one));
        }
        let mut outcome = PushOutcome { remotes, ..PushOutcome::default() };
        let ended = join_all(order.into_iter().map(|(name, one)| async move { (name, one.await) })).await;
        for (name, result) in ended {
            match result {
                Ok(remote) => {
                    outcome.own.extend(self.own(&name, &remote).map(|own| (name.clone(), own)));
                    outcome.pushed.insert(name.clone());
                    outcome.remotes.insert(name, remote);
                }
                Err(Stop::Failed(error)) => outcome.failures.push((name, error)),
                Err(Stop::Parent) => {}
            }
        }
        outcome
    }

    /// Returns the engine's id of an image and the digest of its configuration, when just that is in the registry.
    fn own(&self, name: &ImageName, remote: &Remote) -> Option<(Digest, Digest)> {
        let id = &self.stored.get(name)?.id;
        let config = Digest::sha256(self.exported.configs.get(id)?);
        (remote.manifest.config()?.digest == config).then(|| (id.clone(), config))
    }

    async fn push_one(&self, image: &ToPush, parents: &BTreeMap<ImageName, Remote>) -> Result<Remote, Error> {
        let started = Instant::now();
        let registry = &self.registry;
        let stored = &self.stored[&image.name];
        let repository = registry.repository(image.name.as_str());
        let config = self.exported.configs.get(&stored.id).cloned().ok_or_else(|| Error::Archive {
            message: format!("it lacks the configuration of {}", image.name),
        })?;
        let layers = stored.layers.iter().map(|diff_id| self.layer(diff_id, parents));
        let mut annotations = BTreeMap::from([
            (FINGERPRINT.to_owned(), image.fingerprint.to_string()),
            (IMAGE.to_owned(), image.name.to_string()),
            (WORKSPACE.to_owned(), registry.workspace.clone()),
        ]);
        if let Some(tests) = &image.tests {
            annotations.insert(TESTS.to_owned(), tests.clone());
        }
        if let Some((name, base)) = image.parents.first().and_then(|base| parents.get_key_value(base)) {
            annotations.insert(BASE_NAME.to_owned(), format!("{}/{name}", registry.place));
            annotations.insert(BASE_DIGEST.to_owned(), base.digest.to_string());
        }
        let push = PushImage { config, layers: layers.collect::<Result<_, _>>()?, annotations };
        let progress = self.progress(&image.name, &push);
        let pushed = tokio::select! {
            pushed = registry.client.push_image(&repository, &push, progress) => pushed?,
            () = self.cancel.cancelled() => return Err(Error::Interrupted),
        };
        let manifest = registry.client.verify(&repository, &pushed.digest).await?;
        // A content tag is written once: whoever was first has an image as good as this one, unless only what was built
        // here counts.
        if let Some(first) = registry.content(&image.name, image.fingerprint).await?
            && (first.digest == pushed.digest || registry.counts(&image.name, &first.manifest))
        {
            return Ok(first);
        }
        let tag = image.fingerprint.content_tag();
        let manifest = registry.put_tag(&repository, &tag, &manifest).await?;
        let (target, took) = (image.name.clone(), started.elapsed());
        (self.events)(Event::Pushed { target, sent: pushed.sent, took });
        Ok(Remote { digest: manifest.digest().clone(), manifest, fingerprint: image.fingerprint })
    }

    /// Tells how far all layers of an image are together.
    fn progress(&self, name: &ImageName, push: &PushImage) -> ProgressSink {
        let total: u64 = push.layers.iter().map(|layer| layer.descriptor.size).sum();
        let done: Mutex<HashMap<Digest, u64>> = Mutex::default();
        let (events, target) = (Arc::clone(&self.events), name.clone());
        ProgressSink::new(move |moved| {
            let done = {
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                done.insert(moved.digest, moved.done);
                done.values().sum::<u64>().min(total)
            };
            events(Event::Pushing { target: target.clone(), done, total });
        })
    }

    fn layer(&self, diff_id: &Digest, parents: &BTreeMap<ImageName, Remote>) -> Result<PushLayer, Error> {
        if let Some(known) = self.known.get(diff_id) {
            return Ok(PushLayer {
                descriptor: known.descriptor.clone(),
                file: None,
                mount_from: vec![known.repository.clone()],
            });
        }
        let blob = self
            .exported
            .layers
            .get(diff_id)
            .ok_or_else(|| Error::Archive { message: format!("it lacks the layer {diff_id}") })?;
        let mount_from = parents.keys().map(|parent| self.registry.repository(parent.as_str())).collect();
        let descriptor = Descriptor::new(blob.media_type.clone(), blob.digest.clone(), blob.size);
        Ok(PushLayer { descriptor, file: Some(blob.file.clone()), mount_from })
    }
}

/// The layers of all ancestors of what is to be pushed that are in the registry.
async fn known_layers(
    registry: &FamilyRegistry,
    engine: &dyn Engine,
    images: &[ToPush],
    missing: &[&ToPush],
    remotes: &BTreeMap<ImageName, Remote>,
) -> Result<HashMap<Digest, KnownLayer>, Error> {
    let by_name: HashMap<&ImageName, &ToPush> = images.iter().map(|image| (&image.name, image)).collect();
    let bases: BTreeSet<&ImageName> = missing.iter().filter_map(|image| image.parents.first()).collect();
    let mut known = HashMap::new();
    for base in bases {
        let Some(remote) = remotes.get(base) else { continue };
        let repository = registry.repository(base.as_str());
        let local = match by_name.get(base).and_then(|image| image.id.as_ref()) {
            Some(id) => engine.stored(id.as_str()).await?,
            None => None,
        };
        // An image of the same fingerprint that was built elsewhere may have other bytes.
        let Some(config) = remote.manifest.config() else { continue };
        let is_same = |stored: &Stored| stored.id == config.digest;
        let diff_ids = match local.filter(is_same) {
            Some(stored) => stored.layers,
            None => {
                let config = registry.client.blob(&repository, config, MAX_CONFIG).await?;
                diff_ids(&config).map_err(|error| Error::Archive {
                    message: format!("the configuration of {base}: {error}"),
                })?
            }
        };
        for (diff_id, layer) in diff_ids.into_iter().zip(remote.manifest.layers()) {
            known.insert(diff_id, KnownLayer { descriptor: layer.clone(), repository: repository.clone() });
        }
    }
    Ok(known)
}

/// A folder for layers on their way, which is removed with all that is in it.
struct Spool {
    folder: Utf8PathBuf,
}

impl Spool {
    /// Makes one in `folder`, and removes those of processes that are gone.
    fn new(folder: &Utf8Path) -> Result<Self, Error> {
        let io = |path: &Utf8Path| {
            let path = path.to_owned();
            move |error| Error::Io { path, error }
        };
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        for entry in folder.read_dir_utf8().map_err(io(folder))?.flatten() {
            let is_alive = |pid: &str| Utf8Path::new("/proc").join(pid).exists();
            if entry.file_name().parse::<u32>().is_ok() && !is_alive(entry.file_name()) {
                // Another run may be doing the same.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let own = folder.join(std::process::id().to_string());
        std::fs::create_dir_all(&own).map_err(io(&own))?;
        Ok(Self { folder: own })
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // What is left is removed by the next run.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
