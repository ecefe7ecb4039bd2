//! What holds for any text, and for any Dockerfile that is put together by the reference.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;

use super::super::shell::{Rules, Value, word};
use super::super::{Action, From, Program};
use super::{image, stages_on};
use crate::Dockerfile;

/// Reads a text and evaluates it: nothing panics, problems lie on characters, and what evaluates is as it should be.
fn read_and_evaluate(text: &str) -> Result<(), TestCaseError> {
    match Program::new(text, &BTreeMap::new(), "linux/amd64") {
        Err(problems) => {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                let (start, len) = (problem.span.offset as usize, problem.span.len as usize);
                prop_assert!(text.get(start..start + len).is_some(), "{problem:?}");
            }
        }
        Ok(program) => {
            // What is wrong with the values of an image is told now.
            let Ok(stage) = program.stage(program.needed()[0], super::Below::Image(&image())) else {
                return Ok(());
            };
            for step in &stage.steps {
                prop_assert!(step.number <= step.total);
                match &step.action {
                    Some(Action::Copy(copy)) => {
                        prop_assert!(copy.target.starts_with('/'));
                        prop_assert!(copy.sources.len() == 1 || copy.target.ends_with('/'));
                    }
                    Some(Action::Run(run)) => {
                        prop_assert!(run.workdir.starts_with('/') && !run.argv.is_empty());
                    }
                    Some(Action::Workdir { path, .. }) => prop_assert!(path.starts_with('/')),
                    None => {}
                }
            }
        }
    }
    Ok(())
}

/// A piece of a word, and what it is worth when `SET` is `value`, `EMPTY` is empty and `GONE` is not set.
#[derive(Debug, Clone)]
enum Piece {
    Plain(String),
    Single(String),
    Double(Vec<Piece>),
    Escaped(char),
    Variable(&'static str, bool),
    Conditional(&'static str, bool, char, Vec<Piece>),
}

fn value_of(name: &str) -> Option<&'static str> {
    match name {
        "SET" => Some("value  $SET"),
        "EMPTY" => Some(""),
        _ => None,
    }
}

impl Piece {
    fn text(&self) -> String {
        let all = |pieces: &[Piece]| pieces.iter().map(Piece::text).collect::<String>();
        match self {
            Self::Plain(text) => text.clone(),
            Self::Single(text) => format!("'{text}'"),
            Self::Double(pieces) => format!("\"{}\"", all(pieces)),
            Self::Escaped(c) => format!("\\{c}"),
            Self::Variable(name, true) => format!("${{{name}}}"),
            Self::Variable(name, false) => format!("${name}"),
            Self::Conditional(name, colon, operator, pieces) => {
                format!("${{{name}{}{operator}{}}}", if *colon { ":" } else { "" }, all(pieces))
            }
        }
    }

    /// The reference's rules, stated again.
    fn value(&self) -> String {
        let all = |pieces: &[Piece]| pieces.iter().map(Piece::value).collect::<String>();
        match self {
            Self::Plain(text) | Self::Single(text) => text.clone(),
            Self::Double(pieces) => all(pieces),
            Self::Escaped(c) => c.to_string(),
            Self::Variable(name, _) => value_of(name).unwrap_or_default().to_owned(),
            Self::Conditional(name, colon, operator, pieces) => {
                let value = value_of(name).filter(|value| !(*colon && value.is_empty()));
                match (operator, value) {
                    ('-', Some(value)) => value.to_owned(),
                    ('-', None) | ('+', Some(_)) => all(pieces),
                    _ => String::new(),
                }
            }
        }
    }
}

fn name() -> impl Strategy<Value = &'static str> {
    select(vec!["SET", "EMPTY", "GONE"])
}

