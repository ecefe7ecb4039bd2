//! A repository's `Release` file: what it says about itself, and the hashes of its indexes.

use std::collections::BTreeMap;

use imgforge_core::lock::is_security_suite;
use jiff::fmt::rfc2822;

use crate::control::paragraphs;
use crate::error::Error;

/// How archives of earlier states write a time (jiff's and strftime(3)'s letters).
pub(crate) const TIMESTAMP: &str = "%Y%m%dT%H%M%SZ";

/// A `Release` file that may be trusted: made from verified text only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    names: [Option<String>; 2],
    label: Option<String>,
    date: Option<String>,
    valid_until: Option<String>,
    architectures: Vec<String>,
    has_all_apart: bool,
    by_hash: bool,
    files: BTreeMap<String, (String, u64)>,
}

/// A file that a `Release` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexFile {
    /// Below `dists/SUITE/`.
    pub(crate) path: String,
    /// Lower-case hex.
    pub(crate) sha256: String,
    /// In bytes.
    pub(crate) size: u64,
    /// Whether it can be asked for by its hash.
    pub(crate) by_hash: bool,
}

impl Release {
    pub(crate) fn parse(text: &str) -> Self {
        let mut release = Self {
            names: [None, None],
            label: None,
            date: None,
            valid_until: None,
            architectures: Vec::new(),
            has_all_apart: false,
            by_hash: false,
            files: BTreeMap::new(),
        };
        let Some(paragraph) = paragraphs(text).next() else { return release };
        let field = |name| paragraph.get(name).map(str::to_owned);
        release.names = [field("Suite"), field("Codename")];
        release.label = field("Label");
        release.date = field("Date");
        release.valid_until = field("Valid-Until");
        release.architectures =
            field("Architectures").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        release.has_all_apart = release.architectures.iter().any(|a| a == "all")
            && paragraph.get("No-Support-for-Architecture-all") != Some("Packages");
        release.by_hash = paragraph.get("Acquire-By-Hash") == Some("yes");
        for line in paragraph.get("SHA256").unwrap_or("").lines() {
            let mut words = line.split_whitespace();
            if let (Some(hash), Some(size), Some(path)) = (words.next(), words.next(), words.next())
                && let Ok(size) = size.parse()
            {
                release.files.insert(path.to_owned(), (hash.to_owned(), size));
            }
        }
        release
    }

    /// Refuses a file that is of another suite, or too old at `now` (seconds since 1970).
    pub(crate) fn check(&self, url: &str, suite: &str, now: i64) -> Result<(), Error> {
        let suite = suite.trim_end_matches('/');
        if !self.names.iter().flatten().any(|name| name == suite) {
            let names: Vec<&str> = self.names.iter().flatten().map(String::as_str).collect();
            let reason = format!("this is the suite \"{}\", not \"{suite}\"", names.join("\", \""));
            return Err(Error::Metadata { url: url.to_owned(), reason });
        }
        let Some(until) = &self.valid_until else { return Ok(()) };
        let end = parse_date(until).ok_or_else(|| Error::Metadata {
            url: url.to_owned(),
            reason: format!("\"{until}\" (Valid-Until) is no date"),
        })?;
        if end < now {
            return Err(Error::Expired { url: url.to_owned(), age: age(now - end), until: until.clone() });
        }
        Ok(())
    }

    /// Whether it calls itself a suite of security updates, by a name or by its label (`Debian-Security`).
    pub(crate) fn is_security(&self) -> bool {
        let says = |label: &String| label.to_ascii_lowercase().contains("security");
        self.names.iter().flatten().any(|name| is_security_suite(name))
            || self.label.as_ref().is_some_and(says)
    }

    /// When it was made, in UTC, as archives of earlier states write a time: `20261126T210000Z`.
    pub(crate) fn date(&self) -> Option<String> {
        timestamp(parse_date(self.date.as_ref()?)?)
    }

    /// The `Packages` indexes of a component, in the smallest form that we can read.
    pub(crate) fn packages(
        &self,
        url: &str,
        component: &str,
        architecture: &str,
    ) -> Result<Vec<IndexFile>, Error> {
        let missing = |what: String| Error::Metadata { url: url.to_owned(), reason: what };
        let main = self.find(component, architecture).ok_or_else(|| {
            missing(format!(
                "it has no packages of component \"{component}\" for {architecture} (architectures: {})",
                self.architectures.join(" ")
            ))
        })?;
        let all = self.has_all_apart.then(|| self.find(component, "all")).flatten();
        Ok(std::iter::once(main).chain(all).collect())
    }

