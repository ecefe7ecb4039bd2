//! What a scheduler needs to know of an image, whatever the scheduler.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::quote::shell_word;
use crate::container::Container;
use crate::manifest::{Millis, Probe, Process, Supervisor};
use crate::services::{MergedService, PROBE, READY, Services};
use crate::workspace::Image;

/// Added to the time that the services may take to stop, for the supervisor itself.
pub const STOP_MARGIN: Millis = Millis(2_000);

/// What Docker, Kubernetes (30 s), Nomad (5 s) give a container that says nothing; an image without services says
/// nothing either, and gets what Docker gives.
const UNSAID_STOP: Millis = Millis(10_000);

/// Added to the time until all services are ready, for the supervisor itself.
const START_MARGIN: Millis = Millis(5_000);

/// Inside the image readiness is asked for often and until it is there; from outside for as long as the container
/// runs, so not more often than this.
const LEAST_INTERVAL: Millis = Millis(5_000);

/// How long [`READY`] may take on a busy machine; it reads what the supervisor knows, and asks no service.
const READY_TIMEOUT: Millis = Millis(10_000);

/// What a start that has no bound is given, in seconds.
const UNBOUNDED_START: u64 = 3600;

/// A workload. Times are in seconds, rounded up.
#[derive(Debug, Clone, Serialize)]
pub struct Workload {
    /// The image's name in the workspace.
    pub name: String,
    /// The name as every scheduler takes it: a label of RFC 1035.
    pub slug: String,
    /// What the image is, in one line.
    pub description: Option<String>,
    /// The image reference.
    pub reference: String,
    /// Whether the reference names a registry.
    pub has_registry: bool,
    /// Ports that it listens on.
    pub ports: Vec<Port>,
    /// Folders that outlive the container.
    pub volumes: Vec<Volume>,
    /// The environment that the image has.
    pub env: Vec<Variable>,
    /// Who it runs as, when that is not root: as USER has it.
    pub user: Option<String>,
    /// The number of `user`, when it is one.
    pub uid: Option<u32>,
    /// The number of its group, when it is one.
    pub gid: Option<u32>,
    /// The group of the one user that is no root and runs something: who writes to volumes.
    pub volume_group: Option<u32>,
    /// In bytes.
    pub memory: Option<u64>,
    /// In thousandths of a processor.
    pub cpus: Option<u32>,
    /// How it is stopped.
    pub stop: Stop,
    /// How it is known to be ready.
    pub ready: Option<Check>,
    /// How its health is asked for.
    pub health: Option<Health>,
    /// How long it may take at most until it is ready; one hour when that has no bound.
    pub start_seconds: u64,
    /// Whether that is a bound.
    pub start_is_bounded: bool,
    /// What runs its services.
    pub supervisor: Option<&'static str>,
    /// Whether it is really a machine: systemd.
    pub is_machine: bool,
    /// Its services, in the order of their names.
    pub services: Vec<ServiceLine>,
    /// What is not known, for people.
    pub notes: Vec<String>,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// `tcp-80`.
    pub name: String,
}

/// A folder that outlives the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// Where it is mounted.
    pub path: String,
    /// Made of the path, as a label of RFC 1123; each once.
    pub name: String,
    /// Whether `NAME:PATH` means it.
    pub is_plain: bool,
}

/// A variable of the environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Whether its name is an identifier.
    pub is_plain: bool,
}

/// How a container is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// With `SIG`.
    pub signal: String,
    /// After this many seconds it may be killed.
    pub seconds: u64,
}

/// How it is found out whether it is ready: at least one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A program in the container that ends with 0.
    pub exec: Option<Vec<String>>,
    /// A path that is answered with a status from 200 to 399, on `port`.
    pub http: Option<String>,
    /// A TCP port that takes connections, and is exposed.
    pub port: Option<u16>,
    /// Its place among the ports.
    pub port_index: Option<usize>,
    /// Between two checks.
    pub interval: u64,
    /// Of one check.
    pub timeout: u64,
}

/// The image's own health check, with Docker's defaults for what it does not say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// A program and its arguments; a line is given to `/bin/sh -c`.
    pub argv: Vec<String>,
    /// The line, when it is one.
    pub line: Option<String>,
    /// Between two checks.
    pub interval: u64,
    /// Of one check.
    pub timeout: u64,
    /// Failures before this has passed do not count.
    pub start: u64,
    /// Failures in a row until it is unhealthy.
    pub retries: u32,
}

