//! The lock that a build goes by.

use std::collections::BTreeSet;

use imgforge_core::event::{Event, Reporter};
use imgforge_core::lock::{Lock, LockedPackage};
use imgforge_core::plan::Relocked;

use crate::build::shortened;
use crate::lock::resolve::{IndexDates, Moves};
use crate::{Error, Session};

impl Session {
    /// The lock as it is when it fits; otherwise what is missing in it is locked, unless that is not wanted.
    pub(crate) fn usable_lock(&self, locked: bool, reporter: &mut dyn Reporter) -> Result<Lock, Error> {
        let lock = self.read_lock()?;
        match self.check_lock(&lock) {
            Ok(()) => Ok(lock),
            Err(error) if locked => Err(error),
            Err(_) => {
                let new = self.update(&lock, &Moves::Nothing, IndexDates::NotOlder, reporter)?;
                self.write_lock(&new)?;
                let message =
                    format!("{} did not fit the manifests: {}", crate::LOCK_FILE, self.summary(&lock, &new));
                reporter.event(&Event::Warning { message });
                Ok(new)
            }
        }
    }

    pub(crate) fn relock(
        &self,
        old: &Lock,
        gone: &[LockedPackage],
        reporter: &mut dyn Reporter,
    ) -> Result<Lock, Error> {
        let names: Vec<String> =
            gone.iter().map(|package| format!("{} {}", package.name, package.version)).collect();
        let new = self.update(old, &Moves::Everything, IndexDates::NotOlder, reporter)?;
        self.write_lock(&new)?;
        let message = format!(
            "no longer served, so everything was locked anew ({}): {}",
            self.summary(old, &new),
            shortened(&names)
        );
        reporter.event(&Event::Warning { message });
        Ok(new)
    }

    pub(crate) fn moved(&self, old: &Lock, new: &Lock) -> Vec<Relocked> {
        let rows = self.changes(old, new).into_iter();
        rows.filter_map(|row| Some(Relocked { package: row.name, old: row.old?, new: row.new? })).collect()
    }

    fn summary(&self, old: &Lock, new: &Lock) -> String {
        let (mut added, mut removed, mut moved) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for change in self.changes(old, new) {
            let kind = match (&change.old, &change.new) {
                (None, _) => &mut added,
                (_, None) => &mut removed,
                _ => &mut moved,
            };
            kind.insert(change.name);
        }
        format!("{} added, {} moved, {} removed", added.len(), moved.len(), removed.len())
    }
}
