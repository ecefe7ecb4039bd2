//! Downloads: package files into the cache, and the small files that describe a repository.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use imgforge_core::lock::LockedPackage;
use sha2::{Digest, Sha256};

use crate::error::io as io_error;
use crate::{Cache, Error, Progress, Repository};

/// How many downloads at once.
const WORKERS: usize = 8;

/// How often something that may pass is tried.
const TRIES: u32 = 4;

/// The first pause between two tries; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(300);

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// The largest file that is read into memory: an index.
const LARGEST_IN_MEMORY: u64 = 1 << 30;

/// Asks for files over HTTP.
pub(crate) struct Client(ureq::Agent);

/// How an attempt ended.
pub(crate) enum Failed {
    /// The server does not have it (404, 410).
    Absent,
    /// Anything else, after all tries.
    Other(Error),
}

/// What the next try may mend.
enum Attempt {
    Absent,
    Passing(String),
    Final(Error),
}

impl Client {
    pub(crate) fn new() -> Self {
        let config = ureq::Agent::config_builder()
            .max_idle_connections_per_host(WORKERS)
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .user_agent(concat!("imgforge/", env!("CARGO_PKG_VERSION")));
        Self(config.build().new_agent())
    }

    /// A whole file, in memory.
    pub(crate) fn get(&self, url: &str) -> Result<Vec<u8>, Failed> {
        retried(url, || {
            let mut answer = self.ask(url, 0)?;
            let read = answer.body_mut().with_config().limit(LARGEST_IN_MEMORY).read_to_vec();
            read.map_err(|error| Attempt::Passing(error.to_string()))
        })
    }

    fn ask(&self, url: &str, from: u64) -> Result<ureq::http::Response<ureq::Body>, Attempt> {
        let mut request = self.0.get(url);
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let answer = request.call().map_err(|error| Attempt::Passing(error.to_string()))?;
        match answer.status().as_u16() {
            200 | 206 => Ok(answer),
            404 | 410 => Err(Attempt::Absent),
            // The rest that was asked for does not exist: what is there is of another file.
            416 => Err(Attempt::Passing("the server has a file of another size".into())),
            429 | 500..=599 => Err(Attempt::Passing(format!("the server answered {}", answer.status()))),
            _ => {
                let message = format!("the server answered {}", answer.status());
                Err(Attempt::Final(Error::Unreachable { url: url.to_owned(), message }))
            }
        }
    }
}

fn retried<T>(url: &str, attempt: impl Fn() -> Result<T, Attempt>) -> Result<T, Failed> {
    let mut pause = PAUSE;
    for n in 1..=TRIES {
        match attempt() {
            Ok(found) => return Ok(found),
            Err(Attempt::Absent) => return Err(Failed::Absent),
            Err(Attempt::Final(error)) => return Err(Failed::Other(error)),
            Err(Attempt::Passing(message)) if n == TRIES => {
                let message = format!("{message} ({TRIES} tries)");
                return Err(Failed::Other(Error::Unreachable { url: url.to_owned(), message }));
            }
            Err(Attempt::Passing(_)) => {
                std::thread::sleep(pause);
                pause *= 2;
            }
        }
    }
    unreachable!("the last try returns")
}

/// What all workers share.
struct Download<'a> {
    client: Client,
    repositories: &'a [Repository],
    cache: &'a Cache,
    progress: &'a dyn Progress,
    total: u64,
    done: AtomicU64,
    fetched: AtomicU64,
    files: AtomicUsize,
    told: Mutex<Instant>,
}

