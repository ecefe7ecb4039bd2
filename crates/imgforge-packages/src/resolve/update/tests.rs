//! Partial updates: one small index for each rule, and the rules themselves on any small repository, where every
//! possible set of packages can be looked at.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::index::IndexEntry;
use crate::resolve::tests::index;

fn locked(index: &Index, wanted: &[&str]) -> Vec<LockedPackage> {
    index.resolve(&request(wanted)).unwrap()
}

fn request<'a>(wanted: &[&str]) -> Request<'a> {
    Request { include: None, wanted: wanted.iter().map(|name| (*name).to_owned()).collect(), installed: &[] }
}

/// The newest of each name.
fn moves(index: &Index, locked: &[LockedPackage], names: &[&str]) -> BTreeMap<String, Vec<String>> {
    let moved = locked.iter().filter(|package| names.contains(&package.name.as_str()));
    moved.map(|package| (package.name.clone(), index.newer(package, false))).collect()
}

fn entries(packages: &[LockedPackage]) -> String {
    packages.iter().map(LockedPackage::entry).collect::<Vec<_>>().join(" ")
}

/// Locks `wanted` of `old`, then moves `names` in `new`.
fn moved(old: &str, new: &str, wanted: &[&str], names: &[&str]) -> (String, Vec<String>) {
    let locked = locked(&index(old), wanted);
    let index = index(new);
    let partial = Partial { locked: &locked, moves: moves(&index, &locked, names), ..Partial::default() };
    let updated = index.update(&request(wanted), &partial).unwrap();
    (entries(&updated.packages), updated.behind)
}

fn check(old: &str, new: &str, wanted: &[&str], names: &[&str], expected: &str) {
    assert_eq!(moved(old, &format!("{old}\n{new}"), wanted, names), (expected.to_owned(), vec![]));
}

#[test]
fn only_what_was_asked_for_moves() {
    check("a 1\nb 1", "a 2\nb 2", &["a", "b"], &["a"], "a=2 b=1");
    check("a 1\nb 1", "a 2\nb 2", &["a", "b"], &[], "a=1 b=1");
}

#[test]
fn what_it_needs_moves_with_it_and_what_hangs_on_it_too() {
    let old = "app 1; Depends: lib (= 1)\nlib 1\nother 1";
    let new = "app 2; Depends: lib (= 2)\nlib 2\nother 2";
    for name in ["app", "lib"] {
        check(old, new, &["app", "other"], &[name], "app=2 lib=2 other=1");
    }
}

#[test]
fn what_is_needed_newly_comes_and_what_nothing_needs_any_more_goes() {
    check("a 1; Depends: b\nb 1", "a 2; Depends: c\nc 1", &["a"], &["a"], "a=2 c=1");
}

#[test]
fn an_alternative_that_is_locked_stays_when_a_better_one_appears() {
    check("a 1\nx 1; Depends: b | c\nc 1", "a 2\nb 1", &["a", "x"], &["a"], "a=2 c=1 x=1");
}

#[test]
fn what_cannot_have_its_newest_version_takes_the_next_one_and_says_so() {
    let old = "a 1\nb 1";
    let new = "a 1\na 2\na 3; Depends: none\nb 1\nb 2";
    assert_eq!(moved(old, new, &["a", "b"], &["a", "b"]), ("a=2 b=2".into(), vec!["a".into()]));
    let stuck = "a 1\na 2; Depends: none\nb 1";
    assert_eq!(moved(old, stuck, &["a", "b"], &["a"]), ("a=1 b=1".into(), vec!["a".into()]));
}

#[test]
fn a_package_that_no_suite_has_any_more_stays_where_it_does_not_move() {
    let old = "a 1; Depends: b (= 1)\nb 1\nc 1";
    // What it depends on is guessed from the newer version.
    let new = "a 2; Depends: b (= 2), new\nnew 1\nb 1\nb 2\nc 1\nc 2";
    assert_eq!(moved(old, new, &["a", "c"], &["c"]).0, "a=1 b=1 c=2");
    assert_eq!(moved(old, new, &["a", "c"], &["b"]).0, "a=2 b=2 c=1 new=1");
    // Or nobody knows anything of it.
    assert_eq!(moved("a 1\nb 1\nc 1", "b 1\nc 1\nc 2", &["c", "b"], &["c"]).0, "b=1 c=2");
}

#[test]
fn what_nothing_needs_in_the_end_keeps_no_other_from_staying() {
    // With d=1, b=1 has nobody for v; but with b=2 nothing needs d, nor c.
    let old = "a 2; Depends: b | e\nb 1; Depends: v\nc 2; Depends: d (<< 2); Provides: v\nd 1";
    let new = "b 2\nc 3; Depends: d\nd 3; Provides: v";
    check(old, new, &["a"], &["c"], "a=2 b=1 d=3");
}

