//! Plans and builds: from a selection to images that carry their tags.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use imgforge_core::event::{Event, Outcome, Reporter};
use imgforge_core::lock::{Lock, LockedPackage};
use imgforge_core::name::ImageName;
use imgforge_core::plan::{self, Action, Inventory, Plan, Relocked};
use imgforge_core::schedule::{Node, Policy, Schedule};
use imgforge_engine::{CancellationToken, Docker, Engine, EventSender, dispatch};
use imgforge_report::{Recorder, RunReport};

use crate::durations::Durations;
use crate::prepare::Prepared;
use crate::progress::{EventProgress, pump};
use crate::resolve::Moves;
use crate::work::{Builder, TargetFailure};
use crate::{Error, Session};

/// How a build runs.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// How many targets are built at once; three for each processor when not given.
    pub slots: Option<usize>,
    /// Start nothing more after the first failure; otherwise only what stands on the failed target is skipped.
    pub fail_fast: bool,
    /// Refuse a lock that does not fit the manifests, instead of locking what is missing.
    pub locked: bool,
    /// Build what is selected whatever the engine holds.
    pub force: bool,
    /// Cancelled to stop the run: what is being built is cancelled in the engine.
    pub cancel: CancellationToken,
}

/// What a build did.
#[derive(Debug)]
pub struct BuildReport {
    /// One row a target, as `build --format json` prints it.
    pub run: RunReport,
    /// The plan that was carried out.
    pub plan: Plan,
    /// What failed, with the step and its log.
    pub failures: Vec<TargetFailure>,
    /// How long rendering and hashing took.
    pub hashed: Duration,
    /// How long the engine took to say what it holds.
    pub asked: Duration,
    /// The engine, in a few words.
    pub engine: String,
    /// Whether the run was cancelled.
    pub interrupted: bool,
}

impl BuildReport {
    /// Whether every target is built or fresh.
    pub fn succeeded(&self) -> bool {
        self.failures.is_empty() && !self.interrupted
    }
}

/// A plan and what it was made from.
struct Planned {
    prepared: Vec<Prepared>,
    inventory: Inventory,
    plan: Plan,
    engine: Arc<dyn Engine>,
    hashed: Duration,
    asked: Duration,
}

impl Session {
    /// What would be done for `selected`, and why. Asks the engine once what it holds; changes nothing.
    ///
    /// # Errors
    /// Problems of manifests and files, a lock that does not fit, an engine that cannot be reached.
    pub fn plan(&self, selected: &BTreeSet<ImageName>, force: bool) -> Result<Plan, Error> {
        let lock = self.read_lock()?;
        self.check_lock(&lock)?;
        Ok(runtime()?.block_on(self.planned(selected, &lock, &[], force))?.plan)
    }

    /// Builds what of `selected` is not there yet, and moves its release tags.
    ///
    /// # Errors
    /// What keeps the run from starting. A target that fails is in the report.
    pub fn build(
        &self,
        selected: &BTreeSet<ImageName>,
        options: &BuildOptions,
        reporter: &mut dyn Reporter,
    ) -> Result<BuildReport, Error> {
        let started = Instant::now();
        let runtime = runtime()?;
        let mut lock = self.usable_lock(options.locked, reporter)?;
        // Once: an index may name a file that its server lacks, and locking anew would name it again.
        let (mut relocked, mut may_relock) =
            (Vec::new(), self.workspace.manifest.relock_vanished && !options.locked);
        let planned = loop {
            let planned = runtime.block_on(self.planned(selected, &lock, &relocked, options.force))?;
            match self.fetch_for(&planned, reporter) {
                Ok(()) => break planned,
                Err(Error::Packages(imgforge_packages::Error::Vanished(gone))) if may_relock => {
                    may_relock = false;
                    let new = self.relock(&lock, &gone, reporter)?;
                    relocked = self.moved(&lock, &new);
                    lock = new;
                }
                Err(error) => return Err(error),
            }
        };
        runtime.block_on(self.carry_out(planned, &lock, options, started, reporter))
    }

    /// The lock as it is when it fits; otherwise what is missing in it is locked, unless that is not wanted.
    fn usable_lock(&self, locked: bool, reporter: &mut dyn Reporter) -> Result<Lock, Error> {
        let lock = self.read_lock()?;
        match self.check_lock(&lock) {
            Ok(()) => Ok(lock),
            Err(error) if locked => Err(error),
            Err(_) => {
                let new = self.update(&lock, &Moves::Nothing, reporter)?;
                self.write_lock(&new)?;
                let message =
                    format!("{} did not fit the manifests: {}", crate::LOCK_FILE, self.summary(&lock, &new));
                reporter.event(&Event::Warning { message });
                Ok(new)
            }
        }
    }