    fn find(&self, component: &str, architecture: &str) -> Option<IndexFile> {
        ["Packages.xz", "Packages.gz", "Packages"].iter().find_map(|name| {
            let path = format!("{component}/binary-{architecture}/{name}");
            let (sha256, size) = self.files.get(&path)?.clone();
            let is_hash =
                sha256.len() == 64 && sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            is_hash.then_some(IndexFile { path, sha256, size, by_hash: self.by_hash })
        })
    }
}

/// The time so many seconds after 1970 began, as archives of earlier states write it.
pub(crate) fn timestamp(seconds: i64) -> Option<String> {
    Some(jiff::Timestamp::from_second(seconds).ok()?.strftime(TIMESTAMP).to_string())
}

/// Seconds since 1970 of a date such as `Sat, 17 May 2025 08:48:41 UTC`.
fn parse_date(text: &str) -> Option<i64> {
    // RFC 2822 does not know the zone that repositories use.
    let text = text.trim();
    let text = text.strip_suffix("UTC").map_or_else(|| text.to_owned(), |rest| format!("{rest}+0000"));
    rfc2822::parse(&text).ok().map(|time| time.timestamp().as_second())
}

pub(crate) fn age(seconds: i64) -> String {
    let (number, unit) = match seconds {
        0..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn text() -> String {
        format!(
            "Suite: stable-security\nCodename: bookworm-security\nArchitectures: all amd64\n\
             No-Support-for-Architecture-all: Packages\nAcquire-By-Hash: yes\n\
             Valid-Until: Sat, 17 May 2025 08:48:41 UTC\nSHA256:\n {HASH} 9 main/binary-amd64/Packages.gz\n \
             {HASH} 7 main/binary-amd64/Packages.xz\n {HASH} 3 main/binary-all/Packages\n"
        )
    }

    #[test]
    fn the_smallest_index_is_taken_and_all_is_not_read_twice() {
        let release = Release::parse(&text());
        let found = release.packages("u", "main", "amd64").unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].path.as_str(), found[0].size), ("main/binary-amd64/Packages.xz", 7));
        let apart = Release::parse(&text().replace("No-Support-for-Architecture-all: Packages\n", ""));
        assert_eq!(apart.packages("u", "main", "amd64").unwrap().len(), 2);
        assert!(release.packages("u", "main", "arm64").unwrap_err().to_string().contains("for arm64"));
    }

    #[test]
    fn the_suite_must_fit_by_name_or_codename() {
        let release = Release::parse(&text());
        assert!(release.check("u", "bookworm-security", 0).is_ok());
        assert!(release.check("u", "stable-security", 0).is_ok());
        let error = release.check("u", "bookworm", 0).unwrap_err().to_string();
        assert!(error.contains("not \"bookworm\""), "{error}");
    }

    #[test]
    fn a_suite_of_security_updates_is_known_by_its_names_or_its_label() {
        let is_security = |text: &str| Release::parse(text).is_security();
        assert!(is_security(&text()));
        assert!(is_security("Suite: oldstable\nLabel: Debian-Security\n"));
        assert!(is_security("Suite: noble-security\nLabel: Ubuntu\n"));
        assert!(!is_security("Suite: stable\nCodename: bookworm\nLabel: Debian\n"));
    }

    #[test]
    fn its_date_is_written_as_archives_of_earlier_states_have_it() {
        let date = |text: &str| Release::parse(text).date();
        assert_eq!(
            date("Suite: s\nDate: Thu, 26 Nov 2026 21:00:05 UTC\n").as_deref(),
            Some("20261126T210005Z")
        );
        assert_eq!(
            date("Suite: s\nDate: Thu, 26 Nov 2026 22:00:05 +0100\n").as_deref(),
            Some("20261126T210005Z")
        );
        assert_eq!(date("Suite: s\nDate: tomorrow\n"), None);
        assert_eq!(date("Suite: s\n"), None);
    }

    #[test]
    fn what_has_expired_says_how_long_ago() {
        let end = parse_date("Sat, 17 May 2025 08:48:41 UTC").unwrap();
        assert_eq!(end, 1_747_471_721);
        let release = Release::parse(&text());
        assert!(release.check("u", "stable-security", end).is_ok());
        let error = release.check("u", "stable-security", end + 3 * 86_400).unwrap_err().to_string();
        assert!(error.contains("expired 3 days ago"), "{error}");
    }
}
