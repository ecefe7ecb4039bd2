//! Plans and builds: from a selection to images that are tested and carry their tags.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use imgforge_core::event::{Event, Outcome, Reporter};
use imgforge_core::lock::{Lock, LockedPackage};
use imgforge_core::name::ImageName;
use imgforge_core::plan::{self, Action, Inventory, Plan, PlannedTarget, Relocked, Target, Tests};
use imgforge_core::schedule::{Node, Policy, Schedule};
use imgforge_core::testing;
use imgforge_engine::{CancellationToken, Engine, EventSender, Host, dispatch};
use imgforge_registry::Retry;
use imgforge_report::{Recorder, RunReport};
use rayon::prelude::*;

use crate::durations::Durations;
use crate::prepare::Prepared;
use crate::publish::{Published, ToPublish};
use crate::registry::{FamilyRegistry, Remote};
use crate::resolve::Moves;
use crate::testing::{TestRecord, TestRun, Tester, may_be_there, remove_leftovers};
use crate::work::{Builder, MovesTags, Pulls, TargetFailure, Testing, With};
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
    /// What is done about tests.
    pub tests: TestMode,
    /// Push what was built to the registry, and promote what has passed its tests.
    pub push: bool,
    /// Pull what is selected and only the registry holds.
    pub pull: bool,
    /// Do not ask the registry what it holds.
    pub local: bool,
    /// Cancelled to stop the run: what is being built is cancelled in the engine.
    pub cancel: CancellationToken,
}

/// What a build does about the tests of images.
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

/// What is known of tests before any is run.
#[derive(Clone, Copy)]
pub(crate) enum Ask<'r> {
    /// None is to be run.
    None,
    /// Those that have not passed are.
    Unless(&'r TestRecord),
    /// All are.
    All,
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
    /// What came of pushing, when that was asked for.
    pub published: Option<Published>,
    /// The engine, in a few words.
    pub engine: String,
    /// Whether the run was cancelled.
    pub interrupted: bool,
}

impl BuildReport {
    /// Whether every target is built or fresh.
    pub fn succeeded(&self) -> bool {
        self.failures.is_empty()
            && !self.interrupted
            && self.published.as_ref().is_none_or(|published| published.failures.is_empty())
    }
}

/// A plan and what it was made from.
pub(crate) struct Planned {
    pub(crate) prepared: Vec<Prepared>,
    pub(crate) inventory: Inventory,
    pub(crate) plan: Plan,
    pub(crate) engine: Arc<dyn Host>,
    /// The registry, when it was asked.
    pub(crate) registry: Option<FamilyRegistry>,
    /// What it holds of the targets that it was asked for.
    pub(crate) remotes: BTreeMap<ImageName, Remote>,
    pub(crate) hashed: Duration,
    pub(crate) asked: Duration,
}

/// The variable that keeps builds from asking the registry, as `--local` does.
const LOCAL_VARIABLE: &str = "IMGFORGE_LOCAL";

/// What the registry is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AskRegistry {
    /// Nothing.
    No,
    /// Images that the engine lacks. One that does not answer is told of, and gone without.
    ForMissing,
    /// All images. It must answer.
    ForAll,
}

impl Session {
    /// What would be done for `selected`, and why. Asks the engine once what it holds, and the registry for what the engine
    /// lacks unless only what is `local` counts; changes nothing.
    ///
    /// # Errors
    /// Problems of manifests and files, a lock that does not fit, an engine that cannot be reached.
    pub fn plan(&self, selected: &BTreeSet<ImageName>, force: bool, local: bool) -> Result<Plan, Error> {
        let lock = self.read_lock()?;
        self.check_lock(&lock)?;
        let record = TestRecord::load(&self.root);
        let registry = if local { AskRegistry::No } else { AskRegistry::ForMissing };
        let planned = self.planned(selected, &lock, &[], Ask::Unless(&record), registry, force);
        Ok(runtime()?.block_on(planned)?.plan)
    }

