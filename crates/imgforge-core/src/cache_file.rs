//! Files that only ever save time: framed with a version and a checksum, and replaced as a whole.

use std::fs;
use std::io::{self, Write};

use camino::Utf8Path;

const HEAD: usize = 4 + 32;

/// `body` with the version and a BLAKE3 checksum before it.
pub(crate) fn frame(version: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + body.len());
    bytes.extend(version.to_le_bytes());
    bytes.extend(checksum(version, body));
    bytes.extend(body);
    bytes
}

/// The body of a file made by [`frame`]; `None` when it is of another version or not whole.
pub(crate) fn unframe(version: u32, bytes: &[u8]) -> Option<&[u8]> {
    let (head, body) = bytes.split_at_checked(HEAD)?;
    let is_ours = head[..4] == version.to_le_bytes() && head[4..] == checksum(version, body);
    is_ours.then_some(body)
}

fn checksum(version: u32, body: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(&version.to_le_bytes()).update(body).finalize().as_bytes()
}

/// Writes a new file beside `path` and renames it over: a reader sees the old one or the new one, whole.
pub fn replace(path: &Utf8Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    let new = folder.join(format!(".{}.{}", path.file_name().unwrap_or("cache"), std::process::id()));
    let written = fs::File::create(&new)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}
