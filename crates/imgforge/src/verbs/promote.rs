//! `imgforge promote`: moves release tags in the registry.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use imgforge::core::promotion::{Move, Record};
use imgforge::{CancellationToken, Promotion, Promotions, PublishOptions};
use schemars::JsonSchema;
use serde::Serialize;

use crate::Global;
use crate::console::{DIM, GOOD, WARN, WORK, count, print, say};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::verbs::{Format, Selection, json, open, reporter};

/// Move release tags in the registry to the images that the workspace describes
///
/// The images must be in the registry and have passed their tests. Each is verified with all that it stands on, a
/// record is kept, and then tags move, parents first. It can be run again after whatever happened.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  imgforge promote --dry-run\n  imgforge promote group:web\n  imgforge promote --list"
)]
pub(crate) struct Promote {
    #[command(flatten)]
    selection: Selection,
    /// Only show which tag would move from which digest to which
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// List the promotions that there were, the newest first
    #[arg(long, conflicts_with = "dry_run")]
    list: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What `promote` and `rollback` print with `--format json`.
#[derive(Serialize, JsonSchema)]
pub(crate) struct PromoteOutput {
    /// The version of this form: 1.
    version: u32,
    /// The id of the record; null when nothing was moved.
    id: Option<String>,
    /// The record that tags went back to, for `rollback`.
    back_to: Option<String>,
    /// What was moved, or would be, parents first.
    moves: Vec<Move>,
    /// How many tags pointed to the right image already.
    kept: usize,
    /// Tags that were not there then, and stay as they are.
    newer: Vec<String>,
}

impl Promote {
    pub(crate) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        let session = open(global)?;
        if self.list {
            let Promotions { records, warnings } = session.promotions()?;
            for warning in &warnings {
                say(WARN, "Warning", warning);
            }
            match self.format {
                Format::Json => print(&json(&records)),
                Format::Text => {
                    print(&records.iter().rev().map(|(id, record)| row(id, record)).collect::<String>());
                }
            }
            return Ok(ExitCode::SUCCESS);
        }
        let selected = self.selection.of(&session)?;
        let cancel = CancellationToken::new();
        let interrupt = Interrupt::listen(cancel.clone());
        let options = PublishOptions { dry_run: self.dry_run, cancel };
        let mut reporter = interrupt.watch(reporter(global));
        let promotion = session.promote(&selected, &options, &mut *reporter)?;
        drop(reporter);
        tell(&promotion, self.dry_run, self.format, global.quiet);
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints the moves of a promotion that is not carried out, and says what came of one that is.
pub(super) fn tell(promotion: &Promotion, dry_run: bool, format: Format, quiet: bool) {
    match format {
        Format::Json => print(&json(&PromoteOutput {
            version: 1,
            id: promotion.id.clone(),
            back_to: promotion.back_to.clone(),
            moves: promotion.moves.clone(),
            kept: promotion.kept,
            newer: promotion.newer.iter().map(|(image, tag)| format!("{image}:{tag}")).collect(),
        })),
        Format::Text if dry_run => print(&moves(&promotion.moves)),
        Format::Text => {}
    }
    for (image, tag) in &promotion.newer {
        say(WARN, "Warning", format_args!("{image}:{tag} was not there then, and stays as it is"));
    }
    if quiet {
        return;
    }
    let (moved, kept) = (promotion.moves.len(), count(promotion.kept, "tag"));
    match (&promotion.id, &promotion.back_to) {
        _ if moved == 0 => say(DIM, "Promoted", format_args!("nothing: {kept} were right already")),
        (None, _) => say(WORK, "Promote", format_args!("{} (not done: --dry-run)", count(moved, "tag"))),
        (Some(id), None) => say(GOOD, "Promoted", format_args!("{}, record {id}", count(moved, "tag"))),
        (Some(_), Some(back_to)) => {
            say(GOOD, "Back", format_args!("{} as after {back_to}", count(moved, "tag")));
        }
    }
}

/// `webapp-base:latest  0a1b2c3d4e5f -> 5f4e3d2c1b0a`.
fn moves(moves: &[Move]) -> String {
    let name = |moved: &Move| format!("{}:{}", moved.image, moved.tag);
    let width = moves.iter().map(|moved| name(moved).len()).max().unwrap_or(0);
    let mut text = String::new();
    for moved in moves {
        let from = moved.from.as_deref().map_or("none", short);
        let _ = writeln!(text, "  {:width$}  {from:>12} -> {}", name(moved), short(&moved.to));
    }
    text
}

/// The first digits of a digest: as many as people compare.
fn short(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}

fn row(id: &str, record: &Record) -> String {
    let commit = record.commit.as_deref().and_then(|commit| commit.get(..12)).unwrap_or("no commit");
    let moved = count(record.moves.iter().filter(|moved| moved.is_change()).count(), "tag");
    let back = record.back_to.as_ref().map(|to| format!(", back to {to}")).unwrap_or_default();
    format!("{id}  {}  {commit:12}  {moved}{back}\n", record.time)
}
