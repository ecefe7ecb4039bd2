use std::collections::BTreeMap;

use proptest::prelude::*;

use super::program::RunNetwork;
use super::*;

fn refs_with(text: &str, args: &[(&str, &str)]) -> Vec<(String, &'static str)> {
    let args: BTreeMap<String, String> = args.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let file = Dockerfile::parse(text).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
    let references = file.references(&args);
    references.into_iter().map(|r| (r.image, r.kind.as_str())).collect()
}

fn refs(text: &str) -> Vec<(String, &'static str)> {
    refs_with(text, &[])
}

fn from(names: &[&str]) -> Vec<(String, &'static str)> {
    names.iter().map(|name| ((*name).to_owned(), "from")).collect()
}

fn sources(text: &str) -> Vec<String> {
    let file = Dockerfile::parse(text).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
    file.context_sources(&BTreeMap::new()).into_iter().map(|s| s.pattern).collect()
}

#[test]
fn from_lines_are_read_as_buildkit_reads_them() {
    for (text, expected) in [
        ("FROM a", &["a"][..]),
        ("from a as b\nFrom b\n", &["a"]),
        ("FROM a AS B\nFROM b", &["a"]),
        ("FROM scratch", &[]),
        ("FROM localhost:5000/x:tag@sha256:0123", &["localhost:5000/x:tag@sha256:0123"]),
        ("ARG V=1\nFROM a:$V", &["a:1"]),
        ("ARG V=1\nFROM a:${V}-x", &["a:1-x"]),
        ("ARG V\nFROM a${V:+:$V}", &["a"]),
        ("ARG V\nFROM a:${V:-${W:-3}}", &["a:3"]),
        ("ARG B=build\nFROM a AS build\nFROM ${B}", &["a"]),
        ("FROM --platform=$BUILDPLATFORM a", &["a"]),
        ("FROM --platform=linux/amd64 \\\n  # a comment\n\n  a \\\n  AS x", &["a"]),
        ("# escape=`\nFROM `\n a", &["a"]),
        ("# syntax=docker/dockerfile:1\n# escape=`\nFROM a`\nb", &["ab"]),
        ("\u{feff}FROM a\r\nRUN x \\\r\n y\r\n", &["a"]),
        ("ARG \"V=1\"\nFROM a", &["a"]),
        ("FROM base-${TARGETARCH} AS final", &["base-amd64"]),
        ("FROM a\nARG V=2\nFROM b:$V", &["a", "b:"]),
    ] {
        assert_eq!(refs(text), from(expected), "{text}");
    }
}

#[test]
fn what_lies_in_too_many_substitutions_or_comes_to_too_much_is_not_expanded() {
    let nested = |depth: usize| format!("FROM a:{}1{}", "${V:-".repeat(depth), "}".repeat(depth));
    assert_eq!(refs(&nested(64)), from(&["a:1"]));
    assert_eq!(refs(&nested(100_000)), from(&[""]), "it is not known");
    let line = |n: usize| format!("ARG A{}={}\n", n + 1, format!("$A{n}").repeat(10));
    let laughs = format!("ARG A0=ha\n{}FROM a:$A9\n", (0..9).map(line).collect::<String>());
    assert_eq!(refs(&laughs), from(&["a:"]), "as if it were not set");
}

#[test]
fn build_arguments_override_defaults() {
    assert_eq!(refs_with("ARG V=1\nFROM a:$V", &[("V", "2")]), from(&["a:2"]));
}

#[test]
fn copies_and_mounts_from_images_are_references_and_stages_are_not() {
    let text = "FROM a AS one\nFROM b\nCOPY --from=one /x /x\nCOPY --from=0 /x /x\nCOPY --chown=1:1 --from=img:3 /x /y\n\
                RUN --mount=type=bind,from=two,source=/s,target=/t --mount=type=cache,target=/c cmd\n\
                RUN --mount=\"from=three,target=/t\" cmd\nRUN --mount=from=ONE,target=/t cmd";
    let expected = [("a", "from"), ("b", "from"), ("img:3", "copy"), ("two", "mount"), ("three", "mount")];
    let expected: Vec<_> = expected.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
    assert_eq!(refs(text), expected);
}

