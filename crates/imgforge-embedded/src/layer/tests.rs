//! Tests with real overlay mounts, each in a mount namespace of its own. They need root, as all of this crate's do.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use camino::{Utf8Path, Utf8PathBuf};
use nix::sched::CloneFlags;
use proptest::prelude::*;
use rustix::fs::{FileType, Mode, XattrFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};
use tar::EntryType;

use super::pack::pack_with;
use super::*;
use crate::worker::message::{Compression, Layer};

const EPOCH: i64 = 1_700_000_000;

/// A folder for one test.
struct Place(#[expect(dead_code, reason = "keeps the folder")] tempfile::TempDir, Utf8PathBuf);

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::try_from(folder.path().canonicalize().unwrap()).unwrap();
    Place(folder, path)
}

impl Place {
    fn at(&self, path: &str) -> Utf8PathBuf {
        self.1.join(path)
    }

    /// An empty folder, as the root of a layer is.
    fn folder(&self, path: &str) -> Utf8PathBuf {
        let path = self.at(path);
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        set_time(path.as_std_path(), 0);
        path
    }

    /// Changes a stack and leaves the changes in the folder `upper`.
    fn change<T: Send>(
        &self,
        stack: &[Utf8PathBuf],
        upper: &Utf8Path,
        work: impl FnOnce(&Path) -> T + Send,
    ) -> T {
        let work_folder = tempfile::tempdir_in(&self.1).unwrap();
        let options = format!("upperdir={upper},workdir={}", work_folder.path().display());
        self.mounted(stack, &options, work)
    }

    /// What a stack is when it is mounted.
    fn view(&self, stack: &[Utf8PathBuf]) -> BTreeMap<PathBuf, Seen> {
        // A lone lower folder would not do.
        let empty = tempfile::tempdir_in(&self.1).unwrap();
        let empty = Utf8PathBuf::try_from(empty.path().to_owned()).unwrap();
        let stack: Vec<_> = std::iter::once(&empty).chain(stack).cloned().collect();
        self.mounted(&stack, "", see)
    }

    fn mounted<T: Send>(
        &self,
        stack: &[Utf8PathBuf],
        options: &str,
        work: impl FnOnce(&Path) -> T + Send,
    ) -> T {
        let point = tempfile::tempdir_in(&self.1).unwrap();
        let lower: Vec<_> = stack.iter().rev().map(|layer| layer.as_str()).collect();
        let options = format!("userxattr,lowerdir={},{options}", lower.join(":"));
        let options = std::ffi::CString::new(options.trim_end_matches(',')).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
                let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
                rustix::mount::mount_change("/", private).unwrap();
                rustix::mount::mount(
                    "overlay",
                    point.path(),
                    "overlay",
                    MountFlags::empty(),
                    options.as_c_str(),
                )
                .unwrap();
                work(point.path())
            });
            thread.join().unwrap()
        })
    }

    fn pack(&self, upper: &Utf8Path, stack: &[Utf8PathBuf], blob: &str) -> Option<Layer> {
        pack(upper, stack, EPOCH, Compression::Gzip, &self.at(blob)).unwrap()
    }

    /// Writes a tar of these entries and unpacks it without anything below.
    fn unpack(&self, entries: &[Raw]) -> Result<Utf8PathBuf, LayerError> {
        self.unpack_over(entries, &[])
    }

    fn unpack_over(&self, entries: &[Raw], stack: &[Utf8PathBuf]) -> Result<Utf8PathBuf, LayerError> {
        let name = format!("unpacked-{}", fastrand::u64(..));
        let (blob, folder) = (self.at(&format!("{name}.tar")), self.at(&name));
        std::fs::write(&blob, tar(entries)).unwrap();
        let unpacked = unpack(&blob, stack, &folder);
        assert_eq!(folder.as_std_path().exists(), unpacked.is_ok());
        unpacked.map(|_| folder)
    }
}

/// A file as a program sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    kind: String,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    content: Vec<u8>,
    attributes: Vec<Attribute>,
    /// The first path of the same file.
    same: PathBuf,
}

