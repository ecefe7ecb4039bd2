//! Problems in files, with the place, what was expected and what to do: collected, never only the first.

use std::sync::{Arc, OnceLock};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_syntax::Span;
use miette::{Diagnostic, LabeledSpan, NamedSource, Severity, SourceSpan};
use serde::{Deserialize, Serialize};

use crate::text;

/// One file as it was read: its path relative to the workspace root, and its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Relative to the workspace root, with `/`.
    pub path: Utf8PathBuf,
    /// The whole text.
    pub text: String,
}

impl SourceFile {
    /// The folder that the file lies in, relative to the workspace root (empty for the root).
    pub fn dir(&self) -> &Utf8Path {
        self.path.parent().unwrap_or(Utf8Path::new(""))
    }

    /// The 1-based line and column (in characters) of a byte offset.
    pub fn line_column(&self, offset: u32) -> (usize, usize) {
        let end = (offset as usize).min(self.text.len());
        let before = self.text.get(..end).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }

    /// `path:line` of a span, as editors and people write it.
    pub fn at(&self, span: Span) -> String {
        format!("{}:{}", self.path, self.line_column(span.offset).0)
    }
}

/// A place as miette takes it.
fn shown(span: Span) -> SourceSpan {
    (span.offset as usize, span.len as usize).into()
}

/// One problem: rendered by miette with the file's lines and the span underlined.
#[derive(Debug, Clone)]
pub struct Problem {
    message: String,
    help: Option<String>,
    code: Option<&'static str>,
    severity: Severity,
    file: Option<Arc<SourceFile>>,
    labels: Vec<LabeledSpan>,
    /// The file as it may be shown, made when it is: a file may have as many problems as it has lines.
    source: OnceLock<NamedSource<String>>,
    related: Vec<Problem>,
}

impl Problem {
    /// A problem that has no place in a file.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: one_line(&message.into()),
            help: None,
            code: None,
            severity: Severity::Error,
            file: None,
            labels: Vec::new(),
            source: OnceLock::new(),
            related: Vec::new(),
        }
    }

    /// A problem at `span` of `file`; `label` is the short word under the underline.
    pub fn at(
        file: &Arc<SourceFile>,
        span: Span,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> Self {
        let mut problem = Self::new(message);
        problem.file = Some(Arc::clone(file));
        problem.labels.push(LabeledSpan::new_primary_with_span(Some(one_line(&label.into())), shown(span)));
        problem
    }

    /// A problem at `span` of `file` with an explanation of several lines: the first is the message, and the others
    /// stand below what is shown of the file, before any help.
    pub fn explained(
        file: &Arc<SourceFile>,
        span: Span,
        explanation: &str,
        label: impl Into<String>,
    ) -> Self {
        let (message, others) = explanation.split_once('\n').unwrap_or((explanation, ""));
        let problem = Self::at(file, span, message.trim_end_matches(':'), label);
        if others.is_empty() { problem } else { problem.help(others.trim_end()) }
    }

    /// Underlines a second place in the same file.
    #[must_use]
    pub fn and(mut self, span: Span, label: impl Into<String>) -> Self {
        self.labels.push(LabeledSpan::new_with_span(Some(one_line(&label.into())), shown(span)));
        self
    }

    /// Shows a place in another file too, under a line that says what is there.
    #[must_use]
    pub fn and_in(
        mut self,
        file: &Arc<SourceFile>,
        span: Span,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> Self {
        let mut other = Self::at(file, span, message, label);
        other.severity = Severity::Advice;
        self.related.push(other);
        self
    }

    /// Says what to do about it, after what was said before.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        let help = printable(&help.into());
        self.help = Some(match self.help.take() {
            Some(before) if before.lines().any(|line| line == help) => before,
            Some(before) => format!("{before}\n{help}"),
            None => help,
        });
        self
    }

    /// Names the rule that it breaks.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Makes a warning of it: shown, but nothing stops.
    #[must_use]
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    pub fn help_text(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The file that it is in, relative to the workspace root, if it is in one.
    pub fn file_path(&self) -> Option<&Utf8Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }

    /// `path:line` of the first label, if the problem has a place.
    pub fn place(&self) -> Option<String> {
        let (file, label) = (self.file.as_ref()?, self.labels.first()?);
        Some(file.at(Span::new(label.offset(), label.len())))
    }

    /// The 1-based line and column of the first label, if the problem has a place.
    pub fn line_column(&self) -> Option<(usize, usize)> {
        let offset = Span::new(self.labels.first()?.offset(), 0).offset;
        Some(self.file.as_ref()?.line_column(offset))
    }

    fn sort_key(&self) -> (Option<&Utf8Path>, usize, &str) {
        (self.file_path(), self.labels.first().map_or(0, LabeledSpan::offset), &self.message)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}
impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn severity(&self) -> Option<Severity> {
        Some(self.severity)
    }
    fn code<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.code.map(|code| Box::new(code) as Box<dyn std::fmt::Display>)
    }
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn std::fmt::Display>)
    }
    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        let file = self.file.as_ref()?;
        let shown = || NamedSource::new(one_line(file.path.as_str()), blanked(&file.text));
        Some(self.source.get_or_init(shown))
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        (!self.labels.is_empty()).then(|| Box::new(self.labels.iter().cloned()) as _)
    }
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        let related = || self.related.iter().map(|problem| problem as &dyn Diagnostic);
        (!self.related.is_empty()).then(|| Box::new(related()) as _)
    }
}

