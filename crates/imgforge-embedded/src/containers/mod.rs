//! Containers of the embedded engine. Each is run by a worker, and ends with the process that has started it.
//!
//! A container has a network of its own, from which it reaches other machines where that is asked for. Its published
//! ports, and any other port for [`Containers::connect`], are reached through its worker.

mod health;
mod leftovers;
mod log;
mod record;
mod request;

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use camino::Utf8Path;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use imgforge_engine::containers::{
    ContainerState, Containers, Entry, EntryKind, ExecOutput, Health, OutputSink, RunRequest,
    RunningContainer, Started, Stream,
};
use imgforge_engine::{CancellationToken, Error, NotStarted, labels};
use imgforge_oci::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};
use tokio::sync::watch;

pub(crate) use self::leftovers::Leftovers;
use self::record::{Folder, Record, Status};
use crate::cgroup;
use crate::engine::{Embedded, FULL, into_error, of_build, silent, words};
use crate::network::{ADDRESS, Stack};
use crate::store::StoreError;
use crate::worker::NO_ROOM;
use crate::worker::container::{DIAL, at};
use crate::worker::message::{self, Ended, Exec, Look, Network, Reply, Request};

/// The time between two looks at files of a container that another process writes.
const GLANCE: Duration = Duration::from_millis(10);

/// The time that a killed container has to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The signal that nothing can ignore.
const KILL: u8 = 9;

/// The containers that this process runs, by id.
#[derive(Default)]
pub(crate) struct Held(Mutex<HashMap<String, Arc<Live>>>);

impl Held {
    fn get(&self, id: &str) -> Option<Arc<Live>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }
}

/// A container that this process runs.
struct Live {
    /// The worker's stdin: a byte is a signal, its end kills.
    stdin: tokio::sync::Mutex<Option<ChildStdin>>,
    /// The end of the container, once it has come.
    ended: watch::Receiver<Option<Result<Ended, Problem>>>,
    health: Mutex<Option<Health>>,
}

/// Why a container does not run.
#[derive(Debug, Clone)]
enum Problem {
    /// The image's program cannot be started.
    NotStarted(message::NotStarted),
    /// Something else.
    Other(String),
}

impl Containers for Embedded {
    fn keeps_containers(&self) -> bool {
        false
    }

