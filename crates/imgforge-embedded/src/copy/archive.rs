//! The tars that ADD unpacks. An archive is what reads as one: a tar, alone or compressed with gzip, bzip2, xz or zstd.
//!
//! What it unpacks to is decided by moby's `pkg/archive`: a folder over a folder keeps what is in it, anything else
//! makes way; links are followed inside the target folder only, `..` leads nowhere.

use std::ffi::OsStr;
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, OFlags};
use tar::EntryType;

use super::target::{self, Change, Target, copy_all};
use super::tree::{self, Meta, Reader, Source, names};
use crate::layer::reader::{self, Entry, Tar};
use crate::node::{self, Attribute};

/// An archive that can be read.
pub(super) type Archive = Tar<Box<dyn Read>>;

/// Opens a file as an archive; `None` when it is none. `open` opens the file and is called twice.
pub(super) fn open(open: &mut dyn FnMut() -> io::Result<Reader>) -> io::Result<Option<Archive>> {
    if !reader::begins(decompress(open()?)?) {
        return Ok(None);
    }
    Ok(Some(Tar::new(decompress(open()?)?)))
}

/// The content of a file, decompressed if it is compressed.
fn decompress(mut file: Reader) -> io::Result<Box<dyn Read>> {
    let mut magic = [0; 6];
    let len = fill(&mut file, &mut magic)?;
    let whole = BufReader::with_capacity(1 << 17, io::Cursor::new(magic).take(len as u64).chain(file));
    Ok(match &magic[..len] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::bufread::MultiBzDecoder::new(whole)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(whole)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(whole)?),
        _ => Box::new(whole),
    })
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match reader.read(&mut buffer[len..])? {
            0 => break,
            read => len += read,
        }
    }
    Ok(len)
}

/// Unpacks into a folder, whose path has no links. An `owner` is that of every entry; folders that have no entry are
/// root's all the same.
pub(super) fn unpack(
    mut archive: Archive,
    target: &Target,
    folder: &Path,
    owner: Option<(u32, u32)>,
) -> io::Result<()> {
    let change = Change { owner, mode: None };
    // Everything happens as if the folder were the root.
    let root = target.folder(folder)?;
    let view = Source::Disk(root.try_clone()?);
    let mut folders: Vec<(PathBuf, Meta, Vec<Attribute>)> = Vec::new();
    while let Some(entry) = archive.next().map_err(|error| tree::with_path(&error, "the archive"))? {
        let path = Path::new(OsStr::from_bytes(&entry.path));
        let at = |error: &io::Error| tree::with_path(error, &format!("{} of the archive", path.display()));
        let mut meta = meta(&entry);
        let clean = clean(path);
        let Some(name) = clean.file_name() else { continue };
        let parent = parents(&root, &view, clean.parent().unwrap_or(Path::new(""))).map_err(|e| at(&e))?;
        let place = parent.1.join(name);
        let parent = parent.0;
        let there = view.meta(&place).ok().map(|meta| meta.kind);
        // What was said of a folder that is gone, or is spoken of again, holds no longer.
        folders.retain(|(known, ..)| match meta.kind {
            FileType::Directory => *known != place,
            _ => !known.starts_with(&place),
        });
        match (there, meta.kind) {
            (None, _) | (Some(FileType::Directory), FileType::Directory) => {}
            (Some(FileType::Directory), _) => {
                node::remove(parent.as_fd(), name).map_err(|error| at(&error))?;
            }
            (Some(_), _) => target::clear(parent.as_fd(), name).map_err(|error| at(&error))?,
        }
        let fd = parent.as_fd();
        let mut attributes = entry.attributes.clone();
        match entry.kind {
            EntryType::Directory => {
                target::make_folder(fd, name).map_err(|error| at(&error))?;
                folders.push((place.clone(), meta.clone(), entry.attributes.clone()));
            }
            EntryType::Symlink => {
                rustix::fs::symlinkat(OsStr::from_bytes(&entry.link), fd, name).map_err(|e| at(&e.into()))?;
            }
            EntryType::Link => {
                let first = self::clean(Path::new(OsStr::from_bytes(&entry.link)));
                let first_parent = view.resolve(first.parent().unwrap_or(Path::new("")))?;
                let from = tree::open_in(root.as_fd(), &first_parent, OFlags::PATH | OFlags::DIRECTORY)
                    .map_err(|error| at(&error))?;
                rustix::fs::linkat(&from, first.file_name().unwrap_or_default(), fd, name, AtFlags::empty())
                    .map_err(|error| at(&error.into()))?;
                meta = linked(meta, view.meta(&place)?);
                attributes = kept(attributes, &view, &place, meta.kind).map_err(|error| at(&error))?;
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                target::make_node(fd, name, &meta).map_err(|error| at(&error))?;
            }
            _ => copy_all(&mut archive, &mut node::create(fd, name)?).map_err(|error| at(&error))?,
        }
        target::set(fd, name, &meta, &attributes, change).map_err(|error| at(&error))?;
    }
    // A folder's time is that of the archive also after files were put into it.
    for (path, meta, attributes) in folders.iter().rev() {
        let parent = tree::open_in(root.as_fd(), path.parent().unwrap_or(Path::new("")), OFlags::RDONLY)?;
        target::set(parent.as_fd(), path.file_name().unwrap_or_default(), meta, attributes, change)?;
    }
    Ok(())
}

/// Returns the metadata that an entry gives to its file.
fn meta(entry: &Entry) -> Meta {
    let kind = match entry.kind {
        EntryType::Directory => FileType::Directory,
        EntryType::Symlink => FileType::Symlink,
        EntryType::Char => FileType::CharacterDevice,
        EntryType::Block => FileType::BlockDevice,
        EntryType::Fifo => FileType::Fifo,
        _ => FileType::RegularFile,
    };
    Meta {
        kind,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        rdev: rustix::fs::makedev(entry.device.0, entry.device.1),
        linked: None,
    }
}

/// Returns the metadata of a file with a second name: that of the entry with that name. Of a symbolic link only the
/// owner is set.
fn linked(entry: Meta, there: Meta) -> Meta {
    match there.kind {
        FileType::Symlink => Meta { uid: entry.uid, gid: entry.gid, ..there },
        kind => Meta { kind, ..entry },
    }
}

/// The attributes of a file with a second name: those of the new entry, or else those that it has. Giving it to its
/// owner again takes them away.
fn kept(
    entry: Vec<Attribute>,
    view: &Source<'_>,
    place: &Path,
    kind: FileType,
) -> io::Result<Vec<Attribute>> {
    if entry.is_empty() && kind == FileType::RegularFile { view.attributes(place) } else { Ok(entry) }
}

/// A path without `..`, `.` and a leading `/`, as `filepath.Join("/", path)` has it.
fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for name in names(path) {
        if name == ".." {
            out.pop();
        } else {
            out.push(name);
        }
    }
    out
}

/// Opens the folder that something goes into, and makes what is missing of it. Its path is without links then.
fn parents(root: &OwnedFd, view: &Source<'_>, path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let resolved = view.resolve(path)?;
    let mut done = PathBuf::new();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut folder = tree::open_in(root.as_fd(), &done, flags)?;
    for name in names(&resolved) {
        if target::make_folder(folder.as_fd(), &name)? {
            rustix::fs::chmodat(&folder, &name, rustix::fs::Mode::from_raw_mode(0o755), AtFlags::empty())?;
        }
        done.push(&name);
        folder = tree::open_in(root.as_fd(), &done, flags)?;
    }
    Ok((folder, done))
}
