//! Secrets and ssh agents reach the commands of a build, and nothing that is kept.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_testkit::docker::Docker;
use imgforge_testkit::workspace::{Ran, TestWorkspace};

use crate::{IMGFORGE, with_action};

/// What nothing may hold. Its hash is what Dockerfiles know of it.
const SECRET: &str = "correct-horse-battery-staple";
const SHA256: &str = "87cbebfeebc05f7c54ac9336c4b4bbec831227a641951a4bde7edd56020f8590";

const ENGINES: [&str; 2] = ["docker", "embedded"];

fn run(workspace: &TestWorkspace, engine: &str, args: &[&str]) -> Ran {
    Ran::of(command(workspace, engine, args).output().unwrap())
}

fn command(workspace: &TestWorkspace, engine: &str, args: &[&str]) -> Command {
    let mut command = workspace.command(IMGFORGE, args);
    command.env("IMGFORGE_ENGINE", engine).env_remove("SSH_AUTH_SOCK");
    command
}

/// A base with busybox, and an image with a Dockerfile of its own upon it.
fn workspace(steps: &str) -> TestWorkspace {
    let workspace = TestWorkspace::new();
    workspace.busybox_base("base");
    workspace.image("app", "    dockerfile \"Dockerfile\"");
    workspace.write("app/Dockerfile", &format!("FROM base\n{steps}"));
    workspace.write("token.txt", SECRET);
    workspace
}

/// The files below a folder that hold the secret.
fn holders(folder: &Utf8Path) -> Vec<Utf8PathBuf> {
    let mut found = Vec::new();
    for entry in folder.read_dir_utf8().unwrap() {
        // What goes meanwhile has gone.
        let Ok(entry) = entry else { continue };
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            found.extend(holders(entry.path()));
        } else if kind.is_file() && holds(&std::fs::read(entry.path()).unwrap_or_default()) {
            found.push(entry.into_path());
        }
    }
    found
}

fn holds(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes())
}

#[test]
fn a_secret_is_what_its_command_reads_and_is_kept_nowhere() {
    for engine in ENGINES {
        let workspace = workspace(&format!(
            "RUN --mount=type=secret,id=token sha256sum /run/secrets/token | grep -q {SHA256} && stat -c '%a %u %g' /run/secrets/token > /file\n\
             RUN --mount=type=secret,id=token,target=/etc/token,mode=0440,uid=7,gid=8,required stat -c '%a %u %g' /etc/token > /other\n\
             RUN --mount=type=secret,id=VARIABLE sha256sum /run/secrets/VARIABLE | grep -q {SHA256}\n\
             RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent\n\
             RUN ! grep -r horse /etc /run /tmp\n"
        ));
        let args = ["build", "-v", "--secret", "id=token,src=token.txt", "--secret", "id=VARIABLE"];
        let built =
            Ran::of(command(&workspace, engine, &args).env("VARIABLE", SECRET).output().unwrap()).ok();
        assert!(!holds(built.stdout.as_bytes()) && !holds(built.stderr.as_bytes()), "{}", built.stderr);
        assert_eq!(holders(&workspace.root().join(".imgforge")), [""; 0], "{engine}");
        let image = format!("{}:latest", workspace.repository("app"));
        if engine == "embedded" {
            let archive = workspace.root().join("app.tar");
            run(&workspace, engine, &["export", "app", "--docker-archive", archive.as_str()]).ok();
            Docker::succeeds(&["load", "-i", archive.as_str()]);
        }
        let saved = Command::new("docker").args(["save", &image]).output().unwrap();
        assert!(saved.status.success() && !holds(&saved.stdout), "{engine}");
        let cat = Docker::run(&["run", "--rm", &image, "/bin/busybox", "cat", "/file", "/other"]);
        assert_eq!(cat.trim(), "400 0 0\n440 7 8", "{engine}");
        // Another content is no reason to build.
        workspace.write("token.txt", "another");
        let plan = run(&workspace, engine, &["plan", "--format", "json"]).ok().json();
        assert_eq!(with_action(&plan, "build"), [""; 0]);
        let other = ["build", "app", "--secret", "id=token,src=token.txt"];
        assert!(run(&workspace, engine, &other).ok().stderr.contains("Fresh"));
        let forced = run(&workspace, engine, &[&other[..], &["--force"]].concat());
        assert_eq!(forced.code, 1, "{engine}: its command compares: {}", forced.stderr);
    }
}

