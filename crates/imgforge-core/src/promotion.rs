//! Promotions: which release tags were moved from which digest to which, and how to go back.
//!
//! Each promotion leaves a [`Record`]. The digest that a tag had after one of them follows from the records alone: the
//! last move up to it, or what the first move after it found.
//!
//! No registry moves several tags at once, so two promotions may run into each other. The order of their records
//! decides then: each works until its tags lead where the last record that names them says ([`settled`]), so that
//! whichever ends last leaves the tags as the later record wants them, all of them.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::{ImageName, Tag};

/// The version of the record's JSON shape.
pub const VERSION: u32 = 1;

/// A release tag of an image.
pub type ReleaseTag = (ImageName, Tag);

/// One promotion, as it is kept in the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// The workspace.
    pub workspace: String,
    /// When it began, in UTC: `2026-11-24T09:30:00Z`.
    pub time: String,
    /// The commit that was checked out, if that was known.
    pub commit: Option<String>,
    /// The record that tags went back to, when it was no promotion of what was built.
    pub back_to: Option<String>,
    /// The tags that it is about, parents first. One that led to the right image before has the same `from` and `to`.
    pub moves: Vec<Move>,
}

/// A release tag that points to another image than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Move {
    /// The image.
    #[schemars(with = "String")]
    pub image: ImageName,
    /// The tag.
    #[schemars(with = "String")]
    pub tag: Tag,
    /// The digest of the manifest that it pointed to; null when there was no such tag.
    pub from: Option<String>,
    /// The digest that it points to now.
    pub to: String,
}

impl Move {
    /// Whether the tag led elsewhere before.
    pub fn is_change(&self) -> bool {
        self.from.as_ref() != Some(&self.to)
    }

    /// Its tag.
    pub fn release_tag(&self) -> ReleaseTag {
        (self.image.clone(), self.tag.clone())
    }
}

/// All records of a workspace, by their ids, whose order is that of time.
pub type Records = BTreeMap<String, Record>;

/// What every tag that was ever moved pointed to after the record `id`; `None` for one that was not there then.
pub fn state_after(records: &Records, id: &str) -> BTreeMap<ReleaseTag, Option<String>> {
    let mut state = BTreeMap::new();
    for (at, record) in records {
        for moved in &record.moves {
            let tag = (moved.image.clone(), moved.tag.clone());
            if at.as_str() <= id {
                state.insert(tag, Some(moved.to.clone()));
            } else {
                state.entry(tag).or_insert_with(|| moved.from.clone());
            }
        }
    }
    state
}

/// Where tags must lead once the promotion `id` and those that began after it have ended, newest promotion first and
/// then parents first: the tags of `id` and of each later record that shares a tag with it, each as the last record
/// says.
pub fn settled(records: &Records, id: &str) -> Vec<(ReleaseTag, String)> {
    let Some(own) = records.get(id) else { return Vec::new() };
    let tags: BTreeSet<ReleaseTag> = own.moves.iter().map(Move::release_tag).collect();
    let shares = |record: &Record| record.moves.iter().any(|moved| tags.contains(&moved.release_tag()));
    let mut last: BTreeMap<ReleaseTag, &str> = BTreeMap::new();
    for moved in records.range(id.to_owned()..).flat_map(|(_, record)| &record.moves) {
        last.insert(moved.release_tag(), &moved.to);
    }
    let mut settled = Vec::new();
    for (_, record) in records.range(id.to_owned()..).rev().filter(|(_, record)| shares(record)) {
        for tag in record.moves.iter().map(Move::release_tag) {
            if let Some(to) = last.remove(&tag) {
                settled.push((tag, to.to_owned()));
            }
        }
    }
    settled
}

/// The tags of the promotion `id` that a later record leads elsewhere, each with the id of the last such record.
pub fn overtaken(records: &Records, id: &str) -> BTreeMap<ReleaseTag, String> {
    let Some(own) = records.get(id) else { return BTreeMap::new() };
    let own: BTreeMap<ReleaseTag, &str> =
        own.moves.iter().map(|moved| (moved.release_tag(), moved.to.as_str())).collect();
    let mut overtaken = BTreeMap::new();
    for (by, record) in records.range(id.to_owned()..).skip(1) {
        for moved in &record.moves {
            match own.get(&moved.release_tag()) {
                Some(to) if *to == moved.to => drop(overtaken.remove(&moved.release_tag())),
                Some(_) => drop(overtaken.insert(moved.release_tag(), by.clone())),
                None => {}
            }
        }
    }
    overtaken
}

/// Returns the promotion whose tags stand after a record: its own, or the one that it went back to.
fn standing<'r>((id, record): (&'r String, &'r Record)) -> &'r str {
    record.back_to.as_deref().unwrap_or(id)
}

