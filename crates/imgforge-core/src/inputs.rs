//! Puts together what an image's fingerprint is made of: its Dockerfile as rendered, the files that this reaches, what
//! the lock says, the scripts that install packages, and what the workspace says of builds.
//!
//! [`crate::fingerprint`] has the table of inputs and the hash over them; here is where each comes from.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use camino::Utf8PathBuf;
use imgforge_oci::Digest;
use imgforge_syntax::Span;

use crate::context::{self, Context, ContextEntry};
use crate::diagnostic::{Problem, Problems, SourceFile};
use crate::fingerprint::{FORMAT, Fingerprint, InputKind, InputManifest};
use crate::lock::{LockView, LockedExternal, LockedPackage};
use crate::manifest::{Compression, ImageManifest, Layers};
use crate::name::ImageName;
use crate::render::RenderedImage;
use crate::source::Source;
use crate::workspace::{self, Image, Workspace};
use imgforge_dockerfile::Dockerfile;

/// The folder that the step that installs packages reads.
const PACKAGES: &str = ".imgforge/packages";

/// The scripts that install locked packages in a build.
pub trait Installer: Sync {
    /// Returns the hash over those for Debian packages.
    fn debian(&self, keep_docs: bool) -> String;
    /// Returns the hash over those for Alpine packages.
    fn alpine(&self) -> String;
}

/// What inputs are taken from.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// All manifests.
    pub workspace: &'a Workspace,
    /// The files.
    pub source: &'a dyn Source,
    /// What is locked.
    pub lock: &'a LockView<'a>,
    /// What installs packages.
    pub installer: &'a dyn Installer,
}

/// What one image is made of.
#[derive(Debug)]
pub struct ImageInputs {
    /// Every input but its parents' fingerprints, which [`insert_parents`](Self::insert_parents) adds.
    pub inputs: InputManifest,
    /// The text of each instruction, as it is hashed.
    pub instructions: Vec<String>,
    /// What a build of it takes.
    pub build: BuildInputs,
}

/// What a build of an image takes, beside the texts that were rendered.
#[derive(Debug)]
pub struct BuildInputs {
    /// The Dockerfile that the image is built from, parsed.
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

impl Inputs<'_> {
    /// Names and hashes every input of an image, of which `rendered` was made.
    ///
    /// # Errors
    /// All problems of its Dockerfile and of the files that this reaches.
    pub fn of(&self, image: &Image, rendered: &RenderedImage) -> Result<ImageInputs, Problems> {
        let manifest = &self.workspace.manifest;
        let parsed = Parsed::of(self.workspace, image, rendered)?;
        let listing = parsed.context(self.source).list().map_err(|found| {
            let told = found.into_iter().map(|problem| (problem.span, problem.message, problem.help));
            parsed.placed(told)
        })?;
        let beyond = parsed.dockerfile.beyond(rendered.network.into(), &parsed.args);
        if !beyond.is_empty() {
            let told = beyond.into_iter().map(|problem| (problem.span, problem.message, problem.help));
            return Err(parsed.placed(told));
        }
        let packages: Vec<LockedPackage> = self.lock.added_by(image.name()).into_iter().cloned().collect();

        let mut inputs = InputManifest::default();
        inputs.insert(InputKind::Format, "imgforge", FORMAT);
        inputs.insert(InputKind::Platform, "platform", manifest.platform());
        inputs.insert(InputKind::Network, "network", rendered.network.as_str());
        // Default values are not recorded as inputs, so fingerprints computed before these options existed stay valid.
        if manifest.compression == Compression::Zstd {
            inputs.insert(InputKind::Layers, "compression", "zstd");
        }
        if image.manifest.layers == Layers::One {
            inputs.insert(InputKind::Layers, "number", "one");
        }
        let (hashed, instructions) = parsed.hashed()?;
        inputs.insert_dockerfile(hashed, instructions.iter().map(String::as_str));
        context::insert_inputs(&listing.entries, &mut inputs);
        for package in &packages {
            let value = format!("{} {}", package.version, package.sha256);
            inputs.insert(InputKind::Package, package_input(package), value);
        }
        if installs(rendered, &packages) {
            self.insert_installer(image, &packages, &mut inputs);
        }
        for (arg, value) in &parsed.args {
            inputs.insert(InputKind::Arg, arg, value);
        }
        for (key, value) in outside_labels(self.workspace, image) {
            inputs.insert(InputKind::Label, key, value);
        }
        let externals = self.insert_externals(image, &mut inputs);
        let Parsed { dockerfile, args, .. } = parsed;
        let (entries, opened_keys) = (listing.entries, listing.opened_keys);
        let build = BuildInputs { dockerfile, entries, opened_keys, args, packages, externals };
        Ok(ImageInputs { inputs, instructions, build })
    }

