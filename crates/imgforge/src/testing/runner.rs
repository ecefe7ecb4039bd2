//! Runs the tests of an image, one after another: a container of the image where the checks ask what it has started,
//! another one for each command that is asked of an image that starts nothing, and one that is never started for what
//! lies in it. All are removed at the end of the test, however it ends.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use imgforge_core::event::Event;
use imgforge_core::manifest::{Check, CommandCheck, HttpCheck, Millis};
use imgforge_core::services::READY;
use imgforge_core::testing::{CheckFailure, TestResult};
use imgforge_core::workspace::ImageTest;
use imgforge_engine::containers::{
    ContainerState, ExecOutput, Health, OutputSink, RunRequest, Started, Stream,
};
use imgforge_engine::{CancellationToken, Containers, Engine, EventSender, ImageConfig};
use imgforge_report::human_duration;
use imgforge_syntax::Located;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::Subject;
use super::check::{self, Mismatch, Verdict, mismatch};
use super::http;
use super::leftovers::TestRun;
use super::look::Look;
use crate::Error;

/// Between the first two tries of a check that waits; the pauses get longer up to a second, so that what was asked in
/// vain does not fill the log.
const INTERVAL: Duration = Duration::from_millis(100);
const LONGEST_INTERVAL: Duration = Duration::from_secs(1);

/// The number of lines of a container's log that are shown, and the number of bytes that are kept for them.
const LOG_LINES: usize = 20;
const LOG_BYTES: usize = 64 << 10;

/// The time that the log of a container which has ended may take to arrive.
const LOG_WAIT: Duration = Duration::from_secs(1);

/// Runs tests with an engine.
pub(crate) struct Tester {
    engine: Arc<dyn Engine>,
    containers: Arc<dyn Containers>,
    events: EventSender,
    run: TestRun,
}

/// Why nothing came of a test.
pub(crate) enum Stopped {
    /// The run was cancelled.
    Cancelled,
    /// The engine failed.
    Failed(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Tester {
    pub(crate) fn new(
        engine: Arc<dyn Engine>,
        containers: Arc<dyn Containers>,
        events: EventSender,
        run: TestRun,
    ) -> Self {
        Self { engine, containers, events, run }
    }

    /// Runs all tests of `subject`, whose image has this id.
    pub(crate) async fn test(
        &self,
        subject: &Subject,
        image: &str,
        cancel: &CancellationToken,
    ) -> Result<Vec<TestResult>, Stopped> {
        let (mut results, total) = (Vec::new(), subject.tests.len());
        for (number, test) in (1..).zip(&subject.tests) {
            let target = subject.target.clone();
            let name = test.name.clone();
            (self.events)(Event::TestStarted { target: target.clone(), test: name, number, total });
            let result = self.one(subject, image, test, cancel).await?;
            (self.events)(Event::TestFinished { target, result: result.clone() });
            results.push(result);
        }
        Ok(results)
    }

    async fn one(
        &self,
        subject: &Subject,
        image: &str,
        test: &ImageTest,
        cancel: &CancellationToken,
    ) -> Result<TestResult, Stopped> {
        let started = Instant::now();
        let time = Duration::from_millis(test.test.timeout.0);
        let mut bench = Bench {
            tester: self,
            subject,
            image,
            test,
            time,
            deadline: started + time,
            made: Vec::new(),
            running: None,
            look: None,
        };
        let outcome = tokio::select! {
            failures = bench.run() => failures.map_err(Stopped::Failed),
            () = cancel.cancelled() => Err(Stopped::Cancelled),
        };
        let log = match &outcome {
            Ok(failures) if !failures.is_empty() => bench.log().await,
            _ => Vec::new(),
        };
        let cleared = bench.clear_away().await;
        let failures = outcome?;
        cleared?;
        Ok(TestResult {
            name: test.name.clone(),
            declared: test.declared.clone(),
            file: Arc::clone(&test.file),
            span: test.test.span,
            checks: test.test.checks.len(),
            failures,
            log,
            took: started.elapsed(),
        })
    }
}

/// One test on its way.
struct Bench<'t> {
    tester: &'t Tester,
    subject: &'t Subject,
    image: &'t str,
    test: &'t ImageTest,
    time: Duration,
    deadline: Instant,
    /// The ids of all containers that were made. A task of its own makes each, and goes on when nobody waits for it any
    /// more: what the engine has made must be removed.
    made: Vec<JoinHandle<Option<String>>>,
    running: Option<Running>,
    look: Option<Look>,
}

/// The container that runs what the image starts.
struct Running {
    id: String,
    started: Started,
    log: Arc<Mutex<Vec<u8>>>,
    following: JoinHandle<()>,
}

impl Bench<'_> {
    async fn run(&mut self) -> Result<Vec<CheckFailure>, Error> {
        let test = self.test;
        if test.starts
            && let Some(found) = self.start_image().await?
        {
            let first = test.test.checks.first().map(|check| check.span);
            let failure = CheckFailure {
                check: "start".into(),
                span: first.unwrap_or(test.test.span),
                expected: "a container that starts".into(),
                found,
            };
            return Ok(vec![failure]);
        }
        let mut failures = Vec::new();
        let is_last = |check: &&Located<Check>| matches!(check.value, Check::Stops { .. });
        let first = test.test.checks.iter().filter(|check| !is_last(check));
        for check in first.chain(test.test.checks.iter().filter(is_last)) {
            let verdict = match timeout_at(self.deadline, self.check(&check.value)).await {
                Ok(verdict) => verdict?,
                Err(_) => Some(self.too_late(&check.value)),
            };
            if let Some(Mismatch { expected, found }) = verdict {
                let (from, span) = (check.span.offset as usize, check.span);
                let text = test.file.text.get(from..from + span.len as usize).unwrap_or(check.value.word());
                failures.push(CheckFailure { check: text.to_owned(), span, expected, found });
            }
            if Instant::now() >= self.deadline && !failures.is_empty() {
                break;
            }
        }
        Ok(failures)
    }

