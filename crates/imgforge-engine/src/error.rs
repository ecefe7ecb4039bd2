//! What can go wrong: with the engine itself ([`Error`]), or with one build ([`BuildError`]).

use std::error::Error as StdError;

use bollard::errors::Error as Bollard;
use camino::Utf8PathBuf;

/// The engine cannot do what was asked, whatever the image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing answers.
    #[error("the Docker daemon at {endpoint} cannot be reached: {cause}; {help}")]
    Unreachable {
        /// The address at which it was looked for, as a URL.
        endpoint: String,
        /// The system's error.
        cause: String,
        /// The advice.
        help: String,
        /// Whether that is the address at which Docker listens when nobody says otherwise.
        is_default: bool,
    },
    /// The embedded engine's store or a process of it does not do what it must.
    #[error("the embedded engine: {message}")]
    Embedded {
        /// The mishap, and what to do.
        message: String,
    },
    /// The configuration names a daemon that cannot be used.
    #[error("{message}")]
    Configuration {
        /// The fault, and what to do.
        message: String,
    },
    /// The engine refuses what was asked of it.
    #[error("the engine refuses: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The daemon's message.
        message: String,
    },
    /// The connection broke, or the answer makes no sense.
    #[error("the connection to the Docker daemon failed: {message}")]
    Connection {
        /// The mishap, with its causes.
        message: String,
    },
    /// Images from outside cannot be taken in.
    #[error("the engine does not take the image: {message}")]
    Load {
        /// The fault.
        message: String,
    },
    /// An image cannot be taken out of the engine.
    #[error("the image cannot be taken out of the engine: {0}")]
    Export(#[from] crate::export::ExportError),
}

impl Error {
    /// Returns whether the daemon says that the thing is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }
}

impl From<Bollard> for Error {
    fn from(error: Bollard) -> Self {
        match error {
            Bollard::DockerResponseServerError { status_code, message } => {
                Self::Refused { status: status_code, message }
            }
            other => Self::Connection { message: with_causes(&other) },
        }
    }
}

/// Why a build did not give an image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A step failed.
    #[error("step {number}/{total} ({text}): {message}")]
    Step {
        /// Its number in its stage, from 1.
        number: usize,
        /// The number of steps of its stage.
        total: usize,
        /// The instruction.
        text: String,
        /// The mishap: `the command ended with status 7`.
        message: String,
        /// The last lines that it printed.
        log_tail: Vec<String>,
    },
    /// The daemon does not take the Dockerfile, or a base image cannot be had.
    #[error("{message}")]
    Refused {
        /// The daemon's message.
        message: String,
    },
    /// A file is not what it was when it was hashed.
    #[error("{path} changed while the build was being prepared; build again")]
    ContextChanged {
        /// The file, in the context.
        path: Utf8PathBuf,
    },
    /// A file cannot be read.
    #[error("{path} cannot be read: {message}")]
    Unreadable {
        /// The file, in the context.
        path: Utf8PathBuf,
        /// The system's message.
        message: String,
    },
    /// It was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The engine's disk is full.
    #[error("the engine has no space left on its disk")]
    NoSpace,
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] Error),
}

/// An error with all its causes, in one line.
pub(crate) fn with_causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
