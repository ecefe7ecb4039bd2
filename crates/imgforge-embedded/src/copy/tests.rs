use std::os::unix::fs::{MetadataExt, PermissionsExt};

use camino::Utf8PathBuf;
use tar::EntryType;

use super::*;
use crate::node::CAPABILITY;
use crate::worker::message::{Content, ContextKind, Tree};

struct Root(#[expect(dead_code, reason = "keeps the folder")] tempfile::TempDir, Utf8PathBuf);

fn root() -> Root {
    imgforge_testkit::needs::root("copying what anybody may own");
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::try_from(folder.path().canonicalize().unwrap()).unwrap();
    Root(folder, path)
}

impl Root {
    fn at(&self, path: &str) -> Utf8PathBuf {
        self.1.join(path)
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// All paths, folders with `/`.
    fn list(&self) -> Vec<String> {
        fn below(folder: &Utf8Path, base: &Utf8Path, out: &mut Vec<String>) {
            for entry in folder.read_dir_utf8().unwrap() {
                let entry = entry.unwrap();
                let path = entry.path().strip_prefix(base).unwrap();
                if entry.file_type().unwrap().is_dir() {
                    out.push(format!("{path}/"));
                    below(entry.path(), base, out);
                } else {
                    out.push(path.to_string());
                }
            }
        }
        let mut out = Vec::new();
        below(&self.1, &self.1, &mut out);
        out.sort();
        out
    }
}

fn file(path: &str, content: &str) -> ContextEntry {
    let content = Content::Bytes(content.into());
    ContextEntry {
        path: path.into(),
        kind: ContextKind::File { mode: if path.ends_with(".sh") { 0o755 } else { 0o644 }, content },
    }
}

fn folder(path: &str) -> ContextEntry {
    ContextEntry { path: path.into(), kind: ContextKind::Folder { mode: 0o755 } }
}

fn link(path: &str, target: &str) -> ContextEntry {
    ContextEntry { path: path.into(), kind: ContextKind::Link { target: target.into() } }
}

fn context() -> Vec<ContextEntry> {
    vec![
        file("a.txt", "a"),
        file("b.txt", "b"),
        folder("d"),
        file("d/c.sh", "c"),
        folder("d/e"),
        file("d/e/f.txt", "f"),
        link("d/up", "../a.txt"),
        link("to-d", "d"),
    ]
}

fn of(tree: Tree, sources: &[&str], target: &str) -> Copy {
    Copy {
        tree,
        sources: sources.iter().map(|path| CopySource::Path((*path).into())).collect(),
        target: target.into(),
        chown: None,
        chmod: None,
        link: false,
        parents: false,
        excludes: Vec::new(),
        unpack: false,
    }
}

fn from_context(sources: &[&str], target: &str) -> Copy {
    of(Tree::Context(context()), sources, target)
}

#[test]
fn files_and_folders_go_where_buildkit_puts_them() {
    let cases: &[(&[&str], &str, &[&str])] = &[
        (&["a.txt"], "/x", &["x"]),
        (&["a.txt"], "/x/", &["x/", "x/a.txt"]),
        (&["a.txt"], "/x/y/z", &["x/", "x/y/", "x/y/z"]),
        (&["a.txt", "b.txt"], "/x/", &["x/", "x/a.txt", "x/b.txt"]),
        (&["*.txt"], "/x/", &["x/", "x/a.txt", "x/b.txt"]),
        (&["d"], "/x", &["x/", "x/c.sh", "x/e/", "x/e/f.txt", "x/up"]),
        (&["d/"], "/x/", &["x/", "x/c.sh", "x/e/", "x/e/f.txt", "x/up"]),
        (&["to-d"], "/x", &["x/", "x/c.sh", "x/e/", "x/e/f.txt", "x/up"]),
        (&["d/up"], "/x", &["x"]),
        (&["d/*"], "/x/", &["x/", "x/c.sh", "x/f.txt", "x/up"]),
        (&["*/e"], "/x/", &["x/", "x/f.txt"]),
        (&["nothing*"], "/x/", &[]),
    ];
    for (sources, target, expected) in cases {
        let root = root();
        copy(&root.1, None, &from_context(sources, target), 0).unwrap();
        assert_eq!(root.list(), *expected, "{sources:?} {target}");
    }
}

#[test]
fn what_is_there_keeps_what_it_has() {
    let root = root();
    std::fs::create_dir(root.at("x")).unwrap();
    std::fs::write(root.at("x/old"), "old").unwrap();
    std::fs::set_permissions(root.at("x"), std::fs::Permissions::from_mode(0o700)).unwrap();
    copy(&root.1, None, &from_context(&["d"], "/x"), 0).unwrap();
    assert_eq!(root.read("x/old"), "old");
    assert_eq!(std::fs::metadata(root.at("x")).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(std::fs::metadata(root.at("x/c.sh")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(std::fs::metadata(root.at("x/e/f.txt")).unwrap().mode() & 0o7777, 0o644);
    assert_eq!(std::fs::metadata(root.at("x/e/f.txt")).unwrap().mtime(), 0);
    // A file over a folder is refused, over a file it is not.
    assert!(copy(&root.1, None, &from_context(&["a.txt"], "/x/old"), 0).is_ok());
    assert_eq!(root.read("x/old"), "a");
    std::fs::create_dir(root.at("y")).unwrap();
    std::fs::create_dir(root.at("y/a.txt")).unwrap();
    let error = copy(&root.1, None, &from_context(&["a.txt"], "/y"), 0).unwrap_err();
    assert!(error.to_string().contains("cannot be replaced by a file"), "{error}");
    let error = copy(&root.1, None, &from_context(&["missing"], "/y"), 0).unwrap_err();
    assert_eq!(error.to_string(), "there is no /missing to copy");
}

#[test]
fn links_of_the_target_are_followed_inside_it_only() {
    let root = root();
    let outside = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.at("real")).unwrap();
    std::os::unix::fs::symlink("/real", root.at("absolute")).unwrap();
    std::os::unix::fs::symlink("../../../../real", root.at("up")).unwrap();
    std::os::unix::fs::symlink(outside.path(), root.at("out")).unwrap();
    std::os::unix::fs::symlink("loop", root.at("loop")).unwrap();
    copy(&root.1, None, &from_context(&["a.txt"], "/absolute/one"), 0).unwrap();
    copy(&root.1, None, &from_context(&["a.txt"], "/up/two"), 0).unwrap();
    copy(&root.1, None, &from_context(&["d"], "/out/three"), 0).unwrap();
    assert_eq!((root.read("real/one"), root.read("real/two")), ("a".into(), "a".into()));
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(copy(&root.1, None, &from_context(&["a.txt"], "/loop/x"), 0).is_err());
}

#[test]
fn a_copy_that_is_a_layer_by_itself_puts_folders_where_links_were() {
    let root = root();
    std::fs::create_dir(root.at("real")).unwrap();
    std::os::unix::fs::symlink("/real", root.at("absolute")).unwrap();
    std::os::unix::fs::symlink("/real", root.at("folder")).unwrap();
    let mut request = from_context(&["a.txt"], "/absolute/one");
    request.link = true;
    copy(&root.1, None, &request, 0).unwrap();
    let mut request = from_context(&["d/e"], "/folder");
    request.link = true;
    let error = copy(&root.1, None, &request, 0).unwrap_err();
    assert!(error.to_string().contains("/folder is no folder"), "{error}");
    assert_eq!(root.list(), ["absolute/", "absolute/one", "folder", "real/"]);
}

#[test]
fn owners_modes_and_exclusions() {
    let root = root();
    std::fs::create_dir(root.at("etc")).unwrap();
    std::fs::write(root.at("etc/passwd"), "web:x:7:8::/:\n").unwrap();
    let mut request = from_context(&["d"], "/new/x");
    request.chown = Some("web".into());
    request.chmod = Some(0o640);
    request.excludes = vec!["**/*.txt".into()];
    copy(&root.1, None, &request, 0).unwrap();
    assert_eq!(root.list(), ["etc/", "etc/passwd", "new/", "new/x/", "new/x/c.sh", "new/x/e/", "new/x/up"]);
    for path in ["new", "new/x", "new/x/c.sh", "new/x/up"] {
        let meta = std::fs::symlink_metadata(root.at(path)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (7, 8), "{path}");
    }
    assert_eq!(std::fs::metadata(root.at("new/x/c.sh")).unwrap().mode() & 0o7777, 0o640);
    request.chown = Some("nobody".into());
    assert!(copy(&root.1, None, &request, 0).unwrap_err().to_string().contains("no user nobody"));
}

#[test]
fn a_stack_keeps_owners_times_names_and_attributes() {
    let (from, to) = (root(), root());
    std::fs::create_dir(from.at("d")).unwrap();
    std::fs::write(from.at("d/one"), "1").unwrap();
    std::fs::hard_link(from.at("d/one"), from.at("d/two")).unwrap();
    std::os::unix::fs::chown(from.at("d/one"), Some(5), Some(6)).unwrap();
    std::fs::set_permissions(from.at("d/one"), std::fs::Permissions::from_mode(0o4711)).unwrap();
    rustix::fs::setxattr(from.at("d/one").as_std_path(), "user.note", b"x", rustix::fs::XattrFlags::empty())
        .unwrap();
    let time = 1_000_000_000;
    let times =
        std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(time));
    std::fs::File::open(from.at("d/one")).unwrap().set_times(times).unwrap();
    copy(&to.1, Some(&from.1), &of(Tree::Stack(vec![]), &["d"], "/d"), 0).unwrap();
    let one = std::fs::metadata(to.at("d/one")).unwrap();
    assert_eq!((one.uid(), one.gid(), one.mode() & 0o7777, one.mtime()), (5, 6, 0o4711, 1_000_000_000));
    assert_eq!(one.ino(), std::fs::metadata(to.at("d/two")).unwrap().ino());
    let mut value = [0; 8];
    let len = rustix::fs::getxattr(to.at("d/one").as_std_path(), "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..len], b"x");
}

/// The capabilities of a file, as an extended attribute.
fn capability(path: &Utf8Path) -> Vec<u8> {
    let mut value = [0; 64];
    match rustix::fs::getxattr(path.as_std_path(), "security.capability", &mut value[..]) {
        Ok(len) => value[..len].to_vec(),
        Err(_) => Vec::new(),
    }
}

#[test]
fn file_capabilities_are_kept_whoever_owns_the_copy() {
    let from = root();
    std::fs::create_dir(from.at("d")).unwrap();
    std::fs::write(from.at("d/f"), "").unwrap();
    std::os::unix::fs::chown(from.at("d/f"), Some(5), Some(6)).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(from.at("d/f").as_std_path(), "security.capability", &CAPABILITY, flags).unwrap();
    for (sources, chown, chmod) in [
        ("d", None, None),
        ("d/f", None, None),
        ("d", Some("1000:1000"), None),
        ("d/f", Some("1000:1000"), Some(0o4700)),
    ] {
        let to = root();
        let request =
            Copy { chown: chown.map(str::to_owned), chmod, ..of(Tree::Stack(vec![]), &[sources], "/to/") };
        copy(&to.1, Some(&from.1), &request, 0).unwrap();
        assert_eq!(capability(&to.at("to/f")), CAPABILITY, "{sources} {chown:?}");
        let mode = std::fs::metadata(to.at("to/f")).unwrap().mode() & 0o7777;
        assert_eq!(mode, chmod.unwrap_or(0o644));
    }
    let to = root();
    copy_folder(&from.1, "d", &to.1).unwrap();
    assert_eq!(capability(&to.at("f")), CAPABILITY);
}

#[test]
fn file_capabilities_in_an_archive_are_kept_whoever_owns_it() {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_pax_extensions([("SCHILY.xattr.security.capability", &CAPABILITY[..])]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_uid(3);
    header.set_gid(3);
    header.set_size(0);
    tar.append_data(&mut header, "f", io::empty()).unwrap();
    header.set_entry_type(EntryType::Link);
    tar.append_link(&mut header, "g", "f").unwrap();
    let tar = tar.into_inner().unwrap();
    for chown in [None, Some("8:9".to_owned())] {
        let root = root();
        copy(&root.1, None, &Copy { chown, ..add(tar.clone(), "/x") }, 0).unwrap();
        assert_eq!(capability(&root.at("x/g")), CAPABILITY);
    }
}

fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, kind, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o640);
        header.set_uid(3);
        header.set_gid(4);
        header.set_mtime(99);
        if matches!(kind, EntryType::Symlink | EntryType::Link) {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
            header.set_size(0);
            header.set_cksum();
            tar.append(&header, io::empty()).unwrap();
        } else {
            header.set_size(content.len() as u64);
            header.set_cksum();
            tar.append(&header, content.as_bytes()).unwrap();
        }
    }
    tar.into_inner().unwrap()
}

fn add(bytes: Vec<u8>, target: &str) -> Copy {
    let kind = ContextKind::File { mode: 0o644, content: Content::Bytes(bytes) };
    let tree = Tree::Context(vec![ContextEntry { path: "a.tar".into(), kind }]);
    Copy { unpack: true, ..of(tree, &["a.tar"], target) }
}

#[test]
fn archives_of_every_kind_are_unpacked() {
    use std::io::Write;
    let tar = archive(&[
        ("d/", EntryType::Directory, ""),
        ("d/f", EntryType::Regular, "text"),
        ("d/l", EntryType::Symlink, "f"),
        ("d/h", EntryType::Link, "d/f"),
        ("g", EntryType::XGlobalHeader, ""),
    ]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let mut bzip = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip.write_all(&tar).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&tar).unwrap();
    let zstd = zstd::encode_all(&tar[..], 1).unwrap();
    for bytes in [tar, gzip.finish().unwrap(), bzip.finish().unwrap(), xz.finish().unwrap(), zstd] {
        let root = root();
        copy(&root.1, None, &add(bytes, "/x"), 1000).unwrap();
        assert_eq!(root.list(), ["x/", "x/d/", "x/d/f", "x/d/h", "x/d/l"]);
        let meta = std::fs::metadata(root.at("x/d/f")).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777, meta.mtime()), (3, 4, 0o640, 99));
        assert_eq!(std::fs::metadata(root.at("x/d")).unwrap().mtime(), 99);
        assert_eq!(meta.nlink(), 2);
    }
    let root = root();
    copy(&root.1, None, &add(b"no archive".to_vec(), "/x"), 0).unwrap();
    assert_eq!(root.read("x"), "no archive");
}

