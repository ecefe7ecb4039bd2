//! Records in the registry: small JSON documents, each under a tag of its own whose order is that of time.
//!
//! No registry replaces a tag only if it still is what it was, so nothing that several jobs write is ever replaced:
//! each writes a record of its own, and who reads them all knows what each of them has done or is about to do.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{FutureExt, StreamExt, TryStreamExt};
use imgforge_oci::{Digest, TagOrDigest};
use imgforge_registry::{ProgressSink, PushArtifact, PushImage, Pushed};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::registry::{AT_ONCE, FamilyRegistry};

/// The largest record that is read, in bytes: some ten thousand tags.
pub(super) const MAX_RECORD: u64 = 4 << 20;
/// The form of a time in a tag, in UTC, with milliseconds.
const TIME: &str = "%Y%m%dT%H%M%S%3fZ";

/// One kind of records.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    /// The repository beside the images.
    pub(super) repository: &'static str,
    /// The beginning of their tags.
    pub(super) prefix: &'static str,
    /// The type of the artifact that each of them is, and of its only file.
    pub(super) media_type: &'static str,
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

/// The records of a kind, as they were read.
#[derive(Debug)]
pub(super) struct Records<T> {
    pub(super) kept: Vec<Kept<T>>,
    /// The records that cannot be read, the oldest first.
    pub(super) unread: Vec<Unread>,
}

/// A record that is there, and that nobody here can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unread {
    pub(super) id: String,
    /// The digest of its manifest, where the registry says it.
    pub(super) digest: Option<Digest>,
    /// The place: its repository and its tag.
    place: String,
    reason: String,
    /// The registry has lost what it says. Otherwise another imgforge may understand it.
    is_lost: bool,
    time: Option<Timestamp>,
}

impl Unread {
    /// Returns the words that say which record it is, and why it cannot be read.
    pub(super) fn told(&self) -> String {
        let digest = self.digest.as_ref().map_or("without a digest", Digest::as_str);
        format!("the record {} ({digest}) cannot be read: {}", self.place, self.reason)
    }

    /// Returns a warning of it that says what to do.
    pub(super) fn warning(&self) -> String {
        let what_to_do = if self.is_lost {
            "`imgforge prune --registry --yes` removes it once it is older than what --keep-days keeps"
        } else {
            "an imgforge of another version may have written it, and can read it"
        };
        format!("{}; it is passed over; {what_to_do}", self.told())
    }

    /// Returns whether nobody will ever read it, and it was written before this moment: a registry whose parts do not
    /// agree for a while may still find what it says.
    pub(super) fn can_go(&self, moment: Timestamp) -> bool {
        self.is_lost && self.time.is_some_and(|time| time <= moment)
    }
}

/// The part of a record that every version has.
#[derive(Deserialize)]
struct Owner {
    workspace: String,
}

impl FamilyRegistry {
    /// Writes a record, and returns its id and the digest of its manifest. The id comes after those of all records
    /// that are there, also where another machine's clock is ahead.
    pub(super) async fn keep_record(
        &self,
        kind: Kind,
        record: &impl Serialize,
    ) -> Result<(String, Digest), Error> {
        let repository = self.repository(kind.repository);
        let last = self.record_ids(kind).await?.pop();
        let text = serde_json::to_vec(record).expect("a record is plain data");
        let id = id_after(kind.prefix, last.as_deref(), Timestamp::now(), &text);
        let artifact = PushArtifact {
            kind: kind.media_type.into(),
            text: Some((kind.media_type.into(), text.clone())),
            files: Vec::new(),
        };
        let image = PushImage { config: text, layers: Vec::new(), annotations: BTreeMap::new() };
        let pushed = self.push_artifact(&repository, &artifact, &image).await?;
        self.client.put_manifest(&repository, &TagOrDigest::tag(&id)?, &pushed.manifest).await?;
        Ok((id, pushed.digest))
    }

    /// Pushes an artifact, or where the registry takes none, an image with the same in it.
    pub(super) async fn push_artifact(
        &self,
        repository: &str,
        artifact: &PushArtifact,
        image: &PushImage,
    ) -> Result<Pushed, Error> {
        let silent = ProgressSink::silent;
        match self.client.push_artifact(repository, artifact, silent()).await {
            Err(error) if error.is_refusal_of_content() => {
                Ok(self.client.push_image(repository, image, silent()).await?)
            }
            pushed => Ok(pushed?),
        }
    }

