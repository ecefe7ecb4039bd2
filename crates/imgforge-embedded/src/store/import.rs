//! Images from files of other programs: an OCI image layout, or an archive of `docker save`. Nothing in them is trusted:
//! every hash is counted, sizes are bounded, and paths are made of digests alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufReader, Read};

use camino::Utf8Path;
use imgforge_core::image_config::ImageConfig;
use imgforge_engine::export::{LAYER_GZIP, read_archive};
use serde::Deserialize;

use super::images::REF_NAME;
use super::{ImageRecord, Store, StoreError, hex};
use crate::layer;
use crate::worker::message::Layer;

/// What is larger is no index, manifest or configuration.
const MAX_JSON: u64 = 16 << 20;
/// How many indexes may lie in one another, and how many images may be in one file.
const MAX_DEPTH: usize = 3;
const MAX_IMAGES: usize = 10_000;

/// A descriptor (OCI image specification, "OCI Content Descriptors").
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    os: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// One row of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    config: String,
    repo_tags: Option<Vec<String>>,
}

impl Store {
    /// Keeps the images of an OCI image layout (a folder) or of an archive of `docker save` (a file). The records have
    /// the names that the images have there; the store does not name them so: that is for the caller to decide.
    ///
    /// # Errors
    /// [`StoreError::Import`] for what is no such thing, lacks something, or is not what its digests say; those of the
    /// disk. Blobs that were taken before stay, and are pruned like all that nothing needs.
    pub fn import(&self, path: &Utf8Path) -> Result<Vec<ImageRecord>, StoreError> {
        let from = From { store: self, path };
        if path.is_dir() { from.layout() } else { from.archive() }
    }
}

/// What is imported.
struct From<'s> {
    store: &'s Store,
    path: &'s Utf8Path,
}

