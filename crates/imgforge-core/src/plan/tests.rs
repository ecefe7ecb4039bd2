use proptest::prelude::*;

use super::*;
use crate::fingerprint::InputKind;

fn no_tests(_: &Target) -> Tests {
    Tests::default()
}

/// A family as indexes of parents, each smaller than its own index.
fn family(parents: &[Vec<usize>], salt: &[u8]) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    for (n, ps) in parents.iter().enumerate() {
        let mut inputs = InputManifest::default();
        inputs.insert(InputKind::Format, "imgforge", "1");
        inputs.insert(InputKind::File, "file", salt[n].to_string());
        for p in ps {
            inputs.insert(InputKind::Parent, targets[*p].name.as_str(), targets[*p].fingerprint.to_string());
        }
        targets.push(Target {
            name: ImageName::new(format!("i{n}")).unwrap(),
            platform: "linux/amd64".into(),
            fingerprint: inputs.fingerprint(),
            inputs,
            parents: ps.iter().map(|p| targets[*p].name.clone()).collect(),
            release_references: vec![format!("i{n}:latest")],
            instructions: vec![],
            relocked: vec![],
            security: BTreeSet::new(),
        });
    }
    targets
}

fn held_all(targets: &[Target]) -> Inventory {
    let mut inventory = Inventory::default();
    for (n, t) in targets.iter().enumerate() {
        inventory.insert(
            t.name.as_str(),
            Held {
                distrusted: false,
                id: Digest::sha256(&n.to_le_bytes()),
                fingerprint: t.fingerprint,
                inputs: InputManifest::from_label(&t.inputs.to_label()),
                references: [format!("{}:latest", t.name)].into(),
                created: 0,
                complete: true,
            },
        );
    }
    inventory
}

fn names(plan: &Plan, action: Action) -> BTreeSet<String> {
    plan.targets.iter().filter(|t| t.action == action).map(|t| t.name.clone()).collect()
}

fn all(targets: &[Target]) -> BTreeSet<ImageName> {
    targets.iter().map(|t| t.name.clone()).collect()
}

fn any_family() -> impl Strategy<Value = Vec<Vec<usize>>> {
    (1..12usize).prop_flat_map(|size| {
        (0..size)
            .map(|n| {
                proptest::collection::btree_set(0..n.max(1), 0..=n.min(3))
                    .prop_map(move |s| s.into_iter().filter(|p| *p < n).collect())
            })
            .collect::<Vec<_>>()
    })
}

proptest! {
    #[test]
    fn a_change_builds_exactly_the_image_and_its_descendants(parents in any_family(), at in any::<prop::sample::Index>()) {
        let mut salt = vec![0; parents.len()];
        let inventory = held_all(&family(&parents, &salt));
        let changed = at.index(parents.len());
        salt[changed] = 1;
        let now = family(&parents, &salt);
        let plan = plan(&now, &all(&now), &inventory, &no_tests, false);
        let mut expected = BTreeSet::from([changed]);
        for (n, ps) in parents.iter().enumerate() {
            if ps.iter().any(|p| expected.contains(p)) { expected.insert(n); }
        }
        prop_assert_eq!(names(&plan, Action::Build), expected.iter().map(|n| format!("i{n}")).collect::<BTreeSet<_>>());
        for row in plan.to_build() {
            prop_assert!(!row.reasons.is_empty());
            let expected_kinds = row.reasons.iter().all(|r| matches!(r, Reason::File { .. } | Reason::Parent { .. }));
            prop_assert!(expected_kinds, "{:?}", row.reasons);
        }
    }

    #[test]
    fn what_is_not_selected_is_built_only_for_a_child(parents in any_family(), select in any::<prop::sample::Index>()) {
        let now = family(&parents, &vec![0; parents.len()]);
        let chosen = select.index(parents.len());
        let plan = plan(&now, &[now[chosen].name.clone()].into(), &Inventory::default(), &no_tests, false);
        let mut ancestors = BTreeSet::new();
        for n in (0..=chosen).rev() {
            if n == chosen || ancestors.contains(&n) { ancestors.extend(parents[n].iter().copied()); }
        }
        prop_assert_eq!(names(&plan, Action::Required), ancestors.iter().map(|n| format!("i{n}")).collect::<BTreeSet<_>>());
        prop_assert_eq!(names(&plan, Action::Build), BTreeSet::from([format!("i{chosen}")]));
    }
}

