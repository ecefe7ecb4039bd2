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

mod action;
pub(crate) mod eval;
mod golang;
pub(crate) mod instruction;
pub(crate) mod mount;
mod parse;
mod platform;
pub(crate) mod read;
mod shell;
mod signal;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imgforge_oci::ImageConfig;
use imgforge_syntax::Span;

pub use self::action::{
    Action, Copy, CopySource, From, Mount, MountKind, Run, RunNetwork, Sharing, Stage, Step,
};
pub(crate) use self::eval::Seen;
use self::eval::{Evaluator, Look};
use self::instruction::{Instruction, Kind, Word, problem};
use self::shell::{Rules, Value};
use crate::ParseProblem;

/// A Dockerfile, ready to be carried out.
#[derive(Debug, Clone)]
pub struct Program {
    escape: char,
    platform: String,
    /// Build arguments.
    args: BTreeMap<String, String>,
    /// ARGs before the first FROM, and those that BuildKit sets by itself.
    globals: BTreeMap<String, String>,
    pub(crate) stages: Vec<StageText>,
    /// Whether an instruction is missing because it could not be read.
    is_broken: bool,
}

/// One FROM and what follows it.
#[derive(Debug, Clone)]
pub(crate) struct StageText {
    /// In lower case.
    pub(crate) name: Option<String>,
    pub(crate) base: Base,
    /// What its FROM names, with ARGs expanded, and where.
    pub(crate) image: Word,
    /// `--platform` of its FROM, expanded.
    pub(crate) platform: Option<String>,
    /// Of its FROM.
    span: Span,
    pub(crate) instructions: Vec<Arc<Instruction>>,
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

/// What a stage is evaluated on.
#[derive(Debug, Clone, Copy)]
pub enum Below<'a> {
    /// An image, or the empty one of [`ImageConfig::scratch`].
    Image(&'a ImageConfig),
    /// A stage of the same file, evaluated before.
    Stage(&'a Stage),
}

impl Program {
    /// Reads a Dockerfile to be carried out for a platform (`linux/amd64`): like
    /// [`crate::Dockerfile::parse`], but what is not known to be understood is a problem.
    ///
    /// # Errors
    /// Every problem in the file; of what stages do, only in those that are needed.
    pub fn new(
        text: &str,
        args: &BTreeMap<String, String>,
        platform: &str,
    ) -> Result<Self, Vec<ParseProblem>> {
        let read = read::read(text);
        let mut problems = [read.of_directives.as_slice(), &read.problems].concat();
        let lines = Instruction::all(&read);
        let mut program = Self::of(&lines, read.escape, args, platform, &mut problems);
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
            let (stage, found) = Evaluator::run(&program, number, below, &mut None);
            problems.extend(found);
            evaluated.insert(number, stage);
        }
        problems.sort_by_key(|problem| problem.span.offset);
        problems.dedup();
        if problems.is_empty() { Ok(program) } else { Err(problems) }
    }

    /// The last stage of a name, among those that have been understood.
    fn find_stage(&self, name: &str) -> Option<usize> {
        stage_called(&self.stages, name)
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

    /// Shows each instruction of all stages, also of those that nothing needs, with the variables that it sees as far as
    /// the file tells them. What is wrong is another's to say.
    pub(crate) fn look(&self, visit: &mut dyn FnMut(&Seen<'_>)) {
        let mut look: Look<'_> = Some(visit);
        let scratch = ImageConfig::scratch(&self.platform);
        let mut stages: Vec<Stage> = Vec::new();
        for (number, text) in self.stages.iter().enumerate() {
            let below = match text.base {
                Base::Scratch => Some(Below::Image(&scratch)),
                Base::Stage(below) => Some(Below::Stage(&stages[below])),
                Base::Image(_) => None,
            };
            let (stage, _) = Evaluator::run(self, number, below, &mut look);
            stages.push(stage);
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
        let own = stage.instructions.iter().map(Arc::as_ref);
        let words = triggers.chain(own).flat_map(|instruction| match &instruction.kind {
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
        let (stage, problems) = Evaluator::run(self, number, Some(below), &mut None);
        if problems.is_empty() { Ok(stage) } else { Err(problems) }
    }
}

/// The last stage of a name.
pub(crate) fn stage_called(stages: &[StageText], name: &str) -> Option<usize> {
    let lower = name.to_lowercase();
    stages.iter().rposition(|stage| stage.name.as_deref() == Some(&lower))
}
