//! What is kept on disk: an OCI image layout, unpacked layers, remembered steps, names.
//!
//! | path | what |
//! |---|---|
//! | `oci-layout`, `index.json`, `blobs/sha256/HEX` | an OCI image layout ("OCI Image Layout Specification") |
//! | `journal` | which images there are and what they are called: one JSON value a line, the truth behind `index.json` |
//! | `layers/HEX/fs`, `layers/HEX/layer` | an unpacked layer in overlayfs's form, by its chain id |
//! | `steps/HEX` | what a step has given, by the hash of everything that it depends on |
//! | `caches/HEX/fs`, `caches/HEX/made` | the folder of a cache mount |
//! | `tmp/NAME` | what a process is at; its own as long as it holds the lock in it |
//! | `lock` | locked shared while a process uses the store, and alone while one prunes it |
//!
//! Every file comes into being under another name and is renamed when it is whole, and a line of the journal counts
//! when its end is there, so that a process that is killed leaves everything as it was or as it should be.
//!
//! What is said here is believed when this user has said it: each line of the journal, each step, each layer is
//! sealed with the user's key ([`imgforge_state::Key`]). A store that comes with a repository or out of a
//! shared cache gives blobs, which are compared with their digests, and nothing else. Files without a digest, those
//! of unpacked layers and of caches, count only in the folder that was made here.
//!
//! Nothing waits for the disk, so that a power cut can damage what was written last. A damaged blob has another digest
//! than its name says, and a damaged line of JSON does not read: both are made again. The files of an unpacked layer
//! have nothing to be compared with: until [`Store::flush`] has put them on the disk, `layers/HEX/boot` has the id of
//! the machine's boot, and in another boot they are unpacked from the blob again.
//!
//! Only pruning flushes. For 200 MB in 4,000 files that took 0.04 to 0.4 s on a virtual disk, but it is as long as all
//! that any program has written takes; unpacking them again took 4 to 11 s (unoptimised), once after the machine was
//! started anew, and only of those that are built upon.

mod error;
mod images;
mod journal;
mod layers;
mod load;
#[cfg(test)]
mod processes;
mod prune;
mod scratch;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_oci::{Digest, layout};
use imgforge_state::{Key, KeyError, OFlags, StateDir, StateError, identity};
use serde::{Deserialize, Serialize};

pub use self::error::StoreError;
pub use self::images::ImageRecord;
use self::journal::Journal;
pub use self::prune::{Pruned, Unneeded};
pub use self::scratch::Scratch;
use self::scratch::Workplace;
use crate::worker::message::Layer;

/// The form of everything here. A store of another one is refused.
const FORMAT: &str = "1\n";

/// The folders of a store.
const FOLDERS: [&str; 7] = [layout::BLOBS, "layers", "steps", "caches", "tmp", "containers", "volumes"];

/// The purpose that records of steps are sealed for.
const STEP: &str = "result of a step";
const CACHE: &str = "folder of a cache mount";

/// Another one each time that the machine starts (`random(4)`).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A store. Several processes may use it at once.
pub struct Store {
    dir: StateDir,
    journal: Mutex<Journal>,
    workplace: Workplace,
    /// Held shared, so that nobody prunes the store.
    lock: fs::File,
    /// The id of this boot of the machine.
    boot: String,
    /// Blobs whose bytes have been compared with their digest.
    verified: Mutex<BTreeSet<Digest>>,
}

/// The remembered result of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The chain id of its layer with those below; `None` when it has changed nothing.
    pub chain: Option<Digest>,
    /// The layer. The same files may be there packed in another way too.
    pub layer: Option<Layer>,
}

impl Store {
    /// Opens a store, or makes it. What processes that are gone have left half done is removed.
    ///
    /// # Errors
    /// A folder that cannot be made, or is not this user's; a store of another form.
    pub fn open(dir: &StateDir) -> Result<Self, StoreError> {
        for folder in FOLDERS {
            dir.folder(folder)?;
        }
        match dir.read("format")? {
            Some(text) if text == FORMAT.as_bytes() => {}
            Some(_) => return Err(StoreError::Format { dir: dir.path().to_owned() }),
            None => {
                dir.replace(layout::MARKER, layout::MARKER_TEXT.as_bytes())?;
                dir.replace("format", FORMAT.as_bytes())?;
            }
        }
        let lock = made(dir, "lock", OFlags::RDWR)?;
        lock.lock_shared().map_err(StoreError::io(dir.path()))?;
        let workplace = Workplace::new(dir)?;
        let boot = fs::read_to_string(BOOT_ID).map_err(StoreError::io(Utf8Path::new(BOOT_ID)))?;
        let journal = Mutex::new(Journal::open(dir)?);
        let store = Self { dir: dir.clone(), journal, workplace, lock, boot, verified: Mutex::default() };
        if dir.read(layout::INDEX)?.is_none() {
            store.write_index()?;
        }
        Ok(store)
    }

