//! Images taken out of an engine: their configurations and layers as blobs that a registry takes.
//!
//! The archive that Docker writes (`docker save`) has all layers of all images that were asked for, each once and not
//! compressed. It says only at its end (`manifest.json`) which file belongs to what, so each file is written to disk
//! as it comes, and compressed beside that when its hash is not one that is there already.
//!
//! Rules: "Docker Image Specification v1.2", "Combined Image JSON + Filesystem Changeset Format"; the OCI image
//! specification for `diff_ids` and media types.

mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::sync::mpsc;

use camino::{Utf8Path, Utf8PathBuf};
use flate2::{Compression, GzBuilder};
use imgforge_core::links::{Entry, Last, Scope, follow};
use imgforge_oci::{Digest, Hasher, Manifest, MediaType, diff_ids};
use serde::Deserialize;

pub use self::write::{Named, write_archive, write_layout};

/// The size of the largest configuration of an image that is read.
const MAX_JSON: u64 = 16 << 20;

/// Images that were taken out of an engine.
#[derive(Debug, Default)]
pub struct Exported {
    /// The configuration of each image, by its id: the digest of exactly these bytes, and where an engine calls an
    /// image by its manifest (Docker with containerd's store), by the digest of that too.
    pub configs: BTreeMap<Digest, Vec<u8>>,
    /// The layers that were not there already, by `diff_id`.
    pub layers: BTreeMap<Digest, Blob>,
}

/// A compressed layer on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// The file.
    pub file: Utf8PathBuf,
    /// The digest of the file.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// That of a layer compressed with gzip, or what the engine keeps.
    pub media_type: MediaType,
}

/// Why an archive cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The archive breaks off, or the disk is full.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is not what an engine writes.
    #[error("the engine's archive is not understood: {0}")]
    Archive(String),
}

/// One row of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    config: String,
    layers: Vec<String>,
}

/// The kind of a file of the archive.
enum Found {
    /// Text that may be a configuration.
    Json(Vec<u8>),
    /// An uncompressed layer with this digest, which may be being compressed.
    Layer(Digest),
    /// A layer that the engine keeps compressed.
    Compressed(Blob),
    /// Another name of a file: the target of a link.
    Link(String),
}

/// Reads an archive of `docker save`. Layers whose `diff_id` is in `there` are passed over; all others lie compressed
/// in `folder` afterwards.
///
/// # Errors
/// An archive that breaks off, that is not understood or lacks what it names; a disk that is full.
pub fn read_archive(
    archive: impl Read,
    there: &BTreeSet<Digest>,
    folder: &Utf8Path,
) -> Result<Exported, ExportError> {
    let mut found: HashMap<String, Found> = HashMap::new();
    let (sender, jobs) = mpsc::sync_channel::<(Digest, Utf8PathBuf)>(2);
    let compressed = std::thread::scope(|scope| {
        let compressor = scope.spawn(move || {
            let mut blobs = BTreeMap::new();
            for (diff_id, raw) in jobs {
                blobs.insert(diff_id, compress(&raw, folder)?);
                std::fs::remove_file(&raw)?;
            }
            Ok::<_, io::Error>(blobs)
        });
        let mut queued = BTreeSet::new();
        let read = read_entries(archive, folder, &mut found, |diff_id, raw| {
            if there.contains(&diff_id) || !queued.insert(diff_id.clone()) {
                return std::fs::remove_file(raw);
            }
            // A compressor that is gone says itself why.
            let _ = sender.send((diff_id, raw));
            Ok(())
        });
        drop(sender);
        let blobs = compressor.join().expect("compressing does not panic")?;
        read.map(|()| blobs)
    })?;
    assemble(&found, compressed, there)
}

