//! What is done for one target: its packages staged, the engine's build, the check of what came out, its tests, its tags.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use imgforge_core::cause::{Cause, causes};
use imgforge_core::context::SuppliedFile;
use imgforge_core::diagnostic::{Problem, Span};
use imgforge_core::event::{Activity, Event, Outcome};
use imgforge_core::fingerprint::Fingerprint;
use imgforge_core::lock::Lock;
use imgforge_core::manifest::Base;
use imgforge_core::name::ImageName;
use imgforge_core::plan::{Inventory, Plan, PlannedTarget, Reason};
use imgforge_core::state::StateDir;
use imgforge_core::testing::{TestResult, TestsHash};
use imgforge_core::workspace::Image;
use imgforge_engine::{
    BoxFuture, BuildError, BuildRequest, CancellationToken, Engine, EventSender, Failed, Login, PullRequest,
    Secrets, StepEvent, StepSink, Work, labels,
};
use imgforge_packages::Scheme;

use crate::built;
use crate::lock::{Closure, LockView};
use crate::prepare::{Prepared, wanted};
use crate::testing::{Stopped, Subject, TestRecord, Tester};
use crate::{Error, Session};

/// What to do when the engine's disk is full.
const MAKE_ROOM: &str = "make room where the engine keeps its images: imgforge prune, or docker image prune";

/// Why a target could not be built, or what its tests have found, for people. A target may have several.
#[derive(Debug, Clone)]
pub struct TargetFailure {
    /// The image.
    pub target: ImageName,
    /// What is wrong, at the manifest's line when the step that failed comes from one.
    pub problem: Problem,
}

/// Everything about a target that its build needs.
struct Job {
    prepared: Prepared,
    request: BuildRequest,
    content_reference: String,
    closure: Closure,
    image: Image,
    /// Whether it is built; otherwise it is there, and only tested.
    is_built: bool,
    /// What its tests need to know; `None` when none are run.
    subject: Option<Subject>,
}

/// The work of all targets of a run.
pub(crate) struct Builder {
    engine: Arc<dyn Engine>,
    jobs: BTreeMap<ImageName, Job>,
    /// The engine's ids of images that are there.
    ids: Mutex<BTreeMap<ImageName, String>>,
    sizes: Mutex<BTreeMap<ImageName, u64>>,
    failures: Mutex<Vec<TargetFailure>>,
    events: EventSender,
    tests: Option<Testing>,
    tags: MovesTags,
    plan: Plan,
    pulls: Pulls,
    secrets: Secrets,
    anew: bool,
    state: StateDir,
}

/// What is pulled from the registry, and for whom.
pub(crate) struct Pulls {
    pub(crate) requests: BTreeMap<ImageName, Pull>,
    pub(crate) login: Option<Login>,
    pub(crate) record: Arc<TestRecord>,
}

/// An image that is pulled.
#[derive(Debug, Clone)]
pub(crate) struct Pull {
    pub(crate) digest: String,
    /// The tests that had passed where it was pushed, when they are those that it has here.
    pub(crate) passed: Option<TestsHash>,
}

/// What tests are run with.
pub(crate) struct Testing {
    pub(crate) tester: Tester,
    pub(crate) record: Arc<TestRecord>,
}

/// What a builder works with.
pub(crate) struct With {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) events: EventSender,
    /// `None` when no test is run.
    pub(crate) tests: Option<Testing>,
    pub(crate) tags: MovesTags,
    pub(crate) pulls: Pulls,
    pub(crate) secrets: Secrets,
    /// Whether steps are carried out whose results are known.
    pub(crate) anew: bool,
}

/// Whose release tags move.
pub(crate) enum MovesTags {
    /// Nobody's: only tests were asked for.
    None,
    /// Everybody's but those of these.
    But(BTreeSet<ImageName>),
}

