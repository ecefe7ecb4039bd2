//! Why a target is built, and how that is said.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Held, Target};
use crate::fingerprint::{Fingerprint, InputChange, InputKind};

/// Why a target is built. Each has what was and what is; there is no row for "something".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reason {
    /// No image of this name is held.
    NeverBuilt {
        /// Always null.
        old: Option<Fingerprint>,
        /// The fingerprint to build.
        new: Fingerprint,
    },
    /// Images of this name are held, but the one to compare with carries no readable list of inputs.
    NoRecord {
        /// The fingerprint of the held image.
        old: Fingerprint,
        /// The fingerprint to build.
        new: Fingerprint,
    },
    /// An image of this fingerprint is held that this user's imgforge has not built, and the workspace says
    /// `trust "built-here"`.
    NotBuiltHere {
        /// Its fingerprint.
        old: Fingerprint,
        /// The same.
        new: Fingerprint,
    },
    /// It was asked to be built whatever is held.
    Forced {
        /// The fingerprint of the held image, if there is one.
        old: Option<Fingerprint>,
        /// The fingerprint to build.
        new: Fingerprint,
    },
    /// A file, folder or link of the context is not what it was.
    File {
        /// Its path in the context.
        path: String,
        /// What it was (a shortened hash and the mode), or null when it was not there.
        old: Option<String>,
        /// What it is, or null when it is gone.
        new: Option<String>,
    },
    /// The Dockerfile says something else.
    Dockerfile {
        /// The shortened hash it had.
        old: Option<String>,
        /// The shortened hash it has.
        new: Option<String>,
        /// Instructions that were not in the old one.
        added: Vec<String>,
        /// How many instructions of the old one are gone.
        removed: usize,
    },
    /// A parent's fingerprint changed.
    Parent {
        /// The parent.
        name: String,
        /// Its fingerprint then, shortened, or null when it was no parent.
        old: Option<String>,
        /// Its fingerprint now, shortened, or null when it is no parent any more.
        new: Option<String>,
    },
    /// A locked package came, went or has another version.
    Package {
        /// `NAME:ARCHITECTURE`.
        name: String,
        /// Version and shortened SHA-256 then.
        old: Option<String>,
        /// Version and shortened SHA-256 now.
        new: Option<String>,
        /// Whether it moved to a version that comes from a security suite.
        security: bool,
    },
    /// A package was locked anew, since nobody serves the locked version any more.
    Relocked(Relocked),
    /// An external image's digest changed.
    External {
        /// The reference.
        name: String,
        /// The digest then.
        old: Option<String>,
        /// The digest now.
        new: Option<String>,
    },
    /// Something set from outside the Dockerfile changed: a build argument, a label, the platform, the network,
    /// or what imgforge itself does.
    Setting {
        /// Which kind of input.
        setting: InputKind,
        /// Its name.
        name: String,
        /// What it was; arguments and labels as a hash.
        old: Option<String>,
        /// What it is.
        new: Option<String>,
    },
}

/// A package that was locked anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Relocked {
    /// Its name.
    pub package: String,
    /// The version that nobody serves any more.
    pub old: String,
    /// The version locked instead.
    pub new: String,
}

/// Why `target` is not what its predecessor is.
pub(super) fn reasons(target: &Target, predecessor: Option<&Held>) -> Vec<Reason> {
    let new = target.fingerprint;
    let Some(held) = predecessor else { return vec![Reason::NeverBuilt { old: None, new }] };
    if held.distrusted && held.fingerprint == new {
        return vec![Reason::NotBuiltHere { old: new, new }];
    }
    let changes =
        held.inputs.as_ref().map(|recorded| target.inputs.changes_since(recorded)).unwrap_or_default();
    if changes.is_empty() {
        // Either the label is unreadable, or two different hashes share their first 64 bits.
        return vec![Reason::NoRecord { old: held.fingerprint, new }];
    }
    let mut reasons: Vec<Reason> = target.relocked.iter().cloned().map(Reason::Relocked).collect();
    let is_relocked = |name: &str| target.relocked.iter().any(|r| name.split(':').next() == Some(&r.package));
    reasons.extend(
        changes
            .into_iter()
            .filter(|change| change.kind != InputKind::Package || !is_relocked(&change.name))
            .map(|change| reason(target, change)),
    );
    reasons
}

fn reason(target: &Target, change: InputChange) -> Reason {
    let InputChange { kind, name, old, new } = change;
    match kind {
        InputKind::File | InputKind::Folder | InputKind::Link => Reason::File { path: name, old, new },
        InputKind::Dockerfile => dockerfile_reason(target, old.as_deref(), new.as_deref()),
        InputKind::Package => {
            let security = old.is_some() && target.security.contains(&name);
            Reason::Package { name, old, new, security }
        }
        InputKind::Parent => Reason::Parent { name, old, new },
        InputKind::External => Reason::External { name, old, new },
        InputKind::Format
        | InputKind::Platform
        | InputKind::Network
        | InputKind::Layers
        | InputKind::Installer
        | InputKind::Arg
        | InputKind::Label => Reason::Setting { setting: kind, name, old, new },
    }
}