    /// Builds what of `selected` is not there yet, runs the tests that have not passed, and moves release tags.
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
        let record = Arc::new(TestRecord::load(&self.root));
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
                Err(Error::Packages(imgforge_packages::Error::Vanished(gone))) if may_relock => {
                    may_relock = false;
                    let new = self.relock(&lock, &gone, reporter)?;
                    relocked = self.moved(&lock, &new);
                    lock = new;
                }
                Err(error) => return Err(error),
            }
        };
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
        let runtime = runtime()?;
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
        let way = Way { record: Arc::new(TestRecord::load(&self.root)), options, only_tests: true };
        runtime.block_on(self.carry_out(planned, &lock, way, started, reporter))
    }

    /// What is known of the tests of each target.
    pub(crate) fn tests_known(&self, targets: &[Target], ask: Ask<'_>) -> BTreeMap<ImageName, Tests> {
        if matches!(ask, Ask::None) || !self.has_tests() {
            return BTreeMap::new();
        }
        let known = |target: &Target| {
            let tests = testing::of(&self.workspace, &self.graph, &target.name);
            let passed = || match ask {
                Ask::Unless(record) => {
                    record.passed(target.fingerprint, self.tests_hash(&target.name, &tests))
                }
                Ask::All | Ask::None => false,
            };
            let count = tests.len();
            (target.name.clone(), Tests { count, passed: count == 0 || passed() })
        };
        targets.par_iter().map(known).collect()
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

    pub(crate) async fn planned(
        &self,
        selected: &BTreeSet<ImageName>,
        lock: &Lock,
        relocked: &[Relocked],
        ask: Ask<'_>,
        ask_registry: AskRegistry,
        force: bool,
    ) -> Result<Planned, Error> {
        // The engine is asked while files are hashed.
        let workspace = self.workspace.manifest.name.value.clone();
        let finder = self.finder();
        let asking = tokio::spawn(async move {
            let started = Instant::now();
            let engine = finder.find().await?;
            let inventory = engine.inventory(&workspace).await?;
            Ok::<_, imgforge_engine::Error>((engine, inventory, started.elapsed()))
        });
        let started = Instant::now();
        let prepared = tokio::task::block_in_place(|| self.prepare(selected, lock, relocked))?;
        let hashed = started.elapsed();
        let (engine, mut inventory, asked) = asking.await.expect("asking does not panic")?;
        let targets: Vec<_> = prepared.iter().map(|prepared| prepared.target.clone()).collect();
        let mut warnings = Vec::new();
        let (registry, remotes) = match self.ask_registry(&targets, &mut inventory, ask_registry).await {
            Ok(found) => found,
            Err(error @ Error::Registry(_)) if ask_registry == AskRegistry::ForMissing => {
                warnings.push(format!("{error}; only what the engine holds is taken for fresh"));
                (None, BTreeMap::new())
            }
            Err(error) => return Err(error),
        };
        for (name, remote) in &remotes {
            inventory.insert_pushed(name.as_str(), remote.pushed());
        }
        let mut known = self.tests_known(&targets, ask);
        if matches!(ask, Ask::Unless(_)) {
            self.tests_passed_elsewhere(&mut known, &remotes);
        }
        let tests = |target: &Target| match ask {
            // What else is needed is not what was asked for.
            Ask::All if !selected.contains(&target.name) => Tests::default(),
            _ => known.get(&target.name).copied().unwrap_or_default(),
        };
        let mut plan = plan::plan(&targets, selected, &inventory, &tests, force);
        plan.warnings = warnings;
        Ok(Planned { prepared, inventory, plan, engine, registry, remotes, hashed, asked })
    }

    async fn ask_registry(
        &self,
        targets: &[Target],
        inventory: &mut Inventory,
        ask: AskRegistry,
    ) -> Result<(Option<FamilyRegistry>, BTreeMap<ImageName, Remote>), Error> {
        let registry = match ask {
            AskRegistry::No => None,
            AskRegistry::ForMissing if std::env::var_os(LOCAL_VARIABLE).is_some_and(|set| set != "0") => None,
            // A build that can do without does not wait long.
            AskRegistry::ForMissing => self.registry(Retry { tries: 2, ..Retry::default() })?,
            AskRegistry::ForAll => Some(self.needed_registry()?),
        };
        let Some(registry) = registry else { return Ok((None, BTreeMap::new())) };
        let is_asked = |target: &&Target| {
            ask == AskRegistry::ForAll || inventory.holds(&target.name, target.fingerprint).is_none()
        };
        let wanted = targets.iter().filter(is_asked).map(|target| (target.name.clone(), target.fingerprint));
        let remotes = registry.contents(wanted).await?;
        // What an image was before is known here, or there.
        let changed = targets
            .iter()
            .filter(|target| !remotes.contains_key(&target.name) && !inventory.knows(&target.name));
        let tags = changed.filter_map(|target| Some((target, target.release_references.first()?)));
        for (name, held) in registry.released(tags).await? {
            inventory.insert(name, held);
        }
        Ok((Some(registry), remotes))
    }

    /// Takes notice of tests that had passed where an image was pushed from.
    pub(crate) fn tests_passed_elsewhere(
        &self,
        known: &mut BTreeMap<ImageName, Tests>,
        remotes: &BTreeMap<ImageName, Remote>,
    ) {
        for (name, tests) in known.iter_mut().filter(|(_, tests)| !tests.passed) {
            let Some(said) = remotes.get(name).and_then(Remote::tests) else { continue };
            let asked = testing::of(&self.workspace, &self.graph, name);
            tests.passed = said == hex::encode(self.tests_hash(name, &asked).as_bytes());
        }
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
        self.fetch_packages(&packages, reporter)
    }

    async fn carry_out(
        &self,
        planned: Planned,
        lock: &Lock,
        way: Way<'_>,
        started: Instant,
        reporter: &mut dyn Reporter,
    ) -> Result<BuildReport, Error> {
        let Planned { prepared, inventory, plan, engine, registry, remotes, hashed, asked } = planned;
        let Way { record, options, only_tests } = way;
        if let Some(notice) = engine.notice() {
            reporter.event(&Event::Engine { notice });
        }
        for message in &plan.warnings {
            reporter.event(&Event::Warning { message: message.clone() });
        }
        let pulls = pulls(&prepared, &plan, &inventory, &remotes, options.pull);
        if may_be_there(&self.root) {
            let removed = remove_leftovers(&self.root, &*engine).await?;
            if removed > 0 {
                let message = format!(
                    "removed {removed} container{} of tests of an earlier run that was killed",
                    if removed == 1 { "" } else { "s" }
                );
                reporter.event(&Event::Warning { message });
            }
        }
        let targets: Vec<Target> = prepared.iter().map(|prepared| prepared.target.clone()).collect();
        let untested = self.untested(&targets, &plan, &record, options.tests);
        if options.tests == TestMode::LeaveOut && !untested.is_empty() {
            let names: Vec<String> = untested.iter().map(ToString::to_string).collect();
            let message = format!(
                "the tests of {} are left out; their release tags move all the same",
                shortened(&names)
            );
            reporter.event(&Event::Warning { message });
        }
        let keeps_tags = if options.tests == TestMode::Later { untested } else { BTreeSet::new() };
        // What stands on something that is not done with waits for how that ends.
        let at_work: BTreeSet<&str> = plan.to_do().map(|row| row.name.as_str()).collect();
        let waits = |name: &ImageName| -> bool {
            self.graph.ancestors(name).iter().any(|ancestor| at_work.contains(ancestor.as_str()))
        };
        let mut fresh: Vec<FreshTarget> = fresh(&targets, &plan, &inventory);
        fresh.retain(|fresh| !only_tests && !keeps_tags.contains(&fresh.name));
        let (waiting, free): (Vec<_>, Vec<_>) = fresh.into_iter().partition(|fresh| waits(&fresh.name));
        for fresh in free {
            fresh.move_tags(&*engine).await?;
        }
        let mut recorder = Recorder::new();
        for target in prepared.iter().map(|prepared| &prepared.target) {
            let row = plan.targets.iter().find(|row| row.name == target.name.as_str());
            let is_pulled = pulls.contains_key(&target.name);
            if row.is_some_and(|row| row.action == Action::Fresh && row.tests == 0) && !is_pulled {
                recorder.add_fresh(target.name.clone(), None);
            }
        }
        let described = engine.describe();
        let mut durations = Durations::load(&self.root);
        let (mut failures, mut bad, mut ids) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        // A reader that is gone does not want to know.
        let events: EventSender = Arc::new(move |event| drop(sender.send(event)));
        let both = [&mut recorder as &mut dyn Reporter, reporter];
        let mut tell = Tee(both);
        let at_work: BTreeSet<&ImageName> = targets
            .iter()
            .map(|target| &target.name)
            .filter(|name| at_work.contains(name.as_str()) || pulls.contains_key(*name))
            .collect();
        if !at_work.is_empty() {
            let slots = options.slots.unwrap_or_else(default_slots);
            let schedule = schedule(&targets, &at_work, &durations, options.fail_fast, only_tests);
            let tests = if plan.targets.iter().any(|row| row.tests > 0) {
                let run = TestRun::begin(&self.root)?;
                let tester = Tester::new(engine.clone(), engine.clone(), Arc::clone(&events), run);
                Some(Testing { tester, record: Arc::clone(&record) })
            } else {
                None
            };
            let tags = if only_tests { MovesTags::None } else { MovesTags::But(keeps_tags) };
            let login = match (&registry, pulls.is_empty()) {
                (Some(registry), false) => registry.engine_login().await?,
                _ => None,
            };
            let pulls = Pulls { requests: pulls, login };
            let with = With { engine: engine.clone(), events: Arc::clone(&events), tests, tags, pulls };
            let builder = Builder::new(self, prepared, &plan, lock, &inventory, with)?;
            let builder = Arc::new(builder);
            let fresh =
                plan.targets.iter().filter(|row| !at_work.iter().any(|name| name.as_str() == row.name));
            tell.event(&Event::Started { to_build: at_work.len(), fresh: fresh.count(), slots });
            let work = dispatch(schedule, builder.clone(), slots, options.cancel.clone(), events.clone());
            let ended = while_telling(work, &mut receiver, &options.cancel, |event| {
                if let Event::TargetFinished { target, outcome: Outcome::Built { .. }, took } = event {
                    durations.insert(target, *took);
                }
                tell.event(event);
            })
            .await;
            bad = ended
                .into_iter()
                .filter(|(_, outcome, _)| !went_well(outcome))
                .map(|(name, ..)| name)
                .collect();
            for fresh in waiting {
                if self.graph.ancestors(&fresh.name).iter().all(|ancestor| !bad.contains(*ancestor)) {
                    fresh.move_tags(&*engine).await?;
                }
            }
            failures = builder.take_failures();
            ids = builder.ids();
            durations.save();
        }
        let mut published = None;
        if let (true, Some(registry), false) = (options.push, &registry, options.cancel.is_cancelled()) {
            let good: Vec<&Target> = targets.iter().filter(|target| !bad.contains(&target.name)).collect();
            for target in &good {
                if let Some(held) = inventory.holds(&target.name, target.fingerprint) {
                    ids.entry(target.name.clone()).or_insert_with(|| held.id.clone());
                }
            }
            let mut known = self.tests_known(&targets, Ask::Unless(&record));
            self.tests_passed_elsewhere(&mut known, &remotes);
            let is_selected = |name: &ImageName| plan.targets.iter().any(|row| row.name == name.as_str());
            let to_publish = ToPublish {
                images: self.to_push(&good, &ids, &known),
                promoted: good
                    .iter()
                    .map(|target| &target.name)
                    .filter(|name| is_selected(name))
                    .filter(|name| known.get(*name).is_none_or(|tests| tests.passed))
                    .cloned()
                    .collect(),
                remotes,
            };
            let publishing = self.publish(registry, &*engine, to_publish, events, options.cancel.clone());
            let done = while_telling(publishing, &mut receiver, &options.cancel, |event| tell.event(event));
            published = match done.await {
                Ok(done) => Some(done),
                // What has failed before is told as well.
                Err(error) if !failures.is_empty() => {
                    tell.event(&Event::Warning { message: format!("nothing was promoted: {error}") });
                    None
                }
                Err(error) => return Err(error),
            };
        }
        if !at_work.is_empty() || published.as_ref().is_some_and(Published::did_something) {
            tell.event(&Event::Finished { took: started.elapsed() });
        }
        let interrupted = options.cancel.is_cancelled();
        if let Some(published) = &published {
            for (name, digest) in &published.digests {
                recorder.set_digest(name, digest);
            }
        }
        let run = recorder.report();
        Ok(BuildReport { run, plan, failures, hashed, asked, published, engine: described, interrupted })
    }

    /// The targets of a plan whose tests have not passed, when tests are not run.
    fn untested(
        &self,
        targets: &[Target],
        plan: &Plan,
        record: &TestRecord,
        mode: TestMode,
    ) -> BTreeSet<ImageName> {
        if mode == TestMode::Run {
            return BTreeSet::new();
        }
        let planned: BTreeSet<&str> = plan.targets.iter().map(|row| row.name.as_str()).collect();
        let known = self.tests_known(targets, Ask::Unless(record)).into_iter();
        known
            .filter(|(name, tests)| !tests.passed && planned.contains(name.as_str()))
            .map(|(name, _)| name)
            .collect()
    }
}

