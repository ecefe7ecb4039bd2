//! For tests: a tree of files in memory, with any mode, any kind of entry, and whatever git is to track.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use camino::{Utf8Path, Utf8PathBuf};

use super::{ContentHash, Hidden, Kind, Led, Source, clean, follow, leads_outside};

/// What the system says of a path that is not there.
const NOT_FOUND: i32 = 2;

/// The tree. Folders are made by what is put into them.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    entries: BTreeMap<Utf8PathBuf, (Kind, Vec<u8>)>,
    tracked: BTreeSet<Utf8PathBuf>,
}

impl Memory {
    /// A tree of files of mode 0644.
    pub(crate) fn of(files: &[(&str, &[u8])]) -> Self {
        let mut tree = Self::default();
        for (path, bytes) in files {
            tree.write(path, bytes);
        }
        tree
    }

    /// Makes a file of mode 0644.
    pub(crate) fn write(&mut self, path: &str, bytes: &[u8]) {
        self.put(path, Kind::File { mode: 0o644, size: bytes.len() as u64 });
        self.entries.get_mut(Utf8Path::new(path)).expect("it was just put there").1 = bytes.to_vec();
    }

    /// Makes a link.
    pub(crate) fn link(&mut self, target: &str, path: &str) {
        self.put(path, Kind::Symlink { target: target.to_owned() });
    }

    /// Puts anything there, and the folders above it.
    pub(crate) fn put(&mut self, path: &str, kind: Kind) {
        for folder in Utf8Path::new(path).ancestors().skip(1) {
            self.entries.entry(folder.to_owned()).or_insert((Kind::Dir { mode: 0o755 }, Vec::new()));
        }
        self.entries.insert(path.into(), (kind, Vec::new()));
    }

    /// Gives what is there another mode.
    pub(crate) fn set_mode(&mut self, path: &str, new: u32) {
        match &mut self.entries.get_mut(Utf8Path::new(path)).expect("there is something").0 {
            Kind::Dir { mode }
            | Kind::File { mode, .. }
            | Kind::Socket { mode }
            | Kind::Node { mode, .. } => {
                *mode = new;
            }
            Kind::Symlink { .. } => panic!("the mode of a link is none"),
        }
    }

    /// Lets git track files, and nothing else.
    pub(crate) fn track(&mut self, paths: &[&str]) {
        self.tracked = paths.iter().map(Into::into).collect();
    }

    fn entry(&self, path: &Utf8Path) -> io::Result<&(Kind, Vec<u8>)> {
        let found = clean(path.as_str()).and_then(|path| self.entries.get(&path));
        found.ok_or_else(|| io::Error::from_raw_os_error(NOT_FOUND))
    }
}

impl Source for Memory {
    fn read(&self, path: &Utf8Path) -> io::Result<Vec<u8>> {
        match follow(self, path)? {
            Led::To(end, Kind::File { .. }) => Ok(self.entry(&end)?.1.clone()),
            Led::To(..) => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file")),
            Led::Outside(link) => Err(leads_outside(&link)),
        }
    }

    fn kind(&self, path: &Utf8Path) -> io::Result<Kind> {
        Ok(self.entry(path)?.0.clone())
    }

    fn list(&self, path: &Utf8Path) -> io::Result<Vec<String>> {
        self.entry(path)?;
        let inside = self.entries.keys().filter(|entry| entry.parent() == Some(path));
        Ok(inside.filter_map(|entry| entry.file_name().map(str::to_owned)).collect())
    }

    fn is_tracked(&self, path: &Utf8Path) -> io::Result<bool> {
        Ok(self.tracked.iter().any(|tracked| tracked.starts_with(path)))
    }

    fn hash(&self, path: &Utf8Path) -> io::Result<ContentHash> {
        Ok(ContentHash::of(&self.entry(path)?.1))
    }

    fn find(&self, is_meant: &dyn Fn(&str) -> bool, hidden: Hidden) -> io::Result<Vec<Utf8PathBuf>> {
        let is_passed_over = |path: &Utf8Path| {
            path.components().any(|part| match hidden {
                Hidden::PassedOver => part.as_str().starts_with('.'),
                Hidden::Shown => [".git", ".imgforge"].contains(&part.as_str()),
            })
        };
        let files = self.entries.iter().filter(|(_, (kind, _))| !matches!(kind, Kind::Dir { .. }));
        let meant = files.filter(|(path, _)| path.file_name().is_some_and(is_meant) && !is_passed_over(path));
        Ok(meant.map(|(path, _)| path.clone()).collect())
    }

    fn disk_path(&self, _: &Utf8Path) -> Option<Utf8PathBuf> {
        None
    }
}
