//! Containers on a Docker daemon.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error as Bollard;
use bollard::exec::StartExecResults;
use bollard::models::{ContainerCreateBody, ExecConfig, HostConfig, HostConfigCgroupnsModeEnum, PortBinding};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
    StopContainerOptionsBuilder, WaitContainerOptions,
};
use camino::Utf8Path;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use imgforge_oci::Digest;

use super::ask::{self, Binding, ListedContainer, NetworkSettings, State};
use super::{Docker, archive, causes};
use crate::containers::{
    ContainerState, Containers, Entry, ExecOutput, Health, OutputSink, PublishedPort, RunRequest,
    RunningContainer, Started, Stream,
};
use crate::{Error, labels};

impl Containers for Docker {
    fn start(&self, request: RunRequest) -> BoxFuture<'_, Result<Started, Error>> {
        start(self, request).boxed()
    }

    fn create(&self, request: RunRequest) -> BoxFuture<'_, Result<String, Error>> {
        create(&self.client, request).boxed()
    }

    fn connect<'a>(
        &'a self,
        container: &'a Started,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        async move {
            let address = container.address.as_deref().ok_or(io::ErrorKind::NotConnected)?;
            let stream = tokio::net::TcpStream::connect((address, port)).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        }
        .boxed()
    }

    fn state<'a>(&'a self, container: &'a str) -> BoxFuture<'a, Result<ContainerState, Error>> {
        state(self, container).boxed()
    }

    fn entry<'a>(
        &'a self,
        container: &'a str,
        path: &'a Utf8Path,
    ) -> BoxFuture<'a, Result<Option<Entry>, Error>> {
        archive::entry(&self.client, container, path).boxed()
    }

    fn walk<'a>(&'a self, container: &'a str) -> BoxFuture<'a, Result<Vec<(String, Entry)>, Error>> {
        archive::walk(&self.client, container).boxed()
    }

    fn labelled<'a>(&'a self, label: &'a str) -> BoxFuture<'a, Result<Vec<String>, Error>> {
        async move {
            let found = self.containers(true, Some(("label", label))).await?;
            Ok(found.into_iter().map(|container| container.id).collect())
        }
        .boxed()
    }

    fn follow<'a>(&'a self, container: &'a str, sink: OutputSink) -> BoxFuture<'a, Result<i64, Error>> {
        follow(&self.client, container, sink).boxed()
    }

    fn stop<'a>(&'a self, container: &'a str, grace: Duration) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
            let options = StopContainerOptionsBuilder::default().t(seconds).build();
            Ok(self.client.stop_container(container, Some(options)).await?)
        }
        .boxed()
    }

    fn remove<'a>(&'a self, container: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        remove(&self.client, container).boxed()
    }

    fn running<'a>(&'a self, image: Option<&'a str>) -> BoxFuture<'a, Result<Vec<RunningContainer>, Error>> {
        async move {
            let label = match image {
                Some(image) => format!("{}={image}", labels::IMAGE),
                None => labels::IMAGE.to_owned(),
            };
            list(self, "label", &label).await
        }
        .boxed()
    }

    fn images_in_use(&self) -> BoxFuture<'_, Result<BTreeSet<Digest>, Error>> {
        async move {
            let found = self.containers(true, None).await?;
            Ok(found.into_iter().filter_map(|container| container.image_id).collect())
        }
        .boxed()
    }

    fn find<'a>(&'a self, container: &'a str) -> BoxFuture<'a, Result<Option<RunningContainer>, Error>> {
        async move {
            // A filter takes a part of a name; the name must be the whole of it.
            let named = list(self, "name", container).await?;
            if let Some(found) = named.into_iter().find(|found| found.name == container) {
                return Ok(Some(found));
            }
            let is_id = container.len() >= 4 && container.bytes().all(|b| b.is_ascii_hexdigit());
            if !is_id {
                return Ok(None);
            }
            Ok(list(self, "id", container).await?.into_iter().next())
        }
        .boxed()
    }

    fn exec_as<'a>(
        &'a self,
        container: &'a str,
        argv: &'a [&'a str],
        user: Option<&'a str>,
    ) -> BoxFuture<'a, Result<ExecOutput, Error>> {
        exec(&self.client, container, argv, user).boxed()
    }
}

