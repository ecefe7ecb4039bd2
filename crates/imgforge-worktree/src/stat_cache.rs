//! Remembers the hash of a file by its size, times and inode, so that an unchanged file is not read again.
//!
//! Only ever a matter of time: a missing or broken cache file, or one that this user has not sealed, means that every
//! file is read. An entry is kept only when both times of the file were older than [`SETTLED`] at the moment just
//! before the file was read. A file that is written again afterwards then gets another ctime, since the clock has
//! moved on by more than the coarsest step with which file systems record times (2 s, FAT). ctime cannot be set back
//! by programs, so a restored mtime does not deceive.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::source::ContentHash;
use imgforge_state::{Sealed, StateDir};
use serde::{Deserialize, Serialize};

use crate::hash_file;

/// How old a file's times must be before they are trusted to tell of its next change.
const SETTLED: Duration = Duration::from_secs(3);

/// The cache file. Its version is raised when its form changes.
const FILE: Sealed = Sealed { name: "cache/files", version: 2 };

/// The marks by which a file is known to be unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
    inode: u64,
    device: u64,
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            size: meta.len(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
            device: meta.dev(),
        }
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let Ok(now) = now.duration_since(UNIX_EPOCH) else { return false };
        let newest = self.mtime.max(self.ctime);
        let settled = now.saturating_sub(SETTLED);
        newest < (i64::try_from(settled.as_secs()).unwrap_or(0), i64::from(settled.subsec_nanos()))
    }
}

type Entries = HashMap<Utf8PathBuf, (Stamp, ContentHash)>;

/// Hashes by path. Shared by all threads of a run.
#[derive(Debug)]
pub(crate) struct StatCache {
    state: StateDir,
    known: Entries,
    used: Mutex<Entries>,
}

impl StatCache {
    /// Reads the cache; empty when there is none, or none of this form.
    pub(crate) fn load(state: &StateDir) -> Self {
        let body = state.read_sealed(&FILE).ok().flatten();
        let known = body.and_then(|body| postcard::from_bytes(&body).ok()).unwrap_or_default();
        Self { state: state.clone(), known, used: Mutex::default() }
    }

    /// The hash of the file at `full`, remembered under `path`.
    pub(crate) fn hash(&self, path: &Utf8Path, full: &Utf8Path) -> io::Result<ContentHash> {
        let now = SystemTime::now();
        let stamp = Stamp::of(&fs::metadata(full)?);
        let hash = match self.known.get(path) {
            Some((known, hash)) if *known == stamp => *hash,
            _ => hash_file(full)?,
        };
        // Had the file been written while it was read, its ctime would be later than `now`.
        if stamp.is_settled(now) {
            let mut used = self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            used.insert(path.to_owned(), (stamp, hash));
        }
        Ok(hash)
    }

    /// Writes what this run used, if it is not what was there: to a new file, then renamed over the old one.
    pub(crate) fn save(&self) {
        let mut used = self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if used.iter().all(|(path, entry)| self.known.get(path) == Some(entry)) {
            return;
        }
        for (path, entry) in &self.known {
            // Files that this run did not look at (an image that was not selected) stay known.
            used.entry(path.clone()).or_insert(*entry);
        }
        // A cache that cannot be written costs time in the next run, nothing else.
        if let Ok(body) = postcard::to_stdvec(&*used) {
            let _ = self.state.replace_sealed(&FILE, &body);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};

    use imgforge_state::Key;

    use super::*;

    fn state(dir: &Utf8Path) -> StateDir {
        StateDir::at(&dir.join("state")).with_key(Key::of(&[7; 32]))
    }

    fn folder() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        (dir, path)
    }

    #[test]
    fn a_file_changed_within_the_clock_step_is_read_again() {
        let (_guard, dir) = folder();
        let (file, state) = (dir.join("f"), state(&dir));
        for n in 0..50_u8 {
            fs::write(&file, [n]).unwrap();
            // The same size, and the same mtime each time: only reading tells.
            let times = FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000));
            File::options().write(true).open(&file).unwrap().set_times(times).unwrap();
            let cached = StatCache::load(&state);
            assert_eq!(cached.hash(Utf8Path::new("f"), &file).unwrap(), ContentHash::of(&[n]));
            cached.save();
        }
    }

    #[test]
    fn only_settled_times_are_trusted() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let stamp = |seconds| Stamp { size: 1, mtime: (5, 0), ctime: (seconds, 0), inode: 1, device: 1 };
        assert!(stamp(990).is_settled(now));
        assert!(!stamp(998).is_settled(now));
        assert!(!stamp(2000).is_settled(now), "a time in the future is never settled");
    }

    #[test]
    fn a_file_that_another_user_has_sealed_is_passed_over() {
        let (_guard, dir) = folder();
        let file = dir.join("f");
        fs::write(&file, "x").unwrap();
        let mut entries = Entries::new();
        let wrong = ContentHash::of(b"wrong");
        entries.insert("f".into(), (Stamp::of(&fs::metadata(&file).unwrap()), wrong));
        let body = postcard::to_stdvec(&entries).unwrap();
        let hash = |state: &StateDir| StatCache::load(state).hash(Utf8Path::new("f"), &file).unwrap();
        state(&dir).replace_sealed(&FILE, &body).unwrap();
        assert_eq!(hash(&state(&dir)), wrong, "what this user has remembered is not read again");
        let other = state(&dir).with_key(Key::of(&[8; 32]));
        assert_eq!(hash(&other), ContentHash::of(b"x"));
    }
}
