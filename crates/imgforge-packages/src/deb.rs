//! A `.deb` file: an `ar` archive with two compressed `tar` archives in it (deb(5)).

use std::fs;
use std::io::{self, Read};

use imgforge_core::lock::LockedPackage;

use crate::cache::{Cache, sha256};
use crate::control::{Paragraph, paragraphs};
use crate::error::Error;

/// The most that the control archive of a package may unpack to: Debian's largest has 6 MB.
const CONTROL: u64 = 64 << 20;
/// What the files of any package may unpack to, however small it is.
const DATA_FLOOR: u64 = 256 << 20;
/// And how many times its own size: packages of Debian stay below 60 times, a file of zeros comes to 7,000.
const DATA_RATIO: u64 = 100;
/// No package may unpack to more, since it lies in memory then.
const DATA_CEILING: u64 = 8 << 30;

/// One package file, in memory and unpacked.
#[derive(Debug)]
pub(crate) struct Deb {
    /// The text of `control`.
    pub(crate) control: String,
    /// The other files beside it: maintainer scripts, `conffiles`, `triggers`...
    pub(crate) info: Vec<InfoFile>,
    /// The tar archive with the package's files; empty unless asked for.
    pub(crate) data: Vec<u8>,
}

/// A file of the control archive.
#[derive(Debug)]
pub(crate) struct InfoFile {
    pub(crate) name: String,
    pub(crate) mode: u32,
    pub(crate) bytes: Vec<u8>,
}

/// What to unpack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    Control,
    Data,
}

impl Deb {
    /// Reads a package of the cache; its hash is checked again, since what is unpacked becomes an image.
    pub(crate) fn read(package: &LockedPackage, cache: &Cache, depth: Depth) -> Result<Self, Error> {
        let path = cache.file(&package.sha256);
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        let found = sha256(&bytes);
        if found != package.sha256 {
            return Err(Error::Hash { what: path.into_string(), expected: package.sha256.clone(), found });
        }
        let deb = Self::parse(&bytes, depth).map_err(|e| Error::package(package, e))?;
        let (name, version) = (deb.field("Package"), deb.field("Version"));
        if name != Some(&package.name) || version != Some(&package.version) {
            let found = format!("its file is {} {}", name.unwrap_or("?"), version.unwrap_or("?"));
            return Err(Error::package(package, found));
        }
        Ok(deb)
    }

    fn parse(bytes: &[u8], depth: Depth) -> io::Result<Self> {
        let mut archive = ar::Archive::new(bytes);
        let mut deb = Self { control: String::new(), info: Vec::new(), data: Vec::new() };
        while let Some(member) = archive.next_entry() {
            let mut member = member?;
            let name = String::from_utf8_lossy(member.header().identifier()).trim_end_matches('/').to_owned();
            if name.starts_with("control.tar") {
                deb.read_control(&decompress(&name, &mut member, CONTROL)?)?;
            } else if name.starts_with("data.tar") && depth == Depth::Data {
                deb.data = decompress(&name, &mut member, data_limit(bytes.len() as u64))?;
            }
        }
        if deb.control.is_empty() { Err(invalid("it has no control file")) } else { Ok(deb) }
    }

    fn read_control(&mut self, archive: &[u8]) -> io::Result<()> {
        for file in tar::Archive::new(archive).entries()? {
            let mut file = file?;
            if !file.header().entry_type().is_file() {
                continue;
            }
            let path = file.path()?.into_owned();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .ok_or_else(|| invalid("a name is no text"))?;
            let (name, mode) = (name.to_owned(), file.header().mode()? & 0o777);
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            if name == "control" {
                self.control =
                    String::from_utf8(bytes).map_err(|_| invalid("its control file is not UTF-8"))?;
            } else {
                self.info.push(InfoFile { name, mode, bytes });
            }
        }
        self.info.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(())
    }

    fn paragraph(&self) -> Option<Paragraph<'_>> {
        paragraphs(&self.control).next()
    }

    /// A field of `control`.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.paragraph().and_then(|paragraph| paragraph.get(name))
    }

    /// What the package's files in dpkg's `info` folder begin with. A package of `Multi-Arch: same` may be there for
    /// two architectures at once, so dpkg tells them apart.
    pub(crate) fn info_prefix(&self) -> String {
        let name = self.field("Package").unwrap_or("");
        match self.field("Multi-Arch") {
            Some("same") => format!("{name}:{}", self.field("Architecture").unwrap_or("")),
            _ => name.to_owned(),
        }
    }

    /// The text of another control file.
    pub(crate) fn info(&self, name: &str) -> Option<String> {
        self.info
            .iter()
            .find(|file| file.name == name)
            .map(|f| String::from_utf8_lossy(&f.bytes).into_owned())
    }
}

/// What the files of a package may unpack to that has so many bytes.
fn data_limit(size: u64) -> u64 {
    size.saturating_mul(DATA_RATIO).clamp(DATA_FLOOR, DATA_CEILING)
}

/// What an archive unpacks to, of at most `limit` bytes.
fn decompress(name: &str, reader: &mut impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let unpacked: Box<dyn Read + '_> = match name.rsplit('.').next() {
        Some("xz") => Box::new(liblzma::read::XzDecoder::new_multi_decoder(reader)),
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(reader)),
        Some("zst") => Box::new(zstd::Decoder::new(reader)?),
        Some("tar") => Box::new(reader),
        _ => return Err(invalid(&format!("{name} is compressed in a way that is not known"))),
    };
    let mut bytes = Vec::new();
    unpacked.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let limit = limit >> 20;
        return Err(invalid(&format!(
            "its {name} unpacks to more than {limit} MiB, the limit for a package of its size"
        )));
    }
    Ok(bytes)
}

pub(crate) fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deb(control: &[u8], data: &[u8]) -> Vec<u8> {
        let mut archive = ar::Builder::new(Vec::new());
        for (name, bytes) in
            [("debian-binary", &b"2.0\n"[..]), ("control.tar.xz", control), ("data.tar.xz", data)]
        {
            archive.append(&ar::Header::new(name.into(), bytes.len() as u64), bytes).unwrap();
        }
        archive.into_inner().unwrap()
    }

    /// A tar with one file, of so many zeros.
    fn zeros(name: &str, size: u64) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        let tar = (&header.as_bytes()[..]).chain(io::repeat(0).take(size.next_multiple_of(512) + 1024));
        let mut packed = Vec::new();
        liblzma::read::XzEncoder::new(tar, 0).read_to_end(&mut packed).unwrap();
        packed
    }

    #[test]
    fn a_package_that_unpacks_to_far_more_than_its_size_is_refused() {
        assert_eq!(data_limit(218 << 10), 256 << 20);
        assert_eq!(data_limit(100 << 20), 8 << 30);
        let bomb = zeros("./zeros", 8 << 20);
        assert!(bomb.len() < 8 << 10, "{}", bomb.len());
        let refused = decompress("data.tar.xz", &mut &bomb[..], 2 << 20).unwrap_err();
        assert!(refused.to_string().contains("data.tar.xz unpacks to more than 2 MiB"), "{refused}");
        let refused = Deb::parse(&deb(&zeros("./control", CONTROL), b""), Depth::Control).unwrap_err();
        assert!(refused.to_string().contains("more than 64 MiB"), "{refused}");
        let control = zeros("./control", 10);
        let whole = Deb::parse(&deb(&control, &zeros("./zeros", 1 << 20)), Depth::Data).unwrap();
        assert_eq!(whole.data.len(), (1 << 20) + 1536);
    }
}
