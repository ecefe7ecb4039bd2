//! Which images the user means: selectors on the command line to a set of names.
//!
//! | selector       | means                                                          |
//! |----------------|----------------------------------------------------------------|
//! | `NAME`         | that image                                                     |
//! | `web*`         | every image whose name fits the glob                           |
//! | `group:NAME`   | the images of a group                                          |
//! | `path:FOLDER`  | the images whose folder is FOLDER or lies in it                |
//! | `+x`           | x and everything that it stands on                             |
//! | `x+`           | x and everything that stands on it                             |
//! | `x+1`          | x and what stands on it in one step                            |

use std::collections::BTreeSet;

use camino::Utf8Path;
use globset::GlobBuilder;
use imgforge_syntax::nearest;

use crate::graph::ImageGraph;
use crate::name::ImageName;
use crate::workspace::Workspace;

/// A selector that names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// No image of that name.
    #[error("there is no image \"{name}\"{}", did_you_mean(.near.as_deref()))]
    NoImage {
        /// The name.
        name: String,
        /// The nearest one.
        near: Option<String>,
    },
    /// No group of that name.
    #[error("there is no group \"{name}\"{}", did_you_mean(.near.as_deref()))]
    NoGroup {
        /// The name.
        name: String,
        /// The nearest one.
        near: Option<String>,
    },
    /// A glob or a folder that no image fits.
    #[error("no image fits \"{0}\"")]
    Nothing(String),
    /// A glob that is none.
    #[error("\"{selector}\" is no glob: {message}")]
    BadGlob {
        /// The selector.
        selector: String,
        /// What is wrong with it.
        message: String,
    },
}

fn did_you_mean(near: Option<&str>) -> String {
    near.map_or(String::new(), |near| format!("; did you mean \"{near}\"?"))
}

/// The images that `selectors` mean (all when there are none), less those that `exclude` means.
///
/// # Errors
/// The first selector that names nothing.
pub fn select(
    workspace: &Workspace,
    graph: &ImageGraph,
    selectors: &[String],
    exclude: &[String],
) -> Result<BTreeSet<ImageName>, SelectError> {
    let mut selected = BTreeSet::new();
    if selectors.is_empty() {
        selected.extend(workspace.images.keys().cloned());
    }
    for selector in selectors {
        selected.extend(one(workspace, graph, selector)?);
    }
    for selector in exclude {
        for name in one(workspace, graph, selector)? {
            selected.remove(&name);
        }
    }
    Ok(selected)
}

fn one(
    workspace: &Workspace,
    graph: &ImageGraph,
    selector: &str,
) -> Result<BTreeSet<ImageName>, SelectError> {
    let (ancestors, rest) = selector.strip_prefix('+').map_or((false, selector), |rest| (true, rest));
    let (word, depth) = match rest.rsplit_once('+') {
        Some((word, "")) => (word, Some(usize::MAX)),
        Some((word, depth)) => match depth.parse() {
            Ok(depth) => (word, Some(depth)),
            Err(_) => (rest, None),
        },
        None => (rest, None),
    };
    let meant = plain(workspace, word)?;
    let mut found = meant.clone();
    for name in &meant {
        if ancestors {
            found.extend(graph.ancestors(name).into_iter().cloned());
        }
        if let Some(depth) = depth {
            found.extend(graph.descendants_within(name, depth).into_iter().cloned());
        }
    }
    Ok(found)
}

/// A selector without `+`.
fn plain(workspace: &Workspace, word: &str) -> Result<BTreeSet<ImageName>, SelectError> {
    if let Some(group) = word.strip_prefix("group:") {
        return in_group(workspace, group);
    }
    let images = &workspace.images;
    if let Some(folder) = word.strip_prefix("path:") {
        let folder = Utf8Path::new(folder.trim_end_matches('/'));
        let folder = folder.strip_prefix(".").unwrap_or(folder);
        let fits = images.values().filter(|image| image.manifest.file.dir().starts_with(folder));
        return not_empty(word, fits.map(|image| image.name().clone()).collect());
    }
    if !word.contains(['*', '?', '[', '{']) {
        return match images.keys().find(|name| name.as_str() == word) {
            Some(name) => Ok(BTreeSet::from([name.clone()])),
            None => {
                let near = nearest(word, images.keys().map(ImageName::as_str)).map(str::to_owned);
                Err(SelectError::NoImage { name: word.to_owned(), near })
            }
        };
    }
    let glob = GlobBuilder::new(word).literal_separator(true).build().map_err(|error| {
        SelectError::BadGlob { selector: word.to_owned(), message: error.kind().to_string() }
    })?;
    let matcher = glob.compile_matcher();
    not_empty(word, images.keys().filter(|name| matcher.is_match(name.as_str())).cloned().collect())
}

fn in_group(workspace: &Workspace, name: &str) -> Result<BTreeSet<ImageName>, SelectError> {
    let groups = &workspace.manifest.groups;
    let Some(group) = groups.iter().find(|group| group.name.value == name) else {
        let near = nearest(name, groups.iter().map(|group| group.name.value.as_str())).map(str::to_owned);
        return Err(SelectError::NoGroup { name: name.to_owned(), near });
    };
    let is_member = |image: &&ImageName| group.members.iter().any(|member| member.value == image.as_str());
    not_empty(name, workspace.images.keys().filter(is_member).cloned().collect())
}

fn not_empty(word: &str, found: BTreeSet<ImageName>) -> Result<BTreeSet<ImageName>, SelectError> {
    if found.is_empty() { Err(SelectError::Nothing(word.to_owned())) } else { Ok(found) }
}

#[cfg(test)]
mod tests;
