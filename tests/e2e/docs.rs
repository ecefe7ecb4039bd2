//! The examples of the documentation are a workspace: each fenced block that names a file is that file.

use std::path::Path;

use imgforge::core::name::ImageName;
use imgforge::core::render;
use imgforge::core::source::WorkTree;
use imgforge::{OpenOptions, Session};

/// `(path, text)` of the fenced blocks whose opening line has a path after the language.
fn files(markdown: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if let Some((_, path)) = info.split_once(' ') {
            found.push((path.to_owned(), body.join("\n") + "\n"));
        }
    }
    found
}

#[test]
fn every_example_of_the_manifest_reference_is_right() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/manifest.md");
    let files = files(&std::fs::read_to_string(page).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let root = camino::Utf8Path::from_path(dir.path()).unwrap();
    for (path, text) in &files {
        std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        std::fs::write(root.join(path), text).unwrap();
    }
    let session = Session::open(root, &OpenOptions { cache: false }).unwrap();
    let images: Vec<&str> = session.workspace().images.keys().map(ImageName::as_str).collect();
    assert_eq!(images, ["os", "page", "shop", "tool", "web"]);
    let source = WorkTree::uncached(root);
    for name in session.workspace().images.keys() {
        let rendered = render::render(session.workspace(), session.graph(), name, &source).unwrap();
        assert!(rendered.dockerfile.contains("FROM "), "{name}");
        if name.as_str() == "tool" {
            assert!(rendered.dockerfile.contains("ENV TZ=\"UTC\"\n"), "{}", rendered.dockerfile);
        }
    }
}