    fn too_late(&self, check: &Check) -> Mismatch {
        let expected = match check {
            Check::Command(command) => format!("{} to end", check::quoted(&command.argv.join(" "))),
            other => format!("an answer to \"{}\"", other.word()),
        };
        Mismatch { expected, found: format!("none within the test's {}", human_duration(self.time)) }
    }

    async fn check(&mut self, check: &Check) -> Result<Verdict, Error> {
        match check {
            Check::Http(http) => self.http(http).await,
            Check::Tcp { port, within } => self.tcp(*port, *within).await,
            Check::Command(command) => self.command(command).await,
            Check::File(file) => check::file(self.look().await?, file).await,
            Check::User(user) => check::user(self.look().await?, user).await,
            Check::Env { name, value, absent } => {
                let config = self.config().await?;
                Ok(check::env(&config.env, name, value.as_deref(), *absent))
            }
            Check::Size { max } => Ok(check::size(self.tester.engine.size(self.image).await?, *max)),
            Check::NoSetuid { but } => Ok(check::no_setuid(&self.look().await?.walk().await?, but)),
            Check::PackagesAsLocked => {
                let mut database = String::new();
                for path in imgforge_packages::database_paths(self.subject.closure.scheme) {
                    if database.is_empty() {
                        database = self.look().await?.text(path).await?;
                    }
                }
                Ok(check::packages(&database, &self.subject.closure))
            }
            Check::Healthy { within } => self.healthy(*within).await,
            Check::Stops { within, code } => self.stops(*within, *code).await,
        }
    }

    /// A container of the image, labelled as one of this run.
    fn request(&self) -> RunRequest {
        let mut request = RunRequest { image: self.image.to_owned(), ..self.subject.request.clone() };
        request.labels.extend([self.tester.run.label()]);
        request
    }

