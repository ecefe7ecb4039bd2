//! What is mounted inside something that is mounted: a volume may be a folder of this machine with others below it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::mount::MountFlags;

use super::place::restrict;

/// Restricts all that is mounted below a mount, as [`restrict`] does with the mount itself.
///
/// # Errors
/// When the kernel refuses, or when somebody makes a way to one of them lead elsewhere meanwhile.
pub(super) fn restrict_below(mount: &OwnedFd, flags: MountFlags) -> io::Result<()> {
    let table = parse(&std::fs::read("/proc/self/mountinfo")?);
    let below = descendants(&table, id(mount)?);
    for (number, path) in &below {
        let resolve = ResolveFlags::NO_SYMLINKS;
        let found = rustix::fs::openat2(CWD, *path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve);
        let found = found.map_err(io::Error::from).and_then(|found| Ok((id(&found)?, found)));
        match found {
            Ok((same, found)) if same == *number => restrict(&found, flags)?,
            // It is hidden below another one of them.
            Ok((other, _)) if below.contains_key(&other) => {}
            _ => return Err(io::Error::other("it was changed while it was mounted")),
        }
    }
    Ok(())
}

fn id(mount: &OwnedFd) -> io::Result<u64> {
    Ok(rustix::fs::statx(mount, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// A mount: the one that it is in, and where.
type Mounts = BTreeMap<u64, (u64, PathBuf)>;

/// Reads `/proc/self/mountinfo` (`proc(5)`).
fn parse(table: &[u8]) -> Mounts {
    let lines = table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
        let (own, parent) = (number()?, number()?);
        Some((own, (parent, unescape(fields.nth(2)?))))
    });
    lines.collect()
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

/// The mounts below one.
fn descendants(table: &Mounts, of: u64) -> BTreeMap<u64, &Path> {
    let is_below = |number: &u64| {
        let parents = std::iter::successors(table.get(number), |(parent, _)| table.get(parent));
        parents.take(table.len()).any(|(parent, _)| *parent == of)
    };
    table
        .iter()
        .filter(|(number, _)| is_below(number))
        .map(|(number, (_, path))| (*number, path.as_path()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_below_another() {
        let table = parse(
            b"22 1 254:0 / / rw - ext4 /dev/vda rw\n\
              40 22 0:5 / /a\\040b rw - tmpfs x rw\n\
              41 40 0:6 / /a\\040b/c\\134d rw - tmpfs x rw\n\
              42 22 0:7 / /other rw - tmpfs x rw\nnonsense\n",
        );
        assert_eq!(table.len(), 4);
        let below = |of| descendants(&table, of).into_keys().collect::<Vec<_>>();
        assert_eq!((below(22), below(40), below(41)), (vec![40, 41, 42], vec![41], vec![]));
        assert_eq!(descendants(&table, 40)[&41], Path::new("/a b/c\\d"));
    }
}
