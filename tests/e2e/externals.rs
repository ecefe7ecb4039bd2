//! Images from outside: locked to digests, moved when asked, installed upon. The registry is Debian's
//! `docker-registry` on loopback, and what is pushed to it is what a `docker push` pushes.

use imgforge_testkit::docker::Docker;
use imgforge_testkit::http::ask;
use imgforge_testkit::registry::{Registry, Setup};
use imgforge_testkit::workspace::TestWorkspace;

use serde_json::{Value, json};

use crate::updates::Family;
use crate::{imgforge, with_action};

fn lock(workspace: &TestWorkspace) -> String {
    std::fs::read_to_string(workspace.root().join("imgforge.lock")).unwrap()
}

/// Pushes an image of the engine under another name, which the engine forgets.
pub(crate) fn push(image: &str, reference: &str) {
    Docker::run(&["tag", image, reference]);
    Docker::run(&["push", reference]);
    Docker::run(&["rmi", reference]);
}

/// A base with `busybox` and a file `/version`, pushed.
fn push_base(maker: &TestWorkspace, version: &str, reference: &str) {
    maker.busybox_base("tools");
    maker.image("base", &format!("    from \"tools\"\n    run \"echo {version} > /version\""));
    imgforge(maker, &["build", "base"]).ok();
    push(&maker.repository("base"), reference);
}

fn version_in(workspace: &TestWorkspace, image: &str) -> String {
    Docker::run(&["run", "--rm", &workspace.repository(image), "cat", "/version"])
}

#[test]
fn a_tag_is_locked_and_moves_only_when_it_is_asked_to() {
    let registry = Registry::start(Setup::default()).unwrap();
    let maker = TestWorkspace::new();
    let repository = format!("{}/tools/base", registry.host());
    let reference = format!("{repository}:1");
    push_base(&maker, "one", &reference);

    let workspace = TestWorkspace::new();
    workspace.image("web", &format!("    from \"{reference}\"\n    run \"cp /version /web\""));
    workspace.image("page", "    dockerfile \"Dockerfile\"");
    workspace
        .write("page/Dockerfile", &format!("ARG TAG=1\nFROM {repository}:$TAG\nRUN cp /version /page\n"));
    workspace.image("shop", "    from \"web\"\n    run \"cp /version /shop\"");
    workspace.busybox_base("apart");

    let refused = imgforge(&workspace, &["build", "--locked"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("it has no digest of {reference}")), "{}", refused.stderr);
    imgforge(&workspace, &["build"]).ok();
    let before = lock(&workspace);
    let line = format!("external \"{reference}\" digest=\"sha256:");
    assert!(before.lines().any(|text| text.starts_with(&line)), "{before}");
    let rendered = imgforge(&workspace, &["render", "web"]).ok().stdout;
    assert!(rendered.contains(&format!("FROM {reference}@sha256:")), "{rendered}");
    assert_eq!(version_in(&workspace, "page"), "one");

    // The tag moves; builds do not.
    push_base(&maker, "two", &reference);
    let plan = imgforge(&workspace, &["plan", "--format", "json"]).ok().json();
    assert_eq!(with_action(&plan, "fresh"), ["apart", "page", "shop", "web"]);
    let outdated = imgforge(&workspace, &["outdated", "--format", "json"]);
    assert_eq!(outdated.code, 10, "{}", outdated.stderr);
    let row = &outdated.json()["externals"][0];
    assert_eq!(row["reference"], reference.as_str());
    assert_eq!(row["images"], serde_json::json!(["page", "shop", "web"]));
    assert_eq!(row["served"], true);
    assert_ne!(row["newest"], row["locked"]);
    let shown = imgforge(&workspace, &["outdated"]).stdout;
    assert!(shown.contains("registry  3 of 4 images, from page, web"), "{shown}");
    imgforge(&workspace, &["update", "--security"]).ok();
    assert_eq!(lock(&workspace), before, "it is no security update");

    let updated = imgforge(&workspace, &["update", &repository]).ok();
    assert!(updated.stderr.contains("3 of 4 images, from page, web"), "{}", updated.stderr);
    assert_ne!(lock(&workspace), before);
    let plan = imgforge(&workspace, &["plan"]).ok().stdout;
    assert!(plan.contains(&format!("external {reference} changed")), "{plan}");
    let plan = imgforge(&workspace, &["plan", "--format", "json"]).ok().json();
    assert_eq!(with_action(&plan, "build"), ["page", "shop", "web"]);
    imgforge(&workspace, &["build", "--locked"]).ok();
    for image in ["page", "shop"] {
        assert_eq!(version_in(&workspace, image), "two");
    }
    assert_eq!(imgforge(&workspace, &["outdated"]).ok().stdout, "");

    // A build needs no registry for what is there; a comparison does.
    drop(registry);
    imgforge(&workspace, &["build", "--locked"]).ok();
    let refused = imgforge(&workspace, &["outdated"]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("cannot be reached"), "{}", refused.stderr);
}

