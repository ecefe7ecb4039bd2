//! Packages: what happens when repositories move on, and when a step goes behind the lock's back. The repository is a
//! real signed one on the loopback: Debian's essential packages from the machine's mirrors, and small packages of the
//! test's own that can be superseded at will.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_testkit::apt::{Key, Package, Repository};
use imgforge_testkit::docker::Docker;
use imgforge_testkit::http::Server;
use imgforge_testkit::workspace::{Ran, TestWorkspace};

use crate::{IMGFORGE, with_action};

/// Debian's essential packages, fetched once for all tests of this run: package files with their names.
pub(crate) fn essential() -> &'static [(Utf8PathBuf, String)] {
    static FETCHED: OnceLock<Vec<(Utf8PathBuf, String)>> = OnceLock::new();
    FETCHED.get_or_init(|| {
        let source = TestWorkspace::new();
        append(
            &source,
            "imgforge.kdl",
            "apt \"debian\" {\n    suite \"bookworm\" \"bookworm-updates\" \"bookworm-security\"\n}\n",
        );
        source.image("os", "    root \"debian\"");
        source.run(IMGFORGE, &["update"]).ok();
        let root = Utf8Path::new(source.root());
        let session =
            imgforge::Session::open(root, &imgforge::OpenOptions { cache: false, ..Default::default() })
                .unwrap();
        let lock = session.read_lock().unwrap();
        // The user's cache keeps them from run to run; the example family has the same.
        let cache = imgforge_packages::Cache::user().unwrap();
        let apt = &session.workspace().manifest.apt[0];
        let machine = imgforge_packages::Machine::read().unwrap();
        let repository = machine.repository(apt, root, "amd64").unwrap();
        let network = imgforge_packages::Network::new(session.runtime().unwrap().handle()).unwrap();
        let silent = &imgforge_packages::Silent;
        imgforge_packages::fetch(&lock.packages, &[repository], &cache, &network, silent).unwrap();
        let file = |package: &imgforge::core::lock::LockedPackage| {
            let name = package.path.rsplit('/').next().expect("a path has a last part").to_owned();
            (cache.file(&package.sha256), name)
        };
        lock.packages.iter().map(file).collect()
    })
}

pub(crate) fn append(workspace: &TestWorkspace, path: &str, text: &str) {
    let old = std::fs::read_to_string(workspace.root().join(path)).unwrap();
    workspace.write(path, &(old + text));
}

/// `os` <- `app` <- `site`, `os` <- `other`; each but `os` has one small package. The cache is the workspace's own.
struct Family {
    apt: Repository,
    key: Key,
    server: Server,
    workspace: TestWorkspace,
    folder: tempfile::TempDir,
}

