//! What a stage comes to when its variables are expanded: steps, and what each does to a file system.

use imgforge_oci::ImageConfig;

use super::eval::Scope;

/// A stage whose variables are expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Its instructions in order, with those that the image below left by ONBUILD before its own. FROM and ONBUILD are
    /// not among them: each step is one entry of the image's history, ARG too.
    pub steps: Vec<Step>,
    /// The configuration that comes out, without what only a build can know (`rootfs`, `history`, `created`).
    pub config: ImageConfig,
    /// The variables at its end: ARGs are known in the stages that stand on it, though not in its image.
    pub(super) scope: Scope,
}

impl Stage {
    /// Everything that its steps take files from, ONBUILD of its base included; the context is not among them.
    pub fn sources(&self) -> Vec<&From> {
        let mut found: Vec<&From> = Vec::new();
        for step in &self.steps {
            match &step.action {
                Some(Action::Copy(copy)) => found.push(&copy.from),
                Some(Action::Run(run)) => {
                    found.extend(run.mounts.iter().filter_map(|mount| match &mount.kind {
                        MountKind::Bind { from, .. } => Some(from),
                        MountKind::Cache { from, .. } => from.as_ref(),
                        MountKind::Tmpfs { .. } | MountKind::Secret { .. } | MountKind::Ssh { .. } => None,
                    }));
                }
                Some(Action::Workdir { .. }) | None => {}
            }
        }
        found.retain(|from| **from != From::Context);
        found
    }
}

/// One instruction of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its number in its stage, from 1, as BuildKit counts: FROM is 1 where it names an image, and RUN, COPY, ADD and
    /// WORKDIR are counted. 0 for what is not.
    pub number: usize,
    /// How many steps its stage has, counted in the same way; what ONBUILD has brought counts whatever it is.
    pub total: usize,
    /// The instruction as it is written, continuations joined, without the content of heredocs.
    pub text: String,
    /// The same as BuildKit's progress shows it after `[2/5] `: variables are expanded, a heredoc is told by its first
    /// line, and what ONBUILD has brought begins with that word.
    pub label: String,
    /// As BuildKit writes it into the image's history: `RUN |1 A=1 /bin/sh -c make # buildkit`.
    pub created_by: String,
    /// The 1-based line of the Dockerfile that it starts on; 0 for what ONBUILD has brought.
    pub line: usize,
    /// What it does to the file system; `None` when it only changes the configuration. History calls such a layer
    /// empty.
    pub action: Option<Action>,
}

/// A change of a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// RUN.
    Run(Run),
    /// COPY or ADD.
    Copy(Copy),
    /// WORKDIR: the folder, and those above it, are made where they are missing, with mode 0755. Not for `/`.
    Workdir {
        /// Absolute.
        path: String,
        /// The USER at that point, to whom the folders that are made belong; empty for root.
        user: String,
    },
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The program and its arguments; the shell is in it for the shell form.
    pub argv: Vec<String>,
    /// The whole environment, in order: ENV of the image, the ARGs in scope, proxies. HOME is not in it unless the
    /// file says so, nor what secrets give.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunNetwork {
    /// Loopback only.
    None,
    /// What the build has.
    Default,
    /// The host's.
    Host,
}

impl RunNetwork {
    /// Returns `none`, `default` or `host`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Default => "default",
            Self::Host => "host",
        }
    }
}

/// `RUN --mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where; absolute. Empty for a secret that is only a variable.
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
        /// The path there, relative to its root; empty for the root.
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
        /// The path in `from`, relative to its root; empty for the root.
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
    /// Absolute; it ends in `/` when the file says so, and is a folder then. So it is with several sources, of which
    /// BuildKit would leave only the last when nothing is there.
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
    /// A path in `from`, relative to its root, maybe with `*`, `?` and `[...]`; `.` for the root. With `--parents`,
    /// what stands before `/./` is not kept.
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
