//! What came of a run, for programs: `build --format json` and the record of each run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use imgforge_core::event::{Event, Outcome, Reporter};
use imgforge_core::name::ImageName;
use imgforge_core::testing::{CheckFailure, TestResult};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lock;
use crate::text::clean;

/// What came of a run. Fields may be added within a version; they do not change their meaning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunReport {
    /// The version of this form: 1.
    pub version: u32,
    /// One entry per target, fresh ones included, sorted by name.
    pub targets: Vec<TargetReport>,
    /// How long the run took. 0 if it was not finished.
    pub seconds: f64,
}

/// What came of a target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TargetReport {
    /// The target's name.
    #[schemars(with = "String")]
    pub name: ImageName,
    /// How it ended.
    pub result: RunResult,
    /// How long its build and its tests took; not for targets that were fresh or skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Size of the image in bytes, its parents' layers included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// What it adds to its parent, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<u64>,
    /// The digest of its manifest in the registry, when it was pushed or was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Why it failed, in one line, without control codes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The tests that were run, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<TestReport>,
    /// What failed, so that this was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub blocked_by: Option<ImageName>,
}

/// What came of a test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TestReport {
    /// Its name; `test`, `test 2` and so on of those that have none.
    pub name: String,
    /// Whether every check held.
    pub passed: bool,
    /// How long it took.
    pub seconds: f64,
    /// The image whose manifest has it: the target itself, or one that it stands on.
    #[schemars(with = "String")]
    pub declared: ImageName,
    /// That manifest, relative to the workspace.
    pub file: String,
    /// The line in it, from 1.
    pub line: usize,
    /// How many checks it has.
    pub checks: usize,
    /// What did not hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<CheckReport>,
    /// The last lines of the container's log when it failed, without control codes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

/// A check that did not hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckReport {
    /// The check as it stands in the manifest.
    pub check: String,
    /// Its line in the test's file, from 1.
    pub line: usize,
    /// What was expected.
    pub expected: String,
    /// What was found instead.
    pub found: String,
}

impl TestReport {
    fn of(result: &TestResult) -> Self {
        let line = |span: imgforge_syntax::Span| result.file.line_column(span.offset).0;
        let text = |text: &str| clean(text).into_owned();
        let failure = |failure: &CheckFailure| CheckReport {
            check: text(&failure.check),
            line: line(failure.span),
            expected: text(&failure.expected),
            found: text(&failure.found),
        };
        Self {
            name: text(&result.name),
            passed: result.passed(),
            seconds: result.took.as_secs_f64(),
            declared: result.declared.clone(),
            file: result.file.path.to_string(),
            line: line(result.span),
            checks: result.checks,
            failures: result.failures.iter().map(failure).collect(),
            log: result.log.iter().map(|line| text(line)).collect(),
        }
    }
}

/// How a target ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunResult {
    /// It was built.
    Built,
    /// It was there already; its tests passed, where it names any.
    Fresh,
    /// It was in the registry, and was pulled for something that needed it.
    Pulled,
    /// Its build failed, or a test of it.
    Failed,
    /// Not begun, since something that it stands on failed.
    Skipped,
    /// Stopped or not begun, because the run was.
    Cancelled,
}

/// Makes a [`RunReport`] of the events. Clones share one report: give one to the run, and ask the other.
#[derive(Debug, Clone)]
pub struct Recorder(Arc<Mutex<Recorded>>);

#[derive(Debug)]
struct Recorded {
    report: RunReport,
    /// Tests of targets that are not done with.
    tests: BTreeMap<ImageName, Vec<TestReport>>,
}

impl Recorder {
    /// A report of nothing yet.
    pub fn new() -> Self {
        let report = RunReport { version: 1, targets: Vec::new(), seconds: 0.0 };
        Self(Arc::new(Mutex::new(Recorded { report, tests: BTreeMap::new() })))
    }

    /// Adds a target that needs no build, of which no event speaks; `size` in bytes, if it is known.
    pub fn add_fresh(&self, name: ImageName, size: Option<u64>) {
        self.with(|report| {
            report.targets.push(TargetReport { size, ..TargetReport::new(name, RunResult::Fresh) });
        });
    }