/// Fetches what is not in the cache yet, eight at a time.
///
/// # Errors
/// [`Error::Vanished`] with every package that no repository has; else the first other failure.
pub fn fetch(
    packages: &[LockedPackage],
    repositories: &[Repository],
    cache: &Cache,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let started = Instant::now();
    let mut missing: Vec<&LockedPackage> =
        packages.iter().filter(|package| !cache.file(&package.sha256).exists()).collect();
    // The largest last in the list are taken first: no long one is left over at the end.
    missing.sort_by_key(|package| package.size);
    let download = Download {
        client: Client::new(),
        repositories,
        cache,
        progress,
        total: missing.iter().map(|package| package.size).sum(),
        done: AtomicU64::new(0),
        fetched: AtomicU64::new(0),
        files: AtomicUsize::new(0),
        told: Mutex::new(Instant::now()),
    };
    let queue = Mutex::new(missing);
    let (vanished, failed) = (Mutex::new(Vec::new()), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(package) = locked(&queue).pop() {
                    match download.one(package) {
                        Ok(()) => {}
                        Err(Failed::Absent) => locked(&vanished).push(package.clone()),
                        Err(Failed::Other(error)) => {
                            locked(&failed).get_or_insert(error);
                            locked(&queue).clear();
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        return Err(error);
    }
    let mut vanished = vanished.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !vanished.is_empty() {
        vanished.sort();
        return Err(Error::Vanished(vanished));
    }
    let files = download.files.load(Ordering::Relaxed);
    if files > 0 {
        progress.fetched("packages", download.fetched.load(Ordering::Relaxed), files, started.elapsed());
    }
    Ok(())
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Download<'_> {
    fn one(&self, package: &LockedPackage) -> Result<(), Failed> {
        let suites = self
            .repositories
            .iter()
            .filter(|repository| repository.source == package.source)
            .flat_map(|repository| &repository.suites)
            .filter(|suite| suite.suite == package.suite);
        for suite in suites {
            let url = format!("{}/{}", suite.uri, package.path);
            match retried(&url, || self.attempt(&url, package)) {
                Ok(()) => {
                    self.files.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(Failed::Absent) => {}
                Err(other) => return Err(other),
            }
        }
        Err(Failed::Absent)
    }

    /// Goes on where an earlier attempt ended, checks the whole and moves it into its place.
    fn attempt(&self, url: &str, package: &LockedPackage) -> Result<(), Attempt> {
        let path = self.cache.partial(&package.sha256);
        let own = |error| Attempt::Final(io_error(&path)(error));
        let mut file = File::options().read(true).append(true).create(true).open(&path).map_err(own)?;
        // Another process may be at the same package: the second starts a file of its own.
        if file.try_lock().is_err() {
            std::thread::sleep(PAUSE);
            if self.cache.file(&package.sha256).exists() {
                return Ok(());
            }
            return Err(Attempt::Passing("another process is fetching it".into()));
        }
        let mut hasher = Sha256::new();
        let mut there = io::copy(&mut file, &mut hasher).map_err(own)?;
        if there > package.size {
            file.set_len(0).map_err(own)?;
            (there, hasher) = (0, Sha256::new());
        }
        if there < package.size {
            let mut answer = self.client.ask(url, there)?;
            if answer.status().as_u16() == 200 && there > 0 {
                file.set_len(0).map_err(own)?;
                file.seek(SeekFrom::Start(0)).map_err(own)?;
                hasher = Sha256::new();
            }
            let mut body = answer.body_mut().as_reader();
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let n = body.read(&mut buffer).map_err(|error| Attempt::Passing(error.to_string()))?;
                if n == 0 {
                    break;
                }
                hasher.update(&buffer[..n]);
                file.write_all(&buffer[..n]).map_err(own)?;
                self.tell(n as u64);
            }
        }
        let found = hex::encode(hasher.finalize());
        let size = file.metadata().map_err(own)?.len();
        if size < package.size {
            return Err(Attempt::Passing(format!("the answer ended after {size} of {} bytes", package.size)));
        }
        if found != package.sha256 {
            std::fs::remove_file(&path).map_err(own)?;
            return Err(Attempt::Final(Error::Hash {
                url: url.to_owned(),
                expected: package.sha256.clone(),
                found,
            }));
        }
        std::fs::rename(&path, self.cache.file(&package.sha256)).map_err(own)
    }

    fn tell(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut told = locked(&self.told);
        if told.elapsed() >= TELL_EVERY {
            *told = Instant::now();
            self.progress.fetching("packages", done.min(self.total), self.total);
        }
    }
}
