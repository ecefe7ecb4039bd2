//! Images: a configuration, a manifest, a record in the journal, and names.

use std::collections::BTreeMap;

use imgforge_oci::annotation::REF_NAME;
use imgforge_oci::{
    Descriptor, Digest, ImageConfig, ImageManifest, Index, Manifest, MediaType, layout, reference,
};
use serde::{Deserialize, Serialize};

use super::journal::Change;
use super::{Store, StoreError};
use crate::worker::message::Layer;

/// The shortest part of an id that is taken for it.
const MIN_PREFIX: usize = 6;

/// An image of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The digest of its configuration.
    pub id: Digest,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// The manifest's size in bytes.
    pub manifest_size: u64,
    /// The manifest's media type.
    pub media_type: MediaType,
    /// The size of its files in bytes.
    pub size: u64,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The hash of what it is without what it was made from; empty for what was pulled.
    pub content: String,
    /// The time at which the image came here, in seconds since 1970.
    pub created: i64,
    /// The names of the image.
    #[serde(skip)]
    pub names: Vec<String>,
}

impl Store {
    /// Keeps an image, which has no name yet.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn put_image(
        &self,
        config: &ImageConfig,
        layers: &[Layer],
        content: &str,
    ) -> Result<ImageRecord, StoreError> {
        let bytes = serde_json::to_vec(config).expect("texts and numbers are JSON");
        let id = self.put_blob(&bytes)?;
        let manifest = manifest(&id, bytes.len(), layers);
        self.record(id, config, layers, &manifest, content)
    }

    /// Keeps an image that came without a manifest, with exactly this configuration.
    ///
    /// # Errors
    /// A configuration that is none; those of the disk.
    pub(super) fn put_loaded(&self, config: &[u8], layers: &[Layer]) -> Result<ImageRecord, StoreError> {
        let id = self.put_blob(config)?;
        let manifest = manifest(&id, config.len(), layers);
        let config = parse(&id, config)?;
        self.record(id, &config, layers, &manifest, "")
    }

    /// Keeps an image that was pulled, with exactly the configuration and the manifest that it has in its registry.
    ///
    /// # Errors
    /// A configuration that is none; those of the disk.
    pub fn put_pulled(
        &self,
        config: &[u8],
        layers: &[Layer],
        manifest: &Manifest,
    ) -> Result<ImageRecord, StoreError> {
        let id = self.put_blob(config)?;
        let config = parse(&id, config)?;
        self.record(id, &config, layers, manifest, "")
    }

    fn record(
        &self,
        id: Digest,
        config: &ImageConfig,
        layers: &[Layer],
        manifest: &Manifest,
        content: &str,
    ) -> Result<ImageRecord, StoreError> {
        let record = ImageRecord {
            id: id.clone(),
            manifest: self.put_blob(manifest.bytes())?,
            manifest_size: manifest.bytes().len() as u64,
            media_type: manifest.media_type().clone(),
            size: layers.iter().map(|layer| layer.unpacked_size).sum(),
            layers: layers.to_vec(),
            labels: config.config.labels.clone().unwrap_or_default(),
            content: content.to_owned(),
            created: jiff::Timestamp::now().as_second(),
            names: Vec::new(),
        };
        self.journal().change(|journal| {
            let is_known = journal.image(id.as_str()).is_some_and(|known| known.manifest == record.manifest);
            (if is_known { Vec::new() } else { vec![Change::Image(Box::new(record.clone()))] }, ())
        })?;
        Ok(record)
    }

    /// All images whose blobs are there, with their names. Others are as if they were not there: they are built again.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn list(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let mut journal = self.journal();
        journal.read()?;
        let mut all: BTreeMap<&Digest, ImageRecord> =
            journal.images().map(|record| (&record.id, record.clone())).collect();
        for (reference, id) in journal.names() {
            if let Some(record) = all.get_mut(id) {
                record.names.push(reference.clone());
            }
        }
        let mut known = BTreeMap::new();
        all.retain(|_, record| self.is_whole(record, &mut known));
        Ok(all.into_values().collect())
    }

    /// Those images with this content.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn with_content(&self, content: &str) -> Result<Vec<ImageRecord>, StoreError> {
        let mut journal = self.journal();
        journal.read()?;
        Ok(journal.images().filter(|record| record.content == content).cloned().collect())
    }

    /// The image with this name or id, or the only one whose id begins so.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn find(&self, reference: &str) -> Result<Option<ImageRecord>, StoreError> {
        let mut journal = self.journal();
        journal.read()?;
        let whole = whole(reference);
        let named = journal.named(&whole).and_then(|id| journal.image(id.as_str()));
        let found = named.or_else(|| journal.image(reference)).or_else(|| {
            let digits = reference.strip_prefix("sha256:").unwrap_or(reference);
            (digits.len() >= MIN_PREFIX).then(|| journal.by_prefix(digits)).flatten()
        });
        Ok(found.cloned())
    }

    /// An image's configuration.
    ///
    /// # Errors
    /// A blob that is missing or damaged.
    pub fn config(&self, record: &ImageRecord) -> Result<ImageConfig, StoreError> {
        parse(&record.id, &self.read_blob(&record.id)?)
    }

    /// Returns whether every blob of an image is there. Their bytes are not looked at.
    fn is_whole(&self, record: &ImageRecord, known: &mut BTreeMap<Digest, bool>) -> bool {
        let layers = record.layers.iter().map(|layer| &layer.digest);
        [&record.id, &record.manifest]
            .into_iter()
            .chain(layers)
            .all(|digest| *known.entry(digest.clone()).or_insert_with(|| self.has_blob(digest)))
    }

    /// Names an image; the name is taken from the one that had it.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn tag(&self, id: &Digest, reference: &str) -> Result<(), StoreError> {
        let reference = whole(reference);
        self.journal().change(|journal| {
            if journal.named(&reference) == Some(id) {
                (Vec::new(), ())
            } else {
                (vec![Change::Name { reference, id: id.clone() }], ())
            }
        })
    }

    /// Takes a name away, and the image with it if that was its last. An id removes an image that has no name.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn untag(&self, reference: &str) -> Result<(), StoreError> {
        let whole = whole(reference);
        self.journal().change(|journal| {
            let changes = match journal.named(&whole) {
                Some(id) => {
                    let is_last = journal.names().values().filter(|named| *named == id).count() == 1;
                    if is_last {
                        vec![Change::Gone { id: id.clone() }]
                    } else {
                        vec![Change::Unname { reference: whole }]
                    }
                }
                None => {
                    let nameless = journal.image(reference).map(|record| &record.id);
                    let nameless = nameless.filter(|id| !journal.with_names().contains(id));
                    nameless.map(|id| Change::Gone { id: id.clone() }).into_iter().collect()
                }
            };
            (changes, ())
        })
    }

    /// Writes `index.json`: what other programs see of the store. Called when a run ends.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn write_index(&self) -> Result<(), StoreError> {
        // Nobody changes the journal meanwhile, so that no older list comes to stand in place of a newer one.
        self.journal().change(|journal| {
            let mut known = BTreeMap::new();
            let mut manifests = Vec::new();
            for (name, id) in journal.names() {
                let Some(record) =
                    journal.image(id.as_str()).filter(|record| self.is_whole(record, &mut known))
                else {
                    continue;
                };
                let (media_type, digest) = (record.media_type.clone(), record.manifest.clone());
                manifests.push(Descriptor {
                    annotations: BTreeMap::from([(REF_NAME.to_owned(), name.clone())]),
                    ..Descriptor::new(media_type, digest, record.manifest_size)
                });
            }
            let index = Manifest::sorted(Index { manifests, ..Index::default() });
            (Vec::new(), self.dir.replace(layout::INDEX, index.bytes()))
        })??;
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // It is made again from the journal the next time.
        let _ = self.write_index();
    }
}

/// The manifest of an image.
fn manifest(id: &Digest, size: usize, layers: &[Layer]) -> Manifest {
    let config = Descriptor::new(MediaType::ImageConfig, id.clone(), size as u64);
    let descriptor =
        |layer: &Layer| Descriptor::new(layer.media_type.clone(), layer.digest.clone(), layer.size);
    let layers = layers.iter().map(descriptor).collect();
    Manifest::sorted(ImageManifest::image(config, layers, BTreeMap::new()))
}

/// A reference with the tag that it means.
fn whole(text: &str) -> String {
    let parts = reference::Parts::of(text);
    if parts.tag.is_some() || parts.digest.is_some() {
        text.to_owned()
    } else {
        format!("{text}:{}", reference::LATEST)
    }
}

fn parse<T: serde::de::DeserializeOwned>(digest: &Digest, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes)
        .map_err(|error| StoreError::Content { digest: digest.clone(), why: error.to_string() })
}
