//! What the manifests ask of package sources, and whether the lock answers it.

mod changes;
pub(crate) mod externals;
pub(crate) mod outdated;
pub(crate) mod places;
pub(crate) mod resolve;
mod usable;

use std::collections::{BTreeMap, BTreeSet};

use camino::Utf8Path;
use imgforge_core::diagnostic::Problem;
use imgforge_core::lock::{Lock, LockView, LockedPackage};
use imgforge_core::manifest::{ApkSource, AptSource, Base, RootInclude};
use imgforge_core::name::ImageName;
use imgforge_core::services;
use imgforge_core::source::Source;
use imgforge_core::workspace::{self, Image, read_file};
use imgforge_packages::{Machine, Repository, Scheme};
use imgforge_state::cache_file;

pub use self::changes::{ExternalChange, LockChange};
pub use self::outdated::{Outdated, OutdatedExternal, OutdatedPackage};
pub use self::resolve::{IndexDates, Moves};
use crate::{Error, Session};

/// The lock's name, beside `imgforge.kdl`.
pub const FILE: &str = workspace::LOCK_FILE;

/// The architecture whose packages are locked, as Debian and as Alpine call it.
pub(crate) const ARCHITECTURE: &str = "amd64";
const ALPINE_ARCHITECTURE: &str = "x86_64";

/// All packages that an image must end up with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Closure {
    pub(crate) scheme: Scheme,
    pub(crate) packages: Vec<LockedPackage>,
}

