//! Tests of images: every check holding and not, inheritance, what is remembered, what a failure blocks, what is left
//! behind by nobody.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;

use imgforge_testkit::docker::Docker;
use imgforge_testkit::socket_proxy::{self, SocketProxy};
use imgforge_testkit::workspace::{Ran, TestWorkspace};

use crate::building::wait_until;
use crate::{IMGFORGE, imgforge};

/// `base`, which starts nothing, and `web`, which serves `/srv` on port 8080 and ends with 5 when it is asked to stop.
fn workspace(base: &str, web: &str) -> TestWorkspace {
    let workspace = TestWorkspace::new();
    workspace.busybox_base("base");
    let text = std::fs::read_to_string(workspace.root().join("base/image.kdl")).unwrap();
    let made = "    run \"echo root:x:0:0::/:/bin/sh > /etc/passwd; echo root:x:0: > /etc/group; cp /bin/busybox /bin/other; chmod 4755 /bin/other\"\n";
    workspace.write("base/image.kdl", &text.replacen("\n}", &format!("\n{made}{base}\n}}"), 1));
    workspace.write("web/page", "a page\n");
    workspace.image(
        "web",
        &format!(
            r#"    from "base"
    supervisor "none"
    expose 8080
    env "GREETING" "hi"
    copy "page" "/srv/page"
    service "web" {{
        script "trap 'exit 5' TERM; httpd -p 8080 -h /srv; echo serving; while :; do sleep 60 & wait $!; done"
    }}
{web}"#
        ),
    );
    workspace
}

/// The containers of a workspace, running or not.
fn containers(workspace: &TestWorkspace) -> String {
    Docker::run(&["ps", "-aq", "--filter", &format!("label=imgforge.workspace={}", workspace.name())])
}

/// `{"web": "built", ...}` of a report.
fn results(ran: &Ran) -> BTreeMap<String, String> {
    let report = ran.json();
    let rows = report["targets"].as_array().unwrap().iter();
    rows.map(|row| (row["name"].as_str().unwrap().to_owned(), row["result"].as_str().unwrap().to_owned()))
        .collect()
}

/// The tests of a target in a report.
fn tests(ran: &Ran, target: &str) -> Vec<serde_json::Value> {
    let report = ran.json();
    let mut rows = report["targets"].as_array().unwrap().iter();
    let row = rows.find(|row| row["name"] == target).expect("the target is in the report").clone();
    row["tests"].as_array().cloned().unwrap_or_default()
}

fn is_released(workspace: &TestWorkspace, image: &str) -> bool {
    Docker::image_id(&format!("{}:latest", workspace.repository(image))).is_some()
}

#[test]
fn every_check_that_holds_passes() {
    let workspace = workspace(
        r#"    test "holds" {
        command "echo" "hello" stdout="hello"
        command "sh" "-c" "echo no >&2; exit 3" exit=3 stderr-contains="no" stdout=""
        command "id" "-u" stdout="7" user="7"
        file "/bin/busybox" mode="0755" owner="root:root" type="file"
        file "/bin/sh" type="link"
        file "/bin/sh" type="file"
        file "/etc" type="folder" mode="0755"
        file "/etc/group" contains="root:x" sha256="7a696fcfba89a55a6d73fa1a03c7f071fad2141340027b17a25db249e26b9be8"
        file "/nothing" absent=#true
        user "root" uid=0 gid=0 home="/" shell="/bin/sh"
        env "PATH"
        env "GREETING" absent=#true
        size max="50MB"
        no-setuid "/bin/other"
    }"#,
        r#"    test "holds" timeout="30s" {
        stops code=5 within="10s"
        http "http://{container}:8080/page" contains="page"
        http "http://{container}:8080/none" status=404
        tcp 8080
        command "cat" "/srv/page" stdout="a page"
        healthy
        env "GREETING" "hi"
    }"#,
    );
    let ran = imgforge(&workspace, &["build", "--format", "json"]).ok();
    for (image, checks) in [("base", 14), ("web", 7)] {
        let tests = tests(&ran, image);
        assert_eq!(tests.len(), 1, "{image}");
        assert_eq!((tests[0]["passed"].as_bool(), tests[0]["checks"].as_u64()), (Some(true), Some(checks)));
    }
    assert!(ran.stderr.contains("1 test"), "{}", ran.stderr);
    assert_eq!(containers(&workspace), "", "every container is removed");
}