    fn insert_installer(&self, image: &Image, packages: &[LockedPackage], inputs: &mut InputManifest) {
        let asked = image.manifest.packages.first().map(|request| &request.source.value);
        let source = asked.or(packages.first().map(|package| &package.source));
        if source.is_some_and(|source| self.workspace.manifest.locked_apk(source).is_some()) {
            inputs.insert(InputKind::Installer, "packages", self.installer.alpine());
            // What was asked for by name is written down in the image.
            inputs.insert(InputKind::Installer, "world", wanted(&image.manifest).join(" "));
        } else {
            let scripts = self.installer.debian(image.manifest.keep_docs);
            inputs.insert(InputKind::Installer, "packages", scripts);
        }
    }

    /// Adds the images from outside, and returns the digests that they are built on.
    fn insert_externals(&self, image: &Image, inputs: &mut InputManifest) -> BTreeMap<String, Digest> {
        let mut externals = BTreeMap::new();
        for external in &image.externals {
            let locked = self.lock.externals().get(&external.reference);
            let (digest, input) = match (external.pinned(), locked) {
                (Some(pinned), _) => (Some(pinned.clone()), Some(pinned)),
                (None, Some(locked)) => {
                    let input = external_input(self.workspace, image, locked);
                    (Some(locked.digest.clone()), Some(input.clone()))
                }
                // Without a lock there is none: only what is shown, and not built, does without.
                (None, None) => (None, None),
            };
            let input = input.map_or_else(String::new, String::from);
            inputs.insert(InputKind::External, &external.reference, input);
            externals.extend(digest.map(|digest| (external.reference.clone(), digest)));
        }
        externals
    }
}

impl ImageInputs {
    /// Adds the fingerprints of the images of the workspace that the image stands on.
    pub fn insert_parents<'n>(&mut self, parents: impl IntoIterator<Item = (&'n ImageName, Fingerprint)>) {
        for (name, fingerprint) in parents {
            self.inputs.insert(InputKind::Parent, name.as_str(), fingerprint.to_string());
        }
    }
}

/// An image's Dockerfile, parsed, with what it comes from.
#[derive(Debug)]
pub struct Parsed<'a> {
    image: &'a Image,
    rendered: &'a RenderedImage,
    dockerfile: Dockerfile,
    args: BTreeMap<String, String>,
}

impl<'a> Parsed<'a> {
    /// Parses the Dockerfile that an image is built from: the hand-written file, or what was rendered.
    ///
    /// # Errors
    /// A rendered one that is no Dockerfile.
    pub fn of(
        workspace: &Workspace,
        image: &'a Image,
        rendered: &'a RenderedImage,
    ) -> Result<Self, Problems> {
        if let Some(hand_written) = &image.dockerfile {
            let args = workspace::build_args(&workspace.manifest, &image.manifest);
            return Ok(Self { image, rendered, dockerfile: hand_written.parsed.clone(), args });
        }
        let dockerfile = Dockerfile::parse(&rendered.dockerfile).map_err(|found| {
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
        })?;
        // A rendered Dockerfile has the values of arguments in its text.
        Ok(Self { image, rendered, dockerfile, args: BTreeMap::new() })
    }

