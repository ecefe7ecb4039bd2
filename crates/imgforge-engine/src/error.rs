//! What can go wrong: with the engine itself ([`Error`]), or with one build ([`BuildError`]).

use std::error::Error as StdError;
use std::fmt;

use camino::Utf8PathBuf;
use imgforge_dockerfile::{Dockerfile, Instruction};

use crate::secrets::{missing_agent, missing_secret};

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
    /// The engine does not have what was asked for: an image, a container.
    #[error("the engine refuses: {message}")]
    Absent {
        /// The engine's message.
        message: String,
    },
    /// The container does not run, or not any more.
    #[error("the engine refuses: {message}")]
    NotRunning {
        /// The engine's message.
        message: String,
    },
    /// A program cannot be started in a container.
    #[error("the engine refuses: {0}")]
    NotStarted(NotStarted),
    /// The engine refuses what was asked of it, for another reason.
    #[error("the engine refuses: {message}")]
    Refused {
        /// The engine's message.
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
    /// Returns whether the engine says that the thing is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent { .. })
    }

    /// Returns why the engine refuses what was asked of it; `None` when it has failed itself.
    pub fn refusal(&self) -> Option<String> {
        match self {
            Self::Absent { message } | Self::NotRunning { message } | Self::Refused { message } => {
                Some(message.clone())
            }
            Self::NotStarted(why) => Some(why.to_string()),
            _ => None,
        }
    }
}

/// Why a program cannot be started in a container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotStarted {
    /// The image has no program of this name.
    #[error("no program {0} in the image")]
    NoProgram(String),
    /// Another reason, in words for people: `/etc: permission denied`.
    #[error("{0}")]
    Other(String),
}

/// Why a build did not give an image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A step failed.
    #[error("step {number}/{total} ({text}): {why}")]
    Step {
        /// Its number in its stage, from 1.
        number: usize,
        /// The number of steps of its stage.
        total: usize,
        /// The instruction.
        text: String,
        /// The instruction in the Dockerfile that the engine was given; `None` for what ONBUILD of an image has
        /// brought, and when the engine cannot tell.
        place: Option<Place>,
        /// The reason.
        why: StepFailure,
        /// The last lines that it printed.
        log_tail: Vec<String>,
    },
    /// The engine does not take the Dockerfile.
    #[error("parse error line {line}: {why}")]
    Source {
        /// The 1-based line that is wrong.
        line: usize,
        /// The fault.
        why: String,
    },
    /// An image that the Dockerfile names is not in the engine, and no registry has it.
    #[error("{message}")]
    MissingImage {
        /// The image, as the Dockerfile names it with ARGs expanded.
        reference: String,
        /// The engine's message.
        message: String,
    },
    /// The engine does not build it, for another reason.
    #[error("{message}")]
    Refused {
        /// The engine's message.
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

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepFailure {
    /// The command ended with this status.
    Exit(i64),
    /// The image has no program of this name.
    NoProgram(String),
    /// The command ended with this status, since it found the engine's disk full.
    NoSpace {
        /// The command's status.
        status: i64,
    },
    /// The command needs a secret of this id, which is not given.
    NoSecret(String),
    /// The command needs an ssh agent of this id, which is not given.
    NoAgent(String),
    /// Another reason, in words for people.
    Other(String),
}

impl fmt::Display for StepFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // 128 and the number of SIGKILL.
            Self::Exit(137) | Self::NoSpace { status: 137 } => {
                f.write_str("the command was killed (status 137), which is often a lack of memory")
            }
            Self::Exit(status) | Self::NoSpace { status } => {
                write!(f, "the command ended with status {status}")
            }
            Self::NoProgram(program) => write!(f, "there is no program {program} in the image"),
            Self::NoSecret(id) => f.write_str(&missing_secret(id)),
            Self::NoAgent(id) => f.write_str(&missing_agent(id)),
            Self::Other(message) => f.write_str(message),
        }
    }
}

/// An instruction of a Dockerfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The number of its stage, from 0.
    pub stage: usize,
    /// Its number among all instructions of the file, from 0.
    pub instruction: usize,
}

impl Place {
    /// Returns the instructions of all stages with their places; what stands before the first FROM is left out.
    pub fn all(dockerfile: &Dockerfile) -> Vec<(Self, &Instruction)> {
        let mut stages = 0;
        let mut found = Vec::new();
        for (index, instruction) in dockerfile.instructions().iter().enumerate() {
            stages += usize::from(instruction.keyword() == "FROM");
            if let Some(stage) = stages.checked_sub(1) {
                found.push((Self { stage, instruction: index }, instruction));
            }
        }
        found
    }
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