/// Plain text begins with a character that ends a name, so that `$SET` before it stays what it is.
fn piece() -> impl Strategy<Value = Piece> {
    let leaf = prop_oneof![
        "[ .:/=€-][a-z0-9 .:/=é_-]{0,5}".prop_map(Piece::Plain),
        (name(), any::<bool>()).prop_map(|(name, braces)| Piece::Variable(name, braces)),
        select(vec!['$', '"', '\\']).prop_map(Piece::Escaped),
    ];
    let outside = prop_oneof![
        3 => leaf.clone(),
        1 => "[a-z $\"{}\\\\é]{0,6}".prop_map(Piece::Single),
        1 => proptest::collection::vec(leaf, 0..4).prop_map(Piece::Double),
        1 => select(vec!['\'', '}', 'x', ' ']).prop_map(Piece::Escaped),
    ];
    outside.prop_recursive(3, 12, 3, |inner| {
        (name(), any::<bool>(), select(vec!['-', '+']), proptest::collection::vec(inner, 0..3))
            .prop_map(|(name, colon, operator, pieces)| Piece::Conditional(name, colon, operator, pieces))
    })
}

/// A path without characters that mean something.
fn path() -> impl Strategy<Value = String> {
    "/?[a-z]{1,3}(/[a-z.]{1,3}){0,2}/?"
}

/// An instruction that is right in any stage but the first, which is called `base`.
fn instruction() -> impl Strategy<Value = String> {
    let value = "[a-zA-Z0-9./]{0,8}";
    let pairs = proptest::collection::vec(("[A-Z]{1,3}", value, any::<bool>()), 1..4).prop_map(|pairs| {
        let pair = |(name, value, quoted): &(String, String, bool)| match quoted {
            true => format!("{name}=\"{value} ${{{name}:-$A}}\""),
            false => format!("{name}={value}"),
        };
        pairs.iter().map(pair).collect::<Vec<_>>().join(" \\\n  # comment\n  ")
    });
    let copy_flags = proptest::collection::vec(
        select(vec!["--chown=1:2", "--chmod=0644", "--link", "--from=base", "--exclude=*.o", "--exclude=x"]),
        0..4,
    )
    .prop_map(|flags| {
        let mut seen = BTreeSet::new();
        let once = flags.into_iter().filter(|flag| flag.starts_with("--exclude") || seen.insert(*flag));
        once.map(|flag| format!("{flag} ")).collect::<String>()
    });
    let mount = select(vec![
        "",
        "--mount=target=/m ",
        "--mount=type=cache,target=/c,sharing=locked ",
        "--mount=type=tmpfs,size=1m,target=t ",
        "--mount=type=secret,id=s,required ",
        "--mount=from=base,source=x,target=/b,rw --network=none ",
    ]);
    prop_oneof![
        pairs.clone().prop_map(|pairs| format!("ENV {pairs}")),
        pairs.clone().prop_map(|pairs| format!("ARG {pairs}")),
        pairs.prop_map(|pairs| format!("label {pairs}")),
        (mount, "[a-z $'&|;]{1,12}x").prop_map(|(mount, line)| format!("RUN {mount}{}", line.trim())),
        (mount_free_heredoc(), any::<bool>()).prop_map(|(body, quoted)| if quoted {
            format!("RUN <<'EOF'\n{body}EOF")
        } else {
            format!("COPY <<EOF <<-two /d/\n{body}EOF\n\t{body}two")
        }),
        (copy_flags, proptest::collection::vec(path(), 1..4), path())
            .prop_map(|(flags, sources, target)| format!("COPY {flags}{} {target}", sources.join(" "))),
        (path(), path()).prop_map(|(source, target)| format!("ADD [\"{source}\", \"{target}\"]")),
        path().prop_map(|path| format!("WORKDIR {path}")),
        "[a-z]{1,4}(:[0-9]{1,3})?".prop_map(|user| format!("USER {user}")),
        (1..65000_u16, 0..9_u16).prop_map(|(from, more)| format!("EXPOSE {from}-{}/udp {from}", from + more)),
        path().prop_map(|path| format!("VOLUME {path}")),
        "[a-z ]{0,8}x".prop_map(|line| format!("CMD {}", line.trim())),
        "[a-z]{1,8}".prop_map(|word| format!("ENTRYPOINT [\"{word}\"]")),
        Just("SHELL [\"/bin/sh\", \"-ec\"]".to_owned()),
        Just("STOPSIGNAL SIGTERM".to_owned()),
        Just("HEALTHCHECK --interval=1s CMD x".to_owned()),
        path().prop_map(|path| format!("ONBUILD COPY --from=base {path} /x")),
    ]
}

