//! One check of what an image is: its files, users, environment, size and packages.

use std::collections::BTreeMap;

use crate::lock::Closure;
use imgforge_core::manifest::{FileCheck, FileKind, UserCheck};
use imgforge_engine::containers::{Entry, EntryKind, ExecOutput};
use imgforge_report::human_size;
use sha2::{Digest, Sha256};

use super::look::{Account, Look};
use crate::Error;

/// The number of things of a list that are named.
const LISTED: usize = 5;

/// The number of characters of a text that are shown.
const SHOWN: usize = 80;

/// The expectation that did not hold and what was found instead, in a few words each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mismatch {
    /// The expectation.
    pub(super) expected: String,
    /// The finding.
    pub(super) found: String,
}

/// The result of a check: nothing where it holds.
pub(super) type Verdict = Option<Mismatch>;

/// Returns a verdict that something else was found than expected.
#[expect(clippy::unnecessary_wraps, reason = "it is what a check that does not hold comes to")]
pub(super) fn mismatch(expected: impl Into<String>, found: impl Into<String>) -> Verdict {
    Some(Mismatch { expected: expected.into(), found: found.into() })
}

/// `file`.
pub(super) async fn file(look: &Look, check: &FileCheck) -> Result<Verdict, Error> {
    let entry = look.entry(&check.path, check.kind == Some(FileKind::Link)).await?;
    let Some(entry) = entry else {
        return Ok(if check.absent { None } else { mismatch(&check.path, "nothing at this path") });
    };
    if check.absent {
        return Ok(mismatch(format!("nothing at {}", check.path), format!("a {}", kind_word(&entry.kind))));
    }
    if let Some(verdict) = properties(&entry, check) {
        return Ok(Some(verdict));
    }
    if let Some(owner) = &check.owner {
        return Ok(self::owner(&entry, owner, &look.accounts().await?, &look.groups().await?));
    }
    Ok(None)
}

fn properties(entry: &Entry, check: &FileCheck) -> Verdict {
    let is_content_asked = check.contains.is_some() || check.sha256.is_some();
    let kind = check.kind.or(is_content_asked.then_some(FileKind::File));
    if let Some(kind) = kind.filter(|kind| kind.as_str() != kind_word(&entry.kind)) {
        return mismatch(format!("a {}", kind.as_str()), format!("a {}", kind_word(&entry.kind)));
    }
    if let Some(mode) = check.mode.filter(|mode| *mode != entry.mode) {
        return mismatch(format!("mode {mode:04o}"), format!("mode {:04o}", entry.mode));
    }
    let EntryKind::File(content) = &entry.kind else { return None };
    if let Some(sum) = &check.sha256 {
        let found = hex(&Sha256::digest(content));
        if found != *sum {
            return mismatch(format!("SHA-256 {sum}"), found);
        }
    }
    match &check.contains {
        Some(part) if !has(content, part.as_bytes()) => {
            let size = human_size(content.len() as u64);
            mismatch(format!("a file that contains {}", quoted(part)), format!("{size} without it"))
        }
        _ => None,
    }
}

fn owner(
    entry: &Entry,
    owner: &str,
    accounts: &BTreeMap<String, Account>,
    groups: &BTreeMap<String, u32>,
) -> Verdict {
    let (user, group) = owner.split_once(':').map_or((owner, None), |(user, group)| (user, Some(group)));
    let uid = user.parse().ok().or_else(|| accounts.get(user).map(|account| u64::from(account.uid)));
    let gid = |group: &str| group.parse().ok().or_else(|| groups.get(group).map(|gid| u64::from(*gid)));
    // An image without /etc/passwd has no names, but everyone knows who 0 is.
    let root = |name: &str| (name == "root").then_some(0);
    let Some(uid) = uid.or_else(|| root(user)) else {
        return mismatch(format!("owner {owner}"), format!("no user \"{user}\" in the image"));
    };
    let group_id = match group {
        Some(group) => match gid(group).or_else(|| root(group)) {
            Some(gid) => Some(gid),
            None => return mismatch(format!("owner {owner}"), format!("no group \"{group}\" in the image")),
        },
        None => None,
    };
    if entry.uid == uid && group_id.is_none_or(|gid| entry.gid == gid) {
        return None;
    }
    let user = accounts.values().find(|account| u64::from(account.uid) == entry.uid);
    let user = user.map_or_else(|| entry.uid.to_string(), |account| account.name.clone());
    let group = groups.iter().find(|(_, gid)| u64::from(**gid) == entry.gid);
    let group = group.map_or_else(|| entry.gid.to_string(), |(name, _)| name.clone());
    mismatch(format!("owner {owner}"), format!("{user}:{group}"))
}

