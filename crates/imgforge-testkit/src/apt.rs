//! A small real apt repository: keys, packages and signed metadata made by a test, served over HTTP on loopback by a
//! server that can also fail in the ways that servers do.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

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

/// A repository in a folder, with one suite, `stable`, and one component, `main`, for amd64.
pub struct Repository {
    root: Utf8PathBuf,
    packages: String,
}

impl Repository {
    /// An empty one in `root`.
    pub fn new(root: impl Into<Utf8PathBuf>) -> Self {
        Self { root: root.into(), packages: String::new() }
    }

    /// Makes a package (with `dpkg-deb`) and adds it to the pool and the index; its path below the root.
    ///
    /// # Errors
    /// When files cannot be written, or dpkg-deb fails.
    pub fn add(&mut self, package: &Package<'_>) -> Result<Utf8PathBuf> {
        let mut control = format!(
            "Package: {}\nVersion: {}\nArchitecture: all\nMaintainer: Test <test@example.org>\n",
            package.name, package.version
        );
        for (field, value) in package.fields {
            writeln!(control, "{field}: {value}")?;
        }
        control.push_str("Description: made by a test\n");
        let path = Utf8PathBuf::from(format!("pool/{}_{}_all.deb", package.name, package.version));
        build_deb(&control, package.files, &self.root.join(&path))?;
        let bytes = fs::read(self.root.join(&path))?;
        writeln!(
            self.packages,
            "{control}Filename: {path}\nSize: {}\nSHA256: {}\n",
            bytes.len(),
            hex::encode(Sha256::digest(&bytes))
        )?;
        Ok(path)
    }

    /// Writes `Packages.gz` and an `InRelease` signed by `key`, with more fields of `Release` before the hashes.
    ///
    /// # Errors
    /// When files cannot be written.
    pub fn publish(&self, key: &Key, fields: &[(&str, &str)]) -> Result<()> {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gz.write_all(self.packages.as_bytes())?;
        let gz = gz.finish()?;
        let hash = hex::encode(Sha256::digest(&gz));
        let suite = self.root.join("dists/stable");
        let folder = suite.join("main/binary-amd64");
        fs::create_dir_all(folder.join("by-hash/SHA256"))?;
        fs::write(folder.join("Packages.gz"), &gz)?;
        fs::write(folder.join("by-hash/SHA256").join(&hash), &gz)?;
        let mut release = "Suite: stable\nCodename: test\nArchitectures: amd64\nComponents: main\n\
                           Acquire-By-Hash: yes\n"
            .to_owned();
        for (field, value) in fields {
            writeln!(release, "{field}: {value}")?;
        }
        writeln!(release, "SHA256:\n {hash} {} main/binary-amd64/Packages.gz", gz.len())?;
        fs::write(suite.join("InRelease"), key.sign(&release)?)?;
        Ok(())
    }
}

fn build_deb(control: &str, files: &[(&str, &str)], output: &Utf8Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let root = Utf8Path::from_path(folder.path()).context("the temporary folder's name is no text")?;
    fs::create_dir(root.join("DEBIAN"))?;
    fs::write(root.join("DEBIAN/control"), control)?;
    for (path, content) in files {
        let path = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        fs::write(path, content)?;
    }
    fs::create_dir_all(output.parent().context("a package lies in a folder")?)?;
    let built =
        Command::new("dpkg-deb").args(["--build", "--root-owner-group"]).args([root, output]).output()?;
    ensure!(built.status.success(), "dpkg-deb: {}", String::from_utf8_lossy(&built.stderr));
    Ok(())
}

/// What a server does instead of answering as it should.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answers this status with an empty body.
    Status(u16),
    /// Says how long the body is, sends so many bytes of it, and closes the connection.
    Cut(usize),
    /// Sends these bytes, with status 200.
    Body(Vec<u8>),
    /// Sends the whole file with status 200 where a part was asked for.
    NoRange,
}

#[derive(Default)]
struct State {
    faults: Vec<(String, Fault, usize)>,
    requests: Vec<String>,
}

/// Serves a folder on loopback until it is dropped.
pub struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Begins to serve `root` on a free port.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(root: impl Into<Utf8PathBuf>) -> Result<Self> {
        let root = root.into();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let is_over = Arc::new(AtomicBool::new(false));
        let (shared, over) = (Arc::clone(&state), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let (root, shared) = (root.clone(), Arc::clone(&shared));
                // A client that goes away in the middle is no concern of the server.
                std::thread::spawn(move || answer(stream, &root, &shared).ok());
            }
        });
        Ok(Self { address, state, is_over, thread: Some(thread) })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests whose path ends with `path` meet this fault, so many times.
    pub fn fail(&self, path: &str, fault: Fault, times: usize) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).faults.push((
            path.to_owned(),
            fault,
            times,
        ));
    }

    /// What has been asked for: the path, and ` from N` when only the end of the file was wanted.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).requests.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // The listener wakes up and sees that it is over.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream, root: &Utf8Path, state: &Mutex<State>) -> Result<()> {
    let (path, offset) = read_request(&stream)?;
    let fault = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let from = if offset > 0 { format!(" from {offset}") } else { String::new() };
        state.requests.push(format!("{path}{from}"));
        let found =
            state.faults.iter_mut().find(|(end, _, times)| path.ends_with(end.as_str()) && *times > 0);
        found.map(|(_, fault, times)| {
            *times -= 1;
            fault.clone()
        })
    };
    let (status, body) = match (&fault, fs::read(root.join(path.trim_start_matches('/')))) {
        (Some(Fault::Status(status)), _) => (*status, Vec::new()),
        (Some(Fault::Body(bytes)), _) => (200, bytes.clone()),
        (_, Err(_)) => (404, Vec::new()),
        (Some(Fault::NoRange), Ok(bytes)) => (200, bytes),
        (_, Ok(bytes)) if offset > bytes.len() => (416, Vec::new()),
        (_, Ok(bytes)) if offset > 0 => (206, bytes[offset..].to_vec()),
        (_, Ok(bytes)) => (200, bytes),
    };
    write!(stream, "HTTP/1.1 {status} -\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    let end = match fault {
        Some(Fault::Cut(end)) => end.min(body.len()),
        _ => body.len(),
    };
    stream.write_all(&body[..end])?;
    Ok(())
}

/// The path, and from which byte on.
fn read_request(stream: &TcpStream) -> Result<(String, usize)> {
    let mut lines = BufReader::new(stream.take(1 << 16)).lines();
    let first = lines.next().context("no request")??;
    let path = first.split(' ').nth(1).context("no path")?.to_owned();
    let mut offset = 0;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            offset = range.trim_end_matches('-').parse()?;
        }
    }
    Ok((path, offset))
}
