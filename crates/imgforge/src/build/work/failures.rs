//! What people are told when a target is not built: what is wrong, at the line of the manifest or Dockerfile that can
//! be mended.

#[cfg(test)]
mod tests;

use imgforge_core::diagnostic::Problem;
use imgforge_core::name::ImageName;
use imgforge_core::testing::TestResult;
use imgforge_engine::BuildError;
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
        Stop::Build(error) => {
            let problem = gone_external(job, &error).unwrap_or_else(|| build_problem(job, &error));
            if is_disk_full(&error) { problem.help(MAKE_ROOM) } else { problem }
        }
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

/// Returns whether a step has found the engine's disk full: commands say it in the words of the libc.
fn is_disk_full(error: &BuildError) -> bool {
    let full = |line: &String| line.contains("No space left on device");
    matches!(error, BuildError::Step { log_tail, .. } if log_tail.iter().any(full))
}

/// An image from outside that its registry does not have any more under the digest that is used.
fn gone_external(job: &Job, error: &BuildError) -> Option<Problem> {
    let told = error.to_string();
    if !["not found", "manifest unknown", "does not exist"].iter().any(|words| told.contains(words)) {
        return None;
    }
    let external = job.image.externals.iter().find(|external| {
        let digest = job.prepared.build.externals.get(&external.reference);
        digest.is_some_and(|digest| told.contains(digest.as_str()))
    })?;
    let digest = &job.prepared.build.externals[&external.reference];
    let used = Parts { digest: Some(digest.as_str()), ..Parts::of(&external.reference) };
    let message = format!("no registry has {used} any more");
    let problem = Problem::at(&external.file, external.span, message, "used here");
    Some(problem.help(crate::lock::externals::gone_help(&external.reference)))
}

fn build_problem(job: &Job, error: &BuildError) -> Problem {
    let manifest = &job.image.manifest;
    let at_name = |message: String| Problem::at(&manifest.file, manifest.name.span, message, "this image");
    match error {
        BuildError::Step { number, total, text, message, log_tail } => {
            let message = match missing_program(log_tail) {
                Some(program) => format!("there is no program {program} in the image"),
                None => in_the_image(message),
            };
            let label = format!("step {number}/{total}");
            let Some(instruction) = failed_instruction(job, *number, *total, text) else {
                return at_name(format!("{message} in {text}"));
            };
            if let Some(hand_written) = &job.image.dockerfile {
                return Problem::at(&hand_written.file, instruction.span(), message, label);
            }
            match job.prepared.rendered.origin(instruction.line() - 1) {
                Some(span) => Problem::at(&manifest.file, span, message, label),
                None => at_name(format!("{message} in {text}")),
            }
        }
        BuildError::Refused { message } => match (&job.image.dockerfile, refused_line(message)) {
            (Some(hand_written), Some((line, why))) => {
                let file = &hand_written.file;
                let before: usize = file.text.split_inclusive('\n').take(line - 1).map(str::len).sum();
                let len = file.text[before..].lines().next().map_or(0, str::len);
                let span = Span::new(before, len);
                Problem::at(
                    file,
                    span,
                    format!("the engine does not take this Dockerfile: {why}"),
                    "this line",
                )
            }
            _ => at_name(message.clone()),
        },
        BuildError::ContextChanged { path } => at_name(format!("{path} was changed while it was being read"))
            .help("nothing was built from it; build again"),
        BuildError::NoSpace => at_name("the engine has no space left".into()).help(MAKE_ROOM),
        other => at_name(other.to_string()),
    }
}

/// The program that a container could not be started with, as runc says it on its own behalf.
fn missing_program(log: &[String]) -> Option<&str> {
    let line = log.iter().find(|line| line.contains("unable to start container process"))?;
    let (_, rest) = line.split_once("exec: \"")?;
    let (program, why) = rest.split_once("\": ")?;
    ["no such file or directory", "executable file not found"]
        .iter()
        .any(|end| why.contains(end))
        .then_some(program)
}

/// A message with the daemon's mount points taken off its paths: `/var/lib/docker/overlay2/HASH/merged/etc` is `/etc`.
fn in_the_image(message: &str) -> String {
    let words = message.split(' ').map(|word| match word.split_once("/merged/") {
        Some((mount, rest)) if mount.starts_with('/') => format!("/{rest}"),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// `... parse error line 2: unknown flag: network`, as BuildKit says it: the line from 1, and what is wrong with it.
fn refused_line(message: &str) -> Option<(usize, &str)> {
    let (_, rest) = message.split_once("parse error ")?;
    let (line, why) = rest.strip_prefix("on ").unwrap_or(rest).strip_prefix("line ")?.split_once(": ")?;
    line.parse().ok().filter(|line| *line > 0).map(|line| (line, why))
}

/// The instruction that a step of BuildKit's is: by its number in a Dockerfile of one stage, else by its text.
fn failed_instruction<'j>(
    job: &'j Job,
    number: usize,
    total: usize,
    text: &str,
) -> Option<&'j imgforge_dockerfile::Instruction> {
    let steps: Vec<_> = job
        .prepared
        .build
        .dockerfile
        .instructions()
        .iter()
        .filter(|i| matches!(i.keyword(), "FROM" | "RUN" | "COPY" | "ADD" | "WORKDIR"))
        // There is nothing to be done for an empty base.
        .filter(|i| !i.text().trim_start_matches(|c: char| !c.is_whitespace()).trim().starts_with("scratch"))
        .collect();
    let all = job.prepared.build.dockerfile.instructions();
    let stages = all.iter().filter(|i| i.keyword() == "FROM").count();
    if stages == 1 && steps.len() == total {
        return steps.get(number.checked_sub(1)?).copied();
    }
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let wanted = squeeze(text);
    steps.into_iter().find(|instruction| squeeze(instruction.text()) == wanted)
}