async fn create(client: &bollard::Docker, mut request: RunRequest) -> Result<String, Error> {
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for PublishedPort { container, host_ip, host_port } in &request.ports {
        let binding =
            PortBinding { host_ip: Some(host_ip.clone()), host_port: host_port.map(|port| port.to_string()) };
        bindings.entry(container.clone()).or_default().get_or_insert_default().push(binding);
    }
    if request.control_groups {
        request.volumes.push("/sys/fs/cgroup:/sys/fs/cgroup".into());
    }
    let host = HostConfig {
        port_bindings: Some(bindings),
        binds: Some(request.volumes),
        // s6-overlay starts programs in /run.
        tmpfs: Some(request.tmpfs.into_iter().map(|path| (path, "exec".to_owned())).collect()),
        memory: request.memory.and_then(|bytes| i64::try_from(bytes).ok()),
        nano_cpus: request.cpus.map(|thousandths| i64::from(thousandths) * 1_000_000),
        readonly_rootfs: Some(request.read_only),
        // In a namespace of its own the container would not find itself in the host's control groups.
        cgroupns_mode: request.control_groups.then_some(HostConfigCgroupnsModeEnum::HOST),
        ..HostConfig::default()
    };
    let body = ContainerCreateBody {
        image: Some(request.image),
        cmd: (!request.command.is_empty()).then_some(request.command),
        entrypoint: request.entrypoint,
        user: request.user,
        labels: Some(request.labels.into_iter().collect()),
        env: Some(request.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        exposed_ports: Some(request.ports.iter().map(|port| port.container.clone()).collect()),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    };
    let options = request.name.map(|name| CreateContainerOptionsBuilder::default().name(&name).build());
    Ok(client.create_container(options, body).await?.id)
}

/// Starts a container. When it is not known where it is reached, or it does not start, nothing is left of it.
async fn start(docker: &Docker, request: RunRequest) -> Result<Started, Error> {
    let id = create(&docker.client, request).await?;
    let started = async {
        let started = docker.client.start_container(&id, None::<StartContainerOptions>).await;
        started.map_err(causes::of_start)?;
        docker.container(&id).await
    };
    match started.await {
        Ok(found) => Ok(running(id, found)),
        Err(error) => {
            // Why it was not started says more than why it stays.
            let _ = remove(&docker.client, &id).await;
            Err(error)
        }
    }
}

fn running(id: String, found: ask::Container) -> Started {
    let NetworkSettings { networks, ports: published } = found.network_settings;
    let networks = networks.into_values().map(|network| network.ip_address);
    let address = networks.into_iter().find(|address| !address.is_empty());
    let mut ports = Vec::new();
    for (port, bindings) in published {
        for Binding { host_ip, host_port } in bindings.into_iter().flatten() {
            ports.push((port.clone(), format!("{host_ip}:{host_port}")));
        }
    }
    ports.sort();
    let name = found.name.trim_start_matches('/').to_owned();
    Started { id, name, ports, address, lacks: None }
}

async fn state(docker: &Docker, container: &str) -> Result<ContainerState, Error> {
    let State { running, exit_code, oom_killed, health } = docker.container(container).await?.state;
    let health = match health.status.as_str() {
        "healthy" => Some(Health::Healthy),
        "unhealthy" => Some(Health::Unhealthy),
        "" | "none" => None,
        // `starting`, and what another engine calls it.
        _ => Some(Health::Starting),
    };
    Ok(ContainerState { running, exit_code, out_of_memory: oom_killed, health })
}

/// A log that is longer is not read a second time for the sake of its end.
const READ_AGAIN: usize = 1 << 20;

async fn follow(client: &bollard::Docker, container: &str, sink: OutputSink) -> Result<i64, Error> {
    let mut given = [0, 0];
    read_log(client, container, true, |is_error, piece| {
        given[usize::from(is_error)] += piece.len();
        sink(is_error, piece);
    })
    .await?;
    let code = wait(client, container).await?;
    // Who follows the log of a container that ends may miss its end, above all a line without a newline (seen with
    // 20.10). Once the container has ended its log is whole. One that is removed when it ends has none any more.
    if given.iter().sum::<usize>() < READ_AGAIN {
        let _ = read_log(client, container, false, |is_error, piece| {
            let known = &mut given[usize::from(is_error)];
            let passed = piece.len().min(*known);
            *known -= passed;
            if passed < piece.len() {
                sink(is_error, &piece[passed..]);
            }
        })
        .await;
    }
    Ok(code)
}

/// Gives each piece of a container's log, and whether it is of stderr, to `take`.
async fn read_log(
    client: &bollard::Docker,
    container: &str,
    follow: bool,
    mut take: impl FnMut(bool, &[u8]),
) -> Result<(), Error> {
    let options = LogsOptionsBuilder::default().follow(follow).stdout(true).stderr(true).build();
    let mut logs = client.logs(container, Some(options));
    while let Some(piece) = logs.next().await {
        match piece? {
            LogOutput::StdErr { message } => take(true, &message),
            LogOutput::StdOut { message } | LogOutput::Console { message } | LogOutput::StdIn { message } => {
                take(false, &message);
            }
        }
    }
    Ok(())
}

async fn wait(client: &bollard::Docker, container: &str) -> Result<i64, Error> {
    let mut waiting = client.wait_container(container, None::<WaitContainerOptions>);
    match waiting.next().await {
        Some(Ok(ended)) => Ok(ended.status_code),
        // What bollard makes of an exit code other than 0.
        Some(Err(Bollard::DockerContainerWaitError { code, .. })) => Ok(code),
        Some(Err(error)) => Err(error.into()),
        None => Err(Error::Connection { message: "the daemon says nothing of the container's end".into() }),
    }
}

async fn remove(client: &bollard::Docker, container: &str) -> Result<(), Error> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    match client.remove_container(container, Some(options)).await.map_err(Error::from) {
        Err(error) if !error.is_absent() => Err(error),
        _ => Ok(()),
    }
}

