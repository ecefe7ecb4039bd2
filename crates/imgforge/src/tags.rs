//! What the release tags of images come to in this run: their templates filled with versions, git's state and the date.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use imgforge_core::diagnostic::{Problem, Problems};
use imgforge_core::name::{ImageName, Tag};
use imgforge_core::tag::{TagError, TagValues};

use crate::Session;
use crate::git::Git;

/// Variables of continuous integration that name the branch, where git itself only knows a commit. The first is ours.
const BRANCH_VARIABLES: &[&str] =
    &["IMGFORGE_GIT_BRANCH", "GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_REF_NAME", "BUILDKITE_BRANCH"];

/// The values that tags are filled with, found out when a tag first asks for them.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    branch: OnceLock<Option<String>>,
    commit: OnceLock<Option<String>>,
    date: OnceLock<String>,
}

impl Session {
    /// The release tags of an image, each once, in the order of the manifest; `latest` when it gives none.
    ///
    /// # Errors
    /// Templates that name what is not known here, each with its place.
    pub fn release_tags(&self, name: &ImageName) -> Result<Vec<Tag>, Problems> {
        let manifest = &self.workspace.images[name].manifest;
        if manifest.tags.is_empty() {
            return Ok(vec![Tag::new("latest").expect("a tag")]);
        }
        let (mut tags, mut problems) = (Vec::new(), Problems::default());
        let mut seen = BTreeSet::new();
        for template in &manifest.tags {
            let needed = template.value.values();
            let version = manifest.version.as_ref().or(self.workspace.manifest.version.as_ref());
            let wants = |value: &str| needed.contains(value);
            let values = TagValues {
                version: version.map(|version| version.value.clone()),
                branch: wants("git.branch").then(|| self.branch()).flatten(),
                commit: (wants("git.commit") || wants("git.short")).then(|| self.commit()).flatten(),
                date: wants("date").then(|| self.outside.date.get_or_init(today).clone()),
            };
            match template.value.render(&values) {
                Ok(tag) => {
                    if seen.insert(tag.clone()) {
                        tags.push(tag);
                    }
                }
                Err(error) => {
                    let problem = Problem::at(&manifest.file, template.span, error.to_string(), "this tag");
                    problems.push(match error {
                        TagError::Unknown("version") => {
                            problem.help("give the image or the workspace one: version \"1.0\"")
                        }
                        TagError::Unknown("git.branch") => problem.help(
                            "no branch is checked out here; say it in the environment: IMGFORGE_GIT_BRANCH=main",
                        ),
                        TagError::Unknown(_) => {
                            problem.help("the workspace is in no git repository with a commit")
                        }
                        TagError::Empty(_) => problem,
                    });
                }
            }
        }
        if problems.has_errors() { Err(problems) } else { Ok(tags) }
    }

    fn branch(&self) -> Option<String> {
        let find = || {
            let said = std::env::var("IMGFORGE_GIT_BRANCH").ok();
            let ours =
                said.or_else(|| Git::of(&self.root).line(&["symbolic-ref", "--quiet", "--short", "HEAD"]));
            ours.or_else(|| BRANCH_VARIABLES.iter().find_map(|name| std::env::var(name).ok()))
                .filter(|branch| !branch.is_empty())
        };
        self.outside.branch.get_or_init(find).clone()
    }

    /// The commit that is checked out, if the workspace lies in a git repository.
    pub(crate) fn commit(&self) -> Option<String> {
        self.outside
            .commit
            .get_or_init(|| Git::of(&self.root).line(&["rev-parse", "--verify", "HEAD"]))
            .clone()
    }
}

/// Today in UTC, or the day of `SOURCE_DATE_EPOCH` where that is set (reproducible-builds.org).
fn today() -> String {
    let fixed = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    let now = fixed.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    now.unwrap_or_else(jiff::Timestamp::now).strftime("%Y-%m-%d").to_string()
}
