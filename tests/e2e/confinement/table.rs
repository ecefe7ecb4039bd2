//! The tables in `docs/engines.md`, between two marks.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use super::{PLACES, Report, reason};

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
    let found = render(report);
    if std::env::var_os("IMGFORGE_UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{found}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(
        tables, found,
        "docs/engines.md says something else of what steps and containers may do; with IMGFORGE_UPDATE_DOCS=1 this test corrects it"
    );
}

fn render(report: &Report) -> String {
    let differs = |results: &[String; 4]| results.iter().any(|result| result != &results[0]);
    let mut out = String::from("\nThe same in all four:\n\n| | |\n|---|---|\n");
    for (section, title) in SECTIONS {
        let mut by_result: Vec<(&str, Vec<String>)> = Vec::new();
        for ((of, name), results) in &report.lines {
            if of != section || differs(results) {
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
    let _ = write!(out, "\nDifferent:\n\n| | {} | why |\n|---|---|---|---|---|---|\n", PLACES.join(" | "));
    for (tried, results) in report.lines.iter().filter(|(_, results)| differs(results)) {
        let cells = results.each_ref().map(|result| if result.is_empty() { "-" } else { result });
        let why = reason(tried).unwrap_or("?");
        let _ = writeln!(out, "| {}: `{}` | {} | {why} |", title(&tried.0), tried.1, cells.join(" | "));
    }
    out.push('\n');
    out
}

fn title(section: &str) -> &'static str {
    SECTIONS.iter().find(|known| known.0 == section).map_or("", |known| known.1)
}
