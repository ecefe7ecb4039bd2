//! supervisord, with tini as PID 1 in front of it.

use super::{ContainerProcess, ImageFile, MergedService, ServiceSet, Writer};
use crate::diagnostic::Problems;

pub(super) struct Supervisord;

impl Writer for Supervisord {
    fn packages(&self) -> &'static [&'static str] {
        &["supervisor", "tini"]
    }

    fn inexpressible(&self, services: &ServiceSet) -> Problems {
        let mut problems = Problems::default();
        for service in services.values() {
            problems.push(service.declared.problem("supervisord is not in this version", "needs it"));
        }
        problems
    }

    fn process(&self, _services: &ServiceSet) -> ContainerProcess {
        ContainerProcess { entrypoint: Vec::new(), stop_signal: "SIGTERM".into() }
    }

    fn base(&self, _services: &ServiceSet) -> Vec<ImageFile> {
        Vec::new()
    }

    fn service(&self, _service: &MergedService) -> Vec<ImageFile> {
        Vec::new()
    }
}
