//! Locked packages of Debian and of Alpine: repository metadata, signatures, resolver, cache, roots.
//!
//! The way through, each arrow one function:
//!
//! ```text
//! AptSource           -> Repository          Machine::repository   which server, which keys
//! Repository          -> Index               fetch_index           fetched, signature verified, parsed
//! Index + Request     -> Vec<LockedPackage>  Index::resolve        what an image adds to its parents
//! Index + Partial     -> Updated             Index::update         the same with a lock, of which only some moves
//! Vec<LockedPackage>  -> files in the Cache  fetch                 hash verified
//! files in the Cache  -> Vec<SuppliedFile>   stage_root, stage_packages
//! /var/lib/dpkg/status -> Vec<Difference>    compare               is the image what the lock says?
//! ```
//!
//! It is apart from the core since it reads the machine, the network and the clock. It blocks, and uses threads:
//! nothing here needs to wait for thousands of things at once. Only connections belong to a runtime, which somebody else has.

mod address;
pub mod apk;
mod cache;
mod compare;
mod control;
mod deb;
mod download;
mod error;
mod foreign;
mod http;
mod index;
mod machine;
mod progress;
mod relation;
mod release;
mod replay;
mod resolve;
mod root;

mod scripts;
mod signature;
mod stage;

pub use address::Login;
pub use cache::Cache;
pub use compare::{Difference, compare};
pub use download::{Fetched, fetch};
pub use error::Error;
pub use foreign::{database_paths, installed_packages, keep_database, kept_database, package_database};
pub use http::Network;
pub use index::{Index, IndexEntry, fetch_index};
pub use machine::{Machine, Repository, RepositorySuite};
pub use progress::{Progress, Silent};
pub use relation::{Alternative, Bound, Dependency, Scheme, compare_versions, parse_relations};
pub use replay::Seen;
pub use resolve::{Partial, Request, Updated};
pub use root::{is_configurable, stage_root};
pub use scripts::{Options, script_fingerprint};
pub use stage::stage_packages;
