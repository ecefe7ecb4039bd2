//! Tests with real overlay mounts, each in a mount namespace of its own. They need root, as all of this crate's do.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
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
/// What was written later than this was written by a test.
const CLAMP: Clamp = Clamp { since: 1_750_000_000, epoch: EPOCH };

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
        in_namespace(|| {
            let options = Some(options.as_c_str());
            rustix::mount::mount("overlay", point.path(), "overlay", MountFlags::empty(), options).unwrap();
            work(point.path())
        })
    }

    fn pack(&self, upper: &Utf8Path, stack: &[Utf8PathBuf], blob: &str) -> Option<Layer> {
        pack(upper, stack, CLAMP, Compression::Gzip, &self.at(blob)).unwrap()
    }

    /// Writes a tar of these entries and unpacks it without anything below.
    fn unpack(&self, entries: &[Raw]) -> Result<Utf8PathBuf, LayerError> {
        self.unpack_over(entries, &[])
    }

    fn unpack_over(&self, entries: &[Raw], stack: &[Utf8PathBuf]) -> Result<Utf8PathBuf, LayerError> {
        self.unpack_bytes(&tar(entries), stack)
    }

    fn unpack_bytes(&self, bytes: &[u8], stack: &[Utf8PathBuf]) -> Result<Utf8PathBuf, LayerError> {
        let name = format!("unpacked-{:016x}", fastrand::u64(..));
        let (blob, folder) = (self.at(&format!("{name}.tar")), self.at(&name));
        std::fs::write(&blob, bytes).unwrap();
        let unpacked = unpack(&blob, stack, &folder);
        assert_eq!(folder.as_std_path().exists(), unpacked.is_ok());
        unpacked.map(|_| folder)
    }
}

