//! Remembers the hash of a file by its size, times and inode, so that an unchanged file is not read again.
//!
//! Only ever a matter of time: a missing, foreign or broken cache file means that every file is read. An entry is
//! kept only when both times of the file were older than [`SETTLED`] at the moment just before the file was read.
//! A file that is written again afterwards then gets another ctime, since the clock has moved on by more than
//! the coarsest step with which file systems record times (2 s, FAT). ctime cannot be set back by programs, so a
//! restored mtime does not deceive.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::source::{ContentHash, hash_file};

/// How old a file's times must be before they are trusted to tell of its next change.
const SETTLED: Duration = Duration::from_secs(3);

/// Raised when the form of the cache file changes.
const VERSION: u32 = 1;

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
    file: Utf8PathBuf,
    known: Entries,
    used: Mutex<Entries>,
}

impl StatCache {
    /// Reads the cache; empty when there is none, or none of this form.
    pub(crate) fn load(file: &Utf8Path) -> Self {
        let known = fs::read(file).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        Self { file: file.to_owned(), known, used: Mutex::default() }
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
        let _ = encode(&used).and_then(|bytes| crate::cache_file::replace(&self.file, &bytes));
    }
}

fn encode(entries: &Entries) -> io::Result<Vec<u8>> {
    let body = postcard::to_stdvec(entries).map_err(io::Error::other)?;
    Ok(crate::cache_file::frame(VERSION, &body))
}

fn decode(bytes: &[u8]) -> Option<Entries> {
    postcard::from_bytes(crate::cache_file::unframe(VERSION, bytes)?).ok()
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};

    use super::*;

    fn folder() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        (dir, path)
    }

    #[test]
    fn a_file_changed_within_the_clock_step_is_read_again() {
        let (_guard, dir) = folder();
        let (file, cache) = (dir.join("f"), dir.join("cache"));
        for n in 0..50_u8 {
            fs::write(&file, [n]).unwrap();
            // The same size, and the same mtime each time: only reading tells.
            let times = FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000));
            File::options().write(true).open(&file).unwrap().set_times(times).unwrap();
            let cached = StatCache::load(&cache);
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
    fn a_broken_cache_file_is_passed_over() {
        let (_guard, dir) = folder();
        fs::write(dir.join("f"), "x").unwrap();
        let mut entries = Entries::new();
        let stamp = Stamp { size: 1, mtime: (0, 0), ctime: (0, 0), inode: 1, device: 1 };
        entries.insert("f".into(), (stamp, ContentHash::of(b"wrong")));
        let good = encode(&entries).unwrap();
        assert_eq!(decode(&good).unwrap().len(), 1);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(decode(&bad).is_none(), "byte {at}");
            assert!(decode(&good[..at]).is_none(), "cut at {at}");
        }
    }
}
