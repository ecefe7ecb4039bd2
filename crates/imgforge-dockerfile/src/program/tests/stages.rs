//! FROM, what stages need, numbers of steps, ONBUILD.

use super::super::{Action, Base, Below, From, Program};
use super::{image, last, last_of, program, program_with, stages_on};
use imgforge_oci::ImageConfig;

#[test]
fn stages_stand_on_nothing_on_each_other_or_on_images() {
    let bases = |text: &str| program(text).bases();
    let image = |name: &str| Base::Image(name.into());
    assert_eq!(bases("FROM scratch"), [Base::Scratch]);
    assert_eq!(bases("FROM a AS B\nfrom b as c\nFROM C"), [image("a"), Base::Stage(0), Base::Stage(1)]);
    assert_eq!(bases("ARG V=1\nFROM x:${V}\nFROM --platform=$TARGETPLATFORM y"), [image("x:1"), image("y")]);
    // A stage that is named like the image it stands on, and the last of two of one name.
    assert_eq!(bases("FROM a AS a\nFROM a AS a\nFROM a"), [image("a"), Base::Stage(0), Base::Stage(1)]);
    // A number is no stage in FROM.
    assert_eq!(bases("FROM a\nFROM 0"), [image("a"), image("0")]);
    assert_eq!(bases("FROM --platform=linux/x86_64 a"), [image("a")]);
    assert_eq!(bases("ARG B=build\nFROM a AS build\nFROM $B"), [image("a"), Base::Stage(0)]);
}

#[test]
fn only_what_the_last_stage_needs_is_needed() {
    for (text, needed, images) in [
        ("FROM a\nFROM b", &[1][..], &["b"][..]),
        ("FROM a AS a\nFROM b\nCOPY --from=a x y", &[0, 1], &["a", "b"]),
        ("FROM a\nFROM b\nCOPY --from=0 x y\nCOPY --from=img x y", &[0, 1], &["a", "b", "img"]),
        (
            "FROM a AS x\nFROM b\nRUN --mount=from=x,target=/x --mount=from=c,target=/c --mount=type=cache,target=/d y",
            &[0, 1],
            &["a", "b", "c"],
        ),
        ("FROM a\nFROM b\nRUN --mount=from=0,target=/x y", &[0, 1], &["a", "b"]),
        ("FROM a AS one\nFROM one AS two\nFROM c\nFROM two", &[0, 1, 3], &["a"]),
        (
            "FROM a AS files\nFROM b AS base\nONBUILD COPY --from=files x y\nFROM base",
            &[0, 1, 2],
            &["a", "b"],
        ),
        ("FROM scratch AS x\nFROM scratch\nRUN --mount=type=cache,from=scratch,target=/x y", &[1], &[]),
        ("FROM a\nFROM a\nCOPY --from=a x y", &[1], &["a"]),
    ] {
        let program = program(text);
        assert_eq!(program.needed(), needed, "{text}");
        assert_eq!(program.images(), images, "{text}");
    }
}

/// Number, total and label of each step, counted ones only.
fn progress(text: &str) -> Vec<String> {
    let steps = last(text).steps.into_iter().filter(|step| step.number > 0);
    steps.map(|step| format!("[{}/{}] {}", step.number, step.total, step.label)).collect()
}

#[test]
fn steps_are_counted_as_buildkit_counts_them() {
    assert_eq!(
        progress("FROM a\nENV A=1\nRUN x $A $B\nCOPY $A$B /\nWORKDIR /w\nCMD z"),
        ["[2/4] RUN x 1 $B", "[3/4] COPY 1 /", "[4/4] WORKDIR /w"]
    );
    assert_eq!(
        progress("FROM scratch\nrun [\"x\"]\nadd [\"a b\", \\\n  # c\n  \"/c/\"]\nworkdir /\nrun y")
            .join("|"),
        "[1/4] RUN [\"x\"]|[2/4] ADD [a b,   /c/]|[3/4] RUN y"
    );
    assert_eq!(progress("FROM a AS b\nRUN x\nFROM b\nRUN y"), ["[1/1] RUN y"]);
    assert_eq!(
        progress("FROM a AS b\nONBUILD ENV X=1\nONBUILD RUN x\nFROM b\nRUN y"),
        ["[1/3] ONBUILD RUN x", "[2/3] RUN y"]
    );
    assert_eq!(progress("FROM a\nRUN <<EOF\n\n  one\ntwo\nEOF"), ["[2/2] RUN <<EOF (one...)"]);
    assert_eq!(
        progress("FROM a\nRUN --mount=type=secret,id=s,env=S x $S"),
        ["[2/2] RUN --mount=type=secret,id=s,env=S x ****"]
    );
}

