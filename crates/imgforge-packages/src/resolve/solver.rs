//! Debian's relations in the terms of the solver (resolvo).
//!
//! Every package name is a name of the solver with its versions as candidates, of which one at most is chosen. Every
//! virtual name is a second name, `virtual:NAME`, whose candidates are its providers; each of them requires exactly the
//! package that provides. A parent's package is locked: other versions of its name are there for explanations only.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Write as _};

use imgforge_core::lock::LockedPackage;
use resolvo::utils::{Pool, VersionSet};
use resolvo::{
    Candidates, Condition, ConditionId, ConditionalRequirement, Dependencies, DependencyProvider,
    HintDependenciesAvailable, Interner, KnownDependencies, NameId, Problem, SolvableId, Solver, SolverCache,
    StringId, UnsolvableOrCancelled, VersionSetId, VersionSetUnionId,
};

use crate::index::{Index, IndexEntry};
use crate::relation::{Alternative, Bound, Scheme};

/// Lines of the solver's explanation that are shown.
const REASON_LINES: usize = 12;

/// The index with the parents' packages in it, and with those locked ones that no suite has any more.
pub(super) struct Universe<'a> {
    index: &'a Index,
    /// The parents' packages by name.
    installed: BTreeMap<&'a str, IndexEntry>,
    /// Their positions follow those of the index.
    held: Vec<IndexEntry>,
    /// Whether what some of them need is guessed.
    has_guesses: bool,
    /// Names and versions that come before newer ones.
    preferred: HashSet<(&'a str, &'a str)>,
    favoured: HashSet<&'static str>,
}

/// A package version that can be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    /// A parent's package, by name.
    Installed(String),
    /// An entry of the index.
    Entry(usize),
}

impl<'a> Universe<'a> {
    pub(super) fn new(index: &'a Index, installed: &'a [LockedPackage]) -> Self {
        let installed = installed.iter().map(|p| (p.name.as_str(), installed_entry(index, p))).collect();
        let (held, preferred, favoured) = (Vec::new(), HashSet::new(), HashSet::new());
        Self { index, installed, held, has_guesses: false, preferred, favoured }
    }

    /// Adds a package that no suite has, and whether its relations are known.
    pub(super) fn hold(&mut self, entry: IndexEntry, is_known: bool) {
        self.has_guesses |= !is_known;
        self.held.push(entry);
    }

    /// Makes this version come before newer ones.
    pub(super) fn prefer(&mut self, package: &'a LockedPackage) {
        self.preferred.insert((&package.name, &package.version));
    }

    /// Makes alternatives of this name come first.
    pub(super) fn favour(&mut self, name: &'static str) {
        self.favoured.insert(name);
    }

    pub(super) fn knows(&self, name: &str) -> bool {
        self.is_real(name) || self.is_virtual(name)
    }

    pub(super) fn has_version(&self, name: &str, version: &str) -> bool {
        match self.installed.get(name) {
            // Another version of the index is known too, but cannot be had: that is for the solver to say.
            Some(entry) if entry.version == version => true,
            _ => self.positions(name).any(|at| self.at(at).version == version),
        }
    }

    fn scheme(&self) -> Scheme {
        self.index.scheme
    }

    pub(super) fn has_guesses(&self) -> bool {
        self.has_guesses
    }

    /// The parents' packages.
    pub(super) fn installed(&self) -> impl Iterator<Item = &IndexEntry> {
        self.installed.values()
    }

    /// What the index says at a position, or a package that is held.
    pub(super) fn at(&self, at: usize) -> &IndexEntry {
        self.index.entries.get(at).unwrap_or_else(|| &self.held[at - self.index.entries.len()])
    }

    fn positions(&self, name: &str) -> impl Iterator<Item = usize> {
        let first = self.index.entries.len();
        let held = self.held.iter().enumerate().filter(move |(_, entry)| entry.name == name);
        self.index.positions(name).iter().copied().chain(held.map(move |(n, _)| first + n))
    }