/// Does something where mounts are nobody else's, and gone afterwards.
fn in_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
            rustix::mount::mount_change("/", private).unwrap();
            work()
        });
        thread.join().unwrap()
    })
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
fn a_second_name_says_what_its_file_is_like() {
    let place = place();
    let entries = [
        raw_file("f", "text"),
        Raw { mode: 0o4711, ..raw_hard("g", "f") },
        raw_link("l", "/etc/passwd"),
        Raw { mode: 0, ..raw_hard("m", "l") },
    ];
    let passwd = std::fs::metadata("/etc/passwd").unwrap().mode();
    let folder = place.unpack(&entries).unwrap();
    let meta = std::fs::metadata(folder.join("f")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.nlink()), (0o4711, 2));
    assert_eq!(std::fs::symlink_metadata(folder.join("m")).unwrap().nlink(), 2);
    assert_eq!(std::fs::metadata("/etc/passwd").unwrap().mode(), passwd);
    // One that is brought up from below has it too, and what is below stays.
    let over = place
        .unpack_over(&[Raw { mode: 0o600, ..raw_hard("h", "g") }], std::slice::from_ref(&folder))
        .unwrap();
    assert_eq!(std::fs::metadata(over.join("g")).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(std::fs::metadata(folder.join("g")).unwrap().mode() & 0o7777, 0o4711);
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
    assert_eq!(unpack(&place.at("blob"), &stack, &unpacked).unwrap().diff_id, layer.diff_id);
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
    assert_eq!(differences(&before, &after), Vec::<String>::new());
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
        set_time(two.join(name).as_std_path(), CLAMP.since + 100);
    }
    for (compression, tool) in [(Compression::Gzip, "gzip"), (Compression::Zstd, "zstd")] {
        let packed = |folder: &Utf8Path, threads: usize| {
            let blob = place.at(&format!("{tool}-{threads}"));
            let layer = pack_with(folder, &[], CLAMP, (compression, threads), &blob).unwrap().unwrap();
            let bytes = std::fs::read(&blob).unwrap();
            assert_eq!(bytes.len() as u64, layer.size);
            assert_eq!(format!("sha256:{}", sha256(&bytes)), layer.digest);
            (layer, bytes)
        };
        let first = packed(&one, 1);
        for (folder, threads) in [(&one, 2), (&two, 7)] {
            assert!(packed(folder, threads) == first, "{tool} with {threads} threads differs");
        }
        let blob = std::fs::File::open(place.at(&format!("{tool}-2"))).unwrap();
        let mut command = Command::new(tool);
        let plain = command
            .arg("-dc")
            .stdin(blob)
            .stderr(Stdio::inherit())
            .output()
            .expect("gzip and zstd are there");
        assert!(plain.status.success());
        assert_eq!(format!("sha256:{}", sha256(&plain.stdout)), first.0.diff_id);
        assert_eq!(plain.stdout.len() as u64, first.0.unpacked_size);
        assert_eq!(
            unpack(&place.at(&format!("{tool}-2")), &[], &place.at(tool)).unwrap().diff_id,
            first.0.diff_id
        );
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
fn numbers_are_those_that_go_reads() {
    for (field, expected) in [
        (&b"0000644\0"[..], Some(0o644)),
        (b"", None),
        (b"\0\0\0\0\0\0\0\0", Some(0)),
        (b"        ", Some(0)),
        (b" \0 12 \0 ", Some(0o12)),
        (b"12\x00zz\0\0\0", Some(0o12)),
        (b"77777777", Some(0o7777_7777)),
        (b"1 2\0", None),
        (b"-1\0\0", None),
        (b"8\0\0\0", None),
        (b"\x80\0\0\0\0\0\0\x07", Some(7)),
        (b"\xff\xff\xff\xff\xff\xff\xff\xfb", Some(-5)),
        (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
        (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN)),
        (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
    ] {
        assert_eq!(reader::number(field), expected, "{}", field.escape_ascii());
    }
}

#[test]
fn a_layer_whose_headers_lack_numbers_has_zeros() {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[0] = b'f';
    for field in [100..108, 108..116, 116..124, 124..136, 136..148, 329..337, 337..345] {
        header.as_mut_bytes()[field].fill(0);
    }
    header.set_cksum();
    let place = place();
    std::fs::write(place.at("blob"), [header.as_bytes().as_slice(), &[0; 1024]].concat()).unwrap();
    unpack(&place.at("blob"), &[], &place.at("folder")).unwrap();
    let meta = std::fs::metadata(place.at("folder/f")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777, meta.mtime(), meta.len()), (0, 0, 0, 0, 0));
}

#[test]
fn a_name_that_would_mark_something_as_gone_cannot_be_packed() {
    let place = place();
    let upper = place.folder("upper");
    std::fs::write(upper.join(".wh.x"), "").unwrap();
    let error = pack(&upper, &[], CLAMP, Compression::Gzip, &place.at("blob")).unwrap_err();
    assert!(error.to_string().contains("/.wh.x"), "{error}");
    assert!(!place.at("blob").exists());
}

#[test]
fn an_entry_takes_the_place_of_one_before_it_and_a_folder_keeps_what_is_in_it() {
    let place = place();
    let folder = place
        .unpack(&[
            raw_file("twice", "one"),
            raw_file("twice", "two"),
            raw_folder("folder"),
            raw_file("folder/kept", "x"),
            Raw { mode: 0o700, ..raw_folder("./folder/") },
            raw_folder("becomes a file/deep/deeper"),
            raw_file("becomes a file/deep/x", ""),
            raw_file("becomes a file", "yes"),
            raw_file("becomes a folder", ""),
            raw_folder("becomes a folder"),
            raw_link("link", "folder"),
            raw_file("link", "no link any more"),
        ])
        .unwrap();
    let read = |path: &str| std::fs::read_to_string(folder.join(path)).unwrap();
    assert_eq!(
        (read("twice"), read("becomes a file"), read("link")),
        ("two".into(), "yes".into(), "no link any more".into())
    );
    assert_eq!(read("folder/kept"), "x");
    assert_eq!(folder.join("folder").metadata().unwrap().mode() & 0o777, 0o700);
    assert!(is_opaque(stack::open_folder(folder.join("becomes a folder").as_std_path()).unwrap()).unwrap());
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_of_their_own_layer_in_any_order() {
    let place = place();
    let stack = base(&place);
    let hidden = |entries: &[Raw]| {
        let top = place.unpack_over(entries, &stack).unwrap();
        let seen = place.view(&[stack[0].clone(), top]);
        seen.keys()
            .filter(|path| path.starts_with("old"))
            .map(|path| path.display().to_string())
            .collect::<Vec<_>>()
    };
    let (folder, file) = (raw_folder("old"), raw_file("old/new", ""));
    let opaque = raw_file("old/.wh..wh..opq", "");
    for entries in [[&folder, &file, &opaque], [&opaque, &folder, &file], [&file, &opaque, &folder]] {
        assert_eq!(hidden(&entries.map(Clone::clone)), ["old", "old/new"]);
    }
    let gone = raw_file(".wh.old", "");
    assert_eq!(hidden(std::slice::from_ref(&gone)), Vec::<String>::new());
    for entries in [[&gone, &folder, &file], [&file, &gone, &folder], [&folder, &file, &gone]] {
        assert_eq!(hidden(&entries.map(Clone::clone)), ["old", "old/new"]);
    }
    assert_eq!(hidden(&[gone.clone(), raw_file("old", "a file now")]), ["old"]);
    assert_eq!(hidden(&[raw_file("old/.wh.one", "")]), ["old", "old/deep", "old/deep/two"]);
    // A device 0/0 is what marks a file as gone on the disk.
    assert_eq!(hidden(&[Raw { device: (0, 0), ..raw(EntryType::Char, "old", "") }]), Vec::<String>::new());
    // AUFS kept files of its own under such names.
    let aufs = [raw_folder(".wh..wh.plnk"), raw_file(".wh..wh.plnk/1.2", "x"), raw_file(".wh..wh.aufs", "")];
    let top = place.unpack_over(&aufs, &stack).unwrap();
    assert_eq!(top.read_dir_utf8().unwrap().count(), 0);
}

#[test]
fn folders_that_a_layer_does_not_mention_are_those_below_and_links_of_the_stack_are_followed() {
    let place = place();
    let stack = base(&place);
    std::fs::set_permissions(stack[0].join("etc/app"), PermissionsExt::from_mode(0o750)).unwrap();
    std::os::unix::fs::chown(stack[0].join("etc/app"), Some(5), Some(6)).unwrap();
    let entries = [raw_file("etc/app/new", "x"), raw_file("bin/other", "y"), raw_file("no/where", "z")];
    let top = place.unpack_over(&entries, &stack).unwrap();
    let seen = see(top.as_std_path());
    let meta = |path: &str| {
        let seen = &seen[Path::new(path)];
        (seen.mode, seen.owner, seen.mtime)
    };
    assert_eq!(meta("etc/app"), (0o750, (5, 6), (1_600_000_000, 0)));
    assert_eq!(meta("no"), (0o755, (0, 0), (0, 0)));
    assert!(seen.contains_key(Path::new("usr/bin/other")) && !seen.contains_key(Path::new("bin")));
}

#[test]
fn a_hard_link_to_a_file_below_brings_the_file_along() {
    let place = place();
    let stack = base(&place);
    let top = place
        .unpack_over(&[raw_hard("usr/same", "usr/bin/tool"), raw_hard("etc/bin", "bin")], &stack)
        .unwrap();
    let seen = see(top.as_std_path());
    assert_eq!(seen[Path::new("usr/same")].content, b"usr/bin/tool of the base");
    assert_eq!(seen[Path::new("usr/same")].same, Path::new("usr/bin/tool"));
    assert_eq!(seen[Path::new("etc/bin")].content, b"usr/bin");
    for (link, target) in
        [("a", "nothing"), ("a", "usr"), ("a", ""), ("a", "/"), ("a", "../../etc/passwd"), ("a", "a/b")]
    {
        assert!(place.unpack_over(&[raw_hard(link, target)], &stack).is_err(), "{target}");
    }
}

/// What stands around the folder that is unpacked to, and what attackers aim at.
fn victims(place: &Place) -> (Utf8PathBuf, BTreeMap<PathBuf, Seen>) {
    let outside = place.folder("outside");
    std::fs::create_dir(outside.join("folder")).unwrap();
    for name in ["file", "folder/file"] {
        std::fs::write(outside.join(name), "safe").unwrap();
    }
    let seen = see(outside.as_std_path());
    (outside, seen)
}

#[test]
fn no_entry_reaches_anything_outside() {
    let place = place();
    let (outside, before) = victims(&place);
    let victim = |path: &str| outside.join(path).to_string();
    let links = |target: &str| {
        vec![
            raw_link("l", target),
            raw_file("l/file", "attacked"),
            raw_folder("l/folder"),
            raw_file("l/folder/file", "attacked"),
            raw_hard("hard", "l/file"),
            raw_file("hard", "attacked"),
            raw_file("l/.wh.file", ""),
            raw_file("l/.wh..wh..opq", ""),
            raw_link("l/folder", "/"),
            Raw { attributes: vec![(b"user.x".to_vec(), b"y".to_vec())], ..raw_folder("l/") },
        ]
    };
    let attacks: Vec<Vec<Raw>> = vec![
        vec![raw_file("../outside/file", "attacked")],
        vec![raw_file("a/../../outside/file", "attacked")],
        vec![raw_file(&victim("file"), "attacked")],
        links(&victim("")),
        links("../outside"),
        links("../../../../../../../../../../proc/self/root"),
        vec![raw_link("file", victim("file").as_str()), raw_file("file", "attacked")],
        vec![raw_hard("file", &victim("file")), raw_file("file", "attacked")],
        vec![raw_hard("file", "../outside/file"), raw_file("file", "attacked")],
        vec![
            raw_link("folder", victim("folder").as_str()),
            raw_folder("folder"),
            raw_file("folder/file", "attacked"),
        ],
        vec![raw_link("folder", victim("folder").as_str()), raw_file("folder", "attacked")],
        vec![raw_folder("folder"), raw_link("folder/l", &victim("")), raw_file("folder", "removes the tree")],
        vec![raw_link("a", "b"), raw_link("b", "a"), raw_file("a/x", "attacked")],
        vec![raw_link("a", "a/a"), raw_file("a/x", "attacked")],
        vec![raw_link("a", "."), raw_link("a/a", "../outside"), raw_file("a/a/file", "attacked")],
        vec![raw(EntryType::Regular, "nul\0/../../outside/file", "")],
        vec![raw_file(".wh...", ""), raw_file(".wh..", ""), raw_file(".wh.", "")],
        vec![raw_file(".wh.x/y", "")],
        vec![raw_file(".wh..wh..opq/../../outside/file", "attacked")],
        vec![raw_file("/", ""), raw_link(".", "/"), raw_file("..", "")],
        vec![raw_link("empty", "")],
        vec![raw_file(&"x/".repeat(3000), "")],
        vec![raw_file(&"x".repeat(300), "")],
    ];
    for attack in attacks {
        let result = place.unpack(&attack);
        assert_eq!(see(outside.as_std_path()), before, "{attack:?} {result:?}");
        if let Err(error) = result {
            assert!(!matches!(error, LayerError::Tar(_)), "{error}");
        }
    }
    assert_eq!(
        std::fs::read_dir(&place.1)
            .unwrap()
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                !name.to_string_lossy().starts_with("unpacked-") && name != "outside"
            })
            .count(),
        0
    );
}

