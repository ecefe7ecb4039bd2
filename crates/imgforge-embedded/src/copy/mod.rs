//! COPY and ADD on a mounted file system, and build contexts as folders.
//!
//! The rules are those of BuildKit's `copy` file operation (its `solver/llbsolver/file` and fsutil's `copy`).

mod archive;
mod target;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use camino::Utf8Path;
use imgforge_core::dockerignore::DockerIgnore;
use rustix::fs::{AtFlags, FileType};

use self::target::{Change, Target};
use self::tree::{Meta, Reader, Source};
use crate::accounts;
use crate::node;
use crate::worker::message::{ContextEntry, Copy, CopySource};

/// The time of everything in a build context, in seconds since 1970: when a file was last written on some machine does
/// not change an image.
pub const CONTEXT_TIME: i64 = 0;

/// Copies into `root`, where the image's file system is mounted. `stack` is where the source is mounted when it is one
/// of layers. Folders that are made for it are of `epoch`, in seconds since 1970.
///
/// # Errors
/// A source that is missing, a target that cannot be written, an owner that the image does not know.
pub fn copy(root: &Utf8Path, stack: Option<&Utf8Path>, copy: &Copy, epoch: i64) -> io::Result<()> {
    let target = Target::open(root, epoch, !copy.link)?;
    let source = match (&copy.tree, stack) {
        (crate::worker::message::Tree::Context(entries), _) => Source::context(entries, CONTEXT_TIME),
        (crate::worker::message::Tree::Stack(_), Some(folder)) => Source::disk(folder)?,
        (crate::worker::message::Tree::Stack(_), None) => {
            return Err(io::Error::other("the source of a copy is not mounted"));
        }
    };
    let owner = match &copy.chown {
        Some(text) => Some(accounts::owner(target.folder(Path::new(""))?, text)?),
        None => None,
    };
    let excludes = DockerIgnore::parse(&copy.excludes.join("\n"))?;
    let mut copier = Copier {
        source: &source,
        target: &target,
        change: Change { owner, mode: copy.chmod },
        excludes: (!copy.excludes.is_empty()).then_some(excludes),
        linked: HashMap::new(),
        cut: 0,
    };
    let is_folder = copy.target.ends_with('/') || copy.sources.len() > 1;
    let to = Path::new(copy.target.trim_start_matches('/'));
    for from in &copy.sources {
        match from {
            CopySource::Path(pattern) => {
                let paths = source.glob(pattern)?;
                // `a/./b`: only what comes after is kept of the path.
                copier.cut = pattern.find("/./").map_or(0, |at| tree::names(Path::new(&pattern[..at])).len());
                for path in paths {
                    copier.one(&path, to, is_folder, copy).map_err(|error| {
                        if error.kind() == io::ErrorKind::NotFound && source.meta(&path).is_err() {
                            return io::Error::other(format!("there is no /{} to copy", path.display()));
                        }
                        tree::with_path(&error, &format!("/{}", path.display()))
                    })?;
                }
            }
            CopySource::File { name, mode, time, content } => {
                let meta = Meta {
                    kind: FileType::RegularFile,
                    mode: *mode,
                    uid: 0,
                    gid: 0,
                    mtime: (time.unwrap_or(CONTEXT_TIME), 0),
                    rdev: 0,
                    linked: None,
                };
                copier.file(Path::new(name), to, is_folder, &meta, &mut Reader::of(content)?)?;
            }
        }
    }
    Ok(())
}

/// Makes a build context as a folder of files: `folder` is there and empty.
///
/// # Errors
/// A file that has changed since it was hashed, a disk that is full.
pub fn materialise(entries: &[ContextEntry], folder: &Utf8Path, epoch: i64) -> io::Result<()> {
    let target = Target::open(folder, epoch, true)?;
    let source = Source::context(entries, CONTEXT_TIME);
    let mut copier = Copier {
        source: &source,
        target: &target,
        change: Change::default(),
        excludes: None,
        linked: HashMap::new(),
        cut: 0,
    };
    copier.content(Path::new(""), Path::new(""), target.folder(Path::new(""))?.as_fd())
}

