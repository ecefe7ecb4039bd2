//! Debian control data of anyone: dpkg's databases, relations and versions.

#![no_main]

use std::cmp::Ordering;

use imgforge_packages::{Index, Scheme, compare_versions, installed_packages, parse_relations};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let packages = installed_packages(Scheme::Debian, text, "amd64");
    assert!(packages.iter().all(|package| matches!(package.architecture.as_str(), "all" | "amd64")));
    let versions: Vec<&str> = packages.iter().map(|package| package.version.as_str()).collect();
    for pair in versions.windows(2) {
        let order = compare_versions(pair[0], pair[1]);
        assert_eq!(order, compare_versions(pair[1], pair[0]).reverse(), "{pair:?}");
    }
    for triple in versions.windows(3) {
        let [a, b, c] = [triple[0], triple[1], triple[2]];
        if compare_versions(a, b) != Ordering::Greater && compare_versions(b, c) != Ordering::Greater {
            assert_ne!(compare_versions(a, c), Ordering::Greater, "{triple:?}");
        }
    }
    for dependency in parse_relations(text) {
        for alternative in dependency {
            if let Some(bound) = &alternative.bound {
                bound.holds(&bound.version);
            }
            // What is shown is read as the same.
            assert_eq!(parse_relations(&alternative.to_string()), [[alternative]]);
        }
    }
    Index::new("debian", "amd64", &[], Vec::new()).recall_database(text);
});
