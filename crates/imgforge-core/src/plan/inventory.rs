//! What engines and registries hold.

use std::collections::{BTreeMap, BTreeSet};

use imgforge_oci::Digest;

use super::Target;
use crate::fingerprint::{Fingerprint, RecordedInputs};
use crate::name::ImageName;

/// An image that an engine holds, as its labels describe it.
#[derive(Debug, Clone)]
pub struct Held {
    /// The engine's id of the image.
    pub id: Digest,
    /// The whole fingerprint, from its label.
    pub fingerprint: Fingerprint,
    /// The inputs it was built from, from its label; `None` when the label is not readable.
    pub inputs: Option<RecordedInputs>,
    /// Its references (`name:tag`).
    pub references: BTreeSet<String>,
    /// When it was made, in seconds since 1970: decides only which image reasons compare with.
    pub created: i64,
    /// Whether its build was finished, checked and named by its content tag. One that is not (a run was killed, or a
    /// hand-made child inherited the labels) is never taken for the target: it only says what changed.
    pub complete: bool,
    /// Whether it would be taken for the target, and is not, since the workspace trusts only what was built here.
    pub distrusted: bool,
}

/// An image that the registry holds under its content tag, as its manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The whole fingerprint, from its annotation.
    pub fingerprint: Fingerprint,
    /// The digest of its manifest.
    pub digest: Digest,
}

/// What engines and registries hold, by image name.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    pub(super) images: BTreeMap<String, Vec<Held>>,
    pushed: BTreeMap<String, Pushed>,
}

impl Inventory {
    /// Adds an image held under `name`.
    pub fn insert(&mut self, name: impl Into<String>, held: Held) {
        self.images.entry(name.into()).or_default().push(held);
    }

    /// The complete image of exactly this fingerprint. Of several (the same target built twice), the newest.
    pub fn holds(&self, name: &ImageName, fingerprint: Fingerprint) -> Option<&Held> {
        self.of(name)
            .iter()
            .filter(|held| held.complete && held.fingerprint == fingerprint)
            .max_by_key(|held| (held.created, &held.id))
    }

    /// Takes what is `doubtful` for unfinished: it only says what changed.
    pub fn distrust(&mut self, doubtful: impl Fn(&str, &Held) -> bool) {
        for (name, held) in &mut self.images {
            for held in held.iter_mut().filter(|held| held.complete) {
                held.distrusted = doubtful(name, held);
                held.complete = !held.distrusted;
            }
        }
    }

    /// All that engines hold, with the image's name.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Held)> {
        self.images.iter().flat_map(|(name, held)| held.iter().map(move |held| (name.as_str(), held)))
    }

    /// Whether any image of this name is held, of whatever fingerprint.
    pub fn knows(&self, name: &ImageName) -> bool {
        !self.of(name).is_empty()
    }

    /// Notes what the registry holds for a target of the image `name`.
    pub fn insert_pushed(&mut self, name: impl Into<String>, pushed: Pushed) {
        self.pushed.insert(name.into(), pushed);
    }

    /// The image of exactly this fingerprint in the registry.
    pub fn pushed(&self, name: &ImageName, fingerprint: Fingerprint) -> Option<&Pushed> {
        self.pushed.get(name.as_str()).filter(|pushed| pushed.fingerprint == fingerprint)
    }

    /// Whether there is a complete image of exactly this fingerprint anywhere.
    pub(super) fn has(&self, target: &Target) -> bool {
        self.holds(&target.name, target.fingerprint).is_some()
            || self.pushed(&target.name, target.fingerprint).is_some()
    }

    /// The image that a changed target is compared with: the one that has a release tag, else the newest.
    pub(super) fn predecessor(&self, target: &Target) -> Option<&Held> {
        let released = |held: &Held| target.release_references.iter().any(|r| held.references.contains(r));
        self.of(&target.name).iter().max_by_key(|held| (released(held), held.created, &held.id))
    }

    fn of(&self, name: &ImageName) -> &[Held] {
        self.images.get(name.as_str()).map_or(&[], Vec::as_slice)
    }
}
