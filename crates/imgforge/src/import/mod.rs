//! `import`: from a repository of Dockerfiles to a workspace, without touching them.
//!
//! ```text
//! files       -> Candidates   find, bake, compose   what may be an image, and what is none
//! Candidates  -> Meaning      parents               which references mean one of them
//! Meaning     -> text         names, write          names, aliases, manifests
//! text        -> Workspace    overlay               read as the workspace will be, before anything is written
//! ```
//!
//! What the workspace would not take is left out with its reason, so that the result always loads. What people have
//! written stays: new images come behind those that are there, and nothing is taken away.

mod assemble;
mod bake;
mod candidate;
mod compose;
mod find;
mod functions;
mod hcl;
mod importer;
mod names;
mod official;
mod overlay;
mod parents;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::source::{Hidden, Source};
use imgforge_core::workspace::WORKSPACE_FILE;
use imgforge_state::cache_file;
use imgforge_worktree::WorkTree;
use schemars::JsonSchema;
use serde::Serialize;

use self::importer::Importer;
use crate::Error;

/// What an import has found, and the files that it writes.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Import {
    /// Images that are new in the workspace.
    pub taken: Vec<Taken>,
    /// Images that were there before, by name.
    pub kept: Vec<String>,
    /// What describes no image that can be taken over.
    pub left_out: Vec<LeftOut>,
    /// Images of the workspace whose Dockerfiles are not there any more.
    pub gone: Vec<LeftOut>,
    /// What a person should look at.
    pub decisions: Vec<Decision>,
    /// The text of each file that is new or has new lines, by path.
    #[schemars(with = "BTreeMap<String, String>")]
    pub files: BTreeMap<Utf8PathBuf, String>,
}

/// An image that was taken over.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Taken {
    /// Its name in the workspace.
    pub image: String,
    /// Where it is described.
    pub place: String,
    /// What it stands on and takes files from: images of the workspace.
    pub parents: Vec<String>,
}

/// Something that was not taken over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct LeftOut {
    /// A file, or a part of one.
    pub what: String,
    /// Why.
    pub why: String,
}

impl LeftOut {
    fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into() }
    }
}

/// What was decided without being known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Decision {
    /// The image or file that it is about; empty for the whole workspace.
    pub what: String,
    /// What was done, and what could be meant instead.
    pub text: String,
}

/// The workspace that a folder is in, or that it becomes.
fn root_of(folder: &Utf8Path) -> &Utf8Path {
    folder.ancestors().find(|above| above.join(WORKSPACE_FILE).is_file()).unwrap_or(folder)
}

/// Looks at what lies below a folder, and makes of it the manifests of a workspace: of the one that the folder is in,
/// or of a new one there. Nothing is written; see [`Import::write`].
///
/// # Errors
/// A folder that cannot be searched, and an `imgforge.kdl` that is there and cannot be read.
pub fn import(folder: &Utf8Path) -> Result<(Utf8PathBuf, Import), Error> {
    let cannot = |error| Error::Io { path: folder.to_owned(), error };
    let folder = folder.canonicalize_utf8().map_err(cannot)?;
    let root = root_of(&folder).to_owned();
    let tree = WorkTree::uncached(&root);
    let below = folder.strip_prefix(&root).unwrap_or(Utf8Path::new(""));
    let importer = Importer::new(&tree, &root)?;
    let mut paths = tree.find(&find::is_meant, Hidden::Shown).map_err(cannot)?;
    let others = tree.find(&|name| name == WORKSPACE_FILE, Hidden::Shown).map_err(cannot)?;
    let others: Vec<&Utf8Path> =
        others.iter().filter_map(|path| path.parent()).filter(|folder| !folder.as_str().is_empty()).collect();
    paths.retain(|path| !others.iter().any(|other| path.starts_with(other)));
    let mut import = importer.import(find::find(&tree, &paths, below));
    if import.has_no_image() {
        import.files.clear();
    }
    Ok((root, import))
}

impl Import {
    /// Returns whether nothing was found that is an image of a workspace; then there is nothing to write.
    pub fn has_no_image(&self) -> bool {
        self.taken.is_empty() && self.kept.is_empty() && self.gone.is_empty()
    }

    /// Writes the manifests below `root`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, root: &Utf8Path) -> Result<(), Error> {
        for (path, text) in &self.files {
            let full = root.join(path);
            cache_file::replace(&full, text.as_bytes()).map_err(|error| Error::Io { path: full, error })?;
        }
        Ok(())
    }
}
