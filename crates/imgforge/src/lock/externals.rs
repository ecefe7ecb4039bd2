//! Images from outside the workspace: which there are, and the digests that the lock gives them.
//!
//! A reference without a digest (`alpine:3.22`) is locked to what its tag points to. Registries are asked in
//! parallel, one small request for each reference; more is fetched only of what has moved.

use std::collections::{BTreeMap, BTreeSet};

use camino::Utf8PathBuf;
use futures_util::StreamExt;
use imgforge_core::diagnostic::{Problem, Problems};
use imgforge_core::lock::{ForeignPackage, Lock, LockedExternal};
use imgforge_core::name::ImageName;
use imgforge_core::workspace::External;
use imgforge_oci::reference::Parts;
use imgforge_oci::{Descriptor, Digest, Manifest, Reference};
use imgforge_packages::{Cache, Scheme};

use crate::lock::ARCHITECTURE;
use crate::lock::places::Place;
use crate::lock::resolve::Moves;
use crate::{Error, Session};

/// The number of references that are asked for at once.
const AT_ONCE: usize = 16;

/// A reference and the images that use it.
pub(crate) struct Outside<'s> {
    /// One of its places.
    external: &'s External,
    pub(crate) images: BTreeSet<&'s ImageName>,
    /// Whose packages are put on top of it, so that those that it has must be known.
    packages_above: Option<Scheme>,
}

impl Outside<'_> {
    fn problem(&self, message: impl Into<String>, label: &str) -> Problem {
        Problem::at(&self.external.file, self.external.span, message, label)
    }
}

/// Why a reference has no digest.
enum Stop {
    Wrong(Box<Problem>),
    Failed(Error),
}

impl Stop {
    fn wrong(problem: Problem) -> Self {
        Self::Wrong(Box::new(problem))
    }
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// The digest that a tag points to now.
pub(crate) struct Now {
    /// None when there is no such tag any more.
    pub(crate) digest: Option<Digest>,
    /// Whether the locked digest can still be had.
    pub(crate) served: bool,
}

impl Session {
    /// The references that the lock must know, with those that use them.
    pub(crate) fn outside(&self) -> BTreeMap<&str, Outside<'_>> {
        let mut found: BTreeMap<&str, Outside<'_>> = BTreeMap::new();
        let mut bases: BTreeMap<&str, Scheme> = BTreeMap::new();
        for (name, image) in &self.workspace.images {
            if let Some(asked) = image.manifest.packages.first() {
                bases.extend(self.outside_base(name).map(|base| (base, self.scheme(&asked.source.value))));
            }
            for external in &image.externals {
                let outside = found.entry(&external.reference).or_insert_with(|| Outside {
                    external,
                    images: BTreeSet::new(),
                    packages_above: None,
                });
                outside.images.insert(name);
            }
        }
        for (reference, outside) in &mut found {
            outside.packages_above = bases.get(reference).copied();
        }
        found.retain(|_, outside| outside.packages_above.is_some() || outside.external.pinned().is_none());
        found
    }

    /// The reference that an image's chain begins with, when that is an image from outside.
    pub(crate) fn outside_base(&self, name: &ImageName) -> Option<&str> {
        let bottom = *self.graph.chain(name).first()?;
        self.workspace.images[bottom].outside_base.as_deref()
    }

