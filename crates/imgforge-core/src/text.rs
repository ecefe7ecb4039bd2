//! Characters that make a text look like another one.
//!
//! Words of files, registries and containers get into messages, tables, exported files and JSON. What a terminal
//! would obey, and what shows a text in another order or on other lines than it is written, is made visible
//! everywhere by the same rule.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character changes the order in which the text around it is shown (Unicode Standard Annex 9, "Directional
/// Formatting Characters"), or ends a line where no `\n` is (Annex 14, class BK).
pub fn reorders(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether a character must not reach a terminal: a control character, or one that [`reorders`].
pub fn is_command(c: char) -> bool {
    c.is_control() || reorders(c)
}

/// A JSON text with what [`is_command`] in its strings as `\u202e`: they can stand nowhere else.
pub fn json(text: &str) -> Cow<'_, str> {
    // Line ends and tabs are JSON's own white space here: in strings they are escaped already.
    let is_escaped = |c: char| is_command(c) && !matches!(c, '\n' | '\r' | '\t');
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if is_escaped(c) {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
        out
    }))
}

/// A text as a KDL string (KDL 2.0, "Quoted String"). What [`is_command`] is written `\u{...}`, and so is the byte
/// order mark, which KDL allows at the beginning of a document alone.
pub fn kdl(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if is_command(c) || c == '\u{feff}' => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_means_the_same_and_has_no_character_that_is_obeyed() {
        let value = "a\u{202e}b\u{61c}\u{9b}\u{7f}\u{1b}\n\u{2028}é";
        let text = serde_json::to_string_pretty(&[value]).unwrap();
        let shown = json(&text);
        assert!(!shown.contains(|c| is_command(c) && c != '\n'), "{shown:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&shown).unwrap(), [value]);
    }

    #[test]
    fn any_text_can_be_a_kdl_string() {
        for text in ["a", "a\"b\\c", "line\nline\r\t", "\u{7}\u{9b}", "${x}", "é\u{feff}\u{2028}\u{202e}"] {
            let document = format!("node {}", kdl(text));
            let parsed = kdl::KdlDocument::parse_v2(&document).unwrap();
            assert_eq!(parsed.nodes()[0].get(0).unwrap().as_string(), Some(text));
        }
    }
}
