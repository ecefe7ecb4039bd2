//! What is hashed covers what is read, and is no more than that: the queries of a [`Dockerfile`] beside the steps of
//! the [`Program`].

use std::collections::{BTreeMap, BTreeSet};

use imgforge_oci::ImageConfig;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::{Action, Base, Below, CopySource, From, MountKind, Program, Stage};
use crate::{ContextSource, Dockerfile, EdgeKind};

const NAMES: [&str; 5] = ["A", "B", "C", "G", "GIVEN"];

fn args() -> BTreeMap<String, String> {
    BTreeMap::from([("GIVEN".to_owned(), "given/it".to_owned()), ("B".to_owned(), "b".to_owned())])
}

fn name() -> impl Strategy<Value = &'static str> {
    select(NAMES.to_vec())
}

/// A part of a path, with variables, in every way in which they are written.
fn piece() -> impl Strategy<Value = String> {
    let plain = || "[a-c]{1,2}(/[a-c])?";
    let leaf = prop_oneof![
        4 => plain().prop_map(String::from),
        2 => name().prop_map(|name| format!("${{{name}}}")),
        1 => name().prop_map(|name| format!("${name}")),
        1 => select(vec!["*", "?.c", "[ab]", "..", "./", "/", "\\$A", "\\ ", "'$A'", "git@x", "$", "é"]).prop_map(String::from),
        1 => (name(), select(vec!["#a", "##*/", "%c", "%%/*", "/a/x", "//a/x", ":?no", "?"]))
            .prop_map(|(name, rule)| format!("${{{name}{rule}}}")),
    ];
    leaf.prop_recursive(2, 6, 2, |inner| {
        let pieces = vec(inner, 0..3).prop_map(|pieces| pieces.concat());
        prop_oneof![
            (name(), select(vec![":-", "-", ":+", "+"]), pieces.clone())
                .prop_map(|(name, operator, word)| format!("${{{name}{operator}{word}}}")),
            pieces.prop_map(|text| format!("\"{text}\"")),
        ]
    })
}

/// A path without white space of its own.
fn path() -> impl Strategy<Value = String> {
    vec(piece(), 1..3).prop_map(|pieces| pieces.concat())
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![3 => path(), 1 => Just(String::new()), 1 => Just("\"a  b\"".to_owned()), 1 => Just("https://h/x".to_owned())]
}

/// What names a stage, an image, or nothing.
fn from() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => (0..4_usize).prop_map(|n| format!("s{n}")),
        1 => (0..4_usize).prop_map(|n| format!("S{n}")),
        2 => (0..4_usize).prop_map(|n| n.to_string()),
        1 => select(vec!["tool:1", "", "\"\"", "\"s0\"", "'tool:2'", "01", "s\\0"]).prop_map(String::from),
    ]
}

fn copy() -> impl Strategy<Value = String> {
    let flag = prop_oneof![
        2 => from().prop_map(|from| format!("--from={from}")),
        1 => select(vec!["--chown=1:$A", "--link", "--link=false", "--parents", "--exclude=*.o", "--chmod=0644", "--chmod=\"06${Z}44\""]).prop_map(String::from),
    ];
    let source = prop_oneof![8 => path(), 1 => Just("<<EOF".to_owned()), 1 => Just("3<<-EOF".to_owned()), 1 => Just("<<<EOF".to_owned())];
    (vec(flag, 0..3), any::<bool>(), vec(source, 1..4), 0..4_u8).prop_map(|(flags, dashes, sources, form)| {
        let mut seen = BTreeSet::new();
        let mut flags: Vec<_> = flags
            .into_iter()
            .filter(|flag| seen.insert(flag.split('=').next().unwrap().to_owned()))
            .collect();
        if dashes {
            flags.push("--".into());
        }
        let flags = flags.join(if form == 1 { " \\\n  # comment\n  " } else { " " });
        let heredoc = if sources.iter().any(|source| source.contains("<<") && !source.contains("<<<")) {
            "\nCOPY no /\nEOF"
                .repeat(sources.iter().filter(|s| s.contains("<<") && !s.contains("<<<")).count())
        } else {
            String::new()
        };
        match form {
            0 => {
                let list: Vec<_> =
                    sources.iter().map(|source| serde_json::to_string(source).unwrap()).collect();
                format!("COPY {flags} [{}, \"/t/\"]", list.join(", "))
            }
            _ => format!(
                "copy {flags} {} /t/{heredoc}",
                sources.join(if form == 2 { "  \\\n\t" } else { " " })
            ),
        }
    })
}

fn add() -> impl Strategy<Value = String> {
    let source = prop_oneof![3 => path(), 1 => Just("https://h/$A".to_owned())];
    vec(source, 1..3).prop_map(|sources| format!("ADD {} /t/", sources.join(" ")))
}

