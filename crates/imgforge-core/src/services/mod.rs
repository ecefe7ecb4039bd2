//! The services that an image ends up with: its own merged over those of its `from` ancestors, field by field.
//!
//! What is written into an image are plain files below `/etc/imgforge`. An image gets the files that say something else
//! than its parent's: they lie over them, file by file, so the layers' union is the merged configuration and nothing
//! has to be compiled when a container starts.
//!
//! The model ([`MergedService`]) is no supervisor's; each supervisor has one module here that writes its own
//! configuration from it, and refuses what it cannot express.

mod check;
mod merge;
mod runit;
mod s6;
mod s6_overlay;
mod script;
mod single;
mod supervisord;
mod systemd;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use self::merge::{merge, supervisor, topmost};
pub(crate) use self::script::{PROBE, quote};
use imgforge_syntax::Span;

use crate::context::GeneratedFile;
use crate::diagnostic::{Problem, Problems, SourceFile};
use crate::manifest::{
    Limit, Log, Millis, Process, Ready, Reload, Restart, RestartPolicy, ServiceType, Stop, Supervisor,
    SupervisorChoice,
};
use crate::name::{ImageName, ServiceName};

/// What is run after the end of a service is killed after this long.
const AFTER_STOP: Millis = Millis(10_000);

/// Services by name, those that are switched off too.
pub type ServiceSet = BTreeMap<ServiceName, MergedService>;

/// What one supervisor needs to know to write its configuration.
///
/// Every image with services has, whatever the supervisor: `/etc/imgforge/init` where a process stands in front of
/// the supervisor, and four programs that people and tools call: `stop` (ordered stop of the container), `reload
/// [NAME]...`, `status` (one line for each service: name, state, pid or `-`, seconds in that state, restarts; with
/// tabs between). Beside `status`, [`READY`] is added for every supervisor.
trait Writer: Sync {
    /// The Debian packages that hold it.
    fn packages(&self) -> &'static [&'static str];

    /// What it cannot express of these services, each with the manifest's place.
    fn inexpressible(&self, services: &ServiceSet) -> Problems;

    /// The container's process.
    fn process(&self, services: &ServiceSet) -> ContainerProcess;

    /// Files for all services together: what runs as PID 1, what stops it, what knows the order.
    fn base(&self, services: &ServiceSet) -> Vec<ImageFile>;

    /// The files of one service. They are the same for every service, so that a child's cover its parent's; what is
    /// switched off says so in a file.
    fn service(&self, service: &MergedService) -> Vec<ImageFile>;
}

/// What the image's configuration says of its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerProcess {
    /// ENTRYPOINT.
    pub entrypoint: Vec<String>,
    /// CMD, in whose place `docker run IMAGE COMMAND` puts its own; empty where ENTRYPOINT sees to that itself.
    pub cmd: Vec<String>,
    /// STOPSIGNAL, with `SIG`.
    pub stop_signal: String,
}

/// A file that goes into the image, by its absolute path there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ImageFile {
    path: String,
    executable: bool,
    content: String,
}

impl ImageFile {
    fn program(path: impl Into<String>, content: impl Into<String>) -> Self {
        Self { path: path.into(), executable: true, content: content.into() }
    }

    fn data(path: impl Into<String>, content: impl Into<String>) -> Self {
        Self { path: path.into(), executable: false, content: content.into() }
    }
}

fn writer(supervisor: Supervisor) -> &'static dyn Writer {
    match supervisor {
        Supervisor::S6 => &s6::S6,
        Supervisor::Runit => &runit::Runit,
        Supervisor::Supervisord => &supervisord::Supervisord,
        Supervisor::S6Overlay => &s6_overlay::S6Overlay,
        Supervisor::Systemd => &systemd::Systemd,
        Supervisor::Tini => &single::Single::Tini,
        Supervisor::DumbInit => &single::Single::DumbInit,
        Supervisor::None => &single::Single::Nothing,
    }
}

/// The Debian packages that are added for a supervisor.
pub fn packages(choice: SupervisorChoice) -> &'static [&'static str] {
    if choice.install { writer(choice.supervisor).packages() } else { &[] }
}

/// A field of a service, and the manifest line that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<T> {
    /// What it says.
    pub value: T,
    /// The manifest.
    pub file: Arc<SourceFile>,
    /// The place in it.
    pub span: Span,
}

impl<T> Field<T> {
    /// `path:line`.
    pub fn place(&self) -> String {
        self.file.at(self.span)
    }

    fn problem(&self, message: impl Into<String>, label: impl Into<String>) -> Problem {
        Problem::at(&self.file, self.span, message, label)
    }
}

