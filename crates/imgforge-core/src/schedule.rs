//! "What may start now?": the order of a run as a pure state machine, apart from what does the work, so that it can
//! be tested without an engine and without a clock.
//!
//! The life of a node:
//!
//! 1. It *waits* for as many parents as it has among the nodes.
//! 2. The last of them is built: it is *ready*. Of all that are ready, [`Schedule::next`] hands out the one with the
//!    longest remaining path, since the run cannot be shorter than that path.
//! 3. It *runs* until [`Schedule::finish`] says how it ended.
//! 4. It *ends* exactly once: built, failed, skipped (an ancestor failed) or not begun (the run was stopped).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::name::ImageName;

/// One target to be built.
#[derive(Debug, Clone)]
pub struct Node {
    /// The image.
    pub name: ImageName,
    /// What must be built before it. Those that are no nodes of the schedule are there already, and are passed over.
    pub parents: BTreeSet<ImageName>,
    /// How long it will take, from earlier runs. Only the proportions count.
    pub estimate: Duration,
}

/// What a failure does to the rest of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// It skips its own descendants; all else goes on.
    KeepGoing,
    /// Nothing more starts.
    FailFast,
}

/// A target that is skipped, and the failed one that it stands on.
pub type Blocked = (ImageName, ImageName);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Ready,
    Running,
    Ended,
}

#[derive(Debug)]
struct Slot {
    state: State,
    missing_parents: usize,
    children: Vec<ImageName>,
    /// Own estimate and the longest child path.
    remaining: Duration,
}

/// A family on its way; see the page of this module.
#[derive(Debug)]
pub struct Schedule {
    policy: Policy,
    slots: BTreeMap<ImageName, Slot>,
    ready: BTreeSet<(Reverse<Duration>, ImageName)>,
    running: usize,
    stopped: bool,
}

impl Schedule {
    /// A schedule of `nodes`, of which none has begun. Their edges have no cycle (the graph has refused those);
    /// if they had, what stands on it would never be handed out.
    pub fn new(nodes: impl IntoIterator<Item = Node>, policy: Policy) -> Self {
        let nodes: BTreeMap<ImageName, Node> =
            nodes.into_iter().map(|node| (node.name.clone(), node)).collect();
        let mut slots: BTreeMap<ImageName, Slot> = BTreeMap::new();
        for node in nodes.values() {
            let slot = Slot {
                state: State::Waiting,
                missing_parents: node.parents.iter().filter(|parent| nodes.contains_key(*parent)).count(),
                children: Vec::new(),
                remaining: node.estimate,
            };
            slots.insert(node.name.clone(), slot);
        }
        for node in nodes.values() {
            for parent in &node.parents {
                if let Some(slot) = slots.get_mut(parent) {
                    slot.children.push(node.name.clone());
                }
            }
        }
        for name in parents_first(&slots).iter().rev() {
            let longest = slots[name].children.iter().map(|child| slots[child].remaining).max();
            if let (Some(slot), Some(longest)) = (slots.get_mut(name), longest) {
                slot.remaining = slot.remaining.saturating_add(longest);
            }
        }
        let mut schedule = Self { policy, slots, ready: BTreeSet::new(), running: 0, stopped: false };
        let roots: Vec<ImageName> = schedule.of_state(|slot| slot.missing_parents == 0);
        for root in roots {
            schedule.make_ready(&root);
        }
        schedule
    }

    /// The ready node with the longest remaining path (of equal ones, the first by name), which runs from now on.
    /// `None` while nothing is ready, and for ever after the run was stopped.
    #[expect(clippy::should_implement_trait, reason = "`None` is not the end: more may be ready later")]
    pub fn next(&mut self) -> Option<ImageName> {
        if self.stopped {
            return None;
        }
        let (_, name) = self.ready.pop_first()?;
        self.slots.get_mut(&name)?.state = State::Running;
        self.running += 1;
        Some(name)
    }

    /// Takes notice that a running node was built (`ok`) or failed. Returns its descendants when it failed: they are
    /// skipped, each once, whatever else fails. A node that does not run is passed over.
    pub fn finish(&mut self, name: &ImageName, ok: bool) -> Vec<Blocked> {
        let Some(slot) = self.slots.get_mut(name).filter(|slot| slot.state == State::Running) else {
            return Vec::new();
        };
        slot.state = State::Ended;
        self.running -= 1;
        if !ok {
            self.stopped |= self.policy == Policy::FailFast;
            return self.skip_descendants(name);
        }
        for child in slot.children.clone() {
            let Some(slot) = self.slots.get_mut(&child) else { continue };
            slot.missing_parents -= 1;
            if slot.missing_parents == 0 && slot.state == State::Waiting {
                self.make_ready(&child);
            }
        }
        Vec::new()
    }

