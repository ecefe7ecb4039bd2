//! Everything that can stop a verb, each with the exit code that says whose turn it is.

use camino::Utf8PathBuf;
use imgforge_core::diagnostic::{Problem, Problems};
use imgforge_core::select::SelectError;
use imgforge_state::{ForeignWorkspace, SAFE_DIRECTORY, StateError};

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No `imgforge.kdl` in the folder or above it.
    #[error("there is no imgforge.kdl in {start} or in a folder above it")]
    NoWorkspace {
        /// The folder in which the search began.
        start: Utf8PathBuf,
    },
    /// The folder to begin in is not there.
    #[error("{start} cannot be opened: {error}")]
    NoFolder {
        /// The folder.
        start: Utf8PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// The workspace is another user's.
    #[error(transparent)]
    ForeignWorkspace(#[from] ForeignWorkspace),
    /// In a folder of imgforge's own is what imgforge has not made.
    #[error("{}", lines(.0))]
    State(Vec<StateError>),
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
    /// A verb needs images that are not there.
    #[error("{} not built as the workspace describes {}", are(images), if images.len() == 1 { "it" } else { "them" })]
    NotBuilt {
        /// Their names.
        images: Vec<String>,
    },
    /// The engine cannot be reached, or refused what is not about one image.
    #[error(transparent)]
    Engine(#[from] imgforge_engine::Error),
    /// A package repository cannot be reached or is not to be trusted.
    #[error(transparent)]
    Packages(#[from] imgforge_packages::Error),
    /// The registry cannot be reached, or refuses.
    #[error(transparent)]
    Registry(#[from] imgforge_registry::Error),
    /// A verb needs a registry, and the workspace names none.
    #[error("the workspace names no registry")]
    NoRegistry,
    /// A content tag in the registry leads to something else.
    #[error("{reference} in the registry is not the image that its tag says")]
    ContentTag {
        /// The tag.
        reference: String,
    },
    /// Images whose tests have not passed are not promoted.
    #[error("their tests have not passed: {}", .images.join(", "))]
    NotTested {
        /// Their names.
        images: Vec<String>,
    },
    /// Images in the registry that do not count, since the workspace says `trust "built-here"`.
    #[error("not built by this user's imgforge: {}", .images.join(", "))]
    NotBuiltHere {
        /// Their names.
        images: Vec<String>,
    },
    /// `.imgforge` came with the repository.
    #[error("git tracks {path}, in which imgforge keeps what it believes; nothing of it is used")]
    TrackedState {
        /// The path of the folder.
        path: Utf8PathBuf,
    },
    /// Images that a verb needs are not in the registry.
    #[error("not in the registry: {}", .images.join(", "))]
    NotPushed {
        /// Their names.
        images: Vec<String>,
    },
    /// Another promotion ran at the same time, and won.
    #[error(
        "another promotion ran at the same time and won: {} {} where {by}{} wants {}",
        all_or_some(tags, *all),
        if tags.len() == 1 { "leads" } else { "lead" },
        commit.as_ref().map(|commit| format!(" (commit {})", commit.get(..12).unwrap_or(commit))).unwrap_or_default(),
        if tags.len() == 1 { "it" } else { "them" }
    )]
    Overtaken {
        /// The record of this promotion.
        id: String,
        /// The record of the one that won.
        by: String,
        /// The commit that it was made at, if that was known.
        commit: Option<String>,
        /// The tags that the other one has.
        tags: Vec<String>,
        /// The number of tags that this promotion was about.
        all: usize,
    },
    /// Somebody moves tags without keeping a record.
    #[error("somebody else moves these tags at the same time, without a record: {}", .tags.join(", "))]
    TagsMoved {
        /// The tags.
        tags: Vec<String>,
    },
    /// There is no such promotion to go back to.
    #[error("{}", match .id { Some(id) => format!("there is no promotion \"{id}\""), None => "there is no earlier promotion to go back to".into() })]
    NoPromotion {
        /// The one that was asked for.
        id: Option<String>,
        /// The newest that there are.
        known: Vec<String>,
    },
    /// The record of the promotion to go back to is there, and cannot be read.
    #[error("{record}")]
    Unread {
        /// The record, and why it cannot be read.
        record: String,
        /// The newest records that can be read.
        known: Vec<String>,
    },
    /// An archive or layout that an engine or a registry gave is not whole.
    #[error("{message}")]
    Archive {
        /// The message.
        message: String,
    },
    /// The lock does not cover what the manifests ask for.
    #[error("imgforge.lock does not fit the manifests: {0}")]
    StaleLock(String),
    /// A git revision that is not there, or whose workspace cannot be read.
    #[error("the revision {revision} cannot be read: {reason}")]
    Revision {
        /// As asked for, or the commit.
        revision: String,
        /// Why, in one line.
        reason: String,
    },
    /// A package or an external image that was to be moved is not in the lock.
    #[error("no image has a package \"{name}\" by the lock, or stands on an external image of this name")]
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
        /// The system's error.
        error: std::io::Error,
    },
    /// A secret or an agent cannot be given to a build.
    #[error("{option}: {message}")]
    Secret {
        /// As it was written.
        option: String,
        /// The message.
        message: String,
    },
    /// A container cannot go on by itself.
    #[error(
        "a container of the embedded engine ends with the command that has started it, so it cannot be detached"
    )]
    Detach,
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl From<imgforge_oci::DigestError> for Error {
    fn from(error: imgforge_oci::DigestError) -> Self {
        Self::Archive { message: error.to_string() }
    }
}