    /// The packages that an image has from the image outside that it stands on, by these locked externals.
    pub(crate) fn foreign<'l>(
        &self,
        name: &ImageName,
        externals: &'l BTreeMap<String, LockedExternal>,
    ) -> impl Iterator<Item = &'l ForeignPackage> {
        let external = self.outside_base(name).and_then(|reference| externals.get(reference));
        external.into_iter().flat_map(|external| &external.packages)
    }

    /// Checks that the lock and the references of the manifests fit together.
    pub(crate) fn check_externals(&self, lock: &Lock) -> Result<(), Error> {
        let outside = self.outside();
        let stale = |message: String| Err(Error::StaleLock(message));
        for (reference, used) in &outside {
            match lock.externals.get(*reference) {
                None => return stale(format!("it has no digest of {reference}")),
                Some(locked) if used.packages_above.is_some() && locked.packages.is_empty() => {
                    return stale(format!("it does not say which packages {reference} has"));
                }
                Some(_) => {}
            }
        }
        match lock.externals.keys().find(|reference| !outside.contains_key(reference.as_str())) {
            Some(extra) => stale(format!("it has a digest of {extra}, which no image needs")),
            None => Ok(()),
        }
    }

    /// The externals of a new lock: what `moves` says is asked for again, and what the old lock lacks is asked for.
    ///
    /// # Errors
    /// Registries that cannot be reached, and [`Error::Problems`] for what is not there.
    pub(crate) fn lock_externals(
        &self,
        old: &Lock,
        moves: &Moves,
    ) -> Result<BTreeMap<String, LockedExternal>, Error> {
        let (mut externals, mut to_ask) = (BTreeMap::new(), Vec::new());
        for (reference, used) in self.outside() {
            let locked = old.externals.get(reference);
            let is_whole =
                |locked: &&LockedExternal| used.packages_above.is_none() || !locked.packages.is_empty();
            let stays = !self.moves_external(reference, &used, moves);
            match locked.filter(is_whole).filter(|_| stays) {
                Some(locked) => {
                    let mut locked = locked.clone();
                    if used.packages_above.is_none() {
                        locked.packages.clear();
                    }
                    externals.insert(reference.to_owned(), locked);
                }
                None => to_ask.push((reference, used, locked, stays)),
            }
        }
        if to_ask.is_empty() {
            return Ok(externals);
        }
        let places = self.places(to_ask.iter().map(|(reference, ..)| *reference))?;
        let asked = to_ask.iter().map(|(reference, used, locked, stays)| {
            let place = places.get(*reference);
            async move { (*reference, self.lock_external(reference, used, *locked, *stays, place).await) }
        });
        let answers: Vec<_> =
            self.runtime()?.block_on(futures_util::stream::iter(asked).buffer_unordered(AT_ONCE).collect());
        let mut problems = Problems::default();
        for (reference, answer) in answers {
            match answer {
                Ok(locked) => drop(externals.insert(reference.to_owned(), locked)),
                Err(Stop::Wrong(problem)) => problems.push(*problem),
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
        if problems.has_errors() { Err(Error::Problems(problems)) } else { Ok(externals) }
    }

    fn moves_external(&self, reference: &str, used: &Outside<'_>, moves: &Moves) -> bool {
        match moves {
            Moves::Everything => true,
            Moves::Nothing | Moves::Security(_) => false,
            Moves::Named(names) => names.iter().any(|name| names_external(name, reference)),
            Moves::Images(images) => used
                .images
                .iter()
                .any(|name| self.graph.chain(name).iter().any(|below| images.contains(*below))),
        }
    }

    /// With `stays`, the digest is what it was, and only what else the lock has to know is asked for.
    async fn lock_external(
        &self,
        reference: &str,
        used: &Outside<'_>,
        locked: Option<&LockedExternal>,
        stays: bool,
        place: Option<&Place>,
    ) -> Result<LockedExternal, Stop> {
        let wrong = |error: String| Stop::wrong(used.problem(error, "not a reference"));
        let image: Reference =
            reference.parse().map_err(|error: imgforge_oci::ReferenceError| wrong(error.to_string()))?;
        let place = place.expect("each reference that can be read has a place");
        let digest = match locked.filter(|_| stays) {
            Some(locked) => locked.digest.clone(),
            None => match &image.digest {
                Some(digest) => digest.clone(),
                None => self.in_layout(place, place.newest().await)?.ok_or_else(|| {
                    Stop::wrong(used.problem(format!("{place} has no {reference}"), "not there").help(
                        "is it written rightly, and has nobody removed it? a tag that is there is needed",
                    ))
                })?,
            },
        };
        if let Some(locked) = locked.filter(|locked| locked.digest == digest)
            && !(used.packages_above.is_some() && locked.packages.is_empty())
        {
            return Ok(locked.clone());
        }
        let whole = self.manifest(place, &digest, used).await?;
        let platform = self.platform();
        let mut platforms = whole.entries().map(platforms_of).unwrap_or_default();
        let own = if let Some(entries) = whole.entries() {
            let wanted = entries.iter().find(|listed| listed.is_for(platform));
            let digest = wanted.map(|listed| listed.digest.clone()).ok_or_else(|| {
                let there: Vec<String> = platforms.keys().cloned().collect();
                let message = format!("{reference} is not there for {platform}");
                Stop::wrong(
                    used.problem(message, "not for this platform")
                        .help(format!("it is there for {}", there.join(", "))),
                )
            })?;
            self.manifest(place, &digest, used).await?
        } else {
            whole
        };
        platforms.insert(platform.to_owned(), own.digest().clone());
        let mut external = LockedExternal { platforms, ..LockedExternal::new(digest) };
        if let Some(scheme) = used.packages_above {
            let database = database_of(place, &own).await?;
            external.packages = imgforge_packages::installed_packages(scheme, &database, ARCHITECTURE);
            let (installer, help) = match scheme {
                Scheme::Debian => (
                    "dpkg",
                    "packages are installed with dpkg: stand on an image of Debian or Ubuntu, or on a root",
                ),
                Scheme::Alpine => {
                    ("apk-tools", "packages are installed with apk: stand on an image of Alpine")
                }
            };
            if !external.packages.iter().any(|package| package.name == installer) {
                let message = format!("{reference} has no {installer}");
                let problem = used.problem(message, "packages are put on top of it");
                return Err(Stop::wrong(problem.help(help)));
            }
        }
        Ok(external)
    }

    async fn manifest(&self, place: &Place, digest: &Digest, used: &Outside<'_>) -> Result<Manifest, Stop> {
        self.in_layout(place, place.manifest(digest).await)?.ok_or_else(|| {
            let wanted = Parts { digest: Some(digest.as_str()), ..Parts::of(&used.external.reference) };
            let message = format!("{place} does not have {wanted} any more");
            let problem = used.problem(message, "used here");
            Stop::wrong(problem.help(gone_help(&used.external.reference)))
        })
    }

    /// Shows an error of a layout at the line that names it.
    fn in_layout<T>(&self, place: &Place, found: Result<T, imgforge_registry::Error>) -> Result<T, Stop> {
        found.map_err(|error| match place {
            Place::Layout(place) => Stop::wrong(self.layout_problem(place.span, &error)),
            Place::Registry { .. } => Stop::Failed(error.into()),
        })
    }

    /// Sees to it that the databases of these externals' Alpine images are in the cache: nobody else knows what files
    /// the base's packages provide. (Debian's packages name each other, and their index does.)
    ///
    /// # Errors
    /// Registries that cannot be reached, or do not have the image any more.
    pub(crate) fn fetch_databases(&self, externals: &BTreeMap<String, LockedExternal>) -> Result<(), Error> {
        let cache = Cache::user()?;
        let is_alpine = |locked: &LockedExternal| locked.packages.iter().any(|p| p.name == "apk-tools");
        let missing: Vec<(&str, &Digest)> = externals
            .iter()
            .filter(|(_, locked)| is_alpine(locked))
            .map(|(reference, locked)| (reference.as_str(), locked.digest_for(self.platform())))
            .filter(|(_, digest)| imgforge_packages::kept_database(digest, &cache).is_none())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let places = self.places(missing.iter().map(|(reference, _)| *reference))?;
        let outside = self.outside();
        self.runtime()?.block_on(async {
            for (reference, digest) in missing {
                let (Some(place), Some(used)) = (places.get(reference), outside.get(reference)) else {
                    continue;
                };
                match self.manifest(place, digest, used).await {
                    Ok(manifest) => drop(database_of(place, &manifest).await?),
                    Err(Stop::Wrong(problem)) => return Err((*problem).into()),
                    Err(Stop::Failed(error)) => return Err(error),
                }
            }
            Ok(())
        })
    }

    /// Asks what the tags of all externals point to now.
    pub(crate) fn ask_externals<'l>(
        &self,
        lock: &'l Lock,
    ) -> Result<Vec<(&'l str, &'l LockedExternal, Now)>, Error> {
        let tags = lock.externals.iter().filter(|(reference, _)| Parts::of(reference).digest.is_none());
        let tags: Vec<(&str, &LockedExternal)> = tags.map(|(name, locked)| (name.as_str(), locked)).collect();
        if tags.is_empty() {
            return Ok(Vec::new());
        }
        let places = self.places(tags.iter().map(|(reference, _)| *reference))?;
        let asked = tags.into_iter().map(|(reference, locked)| {
            let place = places.get(reference);
            async move {
                let Some(place) = place else {
                    reference.parse::<Reference>()?;
                    return Ok((reference, locked, Now { digest: None, served: false }));
                };
                let told = |error| match place {
                    Place::Layout(place) => Error::from(self.layout_problem(place.span, &error)),
                    Place::Registry { .. } => error.into(),
                };
                let digest = place.newest().await.map_err(told)?;
                let mut now = Now { digest, served: true };
                if now.digest.as_ref() != Some(&locked.digest) {
                    now.served = place.holds(&locked.digest).await.map_err(told)?;
                }
                Ok::<_, Error>((reference, locked, now))
            }
        });
        let answers: Vec<Result<_, Error>> =
            self.runtime()?.block_on(futures_util::stream::iter(asked).buffered(AT_ONCE).collect());
        answers.into_iter().collect()
    }
}

