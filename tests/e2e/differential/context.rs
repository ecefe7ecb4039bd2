//! The files that every case can copy.

use std::io::Write as _;
use std::sync::Arc;

use imgforge::core::context::{ContextEntry, EntryKind, Origin};
use imgforge::core::source::ContentHash;

/// The context, sorted.
pub(super) fn entries() -> Vec<ContextEntry> {
    let mut entries = Vec::new();
    let mut add = |path: &str, kind| entries.push(ContextEntry { path: path.into(), kind });
    for (path, text) in [
        ("a.txt", "a\n"),
        ("b.txt", "b\n"),
        (".hidden", "hidden\n"),
        ("with space.txt", "space\n"),
        ("ünï.txt", "umlaut\n"),
        ("d/one", "1\n"),
        ("d/two", "2\n"),
        ("d/sub/three", "3\n"),
        ("d/sub/deep/four", "4\n"),
        ("glob/f1.c", "f1\n"),
        ("glob/f2.c", "f2\n"),
        ("glob/f3.h", "f3\n"),
        ("glob/[x].c", "x\n"),
        ("text.tar", "this is no archive\n"),
    ] {
        add(path, file(text.as_bytes(), false));
    }
    add("bin/tool", file(b"tool\n", true));
    add("bin/run.sh", file(b"#!/bin/sh\necho run\n", true));
    add("d/empty", EntryKind::Dir);
    for (path, target) in [
        ("d/link", "one"),
        ("d/up", "../a.txt"),
        ("d/dirlink", "sub"),
        ("d/dangling", "nowhere"),
        ("d/abs", "/etc/passwd"),
        ("link-to-d", "d"),
        ("link-to-a", "a.txt"),
    ] {
        add(path, EntryKind::Symlink { target: target.into() });
    }
    add("plain.tar", file(&archive(), false));
    add("packed.tar.gz", file(&packed(&other_archive()), false));
    add("odd.tar", file(&odd_archive(), false));
    add("text.gz", file(&packed(b"only text\n"), false));
    add("archives/in.tar", file(&archive(), false));
    add("archives/text", file(b"text\n", false));
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    entries
}

/// The files of the base image, which lie in the context of its build alone.
pub(super) fn base() -> Vec<ContextEntry> {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let text =
        |path: &str, text: &str| ContextEntry { path: path.into(), kind: file(text.as_bytes(), false) };
    let folder = |path: &str| ContextEntry { path: path.into(), kind: EntryKind::Dir };
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:App:/home/app:/bin/sh\n";
    let group = "root:x:0:\nstaff:x:50:app\napp:x:1000:\naudio:x:63:other,app\n";
    vec![
        ContextEntry { path: "busybox".into(), kind: file(&busybox, true) },
        folder("root/dev"),
        text("root/etc/group", group),
        text("root/etc/hosts", ""),
        text("root/etc/passwd", passwd),
        text("root/etc/resolv.conf", ""),
        folder("root/proc"),
        folder("root/root"),
        folder("root/sys"),
    ]
}

fn file(bytes: &[u8], executable: bool) -> EntryKind {
    EntryKind::File {
        hash: ContentHash::of(bytes),
        size: bytes.len() as u64,
        executable,
        origin: Origin::Generated(Arc::from(bytes)),
    }
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One entry of an archive.
struct Entry<'a> {
    path: &'a str,
    kind: tar::EntryType,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    /// Its content, or what it leads to.
    text: &'a str,
}

fn tar_of(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0);
        header.set_gid(entry.owner.1);
        header.set_mtime(entry.mtime);
        if entry.kind.is_symlink() || entry.kind.is_hard_link() {
            header.set_size(0);
            builder.append_link(&mut header, entry.path, entry.text).unwrap();
        } else {
            header.set_size(entry.text.len() as u64);
            builder.append_data(&mut header, entry.path, entry.text.as_bytes()).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

/// Folders, files with owners, modes and times, links of both kinds.
fn archive() -> Vec<u8> {
    use tar::EntryType::{Directory, Fifo, Link, Regular, Symlink};
    let entry = |path, kind, mode, owner, mtime, text| Entry { path, kind, mode, owner, mtime, text };
    tar_of(&[
        entry("dir/", Directory, 0o750, (3, 4), 800_000_000, ""),
        entry("dir/file", Regular, 0o4640, (1000, 50), 800_000_001, "in an archive\n"),
        entry("dir/again", Link, 0o644, (0, 0), 0, "dir/file"),
        entry("link", Symlink, 0o777, (5, 6), 800_000_002, "dir/file"),
        entry("pipe", Fifo, 0o600, (0, 0), 800_000_003, ""),
        // Its folder has no entry.
        entry("without/entry", Regular, 0o600, (0, 0), 800_000_004, "x"),
        entry("empty/", Directory, 0o1777, (0, 0), 800_000_005, ""),
    ])
}

fn other_archive() -> Vec<u8> {
    use tar::EntryType::{Directory, Regular};
    let entry = |path, kind, mode, owner, mtime, text| Entry { path, kind, mode, owner, mtime, text };
    let long = "long/".repeat(30) + "name";
    tar_of(&[
        entry("./", Directory, 0o711, (0, 0), 700_000_000, ""),
        entry("./packed", Regular, 0o755, (7, 8), 700_000_001, "packed\n"),
        entry(&long, Regular, 0o644, (0, 0), 700_000_002, "far\n"),
    ])
}

/// A header without a mode, an owner and a time, and a sparse file in GNU's form 1.0 for PAX.
fn odd_archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(5);
    for field in [100..108, 108..116, 116..124, 136..148] {
        header.as_mut_bytes()[field].fill(0);
    }
    builder.append_data(&mut header, "blank", &b"text\n"[..]).unwrap();
    let records: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.realsize", b"9000"),
    ];
    builder.append_pax_extensions(records).unwrap();
    let mut content = b"2\n4096\n5\n9000\n0\n".to_vec();
    content.resize(512, 0);
    content.extend(b"part\n");
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o640);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(800_000_000);
    builder.append_data(&mut header, "GNUSparseFile.1/sparse", &content[..]).unwrap();
    builder.into_inner().unwrap()
}