    /// The folder that it is in.
    pub fn dir(&self) -> &Utf8Path {
        self.dir.path()
    }

    /// The same, to be opened part by part.
    pub(crate) fn state(&self) -> &StateDir {
        &self.dir
    }

    /// Returns the number of bytes that are free on the store's disk.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn free(&self) -> Result<u64, StoreError> {
        crate::layer::free(self.dir()).map_err(StoreError::io(self.dir()))
    }

    /// A new folder on the store's file system, which is removed when it is dropped.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        self.workplace.scratch()
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        lock(&self.journal)
    }

    // Blobs.

    fn blob_path(&self, digest: &Digest) -> Result<Utf8PathBuf, StoreError> {
        Ok(self.dir().join(layout::BLOBS).join(hex(digest)?))
    }

    /// Returns whether a blob is there.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        let metadata = self.blob_path(digest).ok().and_then(|path| path.symlink_metadata().ok());
        metadata.is_some_and(|metadata| metadata.is_file())
    }

    /// The file of a blob, whose bytes have its digest.
    ///
    /// # Errors
    /// [`StoreError::Missing`]; [`StoreError::Corrupt`] for one that has other bytes, which is removed.
    pub fn blob(&self, digest: &Digest) -> Result<Utf8PathBuf, StoreError> {
        let path = self.blob_path(digest)?;
        if lock(&self.verified).contains(digest) && path.exists() {
            return Ok(path);
        }
        let file = self.dir.open(&format!("{}/{}", layout::BLOBS, hex(digest)?), OFlags::RDONLY)?;
        let file = file.ok_or_else(|| StoreError::Missing { digest: digest.clone() })?;
        let found = Digest::of_reader(file).map_err(StoreError::io(&path))?;
        if found != *digest {
            // What is not there is made again.
            fs::remove_file(&path).map_err(StoreError::io(&path))?;
            return Err(StoreError::Corrupt { digest: digest.clone() });
        }
        lock(&self.verified).insert(digest.clone());
        Ok(path)
    }

    /// The bytes of a small blob.
    ///
    /// # Errors
    /// As of [`Store::blob`].
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.blob(digest)?;
        fs::read(&path).map_err(StoreError::io(&path))
    }

    /// Keeps bytes. Their digest.
    ///
    /// # Errors
    /// A disk that is full.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::sha256(bytes);
        let path = self.blob_path(&digest)?;
        // What has the name may be damaged, or somebody's who knows what will be built.
        if !lock(&self.verified).contains(&digest) || !self.has_blob(&digest) {
            write_in(&self.workplace, &path, bytes)?;
        }
        lock(&self.verified).insert(digest.clone());
        Ok(digest)
    }

    /// Keeps a file that has this digest, which the caller has made sure of. The file is moved.
    ///
    /// # Errors
    /// It is not on the store's file system.
    pub fn adopt_blob(&self, file: &Utf8Path, digest: &Digest) -> Result<(), StoreError> {
        let path = self.blob_path(digest)?;
        fs::rename(file, &path).map_err(StoreError::io(&path))?;
        lock(&self.verified).insert(digest.clone());
        Ok(())
    }

    // Steps.

    /// Returns the result that the step with this key has given before.
    ///
    /// # Errors
    /// Those of the disk. A file that makes no sense, or that this user has not sealed, is none.
    pub fn step(&self, key: &str) -> Result<Option<Remembered>, StoreError> {
        let bytes = self.dir.read(&format!("steps/{key}"))?;
        let text =
            bytes.as_deref().and_then(|bytes| unsealed(self.dir.key(), STEP, &[key.as_bytes()], bytes));
        Ok(text.and_then(|text| serde_json::from_slice(text).ok()))
    }

    /// Remembers what a step has given.
    ///
    /// # Errors
    /// Those of the disk; no key of this user's.
    pub fn put_step(&self, key: &str, remembered: &Remembered) -> Result<(), StoreError> {
        let text = serde_json::to_vec(remembered).expect("texts are JSON");
        let text = sealed(self.dir.key(), STEP, &[key.as_bytes()], &text)?;
        write_in(&self.workplace, &self.dir().join("steps").join(key), &text)
    }

    // What steps and containers leave.

    /// Returns the folder in which a cache mount is, or will be: a worker makes it. What was not put there by this
    /// user's steps is gone then.
    ///
    /// # Errors
    /// Those of the disk; no key of this user's.
    pub fn cache(&self, name: &str) -> Result<Utf8PathBuf, StoreError> {
        let hex = blake3::hash(name.as_bytes()).to_hex();
        let folder = format!("caches/{hex}");
        // One process at a time: what is taken away must not be what another has just made.
        let all = self.dir.folder("caches")?;
        let turn = fs::File::open(&all).and_then(|folder| folder.lock().map(|()| folder));
        let _turn = turn.map_err(StoreError::io(&all))?;
        let mark = |folder: &OwnedFd| mark(self.dir.key(), CACHE, &hex, folder);
        if let Some(found) = self.dir.opened(&folder)? {
            let made = self.dir.read(&format!("{folder}/made"))?;
            if made.is_some_and(|made| mark(&found).is_ok_and(|mark| made == mark)) {
                return Ok(self.dir().join(folder).join("fs"));
            }
            let gone = self.workplace.name();
            let path = self.dir().join(&folder);
            fs::rename(&path, gone).map_err(StoreError::io(&path))?;
        }
        let path = self.dir.folder(&folder)?;
        let made = self.dir.opened(&folder)?.ok_or(io::ErrorKind::NotFound.into());
        let made = made.map_err(StoreError::io(&path))?;
        self.dir.replace(&format!("{folder}/made"), &mark(&made)?)?;
        Ok(path.join("fs"))
    }

    /// Returns the folder in which the volume with this name is, or will be.
    ///
    /// # Errors
    /// There is a link.
    pub(crate) fn volume(&self, name: &str) -> Result<Utf8PathBuf, StoreError> {
        let path = self.dir.folder("volumes")?.join(name);
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_symlink() => Err(StateError::Link { path }.into()),
            _ => Ok(path),
        }
    }
}

