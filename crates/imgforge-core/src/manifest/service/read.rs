//! Reads `service "NAME" { ... }` and `supervisor "NAME"`.

use std::collections::BTreeMap;

use imgforge_syntax::{Located, Span};

use super::{
    GiveUp, Limit, Log, Need, Probe, Process, Ready, Reload, Restart, RestartBound, RestartPolicy, Service,
    ServiceType, Stop, Supervisor, SupervisorChoice, Wait,
};
use crate::diagnostic::Problem;
use crate::manifest::Millis;
use crate::manifest::reader::{Node, Once};
use crate::manifest::workspace::pair;
use crate::name::ServiceName;

pub(in crate::manifest) const IN_SERVICE: &[&str] = &[
    "enabled",
    "type",
    "command",
    "script",
    "user",
    "group",
    "dir",
    "env",
    "limit",
    "needs",
    "before",
    "ready",
    "restart",
    "essential",
    "stop",
    "reload",
    "before-start",
    "after-stop",
    "log",
];

/// Those that may stand more than once.
const MANY: &[&str] = &["env", "limit", "needs", "before"];

/// Names that are not services but points in the start of a container.
const ANCHORS: &[&str] = &["init", "ready"];

pub(in crate::manifest) fn service(mut node: Node<'_, '_, '_>) -> Option<Service> {
    let span = node.span();
    let name = node.string("the service's name").and_then(|name| service_name(&node, name));
    let name = name.filter(|name| !is_anchor(&node, name));
    let mut service = Service {
        span,
        name: name?,
        enabled: None,
        kind: None,
        process: None,
        user: None,
        group: None,
        dir: None,
        env: BTreeMap::new(),
        limits: BTreeMap::new(),
        needs: Vec::new(),
        before: Vec::new(),
        ready: None,
        restart: None,
        essential: None,
        stop: None,
        reload: None,
        before_start: None,
        after_stop: None,
        log: None,
    };
    let reader = node.reader;
    let mut once = Once::default();
    for kdl in node.children() {
        let mut child = reader.node(kdl);
        if IN_SERVICE.contains(&child.name()) && !MANY.contains(&child.name()) && !once.first(&child) {
            continue;
        }
        let span = child.span();
        let at = |value| Located::new(value, span);
        match child.name() {
            "enabled" => service.enabled = child.bool(),
            "type" => service.kind = kind(&mut child),
            "command" | "script" => process(&mut child, &mut service),
            "user" => service.user = child.string("a user"),
            "group" => service.group = child.string("a group"),
            "dir" => service.dir = child.string("a folder").and_then(|dir| absolute(&child, dir)),
            "env" => pair(&mut child, &mut service.env),
            "limit" => limits(&mut child, &mut service.limits),
            "needs" => needs(&mut child, &mut service.needs),
            "before" => {
                let names = child.strings("a service, \"init\" or \"ready\"", 1);
                service.before.extend(names.into_iter().filter_map(|name| wait(&child, name)));
            }
            "ready" => service.ready = ready(&mut child).map(|ready| Located::new(ready, span)),
            "restart" => service.restart = restart(&mut child).map(|restart| Located::new(restart, span)),
            "essential" => service.essential = child.bool(),
            "stop" => service.stop = Some(Located::new(stop(&mut child), span)),
            "reload" => service.reload = reload(&mut child).map(|reload| Located::new(reload, span)),
            "before-start" => service.before_start = argv(&mut child).map(at),
            "after-stop" => service.after_stop = argv(&mut child).map(at),
            "log" => service.log = log(&mut child, &service.name.value).map(|log| Located::new(log, span)),
            other => {
                reader.unknown(child.name_span(), "node", other, IN_SERVICE);
                continue;
            }
        }
        child.done();
    }
    node.done();
    Some(service)
}

pub(in crate::manifest) fn service_name(
    node: &Node<'_, '_, '_>,
    name: Located<String>,
) -> Option<Located<ServiceName>> {
    match ServiceName::new(name.value) {
        Ok(value) => Some(Located::new(value, name.span)),
        Err(error) => {
            node.problem(name.span, error.to_string(), "not a safe file name");
            None
        }
    }
}

fn is_anchor(node: &Node<'_, '_, '_>, name: &Located<ServiceName>) -> bool {
    let is_anchor = ANCHORS.contains(&name.value.as_str());
    if is_anchor {
        let message = format!("\"{}\" is a point in the container's start, not a service", name.value);
        let problem = Problem::at(node.reader.file, name.span, message, "another name is expected");
        node.reader.push(problem.help(format!(
            "a service comes before it with: before \"{0}\"; or after it with: needs \"{0}\"",
            name.value
        )));
    }
    is_anchor
}

