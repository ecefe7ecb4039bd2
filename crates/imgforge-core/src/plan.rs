//! For every selected target one action and its reasons: fingerprints compared with what engines hold.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;

use crate::fingerprint::{Fingerprint, InputChange, InputKind, InputManifest, RecordedInputs};
use crate::name::ImageName;

/// The version of the plan's JSON shape.
pub const VERSION: u32 = 1;

/// An image that an engine holds, as its labels describe it.
#[derive(Debug, Clone)]
pub struct Held {
    /// The engine's id of the image.
    pub id: String,
    /// The whole fingerprint, from its label.
    pub fingerprint: Fingerprint,
    /// The inputs it was built from, from its label; `None` when the label is not readable.
    pub inputs: Option<RecordedInputs>,
    /// Its references (`name:tag`).
    pub references: BTreeSet<String>,
    /// When it was made, in seconds since 1970: decides only which image reasons compare with.
    pub created: i64,
    /// Whether its build was finished, checked and named by its content tag. One that is not (a run was killed, or a
    /// hand-made child inherited the labels) is never taken for the target: it only says what changed.
    pub complete: bool,
}

/// An image that the registry holds under its content tag, as its manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The whole fingerprint, from its annotation.
    pub fingerprint: Fingerprint,
    /// The digest of its manifest.
    pub digest: String,
}

/// What engines and registries hold, by image name.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    images: BTreeMap<String, Vec<Held>>,
    pushed: BTreeMap<String, Pushed>,
}

impl Inventory {
    /// Adds an image held under `name`.
    pub fn insert(&mut self, name: impl Into<String>, held: Held) {
        self.images.entry(name.into()).or_default().push(held);
    }

    /// The complete image of exactly this fingerprint. Of several (the same target built twice), the newest.
    pub fn holds(&self, name: &ImageName, fingerprint: Fingerprint) -> Option<&Held> {
        self.of(name)
            .iter()
            .filter(|held| held.complete && held.fingerprint == fingerprint)
            .max_by_key(|held| (held.created, &held.id))
    }

    /// All that engines hold, with the image's name.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Held)> {
        self.images.iter().flat_map(|(name, held)| held.iter().map(move |held| (name.as_str(), held)))
    }

    /// Whether any image of this name is held, of whatever fingerprint.
    pub fn knows(&self, name: &ImageName) -> bool {
        !self.of(name).is_empty()
    }

    /// Notes what the registry holds for a target of the image `name`.
    pub fn insert_pushed(&mut self, name: impl Into<String>, pushed: Pushed) {
        self.pushed.insert(name.into(), pushed);
    }

    /// The image of exactly this fingerprint in the registry.
    pub fn pushed(&self, name: &ImageName, fingerprint: Fingerprint) -> Option<&Pushed> {
        self.pushed.get(name.as_str()).filter(|pushed| pushed.fingerprint == fingerprint)
    }

    /// Whether there is a complete image of exactly this fingerprint anywhere.
    fn has(&self, target: &Target) -> bool {
        self.holds(&target.name, target.fingerprint).is_some()
            || self.pushed(&target.name, target.fingerprint).is_some()
    }

    /// The image that a changed target is compared with: the one that has a release tag, else the newest.
    fn predecessor(&self, target: &Target) -> Option<&Held> {
        let released = |held: &Held| target.release_references.iter().any(|r| held.references.contains(r));
        self.of(&target.name).iter().max_by_key(|held| (released(held), held.created, &held.id))
    }

    fn of(&self, name: &ImageName) -> &[Held] {
        self.images.get(name.as_str()).map_or(&[], Vec::as_slice)
    }
}

/// A target whose inputs are known.
#[derive(Debug, Clone)]
pub struct Target {
    /// The image.
    pub name: ImageName,
    /// The platform, as `linux/amd64`.
    pub platform: String,
    /// Everything it is made of.
    pub inputs: InputManifest,
    /// The hash over `inputs`.
    pub fingerprint: Fingerprint,
    /// Parents, each once.
    pub parents: BTreeSet<ImageName>,
    /// The release tags' full references.
    pub release_references: Vec<String>,
    /// The text of each Dockerfile instruction, to name those that changed.
    pub instructions: Vec<String>,
    /// Locked packages that were locked anew in this run because nobody serves the old version any more.
    pub relocked: Vec<Relocked>,
    /// Of its package inputs, the names (`NAME:ARCHITECTURE`) of those that come from a security suite.
    pub security: BTreeSet<String>,
}

