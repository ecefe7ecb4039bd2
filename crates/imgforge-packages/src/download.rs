//! Package files into the cache: eight at a time, resumed where they were cut, hash verified.
//!
//! A file that is being fetched is locked, so that of two processes one waits and then finds it there. What a killed
//! process leaves is the start of a file that the next one goes on with.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

use camino::Utf8Path;
use imgforge_core::lock::LockedPackage;
use imgforge_http::StatusCode;
use jiff::ToSpan;
use jiff::civil::DateTime;
use sha2::{Digest, Sha256};

use crate::cache::{Cache, make_parent};
use crate::error::Error;
use crate::http::{self, Client, Failure, Network};
use crate::machine::Repository;
use crate::progress::{Meter, Progress};
use crate::release::TIMESTAMP;

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

/// Sees to it that every one of `packages` is in the cache: from the repositories, else from the archives of their
/// earlier states.
///
/// # Errors
/// [`Error::Vanished`] with all packages that no repository has, nor an archive; [`Error::Hash`],
/// [`Error::Unreachable`] or [`Error::Io`] for the first of the others.
pub fn fetch(
    packages: &[LockedPackage],
    repositories: &[Repository],
    cache: &Cache,
    network: &Network,
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
    let work = Work {
        queue: Mutex::new(missing),
        vanished: Mutex::default(),
        archive: Mutex::default(),
        failed: Mutex::default(),
    };
    let servers = Servers { agent: Client::of(network, repositories), repositories, down: Mutex::default() };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| work.run(|package| fetch_one(&servers, package, cache, &meter)));
        }
    });
    let (bytes, files) = meter.finish();
    work.outcome()?;
    Ok(Fetched { bytes, files })
}

struct Work<'a> {
    queue: Mutex<Vec<&'a LockedPackage>>,
    vanished: Mutex<Vec<LockedPackage>>,
    /// The first that went wrong with an archive.
    archive: Mutex<Option<Error>>,
    failed: Mutex<Option<Error>>,
}

const UNPOISONED: &str = "no thread panics while it holds this lock";

impl<'a> Work<'a> {
    fn run(&self, fetch: impl Fn(&LockedPackage) -> Result<Found, Error>) {
        while let Some(package) = self.next() {
            match fetch(package) {
                Ok(Found::There) => {}
                Ok(Found::Nowhere(archive)) => {
                    self.vanished.lock().expect(UNPOISONED).push(package.clone());
                    if let Some(error) = archive {
                        self.archive.lock().expect(UNPOISONED).get_or_insert(error);
                    }
                }
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
        if vanished.is_empty() {
            return Ok(());
        }
        let archive = self.archive.into_inner().expect(UNPOISONED).map(Box::new);
        Err(Error::Vanished { packages: vanished, archive })
    }
}

fn is_there(path: &Utf8Path, size: u64) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == size)
}

/// What came of one package.
enum Found {
    There,
    /// No repository has it; with what went wrong with an archive that may have it.
    Nowhere(Option<Error>),
}

/// The servers of one run.
struct Servers<'a> {
    agent: Client<'a>,
    repositories: &'a [Repository],
    /// Those that did not answer, and how: nobody waits for them again.
    down: Mutex<HashMap<String, String>>,
}

impl Servers<'_> {
    /// `Ok(false)` when the server does not have it.
    fn ask(
        &self,
        root: &Root,
        package: &LockedPackage,
        partial: &mut File,
        meter: &Meter<'_>,
    ) -> Result<bool, Error> {
        let url = format!("{}{}/{}", root.server, root.state, http::encode(&package.path));
        if let Some(reason) = self.down.lock().expect(UNPOISONED).get(root.server) {
            return Err(Error::Unreachable { url, reason: reason.clone() });
        }
        let got = self.agent.wait(download(&self.agent, &url, package, partial, meter));
        if let Err(Error::Unreachable { reason, .. }) = &got {
            self.down.lock().expect(UNPOISONED).insert(root.server.to_owned(), reason.clone());
        }
        got
    }
}

fn fetch_one(
    servers: &Servers<'_>,
    package: &LockedPackage,
    cache: &Cache,
    meter: &Meter<'_>,
) -> Result<Found, Error> {
    let path = cache.file(&package.sha256);
    make_parent(&path)?;
    let Some(mut partial) = open_partial(package, cache)? else {
        meter.had(package.size);
        return Ok(Found::There);
    };
    let (mut of_mirror, mut of_archive) = (None, None);
    for root in roots(package, servers.repositories) {
        match servers.ask(&root, package, &mut partial, meter) {
            Ok(true) => {
                fs::rename(cache.partial(&package.sha256), &path).map_err(Error::io(&path))?;
                meter.file();
                return Ok(Found::There);
            }
            Ok(false) => {}
            Err(error) if root.state.is_empty() => drop(of_mirror.get_or_insert(error)),
            Err(error) => drop(of_archive.get_or_insert(error)),
        }
    }
    if let Some(error) = of_mirror {
        return Err(error);
    }
    let _ = fs::remove_file(cache.partial(&package.sha256));
    Ok(Found::Nowhere(of_archive))
}

