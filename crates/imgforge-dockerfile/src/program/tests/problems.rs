//! What is refused, and where.

use std::collections::BTreeMap;

use super::super::{Below, Program};
use super::image;
use crate::ParseProblem;

fn problems(text: &str) -> Vec<ParseProblem> {
    Program::new(text, &BTreeMap::new(), "linux/amd64").expect_err(text)
}

/// The only problem of a text: the words that it points at, and what it says.
#[track_caller]
fn problem(text: &str) -> (String, String) {
    let problems = problems(text);
    let [found] = problems.as_slice() else { panic!("{text}\n{problems:?}") };
    let start = found.span.offset as usize;
    (text[start..start + found.span.len as usize].to_owned(), found.message.clone())
}

#[test]
fn each_problem_points_at_its_words() {
    for (text, place, message) in [
        ("", "", "there is no FROM"),
        ("# c\n", "", "there is no FROM"),
        ("ARG A\n", "", "there is no FROM"),
        ("FORM a", "FORM", "there is no instruction FORM"),
        ("ENV A=1\nFROM a", "ENV", "ENV stands before the first FROM"),
        ("FROM", "FROM", "FROM takes one image, and maybe AS and a name"),
        ("FROM a b", "FROM a b", "FROM takes one image, and maybe AS and a name"),
        ("FROM a AS 1x", "1x", "1x is no name of a stage"),
        ("FROM $A", "$A", "$A is empty: it names no image"),
        ("FROM ${A", "${A", "${A has no }"),
        ("ARG A=${A?no}\nFROM a", "${A?no}", "A: no"),
        (
            "FROM --platform=linux/arm64 a",
            "--platform=linux/arm64",
            "an image for linux/arm64 cannot be used",
        ),
        ("FROM --platform=$X a", "--platform=$X", "$X is no platform"),
        ("FROM --plat=x a", "--plat=x", "FROM has no flag --plat"),
        ("FROM a\nRUN", "RUN", "RUN says nothing"),
        ("FROM a\nRUN --network=none", "RUN --network=none", "RUN says nothing"),
        ("FROM a\nRUN []", "RUN []", "RUN needs a command"),
        ("FROM a\nRUN [\"a\", 1]", "RUN [\"a\", 1]", "a JSON list holds strings only, and 1 is none"),
        ("FROM a\nRUN --netwrk=none x", "--netwrk=none", "RUN has no flag --netwrk"),
        ("FROM a\nRUN --network=x y", "--network=x", "there is no network x"),
        ("FROM a\nRUN --network y", "--network", "--network needs a value: --network=…"),
        ("FROM a\nRUN --network=none --network=none y", "--network=none", "--network is said twice"),
        (
            "FROM a\nRUN --security=insecure y",
            "--security=insecure",
            "a command cannot run with --security=insecure here",
        ),
        ("FROM a\nRUN --device=x y", "--device=x", "--device is not supported here"),
        ("FROM a\nRUN <<EOF\nx", "RUN", "the heredoc \"EOF\" has no end"),
        ("FROM a\nRUN <<A <<B\nA\nx", "RUN", "the heredoc \"B\" has no end"),
        ("FROM a\nRUN <<a/b\n#!x\na/b\n", "RUN <<a/b\n#!x\na/b", "a script cannot be called a/b"),
        ("FROM a\nENV A", "ENV A", "ENV needs a name and a value"),
        ("FROM a\nENV A=1 B", "B", "there is no = in B"),
        ("FROM a\nENV =1", "=1", "ENV needs a name before ="),
        ("FROM a\nENV --x A=1", "--x", "ENV has no flag --x"),
        ("FROM a\nLABEL a=\"b", "\"b", "a double quote is not closed"),
        ("FROM a\nLABEL it's=1", "it's=1", "a single quote is not closed"),
        ("FROM a\nARG =1", "=1", "an ARG needs a name before ="),
        ("FROM a\nARG A=${A:#}", "${A:#}", ":# is no operator in ${A:#…}"),
        ("FROM a\nCMD --x", "CMD --x", "CMD says nothing"),
        ("FROM a\nSHELL /bin/sh", "SHELL /bin/sh", "SHELL takes a JSON list of at least one string"),
        ("FROM a\nSHELL []", "SHELL []", "SHELL takes a JSON list of at least one string"),
        ("FROM a\nVOLUME [\"\"]", "VOLUME [\"\"]", "VOLUME needs paths, and none of them can be empty"),
        ("FROM scratch\nVOLUME $X", "$X", "a VOLUME cannot be empty"),
        ("FROM a\nEXPOSE 70000", "70000", "70000 is no port"),
        ("FROM a\nEXPOSE 80/http", "80/http", "80/http is no port"),
        ("FROM a\nEXPOSE 9-8", "9-8", "9-8 is no port"),
        ("FROM a\nEXPOSE x:80", "x:80", "x:80 is no port"),
        ("FROM a\nEXPOSE +80", "+80", "+80 is no port"),
        ("FROM a\nSTOPSIGNAL SIGNO", "SIGNO", "there is no signal SIGNO"),
        ("FROM a\nSTOPSIGNAL 0", "0", "there is no signal 0"),
        ("FROM a\nHEALTHCHECK x", "HEALTHCHECK x", "x is no kind of health check"),
        ("FROM a\nHEALTHCHECK CMD", "HEALTHCHECK CMD", "HEALTHCHECK CMD needs a command"),
        ("FROM a\nHEALTHCHECK NONE x", "HEALTHCHECK NONE x", "HEALTHCHECK NONE takes nothing after it"),
        ("FROM a\nHEALTHCHECK --interval=5 CMD x", "--interval=5", "5 is no time for --interval"),
        ("FROM a\nHEALTHCHECK --timeout=1us CMD x", "--timeout=1us", "1us is no time for --timeout"),
        ("FROM a\nHEALTHCHECK --retries=-1 CMD x", "--retries=-1", "-1 is no number of retries"),
        ("FROM a\nONBUILD ONBUILD RUN x", "ONBUILD", "an ONBUILD cannot hold an ONBUILD"),
        ("FROM a\nONBUILD from x", "from", "an ONBUILD cannot hold FROM"),
        ("FROM a\nONBUILD MAINTAINER x", "MAINTAINER", "an ONBUILD cannot hold MAINTAINER"),
        ("FROM a\nONBUILD RNU x", "RNU", "there is no instruction RNU"),
        ("FROM a\nONBUILD RUN --x y", "--x", "RUN has no flag --x"),
        ("FROM a\nONBUILD", "ONBUILD", "ONBUILD says nothing"),
        ("FROM a\nCOPY x", "COPY x", "COPY needs a source and a target"),
        ("FROM a\nCOPY --from=x", "COPY --from=x", "COPY needs a source and a target"),
        ("FROM a\nCOPY a <<E\nE", "<<E", "a heredoc cannot be the target"),
        ("FROM a\nCOPY [\"<<E\", \"x\"]", "<<E", "the heredoc \"E\" has no content"),
        ("FROM a\nCOPY \"a /c", "\"a", "a double quote is not closed"),
        ("FROM a\nCOPY --chmod=u+x a b", "--chmod=u+x", "--chmod=u+x: symbolic modes are not supported here"),
        ("FROM a\nCOPY --chmod=999 a b", "--chmod=999", "--chmod=999 is no mode"),
        ("FROM a\nCOPY --chmod=17777 a b", "--chmod=17777", "--chmod=17777 is no mode"),
        (
            "FROM a\nARG M=rwx\nCOPY --chmod=$M a b",
            "--chmod=$M",
            "--chmod=rwx: symbolic modes are not supported here",
        ),
        ("FROM a\nCOPY --link=maybe a b", "--link=maybe", "--link is true or false"),
        ("FROM a\nCOPY --link= a b", "--link=", "--link is true or false"),
        ("FROM a\nCOPY --exclude a b", "--exclude", "--exclude needs a value: --exclude=…"),
        ("FROM a\nCOPY --checksum=x a b", "--checksum=x", "COPY has no flag --checksum"),
        ("FROM a\nADD --from=x a b", "--from=x", "ADD has no flag --from"),
        ("FROM a\nCOPY --from=$X a b", "$X", "variables do not count in from: $X"),
        ("FROM a\nCOPY --from=1 a b", "1", "there is no stage 1"),
        ("FROM a\nCOPY --from=0 a b", "0", "the stage 0 is not built before this one"),
        ("FROM a AS x\nCOPY --from=X a b", "X", "the stage X is not built before this one"),
        (
            "FROM a AS x\nCOPY --from=scratch a b",
            "COPY --from=scratch a b",
            "scratch is empty: there is nothing to copy from it",
        ),
        ("FROM a\nCOPY https://x/y z", "https://x/y", "COPY takes no URL"),
        ("FROM a\nADD https://x/y.git#main z", "https://x/y.git#main", "git sources are not supported here"),
        ("FROM a\nADD git@x.y:z.git z", "git@x.y:z.git", "git sources are not supported here"),
        ("FROM a\nCOPY git://x/y z", "git://x/y", "COPY takes no git source"),
        (
            "FROM a\nADD --keep-git-dir=true x y",
            "--keep-git-dir=true",
            "git sources are not supported here, nor --keep-git-dir",
        ),
        ("FROM a\nADD --checksum=sha256:0 https://x/y z", "--checksum=sha256:0", "sha256:0 is no checksum"),
        (
            "FROM a\nADD --unpack https://x/y.tar z",
            "--unpack",
            "what is fetched cannot be unpacked here: --unpack",
        ),
        ("# escape=x\nFROM a", "# escape=x", "x cannot escape"),
        ("# escape=`\n# escape=`\nFROM a", "# escape=`", "there are two directives escape"),
        (
            "# syntax=me/mine\nFROM a",
            "# syntax=me/mine",
            "me/mine is a syntax of its own, which is not known here",
        ),
        (
            "# syntax=docker/dockerfilex:1\nFROM a",
            "# syntax=docker/dockerfilex:1",
            "docker/dockerfilex:1 is a syntax of its own, which is not known here",
        ),
    ] {
        assert_eq!(problem(text), (place.to_owned(), message.to_owned()), "{text}");
    }
    let sum = format!("--checksum=sha256:{}", "a".repeat(64));
    for rest in ["a b", "https://x/y https://x/z b/"] {
        assert_eq!(problem(&format!("FROM a\nADD {sum} {rest}")).1, "--checksum goes with exactly one URL");
    }
}

