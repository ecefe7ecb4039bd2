//! Images from registries into the store.

use camino::Utf8Path;
use imgforge_engine::{BuildError, CancellationToken, Login};
use imgforge_oci::{Descriptor, Digest, ImageConfig, Manifest, Reference, chain_id};
use imgforge_registry::{Credentials, Options, ProgressSink, Registry};

use crate::build::store_error;
use crate::engine::{Embedded, no_room, not_unpacked, silent};
use crate::store::ImageRecord;
use crate::worker::message::{self, Layer, Reply, Request};

/// The size of the largest configuration that is read.
const MAX_CONFIG: u64 = 16 << 20;

impl Embedded {
    /// Pulls an image, and gives it its reference as a name when that has a tag.
    pub(crate) async fn pull_reference(
        &self,
        name: &str,
        login: Option<Login>,
        platform: Option<&str>,
        cancel: &CancellationToken,
    ) -> Result<ImageRecord, BuildError> {
        let reference: Reference = name.parse().map_err(|error| gone(name, &error))?;
        tokio::select! {
            pulled = self.pull_now(name, &reference, login, platform, cancel) => pulled,
            () = cancel.cancelled() => Err(BuildError::Cancelled),
        }
    }

    async fn pull_now(
        &self,
        name: &str,
        reference: &Reference,
        login: Option<Login>,
        platform: Option<&str>,
        cancel: &CancellationToken,
    ) -> Result<ImageRecord, BuildError> {
        let registry =
            Registry::new(self.options(&reference.host, login)).map_err(|error| gone(name, &error))?;
        let repository = reference.repository.as_str();
        let manifest = registry
            .manifest(repository, &reference.wanted())
            .await
            .map_err(|error| gone(name, &error))?
            .ok_or_else(|| missing(name, "the registry has no such image"))?;
        let manifest = match manifest.entries() {
            Some(entries) => {
                let platform = platform.unwrap_or("linux/amd64");
                let entry = entries.iter().find(|entry| entry.is_for(platform)).ok_or_else(|| {
                    BuildError::Refused { message: format!("{name} has nothing for {platform}") }
                })?;
                let found = registry.manifest(repository, &(&entry.digest).into()).await;
                let lacks = || missing(name, &format!("the registry lacks {}", entry.digest));
                found.map_err(|error| gone(name, &error))?.ok_or_else(lacks)?
            }
            None => manifest,
        };
        self.take(name, &registry, repository, &manifest, cancel).await
    }

    async fn take(
        &self,
        name: &str,
        registry: &Registry,
        repository: &str,
        manifest: &Manifest,
        cancel: &CancellationToken,
    ) -> Result<ImageRecord, BuildError> {
        let wrong = |why: &str| BuildError::Refused { message: format!("{name}: {why}") };
        let config = manifest.config().ok_or_else(|| wrong("it is no image"))?;
        let bytes =
            registry.blob(repository, config, MAX_CONFIG).await.map_err(|error| gone(name, &error))?;
        let parsed: ImageConfig = serde_json::from_slice(&bytes)
            .map_err(|error| wrong(&format!("its configuration is not understood: {error}")))?;
        if parsed.rootfs.diff_ids.len() != manifest.layers().len() {
            return Err(wrong("its configuration names other layers than its manifest"));
        }
        self.check_room(name, manifest.layers())?;
        let scratch = self.store.scratch().map_err(store_error)?;
        let fetching = manifest
            .layers()
            .iter()
            .map(|layer| self.fetch(name, registry, repository, layer, scratch.path()));
        futures_util::future::try_join_all(fetching).await?;
        let mut layers: Vec<Layer> = Vec::new();
        let mut stack = Vec::new();
        let mut chain: Option<Digest> = None;
        for (descriptor, diff_id) in manifest.layers().iter().zip(&parsed.rootfs.diff_ids) {
            let id = chain_id(chain.as_ref(), diff_id);
            let known = self.store.layer(&id).map_err(store_error)?;
            let layer = match (known, self.store.folder(&id)) {
                (Some(layer), Some(_)) => layer,
                _ => self.unpack(name, descriptor, diff_id, &id, &stack, cancel).await?,
            };
            stack.extend(self.store.folder(&id));
            // Another compression of the same layer may be known: the manifest's own is what has its digest.
            layers.push(Layer {
                digest: descriptor.digest.clone(),
                size: descriptor.size,
                media_type: descriptor.media_type.clone(),
                ..layer
            });
            chain = Some(id);
        }
        self.store.put_pulled(&bytes, &layers, manifest).map_err(store_error)
    }

    /// Returns whether the disk has room for the blobs that are not there yet.
    fn check_room(&self, name: &str, layers: &[Descriptor]) -> Result<(), BuildError> {
        let absent = layers.iter().filter(|layer| !self.store.has_blob(&layer.digest));
        let size = absent.fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
        let free = self.store.free().map_err(store_error)?;
        if size > free { Err(no_room(&format!("{name}: its layers are larger"), free)) } else { Ok(()) }
    }

    async fn fetch(
        &self,
        name: &str,
        registry: &Registry,
        repository: &str,
        layer: &Descriptor,
        scratch: &Utf8Path,
    ) -> Result<(), BuildError> {
        if self.store.has_blob(&layer.digest) {
            return Ok(());
        }
        let file = scratch.join(layer.digest.hex());
        registry
            .download_blob(repository, layer, &file, ProgressSink::silent())
            .await
            .map_err(|error| gone(name, &error))?;
        self.store.adopt_blob(&file, &layer.digest).map_err(store_error)
    }

    async fn unpack(
        &self,
        name: &str,
        descriptor: &Descriptor,
        diff_id: &Digest,
        chain: &Digest,
        stack: &[camino::Utf8PathBuf],
        cancel: &CancellationToken,
    ) -> Result<Layer, BuildError> {
        let blob = self.store.blob(&descriptor.digest).map_err(store_error)?;
        let scratch = self.store.scratch().map_err(store_error)?;
        let folder = scratch.path().join("layer");
        let request =
            Request::Unpack(message::Unpack { blob, stack: stack.to_vec(), folder: folder.clone() });
        let unpacked_size = match self.work(scratch.path(), &request, silent(), cancel).await? {
            Reply::Unpack(found) if found.diff_id == *diff_id => found.size,
            Reply::Unpack(found) => {
                return Err(BuildError::Refused {
                    message: format!("{name}: a layer is {}, and not {diff_id}", found.diff_id),
                });
            }
            other => return Err(not_unpacked(name, &other)),
        };
        let layer = Layer {
            diff_id: diff_id.clone(),
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            media_type: descriptor.media_type.clone(),
            unpacked_size,
        };
        self.store.adopt_folder(&folder, &layer, chain).map_err(store_error)?;
        Ok(layer)
    }

    /// Returns the options with which a registry is reached.
    fn options(&self, host: &str, login: Option<Login>) -> Options {
        let known = self.settings.registries.iter().find(|options| options.host == host).cloned();
        let mut options = known.unwrap_or_else(|| Options::new(host, Credentials::docker()));
        if let Some(login) = login {
            options.credentials = Credentials::login(login.user, login.password);
        }
        options
    }
}

/// The registry does not have an image.
fn missing(name: &str, why: &str) -> BuildError {
    BuildError::MissingImage { reference: name.to_owned(), message: format!("{name}: not found: {why}") }
}

fn gone(name: &str, error: &impl std::fmt::Display) -> BuildError {
    BuildError::Refused { message: format!("{name}: {error}") }
}
