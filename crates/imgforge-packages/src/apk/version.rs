//! Versions as apk compares them (apk-package(5), and `src/version.c` of apk-tools).
//!
//! `1.2.3b_rc4_p1~1a2b3c-r5`: numbers parted by dots, a letter, suffixes with numbers, a commit, a revision.

use std::cmp::Ordering;

/// One part of a version. The order of the kinds is that of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part<'v> {
    /// After a dot; none of it begins with a zero.
    Number(&'v str),
    /// After a dot: so many zeros that a number begins with, which come before all numbers, fewer of them later.
    Zeros(usize),
    /// The first number of all, and what follows zeros.
    Digits(&'v str),
    Letter(u8),
    Suffix(usize),
    SuffixNumber(&'v str),
    Commit(&'v str),
    Revision(&'v str),
}

/// Suffixes that come before a version without one, in their order.
const BEFORE: &[&str] = &["alpha", "beta", "pre", "rc"];
/// Suffixes that come after it.
const AFTER: &[&str] = &["cvs", "svn", "git", "hg", "p"];

impl Part<'_> {
    fn kind(self) -> usize {
        match self {
            Self::Number(_) | Self::Zeros(_) => 0,
            Self::Digits(_) => 1,
            Self::Letter(_) => 2,
            Self::Suffix(_) => 3,
            Self::SuffixNumber(_) => 4,
            Self::Commit(_) => 5,
            Self::Revision(_) => 6,
        }
    }

    fn is_before(self) -> bool {
        matches!(self, Self::Suffix(rank) if rank < BEFORE.len())
    }

    fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Number(a), Self::Number(b))
            | (Self::Digits(a), Self::Digits(b))
            | (Self::SuffixNumber(a), Self::SuffixNumber(b))
            | (Self::Revision(a), Self::Revision(b)) => numbers(a, b),
            (Self::Zeros(a), Self::Zeros(b)) => b.cmp(&a),
            (Self::Zeros(_), Self::Number(_)) => Ordering::Less,
            (Self::Number(_), Self::Zeros(_)) => Ordering::Greater,
            (Self::Letter(a), Self::Letter(b)) => a.cmp(&b),
            (Self::Suffix(a), Self::Suffix(b)) => a.cmp(&b),
            (Self::Commit(a), Self::Commit(b)) => a.cmp(b),
            _ => Ordering::Equal,
        }
    }
}

