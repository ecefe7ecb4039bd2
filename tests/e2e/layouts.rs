//! Images from outside that lie in OCI image layouts: locked, moved and built upon as those of registries are. The
//! layouts are those that imgforge itself and skopeo write.

use std::process::Command;

use imgforge_testkit::docker::Docker;
use imgforge_testkit::registry::{Registry, Setup};
use imgforge_testkit::workspace::{Ran, TestWorkspace};

use crate::externals::push;
use crate::updates::Family;
use crate::{IMGFORGE, imgforge, with_action};

const REFERENCE: &str = "tools/base:1";

fn embedded(workspace: &TestWorkspace, args: &[&str]) -> Ran {
    let mut command = workspace.command(IMGFORGE, args);
    Ran::of(command.env("IMGFORGE_ENGINE", "embedded").output().unwrap())
}

/// Puts a base with `busybox` and a file `/version` into the layout `vendor` of a workspace.
fn put_base(maker: &TestWorkspace, version: &str, user: &TestWorkspace) {
    maker.busybox_base("tools");
    maker.image("base", &format!("    from \"tools\"\n    run \"echo {version} > /version\"\n    tag \"1\""));
    embedded(maker, &["build", "base"]).ok();
    embedded(maker, &["export", "base", "--oci", user.root().join("vendor").as_str()]).ok();
}

/// Says in `imgforge.kdl` that an image is in a layout.
fn place(workspace: &TestWorkspace, line: &str) {
    let head = std::fs::read_to_string(workspace.root().join("imgforge.kdl")).unwrap();
    let head = head.split("external").next().unwrap();
    workspace.write("imgforge.kdl", &format!("{head}external {line}\n"));
}

fn told(ran: &Ran, parts: &[&str]) {
    assert_ne!(ran.code, 0, "{}", ran.stdout);
    for part in parts {
        assert!(ran.stderr.contains(part), "{part} is missing in\n{}", ran.stderr);
    }
}

#[test]
fn an_image_in_a_layout_is_locked_moves_when_asked_and_is_built_upon_by_both_engines() {
    let (maker, user) = (TestWorkspace::new(), TestWorkspace::new());
    put_base(&maker, "one", &user);
    let name = format!("{}:1", maker.repository("base"));
    place(&user, &format!("\"{REFERENCE}\" oci-layout=\"vendor\" name=\"{name}\""));
    user.image("web", &format!("    from \"{REFERENCE}\"\n    run \"cp /version /web\""));
    user.image("page", "    dockerfile \"Dockerfile\"");
    user.write("page/Dockerfile", "ARG TAG=1\nFROM tools/base:$TAG\nRUN cp /version /page\n");
    user.image("copy", &format!("    from \"web\"\n    copy \"/version\" \"/copy\" from=\"{REFERENCE}\""));
    user.busybox_base("apart");

    let built = imgforge(&user, &["build"]).ok();
    assert!(built.stderr.contains("tools/base:1 layers"), "{}", built.stderr);
    let version = |image: &str, path: &str| {
        Docker::run(&["run", "--rm", "--network", "none", &user.repository(image), "/bin/cat", path])
    };
    for (image, path) in [("web", "/web"), ("page", "/page"), ("copy", "/copy")] {
        assert_eq!(version(image, path), "one");
    }
    // No image of yours has a name taken away.
    assert_eq!(Docker::image_id(REFERENCE), None);
    let plan = imgforge(&user, &["plan", "--format", "json"]).ok().json();
    assert_eq!(with_action(&plan, "fresh"), ["apart", "copy", "page", "web"]);
    let built = embedded(&user, &["build"]).ok();
    assert!(built.stderr.contains("4 built"), "{}", built.stderr);

    // The layout gets another one; what is there stays as long as nobody asks.
    put_base(&maker, "two", &user);
    for engine in [imgforge, embedded] {
        assert!(engine(&user, &["build", "--locked"]).ok().stderr.contains("Fresh 4 images"));
    }
    let outdated = imgforge(&user, &["outdated", "--format", "json"]);
    assert_eq!(outdated.code, 10, "{}", outdated.stderr);
    let row = &outdated.json()["externals"][0];
    assert_eq!((&row["reference"], &row["served"]), (&REFERENCE.into(), &true.into()));
    imgforge(&user, &["update", REFERENCE]).ok();
    let plan = imgforge(&user, &["plan"]).ok().stdout;
    assert!(plan.contains("external tools/base:1 changed"), "{plan}");
    imgforge(&user, &["build", "--locked"]).ok();
    for (image, path) in [("web", "/web"), ("page", "/page"), ("copy", "/copy")] {
        assert_eq!(version(image, path), "two");
    }
    // Its first state is of no use any more.
    for engine in [imgforge, embedded] {
        let pruned = engine(&user, &["prune", "--format", "json"]).ok().json();
        let loaded = |row: &&serde_json::Value| row["name"] == REFERENCE;
        let rows: Vec<_> = pruned["images"].as_array().unwrap().iter().filter(loaded).cloned().collect();
        assert_eq!(rows.len(), 1, "{pruned}");
        engine(&user, &["prune", "--yes"]).ok();
        let pruned = engine(&user, &["prune", "--format", "json"]).ok().json();
        assert_eq!(pruned["images"].as_array().unwrap().iter().find(loaded), None);
    }
    // What the engine has needs no layout any more.
    std::fs::remove_dir_all(user.root().join("vendor")).unwrap();
    assert!(imgforge(&user, &["build", "--locked"]).ok().stderr.contains("Fresh 4 images"));
    user.image("more", &format!("    from \"{REFERENCE}\"\n    run \"cp /version /more\""));
    imgforge(&user, &["build", "--locked"]).ok();
    assert_eq!(version("more", "/more"), "two");
    told(&embedded(&user, &["build", "--locked"]), &["cannot be used: it is not there", "imgforge.kdl:"]);
}