impl From<imgforge_oci::ReferenceError> for Error {
    fn from(error: imgforge_oci::ReferenceError) -> Self {
        Self::Registry(error.into())
    }
}

impl Error {
    /// The exit code of the command: 2 what was asked for is wrong, 3 something outside cannot be reached,
    /// 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoWorkspace { .. }
            | Self::NoFolder { .. }
            | Self::ForeignWorkspace(_)
            | Self::TrackedState { .. }
            | Self::Problems(_)
            | Self::Select(_)
            | Self::NoImage { .. }
            | Self::NoContainer { .. }
            | Self::NoRegistry
            | Self::NoPromotion { .. }
            | Self::NotBuilt { .. }
            | Self::Secret { .. }
            | Self::Detach
            | Self::StaleLock(_)
            | Self::Revision { .. }
            | Self::NotLocked { .. } => 2,
            Self::State(errors) if errors.iter().any(|error| error.in_the_way().is_some()) => 2,
            Self::Registry(error) if !error.is_unreachable() => 1,
            Self::Engine(imgforge_engine::Error::Embedded { .. })
            | Self::Io { .. }
            | Self::State(_)
            | Self::ContentTag { .. }
            | Self::NotTested { .. }
            | Self::Overtaken { .. }
            | Self::TagsMoved { .. }
            | Self::NotPushed { .. }
            | Self::NotBuiltHere { .. }
            | Self::Unread { .. }
            | Self::Archive { .. } => 1,
            Self::Engine(_) | Self::Packages(_) | Self::Registry(_) => 3,
            Self::Interrupted => 130,
        }
    }

    /// Returns what to do about the error, when there is something to say.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoWorkspace { .. } => {
                Some("a workspace starts with a file imgforge.kdl that says: workspace \"NAME\"".into())
            }
            Self::ForeignWorkspace(foreign) => Some(format!(
                "its files say what is run and read as you; if you trust them, say so: {SAFE_DIRECTORY}={}",
                foreign.root
            )),
            Self::State(errors) => {
                let paths: Vec<&str> =
                    errors.iter().filter_map(|error| Some(error.in_the_way()?.as_str())).collect();
                let remove = format!(
                    "imgforge makes what it needs there itself; remove what is not its own: rm -r {}",
                    paths.join(" ")
                );
                (!paths.is_empty()).then_some(remove)
            }
            Self::NoImage { near, .. } | Self::NotLocked { near, .. } => {
                near.as_ref().map(|near| format!("did you mean \"{near}\"?"))
            }
            Self::NoContainer { running, .. } if running.is_empty() => Some(
                "no container of an image of imgforge is running; `imgforge run IMAGE` starts one".into(),
            ),
            Self::NoContainer { running, .. } => Some(format!("running are: {}", running.join(", "))),
            Self::NoRegistry => {
                Some("give it one in imgforge.kdl: registry \"HOST/PATH\", inside `workspace`".into())
            }
            Self::ContentTag { .. } => {
                Some("somebody has moved it; remove the tag in the registry, and push again".into())
            }
            Self::NotTested { .. } => {
                Some("`imgforge build --push` builds, tests, pushes and promotes".into())
            }
            Self::Detach => Some(
                "leave --detach out and run it in another terminal, or run it in Docker: `imgforge load`"
                    .into(),
            ),
            Self::NotBuiltHere { .. } => Some(
                "the workspace says trust \"built-here\": `imgforge build --push` builds, pushes and promotes them".into(),
            ),
            Self::TrackedState { path } => {
                Some(format!("take it out of the repository: git rm -r -q --cached {path} && rm -r {path}"))
            }
            Self::Overtaken { id, .. } => Some(format!(
                "to lead them to this promotion's images all the same: imgforge rollback --to {id}"
            )),
            Self::TagsMoved { .. } => Some("do it again when they are done".into()),
            Self::NotPushed { .. } => Some("`imgforge push` pushes them".into()),
            Self::NoPromotion { known, .. } if known.is_empty() => None,
            Self::NoPromotion { known, .. } => Some(format!("the newest are: {}", known.join(", "))),
            Self::Unread { known, .. } if known.is_empty() => {
                Some("`imgforge promote` from the commit to go back to leads its tags there".into())
            }
            Self::Unread { known, .. } => Some(format!(
                "say to which promotion: imgforge rollback --to ID; the newest that can be read are: {}",
                known.join(", ")
            )),
            Self::NotBuilt { images } => Some(format!("build first: imgforge build {}", images.join(" "))),
            Self::StaleLock(_) => Some("run `imgforge update`, and commit imgforge.lock".into()),
            _ => None,
        }
    }
}

/// One error a line.
fn lines(errors: &[StateError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n       ")
}

/// `all 4 tags`, or `a, b and c`.
fn all_or_some(tags: &[String], all: usize) -> String {
    match tags {
        [one] => one.clone(),
        _ if tags.len() == all => format!("all {all} tags"),
        _ => crate::build::shortened(tags),
    }
}

/// `a is`, `a and b are`, `a, b, c and 4 more are`.
fn are(names: &[String]) -> String {
    match names {
        [one] => format!("{one} is"),
        [one, two] => format!("{one} and {two} are"),
        [one, two, three] => format!("{one}, {two} and {three} are"),
        [one, two, three, more @ ..] => format!("{one}, {two}, {three} and {} more are", more.len()),
        [] => "nothing is".into(),
    }
}

impl From<StateError> for Error {
    fn from(error: StateError) -> Self {
        Self::State(vec![error])
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
