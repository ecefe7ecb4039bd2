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
use imgforge_engine::{EventSender, Host, dispatch};
use imgforge_oci::Digest;
use imgforge_report::Recorder;

use crate::build::durations::Durations;
use crate::build::fresh::{FreshTarget, fresh};
use crate::build::planned::{Ask, Planned};
use crate::build::telling::{Telling, warn};
use crate::build::work::{Builder, MovesTags, Pull, Pulls, TargetFailure, Testing, With};
use crate::build::{BuildOptions, BuildReport, TestMode, shortened};
use crate::prepare::Prepared;
use crate::registry::publish::{Published, ToPublish};
use crate::registry::{FamilyRegistry, Remote};
use crate::testing::{TestRecord, TestRun, Tester, may_be_there, remove_leftovers};
use crate::{Error, Session};

impl Session {
    /// Fetches the packages of all targets that will be built.
    pub(super) fn fetch_for(&self, planned: &Planned, reporter: &mut dyn Reporter) -> Result<(), Error> {
        let to_build: BTreeSet<&str> = planned.plan.to_build().map(|row| row.name.as_str()).collect();
        let prepared =
            planned.prepared.iter().filter(|prepared| to_build.contains(prepared.target.name.as_str()));
        let packages: BTreeSet<LockedPackage> =
            prepared.flat_map(|prepared| prepared.build.packages.iter().cloned()).collect();
        if packages.is_empty() {
            return Ok(());
        }
        let packages: Vec<LockedPackage> = packages.into_iter().collect();
        self.fetch_packages(&packages, reporter)
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
        let targets = prepared.iter().map(|prepared| prepared.target.clone()).collect();
        let run = Run { session: self, lock, targets, plan, inventory, engine, registry, way };
        run.tell_first(reporter);
        let pulls = self.pulls(&prepared, &run.plan, &run.inventory, &remotes, run.way.options.pull);
        run.record_pushes(&remotes).await?;
        run.remove_leftovers(reporter).await?;
        if !run.way.only_tests {
            self.name_held(&run.targets, &run.inventory, &*run.engine).await?;
        }
        let stay = run.tags_that_stay(reporter);
        let waiting = run.move_free_tags(&stay).await?;
        let mut telling = Telling::new(reporter);
        run.record_fresh(&pulls, &mut telling.recorder);
        let at_work = run.at_work(&pulls);
        let is_at_work = !at_work.is_empty();
        let done = if is_at_work {
            run.work(ToDo { prepared, at_work, pulls, stay, waiting }, &mut telling).await?
        } else {
            Done::default()
        };
        let published = run.publish(&done, remotes, &mut telling).await?;
        if is_at_work || published.as_ref().is_some_and(Published::did_something) {
            telling.event(&Event::Finished { took: started.elapsed() });
        }
        let interrupted = run.way.options.cancel.is_cancelled();
        Ok(BuildReport {
            run: telling.report(published.as_ref()),
            failures: done.failures,
            hashed,
            asked,
            published,
            engine: run.engine.describe(),
            interrupted,
            plan: run.plan,
        })
    }
}

/// The way in which a plan is carried out.
pub(super) struct Way<'o> {
    pub(super) record: Arc<TestRecord>,
    pub(super) options: &'o BuildOptions,
    /// Each test by itself: nothing waits for a parent's, and no tag moves.
    pub(super) only_tests: bool,
}

/// A plan on its way.
struct Run<'r> {
    session: &'r Session,
    lock: &'r Lock,
    /// Of all that the plan knows, parents first.
    targets: Vec<Target>,
    plan: Plan,
    inventory: Inventory,
    engine: Arc<dyn Host>,
    /// The registry, when it was asked.
    registry: Option<FamilyRegistry>,
    way: Way<'r>,
}

/// The work of a run: what its schedule is made from, and what waits for its end.
struct ToDo {
    prepared: Vec<Prepared>,
    /// The images that are pulled, built or tested.
    at_work: BTreeSet<ImageName>,
    /// The images among them that are pulled.
    pulls: BTreeMap<ImageName, Pull>,
    /// Whose release tags stay where they are.
    stay: BTreeSet<ImageName>,
    waiting: Vec<FreshTarget>,
}