    /// The ids of all records, the oldest first.
    pub(super) async fn record_ids(&self, kind: Kind) -> Result<Vec<String>, Error> {
        let mut tags = self.client.tags(&self.repository(kind.repository)).await?;
        // A tag that only looks like an id would be the last of them, and take the order away.
        tags.retain(|tag| time_of(kind.prefix, tag).is_some());
        Ok(tags)
    }

    /// Reads records, and returns those that are of this workspace. One that is gone is left out.
    pub(super) async fn read_records<T: DeserializeOwned + Send>(
        &self,
        kind: Kind,
        ids: impl IntoIterator<Item = String>,
    ) -> Result<Records<T>, Error> {
        let read: Vec<_> = ids.into_iter().map(|id| self.read_record(kind, id).boxed()).collect();
        let mut found = futures_util::stream::iter(read).buffer_unordered(AT_ONCE);
        let mut records = Records { kept: Vec::new(), unread: Vec::new() };
        while let Some(record) = found.try_next().await? {
            match record {
                Some(Ok(kept)) => records.kept.push(kept),
                Some(Err(unread)) => records.unread.push(unread),
                None => {}
            }
        }
        records.unread.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(records)
    }

    async fn read_record<T: DeserializeOwned>(
        &self,
        kind: Kind,
        id: String,
    ) -> Result<Option<Result<Kept<T>, Unread>>, Error> {
        let repository = self.repository(kind.repository);
        let tag = TagOrDigest::tag(&id)?;
        let unread = |digest: Option<Digest>, reason: String, is_lost: bool| {
            let (id, time) = (id.clone(), time_of(kind.prefix, &id));
            let place = format!("{}/{}:{id}", self.place, kind.repository);
            Ok(Some(Err(Unread { id, digest, place, reason, is_lost, time })))
        };
        let manifest = match self.client.manifest(&repository, &tag).await {
            Ok(Some(manifest)) => manifest,
            Ok(None) => return Ok(None),
            Err(error) if is_about_content(&error) => {
                let digest = self.client.digest(&repository, &tag).await?;
                return unread(digest, error.to_string(), is_lost(&error));
            }
            Err(error) => return Err(error.into()),
        };
        let digest = Some(manifest.digest().clone());
        let Some(image) = manifest.image() else {
            return unread(digest, "it is an index of images".into(), false);
        };
        // Before there were artifacts, and where a registry takes none, a record is the configuration of an image.
        let content = match (&image.artifact_type, image.layers.first()) {
            (None, _) => &image.config,
            (Some(_), Some(file)) => file,
            (Some(kind), None) => {
                return unread(digest, format!("it is an artifact of the type {kind} without a file"), false);
            }
        };
        let text = match self.client.blob(&repository, content, MAX_RECORD).await {
            Ok(text) => text,
            Err(error) if is_about_content(&error) => {
                return unread(digest, error.to_string(), is_lost(&error));
            }
            Err(error) => return Err(error.into()),
        };
        let owner = serde_json::from_slice::<Owner>(&text);
        if owner.as_ref().is_ok_and(|owner| owner.workspace != self.workspace) {
            return Ok(None);
        }
        match owner.and_then(|_| serde_json::from_slice(&text)) {
            Ok(content) => Ok(Some(Ok(Kept { digest: manifest.digest().clone(), content, id }))),
            Err(error) => unread(digest, format!("this imgforge does not understand it ({error})"), false),
        }
    }

    /// Removes records, less those that have the manifest of one of `others`: two of the same content are one manifest.
    pub(super) async fn remove_records(
        &self,
        kind: Kind,
        gone: &BTreeSet<Digest>,
        others: &BTreeSet<Digest>,
    ) -> Result<(), Error> {
        let repository = self.repository(kind.repository);
        let delete = |digest| self.client.delete_manifest(&repository, digest).boxed();
        let asked: Vec<_> = gone.difference(others).map(delete).collect();
        Ok(futures_util::stream::iter(asked).buffer_unordered(AT_ONCE).try_collect().await?)
    }
}

/// Returns whether an error is about what the registry has, and not about the registry.
fn is_about_content(error: &imgforge_registry::Error) -> bool {
    use imgforge_registry::Error as E;
    is_lost(error) || matches!(error, E::Answer { .. })
}

/// Returns whether an error says that what a digest is of is not there any more.
fn is_lost(error: &imgforge_registry::Error) -> bool {
    use imgforge_registry::Error as E;
    matches!(error, E::Incomplete { .. } | E::Digest { .. })
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