impl Builder {
    pub(crate) fn new(
        session: &Session,
        prepared: Vec<Prepared>,
        plan: &Plan,
        lock: &Lock,
        inventory: &Inventory,
        with: With,
    ) -> Result<Self, Error> {
        let With { engine, events, tests, tags, pulls, secrets, anew } = with;
        let fingerprints: BTreeMap<ImageName, Fingerprint> =
            prepared.iter().map(|p| (p.target.name.clone(), p.target.fingerprint)).collect();
        let held = |p: &Prepared| {
            let held = inventory.holds(&p.target.name, p.target.fingerprint)?;
            Some((p.target.name.clone(), held.id.clone()))
        };
        let ids = prepared.iter().filter_map(held).collect();
        let to_do: BTreeMap<&str, &PlannedTarget> =
            plan.to_do().map(|row| (row.name.as_str(), row)).collect();
        let view = LockView::new(lock);
        let mut jobs = BTreeMap::new();
        for prepared in prepared {
            let row = to_do.get(prepared.target.name.as_str());
            if row.is_none() && !pulls.requests.contains_key(&prepared.target.name) {
                continue;
            }
            let mut job = job(session, prepared, &fingerprints, &view);
            let target = &job.prepared.target;
            job.is_built = row.is_some_and(|row| row.is_built());
            if tests.is_some() && row.is_some_and(|row| row.tests > 0) {
                job.subject = session.subject(&target.name, target.fingerprint, || job.closure.clone())?;
            }
            jobs.insert(target.name.clone(), job);
        }
        Ok(Self {
            engine,
            jobs,
            ids: Mutex::new(ids),
            failures: Mutex::default(),
            sizes: Mutex::default(),
            events,
            tests,
            tags,
            plan: plan.clone(),
            pulls,
            secrets,
            anew,
            state: session.state.clone(),
        })
    }

    pub(crate) fn take_failures(&self) -> Vec<TargetFailure> {
        std::mem::take(&mut *lock(&self.failures))
    }

    /// The engine's ids of images that are there.
    pub(crate) fn ids(&self) -> BTreeMap<ImageName, String> {
        lock(&self.ids).clone()
    }

    /// Builds it where it is not there, tests it, and moves its release tags.
    async fn all(&self, name: &ImageName, cancel: CancellationToken) -> Result<Outcome, Stop> {
        let job = &self.jobs[name];
        let mut same_as = Vec::new();
        let outcome = match self.pulls.requests.get(name) {
            _ if job.is_built => {
                let (outcome, same) = self.build(name, cancel.clone()).await?;
                same_as = same;
                outcome
            }
            Some(pull) => tokio::select! {
                pulled = self.pull(job, pull) => pulled?,
                () = cancel.cancelled() => return Err(Stop::Cancelled),
            },
            None => Outcome::Tested,
        };
        let id = lock(&self.ids).get(name).cloned().unwrap_or_else(|| job.content_reference.clone());
        if let (Some(testing), Some(subject)) = (&self.tests, &job.subject) {
            let (record, fingerprint) = (&testing.record, job.prepared.target.fingerprint);
            let results = if same_as.iter().any(|before| record.passed(*before, subject.hash)) {
                Vec::new()
            } else {
                testing.tester.test(subject, &id, &cancel).await?
            };
            if results.iter().any(|result| !result.passed()) {
                let mut causes = self.causes(name);
                if causes.is_empty() {
                    causes = record.causes(fingerprint, subject.hash);
                }
                record.set_failed(fingerprint, subject.hash, causes.clone());
                return Err(Stop::Tests { results, causes });
            }
            record.set_passed(fingerprint, subject.hash);
        }
        if matches!(&self.tags, MovesTags::But(kept) if !kept.contains(name)) {
            for reference in &job.prepared.target.release_references {
                self.engine.tag(&id, reference).await?;
            }
        }
        Ok(outcome)
    }

    async fn pull(&self, job: &Job, pull: &Pull) -> Result<Outcome, Stop> {
        let name = &job.prepared.target.name;
        let repository = job.content_reference.rsplit_once(':').map_or("", |(repository, _)| repository);
        let (repository, digest) = (repository.to_owned(), pull.digest.clone());
        let login = self.pulls.login.clone();
        let stored = self.engine.pull(PullRequest { repository, digest, login }).await?;
        let said = stored.labels.get(labels::FINGERPRINT);
        if said != Some(&job.prepared.target.fingerprint.to_string()) {
            return Err(Stop::Library(Error::ContentTag { reference: job.content_reference.clone() }));
        }
        self.engine.tag(&stored.id, &job.content_reference).await?;
        lock(&self.ids).insert(name.clone(), stored.id);
        lock(&self.sizes).insert(name.clone(), stored.size);
        if let Some(tests) = pull.passed {
            // From now on the registry is not asked for it any more.
            self.pulls.record.set_passed(job.prepared.target.fingerprint, tests);
        }
        Ok(Outcome::Pulled { size: stored.size })
    }

