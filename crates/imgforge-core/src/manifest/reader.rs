//! Takes KDL nodes apart: arguments, properties and children, each with its place; what is left over is a problem.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use imgforge_syntax::{Located, Span, nearest};
use kdl::{KdlDocument, KdlEntry, KdlNode, KdlValue};

use super::{Millis, strings};
use crate::diagnostic::{Problem, Problems, SourceFile};
use crate::kdl_text;

/// Reads one file and collects all its problems.
pub(super) struct Reader<'a> {
    pub(super) file: &'a Arc<SourceFile>,
    problems: RefCell<Problems>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a Arc<SourceFile>) -> Self {
        Self { file, problems: RefCell::default() }
    }

    pub(super) fn into_problems(self) -> Problems {
        self.problems.into_inner()
    }

    pub(super) fn push(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    pub(super) fn problem(&self, span: Span, message: impl Into<String>, label: impl Into<String>) {
        self.push(Problem::at(self.file, span, message, label));
    }

    /// The file as a document; the KDL parser's own problems become ours.
    pub(super) fn document(&self) -> Option<KdlDocument> {
        if self.file.text.len() > MAX_MANIFEST {
            let message = format!("a manifest has at most {} MiB", MAX_MANIFEST >> 20);
            self.problem(Span::new(MAX_MANIFEST, 1), message, "here it goes on");
            return None;
        }
        match kdl_text::parse(&self.file.text) {
            Ok(document) => Some(document),
            Err(error) => {
                self.parser_problems(error);
                None
            }
        }
    }

    /// What the KDL parser finds wrong. Where a string of several lines is, that is told in its place, and what else is
    /// wrong is looked for without it.
    fn parser_problems(&self, error: kdl::KdlError) {
        let broken = strings::broken(&self.file.text);
        for string in &broken {
            let problem = Problem::at(self.file, string.span, string.message, string.label);
            self.push(problem.help(string.help.clone()));
        }
        let diagnostics = match broken.as_slice() {
            [] => error.diagnostics,
            // Nothing is known of what comes after one without an end.
            [.., last] if last.is_open => Vec::new(),
            broken => {
                let others = KdlDocument::parse_v2(&strings::without(&self.file.text, broken)).err();
                others.map(|error| error.diagnostics).unwrap_or_default()
            }
        };
        for found in diagnostics {
            let span = Span::new(found.span.offset(), found.span.len());
            let message = found.message.unwrap_or_else(|| "this is not KDL".into());
            let label = found.label.unwrap_or_else(|| "here".into());
            let problem = Problem::at(self.file, span, message, label);
            let help = found.help.or_else(|| version_1_help(self.file, span));
            self.push(help.into_iter().fold(problem, Problem::help));
        }
    }

    /// Wraps a node for taking apart.
    pub(super) fn node<'k>(&self, kdl: &'k KdlNode) -> Node<'_, 'a, 'k> {
        Node { reader: self, kdl, next: 0, known: Vec::new(), children_taken: false }
    }

    /// A word that is none of those known here.
    pub(super) fn unknown(&self, span: Span, what: &str, word: &str, known: &[&str]) {
        let problem =
            Problem::at(self.file, span, format!("there is no {what} \"{word}\" here"), "not known");
        self.push(match nearest(word, known.iter().copied()) {
            Some(near) => problem.help(format!("did you mean \"{near}\"?")),
            None => problem.help(format!("known here: {}", known.join(", "))),
        });
    }
}

/// The longest manifest, in bytes. One of 10,000 nodes, each with five values, has half as many.
const MAX_MANIFEST: usize = 1 << 20;

/// `true`, `false` and `null` stood bare in KDL 1.
fn version_1_help(file: &SourceFile, span: Span) -> Option<String> {
    let range = span.offset as usize..(span.offset + span.len) as usize;
    let word = file.text.get(range)?.trim();
    matches!(word, "true" | "false" | "null").then(|| format!("in KDL 2 it is written #{word}"))
}

