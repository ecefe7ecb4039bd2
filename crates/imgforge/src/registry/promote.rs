//! Moves release tags in the registry, parents first, and back.
//!
//! The life of a promotion: what tags will lead to is written down as used, so that nobody prunes it; all of it is
//! verified; a record of all tags is kept; tags move; then records and tags are read again, until no tag is wrong. A
//! registry has no way to move a tag only if it still is what it was. So when two promotions run into each other,
//! that of the later record wins: the other one finds that record, leads the tags where it says, and ends with an
//! error ([`imgforge_core::promotion`] has the rule, and shows that nothing is left in between).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt, TryStreamExt};
use imgforge_core::event::Event;
use imgforge_core::fingerprint::Fingerprint;
use imgforge_core::name::{ImageName, Tag};
use imgforge_core::promotion::{self, Move, Record, Records, ReleaseTag, WayBack};
use imgforge_engine::EventSender;
use imgforge_oci::annotation::{BASE_DIGEST, BASE_NAME};
use imgforge_oci::{Digest, Manifest, TagOrDigest};

use crate::registry::pushes::Content;
use crate::registry::records::{Kind, Unread};
use crate::registry::{AT_ONCE, FINGERPRINT, FamilyRegistry, Remote};
use crate::{Error, Session};

/// The place of records of promotions.
pub(super) const PROMOTIONS: Kind = Kind {
    repository: "imgforge.promotions",
    prefix: "p-",
    media_type: "application/vnd.imgforge.promotion.v1+json",
};
/// The number of times that tags are moved again which somebody else has moved without a record that says why.
const ROUNDS: usize = 10;
/// While tags move, others' records are looked for when the last look is so long ago.
const LOOK: Duration = Duration::from_millis(500);

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

/// The outcome of a promotion, or what it would do.
#[derive(Debug, Clone, Default)]
pub struct Promotion {
    /// The id of its record; none when nothing was moved.
    pub id: Option<String>,
    /// The tags that moved, parents first.
    pub moves: Vec<Move>,
    /// The number of tags that pointed to the right image already.
    pub kept: usize,
    /// Tags that the earlier promotion did not have, and that stay as they are.
    pub newer: Vec<ReleaseTag>,
    /// The record that tags went back to.
    pub back_to: Option<String>,
}

/// The promotions that there were.
#[derive(Debug, Clone, Default)]
pub struct Promotions {
    /// Their records.
    pub records: Records,
    /// Warnings of records that cannot be read, each in one line.
    pub warnings: Vec<String>,
}

/// The records of promotions, as far as they can be read.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) records: Records,
    /// The digest of the manifest of each.
    pub(super) digests: BTreeMap<String, Digest>,
    /// The records that cannot be read, the oldest first.
    pub(super) unread: Vec<Unread>,
}

impl Known {
    /// Returns a record that cannot be read and may be the one which stands now, or the one before it.
    fn in_question(&self) -> Option<&Unread> {
        let current = promotion::current(&self.records).unwrap_or_default().to_owned();
        let before = self.records.range(..current.clone()).next_back().map(|(id, _)| id);
        let last = self.records.keys().next_back();
        let is_in_question = |id: &String| Some(id) > last || (Some(id) > before && *id < current);
        self.unread.iter().rev().find(|unread| is_in_question(&unread.id))
    }

