//! All manifests of a workspace with their names resolved: which images there are, and what each stands on.

mod check;
mod image_tests;
mod load;
mod resolve;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::Utf8PathBuf;
use imgforge_oci::Digest;
use imgforge_oci::reference::Parts;
use imgforge_syntax::{Located, Span};

use crate::diagnostic::SourceFile;
use crate::manifest::{ImageManifest, Network, WorkspaceManifest};
use crate::name::ImageName;
use imgforge_dockerfile::{Dockerfile, EdgeKind, Reduced};

pub use self::image_tests::ImageTest;
pub(crate) use self::image_tests::of_chain as tests_of_chain;
pub use self::load::{IMAGE_FILE, LOCK_FILE, WORKSPACE_FILE, load, read_file};

/// The images of a workspace and what is said for all of them.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// `imgforge.kdl`.
    pub manifest: WorkspaceManifest,
    /// The images by name.
    pub images: BTreeMap<ImageName, Image>,
}

impl Workspace {
    /// What the steps of an image reach: what it says itself, or else the workspace.
    pub fn network(&self, image: &ImageManifest) -> Network {
        let said = image.network.as_ref().or(self.manifest.network.as_ref());
        said.map_or_else(Network::default, |network| network.value)
    }
}

/// One image with its references resolved.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its `image.kdl`.
    pub manifest: ImageManifest,
    /// Every edge to another image of the workspace, in the order of the manifest or the Dockerfile. The same parent
    /// may be there more than once (`from` and `copy from=`).
    pub parents: Vec<Parent>,
    /// The parent whose file system it begins with (`from`, or FROM of a Dockerfile's last stage).
    pub base: Option<ImageName>,
    /// The image from outside whose file system it begins with, as written.
    pub outside_base: Option<String>,
    /// What it stands on outside the workspace.
    pub externals: Vec<External>,
    /// The hand-written Dockerfile, when the image has one.
    pub dockerfile: Option<HandWritten>,
    /// Where its files are.
    pub context: ContextFolder,
}

impl Image {
    /// The image's name.
    pub fn name(&self) -> &ImageName {
        &self.manifest.name.value
    }
}

/// An edge to another image of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// The parent.
    pub name: ImageName,
    /// How it is used.
    pub kind: EdgeKind,
    /// The reference as it stands in the manifest or the Dockerfile, `ARG`s expanded.
    pub as_written: String,
    /// The file that says so: the image's manifest or its Dockerfile.
    pub file: Arc<SourceFile>,
    /// The word in that file.
    pub span: Span,
}

/// An image from outside the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// The reference as written, `ARG`s expanded: `alpine:3.22`, or with its digest, `alpine:3.22@sha256:...`.
    pub reference: String,
    /// How it is used.
    pub kind: EdgeKind,
    /// The file that says so: the image's manifest or its Dockerfile.
    pub file: Arc<SourceFile>,
    /// The word in that file.
    pub span: Span,
}

impl External {
    /// The digest that is written in the reference; without one, the lock has it.
    pub fn pinned(&self) -> Option<Digest> {
        Parts::of(&self.reference).digest?.parse().ok()
    }

    /// Whether the reference says which image of its repository it means. One that does not means `latest`.
    pub fn has_tag(&self) -> bool {
        self.pinned().is_some() || Parts::of(&self.reference).tag.is_some()
    }
}

/// The folder that a build takes files from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContextFolder {
    /// Relative to the workspace root; empty for that itself.
    pub dir: Utf8PathBuf,
    /// What is not taken from it, relative to the workspace root, sorted: for an image that a manifest makes, folders
    /// of other images; for a hand-written Dockerfile, the files that imgforge reads, unless an instruction names
    /// them.
    pub passed_over: Vec<Utf8PathBuf>,
}

/// A hand-written Dockerfile.
#[derive(Debug, Clone)]
pub struct HandWritten {
    /// The file as it was read; its path is relative to the workspace root.
    pub file: Arc<SourceFile>,
    /// What it says, of the image's target alone. Its places are those of the file.
    pub parsed: Dockerfile,
    /// What the image's target needs of it, when the image names one.
    pub reduced: Option<Reduced>,
}

impl HandWritten {
    /// The text that an engine builds from: the file, or what the target needs of it, at the same places.
    pub fn text(&self) -> &str {
        self.reduced.as_ref().map_or(&self.file.text, |reduced| &reduced.text)
    }
}

/// The build arguments of an image: what it declares, with the workspace's value or else its own default.
pub fn build_args(workspace: &WorkspaceManifest, image: &ImageManifest) -> BTreeMap<String, String> {
    let value = |(name, default): (&String, &Located<Option<String>>)| {
        let set = workspace.args.get(name).map(|value| value.value.clone());
        Some((name.clone(), set.or_else(|| default.value.clone())?))
    };
    image.args.iter().filter_map(value).collect()
}
