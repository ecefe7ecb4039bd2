//! A Dockerfile's lines as BuildKit's parser reads them (`frontend/dockerfile/parser`): keyword, flags, the rest, and
//! heredocs.
//!
//! Lines are joined by [`super::super::lex`]. The rest of a line stays as it is written, flags lose their quotes, and
//! heredocs keep their bytes.

use imgforge_oci::Reference;
use imgforge_oci::reference::DOCKER_HUB;
use imgforge_syntax::{Located, Span};

use super::shell::{self, Rules, Value};
use crate::ParseProblem;
use crate::lex::{Lines, Logical, join};

/// A heredoc with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heredoc {
    /// The word that ends it, without quotes.
    pub(super) name: String,
    /// Whether variables in it count: no part of the name is quoted.
    pub(super) expand: bool,
    /// Whether tabs at the beginning of lines do not count (`<<-`).
    pub(super) strip_tabs: bool,
    /// As it is in the file.
    pub(super) content: String,
}

impl Heredoc {
    /// Passes over the lines of the content and the one that ends it, and gives each to `each`: where the content ends,
    /// and where that line does. `None` when there is none.
    fn pass(&self, lines: &mut Lines<'_>, mut each: impl FnMut(&str)) -> Option<(usize, usize)> {
        for (_, at, line) in lines.by_ref() {
            each(line);
            let bare = if self.strip_tabs { line.trim_start_matches('\t') } else { line };
            if bare == self.name {
                return Some((at, at + line.len()));
            }
        }
        None
    }

    /// The content without the tabs that do not count.
    pub(super) fn stripped(&self) -> String {
        if !self.strip_tabs {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// A flag of an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flag {
    /// Without quotes, `--` included.
    word: Logical,
    /// As it is written.
    pub(crate) written: String,
    /// With its quotes.
    pub(crate) span: Span,
}

impl Flag {
    pub(crate) fn text(&self) -> &str {
        self.word.text()
    }

    /// Where a part of its text stands in the file.
    pub(super) fn part(&self, from: usize, to: usize) -> Span {
        if from == to { self.span } else { self.word.span(from, to) }
    }

    /// Where the end of what is written stands; the whole flag when it stands on several lines.
    pub(crate) fn tail(&self, len: usize) -> Span {
        let whole = self.span.len as usize;
        if whole == self.written.len() {
            Span::new(self.span.offset as usize + whole - len, len)
        } else {
            self.span
        }
    }
}

/// One instruction as it stands in the file, comments left out and continuations joined; not yet understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// In capitals.
    pub(super) keyword: Located<String>,
    pub(super) flags: Vec<Flag>,
    /// What comes after the flags.
    pub(super) rest: String,
    /// The whole line, continuations joined.
    pub(super) joined: String,
    /// The same with the lines of its heredocs.
    text: String,
    /// From 1.
    pub(super) line: usize,
    /// The whole instruction, heredocs included.
    pub(super) span: Span,
    pub(super) heredocs: Vec<Heredoc>,
    /// What ONBUILD holds.
    pub(super) inner: Option<Box<Raw>>,
    logical: Logical,
    /// Where `rest` begins in it.
    from: usize,
}

impl Raw {
    /// Returns its keyword in capitals: `COPY`.
    pub fn keyword(&self) -> &str {
        &self.keyword.value
    }

    /// Returns the whole instruction with continuations joined, heredocs included.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns where it stands, heredocs included.
    pub fn span(&self) -> Span {
        self.span
    }

    /// Returns where its keyword stands.
    pub fn keyword_span(&self) -> Span {
        self.keyword.span
    }

    /// Returns the 1-based line that it starts on.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The name that a FROM gives its stage.
    pub(crate) fn stage_name(&self) -> Option<&str> {
        let mut words = self.rest.split(is_blank).filter(|word| !word.is_empty());
        words.nth(1).filter(|word| word.eq_ignore_ascii_case("as"))?;
        words.next()
    }

    /// Whether nothing follows its keyword.
    pub(crate) fn is_bare(&self) -> bool {
        self.rest.is_empty() && self.flags.is_empty()
    }

    /// Where a part of `rest` stands in the file.
    pub(super) fn span_of(&self, from: usize, to: usize) -> Span {
        self.logical.span(self.from + from, self.from + to)
    }

    /// `rest` and its place.
    pub(super) fn all(&self) -> Located<String> {
        Located::new(self.rest.clone(), self.span_of(0, self.rest.len()))
    }

