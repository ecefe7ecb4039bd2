use imgforge_core::lock::LockedPackage;

use super::*;
use crate::control::stanzas;
use crate::index::package;

/// An index of stanzas that say just what a test is about.
fn index(text: &str) -> Index {
    let complete = |stanza: &str| {
        let name = stanza.lines().next().unwrap().trim_start_matches("Package: ");
        let version = if stanza.contains("\nVersion:") { "" } else { "\nVersion: 1" };
        format!("{stanza}{version}\nArchitecture: amd64\nFilename: pool/{name}.deb\nSize: 1\nSHA256: 00\n\n")
    };
    let text: String = text.trim().split("\n\n").map(|stanza| complete(stanza.trim())).collect();
    Index::new("debian", stanzas(&text).map(|stanza| package(&stanza, "suite").expect("whole")).collect())
}

fn resolve(index: &Index, wanted: &[&str], installed: &[LockedPackage]) -> Result<Vec<String>, String> {
    let wanted: Vec<String> = wanted.iter().map(|word| (*word).to_owned()).collect();
    let request = Request { include: None, wanted: &wanted, installed };
    let found = index.resolve(&request).map_err(|error| error.to_string())?;
    Ok(found.into_iter().map(|p| format!("{} {}", p.name, p.version)).collect())
}

fn installed(name: &str, version: &str) -> LockedPackage {
    LockedPackage {
        source: "debian".into(),
        name: name.into(),
        version: version.into(),
        architecture: "amd64".into(),
        suite: "suite".into(),
        path: String::new(),
        size: 0,
        sha256: String::new(),
    }
}

#[test]
fn dependencies_follow_and_recommends_do_not() {
    let index = index(
        "Package: a\nDepends: b (>= 1), c\nPre-Depends: d\nRecommends: r\n\nPackage: b\n\nPackage: c\n\nPackage: d\n\nPackage: r",
    );
    assert_eq!(resolve(&index, &["a"], &[]).unwrap(), ["a 1", "b 1", "c 1", "d 1"]);
}

#[test]
fn the_newest_version_is_taken_unless_something_else_is_needed() {
    let index = index(
        "Package: a\nVersion: 1\n\nPackage: a\nVersion: 10\n\nPackage: a\nVersion: 9\n\nPackage: old\nDepends: a (<< 10)",
    );
    assert_eq!(resolve(&index, &["a"], &[]).unwrap(), ["a 10"]);
    assert_eq!(resolve(&index, &["old"], &[]).unwrap(), ["a 9", "old 1"]);
    assert_eq!(resolve(&index, &["a=1"], &[]).unwrap(), ["a 1"]);
    assert_eq!(resolve(&index, &["a=2"], &[]).unwrap_err(), "there is no version 2 of \"a\"");
}

#[test]
fn the_first_alternative_that_can_be_had_is_taken_and_what_is_there_is_enough() {
    let index = index("Package: a\nDepends: gone | b | c\n\nPackage: b\n\nPackage: c");
    assert_eq!(resolve(&index, &["a"], &[]).unwrap(), ["a 1", "b 1"]);
    assert_eq!(resolve(&index, &["a"], &[installed("c", "1")]).unwrap(), ["a 1"]);
    assert_eq!(resolve(&index, &["a", "c"], &[]).unwrap(), ["a 1", "c 1"]);
}

#[test]
fn virtual_packages_are_provided_and_versions_of_provides_count() {
    let index = index(
        "Package: a\nDepends: mta\n\nPackage: b\nDepends: api (>= 2)\n\nPackage: exim\nProvides: mta\n\nPackage: lib1\nProvides: api (= 1)\n\nPackage: lib2\nProvides: api (= 2)\n\nPackage: lib3\nProvides: api",
    );
    assert_eq!(resolve(&index, &["a"], &[]).unwrap(), ["a 1", "exim 1"]);
    assert_eq!(resolve(&index, &["b"], &[]).unwrap(), ["b 1", "lib2 1"]);
    assert_eq!(resolve(&index, &["mta"], &[]).unwrap(), ["exim 1"]);
    assert_eq!(resolve(&index, &["a"], &[installed("exim", "1")]).unwrap(), ["a 1"]);
}

