//! Containers that outlive their run: how they are known, and removed by a later run of the workspace.
//!
//! A run that starts containers keeps a file of its own locked below `.imgforge/`, and labels them with that file's name.
//! The lock is the kernel's: it is gone when the run is, however it ended. So a file that can be locked belongs to a run
//! that is dead, and so do the containers that are labelled with it; those of a run that is still going are left alone.

use std::fs::{self, File};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_engine::{Containers, labels};

use crate::Error;

/// Where the files are.
const FOLDER: &str = ".imgforge/test-runs";

/// A run that starts containers.
pub(crate) struct TestRun {
    id: String,
    path: Utf8PathBuf,
    _lock: File,
}

impl TestRun {
    /// Begins a run: from here on its containers are known as its own.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be made.
    pub(crate) fn begin(root: &Utf8Path) -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let folder = root.join(FOLDER);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{now:x}-{}-{number}", std::process::id());
        let path = folder.join(format!("{id}.lock"));
        let made = || {
            fs::create_dir_all(&folder)?;
            // Locked before it has its name, so that no other run finds it without.
            let unnamed = folder.join(format!("{id}.new"));
            let lock = File::create(&unnamed)?;
            lock.lock()?;
            fs::rename(&unnamed, &path)?;
            Ok(lock)
        };
        let lock = made().map_err(|error| Error::Io { path: path.clone(), error })?;
        Ok(Self { id, path, _lock: lock })
    }

    /// What its containers are labelled with.
    pub(crate) fn label(&self) -> (String, String) {
        (labels::TEST_RUN.to_owned(), self.id.clone())
    }
}

impl Drop for TestRun {
    fn drop(&mut self) {
        // What stays is cleared away by a later run.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether a run of this workspace may have left containers behind.
pub(crate) fn may_be_there(root: &Utf8Path) -> bool {
    let Ok(files) = root.join(FOLDER).read_dir_utf8() else { return false };
    files.filter_map(Result::ok).any(|file| file.path().extension() == Some("lock"))
}

/// Removes the containers of runs that are dead, and says how many there were.
///
/// # Errors
/// What the engine says; the next run tries again.
pub(crate) async fn remove(root: &Utf8Path, containers: &dyn Containers) -> Result<usize, Error> {
    let mut removed = 0;
    let Ok(files) = root.join(FOLDER).read_dir_utf8() else { return Ok(0) };
    for file in files.filter_map(Result::ok) {
        let path = file.path();
        let (Some("lock"), Some(id)) = (path.extension(), path.file_stem()) else { continue };
        let Ok(lock) = File::open(path) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        for container in containers.labelled(&format!("{}={id}", labels::TEST_RUN)).await? {
            containers.remove(&container).await?;
            removed += 1;
        }
        let _ = fs::remove_file(path);
    }
    Ok(removed)
}
