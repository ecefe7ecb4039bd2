//! KDL texts, as they are handed to the parser: bounded, so that no text makes it use up its stack or its time.
//!
//! The parser (the crate `kdl`) calls itself for each block and, in a text that is wrong, for each problem; where
//! blocks that are commented out lie in one another, each one more takes it more than twice as long. So a text is
//! looked through first. One that is sound is parsed. Of one that is not, the parser gets what comes before the first
//! place that may be wrong and a part that follows it, on a stack that suffices for that: to say what is wrong there
//! is its business.

use std::sync::Arc;

use kdl::{KdlDiagnostic, KdlDocument, KdlError};

/// How deep blocks and comments may lie in one another; no manifest needs more than four.
const MAX_DEPTH: usize = 32;
/// How many of these blocks may be commented out by `/-`: the parser's time is more than doubled by each.
const MAX_SLASHED: usize = 3;
/// How many bytes after the first place that may be wrong are looked at for more problems.
const WINDOW: usize = 512;
/// The stack for such a part: a parser that is not optimised takes up to 22 KiB for each of its bytes.
const STACK: usize = 64 << 20;

/// A text that is sound may be up to this long to be parsed where it is; here and there the parser knows better.
const SHORT: usize = 16 << 10;

/// Parses a text (KDL 2).
///
/// # Errors
/// What the parser finds wrong, and a text that goes beyond a limit.
pub(crate) fn parse(text: &str) -> Result<KdlDocument, KdlError> {
    let broken = match Scan::new(text).run() {
        Ok(()) if text.len() <= SHORT => return KdlDocument::parse_v2(text),
        Ok(()) => return on_a_large_stack(text, 4 * STACK),
        Err(Unsound::Beyond(offset, limit)) => return Err(beyond(text, offset, limit)),
        Err(Unsound::At(offset)) => offset,
    };
    let part = part_of(text, broken);
    match on_a_large_stack(part, STACK) {
        // The place was right after all: the rest has to be read too.
        Ok(_) if part.len() < text.len() => {
            on_a_large_stack(text, text.len().saturating_mul(1 << 12).min(1 << 30))
        }
        parsed => parsed,
    }
}

fn on_a_large_stack(text: &str, size: usize) -> Result<KdlDocument, KdlError> {
    std::thread::scope(|scope| {
        let parser = std::thread::Builder::new().stack_size(size.max(STACK));
        match parser.spawn_scoped(scope, || KdlDocument::parse_v2(text)) {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(error) => {
                Err(beyond(text, 0, &format!("there is no memory to say what is wrong with it: {error}")))
            }
        }
    })
}

/// `text` up to some lines behind `offset`.
fn part_of(text: &str, offset: usize) -> &str {
    let mut end = offset.saturating_add(WINDOW).min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let slashed = text[offset..end].match_indices("/-").nth(MAX_SLASHED).map(|(at, _)| offset + at);
    if end == text.len() {
        return &text[..slashed.unwrap_or(end)];
    }
    let last_line = text[offset..end].rfind('\n').map(|at| offset + at + 1);
    &text[..slashed.or(last_line).unwrap_or(end)]
}

fn beyond(text: &str, offset: usize, limit: &str) -> KdlError {
    let input = Arc::new(text.to_owned());
    let diagnostic = KdlDiagnostic {
        input: Arc::clone(&input),
        span: (offset, 1).into(),
        message: Some(limit.to_owned()),
        label: Some("one too many".to_owned()),
        help: None,
        severity: miette::Severity::Error,
    };
    KdlError { input, diagnostics: vec![diagnostic] }
}