#[test]
fn of_those_that_provide_a_name_the_one_of_the_highest_priority_is_taken() {
    let index = index(
        "Package: a\nDepends: awk\n\nPackage: gawk\nProvides: awk\nPriority: optional\n\nPackage: mawk\nProvides: awk\nPriority: required",
    );
    assert_eq!(resolve(&index, &["a"], &[]).unwrap(), ["a 1", "mawk 1"]);
}

#[test]
fn conflicts_and_breaks_are_kept_apart_also_from_what_is_installed() {
    let text = "Package: a\nConflicts: b\n\nPackage: b\n\nPackage: c\nBreaks: d (<< 2)\n\nPackage: d\nVersion: 1\n\nPackage: d\nVersion: 2\n\nPackage: e\nDepends: a | b";
    let index = index(text);
    assert!(resolve(&index, &["a", "b"], &[]).unwrap_err().contains("cannot be had together"));
    assert_eq!(resolve(&index, &["c", "d"], &[]).unwrap(), ["c 1", "d 2"]);
    assert!(resolve(&index, &["c"], &[installed("d", "1")]).is_err());
    assert_eq!(resolve(&index, &["c"], &[installed("d", "2")]).unwrap(), ["c 1"]);
    assert!(
        resolve(&index, &["b"], &[installed("a", "1")]).is_err(),
        "an installed package's own conflicts count"
    );
    assert_eq!(resolve(&index, &["e", "b"], &[]).unwrap(), ["b 1", "e 1"]);
}

#[test]
fn a_package_may_conflict_with_a_name_that_it_provides_itself() {
    let index = index("Package: a\nProvides: mta\nConflicts: mta\n\nPackage: b\nProvides: mta");
    assert_eq!(resolve(&index, &["a"], &[]).unwrap(), ["a 1"]);
    assert!(resolve(&index, &["a", "b"], &[]).is_err());
}

#[test]
fn what_is_installed_is_neither_changed_nor_named() {
    let index = index(
        "Package: a\nDepends: lib (>= 1)\n\nPackage: lib\nVersion: 2\n\nPackage: new\nDepends: lib (>= 2)",
    );
    assert_eq!(resolve(&index, &["a"], &[installed("lib", "1")]).unwrap(), ["a 1"]);
    let error = resolve(&index, &["new"], &[installed("lib", "1")]).unwrap_err();
    assert!(error.contains("lib"), "{error}");
    assert_eq!(resolve(&index, &["lib"], &[installed("lib", "1")]).unwrap(), [""; 0]);
}

#[test]
fn a_name_that_does_not_exist_gets_the_nearest() {
    let index = index("Package: nginx-light");
    let wanted = ["nginx-ligth".to_owned()];
    let error = index.resolve(&Request { include: None, wanted: &wanted, installed: &[] }).unwrap_err();
    assert_eq!(error.to_string(), "there is no package \"nginx-ligth\" in \"debian\"");
    assert_eq!(error.help(), Some("did you mean \"nginx-light\"?"));
    assert_eq!(error.package(), Some("nginx-ligth"));
}

#[test]
fn a_root_starts_with_the_essential_or_required_set() {
    let index = index(
        "Package: base\nEssential: yes\nDepends: lib\n\nPackage: lib\n\nPackage: tool\nPriority: required\n\nPackage: other",
    );
    let names = |include| {
        let request = Request { include: Some(include), wanted: &[], installed: &[] };
        index.resolve(&request).unwrap().into_iter().map(|p| p.name).collect::<Vec<_>>()
    };
    assert_eq!(names(RootInclude::Essential), ["base", "lib"]);
    assert_eq!(names(RootInclude::Required), ["base", "lib", "tool"]);
    assert_eq!(names(RootInclude::Nothing), [""; 0]);
}

#[test]
fn pinned_versions_stay_while_they_are_served() {
    let mut index = index("Package: a\nVersion: 1\n\nPackage: a\nVersion: 2\n\nPackage: b\nVersion: 2");
    index.pin(&[installed("a", "1"), installed("b", "1")]);
    assert_eq!(resolve(&index, &["a", "b"], &[]).unwrap(), ["a 1", "b 2"]);
}
