//! Locked Debian packages: what a repository has, which of it is wanted, and how it comes into an image.
//!
//! ```text
//! Machine, AptSource   -> Repository          machine    where a source's suites are, and whose keys sign them
//! Repository           -> Index               index      InRelease verified, Packages hashed and parsed
//! Index + Request      -> [LockedPackage]     resolve    Debian's dependency rules, solved
//! [LockedPackage]      -> files in the cache  fetch      in parallel, resumed, SHA-256 checked
//! files in the cache   -> [SuppliedFile]      root, install   a root's tar, or packages and a script
//! dpkg's status        -> [Difference]        compare    what an image has against what was locked
//! ```
//!
//! Nothing unverified is ever parsed or unpacked.

mod cache;
mod compare;
mod control;
mod deb;
mod error;
mod fetch;
mod index;
mod install;
mod machine;
mod resolve;
mod root;
mod signature;

use std::time::Duration;

pub use self::cache::Cache;
pub use self::compare::{Difference, compare};
pub use self::error::Error;
pub use self::fetch::fetch;
pub use self::index::{Index, fetch_index};
pub use self::install::{script_fingerprint, stage_packages};
pub use self::machine::{Machine, Repository, SuiteLocation};
pub use self::resolve::{Request, ResolveError};
pub use self::root::stage_root;

/// How packages are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Keep documentation, manual pages and translations.
    pub keep_docs: bool,
}

/// Hears how a download goes on. Called from several threads, at most about ten times a second.
pub trait Progress: Sync {
    /// `done` of `total` bytes of `what` are there; `total` is 0 while it is not known.
    fn fetching(&self, what: &str, done: u64, total: u64);
    /// All of `what` is there: `bytes` in `files` were fetched, in `took`.
    fn fetched(&self, what: &str, bytes: u64, files: usize, took: Duration);
}

/// Hears nothing.
impl Progress for () {
    fn fetching(&self, _: &str, _: u64, _: u64) {}
    fn fetched(&self, _: &str, _: u64, _: usize, _: Duration) {}
}

/// Documentation in packages, as shell patterns of absolute paths; copyright files are kept whatever is asked for.
const DOCS: [&str; 6] = [
    "/usr/share/doc/",
    "/usr/share/man/",
    "/usr/share/info/",
    "/usr/share/locale/",
    "/usr/share/lintian/",
    "/usr/share/doc-base/",
];

/// Whether a path of a package (without the leading `/`) is left out when no documentation is wanted.
fn is_documentation(path: &str) -> bool {
    let is_kept = path.starts_with("usr/share/doc/") && path.ends_with("/copyright")
        || path == "usr/share/locale/locale.alias";
    !is_kept && DOCS.iter().any(|docs| path.starts_with(&docs[1..]) && path.len() >= docs.len())
}
