//! `imgforge prune`: removes what nobody needs any more.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use imgforge::report::human_size;
use imgforge::{PruneOptions, Pruned};
use schemars::JsonSchema;
use serde::Serialize;

use crate::Global;
use crate::console::{DIM, GOOD, WARN, WORK, count, print, say};
use crate::failure::Failure;
use crate::verbs::{Format, json, open};

/// Remove images, downloaded packages and content tags that nobody needs any more
///
/// Shows what would go; with --yes it goes. Kept is what the workspace describes now, what has a release tag (or any
/// tag of your own), and what a container was made from. With --registry, content tags in the registry go too, but
/// not those of images that others stand on, that earlier promotions led to, that a commit of --keep describes, or
/// that are young.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  imgforge prune\n  imgforge prune --yes\n  imgforge prune --registry --keep-promotions 20 --keep-days 30\n  imgforge prune --registry --keep main --keep v1.0..release --yes"
)]
pub(crate) struct Prune {
    /// Remove what is shown
    #[arg(short, long)]
    yes: bool,
    /// Look into the registry too
    #[arg(long)]
    registry: bool,
    /// How many promotions can still be gone back to
    #[arg(long, value_name = "N", default_value_t = 10)]
    keep_promotions: usize,
    /// Keep what was pushed in these days; what an imgforge has pushed that kept no record of it counts from the
    /// first prune
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    keep_days: u32,
    /// Keep in the registry what the workspace describes at this git revision or range of revisions (repeatable)
    #[arg(long, value_name = "REVISION", requires = "registry")]
    keep: Vec<String>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What `prune --format json` prints.
#[derive(Serialize, JsonSchema)]
pub(crate) struct PruneOutput {
    /// The version of this form: 1.
    version: u32,
    /// Whether it was removed; otherwise it would be.
    removed: bool,
    /// Images of the engine.
    images: Vec<ImageRow>,
    /// How many images of the workspace stay in the engine.
    images_kept: usize,
    /// How many downloaded packages.
    packages: usize,
    /// Their size in bytes.
    package_bytes: u64,
    /// What the embedded engine keeps beside images and none of them needs, in bytes.
    store_bytes: u64,
    /// Manifests in the registry.
    manifests: Vec<ManifestRow>,
    /// How many manifests of the workspace's images stay in the registry.
    manifests_kept: usize,
    /// How many of these stay only because they are young.
    manifests_young: usize,
}

#[derive(Serialize, JsonSchema)]
struct ImageRow {
    name: String,
    id: String,
    references: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct ManifestRow {
    name: String,
    digest: String,
    tags: Vec<String>,
}

impl Prune {
    pub(crate) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        let session = open(global)?;
        let options = PruneOptions {
            registry: self.registry,
            promotions: self.keep_promotions,
            age: Duration::from_secs(u64::from(self.keep_days) * 24 * 3600),
            keep: self.keep.clone(),
            yes: self.yes,
        };
        let pruned = session.prune(&options)?;
        for warning in &pruned.warnings {
            say(WARN, "Warning", warning);
        }
        print(&match self.format {
            Format::Json => json(&output(&pruned, self.yes)),
            Format::Text => text(&pruned),
        });
        if !global.quiet {
            let parts = [
                (pruned.images.len(), "image"),
                (pruned.packages, "downloaded package"),
                (pruned.manifests.len(), "manifest"),
                (pruned.records.len(), "record"),
            ];
            let mut parts: Vec<String> =
                parts.iter().filter(|(n, _)| *n > 0).map(|(n, noun)| count(*n, noun)).collect();
            if pruned.store_bytes > 0 {
                parts.push(format!("{} of the store", human_size(pruned.store_bytes)));
            }
            if pruned.manifests_young > 0 {
                let (young, days) =
                    (count(pruned.manifests_young, "manifest"), count(self.keep_days as usize, "day"));
                say(DIM, "Kept", format_args!("{young} that came in the last {days}"));
            }
            match (parts.is_empty(), self.yes) {
                (true, _) => say(DIM, "Removed", "nothing: all of it is needed"),
                (_, true) => say(GOOD, "Removed", parts.join(", ")),
                (_, false) => say(WORK, "Remove", format_args!("{} (not done: add --yes)", parts.join(", "))),
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(pruned: &Pruned) -> String {
    let mut text = String::new();
    for image in &pruned.images {
        let nameless = || image.id.to_string();
        let names = if image.references.is_empty() { nameless() } else { image.references.join(" ") };
        let _ = writeln!(text, "  image     {names}");
    }
    if pruned.packages > 0 {
        let (files, size) = (count(pruned.packages, "file"), human_size(pruned.package_bytes));
        let _ = writeln!(text, "  packages  {files}, {size}");
    }
    if pruned.store_bytes > 0 {
        let size = human_size(pruned.store_bytes);
        let _ = writeln!(text, "  store     {size} of layers, blobs and what containers have left");
    }
    for manifest in &pruned.manifests {
        let _ = writeln!(text, "  registry  {}:{}", manifest.name, manifest.tags.join(" "));
    }
    if let [oldest, .., newest] = &pruned.records[..] {
        let _ = writeln!(text, "  records   {}, {oldest} to {newest}", pruned.records.len());
    } else if let [one] = &pruned.records[..] {
        let _ = writeln!(text, "  record    {one}");
    }
    text
}

fn output(pruned: &Pruned, removed: bool) -> PruneOutput {
    let image = |image: &imgforge::PrunedImage| ImageRow {
        name: image.name.clone(),
        id: image.id.to_string(),
        references: image.references.clone(),
    };
    let manifest = |manifest: &imgforge::PrunedManifest| ManifestRow {
        name: manifest.name.to_string(),
        digest: manifest.digest.clone(),
        tags: manifest.tags.clone(),
    };
    PruneOutput {
        version: 1,
        removed,
        images: pruned.images.iter().map(image).collect(),
        images_kept: pruned.images_kept,
        packages: pruned.packages,
        package_bytes: pruned.package_bytes,
        store_bytes: pruned.store_bytes,
        manifests: pruned.manifests.iter().map(manifest).collect(),
        manifests_kept: pruned.manifests_kept,
        manifests_young: pruned.manifests_young,
    }
}
