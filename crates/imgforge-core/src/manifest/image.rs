//! Reads an `image.kdl`.

use std::collections::BTreeMap;
use std::sync::Arc;

use imgforge_syntax::{Located, Span, nearest};

use super::around::{lint, resources};
use super::base::{Bases, base, dockerfile, root};
use super::reader::{Node, Once, Reader};
use super::run::run;
use super::service::{absolute, service, signal, supervisor};
use super::test::test;
use super::workspace::pair;
use super::{
    Base, CopyStep, Healthcheck, ImageManifest, Layers, Network, PackageRequest, Resources, Step, Test, User,
};
use crate::diagnostic::{Problem, Problems, SourceFile};
use crate::name::ImageName;
use crate::tag::TagTemplate;

/// What may stand at the top of an `image.kdl`.
pub(super) const TOP: &[&str] = &["image"];

/// What may stand in an image, in the order of the reference.
pub(super) const IN_IMAGE: &[&str] = &[
    "description",
    "from",
    "root",
    "dockerfile",
    "alias",
    "packages",
    "docs",
    "user",
    "env",
    "arg",
    "label",
    "copy",
    "run",
    "service",
    "supervisor",
    "workdir",
    "run-as",
    "volume",
    "expose",
    "entrypoint",
    "cmd",
    "stop-signal",
    "healthcheck",
    "network",
    "layers",
    "resources",
    "test",
    "template",
    "tag",
    "version",
    "lint",
];

/// Of these, one is enough.
const SINGLE: &[&str] = &[
    "description",
    "root",
    "dockerfile",
    "docs",
    "supervisor",
    "workdir",
    "run-as",
    "entrypoint",
    "cmd",
    "stop-signal",
    "healthcheck",
    "network",
    "layers",
    "resources",
    "template",
    "lint",
    "version",
];

/// What a hand-written Dockerfile says itself.
const NOT_WITH_DOCKERFILE: &[&str] = &[
    "root",
    "packages",
    "docs",
    "user",
    "env",
    "copy",
    "run",
    "service",
    "supervisor",
    "workdir",
    "run-as",
    "volume",
    "expose",
    "entrypoint",
    "cmd",
    "stop-signal",
    "healthcheck",
    "template",
];

/// What an `image.kdl` says.
#[derive(Debug, Default)]
pub struct ReadImages {
    /// Those of its images that could be understood in spite of the problems.
    pub images: Vec<ImageManifest>,
    /// Whether that is not all of them.
    pub lacks_some: bool,
}

/// Reads one `image.kdl`.
pub fn read_images(file: &Arc<SourceFile>) -> (ReadImages, Problems) {
    let reader = Reader::new(file);
    let read = read(&reader);
    (read, reader.into_problems())
}

fn read(reader: &Reader<'_>) -> ReadImages {
    let mut read = ReadImages::default();
    let Some(document) = reader.document() else {
        read.lacks_some = true;
        return read;
    };
    let mut is_any = false;
    for kdl in document.nodes() {
        let node = reader.node(kdl);
        match node.name() {
            "image" => {
                is_any = true;
                match image(reader, node) {
                    Some(image) => read.images.push(image),
                    None => read.lacks_some = true,
                }
            }
            other => {
                read.lacks_some |= nearest(other, TOP.iter().copied()).is_some();
                reader.unknown(node.name_span(), "node", other, TOP);
            }
        }
    }
    if !is_any {
        read.lacks_some = true;
        let problem = Problem::at(reader.file, Span::new(0, 0), "the file describes no image", "here");
        reader.push(problem.help("it says: image \"NAME\" { from \"PARENT\" }"));
    }
    read
}

fn image(reader: &Reader<'_>, mut node: Node<'_, '_, '_>) -> Option<ImageManifest> {
    let span = node.span();
    let name = node.string("the image's name").and_then(|name| match ImageName::new(name.value) {
        Ok(value) => Some(Located::new(value, name.span)),
        Err(error) => {
            node.problem(name.span, error.to_string(), "not an image name");
            None
        }
    });
    let mut manifest = empty(reader, name.clone().unwrap_or_else(|| Located::new(placeholder(), span)));
    let mut bases = Bases::default();
    let mut once = Once::default();
    let mut beside: Vec<(&str, Span)> = Vec::new();
    for kdl in node.children() {
        let child = reader.node(kdl);
        if SINGLE.contains(&child.name()) && !once.first(&child) {
            continue;
        }
        if NOT_WITH_DOCKERFILE.contains(&child.name()) {
            beside.push((child.name(), child.span()));
        }
        let word = match child.name() {
            known if IN_IMAGE.contains(&known) => known,
            other => nearest(other, IN_IMAGE.iter().copied()).unwrap_or(other),
        };
        bases.meant |= matches!(word, "from" | "root" | "dockerfile");
        part(child, &mut manifest, &mut bases);
    }
    node.done();
    if bases.dockerfile.is_some() {
        for (word, at) in beside {
            let message = format!("\"{word}\" has no meaning beside \"dockerfile\"");
            let problem = Problem::at(reader.file, at, message, "the Dockerfile says it itself");
            reader.push(problem.help("write it into the Dockerfile, or leave out \"dockerfile\""));
        }
    }
    manifest.base = base(reader, span, bases, &mut manifest)?;
    name.map(|_| manifest)
}

