//! Layers: what has changed on a file system, as a tar that every engine reads, and as a folder that overlay mounts.
//!
//! [`pack`] makes the tar of the `upper` folder of an overlay mount, or of what [`merge`] has made of several of them;
//! [`unpack`] makes such a folder of a tar. Both speak
//! the form of the OCI image specification ("Image Layer Filesystem Changeset") on one side: `.wh.NAME` for what is
//! gone, `.wh..wh..opq` for a folder that hides all below it; and on the other that of the kernel's overlay with the
//! option `userxattr`: a character device 0/0, and the attribute `user.overlay.opaque`.
//!
//! Nothing here is flushed to the disk: what a power cut does to it is told by the [store](crate::store).

mod blob;
mod decode;
mod header;
mod merge;
mod pack;
pub(crate) mod reader;
mod sparse;
mod stack;
#[cfg(test)]
mod tests;
mod unpack;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use camino::Utf8Path;
use imgforge_oci::Digest;
use rustix::io::Errno;

pub use merge::merge;
pub use pack::pack;
pub(crate) use unpack::free;
pub use unpack::{Unpacked, unpack, unpack_within};

/// Marks a file that is gone.
const WHITEOUT: &[u8] = b".wh.";
/// Marks a folder that hides what is below it.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The one that hides what is below a folder.
const OVERLAY_OPAQUE: &str = "user.overlay.opaque";
/// Longest path in a layer: no program could open a longer one (`PATH_MAX`).
const PATH_MAX: usize = 4096;

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The machine said no.
    #[error("{path}: {error}")]
    Io {
        /// The path in the layer, or that of the blob.
        path: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It is no tar, or a broken one.
    #[error("the layer is no tar that can be read: {0}")]
    Tar(#[source] io::Error),
    /// A path of the layer is none that a layer may have.
    #[error("{path}: {why}")]
    Path {
        /// As the layer has it.
        path: String,
        /// The reason why not.
        why: &'static str,
    },
    /// The user namespace of this process lacks an id.
    #[error(
        "{path} cannot belong to {uid}:{gid}: this user has no subordinate id for it (see /etc/subuid and /etc/subgid)"
    )]
    Owner {
        /// The path in the layer.
        path: String,
        /// Its owner there.
        uid: u32,
        /// Its group there.
        gid: u32,
    },
    /// It unpacks to more than it may.
    #[error("the layer unpacks to more than {limit} bytes")]
    TooLarge {
        /// The number of bytes that it may have.
        limit: u64,
    },
    /// It unpacks to more than the disk has free.
    #[error("the layer unpacks to more than the {free} bytes that the disk has free")]
    NoRoom {
        /// The number of bytes that are free.
        free: u64,
    },
}

/// Reads a layer through. The digest of its tar (`diff_id`) and the tar's size in bytes.
///
/// # Errors
/// Returns an error when the blob cannot be read or decompressed.
pub fn measure(blob: &Utf8Path) -> io::Result<(Digest, u64)> {
    decode::Decoded::open(std::fs::File::open(blob)?, u64::MAX)?.finish()
}

/// A path as people read it.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).escape_debug().to_string()
}

/// Returns whether overlay hides what is below a folder.
fn is_opaque(folder: impl AsFd) -> io::Result<bool> {
    let mut value = [0_u8; 8];
    match rustix::fs::fgetxattr(&folder, OVERLAY_OPAQUE, &mut value) {
        Ok(len) => Ok(value.get(..len) == Some(b"y")),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Returns whether a file is overlay's mark for what is gone.
fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice
        && stat.st_rdev == 0
}

/// An error that names its file.
fn at(path: &Path, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("/{}: {error}", shown(path.as_os_str().as_bytes())))
}

/// Which times of files are those of the build and not of what is built. They become one that is the same on every
/// machine; times that files have brought along, from packages and archives, stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clamp {
    /// The time at which the step began, in seconds since 1970: what is not older was written by it.
    pub since: i64,
    /// The time that takes the place of such times.
    pub epoch: i64,
}

impl Clamp {
    /// Every time stays.
    pub const NONE: Self = Self { since: i64::MAX, epoch: 0 };

    /// Returns the time that a file gets in the layer.
    fn of(self, time: i64) -> i64 {
        if time >= self.since { self.epoch } else { time }
    }
}
