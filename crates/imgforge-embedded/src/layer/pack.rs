//! The upper folder of an overlay mount becomes the tar of a layer.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use tar::EntryType;

use super::Clamp;
use super::blob::BlobWriter;
use super::header::{self, Entry};
use super::stack::{Stack, open_folder};
use super::{OPAQUE, WHITEOUT, at, is_opaque, is_whiteout};
use crate::node::{
    Attribute, BENEATH, OVERLAY, attribute_names, attributes as attributes_of, open_folder_at, take_unkept,
};
use crate::worker::message::{Compression, Layer};

/// Packs what an overlay mount (option `userxattr`, unmounted by now) has left in its upper folder.
///
/// Only `upper` is walked; in `stack`, the layers below it (lowest first), only the folders are looked at that overlay
/// has copied up: it does so with every folder that something was made or removed in. Such a folder is part of the
/// layer when its mode, owner or attributes differ, or when it has something in it that is; else it is removed from
/// `upper`, so that a layer is `None` exactly when nothing has changed. Its time alone is no change, as in containerd.
///
/// `upper` is made to be what unpacking the tar would make: times are as `clamp` says, parts of a second are dropped,
/// sockets are removed, and so are attributes that no layer has. The same files always make the same bytes: entries
/// are sorted by name (bytewise) in each folder, parents first.
///
/// `blob` is a file that is not there yet; it is removed again when there is no layer, or an error. Names that begin
/// with `.wh.` are an error: no layer can hold them.
pub fn pack(
    upper: &Utf8Path,
    stack: &[Utf8PathBuf],
    clamp: Clamp,
    compression: Compression,
    blob: &Utf8Path,
) -> io::Result<Option<Layer>> {
    let threads = std::thread::available_parallelism().map_or(1, Into::into);
    pack_with(upper, stack, clamp, (compression, threads), blob)
}

/// [`pack`] with a number of threads.
pub(super) fn pack_with(
    upper: &Utf8Path,
    stack: &[Utf8PathBuf],
    clamp: Clamp,
    (compression, threads): (Compression, usize),
    blob: &Utf8Path,
) -> io::Result<Option<Layer>> {
    let file = File::create_new(blob)?;
    let packed = BlobWriter::new(file, compression, threads).and_then(|out| {
        let mut pack = Pack {
            stack: Stack::open(stack)?,
            clamp,
            out,
            links: HashMap::new(),
            pending: Vec::new(),
            is_empty: true,
            buffer: vec![0; 1 << 18],
        };
        pack.root(&open_folder(upper.as_std_path())?)?;
        if pack.is_empty {
            return Ok(None);
        }
        pack.out.write_all(&[0; 1024])?;
        pack.out.finish().map(Some)
    });
    if !matches!(packed, Ok(Some(_))) {
        std::fs::remove_file(blob)?;
    }
    packed
}

struct Pack {
    stack: Stack,
    clamp: Clamp,
    out: BlobWriter,
    /// The first path of each file that has several, and its attributes: other engines read those of each name.
    links: HashMap<(u64, u64), (PathBuf, Vec<Attribute>)>,
    /// Folders above that are written when something in them is.
    pending: Vec<(PathBuf, Stat, Vec<Attribute>)>,
    is_empty: bool,
    buffer: Vec<u8>,
}

/// The place of the walk: the folder that it is in.
#[derive(Clone, Copy)]
struct Place {
    /// Whether the folder hides what the stack has at this path.
    hidden: bool,
    /// Whether the folder is part of the layer whatever is in it.
    changed: bool,
}

