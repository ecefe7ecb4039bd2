//! The files of a build: exactly those that its Dockerfile can reach. The list that is hashed is the list that is
//! sent.
//!
//! Sources of COPY, ADD and bind mounts, minus what `.dockerignore` excludes, minus folders of other images, minus
//! the image's own `image.kdl` (unless it is named). Modes are as [`crate::modes`] says.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};

use crate::diagnostic::Span;
use crate::dockerfile::{ContextSource, Dockerfile};
use crate::dockerignore::DockerIgnore;
use crate::fingerprint::{InputKind, InputManifest};
use crate::glob::matches;
use crate::modes;
use crate::name::nearest;
use crate::private_key;
use crate::source::{ContentHash, Kind, MAX_LINKS, Node, Source};

/// The folder in the context for files that imgforge writes itself.
pub const GENERATED: &str = ".imgforge";

/// Where package files lie in the context; their content is in the fingerprint as locked packages.
const SUPPLIED_LATER: [&str; 2] = [".imgforge/packages", ".imgforge/root.tar"];

/// The mode of a folder that imgforge makes.
pub const FOLDER: u32 = 0o755;

/// The mode of a file that imgforge writes.
pub fn generated_mode(executable: bool) -> u32 {
    if executable { 0o755 } else { 0o644 }
}

/// A file that imgforge writes for a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneratedFile {
    /// In the context, below [`GENERATED`].
    pub path: Utf8PathBuf,
    /// Its exec bit.
    pub executable: bool,
    /// Its bytes.
    pub content: Arc<[u8]>,
}

/// A file that a build needs besides its context's entries: package files and the scripts that install them. Its
/// content is in the fingerprint in another form (locked packages, the installer's version), so that it need not be
/// there when a plan is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuppliedFile {
    /// In the context, below [`GENERATED`].
    pub path: Utf8PathBuf,
    /// Sent as mode 0755 rather than 0644.
    pub executable: bool,
    /// Its bytes, or where they are.
    pub content: SuppliedContent,
}

/// The bytes of a [`SuppliedFile`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SuppliedContent {
    /// Made in memory.
    Bytes(Vec<u8>),
    /// A file on disk that nobody changes (an entry of a content-addressed cache), by absolute path.
    File(Utf8PathBuf),
}

/// One entry of a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextEntry {
    /// In the context, with `/`, no `.` or `..`.
    pub path: Utf8PathBuf,
    /// What it is.
    pub kind: EntryKind,
}

/// What a context entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A folder.
    Dir {
        /// Its permissions, with setuid, setgid and sticky bits.
        mode: u32,
    },
    /// A regular file.
    File {
        /// The hash of its content: what is sent must have it.
        hash: ContentHash,
        /// Its size in bytes.
        size: u64,
        /// Its permissions, with setuid, setgid and sticky bits.
        mode: u32,
        /// Where its bytes are.
        origin: Origin,
    },
    /// A symbolic link.
    Symlink {
        /// Its target as written.
        target: String,
    },
    /// A named pipe or a device.
    Node {
        /// Which.
        node: Node,
        /// Its permissions.
        mode: u32,
    },
}

impl EntryKind {
    /// The kind and the value of this input of a fingerprint.
    fn input(&self) -> (InputKind, String) {
        match self {
            Self::Dir { mode } => (InputKind::Folder, format!("{mode:04o}")),
            Self::File { hash, mode, .. } => (InputKind::File, format!("{hash} {mode:04o}")),
            Self::Symlink { target } => (InputKind::Link, target.clone()),
            Self::Node { node, mode } => (InputKind::File, format!("{node} {mode:04o}")),
        }
    }
}

/// Adds the entries of a context to a target's inputs.
pub fn insert_inputs(entries: &[ContextEntry], inputs: &mut InputManifest) {
    for entry in entries {
        let (kind, value) = entry.kind.input();
        inputs.insert(kind, entry.path.as_str(), value);
    }
}

