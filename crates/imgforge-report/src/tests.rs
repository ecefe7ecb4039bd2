use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use imgforge_core::event::{Event, Outcome, Reporter};
use imgforge_core::name::ImageName;
use indicatif::{InMemoryTerm, ProgressDrawTarget};

use super::*;

fn name(text: &str) -> ImageName {
    ImageName::new(text).unwrap()
}

fn finished(target: &str, outcome: Outcome, millis: u64) -> Event {
    Event::TargetFinished { target: name(target), outcome, took: Duration::from_millis(millis) }
}

/// A run in which everything happens that can.
fn run() -> Vec<Event> {
    let step = |target: &str, number, text: &str| Event::Step {
        target: name(target),
        number,
        total: 4,
        text: text.into(),
        cached: false,
    };
    vec![
        Event::Fetching { what: "packages".into(), done: 10_000_000, total: 58_200_000 },
        Event::Fetched {
            what: "packages".into(),
            bytes: 58_200_000,
            files: 114,
            took: Duration::from_millis(3100),
        },
        Event::Fetched { what: "package indexes".into(), bytes: 0, files: 0, took: Duration::ZERO },
        Event::Warning { message: "a locked package\u{1b}[2J is gone".into() },
        Event::Started { to_build: 4, fresh: 3, slots: 2 },
        Event::TargetStarted { target: name("os-base") },
        step("os-base", 1, "ADD .imgforge/root.tar /"),
        Event::Log { target: name("os-base"), line: "Setting up\tlibc6 \u{1b}[31mred".into() },
        finished("os-base", Outcome::Built { size: 99_000_000, added: 99_000_000 }, 21_400),
        Event::TargetStarted { target: name("ruby-webapp") },
        step("ruby-webapp", 3, "RUN bundle check \\\n  --verbose"),
        finished("ruby-webapp", Outcome::Failed { message: "the command ended with status 7".into() }, 3100),
        finished("guestbook", Outcome::Skipped { blocked_by: name("ruby-webapp") }, 0),
        finished("notes", Outcome::Cancelled, 0),
        Event::Interrupted,
        Event::Finished { took: Duration::from_secs(27) },
    ]
}

/// What `Lines` has written.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn lines(options: Options) -> String {
    let written = Written::default();
    let mut lines = Lines::new(written.clone(), options);
    run().iter().for_each(|event| lines.event(event));
    String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
}

#[test]
fn a_pipe_gets_plain_lines() {
    insta::assert_snapshot!("lines", lines(Options::default()));
    insta::assert_snapshot!("lines_verbose", lines(Options { verbose: true, ..Options::default() }));
    insta::assert_snapshot!("lines_quiet", lines(Options { quiet: true, ..Options::default() }));
    let colored = lines(Options { color: true, ..Options::default() });
    insta::assert_snapshot!("lines_colored", colored.replace('\u{1b}', "ESC"));
}

#[test]
fn a_terminal_gets_rows_that_fit_its_width() {
    for columns in [80, 40] {
        let term = InMemoryTerm::new(12, columns);
        let target = ProgressDrawTarget::term_like(Box::new(term.clone()));
        let mut live = Live::on(target, Box::new(move || usize::from(columns)), Options::default());
        let mut shown = String::new();
        for event in run() {
            live.event(&event);
            if matches!(event, Event::Fetching { .. } | Event::Step { .. } | Event::Finished { .. }) {
                let screen = term.contents();
                let widest = screen.lines().map(text::width).max().unwrap_or(0);
                assert!(widest <= usize::from(columns), "{widest} columns in\n{screen}");
                shown.push_str(&format!("--- {event:?}\n{screen}\n"));
            }
        }
        insta::assert_snapshot!(format!("live_{columns}"), shown);
    }
}

#[test]
fn a_run_is_recorded_for_programs() {
    let mut recorder = Recorder::default();
    recorder.fresh("builder");
    run().iter().for_each(|event| recorder.event(event));
    let report = recorder.into_report(Duration::from_secs(27));
    assert_eq!(
        report.summary(),
        "1 failed, 1 skipped (guestbook, blocked by ruby-webapp), 1 cancelled, 1 built, 1 fresh in 27.0 s"
    );
    insta::assert_snapshot!("json", serde_json::to_string_pretty(&report).unwrap());
}