/// Returns the promotion whose tags stand now. `None` when there was none.
pub fn current(records: &Records) -> Option<&str> {
    records.last_key_value().map(standing)
}

/// The promotion that stood before the one whose tags stand now; one that was taken back is gone over. `None` when
/// there was none.
pub fn previous(records: &Records) -> Option<&str> {
    records.range(..current(records)?.to_owned()).next_back().map(standing)
}

/// Returns the ids of the oldest records, which no way back needs that leads to one of the newest `count`, to the
/// promotion that stands now, or to the one before it. What an older record says of a tag that has moved since, the
/// first later one says too.
pub fn outlived(records: &Records, count: usize) -> BTreeSet<String> {
    let newest = records.keys().rev().take(count.max(1)).next_back().map(String::as_str);
    let needed = [newest, current(records), previous(records)];
    let Some(oldest) = needed.into_iter().flatten().min() else { return BTreeSet::new() };
    records.range(..oldest.to_owned()).map(|(id, _)| id.clone()).collect()
}

/// How to get from `current` to the state after `id`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WayBack {
    /// Its tags: those to move, and those that are right already.
    pub moves: Vec<Move>,
    /// Tags that were not there then: they stay as they are, since not every registry can take a tag away.
    pub newer: Vec<ReleaseTag>,
}

/// The moves that bring the tags of `images` (parents first) back to where the record `id` left them.
pub fn way_back(
    records: &Records,
    id: &str,
    images: &[ImageName],
    current: &BTreeMap<ReleaseTag, String>,
) -> WayBack {
    let state = state_after(records, id);
    let mut way = WayBack::default();
    for image in images {
        for (tag, then) in state.iter().filter(|((name, _), _)| name == image) {
            let now = current.get(tag);
            match then {
                Some(then) => way.moves.push(Move {
                    image: tag.0.clone(),
                    tag: tag.1.clone(),
                    from: now.cloned(),
                    to: then.clone(),
                }),
                None if now.is_some() => way.newer.push(tag.clone()),
                _ => {}
            }
        }
    }
    way
}