#[test]
fn attributes_of_overlay_are_not_taken_from_a_tar_and_others_are() {
    let place = place();
    let attributes = [
        "user.overlay.opaque",
        "user.overlay.whiteout",
        "user.overlay.redirect",
        "trusted.overlay.opaque",
        "user.mine",
    ]
    .map(|name| (name.as_bytes().to_vec(), b"y".to_vec()));
    let entries = [
        Raw { attributes: attributes.to_vec(), ..raw_folder("d") },
        Raw { attributes: attributes.to_vec(), ..raw_file("f", "") },
    ];
    let folder = place.unpack(&entries).unwrap();
    for name in ["d", "f"] {
        assert_eq!(attribute_names(std::fs::File::open(folder.join(name)).unwrap()).unwrap(), [b"user.mine"]);
    }
}

#[test]
fn broken_and_endless_archives_are_errors_that_leave_nothing() {
    let place = place();
    let good = tar(&[raw_folder("d"), raw_file("d/f", &"x".repeat(2000))]);
    let check = |bytes: &[u8], limit: u64| {
        let (blob, folder) = (place.at("blob"), place.at("folder"));
        std::fs::write(&blob, bytes).unwrap();
        let result = unpack_within(&blob, &[], &folder, limit);
        assert_eq!(folder.as_std_path().exists(), result.is_ok());
        let _ = std::fs::remove_dir_all(&folder);
        result
    };
    assert!(check(&good, good.len() as u64).is_ok());
    assert!(matches!(check(&good, good.len() as u64 - 1), Err(LayerError::TooLarge { .. })));
    for end in [100, 512, 900, 1024, 1500, 3000] {
        let cut = check(&good[..end], u64::MAX);
        assert_eq!(cut.is_err(), end != 512, "{end}: {cut:?}");
    }
    for (at, byte) in [(0, b'X'), (155, b'9'), (108, b'z')] {
        let mut wrong = good.clone();
        wrong[at] = byte;
        assert!(matches!(check(&wrong, u64::MAX), Err(LayerError::Tar(_))), "{at}");
    }
    assert!(check(b"", u64::MAX).is_ok() && check(&[0; 1024], u64::MAX).is_ok());
    // Ten megabytes of a compressed bomb stand for ten terabytes; names that never end too.
    let mut bomb = tar(&[]);
    bomb.truncate(0);
    let entry = header::Entry {
        path: b"bomb",
        kind: EntryType::Regular,
        link: &[],
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: 10 << 40,
        mtime: 0,
        device: (0, 0),
        attributes: &[],
    };
    entry.write(&mut bomb).unwrap();
    let mut name = tar::Header::new_gnu();
    name.set_entry_type(EntryType::GNULongName);
    name.set_size(10 << 40);
    name.set_cksum();
    for start in [bomb, name.as_bytes().to_vec()] {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        io::Write::write_all(&mut encoder, &start).unwrap();
        let zeros = vec![0; 1 << 20];
        for _ in 0..64 {
            io::Write::write_all(&mut encoder, &zeros).unwrap();
        }
        let bytes = encoder.finish().unwrap();
        assert!(bytes.len() < 20_000);
        let result = check(&bytes, 8 << 20);
        assert!(matches!(result, Err(LayerError::TooLarge { .. } | LayerError::Tar(_))), "{result:?}");
    }
    let mut cut = zstd::encode_all(&good[..], 1).unwrap();
    cut.truncate(cut.len() - 4);
    assert!(matches!(check(&cut, u64::MAX), Err(LayerError::Tar(_))));
}

