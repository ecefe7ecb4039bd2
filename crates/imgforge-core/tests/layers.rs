//! What may depend on what: the crates of this project and the modules of its core, whose arrows go one way, so that a
//! part can be read, and changed, with nothing in mind but what it stands on. And what each crate of others is for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use regex::Regex;

/// Each crate with those of ours that it may stand on. Those come before it.
const CRATES: &[(&str, &[&str])] = &[
    ("imgforge-testkit", &[]),
    ("imgforge-oci", &[]),
    ("imgforge-syntax", &[]),
    ("imgforge-http", &[]),
    ("imgforge-seccomp", &[]),
    ("imgforge-state", &[]),
    ("imgforge-dockerfile", &["imgforge-oci", "imgforge-syntax"]),
    ("imgforge-core", &["imgforge-dockerfile", "imgforge-oci", "imgforge-syntax"]),
    ("imgforge-worktree", &["imgforge-core", "imgforge-state"]),
    ("imgforge-report", &["imgforge-core", "imgforge-syntax"]),
    ("imgforge-engine", &["imgforge-core", "imgforge-dockerfile", "imgforge-oci"]),
    ("imgforge-registry", &["imgforge-core", "imgforge-http", "imgforge-oci", "imgforge-state"]),
    (
        "imgforge-packages",
        &["imgforge-core", "imgforge-http", "imgforge-oci", "imgforge-state", "imgforge-syntax"],
    ),
    (
        "imgforge-embedded",
        &[
            "imgforge-core",
            "imgforge-dockerfile",
            "imgforge-engine",
            "imgforge-http",
            "imgforge-oci",
            "imgforge-registry",
            "imgforge-seccomp",
            "imgforge-state",
        ],
    ),
    (
        "imgforge",
        &[
            "imgforge-core",
            "imgforge-dockerfile",
            "imgforge-embedded",
            "imgforge-engine",
            "imgforge-oci",
            "imgforge-packages",
            "imgforge-registry",
            "imgforge-report",
            "imgforge-state",
            "imgforge-syntax",
            "imgforge-worktree",
        ],
    ),
    (
        "xtask",
        &[
            "imgforge",
            "imgforge-embedded",
            "imgforge-oci",
            "imgforge-packages",
            "imgforge-registry",
            "imgforge-testkit",
            "imgforge-worktree",
        ],
    ),
];

/// What the tests of every crate may use too.
const FOR_TESTS: &str = "imgforge-testkit";

#[test]
fn crates_stand_on_those_below_them_alone() {
    let mut above: BTreeSet<&str> = CRATES.iter().map(|(name, _)| *name).collect();
    for (name, may) in CRATES {
        let upward: Vec<_> = may.iter().filter(|used| above.contains(*used)).collect();
        assert!(upward.is_empty(), "the table lets {name} stand on {upward:?}, which are not below it");
        above.remove(name);
    }
    let found = dependencies();
    let known: Vec<&str> = CRATES.iter().map(|(name, _)| *name).collect();
    let strange: Vec<_> = found.keys().filter(|name| !known.contains(&name.as_str())).collect();
    assert!(strange.is_empty(), "{strange:?}: not in the table of crates; say what they may stand on");
    for (name, may) in CRATES {
        let used = found.get(*name).unwrap_or_else(|| panic!("{name} is in the table, and no crate"));
        let more: Vec<_> = used.iter().filter(|used| !may.contains(&used.as_str())).collect();
        assert!(more.is_empty(), "{name} depends on {more:?}, which it may not stand on");
    }
}

/// Returns the crates of the workspace, each with those of ours that it depends on, as `cargo metadata` tells.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let used = |package: &serde_json::Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        // What is ours has a path.
        let ours = all.filter(|used| used["path"].is_string());
        let is_for_tests = |used: &serde_json::Value| used["kind"] == "dev" && used["name"] == FOR_TESTS;
        ours.filter(|used| !is_for_tests(used)).map(|used| text(&used["name"])).collect()
    };
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages.map(|package| (text(&package["name"]), used(package))).collect()
}

