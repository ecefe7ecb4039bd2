//! Says events in words: the lines that stay, the same on a terminal and in a pipe.

use std::fmt::Write as _;
use std::time::Duration;

use imgforge_core::event::{Activity, Event, Outcome};
use imgforge_core::name::ImageName;

use crate::Options;
use crate::run::{Run, Running, TAIL};
use crate::style::{Palette, word};
use crate::text::{clean, counted, human_duration, human_size, one_line};

/// The column of names, in lines that are followed by figures.
const NAMES: usize = 22;
/// How many names a list holds before it says how many more there are.
const LISTED: usize = 5;

/// A run and how it is told.
#[derive(Debug)]
pub(crate) struct Teller {
    pub(crate) run: Run,
    pub(crate) options: Options,
    pub(crate) palette: Palette,
    /// Whether the start of a target is worth a line: not where a row shows it.
    starts: bool,
    /// Whether figures follow the names at once, since there is no room for columns.
    pub(crate) compact: bool,
}

impl Teller {
    /// A teller for a run that has not begun.
    pub(crate) fn new(options: Options, starts: bool) -> Self {
        let (run, palette) = (Run::new(options.verbose), Palette::new(options.color));
        Self { run, options, palette, starts, compact: false }
    }

    /// Takes notice of `event` and says it in zero or more whole lines.
    pub(crate) fn tell(&mut self, event: &Event, now: Duration) -> String {
        let ended = self.run.note(event, now);
        let p = self.palette;
        let quiet = self.options.quiet;
        match event {
            Event::TargetStarted { target, activity } if self.starts && !quiet => {
                format!("{}{target}\n", word(p.work, doing(*activity)))
            }
            Event::TestFinished { target, result } if self.options.verbose && !quiet => {
                let (style, what) = if result.passed() { (p.good, "Passed") } else { (p.bad, "Failed") };
                let took = human_duration(result.took);
                format!("{}{target}: {} {took}\n", word(style, what), one_line(&result.name))
            }
            Event::Fetched { what, bytes, files, took } if *files > 0 && !quiet => {
                let (size, took) = (human_size(*bytes), human_duration(*took));
                let what = counted(*files, &one_line(what));
                format!("{}{what}, {size} in {took}\n", word(p.good, "Fetched"))
            }
            Event::Pushed { target, sent, took } if !quiet => {
                let (sent, took) = (human_size(*sent), human_duration(*took));
                let mut out = word(p.good, "Pushed");
                let _ = if self.compact {
                    writeln!(out, "{target} {took}, {sent} sent")
                } else {
                    writeln!(out, "{target:<NAMES$} {took:>8}   {sent:>7} sent")
                };
                out
            }
            Event::Promoted { target, tags } if !quiet => {
                let tags: Vec<&str> = tags.iter().map(AsRef::as_ref).collect();
                format!("{}{target:<NAMES$} {}\n", word(p.good, "Promoted"), tags.join(", "))
            }
            Event::TargetFinished { target, outcome, took } => {
                self.finished(target, outcome, *took, ended.as_ref())
            }
            Event::Engine { notice } if !quiet => {
                format!("{}{}\n", word(p.dim, "Engine"), one_line(notice))
            }
            Event::Warning { message } if !quiet => {
                format!("{}{}\n", word(p.warn, "Warning"), one_line(message))
            }
            Event::Interrupted if !quiet => {
                let rest = "what runs is being cancelled; Ctrl-C again quits at once";
                format!("{}{rest}\n", word(p.warn, "Stopping"))
            }
            Event::Finished { took } => self.summary(*took),
            _ => String::new(),
        }
    }

