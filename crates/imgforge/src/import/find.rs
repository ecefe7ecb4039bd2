//! What a folder tree holds that describes images: bake files, Compose files, Dockerfiles.

use std::collections::{BTreeMap, BTreeSet};

use camino::{Utf8Path, Utf8PathBuf};

use imgforge_core::glob;
use imgforge_core::manifest::Network;
use imgforge_core::source::{Kind, Source, clean};
use serde_json::{Map, Value};

use super::bake::{self, Bake};
use super::candidate::{Candidate, Read};
use super::{LeftOut, compose, hcl};

/// Endings of files that Dockerfiles are made from.
const TEMPLATES: [&str; 14] = [
    ".cue",
    ".ejs",
    ".envsubst",
    ".erb",
    ".gotmpl",
    ".in",
    ".j2",
    ".jinja",
    ".jinja2",
    ".m4",
    ".mustache",
    ".template",
    ".tmpl",
    ".tpl",
];

/// Endings of what is called like a Dockerfile and is none.
const OTHERS: [&str; 12] =
    [".bak", ".diff", ".dockerignore", ".json", ".md", ".orig", ".patch", ".py", ".rej", ".sh", ".swp", "~"];

/// Whether a file may say something of images.
pub(super) fn is_meant(name: &str) -> bool {
    is_dockerfile(name) || is_template(name) || is_bake(name) || is_compose(name)
}

fn is_dockerfile(name: &str) -> bool {
    let name = name.to_lowercase();
    let begins = |word: &str| {
        name.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-', '_']))
    };
    let is_called = ["dockerfile", "containerfile"]
        .iter()
        .any(|word| begins(word) || name.ends_with(&format!(".{word}")));
    is_called && !is_template(&name) && !OTHERS.iter().any(|ending| name.ends_with(ending))
}

fn is_template(name: &str) -> bool {
    let name = name.to_lowercase();
    let is_called = ["dockerfile", "containerfile"].iter().any(|word| name.contains(word));
    is_called && TEMPLATES.iter().any(|ending| name.ends_with(ending))
}

fn is_bake(name: &str) -> bool {
    let stem = name.strip_suffix(".hcl").or_else(|| name.strip_suffix(".json"));
    stem.is_some_and(|stem| stem == "bake" || stem.starts_with("docker-bake") || stem.ends_with(".bake"))
}

fn is_compose(name: &str) -> bool {
    let stem = name.strip_suffix(".yml").or_else(|| name.strip_suffix(".yaml"));
    stem.is_some_and(|stem| {
        ["compose", "docker-compose"]
            .iter()
            .any(|word| stem == *word || stem.starts_with(&format!("{word}.")))
    })
}

/// Whether a file lies among modules of others that a package manager has put here.
fn is_of_others(source: &dyn Source, path: &Utf8Path) -> bool {
    path.ancestors().skip(1).any(|folder| match folder.file_name() {
        Some("node_modules") => true,
        Some("vendor") => source.kind(&folder.join("modules.txt")).is_ok(),
        _ => false,
    })
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) candidates: Vec<Candidate>,
    pub(super) left_out: Vec<LeftOut>,
    pub(super) notes: Vec<String>,
    /// Dockerfiles of targets that make no image.
    others: BTreeSet<Utf8PathBuf>,
    /// Candidates of each group of bake files, by place.
    pub(super) groups: BTreeMap<String, BTreeSet<String>>,
}

/// Looks at all files below `folder`.
pub(super) fn find(source: &dyn Source, paths: &[Utf8PathBuf], folder: &Utf8Path) -> Found {
    let mut found = Found::default();
    let paths: Vec<&Utf8PathBuf> =
        paths.iter().filter(|path| path.starts_with(folder) && !is_of_others(source, path)).collect();
    let named = |is_one: fn(&str) -> bool| {
        paths.iter().copied().filter(move |path| path.file_name().is_some_and(is_one))
    };
    for (main, files) in together(named(is_bake), "docker-bake.override") {
        of_bake(source, &main, &files, &mut found);
    }
    for (main, files) in together(named(is_compose), "override") {
        of_compose(source, &main, &files, &mut found);
    }
    let claimed = found.candidates.iter().map(|one| one.dockerfile.clone());
    let claimed: BTreeSet<Utf8PathBuf> = claimed.chain(std::mem::take(&mut found.others)).collect();
    for path in named(is_dockerfile).filter(|path| !claimed.contains(*path)) {
        match plain(source, path, folder) {
            Ok(candidate) => found.candidates.push(candidate),
            Err(why) => found.left_out.push(LeftOut::new(path.as_str(), why)),
        }
    }
    for path in named(is_template) {
        found
            .left_out
            .push(LeftOut::new(path.as_str(), "a template; what is made of it and lies here is taken"));
    }
    found
}

