//! runit: `runsvdir` over one service directory a service, scripts in plain sh.
//!
//! runsvdir collects orphans but leaves its services alone at TERM, and runit's own PID 1 is made for machines: it
//! ends with reboot(2) and has no exit code. So PID 1 is a shell that does nothing but wait: it catches the signals,
//! collects every orphan (`wait` in sh takes any child), has the services stopped in order and gives the container's
//! exit code.
//!
//! `/etc/imgforge/runit/NAME/` holds what an image says and is never written to; `/run/imgforge/runit/NAME/` is the
//! live service directory, made of links into it when the container starts. The meaning of `finish`'s arguments, of
//! `control/t` and of what is written to `supervise/control` is that of runsv(8).

use super::script;
use super::{ContainerProcess, ImageFile, MergedService, ServiceSet, Writer};
use crate::diagnostic::Problems;
use crate::manifest::Log;

/// PID 1.
const INIT: &str = "/etc/imgforge/init";

const FOLDER: &str = "/etc/imgforge/runit";

pub(super) struct Runit;

impl Writer for Runit {
    fn packages(&self) -> &'static [&'static str] {
        &["runit"]
    }

    fn inexpressible(&self, services: &ServiceSet) -> Problems {
        let mut problems = Problems::default();
        for service in services.values().filter(|service| service.is_enabled()) {
            if let Some(log) = &service.log
                && matches!(log.value, Log::File { keep: 0, .. })
            {
                let message = format!("runit keeps at least one older file of \"{}\"", service.name);
                let problem = log.problem(message, "keep=0 is not possible");
                // The page of svlogd(8), at `n`.
                problems.push(problem.help("svlogd takes 0 for: remove none; say keep=1, or use s6"));
            }
        }
        problems
    }

    fn process(&self, _services: &ServiceSet) -> ContainerProcess {
        ContainerProcess { entrypoint: vec![INIT.into()], cmd: Vec::new(), stop_signal: "SIGTERM".into() }
    }

    fn base(&self, services: &ServiceSet) -> Vec<ImageFile> {
        [
            (INIT, "runit/init"),
            ("/etc/imgforge/stop", "runit/stop"),
            ("/etc/imgforge/reload", "runit/reload"),
            ("/etc/imgforge/status", "runit/status"),
        ]
        .into_iter()
        .map(|(path, template)| ImageFile::program(path, script::program(template, services)))
        .chain(script::programs())
        .collect()
    }

    fn service(&self, service: &MergedService) -> Vec<ImageFile> {
        let name = &service.name;
        let (folder, live) = (format!("{FOLDER}/{name}"), format!("/run/imgforge/runit/{name}"));
        let program = |file: &str, template: &str| {
            ImageFile::program(format!("{folder}/{file}"), script::render(template, service, &folder, &live))
        };
        let data = |file: &str, content: String| ImageFile::data(format!("{folder}/{file}"), content);
        vec![
            program("run", "runit/run"),
            program("check", "services/check-by-file"),
            program("finish", "runit/finish"),
            program("control/t", "runit/control-t"),
            program("control/d", "runit/control-d"),
            program("reload", "services/reload"),
            program("become", "services/become"),
            ImageFile::program(format!("{folder}/script"), script::script_file(service)),
            data("enabled", if service.is_enabled() { "yes\n" } else { "no\n" }.into()),
            data("needs", service.needs.keys().map(|need| format!("{need}\n")).collect()),
        ]
    }
}
