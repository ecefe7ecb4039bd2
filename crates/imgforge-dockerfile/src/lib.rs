//! Reads Dockerfiles: which images a build stands on, which files it can reach, and where each instruction is.
//!
//! A small parser of our own rather than one of the published crates, because three things are needed together
//! that none of them gives: byte spans of single words (a parent's name is replaced in place), the expansion of
//! `ARG` defaults in `FROM`, and the mounts of `RUN`. It is total: any text gives instructions or
//! [`ParseProblem`]s. The rules are those of BuildKit's Dockerfile frontend (its "Dockerfile reference").

mod config;
mod expand;
mod lex;
pub mod program;
mod target;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use imgforge_syntax::Span;
use serde::{Deserialize, Serialize};

pub use self::config::{Command, Config};
pub use self::lex::Instruction;
use self::lex::Word;
use self::program::RunNetwork;
pub use self::target::Reduced;

/// How a child uses its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EdgeKind {
    /// `FROM parent`.
    From,
    /// `COPY --from=parent`.
    Copy,
    /// `RUN --mount=from=parent`.
    Mount,
}

impl EdgeKind {
    /// `from`, `copy` or `mount`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::From => "from",
            Self::Copy => "copy",
            Self::Mount => "mount",
        }
    }
}

/// Something that is not a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseProblem {
    /// Where.
    pub span: Span,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

/// An image that the build stands on, which is no stage of the same file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The reference, with `ARG`s expanded.
    pub image: String,
    /// The word in the text: replacing it names another image.
    pub span: Span,
    /// How it is used.
    pub kind: EdgeKind,
    /// `--platform` of a `FROM`, expanded.
    pub platform: Option<String>,
    /// The number of the stage that uses it, from 0.
    pub stage: usize,
}

/// What a stage stands on or takes files from.
struct Use {
    /// A stage's name or number may stand where the image does.
    reference: Reference,
    /// The stage of the same file that is meant; another image when there is none.
    of: Option<usize>,
    /// Whether a stage is meant by its number.
    is_number: bool,
    /// Whether it stands in an ONBUILD, so that a stage or image above this one is meant.
    is_deferred: bool,
}

/// A `--chmod` of COPY or ADD, or a `--mount` of RUN: what not every daemon expands variables in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagValue {
    /// `--chmod=` or `--mount=`.
    pub flag: &'static str,
    /// The 1-based line of its instruction.
    pub line: usize,
    /// Its value in the text.
    pub span: Span,
    /// The value as it is written.
    pub written: String,
    /// The value with variables expanded, without quotes; `None` when a variable of it is not known from the file.
    pub value: Option<String>,
}

/// The mode that `--chmod` means.
///
/// # Errors
/// What is no octal number up to 7777, in words for people.
pub fn mode_of(text: &str) -> Result<u32, String> {
    let looks_symbolic = text.chars().all(|c| "ugoarwxXstl+-=,".contains(c));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 && !text.starts_with('+') => Ok(mode),
        _ if looks_symbolic => Err(format!("--chmod={text}: symbolic modes are not supported here")),
        _ => Err(format!("--chmod={text} is no mode")),
    }
}

/// A path in the context that an instruction reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextSource {
    /// As BuildKit's COPY takes it: a path, maybe with `*`, `?` and `[...]`; `.` for everything.
    pub pattern: String,
    /// The word in the text.
    pub span: Span,
    /// Whether the source is a bind mount, whose pattern is a plain path.
    pub is_mount: bool,
}

/// A parsed Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dockerfile {
    instructions: Vec<Instruction>,
}

/// The build arguments that BuildKit sets by itself.
fn platform_args(platform: &str) -> BTreeMap<String, String> {
    let mut parts = platform.split('/');
    let (os, arch) = (parts.next().unwrap_or("linux"), parts.next().unwrap_or("amd64"));
    let variant = parts.next().unwrap_or("");
    let mut args = BTreeMap::new();
    for side in ["TARGET", "BUILD"] {
        for (name, value) in [("PLATFORM", platform), ("OS", os), ("ARCH", arch), ("VARIANT", variant)] {
            args.insert(format!("{side}{name}"), value.to_owned());
        }
    }
    args
}

