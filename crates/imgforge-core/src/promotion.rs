//! Promotions: which release tags were moved from which digest to which, and how to go back.
//!
//! Each promotion leaves a [`Record`]. The digest that a tag had after one of them follows from the records alone: the
//! last move up to it, or what the first move after it found.

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
    /// What was moved, parents first.
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

/// The promotion that stood before the one whose tags stand now; one that was taken back is gone over. `None` when there
/// was none.
pub fn previous(records: &Records) -> Option<&str> {
    fn standing<'r>((id, record): (&'r String, &'r Record)) -> &'r str {
        record.back_to.as_deref().unwrap_or(id)
    }
    let current = standing(records.last_key_value()?);
    records.range(..current.to_owned()).next_back().map(standing)
}

/// How to get from `current` to the state after `id`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WayBack {
    /// The tags to move.
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
                Some(then) if now != Some(then) => way.moves.push(Move {
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
                prop_assert_ne!(moved.from.as_ref(), Some(&moved.to));
                current.insert(tag, moved.to);
            }
            for tag in &way.newer {
                prop_assert!(!states[to].contains_key(tag));
                current.remove(tag);
            }
            prop_assert_eq!(&current, &states[to]);
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