/// A package that was locked anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Relocked {
    /// Its name.
    pub package: String,
    /// The version that nobody serves any more.
    pub old: String,
    /// The version locked instead.
    pub new: String,
}

/// What will be done with a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Selected, and no image of its fingerprint is held.
    Build,
    /// An image of its fingerprint is held.
    Fresh,
    /// Not selected, but must be built for a child.
    Required,
    /// Cannot be built, because of something named in its reasons.
    Blocked,
}

/// Why a target is built. Each has what was and what is; there is no row for "something".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reason {
    /// No image of this name is held.
    NeverBuilt {
        /// Always null.
        old: Option<Fingerprint>,
        /// The fingerprint to build.
        new: Fingerprint,
    },
    /// Images of this name are held, but the one to compare with carries no readable list of inputs.
    NoRecord {
        /// The fingerprint of the held image.
        old: Fingerprint,
        /// The fingerprint to build.
        new: Fingerprint,
    },
    /// It was asked to be built whatever is held.
    Forced {
        /// The fingerprint of the held image, if there is one.
        old: Option<Fingerprint>,
        /// The fingerprint to build.
        new: Fingerprint,
    },
    /// A file, folder or link of the context is not what it was.
    File {
        /// Its path in the context.
        path: String,
        /// What it was (a shortened hash, `x` for executable), or null when it was not there.
        old: Option<String>,
        /// What it is, or null when it is gone.
        new: Option<String>,
    },
    /// The Dockerfile says something else.
    Dockerfile {
        /// The shortened hash it had.
        old: Option<String>,
        /// The shortened hash it has.
        new: Option<String>,
        /// Instructions that were not in the old one.
        added: Vec<String>,
        /// How many instructions of the old one are gone.
        removed: usize,
    },
    /// A parent's fingerprint changed.
    Parent {
        /// The parent.
        name: String,
        /// Its fingerprint then, shortened, or null when it was no parent.
        old: Option<String>,
        /// Its fingerprint now, shortened, or null when it is no parent any more.
        new: Option<String>,
    },
    /// A locked package came, went or has another version.
    Package {
        /// `NAME:ARCHITECTURE`.
        name: String,
        /// Version and shortened SHA-256 then.
        old: Option<String>,
        /// Version and shortened SHA-256 now.
        new: Option<String>,
        /// Whether it moved to a version that comes from a security suite.
        security: bool,
    },
    /// A package was locked anew, since nobody serves the locked version any more.
    Relocked(Relocked),
    /// An external image's digest changed.
    External {
        /// The reference.
        name: String,
        /// The digest then.
        old: Option<String>,
        /// The digest now.
        new: Option<String>,
    },
    /// Something set from outside the Dockerfile changed: a build argument, a label, the platform, the network,
    /// or what imgforge itself does.
    Setting {
        /// Which kind of input.
        setting: InputKind,
        /// Its name.
        name: String,
        /// What it was; arguments and labels as a hash.
        old: Option<String>,
        /// What it is.
        new: Option<String>,
    },
}

/// One row of a plan.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct PlannedTarget {
    /// The image.
    pub name: String,
    /// `IMAGE@PLATFORM`: what is built.
    pub target: String,
    /// What will be done.
    pub action: Action,
    /// The target's fingerprint.
    pub fingerprint: Fingerprint,
    /// The engine's id of the image held, for `fresh`; null when only the registry holds it.
    pub id: Option<String>,
    /// The digest of its manifest in the registry, for `fresh`, where the registry was asked and holds it.
    pub digest: Option<String>,
    /// Why; empty for `fresh`.
    pub reasons: Vec<Reason>,
    /// How many tests will be run: none where it has none, and none for `fresh` when they have passed.
    pub tests: usize,
}

/// What is known of a target's tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tests {
    /// How many it has.
    pub count: usize,
    /// Whether they have passed for an image of its fingerprint.
    pub passed: bool,
}

