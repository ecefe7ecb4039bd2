//! `imgforge update`: locks the newest packages, or only some of them.

use std::process::ExitCode;

use clap::Args;
use imgforge::{LockChange, Moves, Session};
use schemars::JsonSchema;
use serde::Serialize;

use crate::Global;
use crate::console::{GOOD, WORK, count, print, say, table};
use crate::failure::Failure;
use crate::verbs::outdated::rebuilds;
use crate::verbs::{Format, json, open, reporter};

/// Resolve packages anew and write imgforge.lock: all of them, or only some
///
/// Asks the repositories (their signatures are checked) for the newest versions that fit together, and prints what
/// differs from the lock that was there. With names, --security or --image only those move, and what they cannot do
/// without: every other line of the lock stays as it is. Builds read the lock and never ask.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  imgforge update\n  imgforge update openssl libssl3\n  imgforge update --security --dry-run\n  imgforge update --image webapp-base --format json"
)]
pub(crate) struct Update {
    /// Packages that are to move [default: all]
    #[arg(value_name = "PACKAGE")]
    packages: Vec<String>,
    /// Move packages of which a newer version lies in a security suite, to that version
    #[arg(long, conflicts_with_all = ["packages", "image"])]
    security: bool,
    /// Move what this image, and those that stand on it, add to their parents
    #[arg(long, value_name = "NAME", conflicts_with = "packages")]
    image: Vec<String>,
    /// Write nothing
    #[arg(long)]
    dry_run: bool,
    /// How to print what changed: text goes to stderr, json to stdout
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// `{"version":1,"changes":[{"package","old","new","security","images"}]}`
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
    /// Whether it moved to a version that comes from a security suite.
    security: bool,
    /// The images that have to be built again for it.
    images: Vec<String>,
}

impl Update {
    pub(crate) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        let session = open(global)?;
        let moves = self.moves(&session)?;
        let old = session.read_lock()?;
        let mut reporter = reporter(global);
        let new = session.update(&old, &moves, &mut *reporter)?;
        drop(reporter);
        if !self.dry_run {
            session.write_lock(&new)?;
        }
        let changes = session.changes(&old, &new);
        match self.format {
            Format::Json => {
                let changes = changes.into_iter().map(row).collect();
                print(&json(&UpdateOutput { version: 1, changes }));
            }
            Format::Text if !global.quiet => tell(&session, &changes, new.packages.len()),
            Format::Text => {}
        }
        Ok(ExitCode::SUCCESS)
    }

    fn moves(&self, session: &Session) -> Result<Moves, Failure> {
        if self.security {
            return Ok(Moves::Security);
        }
        if !self.image.is_empty() {
            let images = self.image.iter().map(|name| session.image(name)).collect::<Result<_, _>>()?;
            return Ok(Moves::Images(images));
        }
        Ok(match self.packages.as_slice() {
            [] => Moves::Everything,
            packages => Moves::Packages(packages.iter().cloned().collect()),
        })
    }
}

fn row(change: LockChange) -> Change {
    let LockChange { name, old, new, security, images } = change;
    let images = images.iter().map(ToString::to_string).collect();
    Change { package: name, old, new, security, images }
}

fn tell(session: &Session, changes: &[LockChange], total: usize) {
    let rows: Vec<Vec<String>> = changes
        .iter()
        .map(|change| {
            let versions = match (&change.old, &change.new) {
                (Some(old), Some(new)) => format!("{old} -> {new}"),
                (old, new) => old.as_ref().or(new.as_ref()).cloned().unwrap_or_default(),
            };
            let mark = if change.security { "security" } else { "" };
            vec![change.name.clone(), versions, mark.to_owned(), rebuilds(session, &change.images)]
        })
        .collect();
    for (change, line) in changes.iter().zip(table(&rows).lines()) {
        match (&change.old, &change.new) {
            (None, _) => say(GOOD, "Added", line),
            (_, None) => say(WORK, "Removed", line),
            _ => say(GOOD, "Moved", line),
        }
    }
    let total = count(total, "package");
    match changes.len() {
        0 => say(GOOD, "Locked", format!("{total}, nothing newer")),
        changed => say(GOOD, "Locked", format!("{total}, {changed} changed")),
    }
}
