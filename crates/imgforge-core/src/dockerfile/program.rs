//! What a Dockerfile does: its stages, and each instruction of a stage as a change of the image's configuration, of
//! its file system, or of both.
//!
//! [`Program::new`] reads the whole file and knows every problem of it before anything runs. [`Program::stage`] then
//! evaluates one stage, when the configuration of the image below it is known: variables are expanded, paths are
//! absolute, and what is left for an engine are [`Action`]s on a file system. The rules are those of BuildKit's
//! Dockerfile frontend ("Dockerfile reference").

use std::collections::BTreeMap;

use crate::dockerfile::ParseProblem;
use crate::image_config::ImageConfig;

/// A Dockerfile, ready to be carried out.
#[derive(Debug, Clone)]
pub struct Program {
    // The parsed instructions and the expanded FROMs.
}

/// What a stage stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// Nothing: `FROM scratch`.
    Scratch,
    /// An earlier stage of the same file, by number from 0.
    Stage(usize),
    /// Another image, as the file names it with ARGs expanded.
    Image(String),
}

/// A stage whose variables are expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Its instructions in order, without FROM and ARG, with those that the image below left by ONBUILD before its own.
    pub steps: Vec<Step>,
    /// The configuration that comes out, without what only a build can know (`rootfs`, `history`, `created`).
    pub config: ImageConfig,
}

/// One instruction of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its number in its stage, from 1, as BuildKit counts: FROM is 1 where it names an image.
    pub number: usize,
    /// How many steps its stage has, counted in the same way.
    pub total: usize,
    /// The instruction as it is written, for people and for the image's history.
    pub text: String,
    /// The 1-based line of the Dockerfile that it starts on; 0 for what ONBUILD has brought.
    pub line: usize,
    /// What it does to the file system; `None` when it only changes the configuration.
    pub action: Option<Action>,
}

/// A change of a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// RUN.
    Run(Run),
    /// COPY or ADD.
    Copy(Copy),
    /// WORKDIR: the folder, and those above it, are made where they are missing.
    Workdir {
        /// Absolute.
        path: String,
        /// The USER at that point; BuildKit gives it to the folder only... see the reference; empty for root.
        user: String,
    },
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The program and its arguments; the shell is in it for the shell form.
    pub argv: Vec<String>,
    /// The whole environment, in order: ENV of the image and the ARGs in scope.
    pub env: Vec<(String, String)>,
    /// Absolute.
    pub workdir: String,
    /// As USER says it (`NAME`, `UID`, `NAME:GROUP`); empty for root.
    pub user: String,
    /// `--mount`s.
    pub mounts: Vec<Mount>,
    /// `--network`, when it is given.
    pub network: Option<RunNetwork>,
    /// Files that heredocs make, below `/dev/pipes`: name and content. Only when the command reads them so.
    pub heredocs: Vec<(String, String)>,
}

/// `RUN --network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunNetwork {
    /// What the build has.
    Default,
    /// Loopback only.
    None,
    /// The host's.
    Host,
}

/// `RUN --mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where; absolute.
    pub target: String,
    /// What.
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A file or folder of the context, a stage or an image.
    Bind {
        /// Whose.
        from: From,
        /// The path there, relative to its root.
        source: String,
        /// Whether it can be written to. What is written is gone afterwards.
        writable: bool,
    },
    /// A folder that is kept from build to build.
    Cache {
        /// Which.
        id: String,
        /// What it begins as, if not empty.
        from: Option<From>,
        /// The path in `from`.
        source: String,
        /// `shared`, `private` or `locked`.
        sharing: Sharing,
        /// Mode of the folder when it is made.
        mode: u32,
        /// Its owner when it is made.
        uid: u32,
        /// Its group when it is made.
        gid: u32,
        /// Whether it can only be read.
        read_only: bool,
    },
    /// A file system in memory.
    Tmpfs {
        /// At most so many bytes.
        size: Option<u64>,
    },
    /// A secret as a file.
    Secret {
        /// Which.
        id: String,
        /// The environment variable that it is given as, when `env` is said.
        env: Option<String>,
        /// Whether the step fails without it.
        required: bool,
        /// Mode of the file.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// The socket of an ssh agent.
    Ssh {
        /// Which; `default` when not said.
        id: String,
        /// Whether the step fails without it.
        required: bool,
        /// Mode of the socket.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// How builds share a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// At the same time.
    Shared,
    /// A second build gets a folder of its own.
    Private,
    /// A second build waits.
    Locked,
}

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// The build context.
    Context,
    /// An earlier stage, by number.
    Stage(usize),
    /// Another image, as the file names it with ARGs expanded.
    Image(String),
}

/// COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Whether it is ADD: local tars are unpacked.
    pub is_add: bool,
    /// Where paths come from.
    pub from: From,
    /// What is copied, in order.
    pub sources: Vec<CopySource>,
    /// Absolute; it ends in `/` when the file says so (or when there are several sources), and is a folder then.
    pub target: String,
    /// `--chown`, as it is said, or the default (`0:0`) as `None`.
    pub chown: Option<String>,
    /// `--chmod`, octal.
    pub chmod: Option<u32>,
    /// `--link`: links of the image below are not followed in the target's path.
    pub link: bool,
    /// `--parents`: the path of a source is kept below the target.
    pub parents: bool,
    /// `--exclude` patterns.
    pub excludes: Vec<String>,
}

/// One source of COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// A path in `from`, relative to its root, maybe with `*`, `?` and `[...]`.
    Path(String),
    /// A heredoc.
    Inline {
        /// The name of the file.
        name: String,
        /// Its content.
        content: String,
    },
    /// ADD of a URL.
    Url {
        /// `http` or `https`.
        url: String,
        /// `--checksum`: `sha256:HEX`.
        checksum: Option<String>,
    },
}

impl Program {
    /// Reads a Dockerfile to be carried out: like [`crate::dockerfile::Dockerfile::parse`], but what is not known to
    /// be understood is a problem.
    ///
    /// # Errors
    /// Every problem in the file.
    pub fn new(
        _text: &str,
        _args: &BTreeMap<String, String>,
        _platform: &str,
    ) -> Result<Self, Vec<ParseProblem>> {
        Err(Vec::new())
    }

    /// What each stage stands on.
    pub fn bases(&self) -> Vec<Base> {
        Vec::new()
    }

    /// The stages that the last one needs, itself included, in the order of the file.
    pub fn needed(&self) -> Vec<usize> {
        Vec::new()
    }

    /// Every image that the needed stages stand on or take files from, each once.
    pub fn images(&self) -> Vec<String> {
        Vec::new()
    }

    /// Evaluates a stage on the configuration of what it stands on (the default one for `scratch`).
    ///
    /// # Errors
    /// What can only be seen now: a variable whose value makes an instruction wrong, a wrong ONBUILD of the base.
    pub fn stage(&self, _number: usize, _base: &ImageConfig) -> Result<Stage, Vec<ParseProblem>> {
        Err(Vec::new())
    }
}