    fn start(&self, request: RunRequest) -> BoxFuture<'_, Result<Started, Error>> {
        async move {
            let is_asked = request.outside;
            let (record, container) = self.prepare(request).await?;
            let is_alone = is_asked && container.network == Network::None;
            let started = self.launch(&record, container).await;
            if started.is_err() {
                // Why it was not started says more than why it stays.
                let _ = self.remove_record(&record).await;
            }
            let stack = is_alone.then(|| Stack::ready("a container that reaches other machines"));
            let lacks = stack.and_then(Result::err).map(|error| error.to_string());
            started.map(|started| Started { lacks, ..started })
        }
        .boxed()
    }

    fn create(&self, request: RunRequest) -> BoxFuture<'_, Result<String, Error>> {
        async move { Ok(self.prepare(request).await?.0.id) }.boxed()
    }

    fn connect<'a>(
        &'a self,
        container: &'a Started,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        async move {
            let folder = self.folder().of(&container.id);
            let stream = at(&folder, DIAL, |path| std::os::unix::net::UnixStream::connect(path));
            // A container that has ended listens no more.
            let stream = stream.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
            stream.set_nonblocking(true)?;
            let mut stream = tokio::net::UnixStream::from_std(stream)?;
            stream.write_all(&port.to_be_bytes()).await?;
            match stream.read_u8().await? {
                0 => Ok(Box::new(stream) as Box<dyn Stream>),
                code => Err(io::Error::from_raw_os_error(i32::from(code))),
            }
        }
        .boxed()
    }

    fn state<'a>(&'a self, container: &'a str) -> BoxFuture<'a, Result<ContainerState, Error>> {
        async move {
            let record = self.record(container)?;
            let live = self.held.get(&record.id);
            let ended = match self.status(&record)? {
                // Its process has ended, and what it has printed is still being written.
                Status::Ended(_) if live.as_ref().is_some_and(|live| live.ended.borrow().is_none()) => {
                    Some(self.wait(&record).await?)
                }
                Status::Ended(ended) => Some(ended),
                Status::Running(_) => None,
                Status::Made => Some(Ended { code: 0, out_of_memory: false }),
            };
            let health = live.and_then(|live| *live.health.lock().unwrap_or_else(PoisonError::into_inner));
            Ok(ContainerState {
                running: ended.is_none(),
                exit_code: ended.map_or(0, |ended| ended.code),
                out_of_memory: ended.is_some_and(|ended| ended.out_of_memory),
                health,
            })
        }
        .boxed()
    }

    fn entry<'a>(
        &'a self,
        container: &'a str,
        path: &'a Utf8Path,
    ) -> BoxFuture<'a, Result<Option<Entry>, Error>> {
        async move {
            let record = self.record(container)?;
            let look = Look { stack: self.layers(&record), paths: vec![path.to_string()], follow: false };
            match self.ask(&Request::Look(look)).await? {
                Reply::Look(found) => Ok(found.into_iter().next().flatten().map(entry)),
                other => Err(strange(&other)),
            }
        }
        .boxed()
    }

    fn walk<'a>(&'a self, container: &'a str) -> BoxFuture<'a, Result<Vec<(String, Entry)>, Error>> {
        async move {
            let record = self.record(container)?;
            match self.ask(&Request::Walk(self.layers(&record))).await? {
                Reply::Walk(found) => {
                    Ok(found.into_iter().map(|(path, found)| (path, entry(found))).collect())
                }
                other => Err(strange(&other)),
            }
        }
        .boxed()
    }

    fn labelled<'a>(&'a self, label: &'a str) -> BoxFuture<'a, Result<Vec<String>, Error>> {
        async move {
            let (key, value) = label.split_once('=').unwrap_or((label, ""));
            let all = self.folder().all().map_err(system)?;
            let has = |record: &Record| record.labels.get(key).is_some_and(|found| found == value);
            Ok(all.into_iter().filter(has).map(|record| record.id).collect())
        }
        .boxed()
    }

    fn follow<'a>(&'a self, container: &'a str, sink: OutputSink) -> BoxFuture<'a, Result<i64, Error>> {
        async move {
            let record = self.record(container)?;
            let path = self.folder().of(&record.id).join("log");
            let mut reader = log::Reader::open(&path).map_err(system)?;
            loop {
                // Asked first: what is printed before the end is in the log then.
                let ended = match self.held.get(&record.id) {
                    Some(live) => live.ended.borrow().is_some(),
                    None => matches!(self.status(&record)?, Status::Ended(_)),
                };
                reader.read(&*sink).map_err(system)?;
                if ended {
                    return Ok(self.wait(&record).await?.code);
                }
                tokio::time::sleep(GLANCE).await;
            }
        }
        .boxed()
    }

    fn stop<'a>(&'a self, container: &'a str, grace: Duration) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let record = self.record(container)?;
            if !grace.is_zero() {
                self.signal(&record, record.stop_signal).await?;
                if tokio::time::timeout(grace, self.wait(&record)).await.is_ok() {
                    return Ok(());
                }
            }
            self.kill(&record).await
        }
        .boxed()
    }

    fn remove<'a>(&'a self, container: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            match self.folder().find(container).map_err(system)? {
                Some(record) => self.remove_record(&record).await,
                None => Ok(()),
            }
        }
        .boxed()
    }

    fn running<'a>(&'a self, image: Option<&'a str>) -> BoxFuture<'a, Result<Vec<RunningContainer>, Error>> {
        async move {
            let mut running = Vec::new();
            for record in self.folder().all().map_err(system)? {
                let found = record.labels.get(labels::IMAGE);
                let is_meant = found.is_some_and(|name| image.is_none_or(|image| name == image));
                if is_meant && matches!(self.status(&record)?, Status::Running(_)) {
                    running.push(of_workspace(record));
                }
            }
            Ok(running)
        }
        .boxed()
    }

    fn images_in_use(&self) -> BoxFuture<'_, Result<BTreeSet<Digest>, Error>> {
        async move { Ok(self.leftovers(false).map_err(into_error)?.images_in_use) }.boxed()
    }

    fn find<'a>(&'a self, container: &'a str) -> BoxFuture<'a, Result<Option<RunningContainer>, Error>> {
        async move {
            let Some(record) = self.folder().find(container).map_err(system)? else { return Ok(None) };
            let is_running = matches!(self.status(&record)?, Status::Running(_));
            Ok(is_running.then(|| of_workspace(record)))
        }
        .boxed()
    }

    fn exec_as<'a>(
        &'a self,
        container: &'a str,
        argv: &'a [&'a str],
        user: Option<&'a str>,
    ) -> BoxFuture<'a, Result<ExecOutput, Error>> {
        async move {
            let record = self.record(container)?;
            let argv = argv.iter().map(|word| (*word).to_owned()).collect();
            self.exec_in(&record, argv, user, &CancellationToken::new()).await
        }
        .boxed()
    }
}

