//! Scripted runs for tests: events and the time at which each comes.

use std::sync::Arc;
use std::time::Duration;

use imgforge_core::diagnostic::SourceFile;
use imgforge_core::event::{Activity, Event, Outcome};
use imgforge_core::name::ImageName;
use imgforge_core::testing::{CheckFailure, TestResult};
use imgforge_syntax::Span;

/// Events with their times since the start.
pub(crate) type Script = Vec<(Duration, Event)>;

/// An image's name.
pub(crate) fn name(text: &str) -> ImageName {
    ImageName::new(text).unwrap()
}

/// At `millis`, `event`.
fn at(millis: u64, event: Event) -> (Duration, Event) {
    (Duration::from_millis(millis), event)
}

pub(crate) fn started(target: &str) -> Event {
    Event::TargetStarted { target: name(target), activity: Activity::Build }
}

pub(crate) fn step(target: &str, number: usize, total: usize, text: &str) -> Event {
    Event::Step { target: name(target), number, total, text: text.into(), cached: number == 1 }
}

fn log(target: &str, line: &str) -> Event {
    Event::Log { target: name(target), line: line.into() }
}

fn finished(target: &str, millis: u64, outcome: Outcome) -> Event {
    Event::TargetFinished { target: name(target), outcome, took: Duration::from_millis(millis) }
}

pub(crate) fn built(target: &str, millis: u64, size: u64, added: u64) -> Event {
    finished(target, millis, Outcome::Built { size, added })
}

fn skipped(target: &str, by: &str) -> Event {
    finished(target, 0, Outcome::Skipped { blocked_by: name(by) })
}

fn over(millis: u64) -> (Duration, Event) {
    at(millis, Event::Finished { took: Duration::from_millis(millis) })
}

/// Packages are fetched and two images built.
pub(crate) fn succeeding() -> Script {
    let took = Duration::from_millis(3100);
    vec![
        at(0, Event::Started { to_build: 2, fresh: 3, slots: 2 }),
        at(1, Event::Fetching { what: "packages".into(), done: 0, total: 58_230_000 }),
        at(1500, Event::Fetching { what: "packages".into(), done: 24_000_000, total: 58_230_000 }),
        at(3100, Event::Fetched { what: "packages".into(), bytes: 58_230_000, files: 114, took }),
        at(3101, Event::Fetched { what: "package indexes".into(), bytes: 0, files: 0, took: Duration::ZERO }),
        at(3110, started("os-base")),
        at(3200, step("os-base", 1, 2, "ADD root.tar /")),
        at(3300, step("os-base", 2, 2, "RUN dpkg --configure \\\n      --pending")),
        at(3400, log("os-base", "Setting up libc6 ...\r")),
        at(24_510, built("os-base", 21_400, 99_000_000, 99_000_000)),
        at(24_511, started("webapp-base")),
        at(30_000, step("webapp-base", 4, 7, "RUN nginx -t")),
        at(30_711, built("webapp-base", 6_200, 127_400_000, 28_400_000)),
        over(30_720),
    ]
}

/// As [`succeeding`], then one image fails after many hostile lines, and two cannot be begun.
pub(crate) fn failing() -> Script {
    let mut script = succeeding();
    script.pop();
    script[0] = at(0, Event::Started { to_build: 5, fresh: 3, slots: 2 });
    script.push(at(30_712, Event::Warning { message: "the clock of the engine is 3 s behind".into() }));
    script.push(at(30_713, started("ruby-webapp")));
    script.push(at(30_800, step("ruby-webapp", 5, 8, "RUN bundle check")));
    script.extend((1..=22).map(|n| at(31_000 + n, log("ruby-webapp", &format!("checking gem {n}")))));
    script.push(at(31_500, log("ruby-webapp", "\x1b[31mThe following gems are missing\x1b[0m\x1b[2J")));
    script.push(at(31_501, log("ruby-webapp", "")));
    script.push(at(31_502, log("ruby-webapp", "\t* sinatra (3.0.5)")));
    let message = "the command ended with status 7".into();
    script.push(at(33_813, finished("ruby-webapp", 3_100, Outcome::Failed { message })));
    script.push(at(33_814, skipped("guestbook", "ruby-webapp")));
    script.push(at(33_814, skipped("notes", "ruby-webapp")));
    script.push(over(33_900));
    script
}

