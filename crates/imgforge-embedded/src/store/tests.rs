use std::io::Write;

use imgforge_core::image_config::ImageConfig;

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

/// An image with a layer of one file for each text, its steps remembered.
pub(super) fn layered(store: &Store, texts: &[&str], compression: Compression) -> ImageRecord {
    let mut config = ImageConfig::scratch("linux/amd64");
    let mut layers = Vec::new();
    let mut below: Option<String> = None;
    for text in texts {
        let scratch = store.scratch().unwrap();
        let (folder, blob) = (scratch.path().join("fs"), scratch.path().join("blob"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("file"), text).unwrap();
        let clamp = crate::layer::Clamp { since: 0, epoch: 0 };
        let layer = crate::layer::pack(&folder, &[], clamp, compression, &blob).unwrap().unwrap();
        let chain = chain_id(below.as_deref(), &layer.diff_id);
        store.adopt(&blob, &folder, &layer, &chain).unwrap();
        let key = hex::encode(Sha256::digest(format!("{chain} {text}")));
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
    assert_eq!(manifest.config().digest().to_string(), record.id);
    assert_eq!(manifest.layers().len(), record.layers.len());
    let mut below: Option<String> = None;
    for (layer, descriptor) in record.layers.iter().zip(manifest.layers()) {
        assert_eq!((descriptor.digest().to_string(), descriptor.size()), (layer.digest.clone(), layer.size));
        let measured = crate::layer::measure(&store.blob(&layer.digest).unwrap()).unwrap();
        assert_eq!(measured, (layer.diff_id.clone(), layer.unpacked_size));
        below = Some(chain_id(below.as_deref(), &layer.diff_id));
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
    let (one, other) = (Store::open(&place.1).unwrap(), Store::open(&place.1).unwrap());
    let a = image(&one, "a");
    let b = image(&other, "b");
    one.tag(&a.id, "x/app").unwrap();
    other.tag(&b.id, "x/app:v1").unwrap();
    other.tag(&a.id, "localhost:5000/app").unwrap();
    assert_eq!(other.find("x/app:latest").unwrap().unwrap().id, a.id);
    assert_eq!(one.find("x/app:v1").unwrap().unwrap().id, b.id);
    assert_eq!(one.find(&b.id[7..20]).unwrap().unwrap().id, b.id);
    assert_eq!(one.find("x/other").unwrap(), None);
    let names: Vec<Vec<String>> =
        one.list().unwrap().into_iter().filter(|r| r.id == a.id).map(|r| r.names).collect();
    assert_eq!(names, [["localhost:5000/app:latest", "x/app:latest"]]);
    one.untag("x/app").unwrap();
    assert_eq!(other.find(&a.id).unwrap().map(|record| record.id), Some(a.id.clone()));
    one.untag("localhost:5000/app:latest").unwrap();
    assert_eq!(other.find(&a.id).unwrap(), None);
    drop((one, other));
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(place.1.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    let index = oci_spec::image::ImageIndex::from_file(place.1.join("index.json")).unwrap();
    assert_eq!(index.manifests()[0].digest().to_string(), b.manifest);
    oci_spec::image::ImageManifest::from_file(place.1.join("blobs/sha256").join(&b.manifest[7..])).unwrap();
    oci_spec::image::ImageConfiguration::from_file(place.1.join("blobs/sha256").join(&b.id[7..])).unwrap();
}

#[test]
fn a_line_that_was_begun_counts_for_nothing_and_is_written_over() {
    let place = place();
    let store = Store::open(&place.1).unwrap();
    let a = image(&store, "a");
    let journal = place.1.join("journal");
    let mut file = fs::OpenOptions::new().append(true).open(&journal).unwrap();
    file.write_all(b"{\"name\":{\"reference\":\"x:1\",\"id\":").unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
    store.tag(&a.id, "y:1").unwrap();
    let again = Store::open(&place.1).unwrap();
    assert_eq!(again.find("y:1").unwrap().unwrap().id, a.id);
    assert_eq!(fs::read_to_string(&journal).unwrap().lines().count(), 2);
}

#[test]
fn a_journal_that_has_grown_is_written_anew_under_the_eyes_of_others() {
    let place = place();
    let (one, other) = (Store::open(&place.1).unwrap(), Store::open(&place.1).unwrap());
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
fn a_damaged_blob_is_found_and_removed() {
    let place = place();
    let store = Store::open(&place.1).unwrap();
    let digest = store.put_blob(b"content").unwrap();
    drop(store);
    let store = Store::open(&place.1).unwrap();
    fs::write(place.1.join("blobs/sha256").join(&digest[7..]), b"contend").unwrap();
    assert!(matches!(store.read_blob(&digest), Err(StoreError::Corrupt { .. })));
    assert!(matches!(store.read_blob(&digest), Err(StoreError::Missing { .. })));
    for wrong in ["sha256:../../etc/passwd", "md5:00", ""] {
        assert!(matches!(store.blob(wrong), Err(StoreError::Digest { .. })), "{wrong}");
    }
}

#[test]
fn what_a_process_that_is_gone_has_left_is_removed_and_nothing_else() {
    let place = place();
    let store = Store::open(&place.1).unwrap();
    let scratch = store.scratch().unwrap();
    fs::write(scratch.path().join("part"), "x").unwrap();
    let dead = place.1.join("tmp/1-dead");
    fs::create_dir_all(dead.join("0/deep")).unwrap();
    fs::write(dead.join("lock"), "").unwrap();
    let other = Store::open(&place.1).unwrap();
    assert!(!dead.exists() && scratch.path().join("part").exists());
    let path = scratch.path().to_owned();
    drop((scratch, other));
    assert!(!path.exists());
}

#[test]
fn layers_and_steps_are_kept_and_a_layer_without_its_blob_is_none() {
    let place = place();
    let store = Store::open(&place.1).unwrap();
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
    fs::remove_file(place.1.join("blobs/sha256").join(&digest[7..])).unwrap();
    assert_eq!(store.layer(&chain).unwrap(), None);
}

#[test]
fn a_store_of_another_form_is_refused() {
    let place = place();
    drop(Store::open(&place.1).unwrap());
    fs::write(place.1.join("format"), "2\n").unwrap();
    assert!(matches!(Store::open(&place.1), Err(StoreError::Format { .. })));
}

#[test]
fn chain_ids_are_those_of_the_specification() {
    let a = format!("sha256:{}", "a".repeat(64));
    assert_eq!(chain_id(None, &a), a);
    let expected = hex::encode(Sha256::digest(format!("{a} {a}")));
    assert_eq!(chain_id(Some(&a), &a), format!("sha256:{expected}"));
    assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
}

#[test]
fn files_that_were_not_flushed_are_unpacked_again_in_another_boot() {
    let place = place();
    let store = Store::open(&place.1).unwrap();
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
    let other = layered(&Store::open(&place.1).unwrap(), &["other"], Compression::Gzip);
    store.flush().unwrap();
    let boot = |chain: &str| store.layer_path(chain).unwrap().join("boot");
    assert!(!boot(&chains[0]).exists() && !boot(&other.layers[0].diff_id).exists());
    assert!(store.folder(&chains[0]).is_some());
    assert_eq!((boot(&chains[1]).exists(), store.folder(&chains[1])), (true, None));
    // What cannot be read is as if it were of another boot.
    fs::write(store.layer_path(&chains[0]).unwrap().join("boot"), "").unwrap();
    assert_eq!(store.folder(&chains[0]), None);
}
