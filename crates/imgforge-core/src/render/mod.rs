//! Writes an image's Dockerfile: the manifest, its parents' services and a template in, text and files out.
//!
//! The text is what is hashed, so it holds nothing that does not change the image: parents stand in it by their
//! names in the workspace, and the manifest lines that its parts come from are kept beside it, in [`Origin`]s.

use crate::context::GeneratedFile;
use crate::diagnostic::Span;
use crate::manifest::Network;

/// A Dockerfile, and what else a build of it needs that is in no file of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedImage {
    /// The Dockerfile. Parents are named as in the workspace; no comment says where a line comes from.
    pub dockerfile: String,
    /// Which line of `dockerfile` comes from which place in the manifest, by line.
    pub origins: Vec<Origin>,
    /// Files that imgforge writes, all below [`crate::context::GENERATED`], sorted by path.
    pub generated: Vec<GeneratedFile>,
    /// What RUN steps reach.
    pub network: Network,
}

/// The place in the manifest that a line of the Dockerfile comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The line of the Dockerfile, from 0.
    pub line: usize,
    /// The place in the image's manifest.
    pub span: Span,
}
