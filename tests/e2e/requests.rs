//! What is tried again: the same for packages and for registries.

use std::time::Duration;

use camino::Utf8Path;
use imgforge::core::lock::LockedPackage;
use imgforge_packages::{Cache, Network, Repository, RepositorySuite, Scheme, Silent, fetch};
use imgforge_registry::{Credentials, Registry, Retry};
use imgforge_testkit::http::Answering;

fn quick() -> Retry {
    Retry { tries: 3, delay: Duration::from_millis(1), ..Retry::default() }
}

/// A package of a server's repository.
fn fetched(server: &Answering, network: &Network) -> String {
    let folder = tempfile::tempdir().unwrap();
    let folder = Utf8Path::from_path(folder.path()).unwrap();
    let suite = RepositorySuite {
        name: "stable".into(),
        uri: format!("http://{}", server.host()),
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
        let server = Answering::start(answer).unwrap();
        let options = imgforge_registry::Options {
            retry: quick(),
            ..imgforge_registry::Options::new(server.host(), Credentials::anonymous())
        };
        let registry = Registry::new(options).unwrap();
        let error = runtime.block_on(registry.tags("acme/web")).unwrap_err().to_string();
        assert!(error.contains(said), "{answer}: {error}");
        assert_eq!(server.take_heads().len(), tries, "{answer}: {error}");
        let error = fetched(&server, &network);
        assert!(error.contains(said), "{answer}: {error}");
        assert_eq!(server.take_heads().len(), tries, "{answer}: {error}");
    }
}
