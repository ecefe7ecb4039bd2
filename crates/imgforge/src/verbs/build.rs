//! `imgforge build`: builds what changed.

use std::process::ExitCode;

use camino::{Utf8Path, Utf8PathBuf};
use clap::Args;
use imgforge::report::{RunReport, human_duration};
use imgforge::{BuildOptions, BuildReport, CancellationToken, TestMode};

use crate::Global;
use crate::console::{BAD, DIM, complain, count, print, say};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::verbs::secrets::SecretArgs;
use crate::verbs::{Format, Selection, json, open, reporter};

/// Build what changed and run its tests, in parallel, parents first
///
/// Every image whose inputs are those of an image that the engine or the workspace's registry holds is fresh and left
/// alone; its tests are run when they have not passed yet. A failure skips only what stands on it. Release tags move
/// when an image is built and its tests have passed.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  imgforge build\n  imgforge build guestbook\n  imgforge build 'webapp-base+' --exclude notes -j4\n  imgforge build --locked --format json > report.json\n  imgforge build --push\n  imgforge build --secret id=token,src=token.txt --ssh default"
)]
pub(crate) struct Build {
    #[command(flatten)]
    selection: Selection,
    /// How many images are built at once [default: three for each processor]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Start nothing more after the first failure
    #[arg(long)]
    fail_fast: bool,
    /// Go on with what does not stand on a failure (this is the default)
    #[arg(long, conflicts_with = "fail_fast")]
    keep_going: bool,
    /// Refuse a lock that does not fit the manifests, instead of locking what is missing
    #[arg(long)]
    locked: bool,
    /// Build what is selected even when it is fresh, each step anew
    #[arg(long)]
    force: bool,
    /// Run no tests; release tags move all the same
    #[arg(long)]
    no_test: bool,
    /// Push what was built to the registry, and promote what has passed its tests
    #[arg(long)]
    push: bool,
    /// Pull what is selected and only the registry holds
    #[arg(long)]
    pull: bool,
    /// Do not ask the registry: only what the engine holds is fresh (or IMGFORGE_LOCAL=1 in the environment)
    #[arg(long, conflicts_with_all = ["push", "pull"])]
    local: bool,
    #[command(flatten)]
    secrets: SecretArgs,
    /// How to print the report: text goes to stderr, json to stdout
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write the results of tests as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<Utf8PathBuf>,
}

impl Build {
    pub(crate) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        let secrets = self.secrets.read()?;
        let session = open(global)?;
        let selected = self.selection.of(&session)?;
        let cancel = CancellationToken::new();
        let interrupt = Interrupt::listen(cancel.clone());
        let options = BuildOptions {
            slots: self.jobs.map(usize::from),
            fail_fast: self.fail_fast,
            locked: self.locked,
            force: self.force,
            tests: if self.no_test { TestMode::LeaveOut } else { TestMode::Run },
            push: self.push,
            pull: self.pull,
            local: self.local,
            secrets,
            cancel,
        };
        let mut reporter = interrupt.watch(reporter(global));
        let report = session.build(&selected, &options, &mut *reporter)?;
        drop(reporter);
        if self.format == Format::Json {
            print(&json(&report.run));
        }
        say_end(&report, global.quiet);
        if let Some(file) = &self.junit {
            write_junit(file, &report.run)?;
        }
        Ok(match &report {
            report if report.interrupted => ExitCode::from(130),
            report if report.succeeded() => ExitCode::SUCCESS,
            _ => ExitCode::from(1),
        })
    }
}

/// Shows what failed, each at its place.
pub(crate) fn say_failures(report: &BuildReport) {
    for failure in &report.failures {
        complain(format_args!("\n{:?}\n", miette::Report::new(failure.problem.clone())));
    }
    for (image, why) in report.published.iter().flat_map(|published| &published.failures) {
        say(BAD, "Failed", format_args!("{image} is not pushed: {why}"));
    }
}

/// Writes a report as JUnit XML.
pub(crate) fn write_junit(file: &Utf8Path, report: &RunReport) -> Result<(), Failure> {
    let written = std::fs::write(file, imgforge::report::junit(report));
    Ok(written.map_err(|error| imgforge::Error::Io { path: file.to_owned(), error })?)
}

/// Says what failed, or that there was nothing to do.
pub(crate) fn say_end(report: &BuildReport, quiet: bool) {
    say_failures(report);
    let published = report.published.as_ref().is_some_and(imgforge::Published::did_something);
    if report.plan.to_do().next().is_none() && !published && !quiet {
        let fresh = report.plan.targets.len();
        let (hashed, asked) = (human_duration(report.hashed), human_duration(report.asked));
        let note = format!("{} ({hashed} hashed, {asked} asking {})", count(fresh, "image"), report.engine);
        say(DIM, "Fresh", note);
    }
}