    fn relock(&self, old: &Lock, gone: &[LockedPackage], reporter: &mut dyn Reporter) -> Result<Lock, Error> {
        let names: Vec<String> =
            gone.iter().map(|package| format!("{} {}", package.name, package.version)).collect();
        let new = self.update(old, &Moves::Everything, reporter)?;
        self.write_lock(&new)?;
        let message = format!(
            "no longer served, so everything was locked anew ({}): {}",
            self.summary(old, &new),
            shortened(&names)
        );
        reporter.event(&Event::Warning { message });
        Ok(new)
    }

    fn moved(&self, old: &Lock, new: &Lock) -> Vec<Relocked> {
        let rows = self.changes(old, new).into_iter();
        rows.filter_map(|row| Some(Relocked { package: row.name, old: row.old?, new: row.new? })).collect()
    }

    fn summary(&self, old: &Lock, new: &Lock) -> String {
        let (mut added, mut removed, mut moved) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for change in self.changes(old, new) {
            let kind = match (&change.old, &change.new) {
                (None, _) => &mut added,
                (_, None) => &mut removed,
                _ => &mut moved,
            };
            kind.insert(change.name);
        }
        format!("{} added, {} moved, {} removed", added.len(), moved.len(), removed.len())
    }

    async fn planned(
        &self,
        selected: &BTreeSet<ImageName>,
        lock: &Lock,
        relocked: &[Relocked],
        force: bool,
    ) -> Result<Planned, Error> {
        // The engine is asked while files are hashed.
        let workspace = self.workspace.manifest.name.value.clone();
        let asking = tokio::spawn(async move {
            let started = Instant::now();
            let engine = Docker::connect().await?;
            let inventory = engine.inventory(&workspace).await?;
            Ok::<_, imgforge_engine::Error>((engine, inventory, started.elapsed()))
        });
        let started = Instant::now();
        let prepared = tokio::task::block_in_place(|| self.prepare(selected, lock, relocked))?;
        let hashed = started.elapsed();
        let (engine, inventory, asked) = asking.await.expect("asking does not panic")?;
        let targets: Vec<_> = prepared.iter().map(|prepared| prepared.target.clone()).collect();
        let plan = plan::plan(&targets, selected, &inventory, force);
        Ok(Planned { prepared, inventory, plan, engine: Arc::new(engine), hashed, asked })
    }

    /// Fetches the packages of all targets that will be built.
    fn fetch_for(&self, planned: &Planned, reporter: &mut dyn Reporter) -> Result<(), Error> {
        let to_build: BTreeSet<&str> = planned.plan.to_build().map(|row| row.name.as_str()).collect();
        let prepared =
            planned.prepared.iter().filter(|prepared| to_build.contains(prepared.target.name.as_str()));
        let packages: BTreeSet<LockedPackage> =
            prepared.flat_map(|prepared| prepared.packages.iter().cloned()).collect();
        if packages.is_empty() {
            return Ok(());
        }
        let packages: Vec<LockedPackage> = packages.into_iter().collect();
        let cache = imgforge_packages::Cache::user()?;
        if packages.iter().all(|package| cache.file(&package.sha256).is_file()) {
            return Ok(());
        }
        let repositories = self.repositories(&packages)?;
        pump(reporter, |events| {
            imgforge_packages::fetch(&packages, &repositories, &cache, &EventProgress::new(events))?;
            Ok(())
        })
    }

