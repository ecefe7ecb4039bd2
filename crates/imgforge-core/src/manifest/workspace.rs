//! Reads `imgforge.kdl`.

use std::collections::BTreeMap;
use std::sync::Arc;

use imgforge_syntax::{Located, Span};

use super::image::network;
use super::reader::{Node, Once, Reader};
use super::service::supervisor;
use super::{
    ApkSource, AptSource, Compression, ExternalPlace, Group, RegistryPlace, Trust, WorkspaceManifest,
};
use crate::diagnostic::{Problem, Problems, SourceFile};
use crate::name::ImageName;

pub(super) const TOP: &[&str] = &["workspace", "apt", "apk", "external", "group"];
pub(super) const IN_WORKSPACE: &[&str] = &[
    "registry",
    "version",
    "supervisor",
    "platform",
    "compression",
    "network",
    "trust",
    "images",
    "label",
    "arg",
    "lock",
];

pub(super) const IN_APT: &[&str] = &["suite", "component", "uri", "keyring", "snapshot"];
pub(super) const IN_APK: &[&str] = &["repository", "keys"];
const SNAPSHOT_EXAMPLE: &str = "snapshot \"https://snapshot.debian.org/archive/debian\"";

/// Reads `imgforge.kdl`. The manifest is there when it could be understood in spite of the problems.
pub fn read_workspace(file: &Arc<SourceFile>) -> (Option<WorkspaceManifest>, Problems) {
    let reader = Reader::new(file);
    let manifest = read(&reader);
    (manifest, reader.into_problems())
}

fn read(reader: &Reader<'_>) -> Option<WorkspaceManifest> {
    let document = reader.document()?;
    let mut once = Once::default();
    let (mut manifest, mut apt, mut apk) = (None, Vec::new(), Vec::new());
    let (mut externals, mut groups) = (Vec::new(), Vec::new());
    for kdl in document.nodes() {
        let mut node = reader.node(kdl);
        match node.name() {
            "workspace" => {
                if once.first(&node) {
                    manifest = workspace(reader, node);
                }
            }
            "apt" => apt.extend(apt_source(node)),
            "apk" => apk.extend(apk_source(node)),
            "external" => externals.extend(external(node)),
            "group" => {
                if let Some(name) = node.string("the group's name") {
                    groups.push(Group { name, members: node.strings("an image", 1) });
                }
                node.done();
            }
            "image" => {
                let problem =
                    Problem::at(reader.file, node.span(), "an image has a file of its own", "not here");
                reader.push(problem.help("put it into an image.kdl in the image's folder"));
            }
            other => reader.unknown(node.name_span(), "node", other, TOP),
        }
    }
    if manifest.is_none() && once_missing(&document) {
        let problem =
            Problem::at(reader.file, Span::new(0, 0), "the file does not name the workspace", "here");
        reader.push(problem.help("it starts with: workspace \"NAME\""));
    }
    let sources = apt.iter().map(|source: &AptSource| &source.name);
    let sources = sources.chain(apk.iter().map(|source: &ApkSource| &source.name));
    refuse_duplicates(reader, sources, "package source");
    let references = externals.iter().map(|external: &ExternalPlace| &external.reference);
    refuse_duplicates(reader, references, "external");
    refuse_duplicates(reader, groups.iter().map(|group: &Group| &group.name), "group");
    let mut manifest = manifest?;
    manifest.apt = apt;
    manifest.apk = apk;
    manifest.externals = externals;
    manifest.groups = groups;
    Some(manifest)
}

fn once_missing(document: &kdl::KdlDocument) -> bool {
    !document.nodes().iter().any(|node| node.name().value() == "workspace")
}

fn refuse_duplicates<'a>(reader: &Reader<'_>, names: impl Iterator<Item = &'a Located<String>>, what: &str) {
    let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
    for name in names {
        if let Some(before) = seen.insert(&name.value, name.span) {
            let message = format!("there are two of {what} \"{}\"", name.value);
            reader.push(Problem::at(reader.file, name.span, message, "again here").and(before, "first here"));
        }
    }
}

