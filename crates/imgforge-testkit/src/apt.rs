//! A small real apt repository: keys, packages and signed metadata made by a test. [`http`](crate::http) serves it.

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, EncryptionCaps, KeyType, SecretKeyParamsBuilder, SignedPublicKey,
    SignedSecretKey,
};
use pgp::ser::Serialize;
use pgp::types::Password;
use sha2::{Digest, Sha256};

/// A key that can sign a repository.
pub struct Key(SignedSecretKey);

impl Key {
    /// A new one.
    ///
    /// # Errors
    /// None that a test could do something about.
    pub fn generate() -> Result<Self> {
        let mut parameters = SecretKeyParamsBuilder::default();
        parameters
            .key_type(KeyType::Ed25519Legacy)
            .can_certify(true)
            .can_sign(true)
            .can_encrypt(EncryptionCaps::None)
            .primary_user_id("Test archive <test@example.org>".to_owned());
        Ok(Self(parameters.build()?.generate(rand::thread_rng())?))
    }

    /// Its public half, as a keyring file holds it.
    ///
    /// # Errors
    /// None that a test could do something about.
    pub fn keyring(&self) -> Result<Vec<u8>> {
        Ok(SignedPublicKey::from(self.0.clone()).to_bytes()?)
    }

    /// `text` as a clear-signed message.
    ///
    /// # Errors
    /// None that a test could do something about.
    pub fn sign(&self, text: &str) -> Result<String> {
        let signed =
            CleartextSignedMessage::sign(rand::thread_rng(), text, &self.0.primary_key, &Password::empty())?;
        Ok(signed.to_armored_string(ArmorOptions::default())?)
    }
}

/// A package to be made.
#[derive(Debug, Clone, Copy)]
pub struct Package<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// More control fields, such as `Depends`.
    pub fields: &'a [(&'a str, &'a str)],
    /// Its files: absolute path and content.
    pub files: &'a [(&'a str, &'a str)],
}

/// How `Packages` is compressed: a repository has it in one form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// `Packages.gz`
    Gz,
    /// `Packages.xz`
    Xz,
    /// `Packages`
    None,
}

/// A suite of a repository in a folder, with one component, `main`, for amd64.
pub struct Repository {
    root: Utf8PathBuf,
    suite: String,
    /// Name, path and paragraph of the index, in the order in which they were added.
    packages: Vec<(String, Utf8PathBuf, String)>,
    /// For the next [`publish`](Self::publish).
    pub compression: Compression,
}

impl Repository {
    /// An empty suite, `stable`, in `root`.
    pub fn new(root: impl Into<Utf8PathBuf>) -> Self {
        Self::of_suite(root, "stable")
    }

    /// An empty suite in `root`, which may have others.
    pub fn of_suite(root: impl Into<Utf8PathBuf>, suite: &str) -> Self {
        let (root, suite) = (root.into(), suite.to_owned());
        Self { root, suite, packages: Vec::new(), compression: Compression::Gz }
    }

    /// Makes a package (with `dpkg-deb`) and adds it to the pool and the index; its path below the root.
    ///
    /// # Errors
    /// When files cannot be written, or dpkg-deb fails.
    pub fn add(&mut self, package: &Package<'_>) -> Result<Utf8PathBuf> {
        self.add_with(package, &[])
    }

