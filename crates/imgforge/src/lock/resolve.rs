//! The lock made anew: all of it, or only what is to move.
//!
//! Images are resolved parents first, each beside what its parents have by then. An image of which nothing is to
//! move, and whose parents stay, is not looked at: its lines stay as they are.

use std::collections::{BTreeMap, BTreeSet};

use imgforge_core::diagnostic::{Problem, Problems};
use imgforge_core::event::Reporter;
use imgforge_core::lock::{Lock, LockView, LockedExternal, LockedImage, LockedPackage};
use imgforge_core::name::ImageName;
use imgforge_core::workspace::Image;
use imgforge_oci::Digest;
use imgforge_packages::{Cache, Index, Partial, Progress, Request, Seen};
use imgforge_syntax::nearest;

use crate::lock::externals::names_external;
use crate::lock::{ImageRequest, check_packages, request_sum};
use crate::progress::{EventProgress, pump};
use crate::{Error, Session};

/// The part of the lock that is to move to newer versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moves {
    /// Nothing: only what is missing is locked.
    Nothing,
    /// All packages, to the newest versions that fit together.
    Everything,
    /// Packages and images from outside of these names.
    Named(BTreeSet<String>),
    /// Packages of which a newer version lies in a security suite, to the newest that does: those of these names, or
    /// all when there is no name.
    Security(BTreeSet<String>),
    /// The packages that these images, and those that stand on them, add to their parents.
    Images(BTreeSet<ImageName>),
}

/// Which dates of signed indexes are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexDates {
    /// Those that are not older than the indexes that the lock was made by, and not from the future.
    NotOlder,
    /// Any.
    Any,
}

/// By image and package name: the versions to move to, the best first.
pub(crate) type Lifts = BTreeMap<ImageName, BTreeMap<String, Vec<String>>>;

/// The packages that each image adds to its parents.
pub(crate) type Added = BTreeMap<ImageName, Vec<LockedPackage>>;

/// Everything that a resolution reads.
pub(crate) struct Resolution<'s> {
    session: &'s Session,
    pub(crate) requests: BTreeMap<ImageName, ImageRequest>,
    pub(crate) indexes: BTreeMap<String, Index>,
    old: &'s Lock,
    /// Those of the new lock.
    externals: BTreeMap<String, LockedExternal>,
    view: LockView<'s>,
    moves: &'s Moves,
    dates: IndexDates,
}

impl Session {
    /// Locks anew what `moves` says, and what the manifests ask for and `old` lacks; writes nothing.
    ///
    /// # Errors
    /// Repositories and registries that cannot be reached or trusted, [`Error::Problems`] for what cannot be had, and
    /// [`Error::NotLocked`] for a name that is not locked.
    pub fn update(
        &self,
        old: &Lock,
        moves: &Moves,
        dates: IndexDates,
        reporter: &mut dyn Reporter,
    ) -> Result<Lock, Error> {
        match moves {
            Moves::Named(names) => check_names(old, names, true)?,
            Moves::Security(names) => check_names(old, names, false)?,
            Moves::Nothing | Moves::Everything | Moves::Images(_) => {}
        }
        let externals = self.lock_externals(old, moves)?;
        let moves_packages = match moves {
            Moves::Nothing => false,
            Moves::Named(names) => old.packages.iter().any(|package| names.contains(&package.name)),
            Moves::Everything | Moves::Security(_) | Moves::Images(_) => true,
        };
        let requests = self.requests();
        let same_ground =
            |name: &ImageName| self.foreign(name, &externals).eq(self.foreign(name, &old.externals));
        if !moves_packages && check_packages(old, &requests).is_ok() && requests.keys().all(same_ground) {
            return Ok(Lock { request: request_sum(&requests), externals, ..old.clone() });
        }
        if requests.is_empty() {
            return Ok(Lock { request: request_sum(&requests), externals, ..Lock::default() });
        }
        pump(reporter, |events| {
            let progress = EventProgress::new(events);
            let resolution = Resolution::new(self, requests, old, externals, moves, dates, &progress)?;
            let mut lock = resolution.lock()?;
            self.complete(&mut lock, &progress)?;
            Ok(lock)
        })
    }

