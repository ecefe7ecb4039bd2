//! Folders of imgforge's own: `.imgforge` in a workspace, and the store in it.
//!
//! A repository, an archive or a restored cache can have anything under these names: links that lead elsewhere, pipes,
//! files of other users. So nothing in them is opened, written or removed by a path that could lead out: each part of a
//! path is opened from the one before it, links are refused wherever they are, and whatever is used belongs to somebody
//! that this process trusts. Such a folder is open to nobody else (mode 0700): what lies in it can have setuid bits,
//! sockets of agents, and secrets' neighbours. Once a path below it has been checked, nobody else can change where it
//! leads, so that it may be used as a path too.

pub mod cache_file;
pub mod file;
mod key;
mod owners;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use camino::{Utf8Path, Utf8PathBuf};
pub use rustix::fs::OFlags;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, Stat, StatxFlags};
use rustix::io::Errno;

pub use self::key::{KEY_VARIABLE, Key, KeyError};
pub use self::owners::{ForeignWorkspace, Owners, SAFE_DIRECTORY};

/// The folder in a workspace.
pub const FOLDER: &str = ".imgforge";

/// Why something in such a folder is not used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A link.
    #[error("{path} is a symbolic link, and none is followed there")]
    Link {
        /// Where it is.
        path: Utf8PathBuf,
    },
    /// Something of another user's.
    #[error("{path} belongs to another user ({uid})")]
    Foreign {
        /// Where it is.
        path: Utf8PathBuf,
        /// The owner.
        uid: u32,
    },
    /// A pipe, a device, a folder where a file should be.
    #[error("{path} is not a {expected}")]
    Kind {
        /// Where it is.
        path: Utf8PathBuf,
        /// `folder` or `regular file`.
        expected: &'static str,
    },
    /// The system does not do it.
    #[error("{path}: {error}")]
    Io {
        /// Where.
        path: Utf8PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl StateError {
    /// What to remove; `None` when it is the system that refuses.
    pub fn in_the_way(&self) -> Option<&Utf8Path> {
        match self {
            Self::Link { path } | Self::Foreign { path, .. } | Self::Kind { path, .. } => Some(path),
            Self::Io { .. } => None,
        }
    }
}

impl From<StateError> for io::Error {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Io { error, .. } => error,
            other => Self::other(other.to_string()),
        }
    }
}

/// A file that only ever saves time, and is believed when this user has sealed it.
#[derive(Debug, Clone, Copy)]
pub struct Sealed {
    /// Its name below the folder.
    pub name: &'static str,
    /// The version of its form.
    pub version: u32,
}

/// A folder of imgforge's own. Nothing is made before it is needed.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: Utf8PathBuf,
    /// Where the walk by descriptor begins: the folder itself, or the one that it was taken from with
    /// [`StateDir::sub`].
    top: Utf8PathBuf,
    owners: Owners,
    key: Key,
}

impl StateDir {
    /// The one of the workspace at `root`.
    ///
    /// # Errors
    /// [`ForeignWorkspace`] when the workspace is another user's.
    pub fn of_workspace(root: &Utf8Path) -> Result<Self, ForeignWorkspace> {
        let owners = Owners::of_workspace(root)?;
        Ok(Self { owners, ..Self::at(&root.join(FOLDER)) })
    }

    /// The one at `path`, of this user.
    pub fn at(path: &Utf8Path) -> Self {
        Self { path: path.to_owned(), top: path.to_owned(), owners: Owners::of_process(), key: Key::user() }
    }

    /// The same, where another user's files are used too.
    #[must_use]
    pub fn and_of(mut self, uid: u32) -> Self {
        self.owners = self.owners.and(uid);
        self
    }

    /// The same, with another key.
    #[must_use]
    pub fn with_key(mut self, key: Key) -> Self {
        self.key = key;
        self
    }

    /// With what records in it are sealed.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Where it is.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Another one below it, with the same owners.
    #[must_use]
    pub fn sub(&self, name: &str) -> Self {
        Self { path: self.path.join(name), ..self.clone() }
    }

