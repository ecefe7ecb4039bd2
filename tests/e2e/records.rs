//! Records of pushes and promotions in the registry: who counts as young, what is kept of many of them, and what
//! happens when one cannot be read. With the embedded engine, since no daemon has a part in it.

use std::collections::{BTreeMap, BTreeSet};

use imgforge_oci::TagOrDigest;
use imgforge_registry::{ProgressSink, PushImage};
use imgforge_testkit::fault_proxy::{Fault, FaultProxy};
use imgforge_testkit::workspace::{Ran, TestWorkspace};
use serde_json::json;

use crate::IMGFORGE;
use crate::promoting::{
    IMAGES, checkout, client, content, embedded, fingerprints, pushes, registry, released, run, set_times,
};

/// Long before any test.
const OLD: &str = "2020-01-01T00:00:00Z";

/// When each image was last pushed or promoted, as the records say it.
fn times(host: &str, name: &str) -> BTreeMap<(String, String), String> {
    let mut times = BTreeMap::new();
    for (_, record) in pushes(host, name) {
        for pushed in record["images"].as_array().unwrap() {
            let text = |key: &str| pushed[key].as_str().unwrap().to_owned();
            let time: &mut String = times.entry((text("image"), text("tag"))).or_default();
            *time = text("time").max(std::mem::take(time));
        }
    }
    times
}

/// The content tags that a checkout's images have.
fn contents(workspace: &TestWorkspace) -> BTreeSet<(String, String)> {
    fingerprints(workspace).into_iter().map(|(image, print)| (image, format!("f-{}", &print[..32]))).collect()
}

/// Writes a record as it is, under this id: an image, as records were before there were artifacts.
fn keep(host: &str, place: &str, id: &str, text: &str) {
    let client = client(host);
    let image = PushImage { config: text.into(), layers: Vec::new(), annotations: BTreeMap::new() };
    let pushed = run(client.push_image(place, &image, ProgressSink::silent())).unwrap();
    run(client.put_manifest(place, &TagOrDigest::tag(id).unwrap(), &pushed.manifest)).unwrap();
}

/// A record of pushes as imgforge writes it.
fn push_record(workspace: &str, images: &[(&str, &str, &str)]) -> String {
    let row = |(image, tag, time): &(&str, &str, &str)| {
        format!("{{\"image\":\"{image}\",\"tag\":\"{tag}\",\"time\":\"{time}\"}}")
    };
    let rows: Vec<String> = images.iter().map(row).collect();
    format!("{{\"version\":1,\"workspace\":\"{workspace}\",\"images\":[{}]}}", rows.join(","))
}

fn prune(workspace: &TestWorkspace, args: &[&str]) -> Ran {
    prune_text(workspace, &[args, &["--format", "json"]].concat())
}

fn prune_text(workspace: &TestWorkspace, args: &[&str]) -> Ran {
    let cache = tempfile::tempdir().unwrap();
    let args = [&["prune", "--registry", "--engine", "embedded"], args].concat();
    let mut command = workspace.command(IMGFORGE, &args);
    Ran::of(command.env("IMGFORGE_CACHE", cache.path()).output().unwrap()).ok()
}

