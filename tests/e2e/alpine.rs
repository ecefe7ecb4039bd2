//! Alpine: services on an image whose programs are busybox's, packages that are locked, and those that apk chooses.
//!
//! s6 comes from Debian's package, with the C library that it needs, in place of Alpine's own package of the same
//! programs.

use camino::Utf8Path;
use imgforge_testkit::apk::Repository;
use imgforge_testkit::docker::{Container, Docker};
use imgforge_testkit::http::Server;
use imgforge_testkit::needs;
use imgforge_testkit::registry::{Registry, Setup};
use imgforge_testkit::workspace::{Ran, TestWorkspace};

use crate::building::wait_until;
use crate::externals::push;
use crate::{IMGFORGE, imgforge, with_action};

const DOCKERFILE: &str = "\
FROM scratch
ADD alpine.tar.gz /
COPY --from=s6-debian /usr/bin/s6-* /usr/bin/
COPY --from=s6-debian /usr/lib/x86_64-linux-gnu/libc.so.6 /usr/lib/x86_64-linux-gnu/libs6* /usr/lib/x86_64-linux-gnu/libskarnet* /usr/lib/x86_64-linux-gnu/libexecline* /usr/lib/x86_64-linux-gnu/
COPY --from=s6-debian /lib64/ld-linux-x86-64.so.2 /lib64/
";

const SERVICES: &str = r#"
    from "alpine"
    supervisor "s6" install=#false
    user "app" uid=1000 home="/srv/app"
    service "page" {
        command "nc" "-lk" "-p" "8080" "-e" "printf" "HTTP/1.0 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n"
        ready http="http://127.0.0.1:8080/" interval="50ms"
        user "app"
        limit nofile=64 nproc=500
    }
    service "port" {
        command "nc" "-lk" "-p" "8081" "-e" "true"
        ready tcp=8081 interval="50ms"
    }
    service "setup" { type "oneshot"; script "sleep 1; echo set up"; needs "page" "port" }
    service "main" {
        script "echo main is $(id -un) $HOME; grep -E 'open files|processes' /proc/self/limits | tr -s ' '; printf 'no end'; exec sleep 600"
        user "app"
        limit nofile=64 nproc=500
        needs "setup"
        after-stop "touch" "/tmp/after-main"
    }
    service "broken" { script "exit 3"; restart "always" max=1 }"#;

#[test]
#[ignore = "it needs a tar of Alpine, which IMGFORGE_TEST_ALPINE names"]
fn services_run_on_busybox() {
    let workspace = TestWorkspace::new();
    let described = std::fs::read_to_string(workspace.root().join("imgforge.kdl")).unwrap();
    workspace.write(
        "imgforge.kdl",
        &format!("{described}apt \"debian\" {{\n    suite \"bookworm\" \"bookworm-updates\"\n}}\n"),
    );
    workspace.image("s6-debian", "    root \"debian\"\n    packages \"debian\" \"s6\"");
    workspace.image("alpine", "    dockerfile \"Dockerfile\"");
    workspace.write("alpine/Dockerfile", DOCKERFILE);
    std::fs::copy(needs::alpine(), workspace.root().join("alpine/alpine.tar.gz")).unwrap();
    workspace.image("app", SERVICES);
    imgforge(&workspace, &["build", "app"]).ok();

    let container = Container::start(&[&workspace.repository("app")]);
    let state = |service: &str| {
        let status = container.try_exec(&["/etc/imgforge/status"]).unwrap_or_default();
        let mut rows = status.lines().map(|line| line.split('\t').collect::<Vec<_>>());
        rows.find(|row| row[0] == service).map_or(String::new(), |row| row[1].to_owned())
    };
    wait_until("main is up", || state("main") == "up");
    wait_until("broken is given up", || state("broken") == "failed");
    assert_eq!(state("setup"), "done");
    let logs = container.logs();
    for line in [
        "setup: set up",
        "main: main is app /srv/app",
        "main: Max open files 64 64",
        "main: Max processes 500 500",
        "imgforge: broken ended with status 3, 2 times within 60 s: it is given up",
    ] {
        assert!(logs.contains(line), "{line} is not in:\n{logs}");
    }
    container.exec(&["sh", "-c", "kill -KILL $(/etc/imgforge/status | awk '$1 == \"main\" { print $3 }')"]);
    wait_until("its end has been noticed", || {
        container.try_exec(&["test", "-e", "/tmp/after-main"]).is_some()
    });
    wait_until("main is up again", || state("main") == "up");
    assert!(container.logs().contains("main: no end\n"));
    Docker::run(&["stop", "-t", "20", &container.id]);
    assert_eq!(container.exit_code(), Some(0));
}

