//! minijinja, set up for Dockerfiles: strict, no escaping, and no file outside the image's folder and `templates/`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use camino::Utf8Path;
use imgforge_syntax::{Span, nearest};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};

use super::values::escape_word;
use super::{Origin, template_problem};
use crate::diagnostic::{Problem, Problems, SourceFile};
use crate::source::{Kind, Source, clean};
use crate::template::{FUEL, bounded, describe, syntax};
use crate::workspace::Image;

/// The name of the built-in template.
pub(super) const BUILT_IN: &str = "Dockerfile.j2";

const BUILT_IN_TEXT: &str = include_str!("../../../../templates/Dockerfile.j2");

/// Templates that several images share lie here, relative to the workspace root.
const SHARED: &str = "templates";

/// Frames a mark `offset,len` at the start of a line.
const OPEN: char = '\u{1}';
const CLOSE: char = '\u{2}';

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_syntax(syntax());
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.add_filter("word", |text: &str| word(text));
    env.add_filter("literal", |text: &str| escape_word(text));
    env.add_filter("json", |value: Value| json(&value));
    env.add_function("at", |value: Value| value.get_attr("at").unwrap_or_default());
    env.set_fuel(Some(FUEL));
    env.add_template(BUILT_IN, BUILT_IN_TEXT).expect("the built-in template is one");
    env
});

/// A value as the mark that `at(...)` leaves in the text.
pub(super) fn mark(span: Span) -> String {
    format!("{OPEN}{},{}{CLOSE}", span.offset, span.len)
}

/// Takes the marks out of a rendered text.
pub(super) fn take_marks(marked: &str) -> (String, Vec<Origin>) {
    let mut text = String::with_capacity(marked.len());
    let mut origins = Vec::new();
    for (line, mut rest) in marked.split_inclusive('\n').enumerate() {
        while let Some((span, after)) = marked_at(rest) {
            origins.push(Origin { line, span });
            rest = after;
        }
        text.push_str(rest);
    }
    (text, origins)
}

fn marked_at(line: &str) -> Option<(Span, &str)> {
    let (mark, rest) = line.strip_prefix(OPEN)?.split_once(CLOSE)?;
    let (offset, len) = mark.split_once(',')?;
    Some((Span { offset: offset.parse().ok()?, len: len.parse().ok()? }, rest))
}

/// Renders the image's own template, or the built-in one.
pub(super) fn render(image: &Image, source: &dyn Source, values: &Value) -> Result<String, Problems> {
    let Some(own) = &image.manifest.template else {
        let template = ENVIRONMENT.get_template(BUILT_IN).expect("added above");
        let rendered = bounded(&template, values);
        return rendered.map_err(|error| problem(image, Utf8Path::new(BUILT_IN), &error).into());
    };
    let mut env = ENVIRONMENT.clone();
    let mut wanted = vec![own.value.to_string()];
    let mut problems = Problems::default();
    let mut texts = BTreeMap::from([(BUILT_IN.to_owned(), BUILT_IN_TEXT.to_owned())]);
    // minijinja's own loader would have to own the source: the few templates of one image are read here instead.
    while let Some(name) = wanted.pop() {
        if name == BUILT_IN || env.get_template(&name).is_ok() {
            continue;
        }
        match read(image, source, &name) {
            Ok(text) => {
                wanted.extend(named_in(&text));
                if let Err(error) = env.add_template_owned(name.clone(), text.clone()) {
                    problems.push(located(image, source, &name, &error));
                }
                texts.insert(name, text);
            }
            Err(message) => {
                let problem = template_problem(image, Utf8Path::new(&name), message);
                let near = nearest(&name, [BUILT_IN]).map(|near| format!("did you mean \"{near}\"?"));
                problems.push(near.into_iter().fold(problem, Problem::help));
            }
        }
    }
    if problems.is_empty() {
        problems.extend(check_blocks(image, source, &texts));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let rendered = env.get_template(own.value.as_str()).and_then(|template| bounded(&template, values));
    rendered.map_err(|error| {
        let name = error.name().unwrap_or(own.value.as_str()).to_owned();
        located(image, source, &name, &error).into()
    })
}

/// A block that no template above has is never rendered, which looks as if it were not there: most likely its name is
/// not what was meant.
fn check_blocks(image: &Image, source: &dyn Source, texts: &BTreeMap<String, String>) -> Problems {
    let mut problems = Problems::default();
    for (name, text) in texts {
        let mut known: BTreeSet<&str> = BTreeSet::new();
        let mut seen = BTreeSet::from([name.clone()]);
        let mut above = extended_by(text);
        while let Some(text) = above.and_then(|name| texts.get(&name).filter(|_| seen.insert(name.clone()))) {
            known.extend(blocks_in(text).into_iter().map(|block| block.name));
            above = extended_by(text);
        }
        if extended_by(text).is_none() {
            continue;
        }
        for block in
            blocks_in(text).into_iter().filter(|block| !block.is_inner && !known.contains(block.name))
        {
            let Ok(path) = find(image, source, name) else { continue };
            let file = Arc::new(SourceFile { path, text: text.clone() });
            let message = format!("no template that this one extends has a block \"{}\"", block.name);
            let problem = Problem::at(&file, block.span, message, "never rendered");
            problems.push(match nearest(block.name, known.iter().copied()) {
                Some(near) => problem.help(format!("did you mean \"{near}\"?")),
                None => {
                    problem.help(format!("blocks: {}", known.iter().copied().collect::<Vec<_>>().join(", ")))
                }
            });
        }
    }
    problems
}

/// A `{% block NAME %}`.
struct Block<'t> {
    name: &'t str,
    span: Span,
    /// Whether it lies in another block of the same template, and so is rendered with that one.
    is_inner: bool,
}

