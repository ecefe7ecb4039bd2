//! Keeps parsed manifests for the next run. Only ever saves time: what this user has not sealed is not believed.

use imgforge_core::manifest::ManifestCache;
use imgforge_state::{Sealed, StateDir};

/// The cache file.
const FILE: Sealed = Sealed { name: "cache/manifests", version: ManifestCache::VERSION };

/// Reads the manifests that earlier runs have parsed; none when there is no such file, or none of this form.
pub fn remembered(state: &StateDir) -> ManifestCache {
    let body = state.read_sealed(&FILE).ok().flatten();
    body.map_or_else(ManifestCache::default, |body| ManifestCache::from_bytes(&body))
}

/// Writes what is new for the next run, which has `in_use` manifests. A cache that cannot be written costs time, nothing
/// else.
pub fn remember(cache: &ManifestCache, in_use: usize, state: &StateDir) {
    if let Some(body) = cache.to_bytes(in_use) {
        let _ = state.replace_sealed(&FILE, &body);
    }
}