#[test]
fn while_a_command_reads_a_secret_no_file_of_the_store_holds_it() {
    let workspace = workspace(
        "RUN --mount=type=secret,id=token --mount=type=cache,target=/meet cat /run/secrets/token > /dev/null && touch /meet/here && while ! test -e /meet/go; do sleep 0.01; done\n",
    );
    let mut command = command(&workspace, "embedded", &["build", "--secret", "id=token,src=token.txt"]);
    let mut build = command.stderr(Stdio::null()).spawn().unwrap();
    let store = workspace.root().join(".imgforge/store");
    let meeting = wait(|| {
        let caches = store.join("caches").read_dir_utf8().ok()?;
        caches.flatten().map(|cache| cache.path().join("fs")).find(|cache| cache.join("here").exists())
    });
    let found = holders(&workspace.root().join(".imgforge"));
    std::fs::write(meeting.join("go"), "").unwrap();
    assert!(build.wait().unwrap().success());
    assert_eq!(found, [""; 0]);
}

/// Waits until there is something.
fn wait<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "it never came");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_secret_that_is_required_and_not_given_is_told_at_its_line() {
    for engine in ENGINES {
        // A step that the daemon has carried out before needs no secret.
        let once = imgforge_testkit::unique("once");
        let workspace = workspace(&format!(
            "RUN true\nRUN --mount=type=secret,id=token,required=true cat /run/secrets/token; : {once}\n"
        ));
        let failed = run(&workspace, engine, &["build"]);
        assert_eq!(failed.code, 1, "{}", failed.stderr);
        for part in ["app/Dockerfile:3", "it needs the secret \"token\"", "--secret id=token,src=FILE"] {
            assert!(failed.stderr.contains(part), "{engine}: {part} is missing in\n{}", failed.stderr);
        }
        run(&workspace, engine, &["build", "--secret", "id=token,src=token.txt"]).ok();
        workspace.write("app/Dockerfile", "FROM base\nRUN --mount=type=ssh,required true\n");
        let failed = run(&workspace, engine, &["build"]);
        for part in ["app/Dockerfile:2", "it needs the ssh agent \"default\"", "--ssh default"] {
            assert!(failed.stderr.contains(part), "{engine}: {part} is missing in\n{}", failed.stderr);
        }
    }
}

/// A base with busybox, and an image that asks for secrets in its manifest.
fn workspace_of_manifests(steps: &str) -> TestWorkspace {
    let workspace = TestWorkspace::new();
    workspace.busybox_base("base");
    workspace.image("app", &format!("    from \"base\"\n{steps}"));
    workspace.write("token.txt", SECRET);
    workspace
}

#[test]
fn a_manifests_step_reads_a_secret_that_is_kept_nowhere() {
    for engine in ENGINES {
        let workspace = workspace_of_manifests(&format!(
            "    run \"sha256sum /run/secrets/token | grep -q {SHA256} && stat -c '%a %u %g' /run/secrets/token > /file\" {{\n        secret \"token\"\n    }}\n    \
             run \"/bin/sh\" \"-c\" \"sha256sum /etc/token | grep -q {SHA256} && stat -c '%a %u %g' /etc/token > /other && test ! -e /run/secrets/none\" {{\n        \
             secret \"token\" target=\"/etc/token\" mode=\"0440\" uid=7 gid=8\n        secret \"none\" required=#false\n        ssh required=#false\n    }}\n    \
             run \"! grep -r horse /etc /run /tmp\""
        ));
        let args = ["build", "-v", "--secret", "id=token,src=token.txt"];
        let built = run(&workspace, engine, &args).ok();
        assert!(!holds(built.stdout.as_bytes()) && !holds(built.stderr.as_bytes()), "{}", built.stderr);
        assert_eq!(holders(&workspace.root().join(".imgforge")), [""; 0], "{engine}");
        if engine == "embedded" {
            run(&workspace, engine, &["load", "app"]).ok();
        }
        let image = format!("{}:latest", workspace.repository("app"));
        let saved = Command::new("docker").args(["save", &image]).output().unwrap();
        assert!(saved.status.success() && !holds(&saved.stdout), "{engine}");
        let cat = Docker::run(&["run", "--rm", &image, "/bin/busybox", "cat", "/file", "/other"]);
        assert_eq!(cat.trim(), "400 0 0\n440 7 8", "{engine}");
        // Another content is no reason to build.
        workspace.write("token.txt", "another");
        let plan = run(&workspace, engine, &["plan", "--format", "json"]).ok().json();
        assert_eq!(with_action(&plan, "build"), [""; 0]);
    }
}

#[test]
fn what_a_manifests_step_needs_and_is_not_given_is_told_at_its_line() {
    for engine in ENGINES {
        let once = imgforge_testkit::unique("once");
        let workspace = workspace_of_manifests(&format!(
            "    run \"true\"\n    run \"cat /run/secrets/token; : {once}\" {{\n        secret \"token\"\n    }}\n",
        ));
        let failed = run(&workspace, engine, &["build"]);
        assert_eq!(failed.code, 1, "{}", failed.stderr);
        for part in ["app/image.kdl:4", "it needs the secret \"token\"", "--secret id=token,src=FILE"] {
            assert!(failed.stderr.contains(part), "{engine}: {part} is missing in\n{}", failed.stderr);
        }
        run(&workspace, engine, &["build", "--secret", "id=token,src=token.txt"]).ok();
        workspace.image("app", "    from \"base\"\n    run \"true\" { ssh \"deploy\"; }");
        let failed = run(&workspace, engine, &["build"]);
        for part in ["app/image.kdl:3", "it needs the ssh agent \"deploy\"", "--ssh deploy"] {
            assert!(failed.stderr.contains(part), "{engine}: {part} is missing in\n{}", failed.stderr);
        }
    }
}

