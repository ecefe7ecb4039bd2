//! What newer frontends know and that of Docker 20.10 does not: expectations written by hand.

use std::collections::BTreeSet;

use camino::Utf8Path;

use super::tree::Tree;
use super::{Engines, block_on, build};

/// A Dockerfile on the base, and paths with what they are, as [`Tree::says`] tells it. `None`: it is not there.
type Case = (&'static str, &'static [(&'static str, Option<&'static str>)]);

const CASES: &[Case] = &[
    ("RUN <<EOF\necho one > /x\necho two >> /x\nEOF", &[("x", Some(r#"file "one\ntwo\n" 0644 0:0"#))]),
    (
        "RUN <<EOF\n#!/bin/awk -f\nBEGIN { print \"awk\" > \"/x\" }\nEOF",
        &[("x", Some(r#"file "awk\n" 0644 0:0"#)), ("dev/pipes", None)],
    ),
    (
        "RUN cat <<A > /x && cat <<-B > /y\na\nA\n\tb\n\tB",
        &[("x", Some(r#"file "a\n" 0644 0:0"#)), ("y", Some(r#"file "b\n" 0644 0:0"#))],
    ),
    (
        "COPY --chown=app --chmod=600 <<one <<-'two' /h/\n$INHERITED\none\n\t$INHERITED\ntwo",
        &[
            ("h/one", Some(r#"file "yes\n" 0600 1000:1000"#)),
            ("h/two", Some(r#"file "$INHERITED\n" 0600 1000:1000"#)),
        ],
    ),
    ("COPY <<EOF /f\nx\nEOF", &[("f", Some(r#"file "x\n" 0644 0:0"#))]),
    (
        "COPY --exclude=sub --exclude=t* d /e",
        &[("e/one", Some(r#"file "1\n" 0644 0:0"#)), ("e/two", None), ("e/sub", None)],
    ),
    (
        "COPY --parents d/sub/three a.txt /p/",
        &[("p/d/sub/three", Some(r#"file "3\n" 0644 0:0"#)), ("p/a.txt", Some(r#"file "a\n" 0644 0:0"#))],
    ),
    ("COPY --parents d/./sub/three /p/", &[("p/sub/three", Some(r#"file "3\n" 0644 0:0"#)), ("p/d", None)]),
    // A link of the image is not followed.
    ("COPY --link a.txt /ln/x", &[("ln/x", Some(r#"file "a\n" 0644 0:0"#)), ("real/x", None)]),
    (
        "ADD --chown=app:staff plain.tar /t/",
        &[
            ("t", Some("folder 0755 1000:50")),
            ("t/dir", Some("folder 0750 1000:50")),
            ("t/dir/file", Some(r#"file "in an archive\n" 0644 1000:50"#)),
            ("t/link", Some(r#"link to "dir/file" 1000:50"#)),
            ("t/without", Some("folder 0755 0:0")),
            ("t/without/entry", Some(r#"file "x" 0600 1000:50"#)),
        ],
    ),
    ("RUN --network=none ls /sys/class/net > /x", &[("x", Some(r#"file "lo\n" 0644 0:0"#))]),
    (
        "ENV V=dir/sub/name.tar.gz\nRUN echo > /empty\nCOPY a.txt /${V##*/}\nCOPY a.txt /${V%%.*}\nCOPY a.txt /${V//\\//-}",
        &[
            ("name.tar.gz", Some(r#"file "a\n" 0644 0:0"#)),
            ("dir/sub/name", Some(r#"file "a\n" 0644 0:0"#)),
            ("dir-sub-name.tar.gz", Some(r#"file "a\n" 0644 0:0"#)),
        ],
    ),
];

#[test]
fn the_embedded_engine_knows_what_newer_frontends_know() {
    let found = block_on(async {
        let engines = Engines::new().await;
        let mut found = Vec::new();
        for (number, (dockerfile, paths)) in CASES.iter().enumerate() {
            let built = match build(&engines.embedded, engines.request(dockerfile)).await {
                Ok(built) => built,
                Err(message) => {
                    found.push(format!("--- {dockerfile}\n    {message}"));
                    continue;
                }
            };
            let folder = Utf8Path::from_path(engines.folder.path()).unwrap().join(format!("newer-{number}"));
            std::fs::create_dir(&folder).unwrap();
            let ids = [built.id.clone()];
            let embedded: &dyn imgforge::engine::Engine = &engines.embedded;
            let exported = embedded.export(&ids, BTreeSet::new(), &folder).await.unwrap();
            let (tree, _) = Tree::of(&exported, &built.id);
            for (path, expected) in *paths {
                let is = tree.says(path);
                if is.as_deref() != *expected {
                    found.push(format!("--- {dockerfile}\n    /{path}: {is:?}, not {expected:?}"));
                }
            }
        }
        found
    });
    assert!(found.is_empty(), "{}", found.join("\n"));
}
