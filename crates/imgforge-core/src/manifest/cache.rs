//! Manifests that were parsed before, by the hash of their file: parsing KDL is most of the time of a run that has
//! nothing to do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use camino::{Utf8Path, Utf8PathBuf};

use super::ImageManifest;
use crate::cache_file;
use crate::diagnostic::SourceFile;

/// Raised when the manifest types or the meaning of a manifest change.
const VERSION: u32 = 10;

type Entries = HashMap<[u8; 32], ImageManifest>;

/// Parsed manifests that had no problems. Only ever saves time.
#[derive(Debug)]
pub struct ManifestCache {
    file: Utf8PathBuf,
    known: Entries,
    new: Mutex<Entries>,
}

impl ManifestCache {
    /// Reads the cache; empty when there is none, or none of this form.
    pub fn load(file: &Utf8Path) -> Self {
        let bytes = std::fs::read(file).unwrap_or_default();
        let known = cache_file::unframe(VERSION, &bytes).and_then(|body| postcard::from_bytes(body).ok());
        Self { file: file.to_owned(), known: known.unwrap_or_default(), new: Mutex::default() }
    }

    fn key(file: &SourceFile) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(env!("CARGO_PKG_VERSION").as_bytes())
            .update(&(file.path.as_str().len() as u64).to_le_bytes());
        *hasher.update(file.path.as_str().as_bytes()).update(file.text.as_bytes()).finalize().as_bytes()
    }

    pub(crate) fn get(&self, file: &SourceFile) -> Option<ImageManifest> {
        self.known.get(&Self::key(file)).cloned()
    }

    pub(crate) fn put(&self, file: &Arc<SourceFile>, manifest: &ImageManifest) {
        let mut new = self.new.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        new.insert(Self::key(file), manifest.clone());
    }

    /// Writes what is new, and forgets what `in_use` does not name.
    pub fn save(&self, in_use: usize) {
        let mut new = self.new.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if new.is_empty() {
            return;
        }
        // Old versions of manifests pile up slowly; start again when most entries are of no use any more.
        if self.known.len() < 4 * in_use {
            new.extend(self.known.iter().map(|(key, manifest)| (*key, manifest.clone())));
        }
        // A cache that cannot be written costs time in the next run, nothing else.
        if let Ok(body) = postcard::to_stdvec(&*new) {
            let _ = cache_file::replace(&self.file, &cache_file::frame(VERSION, &body));
        }
    }
}
