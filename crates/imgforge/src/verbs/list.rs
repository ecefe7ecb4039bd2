//! `imgforge list`: the images, one a line.

use std::process::ExitCode;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::Global;
use crate::console::{print, table};
use crate::failure::Failure;
use crate::verbs::{Format, Selection, json, open};

/// List images, one a line
#[derive(Args)]
#[command(after_help = "Examples:\n  imgforge list\n  imgforge list 'webapp-base+' --format json")]
pub(crate) struct List {
    #[command(flatten)]
    selection: Selection,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// `{"version":1,"images":[...]}`
#[derive(Serialize, JsonSchema)]
pub(crate) struct ListOutput {
    version: u32,
    images: Vec<ListedImage>,
}

#[derive(Serialize, JsonSchema)]
struct ListedImage {
    name: String,
    description: Option<String>,
    folder: String,
    parents: Vec<String>,
}

impl List {
    pub(crate) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        let session = open(global)?;
        let selected = self.selection.of(&session)?;
        let images: Vec<ListedImage> = session
            .graph()
            .topological()
            .filter(|name| selected.contains(*name))
            .map(|name| {
                let image = &session.workspace().images[name];
                ListedImage {
                    name: name.to_string(),
                    description: image.manifest.description.clone(),
                    folder: image.manifest.file.dir().to_string(),
                    parents: session.graph().parents(name).map(ToString::to_string).collect(),
                }
            })
            .collect();
        print(&match self.format {
            Format::Json => json(&ListOutput { version: 1, images }),
            Format::Text => text(&images),
        });
        Ok(ExitCode::SUCCESS)
    }
}

fn text(images: &[ListedImage]) -> String {
    let row = |image: &ListedImage| vec![image.name.clone(), image.description.clone().unwrap_or_default()];
    table(&images.iter().map(row).collect::<Vec<_>>())
}
