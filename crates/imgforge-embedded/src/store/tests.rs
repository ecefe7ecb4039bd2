use std::io::Write;
use std::os::unix::fs::MetadataExt;

use imgforge_oci::{ImageConfig, chain_id};

use super::*;
use crate::worker::message::Compression;

pub(super) struct Place(
    #[expect(dead_code, reason = "keeps the folder")] tempfile::TempDir,
    pub(super) Utf8PathBuf,
);

pub(super) fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::try_from(folder.path().join("store")).unwrap();
    Place(folder, path)
}

/// A store's folder, with a key that all tests have.
pub(super) fn state(dir: &Utf8Path) -> StateDir {
    StateDir::at(dir).with_key(Key::of(&[7; 32]))
}

pub(super) fn open(dir: &Utf8Path) -> Store {
    Store::open(&state(dir)).unwrap()
}

/// An image with a layer of one file for each text, its steps remembered.
pub(super) fn layered(store: &Store, texts: &[&str], compression: Compression) -> ImageRecord {
    let mut config = ImageConfig::scratch("linux/amd64");
    let mut layers = Vec::new();
    let mut below: Option<Digest> = None;
    for text in texts {
        let scratch = store.scratch().unwrap();
        let (folder, blob) = (scratch.path().join("fs"), scratch.path().join("blob"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("file"), text).unwrap();
        let clamp = crate::layer::Clamp { since: 0, epoch: 0 };
        let layer = crate::layer::pack(&folder, &[], clamp, compression, &blob).unwrap().unwrap();
        let chain = chain_id(below.as_ref(), &layer.diff_id);
        store.adopt(&blob, &folder, &layer, &chain).unwrap();
        let key = Digest::sha256(format!("{chain} {text}").as_bytes()).hex().to_owned();
        store.put_step(&key, &Remembered { chain: Some(chain.clone()), layer: Some(layer.clone()) }).unwrap();
        config.rootfs.diff_ids.push(layer.diff_id.clone());
        layers.push(layer);
        below = Some(chain);
    }
    store.put_image(&config, &layers, "c").unwrap()
}

/// Panics when an image lacks something or has something wrong.
pub(super) fn check(store: &Store, record: &ImageRecord) {
    store.config(record).unwrap();
    let manifest = store.blob(&record.manifest).unwrap();
    let manifest = oci_spec::image::ImageManifest::from_file(manifest).unwrap();
    assert_eq!(manifest.config().digest().as_ref(), record.id.as_str());
    assert_eq!(manifest.layers().len(), record.layers.len());
    let mut below: Option<Digest> = None;
    for (layer, descriptor) in record.layers.iter().zip(manifest.layers()) {
        assert_eq!((descriptor.digest().as_ref(), descriptor.size()), (layer.digest.as_str(), layer.size));
        let measured = crate::layer::measure(&store.blob(&layer.digest).unwrap()).unwrap();
        assert_eq!(measured, (layer.diff_id.clone(), layer.unpacked_size));
        below = Some(chain_id(below.as_ref(), &layer.diff_id));
    }
}

fn image(store: &Store, label: &str) -> ImageRecord {
    let mut config = ImageConfig::scratch("linux/amd64");
    config.config.labels = Some([("l".to_owned(), label.to_owned())].into());
    store.put_image(&config, &[], "c").unwrap()
}

#[test]
fn images_and_names_are_seen_by_other_processes_at_once() {
    let place = place();
    let (one, other) = (open(&place.1), open(&place.1));
    let a = image(&one, "a");
    let b = image(&other, "b");
    one.tag(&a.id, "x/app").unwrap();
    other.tag(&b.id, "x/app:v1").unwrap();
    other.tag(&a.id, "localhost:5000/app").unwrap();
    assert_eq!(other.find("x/app:latest").unwrap().unwrap().id, a.id);
    assert_eq!(one.find("x/app:v1").unwrap().unwrap().id, b.id);
    assert_eq!(one.find(&b.id.hex()[..13]).unwrap().unwrap().id, b.id);
    assert_eq!(one.find("x/other").unwrap(), None);
    let names: Vec<Vec<String>> =
        one.list().unwrap().into_iter().filter(|r| r.id == a.id).map(|r| r.names).collect();
    assert_eq!(names, [["localhost:5000/app:latest", "x/app:latest"]]);
    one.untag("x/app").unwrap();
    assert_eq!(other.find(a.id.as_str()).unwrap().map(|record| record.id), Some(a.id.clone()));
    one.untag("localhost:5000/app:latest").unwrap();
    assert_eq!(other.find(a.id.as_str()).unwrap(), None);
    drop((one, other));
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(place.1.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    let index = oci_spec::image::ImageIndex::from_file(place.1.join("index.json")).unwrap();
    assert_eq!(index.manifests()[0].digest().as_ref(), b.manifest.as_str());
    oci_spec::image::ImageManifest::from_file(place.1.join("blobs/sha256").join(b.manifest.hex())).unwrap();
    oci_spec::image::ImageConfiguration::from_file(place.1.join("blobs/sha256").join(b.id.hex())).unwrap();
}

/// Digests of images that were kept before are to stay: a manifest in a layout has its members in the order of their
/// names.
#[test]
fn what_is_kept_has_the_same_bytes_as_ever() {
    let place = place();
    let store = open(&place.1);
    let digest = store.put_blob(b"layer").unwrap();
    let layer = Layer {
        diff_id: digest.clone(),
        digest: digest.clone(),
        size: 5,
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
        unpacked_size: 5,
    };
    let mut config = ImageConfig::scratch("linux/amd64");
    config.config.labels = Some([("l".to_owned(), "v".to_owned())].into());
    config.rootfs.diff_ids.push(digest.clone());
    let record = store.put_image(&config, std::slice::from_ref(&layer), "c").unwrap();
    store.tag(&record.id, "x/app").unwrap();
    store.write_index().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    assert_eq!(
        text(store.read_blob(&record.id).unwrap()),
        "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"Labels\":{\"l\":\"v\"}},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:dac1d7cfa95021764849fd102524e141488c5e3a90f861dbb5a12d9ac8584f85\"]}}"
    );
    assert_eq!(
        text(store.read_blob(&record.manifest).unwrap()),
        "{\"config\":{\"digest\":\"sha256:b927b94efb61b3e9da6de4f6ba5fc4664845209faf811bcfff7a3592cf2c812c\",\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"size\":181},\"layers\":[{\"digest\":\"sha256:dac1d7cfa95021764849fd102524e141488c5e3a90f861dbb5a12d9ac8584f85\",\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\"size\":5}],\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"schemaVersion\":2}"
    );
    assert_eq!(
        text(fs::read(place.1.join("index.json")).unwrap()),
        "{\"manifests\":[{\"annotations\":{\"org.opencontainers.image.ref.name\":\"x/app:latest\"},\"digest\":\"sha256:bdce3de2dadfaed63a7e5f014eb91137c119f4acb678724fdcf5a9d4b3400025\",\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"size\":399}],\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"schemaVersion\":2}"
    );
    let (record, layer) = (serde_json::to_value(&record).unwrap(), serde_json::to_string(&layer).unwrap());
    assert_eq!(
        layer,
        format!(
            "{{\"diff_id\":\"{digest}\",\"digest\":\"{digest}\",\"size\":5,\"media_type\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\"unpacked_size\":5}}"
        )
    );
    assert_eq!(record["id"], "sha256:b927b94efb61b3e9da6de4f6ba5fc4664845209faf811bcfff7a3592cf2c812c");
    assert_eq!(record["manifest"], "sha256:bdce3de2dadfaed63a7e5f014eb91137c119f4acb678724fdcf5a9d4b3400025");
    assert_eq!(record["media_type"], "application/vnd.oci.image.manifest.v1+json");
}

#[test]
fn a_line_that_was_begun_counts_for_nothing_and_is_written_over() {
    let place = place();
    let store = open(&place.1);
    let a = image(&store, "a");
    let journal = place.1.join("journal");
    let mut file = fs::OpenOptions::new().append(true).open(&journal).unwrap();
    file.write_all(b"{\"name\":{\"reference\":\"x:1\",\"id\":").unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
    store.tag(&a.id, "y:1").unwrap();
    let again = open(&place.1);
    assert_eq!(again.find("y:1").unwrap().unwrap().id, a.id);
    assert_eq!(fs::read_to_string(&journal).unwrap().lines().count(), 2);
}

#[test]
fn a_journal_that_has_grown_is_written_anew_under_the_eyes_of_others() {
    let place = place();
    let (one, other) = (open(&place.1), open(&place.1));
    let (a, b) = (image(&one, "a"), image(&one, "b"));
    for n in 0..4100 {
        let id = if n % 2 == 0 { &a.id } else { &b.id };
        one.tag(id, "x:1").unwrap();
    }
    assert!(fs::read_to_string(place.1.join("journal")).unwrap().lines().count() < 200);
    assert_eq!(other.find("x:1").unwrap().unwrap().id, b.id);
    other.tag(&a.id, "x:1").unwrap();
    assert_eq!(one.find("x:1").unwrap().unwrap().id, a.id);
}

#[test]
fn a_new_journal_under_the_inode_of_an_older_one_is_read_from_its_beginning() {
    let (place, elsewhere) = (place(), place());
    let (store, other) = (open(&place.1), open(&elsewhere.1));
    let (a, b) = (image(&store, "a"), image(&other, "b"));
    store.tag(&a.id, "x:1").unwrap();
    other.tag(&b.id, "x:1").unwrap();
    let journal = place.1.join("journal");
    let read = journal.metadata().unwrap().ino();
    // Written anew twice, so that the number is free the second time. Many file systems give it out at once; under
    // one that never does, the new journal has a number of its own.
    let made = |number: usize| {
        let new = place.1.join(format!("new-{number}"));
        fs::copy(elsewhere.1.join("journal"), &new).unwrap();
        new
    };
    fs::rename(made(0), &journal).unwrap();
    let new = (1..1000).map(made).find(|new| new.metadata().unwrap().ino() == read);
    fs::rename(new.unwrap_or_else(|| made(1000)), &journal).unwrap();
    assert_eq!(store.find("x:1").unwrap().map(|found| found.id), Some(b.id));
    assert_eq!(store.find(a.id.as_str()).unwrap(), None);
}

#[test]
fn a_damaged_blob_is_found_and_removed() {
    let place = place();
    let store = open(&place.1);
    let digest = store.put_blob(b"content").unwrap();
    drop(store);
    let store = open(&place.1);
    fs::write(place.1.join("blobs/sha256").join(digest.hex()), b"contend").unwrap();
    assert!(matches!(store.read_blob(&digest), Err(StoreError::Corrupt { .. })));
    assert!(matches!(store.read_blob(&digest), Err(StoreError::Missing { .. })));
    let long = format!("sha512:{0}{0}", digest.hex()).parse().unwrap();
    assert!(matches!(store.blob(&long), Err(StoreError::Digest { .. })));
}

#[test]
fn what_a_process_that_is_gone_has_left_is_removed_and_nothing_else() {
    let place = place();
    let store = open(&place.1);
    let scratch = store.scratch().unwrap();
    fs::write(scratch.path().join("part"), "x").unwrap();
    let dead = place.1.join("tmp/1-dead");
    fs::create_dir_all(dead.join("0/deep")).unwrap();
    fs::write(dead.join("lock"), "").unwrap();
    let other = open(&place.1);
    assert!(!dead.exists() && scratch.path().join("part").exists());
    let path = scratch.path().to_owned();
    drop((scratch, other));
    assert!(!path.exists());
}

#[test]
fn layers_and_steps_are_kept_and_a_layer_without_its_blob_is_none() {
    let place = place();
    let store = open(&place.1);
    let digest = store.put_blob(b"layer").unwrap();
    let layer = Layer {
        diff_id: digest.clone(),
        digest: digest.clone(),
        size: 5,
        media_type: "application/vnd.oci.image.layer.v1.tar".into(),
        unpacked_size: 5,
    };
    let chain = chain_id(Some(&digest), &digest);
    for _ in 0..2 {
        let scratch = store.scratch().unwrap();
        let folder = scratch.path().join("layer");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("file"), "x").unwrap();
        store.adopt_folder(&folder, &layer, &chain).unwrap();
    }
    assert_eq!(store.layer(&chain).unwrap(), Some(layer.clone()));
    assert!(store.folder(&chain).unwrap().join("file").exists());
    let remembered = Remembered { chain: Some(chain.clone()), layer: Some(layer.clone()) };
    store.put_step("ab", &remembered).unwrap();
    assert_eq!(store.step("ab").unwrap(), Some(remembered));
    fs::write(place.1.join("steps/ab"), "{").unwrap();
    assert_eq!(store.step("ab").unwrap(), None);
    fs::remove_file(place.1.join("blobs/sha256").join(digest.hex())).unwrap();
    assert_eq!(store.layer(&chain).unwrap(), None);
}

#[test]
fn a_store_of_another_form_is_refused() {
    let place = place();
    drop(open(&place.1));
    fs::write(place.1.join("format"), "2\n").unwrap();
    assert!(matches!(Store::open(&state(&place.1)), Err(StoreError::Format { .. })));
}

#[test]
fn times_are_written_as_rfc_3339() {
    assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
}

#[test]
fn files_that_were_not_flushed_are_unpacked_again_in_another_boot() {
    let place = place();
    let store = open(&place.1);
    let record = layered(&store, &["a", "b"], Compression::Gzip);
    let chains = [
        record.layers[0].diff_id.clone(),
        chain_id(Some(&record.layers[0].diff_id), &record.layers[1].diff_id),
    ];
    assert!(chains.iter().all(|chain| store.folder(chain).is_some()));
    // As if the machine had started anew: nothing can be trusted, and what is adopted takes its place.
    for chain in &chains {
        fs::write(store.layer_path(chain).unwrap().join("boot"), "another\n").unwrap();
    }
    assert_eq!(store.folder(&chains[0]), None);
    let scratch = store.scratch().unwrap();
    let folder = scratch.path().join("again");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("whole"), "x").unwrap();
    store.adopt_folder(&folder, &record.layers[0], &chains[0]).unwrap();
    assert!(store.folder(&chains[0]).unwrap().join("whole").exists());
    // One that another process has unpacked is put on the disk with it; what was not trusted before is not afterwards.
    let other = layered(&open(&place.1), &["other"], Compression::Gzip);
    store.flush().unwrap();
    let boot = |chain: &Digest| store.layer_path(chain).unwrap().join("boot");
    assert!(!boot(&chains[0]).exists() && !boot(&other.layers[0].diff_id).exists());
    assert!(store.folder(&chains[0]).is_some());
    assert_eq!((boot(&chains[1]).exists(), store.folder(&chains[1])), (true, None));
    // What cannot be read is as if it were of another boot.
    fs::write(store.layer_path(&chains[0]).unwrap().join("boot"), "").unwrap();
    assert_eq!(store.folder(&chains[0]), None);
}

