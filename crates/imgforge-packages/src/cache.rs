//! The folder of downloads: content-addressed, so that any number of workspaces and processes share it.
//!
//! `sha256/HEX` are packages, `partial/HEX` what has come of one so far, `index/HEX` parsed indexes, `roots/HEX.tar`
//! root file systems, `databases/HEX` the package databases of images from outside. Every file is written under another name and renamed when it is whole, so that a process that
//! is killed leaves nothing wrong behind.

use std::fs;
use std::io::{self, Write};

use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest, Sha256};

use crate::error::Error;

/// A cache folder; nothing is made before it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    folder: Utf8PathBuf,
}

impl Cache {
    /// The cache in `folder`.
    pub fn new(folder: impl Into<Utf8PathBuf>) -> Self {
        Self { folder: folder.into() }
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

    pub(crate) fn database(&self, digest: &str) -> Utf8PathBuf {
        self.folder.join("databases").join(digest.trim_start_matches("sha256:"))
    }

    pub(crate) fn root(&self, key: &str) -> Utf8PathBuf {
        self.folder.join("roots").join(format!("{key}.tar"))
    }
}

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
