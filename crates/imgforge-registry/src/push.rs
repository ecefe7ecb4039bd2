//! Whole images and artifacts into a registry: blobs, and last of all the manifest, by its digest.

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

/// An artifact to push: something that lies in a registry and is no image (image specification, "Guidelines for
/// Artifact Usage").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushArtifact {
    /// What kind of artifact it is.
    pub kind: MediaType,
    /// The media type and the bytes of its first file, when they are no file of this machine.
    pub text: Option<(MediaType, Vec<u8>)>,
    /// Its other files. There is at least one file.
    pub files: Vec<PushLayer>,
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

impl PushArtifact {
    /// The manifest that it gets: always the same for the same parts.
    pub fn manifest(&self) -> Manifest {
        let text = self.text.iter().map(|(media_type, bytes)| Descriptor::of(media_type.clone(), bytes));
        let files = self.files.iter().map(|file| file.descriptor.clone());
        Manifest::of(ImageManifest::artifact(self.kind.clone(), text.chain(files).collect()))
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
        self.push(repository, image.manifest(), &[&image.config], &image.layers, progress).await
    }

    /// Pushes an artifact, as [`Registry::push_image`] does.
    ///
    /// # Errors
    /// Those of [`Registry::push_image`]; [`Error::is_refusal_of_content`] tells of a registry that takes no artifacts.
    pub async fn push_artifact(
        &self,
        repository: &str,
        artifact: &PushArtifact,
        progress: ProgressSink,
    ) -> Result<Pushed, Error> {
        let text = artifact.text.as_ref().map(|(_, bytes)| bytes.as_slice());
        let small: Vec<&[u8]> = std::iter::once(ImageManifest::EMPTY_CONFIG).chain(text).collect();
        self.push(repository, artifact.manifest(), &small, &artifact.files, progress).await
    }

    /// Pushes what a manifest names: its configuration and first layers, whose bytes are `small`, and the other layers.
    async fn push(
        &self,
        repository: &str,
        manifest: Manifest,
        small: &[&[u8]],
        layers: &[PushLayer],
        progress: ProgressSink,
    ) -> Result<Pushed, Error> {
        check(repository)?;
        for from in layers.iter().flat_map(|layer| &layer.mount_from) {
            check(from)?;
        }
        let layers = layers.iter().map(|layer| {
            let source = layer.file.as_ref().map_or(Source::Nowhere, |file| Source::File(file.clone()));
            self.push_blob(repository, &layer.descriptor, source, &layer.mount_from, &progress)
        });
        let mut ways = try_join_all(layers).await?;
        for (descriptor, bytes) in manifest.config().into_iter().chain(manifest.layers()).zip(small) {
            let bytes = Source::Bytes(Bytes::copy_from_slice(bytes));
            ways.push(self.push_blob(repository, descriptor, bytes, &[], &progress).await?);
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