/// What will be done: every selected target, and those that are required for them, parents first.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Plan {
    /// [`VERSION`].
    pub version: u32,
    /// In an order in which they could be built one after another.
    pub targets: Vec<PlannedTarget>,
    /// What could not be asked, in a line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl PlannedTarget {
    /// Whether it will be built.
    pub fn is_built(&self) -> bool {
        matches!(self.action, Action::Build | Action::Required)
    }
}

impl Plan {
    /// The targets that will be built.
    pub fn to_build(&self) -> impl Iterator<Item = &PlannedTarget> {
        self.targets.iter().filter(|target| target.is_built())
    }

    /// The targets that there is work on: those that will be built, and those that are there and will be tested.
    pub fn to_do(&self) -> impl Iterator<Item = &PlannedTarget> {
        self.targets.iter().filter(|target| target.is_built() || target.tests > 0)
    }
}

/// Makes the plan for `selected` of `targets` (which are in topological order, parents first, and hold every
/// ancestor of what is selected). What is there and whose `tests` have not passed is tested; an image that is not
/// selected is so only when something is done to what stands on it.
pub fn plan(
    targets: &[Target],
    selected: &BTreeSet<ImageName>,
    inventory: &Inventory,
    tests: &dyn Fn(&Target) -> Tests,
    force: bool,
) -> Plan {
    let mut needed: BTreeSet<&ImageName> = BTreeSet::new();
    for target in targets.iter().rev() {
        let is_selected = selected.contains(&target.name);
        let build = (is_selected && force) || !inventory.has(target);
        let is_wanted = is_selected || needed.contains(&target.name);
        if is_wanted && (build || untested(tests(target)) > 0) {
            needed.insert(&target.name);
            needed.extend(&target.parents);
        }
    }
    let mut rows = Vec::new();
    for target in targets {
        let is_selected = selected.contains(&target.name);
        let held = inventory.holds(&target.name, target.fingerprint);
        let pushed = inventory.pushed(&target.name, target.fingerprint);
        let action = match inventory.has(target) {
            true if !(force && is_selected) => Action::Fresh,
            _ if is_selected => Action::Build,
            _ if needed.contains(&target.name) => Action::Required,
            _ => continue,
        };
        let tests = if action == Action::Fresh { untested(tests(target)) } else { tests(target).count };
        if action == Action::Fresh && !is_selected && (tests == 0 || !needed.contains(&target.name)) {
            continue;
        }
        let reasons = match action {
            Action::Fresh => Vec::new(),
            _ if inventory.has(target) => {
                vec![Reason::Forced { old: Some(target.fingerprint), new: target.fingerprint }]
            }
            _ => reasons(target, inventory.predecessor(target)),
        };
        rows.push(PlannedTarget {
            name: target.name.to_string(),
            target: format!("{}@{}", target.name, target.platform),
            action,
            fingerprint: target.fingerprint,
            id: held.filter(|_| action == Action::Fresh).map(|held| held.id.clone()),
            digest: pushed.filter(|_| action == Action::Fresh).map(|pushed| pushed.digest.clone()),
            reasons,
            tests,
        });
    }
    Plan { version: VERSION, targets: rows, warnings: Vec::new() }
}

/// How many tests are run for an image that is there.
fn untested(tests: Tests) -> usize {
    if tests.passed { 0 } else { tests.count }
}

fn reasons(target: &Target, predecessor: Option<&Held>) -> Vec<Reason> {
    let new = target.fingerprint;
    let Some(held) = predecessor else { return vec![Reason::NeverBuilt { old: None, new }] };
    let changes =
        held.inputs.as_ref().map(|recorded| target.inputs.changes_since(recorded)).unwrap_or_default();
    if changes.is_empty() {
        // Either the label is unreadable, or two different hashes share their first 64 bits.
        return vec![Reason::NoRecord { old: held.fingerprint, new }];
    }
    let mut reasons: Vec<Reason> = target.relocked.iter().cloned().map(Reason::Relocked).collect();
    let is_relocked = |name: &str| target.relocked.iter().any(|r| name.split(':').next() == Some(&r.package));
    reasons.extend(
        changes
            .into_iter()
            .filter(|change| change.kind != InputKind::Package || !is_relocked(&change.name))
            .map(|change| reason(target, change)),
    );
    reasons
}

