//! What is wrong with the services of a chain. A problem is shown at the line that causes it; the same problem, seen
//! again from each descendant, is shown once.

use std::collections::{BTreeMap, BTreeSet};

use imgforge_syntax::nearest;

use super::merge::Chained;
use super::{Field, MergedService, ServiceSet};
use crate::diagnostic::{Problem, Problems};
use crate::manifest::{Base, RestartPolicy, Supervisor, SupervisorChoice, Wait};
use crate::name::ServiceName;
use crate::workspace::Image;

/// What an image says that does not go with services, or with those of its ancestors.
pub(super) fn image(top: &Image, choice: SupervisorChoice, image: &Image, chain: &[&Image]) -> Problems {
    let mut problems = Problems::default();
    let manifest = &image.manifest;
    if let Some(asked) = &manifest.supervisor
        && image.name() != top.name()
        && asked.value.supervisor != choice.supervisor
    {
        let message =
            format!("the services of \"{}\" run under {} already", top.name(), choice.supervisor.as_str());
        let problem = Problem::at(&manifest.file, asked.span, message, "another one here");
        let place = match &top.manifest.supervisor {
            Some(chosen) => top.manifest.file.at(chosen.span),
            None => top.manifest.file.at(top.manifest.services[0].name.span),
        };
        problems.push(
            problem.help(format!(
                "the topmost image that declares a service picks it for all below it: {place}"
            )),
        );
    }
    let taken = [("entrypoint", manifest.entrypoint.as_ref()), ("cmd", manifest.cmd.as_ref())];
    for (word, found) in taken {
        if let Some(found) = found {
            let message = format!("\"{word}\" would take the place of the supervisor that runs the services");
            let problem = Problem::at(&manifest.file, found.span, message, "not in an image with services");
            problems.push(problem.help("make a service of it, with essential #true if its end ends all"));
        }
    }
    problems.extend(installable(top, choice, chain));
    problems
}

/// Where a supervisor's package is added, there must be something to install it with.
fn installable(top: &Image, choice: SupervisorChoice, chain: &[&Image]) -> Option<Problem> {
    let is_debian = matches!(chain[0].manifest.base.value, Base::Root(_));
    let is_packaged = choice.supervisor != Supervisor::S6Overlay;
    if (is_debian && is_packaged) || !choice.install || choice.supervisor == Supervisor::None {
        return None;
    }
    let manifest = &top.manifest;
    let span = manifest.supervisor.as_ref().map_or(manifest.services[0].name.span, |asked| asked.span);
    let name = choice.supervisor.as_str();
    if !is_packaged {
        let message = format!("{name} cannot be installed: no Debian package holds it");
        let problem = Problem::at(&manifest.file, span, message, "the image has to bring it");
        return Some(problem.help(format!(
            "unpack two archives of a release, s6-overlay-noarch and the one of the processor, over the root of this image or of one above it (in a \"dockerfile\" by ADD, else by `copy` and `run`), and say: supervisor \"{name}\" install=#false"
        )));
    }
    let message = format!("{name} cannot be installed: \"{}\" has no root made of packages", chain[0].name());
    let problem = Problem::at(&manifest.file, span, message, "needs it");
    Some(problem.help(format!(
        "bring its programs with `run` or `copy` and say: supervisor \"{name}\" install=#false; or use \"none\" for one process"
    )))
}

/// Services without a process, and waits for what is not there.
pub(super) fn names(chained: &Chained, image: &Image) -> Problems {
    let services = &chained.services;
    let mut problems = Problems::default();
    let is_nothing = |service: &&MergedService| !service.is_enabled() && service.process.is_none();
    for service in services.values().filter(is_nothing) {
        let message = format!("there is no service \"{}\" to switch off", service.name);
        let problem = service.declared.problem(message, "not one of a parent's");
        let near = nearest_above(service, services).map(|near| format!("did you mean \"{near}\"?"));
        problems.push(near.into_iter().fold(problem, Problem::help));
    }
    for service in services.values().filter(|service| service.is_enabled()) {
        if service.process.is_none() {
            let message = format!("the service \"{}\" has no command", service.name);
            let problem = service.declared.problem(message, "nothing to run");
            problems.push(match nearest_above(service, services) {
                Some(near) => problem.help(format!("to change a parent's service, did you mean \"{near}\"?")),
                None => problem.help("for example: command \"nginx\" \"-g\" \"daemon off;\""),
            });
        }
        let anchor = |waits: &BTreeMap<ServiceName, BTreeMap<Wait, Field<()>>>, anchor: &Wait| {
            waits.get(&service.name).and_then(|waits| waits.get(anchor)).cloned()
        };
        if let (Some(init), Some(ready)) =
            (anchor(&chained.before, &Wait::Init), anchor(&chained.waits, &Wait::Ready))
        {
            let message = format!("\"{}\" comes before all others and after all others", service.name);
            let problem = init.problem(message, "before \"init\" ...");
            problems.push(problem.help(format!("... and needs \"ready\" at {}: one of them", ready.place())));
        }
        let waits = [("needs", &chained.waits), ("comes before", &chained.before)];
        for (verb, waits) in waits {
            for (wait, place) in waits.get(&service.name).into_iter().flatten() {
                if let Wait::Service(other) = wait {
                    problems.extend(not_there(service, verb, other, place, services, image));
                }
            }
        }
    }
    problems
}