#[test]
fn a_fresh_child_does_not_need_its_missing_parent() {
    let now = family(&[vec![], vec![0]], &[0, 0]);
    let mut inventory = held_all(&now);
    inventory.images.remove("i0");
    let plan = plan(&now, &[now[1].name.clone()].into(), &inventory, &no_tests, false);
    assert_eq!(
        plan.targets.iter().map(|t| (t.name.as_str(), t.action)).collect::<Vec<_>>(),
        [("i1", Action::Fresh)]
    );
}

#[test]
fn what_is_only_tested_does_not_need_its_missing_parent() {
    let now = family(&[vec![], vec![0], vec![1]], &[0, 0, 0]);
    let mut inventory = held_all(&now);
    inventory.images.remove("i1");
    let plan =
        plan(&now, &[now[2].name.clone()].into(), &inventory, &|_| Tests { count: 1, passed: false }, false);
    let rows = plan.targets.iter().map(|t| (t.name.as_str(), t.action, t.tests)).collect::<Vec<_>>();
    assert_eq!(rows, [("i2", Action::Fresh, 1)]);
}

#[test]
fn a_held_image_without_a_readable_record_is_said_to_be_so() {
    let before = family(&[vec![]], &[0]);
    let mut inventory = held_all(&before);
    inventory.images.get_mut("i0").unwrap()[0].inputs = None;
    let now = family(&[vec![]], &[1]);
    let plan = plan(&now, &all(&now), &inventory, &no_tests, false);
    assert!(matches!(plan.targets[0].reasons[..], [Reason::NoRecord { .. }]));
}

#[test]
fn an_incomplete_image_is_not_held_but_says_what_changed() {
    let mut inventory = held_all(&family(&[vec![]], &[0]));
    inventory.images.get_mut("i0").unwrap()[0].complete = false;
    let same = family(&[vec![]], &[0]);
    assert!(inventory.holds(&same[0].name, same[0].fingerprint).is_none());
    let now = family(&[vec![]], &[1]);
    let plan = plan(&now, &all(&now), &inventory, &no_tests, false);
    assert!(matches!(&plan.targets[0].reasons[..], [Reason::File { path, .. }] if path == "file"));
}

#[test]
fn only_a_package_that_moves_into_a_security_suite_is_marked_and_the_suite_is_no_input() {
    let with = |version: &str, is_security: bool| {
        let mut targets = family(&[vec![]], &[0]);
        let name = "libfoo:amd64".to_owned();
        targets[0].inputs.insert(InputKind::Package, &name, version);
        targets[0].fingerprint = targets[0].inputs.fingerprint();
        targets[0].security = if is_security { [name].into() } else { BTreeSet::new() };
        targets
    };
    let why = |before: &[Target], now: &[Target]| {
        let plan = plan(now, &all(now), &held_all(before), &no_tests, false);
        plan.targets[0].reasons.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let before = with("1.0", false);
    assert_eq!(why(&before, &with("1.1", true)), ["package libfoo 1.0 -> 1.1 (security)"]);
    assert_eq!(why(&before, &with("1.1", false)), ["package libfoo 1.0 -> 1.1"]);
    assert_eq!(why(&family(&[vec![]], &[0]), &with("1.1", true)), ["package libfoo 1.1 added"]);
    assert_eq!(why(&before, &with("1.0", true)), [""; 0], "the same package from elsewhere is the same");
}

#[test]
fn reasons_carry_kind_old_and_new_in_json() {
    let inventory = held_all(&family(&[vec![], vec![0]], &[0, 0]));
    let now = family(&[vec![], vec![0]], &[1, 0]);
    let json = serde_json::to_value(plan(&now, &all(&now), &inventory, &no_tests, false)).unwrap();
    assert_eq!(json["version"], 1);
    assert_eq!(
        json["targets"][0]["reasons"][0],
        serde_json::json!({"kind": "file", "path": "file", "old": "0", "new": "1"})
    );
    assert_eq!(json["targets"][1]["reasons"][0]["kind"], "parent");
}
