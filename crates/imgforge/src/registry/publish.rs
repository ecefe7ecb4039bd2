//! From images in the engine to images in the registry, and release tags that lead to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imgforge_core::event::{Event, Reporter};
use imgforge_core::name::ImageName;
use imgforge_core::plan::{Target, Tests};
use imgforge_core::testing;
use imgforge_engine::{CancellationToken, Engine, EventSender};
use imgforge_oci::Digest;
use tokio::runtime::Runtime;

use crate::build::planned::{Ask, AskRegistry};
use crate::build::while_telling;
use crate::registry::promote::{OldBase, Promotion, Promotions};
use crate::registry::push::{PushOutcome, ToPush, push};
use crate::registry::records::Unread;
use crate::registry::{FamilyRegistry, Remote};
use crate::testing::TestRecord;
use crate::{Error, Session, built};

/// The images that are to be in the registry, and those whose release tags are to lead there.
pub(crate) struct ToPublish {
    /// Parents first; all ancestors are among them, unless they have failed.
    pub(crate) images: Vec<ToPush>,
    /// Parents first.
    pub(crate) promoted: Vec<ImageName>,
    /// The images that are there already.
    pub(crate) remotes: BTreeMap<ImageName, Remote>,
}

/// The outcome of pushing and promoting.
#[derive(Debug, Default)]
pub struct Published {
    /// Images that were not in the registry before, and are now.
    pub pushed: BTreeSet<ImageName>,
    /// The digest of each image that is in the registry now.
    pub digests: BTreeMap<ImageName, String>,
    /// Images that could not be pushed, and why.
    pub failures: Vec<(ImageName, String)>,
    /// The promotion.
    pub promotion: Promotion,
    /// The traffic of all this.
    pub traffic: imgforge_registry::Traffic,
}

impl Published {
    /// Returns whether anything is not as it was before.
    pub fn did_something(&self) -> bool {
        !self.pushed.is_empty() || !self.promotion.moves.is_empty() || !self.failures.is_empty()
    }
}

/// The options of a push or promotion on its own.
#[derive(Debug, Clone, Default)]
pub struct PublishOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Cancelled to stop.
    pub cancel: CancellationToken,
}

impl Session {
    /// Returns what a push has to know of each target.
    pub(crate) fn to_push(
        &self,
        targets: &[&Target],
        ids: &BTreeMap<ImageName, Digest>,
        tests: &BTreeMap<ImageName, Tests>,
    ) -> Vec<ToPush> {
        let of = |target: &&Target| {
            let base = self.workspace.images[&target.name].base.clone();
            let others = target.parents.iter().filter(|parent| Some(*parent) != base.as_ref()).cloned();
            let parents = base.clone().into_iter().chain(others).collect();
            let passed = tests.get(&target.name).is_some_and(|tests| tests.passed && tests.count > 0);
            let hash = passed.then(|| {
                let asked = testing::of(&self.workspace, &self.graph, &target.name);
                hex::encode(self.tests_hash(&target.name, &asked).as_bytes())
            });
            ToPush {
                name: target.name.clone(),
                fingerprint: target.fingerprint,
                parents,
                id: ids.get(&target.name).cloned(),
                tests: hash,
            }
        };
        targets.iter().map(of).collect()
    }