/// The ids of all promotions, the oldest first.
fn promotions(workspace: &TestWorkspace) -> Vec<String> {
    let listed = embedded(workspace, &["promote", "--list", "--format", "json"]).ok().json();
    listed.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn records_are_artifacts_and_images_where_the_registry_takes_no_artifacts() {
    let server = registry();
    let (proxy, name) =
        (FaultProxy::start(server.host()).unwrap(), imgforge_testkit::unique("imgforge-test"));
    let [one, two] = ["one", "two"].map(|content| checkout(&proxy.host(), &name, content));
    embedded(&one, &["build", "--push"]).ok();
    // What a registry says that takes none: this one does, so the answer is made up.
    let answer = br#"{"errors":[{"code":"MANIFEST_INVALID","message":"unknown media type"}]}"#;
    for kind in ["pushes", "promotions"] {
        let place = format!("imgforge.{kind}/manifests/sha256:");
        proxy.fail("PUT", &place, Fault::StatusAnswer(400, answer.to_vec()), 1);
    }
    embedded(&two, &["build", "--push"]).ok();
    assert_eq!(proxy.met(), 2);
    let client = client(server.host());
    for (kind, media_type) in [
        ("pushes", "application/vnd.imgforge.pushes.v1+json"),
        ("promotions", "application/vnd.imgforge.promotion.v1+json"),
    ] {
        let place = format!("{name}/imgforge.{kind}");
        let mut tags = run(client.tags(&place)).unwrap();
        tags.sort();
        let forms = tags.iter().map(|tag| {
            let tag = TagOrDigest::tag(tag).unwrap();
            let manifest = run(client.manifest(&place, &tag)).unwrap().unwrap();
            let image = manifest.image().unwrap();
            let file = image.layers.first().map(|file| file.media_type.to_string());
            (image.artifact_type.as_ref().map(ToString::to_string), image.config.media_type.to_string(), file)
        });
        let artifact = Some(media_type.to_owned());
        let expected = [
            (artifact.clone(), "application/vnd.oci.empty.v1+json".to_owned(), artifact),
            (None, "application/vnd.oci.image.config.v1+json".to_owned(), None),
        ];
        assert_eq!(forms.collect::<Vec<_>>(), expected);
    }
    // Either is read.
    assert_eq!(promotions(&one).len(), 2);
    assert_eq!(released(server.host(), &name), fingerprints(&two));
    embedded(&two, &["rollback"]).ok();
    assert_eq!(released(server.host(), &name), fingerprints(&one));
}

#[test]
fn what_is_promoted_or_gone_back_to_is_young_though_it_was_pushed_long_ago() {
    let server = registry();
    let (host, name) = (server.host(), imgforge_testkit::unique("imgforge-test"));
    let [one, two] = ["one", "two"].map(|content| checkout(host, &name, content));
    embedded(&one, &["build", "--push"]).ok();
    embedded(&two, &["build", "--push"]).ok();
    let young = |args: &[&str], workspace: &TestWorkspace| {
        set_times(host, &name, Some(OLD));
        embedded(workspace, args).ok();
        let times = times(host, &name).into_iter();
        times.filter(|(_, time)| time != OLD).map(|(content, _)| content).collect::<BTreeSet<_>>()
    };
    assert_eq!(young(&["promote"], &one), contents(&one));
    assert_eq!(released(host, &name), fingerprints(&one));
    // It finds all of them, and only moves tags.
    assert_eq!(young(&["build", "--push"], &two), contents(&two));
    assert_eq!(released(host, &name), fingerprints(&two));
    assert_eq!(young(&["rollback"], &two), contents(&one));
    assert_eq!(released(host, &name), fingerprints(&one));
    // Where nothing moves there is nothing to write down.
    for args in [&["promote"][..], &["build", "--push"], &["push"]] {
        assert_eq!(young(args, &one), BTreeSet::new(), "{args:?}");
    }
    // And it stays, also for somebody who keeps no earlier promotion.
    embedded(&two, &["promote"]).ok();
    embedded(&one, &["promote"]).ok();
    let kept = prune(&one, &["--keep-promotions", "1", "--yes"]).json();
    assert_eq!((&kept["manifests"], &kept["manifests_young"]), (&json!([]), &json!(4)), "{kept}");
}

#[test]
fn times_of_images_that_are_there_are_kept_whoever_has_described_them() {
    let server = registry();
    let (host, name) = (server.host(), imgforge_testkit::unique("imgforge-test"));
    let [main, branch] = ["one", "one"].map(|content| checkout(host, &name, content));
    branch.write("extra/file", "extra");
    branch.image("extra", "    from \"base\"\n    copy \"file\" \"/extra\"");
    embedded(&main, &["build", "--push"]).ok();
    embedded(&branch, &["build", "--push"]).ok();
    set_times(host, &name, Some(OLD));
    let extra = contents(&branch).into_iter().find(|(image, _)| image == "extra").unwrap();
    let (gone, coming) = (format!("f-{}", "0".repeat(32)), format!("f-{}", "1".repeat(32)));
    let now = jiff::Timestamp::now().to_string();
    let place = format!("{name}/imgforge.pushes");
    for number in 10..40 {
        let text = push_record(&name, &[("extra", &gone, OLD), ("other", &coming, &now)]);
        // No two are the same.
        let text = format!("{text}{}", " ".repeat(number));
        keep(host, &place, &format!("t-20200101T0000000{number}Z-0"), &text);
    }
    prune(&main, &["--yes"]);
    let kept = times(host, &name);
    let mut expected: BTreeMap<(String, String), String> =
        contents(&branch).into_iter().map(|content| (content, OLD.to_owned())).collect();
    expected.insert(("other".into(), coming), now);
    assert!(expected.contains_key(&extra));
    assert_eq!(kept, expected);
    assert_eq!(pushes(host, &name).len(), 1, "they are few again");
}

#[test]
fn a_record_that_says_what_an_older_one_has_said_is_not_removed_with_it() {
    let server = registry();
    let (host, name) = (server.host(), imgforge_testkit::unique("imgforge-test"));
    let family = checkout(host, &name, "one");
    embedded(&family, &["build", "--push"]).ok();
    set_times(host, &name, None);
    let contents = contents(&family);
    let all: Vec<(&str, &str, &str)> =
        contents.iter().map(|(image, tag)| (image.as_str(), tag.as_str(), OLD)).collect();
    let place = format!("{name}/imgforge.pushes");
    keep(host, &place, "t-20200101T000000000Z-0", &push_record(&name, &all));
    for number in 10..40 {
        let text = format!("{}{}", push_record(&name, &all[..1]), " ".repeat(number));
        keep(host, &place, &format!("t-20200101T0000000{number}Z-0"), &text);
    }
    for _ in 0..2 {
        prune(&family, &["--yes"]);
        let kept = times(host, &name);
        assert_eq!(kept.len(), IMAGES.len());
        assert!(kept.values().all(|time| time == OLD), "{kept:?}");
    }
}

#[test]
fn a_record_of_a_promotion_that_is_lost_stops_only_who_asks_for_it() {
    let server = registry();
    let (host, name) = (server.host(), imgforge_testkit::unique("imgforge-test"));
    let commits = ["one", "two", "three"].map(|content| checkout(host, &name, content));
    for commit in &commits {
        embedded(commit, &["build", "--push"]).ok();
    }
    let ids = promotions(&commits[0]);
    let [first, lost, last] = &ids[..] else { panic!("{ids:?}") };
    let (client, place) = (client(host), format!("{name}/imgforge.promotions"));
    let manifest = run(client.manifest(&place, &TagOrDigest::tag(lost).unwrap())).unwrap().unwrap();
    std::fs::remove_file(server.blob_file(content(&manifest).digest.hex())).unwrap();

    let told = |ran: &Ran| {
        let line = ran.stderr.lines().find(|line| line.contains(lost.as_str())).unwrap_or_default();
        assert!(line.contains(manifest.digest().as_str()), "{}", ran.stderr);
        assert!(ran.stderr.contains("cannot be read"), "{}", ran.stderr);
    };
    let [family, ..] = &commits;
    let listed = embedded(family, &["promote", "--list"]).ok();
    told(&listed);
    assert!(listed.stderr.contains("`imgforge prune --registry --yes` removes it"), "{}", listed.stderr);
    assert!(listed.stdout.contains(first.as_str()) && listed.stdout.contains(last.as_str()));
    // It is the one before that which stands, and so what is asked for.
    for args in [&["rollback"][..], &["rollback", "--to", lost]] {
        let refused = embedded(family, args);
        assert_eq!(refused.code, 1, "{}", refused.stderr);
        told(&refused);
        assert!(refused.stderr.contains("imgforge rollback --to ID"), "{}", refused.stderr);
    }
    assert_eq!(released(host, &name), fingerprints(&commits[2]));
    let back = embedded(family, &["rollback", "--to", first]).ok();
    told(&back);
    assert_eq!(released(host, &name), fingerprints(family));
    // Another one than the lost promotion: the same in the same second would be the same record, and bring it back.
    embedded(&commits[2], &["promote"]).ok();
    assert_eq!(released(host, &name), fingerprints(&commits[2]));
    // The one that it went back to stood before, and nothing is in question.
    embedded(family, &["rollback"]).ok();
    assert_eq!(released(host, &name), fingerprints(family));

    let young = prune_text(family, &["--yes"]);
    told(&young);
    assert!(!young.stdout.contains("record"), "{}", young.stdout);
    let gone = prune_text(family, &["--keep-days", "0", "--yes"]);
    assert!(gone.stdout.contains(&format!("  record    imgforge.promotions:{lost}\n")), "{}", gone.stdout);
    assert_eq!(embedded(family, &["promote", "--list"]).ok().stderr, "");
}

#[test]
fn a_record_of_a_push_that_is_lost_leaves_its_images_young() {
    let server = registry();
    let (host, name) = (server.host(), imgforge_testkit::unique("imgforge-test"));
    let [old, family] = ["one", "two"].map(|content| checkout(host, &name, content));
    embedded(&old, &["build", "--push"]).ok();
    embedded(&family, &["build", "--push"]).ok();
    set_times(host, &name, Some(OLD));
    let args = ["--keep-promotions", "1"];
    assert_eq!(prune(&family, &args).json()["manifests"].as_array().unwrap().len(), 4);
    let (client, place) = (client(host), format!("{name}/imgforge.pushes"));
    for (reference, _) in pushes(host, &name) {
        let manifest = run(client.manifest(&place, &reference)).unwrap().unwrap();
        std::fs::remove_file(server.blob_file(content(&manifest).digest.hex())).unwrap();
    }
    let shown = prune(&family, &args);
    assert_eq!(shown.json()["manifests"], json!([]));
    assert_eq!(shown.stderr.matches("cannot be read").count(), 2, "{}", shown.stderr);
    prune(&family, &["--yes"]);
    assert_eq!(pushes(host, &name).len(), 1, "what was seen now");
    assert_eq!(prune(&family, &args).stderr.matches("cannot be read").count(), 0);
}

#[test]
fn the_newest_promotions_are_kept_and_those_that_nobody_can_go_back_to_are_removed() {
    let server = registry();
    let (host, name) = (server.host(), imgforge_testkit::unique("imgforge-test"));
    let family = checkout(host, &name, "one");
    embedded(&family, &["build", "--push"]).ok();
    let place = format!("{name}/imgforge.promotions");
    let record = |workspace: &str, number: u32| {
        let record = json!({
            "version": 1, "workspace": workspace, "time": OLD, "commit": null, "back_to": null,
            "moves": [{
                "image": "web", "tag": "latest",
                "from": format!("sha256:{number:064}"), "to": format!("sha256:{:064}", number + 1),
            }],
        });
        let id = format!("p-20200101T000000{number:03}Z-0");
        keep(host, &place, &id, &record.to_string());
        id
    };
    let made: Vec<String> = (0..104).map(|number| record(&name, number)).collect();
    record("another-workspace", 500);
    let gone = |args: &[&str]| {
        let shown = prune_text(&family, args).stdout;
        let row = shown.lines().find_map(|line| line.strip_prefix("  records   "));
        row.unwrap_or_default().replace("imgforge.promotions:", "")
    };
    let told = |number: usize| format!("{number}, {} to {}", made[0], made[number - 1]);
    assert_eq!(gone(&["--keep-promotions", "103"]), told(2));
    assert_eq!(gone(&[]), told(5));
    assert_eq!(promotions(&family).len(), 105, "it was only shown");
    assert_eq!(gone(&["--yes"]), told(5));
    let left = promotions(&family);
    assert_eq!((left.len(), &left[..99]), (100, &made[5..]));
    assert_eq!(gone(&["--yes"]), "");
    let tags = run(client(host).tags(&place)).unwrap();
    assert_eq!(tags.len(), 101, "another workspace's is its own");
}
