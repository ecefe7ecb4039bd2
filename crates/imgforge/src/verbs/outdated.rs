//! `imgforge outdated`: the lock against the repositories of now.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use imgforge::core::lock::Lock;
use imgforge::core::name::ImageName;
use imgforge::{OldBase, Outdated, OutdatedExternal, OutdatedPackage, Session};
use schemars::JsonSchema;
use serde::Serialize;

use crate::Global;
use crate::console::{GOOD, WORK, count, print, say, table};
use crate::failure::Failure;
use crate::verbs::{Format, json, open, reporter};

/// Show which locked packages and outside images have newer versions, and which images these would rebuild
///
/// Asks repositories and registries as `update` does (signatures are checked), and writes nothing. Updates from
/// security suites come first. Ends with 10 when there is something to do and with 0 when there is not.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  imgforge outdated\n  imgforge outdated --format json\n  imgforge outdated || imgforge update --security\n  imgforge outdated --registry"
)]
pub(crate) struct OutdatedVerb {
    /// Ask only the registry: which release tags lead to images on a parent that is not the newest
    #[arg(long)]
    registry: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// `{"version":1,"packages":[...],"externals":[...],"problems":[...],"images":8}`
#[derive(Serialize, JsonSchema)]
pub(crate) struct OutdatedOutput {
    version: u32,
    /// Security updates first, then by name.
    packages: Vec<PackageRow>,
    /// Images from outside whose tags point to something else than what is locked.
    externals: Vec<ExternalRow>,
    /// With `--registry`: release tags that lead to images on an old parent.
    bases: Vec<BaseRow>,
    /// What keeps `update` from locking everything anew.
    problems: Vec<String>,
    /// How many images the workspace has.
    images: usize,
}

#[derive(Serialize, JsonSchema)]
struct PackageRow {
    package: String,
    /// The apt source.
    source: String,
    /// The version that is locked.
    locked: String,
    /// The version that `update` would lock, or one that it cannot take; null when there is none.
    newest: Option<String>,
    /// The suite of the newest version.
    suite: Option<String>,
    /// Whether a newer version lies in a security suite.
    security: bool,
    /// Whether the newest version can be taken beside what else the manifests ask for.
    fits: bool,
    /// Whether the locked version can still be had from a repository.
    served: bool,
    /// The images that an update would rebuild.
    images: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct ExternalRow {
    /// As written in the manifest or the Dockerfile.
    reference: String,
    /// The digest that is locked.
    locked: String,
    /// The digest that the tag points to; null when there is no such tag any more.
    newest: Option<String>,
    /// Whether the locked digest can still be had from the registry.
    served: bool,
    /// The images that an update would rebuild.
    images: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct BaseRow {
    image: String,
    tag: String,
    /// The parent.
    base: String,
    /// The digest of the parent that it was built on.
    digest: String,
    /// The digest that the parent's release tag leads to now.
    newest: String,
}

impl OutdatedVerb {
    pub(crate) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        let session = open(global)?;
        if self.registry {
            return self.in_registry(&session, global.quiet);
        }
        let lock = session.read_lock()?;
        let mut reporter = reporter(global);
        let outdated = session.outdated(&lock, &mut *reporter)?;
        drop(reporter);
        match self.format {
            Format::Json => print(&json(&output(&session, &outdated))),
            Format::Text => print(&text(&session, &outdated)),
        }
        if self.format == Format::Text && !global.quiet {
            if outdated.is_empty() {
                say(GOOD, "Newest", format_args!("{}, as locked", locked(&lock)));
            }
            for problem in &outdated.problems {
                say(WORK, "Note", format_args!("`imgforge update` cannot lock everything: {problem}"));
            }
        }
        Ok(ExitCode::from(if outdated.is_empty() { 0 } else { 10 }))
    }
}

impl OutdatedVerb {
    fn in_registry(&self, session: &Session, quiet: bool) -> Result<ExitCode, Failure> {
        let bases = session.outdated_in_registry()?;
        match self.format {
            Format::Json => {
                let row = |base: &OldBase| BaseRow {
                    image: base.image.to_string(),
                    tag: base.tag.to_string(),
                    base: base.base.to_string(),
                    digest: base.digest.clone(),
                    newest: base.newest.clone(),
                };
                let none = Outdated::default();
                let bases = bases.iter().map(row).collect();
                print(&json(&OutdatedOutput { bases, ..output(session, &none) }));
            }
            Format::Text if !bases.is_empty() => {
                let head = ["image", "stands on", "digest", "newest"].map(str::to_owned).to_vec();
                let row = |base: &OldBase| {
                    let image = format!("{}:{}", base.image, base.tag);
                    vec![image, base.base.to_string(), short(&base.digest), short(&base.newest)]
                };
                print(&table(&[vec![head], bases.iter().map(row).collect()].concat()));
            }
            Format::Text if !quiet => {
                say(GOOD, "Newest", "every image in the registry stands on the newest parent");
            }
            Format::Text => {}
        }
        Ok(ExitCode::from(if bases.is_empty() { 0 } else { 10 }))
    }
}

fn output(session: &Session, outdated: &Outdated) -> OutdatedOutput {
    let row = |row: &OutdatedPackage| PackageRow {
        package: row.name.clone(),
        source: row.source.clone(),
        locked: row.locked.clone(),
        newest: row.newest.clone(),
        suite: row.suite.clone(),
        security: row.security,
        fits: row.fits,
        served: row.served,
        images: row.images.iter().map(ToString::to_string).collect(),
    };
    let external = |row: &OutdatedExternal| ExternalRow {
        reference: row.reference.clone(),
        locked: row.locked.to_string(),
        newest: row.newest.as_ref().map(ToString::to_string),
        served: row.served,
        images: row.images.iter().map(ToString::to_string).collect(),
    };
    OutdatedOutput {
        version: 1,
        packages: outdated.packages.iter().map(row).collect(),
        externals: outdated.externals.iter().map(external).collect(),
        bases: Vec::new(),
        problems: outdated.problems.iter().map(ToString::to_string).collect(),
        images: session.workspace().images.len(),
    }
}

fn text(session: &Session, outdated: &Outdated) -> String {
    if outdated.packages.is_empty() && outdated.externals.is_empty() {
        return String::new();
    }
    let mut rows = vec![["package", "locked", "newest", "where", "rebuilds"].map(str::to_owned).to_vec()];
    rows.extend(outdated.packages.iter().map(|row| {
        let place = match (&row.newest, row.security, &row.suite) {
            (None, ..) => "in no suite".to_owned(),
            (_, true, _) => "security".to_owned(),
            (_, false, suite) => suite.clone().unwrap_or_default(),
        };
        let place = if row.fits { place } else { format!("{place}, does not fit") };
        let newest = row.newest.clone().unwrap_or_else(|| "-".to_owned());
        vec![row.name.clone(), row.locked.clone(), newest, place, rebuilds(session, &row.images)]
    }));
    rows.extend(outdated.externals.iter().map(|row| {
        let place = match (&row.newest, row.served) {
            (None, true) => "the tag is gone",
            (None, false) => "the tag and the locked digest are gone",
            (Some(_), true) => "registry",
            (Some(_), false) => "registry; the locked digest is gone",
        };
        let newest = row.newest.as_ref().map_or_else(|| "-".to_owned(), |digest| short(digest.as_str()));
        let (locked, rebuilds) = (short(row.locked.as_str()), rebuilds(session, &row.images));
        vec![row.reference.clone(), locked, newest, place.to_owned(), rebuilds]
    }));
    table(&rows)
}

/// `166 packages and 1 image from outside`.
pub(crate) fn locked(lock: &Lock) -> String {
    let packages = count(lock.packages.len(), "package");
    match lock.externals.len() {
        0 => packages,
        externals => format!("{packages} and {} from outside", count(externals, "image")),
    }
}

/// A digest for people: `sha256:` and twelve digits.
pub(crate) fn short(digest: &str) -> String {
    digest.chars().take("sha256:".len() + 12).collect()
}

/// `6 of 8 images, from os-base`.
pub(crate) fn rebuilds(session: &Session, images: &BTreeSet<ImageName>) -> String {
    const SHOWN: usize = 2;
    let is_top = |name: &&ImageName| session.graph().ancestors(name).iter().all(|a| !images.contains(*a));
    let mut tops: Vec<&str> = images.iter().filter(is_top).map(ImageName::as_str).collect();
    let more = tops.len().saturating_sub(SHOWN);
    tops.truncate(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let all = count(session.workspace().images.len(), "image");
    format!("{} of {all}, from {}{more}", images.len(), tops.join(", "))
}
