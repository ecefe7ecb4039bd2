//! Digests and descriptors: what content is called in a registry.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

/// A validated digest, `sha256:` and 64 hex digits or `sha512:` and 128 (image specification, "Descriptors", section
/// "Digests"). Other algorithms cannot be verified here and are refused.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The SHA-256 of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Self {
        Self(format!("sha256:{}", hex::encode(Sha256::digest(bytes))))
    }

    /// From a SHA-256 that was computed elsewhere.
    pub fn from_sha256(hash: [u8; 32]) -> Self {
        Self(format!("sha256:{}", hex::encode(hash)))
    }

    /// `sha256:...`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digits, without the algorithm.
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }

    /// `sha256` or `sha512`.
    pub(crate) fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(algorithm, _)| algorithm)
    }

    /// Whether it is the digest of `bytes`.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        let mut hash = Hasher::of(self);
        hash.update(bytes);
        hash.finish() == *self
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (algorithm, hex) = text.split_once(':').ok_or("a digest is `sha256:` and 64 hex digits")?;
        let digits = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return Err("a digest starts with `sha256:` or `sha512:`".to_owned()),
        };
        if hex.len() != digits || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(format!("a {algorithm} digest has {digits} digits of 0-9 and a-f"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Computes a digest by the algorithm of another one.
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub(crate) fn of(digest: &Digest) -> Self {
        if digest.0.starts_with("sha512:") {
            Self::Sha512(Sha512::new())
        } else {
            Self::Sha256(Sha256::new())
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        match self {
            Self::Sha256(hash) => Digest(format!("sha256:{}", hex::encode(hash.finalize()))),
            Self::Sha512(hash) => Digest(format!("sha512:{}", hex::encode(hash.finalize()))),
        }
    }
}

/// Names a blob or a manifest (image specification, "Descriptors").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
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
}

impl Descriptor {
    /// One without annotations and platform.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.into(), digest, size, annotations: BTreeMap::new(), platform: None }
    }

    /// The platform that it is for, `linux/amd64` or `linux/arm64/v8`; `None` where that is not said.
    pub fn platform_name(&self) -> Option<String> {
        let platform = self.platform.as_ref()?;
        let variant = platform.variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
        Some(format!("{}/{}{variant}", platform.os, platform.architecture))
    }

    /// Whether it is for a platform. One without a variant means any.
    pub fn is_for(&self, platform: &str) -> bool {
        let of = self.platform_name();
        of.is_some_and(|of| {
            of == platform || of.strip_prefix(platform).is_some_and(|rest| rest.starts_with('/'))
        })
    }

    /// Whether it is no image, but what BuildKit says of one (provenance, SBOM): its platform is `unknown/unknown`.
    pub fn is_attached(&self) -> bool {
        self.platform.as_ref().is_some_and(|platform| platform.os == "unknown")
    }

    /// Whether registries need not have it: layers that may not be distributed (image specification, "Image Layer
    /// Filesystem Changeset", section "Non-Distributable Layers").
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.media_type.contains(".nondistributable.") || self.media_type.contains(".foreign.")
    }
}

/// A platform as indexes name it (image specification, "Image Index", property `platform`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// For Windows.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_other_shapes_are_refused() {
        let good = Digest::sha256(b"");
        assert_eq!(good.as_str(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(good.as_str().parse(), Ok(good.clone()));
        for bad in
            ["", "sha256", "sha256:", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:E3b0", &good.hex()[1..]]
        {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert!(good.as_str().to_uppercase().parse::<Digest>().is_err());
        assert!(serde_json::from_str::<Digest>("\"sha256:../../x\"").is_err());
    }

    #[test]
    fn both_algorithms_are_verified() {
        let long: Digest = format!("sha512:{}", hex::encode(Sha512::digest(b"abc"))).parse().unwrap();
        assert!(long.is_of(b"abc") && !long.is_of(b"abd"));
        assert!(Digest::sha256(b"abc").is_of(b"abc"));
    }
}
