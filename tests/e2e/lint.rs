//! Rules over a workspace: what is printed, and the exit code.

use std::path::Path;

use imgforge_testkit::workspace::TestWorkspace;

use crate::imgforge;

/// An error in `a`, and a warning in `b`.
fn family() -> TestWorkspace {
    let workspace = TestWorkspace::new();
    workspace.image("a", "    from \"scratch\"\n    entrypoint \"/usr/bin/supervisord\" \"-n\"");
    workspace.image("b", "    from \"scratch\"\n    env \"API_TOKEN\" \"abc\"");
    workspace
}

#[test]
fn findings_are_data_and_the_exit_code_says_whether_one_is_an_error() {
    let family = family();
    let all = imgforge(&family, &["lint"]);
    assert_eq!(all.code, 1);
    insta::assert_snapshot!(all.stdout);
    assert_eq!(all.stderr, "     Lint 1 error, 1 warning; `imgforge lint --explain CODE` says more\n");
    let warning = imgforge(&family, &["lint", "b"]).ok();
    assert!(warning.stdout.contains("IF007"), "{}", warning.stdout);
    assert_eq!(imgforge(&family, &["lint", "b", "--deny", "warnings"]).code, 1);
    let silent = imgforge(&family, &["lint", "-q", "b"]).ok();
    assert_eq!(silent.stderr, "");
    assert_eq!(imgforge(&family, &["lint", "c"]).code, 2);
    family.image("b", "    from \"scratch\"\n    env \"API_TOKEN\" \"abc\"\n    lint {\n        allow \"IF007\" reason=\"a test's\"\n    }");
    let silenced = imgforge(&family, &["lint", "b", "--deny", "warnings"]).ok();
    assert_eq!(
        (silenced.stdout.as_str(), silenced.stderr.as_str()),
        ("", "     Lint nothing found; 1 silenced\n")
    );
}

#[test]
fn findings_are_printed_for_programs() {
    let made = imgforge(&family(), &["lint", "--format", "json"]);
    assert_eq!(made.code, 1);
    let found = made.json();
    insta::assert_snapshot!(serde_json::to_string_pretty(&found).unwrap());
}

#[test]
fn a_private_key_that_a_build_can_reach_is_found_where_it_is_reached() {
    let family = TestWorkspace::new();
    let key =
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
    family.image("written", "    from \"scratch\"\n    copy \"d\" \"/d/\"\n    copy \"text\" \"/\"");
    family.write("written/d/deploy", key);
    family.write("written/text", "no key\n");
    family.image("by-hand", "    dockerfile \"Dockerfile\"");
    family.write("by-hand/Dockerfile", "FROM scratch\nCOPY text /\nCOPY . /all/\n");
    family.write("by-hand/text", "no key\n");
    family.write("by-hand/server.key", key);
    family.write("by-hand/ignored", key);
    family.write("by-hand/.dockerignore", "ignored\n");
    let found = imgforge(&family, &["lint", "--deny", "warnings"]);
    assert_eq!(found.code, 1);
    insta::assert_snapshot!(found.stdout);
    family.image(
        "written",
        "    from \"scratch\"\n    copy \"d\" \"/d/\"\n    copy \"text\" \"/\"\n    lint { allow \"IF010\" reason=\"a test's\"; }",
    );
    let silenced = imgforge(&family, &["lint", "written", "--deny", "warnings"]).ok();
    assert_eq!(silenced.stdout, "");
}

#[test]
fn every_rule_is_explained() {
    let family = family();
    let page = imgforge(&family, &["lint", "--explain", "if005"]).ok().stdout;
    assert!(page.starts_with("# IF005: a service runs as root"), "{page}");
    let wrong = imgforge(&family, &["lint", "--explain", "IF05"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("did you mean IF005?"), "{}", wrong.stderr);
}

#[test]
fn the_example_family_has_no_findings_that_are_not_silenced() {
    let examples = TestWorkspace::copy_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    let made = imgforge(&examples, &["lint", "--deny", "warnings"]).ok();
    assert_eq!(made.stdout, "");
}