/// A service as one line of a shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceLine {
    /// Its name.
    pub name: String,
    /// The line; `None` where there is none for it.
    pub line: Option<String>,
    /// What the line does not say.
    pub dropped: Vec<String>,
}

fn seconds(time: Millis) -> u64 {
    time.0.div_ceil(1000)
}

impl Workload {
    /// The workload that a container of `image` is, run from `reference`.
    pub fn new(image: &Image, container: &Container, chain: &[&Image], reference: String) -> Self {
        let services = &container.services;
        let ports = ports(container);
        let start = services.start_time();
        let user = container.user.as_ref().map(|user| user.value.clone());
        let user = user.filter(|user| !matches!(user.split(':').next(), Some("root" | "0")));
        let (uid, gid) = user.as_deref().map_or((None, None), |user| {
            let (uid, gid) = user.split_once(':').map_or((user, None), |(uid, gid)| (uid, Some(gid)));
            (uid.parse().ok(), gid.and_then(|gid| gid.parse().ok()))
        });
        let stop = Stop {
            signal: signal(container),
            seconds: match services.supervisor {
                Some(_) => seconds(Millis(services.stop_time().0.saturating_add(STOP_MARGIN.0))),
                None => seconds(UNSAID_STOP),
            },
        };
        let mut workload = Self {
            name: image.name().to_string(),
            slug: slug(image.name().as_str()),
            description: image.manifest.description.clone(),
            has_registry: reference
                .split_once('/')
                .is_some_and(|(host, _)| host.contains(['.', ':']) || host == "localhost"),
            reference,
            volumes: volumes(container),
            env: env(container),
            volume_group: gid.or_else(|| volume_group(services, chain)),
            user,
            uid,
            gid,
            memory: container.memory.as_ref().map(|memory| memory.value),
            cpus: container.cpus.as_ref().map(|cpus| cpus.value),
            stop,
            ready: ready(services, &ports),
            ports,
            health: container.healthcheck.as_ref().map(health),
            start_seconds: start
                .map_or(UNBOUNDED_START, |time| seconds(Millis(time.0.saturating_add(START_MARGIN.0)))),
            start_is_bounded: start.is_some(),
            supervisor: services.supervisor.map(Supervisor::as_str),
            is_machine: services.supervisor == Some(Supervisor::Systemd),
            services: services.enabled().map(service_line).collect(),
            notes: Vec::new(),
        };
        if workload.services.is_empty()
            && let Some(line) = command_line(&container.argv())
        {
            let name = workload.slug.clone();
            workload.services.push(ServiceLine { name, line: Some(line), dropped: Vec::new() });
        }
        workload.notes = notes(container, &workload);
        workload
    }
}

fn notes(container: &Container, workload: &Workload) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(outside) = &container.outside {
        notes.push(format!("what {outside} says of ports, volumes, user and command is not known here"));
    }
    if let Some(place) = &container.instead_of_services {
        notes.push(format!(
            "the command at {} takes the place of the services that the parents have: they do not run",
            place.place()
        ));
    }
    if !workload.start_is_bounded {
        notes.push(format!(
            "how long the start may take has no bound (a oneshot, or before-start): {UNBOUNDED_START} s are given"
        ));
    }
    let asks = |service: &&MergedService| service.ready.is_some();
    if workload.ready.is_none() && container.services.enabled().any(|service| asks(&service)) {
        let name = workload.supervisor.unwrap_or_default();
        notes.push(format!(
            "readiness cannot be asked for from outside: with {name} the image has no program for it"
        ));
    }
    notes
}

/// A name of lower-case letters, digits and `-` that begins with a letter and has at most 63 characters.
fn slug(text: &str) -> String {
    let mut out = String::new();
    for c in text.to_ascii_lowercase().chars() {
        if c.is_ascii_alphanumeric() {
            out.push(c);
        } else if !out.ends_with('-') && !out.is_empty() {
            out.push('-');
        }
    }
    if !out.starts_with(|c: char| c.is_ascii_alphabetic()) {
        out.insert_str(0, "x-");
    }
    out.truncate(63);
    out.trim_end_matches('-').to_owned()
}

