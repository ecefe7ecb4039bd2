//! References: how people name images.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::{Error, clean};

/// The longest tag (distribution specification, "Pulling manifests": `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`).
const TAG_LENGTH: usize = 128;
/// The longest host and repository together (distribution specification, note on `<name>`).
const NAME_LENGTH: usize = 255;
/// Where Docker's short forms point to.
const DOCKER_HUB: &str = "docker.io";

/// A manifest of a repository: by tag or by digest (distribution specification, "Pulling manifests", `<reference>`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// A name that can be moved.
    Tag(String),
    /// These bytes and no others.
    Digest(Digest),
}

impl Reference {
    /// A tag, if `text` is one.
    ///
    /// # Errors
    /// [`Error::Reference`] when the text is no tag.
    pub fn tag(text: &str) -> Result<Self, Error> {
        let tag = Self::Tag(text.to_owned());
        tag.check()?;
        Ok(tag)
    }

    /// Tags are checked before they become part of an address.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self {
            Self::Tag(tag) => check_tag(tag).map_err(|reason| error(tag, reason)),
            Self::Digest(_) => Ok(()),
        }
    }
}

impl From<&Digest> for Reference {
    fn from(digest: &Digest) -> Self {
        Self::Digest(digest.clone())
    }
}

impl From<Digest> for Reference {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.pad(tag),
            Self::Digest(digest) => f.pad(digest.as_str()),
        }
    }
}

/// `HOST/REPOSITORY:TAG@DIGEST`, with Docker's short forms written out: `alpine:3.22` is
/// `docker.io/library/alpine:3.22`.
///
/// The grammar is that of the distribution specification ("Pulling manifests") for the repository and the tag; what is
/// a host is decided as Docker does: the first part, when it is `localhost` or has a dot, a colon or a capital.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageReference {
    /// `docker.io`, `127.0.0.1:5000`.
    pub host: String,
    /// `library/alpine`.
    pub repository: String,
    /// `3.22`.
    pub tag: Option<String>,
    /// `sha256:...`.
    pub digest: Option<Digest>,
}

impl ImageReference {
    /// What to ask the registry for: the digest, or else the tag, or else `latest`.
    pub fn reference(&self) -> Reference {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => Reference::Digest(digest.clone()),
            (None, Some(tag)) => Reference::Tag(tag.clone()),
            (None, None) => Reference::Tag("latest".to_owned()),
        }
    }
}

impl FromStr for ImageReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|reason| error(text, reason))
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn error(text: &str, reason: impl Into<String>) -> Error {
    Error::Reference { text: clean(text), reason: reason.into() }
}

fn parse(text: &str) -> Result<ImageReference, String> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse()?)),
        None => (text, None),
    };
    // A colon before the last slash belongs to the host's port.
    let name_end = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[name_end..].split_once(':') {
        Some((last, tag)) => (&rest[..name_end + last.len()], Some(tag)),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (host, repository) = match name.split_once('/') {
        Some((first, rest)) if is_host(first) => (first, rest.to_owned()),
        _ => (DOCKER_HUB, name.to_owned()),
    };
    let host = if host == "index.docker.io" { DOCKER_HUB } else { host };
    let repository = if host == DOCKER_HUB && !repository.contains('/') {
        if repository.len() == 64 && repository.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("64 hex digits are an image's id, which no registry knows: give a name".to_owned());
        }
        format!("library/{repository}")
    } else {
        repository
    };
    check_host(host)?;
    check_repository(&repository)?;
    if host.len() + 1 + repository.len() > NAME_LENGTH {
        return Err(format!("host and repository have at most {NAME_LENGTH} characters"));
    }
    Ok(ImageReference { host: host.to_owned(), repository, tag: tag.map(str::to_owned), digest })
}

/// Docker's rule for what the first part of a name is.
fn is_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

