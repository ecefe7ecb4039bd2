//! For tests: workspaces from (path, text) pairs, and problems as a person sees them.

use miette::{GraphicalReportHandler, GraphicalTheme};

use super::{Workspace, load};
use crate::diagnostic::{Problem, Problems};
use crate::graph::ImageGraph;
use crate::source::memory::Memory;

/// A workspace that has to be a good one.
pub(crate) fn good(files: &[(&str, &str)]) -> Workspace {
    loaded(files).unwrap_or_else(|problems| panic!("{}", shown(problems)))
}

/// What is wrong with a workspace, its graph included.
pub(crate) fn problems_of(files: &[(&str, &str)]) -> String {
    let made = loaded(files).and_then(|workspace| ImageGraph::new(&workspace));
    shown(made.map(|_| ()).expect_err("the workspace has problems"))
}

/// What is wrong with one image, beside a workspace that has an apt source "debian" and an image "os-base".
pub(crate) fn problems_of_image(text: &str) -> String {
    problems_of(&[
        ("imgforge.kdl", "workspace \"acme\"\napt \"debian\" { suite \"bookworm\" }\n"),
        ("images/os-base/image.kdl", "image \"os-base\" {\n    root \"debian\"\n}\n"),
        ("images/web/image.kdl", text),
    ])
}

pub(crate) fn loaded(files: &[(&str, &str)]) -> Result<Workspace, Problems> {
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, text)| (*path, text.as_bytes())).collect();
    load(&Memory::of(&files), None)
}

/// All problems, sorted, as miette draws them without colour.
pub(crate) fn shown(problems: Problems) -> String {
    problems.sorted().iter().map(shown_one).collect::<Vec<_>>().join("\n")
}

fn shown_one(problem: &Problem) -> String {
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_width(100);
    let mut text = String::new();
    handler.render_report(&mut text, problem).expect("strings take everything");
    text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}
