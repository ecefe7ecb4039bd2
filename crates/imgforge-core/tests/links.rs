//! Links are followed as the kernel follows them, by chance and at the limit.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use imgforge_core::links::{Entry, Last, MAX_LINKS, Refused, Scope, follow};
use proptest::prelude::*;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// What is made in a folder, where that can be made.
#[derive(Debug, Clone)]
enum Made {
    Folder(String),
    File(String),
    Link(String, String),
}

fn open(folder: &Path) -> OwnedFd {
    rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

/// Returns device and inode of what the kernel finds.
fn kernel(root: &OwnedFd, path: &Path, last: Last, how: ResolveFlags) -> Result<(u64, u64), Errno> {
    let flags = OFlags::PATH | if last == Last::Kept { OFlags::NOFOLLOW } else { OFlags::empty() };
    let found = rustix::fs::fstat(rustix::fs::openat2(root, path, flags, Mode::empty(), how)?)?;
    Ok((found.st_dev, found.st_ino))
}

/// Returns the same of where our walk ends, whose path has no links.
fn ours(folder: &Path, root: &OwnedFd, path: &Path, scope: Scope, last: Last) -> Result<(u64, u64), Errno> {
    let led = follow(path, scope, last, |at| {
        let kind = fs::symlink_metadata(folder.join(at))?.file_type();
        Ok::<_, io::Error>(match () {
            () if kind.is_dir() => Entry::Folder,
            () if kind.is_symlink() => Entry::Link(fs::read_link(folder.join(at))?),
            () => Entry::File,
        })
    });
    let end = match led.map_err(|error| Errno::from_io_error(&error).unwrap())? {
        Ok(end) if end.as_os_str().is_empty() => PathBuf::from("."),
        Ok(end) => end,
        Err(Refused::Loop) => return Err(Errno::LOOP),
        Err(Refused::NotFolder(_)) => return Err(Errno::NOTDIR),
        Err(Refused::Outside { .. }) => return Err(Errno::XDEV),
    };
    let links = fs::symlink_metadata(folder.join(&end)).unwrap().is_symlink();
    assert!(!links || last == Last::Kept, "{} is a link", end.display());
    let stat = rustix::fs::statat(root.as_fd(), &end, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Paths that often hit something: few names, short.
fn path() -> impl Strategy<Value = String> {
    let part = prop_oneof![6 => "[abc]", 2 => Just("..".to_owned()), 1 => Just(".".to_owned())];
    let parts = prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"));
    (
        prop::sample::select(vec!["", "", "", "/", "//"]),
        parts,
        prop::sample::select(vec!["", "", "", "/", "/."]),
    )
        .prop_map(|(start, parts, end)| format!("{start}{parts}{end}"))
}

fn made() -> impl Strategy<Value = Made> {
    let place = || prop::collection::vec("[abc]", 1..4).prop_map(|parts| parts.join("/"));
    prop_oneof![
        3 => place().prop_map(Made::Folder),
        1 => place().prop_map(Made::File),
        4 => (place(), path()).prop_map(|(place, target)| Made::Link(place, target)),
    ]
}

/// Makes what can be made; a link that is already there may be led through, but not out of the folder.
fn make(folder: &Path, root: &OwnedFd, made: &[Made]) {
    for one in made {
        let (Made::Folder(place) | Made::File(place) | Made::Link(place, _)) = one;
        let parent = Path::new(place).parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent
            && kernel(root, parent, Last::Followed, ResolveFlags::NO_SYMLINKS).is_err()
        {
            continue;
        }
        let at = folder.join(place);
        let _ = match one {
            Made::Folder(_) => fs::create_dir(at),
            Made::File(_) if at.symlink_metadata().is_ok() => Ok(()),
            Made::File(_) => fs::write(at, ""),
            Made::Link(_, target) => symlink(target, at),
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_path_leads_where_the_kernel_says(
        all in prop::collection::vec(made(), 0..24),
        paths in prop::collection::vec(path(), 8),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let root = open(folder.path());
        make(folder.path(), &root, &all);
        let scopes = [(Scope::InRoot, ResolveFlags::IN_ROOT), (Scope::Beneath, ResolveFlags::BENEATH)];
        for path in paths.iter().map(Path::new) {
            for (scope, how) in scopes {
                for last in [Last::Followed, Last::Kept] {
                    let ours = ours(folder.path(), &root, path, scope, last);
                    prop_assert_eq!(ours, kernel(&root, path, last, how), "{:?} {:?} {:?}", path, scope, last);
                }
            }
        }
    }
}

#[test]
fn as_many_links_are_followed_as_the_kernel_follows_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("0")).unwrap();
    for n in 0..=MAX_LINKS {
        symlink(n.to_string(), folder.path().join((n + 1).to_string())).unwrap();
    }
    let root = open(folder.path());
    for (links, is_followed) in [(MAX_LINKS, true), (MAX_LINKS + 1, false)] {
        let path = PathBuf::from(links.to_string());
        let kernel = kernel(&root, &path, Last::Followed, ResolveFlags::IN_ROOT);
        assert_eq!(ours(folder.path(), &root, &path, Scope::InRoot, Last::Followed), kernel, "{links}");
        assert_eq!(kernel.is_ok(), is_followed, "{links}");
    }
}
