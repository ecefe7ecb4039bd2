use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_oci::Digest;
use imgforge_state::{KeyError, StateError};

/// An error of a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk does not do what it should.
    #[error("{path}: {error}")]
    Io {
        /// The path.
        path: Utf8PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// Something in it was not made by this user's imgforge.
    #[error("{0}{help}", help = removal(.0))]
    State(#[from] StateError),
    /// A record cannot be sealed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It was made by another version of this program.
    #[error(
        "{dir} has the form of another version of imgforge; remove it, and everything in it is built again"
    )]
    Format {
        /// Its folder.
        dir: Utf8PathBuf,
    },
    /// A blob is not there.
    #[error("the blob {digest} is not in the store any more; `imgforge build` makes it again")]
    Missing {
        /// Its digest.
        digest: Digest,
    },
    /// A blob is not what its digest says. It is removed.
    #[error("the blob {digest} was damaged and has been removed; `imgforge build` makes it again")]
    Corrupt {
        /// Its digest.
        digest: Digest,
    },
    /// Other processes use the store.
    #[error("{dir} is in use by another process")]
    Busy {
        /// Its folder.
        dir: Utf8PathBuf,
    },
    /// An image from elsewhere is not what it says.
    #[error("{what} is not taken: {why}")]
    Load {
        /// The digest of the image or the layer.
        what: Digest,
        /// The reason.
        why: String,
    },
    /// A digest is of an algorithm by which the store has no files.
    #[error("\"{digest}\" is no sha256 digest")]
    Digest {
        /// It.
        digest: Digest,
    },
    /// A blob is not understood.
    #[error("{digest} is not understood: {why}")]
    Content {
        /// Its digest.
        digest: Digest,
        /// The reason.
        why: String,
    },
}

fn removal(error: &StateError) -> String {
    error.in_the_way().map_or_else(String::new, |path| format!("; remove it: rm -r {path}"))
}

impl StoreError {
    pub(crate) fn io(path: &Utf8Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { path, error }
    }

    /// Returns whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { error, .. } | Self::State(StateError::Io { error, .. }) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}