fn read_entries(
    archive: impl Read,
    folder: &Utf8Path,
    found: &mut HashMap<String, Found>,
    mut layer: impl FnMut(Digest, Utf8PathBuf) -> io::Result<()>,
) -> Result<(), ExportError> {
    let mut archive = tar::Archive::new(archive);
    for (number, entry) in archive.entries()?.enumerate() {
        let mut entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name_bytes().unwrap_or_default();
            let target = String::from_utf8_lossy(&target).into_owned();
            // The target of a hard link is a name of the archive.
            let target = if kind.is_symlink() { target } else { format!("/{target}") };
            found.insert(name, Found::Link(target));
            continue;
        }
        if !kind.is_file() {
            continue;
        }
        let mut start = [0; 4];
        let len = read_start(&mut entry, &mut start)?;
        let start = &start[..len];
        if matches!(start.first(), Some(b'{' | b'[')) && entry.size() <= MAX_JSON {
            let mut text = start.to_vec();
            entry.read_to_end(&mut text)?;
            found.insert(name, Found::Json(text));
            continue;
        }
        if !(name.ends_with(".tar") || name.starts_with("blobs/")) {
            continue;
        }
        let raw = folder.join(format!("raw-{number}"));
        let (digest, size) = spool(start.chain(&mut entry), &raw)?;
        let media_type = match start {
            [0x1f, 0x8b, ..] => Some(MediaType::ImageLayerGzip),
            [0x28, 0xb5, 0x2f, 0xfd] => Some(MediaType::ImageLayerZstd),
            _ => None,
        };
        let what = match media_type {
            Some(media_type) => Found::Compressed(Blob { file: raw, digest, size, media_type }),
            None => {
                layer(digest.clone(), raw)?;
                Found::Layer(digest)
            }
        };
        found.insert(name, what);
    }
    Ok(())
}

fn assemble(
    found: &HashMap<String, Found>,
    mut compressed: BTreeMap<Digest, Blob>,
    there: &BTreeSet<Digest>,
) -> Result<Exported, ExportError> {
    let json = |name: &str| match resolve(found, name) {
        Some(Found::Json(text)) => Ok(text),
        _ => Err(ExportError::Archive(format!("it has no {name}"))),
    };
    let wrong = |name: &str, error: serde_json::Error| ExportError::Archive(format!("{name}: {error}"));
    let rows: Vec<Row> =
        serde_json::from_slice(json("manifest.json")?).map_err(|error| wrong("manifest.json", error))?;
    let mut exported = Exported::default();
    for row in rows {
        let text = json(&row.config)?;
        let diff_ids = diff_ids(text).map_err(|error| wrong(&row.config, error))?;
        if diff_ids.len() != row.layers.len() {
            let message = format!("{} layers for {} diff_ids", row.layers.len(), diff_ids.len());
            return Err(ExportError::Archive(message));
        }
        for (diff_id, name) in diff_ids.into_iter().zip(&row.layers) {
            match resolve(found, name) {
                Some(Found::Layer(hash)) if *hash == diff_id => {
                    if let Some(blob) = compressed.remove(&diff_id) {
                        exported.layers.insert(diff_id, blob);
                    }
                }
                Some(Found::Compressed(blob)) => {
                    exported.layers.insert(diff_id, blob.clone());
                }
                Some(Found::Layer(hash)) => {
                    return Err(ExportError::Archive(format!("{name} is {hash}, not {diff_id}")));
                }
                _ if there.contains(&diff_id) => {}
                _ => return Err(ExportError::Archive(format!("it lacks the layer {name}"))),
            }
        }
        exported.configs.insert(Digest::sha256(text), text.clone());
    }
    add_manifests(found, &mut exported.configs);
    Ok(exported)
}

/// Adds the configurations under the digests of the manifests and indexes of the archive that lead to one of them. No
/// name in the archive is believed: each is hashed.
fn add_manifests(found: &HashMap<String, Found>, configs: &mut BTreeMap<Digest, Vec<u8>>) {
    let manifests = found.values().filter_map(|what| match what {
        Found::Json(text) => Manifest::parse(text.clone(), None).ok(),
        _ => None,
    });
    // Manifests come before the indexes that name them.
    let (images, indexes): (Vec<_>, Vec<_>) = manifests.partition(|manifest| manifest.image().is_some());
    for manifest in images.into_iter().chain(indexes) {
        let to = manifest.config().into_iter().chain(manifest.entries().unwrap_or_default());
        let mut to = to.filter_map(|to| configs.get(&to.digest));
        // An index of images for several platforms is none of them.
        if let (Some(config), None) = (to.next().cloned(), to.next()) {
            configs.insert(manifest.digest().clone(), config);
        }
    }
}

