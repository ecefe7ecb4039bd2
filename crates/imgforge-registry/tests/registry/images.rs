//! What goes well: images, tags, blobs.

use imgforge_oci::{Descriptor, Digest, Index, Manifest, MediaType, TagOrDigest};
use imgforge_registry::{Error, ProgressSink};

use crate::common::{Folder, client, image, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_pushed_image_has_no_tag_until_it_gets_one() {
    let server = start();
    let registry = client(server.host());
    let folder = Folder::new();
    let mut wanted = image(&[folder.layer(100_000), folder.layer(3)]);
    wanted.annotations.insert("org.opencontainers.image.title".to_owned(), "web".to_owned());
    let pushed = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap();
    assert_eq!(pushed.sent, 100_003 + wanted.config.len() as u64);
    assert_eq!((pushed.mounted, pushed.existed), (0, 0));
    assert!(registry.tags("acme/web").await.unwrap().is_empty());

    let found = registry.manifest("acme/web", &(&pushed.digest).into()).await.unwrap().unwrap();
    assert_eq!(found, pushed.manifest);
    assert_eq!(found.annotations()["org.opencontainers.image.title"], "web");
    assert_eq!(registry.verify("acme/web", &pushed.digest).await.unwrap(), found);
    let config = registry.blob("acme/web", found.config().unwrap(), 1 << 20).await.unwrap();
    assert_eq!(config, wanted.config);

    let tag = TagOrDigest::tag("3.1").unwrap();
    assert_eq!(registry.digest("acme/web", &tag).await.unwrap(), None);
    assert_eq!(registry.manifest("acme/web", &tag).await.unwrap(), None);
    registry.put_manifest("acme/web", &tag, &pushed.manifest).await.unwrap();
    assert_eq!(registry.digest("acme/web", &tag).await.unwrap(), Some(pushed.digest.clone()));
    assert_eq!(registry.tags("acme/web").await.unwrap(), ["3.1"]);

    let again = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap();
    assert_eq!((again.digest, again.sent, again.existed), (pushed.digest, 0, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_verified_with_all_of_its_images() {
    let server = start();
    let registry = client(server.host());
    let folder = Folder::new();
    let mut entries: Vec<Descriptor> = Vec::new();
    for _ in 0..2 {
        let wanted = image(&[folder.layer(1000)]);
        let pushed = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap();
        entries.push(pushed.manifest.descriptor());
    }
    let index = Manifest::of(Index { manifests: entries.clone(), ..Index::default() });
    registry.put_manifest("acme/web", &TagOrDigest::tag("all").unwrap(), &index).await.unwrap();
    assert_eq!(registry.verify("acme/web", index.digest()).await.unwrap().entries(), Some(&*entries));

    let lost = registry.manifest("acme/web", &(&entries[1].digest).into()).await.unwrap().unwrap();
    let layer = &lost.layers()[0].digest;
    std::fs::write(server.blob_file(layer.hex()), "short").unwrap();
    registry.delete_manifest("acme/web", &entries[0].digest).await.unwrap();
    let error = registry.verify("acme/web", index.digest()).await.unwrap_err();
    let Error::Incomplete { missing, .. } = &error else { panic!("{error}") };
    assert_eq!(missing.len(), 2, "{error}");
    assert!(missing[0].contains(entries[0].digest.as_str()) && missing[0].contains("absent"), "{error}");
    assert!(missing[1].contains(layer.as_str()) && missing[1].contains("5 bytes instead of 1000"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_no_error() {
    let server = start();
    let registry = client(server.host());
    let digest = Digest::sha256(b"nothing");
    assert_eq!(registry.tags("no/such").await.unwrap(), Vec::<String>::new());
    assert_eq!(registry.manifest("no/such", &(&digest).into()).await.unwrap(), None);
    assert_eq!(registry.digest("no/such", &(&digest).into()).await.unwrap(), None);
    assert_eq!(registry.size("no/such", &digest).await.unwrap(), None);
    registry.delete_manifest("no/such", &digest).await.unwrap();
    let blob = Descriptor::new(MediaType::ImageConfig, digest.clone(), 7);
    let error = registry.blob("no/such", &blob, 100).await.unwrap_err();
    assert!(matches!(error, Error::Incomplete { .. }), "{error}");
    let error = registry.verify("no/such", &digest).await.unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
}
