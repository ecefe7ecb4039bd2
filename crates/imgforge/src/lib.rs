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
mod built;
mod engines;
mod error;
mod export;
mod git;
mod import;
mod lock;
mod prepare;
mod progress;
mod registry;
mod run;
mod session;
mod tags;
mod testing;

pub use imgforge_core as core;
pub use imgforge_embedded as embedded;
pub use imgforge_engine as engine;
pub use imgforge_engine::CancellationToken;
pub use imgforge_report as report;

pub use crate::archive::ArchiveTarget;
pub use crate::build::TargetFailure;
pub use crate::build::{BuildOptions, BuildReport, TestMode, runtime};
pub use crate::engines::{EngineChoice, connect};
pub use crate::error::Error;
pub use crate::export::Reference;
pub use crate::import::{Decision, Import, LeftOut, Taken, import};
pub use crate::lock::FILE as LOCK_FILE;
pub use crate::lock::{ExternalChange, LockChange};
pub use crate::lock::{IndexDates, Moves};
pub use crate::lock::{Outdated, OutdatedExternal, OutdatedPackage};
pub use crate::registry::Kept;
pub use crate::registry::{OldBase, Promotion, Promotions};
pub use crate::registry::{PruneOptions, Pruned, PrunedImage, PrunedManifest};
pub use crate::registry::{PublishOptions, Published};
pub use crate::session::{OpenOptions, Session};
