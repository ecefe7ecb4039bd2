//! The lock against the repositories of now: what is newer, what is gone, and which images that concerns.

use std::collections::{BTreeMap, BTreeSet};

use imgforge_core::diagnostic::Problem;
use imgforge_core::event::Reporter;
use imgforge_core::lock::{Lock, LockedPackage};
use imgforge_core::name::ImageName;
use imgforge_oci::Digest;
use imgforge_packages::Index;

use crate::lock::resolve::{IndexDates, Lifts, Moves, Resolution};
use crate::progress::{EventProgress, pump};
use crate::{Error, Session};

/// The newer packages and images that a lock lags behind.
#[derive(Debug, Default)]
pub struct Outdated {
    /// Security updates first, then by name.
    pub packages: Vec<OutdatedPackage>,
    /// Images from outside whose tags point to something else than what is locked, by reference.
    pub externals: Vec<OutdatedExternal>,
    /// The problems that keep `imgforge update` from locking everything anew, as far as they are known.
    pub problems: Vec<Problem>,
}

/// An image from outside whose tag has moved or is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutdatedExternal {
    /// The reference as written.
    pub reference: String,
    /// The digest that is locked.
    pub locked: Digest,
    /// The digest that the tag points to; none when there is no such tag any more.
    pub newest: Option<Digest>,
    /// Whether the locked digest can still be had.
    pub served: bool,
    /// The images that use it, and all that stand on them.
    pub images: BTreeSet<ImageName>,
}

impl Outdated {
    /// Returns whether everything is as it is locked.
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.externals.is_empty() && self.problems.is_empty()
    }
}

/// A locked package that has a newer version, or that no suite has any more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutdatedPackage {
    /// Package name.
    pub name: String,
    /// The apt source.
    pub source: String,
    /// The version that is locked.
    pub locked: String,
    /// The version that `imgforge update` would lock, or the one that it cannot take; none when there is no other.
    pub newest: Option<String>,
    /// The suite of the newest version.
    pub suite: Option<String>,
    /// Whether a version that is newer than the locked one, and not newer than the newest, lies in a security suite.
    pub security: bool,
    /// Whether the newest version can be taken beside what else is asked for.
    pub fits: bool,
    /// Whether some suite still has the locked file.
    pub served: bool,
    /// The images that have it, and all that stand on them: what an update would have built again.
    pub images: BTreeSet<ImageName>,
}

impl Session {
    /// Compares a lock that fits the manifests with the repositories, and writes nothing.
    ///
    /// # Errors
    /// [`Error::StaleLock`], and repositories that cannot be reached or trusted.
    pub fn outdated(&self, lock: &Lock, reporter: &mut dyn Reporter) -> Result<Outdated, Error> {
        self.check_lock(lock)?;
        let requests = self.requests();
        // Both wait for the network.
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| self.outdated_externals(lock));
            let compared = if requests.is_empty() {
                Ok(Outdated::default())
            } else {
                pump(reporter, |events| {
                    let (progress, externals) = (EventProgress::new(events), lock.externals.clone());
                    let moves = Moves::Everything;
                    let resolution = Resolution::new(
                        self,
                        requests,
                        lock,
                        externals,
                        &moves,
                        IndexDates::NotOlder,
                        &progress,
                    )?;
                    Ok(self.compare(&resolution))
                })
            };
            let externals = asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok(Outdated { externals, ..compared? })
        })
    }

    fn outdated_externals(&self, lock: &Lock) -> Result<Vec<OutdatedExternal>, Error> {
        let asked = self.ask_externals(lock)?.into_iter();
        let rows = asked.map(|(reference, locked, now)| OutdatedExternal {
            reference: reference.to_owned(),
            locked: locked.digest.clone(),
            newest: now.digest,
            served: now.served,
            images: self.users_of(reference, |_| true),
        });
        Ok(rows.filter(|row| row.newest.as_ref() != Some(&row.locked)).collect())
    }

    fn compare(&self, resolution: &Resolution<'_>) -> Outdated {
        let (added, _, problems) = resolution.pass(&Lifts::new());
        let mut found: BTreeMap<(bool, OutdatedPackage), BTreeSet<ImageName>> = BTreeMap::new();
        for (name, request) in &resolution.requests {
            let index = &resolution.indexes[&request.source];
            let chain = self.graph.chain(name);
            let now: BTreeMap<&str, &LockedPackage> = chain
                .iter()
                .filter_map(|name| added.get(*name))
                .flatten()
                .map(|package| (package.name.as_str(), package))
                .collect();
            for package in resolution.old_of(name) {
                if let Some(row) = row(&package, now.get(package.name.as_str()).copied(), index) {
                    let images = found.entry((!row.security, row)).or_default();
                    images.insert(name.clone());
                    images.extend(self.graph.descendants(name).into_iter().cloned());
                }
            }
        }
        let packages = found.into_iter().map(|((_, row), images)| OutdatedPackage { images, ..row });
        Outdated { packages: packages.collect(), externals: Vec::new(), problems: problems.sorted() }
    }
}

/// `new` is what a full update would have in its place.
fn row(package: &LockedPackage, new: Option<&LockedPackage>, index: &Index) -> Option<OutdatedPackage> {
    let moved = new.filter(|new| new.version != package.version || new.sha256 != package.sha256);
    let served = index.serves(package);
    let fixes = index.newer(package, true);
    let row = OutdatedPackage {
        name: package.name.clone(),
        source: package.source.clone(),
        locked: package.version.clone(),
        newest: moved.map(|new| new.version.clone()),
        suite: moved.map(|new| new.suite.clone()),
        security: moved.is_some_and(|new| {
            fixes.iter().any(|version| index.scheme().compare(version, &new.version).is_le())
        }),
        fits: true,
        served,
        images: BTreeSet::new(),
    };
    if moved.is_some() {
        return Some(row);
    }
    // A fix that cannot be taken (a version that the manifest asks for, say) is not passed over in silence.
    if let Some(fix) = fixes.first().filter(|_| new.is_some()) {
        let mut entries = index.versions(&package.name);
        let suite = entries.find(|entry| entry.version == *fix).map(|entry| entry.suite.clone());
        return Some(OutdatedPackage {
            newest: Some(fix.clone()),
            suite,
            security: true,
            fits: false,
            ..row
        });
    }
    (!served).then_some(row)
}
