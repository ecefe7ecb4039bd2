//! `imgforge test`: the tests of images that are there.

use std::process::ExitCode;

use camino::Utf8PathBuf;
use clap::Args;
use imgforge::{BuildOptions, CancellationToken};

use crate::Global;
use crate::console::{DIM, print, say};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::verbs::build::{say_failures, write_junit};
use crate::verbs::{Format, Selection, json, open, reporter};

/// Run the tests of images that are built
///
/// Builds nothing and moves no tag. Every test of what is selected is run in real containers, whether it has passed
/// before or not; `build` then knows what came of it. Ends with 1 when a test fails, and with 2 when an image is not
/// built as the workspace describes it now.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  imgforge test\n  imgforge test guestbook -v\n  imgforge test 'group:web' --junit tests.xml\n  imgforge test --format json | jq '.targets[].tests[] | select(.passed | not)'"
)]
pub(crate) struct TestVerb {
    #[command(flatten)]
    selection: Selection,
    /// How many images are tested at once [default: three for each processor]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Start nothing more after the first image whose tests fail
    #[arg(long)]
    fail_fast: bool,
    /// How to print the report: text goes to stderr, json to stdout
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write the report as JUnit XML too
    #[arg(long, value_name = "FILE")]
    junit: Option<Utf8PathBuf>,
}

impl TestVerb {
    pub(crate) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        let session = open(global)?;
        let selected = self.selection.of(&session)?;
        let cancel = CancellationToken::new();
        let interrupt = Interrupt::listen(cancel.clone());
        let options = BuildOptions {
            slots: self.jobs.map(usize::from),
            fail_fast: self.fail_fast,
            cancel,
            ..BuildOptions::default()
        };
        let mut reporter = interrupt.watch(reporter(global));
        let report = session.test(&selected, &options, &mut *reporter)?;
        drop(reporter);
        if self.format == Format::Json {
            print(&json(&report.run));
        }
        say_failures(&report);
        if report.plan.targets.is_empty() && !global.quiet {
            let how = "an image has tests when its image.kdl says: test { ... }";
            say(DIM, "Note", format_args!("no image that is selected has a test; {how}"));
        }
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
