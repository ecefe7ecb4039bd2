//! What a Dockerfile does: its stages, and each instruction of a stage as a change of the image's configuration, of
//! its file system, or of both.
//!
//! [`Program::new`] reads the whole file and knows every problem of it before anything runs. [`Program::stage`] then
//! evaluates one stage, when what it stands on is known: variables are expanded, paths are absolute, and what is left
//! for an engine are [`Action`]s on a file system. The rules are those of BuildKit's Dockerfile frontend ("Dockerfile
//! reference") of 2026; where an engine's is older, it may refuse what is read here.
//!
//! ```text
//! text        -> Raw          read         lines, flags, heredocs
//! Raw         -> Instruction  instruction  what each says; variables not expanded
//! Instruction -> Step         eval         what each does, on a configuration and the variables in scope
//! ```

mod eval;
mod golang;
mod instruction;
mod mount;
pub(super) mod read;
mod shell;
mod signal;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use self::eval::{Evaluator, Scope};
use self::instruction::{Instruction, Kind, Word, problem};
use self::shell::{NoValue, Rules, Value};
use crate::diagnostic::Span;
use crate::dockerfile::{ParseProblem, platform_args};
use crate::image_config::ImageConfig;

/// A Dockerfile, ready to be carried out.
#[derive(Debug, Clone)]
pub struct Program {
    escape: char,
    platform: String,
    /// Build arguments.
    args: BTreeMap<String, String>,
    /// ARGs before the first FROM, and those that BuildKit sets by itself.
    globals: BTreeMap<String, String>,
    stages: Vec<StageText>,
    /// Whether an instruction is missing because it could not be read.
    is_broken: bool,
}

/// One FROM and what follows it.
#[derive(Debug, Clone)]
struct StageText {
    name: Option<String>,
    base: Base,
    /// Of its FROM.
    span: Span,
    instructions: Vec<Instruction>,
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
    /// Its instructions in order, with those that the image below left by ONBUILD before its own. FROM and ONBUILD are
    /// not among them: each step is one entry of the image's history, ARG too.
    pub steps: Vec<Step>,
    /// The configuration that comes out, without what only a build can know (`rootfs`, `history`, `created`).
    pub config: ImageConfig,
    /// The variables at its end: ARGs are known in the stages that stand on it, though not in its image.
    scope: Scope,
}

