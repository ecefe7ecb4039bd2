//! Sends a build's context as a tar stream: exactly the listed files, each hashed while it is read, so that what an
//! image is made of is what its fingerprint says.
//!
//! Nothing in the stream depends on the machine: entries are sorted, owners are 0, times are 0, modes are 0755 or
//! 0644. The stream is made on a blocking thread and never lies whole in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};

use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::context::{EntryKind, Origin, SuppliedContent};
use imgforge_core::source::ContentHash;
use tokio::sync::mpsc;

use crate::{BuildError, BuildRequest};

/// Where the Dockerfile lies in the context.
pub(crate) const DOCKERFILE: &str = ".imgforge/Dockerfile";

/// How many bytes go into the stream at once.
const CHUNK: usize = 64 * 1024;

/// What the stream's receiver gets.
pub(crate) type Chunk = io::Result<Bytes>;

/// Writes the whole context into `sender`. Blocks; ends early when the receiver is gone.
///
/// # Errors
/// [`BuildError::ContextChanged`] and [`BuildError::Unreadable`]; the stream then ends with an error too, so that the
/// daemon cannot take it for a whole one. `Cancelled` when the receiver is gone.
pub(crate) fn send(request: &BuildRequest, sender: mpsc::Sender<Chunk>) -> Result<(), BuildError> {
    let mut failure = None;
    let writer = ChunkWriter { sender: sender.clone(), buffer: Vec::with_capacity(CHUNK) };
    match write_tar(request, writer, &mut failure) {
        Ok(()) => Ok(()),
        Err(error) => {
            // The receiver may be gone, which is as good.
            let _ = sender.blocking_send(Err(error));
            Err(failure.unwrap_or(BuildError::Cancelled))
        }
    }
}

/// What one path of the context is.
enum Item<'a> {
    Dir,
    Symlink(&'a str),
    Bytes(&'a [u8], bool),
    Disk { path: Utf8PathBuf, expected: Option<(ContentHash, u64)>, executable: bool },
}

fn items(request: &BuildRequest) -> BTreeMap<Utf8PathBuf, Item<'_>> {
    let mut items = BTreeMap::new();
    for entry in &request.entries {
        let item = match &entry.kind {
            EntryKind::Dir => Item::Dir,
            EntryKind::Symlink { target } => Item::Symlink(target),
            EntryKind::File { hash, size, executable, origin } => match origin {
                Origin::Source(path) => Item::Disk {
                    path: request.root.join(path),
                    expected: Some((*hash, *size)),
                    executable: *executable,
                },
                Origin::Generated(bytes) => Item::Bytes(bytes, *executable),
            },
        };
        items.insert(entry.path.clone(), item);
    }
    for file in &request.supplied {
        let item = match &file.content {
            SuppliedContent::Bytes(bytes) => Item::Bytes(bytes, file.executable),
            SuppliedContent::File(path) => {
                Item::Disk { path: path.clone(), expected: None, executable: file.executable }
            }
        };
        add_with_parents(&mut items, &file.path, item);
    }
    add_with_parents(
        &mut items,
        Utf8Path::new(DOCKERFILE),
        Item::Bytes(request.dockerfile.as_bytes(), false),
    );
    items
}

fn add_with_parents<'a>(items: &mut BTreeMap<Utf8PathBuf, Item<'a>>, path: &Utf8Path, item: Item<'a>) {
    for parent in path.ancestors().skip(1).filter(|parent| !parent.as_str().is_empty()) {
        items.entry(parent.to_owned()).or_insert(Item::Dir);
    }
    items.insert(path.to_owned(), item);
}

fn write_tar(
    request: &BuildRequest,
    writer: ChunkWriter,
    failure: &mut Option<BuildError>,
) -> io::Result<()> {
    let mut tar = tar::Builder::new(writer);
    for (path, item) in items(request) {
        match item {
            Item::Dir => {
                let mut head = header(tar::EntryType::Directory, 0, true);
                tar.append_data(&mut head, &path, io::empty())?;
            }
            Item::Symlink(target) => {
                tar.append_link(&mut header(tar::EntryType::Symlink, 0, true), &path, target)?;
            }
            Item::Bytes(bytes, executable) => {
                let size = bytes.len() as u64;
                tar.append_data(&mut header(tar::EntryType::Regular, size, executable), &path, bytes)?;
            }
            Item::Disk { path: disk, expected, executable } => {
                let opened = open(&disk, expected.map(|(_, size)| size));
                let (file, size) = opened.map_err(|error| refuse(failure, &path, error))?;
                let mut reader = CheckedReader::new(file, size, expected.map(|(hash, _)| hash));
                let mut head = header(tar::EntryType::Regular, size, executable);
                if let Err(error) = tar.append_data(&mut head, &path, &mut reader) {
                    // Only a failure to read is the file's; one to write means that the receiver is gone.
                    return Err(if reader.failed { refuse(failure, &path, error) } else { error });
                }
            }
        }
    }
    tar.into_inner()?.flush()
}

fn header(kind: tar::EntryType, size: u64, executable: bool) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(if executable { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Opens a regular file. Where its size is known, another size means that it changed, and so does its absence.
fn open(path: &Utf8Path, expected: Option<u64>) -> io::Result<(File, u64)> {
    let is_changed = |error: io::Error| match (expected, error.kind()) {
        (Some(_), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => changed(),
        _ => error,
    };
    // Looked at before it is opened: opening a named pipe would wait for ever.
    let metadata = std::fs::symlink_metadata(path).map_err(is_changed)?;
    if !metadata.is_file() || expected.is_some_and(|size| size != metadata.len()) {
        return Err(changed());
    }
    Ok((File::open(path).map_err(is_changed)?, metadata.len()))
}

/// The mark of an error that means "not what it was".
fn changed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "changed")
}

fn refuse(failure: &mut Option<BuildError>, path: &Utf8Path, error: io::Error) -> io::Error {
    let path = path.to_owned();
    *failure = Some(match error.kind() {
        io::ErrorKind::InvalidData => BuildError::ContextChanged { path },
        _ => BuildError::Unreadable { path, message: error.to_string() },
    });
    error
}

/// Gives exactly the announced number of bytes with the announced hash, or an error.
struct CheckedReader {
    file: File,
    left: u64,
    hasher: blake3::Hasher,
    expected: Option<ContentHash>,
    failed: bool,
}

impl CheckedReader {
    fn new(file: File, size: u64, expected: Option<ContentHash>) -> Self {
        Self { file, left: size, hasher: blake3::Hasher::new(), expected, failed: false }
    }

    fn read_checked(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        if count == 0 {
            let is_same = self.expected.is_none_or(|hash| hash == self.hasher.finalize().into());
            return if self.left == 0 && is_same { Ok(0) } else { Err(changed()) };
        }
        self.left = self.left.checked_sub(count as u64).ok_or_else(changed)?;
        if self.expected.is_some() {
            self.hasher.update(&buffer[..count]);
        }
        Ok(count)
    }
}

impl Read for CheckedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.read_checked(buffer);
        self.failed |= matches!(&result, Err(error) if error.kind() != io::ErrorKind::Interrupted);
        result
    }
}

/// Collects what is written into chunks for the stream.
struct ChunkWriter {
    sender: mpsc::Sender<Chunk>,
    buffer: Vec<u8>,
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.sender.blocking_send(Ok(chunk.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
