use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::graph::ImageGraph;
use crate::lock::{Lock, LockedImage};
use crate::render::render;
use crate::source::ContentHash;
use crate::source::memory::Memory;
use crate::workspace::load;
use crate::workspace::testing::shown;

/// Scripts that say what they are asked for.
struct Scripts;

impl Installer for Scripts {
    fn debian(&self, keep_docs: bool) -> String {
        format!("debian, documentation: {keep_docs}")
    }

    fn alpine(&self) -> String {
        "alpine".into()
    }
}

/// The inputs of every image of a workspace.
fn inputs_of(source: &Memory, lock: &Lock) -> BTreeMap<String, ImageInputs> {
    let workspace = load(source, None).unwrap_or_else(|found| panic!("{}", shown(found)));
    let graph = ImageGraph::new(&workspace).unwrap();
    let lock = LockView::new(lock);
    let from = Inputs { workspace: &workspace, source, lock: &lock, installer: &Scripts };
    let made = |(name, image): (&ImageName, &Image)| {
        let rendered = render(&workspace, &graph, name, source).unwrap();
        let inputs = from.of(image, &rendered).unwrap_or_else(|found| panic!("{}", shown(found)));
        (name.to_string(), inputs)
    };
    workspace.images.iter().map(made).collect()
}

fn values(inputs: &ImageInputs, kind: InputKind) -> Vec<(&str, &str)> {
    let all = inputs.inputs.iter().filter(|(found, ..)| *found == kind);
    all.map(|(_, name, value)| (name, value)).collect()
}

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER: &str = "sha256:1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// An image of each kind: one of packages, one with a Dockerfile of its own, one on an image from outside.
fn family() -> Memory {
    Memory::of(&[
        (
            "imgforge.kdl",
            b"workspace \"w\" {\n    arg \"A\" \"1\"\n    label \"vendor\" \"x\"\n    compression \"zstd\"\n}\n\
              apt \"debian\" { suite \"bookworm\" }\napk \"alpine\" { repository \"https://a/main\"; keys \"keys\"; }\n",
        ),
        ("os/image.kdl", b"image \"os\" {\n    root \"debian\"\n    layers \"one\"\n    docs #true\n}\n"),
        ("app/image.kdl", b"image \"app\" {\n    dockerfile \"Dockerfile\"\n    arg \"A\" \"2\"\n}\n"),
        ("app/Dockerfile", b"ARG A\nFROM os\nCOPY --from=debian:12 /x /x\nCOPY d /d\n"),
        ("app/d/file", b"text"),
        (
            "tool/image.kdl",
            b"image \"tool\" {\n    from \"alpine:3.20\"\n    packages \"alpine\" \"zlib\" \"curl\"\n}\n",
        ),
    ])
}

fn lock() -> Lock {
    let package = |source: &str, name: &str, architecture: &str| LockedPackage {
        source: source.into(),
        name: name.into(),
        version: "1".into(),
        architecture: architecture.into(),
        sha256: "ab".into(),
        ..LockedPackage::default()
    };
    let added = |source: &str, entry: &str| LockedImage {
        source: source.into(),
        request: String::new(),
        packages: vec![entry.into()],
    };
    let external = LockedExternal {
        platforms: BTreeMap::from([("linux/amd64".into(), OTHER.parse().unwrap())]),
        ..LockedExternal::new(DIGEST.parse().unwrap())
    };
    Lock {
        externals: ["debian:12", "alpine:3.20"].map(|name| (name.into(), external.clone())).into(),
        packages: vec![package("debian", "dpkg", "amd64"), package("alpine", "curl", "x86_64")],
        images: [("os", added("debian", "dpkg=1")), ("tool", added("alpine", "curl=1"))]
            .map(|(name, image)| (ImageName::new(name).unwrap(), image))
            .into(),
        ..Lock::default()
    }
}

