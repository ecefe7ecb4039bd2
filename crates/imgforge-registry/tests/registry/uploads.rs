//! How blobs get into a registry: what is sent, what is not, and what goes on after a cut.

use std::sync::{Arc, Mutex};

use imgforge_oci::Digest;
use imgforge_registry::{Error, Kind, Options, ProgressSink, Registry};
use imgforge_testkit::fault_proxy::{Fault, FaultProxy, Seen};

use crate::common::{Folder, client, image, options, start};

const MIB: usize = 1 << 20;

/// A client that sends chunks of a MiB.
fn chunked(host: &str) -> Registry {
    Registry::new(Options { chunk: MIB as u64, ..options(host) }).unwrap()
}

/// Bytes of bodies that were sent to upload sessions.
fn sent_up(seen: &[Seen]) -> u64 {
    seen.iter().filter(|seen| matches!(seen.method.as_str(), "PATCH" | "PUT")).map(|seen| seen.up).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_upload_sends_only_the_rest() {
    let server = start();
    let proxy = FaultProxy::start(server.host()).unwrap();
    proxy.wait_for_whole_requests();
    let registry = chunked(&proxy.host());
    let folder = Folder::new();
    let wanted = image(&[folder.layer(5 * MIB)]);
    // Two chunks arrive; the third is cut in the middle, and the proxy forgets what it has of it.
    proxy.fail_after("PATCH", "", 2, Fault::CutUp(300_000), 1);
    let pushed = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap();
    let seen = proxy.take_seen();
    assert_eq!(seen.iter().filter(|seen| seen.fault.is_some()).count(), 1, "{seen:?}");
    let manifest = pushed.manifest.bytes().len() as u64;
    assert_eq!(sent_up(&seen), 5 * MIB as u64 + 300_000 + wanted.config.len() as u64 + manifest);
    let posts = seen.iter().filter(|seen| seen.method == "POST").count();
    assert_eq!(posts, 2, "one session for the layer, one for the config: {seen:?}");
    registry.verify("acme/web", &pushed.digest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_registry_has_lost_is_begun_anew() {
    let server = start();
    let proxy = FaultProxy::start(server.host()).unwrap();
    let registry = chunked(&proxy.host());
    let folder = Folder::new();
    let wanted = image(&[folder.layer(3 * MIB)]);
    // Distribution 2.x forgets a session when a part of a chunk has come.
    proxy.fail_after("PATCH", "", 1, Fault::CutUp(300_000), 1);
    let pushed = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap();
    let layer_posts = proxy.take_seen().iter().filter(|seen| seen.method == "POST").count() - 1;
    assert_eq!(layer_posts, 2);
    assert!(pushed.sent > 3 * MIB as u64);
    registry.verify("acme/web", &pushed.digest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_takes_no_chunks_gets_one_put() {
    let server = start();
    for status in [405, 501, 400, 415] {
        let proxy = FaultProxy::start(server.host()).unwrap();
        let registry = chunked(&proxy.host());
        let folder = Folder::new();
        proxy.fail("PATCH", "", Fault::Status(status), usize::MAX);
        let wanted = image(&[folder.layer(3 * MIB)]);
        let pushed = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap();
        registry.verify("acme/web", &pushed.digest).await.unwrap();
        // And it is not asked again.
        registry
            .push_image("acme/web", &image(&[folder.layer(4 * MIB)]), ProgressSink::silent())
            .await
            .unwrap();
        let seen = proxy.take_seen();
        assert_eq!(seen.iter().filter(|seen| seen.method == "PATCH").count(), 1, "{status}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_last_answer_is_lost_is_not_sent_again() {
    let server = start();
    let proxy = FaultProxy::start(server.host()).unwrap();
    let registry = client(&proxy.host());
    let folder = Folder::new();
    let wanted = image(&[folder.layer(MIB)]);
    proxy.fail("PUT", "digest=", Fault::Lost, 2);
    let pushed = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap();
    assert_eq!(pushed.sent, MIB as u64 + wanted.config.len() as u64);
    registry.verify("acme/web", &pushed.digest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_layer_sends_nothing() {
    let server = start();
    let registry = client(server.host());
    let folder = Folder::new();
    let layer = folder.layer(MIB);
    registry
        .push_image("acme/base", &image(std::slice::from_ref(&layer)), ProgressSink::silent())
        .await
        .unwrap();

    let mut child = image(&[layer]);
    child.layers[0].mount_from = vec!["acme/nothing".to_owned(), "acme/base".to_owned()];
    child.layers[0].file = None;
    let before = registry.sent().bytes_up;
    let pushed = registry.push_image("acme/child", &child, ProgressSink::silent()).await.unwrap();
    assert_eq!((pushed.mounted, pushed.sent), (1, child.config.len() as u64));
    let manifest = pushed.manifest.bytes().len() as u64;
    assert_eq!(registry.sent().bytes_up - before, child.config.len() as u64 + manifest);
    registry.verify("acme/child", &pushed.digest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_nobody_has_to_mount_is_sent_or_missing() {
    let server = start();
    let registry = client(server.host());
    let folder = Folder::new();
    let mut wanted = image(&[folder.layer(1000)]);
    wanted.layers[0].mount_from = vec!["acme/nothing".to_owned()];
    let pushed = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap();
    assert_eq!((pushed.mounted, pushed.sent), (0, 1000 + wanted.config.len() as u64));

    wanted.layers[0].file = None;
    let error = registry.push_image("acme/other", &wanted, ProgressSink::silent()).await.unwrap_err();
    assert!(matches!(error, Error::Incomplete { .. }), "{error}");
    assert!(registry.tags("acme/other").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tasks_send_one_blob_once() {
    let server = start();
    let proxy = FaultProxy::start(server.host()).unwrap();
    let registry = chunked(&proxy.host());
    let folder = Folder::new();
    let layer = folder.layer(4 * MIB);
    let (first, second) = (image(std::slice::from_ref(&layer)), image(std::slice::from_ref(&layer)));
    let (one, two) = tokio::join!(
        registry.push_image("acme/web", &first, ProgressSink::silent()),
        registry.push_image("acme/web", &second, ProgressSink::silent()),
    );
    let configs = (first.config.len() + second.config.len()) as u64;
    assert_eq!(one.unwrap().sent + two.unwrap().sent, 4 * MIB as u64 + configs);
    let patched: u64 =
        proxy.take_seen().iter().filter(|seen| seen.method == "PATCH").map(|seen| seen.up).sum();
    assert_eq!(patched, 3 * MIB as u64, "and the last chunk comes with the PUT");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_over_from_a_task_that_was_dropped_ends_well() {
    let server = start();
    let proxy = FaultProxy::start(server.host()).unwrap();
    let registry = chunked(&proxy.host());
    let folder = Folder::new();
    let wanted = image(&[folder.layer(3 * MIB)]);
    let stall = Fault::StallUp(500_000, std::time::Duration::from_secs(60));
    proxy.fail_after("PATCH", "", 1, stall, 1);
    {
        let stalled = async {
            while proxy.met() == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            result = registry.push_image("acme/web", &wanted, ProgressSink::silent()) => panic!("{result:?}"),
            () = stalled => {}
        }
    }
    let pushed = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap();
    registry.verify("acme/web", &pushed.digest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_in_bytes_up_to_the_whole() {
    let server = start();
    let registry = chunked(server.host());
    let folder = Folder::new();
    let wanted = image(&[folder.layer(2 * MIB)]);
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = {
        let told = Arc::clone(&told);
        ProgressSink::new(move |moved| told.lock().unwrap().push(moved))
    };
    registry.push_image("acme/web", &wanted, sink).await.unwrap();
    let told = told.lock().unwrap();
    let layer = &wanted.layers[0].descriptor;
    let of_layer: Vec<u64> = told.iter().filter(|m| m.digest == layer.digest).map(|m| m.done).collect();
    assert_eq!(of_layer.last(), Some(&layer.size), "{told:?}");
    assert!(of_layer.iter().all(|done| *done <= layer.size) && of_layer.is_sorted(), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_what_they_should_be_are_refused() {
    let server = start();
    let registry = client(server.host());
    let folder = Folder::new();
    let mut wanted = image(&[folder.layer(1000)]);
    let file = wanted.layers[0].file.clone().unwrap();

    std::fs::write(&file, vec![7; 1000]).unwrap();
    let error = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap_err();
    let found = Digest::sha256(&[7; 1000]);
    assert!(
        error.to_string().contains(found.as_str()) && error.to_string().contains(file.as_str()),
        "{error}"
    );

    std::fs::write(&file, "short").unwrap();
    let error = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap_err();
    assert!(matches!(error, Error::File { .. }) && error.to_string().contains("5 bytes"), "{error}");

    wanted.layers[0].file = Some(folder.path().join("nothing"));
    let error = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert_eq!(error.kind(), Kind::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downloaded_blob_is_whole_and_resumed_where_it_was_cut() {
    let server = start();
    let proxy = FaultProxy::start(server.host()).unwrap();
    let registry = client(&proxy.host());
    let folder = Folder::new();
    let wanted = image(&[folder.layer(2 * MIB)]);
    registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap();
    let blob = &wanted.layers[0].descriptor;
    let original = std::fs::read(wanted.layers[0].file.as_ref().unwrap()).unwrap();
    let to = folder.path().join("downloaded");

    proxy.take_seen();
    proxy.fail("GET", "/blobs/", Fault::CutDown(MIB as u64), 1);
    registry.download_blob("acme/web", blob, &to, ProgressSink::silent()).await.unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), original);
    let down: Vec<u64> = proxy.take_seen().iter().map(|seen| seen.down).collect();
    assert_eq!(down, [MIB as u64, MIB as u64]);

    // A server that sends all of it again.
    proxy.fail("GET", "/blobs/", Fault::CutDown(MIB as u64), 1);
    proxy.fail("GET", "/blobs/", Fault::NoRange, 1);
    std::fs::remove_file(&to).unwrap();
    registry.download_blob("acme/web", blob, &to, ProgressSink::silent()).await.unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), original);

    // Content that is another one is not kept.
    std::fs::remove_file(&to).unwrap();
    proxy.fail("GET", "/blobs/", Fault::Spoil, 1);
    let error = registry.download_blob("acme/web", blob, &to, ProgressSink::silent()).await.unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "only the layer's file: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_never_gets_further_ends() {
    let server = start();
    let proxy = FaultProxy::start(server.host()).unwrap();
    let registry = chunked(&proxy.host());
    let folder = Folder::new();
    let wanted = image(&[folder.layer(3 * MIB)]);
    for _ in 0..30 {
        proxy.fail_after("PATCH", "", 1, Fault::CutUp(300_000), 1);
    }
    let error = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
    proxy.heal();

    registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap();
    for _ in 0..30 {
        proxy.fail("GET", "/blobs/", Fault::CutDown(1000), 1);
        proxy.fail("GET", "/blobs/", Fault::Status(416), 1);
    }
    let (blob, to) = (&wanted.layers[0].descriptor, folder.path().join("to"));
    let error = registry.download_blob("acme/web", blob, &to, ProgressSink::silent()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
}