impl Pack {
    fn root(&mut self, root: &OwnedFd) -> io::Result<()> {
        let stat = rustix::fs::fstat(root)?;
        let attributes = take_unkept(root)?;
        let below = self.stack.find(Path::new(""))?;
        let changed = match &below {
            Some(below) => differs(&stat, &below.stat) || attributes != attributes_of(below.open()?)?,
            // What a root is when no layer says anything.
            None => {
                (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777) != (0, 0, 0o755) || !attributes.is_empty()
            }
        };
        if changed {
            self.header(Path::new("."), &stat, EntryType::Directory, &[], &attributes)?;
        }
        self.children(root, Path::new(""), &stat, Place { hidden: false, changed })?;
        if changed {
            return Ok(());
        }
        // The tar does not speak of it: it is unpacked with the time of the one below.
        let time = below.map_or((0, 0), |below| (below.stat.st_mtime, below.stat.st_mtime_nsec));
        set_time(root.as_fd(), OsStr::new("."), (time.0, i64::try_from(time.1).unwrap_or(0)))
    }

    /// Packs what is in a folder. Whether something is still in it.
    fn children(&mut self, folder: &OwnedFd, path: &Path, stat: &Stat, place: Place) -> io::Result<bool> {
        let mut is_used = false;
        for name in names(folder).map_err(|error| at(path, error))? {
            let path = path.join(&name);
            let there = self.entry(folder.as_fd(), &name, &path, place);
            // The innermost path is the one to name.
            is_used |=
                there.map_err(|error| if error.get_ref().is_some() { error } else { at(&path, error) })?;
        }
        if place.changed || is_used {
            // Last: what was removed in it has moved its time.
            self.settle(folder.as_fd(), OsStr::new("."), stat)?;
        }
        Ok(is_used)
    }

