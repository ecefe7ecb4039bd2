//! A plan carried out: pulls, builds and tests as the schedule has them, tags, and what goes to the registry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use imgforge_core::event::{Event, Outcome, Reporter};
use imgforge_core::lock::{Lock, LockedPackage};
use imgforge_core::manifest::{Compression, Layers};
use imgforge_core::name::ImageName;
use imgforge_core::plan::{Action, Inventory, Plan, PlannedTarget, Target};
use imgforge_core::schedule::{Node, Policy, Schedule};
use imgforge_engine::{Engine, EventSender, dispatch};
use imgforge_report::Recorder;

use crate::build::durations::Durations;
use crate::build::planned::{Ask, Planned};
use crate::build::work::{Builder, MovesTags, Pulls, Testing, With};
use crate::build::{BuildOptions, BuildReport, TestMode, shortened, while_telling};
use crate::prepare::Prepared;
use crate::registry::Remote;
use crate::registry::publish::{Published, ToPublish};
use crate::testing::{TestRecord, TestRun, Tester, may_be_there, remove_leftovers};
use crate::{Error, Session};

impl Session {
    /// Fetches the packages of all targets that will be built.
    pub(super) fn fetch_for(&self, planned: &Planned, reporter: &mut dyn Reporter) -> Result<(), Error> {
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

    /// What is not done of what manifests say about layers, when images are built by an engine that cannot.
    fn other_layers(&self, plan: &Plan) -> Option<String> {
        let built = plan.to_build().filter_map(|row| ImageName::new(row.name.as_str()).ok());
        let wants = |name: &ImageName| {
            self.workspace.manifest.compression != Compression::Gzip
                || self.workspace.images[name].manifest.layers != Layers::Each
        };
        let names: Vec<String> = built.filter(wants).map(|name| name.to_string()).collect();
        (!names.is_empty()).then(|| {
            format!(
                "Docker makes the layers of {} in its own way: `layers` and `compression` are for the embedded engine",
                shortened(&names)
            )
        })
    }

    pub(super) async fn carry_out(
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
        if !engine.makes_layers_as_asked()
            && let Some(message) = self.other_layers(&plan)
        {
            reporter.event(&Event::Warning { message });
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
            let (secrets, anew) = (options.secrets.clone(), options.force);
            let with = With {
                engine: engine.clone(),
                events: Arc::clone(&events),
                tests,
                tags,
                pulls,
                secrets,
                anew,
            };
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
        // How the run has ended is told by now.
        if !at_work.is_empty()
            && !interrupted
            && let Err(error) = engine.settle().await
        {
            let message = format!("a power cut may undo what was built: {error}");
            tell.event(&Event::Warning { message });
        }
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
pub(super) struct Way<'o> {
    pub(super) record: Arc<TestRecord>,
    pub(super) options: &'o BuildOptions,
    /// Each test by itself: nothing waits for a parent's, and no tag moves.
    pub(super) only_tests: bool,
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

/// Both see every event.
struct Tee<'r>([&'r mut dyn Reporter; 2]);

impl Reporter for Tee<'_> {
    fn event(&mut self, event: &Event) {
        for reporter in &mut self.0 {
            reporter.event(event);
        }
    }
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
