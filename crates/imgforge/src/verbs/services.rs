//! `imgforge services`: what the services of running containers are doing.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use camino::Utf8Path;
use clap::Args;
use imgforge::engine::containers::RunningContainer;
use imgforge::engine::{Containers, Error as EngineError};
use imgforge::report::{clean, human_duration};
use imgforge::{Error, runtime};
use schemars::JsonSchema;
use serde::Serialize;

use crate::Global;
use crate::console::{BAD, DIM, GOOD, WORK, print, say};
use crate::failure::Failure;
use crate::verbs::{Format, json};

/// The program that every image with services has.
const STATUS: &str = "/etc/imgforge/status";

/// Show the services of running containers: state, process, for how long, restarts
///
/// States: waiting (for what it needs), paused (before it is started again), starting (not ready yet), up, done (a
/// oneshot that ended well), failed (given up), down (stopped by someone).
#[derive(Args)]
#[command(
    after_help = "Examples:\n  imgforge services                 every running container of an image of imgforge\n  imgforge services guestbook       those of one image, or a container by name or id\n  imgforge services --format json"
)]
pub(crate) struct ServicesVerb {
    /// A container, or an image [default: all running containers]
    #[arg(value_name = "CONTAINER|IMAGE")]
    of: Option<String>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What `services` prints.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ServicesOutput {
    version: u32,
    containers: Vec<ShownContainer>,
}

#[derive(Serialize, JsonSchema)]
struct ShownContainer {
    name: String,
    id: String,
    /// The image's name in its workspace.
    image: Option<String>,
    /// Empty where the image has no services.
    services: Vec<ServiceState>,
}

#[derive(Debug, PartialEq, Serialize, JsonSchema)]
struct ServiceState {
    name: String,
    /// `waiting`, `paused`, `starting`, `up`, `done`, `failed` or `down`.
    state: String,
    /// In the container's own process namespace.
    pid: Option<u32>,
    /// How long it has been so.
    seconds: u64,
    /// How often it was started again since the container's start.
    restarts: u64,
}

impl ServicesVerb {
    pub(crate) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        let output = runtime()?.block_on(self.ask(global))?;
        if self.format == Format::Text && output.containers.is_empty() && !global.quiet {
            say(DIM, "Note", "no container of an image of imgforge is running");
        }
        print(&match self.format {
            Format::Json => json(&output),
            Format::Text => output.containers.iter().map(text).collect::<Vec<_>>().join("\n"),
        });
        Ok(ExitCode::SUCCESS)
    }

    async fn ask(&self, global: &Global) -> Result<ServicesOutput, Error> {
        let start = global.workspace.as_deref().unwrap_or(Utf8Path::new("."));
        let engine = imgforge::connect(start, global.engine.into()).await?;
        let mut containers = Vec::new();
        for container in self.containers(&*engine).await? {
            let services = match engine.exec(&container.id, &[STATUS]).await {
                Ok(answer) if answer.code == 0 => parse(&answer.stdout),
                // It has none.
                Ok(_) | Err(EngineError::NotStarted(_)) => Vec::new(),
                // It has ended since it was listed.
                Err(EngineError::Absent { .. } | EngineError::NotRunning { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let RunningContainer { id, name, image } = container;
            containers.push(ShownContainer { name, id, image, services });
        }
        Ok(ServicesOutput { version: 1, containers })
    }

    async fn containers(&self, engine: &dyn Containers) -> Result<Vec<RunningContainer>, Error> {
        let Some(of) = &self.of else { return Ok(engine.running(None).await?) };
        if let Some(found) = engine.find(of).await? {
            return Ok(vec![found]);
        }
        let of_image = engine.running(Some(of)).await?;
        if !of_image.is_empty() {
            return Ok(of_image);
        }
        let others = engine.running(None).await?;
        Err(Error::NoContainer {
            asked: of.clone(),
            running: others.into_iter().map(|container| container.name).collect(),
        })
    }
}

/// Lines of five words with tabs between; what is none is left out: the container's own programs print it.
fn parse(text: &str) -> Vec<ServiceState> {
    let state = |line: &str| {
        let mut words = line.split('\t');
        let state = ServiceState {
            name: words.next()?.to_owned(),
            state: words.next()?.to_owned(),
            pid: words.next()?.parse().ok(),
            seconds: words.next()?.parse().ok()?,
            restarts: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(state)
    };
    text.lines().filter_map(state).collect()
}

fn text(container: &ShownContainer) -> String {
    let image = container.image.as_ref().map_or_else(String::new, |image| format!(" of {}", clean(image)));
    let mut out = format!("{}{image}  {DIM}{:.12}{DIM:#}\n", clean(&container.name), container.id);
    if container.services.is_empty() {
        out.push_str("  it has no services\n");
        return out;
    }
    let width = container.services.iter().map(|service| service.name.len()).max().unwrap_or(0).max(7);
    let _ = writeln!(
        out,
        "  {DIM}{:width$}  {:8}  {:>7}  {:>8}  restarts{DIM:#}",
        "service", "state", "pid", "for"
    );
    for service in &container.services {
        let style = match service.state.as_str() {
            "up" | "done" => GOOD,
            "failed" => BAD,
            "down" => DIM,
            _ => WORK,
        };
        let pid = service.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let since = human_duration(Duration::from_secs(service.seconds));
        let (name, state) = (clean(&service.name), clean(&service.state));
        let _ = writeln!(
            out,
            "  {name:width$}  {style}{state:8}{style:#}  {pid:>7}  {since:>8}  {}",
            service.restarts
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_says_of_its_services_is_read() {
        let said = "nginx\tup\t12\t3600\t1\nmigrate\tdone\t-\t3601\t0\nnot a row\nweb\tup\tx\ty\tz\n";
        let state = |name: &str, state: &str, pid, seconds, restarts| ServiceState {
            name: name.into(),
            state: state.into(),
            pid,
            seconds,
            restarts,
        };
        assert_eq!(
            parse(said),
            [state("nginx", "up", Some(12), 3600, 1), state("migrate", "done", None, 3601, 0)]
        );
    }
}
