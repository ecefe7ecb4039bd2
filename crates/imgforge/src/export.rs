//! An image as the files of a scheduler.

use std::collections::BTreeSet;

use imgforge_core::export::{self, Exported, Scheduler};
use imgforge_core::lint::{self, Findings};
use imgforge_core::name::{ImageName, Tag};
use imgforge_oci::Digest;

use crate::prepare::Tags;
use crate::{Error, Session};

/// Which of an image's references an export names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Reference {
    /// Its first release tag.
    #[default]
    Release,
    /// This tag.
    Tag(Tag),
    /// The tag that is never moved: that of the fingerprint that the image has now.
    Content,
    /// The digest of its manifest.
    Digest(Digest),
    /// A reference of another repository.
    Whole(String),
}

impl Session {
    /// The files that run `name` under a scheduler. Only manifests, Dockerfiles and templates are read; for
    /// [`Reference::Content`] the files of the context too.
    ///
    /// # Errors
    /// Problems of the image and of the workspace's own templates.
    pub fn export(&self, name: &ImageName, to: Scheduler, reference: &Reference) -> Result<Exported, Error> {
        let reference = self.reference(name, reference)?;
        let workload = export::workload(&self.workspace, &self.graph, name, reference)?;
        Ok(export::render(&workload, to, &self.source)?)
    }

    fn reference(&self, name: &ImageName, reference: &Reference) -> Result<String, Error> {
        let repository = self.repository(name);
        Ok(match reference {
            Reference::Release => self.release_references(name)?.swap_remove(0),
            Reference::Tag(tag) => format!("{repository}:{tag}"),
            Reference::Digest(digest) => format!("{repository}@{digest}"),
            Reference::Whole(reference) => reference.clone(),
            Reference::Content => {
                let lock = self.read_lock()?;
                let only = BTreeSet::from([name.clone()]);
                let prepared = self.prepare_with(&only, &lock, &[], Tags::LeftOut)?;
                let found = prepared.iter().find(|prepared| prepared.target.name == *name);
                let found = found.expect("what is asked for is prepared");
                format!("{repository}:{}", found.target.fingerprint.content_tag())
            }
        })
    }

    /// Returns what the rules find in `selected` images.
    ///
    /// # Errors
    /// Problems of the services of any image.
    pub fn lint(&self, selected: &BTreeSet<ImageName>) -> Result<Findings, Error> {
        Ok(lint::lint(&self.workspace, &self.graph, selected, &self.private_keys())?)
    }
}
