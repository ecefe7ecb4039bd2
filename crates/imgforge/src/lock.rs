//! What the manifests ask of package sources, and the lock that answers it: read, compared, made anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use camino::Utf8Path;
use imgforge_core::cache_file;
use imgforge_core::diagnostic::{Problem, Problems};
use imgforge_core::event::Reporter;
use imgforge_core::lock::{Lock, LockedImage, LockedPackage};
use imgforge_core::manifest::{AptSource, Base, RootInclude};
use imgforge_core::name::ImageName;
use imgforge_core::services;
use imgforge_core::source::Source;
use imgforge_core::workspace::{Image, read_file};
use imgforge_packages::{Cache, Index, Machine, Progress, Repository, Request};

use crate::progress::{EventProgress, pump};
use crate::{Error, Session};

/// The lock's name, beside `imgforge.kdl`.
pub const FILE: &str = "imgforge.lock";

/// The architecture whose packages are locked.
const ARCHITECTURE: &str = "amd64";

/// What one image asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageRequest {
    /// The apt source's name.
    pub(crate) source: String,
    /// What a root starts with.
    pub(crate) include: Option<RootInclude>,
    /// `NAME` or `NAME=VERSION`, sorted.
    pub(crate) wanted: BTreeSet<String>,
    /// Over all of this, the source's own description and the parent's request: when it is another one, the image
    /// must be locked again.
    pub(crate) hash: String,
}

/// One package in two locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockChange {
    /// It was not locked before.
    Added {
        /// Package name.
        name: String,
        /// Its version.
        version: String,
    },
    /// It is not locked any more.
    Removed {
        /// Package name.
        name: String,
        /// Its version.
        version: String,
    },
    /// It has another version.
    Moved {
        /// Package name.
        name: String,
        /// The version that it had.
        old: String,
        /// The version that it has.
        new: String,
        /// Whether the new one comes from a security suite.
        security: bool,
    },
}

/// A lock's packages by the name that images use for them.
pub(crate) struct LockView<'l> {
    lock: &'l Lock,
    packages: HashMap<(&'l str, String), &'l LockedPackage>,
}

impl<'l> LockView<'l> {
    pub(crate) fn new(lock: &'l Lock) -> Self {
        let key = |package: &'l LockedPackage| (package.source.as_str(), entry(package));
        Self { lock, packages: lock.packages.iter().map(|package| (key(package), package)).collect() }
    }

    /// The packages that an image adds to its parents, by the lock.
    pub(crate) fn added_by(&self, name: &ImageName) -> Vec<&'l LockedPackage> {
        let Some(image) = self.lock.images.get(name) else { return Vec::new() };
        let find = |entry: &String| self.packages.get(&(image.source.as_str(), entry.clone())).copied();
        image.packages.iter().filter_map(find).collect()
    }
}

/// How an image's block names a package: two branches of a family may have different versions of one.
fn entry(package: &LockedPackage) -> String {
    format!("{}={}", package.name, package.version)
}

impl Session {
    /// Reads `imgforge.lock`; an empty one when there is none.
    ///
    /// # Errors
    /// A lock that cannot be read or is not one.
    pub fn read_lock(&self) -> Result<Lock, Error> {
        let path = Utf8Path::new(FILE);
        if self.source.kind(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return Ok(Lock::default());
        }
        Ok(Lock::read(&read_file(&self.source, path)?.text, path)?)
    }