#[test]
fn every_input_comes_from_where_it_is_said() {
    let found = inputs_of(&family(), &lock());
    let (os, app, tool) = (&found["os"], &found["app"], &found["tool"]);
    assert_eq!(values(os, InputKind::Format), [("imgforge", FORMAT)]);
    assert_eq!(values(os, InputKind::Platform), [("platform", "linux/amd64")]);
    assert_eq!(values(os, InputKind::Network), [("network", "none")]);
    assert_eq!(values(os, InputKind::Layers), [("compression", "zstd"), ("number", "one")]);
    assert_eq!(values(app, InputKind::Layers), [("compression", "zstd")]);
    assert_eq!(values(os, InputKind::Package), [("dpkg:amd64", "1 ab")]);
    assert_eq!(values(os, InputKind::Installer), [("packages", "debian, documentation: true")]);
    assert_eq!(values(tool, InputKind::Installer), [("packages", "alpine"), ("world", "curl zlib")]);
    assert_eq!(values(app, InputKind::Installer), []);
    // What a rendered Dockerfile has in its text is not said again.
    assert_eq!(values(app, InputKind::Arg), [("A", "1")]);
    assert_eq!(values(app, InputKind::Label), [("vendor", "x")]);
    assert_eq!((values(os, InputKind::Arg), values(os, InputKind::Label)), (vec![], vec![]));
    let text = ContentHash::of(b"text");
    assert_eq!(values(app, InputKind::File), [("d/file", &*format!("{text} 0644"))]);
    assert_eq!(values(app, InputKind::Folder), [("d", "0755")]);
    // A hand-written Dockerfile may ask for other platforms.
    assert_eq!(values(app, InputKind::External), [("debian:12", DIGEST)]);
    assert_eq!(values(tool, InputKind::External), [("alpine:3.20", OTHER)]);
    assert_eq!(tool.build.externals["alpine:3.20"].as_str(), DIGEST);
}

#[test]
fn what_is_not_locked_has_no_digest() {
    let found = inputs_of(&family(), &Lock::default());
    assert_eq!(values(&found["app"], InputKind::External), [("debian:12", "")]);
    assert!(found["app"].build.externals.is_empty());
}

#[test]
fn parents_are_inputs_by_their_fingerprints() {
    let mut found = inputs_of(&family(), &lock());
    let os = found["os"].inputs.fingerprint();
    let app = found.get_mut("app").unwrap();
    let before = app.inputs.fingerprint();
    app.insert_parents([(&ImageName::new("os").unwrap(), os)]);
    assert_eq!(values(app, InputKind::Parent), [("os", &*os.to_string())]);
    assert_ne!(app.inputs.fingerprint(), before);
}

proptest! {
    #[test]
    fn just_what_the_dockerfile_reaches_is_an_input(
        changes in proptest::collection::btree_map("(d|d/in|e)/[a-c]", "[x-z]{0,2}", 0..6),
        modes in proptest::collection::vec((0_usize..6, proptest::sample::select(vec![0o600, 0o755])), 0..3),
    ) {
        let before = inputs_of(&family(), &lock());
        let mut source = family();
        for (path, text) in &changes {
            source.write(&format!("app/{path}"), text.as_bytes());
        }
        let mut moded = BTreeMap::new();
        for (n, mode) in modes {
            if let Some(path) = changes.keys().nth(n) {
                source.set_mode(&format!("app/{path}"), mode);
                moded.insert(path, mode);
            }
        }
        let after = inputs_of(&source, &lock());
        let file = |(path, text): (&String, &String)| {
            let mode = moded.get(path).unwrap_or(&0o644);
            (path.clone(), format!("{} {mode:04o}", ContentHash::of(text.as_bytes())))
        };
        let reached: BTreeMap<String, String> =
            changes.iter().filter(|(path, _)| path.starts_with("d/")).map(file).collect();
        let mut found = values(&after["app"], InputKind::File);
        found.retain(|(path, _)| *path != "d/file");
        let reached_pairs: Vec<(&str, &str)> = reached.iter().map(|(p, v)| (p.as_str(), v.as_str())).collect();
        prop_assert_eq!(found, reached_pairs);
        let is_same = |name: &str| before[name].inputs == after[name].inputs;
        prop_assert_eq!(is_same("app"), reached.is_empty());
        prop_assert!(is_same("os") && is_same("tool"));
    }
}