#[test]
fn where_one_of_two_has_to_move_the_search_ends() {
    // Only a=1 and b=2 provide v. Whichever of a and b stays, nothing needs it.
    let old = "a 3\nb 1\nd 1; Depends: a, b (<< 2)";
    let new = "a 1; Provides: v\nb 2; Provides: v\nd 3; Depends: v";
    let (packages, behind) = moved(old, &format!("{old}\n{new}"), &["d"], &["d"]);
    assert!(["a=1 d=3", "b=2 d=3"].contains(&packages.as_str()), "{packages}");
    assert_eq!(behind, [""; 0]);
}

#[test]
fn security_versions_are_told_apart() {
    let mut entries: Vec<IndexEntry> = index("a 1\na 2\na 3").entries;
    entries[1].security = true;
    let index = Index::new("debian", "amd64", &[], entries);
    let mut package = index.newest("a").unwrap();
    package.version = "1".into();
    assert_eq!(index.newer(&package, false), ["3", "2"]);
    assert_eq!(index.newer(&package, true), ["2"]);
    package.version = "2".into();
    assert_eq!(index.newer(&package, true), [""; 0]);
}

// Any small repository.

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// `(name, bound, version)`; a name beyond the last is a virtual one.
type Item = (usize, usize, usize);

#[derive(Debug, Clone)]
struct Made {
    depends: Vec<Vec<Item>>,
    conflicts: Vec<Item>,
    provides: bool,
    /// Whether it is there when the lock is made, and whether it is there later.
    early: bool,
    late: bool,
}

fn item() -> impl Strategy<Value = Item> {
    (0..NAMES.len() + 1, 0..6_usize, 1..4_usize)
}

fn made() -> impl Strategy<Value = Made> {
    let depends = prop::collection::vec(prop::collection::vec(item(), 1..3), 0..3);
    let conflicts = prop::collection::vec(item(), 0..2);
    (depends, conflicts, prop::bool::weighted(0.2), any::<bool>(), prop::bool::weighted(0.8)).prop_map(
        |(depends, conflicts, provides, early, late)| Made { depends, conflicts, provides, early, late },
    )
}

fn text(item: &Item) -> String {
    let (name, bound, version) = *item;
    let name = NAMES.get(name).copied().unwrap_or("virtual");
    match [">=", "=", "<<"].get(bound) {
        Some(operator) if name != "virtual" => format!("{name} ({operator} {version})"),
        _ => name.to_owned(),
    }
}

fn entry(name: &str, version: usize, made: &Made) -> IndexEntry {
    let alternatives = |any: &Vec<Item>| any.iter().map(text).collect::<Vec<_>>().join(" | ");
    IndexEntry {
        name: name.into(),
        version: version.to_string(),
        architecture: "amd64".into(),
        priority: "optional".into(),
        depends: made.depends.iter().map(alternatives).collect::<Vec<_>>().join(", "),
        conflicts: made.conflicts.iter().map(text).collect::<Vec<_>>().join(", "),
        provides: if made.provides { "virtual".into() } else { String::new() },
        ..IndexEntry::default()
    }
}

/// Whether an alternative takes a package, by its name or by what it provides.
fn takes(entry: &IndexEntry, alternative: &Alternative) -> bool {
    let by_name = entry.name == alternative.name
        && alternative.bound.as_ref().is_none_or(|bound| bound.holds(&entry.version));
    by_name || (entry.provides == alternative.name && alternative.bound.is_none())
}

/// Whether anything that is wanted needs the package `name` of a set, directly or not.
fn is_needed(set: &[&IndexEntry], wanted: &[&str], name: &str) -> bool {
    let mut needed: Vec<&IndexEntry> = Vec::new();
    let mut open: Vec<Alternative> = wanted.iter().map(|name| Alternative::any(*name)).collect();
    while let Some(alternative) = open.pop() {
        for entry in set.iter().filter(|entry| takes(entry, &alternative)) {
            if needed.iter().all(|known| known.name != entry.name) {
                needed.push(entry);
                open.extend(crate::parse_relations(&entry.depends).into_iter().flatten());
            }
        }
    }
    needed.iter().any(|entry| entry.name == name)
}

/// Whether these can be installed together, as Debian policy says it: written without the resolver.
fn is_sound(set: &[&IndexEntry], wanted: &[&str]) -> bool {
    let has = |alternative: &Alternative| set.iter().any(|entry| takes(entry, alternative));
    let needs =
        |entry: &&IndexEntry| crate::parse_relations(&entry.depends).iter().all(|any| any.iter().any(has));
    let peace = |entry: &&IndexEntry| {
        let banned: Vec<Alternative> =
            crate::parse_relations(&entry.conflicts).into_iter().flatten().collect();
        set.iter()
            .filter(|other| other.name != entry.name)
            .all(|other| !banned.iter().any(|b| takes(other, b)))
    };
    wanted.iter().all(|name| has(&Alternative::any(*name))) && set.iter().all(needs) && set.iter().all(peace)
}

