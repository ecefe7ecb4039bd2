//! From names that are wanted to the packages that bring them, by Debian's rules: resolvo finds the set.
//!
//! Every package name is a name for the solver. A name that others provide is a second one, `NAME` with a mark, whose
//! candidates each require the package that provides it. Conflicts and Breaks become constraints. The newest version
//! comes first; of alternatives, the first that can be had, as with apt. Recommends are left out.

mod relation;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::fmt;

use imgforge_core::lock::LockedPackage;
use imgforge_core::manifest::RootInclude;
use imgforge_core::name::nearest;
use resolvo::utils::{Pool, VersionSet};
use resolvo::{
    Candidates, Condition, ConditionId, ConditionalRequirement, Dependencies, DependencyProvider,
    HintDependenciesAvailable, Interner, KnownDependencies, NameId, Problem, SolvableId, Solver, SolverCache,
    StringId, UnsolvableOrCancelled, VersionSetId, VersionSetUnionId,
};

pub(crate) use self::relation::{Group, Operator, Relation, Version, parse_relations};
use crate::index::{Index, Package, Priority};

/// What an image wants beside what it stands on.
#[derive(Debug, Clone, Copy)]
pub struct Request<'r> {
    /// What a root starts with; `None` for an image that is no root.
    pub include: Option<RootInclude>,
    /// `NAME` or `NAME=VERSION`.
    pub wanted: &'r [String],
    /// What its parents have: neither changed nor removed.
    pub installed: &'r [LockedPackage],
}

/// Why a request cannot be met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolveError {
    package: Option<String>,
    message: String,
    help: Option<String>,
}

impl ResolveError {
    /// The wanted word that cannot be had, when it is one.
    pub fn package(&self) -> Option<&str> {
        self.package.as_deref()
    }

    /// What to do.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
impl std::error::Error for ResolveError {}

/// Says that a system has been made usr-merged.
const USR_IS_MERGED: &str = "usr-is-merged";

impl Index {
    /// The packages that must be added so that all that is wanted is there; sorted.
    ///
    /// # Errors
    /// A package that does not exist (with the nearest name), or a set that cannot be (with the reason).
    pub fn resolve(&self, request: &Request<'_>) -> Result<Vec<LockedPackage>, ResolveError> {
        let mut wanted = Vec::new();
        for word in request.wanted {
            wanted.push(self.wanted(word)?);
        }
        let included = self.packages.iter().filter(|package| match request.include {
            Some(RootInclude::Essential) => package.essential,
            Some(RootInclude::Required) => package.essential || package.priority == Priority::Required,
            Some(RootInclude::Nothing) | None => false,
        });
        let mut names: BTreeSet<&str> = included.map(|package| package.name.as_str()).collect();
        // A root is made usr-merged. Without this, the alternative that merges it would come in, with perl.
        if !names.is_empty() && self.by_name.contains_key(USR_IS_MERGED) {
            names.insert(USR_IS_MERGED);
        }
        wanted.extend(names.into_iter().map(|name| Relation { name: name.to_owned(), version: None }));
        let provider = Provider::new(self, request.installed);
        let chosen = provider.solve(&wanted)?;
        let mut added: Vec<LockedPackage> = chosen.into_iter().map(|package| self.locked(&package)).collect();
        added.sort();
        Ok(added)
    }