#[test]
fn a_header_without_numbers_has_zeros() {
    let mut bytes = archive(&[("d", EntryType::Directory, ""), ("f", EntryType::Regular, "")]);
    for start in [0, 512] {
        let header = &mut bytes[start..start + 512];
        // Mode, owner, group, size, time, and the numbers of a device.
        for (field, blank) in
            [(100..108, 0), (108..116, b' '), (116..124, 0), (124..136, b' '), (136..148, 0)]
        {
            header[field].fill(blank);
        }
        header[329..345].fill(0);
        checked(header);
    }
    let root = root();
    copy(&root.1, None, &add(bytes, "/x"), 1000).unwrap();
    for path in ["x/d", "x/f"] {
        let meta = std::fs::metadata(root.at(path)).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777, meta.mtime()), (0, 0, 0, 0), "{path}");
    }
}

/// Gives a header its checksum.
fn checked(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

#[test]
fn a_folder_of_an_old_archive_is_known_by_its_slash() {
    let mut bytes = archive(&[("d/", EntryType::Regular, ""), ("d/f", EntryType::Regular, "text")]);
    for start in [0, 512] {
        bytes[start + 156] = 0;
        bytes[start + 257..start + 265].fill(0);
        checked(&mut bytes[start..start + 512]);
    }
    // Nor has every tar whole blocks.
    bytes.truncate(1024 + 4);
    let root = root();
    copy(&root.1, None, &add(bytes, "/x"), 1000).unwrap();
    assert_eq!((root.list().join(" "), root.read("x/d/f")), ("x/ x/d/ x/d/f".into(), "text".into()));
}

#[test]
fn a_sparse_file_of_gnu_tar_is_whole_in_every_form() {
    use std::os::unix::fs::FileExt;
    let folder = root();
    let file = std::fs::File::create(folder.at("sparse")).unwrap();
    // More parts than a header has room for.
    for at in 0..40 {
        file.write_at(format!("part {at}").as_bytes(), at * 65_536 + 4096).unwrap();
    }
    file.set_len(3 << 20).unwrap();
    std::fs::write(folder.at("after"), "after").unwrap();
    let whole = std::fs::read(folder.at("sparse")).unwrap();
    for format in ["--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"] {
        let tar = std::process::Command::new("tar")
            .args(["--create", "--sparse", format, "sparse", "after"])
            .current_dir(folder.at(""))
            .output()
            .unwrap();
        assert!(tar.status.success() && tar.stdout.len() < whole.len(), "{format}");
        let root = root();
        copy(&root.1, None, &add(tar.stdout, "/x/"), 1000).unwrap();
        assert_eq!(root.list(), ["x/", "x/after", "x/sparse"], "{format}");
        assert!(std::fs::read(root.at("x/sparse")).unwrap() == whole, "{format}");
        assert_eq!(root.read("x/after"), "after");
    }
}

#[test]
fn a_map_of_a_sparse_file_that_cannot_be_is_refused() {
    let with = |map: &str, size: &str| {
        let mut tar = tar::Builder::new(Vec::new());
        let records = [("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", map.as_bytes())];
        tar.append_pax_extensions(records).unwrap();
        let mut bytes = tar.into_inner().unwrap();
        bytes.truncate(bytes.len() - 1024);
        bytes.extend(archive(&[("f", EntryType::Regular, "12345")]));
        let root = root();
        copy(&root.1, None, &add(bytes, "/x/"), 1000).map(|()| root.read("x/f"))
    };
    assert_eq!(with("0,0,2,3,6,2", "9").unwrap(), "\0\x00123\x0045\0");
    assert_eq!(with("0,5,5,0", "5").unwrap(), "12345");
    for (map, size) in [
        ("0,5", "4"),
        ("0,4", "9"),
        ("3,2,0,3", "9"),
        ("0,5,1", "9"),
        ("0,18446744073709551615,4,5", "9"),
        ("0,-5", "9"),
        ("", "9"),
    ] {
        let error = with(map, size).unwrap_err().to_string();
        assert!(error.contains("the map of a sparse file"), "{map}: {error}");
    }
}

#[test]
fn a_second_name_in_an_archive_says_what_its_file_is_like() {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add_entry = |path: &str, kind, mode, owner, mtime, link: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(mtime);
        header.set_size(0);
        if link.is_empty() {
            tar.append_data(&mut header, path, io::empty()).unwrap();
        } else {
            tar.append_link(&mut header, path, link).unwrap();
        }
    };
    add_entry("f", EntryType::Regular, 0o4640, 3, 99, "");
    add_entry("g", EntryType::Link, 0o604, 5, 100, "f");
    // What a link leads to is not touched through a second name of the link.
    add_entry("to-etc", EntryType::Symlink, 0o777, 3, 99, "/etc/passwd");
    add_entry("again", EntryType::Link, 0o000, 5, 100, "to-etc");
    let tar = tar.into_inner().unwrap();
    let (root, passwd) = (root(), std::fs::metadata("/etc/passwd").unwrap());
    let of = |path: &str| {
        let meta = std::fs::symlink_metadata(root.at(path)).unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o7777, meta.mtime(), meta.nlink())
    };
    copy(&root.1, None, &add(tar.clone(), "/x"), 1000).unwrap();
    assert_eq!(of("x/f"), (5, 5, 0o604, 100, 2));
    assert_eq!(of("x/again"), (5, 5, 0o777, 99, 2));
    copy(&root.1, None, &Copy { chown: Some("8:9".into()), ..add(tar, "/y") }, 1000).unwrap();
    let folder = std::fs::metadata(root.at("y")).unwrap();
    assert_eq!((folder.uid(), folder.gid(), folder.mode() & 0o7777), (8, 9, 0o755));
    assert_eq!(of("y/f"), (8, 9, 0o604, 100, 2));
    assert_eq!(of("y/to-etc"), (8, 9, 0o777, 99, 2));
    let after = std::fs::metadata("/etc/passwd").unwrap();
    assert_eq!((after.mode(), after.uid()), (passwd.mode(), passwd.uid()));
}