#[test]
#[ignore = "it needs a tar of Alpine, which IMGFORGE_TEST_ALPINE names"]
fn apk_installs_exactly_the_pinned_versions_and_leaves_nothing_else() {
    let workspace = TestWorkspace::new();
    let described = std::fs::read_to_string(workspace.root().join("imgforge.kdl")).unwrap();
    workspace.write("imgforge.kdl", &format!("{described}apk \"local\"\n"));
    workspace.image("alpine", "    dockerfile \"Dockerfile\"");
    workspace.write(
        "alpine/Dockerfile",
        "FROM scratch\nADD alpine.tar.gz /\nCOPY repository /srv/repository\n\
         RUN cp /srv/repository/test.rsa.pub /etc/apk/keys/ && echo /srv/repository > /etc/apk/repositories\n",
    );
    std::fs::copy(needs::alpine(), workspace.root().join("alpine/alpine.tar.gz")).unwrap();
    let mut repository = Repository::new(&workspace.root().join("alpine/repository")).unwrap();
    for version in ["1.0-r0", "1.1-r0"] {
        let file = [("usr/share/tool/version", version)];
        repository.add("tool", version, &["libtool-test"], &file).unwrap();
    }
    repository.add("libtool-test", "2.0-r3", &[], &[("usr/lib/libtool-test", "library")]).unwrap();
    repository.publish().unwrap();
    let pinned = |version: &str| {
        let packages = format!("packages \"local\" \"tool={version}\"");
        workspace.image("app", &format!("    from \"alpine\"\n    network \"default\"\n    {packages}"));
    };
    let in_app = |args: &[&str]| {
        let app = workspace.repository("app");
        Docker::run(&[&["run", "--rm", "--network", "none", &app], args].concat())
    };

    pinned("1.0-r0");
    imgforge(&workspace, &["build", "--locked"]).ok();
    assert_eq!(in_app(&["cat", "/usr/share/tool/version"]), "1.0-r0", "not the newest");
    let installed = in_app(&["apk", "info", "-v"]);
    for package in ["tool-1.0-r0", "libtool-test-2.0-r3"] {
        assert!(installed.lines().any(|line| line == package), "{package} is not in {installed}");
    }
    assert_eq!(
        in_app(&["find", "/var/cache/apk", "/var/log", "/tmp", "-mindepth", "1"]),
        "",
        "no cache, no log"
    );

    pinned("1.1-r0");
    let plan = imgforge(&workspace, &["plan", "--format", "json"]).ok().json();
    assert_eq!(with_action(&plan, "build"), ["app"]);
    imgforge(&workspace, &["build", "--locked"]).ok();
    assert_eq!(in_app(&["cat", "/usr/share/tool/version"]), "1.1-r0");

    pinned("1.2-r0");
    let failed = imgforge(&workspace, &["build", "--locked"]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    assert!(failed.stderr.contains("tool-1.1-r0"), "apk names the version that there is: {}", failed.stderr);
}

/// A repository on loopback, and a workspace whose image `app` puts packages of it on a base from a registry.
struct Locked {
    repository: Repository,
    server: Server,
    registry: Registry,
    workspace: TestWorkspace,
    folder: tempfile::TempDir,
}

/// What the base has, where it is not Alpine itself.
const INSTALLED: &str = "C:Q1zz=\nP:apk-tools\nV:2.14.4-r0\nA:x86_64\nS:1\n\nC:Q1zz=\nP:musl\nV:1.2.5-r0\nA:x86_64\n\
                         p:so:libc.musl-x86_64.so.1=1\nF:lib\nR:ld-musl-x86_64.so.1\n\n";

impl Locked {
    /// On a base that looks like Alpine to who locks packages.
    fn new() -> Self {
        Self::on(|maker| {
            maker.busybox_base("tools");
            maker.image("base", "    from \"tools\"\n    copy \"installed\" \"/lib/apk/db/installed\"");
            maker.write("base/installed", INSTALLED);
        })
    }

    /// On Alpine itself.
    fn on_alpine() -> Self {
        Self::on(|maker| {
            maker.image("base", "    dockerfile \"Dockerfile\"");
            maker.write("base/Dockerfile", "FROM scratch\nADD alpine.tar.gz /\n");
            std::fs::copy(needs::alpine(), maker.root().join("base/alpine.tar.gz")).unwrap();
        })
    }

    /// `tool` needs a library by the name of its file, which `libtool-test` has; `tool-extra` comes along with it.
    fn on(base: impl Fn(&TestWorkspace)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap().join("v3.20/main");
        let mut repository = Repository::new(&root).unwrap();
        let needs = [("D", "so:libtool.so.1>=1 so:libc.musl-x86_64.so.1 !old-tool")];
        repository.add_with("tool", "1.0-r0", &needs, &[("usr/share/tool/version", "1.0-r0")]).unwrap();
        let provides = [("p", "so:libtool.so.1=1.2")];
        repository.add_with("libtool-test", "2.0-r3", &provides, &[("usr/lib/libtool", "library")]).unwrap();
        let along = [("i", "tool=1.0-r0 musl")];
        repository.add_with("tool-extra", "1.0-r0", &along, &[("usr/share/tool/extra", "extra")]).unwrap();
        repository.add("apart", "3-r1", &[], &[("usr/share/apart", "apart")]).unwrap();
        repository.publish().unwrap();
        let server = Server::start(Utf8Path::from_path(folder.path()).unwrap()).unwrap();
        let registry = Registry::start(Setup::default()).unwrap();
        let reference = format!("{}/alpine:3.20", registry.host());

        let maker = TestWorkspace::new();
        base(&maker);
        imgforge(&maker, &["build", "base"]).ok();
        push(&maker.repository("base"), &reference);

        let workspace = TestWorkspace::new();
        let described = std::fs::read_to_string(workspace.root().join("imgforge.kdl")).unwrap();
        let source = format!(
            "apk \"local\" {{\n    repository \"{}/v3.20/main\"\n    keys \"keys\"\n}}\n",
            server.uri()
        );
        workspace.write("imgforge.kdl", &format!("{described}{source}"));
        let key = std::fs::read_to_string(root.join("test.rsa.pub")).unwrap();
        workspace.write("keys/test.rsa.pub", &key);
        workspace.image("app", &format!("    from \"{reference}\"\n    packages \"local\" \"tool\""));
        workspace.image("site", "    from \"app\"\n    packages \"local\" \"apart\" \"libtool-test\"");
        Self { repository, server, registry, workspace, folder }
    }

    fn run(&self, args: &[&str]) -> Ran {
        let cache = self.folder.path().join("cache");
        Ran::of(self.workspace.command(IMGFORGE, args).env("IMGFORGE_CACHE", cache).output().unwrap())
    }

    fn lock(&self) -> String {
        std::fs::read_to_string(self.workspace.root().join("imgforge.lock")).unwrap()
    }
}

#[test]
fn packages_of_alpine_are_locked_with_all_that_they_need() {
    let mut family = Locked::new();
    family.run(&["update"]).ok();
    let lock = family.lock();
    for line in [
        "    has \"musl\" \"1.2.5-r0\" \"x86_64\"",
        "package \"local\" \"tool\" \"1.0-r0\" \"x86_64\" suite=\"v3.20/main\" path=\"x86_64/tool-1.0-r0.apk\" size=",
        "    add \"libtool-test=2.0-r3\"\n    add \"tool-extra=1.0-r0\"\n    add \"tool=1.0-r0\"\n}",
        "    add \"apart=3-r1\"\n}",
    ] {
        assert!(lock.contains(line), "{line} is not in\n{lock}");
    }
    assert!(lock.contains(" checksum=\"Q1"), "{lock}");
    assert!(!lock.contains("127.0.0.1:") || !lock.contains("path=\"http"), "no host in paths: {lock}");
    assert_eq!(family.run(&["outdated"]).ok().stdout, "");
    // A machine whose cache is empty knows the files by the index's checksums.
    std::fs::remove_dir_all(family.folder.path().join("cache")).unwrap();
    assert_eq!(family.run(&["outdated"]).ok().stdout, "");
    family.run(&["update"]).ok();
    assert_eq!(family.lock(), lock);

    // A new version takes the old one's place.
    family.repository.remove("libtool-test", "2.0-r3").unwrap();
    let provides = [("p", "so:libtool.so.1=1.3")];
    family
        .repository
        .add_with("libtool-test", "2.0-r10", &provides, &[("usr/lib/libtool", "newer")])
        .unwrap();
    family.repository.publish().unwrap();
    let outdated = family.run(&["outdated", "--format", "json"]);
    assert_eq!(outdated.code, 10, "{}", outdated.stderr);
    let rows = outdated.json()["packages"].clone();
    assert_eq!(
        (&rows[0]["package"], &rows[0]["newest"]),
        (&"libtool-test".into(), &"2.0-r10".into()),
        "{rows}"
    );
    assert_eq!(rows[0]["images"], serde_json::json!(["app", "site"]));
    assert_eq!(rows[0]["served"], false);
    assert_eq!(rows.as_array().unwrap().len(), 1, "{rows}");
    family.run(&["update", "libtool-test"]).ok();
    assert_eq!(family.lock().replace("2.0-r10", "2.0-r3").lines().count(), lock.lines().count());
    assert_eq!(family.run(&["outdated"]).ok().stdout, "");
}

#[test]
#[ignore = "it needs a tar of Alpine, which IMGFORGE_TEST_ALPINE names"]
fn versions_of_alpine_compare_as_apk_itself_compares_them() {
    let workspace = TestWorkspace::new();
    workspace.image("alpine", "    dockerfile \"Dockerfile\"");
    workspace.write("alpine/Dockerfile", "FROM scratch\nADD alpine.tar.gz /\n");
    std::fs::copy(needs::alpine(), workspace.root().join("alpine/alpine.tar.gz")).unwrap();
    imgforge(&workspace, &["build"]).ok();
    let bases = ["0.9", "1", "1.0", "1.0.0", "1.00", "1.01", "1.010", "1.09", "1.1", "1.10", "01.1", "2.0"];
    let ends = ["", "a", "_alpha", "_beta2", "_rc1", "_rc10", "_git20240101", "_p", "_p1", "_p1_rc2"];
    let revisions = ["", "-r1", "-r10"];
    let mut versions: Vec<String> = Vec::new();
    for base in bases {
        for end in ends {
            versions.extend(revisions.iter().map(|revision| format!("{base}{end}{revision}")));
        }
    }
    // Every one with some of the others, near and far.
    let pairs: Vec<(&String, &String)> = (0..versions.len())
        .flat_map(|at| [1, 5, 44, 47, 177].map(|step| (at, (at + step) % versions.len())))
        .map(|(a, b)| (&versions[a], &versions[b]))
        .collect();
    let script: String = pairs.iter().map(|(a, b)| format!("apk version -t {a} {b}\n")).collect();
    workspace.write("script", &script);
    let script = format!("{}:/script:ro", workspace.root().join("script"));
    let image = workspace.repository("alpine");
    let said = Docker::run(&["run", "--rm", "--network", "none", "-v", &script, &image, "sh", "/script"]);
    let signs: Vec<&str> = said.lines().collect();
    assert_eq!(signs.len(), pairs.len());
    let differs: Vec<String> = pairs
        .iter()
        .zip(signs)
        .filter_map(|((a, b), sign)| {
            let ours = match imgforge_packages::Scheme::Alpine.compare(a, b) {
                std::cmp::Ordering::Less => "<",
                std::cmp::Ordering::Equal => "=",
                std::cmp::Ordering::Greater => ">",
            };
            (ours != sign).then(|| format!("{a} {sign} {b}, not {ours}"))
        })
        .collect();
    assert!(differs.is_empty(), "{} of {}:\n{}", differs.len(), pairs.len(), differs.join("\n"));
}

#[test]
fn packages_of_alpine_that_are_not_what_is_signed_are_refused() {
    let mut family = Locked::new();
    let refuses = |family: &Locked, code: i32, parts: &[&str]| {
        let refused = family.run(&["update"]);
        assert_eq!(refused.code, code, "{}", refused.stderr);
        for part in parts {
            assert!(refused.stderr.contains(part), "{part} is not in\n{}", refused.stderr);
        }
        assert!(!family.workspace.root().join("imgforge.lock").exists());
    };
    let key = family.workspace.root().join("keys/test.rsa.pub");
    let good = std::fs::read_to_string(&key).unwrap();
    std::fs::rename(&key, key.with_extension("away")).unwrap();
    refuses(&family, 3, &["made with the key test.rsa.pub, which", "does not have"]);
    std::fs::remove_dir_all(key.parent().unwrap()).unwrap();
    refuses(&family, 2, &["no folder of public keys", "imgforge.kdl:"]);
    family.workspace.write("keys/test.rsa.pub", "no key");
    refuses(&family, 3, &["no RSA public key"]);
    // Another key of that name.
    let other = Repository::new(&Utf8Path::from_path(family.folder.path()).unwrap().join("other")).unwrap();
    other.publish().unwrap();
    std::fs::copy(family.folder.path().join("other/test.rsa.pub"), &key).unwrap();
    refuses(&family, 3, &["it was not made with the key test.rsa.pub"]);
    family.workspace.write("keys/test.rsa.pub", &good);

    // A file that the index does not mean, of the same size.
    let file = family.repository.file("tool", "1.0-r0");
    let whole = std::fs::read(&file).unwrap();
    let mut wrong = whole.clone();
    *wrong.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &wrong).unwrap();
    refuses(&family, 3, &["tool=1.0-r0", "its data is not what its control segment says"]);
    std::fs::write(&file, &whole[1..]).unwrap();
    refuses(&family, 3, &["tool=1.0-r0", "another size"]);
    std::fs::remove_file(&file).unwrap();
    refuses(&family, 3, &["tool"]);
    std::fs::write(&file, &whole).unwrap();

    // What nobody has, and what cannot be had together.
    family.workspace.image(
        "app",
        &format!("    from \"{}/alpine:3.20\"\n    packages \"local\" \"tol\"", family.registry.host()),
    );
    refuses(&family, 2, &["no package \"tol\"", "app/image.kdl:"]);
    family.repository.add("old-tool", "1-r0", &[], &[("usr/share/old", "old")]).unwrap();
    family.repository.publish().unwrap();
    let both = format!(
        "    from \"{}/alpine:3.20\"\n    packages \"local\" \"tool\" \"old-tool\"",
        family.registry.host()
    );
    family.workspace.image("app", &both);
    refuses(&family, 2, &["old-tool, tool cannot be installed"]);
    family.workspace.image("app", &both.replace(" \"old-tool\"", ""));
    family.run(&["update"]).ok();
    assert!(family.server.requests().iter().any(|request| request.contains("APKINDEX.tar.gz")));
}

