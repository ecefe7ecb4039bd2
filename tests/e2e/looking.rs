//! Looking: verbs that only print, and what they print for people and programs.

use crate::{imgforge, small_family};

/// The workspace has another name in every run.
fn settled(text: &str, family: &imgforge_testkit::workspace::TestWorkspace) -> String {
    text.replace(family.name(), "WORKSPACE")
}

#[test]
fn the_graph_is_printed_in_every_format() {
    let family = small_family();
    for format in ["text", "json", "dot", "mermaid"] {
        let graph = imgforge(&family, &["graph", "--format", format]).ok();
        assert_eq!(graph.stderr, "");
        insta::assert_snapshot!(format!("graph_{format}"), graph.stdout);
    }
}

#[test]
fn a_list_has_one_image_a_line_and_selectors_narrow_it() {
    let family = small_family();
    let list = |selectors: &[&str]| {
        let lines = imgforge(&family, &[&["list"], selectors].concat()).ok().stdout;
        lines.lines().map(|line| line.split_whitespace().next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list(&[]), ["base", "mid", "left", "other", "right"]);
    assert_eq!(list(&["mid+1", "--exclude", "right"]), ["mid", "left"]);
    assert_eq!(list(&["+left"]), ["base", "mid", "left"]);
    assert_eq!(list(&["*t"]), ["left", "right"]);
    assert_eq!(list(&["path:mid"]), ["mid"]);
}

#[test]
fn render_prints_what_the_engine_gets() {
    let family = small_family();
    let rendered = imgforge(&family, &["render", "mid"]).ok();
    let text = settled(&rendered.stdout, &family);
    // The parent's content tag depends on the busybox of this machine.
    let tag = text.split(":f-").nth(1).unwrap()[..32].to_owned();
    insta::assert_snapshot!(text.replace(&tag, "TAG"));
}

#[test]
fn show_names_the_manifest_line_of_each_field_of_a_service() {
    let family = small_family();
    family.image("mid", "    from \"base\"\n    copy \"mid.conf\" \"/etc/mid.conf\"");
    let shown = imgforge(&family, &["show", "left"]).ok();
    insta::assert_snapshot!(settled(&shown.stdout, &family));
}

#[test]
fn a_first_plan_says_that_nothing_was_ever_built() {
    let family = small_family();
    let plan = imgforge(&family, &["plan", "left"]).ok();
    insta::assert_snapshot!(plan.stdout);
}

#[test]
fn help_can_be_asked_for_as_a_verb_and_says_the_same() {
    let family = small_family();
    let asked = imgforge(&family, &["help", "plan"]).ok().stdout;
    assert!(asked.contains("--exit-code"), "{asked}");
    assert_eq!(asked, imgforge(&family, &["plan", "--help"]).ok().stdout);
}

#[test]
fn words_of_a_workspace_cannot_move_the_cursor_or_turn_text_around() {
    let family = small_family();
    let evil = "a\\u{202e}b\\u{1b}[2Jc\\u{61c}\\u{9b}d\\nEvil=1";
    family.image(
        "left",
        &format!("    from \"mid\"\n    description \"{evil}\"\n    cmd \"sh\" \"-c\" \"{evil}\""),
    );
    let is_command = |c: char| imgforge::core::text::is_command(c) && !matches!(c, '\n' | '\t');
    for args in [
        &["list"][..],
        &["list", "--format", "json"],
        &["show", "left"],
        &["show", "left", "--format", "json"],
        &["plan", "--engine", "embedded"],
        &["export", "left", "--to", "compose"],
        &["export", "left", "--to", "kubernetes"],
        &["export", "left", "--to", "quadlet"],
        &["export", "left", "--to", "nomad"],
        &["export", "left", "--to", "marathon"],
        &["lint"],
    ] {
        let ran = imgforge(&family, args);
        let shown = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!shown.contains(is_command), "{args:?}: {shown:?}");
        assert!(!shown.lines().any(|line| line.starts_with("Evil=1")), "{args:?}: {shown}");
    }
}
