//! Reads every manifest of a workspace, in parallel, and resolves the names in them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use globset::GlobBuilder;
use imgforge_syntax::{Located, Span, nearest};
use rayon::prelude::*;

use super::resolve::Names;
use super::{ContextFolder, HandWritten, Image, Workspace, check};

use crate::diagnostic::{Problem, Problems, SourceFile};
use crate::manifest::{
    Base, DockerfilePlace, ImageManifest, ManifestCache, ReadImages, WorkspaceManifest, read_images,
    read_workspace,
};
use crate::name::ImageName;
use crate::source::{Hidden, Kind, Led, Source, clean, follow};
use imgforge_dockerfile::Dockerfile;

/// The file that makes a folder a workspace.
pub const WORKSPACE_FILE: &str = "imgforge.kdl";

/// The file that makes a folder an image.
pub const IMAGE_FILE: &str = "image.kdl";

/// The file that says which packages and images from outside a workspace uses.
pub const LOCK_FILE: &str = "imgforge.lock";

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
    let (images, mut unread) = find_images(source, manifest.as_ref(), cache, &mut problems);
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
        let names = text.lines().filter_map(|line| line.trim_start().strip_prefix("image"));
        let names: Vec<Option<&str>> = names.map(shown_name).collect();
        self.nameless |= names.is_empty() || names.contains(&None);
        self.images.extend(names.into_iter().flatten().map(str::to_owned));
    }
}

