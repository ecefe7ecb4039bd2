//! Removes what nothing needs any more.
//!
//! The order is such that a process that is killed between two removals leaves only what the next one removes: first
//! the images, then the steps that would lead to their layers, then the layers, then the blobs.

use std::collections::BTreeSet;
use std::fs;
use std::time::SystemTime;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_oci::{Digest, chain_id, layout};

use super::journal::Change;
use super::{Remembered, Scratch, Store, StoreError};

/// The things in a store that nothing needs.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Unneeded {
    /// Ids of images.
    pub images: Vec<Digest>,
    /// Keys of steps.
    pub steps: Vec<String>,
    /// Folders of unpacked layers: the digits of their chain ids.
    pub layers: Vec<String>,
    /// Files of blobs: the digits of their digests.
    pub blobs: Vec<String>,
    /// The size of these blobs and layers, in bytes.
    pub bytes: u64,
}

/// The result of pruning.
pub struct Pruned {
    /// The things that were removed.
    pub removed: Unneeded,
    /// The unpacked layers that were, and what processes that are gone have left: folders that a worker has to remove,
    /// since files in them may belong to others. The store itself is rid of them.
    pub folders: Vec<Utf8PathBuf>,
    /// The folder that these are in.
    pub scratch: Scratch,
}

impl Store {
    /// Returns what neither an image that has a name nor one of the `keep` (ids) needs. What came into being after
    /// `since` is kept: somebody may be about to name it, and the layers of a build's other stages spare work when it
    /// is repeated.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn unneeded(&self, keep: &BTreeSet<Digest>, since: SystemTime) -> Result<Unneeded, StoreError> {
        let mut found = Unneeded::default();
        let (mut blobs, mut chains) = (BTreeSet::new(), BTreeSet::new());
        {
            let mut journal = self.journal();
            journal.read()?;
            let named = journal.with_names();
            let seconds = since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
            for record in journal.images() {
                let is_young = u64::try_from(record.created).is_ok_and(|created| created >= seconds);
                if !named.contains(&record.id) && !keep.contains(&record.id) && !is_young {
                    found.images.push(record.id.clone());
                    continue;
                }
                blobs.extend([record.id.clone(), record.manifest.clone()]);
                let mut below: Option<Digest> = None;
                for layer in &record.layers {
                    blobs.insert(layer.digest.clone());
                    let chain = chain_id(below.as_ref(), &layer.diff_id);
                    chains.insert(chain.clone());
                    below = Some(chain);
                }
            }
        }
        for (name, path) in self.entries("layers")? {
            // What is called otherwise is nobody's.
            let chain = Digest::from_sha256_hex(&name).ok();
            let text = path.join("layer");
            let layer = chain.as_ref().and_then(|chain| self.unpacked_layer(chain).ok().flatten());
            if chain.as_ref().is_some_and(|chain| chains.contains(chain)) || is_young(&text, since) {
                blobs.extend(layer.map(|layer| layer.digest));
                chains.extend(chain);
            } else {
                found.bytes += layer.map_or(0, |layer| layer.unpacked_size);
                found.layers.push(name);
            }
        }
        for (key, path) in self.entries("steps")? {
            let is_needed = match self.step(&key).ok().flatten() {
                Some(Remembered { chain: Some(chain), .. }) => chains.contains(&chain),
                Some(Remembered { chain: None, .. }) => is_young(&path, since),
                None => false,
            };
            if !is_needed {
                found.steps.push(key);
            }
        }
        for (name, path) in self.entries(layout::BLOBS)? {
            let is_needed = Digest::from_sha256_hex(&name).is_ok_and(|digest| blobs.contains(&digest));
            if !is_needed && !is_young(&path, since) {
                found.bytes += fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
                found.blobs.push(name);
            }
        }
        Ok(found)
    }

    /// Removes what [`Store::unneeded`] finds; `keep` is asked when no other process uses the store. This process
    /// must not use the store for anything else meanwhile; others that begin to wait until it is done.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when another process uses the store; those of the disk, and of `keep`.
    pub fn prune(
        &self,
        keep: impl FnOnce() -> Result<BTreeSet<Digest>, StoreError>,
        since: SystemTime,
    ) -> Result<Pruned, StoreError> {
        let path = self.dir().join("lock");
        match self.lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                // Trying has given up the shared one.
                self.lock.lock_shared().map_err(StoreError::io(&path))?;
                return Err(StoreError::Busy { dir: self.dir().to_owned() });
            }
            Err(fs::TryLockError::Error(error)) => return Err(StoreError::io(&path)(error)),
        }
        let pruned = keep().and_then(|keep| self.prune_alone(&keep, since));
        self.lock.lock_shared().map_err(StoreError::io(&path))?;
        pruned
    }

    fn prune_alone(&self, keep: &BTreeSet<Digest>, since: SystemTime) -> Result<Pruned, StoreError> {
        let removed = self.unneeded(keep, since)?;
        // On a full disk nothing can be written before something is gone: images without their blobs are none either.
        let told = match self.forget(&removed) {
            Err(error) if error.is_disk_full() => false,
            told => told.map(|()| true)?,
        };
        for key in &removed.steps {
            self.dir.remove(&format!("steps/{key}"))?;
        }
        let scratch = self.scratch()?;
        let mut folders = Vec::new();
        let mut take = |path: &Utf8Path, name: &str| {
            let to = scratch.path().join(name);
            fs::rename(path, &to).map_err(StoreError::io(path))?;
            folders.push(to);
            Ok::<_, StoreError>(())
        };
        for name in &removed.layers {
            take(&self.dir().join("layers").join(name), name)?;
        }
        for (name, path) in self.entries("tmp")? {
            // Nobody else uses the store: whoever has left it is gone.
            if !scratch.path().starts_with(&path) {
                take(&path, &name)?;
            }
        }
        for name in &removed.blobs {
            self.dir.remove(&format!("{}/{name}", layout::BLOBS))?;
        }
        if !told {
            self.forget(&removed)?;
        }
        Ok(Pruned { removed, folders, scratch })
    }

    /// Returns the entries of a folder of the store by name.
    fn entries(&self, folder: &str) -> Result<Vec<(String, Utf8PathBuf)>, StoreError> {
        let path = self.dir().join(folder);
        let names = self.dir.names(folder)?.into_iter();
        Ok(names.map(|name| (name.clone(), path.join(name))).collect())
    }

    /// Takes images out of the journal and the index.
    fn forget(&self, removed: &Unneeded) -> Result<(), StoreError> {
        let gone = || removed.images.iter().map(|id| Change::Gone { id: id.clone() }).collect();
        self.journal().change(|_| (gone(), ()))?;
        self.write_index()
    }
}

