//! Fingerprints of whole families: what changes them, and what does not. No engine is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge::core::lock::Lock;
use imgforge::{OpenOptions, Session};
use proptest::prelude::*;

/// A family on disk: image `iN` has the parents `parents[N]`, all smaller than N, the first by `from`.
struct Family {
    _dir: tempfile::TempDir,
    root: Utf8PathBuf,
    parents: Vec<Vec<usize>>,
}

impl Family {
    fn new(parents: &[Vec<usize>]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(dir.path().canonicalize().unwrap()).unwrap();
        let family = Self { _dir: dir, root, parents: parents.to_vec() };
        family.write("imgforge.kdl", "workspace \"w\" {\n    label \"vendor\" \"x\"\n}\n");
        for n in 0..parents.len() {
            family.write(&format!("i{n}/image.kdl"), &family.manifest(n, ""));
            family.write(&format!("i{n}/file"), &format!("file of {n}"));
            family.write(&format!("i{n}/dir/a"), "a");
            family.write(&format!("i{n}/dir/b"), "b");
            family.write(&format!("i{n}/unreached"), "nothing copies this");
        }
        family
    }

    fn manifest(&self, n: usize, extra: &str) -> String {
        let parents = &self.parents[n];
        let base = parents.first().map_or("scratch".to_owned(), |p| format!("i{p}"));
        let copies: String = parents
            .iter()
            .skip(1)
            .map(|p| format!("    copy \"/x\" \"/from-{p}\" from=\"i{p}\"\n"))
            .collect();
        format!(
            "image \"i{n}\" {{\n    from \"{base}\"\n{copies}    copy \"file\" \"/x\"\n    copy \"dir\" \"/dir/\"\n    env \"A\" \"1\"\n    env \"B\" \"2\"\n    run \"true\"\n{extra}}}\n"
        )
    }

    fn write(&self, path: &str, text: &str) {
        let full = self.root.join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(full, text).unwrap();
    }

    fn descendants(&self, n: usize) -> BTreeSet<String> {
        let mut found = BTreeSet::from([n]);
        for (child, parents) in self.parents.iter().enumerate() {
            if parents.iter().any(|parent| found.contains(parent)) {
                found.insert(child);
            }
        }
        found.into_iter().map(|n| format!("i{n}")).collect()
    }
}

fn fingerprints(root: &Utf8Path, cache: bool) -> BTreeMap<String, String> {
    let session = Session::open(root, &OpenOptions { cache, ..OpenOptions::default() }).unwrap();
    let all = session.select(&[], &[]).unwrap();
    let prepared = session.prepare(&all, &Lock::default(), &[]).unwrap();
    prepared.iter().map(|p| (p.target.name.to_string(), p.target.fingerprint.to_string())).collect()
}