/// Which nodes have been seen, to refuse a second one.
#[derive(Default)]
pub(super) struct Once<'k>(BTreeMap<&'k str, Span>);

impl<'k> Once<'k> {
    /// Whether this is the first of its name; a second one is a problem that shows both.
    pub(super) fn first(&mut self, node: &Node<'_, '_, 'k>) -> bool {
        let name = node.name();
        match self.0.get(name) {
            None => {
                self.0.insert(name, node.span());
                true
            }
            Some(before) => {
                let message = format!("\"{name}\" is given twice");
                let problem = Problem::at(node.reader.file, node.span(), message, "again here");
                node.reader.push(problem.and(*before, "first here"));
                false
            }
        }
    }
}

/// A node whose parts are taken one after another.
pub(super) struct Node<'r, 'a, 'k> {
    pub(super) reader: &'r Reader<'a>,
    kdl: &'k KdlNode,
    next: usize,
    known: Vec<&'static str>,
    children_taken: bool,
}

fn span_of(span: miette::SourceSpan) -> Span {
    Span::new(span.offset(), span.len())
}

impl<'k> Node<'_, '_, 'k> {
    pub(super) fn name(&self) -> &'k str {
        self.kdl.name().value()
    }

    pub(super) fn name_span(&self) -> Span {
        span_of(self.kdl.name().span())
    }

    /// From the name to the last argument or property, without children.
    pub(super) fn span(&self) -> Span {
        let start = self.name_span();
        let end = self.kdl.entries().iter().map(|e| e.span().offset() + e.span().len()).max();
        let end = end.unwrap_or(0).max((start.offset + start.len) as usize);
        let from = start.offset as usize;
        let text = self.reader.file.text.get(from..end).unwrap_or("");
        Span::new(from, text.trim_end().len())
    }

    pub(super) fn problem(&self, span: Span, message: impl Into<String>, label: impl Into<String>) {
        self.reader.problem(span, message, label);
    }

    fn next_argument(&mut self) -> Option<&'k KdlEntry> {
        let entry = self.kdl.entries().iter().filter(|entry| entry.name().is_none()).nth(self.next)?;
        self.next += 1;
        Some(entry)
    }

    /// Whether there is one more argument.
    pub(super) fn has_argument(&self) -> bool {
        self.kdl.entries().iter().filter(|entry| entry.name().is_none()).nth(self.next).is_some()
    }

    fn text(&self, entry: &KdlEntry, what: &str) -> Option<Located<String>> {
        let text = self.maybe_empty(entry, what)?;
        if text.value.is_empty() {
            self.problem(text.span, format!("{what} is empty"), "a text is expected");
            return None;
        }
        Some(text)
    }

    fn maybe_empty(&self, entry: &KdlEntry, what: &str) -> Option<Located<String>> {
        let span = self.value_span(entry);
        match entry.value() {
            KdlValue::String(text) if text.contains('\0') => {
                self.problem(span, format!("{what} holds a NUL character"), "not possible here");
                None
            }
            KdlValue::String(text) => Some(Located::new(text.clone(), span)),
            other => {
                let help = format!("write it in quotes: \"{other}\"");
                let problem =
                    Problem::at(self.reader.file, span, format!("{what} must be a text"), "not a text");
                self.reader.push(problem.help(help));
                None
            }
        }
    }

    /// The value's own place: for a property, without its name.
    fn value_span(&self, entry: &KdlEntry) -> Span {
        let span = span_of(entry.span());
        let end = (span.offset + span.len) as usize;
        let name = entry.name().map(|name| span_of(name.span()));
        let from = name.map_or(span.offset, |name| name.offset + name.len) as usize;
        let text = self.reader.file.text.get(from..end).unwrap_or("");
        let value = text.trim_start();
        let value =
            if name.is_some() { value.strip_prefix('=').unwrap_or(value).trim_start() } else { value };
        Span::new(from + (text.len() - value.len()), value.trim_end().len())
    }

    /// The next argument, which must be there.
    pub(super) fn string(&mut self, what: &str) -> Option<Located<String>> {
        match self.next_argument() {
            Some(entry) => self.text(entry, what),
            None => {
                let message = format!("\"{}\" lacks {what}", self.name());
                self.problem(self.span(), message, format!("{what} is expected"));
                None
            }
        }
    }

    /// The one argument that is left: a value, which may be empty and has one line, since it gets into a Dockerfile or
    /// a file of one line.
    pub(super) fn value(&mut self) -> Option<Located<String>> {
        let entry = self.next_argument()?;
        let value = self.maybe_empty(entry, "the value")?;
        if value.value.contains(['\n', '\r']) {
            self.problem(value.span, "the value has more than one line", "one line is expected");
            return None;
        }
        while let Some(extra) = self.next_argument() {
            let message = format!("\"{}\" takes a name and one value", self.name());
            self.problem(self.value_span(extra), message, "one too many");
        }
        Some(value)
    }

    /// All arguments from here on; at least `least`.
    pub(super) fn strings(&mut self, what: &str, least: usize) -> Vec<Located<String>> {
        let mut found = Vec::new();
        let mut count = 0;
        while let Some(entry) = self.next_argument() {
            count += 1;
            found.extend(self.text(entry, what));
        }
        if count < least {
            let message = format!("\"{}\" lacks {what}", self.name());
            self.problem(self.span(), message, format!("{what} is expected"));
        }
        found
    }

    /// All arguments from here on, as the words of a command: the first is a program, the others may be empty.
    pub(super) fn words(&mut self, what: &str, least: usize) -> Vec<String> {
        let mut words = Vec::new();
        if self.has_argument() || least > 0 {
            words.extend(self.string(what).map(|word| word.value));
        }
        while let Some(entry) = self.next_argument() {
            words.extend(self.maybe_empty(entry, "an argument").map(|word| word.value));
        }
        words
    }

    /// The next argument as `#true` or `#false`.
    pub(super) fn bool(&mut self) -> Option<Located<bool>> {
        let entry = self.next_argument();
        if let Some(KdlValue::Bool(value)) = entry.map(KdlEntry::value) {
            return Some(Located::new(*value, self.span()));
        }
        let message = format!("\"{}\" takes #true or #false", self.name());
        self.problem(self.span(), message, "#true or #false is expected");
        None
    }

    /// The next argument, a text or a whole number, as text: ports.
    pub(super) fn text_or_number(&mut self, what: &str) -> Vec<Located<String>> {
        let mut found = Vec::new();
        while let Some(entry) = self.next_argument() {
            match entry.value() {
                KdlValue::Integer(number) => {
                    found.push(Located::new(number.to_string(), self.value_span(entry)));
                }
                _ => found.extend(self.text(entry, what)),
            }
        }
        if self.next == 0 {
            self.problem(
                self.span(),
                format!("\"{}\" lacks {what}", self.name()),
                format!("{what} is expected"),
            );
        }
        found
    }

    fn property(&mut self, name: &'static str) -> Option<&'k KdlEntry> {
        self.known.push(name);
        self.kdl.entries().iter().rev().find(|entry| entry.name().is_some_and(|key| key.value() == name))
    }

    /// Whether a property is there, whatever its value.
    pub(super) fn has_property(&self, name: &str) -> bool {
        self.kdl.entry(name).is_some()
    }

    /// A property that is a text.
    pub(super) fn text_property(&mut self, name: &'static str) -> Option<Located<String>> {
        let entry = self.property(name)?;
        self.text(entry, name)
    }

    /// A property that is a text, which may be empty.
    pub(super) fn maybe_empty_property(&mut self, name: &'static str) -> Option<Located<String>> {
        let entry = self.property(name)?;
        self.maybe_empty(entry, name)
    }

    /// A property that is a text or a whole number, as text.
    pub(super) fn text_or_number_property(&mut self, name: &'static str) -> Option<Located<String>> {
        let entry = self.property(name)?;
        match entry.value() {
            KdlValue::Integer(number) => Some(Located::new(number.to_string(), self.value_span(entry))),
            _ => self.text(entry, name),
        }
    }

    /// A property that is `#true` or `#false`.
    pub(super) fn flag_property(&mut self, name: &'static str) -> Option<Located<bool>> {
        let entry = self.property(name)?;
        let span = self.value_span(entry);
        if let KdlValue::Bool(value) = entry.value() {
            return Some(Located::new(*value, span));
        }
        let message = format!("{name} is #true or #false");
        self.problem(span, message, "#true or #false is expected");
        None
    }

    /// A property that is a text, or `#false` for none.
    pub(super) fn text_or_false_property(&mut self, name: &'static str) -> Option<Located<Option<String>>> {
        let entry = self.property(name)?;
        if let KdlValue::Bool(false) = entry.value() {
            return Some(Located::new(None, self.value_span(entry)));
        }
        self.text(entry, name).map(|text| Located::new(Some(text.value), text.span))
    }

    /// Whether there is any property at all.
    pub(super) fn has_any_property(&self) -> bool {
        self.kdl.entries().iter().any(|entry| entry.name().is_some())
    }

    /// A property that is a whole number of at most 32 bits.
    pub(super) fn number_property(&mut self, name: &'static str) -> Option<Located<u32>> {
        let entry = self.property(name)?;
        let span = self.value_span(entry);
        let number = entry.value().as_integer().and_then(|number| u32::try_from(number).ok());
        if number.is_none() {
            let message = format!("{name} must be a whole number from 0 to {}", u32::MAX);
            let problem = Problem::at(self.reader.file, span, message, "not such a number");
            let bare = entry.value().as_string().and_then(|text| text.parse::<u32>().ok());
            let help = bare.map(|number| format!("write it without quotes: {name}={number}"));
            self.reader.push(help.into_iter().fold(problem, Problem::help));
        }
        Some(Located::new(number?, span))
    }

    /// A property that is a time.
    pub(super) fn time_property(&mut self, name: &'static str) -> Option<Millis> {
        let entry = self.property(name)?;
        let time = entry.value().as_string().and_then(parse_time);
        if time.is_none() {
            let message = format!("{name} is not a time");
            let problem = Problem::at(self.reader.file, self.value_span(entry), message, "not a time");
            self.reader.push(problem.help("a number and a unit: \"250ms\", \"10s\", \"2m\" or \"1h\""));
        }
        time
    }

    /// The nodes inside the braces.
    pub(super) fn children(&mut self) -> &'k [KdlNode] {
        self.children_taken = true;
        self.kdl.children().map_or(&[], KdlDocument::nodes)
    }

    /// Reports every argument, property and child that nobody asked for.
    pub(super) fn done(mut self) {
        while let Some(entry) = self.next_argument() {
            let message = format!("\"{}\" takes no further value", self.name());
            self.problem(self.value_span(entry), message, "one too many");
        }
        for entry in self.kdl.entries() {
            let Some(key) = entry.name() else { continue };
            if !self.known.contains(&key.value()) {
                let span = span_of(key.span());
                if self.known.is_empty() {
                    let message = format!("\"{}\" takes no properties", self.name());
                    self.problem(span, message, "not known");
                } else {
                    self.reader.unknown(span, "property", key.value(), &self.known);
                }
            }
        }
        if !self.children_taken && self.kdl.children().is_some_and(|children| !children.nodes().is_empty()) {
            self.problem(
                self.span(),
                format!("\"{}\" takes no block", self.name()),
                "nothing in braces is expected",
            );
        }
    }
}

/// `250ms`, `10s`, `2m`, `1h`.
pub(super) fn parse_time(text: &str) -> Option<Millis> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(unit).map(Millis)
}
