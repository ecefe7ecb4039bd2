//! Lines of a file as BuildKit joins them: continuations, and comments between them.

use imgforge_syntax::Span;

/// A logical line: its text, and for each byte of it the place in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
        let start = self.map.get(from).copied().unwrap_or(0);
        let end = if to > from { self.map[to - 1] + 1 } else { start };
        Span { offset: start, len: end - start }
    }

    /// Adds a character of `other` with its place.
    pub(super) fn take(&mut self, other: &Self, at: usize, c: char) {
        self.text.push(c);
        self.map.extend_from_slice(&other.map[at..at + c.len_utf8()]);
    }

    fn push(&mut self, text: &str, offset: usize) {
        self.text.push_str(text);
        self.map.extend((0..text.len()).map(|n| u32::try_from(offset + n).unwrap_or(u32::MAX)));
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
