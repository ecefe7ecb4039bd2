//! The files of a build: exactly those that its Dockerfile can reach. The list that is hashed is the list that is
//! sent.
//!
//! Sources of COPY, ADD and bind mounts, minus what `.dockerignore` excludes, minus folders of other images, minus
//! the image's own `image.kdl` (unless it is named). Of a file's mode only the owner's exec bit counts.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};

use crate::diagnostic::Span;
use crate::dockerfile::{ContextSource, Dockerfile};
use crate::dockerignore::DockerIgnore;
use crate::name::nearest;
use crate::source::{ContentHash, Kind, MAX_LINKS, Source};

/// The folder in the context for files that imgforge writes itself.
pub const GENERATED: &str = ".imgforge";

/// Where package files lie in the context; their content is in the fingerprint as locked packages.
const SUPPLIED_LATER: [&str; 2] = [".imgforge/packages", ".imgforge/root.tar"];

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
    Dir,
    /// A regular file.
    File {
        /// The hash of its content: what is sent must have it.
        hash: ContentHash,
        /// Its size in bytes.
        size: u64,
        /// Sent as mode 0755 rather than 0644.
        executable: bool,
        /// Where its bytes are.
        origin: Origin,
    },
    /// A symbolic link.
    Symlink {
        /// Its target as written.
        target: String,
    },
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

