//! Walks the sources of a Dockerfile: globs, links, folders, and what is left out of them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_syntax::nearest;

use super::{
    Context, ContextEntry, EntryKind, FOLDER, GENERATED, Listing, Origin, generated_mode, is_private_key,
};
use crate::dockerignore::DockerIgnore;
use crate::glob::matches;
use crate::links::Refused;
use crate::modes;
use crate::source::{ContentHash, Kind, clean, follow_beneath};
use imgforge_dockerfile::ContextSource;

/// Where package files lie in the context; their content is in the fingerprint as locked packages.
const SUPPLIED_LATER: [&str; 2] = [".imgforge/packages", ".imgforge/root.tar"];

/// Why a source is not taken.
pub(super) struct Refusal {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Refusal {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    fn io(path: &Utf8Path, error: &io::Error) -> Self {
        Self::new(format!("{path} cannot be read: {error}"))
    }
}

/// Collects what the sources of a Dockerfile take of a context.
pub(super) struct Lister<'a> {
    context: Context<'a>,
    ignore: DockerIgnore,
    found: BTreeMap<Utf8PathBuf, EntryKind>,
    opened_keys: Vec<Utf8PathBuf>,
}

impl<'a> Lister<'a> {
    pub(super) fn new(context: Context<'a>, ignore: DockerIgnore) -> Self {
        Self { context, ignore, found: BTreeMap::new(), opened_keys: Vec::new() }
    }

    pub(super) fn listing(self) -> Listing {
        let entries = self.found.into_iter().map(|(path, kind)| ContextEntry { path, kind }).collect();
        Listing { entries, opened_keys: self.opened_keys }
    }

    /// Adds all that one source takes.
    pub(super) fn add_source(&mut self, wanted: &ContextSource) -> Result<(), Refusal> {
        let path = clean(&wanted.pattern).ok_or_else(|| self.outside(&wanted.pattern))?;
        if path.starts_with(GENERATED) {
            return self.add_generated(&path);
        }
        let is_glob = !wanted.is_mount && path.as_str().contains(['*', '?', '[', '\\']);
        let first = path.components().next().map_or("", |c| c.as_str());
        if self.context.is_rendered && (path.as_str().is_empty() || is_glob && matches(first, GENERATED)) {
            return Err(Refusal {
                message: format!("\"{}\" takes the whole image folder", wanted.pattern),
                help: Some("name the files, or put them in a folder of their own and copy that".into()),
            });
        }
        if !is_glob {
            return self.add_named(&path);
        }
        let mut hits = Vec::new();
        self.glob(Utf8Path::new(""), &path.components().map(|c| c.as_str()).collect::<Vec<_>>(), &mut hits)?;
        if hits.is_empty() {
            return Err(Refusal::new(format!("nothing matches \"{}\"", wanted.pattern)));
        }
        hits.iter().try_for_each(|hit| self.add_named(hit))
    }

    fn add_generated(&mut self, path: &Utf8Path) -> Result<(), Refusal> {
        if SUPPLIED_LATER.iter().any(|later| path.starts_with(later)) {
            return Ok(());
        }
        let mut any = false;
        for file in self.context.generated.iter().filter(|file| file.path.starts_with(path)) {
            any = true;
            self.add_parents(&file.path)?;
            let kind = EntryKind::File {
                hash: ContentHash::of(&file.content),
                size: file.content.len() as u64,
                mode: generated_mode(file.executable),
                origin: Origin::Generated(Arc::clone(&file.content)),
            };
            self.found.insert(file.path.clone(), kind);
        }
        if any { Ok(()) } else { Err(Refusal::new(format!("imgforge writes no file {path} for this image"))) }
    }