fn workspace(reader: &Reader<'_>, mut node: Node<'_, '_, '_>) -> Option<WorkspaceManifest> {
    let name = node.string("the workspace's name");
    let mut manifest = WorkspaceManifest {
        file: Arc::clone(reader.file),
        name: name?,
        registry: None,
        version: None,
        supervisor: None,
        platform: None,
        compression: Compression::default(),
        network: None,
        trust: Trust::default(),
        images: Vec::new(),
        labels: BTreeMap::new(),
        args: BTreeMap::new(),
        relock_vanished: false,
        apt: Vec::new(),
        apk: Vec::new(),
        externals: Vec::new(),
        groups: Vec::new(),
    };
    let mut once = Once::default();
    for kdl in node.children() {
        let mut child = reader.node(kdl);
        let single = matches!(
            child.name(),
            "registry" | "version" | "supervisor" | "platform" | "compression" | "network" | "trust" | "lock"
        );
        if single && !once.first(&child) {
            continue;
        }
        match child.name() {
            "registry" => manifest.registry = registry(&mut child),
            "version" => manifest.version = child.string("a version"),
            "supervisor" => manifest.supervisor = supervisor(&mut child),
            "platform" => manifest.platform = platform(&mut child),
            "compression" => manifest.compression = compression(&mut child),
            "network" => manifest.network = network(&mut child),
            "trust" => manifest.trust = trust(&mut child),
            "images" => manifest.images.extend(child.strings("a glob of image folders", 1)),
            "label" => pair(&mut child, &mut manifest.labels),
            "arg" => pair(&mut child, &mut manifest.args),
            "lock" => manifest.relock_vanished = lock(&mut child),
            other => {
                reader.unknown(child.name_span(), "node", other, IN_WORKSPACE);
                continue;
            }
        }
        child.done();
    }
    node.done();
    Some(manifest)
}

fn compression(node: &mut Node<'_, '_, '_>) -> Compression {
    let Some(word) = node.string("\"gzip\" or \"zstd\"") else { return Compression::default() };
    match word.value.as_str() {
        "gzip" => Compression::Gzip,
        "zstd" => Compression::Zstd,
        other => {
            node.reader.unknown(word.span, "compression", other, &["gzip", "zstd"]);
            Compression::default()
        }
    }
}

fn trust(node: &mut Node<'_, '_, '_>) -> Trust {
    let Some(word) = node.string("\"labels\" or \"built-here\"") else { return Trust::default() };
    match word.value.as_str() {
        "labels" => Trust::Labels,
        "built-here" => Trust::BuiltHere,
        other => {
            node.reader.unknown(word.span, "trust", other, &["labels", "built-here"]);
            // Whoever has misspelt it wants less than is the default.
            Trust::BuiltHere
        }
    }
}

fn registry(node: &mut Node<'_, '_, '_>) -> Option<RegistryPlace> {
    let place = node.string("the registry, as \"HOST/PATH\"")?;
    let plain_http = node.flag_property("plain-http");
    let ca = node.text_property("ca").map(|file| Located::new(file.value.into(), file.span));
    if place.value.contains("://") || place.value.ends_with('/') {
        node.problem(
            place.span,
            "a registry is a host and a path, without a scheme and a slash at the end",
            "here",
        );
        return None;
    }
    if let Some((_, path)) = place.value.split_once('/')
        && ImageName::new(path).is_err()
    {
        let message =
            "a registry's path is made of lower-case letters and digits, parted by `.`, `_`, `-` or `/`";
        node.problem(place.span, message, "not such a path");
        return None;
    }
    Some(RegistryPlace { place, plain_http, ca })
}

fn platform(node: &mut Node<'_, '_, '_>) -> Option<Located<String>> {
    let platform = node.string("a platform, as \"linux/amd64\"")?;
    if platform.value != "linux/amd64" {
        node.problem(platform.span, "this version builds for linux/amd64 only", "not yet");
        return None;
    }
    Some(platform)
}

/// `lock vanished="relock"`.
fn lock(node: &mut Node<'_, '_, '_>) -> bool {
    let Some(what) = node.text_property("vanished") else { return false };
    if !matches!(what.value.as_str(), "relock" | "fail") {
        node.problem(what.span, "vanished is \"fail\" or \"relock\"", "neither of them");
    }
    what.value == "relock"
}

