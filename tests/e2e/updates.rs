//! What changes outside: newer versions, security suites, and how much of the lock moves for them. The repository is a
//! signed one on the loopback with two suites, `stable` and `stable-security`.

use std::collections::BTreeSet;

use camino::Utf8Path;
use imgforge_testkit::apt::{Key, Package, Repository};
use imgforge_testkit::docker::Docker;
use imgforge_testkit::http::{Server, ask};
use imgforge_testkit::registry::{Registry, Setup};
use imgforge_testkit::workspace::{Ran, TestWorkspace};
use serde_json::{Value, json};

use crate::packages::{append, essential};
use crate::{IMGFORGE, with_action};

/// `os` <- `app` <- `site`, `os` <- `other`: `app` has `libfoo` and `libfoo-tool`, which needs exactly its version.
pub(crate) struct Family {
    pub(crate) stable: Repository,
    pub(crate) security: Repository,
    pub(crate) key: Key,
    server: Server,
    pub(crate) workspace: TestWorkspace,
    pub(crate) folder: tempfile::TempDir,
}

/// What a library's tool needs.
pub(crate) fn add(suite: &mut Repository, name: &str, version: &str, depends: &str) {
    let (path, content) = (format!("/usr/share/{name}/version"), format!("{version}\n"));
    let fields = [("Depends", depends)];
    let fields = if depends.is_empty() { &[][..] } else { &fields };
    suite.add(&Package { name, version, fields, files: &[(&path, &content)] }).unwrap();
}

impl Family {
    /// With Debian's essential packages in `os`, so that it can be built; else `os` has one small package.
    pub(crate) fn new(can_be_built: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap().join("repository");
        let mut stable = Repository::new(&root);
        let security = Repository::of_suite(&root, "stable-security");
        if can_be_built {
            for (file, name) in essential() {
                stable.add_file(file, name).unwrap();
            }
        }
        for (name, depends) in [("base", ""), ("libfoo", ""), ("libfoo-tool", "libfoo (= 1.0)")] {
            add(&mut stable, name, "1.0", depends);
        }
        for name in ["hammer", "saw"] {
            add(&mut stable, name, "1.0", "");
        }
        let server = Server::start(root).unwrap();
        let workspace = TestWorkspace::new();
        let key = Key::generate().unwrap();
        let os = if can_be_built {
            "    root \"local\""
        } else {
            "    root \"local\" {\n        include \"nothing\"\n    }\n    packages \"local\" \"base\""
        };
        workspace.image("os", os);
        workspace.image("app", "    from \"os\"\n    packages \"local\" \"libfoo-tool\"");
        workspace.image("site", "    from \"app\"\n    packages \"local\" \"hammer\"");
        workspace.image("other", "    from \"os\"\n    packages \"local\" \"saw\"");
        let family = Self { stable, security, key, server, workspace, folder };
        family.add_source(&family.workspace);
        family.publish();
        family
    }

    /// Lets a workspace have packages of this repository.
    pub(crate) fn add_source(&self, workspace: &TestWorkspace) {
        let source = format!(
            "apt \"local\" {{\n    suite \"stable\" \"stable-security\"\n    uri \"{}\"\n    keyring \"keys.gpg\"\n}}\n",
            self.server.uri()
        );
        append(workspace, "imgforge.kdl", &source);
        std::fs::write(workspace.root().join("keys.gpg"), self.key.keyring().unwrap()).unwrap();
    }

    /// Lets this be the registry of the workspace.
    pub(crate) fn push_to(&self, registry: &Registry) {
        let manifest = std::fs::read_to_string(self.workspace.root().join("imgforge.kdl")).unwrap();
        let name = self.workspace.name();
        let manifest = manifest.replace(&format!("localhost/{name}"), &format!("{}/{name}", registry.host()));
        self.workspace.write("imgforge.kdl", &manifest);
    }

    pub(crate) fn publish(&self) {
        self.stable.publish(&self.key, &[]).unwrap();
        self.security.publish(&self.key, &[("Label", "Test-Security")]).unwrap();
    }

