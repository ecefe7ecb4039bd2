//! Containers that outlive their run: how they are known, and removed by a later run of the workspace.
//!
//! A run that starts containers keeps a file of its own locked below `.imgforge/`, and labels them with that file's
//! name. The lock is the kernel's: it is gone when the run is, however it ended. So a file that can be locked belongs
//! to a run that is dead, and so do the containers that are labelled with it; those of a run that is still going are
//! left alone.

use std::fs::File;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use imgforge_engine::{Containers, labels};
use imgforge_state::{OFlags, StateDir, StateError};

use crate::Error;

/// The folder of the files.
const FOLDER: &str = "test-runs";

/// A run that starts containers.
pub(crate) struct TestRun {
    id: String,
    state: StateDir,
    _lock: File,
}

impl TestRun {
    /// Begins a run: from here on its containers are known as its own.
    ///
    /// # Errors
    /// [`Error::State`] when the file cannot be made.
    pub(crate) fn begin(state: &StateDir) -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{now:x}-{}-{number}", std::process::id());
        // Locked before it has its name, so that no other run finds it without.
        let folder = state.folder(FOLDER)?;
        let (unnamed, path) = (folder.join(format!("{id}.new")), folder.join(format!("{id}.lock")));
        let made = File::create_new(&unnamed).and_then(|lock| {
            lock.lock()?;
            std::fs::rename(&unnamed, &path)?;
            Ok(lock)
        });
        let lock = made.map_err(|error| StateError::Io { path, error })?;
        Ok(Self { id, state: state.clone(), _lock: lock })
    }

    /// Returns the label of the run's containers.
    pub(crate) fn label(&self) -> (String, String) {
        (labels::TEST_RUN.to_owned(), self.id.clone())
    }
}

impl Drop for TestRun {
    fn drop(&mut self) {
        // What stays is cleared away by a later run.
        let _ = self.state.remove(&file(&self.id));
    }
}

/// The file of a run.
fn file(id: &str) -> String {
    format!("{FOLDER}/{id}.lock")
}

/// Returns whether a run of this workspace may have left containers behind.
pub(crate) fn may_be_there(state: &StateDir) -> bool {
    state.names(FOLDER).is_ok_and(|names| names.iter().any(|name| name.ends_with(".lock")))
}

/// Removes the containers of runs that are dead, and says how many there were.
///
/// # Errors
/// Returns the engine's error; the next run tries again.
pub(crate) async fn remove(state: &StateDir, containers: &dyn Containers) -> Result<usize, Error> {
    let mut removed = 0;
    for name in state.names(FOLDER)? {
        let Some(id) = name.strip_suffix(".lock") else { continue };
        let Ok(Some(lock)) = state.open(&file(id), OFlags::RDONLY) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        for container in containers.labelled(&format!("{}={id}", labels::TEST_RUN)).await? {
            containers.remove(&container).await?;
            removed += 1;
        }
        let _ = state.remove(&file(id));
    }
    Ok(removed)
}
