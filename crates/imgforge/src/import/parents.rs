//! Which references of Dockerfiles mean images of the same repository.
//!
//! What a bake or Compose file publishes is known by repository and tag. Of other Dockerfiles only the place is
//! known: `FROM acme/base:1.2` means `base/Dockerfile` when a folder of that name is there and `acme` is this
//! repository's own, which a registry of somebody's own products is not (`mcr.microsoft.com`). A name without
//! anything before it (`FROM python:3.12`) is Docker Hub's, unless no such image is there.

use std::collections::{BTreeMap, BTreeSet};

use imgforge_oci::reference::Parts;

use super::candidate::{Candidate, Read};
use super::official::{OFFICIAL, is_publishers};

/// A reference taken apart: registry and repository, as Docker completes them, and the tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Published {
    repository: String,
    tag: String,
}

fn published(reference: &str) -> Option<Published> {
    let Parts { name, tag, digest: None } = Parts::of(reference) else { return None };
    let name =
        name.strip_prefix("docker.io/").or_else(|| name.strip_prefix("index.docker.io/")).unwrap_or(name);
    let repository = name.strip_prefix("library/").unwrap_or(name).to_owned();
    Some(Published { repository, tag: tag.unwrap_or("latest").to_owned() })
}

/// The namespace of a repository, which may be empty, and its last names.
fn parted(repository: &str) -> impl Iterator<Item = (&str, &str)> {
    let slashes = repository.match_indices('/').map(|(at, _)| (&repository[..at], &repository[at + 1..]));
    std::iter::once(("", repository)).chain(slashes)
}

/// A use of an image by a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) child: usize,
    pub(super) parent: usize,
    /// As the Dockerfile has it, ARGs expanded.
    pub(super) written: String,
}

/// What the references of all candidates mean.
#[derive(Debug, Default)]
pub(super) struct Meaning {
    pub(super) edges: Vec<Edge>,
    /// References that mean images from outside, by candidate.
    pub(super) outside: Vec<BTreeSet<String>>,
    /// Namespaces that were taken for this repository's own because of folders, each with an example.
    pub(super) own: BTreeMap<String, String>,
    /// References that are like a published one with another tag: from outside, though a person may have meant
    /// otherwise.
    pub(super) other_tags: BTreeSet<String>,
}

/// Resolves all references. `reads` has what each candidate's Dockerfile says.
pub(super) fn meaning(candidates: &[Candidate], reads: &[Read]) -> Meaning {
    let mut meaning = Meaning { outside: vec![BTreeSet::new(); candidates.len()], ..Meaning::default() };
    let known = Known::new(candidates);
    let guessed = known.guessed_namespaces(candidates, reads);
    let own = known.namespaces().into_iter().chain(guessed.keys().cloned()).collect();
    for (child, (candidate, read)) in candidates.iter().zip(reads).enumerate() {
        for reference in read.references(candidate) {
            let written = reference.image;
            let target = candidate.contexts.get(&written);
            let parent = match target {
                Some(target) => of_target(candidate, target, candidates),
                None => known.published(&written).or_else(|| known.placed(&written, &own)),
            };
            match parent.filter(|parent| *parent != child) {
                Some(parent) => meaning.edges.push(Edge { child, parent, written }),
                None => {
                    if known.has_repository(&written) && !written.contains('@') {
                        meaning.other_tags.insert(written.clone());
                    }
                    meaning.outside[child].insert(written);
                }
            }
        }
    }
    meaning.own = guessed;
    meaning
}

/// The candidate of a target of the same bake file.
fn of_target(child: &Candidate, target: &str, candidates: &[Candidate]) -> Option<usize> {
    let file = child.place.split(": ").next().unwrap_or_default();
    let place = format!("{file}: target \"{target}\"");
    candidates.iter().position(|candidate| candidate.place == place)
}

struct Known {
    published: BTreeMap<Published, usize>,
    /// By repository, without a namespace: tag and candidate.
    placed: BTreeMap<String, Vec<(Option<String>, usize)>>,
}

impl Known {
    fn new(candidates: &[Candidate]) -> Self {
        let mut known = Self { published: BTreeMap::new(), placed: BTreeMap::new() };
        for (n, candidate) in candidates.iter().enumerate() {
            for reference in candidate.published.iter().filter_map(|reference| published(reference)) {
                known.published.entry(reference).or_insert(n);
            }
            for (repository, tag) in &candidate.identities {
                known.placed.entry(repository.clone()).or_default().push((tag.clone(), n));
            }
        }
        known
    }

    fn published(&self, written: &str) -> Option<usize> {
        self.published.get(&published(written)?).copied()
    }

    /// Whether something is published under the same repository.
    fn has_repository(&self, written: &str) -> bool {
        let wanted = published(written);
        wanted.is_some_and(|wanted| self.published.keys().any(|known| known.repository == wanted.repository))
    }