    /// The words of `rest` as COPY and ADD take them: `<< EOF` is one.
    pub(super) fn operands(&self) -> Vec<Located<String>> {
        let mut operands: Vec<Located<String>> = Vec::new();
        for word in self.words() {
            match operands.last_mut() {
                Some(mark) if is_open_mark(&mark.value) => {
                    mark.value.push_str(&word.value);
                    mark.span.len = word.span.offset + word.span.len - mark.span.offset;
                }
                _ => operands.push(word),
            }
        }
        operands
    }

    /// The strings of a JSON list with their places, as far as they stand in it as they are.
    pub(super) fn placed(&self, list: Vec<String>) -> Vec<Located<String>> {
        let mut from = 0;
        let placed = list.into_iter().map(|text| {
            let found = self.rest[from..].find(&text).filter(|_| !text.is_empty());
            let Some(at) = found.map(|at| from + at) else { return Located::new(text, self.span) };
            from = at + text.len();
            let span = self.span_of(at, from);
            Located::new(text, span)
        });
        placed.collect()
    }

    /// The words of `rest`, parted by white space alone.
    pub(crate) fn words(&self) -> Vec<Located<String>> {
        let mut words = Vec::new();
        let mut at = 0;
        for piece in self.rest.split_inclusive(is_blank) {
            let word = piece.trim_end_matches(is_blank);
            if !word.is_empty() {
                words.push(Located::new(word.to_owned(), self.span_of(at, at + word.len())));
            }
            at += piece.len();
        }
        words
    }

    /// The words of `rest`; white space in quotes does not part them, and quotes stay.
    pub(crate) fn quoted_words(&self, escape: char) -> Vec<Located<String>> {
        let mut words = Vec::new();
        let mut word = String::new();
        let (mut start, mut end) = (None, 0);
        let mut quote = None;
        let mut chars = self.rest.char_indices().peekable();
        let mut finish = |word: &mut String, start: &mut Option<usize>, end: usize| {
            if let Some(start) = start.take().filter(|_| !word.is_empty()) {
                words.push(Located::new(std::mem::take(word), self.span_of(start, end)));
            }
        };
        while let Some((at, c)) = chars.next() {
            if quote.is_none() && c.is_whitespace() {
                finish(&mut word, &mut start, end);
                continue;
            }
            start.get_or_insert(at);
            end = at + c.len_utf8();
            if c == escape && quote != Some('\'') {
                // At the end of the line it escapes nothing and is not there.
                let Some((at, escaped)) = chars.next() else { break };
                word.extend([c, escaped]);
                end = at + escaped.len_utf8();
                continue;
            }
            match quote {
                None if matches!(c, '"' | '\'') => quote = Some(c),
                Some(open) if c == open => quote = None,
                _ => {}
            }
            word.push(c);
        }
        finish(&mut word, &mut start, end);
        words
    }
}

/// White space between words.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\u{b}' | '\u{c}')
}

/// What is read, and the escape character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) instructions: Vec<Raw>,
    pub(crate) escape: char,
    /// What is wrong; its instruction is missing.
    pub(crate) problems: Vec<ParseProblem>,
    /// What is wrong with the directives, or is not known here: a frontend of its own may know it.
    pub(crate) of_directives: Vec<ParseProblem>,
}

/// Reads a file.
pub(crate) fn read(text: &str) -> Read {
    let at = if text.starts_with('\u{feff}') { 3 } else { 0 };
    let (mut problems, mut of_directives) = (Vec::new(), Vec::new());
    let escape = directives(text, at, &mut of_directives);
    let instructions = instructions(text, at, escape, &mut problems);
    Read { instructions, escape, problems, of_directives }
}

/// Reads what an image left by ONBUILD: there are no directives in it.
pub(super) fn read_trigger(text: &str, problems: &mut Vec<ParseProblem>) -> Vec<Raw> {
    instructions(text, 0, '\\', problems)
}

fn instructions(text: &str, at: usize, escape: char, problems: &mut Vec<ParseProblem>) -> Vec<Raw> {
    let mut lines = Lines { text, at, number: 0 };
    let mut instructions = Vec::new();
    while let Some((number, start, line)) = lines.next() {
        if line.trim_start().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let logical = join(&mut lines, start, line, escape);
        let end = logical.text().trim_end().len();
        if end == 0 {
            continue;
        }
        let mut raw = split(logical, 0, number, escape);
        match heredocs(&raw, &mut lines) {
            Ok(Heredocs { found, lines, end }) => raw.take_heredocs(&found, &lines, end),
            Err((message, help)) => {
                problems.push(ParseProblem { span: raw.keyword.span, message, help });
                continue;
            }
        }
        instructions.push(raw);
    }
    instructions
}

