//! Reads Dockerfiles: which images a build stands on, which files it can reach, and what each instruction does.
//!
//! There is one reader and one evaluator, those of [`program`]. A [`Dockerfile`] answers what can be asked before the
//! images below are seen: what hangs on one of them is not known, and counts as whatever it may be. A
//! [`program::Program`] is carried out, and is strict: what an engine of ours cannot do is a problem. So what is hashed
//! and what is read are the same words with the same values.
//!
//! A small parser of our own rather than one of the published crates, because three things are needed together
//! that none of them gives: byte spans of single words (a parent's name is replaced in place), the expansion of
//! variables as BuildKit does it, and the mounts of `RUN`. It is total: any text gives instructions or
//! [`ParseProblem`]s. The rules are those of BuildKit's Dockerfile frontend (its "Dockerfile reference").

mod config;
mod lex;
pub mod program;
mod queries;
mod target;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use imgforge_syntax::Span;
use serde::{Deserialize, Serialize};

pub use self::config::{Command, Config};
pub use self::program::read::Raw as Instruction;
use self::program::read::Read;
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

/// A Dockerfile, to be asked.
#[derive(Debug, Clone)]
pub struct Dockerfile {
    read: Read,
    /// What each instruction says.
    understood: Vec<Arc<program::instruction::Instruction>>,
}

impl Dockerfile {
    /// Reads a Dockerfile.
    ///
    /// # Errors
    /// Every problem in the file.
    pub fn parse(text: &str) -> Result<Self, Vec<ParseProblem>> {
        let read = program::read::read(text);
        let mut problems = read.problems.clone();
        let mut in_stage = false;
        for instruction in &read.instructions {
            check(instruction, &mut in_stage, &mut problems);
        }
        if !in_stage && problems.is_empty() {
            let help = Some("a Dockerfile starts with FROM, after comments and ARGs".into());
            problems.push(ParseProblem { span: Span::new(0, 0), message: "there is no FROM".into(), help });
        }
        problems.sort_by_key(|problem| problem.span.offset);
        if !problems.is_empty() {
            return Err(problems);
        }
        let understood = program::instruction::Instruction::all(&read);
        Ok(Self { read, understood })
    }

    /// Returns all instructions in the order of the file.
    pub fn instructions(&self) -> &[Instruction] {
        &self.read.instructions
    }
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
        let is_named = words.len() == 3 && words[1].value.eq_ignore_ascii_case("as");
        if words.len() != 1 && !is_named {
            let help = Some("FROM [--platform=PLATFORM] IMAGE [AS NAME]".into());
            problem(instruction.span(), "FROM takes one image, and maybe AS and a name".into(), help);
        }
    } else if !*in_stage && keyword != "ARG" {
        problem(instruction.keyword_span(), format!("{keyword} stands before the first FROM"), None);
    } else if instruction.is_bare() {
        problem(instruction.span(), format!("{keyword} says nothing"), None);
    }
}