impl From<'_> {
    fn wrong(&self, why: impl ToString) -> StoreError {
        StoreError::Import { path: self.path.to_owned(), why: why.to_string() }
    }

    fn layout(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let index = self.path.join("index.json");
        let mut bytes = Vec::new();
        let file =
            File::open(&index).map_err(|_| self.wrong("it has no index.json: it is no OCI image layout"))?;
        file.take(MAX_JSON).read_to_end(&mut bytes).map_err(StoreError::io(&index))?;
        let index: Index = self.parse("index.json", &bytes)?;
        let mut records: Vec<ImageRecord> = Vec::new();
        let mut todo: Vec<(Descriptor, usize)> =
            index.manifests.into_iter().map(|found| (found, 0)).collect();
        let mut seen = 0;
        while let Some((descriptor, depth)) = todo.pop() {
            seen += 1;
            if seen > MAX_IMAGES || depth > MAX_DEPTH {
                return Err(self.wrong("it has too many images"));
            }
            // What BuildKit says about an image is none.
            if descriptor.platform.as_ref().is_some_and(|platform| platform.os == "unknown") {
                continue;
            }
            let bytes = self.json(&descriptor)?;
            if descriptor.media_type.ends_with("index.v1+json")
                || descriptor.media_type.ends_with("list.v2+json")
            {
                let index: Index = self.parse(&descriptor.digest, &bytes)?;
                let name = descriptor.annotations.get(REF_NAME);
                todo.extend(index.manifests.into_iter().map(|mut inner| {
                    // The name of an index is that of what is in it.
                    if let Some(name) = name {
                        inner.annotations.entry(REF_NAME.to_owned()).or_insert_with(|| name.clone());
                    }
                    (inner, depth + 1)
                }));
                continue;
            }
            let mut record = self.image(&descriptor, &bytes)?;
            record.names = descriptor
                .annotations
                .get(REF_NAME)
                .filter(|name| is_name(name))
                .cloned()
                .into_iter()
                .collect();
            match records.iter_mut().find(|known| known.id == record.id) {
                Some(known) => known.names.append(&mut record.names),
                None => records.push(record),
            }
        }
        records.reverse();
        Ok(records)
    }

    fn image(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<ImageRecord, StoreError> {
        let manifest: Manifest = self.parse(&descriptor.digest, bytes)?;
        let text = self.json(&manifest.config)?;
        let config: ImageConfig = self.parse(&manifest.config.digest, &text)?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(
                self.wrong(format!("{} names other layers than its configuration", descriptor.digest))
            );
        }
        let mut layers = Vec::new();
        for (layer, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            self.blob(layer)?;
            layers.push(self.layer(layer, diff_id)?);
        }
        self.store.put_pulled(&text, &layers, bytes)
    }

    /// Looks into a layer that the store has by now.
    fn layer(&self, layer: &Descriptor, diff_id: &str) -> Result<Layer, StoreError> {
        let path = self.store.blob(&layer.digest)?;
        let measured =
            layer::measure(&path).map_err(|error| self.wrong(format!("{}: {error}", layer.digest)))?;
        if measured.0 != diff_id {
            return Err(
                self.wrong(format!("the layer {} is {}, and not {diff_id}", layer.digest, measured.0))
            );
        }
        Ok(Layer {
            diff_id: diff_id.to_owned(),
            digest: layer.digest.clone(),
            size: layer.size,
            media_type: layer.media_type.clone(),
            unpacked_size: measured.1,
        })
    }

    /// Opens a blob of the layout.
    fn open(&self, descriptor: &Descriptor) -> Result<File, StoreError> {
        let path = self.path.join("blobs/sha256").join(hex(&descriptor.digest)?);
        // A link or a pipe is no blob.
        let is_blob =
            fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() == descriptor.size);
        if !is_blob {
            let (digest, size) = (&descriptor.digest, descriptor.size);
            return Err(self.wrong(format!("it has no blob {digest} of {size} bytes")));
        }
        File::open(&path).map_err(StoreError::io(&path))
    }

    fn json(&self, descriptor: &Descriptor) -> Result<Vec<u8>, StoreError> {
        if descriptor.size > MAX_JSON {
            return Err(self.wrong(format!("{} is too large", descriptor.digest)));
        }
        let mut bytes = Vec::new();
        let file = self.open(descriptor)?;
        file.take(MAX_JSON).read_to_end(&mut bytes).map_err(StoreError::io(self.path))?;
        let found = super::digest_of(&bytes);
        if found != descriptor.digest {
            return Err(self.wrong(format!("the blob {} is {found}", descriptor.digest)));
        }
        Ok(bytes)
    }

    /// Copies a blob into the store.
    fn blob(&self, descriptor: &Descriptor) -> Result<(), StoreError> {
        if self.store.blob(&descriptor.digest).is_ok() {
            return Ok(());
        }
        let mut file = self.open(descriptor)?;
        let scratch = self.store.scratch()?;
        let copy = scratch.path().join("blob");
        let copied = File::create(&copy).and_then(|mut to| std::io::copy(&mut file, &mut to));
        copied.map_err(StoreError::io(&copy))?;
        let found = super::digest_of_file(&copy)?;
        if found != descriptor.digest {
            return Err(self.wrong(format!("the blob {} is {found}", descriptor.digest)));
        }
        self.store.adopt_blob(&copy, &descriptor.digest)
    }

    fn archive(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let open = || File::open(self.path).map(BufReader::new).map_err(StoreError::io(self.path));
        let scratch = self.store.scratch()?;
        let taken =
            read_archive(open()?, &BTreeSet::new(), scratch.path()).map_err(|error| self.wrong(error))?;
        let names = self.names(open()?)?;
        let mut layers: BTreeMap<&str, Layer> = BTreeMap::new();
        for (diff_id, blob) in &taken.layers {
            if !self.store.has_blob(&blob.digest) {
                self.store.adopt_blob(&blob.file, &blob.digest)?;
            }
            let descriptor = Descriptor {
                media_type: if blob.media_type.is_empty() {
                    LAYER_GZIP.to_owned()
                } else {
                    blob.media_type.clone()
                },
                digest: blob.digest.clone(),
                size: blob.size,
                annotations: BTreeMap::new(),
                platform: None,
            };
            layers.insert(diff_id, self.layer(&descriptor, diff_id)?);
        }
        let mut records = Vec::new();
        for (id, text) in &taken.configs {
            let config: ImageConfig = self.parse(id, text)?;
            let found = config.rootfs.diff_ids.iter().map(|diff_id| layers.get(diff_id.as_str()).cloned());
            let found: Option<Vec<Layer>> = found.collect();
            let found = found.ok_or_else(|| self.wrong(format!("a layer of {id} is missing")))?;
            let mut record = self.store.put_archived(text, &found)?;
            record.names = names.get(id).cloned().unwrap_or_default();
            records.push(record);
        }
        Ok(records)
    }

    /// What the images of an archive are called, by id.
    fn names(&self, archive: impl Read) -> Result<BTreeMap<String, Vec<String>>, StoreError> {
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries().map_err(StoreError::io(self.path))? {
            let entry = entry.map_err(StoreError::io(self.path))?;
            if *entry.path_bytes() != *b"manifest.json" {
                continue;
            }
            let mut text = Vec::new();
            entry.take(MAX_JSON).read_to_end(&mut text).map_err(StoreError::io(self.path))?;
            let rows: Vec<Row> = self.parse("manifest.json", &text)?;
            let rows = rows.into_iter().map(|row| {
                // `HEX.json`, or `blobs/sha256/HEX` since Docker 25.
                let file = row.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
                let names = row.repo_tags.unwrap_or_default().into_iter().filter(|name| is_name(name));
                (format!("sha256:{file}"), names.collect())
            });
            return Ok(rows.collect());
        }
        Ok(BTreeMap::new())
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, what: &str, bytes: &[u8]) -> Result<T, StoreError> {
        serde_json::from_slice(bytes)
            .map_err(|error| self.wrong(format!("{what} is not understood: {error}")))
    }
}

/// Whether a name from outside can be one here: letters, digits and what is between them in a reference.
fn is_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/:@+".contains(&byte))
}

#[cfg(test)]
mod tests {
    use camino::Utf8PathBuf;
    use imgforge_engine::export::{Blob, Exported, Named, write_archive, write_layout};
    use serde_json::{Value, json};

    use super::super::tests::{Place, check, layered, place};
    use super::*;
    use crate::worker::message::Compression;

