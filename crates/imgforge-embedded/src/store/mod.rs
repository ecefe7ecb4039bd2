//! What is kept on disk: an OCI image layout, unpacked layers, remembered steps, names.
//!
//! | path | what |
//! |---|---|
//! | `oci-layout`, `index.json`, `blobs/sha256/HEX` | an OCI image layout ("OCI Image Layout Specification") |
//! | `journal` | which images there are and what they are called: one JSON value a line, the truth behind `index.json` |
//! | `layers/HEX/fs`, `layers/HEX/layer.json` | an unpacked layer in overlayfs's form, by its chain id |
//! | `steps/HEX` | what a step has given, by the hash of everything that it depends on |
//! | `caches/HEX` | the folders of cache mounts |
//! | `tmp/NAME` | what a process is at; its own as long as it holds the lock in it |
//! | `lock` | locked shared while a process uses the store, and alone while one prunes it |
//!
//! Every file comes into being under another name and is renamed when it is whole, and a line of the journal counts when
//! its end is there, so that a process that is killed leaves everything as it was or as it should be.
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
mod load;
#[cfg(test)]
mod processes;
mod prune;
mod scratch;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::sync::{Mutex, MutexGuard, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::error::StoreError;
pub use self::images::ImageRecord;
use self::journal::Journal;
use self::prune::entries;
pub use self::prune::{Pruned, Unneeded};
pub use self::scratch::Scratch;
use self::scratch::Workplace;
use crate::worker::message::Layer;

/// The form of everything here. A store of another one is refused.
const FORMAT: &str = "1\n";

/// Another one each time that the machine starts (`random(4)`).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A store. Several processes may use it at once.
pub struct Store {
    dir: Utf8PathBuf,
    journal: Mutex<Journal>,
    workplace: Workplace,
    /// Held shared, so that nobody prunes the store.
    lock: fs::File,
    /// The id of this boot of the machine.
    boot: String,
    /// Blobs whose bytes have been compared with their digest.
    verified: Mutex<BTreeSet<String>>,
}

/// What a step has given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The chain id of its layer with those below; `None` when it has changed nothing.
    pub chain: Option<String>,
    /// The layer. The same files may be there packed in another way too. Stores had it not at first: theirs is that of
    /// the chain.
    #[serde(default)]
    pub layer: Option<Layer>,
}

impl Store {
    /// Opens a store, or makes it. What processes that are gone have left half done is removed.
    ///
    /// # Errors
    /// A folder that cannot be made; a store of another form.
    pub fn open(dir: &Utf8Path) -> Result<Self, StoreError> {
        for folder in ["blobs/sha256", "layers", "steps", "caches", "tmp"] {
            let path = dir.join(folder);
            fs::create_dir_all(&path).map_err(StoreError::io(&path))?;
        }
        let format = dir.join("format");
        match fs::read_to_string(&format) {
            Ok(text) if text == FORMAT => {}
            Ok(_) => return Err(StoreError::Format { dir: dir.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write(&dir.join("oci-layout"), b"{\"imageLayoutVersion\":\"1.0.0\"}")?;
                write(&format, FORMAT.as_bytes())?;
            }
            Err(error) => return Err(StoreError::io(&format)(error)),
        }
        let path = dir.join("lock");
        let lock = fs::File::create(&path).and_then(|file| file.lock_shared().map(|()| file));
        let lock = lock.map_err(StoreError::io(&path))?;
        let workplace = Workplace::new(&dir.join("tmp"))?;
        let boot = fs::read_to_string(BOOT_ID).map_err(StoreError::io(Utf8Path::new(BOOT_ID)))?;
        let journal = Mutex::new(Journal::open(&dir.join("journal"))?);
        let store = Self { dir: dir.to_owned(), journal, workplace, lock, boot, verified: Mutex::default() };
        if !dir.join("index.json").exists() {
            store.write_index()?;
        }
        Ok(store)
    }

    /// The folder that it is in.
    pub fn dir(&self) -> &Utf8Path {
        &self.dir
    }

    /// How many bytes its disk has free.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn free(&self) -> Result<u64, StoreError> {
        crate::layer::free(&self.dir).map_err(StoreError::io(&self.dir))
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

    fn blob_path(&self, digest: &str) -> Result<Utf8PathBuf, StoreError> {
        Ok(self.dir.join("blobs/sha256").join(hex(digest)?))
    }

    /// Whether a blob is there.
    pub fn has_blob(&self, digest: &str) -> bool {
        self.blob_path(digest).is_ok_and(|path| path.exists())
    }

    /// The file of a blob, whose bytes have its digest.
    ///
    /// # Errors
    /// [`StoreError::Missing`]; [`StoreError::Corrupt`] for one that has other bytes, which is removed.
    pub fn blob(&self, digest: &str) -> Result<Utf8PathBuf, StoreError> {
        let path = self.blob_path(digest)?;
        if lock(&self.verified).contains(digest) && path.exists() {
            return Ok(path);
        }
        let found = match digest_of_file(&path) {
            Err(StoreError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Missing { digest: digest.to_owned() });
            }
            found => found?,
        };
        if found != digest {
            // What is not there is made again.
            fs::remove_file(&path).map_err(StoreError::io(&path))?;
            return Err(StoreError::Corrupt { digest: digest.to_owned() });
        }
        lock(&self.verified).insert(digest.to_owned());
        Ok(path)
    }

