//! Promotions that run into each other, what a prune takes for young, and an image that gets another name: with the
//! embedded engine, since no daemon has a part in it.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::Duration;

use imgforge_oci::{Descriptor, Manifest, TagOrDigest};
use imgforge_registry::{Credentials, Options, ProgressSink, PushImage};
use imgforge_testkit::fault_proxy::{Fault, FaultProxy};
use imgforge_testkit::registry::{Registry, Setup};
use imgforge_testkit::workspace::{Ran, TestWorkspace};
use serde_json::{Value, json};

use crate::building::wait_until;
use crate::{IMGFORGE, imgforge};

/// `base` -> `web` -> `leaf`, `beside`, none of which runs anything.
pub(crate) const IMAGES: [(&str, &str); 4] =
    [("base", "scratch"), ("web", "base"), ("leaf", "web"), ("beside", "web")];

pub(crate) fn registry() -> Registry {
    Registry::start(Setup { delete: true, ..Setup::default() }).expect("docker-registry starts")
}

pub(crate) fn embedded(workspace: &TestWorkspace, args: &[&str]) -> Ran {
    imgforge(workspace, &[args, &["--engine", "embedded"]].concat())
}

/// The family at one commit: a checkout of its own, with files that say `content`.
pub(crate) fn checkout(host: &str, name: &str, content: &str) -> TestWorkspace {
    let checkout = TestWorkspace::at(host);
    checkout.write("imgforge.kdl", &format!("workspace \"{name}\" {{\n    registry \"{host}/{name}\"\n}}\n"));
    for (image, from) in IMAGES {
        checkout.write(&format!("{image}/file"), content);
        checkout.image(image, &format!("    from \"{from}\"\n    copy \"file\" \"/{image}\""));
    }
    checkout
}