impl Embedded {
    fn folder(&self) -> Folder {
        Folder::new(self.store.state())
    }

    /// Returns what killed containers have left. `is_alone` says that no other process uses the store.
    pub(crate) fn leftovers(&self, is_alone: bool) -> Result<Leftovers, StoreError> {
        let held = self.held.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        let dir = self.store.dir();
        leftovers::find(self.store.state(), &held, is_alone).map_err(StoreError::io(dir))
    }

    fn record(&self, container: &str) -> Result<Record, Error> {
        let found = self.folder().find(container).map_err(system)?;
        found.ok_or_else(|| Error::Absent { message: format!("No such container: {container}") })
    }

    fn status(&self, record: &Record) -> Result<Status, Error> {
        self.folder().status(&record.id).map_err(system)
    }

    /// Its files, as layers. Volumes and what is mounted in memory are not among them.
    fn layers(&self, record: &Record) -> Vec<camino::Utf8PathBuf> {
        let upper = self.folder().of(&record.id).join("upper");
        let own = upper.exists().then_some(upper);
        record.stack.iter().cloned().chain(own).collect()
    }

    async fn ask(&self, request: &Request) -> Result<Reply, Error> {
        let scratch = self.store.scratch().map_err(into_error)?;
        let cancel = CancellationToken::new();
        self.work(scratch.path(), request, silent(), &cancel).await.map_err(of_build)
    }