    fn is_real(&self, name: &str) -> bool {
        self.installed.contains_key(name) || self.positions(name).next().is_some()
    }

    fn is_virtual(&self, name: &str) -> bool {
        !self.providers(name).is_empty()
    }

    fn entry(&self, choice: &Choice) -> &IndexEntry {
        match choice {
            Choice::Installed(name) => &self.installed[name.as_str()],
            Choice::Entry(at) => self.at(*at),
        }
    }

    /// The versions of a real package, a parent's first.
    fn versions(&self, name: &str) -> Vec<Choice> {
        let there = self.installed.get(name);
        let is_other = |at: &usize| there.is_none_or(|e| e.version != self.at(*at).version);
        let others = self.positions(name).filter(is_other).map(Choice::Entry);
        there.map(|_| Choice::Installed(name.to_owned())).into_iter().chain(others).collect()
    }

    /// What provides a virtual package, with the version that it provides.
    fn providers(&self, name: &str) -> Vec<(Choice, Option<String>)> {
        let of_index = self.index.providers().get(name).map_or(&[][..], Vec::as_slice);
        let addable = of_index
            .iter()
            .filter(|(at, _)| !self.installed.contains_key(self.index.entries[*at].name.as_str()))
            .map(|(at, version)| (Choice::Entry(*at), version.clone()));
        let first = self.index.entries.len();
        let held = self.held.iter().enumerate().map(|(n, entry)| (Choice::Entry(first + n), entry));
        let there = self.installed.iter().map(|(name, entry)| (Choice::Installed((*name).to_owned()), entry));
        let provides = move |(choice, entry): (Choice, &IndexEntry)| {
            let provided = self.scheme().relations(&entry.provides).into_iter().flatten();
            let version = provided.filter(|p| p.name == name).map(|p| p.bound.map(|b| b.version));
            version.map(|version| (choice.clone(), version)).collect::<Vec<_>>()
        };
        let with_text = |(_, entry): &(Choice, &IndexEntry)| !entry.provides.is_empty();
        let there = there.chain(held).filter(with_text).flat_map(provides);
        there.chain(addable).collect()
    }
}

/// What the index says about a locked package; when the repository has moved on, what it says about the newest
/// version, since what a package provides and conflicts with rarely changes in a suite.
fn installed_entry(index: &Index, package: &LockedPackage) -> IndexEntry {
    let known = index.entry_of(package).or_else(|| index.versions(&package.name).next());
    let known = known.cloned().unwrap_or_default();
    IndexEntry {
        name: package.name.clone(),
        version: package.version.clone(),
        architecture: package.architecture.clone(),
        ..known
    }
}

/// Positions in the index of what is chosen, parents' packages left out; or why nothing can be. `exactly` are names
/// with the one version that may be chosen.
pub(super) fn solve(
    universe: &Universe<'_>,
    wanted: &[Alternative],
    exactly: &[(&str, &str)],
) -> Result<Vec<usize>, String> {
    let installed = universe.installed.values().map(|entry| (entry.name.as_str(), entry.version.as_str()));
    let provider = Provider { universe, pool: Pool::new() };
    let requirements = installed
        .chain(exactly.iter().copied())
        .flat_map(|(name, version)| provider.exactly(name, version))
        .chain(wanted.iter().map(|a| provider.requirement(std::slice::from_ref(a))))
        .collect();
    let mut solver = Solver::new(provider);
    let chosen = match solver.solve(Problem::new().requirements(requirements)) {
        Ok(chosen) => chosen,
        Err(UnsolvableOrCancelled::Unsolvable(conflict)) => {
            let mut explanation = Explanation::default();
            // An error is only that it has said enough.
            let _ = write!(explanation, "{}", conflict.display_user_friendly(&solver));
            return Err(explanation.text());
        }
        Err(UnsolvableOrCancelled::Cancelled(_)) => return Err("the search was stopped".to_owned()),
    };
    let pool = &solver.provider().pool;
    let entries = chosen.into_iter().filter_map(|id| match &pool.resolve_solvable(id).record {
        Record::Package(Choice::Entry(at)) => Some(*at),
        Record::Package(Choice::Installed(_)) | Record::Provider(..) => None,
    });
    Ok(entries.collect())
}

