//! What a workspace described at other commits: the content tags that its images had there.
//!
//! A commit is checked out as git does it (attributes, filters, modes), into a temporary folder and without touching the
//! work tree or the index, and opened there as any workspace is.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::name::ImageName;

use crate::session::OpenOptions;
use crate::{Error, Session};

/// Images with their content tags.
pub(crate) type ContentTags = BTreeSet<(ImageName, String)>;

impl Session {
    /// The content tags of all images at the commits that git's `revisions` mean: one (`main`, `v1.0`, `HEAD~3`) or a range
    /// (`v1.0..main`).
    ///
    /// # Errors
    /// [`Error::Revision`] for what git does not know, and for a commit whose workspace cannot be read: what it needs is not
    /// known then.
    pub(crate) fn content_tags_at(&self, revisions: &[String]) -> Result<ContentTags, Error> {
        if revisions.is_empty() {
            return Ok(ContentTags::new());
        }
        let prefix = line(self.git("HEAD", &["rev-parse", "--show-prefix"])?);
        let top = Utf8PathBuf::from(line(self.git("HEAD", &["rev-parse", "--show-toplevel"])?));
        let mut commits = BTreeSet::new();
        for revision in revisions {
            let listed = ["rev-list", "--no-walk", "--end-of-options", revision, "--"];
            let listed = self.git(revision, &listed)?;
            commits.extend(String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned));
        }
        let mut tags = ContentTags::new();
        for commit in commits {
            let wrong = |error: Error| Error::Revision { revision: commit.clone(), reason: explained(error) };
            tags.extend(self.content_tags_of(&commit, &top, &prefix).map_err(wrong)?);
        }
        Ok(tags)
    }

    fn content_tags_of(&self, commit: &str, top: &Utf8Path, prefix: &str) -> Result<ContentTags, Error> {
        let io = |error| Error::Io { path: top.to_owned(), error };
        let folder = tempfile::tempdir().map_err(io)?;
        let folder = Utf8Path::from_path(folder.path())
            .ok_or_else(|| io(std::io::ErrorKind::InvalidFilename.into()))?;
        let tree = folder.join("tree");
        let run = |arguments: &[&str]| {
            let mut command = git_in(top);
            command.args(arguments).env("GIT_INDEX_FILE", folder.join("index"));
            checked(commit, command)
        };
        run(&["read-tree", commit])?;
        run(&["checkout-index", "--all", &format!("--prefix={tree}/")])?;
        let root = tree.join(prefix);
        if !root.join("imgforge.kdl").is_file() {
            // A commit from before there was a workspace: no image was pushed for it.
            return Ok(ContentTags::new());
        }
        let session = Self::open(&root, &OpenOptions { cache: false, engine: self.engine })?;
        let lock = session.read_lock()?;
        session.check_lock(&lock)?;
        let all = session.workspace.images.keys().cloned().collect();
        let prepared = session.prepare(&all, &lock, &[])?;
        let tag =
            |target: &imgforge_core::plan::Target| (target.name.clone(), target.fingerprint.content_tag());
        Ok(prepared.iter().map(|prepared| tag(&prepared.target)).collect())
    }

    fn git(&self, revision: &str, arguments: &[&str]) -> Result<Output, Error> {
        let mut command = git_in(&self.root);
        command.args(arguments);
        checked(revision, command)
    }
}

fn git_in(folder: &Utf8Path) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder);
    command
}

fn checked(revision: &str, mut command: Command) -> Result<Output, Error> {
    let failed = |reason: String| Error::Revision { revision: revision.to_owned(), reason };
    let output = command.output().map_err(|error| failed(format!("git cannot be run: {error}")))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(said.lines().next().unwrap_or("git fails").trim_start_matches("fatal: ").to_owned()))
}

/// What git printed, without the end of its line.
fn line(output: Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.truncate(text.trim_end_matches('\n').len());
    text
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
