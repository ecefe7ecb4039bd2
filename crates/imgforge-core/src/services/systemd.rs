//! systemd: one unit a service, `imgforge-NAME.service`, beside whatever units packages bring.
//!
//! systemd orders, watches, stops and restarts; what it has no word for is in the scripts that its units run: the
//! container's own environment, pauses that grow, an exact bound of restarts, exit codes after signals. The image
//! starts `imgforge.target` and nothing else: none of its units has the default dependencies, so no journal, no udev
//! and no login runs. The meaning of signals to PID 1 and what a container must give are those of systemd(1) and of
//! "The Container Interface" of systemd's own documentation.
//!
//! Only regular files can be laid over a parent's, no links: what is started is named in `imgforge.target`, which each
//! image writes anew.

use super::script;
use super::{ContainerProcess, ImageFile, MergedService, ServiceSet, Writer};
use crate::diagnostic::Problems;
use crate::manifest::Log;

/// PID 1's first program.
const INIT: &str = "/etc/imgforge/init";

const FOLDER: &str = "/etc/imgforge/systemd";

/// What systemd runs when it reads its units; its place is in `man systemd.generator`.
const GENERATOR: &str = "/etc/systemd/system-generators/imgforge";

const UNITS: &str = "/etc/systemd/system";

/// Programs of systemd that make units for disks, consoles and the kernel's command line. No container has any, and
/// they take as long as all the rest of the start: empty files of their names mask them (systemd.generator(7)).
const MASKED: [&str; 10] = [
    "cryptsetup",
    "debug",
    "fstab",
    "getty",
    "gpt-auto",
    "hibernate-resume",
    "integritysetup",
    "run",
    "system-update",
    "veritysetup",
];

/// What signals to stop start: SIGRTMIN+3 halt.target, INT ctrl-alt-del.target.
const HALT: &str = include_str!("../../../../templates/systemd/halt.target");

pub(super) struct Systemd;

impl Writer for Systemd {
    fn packages(&self) -> &'static [&'static str] {
        &["systemd"]
    }

    fn inexpressible(&self, services: &ServiceSet) -> Problems {
        let mut problems = Problems::default();
        for service in services.values().filter(|service| service.is_enabled()) {
            if let Some(log) = &service.log
                && matches!(log.value, Log::File { .. })
            {
                let problem = log.problem(
                    "systemd does not write logs into files that it puts aside",
                    "not under systemd",
                );
                problems.push(problem.help(
                    "leave it to the container's log, which the engine can put aside: log \"stdout\"; or choose s6 or runit",
                ));
            }
        }
        problems
    }

    fn process(&self, _services: &ServiceSet) -> ContainerProcess {
        ContainerProcess { entrypoint: vec![INIT.into()], cmd: Vec::new(), stop_signal: "SIGRTMIN+3".into() }
    }

    fn base(&self, services: &ServiceSet) -> Vec<ImageFile> {
        let enabled = services.values().filter(|service| service.is_enabled());
        let programs = [
            (INIT, "systemd/init"),
            ("/etc/imgforge/stop", "systemd/stop"),
            ("/etc/imgforge/reload", "systemd/reload"),
            ("/etc/imgforge/status", "systemd/status"),
        ];
        let plain = [
            ("/etc/imgforge/log-stop", include_str!("../../../../templates/systemd/log-stop")),
            (GENERATOR, include_str!("../../../../templates/systemd/generator")),
        ];
        let log = include_str!("../../../../templates/systemd/log.service");
        let settings = include_str!("../../../../templates/systemd/system.conf");
        let data = [
            (format!("{UNITS}/imgforge.target"), script::target(enabled)),
            (format!("{UNITS}/imgforge-log@.service"), log.into()),
            (format!("{UNITS}/halt.target"), HALT.into()),
            (format!("{UNITS}/ctrl-alt-del.target"), HALT.into()),
            ("/etc/systemd/system.conf.d/imgforge.conf".into(), settings.into()),
        ];
        let masked =
            MASKED.map(|name| (format!("/etc/systemd/system-generators/systemd-{name}-generator"), ""));
        let program = |(path, template)| ImageFile::program(path, script::program(template, services));
        let plain = plain.into_iter().map(|(path, content)| ImageFile::program(path, content));
        let data = data.into_iter().map(|(path, content)| ImageFile::data(path, content));
        programs
            .into_iter()
            .map(program)
            .chain(plain)
            .chain(data)
            .chain(masked.into_iter().map(|(path, content)| ImageFile::data(path, content)))
            .chain(script::programs())
            .collect()
    }

    fn service(&self, service: &MergedService) -> Vec<ImageFile> {
        let name = &service.name;
        let (folder, live) = (format!("{FOLDER}/{name}"), format!("/run/imgforge/systemd/{name}"));
        let rendered = |template: &str| script::render(template, service, &folder, &live);
        let program =
            |file: &str, template: &str| ImageFile::program(format!("{folder}/{file}"), rendered(template));
        vec![
            ImageFile::data(format!("{UNITS}/imgforge-{name}.service"), rendered("systemd/unit")),
            program("run", "systemd/run"),
            program("check", "systemd/check"),
            program("finish", "systemd/finish"),
            program("reload", "services/reload"),
            program("become", "services/become"),
            program("log", "systemd/log"),
            ImageFile::program(format!("{folder}/script"), script::script_file(service)),
            ImageFile::data(format!("{folder}/enabled"), if service.is_enabled() { "yes\n" } else { "no\n" }),
        ]
    }
}