    /// The candidate at the place that a reference stands for.
    fn placed(&self, written: &str, own: &BTreeSet<String>) -> Option<usize> {
        let wanted = published(written)?;
        let mut names = parted(&wanted.repository).filter(|(namespace, name)| {
            if namespace.is_empty() { !OFFICIAL.contains(name) } else { own.contains(*namespace) }
        });
        names.find_map(|(_, name)| self.at(name, &wanted.tag))
    }

    /// The candidate of a repository and a tag: the one whose place says that tag, or the only one that says none.
    fn at(&self, name: &str, tag: &str) -> Option<usize> {
        let all = self.placed.get(name)?;
        let only = |wanted: Option<&str>| {
            let found: BTreeSet<usize> =
                all.iter().filter(|(own, _)| own.as_deref() == wanted).map(|(_, n)| *n).collect();
            found.first().copied().filter(|_| found.len() == 1)
        };
        only(Some(tag)).or_else(|| only(None))
    }

    /// Namespaces that something is published in.
    fn namespaces(&self) -> BTreeSet<String> {
        let namespaces = self.published.keys().flat_map(|known| parted(&known.repository));
        namespaces
            .map(|(namespace, _)| namespace.to_owned())
            .filter(|namespace| !namespace.is_empty())
            .collect()
    }

    /// Namespaces under which a reference has the name of a folder that does not itself stand on such a one.
    fn guessed_namespaces(&self, candidates: &[Candidate], reads: &[Read]) -> BTreeMap<String, String> {
        let mut own = BTreeMap::new();
        let mut foreign = BTreeSet::new();
        for (child, (candidate, read)) in candidates.iter().zip(reads).enumerate() {
            for reference in read.references(candidate) {
                let Some(wanted) = published(&reference.image) else { continue };
                let is_possible =
                    |(namespace, _): &(&str, &str)| !namespace.is_empty() && !is_publishers(namespace);
                for (namespace, name) in parted(&wanted.repository).filter(is_possible) {
                    match self.at(name, &wanted.tag) {
                        Some(parent) if parent == child => drop(foreign.insert(namespace.to_owned())),
                        Some(_) => drop(own.entry(namespace.to_owned()).or_insert(reference.image.clone())),
                        None => {}
                    }
                }
            }
        }
        own.retain(|namespace, _| !foreign.contains(namespace));
        own
    }
}

#[cfg(test)]
mod tests {
    use super::super::names;
    use super::*;

    /// `(child, parent)` of Dockerfiles at places.
    fn edges(files: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut candidates = Vec::new();
        let mut reads = Vec::new();
        for (path, text) in files {
            let mut candidate = Candidate::new((*path).into(), (*path).into(), "".into());
            names::of_place(&mut candidate, "acme");
            reads.push(Read::of(text, &candidate).unwrap());
            candidates.push(candidate);
        }
        let found = meaning(&candidates, &reads).edges;
        let place = |n: usize| candidates[n].folder().to_string();
        found.into_iter().map(|edge| (place(edge.child), place(edge.parent))).collect()
    }

    fn pair(child: &str, parent: &str) -> (String, String) {
        (child.to_owned(), parent.to_owned())
    }

    #[test]
    fn a_reference_means_the_folder_of_its_name_and_tag() {
        let python =
            [("python/3.11/Dockerfile", "FROM debian:12"), ("python/3.12/Dockerfile", "FROM debian:12")];
        let with = |text: &'static str| edges(&[&python[..], &[("app/Dockerfile", text)]].concat());
        assert_eq!(with("FROM acme/python:3.12"), [pair("app", "python/3.12")]);
        assert_eq!(with("ARG V=3.11\nFROM ghcr.io/acme/python:$V"), [pair("app", "python/3.11")]);
        assert_eq!(with("FROM acme/python:3.9"), []);
        assert_eq!(with("FROM python:3.12"), [], "Docker Hub's");
        assert_eq!(
            edges(&[("base/Dockerfile", "FROM alpine"), ("b/Dockerfile", "FROM base")]),
            [pair("b", "base")]
        );
        assert_eq!(edges(&[("alpine/Dockerfile", "FROM alpine:3"), ("b/Dockerfile", "FROM alpine:3")]), []);
        let sha = format!("FROM acme/base@sha256:{}", "0".repeat(64));
        assert_eq!(edges(&[("base/Dockerfile", "FROM alpine"), ("b/Dockerfile", &sha)]), []);
    }

    #[test]
    fn what_only_its_owner_publishes_is_that_of_others() {
        let from = |text| edges(&[("base/Dockerfile", "FROM scratch"), ("app/Dockerfile", text)]);
        assert_eq!(from("FROM mcr.microsoft.com/devcontainers/base:bookworm"), []);
        assert_eq!(from("FROM gcr.io/distroless/base"), []);
        assert_eq!(from("FROM gcr.io/acme/base"), [pair("app", "base")]);
    }

    #[test]
    fn a_namespace_whose_image_its_own_folder_stands_on_is_that_of_others() {
        let files = [("redis/Dockerfile", "FROM bitnami/redis:7"), ("b/Dockerfile", "FROM bitnami/redis:7")];
        assert_eq!(edges(&files), []);
    }
}
