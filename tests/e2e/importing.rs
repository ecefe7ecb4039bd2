//! `imgforge import`, as `docs/import.md` shows it: the page's files are written, and its commands run.

use std::path::Path;
use std::process::Command;

use imgforge_testkit::workspace::Ran;

use crate::IMGFORGE;

/// A fenced block: what stands after the three marks, and its lines.
struct Block {
    info: String,
    text: String,
}

fn blocks(section: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut lines = section.lines();
    while let Some(line) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let text = lines
                .by_ref()
                .take_while(|line| *line != "```")
                .fold(String::new(), |text, line| text + line + "\n");
            found.push(Block { info: info.to_owned(), text });
        }
    }
    found
}

/// The commands of a console block, each with what it prints; `None` where that is left out.
fn commands(text: &str) -> Vec<(Vec<String>, Option<String>)> {
    let mut found: Vec<(Vec<String>, Option<String>)> = Vec::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ imgforge ") {
            found.push((command.split(' ').map(str::to_owned).collect(), Some(String::new())));
        } else if let Some((_, printed)) = found.last_mut() {
            if line == "..." {
                *printed = None;
            } else if let Some(printed) = printed {
                *printed += &format!("{line}\n");
            }
        }
    }
    found
}

#[test]
fn the_page_on_imports_is_what_happens() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/import.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut run = 0;
    for section in page.split("\n## ").skip(1).filter(|section| section.contains("```console")) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("acme");
        let mut is_imported = false;
        for Block { info, text } in blocks(section) {
            match info.split_once(' ') {
                // What is there already is what the import has written.
                Some((_, path)) if is_imported => {
                    assert_eq!(std::fs::read_to_string(root.join(path)).unwrap(), text, "{path}");
                }
                Some((_, path)) => {
                    let path = root.join(path);
                    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                    std::fs::write(path, text).unwrap();
                }
                None if info == "console" => {
                    for (arguments, printed) in commands(&text) {
                        let mut command = Command::new(IMGFORGE);
                        let output =
                            command.args(&arguments).current_dir(&root).env("NO_COLOR", "1").output();
                        let ran = Ran::of(output.unwrap()).ok();
                        if let Some(printed) = printed {
                            assert_eq!(ran.stdout, printed, "{arguments:?}");
                        }
                        run += 1;
                    }
                    is_imported = true;
                }
                None => panic!("a block without a file in {section}"),
            }
        }
    }
    assert_eq!(run, 6);
}

#[test]
fn what_is_imported_is_printed_for_programs_too_and_a_dry_run_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), "FROM debian:12\n").unwrap();
    let import = |arguments: &[&str]| {
        let mut command = Command::new(IMGFORGE);
        Ran::of(command.arg("-C").arg(dir.path()).arg("import").args(arguments).output().unwrap()).ok()
    };
    let dry = import(&["--dry-run", "--format", "json"]).json();
    assert_eq!(dry["version"], 1);
    assert_eq!(dry["taken"][0]["place"], "Dockerfile");
    assert_eq!(dry["files"].as_object().unwrap().len(), 2);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let written = import(&["--format", "json"]).json();
    assert_eq!(written, dry);
    for (path, text) in written["files"].as_object().unwrap() {
        assert_eq!(std::fs::read_to_string(dir.path().join(path)).unwrap(), text.as_str().unwrap());
    }
}

#[test]
fn a_folder_without_an_image_is_told_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("compose.yaml"), "services:\n  db:\n    image: postgres:16\n").unwrap();
    let ran = Ran::of(Command::new(IMGFORGE).arg("-C").arg(dir.path()).arg("import").output().unwrap());
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("describes an image: nothing was written"), "{}", ran.stderr);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
