//! What a container of an image is: what the manifests and Dockerfiles of its chain say of the process, its
//! environment, ports and volumes, laid over one another as an engine does it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imgforge_syntax::Located;

use crate::diagnostic::{Problems, SourceFile};
use crate::graph::ImageGraph;
use crate::manifest::{Base, Healthcheck, Millis};
use crate::name::ImageName;
use crate::services::{self, Field, Services};
use crate::workspace::{Image, Workspace, build_args};
use imgforge_dockerfile::Command;

/// The container of an image. Each field names the place that gives it.
#[derive(Debug, Clone, Default)]
pub struct Container {
    /// ENTRYPOINT, of an image without services.
    pub entrypoint: Option<Field<Command>>,
    /// CMD, of an image without services.
    pub cmd: Option<Field<Command>>,
    /// What a command that is a line is given to.
    pub shell: Option<Vec<String>>,
    /// The environment.
    pub env: BTreeMap<String, Field<String>>,
    /// Ports as `80/tcp`, each once.
    pub ports: Vec<Field<String>>,
    /// Folders, each once.
    pub volumes: Vec<Field<String>>,
    /// Who its process runs as: a name or a number, or two with `:` between; root when no one says.
    pub user: Option<Field<String>>,
    /// With `SIG`; of an image whose services say nothing else.
    pub stop_signal: Option<Field<String>>,
    /// How its health is asked for.
    pub healthcheck: Option<Field<Healthcheck>>,
    /// In bytes.
    pub memory: Option<Field<u64>>,
    /// In thousandths of a processor.
    pub cpus: Option<Field<u32>>,
    /// What the image outside of the workspace is called that the chain stands on: what that one says is not known.
    pub outside: Option<String>,
    /// The services that run; none when a Dockerfile's own command takes their place.
    pub services: Services,
    /// The command in a Dockerfile that takes the services' place.
    pub instead_of_services: Option<Field<()>>,
}

impl Container {
    /// Reads the chain of `name`.
    ///
    /// # Errors
    /// What is wrong with its services.
    pub fn of(workspace: &Workspace, graph: &ImageGraph, name: &ImageName) -> Result<Self, Problems> {
        let mut container = Self { services: services::merge(workspace, graph, name)?, ..Self::default() };
        let chain: Vec<&Image> = graph.chain(name).into_iter().map(|name| &workspace.images[name]).collect();
        let external =
            chain[0].externals.iter().find(|external| external.kind == imgforge_dockerfile::EdgeKind::From);
        container.outside = external.map(|external| external.reference.clone());
        let mut is_below_services = false;
        for image in &chain {
            is_below_services |= container.services.topmost.as_ref() == Some(image.name());
            container.lay_manifest(image);
            if let Some(dockerfile) = &image.dockerfile {
                let args = build_args(&workspace.manifest, &image.manifest);
                container.lay_dockerfile(
                    &dockerfile.file,
                    dockerfile.parsed.config(&args),
                    is_below_services,
                );
            }
        }
        if container.instead_of_services.is_some() {
            container.services = Services::default();
        }
        container.user = container.user.map(|user| numbered(&chain, user));
        Ok(container)
    }

    fn lay_manifest(&mut self, image: &Image) {
        let manifest = &image.manifest;
        let file = &manifest.file;
        if matches!(manifest.base.value, Base::Dockerfile(_)) {
            over(&mut self.memory, manifest.resources.memory.as_ref(), file);
            over(&mut self.cpus, manifest.resources.cpus.as_ref(), file);
            return;
        }
        let exec =
            |words: &Located<Vec<String>>| Located::new(Command::Exec(words.value.clone()), words.span);
        if manifest.entrypoint.is_some() {
            self.cmd = None;
        }
        over(&mut self.entrypoint, manifest.entrypoint.as_ref().map(exec).as_ref(), file);
        over(&mut self.cmd, manifest.cmd.as_ref().map(exec).as_ref(), file);
        for (name, value) in &manifest.env {
            self.env.insert(name.clone(), at(value, file));
        }
        add(&mut self.ports, &manifest.expose, file);
        add(&mut self.volumes, &manifest.volumes, file);
        over(&mut self.user, manifest.run_as.as_ref(), file);
        over(&mut self.stop_signal, manifest.stop_signal.as_ref(), file);
        over(&mut self.healthcheck, manifest.healthcheck.as_ref(), file);
        over(&mut self.memory, manifest.resources.memory.as_ref(), file);
        over(&mut self.cpus, manifest.resources.cpus.as_ref(), file);
    }

