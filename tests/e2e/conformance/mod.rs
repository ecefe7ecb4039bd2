//! The conformance suite of services: one set of behaviours, run against every supervisor in real containers, and the
//! table of it in `docs/supervisors.md`.
//!
//! Each behaviour is an image on one that has a service `main` already. What a supervisor cannot express must be
//! refused before anything is built; the table then shows the error. With `IMGFORGE_TEST_UPDATE_DOCS=1` the tests write
//! their columns instead of comparing them; `IMGFORGE_TEST_BEHAVIOUR="clean stop"` takes the rows with these words
//! only.

mod behaviours;
pub(crate) mod images;
mod running;
mod table;
pub(crate) mod variables;

use std::any::Any;
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Instant;

use imgforge_testkit::docker::Container;
use imgforge_testkit::workspace::TestWorkspace;

use self::running::Running;
use crate::imgforge;

/// Something that is to be the same under every supervisor.
struct Behaviour {
    /// The row's name.
    name: &'static str,
    /// The services of the images that show it: each image stands on the one before, the first on `mid`, which has
    /// the service `main`.
    images: &'static [&'static str],
    /// Looks at containers of the last image.
    check: fn(&Subject),
}

impl Behaviour {
    /// `stop-while-starting` of `stop while starting`: the last of its images.
    fn image(&self) -> String {
        let is_letter = |c: char| c.is_ascii_alphanumeric();
        let words = self.name.split(|c| !is_letter(c)).filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join("-").to_ascii_lowercase()
    }
}

/// An image that is looked at.
struct Subject<'w> {
    workspace: &'w TestWorkspace,
    supervisor: &'static str,
    image: String,
    differs: Cell<Option<&'static str>>,
}

impl Subject<'_> {
    /// Starts a container of the image, with more options for `docker run`.
    fn start(&self, options: &[&str]) -> Running {
        self.start_with(options, &[])
    }

    /// The same with a command.
    fn start_with(&self, options: &[&str], command: &[&str]) -> Running {
        let reference = self.workspace.repository(&self.image);
        let own = images::docker_options(self.supervisor);
        Running::of(Container::start(&[own, options, &[&reference], command].concat()))
    }

    /// Whether it is a supervisor of exactly one service.
    fn is_single(&self) -> bool {
        matches!(self.supervisor, "tini" | "dumb-init" | "none")
    }

    /// What someone in the container types who wants a service to be stopped.
    fn stop_by_hand(&self, service: &str) -> String {
        match self.supervisor {
            "s6" => format!("s6-svc -d /run/imgforge/s6/{service}"),
            "s6-overlay" => format!("/command/s6-svc -d /run/service/imgforge-{service}"),
            "runit" => format!("sv down /run/imgforge/runit/{service}"),
            "supervisord" => format!("supervisorctl -c /etc/imgforge/supervisord.conf stop {service}"),
            "systemd" => format!("systemctl stop imgforge-{service}"),
            other => unreachable!("{other} has no second service"),
        }
    }

    /// What is checked is not the same here as elsewhere, and this is how it is.
    fn differs(&self, words: &'static str) {
        self.differs.set(Some(words));
    }
}

/// What is found out about a behaviour and a supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    /// Containers behave so.
    Pass,
    /// They behave in another way, which is this.
    Differs(String),
    /// `imgforge plan` refuses it with this error.
    NotExpressible(String),
}

/// The behaviours that are looked at: all, or those whose names have one of the texts in `IMGFORGE_TEST_BEHAVIOUR`,
/// with `|` between them.
fn chosen() -> Vec<&'static Behaviour> {
    let parts = std::env::var("IMGFORGE_TEST_BEHAVIOUR").unwrap_or_default();
    let is_chosen = |behaviour: &&Behaviour| parts.split('|').any(|part| behaviour.name.contains(part));
    behaviours::all().filter(is_chosen).collect()
}

/// Most of a check's time is waiting.
const AT_ONCE: usize = 6;

fn column(supervisor: &'static str) -> BTreeMap<&'static str, Found> {
    let begun = Instant::now();
    let workspace = images::family(supervisor);
    let mut cells = BTreeMap::new();
    let mut possible = VecDeque::new();
    // The lock is made here, once; images that are refused have no part in it.
    imgforge(&workspace, &["build", "mid"]).ok();
    let refuses_something = imgforge(&workspace, &["plan"]).code == 2;
    for behaviour in chosen() {
        if refuses_something {
            let planned = imgforge(&workspace, &["plan", &behaviour.image()]);
            if planned.code == 2 {
                cells.insert(behaviour.name, Found::NotExpressible(error_of(&planned.stderr)));
                continue;
            }
        }
        possible.push_back(behaviour);
    }
    let images: Vec<String> = possible.iter().map(|behaviour| behaviour.image()).collect();
    let images = images.iter().map(String::as_str);
    if !possible.is_empty() {
        imgforge(&workspace, &["build", "--locked"].into_iter().chain(images).collect::<Vec<_>>()).ok();
    }
    eprintln!("{supervisor}: built after {:?}", begun.elapsed());

    let (queue, cells, failures) = (Mutex::new(possible), Mutex::new(cells), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(behaviour) = next(&queue) {
                    let begun = Instant::now();
                    let subject = Subject {
                        workspace: &workspace,
                        supervisor,
                        image: behaviour.image(),
                        differs: Cell::new(None),
                    };
                    let checked = catch_unwind(AssertUnwindSafe(|| (behaviour.check)(&subject)));
                    eprintln!("{supervisor}: {}: {:?}", behaviour.name, begun.elapsed());
                    if let Err(panic) = checked {
                        let words = format!("--- {}\n{}\n", behaviour.name, words_of(&*panic));
                        failures.lock().unwrap().push(words);
                    } else {
                        let differs = subject.differs.get().map(|words| Found::Differs(words.to_owned()));
                        cells.lock().unwrap().insert(behaviour.name, differs.unwrap_or(Found::Pass));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{supervisor} does not do what it should:\n{}", failures.concat());
    cells.into_inner().unwrap()
}

fn next(queue: &Mutex<VecDeque<&'static Behaviour>>) -> Option<&'static Behaviour> {
    queue.lock().unwrap().pop_front()
}

fn words_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked without words")
}

/// The first problem that is shown, on one line and without its mark.
fn error_of(stderr: &str) -> String {
    let mut lines = stderr.lines().map(str::trim).skip_while(|line| !line.starts_with("× "));
    let first = lines.next().unwrap_or_else(|| panic!("an error without a problem:\n{stderr}"));
    let rest = lines.map_while(|line| line.strip_prefix("│ "));
    [first.trim_start_matches("× ")].into_iter().chain(rest).collect::<Vec<_>>().join(" ")
}

fn conforms(supervisor: &'static str) {
    table::compare(supervisor, &column(supervisor));
}

#[test]
fn s6() {
    conforms("s6");
}

#[test]
fn runit() {
    conforms("runit");
}

#[test]
fn supervisord() {
    conforms("supervisord");
}

#[test]
fn tini() {
    conforms("tini");
}

#[test]
fn dumb_init() {
    conforms("dumb-init");
}

#[test]
fn none() {
    conforms("none");
}

#[test]
fn systemd() {
    conforms("systemd");
}

#[test]
#[ignore = "no package holds s6-overlay: it is for those who name a tar of it in IMGFORGE_TEST_S6_OVERLAY"]
fn s6_overlay() {
    conforms("s6-overlay");
}
