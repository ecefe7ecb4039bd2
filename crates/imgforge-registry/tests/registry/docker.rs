//! What the Docker Engine makes of images that were pushed here.

use imgforge_oci::TagOrDigest;
use imgforge_registry::{ProgressSink, PushImage};
use imgforge_testkit::docker::Docker;

use crate::common::{Folder, client, start};

/// A tar with one file, compressed with gzip, and the SHA-256 of the tar.
fn layer(folder: &Folder, name: &str) -> (imgforge_registry::PushLayer, String) {
    let tree = folder.path().join(format!("tree-{name}"));
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join(name), name).unwrap();
    let tar = folder.path().join(format!("{name}.tar"));
    let run = |program: &str, args: &[&str]| {
        assert!(std::process::Command::new(program).args(args).status().unwrap().success());
    };
    run("tar", &["-C", tree.as_str(), "-cf", tar.as_str(), name]);
    let diff_id = imgforge_oci::Digest::sha256(&std::fs::read(&tar).unwrap()).to_string();
    run("gzip", &["-n", tar.as_str()]);
    (folder.layer_of(&std::fs::read(format!("{tar}.gz")).unwrap()), diff_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_docker_engine_pulls_what_was_pushed() {
    let server = start();
    let registry = client(server.host());
    let folder = Folder::new();
    let (first, first_id) = layer(&folder, "one");
    let (second, second_id) = layer(&folder, "two");
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Labels":{{"of":"the registry's tests"}}}},
        "rootfs":{{"type":"layers","diff_ids":["{first_id}","{second_id}"]}}}}"#
    );
    let wanted = PushImage {
        config: config.into_bytes(),
        layers: vec![first, second],
        annotations: std::collections::BTreeMap::default(),
    };
    let pushed = registry.push_image("acme/pulled", &wanted, ProgressSink::silent()).await.unwrap();
    registry.put_manifest("acme/pulled", &TagOrDigest::tag("1").unwrap(), &pushed.manifest).await.unwrap();
    let by_tag = format!("{}/acme/pulled:1", server.host());
    let by_digest = format!("{}/acme/pulled@{}", server.host(), pushed.digest);
    for reference in [&by_digest, &by_tag] {
        Docker::run(&["pull", "-q", reference]);
        let id = Docker::image_id(reference);
        assert_eq!(id.as_deref(), pushed.manifest.config().map(|config| config.digest.as_str()));
    }
    let label = Docker::run(&["image", "inspect", "-f", "{{index .Config.Labels \"of\"}}", &by_tag]);
    let id = Docker::image_id(&by_tag).unwrap();
    Docker::run(&["rmi", "-f", &id]);
    assert_eq!(label, "the registry's tests");

    // And the other way: what the engine has pushed is complete here.
    Docker::run(&["pull", "-q", &by_tag]);
    let copy = format!("{}/acme/copy:2", server.host());
    Docker::run(&["tag", &by_tag, &copy]);
    Docker::run(&["push", &copy]);
    Docker::run(&["rmi", "-f", &id]);
    let digest = registry.digest("acme/copy", &TagOrDigest::tag("2").unwrap()).await.unwrap().unwrap();
    let manifest = registry.verify("acme/copy", &digest).await.unwrap();
    assert_eq!(manifest.media_type().as_ref(), imgforge_oci::media_type::DOCKER_MANIFEST);
}
