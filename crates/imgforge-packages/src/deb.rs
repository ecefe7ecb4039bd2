//! A `.deb` file: an `ar` archive with two compressed `tar` archives in it (deb(5)).

use std::fs;
use std::io::{self, Read};

use imgforge_core::lock::LockedPackage;

use crate::cache::{Cache, sha256};
use crate::control::{Paragraph, paragraphs};
use crate::error::Error;

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
                deb.read_control(&decompress(&name, &mut member)?)?;
            } else if name.starts_with("data.tar") && depth == Depth::Data {
                deb.data = decompress(&name, &mut member)?;
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

    /// What the package's files in dpkg's `info` folder begin with. A package of `Multi-Arch: same` may be there for two
    /// architectures at once, so dpkg tells them apart.
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

fn decompress(name: &str, reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match name.rsplit('.').next() {
        Some("xz") => liblzma::read::XzDecoder::new_multi_decoder(reader).read_to_end(&mut bytes)?,
        Some("gz") => flate2::read::MultiGzDecoder::new(reader).read_to_end(&mut bytes)?,
        Some("zst") => zstd::Decoder::new(reader)?.read_to_end(&mut bytes)?,
        Some("tar") => reader.read_to_end(&mut bytes)?,
        _ => return Err(invalid(&format!("{name} is compressed in a way that is not known"))),
    };
    Ok(bytes)
}

pub(crate) fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
