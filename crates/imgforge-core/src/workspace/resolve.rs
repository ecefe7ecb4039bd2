//! From references in manifests and Dockerfiles to edges: images of the workspace, or external ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{External, HandWritten, Parent};
use crate::diagnostic::{Problem, Problems, SourceFile, Span};
use crate::dockerfile::EdgeKind;
use crate::manifest::{Base, ImageManifest, Step, WorkspaceManifest};
use crate::name::{ImageName, nearest};

/// What an image stands on.
#[derive(Default)]
pub(super) struct Edges {
    pub(super) parents: Vec<Parent>,
    pub(super) base: Option<ImageName>,
    pub(super) externals: Vec<External>,
}

/// Every name by which images of the workspace are known, and the tags that each declares.
pub(super) struct Names<'w> {
    known: BTreeMap<String, &'w ImageName>,
    tags: BTreeMap<&'w ImageName, BTreeSet<&'w str>>,
    /// Whether a manifest could not be read, so that a name which seems to be missing may be in it.
    incomplete: bool,
}

/// One reference and where it stands.
struct Reference<'r> {
    text: &'r str,
    kind: EdgeKind,
    file: &'r Arc<SourceFile>,
    span: Span,
}

impl<'w> Names<'w> {
    pub(super) fn new(
        workspace: &WorkspaceManifest,
        images: impl Iterator<Item = &'w ImageManifest> + Clone,
        incomplete: bool,
        problems: &mut Problems,
    ) -> Self {
        let mut known: BTreeMap<String, &ImageName> = BTreeMap::new();
        let mut tags = BTreeMap::new();
        for image in images.clone() {
            let name = &image.name.value;
            known.insert(name.to_string(), name);
            if let Some(registry) = &workspace.registry {
                known.insert(format!("{}/{name}", registry.value), name);
            }
            let mut own: BTreeSet<&str> = image.tags.iter().map(|tag| tag.value.as_str()).collect();
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
                }
            }
        }
        Self { known, tags, incomplete }
    }

    /// The image of the workspace that a reference means.
    fn find(&self, reference: &str) -> Option<&'w ImageName> {
        if reference.contains('@') {
            return None;
        }
        if let Some(name) = self.known.get(reference) {
            return Some(name);
        }
        // A colon before the last slash belongs to a registry's port.
        let (repository, tag) = reference.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'))?;
        let name = self.known.get(repository)?;
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
        let at = |text, kind, span| Reference { text, kind, file: &image.file, span };
        if let Base::From(base) = &image.base.value {
            self.add(&at(base, EdgeKind::From, image.base.span), image, edges, problems);
            edges.base = self.find(base).cloned();
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
            let reference =
                Reference { text: &found.image, kind: found.kind, file: &dockerfile.file, span: found.span };
            self.add(&reference, image, edges, problems);
        }
        edges.base = dockerfile.parsed.base(&args).and_then(|base| self.find(&base)).cloned();
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
                if self.incomplete {
                    continue;
                }
                let problem =
                    Problem::at(&image.file, word.span, no_image(&word.value), "not in this workspace");
                problems.push(self.with_nearest(problem, &word.value));
                continue;
            };
            expected.insert(name);
            if !edges.parents.iter().any(|parent| parent.name == *name) {
                let message = format!("{} does not use \"{name}\"", dockerfile.file.path);
                let problem =
                    Problem::at(&image.file, word.span, message, "no FROM, COPY --from or mount names it");
                problems.push(problem.help("take this line away, or use the image in the Dockerfile"));
            }
        }
        for parent in edges.parents.iter().filter(|parent| !expected.contains(&parent.name)) {
            let message = format!("the manifest does not say that the Dockerfile uses \"{}\"", parent.name);
            let problem = Problem::at(&parent.file, parent.span, message, "used here");
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
                problems.push(refuse(format!("\"{name}\" stands on itself"), "the image's own name"));
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
        if has_digest(reference.text) {
            edges.externals.push(External { reference: reference.text.to_owned(), kind: reference.kind });
            return;
        }
        if self.incomplete {
            return;
        }
        let looks_external = reference.text.contains(['/', ':', '@', '.']);
        let problem = if looks_external {
            let problem =
                refuse(format!("the external image \"{}\" is not pinned", reference.text), "no digest");
            problem.help(format!(
                "write its digest, which never moves: \"{}@sha256:...\" (docker image inspect shows it as RepoDigests)",
                reference.text.split('@').next().unwrap_or("")
            ))
        } else {
            let problem =
                refuse(no_image(reference.text), "not in this workspace, and not a full external reference");
            self.with_nearest(problem, reference.text)
        };
        problems.push(problem);
    }

    fn with_nearest(&self, problem: Problem, word: &str) -> Problem {
        match nearest(word, self.known.keys().map(String::as_str)) {
            Some(near) => problem.help(format!("did you mean \"{near}\"?")),
            None => problem.help("an image from outside is written with its digest: NAME@sha256:..."),
        }
    }
}

fn no_image(name: &str) -> String {
    format!("there is no image \"{name}\"")
}

/// Whether a reference ends with `@sha256:` and 64 hex digits.
fn has_digest(reference: &str) -> bool {
    let digest = reference.split_once("@sha256:").map(|(_, digest)| digest);
    digest.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}