/// The record is the hash of the file and then one short hash an instruction; see
/// [`insert_dockerfile`](crate::fingerprint::InputManifest::insert_dockerfile).
fn dockerfile_reason(target: &Target, old: Option<&str>, new: Option<&str>) -> Reason {
    let words = |text: Option<&str>| text.unwrap_or("").split(' ').map(str::to_owned).collect::<Vec<_>>();
    let (old_words, new_words) = (words(old), words(new));
    let mut left: Vec<&String> = old_words.iter().skip(1).collect();
    let mut added = Vec::new();
    for (hash, text) in new_words.iter().skip(1).zip(&target.instructions) {
        match left.iter().position(|old| *old == hash) {
            Some(at) => drop(left.remove(at)),
            None => added.push(text.clone()),
        }
    }
    let head = |text: Option<&str>| text.and_then(|t| t.split(' ').next()).map(str::to_owned);
    Reason::Dockerfile { old: head(old), new: head(new), added, removed: left.len() }
}

impl Reason {
    /// As its text, with another path for the file that it is about.
    #[must_use]
    pub fn with_path(&self, path: &str) -> String {
        match self {
            Self::File { old, new, .. } => {
                Self::File { path: path.to_owned(), old: old.clone(), new: new.clone() }.to_string()
            }
            other => other.to_string(),
        }
    }
}

impl std::fmt::Display for Reason {
    /// A short clause for people, without the image's name: `nginx.conf changed`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verb = |old: &Option<String>, new: &Option<String>| match (old, new) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "changed",
        };
        match self {
            Self::NeverBuilt { .. } => f.write_str("never built"),
            Self::NoRecord { .. } => f.write_str("the image held does not say what it was built from"),
            Self::NotBuiltHere { .. } => f.write_str("the image held was not built here"),
            Self::Forced { .. } => f.write_str("forced"),
            Self::File { path, old: Some(old), new: Some(new) } => match mode_change(old, new) {
                Some((old, new)) => write!(f, "{path} has mode {new}, not {old}"),
                None => write!(f, "{path} changed"),
            },
            Self::File { path, old, new } => write!(f, "{path} {}", verb(old, new)),
            Self::Dockerfile { added, removed, .. } => match added.as_slice() {
                [] if *removed == 0 => f.write_str("instructions reordered"),
                [] => write!(f, "{removed} instruction{} removed", if *removed == 1 { "" } else { "s" }),
                [one] => write!(f, "instructions changed (+1 -{removed}): {}", first_line(one)),
                [first, ..] => {
                    write!(f, "instructions changed (+{} -{removed}): {}, …", added.len(), first_line(first))
                }
            },
            Self::Parent { name, old, new } => match verb(old, new) {
                "changed" => write!(f, "parent {name}"),
                other => write!(f, "parent {name} {other}"),
            },
            Self::Package { name, old, new, security } => {
                let mark = if *security { " (security)" } else { "" };
                let name = name.split(':').next().unwrap_or(name);
                let version = |text: &Option<String>| {
                    text.as_deref().and_then(|t| t.split(' ').next()).map(str::to_owned)
                };
                match (version(old), version(new)) {
                    (Some(old), Some(new)) => write!(f, "package {name} {old} -> {new}{mark}"),
                    (None, Some(new)) => write!(f, "package {name} {new} added"),
                    (Some(old), None) => write!(f, "package {name} {old} removed"),
                    (None, None) => write!(f, "package {name}"),
                }
            }
            Self::Relocked(r) => {
                write!(f, "package {} {} is not served any more, locked {} instead", r.package, r.old, r.new)
            }
            Self::External { name, old, new } => write!(f, "external {name} {}", verb(old, new)),
            Self::Setting { setting: InputKind::Format, .. } => {
                f.write_str("this imgforge builds it differently")
            }
            Self::Setting { setting: InputKind::Installer, .. } => {
                f.write_str("this imgforge installs packages differently")
            }
            Self::Setting { setting, name, old, new } if setting.as_str() == name => {
                write!(
                    f,
                    "{name} {} -> {}",
                    old.as_deref().unwrap_or("none"),
                    new.as_deref().unwrap_or("none")
                )
            }
            Self::Setting { setting, name, old, new } => {
                write!(f, "{} {name} {}", setting.as_str(), verb(old, new))
            }
        }
    }
}

/// The modes of a file or folder of which nothing else changed.
fn mode_change<'a>(old: &'a str, new: &'a str) -> Option<(&'a str, &'a str)> {
    let parts = |value: &'a str| value.rsplit_once(' ').unwrap_or(("", value));
    let ((old_content, old), (new_content, new)) = (parts(old), parts(new));
    let is_mode = |word: &str| word.len() == 4 && word.bytes().all(|byte| byte.is_ascii_digit());
    (old_content == new_content && is_mode(old) && is_mode(new)).then_some((old, new))
}

/// At most 60 characters of the first line.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or("");
    match line.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}
