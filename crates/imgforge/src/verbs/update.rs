//! `imgforge update`: locks the newest packages, or only some of them.

use std::process::ExitCode;

use clap::Args;
use imgforge::core::lock::Lock;
use imgforge::{ExternalChange, IndexDates, LockChange, Moves, Session};
use schemars::JsonSchema;
use serde::Serialize;

use crate::Global;
use crate::console::{GOOD, WORK, print, say, table};
use crate::failure::Failure;
use crate::verbs::outdated::{locked, rebuilds, short};
use crate::verbs::{Format, json, open, reporter};

/// Lock packages and images from outside anew and write imgforge.lock: all of them, or only some
///
/// Asks the repositories (their signatures are checked) for the newest versions that fit together, and registries for
/// the digests of tags, and prints what differs from the lock that was there. With names, --security or --image only
/// those move, and what they cannot do without: every other line of the lock stays as it is. Builds read the lock and
/// never ask.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  imgforge update\n  imgforge update openssl libssl3\n  imgforge update alpine:3.22\n  imgforge update --security --dry-run\n  imgforge update --security openssl libssl3\n  imgforge update --image webapp-base --format json"
)]
pub(crate) struct Update {
    /// Packages, and images from outside with or without their tag, that are to move [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Move packages of which a newer version lies in a security suite, to that version; with names, only these
    #[arg(long, conflicts_with = "image")]
    security: bool,
    /// Move what this image, and those that stand on it, add to their parents
    #[arg(long, value_name = "IMAGE", conflicts_with = "names")]
    image: Vec<String>,
    /// Take signed indexes that are older than those that the lock was made by, or dated in the future
    #[arg(long)]
    accept_index_date: bool,
    /// Write nothing
    #[arg(long)]
    dry_run: bool,
    /// How to print what changed: text goes to stderr, json to stdout
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// `{"version":1,"changes":[{"package","old","new","security","images"}],"externals":[{"reference","old","new","platforms","images"}]}`
#[derive(Serialize, JsonSchema)]
pub(crate) struct UpdateOutput {
    version: u32,
    changes: Vec<Change>,
    /// Images from outside whose digests are other ones.
    externals: Vec<External>,
}

#[derive(Serialize, JsonSchema)]
struct External {
    reference: String,
    /// The digest locked before, or null.
    old: Option<String>,
    /// The digest locked now, or null.
    new: Option<String>,
    /// The platforms whose images are other ones.
    platforms: Vec<String>,
    /// The images that have to be built again for it.
    images: Vec<String>,
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
        let dates = if self.accept_index_date { IndexDates::Any } else { IndexDates::NotOlder };
        let new = session.update(&old, &moves, dates, &mut *reporter)?;
        drop(reporter);
        if !self.dry_run {
            session.write_lock(&new)?;
        }
        let changes = session.changes(&old, &new);
        let externals = session.external_changes(&old, &new);
        match self.format {
            Format::Json => {
                let changes = changes.into_iter().map(row).collect();
                let externals = externals.into_iter().map(external).collect();
                print(&json(&UpdateOutput { version: 1, changes, externals }));
            }
            Format::Text if !global.quiet => tell(&session, &changes, &externals, &new),
            Format::Text => {}
        }
        Ok(ExitCode::SUCCESS)
    }

    fn moves(&self, session: &Session) -> Result<Moves, Failure> {
        if self.security {
            return Ok(Moves::Security(self.names.iter().cloned().collect()));
        }
        if !self.image.is_empty() {
            let images = self.image.iter().map(|name| session.image(name)).collect::<Result<_, _>>()?;
            return Ok(Moves::Images(images));
        }
        Ok(match self.names.as_slice() {
            [] => Moves::Everything,
            names => Moves::Named(names.iter().cloned().collect()),
        })
    }
}

fn row(change: LockChange) -> Change {
    let LockChange { name, old, new, security, images } = change;
    let images = images.iter().map(ToString::to_string).collect();
    Change { package: name, old, new, security, images }
}

fn external(change: ExternalChange) -> External {
    let ExternalChange { reference, old, new, platforms, images } = change;
    let images = images.iter().map(ToString::to_string).collect();
    External {
        reference,
        old: old.map(String::from),
        new: new.map(String::from),
        platforms: platforms.into_iter().collect(),
        images,
    }
}

fn tell(session: &Session, changes: &[LockChange], externals: &[ExternalChange], new: &Lock) {
    let of_external = externals.iter().map(|change| {
        let (old, new) = (
            change.old.as_ref().map(|digest| short(digest.as_str())),
            change.new.as_ref().map(|digest| short(digest.as_str())),
        );
        let is_moved = change.old.is_some() && change.new.is_some();
        let is_elsewhere = is_moved && !change.platforms.contains(session.platform());
        let mark = if is_elsewhere { "other platforms" } else { "" };
        (change.reference.clone(), old, new, mark, &change.images)
    });
    let of_package = changes.iter().map(|change| {
        let mark = if change.security { "security" } else { "" };
        (change.name.clone(), change.old.clone(), change.new.clone(), mark, &change.images)
    });
    let (words, rows): (Vec<_>, Vec<_>) = of_external
        .chain(of_package)
        .map(|(name, old, new, mark, images)| {
            let (word, versions) = match (old, new) {
                (Some(old), Some(new)) => ((GOOD, "Moved"), format!("{old} -> {new}")),
                (None, new) => ((GOOD, "Added"), new.unwrap_or_default()),
                (Some(old), None) => ((WORK, "Removed"), old),
            };
            let images = if images.is_empty() { String::new() } else { rebuilds(session, images) };
            (word, vec![name, versions, mark.to_owned(), images])
        })
        .unzip();
    for ((style, word), line) in words.into_iter().zip(table(&rows).lines()) {
        say(style, word, line);
    }
    let total = locked(new);
    match rows.len() {
        0 => say(GOOD, "Locked", format!("{total}, nothing newer")),
        changed => say(GOOD, "Locked", format!("{total}, {changed} changed")),
    }
}
