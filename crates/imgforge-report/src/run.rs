//! The state of a run as events tell it: what runs, how far it is, what came of the rest. Every report of people's
//! reads it; it shows nothing itself.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use imgforge_core::event::{Activity, Event, Outcome};
use imgforge_core::name::ImageName;

use crate::text::{clean, one_line};

/// Lines of a target's log that are kept to be shown if it fails.
pub(crate) const TAIL: usize = 20;
/// Lines that are kept when the whole log is to be shown: enough for any build, and a bound for one gone mad.
const WHOLE: usize = 50_000;

/// A run, from its first event on. Times are measured from its start.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) to_build: usize,
    pub(crate) fresh: usize,
    pub(crate) built: usize,
    pub(crate) pulled: usize,
    /// Those that came out as they were before.
    pub(crate) same: usize,
    /// Those that were there already, and whose tests passed.
    pub(crate) tested: usize,
    pub(crate) failed: Vec<ImageName>,
    /// What was skipped, by what it waited for.
    pub(crate) skipped: BTreeMap<ImageName, Vec<ImageName>>,
    pub(crate) cancelled: Vec<ImageName>,
    /// In order of start.
    pub(crate) running: Vec<Running>,
    pub(crate) fetches: Vec<Fetch>,
    pub(crate) interrupted: bool,
    kept_lines: usize,
}

/// A target that is being built or tested.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) target: ImageName,
    pub(crate) activity: Activity,
    pub(crate) since: Duration,
    /// Where it is, fit to be shown: `[4/7] nginx -t`.
    pub(crate) step: Option<String>,
    /// How many of its tests have passed.
    pub(crate) passed: usize,
    pub(crate) log: Log,
}

/// The last lines of a log, fit to be shown.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) lines: VecDeque<String>,
    /// How many lines came before the first of `lines`.
    pub(crate) dropped: usize,
}

/// Files on their way.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) what: String,
    pub(crate) done: u64,
    pub(crate) total: u64,
    since: Duration,
    /// What was there when we first heard of it, and so says nothing about the rate.
    at_first: u64,
}

impl Fetch {
    /// Bytes a second since the fetch began, once there is enough time to tell.
    pub(crate) fn rate(&self, now: Duration) -> Option<u64> {
        let millis = now.saturating_sub(self.since).as_millis();
        let bytes = u128::from(self.done.saturating_sub(self.at_first));
        (millis >= 500).then(|| u64::try_from(bytes * 1000 / millis).unwrap_or(u64::MAX))
    }
}

impl Run {
    /// A run of which nothing is known. `whole_logs`: keep every line, not only the last [`TAIL`].
    pub(crate) fn new(whole_logs: bool) -> Self {
        Self {
            to_build: 0,
            fresh: 0,
            built: 0,
            pulled: 0,
            same: 0,
            tested: 0,
            failed: Vec::new(),
            skipped: BTreeMap::new(),
            cancelled: Vec::new(),
            running: Vec::new(),
            fetches: Vec::new(),
            interrupted: false,
            kept_lines: if whole_logs { WHOLE } else { TAIL },
        }
    }

