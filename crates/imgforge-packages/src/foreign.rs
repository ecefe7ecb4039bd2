//! The packages of an image that someone else has made, from its layers: dpkg's database, or the pieces of it that
//! images without dpkg keep for scanners (`status.d`), or apk's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::lock::ForeignPackage;
use imgforge_oci::Digest;

use crate::apk;
use crate::cache::Cache;
use crate::control::paragraphs;
use crate::deb::invalid;
use crate::error::Error;
use crate::index::IndexEntry;
use crate::relation::Scheme;

const FOLDER: &str = "var/lib/dpkg";

/// Where apk's database is; since apk 3, below `/usr`.
const APK: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];

/// Debian's largest databases have a few MB.
const LIMIT: u64 = 64 << 20;

/// The package database of an image of these layers, lowest first, as one text; empty when it has none.
///
/// # Errors
/// [`Error::Io`] for a layer that cannot be read.
pub fn package_database(layers: &[Utf8PathBuf]) -> Result<String, Error> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for path in layers {
        let layer = read_layer(path).map_err(Error::io(path))?;
        files.retain(|path, _| !layer.hidden.iter().any(|hidden| is_at_or_below(path, hidden)));
        files.extend(layer.files);
    }
    Ok(files.into_values().collect::<Vec<_>>().join("\n\n"))
}

/// The database of the image with this digest, if it was kept.
pub fn kept_database(digest: &Digest, cache: &Cache) -> Option<String> {
    String::from_utf8(cache.read_sealed(&cache.database(digest))?).ok()
}

/// Keeps a database, so that the layers need not be fetched again.
///
/// # Errors
/// [`Error::Io`].
pub fn keep_database(digest: &Digest, text: &str, cache: &Cache) -> Result<(), Error> {
    cache.keep_sealed(&cache.database(digest), text.as_bytes())
}

/// Where an image has the database of its packages: one of these files.
pub fn database_paths(scheme: Scheme) -> &'static [&'static str] {
    match scheme {
        Scheme::Debian => &["/var/lib/dpkg/status"],
        Scheme::Alpine => &["/lib/apk/db/installed", "/usr/lib/apk/db/installed"],
    }
}

/// The packages that a database has installed, of one architecture.
pub fn installed_packages(scheme: Scheme, status: &str, architecture: &str) -> BTreeSet<ForeignPackage> {
    if scheme == Scheme::Alpine {
        let package =
            |IndexEntry { name, version, architecture, .. }| ForeignPackage { name, version, architecture };
        return apk::entries(status).map(package).collect();
    }
    let package = |paragraph: crate::control::Paragraph<'_>| {
        // The pieces of images without dpkg say nothing of a state.
        let state = paragraph.get("Status").map_or(Some("installed"), |status| status.split(' ').nth(2));
        let own = |name: &&str| *name == "all" || *name == architecture;
        Some(ForeignPackage {
            name: paragraph.get("Package").filter(|_| state == Some("installed"))?.to_owned(),
            version: paragraph.get("Version")?.to_owned(),
            architecture: paragraph.get("Architecture").filter(own)?.to_owned(),
        })
    };
    paragraphs(status).filter_map(package).collect()
}

/// What one layer says of the databases.
#[derive(Default)]
struct Layer {
    files: BTreeMap<String, String>,
    /// Paths of lower layers that are gone (OCI image specification, "Whiteouts").
    hidden: Vec<String>,
}

fn read_layer(path: &Utf8Path) -> io::Result<Layer> {
    let mut layer = Layer::default();
    for entry in tar::Archive::new(unpacked(path)?).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let path = path.trim_start_matches("./").trim_matches('/').to_owned();
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if name == ".wh..wh..opq" {
            layer.hidden.push(folder.to_owned());
        } else if let Some(name) = name.strip_prefix(".wh.") {
            layer.hidden.push(format!("{folder}/{name}").trim_start_matches('/').to_owned());
        } else if is_database(&path) && entry.header().entry_type().is_file() {
            let mut text = String::new();
            let read = (&mut entry).take(LIMIT).read_to_string(&mut text);
            read.map_err(|error| invalid(&format!("{path} in it: {error}")))?;
            layer.files.insert(path, text);
        }
    }
    Ok(layer)
}

