//! The paths that a git index holds: what git tracks in a work tree.
//!
//! Read here and not by the `git` program, which may not be there, and which refuses a work tree of another user:
//! what is built must not hang on either. Only paths are of interest. The form is that of git's `gitformat-index(5)`,
//! versions 2 to 4, with SHA-1 or SHA-256, whole or split.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_state::{Owners, file};

/// The longest path that Linux takes (`PATH_MAX`). An entry of version 4 repeats the one before it in a few bytes, so
/// that a small file could stand for any number of long ones.
const LONGEST: usize = 4096;

/// The most that all paths of an index come to, in bytes.
const ALL_PATHS: usize = 1 << 30;

/// The most that is read of an index: some ten million files.
const MAX: u64 = 1 << 30;

/// Set in the flags of an entry that has two more bytes of them.
const EXTENDED: u16 = 0x4000;

/// Bytes of an entry before its object's name: times, device, inode, mode, owner, size.
const STAT: usize = 40;

/// Mode of an entry that stands for all below a folder (a sparse index).
const FOLDER: u32 = 0o040_000;

/// Paths, sorted bytewise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Index(Vec<Vec<u8>>);

impl Index {
    /// Reads the index of a git folder; empty when there is none.
    ///
    /// # Errors
    /// One that cannot be read, or is of a form that is not known here.
    pub(crate) fn read(git: &Utf8Path) -> io::Result<Self> {
        let path = git.join("index");
        let bytes = match file::read(&path, MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(at(&path, &error)),
            Ok(bytes) => bytes,
        };
        let parsed = parse(&bytes).ok_or_else(|| unknown(&path))?;
        let mut paths = parsed.paths;
        if let Some(base) = parsed.base {
            let path = git.join(format!("sharedindex.{}", base.id));
            let bytes = file::read(&path, MAX).map_err(|error| at(&path, &error))?;
            let other = parse(&bytes).ok_or_else(|| unknown(&path))?.paths;
            let is_kept = |(at, _): &(usize, Vec<u8>)| !base.deleted.contains(at);
            paths.extend(other.into_iter().enumerate().filter(is_kept).map(|(_, path)| path));
        }
        paths.sort_unstable();
        Ok(Self(paths))
    }

    /// Whether git tracks this path, or something below it.
    pub(crate) fn holds(&self, path: &str) -> bool {
        let path = path.as_bytes();
        if self.0.binary_search_by(|known| known.as_slice().cmp(path)).is_ok() {
            return true;
        }
        let folder = [path, b"/"].concat();
        let next = self.0.partition_point(|known| *known < folder);
        self.0.get(next).is_some_and(|known| known.starts_with(&folder))
    }
}

fn at(path: &Utf8Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

fn unknown(path: &Utf8Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{path} is no git index of a version that is known here (2 to 4)"),
    )
}

/// The folder that git keeps its own files of a work tree in, if the work tree begins at `folder`. What somebody else
/// has put into a folder above a workspace is none.
///
/// # Errors
/// A `.git` that cannot be read.
pub(crate) fn git_folder(folder: &Utf8Path, owners: &Owners) -> io::Result<Option<Utf8PathBuf>> {
    let git = folder.join(".git");
    let meta = match std::fs::metadata(&git) {
        Ok(meta) => meta,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(at(&git, &error)),
    };
    if !owners.contains(meta.uid()) {
        return Ok(None);
    }
    if meta.is_dir() {
        // Git takes one without a HEAD for none.
        return Ok(git.join("HEAD").symlink_metadata().is_ok().then_some(git));
    }
    if !meta.is_file() {
        return Ok(None);
    }
    // Of a submodule, and of `git worktree add`.
    let text = file::read_text(&git, file::MAX_TEXT).map_err(|error| at(&git, &error))?;
    Ok(text.strip_prefix("gitdir: ").map(|to| folder.join(to.trim_end_matches(['\r', '\n']))))
}

/// What an index file holds.
struct Parsed {
    paths: Vec<Vec<u8>>,
    base: Option<Base>,
}

/// The other part of a split index.
struct Base {
    /// The hash of its file, in hex.
    id: String,
    /// Positions of its entries that are no longer there.
    deleted: BTreeSet<usize>,
}

/// Reads an index; its own hash at its end tells how long hashes are.
fn parse(bytes: &[u8]) -> Option<Parsed> {
    [20, 32].into_iter().find_map(|hash| parse_with(bytes, hash))
}

