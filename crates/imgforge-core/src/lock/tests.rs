use proptest::prelude::*;
use proptest::sample::subsequence;

use super::*;
use crate::workspace::testing::shown;

const FILE: &str = "imgforge.lock";

fn read(text: &str) -> Result<Lock, Problems> {
    Lock::read(text, Utf8Path::new(FILE))
}

/// What stands in locks, and what needs escapes in KDL.
const PLAIN: &str = "[a-z0-9.+~:-]{1,8}";
const ANY: &str = "[a-z0-9.+~:\\\\\"\u{e9}\u{1}-]{1,8}";

/// Packages of two sources, each name in one or two versions.
fn packages_of(text: &'static str) -> impl Strategy<Value = Vec<LockedPackage>> {
    let path =
        (text, "[a-z0-9+]{1,8}").prop_map(|(folder, file)| format!("{}/{file}", folder.replace('.', "_")));
    let suite =
        prop_oneof![Just(("bookworm", false)), Just(("bookworm", true)), Just(("bookworm-security", true))];
    let hashes = ("[0-9a-f]{64}", prop_oneof![Just(String::new()), "Q1[a-zA-Z0-9+/]{3}="]);
    let indexed = proptest::option::of("2026112[0-9]T210000Z");
    let package = ("(debian|extra)", text, text, path, 0..u64::MAX / 2, hashes, suite, indexed).prop_map(
        |(source, name, version, path, size, (sha256, checksum), (suite, security), indexed)| LockedPackage {
            source,
            name,
            version,
            architecture: "amd64".into(),
            suite: suite.into(),
            path,
            size,
            sha256,
            checksum,
            security,
            indexed,
        },
    );
    proptest::collection::btree_set(package, 0..8).prop_map(|set| set.into_iter().collect())
}

/// A lock whose images add packages that it has.
fn lock_of(text: &'static str) -> impl Strategy<Value = Lock> {
    let images = |packages: Vec<LockedPackage>| {
        let entries: Vec<(String, String)> =
            packages.iter().map(|p| (p.source.clone(), format!("{}={}", p.name, p.version))).collect();
        let count = entries.len();
        let image = ("[a-z]{1,5}", "(debian|extra)", subsequence(entries, 0..=count)).prop_map(
            |(name, source, entries)| {
                let of_source = entries.into_iter().filter(|(other, _)| *other == source);
                let packages: BTreeSet<String> = of_source.map(|(_, entry)| entry).collect();
                let packages = packages.into_iter().collect();
                (ImageName::new(name).unwrap(), LockedImage { source, request: "0123".into(), packages })
            },
        );
        ("[0-9a-f]{64}", Just(packages), proptest::collection::btree_map("[a-z]{1,5}", image, 0..4))
    };
    let externals = proptest::collection::btree_map(text, external_of(text), 0..3);
    (packages_of(text).prop_flat_map(images), externals).prop_map(
        |((request, packages, images), externals)| Lock {
            request,
            externals,
            packages,
            images: images.into_values().collect(),
        },
    )
}

fn external_of(text: &'static str) -> impl Strategy<Value = LockedExternal> {
    let digest = || "[0-9a-f]{64}".prop_map(|hex| Digest::from_sha256_hex(&hex).unwrap());
    let platforms = proptest::collection::btree_map(text, digest(), 0..3);
    let package = (text, text, text).prop_map(|(name, version, architecture)| ForeignPackage {
        name,
        version,
        architecture,
    });
    let packages = proptest::collection::btree_set(package, 0..4);
    (digest(), platforms, packages).prop_map(|(digest, platforms, packages)| LockedExternal {
        digest,
        platforms,
        packages,
    })
}

