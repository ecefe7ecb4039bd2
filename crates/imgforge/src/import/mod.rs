//! `import`: from a repository of Dockerfiles to a workspace, without touching them.
//!
//! ```text
//! files       -> Candidates   find, bake, compose   what may be an image, and what is none
//! Candidates  -> Meaning      parents               which references mean one of them
//! Meaning     -> text         names, write          names, aliases, manifests
//! text        -> Workspace    overlay               read as the workspace will be, before anything is written
//! ```
//!
//! What the workspace would not take is left out with its reason, so that the result always loads. What people have written
//! stays: new images come behind those that are there, and nothing is taken away.

mod bake;
mod candidate;
mod compose;
mod find;
mod functions;
mod hcl;
mod names;
mod official;
mod overlay;
mod parents;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, BTreeSet};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::cache_file;
use imgforge_core::context::clean;
use imgforge_core::diagnostic::{Located, Problem};
use imgforge_core::dockerfile::program::Program;
use imgforge_core::graph::ImageGraph;
use imgforge_core::manifest::{Base, DockerfilePlace, ImageManifest, Network, read_images, read_workspace};
use imgforge_core::source::{Hidden, Kind, Source, WorkTree};
use imgforge_core::workspace::{self, IMAGE_FILE, WORKSPACE_FILE};
use schemars::JsonSchema;
use serde::Serialize;

use self::candidate::{Candidate, Read};
use self::overlay::Overlay;
use crate::Error;

/// What an import has found, and the files that it writes.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Import {
    /// Images that are new in the workspace.
    pub taken: Vec<Taken>,
    /// Images that were there before, by name.
    pub kept: Vec<String>,
    /// What describes no image that can be taken over.
    pub left_out: Vec<LeftOut>,
    /// Images of the workspace whose Dockerfiles are not there any more.
    pub gone: Vec<LeftOut>,
    /// What a person should look at.
    pub decisions: Vec<Decision>,
    /// The text of each file that is new or has new lines, by path.
    #[schemars(with = "BTreeMap<String, String>")]
    pub files: BTreeMap<Utf8PathBuf, String>,
}

/// An image that was taken over.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Taken {
    /// Its name in the workspace.
    pub image: String,
    /// Where it is described.
    pub place: String,
    /// What it stands on and takes files from: images of the workspace.
    pub parents: Vec<String>,
}

/// Something that was not taken over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct LeftOut {
    /// A file, or a part of one.
    pub what: String,
    /// Why.
    pub why: String,
}

impl LeftOut {
    fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into() }
    }
}

/// What was decided without being known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Decision {
    /// The image or file that it is about; empty for the whole workspace.
    pub what: String,
    /// What was done, and what could be meant instead.
    pub text: String,
}

/// The workspace that a folder is in, or that it becomes.
fn root_of(folder: &Utf8Path) -> &Utf8Path {
    folder.ancestors().find(|above| above.join(WORKSPACE_FILE).is_file()).unwrap_or(folder)
}

/// Looks at what lies below a folder, and makes of it the manifests of a workspace: of the one that the folder is in, or of a
/// new one there. Nothing is written; see [`Import::write`].
///
/// # Errors
/// A folder that cannot be searched, and an `imgforge.kdl` that is there and cannot be read.
pub fn import(folder: &Utf8Path) -> Result<(Utf8PathBuf, Import), Error> {
    let cannot = |error| Error::Io { path: folder.to_owned(), error };
    let folder = folder.canonicalize_utf8().map_err(cannot)?;
    let root = root_of(&folder).to_owned();
    let tree = WorkTree::uncached(&root);
    let below = folder.strip_prefix(&root).unwrap_or(Utf8Path::new(""));
    let importer = Importer::new(&tree, &root)?;
    let mut paths = tree.find(&find::is_meant, Hidden::Shown).map_err(cannot)?;
    let others = tree.find(&|name| name == WORKSPACE_FILE, Hidden::Shown).map_err(cannot)?;
    let others: Vec<&Utf8Path> =
        others.iter().filter_map(|path| path.parent()).filter(|folder| !folder.as_str().is_empty()).collect();
    paths.retain(|path| !others.iter().any(|other| path.starts_with(other)));
    let import = importer.import(find::find(&tree, &paths, below));
    Ok((root, import))
}