/// A service with every field that its chain of images gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedService {
    /// Its name.
    pub name: ServiceName,
    /// Where it is first declared.
    pub declared: Field<ImageName>,
    /// How many services of its chain of images are declared before it.
    pub order: usize,
    /// Whether it runs; so when no one says.
    pub enabled: Option<Field<bool>>,
    /// What it is; a longrun when no one says.
    pub kind: Option<Field<ServiceType>>,
    /// What it runs.
    pub process: Option<Field<Process>>,
    /// Who it runs as; root when no one says.
    pub user: Option<Field<String>>,
    /// Its primary group; that of `user` when no one says.
    pub group: Option<Field<String>>,
    /// The home of `user`, when an image of the chain makes that user.
    pub home: Option<String>,
    /// Its working directory; `/` when no one says.
    pub dir: Option<Field<String>>,
    /// Its environment beside the container's own.
    pub env: BTreeMap<String, Field<String>>,
    /// Its resource limits.
    pub limits: BTreeMap<Limit, Field<Option<u64>>>,
    /// Services that must be ready before it starts: by its own `needs`, by their `before`, and by the anchors.
    pub needs: BTreeMap<ServiceName, Field<()>>,
    /// How it is known to be ready.
    pub ready: Option<Field<Ready>>,
    /// What happens when it ends by itself.
    pub restart: Option<Field<Restart>>,
    /// Whether its end ends the container.
    pub essential: Option<Field<bool>>,
    /// How it is stopped.
    pub stop: Option<Field<Stop>>,
    /// How it reads its configuration again.
    pub reload: Option<Field<Reload>>,
    /// What is run before each start.
    pub before_start: Option<Field<Vec<String>>>,
    /// What is run after each end.
    pub after_stop: Option<Field<Vec<String>>>,
    /// Where its output goes.
    pub log: Option<Field<Log>>,
}

impl MergedService {
    /// Whether it runs.
    pub fn is_enabled(&self) -> bool {
        self.enabled.as_ref().is_none_or(|enabled| enabled.value)
    }

    /// Whether its end ends the container: of a oneshot, its end with another code than 0.
    pub fn is_essential(&self) -> bool {
        self.essential.as_ref().is_some_and(|essential| essential.value)
    }

    /// Whether it runs to its end once.
    pub fn is_oneshot(&self) -> bool {
        self.kind.as_ref().is_some_and(|kind| kind.value == ServiceType::Oneshot)
    }

    /// What it runs as; `None` is the container's own user, which is root when no one says otherwise.
    pub fn user(&self) -> Option<&str> {
        self.user.as_ref().map(|user| user.value.as_str()).filter(|user| *user != "root")
    }

    /// What happens when it ends by itself, with the defaults of its type.
    pub fn restart(&self) -> Restart {
        let policy = if self.is_oneshot() { RestartPolicy::Never } else { RestartPolicy::Always };
        let default = Restart { policy, delay: Millis(0), bound: None };
        self.restart.as_ref().map_or(default, |restart| restart.value)
    }

    /// How it is stopped, with the defaults.
    pub fn stop(&self) -> Stop {
        let default = || Stop { signal: "TERM".into(), grace: Millis(10_000), group: false };
        self.stop.as_ref().map_or_else(default, |stop| stop.value.clone())
    }

    /// How long it may take at most until it is down, with what is run after its end, in milliseconds.
    pub fn stop_time(&self) -> u64 {
        let after = if self.after_stop.is_some() { AFTER_STOP.0 } else { 0 };
        self.stop().grace.0.saturating_add(after)
    }

    /// Where its output goes: to the container's log, each line with its name, when no one says.
    pub fn log(&self) -> Log {
        let default = || Log::Stdout { prefix: Some(format!("{}: ", self.name)) };
        self.log.as_ref().map_or_else(default, |log| log.value.clone())
    }

    fn new(name: ServiceName, declared: Field<ImageName>, order: usize) -> Self {
        Self {
            name,
            declared,
            order,
            enabled: None,
            kind: None,
            process: None,
            user: None,
            group: None,
            home: None,
            dir: None,
            env: BTreeMap::new(),
            limits: BTreeMap::new(),
            needs: BTreeMap::new(),
            ready: None,
            restart: None,
            essential: None,
            stop: None,
            reload: None,
            before_start: None,
            after_stop: None,
            log: None,
        }
    }
}

/// All services of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    /// What runs them; `None` when there are none.
    pub supervisor: Option<Supervisor>,
    /// The topmost image of the chain that declares one: it brings the supervisor.
    pub topmost: Option<ImageName>,
    /// The services.
    pub merged: ServiceSet,
    /// Those that the image's parent ends up with; empty for the topmost image.
    inherited: ServiceSet,
    /// Whether the supervisor comes from Debian's packages.
    is_installed: bool,
    /// Whether the chain stands on nothing: then there may be no shell.
    on_scratch: bool,
}

impl Services {
    /// The container's process, where it is another one than the parent's.
    pub fn process(&self) -> Option<ContainerProcess> {
        let process = self.process_of(&self.merged)?;
        let is_inherited = !self.inherited.is_empty() && self.process_of(&self.inherited)? == process;
        (!is_inherited).then_some(process)
    }

    fn process_of(&self, set: &ServiceSet) -> Option<ContainerProcess> {
        let mut process = writer(self.supervisor?).process(set);
        if let Some(first) = process.entrypoint.first_mut()
            && self.is_installed
            && !first.starts_with('/')
        {
            // Where Debian's packages have it; the container's PATH is another's business.
            first.insert_str(0, "/usr/bin/");
        }
        Some(process)
    }