    /// The bytes of a small blob.
    ///
    /// # Errors
    /// As of [`Store::blob`].
    pub fn read_blob(&self, digest: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.blob(digest)?;
        fs::read(&path).map_err(StoreError::io(&path))
    }

    /// Keeps bytes. Their digest.
    ///
    /// # Errors
    /// A disk that is full.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<String, StoreError> {
        let digest = digest_of(bytes);
        let path = self.blob_path(&digest)?;
        if !path.exists() {
            write_in(&self.workplace, &path, bytes)?;
        }
        lock(&self.verified).insert(digest.clone());
        Ok(digest)
    }

    /// Keeps a file that has this digest, which the caller has made sure of. The file is moved.
    ///
    /// # Errors
    /// It is not on the store's file system.
    pub fn adopt_blob(&self, file: &Utf8Path, digest: &str) -> Result<(), StoreError> {
        let path = self.blob_path(digest)?;
        fs::rename(file, &path).map_err(StoreError::io(&path))?;
        lock(&self.verified).insert(digest.to_owned());
        Ok(())
    }

    // Layers.

    fn layer_path(&self, chain: &str) -> Result<Utf8PathBuf, StoreError> {
        Ok(self.dir.join("layers").join(hex(chain)?))
    }

    /// The layer at the top of a chain, when its blob and its unpacked files are there.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn layer(&self, chain: &str) -> Result<Option<Layer>, StoreError> {
        let path = self.layer_path(chain)?.join("layer.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io(&path)(error)),
        };
        let layer: Option<Layer> = serde_json::from_slice(&bytes).ok();
        Ok(layer.filter(|layer| self.has_blob(&layer.digest)))
    }

    /// The folder of the files of the layer at the top of a chain, when it is unpacked.
    pub fn folder(&self, chain: &str) -> Option<Utf8PathBuf> {
        let path = self.layer_path(chain).ok()?;
        let path = self.is_trusted(&path).then(|| path.join("fs"))?;
        path.exists().then_some(path)
    }

    /// Whether the files of a layer are what they were when it was unpacked.
    fn is_trusted(&self, layer: &Utf8Path) -> bool {
        match fs::read_to_string(layer.join("boot")) {
            Ok(boot) => boot == self.boot,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Puts everything on the disk, the unpacked layers above all, those of other processes too: without it, they are
    /// unpacked again after the machine has started anew. It takes as long as the disk does for all that was written to it,
    /// and is nothing when no layer needs it.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn flush(&self) -> Result<(), StoreError> {
        let marks = entries(&self.dir.join("layers"))?.into_iter().map(|(_, layer)| layer.join("boot"));
        let is_of_now = |mark: &Utf8PathBuf| fs::read_to_string(mark).is_ok_and(|boot| boot == self.boot);
        let marks: Vec<Utf8PathBuf> = marks.filter(is_of_now).collect();
        if marks.is_empty() {
            return Ok(());
        }
        rustix::fs::syncfs(&self.lock).map_err(|error| StoreError::io(&self.dir)(error.into()))?;
        for mark in marks {
            // It may have been pruned meanwhile.
            let _ = fs::remove_file(mark);
        }
        Ok(())
    }

    /// Keeps a layer: its blob and its unpacked files, which are moved.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn adopt(
        &self,
        blob: &Utf8Path,
        folder: &Utf8Path,
        layer: &Layer,
        chain: &str,
    ) -> Result<(), StoreError> {
        self.adopt_blob(blob, &layer.digest)?;
        self.adopt_folder(folder, layer, chain)
    }

    /// Keeps the unpacked files of a layer, which are moved.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn adopt_folder(&self, folder: &Utf8Path, layer: &Layer, chain: &str) -> Result<(), StoreError> {
        let path = self.layer_path(chain)?;
        let scratch = self.scratch()?;
        let whole = scratch.path().join("whole");
        fs::create_dir(&whole).map_err(StoreError::io(&whole))?;
        fs::rename(folder, whole.join("fs")).map_err(StoreError::io(folder))?;
        let text = serde_json::to_vec(layer).expect("texts and numbers are JSON");
        fs::write(whole.join("layer.json"), text).map_err(StoreError::io(&whole))?;
        fs::write(whole.join("boot"), &self.boot).map_err(StoreError::io(&whole))?;
        // One process at a time: what is replaced below must not be what another has just put there.
        let layers = self.dir.join("layers");
        let turn = fs::File::open(&layers).and_then(|folder| folder.lock().map(|()| folder));
        let _turn = turn.map_err(StoreError::io(&layers))?;
        if path.exists() && !self.is_trusted(&path) {
            fs::rename(&path, scratch.path().join("damaged")).map_err(StoreError::io(&path))?;
        }
        match fs::rename(&whole, &path) {
            Ok(()) => Ok(()),
            // Another build has made the same; but its blob may have been another, or be gone.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                let text = fs::read(whole.join("layer.json")).map_err(StoreError::io(&whole))?;
                write_in(&self.workplace, &path.join("layer.json"), &text)
            }
            Err(error) => Err(StoreError::io(&path)(error)),
        }
    }

    // Steps.

    /// What the step with this key has given before.
    ///
    /// # Errors
    /// Those of the disk. A file that makes no sense is none.
    pub fn step(&self, key: &str) -> Result<Option<Remembered>, StoreError> {
        let path = self.dir.join("steps").join(key);
        match fs::read(&path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io(&path)(error)),
        }
    }

    /// Remembers what a step has given.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn put_step(&self, key: &str, remembered: &Remembered) -> Result<(), StoreError> {
        let text = serde_json::to_vec(remembered).expect("texts are JSON");
        write_in(&self.workplace, &self.dir.join("steps").join(key), &text)
    }

    /// The folder of a cache mount. A worker makes it.
    pub fn cache(&self, name: &str) -> Utf8PathBuf {
        self.dir.join("caches").join(blake3::hash(name.as_bytes()).to_hex().as_str())
    }
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn digest_of_file(path: &Utf8Path) -> Result<String, StoreError> {
    let mut file = fs::File::open(path).map_err(StoreError::io(path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer).map_err(StoreError::io(path))? {
            0 => return Ok(format!("sha256:{}", hex::encode(hasher.finalize()))),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// The digits of a `sha256:` digest, which are safe in a path.
fn hex(digest: &str) -> Result<&str, StoreError> {
    let digits = digest
        .strip_prefix("sha256:")
        .filter(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
    digits.ok_or_else(|| StoreError::Digest { digest: digest.to_owned() })
}

/// The chain id of a layer on top of others (OCI image specification, "Layer ChainID").
pub fn chain_id(below: Option<&str>, diff_id: &str) -> String {
    match below {
        None => diff_id.to_owned(),
        Some(below) => format!("sha256:{}", hex::encode(Sha256::digest(format!("{below} {diff_id}")))),
    }
}

/// A time as RFC 3339 says it, from seconds since 1970.
pub fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

fn write(path: &Utf8Path, bytes: &[u8]) -> Result<(), StoreError> {
    imgforge_core::cache_file::replace(path, bytes).map_err(StoreError::io(path))
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
