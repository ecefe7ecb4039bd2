//! What can go wrong with packages.

use camino::Utf8PathBuf;
use imgforge_core::lock::LockedPackage;

/// Why packages cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No one says where a suite is.
    #[error(
        "nothing says where the suite \"{suite}\" is: give the apt source \"{source_name}\" a `uri`, set IMGFORGE_APT_URI, \
         or have the suite in the machine's apt configuration"
    )]
    NoRepository {
        /// The apt source of the workspace.
        source_name: String,
        /// The suite.
        suite: String,
    },
    /// The keys are not there.
    #[error("the keyring {path} of the suite \"{suite}\" cannot be read: {message}")]
    Keyring {
        /// The file.
        path: Utf8PathBuf,
        /// The suite.
        suite: String,
        /// What the system says, or what is wrong with it.
        message: String,
    },
    /// A server cannot be reached or does not answer as it should, after several tries.
    #[error("{url}: {message}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What happened.
        message: String,
    },
    /// An InRelease that nobody of the keyring has signed.
    #[error("{url} is not signed by a key of {keyring}: {message}")]
    Signature {
        /// The file.
        url: String,
        /// The keyring.
        keyring: Utf8PathBuf,
        /// What was tried.
        message: String,
    },
    /// An InRelease that is signed but cannot be used.
    #[error("{url}: {message}")]
    Release {
        /// The file.
        url: String,
        /// What is wrong.
        message: String,
    },
    /// A file that is not what was signed or locked.
    #[error("{url} has the SHA-256 {found}, where {expected} was promised")]
    Hash {
        /// The file.
        url: String,
        /// What was promised.
        expected: String,
        /// What came.
        found: String,
    },
    /// Packages of the lock that no repository has any more.
    #[error("{}", vanished(.0))]
    Vanished(Vec<LockedPackage>),
    /// A package file that is not one.
    #[error("the package {package} cannot be unpacked: {message}")]
    Package {
        /// Its name and version.
        package: String,
        /// What is wrong.
        message: String,
    },
    /// The cache, or another file of this machine.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: Utf8PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
}

fn vanished(packages: &[LockedPackage]) -> String {
    let names: Vec<String> = packages.iter().take(8).map(|p| format!("{} {}", p.name, p.version)).collect();
    let more = packages.len().saturating_sub(names.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "nobody serves these locked packages any more: {}{more}. Run `imgforge update` to lock what is served now, or say \
         `lock vanished=\"relock\"` in the workspace to have builds do so",
        names.join(", ")
    )
}

/// For `map_err` on file operations.
pub(crate) fn io(path: impl Into<Utf8PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.into();
    move |error| Error::Io { path, error }
}