/// The first word of what follows `image` in a text that may not be KDL.
fn shown_name(rest: &str) -> Option<&str> {
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
fn find_images(
    source: &dyn Source,
    manifest: Option<&WorkspaceManifest>,
    cache: Option<&ManifestCache>,
    problems: &mut Problems,
) -> (Vec<ImageManifest>, Unread) {
    let mut unread = Unread::default();
    let globs = manifest.map_or(&[][..], |manifest| &manifest.images);
    let hidden =
        if globs.iter().any(|glob| names_hidden(&glob.value)) { Hidden::Shown } else { Hidden::PassedOver };
    let mut paths = source.find(&|name| name == IMAGE_FILE, hidden).unwrap_or_else(|error| {
        let message = format!("the workspace cannot be searched for {IMAGE_FILE}: {error}");
        problems.push(Problem::new(message));
        unread.nameless = true;
        Vec::new()
    });
    leave_other_workspaces(source, &mut paths);
    if let Some(manifest) = manifest {
        narrow(manifest, &mut paths, problems);
    }
    let read: Vec<(ReadImages, Problems)> =
        paths.par_iter().map(|path| read_one(source, path, cache)).collect();
    let mut images = Vec::new();
    for (path, (read, found)) in paths.iter().zip(read) {
        problems.extend(found);
        if read.lacks_some {
            unread.add(&String::from_utf8_lossy(&source.read(path).unwrap_or_default()));
        }
        images.extend(read.images);
    }
    (images, unread)
}

fn read_one(source: &dyn Source, path: &Utf8Path, cache: Option<&ManifestCache>) -> (ReadImages, Problems) {
    let file = match read_file(source, path) {
        Ok(file) => file,
        Err(found) => return (ReadImages { images: Vec::new(), lacks_some: true }, found),
    };
    if let Some(images) = cache.and_then(|cache| cache.get(&file)) {
        return (ReadImages { images, lacks_some: false }, Problems::default());
    }
    let (read, found) = read_images(&file);
    if let (false, Some(cache), true) = (read.lacks_some, cache, found.is_empty()) {
        cache.put(&file, &read.images);
    }
    (read, found)
}

/// Whether a glob of folders says `.NAME` itself.
fn names_hidden(glob: &str) -> bool {
    glob.split('/').any(is_hidden)
}

fn is_hidden(name: &str) -> bool {
    name.starts_with('.') && !matches!(name, "." | "..")
}

/// Whether a glob that fits a folder means it: a hidden one only when the glob says at least as many hidden names.
fn means(glob: &str, folder: &Utf8Path) -> bool {
    let hidden = folder.as_str().split('/').filter(|name| is_hidden(name)).count();
    hidden <= glob.split('/').filter(|name| is_hidden(name)).count()
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
    let mut meant: BTreeSet<Utf8PathBuf> = BTreeSet::new();
    for glob in &manifest.images {
        let cleaned = glob.value.trim_start_matches("./").trim_end_matches('/');
        match GlobBuilder::new(cleaned).literal_separator(true).build() {
            Ok(built) => {
                let matcher = built.compile_matcher();
                let fits = |path: &&Utf8PathBuf| {
                    matcher.is_match(folder_of(path)) && means(cleaned, folder_of(path))
                };
                if !paths.iter().any(|path| fits(&path)) {
                    let message = format!("no image lies in a folder that fits \"{}\"", glob.value);
                    let problem = Problem::at(&manifest.file, glob.span, message, "fits nothing");
                    problems.push(problem.help(
                        "the glob names folders that have an image.kdl: \"images/*\", or \"images/**\" at any depth",
                    ));
                }
                meant.extend(paths.iter().filter(fits).cloned());
            }
            Err(error) => {
                let message = format!("\"{}\" is no glob: {}", glob.value, error.kind());
                problems.push(Problem::at(&manifest.file, glob.span, message, "here"));
                return;
            }
        }
    }
    if !manifest.images.is_empty() {
        *paths = meant.into_iter().collect();
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
            let args = super::build_args(&manifest, image);
            let dockerfile = hand_written(image, &args, source, &mut found);
            let context = context(image, &folders, source, &mut found);
            let edges = names.edges(&manifest, image, dockerfile.as_ref(), &mut found);
            check_template(image, source, &mut found);
            let image = Image {
                manifest: image.clone(),
                parents: edges.parents,
                base: edges.base,
                outside_base: edges.outside_base,
                externals: edges.externals,
                dockerfile,
                context,
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

/// The folder that an image is built from, and what in it is not sent.
fn context(
    image: &ImageManifest,
    folders: &BTreeSet<&Utf8Path>,
    source: &dyn Source,
    problems: &mut Problems,
) -> ContextFolder {
    let own = image.file.dir();
    let Base::Dockerfile(DockerfilePlace { context, .. }) = &image.base.value else {
        return ContextFolder { dir: own.to_owned(), passed_over: nested(folders, own) };
    };
    let dir = match context {
        None => own.to_owned(),
        Some(context) => context_folder(image, context, source, problems).unwrap_or_else(|| own.to_owned()),
    };
    let others = nested(folders, &dir);
    let is_of_others = context.is_some() || !others.is_empty();
    let mut passed_over: Vec<Utf8PathBuf> = others.iter().map(|folder| folder.join(IMAGE_FILE)).collect();
    if dir.as_str().is_empty() && is_of_others {
        passed_over.extend([WORKSPACE_FILE, LOCK_FILE].map(Utf8PathBuf::from));
        passed_over.sort();
    }
    ContextFolder { dir, passed_over }
}

/// The folder that `context=` names, links followed.
fn context_folder(
    image: &ImageManifest,
    context: &Located<Utf8PathBuf>,
    source: &dyn Source,
    problems: &mut Problems,
) -> Option<Utf8PathBuf> {
    let mut refuse = |message: String, label: &str, help: &str| {
        let problem = Problem::at(&image.file, context.span, message, label);
        problems.push(problem.help(help));
        None
    };
    let help = "a folder relative to the image's, or to the workspace with / at its beginning: \"..\", \"/services\"";
    let written = &context.value;
    let from = if written.is_absolute() { Utf8Path::new("") } else { image.file.dir() };
    match follow(source, &from.join(written.as_str().trim_start_matches('/'))) {
        Ok(Led::To(dir, Kind::Dir { .. })) => Some(dir),
        Ok(Led::To(..)) => {
            refuse(format!("the context \"{written}\" is no folder"), "a folder is expected", help)
        }
        Ok(Led::Outside(_)) => {
            refuse(format!("the context \"{written}\" lies outside the workspace"), "leads outside", help)
        }
        Err(_) => refuse(format!("there is no folder \"{written}\""), "not found", help),
    }
}

fn hand_written(
    image: &ImageManifest,
    args: &BTreeMap<String, String>,
    source: &dyn Source,
    problems: &mut Problems,
) -> Option<HandWritten> {
    let Base::Dockerfile(place) = &image.base.value else { return None };
    let path = Located::new(place.path.clone(), image.base.span);
    let path = inside(image, &path, source, &[image.file.dir()], "Dockerfile", problems)?;
    let file = read_file(source, &path).map_err(|found| problems.extend(found)).ok()?;
    let parsed = match Dockerfile::parse(&file.text) {
        Ok(parsed) => parsed,
        Err(found) => {
            for problem in found {
                let at = Problem::at(&file, problem.span, problem.message, "here");
                problems.push(problem.help.into_iter().fold(at, Problem::help));
            }
            return None;
        }
    };
    let Some(target) = &place.target else { return Some(HandWritten { file, parsed, reduced: None }) };
    let Some(reduced) = parsed.reduced(&file.text, &target.value, args) else {
        problems.push(no_stage(image, target, &file, &parsed));
        return None;
    };
    match Dockerfile::parse(&reduced.text) {
        Ok(parsed) => Some(HandWritten { file, parsed, reduced: Some(reduced) }),
        Err(_) => {
            let message = format!("the stage \"{}\" cannot be taken out of {}", target.value, file.path);
            problems.push(Problem::at(&image.file, target.span, message, "this stage"));
            None
        }
    }
}

fn no_stage(
    image: &ImageManifest,
    target: &Located<String>,
    file: &SourceFile,
    parsed: &Dockerfile,
) -> Problem {
    let names = parsed.stage_names();
    let message = format!("there is no stage \"{}\" in {}", target.value, file.path);
    let problem = Problem::at(&image.file, target.span, message, "no such stage");
    let named = || names.iter().copied().flatten();
    problem.help(match nearest(&target.value, named()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if named().next().is_none() => {
            format!("its stages have no names, but numbers from 0 to {}", names.len() - 1)
        }
        None => format!("its stages: {}", named().collect::<Vec<_>>().join(", ")),
    })
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
