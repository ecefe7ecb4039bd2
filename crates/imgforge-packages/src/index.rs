//! What a repository has: InRelease verified, Packages fetched by hash, parsed once and kept.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::time::Instant;

use imgforge_core::lock::LockedPackage;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::control::{Stanza, stanzas};
use crate::fetch::{Client, Failed};
use crate::machine::SuiteLocation;
use crate::resolve::{Group, Version, parse_relations};
use crate::{Cache, Error, Progress, Repository, signature};

/// Raised when the form of a kept index changes.
const KEPT_VERSION: &str = "2";

/// How much a package belongs to a Debian system (policy 2.5); the first of two is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Priority {
    Required,
    Important,
    Standard,
    Optional,
}

impl Priority {
    fn of(field: Option<&str>) -> Self {
        match field {
            Some("required") => Self::Required,
            Some("important") => Self::Important,
            Some("standard") => Self::Standard,
            _ => Self::Optional,
        }
    }
}

/// One package of a repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: Version,
    pub(crate) architecture: String,
    pub(crate) suite: String,
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) sha256: String,
    pub(crate) essential: bool,
    pub(crate) priority: Priority,
    /// Pre-Depends and Depends: of each group, one must be there.
    pub(crate) depends: Vec<Group>,
    /// Conflicts and Breaks.
    pub(crate) conflicts: Vec<Group>,
    /// Names that it provides, some with a version.
    pub(crate) provides: Vec<(String, Option<Version>)>,
}

/// All packages of a source, by name.
#[derive(Debug)]
pub struct Index {
    pub(crate) source: String,
    pub(crate) packages: Vec<Package>,
    pub(crate) by_name: HashMap<String, Vec<usize>>,
    pub(crate) providers: HashMap<String, Vec<usize>>,
}

impl Index {
    pub(crate) fn new(source: &str, packages: Vec<Package>) -> Self {
        let mut index =
            Self { source: source.to_owned(), packages, by_name: HashMap::new(), providers: HashMap::new() };
        index.reindex();
        index
    }

    fn reindex(&mut self) {
        self.by_name.clear();
        self.providers.clear();
        for (n, package) in self.packages.iter().enumerate() {
            self.by_name.entry(package.name.clone()).or_default().push(n);
            for (name, _) in &package.provides {
                self.providers.entry(name.clone()).or_default().push(n);
            }
        }
        for versions in self.by_name.values_mut() {
            versions.sort_by(|a, b| self.packages[*b].version.cmp(&self.packages[*a].version));
            // The same version in two suites is one package.
            versions.dedup_by(|a, b| self.packages[*a].version == self.packages[*b].version);
        }
    }

    /// Of every package that is locked and still served, leaves only the locked version.
    pub fn pin(&mut self, locked: &[LockedPackage]) {
        let mut pinned: HashMap<&str, Vec<&str>> = HashMap::new();
        for package in locked {
            pinned.entry(&package.name).or_default().push(&package.version);
        }
        let is_pinned = |package: &Package| {
            pinned
                .get(package.name.as_str())
                .is_some_and(|versions| versions.contains(&package.version.text()))
        };
        let served: std::collections::HashSet<String> = self
            .packages
            .iter()
            .filter(|package| is_pinned(package))
            .map(|package| package.name.clone())
            .collect();
        self.packages.retain(|package| !served.contains(&package.name) || is_pinned(package));
        self.reindex();
    }
}

