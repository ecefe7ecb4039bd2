//! Words with variables, exactly as BuildKit's shell lexer reads them (`frontend/dockerfile/shell`): what it refuses is
//! an error. The result of a word may hang on a variable that is not known, and then is not known either.

use regex::Regex;

/// How deep substitutions (`${a:-${b:-…}}`) may lie in one another: they are read by calls in one another.
/// Dockerfiles in the wild have three.
const MAX_SUBSTITUTIONS: usize = 64;

/// How much the values in one word may come to, in bytes: ten lines of ten references to the line before come to 10
/// GB. Linux gives no program a variable beyond 128 KiB.
const MAX_EXPANDED: usize = 1 << 20;

/// What a variable is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// This.
    Set(String),
    /// Nothing.
    Unset,
    /// It depends on an image that has not been seen.
    Unknown,
}

/// Why a word has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoValue {
    /// A variable is not known yet.
    Unknown,
    /// The word is wrong.
    Wrong(String),
}

/// How words are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// `\` or a backtick.
    pub(super) escape: char,
    /// Quotes stay in the result.
    pub(super) keep_quotes: bool,
    /// So do the characters that escape others.
    pub(super) keep_escapes: bool,
    /// Quotes are characters like others.
    pub(super) ignore_quotes: bool,
    /// A variable that is not set stays as it is written.
    pub(super) keep_unset: bool,
}

impl Rules {
    pub(super) fn new(escape: char) -> Self {
        Self { escape, keep_quotes: false, keep_escapes: false, ignore_quotes: false, keep_unset: false }
    }
}

/// One word, whatever white space is in it.
pub(super) fn word(text: &str, rules: Rules, lookup: &dyn Fn(&str) -> Value) -> Result<String, NoValue> {
    Ok(read(text, rules, lookup)?.text)
}

/// The words that are left when variables are expanded; quotes hold white space together.
pub(super) fn words(
    text: &str,
    rules: Rules,
    lookup: &dyn Fn(&str) -> Value,
) -> Result<Vec<String>, NoValue> {
    Ok(read(text, rules, lookup)?.words())
}

fn read(text: &str, rules: Rules, lookup: &dyn Fn(&str) -> Value) -> Result<Out, NoValue> {
    let mut lexer = Lexer { rest: text, rules, lookup, is_unknown: false, depth: 0, length: 0 };
    let out = lexer.until(None, rules.keep_escapes).map_err(NoValue::Wrong)?;
    if lexer.is_unknown { Err(NoValue::Unknown) } else { Ok(out) }
}

struct Lexer<'a> {
    rest: &'a str,
    rules: Rules,
    lookup: &'a dyn Fn(&str) -> Value,
    /// Whether the value of an unknown variable counts. Reading goes on: what is wrong is wrong anyway.
    is_unknown: bool,
    /// How many substitutions the text that is read lies in.
    depth: usize,
    /// The bytes of all values so far.
    length: usize,
}

/// What has been read: the text as one word, and as several.
#[derive(Default)]
struct Out {
    text: String,
    done: Vec<String>,
    word: String,
}

impl Out {
    /// What stands in quotes or is escaped.
    fn raw(&mut self, text: &str) {
        self.text.push_str(text);
        self.word.push_str(text);
    }

    /// What white space in it parts.
    fn plain(&mut self, text: &str) {
        self.text.push_str(text);
        for c in text.chars() {
            if !c.is_whitespace() {
                self.word.push(c);
            } else if !self.word.is_empty() {
                self.done.push(std::mem::take(&mut self.word));
            }
        }
    }

    fn words(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.done.push(self.word);
        }
        self.done
    }
}

fn wrong<T>(message: impl Into<String>) -> Result<T, String> {
    Err(message.into())
}

