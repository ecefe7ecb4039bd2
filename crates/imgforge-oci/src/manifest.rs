//! Manifests and indexes, with the bytes that their digest is over.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::media_type::{self, MediaType};

/// What the empty configuration of an artifact has in it (image specification, "Guidance for an Empty Descriptor").
const EMPTY: &[u8] = b"{}";

/// The manifest of one image, or of an artifact: something that lies in a registry and is no image (image
/// specification, "Image Manifest", section "Guidelines for Artifact Usage").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageManifest {
    /// What kind of artifact it is; nothing for an image.
    pub artifact_type: Option<MediaType>,
    /// The image's configuration; [`ImageManifest::EMPTY_CONFIG`] for an artifact.
    pub config: Descriptor,
    /// The image's layers, the lowest first; the files of an artifact.
    pub layers: Vec<Descriptor>,
    /// The manifest that an artifact is about.
    pub subject: Option<Descriptor>,
    /// What is said of it.
    pub annotations: BTreeMap<String, String>,
}

impl ImageManifest {
    /// The bytes of an artifact's configuration.
    pub const EMPTY_CONFIG: &[u8] = EMPTY;

    /// Makes the manifest of an image.
    pub fn image(config: Descriptor, layers: Vec<Descriptor>, annotations: BTreeMap<String, String>) -> Self {
        Self { artifact_type: None, config, layers, subject: None, annotations }
    }

    /// Makes the manifest of an artifact of this kind with these files, of which there is at least one.
    pub fn artifact(kind: impl Into<MediaType>, files: Vec<Descriptor>) -> Self {
        Self {
            artifact_type: Some(kind.into()),
            config: Descriptor::of(MediaType::EmptyJSON, EMPTY),
            layers: files,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// An index of manifests, one for each platform (image specification, "Image Index").
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index {
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// What is said of it.
    pub annotations: BTreeMap<String, String>,
}

/// What a registry has under a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// An image or an artifact.
    Image(Box<ImageManifest>),
    /// An index.
    Index(Index),
}

impl From<ImageManifest> for Document {
    fn from(manifest: ImageManifest) -> Self {
        Self::Image(Box::new(manifest))
    }
}

impl From<Index> for Document {
    fn from(index: Index) -> Self {
        Self::Index(index)
    }
}

impl Document {
    /// Returns the media type of the specification.
    fn media_type(&self) -> MediaType {
        match self {
            Self::Image(_) => MediaType::ImageManifest,
            Self::Index(_) => MediaType::ImageIndex,
        }
    }

    fn json(&self) -> Json {
        let annotations = |said: &BTreeMap<String, String>| (!said.is_empty()).then(|| said.clone());
        let json = Json { schema_version: 2, media_type: Some(self.media_type()), ..Json::default() };
        match self {
            Self::Image(image) => Json {
                artifact_type: image.artifact_type.clone(),
                config: Some(image.config.clone()),
                layers: Some(image.layers.clone()),
                subject: image.subject.clone(),
                annotations: annotations(&image.annotations),
                ..json
            },
            Self::Index(index) => Json {
                manifests: Some(index.manifests.clone()),
                annotations: annotations(&index.annotations),
                ..json
            },
        }
    }
}

/// What both kinds have in JSON; all other members stay in the bytes.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<MediaType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact_type: Option<MediaType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layers: Option<Vec<Descriptor>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<String, String>>,
}

/// One manifest or index: kept as the bytes that came, since the digest is over them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    digest: Digest,
    media_type: MediaType,
    bytes: Bytes,
    document: Document,
}

