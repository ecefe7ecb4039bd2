//! `imgforge push`: puts built images into the registry.

use std::process::ExitCode;

use clap::Args;
use imgforge::report::human_size;
use imgforge::{CancellationToken, Kept, PublishOptions, Published};
use schemars::JsonSchema;
use serde::Serialize;

use crate::Global;
use crate::console::{BAD, DIM, GOOD, WORK, count, print, say};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::verbs::{Format, Selection, json, open, reporter};

/// Push images to the registry, each under its content tag
///
/// What the registry lacks of the selected images and of all that they stand on is pushed, parents first; a layer
/// that is there is not sent. Nothing is built, and no release tag moves: that is for `imgforge promote`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  imgforge push\n  imgforge push guestbook --dry-run\n  imgforge push --packages"
)]
pub(crate) struct Push {
    #[command(flatten)]
    selection: Selection,
    /// Keep the packages of the lock there too, from where builds fetch those that no mirror serves any more
    #[arg(long)]
    packages: bool,
    /// Only say what would be pushed
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// How to print what was done: text goes to stderr, json to stdout
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What `push --format json` prints.
#[derive(Serialize, JsonSchema)]
pub(crate) struct PushOutput {
    /// The version of this form: 1.
    version: u32,
    /// The images that were not in the registry before.
    pushed: Vec<String>,
    /// All images that are there now, and the digests of their manifests.
    digests: std::collections::BTreeMap<String, String>,
    /// Bytes of layers that were sent.
    sent: u64,
    /// How many requests the registry was asked.
    requests: u64,
    /// How many packages the registry keeps for this lock; null without --packages.
    packages: Option<usize>,
    /// Those that could not be pushed, and why.
    failed: std::collections::BTreeMap<String, String>,
}

impl Push {
    pub(crate) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        let session = open(global)?;
        let selected = self.selection.of(&session)?;
        let cancel = CancellationToken::new();
        let interrupt = Interrupt::listen(cancel.clone());
        let options = PublishOptions { dry_run: self.dry_run, cancel };
        let mut reporter = interrupt.watch(reporter(global));
        // First: they help also where an image is missing.
        let kept =
            if self.packages && !self.dry_run { Some(session.keep_packages(&mut *reporter)?) } else { None };
        let published = session.push(&selected, &options, &mut *reporter)?;
        drop(reporter);
        if self.format == Format::Json {
            print(&json(&output(&published, kept)));
        }
        for (image, why) in &published.failures {
            say(BAD, "Failed", format_args!("{image} is not pushed: {why}"));
        }
        if let Some(kept) = kept.filter(|_| !global.quiet) {
            let packages = count(kept.packages, "package");
            say(GOOD, "Kept", format_args!("{packages}, {} sent", human_size(kept.sent)));
        }
        if !global.quiet {
            let names = published.pushed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            match (published.pushed.len(), self.dry_run) {
                (0, _) if published.failures.is_empty() => say(DIM, "Pushed", "nothing: all of it is there"),
                (_, true) => say(WORK, "Push", format_args!("{names} (not done: --dry-run)")),
                (pushed, false) => {
                    let sent = human_size(published.traffic.bytes_up);
                    say(GOOD, "Pushed", format_args!("{}, {sent} sent", count(pushed, "image")));
                }
            }
        }
        Ok(if published.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

fn output(published: &Published, kept: Option<Kept>) -> PushOutput {
    PushOutput {
        version: 1,
        pushed: published.pushed.iter().map(ToString::to_string).collect(),
        digests: published.digests.iter().map(|(name, digest)| (name.to_string(), digest.clone())).collect(),
        sent: published.traffic.bytes_up,
        requests: published.traffic.requests,
        packages: kept.map(|kept| kept.packages),
        failed: published.failures.iter().map(|(name, why)| (name.to_string(), why.clone())).collect(),
    }
}