#[test]
#[ignore = "it needs a tar of Alpine, which IMGFORGE_TEST_ALPINE names"]
fn locked_packages_of_alpine_are_installed_without_a_network() {
    let mut family = Locked::on_alpine();
    family.workspace.image(
        "site",
        "    from \"app\"\n    packages \"local\" \"apart\" \"libtool-test\"\n    test \"packages\" { packages-as-locked }",
    );
    family.run(&["update"]).ok();
    family.run(&["build", "--locked"]).ok();
    let in_site = |args: &[&str]| {
        let site = family.workspace.repository("site");
        Docker::run(&[&["run", "--rm", "--network", "none", &site], args].concat())
    };
    let installed = in_site(&["apk", "info", "-v"]);
    for package in ["tool-1.0-r0", "libtool-test-2.0-r3", "tool-extra-1.0-r0", "apart-3-r1"] {
        assert!(installed.lines().any(|line| line == package), "{package} is not in {installed}");
    }
    let world = in_site(&["cat", "/etc/apk/world"]);
    assert!(world.lines().any(|line| line == "tool") && !world.contains("tool-extra"), "{world}");
    assert_eq!(in_site(&["find", "/var/cache/apk", "/var/log", "/tmp", "-mindepth", "1"]), "");
    assert_eq!(in_site(&["cat", "/usr/share/tool/version", "/usr/share/tool/extra"]), "1.0-r0extra");
    let plan = family.run(&["plan", "--format", "json"]).ok().json();
    assert_eq!(with_action(&plan, "fresh"), ["app", "site"]);

    // To ask for a package by name that is there already changes what apk keeps.
    family.workspace.image("site", "    from \"app\"\n    packages \"local\" \"apart\"");
    family.run(&["build"]).ok();
    assert!(
        !Docker::run(&["run", "--rm", &family.workspace.repository("site"), "cat", "/etc/apk/world"])
            .contains("libtool-test")
    );

    // The embedded engine has the same.
    family.run(&["build", "--engine", "embedded"]).ok();
    let _ = &mut family.repository;
}
