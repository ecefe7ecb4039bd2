//! The scripts of one service, from `templates/services` and what a supervisor's own templates put into their blocks.

use std::sync::LazyLock;

use minijinja::{Environment, UndefinedBehavior, Value, context};

use super::{ImageFile, MergedService, ServiceSet};
use crate::manifest::{GiveUp, Limit, Log, Millis, Probe, Process, Reload, Stop};

/// Where probes of readiness over the network are in every image that has services under a supervisor of scripts.
pub(crate) const PROBE: &str = "/etc/imgforge/probe";

/// What writes a process's environment for sh.
const ENVIRONMENT: &str = "/etc/imgforge/environment";

/// The names of variables that sh gives a meaning of its own to, or the dynamic loader, or s6's programs; `*` stands
/// for any rest. env gives them to a service, as its last step, and all that a shell has no name for.
const GIVEN_BY_ENV: [&str; 27] = [
    "BASH*",
    "COMP_*",
    "DIRSTACK",
    "EPOCH*",
    "EUID",
    "FUNCNAME",
    "GID",
    "GIDLIST",
    "GLIBC_*",
    "GROUPS",
    "HIST*",
    "IFS",
    "LD_*",
    "LINENO",
    "OLDPWD",
    "OPT*",
    "PATH",
    "POSIXLY_CORRECT",
    "PPID",
    "PWD",
    "RANDOM",
    "SECONDS",
    "SHELLOPTS",
    "SHLVL",
    "SRANDOM",
    "UID",
    "_",
];

/// Where the scripts' own programs are looked for, before the container's own PATH.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin";

/// Programs of `templates/services` for which the scripts of one service ask.
pub(super) fn programs() -> Vec<ImageFile> {
    let plain = [
        ("/etc/imgforge/log-lines", include_str!("../../../../templates/services/log-lines")),
        ("/etc/imgforge/keep-environment", include_str!("../../../../templates/services/keep-environment")),
    ];
    let plain = plain.map(|(path, content)| ImageFile::program(path, content));
    [probe_program(), environment_program()].into_iter().chain(plain).collect()
}

/// What asks over the network whether a service is ready.
pub(super) fn probe_program() -> ImageFile {
    ImageFile::program(PROBE, program("services/probe", &ServiceSet::new()))
}

/// What writes a process's environment for sh.
pub(super) fn environment_program() -> ImageFile {
    ImageFile::program(ENVIRONMENT, program("services/environment", &ServiceSet::new()))
}

/// Pauses between restarts do not grow beyond this.
const LONGEST_PAUSE: u64 = 30;

/// The templates of these names, by name.
macro_rules! templates {
    ($($name:literal)*) => {
        [$(($name, include_str!(concat!("../../../../templates/", $name, ".j2")))),*]
    };
}

static SCRIPTS: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_syntax(crate::template::syntax());
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.add_filter("sh", |word: &str| quote(word));
    // env where the scripts' own programs are, whatever PATH is now, and the emptied environment that it gives.
    let path = format!("{PATH}${{PATH:+:$PATH}}");
    env.add_global("clean", format!("\"$(PATH={path}; command -v env)\" -i \"PATH={path}\""));
    env.add_global("given_by_env", GIVEN_BY_ENV.map(|name| name.replace('*', ".*")).join("|"));
    for (name, text) in templates! {
        "services/alone" "services/become" "services/beside" "services/check" "services/check-by-file"
        "services/environment" "services/exports" "services/finish" "services/init" "services/last" "services/marks"
        "services/probe" "services/ready" "services/reload" "services/run" "services/run-by-file" "services/words"
        "s6/check" "s6/finish" "s6/finish-container" "s6/identity" "s6/init" "s6/log-file" "s6/reload" "s6/run"
        "s6/status" "s6/stop"
        "s6-overlay/finish" "s6-overlay/hook" "s6-overlay/init" "s6-overlay/reload" "s6-overlay/run"
        "s6-overlay/status" "s6-overlay/stop"
        "runit/control-d" "runit/control-t" "runit/finish" "runit/init" "runit/reload" "runit/run" "runit/status"
        "runit/stop"
        "supervisord/finish" "supervisord/init" "supervisord/reload" "supervisord/run" "supervisord/status"
        "supervisord/stop"
        "single/reload" "single/row" "single/row-first" "single/run" "single/status" "single/stop"
        "systemd/check" "systemd/finish" "systemd/init" "systemd/log" "systemd/reload" "systemd/run" "systemd/status"
        "systemd/stop" "systemd/target" "systemd/unit"
    } {
        env.add_template(name, text).expect("the built-in scripts are templates");
    }
    env
});

/// Renders a program for all services together, by the name of its template (`s6/init`).
pub(super) fn program(name: &str, services: &ServiceSet) -> String {
    let template = SCRIPTS.get_template(name).expect("added above");
    let has_oneshots = services.values().any(|service| service.is_enabled() && service.is_oneshot());
    let under_tini = name.starts_with("supervisord/");
    // A container of systemd needs what it does not find first.
    let prepares = name == "systemd/init";
    let values = context! { prepares, kept => kept(name).to_vec(), under_tini, has_oneshots };
    template.render(values).expect("the built-in programs use what is given to them")
}

/// The variables of its caller that a program under systemd keeps in its own environment.
fn kept(name: &str) -> &'static [&'static str] {
    match name {
        "systemd/init" => &["container", "SYSTEMD_LOG_LEVEL"],
        name if name.starts_with("systemd/") => &["NOTIFY_SOCKET"],
        _ => &[],
    }
}

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

/// A file that tells `stop` what a service is asked to end with, and with a second word that its whole process group
/// is.
pub(super) fn stop_signal(stop: &Stop) -> String {
    format!("{}{}\n", stop.signal, if stop.group { " group" } else { "" })
}

/// What `finish` may take, in milliseconds: in it is waited for the rest of a process group.
pub(super) fn finish_time(without: u64, stop: &Stop) -> u64 {
    if stop.group { stop.grace.0.saturating_add(without) } else { without }
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
    let (env, env_for_env): (Vec<_>, Vec<_>) = env.partition(|(key, _)| is_exported(key));
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
    // With one process there is nothing in front that could keep the container's environment aside: it is the
    // scripts' own.
    let is_single = name.starts_with("single/");
    let setpriv = if is_single { "\"$(alone sh -c 'command -v setpriv')\"" } else { "setpriv" };
    let limits: Vec<(char, String)> =
        service.limits.iter().map(|(limit, value)| ulimit(*limit, value.value)).collect();
    context! {
        name => service.name.as_str(),
        folder, live,
        kept => kept(name).to_vec(),
        is_single, setpriv,
        // Before programs of the scripts' own.
        alone => if is_single { "alone " } else { "" },
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
        // It is the service's own, and gets its environment.
        asks_a_program => matches!(ready.map(|ready| &ready.probe), Some(Probe::Exec(_))),
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
        stop_group => service.stop().group,
    }
}

/// Whether sh can export a variable of this name, and no one takes notice of it on its way. `services/environment`
/// has the same rule for the container's variables.
fn is_exported(name: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let is_given = |pattern: &str| match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    };
    name.bytes().all(is_word)
        && !name.is_empty()
        && !name.as_bytes()[0].is_ascii_digit()
        && !GIVEN_BY_ENV.into_iter().any(is_given)
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
