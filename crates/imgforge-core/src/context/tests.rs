use proptest::prelude::*;

use super::*;
use crate::fingerprint::Fingerprint;
use crate::source::Kind;
use crate::source::memory::Memory;

fn tree(files: &[(&str, &str)]) -> Memory {
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, text)| (*path, text.as_bytes())).collect();
    Memory::of(&files)
}

fn list(tree: &Memory, dockerfile: &str, is_rendered: bool) -> Result<Vec<String>, Vec<String>> {
    let file = Dockerfile::parse(dockerfile).unwrap();
    let nested = [Utf8PathBuf::from("i/nested")];
    of(tree, &file, &nested, is_rendered)
        .list()
        .map(|listing| listing.entries.into_iter().map(|entry| entry.path.into_string()).collect())
        .map_err(|problems| problems.into_iter().map(|p| p.message).collect())
}

#[test]
fn just_what_the_dockerfile_reaches_is_listed() {
    let files = ["a", "b.txt", "d/x", "d/y/z", "nested/n", "image.kdl", ".hidden", "c.txt"];
    let paths: Vec<String> = files.iter().map(|file| format!("i/{file}")).collect();
    let mut files: Vec<(&str, &str)> = paths.iter().map(|path| (path.as_str(), "content")).collect();
    files.push(("outside", "secret"));
    let tree = tree(&files);
    for (copy, expected) in [
        ("a /", &["a"][..]),
        ("d /", &["d", "d/x", "d/y", "d/y/z"]),
        ("./d/y /", &["d", "d/y", "d/y/z"]),
        ("*.txt /", &["b.txt", "c.txt"]),
        ("d/[xy] /", &["d", "d/x", "d/y", "d/y/z"]),
        ("a d/../a /a/ /", &["a"]),
        (". /", &[".hidden", "a", "b.txt", "c.txt", "d", "d/x", "d/y", "d/y/z"]),
        ("image.kdl /", &["image.kdl"]),
    ] {
        let sources = copy.replace("/a/ ", "/a ");
        assert_eq!(list(&tree, &format!("FROM scratch\nCOPY {sources}"), false).unwrap(), expected, "{copy}");
    }
    assert!(
        list(&tree, "FROM scratch\nCOPY ../outside /", false).unwrap_err()[0]
            .contains("outside the image's folder")
    );
    let nested = list(&tree, "FROM scratch\nCOPY nested/n /", true).unwrap_err();
    assert!(nested[0].contains("another image's folder"));
    assert_eq!(
        list(&tree, "FROM scratch\nCOPY bb.txt nothing* /", false).unwrap_err(),
        ["there is no \"bb.txt\" in i", "nothing matches \"nothing*\""]
    );
    for copy in [". /", "* /", "./ /", ".* /"] {
        let refused = list(&tree, &format!("FROM scratch\nCOPY {copy}"), true).unwrap_err();
        assert!(refused[0].contains("takes the whole image folder"), "{copy}");
    }
}

#[test]
fn a_hand_written_dockerfile_takes_nested_folders_and_leaves_what_imgforge_reads_unless_it_names_it() {
    let files =
        ["a", "image.kdl", "nested/n", "nested/image.kdl", "nested/deep/image.kdl", "other/image.kdl"];
    let paths: Vec<String> = files.iter().map(|file| format!("i/{file}")).collect();
    let files: Vec<(&str, &str)> = paths.iter().map(|path| (path.as_str(), "content")).collect();
    let tree = tree(&files);
    let mut passed_over: Vec<Utf8PathBuf> =
        vec!["i/nested/image.kdl".into(), "i/nested/deep/image.kdl".into()];
    passed_over.sort();
    for (copy, expected) in [
        (". /", &["a", "nested", "nested/deep", "nested/n", "other", "other/image.kdl"][..]),
        ("nested /", &["nested", "nested/deep", "nested/n"]),
        ("*/* /", &["nested", "nested/deep", "nested/n", "other", "other/image.kdl"]),
        ("nested/image.kdl image.kdl /", &["image.kdl", "nested", "nested/image.kdl"]),
    ] {
        let file = Dockerfile::parse(&format!("FROM scratch\nCOPY {copy}")).unwrap();
        let found = of(&tree, &file, &passed_over, false).list().unwrap().entries;
        let found: Vec<&str> = found.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(found, expected, "{copy}");
    }
}

#[test]
fn links_are_kept_and_followed_only_inside() {
    let mut tree = tree(&[("i/real/file", "x"), ("outside", "secret")]);
    tree.link("real", "i/folder");
    tree.link("../outside", "i/escape");
    tree.link("/etc/passwd", "i/absolute");
    tree.link("loop", "i/loop");
    let list = |copy: &str| list(&tree, &format!("FROM scratch\nCOPY {copy} /"), true);
    assert_eq!(list("folder/file").unwrap(), ["folder", "real", "real/file"]);
    assert_eq!(list("folder").unwrap(), ["folder", "real", "real/file"]);
    for escape in ["escape", "absolute", "loop"] {
        assert!(list(escape).is_err(), "{escape}");
    }
}

/// What is listed is what a build looks for, so this is BuildKit's rule and not the kernel's.
#[test]
fn dots_in_the_target_of_a_link_take_away_the_name_before_them_as_in_buildkit() {
    let mut tree = tree(&[("i/f", ""), ("i/deep/f", ""), ("i/deep/d/x", "")]);
    tree.link("deep/d", "i/d");
    tree.link("d/../f", "i/l");
    assert_eq!(list(&tree, "FROM scratch\nCOPY l /", true).unwrap(), ["f", "l"]);
}