/// A store with one of everything: the image, and the chain and the step of its layer.
fn furnished(dir: &Utf8Path) -> (ImageRecord, Digest, String) {
    let store = open(dir);
    let record = layered(&store, &["a"], Compression::Gzip);
    store.tag(&record.id, "x:1").unwrap();
    let cache = store.cache("pip").unwrap();
    fs::create_dir(&cache).unwrap();
    fs::write(cache.join("wheel"), "built").unwrap();
    let chain = record.layers[0].diff_id.clone();
    let step = fs::read_dir(dir.join("steps")).unwrap().next().unwrap().unwrap().file_name();
    (record, chain, step.into_string().unwrap())
}

#[test]
fn a_store_that_another_user_has_filled_gives_blobs_and_no_claims() {
    let place = place();
    let (record, chain, step) = furnished(&place.1);
    let store = Store::open(&state(&place.1).with_key(Key::of(&[8; 32]))).unwrap();
    assert_eq!(store.list().unwrap(), []);
    assert_eq!((store.find("x:1").unwrap(), store.find(record.id.as_str()).unwrap()), (None, None));
    assert_eq!((store.step(&step).unwrap(), store.layer(&chain).unwrap()), (None, None));
    assert_eq!(store.folder(&chain), None);
    assert!(!store.cache("pip").unwrap().exists(), "what a cache has would be in what is built");
    assert_eq!(store.read_blob(&record.layers[0].digest).unwrap().len() as u64, record.layers[0].size);
    // It can be built anew there.
    let again = layered(&store, &["a"], Compression::Gzip);
    assert_eq!((again.id, store.folder(&chain).is_some()), (record.id, true));
    assert!(store.step(&step).unwrap().is_some());
}