    /// Notes the SHA-256 of files that their index knows by something else, which means to fetch them.
    fn complete(&self, lock: &mut Lock, progress: &dyn Progress) -> Result<(), Error> {
        let incomplete = lock.packages.iter().filter(|package| package.sha256.is_empty());
        let sources: BTreeSet<String> = incomplete.map(|package| package.source.clone()).collect();
        let (cache, network) = (Cache::user()?, self.network()?);
        for source in sources {
            let repository = self.repository_of(&source)?;
            let of_source = lock.packages.iter_mut().filter(|package| package.source == source);
            imgforge_packages::apk::complete(of_source, &repository, &cache, &network, progress)?;
        }
        Ok(())
    }

    fn indexes(
        &self,
        requests: &BTreeMap<ImageName, ImageRequest>,
        old: &Lock,
        externals: &BTreeMap<String, LockedExternal>,
        dates: IndexDates,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<String, Index>, Error> {
        self.fetch_databases(externals)?;
        let (cache, network) = (Cache::user()?, self.network()?);
        let sources: BTreeSet<&String> = requests.values().map(|request| &request.source).collect();
        let mut indexes = BTreeMap::new();
        for source in sources {
            let repository = self.repository_of(source)?;
            let seen = Seen { dates: old.dates(source), is_any_taken: dates == IndexDates::Any };
            let mut index = imgforge_packages::fetch_index(&repository, &seen, &cache, &network, progress)
                .map_err(|error| self.at_keys(source, error))?;
            index.recall(&old.packages, &cache);
            let bases = externals.values().chain(old.externals.values());
            let digests: BTreeSet<&Digest> = bases.flat_map(|base| base.platforms.values()).collect();
            for status in digests.into_iter().filter_map(|d| imgforge_packages::kept_database(d, &cache)) {
                index.recall_database(&status);
            }
            indexes.insert(source.clone(), index);
        }
        Ok(indexes)
    }
}

impl<'s> Resolution<'s> {
    pub(crate) fn new(
        session: &'s Session,
        requests: BTreeMap<ImageName, ImageRequest>,
        old: &'s Lock,
        externals: BTreeMap<String, LockedExternal>,
        moves: &'s Moves,
        dates: IndexDates,
        progress: &dyn Progress,
    ) -> Result<Self, Error> {
        let indexes = session.indexes(&requests, old, &externals, dates, progress)?;
        Ok(Self { session, requests, indexes, old, externals, view: LockView::new(old), moves, dates })
    }

    fn lock(&self) -> Result<Lock, Error> {
        let mut lifts = Lifts::new();
        loop {
            let (added, behind, problems) = self.pass(&lifts);
            if problems.has_errors() {
                return Err(Error::Problems(problems));
            }
            let before = lifts.clone();
            for (name, packages) in &behind {
                self.lift(name, packages, &added, &mut lifts);
            }
            // Lifts only become more, and there are no more of them than locked packages.
            if lifts == before {
                return Ok(self.make_lock(added));
            }
        }
    }

    /// All images once; with the packages that are behind what they were to move to.
    pub(crate) fn pass(&self, lifts: &Lifts) -> (Added, BTreeMap<ImageName, Vec<String>>, Problems) {
        let (mut added, mut behind, mut problems) = (Added::new(), BTreeMap::new(), Problems::default());
        for name in self.session.graph.topological().filter(|name| self.requests.contains_key(*name)) {
            match self.image(name, &added, lifts) {
                Ok((packages, late)) => {
                    if !late.is_empty() {
                        behind.insert(name.clone(), late);
                    }
                    added.insert(name.clone(), packages);
                }
                Err(error) => {
                    problems.push(resolve_problem(&self.session.workspace.images[name], &error));
                    added.insert(name.clone(), self.old_of(name));
                }
            }
        }
        (added, behind, problems)
    }

