//! One import: what is there and what was found, read, put together, and tried until the workspace takes it.

use std::collections::{BTreeMap, BTreeSet};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_syntax::{Located, Span};

use imgforge_core::diagnostic::Problem;
use imgforge_core::graph::ImageGraph;
use imgforge_core::manifest::{Base, DockerfilePlace, ImageManifest, Network, read_images, read_workspace};
use imgforge_core::source::{Hidden, Kind, Source, clean};
use imgforge_core::workspace::{self, IMAGE_FILE, WORKSPACE_FILE};
use imgforge_worktree::WorkTree;

use super::candidate::{Candidate, Read};
use super::overlay::Overlay;
use super::{Decision, Import, LeftOut, find, names, parents};
use crate::Error;

/// An image that the workspace has.
pub(super) struct There {
    pub(super) manifest: ImageManifest,
    /// Its Dockerfile, from the workspace's root.
    dockerfile: Option<(Utf8PathBuf, DockerfilePlace)>,
}

pub(super) struct Importer<'t> {
    pub(super) tree: &'t WorkTree,
    pub(super) name: String,
    /// Whether there is an `imgforge.kdl`.
    pub(super) is_old: bool,
    pub(super) network: Network,
    pub(super) there: Vec<There>,
}

impl<'t> Importer<'t> {
    pub(super) fn new(tree: &'t WorkTree, root: &Utf8Path) -> Result<Self, Error> {
        let mut importer = Self {
            tree,
            name: names::of_workspace(root),
            is_old: false,
            network: Network::None,
            there: Vec::new(),
        };
        if tree.kind(Utf8Path::new(WORKSPACE_FILE)).is_ok() {
            let file = workspace::read_file(tree, Utf8Path::new(WORKSPACE_FILE))?;
            let (manifest, problems) = read_workspace(&file);
            let manifest = manifest.ok_or(problems)?;
            importer.is_old = true;
            importer.network = manifest.network.as_ref().map_or(Network::None, |network| network.value);
        }
        let cannot = |error| Error::Io { path: root.to_owned(), error };
        for path in tree.find(&|name| name == IMAGE_FILE, Hidden::Shown).map_err(cannot)? {
            let Ok(file) = workspace::read_file(tree, &path) else { continue };
            importer.there.extend(read_images(&file).0.images.into_iter().map(There::of));
        }
        Ok(importer)
    }

    pub(super) fn text(&self, path: &Utf8Path) -> Option<String> {
        String::from_utf8(self.tree.read(path).ok()?).ok()
    }

    pub(super) fn import(&self, found: find::Found) -> Import {
        let mut import = Import { left_out: found.left_out, ..Import::default() };
        import.decisions.extend(found.notes.into_iter().map(|text| Decision { what: String::new(), text }));
        self.say_what_is_gone(&mut import);
        let mut candidates = self.with_those_there(found.candidates, &mut import);
        for candidate in candidates.iter_mut().filter(|one| one.wanted.is_empty() || one.published.is_empty())
        {
            names::of_place(candidate, &self.name);
        }
        loop {
            let (left, reads) = self.read(candidates, &mut import);
            candidates = left;
            let before = candidates.len();
            let meaning = without_windows(&mut candidates, &reads, &mut import);
            let Some(meaning) = meaning.filter(|_| candidates.len() == before) else { continue };
            let mut attempt = Import::default();
            self.put_together(&mut candidates, &reads, &meaning, &found.groups, &mut attempt);
            let refused = self.refused(&attempt, &candidates);
            if refused.is_empty() {
                import.taken = attempt.taken;
                import.files = attempt.files;
                import.decisions.extend(attempt.decisions);
                break;
            }
            for (n, why) in refused.into_iter().rev() {
                import.left_out.push(LeftOut::new(candidates.remove(n).place, why));
            }
        }
        import.left_out.sort();
        import.left_out.dedup();
        import.decisions.sort();
        import.decisions.dedup();
        import
    }

