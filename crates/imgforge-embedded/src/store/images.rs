//! Images: a configuration, a manifest, a record in the journal, and names.

use std::collections::BTreeMap;

use imgforge_core::image_config::ImageConfig;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::journal::Change;
use super::{Store, StoreError};
use crate::worker::message::Layer;

/// The annotation that names an image in a layout (OCI image specification, "Pre-Defined Annotation Keys").
const REF_NAME: &str = "org.opencontainers.image.ref.name";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The shortest part of an id that is taken for it.
const MIN_PREFIX: usize = 6;

/// An image of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// `sha256:` of its configuration.
    pub id: String,
    /// `sha256:` of its manifest.
    pub manifest: String,
    /// The manifest's size in bytes.
    pub manifest_size: u64,
    /// The manifest's media type.
    pub media_type: String,
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

/// A manifest, as far as it is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    media_type: Option<String>,
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
        self.record(id.clone(), config, layers, &manifest(&id, bytes.len(), layers), content)
    }

    /// Keeps an image that came without a manifest, with exactly this configuration.
    ///
    /// # Errors
    /// A configuration that is none; those of the disk.
    pub(super) fn put_loaded(&self, config: &[u8], layers: &[Layer]) -> Result<ImageRecord, StoreError> {
        let id = self.put_blob(config)?;
        let manifest = manifest(&id, config.len(), layers);
        self.record(id.clone(), &parse(&id, config)?, layers, &manifest, "")
    }

    /// Keeps an image that was pulled, with exactly the configuration and the manifest that it has in its registry.
    ///
    /// # Errors
    /// A configuration that is none; those of the disk.
    pub fn put_pulled(
        &self,
        config: &[u8],
        layers: &[Layer],
        manifest: &[u8],
    ) -> Result<ImageRecord, StoreError> {
        let id = self.put_blob(config)?;
        let config = parse(&id, config)?;
        self.record(id, &config, layers, manifest, "")
    }

    fn record(
        &self,
        id: String,
        config: &ImageConfig,
        layers: &[Layer],
        manifest: &[u8],
        content: &str,
    ) -> Result<ImageRecord, StoreError> {
        let digest = self.put_blob(manifest)?;
        let parsed: Manifest = parse(&digest, manifest)?;
        let record = ImageRecord {
            id: id.clone(),
            manifest: digest,
            manifest_size: manifest.len() as u64,
            media_type: parsed.media_type.unwrap_or_else(|| MANIFEST.to_owned()),
            size: layers.iter().map(|layer| layer.unpacked_size).sum(),
            layers: layers.to_vec(),
            labels: config.config.labels.clone().unwrap_or_default(),
            content: content.to_owned(),
            created: jiff::Timestamp::now().as_second(),
            names: Vec::new(),
        };
        self.journal().change(|journal| {
            let is_known = journal.image(&id).is_some_and(|known| known.manifest == record.manifest);
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
        let mut all: BTreeMap<&str, ImageRecord> =
            journal.images().map(|record| (record.id.as_str(), record.clone())).collect();
        for (reference, id) in journal.names() {
            if let Some(record) = all.get_mut(id.as_str()) {
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
        let named = journal.named(&whole).and_then(|id| journal.image(id));
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
    fn is_whole(&self, record: &ImageRecord, known: &mut BTreeMap<String, bool>) -> bool {
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
    pub fn tag(&self, id: &str, reference: &str) -> Result<(), StoreError> {
        let reference = whole(reference);
        self.journal().change(|journal| {
            if journal.named(&reference) == Some(id) {
                (Vec::new(), ())
            } else {
                (vec![Change::Name { reference, id: id.to_owned() }], ())
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
                        vec![Change::Gone { id: id.to_owned() }]
                    } else {
                        vec![Change::Unname { reference: whole }]
                    }
                }
                None if journal.image(reference).is_some() && !journal.with_names().contains(reference) => {
                    vec![Change::Gone { id: reference.to_owned() }]
                }
                None => Vec::new(),
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
                let Some(record) = journal.image(id).filter(|record| self.is_whole(record, &mut known))
                else {
                    continue;
                };
                manifests.push(json!({
                    "mediaType": record.media_type,
                    "digest": record.manifest,
                    "size": record.manifest_size,
                    "annotations": { REF_NAME: name },
                }));
            }
            let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
            let bytes = serde_json::to_vec(&index).expect("texts and numbers are JSON");
            (Vec::new(), self.dir.replace("index.json", &bytes))
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
fn manifest(id: &str, size: usize, layers: &[Layer]) -> Vec<u8> {
    let descriptors: Vec<_> = layers
        .iter()
        .map(|layer| json!({ "mediaType": layer.media_type, "digest": layer.digest, "size": layer.size }))
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": id, "size": size },
        "layers": descriptors,
    });
    serde_json::to_vec(&manifest).expect("texts and numbers are JSON")
}

/// A reference with the tag that it means.
fn whole(reference: &str) -> String {
    let name = reference.rsplit('/').next().unwrap_or(reference);
    if name.contains([':', '@']) { reference.to_owned() } else { format!("{reference}:latest") }
}

fn parse<T: serde::de::DeserializeOwned>(digest: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes)
        .map_err(|error| StoreError::Content { digest: digest.to_owned(), why: error.to_string() })
}
