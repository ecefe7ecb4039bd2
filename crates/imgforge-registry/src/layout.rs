//! OCI image layouts: what a registry serves, in a folder (image specification, "OCI Image Layout Specification").
//! Nothing in one is trusted: what is read is compared with its digest, sizes are bounded, and paths are made of
//! digests.

use std::fs::{self, File};
use std::io::{self, Read};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_oci::annotation::{CONTAINERD_NAME, REF_NAME};
use imgforge_oci::layout::{INDEX, MARKER};
use imgforge_oci::{Descriptor, Digest, Hasher, Manifest};
use imgforge_state::file;

use crate::error::{Error, clean};

/// What is larger is no index, manifest or configuration.
const MAX_JSON: u64 = 16 << 20;

/// A layout that is there.
#[derive(Debug, Clone)]
pub struct Layout {
    path: Utf8PathBuf,
    /// `index.json`.
    index: Manifest,
}

impl Layout {
    /// Opens the layout in a folder.
    ///
    /// # Errors
    /// [`Error::Layout`] when the folder holds none.
    pub fn open(path: &Utf8Path) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Layout { path: path.to_owned(), reason };
        let is_none = |what: &str| wrong(format!("it has no {what}, so it is no OCI image layout"));
        if !path.join(MARKER).is_file() {
            return Err(if path.exists() { is_none(MARKER) } else { wrong("it is not there".into()) });
        }
        let index = path.join(INDEX);
        let bytes = file::read(&index, MAX_JSON).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => is_none(INDEX),
            _ => wrong(format!("index.json: {error}")),
        })?;
        let index = Manifest::parse(bytes, None).map_err(|reason| wrong(format!("index.json: {reason}")))?;
        if index.entries().is_none() {
            return Err(wrong("index.json lists no manifests".into()));
        }
        Ok(Self { path: path.to_owned(), index })
    }

    /// The digest of the image, or index of images, with one of these names; of one image alone that has no name at
    /// all, its digest. Where a name has an image for each platform, that for this one.
    ///
    /// # Errors
    /// [`Error::Layout`] when there is none, or when there are several.
    pub fn find(&self, names: &[&str], platform: &str) -> Result<Digest, Error> {
        let entries = || self.images().iter().filter(|entry| !entry.is_attached());
        let mut found: Vec<&Descriptor> =
            entries().filter(|entry| names_of(entry).any(|name| names.contains(&name))).collect();
        if found.is_empty() {
            found = entries().filter(|entry| names_of(entry).next().is_none()).collect();
        }
        if found.len() > 1 {
            found.retain(|entry| entry.is_for(platform));
        }
        found.dedup_by(|one, other| one.digest == other.digest);
        match found[..] {
            [one] => Ok(one.digest.clone()),
            [] => {
                let mut known: Vec<String> = entries().flat_map(names_of).map(clean).collect();
                known.dedup();
                let known = match known.len() {
                    0 => "no image".to_owned(),
                    1..=10 => known.join(", "),
                    more => format!("{}, and {} more", known[..10].join(", "), more - 10),
                };
                Err(self.wrong(format!("it has no image {}; it has {known}", names.join(" or "))))
            }
            _ => Err(self.wrong(format!("it has several images {} for {platform}", names.join(" or ")))),
        }
    }

    /// A manifest or an index, by digest; `None` when it is not there.
    ///
    /// # Errors
    /// [`Error::Digest`] for what is damaged, [`Error::Layout`] for what is none.
    pub fn manifest(&self, digest: &Digest) -> Result<Option<Manifest>, Error> {
        let Some(bytes) = self.read(digest)? else { return Ok(None) };
        let known = self.images().iter().find(|entry| entry.digest == *digest);
        let manifest = Manifest::parse(bytes, known.map(|entry| entry.media_type.as_ref()))
            .map_err(|reason| self.wrong(format!("{digest}: {reason}")))?;
        Ok(Some(manifest.called(digest)))
    }

    /// The configuration of an image, as it is.
    ///
    /// # Errors
    /// [`Error::Layout`] when it is missing, [`Error::Digest`] when it is damaged.
    pub fn config(&self, manifest: &Manifest) -> Result<Vec<u8>, Error> {
        let config = manifest.config().ok_or_else(|| self.wrong("an index has no configuration".into()))?;
        self.read(&config.digest)?.ok_or_else(|| self.lacks(config))
    }

    /// The file of a layer.
    ///
    /// # Errors
    /// [`Error::Layout`] when there is no such file, [`Error::Digest`] when it is damaged.
    pub fn blob(&self, layer: &Descriptor) -> Result<Utf8PathBuf, Error> {
        let path = self.blob_path(&layer.digest);
        // What is no file, a pipe say, is not opened.
        let is_blob = fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() == layer.size);
        if !is_blob {
            return Err(self.lacks(layer));
        }
        let file = File::open(&path).map_err(Error::io(&path))?;
        let found = Hasher::of(&layer.digest).read(file).map_err(Error::io(&path))?;
        damaged(&path, &layer.digest, &found)?;
        Ok(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    fn images(&self) -> &[Descriptor] {
        self.index.entries().unwrap_or_default()
    }

    fn read(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let path = self.blob_path(digest);
        match fs::metadata(&path) {
            Ok(found) if found.is_file() && found.len() <= MAX_JSON => {}
            Ok(_) => return Err(self.wrong(format!("{digest} is no file, or too large"))),
            Err(_) => return Ok(None),
        }
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(MAX_JSON).read_to_end(&mut bytes));
        read.map_err(Error::io(&path))?;
        let mut hash = Hasher::of(digest);
        hash.update(&bytes);
        damaged(&path, digest, &hash.finish())?;
        Ok(Some(bytes))
    }

    fn blob_path(&self, digest: &Digest) -> Utf8PathBuf {
        self.path.join("blobs").join(digest.algorithm()).join(digest.hex())
    }

    fn lacks(&self, descriptor: &Descriptor) -> Error {
        self.wrong(format!("it has no blob {} of {} bytes", descriptor.digest, descriptor.size))
    }

    fn wrong(&self, reason: String) -> Error {
        Error::Layout { path: self.path.clone(), reason }
    }
}