impl Raw {
    fn take_heredocs(&mut self, found: &[Heredoc], lines: &str, end: usize) {
        if !found.is_empty() {
            let start = self.span.offset as usize;
            self.span = Span::new(start, end.saturating_sub(start));
        }
        self.heredocs = found.to_vec();
        self.text.push_str(lines);
        if let Some(inner) = &mut self.inner {
            inner.take_heredocs(found, lines, end);
        }
    }
}

/// The keyword, flags and rest of a line, from a place in it.
fn split(logical: Logical, from: usize, line: usize, escape: char) -> Raw {
    let text = logical.text();
    let end = text.trim_end().len();
    let start = from + (text[from..].len() - text[from..].trim_start().len());
    let len = text[start..end].find(is_blank).unwrap_or(end - start);
    let span = logical.span(start, start + len);
    let keyword = Located::new(text[start..start + len].to_ascii_uppercase(), span);
    let (flags, rest_at) = flags(&logical, start + len, end, escape);
    let rest = text[rest_at..end].to_owned();
    let inner = (keyword.value == "ONBUILD" && !rest.is_empty())
        .then(|| Box::new(split(logical.clone(), rest_at, line, escape)));
    let (span, text) = (logical.span(start, end), text[start..end].to_owned());
    let joined = text.clone();
    Raw {
        keyword,
        flags,
        rest,
        joined,
        text,
        line,
        span,
        heredocs: Vec::new(),
        inner,
        logical,
        from: rest_at,
    }
}

/// The flags at the beginning of a line's rest, without their quotes and escapes, and where the rest begins.
fn flags(logical: &Logical, from: usize, to: usize, escape: char) -> (Vec<Flag>, usize) {
    let text = &logical.text()[..to];
    let skip = |at: usize| at + (text[at..].len() - text[at..].trim_start().len());
    let mut found = Vec::new();
    let mut at = skip(from);
    while text[at..].starts_with("--") {
        let mut word = Logical::default();
        let mut quote = None;
        let mut end = at;
        let mut chars = text[at..].chars();
        while let Some(c) = chars.next() {
            if quote.is_none() && c.is_whitespace() {
                break;
            }
            let place = end;
            end += c.len_utf8();
            match quote {
                Some(open) if c == open => quote = None,
                None if matches!(c, '"' | '\'') => quote = Some(c),
                _ if c == escape => {
                    let Some(escaped) = chars.next() else { break };
                    word.take(logical, end, escaped);
                    end += escaped.len_utf8();
                }
                _ => word.take(logical, place, c),
            }
        }
        // `--` alone says that no flag follows.
        if word.text() == "--" {
            return (found, skip(end));
        }
        found.push(Flag { word, written: text[at..end].to_owned(), span: logical.span(at, end) });
        at = skip(end);
    }
    (found, at)
}

/// The heredocs of a line.
#[derive(Default)]
struct Heredocs {
    found: Vec<Heredoc>,
    /// Each line of them, with a line end before it.
    lines: String,
    /// Where the last of them ends.
    end: usize,
}

/// The heredocs that a line announces, read from the lines after it.
///
/// # Errors
/// What is wrong, and what to do.
fn heredocs(raw: &Raw, lines: &mut Lines<'_>) -> Result<Heredocs, (String, Option<String>)> {
    let instruction = raw.inner.as_deref().unwrap_or(raw);
    let may_have = matches!(instruction.keyword.value.as_str(), "RUN" | "COPY" | "ADD");
    if !may_have || !raw.joined.contains("<<") || json(&instruction.rest).is_ok_and(|list| list.is_some()) {
        return Ok(Heredocs::default());
    }
    let mut read =
        Heredocs { found: announced(&raw.joined).map_err(|wrong| (wrong, None))?, ..Heredocs::default() };
    for heredoc in &mut read.found {
        let start = lines.at;
        let (end, after) = heredoc.pass(lines, |line| read.lines.extend(["\n", line])).ok_or_else(|| {
            let help = format!("it ends with a line that says just {}", heredoc.name);
            (format!("the heredoc \"{}\" has no end", heredoc.name), Some(help))
        })?;
        heredoc.content.push_str(&lines.text[start..end]);
        read.end = after;
    }
    Ok(read)
}

/// The heredocs that a line announces, without their content. Not for a line whose rest is a JSON list.
///
/// # Errors
/// A mark without a name that can be read.
fn announced(line: &str) -> Result<Vec<Heredoc>, String> {
    let rules = Rules { keep_quotes: true, keep_escapes: true, keep_unset: true, ..Rules::new('\\') };
    // A line with an open quote has no heredocs.
    let words = shell::words(line, rules, &|_| Value::Unset).unwrap_or_default();
    words.iter().filter_map(|word| heredoc(word).transpose()).collect()
}

