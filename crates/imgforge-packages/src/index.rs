//! What a repository has: fetched, verified, parsed, and kept parsed.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use imgforge_core::lock::{LockedPackage, is_security_suite};
use imgforge_state::file;
use serde::{Deserialize, Serialize};

use crate::apk;
use crate::cache::{Cache, sha256};
use crate::control::{Paragraph, paragraphs};
use crate::deb::{Deb, Depth};
use crate::error::Error;
use crate::http::{self, Client, Network};
use crate::machine::{Repository, RepositorySuite};
use crate::progress::{Meter, Progress};
use crate::relation::Scheme;
use crate::release::{IndexFile, Release};
use crate::replay::Seen;
use crate::signature;

/// Changes whenever [`IndexEntry`] or how it is read does.
const FORMAT: u32 = 2;

/// An `InRelease` file has some 200 KB.
const INRELEASE_LIMIT: u64 = 16 << 20;

/// Bytes of an unpacked index; Debian's largest has 60 MB.
const UNPACKED_LIMIT: u64 = 1 << 30;

/// One package of an index, as far as it matters for choosing and fetching it. Relations are kept as written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of deb-control(5) and of Packages files")]
pub struct IndexEntry {
    pub name: String,
    pub version: String,
    pub architecture: String,
    pub suite: String,
    pub path: String,
    pub size: u64,
    pub sha256: String,
    pub priority: String,
    pub essential: bool,
    pub pre_depends: String,
    pub depends: String,
    pub provides: String,
    pub conflicts: String,
    pub breaks: String,
    /// Of a package of Alpine, `C:` of the index: which file it is. Its SHA-256 is known once it has been fetched.
    pub checksum: String,
    /// Of a package of Alpine: it comes along where all of these are there.
    pub install_if: String,
    /// Whether its suite is one of security updates. Not kept with the parsed index: the `Release` file says it.
    #[serde(skip)]
    pub security: bool,
}

/// All packages of a source's suites.
#[derive(Debug)]
pub struct Index {
    pub(crate) source: String,
    pub(crate) scheme: Scheme,
    pub(crate) architecture: String,
    pub(crate) suites: Vec<String>,
    /// By suite: the date of its index.
    dates: BTreeMap<String, String>,
    pub(crate) entries: Vec<IndexEntry>,
    by_name: HashMap<String, Vec<usize>>,
    /// Entries whose version an earlier suite has too.
    doubles: Vec<usize>,
    /// What locked packages say about themselves that no suite has any more; see [`recall`](Self::recall).
    pub(crate) recalled: Vec<IndexEntry>,
    providers: OnceLock<Providers>,
}

/// By virtual name: the entries that provide it, with the version that they give it.
pub(crate) type Providers = HashMap<String, Vec<(usize, Option<String>)>>;

impl Index {
    /// An index of `entries`; those of other architectures are left out. Of the same version in two suites the first
    /// is kept; it counts as a security update when any of them is.
    pub fn new(source: &str, architecture: &str, suites: &[String], entries: Vec<IndexEntry>) -> Self {
        Self::of(Scheme::Debian, source, architecture, suites, entries)
    }

    pub(crate) fn of(
        scheme: Scheme,
        source: &str,
        architecture: &str,
        suites: &[String],
        mut entries: Vec<IndexEntry>,
    ) -> Self {
        entries.retain(|e| e.architecture == architecture || matches!(&*e.architecture, "all" | "noarch"));
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::with_capacity(entries.len());
        for (at, entry) in entries.iter().enumerate() {
            by_name.entry(entry.name.clone()).or_default().push(at);
        }
        let mut doubles = Vec::new();
        for versions in by_name.values_mut().filter(|versions| versions.len() > 1) {
            versions.sort_by(|a, b| scheme.compare(&entries[*b].version, &entries[*a].version));
            versions.dedup_by(|later, first| {
                let is_double = entries[*later].version == entries[*first].version;
                if is_double {
                    doubles.push(*later);
                    entries[*first].security |=
                        entries[*later].security && entries[*later].has_file_of(&entries[*first]);
                }
                is_double
            });
        }
        Self {
            source: source.to_owned(),
            scheme,
            architecture: architecture.to_owned(),
            suites: suites.to_vec(),
            dates: BTreeMap::new(),
            entries,
            by_name,
            doubles,
            recalled: Vec::new(),
            providers: OnceLock::new(),
        }
    }

    /// By whose rules its versions are compared.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Every version of `name`, newest first.
    pub fn versions(&self, name: &str) -> impl Iterator<Item = &IndexEntry> {
        self.positions(name).iter().map(|at| &self.entries[*at])
    }

    /// The newest version of `name`, as it would be locked.
    pub fn newest(&self, name: &str) -> Option<LockedPackage> {
        self.positions(name).first().map(|at| self.lock(*at))
    }