/// `user`.
pub(super) async fn user(look: &Look, check: &UserCheck) -> Result<Verdict, Error> {
    let accounts = look.accounts().await?;
    let Some(account) = accounts.get(&check.name) else {
        return Ok(mismatch(format!("a user \"{}\"", check.name), "none in /etc/passwd"));
    };
    let number = |what: &str, expected: Option<u32>, found: u32| match expected {
        Some(expected) if expected != found => mismatch(format!("{what} {expected}"), found.to_string()),
        _ => None,
    };
    let text = |what: &str, expected: &Option<String>, found: &str| match expected {
        Some(expected) if expected != found => mismatch(format!("{what} {expected}"), found),
        _ => None,
    };
    Ok(number("uid", check.uid, account.uid)
        .or_else(|| number("gid", check.gid, account.gid))
        .or_else(|| text("home", &check.home, &account.home))
        .or_else(|| text("shell", &check.shell, &account.shell)))
}

/// `env`.
pub(super) fn env(env: &BTreeMap<String, String>, name: &str, value: Option<&str>, absent: bool) -> Verdict {
    match (env.get(name), value) {
        (None, _) if absent => None,
        (Some(found), _) if absent => mismatch(format!("no variable {name}"), quoted(found)),
        (None, Some(value)) => mismatch(format!("{name}={}", quoted(value)), "it is not set"),
        (None, None) => mismatch(format!("a variable {name}"), "it is not set"),
        (Some(found), Some(value)) if found != value => {
            mismatch(format!("{name}={}", quoted(value)), quoted(found))
        }
        _ => None,
    }
}

/// `size`.
pub(super) fn size(size: u64, max: u64) -> Verdict {
    if size <= max {
        return None;
    }
    // Rounded they may look the same.
    let (found, most) = (human_size(size), human_size(max));
    if found == most {
        return mismatch(format!("at most {max} bytes"), format!("{size}"));
    }
    mismatch(format!("at most {most}"), found)
}

/// `no-setuid`.
pub(super) fn no_setuid(entries: &[(String, Entry)], but: &[String]) -> Verdict {
    let is_file = |entry: &Entry| matches!(entry.kind, EntryKind::File(_));
    let found: Vec<String> = entries
        .iter()
        .filter(|(path, entry)| is_file(entry) && entry.mode & 0o6000 != 0 && !but.contains(path))
        .map(|(path, entry)| format!("{path} ({:04o})", entry.mode))
        .collect();
    if found.is_empty() {
        return None;
    }
    let expected = if but.is_empty() { "no setuid or setgid file" } else { "no other setuid or setgid file" };
    mismatch(expected, list(&found))
}

/// `packages-as-locked`.
pub(super) fn packages(database: &str, closure: &Closure) -> Verdict {
    let differences = imgforge_packages::compare(closure.scheme, database, &closure.packages);
    if differences.is_empty() {
        return None;
    }
    let found: Vec<String> = differences.iter().map(ToString::to_string).collect();
    mismatch(format!("the {} locked packages", closure.packages.len()), list(&found))
}

/// Compares what a program has printed and how it ended with what `command` says.
pub(super) fn command(check: &imgforge_core::manifest::CommandCheck, output: &ExecOutput) -> Verdict {
    if output.code != check.exit {
        let said = [&output.stderr, &output.stdout].into_iter().find(|text| !text.trim().is_empty());
        let said = said.map(|text| format!(": {}", quoted(last_line(text)))).unwrap_or_default();
        return mismatch(format!("exit code {}", check.exit), format!("{}{said}", output.code));
    }
    let whole = |what: &str, expected: &Option<String>, found: &str| match expected {
        Some(expected) if expected.trim_end_matches('\n') != found.trim_end_matches('\n') => {
            mismatch(format!("{what} {}", quoted(expected)), quoted(found))
        }
        _ => None,
    };
    let part = |what: &str, expected: &Option<String>, found: &str| match expected {
        Some(expected) if !found.contains(expected.as_str()) => {
            mismatch(format!("{what} that contains {}", quoted(expected)), quoted(found))
        }
        _ => None,
    };
    whole("stdout", &check.stdout, &output.stdout)
        .or_else(|| part("stdout", &check.stdout_contains, &output.stdout))
        .or_else(|| whole("stderr", &check.stderr, &output.stderr))
        .or_else(|| part("stderr", &check.stderr_contains, &output.stderr))
}

fn kind_word(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::File(_) => FileKind::File.as_str(),
        EntryKind::Folder => FileKind::Folder.as_str(),
        EntryKind::Link(_) => FileKind::Link.as_str(),
        EntryKind::Other => "device or pipe",
    }
}

fn has(content: &[u8], part: &[u8]) -> bool {
    part.is_empty() || content.windows(part.len()).any(|window| window == part)
}

fn last_line(text: &str) -> &str {
    text.trim_end().lines().next_back().unwrap_or("")
}