fn parse_with(bytes: &[u8], hash: usize) -> Option<Parsed> {
    let body = bytes.len().checked_sub(hash).and_then(|len| bytes.get(..len))?;
    let mut rest = Rest(body);
    if rest.take(4)? != b"DIRC" {
        return None;
    }
    let version = rest.number()?;
    let count = rest.number()?;
    if !(2..=4).contains(&version) {
        return None;
    }
    let mut paths: Vec<Vec<u8>> = Vec::new();
    let (mut last, mut all) = (Vec::new(), 0);
    for _ in 0..count {
        last = rest.entry(version, hash, &last)?;
        all += last.len();
        if last.len() > LONGEST || all > ALL_PATHS {
            return None;
        }
        // The entries of a split index that change others have no path.
        if !last.is_empty() {
            paths.push(last.clone());
        }
    }
    let mut base = None;
    while !rest.0.is_empty() {
        let name = rest.take(4)?;
        let len = usize::try_from(rest.number()?).ok()?;
        let content = rest.take(len)?;
        if name == b"link" {
            let (id, bitmaps) = content.split_at_checked(hash)?;
            if id.iter().any(|byte| *byte != 0) {
                let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
                base = Some(Base { id, deleted: Rest(bitmaps).bitmap()? });
            }
        }
    }
    Some(Parsed { paths, base })
}

