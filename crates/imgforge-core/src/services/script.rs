//! The scripts of one service, from `templates/services` and what a supervisor's own templates put into their blocks.

use std::sync::LazyLock;

use minijinja::{Environment, UndefinedBehavior, Value, context};

use super::{ImageFile, MergedService};
use crate::manifest::{GiveUp, Limit, Log, Millis, Probe, Process, Reload};

/// Where probes of readiness over the network are in every image that has services under a supervisor of scripts.
pub(crate) const PROBE: &str = "/etc/imgforge/probe";

/// What asks over the network whether a service is ready.
pub(super) fn probe_program() -> ImageFile {
    ImageFile::program(PROBE, include_str!("../../../../templates/services/probe"))
}

/// What the scripts of all services use.
pub(super) fn programs() -> [ImageFile; 2] {
    [
        probe_program(),
        ImageFile::program(
            "/etc/imgforge/log-lines",
            include_str!("../../../../templates/services/log-lines"),
        ),
    ]
}

/// Pauses between restarts do not grow beyond this.
const LONGEST_PAUSE: u64 = 30;

static SCRIPTS: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_syntax(crate::render::syntax());
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.add_filter("sh", |word: &str| quote(word));
    for (name, text) in [
        ("services/run", include_str!("../../../../templates/services/run.j2")),
        ("services/run-by-file", include_str!("../../../../templates/services/run-by-file.j2")),
        ("services/check", include_str!("../../../../templates/services/check.j2")),
        ("services/check-by-file", include_str!("../../../../templates/services/check-by-file.j2")),
        ("services/finish", include_str!("../../../../templates/services/finish.j2")),
        ("services/reload", include_str!("../../../../templates/services/reload.j2")),
        ("s6/run", include_str!("../../../../templates/s6/run.j2")),
        ("s6/check", include_str!("../../../../templates/s6/check.j2")),
        ("s6/finish", include_str!("../../../../templates/s6/finish.j2")),
        ("s6/identity", include_str!("../../../../templates/s6/identity.j2")),
        ("s6/log-file", include_str!("../../../../templates/s6/log-file.j2")),
        ("s6-overlay/run", include_str!("../../../../templates/s6-overlay/run.j2")),
        ("s6-overlay/finish", include_str!("../../../../templates/s6-overlay/finish.j2")),
        ("runit/run", include_str!("../../../../templates/runit/run.j2")),
        ("runit/finish", include_str!("../../../../templates/runit/finish.j2")),
        ("runit/control-t", include_str!("../../../../templates/runit/control-t.j2")),
        ("runit/control-d", include_str!("../../../../templates/runit/control-d.j2")),
        ("supervisord/run", include_str!("../../../../templates/supervisord/run.j2")),
        ("supervisord/finish", include_str!("../../../../templates/supervisord/finish.j2")),
        ("single/run", include_str!("../../../../templates/single/run.j2")),
        ("single/status", include_str!("../../../../templates/single/status.j2")),
        ("single/status-first", include_str!("../../../../templates/single/status-first.j2")),
        ("single/stop", include_str!("../../../../templates/single/stop.j2")),
        ("single/reload", include_str!("../../../../templates/single/reload.j2")),
        ("systemd/run", include_str!("../../../../templates/systemd/run.j2")),
        ("systemd/check", include_str!("../../../../templates/systemd/check.j2")),
        ("systemd/finish", include_str!("../../../../templates/systemd/finish.j2")),
        ("systemd/reload", include_str!("../../../../templates/systemd/reload.j2")),
        ("systemd/log", include_str!("../../../../templates/systemd/log.j2")),
        ("systemd/target", include_str!("../../../../templates/systemd/target.j2")),
        ("systemd/unit", include_str!("../../../../templates/systemd/unit.j2")),
    ] {
        env.add_template(name, text).expect("the built-in scripts are templates");
    }
    env
});

/// Renders the script `name` (`s6/run`) of a service. `folder` is the service's own folder in the image, `live` where
/// its state is in a running container.
pub(super) fn render(name: &str, service: &MergedService, folder: &str, live: &str) -> String {
    let template = SCRIPTS.get_template(name).expect("added above");
    template
        .render(values(name, service, folder, live))
        .expect("the built-in scripts use what is given to them")
}

/// Renders `imgforge.target`, which starts these.
pub(super) fn target<'s>(services: impl Iterator<Item = &'s MergedService>) -> String {
    let template = SCRIPTS.get_template("systemd/target").expect("added above");
    let names: Vec<String> = services.map(|service| service.name.to_string()).collect();
    template.render(context! { names }).expect("the target uses what is given to it")
}

/// The content of the file `script`, which a service's command is when the manifest gives a script.
pub(super) fn script_file(service: &MergedService) -> String {
    match service.process.as_ref().map(|process| &process.value) {
        Some(Process::Script(text)) if text.starts_with("#!") => with_newline(text),
        Some(Process::Script(text)) => with_newline(&format!("#!/bin/sh\n{text}")),
        _ => String::new(),
    }
}

fn with_newline(text: &str) -> String {
    if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}

/// What the service runs; a script is the file `script` in its folder.
pub(super) fn argv(service: &MergedService, folder: &str) -> Vec<String> {
    match service.process.as_ref().map(|process| &process.value) {
        Some(Process::Command(argv)) => argv.clone(),
        Some(Process::Script(_)) => vec![format!("{folder}/script")],
        None => Vec::new(),
    }
}