fn start(workspace: &TestWorkspace, args: &[&str]) -> Child {
    let mut command = workspace.command(IMGFORGE, args);
    command.args(["--engine", "embedded"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

pub(crate) fn client(host: &str) -> imgforge_registry::Registry {
    imgforge_registry::Registry::new(Options::new(host, Credentials::anonymous())).unwrap()
}

pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    imgforge::runtime().unwrap().block_on(work)
}

/// The fingerprint that each image's `latest` leads to.
pub(crate) fn released(host: &str, name: &str) -> BTreeMap<String, String> {
    let client = client(host);
    let latest = TagOrDigest::tag("latest").unwrap();
    let of = |image: &str| {
        let manifest = run(client.manifest(&format!("{name}/{image}"), &latest)).unwrap()?;
        Some((image.to_owned(), manifest.annotations()["imgforge.fingerprint"].clone()))
    };
    IMAGES.iter().filter_map(|(image, _)| of(image)).collect()
}

pub(crate) fn fingerprints(workspace: &TestWorkspace) -> BTreeMap<String, String> {
    let plan = embedded(workspace, &["plan", "--local", "--format", "json"]).ok().json();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    plan["targets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (text(row, "name"), text(row, "fingerprint")))
        .collect()
}

#[test]
fn of_two_promotions_at_once_one_wins_whole_and_the_other_says_so() {
    let server = registry();
    let delays = [1, 5, 20].map(|millis| Fault::Delay(Duration::from_millis(millis))).to_vec();
    let proxies = [1, 2].map(|seed| {
        let proxy = FaultProxy::start(server.host()).unwrap();
        proxy.fail_at_random(seed, 0.5, delays.clone());
        proxy
    });
    let name = imgforge_testkit::unique("imgforge-test");
    let commits = ["one", "two"]
        .map(|content| checkout(&proxies[usize::from(content == "two")].host(), &name, content));
    let wanted = commits.each_ref().map(|commit| {
        embedded(commit, &["build", "--push"]).ok();
        fingerprints(commit)
    });
    // From which both have something to move.
    let before = checkout(server.host(), &name, "before");
    embedded(&before, &["build", "--push"]).ok();
    let mut overtaken = 0;
    for round in 0..10 {
        embedded(&before, &["promote"]).ok();
        let jobs = commits.each_ref().map(|commit| start(commit, &["promote"]));
        let ended = jobs.map(|job| Ran::of(job.wait_with_output().unwrap()));
        let now = released(server.host(), &name);
        let told = format!("round {round}: {ended:#?}");
        let winner =
            wanted.iter().position(|wanted| *wanted == now).unwrap_or_else(|| panic!("{told}: {now:?}"));
        assert_eq!(ended[winner].code, 0, "{told}");
        let other = &ended[1 - winner];
        assert!(matches!(other.code, 0 | 1), "{told}");
        if other.code == 1 {
            overtaken += 1;
            assert!(other.stderr.contains("another promotion ran at the same time and won"), "{told}");
            let (_, id) = other.stderr.split_once("rollback --to ").expect("what to do");
            let id = id.trim();
            // What lost can be promoted all the same.
            embedded(&commits[1 - winner], &["rollback", "--to", id]).ok();
            assert_eq!(released(server.host(), &name), wanted[1 - winner]);
        }
    }
    assert!(overtaken > 0, "two of them never ran into each other");
}

#[test]
fn a_promotion_that_is_late_ends_what_a_later_one_has_begun_also_when_that_was_killed() {
    let server = registry();
    let name = imgforge_testkit::unique("imgforge-test");
    let proxies = [1, 2].map(|_| FaultProxy::start(server.host()).unwrap());
    let [late, killed] = ["late", "killed"]
        .map(|content| checkout(&proxies[usize::from(content == "killed")].host(), &name, content));
    embedded(&late, &["build", "--push"]).ok();
    embedded(&killed, &["build", "--push"]).ok();
    // The first has its record, and waits long enough before its first tag.
    proxies[0].fail("PUT", "/base/manifests/latest", Fault::Delay(Duration::from_secs(4)), 1);
    let first = start(&late, &["promote"]);
    wait_until("it moves tags", || proxies[0].met() == 1);
    // The second keeps the base, which the first is about to move, and is killed before its own first tag.
    killed.write("web/file", "changed");
    let wanted = fingerprints(&killed);
    proxies[1].fail("PUT", "/web/manifests/latest", Fault::Stall(Duration::from_secs(60)), 1);
    let mut second = start(&killed, &["build", "--push"]);
    wait_until("it moves tags", || proxies[1].met() == 1);
    second.kill().unwrap();
    second.wait().unwrap();
    assert_ne!(released(server.host(), &name), wanted);

    let first = Ran::of(first.wait_with_output().unwrap());
    assert_eq!(first.code, 1, "{}", first.stderr);
    assert!(first.stderr.contains("all 4 tags lead where"), "{}", first.stderr);
    assert_eq!(released(server.host(), &name), wanted);
}

/// The blob with the text of a record: an artifact's file, or an image's configuration.
pub(crate) fn content(record: &Manifest) -> &Descriptor {
    record.layers().first().unwrap_or(record.config().unwrap())
}

/// The records of pushes: their tags, and what they say.
pub(crate) fn pushes(host: &str, name: &str) -> Vec<(TagOrDigest, Value)> {
    let (client, place) = (client(host), format!("{name}/imgforge.pushes"));
    let tags = run(client.tags(&place)).unwrap();
    let read = |tag: &String| {
        let tag = TagOrDigest::tag(tag).unwrap();
        let manifest = run(client.manifest(&place, &tag)).unwrap().unwrap();
        let text = run(client.blob(&place, content(&manifest), 1 << 20)).unwrap();
        (TagOrDigest::Digest(manifest.digest().clone()), serde_json::from_slice(&text).unwrap())
    };
    tags.iter().map(read).collect()
}

/// Has every push of the registry happened at another time; forgets it when none is given. The records that it writes
/// are images, as they were before there were artifacts.
pub(crate) fn set_times(host: &str, name: &str, time: Option<&str>) {
    let (client, place) = (client(host), format!("{name}/imgforge.pushes"));
    for (number, (reference, mut record)) in pushes(host, name).into_iter().enumerate() {
        let TagOrDigest::Digest(digest) = reference else { panic!("a digest") };
        run(client.delete_manifest(&place, &digest)).unwrap();
        let Some(time) = time else { continue };
        for image in record["images"].as_array_mut().unwrap() {
            image["time"] = json!(time);
        }
        let config = serde_json::to_vec(&record).unwrap();
        let image = PushImage { config, layers: Vec::new(), annotations: BTreeMap::new() };
        let pushed = run(client.push_image(&place, &image, ProgressSink::silent())).unwrap();
        let tag = TagOrDigest::tag(&format!("t-20200101T00000000{number}Z-0")).unwrap();
        run(client.put_manifest(&place, &tag, &pushed.manifest)).unwrap();
    }
}

#[test]
fn what_was_just_pushed_is_young_though_its_image_says_that_it_is_old() {
    let server = registry();
    let (host, name) = (server.host(), imgforge_testkit::unique("imgforge-test"));
    let cache = tempfile::tempdir().unwrap();
    let family = checkout(host, &name, "one");
    let prune = |args: &[&str]| {
        let args = [&["prune", "--registry", "--keep-promotions", "1", "--format", "json"], args].concat();
        let mut command = family.command(IMGFORGE, &[&args[..], &["--engine", "embedded"]].concat());
        Ran::of(command.env("IMGFORGE_CACHE", cache.path()).output().unwrap()).ok().json()
    };
    let gone = |shown: &Value| shown["manifests"].as_array().unwrap().len();
    embedded(&family, &["build", "--push"]).ok();
    family.write("web/file", "two");
    embedded(&family, &["build", "--push"]).ok();
    let young = prune(&[]);
    assert_eq!((gone(&young), &young["manifests_young"]), (0, &json!(3)), "{young}");

    // One of which nobody has kept when it came is young as well, until a prune has seen it a week ago.
    set_times(host, &name, None);
    let unknown = prune(&["--yes"]);
    assert_eq!((gone(&unknown), &unknown["manifests_young"]), (0, &json!(3)), "{unknown}");
    assert_eq!(pushes(host, &name).len(), 1, "it has written down that it saw them");
    set_times(host, &name, Some("2020-01-01T00:00:00Z"));
    let old = prune(&[]);
    assert_eq!((gone(&old), &old["manifests_young"]), (3, &json!(0)), "{old}");

    prune(&["--yes"]);
    assert_eq!(gone(&prune(&["--keep-days", "0"])), 0, "nothing is left that could go");
    assert_eq!(released(host, &name), fingerprints(&family));
}

#[test]
fn tests_that_have_passed_elsewhere_are_not_run_again_after_a_pull() {
    let server = registry();
    let name = imgforge_testkit::unique("imgforge-test");
    let here = |content: &str| {
        let family = checkout(server.host(), &name, content);
        let test = "test \"has its file\" { file \"/web\" contains=\"o\" }";
        family.image("web", &format!("    from \"base\"\n    copy \"file\" \"/web\"\n    {test}"));
        family
    };
    embedded(&here("one"), &["build", "--push"]).ok();
    let elsewhere = here("one");
    let pulled = embedded(&elsewhere, &["build", "web", "--pull"]).ok();
    assert!(pulled.stderr.contains("1 pulled"), "{}", pulled.stderr);
    let again = embedded(&elsewhere, &["build", "web"]).ok();
    assert!(again.stderr.contains("Fresh 1 image"), "{}", again.stderr);
    // Other tests than those have not.
    elsewhere.image("web", "    from \"base\"\n    copy \"file\" \"/web\"\n    test \"is a file\" { file \"/web\" type=\"file\" }");
    let other = embedded(&elsewhere, &["build", "web"]).ok();
    assert!(other.stderr.contains("Tested") || other.stderr.contains("1 test"), "{}", other.stderr);
}
