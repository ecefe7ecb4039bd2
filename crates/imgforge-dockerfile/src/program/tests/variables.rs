//! Variables: words, ARG, ENV.

use super::super::shell::{NoValue, Rules, Value, word, words};
use super::{program_with, run, run_of, settings, stages_on, variables};

fn lookup(name: &str) -> Value {
    match name {
        "X" => Value::Set("foo/bar/foo.tar.gz".into()),
        "Y" => Value::Set("y y".into()),
        "EMPTY" => Value::Set(String::new()),
        "DOLLAR" => Value::Set("$1".into()),
        "LATER" => Value::Unknown,
        _ => Value::Unset,
    }
}

fn expanded(text: &str) -> Result<String, NoValue> {
    word(text, Rules::new('\\'), &lookup)
}

#[test]
fn words_are_expanded_as_buildkit_expands_them() {
    for (text, expected) in [
        ("plain", "plain"),
        ("he'll'o", "hello"),
        (r"he\'llo", "he'llo"),
        (r"abc\tdef", "abctdef"),
        (r#""abc\tdef""#, r"abc\tdef"),
        (r#""abc\\tdef""#, r"abc\tdef"),
        (r"'abc\tdef'", r"abc\tdef"),
        (r"end\", "end"),
        (r"end\\", r"end\"),
        (r#""it's""#, "it's"),
        ("a$Y-b", "ay y-b"),
        ("$NOT.", "."),
        ("$.", "$."),
        ("$", "$"),
        ("a$1x", "ax"),
        ("$12x", "x"),
        ("$@@", "@"),
        ("${-}", ""),
        (r"\$X", "$X"),
        (r#""\$X""#, "$X"),
        ("'$X'", "$X"),
        (r#""'$Y'""#, "'y y'"),
        ("${NOT}", ""),
        ("${NOT:-${ALSO:-3}}4", "34"),
        ("${NOT-}", ""),
        ("${EMPTY-3}", ""),
        ("${EMPTY:-3}", "3"),
        ("${EMPTY:+3}", ""),
        ("${EMPTY+3}", "3"),
        ("${Y:+is}", "is"),
        ("${Y?no}", "y y"),
        ("${EMPTY?no}", ""),
        (r"${NOT:-\}}", "}"),
        ("${NOT:-'a}b'}", "a}b"),
        ("${X#*/}", "bar/foo.tar.gz"),
        ("${X##*/}", "foo.tar.gz"),
        ("${X%.*}", "foo/bar/foo.tar"),
        ("${X%%.*}", "foo/bar/foo"),
        ("${X#bar}", "foo/bar/foo.tar.gz"),
        ("${X%fo?.tar.gz}", "foo/bar/"),
        ("${X/foo/z}", "z/bar/foo.tar.gz"),
        ("${X//foo/z}", "z/bar/z.tar.gz"),
        (r"${X//\//-}", "foo-bar-foo.tar.gz"),
        ("${X/f*o/}", ".tar.gz"),
        ("${X/./+}", "foo/bar/foo+tar.gz"),
        (r"${X/foo/\}}", r"\}/bar/foo.tar.gz"),
        ("${Y/y/$DOLLAR}", "$1 y"),
        ("${Y/\\?/q}", "y y"),
        ("${NOT#x}", ""),
        ("${NOT/x/y}", ""),
        ("한국${NOT:-어}", "한국어"),
    ] {
        assert_eq!(expanded(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn what_buildkit_refuses_is_wrong() {
    for text in [
        "he'llo",
        "\"hello",
        r#""hello\""#,
        r#""hello\"#,
        "${",
        "${}",
        "${X",
        "${{X}",
        "${:-x}",
        "${.}",
        "${X:YYY}",
        "${X:=1}",
        "${X:#a}",
        "${X=1}",
        "${NOT?}",
        "${NOT:?gone}",
        "${EMPTY:?}",
        "${NOT:-${}}",
        "${X:+'}",
        "${X#a\\b}",
        "${X/a}",
        "${X/a/b",
    ] {
        assert!(matches!(expanded(text), Err(NoValue::Wrong(_))), "{text}: {:?}", expanded(text));
    }
    assert_eq!(expanded("${NOT:?gone}"), Err(NoValue::Wrong("NOT: gone".into())));
}

#[test]
fn what_hangs_on_an_unknown_variable_is_unknown_and_what_is_wrong_anyway_is_wrong() {
    for text in
        ["$LATER", "a${LATER}", "${LATER:-x}", "${LATER:+x}", "${LATER:?x}", "${LATER#x}", "${NOT:-$LATER}"]
    {
        assert_eq!(expanded(text), Err(NoValue::Unknown), "{text}");
    }
    assert_eq!(expanded("${X:-$LATER}").as_deref(), Ok("foo/bar/foo.tar.gz"));
    assert_eq!(expanded("${EMPTY:+$LATER}").as_deref(), Ok(""));
    assert!(matches!(expanded("${LATER:-${}"), Err(NoValue::Wrong(_))));
}

#[test]
fn other_rules_keep_what_they_say() {
    let rules = Rules::new('\\');
    let keep = Rules { keep_quotes: true, keep_unset: true, ..rules };
    assert_eq!(
        word(r#"a 'b' "$Y" $NOT ${NOT:-x}"#, keep, &lookup).as_deref(),
        Ok(r#"a 'b' "y y" $NOT ${NOT:-x}"#)
    );
    let ignore = Rules { ignore_quotes: true, ..rules };
    assert_eq!(word(r#"it's "$Y" \$Y"#, ignore, &lookup).as_deref(), Ok(r#"it's "y y" $Y"#));
    assert_eq!(word("a`b $Y `$Y", Rules::new('`'), &lookup).as_deref(), Ok("ab y y $Y"));
    assert_eq!(word(r"C:\x", Rules::new('`'), &lookup).as_deref(), Ok(r"C:\x"));
}

#[test]
fn variables_make_words_and_quotes_hold_them() {
    let words = |text| words(text, Rules::new('\\'), &lookup).unwrap();
    let expected = ["a", "y", "y", "y y", "b cd", "e f", "<<  EOF"];
    assert_eq!(words(r#" a  $Y "$Y" 'b c'd e\ f "" $NOT <<  EOF"#), expected);
}

#[test]
fn arguments_and_variables_hold_as_buildkit_lets_them() {
    for (text, args, expected) in [
        ("FROM a\nRUN x", &[][..], &["BASE=base"][..]),
        ("FROM a\nARG A=1\nRUN x", &[], &["BASE=base", "A=1"]),
        ("FROM a\nARG A=1\nRUN x", &[("A", "2")], &["BASE=base", "A=2"]),
        // Not declared: not there.
        ("FROM a\nRUN x", &[("A", "2")], &["BASE=base"]),
        ("FROM a\nARG A\nRUN x", &[], &["BASE=base"]),
        ("FROM a\nARG A=\nRUN x", &[], &["BASE=base", "A="]),
        ("FROM a\nARG A=1 B=$A C=\"$B c\"\nRUN x", &[], &["BASE=base", "A=1", "B=1", "C=1 c"]),
        // Of a global ARG only the name is needed, and its own default counts more.
        ("ARG G=1\nFROM a\nARG G\nRUN x", &[], &["BASE=base", "G=1"]),
        ("ARG G=1\nFROM a\nRUN x", &[], &["BASE=base"]),
        ("ARG G=1\nFROM a\nARG G=2\nRUN x", &[], &["BASE=base", "G=2"]),
        ("ARG G=1\nARG H=$G.$TARGETARCH\nFROM a\nARG H\nRUN x", &[], &["BASE=base", "H=1.amd64"]),
        // Each ENV sees what was before the instruction.
        ("FROM a\nENV A=1\nENV A=2 B=$A\nRUN x", &[], &["BASE=base", "A=2", "B=1"]),
        ("FROM a\nENV A one  two \nRUN x", &[], &["BASE=base", "A=one  two"]),
        ("FROM a\nENV A \"one\" $BASE\nRUN x", &[], &["BASE=base", "A=one base"]),
        ("FROM a\nENV A=\"b c\" D=e\\ f G='$BASE'\nRUN x", &[], &["BASE=base", "A=b c", "D=e f", "G=$BASE"]),
        ("FROM a\nENV $BASE=1\nRUN x", &[], &["BASE=base", "base=1"]),
        // The later of ARG and ENV counts, and stands at the end.
        ("FROM a\nENV A=env\nARG A=arg\nRUN x", &[], &["BASE=base", "A=arg"]),
        ("FROM a\nARG A=arg\nENV A=env\nRUN x", &[], &["BASE=base", "A=env"]),
        ("FROM a\nARG BASE\nRUN x", &[], &["BASE=base"]),
        ("FROM a\nARG BASE=2\nENV B=$BASE\nRUN x", &[], &["BASE=2", "B=2"]),
        // In a stage on a stage, its ARGs hold, but its ENVs more.
        ("FROM a AS b\nENV A=env\nARG A=arg C=c\nFROM b\nRUN x", &[], &["C=c", "BASE=base", "A=env"]),
        ("FROM a AS b\nARG C=c\nFROM a\nARG C\nRUN x", &[], &["BASE=base"]),
        // What BuildKit sets.
        (
            "FROM a\nARG TARGETPLATFORM TARGETVARIANT TARGETSTAGE\nRUN x",
            &[],
            &["BASE=base", "TARGETPLATFORM=linux/amd64", "TARGETVARIANT=", "TARGETSTAGE=default"],
        ),
        (
            "FROM a AS last\nARG TARGETSTAGE TARGETARCH=mine\nRUN x",
            &[],
            &["BASE=base", "TARGETSTAGE=last", "TARGETARCH=mine"],
        ),
        ("FROM a\nARG TARGETARCH\nRUN x", &[("TARGETARCH", "z80")], &["BASE=base", "TARGETARCH=z80"]),
        ("FROM a\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN x", &[], &["BASE=base"]),
        // Proxies reach every command, but no word.
        (
            "FROM a\nENV A=$HTTP_PROXY\nRUN x",
            &[("http_proxy", "p"), ("No_Proxy", "n"), ("FTP_PROXY", "")],
            &["BASE=base", "A=", "HTTP_PROXY=p", "http_proxy=p", "NO_PROXY=n", "no_proxy=n"],
        ),
    ] {
        let program = program_with(text, args);
        let stage = stages_on(&program, &super::image()).pop_last().unwrap().1;
        assert_eq!(variables(&run_of(&stage)), expected, "{text}");
    }
}

#[test]
fn the_path_is_there_though_no_image_says_it() {
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(settings("FROM scratch").env, [path]);
    let ours = run("FROM scratch\nENV A=1\nRUN [\"x\"]");
    assert_eq!(ours.env[0], ("PATH".into(), path[5..].into()));
    assert_eq!(settings("FROM a\nENV PATH=/x:$PATH").env, ["PATH=/x:/bin", "BASE=base"]);
    let bare = imgforge_oci::ImageConfig::scratch("linux/amd64");
    let stages = stages_on(&program_with("FROM a", &[]), &bare);
    assert_eq!(
        (stages[&0].config.config.env.as_slice(), stages[&0].config.config.working_dir.as_str()),
        (&[path.to_owned()][..], "")
    );
}

#[test]
fn arguments_are_not_in_the_image() {
    let config = settings("FROM a\nARG A=1\nENV B=$A\nENV BASE=2");
    assert_eq!(config.env, ["PATH=/bin", "BASE=2", "B=1"]);
}

#[test]
fn the_instructions_that_expand_variables_are_those_of_the_reference() {
    let env = "FROM scratch\nENV V=1\n";
    let config = settings(&format!(
        "{env}LABEL k$V=$V\nEXPOSE 8$V\nVOLUME /v$V\nUSER u$V\nWORKDIR /w$V\nSTOPSIGNAL $V\nCMD $V\nENTRYPOINT [\"$V\"]\nHEALTHCHECK CMD $V\nSHELL [\"$V\"]\nONBUILD RUN $V\nMAINTAINER $V"
    ));
    assert_eq!(config.labels.unwrap().into_iter().collect::<Vec<_>>(), [("k1".to_owned(), "1".to_owned())]);
    assert_eq!(config.exposed_ports.unwrap().into_keys().collect::<Vec<_>>(), ["81/tcp"]);
    assert_eq!(config.volumes.unwrap().into_keys().collect::<Vec<_>>(), ["/v1"]);
    assert_eq!(
        (config.user.as_str(), config.working_dir.as_str(), config.stop_signal.as_deref()),
        ("u1", "/w1", Some("1"))
    );
    assert_eq!(config.cmd.unwrap(), ["/bin/sh", "-c", "$V"]);
    assert_eq!(config.entrypoint.unwrap(), ["$V"]);
    assert_eq!(config.healthcheck.unwrap().test, ["CMD-SHELL", "$V"]);
    assert_eq!(config.shell.unwrap(), ["$V"]);
    assert_eq!(config.on_build, ["RUN $V"]);
    assert_eq!(run(&format!("{env}RUN a $V")).argv[2], "a $V");
    let copied = super::copy(&format!("{env}COPY --chown=$V --chmod=$V --exclude=$V s$V /t$V"));
    assert_eq!((copied.chown.as_deref(), copied.chmod, copied.target.as_str()), (Some("1"), Some(1), "/t1"));
    assert_eq!(copied.excludes, ["$V"]);
}
