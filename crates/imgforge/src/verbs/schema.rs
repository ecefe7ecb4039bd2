//! `imgforge schema`: JSON Schemas of what other verbs print.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use imgforge::core::plan::Plan;
use imgforge::report::RunReport;
use schemars::schema_for;

use crate::console::print;
use crate::verbs::{graph, import, json, lint, list, outdated, promote, prune, push, services, show, update};

/// Print the JSON Schema of a verb's `--format json`
#[derive(Args)]
#[command(after_help = "Example:\n  imgforge schema plan > plan.schema.json")]
pub(crate) struct SchemaVerb {
    /// Whose output
    #[arg(value_enum)]
    of: Of,
}

#[derive(Clone, Copy, ValueEnum)]
enum Of {
    Build,
    Graph,
    Import,
    Lint,
    List,
    Outdated,
    Plan,
    Promote,
    Prune,
    Push,
    Services,
    Show,
    Test,
    Update,
}

impl SchemaVerb {
    pub(crate) fn run(&self) -> ExitCode {
        let schema = match self.of {
            Of::Build | Of::Test => schema_for!(RunReport),
            Of::Graph => schema_for!(graph::GraphOutput),
            Of::Import => schema_for!(import::ImportOutput),
            Of::Lint => schema_for!(lint::LintOutput),
            Of::List => schema_for!(list::ListOutput),
            Of::Outdated => schema_for!(outdated::OutdatedOutput),
            Of::Plan => schema_for!(Plan),
            Of::Promote => schema_for!(promote::PromoteOutput),
            Of::Prune => schema_for!(prune::PruneOutput),
            Of::Push => schema_for!(push::PushOutput),
            Of::Services => schema_for!(services::ServicesOutput),
            Of::Show => schema_for!(show::ShowOutput),
            Of::Update => schema_for!(update::UpdateOutput),
        };
        print(&json(&schema));
        ExitCode::SUCCESS
    }
}
