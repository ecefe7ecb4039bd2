//! What can only be said of manifests together: sources, groups, users along a chain, packages without a root.

use std::collections::{BTreeMap, BTreeSet};

use imgforge_syntax::{Located, nearest};

use super::load::Unread;
use super::{Image, Workspace, image_tests};
use crate::diagnostic::{Problem, Problems};
use crate::manifest::{Base, Network};
use crate::name::ImageName;
use imgforge_dockerfile::EdgeKind;

pub(super) fn check(workspace: &Workspace, unread: &Unread) -> Problems {
    let mut problems = Problems::default();
    check_groups(workspace, unread, &mut problems);
    check_externals(workspace, unread, &mut problems);
    for image in workspace.images.values() {
        if !unread.workspace {
            check_sources(workspace, image, &mut problems);
        }
        let manifest = &image.manifest;
        let has_packages = !manifest.packages.is_empty() || !manifest.apk_packages.is_empty();
        if !has_packages && manifest.users.is_empty() && manifest.tests.is_empty() {
            continue;
        }
        if let Some(mut chain) = chain(workspace, image) {
            check_packages(workspace, image, &chain, &mut problems);
            check_apk_packages(workspace, image, &chain, &mut problems);
            check_users(image, &chain, &mut problems);
            chain.reverse();
            if !is_unresolved(workspace, chain[0]) {
                problems.extend(image_tests::check(workspace, &chain));
            }
        }
    }
    problems
}

/// The image and those below it along `from`, the image first; `None` for a circle, which the graph tells of.
fn chain<'w>(workspace: &'w Workspace, image: &'w Image) -> Option<Vec<&'w Image>> {
    let mut chain = vec![image];
    let mut seen = BTreeSet::from([image.name()]);
    while let Some(base) = chain[chain.len() - 1].base.as_ref().and_then(|base| workspace.images.get(base)) {
        if !seen.insert(base.name()) {
            return None;
        }
        chain.push(base);
    }
    Some(chain)
}

/// Whether what an image stands on is not known, because a reference or a file of it has a problem of its own.
fn is_unresolved(workspace: &Workspace, image: &Image) -> bool {
    let is_external = image.externals.iter().any(|external| external.kind == EdgeKind::From);
    match (&image.manifest.base.value, &image.dockerfile) {
        (Base::Root(_) | Base::Scratch, _) => false,
        (Base::From(_), _) => !is_external,
        (Base::Dockerfile(_), None) => true,
        (Base::Dockerfile(_), Some(dockerfile)) => {
            let args = super::build_args(&workspace.manifest, &image.manifest);
            !is_external && dockerfile.parsed.base(&args).is_some()
        }
    }
}

fn check_groups(workspace: &Workspace, unread: &Unread, problems: &mut Problems) {
    let file = &workspace.manifest.file;
    for member in workspace.manifest.groups.iter().flat_map(|group| &group.members) {
        let names = || workspace.images.keys().map(ImageName::as_str);
        if !names().any(|name| name == member.value) && !unread.may_have(&member.value) {
            let message = format!("there is no image \"{}\"", member.value);
            let problem = Problem::at(file, member.span, message, "not in this workspace");
            let near = nearest(&member.value, names()).map(|near| format!("did you mean \"{near}\"?"));
            problems.push(near.into_iter().fold(problem, Problem::help));
        }
    }
}

/// A place of an image that none stands on is more likely a typing error than wanted: the image is looked for
/// elsewhere.
fn check_externals(workspace: &Workspace, unread: &Unread, problems: &mut Problems) {
    let images = || workspace.images.values();
    let used = || images().flat_map(|image| &image.externals).map(|used| used.reference.as_str());
    let is_unread = |image: &Image| {
        matches!(image.manifest.base.value, Base::Dockerfile(_)) && image.dockerfile.is_none()
    };
    if unread.is_any() || images().any(is_unread) {
        return;
    }
    for place in &workspace.manifest.externals {
        let reference = &place.reference;
        if used().any(|used| used == reference.value) {
            continue;
        }
        let message = format!("no image stands on \"{}\"", reference.value);
        let problem = Problem::at(&workspace.manifest.file, reference.span, message, "used by none");
        problems.push(match nearest(&reference.value, used()) {
            Some(near) => problem.help(format!("did you mean \"{near}\"?")),
            None => {
                problem.help("take the line away, or write the reference as the manifest or Dockerfile does")
            }
        });
    }
}

fn check_sources(workspace: &Workspace, image: &Image, problems: &mut Problems) {
    let manifest = &image.manifest;
    let root = match &manifest.base.value {
        Base::Root(root) => Some(&root.source),
        _ => None,
    };
    let requests = manifest.packages.iter().chain(&manifest.apk_packages);
    let asked: Vec<&Located<String>> = root.into_iter().chain(requests.map(|p| &p.source)).collect();
    let apt = || workspace.manifest.apt.iter().map(|apt| apt.name.value.as_str());
    let apk = || workspace.manifest.apk.iter().map(|apk| apk.name.value.as_str());
    let known = || apt().chain(apk());
    if let Some(root) = root.filter(|root| apk().any(|name| name == root.value)) {
        let message = "a root is made of Debian packages";
        let problem = Problem::at(&manifest.file, root.span, message, "an apk source");
        problems.push(problem.help("stand on an image of Alpine: from \"alpine:3.20\""));
    }
    for source in &asked {
        if !known().any(|name| name == source.value) {
            let message = format!("there is no package source \"{}\"", source.value);
            let problem = Problem::at(&manifest.file, source.span, message, "not in imgforge.kdl");
            problems.push(match nearest(&source.value, known()) {
                Some(near) => problem.help(format!("did you mean \"{near}\"?")),
                None => problem
                    .help(format!("imgforge.kdl says it with: apt \"{}\" {{ suite \"...\" }}", source.value)),
            });
        }
    }
    if let (Some(first), Some(other)) =
        (asked.first(), asked.iter().find(|source| source.value != asked[0].value))
    {
        let message = "an image's packages come from one source";
        let problem = Problem::at(&manifest.file, other.span, message, "another source");
        problems.push(problem.and(first.span, "the first one"));
    }
}

