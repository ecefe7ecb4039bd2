//! Images as files for other programs: an OCI image layout ("OCI Image Layout Specification"), or an archive that
//! `docker load` takes ("Docker Image Specification v1.2", "Combined Image JSON + Filesystem Changeset Format"; layers in
//! it are compressed with gzip, which Docker, Podman and skopeo take, or not at all: a Docker before 23 knows no zstd).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Seek, Write};

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Blob, Config, ExportError, Exported, LAYER_ZSTD};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The annotation that names an image in a layout (OCI image specification, "Pre-Defined Annotation Keys").
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An image that is written, and what it is called there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The engine's id of it, among [`Exported::configs`].
    pub id: String,
    /// `NAME:TAG`s.
    pub names: Vec<String>,
}

/// Writes images into an OCI image layout. A layout that is there is added to: a name leads to the new image then.
///
/// # Errors
/// A folder that is there and is no layout; a disk that is full. A layout that was there is as it was then, but for
/// blobs that nothing names.
pub fn write_layout(exported: &Exported, images: &[Named], folder: &Utf8Path) -> Result<(), ExportError> {
    let marker = folder.join("oci-layout");
    if folder.exists() && !marker.exists() && folder.read_dir_utf8()?.next().is_some() {
        return Err(ExportError::Archive(format!("{folder} is there, and is no OCI image layout")));
    }
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let mut manifests: Vec<Value> = match fs::read(folder.join("index.json")) {
        Ok(bytes) => {
            let index: Value = serde_json::from_slice(&bytes)
                .map_err(|error| ExportError::Archive(format!("{folder}/index.json: {error}")))?;
            index["manifests"].as_array().cloned().unwrap_or_default()
        }
        Err(_) => Vec::new(),
    };
    for image in images {
        let (config, layers) = parts(exported, &image.id)?;
        for layer in &layers {
            place(&layer.file, &blobs.join(digits(&layer.digest)))?;
        }
        put(&blobs.join(digits(&image.id)), config)?;
        let descriptors: Vec<Value> = layers
            .iter()
            .map(|layer| json!({ "mediaType": layer.media_type, "digest": layer.digest, "size": layer.size }))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": image.id, "size": config.len() },
            "layers": descriptors,
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&manifest)));
        put(&blobs.join(digits(&digest)), &manifest)?;
        for name in &image.names {
            manifests.retain(|entry| entry["annotations"][REF_NAME] != name.as_str());
            manifests.push(json!({
                "mediaType": MANIFEST,
                "digest": digest,
                "size": manifest.len(),
                "annotations": { REF_NAME: name },
            }));
        }
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    put(&folder.join("index.json"), index.to_string().as_bytes())?;
    put(&marker, b"{\"imageLayoutVersion\":\"1.0.0\"}")
}

/// Writes images as an archive for `docker load`. A layer that has to be packed in another way lies in `folder` meanwhile.
///
/// # Errors
/// Returns an error of `out`, or for layers that cannot be read.
pub fn write_archive(
    exported: &Exported,
    images: &[Named],
    folder: &Utf8Path,
    out: impl Write,
) -> Result<(), ExportError> {
    let mut tar = tar::Builder::new(out);
    let mut written = BTreeSet::new();
    let mut rows = Vec::new();
    for image in images {
        let (config, layers) = parts(exported, &image.id)?;
        let mut names = Vec::new();
        for layer in layers {
            let name = format!("{}.tar", digits(&layer.digest));
            if written.insert(name.clone()) {
                let mut file = readable(layer, folder)?;
                tar.append_data(&mut header(file.metadata()?.len()), &name, &mut file)?;
            }
            names.push(name);
        }
        let name = format!("{}.json", digits(&image.id));
        if written.insert(name.clone()) {
            tar.append_data(&mut header(config.len() as u64), &name, config)?;
        }
        rows.push(json!({ "Config": name, "RepoTags": image.names, "Layers": names }));
    }
    let rows = Value::from(rows).to_string().into_bytes();
    tar.append_data(&mut header(rows.len() as u64), "manifest.json", rows.as_slice())?;
    tar.into_inner()?.flush()?;
    Ok(())
}

/// A layer as any Docker reads it.
fn readable(layer: &Blob, folder: &Utf8Path) -> io::Result<File> {
    if layer.media_type != LAYER_ZSTD {
        return File::open(&layer.file);
    }
    let mut file = tempfile::tempfile_in(folder)?;
    zstd::stream::copy_decode(File::open(&layer.file)?, &mut file)?;
    file.rewind()?;
    Ok(file)
}

fn parts<'e>(exported: &'e Exported, id: &str) -> Result<(&'e [u8], Vec<&'e Blob>), ExportError> {
    let missing = |what: &str| ExportError::Archive(format!("{what} was not taken out of the engine"));
    let bytes = exported.configs.get(id).ok_or_else(|| missing(id))?;
    let config: Config =
        serde_json::from_slice(bytes).map_err(|error| ExportError::Archive(format!("{id}: {error}")))?;
    let layers = config.rootfs.diff_ids.iter();
    let layers = layers.map(|diff_id| exported.layers.get(diff_id).ok_or_else(|| missing(diff_id)));
    Ok((bytes, layers.collect::<Result<_, _>>()?))
}

fn digits(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

/// Nothing in it says when or where it was written.
fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header
}

/// Puts a file where it is not yet, whole or not at all; without a copy where that can be had.
fn place(file: &Utf8Path, to: &Utf8Path) -> io::Result<()> {
    if to.exists() || fs::hard_link(file, to).is_ok() {
        return Ok(());
    }
    let part = part(to);
    fs::copy(file, &part)?;
    fs::rename(part, to)
}

fn put(to: &Utf8Path, bytes: &[u8]) -> Result<(), ExportError> {
    let part = part(to);
    fs::write(&part, bytes)?;
    Ok(fs::rename(part, to)?)
}

fn part(to: &Utf8Path) -> Utf8PathBuf {
    Utf8PathBuf::from(format!("{to}.part-{}", std::process::id()))
}