/// Returns what a name of the archive stands for, links followed. The archive need not have the folders of its names.
fn resolve<'f>(found: &'f HashMap<String, Found>, name: &str) -> Option<&'f Found> {
    let Ok(end) = follow(Path::new(name), Scope::InRoot, Last::Followed, |at| {
        Ok::<_, Infallible>(match at.to_str().and_then(|at| found.get(at)) {
            Some(Found::Link(target)) => Entry::Link(target.into()),
            Some(_) => Entry::File,
            None => Entry::Folder,
        })
    });
    found.get(end.ok()?.to_str()?)
}

fn read_start(reader: &mut impl Read, start: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < start.len() {
        match reader.read(&mut start[len..])? {
            0 => break,
            read => len += read,
        }
    }
    Ok(len)
}

/// Writes all of `reader` to a file. Returns its hash and size.
fn spool(mut reader: impl Read, file: &Utf8Path) -> io::Result<(Digest, u64)> {
    let mut writer = Hashing { inner: File::create(file)?, hasher: Hasher::sha256(), size: 0 };
    let mut buffer = vec![0; 1 << 18];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(writer.finish()),
            read => writer.write_all(&buffer[..read])?,
        }
    }
}

/// Compresses a layer into `folder`. The same layer gives the same bytes: no time and no name is in them.
fn compress(raw: &Utf8Path, folder: &Utf8Path) -> io::Result<Blob> {
    let file = folder.join(format!("{}.gz", raw.file_name().unwrap_or("layer")));
    let writer = Hashing { inner: BufWriter::new(File::create(&file)?), hasher: Hasher::sha256(), size: 0 };
    let mut encoder = GzBuilder::new().mtime(0).write(writer, Compression::default());
    io::copy(&mut File::open(raw)?, &mut encoder)?;
    let mut writer = encoder.finish()?;
    writer.flush()?;
    let (digest, size) = writer.finish();
    Ok(Blob { file, digest, size, media_type: MediaType::ImageLayerGzip })
}

/// Hashes and counts what is written through it.
struct Hashing<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
}

impl<W> Hashing<W> {
    fn finish(self) -> (Digest, u64) {
        (self.hasher.finish(), self.size)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use imgforge_oci::{Descriptor, ImageManifest, Index};

    use super::*;

    fn sha256(bytes: &[u8]) -> Digest {
        Digest::sha256(bytes)
    }

    fn add(tar: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes).unwrap();
    }

