//! Each event in words: one line, or none when it is only of use to rows that move.

use std::time::Duration;

use imgforge_core::event::{Event, Outcome};
use imgforge_core::name::ImageName;

use crate::Options;
use crate::style::{Palette, word};
use crate::text::{clean, fit, human_duration, human_size};

/// Columns of a target's name in a finished line; a longer name pushes the rest to the right.
const NAME: usize = 24;

/// The line that an event is, for a reader with these options.
pub(crate) fn line(event: &Event, options: Options) -> Option<String> {
    let palette = Palette::new(options.color);
    match event {
        Event::TargetFinished { target, outcome, took } => {
            finished(target, outcome, *took, options, &palette)
        }
        Event::Log { target, line } if options.verbose => {
            let dim = palette.dim;
            Some(format!("{dim}{target} |{dim:#} {}", clean(line)))
        }
        Event::Fetched { what, bytes, files, took } if !options.quiet && *files > 0 && *bytes > 0 => {
            let (size, took) = (human_size(*bytes), human_duration(*took));
            Some(format!("{}{files} {what}, {size} in {took}", word(palette.good, "Fetched")))
        }
        Event::Warning { message } => Some(format!("{}{}", word(palette.warn, "Warning"), clean(message))),
        Event::Interrupted => Some(format!("{}what runs is being cancelled", word(palette.warn, "Stopping"))),
        _ => None,
    }
}

fn finished(
    target: &ImageName,
    outcome: &Outcome,
    took: Duration,
    options: Options,
    palette: &Palette,
) -> Option<String> {
    let name = if target.as_str().len() < NAME { fit(target.as_str(), NAME) } else { format!("{target} ") };
    let took = format!("{:>10}", human_duration(took));
    match outcome {
        Outcome::Built { size, added } if !options.quiet => {
            let (size, added) = (human_size(*size), human_size(*added));
            Some(format!("{}{name}{took} {size:>9}  (+{added})", word(palette.good, "Built")))
        }
        Outcome::Failed { message } => {
            Some(format!("{}{name}{took}   {}", word(palette.bad, "Failed"), clean(message)))
        }
        Outcome::Skipped { blocked_by } if options.verbose => {
            Some(format!("{}{name}blocked by {blocked_by}", word(palette.dim, "Skipped")))
        }
        Outcome::Cancelled if options.verbose => Some(format!("{}{target}", word(palette.dim, "Cancelled"))),
        _ => None,
    }
}
