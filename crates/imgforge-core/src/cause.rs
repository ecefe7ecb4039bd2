//! What a target's build goes back to: the reasons of a plan followed through parents to where they start.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::plan::{Plan, PlannedTarget, Reason};

/// A change, and the way from it to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause<'p> {
    /// The image that it was made in.
    pub image: &'p str,
    /// What has changed there.
    pub reasons: Vec<&'p Reason>,
    /// From the target to that image, each a parent of the one before; just the target when it is its own change.
    pub chain: Vec<&'p str>,
}

/// The changes that `target` is built for, the nearest first. Nothing for one that was never built: then nothing has
/// changed.
pub fn causes<'p>(plan: &'p Plan, target: &str) -> Vec<Cause<'p>> {
    let rows: BTreeMap<&str, &PlannedTarget> = plan.to_build().map(|row| (row.name.as_str(), row)).collect();
    let mut found = Vec::new();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut open: VecDeque<Vec<&str>> =
        rows.get_key_value(target).map(|(name, _)| vec![*name]).into_iter().collect();
    while let Some(chain) = open.pop_front() {
        let image = chain[chain.len() - 1];
        if !seen.insert(image) {
            continue;
        }
        let mut reasons = Vec::new();
        for reason in &rows[image].reasons {
            match reason {
                Reason::Parent { name, .. } if rows.contains_key(name.as_str()) => {
                    open.push_back([chain.as_slice(), &[name.as_str()]].concat());
                }
                Reason::NeverBuilt { .. }
                | Reason::Forced { .. }
                | Reason::NoRecord { .. }
                | Reason::NotBuiltHere { .. } => {}
                other => reasons.push(other),
            }
        }
        if !reasons.is_empty() {
            found.push(Cause { image, reasons, chain });
        }
    }
    found
}
