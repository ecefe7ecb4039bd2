//! supervisord under tini, which collects orphans: supervisord reaps nothing that it did not start.
//!
//! supervisord starts and stops programs, keeps log files, and answers supervisorctl. It knows no readiness, no needs
//! and no pauses between restarts, stops one program after another, and has no exit code. So each program is the
//! service's `run`, which waits for what it needs; `/etc/imgforge/supervise` is supervisord with one thing more, that
//! runs the service's `finish` after each end; and a shell between it and tini catches the signals and gives the
//! container's exit code.
//!
//! `/etc/imgforge/supervisord/NAME/` holds what an image says and is never written to;
//! `/run/imgforge/supervisord/NAME/` is the service's state. The meaning of what is in `program.conf` is that of the
//! page "Configuration File" in supervisord's documentation.

use super::script;
use super::{ContainerProcess, ImageFile, MergedService, ServiceSet, Writer};
use crate::diagnostic::Problems;
use crate::manifest::Log;

/// What tini starts.
const INIT: &str = "/etc/imgforge/init";

const FOLDER: &str = "/etc/imgforge/supervisord";

const LIVE: &str = "/run/imgforge/supervisord";

/// How often `stop` looks, in milliseconds.
const TICK: u64 = 50;

pub(super) struct Supervisord;

impl Writer for Supervisord {
    fn packages(&self) -> &'static [&'static str] {
        &["supervisor", "tini"]
    }

    fn inexpressible(&self, _services: &ServiceSet) -> Problems {
        Problems::default()
    }

    fn process(&self, _services: &ServiceSet) -> ContainerProcess {
        ContainerProcess { entrypoint: vec![INIT.into()], cmd: Vec::new(), stop_signal: "SIGTERM".into() }
    }

    fn base(&self, services: &ServiceSet) -> Vec<ImageFile> {
        let programs = [
            (INIT, "supervisord/init"),
            ("/etc/imgforge/stop", "supervisord/stop"),
            ("/etc/imgforge/reload", "supervisord/reload"),
            ("/etc/imgforge/status", "supervisord/status"),
        ];
        let data = [
            ("/etc/imgforge/supervise", include_str!("../../../../templates/supervisord/supervise")),
            (
                "/etc/imgforge/supervisord.conf",
                include_str!("../../../../templates/supervisord/supervisord.conf"),
            ),
        ];
        let program = |(path, template)| ImageFile::program(path, script::program(template, services));
        let programs = programs.into_iter().map(program);
        let data = data.into_iter().map(|(path, content)| ImageFile::data(path, content));
        programs.chain(data).chain(script::programs()).collect()
    }

    fn service(&self, service: &MergedService) -> Vec<ImageFile> {
        let name = &service.name;
        let (folder, live) = (format!("{FOLDER}/{name}"), format!("{LIVE}/{name}"));
        let program = |file: &str, template: &str| {
            ImageFile::program(format!("{folder}/{file}"), script::render(template, service, &folder, &live))
        };
        let data = |file: &str, content: String| ImageFile::data(format!("{folder}/{file}"), content);
        let stop = service.stop();
        let log_folder = match service.log() {
            Log::File { dir, .. } => format!("{dir}\n"),
            Log::Stdout { .. } | Log::Null => String::new(),
        };
        vec![
            program("run", "supervisord/run"),
            program("check", "services/check-by-file"),
            program("finish", "supervisord/finish"),
            program("reload", "services/reload"),
            program("become", "services/become"),
            ImageFile::program(format!("{folder}/script"), script::script_file(service)),
            data("program.conf", program_conf(service, &folder, &live)),
            data("enabled", if service.is_enabled() { "yes\n" } else { "no\n" }.into()),
            data("needs", service.needs.keys().map(|need| format!("{need}\n")).collect()),
            data("stop-signal", script::stop_signal(&stop)),
            data("grace", format!("{}\n", stop.grace.0.div_ceil(TICK))),
            data("log-folder", log_folder),
        ]
    }
}

/// The service's section. Nothing in it comes from a manifest but numbers, a signal and the service's name, so nothing
/// has to be quoted for supervisord.
fn program_conf(service: &MergedService, folder: &str, live: &str) -> String {
    let stop = service.stop();
    let log = match service.log() {
        // The file's folder is linked to when the container starts.
        Log::File { max_size, keep, .. } => format!(
            "stdout_logfile={live}/log/current\nstdout_logfile_maxbytes={max_size}\nstdout_logfile_backups={keep}\n"
        ),
        // `run` writes to the container's output itself.
        Log::Stdout { .. } | Log::Null => "stdout_logfile=NONE\n".into(),
    };
    format!(
        "; `run` waits for what it needs; whether it is started again is what `finish` says.\n\
         [program:{name}]\n\
         command={folder}/run\n\
         autorestart=false\n\
         startsecs=0\n\
         startretries=1000000\n\
         stopsignal={signal}\n\
         stopwaitsecs={grace}\n\
         killasgroup=true\n\
         {group}redirect_stderr=true\n\
         {log}",
        name = service.name,
        signal = stop.signal,
        grace = stop.grace.0.div_ceil(1000),
        group = if stop.group { "stopasgroup=true\n" } else { "" },
    )
}
