//! COPY, ADD, WORKDIR and the mounts of RUN.

use super::super::{Action, CopySource, From, Mount, MountKind, RunNetwork, Sharing};
use super::{copy, last, run};

fn path(text: &str) -> CopySource {
    CopySource::Path(text.into())
}

#[test]
fn sources_are_relative_to_their_root_and_targets_are_absolute() {
    for (line, sources, target) in [
        ("COPY a /b", &["a"][..], "/b"),
        ("COPY a b", &["a"], "/w/b"),
        ("COPY a b/", &["a"], "/w/b/"),
        ("COPY a .", &["a"], "/w/"),
        ("COPY a ./", &["a"], "/w/"),
        ("COPY a ..", &["a"], "/"),
        ("COPY a ../x/", &["a"], "/x/"),
        ("COPY a /x/.", &["a"], "/x/"),
        ("COPY a /x//y/../z", &["a"], "/x/z"),
        ("COPY a /", &["a"], "/"),
        ("COPY /a/ ./b//c ../d a/../e /x/", &["a", "b/c", "d", "e"], "/x/"),
        ("COPY . /x", &["."], "/x"),
        ("COPY / /x", &["."], "/x"),
        ("COPY a* b?/[c-d] /x/", &["a*", "b?/[c-d]"], "/x/"),
        (r"COPY a\[b /x", &["a[b"], "/x"),
        // Several sources are a folder's, whatever stands at the end.
        ("COPY a b /x", &["a", "b"], "/x/"),
        ("COPY [\"a b\", \"/c d\"]", &["a b"], "/c d"),
        ("COPY [\"a\"] /x", &["[a]"], "/x"),
        ("COPY $BASE ${NOT:-e}/ /$BASE", &["base", "e"], "/base/"),
        ("COPY \"a\" '/x'", &["a"], "/x"),
        ("COPY --parents a/b /x/ /y", &["a/b", "x"], "/y/"),
        ("COPY --parents a/./b/c ./d /./e /y/", &["a/./b/c", "d", "e"], "/y/"),
        ("ADD a /b", &["a"], "/b"),
        ("COPY -- --a /b", &["--a"], "/b"),
    ] {
        let found = copy(&format!("FROM img\nWORKDIR /w\n{line}"));
        assert_eq!(found.sources, sources.iter().map(|source| path(source)).collect::<Vec<_>>(), "{line}");
        assert_eq!((found.target.as_str(), &found.from), (target, &From::Context), "{line}");
        assert_eq!(found.is_add, line.starts_with("ADD"), "{line}");
    }
}

#[test]
fn flags_of_copies_are_read() {
    let found = copy(
        "FROM x AS st\nFROM img\nARG O=me\nCOPY --from=ST --chown=\"$O\":g --chmod=0${NOT}755 --link --parents=false \
         --exclude=*.o --exclude='a b' a /b",
    );
    assert_eq!(found.from, From::Stage(0));
    assert_eq!((found.chown.as_deref(), found.chmod), (Some("me:g"), Some(0o755)));
    assert_eq!(
        (found.link, found.parents, found.excludes),
        (true, false, vec!["*.o".to_owned(), "a b".to_owned()])
    );
    let found = copy("FROM img\nCOPY --from=img:1 --parents --link=FALSE --chown= --chmod=$NOT a /b");
    assert_eq!((found.from, found.chown, found.chmod), (From::Image("img:1".into()), None, None));
    assert_eq!((found.link, found.parents), (false, true));
    assert_eq!(copy("FROM x\nFROM y\nFROM img\nCOPY --from=1 a /b").from, From::Stage(1));
    assert_eq!(copy("FROM img\nCOPY --from= a /b").from, From::Context);
}

#[test]
fn add_takes_urls_and_may_leave_archives_alone() {
    let sum = format!("sha256:{}", "0".repeat(64));
    let found = copy(&format!("FROM img\nENV S={sum}\nADD --checksum=$S https://example.com/a?b=$BASE /c/"));
    let url = "https://example.com/a?b=base".to_owned();
    assert_eq!(found.sources, [CopySource::Url { url, checksum: Some(sum) }]);
    let found = copy("FROM img\nADD http://example.com/a b.tar /c/");
    assert_eq!(
        found.sources,
        [CopySource::Url { url: "http://example.com/a".into(), checksum: None }, path("b.tar")]
    );
    assert!(found.is_add);
    assert!(!copy("FROM img\nADD --unpack=false a.tar /c/").is_add);
    assert!(copy("FROM img\nADD --unpack a.tar /c/").is_add);
    // Like git, but files.
    assert_eq!(
        copy("FROM img\nADD github.com/x/y ./git@x:y /c/").sources,
        [path("github.com/x/y"), path("git@x:y")]
    );
}