    fn link(tar: &mut tar::Builder<Vec<u8>>, name: &str, target: &str) {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, name, target).unwrap();
    }

    fn folder() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::try_from(dir.path().to_owned()).unwrap();
        (dir, path)
    }

    fn config(layers: &[&[u8]]) -> Vec<u8> {
        let ids: Vec<Digest> = layers.iter().map(|layer| sha256(layer)).collect();
        serde_json::json!({ "rootfs": { "type": "layers", "diff_ids": ids } }).to_string().into_bytes()
    }

    /// As Engine 20.10 writes it: a layer that two images share is a link in the second.
    fn archive(layers: [&[u8]; 2]) -> (Vec<u8>, Digest) {
        let mut tar = tar::Builder::new(Vec::new());
        let config = config(&layers);
        add(&mut tar, "aa/VERSION", b"1.0");
        add(&mut tar, "aa/json", b"{}");
        add(&mut tar, "aa/layer.tar", layers[0]);
        add(&mut tar, "bb/layer.tar", layers[1]);
        link(&mut tar, "cc/layer.tar", "../aa/layer.tar");
        add(&mut tar, "conf.json", &config);
        let rows = serde_json::json!([
            { "Config": "conf.json", "RepoTags": null, "Layers": ["cc/layer.tar", "bb/layer.tar"] }
        ]);
        add(&mut tar, "manifest.json", rows.to_string().as_bytes());
        (tar.into_inner().unwrap(), sha256(&config))
    }

    #[test]
    fn layers_are_compressed_and_configurations_kept_as_they_are() {
        let (_dir, folder) = folder();
        let (bytes, id) = archive([b"one", b"two"]);
        let exported = read_archive(&bytes[..], &BTreeSet::new(), &folder).unwrap();
        assert_eq!(exported.configs.keys().collect::<Vec<_>>(), [&id]);
        for content in [&b"one"[..], b"two"] {
            let blob = &exported.layers[&sha256(content)];
            let stored = std::fs::read(&blob.file).unwrap();
            assert_eq!((sha256(&stored), stored.len() as u64), (blob.digest.clone(), blob.size));
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(&stored[..]).read_to_end(&mut back).unwrap();
            assert_eq!(back, content);
        }
        let left = std::fs::read_dir(&folder).unwrap().count();
        assert_eq!(left, 2, "uncompressed files are gone");
    }

    #[test]
    fn what_is_there_is_not_compressed() {
        let (_dir, folder) = folder();
        let (bytes, _) = archive([b"one", b"two"]);
        let there = BTreeSet::from([sha256(b"one")]);
        let exported = read_archive(&bytes[..], &there, &folder).unwrap();
        assert_eq!(exported.layers.keys().collect::<Vec<_>>(), [&sha256(b"two")]);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn layers_that_the_engine_keeps_compressed_are_taken_as_they_are() {
        let (_dir, folder) = folder();
        let mut encoder = GzBuilder::new().write(Vec::new(), Compression::fast());
        encoder.write_all(b"layer").unwrap();
        let stored = encoder.finish().unwrap();
        let config = config(&[b"layer"]);
        let mut tar = tar::Builder::new(Vec::new());
        add(&mut tar, "blobs/sha256/l", &stored);
        add(&mut tar, "blobs/sha256/c", &config);
        let rows = serde_json::json!([{ "Config": "blobs/sha256/c", "Layers": ["blobs/sha256/l"] }]);
        add(&mut tar, "manifest.json", rows.to_string().as_bytes());
        let bytes = tar.into_inner().unwrap();
        let exported = read_archive(&bytes[..], &BTreeSet::new(), &folder).unwrap();
        let blob = &exported.layers[&sha256(b"layer")];
        assert_eq!((&blob.digest, &blob.media_type), (&sha256(&stored), &MediaType::ImageLayerGzip));
    }

    /// An archive in the form that Docker has with containerd's store. No such engine is asked here.
    #[test]
    fn a_configuration_is_found_by_the_manifest_and_the_index_that_lead_to_it() {
        let (_dir, folder) = folder();
        let config = config(&[b"layer"]);
        let manifest = |config: &[u8]| {
            let config = Descriptor::of(MediaType::ImageConfig, config);
            Manifest::of(ImageManifest::image(config, Vec::new(), BTreeMap::new()))
        };
        let index = |manifests: &[&Manifest]| {
            let manifests = manifests.iter().map(|manifest| manifest.descriptor()).collect();
            Manifest::of(Index { manifests, ..Index::default() })
        };
        // An attestation has a configuration that is no image's.
        let (manifest, attestation) = (manifest(&config), manifest(b"{}"));
        let inner = index(&[&manifest, &attestation]);
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in [
            ("l", &b"layer"[..]),
            ("c", &config),
            ("m", manifest.bytes()),
            ("a", attestation.bytes()),
            ("i", inner.bytes()),
        ] {
            add(&mut tar, &format!("blobs/sha256/{name}"), bytes);
        }
        add(&mut tar, "index.json", index(&[&inner]).bytes());
        let rows = serde_json::json!([{ "Config": "blobs/sha256/c", "Layers": ["blobs/sha256/l"] }]);
        add(&mut tar, "manifest.json", rows.to_string().as_bytes());
        let bytes = tar.into_inner().unwrap();
        let exported = read_archive(&bytes[..], &BTreeSet::new(), &folder).unwrap();
        for id in [&sha256(&config), manifest.digest(), inner.digest()] {
            assert_eq!(exported.configs.get(id), Some(&config), "{id}");
        }
        assert_eq!(exported.configs.get(attestation.digest()), None);
    }

    #[test]
    fn archives_that_are_not_whole_are_refused() {
        let (_dir, folder) = folder();
        let (bytes, _) = archive([b"one", b"two"]);
        let read = |bytes: &[u8]| read_archive(bytes, &BTreeSet::new(), &folder).map(|_| ()).unwrap_err();
        assert!(matches!(read(&bytes[..700]), ExportError::Io(_)));
        assert!(read(&[0; 1024]).to_string().contains("no manifest.json"));
        let mut tar = tar::Builder::new(Vec::new());
        add(&mut tar, "c.json", &config(&[b"one"]));
        add(&mut tar, "a/layer.tar", b"other");
        let rows = serde_json::json!([{ "Config": "c.json", "Layers": ["a/layer.tar"] }]);
        add(&mut tar, "manifest.json", rows.to_string().as_bytes());
        let bytes = tar.into_inner().unwrap();
        assert!(read(&bytes).to_string().contains(&format!("not {}", sha256(b"one"))));
    }

    #[test]
    fn what_is_written_as_an_archive_is_read_again_and_a_layout_is_added_to() {
        let (_dir, folder) = folder();
        let (bytes, id) = archive([b"one", b"two"]);
        let exported = read_archive(&bytes[..], &BTreeSet::new(), &folder).unwrap();
        let named = |name: &str| [Named { id: id.clone(), names: vec![name.to_owned()] }];
        let mut written = Vec::new();
        write_archive(&exported, &named("x:1"), &folder, &mut written).unwrap();
        let (_other, other) = self::folder();
        let again = read_archive(&written[..], &BTreeSet::new(), &other).unwrap();
        assert_eq!(again.configs, exported.configs);
        let digests = |exported: &Exported| -> Vec<Digest> {
            exported.layers.values().map(|blob| blob.digest.clone()).collect()
        };
        assert_eq!(digests(&again), digests(&exported));

        let layout = other.join("layout");
        for name in ["x:1", "x:2", "x:1"] {
            write_layout(&exported, &named(name), &layout).unwrap();
        }
        let index: serde_json::Value =
            serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
        for blob in layout.join("blobs/sha256").read_dir_utf8().unwrap() {
            let path = blob.unwrap().into_path();
            let found = sha256(&std::fs::read(&path).unwrap());
            assert_eq!(found.hex(), path.file_name().unwrap());
        }
        let error = write_layout(&exported, &named("x:1"), &other).unwrap_err();
        assert!(error.to_string().contains("is no OCI image layout"), "{error}");
    }

    /// Digests of what was exported before are to stay: a manifest in a layout has its members in the order of their
    /// names, and what others have put into an index stays as it is.
    #[test]
    fn a_layout_has_the_same_bytes_as_ever() {
        let (_dir, folder) = folder();
        let file = folder.join("blob");
        std::fs::write(&file, "blob").unwrap();
        let config = config(&[b"one"]);
        let id = sha256(&config);
        let blob = Blob { file, digest: sha256(b"blob"), size: 4, media_type: MediaType::ImageLayerGzip };
        let exported =
            Exported { configs: [(id.clone(), config)].into(), layers: [(sha256(b"one"), blob)].into() };
        let layout = folder.join("layout");
        let foreign = r#"{"schemaVersion":2,"manifests":[{"mediaType":"application/x","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"urls":["https://example.com/x"]}]}"#;
        std::fs::create_dir(&layout).unwrap();
        std::fs::write(layout.join("oci-layout"), "{}").unwrap();
        std::fs::write(layout.join("index.json"), foreign).unwrap();
        write_layout(&exported, &[Named { id: id.clone(), names: vec!["x:1".to_owned()] }], &layout).unwrap();
        let read = |path: &str| std::fs::read_to_string(layout.join(path)).unwrap();
        let manifest = r#"{"config":{"digest":"sha256:746e6da50ef37f3a777b26ec60ad54e786b211fbc53e46c7550e4b4f629ed7c9","mediaType":"application/vnd.oci.image.config.v1+json","size":115},"layers":[{"digest":"sha256:fa2c8cc4f28176bbeed4b736df569a34c79cd3723e9ec42f9674b4d46ac6b8b8","mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":4}],"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}"#;
        assert_eq!(read(&format!("blobs/sha256/{}", sha256(manifest.as_bytes()).hex())), manifest);
        assert_eq!(
            read("index.json"),
            r#"{"manifests":[{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","mediaType":"application/x","size":2,"urls":["https://example.com/x"]},{"annotations":{"org.opencontainers.image.ref.name":"x:1"},"digest":"sha256:a314e8217118f0d8a8706900e0b24def3e428c934676a73e398dc19fcae81e85","mediaType":"application/vnd.oci.image.manifest.v1+json","size":399}],"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2}"#
        );
        assert_eq!(read("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#);
    }
}
