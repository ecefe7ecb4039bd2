//! What is wrong with the multi-line strings of a KDL text. The KDL parser loses its way in one that is not well
//! formed, and tells of each word in it; here the one line is found that has to be mended.
//!
//! The rules are those of KDL 2.0, "Multi-line Strings": a newline after the opening quotes, the closing quotes alone
//! on their line, and every line that is not blank begins with the white space that the closing line has.

use imgforge_syntax::Span;

use std::ops::Range;

/// A multi-line string that is not well formed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// From its opening to its closing quotes.
    pub(super) whole: Range<usize>,
    /// The place to mend.
    pub(super) span: Span,
    pub(super) message: &'static str,
    pub(super) label: &'static str,
    pub(super) help: String,
    /// Whether it goes on to the end of the text.
    pub(super) is_open: bool,
}

/// All of them, in order.
pub(super) fn broken(text: &str) -> Vec<Broken> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        at += if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            comment(rest)
        } else if c == '"' || c == '#' {
            string(rest, at, &mut found)
        } else {
            c.len_utf8()
        };
    }
    found
}

/// The text with something well formed of the same length in place of each broken string.
pub(super) fn without(text: &str, broken: &[Broken]) -> String {
    let mut text = text.to_owned();
    for string in broken {
        let inside = "x".repeat(string.whole.len().saturating_sub(2));
        text.replace_range(string.whole.clone(), &format!("\"{inside}\""));
    }
    text
}

/// The length of a comment, which may hold others.
fn comment(text: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// The length of a string of any kind, or of the `#` that begins something else.
fn string(text: &str, offset: usize, found: &mut Vec<Broken>) -> usize {
    let hashes = text.len() - text.trim_start_matches('#').len();
    let quotes = &text[hashes..];
    if !quotes.starts_with('"') {
        return hashes.max(1);
    }
    let is_raw = hashes > 0;
    let opening = hashes + if quotes.starts_with("\"\"\"") { 3 } else { 1 };
    let closing = format!("{}{}", &text[hashes..opening], "#".repeat(hashes));
    let is_multi_line = opening == hashes + 3;
    let Some(end) = close(text, opening, &closing, is_raw, is_multi_line) else {
        if is_multi_line {
            found.push(Broken {
                whole: offset..offset + text.len(),
                span: Span::new(offset, opening),
                message: "a string of several lines has no end",
                label: "begins here",
                help: format!("it ends with a line that has nothing but white space and {closing}"),
                is_open: true,
            });
            return text.len();
        }
        // It has no end on its line: the parser says so.
        return text.find('\n').unwrap_or(text.len());
    };
    let whole = end + closing.len();
    if is_multi_line {
        let body = &text[opening..end];
        let problem = wrong(body, is_raw).map(|(range, message, label, help)| Broken {
            whole: offset..offset + whole,
            span: Span::new(offset + opening + range.start, range.len()),
            message,
            label,
            help,
            is_open: false,
        });
        found.extend(problem);
    }
    whole
}

/// Where the closing quotes begin. A string of one line ends on its line.
fn close(text: &str, from: usize, closing: &str, is_raw: bool, is_multi_line: bool) -> Option<usize> {
    let mut at = from;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with(closing) {
            return Some(at);
        }
        let mut chars = rest.chars();
        let c = chars.next()?;
        if c == '\n' && !is_multi_line {
            return None;
        }
        at += c.len_utf8();
        if c == '\\' && !is_raw {
            at += chars.next().map_or(0, char::len_utf8);
        }
    }
    None
}

type Wrong = (Range<usize>, &'static str, &'static str, String);

