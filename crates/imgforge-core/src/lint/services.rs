//! Rules about services.

use super::process::line_for_shell;
use super::{Found, Rule, problem};
use crate::container::Container;
use crate::diagnostic::Problem;
use crate::manifest::{Millis, Supervisor};
use crate::name::ImageName;
use crate::services::{MergedService, Services};

/// What `docker stop` waits before it kills, when no one says otherwise.
const DOCKER_STOP: Millis = Millis(10_000);

pub(super) fn look(
    name: &ImageName,
    container: &Container,
    parent: Option<&Container>,
    found: &mut Vec<Found>,
) {
    let services = &container.services;
    for service in services.enabled() {
        found.extend(without_readiness(service, services));
        found.extend(as_root(service, container));
        found.extend(shell_keeps_signals(service, services));
    }
    let above = parent.map_or(Millis(0), |parent| parent.services.stop_time());
    if services.stop_time() > DOCKER_STOP && services.stop_time() != above {
        found.push((Rule::SlowStop, None, slow_stop(name, services)));
    }
}

/// A longrun without `ready` counts as ready when it is started.
fn without_readiness(service: &MergedService, services: &Services) -> Option<Found> {
    if service.is_oneshot() || service.ready.is_some() {
        return None;
    }
    let name = &service.name;
    let mut waiting = services.enabled().filter_map(|other| Some((other, other.needs.get(name)?)));
    let (first, need) = waiting.next()?;
    let more = waiting.count();
    let who = if more == 0 { String::new() } else { format!(" (and {more} more)") };
    let message = format!("nothing says when \"{name}\" is ready, and \"{}\"{who} waits for it", first.name);
    let problem = problem(&service.declared, message, "counts as ready at once");
    let problem = if need.file == service.declared.file {
        problem.and(need.span, "the need")
    } else {
        problem.and_in(&need.file, need.span, "the need is here", "the need")
    };
    let help =
        "say how it is found out: ready tcp=5432, ready http=\"http://127.0.0.1/\", ready fd=3 or a command";
    Some((Rule::NeedWithoutReadiness, Some(name.clone()), problem.help(help)))
}

fn as_root(service: &MergedService, container: &Container) -> Option<Found> {
    let is_other = |user: &str| !matches!(user.split(':').next(), Some("root" | "0" | ""));
    let runs_as_other = container.user.as_ref().is_some_and(|user| is_other(&user.value));
    if service.user.is_some() || runs_as_other {
        return None;
    }
    let name = &service.name;
    let place = service.process.as_ref().map_or_else(
        || problem(&service.declared, format!("the service \"{name}\" runs as root"), "no user"),
        |process| problem(process, format!("the service \"{name}\" runs as root"), "run as root"),
    );
    let help = format!(
        "give it a user: user \"{name}\" uid=1000 in the image, user \"{name}\" in the service; or, where it has to be root: user \"root\""
    );
    Some((Rule::RunsAsRoot, Some(name.clone()), place.help(help)))
}

/// A supervisor's stop signal goes to the service's own process. With one process in the container, another rule
/// tells of it.
fn shell_keeps_signals(service: &MergedService, services: &Services) -> Option<Found> {
    let is_single = services.supervisor.is_none_or(Supervisor::is_single);
    if is_single || service.is_oneshot() || service.stop().group {
        return None;
    }
    let process = service.process.as_ref()?;
    let line = line_for_shell(&process.value)?;
    if line.ends_with_exec() || line.programs().any(|(program, _)| program == "trap") {
        return None;
    }
    let name = &service.name;
    let message =
        format!("\"{name}\" is a shell: its stop signal ends the shell, and what that runs is killed");
    let help = "let the last command take the shell's place: exec PROGRAM ...; or have the whole process group asked to end: stop group=#true";
    let problem = problem(process, message, "run by a shell").help(help);
    Some((Rule::ShellKeepsSignals, Some(name.clone()), problem))
}

/// Shown at the service that is stopped last of those that take longest.
fn slow_stop(image: &ImageName, services: &Services) -> Problem {
    let path = services.stop_path();
    let seconds = |time: Millis| format!("{} s", time.0.div_ceil(1000));
    let steps: Vec<String> = path
        .iter()
        .map(|service| {
            let unsaid = if service.stop.is_none() { ", which no one says" } else { "" };
            let after = service.stop_time() - service.stop().grace.0;
            let after = if after == 0 {
                String::new()
            } else {
                format!(", and {} after-stop", seconds(Millis(after)))
            };
            format!("{} ({}{unsaid}{after})", service.name, seconds(service.stop().grace))
        })
        .collect();
    let total = services.stop_time();
    let message = format!(
        "\"{image}\" may take {} to stop, and docker stop kills it after {}",
        seconds(total),
        seconds(DOCKER_STOP)
    );
    let last = path.last().expect("what takes time to stop has services");
    let problem = match &last.stop {
        Some(stop) => problem(stop, message, "too much together"),
        None => problem(&last.declared, message, "too much together"),
    };
    problem.help(format!(
        "one after another: {}. Give it less with stop grace=; or give the container the time: docker stop -t {}, which `imgforge run` and the files of `imgforge export` say",
        steps.join(", then "),
        (total.0 + crate::export::STOP_MARGIN.0).div_ceil(1000),
    ))
}
