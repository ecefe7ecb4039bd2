//! A layer's blob becomes a folder that overlay mounts.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::links::{self, Last, Scope, Walk};
use imgforge_oci::Digest;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use tar::EntryType;

use super::decode::{Decoded, TooLarge};
use super::reader::{Entry, Tar};
use super::stack::{Found, Stack, open_folder};
use super::{LayerError, OPAQUE, OVERLAY_OPAQUE, PATH_MAX, WHITEOUT, is_whiteout, shown};
use crate::node::{BENEATH, Meta, Refused, attributes, create, link_target, open_folder_at, remove, times};

/// Begins the names that AUFS used for itself: no files.
const AUFS: &[u8] = b".wh..wh.";

/// A layer that was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// The digest of the tar.
    pub diff_id: Digest,
    /// The tar's size in bytes.
    pub size: u64,
    /// Paths of devices that this process may not make: they are left out, as other engines do without privileges.
    pub left_out: Vec<String>,
}

/// [`unpack_within`] what the disk has free: a small blob may say that it is much larger.
pub fn unpack(blob: &Utf8Path, stack: &[Utf8PathBuf], folder: &Utf8Path) -> Result<Unpacked, LayerError> {
    let parent = folder.parent().filter(|parent| !parent.as_str().is_empty()).unwrap_or(Utf8Path::new("."));
    let free = free(parent).map_err(|error| LayerError::Io { path: parent.to_string(), error })?;
    match unpack_within(blob, stack, folder, free) {
        Err(LayerError::TooLarge { .. }) => Err(LayerError::NoRoom { free }),
        unpacked => unpacked,
    }
}

/// Returns the number of bytes that the disk of a folder has for this user.
pub(crate) fn free(folder: &Utf8Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder.as_std_path())?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Unpacks a layer (tar, gzip or zstd, as its first bytes tell) that anyone may have made into a folder that is not
/// there yet, in the form that overlay mounts with the option `userxattr`.
///
/// - Folders that the tar has things in but does not mention are those of `stack`, the layers below (lowest first);
///   where there are none, 0755, root's, of 1970. The same goes for the folder itself.
/// - Links in the path of an entry are followed, those of the stack too, and never lead out of the folder. `..` in the
///   name of an entry is an error.
/// - An entry of the same name as one before takes its place; only a folder stays, with what is in it. A whiteout hides
///   nothing of its own layer, whatever the order.
/// - A hard link to a file of the stack brings that file with it, as overlay does.
/// - Of extended attributes, `user.*` and `security.capability` are kept, overlay's own never.
///
/// When there is more than `limit` bytes of tar, which is told before they are written, or the disk is full, or
/// anything else is wrong, nothing stays.
pub fn unpack_within(
    blob: &Utf8Path,
    stack: &[Utf8PathBuf],
    folder: &Utf8Path,
    limit: u64,
) -> Result<Unpacked, LayerError> {
    let io = |path: &Utf8Path| {
        let path = path.to_string();
        move |error: io::Error| LayerError::Io { path, error }
    };
    let file = File::open(blob).map_err(io(blob))?;
    let stack = Stack::open(stack).map_err(io(folder))?;
    std::fs::create_dir(folder).map_err(io(folder))?;
    let unpacked = open_folder(folder.as_std_path()).map_err(io(folder)).and_then(|root| {
        let input = Decoded::open(file, limit).map_err(io(blob))?;
        let unpack = Unpack {
            root,
            stack,
            opaque: HashSet::new(),
            times: BTreeMap::new(),
            last: None,
            left_out: Vec::new(),
            left: limit,
            buffer: vec![0; 1 << 17],
        };
        unpack.all(input, limit)
    });
    if unpacked.is_err() {
        let path = folder.as_std_path();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        open_folder(parent)
            .and_then(|parent| remove(parent.as_fd(), path.file_name().unwrap_or_default()))
            .map_err(io(folder))?;
    }
    unpacked
}

