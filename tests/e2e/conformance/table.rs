//! The table in `docs/supervisors.md`, between two marks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use super::Cell;
use super::behaviours::BEHAVIOURS;

const BEGIN: &str = "<!-- The conformance suite writes from here ... -->\n";
const END: &str = "<!-- ... to here. -->\n";

/// The columns, in order.
const SUPERVISORS: [&str; 8] =
    ["s6", "runit", "supervisord", "s6-overlay", "systemd", "tini", "dumb-init", "none"];

type Columns = BTreeMap<String, BTreeMap<String, Cell>>;

/// Compares a supervisor's column with the one in the document, or writes it.
pub(super) fn compare(supervisor: &str, cells: &BTreeMap<&'static str, Cell>) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/supervisors.md");
    let own: BTreeMap<String, Cell> =
        cells.iter().map(|(name, cell)| ((*name).to_owned(), cell.clone())).collect();
    if std::env::var_os("IMGFORGE_UPDATE_DOCS").is_some() {
        // Other supervisors' tests write to it too.
        let lock = fs::File::create(std::env::temp_dir().join("imgforge-docs.lock")).unwrap();
        lock.lock().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let (before, table, after) = parts(&text);
        let mut columns = parse(table);
        columns.insert(supervisor.to_owned(), own);
        fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", render(&columns))).unwrap();
        return;
    }
    let text = fs::read_to_string(&path).unwrap();
    let written = parse(parts(&text).1).remove(supervisor).unwrap_or_default();
    assert_eq!(
        written, own,
        "docs/supervisors.md says something else of {supervisor}; with IMGFORGE_UPDATE_DOCS=1 this test corrects it"
    );
}

fn parts(text: &str) -> (&str, &str, &str) {
    let (before, rest) = text.split_once(BEGIN).expect("the first mark");
    let (table, after) = rest.split_once(END).expect("the second mark");
    (before, table, after)
}

fn render(columns: &Columns) -> String {
    let mut out = String::from("\n| |");
    SUPERVISORS.iter().for_each(|name| write!(out, " {name} |").unwrap());
    out.push_str("\n|---|");
    SUPERVISORS.iter().for_each(|_| out.push_str("---|"));
    out.push('\n');
    for behaviour in BEHAVIOURS {
        let _ = write!(out, "| {} |", behaviour.name);
        for supervisor in SUPERVISORS {
            let cell = match columns.get(supervisor).and_then(|cells| cells.get(behaviour.name)) {
                Some(Cell::Pass) => "pass",
                Some(Cell::NotExpressible(_)) => "not expressible",
                None => "not run",
            };
            let _ = write!(out, " {cell} |");
        }
        out.push('\n');
    }
    out.push_str("\nWhat is not expressible is refused, with these words:\n\n");
    for supervisor in SUPERVISORS {
        for (behaviour, cell) in columns.get(supervisor).into_iter().flatten() {
            if let Cell::NotExpressible(message) = cell {
                let _ = writeln!(out, "- {supervisor}, {behaviour}: {message}");
            }
        }
    }
    out.push('\n');
    out
}

fn parse(table: &str) -> Columns {
    let mut columns = Columns::new();
    let messages: BTreeMap<&str, &str> =
        table.lines().filter_map(|line| line.strip_prefix("- ")?.split_once(": ")).collect();
    for line in table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| |")) {
        let words: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        for (supervisor, word) in SUPERVISORS.iter().zip(&words[1..]) {
            let message = messages.get(format!("{supervisor}, {}", words[0]).as_str());
            let cell = match (*word, message) {
                ("pass", _) => Cell::Pass,
                ("not expressible", Some(message)) => Cell::NotExpressible((*message).to_owned()),
                _ => continue,
            };
            columns.entry((*supervisor).to_owned()).or_default().insert(words[0].to_owned(), cell);
        }
    }
    columns
}
