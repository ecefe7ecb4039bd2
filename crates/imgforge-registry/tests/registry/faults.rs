//! What a registry that fails, refuses or lies leads to.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use imgforge_oci::{Digest, TagOrDigest};
use imgforge_registry::{Error, Kind, Options, ProgressSink, Registry, Retry};
use imgforge_testkit::fault_proxy::{Fault, FaultProxy};
use imgforge_testkit::registry::{self as real, Setup};

use crate::common::{Folder, answering, client, image, options, quick, response, start};

fn tag(text: &str) -> TagOrDigest {
    TagOrDigest::tag(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_that_pass_are_not_noticed() {
    let server = start();
    let proxy = FaultProxy::start(server.host()).unwrap();
    let registry = client(&proxy.host());
    let folder = Folder::new();
    for fault in [
        Fault::Status(408),
        Fault::Status(429),
        Fault::Status(500),
        Fault::Status(502),
        Fault::Status(503),
        Fault::Status(504),
        Fault::Lost,
        Fault::CutUp(0),
        Fault::CutDown(0),
        Fault::CutDown(10),
    ] {
        let wanted = image(&[folder.layer(200_000)]);
        for method in ["HEAD", "POST", "PUT", "GET"] {
            proxy.fail(method, "/v2/", fault.clone(), 1);
        }
        let pushed = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap();
        registry.put_manifest("acme/web", &tag("latest"), &pushed.manifest).await.unwrap();
        registry.verify("acme/web", &pushed.digest).await.unwrap();
        let tags = registry.tags("acme/web").await.unwrap();
        assert_eq!(tags, ["latest"], "{fault:?}");
        proxy.heal();
    }
    assert!(registry.sent().failures >= 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_that_do_not_pass_end_after_so_many_tries() {
    let server = start();
    let proxy = FaultProxy::start(server.host()).unwrap();
    let registry = client(&proxy.host());
    proxy.fail("", "", Fault::Status(503), 100);
    let error = registry.tags("acme/web").await.unwrap_err();
    assert!(error.is_unreachable() && error.kind() == Kind::Unreachable, "{error}");
    assert!(error.to_string().contains("503") && error.to_string().contains("4 tries"), "{error}");
    assert!(error.to_string().contains(&proxy.host()), "{error}");
    assert_eq!(proxy.take_seen().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_at_the_other_end_is_unreachable() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let registry = client(&address.to_string());
    let error = registry.digest("acme/web", &tag("latest")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.to_string().to_lowercase().contains("connection refused"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_to_wait_is_given_the_time() {
    let server = start();
    let proxy = FaultProxy::start(server.host()).unwrap();
    let registry = client(&proxy.host());
    for status in [429, 503] {
        proxy.fail("GET", "", Fault::RetryAfter(status, "1".to_owned()), 1);
        let start = Instant::now();
        registry.tags("acme/web").await.unwrap();
        // The waits between tries are of milliseconds otherwise; that it is not shorter is the rule.
        assert!(start.elapsed() >= Duration::from_secs(1));
    }
    proxy.fail("GET", "", Fault::RetryAfter(429, "3600".to_owned()), 1);
    let error = registry.tags("acme/web").await.unwrap_err();
    assert!(error.is_unreachable() && error.to_string().contains("3600 s"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stalls_end_in_both_directions() {
    let server = start();
    let proxy = FaultProxy::start(server.host()).unwrap();
    let retry = Retry { idle: Duration::from_millis(1500), ..quick() };
    let registry = Registry::new(Options { retry, ..options(&proxy.host()) }).unwrap();
    let folder = Folder::new();
    let wanted = image(&[folder.layer(8 << 20)]);
    let long = Duration::from_secs(30);
    proxy.fail("HEAD", "/blobs/", Fault::Stall(long), 1);
    proxy.fail("PUT", wanted.layers[0].descriptor.digest.hex(), Fault::StallUp(100_000, long), 1);
    let pushed = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap();
    proxy.fail("GET", "/manifests/", Fault::StallDown(20, long), 1);
    assert!(registry.manifest("acme/web", &(&pushed.digest).into()).await.unwrap().is_some());
    proxy.fail("GET", "/blobs/", Fault::StallDown(20_000, long), 1);
    let to = folder.path().join("to");
    registry
        .download_blob("acme/web", &wanted.layers[0].descriptor, &to, ProgressSink::silent())
        .await
        .unwrap();
    assert_eq!(registry.sent().failures, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_with_another_digest_is_refused() {
    let server = start();
    let proxy = FaultProxy::start(server.host()).unwrap();
    let registry = client(&proxy.host());
    let folder = Folder::new();
    let wanted = image(&[folder.layer(1000)]);
    let pushed = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap();
    registry.put_manifest("acme/web", &tag("latest"), &pushed.manifest).await.unwrap();

    let spoiled = || vec![("Docker-Content-Digest".to_owned(), pushed.digest.to_string())];
    for reference in [TagOrDigest::from(&pushed.digest), tag("latest")] {
        let other = pushed.manifest.bytes().to_ascii_uppercase();
        proxy.fail("GET", "/manifests/", Fault::Answer(spoiled(), other), 1);
        let error = registry.manifest("acme/web", &reference).await.unwrap_err();
        assert!(matches!(error, Error::Digest { .. }), "{error}");
    }
    proxy.fail("GET", "/blobs/", Fault::Spoil, 1);
    let config = pushed.manifest.config().unwrap();
    let error = registry.blob("acme/web", config, 1 << 20).await.unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    proxy.fail("GET", "/blobs/", Fault::Truncate(3), 1);
    let error = registry.blob("acme/web", config, 1 << 20).await.unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    let error = registry.blob("acme/web", config, 3).await.unwrap_err();
    assert!(error.to_string().contains("larger than 3 bytes"), "{error}");
    // A manifest that is cut with a length that fits is found out by its digest too.
    proxy.fail("GET", "/manifests/", Fault::Truncate(3), 1);
    let error = registry.manifest("acme/web", &(&pushed.digest).into()).await.unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_told_in_the_registrys_words_without_its_control_codes() {
    let server = start();
    let proxy = FaultProxy::start(server.host()).unwrap();
    let registry = client(&proxy.host());
    let folder = Folder::new();
    let wanted = image(&[folder.layer(1000)]);
    let pushed = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap();
    // Blobs that are not there: the registry itself refuses.
    let error = registry.put_manifest("acme/other", &tag("latest"), &pushed.manifest).await.unwrap_err();
    let Error::Refused { status, code, .. } = &error else { panic!("{error}") };
    assert_eq!((*status, code.as_str()), (400, "MANIFEST_BLOB_UNKNOWN"));
    assert_eq!(error.kind(), Kind::Failed);

    let said = br#"{"errors":[{"code":"DE\u001bNIED","message":"no\u001b[31m\u202e\n way"}]}"#;
    proxy.fail("GET", "", Fault::StatusAnswer(418, said.to_vec()), 1);
    let error = registry.tags("acme/web").await.unwrap_err().to_string();
    assert!(error.contains("no [31m   way") && !error.contains(['\u{1b}', '\u{202e}', '\n']), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pushes_of_one_image_at_once_end_well() {
    let server = start();
    // Each with its own locks and connections, as two processes have them.
    let (one, other) = (client(server.host()), client(server.host()));
    let folder = Folder::new();
    for round in 0..10 {
        let wanted = image(&[folder.layer(10), folder.layer(20), folder.layer(30)]);
        let repository = format!("acme/web-{round}");
        let push = async |registry: &Registry| {
            let pushed = registry.push_image(&repository, &wanted, ProgressSink::silent()).await?;
            registry.verify(&repository, &pushed.digest).await?;
            registry.put_manifest(&repository, &tag("latest"), &pushed.manifest).await
        };
        let (first, second) = tokio::join!(push(&one), push(&other));
        first.unwrap();
        second.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_that_is_called_invalid_for_a_moment_is_not_noticed() {
    let server = start();
    let proxy = FaultProxy::start(server.host()).unwrap();
    let registry = client(&proxy.host());
    let folder = Folder::new();
    let wanted = image(&[folder.layer(1000)]);
    let said = br#"{"errors":[{"code":"DIGEST_INVALID","message":"it did not match"}]}"#;
    let invalid = Fault::StatusAnswer(400, said.to_vec());
    proxy.fail("PUT", "/manifests/", invalid.clone(), 3);
    let pushed = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap();
    registry.verify("acme/web", &pushed.digest).await.unwrap();
    // A registry that goes on saying so is believed.
    proxy.fail("PUT", "/manifests/", invalid, 100);
    proxy.take_seen();
    let error = registry.put_manifest("acme/web", &tag("latest"), &pushed.manifest).await.unwrap_err();
    let Error::Refused { code, .. } = &error else { panic!("{error}") };
    assert_eq!((code.as_str(), proxy.take_seen().len()), ("DIGEST_INVALID", 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_says_when_it_is_switched_off() {
    let off = real::Registry::start(Setup::default()).unwrap();
    let on = start();
    let folder = Folder::new();
    let wanted = image(&[folder.layer(1000)]);
    for server in [&off, &on] {
        let registry = client(server.host());
        let pushed = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap();
        registry.put_manifest("acme/web", &tag("latest"), &pushed.manifest).await.unwrap();
        let result = registry.delete_manifest("acme/web", &pushed.digest).await;
        let left = registry.digest("acme/web", &tag("latest")).await.unwrap();
        if server.host() == off.host() {
            assert!(matches!(result, Err(Error::DeletionDisabled { .. })), "{result:?}");
            assert_eq!(left, Some(pushed.digest));
        } else {
            result.unwrap();
            assert_eq!(left, None);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_somebody_else_moves_is_told() {
    let server = start();
    let proxy = FaultProxy::start(server.host()).unwrap();
    let registry = client(&proxy.host());
    let folder = Folder::new();
    let pushed =
        registry.push_image("acme/web", &image(&[folder.layer(9)]), ProgressSink::silent()).await.unwrap();
    let other = Digest::sha256(b"other");
    let headers = vec![("Docker-Content-Digest".to_owned(), other.to_string())];
    proxy.fail("HEAD", "/manifests/latest", Fault::Answer(headers, Vec::new()), 1);
    let error = registry.put_manifest("acme/web", &tag("latest"), &pushed.manifest).await.unwrap_err();
    assert!(matches!(&error, Error::TagMoved { found, .. } if *found == Some(other)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tags_come_in_pages() {
    let server = start();
    let proxy = FaultProxy::start(server.host()).unwrap();
    let registry = client(&proxy.host());
    let link = |text: &str| vec![("Link".to_owned(), format!("<{text}>; rel=\"next\""))];
    let page = |tags: &str| format!("{{\"name\":\"acme/web\",\"tags\":[{tags}]}}").into_bytes();
    proxy.fail("GET", "last=b", Fault::Answer(link("?n=2&last=d"), page("\"c\",\"d\"")), 1);
    proxy.fail("GET", "last=d", Fault::Answer(Vec::new(), page("\"e\"")), 1);
    let first = link("/v2/acme/web/tags/list?n=2&last=b");
    proxy.fail("GET", "tags/list", Fault::Answer(first, page("\"b\",\"a\"")), 1);
    assert_eq!(registry.tags("acme/web").await.unwrap(), ["a", "b", "c", "d", "e"]);

    for elsewhere in ["https://example.com/v2/acme/web/tags/list?last=b", "?n=1000"] {
        proxy.fail("GET", "tags/list", Fault::Answer(link(elsewhere), page("\"a\"")), 1);
        let error = registry.tags("acme/web").await.unwrap_err();
        assert!(matches!(error, Error::Answer { .. }), "{error}");
    }
}

#[test]
fn what_cannot_be_a_registry_is_said_before_anything_is_sent() {
    for host in ["", "a b", "a/b", "example.com:x", "http://example.com", "[::1"] {
        let error = Registry::new(options(host)).unwrap_err();
        assert_eq!(error.kind(), Kind::Input, "{error}");
    }
    let folder = Folder::new();
    let ca_file = Some(folder.path().join("ca.pem"));
    let error = Registry::new(Options { ca_file: ca_file.clone(), ..options("example.com") }).unwrap_err();
    assert!(error.to_string().contains("ca.pem"), "{error}");
    std::fs::write(ca_file.as_ref().unwrap(), "nothing").unwrap();
    let error = Registry::new(Options { ca_file, ..options("example.com") }).unwrap_err();
    assert!(error.to_string().contains("no certificate"), "{error}");
}

#[tokio::test]
async fn names_that_would_leave_their_place_are_refused() {
    let server = start();
    let registry = client(server.host());
    for repository in ["", "../x", "a//b", "a/../b", "A", "a?b", "a b", "a/"] {
        let error = registry.tags(repository).await.unwrap_err();
        assert!(matches!(error, Error::Reference(_)), "{error}");
    }
    for bad in ["", "../x", "a/b", "a?b", "-a"] {
        assert!(TagOrDigest::tag(bad).is_err(), "{bad}");
    }
    assert_eq!(registry.sent().requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_to_all_but_loopback() {
    let server = start();
    let registry = Registry::new(Options { plain_http: Some(false), ..options(server.host()) }).unwrap();
    let error = registry.tags("acme/web").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.to_string().contains("plain HTTP"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_of_ones_own_ca_is_trusted_when_the_ca_is_given() {
    let server = real::Registry::start(Setup { tls: true, ..Setup::default() }).unwrap();
    let with = |ca_file| {
        Registry::new(Options { plain_http: Some(false), ca_file, ..options(server.host()) }).unwrap()
    };
    let error = with(None).tags("acme/web").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.to_string().contains("give the CA"), "{error}");

    let registry = with(Some(server.ca_file()));
    let folder = Folder::new();
    let wanted = image(&[folder.layer(100_000)]);
    let pushed = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap();
    registry.put_manifest("acme/web", &tag("latest"), &pushed.manifest).await.unwrap();
    registry.verify("acme/web", &pushed.digest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_without_end_is_refused_with_the_limit() {
    let (host, heads) = answering(|_| response("200 OK", "", &" ".repeat(100 << 20)));
    let registry = client(&host);
    let error = registry.manifest("acme/web", &tag("latest")).await.unwrap_err();
    assert!(matches!(error, Error::Answer { .. }), "{error:?}");
    assert!(error.to_string().contains("larger than 4 MiB"), "{error}");
    assert_eq!(heads.lock().unwrap().len(), 1, "it is not asked for again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_sends_a_byte_now_and_then_is_taken_as_cut() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || dribble(stream.unwrap()).ok());
        }
    });
    let retry = Retry { idle: Duration::from_millis(300), ..quick() };
    let registry = Registry::new(Options { retry, ..options(&host) }).unwrap();
    let error = registry.manifest("acme/web", &tag("latest")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.to_string().contains("1024 a second are the least"), "{error}");
}

/// An answer of a thousand bytes, each a while after the one before, and never so long that nothing came.
fn dribble(mut stream: TcpStream) -> std::io::Result<()> {
    // An answer before the question is none.
    let _ = stream.read(&mut [0; 4096])?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")?;
    for _ in 0..1_000 {
        stream.write_all(b" ")?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