fn wait(node: &Node<'_, '_, '_>, name: Located<String>) -> Option<Located<Wait>> {
    match name.value.as_str() {
        "init" => Some(Located::new(Wait::Init, name.span)),
        "ready" => Some(Located::new(Wait::Ready, name.span)),
        _ => {
            let name = service_name(node, name)?;
            Some(Located::new(Wait::Service(name.value), name.span))
        }
    }
}

fn needs(node: &mut Node<'_, '_, '_>, needs: &mut Vec<Located<Need>>) {
    let remove = node.flag_property("remove").is_some_and(|remove| remove.value);
    for name in node.strings("a service, \"init\" or \"ready\"", 1) {
        if let Some(on) = wait(node, name) {
            needs.push(Located::new(Need { on: on.value, remove }, on.span));
        }
    }
}

fn kind(node: &mut Node<'_, '_, '_>) -> Option<Located<ServiceType>> {
    let word = node.string("\"longrun\" or \"oneshot\"")?;
    let kind = match word.value.as_str() {
        "longrun" => ServiceType::Longrun,
        "oneshot" => ServiceType::Oneshot,
        other => {
            node.reader.unknown(word.span, "type of service", other, &["longrun", "oneshot"]);
            return None;
        }
    };
    Some(Located::new(kind, node.span()))
}

fn argv(node: &mut Node<'_, '_, '_>) -> Option<Vec<String>> {
    let argv = node.words("a program", 1);
    (!argv.is_empty()).then_some(argv)
}

fn process(node: &mut Node<'_, '_, '_>, service: &mut Service) {
    let span = node.span();
    let process = match node.name() {
        "command" => argv(node).map(Process::Command),
        _ => node.string("a shell script").map(|text| Process::Script(text.value)),
    };
    if let Some(before) = &service.process {
        let message = "a service has a command or a script, not both";
        let problem = Problem::at(node.reader.file, span, message, "again here");
        node.reader.push(problem.and(before.span, "first here"));
        return;
    }
    service.process = process.map(|process| Located::new(process, span));
}

/// A path in the image.
pub(in crate::manifest) fn absolute(
    node: &Node<'_, '_, '_>,
    path: Located<String>,
) -> Option<Located<String>> {
    if !path.value.starts_with('/') || path.value.contains('\n') {
        let message = format!("\"{}\" takes an absolute path in the image", node.name());
        let label =
            if path.value.starts_with('/') { "has more than one line" } else { "does not start with /" };
        let problem = Problem::at(node.reader.file, path.span, message, label);
        node.reader.push(problem);
        return None;
    }
    Some(path)
}

fn limits(node: &mut Node<'_, '_, '_>, limits: &mut BTreeMap<Limit, Located<Option<u64>>>) {
    let mut count = 0;
    for limit in Limit::ALL {
        let Some(word) = node.text_or_number_property(limit.as_str()) else { continue };
        count += 1;
        let value = match word.value.as_str() {
            "unlimited" => Some(None),
            text if limit.is_bytes() => parse_size(text).map(Some),
            text => text.parse().ok().map(Some),
        };
        let Some(value) = value else {
            let message = format!("\"{}\" is not a limit for {}", word.value, limit.as_str());
            let problem = Problem::at(node.reader.file, word.span, message, "not such a number");
            node.reader.push(problem.help(if limit.is_bytes() {
                "bytes as a number, \"64KB\", \"512MB\", \"2GB\", or \"unlimited\""
            } else {
                "a whole number, or \"unlimited\""
            }));
            continue;
        };
        limits.insert(limit, Located::new(value, word.span));
    }
    if count == 0 && !node.has_any_property() {
        let problem =
            Problem::at(node.reader.file, node.span(), "\"limit\" names no limit", "one is expected");
        node.reader.push(problem.help("for example: limit nofile=65536 core=0"));
    }
}

/// `1000`, `64KB`, `512MB`, `2GB`: powers of 1024, as everyone who writes memory limits means them.
pub(in crate::manifest) fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "" | "B" => 1,
        "KB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// A size that is given as a property.
fn size_property(node: &mut Node<'_, '_, '_>, name: &'static str) -> Option<u64> {
    let word = node.text_or_number_property(name)?;
    let size = parse_size(&word.value).filter(|size| *size > 0);
    if size.is_none() {
        let problem = Problem::at(node.reader.file, word.span, format!("{name} is not a size"), "not a size");
        node.reader.push(problem.help("a number and a unit: \"64KB\", \"10MB\" or \"1GB\""));
    }
    size
}

/// A time in which something can happen.
fn some_time(node: &mut Node<'_, '_, '_>, name: &'static str) -> Option<Millis> {
    let time = node.time_property(name);
    if time == Some(Millis(0)) {
        node.problem(node.span(), format!("{name} leaves no time"), "more than 0 s is expected");
    }
    time
}

