//! The conformance suite of services: one set of behaviours, run against every supervisor in real containers, and the
//! table of it in `docs/supervisors.md`.
//!
//! Each behaviour is a small image on one that has a service `main` already. What a supervisor cannot express must be
//! refused before anything is built; the table then shows the error. With `IMGFORGE_UPDATE_DOCS=1` the tests write
//! their columns instead of comparing them.

mod behaviours;
mod table;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use imgforge_testkit::docker::{Container, Docker};
use imgforge_testkit::workspace::TestWorkspace;

use self::behaviours::BEHAVIOURS;
use crate::imgforge;

/// Something that is to be the same under every supervisor.
struct Behaviour {
    /// The row's name.
    name: &'static str,
    /// The services of the image that shows it, which stands on one with the service `main`.
    services: &'static str,
    /// Looks at containers of the image.
    check: fn(&Subject),
}

/// An image that is looked at.
struct Subject<'w> {
    workspace: &'w TestWorkspace,
    supervisor: &'static str,
    image: String,
}

impl Subject<'_> {
    /// Starts a container of the image.
    fn start(&self, options: &[&str]) -> Running {
        self.start_with(options, &[])
    }

    /// The same with a command.
    fn start_with(&self, options: &[&str], command: &[&str]) -> Running {
        let reference = self.workspace.repository(&self.image);
        let own = options_of(self.supervisor);
        Running(Container::start(&[own, options, &[&reference], command].concat()))
    }

    fn is_single(&self) -> bool {
        matches!(self.supervisor, "tini" | "dumb-init" | "none")
    }
}

/// What containers of a supervisor need of Docker; docs/supervisors.md says why.
fn options_of(supervisor: &str) -> &'static [&'static str] {
    match supervisor {
        "systemd" => &[
            "--cgroupns=host",
            "--volume=/sys/fs/cgroup:/sys/fs/cgroup",
            "--tmpfs=/run",
            "--tmpfs=/run/lock",
        ],
        _ => &[],
    }
}

/// A container whose services say what they do: `NAME EVENT TIME` in the log, the time in ns.
struct Running(Container);

impl Running {
    /// Waits until a service has said something so many times, and gives the time of the last of them in ns.
    fn wait_nth(&self, said: &str, nth: usize) -> u64 {
        let begun = Instant::now();
        loop {
            let logs = self.0.logs();
            let mark = format!("{said} ");
            let mut times = logs.lines().filter_map(|line| {
                let rest = &line[line.find(&mark)? + mark.len()..];
                rest.split(' ').next()?.parse::<u64>().ok()
            });
            if let Some(time) = times.nth(nth - 1) {
                return time;
            }
            assert!(begun.elapsed() < PATIENCE, "nothing says \"{said}\" {nth} times:\n{logs}");
            std::thread::sleep(Duration::from_millis(150));
        }
    }

    fn wait(&self, said: &str) -> u64 {
        self.wait_nth(said, 1)
    }

    fn has_said(&self, said: &str) -> bool {
        self.0.logs().contains(&format!("{said} "))
    }

    /// Waits for a text in the log.
    fn wait_log(&self, text: &str) {
        self.until(&format!("the log has \"{text}\""), || self.0.logs().contains(text));
    }

    fn until(&self, what: &str, mut is: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is() {
            assert!(begun.elapsed() < PATIENCE, "not so: {what}\n{}", self.0.logs());
            std::thread::sleep(Duration::from_millis(150));
        }
    }

    fn sh(&self, script: &str) -> String {
        self.0.exec(&["sh", "-c", script])
    }

    /// `docker stop` with time enough, and the exit code.
    fn stop(&self) -> i64 {
        Docker::run(&["stop", "-t", "30", &self.0.id]);
        self.0.exit_code().expect("it has ended")
    }

    fn wait_end(&self) -> i64 {
        self.until("the container has ended", || self.0.exit_code().is_some());
        self.0.exit_code().expect("it has ended")
    }

    /// Each service's line of `/etc/imgforge/status`: state, pid, restarts.
    fn status(&self) -> BTreeMap<String, (String, String, u64)> {
        let Some(text) = self.0.try_exec(&["/etc/imgforge/status"]) else { return BTreeMap::new() };
        text.lines()
            .map(|line| {
                let words: Vec<&str> = line.split('\t').collect();
                assert_eq!(words.len(), 5, "{line}");
                let seconds: u64 = words[3].parse().expect("seconds");
                assert!(seconds < 10_000, "{line}");
                let restarts = words[4].parse().expect("a number");
                (words[0].to_owned(), (words[1].to_owned(), words[2].to_owned(), restarts))
            })
            .collect()
    }

    fn state(&self, service: &str) -> String {
        self.status().get(service).map(|status| status.0.clone()).unwrap_or_default()
    }

    fn wait_state(&self, service: &str, state: &str) {
        self.until(&format!("{service} is {state}"), || self.state(service) == state);
    }
}