/// Why a text is not given to the parser as it is.
#[derive(Debug, PartialEq)]
enum Unsound {
    /// It may be wrong at this offset.
    At(usize),
    /// It goes beyond a limit there.
    Beyond(usize, &'static str),
}

/// What stands in a text, as far as it matters for what may follow.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Token {
    /// Space, a comment in `/* */`, a line that goes on.
    Space,
    /// The end of a line, with a comment before it if there is one.
    Line,
    End,
    Semicolon,
    Open,
    Close,
    TypeOpen,
    TypeClose,
    Equals,
    Slashdash,
    /// A string, quoted or not.
    Word,
    /// A number or a keyword.
    Literal,
}

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// A node, or the end of the block.
    Node,
    /// The node that a `/-` comments out.
    SlashedNode,
    /// The type of a node or of a value; `true` when that word is there.
    NodeType(bool),
    ValueType(bool),
    /// The name after the type of a node, the value after its type.
    Name,
    Value,
    /// After a word: `=` as well, if `true`; with space in between, the next entry.
    Entry {
        is_word: bool,
        has_space: bool,
    },
    /// What a `/-` comments out in a node.
    SlashedEntry,
    /// After the children: nothing but children that are commented out.
    Children,
    SlashedChildren,
}

struct Scan<'t> {
    text: &'t str,
    at: usize,
    state: State,
    /// The open blocks: whether each is commented out, and whether its node has its children already.
    blocks: Vec<(bool, bool)>,
    /// Whether the node that is being read has its children.
    has_children: bool,
}

impl<'t> Scan<'t> {
    fn new(text: &'t str) -> Self {
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { text, at, state: State::Node, blocks: Vec::new(), has_children: false }
    }

    fn run(mut self) -> Result<(), Unsound> {
        loop {
            let start = self.at;
            let wrong = Unsound::At(start);
            let Some(token) = self.token()? else { return Err(wrong) };
            if token == Token::End {
                let is_whole = self.blocks.is_empty() && self.may_end();
                return if is_whole { Ok(()) } else { Err(wrong) };
            }
            match self.next(token) {
                Some(state) => self.state = state,
                None => return Err(wrong),
            }
            if self.blocks.len() > MAX_DEPTH {
                return Err(Unsound::Beyond(start, "blocks lie in one another more than 32 deep"));
            }
            if self.blocks.iter().filter(|(is_slashed, _)| *is_slashed).count() > MAX_SLASHED {
                let limit = "blocks that are commented out lie in one another more than 3 deep";
                return Err(Unsound::Beyond(start, limit));
            }
        }
    }

    fn may_end(&self) -> bool {
        matches!(self.state, State::Node | State::Entry { .. } | State::Children)
    }

    /// The state after `token`; `None` where it may not stand.
    #[expect(clippy::match_same_arms, reason = "an arm for each rule of the grammar")]
    fn next(&mut self, token: Token) -> Option<State> {
        use State::{
            Children, Entry, Name, Node, NodeType, SlashedChildren, SlashedEntry, SlashedNode, Value,
            ValueType,
        };
        let after_word = |is_word| Entry { is_word, has_space: false };
        Some(match (self.state, token) {
            (Node | SlashedNode, Token::Space | Token::Line) => self.state,
            (Node, Token::Slashdash) => SlashedNode,
            (Node | SlashedNode, Token::TypeOpen) => NodeType(false),
            (Node | SlashedNode | Name, Token::Word) => {
                self.has_children = false;
                after_word(false)
            }
            (Node | Entry { .. } | Children, Token::Close) => self.close()?,
            (NodeType(_) | ValueType(_) | Name | Value, Token::Space) => self.state,
            (NodeType(false), Token::Word) => NodeType(true),
            (NodeType(true), Token::TypeClose) => Name,
            (ValueType(false), Token::Word) => ValueType(true),
            (ValueType(true), Token::TypeClose) => Value,
            (Value, Token::Word | Token::Literal) => after_word(false),
            (Value | SlashedEntry | Entry { has_space: true, .. }, Token::TypeOpen) => ValueType(false),
            (Entry { is_word, .. }, Token::Space) => Entry { is_word, has_space: true },
            (Entry { is_word: true, .. }, Token::Equals) => Value,
            (Entry { has_space: true, .. } | SlashedEntry, Token::Word) => after_word(true),
            (Entry { has_space: true, .. } | SlashedEntry, Token::Literal) => after_word(false),
            (Entry { has_space: true, .. }, Token::Slashdash) => SlashedEntry,
            (SlashedEntry | SlashedChildren, Token::Space | Token::Line) => self.state,
            (Entry { .. } | Children, Token::Line | Token::Semicolon) => Node,
            (Entry { .. }, Token::Open) => self.open(false),
            (Children, Token::Open) if !self.has_children => self.open(false),
            (Children, Token::Space) => Children,
            (Children, Token::Slashdash) => SlashedChildren,
            (SlashedEntry | SlashedChildren, Token::Open) => self.open(true),
            _ => return None,
        })
    }

