//! Manifests of anyone: each problem can be shown with its place.

#![no_main]

use std::sync::Arc;

use imgforge_core::diagnostic::{Problems, SourceFile};
use imgforge_core::manifest::{read_images, read_workspace};
use libfuzzer_sys::fuzz_target;
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};

fuzz_target!(|text: &str| {
    let file = Arc::new(SourceFile { path: "image.kdl".into(), text: text.to_owned() });
    let (read, problems) = read_images(&file);
    assert!(!read.lacks_some || problems.has_errors(), "no manifest and no reason");
    shown(text, problems);
    let (workspace, problems) = read_workspace(&file);
    assert!(workspace.is_some() || problems.has_errors(), "no manifest and no reason");
    shown(text, problems);
});

fn shown(text: &str, problems: Problems) {
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor());
    for problem in problems.sorted() {
        for label in problem.labels().into_iter().flatten() {
            let (start, len) = (label.offset(), label.len());
            assert!(text.get(start..start + len).is_some(), "{problem}: {label:?} is not in the text");
        }
        let mut out = String::new();
        handler.render_report(&mut out, &problem).expect("a problem can be shown");
    }
}