    fn wanted(&self, word: &str) -> Result<Relation, ResolveError> {
        let (name, version) =
            word.split_once('=').map_or((word, None), |(name, version)| (name, Some(version)));
        let fail = |message: String, help: Option<String>| ResolveError {
            package: Some(word.to_owned()),
            message,
            help,
        };
        let Some(versions) = self.by_name.get(name) else {
            if version.is_none() && self.providers.contains_key(name) {
                return Ok(Relation { name: name.to_owned(), version: None });
            }
            let near = nearest(name, self.by_name.keys().map(String::as_str));
            return Err(fail(
                format!("there is no package \"{name}\" in \"{}\"", self.source),
                near.map(|near| format!("did you mean \"{near}\"?")),
            ));
        };
        let Some(version) = version else { return Ok(Relation { name: name.to_owned(), version: None }) };
        let served = || versions.iter().map(|n| self.packages[*n].version.text());
        let exact = Version::new(version).filter(|_| served().any(|text| text == version));
        let exact = exact.ok_or_else(|| {
            let help = format!("served now: {}", served().collect::<Vec<_>>().join(", "));
            fail(format!("there is no version {version} of \"{name}\""), Some(help))
        })?;
        Ok(Relation { name: name.to_owned(), version: Some((Operator::Equal, exact)) })
    }

    fn locked(&self, package: &Package) -> LockedPackage {
        LockedPackage {
            source: self.source.clone(),
            name: package.name.clone(),
            version: package.version.text().to_owned(),
            architecture: package.architecture.clone(),
            suite: package.suite.clone(),
            path: package.path.clone(),
            size: package.size,
            sha256: package.sha256.clone(),
        }
    }
}

/// What a solvable of the pool stands for.
#[derive(Debug, Clone)]
enum Candidate {
    /// A package, by its number.
    Package(usize),
    /// A name that package number `.0` provides, maybe with a version.
    Provided(usize, Option<Version>),
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Package(n) => write!(f, "package {n}"),
            Self::Provided(n, _) => write!(f, "what package {n} provides"),
        }
    }
}

/// A set of versions: those that a relation admits, or those that it does not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Versions {
    relation: Relation,
    inverted: bool,
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.inverted { "not " } else { "" };
        match &self.relation.version {
            Some(_) => {
                write!(f, "{not}{}", self.relation.to_string().trim_start_matches(&self.relation.name).trim())
            }
            None => write!(f, "{not}any version"),
        }
    }
}

impl VersionSet for Versions {
    type V = Candidate;
}

/// Marks the name under which providers of a name are known to the solver.
const PROVIDED: &str = "provided:";

struct Provider {
    /// Those of the index, with the installed ones in place of all versions of their names.
    packages: Vec<Package>,
    by_name: HashMap<String, Vec<usize>>,
    providers: HashMap<String, Vec<(usize, Option<Version>)>>,
    installed: BTreeSet<usize>,
    pool: Pool<Versions, String>,
    solvables: RefCell<HashMap<(NameId, usize), SolvableId>>,
}

impl Provider {
    fn new(index: &Index, installed: &[LockedPackage]) -> Self {
        let fixed: HashMap<&str, &LockedPackage> = installed.iter().map(|p| (p.name.as_str(), p)).collect();
        let mut packages: Vec<Package> =
            index.packages.iter().filter(|p| !fixed.contains_key(p.name.as_str())).cloned().collect();
        let first_installed = packages.len();
        packages.extend(installed.iter().filter_map(|locked| installed_package(index, locked)));
        let merged = Index::new(&index.source, packages);
        let mut providers: HashMap<String, Vec<(usize, Option<Version>)>> = HashMap::new();
        for (n, package) in merged.packages.iter().enumerate() {
            for (name, version) in &package.provides {
                providers.entry(name.clone()).or_default().push((n, version.clone()));
            }
        }
        Self {
            installed: (first_installed..merged.packages.len()).collect(),
            packages: merged.packages,
            by_name: merged.by_name,
            providers,
            pool: Pool::new(),
            solvables: RefCell::default(),
        }
    }

