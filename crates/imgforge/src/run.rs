//! What a container of an image is started with, and how long it may take to stop.

use std::time::Duration;

use imgforge_core::container::Container;
use imgforge_core::fingerprint::Fingerprint;
use imgforge_core::manifest::Supervisor;
use imgforge_core::name::ImageName;
use imgforge_core::services::{self, Services};
use imgforge_engine::containers::{PublishedPort, RunRequest};

use crate::{Error, Session};

/// Added to the time that the services may take, for the supervisor itself.
const STOP_MARGIN: Duration = Duration::from_secs(2);

/// The time that Docker gives a container to stop when nothing is said.
const DEFAULT_STOP: Duration = Duration::from_secs(10);

impl Session {
    /// A container of the image with this fingerprint: every port that the image's chain exposes on a free port of
    /// loopback, its `resources`, and what its supervisor needs of the container.
    ///
    /// # Errors
    /// Problems of the image's services.
    pub fn run_request(&self, name: &ImageName, fingerprint: Fingerprint) -> Result<RunRequest, Error> {
        let container = Container::of(&self.workspace, &self.graph, name)?;
        let port = |container: &String| PublishedPort {
            container: container.clone(),
            host_ip: "127.0.0.1".into(),
            host_port: None,
        };
        let is_machine = container.services.supervisor == Some(Supervisor::Systemd);
        let tmpfs = if is_machine { vec!["/run".into(), "/run/lock".into()] } else { Vec::new() };
        Ok(RunRequest {
            image: self.content_reference(name, fingerprint),
            ports: container.ports.iter().map(|exposed| port(&exposed.value)).collect(),
            memory: container.memory.map(|memory| memory.value),
            cpus: container.cpus.map(|cpus| cpus.value),
            tmpfs,
            control_groups: is_machine,
            ..RunRequest::default()
        })
    }

    /// Returns how long a container of the image may take to stop before it should be killed: the longest chain of its
    /// services' graces, and a little more.
    ///
    /// # Errors
    /// Problems of the image's services.
    pub fn stop_time(&self, name: &ImageName) -> Result<Duration, Error> {
        let services = self.services(name)?;
        if services.supervisor.is_none() {
            return Ok(DEFAULT_STOP);
        }
        Ok(Duration::from_millis(services.stop_time().0) + STOP_MARGIN)
    }

    /// The services that the image ends up with; none for one with a hand-written Dockerfile, of which is only known
    /// what its parents have.
    ///
    /// # Errors
    /// Problems of the services.
    pub fn services(&self, name: &ImageName) -> Result<Services, Error> {
        Ok(services::merge(&self.workspace, &self.graph, name)?)
    }
}
