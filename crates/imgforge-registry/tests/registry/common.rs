//! What the tests share: a registry, clients that do not wait long, images.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_oci::{Descriptor, Digest, MediaType};
use imgforge_registry::{Credentials, Options, PushImage, PushLayer, Registry, Retry};
use imgforge_testkit::registry::{self as real, Setup};

/// A registry that can delete and asks for no login.
pub(crate) fn start() -> real::Registry {
    real::Registry::start(Setup { delete: true, ..Setup::default() }).unwrap()
}

pub(crate) fn options(host: &str) -> Options {
    Options { retry: quick(), ..Options::new(host, Credentials::anonymous()) }
}

/// Few and short waits.
pub(crate) fn quick() -> Retry {
    Retry {
        tries: 4,
        delay: Duration::from_millis(5),
        max_delay: Duration::from_millis(20),
        max_retry_after: Duration::from_secs(5),
        connect: Duration::from_secs(5),
        idle: Duration::from_secs(20),
    }
}

pub(crate) fn client(host: &str) -> Registry {
    Registry::new(options(host)).unwrap()
}

/// A folder for layers.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.0.path()).unwrap()
    }

    /// A layer of so many bytes, which no other layer has.
    pub(crate) fn layer(&self, size: usize) -> PushLayer {
        self.layer_of(&noise(size))
    }

    pub(crate) fn layer_of(&self, bytes: &[u8]) -> PushLayer {
        let digest = Digest::sha256(bytes);
        let file: Utf8PathBuf = self.path().join(digest.hex());
        std::fs::write(&file, bytes).unwrap();
        let descriptor = Descriptor::new(MediaType::ImageLayerGzip, digest, bytes.len() as u64);
        PushLayer { descriptor, file: Some(file), mount_from: Vec::new() }
    }
}

/// Bytes that are always others.
pub(crate) fn noise(size: usize) -> Vec<u8> {
    (0..size).map(|_| fastrand::u8(..)).collect()
}

pub(crate) fn image(layers: &[PushLayer]) -> PushImage {
    let config = format!("{{\"architecture\":\"amd64\",\"os\":\"linux\",\"x\":{}}}", fastrand::u64(..));
    PushImage { config: config.into_bytes(), layers: layers.to_vec(), annotations: BTreeMap::new() }
}

/// Answers each request on a free port of loopback with what `answer` makes of its head, and keeps the heads.
pub(crate) fn answering(
    answer: impl Fn(&str) -> String + Send + 'static,
) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&heads);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = String::new();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            while lines.read_line(&mut head).unwrap() > 2 {}
            kept.lock().unwrap().push(head.to_ascii_lowercase());
            // One that has read enough goes away.
            let _ = stream.write_all(answer(&head).as_bytes());
        }
    });
    (host, heads)
}

/// An answer of HTTP/1.1, with `headers` each ending their line.
pub(crate) fn response(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}