/// All below a folder.
fn see(root: &Path) -> BTreeMap<PathBuf, Seen> {
    fn below(
        path: &Path,
        root: &Path,
        inodes: &mut BTreeMap<u64, PathBuf>,
        all: &mut BTreeMap<PathBuf, Seen>,
    ) {
        let meta = path.symlink_metadata().unwrap();
        let kind = meta.file_type();
        let name = path.strip_prefix(root).unwrap().to_owned();
        let open = || std::fs::File::open(path).unwrap();
        let seen = Seen {
            kind: format!("{:o} {:x}", meta.mode() & 0o170_000, meta.rdev()),
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            content: if kind.is_file() {
                std::fs::read(path).unwrap()
            } else if kind.is_symlink() {
                std::fs::read_link(path).unwrap().into_os_string().into_vec()
            } else {
                Vec::new()
            },
            attributes: if kind.is_file() || kind.is_dir() {
                attributes(open()).unwrap()
            } else {
                Vec::new()
            },
            same: if kind.is_dir() || meta.nlink() == 1 {
                PathBuf::new()
            } else {
                inodes.entry(meta.ino()).or_insert_with(|| name.clone()).clone()
            },
        };
        all.insert(name, seen);
        if kind.is_dir() {
            let mut inside: Vec<_> = path.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
            inside.sort();
            for path in inside {
                below(&path, root, inodes, all);
            }
        }
    }
    let mut all = BTreeMap::new();
    below(root, root, &mut BTreeMap::new(), &mut all);
    all
}

/// What differs between two views of the same files: folders that are in no layer keep their time, which a mount that
/// was written to has moved.
fn differences(one: &BTreeMap<PathBuf, Seen>, other: &BTreeMap<PathBuf, Seen>) -> Vec<String> {
    let paths: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let pairs = paths.into_iter().map(|path| (path, one.get(path), other.get(path)));
    pairs.filter(|(_, one, other)| one != other).map(|pair| format!("{pair:#?}")).collect()
}