#[test]
fn a_full_disk_is_an_error_that_leaves_nothing() {
    let place = place();
    let blob = place.at("blob");
    std::fs::write(
        &blob,
        tar(&[raw_folder("d"), raw_file("d/small", "x"), raw_file("d/large", &"x".repeat(3 << 20))]),
    )
    .unwrap();
    let disk = place.folder("disk");
    in_namespace(|| {
        let options = Some(c"size=1m");
        rustix::mount::mount("tmpfs", disk.as_std_path(), "tmpfs", MountFlags::empty(), options).unwrap();
        // A limit tells it before anything of the file is written.
        let error = unpack(&blob, &[], &disk.join("folder")).unwrap_err();
        assert!(matches!(error, LayerError::NoRoom { free } if free <= 1 << 20), "{error}");
        assert_eq!(disk.read_dir_utf8().unwrap().count(), 0);
        let error = unpack_within(&blob, &[], &disk.join("folder"), u64::MAX).unwrap_err();
        assert!(
            matches!(&error, LayerError::Io { error, .. } if error.kind() == io::ErrorKind::StorageFull),
            "{error}"
        );
        assert!(error.to_string().contains("d/large"), "{error}");
        assert_eq!(disk.read_dir_utf8().unwrap().count(), 0);
        let upper = disk.join("upper");
        std::fs::create_dir(&upper).unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        let noise: Vec<u8> = (0..700 << 10).map(|_| random.u8(..)).collect();
        std::fs::write(upper.join("noise"), noise).unwrap();
        for threads in [1, 4] {
            for compression in [Compression::Gzip, Compression::Zstd] {
                let error =
                    pack_with(&upper, &[], CLAMP, (compression, threads), &disk.join("blob")).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
                assert!(!disk.join("blob").exists());
            }
        }
    });
}