/// Whether a word is the beginning of a heredoc's mark, with white space between it and the name: `<< EOF`.
fn is_open_mark(word: &str) -> bool {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
    rest == "<<"
}

/// `<<NAME`, `<<-NAME`, `3<<"NAME"`; `<<<` is none.
pub(super) fn heredoc(word: &str) -> Result<Option<Heredoc>, String> {
    let Some(rest) = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<") else {
        return Ok(None);
    };
    let (rest, strip_tabs) = rest.strip_prefix('-').map_or((rest, false), |rest| (rest, true));
    let rest = rest.trim_start_matches(|c: char| is_blank(c) || c == '\n');
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let rules = Rules { keep_unset: true, ..Rules::new('\\') };
    let read = |rules: Rules| {
        shell::words(rest, rules, &|_| Value::Unset).map_err(|_| format!("{word} is no name of a heredoc"))
    };
    let (names, quoted) = (read(rules)?, read(Rules { keep_quotes: true, ..rules })?);
    let ([name], [quoted]) = (names.as_slice(), quoted.as_slice()) else { return Ok(None) };
    let quotes = |text: &str| text.matches(['"', '\'']).count();
    let expand = quotes(name) == quotes(quoted);
    Ok(Some(Heredoc { name: name.clone(), expand, strip_tabs, content: String::new() }))
}

/// The strings of a JSON list; `None` when the text is no JSON list.
///
/// # Errors
/// A list that holds something else than strings.
pub(super) fn json(text: &str) -> Result<Option<Vec<String>>, String> {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Ok(list) = serde_json::from_str::<Vec<serde_json::Value>>(text) else { return Ok(None) };
    let string = |value| match value {
        serde_json::Value::String(text) => Ok(text),
        other => Err(format!("a JSON list holds strings only, and {other} is none")),
    };
    list.into_iter().map(string).collect::<Result<_, _>>().map(Some)
}

/// Reads `# escape=`, `# syntax=` and `# check=` at the top.
fn directives(text: &str, at: usize, problems: &mut Vec<ParseProblem>) -> char {
    let mut escape = '\\';
    let mut seen = Vec::new();
    for (_, start, line) in (Lines { text, at, number: 0 }) {
        let Some((key, value)) = directive(line) else { break };
        let key = key.to_ascii_lowercase();
        let mut problem = |message: String, help: &str| {
            let span = Span::new(start, line.len());
            problems.push(ParseProblem { span, message, help: Some(help.to_owned()) });
        };
        if seen.contains(&key) {
            problem(format!("there are two directives {key}"), "one is enough");
        }
        match (key.as_str(), value) {
            // What BuildKit's linter looks at says nothing to an engine.
            ("escape", "\\") | ("check", _) => {}
            ("escape", "`") => escape = '`',
            ("escape", _) => problem(format!("{value} cannot escape"), "`escape` takes \\ or `"),
            ("syntax", _) if is_our_syntax(value) => {}
            ("syntax", _) => problem(
                format!("{value} is a syntax of its own, which is not known here"),
                "this engine reads docker/dockerfile",
            ),
            _ => break,
        }
        seen.push(key);
    }
    escape
}

/// Where the directives at the top end.
pub(crate) fn directives_end(text: &str) -> usize {
    let at = if text.starts_with('\u{feff}') { 3 } else { 0 };
    let is_known = |line: &str| {
        directive(line)
            .is_some_and(|(key, _)| ["escape", "syntax", "check"].contains(&&*key.to_ascii_lowercase()))
    };
    let ends = Lines { text, at, number: 0 }.take_while(|(_, _, line)| is_known(line));
    ends.last().map_or(at, |(_, start, _)| {
        start + text[start..].find('\n').map_or(text.len() - start, |end| end + 1)
    })
}

/// `# key = value`.
fn directive(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.trim_start().strip_prefix('#')?.trim_start().split_once('=')?;
    let (key, value) = (key.trim_end(), value.trim());
    let is_key = key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_key && !value.is_empty()).then_some((key, value))
}

/// Whether `# syntax=` names BuildKit's own frontend, in whatever version.
fn is_our_syntax(value: &str) -> bool {
    let image = value.split(' ').next().unwrap_or_default();
    image.parse::<Reference>().is_ok_and(|image| {
        image.host == DOCKER_HUB
            && ["docker/dockerfile", "docker/dockerfile-upstream"].contains(&image.repository.as_str())
    })
}
