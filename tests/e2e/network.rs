//! What steps and containers reach: on a machine of the test's own, with servers on its loopback and another machine
//! beside it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use imgforge_testkit::machine::Machine;
use imgforge_testkit::workspace::{Ran, TestWorkspace};

use crate::building::wait_until;
use crate::{IMGFORGE, imgforge};

/// Tries all ways to a machine's own: as anybody would, past the routes (`so-bindtodevice`), and by the addresses
/// that a user-mode stack has.
const TRY_ALL: &str = "for to in 127.0.0.1 0.0.0.0 127.1.2.3 10.88.0.1 10.88.0.130 10.88.0.131; do for how in '' ,so-bindtodevice=eth0; do for kind in TCP UDP; do echo x | socat -T 1 - $kind:$to:8001,connect-timeout=1$how; done; done; done; socat - ABSTRACT-CONNECT:$NAME; :";

/// A workspace whose image `base` has busybox and socat.
fn workspace() -> TestWorkspace {
    let workspace = TestWorkspace::new();
    workspace.busybox_base("busybox");
    workspace.image("base", "    from \"busybox\"\n    copy \"root/\" \"/\"");
    for file in needed("/usr/bin/socat") {
        let target = workspace.root().join("base/root").join(file.strip_prefix('/').unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(file, target).unwrap();
    }
    workspace
}

/// A program and the libraries that it needs.
fn needed(program: &str) -> Vec<String> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned);
    [program.to_owned()].into_iter().chain(libraries).collect()
}