    /// Takes notice of `event`, and hands back what is known of the target that it ends.
    pub(crate) fn note(&mut self, event: &Event, now: Duration) -> Option<Running> {
        match event {
            Event::Started { to_build, fresh, .. } => {
                self.to_build = *to_build;
                self.fresh = *fresh;
            }
            Event::Fetching { what, done, total } => self.fetching(what, *done, *total, now),
            Event::Pushing { target, done, total } => {
                self.fetching(&pushing(target), *done, *total, now);
            }
            Event::Pushed { target, .. } => self.fetches.retain(|fetch| fetch.what != pushing(target)),
            Event::Fetched { what, .. } => self.fetches.retain(|fetch| fetch.what != *what),
            Event::TargetStarted { target, activity } => self.running.push(Running {
                target: target.clone(),
                activity: *activity,
                since: now,
                step: None,
                passed: 0,
                log: Log::default(),
            }),
            Event::Step { target, number, total, text, cached } => {
                let cached = if *cached { " (cached)" } else { "" };
                let step = format!("[{number}/{total}] {}{cached}", one_line(text));
                let keep = self.kept_lines;
                if let Some(running) = self.find(target) {
                    // The tail shown after a failure is for output: the step is in the line above it.
                    if keep > TAIL {
                        running.log.push(step.clone(), keep);
                    }
                    running.step = Some(step);
                }
            }
            Event::Log { target, line } => {
                let keep = self.kept_lines;
                if let Some(running) = self.find(target) {
                    running.log.push(clean(line.trim_end()).into_owned(), keep);
                }
            }
            Event::TestStarted { target, test, number, total } => {
                let keep = self.kept_lines;
                if let Some(running) = self.find(target) {
                    if running.activity == Activity::Build && keep == TAIL {
                        // What the build has said is of no use to those who read why a test failed.
                        running.log = Log::default();
                    }
                    running.activity = Activity::Test;
                    running.step = Some(format!("[{number}/{total}] {}", one_line(test)));
                }
            }
            Event::TestFinished { target, result } => {
                let keep = self.kept_lines;
                if let Some(running) = self.find(target) {
                    running.step = None;
                    running.passed += usize::from(result.passed());
                    for line in &result.log {
                        running.log.push(clean(line.trim_end()).into_owned(), keep);
                    }
                }
            }
            Event::TargetFinished { target, outcome, .. } => return self.finished(target, outcome),
            Event::Interrupted => self.interrupted = true,
            Event::Engine { .. } | Event::Warning { .. } | Event::Promoted { .. } => {}
            Event::Finished { .. } => {
                self.running.clear();
                self.fetches.clear();
            }
        }
        None
    }

    /// Targets that are done with, of those that there is work on.
    pub(crate) fn done(&self) -> usize {
        self.built
            + self.same
            + self.tested
            + self.pulled
            + self.failed.len()
            + self.skipped()
            + self.cancelled.len()
    }

    /// Targets that were skipped.
    pub(crate) fn skipped(&self) -> usize {
        self.skipped.values().map(Vec::len).sum()
    }

    /// Targets that have not begun.
    pub(crate) fn waiting(&self) -> usize {
        self.to_build.saturating_sub(self.done() + self.running.len())
    }

    fn find(&mut self, target: &ImageName) -> Option<&mut Running> {
        self.running.iter_mut().find(|running| running.target == *target)
    }

    fn fetching(&mut self, what: &str, done: u64, total: u64, now: Duration) {
        match self.fetches.iter_mut().find(|fetch| fetch.what == what) {
            Some(fetch) => (fetch.done, fetch.total) = (done, total),
            None => {
                let what = what.to_owned();
                self.fetches.push(Fetch { what, done, total, since: now, at_first: done });
            }
        }
    }

    fn finished(&mut self, target: &ImageName, outcome: &Outcome) -> Option<Running> {
        match outcome {
            Outcome::Built { .. } => self.built += 1,
            Outcome::Pulled { .. } => self.pulled += 1,
            Outcome::Same { .. } => self.same += 1,
            Outcome::Tested => self.tested += 1,
            Outcome::Failed { .. } => self.failed.push(target.clone()),
            Outcome::Skipped { blocked_by } => {
                self.skipped.entry(blocked_by.clone()).or_default().push(target.clone());
            }
            Outcome::Cancelled => self.cancelled.push(target.clone()),
        }
        let at = self.running.iter().position(|running| running.target == *target)?;
        Some(self.running.remove(at))
    }
}

/// What a push is called among what is on its way.
fn pushing(target: &ImageName) -> String {
    format!("{target} to the registry")
}

impl Log {
    fn push(&mut self, line: String, keep: usize) {
        if self.lines.len() == keep {
            self.lines.pop_front();
            self.dropped += 1;
        }
        self.lines.push_back(line);
    }
}