    fn solve(self, wanted: &[Relation]) -> Result<Vec<Package>, ResolveError> {
        let exact = |n: &usize| Relation {
            name: self.packages[*n].name.clone(),
            version: Some((Operator::Equal, self.packages[*n].version.clone())),
        };
        let fixed: Vec<Relation> = self.installed.iter().map(exact).collect();
        let requirements: Vec<ConditionalRequirement> = fixed
            .iter()
            .chain(wanted)
            .map(|relation| self.requirement(std::slice::from_ref(relation)))
            .collect();
        let mut solver = Solver::new(self);
        match solver.solve(Problem::new().requirements(requirements)) {
            Ok(solvables) => {
                let provider = solver.provider();
                let number = |solvable: SolvableId| match &provider.pool.resolve_solvable(solvable).record {
                    Candidate::Package(n) => Some(*n),
                    Candidate::Provided(..) => None,
                };
                let chosen: BTreeSet<usize> = solvables.into_iter().filter_map(number).collect();
                Ok(chosen.difference(&provider.installed).map(|n| provider.packages[*n].clone()).collect())
            }
            Err(UnsolvableOrCancelled::Unsolvable(conflict)) => {
                let reason = conflict.display_user_friendly(&solver).to_string();
                let message = format!("these packages cannot be had together:\n{}", reason.trim_end());
                let help = "where a parent's package is in the way: `imgforge update` locks all images anew"
                    .to_owned();
                Err(ResolveError { package: None, message, help: Some(help) })
            }
            Err(UnsolvableOrCancelled::Cancelled(_)) => unreachable!("nothing cancels the solver"),
        }
    }

    fn version_set(&self, name: &str, relation: &Relation, inverted: bool) -> VersionSetId {
        let id = self.pool.intern_package_name(name.to_owned());
        self.pool.intern_version_set(id, Versions { relation: relation.clone(), inverted })
    }

    /// One of a group must be there: for each alternative the package of that name, then those that provide it.
    fn requirement(&self, group: &[Relation]) -> ConditionalRequirement {
        let mut sets = Vec::new();
        for relation in group {
            if self.by_name.contains_key(&relation.name) {
                sets.push(self.version_set(&relation.name, relation, false));
            }
            if self.providers.contains_key(&relation.name) {
                sets.push(self.version_set(&format!("{PROVIDED}{}", relation.name), relation, false));
            }
        }
        if sets.is_empty() {
            // Nothing has that name: a set without candidates, so that the solver can say so.
            sets.push(self.version_set(&group[0].name, &group[0], false));
        }
        match sets.as_slice() {
            [one] => (*one).into(),
            [first, others @ ..] => self.pool.intern_version_set_union(*first, others.iter().copied()).into(),
            [] => unreachable!("one was pushed"),
        }
    }

    /// What must not be beside package `n`: the name itself, and who provides it, but for the package itself.
    fn constraints(&self, n: usize) -> Vec<VersionSetId> {
        let package = &self.packages[n];
        let mut sets = Vec::new();
        for relation in package.conflicts.iter().flatten() {
            if relation.name != package.name && self.by_name.contains_key(&relation.name) {
                sets.push(self.version_set(&relation.name, relation, true));
            }
            for (other, version) in self.providers.get(&relation.name).into_iter().flatten() {
                let other = &self.packages[*other];
                if other.name != package.name && relation.admits_provided(version.as_ref()) {
                    let exactly = Relation {
                        name: other.name.clone(),
                        version: Some((Operator::Equal, other.version.clone())),
                    };
                    sets.push(self.version_set(&other.name, &exactly, true));
                }
            }
        }
        sets
    }

    fn number(&self, solvable: SolvableId) -> usize {
        match &self.pool.resolve_solvable(solvable).record {
            Candidate::Package(n) | Candidate::Provided(n, _) => *n,
        }
    }
}

/// An installed package's relations come from the index: from the same version, or else the newest of its name.
fn installed_package(index: &Index, locked: &LockedPackage) -> Option<Package> {
    let version = Version::new(&locked.version)?;
    let versions = index.by_name.get(&locked.name).map_or(&[][..], Vec::as_slice);
    let same = versions.iter().find(|n| index.packages[**n].version == version);
    let described = same.or(versions.first()).map(|n| &index.packages[*n]);
    Some(Package {
        name: locked.name.clone(),
        version,
        architecture: locked.architecture.clone(),
        suite: locked.suite.clone(),
        path: locked.path.clone(),
        size: locked.size,
        sha256: locked.sha256.clone(),
        essential: false,
        priority: Priority::Optional,
        // They are met already.
        depends: Vec::new(),
        conflicts: described.map(|package| package.conflicts.clone()).unwrap_or_default(),
        provides: described.map(|package| package.provides.clone()).unwrap_or_default(),
    })
}

