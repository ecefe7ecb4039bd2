//! What is tried again: the same for packages and for registries.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use camino::Utf8Path;
use imgforge::core::lock::LockedPackage;
use imgforge_packages::{Cache, Network, Repository, RepositorySuite, Scheme, Silent, fetch};
use imgforge_registry::{Credentials, Registry, Retry};

/// Answers each request with a head that never changes, and keeps those of the requests.
struct Server {
    host: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let (kept, answer) = (Arc::clone(&heads), format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n"));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (kept, answer) = (Arc::clone(&kept), answer.clone());
                std::thread::spawn(move || {
                    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                    loop {
                        let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
                        if head.is_empty() {
                            return;
                        }
                        kept.lock().unwrap().push(head.join("\n"));
                        (&stream).write_all(answer.as_bytes()).unwrap();
                    }
                });
            }
        });
        Self { host, heads }
    }

    fn asked(&self) -> usize {
        std::mem::take(&mut *self.heads.lock().unwrap()).len()
    }
}

fn quick() -> Retry {
    Retry { tries: 3, delay: Duration::from_millis(1), ..Retry::default() }
}

/// A package of a server's repository.
fn fetched(server: &Server, network: &Network) -> String {
    let folder = tempfile::tempdir().unwrap();
    let folder = Utf8Path::from_path(folder.path()).unwrap();
    let suite = RepositorySuite {
        name: "stable".into(),
        uri: format!("http://{}", server.host),
        login: None,
        keyring: folder.join("none"),
    };
    let repository = Repository {
        scheme: Scheme::Debian,
        source: "debian".into(),
        architecture: "amd64".into(),
        suites: vec![suite],
        components: Vec::new(),
        snapshots: Vec::new(),
        logins: Vec::new(),
    };
    let package = LockedPackage {
        source: "debian".into(),
        path: "pool/a.deb".into(),
        sha256: "0".repeat(64),
        size: 1,
        ..LockedPackage::default()
    };
    let error = fetch(&[package], &[repository], &Cache::new(folder.join("cache")), network, &Silent);
    error.unwrap_err().to_string()
}

#[test]
fn packages_and_registries_are_tried_again_by_the_same_rules() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let network = Network::with(runtime.handle(), quick()).unwrap();
    for (answer, tries, said) in [
        ("408 -", 3, "(3 tries)"),
        ("429 -", 3, "(3 tries)"),
        ("500 -", 3, "(3 tries)"),
        ("503 -", 3, "(3 tries)"),
        ("503 -\r\nRetry-After: 3600", 1, "asks to wait 3600 s"),
        ("400 -", 1, "400"),
        ("501 -", 1, "501"),
    ] {
        let server = Server::start(answer);
        let options = imgforge_registry::Options {
            retry: quick(),
            ..imgforge_registry::Options::new(server.host.clone(), Credentials::anonymous())
        };
        let registry = Registry::new(options).unwrap();
        let error = runtime.block_on(registry.tags("acme/web")).unwrap_err().to_string();
        assert!(error.contains(said), "{answer}: {error}");
        assert_eq!(server.asked(), tries, "{answer}: {error}");
        let error = fetched(&server, &network);
        assert!(error.contains(said), "{answer}: {error}");
        assert_eq!(server.asked(), tries, "{answer}: {error}");
    }
}
