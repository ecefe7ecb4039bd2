//! deb822: the form of Debian's control files, package indexes and dpkg's status (deb822(5)).

/// One stanza: fields by name.
pub(crate) struct Stanza<'t> {
    fields: Vec<(&'t str, &'t str)>,
}

impl<'t> Stanza<'t> {
    /// A field's value with the lines that continue it; names are compared without regard to case.
    pub(crate) fn get(&self, name: &str) -> Option<&'t str> {
        self.fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }
}

/// The stanzas of a text. Comment lines and what is no field are passed over.
pub(crate) fn stanzas(text: &str) -> impl Iterator<Item = Stanza<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut fields: Vec<(&str, &str)> = Vec::new();
        // The start of the value of the last field, in bytes from the start of `rest`.
        let mut open: Option<(&str, usize, usize)> = None;
        let mut at = 0;
        let whole = rest;
        loop {
            let line_start = at;
            let Some(line) = whole[at..].split_inclusive('\n').next() else { break };
            at += line.len();
            let bare = line.trim_end_matches(['\n', '\r']);
            if bare.trim().is_empty() {
                if open.is_some() || !fields.is_empty() {
                    break;
                }
            } else if bare.starts_with([' ', '\t']) {
                if let Some((_, _, end)) = &mut open {
                    *end = line_start + bare.len();
                }
            } else if !bare.starts_with('#') {
                fields.extend(open.take().map(|(key, from, to)| (key, whole[from..to].trim())));
                if let Some(colon) = bare.find(':') {
                    open = Some((&bare[..colon], line_start + colon + 1, line_start + bare.len()));
                }
            }
        }
        fields.extend(open.take().map(|(key, from, to)| (key, whole[from..to].trim())));
        rest = &whole[at..];
        (!fields.is_empty()).then_some(Stanza { fields })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_may_go_on_over_lines_and_comments_are_passed_over() {
        let text = "\n\nA: 1\n# no field\nB: two\n three\n four\n\n\nA: 2\nbroken line\nb: x\n";
        let read: Vec<_> = stanzas(text).map(|s| (s.get("a"), s.get("B"))).collect();
        assert_eq!(read, [(Some("1"), Some("two\n three\n four")), (Some("2"), Some("x"))]);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(?s).{0,120}") {
            let _ = stanzas(&text).count();
        }
    }
}
