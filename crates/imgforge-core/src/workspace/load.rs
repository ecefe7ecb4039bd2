//! Reads every manifest of a workspace, in parallel, and resolves the names in them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use globset::{GlobBuilder, GlobSetBuilder};
use rayon::prelude::*;

use super::resolve::Names;
use super::{HandWritten, Image, Workspace, check};
use crate::context::clean;
use crate::diagnostic::{Located, Problem, Problems, SourceFile, Span};
use crate::dockerfile::Dockerfile;
use crate::manifest::{Base, ImageManifest, ManifestCache, WorkspaceManifest, read_image, read_workspace};
use crate::name::{ImageName, nearest};
use crate::source::{Kind, Led, Source, follow};

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
    let (images, mut unread) = read_images(source, manifest.as_ref(), cache, &mut problems);
    let mut by_name = one_of_each_name(images, &mut problems);
    // Without the workspace's own manifest the images are still looked at, but nothing that it could say is missed.
    unread.workspace = manifest.is_none();
    let manifest = manifest.unwrap_or_else(placeholder);
    // With keys they are locked as Debian's are.
    let is_apk =
        |name: &str| manifest.apk.iter().any(|source| source.name.value == name && source.keys.is_none());
    for image in by_name.values_mut().filter(|image| !image.packages.is_empty()) {
        let packages = std::mem::take(&mut image.packages);
        (image.apk_packages, image.packages) =
            packages.into_iter().partition(|request| is_apk(&request.source.value));
    }
    let workspace = resolve(manifest, by_name, source, &unread, &mut problems);
    problems.extend(check::check(&workspace, &unread));
    if problems.has_errors() { Err(problems) } else { Ok(workspace) }
}

/// What could not be read. A name that seems to be missing may be in it: to report that too would send people after
/// a problem that they do not have.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// `imgforge.kdl`.
    pub(super) workspace: bool,
    /// The names of images whose manifests could not be understood.
    images: BTreeSet<String>,
    /// Whether there is such a manifest that does not even show its name.
    nameless: bool,
}

impl Unread {
    /// Whether an image of this name may be in a manifest that could not be read.
    pub(super) fn may_have(&self, name: &str) -> bool {
        self.nameless || self.images.contains(name)
    }

    /// Whether there is any manifest that could not be understood.
    pub(super) fn is_any(&self) -> bool {
        self.workspace || self.nameless || !self.images.is_empty()
    }

    fn add(&mut self, text: &str) {
        match shown_name(text) {
            Some(name) => drop(self.images.insert(name.to_owned())),
            None => self.nameless = true,
        }
    }
}

/// The word after `image` in a text that may not be KDL.
fn shown_name(text: &str) -> Option<&str> {
    let rest = text.lines().find_map(|line| line.trim_start().strip_prefix("image"))?;
    let word = rest.strip_prefix([' ', '\t'])?.trim_start();
    let name = match word.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => word.split([' ', '\t', '{', ';']).next()?,
    };
    (!name.is_empty()).then_some(name)
}

fn placeholder() -> WorkspaceManifest {
    let file = Arc::new(SourceFile { path: WORKSPACE_FILE.into(), text: String::new() });
    WorkspaceManifest {
        file,
        name: Located::new("unnamed".into(), Span::default()),
        registry: None,
        version: None,
        supervisor: None,
        platform: None,
        compression: crate::manifest::Compression::default(),
        network: None,
        trust: crate::manifest::Trust::default(),
        images: Vec::new(),
        labels: BTreeMap::new(),
        args: BTreeMap::new(),
        relock_vanished: false,
        apt: Vec::new(),
        apk: Vec::new(),
        externals: Vec::new(),
        groups: Vec::new(),
    }
}