    /// Stops handing out. Returns those that have not begun, by name; what runs still has to be finished.
    pub fn cancel(&mut self) -> Vec<ImageName> {
        self.stopped = true;
        self.ready.clear();
        let left = self.of_state(|slot| matches!(slot.state, State::Waiting | State::Ready));
        for name in &left {
            self.end(name);
        }
        left
    }

    /// Whether nothing runs and nothing more will start. Under [`Policy::FailFast`], some may not have begun:
    /// [`cancel`](Self::cancel) tells which.
    pub fn is_done(&self) -> bool {
        self.running == 0 && (self.stopped || self.ready.is_empty())
    }

    /// Whether nothing more will start, since the run was cancelled or failed fast.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    fn make_ready(&mut self, name: &ImageName) {
        if let Some(slot) = self.slots.get_mut(name) {
            slot.state = State::Ready;
            self.ready.insert((Reverse(slot.remaining), name.clone()));
        }
    }

    fn end(&mut self, name: &ImageName) {
        if let Some(slot) = self.slots.get_mut(name) {
            slot.state = State::Ended;
        }
    }

    fn skip_descendants(&mut self, failed: &ImageName) -> Vec<Blocked> {
        let mut skipped = BTreeSet::new();
        let mut open = self.slots[failed].children.clone();
        while let Some(name) = open.pop() {
            // What stands on a failed node still waits, or an earlier failure has skipped it with all below it.
            if self.slots[&name].state == State::Waiting {
                self.end(&name);
                open.extend(self.slots[&name].children.iter().cloned());
                skipped.insert(name);
            }
        }
        skipped.into_iter().map(|name| (name, failed.clone())).collect()
    }

    fn of_state(&self, is: impl Fn(&Slot) -> bool) -> Vec<ImageName> {
        self.slots.iter().filter(|(_, slot)| is(slot)).map(|(name, _)| name.clone()).collect()
    }
}