fn changed(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> BTreeSet<String> {
    assert_eq!(before.len(), after.len());
    before
        .iter()
        .filter(|(name, fingerprint)| after[*name] != **fingerprint)
        .map(|(name, _)| name.clone())
        .collect()
}

/// Changes an input of image `n`.
fn change(family: &Family, n: usize, how: usize) {
    let path = |file: &str| family.root.join(format!("i{n}/{file}"));
    let manifest = |extra: &str| family.write(&format!("i{n}/image.kdl"), &family.manifest(n, extra));
    match how {
        0 => family.write(&format!("i{n}/file"), "other"),
        1 => fs::set_permissions(path("file"), fs::Permissions::from_mode(0o755)).unwrap(),
        2 => family.write(&format!("i{n}/dir/new"), ""),
        3 => fs::remove_file(path("dir/a")).unwrap(),
        4 => fs::rename(path("dir/a"), path("dir/c")).unwrap(),
        5 => {
            fs::remove_file(path("dir/a")).unwrap();
            std::os::unix::fs::symlink("b", path("dir/a")).unwrap();
        }
        6 => fs::create_dir(path("dir/empty")).unwrap(),
        7 => manifest("    env \"C\" \"3\"\n"),
        8 => manifest("    run \"echo\"\n"),
        9 => manifest("    label \"k\" \"v\"\n"),
        10 => manifest("    expose 80\n"),
        11 => manifest("    network \"default\"\n"),
        12 => manifest("    run-as \"1000\"\n"),
        13 => manifest("    network \"host\"\n"),
        15 => fs::set_permissions(path("file"), fs::Permissions::from_mode(0o600)).unwrap(),
        14 => fs::set_permissions(path("dir"), fs::Permissions::from_mode(0o700)).unwrap(),
        // The same size, and a file time set back to what it was.
        _ => {
            let time = fs::metadata(path("file")).unwrap().modified().unwrap();
            let old = fs::read_to_string(path("file")).unwrap();
            fs::write(path("file"), "x".repeat(old.len())).unwrap();
            fs::File::options().write(true).open(path("file")).unwrap().set_modified(time).unwrap();
        }
    }
}

const CHANGES: usize = 17;

/// Does something to image `n` that is no input.
fn disturb(family: &Family, n: usize, how: usize) {
    let path = |file: &str| family.root.join(format!("i{n}/{file}"));
    let manifest = family.root.join(format!("i{n}/image.kdl"));
    let text = fs::read_to_string(&manifest).unwrap();
    match how {
        0 => {
            let file = fs::File::options().write(true).open(path("file")).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1)).unwrap();
        }
        1 => fs::write(&manifest, format!("// a comment\n{}", text.replace("    ", "\t  "))).unwrap(),
        2 => fs::write(
            &manifest,
            text.replace(
                "    env \"A\" \"1\"\n    env \"B\" \"2\"\n",
                "    env \"B\" \"2\"\n    env \"A\" \"1\"\n",
            ),
        )
        .unwrap(),
        3 => family.write(&format!("i{n}/unreached"), "changed"),
        // As under another umask.
        4 => fs::set_permissions(path("file"), fs::Permissions::from_mode(0o664)).unwrap(),
        5 => fs::write(
            &manifest,
            text.replace("    run \"true\"\n", "    run \\\n        \"true\"\n    description \"words\"\n"),
        )
        .unwrap(),
        6 => family.write(&format!("i{n}/image.kdl"), &family.manifest(n, "    network \"none\"\n")),
        // Only root can give files away; elsewhere the case is empty.
        _ => drop(std::os::unix::fs::chown(path("file"), Some(1234), Some(1234))),
    }
}

const DISTURBANCES: usize = 8;

