use std::collections::BTreeSet;

use imgforge_dockerfile::program::{Copy, CopySource, From, Mount, MountKind, Run, RunNetwork, Sharing};
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
    let url = |url: &str, checksum: Option<&str>| CopySource::Url {
        url: url.into(),
        checksum: checksum.map(str::to_owned),
    };
    let workdir = |path: &str, user: &str| Action::Workdir { path: path.into(), user: user.into() };
    let tmpfs = |size| Mount { target: "/mnt".into(), kind: MountKind::Tmpfs { size } };
    let stack = |chain: &str| [FilesKey::Stack(chain.into())];
    let (one, other) = (stack("a"), stack("b"));
    let context = [FilesKey::Context("a".into())];
    let fetched = |hash: &str, name: &str, time| [FetchedKey { hash: hash.into(), name: name.into(), time }];
    let (got, other_got, named) = (fetched("a", "n", None), fetched("b", "n", None), fetched("a", "m", None));
    let (at_zero, later) = (fetched("a", "n", Some(0)), fetched("a", "n", Some(1)));
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
        run_with(&|run| run.network = Some(RunNetwork::Default)),
        run_with(&|run| run.network = Some(RunNetwork::Host)),
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
        copy_with(&|copy| copy.sources = vec![inline("b", "x")]),
        copy_with(&|copy| copy.sources = vec![url("a", None)]),
        copy_with(&|copy| copy.sources = vec![url("b", None)]),
        copy_with(&|copy| copy.sources = vec![url("a", Some("x"))]),
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
        with(Inputs { fetched: &got, ..BEGIN }),
        with(Inputs { fetched: &other_got, ..BEGIN }),
        with(Inputs { fetched: &named, ..BEGIN }),
        with(Inputs { fetched: &at_zero, ..BEGIN }),
        with(Inputs { fetched: &later, ..BEGIN }),
        with(Inputs { network: "default", ..BEGIN }),
        with(Inputs { network: "host", ..BEGIN }),
        with(Inputs { epoch: 2, ..BEGIN }),
        with(Inputs { platform: "linux/arm64", ..BEGIN }),
        with(Inputs { packing: "zstd", ..BEGIN }),
    ];
    let merged = [("a", "b", "gzip"), ("b", "a", "gzip"), ("a", "b", "zstd"), ("", "ab", "gzip")];
    let keys: Vec<StepKey> =
        keys.into_iter().chain(merged.map(|(below, top, packing)| merge_key(below, top, packing))).collect();
    let different: BTreeSet<&StepKey> = keys.iter().collect();
    assert_eq!(different.len(), keys.len());
    // Where the files come from is no input: what they are is.
    assert_eq!(copy_with(&|copy| copy.from = From::Stage(0)), copy_with(&|_| {}));
}

/// A mount of each kind, and the same with each field changed.
fn mounts() -> Vec<MountKind> {
    let cache = |change: &dyn Fn(&mut CacheMount)| {
        let mut cache = CacheMount {
            id: "a".into(),
            from: None,
            source: String::new(),
            sharing: Sharing::Shared,
            owned: [0o755, 0, 0],
            read_only: false,
        };
        change(&mut cache);
        let CacheMount { id, from, source, sharing, owned: [mode, uid, gid], read_only } = cache;
        MountKind::Cache { id, from, source, sharing, mode, uid, gid, read_only }
    };
    let secret = |id: &str, env: Option<&str>, required, [mode, uid, gid]: [u32; 3]| MountKind::Secret {
        id: id.into(),
        env: env.map(str::to_owned),
        required,
        mode,
        uid,
        gid,
    };
    let ssh = |id: &str, required, [mode, uid, gid]: [u32; 3]| MountKind::Ssh {
        id: id.into(),
        required,
        mode,
        uid,
        gid,
    };
    let owned = [0o400, 0, 0];
    let others = [[0o600, 0, 0], [0o400, 1, 0], [0o400, 0, 1]];
    let mut kinds = vec![
        cache(&|_| {}),
        cache(&|cache| cache.id = "b".into()),
        cache(&|cache| cache.from = Some(From::Context)),
        cache(&|cache| cache.from = Some(From::Stage(0))),
        cache(&|cache| cache.from = Some(From::Stage(1))),
        cache(&|cache| cache.from = Some(From::Image("a".into()))),
        cache(&|cache| cache.from = Some(From::Image("b".into()))),
        cache(&|cache| cache.source = "a".into()),
        cache(&|cache| cache.sharing = Sharing::Private),
        cache(&|cache| cache.sharing = Sharing::Locked),
        cache(&|cache| cache.read_only = true),
        MountKind::Tmpfs { size: None },
        MountKind::Tmpfs { size: Some(0) },
        MountKind::Tmpfs { size: Some(1) },
        secret("a", None, false, owned),
        secret("b", None, false, owned),
        secret("a", Some(""), false, owned),
        secret("a", Some("A"), false, owned),
        secret("a", None, true, owned),
        ssh("a", false, owned),
        ssh("b", false, owned),
        ssh("a", true, owned),
    ];
    for other in others {
        kinds.push(cache(&|cache| cache.owned = other));
        kinds.push(secret("a", None, false, other));
        kinds.push(ssh("a", false, other));
    }
    for source in ["a", "b"] {
        for writable in [false, true] {
            kinds.push(MountKind::Bind { from: From::Context, source: source.into(), writable });
        }
    }
    kinds
}

