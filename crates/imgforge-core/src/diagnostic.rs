//! Problems in files, with the place, what was expected and what to do: collected, never only the first.

use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use miette::{Diagnostic, LabeledSpan, NamedSource, Severity, SourceSpan};
use serde::{Deserialize, Serialize};

/// A place in one file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Span {
    /// Where it starts, in bytes from the start of the file.
    pub offset: u32,
    /// Its length in bytes.
    pub len: u32,
}

impl Span {
    /// The span of `len` bytes at `offset`; files beyond 4 GiB are not read.
    pub fn new(offset: usize, len: usize) -> Self {
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { offset: clamp(offset), len: clamp(len) }
    }
}

impl From<Span> for SourceSpan {
    fn from(span: Span) -> Self {
        (span.offset as usize, span.len as usize).into()
    }
}

/// A value and the place in the manifest that it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it stands in its file.
    pub span: Span,
}

impl<T> Located<T> {
    /// `value`, found at `span`.
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

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

/// One problem: rendered by miette with the file's lines and the span underlined.
#[derive(Debug, Clone)]
pub struct Problem {
    message: String,
    help: Option<String>,
    severity: Severity,
    file: Option<Arc<SourceFile>>,
    labels: Vec<LabeledSpan>,
    source: Option<NamedSource<String>>,
}

impl Problem {
    /// A problem that has no place in a file.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
            severity: Severity::Error,
            file: None,
            labels: Vec::new(),
            source: None,
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
        problem.source = Some(NamedSource::new(file.path.as_str(), file.text.clone()));
        problem.file = Some(Arc::clone(file));
        problem.labels.push(LabeledSpan::new_primary_with_span(Some(label.into()), span));
        problem
    }

    /// Underlines a second place in the same file.
    #[must_use]
    pub fn and(mut self, span: Span, label: impl Into<String>) -> Self {
        self.labels.push(LabeledSpan::new_with_span(Some(label.into()), span));
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
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

    /// `path:line` of the first label, if the problem has a place.
    pub fn place(&self) -> Option<String> {
        let (file, label) = (self.file.as_ref()?, self.labels.first()?);
        Some(file.at(Span::new(label.offset(), label.len())))
    }

    fn sort_key(&self) -> (Option<&Utf8Path>, usize, &str) {
        (
            self.file.as_ref().map(|f| f.path.as_path()),
            self.labels.first().map_or(0, LabeledSpan::offset),
            &self.message,
        )
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
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn std::fmt::Display>)
    }
    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.source.as_ref().map(|source| source as &dyn miette::SourceCode)
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        (!self.labels.is_empty()).then(|| Box::new(self.labels.iter().cloned()) as _)
    }
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
