//! Reads the `run` of an image: a command, and what is lent to it.

use imgforge_syntax::Located;

use super::image::octal;
use super::reader::Node;
use super::service::absolute;
use super::{MountFrom, RunStep, SecretKind, SecretMount};
use crate::diagnostic::Problem;

/// What may stand in a `run`.
pub(super) const IN_RUN: &[&str] = &["mount", "secret", "ssh"];

/// Where things lie for the command, to refuse two in one place.
#[derive(Default)]
struct Places(Vec<Located<String>>);

pub(super) fn run(node: &mut Node<'_, '_, '_>) -> Option<RunStep> {
    let span = node.span();
    let argv = node.strings("a command", 1);
    let reader = node.reader;
    let (mut mounts, mut secrets, mut places) = (Vec::new(), Vec::new(), Places::default());
    for kdl in node.children() {
        let mut child = reader.node(kdl);
        match child.name() {
            "mount" => mounts.extend(mount(&mut child, &mut places)),
            "secret" => secrets.extend(secret(&mut child, &mut places)),
            "ssh" => secrets.extend(agent(&mut child, &mut places)),
            other => {
                reader.unknown(child.name_span(), "node", other, IN_RUN);
                continue;
            }
        }
        child.done();
    }
    (!argv.is_empty()).then_some(RunStep { span, argv, mounts, secrets })
}

fn mount(node: &mut Node<'_, '_, '_>, places: &mut Places) -> Option<MountFrom> {
    let from = node.text_property("from");
    let source = node.text_property("source").and_then(|path| path_in_flag(node, path));
    let is_said = node.has_property("target");
    let target = node.text_property("target").and_then(|path| place(node, path, places));
    if from.is_none() || !is_said {
        node.problem(node.span(), "a mount needs from= and target=", "one of them is missing");
    }
    let source = source.map_or_else(|| "/".into(), |source| source.value);
    Some(MountFrom { from: from?, source, target: target?.value })
}

fn secret(node: &mut Node<'_, '_, '_>, places: &mut Places) -> Option<SecretMount> {
    let id = node.string("the secret's id").and_then(|id| is_id(node, id));
    let mount = lent(node, SecretKind::File, id, places)?;
    if mount.target.is_none() {
        let target = Located::new(format!("/run/secrets/{}", mount.id), node.span());
        places.take(node, target)?;
    }
    Some(mount)
}

fn agent(node: &mut Node<'_, '_, '_>, places: &mut Places) -> Option<SecretMount> {
    let id = if node.has_argument() {
        node.string("the agent's id").and_then(|id| is_id(node, id))
    } else {
        Some(Located::new("default".into(), node.span()))
    };
    lent(node, SecretKind::Agent, id, places)
}

/// The properties that both have.
fn lent(
    node: &mut Node<'_, '_, '_>,
    kind: SecretKind,
    id: Option<Located<String>>,
    places: &mut Places,
) -> Option<SecretMount> {
    let target = node.text_property("target").and_then(|path| place(node, path, places));
    let mode = node.text_property("mode").and_then(|mode| octal(node, mode));
    let (uid, gid) = (node.number_property("uid"), node.number_property("gid"));
    let required = node.flag_property("required").is_none_or(|required| required.value);
    if kind == SecretKind::File && node.has_property("env") {
        no_variable(node);
    }
    Some(SecretMount {
        kind,
        id: id?.value,
        target: target.map(|target| target.value),
        mode: mode.map(|mode| mode.value),
        uid: uid.map(|uid| uid.value),
        gid: gid.map(|gid| gid.value),
        required,
    })
}

/// Frontends since 1.10 give a secret as a variable; Docker 20.10 has 1.2.
fn no_variable(node: &mut Node<'_, '_, '_>) {
    let Some(name) = node.text_property("env") else { return };
    let message = "a secret of a manifest is a file: Docker 20.10 gives none as a variable";
    let problem = Problem::at(node.reader.file, name.span, message, "not possible here");
    let read = format!("{}=$(cat /run/secrets/ID)", name.value);
    node.reader.push(problem.help(format!("the command reads it: run \"{read} PROGRAM\"")));
}

/// An id is a word in a Dockerfile, on a command line and of a file's name.
fn is_id(node: &Node<'_, '_, '_>, id: Located<String>) -> Option<Located<String>> {
    let is_good = id.value.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && id.value.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    if is_good {
        return Some(id);
    }
    let of = if node.name() == "ssh" { "an ssh agent" } else { "a secret" };
    let message = format!("\"{}\" is no id of {of}", id.value);
    let problem = Problem::at(node.reader.file, id.span, message, "not such a word");
    node.reader.push(
        problem.help("it is of letters, digits, `_`, `-` and `.`, and begins with none of the last two"),
    );
    None
}

/// A target: no other thing may lie there, and it is not the whole image.
fn place(node: &Node<'_, '_, '_>, path: Located<String>, places: &mut Places) -> Option<Located<String>> {
    let path = path_in_flag(node, path)?;
    if cleaned(&path.value) == "/" {
        node.problem(path.span, "nothing can be put on /", "a path below it is expected");
        return None;
    }
    places.take(node, path)
}

/// An absolute path that BuildKit reads as it is written in a --mount: without what ends a field or a word, and without
/// quotes and variables.
fn path_in_flag(node: &Node<'_, '_, '_>, path: Located<String>) -> Option<Located<String>> {
    let path = absolute(node, path)?;
    let is_special = |c: char| c.is_whitespace() || c.is_control() || ",\"'\\$".contains(c);
    let Some(bad) = path.value.chars().find(|c| is_special(*c)) else { return Some(path) };
    let message = format!("a path of \"{}\" has no {bad:?} in it", node.name());
    node.problem(path.span, message, "a plain path is expected");
    None
}

impl Places {
    fn take(&mut self, node: &Node<'_, '_, '_>, path: Located<String>) -> Option<Located<String>> {
        let clean = cleaned(&path.value);
        if let Some(before) = self.0.iter().find(|before| before.value == clean) {
            let message = format!("two things are put on {clean}");
            let problem = Problem::at(node.reader.file, path.span, message, "again here");
            node.reader.push(problem.and(before.span, "first here"));
            return None;
        }
        self.0.push(Located::new(clean, path.span));
        Some(path)
    }
}

/// A path without what makes no difference.
fn cleaned(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
