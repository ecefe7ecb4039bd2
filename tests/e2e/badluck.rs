//! Bad luck: a full disk, a daemon that dies, a program that is killed, files that change, odd folders. The next build
//! always ends where an undisturbed one does.

use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use camino::Utf8Path;
use imgforge_testkit::docker::Docker;
use imgforge_testkit::engine::SecondEngine;
use imgforge_testkit::needs;
use imgforge_testkit::workspace::{Ran, TestWorkspace};

use crate::building::wait_until;
use crate::{IMGFORGE, imgforge, small_family};

/// A base, and an image on it that needs about 60 MB of the engine.
fn family_with_a_big_one() -> TestWorkspace {
    let family = TestWorkspace::new();
    family.busybox_base("base");
    family.image("big", "    from \"base\"\n    copy \"blob\" \"/blob\"\n    run \"cat /blob > /copy\"");
    // Bytes that do not repeat, so that nobody squeezes them.
    let blob: Vec<u8> = (0..625_000u32).flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect();
    std::fs::write(family.root().join("big/blob"), blob).unwrap();
    family
}

fn on(engine: &SecondEngine, family: &TestWorkspace, args: &[&str]) -> Command {
    let mut command = family.command(IMGFORGE, args);
    command.env("DOCKER_HOST", engine.host()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// How many processes of the machine have this in their arguments.
fn processes_with(argument: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = processes.filter_map(|p| std::fs::read_to_string(p.path().join("cmdline")).ok());
    lines.filter(|line| line.split('\0').any(|word| word == argument)).count()
}

/// Waits for a command that must not hang.
fn ends(mut child: Child) -> Ran {
    wait_until("imgforge ends", || child.try_wait().unwrap().is_some());
    Ran::of(child.wait_with_output().unwrap())
}

#[test]
fn a_full_disk_is_named_nothing_is_tagged_and_with_room_the_build_goes_on() {
    let engine = SecondEngine::start(40);
    let family = family_with_a_big_one();
    let full = Ran::of(on(&engine, &family, &["build"]).output().unwrap());
    assert_eq!(full.code, 1, "{}", full.stderr);
    for part in ["no space left", "docker image prune", "1 failed (big), 1 built"] {
        assert!(full.stderr.contains(part), "{part} is missing in\n{}", full.stderr);
    }
    assert_eq!(engine.docker(&["images", "-q", &family.repository("big")]), "");

    engine.resize(400);
    let roomy = Ran::of(on(&engine, &family, &["build"]).output().unwrap()).ok();
    assert!(roomy.stderr.contains("1 built, 1 fresh"), "{}", roomy.stderr);
    let big = format!("{}:latest", family.repository("big"));
    let compare = ["run", "--rm", "--network", "none", &big, "cmp", "/blob", "/copy"];
    engine.docker(&compare);
}

#[test]
fn a_command_that_finds_the_disk_full_is_told_from_one_that_is_wrong() {
    let engine = SecondEngine::start(70);
    let family = family_with_a_big_one();
    family.image(
        "big",
        "    from \"base\"\n    copy \"blob\" \"/blob\"\n    run \"cat /blob /blob /blob > /copy\"",
    );
    let full = Ran::of(on(&engine, &family, &["build"]).output().unwrap());
    assert_eq!(full.code, 1, "{}", full.stderr);
    for part in ["big/image.kdl:4", "No space left on device", "docker image prune"] {
        assert!(full.stderr.contains(part), "{part} is missing in\n{}", full.stderr);
    }
}

#[test]
fn a_daemon_that_dies_during_a_build_ends_the_build_with_its_name() {
    let mut engine = SecondEngine::start(400);
    let family = small_family();
    let marker = (6_000_000 + std::process::id()).to_string();
    family.image("mid", &format!("    from \"base\"\n    run \"sleep {marker}\""));
    let child = on(&engine, &family, &["build"]).spawn().unwrap();
    wait_until("the step runs", || processes_with(&marker) > 0);
    engine.kill();
    let ran = ends(child);
    assert!(matches!(ran.code, 1 | 3), "{}: {}", ran.code, ran.stderr);
    assert!(ran.stderr.contains("the Docker daemon"), "{}", ran.stderr);
    for noise in ["panicked", "Custom {", "source:", "code:"] {
        assert!(!ran.stderr.contains(noise), "{}", ran.stderr);
    }
    wait_until("nothing of the daemon is left", || processes_with(&marker) == 0);
}

/// `base` -> `mid` -> `left`, each with a file that says which round it was built in.
fn write_round(family: &TestWorkspace, round: &str) {
    family.write("base/round", round);
    let busybox =
        "    copy \"busybox\" \"/bin/busybox\"\n    run \"/bin/busybox\" \"--install\" \"-s\" \"/bin\"";
    family.image("base", &format!("    from \"scratch\"\n{busybox}\n    copy \"round\" \"/round\""));
    family.image("mid", "    from \"base\"\n    run \"cp /round /mid-round\"");
    family.image("left", "    from \"mid\"\n    run \"cp /mid-round /left-round\"");
}

fn rounds() -> TestWorkspace {
    let family = TestWorkspace::new();
    family.busybox_base("base");
    family
}

/// Builds what is left to be built, and looks whether every image is what the files say.
fn goes_on_to(family: &TestWorkspace, round: &str) {
    imgforge(family, &["build"]).ok();
    assert_eq!(imgforge(family, &["plan", "--exit-code"]).code, 0);
    let plan = imgforge(family, &["plan", "--no-stat-cache", "--format", "json"]).ok().json();
    for row in plan["targets"].as_array().unwrap() {
        let (name, fingerprint) = (row["name"].as_str().unwrap(), row["fingerprint"].as_str().unwrap());
        let label = "{{index .Config.Labels \"imgforge.fingerprint\"}}";
        let latest = format!("{}:latest", family.repository(name));
        assert_eq!(Docker::run(&["image", "inspect", "--format", label, &latest]), fingerprint, "{name}");
    }
    let left = format!("{}:latest", family.repository("left"));
    let shown = Docker::run(&[
        "run",
        "--rm",
        "--network",
        "none",
        &left,
        "cat",
        "/round",
        "/mid-round",
        "/left-round",
    ]);
    assert_eq!(shown, round.repeat(3));
}

#[test]
fn after_a_kill_at_any_moment_the_next_build_ends_where_an_undisturbed_one_does() {
    let family = rounds();
    write_round(&family, "undisturbed;");
    let begun = std::time::Instant::now();
    goes_on_to(&family, "undisturbed;");
    let whole = begun.elapsed();
    for n in 0..8 {
        let round = format!("round {n};");
        write_round(&family, &round);
        let mut child =
            family.command(IMGFORGE, &["build"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * n / 10);
        child.kill().unwrap();
        child.wait().unwrap();
        goes_on_to(&family, &round);
    }
}

/// Stands between the program and the daemon, and kills the program when it sends its `last`th request for a tag, which
/// the daemon then never gets.
struct KillAtTag {
    socket: tempfile::TempDir,
    child: Arc<Mutex<Option<Child>>>,
}

impl KillAtTag {
    fn new(last: usize) -> Self {
        let socket = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket.path().join("docker.sock")).unwrap();
        let child: Arc<Mutex<Option<Child>>> = Arc::default();
        let (victim, seen) = (Arc::clone(&child), Arc::new(AtomicUsize::new(0)));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, daemon) =
                    (client.unwrap(), UnixStream::connect("/var/run/docker.sock").unwrap());
                let (from, to) = (daemon.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || pass_on(from, to, |_| true));
                let (victim, seen) = (Arc::clone(&victim), Arc::clone(&seen));
                std::thread::spawn(move || {
                    pass_on(client, daemon, |bytes| {
                        let line = String::from_utf8_lossy(bytes.split(|b| *b == b'\n').next().unwrap())
                            .into_owned();
                        let is_tag = line.starts_with("POST ") && line.contains("/tag?");
                        if !is_tag || seen.fetch_add(1, Ordering::Relaxed) + 1 < last {
                            return true;
                        }
                        if let Some(mut child) = victim.lock().unwrap().take() {
                            child.kill().unwrap();
                            child.wait().unwrap();
                        }
                        false
                    });
                });
            }
        });
        Self { socket, child }
    }

    /// Starts a build behind it, and waits until it was killed.
    fn build(&self, family: &TestWorkspace) {
        let host = format!("unix://{}", self.socket.path().join("docker.sock").display());
        let mut guard = self.child.lock().unwrap();
        let mut command = family.command(IMGFORGE, &["build"]);
        command.env("DOCKER_HOST", host).stdout(Stdio::null()).stderr(Stdio::null());
        *guard = Some(command.spawn().unwrap());
        drop(guard);
        wait_until("imgforge is killed", || self.child.lock().unwrap().is_none());
    }
}