    /// Builds it. What has come of it, and the fingerprints under which the same was built before.
    async fn build(
        &self,
        name: &ImageName,
        cancel: CancellationToken,
    ) -> Result<(Outcome, Vec<Fingerprint>), Stop> {
        let job = &self.jobs[name];
        let mut request = job.request.clone();
        request.supplied = stage(job).await.map_err(Stop::Library)?;
        request.secrets = self.secrets.clone();
        request.anew = self.anew;
        request.labels.insert(labels::PARENTS.into(), self.parents_label(job));
        let engine = &*self.engine;
        let built = engine.build(request, self.sink(name), cancel).await.map_err(Stop::Build)?;
        let Closure { scheme, packages } = &job.closure;
        if !packages.is_empty() {
            let mut database = None;
            for path in imgforge_packages::database_paths(*scheme) {
                if database.is_none() {
                    database = engine.read_file(&built.id, path).await?;
                }
            }
            let text = String::from_utf8_lossy(&database.unwrap_or_default()).into_owned();
            let differences = imgforge_packages::compare(*scheme, &text, packages);
            if !differences.is_empty() {
                // Without a name it would lie about for nobody.
                engine.untag(&built.id).await?;
                for difference in differences {
                    (self.events)(Event::Log { target: name.clone(), line: difference.to_string() });
                }
                return Err(Stop::Packages);
            }
        }
        // The content tag says that the image is whole and what its inputs give. Tests come after it, so that those which
        // fail are run again without a build, and release tags come last.
        engine.tag(&built.id, &job.content_reference).await?;
        built::remember(&self.state, name, job.prepared.target.fingerprint, &built.id);
        lock(&self.ids).insert(name.clone(), built.id.clone());
        lock(&self.sizes).insert(name.clone(), built.size);
        let below = job.image.base.as_ref();
        let base = match below {
            Some(base) => self.size_of(base).await,
            None => 0,
        };
        let outcome = if built.same_as.is_empty() {
            Outcome::Built { size: built.size, added: built.size.saturating_sub(base) }
        } else {
            Outcome::Same { size: built.size }
        };
        Ok((outcome, built.same_as))
    }

    /// The size of a parent that is there; 0 when the engine does not say, since it is only shown.
    async fn size_of(&self, name: &ImageName) -> u64 {
        if let Some(size) = lock(&self.sizes).get(name) {
            return *size;
        }
        let id = lock(&self.ids).get(name).cloned();
        let size = match id {
            Some(id) => self.engine.size(&id).await.unwrap_or(0),
            None => 0,
        };
        lock(&self.sizes).insert(name.clone(), size);
        size
    }

    /// What has changed so that this target was built, each cause in a line with the chain that leads from it to here.
    fn causes(&self, target: &ImageName) -> Vec<String> {
        let in_workspace = |image: &str, reason: &Reason| match reason {
            Reason::File { path, .. } => {
                let job = self.jobs.get(image);
                let dir = job.map(|job| job.image.manifest.file.dir()).filter(|dir| !dir.as_str().is_empty());
                dir.map_or_else(|| reason.to_string(), |dir| reason.with_path(dir.join(path).as_str()))
            }
            other => other.to_string(),
        };
        let line = |cause: &Cause<'_>| {
            let reasons: Vec<String> =
                cause.reasons.iter().map(|reason| in_workspace(cause.image, reason)).collect();
            let chain = match cause.chain.as_slice() {
                [_] => String::new(),
                chain => format!(" ({})", chain.join(" <- ")),
            };
            format!("{}: {}{chain}", cause.image, reasons.join(", "))
        };
        causes(&self.plan, target.as_str()).iter().map(line).collect()
    }

    fn parents_label(&self, job: &Job) -> String {
        let ids = lock(&self.ids);
        let parents: BTreeMap<&str, serde_json::Value> = job
            .prepared
            .target
            .inputs
            .iter()
            .filter(|(kind, ..)| *kind == imgforge_core::fingerprint::InputKind::Parent)
            .map(|(_, name, fingerprint)| {
                let id = ids.get(name);
                (name, serde_json::json!({ "fingerprint": fingerprint, "id": id }))
            })
            .collect();
        serde_json::to_string(&parents).expect("names are texts")
    }

    fn sink(&self, name: &ImageName) -> StepSink {
        let (name, events) = (name.clone(), Arc::clone(&self.events));
        let packages = self.jobs[&name].prepared.packages.len();
        Arc::new(move |event| {
            let target = name.clone();
            events(match event {
                StepEvent::Step { number, total, text, cached } => {
                    let text = in_words(text, packages);
                    Event::Step { target, number, total, text, cached }
                }
                StepEvent::Log { line, .. } => Event::Log { target, line },
            });
        })
    }
}

