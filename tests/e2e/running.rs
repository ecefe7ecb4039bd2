//! `run` and `services`: an image in a container on this machine.

use std::process::Stdio;

use imgforge_testkit::docker::Docker;
use imgforge_testkit::workspace::{Ran, TestWorkspace};

use crate::building::wait_until;
use crate::{IMGFORGE, imgforge};

const WEB: &str = r#"
    from "base"
    supervisor "none"
    expose 8080
    resources memory="64MB" cpus="0.5"
    volume "/data"
    service "web" {
        script "trap 'echo stopped in order; exit 5' TERM; httpd -p 8080 -h /etc; echo serving $GREETING; while :; do sleep 60 & wait $!; done"
    }"#;

fn workspace() -> TestWorkspace {
    let workspace = TestWorkspace::new();
    workspace.busybox_base("base");
    workspace.image("web", WEB);
    workspace
}

#[test]
fn a_command_runs_in_the_image_and_its_exit_code_is_that_of_run() {
    let workspace = workspace();
    let ran = imgforge(
        &workspace,
        &["run", "web", "-q", "-e", "X=a b", "--", "sh", "-c", "echo $X; echo no >&2; exit 7"],
    );
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (7, "a b\n", "no\n"));
    let left =
        Docker::run(&["ps", "-aq", "--filter", &format!("label=imgforge.workspace={}", workspace.name())]);
    assert_eq!(left, "", "the container is removed");
}

#[test]
fn ports_are_published_and_an_interrupt_stops_it_in_order() {
    let workspace = workspace();
    imgforge(&workspace, &["build"]).ok();
    let child = workspace
        .command(
            IMGFORGE,
            &["run", "web", "-e", "GREETING=you", "--name", &format!("{}-web", workspace.name())],
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let name = format!("{}-web", workspace.name());
    wait_until("it serves", || {
        Docker::succeeds(&["inspect", &name]) && Docker::run(&["logs", &name]).contains("serving you")
    });
    let address = Docker::run(&["port", &name, "8080/tcp"]);
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    assert!(std::net::TcpStream::connect(address.lines().next().unwrap()).is_ok());

    let limits = Docker::run(&["inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}", &name]);
    assert_eq!(limits, format!("{} 500000000", 64 << 20));

    let shown = imgforge(&workspace, &["services", "web", "--format", "json"]).ok().json();
    // Other tests may have a container of an image of this name.
    let containers = shown["containers"].as_array().unwrap();
    let container = containers.iter().find(|container| container["name"] == name.as_str()).unwrap();
    assert_eq!(container["services"][0]["name"], "web");
    assert_eq!(container["services"][0]["state"], "up");
    let by_name = imgforge(&workspace, &["services", &name]).ok();
    assert!(by_name.stdout.contains("web") && by_name.stdout.contains("up"), "{}", by_name.stdout);

    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 5, "the container's exit code: {}", ran.stderr);
    assert_eq!(ran.stdout, "serving you\nstopped in order\n");
    assert!(ran.stderr.contains("Running web as"), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("8080 at {}", address.lines().next().unwrap())), "{}", ran.stderr);
    assert!(ran.stderr.contains("Stopping in order"), "{}", ran.stderr);
    assert!(!Docker::succeeds(&["inspect", &name]), "the container is removed");
}

#[test]
fn a_detached_container_stays() {
    let workspace = workspace();
    let ran = imgforge(&workspace, &["run", "web", "--detach"]).ok();
    let name = ran.stdout.trim();
    let states = || imgforge(&workspace, &["services", name]).ok().stdout;
    wait_until("it is up", || states().contains("up"));
    Docker::run(&["rm", "-f", "-v", name]);
}

#[test]
fn what_cannot_be_run_is_said() {
    let workspace = workspace();
    let unknown = imgforge(&workspace, &["run", "wep"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("did you mean \"web\"?"), "{}", unknown.stderr);
    let nowhere = imgforge(&workspace, &["services", "no-such-container"]);
    assert_eq!(nowhere.code, 2);
    assert!(
        nowhere.stderr.contains("no running container is called \"no-such-container\""),
        "{}",
        nowhere.stderr
    );
    let port = imgforge(&workspace, &["run", "web", "-p", "here:80"]);
    assert_eq!(port.code, 2);
    assert!(port.stderr.contains("\"here\" is not a port"), "{}", port.stderr);
    // A port that is taken: the daemon's words, and nothing is left behind.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("{}:8080", listener.local_addr().unwrap().port());
    let ran = imgforge(&workspace, &["run", "web", "-p", &taken]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("address already in use"), "{}", ran.stderr);
    let left =
        Docker::run(&["ps", "-aq", "--filter", &format!("label=imgforge.workspace={}", workspace.name())]);
    assert_eq!(left, "");
}