/// Files with those of the same folder that override them, which come last.
fn together<'p>(
    paths: impl Iterator<Item = &'p Utf8PathBuf>,
    over: &str,
) -> Vec<(Utf8PathBuf, Vec<Utf8PathBuf>)> {
    let (overrides, mains): (Vec<&Utf8PathBuf>, Vec<&Utf8PathBuf>) =
        paths.partition(|path| path.file_stem().is_some_and(|stem| stem.ends_with(over)));
    let mut found: Vec<(Utf8PathBuf, Vec<Utf8PathBuf>)> = Vec::new();
    for main in mains {
        let is_usual = matches!(main.file_stem(), Some("docker-bake" | "compose" | "docker-compose"));
        let of_it = overrides.iter().filter(|path| is_usual && path.parent() == main.parent());
        let files = std::iter::once(main.clone()).chain(of_it.map(|path| (*path).clone())).collect();
        found.push((main.clone(), files));
    }
    found
}

fn text(source: &dyn Source, path: &Utf8Path) -> Result<String, String> {
    let bytes = source.read(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

fn is_file(source: &dyn Source, path: &Utf8Path) -> bool {
    matches!(source.kind(path), Ok(Kind::File { .. } | Kind::Symlink { .. }))
}

fn of_bake(source: &dyn Source, main: &Utf8Path, files: &[Utf8PathBuf], found: &mut Found) {
    let mut whole = Bake::default();
    for file in files {
        match text(source, file).and_then(|text| Bake::read(file.as_str(), &text)) {
            Ok(bake) => whole.overridden_by(bake),
            Err(why) => return found.left_out.push(LeftOut::new(file.as_str(), why)),
        }
    }
    let targets = whole.targets();
    // Paths are relative to the folder that bake is run in, which is that of the file or one above it.
    let builds = |from: &Utf8Path| {
        let read = targets.iter().filter_map(|target| target.attributes.as_ref().ok());
        read.filter(|target| dockerfile_of(target, from).is_ok_and(|(path, _)| is_file(source, &path)))
            .count()
    };
    let above = main.ancestors().skip(1).enumerate();
    let from =
        above.max_by_key(|(n, folder)| (builds(folder), std::cmp::Reverse(*n))).map(|(_, folder)| folder);
    let from = from.unwrap_or(Utf8Path::new(""));
    let place = |name: &str| format!("{main}: target \"{name}\"");
    let mut taken = BTreeSet::new();
    for target in &targets {
        let made = target.attributes.clone().and_then(|attributes| {
            if target.is_abstract {
                return Err("other targets inherit it, and no group asks for it".to_owned());
            }
            if let Some(output) = no_image(&attributes) {
                found.others.extend(dockerfile_of(&attributes, from).map(|(path, _)| path));
                return Err(format!("it makes no image: output {output}"));
            }
            of_target(source, &place(&target.name), &target.name, &attributes, from)
        });
        match made {
            Ok(candidate) => {
                taken.insert(target.name.clone());
                found.candidates.push(candidate);
            }
            Err(why) => found.left_out.push(LeftOut::new(place(&target.name), why)),
        }
    }
    for (group, members) in whole.groups() {
        let members = members.iter().filter(|member| taken.contains(*member)).map(|member| place(member));
        found.groups.entry(group).or_default().extend(members);
    }
    let unset: Vec<&str> = whole.without_default().into_iter().collect();
    if !unset.is_empty() {
        let names = unset.join(", ");
        found.notes.push(format!("{main}: variables without a default are taken for empty: {names}"));
    }
}

/// The Dockerfile and the context of a target or a service.
fn dockerfile_of(build: &Map<String, Value>, from: &Utf8Path) -> Result<(Utf8PathBuf, Utf8PathBuf), String> {
    let word =
        |key: &str| build.get(key).and_then(|value| hcl::text(value).ok()).filter(|text| !text.is_empty());
    for key in ["dockerfile-inline", "dockerfile_inline"] {
        if word(key).is_some() {
            return Err("its Dockerfile is written into the file itself; give it one of its own".into());
        }
    }
    let context = word("context").unwrap_or_else(|| ".".into());
    let context = context.strip_prefix("cwd://").unwrap_or(&context);
    let is_remote = context.contains("://")
        || context.starts_with("git@")
        || context.starts_with("github.com/")
        || context.contains(".git#")
        || context.ends_with(".git");
    if is_remote {
        return Err(format!("its context {context} is not in this repository"));
    }
    let inside = |path: &Utf8Path| clean(path.as_str()).filter(|_| !path.is_absolute());
    let context = inside(&from.join(context)).ok_or_else(|| format!("its context {context} lies outside"))?;
    let dockerfile = word("dockerfile").unwrap_or_else(|| "Dockerfile".into());
    let path = match dockerfile.strip_prefix("cwd://") {
        Some(path) => inside(&from.join(path)),
        None => inside(&context.join(&dockerfile)),
    };
    let path = path.ok_or_else(|| format!("its Dockerfile {dockerfile} lies outside"))?;
    Ok((path, context))
}

/// What bake and Compose say in the same words.
fn of_build(
    source: &dyn Source,
    place: &str,
    build: &Map<String, Value>,
    from: &Utf8Path,
) -> Result<Candidate, String> {
    let (dockerfile, context) = dockerfile_of(build, from)?;
    if !is_file(source, &dockerfile) {
        return Err(format!("there is no {dockerfile}"));
    }
    let pairs = |key: &str| {
        let map = build.get(key).and_then(Value::as_object);
        map.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone()))
    };
    let mut candidate = Candidate::new(place.to_owned(), dockerfile, context);
    candidate.target =
        build.get("target").and_then(|target| hcl::text(target).ok()).filter(|name| !name.is_empty());
    for (name, value) in pairs("args") {
        let value = if value.is_null() { None } else { Some(hcl::text(&value)?) };
        if value.as_ref().is_some_and(|value| value.contains(['\n', '\r'])) {
            candidate.notes.push(format!("its argument {name} has several lines, and was left out"));
            continue;
        }
        candidate.args.insert(name, value);
    }
    for (name, value) in pairs("labels") {
        candidate.labels.insert(name, hcl::text(&value)?);
    }
    candidate.published.extend(build.get("tags").map(bake::texts).unwrap_or_default());
    candidate.network = match build.get("network").and_then(Value::as_str) {
        Some("host") => Some(Network::Host),
        Some("none") => Some(Network::None),
        _ => None,
    };
    let platforms = build.get("platforms").map(bake::texts).unwrap_or_default();
    let is_ours = |platform: &String| {
        platform.is_empty() || matches!(platform.as_str(), "linux/amd64" | "linux/x86_64" | "linux" | "local")
    };
    if !platforms.is_empty() && !platforms.iter().any(is_ours) {
        return Err(format!("it is built for {}, and not for linux/amd64", platforms.join(", ")));
    }
    for (what, key) in [("secrets", "secret"), ("secrets", "secrets"), ("ssh agents", "ssh")] {
        if build.get(key).is_some_and(|value| value.as_array().is_none_or(|list| !list.is_empty())) {
            candidate
                .notes
                .push(format!("its {what} are given on the command line: imgforge build --secret, --ssh"));
            break;
        }
    }
    Ok(candidate)
}