#[test]
fn a_copy_of_a_store_says_what_is_known_by_digest_and_its_other_files_do_not_count() {
    let place = place();
    let (record, chain, step) = furnished(&place.1);
    let copy = place.1.with_file_name("copy");
    let copied = std::process::Command::new("cp").args(["-a", place.1.as_str(), copy.as_str()]).status();
    assert!(copied.unwrap().success());
    let store = open(&copy);
    check(&store, &record);
    assert_eq!(store.find("x:1").unwrap().map(|found| found.id), Some(record.id));
    assert!(store.step(&step).unwrap().is_some());
    assert_eq!((store.folder(&chain), store.layer(&chain).unwrap()), (None, None));
    assert!(!store.cache("pip").unwrap().exists());
    assert!(open(&place.1).cache("pip").unwrap().join("wheel").exists(), "the store itself keeps it");
    let moved = place.1.with_file_name("moved");
    fs::rename(&place.1, &moved).unwrap();
    assert!(open(&moved).folder(&chain).is_some(), "and may be moved");
}

#[test]
fn lines_and_steps_are_believed_only_as_they_were_sealed() {
    let place = place();
    let (record, _, step) = furnished(&place.1);
    let journal = fs::read_to_string(place.1.join("journal")).unwrap();
    let planted = journal.replace("x:1", "y:1") + &journal.replace(|c: char| c.is_ascii_digit(), "0");
    fs::write(
        place.1.join("journal"),
        format!("{planted}{{\"unname\":{{\"reference\":\"x:1\"}}}}\n{journal}"),
    )
    .unwrap();
    fs::copy(place.1.join("steps").join(&step), place.1.join("steps/another")).unwrap();
    let store = open(&place.1);
    assert_eq!(store.list().unwrap()[0].names, ["x:1"]);
    assert_eq!(store.list().unwrap()[0].id, record.id);
    assert_eq!(store.step("another").unwrap(), None, "a step is not another step");
    assert!(store.step(&step).unwrap().is_some());
}