/// All names, parents before children (Kahn, "Topological sorting of large networks", 1962).
fn parents_first(slots: &BTreeMap<ImageName, Slot>) -> Vec<ImageName> {
    let mut missing: BTreeMap<&ImageName, usize> =
        slots.iter().map(|(name, slot)| (name, slot.missing_parents)).collect();
    let mut order: Vec<ImageName> =
        missing.iter().filter(|(_, count)| **count == 0).map(|(name, _)| (*name).clone()).collect();
    let mut at = 0;
    while at < order.len() {
        for child in &slots[&order[at]].children {
            if let Some(count) = missing.get_mut(child) {
                *count -= 1;
                if *count == 0 {
                    order.push(child.clone());
                }
            }
        }
        at += 1;
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A family as (parents by index, estimate in seconds); parents have smaller indexes.
    type Family = Vec<(BTreeSet<usize>, u64)>;

    fn name(n: usize) -> ImageName {
        ImageName::new(format!("i{n:03}")).unwrap()
    }

    fn index(name: &ImageName) -> usize {
        name.as_str()[1..].parse().unwrap()
    }

    fn schedule(family: &Family, policy: Policy) -> Schedule {
        let nodes = family.iter().enumerate().map(|(n, (parents, seconds))| Node {
            name: name(n),
            parents: parents.iter().map(|p| name(*p)).collect(),
            estimate: Duration::from_secs(*seconds),
        });
        Schedule::new(nodes, policy)
    }

    fn descendants(family: &Family, of: &BTreeSet<usize>) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        for (n, (parents, _)) in family.iter().enumerate() {
            if parents.iter().any(|p| of.contains(p) || found.contains(p)) {
                found.insert(n);
            }
        }
        found
    }

    fn path(family: &Family, n: usize) -> u64 {
        let below = (n + 1..family.len()).filter(|c| family[*c].0.contains(&n)).map(|c| path(family, c));
        family[n].1 + below.max().unwrap_or(0)
    }

    fn any_family() -> impl Strategy<Value = Family> {
        (1..14usize).prop_flat_map(|size| {
            let node = |n: usize| {
                let parents = proptest::collection::btree_set(0..n.max(1), 0..=n.min(3));
                (parents.prop_map(move |ps| ps.into_iter().filter(|p| *p < n).collect()), 1..9u64)
            };
            (0..size).map(node).collect::<Vec<_>>()
        })
    }

    #[derive(Debug, Default)]
    struct Trace {
        started: Vec<usize>,
        built: BTreeSet<usize>,
        failed: BTreeSet<usize>,
        skipped: BTreeSet<usize>,
        left: BTreeSet<usize>,
        ends: usize,
    }

    /// Runs a family with `slots` slots; `choices` say which of the running nodes ends next, `failing` which fail.
    fn run(
        family: &Family,
        policy: Policy,
        slots: usize,
        choices: &[usize],
        failing: &BTreeSet<usize>,
    ) -> Trace {
        let mut schedule = schedule(family, policy);
        let mut trace = Trace::default();
        let mut running = Vec::new();
        let mut choices = choices.iter().cycle();
        while !schedule.is_done() {
            while running.len() < slots {
                let Some(next) = schedule.next() else { break };
                let parents = &family[index(&next)].0;
                assert!(parents.iter().all(|p| trace.built.contains(p)), "{next} began before its parents");
                trace.started.push(index(&next));
                running.push(next);
            }
            let ended = running.swap_remove(choices.next().unwrap() % running.len());
            let ok = !failing.contains(&index(&ended));
            let blocked = schedule.finish(&ended, ok);
            trace.ends += 1 + blocked.len();
            assert!(blocked.iter().all(|(_, by)| *by == ended));
            trace.skipped.extend(blocked.iter().map(|(skipped, _)| index(skipped)));
            if ok {
                trace.built.insert(index(&ended))
            } else {
                trace.failed.insert(index(&ended))
            };
        }
        let left = schedule.cancel();
        trace.ends += left.len();
        trace.left.extend(left.iter().map(index));
        trace
    }

    proptest! {
        #[test]
        fn a_failure_skips_exactly_its_descendants_and_every_node_ends_once(
            family in any_family(), slots in 1..5usize, choices in proptest::collection::vec(0..9usize, 20),
            failing in proptest::collection::btree_set(0..14usize, 0..3),
        ) {
            let trace = run(&family, Policy::KeepGoing, slots, &choices, &failing);
            let expected = descendants(&family, &failing);
            prop_assert_eq!(&trace.skipped, &expected);
            prop_assert_eq!(trace.built.len() + trace.failed.len() + trace.skipped.len(), family.len());
            prop_assert_eq!(trace.ends, family.len());
            prop_assert!(trace.left.is_empty());
        }

        #[test]
        fn nothing_starts_after_a_failure_under_fail_fast(
            family in any_family(), choices in proptest::collection::vec(0..9usize, 20), failing in 0..14usize,
        ) {
            let trace = run(&family, Policy::FailFast, 1, &choices, &[failing].into());
            if let Some(at) = trace.started.iter().position(|n| *n == failing) {
                prop_assert_eq!(at, trace.started.len() - 1);
            }
            prop_assert_eq!(trace.ends, family.len());
        }

        #[test]
        fn what_is_ready_starts_by_longest_path(family in any_family(), choices in proptest::collection::vec(0..9usize, 20)) {
            let mut schedule = schedule(&family, Policy::KeepGoing);
            let mut choices = choices.iter().cycle();
            let mut running = Vec::new();
            loop {
                let batch: Vec<ImageName> = std::iter::from_fn(|| schedule.next()).collect();
                let keys: Vec<_> = batch.iter().map(|n| (Reverse(path(&family, index(n))), n.clone())).collect();
                prop_assert!(keys.is_sorted(), "{:?}", keys);
                running.extend(batch);
                if running.is_empty() { break; }
                let ended = running.swap_remove(choices.next().unwrap() % running.len());
                schedule.finish(&ended, true);
            }
            prop_assert!(schedule.is_done());
        }

        #[test]
        fn a_cancelled_run_names_all_that_has_not_begun(family in any_family(), begun in 0..6usize) {
            let mut schedule = schedule(&family, Policy::KeepGoing);
            let running: Vec<ImageName> = std::iter::from_fn(|| schedule.next()).take(begun).collect();
            let left = schedule.cancel();
            prop_assert_eq!(running.len() + left.len(), family.len());
            prop_assert!(schedule.next().is_none());
            prop_assert_eq!(schedule.is_done(), running.is_empty());
            for name in &running { prop_assert!(schedule.finish(name, false).is_empty()); }
            prop_assert!(schedule.is_done());
        }
    }

    #[test]
    fn a_parent_outside_the_schedule_is_there_already() {
        let node = Node { name: name(1), parents: [name(0)].into(), estimate: Duration::ZERO };
        assert_eq!(Schedule::new([node], Policy::KeepGoing).next(), Some(name(1)));
    }
}