    /// Whether some suite has exactly this file.
    pub fn serves(&self, package: &LockedPackage) -> bool {
        self.same_file(package).next().is_some()
    }

    /// Whether a locked line is as it would be written now: its suite has the file at its path.
    pub fn is_current(&self, package: &LockedPackage) -> bool {
        self.same_file(package).any(|entry| entry.suite == package.suite && entry.path == package.path)
    }

    fn same_file(&self, package: &LockedPackage) -> impl Iterator<Item = &IndexEntry> {
        let doubles = self.doubles.iter().filter(|at| self.entries[**at].name == package.name);
        let entries = self.positions(&package.name).iter().chain(doubles).map(|at| &self.entries[*at]);
        entries.filter(|entry| entry.version == package.version && entry.is_file(package))
    }

    /// Reads what `locked` packages that no suite has any more say about themselves, where their files are in the
    /// cache: nobody else knows what they depend on.
    pub fn recall(&mut self, locked: &[LockedPackage], cache: &Cache) {
        let is_gone = |p: &&LockedPackage| self.versions(&p.name).all(|entry| entry.version != p.version);
        let gone = locked.iter().filter(|package| package.source == self.source).filter(is_gone);
        let read = |package: &LockedPackage| {
            if self.scheme == Scheme::Alpine {
                return apk::recall(package, cache);
            }
            let deb = Deb::read(package, cache, Depth::Control).ok()?;
            let mut entry = IndexEntry::default();
            paragraphs(&deb.control).next()?.fields().try_for_each(|field| entry.set(field))?;
            Some(entry)
        };
        self.recalled = gone.filter_map(read).collect();
    }

    /// Takes in what an image's database says of packages that no suite has.
    pub fn recall_database(&mut self, database: &str) {
        let read = |paragraph: Paragraph<'_>| {
            let mut entry = IndexEntry::default();
            paragraph.fields().try_for_each(|field| entry.set(field))?;
            Some(entry)
        };
        let known = |entry: &IndexEntry| self.versions(&entry.name).any(|e| e.version == entry.version);
        let read: Box<dyn Iterator<Item = IndexEntry>> = match self.scheme {
            Scheme::Debian => Box::new(paragraphs(database).filter_map(read)),
            Scheme::Alpine => Box::new(apk::entries(database)),
        };
        let entries: Vec<IndexEntry> = read.filter(|entry| !known(entry)).collect();
        self.recalled.extend(entries);
    }

    /// What a locked package says about itself: an entry of a suite, or one that was recalled.
    pub(crate) fn entry_of(&self, package: &LockedPackage) -> Option<&IndexEntry> {
        let recalled = self.recalled.iter().filter(|entry| entry.name == package.name);
        self.versions(&package.name).chain(recalled).find(|entry| entry.version == package.version)
    }

    /// By suite, the date of its signed index in UTC (`20261126T210000Z`), where it has one.
    pub fn dates(&self) -> &BTreeMap<String, String> {
        &self.dates
    }

    pub(crate) fn dated(self, dates: BTreeMap<String, String>) -> Self {
        Self { dates, ..self }
    }

    /// The names of all packages.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Positions in `entries` of every version of `name`, newest first.
    pub(crate) fn positions(&self, name: &str) -> &[usize] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn providers(&self) -> &Providers {
        self.providers.get_or_init(|| {
            let mut providers = Providers::new();
            for (at, entry) in self.entries.iter().enumerate() {
                for provided in self.scheme.relations(&entry.provides).into_iter().flatten() {
                    let version = provided.bound.map(|bound| bound.version);
                    providers.entry(provided.name).or_default().push((at, version));
                }
            }
            providers
        })
    }

    pub(crate) fn lock(&self, at: usize) -> LockedPackage {
        let entry = &self.entries[at];
        LockedPackage {
            source: self.source.clone(),
            name: entry.name.clone(),
            version: entry.version.clone(),
            architecture: entry.architecture.clone(),
            suite: entry.suite.clone(),
            path: entry.path.clone(),
            size: entry.size,
            sha256: entry.sha256.clone(),
            checksum: entry.checksum.clone(),
            security: entry.security,
            indexed: self.dates.get(&entry.suite).cloned(),
        }
    }
}

