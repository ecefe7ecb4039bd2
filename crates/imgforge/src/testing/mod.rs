//! Tests of images: what the manifests ask, asked of real containers.

mod check;
mod http;
mod leftovers;
mod look;
mod record;
mod runner;

use std::time::Duration;

use crate::lock::Closure;
use imgforge_core::fingerprint::Fingerprint;
use imgforge_core::name::ImageName;
use imgforge_core::services::READY;
use imgforge_core::testing::{self, TestsHash};
use imgforge_core::workspace::ImageTest;
use imgforge_engine::containers::RunRequest;

pub(crate) use self::leftovers::{TestRun, may_be_there, remove as remove_leftovers};
pub(crate) use self::record::TestRecord;
pub(crate) use self::runner::{Stopped, Tester};
use crate::{Error, Session};

/// An image whose tests are run, and what they need to know of it.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    /// The image.
    pub(crate) target: ImageName,
    /// Its tests, inherited ones too.
    pub(crate) tests: Vec<ImageTest>,
    /// A hash over what they ask.
    pub(crate) hash: TestsHash,
    /// The request that starts a container of it: limits, and what its supervisor needs. No port is published.
    pub(crate) request: RunRequest,
    /// The time that such a container may take to stop.
    pub(crate) stop_time: Duration,
    /// Whether there is a program in the image that tells whether all services are ready.
    pub(crate) tells_ready: bool,
    /// All packages that are locked for it.
    pub(crate) closure: Closure,
}

impl Session {
    /// Returns what the tests of `name` need to know; `None` when it has none.
    ///
    /// # Errors
    /// Problems of the image's services.
    pub(crate) fn subject(
        &self,
        name: &ImageName,
        fingerprint: Fingerprint,
        closure: impl FnOnce() -> Closure,
    ) -> Result<Option<Subject>, Error> {
        let tests = testing::of(&self.workspace, &self.graph, name);
        if tests.is_empty() {
            return Ok(None);
        }
        let request = RunRequest { ports: Vec::new(), ..self.run_request(name, fingerprint)? };
        Ok(Some(Subject {
            target: name.clone(),
            hash: self.tests_hash(name, &tests),
            tests,
            stop_time: self.stop_time(name)?,
            tells_ready: self.services(name)?.has_program(READY),
            closure: closure(),
            request,
        }))
    }

    /// A hash over what the tests of `name` ask, and the limits of the containers that they are asked in.
    pub(crate) fn tests_hash(&self, name: &ImageName, tests: &[ImageTest]) -> TestsHash {
        let chain = self.graph.chain(name);
        let resources = || chain.iter().rev().map(|name| &self.workspace.images[*name].manifest.resources);
        let memory = resources().find_map(|resources| resources.memory.as_ref());
        let cpus = resources().find_map(|resources| resources.cpus.as_ref());
        TestsHash::of(tests, memory.map(|memory| memory.value), cpus.map(|cpus| cpus.value))
    }

    /// Returns whether any image of the workspace has a test.
    pub(crate) fn has_tests(&self) -> bool {
        self.workspace.images.values().any(|image| !image.manifest.tests.is_empty())
    }
}
