//! Debian's `docker-registry` on loopback, with its data in a temporary folder.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use camino::Utf8PathBuf;
use tempfile::TempDir;

/// The user that a registry with a login knows.
pub const USER: &str = "tester";
/// That user's password.
pub const PASSWORD: &str = "secret";
/// The bcrypt hash of [`PASSWORD`], of few rounds, so that tests are quick.
const HTPASSWD: &str = "tester:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";
const START: Duration = Duration::from_secs(30);

/// How a registry is set up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setup {
    /// Only [`USER`] gets in, by Basic authentication.
    pub login: bool,
    /// Manifests can be deleted.
    pub delete: bool,
    /// It speaks TLS, with a certificate that is its own [CA](Registry::ca_file).
    pub tls: bool,
}

/// A registry that runs until it is dropped.
pub struct Registry {
    child: Child,
    address: String,
    folder: TempDir,
}

impl Registry {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When `docker-registry` is not installed, or does not begin to listen.
    pub fn start(setup: Setup) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("htpasswd"), HTPASSWD)?;
        let mut config = format!(
            "version: 0.1\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: {}}}\n\
             http:\n  addr: 127.0.0.1:0\n",
            path("data"),
            setup.delete
        );
        if setup.tls {
            make_certificate(&path("tls.key"), &path("tls.pem"))?;
            config += &format!("  tls: {{certificate: {}, key: {}}}\n", path("tls.pem"), path("tls.key"));
        }
        if setup.login {
            config += &format!("auth:\n  htpasswd: {{realm: test, path: {}}}\n", path("htpasswd"));
        }
        std::fs::write(path("config.yml"), config)?;
        let log = File::create(path("log"))?;
        let mut child = Command::new("docker-registry")
            .args(["serve", &path("config.yml")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start docker-registry: `apt-get install docker-registry`")?;
        match wait_for_address(&mut child, &path("log")) {
            Ok(address) => Ok(Self { child, address, folder }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> &str {
        &self.address
    }

    /// What it has written to its log so far.
    ///
    /// # Panics
    /// When the log is gone.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).expect("a log")
    }

    /// The certificate to trust, in PEM.
    ///
    /// # Panics
    /// When the temporary folder is not UTF-8.
    pub fn ca_file(&self) -> Utf8PathBuf {
        self.folder.path().join("tls.pem").try_into().expect("a path in UTF-8")
    }

    /// The file of a blob in its storage, to spoil it.
    pub fn blob_file(&self, hex: &str) -> std::path::PathBuf {
        let blobs = self.folder.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn make_certificate(key: &str, certificate: &str) -> Result<()> {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"])
        .args(["-keyout", key, "-out", certificate])
        .output()
        .context("cannot start openssl: `apt-get install openssl`")?;
    ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The log says which port it was given.
fn wait_for_address(child: &mut Child, log: &str) -> Result<String> {
    let start = Instant::now();
    loop {
        let text = std::fs::read_to_string(log)?;
        if let Some((_, rest)) = text.split_once("listening on ") {
            let end = rest.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | ':'));
            if let Some(end) = end {
                return Ok(rest[..end].to_owned());
            }
        }
        if let Some(status) = child.try_wait()? {
            bail!("docker-registry has ended with {status}: {text}");
        }
        if start.elapsed() > START {
            bail!("docker-registry does not listen: {text}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
