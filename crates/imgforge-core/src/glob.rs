//! Patterns for one name of a path, as Go's `filepath.Match` reads them: `*`, `?`, `[a-z]`, `[^a]`, `\x`.

/// Whether a name fits a pattern. A broken pattern fits nothing.
pub fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    matches_from(&pattern, &name)
}

fn matches_from(pattern: &[char], name: &[char]) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return name.is_empty() };
    match first {
        '*' => (0..=name.len()).any(|skip| matches_from(rest, &name[skip..])),
        '?' => name.split_first().is_some_and(|(_, name)| matches_from(rest, name)),
        '[' => {
            let Some((c, name)) = name.split_first() else { return false };
            Class::read(rest).is_some_and(|(class, rest)| class.has(*c) && matches_from(rest, name))
        }
        '\\' => match (rest.split_first(), name.split_first()) {
            (Some((literal, rest)), Some((c, name))) => literal == c && matches_from(rest, name),
            _ => false,
        },
        literal => name.split_first().is_some_and(|(c, name)| c == literal && matches_from(rest, name)),
    }
}

/// A set of characters: `[a-z]`, or all others: `[^a-z]`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    /// Reads what comes after `[`, and gives what comes after `]`. `None` for a broken one: with nothing in it,
    /// without an end, with a `-` or `]` that is not escaped where a character is due.
    pub(crate) fn read(pattern: &[char]) -> Option<(Self, &[char])> {
        let (negated, mut rest) = match pattern {
            ['^', rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let mut ranges = Vec::new();
        loop {
            if let (Some(']'), false) = (rest.first(), ranges.is_empty()) {
                return Some((Self { negated, ranges }, &rest[1..]));
            }
            let low;
            (low, rest) = member(rest)?;
            let mut high = low;
            if let ['-', after @ ..] = rest {
                (high, rest) = member(after)?;
            }
            ranges.push((low, high));
        }
    }

    /// Whether a character is meant.
    fn has(&self, c: char) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != self.negated
    }

    /// The same as a regular expression.
    pub(crate) fn expression(&self) -> String {
        let escaped = |c: char| regex::escape(&c.to_string());
        // A range that is the wrong way round has nothing in it.
        let ranges = self.ranges.iter().filter(|(low, high)| low <= high);
        let ranges: String =
            ranges.map(|(low, high)| format!("{}-{}", escaped(*low), escaped(*high))).collect();
        match (ranges.is_empty(), self.negated) {
            (true, true) => "(?s:.)".into(),
            (true, false) => "[^\\s\\S]".into(),
            (false, true) => format!("[^{ranges}]"),
            (false, false) => format!("[{ranges}]"),
        }
    }
}

/// A character of a set, which may be escaped.
fn member(rest: &[char]) -> Option<(char, &[char])> {
    match rest {
        [] | ['-' | ']', ..] => None,
        ['\\', rest @ ..] | rest => rest.split_first().map(|(c, rest)| (*c, rest)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn globs_match_as_filepath_match_does() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*", ".x", true),
            ("a*c", "abbc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[\\]a]", "]", true),
            ("[]a]", "]", false),
            ("[-x]", "x", false),
            ("[x-]", "x", false),
            ("[x\\-]", "-", true),
            ("[!a]", "a", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("[", "[", false),
            ("é?", "éa", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn a_set_means_the_same_as_a_regular_expression(text in "\\^?[a-d\\\\&~.-]{1,6}\\]", c in "[a-d&~.\\\\-]") {
            let chars: Vec<char> = text.chars().collect();
            if let Some((class, [])) = Class::read(&chars) {
                let expression = regex::Regex::new(&format!("^{}$", class.expression())).unwrap();
                prop_assert_eq!(class.has(c.chars().next().unwrap()), expression.is_match(&c));
            }
        }
    }
}
