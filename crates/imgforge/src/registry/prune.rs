//! Removes what nobody needs any more: images in the engine, downloaded packages, content tags in the registry.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use futures_util::{FutureExt, StreamExt, TryStreamExt};
use imgforge_core::fingerprint::Fingerprint;
use imgforge_core::name::ImageName;
use imgforge_core::plan::Inventory;
use imgforge_core::promotion;
use imgforge_oci::annotation::{BASE_DIGEST, BASE_NAME};
use imgforge_oci::reference::Parts;
use imgforge_oci::{Digest, Manifest, TagOrDigest};
use jiff::{SignedDuration, Timestamp};

use crate::prepare::Tags;
use crate::registry::promote::{Known, PROMOTIONS};
use crate::registry::pushes::{Content, PUSHES, PushTimes};
use crate::registry::records::{Kind, Unread};
use crate::registry::revisions::ContentTags;
use crate::registry::{AT_ONCE, FamilyRegistry};
use crate::{Error, Session};

/// The length of a content tag: `f-` and 32 hex digits.
const CONTENT_TAG_LEN: usize = 34;
/// The number of records of promotions that are kept, unless more can be gone back to.
const HISTORY: usize = 100;
/// Downloaded packages that were used since then are kept: other workspaces of the user share them.
const UNUSED: Duration = Duration::from_secs(7 * 24 * 3600);

/// The limits of what is kept.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// Look into the registry too.
    pub registry: bool,
    /// The number of promotions that can still be gone back to.
    pub promotions: usize,
    /// The age below which everything in the registry is kept: another job may be about to promote it.
    pub age: Duration,
    /// Git revisions and ranges of them: what the workspace described there is kept in the registry.
    pub keep: Vec<String>,
    /// Remove it; otherwise only say what would be removed.
    pub yes: bool,
}

impl Default for PruneOptions {
    fn default() -> Self {
        let age = Duration::from_secs(7 * 24 * 3600);
        Self { registry: false, promotions: 10, age, keep: Vec::new(), yes: false }
    }
}

/// The things that were removed, or would be.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Images of the engine.
    pub images: Vec<PrunedImage>,
    /// The number of the workspace's images that stay in the engine.
    pub images_kept: usize,
    /// The number of downloaded packages that were removed.
    pub packages: usize,
    /// Their bytes.
    pub package_bytes: u64,
    /// The size in bytes of what the embedded engine keeps beside images and none of them needs (layers, steps).
    pub store_bytes: u64,
    /// Manifests in the registry.
    pub manifests: Vec<PrunedManifest>,
    /// The number of manifests under content tags that stay in the registry.
    pub manifests_kept: usize,
    /// The number of these that stay only because they are young.
    pub manifests_young: usize,
    /// Records in the registry that nobody needs or can read, as `REPOSITORY:ID`.
    pub records: Vec<String>,
    /// Warnings of records that cannot be read, each in one line.
    pub warnings: Vec<String>,
}

/// An image of the engine that nothing needs.
#[derive(Debug, Clone)]
pub struct PrunedImage {
    /// The image in the workspace, or the reference of one that came from an OCI image layout.
    pub name: String,
    /// The engine's id.
    pub id: Digest,
    /// Its names; all are content tags, or made for what came from a layout.
    pub references: Vec<String>,
}

/// A manifest in the registry that nothing needs.
#[derive(Debug, Clone)]
pub struct PrunedManifest {
    /// The image in the workspace.
    pub name: ImageName,
    /// Its content tags.
    pub tags: Vec<String>,
    /// Its digest.
    pub digest: String,
}