#[test]
fn what_dockerignore_excludes_is_not_listed() {
    let tree = tree(&[
        ("i/d/a", ""),
        ("i/d/b", ""),
        ("i/d/keep/c", ""),
        ("i/.dockerignore", "d/a\n**/keep\n!d/keep/c\n"),
    ]);
    assert_eq!(list(&tree, "FROM scratch\nCOPY d /", false).unwrap(), ["d", "d/b", "d/keep", "d/keep/c"]);
}

fn of<'a>(
    source: &'a Memory,
    dockerfile: &'a Dockerfile,
    nested: &'a [Utf8PathBuf],
    is_rendered: bool,
) -> Context<'a> {
    const NONE: &BTreeMap<String, String> = &BTreeMap::new();
    let dir = Utf8Path::new("i");
    Context {
        source,
        dir,
        dockerfile,
        dockerfile_path: None,
        args: NONE,
        generated: &[],
        passed_over: nested,
        is_rendered,
    }
}

/// What a folder is hashed to, and the modes that are sent.
fn hashed(tree: &Memory) -> (Fingerprint, BTreeMap<String, u32>) {
    let file = Dockerfile::parse("FROM scratch\nCOPY d /").unwrap();
    let entries = of(tree, &file, &[], true).list().unwrap().entries;
    let mut inputs = InputManifest::default();
    insert_inputs(&entries, &mut inputs);
    let modes = entries.iter().filter_map(|entry| {
        let (EntryKind::Dir { mode } | EntryKind::File { mode, .. }) = &entry.kind else { return None };
        Some((entry.path.to_string(), *mode))
    });
    (inputs.fingerprint(), modes.collect())
}

/// A folder with what git tracks and what it does not.
fn half_tracked() -> Memory {
    let mut tree = tree(&[("i/d/known", ""), ("i/d/in/known", ""), ("i/d/key", ""), ("i/d/out/key", "")]);
    tree.track(&["i/d/known", "i/d/in/known"]);
    tree
}

#[test]
fn modes_are_those_of_git_where_it_knows_the_file_and_those_of_the_disk_elsewhere() {
    let mut tree = half_tracked();
    for (path, mode) in [("", 0o700), ("/known", 0o600), ("/in", 0o700), ("/in/known", 0o740)] {
        tree.set_mode(&format!("i/d{path}"), mode);
    }
    for (path, mode) in [("/key", 0o600), ("/out", 0o700), ("/out/key", 0o664)] {
        tree.set_mode(&format!("i/d{path}"), mode);
    }
    let expected = [
        ("d", 0o755),
        ("d/in", 0o755),
        ("d/in/known", 0o755),
        ("d/key", 0o600),
        ("d/known", 0o644),
        ("d/out", 0o700),
        ("d/out/key", 0o644),
    ];
    let expected: BTreeMap<String, u32> = expected.map(|(path, mode)| (path.to_owned(), mode)).into();
    assert_eq!(hashed(&tree).1, expected);
    tree.track(&[]);
    let without = hashed(&tree).1;
    assert_eq!((without["d"], without["d/known"], without["d/in/known"]), (0o700, 0o600, 0o740));
}

#[test]
fn a_key_that_git_opens_is_told_and_one_that_it_does_not_know_is_closed() {
    let key = "-----BEGIN PRIVATE KEY-----\nMIIEvQ==\n";
    let mut tree = tree(&[("i/known", key), ("i/unknown", key), ("i/open", key), ("i/text", "text")]);
    tree.track(&["i/known", "i/open", "i/text"]);
    for path in ["i/known", "i/unknown", "i/text"] {
        tree.set_mode(path, 0o600);
    }
    let file = Dockerfile::parse("FROM scratch\nCOPY known unknown open text /").unwrap();
    let context = of(&tree, &file, &[], true);
    assert_eq!(context.list().unwrap().opened_keys, ["known"]);
    let keys: Vec<Utf8PathBuf> = context.private_keys().into_iter().map(|(_, path)| path).collect();
    assert_eq!(keys, ["known", "unknown", "open"]);
}

proptest! {
    #[test]
    fn a_mode_changes_the_fingerprint_exactly_when_another_is_sent(
        changes in proptest::collection::vec((0_usize..7, proptest::sample::select(vec![
            0o600, 0o640, 0o644, 0o664, 0o666, 0o700, 0o750, 0o755, 0o775, 0o777, 0o1777, 0o4755, 0o2755,
        ])), 0..8),
    ) {
        let paths = ["d", "d/in", "d/in/known", "d/key", "d/known", "d/out", "d/out/key"];
        let mut tree = half_tracked();
        let before = hashed(&tree);
        for (path, mode) in &changes {
            tree.set_mode(&format!("i/{}", paths[*path]), *mode);
        }
        let after = hashed(&tree);
        prop_assert_eq!(before.0 == after.0, before.1 == after.1);
        for path in ["d", "d/in"] {
            prop_assert_eq!(after.1[path], 0o755);
        }
    }
}

#[test]
fn a_socket_is_an_empty_file_and_a_pipe_is_a_pipe() {
    let mut tree = tree(&[("i/d/f", "x")]);
    tree.put("i/d/s", Kind::Socket { mode: 0o755 });
    tree.put("i/d/p", Kind::Node { node: Node::Pipe, mode: 0o640 });
    let file = Dockerfile::parse("FROM scratch\nCOPY d /").unwrap();
    let found = of(&tree, &file, &[], true).list().unwrap().entries;
    let kind = |path: &str| found.iter().find(|entry| entry.path == path).unwrap().kind.clone();
    assert!(matches!(kind("d/s"), EntryKind::File { size: 0, origin: Origin::Generated(_), .. }));
    assert_eq!(kind("d/p"), EntryKind::Node { node: Node::Pipe, mode: 0o640 });
}