#[test]
fn what_is_quoted_or_names_nothing_is_as_buildkit_takes_it() {
    for (text, expected) in [
        // Of a newer frontend.
        ("FROM scratch\nRUN --mount=from=tool:1,target=/t,newer=x --newer x", &["tool:1"][..]),
        ("FROM scratch\nCOPY --newer=x --from=tool:1 x /", &["tool:1"]),
        (
            "FROM scratch AS a\nFROM scratch\nCOPY --from=\"a\" /x /\nRUN --mount='from=A,target=/t' x",
            &[][..],
        ),
        ("FROM scratch\nCOPY --from=\"tool:1\" /x /", &["tool:1"]),
        ("FROM scratch\nCOPY --from= x /\nRUN --mount=from=,target=/t x", &[]),
        ("FROM scratch\nRUN --mount=type=tmpfs,from=other,target=/t x", &[]),
    ] {
        let images: Vec<String> = refs(text).into_iter().map(|(image, _)| image).collect();
        assert_eq!(images, expected, "{text}");
    }
}

#[test]
fn a_reference_can_be_replaced_in_place() {
    let text = "ARG B=os\nFROM --platform=linux/amd64 $B AS x\nCOPY --from=tool /a /b\nRUN --mount=from=tool,target=/t \\\n  # c\n  x\nCOPY \\\n  --from=\"tool\" \"--from\" /b\n\
                RUN \\\n \"--mount=x\"\nRUN --mount=\\\"target=/t\\\",\"from=tool\" x\n";
    let file = Dockerfile::parse(text).unwrap();
    let words: Vec<&str> = file
        .references(&BTreeMap::new())
        .iter()
        .map(|r| &text[r.span.offset as usize..(r.span.offset + r.span.len) as usize])
        .collect();
    assert_eq!(words, ["$B", "tool", "tool", "tool", "tool"]);
}

#[test]
fn the_files_that_a_build_can_reach_are_its_copies_adds_and_bind_mounts() {
    for (text, expected) in [
        ("FROM a\nCOPY x y /d/", &["x", "y"][..]),
        ("FROM a\nCOPY [\"x y\", \"/d\"]", &["x y"]),
        ("FROM a\nCOPY --from=b x /d", &[]),
        ("FROM a\nADD https://example.com/x /x\nADD f.tar /", &["f.tar"]),
        ("FROM a\nRUN --mount=type=bind,source=s,target=/t x", &["s"]),
        ("FROM a\nRUN --mount=target=/t x", &["."]),
        ("FROM a\nRUN --mount=type=cache,target=/t x", &[]),
        ("FROM a\nCOPY <<EOF /f\nhello\nEOF\nCOPY z /", &["z"]),
        ("FROM a\nCOPY << EOF x /f/\nhello\nCOPY y /\nEOF\nCOPY z /", &["x", "z"]),
        ("FROM a\nCOPY <<   \"EOF\" /f\nCOPY y /\nEOF\nCOPY z /", &["z"]),
        ("FROM a\nRUN cat << EOF > /a\nCOPY y /\nEOF\nCOPY z /", &["z"]),
        ("FROM scratch\nARG D=app\nCOPY $D/x /", &["app/x"]),
        ("FROM a\nCOPY $FROM_BASE /", &["."]),
        ("FROM a\nENV D=app E=${D}x\nCOPY ${D} /", &["app"]),
        // Quotes hold no words together here, and BuildKit refuses those that are left open.
        ("FROM a\nCOPY \"a b\" c /", &[".", ".", "c"]),
        // It is read by what stands on this stage.
        ("FROM a\nONBUILD COPY q /", &[]),
        ("FROM a AS b\nARG D=x\nONBUILD COPY $D /\nENV D=y\nFROM b", &["y"]),
        // The image may have an ENV of the ARG's name, which counts again in the next stage.
        ("FROM a AS b\nARG D=x\nCOPY $D /\nFROM b\nCOPY $D /", &["x", "."]),
        ("FROM scratch AS b\nARG D=x\nCOPY $D /\nFROM b\nCOPY $D /", &["x", "x"]),
        ("FROM a AS b\nENV D=x\nENV D=$OF_IMAGE\nFROM b\nCOPY $D /", &["."]),
        ("FROM a\nCOPY --from= x /\nRUN --mount=source=y,from=,target=/t true", &["x", "y"]),
        ("FROM a\nCOPY -- x /", &["x"]),
        (
            "FROM a\nCOPY --newer=x y /\nRUN --mount=target=/t,newer=z,source=s --security=insecure x",
            &["y", "s"],
        ),
        ("FROM a\nCOPY git@x <<<y /", &["git@x", "<<<y"]),
        ("FROM scratch\nARG X=\nCOPY a${X-b} a${X+b} /", &["a", "ab"]),
        ("FROM scratch\nARG X=a/b\nCOPY ${X#*/} ${X%/*} ${X//a/c} ${X:?} /", &["b", "a", "c/b", "a/b"]),
        ("FROM scratch\nENV X a  b\nCOPY $X /", &["a  b"]),
        ("FROM scratch\nRUN --mount=target=/t,\\\"source=a,b\\\" true", &["a,b"]),
        ("# not=known\n# escape=`\nFROM scratch\nCOPY a\\b /", &["ab"]),
        ("FROM a\nCOPY --chown=1:1 --chmod=644 a* b? /", &["a*", "b?"]),
    ] {
        assert_eq!(sources(text), expected, "{text}");
    }
}