    /// Everything in the two upper levels that will be refused, so that it is told before anything is done.
    ///
    /// # Errors
    /// [`StateError::Io`] when it cannot be looked at.
    pub fn strange(&self) -> Result<Vec<StateError>, StateError> {
        let (mut found, mut folders) = (Vec::new(), vec![self.path.clone()]);
        match self.look(CWD, self.path.as_str(), &self.path) {
            Ok(_) => {}
            Err(StateError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(error @ StateError::Io { .. }) => return Err(error),
            Err(error) => return Ok(vec![error]),
        }
        for level in 0..2 {
            for path in std::mem::take(&mut folders) {
                // A file in place of a folder is nobody's door.
                let Ok(folder) = self.open_folder(CWD, path.as_str(), &path) else { continue };
                for name in names(&folder, &path)? {
                    let inner = path.join(&name);
                    match self.look(folder.as_fd(), &name, &inner) {
                        Ok(FileType::Directory) if level == 0 => folders.push(inner),
                        Ok(_) | Err(StateError::Io { .. }) => {}
                        Err(error) => found.push(error),
                    }
                }
            }
        }
        Ok(found)
    }

    /// The folder `name` (`a/b`) in it, which is made if it is not there; `""` is itself. Its path can be used from now
    /// on, as long as no link that lies in it is followed.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn folder(&self, name: &str) -> Result<Utf8PathBuf, StateError> {
        self.made(name).map(|(_, path)| path)
    }

