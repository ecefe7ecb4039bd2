//! The tables in `docs/engines.md`, between two marks.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use imgforge_testkit::docker::Docker;

use super::{PLACES, Report, Tried, differs, reason};

const BEGIN: &str = "<!-- The probe in tests/e2e/confinement writes from here ... -->\n";
const END: &str = "<!-- ... to here. -->\n";

/// Sections of the probe, and what is said before a result in each.
pub(super) const SECTIONS: &[(&str, &str)] = &[
    ("call", "a call"),
    ("write", "opened to be written"),
    ("read", "read"),
    ("mount", "mounted"),
    ("status", "`/proc/self/status`"),
];

/// Compares the tables in the document with what was found, or writes them.
pub(super) fn compare(report: &Report) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/engines.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the first mark");
    let (tables, after) = rest.split_once(END).expect("the second mark");
    let versions = versions();
    let found = format!("\n{versions}\n{}", render(report));
    if std::env::var_os("IMGFORGE_TEST_UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{found}{END}{after}")).unwrap();
        return;
    }
    // Another kernel knows other calls, and another Docker lets through others: then it is compared with Docker alone.
    assert!(tables.contains("Found with Docker "), "docs/engines.md says with which versions");
    if !tables.contains(&versions) {
        let told = "docs/engines.md has the results of other versions; with IMGFORGE_TEST_UPDATE_DOCS=1 this test writes those of here";
        eprintln!("{told}. {versions}");
        return;
    }
    let only = |one: &str, other: &str, mark: char| -> Vec<String> {
        let lines = one.lines().filter(|line| !other.lines().any(|known| known == *line));
        lines.map(|line| format!("{mark} {line}")).collect()
    };
    let changed = [only(tables, &found, '-'), only(&found, tables, '+')].concat();
    assert!(
        tables == found,
        "docs/engines.md says something else of what steps and containers may do; with IMGFORGE_TEST_UPDATE_DOCS=1 this test corrects it:\n{}",
        changed.join("\n")
    );
}

/// What the results depend on, as the document says it.
fn versions() -> String {
    let docker = Docker::run(&["version", "--format", "{{.Server.Version}}"]);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let kernel: Vec<&str> = kernel.split(['.', '-']).take(2).collect();
    format!("Found with Docker {docker} on Linux {} ({}), as root.", kernel.join("."), std::env::consts::ARCH)
}

fn render(report: &Report) -> String {
    let mut out = String::from("\nThe same in all four:\n\n| | |\n|---|---|\n");
    let everywhere = |results: &[String; 4]| results.iter().all(|result| result == &results[0]);
    for (section, title) in SECTIONS {
        let mut by_result: Vec<(&str, Vec<String>)> = Vec::new();
        for ((of, name), results) in &report.lines {
            if of != section || !everywhere(results) {
                continue;
            }
            let name = format!("`{name}`");
            match by_result.iter_mut().find(|(result, _)| *result == results[0]) {
                Some((_, names)) => names.push(name),
                None => by_result.push((&results[0], vec![name])),
            }
        }
        for (result, names) in by_result {
            let _ = writeln!(out, "| {title}: `{result}` | {} |", names.join(", "));
        }
    }
    out.push_str("\nThe same in both engines, and different in a step and a container:\n\n| | `RUN` | container |\n|---|---|---|\n");
    for (tried, results) in
        report.lines.iter().filter(|(_, results)| !everywhere(results) && !differs(results))
    {
        let _ = writeln!(out, "| {} | {} |", named(tried), cells(&results[..2]));
    }
    let _ = write!(out, "\nDifferent:\n\n| | {} | why |\n|---|---|---|---|---|---|\n", PLACES.join(" | "));
    for (tried, results) in report.lines.iter().filter(|(_, results)| differs(results)) {
        let why = reason(tried).unwrap_or("?");
        let _ = writeln!(out, "| {} | {} | {why} |", named(tried), cells(results));
    }
    out.push('\n');
    out
}

fn named((section, name): &Tried) -> String {
    let title = SECTIONS.iter().find(|known| known.0 == section).map_or("", |known| known.1);
    format!("{title}: `{name}`")
}

fn cells(results: &[String]) -> String {
    results.iter().map(|result| if result.is_empty() { "-" } else { result }).collect::<Vec<_>>().join(" | ")
}