impl Manifest {
    /// Reads the bytes as they came, with the media type that came with them.
    ///
    /// A manifest that could be read in two ways is refused: other media types in the header and in the JSON, or layers
    /// and manifests in one (image specification, "Image Manifest", note on `mediaType`).
    ///
    /// # Errors
    /// Returns what is wrong, in a few words.
    pub fn parse(bytes: impl Into<Bytes>, content_type: Option<&str>) -> Result<Self, String> {
        let bytes = bytes.into();
        let json: Json = serde_json::from_slice(&bytes).map_err(|error| {
            if bytes.windows(10).any(|part| part == b"\"fsLayers\"") {
                "it is a manifest of schema 1, which is too old: pull the image and push it again".to_owned()
            } else {
                format!("it is no manifest: {error}")
            }
        })?;
        if json.schema_version != 2 {
            return Err(format!("it has the schema version {}, where 2 was expected", json.schema_version));
        }
        // `application/json` and the like say nothing.
        let content_type = content_type.map(|text| text.split(';').next().unwrap_or_default().trim());
        let content_type = content_type.filter(|text| text.starts_with("application/vnd."));
        let content_type = content_type.map(MediaType::from);
        if let (Some(inside), Some(outside)) = (&json.media_type, &content_type)
            && inside != outside
        {
            return Err(format!("it calls itself {inside}, but came as {outside}"));
        }
        let annotations = json.annotations.unwrap_or_default();
        let (artifact_type, subject) = (json.artifact_type, json.subject);
        let document: Document = match (json.config, json.layers, json.manifests) {
            (Some(config), Some(layers), None) => {
                ImageManifest { artifact_type, config, layers, subject, annotations }.into()
            }
            (None, None, Some(manifests)) => Index { manifests, annotations }.into(),
            _ => return Err("it has neither a config and layers nor manifests".to_owned()),
        };
        let oci = document.media_type();
        let media_type = json.media_type.or(content_type).unwrap_or_else(|| oci.clone());
        if !media_type::is(&media_type, &oci) {
            let docker = match document {
                Document::Image(_) => media_type::DOCKER_MANIFEST,
                Document::Index(_) => media_type::DOCKER_LIST,
            };
            return Err(format!("it has the media type {media_type}, where {oci} or {docker} was expected"));
        }
        Ok(Self { digest: Digest::sha256(&bytes), media_type, bytes, document })
    }

    /// Writes a document as registries get it, its members in the order of the specification; always the same bytes
    /// for the same document.
    pub fn of(document: impl Into<Document>) -> Self {
        let document = document.into();
        let bytes = serde_json::to_vec(&document.json()).expect("texts and numbers are always JSON");
        Self::written(document, bytes)
    }

    /// Writes a document as layouts get it, the members of each object in the order of their names; always the same
    /// bytes for the same document. Layouts had this order first, and the digests of what lies in them are to stay.
    pub fn sorted(document: impl Into<Document>) -> Self {
        let document = document.into();
        let json = serde_json::to_value(document.json()).expect("texts and numbers are always JSON");
        Self::written(document, json.to_string().into_bytes())
    }

    fn written(document: Document, bytes: Vec<u8>) -> Self {
        let media_type = document.media_type();
        Self { digest: Digest::sha256(&bytes), media_type, bytes: bytes.into(), document }
    }

    /// Returns the digest that it was asked for by, or the SHA-256 of the bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Returns the media type: that of the specification, or what Docker calls the same.
    pub fn media_type(&self) -> &MediaType {
        &self.media_type
    }

    /// Returns the bytes, as they came.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns what it says.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Returns the descriptor by which other manifests name it.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.clone(), self.digest.clone(), self.bytes.len() as u64)
    }

    /// Returns what is said of it.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        match &self.document {
            Document::Image(image) => &image.annotations,
            Document::Index(index) => &index.annotations,
        }
    }

    /// Returns what it says of an image or artifact; `None` for an index.
    pub fn image(&self) -> Option<&ImageManifest> {
        match &self.document {
            Document::Image(image) => Some(&**image),
            Document::Index(_) => None,
        }
    }

    /// Returns the image's configuration; `None` for an index.
    pub fn config(&self) -> Option<&Descriptor> {
        self.image().map(|image| &image.config)
    }

    /// Returns the image's layers, the lowest first; none for an index.
    pub fn layers(&self) -> &[Descriptor] {
        self.image().map_or(&[], |image| &image.layers)
    }

    /// Returns the manifests of an index; `None` for an image.
    pub fn entries(&self) -> Option<&[Descriptor]> {
        match &self.document {
            Document::Image(_) => None,
            Document::Index(index) => Some(&index.manifests),
        }
    }

    /// Returns the same manifest under another digest of its bytes: one of SHA-512 that was asked for.
    #[must_use]
    pub fn called(mut self, digest: &Digest) -> Self {
        self.digest = digest.clone();
        self
    }
}
