//! Tests with several processes, which are killed, and with a disk that is full. A child process is this test program
//! again, told by an environment variable what to do.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use camino::Utf8Path;

use super::tests::{check, layered, open, place};
use super::*;
use crate::worker::message::Compression;

const STORE: &str = "IMGFORGE_TEST_STORE";
const NAME: &str = "IMGFORGE_TEST_NAME";
const ROUNDS: &str = "IMGFORGE_TEST_ROUNDS";

/// Starts this test as a child.
fn child(store: &Utf8Path, name: &str, rounds: usize) -> Child {
    let this = std::thread::current().name().unwrap().to_owned();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &this, "--nocapture", "--test-threads=1"]);
    command.env(STORE, store).env(NAME, name).env(ROUNDS, rounds.to_string());
    command.stdout(Stdio::piped()).spawn().unwrap()
}

/// What a child does: builds images, says so, takes names away again, prunes. False in the parent.
fn is_child() -> bool {
    let (Ok(dir), Ok(name), Ok(rounds)) = (std::env::var(STORE), std::env::var(NAME), std::env::var(ROUNDS))
    else {
        return false;
    };
    let store = open(Utf8Path::new(&dir));
    for round in 0..rounds.parse().unwrap() {
        let text = format!("{name} {round} {}", "x".repeat(round * 100));
        let record = layered(&store, &["shared", &text], Compression::Gzip);
        store.tag(&record.id, &format!("{name}:{round}")).unwrap();
        println!("\nmade {name}:{round} {}", record.id);
        if name == "killed" && round % 5 == 4 {
            store.untag(&format!("{name}:{}", round - 3)).unwrap();
            store.write_index().unwrap();
            store.prune(|| Ok(BTreeSet::new()), SystemTime::now() + Duration::from_secs(60)).unwrap();
        }
    }
    true
}

/// Everything that a store names is there and right.
fn check_all(dir: &Utf8Path) -> Store {
    let store = open(dir);
    for record in store.list().unwrap() {
        check(&store, &record);
    }
    let index = oci_spec::image::ImageIndex::from_file(dir.join("index.json")).unwrap();
    for descriptor in index.manifests() {
        let digest = descriptor.digest().as_ref().parse().unwrap();
        assert_eq!(store.read_blob(&digest).unwrap().len() as u64, descriptor.size());
    }
    oci_spec::image::OciLayout::from_file(dir.join("oci-layout")).unwrap();
    assert_eq!(dir.join("tmp").read_dir_utf8().unwrap().count(), 1);
    store
}

#[test]
fn a_process_that_is_killed_at_any_moment_leaves_the_store_whole() {
    if is_child() {
        return;
    }
    let place = place();
    drop(open(&place.1));
    for round in 0..30 {
        let mut child = child(&place.1, "killed", 1000);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut lines = lines.filter(|line| line.starts_with("made "));
        // Some are killed while they begin, the others at work.
        let mut said: Vec<String> =
            if round % 3 == 0 { Vec::new() } else { lines.by_ref().take(1 + round / 5).collect() };
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..30)));
        child.kill().unwrap();
        child.wait().unwrap();
        said.extend(lines);
        assert!(round % 3 == 0 || !said.is_empty());
        let store = check_all(&place.1);
        if let Some(line) = said.last() {
            let mut words = line.split(' ').skip(1);
            let (name, id) = (words.next().unwrap(), words.next().unwrap());
            assert_eq!(
                store.find(name).unwrap().unwrap().id.as_str(),
                id,
                "what was said to be there is not"
            );
        }
    }
}

#[test]
fn two_processes_at_once_do_not_lose_what_the_other_has_done() {
    if is_child() {
        return;
    }
    let place = place();
    let children = ["one", "two"].map(|name| child(&place.1, name, 25));
    for child in children {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    let store = check_all(&place.1);
    for name in ["one", "two"] {
        for round in 0..25 {
            assert!(store.find(&format!("{name}:{round}")).unwrap().is_some(), "{name}:{round}");
        }
    }
    let index = oci_spec::image::ImageIndex::from_file(place.1.join("index.json")).unwrap();
    assert_eq!(index.manifests().len(), 50);
}

#[test]
fn a_full_disk_is_told_and_leaves_the_store_whole() {
    imgforge_testkit::needs::root("a small disk");
    let place = place();
    fs::create_dir(&place.1).unwrap();
    std::thread::scope(|scope| {
        let work = || {
            use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
            mount("tmpfs", place.1.as_std_path(), "tmpfs", MountFlags::empty(), Some(c"size=512k")).unwrap();
            let store = open(&place.1);
            let record = layered(&store, &["a"], Compression::Gzip);
            store.tag(&record.id, "x:1").unwrap();
            let mut random = fastrand::Rng::with_seed(7);
            // In large pieces, and then to the last page.
            for size in [50_000, 1000] {
                let error = (0..).find_map(|_| {
                    let noise: Vec<u8> = (0..size).map(|_| random.u8(..)).collect();
                    store.put_blob(&noise).err()
                });
                assert!(error.unwrap().is_disk_full());
            }
            drop(store);
            let store = check_all(&place.1);
            assert_eq!(store.find("x:1").unwrap().unwrap().id, record.id);
            let pruned =
                store.prune(|| Ok(BTreeSet::new()), SystemTime::now() + Duration::from_secs(60)).unwrap();
            assert!(pruned.removed.blobs.len() > 5);
            store.put_blob(&vec![7; 50_000]).unwrap();
        };
        scope.spawn(work).join().unwrap();
    });
}
