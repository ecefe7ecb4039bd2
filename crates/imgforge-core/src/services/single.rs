//! Exactly one process: behind tini, behind dumb-init, or as PID 1 itself.
//!
//! The container ends with its process, so nothing in it can start the process again, or run anything after it: that
//! is the business of what runs the container. ENTRYPOINT is what stands in front, CMD the process, and a script only
//! where something has to be prepared: an image without a shell can have a service too.
//!
//! The process starts in the image's WORKDIR when no one says `dir`, and writes to the container's log as it is.
//! `stop grace=` is how long the scheduler has to wait; nothing in the container waits. Nor does anything ask whether
//! the process is ready: `status` does, when it is asked itself.

use super::script;
use super::{ContainerProcess, Field, ImageFile, MergedService, ServiceSet, Writer};
use crate::diagnostic::{Problem, Problems};
use crate::manifest::{Log, Probe, Ready, Reload, RestartPolicy};

const FOLDER: &str = "/etc/imgforge";

/// What prepares and then becomes the process.
const RUN: &str = "/etc/imgforge/run";

const OR_S6: &str = "or use supervisor \"s6\", which does this";

/// What stands in front of the process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Single {
    Tini,
    DumbInit,
    Nothing,
}

impl Writer for Single {
    fn packages(&self) -> &'static [&'static str] {
        match self {
            Self::Tini => &["tini"],
            Self::DumbInit => &["dumb-init"],
            Self::Nothing => &[],
        }
    }

    fn inexpressible(&self, services: &ServiceSet) -> Problems {
        let mut enabled: Vec<&MergedService> =
            services.values().filter(|service| service.is_enabled()).collect();
        enabled.sort_by_key(|service| service.order);
        let mut problems = Problems::default();
        let Some((first, others)) = enabled.split_first() else {
            problems.extend(services.values().find_map(|service| self.nothing_left(service)));
            return problems;
        };
        for other in others {
            let message = format!("{} runs one service, and \"{}\" is one more", self.name(), other.name);
            let problem = other.declared.problem(message, "one too many");
            problems.push(problem.help(format!(
                "the first is \"{}\" at {}; for more than one, use supervisor \"s6\"",
                first.name,
                first.declared.place()
            )));
        }
        problems.extend(self.refused(first));
        problems
    }

    fn process(&self, services: &ServiceSet) -> ContainerProcess {
        let service = of(services);
        let entrypoint: &[&str] = match self {
            Self::Tini => &["tini", "--"],
            Self::DumbInit => &["dumb-init", "--"],
            Self::Nothing => &[],
        };
        let mut entrypoint: Vec<String> = entrypoint.iter().map(ToString::to_string).collect();
        if let (Self::DumbInit, Some(signal)) = (self, service.and_then(reload_signal))
            && signal != "HUP"
        {
            entrypoint.splice(1..1, ["--rewrite".into(), format!("1:{}", number(signal))]);
        }
        let cmd = service.map_or_else(Vec::new, |service| {
            if is_prepared(service) { vec![RUN.into()] } else { script::argv(service, FOLDER) }
        });
        let signal = service.map_or_else(|| "TERM".into(), |service| service.stop().signal);
        ContainerProcess { entrypoint, cmd, stop_signal: format!("SIG{signal}") }
    }

    fn base(&self, services: &ServiceSet) -> Vec<ImageFile> {
        let Some(service) = of(services) else { return Vec::new() };
        let file = |file: &str, template: &str| {
            let text = script::render(template, service, FOLDER, "");
            ImageFile::program(format!("{FOLDER}/{file}"), text)
        };
        let row = match self {
            Self::Tini | Self::DumbInit => "single/row",
            Self::Nothing => "single/row-first",
        };
        let mut files = vec![
            file("status", "single/status"),
            file("row", row),
            file("stop", "single/stop"),
            file("reload", "single/reload"),
        ];
        let is_prepared = is_prepared(service);
        if is_prepared {
            files.push(file("run", "single/run"));
        }
        let ready = service.ready.as_ref().map(|ready| &ready.value.probe);
        if is_prepared || matches!(ready, Some(Probe::Exec(_))) {
            files.push(script::environment_program());
        }
        if matches!(ready, Some(Probe::Http { .. } | Probe::Tcp { .. })) {
            files.push(script::probe_program());
        }
        let script = script::script_file(service);
        if !script.is_empty() {
            files.push(ImageFile::program(format!("{FOLDER}/script"), script));
        }
        files
    }

    fn service(&self, _service: &MergedService) -> Vec<ImageFile> {
        Vec::new()
    }
}

/// Whether the one service needs no file to run.
pub(super) fn is_plain(services: &ServiceSet) -> bool {
    of(services).is_none_or(|service| !is_prepared(service) && script::script_file(service).is_empty())
}

/// The one service that runs.
fn of(services: &ServiceSet) -> Option<&MergedService> {
    services.values().find(|service| service.is_enabled())
}

/// Whether something has to be done before it becomes its command.
fn is_prepared(service: &MergedService) -> bool {
    service.user().is_some()
        || service.group.is_some()
        || service.dir.is_some()
        || !service.env.is_empty()
        || !service.limits.is_empty()
        || service.before_start.is_some()
        || service.log() == Log::Null
}