    /// Images of the workspace are candidates too, as far as they stand on a Dockerfile; what describes the same is
    /// not taken again.
    fn with_those_there(&self, found: Vec<Candidate>, import: &mut Import) -> Vec<Candidate> {
        let mut candidates: Vec<Candidate> = self.there.iter().filter_map(There::candidate).collect();
        import.kept = self.there.iter().map(|there| there.manifest.name.value.to_string()).collect();
        import.kept.sort();
        for candidate in found {
            let is_plain = candidate.place == candidate.dockerfile;
            let is_same = |there: &&mut Candidate| {
                there.is_there
                    && there.dockerfile == candidate.dockerfile
                    && (is_plain
                        || (&there.context, &there.target) == (&candidate.context, &candidate.target)
                            && (there.args == candidate.args || candidate.wanted.contains(&name_of(there)))
                        || candidate.wanted.contains(&name_of(there)))
            };
            match candidates.iter_mut().find(is_same) {
                // What its file says is what it is published as, however it is called here.
                Some(there) => {
                    there.published.extend(candidate.published);
                    there.contexts.extend(candidate.contexts);
                    there.place = candidate.place;
                }
                None => candidates.push(candidate),
            }
        }
        candidates
    }

    fn say_what_is_gone(&self, import: &mut Import) {
        for there in &self.there {
            let Some((path, _)) = &there.dockerfile else { continue };
            if self.tree.kind(path).is_err() {
                let name = there.manifest.name.value.to_string();
                let file = &there.manifest.file.path;
                import.gone.push(LeftOut::new(
                    name,
                    format!("there is no {path} any more: take the image out of {file}"),
                ));
            }
        }
    }

    /// Why a manifest that is there cannot get more lines.
    fn unwritable(&self, path: &Utf8Path) -> Option<String> {
        match self.tree.kind(path) {
            Err(_) => None,
            Ok(Kind::File { .. }) if self.text(path).is_some() => None,
            Ok(Kind::File { .. }) => Some(format!("{path} is there and cannot be read")),
            Ok(_) => Some(format!("{path} is there and is no plain file")),
        }
    }

    /// Reads the Dockerfiles; what cannot be read is left out.
    fn read(&self, candidates: Vec<Candidate>, import: &mut Import) -> (Vec<Candidate>, Vec<Read>) {
        let (mut left, mut reads) = (Vec::new(), Vec::new());
        for mut candidate in candidates {
            let blocked =
                self.unwritable(&candidate.folder().join(IMAGE_FILE)).filter(|_| !candidate.is_there);
            let text = match blocked {
                Some(why) => Err(why),
                None => self.text(&candidate.dockerfile).ok_or_else(|| "it cannot be read".to_owned()),
            };
            match text.and_then(|text| read_one(&text, &mut candidate)) {
                Ok(read) => {
                    left.push(candidate);
                    reads.push(read);
                }
                // One that is there is left as it is.
                Err(_) if candidate.is_there => {}
                Err(why) => import.left_out.push(LeftOut::new(candidate.place, why)),
            }
        }
        (left, reads)
    }

    /// New candidates that the workspace would not take, with their reasons: those whose Dockerfiles have problems,
    /// or else the first whose manifest or circle has one.
    fn refused(&self, attempt: &Import, candidates: &[Candidate]) -> BTreeMap<usize, String> {
        let overlay = Overlay { tree: self.tree, files: attempt.files.clone() };
        let is_new = |n: &usize| !candidates[*n].is_there;
        let of = |is_one: &dyn Fn(&Candidate) -> bool| -> Vec<usize> {
            (0..candidates.len()).filter(is_new).filter(|n| is_one(&candidates[*n])).collect()
        };
        let why = |problem: &Problem| {
            let line = problem.line_column().map_or(String::new(), |(line, _)| format!("line {line}: "));
            format!("{line}{}", problem.message())
        };
        let (problems, is_circle) = match workspace::load(&overlay, None) {
            Ok(workspace) => (ImageGraph::new(&workspace).err().unwrap_or_default(), true),
            Err(problems) => (problems, false),
        };
        let mut refused = BTreeMap::new();
        let mut manifests = None;
        for problem in problems.sorted() {
            let Some(path) = problem.file_path() else { continue };
            for n in of(&|candidate| candidate.dockerfile == path) {
                refused.entry(n).or_insert_with(|| why(&problem));
            }
            let is_in = |candidate: &Candidate| candidate.folder().join(IMAGE_FILE) == path;
            let is_named =
                |candidate: &Candidate| problem.message().contains(&format!("\"{}\"", name_of(candidate)));
            let first =
                of(&|candidate| is_in(candidate) && is_named(candidate)).into_iter().chain(of(&is_in)).next();
            manifests = manifests.or_else(|| first.map(|n| (n, why(&problem))));
        }
        if refused.is_empty() {
            return manifests.into_iter().collect();
        }
        // What is left of a circle may be none any more.
        if is_circle { refused.into_iter().take(1).collect() } else { refused }
    }
}