    /// Writes `imgforge.lock`, if it says something else than what is there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_lock(&self, lock: &Lock) -> Result<(), Error> {
        let path = self.root.join(FILE);
        let text = lock.to_kdl();
        if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        cache_file::replace(&path, text.as_bytes()).map_err(|error| Error::Io { path, error })
    }

    /// Locks the newest of everything that the manifests ask for, and writes nothing.
    ///
    /// # Errors
    /// Repositories that cannot be reached or trusted, and [`Error::Problems`] for what cannot be had.
    pub fn update(&self, reporter: &mut dyn Reporter) -> Result<Lock, Error> {
        pump(reporter, |events| self.resolve_lock(None, &EventProgress::new(events)))
    }

    /// The packages that an image adds to its parents, by `lock`.
    pub fn packages_of<'l>(&self, lock: &'l Lock, name: &ImageName) -> Vec<&'l LockedPackage> {
        LockView::new(lock).added_by(name)
    }

    /// Whether the lock answers exactly what the manifests ask for; else what does not fit, in a few words.
    ///
    /// # Errors
    /// [`Error::StaleLock`].
    pub fn check_lock(&self, lock: &Lock) -> Result<(), Error> {
        let requests = self.requests();
        if requests.is_empty() && *lock == Lock::default() {
            // A workspace without packages needs no lock.
            return Ok(());
        }
        for (name, request) in &requests {
            match lock.images.get(name) {
                None => return Err(Error::StaleLock(format!("it has no packages for {name}"))),
                Some(locked) if locked.request != request.hash => {
                    return Err(Error::StaleLock(format!(
                        "{name} asks for other packages than when it was made"
                    )));
                }
                Some(_) => {}
            }
        }
        if let Some(extra) = lock.images.keys().find(|name| !requests.contains_key(*name)) {
            return Err(Error::StaleLock(format!("it has packages for {extra}, which asks for none")));
        }
        if lock.request == request_sum(&requests) {
            Ok(())
        } else {
            Err(Error::StaleLock("its checksum of what was asked for is another one".into()))
        }
    }

    /// What every image that brings packages asks for.
    pub(crate) fn requests(&self) -> BTreeMap<ImageName, ImageRequest> {
        let mut requests: BTreeMap<ImageName, ImageRequest> = BTreeMap::new();
        for name in self.graph.topological() {
            if let Some(request) = self.request_of(&self.workspace.images[name], &requests) {
                requests.insert(name.clone(), request);
            }
        }
        requests
    }

    fn request_of(&self, image: &Image, above: &BTreeMap<ImageName, ImageRequest>) -> Option<ImageRequest> {
        let chain = self.graph.chain(image.name());
        let parent = chain.iter().rev().skip(1).find_map(|name| above.get(*name));
        let root = match &image.manifest.base.value {
            Base::Root(root) => Some(root),
            _ => None,
        };
        let asked = image.manifest.packages.first().map(|request| request.source.value.clone());
        let source = root
            .map(|root| root.source.value.clone())
            .or(asked)
            .or_else(|| parent.map(|p| p.source.clone()))?;
        let packages = image.manifest.packages.iter().flat_map(|request| &request.names);
        let mut wanted: BTreeSet<String> = packages.map(|name| name.value.clone()).collect();
        // The image that first declares a service brings the supervisor.
        let top = services::topmost(&self.workspace, &self.graph, image.name());
        if top.is_some_and(|top| top.name() == image.name()) {
            let packages = services::packages(services::supervisor(&self.workspace, image));
            wanted.extend(packages.iter().map(|package| (*package).to_owned()));
        }
        if wanted.is_empty() && root.is_none() {
            return None;
        }
        let include = root.map(|root| root.include);
        let described = self.workspace.manifest.apt.iter().find(|apt| apt.name.value == source)?;
        let hash = request_hash(described, include, &wanted, parent);
        Some(ImageRequest { source, include, wanted, hash })
    }

    /// Locks what the manifests ask for. With `keep`, an image whose request is as it was keeps its packages, and others
    /// keep the versions that are locked already where they are still served; without, everything is the newest.
    ///
    /// # Errors
    /// Repositories that cannot be reached or trusted, and [`Error::Problems`] for what cannot be had.
    pub(crate) fn resolve_lock(&self, keep: Option<&Lock>, progress: &dyn Progress) -> Result<Lock, Error> {
        let requests = self.requests();
        if requests.is_empty() {
            return Ok(Lock { request: request_sum(&requests), ..Lock::default() });
        }
        let old = keep.cloned().unwrap_or_default();
        let view = LockView::new(&old);
        let indexes = self.indexes(&requests, &old, progress)?;
        let mut problems = Problems::default();
        let mut added: BTreeMap<&ImageName, Vec<LockedPackage>> = BTreeMap::new();
        for name in self.graph.topological() {
            let Some(request) = requests.get(name) else { continue };
            let chain = self.graph.chain(name);
            let installed: Vec<LockedPackage> =
                chain.iter().filter_map(|name| added.get(*name)).flatten().cloned().collect();
            let is_kept = old.images.get(name).is_some_and(|locked| locked.request == request.hash);
            if is_kept {
                added.insert(name, view.added_by(name).into_iter().cloned().collect());
                continue;
            }
            let wanted = request.wanted.iter().cloned().collect();
            let asked = Request { include: request.include, wanted, installed: &installed };
            match indexes[&request.source].resolve(&asked) {
                Ok(packages) => drop(added.insert(name, packages)),
                Err(error) => {
                    problems.push(resolve_problem(&self.workspace.images[name], &error));
                    added.insert(name, Vec::new());
                }
            }
        }
        if problems.has_errors() { Err(Error::Problems(problems)) } else { Ok(make_lock(&requests, &added)) }
    }

    fn indexes(
        &self,
        requests: &BTreeMap<ImageName, ImageRequest>,
        old: &Lock,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<String, Index>, Error> {
        let cache = Cache::user()?;
        let sources: BTreeSet<&String> = requests.values().map(|request| &request.source).collect();
        let mut indexes = BTreeMap::new();
        for source in sources {
            let repository = self.repository_of(source)?;
            let index = imgforge_packages::fetch_index(&repository, &cache, progress)?;
            let pinned: Vec<LockedPackage> =
                old.packages.iter().filter(|package| package.source == *source).cloned().collect();
            indexes.insert(source.clone(), index.pinned(&pinned));
        }
        Ok(indexes)
    }

    fn repository_of(&self, source: &str) -> Result<Repository, Error> {
        let apt = self.workspace.manifest.apt.iter().find(|apt| apt.name.value == *source);
        let apt = apt.ok_or_else(|| Problem::new(format!("there is no apt source \"{source}\"")))?;
        let machine = Machine::read()?;
        machine.repository(apt, &self.root, ARCHITECTURE).map_err(|error| self.at_source(apt, error))
    }

    /// What the workspace says wrongly of a source is shown where it says it.
    fn at_source(&self, apt: &AptSource, error: imgforge_packages::Error) -> Error {
        let about = match &error {
            imgforge_packages::Error::NoUri { suite, .. } => {
                apt.suites.iter().find(|known| known.value == *suite).map(|suite| suite.span)
            }
            imgforge_packages::Error::Keyring { .. } => apt.keyring.as_ref().map(|keyring| keyring.span),
            _ => None,
        };
        match about {
            Some(span) => {
                Problem::at(&self.workspace.manifest.file, span, error.to_string(), "asked for here").into()
            }
            None => error.into(),
        }
    }

    /// Where packages of these sources are fetched from.
    pub(crate) fn repositories<'p>(
        &self,
        packages: impl IntoIterator<Item = &'p LockedPackage>,
    ) -> Result<Vec<Repository>, Error> {
        let sources: BTreeSet<&str> = packages.into_iter().map(|package| package.source.as_str()).collect();
        sources.into_iter().map(|source| self.repository_of(source)).collect()
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
    let problem = Problem::at(&image.manifest.file, span, error.to_string(), "asked for here");
    match error {
        imgforge_packages::Error::Unsolvable { .. } => {
            problem.help("where a package of a parent is in the way: `imgforge update` locks all images anew")
        }
        _ => problem,
    }
}

