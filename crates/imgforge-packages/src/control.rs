//! Debian control data: paragraphs of `Field: value` lines (deb-control(5)), as apt, dpkg and repositories write them.

/// The paragraphs of `text`: what empty lines part, comment lines left out.
pub(crate) fn paragraphs(text: &str) -> impl Iterator<Item = Paragraph<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            rest = rest.trim_start_matches(['\n', '\r']);
            if rest.is_empty() {
                return None;
            }
            let end = rest.find("\n\n").map_or(rest.len(), |at| at + 1);
            let (paragraph, after) = rest.split_at(end);
            rest = after;
            if !paragraph.trim().is_empty() {
                return Some(Paragraph(paragraph));
            }
        }
    })
}

/// One paragraph.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paragraph<'a>(&'a str);

impl<'a> Paragraph<'a> {
    /// Its fields in order: the name, and the value with its continuation lines. A value's first line has no white
    /// space around it; the others are as written.
    pub(crate) fn fields(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            while !rest.is_empty() {
                let line_end = rest.find('\n').map_or(rest.len(), |at| at + 1);
                let is_field = !rest.starts_with([' ', '\t', '#']);
                let mut end = line_end;
                while is_field && rest[end..].starts_with([' ', '\t']) {
                    end = rest[end..].find('\n').map_or(rest.len(), |at| end + at + 1);
                }
                let (field, after) = rest.split_at(end);
                rest = after;
                if let Some((name, value)) = field.split_once(':').filter(|_| is_field) {
                    return Some((name, value.trim()));
                }
            }
            None
        })
    }

    /// The value of the field `name`, in any case of letters.
    pub(crate) fn get(self, name: &str) -> Option<&'a str> {
        self.fields().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_have_fields_with_continuation_lines() {
        let text = "\n\nA: 1\n# note\nB:\n x y\n .\n z\n\n\nC : 2\nno field\n";
        let all: Vec<Vec<_>> = paragraphs(text).map(|p| p.fields().collect()).collect();
        assert_eq!(all, [vec![("A", "1"), ("B", "x y\n .\n z")], vec![("C ", "2")]]);
        assert_eq!(paragraphs(text).next().and_then(|p| p.get("a")), Some("1"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[a-zA-Z:# \t\r\n.é]{0,80}") {
            for paragraph in paragraphs(&text) {
                proptest::prop_assert!(paragraph.fields().count() <= text.len());
            }
        }
    }
}
