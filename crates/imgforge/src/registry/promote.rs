//! Moves release tags in the registry, parents first, and back.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, TryStreamExt};
use imgforge_core::event::Event;
use imgforge_core::name::{ImageName, Tag};
use imgforge_core::promotion::{self, Move, Record, Records, ReleaseTag, WayBack};
use imgforge_engine::EventSender;
use imgforge_registry::{Digest, Manifest, ProgressSink, PushImage, Reference};

use crate::registry::{AT_ONCE, BASE_DIGEST, BASE_NAME, FINGERPRINT, FamilyRegistry, Remote};
use crate::{Error, Session};

/// Where records are kept, beside the images.
const RECORDS: &str = "imgforge.promotions";
/// What the tag of a record begins with.
const RECORD: &str = "p-";
/// The largest record that is read, in bytes: some ten thousand moves.
const MAX_RECORD: u64 = 4 << 20;

/// A release tag in the registry that leads to an image which stands on an old parent.
#[derive(Debug, Clone)]
pub struct OldBase {
    /// The image.
    pub image: ImageName,
    /// Its tag.
    pub tag: Tag,
    /// The parent.
    pub base: ImageName,
    /// The digest of the parent that it was built on.
    pub digest: String,
    /// The digest that the parent's release tag leads to now.
    pub newest: String,
}

/// What a promotion did, or would do.
#[derive(Debug, Clone, Default)]
pub struct Promotion {
    /// The id of its record; none when nothing was moved.
    pub id: Option<String>,
    /// The tags that moved, parents first.
    pub moves: Vec<Move>,
    /// How many tags pointed to the right image already.
    pub kept: usize,
    /// Tags that the earlier promotion did not have, and that stay as they are.
    pub newer: Vec<ReleaseTag>,
    /// The record that tags went back to.
    pub back_to: Option<String>,
}

impl Session {
    /// Makes the release tags of images point to what is in the registry for them: verifies each image and all its
    /// ancestors, keeps a record, and then moves the tags, parents first. It can be run again after whatever happened.
    pub(crate) async fn promote_remotes(
        &self,
        registry: &FamilyRegistry,
        selected: &[ImageName],
        remotes: &BTreeMap<ImageName, Remote>,
        dry_run: bool,
        events: &EventSender,
    ) -> Result<Promotion, Error> {
        let mut wanted: Vec<(ReleaseTag, Digest)> = Vec::new();
        for name in selected {
            let Some(remote) = remotes.get(name) else { continue };
            let tags = self.release_tags(name).map_err(Error::Problems)?;
            wanted.extend(tags.into_iter().map(|tag| ((name.clone(), tag), remote.digest.clone())));
        }
        // Every image that a tag will lead to, and all that it stands on.
        let mut tree: BTreeSet<&ImageName> = selected.iter().collect();
        tree.extend(selected.iter().flat_map(|name| self.graph.ancestors(name)));
        let missing: Vec<String> =
            tree.iter().filter(|name| !remotes.contains_key(**name)).map(ToString::to_string).collect();
        if !missing.is_empty() {
            return Err(Error::NotPushed { images: missing });
        }
        let verified = tree.iter().map(|name| async {
            let remote = &remotes[*name];
            registry.client.verify(&registry.repository(name.as_str()), &remote.digest).await
        });
        let verified = futures_util::stream::iter(verified).buffer_unordered(AT_ONCE);
        verified.try_collect::<Vec<Manifest>>().await?;

        let current = registry.tags_now(wanted.iter().map(|(tag, _)| tag.clone())).await?;
        let mut promotion = Promotion::default();
        for (tag, to) in wanted {
            let (from, to) = (current.get(&tag).cloned(), to.to_string());
            if from.as_ref() == Some(&to) {
                promotion.kept += 1;
            } else {
                promotion.moves.push(Move { image: tag.0, tag: tag.1, from, to });
            }
        }
        if !dry_run {
            self.carry_out_moves(registry, &mut promotion, events).await?;
        }
        Ok(promotion)
    }