/// What is known of variables at one point of the file.
#[derive(Clone, Default)]
struct Scope {
    known: BTreeMap<String, String>,
    /// Whether an unknown variable is certainly empty; not so when the stage stands on an image whose ENV is unknown.
    complete: bool,
}

impl Scope {
    fn expand(&self, text: &str, escape: char) -> Option<String> {
        expand::expand(text, escape, &|name| match self.known.get(name) {
            Some(value) => Some(value.clone()),
            None => self.complete.then(String::new),
        })
    }
}

/// One `FROM` and what follows it.
struct Stage {
    name: Option<String>,
    scope: Scope,
}

/// Called for each instruction with the scope that holds for it.
struct Walker<'a> {
    dockerfile: &'a Dockerfile,
    args: &'a BTreeMap<String, String>,
    builtin: BTreeMap<String, String>,
    global: Scope,
    stages: Vec<Stage>,
}

impl<'a> Walker<'a> {
    fn new(dockerfile: &'a Dockerfile, args: &'a BTreeMap<String, String>) -> Self {
        let builtin = platform_args(args.get("TARGETPLATFORM").map_or("linux/amd64", String::as_str));
        let global = Scope { known: builtin.clone(), complete: true };
        Self { dockerfile, args, builtin, global, stages: Vec::new() }
    }

    /// Goes through the file in order; `visit` sees the stages before the instruction and its own scope.
    fn walk(mut self, mut visit: impl FnMut(&Instruction, &[Stage], &Scope)) {
        for instruction in &self.dockerfile.instructions {
            let scope = self.stages.last().map_or(&self.global, |stage| &stage.scope);
            match instruction.keyword() {
                "FROM" => {
                    visit(instruction, &self.stages, &self.global);
                    self.enter_stage(instruction);
                }
                "ARG" => {
                    visit(instruction, &self.stages, scope);
                    self.declare_args(instruction);
                }
                "ENV" => {
                    visit(instruction, &self.stages, scope);
                    self.set_env(instruction);
                }
                _ => visit(instruction, &self.stages, scope),
            }
        }
    }

    fn enter_stage(&mut self, from: &Instruction) {
        let parsed = From::of(from);
        let image = self.global.expand(parsed.image.text(), from.escape()).unwrap_or_default();
        let scope = match find_stage(&self.stages, &image) {
            Some(parent) => self.stages[parent].scope.clone(),
            None => Scope { known: BTreeMap::new(), complete: image == "scratch" },
        };
        self.stages.push(Stage { name: parsed.name.map(|name| name.text().to_lowercase()), scope });
    }

    fn declare_args(&mut self, arg: &Instruction) {
        for word in arg.words() {
            let (name, default) = match word.text().split_once('=') {
                Some((name, default)) => (name, Some(default)),
                None => (word.text(), None),
            };
            let in_stage = !self.stages.is_empty();
            let inherited = if in_stage { self.global.known.get(name).cloned() } else { None };
            let scope = self.stages.last_mut().map_or(&mut self.global, |stage| &mut stage.scope);
            let default = default.and_then(|text| scope.expand(text, arg.escape()));
            let value = self
                .args
                .get(name)
                .cloned()
                .or(default)
                .or(inherited)
                .or_else(|| self.builtin.get(name).cloned());
            if let Some(value) = value {
                scope.known.insert(name.to_owned(), value);
            } else if !scope.complete {
                // Declared without a value: BuildKit leaves what the base image's ENV says.
                scope.known.remove(name);
            }
        }
    }

    fn set_env(&mut self, env: &Instruction) {
        let Some(stage) = self.stages.last_mut() else { return };
        let pairs = env.env_pairs();
        let before = stage.scope.clone();
        for (name, value) in pairs {
            match before.expand(&value, env.escape()) {
                Some(value) => stage.scope.known.insert(name, value),
                None => stage.scope.known.remove(&name),
            };
        }
    }
}