#[test]
fn steps_have_their_text_and_line() {
    let stage = last("# c\nFROM a\n\nENV A=1\nRUN one \\\n  # c\n\n  two\nCOPY <<E /f\nhello\nE\nRUN x\n");
    let steps: Vec<_> = stage.steps.iter().map(|step| (step.line, step.text.as_str())).collect();
    assert_eq!(steps, [(4, "ENV A=1"), (5, "RUN one   two"), (9, "COPY <<E /f"), (12, "RUN x")]);
}

#[test]
fn history_says_what_buildkit_says() {
    let text = "FROM scratch AS base\nARG G=1\nCOPY busybox /bin/busybox\nENV B=2 A=1 X=env\nARG X=arg N\nENV Z=$G\n\
        RUN env > /e1 2>/dev/null; env\nWORKDIR /a/../q/\nONBUILD RUN env > /e4\n\
        FROM base\nMAINTAINER me\nRUN [\"a\", \"b c\"]\nCOPY --chown=1:2 --chmod=0644 a b /dest2/\nCOPY <<EOF d\nx\nEOF\n\
        WORKDIR /\nCMD echo hi \"x\"\nEXPOSE 90-91/udp 80\nHEALTHCHECK --interval=90s CMD echo $X\n\
        ENTRYPOINT [\"a\\tb\"]\nSHELL [\"/bin/sh\",\"-ec\"]\nLABEL a=b \"c d\"=\"e f\"\nVOLUME /x /y\nSTOPSIGNAL SIGQUIT\n\
        USER me\nADD --link https://example.com/x.tar y\nRUN <<E\ncd /\nls\nE\n";
    let program = program(text);
    let stages = stages_on(&program, &image());
    let history = |number: usize| -> Vec<String> {
        stages[&number].steps.iter().map(|step| step.created_by.clone()).collect()
    };
    assert_eq!(
        history(0),
        [
            "ARG G=1",
            "COPY busybox /bin/busybox # buildkit",
            "ENV B=2 A=1 X=env",
            "ARG X=arg N",
            "ENV Z=1",
            "RUN |3 G=1 X=arg N= /bin/sh -c env > /e1 2>/dev/null; env # buildkit",
            "WORKDIR /a/../q/",
        ]
    );
    assert_eq!(
        history(1),
        [
            "RUN |3 G=1 X=env N= /bin/sh -c env > /e4 # buildkit",
            "MAINTAINER me",
            "RUN |3 G=1 X=env N= a b c # buildkit",
            "COPY --chown=1:2 --chmod=0644 a b /dest2/ # buildkit",
            "COPY <<EOF d # buildkit",
            "WORKDIR /",
            r#"CMD ["/bin/sh" "-c" "echo hi \"x\""]"#,
            "EXPOSE [80/tcp 90/udp 91/udp]",
            "HEALTHCHECK {Test:[CMD-SHELL echo $X] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
            r#"ENTRYPOINT ["a\tb"]"#,
            "SHELL [/bin/sh -ec]",
            "LABEL a=b c d=e f",
            "VOLUME [/x /y]",
            "STOPSIGNAL SIGQUIT",
            "USER me",
            "ADD https://example.com/x.tar y # buildkit",
            "RUN |3 G=1 X=env N= /bin/sh -ec cd /\nls\n # buildkit",
        ]
    );
    let empty: Vec<bool> = stages[&0].steps.iter().map(|step| step.action.is_none()).collect();
    assert_eq!(empty, [true, false, true, true, true, false, false]);
}