    fn open(&mut self, is_slashed: bool) -> State {
        self.blocks.push((is_slashed, self.has_children || !is_slashed));
        State::Node
    }

    fn close(&mut self) -> Option<State> {
        (_, self.has_children) = self.blocks.pop()?;
        Some(State::Children)
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// The next token; `None` for what is none.
    fn token(&mut self) -> Result<Option<Token>, Unsound> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Some(Token::End)) };
        let plain = |token, length| Ok(Some((token, length)));
        let found = match first {
            '{' => plain(Token::Open, 1),
            '}' => plain(Token::Close, 1),
            '(' => plain(Token::TypeOpen, 1),
            ')' => plain(Token::TypeClose, 1),
            ';' => plain(Token::Semicolon, 1),
            '=' => plain(Token::Equals, 1),
            '/' => self.comment(),
            '\\' => Ok(continuation(rest).map(|length| (Token::Space, length))),
            '"' => Ok(string(rest, 0).map(|length| (Token::Word, length))),
            '#' => Ok(hash(rest)),
            c if is_newline(c) => plain(Token::Line, if rest.starts_with("\r\n") { 2 } else { c.len_utf8() }),
            c if is_space(c) => plain(Token::Space, rest.len() - rest.trim_start_matches(is_space).len()),
            _ => Ok(bare(rest)),
        };
        Ok(found?.map(|(token, length)| {
            self.at += length;
            token
        }))
    }

    fn comment(&self) -> Result<Option<(Token, usize)>, Unsound> {
        let rest = self.rest();
        if rest.starts_with("/-") {
            return Ok(Some((Token::Slashdash, 2)));
        }
        if rest.starts_with("//") {
            let length = rest.find(is_newline).unwrap_or(rest.len());
            return Ok(Some((Token::Space, length)));
        }
        let (bytes, mut depth, mut at) = (rest.as_bytes(), 0, 0);
        while at < bytes.len() {
            match &bytes[at..bytes.len().min(at + 2)] {
                b"/*" => (depth, at) = (depth + 1, at + 2),
                b"*/" => (depth, at) = (depth - 1, at + 2),
                _ if depth == 0 => return Ok(None),
                _ => at += 1,
            }
            if depth > MAX_DEPTH {
                return Err(Unsound::Beyond(
                    self.at + at - 2,
                    "comments lie in one another more than 32 deep",
                ));
            }
            if depth == 0 {
                return Ok(Some((Token::Space, at)));
            }
        }
        Ok(None)
    }
}

