//! From names to targets: every image rendered, its context listed and hashed, its fingerprint made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use camino::Utf8PathBuf;
use imgforge_core::context::{self, Context, ContextEntry};
use imgforge_core::diagnostic::{Problem, Problems, SourceFile, Span};
use imgforge_core::dockerfile::Dockerfile;
use imgforge_core::fingerprint::{FORMAT, Fingerprint, InputKind, InputManifest};
use imgforge_core::lint::KeyInContext;
use imgforge_core::lock::{Lock, LockedExternal, LockedPackage};
use imgforge_core::manifest::{Compression, ImageManifest, Layers};
use imgforge_core::name::ImageName;
use imgforge_core::plan::{Relocked, Target};
use imgforge_core::render::{self, RenderedImage};
use imgforge_core::workspace::{self, Image};
use imgforge_engine::labels;
use imgforge_oci::Digest;
use imgforge_oci::reference::Parts;
use imgforge_packages::Scheme;
use rayon::prelude::*;

use crate::build::layouts::name_in_engine;
use crate::lock::LockView;
use crate::{Error, Session};

/// The platform of a workspace that names none.
const DEFAULT_PLATFORM: &str = "linux/amd64";

/// A target with all that a build of it needs.
#[derive(Debug)]
pub struct Prepared {
    /// The target as the plan compares it.
    pub target: Target,
    /// The Dockerfile and the files that imgforge writes for it.
    pub rendered: RenderedImage,
    /// The rendered Dockerfile, parsed.
    pub dockerfile: Dockerfile,
    /// The files of the build: exactly those that are hashed.
    pub entries: Vec<ContextEntry>,
    /// Private keys among them that more can read in the image than on the disk, since git keeps no such mode.
    pub opened_keys: Vec<Utf8PathBuf>,
    /// Build arguments that come from the workspace.
    pub args: BTreeMap<String, String>,
    /// The packages that this image adds.
    pub packages: Vec<LockedPackage>,
    /// Images from outside, as written, with their digests, as far as anything gives one.
    pub externals: BTreeMap<String, Digest>,
}

/// The folder that the step that installs packages reads.
const PACKAGES: &str = ".imgforge/packages";

impl Prepared {
    /// Returns whether a step installs packages, also if what it asks for is there already, so that there are none.
    pub(crate) fn installs(&self) -> bool {
        !self.packages.is_empty() || self.rendered.dockerfile.contains(PACKAGES)
    }
}

/// One image by itself, before its parents are known.
struct Alone {
    rendered: RenderedImage,
    dockerfile: Dockerfile,
    entries: Vec<ContextEntry>,
    opened_keys: Vec<Utf8PathBuf>,
    inputs: InputManifest,
    /// The text of each instruction, as it is hashed.
    instructions: Vec<String>,
    args: BTreeMap<String, String>,
    packages: Vec<LockedPackage>,
    release_references: Vec<String>,
    externals: BTreeMap<String, Digest>,
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
        let image = &self.workspace.images[name];
        let release_references = match tags {
            Tags::Needed => self.release_references(name)?,
            Tags::LeftOut => Vec::new(),
        };
        let rendered = render::render(&self.workspace, &self.graph, name, &self.source)?;
        let args = self.args(image);
        let dockerfile = Self::parse(image, &rendered)?;
        let listing = self.context(image, &rendered, &dockerfile, &args).list().map_err(|found| {
            let told = found.into_iter().map(|problem| (problem.span, problem.message, problem.help));
            Self::placed(image, &rendered, told)
        })?;
        let (entries, opened_keys) = (listing.entries, listing.opened_keys);
        let beyond = dockerfile.beyond(rendered.network, &args);
        if !beyond.is_empty() {
            let told = beyond.into_iter().map(|problem| (problem.span, problem.message, problem.help));
            return Err(Self::placed(image, &rendered, told));
        }
        let packages: Vec<LockedPackage> = lock.added_by(name).into_iter().cloned().collect();