#[test]
fn what_is_wrong_with_a_layout_is_told_at_its_line() {
    let (maker, user) = (TestWorkspace::new(), TestWorkspace::new());
    put_base(&maker, "one", &user);
    user.image("web", &format!("    from \"{REFERENCE}\"\n    run \"cp /version /web\""));
    let line = format!(
        "imgforge.kdl:{}",
        1 + std::fs::read_to_string(user.root().join("imgforge.kdl")).unwrap().lines().count()
    );

    for (written, parts) in [
        (format!("\"{REFERENCE}\""), &["lacks its place", "oci-layout=\"FOLDER\""][..]),
        (format!("\"{REFERENCE}\" oci-layuot=\"vendor\""), &["oci-layuot", "lacks its place"]),
        (
            "\"tools/base:2\" oci-layout=\"vendor\"".to_owned(),
            &["no image stands on", "did you mean \"tools/base:1\"?"],
        ),
        (format!("\"{REFERENCE}\" oci-layout=\"vendro\""), &["it is not there", "skopeo copy"]),
        (format!("\"{REFERENCE}\" oci-layout=\"web\""), &["no oci-layout"]),
        (
            format!("\"{REFERENCE}\" oci-layout=\"vendor\""),
            &["no image tools/base:1 or 1", &maker.repository("base")],
        ),
    ] {
        place(&user, &written);
        let ran = embedded(&user, &["update"]);
        told(&ran, parts);
        told(&ran, &[&line]);
    }

    // A layer with another byte: nothing is made of it, in either engine.
    place(&user, &format!("\"{REFERENCE}\" oci-layout=\"vendor\" name=\"{}:1\"", maker.repository("base")));
    embedded(&user, &["update"]).ok();
    let blobs = user.root().join("vendor/blobs/sha256");
    let size = |path: &camino::Utf8Path| std::fs::metadata(path).unwrap().len();
    let blobs = || blobs.read_dir_utf8().unwrap().map(|entry| entry.unwrap().into_path());
    let largest = blobs().max_by_key(|path| size(path)).unwrap();
    let good = std::fs::read(&largest).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::write(&largest, &bad).unwrap();
    for engine in [imgforge, embedded] {
        told(&engine(&user, &["build", "--locked"]), &["was expected", "it is damaged", &line]);
    }
    std::fs::remove_file(&largest).unwrap();
    for engine in [imgforge, embedded] {
        told(&engine(&user, &["build", "--locked"]), &["has no blob", &line]);
    }
    std::fs::write(&largest, &good).unwrap();
    embedded(&user, &["build", "--locked"]).ok();
    // Where nothing can be kept, it is built all the same.
    std::fs::remove_dir_all(user.root().join(".imgforge")).unwrap();
    user.write(".imgforge", "");
    imgforge(&user, &["build", "--locked"]).ok();
}