/// `imgforge` on a machine.
fn on(machine: &Machine, workspace: &TestWorkspace, args: &[&str]) -> Command {
    let mut command = machine.command();
    let own = workspace.command(IMGFORGE, args);
    command.arg(own.get_program()).args(own.get_args()).current_dir(workspace.root());
    command.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

fn run(machine: &Machine, workspace: &TestWorkspace, args: &[&str]) -> Ran {
    Ran::of(on(machine, workspace, args).args(["--engine", "embedded"]).output().unwrap())
}

/// A folder with one program in it, to be all of PATH.
fn only(workspace: &TestWorkspace, program: &str) -> PathBuf {
    let folder = workspace.root().join("only").join(program).into_std_path_buf();
    std::fs::create_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink(Path::new("/usr/bin").join(program), folder.join(program)).unwrap();
    folder
}

/// A build by somebody who is not root, where the device of user-mode networks has a mode.
fn as_nobody(machine: &Machine, workspace: &TestWorkspace, mode: &str) -> Ran {
    // udev lets everybody open this device; where there is no udev, a node of its own is put in its place.
    let node = workspace.root().join("tun");
    let binary = workspace.root().join("imgforge");
    std::fs::copy(IMGFORGE, &binary).unwrap();
    let script = format!(
        "chown -R 65534:65534 {root} && mknod {node} c 10 200 && chmod {mode} {node} && mount --bind {node} /dev/net/tun && \
         exec setpriv --reuid 65534 --regid 65534 --clear-groups {binary} build --engine embedded",
        root = workspace.root()
    );
    let mut command = machine.command();
    command.args(["sh", "-c", &script]).current_dir(workspace.root()).env("HOME", workspace.root());
    Ran::of(command.env("IMGFORGE_LOCAL", "1").output().unwrap())
}

/// What steps with `network "default"` find: the other machine by address and by name, an interface of their own.
fn reaching(machine: &Machine) -> String {
    format!(
        r#"    from "base"
    network "default"
    run "test \"$(socat - TCP:198.51.100.2:8000)\" = outside"
    run "test \"$(socat - TCP4:server:8000)\" = outside"
    run "test \"$(echo x | socat -T 5 - UDP:server.test:8000)\" = outside"
    run "echo $(ls /sys/class/net) > /interfaces; test \"$(cat /interfaces)\" = 'eth0 lo'"
    run "NAME={}; {TRY_ALL}""#,
        machine.abstract_name()
    )
}

#[test]
fn steps_with_a_network_reach_other_machines_and_nothing_of_this_ones_own() {
    let (workspace, machine) = (workspace(), Machine::new().unwrap());
    workspace.image("app", &reaching(&machine));
    run(&machine, &workspace, &["build"]).ok();
    assert!(machine.reached().is_empty(), "{:?}", machine.reached());
    assert_eq!(machine.running("slirp4netns"), 0);
}

#[test]
fn pasta_does_where_there_is_no_slirp4netns() {
    let (workspace, machine) = (workspace(), Machine::new().unwrap());
    workspace.image("app", &reaching(&machine));
    let mut command = on(&machine, &workspace, &["build", "--engine", "embedded"]);
    Ran::of(command.env("PATH", only(&workspace, "pasta")).output().unwrap()).ok();
    assert!(machine.reached().is_empty(), "{:?}", machine.reached());
    assert_eq!(machine.running("pasta"), 0);
}

#[test]
fn somebody_who_is_not_root_has_the_same_network() {
    let (workspace, machine) = (workspace(), Machine::new().unwrap());
    workspace.image("app", &reaching(&machine));
    as_nobody(&machine, &workspace, "666").ok();
    assert!(machine.reached().is_empty(), "{:?}", machine.reached());
}

#[test]
fn somebody_who_may_not_open_the_device_is_told_which() {
    let (workspace, machine) = (workspace(), Machine::new().unwrap());
    workspace.image("app", "    from \"base\"\n    network \"default\"\n    run \"true\"");
    let ran = as_nobody(&machine, &workspace, "600");
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("needs /dev/net/tun, which cannot be opened: Permission denied"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("chmod 666 /dev/net/tun"), "{}", ran.stderr);
}

#[test]
fn steps_have_no_network_unless_somebody_says_so() {
    let (workspace, machine) = (workspace(), Machine::new().unwrap());
    let attempt = format!(
        "test \"$(ls /sys/class/net)\" = lo && ! socat - TCP:198.51.100.2:8000,connect-timeout=1 && NAME={} && {TRY_ALL}",
        machine.abstract_name()
    );
    workspace.image("rendered", &format!("    from \"base\"\n    run {attempt:?}"));
    workspace.image("written", "    dockerfile \"Dockerfile\"");
    workspace.write("written/Dockerfile", &format!("FROM base\nRUN {attempt}\n"));
    run(&machine, &workspace, &["build"]).ok();
    assert!(machine.reached().is_empty(), "{:?}", machine.reached());
    // Docker agrees; nothing of the machine is its.
    let lo = "test \"$(ls /sys/class/net)\" = lo";
    workspace.image("rendered", &format!("    from \"base\"\n    run {lo:?}"));
    workspace.write("written/Dockerfile", &format!("FROM base\nRUN {lo}\n"));
    imgforge(&workspace, &["build"]).ok();
}

#[test]
fn the_hosts_network_is_for_images_that_name_it() {
    let (workspace, machine) = (workspace(), Machine::new().unwrap());
    let attempt = format!("NAME={}; {TRY_ALL}", machine.abstract_name());
    workspace.image("app", &format!("    from \"base\"\n    network \"host\"\n    run {attempt:?}"));
    run(&machine, &workspace, &["build"]).ok();
    assert_eq!(machine.reached().into_iter().collect::<Vec<_>>(), ["abstract", "tcp", "udp"]);
    let found = imgforge(&workspace, &["lint", "app"]).ok();
    assert!(found.stdout.contains("IF009"), "{}", found.stdout);
    // Docker's host is the machine that it runs on.
    let names = std::fs::read_dir("/sys/class/net").unwrap().flatten();
    let mut names: Vec<String> = names.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with("veth"));
    names.sort();
    let lists = format!(
        "test \"$(ls /sys/class/net | grep -v veth | sort | tr '\\n' ' ')\" = '{} '",
        names.join(" ")
    );
    workspace.image("app", &format!("    from \"base\"\n    network \"host\"\n    run {lists:?}"));
    imgforge(&workspace, &["build"]).ok();
}

