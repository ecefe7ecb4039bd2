//! What a step and a container of either engine may do: a probe tries it in all four, and the table of it in
//! `docs/engines.md` is compared with what was found.

mod table;

use std::collections::BTreeMap;
use std::process::Command;

use imgforge_testkit::docker::Docker;
use imgforge_testkit::workspace::{Ran, TestWorkspace};

use crate::{IMGFORGE, imgforge};

const NEWER_PROFILE: &str = "the filter here is that of Docker 28.5; this Docker has an older one";
const DEVICES: &str = "closed by the filter of devices here, by the storage driver's `nodev` there";
const CONTROL_GROUPS: &str = "what holds the control groups can only be read here";
const ENGINES_FILE: &str = "a file that each engine has in a place of its own";

/// Why the embedded engine differs from Docker: the section and the beginning of a name, and the reason. What differs
/// and is not here fails the test.
const REASONS: &[(&str, &str, &str)] = &[
    ("call", "process_vm_", NEWER_PROFILE),
    ("call", "io_uring_", NEWER_PROFILE),
    ("call", "pkey_alloc", NEWER_PROFILE),
    ("call", "name_to_handle_at", NEWER_PROFILE),
    ("call", "cachestat", NEWER_PROFILE),
    ("call", "listmount", NEWER_PROFILE),
    ("call", "mseal", NEWER_PROFILE),
    ("call", "getxattrat", NEWER_PROFILE),
    ("call", "socket(AF_VSOCK)", NEWER_PROFILE),
    ("call", "open of a ", DEVICES),
    ("write", "a file in /sys/fs/cgroup", CONTROL_GROUPS),
    ("read", "/proc/interrupts", "Docker hides it since 28.0"),
    ("read", "/sys/fs/cgroup", CONTROL_GROUPS),
    ("mount", "/etc/", ENGINES_FILE),
    ("mount", "/proc/acpi", "what hides it has more flags here"),
    ("mount", "/sys/firmware", "what hides it has more flags here"),
    ("mount", "/proc/interrupts", "Docker hides it since 28.0"),
    ("mount", "/sys/fs/cgroup", CONTROL_GROUPS),
    ("mount", "/", "as the storage driver of Docker has it"),
    ("status", "Groups", "BuildKit gives a step the group of root once more"),
];

/// Where the probe ran, as the table has its columns.
const PLACES: [&str; 4] = ["`RUN`", "container", "Docker's `RUN`", "Docker's container"];

/// What the probe tried, in its order, and what came of it in each of [`PLACES`]; empty where it says nothing.
struct Report {
    lines: Vec<(Tried, [String; 4])>,
}

/// A section (`call`, `write`, `read`, `mount`, `status`) and a name.
type Tried = (String, String);

/// An image with the probe in it. Its step has written `/report`.
fn image() -> TestWorkspace {
    let workspace = TestWorkspace::new();
    workspace.busybox_base("base");
    workspace.image(
        "probed",
        "    from \"base\"\n    copy \"probe\" \"/probe\"\n    run \"chmod 4755 /probe\"\n    run \"/probe\" \"/report\"",
    );
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/e2e/confinement/probe.c");
    let compiled = Command::new("cc")
        .args(["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
        .args([workspace.root().join("probed/probe").as_str(), source])
        .status();
    assert!(compiled.unwrap().success(), "cc, with which Rust links, makes the probe");
    workspace
}

/// Runs the probe in all places.
fn report() -> Report {
    let embedded = image();
    let run = |args: &[&str]| {
        let mut command = embedded.command(IMGFORGE, &[&["run", "probed", "-q", "--"], args].concat());
        command.env("IMGFORGE_ENGINE", "embedded").env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
        Ran::of(command.output().unwrap()).ok().stdout
    };
    let docker = image();
    imgforge(&docker, &["build", "--engine", "docker"]).ok();
    let reference = format!("{}:latest", docker.repository("probed"));
    let in_docker =
        |args: &[&str]| Docker::run(&[&["run", "--rm", "--network=none", &reference], args].concat());
    let probe: &[&str] = &["/probe", "/dev/stdout"];
    let printed = [run(&["cat", "/report"]), run(probe), in_docker(&["cat", "/report"]), in_docker(probe)];
    let found = printed.each_ref().map(|printed| parse(printed));
    let mut lines: Vec<(Tried, [String; 4])> = Vec::new();
    for place in &printed {
        for (tried, result) in place.lines().map(split) {
            let (tried, _) = generalise(tried, result);
            if lines.iter().all(|(known, _)| *known != tried) {
                let results = found.each_ref().map(|found| found.get(&tried).cloned().unwrap_or_default());
                lines.push((tried, results));
            }
        }
    }
    // As the sections come.
    lines.sort_by_key(|((section, _), _)| table::SECTIONS.iter().position(|known| known.0 == section));
    Report { lines }
}

fn split(line: &str) -> (Tried, String) {
    let mut fields = line.split('\t').map(str::to_owned);
    let mut next = || fields.next().unwrap_or_else(|| panic!("`{line}` is no line of the probe"));
    ((next(), next()), next().trim().to_owned())
}

fn parse(printed: &str) -> BTreeMap<Tried, String> {
    let mut found = BTreeMap::new();
    for (tried, result) in printed.lines().map(split) {
        let (tried, result) = generalise(tried, result);
        let known: &mut String = found.entry(tried).or_default();
        // What is mounted at one place several times is told in one line.
        if known.is_empty() {
            *known = result;
        } else if *known != result {
            *known = format!("{known}; {result}");
        }
    }
    assert!(found.len() > 100, "the probe has come to its end: {printed}");
    found
}

/// Leaves out what is the machine's: which control groups it has, what its disks are.
fn generalise((section, name): Tried, result: String) -> (Tried, String) {
    if section != "mount" {
        return ((section, name), result);
    }
    let name = if name.starts_with("/sys/fs/cgroup/") { "/sys/fs/cgroup/*".to_owned() } else { name };
    let (kind, flags) = result.split_once(' ').expect("a type and options");
    let kind = match kind {
        "cgroup" | "cgroup2" | "devpts" | "devtmpfs" | "mqueue" | "proc" | "sysfs" | "tmpfs" => kind,
        _ => "files",
    };
    let flags: Vec<&str> =
        flags.split(',').filter(|flag| ["ro", "rw", "nosuid", "nodev", "noexec"].contains(flag)).collect();
    ((section, name), format!("{kind} {}", flags.join(",")))
}

/// Whether the engines differ, in a step or in a container.
fn differs(results: &[String; 4]) -> bool {
    let [step, container, docker_step, docker_container] = results;
    (step, container) != (docker_step, docker_container)
}

/// Why results differ, if that is known. A name that ends with `/` means all that is below it, but `/` itself.
fn reason((section, name): &Tried) -> Option<&'static str> {
    let applies = |known: &&(&str, &str, &'static str)| {
        known.0 == section && (name == known.1 || known.1 != "/" && name.starts_with(known.1))
    };
    REASONS.iter().find(applies).map(|known| known.2)
}

#[test]
fn a_step_and_a_container_may_do_what_docker_lets_them_do_or_it_is_said_why() {
    let report = report();
    let unknown: Vec<String> = report
        .lines
        .iter()
        .filter(|(tried, results)| differs(results) && reason(tried).is_none())
        .map(|((section, name), results)| format!("{section} {name}: {}", results.join(" | ")))
        .collect();
    assert!(
        unknown.is_empty(),
        "it differs in {}, and nobody says why:\n{}",
        PLACES.join(" | "),
        unknown.join("\n")
    );
    table::compare(&report);
}