/// Whether `c` may not be shown as it is; lines and tabs may.
fn is_command(c: char) -> bool {
    text::is_command(c) && !matches!(c, '\n' | '\t')
}

/// `text` with what a terminal would obey written as `\u{1b}`: words of a file get into messages, and a file is not
/// trusted.
fn printable(text: &str) -> String {
    if !text.contains(is_command) {
        return text.to_owned();
    }
    text.chars().fold(String::new(), |mut out, c| {
        if is_command(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
        out
    })
}

/// The same for what is to stay on its line.
fn one_line(text: &str) -> String {
    printable(text).replace('\n', "\\n")
}

/// A file's text with `?` in place of each byte of what a terminal would obey, so that all spans stay right.
fn blanked(text: &str) -> String {
    if !text.contains(is_command) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let is_line_end = c == '\r' && rest.peek() == Some(&'\n');
        if is_command(c) && !is_line_end {
            out.extend(std::iter::repeat_n('?', c.len_utf8()));
        } else {
            out.push(c);
        }
    }
    out
}

/// All problems of all files of one run.
#[derive(Debug, Clone, Default)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Adds one.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// Adds all of `others`.
    pub fn extend(&mut self, others: impl IntoIterator<Item = Problem>) {
        self.0.extend(others);
    }

    /// Whether nothing at all was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them is an error, not only a warning.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// Ordered by file, place and message, whatever order they were found in; the same problem once.
    #[must_use]
    pub fn sorted(mut self) -> Vec<Problem> {
        self.0.sort_by(|a, b| a.sort_key().cmp(&b.sort_key()));
        self.0.dedup_by(|a, b| a.sort_key() == b.sort_key());
        self.0
    }
}

impl IntoIterator for Problems {
    type Item = Problem;
    type IntoIter = std::vec::IntoIter<Problem>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_would_obey_is_shown() {
        let text = "image \"a\u{1b}[2J\u{202e}b\u{9b}\"\n".to_owned();
        let file = Arc::new(SourceFile { path: "a\u{7}/image.kdl".into(), text });
        let problem = Problem::at(&file, Span::new(6, 12), "\u{1b}]0;x\u{7}", "\u{1b}[1m").help("\u{9b}");
        let mut shown = String::new();
        let handler = miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::unicode_nocolor());
        handler.render_report(&mut shown, &problem).unwrap();
        assert!(!shown.contains(is_command), "{shown:?}");
        assert!(shown.contains(r"\u{1b}]0;x"), "{shown}");
    }

    #[test]
    fn an_explanation_of_several_lines_stays_one_of_several_lines() {
        let file = Arc::new(SourceFile { path: "image.kdl".into(), text: "packages \"a\"\n".into() });
        let text = "a cannot be installed:\na * cannot be installed because\n└─ b * is not there\n";
        let problem = Problem::explained(&file, Span::new(9, 3), text, "asked for here").help("do that");
        assert_eq!(problem.message(), "a cannot be installed");
        let help = "a * cannot be installed because\n└─ b * is not there\ndo that";
        assert_eq!(problem.help_text(), Some(help));
        assert_eq!(problem.help("do that").help_text(), Some(help));
    }

    #[test]
    fn hidden_characters_do_not_move_the_places_after_them() {
        let text = "a\u{1b}\u{202e}\rb\r\n";
        assert_eq!(blanked(text), "a?????b\r\n");
        assert_eq!(blanked(text).find('b'), text.find('b'));
    }

    #[test]
    fn problems_are_ordered_by_file_and_place_and_told_once() {
        let file = |path: &str| Arc::new(SourceFile { path: path.into(), text: "one\ntwo\n".into() });
        let (a, b) = (file("a"), file("b"));
        let mut problems = Problems::default();
        for (file, offset) in [(&b, 0), (&a, 4), (&a, 0), (&b, 0)] {
            problems.push(Problem::at(file, Span::new(offset, 3), "wrong", "here"));
        }
        let places: Vec<_> = problems.sorted().iter().filter_map(Problem::place).collect();
        assert_eq!(places, ["a:1", "a:2", "b:1"]);
    }
}
