//! The embedded engine as a user meets it: no daemon, the same commands.

use std::process::{Command, Stdio};
use std::time::Duration;

use camino::Utf8Path;
use imgforge_testkit::docker::Docker;
use imgforge_testkit::registry::{Registry, Setup};
use imgforge_testkit::workspace::{Ran, TestWorkspace};

use crate::building::wait_until;
use crate::{IMGFORGE, imgforge, small_family, with_action};

/// The command with the embedded engine.
fn command(workspace: &TestWorkspace, args: &[&str]) -> Command {
    let mut command = workspace.command(IMGFORGE, args);
    command.env("IMGFORGE_ENGINE", "embedded").env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
    command
}

fn run(workspace: &TestWorkspace, args: &[&str]) -> Ran {
    Ran::of(command(workspace, args).output().unwrap())
}

/// The digest of the manifest that a name leads to in a workspace's store.
fn digest(workspace: &TestWorkspace, reference: &str) -> String {
    let index = std::fs::read_to_string(workspace.root().join(".imgforge/store/index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let is_it =
        |entry: &&serde_json::Value| entry["annotations"]["org.opencontainers.image.ref.name"] == reference;
    let entry = index["manifests"].as_array().unwrap().iter().find(is_it);
    entry.unwrap_or_else(|| panic!("no {reference} in {index:#}"))["digest"].as_str().unwrap().to_owned()
}

/// The digests of an image's layers.
fn layers(workspace: &TestWorkspace, image: &str) -> serde_json::Value {
    let digest = latest(workspace, image);
    let blob = workspace.root().join(".imgforge/store/blobs/sha256").join(&digest["sha256:".len()..]);
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(blob).unwrap()).unwrap();
    manifest["layers"].clone()
}

fn latest(workspace: &TestWorkspace, image: &str) -> String {
    digest(workspace, &format!("{}:latest", workspace.repository(image)))
}

#[test]
fn a_change_builds_the_image_and_its_descendants_and_undoing_it_builds_nothing() {
    let family = small_family();
    let first = run(&family, &["build"]).ok();
    assert!(first.stderr.contains("5 built"), "{}", first.stderr);
    let before = latest(&family, "left");
    let again = run(&family, &["build"]).ok();
    assert!(again.stderr.contains("Fresh 5 images"), "{}", again.stderr);
    assert!(again.stderr.contains("the embedded engine"), "{}", again.stderr);

    family.write("mid/mid.conf", "two\n");
    let plan = run(&family, &["plan", "--format", "json"]).ok().json();
    assert_eq!(with_action(&plan, "build"), ["left", "mid", "other", "right"]);
    run(&family, &["build"]).ok();
    assert_ne!(latest(&family, "left"), before);

    family.write("mid/mid.conf", "one\n");
    let undone = run(&family, &["build"]).ok();
    assert!(undone.stderr.contains("Fresh 5 images"), "{}", undone.stderr);
    assert_eq!(latest(&family, "left"), before, "release tags go back with the change");
}

#[test]
fn two_machines_make_the_same_bytes() {
    let family = small_family();
    run(&family, &["build"]).ok();
    let first: Vec<String> =
        ["base", "mid", "left", "right", "other"].map(|name| latest(&family, name)).into();
    // Another store, other times of the same files.
    std::fs::remove_dir_all(family.root().join(".imgforge")).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    family.write("mid/mid.conf", "one\n");
    run(&family, &["build"]).ok();
    let second: Vec<String> =
        ["base", "mid", "left", "right", "other"].map(|name| latest(&family, name)).into();
    assert_eq!(first, second);
}

#[test]
fn what_comes_out_as_it_was_leaves_its_children_as_they_are() {
    let family = small_family();
    family.image("mid", "    from \"base\"\n    run \"echo made > /made\"");
    run(&family, &["build"]).ok();
    let before = layers(&family, "left");
    family.image("mid", "    from \"base\"\n    run \"echo made > /made; true\"");
    let built = run(&family, &["build"]).ok();
    assert!(built.stderr.contains("4 same as before"), "{}", built.stderr);
    assert_eq!(layers(&family, "left"), before);
    let fresh = run(&family, &["build"]).ok();
    assert!(fresh.stderr.contains("Fresh 5 images"), "{}", fresh.stderr);
}

/// Layers of the kind that people ask for, of small images.
fn layered_family(compression: &str) -> TestWorkspace {
    let family = TestWorkspace::new();
    let manifest = std::fs::read_to_string(family.root().join("imgforge.kdl")).unwrap();
    let workspace = manifest.replacen('{', &format!("{{\n    compression \"{compression}\""), 1);
    assert_ne!(workspace, manifest);
    family.write("imgforge.kdl", &workspace);
    family.busybox_base("base");
    family.image("below", "    from \"base\"\n    run \"mkdir /old && echo > /old/file && echo > /file\"");
    family.image(
        "mid",
        "    from \"below\"\n    layers \"one\"\n    run \"mkdir /d && echo 1 > /d/gone && echo 1 > /d/kept\"\n    \
         run \"rm /d/gone /file && echo 2 > /d/kept && ln /d/kept /d/same\"\n    run \"rm -r /old && mkdir /old && echo > /old/new\"",
    );
    family.image("top", "    from \"mid\"\n    run \"echo 3 > /d/more\"\n    run \"cat /d/* > /all\"");
    family
}

/// All files of an image, as Docker sees them when it has been given it.
fn files_in_docker(workspace: &TestWorkspace, image: &str) -> String {
    let mut load = workspace.command(IMGFORGE, &["load", image]);
    Ran::of(load.env("IMGFORGE_ENGINE", "embedded").output().unwrap()).ok();
    let reference = format!("{}:latest", workspace.repository(image));
    let script = "find / -xdev -not -path '/proc*' -not -path '/sys*' -not -path '/dev*' -type f \
                  -not -name hosts -not -name hostname -not -name resolv.conf -not -name .dockerenv \
                  | sort | xargs stat -c '%n %s %a %h %Y'";
    let seen = Docker::run(&["run", "--rm", "--network", "none", &reference, "sh", "-c", script]);
    Docker::run(&["rmi", "-f", &reference]);
    seen
}

#[test]
fn an_image_adds_one_layer_when_it_asks_for_that_and_its_parents_layers_stay() {
    let family = layered_family("gzip");
    run(&family, &["build"]).ok();
    let (base, mid, top) = (layers(&family, "below"), layers(&family, "mid"), layers(&family, "top"));
    let (base, mid, top) = (base.as_array().unwrap(), mid.as_array().unwrap(), top.as_array().unwrap());
    assert_eq!(mid.len(), base.len() + 1);
    assert_eq!(mid[..base.len()], base[..]);
    assert_eq!((top.len(), &top[..mid.len()]), (mid.len() + 2, &mid[..]));
    let one = files_in_docker(&family, "top");
    assert!(one.contains("/d/kept 2 ") && one.contains("/old/new") && !one.contains("/old/file"), "{one}");

    // The same steps: nothing is carried out again, and files are the same.
    let mid = std::fs::read_to_string(family.root().join("mid/image.kdl")).unwrap();
    family.write("mid/image.kdl", &mid.replace("    layers \"one\"\n", ""));
    let plan = run(&family, &["plan"]).ok();
    assert!(
        plan.stdout.contains("layers number") || plan.stderr.contains("layers number"),
        "{}",
        plan.stdout
    );
    run(&family, &["build"]).ok();
    assert_eq!(layers(&family, "mid").as_array().unwrap().len(), base.len() + 3);
    assert_eq!(files_in_docker(&family, "top"), one);
}

#[test]
fn layers_packed_with_zstd_are_the_same_everywhere_and_go_wherever_layers_go() {
    let family = layered_family("zstd");
    run(&family, &["build"]).ok();
    let first = digests(&family);
    for layer in layers(&family, "top").as_array().unwrap() {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
    }
    std::fs::remove_dir_all(family.root().join(".imgforge")).unwrap();
    run(&family, &["build"]).ok();
    assert_eq!(digests(&family), first);
    // A Docker that knows no zstd takes them.
    let zstd = files_in_docker(&family, "top");

    // The other compression in the same store, and back: each image has what its manifest says.
    let manifest = std::fs::read_to_string(family.root().join("imgforge.kdl")).unwrap();
    family.write("imgforge.kdl", &manifest.replace("    compression \"zstd\"", ""));
    run(&family, &["build"]).ok();
    for layer in layers(&family, "top").as_array().unwrap() {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    }
    assert_eq!(files_in_docker(&family, "top"), zstd);
    family.write("imgforge.kdl", &manifest);
    run(&family, &["build"]).ok();
    let latest = |digests: std::collections::BTreeMap<String, String>| -> Vec<(String, String)> {
        digests.into_iter().filter(|(name, _)| name.ends_with(":latest")).collect()
    };
    assert_eq!(latest(digests(&family)), latest(first));
}

#[test]
fn layers_packed_with_zstd_are_pushed_and_pulled() {
    let registry = Registry::start(Setup::default()).unwrap();
    let family = TestWorkspace::at(&format!("{}/acme", registry.host()));
    let manifest = std::fs::read_to_string(family.root().join("imgforge.kdl")).unwrap();
    family.write("imgforge.kdl", &manifest.replacen('{', "{\n    compression \"zstd\"", 1));
    family.busybox_base("base");
    family.image("app", "    from \"base\"\n    run \"echo pushed > /name\"");
    run(&family, &["build", "--push"]).ok();
    let before = layers(&family, "app");
    std::fs::remove_dir_all(family.root().join(".imgforge")).unwrap();
    family.image("child", "    from \"app\"\n    run \"cp /name /copy\"");
    let built = run(&family, &["build"]).ok();
    assert!(built.stderr.contains("1 built") && built.stderr.contains("Pulled app"), "{}", built.stderr);
    let child = layers(&family, "child");
    let (before, child) = (before.as_array().unwrap(), child.as_array().unwrap());
    assert_eq!(child[..before.len()], before[..]);
    assert!(child.iter().all(|layer| layer["mediaType"].as_str().unwrap().ends_with("+zstd")), "{child:?}");
}

#[test]
fn docker_builds_the_same_files_and_says_that_its_layers_are_its_own() {
    let family = layered_family("zstd");
    let built = imgforge(&family, &["build"]).ok();
    assert!(
        built.stderr.contains("Docker makes the layers of base, below, mid, top in its own way"),
        "{}",
        built.stderr
    );
    let fresh = imgforge(&family, &["build"]).ok();
    assert!(!fresh.stderr.contains("in its own way"), "{}", fresh.stderr);
}

#[test]
fn a_failed_step_is_told_at_its_line_with_its_log() {
    let family = small_family();
    family.image("mid", "    from \"base\"\n    copy \"mid.conf\" \"/etc/mid.conf\"\n    run \"echo before it fails; exit 7\"");
    let failed = run(&family, &["build"]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    for part in ["mid/image.kdl:4", "status 7", "before it fails", "run \"echo before it fails; exit 7\""] {
        assert!(failed.stderr.contains(part), "{part} is missing in\n{}", failed.stderr);
    }
    family.image("mid", "    from \"base\"\n    run \"no-such-program\"");
    let failed = run(&family, &["build"]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    assert!(failed.stderr.contains("status 127"), "{}", failed.stderr);
}

#[test]
fn where_no_daemon_answers_and_none_was_named_it_is_used_and_says_so() {
    let family = small_family();
    let mut command = family.command(IMGFORGE, &["build"]);
    // A namespace of its own in which the usual socket is not there.
    let script = "mount -t tmpfs none /var/run/ 2>/dev/null; exec \"$0\" \"$@\"";
    let program = command.get_program().to_owned();
    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut hidden = Command::new("unshare");
    hidden.args(["-m", "sh", "-c", script]).arg(program).args(args).current_dir(family.root());
    hidden.env("IMGFORGE_LOCAL", "1").env_remove("DOCKER_HOST");
    let ran = Ran::of(hidden.output().unwrap()).ok();
    assert!(ran.stderr.contains("no Docker daemon answers at unix:///var/run/docker.sock"), "{}", ran.stderr);
    assert!(latest(&family, "left").starts_with("sha256:"));
    // Who has named one means it.
    command.env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
    assert_eq!(Ran::of(command.output().unwrap()).code, 3);
}

#[test]
fn a_run_that_is_killed_leaves_the_store_whole() {
    let family = small_family();
    family.image(
        "mid",
        "    from \"base\"\n    copy \"mid.conf\" \"/etc/mid.conf\"\n    run \"sleep 0.3; echo x > /x\"",
    );
    let mut delay = Duration::from_millis(20);
    for round in 0..12 {
        family.write("mid/mid.conf", &format!("round {round}\n"));
        let mut child =
            command(&family, &["build"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(delay);
        child.kill().unwrap();
        child.wait().unwrap();
        delay += Duration::from_millis(60);
    }
    run(&family, &["build"]).ok();
    let fresh = run(&family, &["build"]).ok();
    assert!(fresh.stderr.contains("Fresh 5 images"), "{}", fresh.stderr);
    // No mount of it is left, and what was begun is gone.
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(family.root().as_str()), "{mounts}");
}

#[test]
fn pruning_puts_layers_on_the_disk_and_those_of_another_boot_are_unpacked_again() {
    let workspace = TestWorkspace::new();
    workspace.busybox_base("base");
    let layers = workspace.root().join(".imgforge/store/layers");
    let unsafe_ones = || -> Vec<_> {
        let layers = layers.read_dir_utf8().unwrap().map(|layer| layer.unwrap().into_path().join("boot"));
        layers.filter(|mark| mark.exists()).collect()
    };
    run(&workspace, &["build"]).ok();
    assert!(!unsafe_ones().is_empty());
    run(&workspace, &["prune", "--yes"]).ok();
    assert_eq!(unsafe_ones(), [""; 0]);
    // As if the machine had started anew before that.
    for layer in layers.read_dir_utf8().unwrap() {
        std::fs::write(layer.unwrap().path().join("boot"), "another\n").unwrap();
    }
    workspace.image("child", "    from \"base\"\n    run \"true\"");
    run(&workspace, &["build"]).ok();
    assert!(unsafe_ones().iter().all(|mark| std::fs::read_to_string(mark).unwrap() != "another\n"));
    run(&workspace, &["prune", "--yes"]).ok();
    assert_eq!(unsafe_ones(), [""; 0]);
}

/// The processes that a process has started.
fn children(process: u32) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// What is in a folder of the store.
fn listed(workspace: &TestWorkspace, folder: &str) -> Vec<String> {
    let listed = workspace.root().join(".imgforge/store").join(folder).read_dir_utf8();
    let mut names: Vec<String> =
        listed.into_iter().flatten().map(|entry| entry.unwrap().file_name().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn prune_removes_what_a_killed_container_has_left_and_no_volume_with_a_name() {
    let workspace = TestWorkspace::new();
    workspace.busybox_base("base");
    workspace.image("app", "    from \"base\"\n    volume \"/own\"\n    resources memory=\"64MB\"");
    run(&workspace, &["build"]).ok();
    let script = "echo x > /own/x; echo x > /mine/x; echo x > /x; sleep 1000";
    let args = ["run", "app", "--volume", "mine:/mine", "--", "sh", "-c", script];
    let mut running = command(&workspace, &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let volumes = workspace.root().join(".imgforge/store/volumes");
    let begun = std::time::Instant::now();
    let wait = || {
        assert!(begun.elapsed() < Duration::from_secs(60), "it has not come about");
        std::thread::sleep(Duration::from_millis(20));
    };
    while !volumes.join("mine/x").exists() {
        wait();
    }
    let [container] = &listed(&workspace, "containers")[..] else { panic!("one container runs") };
    let state = workspace.root().join(".imgforge/store/containers").join(container).join("state.json");
    // It is written beside the container's first steps.
    while !state.exists() {
        wait();
    }
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(state).unwrap()).unwrap();
    let groups: Vec<&str> = state["groups"].as_array().unwrap().iter().filter_map(|g| g.as_str()).collect();
    // Neither it nor its worker can tidy anything: what sees the other end has been stopped by then.
    let both = [children(running.id()), vec![running.id().to_string()]].concat();
    for signal in ["-STOP", "-KILL"] {
        assert!(Command::new("kill").arg(signal).args(&both).status().unwrap().success());
    }
    running.wait().unwrap();
    while Utf8Path::new("/proc").join(state["pid"].to_string()).exists() {
        wait();
    }
    assert!(!groups.is_empty() && groups.iter().all(|group| Utf8Path::new(group).exists()), "{groups:?}");
    let shown = run(&workspace, &["prune"]).ok();
    assert!(shown.stdout.contains("what containers have left"), "{}", shown.stdout);
    assert_eq!((listed(&workspace, "containers").len(), listed(&workspace, "volumes").len()), (1, 2));
    run(&workspace, &["prune", "--yes"]).ok();
    assert_eq!(listed(&workspace, "containers"), [""; 0]);
    assert_eq!(listed(&workspace, "volumes"), ["mine"]);
    assert_eq!(std::fs::read_to_string(volumes.join("mine/x")).unwrap(), "x\n");
    assert!(!groups.iter().any(|group| Utf8Path::new(group).exists()), "{groups:?}");
    assert!(!run(&workspace, &["prune"]).ok().stdout.contains("store"));
}

#[test]
fn two_builds_at_once_in_one_store_both_end_well() {
    let family = small_family();
    let children: Vec<_> = (0..3)
        .map(|_| command(&family, &["build"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    for child in children {
        Ran::of(child.wait_with_output().unwrap()).ok();
    }
    let fresh = run(&family, &["build"]).ok();
    assert!(fresh.stderr.contains("Fresh 5 images"), "{}", fresh.stderr);
}

#[test]
fn a_corrupt_blob_is_found_and_built_again() {
    let family = small_family();
    run(&family, &["build"]).ok();
    let before = latest(&family, "left");
    let blobs = family.root().join(".imgforge/store/blobs/sha256");
    for blob in blobs.read_dir_utf8().unwrap() {
        let path = blob.unwrap().into_path();
        let mut bytes = std::fs::read(&path).unwrap();
        // Layers only: configurations and manifests are JSON.
        if bytes.first() != Some(&b'{') {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("left");
    let exported = run(&family, &["export", "left", "--oci", out.to_str().unwrap()]);
    assert_eq!(exported.code, 1, "{}", exported.stderr);
    assert!(exported.stderr.contains("build"), "{}", exported.stderr);
    run(&family, &["build"]).ok();
    run(&family, &["export", "left", "--oci", out.to_str().unwrap()]).ok();
    assert_eq!(latest(&family, "left"), before);
}

#[test]
fn images_go_out_as_a_layout_as_an_archive_and_into_docker() {
    let family = small_family();
    run(&family, &["build"]).ok();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    run(&family, &["export", "left", "--oci", &path("layout")]).ok();
    let inspected = Command::new("skopeo")
        .args(["inspect", &format!("oci:{}:{}:latest", path("layout"), family.repository("left"))])
        .output()
        .unwrap();
    assert!(inspected.status.success(), "{}", String::from_utf8_lossy(&inspected.stderr));
    run(&family, &["export", "left", "--docker-archive", &path("left.tar")]).ok();
    let loaded = Docker::run(&["load", "-i", &path("left.tar")]);
    let reference = format!("{}:latest", family.repository("left"));
    assert!(loaded.contains(&reference), "{loaded}");
    assert_eq!(Docker::run(&["run", "--rm", "--network", "none", &reference, "cat", "/name"]).trim(), "left");
    Docker::run(&["rmi", "-f", &reference]);

    let mut load = family.command(IMGFORGE, &["load", "left", "other"]);
    load.env("IMGFORGE_ENGINE", "embedded");
    Ran::of(load.output().unwrap()).ok();
    assert_eq!(Docker::run(&["run", "--rm", "--network", "none", &reference, "cat", "/name"]).trim(), "left");
    let other = format!("{}:latest", family.repository("other"));
    assert_eq!(
        Docker::run(&["run", "--rm", "--network", "none", &other, "cat", "/left-name"]).trim(),
        "left"
    );
}

#[test]
fn images_are_pushed_and_pulled_without_a_daemon() {
    let registry = Registry::start(Setup::default()).unwrap();
    let family = TestWorkspace::at(&format!("{}/acme", registry.host()));
    family.busybox_base("base");
    family.image("app", "    from \"base\"\n    run \"echo pushed > /name\"");
    run(&family, &["build", "--push"]).ok();
    let before = latest(&family, "app");
    // Another machine: nothing is built, what a new image needs is pulled.
    std::fs::remove_dir_all(family.root().join(".imgforge")).unwrap();
    family.image("child", "    from \"app\"\n    run \"cp /name /copy\"");
    let built = run(&family, &["build"]).ok();
    assert!(built.stderr.contains("1 built"), "{}", built.stderr);
    assert!(built.stderr.contains("Pulled app"), "{}", built.stderr);
    // And Docker runs the same image.
    let reference = format!("{}:latest", family.repository("app"));
    Docker::run(&["pull", &reference]);
    assert_eq!(
        Docker::run(&["run", "--rm", "--network", "none", &reference, "cat", "/name"]).trim(),
        "pushed"
    );
    Docker::run(&["rmi", "-f", &reference]);
    assert!(before.starts_with("sha256:"));
}

#[test]
fn a_small_layer_that_unpacks_to_more_than_the_disk_has_free_is_refused() {
    let registry = Registry::start(Setup::default()).unwrap();
    let family = TestWorkspace::at(&format!("{}/acme", registry.host()));
    family.busybox_base("base");
    family.image("bomb", "    from \"base\"\n    run \"dd if=/dev/zero of=/zeros bs=1M count=64\"");
    run(&family, &["build", "--push"]).ok();
    // Another machine, with a small disk.
    std::fs::remove_dir_all(family.root().join(".imgforge")).unwrap();
    std::fs::create_dir(family.root().join(".imgforge")).unwrap();
    family.image("child", "    from \"bomb\"\n    run \"true\"");
    let script = "mount -t tmpfs -o size=32m none .imgforge && \"$0\" build; code=$?; \
                  ls .imgforge/store/layers | wc -l; df -m .imgforge | awk 'END { print $3 }'; exit $code";
    let mut small = Command::new("unshare");
    small.args(["--mount", "sh", "-c", script, IMGFORGE]).current_dir(family.root());
    small.env("IMGFORGE_ENGINE", "embedded").env("NO_COLOR", "1");
    let failed = Ran::of(small.output().unwrap());
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    let told = "bomb@sha256:";
    for part in [told, "a layer of it unpacks to more than the ", " MB that the disk of the store has free"] {
        assert!(failed.stderr.contains(part), "{part} is missing in\n{}", failed.stderr);
    }
    // The base's layers are there, and nothing of the bomb.
    let numbers: Vec<u32> = failed.stdout.lines().map(|line| line.trim().parse().unwrap()).collect();
    assert!(matches!(numbers[..], [3, used] if used < 10), "{}", failed.stdout);
}

#[test]
fn a_container_runs_answers_and_stops_without_a_daemon() {
    let family = TestWorkspace::new();
    family.busybox_base("base");
    family.write("web/index.html", "hello from nowhere\n");
    family.image(
        "web",
        "    from \"base\"\n    copy \"index.html\" \"/www/index.html\"\n    expose 8080\n    \
         cmd \"httpd\" \"-f\" \"-p\" \"8080\" \"-h\" \"/www\"\n    \
         test \"answers\" {\n        http \"http://{container}:8080/\" status=200\n    }",
    );
    let built = run(&family, &["build"]).ok();
    assert!(built.stderr.contains("1 test"), "{}", built.stderr);
}

#[test]
fn a_container_without_services_is_listed_as_one_that_has_none() {
    let family = TestWorkspace::new();
    family.busybox_base("base");
    family.image("plain", "    from \"base\"\n    cmd \"sleep\" \"1000\"");
    run(&family, &["build"]).ok();
    let mut child = command(&family, &["run", "plain"]).spawn().unwrap();
    let containers = || run(&family, &["services", "--format", "json"]).ok().json()["containers"].clone();
    wait_until("it runs", || containers() != serde_json::json!([]));
    let found = containers();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((&found[0]["image"], &found[0]["services"]), (&"plain".into(), &serde_json::json!([])));
}

/// Every image's digest of a family, by name.
fn digests(workspace: &TestWorkspace) -> std::collections::BTreeMap<String, String> {
    let index = std::fs::read_to_string(workspace.root().join(".imgforge/store/index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let entries = index["manifests"].as_array().unwrap().iter();
    let pair = |entry: &serde_json::Value| {
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        (text(&entry["annotations"]["org.opencontainers.image.ref.name"]), text(&entry["digest"]))
    };
    entries.map(pair).collect()
}

#[test]
fn the_example_family_is_the_same_on_every_machine_and_answers_without_a_daemon() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let family = TestWorkspace::copy_of(root);
    run(&family, &["build"]).ok();
    let first = digests(&family);
    assert!(first.len() >= 18, "{first:?}");

    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let publish = format!("{port}:80");
    let mut child = command(&family, &["run", "guestbook", "-p", &publish])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answer = String::new();
    for _ in 0..300 {
        std::thread::sleep(Duration::from_millis(100));
        answer = get(port).unwrap_or_default();
        if answer.contains("guestbook") {
            break;
        }
    }
    assert!(answer.contains("A guestbook"), "{answer}");
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "it is stopped in order");

    std::fs::remove_dir_all(family.root().join(".imgforge/store")).unwrap();
    run(&family, &["build", "--no-test"]).ok();
    assert_eq!(digests(&family), first);
}

/// What a server on loopback answers to one GET.
fn get(port: u16) -> std::io::Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_command_for_which_dev_is_hidden_is_run_or_refused_for_that() {
    let family = TestWorkspace::new();
    family.busybox_base("base");
    family.image("app", "    dockerfile \"Dockerfile\"");
    family.write("app/Dockerfile", "FROM base\nRUN --mount=type=tmpfs,target=/dev cat && echo hello\n");
    let ran = run(&family, &["build"]);
    assert!(!ran.stderr.contains("dynamic loader"), "{}", ran.stderr);
    assert!(ran.code == 0 || ran.stderr.contains("/dev"), "{}", ran.stderr);
}