/// The first lines of what the solver says. It is stopped there, since among packages that need each other in a circle
/// resolvo 0.12 goes round without an end.
#[derive(Debug, Default)]
struct Explanation {
    lines: Vec<String>,
    unfinished: String,
}

impl Explanation {
    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.unfinished);
        if !line.trim().is_empty() && !line.starts_with("The following packages") {
            self.lines.push(line);
        }
    }

    fn text(mut self) -> String {
        self.end_line();
        if self.lines.len() > REASON_LINES {
            self.lines.truncate(REASON_LINES);
            self.lines.push("...".to_owned());
        }
        self.lines.join("\n")
    }
}

impl fmt::Write for Explanation {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (n, part) in text.split('\n').enumerate() {
            if n > 0 {
                self.end_line();
            }
            self.unfinished.push_str(part);
        }
        if self.lines.len() > REASON_LINES { Err(fmt::Error) } else { Ok(()) }
    }
}

/// A candidate of the solver.
#[derive(Debug, Clone)]
enum Record {
    Package(Choice),
    Provider(Choice, Option<String>),
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A set of candidates of one name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Wanted {
    bound: Option<Bound>,
    /// Only the provider of this name and version.
    by: Option<(String, String)>,
    /// All but those.
    negated: bool,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.negated { "not " } else { "" };
        match &self.bound {
            Some(bound) => write!(f, "{not}({} {})", bound.operator.as_str(), bound.version),
            None => write!(f, "{not}*"),
        }
    }
}

impl VersionSet for Wanted {
    type V = Record;
}

const VIRTUAL: &str = "virtual:";

struct Provider<'a> {
    universe: &'a Universe<'a>,
    pool: Pool<Wanted, String>,
}