    /// A fix of `libfoo` (and of its tool) in the security suite; newer versions of others in `stable`.
    pub(crate) fn fix_libfoo(&mut self) {
        add(&mut self.security, "libfoo", "1.0+fix1", "");
        add(&mut self.security, "libfoo-tool", "1.0+fix1", "libfoo (= 1.0+fix1)");
        for name in ["base", "hammer", "saw"] {
            add(&mut self.stable, name, "1.1", "");
        }
        self.publish();
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.run_in(&self.workspace, args)
    }

    /// With the cache of this family.
    pub(crate) fn run_in(&self, workspace: &TestWorkspace, args: &[&str]) -> Ran {
        let mut command = workspace.command(IMGFORGE, args);
        Ran::of(command.env("IMGFORGE_CACHE", self.folder.path().join("cache")).output().unwrap())
    }

    pub(crate) fn lock(&self) -> String {
        std::fs::read_to_string(self.workspace.root().join("imgforge.lock")).unwrap()
    }

    /// The lock's package lines that `before` does not have: `NAME VERSION`.
    fn moved_since(&self, before: &str) -> BTreeSet<String> {
        let old: BTreeSet<&str> = before.lines().collect();
        let now = self.lock();
        let lines = now.lines().filter(|line| line.starts_with("package ") && !old.contains(line));
        let words = |line: &str| line.split('"').skip(3).step_by(2).take(2).collect::<Vec<_>>().join(" ");
        lines.map(words).collect()
    }
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn rows(outdated: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("none").to_owned();
    let row = |row: &Value| {
        let names: Vec<&str> =
            row["images"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
        let mark = if row["security"] == true { " security" } else { "" };
        let gone = if row["served"] == true { "" } else { " gone" };
        format!(
            "{} {} {}{mark}{gone}: {}",
            text(&row["package"]),
            text(&row["locked"]),
            text(&row["newest"]),
            names.join(" ")
        )
    };
    outdated["packages"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn a_security_fix_is_named_locked_and_rebuilds_exactly_the_images_below() {
    let mut family = Family::new(true);
    family.run(&["update"]).ok();
    family.run(&["build"]).ok();
    assert_eq!(family.run(&["outdated"]).ok().stdout, "");
    let before = family.lock();
    family.fix_libfoo();

    let outdated = family.run(&["outdated", "--format", "json"]);
    assert_eq!(outdated.code, 10, "{}", outdated.stderr);
    assert_eq!(
        rows(&outdated.json()),
        [
            "libfoo 1.0 1.0+fix1 security: app site",
            "libfoo-tool 1.0 1.0+fix1 security: app site",
            "hammer 1.0 1.1: site",
            "saw 1.0 1.1: other",
        ]
    );
    assert_eq!(family.lock(), before, "nothing is written");
    let shown = family.run(&["outdated"]).stdout;
    assert!(shown.contains("security  2 of 4 images, from app"), "{shown}");

    let updated = family.run(&["update", "--security", "--format", "json"]).ok().json();
    assert_eq!(
        updated["changes"][0],
        json!({"package": "libfoo", "old": "1.0", "new": "1.0+fix1", "security": true, "images": ["app", "site"]})
    );
    assert_eq!(family.moved_since(&before), set(&["libfoo 1.0+fix1", "libfoo-tool 1.0+fix1"]));
    let plan = family.run(&["plan", "--format", "json"]).ok().json();
    assert_eq!(with_action(&plan, "build"), ["app", "site"]);
    let shown = family.run(&["plan"]).ok().stdout;
    for part in ["package libfoo 1.0 -> 1.0+fix1 (security)", "site  build     parent app\n"] {
        assert!(shown.contains(part), "{part} is missing in\n{shown}");
    }
    let built = family.run(&["build", "--locked", "--format", "json"]).ok().json();
    let results: Vec<String> = built["targets"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["result"] == "built")
        .map(|row| row["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(results, ["app", "site"], "in this order");
    let version = Docker::run(&[
        "run",
        "--rm",
        &family.workspace.repository("site"),
        "cat",
        "/usr/share/libfoo/version",
    ]);
    assert_eq!(version, "1.0+fix1");

    let left = family.run(&["outdated", "--format", "json"]);
    assert_eq!(left.code, 10);
    assert_eq!(rows(&left.json()), ["hammer 1.0 1.1: site", "saw 1.0 1.1: other"]);
}

#[test]
fn an_update_moves_what_it_was_asked_to_and_nothing_else() {
    let mut family = Family::new(false);
    family.run(&["update"]).ok();
    let first = family.lock();
    family.run(&["update"]).ok();
    assert_eq!(family.lock(), first, "nothing newer, not a byte");
    family.fix_libfoo();
    let after = |args: &[&str]| {
        family.workspace.write("imgforge.lock", &first);
        let ran = family.run(&[&["update"], args].concat()).ok();
        (family.moved_since(&first), ran.stderr)
    };
    let fixed = ["libfoo 1.0+fix1", "libfoo-tool 1.0+fix1"];

    assert_eq!(after(&["hammer"]).0, set(&["hammer 1.1"]));
    let (moved, told) = after(&["libfoo"]);
    assert_eq!(moved, set(&fixed), "its tool goes with it");
    assert!(
        told.contains("    Moved libfoo       1.0 -> 1.0+fix1  security  2 of 4 images, from app"),
        "{told}"
    );
    assert_eq!(after(&["--security"]).0, set(&fixed));
    assert_eq!(after(&["--image", "app"]).0, set(&[fixed[0], fixed[1], "hammer 1.1"]));
    assert_eq!(after(&["--image", "other", "--image", "site"]).0, set(&["hammer 1.1", "saw 1.1"]));
    assert_eq!(after(&["--security", "--dry-run"]).0, set(&[]));
    let all = [fixed[0], fixed[1], "base 1.1", "hammer 1.1", "saw 1.1"];
    assert_eq!(after(&[]).0, set(&all));
    assert_eq!(family.run(&["outdated"]).ok().stdout, "");
    let last = family.lock();
    for args in [&["update", "--security"][..], &["update", "saw"], &["update", "--image", "os"], &["update"]]
    {
        family.run(args).ok();
        assert_eq!(family.lock(), last, "{args:?}: nothing newer, not a byte");
    }
}

#[test]
fn security_updates_of_some_packages_leave_other_fixes_and_newer_versions_alone() {
    let mut family = Family::new(false);
    family.run(&["update"]).ok();
    let before = family.lock();
    family.fix_libfoo();
    // `hammer` has a fix, and a newer version that is none.
    add(&mut family.security, "hammer", "1.0+fix1", "");
    family.publish();
    let after = |args: &[&str]| {
        family.workspace.write("imgforge.lock", &before);
        family.run(&[&["update", "--security"], args].concat()).ok();
        family.moved_since(&before)
    };
    let (fixed, hammer) = (["libfoo 1.0+fix1", "libfoo-tool 1.0+fix1"], "hammer 1.0+fix1");
    assert_eq!(after(&["libfoo"]), set(&fixed), "its tool goes with it");
    assert_eq!(after(&["hammer"]), set(&[hammer]));
    assert_eq!(after(&["hammer", "libfoo-tool"]), set(&[fixed[0], fixed[1], hammer]));
    assert_eq!(after(&["saw"]), set(&[]), "its newer version is no fix");
    assert_eq!(after(&["hammer", "--dry-run"]), set(&[]));
    assert_eq!(after(&[]), set(&[fixed[0], fixed[1], hammer]));
}

/// A program as a nightly job runs it: the command in its path, and no settings of whoever runs this test.
fn in_job(family: &Family, program: &str, args: &[&str]) -> Ran {
    let folder = Utf8Path::from_path(family.folder.path()).unwrap();
    let mut command = family.workspace.command(program, args);
    command.env("IMGFORGE_CACHE", folder.join("cache"));
    command.env("PATH", format!("{}:{}", folder.join("bin"), std::env::var("PATH").unwrap()));
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "Night").env(format!("GIT_{who}_EMAIL"), "night@example.org");
    }
    Ran::of(command.output().unwrap())
}

#[test]
fn the_script_of_the_page_on_nightly_jobs_pushes_and_commits_a_fix_and_nothing_else() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/nightly.md");
    let page = std::fs::read_to_string(page).unwrap();
    let script = page.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let registry = Registry::start(Setup::default()).unwrap();
    let mut family = Family::new(true);
    family.push_to(&registry);
    family.run(&["update"]).ok();
    family.run(&["build", "--push"]).ok();

    let folder = Utf8Path::from_path(family.folder.path()).unwrap().to_owned();
    let (origin, job) = (folder.join("origin.git"), folder.join("nightly.sh"));
    std::fs::create_dir(folder.join("bin")).unwrap();
    std::os::unix::fs::symlink(IMGFORGE, folder.join("bin/imgforge")).unwrap();
    std::fs::write(&job, script).unwrap();
    let nightly = |family: &Family| in_job(family, "/bin/sh", &[job.as_str()]);
    let git = |family: &Family, args: &[&str]| in_job(family, "git", args).ok().stdout.trim().to_owned();
    family.workspace.write(".gitignore", ".imgforge/\noutdated.json\nmessage\n");
    for args in [
        &["init", "--quiet", "--initial-branch=main"][..],
        &["init", "--quiet", "--bare", "--initial-branch=main", origin.as_str()],
        &["add", "."],
        &["commit", "--quiet", "--message=The family"],
        &["remote", "add", "origin", origin.as_str()],
        &["push", "--quiet", "--set-upstream", "origin", "main"],
    ] {
        git(&family, args);
    }
    let commits =
        |family: &Family| git(family, &["--git-dir", origin.as_str(), "rev-list", "--count", "main"]);
    // What the release tags lead to.
    let released = |family: &Family| {
        ["os", "app", "site", "other"].map(|image| {
            let place = format!("{}/{image}", family.workspace.name());
            let uri = format!("http://{}/v2/{place}/manifests/latest", registry.host());
            let accept = ("Accept", "application/vnd.oci.image.manifest.v1+json");
            ask("HEAD", &uri, &[accept], "").unwrap().header("docker-content-digest").unwrap().to_owned()
        })
    };
    let (lock, before) = (family.lock(), released(&family));

    // Nothing is newer; then something is that is no fix.
    nightly(&family).ok();
    add(&mut family.stable, "saw", "1.0.1", "");
    family.publish();
    nightly(&family).ok();
    assert_eq!(
        (commits(&family), released(&family), family.lock()),
        ("1".into(), before.clone(), lock.clone())
    );

    // A fix that does not go through is in no commit.
    family.fix_libfoo();
    let manifest = std::fs::read_to_string(family.workspace.root().join("app/image.kdl")).unwrap();
    let failing = manifest.replacen('}', "    test \"fails\" { file \"/nothing\" }\n}", 1);
    family.workspace.write("app/image.kdl", &failing);
    assert_eq!(nightly(&family).code, 1);
    assert_eq!((commits(&family), released(&family)), ("1".into(), before.clone()));
    family.workspace.write("app/image.kdl", &manifest);
    git(&family, &["checkout", "--quiet", "imgforge.lock"]);

    // One that does.
    nightly(&family).ok();
    assert_eq!(family.moved_since(&lock), set(&["libfoo 1.0+fix1", "libfoo-tool 1.0+fix1"]));
    let after = released(&family);
    let moved: Vec<bool> = before.iter().zip(&after).map(|(before, after)| before != after).collect();
    assert_eq!(moved, [false, true, true, false], "app and site, which stands on it");
    assert_eq!(commits(&family), "2");
    let message = git(&family, &["--git-dir", origin.as_str(), "log", "-1", "--format=%B", "main"]);
    for part in ["Security updates\n\n", "libfoo       1.0 -> 1.0+fix1  security  2 of 4 images, from app"] {
        assert!(message.contains(part), "{part} is missing in\n{message}");
    }
    let changed = git(&family, &["--git-dir", origin.as_str(), "diff", "--name-only", "main~1", "main"]);
    assert_eq!(changed, "imgforge.lock");

    // It is done; and the packages are in the registry.
    nightly(&family).ok();
    assert_eq!((commits(&family), released(&family)), ("2".into(), after));
    std::fs::remove_dir_all(folder.join("cache/sha256")).unwrap();
    std::fs::remove_dir_all(folder.join("repository/pool")).unwrap();
    family.run(&["build", "app", "--force", "--locked"]).ok();
}

#[test]
fn a_package_of_a_parent_moves_where_what_was_asked_for_needs_it() {
    let mut family = Family::new(false);
    family.workspace.image("site", "    from \"os\"\n    packages \"local\" \"libfoo\"");
    family.workspace.image("app", "    from \"site\"\n    packages \"local\" \"libfoo-tool\"");
    family.run(&["update"]).ok();
    let before = family.lock();
    family.fix_libfoo();
    family.run(&["update", "libfoo-tool"]).ok();
    assert_eq!(family.moved_since(&before), set(&["libfoo 1.0+fix1", "libfoo-tool 1.0+fix1"]));
}

#[test]
fn versions_that_are_gone_stay_locked_unless_they_move() {
    let mut family = Family::new(false);
    family.run(&["update"]).ok();
    let before = family.lock();
    family.stable.remove("hammer").unwrap();
    family.stable.remove("saw").unwrap();
    add(&mut family.stable, "saw", "1.1", "");
    add(&mut family.stable, "base", "1.1", "");
    family.publish();
    let outdated = family.run(&["outdated", "--format", "json"]);
    assert_eq!(outdated.code, 10);
    let outdated = outdated.json();
    assert_eq!(
        rows(&outdated),
        ["base 1.0 1.1: app os other site", "hammer 1.0 none gone: site", "saw 1.0 1.1 gone: other"]
    );
    assert!(outdated["problems"][0].as_str().unwrap().contains("hammer"), "{outdated}");
    family.run(&["update", "base"]).ok();
    assert_eq!(family.moved_since(&before), set(&["base 1.1"]));
    family.run(&["update", "saw"]).ok();
    assert_eq!(family.moved_since(&before), set(&["base 1.1", "saw 1.1"]));
}

#[test]
fn a_fix_that_the_manifest_does_not_let_in_is_told_and_changes_nothing() {
    let mut family = Family::new(false);
    family.workspace.image("app", "    from \"os\"\n    packages \"local\" \"libfoo=1.0\"");
    family.run(&["update"]).ok();
    let before = family.lock();
    family.fix_libfoo();
    let outdated = family.run(&["outdated"]);
    assert_eq!(outdated.code, 10);
    assert!(outdated.stdout.contains("1.0+fix1  security, does not fit"), "{}", outdated.stdout);
    family.run(&["update", "--security"]).ok();
    assert_eq!(family.lock(), before);
}

#[test]
fn what_cannot_be_moved_or_asked_for_is_refused_and_the_lock_stays() {
    let family = Family::new(false);
    family.run(&["update"]).ok();
    let before = family.lock();
    let unknown = family.run(&["update", "libfo"]);
    assert_eq!(unknown.code, 2, "{}", unknown.stderr);
    for part in ["no image has a package \"libfo\"", "did you mean \"libfoo\"?"] {
        assert!(unknown.stderr.contains(part), "{part} is missing in\n{}", unknown.stderr);
    }
    assert_eq!(family.run(&["update", "--image", "sit"]).code, 2);
    assert_eq!(family.run(&["update", "--security", "libfo"]).code, 2);
    assert_eq!(family.run(&["update", "--security", "--image", "site"]).code, 2);

    let stale = [("Valid-Until", "Sat, 17 May 2025 08:48:41 UTC")];
    family.security.publish(&family.key, &stale).unwrap();
    for args in [&["outdated"][..], &["update", "--security"]] {
        let refused = family.run(args);
        assert_eq!(refused.code, 3, "{args:?}: {}", refused.stderr);
        assert!(refused.stderr.contains("stable-security/InRelease expired"), "{}", refused.stderr);
    }
    family.publish();
    let index = "repository/dists/stable-security/main/binary-amd64";
    for entry in std::fs::read_dir(family.folder.path().join(index).join("by-hash/SHA256")).unwrap() {
        std::fs::write(entry.unwrap().path(), "").unwrap();
    }
    std::fs::write(family.folder.path().join(index).join("Packages.gz"), "").unwrap();
    std::fs::remove_dir_all(family.folder.path().join("cache")).unwrap();
    let refused = family.run(&["outdated"]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("was expected"), "{}", refused.stderr);
    family.server.fail("InRelease", imgforge_testkit::http::Fault::Status(403), usize::MAX);
    let refused = family.run(&["outdated"]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("403"), "{}", refused.stderr);
    assert_eq!(family.lock(), before);
}

#[test]
fn a_nightly_run_pushes_exactly_what_a_security_fix_rebuilds_parents_first_and_says_why() {
    let registry = Registry::start(Setup::default()).unwrap();
    let mut family = Family::new(true);
    family.push_to(&registry);
    family.run(&["update"]).ok();
    family.run(&["build", "--push"]).ok();
    family.fix_libfoo();

    family.run(&["update", "--security"]).ok();
    let plan = family.run(&["plan", "--format", "json"]).ok().json();
    let rows = plan["targets"].as_array().unwrap();
    let app = rows.iter().find(|row| row["name"] == "app").unwrap();
    let is_of_libfoo =
        |reason: &&Value| reason["name"].as_str().is_some_and(|name| name.starts_with("libfoo:"));
    let reason = app["reasons"].as_array().unwrap().iter().find(is_of_libfoo).unwrap();
    assert_eq!((&reason["kind"], &reason["security"]), (&json!("package"), &json!(true)), "{app}");
    let version = |field: &str| reason[field].as_str().unwrap().split(' ').next().unwrap().to_owned();
    assert_eq!([version("old"), version("new")], ["1.0", "1.0+fix1"]);
    let shown = family.run(&["plan"]).ok().stdout;
    assert!(shown.contains("package libfoo 1.0 -> 1.0+fix1 (security)"), "{shown}");

    let ran = family.run(&["build", "--locked", "--push", "--format", "json"]).ok();
    let report = ran.json();
    let results: Vec<(&str, &str)> = report["targets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["name"].as_str().unwrap(), row["result"].as_str().unwrap()))
        .collect();
    let built: Vec<&str> =
        results.iter().filter(|(_, result)| *result == "built").map(|(name, _)| *name).collect();
    assert_eq!(built, ["app", "site"], "in this order: {results:?}");
    let fresh: BTreeSet<&str> =
        results.iter().filter(|(_, result)| *result == "fresh").map(|(name, _)| *name).collect();
    assert_eq!(fresh, BTreeSet::from(["os", "other"]), "{results:?}");

    // What the registry gives as the newest is what was built.
    Docker::remove_images_labelled(&format!("imgforge.workspace={}", family.workspace.name()));
    let site = format!("{}/{}/site:latest", registry.host(), family.workspace.name());
    assert_eq!(Docker::run(&["run", "--rm", &site, "cat", "/usr/share/libfoo/version"]), "1.0+fix1");
}

#[test]
fn an_index_from_before_the_lock_is_refused_until_it_is_accepted() {
    let mut family = Family::new(false);
    let publish = |family: &Family, date: &str| {
        family.stable.publish(&family.key, &[("Date", date)]).unwrap();
        family.security.publish(&family.key, &[("Label", "Test-Security"), ("Date", date)]).unwrap();
    };
    let dists = family.folder.path().join("repository/dists/stable");
    publish(&family, "Thu, 05 Nov 2020 21:00:05 UTC");
    let old = std::fs::read(dists.join("InRelease")).unwrap();
    add(&mut family.stable, "hammer", "1.1", "");
    publish(&family, "Fri, 06 Nov 2020 21:00:05 UTC");
    family.run(&["update"]).ok();
    let lock = family.lock();
    assert!(lock.contains("indexed=\"20201106T210005Z\""), "{lock}");

    std::fs::write(dists.join("InRelease"), old).unwrap();
    for args in [&["update"][..], &["update", "saw"], &["update", "--security"], &["outdated"]] {
        let refused = family.run(args);
        assert_eq!(refused.code, 3, "{args:?}: {}", refused.stderr);
        for part in ["20201105T210005Z", "20201106T210005Z", "imgforge update --accept-index-date"] {
            assert!(refused.stderr.contains(part), "{args:?}: {}", refused.stderr);
        }
        assert_eq!(family.lock(), lock, "{args:?}");
    }
    family.run(&["update", "--accept-index-date"]).ok();
    assert!(!family.lock().contains("20201106T210005Z"), "{}", family.lock());
    family.run(&["update"]).ok();
}
