//! A locked image resolved again so that some packages move, and of the others no more than must.
//!
//! What is locked is asked for exactly, and mostly that can be had. Where it cannot (what moves needs something
//! newer, or nothing of the old goes with it), the packages that stand in the way are let go one by one, and whatever
//! can be asked for exactly beside the others stays: no package moves that could have stayed with all the others that
//! stay.

use std::collections::{BTreeMap, HashSet};

use imgforge_core::lock::LockedPackage;

use super::present::Present;
use super::solver::{self, Universe};
use super::{Request, unsolvable};
use crate::error::Error;
use crate::index::{Index, IndexEntry};
use crate::relation::{Alternative, Dependency};

/// What is locked of an image, and what of it moves.
#[derive(Debug, Clone, Default)]
pub struct Partial<'a> {
    /// The packages that the image adds to its parents by the lock.
    pub locked: &'a [LockedPackage],
    /// The packages of its parents by the same lock.
    pub before: &'a [LockedPackage],
    /// Versions that are taken rather than newer ones where something has to be added.
    pub preferred: &'a [LockedPackage],
    /// By name: the versions that a locked package moves to, the best first.
    pub moves: BTreeMap<String, Vec<String>>,
}

/// What has come of [`Index::update`].
#[derive(Debug, Clone, Default)]
pub struct Updated {
    /// What the image adds to its parents, sorted by name.
    pub packages: Vec<LockedPackage>,
    /// The names in `moves` that did not get their first version.
    pub behind: Vec<String>,
}

impl Index {
    /// The versions of a locked package's name that are newer, newest first; with `security`, those of security suites
    /// only.
    pub fn newer(&self, package: &LockedPackage, security: bool) -> Vec<String> {
        self.versions(&package.name)
            .take_while(|entry| self.scheme.compare(&entry.version, &package.version).is_gt())
            .filter(|entry| !security || entry.security)
            .map(|entry| entry.version.clone())
            .collect()
    }