/// What is not yet read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// What comes before the next zero, which is taken too.
    fn text(&mut self) -> Option<&'a [u8]> {
        let len = self.0.iter().position(|byte| *byte == 0)?;
        let text = self.take(len)?;
        self.take(1)?;
        Some(text)
    }

    fn entry(&mut self, version: u32, hash: usize, last: &[u8]) -> Option<Vec<u8>> {
        let before = self.0.len();
        let stat = self.take(STAT)?;
        let mode = u32::from_be_bytes(stat.get(24..28)?.try_into().ok()?);
        self.take(hash)?;
        let flags = u16::from_be_bytes(self.take(2)?.try_into().ok()?);
        if flags & EXTENDED != 0 {
            self.take(2)?;
        }
        let mut bytes = if version == 4 {
            let cut = self.varint()?;
            let mut path = last.get(..last.len().checked_sub(cut)?)?.to_vec();
            path.extend_from_slice(self.text()?);
            path
        } else {
            let path = self.text()?.to_vec();
            // Entries are padded with up to 8 zeros to whole eights; one was taken.
            let taken = before - self.0.len();
            self.take(taken.next_multiple_of(8) - taken)?;
            path
        };
        if mode & 0o170_000 == FOLDER && bytes.last() == Some(&b'/') {
            bytes.pop();
        }
        Some(bytes)
    }

    /// The positions of the bits that are set in a compressed bitmap (EWAH, gitformat-bitmap(5)).
    fn bitmap(&mut self) -> Option<BTreeSet<usize>> {
        let bits = usize::try_from(self.number()?).ok()?;
        let words = usize::try_from(self.number()?).ok()?;
        let mut words = self
            .take(words.checked_mul(8)?)?
            .chunks_exact(8)
            .map(|word| u64::from_be_bytes(word.try_into().expect("eight bytes")));
        let (mut found, mut at) = (BTreeSet::new(), 0_usize);
        while let Some(run) = words.next() {
            let equal = usize::try_from((run >> 1) & 0xffff_ffff).ok()?.checked_mul(64)?;
            let end = at.checked_add(equal)?;
            if run & 1 == 1 {
                found.extend(at..end.min(bits));
            }
            at = end;
            for _ in 0..run >> 33 {
                let word = words.next()?;
                found.extend((0..64).filter(|bit| word >> bit & 1 == 1).map(|bit| at + bit));
                at += 64;
            }
            if at > bits.checked_add(64)? {
                return None;
            }
        }
        Some(found)
    }

    /// A number as in the offsets of packs: seven bits a byte, most significant first, each further byte counting one
    /// more.
    fn varint(&mut self) -> Option<usize> {
        let mut value = 0usize;
        loop {
            let byte = *self.take(1)?.first()?;
            value = value.checked_mul(128)?.checked_add(usize::from(byte & 0x7f))?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
            value = value.checked_add(1)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// What git says itself of a repository made with `config`.
    fn of_git(config: &[&str], init: &[&str]) -> (Index, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        let git = |arguments: &[&str]| {
            let mut command = Command::new("git");
            command.current_dir(root).args(arguments).env("GIT_CONFIG_GLOBAL", "/dev/null");
            let output = command.output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        };
        git(&[&["init", "--quiet"], init].concat());
        for pair in config {
            let (key, value) = pair.split_once('=').unwrap();
            git(&["config", key, value]);
        }
        let long = format!("{}/{}", "d".repeat(200), "f".repeat(250));
        for path in ["a", "a b", "d/e/f", "d/e.txt", "d/ü", "later", &long] {
            let full = root.join(path);
            std::fs::create_dir_all(full.parent().unwrap()).unwrap();
            std::fs::write(full, path).unwrap();
            git(&["add", path]);
        }
        std::fs::write(root.join("untracked"), "").unwrap();
        std::fs::write(root.join("intended"), "").unwrap();
        git(&["add", "--intent-to-add", "intended"]);
        git(&["rm", "--quiet", "--cached", "later", "d/e.txt"]);
        let index = Index::read(&git_folder(root, &Owners::of_process()).unwrap().unwrap()).unwrap();
        (index, git(&["ls-files", "-z"]))
    }

    #[test]
    fn every_form_of_an_index_gives_the_paths_that_git_tells() {
        for (config, init) in [
            (&[][..], &[][..]),
            (&["index.version=3"], &[]),
            (&["index.version=4"], &[]),
            (&["index.version=4"], &["--object-format=sha256"]),
            (&[], &["--object-format=sha256"]),
            (&["core.splitIndex=true", "splitIndex.maxPercentChange=100"], &[]),
        ] {
            let (index, told) = of_git(config, init);
            let told: Vec<&[u8]> = told.split(|byte| *byte == 0).filter(|path| !path.is_empty()).collect();
            assert_eq!(index.0, told, "{config:?} {init:?}");
            for path in ["a", "d", "d/e", "d/e/f", "d/ü", "intended"] {
                assert!(index.holds(path), "{config:?} {path}");
            }
            for path in ["untracked", "d/e/", "", "d/e/f/g", "a ", "b"] {
                assert!(!index.holds(path), "{config:?} {path}");
            }
        }
    }

    #[test]
    fn a_small_index_of_long_paths_that_repeat_is_refused() {
        let head = b"DIRC\0\0\0\x04\0\0\0\x02".to_vec();
        let entry = |cut: u8, path: &[u8]| [&[0; STAT + 20 + 2][..], &[cut], path, &[0]].concat();
        let of =
            |long: usize| [head.clone(), entry(0, &vec![b'a'; long]), entry(0, b"b"), vec![0; 20]].concat();
        assert!(parse(&of(LONGEST - 1)).is_some());
        assert!(parse(&of(LONGEST)).is_none());
    }

    #[test]
    fn a_repository_of_another_user_above_a_workspace_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        std::fs::create_dir(root.join(".git")).unwrap();
        std::fs::write(root.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
        let own = rustix::process::geteuid().as_raw();
        assert!(git_folder(root, &Owners::of_process()).unwrap().is_some());
        assert_eq!(git_folder(root, &Owners::only(own + 1)).unwrap(), None);
    }

    #[test]
    fn a_folder_without_git_tracks_nothing_and_a_broken_index_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        assert_eq!(git_folder(root, &Owners::of_process()).unwrap(), None);
        let git = root.join(".git");
        std::fs::create_dir(&git).unwrap();
        assert_eq!(git_folder(root, &Owners::of_process()).unwrap(), None);
        std::fs::write(git.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        assert_eq!(
            Index::read(&git_folder(root, &Owners::of_process()).unwrap().unwrap()).unwrap(),
            Index::default()
        );
        std::fs::write(git.join("index"), "DIRC\0\0\0\x09").unwrap();
        let error = Index::read(&git).unwrap_err().to_string();
        assert!(error.contains(".git/index is no git index"), "{error}");
    }

    proptest! {
        #[test]
        fn whatever_an_index_says_is_read_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            version in 2_u8..5,
        ) {
            let head = [b"DIRC\0\0\0".as_slice(), &[version, 0, 0, 0, 3]].concat();
            let _ = parse(&[head, bytes.clone()].concat());
            let _ = parse(&bytes);
        }
    }
}
