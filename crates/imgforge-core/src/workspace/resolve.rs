//! From references in manifests and Dockerfiles to edges: images of the workspace, or external ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imgforge_oci::Digest;
use imgforge_oci::reference::Parts;
use imgforge_syntax::{Located, Span, nearest};

use super::load::Unread;
use super::{External, HandWritten, Parent};
use crate::diagnostic::{Problem, Problems, SourceFile};
use crate::manifest::{Base, ImageManifest, Step, WorkspaceManifest};
use crate::name::ImageName;
use imgforge_dockerfile::EdgeKind;

/// What an image stands on.
#[derive(Default)]
pub(super) struct Edges {
    pub(super) parents: Vec<Parent>,
    pub(super) base: Option<ImageName>,
    pub(super) outside_base: Option<String>,
    pub(super) externals: Vec<External>,
}

impl Edges {
    fn set_base(&mut self, written: &str, image: Option<&ImageName>) {
        self.base = image.cloned();
        let is_outside = image.is_none() && self.externals.iter().any(|e| e.reference == written);
        self.outside_base = is_outside.then(|| written.to_owned());
    }
}

/// Every name by which images of the workspace are known, and the tags that each declares.
pub(super) struct Names<'w> {
    known: BTreeMap<String, &'w ImageName>,
    tags: BTreeMap<&'w ImageName, BTreeSet<&'w str>>,
    /// The names that people write, without the registry's: for "did you mean".
    plain: Vec<&'w str>,
    unread: &'w Unread,
}

/// One reference and where it stands.
struct Reference<'r> {
    text: &'r str,
    kind: EdgeKind,
    file: &'r Arc<SourceFile>,
    span: Span,
    /// Whether a manifest says so, and not a Dockerfile.
    in_manifest: bool,
}

impl<'w> Names<'w> {
    pub(super) fn new(
        workspace: &WorkspaceManifest,
        images: impl Iterator<Item = &'w ImageManifest> + Clone,
        unread: &'w Unread,
        problems: &mut Problems,
    ) -> Self {
        let mut plain = Vec::new();
        let mut known: BTreeMap<String, &ImageName> = BTreeMap::new();
        let mut tags = BTreeMap::new();
        for image in images.clone() {
            let name = &image.name.value;
            known.insert(name.to_string(), name);
            plain.push(name.as_str());
            if let Some(registry) = &workspace.registry {
                known.insert(format!("{}/{name}", registry.place.value), name);
            }
            let mut own: BTreeSet<&str> = image.tags.iter().filter_map(|tag| tag.value.plain()).collect();
            if own.is_empty() {
                own.insert("latest");
            }
            tags.insert(name, own);
        }
        for image in images {
            for alias in &image.aliases {
                if let Some(other) = known.get(alias.value.as_str()) {
                    let message = format!("\"{}\" is a name of the image \"{other}\" already", alias.value);
                    problems.push(Problem::at(&image.file, alias.span, message, "taken"));
                } else {
                    known.insert(alias.value.clone(), &image.name.value);
                    plain.push(&alias.value);
                }
            }
        }
        Self { known, tags, plain, unread }
    }

