//! An image as the files of a scheduler, read by the schedulers' own programs where there are some.

use std::path::Path;
use std::process::{Command, Output};

use imgforge_testkit::docker::Docker;
use imgforge_testkit::needs;
use imgforge_testkit::workspace::TestWorkspace;

use crate::building::wait_until;
use crate::imgforge;

/// Values that some reader of some format takes for something else.
const VALUES: [(&str, &str); 7] = [
    ("DOLLARS", "$HOME ${HOME} $$HOME $(id) $"),
    ("PERCENT", "100% %n %%n %{x} ${{ x }}"),
    ("QUOTES", "it's \"quoted\" \\ \\n `id`"),
    ("YAML", "no: - # &a *b !c | > ?"),
    ("UNICODE", "grüße, 世界 😀"),
    ("SPACES", "  two  spaces\tand a tab  "),
    ("NOTHING", ""),
];

fn kdl(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\t', "\\t"))
}

/// An image that is healthy after a while, stops on TERM in its own time, and has odd values in its environment.
fn family() -> TestWorkspace {
    let workspace = TestWorkspace::new();
    workspace.busybox_base("base");
    let env: String =
        VALUES.iter().map(|(name, value)| format!("    env \"{name}\" {}\n", kdl(value))).collect();
    let script = "trap 'sleep 1; echo stopped in order; exit 7' TERM; sleep 1; echo > /tmp/healthy; while :; do sleep 0.1; done";
    workspace.image(
        "app",
        &format!(
            "    description \"100% of an application\"\n    from \"base\"\n{env}    expose 28981\n    volume \"/data\"\n    \
             entrypoint \"/bin/sh\" \"-c\" {}\n    healthcheck \"test\" \"-e\" \"/tmp/healthy\" interval=\"1s\" timeout=\"9s\" start-period=\"30s\"\n    \
             resources memory=\"64MB\" cpus=\"0.5\"",
            kdl(script)
        ),
    );
    workspace
}

/// The end-to-end tests' copy of this repository's own family, of which nothing is built.
fn examples() -> TestWorkspace {
    TestWorkspace::copy_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
}

fn ran(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; `cargo xtask test` installs what the tests need")
    });
    assert!(
        output.status.success(),
        "{command:?}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Takes what it has started down again.
struct Compose {
    file: String,
    project: String,
}

impl Compose {
    fn run(&self, args: &[&str]) -> Output {
        ran(Command::new("docker-compose").args(["-f", &self.file, "-p", &self.project]).args(args))
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        let args = ["-f", &self.file, "-p", &self.project, "down", "-v", "-t", "1"];
        let _ = Command::new("docker-compose").args(args).output();
    }
}

#[test]
fn docker_compose_runs_what_is_exported_for_it() {
    let family = family();
    imgforge(&family, &["build", "app"]).ok();
    imgforge(&family, &["export", "app", "--to", "compose", "-o", "."]).ok();
    let compose = Compose {
        file: family.root().join("compose.yaml").to_string(),
        project: family.name().replace('.', "-"),
    };
    compose.run(&["up", "-d"]);
    let id = String::from_utf8(compose.run(&["ps", "-q"]).stdout).unwrap();
    let id = id.trim();
    for (name, value) in VALUES {
        let args = ["exec", id, "/bin/sh", "-c", &format!("printf '[%s]' \"${name}\"")];
        assert_eq!(Docker::run(&args), format!("[{value}]"), "{name}");
    }
    let inspect = |what: &str| Docker::run(&["inspect", "-f", what, id]);
    wait_until("the container is healthy", || inspect("{{.State.Health.Status}}") == "healthy");
    assert_eq!(inspect("{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}"), "67108864 500000000");
    assert_eq!(inspect("{{(index .Mounts 0).Destination}} {{(index .Mounts 0).Type}}"), "/data volume");
    compose.run(&["stop"]);
    assert_eq!(inspect("{{.State.ExitCode}}"), "7");
    assert!(Docker::run(&["logs", id]).contains("stopped in order"));
}

#[test]
fn docker_compose_reads_the_file_of_every_example() {
    let examples = examples();
    for image in ["guestbook", "notes", "status-page", "static-hello", "os-base"] {
        let made = imgforge(&examples, &["export", image, "--to", "compose"]).ok().stdout;
        let file = examples.write("compose.yaml", &made);
        let read = ran(Command::new("docker-compose").args(["-f", file.as_str(), "config"]));
        assert!(String::from_utf8_lossy(&read.stdout).contains(&format!("/{image}:latest")));
    }
}

/// The words of an `ExecStart=` as systemd reads them: quotes, C escapes, `%%` and `$$` (systemd.service(5),
/// "Command lines").
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let mut push = |text: &str| word.get_or_insert_default().push_str(text);
        match (quote, c) {
            (None, ' ') => words.extend(word.take()),
            (None, '"' | '\'') => {
                push("");
                quote = Some(c);
            }
            (Some(open), c) if c == open => quote = None,
            (_, '\\') => match chars.next().unwrap() {
                'n' => push("\n"),
                't' => push("\t"),
                'x' => {
                    let hex: String = chars.by_ref().take(2).collect();
                    push(&char::from(u8::from_str_radix(&hex, 16).unwrap()).to_string());
                }
                c @ ('\\' | '"' | '\'') => push(&c.to_string()),
                c => panic!("\\{c} in {line}"),
            },
            (_, '%' | '$') => match (quote, chars.next().unwrap()) {
                (_, second) if second == c => push(&c.to_string()),
                // Quadlet's own: where the container's id is kept.
                (None, name @ ('t' | 'N')) => push(&format!("{c}{name}")),
                _ => panic!("{c} is not doubled in {line}"),
            },
            (_, c) => push(&c.to_string()),
        }
    }
    words.extend(word);
    words
}