/// What a stage is evaluated on.
#[derive(Debug, Clone, Copy)]
pub enum Below<'a> {
    /// An image, or the empty one of [`ImageConfig::scratch`].
    Image(&'a ImageConfig),
    /// A stage of the same file, evaluated before.
    Stage(&'a Stage),
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
    /// A path in `from`, relative to its root, maybe with `*`, `?` and `[...]`; `.` for the root. With `--parents`, what
    /// stands before `/./` is not kept.
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
    /// Reads a Dockerfile to be carried out for a platform (`linux/amd64`): like
    /// [`crate::dockerfile::Dockerfile::parse`], but what is not known to be understood is a problem.
    ///
    /// # Errors
    /// Every problem in the file; of what stages do, only in those that are needed.
    pub fn new(
        text: &str,
        args: &BTreeMap<String, String>,
        platform: &str,
    ) -> Result<Self, Vec<ParseProblem>> {
        let mut problems = Vec::new();
        let mut program = Self::parse(text, args, platform, &mut problems);
        program.is_broken = !problems.is_empty();
        let needed = program.needed();
        let mut evaluated: BTreeMap<usize, Stage> = BTreeMap::new();
        for number in needed {
            let below = match &program.stages[number].base {
                Base::Stage(below) => evaluated.get(below).map(Below::Stage),
                Base::Scratch | Base::Image(_) => None,
            };
            let scratch = ImageConfig::scratch(platform);
            let below = match program.stages[number].base {
                Base::Scratch => Some(Below::Image(&scratch)),
                _ => below,
            };
            let (stage, found) = Evaluator::run(&program, number, below);
            problems.extend(found);
            evaluated.insert(number, stage);
        }
        problems.sort_by_key(|problem| problem.span.offset);
        problems.dedup();
        if problems.is_empty() { Ok(program) } else { Err(problems) }
    }

    fn parse(
        text: &str,
        args: &BTreeMap<String, String>,
        platform: &str,
        problems: &mut Vec<ParseProblem>,
    ) -> Self {
        let raw = read::read(text, problems);
        let mut program = Self {
            escape: raw.escape,
            platform: platform.to_owned(),
            args: args.clone(),
            globals: BTreeMap::new(),
            stages: Vec::new(),
            is_broken: false,
        };
        let mut global_args = Vec::new();
        let mut stages: Vec<(Span, Option<Instruction>, Vec<Instruction>)> = Vec::new();
        for raw in &raw.instructions {
            let instruction = Instruction::of(raw, program.escape).map_err(|found| problems.push(found)).ok();
            match (raw.keyword.value.as_str(), stages.last_mut()) {
                ("FROM", _) => stages.push((raw.span, instruction, Vec::new())),
                (_, Some((.., instructions))) => instructions.extend(instruction),
                ("ARG", None) => global_args.extend(instruction),
                (keyword, None) if instruction.is_some() => {
                    let message = format!("{keyword} stands before the first FROM");
                    problems.push(problem(raw.keyword.span, message, None));
                }
                (_, None) => {}
            }
        }
        if stages.is_empty() && problems.is_empty() {
            let help = Some("a Dockerfile starts with FROM, after comments and ARGs");
            problems.push(problem(Span::new(0, 0), "there is no FROM", help));
        }
        let last_name = stages.last().and_then(|(_, from, _)| match from.as_ref().map(|from| &from.kind) {
            Some(Kind::From { name, .. }) => name.clone(),
            _ => None,
        });
        program.set_globals(&global_args, last_name.as_deref().unwrap_or("default"), problems);
        for (span, from, instructions) in stages {
            let (name, base) = match from.map(|from| from.kind) {
                Some(Kind::From { image, platform, name }) => {
                    (name, program.base(&image, platform.as_ref(), problems))
                }
                _ => (None, Base::Image(String::new())),
            };
            program.stages.push(StageText { name, base, span, instructions });
        }
        program
    }

    /// ARGs before the first FROM: each sees those before it.
    fn set_globals(&mut self, lines: &[Instruction], target: &str, problems: &mut Vec<ParseProblem>) {
        let mut globals = platform_args(&self.platform);
        for name in ["BUILDOSVERSION", "TARGETOSVERSION"] {
            globals.insert(name.into(), String::new());
        }
        globals.insert("TARGETSTAGE".into(), target.to_owned());
        for (name, value) in &mut globals {
            if let Some(given) = self.args.get(name) {
                value.clone_from(given);
            }
        }
        for line in lines {
            let Kind::Arg(args) = &line.kind else { continue };
            for (name, default) in args {
                let value = match (self.args.get(name), default) {
                    (Some(value), _) => Some(value.clone()),
                    (None, Some(default)) => expand(default, self.escape, &globals, problems),
                    (None, None) => None,
                };
                if let Some(value) = value {
                    globals.insert(name.clone(), value);
                }
            }
        }
        self.globals = globals;
    }

    /// What a FROM names.
    fn base(&self, image: &Word, platform: Option<&Word>, problems: &mut Vec<ParseProblem>) -> Base {
        let Some(name) = expand(image, self.escape, &self.globals, problems) else {
            return Base::Image(String::new());
        };
        if name.is_empty() {
            let help = Some("an ARG before the first FROM gives its variable a value");
            problems.push(problem(image.span, format!("{} is empty: it names no image", image.value), help));
        }
        if let Some(stage) = self.find_stage(&name) {
            return Base::Stage(stage);
        }
        if name == "scratch" {
            return Base::Scratch;
        }
        if let Some(word) = platform
            && let Some(text) = expand(word, self.escape, &self.globals, problems)
        {
            let help = format!("this engine builds for {} here", self.platform);
            match (normal_platform(&text, &self.platform), normal_platform(&self.platform, &self.platform)) {
                (Some(asked), Some(ours)) if asked == ours => {}
                (Some(_), _) => {
                    let message = format!("an image for {text} cannot be used");
                    problems.push(problem(word.span, message, Some(&help)));
                }
                (None, _) => {
                    problems.push(problem(word.span, format!("{} is no platform", word.value), Some(&help)));
                }
            }
        }
        Base::Image(name)
    }

    /// The last stage of a name, among those that have been read.
    fn find_stage(&self, name: &str) -> Option<usize> {
        let lower = name.to_lowercase();
        self.stages.iter().rposition(|stage| stage.name.as_deref() == Some(&lower))
    }

    /// Where `COPY --from` or a mount's `from` leads in a stage: a stage by name or number, or an image.
    fn source(&self, stage: usize, word: &Word) -> Result<From, ParseProblem> {
        let text = &word.value;
        let plain = shell::word(text, Rules::new(self.escape), &|_| Value::Unset);
        if plain.as_deref() != Ok(text.as_str()) {
            let help = Some("give the image a stage of its own: FROM $IMAGE AS name");
            return Err(problem(word.span, format!("variables do not count in from: {text}"), help));
        }
        let number = match text.parse::<i64>() {
            Ok(number) => match usize::try_from(number).ok().filter(|number| *number < self.stages.len()) {
                Some(number) => Some(number),
                None => return Err(problem(word.span, format!("there is no stage {text}"), None)),
            },
            Err(_) => self.find_stage(text),
        };
        match number {
            Some(number) if number < stage => Ok(From::Stage(number)),
            Some(_) => {
                let help = Some("a stage takes from those above it");
                Err(problem(word.span, format!("the stage {text} is not built before this one"), help))
            }
            None => Ok(From::Image(text.clone())),
        }
    }

    /// What each stage stands on.
    pub fn bases(&self) -> Vec<Base> {
        self.stages.iter().map(|stage| stage.base.clone()).collect()
    }

    /// The stages that the last one needs, itself included, in the order of the file. What ONBUILD of an image brings
    /// may need others: see [`Stage::sources`].
    pub fn needed(&self) -> Vec<usize> {
        let mut needed = BTreeSet::new();
        let mut next: Vec<usize> = self.stages.len().checked_sub(1).into_iter().collect();
        while let Some(number) = next.pop() {
            if !needed.insert(number) {
                continue;
            }
            if let Base::Stage(below) = self.stages[number].base {
                next.push(below);
            }
            next.extend(self.sources(number).into_iter().filter_map(|from| match from {
                From::Stage(stage) => Some(stage),
                From::Context | From::Image(_) => None,
            }));
        }
        needed.into_iter().collect()
    }

    /// Every image that the needed stages stand on or take files from, each once.
    pub fn images(&self) -> Vec<String> {
        let mut images = Vec::new();
        for number in self.needed() {
            let base = match &self.stages[number].base {
                Base::Image(name) => Some(name.clone()),
                Base::Scratch | Base::Stage(_) => None,
            };
            let sources = self.sources(number).into_iter().filter_map(|from| match from {
                From::Image(name) if name != "scratch" => Some(name),
                _ => None,
            });
            for name in base.into_iter().chain(sources) {
                if !images.contains(&name) {
                    images.push(name);
                }
            }
        }
        images
    }

    /// What a stage takes files from, as far as the file says.
    fn sources(&self, number: usize) -> Vec<From> {
        let stage = &self.stages[number];
        let triggers = match stage.base {
            Base::Stage(below) => self.stages[below].instructions.as_slice(),
            Base::Scratch | Base::Image(_) => &[],
        };
        let triggers = triggers.iter().filter_map(|instruction| match &instruction.kind {
            Kind::Onbuild { inner, .. } => Some(inner.as_ref()),
            _ => None,
        });
        let words = triggers.chain(&stage.instructions).flat_map(|instruction| match &instruction.kind {
            Kind::Copy(line) => line.from.iter().cloned().collect(),
            Kind::Run(line) => line.mounts.iter().filter_map(mount::RawMount::from).collect(),
            _ => Vec::new(),
        });
        words.filter_map(|word| self.source(number, &word).ok()).collect()
    }

    /// Evaluates a stage on what it stands on (the configuration of [`ImageConfig::scratch`] for `scratch`).
    ///
    /// # Errors
    /// What can only be seen now: a variable whose value makes an instruction wrong, a wrong ONBUILD of the base.
    pub fn stage(&self, number: usize, below: Below<'_>) -> Result<Stage, Vec<ParseProblem>> {
        let (stage, problems) = Evaluator::run(self, number, Some(below));
        if problems.is_empty() { Ok(stage) } else { Err(problems) }
    }
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

/// A word before any stage: every variable is known.
fn expand(
    word: &Word,
    escape: char,
    globals: &BTreeMap<String, String>,
    problems: &mut Vec<ParseProblem>,
) -> Option<String> {
    let lookup = |name: &str| globals.get(name).map_or(Value::Unset, |value| Value::Set(value.clone()));
    match shell::word(&word.value, Rules::new(escape), &lookup) {
        Ok(text) => Some(text),
        Err(NoValue::Wrong(message)) => {
            problems.push(problem(word.span, message, None));
            None
        }
        Err(NoValue::Unknown) => None,
    }
}

/// A platform as system, architecture and variant, as containerd's `platforms` normalises them; what is left out is
/// that of `default`.
fn normal_platform(text: &str, default: &str) -> Option<(String, String, String)> {
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let lower = text.to_lowercase();
    let parts: Vec<&str> = lower.split('/').collect();
    if !parts.iter().all(|part| is_part(part)) {
        return None;
    }
    let default_arch = default.split('/').nth(1).unwrap_or("amd64");
    let default_variant = default.split('/').nth(2).unwrap_or("");
    let systems = ["linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "macos"];
    let (system, arch, variant) = match parts.as_slice() {
        [system] if systems.contains(system) => (*system, default_arch, default_variant),
        [arch] if normal_arch(arch, "").is_some() => ("linux", *arch, ""),
        [system, arch] => (*system, *arch, ""),
        [system, arch, variant] => (*system, *arch, *variant),
        _ => return None,
    };
    let system = if system == "macos" { "darwin" } else { system };
    let (arch, variant) = normal_arch(arch, variant).unwrap_or((arch.to_owned(), variant.to_owned()));
    Some((system.to_owned(), arch, variant))
}

/// The usual name of a known architecture, and its variant where that is not the common one.
fn normal_arch(arch: &str, variant: &str) -> Option<(String, String)> {
    let (arch, variant) = match (arch, variant) {
        ("amd64" | "x86_64" | "x86-64", "v1") => ("amd64", ""),
        ("amd64" | "x86_64" | "x86-64", variant) => ("amd64", variant),
        ("arm64" | "aarch64", "8" | "v8") => ("arm64", ""),
        ("arm64" | "aarch64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "" | "7" | "v7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6" | "v6") => ("arm", "v6"),
        ("arm", variant) => ("arm", variant),
        ("386" | "i386", _) => ("386", ""),
        ("riscv64" | "ppc64le" | "s390x" | "mips64le" | "mips64" | "loong64" | "ppc64", variant) => {
            (arch, variant)
        }
        _ => return None,
    };
    Some((arch.to_owned(), variant.to_owned()))
}