impl Provider<'_> {
    fn set(&self, name: &str, bound: Option<Bound>, negated: bool) -> VersionSetId {
        let name = self.pool.intern_package_name(name.to_owned());
        self.pool.intern_version_set(name, Wanted { bound, by: None, negated })
    }

    /// One version of a package, and all that it provides: so that an alternative that it answers counts as answered,
    /// and no other is added.
    fn exactly(&self, name: &str, version: &str) -> Vec<ConditionalRequirement> {
        let mut sets = vec![self.set(name, Some(Bound::exactly(version)), false)];
        let versions = self.universe.versions(name);
        let entry = versions.iter().map(|choice| self.universe.entry(choice)).find(|e| e.version == version);
        let provided =
            entry.map(|entry| self.universe.scheme().relations(&entry.provides)).unwrap_or_default();
        for provided in provided.into_iter().flatten() {
            let name = self.pool.intern_package_name(format!("{VIRTUAL}{}", provided.name));
            let by = entry.map(|entry| (entry.name.clone(), entry.version.clone()));
            sets.push(self.pool.intern_version_set(name, Wanted { bound: None, by, negated: false }));
        }
        sets.into_iter().map(Into::into).collect()
    }

    /// Any of `alternatives`, the first rather than the others; of one alternative, the real package rather than
    /// those that provide it.
    fn requirement(&self, alternatives: &[Alternative]) -> ConditionalRequirement {
        let mut alternatives: Vec<&Alternative> = alternatives.iter().collect();
        alternatives.sort_by_key(|a| !self.universe.favoured.contains(a.name.as_str()));
        let mut sets = Vec::new();
        for alternative in alternatives.iter().filter(|a| a.fits(&self.universe.index.architecture)) {
            if self.universe.is_real(&alternative.name) {
                sets.push(self.set(&alternative.name, alternative.bound.clone(), false));
            }
            if self.universe.is_virtual(&alternative.name) {
                let name = format!("{VIRTUAL}{}", alternative.name);
                sets.push(self.set(&name, alternative.bound.clone(), false));
            }
        }
        match sets.as_slice() {
            [] => {
                // A name without candidates: the solver then says what is missing, and to whom.
                let first = alternatives.first().copied().cloned().unwrap_or_else(|| Alternative::any(""));
                let name = match &first.qualifier {
                    Some(qualifier) => format!("{}:{qualifier}", first.name),
                    None => first.name,
                };
                self.set(&name, first.bound, false).into()
            }
            [one] => (*one).into(),
            [first, rest @ ..] => self.pool.intern_version_set_union(*first, rest.iter().copied()).into(),
        }
    }

    /// What may not be there beside `owner`, because of one item of its Conflicts or Breaks.
    fn constraints(&self, owner: &IndexEntry, banned: &Alternative, out: &mut Vec<VersionSetId>) {
        if !banned.fits(&self.universe.index.architecture) {
            return;
        }
        if banned.name != owner.name && self.universe.is_real(&banned.name) {
            out.push(self.set(&banned.name, banned.bound.clone(), true));
        }
        for (choice, version) in self.universe.providers(&banned.name) {
            let provider = self.universe.entry(&choice);
            // A package may provide what it conflicts with: it then is the only one that does (policy 7.6.2).
            if provider.name != owner.name && banned.takes_provided(version.as_deref()) {
                out.push(self.set(&provider.name, Some(Bound::exactly(&provider.version)), true));
            }
        }
    }

    fn takes(&self, record: &Record, wanted: &Wanted) -> bool {
        let bounded = |version: Option<&str>| {
            Alternative { bound: wanted.bound.clone(), ..Alternative::any("") }.takes_provided(version)
        };
        let takes = match record {
            Record::Package(choice) => bounded(Some(&self.universe.entry(choice).version)),
            Record::Provider(choice, version) => {
                let is_by = |(name, version): &(String, String)| {
                    let entry = self.universe.entry(choice);
                    entry.name == *name && entry.version == *version
                };
                wanted.by.as_ref().is_none_or(is_by) && bounded(version.as_deref())
            }
        };
        takes != wanted.negated
    }
}

impl Interner for Provider<'_> {
    type NameId = NameId;
    type SolvableId = SolvableId;

    fn display_solvable(&self, solvable: SolvableId) -> impl fmt::Display + '_ {
        match &self.pool.resolve_solvable(solvable).record {
            // The solver writes the name before it.
            Record::Package(Choice::Installed(name)) => {
                format!("{} (of a parent image)", self.universe.installed[name.as_str()].version)
            }
            Record::Package(choice @ Choice::Entry(_)) => self.universe.entry(choice).version.clone(),
            Record::Provider(choice, _) => format!("provided by {}", self.universe.entry(choice).name),
        }
    }

    fn display_name(&self, name: NameId) -> impl fmt::Display + '_ {
        let name = self.pool.resolve_package_name(name);
        name.strip_prefix(VIRTUAL).map_or_else(|| name.clone(), |name| format!("{name} (virtual)"))
    }

    fn display_version_set(&self, set: VersionSetId) -> impl fmt::Display + '_ {
        self.pool.resolve_version_set(set).clone()
    }

    fn display_string(&self, string: StringId) -> impl fmt::Display + '_ {
        self.pool.resolve_string(string).to_owned()
    }

    fn version_set_name(&self, set: VersionSetId) -> NameId {
        self.pool.resolve_version_set_package_name(set)
    }

    fn solvable_name(&self, solvable: SolvableId) -> NameId {
        self.pool.resolve_solvable(solvable).name
    }

    fn version_sets_in_union(&self, union: VersionSetUnionId) -> impl Iterator<Item = VersionSetId> {
        self.pool.resolve_version_set_union(union)
    }

    fn resolve_condition(&self, condition: ConditionId) -> Condition {
        self.pool.resolve_condition(condition).clone()
    }
}