    /// Starts one. Refused by the engine, it is the image that is wrong: the inner error says how.
    async fn start(&mut self, request: RunRequest) -> Result<Result<Started, String>, Error> {
        let (containers, (tell, told)) = (Arc::clone(&self.tester.containers), oneshot::channel());
        self.made.push(tokio::spawn(async move {
            let started = containers.start(request).await;
            let id = started.as_ref().ok().map(|started| started.id.clone());
            // Who has stopped waiting finds the id here.
            let _ = tell.send(started);
            id
        }));
        match told.await.expect("the task sends before it ends") {
            Ok(started) => Ok(Ok(started)),
            Err(error) => match error.refusal() {
                Some(why) => Ok(Err(why)),
                None => Err(error.into()),
            },
        }
    }

    /// Starts the image's own command; says what is wrong when it cannot be started.
    async fn start_image(&mut self) -> Result<Option<String>, Error> {
        let started = match self.start(self.request()).await? {
            Ok(started) => started,
            Err(found) => return Ok(Some(found)),
        };
        let log = Arc::new(Mutex::new(Vec::new()));
        let (kept, containers, id) =
            (Arc::clone(&log), Arc::clone(&self.tester.containers), started.id.clone());
        let sink: OutputSink = Arc::new(move |_, piece| {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend_from_slice(piece);
            let too_many = kept.len().saturating_sub(LOG_BYTES);
            kept.drain(..too_many);
        });
        // A log that breaks off is shown as far as it came.
        let following = tokio::spawn(async move { drop(containers.follow(&id, sink).await) });
        self.running = Some(Running { id: started.id.clone(), started, log, following });
        Ok(None)
    }

    async fn look(&mut self) -> Result<&Look, Error> {
        if self.look.is_none() {
            let mut request = self.request();
            // Never run; but an image without a command needs one.
            request.command = vec!["/".into()];
            let (containers, (tell, told)) = (Arc::clone(&self.tester.containers), oneshot::channel());
            self.made.push(tokio::spawn(async move {
                let created = containers.create(request).await;
                let id = created.as_ref().ok().cloned();
                let _ = tell.send(created);
                id
            }));
            let id = told.await.expect("the task sends before it ends")?;
            self.look = Some(Look::new(Arc::clone(&self.tester.containers), id));
        }
        Ok(self.look.as_ref().expect("it was made above"))
    }

    async fn config(&self) -> Result<ImageConfig, Error> {
        Ok(self.tester.engine.config(self.image).await?)
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("a check that needs it has it started")
    }

    /// Returns how the container that runs has ended, in a few words; `None` while it runs.
    async fn end(&self) -> Result<Option<String>, Error> {
        let Some(running) = &self.running else { return Ok(None) };
        let state = self.tester.containers.state(&running.id).await?;
        Ok((!state.running).then(|| end_of(&state)))
    }

    /// Why there is no address to ask: a container that has ended has none any more.
    async fn no_address(&self, expected: &str) -> Result<Verdict, Error> {
        let end = self.end().await?;
        Ok(mismatch(
            expected,
            end.unwrap_or_else(|| "a container for which the engine has no network".into()),
        ))
    }

    /// Asks again and again until it holds, the container has ended, or the time is over.
    async fn wait<'s, F: Future<Output = Result<Verdict, Error>>>(
        &'s self,
        within: Option<Millis>,
        ask: impl Fn(&'s Self) -> F,
        expected: &str,
    ) -> Result<Verdict, Error> {
        let begun = Instant::now();
        let limit =
            within.map_or(self.deadline, |time| self.deadline.min(begun + Duration::from_millis(time.0)));
        let (mut last, mut pause) = (mismatch(expected, "no answer"), INTERVAL);
        loop {
            let Ok(verdict) = timeout_at(limit, ask(self)).await else { break };
            last = verdict?;
            if last.is_none() {
                return Ok(None);
            }
            if let Some(end) = self.end().await? {
                return Ok(mismatch(expected, end));
            }
            if Instant::now() + INTERVAL >= limit {
                break;
            }
            // The last try comes shortly before the end, whatever the pause.
            sleep_until((Instant::now() + pause).min(limit - INTERVAL / 2)).await;
            pause = (pause * 5 / 4).min(LONGEST_INTERVAL);
        }
        Ok(last.map(|Mismatch { expected, found }| Mismatch {
            expected,
            found: format!("{found} after {}", human_duration(begun.elapsed())),
        }))
    }

