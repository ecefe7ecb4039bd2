//! The services that an image ends up with: its own merged over those of its `from` ancestors, field by field.
//!
//! What is written into an image are whole folders, one for each service that its manifest names, under
//! `/etc/imgforge/SUPERVISOR/NAME/`. A child's folder lies over its parent's, file by file, so the layers' union is
//! the merged configuration and nothing has to be compiled when a container starts.

mod s6;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) use self::s6::quote;
use crate::context::GeneratedFile;
use crate::diagnostic::{Located, Problem, Problems, SourceFile, Span};
use crate::graph::ImageGraph;
use crate::manifest::{Ready, Restart, Service, Stop, Supervisor};
use crate::name::{ImageName, ServiceName, nearest};
use crate::workspace::{Image, Workspace};

/// What a supervisor needs to know to write its configuration.
trait Writer {
    /// Files that the topmost image with services gets once: what runs as PID 1, what stops it.
    fn base(&self) -> Vec<ImageFile>;
    /// One service's whole folder.
    fn service(&self, service: &MergedService) -> Vec<ImageFile>;
}

/// A file that goes into the image, by its absolute path there.
struct ImageFile {
    path: String,
    executable: bool,
    content: String,
}

/// The Debian package that holds a supervisor.
pub fn package(supervisor: Supervisor) -> &'static str {
    match supervisor {
        Supervisor::S6 => "s6",
    }
}

/// The program that runs as PID 1 under a supervisor.
pub fn entrypoint(supervisor: Supervisor) -> &'static str {
    match supervisor {
        Supervisor::S6 => s6::INIT,
    }
}

fn writer(supervisor: Supervisor) -> &'static dyn Writer {
    match supervisor {
        Supervisor::S6 => &s6::S6,
    }
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
}

/// A service with every field that its chain of images gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedService {
    /// Its name.
    pub name: ServiceName,
    /// Where it is first declared.
    pub declared: Field<ImageName>,
    /// Whether it runs; so when no one says.
    pub enabled: Option<Field<bool>>,
    /// What it runs.
    pub command: Option<Field<Vec<String>>>,
    /// Who it runs as; root when no one says.
    pub user: Option<Field<String>>,
    /// The home of `user`, when an image of the chain makes that user.
    pub home: Option<String>,
    /// Its working directory.
    pub dir: Option<Field<String>>,
    /// Its environment beside the container's own.
    pub env: BTreeMap<String, Field<String>>,
    /// Services that must be ready before it starts.
    pub needs: BTreeMap<ServiceName, Field<()>>,
    /// How it is known to be ready.
    pub ready: Option<Field<Ready>>,
    /// What happens when it ends by itself.
    pub restart: Option<Field<Restart>>,
    /// Whether its end ends the container.
    pub essential: Option<Field<bool>>,
    /// How it is stopped.
    pub stop: Option<Field<Stop>>,
}

impl MergedService {
    /// Whether it runs.
    pub fn is_enabled(&self) -> bool {
        self.enabled.as_ref().is_none_or(|enabled| enabled.value)
    }

    /// Whether its end ends the container.
    pub fn is_essential(&self) -> bool {
        self.essential.as_ref().is_some_and(|essential| essential.value)
    }

    fn new(name: ServiceName, declared: Field<ImageName>) -> Self {
        Self {
            name,
            declared,
            enabled: None,
            command: None,
            user: None,
            home: None,
            dir: None,
            env: BTreeMap::new(),
            needs: BTreeMap::new(),
            ready: None,
            restart: None,
            essential: None,
            stop: None,
        }
    }

    /// Lays what a manifest says over what is there.
    fn lay_over(&mut self, service: &Service, file: &Arc<SourceFile>) {
        fn over<T: Clone>(field: &mut Option<Field<T>>, from: Option<&Located<T>>, file: &Arc<SourceFile>) {
            if let Some(found) = from {
                *field = Some(Field { value: found.value.clone(), file: Arc::clone(file), span: found.span });
            }
        }
        over(&mut self.enabled, service.enabled.as_ref(), file);
        over(&mut self.command, service.command.as_ref(), file);
        over(&mut self.user, service.user.as_ref(), file);
        over(&mut self.dir, service.dir.as_ref(), file);
        over(&mut self.ready, service.ready.as_ref(), file);
        over(&mut self.restart, service.restart.as_ref(), file);
        over(&mut self.essential, service.essential.as_ref(), file);
        over(&mut self.stop, service.stop.as_ref(), file);
        for (name, value) in &service.env {
            let field = Field { value: value.value.clone(), file: Arc::clone(file), span: value.span };
            self.env.insert(name.clone(), field);
        }
        for need in &service.needs {
            let field = Field { value: (), file: Arc::clone(file), span: need.span };
            self.needs.insert(need.value.clone(), field);
        }
    }
}

