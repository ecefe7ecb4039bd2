//! By what a step's result is known again: a hash of everything that it depends on. A step with the same key gives the
//! same layer, so whatever is left out here would be a wrong result; times, paths on this machine and labels are not in
//! it because nothing in a step sees them.

use blake3::Hasher;
use imgforge_core::dockerfile::program::{Action, MountKind, Run};
use serde::Serialize;

use crate::worker::message::{Content, ContextEntry, ContextKind};

/// Counted up when steps begin to give other results.
const VERSION: u32 = 1;

/// The hash of a step.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StepKey(String);

impl StepKey {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where files come from, by what they are.
#[derive(Debug, Clone, Serialize)]
pub(crate) enum FilesKey {
    /// The topmost chain id of a stack; empty for no layers.
    Stack(String),
    /// The hash of a context's entries.
    Context(String),
    /// Nothing.
    None,
}

/// Everything that a step depends on besides its own words.
#[derive(Debug, Serialize)]
pub(crate) struct Inputs<'a> {
    /// The topmost chain id of what it begins with; empty for `scratch`.
    pub(crate) chain: &'a str,
    /// For a RUN: each mount's files. For a COPY: its source.
    pub(crate) files: &'a [FilesKey],
    /// What URLs gave.
    pub(crate) fetched: &'a [String],
    /// Whether commands reach the network.
    pub(crate) network: bool,
    /// No file's time is later.
    pub(crate) epoch: i64,
    pub(crate) platform: &'a str,
    /// How its layer is packed: the digest depends on it.
    pub(crate) packing: &'a str,
}

/// The key of an action.
pub(crate) fn key(action: &Action, inputs: &Inputs<'_>) -> StepKey {
    let mut hasher = Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    add(&VERSION.to_le_bytes());
    add(&serde_json::to_vec(inputs).expect("texts and numbers are JSON"));
    // `Debug` says every field of these plain types, with quotes around texts.
    match action {
        Action::Run(run) => {
            // A cache, a secret and an agent are no inputs: BuildKit leaves their content out too.
            let Run { argv, env, workdir, user, mounts, network, heredocs } = run;
            add(b"run");
            add(format!("{argv:?} {env:?} {workdir:?} {user:?} {network:?} {heredocs:?}").as_bytes());
            for mount in mounts {
                add(mount.target.as_bytes());
                match &mount.kind {
                    MountKind::Bind { source, writable, .. } => {
                        add(format!("bind {source:?} {writable}").as_bytes());
                    }
                    other => add(format!("{other:?}").as_bytes()),
                }
            }
        }
        Action::Copy(copy) => {
            let mut copy = copy.clone();
            // What it comes from is among the inputs, by content.
            copy.from = imgforge_core::dockerfile::program::From::Context;
            add(format!("{copy:?}").as_bytes());
        }
        Action::Workdir { .. } => add(format!("{action:?}").as_bytes()),
    }
    StepKey(hasher.finalize().to_hex().to_string())
}

/// The hash of a context's entries.
///
/// # Errors
/// A file that has no hash yet and cannot be read.
pub(crate) fn context_hash<'a>(
    entries: impl IntoIterator<Item = &'a ContextEntry>,
) -> std::io::Result<String> {
    let mut hasher = Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for entry in entries {
        add(entry.path.as_bytes());
        match &entry.kind {
            ContextKind::Folder => add(b"d"),
            ContextKind::Link { target } => {
                add(b"l");
                add(target.as_bytes());
            }
            ContextKind::File { executable, content } => {
                add(if *executable { b"x" } else { b"f" });
                match content {
                    Content::Bytes(bytes) => add(blake3::hash(bytes).as_bytes()),
                    Content::File { blake3: Some(hash), .. } => {
                        add(blake3::Hash::from_hex(hash).map_err(std::io::Error::other)?.as_bytes());
                    }
                    Content::File { path, blake3: None } => {
                        let mut file = Hasher::new();
                        file.update_reader(std::fs::File::open(path)?)?;
                        add(file.finalize().as_bytes());
                    }
                }
            }
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}
