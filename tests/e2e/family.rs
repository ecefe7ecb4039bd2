//! The example family, built from Debian's packages and run.

use std::path::Path;

use imgforge_testkit::docker::{Container, Docker};
use imgforge_testkit::http::ask;
use imgforge_testkit::workspace::TestWorkspace;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::building::wait_until;
use crate::{imgforge, with_action};

fn get(url: &str) -> Option<(u16, String)> {
    let reply = ask("GET", url, &[], "").ok()?;
    Some((reply.status, String::from_utf8(reply.body).ok()?))
}

fn post_entry(url: &str, text: &str) -> u16 {
    let form = format!("text={}", utf8_percent_encode(text, NON_ALPHANUMERIC));
    let kind = ("Content-Type", "application/x-www-form-urlencoded");
    ask("POST", url, &[kind], &form).expect("an answer").status
}

/// The process of a service, as `/etc/imgforge/status` has it; `-` when there is none.
fn process_of(container: &Container, service: &str) -> String {
    let status = container.exec(&["/etc/imgforge/status"]);
    let mut rows = status.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    rows.find(|row| row[0] == service).expect("the service is there")[2].to_owned()
}

/// One test for the whole family, since the images of one build are looked at from many sides.
#[test]
fn the_family_builds_runs_keeps_its_data_and_stops_in_order() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let family = TestWorkspace::copy_of(&root);
    imgforge(&family, &["build"]).ok();
    let again = imgforge(&family, &["build", "--locked"]).ok();
    assert!(again.stderr.contains("Fresh 9 images"), "{}", again.stderr);

    runs_from_scratch(&family);
    guestbook(&family);
    notes(&family);
    web_server_alone(&family);
    packages_are_whole(&family);
    only_what_was_asked_for(&family);
    changes_reach_descendants(&family);
}

fn runs_from_scratch(family: &TestWorkspace) {
    let said = Docker::run(&["run", "--rm", &family.repository("static-hello")]);
    assert_eq!(said, "hello from an image that holds one file");
}

fn guestbook(family: &TestWorkspace) {
    let container = Container::start(&["-p", "127.0.0.1::80", &family.repository("guestbook")]);
    let url = |path: &str| format!("http://{}{path}", container.address("80/tcp"));
    let healthy = || get(&url("/healthz")).is_some_and(|(status, _)| status == 200);
    wait_until("guestbook is healthy", healthy);
    assert_eq!(post_entry(&url("/entries"), "first & <second>"), 201);
    assert_eq!(post_entry(&url("/entries"), "  "), 422);
    assert!(get(&url("/entries")).unwrap().1.contains("first & <second>"));

    // A killed process comes back, and its neighbour is left alone.
    for (killed, neighbour) in [("puma", "nginx"), ("nginx", "puma")] {
        let (before, beside) = (process_of(&container, killed), process_of(&container, neighbour));
        container.exec(&["sh", "-c", &format!("kill -KILL {before}")]);
        wait_until("the service runs again", || {
            let now = process_of(&container, killed);
            now != before && now != "-" && healthy()
        });
        assert_eq!(process_of(&container, neighbour), beside);
    }

    Docker::run(&["restart", "-t", "20", &container.id]);
    wait_until("guestbook is healthy after a restart", healthy);
    assert!(get(&url("/entries")).unwrap().1.contains("first & <second>"), "the entry is still there");

    Docker::run(&["stop", "-t", "20", &container.id]);
    let state =
        Docker::run(&["inspect", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}", &container.id]);
    assert_eq!(state, "0 false");
    let logs = Docker::run(&["logs", &container.id]);
    assert!(!logs.contains("is started again with"), "{logs}");
}

/// The other branch: the same under runit.
fn notes(family: &TestWorkspace) {
    let container = Container::start(&["-p", "127.0.0.1::80", &family.repository("notes")]);
    let url = |path: &str| format!("http://{}{path}", container.address("80/tcp"));
    let healthy = || get(&url("/healthz")).is_some_and(|(status, _)| status == 200);
    wait_until("notes is healthy", healthy);
    let before = process_of(&container, "gunicorn");
    container.exec(&["sh", "-c", &format!("kill -KILL {before}")]);
    wait_until("the service runs again", || process_of(&container, "gunicorn") != before && healthy());
    Docker::run(&["stop", "-t", "20", &container.id]);
    assert_eq!(container.exit_code(), Some(0));
}

/// What a base image runs without services, ended by its own signal.
fn web_server_alone(family: &TestWorkspace) {
    let container = Container::start(&["-p", "127.0.0.1::80", &family.repository("status-page")]);
    let page = || get(&format!("http://{}/healthz", container.address("80/tcp")));
    wait_until("nginx answers", || page().is_some_and(|(status, _)| status == 200));
    Docker::run(&["stop", "-t", "20", &container.id]);
    assert_eq!(container.exit_code(), Some(0));
}

fn packages_are_whole(family: &TestWorkspace) {
    for image in ["os-base", "webapp-base", "guestbook", "notes", "builder"] {
        let reference = family.repository(image);
        let audit = Docker::run(&["run", "--rm", "--network", "none", &reference, "dpkg", "--audit"]);
        assert_eq!(audit, "", "{image}");
    }
}

fn only_what_was_asked_for(family: &TestWorkspace) {
    let script = "find /var/lib/apt/lists /var/cache/apt /var/log /usr/share/man /usr/share/info /usr/share/locale \
                  /var/cache/debconf /var/lib/dpkg /usr/share/doc -type f -size +0 2>/dev/null \
                  | grep -Ev '/copyright$|^/var/lib/dpkg/|^/var/cache/debconf/(config|passwords|templates).dat$|locale.alias$' ; \
                  ls /var/lib/dpkg/*-old /var/cache/debconf/*-old /usr/sbin/policy-rc.d 2>/dev/null; true";
    let left = Docker::run(&["run", "--rm", &family.repository("guestbook"), "sh", "-c", script]);
    assert_eq!(left, "");
}

fn changes_reach_descendants(family: &TestWorkspace) {
    let path = family.root().join("images/webapp-base/nginx.conf");
    let before = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, before.replace("768", "512")).unwrap();
    let plan = imgforge(family, &["plan", "--format", "json"]).ok().json();
    let expected = ["guestbook", "notes", "python-webapp", "ruby-webapp", "status-page", "webapp-base"];
    assert_eq!(with_action(&plan, "build"), expected);
    std::fs::write(&path, before).unwrap();
    assert_eq!(imgforge(family, &["plan", "--exit-code"]).code, 0);
}