struct Unpack {
    root: OwnedFd,
    stack: Stack,
    /// Folders of this layer that hide the stack's.
    opaque: HashSet<PathBuf>,
    /// Times of folders: they are set last.
    times: BTreeMap<PathBuf, (i64, i64)>,
    /// The folder of the entry before: most entries are in the same.
    last: Option<(Vec<u8>, Folder)>,
    left_out: Vec<String>,
    /// The number of bytes that files may have from here on.
    left: u64,
    buffer: Vec<u8>,
}

/// A folder of the layer.
struct Folder {
    fd: OwnedFd,
    /// Its path without links.
    path: PathBuf,
}

/// What one part of a path leads to.
enum Step {
    Into(Folder),
    Link(PathBuf),
}

/// The fault of an entry.
enum Wrong {
    Io(io::Error),
    Path(&'static str),
    Owner(u32, u32),
    /// It says that it is larger than it may be.
    TooLarge,
    /// The tar itself.
    Tar(io::Error),
}

impl From<io::Error> for Wrong {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for Wrong {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl From<links::Refused> for Wrong {
    fn from(refused: links::Refused) -> Self {
        match refused {
            links::Refused::Loop => Self::Path("its path leads through too many links"),
            links::Refused::NotFolder(_) => Self::Path("it is in what is no folder"),
            links::Refused::Outside { .. } => Self::Path("its path leads outside"),
        }
    }
}

impl From<Refused> for Wrong {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Owner(uid, gid) => Self::Owner(uid, gid),
            Refused::Io(error) => Self::Io(error),
        }
    }
}

impl Unpack {
    fn all(mut self, input: Decoded, limit: u64) -> Result<Unpacked, LayerError> {
        let tar_error = |error: io::Error| {
            if matches!(error.get_ref(), Some(inner) if inner.is::<TooLarge>()) {
                return LayerError::TooLarge { limit };
            }
            LayerError::Tar(error)
        };
        let named = |path: &[u8], wrong: Wrong| match wrong {
            Wrong::Io(error) => LayerError::Io { path: shown(path), error },
            Wrong::Path(why) => LayerError::Path { path: shown(path), why },
            Wrong::Owner(uid, gid) => LayerError::Owner { path: shown(path), uid, gid },
            Wrong::TooLarge => LayerError::TooLarge { limit },
            Wrong::Tar(error) => tar_error(error),
        };
        let mut tar = Tar::new(input);
        self.make_root().map_err(|wrong| named(b"/", wrong))?;
        while let Some(entry) = tar.next().map_err(tar_error)? {
            self.entry(&entry, &mut tar).map_err(|wrong| named(&entry.path, wrong))?;
        }
        for (path, time) in self.times.iter().rev() {
            let set = match open_folder_at(&self.root, path) {
                Ok(folder) => rustix::fs::futimens(&folder, &times(*time)),
                // A later entry has taken its place.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(error) => Err(error),
            };
            set.map_err(|error| named(path.as_os_str().as_bytes(), error.into()))?;
        }
        let (diff_id, size) = tar.into_inner().finish().map_err(tar_error)?;
        Ok(Unpacked { diff_id, size, left_out: self.left_out })
    }

    /// The layer's root is like that of the stack, until an entry says otherwise.
    fn make_root(&mut self) -> Result<(), Wrong> {
        let below = self.stack.find(Path::new(""))?;
        let root = Folder { fd: self.root.try_clone()?, path: PathBuf::new() };
        self.imitate(&root, below.as_ref())
    }

    /// Gives a folder the metadata of one below, or the usual.
    fn imitate(&mut self, folder: &Folder, below: Option<&Found>) -> Result<(), Wrong> {
        let (meta, attributes);
        match below {
            Some(below) => {
                attributes = self::attributes(below.open()?)?;
                meta = Meta::of(&below.stat, &attributes);
            }
            None => meta = Meta { uid: 0, gid: 0, mode: 0o755, mtime: (0, 0), attributes: &[] },
        }
        meta.set_but_time(&folder.fd)?;
        self.times.insert(folder.path.clone(), meta.mtime);
        Ok(())
    }

