//! Images from elsewhere: another engine's, or those of an OCI image layout. Nothing in them is trusted: every hash is
//! counted.

use std::fs::{self, File};

use imgforge_engine::export::{Blob, Exported, Named};
use imgforge_oci::{Digest, ImageConfig};

use super::{ImageRecord, Store, StoreError};
use crate::layer;
use crate::worker::message::Layer;

impl Store {
    /// Keeps images under their names. Files of layers are copied: they are somebody's.
    ///
    /// # Errors
    /// [`StoreError::Load`] for what is not what its digests say, or lacks something; those of the disk. Blobs that
    /// were taken before stay, and are pruned like all that nothing needs.
    pub fn load(&self, images: &Exported, named: &[Named]) -> Result<Vec<ImageRecord>, StoreError> {
        let mut records = Vec::new();
        for Named { id, names } in named {
            let text = images.configs.get(id).ok_or_else(|| wrong(id, "its configuration is missing"))?;
            if !id.is_of(text) {
                return Err(wrong(id, "its configuration has another digest"));
            }
            let config: ImageConfig = serde_json::from_slice(text)
                .map_err(|error| wrong(id, format!("its configuration is not understood: {error}")))?;
            let mut layers = Vec::new();
            for diff_id in &config.rootfs.diff_ids {
                let blob = images.layers.get(diff_id);
                let blob = blob.ok_or_else(|| wrong(id, format!("its layer {diff_id} is missing")))?;
                layers.push(self.load_layer(blob, diff_id)?);
            }
            let mut record = self.put_loaded(text, &layers)?;
            for name in names {
                self.tag(id, name)?;
            }
            record.names.clone_from(names);
            records.push(record);
        }
        Ok(records)
    }

    fn load_layer(&self, blob: &Blob, diff_id: &Digest) -> Result<Layer, StoreError> {
        let path = match self.blob(&blob.digest) {
            Ok(path) => path,
            Err(StoreError::Missing { .. } | StoreError::Corrupt { .. }) => {
                let scratch = self.scratch()?;
                let copy = scratch.path().join("blob");
                let copied = File::open(&blob.file)
                    .and_then(|mut from| std::io::copy(&mut from, &mut File::create(&copy)?));
                copied.map_err(StoreError::io(&blob.file))?;
                let file = File::open(&copy).map_err(StoreError::io(&copy))?;
                let found = Digest::of_reader(file).map_err(StoreError::io(&copy))?;
                if found != blob.digest {
                    return Err(wrong(&blob.digest, format!("{} has the digest {found}", blob.file)));
                }
                self.adopt_blob(&copy, &blob.digest)?;
                self.blob(&blob.digest)?
            }
            Err(error) => return Err(error),
        };
        let size = fs::metadata(&path).map_err(StoreError::io(&path))?.len();
        let measured = layer::measure(&path).map_err(|error| wrong(&blob.digest, error))?;
        if measured.0 != *diff_id {
            return Err(wrong(&blob.digest, format!("the layer in it is {}, and not {diff_id}", measured.0)));
        }
        Ok(Layer {
            diff_id: diff_id.clone(),
            digest: blob.digest.clone(),
            size,
            media_type: blob.media_type.clone(),
            unpacked_size: measured.1,
        })
    }
}

fn wrong(what: &Digest, why: impl ToString) -> StoreError {
    StoreError::Load { what: what.clone(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;

    use super::super::tests::{check, layered, open, place};
    use super::*;
    use crate::worker::message::Compression;

    /// Two images that share a layer, as another engine gives them.
    fn exported(store: &Store) -> (Exported, Vec<Named>) {
        let mut exported = Exported::default();
        let mut named = Vec::new();
        for (texts, compression, name) in
            [(["a", "b"], Compression::Gzip, "x/gzip:1"), (["a", "c"], Compression::Zstd, "x/zstd:2")]
        {
            let record = layered(store, &texts, compression);
            exported.configs.insert(record.id.clone(), store.read_blob(&record.id).unwrap());
            for layer in &record.layers {
                let blob = Blob {
                    file: store.blob(&layer.digest).unwrap(),
                    digest: layer.digest.clone(),
                    size: layer.size,
                    media_type: layer.media_type.clone(),
                };
                exported.layers.insert(layer.diff_id.clone(), blob);
            }
            named.push(Named { id: record.id, names: vec![name.to_owned()] });
        }
        (exported, named)
    }

    #[test]
    fn images_come_in_as_they_were_and_the_files_stay_where_they_are() {
        let (from, to) = (place(), place());
        let (exported, named) = exported(&open(&from.1));
        let store = open(&to.1);
        let records = store.load(&exported, &named).unwrap();
        let found: Vec<_> = records
            .iter()
            .map(|record| Named { id: record.id.clone(), names: record.names.clone() })
            .collect();
        assert_eq!(found, named);
        for record in &records {
            check(&store, record);
            assert_eq!(store.find(&record.names[0]).unwrap().unwrap().id, record.id);
        }
        assert!(exported.layers.values().all(|blob| blob.file.exists()));
        assert_eq!(store.load(&exported, &named).unwrap().len(), 2, "once more is no error");
    }

    #[test]
    fn what_is_not_what_its_digest_says_is_refused() {
        let from = place();
        let (exported, named) = exported(&open(&from.1));
        let refused = |exported: &Exported, words: &str| {
            let to = place();
            let store = open(&to.1);
            let error = store.load(exported, &named).unwrap_err();
            assert!(matches!(error, StoreError::Load { .. }), "{error}");
            assert!(error.to_string().contains(words), "{error}");
            assert!(store.list().unwrap().iter().all(|record| record.names != named[1].names));
        };
        let copy = |exported: &Exported| Exported {
            configs: exported.configs.clone(),
            layers: exported.layers.clone(),
        };
        let last = &named[1].id;

        let mut bad = copy(&exported);
        bad.configs.remove(last);
        refused(&bad, "configuration is missing");
        let mut bad = copy(&exported);
        bad.configs.get_mut(last).unwrap().push(b' ');
        refused(&bad, "another digest");

        let config: ImageConfig = serde_json::from_slice(&exported.configs[last]).unwrap();
        let [first, second] = &config.rootfs.diff_ids[..] else { panic!("two layers") };
        let mut bad = copy(&exported);
        bad.layers.remove(second);
        refused(&bad, "is missing");
        let mut bad = copy(&exported);
        bad.layers.insert(second.clone(), exported.layers[first].clone());
        refused(&bad, "and not");
        let blob = &exported.layers[second];
        let good = fs::read(&blob.file).unwrap();
        let damaged = Utf8Path::new(&from.1).join("damaged");
        for bytes in [&good[..good.len() - 1], b"", b"no layer"] {
            fs::write(&damaged, bytes).unwrap();
            let mut bad = copy(&exported);
            bad.layers.get_mut(second).unwrap().file.clone_from(&damaged);
            refused(&bad, "has the digest");
        }
    }
}
