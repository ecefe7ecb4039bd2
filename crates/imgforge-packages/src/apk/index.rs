//! `APKINDEX.tar.gz`: fetched, verified, read.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::{SystemTime, UNIX_EPOCH};

use camino::Utf8Path;
use flate2::read::MultiGzDecoder;
use rayon::prelude::*;

use super::{files, signature, version};
use crate::control::{Paragraph, paragraphs};
use crate::error::Error;
use crate::http::{Client, Network};
use crate::index::{Index, IndexEntry};
use crate::machine::{Repository, RepositorySuite};
use crate::progress::{Meter, Progress};
use crate::relation::Scheme;
use crate::release;
use crate::replay::Seen;

/// Alpine's largest index has some 3 MB.
const LIMIT: u64 = 64 << 20;

/// The entries of an index, and its date.
type Dated = (Vec<IndexEntry>, Option<String>);

/// Fetches the indexes of all repositories of a source.
///
/// # Errors
/// Servers, signatures and metadata.
pub(crate) fn fetch(
    repository: &Repository,
    seen: &Seen,
    network: &Network,
    progress: &dyn Progress,
) -> Result<Index, Error> {
    let meter = Meter::new(progress, "package indexes", 0);
    let agent = Client::of(network, [repository]);
    let fetched =
        repository.suites.par_iter().map(|suite| fetch_one(&agent, repository, suite, seen, &meter));
    let found: Vec<Result<Dated, Error>> = fetched.collect();
    let (mut all, mut dates) = (Vec::new(), BTreeMap::new());
    for (suite, found) in repository.suites.iter().zip(found) {
        let (entries, date) = found?;
        all.extend(entries);
        dates.extend(date.map(|date| (suite.name.clone(), date)));
    }
    meter.finish();
    let names: Vec<String> = repository.suites.iter().map(|suite| suite.name.clone()).collect();
    Ok(Index::of(Scheme::Alpine, &repository.source, &repository.architecture, &names, all).dated(dates))
}

fn fetch_one(
    agent: &Client<'_>,
    repository: &Repository,
    suite: &RepositorySuite,
    seen: &Seen,
    meter: &Meter<'_>,
) -> Result<Dated, Error> {
    let architecture = &repository.architecture;
    let url = format!("{}/{architecture}/APKINDEX.tar.gz", suite.uri);
    if !suite.keyring.is_dir() {
        let (suite, path) = (suite.name.clone(), suite.keyring.clone());
        return Err(Error::Keyring { suite, path, reason: "it is no folder of public keys".to_owned() });
    }
    let bytes = agent.get(&url, LIMIT)?.ok_or_else(|| Error::Unreachable {
        url: url.clone(),
        reason: format!("the server has no index for {architecture}"),
    })?;
    meter.expect(bytes.len() as u64);
    meter.got(bytes.len() as u64);
    meter.file();
    let signed = verified(&bytes, &suite.keyring, &url)?;
    let broken = |reason: String| Error::Metadata { url: url.clone(), reason };
    let mut index = Vec::new();
    MultiGzDecoder::new(signed)
        .take(super::UNPACKED_LIMIT)
        .read_to_end(&mut index)
        .map_err(|error| broken(format!("it cannot be unpacked: {error}")))?;
    let date = made(&index);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    seen.check(&url, &suite.name, date.as_deref(), now.cast_signed())?;
    let files = files(&index).map_err(|error| broken(format!("it is no tar: {error}")))?;
    let text = files.into_iter().find(|(name, _)| name == "APKINDEX").map(|(_, text)| text);
    let text = text.ok_or_else(|| broken("there is no APKINDEX in it".to_owned()))?;
    let text = String::from_utf8(text).map_err(|_| broken("it is not UTF-8".to_owned()))?;
    let place = |mut entry: IndexEntry| {
        entry.suite.clone_from(&suite.name);
        entry.path = format!("{architecture}/{}-{}.apk", entry.name, entry.version);
        entry
    };
    let entries = entries(&text).filter(|entry| entry.size > 0 && !entry.checksum.is_empty());
    Ok((entries.map(place).collect(), date))
}

