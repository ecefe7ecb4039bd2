//! Folders for what is not done yet. Each process has one of its own, and a lock on it: when the lock is free, the
//! process is gone, and what it has left can go too. Whoever removes a folder holds its lock until it is gone.

use std::fs::{self, File};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use camino::{Utf8Path, Utf8PathBuf};

use super::StoreError;

/// The folder of this process.
#[derive(Clone)]
pub(super) struct Workplace(Arc<Inner>);

struct Inner {
    dir: Utf8PathBuf,
    #[expect(dead_code, reason = "holds the lock")]
    lock: File,
    count: AtomicU64,
}

impl Workplace {
    pub(super) fn new(all: &Utf8Path) -> Result<Self, StoreError> {
        remove_leftovers(all).map_err(StoreError::io(all))?;
        loop {
            let dir = all.join(format!("{}-{:08x}", std::process::id(), fastrand::u32(..)));
            fs::create_dir(&dir).map_err(StoreError::io(&dir))?;
            // Between these lines it may be taken for a leftover: it is removed then, and another name is tried.
            let lock = match File::open(&dir) {
                Ok(lock) => lock,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(StoreError::io(&dir)(error)),
            };
            if lock.try_lock().is_ok() && dir.exists() {
                return Ok(Self(Arc::new(Inner { dir, lock, count: AtomicU64::new(0) })));
            }
        }
    }

    /// A name that nothing has.
    pub(super) fn name(&self) -> Utf8PathBuf {
        self.0.dir.join(self.0.count.fetch_add(1, Ordering::Relaxed).to_string())
    }

    pub(super) fn scratch(&self) -> Result<Scratch, StoreError> {
        let path = self.name();
        fs::create_dir(&path).map_err(StoreError::io(&path))?;
        Ok(Scratch { path, place: self.clone() })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Removes the folders of processes that are gone. What cannot be removed stays for whoever can.
fn remove_leftovers(all: &Utf8Path) -> io::Result<()> {
    for entry in all.read_dir_utf8()? {
        let path = entry?.into_path();
        // One that is gone by now was removed by somebody else.
        let Ok(folder) = File::open(&path) else { continue };
        if folder.try_lock().is_ok() {
            let _ = fs::remove_dir_all(&path);
        }
    }
    Ok(())
}

/// A folder that is removed when this is dropped.
pub struct Scratch {
    path: Utf8PathBuf,
    #[expect(dead_code, reason = "keeps the lock of the folder that this one is in")]
    place: Workplace,
}

impl Scratch {
    /// Where it is.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