#[test]
fn values_of_flags_are_known_where_the_file_tells_their_variables() {
    let text = "FROM scratch AS s\nARG M=0705\nENV E=64\nCOPY --chmod=$M a /\nADD --chown=1 --chmod=\"0${E}0\" b /\n\
                FROM x\nCOPY --from=s --chmod=$FROM_X a /\nCOPY --chmod=0644 a /\n\
                ARG T=/m\nRUN --network=none --mount=type=cache,target=$T true\n";
    let file = Dockerfile::parse(text).unwrap();
    let found = file.flag_values(&[("M".to_owned(), "700".to_owned())].into());
    let values: Vec<_> =
        found.iter().map(|value| (value.line, &*value.written, value.value.as_deref())).collect();
    let expected = [
        (4, "$M", Some("700")),
        (5, "\"0${E}0\"", Some("0640")),
        (7, "$FROM_X", None),
        (8, "0644", Some("0644")),
        (10, "type=cache,target=$T", Some("type=cache,target=/m")),
    ];
    assert_eq!(values, expected);
    for value in &found {
        let (from, len) = (value.span.offset as usize, value.span.len as usize);
        assert_eq!(text[from..from + len], value.written);
    }
}

#[test]
fn heredocs_hold_no_instructions() {
    let text = "FROM a\nRUN <<EOF cat <<-\"TWO\" <<<word\nFROM b\nEOF\n\tCOPY x y\n\tTWO\nRUN echo\n";
    assert_eq!(refs(text), from(&["a"]));
    let file = Dockerfile::parse(text).unwrap();
    assert_eq!(
        file.instructions().iter().map(|i| (i.keyword(), i.line())).collect::<Vec<_>>(),
        [("FROM", 1), ("RUN", 2), ("RUN", 7)]
    );
}

#[test]
fn problems_have_their_place() {
    for (text, message) in [
        ("", "there is no FROM"),
        ("# only\n", "there is no FROM"),
        ("FORM a", "there is no instruction FORM"),
        ("FROM", "FROM takes one image, and maybe AS and a name"),
        ("FROM a b", "FROM takes one image, and maybe AS and a name"),
        ("RUN x\nFROM a", "RUN stands before the first FROM"),
        ("FROM a\nRUN <<EOF\nx", "the heredoc \"EOF\" has no end"),
        ("FROM a\nRUN", "RUN says nothing"),
    ] {
        let problems = Dockerfile::parse(text).unwrap_err();
        assert_eq!(problems[0].message, message, "{text}");
    }
    let problems = Dockerfile::parse("FROM a\nCPOY x y").unwrap_err();
    assert_eq!(problems[0].help.as_deref(), Some("did you mean COPY?"));
    assert_eq!(problems[0].span, Span::new(7, 4));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_and_spans_lie_on_characters(text in "(?s).{0,200}") {
        if let Ok(file) = Dockerfile::parse(&text) {
            for r in file.references(&BTreeMap::new()) {
                prop_assert!(text.get(r.span.offset as usize..(r.span.offset + r.span.len) as usize).is_some());
            }
            let _ = file.context_sources(&BTreeMap::new());
        }
    }

    #[test]
    fn text_like_dockerfiles_is_read_or_refused(parts in proptest::collection::vec(proptest::sample::select(vec![
        "FROM ", "COPY ", "RUN ", "ARG ", "--from=", "--mount=", "type=bind,", "source=", "\\\n", "\n", "<<EOF", "EOF\n", "$", "{", "}", ":-", "\"", "'", "[", "]", "x", " ", "# escape=`\n", "`", "é", ",", "ONBUILD ",
    ]), 0..40)) {
        let text = parts.concat();
        if let Ok(file) = Dockerfile::parse(&text) {
            for r in file.references(&BTreeMap::new()) {
                prop_assert!(text.get(r.span.offset as usize..(r.span.offset + r.span.len) as usize).is_some());
            }
            let _ = file.context_sources(&BTreeMap::new());
        }
    }
}

