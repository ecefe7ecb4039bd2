//! Rules about the process that a container starts with.

use super::shell::Line;
use super::{Found, Rule, problem};
use crate::container::Container;
use crate::manifest::{Process, Supervisor};
use crate::name::ServiceName;
use crate::services::Field;
use imgforge_dockerfile::Command;

const SHELLS: [&str; 8] = ["sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "busybox"];

/// Programs that are made to be PID 1.
const INITS: [&str; 12] = [
    "tini",
    "tini-static",
    "dumb-init",
    "docker-init",
    "catatonit",
    "init",
    "systemd",
    "s6-svscan",
    "s6-overlay",
    "runit-init",
    "pid1",
    "my_init",
];

/// What starts a service of the distribution, which goes into the background.
const STARTERS: [&str; 4] = ["service", "invoke-rc.d", "rc-service", "systemctl"];

pub(super) fn look(container: &Container, found: &mut Vec<Found>) {
    match container.services.supervisor {
        None => command(container, found),
        Some(Supervisor::Tini | Supervisor::DumbInit | Supervisor::None) => single(container, found),
        Some(_) => {}
    }
}

/// The image's own entrypoint and command.
fn command(container: &Container, found: &mut Vec<Found>) {
    let argv = container.argv();
    // The line stands in the command, where there is one that is not taken away by an entrypoint that is a line.
    let is_line = |field: &&Field<Command>| matches!(field.value, Command::Shell(_));
    let place = match (container.entrypoint.as_ref(), container.cmd.as_ref()) {
        (Some(entrypoint), _) if is_line(&entrypoint) => entrypoint,
        (_, Some(cmd)) => cmd,
        (Some(entrypoint), None) => entrypoint,
        (None, None) => return,
    };
    let is_dockerfile = is_line(&place) || !place.file.path.as_str().ends_with(".kdl");
    let started = Started::of(&argv);
    if let Some(line) = &started.line {
        several(place, None, line, found);
        if !started.has_init && started.starts_with_shell && !line.ends_with_exec() {
            let problem = problem(place, "PID 1 is a shell, which passes no signal on", "run by a shell");
            let keyword =
                if is_dockerfile && place.file.text[place.span.offset as usize..].starts_with("ENTRYPOINT") {
                    "ENTRYPOINT "
                } else if is_dockerfile {
                    "CMD "
                } else {
                    ""
                };
            let help = match line.as_argv() {
                Some(argv) if is_dockerfile => format!("write it as a list: {keyword}{}", json(argv)),
                Some(argv) => format!("write it without the shell: {}", argv.join(" ")),
                None => "let the last command take the shell's place: exec PROGRAM ...".into(),
            };
            found.push((Rule::ShellAsInit, None, problem.help(help)));
        }
    }
    supervisord(place, None, &started, found);
}

fn json(argv: &[String]) -> String {
    let words: Vec<String> =
        argv.iter().map(|word| serde_json::Value::from(word.as_str()).to_string()).collect();
    format!("[{}]", words.join(", "))
}

/// The one service of a supervisor that does not watch processes.
fn single(container: &Container, found: &mut Vec<Found>) {
    let has_init = container.services.supervisor != Some(Supervisor::None);
    for service in container.services.enabled() {
        let Some(process) = &service.process else { continue };
        let Some(mut started) = started(&process.value) else { continue };
        started.has_init |= has_init;
        let name = Some(&service.name);
        if let Some(line) = &started.line {
            several(process, name, line, found);
            if !started.has_init && started.starts_with_shell && !line.ends_with_exec() {
                let problem =
                    problem(process, "PID 1 is a shell, which passes no signal on", "run by a shell");
                let help = "let the last command take the shell's place: exec PROGRAM ...";
                found.push((Rule::ShellAsInit, name.cloned(), problem.help(help)));
            }
        }
        supervisord(process, name, &started, found);
    }
}

/// What a service starts; `None` when that is a script for another program than a shell.
fn started(process: &Process) -> Option<Started> {
    match process {
        Process::Command(argv) => Some(Started::of(argv)),
        Process::Script(text)
            if text.starts_with("#!") && !text.lines().next().unwrap_or("").contains("sh") =>
        {
            None
        }
        Process::Script(text) => {
            let line = Some(Line::read(text));
            Some(Started { has_init: false, starts_with_shell: true, line, argv: Vec::new() })
        }
    }
}

/// What a shell is given, when that is what a service starts.
pub(super) fn line_for_shell(process: &Process) -> Option<Line> {
    started(process).filter(|started| started.starts_with_shell).and_then(|started| started.line)
}

fn several<T>(place: &Field<T>, service: Option<&ServiceName>, line: &Line, found: &mut Vec<Found>) {
    let starter = line.programs().find(|(program, arguments)| {
        let is_start = |word: &String| matches!(word.as_str(), "start" | "restart");
        let name = base_name(program);
        (STARTERS.contains(&name) || program.starts_with("/etc/init.d/")) && arguments.iter().any(is_start)
    });
    let label = match starter {
        Some((program, _)) => format!("{} leaves one in the background", base_name(program)),
        None if line.has_background => "& leaves one in the background".into(),
        None => return,
    };
    let message = "several processes are started, and nothing watches them";
    let problem = problem(place, message, label);
    let help = "make each a service { ... } under s6 or runit: what ends is started again, and all is stopped in order";
    found.push((Rule::SeveralProcesses, service.cloned(), problem.help(help)));
}

fn supervisord<T>(
    place: &Field<T>,
    service: Option<&ServiceName>,
    started: &Started,
    found: &mut Vec<Found>,
) {
    let is_it = |program: &str| base_name(program) == "supervisord";
    let in_line =
        started.line.as_ref().is_some_and(|line| line.programs().any(|(program, _)| is_it(program)));
    // `python3 /usr/bin/supervisord` too.
    let in_argv = started.argv.iter().take(2).any(|word| is_it(word));
    if started.has_init || !(in_line || in_argv) {
        return;
    }
    let message = "supervisord is PID 1, and it collects no process that it did not start";
    let problem = problem(place, message, "no init in front of it");
    let help = "say supervisor \"supervisord\" and give it services, or put tini in front: \"tini\" \"--\" \"supervisord\" \"-n\"";
    found.push((Rule::SupervisordWithoutInit, service.cloned(), problem.help(help)));
}

fn base_name(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// What an argument vector starts.
struct Started {
    /// Whether an init stands in front.
    has_init: bool,
    /// Whether the first program is a shell that is given a line.
    starts_with_shell: bool,
    /// The line that a shell is given.
    line: Option<Line>,
    /// The program after an init, and its arguments.
    argv: Vec<String>,
}

impl Started {
    fn of(argv: &[String]) -> Self {
        let has_init = argv.first().is_some_and(|program| INITS.contains(&base_name(program)));
        let mut rest = argv;
        if has_init {
            let after = argv.iter().position(|word| word == "--").map(|at| at + 1);
            let first = || argv.iter().skip(1).position(|word| !word.starts_with('-')).map(|at| at + 1);
            rest = &argv[after.or_else(first).unwrap_or(argv.len())..];
        }
        while rest.first().is_some_and(|word| base_name(word) == "env" || word.contains('=')) {
            rest = &rest[1..];
        }
        let shell = rest.first().filter(|program| SHELLS.contains(&base_name(program)));
        let takes_line =
            |word: &String| word.starts_with('-') && !word.starts_with("--") && word.contains('c');
        let line = shell.and_then(|_| {
            let at = rest.iter().skip(1).position(takes_line)?;
            rest.get(at + 2).map(|line| Line::read(line))
        });
        Self { has_init, starts_with_shell: line.is_some(), line, argv: rest.to_vec() }
    }
}
