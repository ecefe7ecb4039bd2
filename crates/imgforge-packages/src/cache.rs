//! The folder of downloads: content-addressed, so that any number of workspaces and processes share it.
//!
//! `sha256/HEX` are packages, `partial/HEX` what has come of one so far, `index/HEX` parsed indexes, `roots/HEX.tar`
//! root file systems, `databases/HEX` the package databases of images from outside. Packages are compared with their
//! digest when they are used; what was made of them has none, and counts when this user has sealed it, so that a
//! cache may be shared. Every file is written under another name and renamed when it is whole, so that a process that
//! is killed leaves nothing wrong behind.

use std::fs;
use std::io::{self, Write};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_state::Key;
use sha2::{Digest, Sha256};

use crate::error::Error;

/// A cache folder; nothing is made before it is needed.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: Utf8PathBuf,
    key: Key,
}

impl Cache {
    /// The cache in `folder`.
    pub fn new(folder: impl Into<Utf8PathBuf>) -> Self {
        Self { folder: folder.into(), key: Key::user() }
    }

    /// The user's cache: `IMGFORGE_CACHE`, else `$XDG_CACHE_HOME/imgforge`, else `~/.cache/imgforge`.
    ///
    /// # Errors
    /// [`Error::NoCache`] when none of the variables is set.
    pub fn user() -> Result<Self, Error> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        set("IMGFORGE_CACHE")
            .map(Utf8PathBuf::from)
            // The XDG base directory specification: a relative path is to be ignored.
            .or_else(|| {
                set("XDG_CACHE_HOME")
                    .filter(|p| p.starts_with('/'))
                    .map(|p| Utf8Path::new(&p).join("imgforge"))
            })
            .or_else(|| set("HOME").map(|home| Utf8Path::new(&home).join(".cache/imgforge")))
            .map(Self::new)
            .ok_or(Error::NoCache)
    }

    /// The folder itself.
    pub fn folder(&self) -> &Utf8Path {
        &self.folder
    }

    /// Where the file with this SHA-256 (lower-case hex) is, or will be.
    pub fn file(&self, sha256: &str) -> Utf8PathBuf {
        self.folder.join("sha256").join(sha256)
    }

    pub(crate) fn partial(&self, sha256: &str) -> Utf8PathBuf {
        self.folder.join("partial").join(sha256)
    }

    pub(crate) fn index(&self, key: &str) -> Utf8PathBuf {
        self.folder.join("index").join(key)
    }

    pub(crate) fn database(&self, digest: &imgforge_oci::Digest) -> Utf8PathBuf {
        self.folder.join("databases").join(digest.hex())
    }

    pub(crate) fn root(&self, key: &str) -> Utf8PathBuf {
        self.folder.join("roots").join(format!("{key}.tar"))
    }
}

impl Cache {
    /// What a file of the cache holds, when this user has sealed it.
    pub(crate) fn read_sealed(&self, path: &Utf8Path) -> Option<Vec<u8>> {
        let mut bytes = fs::read(path).ok()?;
        let (seal, body) = bytes.split_first_chunk::<{ blake3::OUT_LEN }>()?;
        let is_ours = self.key.has_sealed(PURPOSE, &[self.name(path), body], blake3::Hash::from_bytes(*seal));
        bytes.drain(..blake3::OUT_LEN);
        is_ours.then_some(bytes)
    }

    /// Writes such a file. Without a key it is not kept, and made again the next time.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn keep_sealed(&self, path: &Utf8Path, body: &[u8]) -> Result<(), Error> {
        let Ok(seal) = self.key.seal(PURPOSE, &[self.name(path), body]) else { return Ok(()) };
        replace(path, |out| {
            out.write_all(seal.as_bytes()).and_then(|()| out.write_all(body)).map_err(Error::io(path))
        })
    }

    /// A file's name in the cache, wherever that lies.
    fn name<'p>(&self, path: &'p Utf8Path) -> &'p [u8] {
        path.strip_prefix(&self.folder).unwrap_or(path).as_str().as_bytes()
    }
}

/// What a file is believed for.
const PURPOSE: &str = "file of the cache";

/// Makes the folder that `path` lies in.
pub(crate) fn make_parent(path: &Utf8Path) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(Error::io(folder))
}

/// Writes a file as a whole: a reader sees nothing or all of it, whoever else writes the same.
pub(crate) fn replace(
    path: &Utf8Path,
    write: impl FnOnce(&mut io::BufWriter<&mut fs::File>) -> Result<(), Error>,
) -> Result<(), Error> {
    make_parent(path)?;
    let folder = path.parent().unwrap_or(path);
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(Error::io(folder))?;
    let mut buffer = io::BufWriter::with_capacity(1 << 20, file.as_file_mut());
    write(&mut buffer)?;
    buffer.flush().map_err(Error::io(path))?;
    drop(buffer);
    file.persist(path).map_err(|e| Error::io(path)(e.error))?;
    Ok(())
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_of_packages_counts_under_its_name_when_this_user_has_sealed_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        let with = |key: u8| Cache { folder: folder.clone(), key: Key::of(&[key; 32]) };
        let (one, two) = (with(1).index("a"), with(1).index("b"));
        with(1).keep_sealed(&one, b"made").unwrap();
        assert_eq!(with(1).read_sealed(&one).unwrap(), b"made");
        assert_eq!(with(2).read_sealed(&one), None);
        fs::copy(&one, &two).unwrap();
        assert_eq!(with(1).read_sealed(&two), None);
        let mut damaged = fs::read(&one).unwrap();
        *damaged.last_mut().unwrap() ^= 1;
        for bytes in [&damaged[..], b"made", b""] {
            fs::write(&one, bytes).unwrap();
            assert_eq!(with(1).read_sealed(&one), None);
        }
    }

    #[test]
    fn the_cache_is_where_the_variables_say() {
        let with = |set: &[(&str, &str)]| {
            let set: Vec<(String, String)> =
                set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            Cache::from_variables(|name| set.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
                .map(|cache| cache.folder)
        };
        let all = [("IMGFORGE_CACHE", "/c"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(with(&all).unwrap(), "/c");
        assert_eq!(with(&all[1..]).unwrap(), "/x/imgforge");
        assert_eq!(with(&all[2..]).unwrap(), "/h/.cache/imgforge");
        assert_eq!(with(&[("XDG_CACHE_HOME", "rel"), ("HOME", "/h")]).unwrap(), "/h/.cache/imgforge");
        assert!(matches!(with(&[("IMGFORGE_CACHE", "")]), Err(Error::NoCache)));
    }
}
