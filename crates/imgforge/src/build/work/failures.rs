//! What people are told when a target is not built: what is wrong, at the line of the manifest or Dockerfile that can
//! be mended.

use std::sync::Arc;

use imgforge_core::diagnostic::{Problem, SourceFile};
use imgforge_core::name::ImageName;
use imgforge_core::testing::TestResult;
use imgforge_engine::{BuildError, Place, StepFailure};
use imgforge_oci::reference::Parts;
use imgforge_syntax::Span;

use super::job::Job;
use crate::Error;
use crate::testing::Stopped;

/// The advice when the engine's disk is full.
const MAKE_ROOM: &str = "make room where the engine keeps its images: imgforge prune, or docker image prune";

/// Why a target could not be built, or what its tests have found, for people. A target may have several.
#[derive(Debug, Clone)]
pub struct TargetFailure {
    /// The image.
    pub target: ImageName,
    /// The problem, at the manifest's line when the step that failed comes from one.
    pub problem: Problem,
}

/// Why a target is not built.
pub(super) enum Stop {
    Build(BuildError),
    Packages,
    /// A test has failed; what had changed before.
    Tests {
        results: Vec<TestResult>,
        causes: Vec<String>,
    },
    Cancelled,
    Library(Error),
}

impl From<Stopped> for Stop {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Cancelled => Self::Cancelled,
            Stopped::Failed(error) => Self::Library(error),
        }
    }
}

impl From<imgforge_engine::Error> for Stop {
    fn from(error: imgforge_engine::Error) -> Self {
        Self::Library(error.into())
    }
}

/// Each check that did not hold, at its place in the manifest that has it.
pub(super) fn test_failures(
    target: &ImageName,
    result: &TestResult,
    causes: &[String],
) -> impl Iterator<Item = TargetFailure> {
    result.failures.iter().enumerate().map(move |(number, failure)| {
        let message = format!("test \"{}\" of {target} failed: {failure}", result.name);
        let mut problem = Problem::at(&result.file, failure.span, message, "this check");
        if number == 0 && !causes.is_empty() {
            problem = problem.help(format!("what has changed: {}", causes.join("\n")));
        }
        TargetFailure { target: target.clone(), problem }
    })
}

/// `tests failed: starts: expected status 200, found status 503`, of several the first with how many more there are.
pub(super) fn tests_message(results: &[TestResult]) -> String {
    let mut failures =
        results.iter().flat_map(|result| result.failures.iter().map(|one| (&result.name, one)));
    let first = failures.next().map(|(name, failure)| format!("{name}: {failure}")).unwrap_or_default();
    match failures.count() {
        0 => format!("tests failed: {first}"),
        more => format!("tests failed: {first}; and {more} more"),
    }
}

/// A failure at the place that can be mended.
pub(super) fn explain(job: &Job, stop: Stop) -> TargetFailure {
    let name = job.prepared.target.name.clone();
    let manifest = &job.image.manifest;
    let at_name = |message: String| Problem::at(&manifest.file, manifest.name.span, message, "this image");
    let problem = match stop {
        Stop::Build(error) => gone_external(job, &error).unwrap_or_else(|| build_problem(job, &error)),
        Stop::Packages => at_name("the image's packages are not those of the lock".into())
            .help("a step installs or removes packages: name them with `packages` instead"),
        // Told where they come from, each in its own way.
        Stop::Tests { .. } | Stop::Cancelled => at_name("it was stopped".into()),
        Stop::Library(error) => {
            let help = error.help();
            help.into_iter().fold(at_name(error.to_string()), Problem::help)
        }
    };
    TargetFailure { target: name, problem }
}

/// An image from outside that its registry does not have any more under the digest that is used.
fn gone_external(job: &Job, error: &BuildError) -> Option<Problem> {
    let BuildError::MissingImage { reference, .. } = error else { return None };
    let digests = &job.prepared.build.externals;
    let missing = Parts::of(reference).digest?;
    let external =
        job.image.externals.iter().find(|external| {
            digests.get(&external.reference).is_some_and(|digest| digest.as_str() == missing)
        })?;
    let digest = &digests[&external.reference];
    let used = Parts { digest: Some(digest.as_str()), ..Parts::of(&external.reference) };
    let message = format!("no registry has {used} any more");
    let problem = Problem::at(&external.file, external.span, message, "used here");
    Some(problem.help(crate::lock::externals::gone_help(&external.reference)))
}

fn build_problem(job: &Job, error: &BuildError) -> Problem {
    let manifest = &job.image.manifest;
    let at_name = |message: String| Problem::at(&manifest.file, manifest.name.span, message, "this image");
    match error {
        BuildError::Step { number, total, text, place, why, .. } => {
            let problem = match place.and_then(|place| origin(job, place)) {
                Some((file, span)) => {
                    Problem::at(file, span, why.to_string(), format!("step {number}/{total}"))
                }
                None => at_name(format!("{why} in {text}")),
            };
            if matches!(why, StepFailure::NoSpace { .. }) { problem.help(MAKE_ROOM) } else { problem }
        }
        BuildError::Source { line, why } => match &job.image.dockerfile {
            Some(hand_written) => {
                let message = format!("the engine does not take this Dockerfile: {why}");
                Problem::at(
                    &hand_written.file,
                    line_span(&hand_written.file.text, *line),
                    message,
                    "this line",
                )
            }
            None => at_name(error.to_string()),
        },
        BuildError::ContextChanged { path } => at_name(format!("{path} was changed while it was being read"))
            .help("nothing was built from it; build again"),
        BuildError::NoSpace => at_name("the engine has no space left".into()).help(MAKE_ROOM),
        other => at_name(other.to_string()),
    }
}

/// Finds what an instruction comes from: the Dockerfile's own text, or a place in the manifest.
fn origin(job: &Job, place: Place) -> Option<(&Arc<SourceFile>, Span)> {
    let instruction = job.prepared.build.dockerfile.instructions().get(place.instruction)?;
    match &job.image.dockerfile {
        Some(hand_written) => Some((&hand_written.file, instruction.span())),
        None => {
            let span = job.prepared.rendered.origin(instruction.line() - 1)?;
            Some((&job.image.manifest.file, span))
        }
    }
}

/// Finds a line, counted from 1, of a text.
fn line_span(text: &str, line: usize) -> Span {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    Span::new(before, text[before..].lines().next().map_or(0, str::len))
}