/// The outputs of a target, when none of them is an image.
fn no_image(attributes: &Map<String, Value>) -> Option<String> {
    let output = attributes.get("output")?;
    let outputs = output.as_str().map_or_else(|| bake::texts(output), |one| vec![one.to_owned()]);
    let makes_image = |output: &String| {
        ["type=image", "type=docker", "type=registry", "type=oci"].iter().any(|kind| output.contains(kind))
    };
    (!outputs.is_empty() && !outputs.iter().any(makes_image)).then(|| outputs.join(" "))
}

fn of_target(
    source: &dyn Source,
    place: &str,
    name: &str,
    attributes: &Map<String, Value>,
    from: &Utf8Path,
) -> Result<Candidate, String> {
    let mut candidate = of_build(source, place, attributes, from)?;
    for (written, place) in attributes.get("contexts").and_then(Value::as_object).into_iter().flatten() {
        match place.as_str().and_then(|place| place.strip_prefix("target:")) {
            Some(target) => drop(candidate.contexts.insert(written.clone(), target.to_owned())),
            None => {
                let place = hcl::text(place).unwrap_or_default();
                return Err(format!(
                    "its Dockerfile's \"{written}\" is replaced by {place}, which no manifest can say"
                ));
            }
        }
    }
    candidate.wanted.push(name.to_owned());
    Ok(candidate)
}