#[test]
fn mounts_that_are_not_understood_are_refused() {
    for (fields, message) in [
        ("x=1", "--mount has no field x"),
        ("target", "the field target of --mount needs a value"),
        ("", "--mount has no field "),
        ("'\"target=/x'", "the quotes in --mount do not hold whole fields"),
        ("'target=\"/x\"'", "the quotes in --mount do not hold whole fields"),
        ("type=volume,target=/x", "there is no mount type volume: they are bind, cache, tmpfs, secret, ssh"),
        ("type=$NOT,target=/x", "there is no mount type : they are bind, cache, tmpfs, secret, ssh"),
        ("target=/", "nothing can be mounted on /"),
        ("target=..", "nothing can be mounted on /"),
        ("target=/x,from=$Y", "variables do not count in the from of a --mount"),
        ("target=/x,from=last", "the stage last is not built before this one"),
        ("target=/x,from=7", "there is no stage 7"),
        ("target=/x,from=scratch", "scratch is empty: there is nothing in it to mount"),
        ("target=/x,mode=755", "mode is no field of a bind mount"),
        ("target=/x,uid=1", "uid is no field of a bind mount"),
        ("type=tmpfs,target=/x,gid=1", "gid is no field of a tmpfs mount"),
        ("type=tmpfs,target=/x,size=big", "big is no value for size"),
        ("type=tmpfs,target=/x,ro", "a tmpfs that cannot be written to is of no use"),
        ("target=/x,size=1", "size is no field of a bind mount"),
        ("target=/x,required", "required is no field of a bind mount"),
        ("target=/x,ro=perhaps", "perhaps is no value for ro"),
        ("target=/x,sharing=shared", "sharing is no field of a bind mount"),
        ("type=cache,target=/x,sharing=all", "there is no sharing all: shared, private or locked"),
        ("type=cache,target=/x,mode=9", "9 is no value for mode"),
        ("type=cache,target=/x,uid=me", "me is no value for uid"),
        ("type=secret", "a secret needs an id or a target"),
        ("type=secret,id=a,source=b", "source and id of a secret are the same: one of them is enough"),
        ("type=secret,id=a,from=img", "a secret comes from nowhere else: from is no field of it"),
        ("type=ssh,source=x", "source is no field of an ssh mount"),
    ] {
        let text = format!("FROM scratch AS last\nRUN --mount={fields} x");
        // What is wrong with the stage that is named is told at its name.
        let place = match fields {
            "target=/x,from=last" => "last".to_owned(),
            "target=/x,from=7" => "7".to_owned(),
            _ => format!("--mount={fields}"),
        };
        assert_eq!(problem(&text), (place, message.to_owned()));
    }
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_the_file() {
    let text =
        "# syntax=x\nFORM a\nFROM a\nRNU x\nCOPY --chmod=z a b\nENV A\nEXPOSE x $A\nRUN --mount=typ=bind x\n";
    let messages: Vec<String> = problems(text).into_iter().map(|problem| problem.message).collect();
    assert_eq!(
        messages,
        [
            "x is a syntax of its own, which is not known here",
            "there is no instruction FORM",
            "there is no instruction RNU",
            "--chmod=z is no mode",
            "ENV needs a name and a value",
            "x is no port",
            "--mount has no field typ",
        ]
    );
    assert_eq!(problems("FROM a\nCPOY x y")[0].help.as_deref(), Some("did you mean COPY?"));
    assert_eq!(problems("FROM a\nRUN --mnt=x y")[0].help.as_deref(), Some("did you mean --mount?"));
}

#[test]
fn what_no_stage_needs_may_have_wrong_values_but_no_wrong_words() {
    let program = |text: &str| Program::new(text, &BTreeMap::new(), "linux/amd64");
    assert!(program("FROM a\nCOPY --chmod=z a b\nFROM b").is_ok());
    assert!(program("FROM a\nCOPY --chmode=1 a b\nFROM b").is_err());
}

#[test]
fn values_that_come_from_the_image_below_are_looked_at_when_it_is_known() {
    let text =
        "FROM a\nCOPY --chmod=$MODE a b\nEXPOSE ${PORT:-80}\nUSER ${U:?no user}\nRUN --mount=target=. x\n";
    let program = Program::new(text, &BTreeMap::new(), "linux/amd64").unwrap();
    let mut image = image();
    image.config.env = vec!["MODE=u=r".into(), "PORT=http".into()];
    image.config.working_dir = "/".into();
    let problems = program.stage(0, Below::Image(&image)).unwrap_err();
    let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "--chmod=u=r: symbolic modes are not supported here",
            "http is no port",
            "U: no user",
            "nothing can be mounted on /"
        ]
    );
    image.config.env = vec!["MODE=644".into(), "U=1".into()];
    image.config.working_dir = "/w".into();
    assert!(program.stage(0, Below::Image(&image)).is_ok());
    // What it may be anyway.
    assert_eq!(
        self::problems("FROM a\nENV M=x$Y\nARG N=y\nCOPY --chmod=$N a b\nCOPY --chmod=$M a b").len(),
        1
    );
}

#[test]
fn substitutions_without_end_are_told_their_limit() {
    let nested = |text: &str| text.replace("HERE", &("${V:-".repeat(100_000) + &"}".repeat(100_000)));
    for text in
        ["FROM HERE", "FROM a\nENV V=HERE", "FROM a\nCOPY \"HERE\" /", "ARG V=\"${V:-\"HERE\"}\"\nFROM a"]
    {
        let (_, message) = problem(&nested(text));
        assert_eq!(message, "substitutions lie in one another more than 64 deep", "{text}");
    }
    let line = |n: usize| format!("ENV A{}={}\n", n + 1, format!("$A{n}").repeat(10));
    let laughs = format!("FROM scratch\nENV A0=ha\n{}", (0..9).map(line).collect::<String>());
    assert!(problems(&laughs).iter().any(|found| found.message.contains("more than 1 MiB")));
}