/// How a plan is carried out.
struct Way<'o> {
    record: Arc<TestRecord>,
    options: &'o BuildOptions,
    /// Each test by itself: nothing waits for a parent's, and no tag moves.
    only_tests: bool,
}

/// A target that is fresh and not tested, and release tags that point elsewhere: those of a change that was undone.
struct FreshTarget {
    name: ImageName,
    id: String,
    references: Vec<String>,
}

impl FreshTarget {
    async fn move_tags(&self, engine: &dyn Engine) -> Result<(), Error> {
        for reference in &self.references {
            engine.tag(&self.id, reference).await?;
        }
        Ok(())
    }
}

fn fresh(targets: &[Target], plan: &Plan, inventory: &Inventory) -> Vec<FreshTarget> {
    let rows: BTreeMap<&str, &str> = plan
        .targets
        .iter()
        .filter(|row| row.action == Action::Fresh && row.tests == 0)
        .filter_map(|row| Some((row.name.as_str(), row.id.as_deref()?)))
        .collect();
    let of = |target: &Target| {
        let id = (*rows.get(target.name.as_str())?).to_owned();
        let held = inventory.holds(&target.name, target.fingerprint);
        let is_elsewhere =
            |reference: &&String| !held.is_some_and(|held| held.references.contains(*reference));
        let references: Vec<String> =
            target.release_references.iter().filter(is_elsewhere).cloned().collect();
        (!references.is_empty()).then(|| FreshTarget { name: target.name.clone(), id, references })
    };
    targets.iter().filter_map(of).collect()
}