/// Every set of packages with at most one version of each name.
fn all_sets(entries: &[IndexEntry]) -> Vec<Vec<&IndexEntry>> {
    let mut sets: Vec<Vec<&IndexEntry>> = vec![Vec::new()];
    for name in NAMES {
        let versions: Vec<&IndexEntry> = entries.iter().filter(|entry| entry.name == name).collect();
        for at in 0..sets.len() {
            let larger = versions.iter().map(|entry| [sets[at].as_slice(), &[*entry]].concat());
            let larger: Vec<_> = larger.collect();
            sets.extend(larger);
        }
    }
    sets
}

fn version_of<'e>(set: &[&'e IndexEntry], name: &str) -> Option<&'e str> {
    set.iter().find(|entry| entry.name == name).map(|entry| entry.version.as_str())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_global_rejects: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn a_package_moves_as_far_as_it_can_and_no_other_that_could_have_stayed(
        repository in prop::collection::vec(prop::collection::vec(made(), 3), NAMES.len()),
        wanted in prop::sample::subsequence(NAMES.to_vec(), 1..3),
        mover in 0..NAMES.len(),
    ) {
        let select = |takes: &dyn Fn(&Made) -> bool| -> Vec<IndexEntry> {
            let versions = repository.iter().zip(NAMES).flat_map(|(versions, name)| {
                versions.iter().zip(1..).filter(|(made, _)| takes(made)).map(move |(made, v)| entry(name, v, made))
            });
            versions.collect()
        };
        let early = Index::new("debian", "amd64", &[], select(&|made| made.early));
        let Ok(locked) = early.resolve(&request(&wanted)) else { return Err(TestCaseError::reject("no lock")) };
        let mut late = Index::new("debian", "amd64", &[], select(&|made| made.late));
        late.recalled = select(&|made| made.early && !made.late);

        // Nothing to move: nothing changes, whatever is newer or gone.
        let partial = Partial { locked: &locked, ..Partial::default() };
        let Ok(same) = late.update(&request(&wanted), &partial) else {
            // A wanted name that is nowhere any more is the only reason.
            prop_assert!(wanted.iter().any(|name| late.positions(name).is_empty()));
            return Ok(());
        };
        prop_assert_eq!(entries(&same.packages), entries(&locked));

        let name = NAMES[mover];
        let partial = Partial { moves: moves(&late, &locked, &[name]), ..partial };
        let updated = late.update(&request(&wanted), &partial).unwrap();
        let known: Vec<IndexEntry> = late.entries.iter().cloned()
            .chain(late.recalled.iter().filter(|e| locked.iter().any(|p| p.name == e.name && p.version == e.version)).cloned())
            .collect();
        let find = |p: &LockedPackage| known.iter().find(|e| e.name == p.name && e.version == p.version).unwrap();
        let result: Vec<&IndexEntry> = updated.packages.iter().map(find).collect();
        prop_assert!(is_sound(&result, &wanted), "{}", entries(&updated.packages));

        let sets = all_sets(&known);
        let sound: Vec<_> = sets.iter().filter(|set| is_sound(set, &wanted)).collect();
        let got = version_of(&result, name);
        let was = locked.iter().find(|package| package.name == name).map(|package| package.version.as_str());
        let newest = sound.iter().filter_map(|set| version_of(set, name)).filter(|v| Some(*v) >= was).max();
        // One that is not needed any more in its new version goes, as everything else does.
        prop_assert!(was.is_none() || got.is_none() || got == newest, "{name}: {got:?}, but {newest:?} can be had");
        let at = if was.is_some() { newest } else { got };
        // What could have stayed with all that stays and goes has stayed or gone: nothing has moved in vain. A set in
        // which nothing needs the package is no better, since there it goes.
        let stays: BTreeSet<&str> = locked.iter()
            .filter(|p| p.name != name && version_of(&result, &p.name) == Some(p.version.as_str()))
            .map(|p| p.name.as_str()).collect();
        for package in locked.iter().filter(|p| p.name != name && !stays.contains(p.name.as_str())) {
            let version = Some(package.version.as_str());
            let better = sound.iter().find(|set| {
                version_of(set, name) == at && version_of(set, &package.name) == version
                    && is_needed(set, &wanted, &package.name)
                    && locked.iter().filter(|p| stays.contains(p.name.as_str()))
                        .all(|p| version_of(set, &p.name) == Some(p.version.as_str()))
            });
            if let (Some(better), Some(_)) = (better, version_of(&result, &package.name)) {
                let better: Vec<_> = better.iter().map(|e| format!("{}={}", e.name, e.version)).collect();
                return Err(TestCaseError::fail(format!(
                    "{} -> {} moves {}, which {} does not",
                    entries(&locked), entries(&updated.packages), package.name, better.join(" ")
                )));
            }
        }
    }
}
