//! The examples of the documentation are a workspace: each fenced block that names a file is that file.

use std::path::Path;

use imgforge::core::name::ImageName;
use imgforge::core::render;
use imgforge::core::testing;
use imgforge::{OpenOptions, Session};
use imgforge_worktree::WorkTree;

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

/// The files of a page's examples, written into a folder of their own and opened. An example may leave out what names
/// the workspace.
fn workspace_of(page: &str) -> (tempfile::TempDir, Session) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
    let dir = tempfile::tempdir().unwrap();
    let root = camino::Utf8Path::from_path(dir.path()).unwrap();
    for (path, text) in files(&std::fs::read_to_string(page).unwrap()) {
        std::fs::create_dir_all(root.join(&path).parent().unwrap()).unwrap();
        let is_unnamed = path == "imgforge.kdl" && !text.contains("workspace ");
        let text = if is_unnamed { format!("workspace \"example\"\n{text}") } else { text };
        std::fs::write(root.join(path), text).unwrap();
    }
    if !root.join("imgforge.kdl").exists() {
        std::fs::write(root.join("imgforge.kdl"), "workspace \"example\"\n").unwrap();
    }
    let session = Session::open(root, &OpenOptions { cache: false, ..Default::default() }).unwrap();
    (dir, session)
}

fn rendered(session: &Session, name: &ImageName) -> String {
    let source = WorkTree::uncached(session.root());
    render::render(session.workspace(), session.graph(), name, &source).unwrap().dockerfile
}

#[test]
fn every_example_of_the_manifest_reference_is_right() {
    let (_dir, session) = workspace_of("manifest.md");
    let images: Vec<&str> = session.workspace().images.keys().map(ImageName::as_str).collect();
    assert_eq!(images, ["api", "api-debug", "os", "page", "shop", "tool", "web"]);
    for name in session.workspace().images.keys() {
        let dockerfile = rendered(&session, name);
        assert!(dockerfile.contains("FROM "), "{name}");
        if name.as_str() == "tool" {
            assert!(dockerfile.contains("ENV TZ=\"UTC\"\n"), "{dockerfile}");
        }
        if name.as_str() == "web" {
            assert!(dockerfile.contains("--mount=type=secret,id=licence,required=true "), "{dockerfile}");
        }
    }
}

#[test]
fn every_example_of_the_page_on_packages_is_right() {
    let (_dir, session) = workspace_of("packages.md");
    let images: Vec<&str> = session.workspace().images.keys().map(ImageName::as_str).collect();
    assert_eq!(images, ["os-base", "web"]);
    for name in session.workspace().images.keys() {
        assert!(rendered(&session, name).contains(".imgforge/packages"), "{name}");
    }
}

#[test]
fn every_example_of_the_page_on_images_from_outside_is_right() {
    let (_dir, session) = workspace_of("externals.md");
    for (name, base) in [("proxy", "FROM debian:12-slim\n"), ("web", "FROM alpine:3.22\n")] {
        let image = session.image(name).unwrap();
        assert!(rendered(&session, &image).contains(base), "{name}");
    }
}

#[test]
fn every_example_of_the_page_on_tests_is_right() {
    let (_dir, session) = workspace_of("tests.md");
    let tests = |image: &str| -> Vec<String> {
        let name = ImageName::new(image).unwrap();
        let tests = testing::of(session.workspace(), session.graph(), &name);
        tests.into_iter().map(|test| test.name).collect()
    };
    assert_eq!((tests("web"), tests("shop")), (vec!["serves".to_owned()], vec!["test".to_owned()]));
}

/// What is in the last column of a page's tables, each name once.
fn named_tests(page: &str) -> std::collections::BTreeSet<&str> {
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.contains("---"));
    let cells = rows.filter_map(|row| row.trim_end_matches(['|', ' ']).rsplit_once("| "));
    cells.flat_map(|(_, cell)| cell.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_test_that_the_threat_model_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/threat-model.md")).unwrap();
    let mut sources = String::new();
    for entry in ignore::Walk::new(&root).flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&std::fs::read_to_string(entry.path()).unwrap());
        }
    }
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.contains("---"));
    for row in rows.filter(|row| !row.starts_with("| what is tried |")) {
        assert_ne!(named_tests(row).len(), 0, "no test is named in: {row}");
    }
    for name in named_tests(&page) {
        assert!(sources.contains(&format!("fn {name}(")), "there is no test {name}");
    }
    workspace_of("threat-model.md");
}

/// All files below a folder with one of these endings.
fn texts(folder: &Path, endings: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(texts(&path, endings));
        } else if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
            found.push(std::fs::read_to_string(&path).unwrap());
        }
    }
    found
}

#[test]
fn every_variable_that_is_spoken_of_is_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let sources = texts(&root.join("crates"), &[".rs"]);
    let mut spoken = texts(&root.join("docs"), &[".md"]);
    spoken.push(std::fs::read_to_string(root.join("README.md")).unwrap());
    spoken.extend(sources.iter().cloned());
    let mut names = std::collections::BTreeSet::new();
    for text in &spoken {
        for (at, _) in text.match_indices("IMGFORGE_") {
            let rest = &text[at..];
            let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '_').unwrap_or(rest.len());
            // `IMGFORGE_X_*` is no variable, but several.
            if !rest[..end].ends_with('_') {
                names.insert(rest[..end].to_owned());
            }
        }
    }
    // What tests tell each other is theirs.
    names.retain(|name| name != "IMGFORGE" && !name.starts_with("IMGFORGE_TEST"));
    assert!(names.contains("IMGFORGE_CACHE"), "{names:?}");
    for name in names {
        // The name and nothing else, as it is given to whoever reads the environment.
        let literal = format!("\"{name}\"");
        assert!(sources.iter().any(|text| text.contains(&literal)), "nobody reads {name}");
    }
}