fn blocks_in(text: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut depth = 0usize;
    for tag in tags(text) {
        let mut words = tag.split_whitespace();
        match (words.next(), words.next()) {
            (Some("block"), Some(name)) => {
                let offset = name.as_ptr() as usize - text.as_ptr() as usize;
                blocks.push(Block { name, span: Span::new(offset, name.len()), is_inner: depth > 0 });
                depth += 1;
            }
            (Some("endblock"), _) => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    blocks
}

/// What stands in each `{% %}`, without those in comments.
fn tags(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find("{%").into_iter().chain(rest.find("{#")).min()?;
            let is_tag = rest[start..].starts_with("{%");
            let end = if is_tag { "%}" } else { "#}" };
            let (inner, after) = rest[start + 2..].split_once(end)?;
            rest = after;
            if is_tag {
                return Some(inner.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim());
            }
        }
    })
}

/// The name in `{% extends "..." %}`.
fn extended_by(text: &str) -> Option<String> {
    tags(text).find_map(|tag| quoted(tag.strip_prefix("extends")?))
}

/// The names in `{% extends "..." %}`, `include` and `import`.
fn named_in(text: &str) -> Vec<String> {
    let words = ["extends", "include", "import", "from"];
    tags(text).filter_map(|tag| quoted(words.iter().find_map(|word| tag.strip_prefix(word))?)).collect()
}

/// The text in quotes at the start of `rest`.
fn quoted(rest: &str) -> Option<String> {
    let rest = rest.trim_start();
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    rest[1..].split_once(quote).map(|(name, _)| name.to_owned())
}

/// A template by name: in the image's folder, else in the workspace's `templates/`.
fn read(image: &Image, source: &dyn Source, name: &str) -> Result<String, String> {
    let place = find(image, source, name)?;
    let bytes = source.read(&place).map_err(|error| format!("{place}: {error}"))?;
    String::from_utf8(bytes).map_err(|_| format!("{place} is not UTF-8"))
}

fn find(image: &Image, source: &dyn Source, name: &str) -> Result<camino::Utf8PathBuf, String> {
    let path = clean(name)
        .filter(|_| !name.starts_with('/'))
        .ok_or_else(|| format!("the template \"{name}\" lies outside the image's folder and {SHARED}/"))?;
    let dir = image.manifest.file.dir();
    for folder in [dir, Utf8Path::new(SHARED)] {
        match source.kind(&folder.join(&path)) {
            Ok(Kind::File { .. }) => return Ok(folder.join(&path)),
            // A link could lead anywhere.
            Ok(_) => return Err(format!("the template {} is not a plain file", folder.join(&path))),
            Err(_) => {}
        }
    }
    Err(format!("there is no template \"{name}\" in {dir} or in {SHARED}/"))
}

fn located(image: &Image, source: &dyn Source, name: &str, error: &Error) -> Problem {
    let Ok(text) = read(image, source, name) else { return problem(image, Utf8Path::new(name), error) };
    let Ok(path) = find(image, source, name) else { return problem(image, Utf8Path::new(name), error) };
    let line = error.line().unwrap_or(1).saturating_sub(1);
    let lines = text.split_inclusive('\n');
    let offset: usize = lines.clone().take(line).map(str::len).sum();
    let len = lines.clone().nth(line).map_or(0, |line| line.trim_end().len());
    let file = Arc::new(SourceFile { path, text: text.clone() });
    let problem = Problem::at(&file, Span::new(offset, len), describe(error), "here");
    match error.kind() {
        ErrorKind::UndefinedError => problem.help("a template knows `image`; see docs/manifest.md, template"),
        _ => problem,
    }
}

fn problem(image: &Image, path: &Utf8Path, error: &Error) -> Problem {
    template_problem(image, path, describe(error))
}

/// A word in double quotes that BuildKit's shell lexer reads back as exactly `text`.
fn word(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        if matches!(c, '\\' | '"' | '$') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

/// A value as JSON on one line, with a space after each comma: the exec form.
fn json(value: &Value) -> Result<String, Error> {
    let json = serde_json::to_value(value).map_err(|error| {
        Error::new(ErrorKind::InvalidOperation, "no JSON can be made of it").with_source(error)
    })?;
    match json {
        serde_json::Value::Array(words) => Ok(exec_form(words.iter().map(ToString::to_string))),
        other => Ok(other.to_string()),
    }
}

/// `["a", "b"]` of words that are JSON already.
pub(super) fn exec_form(words: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", words.into_iter().collect::<Vec<_>>().join(", "))
}
