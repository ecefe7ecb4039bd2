//! References: how people name images. One grammar for all of them, that of Distribution's references:
//!
//! ```text
//! reference        := name [ ":" tag ] [ "@" digest ]
//! name             := [ host [ ":" port ] "/" ] component { "/" component }
//! host             := label { "." label } | "[" IPv6 address "]"
//! label            := letters and digits, and `-` between them
//! component        := a-z and 0-9, with ".", "_", "__" or any number of "-" between them
//! tag              := a letter, a digit or "_", and up to 127 of these, "." and "-"
//! digest           := see Digest
//! ```
//!
//! What is a host is decided as Docker does: the first part, when it is `localhost` or has a dot, a colon or a
//! capital. Beyond the grammar, what is a host by that rule is one by the grammar too, a port is one, an IPv6 address
//! is one, host and repository have at most 255 characters together (distribution specification, note on `<name>`),
//! and 64 hex digits alone are an image's id and no name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The longest tag.
const TAG_LENGTH: usize = 128;
/// The longest host and repository together.
const NAME_LENGTH: usize = 255;
/// Where Docker's short forms point to.
pub const DOCKER_HUB: &str = "docker.io";
/// The tag that is meant where none is said.
pub const LATEST: &str = "latest";

/// Why a text is no reference, or no part of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{}\" is not an image reference: {reason}", shown(.text))]
pub struct ReferenceError {
    text: String,
    reason: String,
}

impl ReferenceError {
    fn of(text: &str) -> impl FnOnce(String) -> Self {
        |reason| Self { text: text.to_owned(), reason }
    }

    /// Returns what is wrong, in a few words.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// The parts of a reference as they are written, not checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts<'t> {
    /// All before the tag and the digest.
    pub name: &'t str,
    /// After the colon.
    pub tag: Option<&'t str>,
    /// After the `@`.
    pub digest: Option<&'t str>,
}

impl<'t> Parts<'t> {
    /// Takes a text apart. A colon before the last slash belongs to a host's port.
    pub fn of(text: &'t str) -> Self {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        match rest[last..].find(':') {
            Some(colon) => Self { name: &rest[..last + colon], tag: Some(&rest[last + colon + 1..]), digest },
            None => Self { name: rest, tag: None, digest },
        }
    }

    /// Returns the last part of the name: `web` of `registry.example.com/acme/web`.
    pub fn last(&self) -> &'t str {
        self.name.rsplit('/').next().unwrap_or(self.name)
    }

    /// Returns whether the name begins with a registry's host.
    pub fn has_host(&self) -> bool {
        self.name.split_once('/').is_some_and(|(first, _)| is_host(first))
    }
}

impl fmt::Display for Parts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_reference(f, self.name, self.tag, self.digest)
    }
}

fn write_reference(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    tag: Option<&str>,
    digest: Option<&str>,
) -> fmt::Result {
    f.write_str(name)?;
    tag.map_or(Ok(()), |tag| write!(f, ":{tag}"))?;
    digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
}

/// An image tag: at most 128 of letters, digits, `_`, `.`, `-`, not starting with `.` or `-` (distribution
/// specification, "Pulling manifests").
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

impl Tag {
    /// Makes a tag of a text.
    ///
    /// # Errors
    /// Returns a [`ReferenceError`] that says which rule the text breaks.
    pub fn new(text: impl Into<String>) -> Result<Self, ReferenceError> {
        let text = text.into();
        check_tag(&text).map_err(ReferenceError::of(&text))?;
        Ok(Self(text))
    }

    /// Returns the tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Tag {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        Self::new(text)
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> Self {
        tag.0
    }
}

