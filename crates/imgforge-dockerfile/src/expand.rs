//! Variables in a word, as BuildKit's shell lexer expands them.

/// How deep substitutions (`${a:-${b:-…}}`) may lie in one another: they are read by calls in one another.
/// Dockerfiles in the wild have three.
pub(super) const MAX_SUBSTITUTIONS: usize = 64;

/// How much the values in one word may come to, in bytes: ten lines of ten references to the line before come to 10
/// GB. Linux gives no program a variable beyond 128 KiB.
pub(super) const MAX_EXPANDED: usize = 1 << 20;

/// Expands `$X`, `${X}`, `${X:-default}`, `${X-default}`, `${X:+other}` and `${X+other}`, and takes quotes away.
/// `lookup` gives a variable's value, empty for one that is certainly not set, `None` for one that cannot be known.
/// `None` when the result cannot be known.
pub(super) fn expand(text: &str, escape: char, lookup: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let mut expander = Expander { rest: text, escape, lookup, depth: 0, length: 0 };
    let out = expander.until(&[])?;
    Some(out)
}

struct Expander<'a> {
    rest: &'a str,
    escape: char,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    /// How many substitutions the text that is read lies in.
    depth: usize,
    /// The bytes of all values so far.
    length: usize,
}

impl Expander<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    /// Up to one of `ends`, which is taken away too, or the end of the text.
    fn until(&mut self, ends: &[char]) -> Option<String> {
        let mut out = String::new();
        while let Some(c) = self.next() {
            match c {
                c if ends.contains(&c) => return Some(out),
                '\'' => loop {
                    match self.next() {
                        None | Some('\'') => break,
                        Some(c) => out.push(c),
                    }
                },
                '"' => self.double_quoted(&mut out)?,
                '$' => out.push_str(&self.variable()?),
                c if c == self.escape => out.extend(self.next()),
                c => out.push(c),
            }
        }
        Some(out)
    }

    fn double_quoted(&mut self, out: &mut String) -> Option<()> {
        while let Some(c) = self.next() {
            match c {
                '"' => break,
                '$' => out.push_str(&self.variable()?),
                c if c == self.escape => match self.next() {
                    Some(c) if matches!(c, '"' | '$') || c == self.escape => out.push(c),
                    Some(other) => {
                        out.push(c);
                        out.push(other);
                    }
                    None => out.push(c),
                },
                c => out.push(c),
            }
        }
        Some(())
    }

    /// After a `$`. What lies in more substitutions than are read, or comes to more, is not known.
    fn variable(&mut self) -> Option<String> {
        self.depth += 1;
        let value = (self.depth <= MAX_SUBSTITUTIONS).then(|| self.value()).flatten();
        self.depth -= 1;
        self.length += value.as_ref().map_or(0, String::len);
        value.filter(|_| self.length <= MAX_EXPANDED)
    }

    fn value(&mut self) -> Option<String> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let braced = self.rest.starts_with('{');
        if braced {
            self.next();
        }
        let end = self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        if !braced {
            return if name.is_empty() { Some("$".into()) } else { (self.lookup)(name) };
        }
        let colon = self.rest.starts_with(':');
        if colon {
            self.next();
        }
        let operator = self.next();
        match operator {
            Some('}') if !colon => (self.lookup)(name),
            Some('-') => {
                let default = self.until(&['}']);
                let value = (self.lookup)(name)?;
                if value.is_empty() { default } else { Some(value) }
            }
            Some('+') => {
                let other = self.until(&['}']);
                let value = (self.lookup)(name)?;
                if value.is_empty() { Some(String::new()) } else { other }
            }
            // `:?`, `#`, `%`, `/` of newer frontends: the result is not known here.
            _ => None,
        }
    }
}