    fn lay_dockerfile(
        &mut self,
        file: &Arc<SourceFile>,
        config: imgforge_dockerfile::Config,
        is_below_services: bool,
    ) {
        if let Some(process) =
            config.entrypoint.as_ref().or(config.cmd.as_ref()).filter(|_| is_below_services)
        {
            self.instead_of_services = Some(at(&Located::new((), process.span), file));
        }
        if config.entrypoint.is_some() {
            self.cmd = None;
        }
        over(&mut self.entrypoint, config.entrypoint.as_ref(), file);
        over(&mut self.cmd, config.cmd.as_ref(), file);
        self.shell = config.shell.or(self.shell.take());
        for (name, value) in &config.env {
            self.env.insert(name.clone(), at(value, file));
        }
        add(&mut self.ports, &config.ports, file);
        add(&mut self.volumes, &config.volumes, file);
        over(&mut self.user, config.user.as_ref(), file);
        over(&mut self.stop_signal, config.stop_signal.as_ref(), file);
        if let Some(check) = config.healthcheck {
            let found = healthcheck(&check.value).map(|value| Located::new(value, check.span));
            self.healthcheck = found.map(|check| at(&check, file));
        }
    }

    /// What PID 1 is started with: the entrypoint, and the command after it unless that is a line for a shell. Empty
    /// when the chain does not say, or services are what runs.
    pub fn argv(&self) -> Vec<String> {
        let vector = |command: &Command| match command {
            Command::Exec(argv) => argv.clone(),
            Command::Shell(line) => {
                let shell = self.shell.clone().unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
                shell.into_iter().chain([line.clone()]).collect()
            }
        };
        let entrypoint = self.entrypoint.as_ref().map(|command| &command.value);
        let mut argv = entrypoint.map(vector).unwrap_or_default();
        if !matches!(entrypoint, Some(Command::Shell(_))) {
            argv.extend(self.cmd.iter().flat_map(|command| vector(&command.value)));
        }
        argv
    }
}

/// A Dockerfile's HEALTHCHECK in the words of a manifest; `None` for HEALTHCHECK NONE.
fn healthcheck(check: &imgforge_oci::Healthcheck) -> Option<Healthcheck> {
    let (kind, argv) = check.test.split_first()?;
    let time = |nanos: u64| (nanos > 0).then_some(Millis(nanos / 1_000_000));
    (kind != "NONE").then(|| Healthcheck {
        argv: argv.to_vec(),
        interval: time(check.interval),
        timeout: time(check.timeout),
        start_period: time(check.start_period),
        retries: u32::try_from(check.retries).ok().filter(|retries| *retries > 0),
    })
}

fn at<T: Clone>(found: &Located<T>, file: &Arc<SourceFile>) -> Field<T> {
    Field { value: found.value.clone(), file: Arc::clone(file), span: found.span }
}

fn over<T: Clone>(field: &mut Option<Field<T>>, found: Option<&Located<T>>, file: &Arc<SourceFile>) {
    if let Some(found) = found {
        *field = Some(at(found, file));
    }
}

fn add(fields: &mut Vec<Field<String>>, found: &[Located<String>], file: &Arc<SourceFile>) {
    let mut known: BTreeSet<String> = fields.iter().map(|field| field.value.clone()).collect();
    fields
        .extend(found.iter().filter(|value| known.insert(value.value.clone())).map(|value| at(value, file)));
}

/// A user that an image of the chain makes, as `UID:GID`: what the rendered Dockerfile says too.
fn numbered(chain: &[&Image], user: Field<String>) -> Field<String> {
    let mut users = chain.iter().flat_map(|image| &image.manifest.users);
    match users.find(|known| known.name.value == user.value) {
        Some(known) => Field { value: format!("{}:{}", known.uid.value, known.gid), ..user },
        None => user,
    }
}