    async fn carry_out(
        &self,
        planned: Planned,
        lock: &Lock,
        options: &BuildOptions,
        started: Instant,
        reporter: &mut dyn Reporter,
    ) -> Result<BuildReport, Error> {
        let Planned { prepared, inventory, plan, engine, hashed, asked } = planned;
        self.move_tags_of_fresh(&prepared, &plan, &inventory, &*engine).await?;
        let mut recorder = Recorder::new();
        for target in prepared.iter().map(|prepared| &prepared.target) {
            let row = plan.targets.iter().find(|row| row.name == target.name.as_str());
            if row.is_some_and(|row| row.action == Action::Fresh) {
                recorder.add_fresh(target.name.clone(), None);
            }
        }
        let described = engine.describe();
        let mut durations = Durations::load(&self.root);
        let (mut failures, mut interrupted) = (Vec::new(), false);
        if plan.to_build().next().is_some() {
            let slots = options.slots.unwrap_or_else(default_slots);
            let schedule = schedule(&prepared, &plan, &durations, options.fail_fast);
            let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
            // A reader that is gone does not want to know.
            let events: EventSender = Arc::new(move |event| drop(sender.send(event)));
            let builder =
                Arc::new(Builder::new(self, prepared, &plan, lock, &inventory, engine, Arc::clone(&events)));
            let to_build = plan.to_build().count();
            let both = [&mut recorder as &mut dyn Reporter, reporter];
            let mut tell = Tee(both);
            tell.event(&Event::Started { to_build, fresh: plan.targets.len() - to_build, slots });
            let work = dispatch(schedule, builder.clone(), slots, options.cancel.clone(), events);
            let mut work = std::pin::pin!(work);
            let (mut running, mut stopping) = (true, false);
            while running || !receiver.is_empty() {
                tokio::select! {
                    Some(event) = receiver.recv() => {
                        if let Event::TargetFinished { target, outcome: Outcome::Built { .. }, took } = &event {
                            durations.insert(target, *took);
                        }
                        tell.event(&event);
                    }
                    () = options.cancel.cancelled(), if running && !stopping => {
                        stopping = true;
                        tell.event(&Event::Interrupted);
                    }
                    _ = &mut work, if running => running = false,
                }
            }
            tell.event(&Event::Finished { took: started.elapsed() });
            failures = builder.take_failures();
            interrupted = options.cancel.is_cancelled();
            durations.save();
        }
        let run = recorder.report();
        Ok(BuildReport { run, plan, failures, hashed, asked, engine: described, interrupted })
    }

    /// A change that was undone leaves images fresh whose release tags point elsewhere.
    async fn move_tags_of_fresh(
        &self,
        prepared: &[Prepared],
        plan: &Plan,
        inventory: &Inventory,
        engine: &dyn Engine,
    ) -> Result<(), Error> {
        let fresh: BTreeMap<&str, &str> = plan
            .targets
            .iter()
            .filter(|row| row.action == Action::Fresh)
            .filter_map(|row| Some((row.name.as_str(), row.id.as_deref()?)))
            .collect();
        for target in prepared.iter().map(|prepared| &prepared.target) {
            let Some(id) = fresh.get(target.name.as_str()) else { continue };
            let held = inventory.holds(&target.name, target.fingerprint);
            for reference in &target.release_references {
                if !held.is_some_and(|held| held.references.contains(reference)) {
                    engine.tag(id, reference).await?;
                }
            }
        }
        Ok(())
    }
}

/// Both see every event.
struct Tee<'r>([&'r mut dyn Reporter; 2]);

impl Reporter for Tee<'_> {
    fn event(&mut self, event: &Event) {
        for reporter in &mut self.0 {
            reporter.event(event);
        }
    }
}

/// The threads that engines are talked to from.
///
/// # Errors
/// [`Error::Io`] when the system gives none.
pub fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    built.map_err(|error| Error::Io { path: "the threads of the program".into(), error })
}

/// Three for each processor: a build waits for its daemon more than it computes. (On a storage driver without a diff of
/// its own, Docker even sleeps to the next full second for each image, so that file times tell layers apart.)
fn default_slots() -> usize {
    3 * std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

fn schedule(prepared: &[Prepared], plan: &Plan, durations: &Durations, fail_fast: bool) -> Schedule {
    let to_build: BTreeSet<&str> = plan.to_build().map(|row| row.name.as_str()).collect();
    let targets = prepared.iter().map(|prepared| &prepared.target);
    let nodes = targets.filter(|target| to_build.contains(target.name.as_str())).map(|target| Node {
        name: target.name.clone(),
        parents: target.parents.iter().filter(|parent| to_build.contains(parent.as_str())).cloned().collect(),
        estimate: durations.of(&target.name),
    });
    Schedule::new(nodes, if fail_fast { Policy::FailFast } else { Policy::KeepGoing })
}

/// At most five names.
fn shortened(names: &[String]) -> String {
    match names.len() {
        0..=5 => names.join(", "),
        more => format!("{} and {} more", names[..5].join(", "), more - 5),
    }
}
