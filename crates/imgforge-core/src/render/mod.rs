//! Writes an image's Dockerfile: the manifest, its parents' services and a template in, text and files out.
//!
//! The text is what is hashed, so it holds nothing that does not change the image: parents stand in it by their
//! names in the workspace, and the manifest lines that its parts come from are kept beside it, in [`Origin`]s.

mod template;
#[cfg(test)]
mod tests;
mod values;

use camino::Utf8Path;
use imgforge_syntax::Span;

use crate::context::GeneratedFile;
use crate::diagnostic::{Problem, Problems};
use crate::graph::ImageGraph;
use crate::manifest::Network;
use crate::name::ImageName;
use crate::services::{self, Services};
use crate::source::Source;
use crate::workspace::{Image, Workspace};

/// A Dockerfile, and what else a build of it needs that is in no file of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedImage {
    /// The Dockerfile. Parents are named as in the workspace; no comment says where a line comes from.
    pub dockerfile: String,
    /// Which line of `dockerfile` comes from which place in the manifest, by line. Empty for a hand-written one.
    pub origins: Vec<Origin>,
    /// Files that imgforge writes, all below [`crate::context::GENERATED`], sorted by path.
    pub generated: Vec<GeneratedFile>,
    /// What RUN steps reach.
    pub network: Network,
    /// The services that the image ends up with.
    pub services: Services,
}

impl RenderedImage {
    /// The manifest's span that a line of the Dockerfile (from 0) was rendered from.
    pub fn origin(&self, line: usize) -> Option<Span> {
        self.origins.iter().rev().find(|origin| origin.line <= line).map(|origin| origin.span)
    }
}

/// The place in the manifest that a line of the Dockerfile comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The line of the Dockerfile, from 0.
    pub line: usize,
    /// The place in the image's manifest.
    pub span: Span,
}

/// Renders one image. A hand-written Dockerfile is taken as it is.
///
/// # Errors
/// What is wrong with its services or its template.
pub fn render(
    workspace: &Workspace,
    graph: &ImageGraph,
    name: &ImageName,
    source: &dyn Source,
) -> Result<RenderedImage, Problems> {
    let image = &workspace.images[name];
    if let Some(hand_written) = &image.dockerfile {
        return Ok(RenderedImage {
            dockerfile: hand_written.text().to_owned(),
            origins: Vec::new(),
            generated: Vec::new(),
            network: workspace.network(&image.manifest),
            services: Services::default(),
        });
    }
    let services = services::merge(workspace, graph, name)?;
    let generated = services::files(&services);
    let values = values::of(workspace, graph, image, &services, !generated.is_empty());
    let marked = template::render(image, source, &values)?;
    let (dockerfile, origins) = template::take_marks(&marked);
    Ok(RenderedImage {
        dockerfile,
        origins,
        generated,
        network: workspace.network(&image.manifest),
        services,
    })
}

/// The Dockerfile with a comment above each part that names the manifest line it comes from. Comments change
/// nothing that an engine does. `text` is the image's Dockerfile with other names for its parents, line for line.
pub fn with_comments(image: &Image, rendered: &RenderedImage, text: &str) -> String {
    let mut out = String::new();
    let mut origins = rendered.origins.iter().peekable();
    let mut last = None;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        while let Some(origin) = origins.next_if(|origin| origin.line <= number) {
            let place = image.manifest.file.at(origin.span);
            if last.as_ref() != Some(&place) {
                out.push_str("# ");
                out.push_str(&place);
                out.push('\n');
                last = Some(place);
            }
        }
        out.push_str(line);
    }
    out
}

fn template_problem(image: &Image, path: &Utf8Path, message: String) -> Problem {
    let span = image.manifest.template.as_ref().map_or(image.manifest.name.span, |template| template.span);
    Problem::at(&image.manifest.file, span, message, format!("while rendering {path}"))
}