impl Lexer<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    /// Up to `end`, which is taken away too, or the end of the text.
    fn until(&mut self, end: Option<char>, keep_escapes: bool) -> Result<Out, String> {
        let outer = std::mem::replace(&mut self.rules.keep_escapes, keep_escapes);
        let out = self.pieces(end);
        self.rules.keep_escapes = outer;
        out
    }

    fn pieces(&mut self, end: Option<char>) -> Result<Out, String> {
        let mut out = Out::default();
        while let Some(c) = self.next() {
            match c {
                c if Some(c) == end => return Ok(out),
                '\'' if !self.rules.ignore_quotes => out.raw(&self.single_quoted()?),
                '"' if !self.rules.ignore_quotes => out.raw(&self.double_quoted()?),
                '$' => out.plain(&self.variable()?),
                '<' => out.raw(&self.heredoc_mark()),
                c if c == self.rules.escape => {
                    if self.rules.keep_escapes {
                        out.raw(&c.to_string());
                    }
                    let Some(escaped) = self.next() else { break };
                    out.raw(&escaped.to_string());
                }
                c => out.plain(&c.to_string()),
            }
        }
        match end {
            Some(end) => wrong(format!("there is no {end} that ends the substitution")),
            None => Ok(out),
        }
    }

    fn quote(&self, quote: char) -> String {
        if self.rules.keep_quotes { quote.to_string() } else { String::new() }
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        let mut out = self.quote('\'');
        loop {
            match self.next() {
                None => return wrong("a single quote is not closed"),
                Some('\'') => return Ok(out + &self.quote('\'')),
                Some(c) => out.push(c),
            }
        }
    }

    fn double_quoted(&mut self) -> Result<String, String> {
        let mut out = self.quote('"');
        loop {
            match self.next() {
                None => return wrong("a double quote is not closed"),
                Some('"') => return Ok(out + &self.quote('"')),
                Some('$') => out.push_str(&self.variable()?),
                Some(c) if c == self.rules.escape => {
                    if self.rules.keep_escapes {
                        out.push(c);
                    }
                    match self.peek() {
                        // At the end of the text: the quote is missing, which the next turn says.
                        None => {}
                        Some(escaped) if matches!(escaped, '"' | '$') || escaped == c => {
                            self.next();
                            out.push(escaped);
                        }
                        Some(_) => out.push(c),
                    }
                }
                Some(c) => out.push(c),
            }
        }
    }

    /// After a `<`: `<<` and white space after it belong to one word, so that `<< EOF` is one.
    fn heredoc_mark(&mut self) -> String {
        if self.peek() != Some('<') {
            return "<".into();
        }
        self.next();
        let mut out = "<<".to_owned();
        while let Some(c) = self.peek().filter(|c| matches!(c, ' ' | '\t' | '\r')) {
            self.next();
            out.push(c);
        }
        out
    }

    /// The value of a variable, if it has one; something when it is not known.
    fn lookup(&mut self, name: &str) -> Option<String> {
        match (self.lookup)(name) {
            Value::Set(value) => Some(value),
            Value::Unset => None,
            Value::Unknown => {
                self.is_unknown = true;
                Some(String::new())
            }
        }
    }

    /// After a `$`.
    fn variable(&mut self) -> Result<String, String> {
        if self.depth == MAX_SUBSTITUTIONS {
            return wrong(format!("substitutions lie in one another more than {MAX_SUBSTITUTIONS} deep"));
        }
        self.depth += 1;
        let value = self.value();
        self.depth -= 1;
        self.length += value.as_ref().map_or(0, String::len);
        if self.length > MAX_EXPANDED {
            return wrong(format!("its variables come to more than {} MiB", MAX_EXPANDED >> 20));
        }
        value
    }

    fn value(&mut self) -> Result<String, String> {
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            return Ok(match self.lookup(&name) {
                Some(value) => value,
                None if self.rules.keep_unset => format!("${name}"),
                None => String::new(),
            });
        }
        self.next();
        match self.peek() {
            None => return wrong("${ has no end"),
            Some(c @ ('{' | '}' | ':')) => return wrong(format!("${{{c} names no variable")),
            Some(_) => {}
        }
        let name = self.name();
        let Some(operator) = self.next() else { return wrong(format!("${{{name} has no }}")) };
        if operator == ':' {
            let Some(operator) = self.next() else { return wrong(format!("${{{name}: has no }}")) };
            return self.conditional(&name, operator, true);
        }
        match operator {
            '}' => Ok(match self.lookup(&name) {
                Some(value) => value,
                None if self.rules.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            '-' | '+' | '?' => self.conditional(&name, operator, false),
            '#' | '%' => self.trimmed(&name, operator),
            '/' => self.replaced(&name),
            other => wrong(format!("{other} is no operator in ${{{name}{other}…}}")),
        }
    }

    /// `${X-word}`, `${X+word}` and `${X?word}`; with a colon, an empty value is like none.
    fn conditional(&mut self, name: &str, operator: char, colon: bool) -> Result<String, String> {
        let mark = if colon { ":" } else { "" };
        if !matches!(operator, '-' | '+' | '?') {
            return wrong(format!("{mark}{operator} is no operator in ${{{name}{mark}{operator}…}}"));
        }
        // The word is read even where its value does not count: what is wrong in it is wrong.
        let before = std::mem::replace(&mut self.is_unknown, false);
        let word = self.until(Some('}'), false)?.text;
        let is_word_unknown = std::mem::replace(&mut self.is_unknown, before);
        let value = match (self.lookup)(name) {
            Value::Set(value) => Some(value),
            Value::Unset => None,
            Value::Unknown => {
                self.is_unknown = true;
                return Ok(String::new());
            }
        };
        let is_set = value.as_ref().is_some_and(|value| !colon || !value.is_empty());
        let keeps = value.is_none() && self.rules.keep_unset;
        self.is_unknown |= is_word_unknown && (keeps || is_set == (operator == '+'));
        match operator {
            _ if keeps => Ok(format!("${{{name}{mark}{operator}{word}}}")),
            '-' if is_set => Ok(value.unwrap_or_default()),
            '-' => Ok(word),
            '+' if is_set => Ok(word),
            '+' => Ok(String::new()),
            _ if is_set => Ok(value.unwrap_or_default()),
            _ => {
                let state = if value.is_some() { "empty" } else { "not set" };
                let message = if word.is_empty() { format!("it is {state}") } else { word };
                wrong(format!("{name}: {message}"))
            }
        }
    }

    /// `${X#pattern}`, `${X##pattern}`, `${X%pattern}`, `${X%%pattern}`.
    fn trimmed(&mut self, name: &str, operator: char) -> Result<String, String> {
        let pattern = self.until(Some('}'), true)?.text;
        let value = match self.lookup(name) {
            None if self.rules.keep_unset => return Ok(format!("${{{name}{operator}{pattern}}}")),
            value => value.unwrap_or_default(),
        };
        if self.is_unknown {
            return Ok(String::new());
        }
        let (pattern, greedy) = match pattern.strip_prefix(operator) {
            Some(pattern) => (pattern, true),
            None => (pattern.as_str(), false),
        };
        if operator == '#' {
            return trim_start(pattern, &value, greedy);
        }
        // The shortest match at an end is found from that end.
        let reversed: String = value.chars().rev().collect();
        Ok(trim_start(&reversed_pattern(pattern), &reversed, greedy)?.chars().rev().collect())
    }

    /// `${X/pattern/replacement}` and `${X//pattern/replacement}`.
    fn replaced(&mut self, name: &str) -> Result<String, String> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.until(Some('/'), true)?.text;
        let replacement = self.until(Some('}'), true)?.text;
        let value = match self.lookup(name) {
            None if self.rules.keep_unset => return Ok(format!("${{{name}/{pattern}/{replacement}}}")),
            value => value.unwrap_or_default(),
        };
        if self.is_unknown {
            return Ok(String::new());
        }
        let regex = regex(&pattern, true, false)?;
        Ok(if all {
            // Go's ReplaceAllString, and the crate's, read `$1` in the replacement.
            regex.replace_all(&value, replacement.as_str()).into_owned()
        } else {
            regex.replacen(&value, 1, regex::NoExpand(&replacement)).into_owned()
        })
    }

    /// A name, a number, or one of the shell's special parameters.
    fn name(&mut self) -> String {
        let len = match self.peek() {
            Some(c) if c.is_numeric() => self.rest.find(|c: char| !c.is_numeric()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => Some(1),
            _ => self.rest.find(|c: char| !c.is_alphanumeric() && c != '_'),
        };
        let (name, rest) = self.rest.split_at(len.unwrap_or(self.rest.len()));
        self.rest = rest;
        name.to_owned()
    }
}

