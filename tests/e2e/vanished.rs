//! Packages that no mirror has any more: kept in the registry, and in an archive of earlier states.

use camino::Utf8Path;
use imgforge_oci::TagOrDigest;
use imgforge_testkit::http::Server;
use imgforge_testkit::registry::{Registry, Setup};

use crate::promoting::{client, run};
use crate::updates::{Family, add};

#[test]
fn packages_kept_in_the_registry_are_there_when_no_mirror_has_them() {
    let registry = Registry::start(Setup::default()).unwrap();
    let mut family = Family::new(false);
    family.push_to(&registry);
    family.run(&["update"]).ok();
    family.run(&["build", "os"]).ok();
    let kept = family.run(&["push", "os", "--packages", "--format", "json"]).ok().json();
    assert_eq!(kept["packages"], 5, "{kept}");
    let again = family.run(&["push", "os", "--packages"]).ok().stderr;
    assert!(again.contains("Kept 5 packages, 0 B sent"), "{again}");
    let client = client(registry.host());
    let place = format!("{}/imgforge.packages", family.workspace.name());
    let tags = run(client.tags(&place)).unwrap();
    assert_eq!(tags.len(), 1, "{tags:?}");
    let kept = run(client.manifest(&place, &TagOrDigest::tag(&tags[0]).unwrap())).unwrap().unwrap();
    let kind = kept.image().unwrap().artifact_type.as_ref().map(ToString::to_string);
    assert_eq!(kind.as_deref(), Some("application/vnd.imgforge.packages.v1"));
    assert_eq!(kept.layers().len(), 5);

    // Nobody else has it any more.
    let before = family.lock();
    family.stable.remove("base").unwrap();
    add(&mut family.stable, "base", "1.1", "");
    family.publish();
    let cache = family.folder.path().join("cache/sha256");
    std::fs::remove_dir_all(&cache).unwrap();
    family.run(&["build", "os", "--force", "--locked"]).ok();
    assert_eq!(family.lock(), before);

    // Nor has the registry.
    let line = before.lines().find(|line| line.starts_with("package \"local\" \"base\" ")).unwrap();
    let hash = line.split("sha256=\"").nth(1).unwrap().trim_end_matches('"');
    std::fs::remove_file(registry.blob_file(hash)).unwrap();
    std::fs::remove_dir_all(&cache).unwrap();
    let failed = family.run(&["build", "os", "--force"]);
    assert_eq!(failed.code, 3, "{}", failed.stderr);
    for part in ["base 1.0", "`imgforge update`", "`imgforge push --packages`"] {
        assert!(failed.stderr.contains(part), "{part} is missing in\n{}", failed.stderr);
    }
}

#[test]
fn what_no_mirror_has_any_more_comes_from_a_snapshot_then_from_the_registry() {
    const STATE: &str = "20261126T210005Z";
    let registry = Registry::start(Setup::default()).unwrap();
    let mut family = Family::new(false);
    family.push_to(&registry);
    family.run(&["update"]).ok();
    assert!(!family.lock().contains("indexed="), "without an archive, nothing is kept for it");

    // An archive with the state of the index.
    let root = Utf8Path::from_path(family.folder.path()).unwrap().to_owned();
    let archive = Server::start(root.join("archive")).unwrap();
    std::fs::create_dir_all(root.join("archive").join(STATE)).unwrap();
    let pool = root.join("repository/pool");
    let copy = root.join("archive").join(STATE).join("pool");
    assert!(
        std::process::Command::new("cp")
            .args(["-r", pool.as_str(), copy.as_str()])
            .status()
            .unwrap()
            .success()
    );
    let manifest = std::fs::read_to_string(family.workspace.root().join("imgforge.kdl")).unwrap();
    let line = format!("    snapshot \"{}\"\n    keyring", archive.uri());
    family.workspace.write("imgforge.kdl", &manifest.replace("    keyring", &line));
    let dated = [("Date", "Thu, 26 Nov 2026 21:00:05 UTC")];
    family.stable.publish(&family.key, &dated).unwrap();
    family.security.publish(&family.key, &dated).unwrap();

    // A lock from before is one still; an update of everything gives its lines the date, and a later one leaves it.
    family.run(&["build", "os", "--locked"]).ok();
    family.run(&["update"]).ok();
    let lock = family.lock();
    let mark = format!(" indexed=\"{STATE}\"");
    let packages = lock.lines().filter(|line| line.starts_with("package "));
    assert!(packages.clone().count() == 5 && packages.clone().all(|line| line.ends_with(&mark)), "{lock}");
    let dated = [("Date", "Fri, 27 Nov 2026 21:00:05 UTC")];
    family.stable.publish(&family.key, &dated).unwrap();
    family.run(&["update"]).ok();
    assert_eq!(family.lock(), lock);
    family.run(&["push", "os", "--packages"]).ok();

    // The mirror deletes: a build takes it from the archive, without asking the registry.
    family.stable.remove("base").unwrap();
    let cache = root.join("cache/sha256");
    let build = || {
        std::fs::remove_dir_all(&cache).unwrap();
        family.run(&["build", "os", "--force", "--locked"])
    };
    build().ok();
    let asked = archive.requests();
    assert_eq!(asked, [format!("/{STATE}/pool/base_1.0_all.deb")]);

    // What the archive has wrongly, the registry has rightly.
    let wrong = copy.join("base_1.0_all.deb");
    let right = std::fs::read(&wrong).unwrap();
    std::fs::write(&wrong, vec![7; right.len()]).unwrap();
    build().ok();
    assert!(archive.requests().len() > asked.len());

    // And when the archive is not there; without either, the message says all.
    let uri = archive.uri();
    drop(archive);
    build().ok();
    let line = lock.lines().find(|line| line.starts_with("package \"local\" \"base\" ")).unwrap();
    let hash = line.split("sha256=\"").nth(1).unwrap().split('"').next().unwrap();
    std::fs::remove_file(registry.blob_file(hash)).unwrap();
    let failed = build();
    assert_eq!(failed.code, 3, "{}", failed.stderr);
    for part in [
        "base 1.0",
        &format!("from the snapshot archive: {uri}/{STATE}/"),
        "`imgforge update`",
        "`imgforge push --packages`",
    ] {
        assert!(failed.stderr.contains(part), "{part} is missing in\n{}", failed.stderr);
    }
}