/// The user stops a run while one image is built and one waits.
pub(crate) fn interrupted() -> Script {
    vec![
        at(0, Event::Started { to_build: 2, fresh: 0, slots: 2 }),
        at(1, started("webapp-base")),
        at(100, step("webapp-base", 4, 7, "RUN nginx -t")),
        at(2000, Event::Interrupted),
        at(2100, finished("webapp-base", 2_099, Outcome::Cancelled)),
        at(2100, finished("guestbook", 0, Outcome::Cancelled)),
        over(2_200),
    ]
}

/// Fetching and building that say nothing for minutes.
pub(crate) fn slow() -> Script {
    vec![
        at(0, Event::Started { to_build: 1, fresh: 0, slots: 1 }),
        at(10, Event::Fetching { what: "packages".into(), done: 12_000_000, total: 58_230_000 }),
        at(
            70_000,
            Event::Fetched {
                what: "packages".into(),
                bytes: 58_230_000,
                files: 114,
                took: Duration::from_secs(70),
            },
        ),
        at(70_001, started("builder")),
        at(71_000, step("builder", 2, 3, "RUN make")),
        at(200_000, built("builder", 130_000, 500_000_000, 400_000_000)),
        over(200_001),
    ]
}

/// Everything stands on what fails.
pub(crate) fn many_skipped() -> Script {
    let mut script = vec![
        at(0, Event::Started { to_build: 13, fresh: 0, slots: 1 }),
        at(1, started("os-base")),
        at(50, finished("os-base", 49, Outcome::Failed { message: "no space left on device".into() })),
    ];
    script.extend((1..=12).map(|n| at(51, skipped(&format!("app-{n}"), "os-base"))));
    script.push(over(60));
    script
}

/// The tests of one image pass after its build, those of another that was there already fail.
pub(crate) fn testing() -> Script {
    let test = |target: &str, test: &str, number, total| Event::TestStarted {
        target: name(target),
        test: test.into(),
        number,
        total,
    };
    let ended = |target: &str, result| Event::TestFinished { target: name(target), result };
    vec![
        at(0, Event::Started { to_build: 3, fresh: 2, slots: 2 }),
        at(1, started("webapp-base")),
        at(10, log("webapp-base", "a line of the build")),
        at(5000, test("webapp-base", "serves", 1, 2)),
        at(6000, ended("webapp-base", tested("serves", Vec::new()))),
        at(6001, test("webapp-base", "small", 2, 2)),
        at(6100, ended("webapp-base", tested("small", Vec::new()))),
        at(6110, built("webapp-base", 6_100, 127_400_000, 28_400_000)),
        at(6111, Event::TargetStarted { target: name("status-page"), activity: Activity::Test }),
        at(6112, test("status-page", "serves", 1, 1)),
        at(6300, ended("status-page", tested("serves", Vec::new()))),
        at(6301, finished("status-page", 190, Outcome::Tested)),
        at(6302, Event::TargetStarted { target: name("notes"), activity: Activity::Test }),
        at(6303, test("notes", "serves", 1, 1)),
        at(9300, ended("notes", tested("serves", vec!["\x1b[31mbad gateway\x1b[0m".into()]))),
        at(
            9310,
            finished("notes", 3_008, failed("tests failed: serves: expected status 200, found status 502")),
        ),
        over(9_400),
    ]
}

fn failed(message: &str) -> Outcome {
    Outcome::Failed { message: message.into() }
}

/// A test with one check, which did not hold when there is a log.
fn tested(test: &str, log: Vec<String>) -> TestResult {
    let text = format!("image \"webapp-base\" {{\n    test \"{test}\" {{\n        http \"x\"\n    }}\n}}\n");
    let at = text.find("http").unwrap();
    let failure = CheckFailure {
        check: "http \"x\"".into(),
        span: Span::new(at, 8),
        expected: "status 200".into(),
        found: "status 502 & <nothing>".into(),
    };
    TestResult {
        name: test.into(),
        declared: name("webapp-base"),
        span: Span::new(text.find("test").unwrap(), 4),
        file: Arc::new(SourceFile { path: "images/webapp-base/image.kdl".into(), text }),
        checks: 1,
        failures: if log.is_empty() { Vec::new() } else { vec![failure] },
        log,
        took: Duration::from_millis(999),
    }
}