    /// How long it may take at most until all services are stopped: each gets its stop signal once all that need it
    /// are down, and is killed after its grace; what is run after its end has a bound too.
    pub fn stop_time(&self) -> Millis {
        let times = self.stop_path().into_iter().map(MergedService::stop_time);
        Millis(times.fold(0, u64::saturating_add))
    }

    /// The services that make the stop take as long as it may, in the order in which they are stopped.
    pub fn stop_path(&self) -> Vec<&MergedService> {
        let needed_by = |service: &MergedService| {
            let name = service.name.clone();
            self.enabled().filter(move |other| other.needs.contains_key(&name)).collect::<Vec<_>>()
        };
        self.longest(needed_by, |service| Some(service.stop_time())).unwrap_or_default()
    }

    /// How long it may take at most until everything that says when it is ready is so; `None` when that has no bound:
    /// a oneshot may take as long as it likes, and so may what is run before a start.
    pub fn start_time(&self) -> Option<Millis> {
        let needs = |service: &MergedService| -> Vec<&MergedService> {
            service.needs.keys().filter_map(|need| self.merged.get(need)).collect()
        };
        let time = |service: &MergedService| {
            let is_bounded = !service.is_oneshot() && service.before_start.is_none();
            is_bounded.then(|| service.ready.as_ref().map_or(0, |ready| ready.value.timeout.0))
        };
        let path = self.longest(needs, time)?;
        Some(Millis(path.into_iter().filter_map(time).fold(0, u64::saturating_add)))
    }

    /// The path of the greatest sum of `time` through the services that run, along what comes `before` each; `None`
    /// when one of them has no time.
    fn longest<'s>(
        &'s self,
        before: impl Fn(&MergedService) -> Vec<&'s MergedService>,
        time: impl Fn(&MergedService) -> Option<u64>,
    ) -> Option<Vec<&'s MergedService>> {
        let mut paths: BTreeMap<&ServiceName, (u64, Vec<&MergedService>)> = BTreeMap::new();
        let mut open: Vec<&MergedService> = self.enabled().collect();
        let mut left = usize::MAX;
        // `merge` refuses circles, so each round finds one at least.
        while open.len() < left {
            left = open.len();
            let mut waiting = Vec::new();
            for service in open {
                let before: Option<Vec<_>> =
                    before(service).iter().map(|other| paths.get(&other.name)).collect();
                let Some(before) = before else {
                    waiting.push(service);
                    continue;
                };
                let longest = before.into_iter().max_by_key(|(sum, _)| *sum);
                let (sum, mut path) = longest.cloned().unwrap_or_default();
                path.push(service);
                paths.insert(&service.name, (sum.saturating_add(time(service)?), path));
            }
            open = waiting;
        }
        Some(paths.into_values().max_by_key(|(sum, _)| *sum).map(|(_, path)| path).unwrap_or_default())
    }

    /// With `SIG`: what asks the container to stop; `None` when there are no services.
    pub fn stop_signal(&self) -> Option<String> {
        Some(writer(self.supervisor?).process(&self.merged).stop_signal)
    }

    /// Whether the supervisor brings a program at `path` in the image.
    pub fn has_program(&self, path: &str) -> bool {
        self.written(&self.merged).contains_key(path)
    }

    /// The services that run.
    pub fn enabled(&self) -> impl Iterator<Item = &MergedService> {
        self.merged.values().filter(|service| service.is_enabled())
    }

    /// All files for these services, by their paths.
    fn written(&self, set: &ServiceSet) -> BTreeMap<String, ImageFile> {
        let Some(supervisor) = self.supervisor else { return BTreeMap::new() };
        if set.is_empty() || (self.on_scratch && supervisor.is_single() && single::is_plain(set)) {
            return BTreeMap::new();
        }
        let writer = writer(supervisor);
        let files =
            with_ready(writer.base(set)).into_iter().chain(set.values().flat_map(|one| writer.service(one)));
        files.map(|file| (file.path.clone(), file)).collect()
    }
}

/// The program that tells what the services do.
pub const STATUS: &str = "/etc/imgforge/status";

/// The program that ends with 0 when every service is ready.
pub const READY: &str = "/etc/imgforge/ready";

/// Where there is a program that tells of the services, there is one that says whether all are ready.
fn with_ready(mut files: Vec<ImageFile>) -> Vec<ImageFile> {
    if files.iter().any(|file| file.path == STATUS) {
        files.push(ImageFile::program(READY, script::program("services/ready", &ServiceSet::new())));
    }
    files
}

/// The folder in the context whose content is laid over the image's root.
pub(crate) const ROOTFS: &str = ".imgforge/rootfs";

/// The files that an image adds: those of its services that its parent has not, or not like this.
pub(crate) fn files(services: &Services) -> Vec<GeneratedFile> {
    let inherited = services.written(&services.inherited);
    let own = services.written(&services.merged).into_values();
    own.filter(|file| inherited.get(&file.path) != Some(file))
        .map(|file| GeneratedFile {
            path: format!("{ROOTFS}{}", file.path).into(),
            executable: file.executable,
            content: file.content.into_bytes().into(),
        })
        .collect()
}