    /// Starts the worker of a container, and waits until its program runs.
    async fn launch(&self, record: &Record, container: message::Container) -> Result<Started, Error> {
        let folder = self.folder().of(&record.id);
        let ports = container.ports.clone();
        let file = File::create(folder.join("log")).map_err(system)?;
        let mut child = self
            .client
            .spawn(&folder, &Request::Container(Box::new(container)))
            .await
            .map_err(|error| Error::Embedded { message: error.to_string() })?;
        let (tell, mut ended) = watch::channel(None);
        let live = Arc::new(Live {
            stdin: tokio::sync::Mutex::new(child.stdin.take()),
            ended: ended.clone(),
            health: Mutex::default(),
        });
        let (all, id) = (self.folder(), record.id.clone());
        self.held.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), Arc::clone(&live));
        tokio::spawn(async move {
            let end = see(child, file, &all.of(&id)).await;
            if let Ok(ended) = end {
                let _ = all.write_end(&id, ended);
            }
            let _ = tell.send(Some(end));
        });
        let alive = loop {
            if let Status::Running(alive) = self.status(record)? {
                break Some(alive);
            }
            let end = ended.borrow().clone();
            match end {
                None => {}
                // It was so quick that nobody has seen it run.
                Some(Ok(_)) => break None,
                Some(Err(Problem::NotStarted(found))) => return Err(not_started(found)),
                Some(Err(Problem::Other(message))) => return Err(refused(message)),
            }
            let _ = tokio::time::timeout(Duration::from_millis(2), ended.changed()).await;
        };
        if let Some(check) = record.healthcheck.clone() {
            health::watch(self.executor(), record.clone(), check, live);
        }
        let ports = match alive {
            Some(alive) => alive.ports,
            None => ports,
        };
        let mut ports: Vec<(String, String)> =
            ports.into_iter().map(|(port, address)| (format!("{port}/tcp"), address.to_string())).collect();
        ports.sort();
        Ok(Started {
            id: record.id.clone(),
            name: record.name.clone(),
            ports,
            address: Some(ADDRESS.to_string()),
            lacks: None,
        })
    }

    /// Waits for the end of a container that runs or has run.
    async fn wait(&self, record: &Record) -> Result<Ended, Error> {
        if let Some(live) = self.held.get(&record.id) {
            let mut ended = live.ended.clone();
            let end = ended.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
            return match end {
                Some(Ok(ended)) => Ok(ended),
                Some(Err(Problem::NotStarted(found))) => Err(not_started(found)),
                Some(Err(Problem::Other(message))) => Err(Error::Embedded { message }),
                None => {
                    Err(Error::Embedded { message: "nobody has seen how the container has ended".into() })
                }
            };
        }
        loop {
            match self.status(record)? {
                Status::Ended(ended) => return Ok(ended),
                Status::Made => return Ok(Ended { code: 0, out_of_memory: false }),
                Status::Running(_) => tokio::time::sleep(GLANCE).await,
            }
        }
    }

    /// Sends process 1 a signal. One that has ended is no error.
    async fn signal(&self, record: &Record, number: u8) -> Result<(), Error> {
        if let Some(live) = self.held.get(&record.id) {
            if let Some(stdin) = &mut *live.stdin.lock().await {
                // A worker that has ended reads no more.
                let _ = stdin.write_all(&[number]).await;
                let _ = stdin.flush().await;
            }
            return Ok(());
        }
        let Status::Running(alive) = self.status(record)? else { return Ok(()) };
        let pid = rustix::process::Pid::from_raw(alive.pid);
        let signal = rustix::process::Signal::from_named_raw(i32::from(number));
        match pid.zip(signal).map(|(pid, signal)| rustix::process::kill_process(pid, signal)) {
            Some(Err(error)) if error != rustix::io::Errno::SRCH => Err(system(error.into())),
            _ => Ok(()),
        }
    }

    async fn kill(&self, record: &Record) -> Result<(), Error> {
        self.signal(record, KILL).await?;
        if tokio::time::timeout(PATIENCE, self.wait(record)).await.is_err()
            && let Some(live) = self.held.get(&record.id)
        {
            // Its worker may not be there yet; the end of its stdin is what it hears in any case.
            drop(live.stdin.lock().await.take());
            let _ = tokio::time::timeout(PATIENCE, self.wait(record)).await;
        }
        Ok(())
    }

    async fn remove_record(&self, record: &Record) -> Result<(), Error> {
        let was_started = self.held.get(&record.id).is_some() || self.status(record)? != Status::Made;
        if was_started {
            self.kill(record).await?;
        }
        self.held.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&record.id);
        // A worker that was killed has left them.
        let groups = self.folder().groups(&record.id).map_err(system)?;
        let removed = tokio::task::spawn_blocking(move || cgroup::remove(&groups)).await;
        removed.map_err(|error| Error::Embedded { message: error.to_string() })?;
        let mut folders = record.own_volumes.clone();
        folders.push(self.folder().of(&record.id));
        match self.ask(&Request::Remove(folders)).await? {
            Reply::Remove => Ok(()),
            other => Err(strange(&other)),
        }
    }

    fn executor(&self) -> health::Executor {
        health::Executor { client: self.client.clone(), folder: self.folder() }
    }

    async fn exec_in(
        &self,
        record: &Record,
        argv: Vec<String>,
        user: Option<&str>,
        cancel: &CancellationToken,
    ) -> Result<ExecOutput, Error> {
        let scratch = self.store.scratch().map_err(into_error)?;
        let program = argv.first().cloned().unwrap_or_default();
        let request = Request::Exec(exec_request(&self.folder(), record, argv, user));
        let printed: Arc<Mutex<[Vec<u8>; 2]>> = Arc::default();
        let kept = Arc::clone(&printed);
        let output: crate::worker::Output = Arc::new(move |is_error, piece| {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept[usize::from(is_error)].extend_from_slice(piece);
        });
        if !matches!(self.status(record)?, Status::Running(_)) {
            return Err(Error::NotRunning { message: format!("Container {} is not running", record.name) });
        }
        match self.work(scratch.path(), &request, output, cancel).await.map_err(of_build)? {
            Reply::Exec(code) => {
                let printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                Ok(ExecOutput { code, stdout: text(&printed[0]), stderr: text(&printed[1]) })
            }
            Reply::NotStarted(found) => Err(not_started(found)),
            Reply::Error(message) => {
                let message = format!("{program} cannot be run: {message}");
                Err(match self.status(record)? {
                    Status::Running(_) => Error::Refused { message },
                    // It has ended meanwhile.
                    _ => Error::NotRunning { message },
                })
            }
            other => Err(strange(&other)),
        }
    }
}