impl Session {
    /// Finds what nobody needs any more, and removes it if `yes`. Needed is what the workspace describes now, what
    /// has a release tag or another tag that is no content tag, and what a container was made from; in the registry
    /// also what these images stand on, what earlier promotions led to, what other commits described, and what is
    /// young.
    ///
    /// # Errors
    /// An engine or a registry that cannot be reached; [`Error::NoRegistry`]; [`Error::Revision`]. A registry in
    /// which removing is switched off says so before anything is removed there.
    pub fn prune(&self, options: &PruneOptions) -> Result<Pruned, Error> {
        let lock = self.read_lock()?;
        self.check_lock(&lock)?;
        let all: BTreeSet<ImageName> = self.workspace.images.keys().cloned().collect();
        let prepared = self.prepare_with(&all, &lock, &[], Tags::LeftOut)?;
        let current: BTreeMap<ImageName, Fingerprint> = prepared
            .iter()
            .map(|prepared| (prepared.target.name.clone(), prepared.target.fingerprint))
            .collect();
        // Before anything is asked: what is not known is not removed.
        let kept = self.content_tags_at(&options.keep)?;
        self.runtime()?.block_on(async {
            let mut pruned = Pruned::default();
            let engine = self.engine().await?;
            let inventory = engine.inventory(&self.workspace.manifest.name.value).await?;
            let in_use = engine.images_in_use().await?;
            (pruned.images, pruned.images_kept) = unneeded(&inventory, &current, &in_use);
            for (name, reference) in self.loaded_before(&lock) {
                let stored = engine.stored(&name).await?.filter(|stored| !in_use.contains(&stored.id));
                if let Some(stored) = stored {
                    let references = vec![name];
                    pruned.images.push(PrunedImage { name: reference, id: stored.id, references });
                }
            }
            let locked: BTreeSet<&str> =
                lock.packages.iter().map(|package| package.sha256.as_str()).collect();
            let packages = old_packages(&locked)?;
            pruned.packages = packages.len();
            pruned.package_bytes = packages.iter().map(|(_, size)| size).sum();
            let registry = if options.registry { Some(self.needed_registry()?) } else { None };
            if let Some(registry) = &registry {
                let found = self.unneeded_there(registry, &current, &kept, options).await?;
                pruned.manifests_kept = found.kept.len();
                pruned.manifests_young = found.young;
                pruned.manifests = found.gone.iter().map(Listed::pruned).collect();
                pruned.records = found.records.gone();
                pruned.warnings = found.records.warnings();
            }
            if options.yes {
                for image in &pruned.images {
                    // A name that somebody has given meanwhile keeps the image.
                    for reference in &image.references {
                        engine.untag(reference).await?;
                    }
                    if image.references.is_empty() {
                        engine.untag(image.id.as_str()).await?;
                    }
                }
                for (file, _) in &packages {
                    // Another process may remove it as well.
                    let _ = std::fs::remove_file(file);
                }
                if let Some(registry) = &registry {
                    // Once more: somebody may have promoted meanwhile what was to go.
                    let found = self.unneeded_there(registry, &current, &kept, options).await?;
                    let shown: BTreeSet<_> = pruned.manifests.drain(..).map(|row| row.digest).collect();
                    let gone = found.gone.iter().map(Listed::pruned);
                    pruned.manifests = gone.filter(|row| shown.contains(&row.digest)).collect();
                    registry.delete(&pruned.manifests).await?;
                    pruned.records = found.records.gone();
                    registry.delete_records(&found.records).await?;
                    let there: Vec<Content> = found.kept.iter().flat_map(Listed::contents).collect();
                    registry.tidy_push_times(&found.records.times, &there, found.records.moment).await?;
                }
            }
            // Last: what the images that have gone needed goes too.
            pruned.store_bytes = engine.tidy(options.yes).await?;
            Ok(pruned)
        })
    }
}

impl Session {
    /// Sorts what is in the registry into what is needed and what is not.
    async fn unneeded_there(
        &self,
        registry: &FamilyRegistry,
        current: &BTreeMap<ImageName, Fingerprint>,
        kept: &ContentTags,
        options: &PruneOptions,
    ) -> Result<Found, Error> {
        let listed = registry.listed_all(current.keys()).await?;
        // After the tags: who pushes or promotes writes his record first.
        let times = registry.push_times().await?;
        let promotions = self.records(registry).await?;
        let mut needed = promotion::reachable(&promotions.records, options.promotions);
        let is_needed = |entry: &&Listed| {
            let current = current[&entry.name].content_tag();
            let is_kept = |tag: &String| kept.contains(&(entry.name.clone(), tag.clone()));
            entry.tags.iter().any(|tag| !is_content_tag(tag) || *tag == current || is_kept(tag))
        };
        needed.extend(listed.iter().filter(is_needed).map(Listed::key));
        keep_bases(&mut needed, &listed, &registry.place);
        let without_age = needed.len();
        // A time that cannot be reckoned with is long ago.
        let age = SignedDuration::try_from(options.age).unwrap_or(SignedDuration::MAX);
        let moment = Timestamp::now().checked_sub(age).unwrap_or(Timestamp::MIN);
        let is_young = |entry: &&Listed| {
            !options.age.is_zero() && entry.contents().any(|content| times.is_after(&content, moment))
        };
        needed.extend(listed.iter().filter(is_young).map(Listed::key));
        keep_bases(&mut needed, &listed, &registry.place);
        let young = needed.len() - without_age;
        let (kept, gone) = listed.into_iter().partition(|entry| needed.contains(&entry.key()));
        let outlived = promotion::outlived(&promotions.records, HISTORY.max(options.promotions));
        let records = FoundRecords { times, promotions, outlived, moment };
        Ok(Found { kept, gone, young, records })
    }
}