    /// Pushes what is not there, and then moves the release tags of what is there with all that it stands on.
    pub(crate) async fn publish(
        &self,
        registry: &FamilyRegistry,
        engine: &dyn Engine,
        what: ToPublish,
        events: EventSender,
        cancel: CancellationToken,
    ) -> Result<Published, Error> {
        let ToPublish { images, promoted, remotes } = what;
        if images.iter().any(|image| !remotes.contains_key(&image.name)) {
            let about = images.iter().map(|image| (image.name.clone(), image.fingerprint.content_tag()));
            // Before anything of it is there, and before what is there is needed.
            registry.record_pushes(about).await?;
        }
        let folder = self.state.folder("push")?;
        let pushing = push(registry, engine, &images, remotes, &folder, Arc::clone(&events), cancel.clone());
        let PushOutcome { remotes, pushed, own, failures } = pushing.await?;
        for (name, (id, config)) in &own {
            built::remember_config(&self.state, name, remotes[name].fingerprint, id, config);
        }
        if cancel.is_cancelled() {
            return Err(Error::Interrupted);
        }
        let is_whole = |name: &&ImageName| {
            remotes.contains_key(*name)
                && self.graph.ancestors(name).iter().all(|ancestor| remotes.contains_key(*ancestor))
        };
        let whole: Vec<ImageName> = promoted.iter().filter(is_whole).cloned().collect();
        let promotion = self.promote_remotes(registry, &whole, &remotes, false, &events).await?;
        Ok(Published {
            digests: remotes.iter().map(|(name, remote)| (name.clone(), remote.digest.to_string())).collect(),
            pushed,
            failures: failures.into_iter().map(|(name, error)| (name, with_help(&error))).collect(),
            promotion,
            traffic: registry.client.sent(),
        })
    }

    /// Pushes those of `selected`, and what they stand on, that the registry lacks. Builds nothing, and moves no
    /// release tag.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] for images that neither the engine nor the registry holds; a registry that cannot be
    /// reached.
    pub fn push(
        &self,
        selected: &BTreeSet<ImageName>,
        options: &PublishOptions,
        reporter: &mut dyn Reporter,
    ) -> Result<Published, Error> {
        let lock = self.read_lock()?;
        self.check_lock(&lock)?;
        let all = self.with_ancestors(selected);
        let record = TestRecord::load(&self.state);
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let events: EventSender = Arc::new(move |event| drop(sender.send(event)));
        self.runtime()?.block_on(async {
            let ask = Ask::Unless(&record);
            let planned = self.planned(&all, &lock, &[], ask, AskRegistry::ForAll, false).await?;
            for message in &planned.plan.warnings {
                reporter.event(&Event::Warning { message: message.clone() });
            }
            let absent: Vec<String> = planned.plan.to_build().map(|row| row.name.clone()).collect();
            if !absent.is_empty() {
                return Err(Error::NotBuilt { images: absent });
            }
            let registry = planned.registry.ok_or(Error::NoRegistry)?;
            let targets: Vec<&Target> = planned.prepared.iter().map(|prepared| &prepared.target).collect();
            let held = |target: &&Target| {
                let held = planned.inventory.holds(&target.name, target.fingerprint)?;
                Some((target.name.clone(), held.id.clone()))
            };
            let ids = targets.iter().filter_map(held).collect();
            let owned: Vec<Target> = targets.iter().map(|target| (*target).clone()).collect();
            let tests = self.tests_known(&owned, ask);
            let images = self.to_push(&targets, &ids, &tests);
            if options.dry_run {
                let missing = images.iter().filter(|image| !planned.remotes.contains_key(&image.name));
                let pushed = missing.map(|image| image.name.clone()).collect();
                return Ok(Published { pushed, ..Published::default() });
            }
            let what = ToPublish { images, promoted: Vec::new(), remotes: planned.remotes };
            let cancel = options.cancel.clone();
            let publishing = self.publish(&registry, &*planned.engine, what, events, cancel);
            while_telling(publishing, &mut receiver, &options.cancel, |event| reporter.event(event)).await
        })
    }