async fn list(docker: &Docker, filter: &str, value: &str) -> Result<Vec<RunningContainer>, Error> {
    let row = |mut found: ListedContainer| RunningContainer {
        id: found.id,
        name: found.names.first().map_or("", |name| name.trim_start_matches('/')).to_owned(),
        image: found.labels.remove(labels::IMAGE),
    };
    let found = docker.containers(false, Some((filter, value))).await?;
    let mut rows: Vec<RunningContainer> = found.into_iter().map(row).collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(rows)
}

async fn exec(
    client: &bollard::Docker,
    container: &str,
    argv: &[&str],
    user: Option<&str>,
) -> Result<ExecOutput, Error> {
    let config = ExecConfig {
        cmd: Some(argv.iter().map(|word| (*word).to_owned()).collect()),
        user: user.map(str::to_owned),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..ExecConfig::default()
    };
    let id = client.create_exec(container, config).await.map_err(causes::of_container)?.id;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    if let StartExecResults::Attached { mut output, .. } =
        client.start_exec(&id, None).await.map_err(causes::of_container)?
    {
        while let Some(piece) = output.next().await {
            match piece? {
                LogOutput::StdErr { message } => stderr.extend_from_slice(&message),
                LogOutput::StdOut { message }
                | LogOutput::Console { message }
                | LogOutput::StdIn { message } => stdout.extend_from_slice(&message),
            }
        }
    }
    let code = client.inspect_exec(&id).await?.exit_code.unwrap_or(-1);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (stdout, stderr) = (text(stdout), text(stderr));
    match causes::not_executed(code, &stdout) {
        Some(why) => Err(Error::NotStarted(why)),
        None => Ok(ExecOutput { code, stdout, stderr }),
    }
}
