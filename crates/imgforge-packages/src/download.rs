//! Package files into the cache: eight at a time, resumed where they were cut, hash verified.
//!
//! A file that is being fetched is locked, so that of two processes one waits and then finds it there. What a killed
//! process leaves is the start of a file that the next one goes on with.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

use camino::Utf8Path;
use imgforge_core::lock::LockedPackage;
use sha2::{Digest, Sha256};
use ureq::Agent;
use ureq::http::StatusCode;

use crate::cache::{Cache, make_parent};
use crate::error::Error;
use crate::http::{self, Failure};
use crate::machine::Repository;
use crate::progress::{Meter, Progress};

/// Downloads at once: more do not help one mirror, and it has other users.
const PARALLEL: usize = 8;

/// What [`fetch`] has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes that came over the network.
    pub bytes: u64,
    /// Files that were not in the cache.
    pub files: usize,
}

/// Sees to it that every one of `packages` is in the cache.
///
/// # Errors
/// [`Error::Vanished`] with all packages that no server has; [`Error::Hash`], [`Error::Unreachable`] or
/// [`Error::Io`] for the first of the others.
pub fn fetch(
    packages: &[LockedPackage],
    repositories: &[Repository],
    cache: &Cache,
    progress: &dyn Progress,
) -> Result<Fetched, Error> {
    let mut missing: Vec<&LockedPackage> =
        packages.iter().filter(|p| !is_there(&cache.file(&p.sha256), p.size)).collect();
    missing.sort_by(|a, b| a.sha256.cmp(&b.sha256));
    missing.dedup_by(|a, b| a.sha256 == b.sha256);
    if missing.is_empty() {
        return Ok(Fetched::default());
    }
    // The largest first, so that none of them is begun last.
    missing.sort_by_key(|package| package.size);
    let meter = Meter::new(progress, "packages", missing.iter().map(|p| p.size).sum());
    let workers = PARALLEL.min(missing.len());
    let work = Work { queue: Mutex::new(missing), vanished: Mutex::default(), failed: Mutex::default() };
    let agent = http::agent();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| work.run(|package| fetch_one(&agent, package, repositories, cache, &meter)));
        }
    });
    let (bytes, files) = meter.finish();
    work.outcome()?;
    Ok(Fetched { bytes, files })
}

struct Work<'a> {
    queue: Mutex<Vec<&'a LockedPackage>>,
    vanished: Mutex<Vec<LockedPackage>>,
    failed: Mutex<Option<Error>>,
}

const UNPOISONED: &str = "no thread panics while it holds this lock";

impl<'a> Work<'a> {
    fn run(&self, fetch: impl Fn(&LockedPackage) -> Result<bool, Error>) {
        while let Some(package) = self.next() {
            match fetch(package) {
                Ok(true) => {}
                Ok(false) => self.vanished.lock().expect(UNPOISONED).push(package.clone()),
                Err(error) => {
                    self.queue.lock().expect(UNPOISONED).clear();
                    self.failed.lock().expect(UNPOISONED).get_or_insert(error);
                }
            }
        }
    }

    fn next(&self) -> Option<&'a LockedPackage> {
        self.queue.lock().expect(UNPOISONED).pop()
    }

    fn outcome(self) -> Result<(), Error> {
        if let Some(error) = self.failed.into_inner().expect(UNPOISONED) {
            return Err(error);
        }
        let mut vanished = self.vanished.into_inner().expect(UNPOISONED);
        vanished.sort();
        if vanished.is_empty() { Ok(()) } else { Err(Error::Vanished(vanished)) }
    }
}

fn is_there(path: &Utf8Path, size: u64) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == size)
}