fn of_compose(source: &dyn Source, main: &Utf8Path, files: &[Utf8PathBuf], found: &mut Found) {
    let texts: Result<Vec<String>, String> = files.iter().map(|file| text(source, file)).collect();
    let services = match texts.and_then(|texts| compose::services(&texts)) {
        Ok(services) => services,
        Err(why) => return found.left_out.push(LeftOut::new(main.as_str(), why)),
    };
    let from = main.parent().unwrap_or(Utf8Path::new(""));
    for service in services {
        let place = format!("{main}: service \"{}\"", service.name);
        let additional = service.build.get("additional_contexts").and_then(Value::as_object);
        let made = match additional.filter(|contexts| !contexts.is_empty()) {
            Some(_) => Err("it has additional contexts, which no manifest can say".to_owned()),
            None => of_build(source, &place, &service.build, from),
        };
        match made {
            Ok(mut candidate) => {
                candidate.published.extend(service.image.clone());
                if !service.unset.is_empty() {
                    let names = service.unset.join(", ");
                    candidate.notes.push(format!("variables without a default are taken for empty: {names}"));
                }
                candidate.wanted.push(service.name);
                // Files that say the same of one image (for development, for production) mean one.
                let is_same = |other: &&mut Candidate| {
                    (&other.dockerfile, &other.context, &other.target)
                        == (&candidate.dockerfile, &candidate.context, &candidate.target)
                        && (other.args == candidate.args || candidate.args.is_empty())
                };
                match found.candidates.iter_mut().find(is_same) {
                    Some(other) => {
                        other.published.extend(candidate.published);
                        other.wanted.extend(candidate.wanted);
                    }
                    None => found.candidates.push(candidate),
                }
            }
            Err(why) => found.left_out.push(LeftOut::new(place, why)),
        }
    }
}

/// A Dockerfile that no other file names.
fn plain(source: &dyn Source, path: &Utf8Path, top: &Utf8Path) -> Result<Candidate, String> {
    let mut candidate = Candidate::new(path.to_string(), path.to_owned(), Utf8PathBuf::new());
    let written = text(source, path)?;
    let read = Read::of(&written, &candidate).map_err(|why| {
        let is_template = ["{{", "{%", "<%", "#define"].iter().any(|mark| written.contains(mark));
        if is_template { format!("a template: {why}") } else { why }
    })?;
    let own = candidate.folder().to_owned();
    let sources = read.parsed.context_sources(&candidate.values());
    let missing = |folder: &Utf8Path| {
        sources.iter().filter(|wanted| !is_there(source, folder, &wanted.pattern)).count()
    };
    let folders: Vec<&Utf8Path> = own.ancestors().take_while(|folder| folder.starts_with(top)).collect();
    let best = folders.iter().enumerate().min_by_key(|(n, folder)| (missing(folder), *n));
    candidate.context = best.map_or(own.clone(), |(_, folder)| (*folder).to_owned());
    let lacks: Vec<&str> = sources
        .iter()
        .filter(|wanted| !is_there(source, &candidate.context, &wanted.pattern))
        .map(|wanted| wanted.pattern.as_str())
        .collect();
    if !lacks.is_empty() {
        candidate.context = own;
        candidate.notes.push(format!("it copies what is not in its folder: {}", lacks.join(", ")));
    }
    Ok(candidate)
}

/// Whether something in a folder is meant by a source of COPY.
fn is_there(source: &dyn Source, folder: &Utf8Path, pattern: &str) -> bool {
    let Some(path) = clean(pattern) else { return false };
    let mut places = vec![folder.to_owned()];
    for part in path.components() {
        let next = |place: &Utf8PathBuf| -> Vec<Utf8PathBuf> {
            if !part.as_str().contains(['*', '?', '[', '\\']) {
                return vec![place.join(part.as_str())];
            }
            let names = source.list(place).unwrap_or_default();
            names
                .into_iter()
                .filter(|name| glob::matches(part.as_str(), name))
                .map(|name| place.join(name))
                .collect()
        };
        places = places.iter().flat_map(next).collect();
    }
    places.iter().any(|place| {
        place.as_str().is_empty()
            || source.kind(place).is_ok_and(|kind| !matches!(kind, Kind::Node { .. } | Kind::Socket { .. }))
    })
}
