//! Whole images into a registry: layers, config, and last of all the manifest, by its digest.

use std::collections::BTreeMap;

use bytes::Bytes;
use camino::Utf8PathBuf;
use futures_util::future::try_join_all;
use imgforge_oci::{Descriptor, Digest, ImageManifest, Manifest, MediaType};

use crate::error::Error;
use crate::progress::ProgressSink;
use crate::registry::{Registry, check};
use crate::upload::{Source, Way};

/// An image to push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushImage {
    /// The image's configuration, as JSON.
    pub config: Vec<u8>,
    /// The lowest first.
    pub layers: Vec<PushLayer>,
    /// What the manifest says of it.
    pub annotations: BTreeMap<String, String>,
}

/// A layer to push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushLayer {
    /// Digest, size and media type of the compressed bytes.
    pub descriptor: Descriptor,
    /// The compressed bytes; `None` when the registry must have them already.
    pub file: Option<Utf8PathBuf>,
    /// Repositories of the same registry that may have it, the likeliest first.
    pub mount_from: Vec<String>,
}

/// What [`Registry::push_image`] has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The manifest's digest.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Manifest,
    /// Bytes of blobs that were sent, those included that were sent again after a cut.
    pub sent: u64,
    /// Blobs that were mounted from another repository.
    pub mounted: usize,
    /// Blobs that were there.
    pub existed: usize,
}

impl PushImage {
    /// The manifest that it gets: always the same for the same parts.
    pub fn manifest(&self) -> Manifest {
        let config = Descriptor::of(MediaType::ImageConfig, &self.config);
        let layers = self.layers.iter().map(|layer| layer.descriptor.clone()).collect();
        Manifest::of(ImageManifest::image(config, layers, self.annotations.clone()))
    }
}

impl Registry {
    /// Pushes an image: every blob that is not there, then the manifest by its digest. No tag points to it yet.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Io`] for a layer's file, [`Error::Incomplete`] for a layer without a file that is
    /// not there, and those of every request.
    pub async fn push_image(
        &self,
        repository: &str,
        image: &PushImage,
        progress: ProgressSink,
    ) -> Result<Pushed, Error> {
        check(repository)?;
        for from in image.layers.iter().flat_map(|layer| &layer.mount_from) {
            check(from)?;
        }
        let layers = image.layers.iter().map(|layer| {
            let source = layer.file.as_ref().map_or(Source::Nowhere, |file| Source::File(file.clone()));
            self.push_blob(repository, &layer.descriptor, source, &layer.mount_from, &progress)
        });
        let mut ways = try_join_all(layers).await?;
        let manifest = image.manifest();
        if let Some(config) = manifest.config() {
            let bytes = Source::Bytes(Bytes::from(image.config.clone()));
            ways.push(self.push_blob(repository, config, bytes, &[], &progress).await?);
        }
        let digest = manifest.digest().clone();
        self.put_manifest(repository, &(&digest).into(), &manifest).await?;
        let count = |wanted: fn(&Way) -> bool| ways.iter().filter(|way| wanted(way)).count();
        Ok(Pushed {
            sent: ways.iter().map(Way::sent).sum(),
            mounted: count(|way| matches!(way, Way::Mounted)),
            existed: count(|way| matches!(way, Way::Existed)),
            digest,
            manifest,
        })
    }
}
