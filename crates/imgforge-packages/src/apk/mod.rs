//! Alpine's packages: indexes (`APKINDEX.tar.gz`), their signatures, package files, versions and relations. The
//! formats are those of apk-tools 2 (apk-package(5), apk-repositories(5)), which Alpine's repositories serve.
//!
//! An index names a package file by the SHA-1 of its control segment (`C:`), which names the rest by its SHA-256
//! (`datahash`). A lock names it by the SHA-256 of the whole, so a file is fetched and checked when it is locked.

mod index;
mod package;
pub(crate) mod relation;
mod signature;
mod stage;
pub(crate) mod version;

pub(crate) use index::{entries, fetch};
pub use package::complete;
pub(crate) use package::recall;
pub(crate) use stage::INSTALL;
pub use stage::stage_packages;

use std::io::{self, Read};

/// The most that an unpacked control segment or index may have.
const UNPACKED_LIMIT: u64 = 256 << 20;

/// Unpacks the gzip member that `bytes` begins with: what is in it, its own bytes, and what follows.
fn member(bytes: &[u8]) -> io::Result<(Vec<u8>, &[u8], &[u8])> {
    let mut rest = bytes;
    let mut content = Vec::new();
    flate2::bufread::GzDecoder::new(&mut rest).take(UNPACKED_LIMIT).read_to_end(&mut content)?;
    let length = bytes.len() - rest.len();
    Ok((content, &bytes[..length], rest))
}

/// The files of a tar that may lack its end: the segments of a package are one tar together.
fn files(tar: &[u8]) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        files.push((name, content));
    }
    Ok(files)
}