    /// A regular file, opened as `flags` say; `None` when it is not there.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(&self, name: &str, flags: OFlags) -> Result<Option<File>, StateError> {
        let (folder, file) = split(name);
        let is_made = flags.contains(OFlags::CREATE);
        let opened = if is_made { self.made(folder).map(Some) } else { self.found(folder) };
        let Some((folder, path)) = opened? else { return Ok(None) };
        self.open_file(&folder, file, &path.join(file), flags)
    }

    /// What a file holds; `None` when it is not there.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let Some(mut file) = self.open(name, OFlags::RDONLY)? else { return Ok(None) };
        let bytes = file::rest(&mut file, file::MAX_STATE);
        bytes.map(Some).map_err(|error| io_error(&self.path.join(name), error))
    }

    /// Writes a new file and renames it over: a reader sees the old one or the new one, whole.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let (folder, file) = split(name);
        let (folder, path) = self.made(folder)?;
        let path = path.join(file);
        let new = format!(".{file}.{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let written = rustix::fs::openat(&folder, &new, flags, PRIVATE_FILE)
            .map_err(io::Error::from)
            .and_then(|fd| File::from(fd).write_all(bytes))
            .and_then(|()| Ok(rustix::fs::renameat(&folder, &new, &folder, file)?));
        if written.is_err() {
            let _ = rustix::fs::unlinkat(&folder, &new, AtFlags::empty());
        }
        written.map_err(|error| io_error(&path, error))
    }

    /// What a file holds that [`Self::replace_sealed`] has written; `None` when it is not there, or of another
    /// version or another user, or not whole.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn read_sealed(&self, file: &Sealed) -> Result<Option<Vec<u8>>, StateError> {
        let Some(mut bytes) = self.read(file.name)? else { return Ok(None) };
        let Some((seal, body)) = bytes.split_first_chunk::<{ blake3::OUT_LEN }>() else { return Ok(None) };
        let parts = [&file.version.to_le_bytes()[..], body];
        if !self.key.has_sealed(file.name, &parts, blake3::Hash::from_bytes(*seal)) {
            return Ok(None);
        }
        bytes.drain(..blake3::OUT_LEN);
        Ok(Some(bytes))
    }

    /// Writes a file that [`Self::read_sealed`] believes.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn replace_sealed(&self, file: &Sealed, body: &[u8]) -> Result<(), KeyError> {
        let seal = self.key.seal(file.name, &[&file.version.to_le_bytes(), body])?;
        self.replace(file.name, &[seal.as_bytes(), body].concat())?;
        Ok(())
    }

    /// The lines of a file that this user has sealed there, in order; a line that is not whole is none.
    pub fn sealed_lines(&self, name: &str) -> Result<Vec<String>, StateError> {
        let bytes = self.read(name)?.unwrap_or_default();
        let own = |line: &str| {
            let (seal, text) = line.split_once(' ')?;
            let seal = blake3::Hash::from_hex(seal).ok()?;
            self.key.has_sealed(name, &[text.as_bytes()], seal).then(|| text.to_owned())
        };
        Ok(String::from_utf8_lossy(&bytes).lines().filter_map(own).collect())
    }

    /// Writes a line at the end of a file that [`Self::sealed_lines`] reads.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn append_sealed(&self, name: &str, text: &str) -> Result<(), KeyError> {
        Ok(self.append_line(name, &self.sealed_line(name, text)?)?)
    }

    /// Writes such a file anew.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn replace_sealed_lines<'t>(
        &self,
        name: &str,
        texts: impl IntoIterator<Item = &'t str>,
    ) -> Result<(), KeyError> {
        let line = |text| Ok(self.sealed_line(name, text)? + "\n");
        let lines: Result<String, KeyError> = texts.into_iter().map(line).collect();
        Ok(self.replace(name, lines?.as_bytes())?)
    }

    fn sealed_line(&self, name: &str, text: &str) -> Result<String, KeyError> {
        Ok(format!("{} {text}", self.key.seal(name, &[text.as_bytes()])?))
    }

    /// Writes a line at the end of a file, at once. It begins with an end of line, so that it is whole also behind
    /// one that a killed process or a full disk has cut; readers pass over the lines that are empty.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn append_line(&self, name: &str, line: &str) -> Result<(), StateError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND;
        let file = self.open(name, flags)?;
        // Always: whether the last line has an end may have changed once it was looked at.
        let line = format!("\n{line}\n");
        let written = file.map_or(Ok(()), |mut file| file.write_all(line.as_bytes()));
        written.map_err(|error| io_error(&self.path.join(name), error))
    }

    /// Removes a file. One that is not there is no error.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        let (folder, file) = split(name);
        let Some((folder, path)) = self.found(folder)? else { return Ok(()) };
        match rustix::fs::unlinkat(&folder, file, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(io_error(&path.join(file), error.into())),
        }
    }

    /// A folder that is there, opened.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn opened(&self, folder: &str) -> Result<Option<OwnedFd>, StateError> {
        Ok(self.found(folder)?.map(|(fd, _)| fd))
    }

    /// What is in a folder, sorted; nothing when there is no such folder.
    ///
    /// # Errors
    /// [`StateError`]; a name that is not UTF-8.
    pub fn names(&self, folder: &str) -> Result<Vec<String>, StateError> {
        self.found(folder)?.map_or(Ok(Vec::new()), |(fd, path)| names(&fd, &path))
    }

    /// A folder of it, opened and with its path.
    fn found(&self, name: &str) -> Result<Option<(OwnedFd, Utf8PathBuf)>, StateError> {
        let mut path = self.top.clone();
        let walk = || {
            let mut folder = self.open_folder(CWD, path.as_str(), &path)?;
            self.close_to_others(&folder)?;
            for part in self.below_top() {
                path.push(part);
                folder = self.open_folder(folder.as_fd(), part, &path)?;
                self.close_to_others(&folder)?;
            }
            for part in parts(name) {
                path.push(part);
                folder = self.open_folder(folder.as_fd(), part, &path)?;
            }
            Ok((folder, path))
        };
        match walk() {
            Ok(found) => Ok(Some(found)),
            Err(StateError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same; what is not there is made.
    fn made(&self, name: &str) -> Result<(OwnedFd, Utf8PathBuf), StateError> {
        let mut path = self.top.clone();
        let is_new = self.top.file_name() == Some(FOLDER) && self.top.symlink_metadata().is_err();
        let mut folder = self.made_in(CWD, path.as_str(), &path)?;
        self.close_to_others(&folder)?;
        if is_new {
            // So that nobody commits it by mistake, which would have it refused.
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let ignored = self.open_file(&folder, ".gitignore", &path, flags).ok().flatten();
            let _ = ignored.map(|mut file| file.write_all(b"*\n"));
        }
        for part in self.below_top() {
            path.push(part);
            folder = self.made_in(folder.as_fd(), part, &path)?;
            self.close_to_others(&folder)?;
        }
        for part in parts(name) {
            path.push(part);
            folder = self.made_in(folder.as_fd(), part, &path)?;
        }
        Ok((folder, path))
    }

    /// The names on the way from the top to this folder.
    fn below_top(&self) -> impl Iterator<Item = &str> {
        parts(self.path.strip_prefix(&self.top).map_or("", Utf8Path::as_str))
    }

    fn made_in(&self, parent: impl AsFd + Copy, name: &str, path: &Utf8Path) -> Result<OwnedFd, StateError> {
        match self.open_folder(parent, name, path) {
            Err(StateError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            // Another process may have been quicker.
            Ok(()) | Err(Errno::EXIST) => self.open_folder(parent, name, path),
            Err(error) => Err(io_error(path, error.into())),
        }
    }

    /// An earlier version made it as the umask said. One that lies where nothing can be written, or whose owner this
    /// user has named as one to be trusted, stays as it is.
    fn close_to_others(&self, folder: &OwnedFd) -> Result<(), StateError> {
        let stat = rustix::fs::fstat(folder).map_err(|error| io_error(&self.path, error.into()))?;
        if Mode::from_raw_mode(stat.st_mode).intersects(Mode::RWXG | Mode::RWXO) {
            match rustix::fs::fchmod(folder, Mode::RWXU) {
                Ok(()) | Err(Errno::PERM | Errno::ROFS) => {}
                Err(error) => return Err(io_error(&self.path, error.into())),
            }
        }
        Ok(())
    }

    fn open_folder(&self, parent: impl AsFd, name: &str, path: &Utf8Path) -> Result<OwnedFd, StateError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&parent, name, flags, Mode::empty()) {
            Ok(folder) => {
                let stat = rustix::fs::fstat(&folder).map_err(|error| io_error(path, error.into()))?;
                self.check_owner(&stat, path)?;
                Ok(folder)
            }
            Err(Errno::LOOP | Errno::NOTDIR) => {
                self.look(&parent, name, path)?;
                Err(StateError::Kind { path: path.to_owned(), expected: "folder" })
            }
            Err(error) => Err(io_error(path, error.into())),
        }
    }

    fn open_file(
        &self,
        folder: &OwnedFd,
        name: &str,
        path: &Utf8Path,
        flags: OFlags,
    ) -> Result<Option<File>, StateError> {
        // Opening a named pipe would wait for ever.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(folder, name, flags, PRIVATE_FILE) {
            Ok(file) => {
                let stat = rustix::fs::fstat(&file).map_err(|error| io_error(path, error.into()))?;
                self.check_owner(&stat, path)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(StateError::Kind { path: path.to_owned(), expected: "regular file" });
                }
                Ok(Some(File::from(file)))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP) => Err(StateError::Link { path: path.to_owned() }),
            Err(Errno::ISDIR | Errno::NXIO) => {
                Err(StateError::Kind { path: path.to_owned(), expected: "regular file" })
            }
            Err(error) => Err(io_error(path, error.into())),
        }
    }

    /// What something is; an error when it is a link or somebody else's.
    fn look(&self, parent: impl AsFd, name: &str, path: &Utf8Path) -> Result<FileType, StateError> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|error| io_error(path, error.into()))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Symlink {
            return Err(StateError::Link { path: path.to_owned() });
        }
        self.check_owner(&stat, path)?;
        Ok(kind)
    }

    fn check_owner(&self, stat: &Stat, path: &Utf8Path) -> Result<(), StateError> {
        if self.owners.contains(stat.st_uid) {
            return Ok(());
        }
        Err(StateError::Foreign { path: path.to_owned(), uid: stat.st_uid })
    }
}

