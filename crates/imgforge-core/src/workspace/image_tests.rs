//! Which tests an image has, its own and those that it inherits, and what cannot be right in them.

use std::sync::Arc;

use imgforge_syntax::{Located, nearest};

use super::{Image, Workspace, build_args};
use crate::diagnostic::{Problem, Problems, SourceFile};
use crate::manifest::{Base, Check, Test};
use crate::name::ImageName;
use imgforge_dockerfile::EdgeKind;

/// A test that is run for an image.
#[derive(Debug, Clone)]
pub struct ImageTest {
    /// Its name; `test`, `test 2` and so on of those that have none.
    pub name: String,
    /// The image whose manifest has it: this one, or one that it stands on.
    pub declared: ImageName,
    /// That manifest.
    pub file: Arc<SourceFile>,
    /// What it says.
    pub test: Test,
    /// Whether the image's own command is started for its checks.
    pub starts: bool,
}

impl ImageTest {
    /// Whether the image's own command is started for the checks: as `start=` says; else when a check needs it, or it
    /// is one that stays (the image has services, exposes a port or has a healthcheck) and a command is run beside
    /// it.
    fn starts(test: &Test, runs: Runs) -> bool {
        let has = |is: fn(&Check) -> bool| test.checks.iter().any(|check| is(&check.value));
        match &test.start {
            Some(start) => start.value,
            None => {
                has(Check::needs_start) || (runs.stays && has(|check| matches!(check, Check::Command(_))))
            }
        }
    }
}

/// Returns the tests of the last image of `chain`, which starts with the image that stands on no other: those that it
/// inherits first.
pub(crate) fn of_chain(workspace: &Workspace, chain: &[&Image]) -> Vec<ImageTest> {
    if chain.iter().all(|image| image.manifest.tests.is_empty()) {
        return Vec::new();
    }
    let runs = Runs::of(workspace, chain);
    let mut tests: Vec<ImageTest> = Vec::new();
    for (at, image) in chain.iter().enumerate() {
        let mut nameless = 0;
        for test in &image.manifest.tests {
            let named = test.name.as_ref().map(|name| name.value.clone());
            if !test.enabled {
                tests.retain(|inherited| Some(&inherited.name) != named.as_ref());
                continue;
            }
            let name = named.unwrap_or_else(|| {
                nameless += 1;
                if nameless == 1 { "test".into() } else { format!("test {nameless}") }
            });
            if test.inherit || at + 1 == chain.len() {
                tests.push(ImageTest {
                    name,
                    declared: image.name().clone(),
                    file: Arc::clone(&image.manifest.file),
                    starts: ImageTest::starts(test, runs),
                    test: test.clone(),
                });
            }
        }
    }
    tests
}

/// What is known of an image's process without running it.
#[derive(Debug, Clone, Copy, Default)]
struct Runs {
    /// There is one.
    something: bool,
    /// It is not meant to end by itself.
    stays: bool,
    /// Something tells whether it is healthy.
    tells: bool,
}

impl Runs {
    fn of(workspace: &Workspace, chain: &[&Image]) -> Self {
        let mut runs = Self::default();
        // What an image from outside runs is not known here.
        if chain[0].externals.iter().any(|external| external.kind == EdgeKind::From) {
            (runs.something, runs.tells) = (true, true);
        }
        for image in chain {
            let manifest = &image.manifest;
            let has_services = !manifest.services.is_empty();
            runs.something |= has_services || manifest.entrypoint.is_some() || manifest.cmd.is_some();
            runs.stays |= has_services || !manifest.expose.is_empty() || manifest.healthcheck.is_some();
            runs.tells |= has_services || manifest.healthcheck.is_some();
            let Some(dockerfile) = &image.dockerfile else { continue };
            let config = dockerfile.parsed.config(&build_args(&workspace.manifest, manifest));
            let is_healthcheck = config.healthcheck.is_some_and(|check| check.value.test != ["NONE"]);
            runs.something |= config.entrypoint.is_some() || config.cmd.is_some();
            runs.stays |= !config.ports.is_empty() || is_healthcheck;
            runs.tells |= is_healthcheck;
        }
        runs
    }
}