fn reason(target: &Target, change: InputChange) -> Reason {
    let InputChange { kind, name, old, new } = change;
    match kind {
        InputKind::File | InputKind::Folder | InputKind::Link => Reason::File { path: name, old, new },
        InputKind::Dockerfile => dockerfile_reason(target, old.as_deref(), new.as_deref()),
        InputKind::Package => {
            let security = old.is_some() && target.security.contains(&name);
            Reason::Package { name, old, new, security }
        }
        InputKind::Parent => Reason::Parent { name, old, new },
        InputKind::External => Reason::External { name, old, new },
        InputKind::Format
        | InputKind::Platform
        | InputKind::Network
        | InputKind::Layers
        | InputKind::Installer
        | InputKind::Arg
        | InputKind::Label => Reason::Setting { setting: kind, name, old, new },
    }
}

/// The record is the hash of the file and then one short hash an instruction; see
/// [`InputManifest::insert_dockerfile`].
fn dockerfile_reason(target: &Target, old: Option<&str>, new: Option<&str>) -> Reason {
    let words = |text: Option<&str>| text.unwrap_or("").split(' ').map(str::to_owned).collect::<Vec<_>>();
    let (old_words, new_words) = (words(old), words(new));
    let mut left: Vec<&String> = old_words.iter().skip(1).collect();
    let mut added = Vec::new();
    for (hash, text) in new_words.iter().skip(1).zip(&target.instructions) {
        match left.iter().position(|old| *old == hash) {
            Some(at) => drop(left.remove(at)),
            None => added.push(text.clone()),
        }
    }
    let head = |text: Option<&str>| text.and_then(|t| t.split(' ').next()).map(str::to_owned);
    Reason::Dockerfile { old: head(old), new: head(new), added, removed: left.len() }
}

impl Reason {
    /// As its text, with another path for the file that it is about.
    #[must_use]
    pub fn with_path(&self, path: &str) -> String {
        match self {
            Self::File { old, new, .. } => {
                Self::File { path: path.to_owned(), old: old.clone(), new: new.clone() }.to_string()
            }
            other => other.to_string(),
        }
    }
}

impl std::fmt::Display for Reason {
    /// A short clause for people, without the image's name: `nginx.conf changed`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verb = |old: &Option<String>, new: &Option<String>| match (old, new) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "changed",
        };
        match self {
            Self::NeverBuilt { .. } => f.write_str("never built"),
            Self::NoRecord { .. } => f.write_str("the image held does not say what it was built from"),
            Self::Forced { .. } => f.write_str("forced"),
            Self::File { path, old, new } => write!(f, "{path} {}", verb(old, new)),
            Self::Dockerfile { added, removed, .. } => match added.as_slice() {
                [] if *removed == 0 => f.write_str("instructions reordered"),
                [] => write!(f, "{removed} instruction{} removed", if *removed == 1 { "" } else { "s" }),
                [one] => write!(f, "instructions changed (+1 -{removed}): {}", first_line(one)),
                [first, ..] => {
                    write!(f, "instructions changed (+{} -{removed}): {}, …", added.len(), first_line(first))
                }
            },
            Self::Parent { name, old, new } => match verb(old, new) {
                "changed" => write!(f, "parent {name}"),
                other => write!(f, "parent {name} {other}"),
            },
            Self::Package { name, old, new, security } => {
                let mark = if *security { " (security)" } else { "" };
                let name = name.split(':').next().unwrap_or(name);
                let version = |text: &Option<String>| {
                    text.as_deref().and_then(|t| t.split(' ').next()).map(str::to_owned)
                };
                match (version(old), version(new)) {
                    (Some(old), Some(new)) => write!(f, "package {name} {old} -> {new}{mark}"),
                    (None, Some(new)) => write!(f, "package {name} {new} added"),
                    (Some(old), None) => write!(f, "package {name} {old} removed"),
                    (None, None) => write!(f, "package {name}"),
                }
            }
            Self::Relocked(r) => {
                write!(f, "package {} {} is not served any more, locked {} instead", r.package, r.old, r.new)
            }
            Self::External { name, old, new } => write!(f, "external {name} {}", verb(old, new)),
            Self::Setting { setting: InputKind::Format, .. } => {
                f.write_str("this imgforge builds it differently")
            }
            Self::Setting { setting: InputKind::Installer, .. } => {
                f.write_str("this imgforge installs packages differently")
            }
            Self::Setting { setting, name, old, new } if setting.as_str() == name => {
                write!(
                    f,
                    "{name} {} -> {}",
                    old.as_deref().unwrap_or("none"),
                    new.as_deref().unwrap_or("none")
                )
            }
            Self::Setting { setting, name, old, new } => {
                write!(f, "{} {name} {}", setting.as_str(), verb(old, new))
            }
        }
    }
}