/// Reads a file as text.
///
/// # Errors
/// That it cannot be read; or the place of the first byte that is not UTF-8.
pub fn read_file(source: &dyn Source, path: &Utf8Path) -> Result<Arc<SourceFile>, Problems> {
    let bytes = source.read(path).map_err(|error| cannot_be_read(path, &error))?;
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

fn cannot_be_read(path: &Utf8Path, error: &std::io::Error) -> Problem {
    if path == WORKSPACE_FILE && error.kind() == std::io::ErrorKind::NotFound {
        let problem = Problem::new(format!("there is no {WORKSPACE_FILE}"));
        return problem.help("make one in the workspace's folder that says: workspace \"NAME\"");
    }
    Problem::new(format!("{path} cannot be read: {error}"))
}

/// The image manifests that could be read, and what is known of the others.
fn read_images(
    source: &dyn Source,
    manifest: Option<&WorkspaceManifest>,
    cache: Option<&ManifestCache>,
    problems: &mut Problems,
) -> (Vec<ImageManifest>, Unread) {
    let mut unread = Unread::default();
    let mut paths = source.find(IMAGE_FILE).unwrap_or_else(|error| {
        let message = format!("the workspace cannot be searched for {IMAGE_FILE}: {error}");
        problems.push(Problem::new(message));
        unread.nameless = true;
        Vec::new()
    });
    leave_other_workspaces(source, &mut paths);
    if let Some(manifest) = manifest {
        narrow(manifest, &mut paths, problems);
    }
    let read: Vec<(Option<ImageManifest>, Problems)> =
        paths.par_iter().map(|path| read_one(source, path, cache)).collect();
    let mut images = Vec::new();
    for (path, (image, found)) in paths.iter().zip(read) {
        problems.extend(found);
        if image.is_none() {
            unread.add(&String::from_utf8_lossy(&source.read(path).unwrap_or_default()));
        }
        images.extend(image);
    }
    (images, unread)
}

fn read_one(
    source: &dyn Source,
    path: &Utf8Path,
    cache: Option<&ManifestCache>,
) -> (Option<ImageManifest>, Problems) {
    let file = match read_file(source, path) {
        Ok(file) => file,
        Err(found) => return (None, found),
    };
    if let Some(known) = cache.and_then(|cache| cache.get(&file)) {
        return (Some(known), Problems::default());
    }
    let (manifest, found) = read_image(&file);
    if let (Some(manifest), Some(cache), true) = (&manifest, cache, found.is_empty()) {
        cache.put(&file, manifest);
    }
    (manifest, found)
}

/// A folder below the root with an `imgforge.kdl` of its own is another workspace, and so are its images.
fn leave_other_workspaces(source: &dyn Source, paths: &mut Vec<Utf8PathBuf>) {
    let mut known: BTreeMap<Utf8PathBuf, bool> = BTreeMap::new();
    let mut is_other = |folder: &Utf8Path| {
        if let Some(is_other) = known.get(folder) {
            return *is_other;
        }
        let is_other = matches!(source.kind(&folder.join(WORKSPACE_FILE)), Ok(Kind::File { .. }));
        known.insert(folder.to_owned(), is_other);
        is_other
    };
    paths.retain(|path| {
        let mut folders = path.ancestors().skip(1).filter(|folder| !folder.as_str().is_empty());
        !folders.any(&mut is_other)
    });
}

/// Keeps the manifests whose folders fit one of the globs of `images`, if there are globs.
fn narrow(manifest: &WorkspaceManifest, paths: &mut Vec<Utf8PathBuf>, problems: &mut Problems) {
    let mut set = GlobSetBuilder::new();
    for glob in &manifest.images {
        let cleaned = glob.value.trim_start_matches("./").trim_end_matches('/');
        match GlobBuilder::new(cleaned).literal_separator(true).build() {
            Ok(built) => {
                let matcher = built.compile_matcher();
                if !paths.iter().any(|path| matcher.is_match(folder_of(path))) {
                    let message = format!("no image lies in a folder that fits \"{}\"", glob.value);
                    let problem = Problem::at(&manifest.file, glob.span, message, "fits nothing");
                    problems.push(problem.help(
                        "the glob names folders that have an image.kdl: \"images/*\", or \"images/**\" at any depth",
                    ));
                }
                set.add(built);
            }
            Err(error) => {
                let message = format!("\"{}\" is no glob: {}", glob.value, error.kind());
                problems.push(Problem::at(&manifest.file, glob.span, message, "here"));
                return;
            }
        }
    }
    match set.build() {
        Ok(set) if !manifest.images.is_empty() => paths.retain(|path| set.is_match(folder_of(path))),
        Ok(_) => {}
        Err(error) => {
            problems.push(Problem::at(&manifest.file, manifest.images[0].span, error.to_string(), "here"));
        }
    }
}

fn folder_of(path: &Utf8Path) -> &Utf8Path {
    path.parent().unwrap_or(Utf8Path::new(""))
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
                let problem = problem.and_in(&first.file, first.name.span, "the first one is here", "first");
                problems.push(problem.help("give one of them another name"));
            }
        }
    }
    by_name
}

fn resolve(
    manifest: WorkspaceManifest,
    manifests: BTreeMap<ImageName, ImageManifest>,
    source: &dyn Source,
    unread: &Unread,
    problems: &mut Problems,
) -> Workspace {
    let names = Names::new(&manifest, manifests.values(), unread, problems);
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
                outside_base: edges.outside_base,
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

/// The path of a file that a manifest names, in the first of `folders` that has it; links are followed, and must
/// stay in one of these folders.
fn inside(
    image: &ImageManifest,
    path: &Located<Utf8PathBuf>,
    source: &dyn Source,
    folders: &[&Utf8Path],
    what: &str,
    problems: &mut Problems,
) -> Option<Utf8PathBuf> {
    let places: Vec<&str> =
        folders.iter().map(|f| if f.as_str().is_empty() { "." } else { f.as_str() }).collect();
    let places = places.join(" or ");
    let mut refuse = |message: String, label: &str, help: Option<String>| {
        let problem = Problem::at(&image.file, path.span, message, label);
        problems.push(help.into_iter().fold(problem, Problem::help));
        None
    };
    let outside = format!("the {what} \"{}\" lies outside {places}", path.value);
    let cleaned = clean(path.value.as_str()).filter(|_| !path.value.is_absolute());
    let Some(cleaned) = cleaned else {
        return refuse(outside, "leads outside", Some(format!("move it into {places}")));
    };
    for folder in folders {
        let full = folder.join(&cleaned);
        match follow(source, &full) {
            Ok(Led::To(end, kind)) if folders.iter().any(|folder| end.starts_with(folder)) => {
                return match kind {
                    Kind::File { .. } => Some(end),
                    _ => refuse(format!("the {what} {full} is not a file"), "a file is expected", None),
                };
            }
            Ok(_) => {
                let help = format!("a link leads there; put the file itself into {places}");
                return refuse(outside, "leads outside", Some(help));
            }
            Err(_) => {}
        }
    }
    let folder = folders[0].join(cleaned.parent().unwrap_or(Utf8Path::new("")));
    let names = source.list(&folder).unwrap_or_default();
    let near = nearest(cleaned.file_name().unwrap_or(""), names.iter().map(String::as_str));
    let help = near.map(|near| format!("did you mean \"{near}\"?"));
    refuse(format!("there is no {what} \"{}\" in {places}", path.value), "not found", help)
}