/// The fields of a cache mount.
struct CacheMount {
    id: String,
    from: Option<From>,
    source: String,
    sharing: Sharing,
    owned: [u32; 3],
    read_only: bool,
}

fn run_of(mounts: Vec<MountKind>) -> Action {
    let mounts = mounts.into_iter().map(|kind| Mount { target: "/mnt".into(), kind }).collect();
    Action::Run(Run { mounts, ..run() })
}

#[test]
fn every_field_of_a_mount_is_in_the_key_of_its_step() {
    let keys: Vec<StepKey> = mounts().into_iter().map(|kind| key(&run_of(vec![kind]), &BEGIN)).collect();
    let different: BTreeSet<&StepKey> = keys.iter().collect();
    assert_eq!(different.len(), keys.len());
    let bind = |from| run_of(vec![MountKind::Bind { from, source: "a".into(), writable: false }]);
    // Where the files come from is no input: what they are is.
    assert_eq!(key(&bind(From::Stage(0)), &BEGIN), key(&bind(From::Context), &BEGIN));
}

/// A key that moves carries every step of every user out anew: then `VERSION` is to be raised, and the changelog says so.
#[test]
fn keys_are_the_recorded_ones() {
    let files = [FilesKey::Stack("sha256:b".into()), FilesKey::Context("c".into()), FilesKey::None];
    let fetched = [FetchedKey { hash: "d".into(), name: "e".into(), time: Some(-1) }];
    let inputs = Inputs { files: &files, fetched: &fetched, ..BEGIN };
    let sources = vec![
        CopySource::Path("a".into()),
        CopySource::Inline { name: "b".into(), content: "c".into() },
        CopySource::Url { url: "http://d".into(), checksum: Some("sha256:e".into()) },
    ];
    let excludes = vec!["*.txt".into()];
    let chown = Some("1:2".into());
    let copied = Copy { sources, chown, chmod: Some(0o600), excludes, link: true, ..copy() };
    let entry = |path: &str, kind| ContextEntry { path: path.into(), kind };
    let context = [
        entry("a", ContextKind::Folder { mode: 0o755 }),
        entry("a/b", ContextKind::File { mode: 0o644, content: Content::Bytes(b"text".into()) }),
        entry("a/c", ContextKind::Link { target: "b".into() }),
        entry("a/d", ContextKind::Node { node: Node::Pipe, mode: 0o600 }),
        entry("a/e", ContextKind::Node { node: Node::Character(1, 3), mode: 0o666 }),
    ];
    let found = [
        key(&run_of(mounts()), &inputs).0,
        key(&Action::Copy(copied), &inputs).0,
        key(&Action::Workdir { path: "/a".into(), user: "web".into() }, &BEGIN).0,
        merge_key("sha256:a", "sha256:b", "gzip").0,
        context_hash(&context).unwrap(),
    ];
    assert_eq!(
        found,
        [
            "f5fa4b98d8600e2a05c0ad289b367e9b52282fbcf07ce972a54b797ac16b0334",
            "216059bba36432a6fe0ebede3ab45b1e17152a4f6470db36f12185b740763099",
            "6caa87fc4aca178a7ffe79301a72632c9a600cbaf6a6f04fb5a982a7d6b3f85e",
            "e969b8238b493063e914ecd1ac0dfe9f52c216315b2b2a229bd731aa8e02387d",
            "4b4a84b4aa44adaff26fa2d7bcde5d83cca46815dee3c6ada4ea5899470f770a",
        ]
    );
}

fn word() -> impl Strategy<Value = String> {
    "[ab\"\\\\, \\[\\]]{0,3}"
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(word(), 0..4)
}

fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec((word(), word()), 0..3)
}

