//! From names to targets: every image rendered, its inputs named and hashed, its fingerprint made.

use std::collections::{BTreeMap, BTreeSet};

use camino::Utf8PathBuf;
use imgforge_core::diagnostic::Problems;
use imgforge_core::fingerprint::Fingerprint;
use imgforge_core::inputs::{self, BuildInputs, ImageInputs, Inputs, Installer, Parsed};
use imgforge_core::lint::KeyInContext;
use imgforge_core::lock::{Lock, LockView};
use imgforge_core::name::ImageName;
use imgforge_core::plan::{Relocked, Target};
use imgforge_core::render::{self, RenderedImage};
use imgforge_core::workspace::Image;
use imgforge_engine::labels;
use imgforge_oci::Digest;
use imgforge_oci::reference::Parts;
use imgforge_packages::{Options, Scheme, script_fingerprint};
use imgforge_syntax::Span;
use rayon::prelude::*;

use crate::build::layouts::name_in_engine;
use crate::{Error, Session};

/// A target with all that a build of it needs.
#[derive(Debug)]
pub struct Prepared {
    /// The target as the plan compares it.
    pub target: Target,
    /// The Dockerfile and the files that imgforge writes for it.
    pub rendered: RenderedImage,
    /// What else a build takes.
    pub build: BuildInputs,
}

impl Prepared {
    /// Returns whether a step installs packages, also if what it asks for is there already, so that there are none.
    pub(crate) fn installs(&self) -> bool {
        inputs::installs(&self.rendered, &self.build.packages)
    }
}

/// One image by itself, before its parents are known.
struct Alone {
    rendered: RenderedImage,
    made: ImageInputs,
    release_references: Vec<String>,
}

/// The scripts of this version.
struct Scripts;

impl Installer for Scripts {
    fn debian(&self, keep_docs: bool) -> String {
        script_fingerprint(Scheme::Debian, Options { keep_docs })
    }

    fn alpine(&self) -> String {
        script_fingerprint(Scheme::Alpine, Options::default())
    }
}

/// The choice of making release tags, which may need what is not known everywhere: a branch, a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tags {
    /// They are: one that cannot be made is a problem.
    Needed,
    /// They are left out: nobody asks for them.
    LeftOut,
}

impl Session {
    /// Renders, hashes and fingerprints `names` and all their ancestors, parents first.
    ///
    /// # Errors
    /// All problems of all images: templates, services, files that are missing or cannot be read.
    pub fn prepare(
        &self,
        names: &BTreeSet<ImageName>,
        lock: &Lock,
        relocked: &[Relocked],
    ) -> Result<Vec<Prepared>, Error> {
        self.prepare_with(names, lock, relocked, Tags::Needed)
    }

    /// The same, with or without release tags.
    pub(crate) fn prepare_with(
        &self,
        names: &BTreeSet<ImageName>,
        lock: &Lock,
        relocked: &[Relocked],
        tags: Tags,
    ) -> Result<Vec<Prepared>, Error> {
        let mut needed: BTreeSet<&ImageName> = names.iter().collect();
        for name in names {
            needed.extend(self.graph.ancestors(name));
        }
        let ordered: Vec<&ImageName> =
            self.graph.topological().filter(|name| needed.contains(name)).collect();
        let view = LockView::new(lock);
        let results: Vec<Result<Alone, Problems>> =
            ordered.par_iter().map(|name| self.prepare_alone(name, &view, tags)).collect();
        self.source.save_cache();

        let mut problems = Problems::default();
        let mut prepared: Vec<Prepared> = Vec::new();
        let mut fingerprints: BTreeMap<&ImageName, Fingerprint> = BTreeMap::new();
        for (name, result) in ordered.into_iter().zip(results) {
            match result {
                Err(found) => problems.extend(found),
                Ok(_) if problems.has_errors() => {}
                Ok(alone) => {
                    let done = self.with_parents(name, alone, &fingerprints, relocked);
                    fingerprints.insert(name, done.target.fingerprint);
                    prepared.push(done);
                }
            }
        }
        if problems.has_errors() { Err(Error::Problems(problems)) } else { Ok(prepared) }
    }

    fn prepare_alone(&self, name: &ImageName, lock: &LockView<'_>, tags: Tags) -> Result<Alone, Problems> {
        let release_references = match tags {
            Tags::Needed => self.release_references(name)?,
            Tags::LeftOut => Vec::new(),
        };
        let rendered = render::render(&self.workspace, &self.graph, name, &self.source)?;
        let (workspace, source) = (&self.workspace, &self.source);
        let from = Inputs { workspace, source, lock, installer: &Scripts };
        let made = from.of(&self.workspace.images[name], &rendered)?;
        Ok(Alone { rendered, made, release_references })
    }

    /// The private keys that each image's build can reach. An image that cannot be rendered has none.
    pub(crate) fn private_keys(&self) -> BTreeMap<ImageName, Vec<KeyInContext>> {
        let keys = |(name, image): (&ImageName, &Image)| {
            let rendered = render::render(&self.workspace, &self.graph, name, &self.source).ok()?;
            let parsed = Parsed::of(&self.workspace, image, &rendered).ok()?;
            let found = parsed.context(&self.source).private_keys();
            let place = |(span, path): (Span, Utf8PathBuf)| {
                let (file, span) = parsed.place(span);
                KeyInContext { file, span, path }
            };
            Some((name.clone(), found.into_iter().map(place).collect()))
        };
        let images: Vec<_> = self.workspace.images.iter().collect();
        images.into_par_iter().filter_map(keys).collect()
    }

