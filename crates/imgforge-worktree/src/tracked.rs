//! What git tracks in a work tree, by the repositories that its folders lie in.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, PoisonError, RwLock};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_state::Owners;

use crate::git_index::{Index, git_folder};

/// A work tree: where it begins, and what git tracks in it.
#[derive(Debug)]
struct Repository {
    top: Utf8PathBuf,
    index: Index,
}

/// What git tracks, by the repositories that folders lie in; each index is read once.
#[derive(Debug)]
pub(crate) struct Tracked {
    /// Whose repositories count.
    owners: Owners,
    /// By absolute folder.
    known: RwLock<HashMap<Utf8PathBuf, Option<Arc<Repository>>>>,
    /// Whether everything is said to be tracked.
    all: bool,
}

impl Tracked {
    /// For the workspace at `root`: its repository is this user's, root's, or that of the workspace's owner, since
    /// what is built must not hang on who builds it.
    pub(crate) fn of(root: &Utf8Path) -> Self {
        let owner = root.metadata().map_or(0, |metadata| metadata.uid());
        Self { owners: Owners::of_process().and(0).and(owner), known: RwLock::default(), all: false }
    }

    /// For a folder that has only what git tracks.
    pub(crate) fn all(root: &Utf8Path) -> Self {
        Self { all: true, ..Self::of(root) }
    }

    /// Whether git tracks an absolute path, or something in the folder that it is.
    ///
    /// # Errors
    /// An index that cannot be read.
    pub(crate) fn holds(&self, path: &Utf8Path) -> io::Result<bool> {
        if self.all {
            return Ok(true);
        }
        let Some(folder) = path.parent() else { return Ok(false) };
        let Some(repository) = self.repository(folder)? else { return Ok(false) };
        Ok(path.strip_prefix(&repository.top).is_ok_and(|below| repository.index.holds(below.as_str())))
    }

    /// The repository that a folder lies in. A submodule is one of its own.
    fn repository(&self, folder: &Utf8Path) -> io::Result<Option<Arc<Repository>>> {
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(folder) {
            return Ok(known.clone());
        }
        // Held while an index is read, so that each is read once.
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        let mut passed = Vec::new();
        for above in folder.ancestors() {
            if let Some(known) = known.get(above) {
                found.clone_from(known);
                break;
            }
            passed.push(above.to_owned());
            if let Some(git) = git_folder(above, &self.owners)? {
                found = Some(Arc::new(Repository { top: above.to_owned(), index: Index::read(&git)? }));
                break;
            }
        }
        known.extend(passed.into_iter().map(|folder| (folder, found.clone())));
        Ok(found)
    }
}