/// When an index was made, as its signed archive says: the time of the file `APKINDEX` in it, which apk-tools sets to
/// the time when it writes it.
fn made(archive: &[u8]) -> Option<String> {
    let mut archive = tar::Archive::new(archive);
    let mut entries = archive.entries().ok()?.map_while(Result::ok);
    let entry = entries.find(|entry| *entry.path_bytes() == *b"APKINDEX")?;
    let seconds = entry.header().mtime().ok().filter(|seconds| *seconds > 0)?;
    release::timestamp(seconds.cast_signed())
}

fn verified<'b>(bytes: &'b [u8], keys: &Utf8Path, url: &str) -> Result<&'b [u8], Error> {
    signature::signed(bytes, keys).map_err(|reason| Error::Signature { url: url.to_owned(), reason })
}

/// The packages of an index, or of `/lib/apk/db/installed`, which has the same fields; those whose names or versions
/// are none are left out.
pub(crate) fn entries(text: &str) -> impl Iterator<Item = IndexEntry> + '_ {
    paragraphs(text).filter_map(entry)
}

fn entry(paragraph: Paragraph<'_>) -> Option<IndexEntry> {
    let mut entry = IndexEntry::default();
    for (field, value) in paragraph.fields() {
        let text = || value.to_owned();
        match field {
            "C" => entry.checksum = text(),
            "P" => entry.name = text(),
            "V" => entry.version = text(),
            "A" => entry.architecture = text(),
            "S" => entry.size = value.parse().ok()?,
            "D" => (entry.depends, entry.conflicts) = depends(value),
            "p" => entry.provides = text(),
            "i" => entry.install_if = text(),
            "k" => entry.priority = text(),
            // The files of an installed package follow.
            "F" => break,
            _ => {}
        }
    }
    is_sane(&entry).then_some(entry)
}

/// What a package needs, and what may not be there beside it (`!name`).
pub(super) fn depends(value: &str) -> (String, String) {
    let (mut needs, mut conflicts) = (Vec::new(), Vec::new());
    for word in value.split_ascii_whitespace() {
        match word.strip_prefix('!') {
            Some(other) => conflicts.push(other),
            None => needs.push(word),
        }
    }
    (needs.join(" "), conflicts.join(" "))
}

/// These become file names, addresses and words of a command later.
fn is_sane(entry: &IndexEntry) -> bool {
    let name = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.' | b'_'))
    };
    name(&entry.name) && name(&entry.architecture) && version::is_version(&entry.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_as_old_as_its_archive_says() {
        let archive = |seconds: u64| {
            let mut tar = tar::Builder::new(Vec::new());
            for (name, time) in [("DESCRIPTION", 1), ("APKINDEX", seconds)] {
                let mut header = tar::Header::new_ustar();
                header.set_size(1);
                header.set_mtime(time);
                tar.append_data(&mut header, name, &b"x"[..]).unwrap();
            }
            made(&tar.into_inner().unwrap())
        };
        assert_eq!(archive(1_795_726_800).as_deref(), Some("20261126T210000Z"));
        assert_eq!(archive(0), None);
        assert_eq!(made(b"no archive"), None);
    }

    #[test]
    fn an_entry_says_what_it_needs_and_what_it_excludes() {
        let text = "C:Q1aaa=\nP:web\nV:1.2-r0\nA:x86_64\nS:10\nD:musl so:libz.so.1>=1 !old<2\np:cmd:web=1.2-r0\nk:10\n\n\
                    P:../x\nV:1-r0\nA:x86_64\n\nP:x\nV:none\nA:x86_64\n\nP:there\nV:1-r0\nA:noarch\nF:usr\nV:2\n";
        let found: Vec<IndexEntry> = entries(text).collect();
        assert_eq!(found.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["web", "there"]);
        assert_eq!(found[0].depends, "musl so:libz.so.1>=1");
        assert_eq!(found[0].conflicts, "old<2");
        assert_eq!(crate::apk::relation::parse(&found[0].provides)[0][0].name, "cmd:web");
        assert_eq!(found[1].version, "1-r0", "what comes after the files are files");
    }
}