    fn entry(&mut self, entry: &Entry, tar: &mut Tar<Decoded>) -> Result<(), Wrong> {
        let names = names(&entry.path)?;
        // It may be far larger than the layer's limit allows.
        if entry.is_sparse {
            return Err(Wrong::Path("a layer has no sparse files"));
        }
        self.left = self.left.checked_sub(entry.size).ok_or(Wrong::TooLarge)?;
        let meta = Meta {
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode,
            mtime: entry.mtime,
            attributes: &entry.attributes,
        };
        let Some((name, above)) = names.split_last() else {
            if entry.kind != EntryType::Directory {
                return Err(Wrong::Path("the root is a folder"));
            }
            meta.set_but_time(&self.root)?;
            self.times.insert(PathBuf::new(), meta.mtime);
            return Ok(());
        };
        if above.iter().any(|name| name.starts_with(AUFS)) {
            return Ok(());
        }
        if above.iter().any(|name| name.starts_with(WHITEOUT)) {
            return Err(Wrong::Path("what is gone has nothing in it"));
        }
        let parent = self.parent(above)?;
        let done = self.entry_in(&parent, OsStr::from_bytes(name), entry, &meta, tar);
        self.last = Some((above.join(&b'/'), parent));
        done
    }

    /// The folder that an entry is in.
    fn parent(&mut self, names: &[&[u8]]) -> Result<Folder, Wrong> {
        let path = names.join(&b'/');
        match self.last.take() {
            Some((last, folder)) if last == path => Ok(folder),
            _ => self.folder(names),
        }
    }

    fn entry_in(
        &mut self,
        parent: &Folder,
        name: &OsStr,
        entry: &Entry,
        meta: &Meta<'_>,
        tar: &mut Tar<Decoded>,
    ) -> Result<(), Wrong> {
        if name.as_bytes() == OPAQUE {
            return self.make_opaque(parent);
        }
        if name.as_bytes().starts_with(AUFS) {
            return Ok(());
        }
        if let Some(gone) = name.as_bytes().strip_prefix(WHITEOUT) {
            if matches!(gone, b"" | b"." | b"..") {
                return Err(Wrong::Path("it does not say what is gone"));
            }
            return self.hide(parent, OsStr::from_bytes(gone));
        }
        if parent.path.as_os_str().len() + 1 + name.len() >= PATH_MAX {
            return Err(Wrong::Path("its path is too long"));
        }
        let fd = parent.fd.as_fd();
        match entry.kind {
            EntryType::Directory => {
                let folder = self.make_folder(parent, name)?;
                meta.set_but_time(&folder.fd)?;
                self.times.insert(folder.path, meta.mtime);
                return Ok(());
            }
            EntryType::Link => return self.link(parent, name, &entry.link, meta),
            _ => self.clear(parent, name)?,
        }
        let kind = match entry.kind {
            EntryType::Symlink => {
                rustix::fs::symlinkat(OsStr::from_bytes(&entry.link), fd, name)?;
                return Ok(meta.set_at(fd, name)?);
            }
            EntryType::Char if entry.device == (0, 0) => return self.hide(parent, name),
            EntryType::Char => FileType::CharacterDevice,
            EntryType::Block => FileType::BlockDevice,
            EntryType::Fifo => FileType::Fifo,
            _ => {
                let mut file = create(fd, name)?;
                self.copy(tar, &mut file)?;
                return Ok(meta.set(&file)?);
            }
        };
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        match rustix::fs::mknodat(fd, name, kind, Mode::from_raw_mode(0o600), device) {
            Err(Errno::PERM) if kind != FileType::Fifo => {
                self.left_out.push(shown(&entry.path));
                Ok(())
            }
            Err(error) => Err(error.into()),
            Ok(()) => Ok(meta.set_at(fd, name)?),
        }
    }

    fn copy(&mut self, tar: &mut Tar<Decoded>, file: &mut File) -> Result<(), Wrong> {
        loop {
            match tar.read(&mut self.buffer).map_err(Wrong::Tar)? {
                0 => return Ok(()),
                read => file.write_all(&self.buffer[..read])?,
            }
        }
    }