/// Where the child process of the next test works.
const ONE_ID: &str = "IMGFORGE_TEST_ONE_ID";

#[test]
fn a_namespace_with_one_id_unpacks_what_is_roots_and_says_what_it_cannot() {
    if let Ok(path) = std::env::var(ONE_ID) {
        let path = Utf8PathBuf::from(path);
        let left_out = unpack_within(&path.join("roots"), &[], &path.join("one"), u64::MAX).unwrap().left_out;
        assert_eq!(left_out, ["null"]);
        assert!(is_whiteout(&rustix::fs::lstat(path.join("one/gone").as_std_path()).unwrap()));
        let error = unpack(&path.join("others"), &[], &path.join("two")).unwrap_err();
        assert!(
            matches!(&error, LayerError::Owner { path, uid: 7, gid: 8 } if path == "etc/theirs"),
            "{error}"
        );
        assert!(!path.join("two").exists());
        return;
    }
    let place = place();
    std::fs::set_permissions(&place.1, PermissionsExt::from_mode(0o777)).unwrap();
    let entries = [raw_file("etc/file", "x"), raw(EntryType::Char, "null", ""), raw_file(".wh.gone", "")];
    std::fs::write(place.at("roots"), tar(&entries)).unwrap();
    let folder = place.folder("folder");
    std::fs::create_dir(folder.join("etc")).unwrap();
    std::fs::write(folder.join("etc/theirs"), "").unwrap();
    std::os::unix::fs::chown(folder.join("etc/theirs"), Some(7), Some(8)).unwrap();
    place.pack(&folder, &[], "others").unwrap();
    let this = std::thread::current().name().unwrap().to_owned();
    let mut child = Command::new("unshare");
    child.args(["--user", "--map-root-user"]).arg(std::env::current_exe().unwrap());
    let output = child.args(["--exact", &this, "--test-threads=1"]).env(ONE_ID, &place.1).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Something that a step does to a file system; what cannot be done is not.
#[derive(Debug, Clone)]
enum Change {
    Write(String, Vec<u8>),
    Folder(String),
    Remove(String),
    Link(String, String),
    Hard(String, String),
    Rename(String, String),
    Mode(String, u32),
    Owner(String, u32),
    Time(String, i64),
    Attribute(String, Vec<u8>),
    Pipe(String),
}

/// As `std::fs::write`, which would wait for a reader of a pipe.
fn write_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).custom_flags(flags).open(path)?;
    io::Write::write_all(&mut file, content)
}

