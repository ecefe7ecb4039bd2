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

/// What `plan` says of `small_family` after a change, and that it ends with 2.
fn complaint(change: impl FnOnce(&TestWorkspace)) -> String {
    let family = small_family();
    change(&family);
    let ran = imgforge(&family, &["plan"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    ran.stderr
}

fn assert_says(shown: &str, parts: &[&str]) {
    for part in parts {
        assert!(shown.contains(part), "{part} is missing in\n{shown}");
    }
}

#[test]
fn services_that_do_not_fit_their_parents_are_named() {
    let shown = complaint(|family| {
        family.image("mid", "    from \"base\"\n    service \"nginx\" {\n        command \"nginx\"\n    }");
        family.image("left", "    from \"mid\"\n    service \"ngnix\" {\n        enabled #false\n    }");
        family.image("right", "    from \"mid\"\n    service \"one\" {\n        needs \"two\"\n    }\n    service \"two\" {\n        command \"x\"\n    }");
    });
    assert_says(
        &shown,
        &["no service \"ngnix\" to switch off", "did you mean \"nginx\"?", "left/image.kdl:3"],
    );
    assert_says(&shown, &["the service \"one\" has no command", "for example: command"]);
}

#[test]
fn a_template_whose_block_nobody_renders_is_refused() {
    let shown = complaint(|family| {
        family.image("left", "    from \"mid\"\n    template \"left.j2\"");
        family.write(
            "left/left.j2",
            "{# {% block nor %} #}{% extends \"Dockerfile.j2\" %}\n{% block evn %}ENV A=1{% endblock %}\n\
             {% block steps %}{% block mine %}{{ super() }}{% endblock %}{% endblock %}\n",
        );
        family.image("right", "    from \"mid\"\n    template \"right.j2\"");
        family.write("right/right.j2", "{% extends \"Dockerfil.j2\" %}\n");
    });
    assert_says(&shown, &["2 problems", "has a block \"evn\"", "did you mean \"env\"?", "left/left.j2:2:10"]);
    assert_says(&shown, &["no template \"Dockerfil.j2\"", "did you mean \"Dockerfile.j2\"?"]);
}

#[test]
fn files_of_the_wrong_kind_are_refused_instead_of_waited_for() {
    let fifo = |family: &TestWorkspace, path: &str| {
        let made = std::process::Command::new("mkfifo").arg(family.root().join(path)).status().unwrap();
        assert!(made.success());
    };
    let shown = complaint(|family| {
        std::fs::remove_file(family.root().join("left/image.kdl")).unwrap();
        fifo(family, "left/image.kdl");
    });
    assert_says(&shown, &["left/image.kdl cannot be read: it is a device, a socket or a pipe, not a file"]);
    let shown = complaint(|family| fifo(family, "mid/.dockerignore"));
    assert_says(&shown, &["a device, a socket or a pipe, not a file", "mid/image.kdl:3"]);
    let shown = complaint(|family| fifo(family, "imgforge.lock"));
    assert_says(&shown, &["imgforge.lock cannot be read"]);
    let shown = complaint(|family| std::fs::write(family.root().join("imgforge.lock"), b"\xfe\xff").unwrap());
    assert_says(&shown, &["imgforge.lock:1:1", "not UTF-8"]);
}

#[test]
fn what_the_workspace_says_wrongly_of_a_source_is_shown_there() {
    for (line, parts) in [
        ("suite \"bokworm\"", &["the suite \"bokworm\"", "imgforge.kdl:5"][..]),
        (
            "suite \"bookworm\"\n    uri \"http://127.0.0.1:1\"\n    keyring \"none.gpg\"",
            &["none.gpg", "imgforge.kdl:7"],
        ),
    ] {
        let family = small_family();
        let manifest = std::fs::read_to_string(family.root().join("imgforge.kdl")).unwrap();
        family.write("imgforge.kdl", &format!("{manifest}apt \"debian\" {{\n    {line}\n}}\n"));
        family.image("os", "    root \"debian\"");
        let ran = imgforge(&family, &["update"]);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert_says(&ran.stderr, parts);
    }
}

#[test]
fn a_dockerfile_that_only_the_engine_refuses_is_shown_at_its_line() {
    let family = small_family();
    family.image("left", "    dockerfile \"Dockerfile\"");
    family.write("left/Dockerfile", "FROM mid\n\n# one\nEXPOSE many ports\nHEALTHCHECK NEVER x\n");
    let ran = imgforge(&family, &["build", "left"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert_says(&ran.stderr, &["the engine does not take", "left/Dockerfile:5"]);
}

#[test]
fn a_folder_that_is_not_there_and_one_without_images_are_told_apart() {
    let family = TestWorkspace::new();
    let missing = imgforge(&family, &["-C", "nowhere", "plan"]);
    assert_eq!(missing.code, 2, "{}", missing.stderr);
    assert_says(&missing.stderr, &["nowhere cannot be opened"]);
    let empty = imgforge(&family, &["list"]).ok();
    assert_says(&empty.stderr, &["no image in", "image.kdl"]);
    assert_eq!(imgforge(&family, &["list", "--quiet"]).ok().stderr, "");
}

#[test]
fn what_is_not_in_the_image_is_named_without_the_daemons_own_folders() {
    let family = TestWorkspace::new();
    family.image("bare", "    from \"scratch\"\n    copy \"file\" \"/file\"");
    family.write("bare/file", "x");
    family.image("shell", "    from \"bare\"\n    run \"echo hello\"");
    family.image("from", "    from \"bare\"\n    copy \"/nothing\" \"/x\" from=\"bare\"");
    let ran = imgforge(&family, &["build"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert_says(&ran.stderr, &["there is no program /bin/sh in the image", "shell/image.kdl:3"]);
    assert_says(&ran.stderr, &["lstat /nothing: no such file or directory\n   ╭─[from/image.kdl:3"]);
}

#[test]
fn a_link_out_of_the_workspace_is_an_error_that_shows_nothing_of_what_it_leads_to() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "hunter2 = \"hunter2\" {\n").unwrap();
    let plant: [(&str, &[&str]); 6] = [
        ("imgforge.lock", &["plan"]),
        ("imgforge.kdl", &["list"]),
        ("left/image.kdl", &["list"]),
        ("left/Dockerfile", &["list"]),
        ("templates/own.j2", &["render", "left"]),
        ("templates/export/compose.j2", &["export", "left", "--to", "compose"]),
    ];
    for (path, args) in plant {
        for whole_folder in [false, true] {
            let family = small_family();
            match path {
                "left/Dockerfile" => family.image("left", "    dockerfile \"Dockerfile\""),
                "templates/own.j2" => family.image("left", "    from \"mid\"\n    template \"own.j2\""),
                _ => {}
            }
            let full = family.root().join(path);
            let is_in_folder = path.starts_with("templates/");
            if whole_folder && is_in_folder {
                std::fs::copy(&secret, outside.path().join(full.file_name().unwrap())).unwrap();
                std::fs::create_dir_all(full.parent().unwrap().parent().unwrap()).unwrap();
                std::os::unix::fs::symlink(outside.path(), full.parent().unwrap()).unwrap();
            } else if whole_folder {
                continue;
            } else {
                std::fs::create_dir_all(full.parent().unwrap()).unwrap();
                let _ = std::fs::remove_file(&full);
                std::os::unix::fs::symlink(&secret, &full).unwrap();
            }
            let ran = imgforge(&family, args);
            assert_eq!(ran.code, 2, "{path}: {}{}", ran.stdout, ran.stderr);
            let shown = format!("{}{}", ran.stdout, ran.stderr);
            assert!(!shown.contains("hunter2"), "{path}: {shown}");
            assert!(shown.contains("link") || shown.contains("not a plain file"), "{path}: {shown}");
        }
    }
}
