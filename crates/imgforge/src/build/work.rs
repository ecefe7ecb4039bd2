//! What is done for one target: its packages staged, the engine's build, the check of what came out, its tests, its
//! tags.

mod failures;
mod job;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use imgforge_core::cause::{Cause, causes};
use imgforge_core::event::{Activity, Event, Outcome};
use imgforge_core::fingerprint::Fingerprint;
use imgforge_core::lock::{Lock, LockView};
use imgforge_core::name::ImageName;
use imgforge_core::plan::{Inventory, Plan, PlannedTarget, Reason};
use imgforge_core::testing::TestsHash;
use imgforge_engine::{
    BoxFuture, BuildError, CancellationToken, Engine, EventSender, Failed, Login, PullRequest, Secrets,
    StepEvent, StepSink, Work, labels,
};
use imgforge_oci::Digest;
use imgforge_oci::reference::Parts;
use imgforge_state::StateDir;

pub use self::failures::TargetFailure;
use self::failures::{Stop, explain, test_failures, tests_message};
use self::job::{Job, stage};
use crate::built;
use crate::lock::Closure;
use crate::prepare::Prepared;
use crate::testing::{TestRecord, Tester};
use crate::{Error, Session};

/// The work of all targets of a run.
pub(crate) struct Builder {
    engine: Arc<dyn Engine>,
    jobs: BTreeMap<ImageName, Job>,
    /// The engine's ids of images that are there.
    ids: Mutex<BTreeMap<ImageName, Digest>>,
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

/// The images that are pulled from the registry, and what pulling them takes.
pub(crate) struct Pulls {
    pub(crate) requests: BTreeMap<ImageName, Pull>,
    pub(crate) login: Option<Login>,
    pub(crate) record: Arc<TestRecord>,
}

/// An image that is pulled.
#[derive(Debug, Clone)]
pub(crate) struct Pull {
    pub(crate) digest: Digest,
    /// The tests that had passed where it was pushed, when they are those that it has here.
    pub(crate) passed: Option<TestsHash>,
}

/// The tester, and the record of what has passed.
pub(crate) struct Testing {
    pub(crate) tester: Tester,
    pub(crate) record: Arc<TestRecord>,
}

/// The tools and choices that a builder works with.
pub(crate) struct With {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) events: EventSender,
    /// `None` when no test is run.
    pub(crate) tests: Option<Testing>,
    pub(crate) tags: MovesTags,
    pub(crate) pulls: Pulls,
    pub(crate) secrets: Secrets,
    /// Whether steps are carried out although their results are known.
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
            let mut job = Job::new(session, prepared, &fingerprints, &view);
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
    pub(crate) fn ids(&self) -> BTreeMap<ImageName, Digest> {
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
        let id = lock(&self.ids).get(name).map_or_else(|| job.content_reference.clone(), ToString::to_string);
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
        let repository = Parts::of(&job.content_reference).name;
        let (repository, digest) = (repository.to_owned(), pull.digest.clone());
        let login = self.pulls.login.clone();
        let stored = self.engine.pull(PullRequest { repository, digest, login }).await?;
        let said = stored.labels.get(labels::FINGERPRINT);
        if said != Some(&job.prepared.target.fingerprint.to_string()) {
            return Err(Stop::Library(Error::ContentTag { reference: job.content_reference.clone() }));
        }
        self.engine.tag(stored.id.as_str(), &job.content_reference).await?;
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
                    database = engine.read_file(built.id.as_str(), path).await?;
                }
            }
            let text = String::from_utf8_lossy(&database.unwrap_or_default()).into_owned();
            let differences = imgforge_packages::compare(*scheme, &text, packages);
            if !differences.is_empty() {
                // Without a name it would lie about for nobody.
                engine.untag(built.id.as_str()).await?;
                for difference in differences {
                    (self.events)(Event::Log { target: name.clone(), line: difference.to_string() });
                }
                return Err(Stop::Packages);
            }
        }
        // The content tag says that the image is whole and what its inputs give. Tests come after it, so that those
        // which fail are run again without a build, and release tags come last.
        engine.tag(built.id.as_str(), &job.content_reference).await?;
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
            Some(id) => self.engine.size(id.as_str()).await.unwrap_or(0),
            None => 0,
        };
        lock(&self.sizes).insert(name.clone(), size);
        size
    }

    /// Returns what has changed so that this target was built, each cause in a line with the chain that leads from it
    /// to here.
    fn causes(&self, target: &ImageName) -> Vec<String> {
        let in_workspace = |image: &str, reason: &Reason| match reason {
            Reason::File { path, .. } => {
                let job = self.jobs.get(image);
                let dir = job.map(|job| &job.image.context.dir).filter(|dir| !dir.as_str().is_empty());
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
        let packages = self.jobs[&name].prepared.build.packages.len();
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What panicked while it held the lock has been reported by then; the data is whole between statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