    /// Returns the newest ids that can be gone back to.
    fn newest(&self) -> Vec<String> {
        self.records.keys().rev().take(10).cloned().collect()
    }
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
        let current = registry.tags_now(wanted.iter().map(|(tag, _)| tag.clone())).await?;
        let moves = wanted.into_iter().map(|(tag, to)| {
            let from = current.get(&tag).cloned();
            Move { image: tag.0, tag: tag.1, from, to: to.to_string() }
        });
        let moves: Vec<Move> = moves.collect();
        if !dry_run && moves.iter().any(Move::is_change) {
            // First: what is there when it is verified is then young for whoever prunes.
            let used = tree.iter().map(|name| remotes[*name].content(name));
            registry.record_pushes(used).await?;
        }
        let verified = tree.iter().map(|name| async {
            let remote = &remotes[*name];
            registry.client.verify(&registry.repository(name.as_str()), &remote.digest).await
        });
        let verified = futures_util::stream::iter(verified).buffer_unordered(AT_ONCE);
        verified.try_collect::<Vec<Manifest>>().await?;
        self.carry_out_moves(registry, moves, Promotion::default(), dry_run, events).await
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
        let known = self.records(registry).await?;
        let records = &known.records;
        let asked = match to {
            Some(id) => known.unread.iter().find(|unread| unread.id == id),
            None => known.in_question(),
        };
        if let Some(unread) = asked {
            return Err(Error::Unread { record: unread.told(), known: known.newest() });
        }
        let id = to.or_else(|| promotion::previous(records)).filter(|id| records.contains_key(*id));
        let id = id.ok_or_else(|| Error::NoPromotion { id: to.map(str::to_owned), known: known.newest() })?;
        for unread in &known.unread {
            events(Event::Warning { message: unread.warning() });
        }
        let tags = promotion::state_after(records, id).into_keys();
        let current = registry.tags_now(tags.filter(|(image, _)| selected.contains(image))).await?;
        let WayBack { moves, newer } = promotion::way_back(records, id, selected, &current);
        if !dry_run && moves.iter().any(Move::is_change) {
            let used = registry.contents_of(&moves).await?;
            registry.record_pushes(used).await?;
        }
        // What it goes back to must still be whole before the first tag moves.
        let verified = moves.iter().filter(|moved| moved.is_change()).map(|moved| async {
            let digest: Digest = moved.to.parse()?;
            Ok::<_, Error>(registry.client.verify(&registry.repository(moved.image.as_str()), &digest).await?)
        });
        futures_util::stream::iter(verified).buffer_unordered(AT_ONCE).try_collect::<Vec<Manifest>>().await?;
        let promotion = Promotion { newer, back_to: Some(id.to_owned()), ..Promotion::default() };
        self.carry_out_moves(registry, moves, promotion, dry_run, events).await
    }

    /// Leads tags where `all` of them are to lead, unless this is a dry run.
    async fn carry_out_moves(
        &self,
        registry: &FamilyRegistry,
        all: Vec<Move>,
        mut promotion: Promotion,
        dry_run: bool,
        events: &EventSender,
    ) -> Result<Promotion, Error> {
        promotion.moves = all.iter().filter(|moved| moved.is_change()).cloned().collect();
        promotion.kept = all.len() - promotion.moves.len();
        if dry_run || promotion.moves.is_empty() {
            return Ok(promotion);
        }
        let record = Record {
            version: promotion::VERSION,
            workspace: self.workspace.manifest.name.value.clone(),
            time: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            commit: self.commit(),
            back_to: promotion.back_to.clone(),
            moves: all,
        };
        // Kept before anything moves: what was pointed to is then known whatever happens.
        let (id, _) = registry.keep_record(PROMOTIONS, &record).await?;
        let records = Records::from([(id.clone(), record)]);
        let mut moving = Moving { registry, id: id.clone(), records, told: BTreeSet::new(), events };
        moving.settle().await?;
        moving.check_overtaken().await?;
        promotion.id = Some(id);
        Ok(promotion)
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
            let found = registry.client.manifest(&repository, &TagOrDigest::tag(tag.1.as_str())?).await?;
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
    pub(super) async fn records(&self, registry: &FamilyRegistry) -> Result<Known, Error> {
        let ids = registry.record_ids(PROMOTIONS).await?;
        registry.promotions(ids).await
    }
}

