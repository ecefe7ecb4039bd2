//! Manifests that were parsed before, by the hash of their file: parsing KDL is most of the time of a run that has
//! nothing to do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::ImageManifest;
use crate::diagnostic::SourceFile;
use crate::state::{Sealed, StateDir};

/// The cache file. Its version is raised when the manifest types or the meaning of a manifest change.
const FILE: Sealed = Sealed { name: "cache/manifests", version: 14 };

/// The images of each file.
type Entries = HashMap<[u8; 32], Vec<ImageManifest>>;

/// Parsed manifests that had no problems. Only ever saves time: what this user has not sealed is not believed.
#[derive(Debug)]
pub struct ManifestCache {
    state: StateDir,
    known: Entries,
    new: Mutex<Entries>,
}

impl ManifestCache {
    /// Reads the cache; empty when there is none, or none of this form.
    pub fn load(state: &StateDir) -> Self {
        let body = state.read_sealed(&FILE).ok().flatten();
        let known = body.and_then(|body| postcard::from_bytes(&body).ok()).unwrap_or_default();
        Self { state: state.clone(), known, new: Mutex::default() }
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

    /// Writes what is new, and forgets what `in_use` does not name.
    pub fn save(&self, in_use: usize) {
        let mut new = self.new.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if new.is_empty() {
            return;
        }
        // Old versions of manifests pile up slowly; start again when most entries are of no use any more.
        if self.known.len() < 4 * in_use {
            new.extend(self.known.iter().map(|(key, images)| (*key, images.clone())));
        }
        // A cache that cannot be written costs time in the next run, nothing else.
        if let Ok(body) = postcard::to_stdvec(&*new) {
            let _ = self.state.replace_sealed(&FILE, &body);
        }
    }
}
