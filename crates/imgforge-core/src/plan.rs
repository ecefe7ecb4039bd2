//! For every selected target one action and its reasons: fingerprints compared with what engines hold.

mod inventory;
mod reason;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use imgforge_oci::Digest;
use schemars::JsonSchema;
use serde::Serialize;

pub use self::inventory::{Held, Inventory, Pushed};
use self::reason::reasons;
pub use self::reason::{Reason, Relocked};
use crate::fingerprint::{Fingerprint, InputManifest};
use crate::name::ImageName;

/// The version of the plan's JSON shape.
pub const VERSION: u32 = 1;

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
    #[schemars(with = "Option<String>")]
    pub id: Option<Digest>,
    /// The digest of its manifest in the registry, for `fresh`, where the registry was asked and holds it.
    #[schemars(with = "Option<String>")]
    pub digest: Option<Digest>,
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
    // Below what is built, and below what is built or tested.
    let (mut required, mut needed) = (BTreeSet::new(), BTreeSet::new());
    for target in targets.iter().rev() {
        let is_selected = selected.contains(&target.name);
        let is_there = inventory.has(target);
        if is_selected && force || !is_there && (is_selected || required.contains(&target.name)) {
            required.extend(&target.parents);
            needed.extend(&target.parents);
        } else if is_there && (is_selected || needed.contains(&target.name)) && untested(tests(target)) > 0 {
            // What is there and only tested does not need what it was made from.
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
            _ if required.contains(&target.name) => Action::Required,
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
