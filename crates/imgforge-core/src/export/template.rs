//! minijinja, set up for exports: strict, no escaping but by filters, and no file outside `templates/export/`.

use std::sync::{Arc, LazyLock};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_syntax::Span;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};

use super::quote;
use crate::diagnostic::{Problem, Problems, SourceFile};
use crate::source::{Kind, Source};
use crate::template::{FUEL, bounded, describe, syntax};
use crate::text;

/// A workspace's own templates lie here, by the names of the built-in ones.
const FOLDER: &str = "templates/export";

/// How a workspace's own template names the built-in one that it extends.
const BUILT_IN: &str = "built-in/";

const TEMPLATES: [(&str, &str); 7] = [
    ("compose.j2", include_str!("../../../../templates/export/compose.j2")),
    ("kubernetes.j2", include_str!("../../../../templates/export/kubernetes.j2")),
    ("marathon.j2", include_str!("../../../../templates/export/marathon.j2")),
    ("nomad.j2", include_str!("../../../../templates/export/nomad.j2")),
    ("procfile.j2", include_str!("../../../../templates/export/procfile.j2")),
    ("quadlet.j2", include_str!("../../../../templates/export/quadlet.j2")),
    ("quadlet-volume.j2", include_str!("../../../../templates/export/quadlet-volume.j2")),
];

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_syntax(syntax());
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_fuel(Some(FUEL));
    env.add_filter("yaml", |text: &str| quote::yaml(text));
    env.add_filter("compose", |text: &str| quote::compose(text));
    env.add_filter("hcl", |text: &str| quote::hcl(text));
    env.add_filter("unit_word", |text: &str| quote::unit_word(text));
    env.add_filter("unit_line", |text: &str| quote::unit_line(text));
    env.add_filter("comment", |text: &str| quote::comment(text));
    env.add_filter("sh", |text: &str| crate::services::quote(text));
    env.add_filter("unit_json", |value: Value| json_text(&value).map(|text| quote::unit_json(&text)));
    env.add_filter("json", |value: Value| json_text(&value));
    env.add_filter("decimal", |thousandths: u64| decimal(thousandths));
    for (name, text) in TEMPLATES {
        env.add_template_owned(format!("{BUILT_IN}{name}"), text).expect("the built-in templates are such");
    }
    env
});

/// JSON on one line.
fn json_text(value: &Value) -> Result<String, Error> {
    let json = serde_json::to_string(value).map_err(|error| {
        Error::new(ErrorKind::InvalidOperation, "no JSON can be made of it").with_source(error)
    })?;
    Ok(text::json(&json).into_owned())
}

/// `0.5` of 500.
fn decimal(thousandths: u64) -> String {
    let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Renders `name`: the workspace's own template of that name, else the built-in one.
///
/// # Errors
/// What is wrong with the workspace's template, with its line.
pub(super) fn render(name: &str, source: &dyn Source, values: &Value) -> Result<String, Problems> {
    let path = Utf8Path::new(FOLDER).join(name);
    let built_in = format!("{BUILT_IN}{name}");
    let text = match source.kind(&path) {
        Err(_) => {
            let template = ENVIRONMENT.get_template(&built_in).expect("added above");
            return bounded(&template, values).map_err(|error| Problem::new(describe(&error)).into());
        }
        Ok(Kind::File { .. }) => source
            .read(&path)
            .map_err(|error| error.to_string())
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())),
        // A link could lead anywhere.
        Ok(_) => Err("it is not a plain file".to_owned()),
    };
    let text = text.map_err(|error| Problem::new(format!("the template {path} cannot be read: {error}")))?;
    let mut env = ENVIRONMENT.clone();
    env.add_template_owned(name.to_owned(), text.clone())
        .map_err(|error| located(&path, &text, name, &error))?;
    let rendered = env.get_template(name).and_then(|template| bounded(&template, values));
    rendered.map_err(|error| located(&path, &text, name, &error).into())
}

fn located(path: &Utf8PathBuf, text: &str, name: &str, error: &Error) -> Problem {
    let line = if error.name() == Some(name) { error.line().unwrap_or(1).saturating_sub(1) } else { 0 };
    let lines = text.split_inclusive('\n');
    let offset: usize = lines.clone().take(line).map(str::len).sum();
    let len = lines.clone().nth(line).map_or(0, |line| line.trim_end().len());
    let file = Arc::new(SourceFile { path: path.clone(), text: text.to_owned() });
    let problem = Problem::at(&file, Span::new(offset, len), describe(error), "here");
    problem.help(format!(
        "it can extend the built-in one: {{% extends \"{BUILT_IN}{name}\" %}}; see docs/export.md"
    ))
}