/// Packages are installed with dpkg, which must be there: in a root at the bottom of the chain, from the same source,
/// or in an image from outside.
fn check_packages(workspace: &Workspace, image: &Image, chain: &[&Image], problems: &mut Problems) {
    let manifest = &image.manifest;
    let Some(asked) = manifest.packages.first() else { return };
    let bottom = chain[chain.len() - 1];
    if is_unresolved(workspace, bottom) {
        return;
    }
    if bottom.outside_base.is_some() {
        // Whether it has dpkg is known once its layers have been looked at.
        return;
    }
    match &bottom.manifest.base.value {
        Base::Root(root) if root.source.value == asked.source.value => {}
        // Of one image, and of sources that are not there, is told above.
        Base::Root(_) if bottom.name() == image.name() => {}
        Base::Root(root) if !workspace.manifest.apt.iter().any(|apt| apt.name.value == root.source.value) => {
        }
        Base::Root(root) => {
            let message = format!("\"{}\" is made of packages of \"{}\"", bottom.name(), root.source.value);
            let problem =
                Problem::at(&manifest.file, asked.source.span, message, "packages of another source");
            problems.push(problem.help("packages of two sources do not fit together"));
        }
        _ => {
            let message = "packages need an image with a root below them";
            let problem =
                Problem::at(&manifest.file, asked.source.span, message, "nothing to install them with");
            let is_apk = workspace.manifest.apk.iter().any(|apk| apk.name.value == asked.source.value);
            let stand_on = if is_apk {
                "stand on an image of Alpine from outside".to_owned()
            } else {
                format!(
                    "stand on one that says root \"{}\", or on a Debian image from outside",
                    asked.source.value
                )
            };
            problems.push(problem.help(format!(
                "the images below end with \"{}\", which has no root; {stand_on}",
                bottom.name()
            )));
        }
    }
}

/// apk installs these in the build: over the network, in versions that the manifest gives, into an image that has apk.
fn check_apk_packages(workspace: &Workspace, image: &Image, chain: &[&Image], problems: &mut Problems) {
    let manifest = &image.manifest;
    let Some(first) = manifest.apk_packages.first() else { return };
    for name in manifest.apk_packages.iter().flat_map(|request| &request.names) {
        let version = name.value.split_once('=').map(|(_, version)| version);
        if !version.is_some_and(is_apk_version) {
            let message = format!("\"{}\" has no exact version", name.value);
            let problem = Problem::at(&manifest.file, name.span, message, "NAME=VERSION is expected");
            problems.push(problem.help(
                "packages of an apk source without keys are not in the lock, so the manifest says the version: \
                 \"nginx=1.26.2-r0\"; or give the source the keys that sign it: keys \"FOLDER\"",
            ));
        }
    }
    if workspace.network(manifest) == Network::None {
        let message = "packages of an apk source come over the network";
        let problem = Problem::at(&manifest.file, first.source.span, message, "with network \"none\"");
        problems.push(problem.help("say in this image: network \"default\""));
    }
    let bottom = chain[chain.len() - 1];
    let why = match &bottom.manifest.base.value {
        Base::Root(_) => "is made of Debian packages",
        Base::Scratch => "stands on nothing",
        Base::From(_) | Base::Dockerfile(_) => return,
    };
    let message = "packages of an apk source need an image with apk below them";
    let problem = Problem::at(&manifest.file, first.source.span, message, "nothing to install them with");
    problems.push(problem.help(format!("\"{}\" {why}; stand on an image of Alpine", bottom.name())));
}

/// A version as apk writes them (apk-package(5)): no range, and nothing that a later package could answer too.
fn is_apk_version(version: &str) -> bool {
    let revision = version.rsplit_once("-r").map(|(_, revision)| revision);
    version.starts_with(|c: char| c.is_ascii_digit())
        && version.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-~".contains(&b))
        && revision.is_some_and(|r| !r.is_empty() && r.bytes().all(|b| b.is_ascii_digit()))
}

/// One uid never under two names, one name never with two uids.
fn check_users(image: &Image, chain: &[&Image], problems: &mut Problems) {
    let mut uids: BTreeMap<u32, (&str, String)> = BTreeMap::new();
    let mut names: BTreeMap<&str, String> = BTreeMap::new();
    for image in chain.iter().skip(1) {
        for user in &image.manifest.users {
            let place = image.manifest.file.at(user.name.span);
            uids.insert(user.uid.value, (&user.name.value, place.clone()));
            names.insert(&user.name.value, place);
        }
    }
    let file = &image.manifest.file;
    for user in &image.manifest.users {
        if let Some(place) = names.get(user.name.value.as_str()) {
            let message = format!("there is a user \"{}\" already", user.name.value);
            let problem = Problem::at(file, user.name.span, message, "again here");
            problems.push(problem.help(format!("it is made at {place}")));
        } else if let Some((other, place)) = uids.get(&user.uid.value) {
            let message = format!("uid {} is that of \"{other}\" already", user.uid.value);
            let problem = Problem::at(file, user.uid.span, message, "taken");
            problems.push(problem.help(format!("\"{other}\" is made at {place}")));
        }
        let place = file.at(user.name.span);
        uids.insert(user.uid.value, (&user.name.value, place.clone()));
        names.insert(&user.name.value, place);
    }
}