    /// Brings the tags of images (parents first) back to where an earlier promotion left them: the one with this id, or
    /// the one before that which stands now.
    pub(crate) async fn roll_back(
        &self,
        registry: &FamilyRegistry,
        selected: &[ImageName],
        to: Option<&str>,
        dry_run: bool,
        events: &EventSender,
    ) -> Result<Promotion, Error> {
        let records = self.records(registry).await?;
        let id = match to {
            Some(id) if records.contains_key(id) => id,
            Some(id) => return Err(Error::NoPromotion { id: Some(id.to_owned()), known: known(&records) }),
            None => promotion::previous(&records)
                .ok_or_else(|| Error::NoPromotion { id: None, known: known(&records) })?,
        };
        let tags = promotion::state_after(&records, id).into_keys();
        let current = registry.tags_now(tags.filter(|(image, _)| selected.contains(image))).await?;
        let WayBack { moves, newer } = promotion::way_back(&records, id, selected, &current);
        // What it goes back to must still be whole before the first tag moves.
        let verified = moves.iter().map(|moved| async {
            let digest = digest(&moved.to)?;
            Ok::<_, Error>(registry.client.verify(&registry.repository(moved.image.as_str()), &digest).await?)
        });
        futures_util::stream::iter(verified).buffer_unordered(AT_ONCE).try_collect::<Vec<Manifest>>().await?;
        let mut promotion = Promotion { moves, newer, back_to: Some(id.to_owned()), ..Promotion::default() };
        if !dry_run {
            self.carry_out_moves(registry, &mut promotion, events).await?;
        }
        Ok(promotion)
    }

    async fn carry_out_moves(
        &self,
        registry: &FamilyRegistry,
        promotion: &mut Promotion,
        events: &EventSender,
    ) -> Result<(), Error> {
        if promotion.moves.is_empty() {
            return Ok(());
        }
        let now = jiff::Timestamp::now();
        let record = Record {
            version: promotion::VERSION,
            workspace: self.workspace.manifest.name.value.clone(),
            time: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            commit: self.commit(),
            back_to: promotion.back_to.clone(),
            moves: promotion.moves.clone(),
        };
        // Kept before anything moves: what was pointed to is then known whatever happens.
        promotion.id = Some(registry.keep_record(&record, now).await?);
        // An image's tags at once, images one after another: parents come first.
        for group in promotion.moves.chunk_by(|a, b| a.image == b.image) {
            let repository = registry.repository(group[0].image.as_str());
            let to = digest(&group[0].to)?;
            let manifest = registry.client.manifest(&repository, &Reference::Digest(to)).await?;
            let manifest =
                manifest.ok_or_else(|| Error::NotPushed { images: vec![group[0].image.to_string()] })?;
            for moved in group {
                registry.put_tag(&repository, moved.tag.as_str(), &manifest).await?;
            }
            let tags = group.iter().map(|moved| moved.tag.clone()).collect();
            events(Event::Promoted { target: group[0].image.clone(), tags });
        }
        Ok(())
    }

    /// The release tags in the registry that lead to images which stand on another one than their parent's release tag
    /// leads to now. Only the registry is asked.
    pub(crate) async fn old_bases(&self, registry: &FamilyRegistry) -> Result<Vec<OldBase>, Error> {
        let mut tags: Vec<ReleaseTag> = Vec::new();
        let mut first: BTreeMap<ImageName, Tag> = BTreeMap::new();
        for name in self.graph.topological() {
            let own = self.release_tags(name).map_err(Error::Problems)?;
            first.extend(own.first().map(|tag| (name.clone(), tag.clone())));
            tags.extend(own.into_iter().map(|tag| (name.clone(), tag)));
        }
        let look = async |tag: ReleaseTag| {
            let repository = registry.repository(tag.0.as_str());
            let found = registry.client.manifest(&repository, &Reference::tag(tag.1.as_str())?).await?;
            Ok::<_, Error>(found.map(|manifest| (tag, manifest)))
        };
        let found = futures_util::stream::iter(tags.into_iter().map(look)).buffer_unordered(AT_ONCE);
        let found: BTreeMap<ReleaseTag, Manifest> =
            found.try_filter_map(|row| async { Ok(row) }).try_collect().await?;
        let old = |(tag, manifest): (&ReleaseTag, &Manifest)| {
            let said = |key: &str| manifest.annotations().get(key).cloned();
            let (base, digest) = (said(BASE_NAME)?, said(BASE_DIGEST)?);
            let name = base.strip_prefix(&registry.place)?.strip_prefix('/')?;
            let (name, newest) = first.get_key_value(name)?;
            let newest = found.get(&(name.clone(), newest.clone()))?.digest().to_string();
            let is_old = digest != newest;
            let (image, tag) = tag.clone();
            is_old.then(|| OldBase { image, tag, base: name.clone(), digest, newest })
        };
        let mut bases = Vec::new();
        for base in found.iter().filter_map(old) {
            if !registry.are_same(&base.base, [&base.digest, &base.newest]).await? {
                bases.push(base);
            }
        }
        Ok(bases)
    }

