//! When images came into the registry: what `created` does not say.
//!
//! An image of the embedded engine says that it was made in 2000, so that two machines make the same; one that Docker has
//! made may have been pushed long after. So whoever pushes writes a record first, with the content tags that it is about
//! to push or to promote. Nothing in the images tells of it: their digests stay the same.

use std::collections::BTreeMap;

use imgforge_core::name::ImageName;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::registry::FamilyRegistry;
use crate::registry::records::{Kept, Kind};

/// The place of the records.
const PUSHES: Kind = Kind { repository: "imgforge.pushes", prefix: "t-" };
/// The version of the record's JSON shape.
const VERSION: u32 = 1;
/// More records than this are made one.
const MANY: usize = 20;

/// An image under its content tag.
pub(super) type Content = (ImageName, String);

/// A record of what one job was about to push, or of what was found together in several such records.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Pushes {
    version: u32,
    workspace: String,
    images: Vec<Pushed>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Pushed {
    image: ImageName,
    /// The content tag.
    tag: String,
    time: Timestamp,
}

/// The known times of all images.
pub(super) struct PushTimes {
    /// The last time of each.
    times: BTreeMap<Content, Timestamp>,
    records: Vec<Kept<Pushes>>,
}

impl PushTimes {
    /// Returns whether an image came after this moment; one of which that is not known has.
    pub(super) fn is_after(&self, content: &Content, moment: Timestamp) -> bool {
        self.times.get(content).is_none_or(|time| *time > moment)
    }

    /// Returns whether the time at which an image came is known.
    pub(super) fn knows(&self, content: &Content) -> bool {
        self.times.contains_key(content)
    }
}

impl FamilyRegistry {
    /// Writes down that these images are about to be pushed or promoted.
    pub(super) async fn record_pushes(&self, images: impl IntoIterator<Item = Content>) -> Result<(), Error> {
        let now = Timestamp::now();
        let images = images.into_iter().map(|(image, tag)| Pushed { image, tag, time: now }).collect();
        self.keep_pushes(images).await
    }

    async fn keep_pushes(&self, images: Vec<Pushed>) -> Result<(), Error> {
        let record = Pushes { version: VERSION, workspace: self.workspace.clone(), images };
        self.keep_record(PUSHES, &record).await.map(drop)
    }

    /// Reads all such records of the workspace.
    pub(super) async fn push_times(&self) -> Result<PushTimes, Error> {
        let ids = self.record_ids(PUSHES).await?;
        let mut records: Vec<Kept<Pushes>> = self.read_records(PUSHES, ids).await?;
        records.retain(|record| record.content.workspace == self.workspace);
        let mut times = BTreeMap::new();
        for pushed in records.iter().flat_map(|record| &record.content.images) {
            let time: &mut Timestamp =
                times.entry((pushed.image.clone(), pushed.tag.clone())).or_insert(pushed.time);
            *time = pushed.time.max(*time);
        }
        Ok(PushTimes { times, records })
    }

    /// Gives those of `there` whose time is not known the present one, so that they get old too, and makes one record of
    /// many. What is not in `there` is forgotten.
    pub(super) async fn tidy_push_times(&self, known: &PushTimes, there: &[Content]) -> Result<(), Error> {
        let is_known = there.iter().all(|content| known.knows(content));
        if is_known && known.records.len() <= MANY {
            return Ok(());
        }
        let now = Timestamp::now();
        let images = there.iter().map(|content| Pushed {
            image: content.0.clone(),
            tag: content.1.clone(),
            time: known.times.get(content).copied().unwrap_or(now),
        });
        self.keep_pushes(images.collect()).await?;
        for record in &known.records {
            let repository = self.repository(PUSHES.repository);
            self.client.delete_manifest(&repository, &record.digest).await?;
        }
        Ok(())
    }
}