#[test]
fn what_lies_under_a_digest_is_not_taken_for_it_when_the_bytes_are_known() {
    let place = place();
    let digest = Digest::sha256(b"configuration");
    open(&place.1);
    fs::write(place.1.join("blobs/sha256").join(digest.hex()), b"planted").unwrap();
    let store = open(&place.1);
    assert_eq!(store.put_blob(b"configuration").unwrap(), digest);
    assert_eq!(store.read_blob(&digest).unwrap(), b"configuration");
}

#[test]
fn no_link_in_a_store_is_followed() {
    for name in FOLDERS.into_iter().chain(["", "blobs", "lock", "journal", "format", "oci-layout"]) {
        let place = place();
        let outside = place.1.with_file_name("outside");
        fs::create_dir_all(outside.join("deep")).unwrap();
        fs::write(outside.join("file"), "kept").unwrap();
        let link = place.1.join(name);
        let link = Utf8Path::new(link.as_str().trim_end_matches('/'));
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        let is_file = ["lock", "journal", "format", "oci-layout"].contains(&name);
        let target = if is_file { outside.join("file") } else { outside.clone() };
        std::os::unix::fs::symlink(target, link).unwrap();
        let opened = Store::open(&state(&place.1));
        match opened {
            // What is replaced as a whole is the link.
            Ok(_) => assert_eq!(name, "oci-layout"),
            Err(error) => assert!(error.to_string().contains(&format!("rm -r {link}")), "{name}: {error}"),
        }
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "kept", "{name}");
        assert_eq!(outside.read_dir_utf8().unwrap().count(), 2, "{name}");
    }
    // One that lies where a process would have its folder goes, and what it leads to stays.
    let place = place();
    drop(open(&place.1));
    let outside = place.1.with_file_name("outside");
    fs::create_dir_all(outside.join("deep")).unwrap();
    std::os::unix::fs::symlink(&outside, place.1.join("tmp/1-dead")).unwrap();
    std::os::unix::fs::symlink(&outside, place.1.join("volumes/data")).unwrap();
    let store = open(&place.1);
    assert!(!place.1.join("tmp/1-dead").exists() && outside.join("deep").exists());
    assert!(matches!(store.volume("data"), Err(StoreError::State(StateError::Link { .. }))));
}

#[test]
fn a_store_is_open_to_its_user_alone_and_an_older_one_is_closed() {
    use std::os::unix::fs::PermissionsExt;
    let place = place();
    let mode = || fs::metadata(&place.1).unwrap().permissions().mode() & 0o777;
    drop(open(&place.1));
    assert_eq!(mode(), 0o700);
    fs::set_permissions(&place.1, PermissionsExt::from_mode(0o755)).unwrap();
    drop(open(&place.1));
    assert_eq!(mode(), 0o700);
}