/// Until one side is gone, or `allows` does not let bytes pass.
fn pass_on(mut from: UnixStream, mut to: UnixStream, allows: impl Fn(&[u8]) -> bool) {
    let mut buffer = vec![0; 65536];
    loop {
        match from.read(&mut buffer) {
            Ok(count) if count > 0 && allows(&buffer[..count]) && to.write_all(&buffer[..count]).is_ok() => {}
            _ => break,
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}

#[test]
fn after_a_kill_between_a_build_and_its_tags_the_next_build_ends_where_an_undisturbed_one_does() {
    let family = rounds();
    // Three images, each with a content tag and a release tag.
    for tag in 1..=6 {
        let round = format!("tag {tag};");
        write_round(&family, &round);
        KillAtTag::new(tag).build(&family);
        goes_on_to(&family, &round);
    }
}

#[test]
fn two_builds_of_one_workspace_at_once_both_end_well() {
    let family = rounds();
    for round in ["one;", "two;", "three;"] {
        write_round(&family, round);
        let start = || {
            let mut command = family.command(IMGFORGE, &["build"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let both = [start(), start()];
        for child in both {
            ends(child).ok();
        }
        goes_on_to(&family, round);
    }
}

#[test]
fn a_file_that_changes_during_a_build_is_an_error_that_names_it() {
    let family = small_family();
    let path = family.root().join("mid/mid.conf");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (path, stop) = (path.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            // Of one length and never empty, so that only their content tells them apart.
            for n in 1_000_000u64.. {
                file.write_all_at(format!("{n}\n").as_bytes(), 0).unwrap();
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        })
    };
    let ran = imgforge(&family, &["build"]);
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("mid.conf was changed"), "{}", ran.stderr);
    assert_eq!(Docker::image_id(&format!("{}:latest", family.repository("mid"))), None);

    imgforge(&family, &["build"]).ok();
    let left = format!("{}:latest", family.repository("left"));
    let shown = Docker::run(&["run", "--rm", "--network", "none", &left, "cat", "/etc/mid.conf"]);
    assert_eq!(shown, std::fs::read_to_string(&path).unwrap().trim_end());
}

#[test]
fn bytes_that_are_no_text_are_shown_where_they_are() {
    let family = small_family();
    std::fs::write(family.root().join("mid/image.kdl"), b"image \"mid\" {\n    from \"b\xffase\"\n}\n")
        .unwrap();
    let ran = imgforge(&family, &["build"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    for part in ["not UTF-8", "mid/image.kdl:2:12", "1 problem in 1 file"] {
        assert!(ran.stderr.contains(part), "{part} is missing in\n{}", ran.stderr);
    }
}

#[test]
fn a_workspace_that_cannot_be_written_to_is_planned_and_built() {
    let family = small_family();
    let chmod = |mode: &str| {
        let status = Command::new("chmod").args(["-R", mode, family.root().as_str()]).status();
        assert!(status.unwrap().success());
    };
    chmod("a+rX,a-w");
    // Root may write everywhere, so it becomes somebody else, of the group that may use the daemon.
    let binary = family.root().parent().unwrap().join(imgforge_testkit::unique("imgforge-for-all"));
    std::fs::copy(IMGFORGE, &binary).unwrap();
    let run = |args: &[&str]| {
        let mut command = if needs::is_root() {
            let group = std::fs::metadata("/var/run/docker.sock").unwrap().gid();
            let mut command = family.command("setpriv", &["--reuid=65534", "--clear-groups"]);
            command.arg(format!("--regid={group}")).arg(&binary).args(args);
            command
        } else {
            family.command(binary.as_str(), args)
        };
        let command = command.env("HOME", "/nonexistent").env("IMGFORGE_SAFE_DIRECTORY", family.root());
        Ran::of(command.output().unwrap())
    };
    let (plan, build, again) = (run(&["plan"]), run(&["build"]), run(&["build"]));
    std::fs::remove_file(&binary).unwrap();
    let is_untouched = !family.root().join(".imgforge").exists();
    chmod("u+w");
    assert!(plan.ok().stdout.contains("5 to build"));
    assert!(build.ok().stderr.contains("5 built"));
    assert!(again.ok().stderr.contains("Fresh 5 images"));
    assert!(is_untouched);
}

#[test]
fn a_cache_folder_that_is_a_file_changes_nothing() {
    let family = small_family();
    family.write(".imgforge", "not a folder");
    assert!(imgforge(&family, &["build"]).ok().stderr.contains("5 built"));
    assert!(imgforge(&family, &["build"]).ok().stderr.contains("Fresh 5 images"));
}

#[test]
fn names_of_folders_and_files_may_hold_spaces_quotes_and_any_letter() {
    let family = small_family();
    let odd = Utf8Path::new("it's a \"wörk\" $HOME 空 {{ x }}");
    let manifest = std::fs::read_to_string(family.root().join("imgforge.kdl")).unwrap();
    family.write(odd.join("imgforge.kdl").as_str(), &manifest);
    let name = "a 'b' \"ü\" $c.txt";
    let folder = odd.join("sub folder's \"ä\"");
    let busybox = family.root().join("base/busybox");
    family.write(folder.join(name).as_str(), "inside");
    std::fs::copy(busybox, family.root().join(&folder).join("busybox")).unwrap();
    let quoted = name.replace('"', "\\\"");
    family.write(
        folder.join("image.kdl").as_str(),
        &format!(
            "image \"odd\" {{\n    from \"scratch\"\n    copy \"busybox\" \"/bin/busybox\"\n    copy \"{quoted}\" \"/{quoted}\"\n    volume \"/v {quoted}\"\n}}\n"
        ),
    );
    let args = ["-C", odd.as_str()];
    assert!(imgforge(&family, &[&args[..], &["build"]].concat()).ok().stderr.contains("1 built"));
    assert!(imgforge(&family, &[&args[..], &["build"]].concat()).ok().stderr.contains("Fresh 1 image"));
    let odd = format!("{}:latest", family.repository("odd"));
    let cat = ["run", "--rm", "--network", "none", &odd, "/bin/busybox", "cat", &format!("/{name}")];
    assert_eq!(Docker::run(&cat), "inside");
    let volumes = Docker::run(&["image", "inspect", "--format", "{{json .Config.Volumes}}", &odd]);
    assert_eq!(volumes, serde_json::json!({ format!("/v {name}"): {} }).to_string());
}

/// Builds an image with a step on the embedded engine, whose disk has 16 MB.
fn on_a_small_disk(step: &str) -> Ran {
    let family = TestWorkspace::new();
    family.busybox_base("base");
    family.image("big", &format!("    from \"base\"\n    run \"{step}\""));
    std::fs::create_dir(family.root().join(".imgforge")).unwrap();
    let script = "mount -t tmpfs -o size=16m none .imgforge && \"$0\" build";
    let mut small = Command::new("unshare");
    small.args(["--mount", "sh", "-c", script, IMGFORGE]).current_dir(family.root());
    small.env("IMGFORGE_ENGINE", "embedded").env("NO_COLOR", "1");
    Ran::of(small.output().unwrap())
}

#[test]
fn a_command_that_finds_the_disk_of_the_embedded_engine_full_is_told_from_one_that_is_wrong() {
    // Nothing of what it prints says so.
    let full = on_a_small_disk("dd if=/dev/zero of=/zeros bs=1M count=64 2>/dev/null");
    assert_eq!(full.code, 1, "{}", full.stderr);
    for part in ["big/image.kdl:3", "the command ended with status 1", "imgforge prune"] {
        assert!(full.stderr.contains(part), "{part} is missing in\n{}", full.stderr);
    }
    // The words alone do not either, while there is room.
    let roomy = on_a_small_disk("echo No space left on device; exit 1");
    assert_eq!(roomy.code, 1, "{}", roomy.stderr);
    assert!(!roomy.stderr.contains("imgforge prune"), "{}", roomy.stderr);
}

#[test]
fn a_full_disk_of_the_embedded_engine_is_named() {
    let full = on_a_small_disk("dd if=/dev/zero of=/zeros bs=1M count=64; true");
    assert_eq!(full.code, 1, "{}", full.stderr);
    for part in ["no space left", "imgforge prune", "1 failed (big), 1 built"] {
        assert!(full.stderr.contains(part), "{part} is missing in\n{}", full.stderr);
    }
    assert!(!full.stderr.contains("without an answer"), "{}", full.stderr);
}

#[test]
fn words_that_cannot_be_written_change_nothing_but_themselves() {
    let family = small_family();
    let run = |args: &[&str]| {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = family.command(IMGFORGE, args);
        command.env("IMGFORGE_ENGINE", "embedded").stderr(full).output().unwrap().status.code()
    };
    assert_eq!(run(&["build"]), Some(0));
    assert_eq!(run(&["build"]), Some(0));
    assert_eq!(run(&["show", "nobody"]), Some(2));
    family.write("mid/image.kdl", "image \"mid\" {");
    assert_eq!(run(&["build"]), Some(2));
}

#[test]
fn a_runtime_that_breaks_down_ends_the_program_with_a_word_and_the_next_run_goes_on() {
    let family = small_family();
    // Threads of the asynchronous runtime wake each other by a write to a descriptor of this kind.
    let traced = |when: usize| {
        let mut command = family.command("strace", &["-f", "-o", "/dev/null", "-P", "anon_inode:[eventfd]"]);
        command.args(["-e", "trace=write", "-e", &format!("inject=write:error=ENOSPC:when={when}")]);
        let mut command = {
            command.arg(IMGFORGE).args(["build", "--engine", "embedded", "--force"]);
            command
        };
        Ran::of(command.output().unwrap())
    };
    let mut broken = 0;
    for when in 1..=3 {
        let ran = traced(when);
        // So many writes there may not be.
        if ran.code != 0 {
            broken += 1;
            assert_eq!(ran.code, 70, "{}", ran.stderr);
            assert!(ran.stderr.contains("This is a bug in imgforge"), "{}", ran.stderr);
            assert!(ran.stderr.contains("No space left on device"), "what happened is told: {}", ran.stderr);
        }
    }
    assert!(broken > 0, "no write of this kind was met");
    imgforge(&family, &["build", "--engine", "embedded"]).ok();
    assert!(imgforge(&family, &["build", "--engine", "embedded"]).ok().stderr.contains("Fresh 5 images"));
}