/// Returns whether a word of the command line means a reference: as it is written, or without its tag.
pub(crate) fn names_external(word: &str, reference: &str) -> bool {
    word == reference || word == Parts::of(reference).name
}

/// Returns the advice for a locked digest that nobody has any more.
pub(crate) fn gone_help(reference: &str) -> String {
    if Parts::of(reference).digest.is_some() {
        return "write the digest of an image that is there, or a tag, which imgforge.lock then has a digest of"
            .into();
    }
    format!("`imgforge update {reference}` locks what the tag points to now")
}

/// The digest of each platform's image, of several for one platform the first: engines take that. What BuildKit
/// attaches to images has the platform `unknown/unknown` and is none.
fn platforms_of(entries: &[Descriptor]) -> BTreeMap<String, Digest> {
    let mut platforms = BTreeMap::new();
    for listed in entries {
        if let Some(platform) = listed.platform.as_ref().filter(|_| !listed.is_attached()) {
            platforms.entry(platform.to_string()).or_insert_with(|| listed.digest.clone());
        }
    }
    platforms
}

/// The package database of an image: the one that was kept, or that of its layers, which are not kept.
async fn database_of(place: &Place, image: &Manifest) -> Result<String, Error> {
    let cache = Cache::user()?;
    if let Some(database) = imgforge_packages::kept_database(image.digest(), &cache) {
        return Ok(database);
    }
    let folder = tempfile::tempdir()
        .map_err(|error| Error::Io { path: std::env::temp_dir().to_string_lossy().as_ref().into(), error })?;
    let root = Utf8PathBuf::from_path_buf(folder.path().to_owned()).map_err(|path| Error::Io {
        path: path.to_string_lossy().as_ref().into(),
        error: std::io::ErrorKind::InvalidFilename.into(),
    })?;
    let mut layers = Vec::new();
    for (number, layer) in image.layers().iter().enumerate() {
        layers.push(place.layer(layer, &root.join(number.to_string())).await?);
    }
    let database = tokio::task::block_in_place(|| imgforge_packages::package_database(&layers))?;
    imgforge_packages::keep_database(image.digest(), &database, &cache)?;
    Ok(database)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_external_is_named_with_or_without_its_tag() {
        for (word, reference, expected) in [
            ("alpine", "alpine:3.22", true),
            ("alpine:3.22", "alpine:3.22", true),
            ("alpine:3.21", "alpine:3.22", false),
            ("127.0.0.1:5000/a", "127.0.0.1:5000/a:1", true),
            ("127.0.0.1:5000/a", "127.0.0.1:5000/a", true),
            ("127.0.0.1", "127.0.0.1:5000/a", false),
        ] {
            assert_eq!(names_external(word, reference), expected, "{word} {reference}");
        }
    }
}