fn went_well(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Built { .. } | Outcome::Same { .. } | Outcome::Tested | Outcome::Pulled { .. })
}

/// What only the registry holds and is needed here: parents of what is built, what is tested, and what is selected if
/// that is asked for.
fn pulls(
    prepared: &[Prepared],
    plan: &Plan,
    inventory: &Inventory,
    remotes: &BTreeMap<ImageName, Remote>,
    selected: bool,
) -> BTreeMap<ImageName, String> {
    let rows: BTreeMap<&str, &PlannedTarget> =
        plan.targets.iter().map(|row| (row.name.as_str(), row)).collect();
    let row = |name: &ImageName| rows.get(name.as_str());
    let mut needed: BTreeSet<&ImageName> = BTreeSet::new();
    for target in prepared.iter().map(|prepared| &prepared.target) {
        match row(&target.name) {
            Some(row) if row.is_built() => needed.extend(&target.parents),
            Some(row) if row.tests > 0 || selected => drop(needed.insert(&target.name)),
            _ => {}
        }
    }
    let targets = prepared.iter().map(|prepared| &prepared.target);
    targets
        .filter(|target| needed.contains(&target.name))
        .filter(|target| !row(&target.name).is_some_and(|row| row.is_built()))
        .filter(|target| inventory.holds(&target.name, target.fingerprint).is_none())
        .filter_map(|target| Some((target.name.clone(), remotes.get(&target.name)?.digest.to_string())))
        .collect()
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

fn schedule(
    targets: &[Target],
    at_work: &BTreeSet<&ImageName>,
    durations: &Durations,
    fail_fast: bool,
    only_tests: bool,
) -> Schedule {
    let is_waited_for = |parent: &&ImageName| !only_tests && at_work.contains(*parent);
    let nodes = targets.iter().filter(|target| at_work.contains(&target.name)).map(|target| Node {
        name: target.name.clone(),
        parents: target.parents.iter().filter(is_waited_for).cloned().collect(),
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
