//! Reads every manifest of a workspace, in parallel, and resolves the names in them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use rayon::prelude::*;

use super::resolve::Names;
use super::{HandWritten, Image, Workspace, check};
use crate::context::clean;
use crate::diagnostic::{Located, Problem, Problems, SourceFile, Span};
use crate::dockerfile::Dockerfile;
use crate::manifest::{Base, ImageManifest, ManifestCache, WorkspaceManifest, read_image, read_workspace};
use crate::name::{ImageName, nearest};
use crate::source::{Kind, Source};

/// The file that makes a folder a workspace.
pub const WORKSPACE_FILE: &str = "imgforge.kdl";

/// The file that makes a folder an image.
pub const IMAGE_FILE: &str = "image.kdl";

/// Reads `imgforge.kdl` and every `image.kdl` of a workspace. `cache` only ever saves time.
///
/// # Errors
/// All problems of all files: those of the manifests themselves, and of the names in them.
pub fn load(source: &dyn Source, cache: Option<&ManifestCache>) -> Result<Workspace, Problems> {
    let mut problems = Problems::default();
    let manifest = match read_file(source, Utf8Path::new(WORKSPACE_FILE)) {
        Ok(file) => {
            let (manifest, found) = read_workspace(&file);
            problems.extend(found);
            manifest
        }
        Err(found) => {
            problems.extend(found);
            None
        }
    };
    let (images, incomplete) = read_images(source, manifest.as_ref(), cache, &mut problems);
    // Without the workspace's own manifest every source and group would seem to be missing.
    let Some(manifest) = manifest else { return Err(problems) };
    let by_name = one_of_each_name(images, &mut problems);
    let workspace = resolve(manifest, by_name, source, incomplete, &mut problems);
    problems.extend(check::check(&workspace));
    if problems.has_errors() { Err(problems) } else { Ok(workspace) }
}

/// Reads a file as text.
pub(super) fn read_file(source: &dyn Source, path: &Utf8Path) -> Result<Arc<SourceFile>, Problems> {
    let bytes = source.read(path).map_err(|error| Problem::new(format!("{path} cannot be read: {error}")))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Arc::new(SourceFile { path: path.to_owned(), text })),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let file = Arc::new(SourceFile { path: path.to_owned(), text });
            let problem = Problem::at(
                &file,
                Span::new(at, '\u{fffd}'.len_utf8()),
                "the file is not UTF-8",
                "this byte",
            );
            Err(problem.help("save it as UTF-8").into())
        }
    }
}

/// The image manifests that could be read, and whether there are others.
fn read_images(
    source: &dyn Source,
    manifest: Option<&WorkspaceManifest>,
    cache: Option<&ManifestCache>,
    problems: &mut Problems,
) -> (Vec<ImageManifest>, bool) {
    let found = match source.find(IMAGE_FILE) {
        Ok(found) => found,
        Err(error) => {
            problems
                .push(Problem::new(format!("the workspace cannot be searched for {IMAGE_FILE}: {error}")));
            return (Vec::new(), true);
        }
    };
    let wanted = manifest.map_or(Ok(None), |manifest| folders(manifest)).unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    let is_wanted = |path: &&Utf8PathBuf| {
        let dir = path.parent().unwrap_or(Utf8Path::new(""));
        wanted.as_ref().is_none_or(|wanted| wanted.is_match(dir))
    };
    let paths: Vec<&Utf8PathBuf> = found.iter().filter(is_wanted).collect();
    let read: Vec<(Option<ImageManifest>, Problems)> = paths
        .par_iter()
        .map(|path| match read_file(source, path) {
            Err(found) => (None, found),
            Ok(file) => {
                if let Some(known) = cache.and_then(|cache| cache.get(&file)) {
                    return (Some(known), Problems::default());
                }
                let (manifest, found) = read_image(&file);
                if let (Some(manifest), Some(cache), true) = (&manifest, cache, found.is_empty()) {
                    cache.put(&file, manifest);
                }
                (manifest, found)
            }
        })
        .collect();
    let incomplete = read.iter().any(|(image, _)| image.is_none());
    let mut images = Vec::new();
    for (image, found) in read {
        problems.extend(found);
        images.extend(image);
    }
    (images, incomplete)
}

/// The globs of `images`, which fit folders.
fn folders(manifest: &WorkspaceManifest) -> Result<Option<GlobSet>, Problem> {
    if manifest.images.is_empty() {
        return Ok(None);
    }
    let mut set = GlobSetBuilder::new();
    for glob in &manifest.images {
        let cleaned = glob.value.trim_start_matches("./").trim_end_matches('/');
        let built = GlobBuilder::new(cleaned).literal_separator(true).build().map_err(|error| {
            let message = format!("\"{}\" is no glob: {}", glob.value, error.kind());
            Problem::at(&manifest.file, glob.span, message, "here")
        })?;
        set.add(built);
    }
    set.build()
        .map(Some)
        .map_err(|error| Problem::at(&manifest.file, manifest.images[0].span, error.to_string(), "here"))
}