/// Lists (and hashes) what `dockerfile` can reach in `dir`, sorted bytewise by path.
///
/// # Errors
/// Every source that is missing, lies outside `dir` (links followed), cannot be read or is no file.
pub fn entries(
    source: &dyn Source,
    dir: &Utf8Path,
    dockerfile: &Dockerfile,
    args: &BTreeMap<String, String>,
    generated: &[GeneratedFile],
    nested: &[Utf8PathBuf],
    is_rendered: bool,
) -> Result<Vec<ContextEntry>, Vec<ContextProblem>> {
    let sources = dockerfile.context_sources(args);
    if sources.is_empty() {
        return Ok(Vec::new());
    }
    let ignore =
        DockerIgnore::read(source, dir).map_err(|error| vec![whole(&sources, &error.to_string())])?;
    let mut lister = Lister { source, dir, ignore, generated, nested, is_rendered, found: BTreeMap::new() };
    let mut problems = Vec::new();
    for wanted in &sources {
        if let Err(refusal) = lister.add_source(wanted) {
            problems.push(ContextProblem { span: wanted.span, message: refusal.message, help: refusal.help });
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(lister.found.into_iter().map(|(path, kind)| ContextEntry { path, kind }).collect())
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
    source: &'a dyn Source,
    dir: &'a Utf8Path,
    ignore: DockerIgnore,
    generated: &'a [GeneratedFile],
    nested: &'a [Utf8PathBuf],
    is_rendered: bool,
    found: BTreeMap<Utf8PathBuf, EntryKind>,
}

impl Lister<'_> {
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
        if self.is_rendered && (path.as_str().is_empty() || is_glob && matches(first, GENERATED)) {
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
        for file in self.generated.iter().filter(|file| file.path.starts_with(path)) {
            any = true;
            self.add_parents(&file.path);
            let kind = EntryKind::File {
                hash: ContentHash::of(&file.content),
                size: file.content.len() as u64,
                executable: file.executable,
                origin: Origin::Generated(Arc::clone(&file.content)),
            };
            self.found.insert(file.path.clone(), kind);
        }
        if any { Ok(()) } else { Err(Refusal::new(format!("imgforge writes no file {path} for this image"))) }
    }

    fn add_parents(&mut self, path: &Utf8Path) {
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_str().is_empty()) {
            self.found.entry(parent.to_owned()).or_insert(EntryKind::Dir);
        }
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
            let kind =
                self.source.kind(&self.dir.join(&walked)).map_err(|error| self.missing(&walked, &error))?;
            if let Kind::Symlink { target } = kind {
                let rest: Utf8PathBuf = path.components().skip(n + 1).collect();
                let to = resolve_link(&walked, &target)?;
                self.add_parents(&walked);
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
        self.add_parents(path);
        self.add_tree(path)
    }

    /// A path and all below it. Links below a folder stay links.
    fn add_tree(&mut self, path: &Utf8Path) -> Result<(), Refusal> {
        let full = self.dir.join(path);
        let kind = self.source.kind(&full).map_err(|error| self.missing(path, &error))?;
        match kind {
            Kind::Dir => {
                if !path.as_str().is_empty() {
                    self.found.insert(path.to_owned(), EntryKind::Dir);
                }
                for name in self.source.list(&full).map_err(|error| Refusal::io(path, &error))? {
                    let below = path.join(&name);
                    let is_ours = path.as_str().is_empty() && (name == GENERATED || name == "image.kdl");
                    let pruned = self.ignore.excludes(&below);
                    if is_ours || self.is_nested(&below) || (pruned && !self.ignore.has_exceptions()) {
                        continue;
                    }
                    if pruned && !matches!(self.source.kind(&self.dir.join(&below)), Ok(Kind::Dir)) {
                        continue;
                    }
                    self.add_tree(&below)?;
                }
            }
            Kind::File { executable, size } => {
                let hash = self.source.hash(&full).map_err(|error| Refusal::io(path, &error))?;
                let origin = Origin::Source(full);
                self.found.insert(path.to_owned(), EntryKind::File { hash, size, executable, origin });
            }
            Kind::Symlink { target } => {
                self.found.insert(path.to_owned(), EntryKind::Symlink { target });
            }
            Kind::Special => {
                return Err(Refusal::new(format!("{path} is a device, a socket or a pipe, not a file")));
            }
        }
        Ok(())
    }

    fn is_nested(&self, path: &Utf8Path) -> bool {
        let full = self.dir.join(path);
        full.ancestors().any(|folder| self.nested.iter().any(|nested| nested == folder))
    }

    fn missing(&self, path: &Utf8Path, error: &io::Error) -> Refusal {
        if error.kind() != io::ErrorKind::NotFound {
            return Refusal::io(path, error);
        }
        let folder = path.parent().unwrap_or(Utf8Path::new(""));
        let names = self.source.list(&self.dir.join(folder)).unwrap_or_default();
        let near = nearest(path.file_name().unwrap_or(""), names.iter().map(String::as_str));
        Refusal {
            message: format!(
                "there is no \"{path}\" in {}",
                if self.dir.as_str().is_empty() { "." } else { self.dir.as_str() }
            ),
            help: near.map(|near| format!("did you mean \"{}\"?", folder.join(near))),
        }
    }

    fn glob(&self, at: &Utf8Path, rest: &[&str], hits: &mut Vec<Utf8PathBuf>) -> Result<(), Refusal> {
        let Some((first, rest)) = rest.split_first() else {
            hits.push(at.to_owned());
            return Ok(());
        };
        let full = self.dir.join(at);
        if !matches!(self.source.kind(&full), Ok(Kind::Dir)) {
            return Ok(());
        }
        for name in self.source.list(&full).map_err(|error| Refusal::io(at, &error))? {
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

/// Go's `filepath.Match` for one path component: `*`, `?`, `[a-z]`, `[^a]`, `\x`. A broken pattern matches nothing.
pub fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    matches_from(&pattern, &name)
}

fn matches_from(pattern: &[char], name: &[char]) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return name.is_empty() };
    match first {
        '*' => (0..=name.len()).any(|skip| matches_from(rest, &name[skip..])),
        '?' => name.split_first().is_some_and(|(_, name)| matches_from(rest, name)),
        '[' => {
            let Some((c, name)) = name.split_first() else { return false };
            class(rest, *c).is_some_and(|(hit, rest)| hit && matches_from(rest, name))
        }
        '\\' => match (rest.split_first(), name.split_first()) {
            (Some((literal, rest)), Some((c, name))) => literal == c && matches_from(rest, name),
            _ => false,
        },
        literal => name.split_first().is_some_and(|(c, name)| c == literal && matches_from(rest, name)),
    }
}

/// After `[`: whether `c` is in the class, and what follows `]`.
fn class(mut pattern: &[char], c: char) -> Option<(bool, &[char])> {
    let negated = pattern.first() == Some(&'^');
    if negated {
        pattern = &pattern[1..];
    }
    let mut hit = false;
    let mut first = true;
    loop {
        let (low, rest) = pattern.split_first()?;
        if *low == ']' && !first {
            return Some((hit != negated, rest));
        }
        first = false;
        let (low, rest) = if *low == '\\' { rest.split_first()? } else { (low, rest) };
        let (high, rest) = match rest {
            ['-', high, rest @ ..] if *high != ']' => (high, rest),
            _ => (low, rest),
        };
        hit |= (*low..=*high).contains(&c);
        pattern = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
            entries(&source, Utf8Path::new("i"), &file, &BTreeMap::new(), &[], &nested, is_rendered)
                .map(|entries| entries.into_iter().map(|entry| entry.path.into_string()).collect())
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

    #[test]
    fn globs_match_as_filepath_match_does() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*", ".x", true),
            ("a*c", "abbc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[]a]", "]", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("[", "[", false),
            ("é?", "éa", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
