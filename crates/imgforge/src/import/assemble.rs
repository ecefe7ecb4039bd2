//! From candidates whose references are known to the texts of manifests, and what is said of them.

use std::collections::{BTreeMap, BTreeSet};

use camino::Utf8Path;

use imgforge_core::manifest::Network;
use imgforge_core::source::{Source, clean};
use imgforge_core::text;
use imgforge_core::workspace::WORKSPACE_FILE;
use imgforge_dockerfile::program::Program;
use imgforge_oci::reference::Parts;

use super::candidate::{Candidate, Read};
use super::importer::{Importer, name_of};
use super::{Decision, Import, Taken, names, parents, write};

impl Importer<'_> {
    /// Names, aliases and texts.
    pub(super) fn put_together(
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
            used.insert(Parts::of(reference).name.to_owned());
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
                let globs: Vec<String> = hidden.iter().map(|folder| text::kdl(folder.as_str())).collect();
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
                !candidates[edge.child].is_there
                    && edge.written.trim_start_matches("docker.io/").starts_with(&format!("{namespace}/"))
            };
            if meaning.edges.iter().any(is_used) {
                say(format!("{namespace}/... is taken for what is built here, as {example}"));
            }
        }
        for reference in &meaning.other_tags {
            say(format!("{reference} is taken from outside: it is published here with other tags only"));
        }
    }
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