/// A host name, an IPv4 address or an IPv6 address in brackets, and maybe a port.
pub(crate) fn check_host(host: &str) -> Result<(), String> {
    let wrong = || "a host is a name or an address with, after a colon, maybe a port".to_owned();
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            ("", if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(wrong)?) })
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let is_name = host.starts_with('[') || name.split('.').all(is_label);
    if is_name && port.is_none_or(is_port) { Ok(()) } else { Err(wrong()) }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` between slashes (distribution specification, "Pulling manifests", `<name>`).
pub(crate) fn check_repository(repository: &str) -> Result<(), String> {
    let wrong = |part: &str| {
        let what = if part.bytes().any(|b| b.is_ascii_uppercase()) {
            format!("\"{}\" has capitals, which repositories have not", clean(part))
        } else if part.is_empty() {
            "a part of the repository's name is empty".to_owned()
        } else {
            format!(
                "\"{}\" is no part of a repository's name: a-z and 0-9, with single `.`, `_`, `__` or any number of \
                 `-` between them",
                clean(part)
            )
        };
        Err(what)
    };
    for part in repository.split('/') {
        let mut separator = String::new();
        let mut is_first = true;
        for c in part.chars() {
            match c {
                'a'..='z' | '0'..='9' => {
                    let is_good = matches!(separator.as_str(), "" | "." | "_" | "__")
                        || separator.bytes().all(|b| b == b'-');
                    if !is_good || (is_first && !separator.is_empty()) {
                        return wrong(part);
                    }
                    separator.clear();
                    is_first = false;
                }
                '.' | '_' | '-' => separator.push(c),
                _ => return wrong(part),
            }
        }
        if is_first || !separator.is_empty() {
            return wrong(part);
        }
    }
    Ok(())
}

fn check_tag(tag: &str) -> Result<(), String> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let starts_well = tag.bytes().next().is_some_and(is_word);
    if !starts_well || !tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-') {
        return Err(format!(
            "\"{}\" is no tag: letters, digits, `_`, `.` and `-`, the first of them no `.` or `-`",
            clean(tag)
        ));
    }
    if tag.len() > TAG_LENGTH {
        return Err(format!("a tag has at most {TAG_LENGTH} characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn short_forms_are_written_out_as_docker_does() {
        for (text, whole) in [
            ("alpine", "docker.io/library/alpine"),
            ("alpine:3.22", "docker.io/library/alpine:3.22"),
            ("acme/web", "docker.io/acme/web"),
            ("docker.io/alpine", "docker.io/library/alpine"),
            ("index.docker.io/acme/web:1", "docker.io/acme/web:1"),
            ("localhost/web", "localhost/web"),
            ("127.0.0.1:5000/web", "127.0.0.1:5000/web"),
            ("registry.example.com/a/b/c:1_2.3-4", "registry.example.com/a/b/c:1_2.3-4"),
            ("[::1]:5000/web", "[::1]:5000/web"),
            ("Host/web", "Host/web"),
            ("a__b/c---d.e_f", "docker.io/a__b/c---d.e_f"),
        ] {
            assert_eq!(
                text.parse::<ImageReference>().map(|r| r.to_string()).ok().as_deref(),
                Some(whole),
                "{text}"
            );
        }
        let both: ImageReference = format!("127.0.0.1:5000/web:1@{DIGEST}").parse().unwrap();
        assert_eq!((both.tag.as_deref(), both.reference().to_string().as_str()), (Some("1"), DIGEST));
        assert_eq!("alpine".parse::<ImageReference>().unwrap().reference().to_string(), "latest");
    }

    #[test]
    fn what_is_no_reference_is_refused_with_a_reason() {
        for (text, said) in [
            ("", "empty"),
            ("Web", "capitals"),
            ("example.com/Web", "capitals"),
            ("example.com/", "empty"),
            ("a//b", "empty"),
            ("web:", "no tag"),
            ("web:.x", "no tag"),
            ("web:a b", "no tag"),
            ("web@sha256:abc", "64 digits"),
            ("web@", "digest"),
            ("example.com:port/web", "port"),
            ("-x.example.com/web", "host"),
            ("a..b/web", "host"),
            ("a___b", "no part"),
            ("a._b", "no part"),
            ("_a", "no part"),
            ("a-", "no part"),
            ("https://example.com/web", "host"),
            (&DIGEST[7..], "image's id"),
            (&format!("web:{}", "x".repeat(129)), "128"),
            (&format!("example.com/{}", "x".repeat(250)), "255"),
            ("a\u{1b}[31m", "no part"),
        ] {
            let error = text.parse::<ImageReference>().unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
            assert!(!error.contains('\u{1b}'), "{error:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_parsed_is_written_so_that_it_means_the_same(text in "[a-zA-Z0-9:/@._\\[\\]-]{0,40}") {
            if let Ok(reference) = text.parse::<ImageReference>() {
                prop_assert_eq!(reference.to_string().parse::<ImageReference>().unwrap(), reference);
            }
        }

        #[test]
        fn names_by_the_grammar_are_taken(
            host in "(localhost|[a-z]{1,5}\\.[a-z]{2,4}|127\\.0\\.0\\.1)(:[1-9][0-9]{0,3})?",
            parts in prop::collection::vec("[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}", 1..4),
            tag in prop::option::of("[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}"),
            is_pinned in any::<bool>(),
        ) {
            let repository = parts.join("/");
            let mut text = format!("{host}/{repository}");
            text += &tag.as_ref().map_or_else(String::new, |tag| format!(":{tag}"));
            text += &if is_pinned { format!("@{DIGEST}") } else { String::new() };
            let reference: ImageReference = text.parse().unwrap();
            prop_assert_eq!(&reference.host, &host);
            prop_assert_eq!(&reference.repository, &repository);
            prop_assert_eq!(&reference.tag, &tag);
            prop_assert_eq!(reference.digest.is_some(), is_pinned);
            prop_assert_eq!(reference.to_string(), text);
        }
    }
}