/// All services of an image, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    /// What runs them; `None` when there are none.
    pub supervisor: Option<Supervisor>,
    /// The topmost image of the chain that declares one: it brings the supervisor.
    pub topmost: Option<ImageName>,
    /// The services, those that are switched off too.
    pub merged: BTreeMap<ServiceName, MergedService>,
}

/// The topmost image of `name`'s chain that declares a service: the one that brings the supervisor.
pub fn topmost<'w>(workspace: &'w Workspace, graph: &ImageGraph, name: &ImageName) -> Option<&'w Image> {
    let chain = graph.chain(name).into_iter().map(|name| &workspace.images[name]);
    chain.into_iter().find(|image| !image.manifest.services.is_empty())
}

/// The supervisor that the services of `image` and its children run under, when it is the topmost with services.
pub fn supervisor(workspace: &Workspace, image: &Image) -> Supervisor {
    let asked = image.manifest.supervisor.as_ref().or(workspace.manifest.supervisor.as_ref());
    asked.map_or(Supervisor::S6, |asked| asked.value)
}

/// Merges the services of `name`'s chain, and checks the graph that they make.
///
/// # Errors
/// A service without a command, a need that is unknown or switched off, a cycle, a chain with two supervisors,
/// a service in an image whose own `entrypoint` or `cmd` would take the supervisor's place: each with its line.
pub fn merge(workspace: &Workspace, graph: &ImageGraph, name: &ImageName) -> Result<Services, Problems> {
    let Some(top) = topmost(workspace, graph, name) else { return Ok(Services::default()) };
    let chosen = supervisor(workspace, top);
    let mut merged: BTreeMap<ServiceName, MergedService> = BTreeMap::new();
    let mut homes: BTreeMap<&str, &str> = BTreeMap::new();
    for image in graph.chain(name).into_iter().map(|name| &workspace.images[name]) {
        let file = &image.manifest.file;
        homes.extend(image.manifest.users.iter().map(|user| (user.name.value.as_str(), user.home.as_str())));
        for service in &image.manifest.services {
            let declared =
                Field { value: image.name().clone(), file: Arc::clone(file), span: service.name.span };
            merged
                .entry(service.name.value.clone())
                .or_insert_with(|| MergedService::new(service.name.value.clone(), declared))
                .lay_over(service, file);
        }
    }
    for service in merged.values_mut() {
        let home = service.user.as_ref().and_then(|user| homes.get(user.value.as_str()));
        service.home = home.map(|home| (*home).to_owned());
    }
    let image = &workspace.images[name];
    let mut problems = check(&merged, image);
    problems.extend(check_supervisor(top, chosen, image));
    if problems.is_empty() {
        Ok(Services { supervisor: Some(chosen), topmost: Some(top.name().clone()), merged })
    } else {
        Err(problems)
    }
}

fn check_supervisor(top: &Image, supervisor: Supervisor, image: &Image) -> Problems {
    let mut problems = Problems::default();
    let manifest = &image.manifest;
    if let Some(asked) = &manifest.supervisor
        && image.name() != top.name()
        && asked.value != supervisor
    {
        let message = format!("the supervisor was chosen by \"{}\" already", top.name());
        let problem = Problem::at(&manifest.file, asked.span, message, "another one here");
        problems.push(problem.help("the topmost image that declares a service picks it for all below it"));
    }
    let taken = [("entrypoint", manifest.entrypoint.as_ref()), ("cmd", manifest.cmd.as_ref())];
    for (word, found) in taken {
        if let Some(found) = found {
            let message = format!("\"{word}\" would take the place of the supervisor that runs the services");
            let problem = Problem::at(&manifest.file, found.span, message, "not in an image with services");
            problems.push(problem.help("make a service of it, with essential #true if its end ends all"));
        }
    }
    problems
}