#[test]
fn a_base_that_is_not_there_or_not_any_more_is_told_with_its_line() {
    let registry = Registry::start(Setup::default()).unwrap();
    let maker = TestWorkspace::new();
    let reference = format!("{}/tools/base:1", registry.host());
    push_base(&maker, "one", &reference);

    let workspace = TestWorkspace::new();
    let missing = reference.replace(":1", ":2");
    workspace.image("web", &format!("    from \"{missing}\""));
    let refused = imgforge(&workspace, &["build"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    for part in [&format!("has no {missing}"), "web/image.kdl:2"] {
        assert!(refused.stderr.contains(part), "{part} is missing in\n{}", refused.stderr);
    }
    workspace.image("web", &format!("    from \"{reference}\"\n    run \"true\""));
    imgforge(&workspace, &["update"]).ok();

    // Nobody has the digest that is locked.
    let gone = format!("sha256:{}", "12".repeat(32));
    let text = lock(&workspace);
    let digest = text.lines().find_map(|line| line.split_once("digest=\"")?.1.split('"').next()).unwrap();
    workspace.write("imgforge.lock", &text.replace(digest, &gone));
    let failed = imgforge(&workspace, &["build"]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    for part in ["no registry has", &gone[..20], "web/image.kdl:2", &format!("`imgforge update {reference}`")]
    {
        assert!(failed.stderr.contains(part), "{part} is missing in\n{}", failed.stderr);
    }
    let outdated = imgforge(&workspace, &["outdated", "--format", "json"]);
    assert_eq!(outdated.code, 10);
    assert_eq!(outdated.json()["externals"][0]["served"], false);
    imgforge(&workspace, &["update", &reference]).ok();
    imgforge(&workspace, &["build"]).ok();
    assert_eq!(version_in(&workspace, "web"), "one");
}

#[test]
fn packages_are_installed_on_a_debian_image_from_outside() {
    let registry = Registry::start(Setup::default()).unwrap();
    let mut family = Family::new(true);
    family.run_in(&family.workspace, &["update"]).ok();
    family.run_in(&family.workspace, &["build", "app"]).ok();
    let reference = format!("{}/debian:12", registry.host());
    push(&family.workspace.repository("os"), &reference);

    let workspace = TestWorkspace::new();
    family.add_source(&workspace);
    workspace.image("web", &format!("    from \"{reference}\"\n    packages \"local\" \"libfoo-tool\""));
    workspace.image("page", "    from \"web\"\n    packages \"local\" \"hammer\" \"dash\"");
    family.run_in(&workspace, &["build"]).ok();
    let locked = lock(&workspace);
    for part in ["    has \"libc6\" \"", "    add \"libfoo-tool=1.0\"", "    add \"hammer=1.0\""] {
        assert!(locked.contains(part), "{part} is missing in\n{locked}");
    }
    assert!(!locked.contains("add \"dash"), "what the base has is not added");
    let installed = Docker::run(&[
        "run",
        "--rm",
        &workspace.repository("page"),
        "dpkg-query",
        "--show",
        "--showformat=${Package} ${Status}\n",
        "libfoo-tool",
        "libc6",
    ]);
    assert_eq!(installed, "libc6 install ok installed\nlibfoo-tool install ok installed");
    family.run_in(&workspace, &["build", "--locked"]).ok();

    // A base that has one of the packages itself.
    family.fix_libfoo();
    push(&family.workspace.repository("app"), &reference);
    let outdated = family.run_in(&workspace, &["outdated", "--format", "json"]);
    assert_eq!(outdated.json()["externals"][0]["images"], serde_json::json!(["page", "web"]));
    family.run_in(&workspace, &["update", &reference]).ok();
    let moved = lock(&workspace);
    for part in ["    has \"libfoo\" \"1.0\"", "    add \"hammer=1.0\""] {
        assert!(moved.contains(part), "{part} is missing in\n{moved}");
    }
    assert!(!moved.contains("add \"libfoo"), "{moved}");
    family.run_in(&workspace, &["build", "--locked"]).ok();
}

#[test]
fn packages_on_an_image_without_dpkg_are_refused() {
    let registry = Registry::start(Setup::default()).unwrap();
    let family = Family::new(false);
    let reference = format!("{}/tools/base:1", registry.host());
    push_base(&family.workspace, "one", &reference);
    let workspace = TestWorkspace::new();
    family.add_source(&workspace);
    workspace.image("web", &format!("    from \"{reference}\"\n    packages \"local\" \"hammer\""));
    let refused = family.run_in(&workspace, &["update"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("has no dpkg"), "{}", refused.stderr);
}

/// The digest and size of what a tag leads to.
fn pushed(registry: &Registry, repository: &str, tag: &str) -> (String, u64) {
    let uri = format!("http://{}/v2/{repository}/manifests/{tag}", registry.host());
    let accept = "application/vnd.docker.distribution.manifest.v2+json";
    let reply = ask("HEAD", &uri, &[("Accept", accept)], "").unwrap();
    let header = |name: &str| reply.header(name).unwrap().to_owned();
    (header("docker-content-digest"), header("content-length").parse().unwrap())
}

/// Tags an index of `images`, each with its platform, and an attestation as BuildKit attaches it. Its digest.
fn push_index(
    registry: &Registry,
    repository: &str,
    tag: &str,
    images: &[(&str, &str, &(String, u64))],
) -> String {
    let image = |(os, architecture, (digest, size)): &(&str, &str, &(String, u64))| {
        json!({
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "digest": digest,
            "size": size,
            "platform": {"os": os, "architecture": architecture},
        })
    };
    let attestation = ("unknown", "unknown", images[0].2);
    let entries: Vec<Value> = images.iter().chain([&attestation]).map(image).collect();
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
    let uri = format!("http://{}/v2/{repository}/manifests/{tag}", registry.host());
    let reply = ask("PUT", &uri, &[("Content-Type", media_type)], &index.to_string()).unwrap();
    reply.header("docker-content-digest").unwrap().to_owned()
}

#[test]
fn an_index_is_locked_with_the_digest_of_each_platform_and_another_platform_rebuilds_nothing() {
    let registry = Registry::start(Setup::default()).unwrap();
    let maker = TestWorkspace::new();
    let images: Vec<(String, u64)> = ["one", "two", "three"]
        .iter()
        .map(|version| {
            push_base(&maker, version, &format!("{}/tools/base:{version}", registry.host()));
            pushed(&registry, "tools/base", version)
        })
        .collect();
    let [one, two, three] = &images[..] else { unreachable!("three versions") };
    let index = |amd64, arm64| {
        push_index(&registry, "tools/base", "1", &[("linux", "arm64", arm64), ("linux", "amd64", amd64)])
    };
    let first = index(one, two);

    let reference = format!("{}/tools/base:1", registry.host());
    let workspace = TestWorkspace::new();
    workspace.image("web", &format!("    from \"{reference}\"\n    run \"cp /version /web\""));
    workspace.image("page", "    dockerfile \"Dockerfile\"");
    workspace.write("page/Dockerfile", &format!("FROM {reference}\nRUN cp /version /page\n"));
    imgforge(&workspace, &["build"]).ok();
    let locked = |digest: &str, amd64: &str, arm64: &str| {
        format!(
            "external \"{reference}\" digest=\"{digest}\" {{\n    platform \"linux/amd64\" \"{amd64}\"\n    \
             platform \"linux/arm64\" \"{arm64}\"\n}}\n"
        )
    };
    let before = lock(&workspace);
    assert!(before.contains(&locked(&first, &one.0, &two.0)), "{before}");
    assert_eq!(version_in(&workspace, "web"), "one");
    let shown = imgforge(&workspace, &["show", "web", "--format", "json"]).ok().json();
    let platforms = json!({"linux/amd64": one.0, "linux/arm64": two.0});
    assert_eq!(
        shown["externals"],
        json!([{"reference": reference, "digest": first, "platforms": platforms, "oci_layout": null}])
    );
    let shown = imgforge(&workspace, &["show", "web"]).ok().stdout;
    assert!(shown.contains(&format!("  linux/arm64  {}", &two.0[..19])), "{shown}");

    // Another platform's image moves: what imgforge renders is for its own platform.
    let second = index(one, three);
    let updated = imgforge(&workspace, &["update", "--format", "json"]).ok().json();
    assert_eq!(
        updated["externals"],
        json!([{"reference": reference, "old": first, "new": second, "platforms": ["linux/arm64"], "images": ["page"]}])
    );
    assert!(lock(&workspace).contains(&locked(&second, &one.0, &three.0)), "{}", lock(&workspace));
    let plan = imgforge(&workspace, &["plan", "--format", "json"]).ok().json();
    assert_eq!(
        (with_action(&plan, "fresh"), with_action(&plan, "build")),
        (vec!["web".into()], vec!["page".into()])
    );
    workspace.write("imgforge.lock", &before);
    let told = imgforge(&workspace, &["update"]).ok().stderr;
    assert!(told.contains("  other platforms  1 of 2 images, from page"), "{told}");

    // And ours.
    index(two, three);
    imgforge(&workspace, &["update"]).ok();
    let plan = imgforge(&workspace, &["plan", "--format", "json"]).ok().json();
    assert_eq!(with_action(&plan, "build"), ["page", "web"]);
    imgforge(&workspace, &["build", "--locked"]).ok();
    assert_eq!(version_in(&workspace, "web"), "two");

    // A lock from before has only the platform's own digest, and stays as it is.
    let old: String = lock(&workspace)
        .lines()
        .filter(|line| !line.contains("arm64"))
        .fold(String::new(), |text, line| text + line + "\n");
    workspace.write("imgforge.lock", &old);
    imgforge(&workspace, &["build", "--locked"]).ok();
    let plan = imgforge(&workspace, &["plan", "--format", "json"]).ok().json();
    assert_eq!(with_action(&plan, "fresh"), ["page", "web"]);
}
