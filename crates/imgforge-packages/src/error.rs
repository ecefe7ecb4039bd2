//! What can go wrong with packages, in words that say what to do.

use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::lock::LockedPackage;

/// Why packages cannot be found, chosen, fetched or staged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing says where a suite is.
    #[error(
        "no repository is known for the suite \"{suite}\" of apt \"{name}\": give `uri` in imgforge.kdl, \
         set IMGFORGE_APT_URI to a URI or to {suite}=URI, or add the suite to this machine's apt configuration"
    )]
    NoUri {
        /// The source's name in the workspace.
        name: String,
        /// The suite.
        suite: String,
    },
    /// A keyring is not there or cannot be read.
    #[error("the keyring {path} of the suite \"{suite}\" cannot be read: {reason}")]
    Keyring {
        /// The suite.
        suite: String,
        /// The file.
        path: Utf8PathBuf,
        /// Why.
        reason: String,
    },
    /// A server does not answer, or not as it should, after all tries.
    #[error("{url} cannot be fetched: {reason}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why, in a few words.
        reason: String,
    },
    /// What a server says about itself is not signed by a key of the keyring.
    #[error("the signature of {url} is not good: {reason}")]
    Signature {
        /// The `InRelease` file.
        url: String,
        /// Why, in a few words.
        reason: String,
    },
    /// Signed metadata that is not what was asked for, or cannot be understood.
    #[error("{url}: {reason}")]
    Metadata {
        /// The file.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// Signed metadata that is too old to be trusted.
    #[error(
        "{url} expired {age} ago (Valid-Until: {until}): the mirror is stale, or someone keeps updates from you"
    )]
    Expired {
        /// The `InRelease` file.
        url: String,
        /// How long ago, for people.
        age: String,
        /// The date as written.
        until: String,
    },
    /// A file is not the one that signed metadata or the lock names.
    #[error("{what} has the SHA-256 {found}, but {expected} was expected")]
    Hash {
        /// The file or address.
        what: String,
        /// As signed or locked.
        expected: String,
        /// As found.
        found: String,
    },
    /// A signed index that is older than one that was seen before.
    #[error(
        "{url} is of {date}, older than the one that the lock was made by ({seen}): the mirror is behind, or someone keeps updates \
         from you; try again later or another mirror, or take it with `imgforge update --accept-index-date`"
    )]
    Replayed {
        /// The file.
        url: String,
        /// Its date.
        date: String,
        /// The date in the lock.
        seen: String,
    },
    /// A signed index from the future.
    #[error(
        "{url} is of {date}, {ahead} in the future: see to this machine's clock, or, if that is right, take it with \
         `imgforge update --accept-index-date`"
    )]
    Future {
        /// The file.
        url: String,
        /// Its date.
        date: String,
        /// How far, in words.
        ahead: String,
    },
    /// A signed index without a date, where the one before had one.
    #[error(
        "{url} has no date, and the one that the lock was made by has ({seen}); if that is right, take it with \
         `imgforge update --accept-index-date`"
    )]
    Undated {
        /// The file.
        url: String,
        /// The date in the lock.
        seen: String,
    },
    /// A file has the right hash, but not the length that signed metadata or the lock says.
    #[error(
        "{what} has the right SHA-256, but not the {expected} bytes that its entry says: the entry is wrong"
    )]
    Size {
        /// The file or address.
        what: String,
        /// As signed or locked.
        expected: u64,
    },
    /// A name that no suite has.
    #[error("no package \"{name}\" in {suites}{}", nearest.as_ref().map_or_else(String::new, |n| format!("; did you mean \"{n}\"?")))]
    UnknownPackage {
        /// As asked for.
        name: String,
        /// The suites looked in.
        suites: String,
        /// The nearest name that there is.
        nearest: Option<String>,
    },
    /// A version that no suite has.
    #[error("no version {version} of \"{name}\"; there is {known}")]
    UnknownVersion {
        /// The package.
        name: String,
        /// As asked for.
        version: String,
        /// The versions that there are.
        known: String,
    },
    /// The packages cannot be installed together.
    #[error("{wanted} cannot be installed:\n{reason}")]
    Unsolvable {
        /// What was asked for.
        wanted: String,
        /// Why, in one or few lines.
        reason: String,
    },
    /// Packages that nobody serves any more.
    #[error("{}", vanished(packages, archive.as_deref()))]
    Vanished {
        /// All of them.
        packages: Vec<LockedPackage>,
        /// What went wrong with an archive of earlier states, which may have them.
        archive: Option<Box<Error>>,
    },
    /// A package file that cannot be read or does not fit the others.
    #[error("the package {package}: {reason}")]
    Package {
        /// Its name and version.
        package: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of the cache cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: Utf8PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Nothing can be asked for at all.
    #[error("no request can be made: {0}")]
    Network(String),
    /// There is no place for the cache.
    #[error("no folder for the cache is known: set IMGFORGE_CACHE, XDG_CACHE_HOME or HOME")]
    NoCache,
}

impl Error {
    pub(crate) fn io(path: &Utf8Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { path: path.to_owned(), error }
    }

    pub(crate) fn package(package: &LockedPackage, reason: impl ToString) -> Self {
        Self::Package { package: format!("{} {}", package.name, package.version), reason: reason.to_string() }
    }
}

fn vanished(packages: &[LockedPackage], archive: Option<&Error>) -> String {
    const SHOWN: usize = 5;
    let mut names: Vec<String> =
        packages.iter().take(SHOWN).map(|p| format!("{} {}", p.name, p.version)).collect();
    if packages.len() > SHOWN {
        names.push(format!("{} more", packages.len() - SHOWN));
    }
    let archive = archive.map_or_else(String::new, |error| format!("; from the snapshot archive: {error}"));
    format!(
        "no repository serves these locked packages any more: {}{archive}; mirrors delete superseded versions: \
         run `imgforge update`, or name an archive that has them with `snapshot` in the `apt` block; \
         `imgforge push --packages` keeps those that are there for the next time",
        names.join(", ")
    )
}