fn set_time(path: &Path, seconds: i64) {
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn set_attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// An entry of a tar, as wrong as one likes.
#[derive(Debug, Clone)]
struct Raw {
    path: Vec<u8>,
    kind: EntryType,
    link: Vec<u8>,
    mode: u32,
    content: Vec<u8>,
    device: (u32, u32),
    attributes: Vec<Attribute>,
}

fn raw(kind: EntryType, path: impl AsRef<[u8]>, link: impl AsRef<[u8]>) -> Raw {
    Raw {
        path: path.as_ref().to_vec(),
        kind,
        link: link.as_ref().to_vec(),
        mode: if kind == EntryType::Directory { 0o755 } else { 0o644 },
        content: Vec::new(),
        device: (1, 3),
        attributes: Vec::new(),
    }
}

fn raw_file(path: &str, content: &str) -> Raw {
    Raw { content: content.into(), ..raw(EntryType::Regular, path, "") }
}

fn raw_folder(path: &str) -> Raw {
    raw(EntryType::Directory, path, "")
}

fn raw_link(path: &str, target: &str) -> Raw {
    raw(EntryType::Symlink, path, target)
}

fn raw_hard(path: &str, target: &str) -> Raw {
    raw(EntryType::Link, path, target)
}

fn tar(entries: &[Raw]) -> Vec<u8> {
    let mut out = Vec::new();
    for raw in entries {
        let entry = header::Entry {
            path: &raw.path,
            kind: raw.kind,
            link: &raw.link,
            mode: raw.mode,
            uid: 0,
            gid: 0,
            size: raw.content.len() as u64,
            mtime: EPOCH,
            device: raw.device,
            attributes: &raw.attributes,
        };
        entry.write(&mut out).unwrap();
        out.extend_from_slice(&raw.content);
        header::pad(&mut out, raw.content.len() as u64).unwrap();
    }
    out.extend_from_slice(&[0; 1024]);
    out
}

/// The names in a packed layer.
fn listed(blob: &Utf8Path) -> Vec<String> {
    let file = std::fs::File::open(blob).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let entries = archive.entries().unwrap();
    entries.map(|entry| String::from_utf8_lossy(&entry.unwrap().path_bytes()).into_owned()).collect()
}

/// A stack with one layer of many kinds of things.
fn base(place: &Place) -> Vec<Utf8PathBuf> {
    let base = place.folder("base");
    for folder in ["etc", "etc/app", "tmp", "usr", "usr/bin", "old", "old/deep"] {
        std::fs::create_dir(base.join(folder)).unwrap();
    }
    std::fs::set_permissions(base.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    for file in ["etc/passwd", "etc/app/conf", "usr/bin/tool", "old/one", "old/deep/two"] {
        std::fs::write(base.join(file), format!("{file} of the base")).unwrap();
    }
    symlink("usr/bin", base.join("bin")).unwrap();
    for path in see(base.as_std_path()).keys().rev() {
        set_time(&base.as_std_path().join(path), 1_600_000_000);
    }
    vec![base]
}

#[test]
fn what_a_mount_has_changed_is_the_same_after_packing_and_unpacking() {
    let place = place();
    let stack = base(&place);
    let upper = place.folder("upper");
    place.change(&stack, &upper, |root| {
        std::fs::write(root.join("etc/new"), "new").unwrap();
        set_time(&root.join("etc/new"), 1_650_000_000);
        std::fs::remove_file(root.join("etc/passwd")).unwrap();
        std::fs::remove_dir_all(root.join("old")).unwrap();
        std::fs::create_dir(root.join("old")).unwrap();
        std::fs::create_dir(root.join("old/deep")).unwrap();
        std::fs::write(root.join("old/deep/three"), "3").unwrap();
        std::fs::hard_link(root.join("old/deep/three"), root.join("also three")).unwrap();
        std::fs::hard_link(root.join("usr/bin/tool"), root.join("usr/bin/same")).unwrap();
        std::fs::set_permissions(root.join("etc/app"), PermissionsExt::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(root.join("etc/app/conf"), Some(3_000_000), Some(4_000_000)).unwrap();
        std::fs::write(root.join("setuid"), "#!").unwrap();
        set_attribute(&root.join("setuid"), "user.line\nbreak", b"a\nb=c\0d");
        // A version 2 capability: CAP_NET_BIND_SERVICE, permitted and effective.
        let mut capability = vec![1, 0, 0, 2, 0, 4, 0, 0];
        capability.resize(20, 0);
        set_attribute(&root.join("setuid"), "security.capability", &capability);
        std::fs::set_permissions(root.join("setuid"), PermissionsExt::from_mode(0o4755)).unwrap();
        let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
        std::fs::create_dir(root.join("d".repeat(200))).unwrap();
        std::fs::write(root.join(&long), "long").unwrap();
        symlink(&long, root.join("long link")).unwrap();
        std::fs::write(root.join(OsString::from_vec(b"\xff\xfe not text \n".to_vec())), "bytes").unwrap();
        std::fs::write(root.join("ümlaut"), "").unwrap();
        let mode = Mode::from_raw_mode(0o640);
        let cwd = rustix::fs::CWD;
        rustix::fs::mknodat(cwd, root.join("pipe"), FileType::Fifo, mode, 0).unwrap();
        rustix::fs::mknodat(
            cwd,
            root.join("null"),
            FileType::CharacterDevice,
            mode,
            rustix::fs::makedev(1, 3),
        )
        .unwrap();
        drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap());
        std::fs::File::create(root.join("sparse")).unwrap().set_len(3 << 20).unwrap();
        std::fs::write(root.join("tmp/passing"), "").unwrap();
        std::fs::remove_file(root.join("tmp/passing")).unwrap();
    });
    let layer = place.pack(&upper, &stack, "blob").unwrap();
    let names = listed(&place.at("blob"));
    assert!(names.contains(&"etc/.wh.passwd".to_owned()), "{names:?}");
    assert!(names.contains(&"old/.wh..wh..opq".to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with("tmp") || name.contains("socket")), "{names:?}");
    assert!(!names.contains(&"old/deep/.wh..wh..opq".to_owned()), "{names:?}");

    let unpacked = place.at("unpacked");
    assert_eq!(unpack(&place.at("blob"), &stack, &unpacked).unwrap(), layer.diff_id);
    let with = |top: &Utf8Path| place.view(&[stack[0].clone(), top.to_owned()]);
    let (one, other) = (with(&upper), with(&unpacked));
    assert_eq!(differences(&one, &other), Vec::<String>::new());
    assert!(!one.contains_key(Path::new("etc/passwd")) && !one.contains_key(Path::new("old/one")));
    let tool = &one[Path::new("usr/bin/tool")];
    assert_eq!(tool.same, Path::new("usr/bin/same"));
    let setuid = &one[Path::new("setuid")];
    assert_eq!((setuid.mode, setuid.attributes.len()), (0o4755, 2));
    assert_eq!(one[Path::new("etc/new")].mtime, (1_650_000_000, 0));
    assert_eq!(setuid.mtime, (EPOCH, 0));
    assert_eq!(one[Path::new("etc/app/conf")].owner, (3_000_000, 4_000_000));

    let again = place.pack(&unpacked, &stack, "again").unwrap();
    assert_eq!(again, layer);
    assert_eq!(std::fs::read(place.at("again")).unwrap(), std::fs::read(place.at("blob")).unwrap());
}

#[test]
fn a_step_that_leaves_no_trace_makes_no_layer() {
    let place = place();
    let stack = base(&place);
    let upper = place.folder("upper");
    let before = place.view(&stack);
    place.change(&stack, &upper, |root| {
        for folder in ["tmp", "etc/app", "old/deep"] {
            std::fs::write(root.join(folder).join("passing"), "").unwrap();
            std::fs::remove_file(root.join(folder).join("passing")).unwrap();
        }
    });
    assert!(upper.join("old/deep").exists(), "overlay no longer copies folders up: this test shows nothing");
    assert_eq!(place.pack(&upper, &stack, "blob"), None);
    assert!(!place.at("blob").exists());
    assert_eq!(upper.read_dir_utf8().unwrap().count(), 0);
    let after = place.view(&[stack[0].clone(), upper]);
    let differences = differences(&before, &after);
    // The folder of the layer itself is new.
    assert!(
        differences.len() <= 1 && differences.iter().all(|path| path.starts_with("(\n    \"\"")),
        "{differences:?}"
    );
}

#[test]
fn a_folder_is_in_the_layer_when_its_mode_has_changed_and_not_when_only_its_time_has() {
    let place = place();
    let stack = base(&place);
    let upper = place.folder("upper");
    place.change(&stack, &upper, |root| {
        std::fs::set_permissions(root.join("old/deep"), PermissionsExt::from_mode(0o700)).unwrap();
        set_time(&root.join("etc/app"), 1_650_000_000);
    });
    place.pack(&upper, &stack, "blob").unwrap();
    assert_eq!(listed(&place.at("blob")), ["old/", "old/deep/"]);
    assert!(!upper.join("etc").exists());
}

#[test]
fn the_bytes_of_a_layer_depend_neither_on_threads_nor_on_times_nor_on_the_order_of_making() {
    let place = place();
    let names: Vec<String> = (0..40).map(|number| format!("file-{number}")).collect();
    let content = |name: &str| -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(name.bytes().map(u64::from).sum());
        (0..300_000).map(|at| if at % 3 == 0 { random.u8(..) } else { b'x' }).collect()
    };
    let one = place.folder("one");
    for name in &names {
        std::fs::write(one.join(name), content(name)).unwrap();
    }
    let two = place.folder("two");
    for name in names.iter().rev() {
        std::fs::write(two.join(name), content(name)).unwrap();
        set_time(two.join(name).as_std_path(), EPOCH + 100);
    }
    for (compression, tool) in [(Compression::Gzip, "gzip"), (Compression::Zstd, "zstd")] {
        let packed = |folder: &Utf8Path, threads: usize| {
            let blob = place.at(&format!("{tool}-{threads}"));
            let layer = pack_with(folder, &[], EPOCH, (compression, threads), &blob).unwrap().unwrap();
            let bytes = std::fs::read(&blob).unwrap();
            assert_eq!(bytes.len() as u64, layer.size);
            assert_eq!(format!("sha256:{}", sha256(&bytes)), layer.digest);
            (layer, bytes)
        };
        let first = packed(&one, 1);
        for (folder, threads) in [(&one, 2), (&two, 7)] {
            assert!(packed(folder, threads) == first, "{tool} with {threads} threads differs");
        }
        let output =
            Command::new(tool).arg("-dc").stdin(std::fs::File::open(place.at(&format!("{tool}-2"))).unwrap());
        let plain = output.stderr(Stdio::inherit()).output().expect("gzip and zstd are installed");
        assert!(plain.status.success());
        assert_eq!(format!("sha256:{}", sha256(&plain.stdout)), first.0.diff_id);
        assert_eq!(plain.stdout.len() as u64, first.0.unpacked_size);
        assert_eq!(unpack(&place.at(&format!("{tool}-2")), &[], &place.at(tool)).unwrap(), first.0.diff_id);
        assert!(see(place.at(tool).as_std_path()).len() == names.len() + 1);
    }
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(bytes))
}

