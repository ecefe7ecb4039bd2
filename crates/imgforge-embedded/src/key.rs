//! By what a step's result is known again: a hash of everything that it depends on. A step with the same key gives the
//! same layer, so whatever is left out here would be a wrong result; times, paths on this machine and labels are not in
//! it because nothing in a step sees them.

use blake3::Hasher;
use imgforge_dockerfile::program::{Action, MountKind, Run};
use serde::Serialize;

use crate::worker::message::{Content, ContextEntry, ContextKind};

/// Counted up when steps begin to give other results.
const VERSION: u32 = 3;

/// The hash of a step.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StepKey(String);

impl StepKey {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The origin of files, by content.
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
    /// The hashes of what URLs have given.
    pub(crate) fetched: &'a [String],
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
            copy.from = imgforge_dockerfile::program::From::Context;
            add(format!("{copy:?}").as_bytes());
        }
        Action::Workdir { .. } => add(format!("{action:?}").as_bytes()),
    }
    StepKey(hasher.finalize().to_hex().to_string())
}

/// The key of making one layer of those between two chain ids.
pub(crate) fn merge_key(below: &str, top: &str, packing: &str) -> StepKey {
    let mut hasher = Hasher::new_derive_key("imgforge 2026 one layer of several");
    for text in [below, top, packing] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
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
            ContextKind::Folder { mode } => add(format!("d{mode:o}").as_bytes()),
            ContextKind::Node { node, mode } => add(format!("n{node} {mode:o}").as_bytes()),
            ContextKind::Link { target } => {
                add(b"l");
                add(target.as_bytes());
            }
            ContextKind::File { mode, content } => {
                add(format!("f{mode:o}").as_bytes());
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use imgforge_dockerfile::program::{Copy, CopySource, From, Mount, RunNetwork};
    use proptest::prelude::*;

    use super::*;

    const BEGIN: Inputs<'static> = Inputs {
        chain: "sha256:a",
        files: &[],
        fetched: &[],
        network: "none",
        epoch: 1,
        platform: "linux/amd64",
        packing: "gzip",
    };

    fn run() -> Run {
        Run {
            argv: vec!["sh".into(), "-c".into(), "true".into()],
            env: vec![("A".into(), "1".into())],
            workdir: "/".into(),
            user: String::new(),
            mounts: vec![bind("/mnt", "a", false)],
            network: None,
            heredocs: Vec::new(),
        }
    }

    fn bind(target: &str, source: &str, writable: bool) -> Mount {
        let kind = MountKind::Bind { from: From::Context, source: source.into(), writable };
        Mount { target: target.into(), kind }
    }

    fn copy() -> Copy {
        Copy {
            is_add: false,
            from: From::Context,
            sources: vec![CopySource::Path("a".into())],
            target: "/x".into(),
            chown: None,
            chmod: None,
            link: false,
            parents: false,
            excludes: Vec::new(),
        }
    }

    #[test]
    fn whatever_changes_a_step_changes_its_key() {
        let run_with = |change: &dyn Fn(&mut Run)| {
            let mut run = run();
            change(&mut run);
            key(&Action::Run(run), &BEGIN)
        };
        let copy_with = |change: &dyn Fn(&mut Copy)| {
            let mut copy = copy();
            change(&mut copy);
            key(&Action::Copy(copy), &BEGIN)
        };
        let path = |text: &str| CopySource::Path(text.into());
        let inline =
            |name: &str, content: &str| CopySource::Inline { name: name.into(), content: content.into() };
        let workdir = |path: &str, user: &str| Action::Workdir { path: path.into(), user: user.into() };
        let tmpfs = |size| Mount { target: "/mnt".into(), kind: MountKind::Tmpfs { size } };
        let stack = |chain: &str| [FilesKey::Stack(chain.into())];
        let (one, other) = (stack("a"), stack("b"));
        let context = [FilesKey::Context("a".into())];
        let fetched = ["a".to_owned()];
        let with = |inputs: Inputs<'_>| key(&Action::Run(run()), &inputs);
        let keys = vec![
            run_with(&|_| {}),
            run_with(&|run| run.argv[2] = "false".into()),
            run_with(&|run| run.argv = vec!["sh".into(), "-c true".into()]),
            run_with(&|run| run.argv.push(String::new())),
            run_with(&|run| run.env[0].1 = "2".into()),
            run_with(&|run| run.env[0] = ("A1".into(), String::new())),
            run_with(&|run| run.env.push(("B".into(), "1".into()))),
            run_with(&|run| run.env.clear()),
            run_with(&|run| run.workdir = "/a".into()),
            run_with(&|run| run.user = "web".into()),
            run_with(&|run| run.network = Some(RunNetwork::None)),
            run_with(&|run| run.heredocs.push(("EOF".into(), "text".into()))),
            run_with(&|run| run.mounts.clear()),
            run_with(&|run| run.mounts = vec![bind("/mnt2", "a", false)]),
            run_with(&|run| run.mounts = vec![bind("/mnt", "b", false)]),
            run_with(&|run| run.mounts = vec![bind("/mnt", "a", true)]),
            run_with(&|run| run.mounts = vec![tmpfs(None)]),
            run_with(&|run| run.mounts = vec![tmpfs(Some(1))]),
            copy_with(&|_| {}),
            copy_with(&|copy| copy.is_add = true),
            copy_with(&|copy| copy.sources = vec![path("b")]),
            copy_with(&|copy| copy.sources = vec![path("a"), path("b")]),
            copy_with(&|copy| copy.sources = vec![path("b"), path("a")]),
            copy_with(&|copy| copy.sources = vec![inline("a", "x")]),
            copy_with(&|copy| copy.sources = vec![inline("a", "y")]),
            copy_with(&|copy| copy.target = "/x/".into()),
            copy_with(&|copy| copy.chown = Some("1".into())),
            copy_with(&|copy| copy.chmod = Some(0o600)),
            copy_with(&|copy| copy.link = true),
            copy_with(&|copy| copy.parents = true),
            copy_with(&|copy| copy.excludes.push("*.txt".into())),
            key(&workdir("/a", ""), &BEGIN),
            key(&workdir("/b", ""), &BEGIN),
            key(&workdir("/a", "web"), &BEGIN),
            with(Inputs { chain: "sha256:b", ..BEGIN }),
            with(Inputs { chain: "", ..BEGIN }),
            with(Inputs { files: &one, ..BEGIN }),
            with(Inputs { files: &other, ..BEGIN }),
            with(Inputs { files: &context, ..BEGIN }),
            with(Inputs { files: &[FilesKey::None], ..BEGIN }),
            with(Inputs { fetched: &fetched, ..BEGIN }),
            with(Inputs { network: "default", ..BEGIN }),
            with(Inputs { network: "host", ..BEGIN }),
            with(Inputs { epoch: 2, ..BEGIN }),
            with(Inputs { platform: "linux/arm64", ..BEGIN }),
            with(Inputs { packing: "zstd", ..BEGIN }),
        ];
        let merged = [("a", "b", "gzip"), ("b", "a", "gzip"), ("a", "b", "zstd"), ("", "ab", "gzip")];
        let keys: Vec<StepKey> = keys
            .into_iter()
            .chain(merged.map(|(below, top, packing)| merge_key(below, top, packing)))
            .collect();
        let different: BTreeSet<&StepKey> = keys.iter().collect();
        assert_eq!(different.len(), keys.len());
        // Where the files come from is no input: what they are is.
        assert_eq!(copy_with(&|copy| copy.from = From::Stage(0)), copy_with(&|_| {}));
    }

    fn texts() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec("[ab\"\\\\, \\[\\]]{0,4}", 0..4)
    }

    proptest! {
        #[test]
        fn commands_have_one_key_when_they_are_the_same(one in texts(), other in texts()) {
            let of = |argv: &[String], env: &[String]| {
                let env = env.iter().map(|value| ("A".to_owned(), value.clone())).collect();
                key(&Action::Run(Run { argv: argv.to_vec(), env, ..run() }), &BEGIN)
            };
            prop_assert_eq!(of(&one, &[]) == of(&other, &[]), one == other);
            prop_assert_eq!(of(&[], &one) == of(&[], &other), one == other);
            prop_assert_eq!(of(&one, &other) == of(&other, &one), one == other);
        }

        #[test]
        fn contexts_have_one_hash_when_they_are_the_same(
            one in prop::collection::vec(("[ab]{1,2}", "[xy]{0,2}", 0..3), 0..4),
            other in prop::collection::vec(("[ab]{1,2}", "[xy]{0,2}", 0..3), 0..4),
        ) {
            let entries = |made: &[(String, String, i32)]| -> Vec<ContextEntry> {
                let entry = |(path, text, kind): &(String, String, i32)| ContextEntry {
                    path: path.clone(),
                    kind: match kind {
                        0 => ContextKind::Link { target: text.clone() },
                        executable => ContextKind::File {
                            mode: if *executable == 1 { 0o755 } else { 0o600 },
                            content: Content::Bytes(text.clone().into_bytes()),
                        },
                    },
                };
                made.iter().map(entry).collect()
            };
            let (first, second) = (context_hash(&entries(&one)).unwrap(), context_hash(&entries(&other)).unwrap());
            prop_assert_eq!(first == second, one == other);
        }
    }
}