#[test]
fn what_onbuild_leaves_runs_first_in_the_next_stage_and_only_there() {
    let program = program(
        "FROM a AS one\nONBUILD ENV X=1\nONBUILD run echo $X\nFROM one AS two\nRUN two\nONBUILD RUN three\nFROM two\nRUN four",
    );
    let stages = stages_on(&program, &image());
    let texts = |number: usize| -> Vec<(usize, String)> {
        stages[&number].steps.iter().map(|step| (step.line, step.text.clone())).collect()
    };
    assert!(texts(0).is_empty());
    assert_eq!(stages[&0].config.config.on_build, ["ENV X=1", "run echo $X"]);
    assert_eq!(texts(1), [(0, "ENV X=1".into()), (0, "run echo $X".into()), (5, "RUN two".into())]);
    assert_eq!(stages[&1].config.config.on_build, ["RUN three"]);
    assert_eq!(texts(2), [(0, "RUN three".into()), (8, "RUN four".into())]);
    assert!(stages[&2].config.config.on_build.is_empty());
}

#[test]
fn what_onbuild_leaves_in_an_image_runs_too() {
    let mut image = image();
    image.config.on_build =
        vec!["COPY --from=0 . /src".into(), "COPY <<E /f\n$BASE\nE".into(), "WORKDIR src".into()];
    let program = program("FROM x\nFROM img\nRUN make");
    let stage = program.stage(1, Below::Image(&image)).unwrap();
    assert_eq!(stage.steps.iter().map(|step| step.number).collect::<Vec<_>>(), [2, 3, 4, 5]);
    assert_eq!(stage.sources(), [&From::Stage(0)]);
    let Some(Action::Copy(copy)) = &stage.steps[1].action else { panic!() };
    assert_eq!(format!("{:?}", copy.sources), r#"[Inline { name: "E", content: "base\n" }]"#);
    assert_eq!(stage.config.config.working_dir, "/base/src");
    assert!(stage.config.config.on_build.is_empty());

    let mut image = image.clone();
    image.config.on_build =
        vec!["RUN --netwrk=none x".into(), "FROM x".into(), "RUN a\nRUN b".into(), "RUN ok".into()];
    let problems = program.stage(1, Below::Image(&image)).unwrap_err();
    let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "`ONBUILD RUN --netwrk=none x` of what this stage stands on: RUN has no flag --netwrk",
            "`ONBUILD FROM x` of what this stage stands on: it cannot stand there",
            "`ONBUILD RUN a\nRUN b` of what this stage stands on: it is not one instruction",
        ]
    );
    assert!(problems.iter().all(|problem| problem.span.offset == 7));
}

#[test]
fn a_stage_forgets_what_only_its_base_was() {
    let mut image = image();
    image.created = Some("2020-01-01T00:00:00Z".into());
    image.history.push(imgforge_oci::History::default());
    image.rootfs.diff_ids.push(imgforge_oci::Digest::sha256(b"layer"));
    image.other.insert("container".into(), "x".into());
    image.other.insert("author".into(), "me".into());
    image.config.other.insert("Hostname".into(), "x".into());
    let config = program("FROM a").stage(0, Below::Image(&image)).unwrap().config;
    let mut expected = ImageConfig::scratch("linux/amd64");
    expected.config = super::image().config;
    expected.other.insert("author".into(), "me".into());
    assert_eq!(config, expected);
}

#[test]
fn build_arguments_choose_stages() {
    let text = "ARG MODE=release\nFROM a AS debug\nFROM b AS release\nFROM $MODE\nRUN x";
    assert_eq!(program_with(text, &[]).images(), ["b"]);
    assert_eq!(program_with(text, &[("MODE", "debug")]).images(), ["a"]);
    let other: Program = program_with(text, &[("MODE", "c")]);
    assert_eq!(other.images(), ["c"]);
    assert_eq!(last_of(&other).steps.len(), 1);
}
