//! One small index for each rule.

use imgforge_core::lock::LockedPackage;
use imgforge_core::manifest::RootInclude;

use super::Request;
use crate::error::Error;
use crate::index::{Index, IndexEntry};

/// Lines of `NAME VERSION; Field: value; Field: value`.
pub(super) fn index(text: &str) -> Index {
    let entries = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(|line| {
        let mut parts = line.split("; ");
        let (name, version) = parts.next().unwrap().split_once(' ').unwrap();
        let mut entry = IndexEntry {
            name: name.into(),
            version: version.into(),
            architecture: "amd64".into(),
            priority: "optional".into(),
            suite: "stable".into(),
            ..IndexEntry::default()
        };
        for (field, value) in parts.map(|part| part.split_once(": ").unwrap()) {
            match field {
                "Depends" => entry.depends = value.into(),
                "Pre-Depends" => entry.pre_depends = value.into(),
                "Provides" => entry.provides = value.into(),
                "Conflicts" => entry.conflicts = value.into(),
                "Breaks" => entry.breaks = value.into(),
                "Priority" => entry.priority = value.into(),
                "Essential" => entry.essential = value == "yes",
                _ => panic!("{field}"),
            }
        }
        entry
    });
    Index::new("debian", "amd64", &["stable".into()], entries.collect())
}

fn solve(index: &Index, wanted: &str, installed: &[LockedPackage]) -> Result<String, Error> {
    let wanted = wanted.split_whitespace().map(str::to_owned).collect();
    let added = index.resolve(&Request { include: None, wanted, installed })?;
    Ok(added.iter().map(|p| format!("{}={}", p.name, p.version)).collect::<Vec<_>>().join(" "))
}

fn check(packages: &str, wanted: &str, expected: &str) {
    assert_eq!(solve(&index(packages), wanted, &[]).unwrap(), expected, "{packages}");
}