fn make_lock(
    requests: &BTreeMap<ImageName, ImageRequest>,
    added: &BTreeMap<&ImageName, Vec<LockedPackage>>,
) -> Lock {
    let packages: BTreeSet<LockedPackage> = added.values().flatten().cloned().collect();
    let image = |(name, packages): (&&ImageName, &Vec<LockedPackage>)| {
        let request = &requests[*name];
        let mut entries: Vec<String> = packages.iter().map(entry).collect();
        entries.sort();
        let locked =
            LockedImage { source: request.source.clone(), request: request.hash.clone(), packages: entries };
        ((*name).clone(), locked)
    };
    Lock {
        request: request_sum(requests),
        packages: packages.into_iter().collect(),
        images: added.iter().map(image).collect(),
    }
}

/// What differs between two locks, by package name; security updates are marked.
pub fn changes(old: &Lock, new: &Lock) -> Vec<LockChange> {
    let by_name = |lock: &Lock| {
        let mut names: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for package in &lock.packages {
            names
                .entry(package.name.clone())
                .or_default()
                .insert(package.version.clone(), package.suite.clone());
        }
        names
    };
    let (before, after) = (by_name(old), by_name(new));
    let mut changes = Vec::new();
    for name in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let empty = BTreeMap::new();
        let (was, is) = (before.get(name).unwrap_or(&empty), after.get(name).unwrap_or(&empty));
        let mut gone: Vec<&String> = was.keys().filter(|version| !is.contains_key(*version)).collect();
        for (version, suite) in is.iter().filter(|(version, _)| !was.contains_key(*version)) {
            changes.push(match gone.pop() {
                Some(old) => LockChange::Moved {
                    name: name.clone(),
                    old: old.clone(),
                    new: version.clone(),
                    security: suite.ends_with("-security"),
                },
                None => LockChange::Added { name: name.clone(), version: version.clone() },
            });
        }
        let removed = |version: &String| LockChange::Removed { name: name.clone(), version: version.clone() };
        changes.extend(gone.into_iter().map(removed));
    }
    changes
}

fn request_sum(requests: &BTreeMap<ImageName, ImageRequest>) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("imgforge 2026 lock request");
    for (name, request) in requests {
        frame(&mut hasher, name.as_str());
        frame(&mut hasher, &request.hash);
    }
    hasher.finalize().to_hex().to_string()
}

fn request_hash(
    source: &AptSource,
    include: Option<RootInclude>,
    wanted: &BTreeSet<String>,
    parent: Option<&ImageRequest>,
) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("imgforge 2026 image request");
    for part in [&source.suites, &source.components] {
        frame(&mut hasher, &part.len().to_string());
        part.iter().for_each(|word| frame(&mut hasher, &word.value));
    }
    frame(&mut hasher, &source.name.value);
    frame(
        &mut hasher,
        match include {
            None => "",
            Some(RootInclude::Essential) => "essential",
            Some(RootInclude::Required) => "required",
            Some(RootInclude::Nothing) => "nothing",
        },
    );
    frame(&mut hasher, parent.map_or("", |parent| &parent.hash));
    wanted.iter().for_each(|word| frame(&mut hasher, word));
    hasher.finalize().to_hex()[..16].to_owned()
}

fn frame(hasher: &mut blake3::Hasher, field: &str) {
    hasher.update(&(field.len() as u64).to_le_bytes()).update(field.as_bytes());
}
