//! Relations as apk's indexes write them, in the types of Debian's: `so:libz.so.1>=1.3`, parted by white space. There
//! are no alternatives among them: whatever provides a name answers it.

use crate::relation::{Alternative, Bound, Dependency, Operator, Scheme};

/// Reads relations; items that make no sense, and those that ask for one file by its checksum, are left out.
pub(crate) fn parse(text: &str) -> Vec<Dependency> {
    text.split_ascii_whitespace().filter_map(one).map(|alternative| vec![alternative]).collect()
}

/// What [`parse`] reads as these.
pub(crate) fn text(relations: &[Dependency]) -> String {
    let item = |alternative: &Alternative| match &alternative.bound {
        None => alternative.name.clone(),
        Some(bound) => {
            let operator = match bound.operator {
                Operator::Earlier => "<",
                Operator::EarlierOrEqual => "<=",
                Operator::Equal => "=",
                Operator::LaterOrEqual => ">=",
                Operator::Later => ">",
                Operator::Like => "~",
            };
            format!("{}{operator}{}", alternative.name, bound.version)
        }
    };
    relations.iter().flatten().map(item).collect::<Vec<_>>().join(" ")
}

fn one(text: &str) -> Option<Alternative> {
    let is_operator = |c: char| matches!(c, '<' | '>' | '=' | '~');
    let end = text.find(is_operator).unwrap_or(text.len());
    let (name, bound) = text.split_at(end);
    // `name@tag` asks for a repository with that tag, which a source of ours has none of.
    let name = name.split('@').next().unwrap_or(name);
    if name.is_empty() {
        return None;
    }
    let version_at = bound.find(|c: char| !is_operator(c)).unwrap_or(bound.len());
    let (operator, version) = bound.split_at(version_at);
    let operator = match operator {
        "" => return Some(Alternative::any(name)),
        "<" => Operator::Earlier,
        "<=" => Operator::EarlierOrEqual,
        "=" => Operator::Equal,
        ">=" => Operator::LaterOrEqual,
        ">" => Operator::Later,
        "~" | "=~" | "~=" => Operator::Like,
        _ => return None,
    };
    let bound = Bound { operator, scheme: Scheme::Alpine, version: version.to_owned() };
    (!version.is_empty()).then(|| Alternative { name: name.to_owned(), qualifier: None, bound: Some(bound) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_are_read_and_written() {
        let written = "so:libz.so.1 musl>=1.2.3-r0 cmd:sh=1 /bin/sh a<2 b<=2 c>1 d~1.2";
        assert_eq!(text(&parse(written)), written);
        assert_eq!(text(&parse("a=~1.2 x@edge file><Q1abc= =1 y=")), "a~1.2 x");
    }
}