    async fn http(&self, check: &HttpCheck) -> Result<Verdict, Error> {
        let expected = http_expectation(check);
        let Some(address) = &self.running().started.address else { return self.no_address(&expected).await };
        let url = check.url.replacen("{container}", address, 1);
        let rest = url.strip_prefix("http://").unwrap_or(&url);
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(80);
        let authority = format!("{address}:{port}");
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let ask = |_: &Self| async {
            let answer = match self.connect(port).await {
                Ok(stream) => http::get(stream, &authority, &path).await,
                Err(error) => Err(http::no_connection(&error)),
            };
            Ok(judge(check, &expected, answer))
        };
        self.wait(check.within, ask, &expected).await
    }

    async fn tcp(&self, port: u16, within: Option<Millis>) -> Result<Verdict, Error> {
        let expected = format!("a connection to port {port}");
        if self.running().started.address.is_none() {
            return self.no_address(&expected).await;
        }
        let ask = |_: &Self| async {
            let connected = self.connect(port).await;
            Ok(connected.err().and_then(|error| mismatch(&expected, http::no_connection(&error))))
        };
        self.wait(within, ask, &expected).await
    }

    async fn connect(&self, port: u16) -> io::Result<Box<dyn Stream>> {
        self.tester.containers.connect(&self.running().started, port).await
    }

    async fn healthy(&self, within: Option<Millis>) -> Result<Verdict, Error> {
        let has_healthcheck = self.config().await?.has_healthcheck;
        if !self.subject.tells_ready && !has_healthcheck {
            return Ok(mismatch("a healthy container", "nothing in the image that tells"));
        }
        let expected =
            if self.subject.tells_ready { "all services ready" } else { "a healthcheck that passes" };
        self.wait(within, |bench| bench.ask_health(expected), expected).await
    }

    async fn ask_health(&self, expected: &str) -> Result<Verdict, Error> {
        if self.subject.tells_ready {
            return Ok(match self.exec(&[READY], None).await? {
                Ok(ExecOutput { code: 0, .. }) => None,
                Ok(ExecOutput { stdout, stderr, .. }) => {
                    let said: Vec<&str> = stdout.lines().chain(stderr.lines()).map(str::trim).collect();
                    mismatch(expected, format!("not ready: {}", said.join(", ")))
                }
                Err(found) => mismatch(expected, found),
            });
        }
        let health = self.tester.containers.state(&self.running().id).await?.health;
        Ok(match health {
            Some(Health::Healthy) => None,
            Some(Health::Unhealthy) => mismatch(expected, "one that fails"),
            Some(Health::Starting) | None => mismatch(expected, "one that has not passed yet"),
        })
    }