#[test]
fn every_crate_of_others_has_a_row_that_says_what_it_is_for() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let manifest = read(&root.join("Cargo.toml"));
    let (_, table) = manifest.split_once("[workspace.dependencies]\n").unwrap();
    let (table, _) = table.split_once("\n[").unwrap();
    let names = table.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name);
    let used: BTreeSet<&str> = names.filter(|name| !name.starts_with("imgforge")).collect();
    let page = read(&root.join("docs/internals/dependencies.md"));
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let told: BTreeSet<&str> = rows.map(|(name, _)| name).collect();
    assert_eq!(used, told, "Cargo.toml and docs/internals/dependencies.md name different crates");
}

/// Uses of one top-level module by another, each with the files that have them.
type Arrows = BTreeMap<(String, String), BTreeSet<PathBuf>>;

#[test]
fn the_modules_of_the_core_have_no_circle() {
    let files = files("imgforge-core");
    let modules: BTreeSet<&str> = files.iter().map(|file| file.module.as_str()).collect();
    let mut arrows = Arrows::new();
    for file in &files {
        for used in used_by(&file.text, file.depth) {
            if used != file.module && modules.contains(used.as_str()) {
                arrows.entry((file.module.clone(), used)).or_default().insert(file.path.clone());
            }
        }
    }
    assert!(arrows.len() > modules.len(), "most modules stand on others: {arrows:?}");
    assert_eq!(circle(&arrows), None);
}

/// The crates that read nothing but what they are given.
const PURE: [&str; 3] = ["imgforge-syntax", "imgforge-dockerfile", "imgforge-core"];

/// What reaches the disk, the clock, the network, other processes and the environment.
const OUTSIDE: &str =
    r"\bstd::(fs|env|process|os)\b|\b(Instant|SystemTime|TcpStream|UdpSocket|rustix|tokio)\b";

#[test]
fn the_core_and_what_it_reads_with_reach_neither_disk_nor_clock() {
    let outside = Regex::new(OUTSIDE).unwrap();
    let mut told = Vec::new();
    for name in PURE {
        let mut texts = vec![(PathBuf::from("lib.rs"), read(&src(name).join("lib.rs")))];
        texts.extend(files(name).into_iter().map(|file| (file.path, file.text)));
        for (path, text) in &texts {
            let lines = text.lines().filter(|line| !is_comment(line) && outside.is_match(line));
            told.extend(lines.map(|line| format!("{name}, {}: {}", path.display(), line.trim())));
        }
    }
    assert_eq!(told, [""; 0], "files come from a `Source`, and times as arguments");
}

#[test]
fn a_circle_is_told_with_a_file_for_each_arrow() {
    let arrow = |from: &str, to: &str| {
        ((from.to_owned(), to.to_owned()), BTreeSet::from([PathBuf::from(format!("{from}/mod.rs"))]))
    };
    let mut arrows =
        Arrows::from([arrow("lint", "manifest"), arrow("lint", "graph"), arrow("graph", "manifest")]);
    assert_eq!(circle(&arrows), None);
    arrows.extend([arrow("manifest", "lint")]);
    let told = "lint -> manifest (lint/mod.rs), manifest -> lint (manifest/mod.rs)";
    assert_eq!(circle(&arrows).as_deref(), Some(told));
}

#[test]
fn every_way_to_name_a_module_is_seen() {
    let text = "use crate::{a, b::{self, x}, c as y};\npub use crate::d::E;\n// crate::not_this\nlet f = crate::f::g();";
    assert_eq!(used_by(text, 1).into_iter().collect::<Vec<_>>(), ["a", "b", "c", "d", "f"]);
    assert_eq!(used_by("super::super::a::b(super::c)", 2).into_iter().collect::<Vec<_>>(), ["a"]);
}

/// A file of the core that is no test's.
struct File {
    /// The top-level module that it belongs to.
    module: String,
    /// How many modules deep it lies: 1 for the top-level module's own.
    depth: usize,
    path: PathBuf,
    /// Without the tests at its end.
    text: String,
}