/// Fetches and verifies what describes a repository: all suites at once.
///
/// # Errors
/// A server that cannot be reached, a signature or a hash that is not right, a release that is too old.
pub fn fetch_index(repository: &Repository, cache: &Cache, progress: &dyn Progress) -> Result<Index, Error> {
    let started = Instant::now();
    let client = Client::new();
    let read: Vec<Result<(Vec<Package>, u64), Error>> = std::thread::scope(|scope| {
        let suite = |suite| {
            let client = &client;
            scope.spawn(move || fetch_suite(client, repository, suite, cache))
        };
        let threads: Vec<_> = repository.suites.iter().map(suite).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let (mut packages, mut bytes) = (Vec::new(), 0);
    for suite in read {
        let (found, fetched) = suite?;
        packages.extend(found);
        bytes += fetched;
    }
    progress.fetched("package indexes", bytes, repository.suites.len(), started.elapsed());
    Ok(Index::new(&repository.source, packages))
}

fn fetch_suite(
    client: &Client,
    repository: &Repository,
    suite: &SuiteLocation,
    cache: &Cache,
) -> Result<(Vec<Package>, u64), Error> {
    let base = format!("{}/dists/{}", suite.uri, suite.suite);
    let url = format!("{base}/InRelease");
    let signed = client.get(&url).map_err(|failed| absent(&url, failed))?;
    let keyring = std::fs::read(&suite.keyring).map_err(|error| Error::Keyring {
        path: suite.keyring.clone(),
        suite: suite.suite.clone(),
        message: error.to_string(),
    })?;
    let text = signature::verify(&String::from_utf8_lossy(&signed), &keyring)
        .map_err(|message| Error::Signature { url: url.clone(), keyring: suite.keyring.clone(), message })?;
    let release = Release::read(&text).ok_or_else(|| Error::Release {
        url: url.clone(),
        message: "it has no list of SHA-256 hashes".into(),
    })?;
    release.check(suite).map_err(|message| Error::Release { url, message })?;
    let (mut packages, mut bytes) = (Vec::new(), signed.len() as u64);
    for component in &repository.components {
        let folder = format!("{component}/binary-{}", repository.architecture);
        let (found, fetched) = fetch_packages(client, &base, &folder, &release, suite, cache)?;
        packages.extend(found);
        bytes += fetched;
    }
    Ok((packages, bytes))
}

fn absent(url: &str, failed: Failed) -> Error {
    match failed {
        Failed::Other(error) => error,
        Failed::Absent => {
            Error::Unreachable { url: url.to_owned(), message: "the server does not have it".into() }
        }
    }
}

/// What an InRelease says.
struct Release {
    fields: BTreeMap<String, String>,
    /// Size and SHA-256 by path.
    files: BTreeMap<String, (u64, String)>,
}

impl Release {
    fn read(text: &str) -> Option<Self> {
        let stanza = stanzas(text).next()?;
        let mut files = BTreeMap::new();
        for line in stanza.get("SHA256")?.lines() {
            let mut words = line.split_whitespace();
            if let (Some(hash), Some(size), Some(path)) = (words.next(), words.next(), words.next()) {
                files.insert(path.to_owned(), (size.parse().ok()?, hash.to_owned()));
            }
        }
        let fields = ["Suite", "Codename", "Valid-Until"];
        let fields = fields
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), stanza.get(name)?.to_owned())))
            .collect();
        Some(Self { fields, files })
    }

    /// A good signature of another suite, or of long ago, is still the wrong file.
    fn check(&self, suite: &SuiteLocation) -> Result<(), String> {
        let is = |field: &str| self.fields.get(field).is_some_and(|value| *value == suite.suite);
        if !is("Suite") && !is("Codename") {
            let named = self.fields.get("Codename").or(self.fields.get("Suite"));
            return Err(format!("it is of the suite \"{}\"", named.map_or("", String::as_str)));
        }
        let Some(until) = self.fields.get("Valid-Until") else { return Ok(()) };
        let date = until.replace("UTC", "+0000");
        let parsed = jiff::fmt::rfc2822::parse(&date)
            .map_err(|error| format!("its Valid-Until is no date: {error}"))?;
        if parsed.timestamp() < jiff::Timestamp::now() {
            return Err(format!(
                "it was valid until {until}: the mirror is not kept up, or the clock is wrong"
            ));
        }
        Ok(())
    }
}