    /// The image of the workspace that a reference means.
    fn find(&self, reference: &str) -> Option<&'w ImageName> {
        if reference.contains('@') {
            return None;
        }
        if let Some(name) = self.known.get(reference) {
            return Some(name);
        }
        let parts = Parts::of(reference);
        let (name, tag) = (self.known.get(parts.name)?, parts.tag?);
        self.tags[name].contains(tag).then_some(*name)
    }

    pub(super) fn edges(
        &self,
        workspace: &WorkspaceManifest,
        image: &'w ImageManifest,
        dockerfile: Option<&HandWritten>,
        problems: &mut Problems,
    ) -> Edges {
        let mut edges = Edges::default();
        match dockerfile {
            Some(dockerfile) => self.of_dockerfile(workspace, image, dockerfile, &mut edges, problems),
            None => self.of_manifest(image, &mut edges, problems),
        }
        edges
    }

    fn of_manifest(&self, image: &ImageManifest, edges: &mut Edges, problems: &mut Problems) {
        let at = |text, kind, span| Reference { text, kind, file: &image.file, span, in_manifest: true };
        if let Base::From(base) = &image.base.value {
            self.add(&at(base, EdgeKind::From, image.base.span), image, edges, problems);
            edges.set_base(base, self.find(base));
        }
        for step in &image.steps {
            match step {
                Step::Copy(copy) => {
                    if let Some(from) = &copy.from {
                        self.add(&at(&from.value, EdgeKind::Copy, from.span), image, edges, problems);
                    }
                }
                Step::Run(run) => {
                    for from in run.mounts.iter().map(|mount| &mount.from) {
                        self.add(&at(&from.value, EdgeKind::Mount, from.span), image, edges, problems);
                    }
                }
            }
        }
    }

    fn of_dockerfile(
        &self,
        workspace: &WorkspaceManifest,
        image: &ImageManifest,
        dockerfile: &HandWritten,
        edges: &mut Edges,
        problems: &mut Problems,
    ) {
        let args = super::build_args(workspace, image);
        for found in dockerfile.parsed.references(&args) {
            let reference = Reference {
                text: &found.image,
                kind: found.kind,
                file: &dockerfile.file,
                span: found.span,
                in_manifest: false,
            };
            self.add(&reference, image, edges, problems);
        }
        if let Some(base) = dockerfile.parsed.base(&args) {
            edges.set_base(&base, self.find(&base));
        }
        if !image.expected_parents.is_empty() {
            self.compare_with_manifest(image, dockerfile, edges, problems);
        }
    }

    /// `from` nodes beside `dockerfile` say which parents the Dockerfile has.
    fn compare_with_manifest(
        &self,
        image: &ImageManifest,
        dockerfile: &HandWritten,
        edges: &Edges,
        problems: &mut Problems,
    ) {
        let mut expected = BTreeSet::new();
        for word in &image.expected_parents {
            let Some(name) = self.find(&word.value) else {
                let is_used = edges.externals.iter().any(|external| external.reference == word.value);
                if !is_used && word.value != "scratch" {
                    let reference = Reference {
                        text: &word.value,
                        kind: EdgeKind::From,
                        file: &image.file,
                        span: word.span,
                        in_manifest: true,
                    };
                    if let Some(problem) = self.refusal(&reference) {
                        problems.push(problem);
                    } else if !self.unread.may_have(&word.value) {
                        problems.push(unused(word, image, dockerfile));
                    }
                }
                continue;
            };
            expected.insert(name);
            if !edges.parents.iter().any(|parent| parent.name == *name) {
                problems.push(unused(word, image, dockerfile));
            }
        }
        for parent in edges.parents.iter().filter(|parent| !expected.contains(&parent.name)) {
            let message = format!("the manifest does not say that the Dockerfile uses \"{}\"", parent.name);
            let problem = Problem::at(&parent.file, parent.span, message, "used here");
            let first = image.expected_parents[0].span;
            let problem =
                problem.and_in(&image.file, first, "the manifest names the parents here", "these only");
            problems.push(problem.help(format!("add to {}: from \"{}\"", image.file.path, parent.name)));
        }
    }

    fn add(
        &self,
        reference: &Reference<'_>,
        image: &ImageManifest,
        edges: &mut Edges,
        problems: &mut Problems,
    ) {
        let refuse =
            |message: String, label: &str| Problem::at(reference.file, reference.span, message, label);
        if reference.text == "scratch" {
            return;
        }
        if let Some(name) = self.find(reference.text) {
            if *name == image.name.value {
                problems.push(
                    refuse(format!("\"{name}\" stands on itself"), "the image's own name")
                        .help("name another image, or a stage of the same Dockerfile"),
                );
                return;
            }
            edges.parents.push(Parent {
                name: name.clone(),
                kind: reference.kind,
                as_written: reference.text.to_owned(),
                file: Arc::clone(reference.file),
                span: reference.span,
            });
            return;
        }
        match self.refusal(reference) {
            Some(problem) => problems.push(problem),
            None if self.is_external(reference.text) => edges.externals.push(External {
                reference: reference.text.to_owned(),
                kind: reference.kind,
                file: Arc::clone(reference.file),
                span: reference.span,
            }),
            None => {}
        }
    }

    /// Whether a reference without problems means an image from outside, and not one in a manifest that could not be
    /// read.
    fn is_external(&self, text: &str) -> bool {
        let parts = Parts::of(text);
        let may_be_unread =
            self.unread.may_have(parts.name) || (self.unread.workspace && parts.name.contains('/'));
        is_pinned(&parts) || !may_be_unread
    }

    /// What is wrong with a reference that means no image of the workspace; nothing when it is an external one, or when
    /// the image may be in a manifest that could not be read.
    fn refusal(&self, reference: &Reference<'_>) -> Option<Problem> {
        let text = reference.text;
        let refuse =
            |message: String, label: &str| Problem::at(reference.file, reference.span, message, label);
        if !is_reference(text) {
            let message = format!("\"{text}\" is no name of an image");
            return Some(refuse(message, "not a reference").help(
                "a name, a tag and a digest; in a Dockerfile, an ARG in it needs a value: its default, or \
                 arg \"NAME\" \"VALUE\" in image.kdl",
            ));
        }
        let parts = Parts::of(text);
        let outside = || {
            let error = text.parse::<imgforge_oci::Reference>().err()?;
            let problem = refuse(format!("\"{text}\" is no name of an image"), "not a reference");
            Some(problem.help(error.reason().to_owned()))
        };
        if is_pinned(&parts) {
            return outside();
        }
        if let Some(digest) = parts.digest {
            let problem = refuse(format!("\"{digest}\" is not a digest"), "not a digest");
            return Some(problem.help("a digest is sha256: and 64 of the digits 0-9 and a-f"));
        }
        if let (Some(name), Some(tag)) = (self.known.get(parts.name), parts.tag) {
            let tags: Vec<&str> = self.tags[name].iter().copied().collect();
            let problem = refuse(format!("the image \"{name}\" has no tag \"{tag}\""), "no such tag");
            let help =
                format!("its tags: {}; leave the tag out, or declare it: tag \"{tag}\"", tags.join(", "));
            return Some(problem.help(help));
        }
        if self.unread.may_have(parts.name) || (self.unread.workspace && parts.name.contains('/')) {
            return None;
        }
        if parts.tag.is_some() || parts.has_host() {
            return outside();
        }
        if reference.kind != EdgeKind::From && text.bytes().all(|b| b.is_ascii_digit()) {
            return Some(refuse(format!("there is no stage {text}"), "stages are counted from 0"));
        }
        // Dockerfiles are taken as they are, and in them a name without a tag is usual.
        let near = nearest(text, self.plain.iter().copied()).filter(|_| reference.in_manifest)?;
        let help =
            format!("did you mean \"{near}\"? an image from outside is written with its tag: \"{text}:TAG\"");
        Some(refuse(no_image(text), "not in this workspace").help(help))
    }
}

/// A parent that the manifest names and the Dockerfile does not use.
fn unused(word: &Located<String>, image: &ImageManifest, dockerfile: &HandWritten) -> Problem {
    let message = format!("{} does not use \"{}\"", dockerfile.file.path, word.value);
    let problem = Problem::at(&image.file, word.span, message, "no FROM, COPY --from or mount names it");
    let froms = dockerfile.parsed.instructions().iter().filter(|instruction| instruction.keyword() == "FROM");
    let problem = froms.take(1).fold(problem, |problem, from| {
        problem.and_in(&dockerfile.file, from.span(), "the Dockerfile says", "another image")
    });
    problem.help("take the line away, or use the image in the Dockerfile")
}

/// Whether a text is made as a reference is. Nothing else may get into a Dockerfile's FROM.
fn is_reference(text: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(|c| ends(c) || c == '[')
        && text.ends_with(|c| ends(c) || matches!(c, '_' | '.' | '-'))
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@+[]".contains(&b))
}

fn no_image(name: &str) -> String {
    format!("there is no image \"{name}\"")
}

/// Whether a digest is written that is one.
fn is_pinned(parts: &Parts<'_>) -> bool {
    parts.digest.is_some_and(|digest| digest.parse::<Digest>().is_ok())
}