/// `"a text"`, cut short.
pub(super) fn quoted(text: &str) -> String {
    let text = text.trim_end_matches('\n');
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// At most five of many.
fn list(names: &[String]) -> String {
    match names.len() {
        0..=LISTED => names.join(", "),
        more => format!("{} and {} more", names[..LISTED].join(", "), more - LISTED),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use imgforge_core::manifest::CommandCheck;

    use super::*;

    fn entry(kind: EntryKind, mode: u32, uid: u64, gid: u64) -> Entry {
        Entry { kind, mode, uid, gid }
    }

    #[test]
    fn a_file_is_what_every_property_says() {
        let check = FileCheck {
            path: "/x".into(),
            absent: false,
            kind: None,
            mode: Some(0o644),
            owner: None,
            contains: Some("server".into()),
            sha256: None,
        };
        let good = entry(EntryKind::File(b"a server b".to_vec()), 0o644, 0, 0);
        assert_eq!(properties(&good, &check), None);
        let other = properties(&Entry { mode: 0o4755, ..good.clone() }, &check).unwrap();
        assert_eq!((other.expected.as_str(), other.found.as_str()), ("mode 0644", "mode 4755"));
        let empty = properties(&entry(EntryKind::File(Vec::new()), 0o644, 0, 0), &check).unwrap();
        assert_eq!(empty.expected, "a file that contains \"server\"");
        let folder = properties(&entry(EntryKind::Folder, 0o644, 0, 0), &check).unwrap();
        assert_eq!((folder.expected.as_str(), folder.found.as_str()), ("a file", "a folder"));
        let sum = FileCheck { contains: None, sha256: Some("0".repeat(64)), ..check };
        let found = properties(&good, &sum).unwrap().found;
        assert_eq!(found.len(), 64);
        assert_eq!(properties(&good, &FileCheck { sha256: Some(found), ..sum }), None);
    }

    #[test]
    fn owners_are_names_of_the_image_or_numbers() {
        let web = Account { name: "web".into(), uid: 7, gid: 8, home: String::new(), shell: String::new() };
        let accounts = BTreeMap::from([("web".to_owned(), web)]);
        let groups = BTreeMap::from([("www".to_owned(), 8)]);
        let file = entry(EntryKind::Folder, 0o755, 7, 8);
        for good in ["web", "7", "web:www", "7:8", "web:8"] {
            assert_eq!(owner(&file, good, &accounts, &groups), None, "{good}");
        }
        let found = |asked: &str| owner(&file, asked, &accounts, &groups).unwrap().found;
        assert_eq!(found("root"), "web:www");
        assert_eq!(found("web:root"), "web:www");
        assert_eq!(found("db"), "no user \"db\" in the image");
        assert_eq!(found("web:db"), "no group \"db\" in the image");
    }

    #[test]
    fn only_files_are_setuid_and_those_that_are_allowed_are_none() {
        let entries = [
            ("/bin/su".to_owned(), entry(EntryKind::File(Vec::new()), 0o4755, 0, 0)),
            ("/bin/wall".to_owned(), entry(EntryKind::File(Vec::new()), 0o2755, 0, 0)),
            ("/var/mail".to_owned(), entry(EntryKind::Folder, 0o2775, 0, 8)),
            ("/bin/sh".to_owned(), entry(EntryKind::File(Vec::new()), 0o755, 0, 0)),
        ];
        assert_eq!(no_setuid(&entries, &["/bin/su".into(), "/bin/wall".into()]), None);
        assert_eq!(no_setuid(&entries, &[]).unwrap().found, "/bin/su (4755), /bin/wall (2755)");
        assert_eq!(no_setuid(&entries, &["/bin/su".into()]).unwrap().found, "/bin/wall (2755)");
    }

    #[test]
    fn a_command_is_judged_by_its_end_before_its_words() {
        let check = CommandCheck {
            argv: vec!["x".into()],
            exit: 0,
            stdout: Some("one\ntwo".into()),
            stdout_contains: None,
            stderr: None,
            stderr_contains: Some("warn".into()),
            user: None,
        };
        let output = |code, stdout: &str, stderr: &str| ExecOutput {
            code,
            stdout: stdout.into(),
            stderr: stderr.into(),
        };
        assert_eq!(command(&check, &output(0, "one\ntwo\n", "a warning\n")), None);
        let found = |output: ExecOutput| command(&check, &output).unwrap().found;
        assert_eq!(found(output(3, "", "first\nlast\n")), "3: \"last\"");
        assert_eq!(found(output(0, "one\n", "warn")), "\"one\"");
        assert_eq!(found(output(0, "one\ntwo", "")), "\"\"");
    }

    #[test]
    fn sizes_that_look_the_same_are_told_in_bytes() {
        assert_eq!(size(120_000_000, 120_000_000), None);
        let verdict = size(120_000_001, 120_000_000).unwrap();
        assert_eq!(
            (verdict.expected.as_str(), verdict.found.as_str()),
            ("at most 120000000 bytes", "120000001")
        );
        assert_eq!(size(150_000_000, 120_000_000).unwrap().found, "150 MB");
    }

    #[test]
    fn variables_are_set_have_a_value_or_are_absent() {
        let set = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (name, value, absent) in [("A", Some("1"), false), ("A", None, false), ("B", None, true)] {
            assert_eq!(env(&set, name, value, absent), None, "{name}");
        }
        for (name, value, absent) in [("A", Some("2"), false), ("B", None, false), ("A", None, true)] {
            assert!(env(&set, name, value, absent).is_some(), "{name}");
        }
    }
}