/// Refuses what is not what was expected.
fn damaged(path: &Utf8Path, expected: &Digest, found: &Digest) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Digest { what: path.to_string(), expected: expected.clone(), found: found.to_string() })
}

fn names_of(entry: &Descriptor) -> impl Iterator<Item = &str> {
    [REF_NAME, CONTAINERD_NAME].into_iter().filter_map(|key| entry.annotations.get(key)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use imgforge_oci::{ImageManifest, MediaType};
    use serde_json::{Value, json};

    use super::*;

    const PLATFORM: &str = "linux/amd64";

    struct Place(#[expect(dead_code, reason = "keeps the folder")] tempfile::TempDir, Utf8PathBuf);

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = Utf8PathBuf::try_from(dir.path().to_owned()).unwrap();
            fs::create_dir_all(path.join("blobs/sha256")).unwrap();
            fs::write(path.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
            Self(dir, path)
        }

        fn put(&self, bytes: &[u8], media_type: MediaType) -> Descriptor {
            let descriptor = Descriptor::of(media_type, bytes);
            fs::write(self.1.join("blobs/sha256").join(descriptor.digest.hex()), bytes).unwrap();
            descriptor
        }

        fn image(&self, layer: &str) -> Descriptor {
            let config = self.put(format!("{{\"of\":\"{layer}\"}}").as_bytes(), MediaType::ImageConfig);
            let layers = vec![self.put(layer.as_bytes(), MediaType::ImageLayer)];
            let manifest = Manifest::of(ImageManifest::image(config, layers, BTreeMap::new()));
            self.put(manifest.bytes(), manifest.media_type().clone())
        }

        fn index(&self, entries: &Value) -> Result<Layout, Error> {
            let index = json!({ "schemaVersion": 2, "manifests": entries });
            fs::write(self.1.join("index.json"), index.to_string()).unwrap();
            Layout::open(&self.1)
        }
    }

    fn entry(image: &Descriptor, name: Option<&str>, platform: Option<&str>) -> Value {
        let mut entry = serde_json::to_value(image).unwrap();
        if let Some(name) = name {
            entry["annotations"] = json!({ REF_NAME: name });
        }
        if let Some((os, architecture)) = platform.and_then(|platform| platform.split_once('/')) {
            entry["platform"] = json!({ "os": os, "architecture": architecture });
        }
        entry
    }

    #[test]
    fn an_image_is_found_by_its_names_or_when_it_is_the_only_one_and_has_none() {
        let place = Place::new();
        let (one, two) = (place.image("one"), place.image("two"));
        let names = ["12-slim", "debian:12-slim"];
        for (entries, expected) in [
            (json!([entry(&one, None, None)]), Ok(&one)),
            (json!([entry(&one, Some("12-slim"), None)]), Ok(&one)),
            (json!([entry(&one, Some("11"), None), entry(&two, Some("debian:12-slim"), None)]), Ok(&two)),
            (json!([entry(&one, None, None), entry(&two, Some("12-slim"), None)]), Ok(&two)),
            (
                json!([
                    entry(&one, Some("12-slim"), Some("linux/arm64")),
                    entry(&two, Some("12-slim"), Some(PLATFORM))
                ]),
                Ok(&two),
            ),
            (
                json!([entry(&one, None, Some(PLATFORM)), entry(&two, None, Some("unknown/unknown"))]),
                Ok(&one),
            ),
            (json!([]), Err("it has no image")),
            (json!([entry(&one, Some("11"), None)]), Err("it has 11")),
            (json!([entry(&one, None, None), entry(&two, None, None)]), Err("no image")),
            (
                json!([entry(&one, None, Some(PLATFORM)), entry(&two, None, Some(PLATFORM))]),
                Err("several images"),
            ),
        ] {
            let found = place.index(&entries).unwrap().find(&names, PLATFORM);
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected.digest, "{entries}"),
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
                (found, _) => panic!("{entries}: {found:?}"),
            }
        }
        let layout = place.index(&json!([{ "mediaType": "x", "digest": one.digest, "size": 1,
            "annotations": { CONTAINERD_NAME: "debian:12-slim", REF_NAME: "12-slim" } }]));
        assert_eq!(layout.unwrap().find(&["debian:12-slim"], PLATFORM).unwrap(), one.digest);
    }

    #[test]
    fn what_is_read_is_what_its_digest_says() {
        let place = Place::new();
        let image = place.image("layer");
        let layout = place.index(&json!([entry(&image, None, None)])).unwrap();
        let manifest = layout.manifest(&image.digest).unwrap().unwrap();
        assert_eq!(layout.config(&manifest).unwrap(), b"{\"of\":\"layer\"}");
        let layer = layout.blob(&manifest.layers()[0]).unwrap();
        assert_eq!(fs::read(&layer).unwrap(), b"layer");
        assert!(layout.manifest(&Digest::sha256(b"another")).unwrap().is_none());

        fs::write(&layer, "LAYER").unwrap();
        assert!(matches!(layout.blob(&manifest.layers()[0]), Err(Error::Digest { .. })));
        fs::write(&layer, "longer than it was").unwrap();
        assert!(layout.blob(&manifest.layers()[0]).unwrap_err().to_string().contains("no blob"));
        fs::remove_file(&layer).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, layer.as_std_path(), rustix::fs::Mode::RUSR).unwrap();
        assert!(layout.blob(&manifest.layers()[0]).is_err());
        for digest in [&image.digest, &manifest.config().unwrap().digest] {
            let path = layout.blob_path(digest);
            let mut bytes = fs::read(&path).unwrap();
            bytes[3] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
        assert!(matches!(layout.manifest(&image.digest), Err(Error::Digest { .. })));
        assert!(matches!(layout.config(&manifest), Err(Error::Digest { .. })));
    }

    #[test]
    fn what_is_no_layout_is_refused_and_says_why() {
        let place = Place::new();
        let refused = |words: &str| {
            let error = Layout::open(&place.1).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        refused("no index.json");
        for (index, words) in [
            ("{", "index.json: it is no manifest"),
            ("{\"schemaVersion\":1,\"manifests\":[]}", "schema version 1"),
            ("{\"schemaVersion\":2}", "neither a config"),
            (
                "{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"x\",\"digest\":\"sha256:../..\",\"size\":1}]}",
                "digest",
            ),
        ] {
            fs::write(place.1.join("index.json"), index).unwrap();
            refused(words);
        }
        fs::remove_file(place.1.join("oci-layout")).unwrap();
        refused("no oci-layout");
        assert!(Layout::open(&place.1.join("gone")).unwrap_err().to_string().contains("not there"));
    }
}