fn exec_request(folder: &Folder, record: &Record, argv: Vec<String>, user: Option<&str>) -> Exec {
    Exec {
        folder: folder.of(&record.id),
        argv,
        env: record.env.clone(),
        workdir: record.workdir.clone(),
        user: user.map_or_else(|| record.user.clone(), str::to_owned),
    }
}

/// Sees a worker to its end, and writes down what the container prints.
async fn see(mut child: Child, file: File, folder: &Utf8Path) -> Result<Ended, Problem> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // A full disk does not stop the container.
    let (.., status) = tokio::join!(
        crate::worker::pump(stdout, |piece| drop(log::write(&file, false, piece))),
        crate::worker::pump(stderr, |piece| drop(log::write(&file, true, piece))),
        child.wait(),
    );
    let reply = fs::read(folder.join("reply.json")).ok();
    match reply.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
        Some(Reply::Container(ended)) => Ok(ended),
        Some(Reply::NotStarted(found)) => Err(Problem::NotStarted(found)),
        Some(Reply::Error(message) | Reply::DiskFull(message)) => Err(Problem::Other(message)),
        // It was killed, and the container with it.
        _ if folder.join(crate::worker::container::STATE).exists() => {
            Ok(Ended { code: 137, out_of_memory: false })
        }
        _ => {
            if status.as_ref().is_ok_and(|status| status.code() == Some(NO_ROOM.into())) {
                return Err(Problem::Other(FULL.into()));
            }
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            Err(Problem::Other(format!("the container's worker has ended ({status}) without an answer")))
        }
    }
}

fn of_workspace(mut record: Record) -> RunningContainer {
    RunningContainer { id: record.id, name: record.name, image: record.labels.remove(labels::IMAGE) }
}

fn entry(found: message::Entry) -> Entry {
    let kind = match found.kind {
        message::EntryKind::File(bytes) => EntryKind::File(bytes),
        message::EntryKind::Folder => EntryKind::Folder,
        message::EntryKind::Link(target) => EntryKind::Link(target.into()),
        message::EntryKind::Other => EntryKind::Other,
    };
    Entry { kind, mode: found.mode, uid: found.uid.into(), gid: found.gid.into() }
}

fn refused(message: String) -> Error {
    Error::Refused { message }
}

fn not_started(found: message::NotStarted) -> Error {
    Error::NotStarted(match found {
        message::NotStarted::NoProgram(program) => NotStarted::NoProgram(program),
        message::NotStarted::NotExecutable { message, .. } => NotStarted::Other(message),
    })
}

fn strange(reply: &Reply) -> Error {
    Error::Embedded { message: words(reply) }
}

fn system(error: io::Error) -> Error {
    Error::Embedded { message: format!("the containers: {error}") }
}

/// Returns whether a path is one in a container.
fn is_absolute(path: &str) -> bool {
    Path::new(path).is_absolute()
}