/// A promotion on its way.
struct Moving<'m> {
    registry: &'m FamilyRegistry,
    id: String,
    /// Its own record, and those that came later.
    records: Records,
    /// The ids of records that cannot be read, and of which was told.
    told: BTreeSet<String>,
    events: &'m EventSender,
}

impl Moving<'_> {
    /// Moves tags until all of them lead where the records say.
    async fn settle(&mut self) -> Result<(), Error> {
        let mut rounds = 0;
        loop {
            // First the records and then the tags: a promotion whose record is not there yet looks at the tags later.
            self.look().await?;
            let wrong = self.wrong().await?;
            if wrong.is_empty() {
                return Ok(());
            }
            if rounds == ROUNDS {
                let tags = wrong.into_iter().map(|((image, tag), _)| format!("{image}:{tag}"));
                return Err(Error::TagsMoved { tags: tags.collect() });
            }
            // A record that came meanwhile says nothing against the tags.
            rounds += usize::from(self.move_all(wrong).await?);
        }
    }

    /// Reads the records that have come since the last look. Whether there were any.
    async fn look(&mut self) -> Result<bool, Error> {
        let ids = self.registry.record_ids(PROMOTIONS).await?.into_iter();
        let new: Vec<String> = ids.filter(|id| *id > self.id && !self.records.contains_key(id)).collect();
        let before = self.records.len();
        let found = self.registry.promotions(new).await?;
        self.records.extend(found.records);
        for unread in found.unread {
            // What it wants is not known; its own promotion leads the tags there.
            if self.told.insert(unread.id.clone()) {
                (self.events)(Event::Warning { message: unread.warning() });
            }
        }
        Ok(self.records.len() > before)
    }

    /// The tags that do not lead where the records say, and where they are to lead.
    async fn wrong(&self) -> Result<Vec<(ReleaseTag, String)>, Error> {
        let mut settled = promotion::settled(&self.records, &self.id);
        let now = self.registry.tags_now(settled.iter().map(|(tag, _)| tag.clone())).await?;
        settled.retain(|(tag, to)| now.get(tag) != Some(to));
        Ok(settled)
    }

    /// Moves these tags, until a record has come that may say something else. Whether all were moved.
    async fn move_all(&mut self, tags: Vec<(ReleaseTag, String)>) -> Result<bool, Error> {
        let mut looked = Instant::now();
        // An image's tags at once, images one after another: parents come first.
        for group in tags.chunk_by(|a, b| a.0.0 == b.0.0 && a.1 == b.1) {
            if looked.elapsed() > LOOK {
                if self.look().await? {
                    return Ok(false);
                }
                looked = Instant::now();
            }
            let ((image, _), to) = &group[0];
            let repository = self.registry.repository(image.as_str());
            let manifest =
                self.registry.client.manifest(&repository, &TagOrDigest::Digest(to.parse()?)).await?;
            let manifest = manifest.ok_or_else(|| Error::NotPushed { images: vec![image.to_string()] })?;
            // What this promotion is to move was looked at before; what another's record says is somebody else's word.
            let is_asked_for = self.records[&self.id].moves.iter().any(|moved| moved.to == *to);
            if !is_asked_for && !self.registry.counts(image, &manifest) {
                return Err(Error::NotBuiltHere { images: vec![image.to_string()] });
            }
            for ((_, tag), _) in group {
                let reference = TagOrDigest::tag(tag.as_str())?;
                match self.registry.client.put_manifest(&repository, &reference, &manifest).await {
                    // Who has moved it, and whether it is to stay, is seen when all are read again.
                    Ok(()) | Err(imgforge_registry::Error::TagMoved { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let is_own = |tag: &ReleaseTag| {
                self.records[&self.id]
                    .moves
                    .iter()
                    .any(|moved| moved.release_tag() == *tag && moved.to == *to)
            };
            let tags: Vec<Tag> =
                group.iter().filter(|(tag, _)| is_own(tag)).map(|((_, tag), _)| tag.clone()).collect();
            if !tags.is_empty() {
                (self.events)(Event::Promoted { target: image.clone(), tags });
            }
        }
        Ok(true)
    }

    /// Returns whether tags lead where a later record says, to other images than this promotion's.
    async fn check_overtaken(&self) -> Result<(), Error> {
        let own = &self.records[&self.id].moves;
        let (mut tags, mut by) = (Vec::new(), "");
        let overtaken = promotion::overtaken(&self.records, &self.id);
        for (tag, later) in &overtaken {
            let to = |id: &str| {
                let mut moves = self.records[id].moves.iter();
                moves.find(|moved| moved.release_tag() == *tag).map_or("", |moved| moved.to.as_str())
            };
            if !self.registry.are_same(&tag.0, [to(&self.id), to(later)]).await? {
                tags.push(format!("{}:{}", tag.0, tag.1));
                by = later.as_str().max(by);
            }
        }
        if tags.is_empty() {
            return Ok(());
        }
        let (all, commit) = (own.len(), self.records[by].commit.clone());
        Err(Error::Overtaken { id: self.id.clone(), by: by.to_owned(), commit, tags, all })
    }
}

impl FamilyRegistry {
    /// Returns what these tags point to now, without those that are not there.
    async fn tags_now(
        &self,
        tags: impl Iterator<Item = ReleaseTag>,
    ) -> Result<BTreeMap<ReleaseTag, String>, Error> {
        let asked = tags.map(|tag| async move {
            let repository = self.repository(tag.0.as_str());
            let digest = self.client.digest(&repository, &TagOrDigest::tag(tag.1.as_str())?).await?;
            Ok::<_, Error>(digest.map(|digest| (tag, digest.to_string())))
        });
        let found = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE);
        found.try_filter_map(|row| async { Ok(row) }).try_collect().await
    }

    /// Returns whether two digests of an image have one fingerprint. Two jobs of one commit that build it at the same
    /// moment give it two digests, and each is as good as the other.
    async fn are_same(&self, name: &ImageName, digests: [&str; 2]) -> Result<bool, Error> {
        let repository = self.repository(name.as_str());
        let mut said = Vec::new();
        for text in digests {
            // What is no digest is nobody's.
            let Ok(digest) = text.parse() else { return Ok(false) };
            let manifest = self.client.manifest(&repository, &TagOrDigest::Digest(digest)).await?;
            said.push(manifest.and_then(|manifest| manifest.annotations().get(FINGERPRINT).cloned()));
        }
        Ok(said[0].is_some() && said[0] == said[1])
    }

    /// Returns the content tags of the images that tags will lead to, as far as these are there.
    async fn contents_of(&self, moves: &[Move]) -> Result<Vec<Content>, Error> {
        let content = async |moved: &Move| {
            let repository = self.repository(moved.image.as_str());
            let manifest = self.client.manifest(&repository, &TagOrDigest::Digest(moved.to.parse()?)).await?;
            let said = manifest.and_then(|manifest| manifest.annotations().get(FINGERPRINT)?.parse().ok());
            Ok::<_, Error>(said.map(|said: Fingerprint| (moved.image.clone(), said.content_tag())))
        };
        let asked: Vec<_> = moves
            .iter()
            .filter(|moved| moved.is_change())
            .map(|moved| content(moved).boxed_local())
            .collect();
        let found = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE);
        found.try_filter_map(|row| async { Ok(row) }).try_collect().await
    }

    /// Reads records of promotions of this workspace.
    async fn promotions(&self, ids: impl IntoIterator<Item = String>) -> Result<Known, Error> {
        let read = self.read_records::<Record>(PROMOTIONS, ids).await?;
        let mut known = Known { unread: read.unread, ..Known::default() };
        for kept in read.kept {
            known.digests.insert(kept.id.clone(), kept.digest);
            known.records.insert(kept.id, kept.content);
        }
        Ok(known)
    }
}