    fn with_parents(
        &self,
        name: &ImageName,
        alone: Alone,
        fingerprints: &BTreeMap<&ImageName, Fingerprint>,
        relocked: &[Relocked],
    ) -> Prepared {
        let image = &self.workspace.images[name];
        let Alone { rendered, mut made, release_references } = alone;
        let parents: BTreeSet<ImageName> = image.parents.iter().map(|parent| parent.name.clone()).collect();
        made.insert_parents(parents.iter().map(|parent| (parent, fingerprints[parent])));
        let ImageInputs { inputs, instructions, build } = made;
        let security = build.packages.iter().filter(|package| package.security);
        let target = Target {
            name: name.clone(),
            platform: self.platform().to_owned(),
            fingerprint: inputs.fingerprint(),
            inputs,
            parents,
            release_references,
            instructions,
            relocked: relocked
                .iter()
                .filter(|row| build.packages.iter().any(|p| p.name == row.package && p.version == row.new))
                .cloned()
                .collect(),
            security: security.map(inputs::package_input).collect(),
        };
        Prepared { target, rendered, build }
    }

    /// Returns the platform that is built for: `linux/amd64`.
    pub fn platform(&self) -> &str {
        self.workspace.manifest.platform()
    }

    /// Returns the labels that a build gives to an image, beside those that its Dockerfile has. The one that is
    /// missing is [`labels::PARENTS`]: it has the ids of the parents, which are known when these are built.
    pub fn labels(&self, prepared: &Prepared) -> BTreeMap<String, String> {
        let target = &prepared.target;
        let mut found = inputs::outside_labels(&self.workspace, &self.workspace.images[&target.name]);
        for (key, value) in [
            (labels::WORKSPACE, self.workspace.manifest.name.value.clone()),
            (labels::IMAGE, target.name.to_string()),
            (labels::FINGERPRINT, target.fingerprint.to_string()),
            (labels::INPUTS, target.inputs.to_label()),
            (labels::CONTENT_TAG, target.fingerprint.content_tag()),
        ] {
            found.insert(key.to_owned(), value);
        }
        found
    }

    /// `NAME`, or `REGISTRY/NAME` where the workspace has a registry.
    pub(crate) fn repository(&self, name: &ImageName) -> String {
        match &self.workspace.manifest.registry {
            Some(registry) => format!("{}/{name}", registry.place.value),
            None => name.to_string(),
        }
    }

    /// The reference that an image of this fingerprint has in an engine, and that is never moved.
    pub(crate) fn content_reference(&self, name: &ImageName, fingerprint: Fingerprint) -> String {
        format!("{}:{}", self.repository(name), fingerprint.content_tag())
    }

    /// The references that are moved to an image once it is good.
    ///
    /// # Errors
    /// As [`release_tags`](Self::release_tags).
    pub fn release_references(&self, name: &ImageName) -> Result<Vec<String>, Problems> {
        let repository = self.repository(name);
        Ok(self.release_tags(name)?.iter().map(|tag| format!("{repository}:{tag}")).collect())
    }

    /// The Dockerfile as an engine gets it: each parent's name replaced by its content tag, which an engine can
    /// resolve to exactly one image, images from outside with their locked digests, and comments that name the manifest
    /// lines.
    pub(crate) fn engine_dockerfile(
        &self,
        prepared: &Prepared,
        fingerprints: &BTreeMap<ImageName, Fingerprint>,
    ) -> String {
        let image = &self.workspace.images[&prepared.target.name];
        let mut text = prepared.rendered.dockerfile.clone();
        let mut references = prepared.build.dockerfile.references(&prepared.build.args);
        references.sort_by_key(|reference| std::cmp::Reverse(reference.span.offset));
        for reference in references {
            let range = reference.span.offset as usize..(reference.span.offset + reference.span.len) as usize;
            let parent = image.parents.iter().find(|parent| parent.as_written == reference.image);
            let Some(parent) = parent else {
                if let Some(digest) = prepared.build.externals.get(&reference.image) {
                    text.replace_range(range, &self.engine_reference(&reference.image, digest));
                }
                continue;
            };
            let tag = fingerprints[&parent.name].content_tag();
            text.replace_range(range, &format!("{}:{tag}", self.repository(&parent.name)));
        }
        render::with_comments(image, &prepared.rendered, &text)
    }

    /// By what an engine knows an image from outside.
    fn engine_reference(&self, reference: &str, digest: &Digest) -> String {
        if self.layout_of(reference).is_some() {
            return name_in_engine(reference, digest);
        }
        Parts { digest: Some(digest.as_str()), ..Parts::of(reference) }.to_string()
    }

    /// The Dockerfile of one image as an engine gets it.
    ///
    /// # Errors
    /// All problems of the image and its ancestors.
    pub fn dockerfile(&self, name: &ImageName) -> Result<String, Error> {
        let lock = self.read_lock()?;
        let prepared = self.prepare_with(&BTreeSet::from([name.clone()]), &lock, &[], Tags::LeftOut)?;
        let fingerprints: BTreeMap<ImageName, Fingerprint> =
            prepared.iter().map(|p| (p.target.name.clone(), p.target.fingerprint)).collect();
        let wanted = prepared.iter().find(|p| p.target.name == *name).expect("what is asked for is prepared");
        Ok(self.engine_dockerfile(wanted, &fingerprints))
    }
}