fn mount() -> impl Strategy<Value = String> {
    let field = prop_oneof![
        select(vec!["type=bind", "type=BIND", "type=cache", "type=$T", "type=tmpfs"]).prop_map(String::from),
        from().prop_map(|from| format!("from={from}")),
        (select(vec!["source", "src", "Source"]), path()).prop_map(|(key, path)| format!("{key}={path}")),
        Just("rw".to_owned()),
        Just("\\\"source=x,y\\\"".to_owned()),
    ];
    (vec(field, 0..4), any::<bool>()).prop_map(|(fields, quoted)| {
        let fields = [vec!["target=/m".to_owned()], fields].concat().join(",");
        if quoted && !fields.contains(['"', '\'']) {
            format!("--mount=\"{fields}\"")
        } else {
            format!("--mount={fields}")
        }
    })
}

fn run() -> impl Strategy<Value = String> {
    (vec(mount(), 0..3), any::<bool>()).prop_map(|(mounts, heredoc)| {
        let command = if heredoc { "<<EOF\nCOPY no /\n--mount=source=no\nEOF" } else { "true" };
        format!("RUN {} {command}", mounts.join(" "))
    })
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => copy(),
        1 => add(),
        3 => run(),
        2 => (name(), value()).prop_map(|(name, value)| format!("ARG {name}={value}")),
        1 => name().prop_map(|name| format!("ARG {name}")),
        2 => (name(), value()).prop_map(|(name, value)| format!("ENV {name}={value}")),
        1 => (name(), value()).prop_map(|(name, value)| format!("ENV {name} {value}")),
        1 => (name(), value(), name(), value()).prop_map(|(a, x, b, y)| format!("ENV {a}={x} {b}={y}")),
        1 => prop_oneof![copy(), run()].prop_map(|line| format!("ONBUILD {line}")),
        1 => (name(), value()).prop_map(|(name, value)| format!("ONBUILD ENV {name}={value}")),
    ]
}

/// A file: what stands at its top, ARGs before the first FROM, and stages with the word that each stands on.
fn file(bases: &'static [&'static str]) -> impl Strategy<Value = String> {
    let top = select(vec![
        "",
        "# escape=`\n",
        "# escape=\\\n",
        "# a=b\n# escape=`\n",
        "# syntax=docker/dockerfile:1\n",
        "\u{feff}",
    ]);
    let stage = (select(bases.to_vec()), 0..4_usize, vec(line(), 0..9));
    (top, vec((name(), value()), 0..3), vec(stage, 1..4)).prop_map(|(top, args, stages)| {
        let mut text = top.to_owned();
        for (name, value) in args {
            text.push_str(&format!("ARG {name}={value}\n"));
        }
        for (number, (base, below, lines)) in stages.into_iter().enumerate() {
            let base = if base.is_empty() && below < number {
                format!("S{below}")
            } else if base.is_empty() {
                "scratch".to_owned()
            } else {
                base.to_owned()
            };
            text.push_str(&format!("FROM {base} AS s{number}\n{}\n", lines.join("\n")));
        }
        text
    })
}

/// Every needed stage, on images of this configuration; `None` when a value makes something wrong.
fn evaluated(program: &Program, image: &ImageConfig) -> Option<BTreeMap<usize, Stage>> {
    let scratch = ImageConfig::scratch("linux/amd64");
    let bases = program.bases();
    let mut stages: BTreeMap<usize, Stage> = BTreeMap::new();
    for number in program.needed() {
        let below = match bases[number] {
            Base::Scratch => Below::Image(&scratch),
            Base::Stage(below) => Below::Stage(stages.get(&below)?),
            Base::Image(_) => Below::Image(image),
        };
        let stage = program.stage(number, below).ok()?;
        stages.insert(number, stage);
    }
    Some(stages)
}

/// What is read of the context: each path without `.` and `..`, empty for all of it, and whether it is mounted.
fn reads(stages: &BTreeMap<usize, Stage>) -> BTreeSet<(String, bool)> {
    let mut read = BTreeSet::new();
    for step in stages.values().flat_map(|stage| &stage.steps) {
        match &step.action {
            Some(Action::Copy(copy)) if copy.from == From::Context => {
                read.extend(copy.sources.iter().filter_map(|source| match source {
                    CopySource::Path(path) => Some((plain(path), false)),
                    CopySource::Inline { .. } | CopySource::Url { .. } => None,
                }));
            }
            Some(Action::Run(run)) => read.extend(run.mounts.iter().filter_map(|mount| match &mount.kind {
                MountKind::Bind { from: From::Context, source, .. } => Some((plain(source), true)),
                _ => None,
            })),
            _ => {}
        }
    }
    read
}

fn plain(path: &str) -> String {
    super::super::golang::join("/", path)[1..].to_owned()
}