/// The content of the registry.
struct Found {
    kept: Vec<Listed>,
    gone: Vec<Listed>,
    /// The number of manifests that stay only because of their age.
    young: usize,
    records: FoundRecords,
}

/// The records in the registry.
struct FoundRecords {
    times: PushTimes,
    promotions: Known,
    /// The ids of promotions that nobody goes back to any more.
    outlived: BTreeSet<String>,
    /// The moment after which what has come is young.
    moment: Timestamp,
}

impl FoundRecords {
    /// Returns all records that cannot be read.
    fn unread(&self) -> impl Iterator<Item = &Unread> {
        self.promotions.unread.iter().chain(&self.times.unread)
    }

    fn warnings(&self) -> Vec<String> {
        self.unread().map(Unread::warning).collect()
    }

    /// Returns those records that nobody will read again.
    fn lost<'f>(&self, unread: &'f [Unread]) -> impl Iterator<Item = &'f Unread> {
        let moment = self.moment;
        unread.iter().filter(move |unread| unread.can_go(moment))
    }

    /// Returns the records that go, as `REPOSITORY:ID`.
    fn gone(&self) -> Vec<String> {
        let named = |kind: Kind| move |id: &String| format!("{}:{id}", kind.repository);
        let promotions = self.lost(&self.promotions.unread).map(|unread| &unread.id).chain(&self.outlived);
        let pushes = self.lost(&self.times.unread).map(|unread| &unread.id);
        promotions.map(named(PROMOTIONS)).chain(pushes.map(named(PUSHES))).collect()
    }
}

/// A manifest in the registry, and the tags that lead to it.
struct Listed {
    name: ImageName,
    tags: Vec<String>,
    manifest: Manifest,
}

impl Listed {
    /// As promotions name it.
    fn key(&self) -> (ImageName, String) {
        (self.name.clone(), self.manifest.digest().to_string())
    }

    /// Its content tags.
    fn contents(&self) -> impl Iterator<Item = Content> {
        let tags = self.tags.iter().filter(|tag| is_content_tag(tag));
        tags.map(|tag| (self.name.clone(), tag.clone()))
    }

    fn pruned(&self) -> PrunedManifest {
        let (name, digest) = self.key();
        PrunedManifest { name, tags: self.tags.clone(), digest }
    }
}

/// Images that stay need those that they stand on, also where these have no other reason to stay.
fn keep_bases(needed: &mut BTreeSet<(ImageName, String)>, listed: &[Listed], place: &str) {
    let by_key: BTreeMap<(&ImageName, &str), &Listed> =
        listed.iter().map(|entry| ((&entry.name, entry.manifest.digest().as_str()), entry)).collect();
    let mut open: Vec<(ImageName, String)> = needed.iter().cloned().collect();
    while let Some((name, digest)) = open.pop() {
        let Some(entry) = by_key.get(&(&name, digest.as_str())) else { continue };
        let said = |key: &str| entry.manifest.annotations().get(key);
        let (Some(base), Some(digest)) = (said(BASE_NAME), said(BASE_DIGEST)) else { continue };
        let base = base.strip_prefix(place).and_then(|rest| rest.strip_prefix('/'));
        let Some(Ok(base)) = base.map(ImageName::new) else { continue };
        let key = (base, digest.clone());
        if needed.insert(key.clone()) {
            open.push(key);
        }
    }
}

fn unneeded(
    inventory: &Inventory,
    current: &BTreeMap<ImageName, Fingerprint>,
    in_use: &BTreeSet<Digest>,
) -> (Vec<PrunedImage>, usize) {
    let (mut gone, mut kept) = (Vec::new(), 0);
    for (name, held) in inventory.all() {
        let is_current = current.iter().any(|(image, fingerprint)| {
            image.as_str() == name && held.complete && *fingerprint == held.fingerprint
        });
        let has_other_name = held.references.iter().any(|reference| !is_content_reference(reference));
        if is_current || has_other_name || in_use.contains(&held.id) {
            kept += 1;
            continue;
        }
        gone.push(PrunedImage {
            name: name.to_owned(),
            id: held.id.clone(),
            references: held.references.iter().cloned().collect(),
        });
    }
    (gone, kept)
}

