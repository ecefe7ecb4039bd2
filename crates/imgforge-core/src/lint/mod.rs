//! What is allowed and still goes wrong one day: rules over images that are free of errors, each with a code and a
//! page.
//!
//! A finding stands at the line that causes it. Seen again from the images below, it is told once. `lint { allow }`
//! silences a rule for an image and for what stands on it.

mod process;
mod services;
mod shell;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use camino::Utf8PathBuf;
use imgforge_syntax::{Span, nearest};

use crate::container::Container;
use crate::diagnostic::{Problem, Problems, SourceFile};
use crate::graph::ImageGraph;
use crate::manifest::{Allow, Level, Network, Rule};
use crate::name::{ImageName, ServiceName};
use crate::services::Field;
use crate::workspace::{External, Workspace};

/// Something that a rule says about an image.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// The image that it was found in; what stands on it has it too.
    pub image: ImageName,
    /// The service that it is about.
    pub service: Option<ServiceName>,
    /// What a person is shown.
    pub problem: Problem,
}

/// A private key that a build can reach.
#[derive(Debug, Clone)]
pub struct KeyInContext {
    /// The manifest or Dockerfile that reaches it.
    pub file: Arc<SourceFile>,
    /// The words there.
    pub span: Span,
    /// Its path in the image's folder.
    pub path: Utf8PathBuf,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// By file and place, each once.
    pub found: Vec<Finding>,
    /// How many were silenced.
    pub silenced: usize,
}

