//! Which images this user's imgforge has built: what counts in a workspace that says `trust "built-here"`.

use std::collections::{BTreeMap, BTreeSet};

use imgforge_core::fingerprint::Fingerprint;
use imgforge_core::manifest::Trust;
use imgforge_core::name::ImageName;
use imgforge_core::plan::Inventory;
use imgforge_engine::{Engine, Host};
use imgforge_oci::{Digest, Manifest};
use imgforge_state::StateDir;

use crate::registry::{FINGERPRINT, Remote};
use crate::{Error, Session};

/// Sealed lines `NAME FINGERPRINT ID`.
const FILE: &str = "built";

/// More lines than this are written anew, each once.
const MANY: usize = 20_000;

/// The images that were built here.
pub(crate) struct Built(BTreeSet<String>);

impl Built {
    /// Reads what this user's imgforge has written.
    pub(crate) fn load(state: &StateDir) -> Self {
        let lines = state.sealed_lines(FILE).unwrap_or_default();
        let count = lines.len();
        let known: BTreeSet<String> = lines.into_iter().collect();
        if count > MANY {
            // What cannot be written is as it was.
            let _ = state.replace_sealed_lines(FILE, known.iter().map(String::as_str));
        }
        Self(known)
    }

    /// Returns whether exactly this image was.
    fn has(&self, name: &str, fingerprint: Fingerprint, id: &Digest) -> bool {
        self.0.contains(&line(name, fingerprint, id))
    }
}

/// Notes that an image was built. What cannot be written is built once more where that counts.
pub(crate) fn remember(state: &StateDir, name: &ImageName, fingerprint: Fingerprint, id: &Digest) {
    let _ = state.append_sealed(FILE, &line(name.as_str(), fingerprint, id));
}

/// Notes the digest of the configuration of an image, if that image was built here. The registry knows it by nothing
/// else; Docker with containerd's store calls an image by its manifest, as which it is in no registry.
pub(crate) fn remember_config(
    state: &StateDir,
    name: &ImageName,
    fingerprint: Fingerprint,
    id: &Digest,
    config: &Digest,
) {
    if id != config {
        let built = Built::load(state);
        if built.has(name.as_str(), fingerprint, id) && !built.has(name.as_str(), fingerprint, config) {
            remember(state, name, fingerprint, config);
        }
    }
}

fn line(name: &str, fingerprint: Fingerprint, id: &Digest) -> String {
    format!("{name} {fingerprint} {id}")
}

impl Session {
    /// Returns the images that were built here, when only those count.
    pub(crate) fn trusted(&self) -> Option<Built> {
        (self.workspace.manifest.trust == Trust::BuiltHere).then(|| Built::load(&self.state))
    }

    /// Returns what an engine holds. What does not count is there to be compared with.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub(crate) async fn inventory(&self, engine: &dyn Host) -> Result<Inventory, Error> {
        let mut inventory = Engine::inventory(engine, &self.workspace.manifest.name.value).await?;
        if let Some(built) = self.trusted() {
            built.distrust(&mut inventory);
        }
        Ok(inventory)
    }
}

impl Built {
    /// Takes for unfinished what was not built here.
    pub(crate) fn distrust(&self, inventory: &mut Inventory) {
        inventory.distrust(|name, held| !self.has(name, held.fingerprint, &held.id));
    }

    /// Returns whether exactly the image of this manifest was built here.
    pub(crate) fn is_ours(&self, name: &ImageName, manifest: &Manifest) -> bool {
        let fingerprint = manifest.annotations().get(FINGERPRINT).and_then(|text| text.parse().ok());
        let Some((fingerprint, config)) = fingerprint.zip(manifest.config()) else { return false };
        self.has(name.as_str(), fingerprint, &config.digest)
    }

    /// Leaves only what was built here. The names of the others.
    pub(crate) fn retain(&self, remotes: &mut BTreeMap<ImageName, Remote>) -> Vec<String> {
        let is_ours = |name: &ImageName, remote: &Remote| self.is_ours(name, &remote.manifest);
        let others: Vec<String> = remotes
            .iter()
            .filter(|(name, remote)| !is_ours(name, remote))
            .map(|(name, _)| name.to_string())
            .collect();
        remotes.retain(|name, remote| is_ours(name, remote));
        others
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;
    use imgforge_core::fingerprint::InputManifest;
    use imgforge_state::Key;

    use super::*;

    #[test]
    fn only_the_image_of_this_name_fingerprint_and_id_was_built_by_this_user() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(Utf8Path::from_path(dir.path()).unwrap()).with_key(Key::of(&[7; 32]));
        let (web, fingerprint) = (ImageName::new("web").unwrap(), InputManifest::default().fingerprint());
        let (one, two) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
        remember(&state, &web, fingerprint, &one);
        let built = Built::load(&state);
        assert!(built.has("web", fingerprint, &one));
        assert!(!built.has("app", fingerprint, &one) && !built.has("web", fingerprint, &two));
        assert!(!built.has("web", "ab".repeat(32).parse().unwrap(), &one));
        let other = Built::load(&state.with_key(Key::of(&[8; 32])));
        assert!(!other.has("web", fingerprint, &one));
    }

    #[test]
    fn an_image_that_an_engine_calls_by_its_manifest_is_known_by_its_configuration_too() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(Utf8Path::from_path(dir.path()).unwrap()).with_key(Key::of(&[7; 32]));
        let (web, fingerprint) = (ImageName::new("web").unwrap(), InputManifest::default().fingerprint());
        let [manifest, config, pulled, foreign] = [b"m", b"c", b"p", b"f"].map(|bytes| Digest::sha256(bytes));
        remember(&state, &web, fingerprint, &manifest);
        remember_config(&state, &web, fingerprint, &manifest, &config);
        remember_config(&state, &web, fingerprint, &pulled, &foreign);
        let built = Built::load(&state);
        assert!(built.has("web", fingerprint, &manifest) && built.has("web", fingerprint, &config));
        assert!(!built.has("web", fingerprint, &foreign));
    }
}
