//! Plans and builds: from a selection to images that are tested and carry their tags.

mod carry_out;
mod durations;
mod fresh;
pub(crate) mod layouts;
pub(crate) mod planned;
mod telling;
pub(crate) mod work;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imgforge_core::event::{Event, Reporter};
use imgforge_core::name::ImageName;
use imgforge_core::plan::Plan;
use imgforge_core::testing;
use imgforge_engine::{CancellationToken, Secrets};
use imgforge_report::RunReport;

pub use self::work::TargetFailure;
use crate::build::carry_out::Way;
use crate::build::planned::{Ask, AskRegistry};
use crate::registry::publish::Published;
use crate::testing::TestRecord;
use crate::{Error, Session};

/// The options of a build.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// The number of targets that are built at once; three for each processor when not given.
    pub slots: Option<usize>,
    /// Start nothing more after the first failure; otherwise only what stands on the failed target is skipped.
    pub fail_fast: bool,
    /// Refuse a lock that does not fit the manifests, instead of locking what is missing.
    pub locked: bool,
    /// Build what is selected whatever the engine holds, each step anew.
    pub force: bool,
    /// The tests that the build runs.
    pub tests: TestMode,
    /// Push what was built to the registry, and promote what has passed its tests.
    pub push: bool,
    /// Pull what is selected and only the registry holds.
    pub pull: bool,
    /// Do not ask the registry what it holds.
    pub local: bool,
    /// The secrets that commands of Dockerfiles may read (`RUN --mount=type=secret` and `type=ssh`). They are no input:
    /// with other content, what is fresh stays fresh.
    pub secrets: Secrets,
    /// Cancelled to stop the run: what is being built is cancelled in the engine.
    pub cancel: CancellationToken,
}

/// The choice of tests that a build runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TestMode {
    /// Those that have not passed are run, and release tags move to what has passed.
    #[default]
    Run,
    /// None is run. Release tags move all the same, with a warning.
    LeaveOut,
    /// None is run. Release tags do not move to images whose tests have not passed: that is for a later build.
    Later,
}

/// The outcome of a build.
#[derive(Debug)]
pub struct BuildReport {
    /// One row a target, as `build --format json` prints it.
    pub run: RunReport,
    /// The plan that was carried out.
    pub plan: Plan,
    /// The failures, each with the step and its log.
    pub failures: Vec<TargetFailure>,
    /// The time that rendering and hashing took.
    pub hashed: Duration,
    /// The time that the engine took to say what it holds.
    pub asked: Duration,
    /// The outcome of pushing, when that was asked for.
    pub published: Option<Published>,
    /// The engine, in a few words.
    pub engine: String,
    /// Whether the run was cancelled.
    pub interrupted: bool,
}

impl BuildReport {
    /// Returns whether every target is built or fresh.
    pub fn succeeded(&self) -> bool {
        self.failures.is_empty()
            && !self.interrupted
            && self.published.as_ref().is_none_or(|published| published.failures.is_empty())
    }
}

impl Session {
    ///
    /// # Errors
    /// Returns an error for what keeps the run from starting. A target that fails is in the report.
    pub fn build(
        &self,
        selected: &BTreeSet<ImageName>,
        options: &BuildOptions,
        reporter: &mut dyn Reporter,
    ) -> Result<BuildReport, Error> {
        let started = Instant::now();
        let runtime = self.runtime()?;
        let mut lock = self.usable_lock(options.locked, reporter)?;
        // Once: an index may name a file that its server lacks, and locking anew would name it again.
        let (mut relocked, mut may_relock) =
            (Vec::new(), self.workspace.manifest.relock_vanished && !options.locked);
        let record = Arc::new(TestRecord::load(&self.state));
        let ask = if options.tests == TestMode::Run { Ask::Unless(&record) } else { Ask::None };
        let registry = match options {
            BuildOptions { push: true, .. } => AskRegistry::ForAll,
            BuildOptions { local: true, .. } => AskRegistry::No,
            _ => AskRegistry::ForMissing,
        };
        let planned = loop {
            let planned = self.planned(selected, &lock, &relocked, ask, registry, options.force);
            let planned = runtime.block_on(planned)?;
            match self.fetch_for(&planned, reporter) {
                Ok(()) => break planned,
                Err(Error::Packages(imgforge_packages::Error::Vanished { packages: gone, .. }))
                    if may_relock =>
                {
                    may_relock = false;
                    let new = self.relock(&lock, &gone, reporter)?;
                    relocked = self.moved(&lock, &new);
                    lock = new;
                }
                Err(error) => return Err(error),
            }
        };
        self.load_layouts(runtime, &planned, reporter)?;
        let way = Way { record, options, only_tests: false };
        runtime.block_on(self.carry_out(planned, &lock, way, started, reporter))
    }

    /// Runs all tests of those of `selected` that have any, whatever is remembered. Builds nothing, and moves no tag.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] for images that are not there as the workspace describes them, and what keeps the run from
    /// starting. A test that fails is in the report.
    pub fn test(
        &self,
        selected: &BTreeSet<ImageName>,
        options: &BuildOptions,
        reporter: &mut dyn Reporter,
    ) -> Result<BuildReport, Error> {
        let started = Instant::now();
        let runtime = self.runtime()?;
        let lock = self.read_lock()?;
        self.check_lock(&lock)?;
        let has_tests = |name: &&ImageName| !testing::of(&self.workspace, &self.graph, name).is_empty();
        let selected: BTreeSet<ImageName> = selected.iter().filter(has_tests).cloned().collect();
        let registry = AskRegistry::ForMissing;
        let planned = runtime.block_on(self.planned(&selected, &lock, &[], Ask::All, registry, false))?;
        let absent =
            planned.plan.to_build().filter(|row| selected.iter().any(|name| name.as_str() == row.name));
        let absent: Vec<String> = absent.map(|row| row.name.clone()).collect();
        if !absent.is_empty() {
            return Err(Error::NotBuilt { images: absent });
        }
        let way = Way { record: Arc::new(TestRecord::load(&self.state)), options, only_tests: true };
        runtime.block_on(self.carry_out(planned, &lock, way, started, reporter))
    }
}

/// Waits for `work`, and gives its events to `tell` meanwhile.
pub(crate) async fn while_telling<T>(
    work: impl Future<Output = T>,
    events: &mut tokio::sync::mpsc::UnboundedReceiver<Event>,
    cancel: &CancellationToken,
    mut tell: impl FnMut(&Event),
) -> T {
    let mut work = std::pin::pin!(work);
    let mut stopping = cancel.is_cancelled();
    let done = loop {
        tokio::select! {
            Some(event) = events.recv() => tell(&event),
            () = cancel.cancelled(), if !stopping => {
                stopping = true;
                tell(&Event::Interrupted);
            }
            done = &mut work => break done,
        }
    };
    while let Ok(event) = events.try_recv() {
        tell(&event);
    }
    done
}

/// Makes the threads that engines and servers are talked to from.
///
/// # Errors
/// [`Error::Io`] when the system gives none.
pub fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    built.map_err(|error| Error::Io { path: "the threads of the program".into(), error })
}

/// At most five names.
pub(crate) fn shortened(names: &[String]) -> String {
    match names.len() {
        0..=5 => names.join(", "),
        more => format!("{} and {} more", names[..5].join(", "), more - 5),
    }
}
