//! What a step and a container of either engine may do: a probe tries it in all four, and the table of it in
//! `docs/engines.md` is compared with what was found.

mod table;

use std::collections::BTreeMap;
use std::process::Command;

use imgforge_testkit::docker::Docker;
use imgforge_testkit::workspace::{Ran, TestWorkspace};

use crate::{IMGFORGE, imgforge};

/// Why the embedded engine differs from Docker: the section and the beginning of a name, and the reason. What differs
/// and is not here fails the test.
const REASONS: &[(&str, &str, &str)] = &[];

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
        for (tried, _) in place.lines().map(split) {
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
    ((next(), next()), next())
}

fn parse(printed: &str) -> BTreeMap<Tried, String> {
    let mut found = BTreeMap::new();
    for (tried, result) in printed.lines().map(split) {
        // What is mounted at one place several times is told in one line.
        found
            .entry(tried)
            .and_modify(|known: &mut String| *known = format!("{known}; {result}"))
            .or_insert(result);
    }
    assert!(found.len() > 100, "the probe has come to its end: {printed}");
    found
}

/// Why results differ, if that is known.
fn reason((section, name): &Tried) -> Option<&'static str> {
    let applies = |known: &&(&str, &str, &'static str)| known.0 == section && name.starts_with(known.1);
    REASONS.iter().find(applies).map(|known| known.2)
}

#[test]
fn a_step_and_a_container_may_do_what_docker_lets_them_do_or_it_is_said_why() {
    let report = report();
    let unknown: Vec<String> = report
        .lines
        .iter()
        .filter(|(tried, results)| {
            results.iter().any(|result| result != &results[0]) && reason(tried).is_none()
        })
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