#[test]
fn a_workspace_says_it_for_all_images_that_do_not() {
    let (workspace, machine) = (workspace(), Machine::new().unwrap());
    let manifest = std::fs::read_to_string(workspace.root().join("imgforge.kdl")).unwrap();
    let fingerprints = |workspace: &TestWorkspace| {
        let plan = imgforge(workspace, &["plan", "--format", "json", "--engine", "embedded"]).ok().json();
        let rows = plan["targets"].as_array().unwrap().iter();
        rows.map(|row| row["fingerprint"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    workspace.image("alone", "    from \"scratch\"\n    network \"none\"\n    env \"A\" \"1\"");
    workspace.image("app", "    from \"scratch\"\n    env \"A\" \"1\"");
    let before = fingerprints(&workspace);
    workspace.write("imgforge.kdl", &manifest.replacen('{', "{\n    network \"none\"", 1));
    assert_eq!(fingerprints(&workspace), before);
    workspace.write("imgforge.kdl", &manifest.replacen('{', "{\n    network \"default\"", 1));
    let changed = fingerprints(&workspace).into_iter().zip(&before).filter(|(now, before)| now != *before);
    // All but the one that says it itself.
    assert_eq!(changed.count(), before.len() - 1);
    workspace.image(
        "app",
        "    from \"base\"\n    run \"test \\\"$(socat - TCP:198.51.100.2:8000)\\\" = outside\"",
    );
    run(&machine, &workspace, &["build", "app"]).ok();
}

#[test]
fn a_line_that_asks_for_more_than_the_image_has_is_an_error_before_anything_is_built() {
    let workspace = TestWorkspace::new();
    workspace.image("app", "    dockerfile \"Dockerfile\"");
    workspace.write(
        "app/Dockerfile",
        "FROM scratch\nADD https://example.com/x /x\nRUN --network=none true\nRUN --network=default true\nRUN --network=host true\n",
    );
    let ran = imgforge(&workspace, &["plan"]);
    assert_eq!(ran.code, 2);
    insta::assert_snapshot!(ran.stderr);
    for (network, problems) in [("none", 3), ("default", 1), ("host", 0)] {
        workspace.image("app", &format!("    dockerfile \"Dockerfile\"\n    network \"{network}\""));
        let ran = imgforge(&workspace, &["plan"]);
        assert_eq!(ran.stderr.matches("needs network").count(), problems, "{network}: {}", ran.stderr);
    }
}

#[test]
fn without_a_program_for_it_a_step_says_what_to_install_and_a_container_runs_alone() {
    let (workspace, machine) = (workspace(), Machine::new().unwrap());
    workspace.image("app", "    from \"base\"\n    network \"default\"\n    run \"true\"");
    let without = |args: &[&str]| {
        let mut command = on(&machine, &workspace, args);
        Ran::of(
            command.args(["--engine", "embedded"]).env("PATH", only(&workspace, "socat")).output().unwrap(),
        )
    };
    let ran = without(&["build", "-q"]);
    assert_eq!(ran.code, 1);
    insta::assert_snapshot!(ran.stderr.split_once("\n\n").unwrap().1);
    std::fs::remove_dir_all(workspace.root().join("only")).unwrap();
    let mut command = on(&machine, &workspace, &["run", "base", "--engine", "embedded"]);
    let command =
        command.env("PATH", only(&workspace, "socat")).args(["--", "/bin/sh", "-c", "ls /sys/class/net"]);
    let ran = Ran::of(command.output().unwrap()).ok();
    assert_eq!(ran.stdout, "lo\n");
    assert!(ran.stderr.contains("apt-get install slirp4netns"), "{}", ran.stderr);
}

#[test]
fn a_container_reaches_other_machines_and_is_reached_by_its_published_ports() {
    let (workspace, machine) = (workspace(), Machine::new().unwrap());
    let serve = format!(
        "socat TCP-LISTEN:81,bind=127.0.0.1,fork SYSTEM:'echo no' & NAME={}; {{ {TRY_ALL}; }} 2> /dev/null; socat - TCP4:server:8000; echo; \
         exec socat TCP-LISTEN:80,fork,reuseaddr SYSTEM:'echo served'",
        machine.abstract_name()
    );
    workspace.image("web", &format!("    from \"base\"\n    entrypoint \"/bin/sh\" \"-c\" {serve:?}"));
    run(&machine, &workspace, &["build"]).ok();
    let mut child =
        on(&machine, &workspace, &["run", "web", "-p", "8080:80", "-p", "8081:81", "--engine", "embedded"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
    let mut printed = [0; 8];
    child.stdout.as_mut().unwrap().read_exact(&mut printed).unwrap();
    assert_eq!(&printed, b"outside\n");
    let answer = |address: &str| {
        let mut answer = String::new();
        let _ = machine.connect(address).and_then(|mut stream| stream.read_to_string(&mut answer));
        answer
    };
    wait_until("it serves", || answer("127.0.0.1:8080") == "served\n");
    assert_eq!(answer("127.0.0.1:8081"), "", "what listens on loopback inside is not reached");
    assert!(machine.reached().is_empty(), "{:?}", machine.reached());
    assert_eq!(machine.running("slirp4netns"), 1);
    // `ip netns exec` has become imgforge.
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the stack has ended", || machine.running("slirp4netns") == 0);
}

#[test]
fn the_stack_ends_with_the_step_when_imgforge_is_killed() {
    let (workspace, machine) = (workspace(), Machine::new().unwrap());
    workspace.image("app", "    from \"base\"\n    network \"default\"\n    run \"sleep 1000\"");
    let mut child =
        on(&machine, &workspace, &["build", "--engine", "embedded"]).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the step runs", || machine.running("slirp4netns") == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the stack has ended", || machine.running("slirp4netns") == 0);
}