    /// Two images that share a layer, as other programs get them.
    fn exported(store: &Store) -> (Exported, Vec<Named>) {
        let mut exported = Exported::default();
        let mut named = Vec::new();
        for (texts, compression, name) in
            [(["a", "b"], Compression::Gzip, "x/gzip:1"), (["a", "c"], Compression::Gzip, "x/other:2")]
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

    /// A layout beside a store.
    fn layout(place: &Place) -> (Utf8PathBuf, Vec<Named>) {
        let store = Store::open(&place.1).unwrap();
        let (exported, named) = exported(&store);
        let folder = place.1.with_file_name("layout");
        write_layout(&exported, &named, &folder).unwrap();
        (folder, named)
    }

    /// Imports into a store of its own.
    fn import(path: &Utf8Path) -> Result<Vec<ImageRecord>, StoreError> {
        let place = place();
        let store = Store::open(&place.1).unwrap();
        let records = store.import(path)?;
        records.iter().for_each(|record| check(&store, record));
        Ok(records)
    }

    fn named(records: Vec<ImageRecord>) -> Vec<Named> {
        let mut named: Vec<_> =
            records.into_iter().map(|record| Named { id: record.id, names: record.names }).collect();
        named.sort_by(|one, other| one.names.cmp(&other.names));
        named
    }

    #[test]
    fn layouts_and_archives_come_in_as_they_were_written() {
        let place = place();
        let (folder, expected) = layout(&place);
        assert_eq!(named(import(&folder).unwrap()), expected);
        let (exported, _) = exported(&Store::open(&place.1).unwrap());
        let file = place.1.with_file_name("archive.tar");
        write_archive(&exported, &expected, File::create(&file).unwrap()).unwrap();
        assert_eq!(named(import(&file).unwrap()), expected);
    }

    #[test]
    fn a_blob_with_another_byte_is_refused_wherever_it_is() {
        let place = place();
        let (folder, _) = layout(&place);
        for entry in folder.join("blobs/sha256").read_dir_utf8().unwrap() {
            let path = entry.unwrap().into_path();
            let good = fs::read(&path).unwrap();
            let mut bad = good.clone();
            bad[good.len() / 2] ^= 1;
            for bad in [&bad[..], &good[..good.len() - 1], &[]] {
                fs::write(&path, bad).unwrap();
                assert!(matches!(import(&folder), Err(StoreError::Import { .. })), "{path}");
            }
            fs::remove_file(&path).unwrap();
            assert!(matches!(import(&folder), Err(StoreError::Import { .. })), "{path}");
            // What is no file is not opened.
            rustix::fs::mkfifoat(rustix::fs::CWD, path.as_std_path(), rustix::fs::Mode::RUSR).unwrap();
            assert!(matches!(import(&folder), Err(StoreError::Import { .. })), "{path}");
            fs::remove_file(&path).unwrap();
            fs::write(&path, &good).unwrap();
        }
        import(&folder).unwrap();
    }

    #[test]
    fn hostile_indexes_are_refused() {
        let place = place();
        let (folder, _) = layout(&place);
        let index = folder.join("index.json");
        let good: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
        let put = |value: &Value| {
            let bytes = serde_json::to_vec(value).unwrap();
            let digest = super::super::digest_of(&bytes);
            fs::write(folder.join("blobs/sha256").join(hex(&digest).unwrap()), &bytes).unwrap();
            json!({ "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": bytes.len() })
        };
        let mut refused = vec![json!({}), json!([]), json!({ "manifests": {} })];
        for (key, value) in [
            ("digest", json!("sha256:../../../../../../etc/passwd")),
            ("digest", json!("sha512:00")),
            ("digest", json!(format!("sha256:{}", "0".repeat(64)))),
            ("size", json!(1)),
            ("size", json!(u64::MAX)),
            ("size", json!(-1)),
        ] {
            let mut bad = good.clone();
            bad["manifests"][0][key] = value;
            refused.push(bad);
        }
        let mut deep = good.clone();
        for _ in 0..6 {
            deep = json!({ "manifests": [put(&deep)] });
        }
        refused.push(deep);
        let mut wide = good.clone();
        for _ in 0..3 {
            let one = put(&wide);
            wide = json!({ "manifests": vec![one; 40] });
        }
        refused.push(wide);
        for bad in refused {
            fs::write(&index, serde_json::to_vec(&bad).unwrap()).unwrap();
            let result = import(&folder);
            assert!(
                matches!(result, Err(StoreError::Import { .. } | StoreError::Digest { .. })),
                "{result:?}"
            );
        }
        // An index in an index is one image more, and names from outside are looked at.
        let mut inner = good.clone();
        inner["manifests"][0]["annotations"][REF_NAME] = json!("evil\u{1b}[31m");
        fs::write(&index, serde_json::to_vec(&json!({ "manifests": [put(&inner)] })).unwrap()).unwrap();
        let names: Vec<_> = named(import(&folder).unwrap()).into_iter().map(|image| image.names).collect();
        assert_eq!(names, [vec![], vec!["x/other:2".to_owned()]]);
    }
}
