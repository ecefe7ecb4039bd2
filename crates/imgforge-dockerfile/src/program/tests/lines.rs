//! Lines, flags, heredocs, and what RUN makes of them.

use super::super::golang;
use super::super::read::json;
use super::{last, run, settings};

#[test]
fn lines_are_joined_and_comments_left_out() {
    for (text, argv) in [
        ("FROM a\nRUN one", &["/bin/sh", "-c", "one"][..]),
        ("from a\nrun  one \\\n   two\\\n\n# c\n\t# d\nthree  ", &["/bin/sh", "-c", "one    twothree"]),
        ("# escape=`\nFROM a\nRUN C:\\x `\n y", &["/bin/sh", "-c", "C:\\x  y"]),
        (
            "# syntax=docker/dockerfile:1.7-labs\n# escape = `\n# check=skip=all\nFROM a\nRUN x`\ny",
            &["/bin/sh", "-c", "xy"],
        ),
        ("# a comment\n# escape=`\nFROM a\nRUN x\\\ny", &["/bin/sh", "-c", "xy"]),
        ("\u{feff}FROM a\r\nRUN x \\\r\n  y\r\n", &["/bin/sh", "-c", "x   y"]),
        ("FROM a\nRUN x \\\\\nRUN y", &["/bin/sh", "-c", "y"]),
        (
            "FROM a\nRUN\tx  'a  b' \"$X\" # not a comment",
            &["/bin/sh", "-c", "x  'a  b' \"$X\" # not a comment"],
        ),
        ("FROM a\nRUN [\"x\", \"a b\", \"$X\", \"\\u00e9\"]", &["x", "a b", "$X", "é"]),
        ("FROM a\nRUN [\"x\", ]", &["/bin/sh", "-c", "[\"x\", ]"]),
        ("FROM a\nRUN ['x']", &["/bin/sh", "-c", "['x']"]),
        ("FROM a\nRUN [ -e x ] && y", &["/bin/sh", "-c", "[ -e x ] && y"]),
        (
            "FROM a\nSHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]\nRUN x | y",
            &["/bin/bash", "-o", "pipefail", "-c", "x | y"],
        ),
        ("FROM a AS b\nSHELL [\"/s\"]\nFROM b\nRUN x", &["/s", "x"]),
        ("FROM a\nSHELL [\"/s\"]\nRUN [\"x\"]", &["x"]),
        ("FROM a\nRUN --network=none -- --x", &["/bin/sh", "-c", "--x"]),
        (
            "FROM a\nRUN --network=\"none\" \\\n  --mount=type=tmpfs,\"target=/x\" y --z",
            &["/bin/sh", "-c", "y --z"],
        ),
    ] {
        assert_eq!(run(text).argv, argv, "{text}");
    }
}

#[test]
fn heredocs_are_the_script_or_go_to_the_shell() {
    for (text, script, files) in [
        ("RUN <<EOF\necho $X \\\n  y\n# z\n\nEOF", "echo $X \\\n  y\n# z\n\n", &[][..]),
        ("RUN <<-EOF\n\ta\n\t\tb\n\t EOF\n\tEOF", "a\nb\n EOF\n", &[]),
        ("RUN <<'E O'\n$X\nE O", "$X\n", &[]),
        ("RUN <<  EOF\na\nEOF", "a\n", &[]),
        ("RUN --network=none <<EOF\na\nEOF", "a\n", &[]),
        ("RUN 3<<EOF\na\nEOF", "a\n", &[]),
        ("RUN <<EOF\nEOF", "", &[]),
        (
            "RUN <<EOF\n#!/usr/bin/env python3\nprint(1)\nEOF",
            "/dev/pipes/EOF",
            &[("EOF", "#!/usr/bin/env python3\nprint(1)\n")],
        ),
        ("RUN <<-\"X\"\n\t#!/bin/x\n\ta\nX", "/dev/pipes/X", &[("X", "#!/bin/x\na\n")]),
        // Something beside it: the shell has to read it.
        ("RUN python3 <<EOF\nprint(1)\nEOF", "python3 <<EOF\nprint(1)\nEOF", &[]),
        ("RUN <<EOF cat >x\n#!y\nEOF", "<<EOF cat >x\n#!y\nEOF", &[]),
        ("RUN cat <<-A <<\"B\" && x\n\ta\n\tA\nb\nB", "cat <<-A <<\"B\" && x\n\ta\nA\nb\nB", &[]),
        ("RUN <<A <<B\na\nA\nb\nB", "<<A <<B\na\nA\nb\nB", &[]),
        // None.
        ("RUN cat <<<word", "cat <<<word", &[]),
        ("RUN \"<<EOF\"", "\"<<EOF\"", &[]),
        ("RUN echo it's <<EOF", "echo it's <<EOF", &[]),
    ] {
        let found = run(&format!("FROM a\n{text}\nENV A=1\n"));
        assert_eq!(found.argv, ["/bin/sh", "-c", script], "{text}");
        let expected: Vec<_> =
            files.iter().map(|(name, content)| ((*name).into(), (*content).into())).collect();
        assert_eq!(found.heredocs, expected, "{text}");
        // What follows is an instruction again.
        assert_eq!(last(&format!("FROM a\n{text}\nENV A=1\n")).steps.len(), 2, "{text}");
    }
}

