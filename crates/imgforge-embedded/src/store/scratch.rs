//! Folders for what is not done yet. Each process has one of its own, and a lock on it: when the lock is free, the
//! process is gone, and what it has left can go too. Whoever removes a folder holds its lock until it is gone.

use std::fs::{self, File};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_state::{StateDir, StateError};

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
    /// Makes the scratch folder of this process in the folder `tmp` of a store.
    pub(super) fn new(store: &StateDir) -> Result<Self, StoreError> {
        let all = store.folder("tmp")?;
        remove_leftovers(store)?;
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
fn remove_leftovers(store: &StateDir) -> Result<(), StoreError> {
    for name in store.names("tmp")? {
        let name = format!("tmp/{name}");
        match store.opened(&name) {
            Ok(Some(folder)) => {
                let folder = File::from(folder);
                if folder.try_lock().is_ok() {
                    let _ = fs::remove_dir_all(store.path().join(name));
                }
            }
            // No process of imgforge has made it. It goes, not what it leads to.
            Err(StateError::Link { .. } | StateError::Kind { .. }) => store.remove(&name)?,
            // One that is gone by now was removed by somebody else.
            Ok(None) | Err(_) => {}
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
    /// Returns the path of the folder.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
