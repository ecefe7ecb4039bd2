//! Names that are safe to use as file names, tags and labels: parsed at the door, trusted inside.

use std::fmt;

use imgforge_oci::reference::is_component;
use serde::{Deserialize, Serialize};

/// Why a string is not a name of the kind asked for; the message names the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(pub String);

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text` and makes a name of it.
            ///
            /// # Errors
            /// A [`NameError`] that says which rule `text` breaks.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                $check(&text).map_err(NameError)?;
                Ok(Self(text))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type! {
    /// The name of an image in the workspace: a repository path as the OCI distribution
    /// specification has it (lower-case letters and digits, parted by `.`, `_`, `__`, `-` or `/`).
    ImageName, check_image_name
}

name_type! {
    /// The name of a service: a safe file name (letters, digits, `_`, `-`, `.`; starts with a letter or a digit).
    ServiceName, check_service_name
}

name_type! {
    /// An image tag: at most 128 of letters, digits, `_`, `.`, `-`, not starting with `.` or `-`
    /// (OCI distribution specification, "Pulling manifests").
    Tag, check_tag
}

fn check_image_name(text: &str) -> Result<(), String> {
    if text == "scratch" {
        return Err("\"scratch\" is the empty base and cannot be the name of an image".into());
    }
    if text.len() > 128 {
        return Err("an image name has at most 128 characters".into());
    }
    if text.split('/').all(is_component) {
        Ok(())
    } else {
        Err("an image name is made of lower-case letters and digits, parted by `.`, `_`, `-` or `/`".into())
    }
}

fn check_service_name(text: &str) -> Result<(), String> {
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if text.len() <= 64 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.bytes().all(safe) {
        Ok(())
    } else {
        Err("a service name is a file name in the image: at most 64 letters, digits, `_`, `-` or `.`, \
             starting with a letter or a digit"
            .into())
    }
}

fn check_tag(text: &str) -> Result<(), String> {
    imgforge_oci::Tag::new(text).map(drop).map_err(|_| {
        "a tag has at most 128 letters, digits, `_`, `.` or `-`, and does not start with `.` or `-`".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names_follow_the_distribution_specification() {
        for good in ["a", "os-base", "a.b_c__d--e", "team/app", "0"] {
            assert!(ImageName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "-a", "a-", "a..b", "a___b", "a._b", "a//b", "/a", "a b", "é", "scratch"] {
            assert!(ImageName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn service_names_are_file_names() {
        assert!(ServiceName::new("nginx.1_a-B").is_ok());
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "-x", "ü"] {
            assert!(ServiceName::new(bad).is_err(), "{bad}");
        }
    }
}
