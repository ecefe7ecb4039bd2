//! Archives from elsewhere: what they mean, and what they must not reach.

use super::*;

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
        assert_eq!(
            crate::node::attribute_names(std::fs::File::open(folder.join(name)).unwrap()).unwrap(),
            [b"user.mine"]
        );
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
