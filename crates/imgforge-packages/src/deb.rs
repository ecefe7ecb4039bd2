//! Reads `.deb` files (deb(5)): the control files and the data, decompressed.

use std::fs::File;
use std::io::{BufReader, Read};

use imgforge_core::lock::LockedPackage;

use crate::error::io;
use crate::{Cache, Error};

/// A package file taken apart.
pub(crate) struct Deb {
    /// Name, content and mode of the files in control.tar.
    pub(crate) control: Vec<(String, Vec<u8>, u32)>,
    /// data.tar; empty when only the control files were asked for.
    pub(crate) data: Vec<u8>,
}

impl Deb {
    /// Reads a package from the cache.
    pub(crate) fn open(package: &LockedPackage, cache: &Cache) -> Result<Self, Error> {
        Self::read(package, cache, true)
    }

    /// Reads only its control files.
    pub(crate) fn open_control(package: &LockedPackage, cache: &Cache) -> Result<Self, Error> {
        Self::read(package, cache, false)
    }

    fn read(package: &LockedPackage, cache: &Cache, with_data: bool) -> Result<Self, Error> {
        let path = cache.file(&package.sha256);
        let file = File::open(&path).map_err(io(&path))?;
        parse(BufReader::new(file), with_data).map_err(|message| Error::Package {
            package: format!("{} {}", package.name, package.version),
            message,
        })
    }

    /// The text of a control file.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        let (_, content, _) = self.control.iter().find(|(file, ..)| file == name)?;
        Some(String::from_utf8_lossy(content).into_owned())
    }
}

fn parse(file: impl Read, with_data: bool) -> Result<Deb, String> {
    let mut archive = ar::Archive::new(file);
    let mut deb = Deb { control: Vec::new(), data: Vec::new() };
    let mut found = false;
    while let Some(entry) = archive.next_entry() {
        let entry = entry.map_err(|error| error.to_string())?;
        let name = String::from_utf8_lossy(entry.header().identifier()).trim_end_matches('/').to_owned();
        if name.starts_with("control.tar") {
            found = true;
            deb.control = control_files(&unpacked(&name, entry)?).map_err(|error| error.to_string())?;
            if !with_data {
                break;
            }
        } else if name.starts_with("data.tar") {
            deb.data = unpacked(&name, entry)?;
        }
    }
    if found { Ok(deb) } else { Err("it has no control.tar".into()) }
}

fn control_files(tar: &[u8]) -> std::io::Result<Vec<(String, Vec<u8>, u32)>> {
    let mut files = Vec::new();
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() {
            let path = entry.path()?.into_owned();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let name = name.to_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            files.push((name, content, entry.header().mode()? & 0o777));
        }
    }
    Ok(files)
}

fn unpacked(name: &str, mut member: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = match name.rsplit('.').next() {
        Some("xz") => liblzma::read::XzDecoder::new_multi_decoder(member).read_to_end(&mut bytes),
        Some("gz") => flate2::read::MultiGzDecoder::new(member).read_to_end(&mut bytes),
        Some("zst") => zstd::Decoder::new(member).and_then(|mut decoder| decoder.read_to_end(&mut bytes)),
        Some("tar") => member.read_to_end(&mut bytes),
        _ => return Err(format!("{name} is compressed in a way that is not known here")),
    };
    read.map_err(|error| format!("{name}: {error}"))?;
    Ok(bytes)
}
