//! Steps and archives by chance.

use super::*;

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

/// A view without what one layer of several does not keep: the time of folders in which nothing is left, and that a
/// file has had another name.
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
