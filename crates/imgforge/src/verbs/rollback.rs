//! `imgforge rollback`: brings release tags back to an earlier promotion.

use std::process::ExitCode;

use clap::Args;
use imgforge::{CancellationToken, PublishOptions};

use crate::Global;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::verbs::{Format, Selection, open, promote, reporter};

/// Bring release tags in the registry back to where an earlier promotion left them
///
/// Without --to it is the promotion before the one whose tags stand now; said again, it goes further back. What a
/// rollback does is kept as a record too, so that it can be taken back. `imgforge promote --list` shows the records.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  imgforge rollback --dry-run\n  imgforge rollback group:web\n  imgforge rollback --to p-20261124T093000000Z-0a1b2c3d"
)]
pub(crate) struct Rollback {
    #[command(flatten)]
    selection: Selection,
    /// The record to go back to
    #[arg(long, value_name = "ID")]
    to: Option<String>,
    /// Only show which tag would move from which digest to which
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl Rollback {
    pub(crate) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        let session = open(global)?;
        let selected = self.selection.of(&session)?;
        let cancel = CancellationToken::new();
        let interrupt = Interrupt::listen(cancel.clone());
        let options = PublishOptions { dry_run: self.dry_run, cancel };
        let mut reporter = interrupt.watch(reporter(global));
        let promotion = session.rollback(&selected, self.to.as_deref(), &options, &mut *reporter)?;
        drop(reporter);
        promote::tell(&promotion, self.dry_run, self.format, global.quiet);
        Ok(ExitCode::SUCCESS)
    }
}
