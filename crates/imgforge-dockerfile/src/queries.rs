//! What a Dockerfile is asked before anything is built: what it stands on, reads from the context and needs.

use std::collections::BTreeMap;

use imgforge_syntax::Span;

use crate::program::eval::copy::is_address;
use crate::program::instruction::{CopyLine, Instruction, Kind, RunLine, Word};
use crate::program::mount::{ContextMount, RawMount};
use crate::program::{Base, Program, RunNetwork, Seen, stage_called};
use crate::{ContextSource, Dockerfile, EdgeKind, FlagValue, ParseProblem, Reference};

/// What a stage stands on or takes files from.
pub(super) struct Use {
    /// A stage's name or number may stand where the image does.
    pub(super) reference: Reference,
    /// The stage of the same file that is meant; another image when there is none.
    pub(super) of: Option<usize>,
    /// Whether a stage is meant by its number.
    pub(super) is_number: bool,
    /// Whether it stands in an ONBUILD, so that a stage or image above this one is meant.
    pub(super) is_deferred: bool,
}

impl Dockerfile {
    /// The program, as far as it can be understood.
    pub(super) fn program(&self, args: &BTreeMap<String, String>) -> Program {
        let platform = args.get("TARGETPLATFORM").map_or("linux/amd64", String::as_str);
        Program::of(&self.understood, self.read.escape, args, platform, &mut Vec::new())
    }

    /// Returns every image that is no stage of this file and not `scratch`, with `ARG`s as `args` or their defaults
    /// say. All stages count, also those that nothing uses.
    pub fn references(&self, args: &BTreeMap<String, String>) -> Vec<Reference> {
        let is_scratch = |used: &Reference| used.kind == EdgeKind::From && used.image == "scratch";
        let uses = uses(&self.program(args)).into_iter().filter(|used| used.of.is_none());
        uses.map(|used| used.reference).filter(|reference| !is_scratch(reference)).collect()
    }

    /// Returns the image that the last stage stands on, through other stages of the file; `None` when that is
    /// `scratch`.
    pub fn base(&self, args: &BTreeMap<String, String>) -> Option<String> {
        let program = self.program(args);
        let mut stage = program.stages.last()?;
        loop {
            match &stage.base {
                Base::Scratch => return None,
                Base::Image(name) => return Some(name.clone()),
                Base::Stage(below) => stage = &program.stages[*below],
            }
        }
    }

    /// Returns what the build can read from the context. A source whose variables are not known, or that is wrong, is
    /// `.`: too much rather than too little. What ONBUILD holds is read where a stage stands on this one.
    pub fn context_sources(&self, args: &BTreeMap<String, String>) -> Vec<ContextSource> {
        let mut found = Vec::new();
        self.program(args).look(&mut |seen| {
            let mut add = |pattern: Option<String>, span: Span, is_mount: bool| {
                let pattern = pattern.filter(|path| !path.is_empty()).unwrap_or_else(|| ".".into());
                found.push(ContextSource { pattern, span: seen.place(span), is_mount });
            };
            match &seen.instruction.kind {
                Kind::Copy(line) if line.from.is_none() => {
                    for source in &line.sources {
                        let pattern = seen.expand(&source.value);
                        if !pattern.as_deref().is_some_and(is_address) {
                            add(pattern, source.span, false);
                        }
                    }
                }
                Kind::Run(line) => {
                    for mount in line.mounts.iter().filter_map(RawMount::of_context) {
                        if may_be_bind(&mount, seen) {
                            add(seen.expand(mount.source), mount.span, true);
                        }
                    }
                }
                Kind::Unread { keyword } if matches!(keyword.as_str(), "COPY" | "ADD" | "RUN") => {
                    add(None, seen.instruction.span, false);
                }
                _ => {}
            }
        });
        found
    }