fn trim_start(pattern: &str, value: &str, greedy: bool) -> Result<String, String> {
    let end = regex(pattern, greedy, true)?.find(value).map_or(0, |found| found.end());
    Ok(value[end..].to_owned())
}

/// The pattern for the reversed text; `\*` stays `\*`.
fn reversed_pattern(pattern: &str) -> String {
    let mut pieces = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        pieces.push(match (c, chars.clone().next()) {
            ('\\', Some(escaped)) => {
                chars.next();
                format!("\\{escaped}")
            }
            _ => c.to_string(),
        });
    }
    pieces.reverse();
    pieces.concat()
}

/// `*` and `?` of a shell pattern as a regular expression; there are no brackets.
fn regex(pattern: &str, greedy: bool, at_start: bool) -> Result<Regex, String> {
    let mut out = if at_start { "^".to_owned() } else { String::new() };
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' => out.push_str(if greedy { ".*" } else { ".*?" }),
            '?' => out.push('.'),
            // These end parts of the substitution; the escape is not the pattern's.
            '\\' if matches!(chars.peek(), Some('}' | '/')) => {}
            '\\' => match chars.next() {
                Some(escaped @ ('*' | '?' | '\\')) => {
                    out.push('\\');
                    out.push(escaped);
                }
                other => {
                    let other = other.map(String::from).unwrap_or_default();
                    return wrong(format!("\\{other} is no escape in the pattern {pattern}"));
                }
            },
            c => out.push_str(&regex::escape(&c.to_string())),
        }
    }
    Regex::new(&out).or_else(|_| wrong(format!("the pattern {pattern} is too long")))
}