impl There {
    fn of(manifest: ImageManifest) -> Self {
        let dockerfile = match &manifest.base.value {
            Base::Dockerfile(place) => {
                clean(manifest.file.dir().join(&place.path).as_str()).map(|path| (path, place.clone()))
            }
            _ => None,
        };
        Self { manifest, dockerfile }
    }

    fn candidate(&self) -> Option<Candidate> {
        let (path, place) = self.dockerfile.clone()?;
        let own = self.manifest.file.dir();
        let context = match &place.context {
            None => own.to_owned(),
            Some(Located { value, .. }) if value.is_absolute() => clean(value.as_str())?,
            Some(Located { value, .. }) => clean(own.join(value).as_str())?,
        };
        let mut candidate = Candidate::new(path.to_string(), path, context);
        candidate.target = place.target.map(|target| target.value);
        candidate.name = Some(self.manifest.name.value.clone());
        candidate.args =
            self.manifest.args.iter().map(|(name, value)| (name.clone(), value.value.clone())).collect();
        candidate.is_there = true;
        Some(candidate)
    }
}

/// An ARG that a tag is made of and that has no value gets one, so that the reference is one.
fn read_one(text: &str, candidate: &mut Candidate) -> Result<Read, String> {
    let read = Read::of(text, candidate)?;
    let tags = read.references(candidate).into_iter().filter(|reference| reference.image.ends_with(':'));
    let written =
        |span: Span| text.get(span.offset as usize..(span.offset + span.len) as usize).unwrap_or_default();
    let names: BTreeSet<String> =
        tags.filter_map(|reference| last_variable(written(reference.span))).collect();
    if candidate.is_there || names.is_empty() {
        return Ok(read);
    }
    for name in names {
        if candidate.args.get(&name).is_none_or(Option::is_none) {
            candidate.notes.push(format!("{name} has no value in the Dockerfile: \"latest\" was written"));
            candidate.args.insert(name, Some("latest".into()));
        }
    }
    Read::of(text, candidate)
}

/// What the references mean, or `None` when images of Windows, or what stands on them, were taken out.
fn without_windows(
    candidates: &mut Vec<Candidate>,
    reads: &[Read],
    import: &mut Import,
) -> Option<parents::Meaning> {
    let meaning = parents::meaning(candidates, reads);
    let mut why: BTreeMap<usize, String> = BTreeMap::new();
    for (n, (candidate, read)) in candidates.iter().zip(reads).enumerate() {
        why.extend(read.windows(candidate).filter(|_| !candidate.is_there).map(|why| (n, why)));
    }
    let mut grown = true;
    while std::mem::take(&mut grown) {
        for edge in &meaning.edges {
            if why.contains_key(&edge.parent)
                && !why.contains_key(&edge.child)
                && !candidates[edge.child].is_there
            {
                why.insert(edge.child, format!("an image of Windows: it uses {}", edge.written));
                grown = true;
            }
        }
    }
    if why.is_empty() {
        return Some(meaning);
    }
    for (n, why) in why.into_iter().rev() {
        import.left_out.push(LeftOut::new(candidates.remove(n).place, why));
    }
    None
}

pub(super) fn name_of(candidate: &Candidate) -> String {
    candidate.name.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// The name of the variable that a reference ends with: `V` of `acme/base:${V}` and of `acme/base:$V`.
fn last_variable(written: &str) -> Option<String> {
    let (_, variable) = written.rsplit_once('$')?;
    let name = variable.trim_start_matches('{').trim_end_matches('}');
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    is_name.then(|| name.to_owned())
}
