//! Which packages an image needs besides those of its parents.
//!
//! apt's order of preference, a SAT solver's thoroughness: the newest version, the first alternative that can be had,
//! what is there already rather than anything else; and when that leads nowhere, whatever does work.

mod present;
mod solver;
#[cfg(test)]
mod tests;
mod update;

use std::collections::HashSet;

use imgforge_core::lock::LockedPackage;
use imgforge_core::manifest::RootInclude;
use imgforge_syntax::nearest;

use crate::error::Error;
use crate::index::{Index, IndexEntry};
use crate::relation::{Alternative, Bound};
use present::Present;
use solver::Universe;
pub use update::{Partial, Updated};

/// The package that says that `/bin` is a link, with nothing else in it. Our roots are merged from the start, so its
/// big brother `usrmerge`, which moves files and brings Perl modules, is never what is wanted.
const MERGED: &str = "usr-is-merged";

/// What an image asks for.
#[derive(Debug, Clone, Default)]
pub struct Request<'a> {
    /// The set that a root starts with; `None` for an image that is not a root.
    pub include: Option<RootInclude>,
    /// Names, or `name=version`.
    pub wanted: Vec<String>,
    /// The parents' packages: neither removed nor changed.
    pub installed: &'a [LockedPackage],
}

impl Index {
    /// What has to be added, sorted by name.
    ///
    /// # Errors
    /// [`Error::UnknownPackage`], [`Error::UnknownVersion`], or [`Error::Unsolvable`] with the reason.
    pub fn resolve(&self, request: &Request<'_>) -> Result<Vec<LockedPackage>, Error> {
        let mut universe = Universe::new(self, request.installed);
        let mut roots = self.roots(request, &mut universe)?;
        let chosen = loop {
            let chosen =
                solver::solve(&universe, &roots, &[]).map_err(|reason| unsolvable(request, reason))?;
            let more = self.coming_along(&universe, &chosen);
            if more.is_empty() {
                break chosen;
            }
            roots.extend(more);
        };
        let there: HashSet<&str> = request.installed.iter().map(|p| p.name.as_str()).collect();
        let mut added: Vec<LockedPackage> =
            chosen.into_iter().map(|at| self.lock(at)).filter(|p| !there.contains(p.name.as_str())).collect();
        added.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(added)
    }

    /// What else has to be there since all that it comes along with is (`install_if` of Alpine's indexes).
    fn coming_along(&self, universe: &Universe<'_>, chosen: &[usize]) -> Vec<Alternative> {
        let conditional = self.entries.iter().filter(|entry| !entry.install_if.is_empty());
        let there: HashSet<&str> = chosen
            .iter()
            .map(|at| universe.at(*at))
            .chain(universe.installed())
            .map(|e| e.name.as_str())
            .collect();
        let mut conditional = conditional.filter(|entry| !there.contains(entry.name.as_str())).peekable();
        if conditional.peek().is_none() {
            return Vec::new();
        }
        let present =
            Present::new(self, chosen.iter().map(|at| universe.at(*at)).chain(universe.installed()));
        let comes = |entry: &&IndexEntry| {
            let conditions = self.scheme.relations(&entry.install_if);
            conditions.iter().flatten().all(|condition| present.answering(condition).next().is_some())
        };
        let exactly = |entry: &IndexEntry| Alternative {
            name: entry.name.clone(),
            qualifier: None,
            bound: Some(Bound::exactly(&entry.version)),
        };
        conditional.filter(comes).map(exactly).collect()
    }

    /// What was asked for by name, and what a root begins with.
    fn roots(&self, request: &Request<'_>, universe: &mut Universe<'_>) -> Result<Vec<Alternative>, Error> {
        let included = self.included(request.include).into_iter().map(Alternative::any).map(Ok);
        let wanted = request.wanted.iter().map(|word| self.wanted(word, universe));
        let roots = included.chain(wanted).collect::<Result<_, _>>()?;
        if request.include.is_some() {
            universe.favour(MERGED);
        }
        Ok(roots)
    }

    fn included(&self, include: Option<RootInclude>) -> Vec<String> {
        let takes = |priority: &str, essential: bool| match include {
            None | Some(RootInclude::Nothing) => false,
            Some(RootInclude::Essential) => essential,
            Some(RootInclude::Required) => essential || priority == "required",
        };
        let mut names: Vec<String> = self
            .names()
            .filter(|name| {
                let newest = self.positions(name).first().map(|at| &self.entries[*at]);
                newest.is_some_and(|entry| takes(&entry.priority, entry.essential))
            })
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    }

    fn wanted(&self, word: &str, universe: &Universe<'_>) -> Result<Alternative, Error> {
        let (name, version) =
            word.split_once('=').map_or((word, None), |(name, version)| (name, Some(version)));
        if !universe.knows(name) {
            return Err(Error::UnknownPackage {
                name: name.to_owned(),
                suites: self.suites.join(", "),
                nearest: nearest(name, self.names()).map(str::to_owned),
            });
        }
        if let Some(version) = version
            && !universe.has_version(name, version)
        {
            let known: Vec<&str> = self.versions(name).map(|entry| entry.version.as_str()).collect();
            return Err(Error::UnknownVersion {
                name: name.to_owned(),
                version: version.to_owned(),
                known: if known.is_empty() { "only a virtual package".to_owned() } else { known.join(", ") },
            });
        }
        Ok(Alternative { name: name.to_owned(), qualifier: None, bound: version.map(Bound::exactly) })
    }
}

fn unsolvable(request: &Request<'_>, reason: String) -> Error {
    let wanted = match request.wanted.as_slice() {
        [] => "the root's own packages".to_owned(),
        wanted => wanted.join(", "),
    };
    Error::Unsolvable { wanted, reason }
}
