//! Relations between packages and versions: Debian's (policy, chapter 7), and Alpine's in the same types.

use std::cmp::Ordering;
use std::fmt;

use debversion::Version;

use crate::apk;

/// One item of `Depends` and its like: any of these will do, the first rather than the others.
pub type Dependency = Vec<Alternative>;

/// `name:arch (>= 1.2)`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Alternative {
    /// The package's name, or a virtual one.
    pub name: String,
    /// After a colon: `any`, `native` or an architecture.
    pub qualifier: Option<String>,
    /// Which versions will do; all when there is none.
    pub bound: Option<Bound>,
}

/// `>= 1.2`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Bound {
    /// How versions compare to `version` that are meant.
    pub operator: Operator,
    /// Whose versions these are.
    pub scheme: Scheme,
    /// The version.
    pub version: String,
}

/// Relational operators of Debian policy 7.1; `<` and `>` are read as dpkg does, as `<=` and `>=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `<<`
    Earlier,
    /// `<=`
    EarlierOrEqual,
    /// `=`
    Equal,
    /// `>=`
    LaterOrEqual,
    /// `>>`
    Later,
    /// `~` of Alpine: those that begin with the same parts.
    Like,
}

/// Whose rules relations are written and versions are compared by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// dpkg's.
    #[default]
    Debian,
    /// apk's.
    Alpine,
}

impl Scheme {
    /// Compares two versions; texts that are no versions come after all that are, in the order of bytes.
    pub fn compare(self, a: &str, b: &str) -> Ordering {
        match self {
            Self::Debian => compare_versions(a, b),
            Self::Alpine => apk::version::compare(a, b),
        }
    }

    /// Reads the value of `Depends`, `Provides`, `Conflicts` or the like; items that make no sense are left out, as
    /// their repository has signed them and other packages still can be had.
    pub fn relations(self, text: &str) -> Vec<Dependency> {
        match self {
            Self::Debian => parse_relations(text),
            Self::Alpine => apk::relation::parse(text),
        }
    }

    /// The text that [`relations`](Self::relations) reads as these.
    pub(crate) fn text(self, relations: &[Dependency]) -> String {
        match self {
            Self::Debian => {
                let item =
                    |any: &Dependency| any.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ");
                relations.iter().map(item).collect::<Vec<_>>().join(", ")
            }
            Self::Alpine => apk::relation::text(relations),
        }
    }
}

impl Operator {
    /// As written in a control file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Earlier => "<<",
            Self::EarlierOrEqual => "<=",
            Self::Equal => "=",
            Self::LaterOrEqual => ">=",
            Self::Later => ">>",
            Self::Like => "~",
        }
    }
}

impl Bound {
    /// Exactly `version`.
    pub fn exactly(version: impl Into<String>) -> Self {
        Self { operator: Operator::Equal, scheme: Scheme::Debian, version: version.into() }
    }

    /// Whether `version` is meant.
    pub fn holds(&self, version: &str) -> bool {
        let order = self.scheme.compare(version, &self.version);
        match self.operator {
            Operator::Like => apk::version::is_like(version, &self.version),
            Operator::Earlier => order.is_lt(),
            Operator::EarlierOrEqual => order.is_le(),
            Operator::Equal => order.is_eq(),
            Operator::LaterOrEqual => order.is_ge(),
            Operator::Later => order.is_gt(),
        }
    }
}

impl Alternative {
    /// Any version of `name`.
    pub fn any(name: impl Into<String>) -> Self {
        Self { name: name.into(), qualifier: None, bound: None }
    }

    /// Whether a package of `architecture` (or `all`) can be meant: we install for one architecture only.
    pub(crate) fn fits(&self, architecture: &str) -> bool {
        self.qualifier.as_deref().is_none_or(|q| q == "any" || q == "native" || q == architecture)
    }

    /// Whether a package of this version is meant, or a virtual one that is provided in this version or in none
    /// (Debian policy 7.5).
    pub(crate) fn takes_provided(&self, version: Option<&str>) -> bool {
        match (&self.bound, version) {
            (None, _) => true,
            (Some(bound), Some(version)) => bound.holds(version),
            (Some(_), None) => false,
        }
    }
}

impl fmt::Display for Alternative {
    /// As written in a control file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(qualifier) = &self.qualifier {
            write!(f, ":{qualifier}")?;
        }
        match &self.bound {
            Some(bound) => write!(f, " ({} {})", bound.operator.as_str(), bound.version),
            None => Ok(()),
        }
    }
}

/// Compares two versions as dpkg does; texts that are no versions come after all that are, in the order of bytes.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    match (a.parse::<Version>(), b.parse::<Version>()) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => a.cmp(b),
    }
}