    /// The report as it stands, sorted.
    pub fn report(&self) -> RunReport {
        let mut report = self.with(|report| report.clone());
        report.targets.sort_by(|a, b| a.name.cmp(&b.name));
        report
    }

    /// Notes where an image is in the registry.
    pub fn set_digest(&self, name: &ImageName, digest: &str) {
        self.with(|report| {
            for target in report.targets.iter_mut().filter(|target| target.name == *name) {
                target.digest = Some(digest.to_owned());
            }
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut RunReport) -> T) -> T {
        act(&mut lock(&self.0).report)
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Reporter for Recorder {
    fn event(&mut self, event: &Event) {
        match event {
            Event::TargetFinished { target, outcome, took } => {
                let mut entry = TargetReport::of(target.clone(), outcome);
                if entry.result != RunResult::Skipped {
                    entry.seconds = Some(took.as_secs_f64());
                }
                let mut recorded = lock(&self.0);
                entry.tests = recorded.tests.remove(target).unwrap_or_default();
                recorded.report.targets.push(entry);
            }
            Event::TestFinished { target, result } => {
                let mut recorded = lock(&self.0);
                recorded.tests.entry(target.clone()).or_default().push(TestReport::of(result));
            }
            Event::Finished { took } => self.with(|report| report.seconds = took.as_secs_f64()),
            _ => {}
        }
    }
}

impl TargetReport {
    fn new(name: ImageName, result: RunResult) -> Self {
        Self {
            name,
            result,
            seconds: None,
            size: None,
            added: None,
            digest: None,
            message: None,
            tests: Vec::new(),
            blocked_by: None,
        }
    }

    fn of(name: ImageName, outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Built { size, added } => {
                Self { size: Some(*size), added: Some(*added), ..Self::new(name, RunResult::Built) }
            }
            Outcome::Pulled { size } => Self { size: Some(*size), ..Self::new(name, RunResult::Pulled) },
            Outcome::Same { size } => Self { size: Some(*size), ..Self::new(name, RunResult::Fresh) },
            Outcome::Tested => Self::new(name, RunResult::Fresh),
            Outcome::Failed { message } => {
                Self { message: Some(clean(message).into_owned()), ..Self::new(name, RunResult::Failed) }
            }
            Outcome::Skipped { blocked_by } => {
                Self { blocked_by: Some(blocked_by.clone()), ..Self::new(name, RunResult::Skipped) }
            }
            Outcome::Cancelled => Self::new(name, RunResult::Cancelled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script;

    fn recorded(events: Vec<(std::time::Duration, Event)>) -> RunReport {
        let recorder = Recorder::new();
        let mut reporter = recorder.clone();
        for (_, event) in events {
            reporter.event(&event);
        }
        recorder.add_fresh(script::name("builder"), Some(212_000_000));
        recorder.report()
    }

    #[test]
    fn a_report_names_every_target_and_its_result() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&recorded(script::failing())).unwrap());
    }

    #[test]
    fn tests_are_with_the_target_that_they_are_of() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&recorded(script::testing())).unwrap());
    }

    #[test]
    fn tests_are_cases_of_junit() {
        insta::assert_snapshot!(crate::junit(&recorded(script::testing())));
    }

    #[test]
    fn cancelled_targets_are_in_the_report() {
        let report = recorded(script::interrupted());
        let cancelled = |target: &&TargetReport| target.result == RunResult::Cancelled;
        let names: Vec<&str> =
            report.targets.iter().filter(cancelled).map(|target| target.name.as_str()).collect();
        assert_eq!(names, ["guestbook", "webapp-base"]);
    }

    #[test]
    fn a_report_is_read_back_as_it_was_written() {
        let report = recorded(script::failing());
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<RunReport>(&text).unwrap(), report);
    }

    #[test]
    fn the_schema_names_the_results() {
        let schema = serde_json::to_string(&schemars::schema_for!(RunReport)).unwrap();
        for word in ["built", "fresh", "failed", "skipped", "cancelled"] {
            assert!(schema.contains(&format!("\"{word}\"")), "{word}: {schema}");
        }
    }
}