    /// Returns what the file asks for that steps which reach `network` do not have. What ONBUILD holds is asked where
    /// a stage stands on this one. A source of ADD that begins with a variable which is not known here may be an
    /// address.
    pub fn beyond(&self, network: RunNetwork, args: &BTreeMap<String, String>) -> Vec<ParseProblem> {
        let mut found = Vec::new();
        self.program(args).look(&mut |seen| {
            let asked = match &seen.instruction.kind {
                Kind::Run(line) => line.network.as_ref().map(|asked| {
                    (asked.span, format!("RUN --network={}", asked.value.as_str()), asked.value)
                }),
                Kind::Copy(line) if line.is_add && line.from.is_none() => fetched(line, seen)
                    .map(|source| (source.span, format!("ADD {}", source.value), RunNetwork::Default)),
                _ => None,
            };
            let Some((span, what, needed)) = asked.filter(|(.., needed)| *needed > network) else { return };
            let (needed, has) = (needed.as_str(), network.as_str());
            let message = format!("{what} needs network \"{needed}\", and this image has \"{has}\"");
            let help = Some(format!("say in its image.kdl: network \"{needed}\""));
            found.push(ParseProblem { span: seen.place(span), message, help });
        });
        found
    }

    /// Returns the modes that COPY and ADD give, and the mounts of RUN, in the order of the file.
    pub fn flag_values(&self, args: &BTreeMap<String, String>) -> Vec<FlagValue> {
        let mut found = Vec::new();
        self.program(args).look(&mut |seen| {
            let wanted = match &seen.instruction.kind {
                Kind::Copy(_) => "--chmod=",
                Kind::Run(_) => "--mount=",
                Kind::Unread { keyword } if keyword == "RUN" => "--mount=",
                Kind::Unread { keyword } if matches!(keyword.as_str(), "COPY" | "ADD") => "--chmod=",
                _ => return,
            };
            for flag in seen.instruction.flags.iter().filter(|_| seen.is_own()) {
                let values = flag.written.strip_prefix(wanted).zip(flag.text().strip_prefix(wanted));
                let Some((written, value)) = values else { continue };
                found.push(FlagValue {
                    flag: wanted,
                    line: seen.instruction.line,
                    span: flag.tail(written.len()),
                    written: written.to_owned(),
                    value: seen.expand(value),
                });
            }
        });
        found
    }
}

/// What each stage stands on and takes files from, in the order of the file.
pub(super) fn uses(program: &Program) -> Vec<Use> {
    let mut found = Vec::new();
    for (number, stage) in program.stages.iter().enumerate() {
        let of = match stage.base {
            Base::Stage(below) => Some(below),
            Base::Scratch | Base::Image(_) => None,
        };
        let reference = Reference {
            image: stage.image.value.clone(),
            span: stage.image.span,
            kind: EdgeKind::From,
            platform: stage.platform.clone(),
            stage: number,
        };
        found.push(Use { reference, of, is_number: false, is_deferred: false });
        for instruction in &stage.instructions {
            let (instruction, is_deferred) = match &instruction.kind {
                Kind::Onbuild { inner, .. } => (inner.as_ref(), true),
                _ => (instruction.as_ref(), false),
            };
            found.extend(taken(instruction).into_iter().map(|(word, kind)| {
                let as_number = word.value.parse::<usize>().ok();
                let of = match as_number {
                    Some(other) => Some(other).filter(|other| *other <= number),
                    None => stage_called(&program.stages[..=number], &word.value),
                };
                let is_number = as_number.is_some() && (of.is_some() || is_deferred);
                let reference =
                    Reference { image: word.value, span: word.span, kind, platform: None, stage: number };
                Use { reference, of, is_number, is_deferred }
            }));
        }
    }
    found
}

/// What an instruction says that it takes files from.
fn taken(instruction: &Instruction) -> Vec<(Word, EdgeKind)> {
    match &instruction.kind {
        Kind::Copy(CopyLine { from, .. }) => from.iter().map(|from| (from.clone(), EdgeKind::Copy)).collect(),
        Kind::Run(RunLine { mounts, .. }) => {
            mounts.iter().filter_map(RawMount::from).map(|from| (from, EdgeKind::Mount)).collect()
        }
        _ => Vec::new(),
    }
}

fn may_be_bind(mount: &ContextMount<'_>, seen: &Seen<'_>) -> bool {
    let Some(kind) = mount.kind else { return true };
    seen.expand(kind).is_none_or(|kind| kind.eq_ignore_ascii_case("bind"))
}

/// The first source of an ADD that is fetched, or may be.
fn fetched<'a>(line: &'a CopyLine, seen: &Seen<'_>) -> Option<&'a Word> {
    line.sources.iter().find(|source| match seen.expand(&source.value) {
        Some(text) => is_address(&text),
        None => source.value.starts_with('$'),
    })
}
