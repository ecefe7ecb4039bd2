//! Pushing, promoting and going back, against a real registry; and what a second machine makes of it.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use imgforge_testkit::docker::Docker;
use imgforge_testkit::engine::SecondEngine;
use imgforge_testkit::fault_proxy::{Fault, FaultProxy};
use imgforge_testkit::http::ask;
use imgforge_testkit::registry::{PASSWORD, Registry, Setup, USER};
use imgforge_testkit::workspace::{Ran, TestWorkspace};

use crate::{IMGFORGE, imgforge};

/// `base` -> `mid` -> `leaf`, `beside`, in the registry `host`. `mid` has a test, and a tag of its version.
fn family(host: &str) -> TestWorkspace {
    let family = TestWorkspace::at(host);
    family.busybox_base("base");
    family.write("mid/mid.conf", "one\n");
    family.image(
        "mid",
        "    from \"base\"\n    version \"1.0\"\n    copy \"mid.conf\" \"/mid.conf\"\n    tag \"latest\" \"v{{ version }}\"\n    \
         test \"has its file\" { file \"/mid.conf\" contains=\"o\" }",
    );
    family.image("leaf", "    from \"mid\"\n    run \"echo leaf > /leaf\"");
    family.image("beside", "    from \"base\"\n    run \"echo beside > /beside\"");
    family
}

fn registry() -> Registry {
    Registry::start(Setup { delete: true, ..Setup::default() }).expect("docker-registry starts")
}

/// What a registry answers to a request of its interface.
fn get(host: &str, path: &str) -> Option<serde_json::Value> {
    let accept = "application/vnd.oci.image.manifest.v1+json";
    let reply = ask("GET", &format!("http://{host}/v2/{path}"), &[("Accept", accept)], "").unwrap();
    if reply.status == 404 {
        return None;
    }
    assert_eq!(reply.status, 200, "{path}");
    Some(serde_json::from_slice(&reply.body).unwrap())
}

/// What a tag says that it is: the fingerprint of its manifest.
fn released(family: &TestWorkspace, host: &str, image: &str, tag: &str) -> Option<String> {
    let manifest = get(host, &format!("{}/{image}/manifests/{tag}", family.name()))?;
    Some(manifest["annotations"]["imgforge.fingerprint"].as_str().expect("a fingerprint").to_owned())
}

/// The fingerprint of every image, as the workspace describes it now.
fn fingerprints(family: &TestWorkspace) -> BTreeMap<String, String> {
    let plan = imgforge(family, &["plan", "--local", "--format", "json"]).ok().json();
    let rows = plan["targets"].as_array().unwrap().iter();
    rows.map(|row| (row["name"].as_str().unwrap().into(), row["fingerprint"].as_str().unwrap().into()))
        .collect()
}

/// All release tags lead to what the workspace describes.
fn assert_all_released(family: &TestWorkspace, host: &str) {
    for (image, fingerprint) in fingerprints(family) {
        assert_eq!(released(family, host, &image, "latest").as_ref(), Some(&fingerprint), "{image}");
    }
}

/// Forgets all images of the family and all caches: this is another machine now.
fn forget(family: &TestWorkspace) {
    Docker::remove_images_labelled(&format!("imgforge.workspace={}", family.name()));
    // There is none before the first run.
    let _ = std::fs::remove_dir_all(family.root().join(".imgforge"));
}