fn one_of_each_name(
    images: Vec<ImageManifest>,
    problems: &mut Problems,
) -> BTreeMap<ImageName, ImageManifest> {
    let mut by_name: BTreeMap<ImageName, ImageManifest> = BTreeMap::new();
    for image in images {
        match by_name.get(&image.name.value) {
            None => drop(by_name.insert(image.name.value.clone(), image)),
            Some(first) => {
                let message = format!("there are two images \"{}\"", image.name.value);
                let problem = Problem::at(&image.file, image.name.span, message, "again here");
                let place = first.file.at(first.name.span);
                problems.push(
                    problem.help(format!("the other one is at {place}; give one of them another name")),
                );
            }
        }
    }
    by_name
}

fn resolve(
    manifest: WorkspaceManifest,
    manifests: BTreeMap<ImageName, ImageManifest>,
    source: &dyn Source,
    incomplete: bool,
    problems: &mut Problems,
) -> Workspace {
    let names = Names::new(&manifest, manifests.values(), incomplete, problems);
    let folders: BTreeSet<&Utf8Path> = manifests.values().map(|image| image.file.dir()).collect();
    let resolved: Vec<(Image, Problems)> = manifests
        .par_iter()
        .map(|(_, image)| {
            let mut found = Problems::default();
            let dockerfile = hand_written(image, source, &mut found);
            let edges = names.edges(&manifest, image, dockerfile.as_ref(), &mut found);
            check_template(image, source, &mut found);
            let image = Image {
                manifest: image.clone(),
                parents: edges.parents,
                base: edges.base,
                externals: edges.externals,
                dockerfile,
                nested: nested(&folders, image.file.dir()),
            };
            (image, found)
        })
        .collect();
    let mut images = BTreeMap::new();
    for (image, found) in resolved {
        problems.extend(found);
        images.insert(image.name().clone(), image);
    }
    Workspace { manifest, images }
}

/// The folders of other images that lie below `dir`: in sorted order they follow it.
fn nested(folders: &BTreeSet<&Utf8Path>, dir: &Utf8Path) -> Vec<Utf8PathBuf> {
    let below = folders.range::<Utf8Path, _>((std::ops::Bound::Excluded(dir), std::ops::Bound::Unbounded));
    below.take_while(|folder| folder.starts_with(dir)).map(|folder| (*folder).to_owned()).collect()
}

fn hand_written(image: &ImageManifest, source: &dyn Source, problems: &mut Problems) -> Option<HandWritten> {
    let Base::Dockerfile(path) = &image.base.value else { return None };
    let place = Located::new(path.clone(), image.base.span);
    let path = inside(image, &place, source, &[image.file.dir()], "Dockerfile", problems)?;
    let file = read_file(source, &path).map_err(|found| problems.extend(found)).ok()?;
    match Dockerfile::parse(&file.text) {
        Ok(parsed) => Some(HandWritten { file, parsed }),
        Err(found) => {
            for problem in found {
                let at = Problem::at(&file, problem.span, problem.message, "here");
                problems.push(problem.help.into_iter().fold(at, Problem::help));
            }
            None
        }
    }
}

fn check_template(image: &ImageManifest, source: &dyn Source, problems: &mut Problems) {
    if let Some(template) = &image.template {
        let folders = [image.file.dir(), Utf8Path::new("templates")];
        inside(image, template, source, &folders, "template", problems);
    }
}

/// The path of a file that a manifest names, in the first of `folders` that has it. Links are not followed: they could
/// lead out of the folder.
fn inside(
    image: &ImageManifest,
    path: &Located<Utf8PathBuf>,
    source: &dyn Source,
    folders: &[&Utf8Path],
    what: &str,
    problems: &mut Problems,
) -> Option<Utf8PathBuf> {
    let mut refuse = |message: String, label: &str, help: Option<String>| {
        let problem = Problem::at(&image.file, path.span, message, label);
        problems.push(help.into_iter().fold(problem, Problem::help));
        None
    };
    let cleaned = clean(path.value.as_str()).filter(|_| !path.value.is_absolute());
    let Some(cleaned) = cleaned else {
        let message = format!("the {what} \"{}\" lies outside the image's folder", path.value);
        return refuse(message, "leads outside", Some("move it into the image's folder".into()));
    };
    for folder in folders {
        let full = folder.join(&cleaned);
        match source.kind(&full) {
            Ok(Kind::File { .. }) => return Some(full),
            Ok(_) => {
                return refuse(
                    format!("the {what} {full} is not a plain file"),
                    "a plain file is expected",
                    None,
                );
            }
            Err(_) => {}
        }
    }
    let folder = folders[0].join(cleaned.parent().unwrap_or(Utf8Path::new("")));
    let names = source.list(&folder).unwrap_or_default();
    let near = nearest(cleaned.file_name().unwrap_or(""), names.iter().map(String::as_str));
    let help = near.map(|near| format!("did you mean \"{near}\"?"));
    let places: Vec<&str> =
        folders.iter().map(|f| if f.as_str().is_empty() { "." } else { f.as_str() }).collect();
    refuse(format!("there is no {what} \"{}\" in {}", path.value, places.join(" or ")), "not found", help)
}
