//! Variables that a service must get as they are, whatever their names: all that the scripts of the templates use
//! themselves, and those that have a meaning to a shell, the dynamic loader, an interpreter or a supervisor.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

/// Names that have a meaning to others than the templates' scripts.
const KNOWN: [&str; 36] = [
    "1x",
    "BASH_ENV",
    "DIRSTACK",
    "ENV",
    "EUID",
    "GID",
    "GIDLIST",
    "HOME",
    "IFS",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LINENO",
    "MAINPID",
    "NOTIFY_SOCKET",
    "OLDPWD",
    "OPTARG",
    "OPTIND",
    "PATH",
    "PERL5OPT",
    "POSIXLY_CORRECT",
    "PPID",
    "PS4",
    "PWD",
    "PYTHONHOME",
    "PYTHONPATH",
    "RANDOM",
    "SHLVL",
    "SUPERVISOR_ENABLED",
    "TERM",
    "UID",
    "a.b-c",
];

/// Settings of systemd and s6-overlay, which a container is given on purpose.
fn is_setting(name: &str) -> bool {
    name == "SYSTEMD_LOG_LEVEL" || name.starts_with("S6_")
}

/// All variables, and what they are in the environment of `of`.
pub(crate) fn variables(of: &str) -> BTreeMap<String, String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../templates");
    let mut names: BTreeSet<String> = KNOWN.map(str::to_owned).into();
    for part in ["services", "s6", "runit", "supervisord", "s6-overlay", "systemd", "single"] {
        for file in fs::read_dir(folder.join(part)).unwrap() {
            names.extend(names_in(&fs::read_to_string(file.unwrap().path()).unwrap()));
        }
    }
    for used in ["live", "code", "dir", "since", "phase", "PATH"] {
        assert!(names.contains(used), "{used} is a variable of the templates: {names:?}");
    }
    names.retain(|name| !is_setting(name));
    names.into_iter().map(|name| (name.clone(), value(of, &name))).collect()
}

/// A service's nodes for them.
pub(crate) fn nodes(of: &str) -> String {
    let mut nodes = String::new();
    for (name, value) in variables(of) {
        let _ = writeln!(nodes, "        env {name:?} {value:?}");
    }
    nodes
}

fn value(of: &str, name: &str) -> String {
    match name {
        // Where nothing lies that the scripts need.
        "PATH" => "/usr/local/bin".into(),
        "LD_PRELOAD" | "LD_LIBRARY_PATH" => format!("/nowhere/{of}"),
        // dash does not start with another word.
        "OPTIND" => "7".into(),
        // A manifest has values of one line.
        _ => format!("{of}'s \"{name}\" $x `y` \\ * é{}\tend", if of == "container" { "\n" } else { "" }),
    }
}

/// The variables of a script: words after `$`, before `=`, and in lines that read into or go through some.
fn names_in(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for line in text.lines().filter(|line| !line.trim_start().starts_with("# ")) {
        let takes_all = line.contains("read -r ") || line.trim_start().starts_with("for ");
        let mut rest = line;
        while let Some(at) = rest.find(is_part) {
            let (gap, word) = rest.split_at(at);
            let end = word.find(|c| !is_part(c)).unwrap_or(word.len());
            let (word, after) = word.split_at(end);
            let is_used = gap.ends_with('$') || gap.ends_with("${") || after.starts_with('=') || takes_all;
            if is_used && !word.starts_with(|c: char| c.is_ascii_digit()) {
                names.insert(word.to_owned());
            }
            rest = after;
        }
    }
    names
}

/// The environments that `environ` has written, as pairs, by the words that it was given.
pub(crate) fn environ(hex: &str) -> BTreeMap<String, String> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let bytes: Vec<u8> = digits.chunks(2).map(byte).collect();
    let text = String::from_utf8(bytes).unwrap();
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
