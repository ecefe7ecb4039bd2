//! `imgforge update`: locks the newest packages.

use std::process::ExitCode;

use clap::Args;
use imgforge::{LockChange, changes};
use schemars::JsonSchema;
use serde::Serialize;

use crate::Global;
use crate::console::{GOOD, WORK, count, print, say};
use crate::failure::Failure;
use crate::verbs::{Format, json, open, reporter};

/// Resolve all packages anew and write imgforge.lock
///
/// Asks the repositories (their signatures are checked) for the newest versions that fit together, and prints what
/// differs from the lock that was there. Builds read the lock and never ask.
#[derive(Args)]
#[command(after_help = "Examples:\n  imgforge update\n  imgforge update --dry-run --format json")]
pub(crate) struct Update {
    /// Write nothing
    #[arg(long)]
    dry_run: bool,
    /// How to print what changed: text goes to stderr, json to stdout
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// `{"version":1,"changes":[{"package","old","new","security"}]}`
#[derive(Serialize, JsonSchema)]
pub(crate) struct UpdateOutput {
    version: u32,
    changes: Vec<Change>,
}

#[derive(Serialize, JsonSchema)]
struct Change {
    package: String,
    /// The version locked before, or null.
    old: Option<String>,
    /// The version locked now, or null.
    new: Option<String>,
    /// Whether the new version comes from a security suite.
    security: bool,
}

impl Update {
    pub(crate) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        let session = open(global)?;
        let old = session.read_lock()?;
        let mut reporter = reporter(global);
        let new = session.update(&mut *reporter)?;
        drop(reporter);
        if !self.dry_run {
            session.write_lock(&new)?;
        }
        let changes = changes(&old, &new);
        match self.format {
            Format::Json => {
                let changes = changes.into_iter().map(row).collect();
                print(&json(&UpdateOutput { version: 1, changes }));
            }
            Format::Text if !global.quiet => tell(&changes, new.packages.len()),
            Format::Text => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn row(change: LockChange) -> Change {
    match change {
        LockChange::Added { name, version } => {
            Change { package: name, old: None, new: Some(version), security: false }
        }
        LockChange::Removed { name, version } => {
            Change { package: name, old: Some(version), new: None, security: false }
        }
        LockChange::Moved { name, old, new, security } => {
            Change { package: name, old: Some(old), new: Some(new), security }
        }
    }
}

fn tell(changes: &[LockChange], total: usize) {
    for change in changes {
        match change {
            LockChange::Added { name, version } => say(GOOD, "Added", format!("{name} {version}")),
            LockChange::Removed { name, version } => say(WORK, "Removed", format!("{name} {version}")),
            LockChange::Moved { name, old, new, security } => {
                let mark = if *security { " (security)" } else { "" };
                say(GOOD, "Locked", format!("{name} {old} -> {new}{mark}"));
            }
        }
    }
    let total = count(total, "package");
    match changes.len() {
        0 => say(GOOD, "Locked", format!("{total}, nothing newer")),
        changed => say(GOOD, "Locked", format!("{total}, {changed} changed")),
    }
}
