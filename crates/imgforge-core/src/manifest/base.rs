//! Reads what an image stands on: `from`, `root` or `dockerfile`.

use imgforge_syntax::{Located, Span};

use super::image::package_names;
use super::reader::{Node, Once, Reader};
use super::{Base, DockerfilePlace, ImageManifest, PackageRequest, Root, RootInclude};
use crate::diagnostic::Problem;

/// What may stand in a `root`.
pub(super) const IN_ROOT: &[&str] = &["include", "packages"];

/// The bases that a manifest names; exactly one kind is right.
#[derive(Default)]
pub(super) struct Bases {
    pub(super) from: Vec<Located<String>>,
    pub(super) root: Option<Located<Base>>,
    pub(super) dockerfile: Option<Located<Base>>,
    /// Whether some node was meant to name one, right or wrong.
    pub(super) meant: bool,
}

/// The base of an image, of those that it names.
pub(super) fn base(
    reader: &Reader<'_>,
    span: Span,
    bases: Bases,
    manifest: &mut ImageManifest,
) -> Option<Located<Base>> {
    let Bases { mut from, root, dockerfile, meant } = bases;
    match (root, dockerfile, from.len()) {
        (None, Some(dockerfile), _) => {
            manifest.expected_parents = from;
            Some(dockerfile)
        }
        (Some(root), None, 0) => Some(root),
        (None, None, 1) => {
            let name = from.remove(0);
            let base = if name.value == "scratch" { Base::Scratch } else { Base::From(name.value) };
            Some(Located::new(base, name.span))
        }
        // A `from` with a wrong value, or a word that was meant to be one, has been reported already.
        (None, None, 0) if meant => None,
        (None, None, 0) => {
            let problem = Problem::at(reader.file, span, "the image stands on nothing", "a base is expected");
            reader.push(problem.help(
                "give it one: from \"PARENT\", from \"scratch\", root \"SOURCE\" or dockerfile \"FILE\"",
            ));
            None
        }
        (root, dockerfile, _) => {
            let mut spans: Vec<Span> = from.iter().map(|name| name.span).collect();
            spans.extend(root.map(|root| root.span));
            spans.extend(dockerfile.map(|file| file.span));
            spans.sort();
            let problem =
                Problem::at(reader.file, spans[1], "the image has more than one base", "again here");
            let problem = problem.and(spans[0], "first here");
            reader.push(
                problem.help(
                    "files of a second parent come with: copy \"SOURCE\" \"DESTINATION\" from=\"PARENT\"",
                ),
            );
            None
        }
    }
}

/// `dockerfile "FILE" context="FOLDER" target="STAGE"`.
pub(super) fn dockerfile(node: &mut Node<'_, '_, '_>) -> Option<Located<Base>> {
    let file = node.string("a file");
    let context = node.text_property("context");
    let target = node.text_property("target");
    file.map(|file| {
        let context = context.map(|folder| Located::new(folder.value.into(), folder.span));
        let place = DockerfilePlace { path: file.value.into(), context, target };
        Located::new(Base::Dockerfile(place), file.span)
    })
}

/// `root "SOURCE" { include "essential"; packages "NAME" }`; the packages are the image's.
pub(super) fn root(node: &mut Node<'_, '_, '_>, manifest: &mut ImageManifest) -> Option<Root> {
    let source = node.string("an apt source");
    let mut include = RootInclude::Essential;
    let reader = node.reader;
    let mut once = Once::default();
    for kdl in node.children() {
        let mut child = reader.node(kdl);
        match child.name() {
            "include" if once.first(&child) => {
                if let Some(word) = child.string("\"essential\", \"required\" or \"nothing\"") {
                    include = match word.value.as_str() {
                        "essential" => RootInclude::Essential,
                        "required" => RootInclude::Required,
                        "nothing" => RootInclude::Nothing,
                        other => {
                            reader.unknown(
                                word.span,
                                "package set",
                                other,
                                &["essential", "required", "nothing"],
                            );
                            include
                        }
                    };
                }
            }
            "include" => continue,
            "packages" => {
                let names = package_names(&mut child);
                if let Some(source) = source.clone() {
                    manifest.packages.push(PackageRequest { source, names });
                }
            }
            other => {
                reader.unknown(child.name_span(), "node", other, IN_ROOT);
                continue;
            }
        }
        child.done();
    }
    Some(Root { source: source?, include })
}
