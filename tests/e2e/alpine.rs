//! Alpine: services on an image whose programs are busybox's, and packages that apk installs.
//!
//! `IMGFORGE_TEST_ALPINE` names a tar of Alpine's minimal root file system; without it there is nothing to test. s6 comes
//! from Debian's package, with the C library that it needs, in place of Alpine's own package of the same programs.

use imgforge_testkit::apk::Repository;
use imgforge_testkit::docker::{Container, Docker};
use imgforge_testkit::workspace::TestWorkspace;

use crate::building::wait_until;
use crate::{imgforge, with_action};

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
fn services_run_on_busybox() {
    let Some(tar) = std::env::var_os("IMGFORGE_TEST_ALPINE") else {
        eprintln!("skipped: IMGFORGE_TEST_ALPINE does not name a tar of Alpine's minimal root");
        return;
    };
    let workspace = TestWorkspace::new();
    let described = std::fs::read_to_string(workspace.root().join("imgforge.kdl")).unwrap();
    workspace.write(
        "imgforge.kdl",
        &format!("{described}apt \"debian\" {{\n    suite \"bookworm\" \"bookworm-updates\"\n}}\n"),
    );
    workspace.image("s6-debian", "    root \"debian\"\n    packages \"debian\" \"s6\"");
    workspace.image("alpine", "    dockerfile \"Dockerfile\"");
    workspace.write("alpine/Dockerfile", DOCKERFILE);
    std::fs::copy(tar, workspace.root().join("alpine/alpine.tar.gz")).unwrap();
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
fn apk_installs_exactly_the_pinned_versions_and_leaves_nothing_else() {
    let Some(tar) = std::env::var_os("IMGFORGE_TEST_ALPINE") else {
        eprintln!("skipped: IMGFORGE_TEST_ALPINE does not name a tar of Alpine's minimal root");
        return;
    };
    let workspace = TestWorkspace::new();
    let described = std::fs::read_to_string(workspace.root().join("imgforge.kdl")).unwrap();
    workspace.write("imgforge.kdl", &format!("{described}apk \"local\"\n"));
    workspace.image("alpine", "    dockerfile \"Dockerfile\"");
    workspace.write(
        "alpine/Dockerfile",
        "FROM scratch\nADD alpine.tar.gz /\nCOPY repository /srv/repository\n\
         RUN cp /srv/repository/test.rsa.pub /etc/apk/keys/ && echo /srv/repository > /etc/apk/repositories\n",
    );
    std::fs::copy(tar, workspace.root().join("alpine/alpine.tar.gz")).unwrap();
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