#[test]
fn numbers_that_ustar_has_no_room_for_come_back() {
    let entry = header::Entry {
        path: b"large",
        kind: EntryType::Regular,
        link: &[],
        mode: 0o600,
        uid: u32::MAX - 1,
        gid: 1 << 21,
        size: 9 << 30,
        mtime: -5,
        device: (0, 0),
        attributes: &[],
    };
    let mut bytes = Vec::new();
    entry.write(&mut bytes).unwrap();
    let read = reader::Tar::new(&bytes[..]).next().unwrap().unwrap();
    assert_eq!((read.uid, read.gid, read.size, read.mtime), (u32::MAX - 1, 1 << 21, 9 << 30, (-5, 0)));
    let theirs = tar::Archive::new(&bytes[..]).entries().unwrap().next().unwrap().unwrap().size();
    assert_eq!(theirs, 9 << 30);
}

#[test]
fn a_name_that_would_mark_something_as_gone_cannot_be_packed() {
    let place = place();
    let upper = place.folder("upper");
    std::fs::write(upper.join(".wh.x"), "").unwrap();
    let error = pack(&upper, &[], EPOCH, Compression::Gzip, &place.at("blob")).unwrap_err();
    assert!(error.to_string().contains("/.wh.x"), "{error}");
    assert!(!place.at("blob").exists());
}