    /// Moves the release tags of `selected` in the registry to the images that the workspace describes, which must be
    /// there and have passed their tests. Needs no engine.
    ///
    /// # Errors
    /// [`Error::NotPushed`], [`Error::NotTested`]; a registry that cannot be reached.
    pub fn promote(
        &self,
        selected: &BTreeSet<ImageName>,
        options: &PublishOptions,
        reporter: &mut dyn Reporter,
    ) -> Result<Promotion, Error> {
        let lock = self.read_lock()?;
        self.check_lock(&lock)?;
        let prepared = self.prepare(selected, &lock, &[])?;
        let targets: Vec<Target> = prepared.into_iter().map(|prepared| prepared.target).collect();
        let record = TestRecord::load(&self.state);
        let registry = self.needed_registry()?;
        telling(self.runtime()?, options, reporter, async |events| {
            if let Some(message) = self.key_warning() {
                events(Event::Warning { message });
            }
            let wanted = targets.iter().map(|target| (target.name.clone(), target.fingerprint));
            let mut remotes = registry.contents(wanted).await?;
            let mut tests = self.tests_known(&targets, Ask::Unless(&record));
            match self.trusted() {
                None => self.tests_passed_elsewhere(&mut tests, &remotes),
                Some(built) => {
                    let images = built.retain(&mut remotes);
                    if images.iter().any(|image| selected.iter().any(|name| name.as_str() == image)) {
                        return Err(Error::NotBuiltHere { images });
                    }
                }
            }
            let untested: Vec<String> = tests
                .iter()
                .filter(|(name, tests)| {
                    selected.contains(*name) && remotes.contains_key(*name) && !tests.passed
                })
                .map(|(name, _)| name.to_string())
                .collect();
            if !untested.is_empty() {
                return Err(Error::NotTested { images: untested });
            }
            let selected = self.parents_first(selected);
            self.promote_remotes(&registry, &selected, &remotes, options.dry_run, &events).await
        })
    }

    /// Brings the release tags of `selected` back to where an earlier promotion left them: the one with this id, or the
    /// one before that which stands now.
    ///
    /// # Errors
    /// [`Error::NoPromotion`]; images that are not in the registry any more; a registry that cannot be reached.
    pub fn rollback(
        &self,
        selected: &BTreeSet<ImageName>,
        to: Option<&str>,
        options: &PublishOptions,
        reporter: &mut dyn Reporter,
    ) -> Result<Promotion, Error> {
        let registry = self.needed_registry()?;
        let selected = self.parents_first(selected);
        telling(self.runtime()?, options, reporter, async |events| {
            self.roll_back(&registry, &selected, to, options.dry_run, &events).await
        })
    }

    /// The release tags in the registry that lead to images on an old parent. Only the registry is asked.
    ///
    /// # Errors
    /// [`Error::NoRegistry`]; a registry that cannot be reached.
    pub fn outdated_in_registry(&self) -> Result<Vec<OldBase>, Error> {
        let registry = self.needed_registry()?;
        self.runtime()?.block_on(self.old_bases(&registry))
    }

    /// The records of all promotions, the oldest first.
    ///
    /// # Errors
    /// A registry that cannot be reached.
    pub fn promotions(&self) -> Result<Promotions, Error> {
        let registry = self.needed_registry()?;
        let known = self.runtime()?.block_on(self.records(&registry))?;
        let warnings = known.unread.iter().map(Unread::warning).collect();
        Ok(Promotions { records: known.records, warnings })
    }

    fn with_ancestors(&self, selected: &BTreeSet<ImageName>) -> BTreeSet<ImageName> {
        let mut all = selected.clone();
        all.extend(selected.iter().flat_map(|name| self.graph.ancestors(name)).cloned());
        all
    }

    fn parents_first(&self, selected: &BTreeSet<ImageName>) -> Vec<ImageName> {
        self.graph.topological().filter(|name| selected.contains(*name)).cloned().collect()
    }
}

/// Does something with the registry, and gives its events to the reporter meanwhile.
fn telling<T>(
    runtime: &Runtime,
    options: &PublishOptions,
    reporter: &mut dyn Reporter,
    work: impl AsyncFnOnce(EventSender) -> Result<T, Error>,
) -> Result<T, Error> {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<Event>();
    let events: EventSender = Arc::new(move |event| drop(sender.send(event)));
    runtime.block_on(async {
        let work = async {
            tokio::select! {
                done = work(events) => done,
                () = options.cancel.cancelled() => Err(Error::Interrupted),
            }
        };
        while_telling(work, &mut receiver, &options.cancel, |event| reporter.event(event)).await
    })
}

/// An error and what to do about it.
fn with_help(error: &Error) -> String {
    match error.help() {
        Some(help) => format!("{error}; {help}"),
        None => error.to_string(),
    }
}