/// A package with one file, `/usr/share/NAME/version`.
pub(crate) fn tool<T>(name: &str, version: &str, make: impl FnOnce(&Package<'_>) -> T) -> T {
    let (path, content) = (format!("/usr/share/{name}/version"), format!("{version}\n"));
    make(&Package { name, version, fields: &[], files: &[(&path, &content)] })
}

impl Family {
    fn new(lock_rule: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap().join("repository");
        let (key, mut apt) = (Key::generate().unwrap(), Repository::new(&root));
        for (file, name) in essential() {
            apt.add_file(file, name).unwrap();
        }
        for name in ["greeting", "hammer", "saw", "nails"] {
            tool(name, "1.0", |tool| apt.add(tool)).unwrap();
        }
        apt.publish(&key, &[]).unwrap();
        let server = Server::start(root).unwrap();
        let workspace = TestWorkspace::new();
        let manifest = std::fs::read_to_string(workspace.root().join("imgforge.kdl")).unwrap();
        let manifest = manifest.replace("    registry", &format!("{lock_rule}\n    registry"));
        workspace.write("imgforge.kdl", &manifest);
        let source = format!(
            "apt \"local\" {{\n    suite \"stable\"\n    uri \"{}\"\n    keyring \"keys.gpg\"\n}}\n",
            server.uri()
        );
        append(&workspace, "imgforge.kdl", &source);
        std::fs::write(workspace.root().join("keys.gpg"), key.keyring().unwrap()).unwrap();
        workspace.image("os", "    root \"local\"");
        workspace.image("app", "    from \"os\"\n    packages \"local\" \"greeting\"");
        workspace.image("site", "    from \"app\"\n    packages \"local\" \"hammer\"");
        workspace.image("other", "    from \"os\"\n    packages \"local\" \"saw\"");
        Self { apt, key, server, workspace, folder }
    }

    fn run(&self, args: &[&str]) -> Ran {
        let mut command = self.workspace.command(IMGFORGE, args);
        Ran::of(command.env("IMGFORGE_CACHE", self.folder.path().join("cache")).output().unwrap())
    }

    /// The old version is gone.
    fn supersede(&mut self, name: &str, version: &str) {
        tool(name, version, |tool| self.apt.supersede(tool)).unwrap();
        self.apt.publish(&self.key, &[]).unwrap();
    }

    fn lock(&self) -> String {
        std::fs::read_to_string(self.workspace.root().join("imgforge.lock")).unwrap()
    }

    /// The lock's line of a package.
    fn locked(&self, name: &str) -> String {
        let lock = self.lock();
        let start = format!("package \"local\" \"{name}\" ");
        lock.lines().find(|line| line.starts_with(&start)).expect("a locked package").to_owned()
    }

    fn id(&self, image: &str) -> Option<String> {
        Docker::image_id(&format!("{}:latest", self.workspace.repository(image)))
    }
}

#[test]
fn a_superseded_package_stops_a_build_before_it_begins_and_update_mends_it() {
    let mut family = Family::new("");
    family.run(&["update"]).ok();
    let before = family.lock();
    family.supersede("greeting", "1.1");

    let stopped = family.run(&["build"]);
    assert_eq!(stopped.code, 3, "{}", stopped.stderr);
    for part in ["greeting 1.0", "`imgforge update`"] {
        assert!(stopped.stderr.contains(part), "{part} is missing in\n{}", stopped.stderr);
    }
    assert_eq!(family.id("os"), None, "nothing is built");
    assert_eq!(family.lock(), before);

    let updated = family.run(&["update"]).ok();
    assert!(updated.stderr.contains("greeting  1.0 -> 1.1"), "{}", updated.stderr);
    family.run(&["build", "site"]).ok();
    let version = Docker::run(&[
        "run",
        "--rm",
        &family.workspace.repository("site"),
        "cat",
        "/usr/share/greeting/version",
    ]);
    assert_eq!(version, "1.1");

    // What is in the cache is not asked for.
    let asked = family.server.requests().len();
    family.run(&["build", "--force", "--locked", "site"]).ok();
    assert_eq!(family.server.requests().len(), asked);
}

#[test]
fn a_workspace_that_says_so_locks_anew_what_has_vanished() {
    let mut family = Family::new("    lock vanished=\"relock\"");
    family.run(&["update"]).ok();
    let before = family.lock();
    family.supersede("greeting", "1.1");

    let refused = family.run(&["build", "--locked", "app"]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("greeting 1.0"), "{}", refused.stderr);
    assert_eq!(family.lock(), before, "--locked changes no lock");

    let built = family.run(&["build", "app"]).ok();
    let warning =
        "no longer served, so everything was locked anew (0 added, 1 moved, 0 removed): greeting 1.0";
    assert!(built.stderr.contains(warning), "{}", built.stderr);
    assert!(family.locked("greeting").contains("\"1.1\""), "{}", family.locked("greeting"));
    let version = Docker::run(&[
        "run",
        "--rm",
        &family.workspace.repository("app"),
        "cat",
        "/usr/share/greeting/version",
    ]);
    assert_eq!(version, "1.1");
    family.run(&["build", "--locked", "app"]).ok();
}

#[test]
fn a_step_that_installs_or_removes_packages_fails_its_image_and_leaves_no_name() {
    let family = Family::new("");
    let nails = family.folder.path().join("repository/pool/nails_1.0_all.deb");
    family.workspace.image(
        "site",
        "    from \"app\"\n    packages \"local\" \"hammer\"\n    run \"dpkg --remove hammer\"",
    );
    family.workspace.image(
        "other",
        "    from \"os\"\n    copy \"nails.deb\" \"/tmp/nails.deb\"\n    run \"dpkg --install /tmp/nails.deb\"\n    packages \"local\" \"saw\"",
    );
    std::fs::copy(nails, family.workspace.root().join("other/nails.deb")).unwrap();
    family.run(&["update"]).ok();
    let failed = family.run(&["build", "--format", "json"]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    for part in [
        "the image's packages are not those of the lock",
        "hammer 1.0 is locked, but not there",
        "nails 1.0 is there, but not locked",
    ] {
        assert!(failed.stderr.contains(part), "{part} is missing in\n{}", failed.stderr);
    }
    let result = |row: &serde_json::Value| {
        let text = |key: &str| row[key].as_str().unwrap().to_owned();
        (text("name"), text("result"))
    };
    let results: BTreeMap<String, String> =
        failed.json()["targets"].as_array().unwrap().iter().map(result).collect();
    let expected = [("app", "built"), ("os", "built"), ("other", "failed"), ("site", "failed")];
    assert_eq!(results, expected.map(|(name, result)| (name.to_owned(), result.to_owned())).into());

    let label = format!("label=imgforge.workspace={}", family.workspace.name());
    let names = Docker::run(&["images", "--filter", &label, "--format", "{{.Repository}}"]);
    let named: BTreeSet<&str> = names.lines().filter(|name| *name != "<none>").collect();
    assert_eq!(
        named,
        [family.workspace.repository("app"), family.workspace.repository("os")]
            .iter()
            .map(String::as_str)
            .collect()
    );
}

#[test]
fn a_package_more_locks_only_its_image_and_what_stands_on_it() {
    let mut family = Family::new("");
    family.run(&["update"]).ok();
    family.run(&["build"]).ok();
    let before = family.lock();
    // The repository moves on, and serves the old versions still.
    for name in ["greeting", "hammer", "saw", "nails"] {
        tool(name, "1.1", |tool| family.apt.add(tool)).unwrap();
    }
    family.apt.publish(&family.key, &[]).unwrap();
    family.workspace.image("app", "    from \"os\"\n    packages \"local\" \"greeting\" \"nails\"");

    for args in [&["build", "--locked"][..], &["plan"]] {
        let refused = family.run(args);
        assert_eq!(refused.code, 2, "{args:?}: {}", refused.stderr);
        for part in ["imgforge.lock does not fit", "app asks for other packages", "imgforge update"] {
            assert!(refused.stderr.contains(part), "{part} is missing in\n{}", refused.stderr);
        }
    }
    assert_eq!(family.lock(), before);

    let built = family.run(&["build"]).ok();
    let warning = "imgforge.lock did not fit the manifests: 1 added, 0 moved, 0 removed";
    assert!(built.stderr.contains(warning), "{}", built.stderr);
    assert!(built.stderr.contains("2 built, 2 fresh"), "{}", built.stderr);
    let packages = |lock: &str| -> Vec<String> {
        lock.lines().filter(|line| line.starts_with("package ")).map(str::to_owned).collect()
    };
    let after = family.lock();
    let kept: Vec<String> = packages(&after).into_iter().filter(|line| !line.contains("\"nails\"")).collect();
    assert_eq!(kept, packages(&before), "the lines of other packages stay as they are");
    assert!(family.locked("nails").contains("\"1.1\""), "what is new is the newest");
    family.run(&["build", "--locked"]).ok();
    let plan = family.run(&["plan", "--format", "json"]).ok().json();
    assert_eq!(with_action(&plan, "fresh"), ["app", "os", "other", "site"]);

    // Asked for, all of them move.
    let changes = family.run(&["update", "--dry-run", "--format", "json"]).ok().json();
    let moved: Vec<&str> =
        changes["changes"].as_array().unwrap().iter().map(|row| row["package"].as_str().unwrap()).collect();
    assert_eq!(moved, ["greeting", "hammer", "saw"]);
    assert_eq!(family.lock(), after, "a dry run writes nothing");
}

#[test]
fn a_repository_whose_key_nobody_trusts_is_refused_and_no_lock_is_written() {
    let family = Family::new("");
    let stranger = Key::generate().unwrap();
    std::fs::write(family.workspace.root().join("keys.gpg"), stranger.keyring().unwrap()).unwrap();
    let refused = family.run(&["update"]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("the signature of"), "{}", refused.stderr);
    assert!(!family.workspace.root().join("imgforge.lock").exists());
}
