//! s6-overlay: `/init`, and a source directory of s6-rc for each service.
//!
//! No Debian package holds s6-overlay: the image brings it. Its pages say where sources of services are looked for
//! (`/etc/s6-overlay/s6-rc.d`), how one gets into the bundle of what is started (`user-bundles.d`), and how a
//! container is stopped with an exit code; what is in such a source is on s6-rc's page "s6-rc-compile". An image can
//! only lay files over its parent's, never take one away: so dependencies and the bundle's content are in files of
//! lines, which both programs read where there is no folder of the same meaning, and each image writes them anew.
//!
//! To s6-rc each service is a longrun that is up as soon as it runs: `run` itself waits for what it needs. So s6-rc
//! holds no lock while a service becomes ready, which would hold up the container's end, and a service that has
//! failed for good is told of in the same words as elsewhere. The dependencies give the order in which s6-rc stops
//! services.

use super::script;
use super::{ContainerProcess, ImageFile, MergedService, ServiceSet, Writer};
use crate::diagnostic::Problems;

/// PID 1's first program.
const INIT: &str = "/etc/imgforge/init";

/// Sources of s6-rc.
const SOURCES: &str = "/etc/s6-overlay/s6-rc.d";

const FOLDER: &str = "/etc/imgforge/s6-overlay";

/// What `finish` may take, in milliseconds; `after-stop` is given 10 s of it.
const TIMEOUT_FINISH: u64 = 15_000;

pub(super) struct S6Overlay;

impl Writer for S6Overlay {
    fn packages(&self) -> &'static [&'static str] {
        &[]
    }

    fn inexpressible(&self, _services: &ServiceSet) -> Problems {
        Problems::default()
    }

    fn process(&self, _services: &ServiceSet) -> ContainerProcess {
        ContainerProcess { entrypoint: vec![INIT.into()], cmd: Vec::new(), stop_signal: "SIGTERM".into() }
    }

    fn base(&self, services: &ServiceSet) -> Vec<ImageFile> {
        let enabled = services.values().filter(|service| service.is_enabled());
        let programs = [
            (INIT, "s6-overlay/init"),
            ("/etc/imgforge/hook", "s6-overlay/hook"),
            ("/etc/imgforge/stop", "s6-overlay/stop"),
            ("/etc/imgforge/reload", "s6-overlay/reload"),
            ("/etc/imgforge/status", "s6-overlay/status"),
        ];
        let data = [
            (format!("{SOURCES}/imgforge/type"), "bundle\n".into()),
            (
                format!("{SOURCES}/imgforge/contents"),
                enabled.map(|service| format!("imgforge-{}\n", service.name)).collect(),
            ),
            ("/etc/s6-overlay/user-bundles.d/user/contents.d/imgforge".into(), String::new()),
        ];
        let program = |(path, template)| ImageFile::program(path, script::program(template, services));
        let programs = programs.into_iter().map(program);
        let data = data.into_iter().map(|(path, content)| ImageFile::data(path, content));
        programs.chain(data).chain(script::programs()).collect()
    }

    fn service(&self, service: &MergedService) -> Vec<ImageFile> {
        let name = &service.name;
        let (folder, live) = (format!("{FOLDER}/{name}"), format!("/run/imgforge/s6-overlay/{name}"));
        let source = format!("{SOURCES}/imgforge-{name}");
        let rendered = |template: &str| script::render(template, service, &folder, &live);
        let program = |path: String, template: &str| ImageFile::program(path, rendered(template));
        let data = |file: &str, content: String| ImageFile::data(format!("{source}/{file}"), content);
        let stop = service.stop();
        // s6-rc compiles what is switched off too, whose needs may be gone.
        let needs = service.needs.keys().filter(|_| service.is_enabled());
        vec![
            data("type", "longrun\n".into()),
            program(format!("{source}/run"), "s6-overlay/run"),
            program(format!("{source}/finish"), "s6-overlay/finish"),
            data(
                "dependencies",
                ["base\n".to_owned()]
                    .into_iter()
                    .chain(needs.map(|need| format!("imgforge-{need}\n")))
                    .collect(),
            ),
            data("down-signal", format!("SIG{}\n", stop.signal)),
            // 0 would be for ever.
            data("timeout-kill", format!("{}\n", stop.grace.0.max(1))),
            data("timeout-finish", format!("{}\n", script::finish_time(TIMEOUT_FINISH, &stop))),
            program(format!("{folder}/check"), "services/check-by-file"),
            program(format!("{folder}/reload"), "services/reload"),
            program(format!("{folder}/become"), "services/become"),
            ImageFile::program(format!("{folder}/script"), script::script_file(service)),
            ImageFile::data(format!("{folder}/enabled"), if service.is_enabled() { "yes\n" } else { "no\n" }),
        ]
    }
}