    /// Resolves an image anew and moves of its locked packages those that are to move, each to the first of its
    /// versions that can be had, and others only as far as they must.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn update(&self, request: &Request<'_>, partial: &Partial<'_>) -> Result<Updated, Error> {
        let there: HashSet<&str> = request.installed.iter().map(|p| p.name.as_str()).collect();
        let locked: Vec<&LockedPackage> =
            partial.locked.iter().filter(|package| !there.contains(package.name.as_str())).collect();
        let mut universe = Universe::new(self, request.installed);
        for (entry, is_known) in self.held(&locked, partial) {
            universe.hold(entry, is_known);
        }
        partial.preferred.iter().chain(locked.iter().copied()).for_each(|package| universe.prefer(package));
        let roots = self.roots(request, &mut universe)?;
        let is_there = |name: &&String| locked.iter().any(|package| package.name == **name);
        let moves: Vec<(&str, &[String])> = partial
            .moves
            .iter()
            .filter(|(name, versions)| is_there(name) && !versions.is_empty())
            .map(|(name, versions)| (name.as_str(), versions.as_slice()))
            .collect();
        let mut search = Search { universe: &universe, roots, locked: &locked, last: Vec::new() };
        let mut rounds = 0;
        let (mut packages, behind) = loop {
            let found = search.find(&moves).map_err(|reason| unsolvable(request, reason))?;
            let chosen = solver::solve(&universe, &found.roots, &found.pins)
                .map_err(|reason| unsolvable(request, reason))?;
            let packages = self.without_orphans(&universe, &search.roots, &chosen, &locked);
            let more = self.coming_along(&universe, &chosen);
            if !more.is_empty() {
                search.roots.extend(more);
                continue;
            }
            let in_vain = found.in_vain(&packages, &moves);
            // Each round puts one name at least behind the others: more rounds than names find nothing new.
            rounds += 1;
            if in_vain.is_empty() || rounds > locked.len() {
                break (packages, found.behind);
            }
            search.last.extend(in_vain);
        };
        packages.retain(|package| !there.contains(package.name.as_str()));
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Updated { packages, behind })
    }

    /// What is chosen, less what nothing needs any more. Beside a package whose dependencies are guessed, what is
    /// locked stays.
    fn without_orphans(
        &self,
        universe: &Universe<'_>,
        roots: &[Alternative],
        chosen: &[usize],
        locked: &[&LockedPackage],
    ) -> Vec<LockedPackage> {
        let lines: Vec<(usize, Option<&LockedPackage>)> = chosen
            .iter()
            .map(|at| {
                let entry = universe.at(*at);
                let line = locked.iter().find(|p| p.name == entry.name && p.version == entry.version);
                (*at, line.copied())
            })
            .collect();
        let kept = lines.iter().filter_map(|(_, line)| *line).filter(|_| universe.has_guesses());
        let kept = kept.map(|package| Alternative::any(&package.name));
        let roots: Vec<Alternative> = roots.iter().cloned().chain(kept).collect();
        let entries = chosen.iter().map(|at| universe.at(*at)).chain(universe.installed());
        let needed = Present::new(self, entries).needed(&roots);
        lines
            .into_iter()
            .filter(|(at, _)| needed.contains(universe.at(*at).name.as_str()))
            .map(|(at, line)| line.cloned().unwrap_or_else(|| self.lock(at)))
            .collect()
    }

    /// The locked packages that no suite has any more, with what they say about themselves or, if that is not known,
    /// what the newest version says as far as it was true of the old lock. The second of each pair is whether it is
    /// known.
    fn held(&self, locked: &[&LockedPackage], partial: &Partial<'_>) -> Vec<(IndexEntry, bool)> {
        let is_gone = |p: &&&LockedPackage| self.versions(&p.name).all(|entry| entry.version != p.version);
        let gone: Vec<&LockedPackage> = locked.iter().filter(is_gone).copied().collect();
        if gone.is_empty() {
            return Vec::new();
        }
        let like = |package: &LockedPackage| IndexEntry {
            name: package.name.clone(),
            version: package.version.clone(),
            architecture: package.architecture.clone(),
            ..self
                .entry_of(package)
                .or_else(|| self.versions(&package.name).next())
                .cloned()
                .unwrap_or_default()
        };
        let before: Vec<IndexEntry> = partial.locked.iter().chain(partial.before).map(like).collect();
        let present = Present::new(self, &before);
        let entry = |package: &&LockedPackage| match self.entry_of(package) {
            Some(_) => (like(package), true),
            None => (self.guess(like(package), &present), false),
        };
        gone.iter().map(entry).collect()
    }

    /// `entry` has the relations of the newest version: its own version stands in them for the newest, and what did not
    /// hold among the packages that were `present` is left out.
    fn guess(&self, entry: IndexEntry, present: &Present<'_>) -> IndexEntry {
        let newest = self.versions(&entry.name).next().map(|newest| newest.version.clone());
        let read = |text: &str| -> Vec<Dependency> {
            let mut relations = self.scheme.relations(text);
            let bounds = relations.iter_mut().flatten().filter_map(|alternative| alternative.bound.as_mut());
            for bound in bounds.filter(|bound| Some(&bound.version) == newest.as_ref()) {
                bound.version.clone_from(&entry.version);
            }
            relations
        };
        let answered = |any: &Dependency| any.iter().any(|a| present.answering(a).next().is_some());
        let own = |any: &Dependency| any.iter().any(|a| a.name == entry.name);
        let true_of = |text: &str| self.scheme.text(&keep(read(text), answered));
        let false_of = |text: &str| self.scheme.text(&keep(read(text), |any| own(any) || !answered(any)));
        IndexEntry {
            pre_depends: true_of(&entry.pre_depends),
            depends: true_of(&entry.depends),
            provides: self.scheme.text(&read(&entry.provides)),
            conflicts: false_of(&entry.conflicts),
            breaks: false_of(&entry.breaks),
            ..entry
        }
    }
}

fn keep(mut relations: Vec<Dependency>, is_kept: impl Fn(&Dependency) -> bool) -> Vec<Dependency> {
    relations.retain(is_kept);
    relations
}

/// A name and its one version.
type Pin<'s> = (&'s str, &'s str);

struct Search<'s> {
    universe: &'s Universe<'s>,
    roots: Vec<Alternative>,
    locked: &'s [&'s LockedPackage],
    /// Names that may stay only where that moves no other: in the end nothing has needed them.
    last: Vec<&'s str>,
}

/// What is to be asked for.
struct Found<'s> {
    /// Names of which any version will do.
    roots: Vec<Alternative>,
    /// What must be there in exactly this version.
    pins: Vec<Pin<'s>>,
    /// The names that do not get their best version.
    behind: Vec<String>,
    /// Names that cannot stay, each with how many of `pins` it could not stay beside.
    leaving: Vec<(&'s str, usize)>,
}

