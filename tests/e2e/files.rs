//! Files on their way into images, on both engines: what they are like there, and which of them are taken.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use imgforge_testkit::workspace::{Ran, TestWorkspace};

use crate::IMGFORGE;

const ENGINES: [&str; 2] = ["docker", "embedded"];

/// A workspace with a base of busybox, and an image `it` on a Dockerfile of its own.
fn by_hand(dockerfile: &str) -> TestWorkspace {
    let workspace = TestWorkspace::new();
    workspace.busybox_base("base");
    workspace.image("it", "    dockerfile \"Dockerfile\"");
    workspace.write("it/Dockerfile", dockerfile);
    workspace
}

fn build(workspace: &TestWorkspace, engine: &str) -> Ran {
    workspace.run(IMGFORGE, &["build", "--engine", engine])
}

fn builds_on_both(workspace: &TestWorkspace) {
    for engine in ENGINES {
        build(workspace, engine).ok();
    }
}

fn set_mode(workspace: &TestWorkspace, path: &str, mode: u32) {
    std::fs::set_permissions(workspace.root().join(path), std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_key_that_only_its_owner_reads_and_a_folder_that_only_its_owner_opens_stay_so() {
    let workspace = by_hand(
        "FROM base\nCOPY d /d\n\
         RUN test \"$(stat -c %a /d/id_rsa)\" = 600 && test \"$(stat -c %a /d/p)\" = 700 && test \"$(stat -c %a /d/run)\" = 750\n",
    );
    workspace.write("it/d/id_rsa", "k\n");
    workspace.write("it/d/p/z", "z\n");
    workspace.write("it/d/run", "");
    for (path, mode) in [("it/d/id_rsa", 0o600), ("it/d/p", 0o700), ("it/d/run", 0o750)] {
        set_mode(&workspace, path, mode);
    }
    builds_on_both(&workspace);
}

#[test]
fn a_mode_that_a_manifest_gives_is_that_of_the_file() {
    let workspace = TestWorkspace::new();
    workspace.busybox_base("base");
    workspace.image(
        "it",
        "    from \"base\"\n    copy \"key\" \"/key\"\n    copy \"key\" \"/open\" mode=\"0644\"\n    \
         run \"test $(stat -c %a /key) = 600 && test $(stat -c %a /open) = 644\"",
    );
    workspace.write("it/key", "k\n");
    set_mode(&workspace, "it/key", 0o600);
    builds_on_both(&workspace);
}

#[test]
fn a_build_warns_of_a_private_key_that_git_would_open() {
    let workspace = by_hand("FROM base\nCOPY key /key\n");
    workspace.write("it/key", "-----BEGIN PRIVATE KEY-----\nMIIEvQ==\n-----END PRIVATE KEY-----\n");
    set_mode(&workspace, "it/key", 0o600);
    let closed = build(&workspace, "embedded").ok();
    assert!(!closed.stderr.contains("private key"), "{}", closed.stderr);
    for arguments in [&["init", "--quiet"][..], &["add", "it"]] {
        let git = std::process::Command::new("git").current_dir(workspace.root()).args(arguments).status();
        assert!(git.unwrap().success());
    }
    let opened = build(&workspace, "embedded").ok();
    assert!(
        opened.stderr.contains("it: key is a private key that only its owner can read here"),
        "{}",
        opened.stderr
    );
    let plan = workspace.run(IMGFORGE, &["plan", "--engine", "embedded"]).ok();
    assert!(plan.stderr.contains("it: key is a private key"), "{}", plan.stderr);
}

#[test]
fn a_socket_and_a_pipe_in_a_copied_folder_stop_nothing() {
    // A socket is there as an empty file; Docker 20.10 leaves out a pipe that BuildKit copies since.
    let workspace = by_hand(
        "FROM base\nCOPY d /d\nRUN test -e /d/f && test -f /d/s.sock && ! test -s /d/s.sock && ! test -f /d/pipe\n",
    );
    workspace.write("it/d/f", "x");
    let _socket = UnixListener::bind(workspace.root().join("it/d/s.sock")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(workspace.root().join("it/d/pipe")).status();
    assert!(made.unwrap().success());
    builds_on_both(&workspace);
}

#[test]
fn root_is_known_to_an_image_without_a_list_of_users() {
    let workspace = by_hand(
        "FROM scratch AS made\nCOPY --chown=root:root foo /f\nCOPY --chown=root foo /g\nADD --chown=0:root foo /h\n\
         FROM base\nCOPY --from=made / /made\n\
         RUN for f in f g h; do test \"$(stat -c %u:%g /made/$f)\" = 0:0 || exit 1; done\n",
    );
    workspace.write("it/foo", "");
    builds_on_both(&workspace);
}

#[test]
fn an_ignore_file_of_the_dockerfile_comes_before_that_of_the_folder() {
    let workspace = by_hand("FROM base\nCOPY . /c\nRUN test -e /c/keep && ! test -e /c/secret\n");
    workspace.write("it/.dockerignore", "keep\n");
    workspace.write("it/Dockerfile.dockerignore", "secret\n");
    workspace.write("it/keep", "x");
    workspace.write("it/secret", "x");
    builds_on_both(&workspace);
    // Of a Dockerfile of another name, in a folder below.
    workspace.image("it", "    dockerfile \"build/web.Dockerfile\"");
    let dockerfile =
        "FROM base\nCOPY . /c\nRUN test -e /c/secret && ! test -e /c/keep && ! test -e /c/other\n";
    workspace.write("it/build/web.Dockerfile", dockerfile);
    workspace.write("it/build/web.Dockerfile.dockerignore", "keep\nother\n");
    workspace.write("it/other", "x");
    builds_on_both(&workspace);
    std::fs::remove_file(workspace.root().join("it/build/web.Dockerfile.dockerignore")).unwrap();
    workspace.write(
        "it/build/web.Dockerfile",
        "FROM base\nCOPY . /c\nRUN test -e /c/other && ! test -e /c/keep\n",
    );
    builds_on_both(&workspace);
}

#[test]
fn a_pattern_that_begins_with_two_stars_excludes_at_every_depth() {
    let workspace = by_hand(
        "FROM base\nCOPY . /c\n\
         RUN test -e /c/keep.py && ! find /c -name '*.pyc' -o -name '*.pem' | grep .\n",
    );
    workspace.write("it/.dockerignore", "**.pyc\n**.pem\n");
    for path in ["a.pyc", "x/b.pyc", "x/y/c.pyc", "x/key.pem", "keep.py"] {
        workspace.write(&format!("it/{path}"), "");
    }
    builds_on_both(&workspace);
}

#[test]
fn a_mode_from_a_variable_is_the_same_on_both_engines() {
    let workspace = by_hand(
        "FROM base\nARG M=0705 N=0600\nENV E=640\nCOPY --chmod=$M foo /f1\nADD --chmod=0${E} foo /f2\nCOPY --chmod=\"${N:-0644}\" foo /f3\n\
         RUN test \"$(stat -c %a /f1)\" = 705 && test \"$(stat -c %a /f2)\" = 640 && test \"$(stat -c %a /f3)\" = 600\n",
    );
    workspace.write("it/foo", "");
    builds_on_both(&workspace);
}

#[test]
fn a_mode_that_one_engine_would_pass_over_is_told_at_its_line_on_both() {
    for (flag, said) in [
        ("u=rwx,go=rx", "--chmod=u=rwx,go=rx: symbolic modes are not supported here"),
        ("$M", "--chmod=rwx: symbolic modes are not supported here"),
        ("89", "--chmod=89 is no mode"),
    ] {
        let workspace = by_hand(&format!("FROM base\nARG M=rwx\nCOPY --chmod={flag} foo /f1\n"));
        workspace.write("it/foo", "");
        for engine in ENGINES {
            let refused = build(&workspace, engine);
            assert_ne!(refused.code, 0, "{engine} {flag}");
            assert!(refused.stderr.contains(said), "{engine}: {}", refused.stderr);
            assert!(refused.stderr.contains("it/Dockerfile:3"), "{engine}: {}", refused.stderr);
        }
    }
}

#[test]
fn variables_of_mounts_are_expanded_on_both_engines() {
    let workspace = by_hand(
        "FROM base\nARG T=/m S=d\nRUN --mount=source=$S,target=$T test -e /m/one && ! test -e '/$T'\n\
         RUN --mount=source=${S}/one,target=/f/$S test -s /f/d\n",
    );
    workspace.write("it/d/one", "1");
    builds_on_both(&workspace);
}

#[test]
fn a_mode_that_docker_would_not_know_before_the_build_is_told_at_its_line() {
    let workspace = by_hand("FROM base\nCOPY --chmod=$OF_THE_BASE foo /f\n");
    workspace.write("it/foo", "");
    let refused = build(&workspace, "docker");
    let said = "--chmod=$OF_THE_BASE is not known before the build, and this Docker does not expand it";
    assert!(refused.stderr.contains(said), "{}", refused.stderr);
    assert!(refused.stderr.contains("it/Dockerfile:2"), "{}", refused.stderr);
}

#[test]
fn a_heredoc_may_have_a_space_before_its_name() {
    // The frontend of Docker 20.10 knows no heredocs.
    let workspace = by_hand(
        "FROM base\nRUN cat << EOF > /a\nbody one\nEOF\nCOPY << \"E2\" /b\n$X\nE2\nCOPY foo /foo\n\
         RUN grep body /a && grep '[$]X' /b && test -e /foo\n",
    );
    workspace.write("it/foo", "");
    build(&workspace, "embedded").ok();
}

/// A tar with one file that has `cap_net_bind_service=ep`.
fn capable_tar() -> Vec<u8> {
    let mut capability = vec![1, 0, 0, 2, 0, 4, 0, 0];
    capability.resize(20, 0);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_pax_extensions([("SCHILY.xattr.security.capability", &capability[..])]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_size(1);
    tar.append_data(&mut header, "t", &b"x"[..]).unwrap();
    tar.into_inner().unwrap()
}

/// The paths of an image's layers that have capabilities, of what `export --docker-archive` gives.
fn capable_paths(workspace: &TestWorkspace, engine: &str, image: &str) -> Vec<String> {
    let archive = workspace.root().join(format!("{engine}.tar"));
    workspace
        .run(IMGFORGE, &["export", image, "--engine", engine, "--docker-archive", archive.as_str()])
        .ok();
    let mut found = Vec::new();
    let mut outer = tar::Archive::new(std::fs::File::open(archive).unwrap());
    for entry in outer.entries().unwrap() {
        let mut entry = entry.unwrap();
        if !entry.path().unwrap().to_string_lossy().ends_with(".tar") {
            continue;
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let layer: Box<dyn Read> = match bytes.as_slice() {
            [0x1f, 0x8b, ..] => Box::new(flate2::read::GzDecoder::new(&*bytes)),
            _ => Box::new(&*bytes),
        };
        let mut layer = tar::Archive::new(layer);
        for file in layer.entries().unwrap() {
            let mut file = file.unwrap();
            let path = file.path().unwrap().to_string_lossy().into_owned();
            let has = file.pax_extensions().unwrap().into_iter().flatten().any(|extension| {
                extension.is_ok_and(|extension| extension.key() == Ok("SCHILY.xattr.security.capability"))
            });
            if has {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn capabilities_of_files_come_along_from_another_image_whoever_owns_them_then() {
    let workspace = by_hand("FROM base\nADD t.tar /s/\n");
    std::fs::write(workspace.root().join("it/t.tar"), capable_tar()).unwrap();
    workspace.image(
        "two",
        "    from \"base\"\n    copy \"/s/t\" \"/t1\" from=\"it\"\n    copy \"/s\" \"/o\" from=\"it\"\n    copy \"/s/t\" \"/t2\" from=\"it\" owner=\"1000:1000\"",
    );
    for engine in ENGINES {
        build(&workspace, engine).ok();
        assert_eq!(capable_paths(&workspace, engine, "it"), ["s/t"], "{engine}");
        assert_eq!(capable_paths(&workspace, engine, "two"), ["o/t", "t1", "t2"], "{engine}");
    }
}

#[test]
fn several_images_of_one_dockerfile_are_built_each_to_its_target_from_the_folder_that_it_names() {
    let workspace = TestWorkspace::new();
    workspace.busybox_base("base");
    workspace.write(
        "services/image.kdl",
        "image \"one\" {\n    dockerfile \"docker/Dockerfile\" context=\"/\" target=\"one\"\n}\n\
         image \"two\" {\n    dockerfile \"docker/Dockerfile\" context=\"shared\" target=\"1\"\n}\n\
         image \"all\" {\n    dockerfile \"docker/Dockerfile\" context=\"..\"\n    from \"base\"\n    from \"two\"\n}\n",
    );
    workspace.write(
        "services/docker/Dockerfile",
        "FROM base AS one\nCOPY services/shared/file services /one/\nRUN echo one > /name && test -e /one/docker/Dockerfile && ! test -e /one/image.kdl\n\
         FROM base AS two\nCOPY file /two\nRUN grep shared /two && echo two > /name\n\
         FROM base AS never\nRUN false\n\
         FROM base\nCOPY --from=0 /name /first\nCOPY --from=two /name /second\nRUN grep one /first && grep two /second\n",
    );
    workspace.write("services/shared/file", "shared\n");
    // `two` is a stage of the file, and no parent; the last stage of it needs the root's files.
    let told = workspace.run(IMGFORGE, &["graph"]);
    assert!(told.stderr.contains("does not use \"two\""), "{}", told.stderr);
    let text = std::fs::read_to_string(workspace.root().join("services/image.kdl")).unwrap();
    workspace.write("services/image.kdl", &text.replace("    from \"two\"\n", ""));
    let refused = workspace.run(IMGFORGE, &["plan", "--engine", "embedded"]);
    assert!(refused.stderr.contains("there is no \"file\" in ."), "{}", refused.stderr);
    workspace.write("file", "shared\n");
    builds_on_both(&workspace);
}

#[test]
fn a_step_of_a_target_that_fails_is_told_at_its_line_of_the_whole_file() {
    let workspace = by_hand("FROM base AS no\nRUN false\nFROM base AS yes\nCOPY --from=1 / /x\nRUN exit 3\n");
    let dockerfile = "FROM base AS no\nRUN false\nFROM base AS from\nFROM base AS yes\nCOPY --from=1 /bin /x\nRUN exit 3\nFROM no\n";
    workspace.write("it/Dockerfile", dockerfile);
    workspace.image("it", "    dockerfile \"Dockerfile\" target=\"yes\"");
    for engine in ENGINES {
        let failed = build(&workspace, engine);
        assert_eq!(failed.code, 1, "{engine}: {}", failed.stderr);
        assert!(failed.stderr.contains("it/Dockerfile:6:"), "{engine}: {}", failed.stderr);
    }
}

#[test]
fn what_lies_in_a_nested_images_folder_is_sent_and_what_imgforge_reads_is_not() {
    let workspace = by_hand(
        "FROM base\nCOPY . /c\nRUN test -e /c/inner/file && ! test -e /c/inner/image.kdl && ! test -e /c/image.kdl\n",
    );
    workspace.write(
        "it/inner/image.kdl",
        "image \"inner\" {\n    from \"base\"\n    copy \"file\" \"/file\"\n}\n",
    );
    workspace.write("it/inner/file", "x");
    builds_on_both(&workspace);
}
