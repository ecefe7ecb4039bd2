//! systemd: one unit a service.

use super::{ContainerProcess, ImageFile, MergedService, ServiceSet, Writer};
use crate::diagnostic::Problems;

pub(super) struct Systemd;

impl Writer for Systemd {
    fn packages(&self) -> &'static [&'static str] {
        &["systemd"]
    }

    fn inexpressible(&self, services: &ServiceSet) -> Problems {
        let mut problems = Problems::default();
        for service in services.values() {
            problems.push(service.declared.problem("systemd is not in this version", "needs it"));
        }
        problems
    }

    fn process(&self, _services: &ServiceSet) -> ContainerProcess {
        ContainerProcess { entrypoint: Vec::new(), cmd: Vec::new(), stop_signal: "SIGTERM".into() }
    }

    fn base(&self, _services: &ServiceSet) -> Vec<ImageFile> {
        Vec::new()
    }

    fn service(&self, _service: &MergedService) -> Vec<ImageFile> {
        Vec::new()
    }
}
