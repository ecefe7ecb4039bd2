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
        add(path, file(text.as_bytes(), 0o644));
    }
    add("bin/tool", file(b"tool\n", 0o755));
    add("bin/run.sh", file(b"#!/bin/sh\necho run\n", 0o755));
    add("d/empty", EntryKind::Dir { mode: 0o755 });
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
    add("plain.tar", file(&archive(), 0o644));
    add("packed.tar.gz", file(&packed(&other_archive()), 0o644));
    add("odd.tar", file(&odd_archive(), 0o644));
    add("text.gz", file(&packed(b"only text\n"), 0o644));
    add("archives/in.tar", file(&archive(), 0o644));
    add("archives/text", file(b"text\n", 0o644));
    add("capable.tar", file(&capable_archive(), 0o644));
    for (path, mode) in [("m", 0o700), ("m/sticky", 0o1777), ("m/group", 0o2775), ("m/closed", 0o500)] {
        add(path, EntryKind::Dir { mode });
    }
    for (path, mode) in [
        ("m/key", 0o600),
        ("m/read-only", 0o444),
        ("m/group/shared", 0o664),
        ("m/closed/run", 0o711),
        ("m/nobody", 0),
        ("m/setuid", 0o4755),
        ("m/setgid", 0o2755),
    ] {
        add(path, file(path.as_bytes(), mode));
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    entries
}

/// The files of the base image, which lie in the context of its build alone.
pub(super) fn base() -> Vec<ContextEntry> {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let text =
        |path: &str, text: &str| ContextEntry { path: path.into(), kind: file(text.as_bytes(), 0o644) };
    let folder = |path: &str| ContextEntry { path: path.into(), kind: EntryKind::Dir { mode: 0o755 } };
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:App:/home/app:/bin/sh\n";
    let group = "root:x:0:\nstaff:x:50:app\napp:x:1000:\naudio:x:63:other,app\n";
    vec![
        ContextEntry { path: "busybox".into(), kind: file(&busybox, 0o755) },
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

fn file(bytes: &[u8], mode: u32) -> EntryKind {
    EntryKind::File {
        hash: ContentHash::of(bytes),
        size: bytes.len() as u64,
        mode,
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

/// Files with extended attributes: capabilities, one of a user, an access control list.
fn capable_archive() -> Vec<u8> {
    // Version 2 of `security.capability`: cap_net_bind_service=ep.
    let mut capability = vec![1, 0, 0, 2, 0, 4, 0, 0];
    capability.resize(20, 0);
    // User 7 may read (the form of the kernel's `posix_acl_xattr.h`).
    let acl: [(u16, u16, u32); 5] =
        [(1, 6, u32::MAX), (2, 4, 7), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)];
    let acl = acl.iter().flat_map(|(tag, permissions, id)| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    });
    let acl: Vec<u8> = 2_u32.to_le_bytes().into_iter().chain(acl).collect();
    let mut builder = tar::Builder::new(Vec::new());
    for (path, owner, mode, attribute, value) in [
        ("capable", 0, 0o755, "security.capability", &capability),
        ("owned", 1000, 0o4750, "security.capability", &capability),
        ("listed", 0, 0o640, "system.posix_acl_access", &acl),
    ] {
        builder.append_pax_extensions([(&*format!("SCHILY.xattr.{attribute}"), &value[..])]).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(800_000_000);
        header.set_size(path.len() as u64);
        builder.append_data(&mut header, path, path.as_bytes()).unwrap();
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
