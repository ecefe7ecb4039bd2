//! Restricts what is mounted below a mount: a volume may be a folder of this machine with other file systems in it.
//!
//! `mount_setattr(2)` would do it in one call, but neither rustix nor nix has it in safe code. So each mount is found
//! by its path and remounted, until the kernel's own table of mounts says that all of them are restricted: whatever
//! others rename meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::place::remount;

/// The number of times that the table is read while others rename what leads to the mounts.
const TRIES: u32 = 100;

/// Restricts every mount below a mount that a path leads to. Those that are hidden by another mount are passed over,
/// and so are those behind folders where nobody in this user namespace may go.
///
/// # Errors
/// Returns an error when the kernel refuses, when root may not go where one of them is (NFS, FUSE), or when their paths
/// do not stop changing.
pub(super) fn restrict_below(mount: &OwnedFd, flags: MountFlags) -> io::Result<()> {
    let top = id(mount)?;
    let mut unreachable = BTreeSet::new();
    for _ in 0..TRIES {
        let table = Table::parse(&std::fs::read("/proc/self/mountinfo")?);
        let gone = || io::Error::other("it is not among the mounts of this process any more");
        let mut left = table.visible_below(top).ok_or_else(gone)?;
        left.retain(|(number, _, below)| !below.flags.contains(flags) && !unreachable.contains(number));
        if left.is_empty() {
            return Ok(());
        }
        for (number, path, below) in left {
            let can_be_reached =
                restrict_one(mount, (number, path), below.flags | flags).map_err(|error| {
                    let text =
                        format!("{}, which is mounted in it, cannot be restricted: {error}", path.display());
                    io::Error::new(error.kind(), text)
                })?;
            if !can_be_reached {
                unreachable.insert(number);
            }
        }
    }
    Err(io::Error::other("the paths of what is mounted in it do not stop changing"))
}

/// Gives a mount these flags, if it is still at its path. Returns whether somebody here may go there.
fn restrict_one(mount: &OwnedFd, (number, path): (u64, &Path), flags: MountFlags) -> io::Result<bool> {
    match open(mount, path) {
        Ok(found) if id(&found)? == number => remount(&found, flags)?,
        // Somebody has moved it since the table was read.
        Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
        // A folder on the way belongs to a user that the namespace does not have: its root is nobody special there.
        Err(Errno::ACCESS) if is_user_namespace()? => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    Ok(true)
}

/// Opens a path below a mount's root, across the mounts on the way.
fn open(mount: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(mount, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
}

/// Returns the number of the mount that a descriptor is in. Its file system is not asked: a server may be gone, and
/// FUSE answers its own user alone.
fn id(of: &OwnedFd) -> io::Result<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    Ok(rustix::fs::statx(of, "", flags, StatxFlags::empty())?.stx_mnt_id)
}

/// Returns whether this process is in another user namespace than the machine's first (`user_namespaces(7)`).
fn is_user_namespace() -> io::Result<bool> {
    let map = std::fs::read_to_string("/proc/self/uid_map")?;
    Ok(map.split_whitespace().ne(["0", "0", "4294967295"]))
}

/// The mounts of a namespace by their numbers.
struct Table(BTreeMap<u64, Mount>);

/// One line of `/proc/self/mountinfo`.
struct Mount {
    /// The number of the mount that it is mounted in.
    parent: u64,
    /// The path that it is mounted on.
    path: PathBuf,
    /// Its own flags, without those of access times.
    flags: MountFlags,
}

impl Table {
    /// Reads `/proc/self/mountinfo` (`proc(5)`).
    fn parse(text: &[u8]) -> Self {
        let lines = text.split(|byte| *byte == b'\n').filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ');
            let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
            let (own, parent) = (number()?, number()?);
            let path = unescape(fields.nth(2)?);
            Some((own, Mount { parent, path, flags: flags(fields.next()?) }))
        });
        Self(lines.collect())
    }

    /// Returns the mounts below one to which a path leads: their numbers, and their paths relative to it. `None` when
    /// it is not in the table.
    fn visible_below(&self, top: u64) -> Option<Vec<(u64, &Path, &Mount)>> {
        let root = &self.0.get(&top)?.path;
        let mut inside: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (number, mount) in &self.0 {
            inside.entry(mount.parent).or_default().push(*number);
        }
        let inside = |number: u64| inside.get(&number).map_or(&[][..], Vec::as_slice);
        let mut found = Vec::new();
        let mut next = vec![top];
        while let Some(outer) = next.pop() {
            let paths: HashSet<&Path> =
                inside(outer).iter().map(|number| self.0[number].path.as_path()).collect();
            for number in inside(outer) {
                let mount = &self.0[number];
                let is_hidden = mount.path.ancestors().skip(1).any(|above| paths.contains(above));
                if is_hidden || *number == top {
                    continue;
                }
                next.push(*number);
                let is_covered = inside(*number).iter().any(|upper| self.0[upper].path == mount.path);
                if let (false, Ok(path)) = (is_covered, mount.path.strip_prefix(root)) {
                    found.push((*number, path, mount));
                }
            }
        }
        Some(found)
    }
}