fn ports(container: &Container) -> Vec<Port> {
    let port = |text: &str| {
        let (number, protocol) = text.split_once('/')?;
        let number = number.parse().ok()?;
        Some(Port { number, protocol: protocol.to_owned(), name: format!("{protocol}-{number}") })
    };
    container.ports.iter().filter_map(|exposed| port(&exposed.value)).collect()
}

fn volumes(container: &Container) -> Vec<Volume> {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let volume = |path: &String| {
        let base: String = slug(path.trim_start_matches('/')).chars().take(50).collect();
        let base = base.trim_end_matches('-');
        let numbered = (2..).map(|number| format!("{base}-{number}"));
        let mut names = std::iter::once(base.to_owned()).chain(numbered);
        let name = names.find(|name| taken.insert(name.clone())).expect("numbers do not end");
        let is_plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+@".contains(&b));
        Volume { path: path.clone(), name, is_plain }
    };
    container.volumes.iter().map(|volume| &volume.value).map(volume).collect()
}

fn env(container: &Container) -> Vec<Variable> {
    let is_plain = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let variable = |(name, value): (&String, &crate::services::Field<String>)| Variable {
        name: name.clone(),
        value: value.value.clone(),
        is_plain: is_plain(name),
    };
    container.env.iter().map(variable).collect()
}

/// The services' own; else what the chain says, else what engines take.
fn signal(container: &Container) -> String {
    let said = container.stop_signal.as_ref().map(|signal| signal.value.clone());
    let signal = container.services.stop_signal().or(said).unwrap_or_else(|| "SIGTERM".into());
    if signal.starts_with("SIG") || signal.bytes().all(|b| b.is_ascii_digit()) {
        signal
    } else {
        format!("SIG{signal}")
    }
}

fn volume_group(services: &Services, chain: &[&Image]) -> Option<u32> {
    let users: BTreeSet<&str> = services.enabled().filter_map(MergedService::user).collect();
    let mut users = users.into_iter();
    let (user, None) = (users.next()?, users.next()) else { return None };
    let mut made = chain.iter().flat_map(|image| &image.manifest.users);
    made.find(|known| known.name.value == user).map(|known| known.gid)
}

/// Every service of the image must be ready. One that alone says when it is, over a port that is exposed, can be asked
/// over the network; all others are asked for by a program in the container.
fn ready(services: &Services, ports: &[Port]) -> Option<Check> {
    let mut saying: Vec<_> =
        services.enabled().filter_map(|service| service.ready.as_ref()).map(|ready| &ready.value).collect();
    let interval = saying.iter().map(|ready| ready.interval).max().unwrap_or(LEAST_INTERVAL);
    let only = if saying.len() == 1 { saying.pop() } else { None };
    let is_own = |host: &str| matches!(host, "127.0.0.1" | "localhost" | "0.0.0.0");
    let exposed = |port: u16| ports.iter().position(|known| known.number == port && known.protocol == "tcp");
    let (http, port) = match only.map(|ready| &ready.probe) {
        Some(Probe::Http { host, port, path }) if is_own(host) => (Some(path.clone()), exposed(*port)),
        Some(Probe::Tcp { host, port }) if is_own(host) => (None, exposed(*port)),
        _ => (None, None),
    };
    let has_probe = services.has_program(PROBE);
    let (exec, timeout) = if services.has_program(READY) {
        (Some(vec![READY.to_owned()]), READY_TIMEOUT)
    } else {
        let ready = only?;
        let argv = match &ready.probe {
            Probe::Exec(argv) => Some(argv.clone()),
            Probe::Http { host, port, path } if has_probe => {
                Some(vec![PROBE.into(), "http".into(), host.clone(), port.to_string(), path.clone()])
            }
            Probe::Tcp { host, port } if has_probe => {
                Some(vec![PROBE.into(), "tcp".into(), host.clone(), port.to_string()])
            }
            _ => None,
        };
        (argv, ready.timeout)
    };
    let timeout = if port.is_some() { only.map_or(timeout, |ready| ready.timeout) } else { timeout };
    if exec.is_none() && port.is_none() {
        return None;
    }
    Some(Check {
        exec,
        http: http.filter(|_| port.is_some()),
        port: port.map(|at| ports[at].number),
        port_index: port,
        interval: seconds(interval.max(LEAST_INTERVAL)),
        timeout: seconds(timeout).max(1),
    })
}