impl<'s> Found<'s> {
    /// Names that have stayed, and kept others from staying, and are not even needed among the `packages` that have
    /// come of it.
    fn in_vain(&self, packages: &[LockedPackage], moves: &[(&str, &[String])]) -> Vec<&'s str> {
        let is_there = |name: &str| packages.iter().any(|package| package.name == name);
        let moved = self.leaving.iter().filter(|(name, _)| is_there(name));
        let beside = moved.map(|(_, count)| *count).max().unwrap_or_default();
        let stayed = self.pins[..beside].iter().map(|(name, _)| *name);
        stayed.filter(|name| !is_there(name) && moves.iter().all(|(moved, _)| moved != name)).collect()
    }
}

impl<'s> Search<'s> {
    fn find(&self, moves: &[(&'s str, &'s [String])]) -> Result<Found<'s>, String> {
        let best: Vec<Pin<'s>> = moves.iter().map(|(name, versions)| (*name, versions[0].as_str())).collect();
        let all = [best.clone(), self.others(&best)].concat();
        if self.can(&self.roots, &all) {
            return Ok(Found {
                roots: self.roots.clone(),
                pins: all,
                behind: Vec::new(),
                leaving: Vec::new(),
            });
        }
        let (pins, behind) =
            if self.can(&self.roots, &best) { (best, Vec::new()) } else { self.moved(moves) };
        self.keep(pins, behind)
    }

    /// The locked versions of all names that are not among `moved`.
    fn others(&self, moved: &[Pin<'_>]) -> Vec<Pin<'s>> {
        let stays = |name: &str| moved.iter().all(|(other, _)| *other != name);
        let kept = self.locked.iter().filter(|package| stays(&package.name));
        kept.map(|package| (package.name.as_str(), package.version.as_str())).collect()
    }

    /// Each move by itself, so that one that cannot be made does not keep others from it.
    fn moved(&self, moves: &[(&'s str, &'s [String])]) -> (Vec<Pin<'s>>, Vec<String>) {
        let (mut pins, mut behind) = (Vec::new(), Vec::new());
        for (name, versions) in moves {
            let taken = versions.iter().map(|version| (*name, version.as_str())).find(|pin| {
                let with = [pins.as_slice(), &[*pin]].concat();
                self.can(&self.roots, &with)
            });
            if taken.is_none_or(|(_, version)| version != versions[0]) {
                behind.push((*name).to_owned());
            }
            pins.extend(taken);
        }
        (pins, behind)
    }

    /// Adds to `pins` as much of what is locked as can be had beside them: what a solution has anyhow, then each that
    /// is left. Of a package that cannot stay, another version is better than none.
    fn keep(&self, mut pins: Vec<Pin<'s>>, behind: Vec<String>) -> Result<Found<'s>, String> {
        let mut roots = self.roots.clone();
        let chosen = solver::solve(self.universe, &roots, &pins)?;
        let chosen: HashSet<Pin<'_>> = chosen
            .iter()
            .map(|at| self.universe.at(*at))
            .map(|entry| (entry.name.as_str(), entry.version.as_str()))
            .collect();
        let rank = |name: &str| self.last.iter().rposition(|last| *last == name).map_or(0, |at| at + 1);
        let (stays, mut unsure): (Vec<Pin<'s>>, Vec<Pin<'s>>) =
            self.others(&pins).into_iter().partition(|pin| chosen.contains(pin) && rank(pin.0) == 0);
        unsure.sort_by_key(|pin| rank(pin.0));
        pins.extend(stays);
        let mut leaving = Vec::new();
        for pin in unsure {
            pins.push(pin);
            if !self.can(&roots, &pins) {
                pins.pop();
                leaving.push((pin.0, pins.len()));
            }
        }
        for (name, _) in &leaving {
            roots.push(Alternative::any(*name));
            if !self.can(&roots, &pins) {
                roots.pop();
            }
        }
        Ok(Found { roots, pins, behind, leaving })
    }

    fn can(&self, roots: &[Alternative], pins: &[Pin<'_>]) -> bool {
        solver::solve(self.universe, roots, pins).is_ok()
    }
}

#[cfg(test)]
mod tests;
