//! Everything that can stop a verb, each with the exit code that says whose turn it is.

use camino::Utf8PathBuf;
use imgforge_core::diagnostic::{Problem, Problems};
use imgforge_core::select::SelectError;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No `imgforge.kdl` in the folder or above it.
    #[error("there is no imgforge.kdl in {start} or in a folder above it")]
    NoWorkspace {
        /// Where the search began.
        start: Utf8PathBuf,
    },
    /// The folder to begin in is not there.
    #[error("{start} cannot be opened: {error}")]
    NoFolder {
        /// The folder.
        start: Utf8PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Manifests, templates, Dockerfiles or the lock are wrong.
    #[error("the workspace has problems")]
    Problems(Problems),
    /// A selector names nothing.
    #[error("{0}")]
    Select(#[from] SelectError),
    /// A verb that takes one image was given another word.
    #[error("there is no image \"{name}\"")]
    NoImage {
        /// The word.
        name: String,
        /// The nearest name.
        near: Option<String>,
    },
    /// No running container has this name.
    #[error("no running container is called \"{asked}\", and none was made from an image of this name")]
    NoContainer {
        /// The word.
        asked: String,
        /// The names of those that run.
        running: Vec<String>,
    },
    /// The engine cannot be reached, or refused what is not about one image.
    #[error(transparent)]
    Engine(#[from] imgforge_engine::Error),
    /// A package repository cannot be reached or is not to be trusted.
    #[error(transparent)]
    Packages(#[from] imgforge_packages::Error),
    /// The lock does not cover what the manifests ask for.
    #[error("imgforge.lock does not fit the manifests: {0}")]
    StaleLock(String),
    /// A package that was to be moved is not in the lock.
    #[error("no image has a package \"{name}\" by the lock")]
    NotLocked {
        /// The word.
        name: String,
        /// The nearest locked name.
        near: Option<String>,
    },
    /// A file of the workspace or of the cache cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: Utf8PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// The exit code of the command: 2 what was asked for is wrong, 3 something outside cannot be reached,
    /// 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoWorkspace { .. }
            | Self::NoFolder { .. }
            | Self::Problems(_)
            | Self::Select(_)
            | Self::NoImage { .. }
            | Self::NoContainer { .. }
            | Self::StaleLock(_)
            | Self::NotLocked { .. } => 2,
            Self::Engine(_) | Self::Packages(_) => 3,
            Self::Io { .. } => 1,
            Self::Interrupted => 130,
        }
    }

    /// What to do about it, when there is something to say.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoWorkspace { .. } => {
                Some("a workspace starts with a file imgforge.kdl that says: workspace \"NAME\"".into())
            }
            Self::NoImage { near, .. } | Self::NotLocked { near, .. } => {
                near.as_ref().map(|near| format!("did you mean \"{near}\"?"))
            }
            Self::NoContainer { running, .. } if running.is_empty() => Some(
                "no container of an image of imgforge is running; `imgforge run IMAGE` starts one".into(),
            ),
            Self::NoContainer { running, .. } => Some(format!("running are: {}", running.join(", "))),
            Self::StaleLock(_) => Some("run `imgforge update`, and commit imgforge.lock".into()),
            _ => None,
        }
    }
}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Self::Problems(problems)
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Problems(problem.into())
    }
}
