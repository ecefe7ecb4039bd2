//! The tables in `docs/supervisors.md`, between two marks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use super::Found;
use super::behaviours::{self, GROUPS};

const BEGIN: &str = "<!-- The conformance suite writes from here ... -->\n";
const END: &str = "<!-- ... to here. -->\n";

/// The columns, in order.
const SUPERVISORS: [&str; 8] =
    ["s6", "runit", "supervisord", "s6-overlay", "systemd", "tini", "dumb-init", "none"];

/// By supervisor, and by behaviour.
type Columns = BTreeMap<String, BTreeMap<String, Found>>;

/// Compares a supervisor's cells with those in the document, or writes them.
pub(super) fn compare(supervisor: &str, cells: &BTreeMap<&'static str, Found>) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/supervisors.md");
    let own: BTreeMap<String, Found> =
        cells.iter().map(|(name, cell)| ((*name).to_owned(), cell.clone())).collect();
    if std::env::var_os("IMGFORGE_TEST_UPDATE_DOCS").is_some() {
        // Other supervisors' tests write to it too.
        let lock = fs::File::create(std::env::temp_dir().join("imgforge-docs.lock")).unwrap();
        lock.lock().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let (before, tables, after) = parts(&text);
        let mut columns = parse(tables);
        columns.entry(supervisor.to_owned()).or_default().extend(own);
        fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", render(&columns))).unwrap();
        return;
    }
    let text = fs::read_to_string(&path).unwrap();
    let mut columns = parse(parts(&text).1);
    let mut column = columns.remove(supervisor).unwrap_or_default();
    // Rows that were not asked for.
    column.retain(|name, _| own.contains_key(name) || !behaviours::all().any(|row| row.name == name));
    assert_eq!(
        column, own,
        "docs/supervisors.md says something else of {supervisor}; with IMGFORGE_TEST_UPDATE_DOCS=1 this test corrects it"
    );
}

fn parts(text: &str) -> (&str, &str, &str) {
    let (before, rest) = text.split_once(BEGIN).expect("the first mark");
    let (tables, after) = rest.split_once(END).expect("the second mark");
    (before, tables, after)
}

/// Words that cells refer to by number.
#[derive(Default)]
struct Notes<'c>(Vec<&'c str>);

impl<'c> Notes<'c> {
    fn number(&mut self, words: &'c str) -> usize {
        let known = self.0.iter().position(|known| *known == words);
        1 + known.unwrap_or_else(|| {
            self.0.push(words);
            self.0.len() - 1
        })
    }
}

fn render(columns: &Columns) -> String {
    let mut out = String::new();
    let mut notes = Notes::default();
    for (group, behaviours) in GROUPS {
        let _ = write!(out, "\n## {group}\n\n| |");
        SUPERVISORS.iter().for_each(|name| write!(out, " {name} |").unwrap());
        out.push_str("\n|---|");
        SUPERVISORS.iter().for_each(|_| out.push_str("---|"));
        out.push('\n');
        for behaviour in *behaviours {
            let _ = write!(out, "| {} |", behaviour.name);
            for supervisor in SUPERVISORS {
                let _ = match columns.get(supervisor).and_then(|cells| cells.get(behaviour.name)) {
                    Some(Found::Pass) => write!(out, " pass |"),
                    Some(Found::Differs(how)) => write!(out, " differs ({}) |", notes.number(how)),
                    Some(Found::NotExpressible(error)) => {
                        write!(out, " not expressible ({}) |", notes.number(error))
                    }
                    None => write!(out, " not run |"),
                };
            }
            out.push('\n');
        }
    }
    out.push_str("\n## Notes\n\n");
    for (at, words) in notes.0.iter().enumerate() {
        let _ = writeln!(out, "{}. {words}", at + 1);
    }
    out.push('\n');
    out
}

fn parse(tables: &str) -> Columns {
    let numbered = tables.lines().filter_map(|line| line.split_once(". "));
    let notes: BTreeMap<&str, &str> =
        numbered.filter(|(number, _)| number.bytes().all(|b| b.is_ascii_digit())).collect();
    let note = |cell: &str, word: &str| {
        let number = cell.strip_prefix(word)?.strip_prefix(" (")?.strip_suffix(')')?;
        notes.get(number).map(|words| (*words).to_owned())
    };
    let found = |cell: &str| match cell {
        "pass" => Some(Found::Pass),
        _ => note(cell, "differs")
            .map(Found::Differs)
            .or_else(|| note(cell, "not expressible").map(Found::NotExpressible)),
    };
    let mut columns = Columns::new();
    for line in tables.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| |")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        for (supervisor, cell) in SUPERVISORS.iter().zip(&cells[1..]) {
            if let Some(found) = found(cell) {
                columns.entry((*supervisor).to_owned()).or_default().insert(cells[0].to_owned(), found);
            }
        }
    }
    columns
}