/// `label "KEY" "VALUE"` and `arg "NAME" "VALUE"`.
pub(super) fn pair(node: &mut Node<'_, '_, '_>, into: &mut BTreeMap<String, Located<String>>) {
    let Some(key) = node.string("a name") else { return };
    if key.value.contains(['\n', '\r']) {
        node.problem(key.span, "the name has more than one line", "one line is expected");
    }
    if !node.has_argument() {
        let message = format!("\"{}\" lacks a value", node.name());
        node.problem(node.span(), message, "a value is expected after the name");
    }
    let Some(value) = node.value() else { return };
    if let Some(before) = into.insert(key.value.clone(), value) {
        let message = format!("\"{}\" is given twice", key.value);
        let problem = Problem::at(node.reader.file, key.span, message, "again here");
        node.reader.push(problem.and(before.span, "first here"));
    }
}

fn external(mut node: Node<'_, '_, '_>) -> Option<ExternalPlace> {
    let reference = node.string("an image, as manifests write it");
    let folder = node.text_property("oci-layout");
    let name = node.text_property("name");
    if folder.is_none() {
        let problem =
            Problem::at(node.reader.file, node.span(), "an external lacks its place", "where is it?");
        node.reader.push(problem.help(
            "oci-layout=\"FOLDER\" says where it is; one in a registry needs no line here, its reference says all",
        ));
    }
    node.done();
    let oci_layout = folder.map(|folder| Located::new(folder.value.into(), folder.span))?;
    Some(ExternalPlace { reference: reference?, oci_layout, name })
}

fn apk_source(mut node: Node<'_, '_, '_>) -> Option<ApkSource> {
    let name = node.string("the source's name");
    let reader = node.reader;
    let (mut repositories, mut keys) = (Vec::new(), None);
    for kdl in node.children() {
        let mut child = reader.node(kdl);
        match child.name() {
            "repository" => repositories.extend(child.strings("a repository's address", 1)),
            "keys" => {
                keys = child.string("a folder").map(|folder| Located::new(folder.value.into(), folder.span));
            }
            other => {
                reader.unknown(child.name_span(), "node", other, IN_APK);
                continue;
            }
        }
        child.done();
    }
    node.done();
    let example = "repository \"https://dl-cdn.alpinelinux.org/alpine/v3.20/main\"";
    refuse_others(reader, &repositories, "a repository's address", example);
    if let Some(keys) = keys.as_ref().filter(|_| repositories.is_empty()) {
        let message = "a source with keys needs a repository";
        let problem = Problem::at(reader.file, keys.span, message, "keys of nothing");
        reader.push(problem.help(format!("for example: {example}")));
    }
    Some(ApkSource { name: name?, repositories, keys })
}

/// Refuses what is no address of a server.
fn refuse_others(reader: &Reader<'_>, addresses: &[Located<String>], what: &str, example: &str) {
    let is_address = |uri: &str| {
        let rest = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://"));
        rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic()))
    };
    for address in addresses.iter().filter(|address| !is_address(&address.value)) {
        let message = format!("\"{}\" is not {what}", address.value);
        let problem = Problem::at(reader.file, address.span, message, "not http:// or https://");
        reader.push(problem.help(format!("for example: {example}")));
    }
}

fn apt_source(mut node: Node<'_, '_, '_>) -> Option<AptSource> {
    let name = node.string("the source's name");
    let span = node.span();
    let (mut suites, mut components, mut uri, mut keyring) = (Vec::new(), Vec::new(), None, None);
    let mut snapshots = Vec::new();
    let reader = node.reader;
    for kdl in node.children() {
        let mut child = reader.node(kdl);
        match child.name() {
            "suite" => suites.extend(child.strings("a suite", 1)),
            "component" => components.extend(child.strings("a component", 1)),
            "uri" => uri = child.string("the repository's address"),
            "keyring" => {
                keyring = child.string("a file").map(|file| Located::new(file.value.into(), file.span));
            }
            "snapshot" => snapshots.extend(child.strings("an archive's address", 1)),
            other => {
                reader.unknown(child.name_span(), "node", other, IN_APT);
                continue;
            }
        }
        child.done();
    }
    node.done();
    if suites.is_empty() {
        let problem = Problem::at(reader.file, span, "an apt source needs a suite", "no suite is given");
        reader
            .push(problem.help("for example: suite \"bookworm\" \"bookworm-updates\" \"bookworm-security\""));
    }
    refuse_others(reader, &snapshots, "an archive's address", SNAPSHOT_EXAMPLE);
    let components = if components.is_empty() { vec![Located::new("main".into(), span)] } else { components };
    Some(AptSource { name: name?, suites, components, uri, keyring, snapshots })
}