    fn finished(
        &self,
        target: &ImageName,
        outcome: &Outcome,
        took: Duration,
        ended: Option<&Running>,
    ) -> String {
        let Options { verbose, quiet, .. } = self.options;
        let p = self.palette;
        let took = human_duration(took);
        match outcome {
            Outcome::Failed { message } => self.failed(target, message, &took, ended),
            _ if quiet => String::new(),
            Outcome::Built { size, added } => {
                let (size, added) = (human_size(*size), human_size(*added));
                let mut out = word(p.good, "Built");
                let tests = passed(ended);
                let _ = if self.compact {
                    let tests = tests.map(|tests| format!(", {tests}")).unwrap_or_default();
                    writeln!(out, "{target} {took}, {size} (+{added}){tests}")
                } else {
                    let tests = tests.map(|tests| format!("  {tests}")).unwrap_or_default();
                    writeln!(out, "{target:<NAMES$} {took:>8}   {size:>7}  (+{added}){tests}")
                };
                if verbose {
                    push_log(&mut out, target, ended);
                }
                out
            }
            Outcome::Pulled { size } => {
                let mut out = word(p.good, "Pulled");
                let size = human_size(*size);
                let _ = if self.compact {
                    writeln!(out, "{target} {took}, {size}")
                } else {
                    writeln!(out, "{target:<NAMES$} {took:>8}   {size:>7}")
                };
                out
            }
            Outcome::Same { size } => {
                let mut out = word(p.good, "Same");
                let size = human_size(*size);
                let _ = if self.compact {
                    writeln!(out, "{target} {took}, {size}, as it was")
                } else {
                    writeln!(out, "{target:<NAMES$} {took:>8}   {size:>7}  (as it was)")
                };
                out
            }
            Outcome::Tested => {
                let mut out = word(p.good, "Tested");
                let tests = passed(ended).unwrap_or_default();
                let _ = if self.compact {
                    writeln!(out, "{target} {took}, {tests}")
                } else {
                    writeln!(out, "{target:<NAMES$} {took:>8}   {tests}")
                };
                out
            }
            _ if !verbose => String::new(),
            Outcome::Skipped { blocked_by } => {
                format!("{}{target}, blocked by {blocked_by}\n", word(p.dim, "Skipped"))
            }
            Outcome::Cancelled => {
                let mut out = format!("{}{target}\n", word(p.warn, "Cancelled"));
                push_log(&mut out, target, ended);
                out
            }
        }
    }

    fn failed(&self, target: &ImageName, message: &str, took: &str, ended: Option<&Running>) -> String {
        let p = self.palette;
        let mut out = word(p.bad, "Failed");
        let _ = if self.compact {
            write!(out, "{target} {took}")
        } else {
            write!(out, "{target:<NAMES$} {took:>8}")
        };
        if let Some(step) = ended.and_then(|ended| ended.step.as_ref()) {
            let _ = write!(out, "   {step}");
        }
        let _ = writeln!(out, "\n{:10}{}", "", clean(message));
        let Some(Running { log, .. }) = ended.filter(|ended| !ended.log.lines.is_empty()) else {
            return out;
        };
        if self.options.verbose {
            push_log(&mut out, target, ended);
            return out;
        }
        let (dim, all) = (p.dim, log.dropped + log.lines.len());
        let heading = match (log.dropped, all) {
            (0, 1) => "its log:".to_owned(),
            (0, _) => format!("its log, {all} lines:"),
            _ => format!("the last {TAIL} of {all} lines of its log:"),
        };
        let _ = writeln!(out, "{:10}{dim}{heading}{dim:#}", "");
        for line in &log.lines {
            let _ = writeln!(out, "{}", format!("{:12}{line}", "").trim_end());
        }
        out
    }

