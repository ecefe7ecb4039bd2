//! `imgforge render IMAGE`: the Dockerfile as the engine gets it.

use std::process::ExitCode;

use clap::Args;

use crate::console::print_file;
use crate::failure::Failure;
use crate::{Global, verbs};

/// Print an image's Dockerfile exactly as the engine gets it
///
/// Parents are named by their content tags, and comments name the manifest line that each part comes from.
#[derive(Args)]
#[command(after_help = "Example:\n  imgforge render guestbook | less")]
pub(crate) struct Render {
    /// The image
    image: String,
}

impl Render {
    pub(crate) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        let session = verbs::open(global)?;
        let image = session.image(&self.image)?;
        print_file(&session.dockerfile(&image)?);
        Ok(ExitCode::SUCCESS)
    }
}
