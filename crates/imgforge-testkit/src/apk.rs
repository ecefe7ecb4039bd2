//! A small real repository of Alpine packages, made and signed by a test as abuild does it (apk's format 2).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::Command;

use anyhow::{Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest, Sha256};

/// The name of the key, which signatures give.
const KEY: &str = "test.rsa.pub";

/// A repository in a folder, for x86_64.
pub struct Repository {
    root: Utf8PathBuf,
    key: Utf8PathBuf,
    /// Paragraphs.
    index: Vec<String>,
}

impl Repository {
    /// An empty one, with a key of its own. The folder is made; `root/test.rsa.pub` is the key's public half.
    ///
    /// # Errors
    /// When there is no `openssl`.
    pub fn new(root: &Utf8Path) -> Result<Self> {
        fs::create_dir_all(root.join("x86_64"))?;
        let key = root.with_extension("key");
        openssl(&["genrsa", "-out", key.as_str(), "2048"])?;
        openssl(&["rsa", "-in", key.as_str(), "-pubout", "-out", root.join(KEY).as_str()])?;
        Ok(Self { root: root.to_owned(), key, index: Vec::new() })
    }

    /// Adds a package of these files (path without a slash at its start, content) that needs others.
    ///
    /// # Errors
    /// What the file system says.
    pub fn add(&mut self, name: &str, version: &str, needs: &[&str], files: &[(&str, &str)]) -> Result<()> {
        let needs = needs.join(" ");
        let fields: &[(&str, &str)] = if needs.is_empty() { &[] } else { &[("D", &needs)] };
        self.add_with(name, version, fields, files)
    }

    /// Adds a package with fields of the index: `D` (what it needs), `p` (provides), `i` (`install_if`), `k`
    /// (priority).
    ///
    /// # Errors
    /// What the file system says.
    pub fn add_with(
        &mut self,
        name: &str,
        version: &str,
        fields: &[(&str, &str)],
        files: &[(&str, &str)],
    ) -> Result<()> {
        let data = gzip(&tar(files)?)?;
        let mut info = format!(
            "pkgname = {name}\npkgver = {version}\npkgdesc = test\nurl = http://localhost\nsize = 1\narch = x86_64\n\
             license = MIT\norigin = {name}\n"
        );
        for (field, value) in fields {
            match *field {
                "k" => writeln!(info, "provider_priority = {value}")?,
                "i" => writeln!(info, "install_if = {value}")?,
                _ => {
                    let word = if *field == "D" { "depend" } else { "provides" };
                    value.split(' ').try_for_each(|one| writeln!(info, "{word} = {one}"))?;
                }
            }
        }
        writeln!(info, "datahash = {}", hex::encode(Sha256::digest(&data)))?;
        let control = gzip(open_end(&tar(&[(".PKGINFO", &info)])?))?;
        let checksum = openssl_with(&["dgst", "-sha1", "-binary"], &control)?;
        let checksum = String::from_utf8(openssl_with(&["base64", "-A"], &checksum)?)?;
        let package = [self.signature(&control)?, control, data].concat();
        let mut entry = format!(
            "C:Q1{checksum}\nP:{name}\nV:{version}\nA:x86_64\nS:{}\nI:1\nT:test\nU:http://localhost\nL:MIT\no:{name}\n",
            package.len()
        );
        for (field, value) in fields {
            writeln!(entry, "{field}:{value}")?;
        }
        self.index.push(entry);
        fs::write(self.file(name, version), package)?;
        Ok(())
    }

    /// Removes a package, as Alpine does when a newer version comes.
    ///
    /// # Errors
    /// When there is no such package.
    pub fn remove(&mut self, name: &str, version: &str) -> Result<()> {
        self.index.retain(|entry| !entry.contains(&format!("\nP:{name}\nV:{version}\n")));
        Ok(fs::remove_file(self.file(name, version))?)
    }

    /// Where the file of a package is.
    pub fn file(&self, name: &str, version: &str) -> Utf8PathBuf {
        self.root.join(format!("x86_64/{name}-{version}.apk"))
    }

    /// Writes and signs the index.
    ///
    /// # Errors
    /// What the file system says.
    pub fn publish(&self) -> Result<()> {
        let index = gzip(&tar(&[("DESCRIPTION", "test"), ("APKINDEX", &self.index.join("\n"))])?)?;
        let signed = [self.signature(&index)?, index].concat();
        Ok(fs::write(self.root.join("x86_64/APKINDEX.tar.gz"), signed)?)
    }

    /// The segment that stands before what it signs.
    fn signature(&self, signed: &[u8]) -> Result<Vec<u8>> {
        let signature = openssl_with(&["dgst", "-sha1", "-sign", self.key.as_str()], signed)?;
        gzip(open_end(&tar(&[(&format!(".SIGN.RSA.{KEY}"), signature)])?))
    }
}

fn tar<B: AsRef<[u8]>>(files: &[(&str, B)]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let folders: BTreeSet<&str> =
        files.iter().flat_map(|(path, _)| path.match_indices('/').map(|(at, _)| &path[..=at])).collect();
    for folder in folders {
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        header.set_mode(0o755);
        header.set_entry_type(tar::EntryType::Directory);
        tar.append_data(&mut header, folder, &[][..])?;
    }
    for (path, content) in files {
        if path.contains('/') {
            let hash = hex::encode(openssl_with(&["dgst", "-sha1", "-binary"], content.as_ref())?);
            // 68 bytes with its length; with a name, since for apk a header without one is the end.
            let record = format!("68 APK-TOOLS.checksum.SHA1={hash}\n");
            let mut header = tar::Header::new_ustar();
            header.set_size(record.len() as u64);
            header.set_mode(0o644);
            header.set_entry_type(tar::EntryType::XHeader);
            tar.append_data(&mut header, "PaxHeaders", record.as_bytes())?;
        }
        let mut header = tar::Header::new_ustar();
        header.set_size(content.as_ref().len() as u64);
        header.set_mode(0o644);
        // apk does not know the old sign of a file, which is no sign.
        header.set_entry_type(tar::EntryType::Regular);
        tar.append_data(&mut header, path, content.as_ref())?;
    }
    Ok(tar.into_inner()?)
}

/// Without the two blocks of zeros that end a tar: the segments of a package are one tar together.
fn open_end(tar: &[u8]) -> &[u8] {
    &tar[..tar.len() - 1024]
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

fn openssl(args: &[&str]) -> Result<()> {
    openssl_with(args, &[]).map(|_| ())
}

fn openssl_with(args: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), input)?;
    let ran = Command::new("openssl").args(args).stdin(fs::File::open(file.path())?).output()?;
    ensure!(ran.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(ran.stdout)
}