#[test]
fn heredocs_are_files() {
    let inline =
        |name: &str, content: &str| CopySource::Inline { name: name.into(), content: content.into() };
    let text = "FROM img\nENV V=1\nCOPY a <<one <<-\"two\" <<'th'ree b /d\n$V \"$V\" 'it\\$V'\none\n\t$V\n\t\tx\n\ttwo\n$V\nthree\n";
    let found = copy(text);
    assert_eq!(
        found.sources,
        [
            path("a"),
            path("b"),
            inline("one", "1 \"1\" 'it$V'\n"),
            inline("two", "$V\nx\n"),
            inline("three", "$V\n")
        ]
    );
    assert_eq!(found.target, "/d/");
    // Line ends stay.
    let found = copy("FROM img\r\nCOPY <<E f\r\na\r\n\r\n# b\r\nE\r\nRUN x\r\n");
    assert_eq!((found.sources, found.target), (vec![inline("E", "a\r\n\r\n# b\r\n")], "/base/f".to_owned()));
}

#[test]
fn workdirs_follow_each_other() {
    let text = "FROM img\nUSER u\nWORKDIR a\nWORKDIR ..\nWORKDIR /x/./y/../z/\nWORKDIR\t../q r\nWORKDIR /\nWORKDIR $NOT\nRUN x";
    let stage = last(text);
    let paths: Vec<Option<String>> = stage
        .steps
        .iter()
        .map(|step| match &step.action {
            Some(Action::Workdir { path, user }) => {
                assert_eq!(user, "u");
                Some(path.clone())
            }
            _ => None,
        })
        .collect();
    let some = |path: &str| Some(path.to_owned());
    assert_eq!(paths, [None, some("/base/a"), some("/base"), some("/x/z"), some("/x/q r"), None, None, None]);
    assert_eq!(stage.steps.iter().map(|step| step.created_by.as_str()).nth(3), Some("WORKDIR /x/./y/../z/"));
    assert_eq!(run("FROM img\nWORKDIR /a/../b/\nRUN x").workdir, "/b");
    assert_eq!(last("FROM img\nWORKDIR /a/../b/").config.config.working_dir, "/a/../b/");
}

fn mounts(flags: &str) -> Vec<Mount> {
    run(&format!("FROM st AS st\nFROM img\nARG T=/t U=5\nRUN {flags} x")).mounts
}

fn mount(fields: &str) -> Mount {
    mounts(&format!("--mount={fields}")).remove(0)
}

fn bind(from: From, source: &str, writable: bool) -> MountKind {
    MountKind::Bind { from, source: source.into(), writable }
}

#[test]
fn binds_are_read_only_unless_they_say_more() {
    let img = || From::Image("img:1".into());
    for (fields, target, kind) in [
        ("target=/t", "/t", bind(From::Context, "", false)),
        ("type=bind,target=$T/x,source=.", "/t/x", bind(From::Context, "", false)),
        ("dst=t,src=/a/../b/,rw", "/base/t", bind(From::Context, "b", true)),
        ("destination=/t/,from=st,readwrite=true", "/t", bind(From::Stage(0), "", true)),
        ("target=/t,from=img:1,readonly=false", "/t", bind(img(), "", true)),
        ("target=/t,rw,ro", "/t", bind(From::Context, "", false)),
        ("TYPE=Bind,TARGET=/t,ro=0", "/t", bind(From::Context, "", true)),
        ("\"target=/t\",source=x", "/t", bind(From::Context, "x", false)),
        ("'target=/t,\"source=a,b\"'", "/t", bind(From::Context, "a,b", false)),
        ("source=x", "/base", bind(From::Context, "x", false)),
        // It says nothing here, but is allowed.
        ("target=/t,id=x,env=Y", "/t", bind(From::Context, "", false)),
    ] {
        assert_eq!(mount(fields), Mount { target: target.into(), kind }, "{fields}");
    }
}

