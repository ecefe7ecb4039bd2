//! Reads a line for a shell as far as the rules need it: its simple commands, and whether one is left in the
//! background.
//!
//! Not a shell: what stands in quotes is one word, expansions stay as they are written, and the commands of a
//! substitution count as commands of the line.

/// A line for a shell.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// The words of each simple command, without quotes; redirections are words too.
    pub(super) commands: Vec<Vec<String>>,
    /// Whether a command is followed by `&`.
    pub(super) has_background: bool,
    /// Whether a word is not written out: a variable, a pattern, a redirection, a substitution.
    is_expanded: bool,
}

impl Line {
    pub(super) fn read(text: &str) -> Self {
        let mut reader = Reader { line: Self::default(), words: Vec::new(), word: None };
        let chars: Vec<char> = text.chars().collect();
        let mut at = 0;
        while let Some(&c) = chars.get(at) {
            let (next, last) = (chars.get(at + 1), at.checked_sub(1).map(|before| chars[before]));
            at += 1;
            match c {
                '\'' => at = reader.quoted(&chars, at),
                '"' => at = reader.double_quoted(&chars, at),
                '\\' if next == Some(&'\n') => at += 1,
                '\\' => {
                    reader.push(next.copied());
                    at += 1;
                }
                '#' if reader.word.is_none() => {
                    at += chars[at..].iter().take_while(|c| **c != '\n').count();
                }
                '$' if chars[at..].starts_with(&['(', '(']) => {
                    let end = chars[at..].windows(2).position(|pair| pair == [')', ')']);
                    at = end.map_or(chars.len(), |end| at + end + 2);
                    reader.push(Some('$'));
                }
                '&' if matches!(last, Some('>' | '<')) || next == Some(&'>') => reader.push(Some(c)),
                '&' => {
                    let is_and = next == Some(&'&') || last == Some('&') || last == Some('|');
                    reader.line.has_background |=
                        !is_and && (reader.has_words() || !reader.line.commands.is_empty());
                    reader.end_command();
                }
                ';' | '|' | '(' | ')' | '\n' | '`' => reader.end_command(),
                c if c.is_whitespace() => reader.end_word(),
                c => reader.push(Some(c)),
            }
            reader.line.is_expanded |= matches!(c, '$' | '*' | '?' | '<' | '>' | '~' | '`' | '[');
        }
        reader.end_command();
        reader.line
    }

    /// The words of the line when it is one command with nothing for the shell to do.
    pub(super) fn as_argv(&self) -> Option<&[String]> {
        match self.commands.as_slice() {
            [words] if !self.has_background && !self.is_expanded => {
                let is_plain = !is_shell_word(&words[0]) && !is_assignment(&words[0]);
                is_plain.then_some(words)
            }
            _ => None,
        }
    }

    /// Whether the shell makes way for the last command.
    pub(super) fn ends_with_exec(&self) -> bool {
        let last = self.commands.last();
        last.is_some_and(|words| {
            let first = words.iter().find(|word| !is_assignment(word));
            first.is_some_and(|word| word == "exec") && words.len() > 1
        })
    }

    /// The program of each command and its arguments, without what stands before it (`exec`, `VAR=x`, `then`).
    pub(super) fn programs(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.commands.iter().filter_map(|words| {
            let before = words.iter().take_while(|word| {
                is_shell_word(word)
                    || is_assignment(word)
                    || matches!(word.as_str(), "exec" | "nohup" | "setsid" | "sudo" | "env" | "command")
            });
            let (program, arguments) = words[before.count()..].split_first()?;
            Some((program.as_str(), arguments))
        })
    }
}

fn is_shell_word(word: &str) -> bool {
    matches!(word, "{" | "}" | "!" | "if" | "then" | "else" | "elif" | "while" | "until" | "do" | "time")
}

fn is_assignment(word: &str) -> bool {
    let name = word.split_once('=').map(|(name, _)| name).unwrap_or_default();
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

struct Reader {
    line: Line,
    words: Vec<String>,
    word: Option<String>,
}

impl Reader {
    fn push(&mut self, c: Option<char>) {
        self.word.get_or_insert_default().extend(c);
    }

    fn has_words(&self) -> bool {
        self.word.is_some() || !self.words.is_empty()
    }

    fn end_word(&mut self) {
        self.words.extend(self.word.take());
    }

    fn end_command(&mut self) {
        self.end_word();
        if !self.words.is_empty() {
            self.line.commands.push(std::mem::take(&mut self.words));
        }
    }

    /// Takes what stands in single quotes, from after the first; gives the place after the last.
    fn quoted(&mut self, chars: &[char], from: usize) -> usize {
        let word = self.word.get_or_insert_default();
        let inner = chars[from..].iter().take_while(|c| **c != '\'');
        word.extend(inner.clone());
        (from + inner.count() + 1).min(chars.len())
    }

    fn double_quoted(&mut self, chars: &[char], from: usize) -> usize {
        let word = self.word.get_or_insert_default();
        let mut at = from;
        while let Some(&c) = chars.get(at) {
            at += 1;
            match c {
                '"' => break,
                '\\' if matches!(chars.get(at), Some('"' | '\\' | '$' | '`')) => {
                    word.push(chars[at]);
                    at += 1;
                }
                c => {
                    self.line.is_expanded |= matches!(c, '$' | '`');
                    word.push(c);
                }
            }
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn commands(text: &str) -> Vec<String> {
        Line::read(text).commands.iter().map(|words| words.join("|")).collect()
    }

    #[test]
    fn a_line_is_parted_into_commands() {
        assert_eq!(
            commands("a 'b c' \"d;e\" f\\ g && h; i | j\nk # l; m"),
            ["a|b c|d;e|f g", "h", "i", "j", "k"]
        );
        assert_eq!(commands("a=$((1 & 2)) b 2>&1 &>c"), ["a=$|b|2>&1|&>c"]);
        assert_eq!(commands(""), [""; 0]);
    }

    #[test]
    fn only_a_single_ampersand_leaves_something_in_the_background() {
        for (text, expected) in [
            ("a & b", true),
            ("(a; b) & c", true),
            ("&", false),
            ("a &", true),
            ("a\\\n& b", true),
            ("a && b", false),
            ("a 2>&1", false),
            ("a &> b", false),
            ("a |& b", false),
            ("a '&' \"&\" \\& b", false),
            ("a # & b", false),
            ("a=$((3 & 1)); b", false),
        ] {
            assert_eq!(Line::read(text).has_background, expected, "{text}");
        }
    }

    #[test]
    fn what_a_shell_makes_way_for_is_known() {
        for (text, expected) in [
            ("a; exec b", true),
            ("exec a", true),
            ("A=1 exec b", true),
            ("exec a; b", false),
            ("a", false),
            ("exec", false),
        ] {
            assert_eq!(Line::read(text).ends_with_exec(), expected, "{text}");
        }
        assert_eq!(Line::read("nginx -g 'daemon off;'").as_argv().unwrap(), ["nginx", "-g", "daemon off;"]);
        for text in ["a $B", "a; b", "a *", "A=1 b", "a > b", "a \"$b\"", "! a", ""] {
            assert_eq!(Line::read(text).as_argv(), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "\\PC*|[a-z '\"\\\\&|;()$#\n<>]{0,40}") {
            let line = Line::read(&text);
            prop_assert!(line.commands.iter().all(|words| !words.is_empty()));
        }
    }
}
