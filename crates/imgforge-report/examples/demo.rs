//! Shows how a run looks, for those who change the reports. Nothing is built and no engine is asked: the events are
//! made up. `cargo run -p imgforge-report --example demo`; with `fail`, one image fails; with `stop`, it is
//! interrupted.

use std::thread::sleep;
use std::time::{Duration, Instant};

use imgforge_core::event::{Activity, Event, Outcome};
use imgforge_core::name::ImageName;
use imgforge_report::{Options, color_on_stderr, for_stderr};

fn main() {
    let mode = std::env::args().nth(1).unwrap_or_default();
    let options =
        Options { color: color_on_stderr(), expected: Some(Duration::from_secs(14)), ..Options::default() };
    let mut reporter = for_stderr(options);
    let begun = Instant::now();
    let mut say = |millis: u64, event: Event| {
        reporter.event(&event);
        sleep(Duration::from_millis(millis));
    };

    say(0, Event::Started { to_build: 5, fresh: 3, slots: 2 });
    for done in (0..=58_230_000).step_by(2_000_000) {
        say(80, Event::Fetching { what: "packages".into(), done, total: 58_230_000 });
    }
    let took = begun.elapsed();
    say(0, Event::Fetched { what: "packages".into(), bytes: 58_230_000, files: 114, took });
    say(0, Event::TargetStarted { target: name("os-base"), activity: Activity::Build });
    say(
        800,
        Event::TargetStarted { target: name("team/builder-with-a-long-name"), activity: Activity::Build },
    );
    say(
        800,
        step("team/builder-with-a-long-name", 2, "RUN dpkg --configure --pending && rm -rf /var/log/漢字/*"),
    );
    say(800, step("os-base", 4, "RUN echo \x1b[31mred\x1b[0m"));
    say(100, ended("os-base", Outcome::Built { size: 99_000_000, added: 99_000_000 }));
    say(0, Event::TargetStarted { target: name("webapp-base"), activity: Activity::Build });
    say(2500, step("webapp-base", 4, "RUN nginx -t"));
    if mode == "stop" {
        say(1500, Event::Interrupted);
        for target in ["team/builder-with-a-long-name", "webapp-base", "ruby-webapp", "guestbook"] {
            say(0, ended(target, Outcome::Cancelled));
        }
        say(0, Event::Finished { took: begun.elapsed() });
        return;
    }
    say(0, ended("webapp-base", Outcome::Built { size: 127_400_000, added: 28_400_000 }));
    say(500, Event::TargetStarted { target: name("ruby-webapp"), activity: Activity::Build });
    say(1500, step("ruby-webapp", 5, "RUN bundle check"));
    if mode == "fail" {
        for line in ["The following gems are missing", "\t* sinatra (3.0.5)"] {
            say(0, Event::Log { target: name("ruby-webapp"), line: line.into() });
        }
        say(0, ended("ruby-webapp", Outcome::Failed { message: "the command ended with status 7".into() }));
        say(0, ended("guestbook", Outcome::Skipped { blocked_by: name("ruby-webapp") }));
    } else {
        say(0, ended("ruby-webapp", Outcome::Built { size: 180_000_000, added: 52_600_000 }));
        say(0, Event::TargetStarted { target: name("guestbook"), activity: Activity::Build });
        say(1500, step("guestbook", 1, "COPY app /srv"));
        say(0, ended("guestbook", Outcome::Built { size: 180_010_000, added: 10_000 }));
    }
    let size = 412_000_000;
    say(0, ended("team/builder-with-a-long-name", Outcome::Built { size, added: size }));
    say(0, Event::Finished { took: begun.elapsed() });
}

fn name(text: &str) -> ImageName {
    ImageName::new(text).expect("the names of the demo are right")
}

fn step(target: &str, number: usize, text: &str) -> Event {
    Event::Step { target: name(target), number, total: 8, text: text.into(), cached: false }
}

fn ended(target: &str, outcome: Outcome) -> Event {
    Event::TargetFinished { target: name(target), outcome, took: Duration::from_millis(3100) }
}
