//! Records in the registry: small JSON documents, each under a tag of its own whose order is that of time.
//!
//! No registry replaces a tag only if it still is what it was, so nothing that several jobs write is ever replaced: each
//! writes a record of its own, and who reads them all knows what each of them has done or is about to do.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use imgforge_registry::{Digest, ProgressSink, PushImage, Reference};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;
use crate::registry::{AT_ONCE, FamilyRegistry};

/// The largest record that is read, in bytes: some ten thousand tags.
const MAX_RECORD: u64 = 4 << 20;
/// The form of a time in a tag, in UTC, with milliseconds.
const TIME: &str = "%Y%m%dT%H%M%S%3fZ";

/// One kind of records.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    /// The repository beside the images.
    pub(super) repository: &'static str,
    /// The beginning of their tags.
    pub(super) prefix: &'static str,
}

/// A record as it lies in the registry.
#[derive(Debug, Clone)]
pub(super) struct Kept<T> {
    /// Its tag.
    pub(super) id: String,
    /// Of its manifest.
    pub(super) digest: Digest,
    pub(super) content: T,
}

impl FamilyRegistry {
    /// Writes a record. Its id comes after those of all records that are there, also where another machine's clock is
    /// ahead.
    pub(super) async fn keep_record(&self, kind: Kind, record: &impl Serialize) -> Result<String, Error> {
        let repository = self.repository(kind.repository);
        let last = self.record_ids(kind).await?.pop();
        let config = serde_json::to_vec(record).expect("a record is plain data");
        let id = id_after(kind.prefix, last.as_deref(), Timestamp::now(), &config);
        let image = PushImage { config, layers: Vec::new(), annotations: BTreeMap::new() };
        let pushed = self.client.push_image(&repository, &image, ProgressSink::silent()).await?;
        self.client.put_manifest(&repository, &Reference::tag(&id)?, &pushed.manifest).await?;
        Ok(id)
    }

    /// The ids of all records, the oldest first.
    pub(super) async fn record_ids(&self, kind: Kind) -> Result<Vec<String>, Error> {
        let mut tags = self.client.tags(&self.repository(kind.repository)).await?;
        // A tag that only looks like an id would be the last of them, and take the order away.
        tags.retain(|tag| time_of(kind.prefix, tag).is_some());
        Ok(tags)
    }

    /// Reads records. One that is gone is left out, and one that a later imgforge wrote and this one does not understand.
    pub(super) async fn read_records<T: DeserializeOwned>(
        &self,
        kind: Kind,
        ids: impl IntoIterator<Item = String>,
    ) -> Result<Vec<Kept<T>>, Error> {
        let repository = self.repository(kind.repository);
        let read = ids.into_iter().map(|id| {
            let (client, repository) = (&self.client, &repository);
            async move {
                let Some(manifest) = client.manifest(repository, &Reference::tag(&id)?).await? else {
                    return Ok(None);
                };
                let Some(config) = manifest.config() else { return Ok(None) };
                let text = client.blob(repository, config, MAX_RECORD).await?;
                let digest = manifest.digest().clone();
                let content = serde_json::from_slice(&text).ok();
                Ok::<_, Error>(content.map(|content| Kept { id, digest, content }))
            }
        });
        let read =
            futures_util::stream::StreamExt::buffer_unordered(futures_util::stream::iter(read), AT_ONCE);
        read.try_filter_map(|row| async { Ok(row) }).try_collect().await
    }
}

/// `PREFIX` and the time, or where a record of that time or a later one is there, the millisecond after that; and some
/// digits of a hash of the content, which tell apart those of one moment.
fn id_after(prefix: &str, last: Option<&str>, now: Timestamp, content: &[u8]) -> String {
    let after = last
        .and_then(|id| time_of(prefix, id))
        .and_then(|last| last.checked_add(jiff::SignedDuration::from_millis(1)).ok());
    let time = after.map_or(now, |after| after.max(now));
    let hash = blake3::hash(content).to_hex();
    format!("{prefix}{}-{}", time.strftime(TIME), &hash[..8])
}

/// The time that an id says; `None` for a tag that is none.
fn time_of(prefix: &str, id: &str) -> Option<Timestamp> {
    let (time, _) = id.strip_prefix(prefix)?.split_once('-')?;
    let (date, clock) = time.strip_suffix('Z')?.split_once('T')?;
    let is_number = |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(date, 8) || !is_number(clock, 9) {
        return None;
    }
    let part = |text: &str, from: usize, to: usize| text[from..to].parse().ok();
    let nanoseconds = clock[6..].parse::<i32>().ok()? * 1_000_000;
    let date_time = DateTime::new(
        date[..4].parse().ok()?,
        part(date, 4, 6)?,
        part(date, 6, 8)?,
        part(clock, 0, 2)?,
        part(clock, 2, 4)?,
        part(clock, 4, 6)?,
        nanoseconds,
    );
    TimeZone::UTC.to_timestamp(date_time.ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn an_id_comes_after_those_that_are_there_whatever_the_clock_says() {
        let now = at("2026-11-24T09:30:00.250Z");
        let first = id_after("p-", None, now, b"a");
        assert!(first.starts_with("p-20261124T093000250Z-"), "{first}");
        for last in [&first, "p-20261124T093000250Z-ffffffff", "p-20991231T235959999Z-00000000"] {
            let next = id_after("p-", Some(last), now, b"b");
            assert!(next.as_str() > last, "{next} after {last}");
        }
        assert!(
            id_after("p-", Some("p-20991231T235959999Z-0"), now, b"").starts_with("p-21000101T000000000Z-")
        );
        // What is no id of ours stands in nobody's way.
        for other in
            ["p-", "p-x-y", "p-20261399T000000000Z-0", "p-99999999T999999999Z-0", "q-20261124T093000250Z-0"]
        {
            assert!(id_after("p-", Some(other), now, b"a").starts_with("p-20261124T093000250Z-"), "{other}");
        }
    }
}
