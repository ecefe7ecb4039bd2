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

/// One piece of work, under an identity of any kind that is cheap to copy and has an order.
#[derive(Debug, Clone)]
pub struct Node<N> {
    /// Its identity.
    pub id: N,
    /// What must be done before it. Those that are no nodes of the schedule are done already, and are passed over.
    pub parents: BTreeSet<N>,
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

/// A node that is skipped, and the failed one that it stands on.
pub type Blocked<N> = (N, N);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Ready,
    Running,
    Ended,
}

#[derive(Debug)]
struct Slot<N> {
    state: State,
    missing_parents: usize,
    children: Vec<N>,
    /// Own estimate and the longest child path.
    remaining: Duration,
}

/// A family on its way; see the page of this module.
#[derive(Debug)]
pub struct Schedule<N> {
    policy: Policy,
    slots: BTreeMap<N, Slot<N>>,
    ready: BTreeSet<(Reverse<Duration>, N)>,
    running: usize,
    stopped: bool,
}

impl<N: Ord + Clone> Schedule<N> {
    /// A schedule of `nodes`, of which none has begun. Their edges have no cycle (the graph has refused those);
    /// if they had, what stands on it would never be handed out.
    pub fn new(nodes: impl IntoIterator<Item = Node<N>>, policy: Policy) -> Self {
        let nodes: BTreeMap<N, Node<N>> = nodes.into_iter().map(|node| (node.id.clone(), node)).collect();
        let mut slots: BTreeMap<N, Slot<N>> = BTreeMap::new();
        for node in nodes.values() {
            let slot = Slot {
                state: State::Waiting,
                missing_parents: node.parents.iter().filter(|parent| nodes.contains_key(*parent)).count(),
                children: Vec::new(),
                remaining: node.estimate,
            };
            slots.insert(node.id.clone(), slot);
        }
        for node in nodes.values() {
            for parent in &node.parents {
                if let Some(slot) = slots.get_mut(parent) {
                    slot.children.push(node.id.clone());
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
        let roots: Vec<N> = schedule.of_state(|slot| slot.missing_parents == 0);
        for root in roots {
            schedule.make_ready(&root);
        }
        schedule
    }

    /// The ready node with the longest remaining path (of equal ones, the first in their order), which runs from now on.
    /// `None` while nothing is ready, and for ever after the run was stopped.
    #[expect(clippy::should_implement_trait, reason = "`None` is not the end: more may be ready later")]
    pub fn next(&mut self) -> Option<N> {
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
    pub fn finish(&mut self, name: &N, ok: bool) -> Vec<Blocked<N>> {
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

    /// Stops handing out. Returns those that have not begun, in their order; what runs still has to be finished.
    pub fn cancel(&mut self) -> Vec<N> {
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

    fn make_ready(&mut self, name: &N) {
        if let Some(slot) = self.slots.get_mut(name) {
            slot.state = State::Ready;
            self.ready.insert((Reverse(slot.remaining), name.clone()));
        }
    }

    fn end(&mut self, name: &N) {
        if let Some(slot) = self.slots.get_mut(name) {
            slot.state = State::Ended;
        }
    }

    fn skip_descendants(&mut self, failed: &N) -> Vec<Blocked<N>> {
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

    fn of_state(&self, is: impl Fn(&Slot<N>) -> bool) -> Vec<N> {
        self.slots.iter().filter(|(_, slot)| is(slot)).map(|(name, _)| name.clone()).collect()
    }
}

/// All nodes, parents before children (Kahn, "Topological sorting of large networks", 1962).
fn parents_first<N: Ord + Clone>(slots: &BTreeMap<N, Slot<N>>) -> Vec<N> {
    let mut missing: BTreeMap<&N, usize> =
        slots.iter().map(|(name, slot)| (name, slot.missing_parents)).collect();
    let mut order: Vec<N> =
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

    fn schedule(family: &Family, policy: Policy) -> Schedule<usize> {
        let nodes = family.iter().enumerate().map(|(n, (parents, seconds))| Node {
            id: n,
            parents: parents.clone(),
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
                let parents = &family[next].0;
                assert!(parents.iter().all(|p| trace.built.contains(p)), "{next} began before its parents");
                trace.started.push(next);
                running.push(next);
            }
            let ended = running.swap_remove(choices.next().unwrap() % running.len());
            let ok = !failing.contains(&ended);
            let blocked = schedule.finish(&ended, ok);
            trace.ends += 1 + blocked.len();
            assert!(blocked.iter().all(|(_, by)| *by == ended));
            trace.skipped.extend(blocked.iter().map(|(skipped, _)| *skipped));
            if ok {
                trace.built.insert(ended)
            } else {
                trace.failed.insert(ended)
            };
        }
        let left = schedule.cancel();
        trace.ends += left.len();
        trace.left.extend(left);
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
                let batch: Vec<usize> = std::iter::from_fn(|| schedule.next()).collect();
                let keys: Vec<_> = batch.iter().map(|n| (Reverse(path(&family, *n)), *n)).collect();
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
            let running: Vec<usize> = std::iter::from_fn(|| schedule.next()).take(begun).collect();
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
        let node = Node { id: 1, parents: [0].into(), estimate: Duration::ZERO };
        assert_eq!(Schedule::new([node], Policy::KeepGoing).next(), Some(1));
    }
}