fn ready(node: &mut Node<'_, '_, '_>) -> Option<Ready> {
    let interval = node.time_property("interval").unwrap_or(Millis(200));
    let timeout = some_time(node, "timeout").unwrap_or(Millis(30_000));
    let http = node.text_property("http");
    let tcp = node.text_or_number_property("tcp");
    let fd = node.number_property("fd");
    let given = [http.as_ref().map(|w| w.span), tcp.as_ref().map(|w| w.span), fd.as_ref().map(|w| w.span)];
    let given: Vec<Span> = given.into_iter().flatten().collect();
    let has_program = node.has_argument();
    if usize::from(has_program) + given.len() > 1 {
        let problem = Problem::at(
            node.reader.file,
            node.span(),
            "readiness is found out in one way",
            "more than one is given",
        );
        node.reader.push(problem.help("a program, or one of http=, tcp= and fd="));
        node.strings("a program", 0);
        return None;
    }
    let probe = if let Some(address) = http {
        http_probe(node, &address)
    } else if let Some(address) = tcp {
        tcp_probe(node, &address)
    } else if let Some(fd) = fd {
        fd_probe(node, &fd)
    } else {
        let command = node.words(
            "a program that ends with 0 once the service is ready, or http=, tcp= or fd=",
            usize::from(!["http", "tcp", "fd"].iter().any(|name| node.has_property(name))),
        );
        (!command.is_empty()).then_some(Probe::Exec(command))
    };
    Some(Ready { probe: probe?, interval, timeout })
}

fn refused(node: &Node<'_, '_, '_>, word: Span, message: impl Into<String>, help: &str) {
    let problem = Problem::at(node.reader.file, word, message, "not possible here");
    node.reader.push(problem.help(help));
}

const HTTP_HELP: &str = "for example: ready http=\"http://127.0.0.1:8080/healthz\"";

fn http_probe(node: &Node<'_, '_, '_>, address: &Located<String>) -> Option<Probe> {
    let Some(rest) = address.value.strip_prefix("http://") else {
        let message = format!("\"{}\" is not an http:// address", address.value);
        let help = "readiness is asked inside the container, over plain HTTP; for https give a program: ready \"curl\" \"-fsk\" ...";
        refused(node, address.span, message, help);
        return None;
    };
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let is_plain = path.bytes().all(|b| b.is_ascii_graphic());
    match authority_of(authority, Some(80)).filter(|_| is_plain) {
        Some((host, port)) => Some(Probe::Http { host, port, path: path.to_owned() }),
        None => {
            let message = format!("\"{}\" is not an address of HOST, HOST:PORT and a path", address.value);
            refused(node, address.span, message, HTTP_HELP);
            None
        }
    }
}

fn tcp_probe(node: &Node<'_, '_, '_>, address: &Located<String>) -> Option<Probe> {
    let is_port = address.value.bytes().all(|b| b.is_ascii_digit());
    let text = if is_port { format!("127.0.0.1:{}", address.value) } else { address.value.clone() };
    match authority_of(&text, None) {
        Some((host, port)) => Some(Probe::Tcp { host, port }),
        None => {
            let message = format!("\"{}\" is not HOST:PORT", address.value);
            refused(node, address.span, message, "for example: ready tcp=5432, or tcp=\"127.0.0.1:5432\"");
            None
        }
    }
}

/// `HOST:PORT`, as sh, bash and wget can be given it.
fn authority_of(text: &str, default: Option<u16>) -> Option<(String, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0)?),
        None => (text, default?),
    };
    let is_host = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    (!host.is_empty() && host.bytes().all(is_host)).then(|| (host.to_owned(), port))
}

fn fd_probe(node: &Node<'_, '_, '_>, fd: &Located<u32>) -> Option<Probe> {
    // dash opens descriptors of one digit only.
    if !(3..=9).contains(&fd.value) {
        let message = format!("{} cannot be the descriptor that tells of readiness", fd.value);
        refused(node, fd.span, message, "one from 3 to 9; 0, 1 and 2 have their own use");
        return None;
    }
    Some(Probe::Fd(fd.value))
}

fn restart(node: &mut Node<'_, '_, '_>) -> Option<Restart> {
    let word = node.string("\"always\", \"on-failure\" or \"never\"")?;
    let policy = match word.value.as_str() {
        "always" => RestartPolicy::Always,
        "on-failure" => RestartPolicy::OnFailure,
        "never" => RestartPolicy::Never,
        other => {
            node.reader.unknown(word.span, "restart policy", other, &["always", "on-failure", "never"]);
            return None;
        }
    };
    let delay = node.time_property("delay").unwrap_or(Millis(0));
    let max = node.number_property("max");
    let within = some_time(node, "within");
    let then = node.text_property("then").and_then(|word| match word.value.as_str() {
        "give-up" => Some(GiveUp::Service),
        "stop" => Some(GiveUp::Container),
        other => {
            node.reader.unknown(word.span, "end of restarts", other, &["give-up", "stop"]);
            None
        }
    });
    let bound = max.map(|max| RestartBound {
        max: max.value,
        within: within.unwrap_or(Millis(60_000)),
        then: then.unwrap_or(GiveUp::Service),
    });
    if bound.is_none() && (within.is_some() || then.is_some()) && !node.has_property("max") {
        let problem =
            Problem::at(node.reader.file, node.span(), "how many restarts are too many?", "max= is missing");
        node.reader.push(problem.help("for example: restart \"always\" max=5 within=\"60s\" then=\"stop\""));
    }
    Some(Restart { policy, delay, bound })
}