impl DependencyProvider for Provider<'_> {
    async fn filter_candidates(
        &self,
        candidates: &[SolvableId],
        set: VersionSetId,
        inverse: bool,
    ) -> Vec<SolvableId> {
        let wanted = self.pool.resolve_version_set(set);
        let is_in = |id: &SolvableId| self.takes(&self.pool.resolve_solvable(*id).record, wanted) != inverse;
        candidates.iter().copied().filter(is_in).collect()
    }

    async fn get_candidates(&self, id: NameId) -> Option<Candidates> {
        let name = self.pool.resolve_package_name(id).clone();
        let mut found = Candidates {
            hint_dependencies_available: HintDependenciesAvailable::All,
            ..Candidates::default()
        };
        let records: Vec<Record> = match name.strip_prefix(VIRTUAL) {
            Some(name) => {
                found.allow_multiple = true;
                let providers = self.universe.providers(name);
                providers.into_iter().map(|(choice, version)| Record::Provider(choice, version)).collect()
            }
            None => self.universe.versions(&name).into_iter().map(Record::Package).collect(),
        };
        let is_locked = matches!(records.first(), Some(Record::Package(Choice::Installed(_))));
        found.candidates = records.into_iter().map(|r| self.pool.intern_solvable(id, r)).collect();
        found.locked = found.candidates.first().copied().filter(|_| is_locked);
        Some(found)
    }

    /// Of versions the newest, of providers the more important one, then by name; but parents' packages before all, and
    /// preferred ones before others.
    async fn sort_candidates(&self, _: &SolverCache<Self>, solvables: &mut [SolvableId]) {
        solvables.sort_by(|a, b| {
            let choice = |id: &SolvableId| match &self.pool.resolve_solvable(*id).record {
                Record::Package(choice) | Record::Provider(choice, _) => choice.clone(),
            };
            let (a, b) = (choice(a), choice(b));
            let tier = |choice: &Choice| match choice {
                Choice::Installed(_) => 0,
                Choice::Entry(at) => {
                    let entry = self.universe.at(*at);
                    let preferred = (entry.name.as_str(), entry.version.as_str());
                    if self.universe.preferred.contains(&preferred) { 1 } else { 2 }
                }
            };
            let (x, y) = (self.universe.entry(&a), self.universe.entry(&b));
            tier(&a)
                .cmp(&tier(&b))
                .then_with(|| rank(&x.priority).cmp(&rank(&y.priority)))
                .then_with(|| x.name.cmp(&y.name))
                .then_with(|| self.universe.scheme().compare(&y.version, &x.version))
        });
    }

    async fn get_dependencies(&self, solvable: SolvableId) -> Dependencies {
        let mut known = KnownDependencies::default();
        let record = self.pool.resolve_solvable(solvable).record.clone();
        match &record {
            Record::Provider(choice, _) => {
                let entry = self.universe.entry(choice);
                known
                    .requirements
                    .push(self.set(&entry.name, Some(Bound::exactly(&entry.version)), false).into());
            }
            Record::Package(choice) => {
                let entry = self.universe.entry(choice);
                // What a parent has is complete, or was accepted as it is when the parent was locked.
                if matches!(choice, Choice::Entry(_)) {
                    for text in [&entry.pre_depends, &entry.depends] {
                        let relations = self.universe.scheme().relations(text);
                        known.requirements.extend(relations.iter().map(|d| self.requirement(d)));
                    }
                }
                for text in [&entry.conflicts, &entry.breaks] {
                    for banned in self.universe.scheme().relations(text).iter().flatten() {
                        self.constraints(entry, banned, &mut known.constrains);
                    }
                }
            }
        }
        Dependencies::Known(known)
    }
}

/// Debian's priorities, the most important first.
fn rank(priority: &str) -> usize {
    let order = ["required", "important", "standard", "optional"];
    order.iter().position(|known| *known == priority).unwrap_or(order.len())
}