/// The outcome of a schedule.
#[derive(Default)]
struct Done {
    /// The images that failed, were skipped or were cancelled.
    bad: BTreeSet<ImageName>,
    failures: Vec<TargetFailure>,
    /// The engine's ids of images that are there.
    ids: BTreeMap<ImageName, Digest>,
}

impl Run<'_> {
    /// Tells what there is to say before anything is done.
    fn tell_first(&self, reporter: &mut dyn Reporter) {
        if let Some(notice) = self.engine.notice() {
            reporter.event(&Event::Engine { notice });
        }
        for message in &self.plan.warnings {
            warn(reporter, message.clone());
        }
        if !self.engine.makes_layers_as_asked()
            && let Some(message) = self.other_layers()
        {
            warn(reporter, message);
        }
    }

    /// Returns a warning about what manifests ask of layers and the engine cannot do.
    fn other_layers(&self) -> Option<String> {
        let workspace = &self.session.workspace;
        let built = self.plan.to_build().filter_map(|row| ImageName::new(row.name.as_str()).ok());
        let wants = |name: &ImageName| {
            workspace.manifest.compression != Compression::Gzip
                || workspace.images[name].manifest.layers != Layers::Each
        };
        let names: Vec<String> = built.filter(wants).map(|name| name.to_string()).collect();
        (!names.is_empty()).then(|| {
            format!(
                "Docker makes the layers of {} in its own way: `layers` and `compression` are for the embedded engine",
                shortened(&names)
            )
        })
    }

    /// Writes down what will be pushed, and what it will stand on in the registry: a build takes its time, and nobody
    /// is to prune meanwhile what was found there.
    async fn record_pushes(&self, remotes: &BTreeMap<ImageName, Remote>) -> Result<(), Error> {
        let Some(registry) = self.registry.as_ref().filter(|_| self.way.options.push) else { return Ok(()) };
        if self.targets.iter().all(|target| remotes.contains_key(&target.name)) {
            return Ok(());
        }
        let contents =
            self.targets.iter().map(|target| (target.name.clone(), target.fingerprint.content_tag()));
        registry.record_pushes(contents).await
    }

    /// Removes the containers of tests of runs that were killed.
    async fn remove_leftovers(&self, reporter: &mut dyn Reporter) -> Result<(), Error> {
        let state = &self.session.state;
        if !may_be_there(state) {
            return Ok(());
        }
        let removed = remove_leftovers(state, &*self.engine).await?;
        if removed > 0 {
            let s = if removed == 1 { "" } else { "s" };
            warn(
                reporter,
                format!("removed {removed} container{s} of tests of an earlier run that was killed"),
            );
        }
        Ok(())
    }

    /// The targets whose release tags stay where they are, since their tests are for a later run. Warns of tags that
    /// move without tests.
    fn tags_that_stay(&self, reporter: &mut dyn Reporter) -> BTreeSet<ImageName> {
        let untested = self.untested();
        match self.way.options.tests {
            TestMode::Later => untested,
            TestMode::LeaveOut if !untested.is_empty() => {
                let names: Vec<String> = untested.iter().map(ToString::to_string).collect();
                let names = shortened(&names);
                let message =
                    format!("the tests of {names} are left out; their release tags move all the same");
                warn(reporter, message);
                BTreeSet::new()
            }
            TestMode::LeaveOut | TestMode::Run => BTreeSet::new(),
        }
    }

    /// The targets of the plan whose tests have not passed, when tests are not run.
    fn untested(&self) -> BTreeSet<ImageName> {
        if self.way.options.tests == TestMode::Run {
            return BTreeSet::new();
        }
        let planned: BTreeSet<&str> = self.plan.targets.iter().map(|row| row.name.as_str()).collect();
        let known = self.session.tests_known(&self.targets, Ask::Unless(&self.way.record)).into_iter();
        known
            .filter(|(name, tests)| !tests.passed && planned.contains(name.as_str()))
            .map(|(name, _)| name)
            .collect()
    }

    /// Moves the release tags of what is fresh and stands on nothing that there is work on. The others are returned:
    /// they wait for how that ends.
    async fn move_free_tags(&self, stay: &BTreeSet<ImageName>) -> Result<Vec<FreshTarget>, Error> {
        if self.way.only_tests {
            return Ok(Vec::new());
        }
        let to_do: BTreeSet<&str> = self.plan.to_do().map(|row| row.name.as_str()).collect();
        let waits = |fresh: &FreshTarget| {
            let ancestors = self.session.graph.ancestors(&fresh.name);
            ancestors.iter().any(|ancestor| to_do.contains(ancestor.as_str()))
        };
        let mut fresh = fresh(&self.targets, &self.plan, &self.inventory);
        fresh.retain(|fresh| !stay.contains(&fresh.name));
        let (waiting, free): (Vec<_>, Vec<_>) = fresh.into_iter().partition(waits);
        for fresh in free {
            fresh.move_tags(&*self.engine).await?;
        }
        Ok(waiting)
    }

    /// Records what there is no work on.
    fn record_fresh(&self, pulls: &BTreeMap<ImageName, Pull>, recorder: &mut Recorder) {
        for target in &self.targets {
            let row = self.plan.targets.iter().find(|row| row.name == target.name.as_str());
            let is_pulled = pulls.contains_key(&target.name);
            if row.is_some_and(|row| row.action == Action::Fresh && row.tests == 0) && !is_pulled {
                recorder.add_fresh(target.name.clone(), None);
            }
        }
    }

    /// Returns the images that are pulled, built or tested.
    fn at_work(&self, pulls: &BTreeMap<ImageName, Pull>) -> BTreeSet<ImageName> {
        let to_do: BTreeSet<&str> = self.plan.to_do().map(|row| row.name.as_str()).collect();
        let names = self.targets.iter().map(|target| &target.name);
        names.filter(|name| to_do.contains(name.as_str()) || pulls.contains_key(*name)).cloned().collect()
    }

    /// Pulls, builds and tests, and then moves the tags that have waited for that.
    async fn work(&self, to_do: ToDo, telling: &mut Telling<'_>) -> Result<Done, Error> {
        let ToDo { prepared, at_work, pulls, stay, waiting } = to_do;
        let Way { options, only_tests, .. } = &self.way;
        let mut durations = Durations::load(&self.session.state);
        let slots = options.slots.unwrap_or_else(default_slots);
        let schedule = schedule(&self.targets, &at_work, &durations, options.fail_fast, *only_tests);
        let with = With {
            engine: self.engine.clone(),
            events: Arc::clone(&telling.events),
            tests: self.testing(&telling.events)?,
            tags: if *only_tests { MovesTags::None } else { MovesTags::But(stay) },
            pulls: self.with_login(pulls).await?,
            secrets: options.secrets.clone(),
            anew: options.force,
        };
        let builder = Builder::new(self.session, prepared, &self.plan, self.lock, &self.inventory, with)?;
        let builder = Arc::new(builder);
        let is_at_work = |row: &&PlannedTarget| at_work.iter().any(|name| name.as_str() == row.name);
        let fresh = self.plan.targets.iter().filter(|row| !is_at_work(row)).count();
        telling.event(&Event::Started { to_build: at_work.len(), fresh, slots });
        let events = Arc::clone(&telling.events);
        let work = dispatch(schedule, builder.clone(), slots, options.cancel.clone(), events);
        let ended = telling
            .during(work, &options.cancel, |event| {
                if let Event::TargetFinished { target, outcome: Outcome::Built { .. }, took } = event {
                    durations.insert(target, *took);
                }
            })
            .await;
        let bad = ended.into_iter().filter(|(_, outcome, _)| !went_well(outcome)).map(|(name, ..)| name);
        let bad: BTreeSet<ImageName> = bad.collect();
        self.move_waiting_tags(&waiting, &bad).await?;
        durations.save();
        Ok(Done { bad, failures: builder.take_failures(), ids: builder.ids() })
    }

    /// Returns what tests are run with; `None` when the plan has none.
    fn testing(&self, events: &EventSender) -> Result<Option<Testing>, Error> {
        if self.plan.targets.iter().all(|row| row.tests == 0) {
            return Ok(None);
        }
        let run = TestRun::begin(&self.session.state)?;
        let tester = Tester::new(self.engine.clone(), self.engine.clone(), Arc::clone(events), run);
        Ok(Some(Testing { tester, record: Arc::clone(&self.way.record) }))
    }

    /// Who pulls, when anything is pulled.
    async fn with_login(&self, requests: BTreeMap<ImageName, Pull>) -> Result<Pulls, Error> {
        let login = match (&self.registry, requests.is_empty()) {
            (Some(registry), false) => registry.engine_login().await?,
            _ => None,
        };
        Ok(Pulls { requests, login, record: Arc::clone(&self.way.record) })
    }

    async fn move_waiting_tags(
        &self,
        waiting: &[FreshTarget],
        bad: &BTreeSet<ImageName>,
    ) -> Result<(), Error> {
        for fresh in waiting {
            let ancestors = self.session.graph.ancestors(&fresh.name);
            if ancestors.iter().all(|ancestor| !bad.contains(*ancestor)) {
                fresh.move_tags(&*self.engine).await?;
            }
        }
        Ok(())
    }

    /// Pushes what went well and promotes what has passed its tests, when that is asked for.
    async fn publish(
        &self,
        done: &Done,
        remotes: BTreeMap<ImageName, Remote>,
        telling: &mut Telling<'_>,
    ) -> Result<Option<Published>, Error> {
        let options = self.way.options;
        let Some(registry) = self.registry.as_ref().filter(|_| options.push) else { return Ok(None) };
        if options.cancel.is_cancelled() {
            return Ok(None);
        }
        let to_publish = self.to_publish(done, remotes);
        let (events, cancel) = (Arc::clone(&telling.events), options.cancel.clone());
        let publishing = Box::pin(self.session.publish(registry, &*self.engine, to_publish, events, cancel));
        match telling.during(publishing, &options.cancel, |_| ()).await {
            Ok(published) => Ok(Some(published)),
            // What has failed before is told as well.
            Err(error) if !done.failures.is_empty() => {
                warn(telling, format!("nothing was promoted: {error}"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn to_publish(&self, done: &Done, remotes: BTreeMap<ImageName, Remote>) -> ToPublish {
        let good: Vec<&Target> =
            self.targets.iter().filter(|target| !done.bad.contains(&target.name)).collect();
        let mut ids = done.ids.clone();
        for target in &good {
            if let Some(held) = self.inventory.holds(&target.name, target.fingerprint) {
                ids.entry(target.name.clone()).or_insert_with(|| held.id.clone());
            }
        }
        let mut known = self.session.tests_known(&self.targets, Ask::Unless(&self.way.record));
        if self.session.trusted().is_none() {
            self.session.tests_passed_elsewhere(&mut known, &remotes);
        }
        let is_selected = |name: &&ImageName| self.plan.targets.iter().any(|row| row.name == name.as_str());
        let has_passed = |name: &&ImageName| known.get(*name).is_none_or(|tests| tests.passed);
        let promoted = good.iter().map(|target| &target.name).filter(is_selected).filter(has_passed).cloned();
        ToPublish { images: self.session.to_push(&good, &ids, &known), promoted: promoted.collect(), remotes }
    }
}

fn went_well(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Built { .. } | Outcome::Same { .. } | Outcome::Tested | Outcome::Pulled { .. })
}

impl Session {
    /// Returns the images that only the registry holds and that are needed here: parents of what is built, what is
    /// tested, and what is selected if that is asked for.
    fn pulls(
        &self,
        prepared: &[Prepared],
        plan: &Plan,
        inventory: &Inventory,
        remotes: &BTreeMap<ImageName, Remote>,
        selected: bool,
    ) -> BTreeMap<ImageName, Pull> {
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
            .filter_map(|target| {
                let remote = remotes.get(&target.name)?;
                let (digest, passed) = (remote.digest.clone(), self.tests_passed_there(&target.name, remote));
                Some((target.name.clone(), Pull { digest, passed }))
            })
            .collect()
    }
}

/// Three for each processor: a build waits for its daemon more than it computes. (On a storage driver without a diff of
/// its own, Docker even sleeps to the next full second for each image, so that file times tell layers apart.)
fn default_slots() -> usize {
    3 * std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

fn schedule(
    targets: &[Target],
    at_work: &BTreeSet<ImageName>,
    durations: &Durations,
    fail_fast: bool,
    only_tests: bool,
) -> Schedule<ImageName> {
    let is_waited_for = |parent: &&ImageName| !only_tests && at_work.contains(*parent);
    let nodes = targets.iter().filter(|target| at_work.contains(&target.name)).map(|target| Node {
        id: target.name.clone(),
        parents: target.parents.iter().filter(is_waited_for).cloned().collect(),
        estimate: durations.of(&target.name),
    });
    Schedule::new(nodes, if fail_fast { Policy::FailFast } else { Policy::KeepGoing })
}
