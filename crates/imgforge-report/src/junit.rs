//! A report as JUnit XML, which CI services read: a suite for each image that was tested, a case for each test.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::record::{RunReport, RunResult, TargetReport, TestReport};

/// The XML of all tests of a run. An image that could not be built, so that its tests were not run, has a case `build`
/// with an error.
pub fn junit(report: &RunReport) -> String {
    let mut junit = Report::new("imgforge");
    junit.set_time(Duration::from_secs_f64(report.seconds.max(0.0)));
    junit.add_test_suites(report.targets.iter().filter_map(suite));
    junit.to_string().expect("a text takes everything")
}

fn suite(target: &TargetReport) -> Option<TestSuite> {
    let mut suite = TestSuite::new(target.name.as_str());
    suite.add_test_cases(target.tests.iter().map(|test| case(target, test)));
    if target.tests.is_empty() && target.result == RunResult::Failed {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
        status.set_message(target.message.as_deref().unwrap_or_default());
        let mut case = TestCase::new("build", status);
        case.set_classname(target.name.as_str());
        suite.add_test_case(case);
    }
    (suite.tests > 0).then_some(suite)
}

fn case(target: &TargetReport, test: &TestReport) -> TestCase {
    let status = if test.passed {
        TestCaseStatus::success()
    } else {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
        let said = |failure: &crate::CheckReport| {
            let place = format!("{}:{}", test.file, failure.line);
            format!("{place}: {}: expected {}, found {}", failure.check, failure.expected, failure.found)
        };
        let lines: Vec<String> = test.failures.iter().map(said).collect();
        status.set_type("check").set_message(lines.first().cloned().unwrap_or_default());
        status.set_description(lines.join("\n"));
        status
    };
    let mut case = TestCase::new(test.name.as_str(), status);
    case.set_classname(target.name.as_str()).set_time(Duration::from_secs_f64(test.seconds.max(0.0)));
    if !test.log.is_empty() {
        case.set_system_out(test.log.join("\n"));
    }
    case
}