fn reload_signal(service: &MergedService) -> Option<&str> {
    match &service.reload.as_ref()?.value {
        Reload::Signal(signal) => Some(signal),
        Reload::Command(_) => None,
    }
}

/// The number of a signal that a manifest may name, on every machine that containers run on but MIPS (signal(7)).
fn number(signal: &str) -> u8 {
    match signal {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "KILL" => 9,
        "USR1" => 10,
        "USR2" => 12,
        "ALRM" => 14,
        "WINCH" => 28,
        _ => 15,
    }
}

impl Single {
    fn name(self) -> &'static str {
        match self {
            Self::Tini => "tini",
            Self::DumbInit => "dumb-init",
            Self::Nothing => "supervisor \"none\"",
        }
    }

    fn nothing_left(self, service: &MergedService) -> Option<Problem> {
        let enabled = service.enabled.as_ref()?;
        let message = format!("{} has no service left: \"{}\" is switched off", self.name(), service.name);
        let problem = enabled.problem(message, "nothing would run");
        Some(problem.help("declare another service in the same image"))
    }

    /// What this service asks for and does not get.
    fn refused(self, service: &MergedService) -> Vec<Problem> {
        let (who, name) = (self.name(), &service.name);
        let mut problems = Vec::new();
        let mut refuse = |at: Problem, help: &str| problems.push(at.help(format!("{help}; {OR_S6}")));
        if service.is_oneshot()
            && let Some(kind) = &service.kind
        {
            let message = format!("{who} cannot keep a container after \"{name}\", a oneshot, has ended");
            let problem = kind.problem(message, "not expressible");
            refuse(problem, "leave this out: the container then ends with it, and has its exit code");
        }
        if let Some(restart) = &service.restart
            && restart.value.policy != RestartPolicy::Never
        {
            let message = format!("{who} cannot start \"{name}\" again");
            let problem = restart.problem(message, "not expressible");
            refuse(
                problem,
                "leave this out: the container ends with it, and its scheduler starts containers again",
            );
        }
        if let Some(essential) = &service.essential
            && !essential.value
        {
            let message = format!("{who} cannot keep a container after \"{name}\" has ended");
            refuse(essential.problem(message, "not expressible"), "leave this out");
        }
        if let Some(after_stop) = &service.after_stop {
            let message = format!("{who} cannot run anything after \"{name}\"");
            refuse(
                after_stop.problem(message, "not expressible"),
                "do it in a script that runs the command and waits for it",
            );
        }
        if let Some(stop) = &service.stop
            && stop.value.group
        {
            let message =
                format!("{who} ends the container with \"{name}\", whatever is left of its process group");
            refuse(
                stop.problem(message, "not expressible"),
                "let the shell make way for the program: exec PROGRAM ...",
            );
        }
        if let Some(ready) = &service.ready
            && let Ready { probe: Probe::Fd(fd), .. } = ready.value
        {
            let message =
                format!("{who} cannot listen on descriptor {fd} for \"{name}\" to say that it is ready");
            refuse(
                ready.problem(message, "not expressible"),
                "name a program that finds it out, or give http= or tcp=",
            );
        }
        if let Some(reload) = &service.reload {
            refuse_reload(self, service, reload, &mut refuse);
        }
        if let Some(log) = &service.log {
            refuse_log(self, service, log, &mut refuse);
        }
        problems
    }
}

fn refuse_reload(
    who: Single,
    service: &MergedService,
    reload: &Field<Reload>,
    refuse: &mut impl FnMut(Problem, &str),
) {
    let (by, name) = (who.name(), &service.name);
    match &reload.value {
        Reload::Command(_) => {
            let message = format!("{by} cannot run a command when the container gets HUP");
            refuse(
                reload.problem(message, "not expressible"),
                "reload with a signal, or leave this out and run the command in the container",
            );
        }
        Reload::Signal(signal) if signal != "HUP" && who != Single::DumbInit => {
            let message = format!("under {by}, \"{name}\" gets the container's HUP as it is, not {signal}");
            let help = "reload with HUP, or use dumb-init, which turns it into another signal";
            refuse(reload.problem(message, "not expressible"), help);
        }
        Reload::Signal(_) => {}
    }
}

fn refuse_log(
    who: Single,
    service: &MergedService,
    log: &Field<Log>,
    refuse: &mut impl FnMut(Problem, &str),
) {
    let (by, name) = (who.name(), &service.name);
    match &log.value {
        Log::File { .. } => {
            let message = format!("{by} cannot write log files");
            let help = "the container's log has the output as it is";
            refuse(log.problem(message, "not expressible"), help);
        }
        // What `log "stdout"` means where there are more services; with one of them there is nothing to tell apart.
        Log::Stdout { prefix: Some(prefix) } if *prefix != format!("{name}: ") => {
            let message = format!("{by} cannot put a prefix before lines");
            refuse(log.problem(message, "not expressible"), "log \"stdout\" prefix=#false");
        }
        Log::Stdout { .. } | Log::Null => {}
    }
}