/// Stands for a name that could not be read: the rest is still checked.
fn placeholder() -> ImageName {
    ImageName::new("unnamed").expect("it is of the right form")
}

fn empty(reader: &Reader<'_>, name: Located<ImageName>) -> ImageManifest {
    let base = Located::new(Base::Scratch, name.span);
    ImageManifest {
        file: Arc::clone(reader.file),
        name,
        description: None,
        aliases: Vec::new(),
        base,
        expected_parents: Vec::new(),
        packages: Vec::new(),
        apk_packages: Vec::new(),
        keep_docs: false,
        users: Vec::new(),
        env: BTreeMap::new(),
        args: BTreeMap::new(),
        labels: BTreeMap::new(),
        steps: Vec::new(),
        services: Vec::new(),
        supervisor: None,
        workdir: None,
        run_as: None,
        volumes: Vec::new(),
        expose: Vec::new(),
        entrypoint: None,
        cmd: None,
        stop_signal: None,
        healthcheck: None,
        network: None,
        layers: Layers::Each,
        resources: Resources::default(),
        allowed: Vec::new(),
        tests: Vec::new(),
        template: None,
        version: None,
        tags: Vec::new(),
    }
}

fn part(mut node: Node<'_, '_, '_>, manifest: &mut ImageManifest, bases: &mut Bases) {
    let span = node.span();
    match node.name() {
        "description" => manifest.description = node.string("a description").map(|text| text.value),
        "from" => bases.from.extend(node.string("an image")),
        "root" => bases.root = root(&mut node, manifest).map(|root| Located::new(Base::Root(root), span)),
        "dockerfile" => bases.dockerfile = dockerfile(&mut node),
        "alias" => manifest.aliases.extend(node.strings("a name", 1)),
        "packages" => manifest.packages.extend(packages(&mut node)),
        "docs" => manifest.keep_docs = node.bool().is_some_and(|docs| docs.value),
        "user" => manifest.users.extend(user(&mut node)),
        "env" => {
            pair(&mut node, &mut manifest.env);
            check_variables(&node, &manifest.env);
        }
        "arg" => arg(&mut node, manifest),
        "label" => pair(&mut node, &mut manifest.labels),
        "copy" => manifest.steps.extend(copy(&mut node).map(Step::Copy)),
        "run" => manifest.steps.extend(run(&mut node).map(Step::Run)),
        "service" => {
            let reader = node.reader;
            let Some(found) = service(node) else { return };
            if let Some(before) = manifest.services.iter().find(|other| other.name.value == found.name.value)
            {
                let message = format!("there are two services \"{}\"", found.name.value);
                let problem = Problem::at(reader.file, found.span, message, "again here");
                reader.push(problem.and(before.span, "first here"));
            } else {
                manifest.services.push(found);
            }
            return;
        }
        "test" => {
            let reader = node.reader;
            let Some(found) = test(node) else { return };
            let named = |test: &Test| test.name.as_ref().map(|name| name.value.clone());
            let before =
                manifest.tests.iter().find(|other| found.name.is_some() && named(other) == named(&found));
            if let Some(before) = before {
                let message = format!("there are two tests \"{}\"", named(&found).unwrap_or_default());
                let problem = Problem::at(reader.file, found.span, message, "again here");
                reader.push(problem.and(before.span, "first here"));
            } else {
                manifest.tests.push(found);
            }
            return;
        }
        "supervisor" => manifest.supervisor = supervisor(&mut node),
        "workdir" => manifest.workdir = node.string("a folder").and_then(|path| absolute(&node, path)),
        "run-as" => manifest.run_as = node.string("a user").and_then(|user| account(&node, user)),
        "volume" => {
            let paths = node.strings("a folder", 1);
            manifest.volumes.extend(paths.into_iter().filter_map(|path| absolute(&node, path)));
        }
        "expose" => {
            let ports = node.text_or_number("a port");
            manifest.expose.extend(ports.into_iter().filter_map(|word| port(&node, word)));
        }
        "entrypoint" => manifest.entrypoint = argv(&mut node, span),
        "cmd" => manifest.cmd = argv(&mut node, span),
        "stop-signal" => {
            let word = node.string("a signal");
            let name = word.and_then(|word| signal(&node, &word));
            manifest.stop_signal = name.map(|name| Located::new(format!("SIG{name}"), span));
        }
        "healthcheck" => manifest.healthcheck = healthcheck(&mut node).map(|check| Located::new(check, span)),
        "network" => manifest.network = network(&mut node),
        "layers" => manifest.layers = layers(&mut node),
        "resources" => manifest.resources = resources(&mut node),
        "lint" => lint(&mut node, &mut manifest.allowed),
        "template" => {
            manifest.template = node.string("a file").map(|file| Located::new(file.value.into(), file.span));
        }
        "version" => manifest.version = node.string("a version"),
        "tag" => {
            manifest.tags.extend(node.strings("a tag", 1).into_iter().filter_map(|word| tag(&node, word)));
        }
        other => {
            node.reader.unknown(node.name_span(), "node", other, IN_IMAGE);
            return;
        }
    }
    node.done();
}