fn is_newline(c: char) -> bool {
    matches!(c, '\r' | '\n' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_space(c: char) -> bool {
    matches!(
        c,
        '\t' | ' ' | '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
    )
}

/// Whether no character stands there that may stand nowhere (KDL 2, "Disallowed Literal Code Points").
fn is_allowed(text: &str) -> bool {
    !text.contains(|c: char| {
        matches!(c, '\0'..='\u{8}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' | '\u{feff}')
    })
}

/// The length of `\`, space and the end of the line.
fn continuation(rest: &str) -> Option<usize> {
    let after = rest[1..].trim_start_matches(is_space);
    let at = rest.len() - after.len();
    if after.starts_with("//") {
        let length = after.find(is_newline).unwrap_or(after.len());
        let end = &after[length..];
        return Some(
            at + length
                + if end.starts_with("\r\n") { 2 } else { end.chars().next().map_or(0, char::len_utf8) },
        );
    }
    let Some(newline) = after.chars().next() else { return Some(at) };
    is_newline(newline).then_some(at + if after.starts_with("\r\n") { 2 } else { newline.len_utf8() })
}

/// A raw string or a keyword.
fn hash(rest: &str) -> Option<(Token, usize)> {
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    if rest[hashes..].starts_with('"') {
        return string(rest, hashes).map(|length| (Token::Word, length));
    }
    let word = &rest[..=rest[1..].find(is_end).unwrap_or(rest.len() - 1)];
    matches!(word, "#true" | "#false" | "#null" | "#inf" | "#-inf" | "#nan")
        .then_some((Token::Literal, word.len()))
}

/// The length of a string that begins here, with so many `#` before its quotes.
fn string(rest: &str, hashes: usize) -> Option<usize> {
    let is_long = rest[hashes..].starts_with("\"\"\"");
    let close = format!("{}{}", if is_long { "\"\"\"" } else { "\"" }, "#".repeat(hashes));
    let body = &rest[hashes + if is_long { 3 } else { 1 }..];
    let length = if hashes > 0 { body.find(&close)? } else { escaped(body, &close)? };
    let (inner, whole) = (&body[..length], rest.len() - body.len() + length + close.len());
    let is_sound = is_allowed(inner)
        && if is_long { is_aligned(inner, hashes > 0) } else { hashes == 0 || !inner.contains(is_newline) };
    is_sound.then_some(whole)
}

/// Where the string ends: the first `close` that no `\` stands before. `None` too for an escape that is none, and for
/// a line's end in a string of one line.
fn escaped(body: &str, close: &str) -> Option<usize> {
    let mut rest = body;
    loop {
        if rest.starts_with(close) {
            return Some(body.len() - rest.len());
        }
        let first = rest.chars().next()?;
        if is_newline(first) && close.len() == 1 {
            return None;
        }
        rest = &rest[first.len_utf8()..];
        if first == '\\' {
            let c = rest.chars().next()?;
            rest = match c {
                'n' | 'r' | 't' | '\\' | '"' | 'b' | 'f' | 's' => &rest[1..],
                'u' => {
                    let (digits, after) = rest[1..].strip_prefix('{')?.split_once('}')?;
                    let is_hex =
                        (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
                    char::from_u32(u32::from_str_radix(digits, 16).ok().filter(|_| is_hex)?)?;
                    after
                }
                c if is_space(c) || is_newline(c) => {
                    rest.trim_start_matches(|c| is_space(c) || is_newline(c))
                }
                _ => return None,
            };
        }
    }
}

/// Whether a string of several lines begins with a line's end, and each of its lines with what stands before its last
/// quotes.
fn is_aligned(inner: &str, is_raw: bool) -> bool {
    let inner = if is_raw { inner.to_owned() } else { joined(inner) }.replace("\r\n", "\n");
    let Some(rest) = inner.strip_prefix(is_newline) else { return false };
    let (lines, indent) = rest.rsplit_once(is_newline).unwrap_or(("", rest));
    indent.chars().all(is_space)
        && lines.split(is_newline).all(|line| line.starts_with(indent) || line.chars().all(is_space))
}

/// A string's text without the escapes that stand for nothing: `\`, space and the ends of lines.
fn joined(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        rest = after.trim_start_matches(|c| is_space(c) || is_newline(c));
        if rest.len() == after.len() {
            let next = after.chars().next().map_or(0, char::len_utf8);
            out.push_str(&after[..next]);
            rest = &after[next..];
        }
    }
    out + rest
}

/// Where a bare word ends.
fn is_end(c: char) -> bool {
    is_space(c)
        || is_newline(c)
        || matches!(c, '\\' | '/' | '(' | ')' | '{' | '}' | ';' | '[' | ']' | '"' | '#' | '=')
}

/// A number, or a word without quotes.
fn bare(rest: &str) -> Option<(Token, usize)> {
    let word = &rest[..rest.find(is_end).unwrap_or(rest.len())];
    if word.is_empty() || !is_allowed(word) {
        return None;
    }
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
    if unsigned.starts_with(|c: char| c.is_ascii_digit()) {
        return is_number(unsigned).then_some((Token::Literal, word.len()));
    }
    let is_reserved = matches!(unsigned, "true" | "false" | "null" | "inf" | "nan");
    let is_dotted =
        unsigned.strip_prefix('.').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    (!is_reserved && !is_dotted).then_some((Token::Word, word.len()))
}

/// Whether it is a number of few digits; the parser says what is wrong with any other.
fn is_number(text: &str) -> bool {
    let digits = |text: &str, is_digit: fn(&char) -> bool| {
        text.len() <= 30
            && text.starts_with(|c| is_digit(&c))
            && text.chars().all(|c| is_digit(&c) || c == '_')
    };
    let decimal = |text: &str| digits(text, char::is_ascii_digit);
    for (prefix, is_digit) in [
        ("0x", char::is_ascii_hexdigit as fn(&char) -> bool),
        ("0o", |c| matches!(c, '0'..='7')),
        ("0b", |c| matches!(c, '0' | '1')),
    ] {
        if let Some(rest) = text.strip_prefix(prefix) {
            return digits(rest, is_digit);
        }
    }
    let (number, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    decimal(whole) && decimal(fraction) && decimal(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(text: &str) -> String {
        let error = parse(text).unwrap_err();
        error.diagnostics[0].message.clone().unwrap_or_default()
    }

    #[test]
    fn what_lies_in_one_another_too_deep_is_refused_with_its_limit() {
        let nested = |open: &str, close: &str, depth: usize| open.repeat(depth) + &close.repeat(depth);
        assert!(parse(&nested("a {", "}", MAX_DEPTH)).is_ok());
        assert!(parse(&nested("/*", "*/", MAX_DEPTH)).is_ok());
        assert!(parse(&nested("a /-{", "}", MAX_SLASHED)).is_ok());
        for (open, limit) in [
            ("a {", "blocks lie in one another more than 32 deep"),
            // Braces in texts and comments close nothing.
            ("a \"}\" {", "blocks lie in one another more than 32 deep"),
            ("a #\"}\"# { // }\n", "blocks lie in one another more than 32 deep"),
            ("/*", "comments lie in one another more than 32 deep"),
            ("a /-{", "commented out lie in one another more than 3 deep"),
        ] {
            let text = open.repeat(100_000);
            assert!(message(&text).contains(limit), "{open}: {}", message(&text));
        }
    }

    /// Each of these made the parser use up its stack, or minutes.
    #[test]
    fn a_text_with_thousands_of_problems_is_an_error_and_not_a_crash() {
        for unit in
            ["=", "\\", "{", "{\n{", "/- ", ")", "[)=", "#true#\"\"#)", ";#true", "\"\"\"", "#\";", "-=[\"#["]
        {
            for start in ["", "a {", "\"\"\"", "#\"\"\"\n", "a 1\n"] {
                let text = start.to_owned() + &unit.repeat(2_000);
                assert!(parse(&text).is_err(), "{start}{unit}");
            }
        }
        assert!(parse(&"/- a;\n".repeat(5_000)).is_err(), "the parser takes none of these");
    }

    #[test]
    fn a_problem_before_a_long_rest_has_its_place() {
        let text = format!("a {{\n b 1\n c \"x\n}}\n{}", "d 1 {\n  e \"text\"\n}\n".repeat(1_000));
        let error = parse(&text).unwrap_err();
        let first = &error.diagnostics[0];
        assert_eq!(text[..first.span.offset()].matches('\n').count(), 2, "{first:?}");
    }

    fn tokens() -> impl Strategy<Value = String> {
        let token = prop::sample::select(vec![
            "a",
            " ",
            "\n",
            ";",
            "{",
            "}",
            "a {\n",
            "}\n",
            "=",
            "a=1",
            "1",
            "1.5e3",
            "0x_f",
            "0xff",
            "#true",
            "#nul",
            "(t)",
            "\"",
            "\"b\"",
            "\\n",
            "\\\n",
            "\\ ",
            "#\"",
            "\"#",
            "\"\"\"\n",
            "\n  \"\"\"",
            "\"\"\"\n  a\n  \"\"\"",
            "/-",
            "/*",
            "*/",
            "//",
            "\u{feff}",
            "-",
            ".1",
            "true",
            "\u{2028}",
            "é",
        ]);
        prop::collection::vec(token, 0..10).prop_map(|tokens| tokens.concat())
    }

    proptest! {
        /// To look through a text first changes nothing about which texts are KDL.
        #[test]
        fn what_the_parser_takes_is_taken(text in tokens(), rest in 0usize..2) {
            let text = text + &"\nb 1".repeat(rest * 300);
            prop_assert_eq!(parse(&text).ok(), KdlDocument::parse_v2(&text).ok());
        }
    }
}