#[test]
fn a_secret_can_be_a_variable_of_the_embedded_engine() {
    let workspace = workspace(&format!(
        "RUN --mount=type=secret,id=token,env=TOKEN printf %s \"$TOKEN\" | sha256sum | grep -q {SHA256} && test ! -e /run/secrets\nRUN test -z \"$TOKEN\"\n"
    ));
    run(&workspace, "embedded", &["build", "--secret", "id=token,src=token.txt"]).ok();
    assert_eq!(holders(&workspace.root().join(".imgforge")), [""; 0]);
    std::fs::write(workspace.root().join("token.txt"), b"\xff\0").unwrap();
    workspace.write("app/Dockerfile", "FROM base\nRUN --mount=type=secret,id=token,env=TOKEN true\n");
    let failed = run(&workspace, "embedded", &["build", "--secret", "id=token,src=token.txt"]);
    assert_eq!(failed.code, 1);
    assert!(failed.stderr.contains("is no text, and so no variable TOKEN"), "{}", failed.stderr);
}

#[test]
fn what_cannot_be_given_is_an_error_of_the_command_line() {
    let workspace = workspace("RUN true\n");
    workspace.write("long", &"x".repeat((500 << 10) + 1));
    for (args, expected) in [
        (["--secret", "id=a,src=nothing"], "--secret id=a: nothing: No such file"),
        (["--secret", "id=a,env=NOT_SET_AT_ALL"], "the variable NOT_SET_AT_ALL is not set"),
        (["--secret", "id=a,src=long"], "a secret has at most 512000"),
        (["--secret", "src=long"], "a secret needs an id"),
        (["--ssh", "default"], "SSH_AUTH_SOCK is not set"),
        (["--ssh", "x=token.txt"], "token.txt is no socket of an ssh agent"),
    ] {
        let refused = run(&workspace, "embedded", &[&["build"], &args[..]].concat());
        assert_eq!(refused.code, 2, "{args:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(expected), "{args:?}: {}", refused.stderr);
    }
}

/// An agent with a key. It ends with the test.
struct Agent(Child);

impl Agent {
    fn start(folder: &Utf8Path) -> Self {
        let (key, socket) = (folder.join("key"), folder.join("agent.sock"));
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
        assert!(made.expect("openssh-client is installed").success());
        let agent = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn();
        let agent = Self(agent.unwrap());
        wait(|| socket.exists().then_some(()));
        let added =
            Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket).status().unwrap();
        assert!(added.success());
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Puts `ssh-add` and its libraries where an image takes them from.
fn put_ssh_add(folder: &Utf8Path) {
    let listed = Command::new("ldd").arg("/usr/bin/ssh-add").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.chain(["/usr/bin/ssh-add"]) {
        let to = folder.join(&file[1..]);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(file, to).unwrap();
    }
}

#[test]
fn a_command_asks_an_ssh_agent_and_changes_nothing_in_it() {
    for engine in ENGINES {
        let workspace = workspace(
            "COPY root /\n\
             RUN --mount=type=ssh ssh-add -l | grep -q ED25519 && test $SSH_AUTH_SOCK = /run/buildkit/ssh_agent.0\n\
             RUN --mount=type=ssh,id=named,target=/agent,required,uid=1000,gid=1000 stat -c '%a %u %g' /agent > /socket\n\
             RUN --mount=type=ssh ! ssh-add -D\n\
             RUN test -z \"$SSH_AUTH_SOCK\"\n\
             USER 1000\n\
             RUN --mount=type=ssh,id=named,uid=1000 ssh-add -l | grep -q ED25519\n",
        );
        workspace.write("app/root/etc/passwd", "app:x:1000:1000::/:/bin/sh\n");
        workspace.write("app/root/etc/group", "app:x:1000:\n");
        put_ssh_add(&workspace.root().join("app/root"));
        let agent = Agent::start(workspace.root());
        let named = format!("named={}/agent.sock", workspace.root());
        let mut command = command(&workspace, engine, &["build", "--ssh", "default", "--ssh", &named]);
        command.env("SSH_AUTH_SOCK", workspace.root().join("agent.sock"));
        Ran::of(command.output().unwrap()).ok();
        let mut left = Command::new("ssh-add");
        left.arg("-l").env("SSH_AUTH_SOCK", workspace.root().join("agent.sock"));
        assert!(left.output().unwrap().status.success(), "its key is still there");
        drop(agent);
    }
}