/// At most 60 characters of the first line.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or("");
    match line.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn no_tests(_: &Target) -> Tests {
        Tests::default()
    }

    /// A family as indexes of parents, each smaller than its own index.
    fn family(parents: &[Vec<usize>], salt: &[u8]) -> Vec<Target> {
        let mut targets: Vec<Target> = Vec::new();
        for (n, ps) in parents.iter().enumerate() {
            let mut inputs = InputManifest::default();
            inputs.insert(InputKind::Format, "imgforge", "1");
            inputs.insert(InputKind::File, "file", salt[n].to_string());
            for p in ps {
                inputs.insert(
                    InputKind::Parent,
                    targets[*p].name.as_str(),
                    targets[*p].fingerprint.to_string(),
                );
            }
            targets.push(Target {
                name: ImageName::new(format!("i{n}")).unwrap(),
                platform: "linux/amd64".into(),
                fingerprint: inputs.fingerprint(),
                inputs,
                parents: ps.iter().map(|p| targets[*p].name.clone()).collect(),
                release_references: vec![format!("i{n}:latest")],
                instructions: vec![],
                relocked: vec![],
                security: BTreeSet::new(),
            });
        }
        targets
    }

    fn held_all(targets: &[Target]) -> Inventory {
        let mut inventory = Inventory::default();
        for (n, t) in targets.iter().enumerate() {
            inventory.insert(
                t.name.as_str(),
                Held {
                    id: format!("sha256:{n}"),
                    fingerprint: t.fingerprint,
                    inputs: InputManifest::from_label(&t.inputs.to_label()),
                    references: [format!("{}:latest", t.name)].into(),
                    created: 0,
                    complete: true,
                },
            );
        }
        inventory
    }

    fn names(plan: &Plan, action: Action) -> BTreeSet<String> {
        plan.targets.iter().filter(|t| t.action == action).map(|t| t.name.clone()).collect()
    }

    fn all(targets: &[Target]) -> BTreeSet<ImageName> {
        targets.iter().map(|t| t.name.clone()).collect()
    }

    fn any_family() -> impl Strategy<Value = Vec<Vec<usize>>> {
        (1..12usize).prop_flat_map(|size| {
            (0..size)
                .map(|n| {
                    proptest::collection::btree_set(0..n.max(1), 0..=n.min(3))
                        .prop_map(move |s| s.into_iter().filter(|p| *p < n).collect())
                })
                .collect::<Vec<_>>()
        })
    }

    proptest! {
        #[test]
        fn a_change_builds_exactly_the_image_and_its_descendants(parents in any_family(), at in any::<prop::sample::Index>()) {
            let mut salt = vec![0; parents.len()];
            let inventory = held_all(&family(&parents, &salt));
            let changed = at.index(parents.len());
            salt[changed] = 1;
            let now = family(&parents, &salt);
            let plan = plan(&now, &all(&now), &inventory, &no_tests, false);
            let mut expected = BTreeSet::from([changed]);
            for (n, ps) in parents.iter().enumerate() {
                if ps.iter().any(|p| expected.contains(p)) { expected.insert(n); }
            }
            prop_assert_eq!(names(&plan, Action::Build), expected.iter().map(|n| format!("i{n}")).collect::<BTreeSet<_>>());
            for row in plan.to_build() {
                prop_assert!(!row.reasons.is_empty());
                let expected_kinds = row.reasons.iter().all(|r| matches!(r, Reason::File { .. } | Reason::Parent { .. }));
                prop_assert!(expected_kinds, "{:?}", row.reasons);
            }
        }

        #[test]
        fn what_is_not_selected_is_built_only_for_a_child(parents in any_family(), select in any::<prop::sample::Index>()) {
            let now = family(&parents, &vec![0; parents.len()]);
            let chosen = select.index(parents.len());
            let plan = plan(&now, &[now[chosen].name.clone()].into(), &Inventory::default(), &no_tests, false);
            let mut ancestors = BTreeSet::new();
            for n in (0..=chosen).rev() {
                if n == chosen || ancestors.contains(&n) { ancestors.extend(parents[n].iter().copied()); }
            }
            prop_assert_eq!(names(&plan, Action::Required), ancestors.iter().map(|n| format!("i{n}")).collect::<BTreeSet<_>>());
            prop_assert_eq!(names(&plan, Action::Build), BTreeSet::from([format!("i{chosen}")]));
        }
    }

    #[test]
    fn a_fresh_child_does_not_need_its_missing_parent() {
        let now = family(&[vec![], vec![0]], &[0, 0]);
        let mut inventory = held_all(&now);
        inventory.images.remove("i0");
        let plan = plan(&now, &[now[1].name.clone()].into(), &inventory, &no_tests, false);
        assert_eq!(
            plan.targets.iter().map(|t| (t.name.as_str(), t.action)).collect::<Vec<_>>(),
            [("i1", Action::Fresh)]
        );
    }

    #[test]
    fn a_held_image_without_a_readable_record_is_said_to_be_so() {
        let before = family(&[vec![]], &[0]);
        let mut inventory = held_all(&before);
        inventory.images.get_mut("i0").unwrap()[0].inputs = None;
        let now = family(&[vec![]], &[1]);
        let plan = plan(&now, &all(&now), &inventory, &no_tests, false);
        assert!(matches!(plan.targets[0].reasons[..], [Reason::NoRecord { .. }]));
    }

    #[test]
    fn an_incomplete_image_is_not_held_but_says_what_changed() {
        let mut inventory = held_all(&family(&[vec![]], &[0]));
        inventory.images.get_mut("i0").unwrap()[0].complete = false;
        let same = family(&[vec![]], &[0]);
        assert!(inventory.holds(&same[0].name, same[0].fingerprint).is_none());
        let now = family(&[vec![]], &[1]);
        let plan = plan(&now, &all(&now), &inventory, &no_tests, false);
        assert!(matches!(&plan.targets[0].reasons[..], [Reason::File { path, .. }] if path == "file"));
    }

    #[test]
    fn only_a_package_that_moves_into_a_security_suite_is_marked_and_the_suite_is_no_input() {
        let with = |version: &str, is_security: bool| {
            let mut targets = family(&[vec![]], &[0]);
            let name = "libfoo:amd64".to_owned();
            targets[0].inputs.insert(InputKind::Package, &name, version);
            targets[0].fingerprint = targets[0].inputs.fingerprint();
            targets[0].security = if is_security { [name].into() } else { BTreeSet::new() };
            targets
        };
        let why = |before: &[Target], now: &[Target]| {
            let plan = plan(now, &all(now), &held_all(before), &no_tests, false);
            plan.targets[0].reasons.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let before = with("1.0", false);
        assert_eq!(why(&before, &with("1.1", true)), ["package libfoo 1.0 -> 1.1 (security)"]);
        assert_eq!(why(&before, &with("1.1", false)), ["package libfoo 1.0 -> 1.1"]);
        assert_eq!(why(&family(&[vec![]], &[0]), &with("1.1", true)), ["package libfoo 1.1 added"]);
        assert_eq!(why(&before, &with("1.0", true)), [""; 0], "the same package from elsewhere is the same");
    }

    #[test]
    fn reasons_carry_kind_old_and_new_in_json() {
        let inventory = held_all(&family(&[vec![], vec![0]], &[0, 0]));
        let now = family(&[vec![], vec![0]], &[1, 0]);
        let json = serde_json::to_value(plan(&now, &all(&now), &inventory, &no_tests, false)).unwrap();
        assert_eq!(json["version"], 1);
        assert_eq!(
            json["targets"][0]["reasons"][0],
            serde_json::json!({"kind": "file", "path": "file", "old": "0", "new": "1"})
        );
        assert_eq!(json["targets"][1]["reasons"][0]["kind"], "parent");
    }
}
