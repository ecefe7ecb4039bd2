//! Descriptors: how documents name content.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::media_type::{self, MediaType};
use crate::platform::Platform;

/// Names a blob or a manifest (image specification, "Descriptors").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: MediaType,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// What else is said of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// For which platform it is: in the entries of an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Everything else, which is kept as it is.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl Descriptor {
    /// Makes a descriptor without annotations and platform.
    pub fn new(media_type: impl Into<MediaType>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            annotations: BTreeMap::new(),
            platform: None,
            other: BTreeMap::new(),
        }
    }

    /// Makes the descriptor of these bytes.
    pub fn of(media_type: impl Into<MediaType>, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::sha256(bytes), bytes.len() as u64)
    }

    /// Returns whether it is for a platform. One without a variant means any.
    pub fn is_for(&self, platform: &str) -> bool {
        let of = self.platform.as_ref().map(ToString::to_string);
        of.is_some_and(|of| {
            of == platform || of.strip_prefix(platform).is_some_and(|rest| rest.starts_with('/'))
        })
    }

    /// Returns whether it is no image, but what BuildKit says of one (provenance, SBOM): its platform is
    /// `unknown/unknown`.
    pub fn is_attached(&self) -> bool {
        self.platform.as_ref().is_some_and(|platform| platform.os == "unknown")
    }

    /// Returns whether registries need not have it: a layer that may not be distributed.
    pub fn is_elsewhere(&self) -> bool {
        media_type::is_elsewhere(&self.media_type)
    }
}