/// Where the bytes of a file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In the source, at a path relative to the workspace root.
    Source(Utf8PathBuf),
    /// Written by imgforge.
    Generated(Arc<[u8]>),
}

/// A source that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextProblem {
    /// The word in the Dockerfile.
    pub span: Span,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

/// Where the files of a build are, and what it reaches of them.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The workspace.
    pub source: &'a dyn Source,
    /// The image's folder.
    pub dir: &'a Utf8Path,
    /// What names files.
    pub dockerfile: &'a Dockerfile,
    /// Its path in the workspace, if it is a file there. What is called so with `.dockerignore` at the end comes before
    /// `dir`'s `.dockerignore`.
    pub dockerfile_path: Option<&'a Utf8Path>,
    /// Its build arguments.
    pub args: &'a BTreeMap<String, String>,
    /// Files that imgforge writes for it.
    pub generated: &'a [GeneratedFile],
    /// Folders of other images in `dir`.
    pub nested: &'a [Utf8PathBuf],
    /// Whether imgforge has written the Dockerfile.
    pub is_rendered: bool,
}

/// What a build can reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Sorted bytewise by path.
    pub entries: Vec<ContextEntry>,
    /// Private keys that only their owner can read on the disk, and others too in the image: git tracks them, and keeps no
    /// such mode.
    pub opened_keys: Vec<Utf8PathBuf>,
}

impl<'a> Context<'a> {
    /// Lists (and hashes) what the Dockerfile can reach.
    ///
    /// # Errors
    /// Every source that is missing, lies outside `dir` (links followed) or cannot be read.
    pub fn list(self) -> Result<Listing, Vec<ContextProblem>> {
        let sources = self.dockerfile.context_sources(self.args);
        if sources.is_empty() {
            return Ok(Listing::default());
        }
        let mut lister = self.lister(&sources)?;
        let mut problems = Vec::new();
        for wanted in &sources {
            if let Err(refusal) = lister.add_source(wanted) {
                problems.push(ContextProblem {
                    span: wanted.span,
                    message: refusal.message,
                    help: refusal.help,
                });
            }
        }
        if problems.is_empty() { Ok(lister.listing()) } else { Err(problems) }
    }

    /// Private keys that a build can reach, each with the word in the Dockerfile that reaches it. What cannot be listed has
    /// none: [`list`](Self::list) says what is wrong with it.
    pub fn private_keys(self) -> Vec<(Span, Utf8PathBuf)> {
        let mut found = Vec::new();
        for wanted in &self.dockerfile.context_sources(self.args) {
            let Ok(mut lister) = self.lister(std::slice::from_ref(wanted)) else { continue };
            if lister.add_source(wanted).is_err() {
                continue;
            }
            for ContextEntry { path, kind } in lister.listing().entries {
                if let EntryKind::File { size, origin: Origin::Source(full), .. } = kind
                    && is_private_key(self.source, &full, size)
                {
                    found.push((wanted.span, path));
                }
            }
        }
        found
    }

    fn lister(self, sources: &[ContextSource]) -> Result<Lister<'a>, Vec<ContextProblem>> {
        let ignore = DockerIgnore::read(self.source, self.dir, self.dockerfile_path)
            .map_err(|error| vec![whole(sources, &error.to_string())])?;
        Ok(Lister { context: self, ignore, found: BTreeMap::new(), opened_keys: Vec::new() })
    }
}

/// Whether others than its owner can do something with a file.
fn is_open(mode: u32) -> bool {
    mode & 0o077 != 0
}

fn is_private_key(source: &dyn Source, path: &Utf8Path, size: u64) -> bool {
    size <= private_key::MAX && source.read(path).is_ok_and(|bytes| private_key::is_one(&bytes))
}

fn whole(sources: &[ContextSource], message: &str) -> ContextProblem {
    ContextProblem { span: sources[0].span, message: message.to_owned(), help: None }
}