    /// The last line: `1 failed (a), 2 skipped (b, c; blocked by a), 2 built, 3 fresh in 27.0 s`. Nothing if nothing
    /// was done: the command says that itself, since only it knows how long it looked.
    fn summary(&self, took: Duration) -> String {
        let run = &self.run;
        let went_well = run.failed.is_empty() && run.cancelled.is_empty();
        if run.done() == 0 || (self.options.quiet && went_well) {
            return String::new();
        }
        let p = self.palette;
        let mut parts = Vec::new();
        if !run.failed.is_empty() {
            let (bad, count) = (p.bad, run.failed.len());
            parts.push(format!("{bad}{count} failed{bad:#} ({})", list(&run.failed)));
        }
        if !run.skipped.is_empty() {
            parts.push(format!("{} skipped ({})", run.skipped(), self.blocked()));
        }
        if !run.cancelled.is_empty() {
            let (warn, count) = (p.warn, run.cancelled.len());
            parts.push(format!("{warn}{count} cancelled{warn:#} ({})", list(&run.cancelled)));
        }
        if run.built > 0 {
            let good = p.good;
            parts.push(format!("{good}{} built{good:#}", run.built));
        }
        if run.pulled > 0 {
            parts.push(format!("{} pulled", run.pulled));
        }
        if run.same > 0 {
            parts.push(format!("{} same as before", run.same));
        }
        if run.tested > 0 {
            let good = p.good;
            parts.push(format!("{good}{} tested{good:#}", run.tested));
        }
        if run.fresh > 0 {
            parts.push(format!("{} fresh", run.fresh));
        }
        format!("  {} in {}\n", parts.join(", "), human_duration(took))
    }

    /// Who was skipped because of whom; with many causes, how many more there are.
    fn blocked(&self) -> String {
        let group = |(by, names): (&ImageName, &Vec<ImageName>)| format!("{}; blocked by {by}", list(names));
        let mut groups: Vec<String> = self.run.skipped.iter().take(3).map(group).collect();
        if self.run.skipped.len() > 3 {
            groups.push(format!("and more blocked by {} others", self.run.skipped.len() - 3));
        }
        groups.join("; ")
    }

    /// What is fetched and what runs, for when nothing else was said for a while. Nothing if nothing does.
    pub(crate) fn heartbeat(&self, now: Duration) -> String {
        let fetches = self.run.fetches.iter().map(|fetch| match fetch.total {
            0 => format!("{} ({})", one_line(&fetch.what), human_size(fetch.done)),
            total => {
                let (what, done) = (one_line(&fetch.what), human_size(fetch.done));
                format!("{what} ({done} of {})", human_size(total))
            }
        });
        let targets = self.run.running.iter().map(|running| {
            let time = human_duration(now.saturating_sub(running.since));
            let step = running.step.as_ref().map(|step| format!(", {step}")).unwrap_or_default();
            format!("{} ({time}{step})", running.target)
        });
        let mut out = String::new();
        for (first, items) in
            [("Fetching", fetches.collect::<Vec<_>>()), ("Running", targets.collect::<Vec<_>>())]
        {
            if !items.is_empty() {
                let _ = writeln!(out, "{}{}", word(self.palette.work, first), list(&items));
            }
        }
        out
    }
}

/// `2 tests`, of a target that has any.
fn passed(ended: Option<&Running>) -> Option<String> {
    let count = ended?.passed;
    (count > 0).then(|| counted(count, "tests"))
}

/// What is being done, as a word at the left of a line.
pub(crate) fn doing(activity: Activity) -> &'static str {
    match activity {
        Activity::Build => "Building",
        Activity::Pull => "Pulling",
        Activity::Test => "Testing",
    }
}

/// `a, b, c`; of many the first few: `a, b, c, d, e and 7 more`.
fn list(names: &[impl AsRef<str>]) -> String {
    let shown = names.iter().take(LISTED).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The whole log, each line with the target's name, so that it can be searched for.
fn push_log(out: &mut String, target: &ImageName, ended: Option<&Running>) {
    let Some(Running { log, .. }) = ended else { return };
    if log.dropped > 0 {
        let _ = writeln!(out, "{target} | … {} lines are left out here", log.dropped);
    }
    for line in &log.lines {
        let _ = writeln!(out, "{}", format!("{target} | {line}").trim_end());
    }
}