fn is_content_reference(reference: &str) -> bool {
    Parts::of(reference).tag.is_some_and(is_content_tag)
}

fn is_content_tag(tag: &str) -> bool {
    tag.len() == CONTENT_TAG_LEN
        && tag.strip_prefix("f-").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Downloaded packages that the lock does not name and that nobody has used for a week, with their sizes.
fn old_packages(locked: &BTreeSet<&str>) -> Result<Vec<(std::path::PathBuf, u64)>, Error> {
    let folder = imgforge_packages::Cache::user()?.folder().join("sha256");
    let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        let is_locked = entry.file_name().to_str().is_none_or(|name| locked.contains(name));
        let touched = [meta.modified(), meta.accessed()].into_iter().flatten().max();
        let is_young = touched.is_none_or(|time| {
            SystemTime::now().duration_since(time).is_ok_and(|passed| passed < UNUSED)
                || time > SystemTime::now()
        });
        if meta.is_file() && !is_locked && !is_young {
            found.push((entry.path(), meta.len()));
        }
    }
    Ok(found)
}

impl FamilyRegistry {
    /// Everything that tags of these images lead to.
    async fn listed_all(&self, names: impl Iterator<Item = &ImageName>) -> Result<Vec<Listed>, Error> {
        let asked: Vec<_> = names.map(|name| self.listed(name).boxed()).collect();
        let rows: Vec<Vec<Listed>> =
            futures_util::stream::iter(asked).buffered(AT_ONCE).try_collect().await?;
        Ok(rows.into_iter().flatten().collect())
    }

    /// Removes the records that nobody needs or can read.
    async fn delete_records(&self, found: &FoundRecords) -> Result<(), Error> {
        let lost = |unread| found.lost(unread).filter_map(|unread: &Unread| unread.digest.clone());
        let Known { digests, unread, .. } = &found.promotions;
        let (outlived, others): (Vec<_>, Vec<_>) =
            digests.iter().partition(|(id, _)| found.outlived.contains(*id));
        let others = others.into_iter().map(|(_, digest)| digest.clone()).collect();
        let gone = outlived.into_iter().map(|(_, digest)| digest.clone()).chain(lost(unread)).collect();
        self.remove_records(PROMOTIONS, &gone, &others).await?;
        let gone = lost(&found.times.unread).collect();
        self.remove_records(PUSHES, &gone, &found.times.digests()).await
    }

    async fn delete(&self, manifests: &[PrunedManifest]) -> Result<(), Error> {
        let delete = async |manifest: &PrunedManifest| {
            let digest: Digest = manifest.digest.parse()?;
            let repository = self.repository(manifest.name.as_str());
            Ok::<_, Error>(self.client.delete_manifest(&repository, &digest).await?)
        };
        let asked: Vec<_> = manifests.iter().map(|manifest| delete(manifest).boxed_local()).collect();
        futures_util::stream::iter(asked).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Everything that tags of an image lead to.
    async fn listed(&self, name: &ImageName) -> Result<Vec<Listed>, Error> {
        let repository = self.repository(name.as_str());
        let look = async |tag: String| {
            let found = self.client.manifest(&repository, &TagOrDigest::tag(&tag)?).await?;
            Ok::<_, Error>(found.map(|manifest| (tag, manifest)))
        };
        let tags = self.client.tags(&repository).await?;
        let found = futures_util::stream::iter(tags.into_iter().map(look)).buffer_unordered(AT_ONCE);
        let found: Vec<(String, Manifest)> =
            found.try_filter_map(|row| async { Ok(row) }).try_collect().await?;
        let mut by_digest: BTreeMap<String, Listed> = BTreeMap::new();
        for (tag, manifest) in found {
            let digest = manifest.digest().to_string();
            let entry = Listed { name: name.clone(), tags: Vec::new(), manifest };
            by_digest.entry(digest).or_insert(entry).tags.push(tag);
        }
        let sorted = by_digest.into_values().map(|mut entry| {
            entry.tags.sort();
            entry
        });
        Ok(sorted.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_tags_are_told_from_release_tags() {
        assert!(is_content_tag(&format!("f-{}", "0a".repeat(16))));
        for tag in
            ["latest", "f-0a", "f-", &format!("g-{}", "0a".repeat(16)), &format!("f-{}", "0z".repeat(16))]
        {
            assert!(!is_content_tag(tag), "{tag}");
        }
        assert!(is_content_reference(&format!("127.0.0.1:5000/a/b:f-{}", "00".repeat(16))));
        assert!(!is_content_reference("127.0.0.1:5000/a/b"));
    }
}
