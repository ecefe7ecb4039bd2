//! Packages that are there together, asked what of them answers a relation: without the solver, which chooses.

use std::collections::{HashMap, HashSet};

use crate::index::{Index, IndexEntry};
use crate::relation::{Alternative, Scheme};

/// A set of packages, one version of each name.
pub(super) struct Present<'a> {
    scheme: Scheme,
    architecture: &'a str,
    entries: Vec<&'a IndexEntry>,
    /// By name, real or virtual: the entries that have it, with the version that it has there.
    by_name: HashMap<String, Vec<(usize, Option<String>)>>,
}

impl<'a> Present<'a> {
    pub(super) fn new(index: &'a Index, entries: impl IntoIterator<Item = &'a IndexEntry>) -> Self {
        let (scheme, architecture) = (index.scheme, index.architecture.as_str());
        let entries: Vec<&IndexEntry> = entries.into_iter().collect();
        let mut by_name: HashMap<String, Vec<(usize, Option<String>)>> = HashMap::new();
        for (at, entry) in entries.iter().enumerate() {
            by_name.entry(entry.name.clone()).or_default().push((at, Some(entry.version.clone())));
            for provided in scheme.relations(&entry.provides).into_iter().flatten() {
                let version = provided.bound.map(|bound| bound.version);
                by_name.entry(provided.name).or_default().push((at, version));
            }
        }
        Self { scheme, architecture, entries, by_name }
    }

    /// The packages that an alternative takes.
    pub(super) fn answering(&self, alternative: &Alternative) -> impl Iterator<Item = usize> {
        let fits = alternative.fits(self.architecture);
        let named = self.by_name.get(&alternative.name).filter(|_| fits).map_or(&[][..], Vec::as_slice);
        named.iter().filter(|(_, version)| alternative.takes_provided(version.as_deref())).map(|(at, _)| *at)
    }

    /// The names of all that is needed for `roots`: whatever answers one of them, or a dependency of what is needed.
    pub(super) fn needed(&self, roots: &[Alternative]) -> HashSet<&'a str> {
        let mut needed = HashSet::new();
        let mut open: Vec<usize> = roots.iter().flat_map(|root| self.answering(root)).collect();
        while let Some(at) = open.pop() {
            let entry = self.entries[at];
            if needed.insert(entry.name.as_str()) {
                for text in [&entry.pre_depends, &entry.depends] {
                    for alternative in self.scheme.relations(text).iter().flatten() {
                        open.extend(self.answering(alternative));
                    }
                }
            }
        }
        needed
    }
}