    /// Sends the stop signal; before that, waits until it is healthy where that can be told, since a process that is
    /// not up yet does not hear it.
    async fn stops(&self, within: Option<Millis>, code: i64) -> Result<Verdict, Error> {
        let expected = format!("an end with exit code {code}");
        let tells = self.subject.tells_ready || self.config().await?.has_healthcheck;
        if tells && let Some(mismatch) = self.healthy(None).await? {
            return Ok(Some(mismatch));
        }
        if let Some(end) = self.end().await? {
            return Ok(mismatch(expected, format!("{end}, before it was asked to")));
        }
        let time = within.map_or(self.subject.stop_time, |time| Duration::from_millis(time.0));
        let seconds = Duration::from_secs(time.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX));
        let (id, begun) = (&self.running().id, Instant::now());
        self.tester.containers.stop(id, seconds).await?;
        let took = begun.elapsed();
        let state = self.tester.containers.state(id).await?;
        let is_killed = state.exit_code == 137 && code != 137;
        Ok(match state.exit_code {
            _ if is_killed || took > time.max(seconds) + INTERVAL => {
                mismatch(format!("{expected} within {}", human_duration(time)), "it had to be killed")
            }
            _ if took > time + INTERVAL => mismatch(
                format!("{expected} within {}", human_duration(time)),
                format!("it took {}", human_duration(took)),
            ),
            found if found != code => mismatch(expected, format!("exit code {found}")),
            _ => None,
        })
    }

    async fn command(&mut self, check: &CommandCheck) -> Result<Verdict, Error> {
        let argv: Vec<&str> = check.argv.iter().map(String::as_str).collect();
        let ran = if self.running.is_some() {
            self.exec(&argv, check.user.as_deref()).await?
        } else {
            self.run_alone(check).await?
        };
        Ok(match ran {
            Ok(output) => check::command(check, &output),
            Err(found) => mismatch(format!("{} to run", check::quoted(&check.argv.join(" "))), found),
        })
    }

    /// A program beside what the image has started; what is wrong when there is no such program, or nothing to be
    /// beside.
    async fn exec(&self, argv: &[&str], user: Option<&str>) -> Result<Result<ExecOutput, String>, Error> {
        let id = &self.running().id;
        match self.tester.containers.exec_as(id, argv, user).await {
            Ok(output) => Ok(Ok(output)),
            Err(error) => match error.refusal() {
                Some(why) => Ok(Err(self.end().await?.unwrap_or(why))),
                None => Err(error.into()),
            },
        }
    }

    /// A program in a container of its own.
    async fn run_alone(&mut self, check: &CommandCheck) -> Result<Result<ExecOutput, String>, Error> {
        let mut request = self.request();
        request.entrypoint = Some(check.argv.clone());
        request.user.clone_from(&check.user);
        let started = match self.start(request).await? {
            Ok(started) => started,
            Err(found) => return Ok(Err(found)),
        };
        let printed: Arc<Mutex<[Vec<u8>; 2]>> = Arc::default();
        let kept = Arc::clone(&printed);
        let sink: OutputSink = Arc::new(move |is_error, piece| {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept[usize::from(is_error)].extend_from_slice(piece);
        });
        let code = self.tester.containers.follow(&started.id, sink).await?;
        let printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Ok(ExecOutput { code, stdout: text(&printed[0]), stderr: text(&printed[1]) }))
    }

    /// The last lines that the image's own container has written.
    async fn log(&mut self) -> Vec<String> {
        let Some(running) = &mut self.running else { return Vec::new() };
        // Of one that goes on, what there is.
        let state = self.tester.containers.state(&running.id).await;
        if state.is_ok_and(|state| !state.running) {
            let _ = timeout(LOG_WAIT, &mut running.following).await;
        }
        let bytes = running.log.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].iter().map(|line| (*line).to_owned()).collect()
    }

    /// Removes every container of the test.
    async fn clear_away(self) -> Result<(), Error> {
        let mut cleared = Ok(());
        for made in self.made {
            let Ok(Some(id)) = made.await else { continue };
            if let Err(error) = self.tester.containers.remove(&id).await {
                cleared = Err(error.into());
            }
        }
        if let Some(running) = self.running {
            running.following.abort();
        }
        cleared
    }
}

fn end_of(state: &ContainerState) -> String {
    let why = if state.out_of_memory { ", since its memory was not enough" } else { "" };
    format!("a container that has ended with exit code {}{why}", state.exit_code)
}

fn http_expectation(check: &HttpCheck) -> String {
    let status = check.status.map_or_else(|| "a status from 200 to 399".into(), |s| format!("status {s}"));
    match &check.contains {
        Some(part) => format!("{status} and a body that contains {}", check::quoted(part)),
        None => status,
    }
}

fn judge(check: &HttpCheck, expected: &str, answer: Result<http::Answer, String>) -> Verdict {
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) => return mismatch(expected, why),
    };
    let is_status = match check.status {
        Some(status) => answer.status == status,
        None => (200..400).contains(&answer.status),
    };
    if !is_status {
        return mismatch(expected, format!("status {}", answer.status));
    }
    let body = String::from_utf8_lossy(&answer.body);
    match &check.contains {
        Some(part) if !body.contains(part.as_str()) => {
            mismatch(expected, format!("status {} and the body {}", answer.status, check::quoted(&body)))
        }
        _ => None,
    }
}
