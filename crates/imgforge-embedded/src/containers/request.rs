//! What a container is made of: the image's configuration, and what is asked for over it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use camino::Utf8PathBuf;
use imgforge_core::manifest::Network;
use imgforge_engine::Error;
use imgforge_engine::containers::{PublishedPort, RunRequest};

use super::record::{Record, signal};
use super::{is_absolute, refused, system};
use crate::engine::{Embedded, into_error, of_build};
use crate::network::{self, ADDRESS, Stack};
use crate::worker::message::{Container, Volume};

/// The `PATH` of a container that sets none; Docker's.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// SIGTERM.
const TERM: u8 = 15;

impl Embedded {
    /// Makes a container, with its folder; it does not run yet.
    pub(super) async fn prepare(&self, request: RunRequest) -> Result<(Record, Container), Error> {
        if request.control_groups {
            return Err(refused("the embedded engine has no control groups to give away, which systemd needs; run it with Docker".into(),
            ));
        }
        let found = self.store.find(&request.image).map_err(into_error)?;
        let image =
            found.ok_or_else(|| Error::Absent { message: format!("No such image: {}", request.image) })?;
        let (config, stack) = self.stack(&image).await.map_err(of_build)?;
        let settings = config.config;
        let argv = argv(&request, settings.entrypoint, settings.cmd);
        if argv.is_empty() {
            return Err(refused("No command specified".into()));
        }
        let id: String = (0..8).map(|_| format!("{:08x}", fastrand::u32(..))).collect();
        let name = self.name(request.name.as_deref(), &id)?;
        let host_name: String = id.chars().take(12).collect();
        let env = env(&settings.env, &request.env, &host_name);
        let ports = request.ports.iter().map(port).collect::<Result<Vec<_>, _>>()?;
        let folder = self.folder().of(&id);
        let reaches = request.outside && Stack::ready("").is_ok();
        let mut volumes =
            request.volumes.iter().map(|text| self.volume(text)).collect::<Result<Vec<_>, _>>()?;
        let mut own_volumes = Vec::new();
        for target in settings.volumes.unwrap_or_default().into_keys() {
            let same = |other: &str| other.trim_end_matches('/') == target.trim_end_matches('/');
            if volumes.iter().any(|volume| same(&volume.target))
                || request.tmpfs.iter().any(|path| same(path))
            {
                continue;
            }
            let path = self.store.volume(&format!("{id}-{}", own_volumes.len())).map_err(into_error)?;
            own_volumes.push(path.clone());
            volumes.push(Volume { path, target, read_only: false, fill: true });
        }
        let mut labels = settings.labels.unwrap_or_default();
        labels.extend(request.labels);
        let stop_signal = settings.stop_signal.as_deref().map_or(Some(TERM), signal);
        let record = Record {
            id: id.clone(),
            name,
            image: image.id,
            labels,
            stack: stack.clone(),
            env: env.clone(),
            workdir: settings.working_dir.clone(),
            user: request.user.unwrap_or(settings.user),
            stop_signal: stop_signal.ok_or_else(|| {
                refused(format!(
                    "the image's stop signal {} is none",
                    settings.stop_signal.unwrap_or_default()
                ))
            })?,
            healthcheck: settings.healthcheck,
            own_volumes,
        };
        let container = Container {
            id,
            stack,
            folder: folder.clone(),
            argv,
            env,
            workdir: record.workdir.clone(),
            user: record.user.clone(),
            volumes,
            // `/path:options`, as `docker run --tmpfs` has it.
            tmpfs: request
                .tmpfs
                .iter()
                .map(|text| text.split(':').next().unwrap_or(text).to_owned())
                .collect(),
            memory: request.memory,
            cpus: request.cpus,
            read_only: request.read_only,
            ports,
            files: files(&host_name, reaches),
            network: if reaches { Network::Default } else { Network::None },
        };
        self.folder().make(&container.id).map_err(system)?;
        self.folder().write(&record).map_err(system)?;
        Ok((record, container))
    }

    fn name(&self, asked: Option<&str>, id: &str) -> Result<String, Error> {
        let Some(name) = asked else { return Ok(format!("imgforge-{}", &id[..12])) };
        let all = self.folder().all().map_err(system)?;
        match all.iter().find(|record| record.name == name) {
            None => Ok(name.to_owned()),
            Some(other) => Err(refused(format!(
                "The container name {name} is already in use by container {}",
                &other.id[..12]
            ))),
        }
    }