#[test]
fn every_check_that_does_not_hold_fails_at_its_line_with_what_was_found() {
    let workspace = workspace(
        r#"    test "wrong" {
        command "echo" "hello" stdout="bye"
        command "sh" "-c" "echo why >&2; exit 3"
        command "nosuch"
        file "/bin/busybox" mode="0644"
        file "/bin/busybox" owner="7"
        file "/etc" type="file"
        file "/etc/group" contains="wheel"
        file "/nothing"
        file "/etc" absent=#true
        user "web"
        user "root" uid=7
        env "NOT"
        env "PATH" absent=#true
        size max="10KB"
        no-setuid
    }"#,
        r#"    test "wrong" timeout="20s" {
        http "http://{container}:8080/page" status=404 within="3s"
        http "http://{container}:8080/page" contains="book" within="500ms"
        tcp 81 within="500ms"
        command "cat" "/none"
        env "GREETING" "bye"
        stops
    }"#,
    );
    let built = imgforge(&workspace, &["build", "--no-test"]).ok();
    assert!(built.stderr.contains("tests of base, web are left out"), "{}", built.stderr);
    assert!(is_released(&workspace, "web"));

    let junit = workspace.root().join("tests.xml");
    let ran = imgforge(&workspace, &["test", "--format", "json", "--junit", junit.as_str()]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert_eq!(
        results(&ran),
        [("base", "failed"), ("web", "failed")].map(|(a, b)| (a.into(), b.into())).into()
    );
    let found = |image: &str| -> Vec<String> {
        let test = &tests(&ran, image)[0];
        let failures = test["failures"].as_array().unwrap().iter();
        failures
            .map(|one| format!("{} | {}", one["expected"].as_str().unwrap(), one["found"].as_str().unwrap()))
            .collect()
    };
    let starts = |found: &[String], expected: &[&str]| {
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found} is not {expected}");
        }
    };
    starts(
        &found("base"),
        &[
            "stdout \"bye\" | \"hello\"",
            "exit code 0 | 3: \"why\"",
            "\"nosuch\" to run | no program nosuch in the image",
            "mode 0644 | mode 0755",
            "owner 7 | root:root",
            "a file | a folder",
            "a file that contains \"wheel\" | 10 B without it",
            "/nothing | nothing at this path",
            "nothing at /etc | a folder",
            "a user \"web\" | none in /etc/passwd",
            "uid 7 | 0",
            "a variable NOT | it is not set",
            "no variable PATH | \"/usr/local/sbin",
            "at most 10 kB | ",
            "no setuid or setgid file | /bin/other (4755)",
        ],
    );
    starts(
        &found("web"),
        &[
            "status 404 | status 200 after ",
            "a status from 200 to 399 and a body that contains \"book\" | status 200 and the body \"a page\" after ",
            "a connection to port 81 | connection refused after ",
            "exit code 0 | 1: \"cat: can't open '/none'",
            "GREETING=\"bye\" | \"hi\"",
            "an end with exit code 0 | exit code 5",
        ],
    );
    for part in ["base/image.kdl:8", "web/image.kdl:11", "test \"wrong\" of web failed", "its log", "serving"]
    {
        assert!(ran.stderr.contains(part), "{part} is missing in\n{}", ran.stderr);
    }
    let xml = std::fs::read_to_string(junit).unwrap();
    for part in [
        "<testsuites name=\"imgforge\" tests=\"2\" skipped=\"0\" failures=\"2\"",
        "classname=\"web\"",
        "web/image.kdl:",
        "serving",
    ] {
        assert!(xml.contains(part), "{part} is missing in\n{xml}");
    }
    assert_eq!(containers(&workspace), "", "every container is removed");
}