/// The stage that a name or number means, among those before.
fn find_stage(stages: &[Stage], name: &str) -> Option<usize> {
    let lower = name.to_lowercase();
    stages.iter().rposition(|stage| stage.name.as_deref() == Some(&lower))
}

/// `FROM [--platform=P] IMAGE [AS NAME]`.
struct From<'a> {
    platform: Option<&'a str>,
    image: &'a Word,
    name: Option<&'a Word>,
}

impl<'a> From<'a> {
    /// The parser has made sure that there is an image.
    fn of(instruction: &'a Instruction) -> Self {
        let platform = instruction.flags().iter().find_map(|flag| flag.text().strip_prefix("--platform="));
        let words = instruction.words();
        let name = words.get(2).filter(|_| words[1].text().eq_ignore_ascii_case("as"));
        Self { platform, image: &words[0], name }
    }
}

impl Dockerfile {
    /// Reads a Dockerfile.
    ///
    /// # Errors
    /// Every problem in the file.
    pub fn parse(text: &str) -> Result<Self, Vec<ParseProblem>> {
        let (instructions, mut problems) = lex::lex(text);
        let mut in_stage = false;
        for instruction in &instructions {
            check(instruction, &mut in_stage, &mut problems);
        }
        if !in_stage && problems.is_empty() {
            let help = Some("a Dockerfile starts with FROM, after comments and ARGs".into());
            problems.push(ParseProblem { span: Span::new(0, 0), message: "there is no FROM".into(), help });
        }
        if problems.is_empty() { Ok(Self { instructions }) } else { Err(problems) }
    }

    /// All instructions in the order of the file.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// Every image that is no stage of this file and not `scratch`, with `ARG`s as `args` or their defaults say.
    /// All stages count, also those that nothing uses.
    pub fn references(&self, args: &BTreeMap<String, String>) -> Vec<Reference> {
        let is_scratch = |used: &Reference| used.kind == EdgeKind::From && used.image == "scratch";
        let uses = self.uses(args).into_iter().filter(|used| used.of.is_none());
        uses.map(|used| used.reference).filter(|reference| !is_scratch(reference)).collect()
    }

    /// What each stage stands on and takes files from, in the order of the file.
    fn uses(&self, args: &BTreeMap<String, String>) -> Vec<Use> {
        let mut found = Vec::new();
        Walker::new(self, args).walk(|instruction, stages, scope| {
            let escape = instruction.escape();
            let is_deferred = instruction.keyword() == "ONBUILD";
            let mut add = |image: String, span, kind| {
                let (of, is_number) = match stage_of(stages, &image) {
                    Some(stage) => (Some(stage), find_stage(stages, &image).is_none()),
                    None => (None, is_deferred && image.parse::<usize>().is_ok()),
                };
                let stage = stages.len().saturating_sub(1);
                let reference = Reference { image, span, kind, platform: None, stage };
                found.push(Use { reference, of, is_number, is_deferred });
            };
            match instruction.effective_keyword() {
                "FROM" => {
                    let from = From::of(instruction);
                    let image = scope.expand(from.image.text(), escape).unwrap_or_default();
                    let of = find_stage(stages, &image);
                    let reference = Reference {
                        image,
                        span: from.image.span(),
                        kind: EdgeKind::From,
                        platform: from.platform.and_then(|text| scope.expand(text, escape)),
                        stage: stages.len(),
                    };
                    found.push(Use { reference, of, is_number: false, is_deferred });
                }
                "COPY" | "ADD" => {
                    for flag in instruction.flags() {
                        if let Some(image) = flag.text().strip_prefix("--from=") {
                            add(image.to_owned(), flag.tail(image.len()), EdgeKind::Copy);
                        }
                    }
                }
                "RUN" => {
                    for mount in mounts(instruction) {
                        let Some((from, span)) = mount.from else { continue };
                        let image = scope.expand(&from, escape).unwrap_or(from);
                        add(image, span, EdgeKind::Mount);
                    }
                }
                _ => {}
            }
        });
        found
    }