/// Looks at `selected` images; `keys` are the private keys that builds can reach.
///
/// # Errors
/// What is wrong with the services of any image.
pub fn lint(
    workspace: &Workspace,
    graph: &ImageGraph,
    selected: &BTreeSet<ImageName>,
    keys: &BTreeMap<ImageName, Vec<KeyInContext>>,
) -> Result<Findings, Problems> {
    let mut problems = Problems::default();
    let mut containers: BTreeMap<&ImageName, Container> = BTreeMap::new();
    for name in graph.topological() {
        match Container::of(workspace, graph, name) {
            Ok(container) => drop(containers.insert(name, container)),
            Err(found) => problems.extend(found),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut findings = Findings::default();
    let mut used: BTreeSet<(Utf8PathBuf, u32)> = BTreeSet::new();
    let mut told = BTreeSet::new();
    for (name, container) in graph.topological().map(|name| (name, &containers[name])) {
        let chain = graph.chain(name);
        let parent = chain.len().checked_sub(2).map(|parent| &containers[chain[parent]]);
        let keys = keys.get(name).map_or(&[][..], Vec::as_slice);
        let found = look(name, container, parent, keys).into_iter();
        let found = found.chain(host_network(workspace, name)).chain(without_tag(workspace, name));
        for finding in found {
            if let Some((file, allow)) = allowed(workspace, &chain, &finding) {
                used.insert((file, allow.span.offset));
                findings.silenced += usize::from(selected.contains(name));
                continue;
            }
            let place = finding.problem.line_column();
            let file = finding.problem.file_path().map(ToString::to_string);
            let key = (finding.rule, file, place, finding.problem.message().to_owned());
            if selected.contains(name) && told.insert(key) {
                findings.found.push(finding);
            }
        }
    }
    for name in selected {
        findings.found.extend(useless(workspace, name, &used));
    }
    let key = |finding: &Finding| {
        let problem = &finding.problem;
        (problem.file_path().map(ToString::to_string), problem.line_column(), finding.rule)
    };
    findings.found.sort_by_key(key);
    Ok(findings)
}

fn look(
    name: &ImageName,
    container: &Container,
    parent: Option<&Container>,
    keys: &[KeyInContext],
) -> Vec<Finding> {
    let mut found = Vec::new();
    process::look(container, &mut found);
    services::look(name, container, parent, &mut found);
    secrets(container, &mut found);
    found.extend(keys.iter().map(private_key));
    let finding = |(rule, service, problem): Found| {
        let problem = problem.code(Rule::code(rule));
        let problem = if rule.level() == Level::Error { problem } else { problem.warning() };
        Finding { rule, image: name.clone(), service, problem }
    };
    found.into_iter().map(finding).collect()
}

/// What one rule says: about which service, if about one.
type Found = (Rule, Option<ServiceName>, Problem);

/// The nearest `allow` of the chain that is meant for a finding, and its file.
fn allowed<'w>(
    workspace: &'w Workspace,
    chain: &[&ImageName],
    finding: &Finding,
) -> Option<(Utf8PathBuf, &'w Allow)> {
    let is_meant = |allow: &&Allow| {
        allow.rule == finding.rule
            && allow.service.as_ref().is_none_or(|service| Some(&service.value) == finding.service.as_ref())
    };
    chain.iter().rev().find_map(|name| {
        let manifest = &workspace.images[*name].manifest;
        Some((manifest.file.path.clone(), manifest.allowed.iter().find(is_meant)?))
    })
}

/// An image whose steps have the host's network. What stands on it has its own.
fn host_network(workspace: &Workspace, name: &ImageName) -> Option<Finding> {
    let manifest = &workspace.images[name].manifest;
    if workspace.network(manifest) != Network::Host {
        return None;
    }
    let (file, said) = match &manifest.network {
        Some(said) => (&manifest.file, said),
        None => (&workspace.manifest.file, workspace.manifest.network.as_ref()?),
    };
    let rule = Rule::HostNetwork;
    let message = "steps reach all that this machine reaches, also what listens on its loopback alone";
    let problem = Problem::at(file, said.span, message, "the host's network")
        .help("say \"default\" where other machines are enough, and \"none\" where nothing is fetched")
        .warning();
    Some(Finding { rule, image: name.clone(), service: None, problem: problem.code(rule.code()) })
}

/// Images from outside that are named without a tag.
fn without_tag(workspace: &Workspace, name: &ImageName) -> Vec<Finding> {
    let rule = Rule::ExternalWithoutTag;
    let externals = workspace.images[name].externals.iter().filter(|external| !external.has_tag());
    let finding = |external: &External| {
        let reference = &external.reference;
        let message =
            format!("\"{reference}\" has no tag, so that each update of the lock takes what is newest");
        let problem = Problem::at(&external.file, external.span, message, "means latest");
        let near = nearest(reference, workspace.images.keys().map(ImageName::as_str));
        let problem = problem.help(match near {
            Some(near) => format!("write a tag; or did you mean the image \"{near}\" of this workspace?"),
            None => "write a tag, which says what may change: one of a release line, as \"debian:12\"".into(),
        });
        Finding { rule, image: name.clone(), service: None, problem: problem.warning().code(rule.code()) }
    };
    externals.map(finding).collect()
}

/// Those of an image's `allow`s that silence nothing, in it or below it.
fn useless(workspace: &Workspace, name: &ImageName, used: &BTreeSet<(Utf8PathBuf, u32)>) -> Vec<Finding> {
    let manifest = &workspace.images[name].manifest;
    let is_useless = |allow: &&Allow| !used.contains(&(manifest.file.path.clone(), allow.span.offset));
    let finding = |allow: &Allow| {
        let rule = Rule::UselessAllow;
        let message = format!("this silences nothing: {} finds nothing here", allow.rule.code());
        let problem = Problem::at(&manifest.file, allow.span, message, "not needed");
        let problem = problem.help("take it out, so that the next finding is seen").warning();
        let service = allow.service.as_ref().map(|service| service.value.clone());
        Finding { rule, image: name.clone(), service, problem: problem.code(rule.code()) }
    };
    manifest.allowed.iter().filter(is_useless).map(finding).collect()
}

fn problem<T>(field: &Field<T>, message: impl Into<String>, label: impl Into<String>) -> Problem {
    Problem::at(&field.file, field.span, message, label)
}

/// Parts of names of variables that hold secrets.
const SECRETS: [&str; 8] =
    ["PASSWORD", "PASSWD", "SECRET", "TOKEN", "API_KEY", "APIKEY", "ACCESS_KEY", "PRIVATE_KEY"];

fn secrets(container: &Container, found: &mut Vec<Found>) {
    let own = container.env.iter().map(|(name, value)| (None, name, value));
    let of_services = container.services.enabled().flat_map(|service| {
        service.env.iter().map(move |(name, value)| (Some(service.name.clone()), name, value))
    });
    let is_secret = |name: &str, value: &str| {
        let upper = name.to_ascii_uppercase();
        let names_a_place =
            ["_FILE", "_PATH", "_DIR", "_URL", "_NAME"].iter().any(|end| upper.ends_with(end));
        SECRETS.iter().any(|part| upper.contains(part))
            && !names_a_place
            && !value.is_empty()
            && !value.starts_with('/')
    };
    let secrets: Vec<_> =
        own.chain(of_services).filter(|(_, name, value)| is_secret(name, &value.value)).collect();
    for (service, name, value) in &secrets {
        let message = format!("\"{name}\" looks like a secret, and everyone who has the image can read it");
        let file = masked(&value.file, secrets.iter().map(|(_, _, value)| *value));
        let problem = Problem::at(&file, value.span, message, "in the image for good");
        let help = "give it to the container when it starts: docker run --env, a secret of the scheduler, or a file that a variable names";
        found.push((Rule::SecretInEnvironment, service.clone(), problem.help(help)));
    }
}

fn private_key(key: &KeyInContext) -> Found {
    let message =
        format!("\"{}\" is a private key, and everyone who has the image can take it out", key.path);
    let problem = Problem::at(&key.file, key.span, message, "reaches it");
    let help = "give it to the step that needs it (a `secret` of `run`) or to the container when it starts, and name it in .dockerignore";
    (Rule::PrivateKeyInContext, None, problem.help(help))
}

/// A file without the values of secrets: a report gets into logs.
fn masked<'f>(file: &Arc<SourceFile>, secrets: impl Iterator<Item = &'f Field<String>>) -> Arc<SourceFile> {
    let mut text = file.text.clone();
    for secret in secrets.filter(|secret| secret.file.path == file.path) {
        let range = secret.span.offset as usize..(secret.span.offset + secret.span.len) as usize;
        let found = text.get(range.clone()).and_then(|part| Some(range.start + part.find(&secret.value)?));
        // Where it is written in another way, all of its place goes.
        let range = found.map_or(range, |start| start..start + secret.value.len());
        let stars = "*".repeat(range.len());
        text.replace_range(range, &stars);
    }
    Arc::new(SourceFile { path: file.path.clone(), text })
}