#[test]
fn lists_are_json_lists_of_strings() {
    let list = |words: &[&str]| Ok(Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()));
    assert_eq!(json(" [ \"a\" , \"\" ] "), list(&["a", ""]));
    assert_eq!(json("[]"), list(&[]));
    for none in ["", "a", "[", "['a']", "[\"a\",]", "[\"a\"] b", "[a]"] {
        assert_eq!(json(none), Ok(None), "{none}");
    }
    assert!(json("[\"a\", 1]").is_err());
    assert!(json("[null]").is_err());
}

#[test]
fn quotes_and_escapes_hold_words_of_pairs_together() {
    let labels = |line: &str| {
        settings(&format!("FROM a\n{line}"))
            .labels
            .unwrap()
            .into_iter()
            .map(|(k, v)| format!("{k}:{v}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        labels("LABEL a=1 b=\"x  y\" c='$BASE' d=e\\ f g=\"it\\\"s\" h="),
        ["a:1", "b:x  y", "c:$BASE", "d:e f", "g:it\"s", "h:"]
    );
    assert_eq!(labels("LABEL \"a b\"=c=d"), ["a b:c=d"]);
    assert_eq!(labels("LABEL a b  c"), ["a:b  c"]);
    assert_eq!(labels("LABEL a=b\\\n  c=d \\\n  # e\n  f=\"g\\\nh\""), ["a:b", "c:d", "f:gh"]);
    assert_eq!(labels("LABEL a=é\\"), ["a:é"]);
}

#[test]
fn paths_times_and_sizes_are_gos() {
    for (path, clean) in [
        ("", "."),
        ("a/../..", ".."),
        ("/..//a/./b/", "/a/b"),
        ("./a", "a"),
        ("a/..", "."),
        ("../../a", "../../a"),
    ] {
        assert_eq!(golang::clean(path), clean, "{path}");
    }
    for (path, base) in [("", "."), ("/", "/"), ("a/b/", "b"), ("a", "a")] {
        assert_eq!(golang::base(path), base, "{path}");
    }
    for (text, nanos) in [
        ("0", Some(0)),
        ("1m30s", Some(90_000_000_000)),
        ("1.5h", Some(5_400_000_000_000)),
        (".5s", Some(500_000_000)),
        ("-2us", Some(-2_000)),
        ("1ns", Some(1)),
        ("", None),
        ("5", None),
        ("s", None),
        (".s", None),
        ("1d", None),
        ("9999999h", None),
        ("1s1", None),
    ] {
        assert_eq!(golang::duration(text), nanos, "{text}");
    }
    for (nanos, text) in [
        (0, "0s"),
        (7, "7ns"),
        (1_500, "1.5µs"),
        (20_000_000, "20ms"),
        (1_500_000_000, "1.5s"),
        (60_000_000_000, "1m0s"),
        (3_600_000_000_000, "1h0m0s"),
        (5_430_250_000_000, "1h30m30.25s"),
    ] {
        assert_eq!(golang::duration_text(nanos), text);
    }
    for (text, bytes) in [
        ("100", Some(100)),
        ("1k", Some(1024)),
        ("1.5 GiB", Some(1_610_612_736)),
        ("2MB", Some(2 << 20)),
        ("3b", Some(3)),
        ("1ib", None),
        ("x", None),
        ("-1", None),
        ("1kib", Some(1024)),
        ("1kk", None),
        ("1e", None),
    ] {
        assert_eq!(golang::bytes(text), bytes, "{text}");
    }
    let list = ["a \"b\"\n".to_owned(), "é\u{1}\u{200b}\\".to_owned()];
    assert_eq!(golang::quoted_list(&list), r#"["a \"b\"\n" "é\x01\u200b\\"]"#);
}
