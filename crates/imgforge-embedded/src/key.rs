//! By what a step's result is known again: a hash of everything that it depends on. A step with the same key gives the
//! same layer, so whatever is left out here would be a wrong result; times, paths on this machine and labels are not in
//! it because nothing in a step sees them.
//!
//! Keys outlive the program that made them. So what is hashed is written down by an [encoding] of its own, and neither
//! by `Debug` nor by serde, whose text a renamed field or another version of a library would change.

mod action;
mod encoding;
#[cfg(test)]
mod tests;

use blake3::Hasher;
use imgforge_core::source::Node;
use imgforge_dockerfile::program::Action;

use self::encoding::Encoding;
use crate::worker::message::{Content, ContextEntry, ContextKind};

/// Counted up when steps begin to give other results.
const VERSION: u32 = 4;

/// The hash of a step.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StepKey(String);

impl StepKey {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The origin of files, by content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FilesKey {
    /// The topmost chain id of a stack; empty for no layers.
    Stack(String),
    /// The hash of a context's entries.
    Context(String),
    /// Nothing.
    None,
}

/// What a URL has given, by content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FetchedKey {
    /// The hash of its bytes.
    pub(crate) hash: String,
    /// Its name is in the layer too.
    pub(crate) name: String,
    /// So is its time, in seconds since 1970.
    pub(crate) time: Option<i64>,
}

/// Everything that a step depends on besides its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inputs<'a> {
    /// The topmost chain id of what it begins with; empty for `scratch`.
    pub(crate) chain: &'a str,
    /// For a RUN: each mount's files. For a COPY: its source.
    pub(crate) files: &'a [FilesKey],
    /// What URLs have given.
    pub(crate) fetched: &'a [FetchedKey],
    /// The network of commands: `none`, `default` or `host`.
    pub(crate) network: &'a str,
    /// No file's time is later.
    pub(crate) epoch: i64,
    pub(crate) platform: &'a str,
    /// The way in which the layer is packed: the digest depends on it.
    pub(crate) packing: &'a str,
}

/// The key of an action.
pub(crate) fn key(action: &Action, inputs: &Inputs<'_>) -> StepKey {
    let mut to = Encoding::new("imgforge 2026 step");
    to.number(VERSION);
    encode_inputs(&mut to, inputs);
    action::action(&mut to, action);
    StepKey(to.finish())
}

/// The key of making one layer of those between two chain ids.
pub(crate) fn merge_key(below: &str, top: &str, packing: &str) -> StepKey {
    let mut to = Encoding::new("imgforge 2026 one layer of several");
    for text in [below, top, packing] {
        to.text(text);
    }
    StepKey(to.finish())
}

fn encode_inputs(to: &mut Encoding, inputs: &Inputs<'_>) {
    // Taken apart into all of its fields, so that one that is added later cannot be forgotten.
    let Inputs { chain, files, fetched, network, epoch, platform, packing } = inputs;
    to.text(chain);
    to.list(files, |to, files| match files {
        FilesKey::Stack(top) => {
            to.number(0_u8);
            to.text(top);
        }
        FilesKey::Context(hash) => {
            to.number(1_u8);
            to.text(hash);
        }
        FilesKey::None => to.number(2_u8),
    });
    to.list(fetched, |to, FetchedKey { hash, name, time }| {
        to.text(hash);
        to.text(name);
        to.option(*time, |to, time| to.number(time.cast_unsigned()));
    });
    to.text(network);
    to.number(epoch.cast_unsigned());
    to.text(platform);
    to.text(packing);
}

/// The hash of a context's entries.
///
/// # Errors
/// A file that has no hash yet and cannot be read.
pub(crate) fn context_hash<'a>(
    entries: impl IntoIterator<Item = &'a ContextEntry>,
) -> std::io::Result<String> {
    let mut to = Encoding::new("imgforge 2026 context of a step");
    for ContextEntry { path, kind } in entries {
        to.text(path);
        match kind {
            ContextKind::Folder { mode } => {
                to.number(0_u8);
                to.number(*mode);
            }
            ContextKind::File { mode, content } => {
                to.number(1_u8);
                to.number(*mode);
                to.bytes(content_hash(content)?.as_bytes());
            }
            ContextKind::Link { target } => {
                to.number(2_u8);
                to.text(target);
            }
            ContextKind::Node { node, mode } => {
                to.number(3_u8);
                encode_node(&mut to, *node);
                to.number(*mode);
            }
        }
    }
    Ok(to.finish())
}

fn encode_node(to: &mut Encoding, node: Node) {
    let (kind, numbers) = match node {
        Node::Pipe => (0_u8, None),
        Node::Character(major, minor) => (1, Some([major, minor])),
        Node::Block(major, minor) => (2, Some([major, minor])),
    };
    to.number(kind);
    for number in numbers.into_iter().flatten() {
        to.number(number);
    }
}

/// The hash of a file's bytes, however it is known.
fn content_hash(content: &Content) -> std::io::Result<blake3::Hash> {
    match content {
        Content::Bytes(bytes) => Ok(blake3::hash(bytes)),
        Content::File { blake3: Some(hash), .. } => {
            blake3::Hash::from_hex(hash).map_err(std::io::Error::other)
        }
        Content::File { path, blake3: None } => {
            let mut file = Hasher::new();
            file.update_reader(std::fs::File::open(path)?)?;
            Ok(file.finalize())
        }
    }
}
