//! Quoting: a value that means exactly itself in YAML, HCL, a systemd unit, a line for a shell, a comment.

use std::fmt::Write as _;

use crate::text::{is_command, reorders};

/// A YAML scalar that YAML 1.1 and 1.2 read as the string `text`: plain where nobody can take it for something else,
/// else in double quotes (YAML 1.2.2, 7.3.1).
pub(super) fn yaml(text: &str) -> String {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b"_./-".contains(&b);
    let bytes = text.as_bytes();
    let starts_plainly = bytes.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'/');
    // A colon is plain only inside a word.
    let is_plain = starts_plainly
        && bytes.last() != Some(&b':')
        && bytes.iter().all(|b| is_word(*b) || *b == b':')
        && !bytes.windows(2).any(|pair| pair == b"::");
    if is_plain && !is_yaml_constant(text) { text.to_owned() } else { yaml_quoted(text) }
}

/// What YAML 1.1 reads as a truth value or as nothing, in any case.
fn is_yaml_constant(text: &str) -> bool {
    ["y", "n", "yes", "no", "on", "off", "true", "false", "null"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word))
}

fn yaml_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
            // What some reader takes for a line end, shows in another order, or does not take at all.
            c if c <= '\u{a0}' || reorders(c) || matches!(c, '\u{feff}' | '\u{fffe}' | '\u{ffff}') => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The same for a file of Compose, which reads `$` as the start of a variable.
pub(super) fn compose(text: &str) -> String {
    yaml(&text.replace('$', "$$"))
}

/// A string of HCL 2 (HCL native syntax specification, "Template Expressions"): no template begins in it.
pub(super) fn hcl(text: &str) -> String {
    let mut out = String::from("\"");
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // `$${` is `${`; but another `$` or `%` before it would be taken for a part of that.
            '$' | '%' if matches!(chars.peek(), Some('$' | '%')) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            '$' | '%' if chars.peek() == Some(&'{') => {
                out.push(c);
                out.push(c);
            }
            c if is_command(c) || c == '\u{feff}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A word of a setting in a unit that systemd parts into words (systemd.syntax(7), "Quoting"), and that gets into an
/// `ExecStart=`: `%` begins a specifier, `$` a variable.
pub(super) fn unit_word(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '%' | '$' => {
                out.push(c);
                out.push(c);
            }
            '\0'..='\x1f' | '\x7f' => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c if reorders(c) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A setting in a unit that is a whole line, and that gets into an `ExecStart=`.
pub(super) fn unit_line(text: &str) -> String {
    comment(text).replace('%', "%%").replace('$', "$$")
}

/// JSON on one line, as a setting in a unit that is a whole line and gets into an `ExecStart=`.
pub(super) fn unit_json(json: &str) -> String {
    json.chars().fold(String::new(), |mut out, c| {
        match c {
            '%' | '$' => out.extend([c, c]),
            c if is_command(c) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
        out
    })
}

/// One line: what ends one is a space, and so is what a terminal would obey. A backslash at its end would take the next
/// line in, so that goes too.
pub(super) fn comment(text: &str) -> String {
    let text: String = text.chars().map(|c| if is_command(c) { ' ' } else { c }).collect();
    text.trim_start().trim_end_matches(|c: char| c == '\\' || c.is_whitespace()).to_owned()
}

/// A word of sh that stays on one line; `None` for what cannot be written so (a line end at its end, which `$()`
/// drops).
pub(super) fn shell_word(text: &str) -> Option<String> {
    if !text.contains(['\n', '\r']) {
        return Some(crate::services::quote(text));
    }
    if text.ends_with('\n') {
        return None;
    }
    // printf(1) of POSIX: backslashes and octal numbers in the format, `%%` for a percent sign.
    let mut format = String::new();
    for (at, c) in text.char_indices() {
        match c {
            // At the start it would begin an option.
            '-' if at == 0 => format.push_str("\\055"),
            '\n' => format.push_str("\\n"),
            '\r' => format.push_str("\\r"),
            '\\' => format.push_str("\\\\"),
            '%' => format.push_str("%%"),
            '\'' => format.push_str("\\047"),
            c => format.push(c),
        }
    }
    Some(format!("\"$(printf '{format}')\""))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// Values with what one of the languages might stumble over, and everything else.
    fn any_value() -> impl Strategy<Value = String> {
        let odd = prop_oneof![
            Just("${x}".to_owned()),
            Just("%{if}".to_owned()),
            Just("$$".to_owned()),
            Just("$".to_owned()),
            Just("%".to_owned()),
            Just("{".to_owned()),
            Just("\\".to_owned()),
            Just("'".to_owned()),
            Just("\"".to_owned()),
            Just("\n".to_owned()),
            Just(" #".to_owned()),
            Just(": ".to_owned()),
            Just("no".to_owned()),
            Just("1e3".to_owned()),
            Just("~".to_owned()),
            Just("\u{85}".to_owned()),
            Just("\u{2028}".to_owned()),
            Just("ü€😀".to_owned()),
            "[a-zA-Z0-9:/._-]{1,6}",
            any::<char>().prop_filter("no NUL", |c| *c != '\0').prop_map(String::from),
        ];
        proptest::collection::vec(odd, 0..8).prop_map(|parts| parts.concat())
    }

    #[test]
    fn words_that_yaml_takes_for_something_else_are_quoted() {
        for (text, expected) in [
            ("guestbook:latest", "guestbook:latest"),
            ("/etc/imgforge/ready", "/etc/imgforge/ready"),
            ("C.UTF-8", "C.UTF-8"),
            ("no", "\"no\""),
            ("Null", "\"Null\""),
            ("80:80", "\"80:80\""),
            ("1.5", "\"1.5\""),
            ("", "\"\""),
            ("a: b", "\"a: b\""),
            ("a:", "\"a:\""),
        ] {
            assert_eq!(yaml(text), expected);
        }
    }

    proptest! {
        #[test]
        fn yaml_reads_back_what_was_quoted(text in any_value()) {
            let read: Vec<String> = yaml_serde::from_str(&format!("- {}\n", yaml(&text))).unwrap();
            prop_assert_eq!(&read, std::slice::from_ref(&text));
            let read: std::collections::BTreeMap<String, String> =
                yaml_serde::from_str(&format!("{}: {}\n", yaml(&text), yaml(&text))).unwrap();
            prop_assert_eq!(read.get(&text), Some(&text));
        }

        #[test]
        fn hcl_reads_back_what_was_quoted(text in any_value()) {
            let read: std::collections::BTreeMap<String, String> =
                hcl::from_str(&format!("a = {}\n", hcl(&text))).unwrap();
            prop_assert_eq!(read.get("a"), Some(&text));
        }

        #[test]
        fn a_comment_is_one_line_and_ends_there(text in any_value()) {
            let line = comment(&text);
            prop_assert!(!line.contains(char::is_control) && !line.ends_with('\\'), "{line:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn sh_reads_back_what_was_quoted(text in any_value()) {
            let Some(word) = shell_word(&text) else {
                prop_assert!(text.ends_with('\n'));
                return Ok(());
            };
            prop_assert!(!word.contains('\n'));
            let out = Command::new("sh").arg("-c").arg(format!("printf %s {word}")).output().unwrap();
            prop_assert_eq!(String::from_utf8(out.stdout).unwrap(), text);
        }
    }
}