fn argv(node: &mut Node<'_, '_, '_>, span: Span) -> Option<Located<Vec<String>>> {
    let words = node.words("a program", 1);
    (!words.is_empty()).then(|| Located::new(words, span))
}

fn packages(node: &mut Node<'_, '_, '_>) -> Option<PackageRequest> {
    let source = node.string("a package source");
    let names = package_names(node);
    Some(PackageRequest { source: source?, names })
}

/// Debian policy 5.6.1: at least two of lower-case letters, digits, `+`, `-` and `.`, starting with a letter or digit.
/// Alpine's names have `_` too.
pub(super) fn package_names(node: &mut Node<'_, '_, '_>) -> Vec<Located<String>> {
    let is_name = |name: &str| {
        name.len() >= 2
            && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-._".contains(&b))
    };
    let words = node.strings("a package", 1);
    words
        .into_iter()
        .filter(|word| {
            let (name, version) = word.value.split_once('=').unwrap_or((&word.value, "0"));
            let good = is_name(name) && !version.is_empty();
            if !good {
                let problem = Problem::at(
                    node.reader.file,
                    word.span,
                    format!("\"{}\" is no package name", word.value),
                    "here",
                );
                node.reader.push(problem.help("NAME, or NAME=VERSION for one version"));
            }
            good
        })
        .collect()
}

fn user(node: &mut Node<'_, '_, '_>) -> Option<User> {
    let name = node.string("the user's name");
    let uid = node.number_property("uid");
    let gid = node.number_property("gid");
    let home = node.text_property("home").and_then(|path| absolute(node, path));
    let group = node.text_property("group").filter(|group| is_account_name(node, group, "group"));
    let name = name.filter(|name| is_account_name(node, name, "user"));
    if uid.is_none() && !node.has_property("uid") {
        let problem =
            Problem::at(node.reader.file, node.span(), "a user needs a fixed uid", "uid= is expected");
        node.reader.push(problem.help("for example: user \"web\" uid=1000"));
    }
    let (name, uid) = (name?, uid?);
    if let Some(zero) = [Some(&uid), gid.as_ref()].into_iter().flatten().find(|id| id.value == 0) {
        let message = "0 is root, and root is there already";
        let problem = Problem::at(node.reader.file, zero.span, message, "another number is expected");
        node.reader
            .push(problem.help("to run something as root, name no user at all; accounts start at 1000"));
        return None;
    }
    let gid = gid.map_or(uid.value, |gid| gid.value);
    let home = home.map_or_else(|| "/nonexistent".into(), |home| home.value);
    Some(User { name, uid, gid, group: group.map(|group| group.value), home })
}

fn is_account_name(node: &Node<'_, '_, '_>, name: &Located<String>, what: &str) -> bool {
    let good = name.value.len() <= 32
        && name.value.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b));
    if !good {
        let message = format!("a {what}'s name is made of lower-case letters, digits, `_` and `-`");
        node.problem(name.span, message, "not such a name");
    }
    good
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn check_variables(node: &Node<'_, '_, '_>, env: &BTreeMap<String, Located<String>>) {
    for (name, value) in env {
        let is_here = value.span.offset >= node.span().offset
            && value.span.offset < node.span().offset + node.span().len;
        if is_here && !is_variable(name) {
            node.problem(
                node.span(),
                format!("\"{name}\" is no name of a variable"),
                "letters, digits and `_`",
            );
        }
    }
}

fn arg(node: &mut Node<'_, '_, '_>, manifest: &mut ImageManifest) {
    let Some(name) = node.string("the argument's name") else { return };
    let span = name.span;
    let default = node.value().map(|value| value.value);
    if !is_variable(&name.value) {
        node.problem(
            name.span,
            format!("\"{}\" is no name of a variable", name.value),
            "letters, digits and `_`",
        );
        return;
    }
    if manifest.args.insert(name.value.clone(), Located::new(default, span)).is_some() {
        node.problem(span, format!("\"{}\" is given twice", name.value), "again here");
    }
}

