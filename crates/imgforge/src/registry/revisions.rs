//! What a workspace described at other commits: the content tags that its images had there.
//!
//! A commit is checked out as git does it (attributes, filters, modes), into a temporary folder and without touching
//! the work tree or the index, and opened there as any workspace is.

use std::collections::BTreeSet;

use camino::Utf8Path;
use imgforge_core::name::ImageName;

use crate::git::Git;
use crate::prepare::Tags;
use crate::session::OpenOptions;
use crate::{Error, Session};

/// Images with their content tags.
pub(crate) type ContentTags = BTreeSet<(ImageName, String)>;

impl Session {
    /// The content tags of all images at the commits that git's `revisions` mean: one (`main`, `v1.0`, `HEAD~3`) or a
    /// range (`v1.0..main`).
    ///
    /// # Errors
    /// [`Error::Revision`] for what git does not know, and for a commit whose workspace cannot be read: what it needs
    /// is not known then.
    pub(crate) fn content_tags_at(&self, revisions: &[String]) -> Result<ContentTags, Error> {
        if revisions.is_empty() {
            return Ok(ContentTags::new());
        }
        let git = Git::of(&self.root);
        let wrong = |revision: &str| {
            let revision = revision.to_owned();
            move |reason| Error::Revision { revision, reason }
        };
        let prefix = git.prefix().map_err(wrong("HEAD"))?;
        let mut commits = BTreeSet::new();
        for revision in revisions {
            commits.extend(git.commits(revision).map_err(wrong(revision))?);
        }
        let mut tags = ContentTags::new();
        for commit in commits {
            let found = self.content_tags_of(&commit, &prefix);
            tags.extend(found.map_err(|error| wrong(&commit)(explained(error)))?);
        }
        Ok(tags)
    }

    fn content_tags_of(&self, commit: &str, prefix: &str) -> Result<ContentTags, Error> {
        let io = |error| Error::Io { path: self.root.clone(), error };
        let folder = tempfile::tempdir().map_err(io)?;
        let folder = Utf8Path::from_path(folder.path())
            .ok_or_else(|| io(std::io::ErrorKind::InvalidFilename.into()))?;
        let tree = folder.join("tree");
        let checked_out = Git::of(&self.root).check_out(commit, &tree);
        checked_out.map_err(|reason| Error::Revision { revision: commit.to_owned(), reason })?;
        let root = tree.join(prefix);
        if !root.join("imgforge.kdl").is_file() {
            // A commit from before there was a workspace: no image was pushed for it.
            return Ok(ContentTags::new());
        }
        let session = Self::open(&root, &OpenOptions { cache: false, engine: self.engine, checkout: true })?;
        let lock = session.read_lock()?;
        session.check_lock(&lock)?;
        let all = session.workspace.images.keys().cloned().collect();
        let prepared = session.prepare_with(&all, &lock, &[], Tags::LeftOut)?;
        let tag =
            |target: &imgforge_core::plan::Target| (target.name.clone(), target.fingerprint.content_tag());
        Ok(prepared.iter().map(|prepared| tag(&prepared.target)).collect())
    }
}

/// An error in one line.
fn explained(error: Error) -> String {
    match error {
        Error::Problems(problems) => {
            let first = problems.sorted().into_iter().next();
            first.map_or_else(|| "the workspace has problems".into(), |problem| problem.to_string())
        }
        Error::Revision { reason, .. } => reason,
        other => other.to_string(),
    }
}