/// By what a folder is told from any copy of it: its inode, and when it was made, which no program can set. Files
/// that have no digest are believed only in the folder that this user has made.
///
/// # Errors
/// Those of the system.
pub fn identity(folder: impl AsFd) -> io::Result<[u8; 20]> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let found = rustix::fs::statx(folder, "", AtFlags::EMPTY_PATH, wanted)?;
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&found.stx_ino.to_le_bytes());
    // Not every file system knows it.
    if StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME) {
        bytes[8..16].copy_from_slice(&found.stx_btime.tv_sec.to_le_bytes());
        bytes[16..].copy_from_slice(&found.stx_btime.tv_nsec.to_le_bytes());
    }
    Ok(bytes)
}

/// The mode of files.
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// For names of files that are not whole yet.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The parts of a path below such a folder, which are names of this program's.
fn parts(name: &str) -> impl Iterator<Item = &str> {
    debug_assert!(name.split('/').all(|part| part != ".." && part != "."), "{name}");
    name.split('/').filter(|part| !part.is_empty())
}

/// The folder and the file of a path.
fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

fn names(folder: &OwnedFd, path: &Utf8Path) -> Result<Vec<String>, StateError> {
    let list = || {
        let mut names = Vec::new();
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_str().map_err(|_| io::ErrorKind::InvalidFilename)?;
            if !matches!(name, "." | "..") {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    };
    list().map_err(|error| io_error(path, error))
}

fn io_error(path: &Utf8Path, error: io::Error) -> StateError {
    StateError::Io { path: path.to_owned(), error }
}