fn copy(node: &mut Node<'_, '_, '_>) -> Option<CopyStep> {
    let span = node.span();
    let mut words = node.strings("a source and a destination", 1);
    let mode = node.text_property("mode").and_then(|mode| octal(node, mode));
    let owner = node.text_property("owner").and_then(|owner| account(node, owner));
    let from = node.text_property("from");
    if words.len() < 2 {
        if words.len() == 1 {
            node.problem(span, "\"copy\" needs a source and a destination", "one of them is missing");
        }
        return None;
    }
    let destination = words.pop()?;
    if words.len() > 1 && !destination.value.ends_with('/') {
        let problem = Problem::at(
            node.reader.file,
            destination.span,
            "several sources go into a folder",
            "a folder's path ends with /",
        );
        node.reader.push(problem.help(format!("write \"{}/\"", destination.value)));
        return None;
    }
    let destination = absolute(node, destination)?;
    Some(CopyStep { span, sources: words, destination, mode, owner, from })
}

/// `USER[:GROUP]`, names or numbers, as USER and COPY --chown take it: one word.
pub(super) fn account(node: &Node<'_, '_, '_>, word: Located<String>) -> Option<Located<String>> {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
    };
    let (user, group) = word.value.split_once(':').map_or((&*word.value, None), |(u, g)| (u, Some(g)));
    if is_name(user) && group.is_none_or(is_name) {
        return Some(word);
    }
    let message = format!("\"{}\" is no user", word.value);
    let problem = Problem::at(node.reader.file, word.span, message, "not a name or a number");
    node.reader.push(problem.help("USER or USER:GROUP, each a name or a number"));
    None
}

pub(super) fn octal(node: &Node<'_, '_, '_>, mode: Located<String>) -> Option<Located<u32>> {
    let is_octal =
        (3..=4).contains(&mode.value.len()) && mode.value.bytes().all(|b| (b'0'..=b'7').contains(&b));
    match u32::from_str_radix(&mode.value, 8) {
        Ok(bits) if is_octal => Some(Located::new(bits, mode.span)),
        _ => {
            let problem = Problem::at(
                node.reader.file,
                mode.span,
                "mode is not a file mode",
                "octal digits are expected",
            );
            node.reader.push(problem.help("for example mode=\"0644\""));
            None
        }
    }
}

/// `80`, `"53/udp"`: normalised to `80/tcp`.
fn port(node: &Node<'_, '_, '_>, word: Located<String>) -> Option<Located<String>> {
    let (number, protocol) = word.value.split_once('/').unwrap_or((&word.value, "tcp"));
    let good = number.parse::<u16>().is_ok_and(|port| port > 0) && matches!(protocol, "tcp" | "udp" | "sctp");
    if !good {
        let problem =
            Problem::at(node.reader.file, word.span, format!("\"{}\" is no port", word.value), "here");
        node.reader.push(problem.help("a number from 1 to 65535, or for example \"53/udp\""));
        return None;
    }
    Some(Located::new(format!("{number}/{protocol}"), word.span))
}

fn healthcheck(node: &mut Node<'_, '_, '_>) -> Option<Healthcheck> {
    let interval = node.time_property("interval");
    let timeout = node.time_property("timeout");
    let start_period = node.time_property("start-period");
    let retries = node.number_property("retries").map(|retries| retries.value);
    let argv: Vec<String> = node.strings("a command", 1).into_iter().map(|word| word.value).collect();
    (!argv.is_empty()).then_some(Healthcheck { argv, interval, timeout, start_period, retries })
}

/// `network "none"|"default"|"host"`, of an image and of a workspace.
pub(super) fn network(node: &mut Node<'_, '_, '_>) -> Option<Located<Network>> {
    const ALL: [Network; 3] = [Network::None, Network::Default, Network::Host];
    let word = node.string("\"none\", \"default\" or \"host\"")?;
    let Some(network) = ALL.into_iter().find(|network| network.as_str() == word.value) else {
        node.reader.unknown(word.span, "network", &word.value, &ALL.map(Network::as_str));
        return None;
    };
    Some(Located::new(network, word.span))
}

fn layers(node: &mut Node<'_, '_, '_>) -> Layers {
    let Some(word) = node.string("\"each\" or \"one\"") else { return Layers::default() };
    match word.value.as_str() {
        "each" => Layers::Each,
        "one" => Layers::One,
        other => {
            node.reader.unknown(word.span, "number of layers", other, &["each", "one"]);
            Layers::default()
        }
    }
}

fn tag(node: &Node<'_, '_, '_>, word: Located<String>) -> Option<Located<TagTemplate>> {
    match TagTemplate::new(word.value) {
        Ok(tag) => Some(Located::new(tag, word.span)),
        Err(error) => {
            node.problem(word.span, error.to_string(), "not a tag");
            None
        }
    }
}