/// The packages that one image asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageRequest {
    /// The package source's name.
    pub(crate) source: String,
    /// The packages that a root starts with.
    pub(crate) include: Option<RootInclude>,
    /// `NAME` or `NAME=VERSION`, sorted.
    pub(crate) wanted: BTreeSet<String>,
    /// Over all of this, the source's own description and the parent's request: when it is another one, the image
    /// must be locked again.
    pub(crate) hash: String,
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
        if self.source.read(Utf8Path::new(FILE)).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(());
        }
        cache_file::replace(&path, text.as_bytes()).map_err(|error| Error::Io { path, error })
    }

    /// The packages that an image adds to its parents, by `lock`.
    pub fn packages_of<'l>(&self, lock: &'l Lock, name: &ImageName) -> Vec<&'l LockedPackage> {
        LockView::new(lock).added_by(name)
    }

    /// Returns whether the lock answers exactly what the manifests ask for; else what does not fit, in a few words.
    ///
    /// # Errors
    /// [`Error::StaleLock`].
    pub fn check_lock(&self, lock: &Lock) -> Result<(), Error> {
        self.check_externals(lock)?;
        check_packages(lock, &self.requests())
    }

    /// Returns what every image that brings packages asks for.
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
        let hash = request_hash(&self.description(&source)?, include, &wanted, parent);
        Some(ImageRequest { source, include, wanted, hash })
    }

    /// Returns what the workspace says of a source, as far as it decides what its packages are.
    fn description(&self, source: &str) -> Option<Description<'_>> {
        let manifest = &self.workspace.manifest;
        let of_apt = manifest.apt.iter().find(|apt| apt.name.value == source);
        let of_apt = of_apt.map(|apt| Description {
            name: &apt.name.value,
            suites: apt.suites.iter().map(|suite| suite.value.clone()).collect(),
            components: apt.components.iter().map(|component| component.value.clone()).collect(),
        });
        of_apt.or_else(|| {
            let apk = self.apk(source)?;
            let repository = Repository::of_apk(apk, &self.root, ALPINE_ARCHITECTURE);
            let suites = repository.suites.into_iter().map(|suite| suite.name).collect();
            Some(Description { name: &apk.name.value, suites, components: Vec::new() })
        })
    }

    /// The apk source of this name whose packages are locked.
    fn apk(&self, source: &str) -> Option<&ApkSource> {
        self.workspace.manifest.locked_apk(source)
    }

    /// Whose packages a source has.
    pub(crate) fn scheme(&self, source: &str) -> Scheme {
        if self.apk(source).is_some() { Scheme::Alpine } else { Scheme::Debian }
    }

    /// All packages that an image must end up with, by a lock: none when it and its parents add none.
    pub(crate) fn closure(&self, name: &ImageName, view: &LockView<'_>) -> Closure {
        let chain = self.graph.chain(name);
        let added: Vec<&LockedPackage> = chain.into_iter().flat_map(|name| view.added_by(name)).collect();
        let Some(first) = added.first() else { return Closure::default() };
        let below = self.foreign(name, view.externals()).map(|package| package.installed(""));
        let scheme = self.scheme(&first.source);
        Closure { scheme, packages: below.chain(added.into_iter().cloned()).collect() }
    }

    pub(crate) fn repository_of(&self, source: &str) -> Result<Repository, Error> {
        if let Some(apk) = self.apk(source) {
            return Ok(Repository::of_apk(apk, &self.root, ALPINE_ARCHITECTURE));
        }
        let apt = self.workspace.manifest.apt.iter().find(|apt| apt.name.value == *source);
        let apt = apt.ok_or_else(|| Problem::new(format!("there is no apt source \"{source}\"")))?;
        let machine = Machine::read()?;
        machine.repository(apt, &self.root, ARCHITECTURE).map_err(|error| self.at_source(apt, error))
    }

    /// Shows an error in what the workspace says of a source where it says it.
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

    /// A folder of keys that is none is shown where the workspace names it.
    pub(crate) fn at_keys(&self, source: &str, error: imgforge_packages::Error) -> Error {
        let keys = self.apk(source).and_then(|apk| apk.keys.as_ref());
        match (keys, &error) {
            (Some(keys), imgforge_packages::Error::Keyring { path, reason, .. }) => {
                let message = format!("the keys {path} cannot be read: {reason}");
                let problem = Problem::at(&self.workspace.manifest.file, keys.span, message, "given here");
                problem.help("copy /etc/apk/keys of an image of Alpine that you trust").into()
            }
            _ => error.into(),
        }
    }

    /// Returns the repositories that packages of these sources are fetched from.
    pub(crate) fn repositories<'p>(
        &self,
        packages: impl IntoIterator<Item = &'p LockedPackage>,
    ) -> Result<Vec<Repository>, Error> {
        let sources: BTreeSet<&str> = packages.into_iter().map(|package| package.source.as_str()).collect();
        sources.into_iter().map(|source| self.repository_of(source)).collect()
    }
}

/// Returns whether a lock's packages answer exactly these requests.
pub(crate) fn check_packages(lock: &Lock, requests: &BTreeMap<ImageName, ImageRequest>) -> Result<(), Error> {
    if requests.is_empty() && *lock == Lock::default() {
        // A workspace without packages needs no lock.
        return Ok(());
    }
    for (name, request) in requests {
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
    if lock.request == request_sum(requests) {
        Ok(())
    } else {
        Err(Error::StaleLock("its checksum of what was asked for is another one".into()))
    }
}

pub(crate) fn request_sum(requests: &BTreeMap<ImageName, ImageRequest>) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("imgforge 2026 lock request");
    for (name, request) in requests {
        frame(&mut hasher, name.as_str());
        frame(&mut hasher, &request.hash);
    }
    hasher.finalize().to_hex().to_string()
}

/// A package source, as far as it decides what its packages are.
struct Description<'s> {
    name: &'s str,
    suites: Vec<String>,
    components: Vec<String>,
}

fn request_hash(
    source: &Description<'_>,
    include: Option<RootInclude>,
    wanted: &BTreeSet<String>,
    parent: Option<&ImageRequest>,
) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("imgforge 2026 image request");
    for part in [&source.suites, &source.components] {
        frame(&mut hasher, &part.len().to_string());
        part.iter().for_each(|word| frame(&mut hasher, word));
    }
    frame(&mut hasher, source.name);
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
