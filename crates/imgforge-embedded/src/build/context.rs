//! The build context as a worker gets it.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::context::{EntryKind, FOLDER, Origin, SuppliedContent, generated_mode};
use imgforge_engine::{BuildError, BuildRequest};

use crate::worker::message::{Content, ContextEntry, ContextKind};

/// The context as a worker gets it, sorted by path, with the folders that files lie in.
pub(super) fn context(request: &BuildRequest) -> Result<Vec<ContextEntry>, BuildError> {
    let mut entries: BTreeMap<Utf8PathBuf, ContextKind> = BTreeMap::new();
    for entry in &request.entries {
        let kind = match &entry.kind {
            EntryKind::Dir { mode } => ContextKind::Folder { mode: *mode },
            EntryKind::Symlink { target } => ContextKind::Link { target: target.clone() },
            EntryKind::Node { node, mode } => ContextKind::Node { node: *node, mode: *mode },
            EntryKind::File { hash, mode, origin, .. } => ContextKind::File {
                mode: *mode,
                content: match origin {
                    Origin::Source(path) => {
                        Content::File { path: request.root.join(path), blake3: Some(hash.to_string()) }
                    }
                    Origin::Generated(bytes) => Content::Bytes(bytes.to_vec()),
                },
            },
        };
        add(&mut entries, &entry.path, kind);
    }
    for file in &request.supplied {
        let content = match &file.content {
            SuppliedContent::Bytes(bytes) => Content::Bytes(bytes.clone()),
            SuppliedContent::File(path) if path.is_file() => {
                Content::File { path: path.clone(), blake3: None }
            }
            SuppliedContent::File(path) => {
                return Err(BuildError::Unreadable { path: path.clone(), message: "it is not there".into() });
            }
        };
        add(&mut entries, &file.path, ContextKind::File { mode: generated_mode(file.executable), content });
    }
    Ok(entries.into_iter().map(|(path, kind)| ContextEntry { path: path.into(), kind }).collect())
}

fn add(entries: &mut BTreeMap<Utf8PathBuf, ContextKind>, path: &Utf8Path, kind: ContextKind) {
    for parent in path.ancestors().skip(1).filter(|parent| !parent.as_str().is_empty()) {
        entries.entry(parent.to_owned()).or_insert(ContextKind::Folder { mode: FOLDER });
    }
    entries.insert(path.to_owned(), kind);
}