fn mount_free_heredoc() -> impl Strategy<Value = String> {
    "([a-z $#]{0,8}\n){0,3}"
}

#[test]
fn a_name_goes_on_with_letters_of_any_alphabet() {
    let lookup = |name: &str| Value::Set(format!("[{name}]"));
    let value = |text: &str| word(text, Rules::new('\\'), &lookup).unwrap();
    assert_eq!(value("$SETé"), "[SETé]");
    assert_eq!(value("$SET€"), "[SET]€");
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(?s).{0,200}") {
        read_and_evaluate(&text)?;
    }

    #[test]
    fn text_like_dockerfiles_is_read_or_refused(parts in proptest::collection::vec(select(vec![
        "FROM scratch\n", "FROM a AS b\n", "COPY ", "ADD ", "RUN ", "ARG ", "ENV ", "LABEL ", "WORKDIR ", "EXPOSE ", "HEALTHCHECK ", "ONBUILD ", "CMD ", "USER ",
        "--from=", "--mount=", "--chmod=", "--checksum=", "--interval=", "type=bind,", "type=cache,", "target=", "source=", "env=", "\\\n", "\n", "<<EOF", "<<-", "EOF\n", "$", "${", "}", ":-", "#", "%", "/", "//", "*", "?",
        "\"", "'", "[", "]", "x", "A", "=", " ", "\t", "# escape=`\n", "`", "\\", "é", ",", "0", "80", "https://", "git@a:b", "\r\n",
    ]), 0..40)) {
        read_and_evaluate(&parts.concat())?;
        read_and_evaluate(&format!("FROM scratch\n{}", parts.concat()))?;
    }

    #[test]
    fn words_are_worth_what_the_reference_says(pieces in proptest::collection::vec(piece(), 0..5)) {
        let text: String = pieces.iter().map(Piece::text).collect();
        let expected: String = pieces.iter().map(Piece::value).collect();
        let lookup = |name: &str| value_of(name).map_or(Value::Unset, |value| Value::Set(value.into()));
        prop_assert_eq!(word(&text, Rules::new('\\'), &lookup), Ok(expected), "{}", text);
    }

    #[test]
    fn what_is_put_together_by_the_reference_evaluates(
        first in proptest::collection::vec(instruction().prop_filter("base", |line| !line.contains("base") && !line.contains("--from")), 0..6),
        rest in proptest::collection::vec(proptest::collection::vec(instruction(), 0..8), 1..4),
        bases in proptest::collection::vec(select(vec!["img", "base", "scratch", "s0"]), 4),
    ) {
        let mut text = format!("ARG V=img\nFROM $V:1 AS base\n{}\n", first.join("\n"));
        for (number, lines) in rest.iter().enumerate() {
            let base = if number == 0 && bases[number] == "s0" { "base" } else { bases[number] };
            text.push_str(&format!("FROM {base} AS s{number}\n{}\n", lines.join("\n")));
        }
        let program = Program::new(&text, &BTreeMap::new(), "linux/amd64");
        prop_assert!(program.is_ok(), "{}\n{:?}", text, program.err());
        let program = program.unwrap();
        let stages = stages_on(&program, &image());
        // The same twice.
        prop_assert_eq!(&stages, &stages_on(&program, &image()));

        // The other reader finds what this one needs.
        let others: BTreeSet<String> = Dockerfile::parse(&text).unwrap().references(&BTreeMap::new()).into_iter()
            .map(|reference| reference.image).collect();
        for image in program.images() {
            prop_assert!(others.contains(&image), "{image} of\n{text}");
        }
        // Every step takes from the context, from what is needed, or from an image that is told.
        let needed = program.needed();
        for (number, stage) in &stages {
            for from in stage.sources() {
                match from {
                    From::Stage(source) => prop_assert!(source < number && needed.contains(source)),
                    From::Image(name) => prop_assert!(program.images().contains(name)),
                    From::Context => prop_assert!(false),
                }
            }
            let counted: Vec<usize> = stage.steps.iter().map(|step| step.number).filter(|n| *n > 0).collect();
            prop_assert!(counted.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        }
    }
}
