//! Files that others may have written: read whole, never larger than is sensible, and never what is no file.
//!
//! A clone or a copied cache can have a named pipe, a device or a link to one where a file is expected; reading it
//! would wait for ever or fill the memory.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;

use camino::Utf8Path;
use rustix::fs::OFlags;

/// The largest text that a workspace has: a lock. One of 10,000 packages has 3 MB.
pub const MAX_TEXT: u64 = 64 << 20;
/// The largest file below `.imgforge`: what is remembered of a million files has some 150 MB.
pub const MAX_STATE: u64 = 1 << 30;
/// The largest keyring or bundle of certificates; Debian's have 60 kB and 220 kB.
pub const MAX_KEYS: u64 = 16 << 20;

/// Opens a regular file, and gives its size. Links are followed.
///
/// # Errors
/// What the system says; [`io::ErrorKind::InvalidInput`] for what is no regular file.
pub fn open(path: &Utf8Path) -> io::Result<(File, u64)> {
    // To open a device may do something already.
    regular(&fs::metadata(path)?)?;
    let nonblock = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(nonblock).open(path)?;
    let size = regular(&file.metadata()?)?;
    Ok((file, size))
}

/// The whole content of a regular file of at most `limit` bytes. Links are followed.
///
/// # Errors
/// As of [`open`]; [`io::ErrorKind::FileTooLarge`] with the limit.
pub fn read(path: &Utf8Path, limit: u64) -> io::Result<Vec<u8>> {
    rest(&mut open(path)?.0, limit)
}

/// What is left of an opened file, of at most `limit` bytes.
///
/// # Errors
/// What the system says; [`io::ErrorKind::FileTooLarge`] with the limit.
pub fn rest(file: &mut File, limit: u64) -> io::Result<Vec<u8>> {
    let left = file.metadata()?.len().saturating_sub(file.stream_position()?);
    if left > limit {
        return Err(too_large(limit));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(left).unwrap_or(0));
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(too_large(limit)) } else { Ok(bytes) }
}

/// The same as text.
///
/// # Errors
/// As of [`read`]; [`io::ErrorKind::InvalidData`] for what is not UTF-8.
pub fn read_text(path: &Utf8Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read(path, limit)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

fn regular(metadata: &fs::Metadata) -> io::Result<u64> {
    if metadata.is_file() {
        return Ok(metadata.len());
    }
    let what = if metadata.is_dir() { "a folder" } else { "a device, a socket or a pipe" };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}, not a file")))
}

fn too_large(limit: u64) -> io::Error {
    let limit = limit >> 20;
    io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("it is larger than {limit} MiB, the most that is read of it"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_or_too_large_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        let made = std::process::Command::new("mkfifo").arg(root.join("pipe")).status().unwrap();
        assert!(made.success());
        std::os::unix::fs::symlink("/dev/zero", root.join("endless")).unwrap();
        for (name, why) in [("pipe", "a pipe"), ("endless", "a device"), (".", "a folder")] {
            let refused = read(&root.join(name), MAX_TEXT).unwrap_err();
            assert!(refused.to_string().contains(why), "{refused}");
        }
        let large = File::create(root.join("large")).unwrap();
        large.set_len(MAX_TEXT + 1).unwrap();
        let refused = read(&root.join("large"), MAX_TEXT).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::FileTooLarge);
        assert!(refused.to_string().contains("64 MiB"), "{refused}");
        // What says that it is empty and is not.
        assert!(read_text("/proc/version".into(), 1 << 20).unwrap().contains("Linux"));
        assert!(read("/proc/version".into(), 3).is_err());
    }
}