/// The digests that the last `count` records led to: what a way back may need.
pub fn reachable(records: &Records, count: usize) -> BTreeSet<(ImageName, String)> {
    let ids = records.keys().rev().take(count);
    ids.flat_map(|id| state_after(records, id))
        .filter_map(|((image, _), digest)| Some((image, digest?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn release(image: usize, tag: usize) -> ReleaseTag {
        (ImageName::new(format!("i{image}")).unwrap(), Tag::new(format!("t{tag}")).unwrap())
    }

    fn record(moves: Vec<Move>, back_to: Option<&str>) -> Record {
        let (workspace, time) = (String::new(), String::new());
        Record { version: VERSION, workspace, time, commit: None, back_to: back_to.map(str::to_owned), moves }
    }

    /// What is promoted: for each tag that is moved, a digest.
    fn history() -> impl Strategy<Value = Vec<BTreeMap<(usize, usize), u8>>> {
        prop::collection::vec(prop::collection::btree_map((0..3usize, 0..2usize), 0..4u8, 0..5), 1..8)
    }

    /// Promotes as `promote` does: only what differs is a move. Returns the records and the state after each.
    fn promoted(history: &[BTreeMap<(usize, usize), u8>]) -> (Records, Vec<BTreeMap<ReleaseTag, String>>) {
        let (mut records, mut states) = (Records::new(), Vec::new());
        let mut current: BTreeMap<ReleaseTag, String> = BTreeMap::new();
        for (n, wanted) in history.iter().enumerate() {
            let mut moves = Vec::new();
            for ((image, tag), digest) in wanted {
                let (tag, to) = (release(*image, *tag), format!("sha256:{digest}"));
                let from = current.insert(tag.clone(), to.clone());
                if from.as_ref() != Some(&to) {
                    moves.push(Move { image: tag.0, tag: tag.1, from, to });
                }
            }
            records.insert(format!("p-{n:04}"), record(moves, None));
            states.push(current.clone());
        }
        (records, states)
    }

    proptest! {
        #[test]
        fn the_way_back_leads_to_where_the_tags_were(history in history(), to in 0..8usize) {
            let (records, states) = promoted(&history);
            let to = to.min(states.len() - 1);
            let mut current = states.last().unwrap().clone();
            let images: Vec<ImageName> = (0..3).map(|n| release(n, 0).0).collect();
            let way = way_back(&records, &format!("p-{to:04}"), &images, &current);
            for moved in way.moves {
                let tag = (moved.image, moved.tag);
                prop_assert_eq!(current.get(&tag), moved.from.as_ref());
                current.insert(tag, moved.to);
            }
            for tag in &way.newer {
                prop_assert!(!states[to].contains_key(tag));
                current.remove(tag);
            }
            prop_assert_eq!(&current, &states[to]);
        }
    }

    proptest! {
        #[test]
        fn without_the_records_that_are_outlived_every_way_back_leads_to_the_same(
            history in history(),
            back in prop::collection::vec(0..8usize, 0..3),
            count in 0..9usize,
        ) {
            let (mut records, states) = promoted(&history);
            let mut current = states.last().unwrap().clone();
            let images: Vec<ImageName> = (0..3).map(|n| release(n, 0).0).collect();
            let go = |records: &Records, id: &str, current: &mut BTreeMap<ReleaseTag, String>| {
                let way = way_back(records, id, &images, current);
                current.extend(way.moves.iter().map(|moved| (moved.release_tag(), moved.to.clone())));
                way
            };
            for (n, to) in back.iter().enumerate() {
                let id = records.keys().nth(to % records.len()).unwrap().clone();
                let way = go(&records, &id, &mut current);
                records.insert(format!("p-{:04}", history.len() + n), record(way.moves, Some(&id)));
            }
            let gone = outlived(&records, count);
            let mut fewer = records.clone();
            fewer.retain(|id, _| !gone.contains(id));
            prop_assert!(fewer.len() >= count.max(1).min(records.len()));
            prop_assert_eq!(super::current(&fewer), super::current(&records));
            prop_assert_eq!(previous(&fewer), previous(&records));
            for id in fewer.keys() {
                let (mut one, mut other) = (current.clone(), current.clone());
                let (all, few) = (go(&records, id, &mut one), go(&fewer, id, &mut other));
                prop_assert_eq!(&one, &other);
                prop_assert_eq!(all.newer, few.newer);
            }
        }
    }

    /// Each of several promotions, with records in this order, does what `promote` does: it writes its record, and
    /// then in each step looks at the records and moves what is not right. `turns` says whose step is next.
    fn run_into_each_other(
        wanted: &[BTreeMap<(usize, usize), u8>],
        turns: &[usize],
    ) -> (Records, BTreeMap<ReleaseTag, String>) {
        let (mut records, mut tags) = (Records::new(), BTreeMap::new());
        let mut steps: Vec<Vec<(ReleaseTag, String)>> = vec![Vec::new(); wanted.len()];
        let mut done = vec![false; wanted.len()];
        let id = |n: usize| format!("p-{n:04}");
        let mut turns = turns.iter().map(|turn| turn % wanted.len()).collect::<Vec<_>>();
        // Everybody gets to the end.
        turns.extend((0..200).flat_map(|_| 0..wanted.len()));
        for n in turns {
            if done[n] {
                continue;
            }
            let is_begun = records.contains_key(&id(n));
            if !is_begun {
                let moves = wanted[n].iter().map(|((image, tag), digest)| {
                    let (tag, to) = (release(*image, *tag), format!("sha256:{n}-{digest}"));
                    let from = tags.get(&tag).cloned();
                    Move { image: tag.0, tag: tag.1, from, to }
                });
                records.insert(id(n), record(moves.collect(), None));
            } else if let Some((tag, to)) = steps[n].pop() {
                tags.insert(tag, to);
            } else {
                steps[n] = settled(&records, &id(n));
                steps[n].retain(|(tag, to)| tags.get(tag) != Some(to));
                steps[n].reverse();
                done[n] = steps[n].is_empty();
            }
        }
        assert!(done.iter().all(|done| *done));
        (records, tags)
    }

    proptest! {
        #[test]
        fn promotions_that_run_into_each_other_leave_what_the_last_record_of_each_tag_says(
            wanted in history(),
            turns in prop::collection::vec(0..8usize, 0..120),
        ) {
            let (records, tags) = run_into_each_other(&wanted, &turns);
            let mut last = BTreeMap::new();
            for moved in records.values().flat_map(|record| &record.moves) {
                last.insert(moved.release_tag(), moved.to.clone());
            }
            prop_assert_eq!(&tags, &last);
            for (id, record) in &records {
                let overtaken = overtaken(&records, id);
                for moved in &record.moves {
                    let is_lost = tags[&moved.release_tag()] != moved.to;
                    prop_assert_eq!(overtaken.contains_key(&moved.release_tag()), is_lost);
                }
            }
        }
    }

    #[test]
    fn going_back_again_goes_further_back() {
        let mut records: Records = (0..3).map(|n| (format!("p-{n}"), record(Vec::new(), None))).collect();
        assert_eq!(previous(&records), Some("p-1"));
        records.insert("p-3".into(), record(Vec::new(), Some("p-1")));
        assert_eq!(previous(&records), Some("p-0"));
        records.insert("p-4".into(), record(Vec::new(), Some("p-0")));
        assert_eq!(previous(&records), None);
        records.insert("p-5".into(), record(Vec::new(), None));
        assert_eq!(previous(&records), Some("p-0"));
        assert_eq!(previous(&Records::new()), None);
    }
}
