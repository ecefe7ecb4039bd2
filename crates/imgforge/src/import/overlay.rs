//! A work tree with files that are not written yet, so that what an import makes can be read before it is there.

use std::collections::BTreeMap;
use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::source::{ContentHash, Hidden, Kind, Source};
use imgforge_worktree::WorkTree;

/// Files over a work tree.
pub(super) struct Overlay<'t> {
    pub(super) tree: &'t WorkTree,
    /// By path; their folders are there in the tree.
    pub(super) files: BTreeMap<Utf8PathBuf, String>,
}

impl Source for Overlay<'_> {
    fn read(&self, path: &Utf8Path) -> io::Result<Vec<u8>> {
        self.files.get(path).map_or_else(|| self.tree.read(path), |text| Ok(text.clone().into_bytes()))
    }

    fn kind(&self, path: &Utf8Path) -> io::Result<Kind> {
        match self.files.get(path) {
            Some(text) => Ok(Kind::File { mode: 0o644, size: text.len() as u64 }),
            None => self.tree.kind(path),
        }
    }

    fn list(&self, path: &Utf8Path) -> io::Result<Vec<String>> {
        let mut names = self.tree.list(path)?;
        let ours = self.files.keys().filter(|file| file.parent() == Some(path));
        names.extend(ours.filter_map(|file| file.file_name()).map(str::to_owned));
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    fn is_tracked(&self, path: &Utf8Path) -> io::Result<bool> {
        self.tree.is_tracked(path)
    }

    fn hash(&self, path: &Utf8Path) -> io::Result<ContentHash> {
        self.files.get(path).map_or_else(|| self.tree.hash(path), |text| Ok(ContentHash::of(text.as_bytes())))
    }

    fn find(&self, is_meant: &dyn Fn(&str) -> bool, hidden: Hidden) -> io::Result<Vec<Utf8PathBuf>> {
        let mut found = self.tree.find(is_meant, hidden)?;
        let is_shown = |path: &Utf8Path| {
            hidden == Hidden::Shown || !path.components().any(|c| c.as_str().starts_with('.'))
        };
        let ours = self.files.keys().filter(|path| path.file_name().is_some_and(is_meant) && is_shown(path));
        found.extend(ours.cloned());
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    fn disk_path(&self, path: &Utf8Path) -> Option<Utf8PathBuf> {
        if self.files.contains_key(path) { None } else { self.tree.disk_path(path) }
    }
}
