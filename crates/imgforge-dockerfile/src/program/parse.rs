//! From text to a program: stages, what each stands on, and the ARGs before the first FROM.

use std::collections::BTreeMap;
use std::sync::Arc;

use imgforge_syntax::{Located, Span};

use super::instruction::{Instruction, Kind, Word, problem};
use super::platform::normal_platform;
use super::shell::{self, NoValue, Rules, Value};
use super::{Base, Program, StageText};
use crate::ParseProblem;

impl Program {
    /// Makes a program of the instructions of a file. What is wrong with it is added to `problems`; the program is what
    /// could be understood.
    pub(crate) fn of(
        lines: &[Arc<Instruction>],
        escape: char,
        args: &BTreeMap<String, String>,
        platform: &str,
        problems: &mut Vec<ParseProblem>,
    ) -> Self {
        let mut program = Self {
            escape,
            platform: platform.to_owned(),
            args: args.clone(),
            globals: BTreeMap::new(),
            stages: Vec::new(),
            is_broken: false,
        };
        let mut global_args = Vec::new();
        let mut stages: Vec<(&Instruction, Vec<Arc<Instruction>>)> = Vec::new();
        for line in lines {
            problems.extend_from_slice(&line.problems);
            let is_unread = matches!(line.kind, Kind::Unread { .. });
            program.is_broken |= is_unread;
            match (line.keyword.value.as_str(), stages.last_mut()) {
                ("FROM", _) => stages.push((line, Vec::new())),
                (_, Some((_, instructions))) => instructions.push(Arc::clone(line)),
                ("ARG", None) => global_args.push(line.as_ref()),
                (keyword, None) if !is_unread => {
                    let message = format!("{keyword} stands before the first FROM");
                    problems.push(problem(line.keyword.span, message, None));
                }
                (_, None) => {}
            }
        }
        if stages.is_empty() && problems.is_empty() {
            let help = Some("a Dockerfile starts with FROM, after comments and ARGs");
            problems.push(problem(Span::new(0, 0), "there is no FROM", help));
        }
        let last_name = stages.last().and_then(|(from, _)| match &from.kind {
            Kind::From { name, .. } => name.clone(),
            _ => None,
        });
        program.set_globals(&global_args, last_name.as_deref().unwrap_or("default"), problems);
        for (from, instructions) in stages {
            let span = from.span;
            let mut stage = StageText {
                name: None,
                base: Base::Image(String::new()),
                image: Located::new(String::new(), span),
                platform: None,
                span,
                instructions,
            };
            if let Kind::From { image, platform, name } = &from.kind {
                stage.base = program.base(image, platform.as_ref(), problems);
                let known = |word: &Word| expand(word, program.escape, &program.globals, &mut Vec::new());
                stage.image = Located::new(known(image).unwrap_or_default(), image.span);
                stage.platform = platform.as_ref().and_then(known);
                stage.name.clone_from(name);
            }
            program.stages.push(stage);
        }
        program
    }

    /// ARGs before the first FROM: each sees those before it.
    fn set_globals(&mut self, lines: &[&Instruction], target: &str, problems: &mut Vec<ParseProblem>) {
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