/// A text with the seal of this user before it.
pub(crate) fn sealed(key: &Key, purpose: &str, of: &[&[u8]], text: &[u8]) -> Result<Vec<u8>, KeyError> {
    let seal = key.seal(purpose, &[of, &[text]].concat())?;
    Ok([seal.to_hex().as_bytes(), b" ", text].concat())
}

/// A text that this user has sealed; `None` for any other.
pub(crate) fn unsealed<'a>(key: &Key, purpose: &str, of: &[&[u8]], bytes: &'a [u8]) -> Option<&'a [u8]> {
    let (seal, text) = bytes.split_first_chunk::<{ 2 * blake3::OUT_LEN }>()?;
    let (seal, text) = (blake3::Hash::from_hex(seal).ok()?, text.strip_prefix(b" ")?);
    key.has_sealed(purpose, &[of, &[text]].concat(), seal).then_some(text)
}

/// Returns the mark which says that this user has made a folder, and that it is that folder.
fn mark(key: &Key, purpose: &str, name: &str, folder: &OwnedFd) -> Result<Vec<u8>, StoreError> {
    let identity = identity(folder).map_err(StoreError::io(name.into()))?;
    Ok(key.seal(purpose, &[name.as_bytes(), &identity])?.to_hex().as_bytes().to_vec())
}

/// A file, which is made if it is not there.
fn made(dir: &StateDir, name: &str, flags: OFlags) -> Result<fs::File, StoreError> {
    let file = dir.open(name, flags | OFlags::CREATE)?;
    file.ok_or(io::ErrorKind::NotFound.into()).map_err(StoreError::io(&dir.path().join(name)))
}

/// The digits of a SHA-256, by which files of the store are called.
fn hex(digest: &Digest) -> Result<&str, StoreError> {
    let is_known = digest.algorithm() == "sha256";
    is_known.then(|| digest.hex()).ok_or_else(|| StoreError::Digest { digest: digest.clone() })
}

/// A time as RFC 3339 says it, from seconds since 1970.
pub fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

/// Writes a file that comes into being whole.
fn write_in(workplace: &Workplace, path: &Utf8Path, bytes: &[u8]) -> Result<(), StoreError> {
    let part = workplace.name();
    fs::write(&part, bytes).map_err(StoreError::io(&part))?;
    fs::rename(&part, path).map_err(StoreError::io(path))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