/// What cannot be right in the tests of an image, whose `chain` starts with the image that stands on no other.
pub(super) fn check(workspace: &Workspace, chain: &[&Image]) -> Problems {
    let mut problems = Problems::default();
    let Some((image, below)) = chain.split_last() else { return problems };
    if image.manifest.tests.is_empty() {
        return problems;
    }
    let inherited: Vec<ImageTest> =
        of_chain(workspace, below).into_iter().filter(|test| test.test.inherit).collect();
    let file = &image.manifest.file;
    for test in &image.manifest.tests {
        let Some(name) = &test.name else { continue };
        let known = inherited.iter().find(|inherited| inherited.name == name.value);
        match (known, test.enabled) {
            (Some(known), true) => {
                let message = format!("there is a test \"{}\" already", name.value);
                let problem = Problem::at(file, name.span, message, "again here");
                let (at, place) = (known.test.span, format!("inherited from \"{}\"", known.declared));
                problems.push(
                    problem
                        .and_in(&known.file, at, place, "first here")
                        .help("give one of them another name"),
                );
            }
            (None, false) => {
                let message = format!("no test \"{}\" is inherited", name.value);
                let problem = Problem::at(file, name.span, message, "nothing to switch off");
                let names = || inherited.iter().map(|test| test.name.as_str());
                problems.push(match nearest(&name.value, names()) {
                    Some(near) => problem.help(format!("did you mean \"{near}\"?")),
                    None if inherited.is_empty() => problem.help(
                        "a parent's test is inherited when it says so: test \"NAME\" inherit=#true { ... }",
                    ),
                    None => {
                        problem.help(format!("inherited are: {}", names().collect::<Vec<_>>().join(", ")))
                    }
                });
            }
            _ => {}
        }
    }
    check_needs(image, chain, Runs::of(workspace, chain), &mut problems);
    problems
}

/// Checks that ask for what the image does not have.
fn check_needs(image: &Image, chain: &[&Image], runs: Runs, problems: &mut Problems) {
    let file = &image.manifest.file;
    let has_packages = matches!(chain[0].manifest.base.value, Base::Root(_))
        || chain.iter().any(|image| !image.manifest.packages.is_empty());
    for test in &image.manifest.tests {
        for Located { value: check, span } in &test.checks {
            let word = check.word();
            if let Some(start) = test.start.as_ref().filter(|start| !start.value && check.needs_start()) {
                let message = format!("\"{word}\" asks what the image has started");
                let problem = Problem::at(file, *span, message, "nothing is started");
                problems.push(problem.and(start.span, "because of this"));
            } else if check.needs_start() && !runs.something {
                let message = format!("\"{word}\" asks what the image has started, and it starts nothing");
                let problem = Problem::at(file, *span, message, "nothing to ask");
                problems.push(problem.help("give the image a `service`, a `cmd` or an `entrypoint`"));
            } else if matches!(check, Check::Healthy { .. }) && !runs.tells {
                let message = "nothing tells whether the image is healthy";
                let problem = Problem::at(file, *span, message, "nobody to ask");
                problems
                    .push(problem.help("give the image a `healthcheck`, or make its process a `service`"));
            } else if *check == Check::PackagesAsLocked && !has_packages {
                let message = "the image is not made of locked packages";
                let problem = Problem::at(file, *span, message, "nothing to compare");
                problems.push(
                    problem.help("packages are locked for images that stand on a `root`, or ask for some"),
                );
            }
        }
        if let Some(start) = test.start.as_ref().filter(|start| start.value && !runs.something) {
            let problem = Problem::at(file, start.span, "the image starts nothing", "nothing to start");
            problems.push(problem.help("give the image a `service`, a `cmd` or an `entrypoint`"));
        }
    }
}
