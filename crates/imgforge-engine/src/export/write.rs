//! Images as files for other programs: an OCI image layout ("OCI Image Layout Specification"), or an archive that
//! `docker load` takes ("Docker Image Specification v1.2", "Combined Image JSON + Filesystem Changeset Format";
//! layers in it are compressed with gzip, which Docker, Podman and skopeo take, or not at all: a Docker before 23
//! knows no zstd).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Seek, Write};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_oci::annotation::REF_NAME;
use imgforge_oci::{Descriptor, Digest, ImageManifest, Index, Manifest, MediaType, diff_ids, layout};
use serde_json::{Value, json};

use super::{Blob, ExportError, Exported};

/// An image that is written, and what it is called there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The engine's id of it, among [`Exported::configs`].
    pub id: Digest,
    /// `NAME:TAG`s.
    pub names: Vec<String>,
}

/// Writes images into an OCI image layout. A layout that is there is added to: a name leads to the new image then.
///
/// # Errors
/// A folder that is there and is no layout; a disk that is full. A layout that was there is as it was then, but for
/// blobs that nothing names.
pub fn write_layout(exported: &Exported, images: &[Named], folder: &Utf8Path) -> Result<(), ExportError> {
    let marker = folder.join(layout::MARKER);
    if folder.exists() && !marker.exists() && folder.read_dir_utf8()?.next().is_some() {
        return Err(ExportError::Archive(format!("{folder} is there, and is no OCI image layout")));
    }
    let blobs = folder.join(layout::BLOBS);
    fs::create_dir_all(&blobs)?;
    let mut manifests = match fs::read(folder.join(layout::INDEX)) {
        Ok(bytes) => {
            let wrong = |error| ExportError::Archive(format!("{folder}/{}: {error}", layout::INDEX));
            Manifest::parse(bytes, None).map_err(wrong)?.entries().unwrap_or_default().to_vec()
        }
        Err(_) => Vec::new(),
    };
    for image in images {
        let (config, layers) = parts(exported, &image.id)?;
        for layer in &layers {
            place(&layer.file, &blobs.join(layer.digest.hex()))?;
        }
        put(&blobs.join(image.id.hex()), config)?;
        let descriptor =
            |layer: &&Blob| Descriptor::new(layer.media_type.clone(), layer.digest.clone(), layer.size);
        let manifest = Manifest::sorted(ImageManifest::image(
            Descriptor::new(MediaType::ImageConfig, image.id.clone(), config.len() as u64),
            layers.iter().map(descriptor).collect(),
            BTreeMap::new(),
        ));
        put(&blobs.join(manifest.digest().hex()), manifest.bytes())?;
        for name in &image.names {
            manifests.retain(|entry| entry.annotations.get(REF_NAME) != Some(name));
            manifests.push(Descriptor {
                annotations: BTreeMap::from([(REF_NAME.to_owned(), name.clone())]),
                ..manifest.descriptor()
            });
        }
    }
    let index = Manifest::sorted(Index { manifests, ..Index::default() });
    put(&folder.join(layout::INDEX), index.bytes())?;
    put(&marker, layout::MARKER_TEXT.as_bytes())
}

/// Writes images as an archive for `docker load`. A layer that has to be packed in another way lies in `folder`
/// meanwhile.
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
            let name = format!("{}.tar", layer.digest.hex());
            if written.insert(name.clone()) {
                let mut file = readable(layer, folder)?;
                tar.append_data(&mut header(file.metadata()?.len()), &name, &mut file)?;
            }
            names.push(name);
        }
        let name = format!("{}.json", image.id.hex());
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
    if layer.media_type != MediaType::ImageLayerZstd {
        return File::open(&layer.file);
    }
    let mut file = tempfile::tempfile_in(folder)?;
    zstd::stream::copy_decode(File::open(&layer.file)?, &mut file)?;
    file.rewind()?;
    Ok(file)
}

fn parts<'e>(exported: &'e Exported, id: &Digest) -> Result<(&'e [u8], Vec<&'e Blob>), ExportError> {
    let missing = |what: &Digest| ExportError::Archive(format!("{what} was not taken out of the engine"));
    let bytes = exported.configs.get(id).ok_or_else(|| missing(id))?;
    let diff_ids = diff_ids(bytes).map_err(|error| ExportError::Archive(format!("{id}: {error}")))?;
    let layers = diff_ids.iter();
    let layers = layers.map(|diff_id| exported.layers.get(diff_id).ok_or_else(|| missing(diff_id)));
    Ok((bytes, layers.collect::<Result<_, _>>()?))
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
