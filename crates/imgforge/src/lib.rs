//! imgforge as a library: open a workspace, plan it, build it. The command is one caller of it, a monorepo's
//! xtask another.
//!
//! ```no_run
//! use imgforge::{BuildOptions, Session};
//!
//! # fn main() -> Result<(), imgforge::Error> {
//! let session = Session::open(".".into(), &imgforge::OpenOptions::default())?;
//! let selected = session.select(&["webapp-base+".into()], &[])?;
//! let mut reporter = imgforge::report::for_stderr(imgforge::report::Options::default());
//! let report = session.build(&selected, &BuildOptions::default(), &mut *reporter)?;
//! assert!(report.succeeded());
//! # Ok(())
//! # }
//! ```

mod archive;
mod build;
mod changes;
mod durations;
mod engines;
mod error;
mod export;
mod externals;
mod keep;
mod lock;
mod outdated;
mod prepare;
mod progress;
mod promote;
mod prune;
mod publish;
mod push;
mod registry;
mod resolve;
mod run;
mod session;
mod tags;
mod testing;
mod work;

pub use imgforge_core as core;
pub use imgforge_embedded as embedded;
pub use imgforge_engine as engine;
pub use imgforge_engine::CancellationToken;
pub use imgforge_report as report;

pub use crate::archive::ArchiveTarget;
pub use crate::build::{BuildOptions, BuildReport, TestMode, runtime};
pub use crate::changes::{ExternalChange, LockChange};
pub use crate::engines::{EngineChoice, connect};
pub use crate::error::Error;
pub use crate::export::Reference;
pub use crate::keep::Kept;
pub use crate::lock::FILE as LOCK_FILE;
pub use crate::outdated::{Outdated, OutdatedExternal, OutdatedPackage};
pub use crate::promote::{OldBase, Promotion};
pub use crate::prune::{PruneOptions, Pruned, PrunedImage, PrunedManifest};
pub use crate::publish::{PublishOptions, Published};
pub use crate::resolve::Moves;
pub use crate::session::{OpenOptions, Session};
pub use crate::work::TargetFailure;