    /// The image that the last stage stands on, through other stages of the file; `None` when that is `scratch`.
    pub fn base(&self, args: &BTreeMap<String, String>) -> Option<String> {
        let mut bases: Vec<Option<String>> = Vec::new();
        Walker::new(self, args).walk(|instruction, stages, scope| {
            if instruction.keyword() == "FROM" {
                let image = From::of(instruction).image;
                let image = scope.expand(image.text(), instruction.escape()).unwrap_or_default();
                bases.push(match find_stage(stages, &image) {
                    Some(stage) => bases[stage].clone(),
                    None => (image != "scratch").then_some(image),
                });
            }
        });
        bases.pop().flatten()
    }

    /// What the build can read from the context. A source whose variables are not known is `.`: too much rather than
    /// too little.
    pub fn context_sources(&self, args: &BTreeMap<String, String>) -> Vec<ContextSource> {
        let mut found = Vec::new();
        Walker::new(self, args).walk(|instruction, _, scope| match instruction.effective_keyword() {
            "COPY" | "ADD" => {
                if instruction.flags().iter().any(|flag| flag.text().starts_with("--from=")) {
                    return;
                }
                let operands = instruction.operands();
                let sources = operands.split_last().map_or(&[][..], |(_, sources)| sources);
                for source in sources {
                    let pattern =
                        scope.expand(source.text(), instruction.escape()).unwrap_or_else(|| ".".into());
                    if source.text().starts_with("<<") || is_url(&pattern) {
                        continue;
                    }
                    found.push(ContextSource { pattern, span: source.span(), is_mount: false });
                }
            }
            "RUN" => {
                for mount in
                    mounts(instruction).into_iter().filter(|mount| mount.is_bind && mount.from.is_none())
                {
                    let (source, span) = mount.source;
                    let pattern = scope.expand(&source, instruction.escape()).unwrap_or_else(|| ".".into());
                    found.push(ContextSource { pattern, span, is_mount: true });
                }
            }
            _ => {}
        });
        found
    }

    /// What the file asks for that steps which reach `network` do not have. An ONBUILD is a child's, and asked there.
    /// A source of ADD that begins with a variable which is not known here may be an address.
    pub fn beyond(&self, network: RunNetwork, args: &BTreeMap<String, String>) -> Vec<ParseProblem> {
        let mut found = Vec::new();
        Walker::new(self, args).walk(|instruction, _, scope| {
            let asked = match instruction.keyword() {
                "RUN" => instruction
                    .flags()
                    .iter()
                    .find_map(network_flag)
                    .map(|(span, asked)| (span, format!("RUN --network={}", asked.as_str()), asked)),
                "ADD" => {
                    let may_be_fetched =
                        |source: &&Word| match scope.expand(source.text(), instruction.escape()) {
                            Some(text) => is_url(&text),
                            None => source.text().starts_with('$'),
                        };
                    let operands = instruction.operands();
                    let sources = operands.split_last().map_or(&[][..], |(_, sources)| sources);
                    let fetched = sources.iter().find(may_be_fetched);
                    fetched
                        .map(|source| (source.span(), format!("ADD {}", source.text()), RunNetwork::Default))
                }
                _ => None,
            };
            let Some((span, what, needed)) = asked.filter(|(.., needed)| *needed > network) else { return };
            let (needed, has) = (needed.as_str(), network.as_str());
            let message = format!("{what} needs network \"{needed}\", and this image has \"{has}\"");
            let help = Some(format!("say in its image.kdl: network \"{needed}\""));
            found.push(ParseProblem { span, message, help });
        });
        found
    }

    /// The modes that COPY and ADD give, and the mounts of RUN, in the order of the file.
    pub fn flag_values(&self, args: &BTreeMap<String, String>) -> Vec<FlagValue> {
        let mut found = Vec::new();
        Walker::new(self, args).walk(|instruction, _, scope| {
            let wanted = match instruction.keyword() {
                "COPY" | "ADD" => "--chmod=",
                "RUN" => "--mount=",
                _ => return,
            };
            for flag in instruction.flags() {
                let Some(written) = flag.text().strip_prefix(wanted) else { continue };
                found.push(FlagValue {
                    flag: wanted,
                    line: instruction.line(),
                    span: flag.tail(written.len()),
                    written: written.to_owned(),
                    value: scope.expand(written, instruction.escape()),
                });
            }
        });
        found
    }

