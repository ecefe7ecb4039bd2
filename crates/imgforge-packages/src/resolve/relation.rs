//! Versions and relations as Debian policy has them (chapter 7, section 5.6.12).

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A version as written, and taken apart for comparison.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    text: String,
    parsed: debversion::Version,
}

impl Version {
    pub(crate) fn new(text: &str) -> Option<Self> {
        Some(Self { text: text.to_owned(), parsed: text.parse().ok()? })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Version {}
impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parsed.cmp(&other.parsed)
    }
}
impl std::hash::Hash for Version {
    /// `1.0` and `1.00` are equal: only what equal versions share may count.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.parsed.epoch.unwrap_or(0).hash(state);
    }
}
impl Serialize for Version {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
    }
}
impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).ok_or_else(|| serde::de::Error::custom("not a version"))
    }
}

/// How a version is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Operator {
    Earlier,
    EarlierOrEqual,
    Equal,
    LaterOrEqual,
    Later,
}

impl Operator {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Earlier => order.is_lt(),
            Self::EarlierOrEqual => order.is_le(),
            Self::Equal => order.is_eq(),
            Self::LaterOrEqual => order.is_ge(),
            Self::Later => order.is_gt(),
        }
    }
}

/// `name (>= version)`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Relation {
    pub(crate) name: String,
    pub(crate) version: Option<(Operator, Version)>,
}

/// Alternatives: `a | b (>= 2)`, of which one is enough.
pub(crate) type Group = Vec<Relation>;

impl Relation {
    /// Whether a package of this version satisfies it.
    pub(crate) fn admits(&self, version: &Version) -> bool {
        self.version.as_ref().is_none_or(|(operator, wanted)| operator.holds(version.cmp(wanted)))
    }

    /// Whether a name that is provided, maybe with a version, satisfies it: a relation with a version is satisfied
    /// only by a Provides with one (policy 7.5).
    pub(crate) fn admits_provided(&self, version: Option<&Version>) -> bool {
        match (&self.version, version) {
            (None, _) => true,
            (Some(_), Some(version)) => self.admits(version),
            (Some(_), None) => false,
        }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some((operator, version)) = &self.version {
            let sign = match operator {
                Operator::Earlier => "<<",
                Operator::EarlierOrEqual => "<=",
                Operator::Equal => "=",
                Operator::LaterOrEqual => ">=",
                Operator::Later => ">>",
            };
            write!(f, " ({sign} {})", version.text())?;
        }
        Ok(())
    }
}

/// A relationship field. What cannot be read is left out of its group; a group of nothing is left out.
pub(crate) fn parse_relations(field: &str) -> Vec<Group> {
    let groups = field.split(',').map(|group| group.split('|').filter_map(parse_relation).collect::<Group>());
    groups.filter(|group| !group.is_empty()).collect()
}

fn parse_relation(text: &str) -> Option<Relation> {
    let text = text.trim();
    let (name, rest) = match text.find(|c: char| c.is_whitespace() || c == '(' || c == '[') {
        Some(end) => (&text[..end], text[end..].trim_start()),
        None => (text, ""),
    };
    // `:any` and `:native` are satisfied by the one architecture that is installed; others never are.
    let (name, qualifier) = name.split_once(':').unwrap_or((name, "any"));
    if name.is_empty() || !matches!(qualifier, "any" | "native" | "amd64") {
        return None;
    }
    let version = match rest.strip_prefix('(') {
        Some(inner) => Some(parse_version(inner.split(')').next()?)?),
        None => None,
    };
    Some(Relation { name: name.to_owned(), version })
}

fn parse_version(text: &str) -> Option<(Operator, Version)> {
    let text = text.trim();
    let digits = text.find(|c: char| !matches!(c, '<' | '>' | '=')).unwrap_or(text.len());
    let operator = match &text[..digits] {
        "<<" => Operator::Earlier,
        // `<` and `>` mean `<=` and `>=`, as dpkg reads them.
        "<=" | "<" => Operator::EarlierOrEqual,
        "=" => Operator::Equal,
        ">=" | ">" => Operator::LaterOrEqual,
        ">>" => Operator::Later,
        _ => return None,
    };
    Some((operator, Version::new(text[digits..].trim())?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_are_ordered_as_policy_has_it() {
        let ordered =
            ["1.0~~", "1.0~rc1", "1.0", "1.0-1", "1.0-1+b1", "1.0a", "1.0+x", "1.1", "1.10", "1:0.1"];
        for pair in ordered.windows(2) {
            assert!(Version::new(pair[0]) < Version::new(pair[1]), "{pair:?}");
        }
        assert_eq!(Version::new("1.0"), Version::new("1.00"));
    }

    #[test]
    fn relations_are_read_as_written() {
        let read = |field: &str| {
            let groups = parse_relations(field);
            groups
                .iter()
                .map(|g| g.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "))
                .collect::<Vec<_>>()
        };
        assert_eq!(read("a, b (>= 1:2-3) | c:any(<<4), d [amd64]"), ["a", "b (>= 1:2-3) | c (<< 4)", "d"]);
        assert_eq!(read("a:i386 | b"), ["b"]);
        assert_eq!(read(" , a ( = 1 )\n , "), ["a (= 1)"]);
    }

    #[test]
    fn only_a_versioned_provides_satisfies_a_versioned_relation() {
        let relation = &parse_relations("a (>= 2)")[0][0];
        assert!(!relation.admits_provided(None));
        assert!(relation.admits_provided(Version::new("2").as_ref()));
        assert!(!relation.admits_provided(Version::new("1").as_ref()));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "\\PC{0,60}") {
            let _ = parse_relations(&text);
        }
    }
}