proptest! {
    #[test]
    fn a_lock_reads_back_and_is_written_again_bit_for_bit(lock in lock_of(ANY)) {
        let text = lock.to_kdl();
        let again = read(&text).unwrap();
        prop_assert_eq!(&again, &lock);
        prop_assert_eq!(again.to_kdl(), text);
    }

    #[test]
    fn two_locks_merged_line_by_line_are_a_lock_with_the_packages_of_both(a in lock_of(ANY), b in packages_of(ANY)) {
        let text = a.to_kdl();
        let other = Lock { packages: b.clone(), ..Lock::default() }.to_kdl();
        let lines = other.lines().filter(|line| line.starts_with("package "));
        let (head, rest) = text.split_at(text.find("lock ").unwrap());
        let (lock, rest) = rest.split_at(rest.find('\n').unwrap() + 1);
        let merged = read(&format!("{head}{lock}{}\n{rest}", lines.collect::<Vec<_>>().join("\n"))).unwrap();
        let both: BTreeSet<LockedPackage> = a.packages.iter().cloned().chain(b).collect();
        prop_assert_eq!(merged.packages, both.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(merged.images, a.images);
    }

    #[test]
    fn the_quick_way_and_the_long_way_read_the_same(lock in lock_of(PLAIN), edit in any::<proptest::sample::Index>(), put in "[ a{}\"\n=-]?") {
        let text = lock.to_kdl();
        prop_assert_eq!(canonical::read(&text), Some(lock));
        // Edited anywhere: the quick way reads what the long way reads, or leaves it alone.
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let at = places[edit.index(places.len())];
        let end = at + text[at..].chars().next().map_or(0, char::len_utf8);
        let edited = format!("{}{put}{}", &text[..at], &text[end..]);
        if let Some(quick) = canonical::read(&edited) {
            prop_assert_eq!(quick, Lock::read_kdl(&edited, Utf8Path::new(FILE)).unwrap());
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "(?s).{0,60}") {
        let _ = read(&text);
    }
}

#[test]
fn the_file_is_one_fact_a_line() {
    let package = |name: &str, version: &str| LockedPackage {
        source: "debian".into(),
        name: name.into(),
        version: version.into(),
        architecture: "amd64".into(),
        suite: "bookworm".into(),
        path: format!("pool/main/{name}_{version}_amd64.deb"),
        size: 1234,
        sha256: "ab".repeat(32),
        checksum: String::new(),
        security: false,
        indexed: None,
    };
    let security =
        LockedPackage { suite: "bookworm-security".into(), security: true, ..package("openssl", "3.0.17") };
    // Its Release file says so, its suite's name does not.
    let marked = LockedPackage { security: true, ..package("zlib1g", "1.2") };
    let indexed = LockedPackage { indexed: Some("20261126T210000Z".into()), ..package("curl", "7.88") };
    let adds = LockedImage {
        source: "debian".into(),
        request: "0123456789abcdef".into(),
        packages: vec!["nginx-light=1.22.1-9".into(), "libc6=2.36".into()],
    };
    let digest = |hex: &str| Digest::from_sha256_hex(&hex.repeat(32)).unwrap();
    let foreign =
        ForeignPackage { name: "libc6".into(), version: "2.36".into(), architecture: "amd64".into() };
    let external = LockedExternal {
        digest: digest("12"),
        platforms: BTreeMap::from([("linux/amd64".into(), digest("34"))]),
        packages: BTreeSet::from([foreign]),
    };
    let lock = Lock {
        request: "cd".repeat(32),
        externals: BTreeMap::from([("debian:12-slim".into(), external)]),
        packages: vec![
            package("nginx-light", "1.22.1-9"),
            package("libc6", "2.36"),
            security,
            marked,
            indexed,
        ],
        images: BTreeMap::from([(ImageName::new("web").unwrap(), adds)]),
    };
    insta::assert_snapshot!(lock.to_kdl());
}

#[test]
fn every_wrong_line_is_a_problem_with_its_place() {
    let sha = "0".repeat(64);
    let package = |path: &str, sha: &str| {
        format!(
            "package \"debian\" \"a\" \"1\" \"amd64\" suite=\"s\" path=\"{path}\" size=1 sha256=\"{sha}\"\n"
        )
    };
    let text = [
        "lock version=2 request=\"x\"\n",
        "package \"debian\" \"a\"\n",
        "pakage\n",
        &package("../../etc/passwd", &sha),
        &package("pool/a.deb", "ABC"),
        &package("pool/a.deb", &sha).replace("suite", "host=\"h\" suite"),
        &package("pool/a.deb", &sha).replace("suite", "indexed=\"yesterday\" suite"),
        "image \"web\" source=\"debian\" request=\"r\" {\n    add \"nginx=1\"\n    del \"b\"\n}\n",
        "image \"web\" source=\"other\" request=\"r\"\n",
        "external \"alpine:3\" digest=\"sha256:12\"\n",
        &format!(
            "external \"alpine:3\" digest=\"sha256:{sha}\" {{\n    platform \"linux/amd64\"\n    with \"x\"\n}}\n"
        ),
        &format!("external \"alpine:3\" digest=\"sha256:{}\"\n", "1".repeat(64)),
    ];
    insta::assert_snapshot!(shown(read(&text.concat()).unwrap_err()));
}

#[test]
fn of_a_package_from_two_indexes_the_line_of_the_later_one_counts() {
    let sha = "0".repeat(64);
    let line = |indexed: &str| {
        format!(
            "package \"debian\" \"a\" \"1\" \"amd64\" suite=\"s\" path=\"a.deb\" size=1 sha256=\"{sha}\"{indexed}\n"
        )
    };
    let (early, late) = (line(" indexed=\"20261126T210000Z\""), line(" indexed=\"20261127T030000Z\""));
    let head = "lock version=1 request=\"x\"\n";
    let lock = read(&[head, &late, &line(""), &early].concat()).unwrap();
    assert_eq!(lock.to_kdl(), [HEAD, head, &late].concat());
    // Also when nothing else of the text is out of order.
    let lock = read(&[HEAD, head, &early, &late].concat()).unwrap();
    assert_eq!(lock.to_kdl(), [HEAD, head, &late].concat());
}

#[test]
fn a_merge_that_is_not_finished_is_told_as_that() {
    let text = "lock version=1 request=\"x\"\n<<<<<<< HEAD\n=======\n>>>>>>> other\n";
    insta::assert_snapshot!(shown(read(text).unwrap_err()));
}

#[test]
fn a_file_that_is_no_lock_is_refused() {
    insta::assert_snapshot!(shown(read("").unwrap_err()));
}