/// How long anything may take on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// `svc NAME`: says when it starts, and when it is stopped.
const SVC: &str = "#!/bin/sh\nsay() { echo \"$name $1 $(date +%s%N) $$\"; }\nname=$1\ntrap 'say stop; exit 0' TERM\nsay start\nwhile :; do sleep 60 & wait $!; done\n";

/// `say NAME EVENT`.
const SAY: &str = "#!/bin/sh\necho \"$1 $2 $(date +%s%N)\"\n";

/// `serve PORT DELAY`: a server that listens after so many seconds, and answers 200 on `/ok` and 503 elsewhere.
const SERVE: &str = r#"#!/usr/bin/perl
use IO::Socket::INET;
$| = 1; $SIG{TERM} = sub { exit 0 };
sleep $ARGV[1];
my $server = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $ARGV[0], Listen => 9, ReuseAddr => 1) or die;
print "serve listens ", `date +%s%N`;
while (1) {
    my $client = $server->accept or next;
    $client->autoflush(1);
    my $line = <$client>;
    next unless defined $line;
    my $status = $line =~ m{^GET /ok } ? "200 OK" : "503 No";
    print $client "HTTP/1.0 $status\r\nContent-Length: 0\r\n\r\n";
    close $client;
}
"#;

const MAIN: &str = "    service \"main\" {\n        command \"/usr/local/bin/svc\" \"main\"\n    }";

fn family(supervisor: &str) -> TestWorkspace {
    let workspace = TestWorkspace::new();
    let described = std::fs::read_to_string(workspace.root().join("imgforge.kdl")).unwrap();
    workspace.write(
        "imgforge.kdl",
        &format!("{described}apt \"debian\" {{\n    suite \"bookworm\" \"bookworm-updates\" \"bookworm-security\"\n}}\n"),
    );
    workspace.image(
        "os",
        "    root \"debian\"\n    user \"app\" uid=1000 home=\"/srv/app\"\n    user \"files\" uid=1001",
    );
    for (name, text) in [("svc", SVC), ("say", SAY), ("serve", SERVE)] {
        workspace.write(&format!("mid/{name}"), text);
    }
    let brings = if supervisor == "s6-overlay" { " install=#false" } else { "" };
    workspace.image(
        "mid",
        &format!(
            "    from \"os\"\n    supervisor \"{supervisor}\"{brings}\n    copy \"svc\" \"say\" \"serve\" \"/usr/local/bin/\" mode=\"0755\"\n{MAIN}"
        ),
    );
    for behaviour in BEHAVIOURS {
        workspace.image(&image_of(behaviour), &format!("    from \"mid\"\n{}", behaviour.services));
    }
    workspace
}

/// `stop-while-starting` of `stop while starting`.
fn image_of(behaviour: &Behaviour) -> String {
    let name: String = behaviour
        .name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    name.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

/// What a cell of the table says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cell {
    Pass,
    /// Refused, with this error.
    NotExpressible(String),
}

fn column(supervisor: &'static str) -> BTreeMap<&'static str, Cell> {
    let begun = Instant::now();
    let workspace = family(supervisor);
    let mut cells = BTreeMap::new();
    let mut possible = Vec::new();
    // The lock is made once, for all of them; images that are refused have no part in it.
    imgforge(&workspace, &["build", "mid"]).ok();
    for behaviour in BEHAVIOURS.iter().copied() {
        let planned = imgforge(&workspace, &["plan", &image_of(behaviour)]);
        if planned.code == 2 {
            cells.insert(behaviour.name, Cell::NotExpressible(error_of(&planned.stderr)));
        } else {
            planned.ok();
            possible.push(behaviour);
        }
    }
    let images: Vec<String> = possible.iter().map(|behaviour| image_of(behaviour)).collect();
    let build: Vec<&str> =
        ["build", "--locked"].into_iter().chain(images.iter().map(String::as_str)).collect();
    imgforge(&workspace, &build).ok();

    eprintln!("{supervisor}: built after {:?}", begun.elapsed());
    // Most of their time is waiting.
    let (queue, failures) = (Mutex::new(possible.clone()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(behaviour) = next(&queue) {
                    let begun = Instant::now();
                    let subject = Subject { workspace: &workspace, supervisor, image: image_of(behaviour) };
                    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        (behaviour.check)(&subject);
                    }));
                    eprintln!("{supervisor}: {}: {:?}", behaviour.name, begun.elapsed());
                    if checked.is_err() {
                        failures.lock().unwrap().push(behaviour.name);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{supervisor} does not: {failures:?}");
    cells.extend(possible.into_iter().map(|behaviour| (behaviour.name, Cell::Pass)));
    cells
}

fn next(queue: &Mutex<Vec<&'static Behaviour>>) -> Option<&'static Behaviour> {
    queue.lock().unwrap().pop()
}

/// The first line of the first problem, without its mark.
fn error_of(stderr: &str) -> String {
    let line = stderr.lines().find_map(|line| line.trim().strip_prefix("× "));
    line.unwrap_or_else(|| panic!("an error without a problem:\n{stderr}")).to_owned()
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
