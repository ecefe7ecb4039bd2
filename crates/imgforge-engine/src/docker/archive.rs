//! A container's file system as the daemon's archives show it: one path, or all of it.

use std::io::{self, Read};

use bollard::query_parameters::DownloadFromContainerOptionsBuilder;
use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use futures_util::StreamExt;
use tokio::sync::mpsc::{Receiver, channel};

use crate::Error;
use crate::containers::{Entry, EntryKind};

/// Until the first entry of an archive can be read there is no need to try: it is preceded by blocks of its own when
/// its name or its times are long.
const HEAD: usize = 3 * 512;

/// The number of pieces of an archive that may lie between the one who receives it and the one who reads it.
const PIECES: usize = 16;

/// One path. Of a folder the archive is not read beyond its head, since all that lies in it would come too.
pub(super) async fn entry(
    client: &bollard::Docker,
    container: &str,
    path: &Utf8Path,
) -> Result<Option<Entry>, Error> {
    let options = DownloadFromContainerOptionsBuilder::default().path(path.as_str()).build();
    let mut stream = std::pin::pin!(client.download_from_container(container, Some(options)));
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        match chunk.map_err(Error::from) {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(error) if error.is_absent() => return Ok(None),
            Err(error) => return Err(error),
        }
        if bytes.len() >= HEAD
            && let Ok(Some((_, entry))) = first(&bytes)
            && !matches!(entry.kind, EntryKind::File(_))
        {
            return Ok(Some(entry));
        }
    }
    Ok(first(&bytes).map_err(broken)?.map(|(_, entry)| entry))
}

fn first(bytes: &[u8]) -> io::Result<Option<(String, Entry)>> {
    let mut archive = tar::Archive::new(bytes);
    match archive.entries()?.next() {
        Some(found) => read(&mut found?, true).map(Some),
        None => Ok(None),
    }
}

/// Everything, by the archive that an export is.
pub(super) async fn walk(client: &bollard::Docker, container: &str) -> Result<Vec<(String, Entry)>, Error> {
    let (sender, receiver) = channel::<Bytes>(PIECES);
    let reading = tokio::task::spawn_blocking(move || {
        let mut archive = tar::Archive::new(Pieces { receiver, piece: Bytes::new() });
        let mut found = Vec::new();
        for entry in archive.entries()? {
            found.push(read(&mut entry?, false)?);
        }
        Ok::<_, io::Error>(found)
    });
    let mut stream = std::pin::pin!(client.export_container(container));
    let mut sent = Ok(());
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => {
                // One that has found the archive broken reads no further, and says so below.
                if sender.send(chunk).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                sent = Err(Error::from(error));
                break;
            }
        }
    }
    drop(sender);
    let found = reading.await.map_err(|error| Error::Connection { message: error.to_string() })?;
    sent?;
    found.map_err(broken)
}

fn broken(error: io::Error) -> Error {
    Error::Connection { message: format!("a broken archive: {error}") }
}

fn read<R: Read>(entry: &mut tar::Entry<'_, R>, with_content: bool) -> io::Result<(String, Entry)> {
    let path = String::from_utf8_lossy(&entry.path_bytes()).trim_end_matches('/').to_owned();
    let header = entry.header();
    let (mode, uid, gid) = (header.mode()? & 0o7777, header.uid()?, header.gid()?);
    let kind = match header.entry_type() {
        // A hard link is the file that it is another name of.
        tar::EntryType::Regular | tar::EntryType::Link => {
            let mut content = Vec::new();
            if with_content {
                entry.read_to_end(&mut content)?;
            }
            EntryKind::File(content)
        }
        tar::EntryType::Directory => EntryKind::Folder,
        tar::EntryType::Symlink => {
            let target = entry.link_name_bytes().unwrap_or_default();
            EntryKind::Link(Utf8PathBuf::from(String::from_utf8_lossy(&target).into_owned()))
        }
        _ => EntryKind::Other,
    };
    Ok((format!("/{path}"), Entry { kind, mode, uid, gid }))
}

/// The pieces that come through a channel, as one stream of bytes.
struct Pieces {
    receiver: Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = self.piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}
