//! The files of a build: exactly those that its Dockerfile can reach. The list that is hashed is the list that is
//! sent.
//!
//! Sources of COPY, ADD and bind mounts, minus what `.dockerignore` excludes, minus the files that imgforge reads
//! (unless they are named), and of an image that a manifest makes, minus folders of other images. Modes are as
//! [`crate::modes`] says.

mod lister;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_syntax::Span;

use self::lister::Lister;
use crate::dockerignore::DockerIgnore;
use crate::fingerprint::{InputKind, InputManifest};
use crate::private_key;
use crate::source::{ContentHash, Node, Source};
use imgforge_dockerfile::{ContextSource, Dockerfile};

/// The folder in the context for files that imgforge writes itself.
pub const GENERATED: &str = ".imgforge";

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
    /// The folder that paths are relative to.
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
    /// What is not taken, relative to the workspace root and sorted: see [`crate::workspace::ContextFolder`].
    pub passed_over: &'a [Utf8PathBuf],
    /// Whether imgforge has written the Dockerfile.
    pub is_rendered: bool,
}

/// What a build can reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Sorted bytewise by path.
    pub entries: Vec<ContextEntry>,
    /// Private keys that only their owner can read on the disk, and others too in the image: git tracks them, and
    /// keeps no such mode.
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

    /// Private keys that a build can reach, each with the word in the Dockerfile that reaches it. What cannot be
    /// listed has none: [`list`](Self::list) says what is wrong with it.
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
        Ok(Lister::new(self, ignore))
    }
}

fn is_private_key(source: &dyn Source, path: &Utf8Path, size: u64) -> bool {
    size <= private_key::MAX && source.read(path).is_ok_and(|bytes| private_key::is_one(&bytes))
}

fn whole(sources: &[ContextSource], message: &str) -> ContextProblem {
    ContextProblem { span: sources[0].span, message: message.to_owned(), help: None }
}