impl Import {
    /// Writes the manifests below `root`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, root: &Utf8Path) -> Result<(), Error> {
        for (path, text) in &self.files {
            let full = root.join(path);
            cache_file::replace(&full, text.as_bytes()).map_err(|error| Error::Io { path: full, error })?;
        }
        Ok(())
    }
}

/// An image that the workspace has.
struct There {
    manifest: ImageManifest,
    /// Its Dockerfile, from the workspace's root.
    dockerfile: Option<(Utf8PathBuf, DockerfilePlace)>,
}

struct Importer<'t> {
    tree: &'t WorkTree,
    name: String,
    /// Whether there is an `imgforge.kdl`.
    is_old: bool,
    network: Network,
    there: Vec<There>,
}

impl<'t> Importer<'t> {
    fn new(tree: &'t WorkTree, root: &Utf8Path) -> Result<Self, Error> {
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

    fn text(&self, path: &Utf8Path) -> Option<String> {
        String::from_utf8(self.tree.read(path).ok()?).ok()
    }

    fn import(&self, found: find::Found) -> Import {
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

    /// Images of the workspace are candidates too, as far as they stand on a Dockerfile; what describes the same is not taken
    /// again.
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

    /// Names, aliases and texts.
    fn put_together(
        &self,
        candidates: &mut [Candidate],
        reads: &[Read],
        meaning: &parents::Meaning,
        groups: &BTreeMap<String, BTreeSet<String>>,
        import: &mut Import,
    ) {
        self.name_all(candidates, meaning);
        let mut new_aliases: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for edge in &meaning.edges {
            let (child, parent) = (&candidates[edge.child], &candidates[edge.parent]);
            if child.is_there && parent.is_there && child.contexts.is_empty()
                || edge.written == name_of(parent)
            {
                continue;
            }
            let is_known = parent.is_there && self.knows(parent, &edge.written);
            if parent.is_there && !is_known {
                new_aliases.entry(name_of(parent)).or_default().insert(edge.written.clone());
            } else if !parent.is_there {
                candidates[edge.parent].aliases.insert(edge.written.clone());
            }
        }
        let new: Vec<&Candidate> = candidates.iter().filter(|candidate| !candidate.is_there).collect();
        let network = if self.is_old { self.network } else { network_of(&new, reads, candidates) };
        say_networks(candidates, reads, network, import);
        let new: Vec<&Candidate> = candidates.iter().filter(|candidate| !candidate.is_there).collect();
        import.files = write::manifests(&new, network, |path| self.text(path));
        for (image, aliases) in &new_aliases {
            let there = self.there.iter().find(|there| there.manifest.name.value.as_str() == image);
            let Some(path) = there.map(|there| there.manifest.file.path.clone()) else { continue };
            let text = import.files.get(&path).cloned().or_else(|| self.text(&path)).unwrap_or_default();
            match write::with_aliases(&text, image, aliases) {
                Some(text) => drop(import.files.insert(path, text)),
                None => import.decisions.push(Decision {
                    what: image.clone(),
                    text: format!("new Dockerfiles call it {aliases:?}: say so with alias in {path}"),
                }),
            }
        }
        self.workspace_file(candidates, network, groups, import);
        self.say_decisions(candidates, reads, meaning, import);
        for (n, candidate) in candidates.iter().enumerate().filter(|(_, candidate)| !candidate.is_there) {
            let parents = meaning.edges.iter().filter(|edge| edge.child == n);
            let parents: BTreeSet<String> = parents.map(|edge| name_of(&candidates[edge.parent])).collect();
            import.taken.push(Taken {
                image: name_of(candidate),
                place: candidate.place.clone(),
                parents: parents.into_iter().collect(),
            });
        }
        import.taken.sort_by(|a, b| a.image.cmp(&b.image));
    }

    fn name_all(&self, candidates: &mut [Candidate], meaning: &parents::Meaning) {
        let mut used: BTreeSet<String> =
            self.there.iter().map(|there| there.manifest.name.value.to_string()).collect();
        used.extend(
            self.there.iter().flat_map(|there| &there.manifest.aliases).map(|alias| alias.value.clone()),
        );
        for reference in meaning.outside.iter().flatten() {
            let name = reference.split('@').next().unwrap_or_default();
            let name = match name.rsplit_once(':') {
                Some((name, tag)) if !tag.contains('/') => name,
                _ => name,
            };
            used.insert(name.to_owned());
        }
        // What Dockerfiles call an image is the best name for it, and may be that of no other.
        let mut called: BTreeMap<&str, usize> = BTreeMap::new();
        for edge in &meaning.edges {
            called.entry(&edge.written).or_insert(edge.parent);
        }
        for (n, candidate) in candidates.iter_mut().enumerate().filter(|(_, candidate)| !candidate.is_there) {
            candidate.aliases.clear();
            let taken =
                called.iter().filter(|(_, parent)| **parent != n).map(|(written, _)| (*written).to_owned());
            let all: BTreeSet<String> = used.iter().cloned().chain(taken).collect();
            let name = names::choose(candidate, &self.name, &all);
            used.insert(name.to_string());
            candidate.name = Some(name);
        }
    }

    /// Whether an image that is there is found by a reference without a new alias.
    fn knows(&self, parent: &Candidate, written: &str) -> bool {
        let name = name_of(parent);
        let there = self.there.iter().find(|there| there.manifest.name.value.as_str() == name);
        there.is_some_and(|there| there.manifest.aliases.iter().any(|alias| alias.value == written))
    }

    /// `imgforge.kdl`, when there is none.
    fn workspace_file(
        &self,
        candidates: &[Candidate],
        network: Network,
        groups: &BTreeMap<String, BTreeSet<String>>,
        import: &mut Import,
    ) {
        let new = || candidates.iter().filter(|candidate| !candidate.is_there);
        let is_hidden = |folder: &&Utf8Path| folder.components().any(|part| part.as_str().starts_with('.'));
        let hidden: BTreeSet<&Utf8Path> = new().map(Candidate::folder).filter(is_hidden).collect();
        if self.is_old {
            if !hidden.is_empty() {
                let globs: Vec<String> = hidden.iter().map(|folder| write::quoted(folder.as_str())).collect();
                import.decisions.push(Decision {
                    what: WORKSPACE_FILE.into(),
                    text: format!(
                        "hidden folders are found when images names them: images \"**\" {}",
                        globs.join(" ")
                    ),
                });
            }
            return;
        }
        let mut all = groups_by_name(groups, candidates);
        for (folder, members) in by_top_folder(new()) {
            all.entry(folder).or_insert(members);
        }
        let text = write::workspace(&self.name, network, &hidden, &all);
        import.files.insert(WORKSPACE_FILE.into(), text);
    }

    fn say_decisions(
        &self,
        candidates: &[Candidate],
        reads: &[Read],
        meaning: &parents::Meaning,
        import: &mut Import,
    ) {
        for (candidate, read) in candidates.iter().zip(reads).filter(|(candidate, _)| !candidate.is_there) {
            let what = name_of(candidate);
            let mut say = |text: String| import.decisions.push(Decision { what: what.clone(), text });
            candidate.notes.iter().cloned().for_each(&mut say);
            if let Err(problems) = Program::new(&read.text, &candidate.values(), "linux/amd64") {
                let line = read.text[..problems[0].span.offset as usize].matches('\n').count() + 1;
                say(format!("{}:{line}: {}", candidate.dockerfile, problems[0].message));
            }
            let sources = read.parsed.context_sources(&candidate.values());
            let takes_all = sources
                .iter()
                .any(|wanted| clean(&wanted.pattern).is_some_and(|path| path.as_str().is_empty()));
            let has_git =
                candidate.context.as_str().is_empty() && self.tree.kind(Utf8Path::new(".git")).is_ok();
            let file = [format!("{}.dockerignore", candidate.dockerfile), ".dockerignore".to_owned()];
            let is_ignored = file
                .iter()
                .filter_map(|path| self.text(Utf8Path::new(path)))
                .any(|text| text.contains(".git"));
            if takes_all && has_git && !is_ignored {
                say("it copies .git, which changes with each commit: name it in .dockerignore".into());
            }
        }
        let mut say = |text: String| import.decisions.push(Decision { what: String::new(), text });
        for (namespace, example) in &meaning.own {
            let is_used = |edge: &parents::Edge| {
                !candidates[edge.child].is_there && edge.written.starts_with(&format!("{namespace}/"))
            };
            if meaning.edges.iter().any(is_used) {
                say(format!("{namespace}/... is taken for what is built here, as {example}"));
            }
        }
        for reference in &meaning.other_tags {
            say(format!("{reference} is taken from outside: it is published here with other tags only"));
        }
    }

    /// New candidates that the workspace would not take, with their reasons: those whose Dockerfiles have problems, or else
    /// the first whose manifest or circle has one.
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
    let written = |span: imgforge_core::diagnostic::Span| {
        text.get(span.offset as usize..(span.offset + span.len) as usize).unwrap_or_default()
    };
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

/// Says what images need that the workspace does not say for all.
fn say_networks(candidates: &mut [Candidate], reads: &[Read], network: Network, import: &mut Import) {
    for (candidate, read) in candidates.iter_mut().zip(reads).filter(|(candidate, _)| !candidate.is_there) {
        let needed = read.network(candidate);
        if candidate.network.is_some_and(|said| said >= needed) {
            continue;
        }
        if needed > network {
            candidate.network = Some(needed);
            if needed == Network::Host {
                import.decisions.push(Decision {
                    what: name_of(candidate),
                    text: "its steps ask for this machine's own network: network \"host\" was written".into(),
                });
            }
        }
    }
}

fn name_of(candidate: &Candidate) -> String {
    candidate.name.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// The name of the variable that a reference ends with: `V` of `acme/base:${V}` and of `acme/base:$V`.
fn last_variable(written: &str) -> Option<String> {
    let (_, variable) = written.rsplit_once('$')?;
    let name = variable.trim_start_matches('{').trim_end_matches('}');
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    is_name.then(|| name.to_owned())
}

/// What a new workspace says for all: what most of its images need, short of the host's.
fn network_of(new: &[&Candidate], reads: &[Read], all: &[Candidate]) -> Network {
    let needed =
        all.iter().zip(reads).filter(|(candidate, _)| new.iter().any(|one| one.place == candidate.place));
    let mut needed = needed.map(|(candidate, read)| read.network(candidate));
    if needed.any(|needed| needed > Network::None) { Network::Default } else { Network::None }
}

/// Groups of bake files with the names of images.
fn groups_by_name(
    groups: &BTreeMap<String, BTreeSet<String>>,
    candidates: &[Candidate],
) -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    for (group, places) in groups {
        let members = candidates.iter().filter(|candidate| places.contains(&candidate.place)).map(name_of);
        let members: BTreeSet<String> = members.collect();
        if !members.is_empty() {
            found.insert(group.clone(), members);
        }
    }
    found
}

/// The images of each folder at the top, where there are several such folders with several images.
fn by_top_folder<'c>(candidates: impl Iterator<Item = &'c Candidate>) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for candidate in candidates {
        if let Some(top) = candidate.folder().components().next() {
            found.entry(top.as_str().to_owned()).or_default().insert(name_of(candidate));
        }
    }
    found.retain(|_, members| members.len() > 1);
    if found.len() < 2 { BTreeMap::new() } else { found }
}
