//! Building: what changed and nothing else, tags, failures, an interrupted run.

use std::collections::BTreeMap;
use std::time::Duration;

use imgforge_testkit::docker::Docker;
use imgforge_testkit::workspace::Ran;

use crate::{IMGFORGE, imgforge, small_family, with_action};

#[test]
fn a_change_builds_the_image_and_its_descendants_and_undoing_it_builds_nothing() {
    let family = small_family();
    let first = imgforge(&family, &["build"]).ok();
    assert!(first.stderr.contains("5 built"), "{}", first.stderr);
    let ids = |names: &[&str]| -> BTreeMap<String, Option<String>> {
        names
            .iter()
            .map(|n| ((*n).to_owned(), Docker::image_id(&format!("{}:latest", family.repository(n)))))
            .collect()
    };
    let all = ["base", "mid", "left", "right", "other"];
    let before = ids(&all);
    assert!(before.values().all(Option::is_some), "{before:?}");

    let again = imgforge(&family, &["build"]).ok();
    assert!(again.stderr.contains("Fresh 5 images"), "{}", again.stderr);
    assert_eq!(ids(&all), before);

    family.write("mid/mid.conf", "two\n");
    let plan = imgforge(&family, &["plan", "--format", "json"]).ok().json();
    assert_eq!(with_action(&plan, "build"), ["left", "mid", "other", "right"]);
    let reasons: BTreeMap<&str, Vec<&str>> = plan["targets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let kinds = row["reasons"].as_array().unwrap().iter();
            (row["name"].as_str().unwrap(), kinds.map(|r| r["kind"].as_str().unwrap()).collect())
        })
        .collect();
    assert_eq!(reasons["mid"], ["file"]);
    assert_eq!(reasons["left"], ["parent"]);
    assert_eq!(reasons["other"], ["parent"]);

    // The artifact is the truth: without any cache the plan is the same.
    std::fs::remove_dir_all(family.root().join(".imgforge")).unwrap();
    assert_eq!(imgforge(&family, &["plan", "--format", "json"]).ok().json(), plan);
    assert_eq!(imgforge(&family, &["plan", "--no-stat-cache", "--format", "json"]).ok().json(), plan);
    assert_eq!(imgforge(&family, &["plan", "--exit-code"]).code, 10);

    imgforge(&family, &["build"]).ok();
    let changed = ids(&all);
    assert_eq!(changed["base"], before["base"]);
    assert_ne!(changed["mid"], before["mid"]);

    family.write("mid/mid.conf", "one\n");
    let undone = imgforge(&family, &["build"]).ok();
    assert!(undone.stderr.contains("Fresh 5 images"), "{}", undone.stderr);
    assert_eq!(ids(&all), before, "release tags go back with the change");
    assert_eq!(imgforge(&family, &["plan", "--exit-code"]).code, 0);
}

#[test]
fn images_carry_their_fingerprint_inputs_and_parents() {
    let family = small_family();
    imgforge(&family, &["build", "mid"]).ok();
    let plan = imgforge(&family, &["plan", "mid", "--format", "json"]).ok().json();
    let fingerprint = plan["targets"][0]["fingerprint"].as_str().unwrap().to_owned();
    let reference = format!("{}:f-{}", family.repository("mid"), &fingerprint[..32]);
    let labels = Docker::run(&["image", "inspect", "--format", "{{json .Config.Labels}}", &reference]);
    let labels: BTreeMap<String, String> = serde_json::from_str(&labels).unwrap();
    assert_eq!(labels["imgforge.fingerprint"], fingerprint);
    assert_eq!(labels["imgforge.image"], "mid");
    assert!(labels["imgforge.inputs"].contains("mid.conf"), "{labels:?}");
    let parents: serde_json::Value = serde_json::from_str(&labels["imgforge.parents"]).unwrap();
    let id = Docker::image_id(&format!("{}:latest", family.repository("base"))).unwrap();
    assert_eq!(parents["base"]["id"], id.as_str());
}

