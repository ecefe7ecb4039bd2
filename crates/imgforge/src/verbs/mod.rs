//! The verbs, one file each: its arguments, whose comments are the help, and what it does.

pub(crate) mod build;
pub(crate) mod export;
pub(crate) mod graph;
pub(crate) mod import;
pub(crate) mod lint;
pub(crate) mod list;
pub(crate) mod load;
pub(crate) mod outdated;
pub(crate) mod plan;
pub(crate) mod promote;
pub(crate) mod prune;
pub(crate) mod push;
pub(crate) mod render;
pub(crate) mod rollback;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod secrets;
pub(crate) mod services;
pub(crate) mod show;
pub(crate) mod test;
pub(crate) mod update;

use std::collections::BTreeSet;

use camino::Utf8Path;
use clap::{Args, ValueEnum};
use imgforge::core::event::Reporter;
use imgforge::core::name::ImageName;
use imgforge::{OpenOptions, Session, report};

use crate::Global;
use crate::console::{DIM, say};
use crate::failure::Failure;

/// Which images are meant.
#[derive(Args)]
pub(crate) struct Selection {
    /// Images: NAME, a glob, +NAME, NAME+, NAME+1, group:NAME or path:FOLDER [default: all]
    #[arg(value_name = "SELECTOR")]
    selectors: Vec<String>,
    /// Leave out what this selector means
    #[arg(long, value_name = "SELECTOR")]
    exclude: Vec<String>,
}

impl Selection {
    fn of(&self, session: &Session) -> Result<BTreeSet<ImageName>, Failure> {
        Ok(session.select(&self.selectors, &self.exclude)?)
    }
}

/// How a verb prints its data.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

fn open(global: &Global) -> Result<Session, Failure> {
    let start = global.workspace.as_deref().unwrap_or(Utf8Path::new("."));
    let session = Session::open(
        start,
        &OpenOptions { cache: !global.no_stat_cache, engine: global.engine.into(), checkout: false },
    )?;
    if session.workspace().images.is_empty() && !global.quiet {
        let how = "an image is a folder with a file image.kdl that says: image \"NAME\" { from \"PARENT\" }";
        say(DIM, "Note", format_args!("there is no image in {} yet; {how}", session.root()));
    }
    Ok(session)
}

/// Returns the reporter that shows a run on stderr.
fn reporter(global: &Global) -> Box<dyn Reporter> {
    report::for_stderr(report::Options {
        verbose: global.verbose,
        quiet: global.quiet,
        color: report::color_on_stderr(),
        expected: None,
    })
}

/// Data of this program as indented JSON, with a newline at the end.
fn json(value: &impl serde::Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("our own types have string keys");
    text.push('\n');
    imgforge::core::text::json(&text).into_owned()
}