#[test]
fn an_address_that_add_fetches_is_known_behind_a_variable_too() {
    let asks = |text: &str| {
        let file = Dockerfile::parse(text).unwrap();
        let none = BTreeMap::new();
        let sources: Vec<String> =
            file.context_sources(&none).into_iter().map(|source| source.pattern).collect();
        (file.beyond(RunNetwork::None, &none).len(), sources)
    };
    let nothing: Vec<String> = Vec::new();
    assert_eq!(asks("FROM scratch\nARG SRC=https://h/x\nADD $SRC /x\n"), (1, nothing.clone()));
    assert_eq!(asks("FROM scratch\nADD https://h/x /x\n"), (1, nothing));
    // What a base from outside says of it is not known.
    assert_eq!(asks("FROM other\nADD ${SRC} /x\n"), (1, vec![".".to_owned()]));
    assert_eq!(asks("FROM other\nADD dir/${FILE} /x\n"), (0, vec![".".to_owned()]));
    assert_eq!(
        asks("FROM scratch\nARG SRC=a.tar\nADD $SRC https://no-source/\n"),
        (0, vec!["a.tar".to_owned()])
    );
}

fn reduced(text: &str, target: &str) -> Option<Reduced> {
    Dockerfile::parse(text).unwrap().reduced(text, target, &BTreeMap::new())
}

#[test]
fn a_target_has_the_stages_that_it_needs_at_their_places() {
    let text = "# syntax=docker/dockerfile:1\n# a comment\nARG V=1 \\\n  W=2\nARG ONLY=3\n\nFROM scratch AS unused\nCOPY u /\n\
                FROM a:$V-$W AS Build\nRUN <<EOF\nmake\nEOF\n# of the next\nFROM b:$ONLY AS other\nRUN x\n\
                FROM scratch as last\nCOPY --from=1 /x /\nRUN --mount=from=01,target=/t y\nCOPY z /\nFROM other\n";
    let found = reduced(text, "LAST").unwrap();
    let canonical = "# syntax=docker/dockerfile:1\nARG V=1 \\\n  W=2\nFROM a:$V-$W AS Build\nRUN <<EOF\nmake\nEOF\n\
                     FROM scratch as last\nCOPY --from=0 /x /\nRUN --mount=from=0,target=/t y\nCOPY z /\n";
    assert_eq!(found.canonical, canonical);
    assert_eq!(found.text.len(), text.len());
    for (here, there) in found.text.lines().zip(text.lines()) {
        let is_same = here == there || here.replace("=0 ", "=1 ").replace("=00,", "=01,") == there;
        assert!(here.trim().is_empty() || is_same, "{here:?} {there:?}");
    }
    let other = reduced(text, "2").unwrap().canonical;
    assert_eq!(other, "# syntax=docker/dockerfile:1\nARG ONLY=3\nFROM b:$ONLY AS other\nRUN x\n");
    assert_eq!(reduced(text, "4").unwrap().canonical, format!("{other}FROM other\n"));
    assert_eq!(reduced(text, "5"), None);
    assert_eq!(reduced(text, "nonesuch"), None);
}

#[test]
fn what_is_not_known_to_be_of_no_use_is_kept() {
    // ONBUILD of an image from outside may ask for an ARG that no stage names.
    let text = "ARG NODE_ENV=x\nARG FOR_B=y\nFROM node:onbuild AS a\nFROM b AS b\nRUN echo $FOR_B\n";
    assert_eq!(reduced(text, "a").unwrap().canonical, "ARG NODE_ENV=x\nFROM node:onbuild AS a\n");
    // What a child takes by ONBUILD is below the child, not below the stage that says so.
    let text =
        "FROM a AS base\nONBUILD COPY --from=tool /x /\nFROM b AS tool\nFROM c AS no\nFROM base AS app\n";
    assert_eq!(reduced(text, "app").unwrap().canonical, text.replace("FROM c AS no\n", ""));
    // The target stays the last, whatever its ONBUILD may mean where others stand on it.
    let text = "FROM a AS base\nONBUILD COPY --from=tool /x /\nFROM b AS tool\n";
    assert_eq!(reduced(text, "base").unwrap().canonical, text.replace("FROM b AS tool\n", ""));
    // A number that is written in no plain way.
    let text = "FROM a AS no\nFROM b\nFROM c AS app\nCOPY --from=0\\\n1 /x /\nFROM d\n";
    assert_eq!(reduced(text, "app").unwrap().canonical, text.replace("FROM d\n", ""));
    // The last stage of a name counts.
    let text = "FROM a AS x\nFROM b AS x\nFROM x AS app\n";
    assert_eq!(reduced(text, "app").unwrap().canonical, "FROM b AS x\nFROM x AS app\n");
}