/// Returns where the files of a crate are.
fn src(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(name).join("src")
}

/// Returns the files that a crate's `lib.rs` leads to, tests left out.
fn files(name: &str) -> Vec<File> {
    let src = src(name);
    let mut files = Vec::new();
    let mut open: Vec<(Vec<String>, PathBuf)> = declared(&read(&src.join("lib.rs")), &[], &src);
    while let Some((names, path)) = open.pop() {
        let text = read(&path);
        let folder = src.join(names.join("/"));
        open.extend(declared(&text, &names, &folder));
        let path = path.strip_prefix(&src).unwrap().to_owned();
        files.push(File { module: names[0].clone(), depth: names.len(), path, text });
    }
    files
}

/// Returns the modules that a text declares and that lie in files of their own, by their paths in the crate.
fn declared(text: &str, above: &[String], folder: &Path) -> Vec<(Vec<String>, PathBuf)> {
    static MOD: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?m)^(#\[cfg\(test\)\]\n)?(?:pub(?:\(crate\))? )?mod (\w+);").unwrap());
    let all = MOD.captures_iter(text).filter(|found| found.get(1).is_none());
    all.map(|found| {
        let name = &found[2];
        let beside = folder.join(format!("{name}.rs"));
        let path = if beside.exists() { beside } else { folder.join(name).join("mod.rs") };
        ([above, &[name.to_owned()]].concat(), path)
    })
    .collect()
}

/// Returns the text of a file without the tests at its end.
fn read(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    match text.find("#[cfg(test)]\nmod tests {") {
        Some(tests) => text[..tests].to_owned(),
        None => text,
    }
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// Returns the top-level modules that a text names, `depth` modules deep in the crate.
fn used_by(text: &str, depth: usize) -> BTreeSet<String> {
    static PATH: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\bcrate::(\w+|\{)").unwrap());
    let code: Vec<&str> = text.lines().filter(|line| !is_comment(line)).collect();
    let code = code.join("\n").replace(&"super::".repeat(depth), "crate::");
    let mut used = BTreeSet::new();
    for found in PATH.captures_iter(&code) {
        match &found[1] {
            "{" => used.extend(names_in_braces(&code[found.get(0).unwrap().end()..])),
            name => drop(used.insert(name.to_owned())),
        }
    }
    used
}

/// Returns what begins each part of `a, b::{c, d}, e}`.
fn names_in_braces(text: &str) -> Vec<String> {
    let (mut names, mut depth, mut is_new) = (vec![String::new()], 0, true);
    for c in text.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(String::new());
                is_new = true;
            }
            _ if depth > 0 => {}
            c if c.is_alphanumeric() || c == '_' => {
                if is_new {
                    names.last_mut().unwrap().push(c);
                }
            }
            _ => is_new = names.last().unwrap().is_empty(),
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Returns the shortest circle, with a file for each arrow.
fn circle(arrows: &Arrows) -> Option<String> {
    let circles = arrows.keys().filter_map(|(from, to)| {
        let mut circle = way(arrows, to, from)?;
        circle.insert(0, from);
        Some(circle)
    });
    let shortest = circles.min_by_key(Vec::len)?;
    let told = shortest.windows(2).map(|pair| {
        let file = arrows[&(pair[0].to_owned(), pair[1].to_owned())].first().unwrap();
        format!("{} -> {} ({})", pair[0], pair[1], file.display())
    });
    Some(told.collect::<Vec<_>>().join(", "))
}

/// Returns the shortest way along arrows, both ends included.
fn way<'a>(arrows: &'a Arrows, from: &'a str, to: &str) -> Option<Vec<&'a str>> {
    let mut open = VecDeque::from([vec![from]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = open.pop_front() {
        let last = way[way.len() - 1];
        if last == to {
            return Some(way);
        }
        if seen.insert(last) {
            let next = arrows.keys().filter(|(from, _)| from == last).map(|(_, to)| to.as_str());
            open.extend(next.map(|next| [way.as_slice(), &[next]].concat()));
        }
    }
    None
}