    /// Makes a hard link. The file gets what the entry of its new name says, as from containerd and moby.
    fn link(&mut self, parent: &Folder, name: &OsStr, target: &[u8], meta: &Meta<'_>) -> Result<(), Wrong> {
        let names = names(target).map_err(|_| Wrong::Path("its link leads nowhere in the layer"))?;
        let Some((first, above)) = names.split_last() else {
            return Err(Wrong::Path("it is a hard link to the root"));
        };
        let first = OsStr::from_bytes(first);
        let there = self.folder(above)?;
        if (there.path.as_path(), first) == (parent.path.as_path(), name) {
            return Ok(()); // To itself.
        }
        match rustix::fs::statat(&there.fd, first, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if is_whiteout(&stat) => return Err(Wrong::Path("it is a hard link to what is gone")),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Err(Wrong::Path("it is a hard link to a folder"));
            }
            Ok(_) => {}
            Err(Errno::NOENT) => self.copy_up(&there, first)?,
            Err(error) => return Err(error.into()),
        }
        self.clear(parent, name)?;
        rustix::fs::linkat(&there.fd, first, &parent.fd, name, AtFlags::empty())?;
        let fd = parent.fd.as_fd();
        let stat = rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat2(fd, name, flags, Mode::empty(), BENEATH)?;
                // Some engines write attributes only once, and giving it to its owner again takes them away.
                let had = if meta.attributes.is_empty() { attributes(&file)? } else { Vec::new() };
                let attributes = if had.is_empty() { meta.attributes } else { &had };
                Ok(Meta { attributes, ..*meta }.set(&file)?)
            }
            _ => Ok(meta.set_at(fd, name)?),
        }
    }

    /// Brings a file of the stack into this layer.
    fn copy_up(&mut self, parent: &Folder, name: &OsStr) -> Result<(), Wrong> {
        let Some(found) = self.below(&parent.path.join(name))? else {
            return Err(Wrong::Path("it is a hard link to a file that is not there"));
        };
        let fd = parent.fd.as_fd();
        match found.kind() {
            FileType::RegularFile => {
                let source = found.open()?;
                let attributes = attributes(&source)?;
                let mut file = create(fd, name)?;
                io::copy(&mut File::from(source), &mut file)?;
                Ok(Meta::of(&found.stat, &attributes).set(&file)?)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&found.folder, &found.name, Vec::new())?;
                rustix::fs::symlinkat(&*target, fd, name)?;
                Ok(Meta::of(&found.stat, &[]).set_at(fd, name)?)
            }
            FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
                let mode = Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(fd, name, found.kind(), mode, found.stat.st_rdev)?;
                Ok(Meta::of(&found.stat, &[]).set_at(fd, name)?)
            }
            _ => Err(Wrong::Path("it is a hard link to what is no file")),
        }
    }

    /// Finds what the layers below have at a path, if this layer does not hide it.
    fn below(&self, path: &Path) -> io::Result<Option<Found>> {
        if !self.opaque.is_empty() && path.ancestors().skip(1).any(|above| self.opaque.contains(above)) {
            return Ok(None);
        }
        self.stack.find(path)
    }

    /// The folder at a path, where links lead to in the end. Missing ones are made, like those of the stack.
    fn folder(&mut self, names: &[&[u8]]) -> Result<Folder, Wrong> {
        // The way is often there already, without links.
        let path = PathBuf::from(OsString::from_vec(names.join(&b'/')));
        if let Ok(fd) = open_folder_at(&self.root, &path) {
            return Ok(Folder { fd, path });
        }
        let mut walk = Walk::new(&path, Scope::InRoot, Last::Followed);
        let mut folder = Folder { fd: self.root.try_clone()?, path: PathBuf::new() };
        while let Some(at) = walk.ask()? {
            if at.as_os_str().len() >= PATH_MAX {
                return Err(Wrong::Path("its path is too long"));
            }
            let (above, name) = (at.parent().unwrap_or(Path::new("")), at.file_name().unwrap_or_default());
            if folder.path != above {
                folder = Folder { fd: open_folder_at(&self.root, above)?, path: above.to_owned() };
            }
            let step = self.step(&folder, name)?;
            walk.answer(match step {
                Step::Into(next) => {
                    folder = next;
                    links::Entry::Folder
                }
                Step::Link(target) => links::Entry::Link(target),
            })?;
        }
        let path = walk.end();
        if folder.path != path {
            folder = Folder { fd: open_folder_at(&self.root, &path)?, path };
        }
        Ok(folder)
    }

    /// One step into a folder, which is made where it is missing, or onto a link.
    fn step(&mut self, folder: &Folder, name: &OsStr) -> Result<Step, Wrong> {
        let stat = match rustix::fs::statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error.into()),
        };
        let path = folder.path.join(name);
        let below = match stat.map(|stat| (FileType::from_raw_mode(stat.st_mode), is_whiteout(&stat))) {
            Some((FileType::Directory, _)) => {
                return Ok(Step::Into(Folder { fd: open_folder_at(&folder.fd, Path::new(name))?, path }));
            }
            Some((FileType::Symlink, _)) => return Ok(Step::Link(link_target(folder.fd.as_fd(), name)?)),
            Some((_, true)) => None,
            Some(_) => return Err(Wrong::Path("it is in what is no folder")),
            None => self.below(&path)?,
        };
        if let Some(found) = below.as_ref().filter(|found| found.kind() == FileType::Symlink) {
            return Ok(Step::Link(link_target(found.folder.as_fd(), &found.name)?));
        }
        let made = self.make_folder(folder, name)?;
        self.imitate(&made, below.filter(|found| found.kind() == FileType::Directory).as_ref())?;
        Ok(Step::Into(made))
    }

    /// Makes a folder, or takes the one that is there. One that takes the place of something else of this layer hides
    /// what is below, as that did.
    fn make_folder(&mut self, parent: &Folder, name: &OsStr) -> Result<Folder, Wrong> {
        let path = parent.path.join(name);
        let stat = match rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error.into()),
        };
        let hides = match stat {
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Ok(Folder { fd: open_folder_at(&parent.fd, Path::new(name))?, path });
            }
            Some(_) => {
                rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty())?;
                true
            }
            None => false,
        };
        rustix::fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(0o700))?;
        let folder = Folder { fd: open_folder_at(&parent.fd, Path::new(name))?, path };
        if hides {
            self.make_opaque(&folder)?;
        }
        Ok(folder)
    }

    fn make_opaque(&mut self, folder: &Folder) -> Result<(), Wrong> {
        if !folder.path.as_os_str().is_empty() {
            rustix::fs::fsetxattr(&folder.fd, OVERLAY_OPAQUE, b"y", XattrFlags::empty())?;
        }
        self.opaque.insert(folder.path.clone());
        Ok(())
    }

    /// Hides what the stack has under a name. What this layer has stays.
    fn hide(&mut self, parent: &Folder, name: &OsStr) -> Result<(), Wrong> {
        match rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                let fd = open_folder_at(&parent.fd, Path::new(name))?;
                self.make_opaque(&Folder { fd, path: parent.path.join(name) })
            }
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => {
                let mode = Mode::empty();
                Ok(rustix::fs::mknodat(&parent.fd, name, FileType::CharacterDevice, mode, 0)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes way for something that is no folder.
    fn clear(&mut self, parent: &Folder, name: &OsStr) -> Result<(), Wrong> {
        match rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => {
                remove(parent.fd.as_fd(), name)?;
                let path = parent.path.join(name);
                self.opaque.retain(|folder| !folder.starts_with(&path));
                self.times.retain(|folder, _| !folder.starts_with(&path));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The names of a path, without those that lead nowhere. An absolute path is one from the layer's root.
fn names(path: &[u8]) -> Result<Vec<&[u8]>, Wrong> {
    if path.len() >= PATH_MAX {
        return Err(Wrong::Path("its path is too long"));
    }
    if path.contains(&0) {
        return Err(Wrong::Path("there is a NUL in its path"));
    }
    let names: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
    if names.contains(&b"..".as_slice()) {
        return Err(Wrong::Path("its path has .. in it"));
    }
    Ok(names)
}