#[test]
fn an_archive_reaches_nothing_outside_its_folder() {
    let bytes = archive(&[
        ("../../escaped", EntryType::Regular, "1"),
        ("/absolute", EntryType::Regular, "2"),
        ("out", EntryType::Symlink, "/"),
        ("out/through", EntryType::Regular, "3"),
        ("hard", EntryType::Symlink, "../../../../../../etc/passwd"),
        ("hard", EntryType::Regular, "4"),
        ("x/../../y", EntryType::Regular, "5"),
    ]);
    let root = root();
    copy(&root.1, None, &add(bytes, "/t/u"), 0).unwrap();
    let inside = ["t/", "t/u/", "t/u/absolute", "t/u/escaped", "t/u/hard", "t/u/out", "t/u/through", "t/u/y"];
    assert_eq!(root.list(), inside);
    let outside = archive(&[("h", EntryType::Link, "../../../../../../../../etc/passwd")]);
    assert!(copy(&root.1, None, &add(outside, "/t/u"), 0).is_err());
}

#[test]
fn a_folder_of_an_archive_that_becomes_a_link_leaves_alone_what_the_link_leads_to() {
    let (root, outside) = (root(), root());
    std::fs::write(outside.at("secret"), "").unwrap();
    std::fs::set_permissions(outside.at("secret"), PermissionsExt::from_mode(0o600)).unwrap();
    let bytes = archive(&[
        ("d/", EntryType::Directory, ""),
        ("d/e/", EntryType::Directory, ""),
        ("d", EntryType::Symlink, outside.at("secret").as_str()),
    ]);
    copy(&root.1, None, &add(bytes, "/"), 0).unwrap();
    assert!(root.at("d").is_symlink());
    let meta = std::fs::metadata(outside.at("secret")).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o7777), (0, 0o600));
}