impl Interner for Provider {
    type NameId = NameId;
    type SolvableId = SolvableId;

    fn display_solvable(&self, solvable: SolvableId) -> impl fmt::Display + '_ {
        let package = &self.packages[self.number(solvable)];
        format!("{} {}", package.name, package.version.text())
    }
    fn display_name(&self, name: NameId) -> impl fmt::Display + '_ {
        self.pool.resolve_package_name(name).trim_start_matches(PROVIDED).to_owned()
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

impl DependencyProvider for Provider {
    async fn filter_candidates(
        &self,
        candidates: &[SolvableId],
        set: VersionSetId,
        inverse: bool,
    ) -> Vec<SolvableId> {
        let Versions { relation, inverted } = self.pool.resolve_version_set(set);
        let admits = |solvable: &SolvableId| match &self.pool.resolve_solvable(*solvable).record {
            Candidate::Package(n) => relation.admits(&self.packages[*n].version),
            Candidate::Provided(_, version) => relation.admits_provided(version.as_ref()),
        };
        candidates.iter().copied().filter(|solvable| (admits(solvable) != *inverted) != inverse).collect()
    }

    async fn get_candidates(&self, id: NameId) -> Option<Candidates> {
        let name = self.pool.resolve_package_name(id).clone();
        let mut found = Candidates {
            hint_dependencies_available: HintDependenciesAvailable::All,
            ..Candidates::default()
        };
        let mut add = |n: usize, candidate: Candidate| {
            let mut solvables = self.solvables.borrow_mut();
            let intern = || self.pool.intern_solvable(id, candidate);
            found.candidates.push(*solvables.entry((id, n)).or_insert_with(intern));
        };
        match name.strip_prefix(PROVIDED) {
            Some(provided) => {
                for (n, version) in self.providers.get(provided)? {
                    add(*n, Candidate::Provided(*n, version.clone()));
                }
                found.allow_multiple = true;
            }
            None => self.by_name.get(&name)?.iter().for_each(|n| add(*n, Candidate::Package(*n))),
        }
        Some(found)
    }

    /// Installed first, then by priority and name, the newest version first: of those that provide a name, apt takes the
    /// one of the highest priority too.
    async fn sort_candidates(&self, _: &SolverCache<Self>, solvables: &mut [SolvableId]) {
        solvables.sort_by(|a, b| {
            let (a, b) = (self.number(*a), self.number(*b));
            let (x, y) = (&self.packages[a], &self.packages[b]);
            let installed = |n| !self.installed.contains(n);
            (installed(&a), x.priority, &x.name)
                .cmp(&(installed(&b), y.priority, &y.name))
                .then_with(|| y.version.cmp(&x.version))
        });
    }

    async fn get_dependencies(&self, solvable: SolvableId) -> Dependencies {
        let mut known = KnownDependencies::default();
        match &self.pool.resolve_solvable(solvable).record {
            Candidate::Provided(n, _) => {
                let package = &self.packages[*n];
                let exactly = Relation {
                    name: package.name.clone(),
                    version: Some((Operator::Equal, package.version.clone())),
                };
                known.requirements.push(self.requirement_of_name(&exactly));
            }
            Candidate::Package(n) => {
                for group in &self.packages[*n].depends {
                    known.requirements.push(self.requirement(group));
                }
                known.constrains.extend(self.constraints(*n));
            }
        }
        Dependencies::Known(known)
    }
}

impl Provider {
    /// The package itself, not another one that provides its name.
    fn requirement_of_name(&self, relation: &Relation) -> ConditionalRequirement {
        self.version_set(&relation.name, relation, false).into()
    }
}