fn any_run() -> impl Strategy<Value = Run> {
    let mount = (word(), prop::sample::select(mounts())).prop_map(|(target, kind)| Mount { target, kind });
    let mounts = prop::collection::vec(mount, 0..3);
    let networks = vec![None, Some(RunNetwork::None), Some(RunNetwork::Default), Some(RunNetwork::Host)];
    (texts(), pairs(), word(), word(), mounts, prop::sample::select(networks), pairs()).prop_map(
        |(argv, env, workdir, user, mounts, network, heredocs)| Run {
            argv,
            env,
            workdir,
            user,
            mounts,
            network,
            heredocs,
        },
    )
}

fn any_copy() -> impl Strategy<Value = Copy> {
    let source = prop_oneof![
        word().prop_map(CopySource::Path),
        (word(), word()).prop_map(|(name, content)| CopySource::Inline { name, content }),
        (word(), prop::option::of(word())).prop_map(|(url, checksum)| CopySource::Url { url, checksum }),
    ];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let sources = prop::collection::vec(source, 0..3);
    let chown = prop::option::of(word());
    (flags, sources, word(), chown, prop::option::of(0_u32..2), texts()).prop_map(
        |((is_add, link, parents), sources, target, chown, chmod, excludes)| Copy {
            is_add,
            from: From::Context,
            sources,
            target,
            chown,
            chmod,
            link,
            parents,
            excludes,
        },
    )
}

/// The chain, the files, what was fetched, and the epoch.
type InputParts = (String, Vec<FilesKey>, Vec<FetchedKey>, i64);

fn any_inputs() -> impl Strategy<Value = InputParts> {
    let files = prop_oneof![
        "[ab]{0,1}".prop_map(FilesKey::Stack),
        "[ab]{0,1}".prop_map(FilesKey::Context),
        Just(FilesKey::None),
    ];
    let fetched = ("[ab]{0,1}", "[ab]{0,1}", prop::option::of(-1_i64..1))
        .prop_map(|(hash, name, time)| FetchedKey { hash, name, time });
    let files = prop::collection::vec(files, 0..2);
    ("[ab]{0,1}", files, prop::collection::vec(fetched, 0..2), -1_i64..1)
}

/// `run` with one field of another.
fn with_field(run: Run, of: Run, field: usize) -> Run {
    match field {
        0 => Run { argv: of.argv, ..run },
        1 => Run { env: of.env, ..run },
        2 => Run { workdir: of.workdir, ..run },
        3 => Run { user: of.user, ..run },
        4 => Run { mounts: of.mounts, ..run },
        5 => Run { network: of.network, ..run },
        _ => Run { heredocs: of.heredocs, ..run },
    }
}

/// `copy` with one field of another.
fn with_field_of_copy(copy: Copy, of: Copy, field: usize) -> Copy {
    match field {
        0 => Copy { is_add: of.is_add, ..copy },
        1 => Copy { sources: of.sources, ..copy },
        2 => Copy { target: of.target, ..copy },
        3 => Copy { chown: of.chown, ..copy },
        4 => Copy { chmod: of.chmod, ..copy },
        5 => Copy { link: of.link, ..copy },
        6 => Copy { parents: of.parents, ..copy },
        _ => Copy { excludes: of.excludes, ..copy },
    }
}

proptest! {
    #[test]
    fn commands_have_one_key_when_they_are_the_same(one in any_run(), other in any_run(), field in 0_usize..7) {
        let of = |run: &Run| key(&Action::Run(run.clone()), &BEGIN);
        prop_assert_eq!(of(&one) == of(&other), one == other);
        let near = with_field(one.clone(), other, field);
        prop_assert_eq!(of(&one) == of(&near), one == near);
    }

    #[test]
    fn texts_do_not_run_into_one_another(one in texts(), other in texts()) {
        let of = |argv: &[String], env: &[String]| {
            let env = env.iter().map(|value| ("A".to_owned(), value.clone())).collect();
            key(&Action::Run(Run { argv: argv.to_vec(), env, ..run() }), &BEGIN)
        };
        prop_assert_eq!(of(&one, &other) == of(&other, &one), one == other);
    }

    #[test]
    fn copies_have_one_key_when_they_are_the_same(one in any_copy(), other in any_copy(), field in 0_usize..8) {
        let of = |copy: &Copy| key(&Action::Copy(copy.clone()), &BEGIN);
        prop_assert_eq!(of(&one) == of(&other), one == other);
        let near = with_field_of_copy(one.clone(), other, field);
        prop_assert_eq!(of(&one) == of(&near), one == near);
    }

    #[test]
    fn inputs_have_one_key_when_they_are_the_same(one in any_inputs(), other in any_inputs()) {
        let of = |(chain, files, fetched, epoch): &InputParts| {
            let inputs = Inputs { chain, files, fetched, epoch: *epoch, ..BEGIN };
            key(&Action::Run(run()), &inputs)
        };
        prop_assert_eq!(of(&one) == of(&other), one == other);
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