/// Fetches the index of a repository: signatures are verified before hashes, hashes before anything is unpacked, and an
/// index that is older than the one that was seen before is refused.
///
/// # Errors
/// Any of [`Error`]'s about keyrings, servers, signatures and metadata.
pub fn fetch_index(
    repository: &Repository,
    seen: &Seen,
    cache: &Cache,
    network: &Network,
    progress: &dyn Progress,
) -> Result<Index, Error> {
    if repository.scheme == Scheme::Alpine {
        return apk::fetch(repository, seen, network, progress);
    }
    let meter = Meter::new(progress, "package indexes", 0);
    let agent = Client::of(network, [repository]);
    let suites: Vec<Result<Suite, Error>> = std::thread::scope(|scope| {
        let threads: Vec<_> = repository
            .suites
            .iter()
            .map(|suite| scope.spawn(|| fetch_suite(&agent, repository, suite, seen, cache, &meter)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let names: Vec<String> = repository.suites.iter().map(|suite| suite.name.clone()).collect();
    let (mut entries, mut dates) = (Vec::new(), BTreeMap::new());
    for (name, suite) in names.iter().zip(suites) {
        let suite = suite?;
        entries.extend(suite.entries);
        dates.extend(suite.date.map(|date| (name.clone(), date)));
    }
    meter.finish();
    let index = Index::new(&repository.source, &repository.architecture, &names, entries);
    Ok(index.dated(dates))
}

/// What one suite has.
struct Suite {
    entries: Vec<IndexEntry>,
    /// When its `Release` file was made.
    date: Option<String>,
}

fn fetch_suite(
    agent: &Client<'_>,
    repository: &Repository,
    suite: &RepositorySuite,
    seen: &Seen,
    cache: &Cache,
    meter: &Meter<'_>,
) -> Result<Suite, Error> {
    let folder = format!("{}/dists/{}", suite.uri, suite.name);
    let url = format!("{folder}/InRelease");
    let keyring =
        |reason: String| Error::Keyring { suite: suite.name.clone(), path: suite.keyring.clone(), reason };
    let keys = file::read(&suite.keyring, file::MAX_KEYS).map_err(|e| keyring(e.to_string()))?;
    let keys = signature::read_keyring(&keys).map_err(keyring)?;
    let signed = agent.get(&url, INRELEASE_LIMIT)?.ok_or_else(|| Error::Unreachable {
        url: url.clone(),
        reason: "the server has no such suite".to_owned(),
    })?;
    meter.expect(signed.len() as u64);
    meter.got(signed.len() as u64);
    meter.file();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let bad = |reason: String| Error::Signature { url: url.clone(), reason };
    let signed = String::from_utf8(signed).map_err(|_| bad("it is no text".to_owned()))?;
    let release = Release::parse(&signature::verify(&signed, &keys, now).map_err(bad)?);
    release.check(&url, &suite.name, now.cast_signed())?;
    seen.check(&url, &suite.name, release.date().as_deref(), now.cast_signed())?;
    let mut entries = Vec::new();
    for component in &repository.components {
        for file in release.packages(&url, component, &repository.architecture)? {
            entries.extend(read_index(agent, &folder, &file, suite, cache, meter)?);
        }
    }
    let security = is_security_suite(&suite.name) || release.is_security();
    entries.iter_mut().for_each(|entry| entry.security = security);
    Ok(Suite { entries, date: release.date() })
}

/// The entries of one `Packages` file: from the cache when they are there.
fn read_index(
    agent: &Client<'_>,
    folder: &str,
    file: &IndexFile,
    suite: &RepositorySuite,
    cache: &Cache,
    meter: &Meter<'_>,
) -> Result<Vec<IndexEntry>, Error> {
    let key = blake3::hash(format!("{FORMAT} {} {}", suite.name, file.sha256).as_bytes()).to_hex();
    let kept = cache.index(&key);
    if let Some(entries) = cache.read_sealed(&kept).and_then(|bytes| postcard::from_bytes(&bytes).ok()) {
        return Ok(entries);
    }
    meter.expect(file.size);
    let bytes = fetch_verified(agent, folder, file)?;
    meter.got(file.size);
    meter.file();
    let url = format!("{folder}/{}", http::encode(&file.path));
    let broken = |reason: String| Error::Metadata { url: url.clone(), reason };
    let text = unpack(&file.path, &bytes).map_err(|e| broken(format!("it cannot be unpacked: {e}")))?;
    let text = String::from_utf8(text).map_err(|_| broken("it is not UTF-8".to_owned()))?;
    let entries: Vec<IndexEntry> = paragraphs(&text).filter_map(|p| entry(p, &suite.name)).collect();
    let bytes = postcard::to_stdvec(&entries).map_err(|e| broken(e.to_string()))?;
    cache.keep_sealed(&kept, &bytes)?;
    Ok(entries)
}

/// By its hash where the repository has that (a mirror may be in the middle of an update), else by its name.
fn fetch_verified(agent: &Client<'_>, folder: &str, file: &IndexFile) -> Result<Vec<u8>, Error> {
    let by_name = format!("{folder}/{}", http::encode(&file.path));
    let parent = by_name.rsplit_once('/').map_or("", |(parent, _)| parent);
    let by_hash = format!("{parent}/by-hash/SHA256/{}", file.sha256);
    let mut failure =
        Error::Unreachable { url: by_name.clone(), reason: "the server does not have it".to_owned() };
    for url in [&by_hash, &by_name].into_iter().skip(usize::from(!file.by_hash)) {
        let Some(bytes) = agent.get_start(url, file.size + 1)? else { continue };
        let found = sha256(&bytes);
        if found == file.sha256 && bytes.len() as u64 == file.size {
            return Ok(bytes);
        }
        failure = if found == file.sha256 {
            Error::Size { what: url.clone(), expected: file.size }
        } else {
            Error::Hash { what: url.clone(), expected: file.sha256.clone(), found }
        };
    }
    Err(failure)
}

fn unpack(path: &str, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    match path.rsplit('.').next() {
        Some("xz") => {
            liblzma::read::XzDecoder::new_multi_decoder(bytes).take(UNPACKED_LIMIT).read_to_end(&mut text)?
        }
        Some("gz") => flate2::read::MultiGzDecoder::new(bytes).take(UNPACKED_LIMIT).read_to_end(&mut text)?,
        _ => {
            text.extend_from_slice(bytes);
            bytes.len()
        }
    };
    Ok(text)
}

/// `None` for an entry that could not be fetched or whose names are no file names.
fn entry(paragraph: Paragraph<'_>, suite: &str) -> Option<IndexEntry> {
    let mut entry = IndexEntry { suite: suite.to_owned(), ..IndexEntry::default() };
    paragraph.fields().try_for_each(|field| entry.set(field))?;
    is_sane(&entry).then_some(entry)
}

impl IndexEntry {
    fn has_file_of(&self, other: &Self) -> bool {
        self.checksum == other.checksum && self.sha256 == other.sha256
    }

    /// Whether a locked package is the very file that this describes.
    fn is_file(&self, package: &LockedPackage) -> bool {
        match self.checksum.as_str() {
            "" => self.sha256 == package.sha256,
            checksum => checksum == package.checksum,
        }
    }

    /// Takes in one field; `None` for a size that is no number.
    fn set(&mut self, (field, value): (&str, &str)) -> Option<()> {
        let text = || value.to_owned();
        match field {
            "Package" => self.name = text(),
            "Version" => self.version = text(),
            "Architecture" => self.architecture = text(),
            "Filename" => value.trim_start_matches("./").clone_into(&mut self.path),
            "Size" => self.size = value.parse().ok()?,
            "SHA256" => self.sha256 = value.to_ascii_lowercase(),
            "Priority" => self.priority = text(),
            "Essential" => self.essential = value == "yes",
            "Pre-Depends" => self.pre_depends = text(),
            "Depends" => self.depends = text(),
            "Provides" => self.provides = text(),
            "Conflicts" => self.conflicts = text(),
            "Breaks" => self.breaks = text(),
            _ => {}
        }
        Some(())
    }
}

/// These become file names and addresses later.
fn is_sane(entry: &IndexEntry) -> bool {
    let name = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    };
    let version = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.' | b'~' | b':'))
    };
    name(&entry.name)
        && version(&entry.version)
        && name(&entry.architecture)
        && entry.sha256.len() == 64
        && entry.sha256.bytes().all(|b| b.is_ascii_hexdigit())
        && !entry.path.is_empty()
        && entry.path.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && entry.path.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn entries_whose_names_would_leave_their_folder_are_not_taken() {
        let text = |name: &str, path: &str| {
            format!(
                "Package: {name}\nVersion: 1:2-3\nArchitecture: all\nFilename: {path}\nSize: 4\nSHA256: {HASH}\n"
            )
        };
        let read = |text: &str| paragraphs(text).next().and_then(|p| entry(p, "s"));
        assert!(read(&text("g++-12", "pool/main/g/g++.deb")).is_some());
        for (name, path) in [("../x", "pool/x"), ("x", "../x"), ("x", "/x"), ("x", "a/../../x"), ("", "x")] {
            assert_eq!(read(&text(name, path)), None, "{name} {path}");
        }
    }

    #[test]
    fn the_newest_version_of_all_suites_comes_first() {
        let entry = |version: &str, suite: &str, architecture: &str| IndexEntry {
            name: "a".into(),
            version: version.into(),
            suite: suite.into(),
            architecture: architecture.into(),
            ..IndexEntry::default()
        };
        let entries = vec![
            entry("1.9", "main", "amd64"),
            entry("1.10", "security", "amd64"),
            entry("1.9", "updates", "amd64"),
            entry("3", "main", "arm64"),
        ];
        let index = Index::new("debian", "amd64", &[], entries);
        let found: Vec<_> = index.versions("a").map(|e| (e.version.as_str(), e.suite.as_str())).collect();
        assert_eq!(found, [("1.10", "security"), ("1.9", "main")]);
    }
}