/// The flags of a mount by the words of the sixth field.
fn flags(options: &[u8]) -> MountFlags {
    let words = options.split(|byte| *byte == b',').map(|word| match word {
        b"ro" => MountFlags::RDONLY,
        b"nosuid" => MountFlags::NOSUID,
        b"nodev" => MountFlags::NODEV,
        b"noexec" => MountFlags::NOEXEC,
        b"nosymfollow" => MountFlags::NOSYMFOLLOW,
        _ => MountFlags::empty(),
    });
    words.collect()
}

/// Blanks and the like are written as `\` and three octal digits.
fn unescape(mut text: &[u8]) -> PathBuf {
    let mut path = Vec::new();
    while let Some((&byte, rest)) = text.split_first() {
        let digits = rest.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.filter(|_| byte == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok());
        path.push(code.unwrap_or(byte));
        text = if code.is_some() { &rest[3..] } else { rest };
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visible(table: &Table, below: u64) -> Vec<(u64, &str)> {
        let mut found: Vec<_> = table
            .visible_below(below)
            .unwrap()
            .into_iter()
            .map(|(number, path, _)| (number, path.to_str().unwrap()))
            .collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn mounts_are_found_below_another() {
        let table = Table::parse(
            b"22 1 254:0 / / rw - ext4 /dev/vda rw\n\
              40 22 0:5 / /a\\040b rw,nosuid,nodev,relatime - tmpfs x ro\n\
              41 40 0:6 / /a\\040b/c\\134d ro,noexec,nosymfollow shared:7 - tmpfs x rw\n\
              42 22 0:7 / /other rw - tmpfs x rw\nnonsense\n",
        );
        assert_eq!(table.0.len(), 4);
        assert_eq!(visible(&table, 22), [(40, "a b"), (41, "a b/c\\d"), (42, "other")]);
        assert_eq!(visible(&table, 40), [(41, "c\\d")]);
        assert!(visible(&table, 41).is_empty());
        assert!(table.visible_below(99).is_none());
        assert_eq!(table.0[&40].flags, MountFlags::NOSUID | MountFlags::NODEV);
        let all = MountFlags::RDONLY | MountFlags::NOEXEC | MountFlags::NOSYMFOLLOW;
        assert_eq!(table.0[&41].flags, all);
    }

    #[test]
    fn no_path_leads_to_a_mount_that_another_one_hides() {
        let line =
            |own: u64, parent: u64, path: &str| format!("{own} {parent} 0:5 / {path} rw - tmpfs x rw\n");
        let lines = [
            line(1, 0, "/"),
            // Behind 11, with what is in it.
            line(10, 1, "/p/q"),
            line(12, 10, "/p/q/r"),
            line(11, 1, "/p"),
            line(13, 11, "/p/q"),
            // Below 21, at the same place; and what was in it before.
            line(20, 1, "/twice"),
            line(22, 20, "/twice/in"),
            line(21, 20, "/twice"),
            line(23, 21, "/twice/in"),
            // A name that only begins alike hides nothing.
            line(30, 1, "/pp"),
        ];
        let table = Table::parse(lines.concat().as_bytes());
        let expected = [(11, "p"), (13, "p/q"), (21, "twice"), (23, "twice/in"), (30, "pp")];
        assert_eq!(visible(&table, 1), expected);
    }
}