    fn image(
        &self,
        name: &ImageName,
        added: &Added,
        lifts: &Lifts,
    ) -> Result<(Vec<LockedPackage>, Vec<String>), imgforge_packages::Error> {
        let request = &self.requests[name];
        let index = &self.indexes[&request.source];
        let own = |parent: &ImageName| added.get(parent).cloned().unwrap_or_default();
        let installed = self.parents(name, &self.externals, own);
        let wanted: Vec<String> = request.wanted.iter().cloned().collect();
        let asked = Request { include: request.include, wanted, installed: &installed };
        if self.moves_all(name) {
            let packages = index.resolve(&asked)?;
            return Ok((packages.into_iter().map(|package| self.settled(package)).collect(), Vec::new()));
        }
        let mut locked = self.old_of(name);
        let before = self.parents(name, &self.old.externals, |parent| self.old_of(parent));
        let fits = self.old.images.get(name).is_some_and(|locked| locked.request == request.hash);
        if !fits {
            // What is asked for anew is not held up by what is not to be had any more.
            locked.retain(|package| package.source == request.source && index.serves(package));
        }
        let moves = self.moves_of(name, &locked, index, lifts);
        if fits && moves.is_empty() && before == installed {
            return Ok((locked, Vec::new()));
        }
        let partial = Partial { locked: &locked, before: &before, preferred: &self.old.packages, moves };
        let updated = index.update(&asked, &partial)?;
        let packages = updated.packages.into_iter().map(|package| self.settled(package));
        Ok((packages.collect(), updated.behind))
    }

    fn moves_all(&self, name: &ImageName) -> bool {
        match self.moves {
            Moves::Everything => true,
            Moves::Images(images) => {
                self.session.graph.chain(name).iter().any(|below| images.contains(*below))
            }
            Moves::Nothing | Moves::Named(_) | Moves::Security(_) => false,
        }
    }

    /// Returns where each package that is to move goes.
    fn moves_of(
        &self,
        name: &ImageName,
        locked: &[LockedPackage],
        index: &Index,
        lifts: &Lifts,
    ) -> BTreeMap<String, Vec<String>> {
        let mut moves: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for package in locked {
            let versions = match self.moves {
                Moves::Named(names) if names.contains(&package.name) => {
                    let newer = index.newer(package, false);
                    if newer.is_empty() && !index.serves(package) {
                        index.versions(&package.name).map(|entry| entry.version.clone()).collect()
                    } else {
                        newer
                    }
                }
                Moves::Security(names) if names.is_empty() || names.contains(&package.name) => {
                    index.newer(package, true)
                }
                _ => Vec::new(),
            };
            if !versions.is_empty() {
                moves.insert(package.name.clone(), versions);
            }
        }
        moves.extend(lifts.get(name).cloned().unwrap_or_default());
        moves
    }

    /// Moves parents that keep an image's packages behind: resolves the image together with all that it stands on,
    /// and has the parents move what they would have to.
    fn lift(&self, name: &ImageName, behind: &[String], added: &Added, lifts: &mut Lifts) {
        let request = &self.requests[name];
        let index = &self.indexes[&request.source];
        let chain: Vec<&ImageName> = self.session.graph.chain(name);
        let requests: Vec<&ImageRequest> = chain.iter().filter_map(|name| self.requests.get(*name)).collect();
        if requests.iter().any(|other| other.source != request.source) {
            return;
        }
        let own = |name: &ImageName| added.get(name).cloned().unwrap_or_default();
        let locked: Vec<LockedPackage> = chain.iter().flat_map(|name| own(name)).collect();
        let mut moves = self.moves_of(name, &own(name), index, lifts);
        moves.retain(|package, _| behind.contains(package));
        let foreign = self.session.foreign(name, &self.externals);
        let foreign: Vec<LockedPackage> = foreign.map(|package| package.installed(&request.source)).collect();
        let asked = Request {
            include: requests.iter().find_map(|request| request.include),
            wanted: requests.iter().flat_map(|request| request.wanted.iter().cloned()).collect(),
            installed: &foreign,
        };
        let partial = Partial { locked: &locked, before: &[], preferred: &self.old.packages, moves };
        let Ok(updated) = index.update(&asked, &partial) else { return };
        for parent in chain.iter().filter(|parent| **parent != name) {
            for package in own(parent) {
                let moved = updated.packages.iter().find(|new| new.name == package.name);
                if let Some(moved) = moved.filter(|moved| moved.version != package.version) {
                    let of_parent = lifts.entry((*parent).clone()).or_default();
                    of_parent.entry(package.name.clone()).or_insert_with(|| vec![moved.version.clone()]);
                }
            }
        }
    }