fn not_there(
    service: &MergedService,
    verb: &str,
    other: &ServiceName,
    place: &Field<()>,
    services: &ServiceSet,
    image: &Image,
) -> Option<Problem> {
    match services.get(other) {
        Some(found) if found.is_enabled() => None,
        Some(found) => {
            let by = found.enabled.as_ref().map_or(String::new(), Field::place);
            let message = format!("\"{}\" {verb} \"{other}\", which is switched off", service.name);
            let problem = place.problem(message, format!("{verb} it here"));
            let mut help = format!("it is switched off at {by} (in {})", image.name());
            if verb == "needs" {
                help.push_str(&format!("; a child takes a need away with: needs \"{other}\" remove=#true"));
            }
            Some(problem.help(help))
        }
        None => {
            let problem = place.problem(format!("there is no service \"{other}\""), "not known here");
            Some(match nearest(other.as_str(), services.keys().map(ServiceName::as_str)) {
                Some(near) => problem.help(format!("did you mean \"{near}\"?")),
                None => {
                    let known: Vec<&str> = services.keys().map(ServiceName::as_str).collect();
                    problem.help(format!("services of this image: {}", known.join(", ")))
                }
            })
        }
    }
}

/// Services that wait for one another.
pub(super) fn order(merged: &ServiceSet) -> Option<Problem> {
    let cycle = cycle(merged)?;
    let hop = |pair: &[&ServiceName]| format!("{} ({})", pair[0], merged[pair[0]].needs[pair[1]].place());
    let hops: Vec<String> = cycle.windows(2).map(hop).collect();
    let place = &merged[cycle[0]].needs[cycle[1]];
    let message = format!("services wait for one another: {} -> {}", hops.join(" -> "), cycle[0]);
    let problem = place.problem(message, "the circle closes here");
    Some(problem.help("none of them would ever start: take one of these waits away"))
}

/// Fields that mean nothing together.
pub(super) fn meaning(merged: &ServiceSet) -> Problems {
    let mut problems = Problems::default();
    for service in merged.values().filter(|service| service.is_enabled() && service.is_oneshot()) {
        let name = &service.name;
        if let Some(ready) = &service.ready {
            let message = format!("readiness is asked of \"{name}\", which has none: it is a oneshot");
            let problem = ready.problem(message, "never asked");
            problems.push(problem.help("a oneshot is ready when it has ended with 0; leave this out"));
        }
        if let Some(restart) = &service.restart
            && restart.value.policy == RestartPolicy::Always
        {
            let message = format!("\"{name}\" is a oneshot, and would be run again for ever");
            let problem = restart.problem(message, "not for a oneshot");
            problems.push(problem.help("restart \"on-failure\" tries again until it has ended with 0"));
        }
        if let Some(reload) = &service.reload {
            let message = format!("\"{name}\" is a oneshot: there is nothing to reload once it has ended");
            problems.push(reload.problem(message, "not for a oneshot"));
        }
    }
    problems
}

/// The service of another image of the chain whose name is most like that of `service`.
fn nearest_above<'m>(service: &MergedService, services: &'m ServiceSet) -> Option<&'m str> {
    let others = services.values().filter(|other| other.declared.value != service.declared.value);
    nearest(service.name.as_str(), others.map(|other| other.name.as_str()))
}

/// A circle of needs, its first name again at its end.
fn cycle(merged: &ServiceSet) -> Option<Vec<&ServiceName>> {
    fn visit<'m>(
        name: &'m ServiceName,
        merged: &'m ServiceSet,
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
            let Some((need, _)) = merged.get_key_value(need) else { continue };
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