/// The defaults are those of the Dockerfile reference, HEALTHCHECK.
fn health(check: &crate::services::Field<crate::manifest::Healthcheck>) -> Health {
    let check = &check.value;
    let time = |time: Option<Millis>, default: u64| time.map_or(default, seconds);
    let line = if let [line] = check.argv.as_slice() { Some(line.clone()) } else { None };
    let argv = match &line {
        Some(line) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
        None => check.argv.clone(),
    };
    Health {
        argv,
        line,
        interval: time(check.interval, 30).max(1),
        timeout: time(check.timeout, 30).max(1),
        start: time(check.start_period, 0),
        retries: check.retries.filter(|retries| *retries > 0).unwrap_or(3),
    }
}

fn command_line(argv: &[String]) -> Option<String> {
    let words: Option<Vec<String>> = argv.iter().map(|word| shell_word(word)).collect();
    words.filter(|words| !words.is_empty()).map(|words| words.join(" "))
}

fn service_line(service: &MergedService) -> ServiceLine {
    let mut dropped = Vec::new();
    let argv = match service.process.as_ref().map(|process| &process.value) {
        Some(Process::Command(argv)) => argv.clone(),
        Some(Process::Script(text)) if text.starts_with("#!") && !text.starts_with("#!/bin/sh\n") => {
            dropped.push("a script for another program than sh".into());
            Vec::new()
        }
        Some(Process::Script(text)) => vec!["/bin/sh".into(), "-c".into(), text.trim_end().to_owned()],
        None => Vec::new(),
    };
    let variables: BTreeMap<&String, &String> =
        service.env.iter().map(|(name, value)| (name, &value.value)).collect();
    let assignments: Option<Vec<String>> =
        variables.iter().map(|(name, value)| Some(format!("{name}={}", shell_word(value)?))).collect();
    let dir = service.dir.as_ref().map(|dir| shell_word(&dir.value));
    let line = (|| {
        let command = command_line(&argv)?;
        let mut line = String::new();
        if let Some(dir) = dir {
            line.push_str(&format!("cd {} && ", dir?));
        }
        for assignment in assignments? {
            line.push_str(&assignment);
            line.push(' ');
        }
        line.push_str(if line.is_empty() { "" } else { "exec " });
        Some(line + &command)
    })();
    if line.is_none() && dropped.is_empty() {
        dropped.push("a word that does not go on one line".into());
    }
    dropped.extend(unsaid(service));
    let line = line.filter(|_| !service.is_oneshot());
    ServiceLine { name: service.name.as_str().replace('.', "-"), line, dropped }
}

/// What a line of a Procfile cannot say.
fn unsaid(service: &MergedService) -> Vec<String> {
    let mut dropped = Vec::new();
    if service.is_oneshot() {
        dropped
            .push("it is a oneshot, and the end of one process ends all of a Procfile: run it before".into());
    }
    if let Some(user) = service.user() {
        dropped.push(format!("user {user}"));
    }
    if let Some(group) = &service.group {
        dropped.push(format!("group {}", group.value));
    }
    if !service.needs.is_empty() {
        let names: Vec<&str> = service.needs.keys().map(crate::name::ServiceName::as_str).collect();
        dropped.push(format!("needs {}", names.join(" ")));
    }
    if let Some(ready) = &service.ready {
        dropped.push(format!("ready {}", ready.value.probe));
    }
    let others = [
        ("limit", !service.limits.is_empty()),
        ("restart", service.restart.is_some()),
        ("stop", service.stop.is_some()),
        ("reload", service.reload.is_some()),
        ("before-start", service.before_start.is_some()),
        ("after-stop", service.after_stop.is_some()),
        ("log", service.log.is_some()),
    ];
    dropped.extend(others.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| (*name).to_owned()));
    dropped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_slug_is_a_label(text in "[a-z0-9._/-]{1,128}") {
            let slug = slug(&text);
            prop_assert!(!slug.is_empty() && slug.len() <= 63);
            prop_assert!(slug.starts_with(|c: char| c.is_ascii_lowercase()) && !slug.ends_with('-'), "{slug}");
            prop_assert!(slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{slug}");
        }
    }
}
