//! What two workspaces come to, as files beside this one: the example family, and a workspace that uses every node of a
//! manifest. What is not meant to change an image leaves these files as they are.
//!
//! Nothing is built, and neither a daemon nor the network is asked: packages and digests come from locks. Run with
//! `IMGFORGE_TEST_RECORD=1`, the tests write the files anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use camino::Utf8Path;
use imgforge::core::manifest::NODES;
use imgforge::core::name::ImageName;
use imgforge::engine::labels;
use imgforge::{OpenOptions, Session};
use imgforge_testkit::workspace::Ran;
use kdl::KdlDocument;
use serde_json::{Map, Value, json};

use crate::IMGFORGE;

/// Where the records lie.
fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/e2e/recorded")
}

/// The repository's own folder, which the example family lies in.
fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Copies files and folders, with the modes of a usual checkout whatever they are here.
fn copy(from: &Path, to: &Path) {
    let mode = if from.is_dir() { 0o755 } else { 0o644 };
    if from.is_dir() {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::write(to, fs::read(from).unwrap()).unwrap();
    }
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).unwrap();
}

/// A workspace in a folder of its own, outside of any git repository.
struct Place(tempfile::TempDir);

impl Place {
    fn of(from: &Path, parts: &[&str]) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        parts.iter().for_each(|part| copy(&from.join(part), &place.0.path().join(part)));
        place
    }

    fn every_node() -> Self {
        Self::of(&here().join("every-node"), &["imgforge.kdl", "imgforge.lock", "images", "templates"])
    }

    fn example() -> Self {
        Self::of(&top(), &["imgforge.kdl", "imgforge.lock", "images"])
    }

    fn session(&self) -> Session {
        let root = Utf8Path::from_path(self.0.path()).unwrap();
        Session::open(root, &OpenOptions { cache: false, ..OpenOptions::default() }).unwrap()
    }

    fn run(&self, args: &[&str]) -> Value {
        let mut command = Command::new(IMGFORGE);
        command.args(args).args(["--format", "json", "--engine", "embedded", "--quiet"]);
        command.current_dir(self.0.path()).env("NO_COLOR", "1").env("IMGFORGE_LOCAL", "1");
        Ran::of(command.output().unwrap()).ok().json()
    }

    /// The images, and what verbs print that ask no engine, or one that holds nothing.
    fn record(&self) -> Value {
        let session = self.session();
        let lock = session.read_lock().unwrap();
        session.check_lock(&lock).unwrap();
        let text = fs::read_to_string(self.0.path().join("imgforge.lock")).unwrap();
        assert_eq!(lock.to_kdl(), text, "the lock is written as it was read");
        let all = session.select(&[], &[]).unwrap();
        let prepared = session.prepare(&all, &lock, &[]).unwrap();
        let mut images = Map::new();
        for one in &prepared {
            let inputs = one.target.inputs.iter();
            let inputs: BTreeMap<String, &str> =
                inputs.map(|(kind, name, value)| (format!("{} {name}", kind.as_str()), value)).collect();
            let mut labels = session.labels(one);
            // Its text is that of the inputs, once more.
            let digits = blake3::hash(labels[labels::INPUTS].as_bytes()).to_hex()[..16].to_owned();
            labels.insert(labels::INPUTS.to_owned(), digits);
            images.insert(
                one.target.name.to_string(),
                json!({
                    "fingerprint": one.target.fingerprint,
                    "content tag": one.target.fingerprint.content_tag(),
                    "inputs": inputs,
                    "labels": labels,
                    "tags": one.target.release_references,
                    "stands on": references(&session, &one.target.name),
                }),
            );
        }
        json!({
            "images": images,
            "plan": self.run(&["plan"]),
            "list": self.run(&["list"]),
            "graph": self.run(&["graph"]),
        })
    }
}

/// The lines of the Dockerfile that an engine gets that name other images.
fn references(session: &Session, name: &ImageName) -> Vec<String> {
    let dockerfile = session.dockerfile(name).unwrap();
    let names =
        |line: &&str| line.starts_with("FROM ") || line.contains("--from=") || line.contains(",from=");
    dockerfile.lines().filter(names).map(str::to_owned).collect()
}