fn fetch_packages(
    client: &Client,
    base: &str,
    folder: &str,
    release: &Release,
    suite: &SuiteLocation,
    cache: &Cache,
) -> Result<(Vec<Package>, u64), Error> {
    let named = ["Packages.xz", "Packages.gz", "Packages"].iter().find_map(|name| {
        let path = format!("{folder}/{name}");
        release.files.get(&path).map(|(size, hash)| (path, *size, hash.clone()))
    });
    let Some((path, size, hash)) = named else {
        let message = format!("it lists no {folder}/Packages");
        return Err(Error::Release { url: format!("{base}/InRelease"), message });
    };
    let kept = cache.derived("index", &format!("{KEPT_VERSION}-{}-{hash}", suite.suite));
    if let Some(packages) = std::fs::read(&kept).ok().and_then(|bytes| postcard::from_bytes(&bytes).ok()) {
        return Ok((packages, 0));
    }
    let by_hash = format!("{base}/{folder}/by-hash/SHA256/{hash}");
    let url = format!("{base}/{path}");
    let bytes = match client.get(&by_hash) {
        Err(Failed::Absent) => client.get(&url),
        other => other,
    };
    let bytes = bytes.map_err(|failed| absent(&url, failed))?;
    let found = hex::encode(Sha256::digest(&bytes));
    if found != hash || bytes.len() as u64 != size {
        return Err(Error::Hash { url, expected: hash, found });
    }
    let text = unpacked(&path, &bytes).map_err(|error| Error::Release {
        url: url.clone(),
        message: format!("it cannot be unpacked: {error}"),
    })?;
    let packages: Vec<Package> = stanzas(&text).filter_map(|stanza| package(&stanza, &suite.suite)).collect();
    // What cannot be kept is parsed again.
    if let Ok(body) = postcard::to_stdvec(&packages) {
        let _ = Cache::put(&kept, &body);
    }
    Ok((packages, bytes.len() as u64))
}

fn unpacked(path: &str, bytes: &[u8]) -> std::io::Result<String> {
    let mut text = String::new();
    if path.ends_with(".xz") {
        liblzma::read::XzDecoder::new_multi_decoder(bytes).read_to_string(&mut text)?;
    } else if path.ends_with(".gz") {
        flate2::read::MultiGzDecoder::new(bytes).read_to_string(&mut text)?;
    } else {
        text = String::from_utf8_lossy(bytes).into_owned();
    }
    Ok(text)
}

/// A stanza of a Packages file; `None` when something that is needed is missing in it.
pub(crate) fn package(stanza: &Stanza<'_>, suite: &str) -> Option<Package> {
    let relations = |fields: &[&str]| -> Vec<Group> {
        fields.iter().filter_map(|field| stanza.get(field)).flat_map(parse_relations).collect()
    };
    let provides = relations(&["Provides"]);
    let path = stanza.get("Filename")?;
    // A path that leads out of the repository's root would be fetched from elsewhere.
    if path.split('/').any(|part| part == "..") {
        return None;
    }
    Some(Package {
        name: stanza.get("Package")?.to_owned(),
        version: Version::new(stanza.get("Version")?)?,
        architecture: stanza.get("Architecture")?.to_owned(),
        suite: suite.to_owned(),
        path: path.trim_start_matches("./").to_owned(),
        size: stanza.get("Size")?.parse().ok()?,
        sha256: stanza.get("SHA256")?.to_owned(),
        essential: stanza.get("Essential") == Some("yes"),
        priority: Priority::of(stanza.get("Priority")),
        depends: relations(&["Pre-Depends", "Depends"]),
        conflicts: relations(&["Conflicts", "Breaks"]),
        provides: provides
            .into_iter()
            .filter_map(|group| group.into_iter().next())
            .map(|relation| (relation.name, relation.version.map(|(_, version)| version)))
            .collect(),
    })
}