/// Why a source is not taken.
struct Refusal {
    message: String,
    help: Option<String>,
}

impl Refusal {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    fn io(path: &Utf8Path, error: &io::Error) -> Self {
        Self::new(format!("{path} cannot be read: {error}"))
    }
}

struct Lister<'a> {
    context: Context<'a>,
    ignore: DockerIgnore,
    found: BTreeMap<Utf8PathBuf, EntryKind>,
    opened_keys: Vec<Utf8PathBuf>,
}

impl Lister<'_> {
    fn listing(self) -> Listing {
        let entries = self.found.into_iter().map(|(path, kind)| ContextEntry { path, kind }).collect();
        Listing { entries, opened_keys: self.opened_keys }
    }

    fn add_source(&mut self, wanted: &ContextSource) -> Result<(), Refusal> {
        let path = clean(&wanted.pattern).ok_or_else(|| Refusal {
            message: format!("\"{}\" lies outside the image's folder", wanted.pattern),
            help: Some(
                "a build sees only its image's folder: move the file there, or copy it from another image"
                    .into(),
            ),
        })?;
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
            return self.add_named(&path, 0);
        }
        let mut hits = Vec::new();
        self.glob(Utf8Path::new(""), &path.components().map(|c| c.as_str()).collect::<Vec<_>>(), &mut hits)?;
        if hits.is_empty() {
            return Err(Refusal::new(format!("nothing matches \"{}\"", wanted.pattern)));
        }
        hits.iter().try_for_each(|hit| self.add_named(hit, 0))
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
    fn add_named(&mut self, path: &Utf8Path, links: usize) -> Result<(), Refusal> {
        if links > MAX_LINKS {
            return Err(Refusal::new(format!("{path} leads through more than {MAX_LINKS} links")));
        }
        let mut walked = Utf8PathBuf::new();
        for (n, component) in path.components().enumerate() {
            walked.push(component.as_str());
            let kind = self
                .context
                .source
                .kind(&self.context.dir.join(&walked))
                .map_err(|error| self.missing(&walked, &error))?;
            if let Kind::Symlink { target } = kind {
                let rest: Utf8PathBuf = path.components().skip(n + 1).collect();
                let to = resolve_link(&walked, &target)?;
                self.add_parents(&walked)?;
                self.found.insert(walked.clone(), EntryKind::Symlink { target });
                let onward = if rest.as_str().is_empty() { to } else { to.join(rest) };
                return self.add_named(&onward, links + 1);
            }
        }
        if self.is_nested(path) {
            return Err(Refusal::new(format!("{path} belongs to another image's folder")));
        }
        if self.ignore.excludes(path) && !self.ignore.has_exceptions() {
            return Err(Refusal::new(format!("{path} is excluded by .dockerignore")));
        }
        self.add_parents(path)?;
        self.add_tree(path)
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
                    if is_ours || self.is_nested(&below) || (pruned && !self.ignore.has_exceptions()) {
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

    fn is_nested(&self, path: &Utf8Path) -> bool {
        let full = self.context.dir.join(path);
        full.ancestors().any(|folder| self.context.nested.iter().any(|nested| nested == folder))
    }

    fn missing(&self, path: &Utf8Path, error: &io::Error) -> Refusal {
        if error.kind() != io::ErrorKind::NotFound {
            return Refusal::io(path, error);
        }
        let folder = path.parent().unwrap_or(Utf8Path::new(""));
        let names = self.context.source.list(&self.context.dir.join(folder)).unwrap_or_default();
        let near = nearest(path.file_name().unwrap_or(""), names.iter().map(String::as_str));
        Refusal {
            message: format!(
                "there is no \"{path}\" in {}",
                if self.context.dir.as_str().is_empty() { "." } else { self.context.dir.as_str() }
            ),
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
            if matches(first, &name) && !is_ours && !self.is_nested(&below) && !self.ignore.excludes(&below) {
                self.glob(&below, rest, hits)?;
            }
        }
        Ok(())
    }
}

/// Where a link leads, inside the context.
fn resolve_link(link: &Utf8Path, target: &str) -> Result<Utf8PathBuf, Refusal> {
    // BuildKit reads an absolute target as one from the context's root.
    let base =
        if target.starts_with('/') { Utf8Path::new("") } else { link.parent().unwrap_or(Utf8Path::new("")) };
    clean(base.join(target.trim_start_matches('/')).as_str())
        .filter(|_| !target.starts_with('/'))
        .ok_or_else(|| Refusal::new(format!("the link {link} leads outside the image's folder, to {target}")))
}

/// A context path without `.`, `..` and leading `/`; `None` when it leads outside.
pub fn clean(path: &str) -> Option<Utf8PathBuf> {
    let mut out = Utf8PathBuf::new();
    for component in Utf8Path::new(path).components() {
        match component {
            Utf8Component::Normal(name) => out.push(name),
            Utf8Component::ParentDir => {
                if !out.pop() {
                    return None;
                }
            }
            Utf8Component::CurDir | Utf8Component::RootDir | Utf8Component::Prefix(_) => {}
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;
    use crate::fingerprint::Fingerprint;
    use crate::source::WorkTree;

    struct Tree(#[expect(dead_code, reason = "keeps the folder")] tempfile::TempDir, Utf8PathBuf);

    impl Tree {
        fn new(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let root = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
            let tree = Self(dir, root);
            for (path, content) in files {
                let full = tree.1.join(path);
                std::fs::create_dir_all(full.parent().unwrap()).unwrap();
                std::fs::write(full, content).unwrap();
            }
            tree
        }

        fn list(&self, dockerfile: &str, is_rendered: bool) -> Result<Vec<String>, Vec<String>> {
            let file = Dockerfile::parse(dockerfile).unwrap();
            let nested = [Utf8PathBuf::from("i/nested")];
            let source = WorkTree::uncached(&self.1);
            of(&source, &file, &nested, is_rendered)
                .list()
                .map(|listing| listing.entries.into_iter().map(|entry| entry.path.into_string()).collect())
                .map_err(|problems| problems.into_iter().map(|p| p.message).collect())
        }
    }

    #[test]
    fn just_what_the_dockerfile_reaches_is_listed() {
        let files = ["a", "b.txt", "d/x", "d/y/z", "nested/n", "image.kdl", ".hidden", "c.txt"];
        let paths: Vec<String> = files.iter().map(|file| format!("i/{file}")).collect();
        let mut tree: Vec<(&str, &str)> = paths.iter().map(|path| (path.as_str(), "content")).collect();
        tree.push(("outside", "secret"));
        let tree = Tree::new(&tree);
        for (copy, expected) in [
            ("a /", &["a"][..]),
            ("d /", &["d", "d/x", "d/y", "d/y/z"]),
            ("./d/y /", &["d", "d/y", "d/y/z"]),
            ("*.txt /", &["b.txt", "c.txt"]),
            ("d/[xy] /", &["d", "d/x", "d/y", "d/y/z"]),
            ("a d/../a /a/ /", &["a"]),
            (". /", &[".hidden", "a", "b.txt", "c.txt", "d", "d/x", "d/y", "d/y/z"]),
            ("image.kdl /", &["image.kdl"]),
        ] {
            let sources = copy.replace("/a/ ", "/a ");
            assert_eq!(
                tree.list(&format!("FROM scratch\nCOPY {sources}"), false).unwrap(),
                expected,
                "{copy}"
            );
        }
        assert!(
            tree.list("FROM scratch\nCOPY ../outside /", false).unwrap_err()[0]
                .contains("outside the image's folder")
        );
        let nested = tree.list("FROM scratch\nCOPY nested/n /", false).unwrap_err();
        assert!(nested[0].contains("another image's folder"));
        assert_eq!(
            tree.list("FROM scratch\nCOPY bb.txt nothing* /", false).unwrap_err(),
            ["there is no \"bb.txt\" in i", "nothing matches \"nothing*\""]
        );
        for copy in [". /", "* /", "./ /", ".* /"] {
            let refused = tree.list(&format!("FROM scratch\nCOPY {copy}"), true).unwrap_err();
            assert!(refused[0].contains("takes the whole image folder"), "{copy}");
        }
    }

    #[test]
    fn links_are_kept_and_followed_only_inside() {
        let tree = Tree::new(&[("i/real/file", "x"), ("outside", "secret")]);
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, tree.1.join(name)).unwrap();
        link("real", "i/folder");
        link("../outside", "i/escape");
        link("/etc/passwd", "i/absolute");
        link("loop", "i/loop");
        let list = |copy: &str| tree.list(&format!("FROM scratch\nCOPY {copy} /"), true);
        assert_eq!(list("folder/file").unwrap(), ["folder", "real", "real/file"]);
        assert_eq!(list("folder").unwrap(), ["folder", "real", "real/file"]);
        for escape in ["escape", "absolute", "loop"] {
            assert!(list(escape).is_err(), "{escape}");
        }
    }

    #[test]
    fn what_dockerignore_excludes_is_not_listed() {
        let tree = Tree::new(&[
            ("i/d/a", ""),
            ("i/d/b", ""),
            ("i/d/keep/c", ""),
            ("i/.dockerignore", "d/a\n**/keep\n!d/keep/c\n"),
        ]);
        assert_eq!(tree.list("FROM scratch\nCOPY d /", false).unwrap(), ["d", "d/b", "d/keep", "d/keep/c"]);
    }

    fn of<'a>(
        source: &'a WorkTree,
        dockerfile: &'a Dockerfile,
        nested: &'a [Utf8PathBuf],
        is_rendered: bool,
    ) -> Context<'a> {
        const NONE: &BTreeMap<String, String> = &BTreeMap::new();
        let dir = Utf8Path::new("i");
        Context {
            source,
            dir,
            dockerfile,
            dockerfile_path: None,
            args: NONE,
            generated: &[],
            nested,
            is_rendered,
        }
    }

    fn set_mode(path: &Utf8Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// What a folder is hashed to, and the modes that are sent.
    fn hashed(tree: &Tree) -> (Fingerprint, BTreeMap<String, u32>) {
        let file = Dockerfile::parse("FROM scratch\nCOPY d /").unwrap();
        let source = WorkTree::uncached(&tree.1);
        let entries = of(&source, &file, &[], true).list().unwrap().entries;
        let mut inputs = InputManifest::default();
        insert_inputs(&entries, &mut inputs);
        let modes = entries.iter().filter_map(|entry| {
            let (EntryKind::Dir { mode } | EntryKind::File { mode, .. }) = &entry.kind else { return None };
            Some((entry.path.to_string(), *mode))
        });
        (inputs.fingerprint(), modes.collect())
    }

    fn git(tree: &Tree, arguments: &[&str]) {
        let done = std::process::Command::new("git").current_dir(&tree.1).args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// A folder with what git tracks and what it does not.
    fn half_tracked() -> Tree {
        let tree =
            Tree::new(&[("i/d/known", ""), ("i/d/in/known", ""), ("i/d/key", ""), ("i/d/out/key", "")]);
        git(&tree, &["init", "--quiet"]);
        git(&tree, &["add", "i/d/known", "i/d/in/known"]);
        tree
    }

    #[test]
    fn modes_are_those_of_git_where_it_knows_the_file_and_those_of_the_disk_elsewhere() {
        let tree = half_tracked();
        for (path, mode) in [("", 0o700), ("/known", 0o600), ("/in", 0o700), ("/in/known", 0o740)] {
            set_mode(&tree.1.join(format!("i/d{path}")), mode);
        }
        for (path, mode) in [("/key", 0o600), ("/out", 0o700), ("/out/key", 0o664)] {
            set_mode(&tree.1.join(format!("i/d{path}")), mode);
        }
        let expected = [
            ("d", 0o755),
            ("d/in", 0o755),
            ("d/in/known", 0o755),
            ("d/key", 0o600),
            ("d/known", 0o644),
            ("d/out", 0o700),
            ("d/out/key", 0o644),
        ];
        let expected: BTreeMap<String, u32> = expected.map(|(path, mode)| (path.to_owned(), mode)).into();
        assert_eq!(hashed(&tree).1, expected);
        std::fs::remove_dir_all(tree.1.join(".git")).unwrap();
        let without = hashed(&tree).1;
        assert_eq!((without["d"], without["d/known"], without["d/in/known"]), (0o700, 0o600, 0o740));
    }

    #[test]
    fn a_key_that_git_opens_is_told_and_one_that_it_does_not_know_is_closed() {
        let key = "-----BEGIN PRIVATE KEY-----\nMIIEvQ==\n";
        let tree = Tree::new(&[("i/known", key), ("i/unknown", key), ("i/open", key), ("i/text", "text")]);
        git(&tree, &["init", "--quiet"]);
        git(&tree, &["add", "i/known", "i/open", "i/text"]);
        for path in ["i/known", "i/unknown", "i/text"] {
            set_mode(&tree.1.join(path), 0o600);
        }
        let file = Dockerfile::parse("FROM scratch\nCOPY known unknown open text /").unwrap();
        let source = WorkTree::uncached(&tree.1);
        let context = of(&source, &file, &[], true);
        assert_eq!(context.list().unwrap().opened_keys, ["known"]);
        let keys: Vec<Utf8PathBuf> = context.private_keys().into_iter().map(|(_, path)| path).collect();
        assert_eq!(keys, ["known", "unknown", "open"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn a_mode_changes_the_fingerprint_exactly_when_another_is_sent(
            changes in proptest::collection::vec((0_usize..7, proptest::sample::select(vec![
                0o600, 0o640, 0o644, 0o664, 0o666, 0o700, 0o750, 0o755, 0o775, 0o777, 0o1777, 0o4755, 0o2755,
            ])), 0..8),
        ) {
            let paths = ["d", "d/in", "d/in/known", "d/key", "d/known", "d/out", "d/out/key"];
            let tree = half_tracked();
            let before = hashed(&tree);
            for (path, mode) in &changes {
                // Root reads what nobody else does.
                let mode = if matches!(paths[*path], "d" | "d/in" | "d/out") { mode | 0o700 } else { *mode };
                set_mode(&tree.1.join("i").join(paths[*path]), mode);
            }
            let after = hashed(&tree);
            prop_assert_eq!(before.0 == after.0, before.1 == after.1);
            for path in ["d", "d/in"] {
                prop_assert_eq!(after.1[path], 0o755);
            }
        }
    }

    #[test]
    fn a_socket_is_an_empty_file_and_a_pipe_is_a_pipe() {
        let tree = Tree::new(&[("i/d/f", "x")]);
        let _socket = std::os::unix::net::UnixListener::bind(tree.1.join("i/d/s")).unwrap();
        let made =
            std::process::Command::new("mkfifo").args(["-m", "640"]).arg(tree.1.join("i/d/p")).status();
        assert!(made.unwrap().success());
        let file = Dockerfile::parse("FROM scratch\nCOPY d /").unwrap();
        let source = WorkTree::uncached(&tree.1);
        let found = of(&source, &file, &[], true).list().unwrap().entries;
        let kind = |path: &str| found.iter().find(|entry| entry.path == path).unwrap().kind.clone();
        assert!(matches!(kind("d/s"), EntryKind::File { size: 0, origin: Origin::Generated(_), .. }));
        assert_eq!(kind("d/p"), EntryKind::Node { node: Node::Pipe, mode: 0o640 });
    }
}