#[test]
fn what_was_pushed_is_fresh_elsewhere_and_a_change_builds_on_pulled_parents() {
    let registry = registry();
    let (host, family) = (registry.host(), family(registry.host()));
    let first = imgforge(&family, &["build", "--push"]).ok();
    assert!(first.stderr.contains("4 built"), "{}", first.stderr);
    assert_all_released(&family, host);
    assert_eq!(released(&family, host, "mid", "v1.0"), released(&family, host, "mid", "latest"));
    let again = imgforge(&family, &["build", "--push"]).ok();
    assert!(again.stderr.contains("Fresh 4 images"), "{}", again.stderr);

    forget(&family);
    let plan = imgforge(&family, &["plan"]).ok();
    assert!(plan.stdout.contains("nothing to build; 4 fresh"), "{}", plan.stdout);
    let nothing = imgforge(&family, &["build"]).ok();
    assert!(nothing.stderr.contains("Fresh 4 images"), "{}", nothing.stderr);
    assert_eq!(Docker::image_id(&format!("{}:latest", family.repository("mid"))), None, "nothing needs it");

    family.write("mid/mid.conf", "two\n");
    let plan = imgforge(&family, &["plan", "--format", "json"]).ok().json();
    let mid = plan["targets"].as_array().unwrap().iter().find(|row| row["name"] == "mid").unwrap();
    assert_eq!(mid["reasons"][0]["kind"], "file", "the registry says what it was built from: {mid}");
    let changed = imgforge(&family, &["build", "--push", "--format", "json"]).ok();
    let run = changed.json();
    let results: BTreeMap<&str, &str> = run["targets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["name"].as_str().unwrap(), row["result"].as_str().unwrap()))
        .collect();
    let expected = [("base", "pulled"), ("beside", "fresh"), ("leaf", "built"), ("mid", "built")];
    assert_eq!(results, expected.into(), "{}", changed.stderr);
    assert_all_released(&family, host);

    forget(&family);
    let tested = imgforge(&family, &["test", "mid"]).ok();
    assert!(tested.stderr.contains("Pulled"), "{}", tested.stderr);

    // Each manifest says what it stands on.
    let leaf = get(host, &format!("{}/leaf/manifests/latest", family.name())).unwrap();
    let base = leaf["annotations"]["org.opencontainers.image.base.digest"].as_str().unwrap();
    let uri = format!("http://{host}/v2/{}/mid/manifests/latest", family.name());
    let head = ask("HEAD", &uri, &[("Accept", "application/vnd.oci.image.manifest.v1+json")], "").unwrap();
    assert_eq!(head.header("docker-content-digest"), Some(base));
}

#[test]
fn a_second_docker_engine_builds_just_what_changed() {
    let engine = SecondEngine::start(400);
    let registry = registry();
    let host = registry.host();
    let _reach = engine.reach(host);
    let family = family(host);
    imgforge(&family, &["build", "--push"]).ok();
    std::fs::remove_dir_all(family.root().join(".imgforge")).unwrap();
    let there = |args: &[&str]| {
        let mut command = family.command(IMGFORGE, args);
        Ran::of(command.env("DOCKER_HOST", engine.host()).output().unwrap())
    };
    let fresh = there(&["build"]).ok();
    assert!(fresh.stderr.contains("Fresh 4 images"), "{}", fresh.stderr);
    assert_eq!(engine.docker(&["images", "-q"]), "", "nothing was pulled");
    family.write("mid/mid.conf", "two\n");
    let changed = there(&["build", "--push", "mid+"]).ok();
    assert!(changed.stderr.contains("2 built, 1 pulled"), "{}", changed.stderr);
    assert_all_released(&family, host);
}

#[test]
fn tags_go_back_with_the_commit_and_by_rollback() {
    let registry = registry();
    let (host, family) = (registry.host(), family(registry.host()));
    imgforge(&family, &["build", "--push"]).ok();
    let one = released(&family, host, "leaf", "latest");
    family.write("mid/mid.conf", "two\n");
    imgforge(&family, &["build", "--push"]).ok();
    let two = released(&family, host, "leaf", "latest");
    assert_ne!(one, two);

    let dry = imgforge(&family, &["rollback", "--dry-run", "--format", "json"]).ok().json();
    let moved: Vec<String> = dry["moves"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| format!("{}:{}", row["image"].as_str().unwrap(), row["tag"].as_str().unwrap()))
        .collect();
    assert_eq!(
        moved,
        ["mid:latest", "mid:v1.0", "leaf:latest"],
        "parents first, and nothing that did not move"
    );
    assert_eq!(released(&family, host, "leaf", "latest"), two, "--dry-run moves nothing");
    imgforge(&family, &["rollback"]).ok();
    assert_eq!(released(&family, host, "leaf", "latest"), one);
    assert_eq!(released(&family, host, "mid", "v1.0"), released(&family, host, "mid", "latest"));
    let further = imgforge(&family, &["rollback"]);
    assert_eq!(further.code, 2, "{}", further.stderr);
    assert!(further.stderr.contains("no earlier promotion"), "{}", further.stderr);

    // What the workspace says is promoted again, and an older state of it too.
    imgforge(&family, &["promote"]).ok();
    assert_eq!(released(&family, host, "leaf", "latest"), two);
    family.write("mid/mid.conf", "one\n");
    let undone = imgforge(&family, &["build", "--push"]).ok();
    assert!(!undone.stderr.contains("Built"), "{}", undone.stderr);
    assert_eq!(released(&family, host, "leaf", "latest"), one);
    let list = imgforge(&family, &["promote", "--list", "--format", "json"]).ok().json();
    assert_eq!(list.as_object().unwrap().len(), 5, "{list}");
}

#[test]
fn a_failing_test_keeps_its_image_and_what_stands_on_it_from_being_promoted() {
    let registry = registry();
    let (host, family) = (registry.host(), family(registry.host()));
    imgforge(&family, &["build", "--push"]).ok();
    let before = released(&family, host, "leaf", "latest");
    family.write("mid/mid.conf", "broken\n".replace('o', "0").as_str());
    family.image("beside", "    from \"base\"\n    run \"echo new > /beside\"");
    let broken = imgforge(&family, &["build", "--push"]);
    assert_eq!(broken.code, 1, "{}", broken.stderr);
    assert_eq!(released(&family, host, "leaf", "latest"), before);
    let now = fingerprints(&family);
    assert_eq!(
        released(&family, host, "beside", "latest").as_ref(),
        Some(&now["beside"]),
        "a neighbour goes on"
    );
    assert_ne!(released(&family, host, "mid", "latest").as_ref(), Some(&now["mid"]));
    // Nor is it promoted by hand.
    let by_hand = imgforge(&family, &["promote", "mid"]);
    assert_eq!(by_hand.code, 1, "{}", by_hand.stderr);
}

#[test]
fn images_that_are_not_there_are_named() {
    let registry = registry();
    let family = family(registry.host());
    let push = imgforge(&family, &["push", "leaf"]);
    assert_eq!(push.code, 2, "{}", push.stderr);
    assert!(push.stderr.contains("base, mid and leaf are not built"), "{}", push.stderr);
    imgforge(&family, &["build"]).ok();
    let promote = imgforge(&family, &["promote", "leaf"]);
    assert_eq!(promote.code, 1, "{}", promote.stderr);
    assert!(promote.stderr.contains("imgforge push"), "{}", promote.stderr);
    let dry = imgforge(&family, &["push", "leaf", "--dry-run"]).ok();
    assert!(dry.stderr.contains("base, leaf, mid"), "{}", dry.stderr);
    imgforge(&family, &["push", "leaf"]).ok();
    imgforge(&family, &["promote", "leaf"]).ok();
    assert!(released(&family, registry.host(), "leaf", "latest").is_some());
    assert_eq!(released(&family, registry.host(), "mid", "latest"), None, "it was not asked for");

    let wrong = TestWorkspace::at(registry.host());
    wrong.busybox_base("base");
    for (place, expected) in [("/Acme\"", "lower-case"), ("/acme\" ca=\"no.pem\"", "no.pem")] {
        let text =
            format!("workspace \"{}\" {{\n    registry \"{}{place}\n}}\n", wrong.name(), registry.host());
        wrong.write("imgforge.kdl", &text);
        let plan = imgforge(&wrong, &["plan"]);
        assert_eq!(plan.code, 2, "{}", plan.stderr);
        assert!(plan.stderr.contains("imgforge.kdl:2"), "{}", plan.stderr);
        assert!(plan.stderr.contains(expected), "{}", plan.stderr);
    }

    let without = TestWorkspace::new();
    without.write("imgforge.kdl", "workspace \"alone\"\n");
    without.busybox_base("base");
    let push = imgforge(&without, &["push"]);
    assert_eq!(push.code, 2, "{}", push.stderr);
    assert!(push.stderr.contains("registry \"HOST/PATH\""), "{}", push.stderr);
}

#[test]
fn a_registry_that_is_gone_is_warned_of_and_only_a_push_fails() {
    let registry = registry();
    let host = registry.host().to_owned();
    let family = family(&host);
    drop(registry);
    let built = imgforge(&family, &["build", "base"]).ok();
    assert!(built.stderr.contains("Warning") && built.stderr.contains(&host), "{}", built.stderr);
    let local = imgforge(&family, &["build", "base", "--local", "--force"]).ok();
    assert!(!local.stderr.contains("Warning"), "{}", local.stderr);
    let pushed = imgforge(&family, &["build", "base", "--push"]);
    assert_eq!(pushed.code, 3, "{}", pushed.stderr);
    assert!(pushed.stderr.contains(&host), "{}", pushed.stderr);
}

#[test]
fn a_registry_with_a_login_takes_it_from_the_environment_and_from_docker() {
    let registry =
        Registry::start(Setup { login: true, ..Setup::default() }).expect("docker-registry starts");
    let family = family(registry.host());
    let nobody = tempfile::tempdir().unwrap();
    let run = |config: &std::path::Path, login: Option<(&str, &str)>, args: &[&str]| {
        let mut command = family.command(IMGFORGE, args);
        command.env("DOCKER_CONFIG", config);
        if let Some((user, password)) = login {
            command.env("IMGFORGE_REGISTRY_USER", user).env("IMGFORGE_REGISTRY_PASSWORD", password);
            command.env("IMGFORGE_REGISTRY_HOST", registry.host());
        }
        Ran::of(command.output().unwrap())
    };
    let refused = run(nobody.path(), None, &["build", "base", "--push"]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    let wrong = run(nobody.path(), Some((USER, "wrong-password")), &["build", "base", "--push"]);
    assert_eq!(wrong.code, 3, "{}", wrong.stderr);
    assert!(wrong.stderr.contains("IMGFORGE_REGISTRY_USER"), "{}", wrong.stderr);
    assert!(!wrong.stderr.contains("wrong-password"), "{}", wrong.stderr);
    run(nobody.path(), Some((USER, PASSWORD)), &["build", "base", "--push"]).ok();

    // As `docker login` writes it; and an engine that pulls is given it too.
    let config = tempfile::tempdir().unwrap();
    let login = Command::new("docker")
        .args(["login", "-u", USER, "--password-stdin", registry.host()])
        .env("DOCKER_CONFIG", config.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut login = login.unwrap();
    std::io::Write::write_all(&mut login.stdin.take().unwrap(), PASSWORD.as_bytes()).unwrap();
    assert!(login.wait().unwrap().success());
    forget(&family);
    let pulled = run(config.path(), None, &["build", "mid"]).ok();
    assert!(pulled.stderr.contains("1 built, 1 pulled"), "{}", pulled.stderr);
}

#[test]
fn a_registry_that_fails_now_and_then_only_takes_longer() {
    let registry = registry();
    let proxy = FaultProxy::start(registry.host()).unwrap();
    let family = family(&proxy.host());
    for (method, part, fault) in [
        ("GET", "/manifests/", Fault::Status(500)),
        ("HEAD", "/blobs/", Fault::Status(503)),
        ("PUT", "/uploads/", Fault::Status(500)),
        ("PUT", "/manifests/", Fault::Status(500)),
    ] {
        proxy.fail(method, part, fault, 1);
    }
    imgforge(&family, &["build", "--push"]).ok();
    assert_eq!(proxy.met(), 4, "every fault was met");
    proxy.heal();
    assert_all_released(&family, registry.host());
}

#[test]
fn two_jobs_at_once_end_well() {
    let registry = registry();
    let family = family(registry.host());
    // Two checkouts of one commit, as two jobs have them; they share an engine, which makes it harder.
    let other = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-a").arg(family.root().join(".")).arg(other.path()).status();
    assert!(copied.unwrap().success());
    let start = |folder: &std::path::Path| {
        let mut command = family.command(IMGFORGE, &["build", "--push"]);
        command.current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let both = [start(family.root().as_std_path()), start(other.path())];
    for job in both {
        Ran::of(job.wait_with_output().unwrap()).ok();
    }
    assert_all_released(&family, registry.host());
    forget(&family);
    let pulled = imgforge(&family, &["build", "--pull"]).ok();
    assert!(pulled.stderr.contains("4 pulled"), "{}", pulled.stderr);
}

#[test]
fn a_push_that_is_killed_is_ended_by_the_next_one() {
    let registry = registry();
    let family = family(registry.host());
    imgforge(&family, &["build"]).ok();
    for millis in [20, 60, 100, 150, 200, 300] {
        let mut child = family
            .command(IMGFORGE, &["build", "--push"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(millis));
        child.kill().unwrap();
        child.wait().unwrap();
        // Whatever tag is there leads to what can be pulled.
        for image in ["base", "mid", "leaf", "beside"] {
            if released(&family, registry.host(), image, "latest").is_some() {
                Docker::run(&["pull", "-q", &format!("{}:latest", family.repository(image))]);
            }
        }
    }
    imgforge(&family, &["build", "--push"]).ok();
    assert_all_released(&family, registry.host());
    let left = std::fs::read_dir(family.root().join(".imgforge/push")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "what the killed ones had left is removed");
}

#[test]
fn only_what_nobody_needs_is_pruned() {
    let registry = registry();
    let (host, family) = (registry.host(), family(registry.host()));
    let content = |image: &str| format!("f-{}", &fingerprints(&family)[image][..32]);
    imgforge(&family, &["build", "--push"]).ok();
    let old: Vec<String> = ["mid", "leaf"].iter().map(|image| content(image)).collect();
    let container = imgforge_testkit::docker::Container::start(&[
        &format!("{}:{}", family.repository("leaf"), old[1]),
        "/bin/sleep",
        "1000",
    ]);
    family.write("mid/mid.conf", "two\n");
    imgforge(&family, &["build", "--push"]).ok();
    let is_there =
        |image: &str, tag: &str| get(host, &format!("{}/{image}/manifests/{tag}", family.name())).is_some();
    // The cache of whoever runs this test is left alone.
    let cache = tempfile::tempdir().unwrap();
    let packages = cache.path().join("sha256");
    std::fs::create_dir(&packages).unwrap();
    for (name, time) in [("young", "now"), ("old", "2020-01-01")] {
        let file = packages.join(name);
        std::fs::write(&file, name).unwrap();
        assert!(Command::new("touch").args(["-d", time]).arg(&file).status().unwrap().success());
    }
    let prune = |args: &[&str]| {
        let args = [&["prune", "--registry", "--format", "json"], args].concat();
        let mut command = family.command(IMGFORGE, &args);
        Ran::of(command.env("IMGFORGE_CACHE", cache.path()).output().unwrap()).ok().json()
    };
    let young = prune(&["--keep-promotions", "1"]);
    assert_eq!(young["manifests"].as_array().unwrap().len(), 0, "they are young: {young}");
    let reachable = prune(&["--keep-days", "0"]);
    assert_eq!(reachable["manifests"].as_array().unwrap().len(), 0, "a rollback needs them: {reachable}");
    let shown = prune(&["--keep-days", "0", "--keep-promotions", "1"]);
    let names: Vec<&str> =
        shown["manifests"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["leaf", "mid"]);
    let images: Vec<&str> =
        shown["images"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(images, ["mid"], "a container runs from the old leaf: {shown}");
    assert_eq!((&shown["packages"], &shown["package_bytes"]), (&1.into(), &3.into()));
    assert!(is_there("mid", &old[0]), "nothing is removed before --yes");
    assert!(packages.join("old").exists());

    prune(&["--keep-days", "0", "--keep-promotions", "1", "--yes"]);
    assert!(!is_there("mid", &old[0]) && !is_there("leaf", &old[1]));
    assert!(!packages.join("old").exists() && packages.join("young").exists());
    assert_eq!(Docker::image_id(&format!("{}:{}", family.repository("mid"), old[0])), None);
    assert!(Docker::succeeds(&["exec", &container.id, "/bin/true"]), "the container is left alone");
    assert_all_released(&family, host);
    let again = imgforge(&family, &["build", "--push"]).ok();
    assert!(again.stderr.contains("Fresh 4 images"), "{}", again.stderr);
    // What it would go back to is gone: no tag moves.
    let back = imgforge(&family, &["rollback"]);
    assert_eq!(back.code, 1, "{}", back.stderr);
    assert_all_released(&family, host);
}

#[test]
fn what_kept_commits_describe_stays_in_the_registry() {
    let registry = registry();
    let (host, family) = (registry.host(), family(registry.host()));
    // The workspace is a folder of the repository, and a file of it is not what an archive of git's would have.
    let root = family.root().to_owned();
    family.write(".gitignore", ".imgforge/\n");
    // No branch is checked out where other commits are looked at.
    family.image(
        "beside",
        "    from \"base\"\n    tag \"{{ git.branch }}-{{ git.short }}\"\n    run \"echo beside > /beside\"",
    );
    family.write(".gitattributes", "mid.conf export-ignore\n");
    let top = tempfile::tempdir().unwrap();
    let checkout = top.path().join("family");
    std::fs::rename(&root, &checkout).unwrap();
    std::os::unix::fs::symlink(&checkout, &root).unwrap();
    let git = |args: &[&str]| {
        let who = ["-c", "user.name=Test", "-c", "user.email=test@example.org"];
        let mut command = Command::new("git");
        command.args(who).args(args).current_dir(top.path());
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        Ran::of(command.output().unwrap()).ok();
    };
    git(&["init", "--quiet"]);
    git(&["commit", "--quiet", "--allow-empty", "--message=before there is a workspace"]);
    let content = |image: &str| format!("f-{}", &fingerprints(&family)[image][..32]);
    let mut tags = Vec::new();
    for version in ["one", "two", "four"] {
        family.write("mid/mid.conf", &format!("{version}\n"));
        git(&["add", "."]);
        git(&["commit", "--quiet", "--message", version]);
        imgforge(&family, &["build", "--push"]).ok();
        tags.push(content("mid"));
    }
    let is_there = || -> Vec<bool> {
        let path = |tag: &String| format!("{}/mid/manifests/{tag}", family.name());
        tags.iter().map(|tag| get(host, &path(tag)).is_some()).collect()
    };
    let cache = tempfile::tempdir().unwrap();
    let prune = |args: &[&str]| {
        let args = [&["prune", "--registry", "--keep-days", "0", "--keep-promotions", "1"], args].concat();
        Ran::of(family.command(IMGFORGE, &args).env("IMGFORGE_CACHE", cache.path()).output().unwrap())
    };
    assert_eq!(prune(&["--keep", "nothing", "--yes"]).code, 2);
    let refused = prune(&["--keep", "--all", "--yes"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert_eq!(imgforge(&family, &["prune", "--keep", "HEAD"]).code, 2, "it is about the registry");
    prune(&["--keep", "HEAD~3..HEAD", "--yes"]).ok();
    assert_eq!(is_there(), [true; 3]);
    // A commit whose workspace cannot be read: nobody knows what it needs.
    family.write("leaf/image.kdl", "image \"leaf\" {");
    git(&["commit", "--quiet", "--all", "--message=broken"]);
    git(&["revert", "--no-edit", "HEAD"]);
    let refused = prune(&["--keep", "HEAD~1", "--yes"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("cannot be read"), "{}", refused.stderr);
    assert_eq!(is_there(), [true; 3]);

    prune(&["--keep", "HEAD~3", "--keep", "HEAD~5", "--yes"]).ok();
    assert_eq!(is_there(), [false, true, true]);
    prune(&["--yes"]).ok();
    assert_eq!(is_there(), [false, false, true]);
    let left = Command::new("git").args(["status", "--porcelain"]).current_dir(top.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "the checkout is as it was");
}

#[test]
fn the_registry_alone_tells_what_stands_on_an_old_parent() {
    let registry = registry();
    let family = family(registry.host());
    imgforge(&family, &["build", "--push"]).ok();
    assert_eq!(imgforge(&family, &["outdated", "--registry"]).code, 0);
    // Another job of the same commit, a moment later: the same image under another digest is no newer one.
    let place = format!("{}/mid/manifests/latest", family.name());
    let mut manifest = get(registry.host(), &place).unwrap();
    manifest["annotations"]["org.example.job"] = "another".into();
    let kind = ("Content-Type", "application/vnd.oci.image.manifest.v1+json");
    let uri = format!("http://{}/v2/{place}", registry.host());
    assert_eq!(ask("PUT", &uri, &[kind], &manifest.to_string()).unwrap().status, 201);
    assert_eq!(imgforge(&family, &["outdated", "--registry"]).code, 0);
    family.write("mid/mid.conf", "two\n");
    // Only the parent is promoted: what stands on it is old now.
    imgforge(&family, &["build", "--push", "mid"]).ok();
    let outdated = imgforge(&family, &["outdated", "--registry", "--format", "json"]);
    assert_eq!(outdated.code, 10, "{}", outdated.stderr);
    let rows = outdated.json();
    let rows: Vec<(&str, &str)> = rows["bases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["image"].as_str().unwrap(), row["base"].as_str().unwrap()))
        .collect();
    assert_eq!(rows, [("leaf", "mid")]);
    imgforge(&family, &["build", "--push"]).ok();
    assert_eq!(imgforge(&family, &["outdated", "--registry"]).code, 0);
}

#[test]
fn release_tags_are_filled_from_git() {
    let registry = registry();
    let family = family(registry.host());
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"])
            .args(args)
            .current_dir(family.root())
            .output()
            .unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    family
        .image("leaf", "    from \"mid\"\n    tag \"{{ git.branch }}\" \"g{{ git.short }}\" \"{{ date }}\"");
    let outside = imgforge(&family, &["plan", "leaf"]);
    assert_eq!(outside.code, 2);
    for part in ["leaf/image.kdl:3", "git.branch", "IMGFORGE_GIT_BRANCH"] {
        assert!(outside.stderr.contains(part), "{part} is missing in {}", outside.stderr);
    }
    git(&["init", "-q"]);
    git(&["checkout", "-q", "-b", "feature/x"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "one"]);
    let mut command = family.command(IMGFORGE, &["build", "--push", "leaf"]);
    Ran::of(command.env("SOURCE_DATE_EPOCH", "1764000000").output().unwrap()).ok();
    let short = git(&["rev-parse", "HEAD"])[..12].to_owned();
    let tags = get(registry.host(), &format!("{}/leaf/tags/list", family.name())).unwrap();
    let mut tags: Vec<&str> =
        tags["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap()).collect();
    tags.retain(|tag| !tag.starts_with("f-") || tag.len() < 30);
    tags.sort_unstable();
    let by_commit = format!("g{short}");
    assert_eq!(tags, ["2025-11-24", "feature-x", &by_commit]);
}
