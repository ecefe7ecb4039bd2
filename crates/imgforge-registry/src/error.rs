//! What can go wrong with a registry, in words that say what to do.

use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::text::is_command;
use imgforge_oci::{Digest, ReferenceError};

/// Why a registry could not be asked, or did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A text that is no reference, repository or tag.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// Options that cannot be used.
    #[error("the registry \"{host}\" cannot be used: {reason}")]
    Options {
        /// The registry.
        host: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Credentials that are there but cannot be read.
    #[error("the credentials for {registry} cannot be used: {reason}")]
    Credentials {
        /// The registry.
        registry: String,
        /// What is wrong.
        reason: String,
    },
    /// The registry or its token server does not let us (401, 403).
    #[error(
        "{registry} refuses {what}: {message}; tried with {tried}; check that the login is right and may do this \
         (`docker login {registry}`, or IMGFORGE_REGISTRY_USER, IMGFORGE_REGISTRY_PASSWORD and IMGFORGE_REGISTRY_HOST={registry} for the \
         workspace's registry)"
    )]
    Authentication {
        /// The registry.
        registry: String,
        /// What was to be done, and in which repository.
        what: String,
        /// Where the credentials came from: never the credentials.
        tried: String,
        /// The status, and what the registry says.
        message: String,
    },
    /// It does not answer, or not as it should, after all tries.
    #[error("{registry} cannot be reached for {what}: {reason}")]
    Unreachable {
        /// The registry.
        registry: String,
        /// What was to be done.
        what: String,
        /// Why, in a few words, with the number of tries.
        reason: String,
    },
    /// It says no.
    #[error("{registry} refuses {what}: {message}")]
    Refused {
        /// The registry.
        registry: String,
        /// What was to be done.
        what: String,
        /// The HTTP status.
        status: u16,
        /// The registry's own code (distribution specification, "Error Codes"), or nothing.
        code: String,
        /// The status, the code and the registry's message.
        message: String,
    },
    /// Deleting is switched off there (405).
    #[error(
        "{registry} does not delete: deleting is switched off there; its operator allows it with `storage.delete.enabled` \
         in the registry's configuration"
    )]
    DeletionDisabled {
        /// The registry.
        registry: String,
    },
    /// An answer that breaks the rules of the specification.
    #[error("{registry} answers {what} in a way that cannot be used: {reason}")]
    Answer {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Content is not what its digest says.
    #[error("{what} has the digest {found}, but {expected} was expected: nothing of it is used")]
    Digest {
        /// The content.
        what: String,
        /// As asked for.
        expected: Digest,
        /// As found.
        found: String,
    },
    /// What should be in a registry is not there, or not with the right size.
    #[error("{registry}/{repository} does not hold all of {digest}: {}", missing.join("; "))]
    Incomplete {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
        /// The manifest.
        digest: Digest,
        /// Every part that is not there.
        missing: Vec<String>,
    },
    /// A tag that somebody else has moved meanwhile.
    #[error(
        "{reference} was set to {expected}, but is {} when read back: somebody else moves it; do it again when they \
         are done",
        found.as_ref().map_or("absent", Digest::as_str)
    )]
    TagMoved {
        /// Registry, repository and tag.
        reference: String,
        /// As written.
        expected: Digest,
        /// As read back.
        found: Option<Digest>,
    },
    /// A folder that holds no layout, or one that lacks something.
    #[error("the OCI image layout {path} cannot be used: {reason}")]
    Layout {
        /// The folder.
        path: Utf8PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of this machine cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: Utf8PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A file of this machine that is not what its descriptor says.
    #[error("{path} is not what was to be pushed: {reason}; build the image again")]
    File {
        /// The file.
        path: Utf8PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What an [`Error`] means for an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nobody answers, or only failures.
    Unreachable,
    /// Wrong, missing or unreadable credentials.
    Authentication,
    /// What the user wrote.
    Input,
    /// All else: a refusal, content that is wrong or missing.
    Failed,
}

impl Error {
    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unreachable { .. } => Kind::Unreachable,
            Self::Authentication { .. } | Self::Credentials { .. } => Kind::Authentication,
            Self::Reference(_) | Self::Options { .. } | Self::Layout { .. } => Kind::Input,
            _ => Kind::Failed,
        }
    }

    /// Whether the registry could not be reached, or did not let us in: exit code 3.
    pub fn is_unreachable(&self) -> bool {
        matches!(self.kind(), Kind::Unreachable | Kind::Authentication)
    }

    /// Whether the registry says that it does not take such content, as one does that takes images and no artifacts: by
    /// MANIFEST_INVALID or UNSUPPORTED (distribution specification, "Error Codes"), or by a status alone that says so.
    pub fn is_refusal_of_content(&self) -> bool {
        matches!(self, Self::Refused { status: 400 | 405 | 406 | 415 | 422, .. })
    }

    pub(crate) fn io(path: &Utf8Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { path: path.to_owned(), error }
    }
}

/// A text from elsewhere as it may be shown: no control characters, one line, not long.
pub(crate) fn clean(text: &str) -> String {
    const SHOWN: usize = 300;
    let mut clean = String::new();
    for (number, c) in text.trim().chars().enumerate() {
        if number == SHOWN {
            clean.push('…');
            break;
        }
        clean.push(if is_command(c) { ' ' } else { c });
    }
    clean
}