#[test]
fn quadlet_makes_units_of_what_is_exported_and_systemd_takes_them() {
    let family = family();
    let examples = examples();
    for (workspace, image) in [(&family, "app"), (&examples, "guestbook"), (&examples, "static-hello")] {
        imgforge(workspace, &["export", image, "--to", "quadlet", "-o", "quadlet"]).ok();
        let units = workspace.root().join("units");
        std::fs::create_dir_all(&units).unwrap();
        let mut command = Command::new(needs::quadlet());
        command.env("QUADLET_UNIT_DIRS", workspace.root().join("quadlet")).arg("-no-kmsg-log").arg(&units);
        let said = ran(&mut command).stderr;
        let said = String::from_utf8_lossy(&said);
        let is_about_load = |line: &str| line.contains("Loading source unit file");
        assert!(said.lines().all(is_about_load), "{said}");
        let unit = units.join(format!("{image}.service"));
        // There is no podman on this machine, and systemd looks for every program.
        let text = std::fs::read_to_string(&unit).unwrap().replace("/usr/bin/podman", "/bin/true");
        std::fs::write(&unit, &text).unwrap();
        for volume in std::fs::read_dir(&units).unwrap().map(|entry| entry.unwrap().path()) {
            if volume.to_string_lossy().ends_with("-volume.service") {
                let text = std::fs::read_to_string(&volume).unwrap().replace("/usr/bin/podman", "/bin/true");
                std::fs::write(&volume, text).unwrap();
            }
        }
        let verified = ran(Command::new("systemd-analyze").args(["verify", unit.as_str()]));
        let said = String::from_utf8_lossy(&verified.stderr);
        assert!(!said.contains(units.as_str()), "{said}");
    }
    let text = std::fs::read_to_string(family.root().join("units/app.service")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let words = words(line);
    let after = |flag: &str| {
        let at = words.iter().enumerate().filter(|(_, word)| *word == flag);
        at.map(|(at, _)| words[at + 1].clone()).collect::<Vec<_>>()
    };
    let mut env: Vec<String> = VALUES.iter().map(|(name, value)| format!("{name}={value}")).collect();
    env.sort();
    assert_eq!(after("--env"), env);
    assert_eq!(after("--health-cmd"), [r#"["test","-e","/tmp/healthy"]"#]);
    assert_eq!(after("--health-start-period"), ["30s"]);
    assert_eq!(after("--publish"), ["28981:28981"]);
    assert_eq!(after("-v"), ["systemd-app-data:/data"]);
    assert_eq!(words.last().unwrap(), &format!("{}:latest", family.repository("app")));
}

#[test]
fn marathons_client_knows_every_field() {
    let family = family();
    let examples = examples();
    let read = "import json, sys\nfrom marathon.models import MarathonApp\napp = MarathonApp.from_json(json.load(sys.stdin))\nprint(app.to_json())";
    for (workspace, image) in [(&family, "app"), (&examples, "guestbook"), (&examples, "static-hello")] {
        let made = imgforge(workspace, &["export", image, "--to", "marathon"]).ok();
        let file = workspace.write("app.json", &made.stdout);
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", read]).stdin(std::fs::File::open(&file).unwrap());
        let read: serde_json::Value = serde_json::from_slice(&ran(&mut command).stdout).unwrap();
        let said = made.json();
        // The client adds what it has defaults for, and leaves out what is empty.
        for (key, value) in said.as_object().unwrap() {
            let is_empty = value.as_array().is_some_and(Vec::is_empty)
                || value.as_object().is_some_and(serde_json::Map::is_empty);
            if key != "container" && !is_empty {
                assert_eq!(&read[key], value, "{key}");
            }
        }
        assert_eq!(read["container"]["docker"]["image"], said["container"]["docker"]["image"]);
    }
    let made = imgforge(&family, &["export", "app", "--to", "marathon"]).ok().json();
    for (name, value) in VALUES {
        assert_eq!(made["env"][name], value);
    }
}

#[test]
fn foreman_runs_the_services_of_a_procfile() {
    let workspace = TestWorkspace::new();
    workspace.busybox_base("base");
    let argv = ["printf", "[%s]\\n", "it's $HOME", "two\nlines", "a\\b 100%"];
    let words: Vec<String> = argv.iter().map(|word| kdl(word).replace('\n', "\\n")).collect();
    workspace.image(
        "app",
        &format!(
            "    from \"base\"\n    supervisor \"s6\" install=#false\n    service \"one\" {{\n        command {}\n        user \"root\"\n    }}\n    \
             service \"two\" {{\n        script \"echo \\\"$MODE in $PWD\\\"\\nexec sleep 60\"\n        dir \"/usr\"\n        env \"MODE\" \"it's \\\"on\\\"\"\n        needs \"one\"\n    }}\n    \
             service \"once\" {{\n        type \"oneshot\"\n        command \"false\"\n    }}",
            words.join(" ")
        ),
    );
    let made = imgforge(&workspace, &["export", "app", "--to", "procfile"]).ok();
    assert!(made.stderr.contains("once is left out: it is a oneshot"), "{}", made.stderr);
    assert!(made.stderr.contains("two drops: needs one"), "{}", made.stderr);
    workspace.write("Procfile", &made.stdout);
    let checked = ran(Command::new("foreman").arg("check").current_dir(workspace.root()));
    assert_eq!(String::from_utf8_lossy(&checked.stdout), "valid procfile detected (one, two)\n");
    let run = |service: &str| {
        let mut command = Command::new("foreman");
        command.args(["start", service]).current_dir(workspace.root());
        let out = ran(command.env("HOME", "/nowhere").env("RUBYOPT", "-Ku"));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let said = run("one");
    for line in ["[it's $HOME]", "[two", "lines]", "[a\\b 100%]"] {
        assert!(said.lines().any(|said| said.ends_with(&format!("| {line}"))), "{line} in {said}");
    }
}

#[test]
fn the_image_is_named_as_it_is_asked_for() {
    let family = family();
    let image = |args: &[&str]| {
        let made = imgforge(&family, &[&["export", "app", "--to", "marathon", "-q"], args].concat()).ok();
        assert_eq!(made.stderr, "");
        made.json()["container"]["docker"]["image"].as_str().unwrap().to_owned()
    };
    let repository = family.repository("app");
    let digest = format!("sha256:{}", "ab".repeat(32));
    assert_eq!(image(&[]), format!("{repository}:latest"));
    assert_eq!(image(&["--tag", "1.2"]), format!("{repository}:1.2"));
    assert_eq!(image(&["--digest", &digest]), format!("{repository}@{digest}"));
    assert_eq!(image(&["--image-reference", "other.example.com/x"]), "other.example.com/x");
    let plan = imgforge(&family, &["plan", "app", "--format", "json"]).ok().json();
    let target = plan["targets"].as_array().unwrap().iter().find(|row| row["name"] == "app").unwrap();
    let tag = image(&["--content-tag"]);
    let hex = tag.strip_prefix(&format!("{repository}:f-")).unwrap();
    assert_eq!(hex.len(), 32);
    assert!(target["fingerprint"].as_str().unwrap().contains(hex), "{tag} in {target}");
    let wrong = imgforge(&family, &["export", "app", "--to", "nomad", "--tag", "a", "--content-tag"]);
    assert_eq!(wrong.code, 2);
    assert_eq!(imgforge(&family, &["export", "app", "--to", "nomad", "--tag", "a b"]).code, 2);
    assert_eq!(imgforge(&family, &["export", "ap", "--to", "nomad"]).code, 2);
}

#[test]
fn files_are_written_whole_and_by_the_workspaces_own_templates() {
    let family = family();
    family.write(
        "templates/export/quadlet.j2",
        "{% extends \"built-in/quadlet.j2\" %}\n{% block container %}\nHostName={{ workload.slug }}\n{% endblock %}\n",
    );
    family.write("out/app.container", "an old one\n");
    let made = imgforge(&family, &["export", "app", "--to", "quadlet", "-o", "out"]).ok();
    assert_eq!(made.stdout, "");
    let mut names: Vec<String> = std::fs::read_dir(family.root().join("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["app-data.volume", "app.container"]);
    let text = std::fs::read_to_string(family.root().join("out/app.container")).unwrap();
    assert!(text.contains("\nHostName=app\n") && text.contains("\nVolume=app-data.volume:/data\n"), "{text}");
    // A template that is wrong writes nothing.
    family.write("templates/export/quadlet-volume.j2", "{{ nothing }}\n");
    std::fs::write(family.root().join("out/app.container"), "kept\n").unwrap();
    let wrong = imgforge(&family, &["export", "app", "--to", "quadlet", "-o", "out"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("templates/export/quadlet-volume.j2:1"), "{}", wrong.stderr);
    assert_eq!(std::fs::read_to_string(family.root().join("out/app.container")).unwrap(), "kept\n");
}
