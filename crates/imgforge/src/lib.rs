//! imgforge as a library: open a workspace, plan it, build it. The command is one caller of it, a monorepo's
//! xtask another.
//!
//! ```no_run
//! use imgforge::{BuildOptions, Session};
//!
//! # fn main() -> Result<(), imgforge::Error> {
//! let session = Session::open(".".into(), &imgforge::OpenOptions::default())?;
//! let selected = session.select(&["webapp-base+".into()], &[])?;
//! let report = session.build(&selected, &BuildOptions::default(), &mut imgforge::Lines::stderr())?;
//! assert!(report.succeeded());
//! # Ok(())
//! # }
//! ```

mod build;
mod error;
mod lock;
mod prepare;
mod session;

pub use imgforge_core as core;

pub use crate::error::Error;
pub use crate::session::{OpenOptions, Session};