fn refused(packages: &str, wanted: &str, parts: &[&str]) {
    let text = solve(&index(packages), wanted, &[]).unwrap_err().to_string();
    for part in parts {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

fn installed(index: &Index, names: &[(&str, &str)]) -> Vec<LockedPackage> {
    names
        .iter()
        .map(|(name, version)| LockedPackage {
            version: (*version).to_owned(),
            ..index.newest(name).unwrap()
        })
        .collect()
}

#[test]
fn the_newest_version_is_taken_unless_one_is_pinned() {
    check("a 1\na 2", "a", "a=2");
    check("a 1\na 2", "a=1", "a=1");
    check("a 1\na 2\nb 1; Depends: a (<< 2)", "b", "a=1 b=1");
    refused("a 1\na 2", "a=3", &["no version 3", "2, 1"]);
}

#[test]
fn pre_depends_count_as_depends() {
    check("a 1; Pre-Depends: b\nb 1; Depends: c\nc 1", "a", "a=1 b=1 c=1");
}

#[test]
fn the_first_alternative_that_can_be_had_is_taken() {
    check("a 1; Depends: b | c\nb 1\nc 1", "a", "a=1 b=1");
    check("a 1; Depends: b (>= 2) | c\nb 1\nc 1", "a", "a=1 c=1");
    check("a 1; Depends: none | c\nc 1", "a", "a=1 c=1");
    check("a 1; Depends: b | c\nb 1; Depends: none\nc 1", "a", "a=1 c=1");
}

#[test]
fn an_alternative_that_is_chosen_or_installed_comes_first() {
    check("a 1; Depends: b | c\nb 1\nc 1", "a c", "a=1 c=1");
    let index = index("a 1; Depends: b | c\nb 1\nc 1");
    let parents = installed(&index, &[("c", "1")]);
    assert_eq!(solve(&index, "a", &parents).unwrap(), "a=1");
}

#[test]
fn virtual_packages_are_provided() {
    check("a 1; Depends: v\nb 1; Provides: v", "a", "a=1 b=1");
    check("v 1\nb 1; Provides: v\na 1; Depends: v", "a", "a=1 v=1");
    check("a 1; Depends: v\nb 1; Provides: v\nc 1; Provides: v; Priority: required", "a", "a=1 c=1");
    check("b 1; Provides: v", "v", "b=1");
    refused("a 1; Depends: v (>= 1)\nb 1; Provides: v", "a", &["a 1", "v"]);
    check("a 1; Depends: v (>= 1)\nb 1; Provides: v (= 0.9)\nc 1; Provides: v (= 1.1)", "a", "a=1 c=1");
}

#[test]
fn an_installed_provider_is_enough() {
    let index = index("a 1; Depends: v\nb 1; Provides: v\nc 1; Provides: v");
    assert_eq!(solve(&index, "a", &installed(&index, &[("c", "1")])).unwrap(), "a=1");
}

#[test]
fn an_installed_provider_of_a_later_alternative_is_enough() {
    let index = index("a 1; Depends: b | v\nb 1\nc 1; Provides: v");
    assert_eq!(solve(&index, "a", &installed(&index, &[("c", "1")])).unwrap(), "a=1");
}

#[test]
fn conflicts_and_breaks_hold_both_ways() {
    refused("a 1; Conflicts: b\nb 1", "a b", &["a", "b"]);
    refused("a 1; Breaks: b (<< 2)\nb 1", "a b", &["a", "b"]);
    check("a 1; Breaks: b (<< 2)\nb 1\nb 2", "a b", "a=1 b=2");
    let index = index("a 1\nb 1; Conflicts: a\nc 1; Conflicts: b");
    assert!(solve(&index, "a", &installed(&index, &[("b", "1")])).is_err(), "an installed one conflicts");
    let text = solve(&index, "c", &installed(&index, &[("b", "1")])).unwrap_err().to_string();
    assert!(text.contains("of a parent image"), "{text}");
}

#[test]
fn a_package_does_not_conflict_with_what_it_provides_itself() {
    check("a 1; Provides: v; Conflicts: v", "a", "a=1");
    refused("a 1; Provides: v; Conflicts: v\nb 1; Provides: v", "a b", &["a", "b"]);
    refused("a 1; Conflicts: v (<< 2)\nb 1; Provides: v (= 1)", "a b", &["a", "b"]);
    check("a 1; Conflicts: v (<< 2)\nb 1; Provides: v", "a b", "a=1 b=1");
}

#[test]
fn qualifiers_name_the_one_architecture_or_nothing() {
    check("a 1; Depends: p:any (>= 1), q:native, r:amd64\np 1\nq 1\nr 1", "a", "a=1 p=1 q=1 r=1");
    check("a 1; Depends: p:i386 | q\np 1\nq 1", "a", "a=1 q=1");
    refused("a 1; Depends: p:i386\np 1", "a", &["a"]);
    check("a 1; Conflicts: p:i386\np 1", "a p", "a=1 p=1");
}

#[test]
fn what_parents_have_is_neither_changed_nor_listed() {
    let index =
        index("lib 1\nlib 2\ndev 2; Depends: lib (= 2)\ndev 1; Depends: lib (= 1)\napp 1; Depends: lib");
    let parents = installed(&index, &[("lib", "1")]);
    assert_eq!(solve(&index, "app", &parents).unwrap(), "app=1");
    assert_eq!(solve(&index, "dev", &parents).unwrap(), "dev=1");
    let text = solve(&index, "dev=2", &parents).unwrap_err().to_string();
    assert!(text.contains("dev 2") && text.contains("lib 1 (of a parent image)"), "{text}");
}

#[test]
fn a_parent_s_version_that_the_repository_has_dropped_still_counts() {
    let index = index("lib 2; Provides: v\napp 1; Depends: lib (>= 1), v");
    let parents = installed(&index, &[("lib", "1.5")]);
    assert_eq!(solve(&index, "app", &parents).unwrap(), "app=1");
}

#[test]
fn dependencies_may_go_round_in_a_circle() {
    check("a 1; Depends: b\nb 1; Depends: a", "a", "a=1 b=1");
}

#[test]
fn a_circle_that_cannot_be_had_is_explained_in_a_few_lines() {
    // The solver's own explanation of this has no end: b needs c, which needs b.
    let circle = "a 1; Depends: b | c\nb 1; Depends: c\nc 1; Depends: b, d\nd 1; Conflicts: b";
    let text = solve(&index(circle), "a", &[]).unwrap_err().to_string();
    assert!(text.contains("b * | c *") && text.ends_with("\n..."), "{text}");
    assert!(text.lines().count() < 20, "{text}");
}

#[test]
fn a_name_that_is_not_there_gets_the_nearest_one() {
    refused("nginx-light 1", "ngnix-light", &["did you mean \"nginx-light\"?", "in stable"]);
    refused("a 1; Depends: gone", "a", &["a 1", "gone"]);
}

#[test]
fn a_root_starts_with_what_it_includes() {
    let index = index(
        "base 1; Essential: yes; Depends: usrmerge | usr-is-merged\nusrmerge 1; Depends: perl\nperl 1\n\
         usr-is-merged 1; Conflicts: usrmerge\nmount 1; Priority: required\nother 1",
    );
    let names = |include, wanted: &[&str]| -> Vec<String> {
        let wanted = wanted.iter().map(|name| (*name).to_owned()).collect();
        let added = index.resolve(&Request { include: Some(include), wanted, installed: &[] }).unwrap();
        added.into_iter().map(|p| p.name).collect()
    };
    assert_eq!(names(RootInclude::Essential, &[]), ["base", "usr-is-merged"]);
    assert_eq!(names(RootInclude::Required, &[]), ["base", "mount", "usr-is-merged"]);
    assert_eq!(names(RootInclude::Nothing, &["other"]), ["other"]);
}
