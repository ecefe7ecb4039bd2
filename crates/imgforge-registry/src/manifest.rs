//! Manifests as they lie in a registry: the bytes that make the digest, and what they say.

use std::collections::BTreeMap;

pub use oci_spec::image::{Descriptor, Digest, MediaType};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The media type of an image's manifest (OCI image specification, "Media Types").
pub const IMAGE_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an image's configuration.
pub const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// What manifests are asked for, the newest form first.
pub(crate) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// A manifest or an index, by its bytes.
#[derive(Debug, Clone)]
pub struct Manifest {
    digest: Digest,
    media_type: String,
    bytes: Vec<u8>,
    parsed: Parsed,
}

/// What all forms have in common.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parsed {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// An image's manifest, as it is written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'m> {
    schema_version: u32,
    media_type: &'m str,
    config: &'m Descriptor,
    layers: &'m [Descriptor],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'m BTreeMap<String, String>,
}

impl Manifest {
    /// Reads a manifest. `media_type` is what the registry says that it is, for those that do not say so themselves.
    ///
    /// # Errors
    /// In one line, when it is none.
    pub fn parse(bytes: Vec<u8>, media_type: &str) -> Result<Self, String> {
        let parsed: Parsed = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        if parsed.config.is_none() && parsed.manifests.is_empty() && parsed.media_type.is_none() {
            return Err("neither a manifest nor an index".into());
        }
        let media_type = parsed.media_type.clone().unwrap_or_else(|| media_type.to_owned());
        Ok(Self { digest: digest_of(&bytes), media_type, bytes, parsed })
    }

    /// The manifest of an image with this configuration and these layers, lowest first.
    pub fn image(config: &Descriptor, layers: &[Descriptor], annotations: &BTreeMap<String, String>) -> Self {
        let written = Written { schema_version: 2, media_type: IMAGE_MANIFEST, config, layers, annotations };
        let bytes = serde_json::to_vec(&written).expect("a manifest is plain data");
        Self::parse(bytes, IMAGE_MANIFEST).expect("what was written is a manifest")
    }

    /// The digest: `sha256:` of exactly its bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// What it says it is.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// As it came.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The image's configuration; `None` for an index.
    pub fn config(&self) -> Option<&Descriptor> {
        self.parsed.config.as_ref()
    }

    /// The layers, lowest first; none for an index.
    pub fn layers(&self) -> &[Descriptor] {
        &self.parsed.layers
    }

    /// The manifests that an index lists; none for an image.
    pub fn manifests(&self) -> &[Descriptor] {
        &self.parsed.manifests
    }

    /// The value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.parsed.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// `sha256:` of some bytes.
pub fn digest_of(bytes: &[u8]) -> Digest {
    let text = format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
    text.parse().expect("64 digits are a digest")
}

/// What a blob is called in a manifest.
///
/// # Errors
/// In one line, when `digest` is none.
pub fn descriptor(media_type: &str, digest: &str, size: u64) -> Result<Descriptor, String> {
    let digest: Digest = digest.parse().map_err(|_| format!("\"{digest}\" is not a digest"))?;
    Ok(Descriptor::new(MediaType::from(media_type), size, digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_reads_back() {
        let config = descriptor(IMAGE_CONFIG, &format!("sha256:{}", "a".repeat(64)), 3).unwrap();
        let layer =
            descriptor("application/vnd.oci.image.layer.v1.tar+gzip", config.digest().as_ref(), 9).unwrap();
        let annotations = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        let made = Manifest::image(&config, std::slice::from_ref(&layer), &annotations);
        let read = Manifest::parse(made.bytes().to_vec(), "").unwrap();
        assert_eq!(read.digest(), made.digest());
        assert_eq!((read.config(), read.layers()), (Some(&config), &[layer][..]));
        assert_eq!((read.annotation("k"), read.annotation("x")), (Some("v"), None));
        assert_eq!(read.media_type(), IMAGE_MANIFEST);
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        for bad in ["", "{}", "[]", "{\"config\": 3}", "{\"layers\": []}"] {
            assert!(Manifest::parse(bad.into(), IMAGE_MANIFEST).is_err(), "{bad}");
        }
    }
}
