//! Tests of programs. What is said of BuildKit here was seen with Docker 20.10 where that engine has the feature.

mod configuration;
mod covered;
mod files;
mod lines;
mod problems;
mod properties;
mod stages;
mod variables;

use std::collections::BTreeMap;

use super::{Action, Base, Below, Copy, Program, Run, Stage};
use imgforge_oci::{ImageConfig, Settings};

/// A program for linux/amd64 without build arguments.
fn program(text: &str) -> Program {
    program_with(text, &[])
}

fn program_with(text: &str, args: &[(&str, &str)]) -> Program {
    let args = args.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Program::new(text, &args, "linux/amd64").unwrap_or_else(|problems| panic!("{text}\n{problems:?}"))
}

/// The image that files of tests stand on.
fn image() -> ImageConfig {
    let mut config = ImageConfig::scratch("linux/amd64");
    config.config.env = vec!["PATH=/bin".into(), "BASE=base".into()];
    config.config.working_dir = "/base".into();
    config
}

/// Every needed stage, with `image` below those that stand on one.
fn stages_on(program: &Program, image: &ImageConfig) -> BTreeMap<usize, Stage> {
    let bases = program.bases();
    let scratch = ImageConfig::scratch("linux/amd64");
    let mut stages: BTreeMap<usize, Stage> = BTreeMap::new();
    for number in program.needed() {
        let below = match bases[number] {
            Base::Scratch => Below::Image(&scratch),
            Base::Stage(below) => Below::Stage(&stages[&below]),
            Base::Image(_) => Below::Image(image),
        };
        let stage = program.stage(number, below).unwrap_or_else(|problems| panic!("{problems:?}"));
        stages.insert(number, stage);
    }
    stages
}

/// The last stage.
fn last(text: &str) -> Stage {
    last_of(&program(text))
}

fn last_of(program: &Program) -> Stage {
    stages_on(program, &image()).pop_last().unwrap().1
}

fn settings(text: &str) -> Settings {
    last(text).config.config
}

/// The last RUN of the last stage.
fn run(text: &str) -> Run {
    run_of(&last(text))
}

fn run_of(stage: &Stage) -> Run {
    let runs = stage.steps.iter().rev().find_map(|step| match &step.action {
        Some(Action::Run(run)) => Some(run.clone()),
        _ => None,
    });
    runs.unwrap()
}

/// The last COPY or ADD of the last stage.
fn copy(text: &str) -> Copy {
    let copies = last(text).steps.into_iter().rev().find_map(|step| match step.action {
        Some(Action::Copy(copy)) => Some(copy),
        _ => None,
    });
    copies.unwrap()
}

/// `NAME=VALUE` of everything but PATH.
fn variables(run: &Run) -> Vec<String> {
    let others = run.env.iter().filter(|(name, _)| name != "PATH");
    others.map(|(name, value)| format!("{name}={value}")).collect()
}
