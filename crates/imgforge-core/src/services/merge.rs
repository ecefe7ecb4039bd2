//! Merges the services of a chain, field by field, and turns `before` and the anchors into needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imgforge_syntax::Located;

use super::{Field, MergedService, ServiceSet, Services, check};
use crate::diagnostic::{Problems, SourceFile};
use crate::graph::ImageGraph;
use crate::manifest::{Base, Service, Supervisor, SupervisorChoice, Wait};
use crate::name::{ImageName, ServiceName};
use crate::workspace::{Image, Workspace};

/// The topmost image of `name`'s chain that declares a service: the one that brings the supervisor.
pub fn topmost<'w>(workspace: &'w Workspace, graph: &ImageGraph, name: &ImageName) -> Option<&'w Image> {
    let chain = graph.chain(name).into_iter().map(|name| &workspace.images[name]);
    chain.into_iter().find(|image| !image.manifest.services.is_empty())
}

/// The supervisor that the services of `image` and its children run under, when it is the topmost with services.
pub fn supervisor(workspace: &Workspace, image: &Image) -> SupervisorChoice {
    let asked = image.manifest.supervisor.as_ref().or(workspace.manifest.supervisor.as_ref());
    asked.map_or(SupervisorChoice { supervisor: Supervisor::S6, install: true }, |asked| asked.value)
}

/// Merges the services of `name`'s chain, and checks the graph that they make.
///
/// # Errors
/// A service without a command, a wait for what is unknown or switched off, a circle, a chain with two supervisors,
/// what the supervisor cannot express or be installed from, a service in an image whose own `entrypoint` or `cmd` would
/// take the supervisor's place: each with its line.
pub fn merge(workspace: &Workspace, graph: &ImageGraph, name: &ImageName) -> Result<Services, Problems> {
    let Some(top) = topmost(workspace, graph, name) else { return Ok(Services::default()) };
    let choice = supervisor(workspace, top);
    let chain: Vec<&Image> = graph.chain(name).into_iter().map(|name| &workspace.images[name]).collect();
    let image = chain[chain.len() - 1];
    let parent = Chained::of(&chain[..chain.len() - 1]);
    let own = Chained::of(&chain);
    let mut problems = check::names(&own, image);
    problems.extend(check::image(top, choice, image, &chain));
    let merged = own.resolve();
    problems.extend(check::order(&merged));
    if problems.is_empty() {
        problems.extend(check::meaning(&merged));
        problems.extend(super::writer(choice.supervisor).inexpressible(&merged));
    }
    if problems.is_empty() {
        let supervisor = Some(choice.supervisor);
        Ok(Services {
            supervisor,
            topmost: Some(top.name().clone()),
            merged,
            inherited: parent.resolve(),
            is_installed: choice.install,
            on_scratch: matches!(chain[0].manifest.base.value, Base::Scratch),
        })
    } else {
        Err(problems)
    }
}

/// What the images of a chain say, laid over one another; waits are still as they are written.
pub(super) struct Chained {
    pub(super) services: ServiceSet,
    /// What each service waits for.
    pub(super) waits: BTreeMap<ServiceName, BTreeMap<Wait, Field<()>>>,
    /// What waits for each service.
    pub(super) before: BTreeMap<ServiceName, BTreeMap<Wait, Field<()>>>,
}

impl Chained {
    fn of(chain: &[&Image]) -> Self {
        let mut chained = Self { services: BTreeMap::new(), waits: BTreeMap::new(), before: BTreeMap::new() };
        let mut homes: BTreeMap<&str, &str> = BTreeMap::new();
        for image in chain {
            let users = image.manifest.users.iter();
            homes.extend(users.map(|user| (user.name.value.as_str(), user.home.as_str())));
            for service in &image.manifest.services {
                chained.lay_over(service, image);
            }
        }
        for service in chained.services.values_mut() {
            let home = service.user.as_ref().and_then(|user| homes.get(user.value.as_str()));
            service.home = home.map(|home| (*home).to_owned());
        }
        chained
    }

    fn lay_over(&mut self, service: &Service, image: &Image) {
        let (file, name) = (&image.manifest.file, &service.name.value);
        let field = |span| Field { value: (), file: Arc::clone(file), span };
        let declared = Field { value: image.name().clone(), file: Arc::clone(file), span: service.name.span };
        let order = self.services.len();
        self.services
            .entry(name.clone())
            .or_insert_with(|| MergedService::new(name.clone(), declared, order))
            .lay_over(service, file);
        let waits = self.waits.entry(name.clone()).or_default();
        for need in &service.needs {
            if need.value.remove {
                waits.remove(&need.value.on);
            } else {
                waits.insert(need.value.on.clone(), field(need.span));
            }
        }
        let before = self.before.entry(name.clone()).or_default();
        before.extend(service.before.iter().map(|wait| (wait.value.clone(), field(wait.span))));
    }