fn hashed(sources: &[ContextSource]) -> BTreeSet<(String, bool)> {
    sources.iter().map(|source| (plain(&source.pattern), source.is_mount)).collect()
}

/// Images that the steps stand on and take from.
fn images(program: &Program, stages: &BTreeMap<usize, Stage>) -> BTreeSet<String> {
    let bases = program.bases();
    let below = stages.keys().filter_map(|number| match &bases[*number] {
        Base::Image(name) => Some(name.clone()),
        Base::Scratch | Base::Stage(_) => None,
    });
    let taken = stages.values().flat_map(Stage::sources).filter_map(|from| match from {
        From::Image(name) => Some(name.clone()),
        From::Stage(_) | From::Context => None,
    });
    below.chain(taken).filter(|name| name != "scratch").collect()
}

fn check(text: &str, image: &ImageConfig, is_known: bool) -> Result<(), TestCaseError> {
    let args = args();
    let Ok(program) = Program::new(text, &args, "linux/amd64") else {
        return Ok(());
    };
    let file = Dockerfile::parse(text);
    prop_assert!(file.is_ok(), "what can be carried out can be read: {:?}\n{}", file, text);
    let file = file.unwrap();
    let Some(stages) = evaluated(&program, image) else {
        return Ok(());
    };
    let (read, hashed) = (reads(&stages), hashed(&file.context_sources(&args)));
    for found in &read {
        let is_all = hashed.iter().any(|(path, _)| path.is_empty());
        prop_assert!(is_all || hashed.contains(found), "{found:?} is read, and hashed is {hashed:?}\n{text}");
    }
    let references = file.references(&args);
    let edges: BTreeSet<String> = references.iter().map(|reference| reference.image.clone()).collect();
    let used = images(&program, &stages);
    prop_assert!(used.is_subset(&edges), "{used:?} are used, and hashed are {edges:?}\n{text}");
    let last = *stages.keys().next_back().unwrap();
    let mut base = &program.bases()[last];
    let bases = program.bases();
    while let Base::Stage(below) = base {
        base = &bases[*below];
    }
    let name = match base {
        Base::Image(name) => Some(name.clone()),
        _ => None,
    };
    prop_assert_eq!(file.base(&args), name, "{}", text);
    let is_known = is_known && !bases.iter().any(|base| matches!(base, Base::Image(_)));
    if is_known && stages.len() == bases.len() {
        prop_assert_eq!(&read, &hashed, "{}", text);
        let of_children = |name: &String| {
            let is_it = |reference: &&crate::Reference| reference.image == *name;
            references.iter().filter(is_it).all(|reference| reference.kind != EdgeKind::From)
                && text.contains("ONBUILD")
        };
        let more: Vec<_> = edges.difference(&used).filter(|name| !of_children(name)).collect();
        prop_assert!(more.is_empty(), "{more:?} are hashed, and not used\n{text}");
    }
    Ok(())
}

fn check_targets(text: &str, image: &ImageConfig, is_known: bool) -> Result<(), TestCaseError> {
    let Ok(file) = Dockerfile::parse(text) else { return Ok(()) };
    check(text, image, is_known)?;
    for target in 0..file.stage_names().len() {
        let reduced = file.reduced(text, &target.to_string(), &args()).unwrap();
        check(&reduced.text, image, is_known)?;
        check(&reduced.canonical, image, is_known)?;
        // The same is carried out as in the whole file up to the target.
        let mut froms = file.instructions().iter().filter(|instruction| instruction.keyword() == "FROM");
        let next = froms.nth(target + 1);
        let upto = next.map_or(text.len(), |from| from.span().offset as usize);
        let (whole, reduced) = (
            Program::new(&text[..upto], &args(), "linux/amd64"),
            Program::new(&reduced.text, &args(), "linux/amd64"),
        );
        if let (Ok(whole), Ok(reduced)) = (whole, reduced)
            && let (Some(whole), Some(reduced)) = (evaluated(&whole, image), evaluated(&reduced, image))
        {
            prop_assert_eq!(reads(&whole), reads(&reduced), "{}", text);
        }
    }
    Ok(())
}

/// An image that may say something of every variable.
fn image() -> impl Strategy<Value = ImageConfig> {
    let variable = (name(), select(vec!["", "a", "b/c", "of image"]));
    vec(variable, 0..4).prop_map(|variables| {
        let mut config = ImageConfig::scratch("linux/amd64");
        config.config.env = variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        config
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_read_is_hashed_whatever_the_images_below_say(text in file(&["", "", "img:1", "img:$A", "scratch"]), image in image()) {
        check_targets(&text, &image, false)?;
    }

    #[test]
    fn no_more_is_hashed_than_is_read_where_every_variable_is_known(text in file(&["", "scratch"])) {
        check_targets(&text, &ImageConfig::scratch("linux/amd64"), true)?;
    }
}