#[test]
fn a_failure_blocks_what_stands_on_it_keeps_release_tags_and_is_tested_again_without_a_build() {
    let workspace = workspace(
        "",
        "    test \"serves\" {\n        http \"http://{container}:8080/page\" contains=\"page\" within=\"3s\"\n    }",
    );
    workspace.image("app", "    from \"web\"\n    run \"echo app > /srv/app\"\n    test \"app\" {\n        file \"/srv/page\" contains=\"page\"\n    }");
    workspace.image("beside", "    from \"base\"\n    run \"echo beside > /name\"");
    imgforge(&workspace, &["build"]).ok();
    let web = || Docker::image_id(&format!("{}:latest", workspace.repository("web")));
    let released = web();
    // Whatever has passed is not tested again.
    let again = imgforge(&workspace, &["build"]).ok();
    assert!(again.stderr.contains("Fresh 4 images"), "{}", again.stderr);

    workspace.write("web/page", "a sheet\n");
    workspace.image("beside", "    from \"base\"\n    run \"echo changed > /name\"");
    let failed = imgforge(&workspace, &["build", "--format", "json"]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    let expected = [("app", "skipped"), ("base", "fresh"), ("beside", "built"), ("web", "failed")];
    assert_eq!(results(&failed), expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
    assert!(failed.stderr.contains("web: web/page changed"), "{}", failed.stderr);
    assert_eq!(web(), released, "the release tag stays with what has passed");

    let plan = imgforge(&workspace, &["plan"]).ok();
    assert!(plan.stdout.contains("1 test to run"), "{}", plan.stdout);
    assert_eq!(imgforge(&workspace, &["plan", "--exit-code"]).code, 10);
    let retried = imgforge(&workspace, &["build", "web"]);
    assert_eq!(retried.code, 1);
    assert!(
        !retried.stderr.contains("Building") && retried.stderr.contains("Testing web"),
        "{}",
        retried.stderr
    );
    assert!(retried.stderr.contains("web: web/page changed"), "still named: {}", retried.stderr);

    // Another test needs no build; and then the tag moves.
    let text = std::fs::read_to_string(workspace.root().join("web/image.kdl")).unwrap();
    workspace.write("web/image.kdl", &text.replace("contains=\"page\" within", "contains=\"sheet\" within"));
    let mended = imgforge(&workspace, &["build", "web"]).ok();
    assert!(!mended.stderr.contains("Building") && mended.stderr.contains("1 tested"), "{}", mended.stderr);
    assert_ne!(web(), released);

    // What only a descendant notices is told with the chain that leads to it.
    let noticed = imgforge(&workspace, &["build"]);
    assert_eq!(noticed.code, 1, "{}", noticed.stderr);
    assert!(noticed.stderr.contains("test \"app\" of app failed"), "{}", noticed.stderr);
}

#[test]
fn a_break_in_an_ancestor_that_a_descendant_notices_is_shown_with_the_chain() {
    let workspace = workspace("", "");
    workspace.image("mid", "    from \"web\"\n    run \"echo mid > /mid\"");
    workspace.image(
        "app",
        "    from \"mid\"\n    test \"page\" {\n        file \"/srv/page\" contains=\"page\"\n    }",
    );
    imgforge(&workspace, &["build"]).ok();
    workspace.write("web/page", "a sheet\n");
    let failed = imgforge(&workspace, &["build"]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    let text = failed.stderr.replace(['\n', '│'], " ");
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let chain = "web: web/page changed (app <- mid <- web)";
    assert!(words.contains(chain), "{chain} is missing in\n{}", failed.stderr);
}

#[test]
fn an_inherited_test_runs_in_every_descendant_unless_it_is_switched_off() {
    let workspace =
        workspace("    test \"small\" inherit=#true {\n        file \"/big\" absent=#true\n    }", "");
    workspace.image("big", "    from \"web\"\n    run \"echo big > /big\"");
    workspace
        .image("off", "    from \"web\"\n    run \"echo big > /big\"\n    test \"small\" enabled=#false");
    let ran = imgforge(&workspace, &["build", "--format", "json"]);
    assert_eq!(ran.code, 1);
    let expected = [("base", "built"), ("big", "failed"), ("off", "built"), ("web", "built")];
    assert_eq!(results(&ran), expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
    assert!(ran.stderr.contains("test \"small\" of big failed"), "{}", ran.stderr);
    let inherited = &tests(&ran, "web")[0];
    assert_eq!(
        (inherited["declared"].as_str(), inherited["file"].as_str()),
        (Some("base"), Some("base/image.kdl"))
    );
    assert!(tests(&ran, "off").is_empty());
}

#[test]
fn what_does_not_start_or_ends_or_hangs_is_said() {
    let workspace = workspace("", "");
    workspace.image(
        "ends",
        "    from \"base\"\n    cmd \"sh\" \"-c\" \"echo bad configuration; exit 4\"\n    test {\n        tcp 80\n    }",
    );
    workspace.image("absent", "    from \"base\"\n    cmd \"/no/such\"\n    test {\n        tcp 80\n    }");
    workspace.image(
        "hangs",
        "    from \"base\"\n    test timeout=\"1s\" {\n        command \"sleep\" \"1000\"\n    }",
    );
    let ran = imgforge(&workspace, &["build"]);
    assert_eq!(ran.code, 1);
    for part in [
        "found a container that has ended with exit code 4",
        "bad configuration",
        "found no program /no/such in the image",
        "found none within the test's 1.0 s",
    ] {
        assert!(ran.stderr.contains(part), "{part} is missing in\n{}", ran.stderr);
    }
    assert_eq!(containers(&workspace), "");
}

#[test]
fn tests_are_asked_of_what_is_built_as_the_workspace_describes_it() {
    let workspace = workspace("    test { file \"/etc\" }", "");
    let ran = imgforge(&workspace, &["test", "base"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("base is not built") && ran.stderr.contains("imgforge build base"),
        "{}",
        ran.stderr
    );
    let none = imgforge(&workspace, &["test", "web"]).ok();
    assert!(none.stderr.contains("no image that is selected has a test"), "{}", none.stderr);
}

/// A workspace whose test sleeps, and a run of it that has come to sleep.
fn sleeping() -> (TestWorkspace, std::process::Child) {
    let workspace = workspace("    test {\n        command \"sleep\" \"1000\"\n    }", "");
    let mut command = workspace.command(IMGFORGE, &["build", "base"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let label = format!("label=imgforge.workspace={}", workspace.name());
    wait_until("the test runs", || !Docker::run(&["ps", "-q", "--filter", &label]).is_empty());
    (workspace, child)
}

#[test]
fn containers_of_a_killed_run_are_removed_by_the_next_and_those_of_one_that_goes_on_are_not() {
    let (workspace, mut child) = sleeping();
    let left = containers(&workspace);
    // The test that sleeps is not what these runs are about.
    imgforge(&workspace, &["build", "--no-test", "web"]).ok();
    assert_eq!(containers(&workspace), left, "the other run goes on");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(containers(&workspace), left, "nobody was there to remove it");
    let next = imgforge(&workspace, &["build", "--no-test", "web"]).ok();
    assert!(next.stderr.contains("removed 1 container"), "{}", next.stderr);
    assert_eq!(containers(&workspace), "");
}

#[test]
fn an_interrupted_test_is_cancelled_and_its_container_removed() {
    let (workspace, child) = sleeping();
    let interrupted =
        std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    assert_eq!(containers(&workspace), "");
    assert!(!is_released(&workspace, "base"));
}

/// A workspace whose image is tested in a container that runs: reached, asked for its health, stopped.
fn tested_in_a_container() -> TestWorkspace {
    workspace(
        "",
        "    test \"serves\" {\n        tcp 8080 within=\"10s\"\n        stops within=\"5s\" code=5\n    }\n    \
         test \"has its page\" { file \"/srv/page\" contains=\"page\" }",
    )
}

#[test]
fn an_engine_with_words_that_nobody_knows_runs_tests_as_any_other() {
    // What Podman says of states, and what no engine says of kinds.
    let answered = |bytes: &mut [u8]| {
        for (known, other) in [
            ("\"Status\":\"running\"", "\"Status\":\"stopped\""),
            ("\"Status\":\"created\"", "\"Status\":\"strange\""),
            ("\"Status\":\"exited\"", "\"Status\":\"asleep\""),
            ("\"State\":\"running\"", "\"State\":\"stopped\""),
            ("\"Type\":\"tcp\"", "\"Type\":\"odd\""),
            ("\"CgroupnsMode\":\"host\"", "\"CgroupnsMode\":\"none\""),
        ] {
            socket_proxy::replace(bytes, known, other);
        }
    };
    let engine = SocketProxy::start(Arc::new(|_| ()), Arc::new(answered)).unwrap();
    let workspace = tested_in_a_container();
    let built = workspace.command(IMGFORGE, &["build"]).env("DOCKER_HOST", engine.host()).output().unwrap();
    let built = Ran::of(built).ok();
    assert!(built.stderr.contains("2 tests"), "{}", built.stderr);
    assert_eq!(containers(&workspace), "");
}

#[test]
fn a_container_that_cannot_be_looked_at_is_not_left() {
    // Which engine does that when? This one always: it has no such path.
    let asked = |bytes: &mut [u8]| {
        if bytes.starts_with(b"GET /") && bytes.windows(12).any(|part| part == b"/containers/") {
            socket_proxy::replace(bytes, "/json ", "/jsox ");
        }
    };
    let engine = SocketProxy::start(Arc::new(asked), Arc::new(|_| ())).unwrap();
    let workspace = tested_in_a_container();
    let built = workspace.command(IMGFORGE, &["build"]).env("DOCKER_HOST", engine.host()).output().unwrap();
    let built = Ran::of(built);
    assert_eq!(built.code, 1, "{}", built.stderr);
    assert_eq!(containers(&workspace), "", "{}", built.stderr);
}