        let mut inputs = InputManifest::default();
        inputs.insert(InputKind::Format, "imgforge", FORMAT);
        inputs.insert(InputKind::Platform, "platform", self.platform());
        inputs.insert(InputKind::Network, "network", rendered.network.as_str());
        // Default values are not recorded as inputs, so fingerprints computed before these options existed stay valid.
        if self.workspace.manifest.compression == Compression::Zstd {
            inputs.insert(InputKind::Layers, "compression", "zstd");
        }
        if image.manifest.layers == Layers::One {
            inputs.insert(InputKind::Layers, "number", "one");
        }
        let (hashed, instructions) = hashed(image, &rendered, &dockerfile)?;
        inputs.insert_dockerfile(hashed, instructions.iter().map(String::as_str));
        context::insert_inputs(&entries, &mut inputs);
        for package in &packages {
            inputs.insert(
                InputKind::Package,
                package_input(package),
                format!("{} {}", package.version, package.sha256),
            );
        }
        if !packages.is_empty() || rendered.dockerfile.contains(PACKAGES) {
            let options = imgforge_packages::Options { keep_docs: image.manifest.keep_docs };
            let asked = image.manifest.packages.first().map(|request| &request.source.value);
            let source = asked.or(packages.first().map(|package| &package.source));
            let scheme = source.map(|source| self.scheme(source)).unwrap_or_default();
            let script = imgforge_packages::script_fingerprint(scheme, options);
            inputs.insert(InputKind::Installer, "packages", script);
            if scheme == Scheme::Alpine {
                // What was asked for by name is written down in the image.
                inputs.insert(InputKind::Installer, "world", wanted(&image.manifest).join(" "));
            }
        }
        for (arg, value) in &args {
            inputs.insert(InputKind::Arg, arg, value);
        }
        for (key, value) in self.outside_labels(image) {
            inputs.insert(InputKind::Label, key, value);
        }
        let mut externals = BTreeMap::new();
        for external in &image.externals {
            let locked = lock.externals().get(&external.reference);
            let (digest, input) = match (external.pinned(), locked) {
                (Some(pinned), _) => (Some(pinned.clone()), Some(pinned)),
                (None, Some(locked)) => {
                    (Some(locked.digest.clone()), Some(self.external_input(image, locked).clone()))
                }
                // Without a lock there is none: only what is shown, and not built, does without.
                (None, None) => (None, None),
            };
            let input = input.map_or_else(String::new, String::from);
            inputs.insert(InputKind::External, &external.reference, input);
            externals.extend(digest.map(|digest| (external.reference.clone(), digest)));
        }
        Ok(Alone {
            rendered,
            dockerfile,
            entries,
            opened_keys,
            inputs,
            instructions,
            args,
            packages,
            release_references,
            externals,
        })
    }

    fn context<'a>(
        &'a self,
        image: &'a Image,
        rendered: &'a RenderedImage,
        dockerfile: &'a Dockerfile,
        args: &'a BTreeMap<String, String>,
    ) -> Context<'a> {
        Context {
            source: &self.source,
            dir: &image.context.dir,
            dockerfile,
            dockerfile_path: image.dockerfile.as_ref().map(|hand_written| &*hand_written.file.path),
            args,
            generated: &rendered.generated,
            passed_over: &image.context.passed_over,
            is_rendered: image.dockerfile.is_none(),
        }
    }

    /// The private keys that each image's build can reach. An image that cannot be rendered has none.
    pub(crate) fn private_keys(&self) -> BTreeMap<ImageName, Vec<KeyInContext>> {
        let keys = |(name, image): (&ImageName, &Image)| {
            let rendered = render::render(&self.workspace, &self.graph, name, &self.source).ok()?;
            let dockerfile = Self::parse(image, &rendered).ok()?;
            let args = self.args(image);
            let found = self.context(image, &rendered, &dockerfile, &args).private_keys();
            let place = |(span, path): (Span, Utf8PathBuf)| {
                let (file, span) = Self::place(image, &rendered, span);
                KeyInContext { file, span, path }
            };
            Some((name.clone(), found.into_iter().map(place).collect()))
        };
        let images: Vec<_> = self.workspace.images.iter().collect();
        images.into_par_iter().filter_map(keys).collect()
    }

    /// Returns the arguments of a build. A rendered Dockerfile has their values in its text.
    fn args(&self, image: &Image) -> BTreeMap<String, String> {
        match &image.dockerfile {
            Some(_) => workspace::build_args(&self.workspace.manifest, &image.manifest),
            None => BTreeMap::new(),
        }
    }

    fn with_parents(
        &self,
        name: &ImageName,
        alone: Alone,
        fingerprints: &BTreeMap<&ImageName, Fingerprint>,
        relocked: &[Relocked],
    ) -> Prepared {
        let image = &self.workspace.images[name];
        let Alone {
            rendered,
            dockerfile,
            entries,
            opened_keys,
            mut inputs,
            instructions,
            args,
            packages,
            release_references,
            externals,
        } = alone;
        let parents: BTreeSet<ImageName> = image.parents.iter().map(|parent| parent.name.clone()).collect();
        for parent in &parents {
            inputs.insert(InputKind::Parent, parent.as_str(), fingerprints[parent].to_string());
        }
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
                .filter(|row| packages.iter().any(|p| p.name == row.package && p.version == row.new))
                .cloned()
                .collect(),
            security: packages.iter().filter(|package| package.security).map(package_input).collect(),
        };
        Prepared { target, rendered, dockerfile, entries, opened_keys, args, packages, externals }
    }

    /// The Dockerfile that the image is built from: the hand-written file, or what was rendered.
    fn parse(image: &Image, rendered: &RenderedImage) -> Result<Dockerfile, Problems> {
        if let Some(hand_written) = &image.dockerfile {
            return Ok(hand_written.parsed.clone());
        }
        Dockerfile::parse(&rendered.dockerfile).map_err(|found| {
            let file = rendered_file(image, rendered);
            let mut problems = Problems::default();
            for problem in found {
                let at = Problem::at(&file, problem.span, problem.message, "in the rendered Dockerfile");
                problems.push(match problem.help {
                    Some(help) => at.help(help),
                    None => at,
                });
            }
            problems
        })
    }

    /// Problems of the context and of the network are found in the Dockerfile; in a rendered one, the manifest line
    /// that the instruction comes from is what the user can mend.
    fn placed(
        image: &Image,
        rendered: &RenderedImage,
        found: impl Iterator<Item = (Span, String, Option<String>)>,
    ) -> Problems {
        let mut problems = Problems::default();
        for (span, message, help) in found {
            let (file, span) = Self::place(image, rendered, span);
            let at = Problem::at(&file, span, message, "here");
            problems.push(match help {
                Some(help) => at.help(help),
                None => at,
            });
        }
        problems
    }

    /// Returns the place at which what the Dockerfile says there can be mended.
    fn place(image: &Image, rendered: &RenderedImage, span: Span) -> (Arc<SourceFile>, Span) {
        match &image.dockerfile {
            Some(hand_written) => (Arc::clone(&hand_written.file), span),
            None => match origin(rendered, span) {
                Some(span) => (Arc::clone(&image.manifest.file), span),
                None => (rendered_file(image, rendered), span),
            },
        }
    }

    /// Returns the platform that is built for: `linux/amd64`.
    pub fn platform(&self) -> &str {
        self.workspace.manifest.platform.as_ref().map_or(DEFAULT_PLATFORM, |platform| &platform.value)
    }

    /// The digest of an image from outside that an image's fingerprint is over: that of the platform. A hand-written
    /// Dockerfile may ask for other platforms of it, so there it is that of the index.
    pub(crate) fn external_input<'l>(&self, image: &Image, locked: &'l LockedExternal) -> &'l Digest {
        if image.dockerfile.is_some() { &locked.digest } else { locked.digest_for(self.platform()) }
    }

    /// Labels of hand-written Dockerfiles' images, which no rendered text carries.
    pub(crate) fn outside_labels(&self, image: &Image) -> BTreeMap<String, String> {
        if image.dockerfile.is_none() {
            return BTreeMap::new();
        }
        let labels = self.workspace.manifest.labels.iter().chain(&image.manifest.labels);
        labels.map(|(key, value)| (key.clone(), value.value.clone())).collect()
    }

    /// Returns the labels that a build gives to an image, beside those that its Dockerfile has. The one that is
    /// missing is [`labels::PARENTS`]: it has the ids of the parents, which are known when these are built.
    pub fn labels(&self, prepared: &Prepared) -> BTreeMap<String, String> {
        let target = &prepared.target;
        let mut found = self.outside_labels(&self.workspace.images[&target.name]);
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
        let mut references = prepared.dockerfile.references(&prepared.args);
        references.sort_by_key(|reference| std::cmp::Reverse(reference.span.offset));
        for reference in references {
            let range = reference.span.offset as usize..(reference.span.offset + reference.span.len) as usize;
            let parent = image.parents.iter().find(|parent| parent.as_written == reference.image);
            let Some(parent) = parent else {
                if let Some(digest) = prepared.externals.get(&reference.image) {
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

/// The text that a Dockerfile is hashed as, and that of its instructions: of a target, what it needs and nothing else.
fn hashed<'r>(
    image: &'r Image,
    rendered: &'r RenderedImage,
    dockerfile: &Dockerfile,
) -> Result<(&'r str, Vec<String>), Problems> {
    let texts = |dockerfile: &Dockerfile| {
        dockerfile.instructions().iter().map(|instruction| instruction.text().to_owned()).collect()
    };
    let reduced = image.dockerfile.as_ref().and_then(|hand_written| hand_written.reduced.as_ref());
    let Some(reduced) = reduced else { return Ok((&rendered.dockerfile, texts(dockerfile))) };
    match Dockerfile::parse(&reduced.canonical) {
        Ok(parsed) => Ok((&reduced.canonical, texts(&parsed))),
        Err(_) => {
            let message = format!("the Dockerfile of {} cannot be reduced to its target", image.name());
            Err(Problem::at(&image.manifest.file, image.manifest.base.span, message, "this one").into())
        }
    }
}

/// The names of packages that a manifest asks for, sorted, without versions.
pub(crate) fn wanted(manifest: &ImageManifest) -> Vec<String> {
    let names = manifest.packages.iter().flat_map(|request| &request.names);
    let names: BTreeSet<&str> =
        names.map(|name| name.value.split('=').next().unwrap_or(&name.value)).collect();
    names.into_iter().map(str::to_owned).collect()
}

/// The name of a package among inputs. Its suite is none: the same file from another suite makes the same image.
fn package_input(package: &LockedPackage) -> String {
    format!("{}:{}", package.name, package.architecture)
}

fn rendered_file(image: &Image, rendered: &RenderedImage) -> Arc<SourceFile> {
    let path = format!("the rendered Dockerfile of {}", image.manifest.name.value).into();
    Arc::new(SourceFile { path, text: rendered.dockerfile.clone() })
}

/// The manifest's span that the part of a rendered Dockerfile at `span` comes from.
fn origin(rendered: &RenderedImage, span: Span) -> Option<Span> {
    let before = rendered.dockerfile.get(..span.offset as usize)?;
    rendered.origin(before.matches('\n').count())
}