/// Copies a folder of what is mounted at `from`, with what it has itself, onto one that is there and empty.
///
/// # Errors
/// A path that is no folder, a disk that is full.
pub fn copy_folder(from: &Utf8Path, path: &str, to: &Utf8Path) -> io::Result<()> {
    let (source, target) = (Source::disk(from)?, Target::open(to, CONTEXT_TIME, true)?);
    let named = |error: &io::Error| tree::with_path(error, &format!("/{path}"));
    let path = source.resolve(Path::new(path)).map_err(|error| named(&error))?;
    let meta = source.meta(&path).map_err(|error| named(&error))?;
    if meta.kind != FileType::Directory {
        return Err(io::Error::other(format!("/{} is no folder", path.display())));
    }
    let mut copier = Copier {
        source: &source,
        target: &target,
        change: Change::default(),
        excludes: None,
        linked: HashMap::new(),
        cut: 0,
    };
    let to = target.folder(Path::new(""))?;
    copier.content(&path, Path::new(""), to.as_fd())?;
    let attributes = source.attributes(&path)?;
    target::set(to.as_fd(), OsStr::new("."), &meta, &attributes, Change::default())
}

/// The entries of a context that these paths reach, with the folders that they lie in. `is_plain` says that the paths
/// have no wildcards. Where a link leads from one to another it is all of them: too much rather than too little.
pub fn reached(entries: &[ContextEntry], paths: &[&str], is_plain: bool) -> Vec<ContextEntry> {
    let source = Source::context(entries, CONTEXT_TIME);
    let mut wanted: Vec<PathBuf> = Vec::new();
    for path in paths {
        let hits = if is_plain { Ok(vec![path.trim_matches('/').into()]) } else { source.glob(path) };
        for hit in hits.unwrap_or_default() {
            let clean: PathBuf = tree::names(&hit).into_iter().filter(|name| name != "..").collect();
            if clean.as_os_str().is_empty() || !source.resolve(&hit).is_ok_and(|resolved| resolved == hit) {
                return entries.to_vec();
            }
            wanted.push(clean);
        }
    }
    let is_reached = |entry: &&ContextEntry| {
        let path = Path::new(entry.path.as_str());
        wanted.iter().any(|wanted| path.starts_with(wanted) || wanted.starts_with(path))
    };
    entries.iter().filter(is_reached).cloned().collect()
}

struct Copier<'a> {
    source: &'a Source<'a>,
    target: &'a Target,
    change: Change,
    excludes: Option<DockerIgnore>,
    /// The first copy of a file with several names.
    linked: HashMap<(u64, u64), PathBuf>,
    /// The number of names at the beginning of a source's path that `--parents` leaves out.
    cut: usize,
}

