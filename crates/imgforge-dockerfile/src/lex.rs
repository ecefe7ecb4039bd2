//! Lines to instructions: the escape directive, continuation lines, comments inside them, heredocs, JSON words.

use imgforge_syntax::Span;
use serde::{Deserialize, Serialize};

use super::ParseProblem;
use super::program::read;

/// A word of an instruction and where each of its bytes stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Word {
    text: String,
    start: u32,
    end: u32,
}

impl Word {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn span(&self) -> Span {
        Span { offset: self.start, len: self.end - self.start }
    }

    /// The last `len` bytes.
    pub(super) fn tail(&self, len: usize) -> Span {
        self.part(self.text.len().saturating_sub(len), len)
    }

    /// `len` bytes from `from`; the whole word when it is written with quotes or over several lines.
    pub(super) fn part(&self, from: usize, len: usize) -> Span {
        if (self.end - self.start) as usize != self.text.len() {
            return self.span();
        }
        Span::new(self.start as usize + from, len)
    }
}

/// One instruction, without comments, continuations joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instruction {
    keyword: String,
    keyword_span: Span,
    /// Of ONBUILD: the keyword of what it holds.
    inner: Option<String>,
    text: String,
    span: Span,
    line: usize,
    escape: char,
    flags: Vec<Word>,
    words: Vec<Word>,
    /// The words of a JSON list, when the rest is one.
    json: Option<Vec<Word>>,
}

impl Instruction {
    /// In capitals: `COPY`.
    pub fn keyword(&self) -> &str {
        &self.keyword
    }

    /// The keyword, or for ONBUILD that of what it holds.
    pub(super) fn effective_keyword(&self) -> &str {
        self.inner.as_deref().unwrap_or(&self.keyword)
    }

    /// The whole instruction with continuations joined, heredocs included.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where it stands, heredocs included.
    pub fn span(&self) -> Span {
        self.span
    }

    /// Where its keyword stands.
    pub fn keyword_span(&self) -> Span {
        self.keyword_span
    }

    /// The 1-based line that it starts on.
    pub fn line(&self) -> usize {
        self.line
    }

    pub(super) fn escape(&self) -> char {
        self.escape
    }

    pub(super) fn flags(&self) -> &[Word] {
        &self.flags
    }

    pub(super) fn words(&self) -> &[Word] {
        &self.words
    }

    /// The words of the JSON list, when it is one.
    pub(super) fn json(&self) -> Option<&[Word]> {
        self.json.as_deref()
    }

    /// The names and values of an ENV, not expanded.
    pub(super) fn env_pairs(&self) -> Vec<(String, String)> {
        match self.words.first() {
            Some(first) if !first.text().contains('=') => {
                // `ENV NAME the rest`
                let rest = self.words[1..].iter().map(Word::text).collect::<Vec<_>>().join(" ");
                vec![(first.text().to_owned(), rest)]
            }
            _ => self
                .words
                .iter()
                .filter_map(|word| word.text().split_once('='))
                .map(|(n, v)| (n.into(), v.into()))
                .collect(),
        }
    }

    /// The operands of COPY and ADD: the JSON list or the words.
    pub(super) fn operands(&self) -> &[Word] {
        self.json.as_deref().unwrap_or(&self.words)
    }
}

/// A logical line: its text, and for each byte of it the place in the file.
#[derive(Clone, Default)]
pub(super) struct Logical {
    text: String,
    map: Vec<u32>,
}

impl Logical {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Where a part of it stands in the file.
    pub(super) fn span(&self, from: usize, to: usize) -> Span {
        self.word(String::new(), from, to).span()
    }

    fn push(&mut self, text: &str, offset: usize) {
        self.text.push_str(text);
        self.map.extend((0..text.len()).map(|n| u32::try_from(offset + n).unwrap_or(u32::MAX)));
    }

    fn word(&self, text: String, from: usize, to: usize) -> Word {
        let start = self.map.get(from).copied().unwrap_or(0);
        let end = if to > from { self.map[to - 1] + 1 } else { start };
        Word { text, start, end }
    }
}

/// A line of the file with the offset of its first byte; without its line end.
pub(super) struct Lines<'a> {
    pub(super) text: &'a str,
    pub(super) at: usize,
    pub(super) number: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = (usize, usize, &'a str);
    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.text.get(self.at..).filter(|rest| !rest.is_empty())?;
        let start = self.at;
        let len = rest.find('\n').map_or(rest.len(), |end| end + 1);
        self.at += len;
        self.number += 1;
        Some((self.number, start, rest[..len].trim_end_matches('\n').trim_end_matches('\r')))
    }
}

pub(super) fn lex(text: &str) -> (Vec<Instruction>, Vec<ParseProblem>) {
    let mut lines = Lines { text, at: if text.starts_with('\u{feff}') { 3 } else { 0 }, number: 0 };
    let escape = directives(&text[lines.at..]).unwrap_or('\\');
    let (mut instructions, mut problems) = (Vec::new(), Vec::new());
    while let Some((number, start, line)) = lines.next() {
        let trimmed = line.trim_start();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let logical = join(&mut lines, start, line, escape);
        if let Some(instruction) = instruction(&mut lines, logical, number, escape, &mut problems) {
            instructions.push(instruction);
        }
    }
    (instructions, problems)
}

/// The `# escape=` directive among the directives at the top.
fn directives(text: &str) -> Option<char> {
    for line in text.lines() {
        let (key, value) = directive(line)?;
        if key == "escape" {
            return value.trim().chars().next().filter(|c| matches!(c, '\\' | '`'));
        }
    }
    None
}

