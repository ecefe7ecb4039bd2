//! Names of images: a tag or a digest in a repository, and whole references.

use std::fmt;

use oci_spec::image::Digest;

/// What a manifest is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A tag.
    Tag(String),
    /// A digest.
    Digest(Digest),
}

impl Reference {
    /// A tag.
    pub fn tag(tag: &str) -> Self {
        Self::Tag(tag.to_owned())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => f.write_str(digest.as_ref()),
        }
    }
}

/// A whole reference, `HOST/REPOSITORY:TAG@DIGEST`, with Docker's short forms written out: `alpine` is
/// `docker.io/library/alpine:latest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference {
    /// The registry.
    pub host: String,
    /// The repository in it.
    pub repository: String,
    /// The tag; `latest` when neither a tag nor a digest is given.
    pub tag: Option<String>,
    /// The digest.
    pub digest: Option<Digest>,
}

impl std::str::FromStr for ImageReference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |error: &dyn fmt::Display| format!("\"{text}\" is not a reference: {error}");
        let parsed: oci_spec::distribution::Reference = text.parse().map_err(|error| wrong(&error))?;
        let digest = parsed.digest().map(str::parse::<Digest>).transpose().map_err(|error| wrong(&error))?;
        Ok(Self {
            host: parsed.registry().to_owned(),
            repository: parsed.repository().to_owned(),
            tag: parsed.tag().map(str::to_owned),
            digest,
        })
    }
}

impl ImageReference {
    /// Where the manifest is asked for: Docker Hub's interface is on a host of another name.
    pub fn interface_host(&self) -> &str {
        if self.host == "docker.io" { "registry-1.docker.io" } else { &self.host }
    }

    /// What it is asked for by: the digest, if there is one.
    pub fn reference(&self) -> Reference {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => Reference::Digest(digest.clone()),
            (None, Some(tag)) => Reference::Tag(tag.clone()),
            (None, None) => Reference::Tag("latest".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_forms_are_written_out() {
        for (text, host, repository, tag) in [
            ("alpine:3.22", "docker.io", "library/alpine", Some("3.22")),
            ("alpine", "docker.io", "library/alpine", Some("latest")),
            ("acme/web:1", "docker.io", "acme/web", Some("1")),
            ("127.0.0.1:5000/acme/web", "127.0.0.1:5000", "acme/web", Some("latest")),
            ("registry.example.com/a/b/c:x", "registry.example.com", "a/b/c", Some("x")),
        ] {
            let read: ImageReference = text.parse().unwrap();
            assert_eq!((read.host.as_str(), read.repository.as_str()), (host, repository), "{text}");
            assert_eq!(read.tag.as_deref(), tag, "{text}");
        }
        let pinned = format!("example.com/a@sha256:{}", "0".repeat(64)).parse::<ImageReference>().unwrap();
        assert!(matches!(pinned.reference(), Reference::Digest(_)));
        assert!("UPPER/case".parse::<ImageReference>().is_err());
        assert!("a@sha256:12".parse::<ImageReference>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
            if let Ok(read) = text.parse::<ImageReference>() {
                prop_assert!(!read.repository.is_empty() && !read.host.is_empty());
            }
        }
    }
}
