//! s6: `s6-svscan` as PID 1, one service directory a service, scripts in plain sh (Debian's s6 has no execline).
//!
//! `/etc/imgforge/s6/NAME/` holds what an image says and is never written to; `/run/imgforge/s6/NAME/` is the live
//! service directory, made of links into it when the container starts. The meaning of `notification-fd`,
//! `down-signal`, `timeout-kill`, `timeout-finish` and of `finish`'s arguments and exit code 125 is that of s6's own
//! pages "service directories" and "s6-supervise".

use super::script;
use super::{ContainerProcess, ImageFile, MergedService, ServiceSet, Writer};
use crate::diagnostic::Problems;
use crate::manifest::Probe;

/// PID 1's first program.
const INIT: &str = "/etc/imgforge/init";

const FOLDER: &str = "/etc/imgforge/s6";

/// What `finish` may take, in milliseconds; `after-stop` is given 10 s of it.
const TIMEOUT_FINISH: u64 = 15_000;

pub(super) struct S6;

impl Writer for S6 {
    fn packages(&self) -> &'static [&'static str] {
        &["s6"]
    }

    fn inexpressible(&self, _services: &ServiceSet) -> Problems {
        Problems::default()
    }

    fn process(&self, _services: &ServiceSet) -> ContainerProcess {
        ContainerProcess { entrypoint: vec![INIT.into()], cmd: Vec::new(), stop_signal: "SIGTERM".into() }
    }

    fn base(&self, services: &ServiceSet) -> Vec<ImageFile> {
        [
            (INIT, "s6/init"),
            ("/etc/imgforge/stop", "s6/stop"),
            ("/etc/imgforge/reload", "s6/reload"),
            ("/etc/imgforge/status", "s6/status"),
            ("/etc/imgforge/finish", "s6/finish-container"),
        ]
        .into_iter()
        .map(|(path, template)| ImageFile::program(path, script::program(template, services)))
        .chain(script::programs())
        .collect()
    }

    fn service(&self, service: &MergedService) -> Vec<ImageFile> {
        let name = &service.name;
        let (folder, live) = (format!("{FOLDER}/{name}"), format!("/run/imgforge/s6/{name}"));
        let program = |file: &str, template: &str| {
            ImageFile::program(format!("{folder}/{file}"), script::render(template, service, &folder, &live))
        };
        let data = |file: &str, content: String| ImageFile::data(format!("{folder}/{file}"), content);
        let stop = service.stop();
        let fd = match service.ready.as_ref().map(|ready| &ready.value.probe) {
            Some(Probe::Fd(fd)) => *fd,
            _ => 3,
        };
        vec![
            program("run", "s6/run"),
            program("check", "s6/check"),
            program("finish", "s6/finish"),
            program("reload", "services/reload"),
            program("become", "services/become"),
            ImageFile::program(format!("{folder}/script"), script::script_file(service)),
            data("enabled", if service.is_enabled() { "yes\n" } else { "no\n" }.into()),
            data("needs", service.needs.keys().map(|need| format!("{need}\n")).collect()),
            data("notification-fd", format!("{fd}\n")),
            data("down-signal", format!("SIG{}\n", stop.signal)),
            // With 0 it would never be killed.
            data("timeout-kill", format!("{}\n", stop.grace.0.max(1))),
            data("timeout-finish", format!("{}\n", script::finish_time(TIMEOUT_FINISH, &stop))),
            data("stop-signal", script::stop_signal(&stop)),
        ]
    }
}