/// The root of a repository, now or as it once was.
#[derive(Debug, PartialEq, Eq)]
struct Root<'a> {
    server: &'a str,
    /// `/TIMESTAMP` of an archive; of the repository itself, nothing.
    state: String,
}

/// The roots that may have `package`: that of its suite, those of the source's other suites, and those that archives
/// have of the time when it was locked.
fn roots<'a>(package: &LockedPackage, repositories: &'a [Repository]) -> Vec<Root<'a>> {
    let of_source = || repositories.iter().filter(|r| r.source == package.source);
    let suites = || of_source().flat_map(|r| &r.suites);
    let mut roots: Vec<Root<'a>> = Vec::new();
    let first = suites().filter(|suite| suite.name == package.suite);
    for suite in first.chain(suites()) {
        if roots.iter().all(|root| root.server != suite.uri) {
            roots.push(Root { server: &suite.uri, state: String::new() });
        }
    }
    for state in package.indexed.iter().flat_map(|at| states(at)) {
        let archives = of_source().flat_map(|r| &r.snapshots);
        roots.extend(archives.map(|server| Root { server, state: format!("/{state}") }));
    }
    roots
}

/// The times that an archive is asked for. It takes a state every few hours, and of a time between two it gives the
/// earlier one, which does not have yet what an index had first. A day later it has, and repositories do not delete
/// within a day (Debian's after a day and a half).
fn states(indexed: &str) -> Vec<String> {
    let later = DateTime::strptime(TIMESTAMP, indexed).ok().and_then(|at| at.checked_add(1.day()).ok());
    let later = later.map(|at| at.strftime(TIMESTAMP).to_string());
    std::iter::once(indexed.to_owned()).chain(later).collect()
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

/// Goes on with `file` where it ends, as often as it takes, and checks the whole. `Ok(false)` when the server does not
/// have it.
async fn download(
    agent: &Client<'_>,
    url: &str,
    package: &LockedPackage,
    file: &mut File,
    meter: &Meter<'_>,
) -> Result<bool, Error> {
    let mut tries = agent.tries(url);
    let mut furthest = 0;
    loop {
        match download_once(agent, url, package, file, meter).await {
            Ok(is_there) => return Ok(is_there),
            Err(failure) => {
                let length = file.metadata().map_or(0, |found| found.len());
                if length > furthest {
                    furthest = length;
                    tries.moved_on();
                }
                tries.again(failure).await?;
            }
        }
    }
}

async fn download_once(
    agent: &Client<'_>,
    url: &str,
    package: &LockedPackage,
    file: &mut File,
    meter: &Meter<'_>,
) -> Result<bool, Failure> {
    let local = |error: io::Error| Failure::Final(Error::Io { path: package.sha256.as_str().into(), error });
    let (mut hash, mut length) = hash_of(file).map_err(local)?;
    if length >= package.size {
        file.set_len(0).map_err(local)?;
        (hash, length) = (Sha256::new(), 0);
    }
    let Some(response) = agent.send(url, length).await? else { return Ok(false) };
    if length > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
        file.set_len(0).map_err(local)?;
        (hash, length) = (Sha256::new(), 0);
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(Failure::passing("the server refuses to go on where it was cut"));
        }
    }
    let start = length;
    meter.had(start);
    let mut body = agent.body(response);
    // A byte too many is enough to see that it is not the one.
    while length <= package.size {
        let mut bytes = match body.chunk().await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => break,
            Err(reason) => {
                meter.lost(length);
                return Err(Failure::passing(reason));
            }
        };
        bytes.truncate(usize::try_from(package.size + 1 - length).unwrap_or(usize::MAX));
        file.write_all(&bytes).map_err(local)?;
        hash.update(&bytes);
        length += bytes.len() as u64;
        meter.got(bytes.len() as u64);
    }
    if length < package.size {
        meter.lost(length);
        return Err(Failure::passing(format!("cut after {length} of {} bytes", package.size)));
    }
    let found = hex::encode(hash.finalize());
    if found == package.sha256 && length == package.size {
        return Ok(true);
    }
    meter.lost(length);
    file.set_len(0).map_err(local)?;
    if start > 0 {
        // The part that was there may have been the wrong one.
        return Err(Failure::passing("what was resumed has the wrong hash"));
    }
    if found == package.sha256 {
        return Err(Failure::Final(Error::Size { what: url.to_owned(), expected: package.size }));
    }
    Err(Failure::Final(Error::Hash { what: url.to_owned(), expected: package.sha256.clone(), found }))
}

fn hash_of(file: &mut File) -> io::Result<(Sha256, u64)> {
    let mut hash = Sha256::new();
    file.seek(SeekFrom::Start(0))?;
    let length = io::copy(file, &mut hash)?;
    Ok((hash, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_asked_for_the_time_of_the_index_and_for_a_day_later() {
        assert_eq!(states("20261231T210005Z"), ["20261231T210005Z", "20270101T210005Z"]);
        assert_eq!(states("99991231T210005Z"), ["99991231T210005Z"], "there is no later day");
    }
}