    /// The packages of all that an image stands on, with those of an image from outside at the bottom.
    fn parents(
        &self,
        name: &ImageName,
        externals: &BTreeMap<String, LockedExternal>,
        of: impl Fn(&ImageName) -> Vec<LockedPackage>,
    ) -> Vec<LockedPackage> {
        let source = &self.requests[name].source;
        let foreign = self.session.foreign(name, externals).map(|package| package.installed(source));
        let chain = self.session.graph.chain(name);
        foreign.chain(chain.into_iter().filter(|below| *below != name).flat_map(of)).collect()
    }

    /// Returns what an image adds by the old lock.
    pub(crate) fn old_of(&self, name: &ImageName) -> Vec<LockedPackage> {
        self.view.added_by(name).into_iter().cloned().collect()
    }

    /// A package's line as it is locked already, where that is as good as the new one.
    fn settled(&self, package: LockedPackage) -> LockedPackage {
        let old = self.view.line(&package.source, &package.entry());
        let stays = |old: &&LockedPackage| {
            let has_date = old.indexed.is_some() || package.indexed.is_none();
            // Dates that would have an index refused which is taken now do not stay.
            let has_date = has_date && (self.dates == IndexDates::NotOlder || old.indexed <= package.indexed);
            *self.moves != Moves::Everything || self.indexes[&package.source].is_current(old) && has_date
        };
        old.filter(stays).cloned().unwrap_or(package)
    }

    fn make_lock(&self, added: Added) -> Lock {
        let packages: BTreeSet<LockedPackage> = added.values().flatten().cloned().collect();
        let image = |(name, packages): (ImageName, Vec<LockedPackage>)| {
            let request = &self.requests[&name];
            let mut entries: Vec<String> = packages.iter().map(LockedPackage::entry).collect();
            entries.sort();
            let (source, request) = (request.source.clone(), request.hash.clone());
            (name, LockedImage { source, request, packages: entries })
        };
        Lock {
            request: request_sum(&self.requests),
            externals: self.externals.clone(),
            packages: packages.into_iter().collect(),
            images: added.into_iter().map(image).collect(),
        }
    }
}

/// Every name must be that of a locked package, or, where these count, of an image from outside.
fn check_names(lock: &Lock, names: &BTreeSet<String>, externals_count: bool) -> Result<(), Error> {
    let packages = || lock.packages.iter().map(|package| package.name.as_str());
    let externals = || lock.externals.keys().map(String::as_str).filter(|_| externals_count);
    let known: BTreeSet<&str> = packages().collect();
    let is_known = |name: &String| {
        known.contains(name.as_str()) || externals().any(|reference| names_external(name, reference))
    };
    match names.iter().find(|name| !is_known(name)) {
        None => Ok(()),
        Some(name) => {
            let near = nearest(name, known.into_iter().chain(externals())).map(str::to_owned);
            Err(Error::NotLocked { name: name.clone(), near })
        }
    }
}

/// At the name in the manifest that cannot be had, where it is one.
fn resolve_problem(image: &Image, error: &imgforge_packages::Error) -> Problem {
    use imgforge_packages::Error::{UnknownPackage, UnknownVersion};
    let about = match error {
        UnknownPackage { name, .. } | UnknownVersion { name, .. } => Some(name),
        _ => None,
    };
    let mut words = image.manifest.packages.iter().flat_map(|request| &request.names);
    let word = words.find(|word| about.is_some_and(|name| word.value.split('=').next() == Some(name)));
    let span = word.map_or(image.manifest.name.span, |word| word.span);
    let problem = Problem::explained(&image.manifest.file, span, &error.to_string(), "asked for here");
    match error {
        imgforge_packages::Error::Unsolvable { .. } => {
            problem.help("where a package of a parent is in the way: `imgforge update` locks all images anew")
        }
        _ => problem,
    }
}
