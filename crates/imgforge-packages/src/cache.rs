//! Files by their SHA-256, in the user's cache folder: shared by all workspaces, written whole or not at all.

use std::fs;
use std::io::Write;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::lock::LockedPackage;

use crate::Error;
use crate::error::io;

/// The cache folder.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: Utf8PathBuf,
}

impl Cache {
    /// The user's cache: `IMGFORGE_CACHE`, else `$XDG_CACHE_HOME/imgforge`, else `~/.cache/imgforge`.
    ///
    /// # Errors
    /// When none of these is set, or the folder cannot be made.
    pub fn user() -> Result<Self, Error> {
        let set =
            |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty()).map(Utf8PathBuf::from);
        let dir = set("IMGFORGE_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("imgforge")))
            .or_else(|| set("HOME").map(|dir| dir.join(".cache/imgforge")));
        let nowhere = || Error::Io {
            path: "~/.cache/imgforge".into(),
            error: std::io::Error::other("neither HOME nor IMGFORGE_CACHE is set"),
        };
        Self::at(&dir.ok_or_else(nowhere)?)
    }

    /// A cache in `dir`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn at(dir: &Utf8Path) -> Result<Self, Error> {
        for folder in ["sha256", "partial", "index", "root"] {
            fs::create_dir_all(dir.join(folder)).map_err(io(dir))?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// Where the file of this hash is, or would be.
    pub(crate) fn file(&self, sha256: &str) -> Utf8PathBuf {
        self.dir.join("sha256").join(sha256)
    }

    /// Where a download of this hash goes on.
    pub(crate) fn partial(&self, sha256: &str) -> Utf8PathBuf {
        self.dir.join("partial").join(sha256)
    }

    /// A file that is made of others, by a hash over what it is made of.
    pub(crate) fn derived(&self, kind: &str, key: &str) -> Utf8PathBuf {
        self.dir.join(kind).join(key)
    }

    /// Whether every package is here. What is here was checked when it was put here.
    pub fn has_all<'p>(&self, packages: impl IntoIterator<Item = &'p LockedPackage>) -> bool {
        packages.into_iter().all(|package| self.file(&package.sha256).exists())
    }

    /// Writes a file whole: beside its place, then renamed.
    pub(crate) fn put(path: &Utf8Path, bytes: &[u8]) -> Result<(), Error> {
        Self::put_with(path, |file| file.write_all(bytes))
    }

    /// The same, for content that is written piece by piece.
    pub(crate) fn put_with(
        path: &Utf8Path,
        write: impl FnOnce(&mut fs::File) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        let folder = path.parent().expect("files of the cache lie in a folder");
        let mut new = tempfile::NamedTempFile::new_in(folder).map_err(io(path))?;
        write(new.as_file_mut()).map_err(io(path))?;
        new.persist(path).map_err(|error| Error::Io { path: path.to_owned(), error: error.error })?;
        Ok(())
    }
}