/// The name, in lower case, and the value of a line that is made as a directive (`# escape=\``).
pub(super) fn directive(line: &str) -> Option<(String, &str)> {
    let (key, value) = line.trim().strip_prefix('#')?.split_once('=')?;
    let key = key.trim().to_ascii_lowercase();
    let is_name = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric());
    is_name.then_some((key, value))
}

/// Joins continuation lines; comments and empty lines between them are dropped, as BuildKit does.
pub(super) fn join(lines: &mut Lines<'_>, start: usize, first: &str, escape: char) -> Logical {
    let mut logical = Logical::default();
    let lead = first.len() - first.trim_start().len();
    let mut piece = (start + lead, &first[lead..]);
    loop {
        let (offset, line) = piece;
        let Some(body) = continued(line, escape) else {
            logical.push(line.trim_end(), offset);
            return logical;
        };
        logical.push(body, offset);
        piece = loop {
            match lines.next() {
                None => return logical,
                Some((_, _, line)) if line.trim().is_empty() || line.trim_start().starts_with('#') => {}
                Some((_, offset, line)) => break (offset, line),
            }
        };
    }
}

/// The line without its continuation mark; `None` when it has none. A doubled mark is none.
fn continued(line: &str, escape: char) -> Option<&str> {
    let body = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!body.ends_with(escape)).then_some(body)
}

fn instruction(
    lines: &mut Lines<'_>,
    logical: Logical,
    line: usize,
    escape: char,
    problems: &mut Vec<ParseProblem>,
) -> Option<Instruction> {
    let mut at = 0;
    let keyword = next_word(&logical, &mut at, false)?;
    let mut inner = None;
    let upper = keyword.text.to_ascii_uppercase();
    if upper == "ONBUILD" {
        inner = next_word(&logical, &mut at, false).map(|word| word.text.to_ascii_uppercase());
    }
    let mut flags = Vec::new();
    loop {
        let before = at;
        match next_word(&logical, &mut at, true) {
            Some(word) if word.text.starts_with("--") && word.text.len() > 2 => flags.push(word),
            _ => {
                at = before;
                break;
            }
        }
    }
    let json = json_words(&logical, at);
    // Quotes hold a word together except in FROM, whose words are parted by white space alone.
    let quoted = upper != "FROM";
    let mut words = Vec::new();
    while let Some(word) = next_word(&logical, &mut at, quoted) {
        words.push(word);
    }
    let effective = inner.as_deref().unwrap_or(&upper);
    let mut text = logical.text.trim_end().to_owned();
    let mut end = logical.map.last().map_or(0, |last| last + 1);
    if json.is_none() && matches!(effective, "RUN" | "COPY" | "ADD") && logical.text.contains("<<") {
        let mut problem = |message: String, help: Option<String>| {
            problems.push(ParseProblem { span: keyword.span(), message, help });
        };
        let heredocs = read::announced(&logical.text).unwrap_or_else(|message| {
            problem(message, None);
            Vec::new()
        });
        for heredoc in heredocs {
            let passed = heredoc.pass(lines, |line| {
                text.push('\n');
                text.push_str(line);
            });
            if let Some((_, to)) = passed {
                end = u32::try_from(to).unwrap_or(u32::MAX);
            } else {
                let help = format!("it ends with a line that says just {}", heredoc.name);
                problem(format!("the heredoc \"{}\" has no end", heredoc.name), Some(help));
            }
        }
        if effective != "RUN" {
            words = joined_marks(words);
        }
    }
    let span = Span { offset: keyword.start, len: end.saturating_sub(keyword.start) };
    let keyword_span = keyword.span();
    Some(Instruction { keyword: upper, keyword_span, inner, text, span, line, escape, flags, words, json })
}

/// The words of COPY and ADD with `<< EOF` as one.
fn joined_marks(words: Vec<Word>) -> Vec<Word> {
    let mut joined: Vec<Word> = Vec::new();
    for word in words {
        match joined.last_mut() {
            Some(mark) if read::is_open_mark(&mark.text) => {
                mark.text.push_str(&word.text);
                mark.end = word.end;
            }
            _ => joined.push(word),
        }
    }
    joined
}

/// The next word; white space inside quotes does not end it when `quoted`. Quotes stay in the text, since
/// expansion takes them away.
fn next_word(logical: &Logical, at: &mut usize, quoted: bool) -> Option<Word> {
    let rest = &logical.text[*at..];
    let start = *at + (rest.len() - rest.trim_start().len());
    let mut end = start;
    let mut quote = None;
    let mut skip = false;
    for c in logical.text[start..].chars() {
        match (quote, c) {
            _ if skip => skip = false,
            (None, c) if c.is_whitespace() => break,
            (None, '"' | '\'') if quoted => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') if quoted => skip = true,
            _ => {}
        }
        end += c.len_utf8();
    }
    *at = end;
    (end > start).then(|| logical.word(logical.text[start..end].to_owned(), start, end))
}

/// The strings of a JSON list. As in BuildKit, what does not read as a list of strings is no list.
fn json_words(logical: &Logical, at: usize) -> Option<Vec<Word>> {
    let rest = logical.text.get(at..)?;
    let body = rest.trim_start();
    if !body.starts_with('[') {
        return None;
    }
    let list: Vec<String> = serde_json::from_str(body).ok()?;
    let mut from = at + (rest.len() - body.len());
    let mut words = Vec::new();
    for text in list {
        // Find the literal again for its place; an escaped string keeps the place of the whole list.
        let found = logical.text[from..].find(&text);
        let start = found.map_or(from, |offset| from + offset);
        let end = found.map_or(logical.text.len(), |_| start + text.len());
        if found.is_some() {
            from = end;
        }
        words.push(logical.word(text, start, end));
    }
    Some(words)
}
