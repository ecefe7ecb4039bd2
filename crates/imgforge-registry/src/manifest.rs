//! Manifests and indexes: kept as the bytes that came, since the digest is over them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::digest::{Descriptor, Digest};

/// Media types that are written, and those that are read besides.
pub mod media_type {
    /// A manifest of one image (image specification, "Image Manifest").
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An index of manifests, one for each platform (image specification, "Image Index").
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An image's configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A layer compressed with gzip: what Docker Engine 20.10 can pull.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A layer that is not compressed.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// Docker's manifest (schema 2).
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's index.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
}

/// What is asked for wherever a manifest may come.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// One manifest or index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    digest: Digest,
    media_type: String,
    bytes: Bytes,
    annotations: BTreeMap<String, String>,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Image { config: Descriptor, layers: Vec<Descriptor> },
    Index(Vec<Descriptor>),
}

/// What both kinds have in JSON; all other members stay in the bytes.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layers: Option<Vec<Descriptor>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<String, String>>,
}

impl Manifest {
    /// From the bytes as they came, and the media type that came with them.
    ///
    /// A manifest that could be read in two ways is refused: other media types in the header and in the JSON, or layers
    /// and manifests in one (image specification, "Image Manifest", note on `mediaType`).
    ///
    /// # Errors
    /// What is wrong, in a few words.
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
        if let (Some(inside), Some(outside)) = (&json.media_type, content_type)
            && inside != outside
        {
            return Err(format!("it calls itself {inside}, but came as {outside}"));
        }
        let content = match (json.config, json.layers, json.manifests) {
            (Some(config), Some(layers), None) => Content::Image { config, layers },
            (None, None, Some(manifests)) => Content::Index(manifests),
            _ => return Err("it has neither a config and layers nor manifests".to_owned()),
        };
        let (oci, docker) = match content {
            Content::Image { .. } => (media_type::MANIFEST, media_type::DOCKER_MANIFEST),
            Content::Index(_) => (media_type::INDEX, media_type::DOCKER_LIST),
        };
        let media_type = json.media_type.or(content_type.map(str::to_owned)).unwrap_or(oci.to_owned());
        if media_type != oci && media_type != docker {
            return Err(format!("it has the media type {media_type}, where {oci} or {docker} was expected"));
        }
        let annotations = json.annotations.unwrap_or_default();
        Ok(Self { digest: Digest::sha256(&bytes), media_type, bytes, annotations, content })
    }

    /// The manifest of an image; always the same bytes for the same parts.
    pub fn image(config: Descriptor, layers: Vec<Descriptor>, annotations: BTreeMap<String, String>) -> Self {
        Self::write(media_type::MANIFEST, Content::Image { config, layers }, annotations)
    }

    /// The index of manifests, each with its platform; always the same bytes for the same entries.
    pub fn index(entries: Vec<Descriptor>, annotations: BTreeMap<String, String>) -> Self {
        Self::write(media_type::INDEX, Content::Index(entries), annotations)
    }

    fn write(media_type: &str, content: Content, annotations: BTreeMap<String, String>) -> Self {
        let (config, layers, manifests) = match content.clone() {
            Content::Image { config, layers } => (Some(config), Some(layers), None),
            Content::Index(entries) => (None, None, Some(entries)),
        };
        let json = Json {
            schema_version: 2,
            media_type: Some(media_type.to_owned()),
            config,
            layers,
            manifests,
            annotations: (!annotations.is_empty()).then(|| annotations.clone()),
        };
        let bytes: Bytes = serde_json::to_vec(&json).expect("texts and numbers are always JSON").into();
        let digest = Digest::sha256(&bytes);
        Self { digest, media_type: media_type.to_owned(), bytes, annotations, content }
    }

    /// The SHA-256 of the bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// One of [`media_type`].
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// The bytes, as they came.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How other manifests name it.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.media_type, self.digest.clone(), self.bytes.len() as u64)
    }

    /// What is said of it.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }

    /// The image's configuration; `None` for an index.
    pub fn config(&self) -> Option<&Descriptor> {
        match &self.content {
            Content::Image { config, .. } => Some(config),
            Content::Index(_) => None,
        }
    }

    /// The image's layers, the lowest first; none for an index.
    pub fn layers(&self) -> &[Descriptor] {
        match &self.content {
            Content::Image { layers, .. } => layers,
            Content::Index(_) => &[],
        }
    }

    /// The manifests of an index; `None` for an image.
    pub fn entries(&self) -> Option<&[Descriptor]> {
        match &self.content {
            Content::Image { .. } => None,
            Content::Index(entries) => Some(entries),
        }
    }

    /// Known by another digest of the same bytes: one of SHA-512 that was asked for.
    pub(crate) fn called(mut self, digest: &Digest) -> Self {
        self.digest = digest.clone();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(text: &str, media_type: &str) -> Descriptor {
        Descriptor::new(media_type, Digest::sha256(text.as_bytes()), text.len() as u64)
    }

    #[test]
    fn what_is_written_is_read_back_the_same() {
        let config = blob("{}", media_type::CONFIG);
        let layers = vec![blob("a", media_type::LAYER_GZIP), blob("b", media_type::LAYER_GZIP)];
        let annotations = BTreeMap::from([("key".to_owned(), "value".to_owned())]);
        let image = Manifest::image(config, layers, annotations);
        assert_eq!(Manifest::parse(image.bytes().clone(), Some(media_type::MANIFEST)), Ok(image.clone()));
        let index = Manifest::index(vec![image.descriptor()], BTreeMap::new());
        assert_eq!(Manifest::parse(index.bytes().clone(), None), Ok(index.clone()));
        assert!(index.config().is_none() && index.layers().is_empty() && image.entries().is_none());
    }

    #[test]
    fn manifests_with_two_meanings_are_refused() {
        let config = blob("{}", media_type::CONFIG);
        let image = Manifest::image(config, Vec::new(), BTreeMap::new());
        let as_index = Manifest::parse(image.bytes().clone(), Some(media_type::INDEX)).unwrap_err();
        assert!(as_index.contains("calls itself"), "{as_index}");
        let text = String::from_utf8_lossy(image.bytes()).into_owned();
        let both = text.replacen("\"layers\"", "\"manifests\":[],\"layers\"", 1);
        assert!(Manifest::parse(both, None).is_err());
        let unlabelled =
            text.replacen("\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",", "", 1);
        assert!(Manifest::parse(unlabelled.clone(), Some(media_type::INDEX)).is_err());
        assert_eq!(Manifest::parse(unlabelled, None).unwrap().media_type(), media_type::MANIFEST);
        let old = Manifest::parse("{\"schemaVersion\":1,\"fsLayers\":3,\"config\":4}", None).unwrap_err();
        assert!(old.contains("schema 1"), "{old}");
    }

    #[test]
    fn manifests_have_the_same_bytes_as_ever() {
        let config = blob("{}", media_type::CONFIG);
        let layers = vec![blob("a", media_type::LAYER_GZIP), blob("b", media_type::LAYER_GZIP)];
        let annotations = BTreeMap::from([("key".to_owned(), "value".to_owned())]);
        let image = Manifest::image(config, layers, annotations.clone());
        assert_eq!(
            *image.bytes(),
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb","size":1},{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d","size":1}],"annotations":{"key":"value"}}"#
        );
        let platform: crate::Platform =
            serde_json::from_str(r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#).unwrap();
        let entry = Descriptor { annotations, platform: Some(platform), ..image.descriptor() };
        assert_eq!(
            *Manifest::index(vec![entry], BTreeMap::new()).bytes(),
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:2b1267659fbc921b1956bb5097ec3329e154d9a842ffd3d3aeddde259c905776","size":579,"annotations":{"key":"value"},"platform":{"architecture":"arm64","os":"linux","variant":"v8"}}]}"#
        );
    }
}
