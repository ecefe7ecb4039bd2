//! `imgforge.lock`: which packages, by version and hash, each image adds to its parents.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::name::ImageName;

/// The whole lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    /// BLAKE3 (hex) over what was asked for: sources and the requests of every image. When it does not fit the
    /// manifests any more, the lock is out of date.
    pub request: String,
    /// Every locked package, by source, name and architecture; sorted.
    pub packages: Vec<LockedPackage>,
    /// For every image that asks for packages, those that it adds to its parents' closure, in the order
    /// `name`. Each is the `name` of an entry of `packages` of the image's source.
    pub images: BTreeMap<ImageName, LockedImage>,
}

/// What one image adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedImage {
    /// The apt source.
    pub source: String,
    /// Package names, sorted.
    pub packages: Vec<String>,
}

/// One package file, as its repository's signed index describes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LockedPackage {
    /// The apt source's name in the workspace.
    pub source: String,
    /// Package name.
    pub name: String,
    /// Debian version, epoch included.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// The suite that it was found in.
    pub suite: String,
    /// Path below the repository's root (`Filename` in the index).
    pub path: String,
    /// Size of the file in bytes.
    pub size: u64,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
}
