//! What people and programs see: data on stdout, words on stderr, colours only on a terminal.

use std::io::{ErrorKind, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use clap::ColorChoice;
use imgforge::report::{clean, printable};

/// Green and bold: the words at the left of a line.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// Cyan: work to do.
pub(crate) const WORK: Style = AnsiColor::Cyan.on_default().bold();
/// Grey: what is as it was.
pub(crate) const DIM: Style = Style::new().dimmed();
/// Yellow and bold.
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default().bold();
/// Red and bold.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();

/// The largest width of diagnostics, in columns.
const WIDEST: usize = 100;

/// Obeys `--color`; `auto` looks at the stream, NO_COLOR and CLICOLOR_FORCE.
pub(crate) fn set_colors(choice: ColorChoice) {
    match choice {
        ColorChoice::Auto => {}
        ColorChoice::Always => anstream::ColorChoice::Always.write_global(),
        ColorChoice::Never => anstream::ColorChoice::Never.write_global(),
    }
    miette_hook();
}

/// Diagnostics are drawn by miette, with colour and line drawing as the stream can show them.
fn miette_hook() {
    let color = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    // On a narrow terminal the drawing must not be broken; elsewhere it is always the same.
    let columns = ::console::Term::stderr().size_checked().map_or(WIDEST, |(_, columns)| columns.into());
    let width = columns.clamp(40, WIDEST);
    let hook = miette::set_hook(Box::new(move |_| {
        Box::new(miette::MietteHandlerOpts::new().color(color).unicode(true).width(width).build())
    }));
    hook.expect("set once, at the start");
}

/// Writes words for people, or JSON, to stdout: what a terminal would obey is shown instead.
pub(crate) fn print(text: &str) {
    write(&printable(text));
}

/// Writes a file to stdout: as it is, for another program; on a terminal, what that would obey is shown instead.
pub(crate) fn print_file(text: &str) {
    if std::io::stdout().is_terminal() { print(text) } else { write(text) }
}

/// A reader that has gone away (`| head`) ends the program quietly, as other tools do.
fn write(text: &str) {
    let mut out = anstream::stdout();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        if error.kind() == ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        complain(format_args!("{BAD}error{BAD:#}: cannot write to stdout: {error}\n"));
        std::process::exit(74);
    }
}

/// A line with a right-aligned word before it, on stderr: `    Fresh 8 images`.
pub(crate) fn say(style: Style, word: &str, rest: impl std::fmt::Display) {
    let rest = rest.to_string();
    complain(format_args!("{style}{word:>9}{style:#} {}\n", printable(&rest)));
}

/// A text on stderr. The work goes on, and its exit code stands, also where nobody can read it.
pub(crate) fn complain(text: impl std::fmt::Display) {
    let _ = write!(anstream::stderr(), "{text}");
}

/// `1 image`, `2 images`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// Rows in columns that are as wide as their widest cell, one row a line.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    // A cell stays in its row.
    let clean = |row: &Vec<String>| row.iter().map(|cell| clean(cell).into_owned()).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(clean).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .filter(|(_, width)| **width > 0)
            .map(|(c, w)| format!("{c:w$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}
