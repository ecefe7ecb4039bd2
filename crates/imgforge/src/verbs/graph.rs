//! `imgforge graph`: which image stands on which.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use imgforge::Session;
use imgforge::core::name::ImageName;
use schemars::JsonSchema;
use serde::Serialize;

use crate::Global;
use crate::console::print;
use crate::failure::Failure;
use crate::verbs::{Selection, json, open};

/// Print which image stands on which, without asking an engine
#[derive(Args)]
#[command(
    after_help = "Examples:\n  imgforge graph\n  imgforge graph '+guestbook' --format mermaid\n  imgforge graph --format dot | dot -Tsvg > family.svg"
)]
pub(crate) struct Graph {
    #[command(flatten)]
    selection: Selection,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
    Dot,
    Mermaid,
}

/// `{"version":1,"nodes":[...],"edges":[...]}`
#[derive(Serialize, JsonSchema)]
pub(crate) struct GraphOutput {
    version: u32,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
}

#[derive(Serialize, JsonSchema)]
struct Node {
    name: String,
    description: Option<String>,
    folder: String,
    groups: Vec<String>,
    /// Images from outside the workspace that it stands on.
    externals: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct Edge {
    parent: String,
    child: String,
    /// `from`, `copy` or `mount`.
    kind: String,
}

impl Graph {
    pub(crate) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        let session = open(global)?;
        let selected = self.selection.of(&session)?;
        let graph = output(&session, &selected);
        print(&match self.format {
            Format::Json => json(&graph),
            Format::Dot => dot(&graph),
            Format::Mermaid => mermaid(&graph),
            Format::Text => super::plan::tree(&session, &selected, |_| String::new()),
        });
        Ok(ExitCode::SUCCESS)
    }
}

fn output(session: &Session, selected: &BTreeSet<ImageName>) -> GraphOutput {
    let mut nodes = Vec::new();
    let mut edges = BTreeSet::new();
    for name in session.graph().topological().filter(|name| selected.contains(*name)) {
        let image = &session.workspace().images[name];
        let in_group = |group: &&imgforge::core::manifest::Group| {
            group.members.iter().any(|member| member.value == name.as_str())
        };
        nodes.push(Node {
            name: name.to_string(),
            description: image.manifest.description.clone(),
            folder: image.manifest.file.dir().to_string(),
            groups: session
                .workspace()
                .manifest
                .groups
                .iter()
                .filter(in_group)
                .map(|g| g.name.value.clone())
                .collect(),
            externals: image.externals.iter().map(|external| external.reference.clone()).collect(),
        });
        for parent in image.parents.iter().filter(|parent| selected.contains(&parent.name)) {
            edges.insert((parent.name.to_string(), name.to_string(), parent.kind.as_str()));
        }
    }
    let edge = |(parent, child, kind): (String, String, &str)| Edge { parent, child, kind: kind.to_owned() };
    GraphOutput { version: 1, nodes, edges: edges.into_iter().map(edge).collect() }
}

fn dot(graph: &GraphOutput) -> String {
    let mut text = String::from("digraph imgforge {\n  rankdir=LR;\n  node [shape=box];\n");
    for node in &graph.nodes {
        let _ = writeln!(text, "  \"{}\";", node.name);
    }
    for edge in &graph.edges {
        let style = if edge.kind == "from" {
            String::new()
        } else {
            format!(" [style=dashed, label=\"{}\"]", edge.kind)
        };
        let _ = writeln!(text, "  \"{}\" -> \"{}\"{style};", edge.parent, edge.child);
    }
    text.push_str("}\n");
    text
}

fn mermaid(graph: &GraphOutput) -> String {
    // Mermaid's ids may not hold `/`, `.` or words such as `end`: numbers are safe, the names are labels.
    let id = |name: &str| graph.nodes.iter().position(|node| node.name == name).unwrap_or(0);
    let mut text = String::from("graph LR\n");
    for (n, node) in graph.nodes.iter().enumerate() {
        let _ = writeln!(text, "  n{n}[\"{}\"]", node.name);
    }
    for edge in &graph.edges {
        let arrow = if edge.kind == "from" { "-->".to_owned() } else { format!("-. {} .->", edge.kind) };
        let _ = writeln!(text, "  n{} {arrow} n{}", id(&edge.parent), id(&edge.child));
    }
    text
}