    /// Packs one entry of a folder. Whether it is still there.
    fn entry(&mut self, parent: BorrowedFd<'_>, name: &OsStr, path: &Path, above: Place) -> io::Result<bool> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if name.as_bytes().starts_with(WHITEOUT) {
            let why = "a name that begins with .wh. cannot be in a layer, where it marks what is gone";
            return Err(at(path, io::Error::other(why)));
        }
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return self.folder(parent, name, path, above),
            FileType::Socket => {
                rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
                return Ok(false);
            }
            _ if is_whiteout(&stat) => {
                let marker = OsString::from_vec([WHITEOUT, name.as_bytes()].concat());
                self.marker(&path.with_file_name(marker))?;
                return Ok(true);
            }
            FileType::RegularFile => EntryType::Regular,
            FileType::Symlink => EntryType::Symlink,
            FileType::CharacterDevice => EntryType::Char,
            FileType::BlockDevice => EntryType::Block,
            FileType::Fifo => EntryType::Fifo,
            FileType::Unknown => return Err(io::Error::other("of an unknown kind")),
        };
        if stat.st_nlink > 1
            && let Some((first, attributes)) = self.links.get(&(stat.st_dev, stat.st_ino)).cloned()
        {
            self.header(path, &stat, EntryType::Link, first.as_os_str().as_bytes(), &attributes)?;
            return Ok(true);
        }
        let mut attributes = Vec::new();
        match kind {
            EntryType::Regular => attributes = self.file(parent, name, path, &stat)?,
            EntryType::Symlink => {
                let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
                self.header(path, &stat, kind, target.as_bytes(), &[])?;
            }
            _ => self.header(path, &stat, kind, &[], &[])?,
        }
        if stat.st_nlink > 1 {
            self.links.insert((stat.st_dev, stat.st_ino), (path.to_owned(), attributes));
        }
        self.settle(parent, name, &stat)?;
        Ok(true)
    }

    /// Packs a folder and what is in it. Whether it is still there.
    fn folder(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        above: Place,
    ) -> io::Result<bool> {
        let folder = open_folder_at(parent, Path::new(name))?;
        let stat = rustix::fs::fstat(&folder)?;
        let names = attribute_names(&folder)?;
        if names.iter().any(|name| matches!(name.strip_prefix(OVERLAY), Some(b"redirect" | b"metacopy"))) {
            return Err(io::Error::other(
                "the overlay was mounted with options whose layers cannot be packed",
            ));
        }
        let attributes = take_unkept(&folder)?;
        let below = if above.hidden { None } else { self.stack.find(path)? };
        let below = below.filter(|below| below.kind() == FileType::Directory);
        // Overlay marks new folders too: only what hides something is one that a layer has to mark.
        let is_opaque = below.is_some() && is_opaque(&folder)?;
        let changed = match &below {
            Some(below) if !is_opaque => {
                differs(&stat, &below.stat) || attributes != attributes_of(below.open()?)?
            }
            _ => true,
        };
        let depth = self.pending.len();
        if changed {
            self.header(path, &stat, EntryType::Directory, &[], &attributes)?;
        } else {
            self.pending.push((path.to_owned(), stat, attributes));
        }
        if is_opaque {
            self.marker(&path.join(OsStr::from_bytes(OPAQUE)))?;
        }
        let place = Place { hidden: is_opaque || below.is_none(), changed };
        let is_used = self.children(&folder, path, &stat, place)?;
        self.pending.truncate(depth);
        if changed || is_used {
            return Ok(true);
        }
        rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?;
        Ok(false)
    }

    /// Packs a regular file. Its attributes.
    fn file(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        stat: &Stat,
    ) -> io::Result<Vec<Attribute>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat2(parent, name, flags, Mode::empty(), BENEATH)?);
        let attributes = take_unkept(&file)?;
        self.header(path, stat, EntryType::Regular, &[], &attributes)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let read = file.read(&mut self.buffer[..want])?;
            if read == 0 {
                return Err(io::Error::other("it has become shorter while it was packed"));
            }
            self.out.write_all(&self.buffer[..read])?;
            left -= read as u64;
        }
        header::pad(&mut self.out, size)?;
        Ok(attributes)
    }

    /// Writes an entry's header, after those of the folders above that wait for one.
    fn header(
        &mut self,
        path: &Path,
        stat: &Stat,
        kind: EntryType,
        link: &[u8],
        attributes: &[Attribute],
    ) -> io::Result<()> {
        self.write_pending()?;
        self.write(path, stat, kind, link, attributes)
    }

    fn write_pending(&mut self) -> io::Result<()> {
        for (path, stat, attributes) in std::mem::take(&mut self.pending) {
            self.write(&path, &stat, EntryType::Directory, &[], &attributes)?;
        }
        Ok(())
    }

    fn write(
        &mut self,
        path: &Path,
        stat: &Stat,
        kind: EntryType,
        link: &[u8],
        attributes: &[Attribute],
    ) -> io::Result<()> {
        self.is_empty = false;
        let mut path = path.as_os_str().as_bytes().to_vec();
        if kind == EntryType::Directory {
            path.push(b'/');
        }
        let entry = Entry {
            path: &path,
            kind,
            link,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: if kind == EntryType::Regular { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
            mtime: self.clamp.of(stat.st_mtime),
            device: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
            attributes,
        };
        entry.write(&mut self.out)
    }

    /// Writes an empty file whose name means something.
    fn marker(&mut self, path: &Path) -> io::Result<()> {
        self.write_pending()?;
        self.is_empty = false;
        let entry = Entry {
            path: path.as_os_str().as_bytes(),
            kind: EntryType::Regular,
            link: &[],
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            device: (0, 0),
            attributes: &[],
        };
        entry.write(&mut self.out)
    }

    /// Gives a file the time that it has in the tar.
    fn settle(&self, parent: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> io::Result<()> {
        set_time(parent, name, (self.clamp.of(stat.st_mtime), 0))
    }
}

fn set_time(parent: BorrowedFd<'_>, name: &OsStr, (seconds, nanoseconds): (i64, i64)) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// Returns whether two folders differ in what makes one part of a layer.
fn differs(one: &Stat, other: &Stat) -> bool {
    (one.st_mode, one.st_uid, one.st_gid) != (other.st_mode, other.st_uid, other.st_gid)
}

/// The names in a folder, sorted bytewise.
pub(super) fn names(folder: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort_unstable();
    Ok(names)
}
