//! `imgforge import`: from a repository of Dockerfiles to a workspace.

use std::process::ExitCode;

use camino::{Utf8Path, Utf8PathBuf};
use clap::Args;
use imgforge::{Import, import};
use schemars::JsonSchema;
use serde::Serialize;

use crate::Global;
use crate::console::{DIM, GOOD, WARN, count, print, say, table};
use crate::failure::Failure;
use crate::verbs::{Format, json};

/// Make a workspace of the Dockerfiles, bake files and Compose files below a folder
///
/// Writes imgforge.kdl and an image.kdl beside each Dockerfile, and touches nothing else. Parents are found by
/// repository and tag. Prints what was taken over, what was left out and why, and what a person should look at. Run
/// again, it adds what is new, says what is gone, and leaves what people have written.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  imgforge import --dry-run\n  imgforge import && imgforge graph\n  imgforge import services/web"
)]
pub(crate) struct ImportVerb {
    /// Where to look [default: the current folder]
    folder: Option<Utf8PathBuf>,
    /// Write nothing
    #[arg(long)]
    dry_run: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What `import` prints.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ImportOutput {
    version: u32,
    #[serde(flatten)]
    import: Import,
}

impl ImportVerb {
    pub(crate) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        let start = global.workspace.as_deref().unwrap_or(Utf8Path::new("."));
        let folder = self.folder.as_deref().map_or(start.to_owned(), |folder| start.join(folder));
        let (root, import) = import(&folder)?;
        if !self.dry_run {
            import.write(&root)?;
        }
        match self.format {
            Format::Json => print(&json(&ImportOutput { version: 1, import: import.clone() })),
            Format::Text => print(&text(&import)),
        }
        if import.has_no_image() {
            let message =
                "no Dockerfile, bake file or Compose file here describes an image: nothing was written";
            say(WARN, "Warning", message);
            return Ok(ExitCode::from(1));
        }
        if !global.quiet {
            let files: Vec<&str> = import.files.keys().map(|path| path.as_str()).collect();
            let written =
                if files.is_empty() { "nothing to write".to_owned() } else { count(files.len(), "file") };
            let how = match (self.dry_run, files.is_empty()) {
                (_, true) => "",
                (true, false) => " to write",
                (false, false) => " written",
            };
            let next = if self.dry_run { "" } else { "; `imgforge graph` shows the family" };
            say(
                GOOD,
                "Import",
                format_args!("{}{DIM}; {written}{how}{next}{DIM:#}", count(import.taken.len(), "new image")),
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(import: &Import) -> String {
    let mut parts = Vec::new();
    let mut part = |title: &str, rows: Vec<[String; 3]>| {
        if !rows.is_empty() {
            let row = |[what, said, more]: [String; 3]| vec![format!("  {what}"), said, more];
            parts.push(format!("{title}\n{}", table(&rows.into_iter().map(row).collect::<Vec<_>>())));
        }
    };
    let taken = import.taken.iter().map(|taken| {
        let parents =
            if taken.parents.is_empty() { String::new() } else { format!("on {}", taken.parents.join(", ")) };
        [taken.image.clone(), taken.place.clone(), parents]
    });
    part("Taken over", taken.collect());
    let left = |rows: &[imgforge::LeftOut]| {
        rows.iter().map(|row| [row.what.clone(), row.why.clone(), String::new()]).collect::<Vec<_>>()
    };
    part("Left out", left(&import.left_out));
    part("Gone", left(&import.gone));
    let decisions = import.decisions.iter().map(|row| {
        let what = if row.what.is_empty() { "the workspace" } else { &row.what };
        [what.to_owned(), row.text.clone(), String::new()]
    });
    part("To look at", decisions.collect());
    parts.join("\n")
}
