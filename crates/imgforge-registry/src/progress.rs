//! How far blobs are: told at most ten times a second for each, to whoever reports.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use imgforge_oci::{Descriptor, Digest};

const BETWEEN: Duration = Duration::from_millis(100);

/// How far one blob is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Which.
    pub digest: Digest,
    /// Bytes that are over. Falls when a cut transfer has to begin anew.
    pub done: u64,
    /// Its size in bytes.
    pub total: u64,
}

/// Who is told how far blobs are.
#[derive(Clone, Default)]
pub struct ProgressSink(Option<Arc<dyn Fn(Moved) + Send + Sync>>);

impl ProgressSink {
    /// Tells `tell`, from the tasks that move the bytes: it must not block.
    pub fn new(tell: impl Fn(Moved) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    /// Tells nobody.
    pub fn silent() -> Self {
        Self::default()
    }
}

impl fmt::Debug for ProgressSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "ProgressSink" } else { "ProgressSink(silent)" })
    }
}

/// Counts one blob's bytes.
pub(crate) struct Meter {
    sink: ProgressSink,
    digest: Digest,
    total: u64,
    done: AtomicU64,
    told: Mutex<Option<Instant>>,
}

impl Meter {
    pub(crate) fn new(sink: &ProgressSink, blob: &Descriptor) -> Arc<Self> {
        Arc::new(Self {
            sink: sink.clone(),
            digest: blob.digest.clone(),
            total: blob.size,
            done: AtomicU64::new(0),
            told: Mutex::default(),
        })
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.set(self.done.load(Ordering::Relaxed) + bytes);
    }

    pub(crate) fn set(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
        let Some(tell) = &self.sink.0 else { return };
        // Whoever finds the lock taken need not tell: another thread does so right now.
        let Ok(mut told) = self.told.try_lock() else { return };
        if done == self.total || told.is_none_or(|told| told.elapsed() >= BETWEEN) {
            *told = Some(Instant::now());
            tell(Moved { digest: self.digest.clone(), done, total: self.total });
        }
    }
}