/// Steps that imgforge has written for packages, as people would say them; any other as it is.
fn in_words(text: String, packages: usize) -> String {
    let does = match text.as_str() {
        "ADD .imgforge/root.tar /" => "unpack",
        run if run.ends_with("\"/mnt/configure\"]") => "configure",
        run if run.ends_with("\"/mnt/install\"]") => "install",
        _ => return text,
    };
    format!("{does} {packages} package{}", if packages == 1 { "" } else { "s" })
}

impl Work for Builder {
    fn activity(&self, target: &ImageName) -> Activity {
        match self.jobs[target].is_built {
            true => Activity::Build,
            false if self.pulls.requests.contains_key(target) => Activity::Pull,
            false => Activity::Test,
        }
    }

    fn run(&self, target: ImageName, cancel: CancellationToken) -> BoxFuture<'_, Result<Outcome, Failed>> {
        Box::pin(async move {
            match self.all(&target, cancel).await {
                Ok(outcome) => Ok(outcome),
                // The dispatcher knows that it has cancelled.
                Err(Stop::Build(BuildError::Cancelled) | Stop::Cancelled) => {
                    Err(Failed { message: "cancelled".into() })
                }
                Err(Stop::Tests { results, causes }) => {
                    let failures = results.iter().flat_map(|result| test_failures(&target, result, &causes));
                    lock(&self.failures).extend(failures);
                    Err(Failed { message: tests_message(&results) })
                }
                Err(stop) => {
                    let failure = explain(&self.jobs[&target], stop);
                    let message = failure.problem.message().to_owned();
                    lock(&self.failures).push(failure);
                    Err(Failed { message })
                }
            }
        })
    }
}

/// Whether a step has found the engine's disk full: commands say it in the words of the libc.
fn is_disk_full(error: &BuildError) -> bool {
    let full = |line: &String| line.contains("No space left on device");
    matches!(error, BuildError::Step { log_tail, .. } if log_tail.iter().any(full))
}

/// Why a target is not built.
enum Stop {
    Build(BuildError),
    Packages,
    /// A test has failed; what had changed before.
    Tests {
        results: Vec<TestResult>,
        causes: Vec<String>,
    },
    Cancelled,
    Library(Error),
}

impl From<Stopped> for Stop {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Cancelled => Self::Cancelled,
            Stopped::Failed(error) => Self::Library(error),
        }
    }
}