/// Reads the value of `Depends`, `Provides`, `Conflicts` or the like; items that make no sense are left out, as their
/// repository has signed them and other packages still can be had.
pub fn parse_relations(text: &str) -> Vec<Dependency> {
    text.split(',')
        .map(|item| item.split('|').filter_map(parse_alternative).collect::<Dependency>())
        .filter(|dependency| !dependency.is_empty())
        .collect()
}

fn parse_alternative(text: &str) -> Option<Alternative> {
    let (head, bound) = match text.split_once('(') {
        Some((head, bound)) => (head, Some(parse_bound(bound)?)),
        None => (text, None),
    };
    // Architecture and profile lists (`[...]`, `<...>`) are of source packages only.
    let head = head.split(['[', '<']).next().unwrap_or(head).trim();
    let (name, qualifier) = match head.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier.trim().to_owned())),
        None => (head, None),
    };
    (!name.is_empty()).then(|| Alternative { name: name.to_owned(), qualifier, bound })
}

fn parse_bound(text: &str) -> Option<Bound> {
    let text = text.split(')').next().unwrap_or(text).trim();
    let version_at = text.find(|c| !matches!(c, '<' | '>' | '='))?;
    let (operator, version) = text.split_at(version_at);
    let operator = match operator {
        "<<" => Operator::Earlier,
        "<=" | "<" => Operator::EarlierOrEqual,
        "=" | "" => Operator::Equal,
        ">=" | ">" => Operator::LaterOrEqual,
        ">>" => Operator::Later,
        _ => return None,
    };
    Some(Bound { operator, scheme: Scheme::Debian, version: version.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_dpkg_compares_them() {
        let ascending = [
            "1.0~~", "1.0~rc1", "1.0", "1.0-1", "1.0-1+b1", "1.0-1.1", "1.0a", "1.0+dfsg", "1.2", "1.10",
            "1:0.1", "2:0",
        ];
        for pair in ascending.windows(2) {
            assert_eq!(compare_versions(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare_versions(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
        assert_eq!(compare_versions("1.0", "1.0-0"), Ordering::Equal);
        assert_eq!(compare_versions("0:1.01", "1.1"), Ordering::Equal);
        assert_eq!(compare_versions("nonsense!", "1"), Ordering::Greater);
    }

    #[test]
    fn a_relation_has_alternatives_bounds_and_qualifiers() {
        let read =
            parse_relations("libc6 (>= 2.36), debconf (>= 0.5) | debconf-2.0, python3:any, x (<<1), ,y(=2)");
        let shown: Vec<Vec<_>> = read
            .iter()
            .map(|d| {
                d.iter()
                    .map(|a| {
                        let bound = a.bound.as_ref().map(|b| format!("{}{}", b.operator.as_str(), b.version));
                        (a.name.as_str(), a.qualifier.as_deref(), bound)
                    })
                    .collect()
            })
            .collect();
        let bound = |text: &str| Some(text.to_owned());
        assert_eq!(
            shown,
            [
                vec![("libc6", None, bound(">=2.36"))],
                vec![("debconf", None, bound(">=0.5")), ("debconf-2.0", None, None)],
                vec![("python3", Some("any"), None)],
                vec![("x", None, bound("<<1"))],
                vec![("y", None, bound("=2"))],
            ]
        );
    }

    #[test]
    fn a_versioned_dependency_is_not_met_by_an_unversioned_provide() {
        let wanted = parse_relations("mail-agent (>= 2)").remove(0).remove(0);
        assert!(!wanted.takes_provided(None));
        assert!(!wanted.takes_provided(Some("1")));
        assert!(wanted.takes_provided(Some("2")));
        assert!(Alternative::any("mail-agent").takes_provided(None));
    }

    #[test]
    fn relations_are_written_as_they_are_read() {
        let text = "libc6 (>= 2.36), debconf (>= 0.5) | debconf-2.0, python3:any";
        assert_eq!(Scheme::Debian.text(&parse_relations(text)), text);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[a-z0-9:|,()<>=~. \\[\\]é-]{0,60}") {
            for alternative in parse_relations(&text).into_iter().flatten() {
                proptest::prop_assert!(!alternative.name.is_empty());
                alternative.takes_provided(Some("1.0"));
            }
        }

        #[test]
        fn comparing_versions_is_antisymmetric(a in "[0-9a-z:~.+-]{0,12}", b in "[0-9a-z:~.+-]{0,12}") {
            proptest::prop_assert_eq!(compare_versions(&a, &b), compare_versions(&b, &a).reverse());
        }
    }
}