/// The first thing that is wrong with what stands between the quotes.
fn wrong(body: &str, is_raw: bool) -> Option<Wrong> {
    let Some((first, lines)) = body.split_once('\n') else {
        return Some((
            0..body.len(),
            "a string of several lines begins on the line after its opening quotes",
            "no new line here",
            "write one pair of quotes around a text of one line".into(),
        ));
    };
    if !first.trim().is_empty() {
        return Some((
            0..first.trim_end().len(),
            "a string of several lines begins on the line after its opening quotes",
            "a new line has to come first",
            "put this on a line of its own".into(),
        ));
    }
    let last = lines.rfind('\n').map_or(0, |newline| newline + 1);
    let prefix = &lines[last..];
    let begin = first.len() + 1;
    if !prefix.trim().is_empty() {
        let at = begin + last;
        return Some((
            at..at + prefix.len(),
            "the closing quotes of a string of several lines stand on a line of their own",
            "its last line goes up to the quotes",
            "put the closing quotes on the next line, indented as far as the text is".into(),
        ));
    }
    let mut at = begin;
    let mut is_joined = false;
    for line in lines[..last].split_inclusive('\n') {
        let text = line.trim_end_matches(['\n', '\r']);
        if !is_joined && !text.trim().is_empty() && !text.starts_with(prefix) {
            let from = at + (text.len() - text.trim_start().len());
            return Some((
                from..at + text.trim_end().len(),
                "a line of a string of several lines is not indented as its closing quotes are",
                "this line",
                format!("begin it with {}, as the line of the closing quotes does", shown(prefix)),
            ));
        }
        // A backslash at the end joins the next line to this one.
        let slashes = text.trim_end().len() - text.trim_end().trim_end_matches('\\').len();
        is_joined = !is_raw && (slashes % 2 == 1 || (is_joined && text.trim().is_empty()));
        at += line.len();
    }
    None
}

/// White space in words.
fn shown(prefix: &str) -> String {
    let (spaces, tabs) = (prefix.matches(' ').count(), prefix.matches('\t').count());
    match (spaces, tabs) {
        (1, 0) if prefix.len() == 1 => "a space".into(),
        (0, 1) if prefix.len() == 1 => "a tab".into(),
        (spaces, 0) if spaces == prefix.len() => format!("{spaces} spaces"),
        (0, tabs) if tabs == prefix.len() => format!("{tabs} tabs"),
        _ => "the same white space".into(),
    }
}

#[cfg(test)]
mod tests {
    use kdl::KdlDocument;
    use proptest::prelude::*;

    use super::*;

    fn places(text: &str) -> Vec<(&str, &'static str)> {
        let part = |span: Span| &text[span.offset as usize..(span.offset + span.len) as usize];
        broken(text).into_iter().map(|broken| (part(broken.span), broken.label)).collect()
    }

    #[test]
    fn each_broken_string_is_found_at_the_line_to_mend() {
        for (text, expected) in [
            ("a \"\"\"\n    one\n  two\n    \"\"\"\n", &[("two", "this line")][..]),
            ("a #\"\"\"\n\tone\n  two\n\t\"\"\"#\n", &[("two", "this line")]),
            ("a \"\"\"one\n  \"\"\"\n", &[("one", "a new line has to come first")]),
            ("a \"\"\"one\"\"\"\n", &[("one", "no new line here")]),
            ("a \"\"\"\n  one\"\"\"\n", &[("  one", "its last line goes up to the quotes")]),
            ("a \"\"\"\n  one\n", &[("\"\"\"", "begins here")]),
            ("a \"\"\"\n x\n  \"\"\"\nb \"\"\"\n y\n  \"\"\"\n", &[("x", "this line"), ("y", "this line")]),
            ("a \"\"\"\n  one\n\n   \n    two\n  \"\"\"\n", &[]),
            ("a \"\"\"\n  one \\\ntwo \\\\\n  three\n  \"\"\"\n", &[]),
            ("a \"\"\"\n  \\\"\"\" \"\" \n  \"\"\"\n", &[]),
            ("// \"\"\" x\na /* \"\"\" x */ \"\\\"\" ##\"\"\"\n  \"\"\"# x\n  \"\"\"## #true\n", &[]),
            ("a \"one\n\"\n", &[]),
        ] {
            assert_eq!(places(text), expected, "{text}");
            if expected.is_empty() && !text.contains("\"one\n") {
                assert!(KdlDocument::parse_v2(text).is_ok(), "{text}");
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_the_parser_takes_has_no_broken_string(
            text in "(a |\"\"\"|\"|#|\\\\|\n|  |\t|x|/\\*|\\*/|//|;){0,14}",
        ) {
            let found = broken(&text);
            if KdlDocument::parse_v2(&text).is_ok() {
                prop_assert_eq!(&found, &vec![]);
            }
            prop_assert_eq!(without(&text, &found).len(), text.len());
        }
    }
}