proptest! {
    #[test]
    fn a_target_means_what_it_means_in_the_whole_file(
        stages in proptest::collection::vec((0_usize..6, proptest::collection::vec((0_usize..6, 0_usize..4), 0..4)), 1..7),
        target in 0_usize..7,
    ) {
        let target = target % stages.len();
        let mut text = String::from("ARG A=1\nARG B=$A-2\n");
        for (n, (base, lines)) in stages.iter().enumerate() {
            let base = if *base < n { format!("s{base}") } else { format!("image{base}:$B") };
            text.push_str(&format!("# stage {n}\nFROM {base} AS s{n}\n"));
            for (other, how) in lines {
                let from = if *other >= n { format!("outside{other}") } else if how % 2 == 0 { format!("s{other}") } else { other.to_string() };
                text.push_str(&match how {
                    0 | 1 => format!("COPY --from={from} /a /b{n}\n"),
                    2 => format!("RUN --mount=type=bind,from={from},target=/t \\\n  make {n}\n"),
                    _ => format!("ARG B\nCOPY file{n} /$B\n"),
                });
            }
        }
        let whole = Dockerfile::parse(&text).unwrap();
        let none = BTreeMap::new();
        let cut = |text: &str| -> String {
            // The stages up to the target, as the file has them.
            let at = text.match_indices("FROM ").nth(target + 1).map_or(text.len(), |(at, _)| at);
            text[..at].to_owned()
        };
        let cut = cut(&text);
        let reduced = whole.reduced(&text, &format!("s{target}"), &none).unwrap();
        prop_assert_eq!(&whole.reduced(&text, &target.to_string(), &none).unwrap(), &reduced);
        let program = |text: &str| program::Program::new(text, &none, "linux/amd64").map_err(|found| format!("{text}\n{found:?}"));
        let steps = |program: &program::Program| {
            // What its needed stages do, with stages named by their order among these.
            let needed = program.needed();
            let order = |stage: usize| needed.iter().position(|n| *n == stage).unwrap();
            let image = imgforge_oci::ImageConfig::scratch("linux/amd64");
            let bases = program.bases();
            let mut done: BTreeMap<usize, program::Stage> = BTreeMap::new();
            let mut told = Vec::new();
            for number in &needed {
                let below = match &bases[*number] {
                    program::Base::Stage(stage) => program::Below::Stage(&done[stage]),
                    _ => program::Below::Image(&image),
                };
                let stage = program.stage(*number, below).unwrap();
                let base = match &bases[*number] {
                    program::Base::Stage(stage) => order(*stage).to_string(),
                    other => format!("{other:?}"),
                };
                let from: Vec<String> = stage.sources().into_iter().map(|from| match from {
                    program::From::Stage(stage) => order(*stage).to_string(),
                    other => format!("{other:?}"),
                }).collect();
                let actions: Vec<String> = stage.steps.iter().map(|step| match &step.action {
                    Some(program::Action::Copy(copy)) => format!("{:?} {}", copy.sources, copy.target),
                    Some(program::Action::Run(run)) => format!("{:?} {:?}", run.argv, run.env),
                    other => format!("{other:?}"),
                }).collect();
                told.push((base, from, actions));
                done.insert(*number, stage);
            }
            told
        };
        let expected = steps(&program(&cut).unwrap());
        prop_assert_eq!(&steps(&program(&reduced.text).unwrap()), &expected, "{}", &reduced.text);
        prop_assert_eq!(&steps(&program(&reduced.canonical).unwrap()), &expected, "{}", &reduced.canonical);
        prop_assert_eq!(reduced.text.len(), text.len());
        // A stage that nothing reaches changes nothing, wherever it stands; numbers behind it are counted on.
        let at = text.find("# stage").unwrap();
        let shifted: String = text[at..].split_inclusive('\n').map(|line| {
            (0..6).rev().fold(line.to_owned(), |line, n| {
                line.replace(&format!("from={n} "), &format!("from={} ", n + 1)).replace(&format!("from={n},"), &format!("from={},", n + 1))
            })
        }).collect();
        let more = format!("{}FROM other AS unreached\nRUN anything\n{shifted}", &text[..at]);
        let again = Dockerfile::parse(&more).unwrap().reduced(&more, &format!("s{target}"), &none).unwrap();
        prop_assert_eq!(again.canonical, reduced.canonical);
    }
}