/// `Ok(false)` when no server has it.
fn fetch_one(
    agent: &Agent,
    package: &LockedPackage,
    repositories: &[Repository],
    cache: &Cache,
    meter: &Meter<'_>,
) -> Result<bool, Error> {
    let path = cache.file(&package.sha256);
    make_parent(&path)?;
    let Some(mut partial) = open_partial(package, cache)? else {
        meter.had(package.size);
        return Ok(true);
    };
    for uri in servers(package, repositories) {
        let url = format!("{uri}/{}", package.path);
        if http::retry(&url, || download(agent, &url, package, &mut partial, meter))?.is_some() {
            fs::rename(cache.partial(&package.sha256), &path).map_err(Error::io(&path))?;
            meter.file();
            return Ok(true);
        }
    }
    let _ = fs::remove_file(cache.partial(&package.sha256));
    Ok(false)
}

/// The repository's roots that may have `package`: that of its suite first.
fn servers<'a>(package: &LockedPackage, repositories: &'a [Repository]) -> Vec<&'a str> {
    let of_source = || repositories.iter().filter(|r| r.source == package.source).flat_map(|r| &r.suites);
    let mut uris: Vec<&str> = Vec::new();
    let first = of_source().filter(|suite| suite.name == package.suite);
    for suite in first.chain(of_source()) {
        if !uris.contains(&suite.uri.as_str()) {
            uris.push(&suite.uri);
        }
    }
    uris
}

/// The locked file of what has come so far; `None` when another process has finished it meanwhile.
fn open_partial(package: &LockedPackage, cache: &Cache) -> Result<Option<File>, Error> {
    let path = cache.partial(&package.sha256);
    make_parent(&path)?;
    loop {
        let file =
            File::options().read(true).append(true).create(true).open(&path).map_err(Error::io(&path))?;
        file.lock().map_err(Error::io(&path))?;
        if is_there(&cache.file(&package.sha256), package.size) {
            let _ = fs::remove_file(&path);
            return Ok(None);
        }
        // The one who held the lock may have renamed or removed the file that was opened here.
        let opened = file.metadata().map_err(Error::io(&path))?;
        if fs::metadata(&path).is_ok_and(|now| now.ino() == opened.ino()) {
            return Ok(Some(file));
        }
    }
}

/// One try: goes on with `file` where it ends, and checks the whole.
fn download(
    agent: &Agent,
    url: &str,
    package: &LockedPackage,
    file: &mut File,
    meter: &Meter<'_>,
) -> Result<(), Failure> {
    let local = |error: io::Error| Failure::Final(Error::Io { path: package.sha256.as_str().into(), error });
    let (mut hash, mut length) = hash_of(file).map_err(local)?;
    if length >= package.size {
        file.set_len(0).map_err(local)?;
        (hash, length) = (Sha256::new(), 0);
    }
    let mut response = http::send(agent, url, length)?;
    if length > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
        file.set_len(0).map_err(local)?;
        (hash, length) = (Sha256::new(), 0);
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(Failure::Passing("the server refuses to go on where it was cut".to_owned()));
        }
    }
    let start = length;
    meter.had(start);
    let mut reader = response.body_mut().as_reader().take(package.size + 1 - start);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) => {
                meter.lost(length);
                return Err(Failure::Passing(error.to_string()));
            }
        };
        file.write_all(&buffer[..read]).map_err(local)?;
        hash.update(&buffer[..read]);
        length += read as u64;
        meter.got(read as u64);
    }
    if length < package.size {
        meter.lost(length);
        return Err(Failure::Passing(format!("cut after {length} of {} bytes", package.size)));
    }
    let found = hex::encode(hash.finalize());
    if found == package.sha256 && length == package.size {
        return Ok(());
    }
    meter.lost(length);
    file.set_len(0).map_err(local)?;
    if start > 0 {
        // The part that was there may have been the wrong one.
        return Err(Failure::Passing("what was resumed has the wrong hash".to_owned()));
    }
    Err(Failure::Final(Error::Hash { what: url.to_owned(), expected: package.sha256.clone(), found }))
}

fn hash_of(file: &mut File) -> io::Result<(Sha256, u64)> {
    let mut hash = Sha256::new();
    file.seek(SeekFrom::Start(0))?;
    let length = io::copy(file, &mut hash)?;
    Ok((hash, length))
}
