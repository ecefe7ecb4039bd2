//! Follows the symbolic links on a path as Linux does (path_resolution(7), symlink(7)), over anything that can say what
//! lies at a path: a disk, an archive, a container behind a daemon, a list of files.
//!
//! Nothing is read here. [`Walk`] says which path has to be looked at next and is told what lies there; [`follow`] does
//! so with a function. Paths that are asked have no links, no `..` and no slash at their start.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};

/// The number of links that one path may pass through, as in the kernel (`ELOOP`).
pub const MAX_LINKS: usize = 40;

/// What lies at a path, as far as paths go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Nothing. The path goes on as if a folder will be made there: who wants it to be an error fails instead.
    Missing,
    /// A folder.
    Folder,
    /// Something that no path leads through.
    File,
    /// A symbolic link with its target as written.
    Link(PathBuf),
}

/// Where `..` at the root and absolute paths lead, as with the flags of `openat2(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// To the root, as if it were the root of the system (`RESOLVE_IN_ROOT`).
    InRoot,
    /// Nowhere: they are refused (`RESOLVE_BENEATH`).
    Beneath,
}

/// What becomes of a link that is a path's last part. With a slash behind it, it is followed always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// It is followed.
    Followed,
    /// The path ends at it (`O_NOFOLLOW`).
    Kept,
}

/// Why a path leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The link at this path would be one more than [`MAX_LINKS`] (`ELOOP`).
    #[error("it leads through more than {MAX_LINKS} links")]
    Loop,
    /// The path goes on behind something that is no folder (`ENOTDIR`).
    #[error("/{} is no folder", .0.display())]
    NotFolder(PathBuf),
    /// It leads out of the tree (`EXDEV`).
    #[error("the link {} leads outside, to {}", .link.display(), .target.display())]
    Outside {
        /// The link that was followed last; empty where the path itself leads out.
        link: PathBuf,
        /// Its target.
        target: PathBuf,
    },
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        let kind = match refused {
            Refused::NotFolder(_) => io::ErrorKind::NotADirectory,
            Refused::Loop | Refused::Outside { .. } => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, refused)
    }
}

/// A path on the way to where it leads.
#[derive(Debug)]
pub struct Walk {
    scope: Scope,
    last: Last,
    /// As far as it is known.
    path: PathBuf,
    /// The parts that are still to go, last first.
    rest: Vec<OsString>,
    links: usize,
    /// The link that was followed last, and its target.
    link: (PathBuf, PathBuf),
}

impl Walk {
    /// Returns a walk that begins at the root.
    pub fn new(path: &Path, scope: Scope, last: Last) -> Self {
        let rest = parts(path).collect();
        Self { scope, last, path: PathBuf::new(), rest, links: 0, link: Default::default() }
    }

    /// Returns the next path to look at, to be followed by [`Walk::answer`]; `None` at the end.
    ///
    /// # Errors
    /// Returns an error when the path leads out of its scope.
    pub fn ask(&mut self) -> Result<Option<&Path>, Refused> {
        while let Some(part) = self.rest.pop() {
            let is_inside = match part.to_str() {
                Some(".") => true,
                Some("..") => self.path.pop(),
                Some("/") => {
                    self.path = PathBuf::new();
                    false
                }
                _ => {
                    self.path.push(part);
                    return Ok(Some(&self.path));
                }
            };
            if !is_inside && self.scope == Scope::Beneath {
                let (link, target) = self.link.clone();
                return Err(Refused::Outside { link, target });
            }
        }
        Ok(None)
    }

    /// Takes what lies at the path that was asked for.
    ///
    /// # Errors
    /// Returns an error when it is one link too many, or the path goes on behind something that is no folder.
    pub fn answer(&mut self, entry: Entry) -> Result<(), Refused> {
        let is_last = self.rest.is_empty();
        match entry {
            Entry::Link(target) if !is_last || self.last == Last::Followed => {
                self.links += 1;
                if self.links > MAX_LINKS {
                    return Err(Refused::Loop);
                }
                self.rest.extend(parts(&target));
                self.link = (self.path.clone(), target);
                self.path.pop();
                Ok(())
            }
            Entry::File if !is_last => Err(Refused::NotFolder(self.path.clone())),
            Entry::Missing | Entry::Folder | Entry::File | Entry::Link(_) => Ok(()),
        }
    }

    /// Returns where the path leads, from the root: without links, but for a last one that is kept.
    pub fn end(self) -> PathBuf {
        self.path
    }
}

/// Follows the links on a path. The outer error is that of `lies_at`.
pub fn follow<E>(
    path: &Path,
    scope: Scope,
    last: Last,
    mut lies_at: impl FnMut(&Path) -> Result<Entry, E>,
) -> Result<Result<PathBuf, Refused>, E> {
    let mut walk = Walk::new(path, scope, last);
    loop {
        let entry = match walk.ask() {
            Ok(Some(at)) => lies_at(at)?,
            Ok(None) => return Ok(Ok(walk.end())),
            Err(refused) => return Ok(Err(refused)),
        };
        if let Err(refused) = walk.answer(entry) {
            return Ok(Err(refused));
        }
    }
}

/// The parts of a path, last first. A slash at its start is a part; one at its end is the part `.`, since only a folder
/// can be before it.
fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let is_folder = bytes.ends_with(b"/") || bytes.ends_with(b"/.");
    let all = path.components().rev().filter(|part| *part != Component::CurDir).map(Component::as_os_str);
    is_folder.then_some(OsStr::new(".")).into_iter().chain(all).map(OsStr::to_owned)
}
