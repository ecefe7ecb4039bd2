//! Exactly one process: behind tini, behind dumb-init, or as PID 1 itself.

use super::{ContainerProcess, ImageFile, MergedService, ServiceSet, Writer};
use crate::diagnostic::Problems;

/// What stands in front of the process.
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
        let mut problems = Problems::default();
        for service in services.values() {
            problems.push(service.declared.problem("this one is not in this version", "needs it"));
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