impl From<imgforge_engine::Error> for Stop {
    fn from(error: imgforge_engine::Error) -> Self {
        Self::Library(error.into())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What panicked while it held the lock has been reported by then; the data is whole between statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn job(
    session: &Session,
    prepared: Prepared,
    fingerprints: &BTreeMap<ImageName, Fingerprint>,
    view: &LockView<'_>,
) -> Job {
    let name = &prepared.target.name;
    let image = session.workspace.images[name].clone();
    let content_tag = prepared.target.fingerprint.content_tag();
    let content_reference = session.content_reference(name, prepared.target.fingerprint);
    let closure = session.closure(name, view);
    let mut labels: BTreeMap<String, String> = session.outside_labels(&image);
    for (key, value) in [
        (labels::WORKSPACE, session.workspace.manifest.name.value.clone()),
        (labels::IMAGE, name.to_string()),
        (labels::FINGERPRINT, prepared.target.fingerprint.to_string()),
        (labels::INPUTS, prepared.target.inputs.to_label()),
        (labels::CONTENT_TAG, content_tag),
    ] {
        labels.insert(key.to_owned(), value);
    }
    let request = BuildRequest {
        target: name.clone(),
        dockerfile: session.engine_dockerfile(&prepared, fingerprints),
        root: session.root.clone(),
        entries: prepared.entries.clone(),
        supplied: Vec::new(),
        args: prepared.args.clone(),
        labels,
        network: prepared.rendered.network,
        layers: session.workspace.images[name].manifest.layers,
        compression: session.workspace.manifest.compression,
        platform: prepared.target.platform.clone(),
        secrets: Secrets::default(),
        anew: false,
    };
    let asked = image.manifest.packages.first();
    let scheme = asked.map_or(closure.scheme, |request| session.scheme(&request.source.value));
    let closure = Closure { scheme, ..closure };
    Job { prepared, request, content_reference, closure, image, is_built: true, subject: None }
}

/// The package files and scripts of a build, from the cache.
async fn stage(job: &Job) -> Result<Vec<SuppliedFile>, Error> {
    if !job.prepared.installs() {
        return Ok(Vec::new());
    }
    let packages = job.prepared.packages.clone();
    let options = imgforge_packages::Options { keep_docs: job.image.manifest.keep_docs };
    let is_root = matches!(job.image.manifest.base.value, Base::Root(_));
    let (scheme, wanted) = (job.closure.scheme, wanted(&job.image.manifest));
    let staged = tokio::task::spawn_blocking(move || {
        let cache = imgforge_packages::Cache::user()?;
        if scheme == Scheme::Alpine {
            imgforge_packages::apk::stage_packages(&packages, &wanted, &cache)
        } else if is_root {
            imgforge_packages::stage_root(&packages, options, &cache)
        } else {
            imgforge_packages::stage_packages(&packages, options, &cache)
        }
    });
    Ok(staged.await.expect("staging does not panic")?)
}

/// Each check that did not hold, at its place in the manifest that has it.
fn test_failures(
    target: &ImageName,
    result: &TestResult,
    causes: &[String],
) -> impl Iterator<Item = TargetFailure> {
    result.failures.iter().enumerate().map(move |(number, failure)| {
        let message = format!("test \"{}\" of {target} failed: {failure}", result.name);
        let mut problem = Problem::at(&result.file, failure.span, message, "this check");
        if number == 0 && !causes.is_empty() {
            problem = problem.help(format!("what has changed: {}", causes.join("\n")));
        }
        TargetFailure { target: target.clone(), problem }
    })
}

/// `tests failed: starts: expected status 200, found status 503`, of several the first with how many more there are.
fn tests_message(results: &[TestResult]) -> String {
    let mut failures =
        results.iter().flat_map(|result| result.failures.iter().map(|one| (&result.name, one)));
    let first = failures.next().map(|(name, failure)| format!("{name}: {failure}")).unwrap_or_default();
    match failures.count() {
        0 => format!("tests failed: {first}"),
        more => format!("tests failed: {first}; and {more} more"),
    }
}

/// A failure at the place that can be mended.
fn explain(job: &Job, stop: Stop) -> TargetFailure {
    let name = job.prepared.target.name.clone();
    let manifest = &job.image.manifest;
    let at_name = |message: String| Problem::at(&manifest.file, manifest.name.span, message, "this image");
    let problem = match stop {
        Stop::Build(error) => {
            let problem = gone_external(job, &error).unwrap_or_else(|| build_problem(job, &error));
            if is_disk_full(&error) { problem.help(MAKE_ROOM) } else { problem }
        }
        Stop::Packages => at_name("the image's packages are not those of the lock".into())
            .help("a step installs or removes packages: name them with `packages` instead"),
        // Told where they come from, each in its own way.
        Stop::Tests { .. } | Stop::Cancelled => at_name("it was stopped".into()),
        Stop::Library(error) => {
            let help = error.help();
            help.into_iter().fold(at_name(error.to_string()), Problem::help)
        }
    };
    TargetFailure { target: name, problem }
}

/// An image from outside that its registry does not have any more under the digest that is used.
fn gone_external(job: &Job, error: &BuildError) -> Option<Problem> {
    let told = error.to_string();
    if !["not found", "manifest unknown", "does not exist"].iter().any(|words| told.contains(words)) {
        return None;
    }
    let external = job.image.externals.iter().find(|external| {
        let digest = job.prepared.externals.get(&external.reference);
        digest.is_some_and(|digest| !digest.is_empty() && told.contains(digest.as_str()))
    })?;
    let digest = &job.prepared.externals[&external.reference];
    let name = external.reference.split('@').next().unwrap_or_default();
    let message = format!("no registry has {name}@{digest} any more");
    let problem = Problem::at(&external.file, external.span, message, "used here");
    Some(problem.help(crate::lock::externals::gone_help(&external.reference)))
}

fn build_problem(job: &Job, error: &BuildError) -> Problem {
    let manifest = &job.image.manifest;
    let at_name = |message: String| Problem::at(&manifest.file, manifest.name.span, message, "this image");
    match error {
        BuildError::Step { number, total, text, message, log_tail } => {
            let message = match missing_program(log_tail) {
                Some(program) => format!("there is no program {program} in the image"),
                None => in_the_image(message),
            };
            let label = format!("step {number}/{total}");
            let Some(instruction) = failed_instruction(job, *number, *total, text) else {
                return at_name(format!("{message} in {text}"));
            };
            if let Some(hand_written) = &job.image.dockerfile {
                return Problem::at(&hand_written.file, instruction.span(), message, label);
            }
            match job.prepared.rendered.origin(instruction.line() - 1) {
                Some(span) => Problem::at(&manifest.file, span, message, label),
                None => at_name(format!("{message} in {text}")),
            }
        }
        BuildError::Refused { message } => match (&job.image.dockerfile, refused_line(message)) {
            (Some(hand_written), Some((line, why))) => {
                let file = &hand_written.file;
                let before: usize = file.text.split_inclusive('\n').take(line - 1).map(str::len).sum();
                let len = file.text[before..].lines().next().map_or(0, str::len);
                let span = Span::new(before, len);
                Problem::at(
                    file,
                    span,
                    format!("the engine does not take this Dockerfile: {why}"),
                    "this line",
                )
            }
            _ => at_name(message.clone()),
        },
        BuildError::ContextChanged { path } => at_name(format!("{path} was changed while it was being read"))
            .help("nothing was built from it; build again"),
        BuildError::NoSpace => at_name("the engine has no space left".into()).help(MAKE_ROOM),
        other => at_name(other.to_string()),
    }
}

/// The program that a container could not be started with, as runc says it on its own behalf.
fn missing_program(log: &[String]) -> Option<&str> {
    let line = log.iter().find(|line| line.contains("unable to start container process"))?;
    let (_, rest) = line.split_once("exec: \"")?;
    let (program, why) = rest.split_once("\": ")?;
    ["no such file or directory", "executable file not found"]
        .iter()
        .any(|end| why.contains(end))
        .then_some(program)
}

/// A message with the daemon's mount points taken off its paths: `/var/lib/docker/overlay2/HASH/merged/etc` is `/etc`.
fn in_the_image(message: &str) -> String {
    let words = message.split(' ').map(|word| match word.split_once("/merged/") {
        Some((mount, rest)) if mount.starts_with('/') => format!("/{rest}"),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// `... parse error line 2: unknown flag: network`, as BuildKit says it: the line from 1, and what is wrong with it.
fn refused_line(message: &str) -> Option<(usize, &str)> {
    let (_, rest) = message.split_once("parse error ")?;
    let (line, why) = rest.strip_prefix("on ").unwrap_or(rest).strip_prefix("line ")?.split_once(": ")?;
    line.parse().ok().filter(|line| *line > 0).map(|line| (line, why))
}

/// The instruction that a step of BuildKit's is: by its number in a Dockerfile of one stage, else by its text.
fn failed_instruction<'j>(
    job: &'j Job,
    number: usize,
    total: usize,
    text: &str,
) -> Option<&'j imgforge_core::dockerfile::Instruction> {
    let steps: Vec<_> = job
        .prepared
        .dockerfile
        .instructions()
        .iter()
        .filter(|i| matches!(i.keyword(), "FROM" | "RUN" | "COPY" | "ADD" | "WORKDIR"))
        // There is nothing to be done for an empty base.
        .filter(|i| !i.text().trim_start_matches(|c: char| !c.is_whitespace()).trim().starts_with("scratch"))
        .collect();
    let all = job.prepared.dockerfile.instructions();
    let stages = all.iter().filter(|i| i.keyword() == "FROM").count();
    if stages == 1 && steps.len() == total {
        return steps.get(number.checked_sub(1)?).copied();
    }
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let wanted = squeeze(text);
    steps.into_iter().find(|instruction| squeeze(instruction.text()) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_daemon_become_paths_of_the_image() {
        let told = "lstat /var/lib/docker/overlay2/0a1b/merged/no/such: no such file or directory";
        assert_eq!(in_the_image(told), "lstat /no/such: no such file or directory");
        assert_eq!(in_the_image("a/merged/b is kept"), "a/merged/b is kept");
    }

    #[test]
    fn only_runc_speaks_of_a_program_that_is_missing() {
        let told = "runc run failed: unable to start container process: exec: \"/bin/sh\": stat /bin/sh: no such file or directory";
        assert_eq!(missing_program(&[told.into()]), Some("/bin/sh"));
        assert_eq!(missing_program(&["exec: \"x\": no such file or directory".into()]), None);
        assert_eq!(missing_program(&[told.replace("no such file or directory", "permission denied")]), None);
    }
}
