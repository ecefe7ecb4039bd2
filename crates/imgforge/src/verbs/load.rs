//! `imgforge load`: images of the embedded engine into Docker.

use std::process::ExitCode;

use clap::Args;

use crate::Global;
use crate::console::{GOOD, count, say};
use crate::failure::Failure;
use crate::verbs::{Selection, open};

/// Load images that the embedded engine has built into the Docker daemon
///
/// They have the names there that they have here: release tags and content tags.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  imgforge build --engine embedded && imgforge load\n  imgforge load guestbook"
)]
pub(crate) struct Load {
    #[command(flatten)]
    selection: Selection,
}

impl Load {
    pub(crate) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        let session = open(global)?;
        let loaded = session.load(&self.selection.of(&session)?)?;
        if !global.quiet {
            say(GOOD, "Loaded", format_args!("{} into Docker", count(loaded, "image")));
        }
        Ok(ExitCode::SUCCESS)
    }
}