impl Change {
    fn make(&self, root: &Path) {
        let at = |path: &str| root.join(path);
        let _ = match self {
            Self::Write(path, content) => write_file(&at(path), content),
            Self::Folder(path) => std::fs::create_dir_all(at(path)),
            Self::Remove(path) => {
                std::fs::remove_file(at(path)).or_else(|_| std::fs::remove_dir_all(at(path)))
            }
            Self::Link(path, target) => symlink(target, at(path)),
            Self::Hard(path, target) => std::fs::hard_link(at(target), at(path)),
            Self::Rename(from, to) => std::fs::rename(at(from), at(to)),
            Self::Mode(path, mode) => std::fs::set_permissions(at(path), PermissionsExt::from_mode(*mode)),
            Self::Owner(path, id) => std::os::unix::fs::lchown(at(path), Some(*id), Some(id + 1)),
            Self::Time(path, time) => {
                let time = rustix::fs::Timespec { tv_sec: *time, tv_nsec: 5 };
                let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
                let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::utimensat(rustix::fs::CWD, at(path), &times, flags).map_err(Into::into)
            }
            Self::Attribute(path, value) => {
                rustix::fs::lsetxattr(at(path), "user.x", value, XattrFlags::empty()).map_err(Into::into)
            }
            Self::Pipe(path) => {
                let mode = Mode::from_raw_mode(0o622);
                rustix::fs::mknodat(rustix::fs::CWD, at(path), FileType::Fifo, mode, 0).map_err(Into::into)
            }
        };
    }
}

