//! Package files: a signature, the control segment and the data, each a gzip member of its own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use imgforge_core::lock::LockedPackage;
use rayon::prelude::*;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::index::depends;
use super::{files, member};
use crate::cache::{self, Cache, sha256};
use crate::error::Error;
use crate::http::{Client, Network};
use crate::index::IndexEntry;
use crate::machine::Repository;
use crate::progress::{Meter, Progress};

/// What a package says about itself.
struct Control {
    /// `.PKGINFO`.
    info: String,
    /// The SHA-256 of the data segment, as the control segment has it.
    data: String,
}

/// Fetches those of `packages` whose SHA-256 is not known yet, checks them against the index's checksum, and notes
/// their SHA-256. They are in the cache then.
///
/// # Errors
/// [`Error::Vanished`], [`Error::Package`] for a file that is not the one of the index, [`Error::Unreachable`].
pub fn complete<'p>(
    packages: impl IntoIterator<Item = &'p mut LockedPackage>,
    repository: &Repository,
    cache: &Cache,
    network: &Network,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let unknown: Vec<&mut LockedPackage> = packages.into_iter().filter(|p| p.sha256.is_empty()).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let meter = Meter::new(progress, "packages", unknown.iter().map(|package| package.size).sum());
    let agent = Client::of(network, [repository]);
    let fetched: Vec<Result<(), Error>> = unknown
        .into_par_iter()
        .map(|package| {
            let bytes = fetch(&agent, package, repository)?;
            meter.got(bytes.len() as u64);
            meter.file();
            package.sha256 = sha256(&bytes);
            let path = cache.file(&package.sha256);
            cache::replace(&path, |out| std::io::Write::write_all(out, &bytes).map_err(Error::io(&path)))
        })
        .collect();
    meter.finish();
    fetched.into_iter().collect()
}

fn fetch(agent: &Client<'_>, package: &LockedPackage, repository: &Repository) -> Result<Vec<u8>, Error> {
    let of_suite = repository.suites.iter().filter(|suite| suite.name == package.suite);
    let others = repository.suites.iter().filter(|suite| suite.name != package.suite);
    for suite in of_suite.chain(others) {
        let url = format!("{}/{}", suite.uri, package.path);
        let Some(bytes) = agent.get_start(&url, package.size + 1)? else { continue };
        return match check(&bytes, package) {
            Ok(()) => Ok(bytes),
            Err(reason) => {
                Err(Error::Package { package: package.entry(), reason: format!("{url}: {reason}") })
            }
        };
    }
    Err(Error::Vanished { packages: vec![package.clone()], archive: None })
}

/// Whether a file is the one that the index means.
fn check(bytes: &[u8], package: &LockedPackage) -> Result<(), String> {
    if bytes.len() as u64 != package.size {
        return Err(format!("it has another size than the index says ({} bytes)", package.size));
    }
    let (control, raw, data) = control(bytes)?;
    let found = match package.checksum.get(..2) {
        Some("Q1") => format!("Q1{}", STANDARD.encode(Sha1::digest(raw))),
        Some("Q2") => format!("Q2{}", STANDARD.encode(Sha256::digest(raw))),
        _ => {
            return Err(format!(
                "the index has a checksum of a kind that is not known: {}",
                package.checksum
            ));
        }
    };
    if found != package.checksum {
        return Err(format!("its checksum is {found}, but the index says {}", package.checksum));
    }
    if sha256(data) != control.data {
        return Err("its data is not what its control segment says".to_owned());
    }
    Ok(())
}

/// The control segment, its bytes as they are in the file, and the bytes of the data.
fn control(bytes: &[u8]) -> Result<(Control, &[u8], &[u8]), String> {
    let broken = |error: std::io::Error| format!("it is no package of apk's format 2: {error}");
    let (mut content, mut raw, mut rest) = member(bytes).map_err(broken)?;
    let mut segment = files(&content).map_err(broken)?;
    if segment.iter().all(|(name, _)| name.starts_with(".SIGN.")) {
        (content, raw, rest) = member(rest).map_err(broken)?;
        segment = files(&content).map_err(broken)?;
    }
    let info = segment.into_iter().find(|(name, _)| name == ".PKGINFO").map(|(_, text)| text);
    let info = info.ok_or_else(|| "it has no .PKGINFO".to_owned())?;
    let info = String::from_utf8(info).map_err(|_| "its .PKGINFO is not UTF-8".to_owned())?;
    let data = fields(&info).find(|(name, _)| *name == "datahash").map(|(_, hash)| hash.to_owned());
    let data = data.ok_or_else(|| "its .PKGINFO has no hash of the data".to_owned())?;
    Ok((Control { info, data }, raw, rest))
}

/// `name = value`, comments left out.
fn fields(info: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = info.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.trim(), value.trim()))
}

/// What a package in the cache says about itself.
pub(crate) fn recall(package: &LockedPackage, cache: &Cache) -> Option<IndexEntry> {
    let bytes = std::fs::read(cache.file(&package.sha256)).ok()?;
    let (control, ..) = control(&bytes).ok()?;
    let of = |name: &str| {
        let values = fields(&control.info).filter(|(field, _)| *field == name);
        values.map(|(_, value)| value).collect::<Vec<_>>().join(" ")
    };
    let (needs, conflicts) = depends(&of("depend"));
    Some(IndexEntry {
        name: package.name.clone(),
        version: package.version.clone(),
        architecture: package.architecture.clone(),
        size: package.size,
        sha256: package.sha256.clone(),
        checksum: package.checksum.clone(),
        depends: needs,
        conflicts,
        provides: of("provides"),
        install_if: of("install_if"),
        priority: of("provider_priority"),
        ..IndexEntry::default()
    })
}
