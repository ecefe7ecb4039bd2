//! Reads `service "NAME" { ... }`.

use std::collections::BTreeMap;

use super::reader::{Node, Once};
use super::workspace::pair;
use super::{Millis, Ready, Restart, RestartPolicy, Service, Stop};
use crate::diagnostic::{Located, Problem};
use crate::name::ServiceName;

const IN_SERVICE: &[&str] =
    &["enabled", "command", "user", "dir", "env", "needs", "ready", "restart", "essential", "stop"];

pub(super) fn service(mut node: Node<'_, '_, '_>) -> Option<Service> {
    let span = node.span();
    let name = node.string("the service's name").and_then(|name| service_name(&node, name));
    let mut service = Service {
        span,
        name: name?,
        enabled: None,
        command: None,
        user: None,
        dir: None,
        env: BTreeMap::new(),
        needs: Vec::new(),
        ready: None,
        restart: None,
        essential: None,
        stop: None,
    };
    let reader = node.reader;
    let mut once = Once::default();
    for kdl in node.children() {
        let mut child = reader.node(kdl);
        if !matches!(child.name(), "env" | "needs")
            && IN_SERVICE.contains(&child.name())
            && !once.first(&child)
        {
            continue;
        }
        let span = child.span();
        match child.name() {
            "enabled" => service.enabled = child.bool(),
            "command" => {
                let argv =
                    child.strings("a program", 1).into_iter().map(|word| word.value).collect::<Vec<_>>();
                service.command = (!argv.is_empty()).then(|| Located::new(argv, span));
            }
            "user" => service.user = child.string("a user"),
            "dir" => service.dir = child.string("a folder").and_then(|dir| absolute(&child, dir)),
            "env" => pair(&mut child, &mut service.env),
            "needs" => {
                let names = child.strings("a service", 1);
                service.needs.extend(names.into_iter().filter_map(|name| service_name(&child, name)));
            }
            "ready" => service.ready = ready(&mut child).map(|ready| Located::new(ready, span)),
            "restart" => service.restart = restart(&mut child).map(|restart| Located::new(restart, span)),
            "essential" => service.essential = child.bool(),
            "stop" => service.stop = Some(Located::new(stop(&mut child), span)),
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

fn service_name(node: &Node<'_, '_, '_>, name: Located<String>) -> Option<Located<ServiceName>> {
    match ServiceName::new(name.value) {
        Ok(value) => Some(Located::new(value, name.span)),
        Err(error) => {
            node.problem(name.span, error.to_string(), "not a safe file name");
            None
        }
    }
}

/// A path in the image.
pub(super) fn absolute(node: &Node<'_, '_, '_>, path: Located<String>) -> Option<Located<String>> {
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

fn ready(node: &mut Node<'_, '_, '_>) -> Option<Ready> {
    let interval = node.time_property("interval").unwrap_or(Millis(200));
    let timeout = node.time_property("timeout").unwrap_or(Millis(30_000));
    let command: Vec<String> = node
        .strings("a program that ends with 0 once the service is ready", 1)
        .into_iter()
        .map(|word| word.value)
        .collect();
    (!command.is_empty()).then_some(Ready { command, interval, timeout })
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
    Some(Restart { policy, delay: node.time_property("delay").unwrap_or(Millis(1000)) })
}

fn stop(node: &mut Node<'_, '_, '_>) -> Stop {
    let word = node.text_property("signal");
    let signal = word.and_then(|word| signal(node, &word)).unwrap_or_else(|| "TERM".into());
    Stop { signal, grace: node.time_property("grace").unwrap_or(Millis(10_000)) }
}

const SIGNALS: &[&str] = &["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "KILL", "WINCH", "ALRM"];

/// A signal's name, with or without `SIG`; without it in the result.
pub(super) fn signal(node: &Node<'_, '_, '_>, word: &Located<String>) -> Option<String> {
    let upper = word.value.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if SIGNALS.contains(&name) {
        return Some(name.to_owned());
    }
    node.reader.unknown(word.span, "signal", &word.value, SIGNALS);
    None
}