    /// The records of all promotions of this workspace.
    pub(crate) async fn records(&self, registry: &FamilyRegistry) -> Result<Records, Error> {
        let repository = registry.repository(RECORDS);
        let tags = registry.client.tags(&repository).await?;
        let read = tags.into_iter().filter(|tag| tag.starts_with(RECORD)).map(|tag| {
            let (client, repository) = (&registry.client, &repository);
            async move {
                let Some(manifest) = client.manifest(repository, &Reference::tag(&tag)?).await? else {
                    return Ok(None);
                };
                let Some(config) = manifest.config() else { return Ok(None) };
                let text = client.blob(repository, config, MAX_RECORD).await?;
                // A later imgforge may write what this one does not understand: it cannot go back to that.
                let record = serde_json::from_slice::<Record>(&text).ok();
                Ok::<_, Error>(record.map(|record| (tag, record)))
            }
        });
        let read: Vec<_> = futures_util::stream::iter(read).buffer_unordered(AT_ONCE).try_collect().await?;
        let workspace = &self.workspace.manifest.name.value;
        Ok(read.into_iter().flatten().filter(|(_, record)| record.workspace == *workspace).collect())
    }
}

impl FamilyRegistry {
    /// What these tags point to now; those that are not there are left out.
    async fn tags_now(
        &self,
        tags: impl Iterator<Item = ReleaseTag>,
    ) -> Result<BTreeMap<ReleaseTag, String>, Error> {
        let asked = tags.map(|tag| async move {
            let repository = self.repository(tag.0.as_str());
            let digest = self.client.digest(&repository, &Reference::tag(tag.1.as_str())?).await?;
            Ok::<_, Error>(digest.map(|digest| (tag, digest.to_string())))
        });
        let found = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE);
        found.try_filter_map(|row| async { Ok(row) }).try_collect().await
    }

    /// Whether two digests of an image have one fingerprint. Two jobs of one commit that build it at the same moment give it
    /// two digests, and each is as good as the other.
    async fn are_same(&self, name: &ImageName, digests: [&str; 2]) -> Result<bool, Error> {
        let repository = self.repository(name.as_str());
        let mut said = Vec::new();
        for text in digests {
            // What is no digest is nobody's.
            let Ok(digest) = text.parse() else { return Ok(false) };
            let manifest = self.client.manifest(&repository, &Reference::Digest(digest)).await?;
            said.push(manifest.and_then(|manifest| manifest.annotations().get(FINGERPRINT).cloned()));
        }
        Ok(said[0].is_some() && said[0] == said[1])
    }

    async fn keep_record(&self, record: &Record, now: jiff::Timestamp) -> Result<String, Error> {
        let config = serde_json::to_vec(record).expect("a record is plain data");
        let hash = blake3::hash(&config).to_hex();
        // Two at the same moment differ in their hash.
        let id = format!("{RECORD}{}-{}", now.strftime("%Y%m%dT%H%M%S%3fZ"), &hash[..8]);
        let repository = self.repository(RECORDS);
        let image = PushImage { config, layers: Vec::new(), annotations: BTreeMap::new() };
        let pushed = self.client.push_image(&repository, &image, ProgressSink::silent()).await?;
        self.client.put_manifest(&repository, &Reference::tag(&id)?, &pushed.manifest).await?;
        Ok(id)
    }
}

fn digest(text: &str) -> Result<Digest, Error> {
    text.parse().map_err(|message| Error::Archive { message })
}

fn known(records: &Records) -> Vec<String> {
    records.keys().rev().take(10).cloned().collect()
}