impl AsRef<str> for Tag {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Tag {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A manifest of a repository: by tag or by digest (distribution specification, "Pulling manifests", `<reference>`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TagOrDigest {
    /// A name that can be moved.
    Tag(Tag),
    /// These bytes and no others.
    Digest(Digest),
}

impl TagOrDigest {
    /// Makes a tag of a text.
    ///
    /// # Errors
    /// Returns the errors of [`Tag::new`].
    pub fn tag(text: &str) -> Result<Self, ReferenceError> {
        Tag::new(text).map(Self::Tag)
    }
}

impl From<Tag> for TagOrDigest {
    fn from(tag: Tag) -> Self {
        Self::Tag(tag)
    }
}

impl From<&Digest> for TagOrDigest {
    fn from(digest: &Digest) -> Self {
        Self::Digest(digest.clone())
    }
}

impl From<Digest> for TagOrDigest {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

impl fmt::Display for TagOrDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.pad(tag.as_str()),
            Self::Digest(digest) => f.pad(digest.as_str()),
        }
    }
}

/// `HOST/REPOSITORY:TAG@DIGEST`, with Docker's short forms written out: `alpine:3.22` is
/// `docker.io/library/alpine:3.22`. As JSON, it is that text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    /// `docker.io`, `127.0.0.1:5000`.
    pub host: String,
    /// `library/alpine`.
    pub repository: String,
    /// `3.22`.
    pub tag: Option<Tag>,
    /// `sha256:...`.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Returns what to ask the registry for: the digest, or else the tag, or else `latest`.
    pub fn wanted(&self) -> TagOrDigest {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => TagOrDigest::Digest(digest.clone()),
            (None, Some(tag)) => TagOrDigest::Tag(tag.clone()),
            (None, None) => TagOrDigest::Tag(Tag(LATEST.to_owned())),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(ReferenceError::of(text))
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{}/{}", self.host, self.repository);
        write_reference(
            f,
            &name,
            self.tag.as_ref().map(Tag::as_str),
            self.digest.as_ref().map(Digest::as_str),
        )
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    let Parts { name, tag, digest } = Parts::of(text);
    let digest = digest.map(Digest::from_str).transpose().map_err(|error| error.to_string())?;
    let tag = tag.map(|tag| check_tag(tag).map(|()| Tag(tag.to_owned()))).transpose()?;
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
    check_path(&repository)?;
    if host.len() + 1 + repository.len() > NAME_LENGTH {
        return Err(format!("host and repository have at most {NAME_LENGTH} characters"));
    }
    Ok(Reference { host: host.to_owned(), repository, tag, digest })
}

/// Returns whether the first part of a name is a host, by Docker's rule.
fn is_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_tag(tag: &str) -> Result<(), String> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let starts_well = tag.bytes().next().is_some_and(is_word);
    if !starts_well || !tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-') {
        return Err(format!(
            "\"{}\" is no tag: letters, digits, `_`, `.` and `-`, the first of them no `.` or `-`",
            shown(tag)
        ));
    }
    if tag.len() > TAG_LENGTH {
        return Err(format!("a tag has at most {TAG_LENGTH} characters"));
    }
    Ok(())
}

/// Checks a host name, an IPv4 address or an IPv6 address in brackets, and maybe a port.
///
/// # Errors
/// Returns what is wrong, in a few words.
pub fn check_host(host: &str) -> Result<(), String> {
    let wrong = || "a host is a name or an address with, after a colon, maybe a port".to_owned();
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let (is_host, port) = if let Some(bracketed) = host.strip_prefix('[') {
        let (address, rest) = bracketed.split_once(']').ok_or_else(wrong)?;
        let is_address = address.parse::<std::net::Ipv6Addr>().is_ok() && !address.contains('.');
        let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(wrong)?) };
        (is_address, port)
    } else {
        let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
        (name.split('.').all(is_label), port)
    };
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if is_host && port.is_none_or(is_port) { Ok(()) } else { Err(wrong()) }
}

/// Checks a repository's name: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` between slashes (distribution specification,
/// "Pulling manifests", `<name>`).
fn check_path(repository: &str) -> Result<(), String> {
    let Some(wrong) = repository.split('/').find(|part| !is_component(part)) else { return Ok(()) };
    Err(if wrong.bytes().any(|b| b.is_ascii_uppercase()) {
        format!("\"{}\" has capitals, which repositories have not", shown(wrong))
    } else if wrong.is_empty() {
        "a part of the repository's name is empty".to_owned()
    } else {
        format!(
            "\"{}\" is no part of a repository's name: a-z and 0-9, with single `.`, `_`, `__` or any number of `-` \
             between them",
            shown(wrong)
        )
    })
}

/// Checks a repository's name that is to become part of an address.
///
/// # Errors
/// Returns what is wrong with it.
pub fn check_repository(name: &str) -> Result<(), ReferenceError> {
    check_path(name).map_err(ReferenceError::of(name))
}

/// Returns whether a text is one component of a repository's name.
pub fn is_component(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(is_word)
        && text.ends_with(is_word)
        && text
            .split(is_word)
            .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

/// A text as a message may have it: on one line, not long, without what a terminal would obey.
fn shown(text: &str) -> String {
    const SHOWN: usize = 300;
    let more = if text.chars().nth(SHOWN).is_some() { "…" } else { "" };
    text.chars().take(SHOWN).flat_map(char::escape_debug).chain(more.chars()).collect()
}