fn stop(node: &mut Node<'_, '_, '_>) -> Stop {
    let word = node.text_property("signal");
    let signal = word.and_then(|word| signal(node, &word)).unwrap_or_else(|| "TERM".into());
    let group = node.flag_property("group").is_some_and(|group| group.value);
    Stop { signal, grace: node.time_property("grace").unwrap_or(Millis(10_000)), group }
}

fn reload(node: &mut Node<'_, '_, '_>) -> Option<Reload> {
    if let Some(word) = node.text_property("signal") {
        return signal(node, &word).map(Reload::Signal);
    }
    let argv = node.words("a signal or a program", usize::from(!node.has_property("signal")));
    (!argv.is_empty()).then_some(Reload::Command(argv))
}

fn log(node: &mut Node<'_, '_, '_>, service: &ServiceName) -> Option<Log> {
    let word = node.string("\"stdout\", \"file\" or \"null\"")?;
    match word.value.as_str() {
        "stdout" => {
            let prefix = node.text_or_false_property("prefix");
            let prefix = prefix.map_or_else(|| Some(format!("{service}: ")), |prefix| prefix.value);
            if prefix.as_ref().is_some_and(|prefix| prefix.contains(['\n', '\r'])) {
                node.problem(node.span(), "the prefix has more than one line", "one line is expected");
                return None;
            }
            Some(Log::Stdout { prefix })
        }
        "file" => {
            let dir = node.text_property("dir");
            let max_size = size_property(node, "max-size").unwrap_or(1 << 20);
            let keep = node.number_property("keep").map_or(10, |keep| keep.value);
            let Some(dir) = dir else {
                let problem =
                    Problem::at(node.reader.file, node.span(), "in which folder?", "dir= is missing");
                node.reader.push(problem.help("for example: log \"file\" dir=\"/var/log/web\""));
                return None;
            };
            // Below what s6-log takes as the least size of a file.
            if !(4096..=268_435_455).contains(&max_size) {
                let message = "a log file has from 4 KB to 255 MB";
                refused(node, node.span(), message, "for example: max-size=\"1MB\"");
                return None;
            }
            let dir = absolute(node, dir)?.value;
            Some(Log::File { dir, max_size, keep })
        }
        "null" => Some(Log::Null),
        other => {
            node.reader.unknown(word.span, "log", other, &["stdout", "file", "null"]);
            None
        }
    }
}

const SIGNALS: &[&str] = &["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "KILL", "WINCH", "ALRM"];

/// A signal's name, with or without `SIG`; without it in the result.
pub(in crate::manifest) fn signal(node: &Node<'_, '_, '_>, word: &Located<String>) -> Option<String> {
    let upper = word.value.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if SIGNALS.contains(&name) {
        return Some(name.to_owned());
    }
    node.reader.unknown(word.span, "signal", &word.value, SIGNALS);
    None
}

/// `supervisor "s6"`, and what to say of those that are none any more.
pub(in crate::manifest) fn supervisor(node: &mut Node<'_, '_, '_>) -> Option<Located<SupervisorChoice>> {
    let word = node.string("a supervisor")?;
    let install = node.flag_property("install").is_none_or(|install| install.value);
    if let Some(supervisor) = Supervisor::ALL.into_iter().find(|known| known.as_str() == word.value) {
        return Some(Located::new(SupervisorChoice { supervisor, install }, word.span));
    }
    let refused = match word.value.as_str() {
        "upstart" => Some("Upstart is not developed any more, and cannot run in a container"),
        "sysvinit" => Some("sysvinit starts processes, but does not start them again when they end"),
        _ => None,
    };
    match refused {
        Some(message) => {
            let problem = Problem::at(node.reader.file, word.span, message, "refused");
            node.reader.push(problem.help(
                "use \"s6\" or \"runit\"; for an image that is really a machine, with its own units, \"systemd\"",
            ));
        }
        None => {
            let known: Vec<&str> = Supervisor::ALL.into_iter().map(Supervisor::as_str).collect();
            node.reader.unknown(word.span, "supervisor", &word.value, &known);
        }
    }
    None
}