/// Compares two versions; texts that are no versions come after all that are, in the order of bytes.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    match (parts(a), parts(b)) {
        (Some(a), Some(b)) => compare_parts(&a, &b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// Whether a version begins with the parts of another: `1.2.3-r0` is like `1.2`.
pub(crate) fn is_like(version: &str, start: &str) -> bool {
    match (parts(version), parts(start)) {
        (Some(version), Some(start)) => {
            start.len() <= version.len() && compare_parts(&version[..start.len()], &start).is_eq()
        }
        _ => version == start,
    }
}

/// Whether a text is a version.
pub(crate) fn is_version(text: &str) -> bool {
    parts(text).is_some()
}

fn compare_parts(a: &[Part<'_>], b: &[Part<'_>]) -> Ordering {
    let mut pairs = a.iter().zip(b);
    let differ = |(a, b): (&Part<'_>, &Part<'_>)| {
        if a.kind() == b.kind() {
            return Some(a.compare(*b)).filter(|order| order.is_ne());
        }
        // A suffix such as `_rc1` comes before anything that could stand in its place.
        Some(match (a.is_before(), b.is_before()) {
            (true, _) => Ordering::Less,
            (_, true) => Ordering::Greater,
            // Otherwise the one that goes on with an earlier kind of part has more of the others.
            _ => b.kind().cmp(&a.kind()),
        })
    };
    if let Some(order) = pairs.find_map(differ) {
        return order;
    }
    match (a.get(b.len()), b.get(a.len())) {
        (Some(more), _) if more.is_before() => Ordering::Less,
        (Some(_), _) => Ordering::Greater,
        (_, Some(more)) if more.is_before() => Ordering::Greater,
        (_, Some(_)) => Ordering::Less,
        (None, None) => Ordering::Equal,
    }
}

/// Compares runs of digits of any length; none is 0.
fn numbers(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

fn parts(text: &str) -> Option<Vec<Part<'_>>> {
    let (first, mut rest) = digits(text)?;
    let mut parts = vec![Part::Digits(first)];
    while let Some(after) = rest.strip_prefix('.') {
        let (number, after) = digits(after)?;
        let without = number.trim_start_matches('0');
        if without.len() == number.len() {
            parts.push(Part::Number(number));
        } else {
            parts.push(Part::Zeros(number.len() - without.len()));
            // Nothing counts as 0, but at the end.
            if !(without.is_empty() && after.is_empty()) {
                parts.push(Part::Digits(without));
            }
        }
        rest = after;
    }
    if let Some(letter) = rest.bytes().next().filter(u8::is_ascii_lowercase) {
        parts.push(Part::Letter(letter));
        rest = &rest[1..];
    }
    while let Some(after) = rest.strip_prefix('_') {
        let end = after.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(after.len());
        let word = &after[..end];
        let rank = BEFORE.iter().chain(AFTER).position(|known| *known == word)?;
        parts.push(Part::Suffix(rank));
        rest = &after[end..];
        if let Some((number, after)) = digits(rest) {
            parts.push(Part::SuffixNumber(number));
            rest = after;
        }
    }
    if let Some(after) = rest.strip_prefix('~') {
        let end = after.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(after.len());
        (end > 0).then_some(())?;
        parts.push(Part::Commit(&after[..end]));
        rest = &after[end..];
    }
    if let Some(after) = rest.strip_prefix("-r") {
        let (number, after) = digits(after)?;
        parts.push(Part::Revision(number));
        rest = after;
    }
    rest.is_empty().then_some(parts)
}

/// The digits that a text begins with, at least one, and what follows.
fn digits(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_apk_compares_them() {
        let ascending = [
            "0.9",
            "1.2_alpha",
            "1.2_alpha2",
            "1.2_beta",
            "1.2_pre1",
            "1.2_rc1",
            "1.2",
            "1.2-r1",
            "1.2-r10",
            "1.2_git20240101",
            "1.2_p1",
            "1.2_p1-r3",
            "1.2_p2_rc1",
            "1.2_p2",
            "1.2a",
            "1.2b",
            "1.2.01",
            "1.2.1",
            "1.10_rc9",
            "1.10",
            "2",
            "10",
            "20240101",
        ];
        for (at, a) in ascending.iter().enumerate() {
            for (other, b) in ascending.iter().enumerate() {
                assert_eq!(compare(a, b), at.cmp(&other), "{a} {b}");
            }
        }
        assert_eq!(compare("nonsense", "1"), Ordering::Greater);
        assert_eq!(compare("1.0-r00", "1.0-r0"), Ordering::Equal);
        assert_eq!(compare("1.09", "1.010"), Ordering::Less);
    }

    #[test]
    fn a_version_is_like_what_it_begins_with() {
        for (version, start, expected) in [
            ("1.2.3-r0", "1.2", true),
            ("1.2.3-r0", "1.2.3-r0", true),
            ("1.20.3-r0", "1.2", false),
            ("1.2", "1.2.3", false),
            ("1.2_rc1", "1.2", true),
        ] {
            assert_eq!(is_like(version, start), expected, "{version} {start}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_order_is_one(texts in proptest::collection::vec("[0-9]{1,2}(\\.[0-9]{1,2}){0,2}[ab]?(_(rc|p|git)[0-9]?){0,2}(-r[0-9])?", 3)) {
            let [a, b, c] = [&texts[0], &texts[1], &texts[2]];
            proptest::prop_assert_eq!(compare(a, b), compare(b, a).reverse());
            if compare(a, b).is_le() && compare(b, c).is_le() {
                proptest::prop_assert!(compare(a, c).is_le(), "{} {} {}", a, b, c);
            }
        }
    }
}
