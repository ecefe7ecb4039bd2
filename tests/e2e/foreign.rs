//! Workspaces, folders and records that somebody else has made: nothing elsewhere is touched, and nothing in them is
//! believed.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_testkit::registry::{Registry, Setup};
use imgforge_testkit::workspace::{Ran, TestWorkspace};

use crate::{IMGFORGE, small_family, with_action};

/// The user that is somebody else.
const STRANGER: &str = "65534";

/// The command with the embedded engine and a user's state folder in the workspace's neighbourhood.
struct Place {
    family: TestWorkspace,
    home: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { family: small_family(), home: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> &Utf8Path {
        self.family.root()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.family.command(IMGFORGE, args);
        command.env("IMGFORGE_ENGINE", "embedded").env("XDG_STATE_HOME", self.home.path());
        command.env_remove("IMGFORGE_KEY").env_remove("IMGFORGE_SAFE_DIRECTORY").env_remove("SUDO_UID");
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    /// The same as another user of the same machine, or on another machine.
    fn run_elsewhere(&self, args: &[&str]) -> Ran {
        let home = tempfile::tempdir().unwrap();
        Ran::of(self.command(args).env("XDG_STATE_HOME", home.path()).output().unwrap())
    }

    fn plan(&self) -> serde_json::Value {
        self.run(&["plan", "--format", "json"]).ok().json()
    }
}

/// A folder with something in it that must stay.
fn treasure() -> (tempfile::TempDir, Utf8PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
    std::fs::create_dir_all(path.join("photos/deep")).unwrap();
    std::fs::write(path.join("photos/deep/file"), "kept").unwrap();
    std::fs::write(path.join("file"), "kept").unwrap();
    (dir, path)
}

/// Everything below a folder, with what files say.
fn all(folder: &Utf8Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in folder.read_dir_utf8().unwrap() {
        let path = entry.unwrap().into_path();
        let is_dir = path.symlink_metadata().unwrap().is_dir();
        let text = if is_dir { String::new() } else { std::fs::read_to_string(&path).unwrap_or_default() };
        found.push(format!("{path} {text}"));
        if is_dir {
            found.extend(all(&path));
        }
    }
    found.sort();
    found
}

#[test]
fn links_that_a_repository_has_below_imgforge_are_refused_by_every_verb_and_lead_nowhere() {
    let (_guard, outside) = treasure();
    let before = all(&outside);
    let places = [
        "",
        "cache",
        "push",
        "store",
        "store/tmp",
        "store/layers",
        "store/containers",
        "store/blobs",
        "store/lock",
        "store/journal",
        "cache/files",
        "test-runs",
        "push/999999999",
        "loaded",
    ];
    let place = Place::new();
    for name in places {
        let _ = std::fs::remove_file(place.root().join(".imgforge"));
        let _ = std::fs::remove_dir_all(place.root().join(".imgforge"));
        let link = place.root().join(".imgforge").join(name);
        let link = Utf8Path::new(link.as_str().trim_end_matches('/'));
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        let is_file = ["lock", "journal", "files", "loaded"].contains(&link.file_name().unwrap());
        symlink(if is_file { outside.join("file") } else { outside.clone() }, link).unwrap();
        for verb in
            [&["plan"][..], &["list"], &["graph"], &["render", "left"], &["lint"], &["build"], &["prune"]]
        {
            let ran = place.run(verb);
            assert_eq!(ran.code, 2, "{name} {verb:?}: {}", ran.stderr);
            assert!(ran.stderr.contains(&format!("rm -r {link}")), "{name} {verb:?}: {}", ran.stderr);
        }
        assert_eq!(all(&outside), before, "{name}");
    }
}

#[test]
fn a_link_where_a_process_would_have_its_folder_is_not_emptied() {
    let (_guard, outside) = treasure();
    let before = all(&outside);
    let place = Place::new();
    place.run(&["build", "base"]).ok();
    let store = place.root().join(".imgforge/store");
    for folder in ["tmp", "layers", "steps", "caches", "containers", "blobs/sha256"] {
        symlink(&outside, store.join(folder).join("0".repeat(64))).unwrap();
    }
    place.run(&["plan"]).ok();
    place.run(&["build"]).ok();
    place.run(&["prune"]).ok();
    assert_eq!(all(&outside), before);
}

#[test]
fn a_workspace_of_another_user_is_used_only_when_it_is_named() {
    let place = Place::new();
    let below = place.root().join("mid");
    let run = |variable: (&str, &str)| {
        let mut command = place.command(&["list"]);
        Ran::of(command.current_dir(&below).env(variable.0, variable.1).output().unwrap())
    };
    let none = ("NO_COLOR", "1");
    run(none).ok();
    let chown = |path: &Utf8Path, owner: &str| {
        assert!(Command::new("chown").args([owner, path.as_str()]).status().unwrap().success());
    };
    // The file in a folder that is everybody's, and a folder with all that is in it.
    for foreign in [place.root().join("imgforge.kdl"), place.root().to_owned()] {
        chown(&foreign, STRANGER);
        let refused = run(none);
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        let help = format!("IMGFORGE_SAFE_DIRECTORY={}", place.root());
        for part in [foreign.as_str(), STRANGER, &help] {
            assert!(refused.stderr.contains(part), "{part} is missing in\n{}", refused.stderr);
        }
        run(("IMGFORGE_SAFE_DIRECTORY", place.root().as_str())).ok();
        run(("SUDO_UID", STRANGER)).ok();
        assert_eq!(run(("SUDO_UID", "1")).code, 2);
        chown(&foreign, "0");
    }
    // What another user has in `.imgforge` is not ours either.
    place.run(&["list"]).ok();
    chown(&place.root().join(".imgforge/cache"), STRANGER);
    let refused = run(none);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains(".imgforge/cache belongs to another user (65534)"), "{}", refused.stderr);
}

#[test]
fn nobody_else_can_look_into_what_imgforge_keeps_whatever_the_umask() {
    let place = Place::new();
    place.family.image(
        "setuid",
        "    from \"base\"\n    run \"cp /bin/busybox /bin/busybox-root && chmod 4755 /bin/busybox-root && mkdir -m 777 /open\"",
    );
    let build = |args: &str| {
        let script = format!("umask 0; exec {IMGFORGE} {args}");
        let mut command = place.family.command("sh", &["-c", &script]);
        command.env("IMGFORGE_ENGINE", "embedded").env("XDG_STATE_HOME", place.home.path());
        Ran::of(command.output().unwrap()).ok();
    };
    build("build setuid");
    std::fs::set_permissions(place.root(), PermissionsExt::from_mode(0o755)).unwrap();
    let own = place.root().join(".imgforge");
    let closed = |path: &Utf8Path| path.metadata().unwrap().mode() & 0o777 == 0o700;
    let found = Command::new("find")
        .args([own.as_str(), "-name", "busybox-root", "-perm", "-4000"])
        .output()
        .unwrap();
    let found_file = String::from_utf8(found.stdout).unwrap();
    let found_file = found_file.lines().next().expect("the file is in an unpacked layer");
    let others = || {
        let mut command = Command::new("setpriv");
        // The shell in between has given root's capabilities up.
        command.args([
            &format!("--reuid={STRANGER}"),
            "--clear-groups",
            "sh",
            "-c",
            "exec \"$0\" id",
            found_file,
        ]);
        command.output().unwrap().status.success()
    };
    assert!(closed(&own) && closed(&own.join("store")) && !others());
    // As an earlier version has left it.
    for folder in [own.clone(), own.join("store"), own.join("store/layers")] {
        std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    }
    assert!(others(), "so it was");
    build("plan");
    assert!(closed(&own) && closed(&own.join("store")) && !others());
}

#[test]
fn what_a_repository_or_a_shared_cache_brings_along_is_built_and_tested_anew() {
    let place = Place::new();
    place
        .family
        .image("left", "    from \"mid\"\n    run \"echo left > /name\"\n    test { file \"/name\" }");
    let first = place.run(&["build"]).ok();
    assert!(first.stderr.contains("5 built"), "{}", first.stderr);
    assert_eq!(with_action(&place.plan(), "fresh").len(), 5);
    let elsewhere = place.run_elsewhere(&["plan", "--format", "json"]).ok().json();
    assert_eq!(with_action(&elsewhere, "build").len(), 5, "{elsewhere:#}");
    let built = place.run_elsewhere(&["build"]).ok();
    assert!(built.stderr.contains("5 built") && !built.stderr.contains("cached"), "{}", built.stderr);
    // Who builds there afterwards has the same again, by digest.
    let back = place.run(&["build"]).ok();
    assert!(back.stderr.contains("Fresh 5 images") || back.stderr.contains("5 built"), "{}", back.stderr);
}

#[test]
fn an_imgforge_folder_that_git_tracks_is_refused() {
    let place = Place::new();
    place.run(&["build", "base"]).ok();
    let git = |args: &[&str]| {
        let ran = Command::new("git").arg("-C").arg(place.root()).args(args).output().unwrap();
        assert!(ran.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    };
    git(&["init", "-q"]);
    git(&["add", "--all"]);
    assert!(!git(&["ls-files"]).contains(".imgforge"), "nobody commits it by mistake");
    place.run(&["plan"]).ok();
    git(&["add", "--force", ".imgforge"]);
    for verb in ["plan", "list", "build", "push"] {
        let refused = place.run(&[verb]);
        assert_eq!(refused.code, 2, "{verb}: {}", refused.stderr);
        for part in [format!("git tracks {}/.imgforge", place.root()), "git rm -r -q --cached".to_owned()] {
            assert!(refused.stderr.contains(&part), "{part} is missing in\n{}", refused.stderr);
        }
    }
    git(&["rm", "-r", "-q", "--cached", ".imgforge"]);
    place.run(&["plan"]).ok();
}

#[test]
fn a_key_that_cannot_be_used_is_told_once_by_each_run() {
    let registry = Registry::start(Setup::default()).unwrap();
    let place = Place { family: TestWorkspace::at(&format!("{}/acme", registry.host())), ..Place::new() };
    place.family.busybox_base("base");
    place.family.image("app", "    from \"base\"\n    run \"echo app > /name\"\n    test { file \"/name\" }");
    // The embedded engine seals what it keeps, and ends with an error.
    let command = |args: &[&str]| {
        let mut command = place.command(args);
        command.env("IMGFORGE_ENGINE", "docker");
        command
    };
    let told = |ran: &Ran| ran.stderr.matches("until then no run remembers").count();
    let first = Ran::of(command(&["build", "--push"]).output().unwrap()).ok();
    assert_eq!(told(&first), 0, "{}", first.stderr);
    let key = place.home.path().join("imgforge/key");
    for (why, what_to_do) in [
        ("fewer than 32 characters", "`openssl rand -hex 32` makes a key"),
        ("can be read by other users", "remove it"),
        ("no folder for this user's key is known", "set HOME, XDG_STATE_HOME or IMGFORGE_KEY"),
        ("Not a directory", "set XDG_STATE_HOME"),
    ] {
        let mode = if why.starts_with("can be read") { 0o644 } else { 0o600 };
        std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
        for args in [&["plan"][..], &["build"], &["test"], &["push"], &["promote"]] {
            let mut command = command(args);
            match why {
                "fewer than 32 characters" => drop(command.env("IMGFORGE_KEY", "short")),
                "can be read by other users" => {}
                "Not a directory" => drop(command.env("XDG_STATE_HOME", &key)),
                _ => drop(command.env_remove("XDG_STATE_HOME").env_remove("HOME")),
            }
            let ran = Ran::of(command.output().unwrap()).ok();
            assert_eq!(told(&ran), 1, "{args:?}: {}", ran.stderr);
            let warning = ran.stderr.lines().find(|line| line.contains("until then no run")).unwrap();
            assert!(warning.contains(why) && warning.contains(what_to_do), "{args:?}: {warning}");
        }
    }
    let last = Ran::of(command(&["build"]).output().unwrap()).ok();
    assert!(told(&last) == 0 && last.stderr.contains("Fresh 2 images"), "{}", last.stderr);
}

/// The same workspace that trusts only what was built here.
fn trusting_less(family: &TestWorkspace) {
    let manifest = std::fs::read_to_string(family.root().join("imgforge.kdl")).unwrap();
    family.write("imgforge.kdl", &manifest.replacen('{', "{\n    trust \"built-here\"", 1));
}

#[test]
fn with_trust_built_here_an_image_counts_when_this_user_has_built_it() {
    for engine in ["docker", "embedded"] {
        let place = Place::new();
        let run = |args: &[&str], home: &Path| {
            let mut command = place.command(args);
            Ran::of(command.env("IMGFORGE_ENGINE", engine).env("XDG_STATE_HOME", home).output().unwrap())
        };
        let other = tempfile::tempdir().unwrap();
        run(&["build"], place.home.path()).ok();
        let plan = |home: &Path| run(&["plan", "--format", "json"], home).ok().json();
        if engine == "docker" {
            assert_eq!(with_action(&plan(other.path()), "fresh").len(), 5, "labels are believed");
        }
        trusting_less(&place.family);
        assert_eq!(with_action(&plan(place.home.path()), "fresh").len(), 5, "{engine}");
        let doubted = plan(other.path());
        assert_eq!(with_action(&doubted, "build").len(), 5, "{engine}: {doubted:#}");
        if engine == "docker" {
            assert_eq!(doubted["targets"][0]["reasons"][0]["kind"], "not-built-here");
            let told = run(&["plan"], other.path()).ok();
            assert!(told.stdout.contains("the image held was not built here"), "{}", told.stdout);
        }
        // Whoever does not count it builds it, and then it counts there.
        assert!(run(&["build"], other.path()).ok().stderr.contains("5 built"), "{engine}");
        assert_eq!(with_action(&plan(other.path()), "fresh").len(), 5, "{engine}");
    }
}

#[test]
fn with_trust_built_here_nothing_counts_because_a_registry_has_it() {
    let registry = Registry::start(Setup::default()).unwrap();
    let place = Place { family: TestWorkspace::at(&format!("{}/acme", registry.host())), ..Place::new() };
    place.family.busybox_base("base");
    place.family.image("app", "    from \"base\"\n    run \"echo app > /name\"\n    test { file \"/name\" }");
    place.run(&["build", "--push"]).ok();
    std::fs::remove_dir_all(place.root().join(".imgforge/store")).unwrap();
    let elsewhere = |args: &[&str]| place.run_elsewhere(args);
    let plan = elsewhere(&["plan", "--format", "json"]).ok().json();
    assert_eq!(with_action(&plan, "fresh"), ["app", "base"], "labels and annotations are believed");
    elsewhere(&["promote"]).ok();
    trusting_less(&place.family);
    let plan = elsewhere(&["plan", "--format", "json"]).ok();
    assert_eq!(with_action(&plan.json(), "build"), ["app", "base"], "{}", plan.stdout);
    let told = elsewhere(&["plan"]).ok();
    assert!(told.stderr.contains("what the registry has of app, base does not count"), "{}", told.stderr);
    let refused = elsewhere(&["promote"]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("not built by this user's imgforge: app, base"), "{}", refused.stderr);
    // Who has built it may go by the registry.
    assert_eq!(with_action(&place.plan(), "fresh"), ["app", "base"]);
    place.run(&["promote"]).ok();
}

#[test]
fn with_trust_built_here_a_push_leads_no_tag_to_what_somebody_else_has_pushed() {
    let registry = Registry::start(Setup::default()).unwrap();
    let place = Place { family: TestWorkspace::at(&format!("{}/acme", registry.host())), ..Place::new() };
    place.family.busybox_base("base");
    // Another image each time that it is built.
    place.family.image("app", "    from \"base\"\n    run \"cat /proc/sys/kernel/random/uuid > /id\"");
    place.run(&["build", "--push"]).ok();
    std::fs::remove_dir_all(place.root().join(".imgforge/store")).unwrap();
    trusting_less(&place.family);
    let home = tempfile::tempdir().unwrap();
    let elsewhere =
        |args: &[&str]| Ran::of(place.command(args).env("XDG_STATE_HOME", home.path()).output().unwrap());
    elsewhere(&["build", "--push"]).ok();
    // Both the content tag and the release tags lead to what was built there.
    elsewhere(&["promote"]).ok();
    let refused = place.run(&["promote"]);
    assert!(refused.stderr.contains("not built by this user's imgforge: app"), "{}", refused.stderr);
}