    fn add_parents(&mut self, path: &Utf8Path) -> Result<(), Refusal> {
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_str().is_empty()) {
            if self.found.contains_key(parent) {
                continue;
            }
            let mode = if parent.starts_with(GENERATED) {
                FOLDER
            } else {
                let full = self.context.dir.join(parent);
                match self.context.source.kind(&full).map_err(|error| self.missing(parent, &error))? {
                    Kind::Dir { mode } => modes::of_folder(mode, self.is_tracked(parent)?),
                    _ => FOLDER,
                }
            };
            self.found.insert(parent.to_owned(), EntryKind::Dir { mode });
        }
        Ok(())
    }

    fn is_tracked(&self, path: &Utf8Path) -> Result<bool, Refusal> {
        self.context
            .source
            .is_tracked(&self.context.dir.join(path))
            .map_err(|error| Refusal::new(format!("what git tracks cannot be read: {error}")))
    }

    /// A path that an instruction names. Links on the way and at its end are followed inside the context, as BuildKit
    /// does, and both the link and what it leads to are taken.
    fn add_named(&mut self, path: &Utf8Path) -> Result<(), Refusal> {
        let led = follow_beneath(path, |at| self.pass(at))?;
        let path = &led.map_err(|refused| {
            Refusal::new(match refused {
                Refused::Outside { link, target } => format!(
                    "the link {} leads outside the image's folder, to {}",
                    link.display(),
                    target.display()
                ),
                refused => format!("{path} cannot be read: {refused}"),
            })
        })?;
        if self.context.is_rendered && self.is_passed_over(path) {
            return Err(Refusal::new(format!("{path} belongs to another image's folder")));
        }
        if self.ignore.excludes(path) && !self.ignore.has_exceptions() {
            return Err(Refusal::new(format!("{path} is excluded by .dockerignore")));
        }
        self.add_parents(path)?;
        self.add_tree(path)
    }

    /// What lies at a path that a source leads through; a link is taken.
    fn pass(&mut self, path: &Utf8Path) -> Result<Kind, Refusal> {
        let kind = self.context.source.kind(&self.context.dir.join(path));
        let kind = kind.map_err(|error| self.missing(path, &error))?;
        if let Kind::Symlink { target } = &kind {
            self.add_parents(path)?;
            self.found.insert(path.to_owned(), EntryKind::Symlink { target: target.clone() });
        }
        Ok(match kind {
            Kind::Symlink { target } => Kind::Symlink { target: joined(&target) },
            kind => kind,
        })
    }

    /// A path and all below it. Links below a folder stay links.
    fn add_tree(&mut self, path: &Utf8Path) -> Result<(), Refusal> {
        let full = self.context.dir.join(path);
        let kind = self.context.source.kind(&full).map_err(|error| self.missing(path, &error))?;
        match kind {
            Kind::Dir { mode } => {
                if !path.as_str().is_empty() {
                    let mode = modes::of_folder(mode, self.is_tracked(path)?);
                    self.found.insert(path.to_owned(), EntryKind::Dir { mode });
                }
                for name in self.context.source.list(&full).map_err(|error| Refusal::io(path, &error))? {
                    let below = path.join(&name);
                    let is_ours = path.as_str().is_empty() && (name == GENERATED || name == "image.kdl");
                    let pruned = self.ignore.excludes(&below);
                    if is_ours || self.is_passed_over(&below) || (pruned && !self.ignore.has_exceptions()) {
                        continue;
                    }
                    if pruned
                        && !matches!(
                            self.context.source.kind(&self.context.dir.join(&below)),
                            Ok(Kind::Dir { .. })
                        )
                    {
                        continue;
                    }
                    self.add_tree(&below)?;
                }
            }
            Kind::File { mode, size } => {
                let hash = self.context.source.hash(&full).map_err(|error| Refusal::io(path, &error))?;
                let disk = mode;
                let mode = modes::of_file(disk, self.is_tracked(path)?);
                if !is_open(disk) && is_open(mode) && is_private_key(self.context.source, &full, size) {
                    self.opened_keys.push(path.to_owned());
                }
                let origin = Origin::Source(full);
                self.found.insert(path.to_owned(), EntryKind::File { hash, size, mode, origin });
            }
            Kind::Symlink { target } => {
                self.found.insert(path.to_owned(), EntryKind::Symlink { target });
            }
            // As BuildKit does it: a file of its name without content.
            Kind::Socket { mode } => {
                let content: Arc<[u8]> = Arc::new([]);
                let (hash, mode) = (ContentHash::of(&content), modes::of_file(mode, false));
                let origin = Origin::Generated(content);
                self.found.insert(path.to_owned(), EntryKind::File { hash, size: 0, mode, origin });
            }
            Kind::Node { node, mode } => {
                let mode = modes::of_file(mode, false);
                self.found.insert(path.to_owned(), EntryKind::Node { node, mode });
            }
        }
        Ok(())
    }

    /// Whether a path is passed over where it is not named, or lies in such a folder.
    fn is_passed_over(&self, path: &Utf8Path) -> bool {
        let full = self.context.dir.join(path);
        let is_one =
            |path: &Utf8Path| self.context.passed_over.binary_search_by(|one| (**one).cmp(path)).is_ok();
        full.ancestors().any(is_one)
    }

    fn outside(&self, pattern: &str) -> Refusal {
        let is_own = self.context.dockerfile_path.is_none_or(|path| path.parent() == Some(self.context.dir));
        let what =
            if is_own { "the image's folder".to_owned() } else { format!("the context, {}", self.folder()) };
        let help = if self.context.is_rendered {
            "a build sees only its image's folder: move the file there, or copy it from another image"
        } else {
            "a build sees only its context, which is the image's folder unless the manifest says another: \
             dockerfile \"Dockerfile\" context=\"..\""
        };
        Refusal { message: format!("\"{pattern}\" lies outside {what}"), help: Some(help.into()) }
    }

    fn folder(&self) -> &str {
        if self.context.dir.as_str().is_empty() { "." } else { self.context.dir.as_str() }
    }

    fn missing(&self, path: &Utf8Path, error: &io::Error) -> Refusal {
        if error.kind() != io::ErrorKind::NotFound {
            return Refusal::io(path, error);
        }
        let folder = path.parent().unwrap_or(Utf8Path::new(""));
        let names = self.context.source.list(&self.context.dir.join(folder)).unwrap_or_default();
        let near = nearest(path.file_name().unwrap_or(""), names.iter().map(String::as_str));
        Refusal {
            message: format!("there is no \"{path}\" in {}", self.folder()),
            help: near.map(|near| format!("did you mean \"{}\"?", folder.join(near))),
        }
    }

    fn glob(&self, at: &Utf8Path, rest: &[&str], hits: &mut Vec<Utf8PathBuf>) -> Result<(), Refusal> {
        let Some((first, rest)) = rest.split_first() else {
            hits.push(at.to_owned());
            return Ok(());
        };
        let full = self.context.dir.join(at);
        if !matches!(self.context.source.kind(&full), Ok(Kind::Dir { .. })) {
            return Ok(());
        }
        for name in self.context.source.list(&full).map_err(|error| Refusal::io(at, &error))? {
            let below = at.join(&name);
            let is_ours = at.as_str().is_empty() && (name == GENERATED || name == "image.kdl");
            if matches(first, &name)
                && !is_ours
                && !self.is_passed_over(&below)
                && !self.ignore.excludes(&below)
            {
                self.glob(&below, rest, hits)?;
            }
        }
        Ok(())
    }
}

/// The target of a link as BuildKit follows it (`RootPath` of containerd's `continuity/fs`): `..` and the name before
/// it are taken away in the text, also where that is a link. The kernel would not.
fn joined(target: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in target.split('/').filter(|part| !matches!(*part, "" | ".")) {
        match (part, parts.last()) {
            ("..", Some(last)) if *last != ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    let start = if target.starts_with('/') { "/" } else { "" };
    format!("{start}{}", parts.join("/"))
}

/// Whether others than its owner can do something with a file.
fn is_open(mode: u32) -> bool {
    mode & 0o077 != 0
}
