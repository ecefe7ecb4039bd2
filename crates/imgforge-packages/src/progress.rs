//! How far a download is: told at most ten times a second, to whoever reports.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const BETWEEN: Duration = Duration::from_millis(100);

/// Is told how far downloads are. Called from many threads, one call at a time.
pub trait Progress: Sync {
    /// `done` of `total` bytes of `what` are there; `total` is 0 while it is not known.
    fn fetching(&self, what: &str, done: u64, total: u64);
    /// All of `what` is there: `files` files with `bytes` bytes were fetched (not found in the cache) in `took`.
    fn fetched(&self, what: &str, bytes: u64, files: usize, took: Duration);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn fetching(&self, _: &str, _: u64, _: u64) {}
    fn fetched(&self, _: &str, _: u64, _: usize, _: Duration) {}
}

/// Counts what is fetched of one thing, and tells a [`Progress`] now and then.
pub(crate) struct Meter<'a> {
    progress: &'a dyn Progress,
    what: &'a str,
    total: AtomicU64,
    done: AtomicU64,
    fetched: AtomicU64,
    files: AtomicUsize,
    started: Instant,
    told: Mutex<Instant>,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(progress: &'a dyn Progress, what: &'a str, total: u64) -> Self {
        let now = Instant::now();
        progress.fetching(what, 0, total);
        Self {
            progress,
            what,
            total: AtomicU64::new(total),
            done: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
            files: AtomicUsize::new(0),
            started: now,
            told: Mutex::new(now),
        }
    }

    /// More is to be fetched than was known.
    pub(crate) fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// `bytes` were found here already.
    pub(crate) fn had(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.tell();
    }

    /// `bytes` have come over the network.
    pub(crate) fn got(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
        self.had(bytes);
    }

    /// `bytes` that were counted have to be fetched again.
    pub(crate) fn lost(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// One file has been fetched whole.
    pub(crate) fn file(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    /// All is there: the bytes and files that were fetched.
    pub(crate) fn finish(&self) -> (u64, usize) {
        let (bytes, files) = (self.fetched.load(Ordering::Relaxed), self.files.load(Ordering::Relaxed));
        self.progress.fetched(self.what, bytes, files, self.started.elapsed());
        (bytes, files)
    }

    fn tell(&self) {
        // Whoever finds the lock taken need not tell: another thread does so right now.
        let Ok(mut told) = self.told.try_lock() else { return };
        if told.elapsed() >= BETWEEN {
            *told = Instant::now();
            let (done, total) = (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
            self.progress.fetching(self.what, done, total);
        }
    }
}
