//! When images came into the registry: what `created` does not say.
//!
//! An image of the embedded engine says that it was made in 2000, so that two machines make the same; one that Docker
//! has made may have been pushed long after. So whoever pushes or promotes writes a record first, with the content
//! tags that it is about, also of those that it finds there. Nothing in the images tells of it: their digests stay
//! the same.
//!
//! Records become more with every push, so a prune writes the times anew in few of them, each of a bounded size, and
//! then removes those that it has read. A time is kept as long as its image is in the registry, whoever has described
//! it, and a young one also without the image, which may be about to come. Two prunes at once each write all that
//! they remove.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use futures_util::{FutureExt, StreamExt, TryStreamExt};
use imgforge_core::name::ImageName;
use imgforge_oci::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::registry::records::{Kept, Kind, Records, Unread};
use crate::registry::{AT_ONCE, FamilyRegistry};

/// The place of the records.
pub(super) const PUSHES: Kind = Kind {
    repository: "imgforge.pushes",
    prefix: "t-",
    media_type: "application/vnd.imgforge.pushes.v1+json",
};
/// The version of the record's JSON shape.
const VERSION: u32 = 1;
/// More records than this, besides full ones, are made few.
const MANY: usize = 20;
/// The most images of one record.
const IN_ONE: usize = 8_000;

/// An image under its content tag.
pub(crate) type Content = (ImageName, String);

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
    /// The records that cannot be read: images of which only these tell are young.
    pub(super) unread: Vec<Unread>,
}

impl PushTimes {
    /// Returns whether an image came after this moment; one of which that is not known has.
    pub(super) fn is_after(&self, content: &Content, moment: Timestamp) -> bool {
        self.times.get(content).is_none_or(|time| *time > moment)
    }

    /// Returns the digests of the manifests of the records that were read.
    pub(super) fn digests(&self) -> BTreeSet<Digest> {
        self.records.iter().map(|record| record.digest.clone()).collect()
    }
}

impl FamilyRegistry {
    /// Writes down that these images are about to be pushed or promoted, unless this run has.
    pub(crate) async fn record_pushes(&self, images: impl IntoIterator<Item = Content>) -> Result<(), Error> {
        let now = Timestamp::now();
        let new: BTreeMap<Content, Timestamp> = {
            let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            images.into_iter().filter(|content| !told.contains(content)).map(|new| (new, now)).collect()
        };
        self.keep_pushes(&new).await?;
        self.told.lock().unwrap_or_else(PoisonError::into_inner).extend(new.into_keys());
        Ok(())
    }

    /// Writes times down, and returns the digests of the manifests of the records that have them.
    async fn keep_pushes(&self, times: &BTreeMap<Content, Timestamp>) -> Result<BTreeSet<Digest>, Error> {
        let mut written = BTreeSet::new();
        for record in records_of(&self.workspace, times) {
            written.insert(self.keep_record(PUSHES, &record).await?.1);
        }
        Ok(written)
    }

    /// Reads all such records of the workspace.
    pub(super) async fn push_times(&self) -> Result<PushTimes, Error> {
        let ids = self.record_ids(PUSHES).await?;
        let Records { kept: records, unread } = self.read_records::<Pushes>(PUSHES, ids).await?;
        let mut times = BTreeMap::new();
        for pushed in records.iter().flat_map(|record| &record.content.images) {
            let time: &mut Timestamp =
                times.entry((pushed.image.clone(), pushed.tag.clone())).or_insert(pushed.time);
            *time = pushed.time.max(*time);
        }
        Ok(PushTimes { times, records, unread })
    }

    /// Gives those of `there` whose time is not known the present one, so that they get old too, and makes few
    /// records of many. What came before `moment` and is not in the registry any more is forgotten.
    pub(super) async fn tidy_push_times(
        &self,
        known: &PushTimes,
        there: &[Content],
        moment: Timestamp,
    ) -> Result<(), Error> {
        let now = Timestamp::now();
        let new = there.iter().filter(|content| !known.times.contains_key(*content));
        let mut times: BTreeMap<Content, Timestamp> = new.map(|content| (content.clone(), now)).collect();
        let read = known.digests();
        let is_many = read.len() > MANY + known.times.len() / IN_ONE;
        if is_many {
            times.extend(self.remaining(known, moment).await?);
        }
        let written = self.keep_pushes(&times).await?;
        if is_many {
            self.remove_records(PUSHES, &read, &written).await?;
        }
        Ok(())
    }

    /// Returns the times that are kept. Images that this checkout does not describe are another branch's, so each
    /// repository is asked what it has.
    async fn remaining(
        &self,
        known: &PushTimes,
        moment: Timestamp,
    ) -> Result<BTreeMap<Content, Timestamp>, Error> {
        let names: BTreeSet<&ImageName> = known.times.keys().map(|(name, _)| name).collect();
        let tags = async |name: &ImageName| {
            let tags = self.client.tags(&self.repository(name.as_str())).await?;
            Ok::<_, Error>(tags.into_iter().map(|tag| (name.clone(), tag)).collect::<Vec<Content>>())
        };
        let asked: Vec<_> = names.into_iter().map(|name| tags(name).boxed_local()).collect();
        let tags = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE);
        let there: Vec<Vec<Content>> = tags.try_collect().await?;
        let there: BTreeSet<Content> = there.into_iter().flatten().collect();
        let times = known.times.iter().filter(|(content, time)| **time > moment || there.contains(content));
        Ok(times.map(|(content, time)| (content.clone(), *time)).collect())
    }
}

/// Returns the records that say these times.
fn records_of(workspace: &str, times: &BTreeMap<Content, Timestamp>) -> Vec<Pushes> {
    let pushed = |((image, tag), time): (&Content, &Timestamp)| Pushed {
        image: image.clone(),
        tag: tag.clone(),
        time: *time,
    };
    let images: Vec<Pushed> = times.iter().map(pushed).collect();
    let record = |images: &[Pushed]| Pushes {
        version: VERSION,
        workspace: workspace.to_owned(),
        images: images.to_vec(),
    };
    images.chunks(IN_ONE).map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::records::MAX_RECORD;

    #[test]
    fn however_many_images_there_are_each_record_can_be_read() {
        let time: Timestamp = "2026-11-24T09:30:00.123456789Z".parse().unwrap();
        let content = |number: usize| {
            let name = format!("{}{number:08}", "n".repeat(120));
            (ImageName::new(name).unwrap(), format!("f-{number:032x}"))
        };
        let times: BTreeMap<Content, Timestamp> = (0..=3 * IN_ONE).map(|n| (content(n), time)).collect();
        let records = records_of(&"w".repeat(128), &times);
        assert_eq!(records.len(), 4);
        assert!(records.iter().all(|record| serde_json::to_vec(record).unwrap().len() as u64 <= MAX_RECORD));
        let said = records.into_iter().flat_map(|record| record.images);
        assert_eq!(
            said.map(|pushed| ((pushed.image, pushed.tag), pushed.time)).collect::<BTreeMap<_, _>>(),
            times
        );
        assert!(records_of("w", &BTreeMap::new()).is_empty());
    }
}
