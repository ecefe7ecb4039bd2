//! What differs between two locks, and which images that concerns.

use std::collections::{BTreeMap, BTreeSet};

use imgforge_core::inputs::external_input;
use imgforge_core::lock::{Lock, LockView, LockedExternal, LockedPackage};
use imgforge_core::name::ImageName;
use imgforge_core::workspace::Image;
use imgforge_oci::Digest;

use crate::Session;

/// One package in two locks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockChange {
    /// Package name.
    pub name: String,
    /// The version that it had, if it was locked.
    pub old: Option<String>,
    /// The version that it has, if it is locked.
    pub new: Option<String>,
    /// Whether the package moved to a version that comes from a security suite.
    pub security: bool,
    /// The images that have it, and all that stand on them: what has to be built again.
    pub images: BTreeSet<ImageName>,
}

/// An image from outside in two locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalChange {
    /// The reference as written.
    pub reference: String,
    /// The digest that it had, if it was locked.
    pub old: Option<Digest>,
    /// The digest that it has, if it is locked.
    pub new: Option<Digest>,
    /// The platforms whose images are other ones.
    pub platforms: BTreeSet<String>,
    /// The images that are built from what is another one, and all that stand on them.
    pub images: BTreeSet<ImageName>,
}

impl Session {
    /// Which images from outside have other digests.
    pub fn external_changes(&self, old: &Lock, new: &Lock) -> Vec<ExternalChange> {
        let digest = |locked: Option<&LockedExternal>| locked.map(|locked| locked.digest.clone());
        let names: BTreeSet<&String> = old.externals.keys().chain(new.externals.keys()).collect();
        names
            .into_iter()
            .map(|name| {
                let (was, is) = (old.externals.get(name), new.externals.get(name));
                let input = |locked: Option<&LockedExternal>, image: &Image| {
                    locked.map(|locked| external_input(&self.workspace, image, locked).to_owned())
                };
                ExternalChange {
                    reference: name.clone(),
                    old: digest(was),
                    new: digest(is),
                    platforms: moved_platforms(was, is),
                    images: self.users_of(name, |image| input(was, image) != input(is, image)),
                }
            })
            .filter(|change| change.old != change.new)
            .collect()
    }

    /// The images that use an image from outside, as far as `counts` says so, and all that stand on them.
    pub(crate) fn users_of(&self, reference: &str, counts: impl Fn(&Image) -> bool) -> BTreeSet<ImageName> {
        let uses = |image: &&Image| image.externals.iter().any(|external| external.reference == reference);
        let mut names = BTreeSet::new();
        for image in self.workspace.images.values().filter(uses).filter(|image| counts(image)) {
            names.insert(image.name().clone());
            names.extend(self.graph.descendants(image.name()).into_iter().cloned());
        }
        names
    }

    /// Returns what differs between two locks of this workspace, by package name.
    pub fn changes(&self, old: &Lock, new: &Lock) -> Vec<LockChange> {
        let (old_view, new_view) = (LockView::new(old), LockView::new(new));
        let is_same = |name: &&ImageName| old.images.get(*name) == new.images.get(*name);
        let mut found: BTreeMap<Change, BTreeSet<ImageName>> = BTreeMap::new();
        for name in self.graph.topological().chain(gone(old, new)) {
            let chain = self.graph.chain(name);
            let chain = if chain.is_empty() { vec![name] } else { chain };
            if chain.iter().all(is_same) {
                continue;
            }
            let (was, is) = (closure(&old_view, &chain), closure(&new_view, &chain));
            for key in was.keys().chain(is.keys()).collect::<BTreeSet<_>>() {
                let (old, new) = (was.get(key), is.get(key));
                if old.map(|package| &package.version) == new.map(|package| &package.version) {
                    continue;
                }
                let images = found.entry(Change::of(&key.1, old.copied(), new.copied())).or_default();
                images.insert(name.clone());
                images.extend(self.graph.descendants(name).into_iter().cloned());
            }
        }
        let change = |(change, images): (Change, BTreeSet<ImageName>)| {
            let Change { name, old, new, security } = change;
            LockChange { name, old, new, security, images }
        };
        found.into_iter().map(change).collect()
    }
}

fn moved_platforms(old: Option<&LockedExternal>, new: Option<&LockedExternal>) -> BTreeSet<String> {
    let digest = |locked: Option<&LockedExternal>, platform: &str| {
        locked.and_then(|locked| locked.platforms.get(platform)).cloned()
    };
    let platforms = [old, new].into_iter().flatten().flat_map(|locked| locked.platforms.keys());
    platforms.filter(|platform| digest(old, platform) != digest(new, platform)).cloned().collect()
}

/// A change without the images that have it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    name: String,
    old: Option<String>,
    new: Option<String>,
    security: bool,
}

impl Change {
    fn of(name: &str, old: Option<&LockedPackage>, new: Option<&LockedPackage>) -> Self {
        let version = |package: &LockedPackage| package.version.clone();
        let security = old.is_some() && new.is_some_and(|package| package.security);
        Self { name: name.to_owned(), old: old.map(version), new: new.map(version), security }
    }
}

/// Images that only the old lock knows, and the workspace does not.
fn gone<'l>(old: &'l Lock, new: &'l Lock) -> impl Iterator<Item = &'l ImageName> {
    old.images.keys().filter(|name| !new.images.contains_key(*name))
}

/// An image's packages by source and name.
fn closure<'l>(view: &LockView<'l>, chain: &[&ImageName]) -> BTreeMap<(String, String), &'l LockedPackage> {
    let packages = chain.iter().flat_map(|name| view.added_by(name));
    packages.map(|package| ((package.source.clone(), package.name.clone()), package)).collect()
}
