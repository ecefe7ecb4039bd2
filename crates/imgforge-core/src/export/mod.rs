//! An image as something that a scheduler runs: from the model of its services to the files of Compose, Kubernetes,
//! Marathon, Nomad, a Procfile and Quadlet.
//!
//! [`Workload`] is what all of them need to know, made from manifests alone. A template for each format writes it down;
//! what a format cannot say is a note, never left out in silence.

mod quote;
mod template;
#[cfg(test)]
mod tests;
mod workload;

use minijinja::value::Serde;
use minijinja::{Value, context};

pub use self::workload::{Check, Health, Port, STOP_MARGIN, ServiceLine, Stop, Variable, Volume, Workload};
use crate::container::Container;
use crate::diagnostic::Problems;
use crate::graph::ImageGraph;
use crate::name::ImageName;
use crate::source::Source;
use crate::workspace::{Image, Workspace};

/// What an image is exported to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduler {
    /// A Compose file.
    Compose,
    /// A Deployment, a Service and a claim for each volume.
    Kubernetes,
    /// An app of Marathon.
    Marathon,
    /// A job of Nomad for its docker driver.
    Nomad,
    /// A line for each service.
    Procfile,
    /// Units of Podman's Quadlet.
    Quadlet,
}

/// A file that a scheduler reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedFile {
    /// Its name, without folders.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// The files for one scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// At least one.
    pub files: Vec<ExportedFile>,
    /// What is not known, and what the format cannot say.
    pub notes: Vec<String>,
}

/// What a scheduler needs to know of `name`, run from `reference`.
///
/// # Errors
/// What is wrong with its services.
pub fn workload(
    workspace: &Workspace,
    graph: &ImageGraph,
    name: &ImageName,
    reference: String,
) -> Result<Workload, Problems> {
    let container = Container::of(workspace, graph, name)?;
    let chain: Vec<&Image> = graph.chain(name).into_iter().map(|name| &workspace.images[name]).collect();
    Ok(Workload::new(&workspace.images[name], &container, &chain, reference))
}

/// Writes the files of a workload.
///
/// # Errors
/// What is wrong with a template of the workspace.
pub fn render(workload: &Workload, to: Scheduler, source: &dyn Source) -> Result<Exported, Problems> {
    let mut notes = workload.notes.clone();
    notes.extend(inexpressible(workload, to));
    let values = context! { workload => Value::from(Serde(workload)), notes => notes.clone() };
    let slug = &workload.slug;
    let mut files = Vec::new();
    let mut file = |name: String, template: &str, values: &Value| -> Result<(), Problems> {
        files.push(ExportedFile { name, text: template::render(template, source, values)? });
        Ok(())
    };
    match to {
        Scheduler::Compose => file("compose.yaml".into(), "compose.j2", &values)?,
        Scheduler::Kubernetes => file(format!("{slug}.yaml"), "kubernetes.j2", &values)?,
        Scheduler::Marathon => file(format!("{slug}.json"), "marathon.j2", &values)?,
        Scheduler::Nomad => file(format!("{slug}.nomad.hcl"), "nomad.j2", &values)?,
        Scheduler::Procfile => file("Procfile".into(), "procfile.j2", &values)?,
        Scheduler::Quadlet => {
            file(format!("{slug}.container"), "quadlet.j2", &values)?;
            for volume in workload.volumes.iter().filter(|volume| volume.is_plain) {
                let values = context! { volume => Value::from(Serde(volume)), ..values.clone() };
                file(format!("{slug}-{}.volume", volume.name), "quadlet-volume.j2", &values)?;
            }
        }
    }
    Ok(Exported { files, notes })
}

/// What a format cannot say.
fn inexpressible(workload: &Workload, to: Scheduler) -> Vec<String> {
    let mut notes = Vec::new();
    if workload.is_machine
        && let Some(missing) = not_given_to_systemd(to)
    {
        notes.push(format!("{missing}: see docs/systemd-in-containers.md"));
    }
    let joins_paths = matches!(to, Scheduler::Kubernetes | Scheduler::Marathon | Scheduler::Quadlet);
    for volume in workload.volumes.iter().filter(|volume| joins_paths && !volume.is_plain) {
        notes.push(format!("the volume {:?} is left out: its path cannot be written there", volume.path));
    }
    match to {
        Scheduler::Compose | Scheduler::Quadlet => {}
        Scheduler::Kubernetes => {
            if !workload.volumes.is_empty() {
                notes.push("a claim needs a size, and the manifest has none: 1Gi is a guess".into());
                notes.push("unlike with Docker, a new volume does not begin with the image's files".into());
            }
        }
        Scheduler::Marathon => {
            if workload.memory.is_none() {
                notes.push("Marathon limits memory to 128 MB where nothing is said: give the image resources memory=".into());
            }
            if workload.cpus.is_none() {
                notes.push(
                    "Marathon takes one CPU where nothing is said: give the image resources cpus=".into(),
                );
            }
            if !workload.volumes.is_empty() {
                notes.push("volumes are Docker's own on the agent: they do not move with the app".into());
            }
        }
        Scheduler::Nomad => {
            if workload.memory.is_none() {
                notes.push(
                    "Nomad limits memory to 300 MB where nothing is said: give the image resources memory="
                        .into(),
                );
            }
            if workload.cpus.is_some_and(|cpus| cpus % 1000 != 0) {
                notes.push(
                    "Nomad counts a part of a CPU in MHz, which depends on the machine: cpus is left out"
                        .into(),
                );
            }
            if workload.stop.seconds > 30 {
                notes.push(format!(
                    "a Nomad client gives 30 s to stop at most, unless its max_kill_timeout is {} s",
                    workload.stop.seconds
                ));
            }
            if !workload.volumes.is_empty() {
                notes.push("volumes are Docker's own on the client: they do not move with the job".into());
            }
            for variable in workload.env.iter().filter(|variable| !variable.is_plain) {
                notes
                    .push(format!("the variable {:?} is left out: its name is no identifier", variable.name));
            }
        }
        Scheduler::Procfile => notes.extend(not_in_a_procfile(workload)),
    }
    notes
}

/// What a container needs for systemd, and the files do not give.
fn not_given_to_systemd(to: Scheduler) -> Option<&'static str> {
    match to {
        Scheduler::Compose | Scheduler::Quadlet | Scheduler::Procfile => None,
        Scheduler::Kubernetes => Some("systemd does not start unless it may write to its control group"),
        Scheduler::Marathon | Scheduler::Nomad => {
            Some("systemd does not start unless it has /run in memory, and may write to its control group")
        }
    }
}

fn not_in_a_procfile(workload: &Workload) -> Vec<String> {
    let mut notes = Vec::new();
    for service in workload.services.iter().filter(|service| !service.dropped.is_empty()) {
        let is_out = if service.line.is_none() { "is left out" } else { "drops" };
        notes.push(format!("{} {is_out}: {}", service.name, service.dropped.join("; ")));
    }
    if workload.services.is_empty() {
        notes.push("the image says of no command what it runs".into());
    }
    let whole = [
        ("ports", !workload.ports.is_empty()),
        ("volumes", !workload.volumes.is_empty()),
        ("environment", !workload.env.is_empty()),
        ("resources", workload.memory.is_some() || workload.cpus.is_some()),
    ];
    let whole: Vec<&str> =
        whole.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect();
    if !whole.is_empty() {
        notes.push(format!("a Procfile has no place for: {}", whole.join(", ")));
    }
    notes
}
