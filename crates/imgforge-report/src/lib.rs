//! Readers of the event stream: terminal, plain lines, JSON.
//!
//! Engines and package sources send [`Event`]s; what is here only shows or records them and never changes what is
//! done. One state follows them all (`run`), one function says each event in words (`tell`); [`Lines`] writes those
//! words to a pipe, [`Live`] puts them above rows that move, and [`Recorder`] makes a [`RunReport`] for programs.
//!
//! Text that comes from builds is shown through [`clean`] only, so that no log can steer the reader's terminal.

mod junit;
mod lines;
mod live;
mod record;
mod run;
mod screen;
#[cfg(test)]
mod script;
mod style;
mod tell;
mod text;
mod ticker;

use std::io::IsTerminal as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use imgforge_core::event::{Event, Reporter};

pub use junit::junit;
pub use lines::Lines;
pub use live::Live;
pub use record::{CheckReport, Recorder, RunReport, RunResult, TargetReport, TestReport};
pub use text::{clean, human_duration, human_size, printable};

/// What a person wants to see of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Show every target's whole log when it is done, and name what was skipped or cancelled.
    pub verbose: bool,
    /// Show only failures, and the summary if there was one.
    pub quiet: bool,
    /// Write colours; [`color_on_stderr`] knows whether.
    pub color: bool,
    /// How long the run should take, going by earlier ones; a terminal shows what is left of it.
    pub expected: Option<Duration>,
}

/// Whether stderr gets colours: `--color` (anstream's global choice), then `NO_COLOR`, `CLICOLOR_FORCE` and what
/// the stream is.
pub fn color_on_stderr() -> bool {
    anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never
}

/// The reporter for people, on stderr: rows that move on a terminal that can, plain lines elsewhere.
///
/// `TERM=dumb` and a missing `TERM` mean a terminal that can only append, so it gets lines; so does `quiet`, which
/// has nothing to move.
pub fn for_stderr(options: Options) -> Box<dyn Reporter> {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    if std::io::stderr().is_terminal() && !dumb && !options.quiet {
        Box::new(Live::new(options))
    } else {
        Box::new(Lines::new(std::io::stderr(), options))
    }
}

/// Several reporters as one: each sees every event, in the order of the list.
pub struct Several(pub Vec<Box<dyn Reporter>>);

impl Reporter for Several {
    fn event(&mut self, event: &Event) {
        for reporter in &mut self.0 {
            reporter.event(event);
        }
    }
}

/// Locks what a report shares with its ticker. A panic elsewhere must not silence the report: the state is only ever
/// replaced whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
