//! The plan: what the files ask for, beside what the engine and the registry hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use imgforge_core::lock::Lock;
use imgforge_core::name::ImageName;
use imgforge_core::plan::{self, Inventory, Plan, Relocked, Target, Tests};
use imgforge_core::testing::{self, TestsHash};
use imgforge_engine::Host;
use imgforge_registry::Retry;
use rayon::prelude::*;

use crate::build::shortened;
use crate::prepare::{Prepared, Tags};
use crate::registry::{FamilyRegistry, Remote};
use crate::testing::TestRecord;
use crate::{Error, Session};

/// The tests that a plan asks for.
#[derive(Clone, Copy)]
pub(crate) enum Ask<'r> {
    /// None is to be run.
    None,
    /// Those that have not passed are.
    Unless(&'r TestRecord),
    /// All are.
    All,
}

/// A plan and what it was made from.
pub(crate) struct Planned {
    pub(crate) prepared: Vec<Prepared>,
    pub(crate) inventory: Inventory,
    pub(crate) plan: Plan,
    pub(crate) engine: Arc<dyn Host>,
    /// The registry, when it was asked.
    pub(crate) registry: Option<FamilyRegistry>,
    /// The images of the registry, for the targets that it was asked for.
    pub(crate) remotes: BTreeMap<ImageName, Remote>,
    pub(crate) hashed: Duration,
    pub(crate) asked: Duration,
}

/// The variable that keeps builds from asking the registry, as `--local` does.
const LOCAL_VARIABLE: &str = "IMGFORGE_LOCAL";

/// The images that the registry is asked for.
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
    /// Returns what would be done for `selected`, and why. Asks the engine once what it holds, and the registry for
    /// what the engine lacks unless only what is `local` counts; changes nothing.
    ///
    /// # Errors
    /// Problems of manifests and files, a lock that does not fit, an engine that cannot be reached.
    pub fn plan(&self, selected: &BTreeSet<ImageName>, force: bool, local: bool) -> Result<Plan, Error> {
        let lock = self.read_lock()?;
        self.check_lock(&lock)?;
        let record = TestRecord::load(&self.state);
        let registry = if local { AskRegistry::No } else { AskRegistry::ForMissing };
        let planned = self.planned(selected, &lock, &[], Ask::Unless(&record), registry, force);
        Ok(self.runtime()?.block_on(planned)?.plan)
    }

    /// Returns what is known of the tests of each target.
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
        // Who only tests moves no tag.
        let tags = if matches!(ask, Ask::All) { Tags::LeftOut } else { Tags::Needed };
        let prepared = tokio::task::block_in_place(|| self.prepare_with(selected, lock, relocked, tags))?;
        let hashed = started.elapsed();
        let (engine, mut inventory, asked) = asking.await.expect("asking does not panic")?;
        let targets: Vec<_> = prepared.iter().map(|prepared| prepared.target.clone()).collect();
        let trusted = self.trusted();
        if let Some(built) = &trusted {
            built.distrust(&mut inventory);
        }
        let mut warnings = opened_keys(&prepared);
        warnings.extend(self.key_warning());
        let (registry, mut remotes) = match self.ask_registry(&targets, &mut inventory, ask_registry).await {
            Ok(found) => found,
            Err(error @ Error::Registry(_)) if ask_registry == AskRegistry::ForMissing => {
                warnings.push(format!("{error}; only what the engine holds is taken for fresh"));
                (None, BTreeMap::new())
            }
            Err(error) => return Err(error),
        };
        if let Some(built) = &trusted {
            let others = built.retain(&mut remotes);
            if !others.is_empty() {
                let names = shortened(&others);
                warnings.push(format!(
                    "what the registry has of {names} does not count: it was not built here, and the workspace says trust \"built-here\""
                ));
            }
        }
        for (name, remote) in &remotes {
            inventory.insert_pushed(name.as_str(), remote.pushed());
        }
        let mut known = self.tests_known(&targets, ask);
        if matches!(ask, Ask::Unless(_)) && trusted.is_none() {
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
            tests.passed =
                remotes.get(name).is_some_and(|remote| self.tests_passed_there(name, remote).is_some());
        }
    }

    /// The tests of an image, when just these had passed where it was pushed from.
    pub(crate) fn tests_passed_there(&self, name: &ImageName, remote: &Remote) -> Option<TestsHash> {
        let said = remote.tests()?;
        let hash = self.tests_hash(name, &testing::of(&self.workspace, &self.graph, name));
        (said == hex::encode(hash.as_bytes())).then_some(hash)
    }
}

/// Warnings of private keys that become readable for all.
fn opened_keys(prepared: &[Prepared]) -> Vec<String> {
    let of = |prepared: &Prepared| {
        let name = prepared.target.name.clone();
        let tell = move |path: &Utf8PathBuf| {
            format!(
                "{name}: {path} is a private key that only its owner can read here; git tracks it and keeps no such \
                 mode, so that everyone can read it in the image (say which mode it gets there, or keep it out of git)"
            )
        };
        prepared.build.opened_keys.iter().map(tell).collect::<Vec<_>>()
    };
    prepared.iter().flat_map(of).collect()
}