#[test]
fn of_a_folder_that_is_twice_in_an_archive_the_last_entry_holds() {
    let mut tar = tar::Builder::new(Vec::new());
    for (mode, time) in [(0o700, 1), (0o711, 2)] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(EntryType::Directory);
        header.set_mode(mode);
        header.set_mtime(time);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        tar.append_data(&mut header, "d/", io::empty()).unwrap();
    }
    let root = root();
    copy(&root.1, None, &add(tar.into_inner().unwrap(), "/"), 0).unwrap();
    let meta = std::fs::metadata(root.at("d")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o711, 2));
}

#[test]
fn a_context_becomes_a_folder_and_a_changed_file_is_noticed() {
    let root = root();
    materialise(&context(), &root.1, 0).unwrap();
    assert_eq!(root.list(), ["a.txt", "b.txt", "d/", "d/c.sh", "d/e/", "d/e/f.txt", "d/up", "to-d"]);
    let other = self::root();
    std::fs::write(other.at("file"), "changed").unwrap();
    let blake3 = Some(blake3::hash(b"as it was").to_hex().to_string());
    let content = Content::File { path: other.at("file"), blake3 };
    let kind = ContextKind::File { mode: 0o644, content };
    let entries = [ContextEntry { path: "file".into(), kind }];
    let error = materialise(&entries, &self::root().1, 0).unwrap_err();
    assert!(error.to_string().contains("has changed since it was hashed"), "{error}");
}

#[test]
fn only_what_a_copy_reaches_counts() {
    let entries = context();
    let of = |paths: &[&str]| -> Vec<String> {
        reached(&entries, paths, false).into_iter().map(|entry| entry.path).collect()
    };
    assert_eq!(of(&["a.txt"]), ["a.txt"]);
    assert_eq!(of(&["*.txt"]), ["a.txt", "b.txt"]);
    assert_eq!(of(&["d/e"]), ["d", "d/e", "d/e/f.txt"]);
    assert_eq!(of(&["./d/"]), ["d", "d/c.sh", "d/e", "d/e/f.txt", "d/up"]);
    assert_eq!(of(&["nothing"]), [""; 0]);
    let all = entries.len();
    for paths in [".", "/", "to-d", "to-d/c.sh", "d/up", "to-d/*"] {
        assert_eq!(of(&[paths]).len(), all, "{paths}");
    }
}
