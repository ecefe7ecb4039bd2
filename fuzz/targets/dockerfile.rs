//! Dockerfiles of anyone, read and evaluated: problems lie in the text, and what evaluates is as an engine expects it.

#![no_main]

use std::collections::BTreeMap;

use imgforge_dockerfile::program::{Action, Base, Below, Program, Stage};
use imgforge_dockerfile::{Dockerfile, ParseProblem};
use imgforge_oci::ImageConfig;
use imgforge_syntax::Span;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let args = BTreeMap::from([("GIVEN".to_owned(), "a b".to_owned())]);
    match Dockerfile::parse(text) {
        Ok(dockerfile) => {
            let spans = dockerfile.references(&args).into_iter().map(|reference| reference.span);
            spans.for_each(|span| lies_in(text, span));
            let sources = dockerfile.context_sources(&args).into_iter().map(|source| source.span);
            sources.for_each(|span| lies_in(text, span));
            dockerfile.base(&args);
            for number in 0..dockerfile.stage_names().len() {
                let reduced =
                    dockerfile.reduced(text, &number.to_string(), &args).expect("there is such a stage");
                assert_eq!(reduced.text.len(), text.len());
            }
        }
        Err(problems) => told(text, &problems),
    }
    match Program::new(text, &args, "linux/amd64") {
        Ok(program) => evaluate(&program, text),
        Err(problems) => told(text, &problems),
    }
});

fn told(text: &str, problems: &[ParseProblem]) {
    assert!(!problems.is_empty());
    for problem in problems {
        lies_in(text, problem.span);
    }
}

fn lies_in(text: &str, span: Span) {
    let (start, len) = (span.offset as usize, span.len as usize);
    assert!(text.get(start..start + len).is_some(), "{span:?} is not in the text");
}

fn evaluate(program: &Program, text: &str) {
    let image = ImageConfig::scratch("linux/amd64");
    let bases = program.bases();
    let mut stages: BTreeMap<usize, Stage> = BTreeMap::new();
    for number in program.needed() {
        let below = match bases[number] {
            Base::Stage(below) => Below::Stage(&stages[&below]),
            Base::Scratch | Base::Image(_) => Below::Image(&image),
        };
        let stage = match program.stage(number, below) {
            Ok(stage) => stage,
            // What is wrong with the values of an image is told now.
            Err(problems) => return told(text, &problems),
        };
        for step in &stage.steps {
            assert!(step.number <= step.total && step.line <= text.lines().count());
            match &step.action {
                Some(Action::Copy(copy)) => assert!(copy.target.starts_with('/')),
                Some(Action::Run(run)) => assert!(run.workdir.starts_with('/') && !run.argv.is_empty()),
                Some(Action::Workdir { path, .. }) => assert!(path.starts_with('/')),
                None => {}
            }
        }
        stages.insert(number, stage);
    }
}
