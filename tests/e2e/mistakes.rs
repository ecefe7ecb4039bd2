//! Mistakes: each ends with the exit code that says whose turn it is, and names what to do.

use crate::{IMGFORGE, imgforge, small_family};
use imgforge_testkit::workspace::{Ran, TestWorkspace};

#[test]
fn a_word_that_is_no_image_gets_the_nearest_name() {
    let family = small_family();
    for args in [&["build", "lefft"][..], &["plan", "lefft"], &["show", "lefft"], &["render", "lefft"]] {
        let ran = imgforge(&family, args);
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("\"left\""), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "");
    }
}

#[test]
fn a_daemon_that_is_not_there_is_named() {
    let family = small_family();
    let output =
        family.command(IMGFORGE, &["build"]).env("DOCKER_HOST", "unix:///nonexistent/docker.sock").output();
    let ran = Ran::of(output.unwrap());
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("/nonexistent/docker.sock"), "{}", ran.stderr);
}

#[test]
fn problems_of_all_files_are_shown_at_once() {
    let family = small_family();
    family.image("left", "    from \"mdi\"\n    run \"true\"");
    family.image("right", "    from \"mid\"\n    workdri \"/\"");
    let ran = imgforge(&family, &["build"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    for part in [
        "2 problems in 2 files",
        "did you mean \"mid\"",
        "did you mean \"workdir\"",
        "left/image.kdl:2",
        "right/image.kdl:3",
    ] {
        assert!(ran.stderr.contains(part), "{part} is missing in\n{}", ran.stderr);
    }
}

#[test]
fn a_file_that_is_missing_is_shown_at_the_manifests_line() {
    let family = small_family();
    std::fs::rename(family.root().join("mid/mid.conf"), family.root().join("mid/mid.cnf")).unwrap();
    let ran = imgforge(&family, &["plan"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    for part in ["there is no \"mid.conf\" in mid", "did you mean \"mid.cnf\"", "mid/image.kdl:3"] {
        assert!(ran.stderr.contains(part), "{part} is missing in\n{}", ran.stderr);
    }
}

#[test]
fn a_folder_without_a_workspace_is_told_how_one_begins() {
    let empty = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(IMGFORGE).arg("list").current_dir(empty.path()).output().unwrap();
    let ran = Ran::of(output);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("workspace \"NAME\""), "{}", ran.stderr);
}

#[test]
fn a_locked_build_refuses_a_lock_that_does_not_fit() {
    let workspace = TestWorkspace::new();
    let manifest = std::fs::read_to_string(workspace.root().join("imgforge.kdl")).unwrap();
    workspace.write("imgforge.kdl", &format!("{manifest}apt \"debian\" {{\n    suite \"bookworm\"\n}}\n"));
    workspace.image("os", "    root \"debian\"");
    for verb in [&["build", "--locked"][..], &["plan"]] {
        let ran = imgforge(&workspace, verb);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains("imgforge update"), "{}", ran.stderr);
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let family = small_family();
    let shell = format!("{IMGFORGE} graph --format json | head -c 1");
    let output =
        std::process::Command::new("sh").args(["-c", &shell]).current_dir(family.root()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
