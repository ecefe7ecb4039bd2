//! Is an image what the lock says? The database of its packages knows.

use std::collections::BTreeMap;
use std::fmt;

use imgforge_core::lock::LockedPackage;

use crate::apk;
use crate::control::paragraphs;
use crate::index::IndexEntry;
use crate::relation::Scheme;

/// One package that is not as the lock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// It is locked but not there.
    Missing {
        /// Its name.
        name: String,
        /// The locked version.
        expected: String,
    },
    /// It is there in another version.
    Version {
        /// Its name.
        name: String,
        /// The locked version.
        expected: String,
        /// The version that is there.
        found: String,
    },
    /// It is there, but no lock asks for it.
    Unexpected {
        /// Its name.
        name: String,
        /// The version that is there.
        found: String,
    },
    /// It is there, but not fully installed.
    Incomplete {
        /// Its name.
        name: String,
        /// dpkg's word for how far it is: `unpacked`, `half-configured`...
        state: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name, expected } => write!(f, "{name} {expected} is locked, but not there"),
            Self::Version { name, expected, found } => {
                write!(f, "{name} is there in version {found}, but {expected} is locked")
            }
            Self::Unexpected { name, found } => write!(f, "{name} {found} is there, but not locked"),
            Self::Incomplete { name, state } => write!(f, "{name} is not fully installed ({state})"),
        }
    }
}

/// Compares the text of a database (see [`database_paths`](crate::database_paths)) with the packages that an image
/// and its parents have locked. Sorted by name. Packages that are removed, with or without their configuration, count
/// as not there.
pub fn compare(scheme: Scheme, database: &str, expected: &[LockedPackage]) -> Vec<Difference> {
    let of_apk: Vec<IndexEntry> = match scheme {
        Scheme::Debian => Vec::new(),
        Scheme::Alpine => apk::entries(database).collect(),
    };
    let mut found: BTreeMap<&str, (&str, &str)> =
        of_apk.iter().map(|entry| (entry.name.as_str(), (entry.version.as_str(), "installed"))).collect();
    let of_dpkg = paragraphs(database).filter(|_| scheme == Scheme::Debian);
    for paragraph in of_dpkg {
        let state = paragraph.get("Status").and_then(|status| status.split(' ').nth(2)).unwrap_or("");
        if let (Some(name), false) =
            (paragraph.get("Package"), matches!(state, "not-installed" | "config-files" | ""))
        {
            found.insert(name, (paragraph.get("Version").unwrap_or(""), state));
        }
    }
    let mut locked: BTreeMap<&str, &str> =
        expected.iter().map(|p| (p.name.as_str(), p.version.as_str())).collect();
    let mut differences = Vec::new();
    for (name, (version, state)) in found {
        let name = name.to_owned();
        match locked.remove(name.as_str()) {
            Some(expected) if expected != version => differences.push(Difference::Version {
                name: name.clone(),
                expected: expected.to_owned(),
                found: version.to_owned(),
            }),
            Some(_) => {}
            None => {
                differences.push(Difference::Unexpected { name: name.clone(), found: version.to_owned() });
            }
        }
        if state != "installed" {
            differences.push(Difference::Incomplete { name, state: state.to_owned() });
        }
    }
    let missing = locked
        .into_iter()
        .map(|(name, version)| Difference::Missing { name: name.to_owned(), expected: version.to_owned() });
    differences.extend(missing);
    differences.sort_by(|a, b| a.name().cmp(b.name()));
    differences
}

impl Difference {
    /// The package.
    pub fn name(&self) -> &str {
        match self {
            Self::Missing { name, .. }
            | Self::Version { name, .. }
            | Self::Unexpected { name, .. }
            | Self::Incomplete { name, .. } => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked(name: &str, version: &str) -> LockedPackage {
        LockedPackage {
            source: "debian".into(),
            name: name.into(),
            version: version.into(),
            architecture: "amd64".into(),
            suite: "stable".into(),
            ..LockedPackage::default()
        }
    }

    #[test]
    fn every_way_to_differ_is_told() {
        let status = "\
Package: same\nStatus: install ok installed\nVersion: 1\nDescription: a\n b\n .\n\n\
Package: other\nStatus: install ok installed\nVersion: 2\n\n\
Package: more\nStatus: install ok installed\nVersion: 3\n\n\
Package: half\nStatus: install reinstreq half-installed\nVersion: 1\n\n\
Package: purged\nStatus: deinstall ok config-files\nVersion: 1\n";
        let expected = ["same", "other", "half", "gone"].map(|name| locked(name, "1"));
        let shown: Vec<String> =
            compare(Scheme::Debian, status, &expected).iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "gone 1 is locked, but not there",
                "half is not fully installed (half-installed)",
                "more 3 is there, but not locked",
                "other is there in version 2, but 1 is locked",
            ]
        );
        assert_eq!(compare(Scheme::Debian, "", &[]), []);
    }
}