fn any_family() -> impl Strategy<Value = Vec<Vec<usize>>> {
    (1..7usize).prop_flat_map(|size| {
        let parents = |n: usize| {
            proptest::collection::vec(0..n.max(1), 0..=n.min(2)).prop_map(move |mut ps: Vec<usize>| {
                ps.retain(|p| *p < n);
                ps.dedup();
                ps
            })
        };
        (0..size).map(parents).collect::<Vec<_>>()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_change_of_an_input_changes_the_image_and_exactly_its_descendants(
        parents in any_family(), at in any::<prop::sample::Index>(), how in 0..CHANGES, cache in any::<bool>(),
    ) {
        let family = Family::new(&parents);
        let before = fingerprints(&family.root, cache);
        let n = at.index(parents.len());
        change(&family, n, how);
        let after = fingerprints(&family.root, cache);
        prop_assert_eq!(changed(&before, &after), family.descendants(n), "change {}", how);
        prop_assert_eq!(after, fingerprints(&family.root, false), "the cache changes nothing");
    }

    #[test]
    fn nothing_else_changes_any(
        parents in any_family(), at in any::<prop::sample::Index>(), how in 0..DISTURBANCES, cache in any::<bool>(),
    ) {
        let family = Family::new(&parents);
        let before = fingerprints(&family.root, cache);
        disturb(&family, at.index(parents.len()), how);
        prop_assert_eq!(fingerprints(&family.root, cache), before, "disturbance {}", how);
    }

    #[test]
    fn a_workspaces_network_is_an_input_of_the_images_that_do_not_say_one(
        parents in any_family(), said in proptest::collection::vec(proptest::option::of(0..3usize), 7), given in 0..3usize,
    ) {
        const NETWORKS: [&str; 3] = ["none", "default", "host"];
        let family = Family::new(&parents);
        for (n, network) in said.iter().enumerate().take(parents.len()) {
            let line = network.map_or(String::new(), |network| format!("    network \"{}\"\n", NETWORKS[network]));
            family.write(&format!("i{n}/image.kdl"), &family.manifest(n, &line));
        }
        let before = fingerprints(&family.root, true);
        let manifest = fs::read_to_string(family.root.join("imgforge.kdl")).unwrap();
        let line = format!("\n    network \"{}\"\n}}", NETWORKS[given]);
        family.write("imgforge.kdl", &manifest.replacen('}', &line, 1));
        let silent = (0..parents.len()).filter(|n| said[*n].is_none() && given != 0);
        let expected: BTreeSet<String> = silent.flat_map(|n| family.descendants(n)).collect();
        prop_assert_eq!(changed(&before, &fingerprints(&family.root, true)), expected);
    }

    #[test]
    fn neither_the_checkouts_path_nor_the_number_of_threads_matters(parents in any_family(), threads in 1..5usize) {
        let (here, there) = (Family::new(&parents), Family::new(&parents));
        prop_assert_ne!(&here.root, &there.root);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        prop_assert_eq!(fingerprints(&here.root, false), pool.install(|| fingerprints(&there.root, false)));
    }
}

/// Runs a line of a shell in a folder.
fn shell(folder: &Utf8Path, line: &str) {
    let mut command = std::process::Command::new("sh");
    let done = command.args(["-ec", line]).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn the_umask_of_a_checkout_does_not_matter_nor_how_git_keeps_it() {
    let family = Family::new(&[vec![], vec![0]]);
    let root = &family.root;
    fs::set_permissions(root.join("i1/dir/a"), fs::Permissions::from_mode(0o755)).unwrap();
    shell(
        root,
        "git init --quiet && git add . && git -c user.name=n -c user.email=n@example.com commit --quiet -m all",
    );
    let here = fingerprints(root, false);
    for (number, (umask, how)) in [
        ("022", "git clone --quiet \"$FROM\" \"$TO\""),
        ("002", "git clone --quiet \"$FROM\" \"$TO\""),
        ("077", "git clone --quiet \"$FROM\" \"$TO\""),
        ("027", "git -C \"$FROM\" worktree add --quiet \"$TO\""),
        (
            "077",
            "mkdir outer && cd outer && git init --quiet && \
             git -c protocol.file.allow=always submodule --quiet add \"$FROM\" sub && cp -a ../outer \"$TO\"",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let place = tempfile::tempdir().unwrap();
        let place = Utf8Path::from_path(place.path()).unwrap();
        let to = place.join(format!("copy-{number}"));
        shell(place, &format!("umask {umask}; FROM={root} TO={to}; {how}"));
        let there = if to.join("sub").exists() { to.join("sub") } else { to };
        let mode = fs::metadata(there.join("i0/file")).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o666 & !u32::from_str_radix(umask, 8).unwrap(), "{umask} {how}");
        assert_eq!(fingerprints(&there, false), here, "{umask} {how}");
    }
    // What git does not track is as it is on the disk.
    fs::write(root.join("i0/dir/new"), "").unwrap();
    fs::set_permissions(root.join("i0/dir/new"), fs::Permissions::from_mode(0o600)).unwrap();
    let closed = fingerprints(root, false);
    shell(root, "git add .");
    let tracked = fingerprints(root, false);
    fs::set_permissions(root.join("i0/dir/new"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_ne!(closed, tracked);
    assert_eq!(fingerprints(root, false), tracked);
}

#[test]
fn the_locale_and_the_time_zone_do_not_matter() {
    let family = crate::small_family();
    let list = |locale: &str| {
        let mut command = family.command(crate::IMGFORGE, &["render", "left"]);
        let output =
            command.env("LC_ALL", locale).env("LANG", locale).env("TZ", "Asia/Tokyo").output().unwrap();
        imgforge_testkit::workspace::Ran::of(output).ok().stdout
    };
    // The rendered Dockerfile names its parent by its fingerprint.
    assert_eq!(list("C"), list("tr_TR.UTF-8"));
}

/// A stage of a generated Dockerfile: the stage below it, and those that it takes files from, by name or by number.
#[derive(Debug, Clone)]
struct Stage {
    below: Option<usize>,
    from: Vec<(usize, bool)>,
}

fn stages() -> impl Strategy<Value = Vec<Stage>> {
    let stage = (0_usize..8, proptest::collection::vec((0_usize..8, any::<bool>()), 0..3));
    proptest::collection::vec(stage, 2..7).prop_map(|stages| {
        let stage = |(n, (below, from)): (usize, (usize, Vec<(usize, bool)>))| Stage {
            below: (below < n).then_some(below),
            from: from.into_iter().filter(|(other, _)| *other < n).collect(),
        };
        stages.into_iter().enumerate().map(stage).collect()
    })
}

/// The Dockerfile of these stages. `edited` says something else, as does the ARG of `renamed`; an unneeded stage stands
/// before stage `more`.
fn many_targets(
    stages: &[Stage],
    edited: Option<usize>,
    renamed: Option<usize>,
    more: Option<usize>,
) -> String {
    let mut text = String::new();
    for n in 0..stages.len() {
        let value = if renamed == Some(n) { "other" } else { "one" };
        text.push_str(&format!("ARG OF_{n}={value}\n"));
    }
    let number = |stage: usize| stage + usize::from(more.is_some_and(|more| more <= stage));
    for (n, stage) in stages.iter().enumerate() {
        if more == Some(n) {
            text.push_str("# Nothing needs this.\nFROM scratch AS unneeded\nCOPY unneeded /\n");
        }
        let below = stage.below.map_or("scratch".to_owned(), |below| format!("s{below}"));
        text.push_str(&format!("FROM {below} AS s{n}\nARG OF_{n}\nCOPY file{n} /$OF_{n}/\n"));
        for (other, by_name) in &stage.from {
            let from = if *by_name { format!("S{other}") } else { number(*other).to_string() };
            text.push_str(&format!("COPY --from={from} / /of{other}/\n"));
        }
        if edited == Some(n) {
            text.push_str("ENV EDITED=1\n");
        }
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_target_changes_exactly_with_what_it_can_reach(stages in stages(), at in 0_usize..8, how in 0_usize..4) {
        let at = at % stages.len();
        let family = Family::new(&[]);
        let dockerfile = |edited, renamed, more| {
            family.write("d/Dockerfile", &many_targets(&stages, edited, renamed, more));
        };
        let image = |n: usize| format!("image \"s{n}\" {{\n    dockerfile \"Dockerfile\" context=\"/c\" target=\"s{n}\"\n}}\n");
        family.write("d/image.kdl", &(0..stages.len()).map(image).collect::<String>());
        for n in 0..stages.len() {
            family.write(&format!("c/file{n}"), "file");
        }
        family.write("c/unneeded", "");
        dockerfile(None, None, None);
        let before = fingerprints(&family.root, false);
        match how {
            0 => dockerfile(Some(at), None, None),
            1 => dockerfile(None, Some(at), None),
            2 => family.write(&format!("c/file{at}"), "other"),
            _ => dockerfile(None, None, Some(at)),
        }
        let mut reach: Vec<BTreeSet<usize>> = Vec::new();
        for (n, stage) in stages.iter().enumerate() {
            let mut found = BTreeSet::from([n]);
            for other in stage.below.iter().chain(stage.from.iter().map(|(other, _)| other)) {
                found.extend(&reach[*other]);
            }
            reach.push(found);
        }
        let expected: BTreeSet<String> = (0..stages.len())
            .filter(|n| how < 3 && reach[*n].contains(&at))
            .map(|n| format!("s{n}"))
            .collect();
        prop_assert_eq!(changed(&before, &fingerprints(&family.root, false)), expected);
    }
}

/// What a workspace that uses nothing new had before `context=` and `target=` were there.
#[test]
fn fingerprints_of_plain_dockerfiles_are_those_of_before() {
    let family = Family::new(&[]);
    family.write("a/image.kdl", "image \"a\" {\n    dockerfile \"Dockerfile\"\n    arg \"V\" \"1\"\n}\n");
    family.write(
        "a/Dockerfile",
        "# c\nARG V\nFROM scratch AS x\nCOPY f /\nFROM scratch\nCOPY --from=x /f /\nCOPY . /all\n",
    );
    family.write("a/f", "f");
    fs::set_permissions(family.root.join("a/f"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(family.root.join("a/Dockerfile"), fs::Permissions::from_mode(0o644)).unwrap();
    let found = fingerprints(&family.root, false);
    assert_eq!(found["a"], "de3f71aba77cb42f0ecfba3a5f8b7d0fa59031b44476b46dcbcf9d12f678e58f");
}