    /// Instructions that run in children's builds.
    pub fn onbuild(&self) -> impl Iterator<Item = &Instruction> {
        self.instructions.iter().filter(|instruction| instruction.keyword() == "ONBUILD")
    }
}

/// The stage that COPY --from or a mount means: by its name, or else by its number.
fn stage_of(stages: &[Stage], name: &str) -> Option<usize> {
    find_stage(stages, name).or_else(|| name.parse().ok().filter(|number| *number < stages.len()))
}

/// ADD's sources that are fetched, not read from the context.
fn is_url(text: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@"].iter().any(|scheme| text.starts_with(scheme))
}

/// `--network=host`: which network, and its place.
fn network_flag(flag: &Word) -> Option<(Span, RunNetwork)> {
    let network = match flag.text().strip_prefix("--network=")?.trim_matches('"') {
        "none" => RunNetwork::None,
        "default" => RunNetwork::Default,
        "host" => RunNetwork::Host,
        _ => return None,
    };
    Some((flag.span(), network))
}

/// One `--mount` of a RUN.
struct Mount {
    is_bind: bool,
    from: Option<(String, Span)>,
    source: (String, Span),
}

/// `--mount=type=bind,from=IMAGE,source=PATH,target=PATH`; fields may stand in double quotes.
fn mounts(run: &Instruction) -> Vec<Mount> {
    let mut mounts = Vec::new();
    for flag in run.flags() {
        let Some(fields) = flag.text().strip_prefix("--mount=") else { continue };
        let base = flag.text().len() - fields.len();
        let mut mount = Mount { is_bind: true, from: None, source: (".".into(), flag.span()) };
        let mut at = base;
        for field in fields.split(',') {
            let trimmed = field.trim_matches('"');
            let (key, value) = trimmed.split_once('=').unwrap_or((trimmed, ""));
            let start = at + field.find(trimmed).unwrap_or(0) + trimmed.len() - value.len();
            let span = flag.part(start, value.len());
            match key.to_ascii_lowercase().as_str() {
                // One that a variable says may be.
                "type" => mount.is_bind = value.eq_ignore_ascii_case("bind") || value.contains('$'),
                "from" => mount.from = Some((value.to_owned(), span)),
                "source" | "src" => mount.source = (value.to_owned(), span),
                _ => {}
            }
            at += field.len() + 1;
        }
        mounts.push(mount);
    }
    mounts
}

const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

fn check(instruction: &Instruction, in_stage: &mut bool, problems: &mut Vec<ParseProblem>) {
    let keyword = instruction.keyword();
    let mut problem =
        |span, message: String, help: Option<String>| problems.push(ParseProblem { span, message, help });
    if !KEYWORDS.contains(&keyword) {
        let help = imgforge_syntax::nearest(keyword, KEYWORDS).map(|near| format!("did you mean {near}?"));
        problem(instruction.keyword_span(), format!("there is no instruction {keyword}"), help);
    } else if keyword == "FROM" {
        *in_stage = true;
        let words = instruction.words();
        let is_named = words.len() == 3 && words[1].text().eq_ignore_ascii_case("as");
        if words.len() != 1 && !is_named {
            let help = Some("FROM [--platform=PLATFORM] IMAGE [AS NAME]".into());
            problem(instruction.span(), "FROM takes one image, and maybe AS and a name".into(), help);
        }
    } else if !*in_stage && keyword != "ARG" {
        problem(instruction.keyword_span(), format!("{keyword} stands before the first FROM"), None);
    } else if instruction.words().is_empty() && instruction.flags().is_empty() {
        problem(instruction.span(), format!("{keyword} says nothing"), None);
    }
}
