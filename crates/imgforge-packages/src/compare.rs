//! Does an image have exactly the packages that were locked for it?

use std::collections::BTreeMap;
use std::fmt;

use imgforge_core::lock::LockedPackage;

use crate::control::stanzas;

/// One package that is not as it was locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Locked, but not in the image.
    Missing {
        /// Its name.
        name: String,
        /// The locked version.
        locked: String,
    },
    /// In the image, but not locked.
    Extra {
        /// Its name.
        name: String,
        /// The version that is there.
        found: String,
    },
    /// Of another version.
    Version {
        /// Its name.
        name: String,
        /// The locked version.
        locked: String,
        /// The version that is there.
        found: String,
    },
    /// Not fully installed.
    State {
        /// Its name.
        name: String,
        /// Its `Status`.
        found: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name, locked } => write!(f, "{name} {locked} is locked but not installed"),
            Self::Extra { name, found } => write!(f, "{name} {found} is installed but not locked"),
            Self::Version { name, locked, found } => {
                write!(f, "{name} {found} is installed, {locked} is locked")
            }
            Self::State { name, found } => write!(f, "{name} is in the state \"{found}\""),
        }
    }
}

/// Compares the text of `/var/lib/dpkg/status` with what was locked. Packages that are gone but for their
/// configuration are none.
pub fn compare(status: &str, locked: &[LockedPackage]) -> Vec<Difference> {
    let mut expected: BTreeMap<&str, &str> =
        locked.iter().map(|package| (package.name.as_str(), package.version.as_str())).collect();
    let mut differences = Vec::new();
    for stanza in stanzas(status) {
        let field = |name| stanza.get(name).unwrap_or("");
        let (name, found, state) =
            (field("Package").to_owned(), field("Version").to_owned(), field("Status"));
        if state.ends_with("config-files") || state.ends_with("not-installed") {
            continue;
        }
        let wanted = expected.remove(name.as_str());
        if !state.ends_with(" ok installed") {
            differences.push(Difference::State { name, found: state.to_owned() });
            continue;
        }
        match wanted {
            None => differences.push(Difference::Extra { name, found }),
            Some(locked) if locked != found => {
                differences.push(Difference::Version { name, locked: locked.to_owned(), found });
            }
            Some(_) => {}
        }
    }
    let missing =
        |(name, locked): (&str, &str)| Difference::Missing { name: name.into(), locked: locked.into() };
    differences.extend(expected.into_iter().map(missing));
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_difference_is_named() {
        let locked = |name: &str, version: &str| LockedPackage {
            source: "debian".into(),
            name: name.into(),
            version: version.into(),
            architecture: "amd64".into(),
            suite: "suite".into(),
            path: String::new(),
            size: 0,
            sha256: String::new(),
        };
        let status = "Package: same\nStatus: install ok installed\nVersion: 1\n\nPackage: other\nStatus: install ok installed\nVersion: 2\n\nPackage: extra\nStatus: install ok installed\nVersion: 3\n\nPackage: half\nStatus: install ok half-configured\nVersion: 1\n\nPackage: purged\nStatus: deinstall ok config-files\nVersion: 1\n";
        let found = compare(
            status,
            &[locked("same", "1"), locked("other", "1"), locked("half", "1"), locked("gone", "1")],
        );
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "other 2 is installed, 1 is locked",
                "extra 3 is installed but not locked",
                "half is in the state \"install ok half-configured\"",
                "gone 1 is locked but not installed",
            ]
        );
    }
}