/// Returns whether a file was written after a time.
fn is_young(path: &Utf8Path, since: SystemTime) -> bool {
    fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).is_ok_and(|written| written >= since)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{check, layered, open, place};
    use super::*;
    use crate::worker::message::Compression;

    fn soon() -> SystemTime {
        SystemTime::now() + Duration::from_secs(5)
    }

    #[test]
    fn what_no_image_needs_goes_and_what_one_needs_stays() {
        let place = place();
        let store = open(&place.1);
        let named = layered(&store, &["base", "named"], Compression::Gzip);
        let kept = layered(&store, &["base", "kept"], Compression::Zstd);
        let gone = layered(&store, &["base", "gone"], Compression::Gzip);
        store.tag(&named.id, "x:1").unwrap();
        store.put_blob(b"of nobody").unwrap();
        let keep = BTreeSet::from([kept.id.clone()]);
        let young = store.unneeded(&keep, SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(young, Unneeded::default());
        let found = store.unneeded(&keep, soon()).unwrap();
        assert_eq!(found.images, std::slice::from_ref(&gone.id));
        // Configuration, manifest and upper layer; and what nobody has.
        assert_eq!((found.blobs.len(), found.layers.len(), found.steps.len()), (4, 1, 1));
        let blob = |name: &String| fs::metadata(place.1.join("blobs/sha256").join(name)).unwrap().len();
        let blobs: u64 = found.blobs.iter().map(blob).sum();
        assert_eq!(found.bytes, blobs + gone.layers[1].unpacked_size);
        let pruned = store.prune(|| Ok(keep.clone()), soon()).unwrap();
        assert_eq!(pruned.removed, found);
        assert_eq!(pruned.folders.len(), 1);
        assert!(pruned.folders[0].join("fs/file").exists());
        drop(pruned);
        let ids: Vec<Digest> = store.list().unwrap().into_iter().map(|record| record.id).collect();
        assert_eq!(BTreeSet::from_iter(ids), BTreeSet::from([named.id.clone(), kept.id.clone()]));
        check(&store, &named);
        check(&store, &kept);
        assert_eq!(store.unneeded(&keep, soon()).unwrap(), Unneeded::default());
        // The same image can be made again.
        let again = layered(&store, &["base", "gone"], Compression::Gzip);
        assert_eq!(again.id, gone.id);
        check(&store, &again);
    }

    #[test]
    fn a_store_that_others_use_is_not_pruned_and_leftovers_are() {
        let place = place();
        let store = open(&place.1);
        let other = open(&place.1);
        layered(&store, &["x"], Compression::Gzip);
        for _ in 0..2 {
            assert!(matches!(store.prune(|| Ok(BTreeSet::new()), soon()), Err(StoreError::Busy { .. })));
        }
        assert_eq!(other.list().unwrap().len(), 1);
        drop(other);
        let dead = place.1.join("tmp/1-dead/deep");
        fs::create_dir_all(&dead).unwrap();
        let pruned = store.prune(|| Ok(BTreeSet::new()), soon()).unwrap();
        assert!(
            !place.1.join("tmp/1-dead").exists()
                && pruned.folders.iter().any(|path| path.ends_with("1-dead"))
        );
        assert_eq!(store.list().unwrap(), []);
        assert_eq!(place.1.join("blobs/sha256").read_dir_utf8().unwrap().count(), 0);
    }
}