    /// Returns where its files are.
    pub fn context<'s>(&'s self, source: &'s dyn Source) -> Context<'s> {
        let hand_written = self.image.dockerfile.as_ref();
        Context {
            source,
            dir: &self.image.context.dir,
            dockerfile: &self.dockerfile,
            dockerfile_path: hand_written.map(|hand_written| &*hand_written.file.path),
            args: &self.args,
            generated: &self.rendered.generated,
            passed_over: &self.image.context.passed_over,
            is_rendered: hand_written.is_none(),
        }
    }

    /// Returns the place at which what the Dockerfile says at `span` can be mended.
    pub fn place(&self, span: Span) -> (Arc<SourceFile>, Span) {
        match &self.image.dockerfile {
            Some(hand_written) => (Arc::clone(&hand_written.file), span),
            None => match origin(self.rendered, span) {
                Some(span) => (Arc::clone(&self.image.manifest.file), span),
                None => (rendered_file(self.image, self.rendered), span),
            },
        }
    }

    /// Problems of the context and of the network are found in the Dockerfile; in a rendered one, the manifest line
    /// that the instruction comes from is what the user can mend.
    fn placed(&self, found: impl Iterator<Item = (Span, String, Option<String>)>) -> Problems {
        let mut problems = Problems::default();
        for (span, message, help) in found {
            let (file, span) = self.place(span);
            let at = Problem::at(&file, span, message, "here");
            problems.push(match help {
                Some(help) => at.help(help),
                None => at,
            });
        }
        problems
    }

    /// The text that a Dockerfile is hashed as, and that of its instructions: of a target, what it needs and nothing
    /// else.
    fn hashed(&self) -> Result<(&'a str, Vec<String>), Problems> {
        let texts = |dockerfile: &Dockerfile| {
            dockerfile.instructions().iter().map(|instruction| instruction.text().to_owned()).collect()
        };
        let reduced = self.image.dockerfile.as_ref().and_then(|hand_written| hand_written.reduced.as_ref());
        let Some(reduced) = reduced else { return Ok((&self.rendered.dockerfile, texts(&self.dockerfile))) };
        match Dockerfile::parse(&reduced.canonical) {
            Ok(parsed) => Ok((&reduced.canonical, texts(&parsed))),
            Err(_) => {
                let manifest = &self.image.manifest;
                let message =
                    format!("the Dockerfile of {} cannot be reduced to its target", self.image.name());
                Err(Problem::at(&manifest.file, manifest.base.span, message, "this one").into())
            }
        }
    }
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

/// Returns whether a step installs packages, also if what it asks for is there already, so that there are none.
pub fn installs(rendered: &RenderedImage, packages: &[LockedPackage]) -> bool {
    !packages.is_empty() || rendered.dockerfile.contains(PACKAGES)
}

/// Returns the digest of an image from outside that an image's fingerprint is over: that of the platform. A
/// hand-written Dockerfile may ask for other platforms of it, so there it is that of the index.
pub fn external_input<'l>(workspace: &Workspace, image: &Image, locked: &'l LockedExternal) -> &'l Digest {
    if image.dockerfile.is_some() { &locked.digest } else { locked.digest_for(workspace.manifest.platform()) }
}

/// Returns the labels of a hand-written Dockerfile's image, which no rendered text carries.
pub fn outside_labels(workspace: &Workspace, image: &Image) -> BTreeMap<String, String> {
    if image.dockerfile.is_none() {
        return BTreeMap::new();
    }
    let labels = workspace.manifest.labels.iter().chain(&image.manifest.labels);
    labels.map(|(key, value)| (key.clone(), value.value.clone())).collect()
}

/// Returns the names of packages that a manifest asks for, sorted, without versions.
pub fn wanted(manifest: &ImageManifest) -> Vec<String> {
    let names = manifest.packages.iter().flat_map(|request| &request.names);
    let names: BTreeSet<&str> =
        names.map(|name| name.value.split('=').next().unwrap_or(&name.value)).collect();
    names.into_iter().map(str::to_owned).collect()
}

/// Returns the name of a package among inputs. Its suite is none: the same file from another suite makes the same
/// image.
pub fn package_input(package: &LockedPackage) -> String {
    format!("{}:{}", package.name, package.architecture)
}