    /// The same, with maintainer scripts and other control files: name in `DEBIAN` and content. What begins with `#!`
    /// can be executed.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_with(&mut self, package: &Package<'_>, control: &[(&str, &str)]) -> Result<Utf8PathBuf> {
        let name = format!("{}_{}_all.deb", package.name, package.version);
        self.add_as(package, control, &name)
    }

    /// The same, under another name in the pool.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_as(
        &mut self,
        package: &Package<'_>,
        control: &[(&str, &str)],
        name: &str,
    ) -> Result<Utf8PathBuf> {
        let fields = fields_of(package)?;
        let path = Utf8Path::new("pool").join(name);
        build_deb(&fields, control, package.files, &self.root.join(&path))?;
        self.index(package.name, path.clone(), &fields)?;
        Ok(path)
    }

    /// Takes in a package file of someone else; `name` is its name in the pool.
    ///
    /// # Errors
    /// When it cannot be copied, or dpkg-deb cannot read it.
    pub fn add_file(&mut self, file: &Utf8Path, name: &str) -> Result<()> {
        let path = Utf8Path::new("pool").join(name);
        fs::create_dir_all(self.root.join("pool"))?;
        fs::copy(file, self.root.join(&path))?;
        let control = Command::new("dpkg-deb").args(["--field", file.as_str()]).output()?;
        ensure!(control.status.success(), "dpkg-deb: {}", String::from_utf8_lossy(&control.stderr));
        let control = String::from_utf8(control.stdout)?;
        let package = control.lines().find_map(|line| line.strip_prefix("Package: "));
        let package = package.context("a package has a name")?.to_owned();
        self.index(&package, path, &control)
    }

    /// Puts a newer package in the place of every version that is there: the old files are gone, as on a mirror after a
    /// security update.
    ///
    /// # Errors
    /// When files cannot be removed or written.
    pub fn supersede(&mut self, package: &Package<'_>) -> Result<Utf8PathBuf> {
        self.remove(package.name)?;
        self.add(package)
    }

    /// Removes every version of a package.
    ///
    /// # Errors
    /// When there is none, or a file cannot be removed.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        let (gone, stay) = std::mem::take(&mut self.packages).into_iter().partition(|(n, ..)| n == name);
        self.packages = stay;
        let gone: Vec<(String, Utf8PathBuf, String)> = gone;
        ensure!(!gone.is_empty(), "there is no package {name}");
        for (_, path, _) in gone {
            fs::remove_file(self.root.join(path))?;
        }
        Ok(())
    }

    fn index(&mut self, name: &str, path: Utf8PathBuf, control: &str) -> Result<()> {
        let bytes = fs::read(self.root.join(&path))?;
        let (size, hash) = (bytes.len(), sha256(&bytes));
        let control = control.trim_end();
        let paragraph = format!("{control}\nFilename: {path}\nSize: {size}\nSHA256: {hash}\n\n");
        self.packages.push((name.to_owned(), path, paragraph));
        Ok(())
    }

    /// Writes `Packages` and an `InRelease` signed by `key`, with more fields of `Release` before the hashes.
    ///
    /// # Errors
    /// When files cannot be written.
    pub fn publish(&self, key: &Key, fields: &[(&str, &str)]) -> Result<()> {
        let text: String = self.packages.iter().map(|(.., paragraph)| paragraph.as_str()).collect();
        let (name, bytes) = match self.compression {
            Compression::Gz => ("Packages.gz", gz(text.as_bytes())?),
            Compression::Xz => ("Packages.xz", xz(text.as_bytes())?),
            Compression::None => ("Packages", text.into_bytes()),
        };
        let hash = sha256(&bytes);
        let suite = self.root.join("dists").join(&self.suite);
        let folder = suite.join("main/binary-amd64");
        fs::create_dir_all(folder.join("by-hash/SHA256"))?;
        fs::write(folder.join(name), &bytes)?;
        fs::write(folder.join("by-hash/SHA256").join(&hash), &bytes)?;
        let mut release = format!(
            "Suite: {}\nCodename: test\nArchitectures: amd64\nComponents: main\nAcquire-By-Hash: yes\n",
            self.suite
        );
        for (field, value) in fields {
            writeln!(release, "{field}: {value}")?;
        }
        writeln!(release, "SHA256:\n {hash} {} main/binary-amd64/{name}", bytes.len())?;
        fs::write(suite.join("InRelease"), key.sign(&release)?)?;
        Ok(())
    }
}

/// SHA-256 in lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn gz(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(bytes, flate2::Compression::default()).read_to_end(&mut packed)?;
    Ok(packed)
}

fn xz(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut packed = Vec::new();
    liblzma::read::XzEncoder::new(bytes, 1).read_to_end(&mut packed)?;
    Ok(packed)
}

fn fields_of(package: &Package<'_>) -> Result<String> {
    let mut control = format!(
        "Package: {}\nVersion: {}\nArchitecture: all\nMaintainer: Test <test@example.org>\n",
        package.name, package.version
    );
    for (field, value) in package.fields {
        writeln!(control, "{field}: {value}")?;
    }
    control.push_str("Description: made by a test\n");
    Ok(control)
}

fn build_deb(
    fields: &str,
    control: &[(&str, &str)],
    files: &[(&str, &str)],
    output: &Utf8Path,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let root = Utf8Path::from_path(folder.path()).context("the temporary folder's name is no text")?;
    let write = |path: &str, content: &str| -> Result<()> {
        let path = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        fs::write(&path, content)?;
        let mode = if content.starts_with("#!") { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(())
    };
    write("DEBIAN/control", fields)?;
    for (name, content) in control {
        write(&format!("DEBIAN/{name}"), content)?;
    }
    for (path, content) in files {
        write(path, content)?;
    }
    fs::create_dir_all(output.parent().context("a package lies in a folder")?)?;
    let built =
        Command::new("dpkg-deb").args(["--build", "--root-owner-group"]).args([root, output]).output()?;
    ensure!(built.status.success(), "dpkg-deb: {}", String::from_utf8_lossy(&built.stderr));
    Ok(())
}