#[test]
fn a_failure_blocks_only_its_descendants_and_shows_the_manifests_line_and_the_log() {
    let family = small_family();
    family.image("mid", "    from \"base\"\n    copy \"mid.conf\" \"/etc/mid.conf\"\n    run \"echo before it fails; exit 7\"");
    family.image("second", "    from \"base\"\n    run \"echo second > /name\"");
    let failed = imgforge(&family, &["build", "--format", "json"]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    let results: BTreeMap<String, String> = failed.json()["targets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["name"].as_str().unwrap().to_owned(), row["result"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [
        ("base", "built"),
        ("left", "skipped"),
        ("mid", "failed"),
        ("other", "skipped"),
        ("right", "skipped"),
        ("second", "built"),
    ];
    assert_eq!(results, expected.map(|(name, result)| (name.to_owned(), result.to_owned())).into());
    for part in ["mid/image.kdl:4", "status 7", "before it fails", "run \"echo before it fails; exit 7\""] {
        assert!(failed.stderr.contains(part), "{part} is missing in\n{}", failed.stderr);
    }
    assert_eq!(Docker::image_id(&format!("{}:latest", family.repository("mid"))), None);
}

#[test]
fn an_interrupted_run_tags_nothing_half_done_and_the_next_goes_on() {
    let family = small_family();
    let marker = 4_000_000 + std::process::id();
    family.image(
        "mid",
        &format!("    from \"base\"\n    copy \"mid.conf\" \"/etc/mid.conf\"\n    run \"sleep {marker}\""),
    );
    let child = family
        .command(IMGFORGE, &["build"])
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let sleeps = || {
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let lines = processes.filter_map(|p| std::fs::read_to_string(p.path().join("cmdline")).ok());
        lines.filter(|line| line.contains(&format!("sleep\0{marker}"))).count()
    };
    wait_until("the step runs", || sleeps() > 0);
    let interrupted =
        std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    wait_until("the step is cancelled in the daemon", || sleeps() == 0);
    assert!(Docker::image_id(&format!("{}:latest", family.repository("base"))).is_some());
    assert_eq!(Docker::image_id(&format!("{}:latest", family.repository("mid"))), None);

    family.image("mid", "    from \"base\"\n    copy \"mid.conf\" \"/etc/mid.conf\"");
    let next = imgforge(&family, &["build"]).ok();
    assert!(next.stderr.contains("4 built, 1 fresh"), "{}", next.stderr);
}

/// Waits for something that has no notification; the bound only ends a test that has failed.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1200 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("waited in vain until {what}");
}

#[test]
fn with_a_registry_added_later_what_is_fresh_is_what_children_stand_on() {
    for engine in ["docker", "embedded"] {
        let family = small_family();
        let plain = format!("workspace \"{}\"\n", family.name());
        family.write("imgforge.kdl", &plain);
        imgforge(&family, &["build", "--engine", engine]).ok();
        let later = format!("workspace \"{0}\" {{\n    registry \"localhost/{0}\"\n}}\n", family.name());
        family.write("imgforge.kdl", &later);
        let fresh = imgforge(&family, &["plan", "--engine", engine]).ok();
        assert!(fresh.stdout.contains("nothing to build"), "{}", fresh.stdout);
        let test = "    from \"mid\"\n    run \"echo new > /name\"\n    test \"is new\" { file \"/name\" contains=\"new\" }";
        family.image("right", test);
        let built = imgforge(&family, &["build", "right", "--engine", engine]).ok();
        assert!(built.stderr.contains("1 built"), "{engine}: {}", built.stderr);
        // What nothing was built on has its new name as well.
        let base = imgforge(&family, &["run", "left", "--engine", engine, "--", "cat", "/name"]).ok();
        assert_eq!(base.stdout, "left\n", "{engine}");
    }
}

#[test]
fn tests_of_an_image_do_not_build_its_missing_parent() {
    let family = small_family();
    let test = "    from \"mid\"\n    run \"echo left > /name\"\n    test \"is left\" { file \"/name\" contains=\"left\" }";
    family.image("left", test);
    imgforge(&family, &["build"]).ok();
    let ids = Docker::run(&["images", "--format", "{{.Repository}}:{{.Tag}}", &family.repository("mid")]);
    for name in ids.lines() {
        Docker::run(&["rmi", name]);
    }
    let tested = imgforge(&family, &["test", "left", "--format", "json"]).ok();
    let rows = tested.json()["targets"].as_array().unwrap().clone();
    assert_eq!(rows.len(), 1, "{}", tested.stderr);
    assert!(!tested.stderr.contains("Building"), "{}", tested.stderr);
    assert_eq!(Docker::run(&["images", "-q", &family.repository("mid")]), "", "mid was built");
}