fn is_database(path: &str) -> bool {
    if APK.contains(&path) {
        return true;
    }
    let below = path.strip_prefix(FOLDER).and_then(|rest| rest.strip_prefix('/'));
    below.is_some_and(|below| match below.strip_prefix("status.d/") {
        Some(piece) => !piece.ends_with(".md5sums"),
        None => below == "status",
    })
}

fn is_at_or_below(path: &str, folder: &str) -> bool {
    folder.is_empty()
        || path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A layer's tar, whatever it is compressed with.
fn unpacked(path: &Utf8Path) -> io::Result<Box<dyn Read>> {
    let mut start = Vec::new();
    File::open(path)?.take(4).read_to_end(&mut start)?;
    let file = BufReader::new(File::open(path)?);
    Ok(match start.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(file)?),
        _ => Box::new(file),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(folder: &tempfile::TempDir, name: &str, files: &[(&str, &str)]) -> Utf8PathBuf {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        let tar = tar.into_inner().unwrap();
        let bytes = match name {
            "gz" => {
                let mut packed = Vec::new();
                let mut encoder = flate2::read::GzEncoder::new(&tar[..], flate2::Compression::fast());
                encoder.read_to_end(&mut packed).unwrap();
                packed
            }
            "zst" => zstd::encode_all(&tar[..], 1).unwrap(),
            _ => tar,
        };
        let path = Utf8Path::from_path(folder.path()).unwrap().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn names(layers: &[Utf8PathBuf]) -> Vec<String> {
        let text = package_database(layers).unwrap();
        installed_packages(Scheme::Debian, &text, "amd64")
            .into_iter()
            .map(|p| format!("{}={}", p.name, p.version))
            .collect()
    }

    fn package(name: &str, version: &str, state: &str) -> String {
        format!("Package: {name}\nStatus: install ok {state}\nArchitecture: amd64\nVersion: {version}\n\n")
    }

    #[test]
    fn the_topmost_database_counts_and_only_what_is_installed() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (package("libc6", "1", "installed"), package("libc6", "2", "installed"));
        let removed = package("gone", "1", "config-files");
        let foreign = package("other", "1", "installed").replace("amd64", "i386");
        let lower = layer(&folder, "gz", &[("./var/lib/dpkg/status", &old), ("etc/passwd", "x")]);
        let upper = layer(&folder, "zst", &[("var/lib/dpkg/status", &format!("{new}{removed}{foreign}"))]);
        let other = layer(&folder, "tar", &[("etc/motd", "x")]);
        assert_eq!(names(&[lower.clone(), upper, other.clone()]), ["libc6=2"]);
        assert_eq!(names(&[lower, other.clone()]), ["libc6=1"]);
        assert_eq!(names(&[other]), [""; 0]);
    }

    #[test]
    fn pieces_for_scanners_count_too_and_what_a_layer_removes_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let piece = |name: &str| format!("Package: {name}\nVersion: 1\nArchitecture: all\n");
        let lower = layer(
            &folder,
            "gz",
            &[
                ("var/lib/dpkg/status.d/a", &piece("a")),
                ("var/lib/dpkg/status.d/a.md5sums", "Package: not-one\n"),
                ("var/lib/dpkg/status.d/b", &piece("b")),
            ],
        );
        assert_eq!(names(std::slice::from_ref(&lower)), ["a=1", "b=1"]);
        for (hidden, left) in [
            ("var/lib/dpkg/status.d/.wh.a", vec!["b=1", "c=1"]),
            ("var/lib/dpkg/.wh..wh..opq", vec!["c=1"]),
            ("var/.wh.lib", vec!["c=1"]),
            ("var/lib/.wh.dp", vec!["a=1", "b=1", "c=1"]),
        ] {
            let upper = layer(&folder, "tar", &[("var/lib/dpkg/status.d/c", &piece("c")), (hidden, "")]);
            assert_eq!(names(&[lower.clone(), upper]), left, "{hidden}");
        }
    }
}
