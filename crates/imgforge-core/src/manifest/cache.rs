//! Manifests that were parsed before, by the hash of their file: parsing KDL is most of the time of a run that has
//! nothing to do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::ImageManifest;
use crate::diagnostic::SourceFile;

/// The images of each file.
type Entries = HashMap<[u8; 32], Vec<ImageManifest>>;

/// Parsed manifests that had no problems. Only ever saves time.
#[derive(Debug, Default)]
pub struct ManifestCache {
    known: Entries,
    new: Mutex<Entries>,
}

impl ManifestCache {
    /// The version of [`to_bytes`](Self::to_bytes)' form: raised when the manifest types or the meaning of a manifest
    /// change.
    pub const VERSION: u32 = 14;

    /// Reads what [`to_bytes`](Self::to_bytes) has written; empty when it is not of this form.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self { known: postcard::from_bytes(bytes).unwrap_or_default(), new: Mutex::default() }
    }

    fn key(file: &SourceFile) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(env!("CARGO_PKG_VERSION").as_bytes())
            .update(&(file.path.as_str().len() as u64).to_le_bytes());
        *hasher.update(file.path.as_str().as_bytes()).update(file.text.as_bytes()).finalize().as_bytes()
    }

    pub(crate) fn get(&self, file: &SourceFile) -> Option<Vec<ImageManifest>> {
        self.known.get(&Self::key(file)).cloned()
    }

    pub(crate) fn put(&self, file: &Arc<SourceFile>, images: &[ImageManifest]) {
        let mut new = self.new.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        new.insert(Self::key(file), images.to_vec());
    }

    /// Returns what the next run should know, of which the workspace has `in_use` manifests; `None` when nothing is
    /// new.
    pub fn to_bytes(&self, in_use: usize) -> Option<Vec<u8>> {
        let mut new = self.new.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if new.is_empty() {
            return None;
        }
        // Old versions of manifests pile up slowly; start again when most entries are of no use any more.
        if self.known.len() < 4 * in_use {
            new.extend(self.known.iter().map(|(key, images)| (*key, images.clone())));
        }
        postcard::to_stdvec(&*new).ok()
    }
}