#[test]
fn caches_have_an_id_of_their_target_and_belong_to_root() {
    let cache = |id: &str, from: Option<From>, source: &str| MountKind::Cache {
        id: id.into(),
        from,
        source: source.into(),
        sharing: Sharing::Shared,
        mode: 0o755,
        uid: 0,
        gid: 0,
        read_only: false,
    };
    let st = || Some(From::Stage(0));
    for (fields, target, kind) in [
        ("type=cache,target=/c/./d/", "/c/d", cache("/c/d", None, "")),
        ("type=cache,target=c", "/base/c", cache("c", None, "")),
        ("type=cache,target=$T,id=x$U", "/t", cache("x5", None, "")),
        ("type=cache,target=/c,from=st,source=/s", "/c", cache("/c", st(), "s")),
        ("type=cache,target=/c,from=st", "/c", cache("/c", st(), "")),
        ("type=cache,target=/c,from=scratch", "/c", cache("/c", None, "")),
    ] {
        assert_eq!(mount(fields), Mount { target: target.into(), kind }, "{fields}");
    }
    let kind = |sharing, mode, uid, gid, read_only| MountKind::Cache {
        id: "/c".into(),
        from: None,
        source: String::new(),
        sharing,
        mode,
        uid,
        gid,
        read_only,
    };
    assert_eq!(
        mount("type=cache,target=/c,sharing=locked,mode=0700,uid=$U,gid=6,ro").kind,
        kind(Sharing::Locked, 0o700, 5, 6, true)
    );
    // With an owner it is a new folder.
    assert_eq!(
        mount("type=cache,target=/c,from=st,sharing=Private,gid=6").kind,
        kind(Sharing::Private, 0o755, 0, 6, false)
    );
}

#[test]
fn other_mounts_have_their_fields() {
    let tmpfs = |size| MountKind::Tmpfs { size };
    assert_eq!(mount("type=tmpfs,target=/t").kind, tmpfs(None));
    assert_eq!(mount("type=tmpfs,target=/t,size=1.5kb").kind, tmpfs(Some(1536)));
    let secret = |id: &str, env: Option<&str>, required, mode, uid, gid| MountKind::Secret {
        id: id.into(),
        env: env.map(str::to_owned),
        required,
        mode,
        uid,
        gid,
    };
    for (fields, target, kind) in [
        ("type=secret,id=a/b", "/run/secrets/b", secret("a/b", None, false, 0o400, 0, 0)),
        (
            "type=secret,id=s,target=/s,required,mode=0444,uid=1,gid=2",
            "/s",
            secret("s", None, true, 0o444, 1, 2),
        ),
        ("type=secret,source=s,required=false", "/run/secrets/s", secret("s", None, false, 0o400, 0, 0)),
        ("type=secret,target=x/s", "/base/x/s", secret("s", None, false, 0o400, 0, 0)),
        ("type=secret,id=s,env=S", "", secret("s", Some("S"), false, 0o400, 0, 0)),
        ("type=secret,id=s,env=S,target=/t", "/t", secret("s", Some("S"), false, 0o400, 0, 0)),
    ] {
        assert_eq!(mount(fields), Mount { target: target.into(), kind }, "{fields}");
    }
    let ssh = |id: &str, required, mode| MountKind::Ssh { id: id.into(), required, mode, uid: 0, gid: 0 };
    let found = run(
        "FROM img\nRUN --mount=type=ssh --mount=type=ssh,id=k,target=/k,required=1,mode=666 --mount=type=ssh x",
    );
    let expected = [
        ("/run/buildkit/ssh_agent.0", ssh("default", false, 0o600)),
        ("/k", ssh("k", true, 0o666)),
        ("/run/buildkit/ssh_agent.2", ssh("default", false, 0o600)),
    ];
    assert_eq!(found.mounts, expected.map(|(target, kind)| Mount { target: target.into(), kind }));
    assert_eq!(found.env.last(), Some(&("SSH_AUTH_SOCK".into(), "/run/buildkit/ssh_agent.0".into())));
    assert_eq!(
        run("FROM img\nENV SSH_AUTH_SOCK=/mine\nRUN --mount=type=ssh x").env.last().unwrap().1,
        "/mine"
    );
}

#[test]
fn networks_are_read() {
    for (flag, network) in [
        ("", None),
        ("--network=default", Some(RunNetwork::Default)),
        ("--network=none --security=sandbox", Some(RunNetwork::None)),
        ("--network=host", Some(RunNetwork::Host)),
    ] {
        assert_eq!(run(&format!("FROM img\nRUN {flag} x")).network, network, "{flag}");
    }
}