/// Few names, so that changes meet.
fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab]|c\u{fc}", 1..4).prop_map(|names| names.join("/"))
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..20);
    let change = prop_oneof![
        3 => (path(), bytes()).prop_map(|(path, content)| Change::Write(path, content)),
        4 => path().prop_map(Change::Folder),
        3 => path().prop_map(Change::Remove),
        1 => (path(), path()).prop_map(|(path, target)| Change::Link(path, target)),
        2 => (path(), path()).prop_map(|(path, target)| Change::Hard(path, target)),
        2 => (path(), path()).prop_map(|(from, to)| Change::Rename(from, to)),
        1 => (path(), 0_u32..0o10000).prop_map(|(path, mode)| Change::Mode(path, mode)),
        1 => (path(), 0_u32..5_000_000).prop_map(|(path, id)| Change::Owner(path, id)),
        1 => (path(), -9_i64..9_000_000_000).prop_map(|(path, time)| Change::Time(path, time)),
        1 => (path(), bytes()).prop_map(|(path, value)| Change::Attribute(path, value)),
        1 => path().prop_map(Change::Pipe),
    ];
    prop::collection::vec(change, 0..25)
}

/// Names that mean something to somebody.
fn raw_path() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        6 => "[ab]",
        1 => Just("..".to_owned()),
        1 => Just(".".to_owned()),
        1 => Just(String::new()),
        1 => Just("outside".to_owned()),
        2 => "\\.wh\\.[ab]?",
        1 => Just(".wh..wh..opq".to_owned()),
        1 => "\\PC{0,3}",
    ];
    prop::collection::vec(name, 0..5).prop_map(|names| names.join("/"))
}

fn raws() -> impl Strategy<Value = Vec<Raw>> {
    let kind = prop_oneof![
        Just(EntryType::Regular),
        Just(EntryType::Directory),
        Just(EntryType::Symlink),
        Just(EntryType::Link),
        Just(EntryType::Char),
        Just(EntryType::Fifo),
    ];
    let parts =
        (kind, raw_path(), raw_path(), 0_u32..0o10000, prop::collection::vec(any::<u8>(), 0..700), 0_u32..2);
    let entry = parts.prop_map(|(kind, path, link, mode, content, major)| {
        let content = if kind == EntryType::Regular { content } else { Vec::new() };
        Raw { mode, content, device: (major, 3 * major), ..raw(kind, path, link) }
    });
    prop::collection::vec(entry, 0..12)
}

/// Makes the checksums of what looks like headers right, so that more than those is looked at.
fn sign(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_step_does_is_the_same_packed_and_unpacked(below in changes(), above in changes(), zstd: bool) {
        let place = place();
        let base = place.folder("base");
        below.iter().for_each(|change| change.make(base.as_std_path()));
        let stack = vec![base.clone()];
        let upper = place.folder("upper");
        place.change(&stack, &upper, |root| above.iter().for_each(|change| change.make(root)));
        let compression = if zstd { Compression::Zstd } else { Compression::Gzip };
        let blob = place.at("blob");
        let packed = pack(&upper, &stack, CLAMP, compression, &blob).unwrap();
        let with = |top: &Utf8Path| place.view(&[base.clone(), top.to_owned()]);
        let after = with(&upper);
        let Some(layer) = packed else {
            prop_assert_eq!(differences(&place.view(&stack), &after), Vec::<String>::new());
            return Ok(());
        };
        let unpacked = place.at("unpacked");
        let found = unpack(&blob, &stack, &unpacked).unwrap();
        prop_assert_eq!((&found.diff_id, found.size), (&layer.diff_id, layer.unpacked_size));
        prop_assert_eq!(differences(&after, &with(&unpacked)), Vec::<String>::new());
        for folder in [&upper, &unpacked] {
            let again = pack(folder, &stack, CLAMP, compression, &place.at("again")).unwrap();
            prop_assert_eq!(again.as_ref(), Some(&layer));
            std::fs::remove_file(place.at("again")).unwrap();
        }
    }
}