/// The merged graph of one image. A problem is shown at the line of the chain that causes it; the same problem, seen
/// again from each descendant, is shown once.
fn check(merged: &BTreeMap<ServiceName, MergedService>, image: &Image) -> Problems {
    let mut problems = Problems::default();
    let is_nothing = |service: &&MergedService| !service.is_enabled() && service.command.is_none();
    for service in merged.values().filter(is_nothing) {
        let place = &service.declared;
        let message = format!("there is no service \"{}\" to switch off", service.name);
        let problem = Problem::at(&place.file, place.span, message, "not one of a parent's");
        let near = nearest_above(service, merged).map(|near| format!("did you mean \"{near}\"?"));
        problems.push(near.into_iter().fold(problem, Problem::help));
    }
    for service in merged.values().filter(|service| service.is_enabled()) {
        if service.command.is_none() {
            let place = &service.declared;
            let message = format!("the service \"{}\" has no command", service.name);
            let problem = Problem::at(&place.file, place.span, message, "nothing to run");
            problems.push(match nearest_above(service, merged) {
                Some(near) => problem.help(format!("to change a parent's service, did you mean \"{near}\"?")),
                None => problem.help("for example: command \"nginx\" \"-g\" \"daemon off;\""),
            });
        }
        for (need, place) in &service.needs {
            let problem = match merged.get(need) {
                Some(other) if other.is_enabled() => continue,
                Some(other) => {
                    let by = other.enabled.as_ref().map_or(String::new(), Field::place);
                    let message = format!("\"{}\" needs \"{need}\", which is switched off", service.name);
                    let problem = Problem::at(&place.file, place.span, message, "needed here");
                    problem.help(format!("it is switched off at {by} (in {})", image.name()))
                }
                None => {
                    let message = format!("there is no service \"{need}\"");
                    let problem = Problem::at(&place.file, place.span, message, "not known here");
                    match nearest(need.as_str(), merged.keys().map(ServiceName::as_str)) {
                        Some(near) => problem.help(format!("did you mean \"{near}\"?")),
                        None => {
                            let known: Vec<&str> = merged.keys().map(ServiceName::as_str).collect();
                            problem.help(format!("services of this image: {}", known.join(", ")))
                        }
                    }
                }
            };
            problems.push(problem);
        }
    }
    if let Some(cycle) = cycle(merged) {
        let hop = |pair: &[&ServiceName]| format!("{} ({})", pair[0], merged[pair[0]].needs[pair[1]].place());
        let hops: Vec<String> = cycle.windows(2).map(hop).collect();
        let place = &merged[cycle[0]].needs[cycle[1]];
        let message = format!("services wait for one another: {} -> {}", hops.join(" -> "), cycle[0]);
        let problem = Problem::at(&place.file, place.span, message, "the circle closes here");
        problems.push(problem.help("none of them would ever start: take one of these needs away"));
    }
    problems
}

/// The service of another image of the chain whose name is most like that of `service`.
fn nearest_above<'m>(
    service: &MergedService,
    merged: &'m BTreeMap<ServiceName, MergedService>,
) -> Option<&'m str> {
    let others = merged.values().filter(|other| other.declared.value != service.declared.value);
    nearest(service.name.as_str(), others.map(|other| other.name.as_str()))
}

/// A circle of needs, its first name again at its end.
fn cycle(merged: &BTreeMap<ServiceName, MergedService>) -> Option<Vec<&ServiceName>> {
    fn visit<'m>(
        name: &'m ServiceName,
        merged: &'m BTreeMap<ServiceName, MergedService>,
        path: &mut Vec<&'m ServiceName>,
        done: &mut BTreeSet<&'m ServiceName>,
    ) -> Option<Vec<&'m ServiceName>> {
        if let Some(at) = path.iter().position(|seen| *seen == name) {
            let mut circle = path[at..].to_vec();
            circle.push(name);
            return Some(circle);
        }
        if !done.insert(name) {
            return None;
        }
        path.push(name);
        for need in merged.get(name).into_iter().flat_map(|service| service.needs.keys()) {
            let (need, _) = merged.get_key_value(need)?;
            if let Some(circle) = visit(need, merged, path, done) {
                return Some(circle);
            }
        }
        path.pop();
        None
    }
    let mut done = BTreeSet::new();
    merged.keys().find_map(|name| visit(name, merged, &mut Vec::new(), &mut done))
}

/// The folder in the context whose content is laid over the image's root.
pub(crate) const ROOTFS: &str = ".imgforge/rootfs";

/// The files that `image` adds for the services which its manifest names.
pub(crate) fn files(image: &Image, services: &Services) -> Vec<GeneratedFile> {
    let Some(supervisor) = services.supervisor else { return Vec::new() };
    let writer = writer(supervisor);
    let mut found = Vec::new();
    if services.topmost.as_ref() == Some(image.name()) {
        found.extend(writer.base());
    }
    for service in &image.manifest.services {
        found.extend(writer.service(&services.merged[&service.name.value]));
    }
    let generated = |file: ImageFile| GeneratedFile {
        path: format!("{ROOTFS}{}", file.path).into(),
        executable: file.executable,
        content: file.content.into_bytes().into(),
    };
    let mut files: Vec<GeneratedFile> = found.into_iter().map(generated).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}
