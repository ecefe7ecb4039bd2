//! A run as data: `build --format json`, and the line at its end.

use std::time::Duration;

use imgforge_core::event::{Event, Outcome, Reporter};
use schemars::JsonSchema;
use serde::Serialize;

use crate::text::human_duration;

/// The version of the report's JSON shape.
const VERSION: u32 = 1;

/// What became of every target of a run.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct RunReport {
    /// The version of this shape: 1.
    pub version: u32,
    /// The targets, in the order in which they ended.
    pub targets: Vec<TargetReport>,
    /// How long the run took.
    pub seconds: f64,
}

/// What became of one target.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct TargetReport {
    /// The image.
    pub name: String,
    /// How it ended.
    pub result: RunResult,
    /// How long it took; null when it was not begun.
    pub seconds: Option<f64>,
    /// Size of the image in bytes, its parents' layers included; null when it was not built.
    pub size: Option<u64>,
    /// What it adds to its parent, in bytes; null when it was not built.
    pub added: Option<u64>,
    /// Why it failed; null when it did not.
    pub message: Option<String>,
    /// What failed, when it was skipped because of that.
    pub blocked_by: Option<String>,
}

/// How a target ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunResult {
    /// It was built.
    Built,
    /// It was there.
    Fresh,
    /// Its build failed.
    Failed,
    /// Not begun, since something that it stands on failed.
    Skipped,
    /// Stopped or not begun, because the run was.
    Cancelled,
}

/// Makes a [`RunReport`] of events.
#[derive(Debug, Default)]
pub struct Recorder {
    targets: Vec<TargetReport>,
}

impl Recorder {
    /// A target that was fresh: there is no event for it.
    pub fn fresh(&mut self, name: &str) {
        self.targets.push(TargetReport::new(name, RunResult::Fresh));
    }

    /// The report of a run that took `took`.
    pub fn into_report(self, took: Duration) -> RunReport {
        RunReport { version: VERSION, targets: self.targets, seconds: took.as_secs_f64() }
    }
}

impl TargetReport {
    fn new(name: &str, result: RunResult) -> Self {
        Self {
            name: name.into(),
            result,
            seconds: None,
            size: None,
            added: None,
            message: None,
            blocked_by: None,
        }
    }
}

impl Reporter for Recorder {
    fn event(&mut self, event: &Event) {
        let Event::TargetFinished { target, outcome, took } = event else { return };
        let row = |result| TargetReport::new(target.as_str(), result);
        let seconds = Some(took.as_secs_f64());
        self.targets.push(match outcome {
            Outcome::Built { size, added } => {
                TargetReport { seconds, size: Some(*size), added: Some(*added), ..row(RunResult::Built) }
            }
            Outcome::Failed { message } => {
                TargetReport { seconds, message: Some(message.clone()), ..row(RunResult::Failed) }
            }
            Outcome::Skipped { blocked_by } => {
                TargetReport { blocked_by: Some(blocked_by.to_string()), ..row(RunResult::Skipped) }
            }
            Outcome::Cancelled => row(RunResult::Cancelled),
        });
    }
}

impl RunReport {
    /// How many targets ended so.
    pub fn count(&self, result: RunResult) -> usize {
        self.targets.iter().filter(|target| target.result == result).count()
    }

    /// `1 failed, 2 skipped (guestbook, notes, blocked by ruby-webapp), 2 built, 3 fresh in 27.0 s`.
    pub fn summary(&self) -> String {
        let mut parts = Vec::new();
        let mut add = |n: usize, text: String| {
            if n > 0 {
                parts.push(format!("{n} {text}"));
            }
        };
        add(self.count(RunResult::Failed), "failed".into());
        add(self.count(RunResult::Skipped), format!("skipped{}", self.blocked()));
        add(self.count(RunResult::Cancelled), "cancelled".into());
        add(self.count(RunResult::Built), "built".into());
        add(self.count(RunResult::Fresh), "fresh".into());
        format!("{} in {}", parts.join(", "), human_duration(Duration::from_secs_f64(self.seconds)))
    }

    /// Who was skipped because of whom; the first few names.
    fn blocked(&self) -> String {
        let skipped: Vec<&TargetReport> =
            self.targets.iter().filter(|t| t.result == RunResult::Skipped).collect();
        let mut names: Vec<&str> = skipped.iter().map(|target| target.name.as_str()).collect();
        names.sort_unstable();
        let mut causes: Vec<&str> =
            skipped.iter().filter_map(|target| target.blocked_by.as_deref()).collect();
        causes.sort_unstable();
        causes.dedup();
        let more = names.len().saturating_sub(4);
        names.truncate(4);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        match causes.as_slice() {
            [] => String::new(),
            causes => format!(" ({}{more}, blocked by {})", names.join(", "), causes.join(", ")),
        }
    }
}
