//! A container whose services say what they do, looked at from outside.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use imgforge_testkit::docker::{Container, Docker, Log};

/// How long anything may take on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(90);

/// A running container. Its services write `NAME EVENT TIME` into its log, the time in nanoseconds since 1970.
pub(super) struct Running {
    pub(super) container: Container,
    log: RefCell<Log>,
}

/// A service's line of `/etc/imgforge/status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    /// `up`, for example.
    pub(super) state: String,
    /// `-` when there is no process.
    pub(super) pid: String,
    /// How long it has been in that state.
    pub(super) seconds: u64,
    /// Since the container's start.
    pub(super) restarts: u64,
}

/// Nanoseconds since 1970.
pub(super) fn now() -> u128 {
    SystemTime::UNIX_EPOCH.elapsed().expect("a clock that is right").as_nanos()
}

impl Running {
    /// A container that has been started.
    pub(super) fn of(container: Container) -> Self {
        let log = RefCell::new(Log::follow(&container));
        Self { container, log }
    }

    /// What has been written so far.
    pub(super) fn log(&self) -> String {
        self.log.borrow().text()
    }

    /// When `NAME EVENT` was said, each time.
    pub(super) fn times(&self, said: &str) -> Vec<u128> {
        let mark = format!("{said} ");
        let logs = self.log();
        let lines = logs.lines().filter_map(|line| line.split_once(&mark));
        lines.filter_map(|(_, rest)| rest.split(' ').next()?.parse().ok()).collect()
    }

    /// Whether it was said.
    pub(super) fn has_said(&self, said: &str) -> bool {
        !self.times(said).is_empty()
    }

    /// Waits until it is said for the first time, and gives that time.
    pub(super) fn wait(&self, said: &str) -> u128 {
        self.wait_nth(said, 1)
    }

    /// Waits until it is said for the `nth` time, and gives that time.
    pub(super) fn wait_nth(&self, said: &str, nth: usize) -> u128 {
        self.until(&format!("\"{said}\" is said {nth} times"), || self.times(said).len() >= nth);
        self.times(said)[nth - 1]
    }

    /// Waits for a text in the log.
    pub(super) fn wait_log(&self, text: &str) {
        self.until(&format!("the log has {text:?}"), || self.log().contains(text));
    }

    /// Waits for something that has no notification.
    pub(super) fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(
                begun.elapsed() < PATIENCE,
                "waited in vain until {what}; exit code {:?}",
                self.container.exit_code()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The output of a script that is run in the container.
    pub(super) fn sh(&self, script: &str) -> String {
        self.container.exec(&["sh", "-c", script])
    }

    /// Whether a file is there.
    pub(super) fn has_file(&self, path: &str) -> bool {
        self.container.try_exec(&["/usr/bin/test", "-e", path]).is_some()
    }

    /// The command lines of all processes, one a line, their words parted by blanks.
    pub(super) fn processes(&self) -> String {
        self.sh("for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline && echo; done 2> /dev/null; true")
    }

    /// `docker stop` with time enough; the exit code.
    pub(super) fn stop(&self) -> i64 {
        Docker::run(&["stop", "-t", "60", &self.container.id]);
        self.ended()
    }

    /// Sends a signal to process 1.
    pub(super) fn signal(&self, signal: &str) {
        self.container.signal(signal);
    }

    /// Waits until the container ends by itself; the exit code.
    pub(super) fn wait_end(&self) -> i64 {
        self.until("the container has ended", || self.container.exit_code().is_some());
        self.ended()
    }

    fn ended(&self) -> i64 {
        self.until("its log has ended", || self.log.borrow().has_ended());
        self.container.exit_code().expect("it has ended")
    }

    /// `docker restart` with time enough.
    pub(super) fn restart(&self) {
        Docker::run(&["restart", "-t", "60", &self.container.id]);
        self.log.replace(Log::follow(&self.container));
    }

    /// `docker start` of a container that has ended.
    pub(super) fn start_again(&self) {
        Docker::run(&["start", &self.container.id]);
        self.log.replace(Log::follow(&self.container));
    }

    /// Each service's line of `/etc/imgforge/status`; empty as long as there is none.
    pub(super) fn status(&self) -> BTreeMap<String, Status> {
        let Some(text) = self.container.try_exec(&["/etc/imgforge/status"]) else { return BTreeMap::new() };
        let line = |line: &str| {
            let words: Vec<&str> = line.split('\t').collect();
            assert_eq!(words.len(), 5, "{line:?}");
            let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("no number in {line:?}"));
            let state = words[1].to_owned();
            assert!(STATES.contains(&words[1]), "{line:?}");
            let pid = words[2].to_owned();
            assert!(pid == "-" || number(&pid) > 0, "{line:?}");
            (
                words[0].to_owned(),
                Status { state, pid, seconds: number(words[3]), restarts: number(words[4]) },
            )
        };
        text.lines().map(line).collect()
    }

    /// A service's state; empty as long as it has none.
    pub(super) fn state(&self, service: &str) -> String {
        self.status().remove(service).map(|status| status.state).unwrap_or_default()
    }

    /// Waits until a service is in a state.
    pub(super) fn wait_state(&self, service: &str, state: &str) {
        self.until(&format!("{service} is {state}"), || self.state(service) == state);
    }

    /// Waits until a service is up; its process.
    pub(super) fn pid(&self, service: &str) -> String {
        self.wait_state(service, "up");
        self.status()[service].pid.clone()
    }
}

const STATES: [&str; 7] = ["waiting", "paused", "starting", "up", "done", "failed", "down"];

impl Drop for Running {
    /// Shows what the container was like when a check fails.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let status = self.container.try_exec(&["/etc/imgforge/status"]);
            let status = status.unwrap_or_else(|| format!("ended: {:?}", self.container.exit_code()));
            let log: String = self.log().lines().map(|line| format!("{line:.200}\n")).collect();
            eprintln!("its status:\n{status}\nits log:\n{log}");
        }
    }
}