    /// `NAME:/PATH` or `/HOST/PATH:/PATH`, with `:ro` or not.
    fn volume(&self, text: &str) -> Result<Volume, Error> {
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, options) = match parts[..] {
            [source, target] => (source, target, ""),
            [source, target, options] => (source, target, options),
            _ => {
                return Err(refused(format!("the volume {text} is not NAME:/PATH or /HOST/PATH:/PATH")));
            }
        };
        if !is_absolute(target) {
            return Err(refused(format!("the volume {text} has no absolute path in the container")));
        }
        let is_host = is_absolute(source);
        let is_name = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
        };
        if !is_host && !is_name(source) {
            return Err(refused(format!("{source} is no name of a volume")));
        }
        let path = if is_host {
            Utf8PathBuf::from(source)
        } else {
            self.store.volume(source).map_err(into_error)?
        };
        let read_only = options.split(',').any(|option| option == "ro");
        Ok(Volume { path, target: target.to_owned(), read_only, fill: !is_host })
    }
}

/// The program and its arguments, by Docker's rules: another entrypoint takes the image's command away with it.
fn argv(request: &RunRequest, entrypoint: Option<Vec<String>>, cmd: Option<Vec<String>>) -> Vec<String> {
    let (entrypoint, cmd) = match &request.entrypoint {
        Some(entrypoint) => (entrypoint.clone(), Vec::new()),
        None => (entrypoint.unwrap_or_default(), cmd.unwrap_or_default()),
    };
    let cmd = if request.command.is_empty() { cmd } else { request.command.clone() };
    entrypoint.into_iter().chain(cmd).collect()
}

/// The whole environment; what comes later wins.
fn env(image: &[String], asked: &BTreeMap<String, String>, host_name: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    let own =
        [("PATH", PATH), ("HOSTNAME", host_name)].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let image = image.iter().map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let image = image.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let asked = asked.iter().map(|(name, value)| (name.clone(), value.clone()));
    for (name, value) in own.into_iter().chain(image).chain(asked) {
        match all.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => all.push((name, value)),
        }
    }
    all
}

fn port(published: &PublishedPort) -> Result<(u16, SocketAddr), Error> {
    let (number, kind) = published.container.split_once('/').unwrap_or((&published.container, "tcp"));
    let number: u16 = number.parse().map_err(|_| refused(format!("{} is no port", published.container)))?;
    if kind != "tcp" {
        return Err(refused(format!(
            "the embedded engine publishes TCP ports, and {} is none",
            published.container
        )));
    }
    let ip = if published.host_ip.is_empty() { "0.0.0.0" } else { &published.host_ip };
    let ip: IpAddr = ip.parse().map_err(|_| refused(format!("{ip} is no IP address")))?;
    Ok((number, SocketAddr::from((ip, published.host_port.unwrap_or(0)))))
}

/// Returns the files that Docker mounts in a container.
fn files(host_name: &str, reaches: bool) -> BTreeMap<String, String> {
    let hosts =
        format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{ADDRESS}\t{host_name}\n");
    let files = [
        ("/etc/hosts", hosts),
        ("/etc/hostname", format!("{host_name}\n")),
        // Without another machine there is nobody whom a name could be asked of.
        ("/etc/resolv.conf", if reaches { network::resolv_conf() } else { String::new() }),
    ];
    files.map(|(path, content)| (path.to_owned(), content)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_runs_is_entrypoint_and_command_by_dockers_rules() {
        let of =
            |request: RunRequest| argv(&request, Some(words("init --")), Some(words("serve all"))).join(" ");
        assert_eq!(of(RunRequest::default()), "init -- serve all");
        assert_eq!(of(RunRequest { command: words("sh"), ..RunRequest::default() }), "init -- sh");
        assert_eq!(of(RunRequest { entrypoint: Some(words("id -u")), ..RunRequest::default() }), "id -u");
    }

    #[test]
    fn the_environment_is_the_images_and_what_is_asked_for() {
        let asked = BTreeMap::from([("B".to_owned(), "asked".to_owned())]);
        let image = ["A=1=2".to_owned(), "B=image".to_owned(), "PATH=/bin".to_owned()];
        let all = env(&image, &asked, "host");
        let all: Vec<String> = all.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(all, ["PATH=/bin", "HOSTNAME=host", "A=1=2", "B=asked"]);
    }
}