/// The program that tells of readiness by ending with 0; `None` where there is none, or the service tells itself.
pub(super) fn probe(service: &MergedService) -> Option<Vec<String>> {
    match &service.ready.as_ref()?.value.probe {
        Probe::Exec(argv) => Some(argv.clone()),
        Probe::Http { host, port, path } => {
            Some(vec![PROBE.into(), "http".into(), host.clone(), port.to_string(), path.clone()])
        }
        Probe::Tcp { host, port } => Some(vec![PROBE.into(), "tcp".into(), host.clone(), port.to_string()]),
        Probe::Fd(_) => None,
    }
}

fn values(name: &str, service: &MergedService, folder: &str, live: &str) -> Value {
    let ready = service.ready.as_ref().map(|ready| &ready.value);
    let restart = service.restart();
    let base = restart.delay.0.div_ceil(1000).max(1);
    let bound = restart.bound.map(|bound| {
        context! {
            max => bound.max,
            within_seconds => bound.within.0.div_ceil(1000),
            stop => bound.then == GiveUp::Container,
        }
    });
    let log = service.log();
    let argv_of = |field: &Option<super::Field<Vec<String>>>| field.as_ref().map(|argv| argv.value.clone());
    let reload = service.reload.as_ref().map(|reload| &reload.value);
    let env = service.env.iter().map(|(key, value)| (key.clone(), value.value.clone()));
    let (env, env_for_env): (Vec<_>, Vec<_>) = env.partition(|(key, _)| is_shell_name(key));
    let env_for_env: Vec<String> = env_for_env.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let notification_fd = match ready.map(|ready| &ready.probe) {
        Some(Probe::Fd(fd)) => Some(*fd),
        _ => None,
    };
    let notify_fd = notification_fd.unwrap_or(3);
    let stderr_fd = if notify_fd == 4 { 5 } else { 4 };
    let begin_fd = if notify_fd == 6 { 7 } else { 6 };
    // systemd is told by a process, which must not be under the service's limits; elsewhere a mark is enough.
    let is_told = name.starts_with("systemd/") && !service.is_oneshot();
    let limits: Vec<(char, String)> =
        service.limits.iter().map(|(limit, value)| ulimit(*limit, value.value)).collect();
    context! {
        name => service.name.as_str(),
        folder, live,
        // The folder of all services' live folders.
        lives => live.rsplit_once('/').map_or("", |(lives, _)| lives),
        oneshot => service.is_oneshot(),
        command => argv(service, folder),
        user => service.user(),
        group => service.group.as_ref().map(|group| &group.value),
        home => service.home.as_ref().filter(|_| service.user.is_some()),
        has_dir => service.dir.is_some(),
        dir => service.dir.as_ref().map_or("/", |dir| dir.value.as_str()),
        env, env_for_env,
        limits,
        needs => service.needs.keys().map(ToString::to_string).collect::<Vec<_>>(),
        probe => probe(service),
        notification_fd,
        tells_readiness => is_told || ready.is_some(),
        begin_fd,
        // Where s6 listens for readiness.
        notify_fd,
        // Where the container's own stderr is while `run` has redirected its own.
        stderr_fd,
        // Both, which nothing else may hold open.
        close_fds => format!("{notify_fd}>&- {stderr_fd}>&-"),
        timeout_seconds => ready.map(|ready| ready.timeout.0.div_ceil(1000)),
        interval_seconds => ready.map(|ready| seconds(ready.interval)),
        essential => service.is_essential(),
        policy => restart.policy.as_str(),
        delay_seconds => seconds(restart.delay),
        backoff_seconds => base,
        backoff_most_seconds => base.max(LONGEST_PAUSE),
        bound,
        before_start => argv_of(&service.before_start),
        after_stop => argv_of(&service.after_stop),
        reload_signal => reload.and_then(|r| if let Reload::Signal(signal) = r { Some(signal) } else { None }),
        reload_command => reload.and_then(|r| if let Reload::Command(argv) = r { Some(argv) } else { None }),
        log_null => log == Log::Null,
        log_prefix => if let Log::Stdout { prefix: Some(prefix) } = &log { Some(prefix) } else { None },
        log_file => match &log {
            Log::File { dir, max_size, keep } => Some(context! { dir, max_size, keep }),
            _ => None,
        },
        grace => seconds(service.stop().grace),
        grace_milliseconds => service.stop().grace.0,
        grace_seconds => service.stop().grace.0.div_ceil(1000),
        stop_signal => service.stop().signal,
    }
}

/// Whether sh can export a variable of this name.
fn is_shell_name(name: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    name.bytes().all(is_word) && !name.is_empty() && !name.as_bytes()[0].is_ascii_digit()
}

/// The flag of sh's `ulimit` and its value in the units that the POSIX page gives it: blocks of 512 bytes for files,
/// KiB for memory.
fn ulimit(limit: Limit, value: Option<u64>) -> (char, String) {
    let (flag, unit) = match limit {
        Limit::As => ('v', 1024),
        Limit::Core => ('c', 512),
        Limit::Fsize => ('f', 512),
        Limit::Memlock => ('l', 1024),
        Limit::Nofile => ('n', 1),
        Limit::Nproc => ('p', 1),
        Limit::Stack => ('s', 1024),
    };
    (flag, value.map_or_else(|| "unlimited".into(), |value| value.div_ceil(unit).to_string()))
}

/// `1.5`, as sleep(1) of coreutils and busybox take it.
pub(super) fn seconds(time: Millis) -> String {
    match time.0 % 1000 {
        0 => (time.0 / 1000).to_string(),
        rest => format!("{}.{rest:03}", time.0 / 1000),
    }
}

/// A word for sh that means exactly `word`: in single quotes, in which nothing has a meaning but their end.
pub(crate) fn quote(word: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&b);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}
