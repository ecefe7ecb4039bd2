//! What steps do, packed and unpacked.

use super::*;
use crate::node::CAPABILITY;

#[test]
fn a_second_name_without_attributes_leaves_its_file_those_that_it_has() {
    let place = place();
    let attributes = vec![(b"security.capability".to_vec(), CAPABILITY.to_vec())];
    let first = Raw { attributes: attributes.clone(), ..raw_file("f", "text") };
    let folder = place.unpack(&[first, raw_hard("g", "f")]).unwrap();
    assert_eq!(see(folder.as_std_path())[Path::new("g")].attributes, attributes);
}

#[test]
fn an_access_control_list_is_in_no_layer_and_no_later_step_sees_it() {
    let place = place();
    let stack = base(&place);
    let upper = place.folder("upper");
    // User 7 may read (acl(5); the form is that of the kernel's `posix_acl_xattr.h`).
    let acl: Vec<u8> = [(1, 6, u32::MAX), (2, 4, 7), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
        .iter()
        .flat_map(|(tag, permissions, id)| {
            [&u16::to_le_bytes(*tag)[..], &u16::to_le_bytes(*permissions), &u32::to_le_bytes(*id)].concat()
        })
        .collect();
    let acl = [&2_u32.to_le_bytes()[..], &acl].concat();
    place.change(&stack, &upper, |root| {
        std::fs::create_dir(root.join("d")).unwrap();
        std::fs::write(root.join("d/f"), "").unwrap();
        set_attribute(&root.join("d/f"), "system.posix_acl_access", &acl);
        set_attribute(&root.join("d"), "system.posix_acl_default", &acl);
        set_attribute(root, "trusted.imgforge", b"x");
    });
    place.pack(&upper, &stack, "blob").unwrap();
    for path in ["", "d", "d/f"] {
        let names = crate::node::attribute_names(std::fs::File::open(upper.join(path)).unwrap()).unwrap();
        let names = names.iter().map(|name| String::from_utf8_lossy(name)).collect::<Vec<_>>();
        assert!(names.iter().all(|name| name.starts_with("user.overlay.")), "{path}: {names:?}");
    }
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
        set_attribute(&root.join("setuid"), "security.capability", &CAPABILITY);
        std::fs::set_permissions(root.join("setuid"), PermissionsExt::from_mode(0o4755)).unwrap();
        std::fs::hard_link(root.join("setuid"), root.join("setuid again")).unwrap();
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
            assert_eq!(Digest::sha256(&bytes), layer.digest);
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
        assert_eq!(Digest::sha256(&plain.stdout), first.0.diff_id);
        assert_eq!(plain.stdout.len() as u64, first.0.unpacked_size);
        assert_eq!(
            unpack(&place.at(&format!("{tool}-2")), &[], &place.at(tool)).unwrap().diff_id,
            first.0.diff_id
        );
        assert!(see(place.at(tool).as_std_path()).len() == names.len() + 1);
    }
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
