//! A workspace's files as they lie on the disk, as a [`Source`]: found, read, hashed, and remembered for the next run.

mod git_index;
pub mod manifests;
mod stat_cache;
mod tracked;

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::{Arc, Mutex, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::source::{ContentHash, Hidden, Kind, Led, Node, Source, follow, leads_outside};
use imgforge_state::{StateDir, file};

use self::stat_cache::StatCache;
use self::tracked::Tracked;

/// Folders that no search looks into: git's, and what imgforge remembers.
const OWN_FOLDERS: [&str; 2] = [".git", ".imgforge"];
/// The largest `.gitignore`; git reads none beyond 100 MB.
const MAX_IGNORE: u64 = 4 << 20;

/// The files as they lie in the workspace's folder.
#[derive(Debug)]
pub struct WorkTree {
    root: Utf8PathBuf,
    cache: Option<StatCache>,
    tracked: Tracked,
}

impl WorkTree {
    /// The tree below `root`; every file is read when it is hashed.
    pub fn uncached(root: &Utf8Path) -> Self {
        Self { root: root.to_owned(), cache: None, tracked: Tracked::of(root) }
    }

    /// What git has checked out of a commit below `root`, without a `.git` beside it; every file is read when it is
    /// hashed.
    pub fn checkout(root: &Utf8Path) -> Self {
        Self { root: root.to_owned(), cache: None, tracked: Tracked::all(root) }
    }

    /// The tree below `root`; a file whose size, times and inode are as `state` remembers is not read again.
    pub fn cached(root: &Utf8Path, state: &StateDir) -> Self {
        Self { root: root.to_owned(), cache: Some(StatCache::load(state)), tracked: Tracked::of(root) }
    }

    /// Keeps what was learned for the next run. A cache that cannot be written costs time, nothing else.
    pub fn save_cache(&self) {
        if let Some(cache) = &self.cache {
            cache.save();
        }
    }
}

impl Source for WorkTree {
    fn read(&self, path: &Utf8Path) -> io::Result<Vec<u8>> {
        let end = match follow(self, path)? {
            Led::To(end, _) => end,
            Led::Outside(link) => return Err(leads_outside(&link)),
        };
        file::read(&self.root.join(end), file::MAX_TEXT)
    }

    fn kind(&self, path: &Utf8Path) -> io::Result<Kind> {
        let full = self.root.join(path);
        let meta = fs::symlink_metadata(&full)?;
        let (kind, mode) = (meta.file_type(), meta.mode() & 0o7777);
        let device = || (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        Ok(if kind.is_dir() {
            Kind::Dir { mode }
        } else if kind.is_file() {
            Kind::File { mode, size: meta.len() }
        } else if kind.is_symlink() {
            Kind::Symlink { target: full.read_link_utf8()?.into_string() }
        } else if kind.is_socket() {
            Kind::Socket { mode }
        } else if kind.is_fifo() {
            Kind::Node { node: Node::Pipe, mode }
        } else if kind.is_block_device() {
            Kind::Node { node: Node::Block(device().0, device().1), mode }
        } else {
            Kind::Node { node: Node::Character(device().0, device().1), mode }
        })
    }

    fn is_tracked(&self, path: &Utf8Path) -> io::Result<bool> {
        self.tracked.holds(&self.root.join(path))
    }

    fn list(&self, path: &Utf8Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(path))? {
            let name = entry?.file_name();
            let text = name.to_str().ok_or_else(|| {
                let shown = name.to_string_lossy();
                io::Error::new(io::ErrorKind::InvalidData, format!("the file name {shown:?} is not UTF-8"))
            })?;
            names.push(text.to_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn hash(&self, path: &Utf8Path) -> io::Result<ContentHash> {
        let full = self.root.join(path);
        match &self.cache {
            Some(cache) => cache.hash(path, &full),
            None => hash_file(&full),
        }
    }

    fn find(&self, is_meant: &dyn Fn(&str) -> bool, hidden: Hidden) -> io::Result<Vec<Utf8PathBuf>> {
        let mut found = Vec::new();
        let refused = Arc::new(Mutex::new(None));
        let is_sound = {
            let refused = Arc::clone(&refused);
            move |entry: &ignore::DirEntry| {
                let is_folder = entry.file_type().is_some_and(|kind| kind.is_dir());
                if is_folder && entry.depth() > 0 && OWN_FOLDERS.iter().any(|own| entry.file_name() == *own) {
                    return false;
                }
                let checked = if is_folder { check_ignore_files(entry.path()) } else { Ok(()) };
                let is_sound = checked.is_ok();
                if let Err(error) = checked {
                    refused.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
                is_sound
            }
        };
        // Those of the folders above hold too.
        for folder in self.root.ancestors() {
            check_ignore_files(folder.as_std_path())?;
        }
        let mut walk = ignore::WalkBuilder::new(&self.root);
        let walk = walk.require_git(false).follow_links(false).hidden(hidden == Hidden::PassedOver);
        let walk = walk.filter_entry(is_sound).build();
        for entry in walk {
            let entry = entry.map_err(|error| walk_error(&error))?;
            if entry.file_name().to_str().is_some_and(is_meant)
                && entry.file_type().is_some_and(|kind| !kind.is_dir())
            {
                let path = entry.path().strip_prefix(&self.root).map_err(io::Error::other)?;
                let path = Utf8Path::from_path(path)
                    .ok_or_else(|| io::Error::other(format!("the path {} is not UTF-8", path.display())))?;
                found.push(path.to_owned());
            }
        }
        if let Some(error) = refused.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        found.sort_unstable();
        Ok(found)
    }

    fn disk_path(&self, path: &Utf8Path) -> Option<Utf8PathBuf> {
        Some(self.root.join(path))
    }
}

/// Whether the files that say what is ignored in a folder can be read to their ends: the walk reads them by itself
/// (gitignore(5); gitrepository-layout(5) for a `.git` that is a file).
fn check_ignore_files(folder: &std::path::Path) -> io::Result<()> {
    for name in [".gitignore", ".ignore"] {
        check_ignore_file(&folder.join(name))?;
    }
    let git = folder.join(".git");
    let Ok(found) = fs::metadata(&git) else { return Ok(()) };
    let common = if found.is_dir() {
        git
    } else {
        check_ignore_file(&git)?;
        let Some(repository) =
            first_line(&git).and_then(|line| Some(folder.join(line.strip_prefix("gitdir: ")?)))
        else {
            return Ok(());
        };
        let common = repository.join("commondir");
        check_ignore_file(&common)?;
        repository.join(first_line(&common).unwrap_or_default())
    };
    check_ignore_file(&common.join("info/exclude"))
}

fn check_ignore_file(path: &std::path::Path) -> io::Result<()> {
    let Ok(found) = fs::metadata(path) else { return Ok(()) };
    let message = if !found.is_file() {
        format!("{} is not a file", path.display())
    } else if found.len() > MAX_IGNORE {
        format!("{} is larger than {} MiB, the most that is read of it", path.display(), MAX_IGNORE >> 20)
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

fn first_line(path: &std::path::Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.lines().next()?.to_owned())
}

/// What kept a folder from being searched, with the path said once.
fn walk_error(error: &ignore::Error) -> io::Error {
    match (error, error.io_error()) {
        (ignore::Error::WithPath { path, .. }, Some(cause)) => {
            let why = io::Error::from(cause.kind());
            io::Error::new(
                cause.kind(),
                format!("{}: {why}; what git ignores is not searched", path.display()),
            )
        }
        _ => io::Error::other(error.to_string()),
    }
}

/// Reads the whole file.
pub(crate) fn hash_file(path: &Utf8Path) -> io::Result<ContentHash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs::File::open(path)?)?;
    Ok(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(dir.path().join("workspace")).unwrap();
        fs::create_dir(&root).unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        (dir, root)
    }

    fn link(target: &str, at: Utf8PathBuf) {
        std::os::unix::fs::symlink(target, at).unwrap();
    }

    #[test]
    fn links_are_followed_inside_the_workspace_and_not_out_of_it() {
        let (dir, root) = tree();
        let tree = WorkTree::uncached(&root);
        fs::create_dir_all(root.join("shared/deep")).unwrap();
        fs::write(root.join("shared/file"), "text").unwrap();
        link("shared", root.join("folder"));
        link("../folder/file", root.join("shared/inner"));
        assert_eq!(tree.read("shared/inner".into()).unwrap(), b"text");
        assert_eq!(tree.read("folder/deep/../file".into()).unwrap(), b"text");
        link("../secret", root.join("out"));
        link(dir.path().to_str().unwrap(), root.join("whole"));
        link("..", root.join("up"));
        link("shared/../../secret", root.join("around"));
        for path in ["out", "whole/secret", "up/secret", "around", "../secret"] {
            let refused = tree.read(path.into()).unwrap_err().to_string();
            assert!(refused.contains("out of the workspace"), "{path}: {refused}");
        }
        link("b", root.join("a"));
        link("a", root.join("b"));
        assert!(tree.read("a".into()).unwrap_err().to_string().contains("more than 40 links"));
        assert_eq!(tree.read("nothing".into()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_is_no_file_is_refused_instead_of_waited_for() {
        let (_dir, root) = tree();
        let made = std::process::Command::new("mkfifo").arg(root.join("pipe")).status().unwrap();
        assert!(made.success());
        let refused = WorkTree::uncached(&root).read("pipe".into()).unwrap_err();
        assert!(refused.to_string().contains("not a file"), "{refused}");
    }

    type Plant = fn(&Utf8Path);

    #[test]
    fn endless_files_of_what_is_ignored_end_the_search_with_an_error() {
        let plant: [(&str, Plant); 6] = [
            (".gitignore", |root| link("/dev/zero", root.join(".gitignore"))),
            ("sub/.ignore", |root| link("/dev/zero", root.join("sub/.ignore"))),
            (".git/info/exclude", |root| {
                fs::create_dir_all(root.join(".git/info")).unwrap();
                link("/dev/zero", root.join(".git/info/exclude"));
            }),
            (".git", |root| link("/dev/zero", root.join(".git"))),
            ("evil/commondir", |root| {
                fs::write(root.join(".git"), "gitdir: evil\n").unwrap();
                fs::create_dir(root.join("evil")).unwrap();
                link("/dev/zero", root.join("evil/commondir"));
            }),
            ("sub/.gitignore", |root| {
                fs::File::create(root.join("sub/.gitignore")).unwrap().set_len(MAX_IGNORE + 1).unwrap();
            }),
        ];
        for (name, plant) in plant {
            let (_dir, root) = tree();
            fs::create_dir(root.join("sub")).unwrap();
            plant(&root);
            let refused = WorkTree::uncached(&root)
                .find(&|name| name == "image.kdl", Hidden::PassedOver)
                .unwrap_err()
                .to_string();
            assert!(refused.contains(name), "{name}: {refused}");
        }
        let (dir, root) = tree();
        link("/dev/zero", Utf8PathBuf::from_path_buf(dir.path().join(".gitignore")).unwrap());
        assert!(
            WorkTree::uncached(&root).find(&|name| name == "image.kdl", Hidden::PassedOver).is_err(),
            "those above hold too"
        );
    }
}
