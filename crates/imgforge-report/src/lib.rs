//! Readers of the event stream: terminal, plain lines, JSON.
//!
//! Engines and package sources send [`Event`](imgforge_core::event::Event)s; what is here only shows or records them and never changes what is
//! done. [`Lines`] writes them to a pipe, [`Live`] puts the same lines above rows that move, and [`Recorder`] makes a
//! [`RunReport`] of them for programs and for the last line.
//!
//! Text that comes from builds is shown through [`clean`] only, so that no log can steer the reader's terminal.

mod lines;
mod live;
mod record;
mod style;
mod tell;
#[cfg(test)]
mod tests;
mod text;
mod ticker;

use std::io::IsTerminal as _;

use imgforge_core::event::Reporter;

pub use self::lines::Lines;
pub use self::live::Live;
pub use self::record::{Recorder, RunReport, RunResult, TargetReport};
pub use self::text::{clean, human_duration, human_size};

/// What a person wants to see of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Show every line that a build prints, with its target's name before it, and the targets that are not built.
    pub verbose: bool,
    /// Show only failures.
    pub quiet: bool,
    /// Write colours; [`color_on_stderr`] knows whether.
    pub color: bool,
}

/// Whether stderr gets colours: `--color` (anstream's global choice), then `NO_COLOR`, `CLICOLOR_FORCE` and what the
/// stream is.
pub fn color_on_stderr() -> bool {
    anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never
}

/// The reporter for people, on stderr: rows that move on a terminal that can, plain lines elsewhere.
///
/// `TERM=dumb` and a missing `TERM` mean a terminal that can only append, so it gets lines; so does `quiet`, which has
/// nothing to move.
pub fn for_stderr(options: Options) -> Box<dyn Reporter> {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    if std::io::stderr().is_terminal() && !dumb && !options.quiet {
        Box::new(Live::new(options))
    } else {
        Box::new(Lines::new(std::io::stderr(), options))
    }
}