    /// The services with all their needs.
    fn resolve(mut self) -> ServiceSet {
        let enabled: BTreeSet<ServiceName> = self
            .services
            .values()
            .filter(|service| service.is_enabled())
            .map(|service| service.name.clone())
            .collect();
        let mut needs: BTreeMap<ServiceName, BTreeMap<ServiceName, Field<()>>> = BTreeMap::new();
        for (name, waits) in &self.waits {
            for (wait, place) in waits {
                if let Wait::Service(on) = wait {
                    needs.entry(name.clone()).or_default().insert(on.clone(), place.clone());
                }
            }
        }
        for (name, before) in self.before.iter().filter(|(name, _)| enabled.contains(*name)) {
            for (wait, place) in before {
                if let Wait::Service(other) = wait {
                    let needs = needs.entry(other.clone()).or_default();
                    needs.entry(name.clone()).or_insert_with(|| place.clone());
                }
            }
        }
        self.anchors(&enabled, &mut needs);
        for (name, needs) in needs {
            if let Some(service) = self.services.get_mut(&name) {
                service.needs = needs;
            }
        }
        self.services
    }

    /// Everything waits for what is before `init`, but that and what it needs itself; what needs `ready` waits for
    /// everything, but what waits for it.
    fn anchors(
        &self,
        enabled: &BTreeSet<ServiceName>,
        needs: &mut BTreeMap<ServiceName, BTreeMap<ServiceName, Field<()>>>,
    ) {
        let who = |waits: &BTreeMap<ServiceName, BTreeMap<Wait, Field<()>>>, anchor: &Wait| {
            let found = waits.iter().filter(|(name, _)| enabled.contains(*name));
            let found = found.filter_map(|(name, waits)| Some((name.clone(), waits.get(anchor)?.clone())));
            found.collect::<Vec<_>>()
        };
        let first = who(&self.before, &Wait::Init);
        let mut in_init: BTreeSet<ServiceName> = BTreeSet::new();
        let mut open: Vec<ServiceName> = first.iter().map(|(name, _)| name.clone()).collect();
        while let Some(name) = open.pop() {
            if in_init.insert(name.clone()) {
                open.extend(needs.get(&name).into_iter().flat_map(BTreeMap::keys).cloned());
            }
        }
        for (init, place) in &first {
            for name in enabled.iter().filter(|name| !in_init.contains(*name)) {
                let needs = needs.entry(name.clone()).or_default();
                needs.entry(init.clone()).or_insert_with(|| place.clone());
            }
        }
        let last = who(&self.waits, &Wait::Ready);
        let mut after: BTreeSet<ServiceName> = last.iter().map(|(name, _)| name.clone()).collect();
        loop {
            let waits_for_one = |name: &&ServiceName| {
                !after.contains(*name)
                    && needs.get(*name).is_some_and(|n| n.keys().any(|n| after.contains(n)))
            };
            let more: Vec<ServiceName> = enabled.iter().filter(waits_for_one).cloned().collect();
            if more.is_empty() {
                break;
            }
            after.extend(more);
        }
        for (name, place) in &last {
            let needs = needs.entry(name.clone()).or_default();
            for other in enabled.iter().filter(|other| !after.contains(*other)) {
                needs.entry(other.clone()).or_insert_with(|| place.clone());
            }
        }
    }
}

impl MergedService {
    /// Lays what a manifest says over what is there.
    fn lay_over(&mut self, service: &Service, file: &Arc<SourceFile>) {
        fn over<T: Clone>(field: &mut Option<Field<T>>, from: Option<&Located<T>>, file: &Arc<SourceFile>) {
            if let Some(found) = from {
                *field = Some(Field { value: found.value.clone(), file: Arc::clone(file), span: found.span });
            }
        }
        over(&mut self.enabled, service.enabled.as_ref(), file);
        over(&mut self.kind, service.kind.as_ref(), file);
        over(&mut self.process, service.process.as_ref(), file);
        over(&mut self.user, service.user.as_ref(), file);
        over(&mut self.group, service.group.as_ref(), file);
        over(&mut self.dir, service.dir.as_ref(), file);
        over(&mut self.ready, service.ready.as_ref(), file);
        over(&mut self.restart, service.restart.as_ref(), file);
        over(&mut self.essential, service.essential.as_ref(), file);
        over(&mut self.stop, service.stop.as_ref(), file);
        over(&mut self.reload, service.reload.as_ref(), file);
        over(&mut self.before_start, service.before_start.as_ref(), file);
        over(&mut self.after_stop, service.after_stop.as_ref(), file);
        over(&mut self.log, service.log.as_ref(), file);
        for (name, value) in &service.env {
            let field = Field { value: value.value.clone(), file: Arc::clone(file), span: value.span };
            self.env.insert(name.clone(), field);
        }
        for (limit, value) in &service.limits {
            let field = Field { value: value.value, file: Arc::clone(file), span: value.span };
            self.limits.insert(*limit, field);
        }
    }
}