impl Copier<'_> {
    /// One path of the source.
    fn one(&mut self, path: &Path, to: &Path, is_folder: bool, copy: &Copy) -> io::Result<()> {
        let from = self.source.resolve(path)?;
        let meta = self.source.meta(&from)?;
        let name = path.file_name().map(OsStr::to_owned);
        if meta.kind != FileType::Directory {
            if name.as_deref().is_some_and(|name| self.is_excluded(Path::new(name))) {
                return Ok(());
            }
            if copy.unpack && meta.kind == FileType::RegularFile {
                let opened = archive::open(&mut || self.source.open(&from))?;
                if let Some(archive) = opened {
                    let folder = self.target.make_folders(to, self.change.owner)?;
                    return archive::unpack(archive, self.target, &folder, self.change.owner);
                }
            }
        }
        let (to, is_folder) = match (copy.parents, path.parent()) {
            (true, Some(parent)) => (to.join(parent.iter().skip(self.cut).collect::<PathBuf>()), true),
            _ => (to.to_owned(), is_folder),
        };
        if meta.kind == FileType::Directory {
            let to = match (copy.parents, &name) {
                (true, Some(name)) => to.join(name),
                _ => to,
            };
            return self.folder(&from, &to);
        }
        let Some(name) = name else { return Err(io::Error::other("it has no name")) };
        let place = self.place(Path::new(&name), &to, is_folder)?;
        self.entry(&from, &meta, &place)
    }

    /// Returns the folder that a file goes to, without links, and its name there.
    fn place(&self, name: &Path, to: &Path, is_folder: bool) -> io::Result<(PathBuf, OsString)> {
        let view = self.target.view();
        if is_folder {
            self.target.make_folders(to, self.change.owner)?;
        }
        let resolved = self.target.resolve(to)?;
        if view.meta(&resolved).is_ok_and(|meta| meta.kind == FileType::Directory) {
            return Ok((resolved, name.as_os_str().to_owned()));
        }
        let parent = resolved.parent().unwrap_or(Path::new(""));
        let name = resolved.file_name().unwrap_or(name.as_os_str()).to_owned();
        Ok((self.target.make_folders(parent, self.change.owner)?, name))
    }

    /// A file that is in no tree.
    fn file(
        &mut self,
        name: &Path,
        to: &Path,
        is_folder: bool,
        meta: &Meta,
        bytes: &mut Reader,
    ) -> io::Result<()> {
        let (folder, name) = self.place(name, to, is_folder)?;
        let parent = self.target.folder(&folder)?;
        target::clear(parent.as_fd(), &name)?;
        target::write(parent.as_fd(), &name, bytes)?;
        let owner = Some(self.change.owner.unwrap_or((0, 0)));
        target::set(parent.as_fd(), &name, meta, &[], Change { owner, ..self.change })
    }

    /// The content of a folder into another, which is made if it is not there: with a mode of its own then, as BuildKit
    /// does it.
    fn folder(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let resolved = self.target.resolve(to)?;
        let existing = self.target.view().meta(&resolved).ok();
        if existing.is_some_and(|meta| meta.kind != FileType::Directory) {
            return Err(io::Error::other(format!("/{} is no folder", resolved.display())));
        }
        self.target.make_folders(&resolved, self.change.owner)?;
        let folder = self.target.folder(&resolved)?;
        self.content(from, Path::new(""), folder.as_fd())?;
        Ok(())
    }

    /// Copies the content of a folder; `below` is its path from where copying began, which `--exclude` looks at.
    fn content(&mut self, from: &Path, below: &Path, to: BorrowedFd<'_>) -> io::Result<()> {
        for name in self.source.list(from)? {
            let path = from.join(&name);
            let below = below.join(&name);
            let meta = self.source.meta(&path)?;
            let excluded = self.is_excluded(&below);
            if excluded && !(meta.kind == FileType::Directory && self.may_hold_exceptions()) {
                continue;
            }
            if meta.kind != FileType::Directory {
                self.node(&path, &meta, to, &name)
                    .map_err(|error| tree::with_path(&error, &format!("/{}", path.display())))?;
                continue;
            }
            target::make_folder(to, &name)?;
            let folder = tree::open_in(
                to,
                Path::new(&name),
                rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY,
            )?;
            self.content(&path, &below, folder.as_fd())?;
            target::set(to, &name, &meta, &self.source.attributes(&path)?, self.change)?;
        }
        Ok(())
    }

    fn entry(&mut self, from: &Path, meta: &Meta, place: &(PathBuf, OsString)) -> io::Result<()> {
        let parent = self.target.folder(&place.0)?;
        self.node(from, meta, parent.as_fd(), &place.1)
    }

    /// Copies what is no folder.
    fn node(&mut self, from: &Path, meta: &Meta, to: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        if meta.kind == FileType::Socket {
            return Ok(());
        }
        target::clear(to, name)?;
        if let Some(id) = meta.linked {
            if let Some(first) = self.linked.get(&id) {
                rustix::fs::linkat(rustix::fs::CWD, first, to, name, AtFlags::empty())?;
                return Ok(());
            }
            // What the kernel says of an open folder has no links in it.
            self.linked.insert(id, std::fs::read_link(node::own(to))?.join(name));
        }
        match meta.kind {
            FileType::RegularFile => target::write(to, name, &mut self.source.open(from)?)?,
            FileType::Symlink => rustix::fs::symlinkat(self.source.link(from)?, to, name)?,
            _ => match target::make_node(to, name, meta) {
                // A device that this process may not make is left out, as in layers.
                Err(error)
                    if error.kind() == io::ErrorKind::PermissionDenied && meta.kind != FileType::Fifo =>
                {
                    return Ok(());
                }
                made => made?,
            },
        }
        let attributes = match meta.kind {
            FileType::RegularFile => self.source.attributes(from)?,
            _ => Vec::new(),
        };
        target::set(to, name, meta, &attributes, self.change)
    }

    fn is_excluded(&self, below: &Path) -> bool {
        let text = below.to_string_lossy();
        self.excludes.as_ref().is_some_and(|rules| rules.excludes(Utf8Path::new(&text)))
    }

    fn may_hold_exceptions(&self) -> bool {
        self.excludes.as_ref().is_some_and(DockerIgnore::has_exceptions)
    }
}