/// What is not as it was recorded, a line each: where, what was there, what is there.
fn differences(recorded: &Value, now: &Value, at: &str) -> Vec<String> {
    let below = |key: &str| if at.is_empty() { key.to_owned() } else { format!("{at} > {key}") };
    match (recorded, now) {
        (Value::Object(recorded), Value::Object(now)) => {
            let keys: BTreeSet<&String> = recorded.keys().chain(now.keys()).collect();
            let value = |of: &Map<String, Value>, key: &String| of.get(key).cloned().unwrap_or_default();
            let rows = |key| differences(&value(recorded, key), &value(now, key), &below(key));
            keys.into_iter().flat_map(rows).collect()
        }
        (Value::Array(recorded), Value::Array(now)) if recorded.len() == now.len() => {
            let rows = recorded.iter().zip(now).enumerate();
            rows.flat_map(|(n, (recorded, now))| differences(recorded, now, &below(&n.to_string()))).collect()
        }
        (recorded, now) if recorded == now => Vec::new(),
        (recorded, now) => vec![format!("{at}: recorded is {recorded}, now it is {now}")],
    }
}

/// Compares with a record, or writes it.
fn check(file: &str, now: &Value) {
    let path = here().join(file);
    if std::env::var_os("IMGFORGE_TEST_RECORD").is_some() {
        fs::write(&path, serde_json::to_string_pretty(now).unwrap() + "\n").unwrap();
        return;
    }
    let recorded: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let found = differences(&recorded, now, "");
    assert!(
        found.is_empty(),
        "not as it is recorded in {file} (if that is meant, write it anew with IMGFORGE_TEST_RECORD=1):\n{}",
        found.join("\n")
    );
}

#[test]
fn the_example_family_is_what_it_was() {
    check("example.json", &Place::example().record());
}

#[test]
fn a_workspace_that_uses_every_node_is_what_it_was() {
    let place = Place::every_node();
    let mut record = place.record();
    let session = place.session();
    let shown = session.workspace().images.keys().map(|name| place.run(&["show", name.as_str()]));
    record["show"] = shown.collect();
    check("every-node.json", &record);
}

#[test]
fn the_shapes_of_what_verbs_print_are_what_they_were() {
    const VERBS: [&str; 14] = [
        "build", "graph", "import", "lint", "list", "outdated", "plan", "promote", "prune", "push",
        "services", "show", "test", "update",
    ];
    let schema = |verb: &str| {
        let output = Command::new(IMGFORGE).args(["schema", verb]).output().unwrap();
        (verb.to_owned(), without_words(Ran::of(output).ok().json()))
    };
    check("shapes.json", &Value::Object(VERBS.into_iter().map(schema).collect()));
}

/// A schema without what is said for people.
fn without_words(schema: Value) -> Value {
    match schema {
        Value::Object(members) => {
            let is_words = |key: &str, value: &Value| key == "description" && value.is_string();
            let kept = members.into_iter().filter(|(key, value)| !is_words(key, value));
            Value::Object(kept.map(|(key, value)| (key, without_words(value))).collect())
        }
        Value::Array(items) => items.into_iter().map(without_words).collect(),
        other => other,
    }
}

#[test]
fn a_changed_input_is_named_with_its_image() {
    let place = Place::every_node();
    let before = place.record();
    fs::write(place.0.path().join("images/web/nginx.conf"), "worker_processes 2;\n").unwrap();
    let found = differences(&before, &place.record(), "");
    let of =
        |image: &str| found.iter().filter(|row| row.starts_with(&format!("images > {image} > "))).count();
    assert!(
        found.iter().any(|row| row.starts_with("images > web > inputs > file nginx.conf: ")),
        "{found:#?}"
    );
    assert!(found.iter().any(|row| row.starts_with("images > shop > inputs > parent web: ")), "{found:#?}");
    assert!(of("page") > 0 && of("os") + of("tool") + of("under-runit") == 0, "{found:#?}");
}

/// Puts `IN NODE` of every node of a document into `used`.
fn take(document: &KdlDocument, within: &str, used: &mut BTreeSet<(String, String)>) {
    for node in document.nodes() {
        let name = node.name().value();
        used.insert((within.to_owned(), name.to_owned()));
        if let Some(children) = node.children() {
            take(children, name, used);
        }
    }
}

#[test]
fn every_node_of_a_manifest_is_used_in_the_recorded_workspace() {
    let place = Place::every_node();
    let session = place.session();
    let workspace = session.workspace();
    let mut used = BTreeSet::new();
    let images = workspace.images.values().map(|image| &image.manifest.file);
    for file in images.chain([&workspace.manifest.file]) {
        let document: KdlDocument = file.text.parse().unwrap();
        take(&document, file.path.file_name().unwrap(), &mut used);
    }
    let known = NODES
        .iter()
        .flat_map(|(within, nodes)| nodes.iter().map(|node| ((*within).to_owned(), (*node).to_owned())));
    assert_eq!(used, known.collect(), "(in what it stands, the node): used there, and known to manifests");
}