#[test]
fn packages_are_installed_on_a_debian_image_of_a_layout_that_skopeo_wrote() {
    let registry = Registry::start(Setup::default()).unwrap();
    let family = Family::new(true);
    family.run_in(&family.workspace, &["update"]).ok();
    family.run_in(&family.workspace, &["build", "os"]).ok();
    let reference = format!("{}/debian:12", registry.host());
    push(&family.workspace.repository("os"), &reference);

    let workspace = TestWorkspace::new();
    family.add_source(&workspace);
    let layout = workspace.root().join("vendor/debian");
    std::fs::create_dir_all(layout.parent().unwrap()).unwrap();
    let copied = Command::new("skopeo")
        .args(["copy", "--quiet", "--src-tls-verify=false"])
        .args([format!("docker://{reference}"), format!("oci:{layout}:12")])
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    drop(registry);

    let head = std::fs::read_to_string(workspace.root().join("imgforge.kdl")).unwrap();
    workspace.write("imgforge.kdl", &format!("{head}external \"debian:12\" oci-layout=\"vendor/debian\"\n"));
    workspace.image("web", "    from \"debian:12\"\n    packages \"local\" \"libfoo-tool\"");
    family.run_in(&workspace, &["build"]).ok();
    let locked = std::fs::read_to_string(workspace.root().join("imgforge.lock")).unwrap();
    for part in ["external \"debian:12\" digest", "    has \"libc6\" \"", "    add \"libfoo-tool=1.0\""] {
        assert!(locked.contains(part), "{part} is missing in\n{locked}");
    }
    let shown = ["run", "--rm", &workspace.repository("web"), "dpkg-query", "--show", "libfoo-tool"];
    assert_eq!(Docker::run(&shown), "libfoo-tool\t1.0");
}

#[test]
fn an_image_from_outside_without_a_tag_is_locked_found_by_lint_and_built_upon_by_both_engines() {
    let (maker, user) = (TestWorkspace::new(), TestWorkspace::new());
    put_base(&maker, "one", &user);
    let name = format!("{}:1", maker.repository("base"));
    place(&user, &format!("\"tools\" oci-layout=\"vendor\" name=\"{name}\""));
    user.image("page", "    dockerfile \"Dockerfile\"");
    user.write("page/Dockerfile", "FROM tools\nRUN cp /version /page\n");
    user.image("web", "    from \"tools\"\n    run \"cp /version /web\"");
    for engine in [imgforge, embedded] {
        assert!(engine(&user, &["build"]).ok().stderr.contains("2 built"));
    }
    let page = user.repository("page");
    assert_eq!(Docker::run(&["run", "--rm", "--network", "none", &page, "/bin/cat", "/page"]), "one");
    let lock = std::fs::read_to_string(user.root().join("imgforge.lock")).unwrap();
    assert!(lock.contains("external \"tools\" digest="), "{lock}");
    let found = imgforge(&user, &["lint"]).ok().stdout;
    assert!(found.contains("IF012") && found.contains("page/Dockerfile:1:6"), "{found}");
    // In a manifest, what is like a name of the workspace is a typing error.
    user.image("more", "    from \"pag\"");
    let refused = imgforge(&user, &["graph"]);
    told(&refused, &["there is no image \"pag\"", "did you mean \"page\"?", "\"pag:TAG\""]);
}