/// A view without what one layer of several does not keep: the time of folders in which nothing is left, and that a file
/// has had another name.
fn lasting(mut view: BTreeMap<PathBuf, Seen>) -> BTreeMap<PathBuf, Seen> {
    let mut names: BTreeMap<PathBuf, usize> = BTreeMap::new();
    view.values().for_each(|seen| *names.entry(seen.same.clone()).or_default() += 1);
    for seen in view.values_mut() {
        if names[&seen.same] == 1 {
            seen.same = PathBuf::new();
        }
        if seen.kind.starts_with("40000 ") {
            seen.mtime = (0, 0);
        }
    }
    view
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn layers_merged_into_one_are_seen_as_before(
        below in changes(),
        steps in prop::collection::vec(changes(), 2..5),
    ) {
        let place = place();
        let base = place.folder("base");
        below.iter().for_each(|change| change.make(base.as_std_path()));
        let mut stack = vec![base.clone()];
        for (number, step) in steps.iter().enumerate() {
            let upper = place.folder(&format!("upper-{number}"));
            place.change(&stack, &upper, |root| step.iter().for_each(|change| change.make(root)));
            if place.pack(&upper, &stack, &format!("blob-{number}")).is_some() {
                stack.push(upper);
            }
        }
        let before = lasting(place.view(&stack));
        let each: Vec<_> = stack.iter().map(|layer| see(layer.as_std_path())).collect();
        let merged = place.folder("merged");
        merge(&stack[..1], &stack[1..], &merged).unwrap();
        let blob = place.at("blob");
        let packed = pack(&merged, &stack[..1], Clamp::NONE, Compression::Gzip, &blob).unwrap();
        let after = match &packed {
            Some(layer) => {
                let unpacked = place.at("unpacked");
                prop_assert_eq!(&unpack(&blob, &stack[..1], &unpacked).unwrap().diff_id, &layer.diff_id);
                place.view(&[base, unpacked])
            }
            None => place.view(&stack[..1]),
        };
        prop_assert_eq!(differences(&before, &lasting(after)), Vec::<String>::new());
        // Nothing is marked as gone that was not there.
        let names = packed.map(|_| listed(&blob)).unwrap_or_default();
        for gone in names.iter().filter_map(|name| name.split_once(".wh.")).filter(|(_, name)| *name != ".wh..opq") {
            prop_assert!(each[0].contains_key(Path::new(&format!("{}{}", gone.0, gone.1))), "{:?}", gone);
        }
        std::fs::remove_dir_all(&merged).unwrap();
        for (layer, before) in stack.iter().zip(each) {
            prop_assert_eq!(differences(&before, &see(layer.as_std_path())), Vec::<String>::new());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_is_unpacked_reaches_outside(
        entries in raws(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        is_signed: bool,
        over: bool,
    ) {
        let place = place();
        let (outside, before) = victims(&place);
        let stack = if over { base(&place) } else { Vec::new() };
        let below = stack.first().map(|layer| see(layer.as_std_path()));
        let mut bytes = tar(&entries);
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if is_signed {
            sign(&mut bytes);
        }
        let _ = place.unpack_bytes(&bytes, &stack);
        prop_assert_eq!(see(outside.as_std_path()), before);
        prop_assert_eq!(stack.first().map(|layer| see(layer.as_std_path())), below);
        let known = ["outside", "base"];
        for entry in place.1.read_dir_utf8().unwrap() {
            let name = entry.unwrap().file_name().to_owned();
            prop_assert!(known.contains(&name.as_str()) || name.starts_with("unpacked-"), "{}", name);
        }
    }

    #[test]
    fn any_bytes_are_unpacked_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..3000), magic in 0_usize..4) {
        let start: &[u8] = [&b""[..], &[0x1f, 0x8b, 8, 0], &[0x28, 0xb5, 0x2f, 0xfd], b"name\0"][magic];
        bytes.splice(0..start.len().min(bytes.len()), start.iter().copied());
        let place = place();
        let _ = place.unpack_bytes(&bytes, &[]);
    }
}
