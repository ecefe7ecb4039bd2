//! Functions of bake files (those of go-cty and bake itself) that make names, lists and maps.

use serde_json::{Map, Value};

use super::hcl::{MAX_VALUE, text, too_large, truth};

/// A number, whole where it is.
pub(super) fn number(value: f64) -> Value {
    #[allow(clippy::cast_possible_truncation, reason = "it is whole and small")]
    if value.fract() == 0.0 && value.abs() < 1e15 { (value as i64).into() } else { value.into() }
}

/// Whether two values are the same; numbers and texts of the same look are.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    a == b
        || matches!((text(a), text(b)), (Ok(a_text), Ok(b_text)) if a_text == b_text && !a.is_null() && !b.is_null())
}

fn list(value: &Value) -> Result<Vec<Value>, String> {
    match value {
        Value::Array(items) => Ok(items.clone()),
        Value::Object(map) => Ok(map.values().cloned().collect()),
        _ => Err("a list is expected".into()),
    }
}

/// The letters, digits, `_` and `-` of a target's name; others become `_`.
pub(super) fn sanitize(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' }).collect()
}

/// What a function is called with.
struct Arguments<'a> {
    function: &'a str,
    values: &'a [Value],
}

impl Arguments<'_> {
    fn at(&self, n: usize) -> Result<&Value, String> {
        self.values.get(n).ok_or_else(|| format!("{} lacks an argument", self.function))
    }

    fn text(&self, n: usize) -> Result<String, String> {
        text(self.at(n)?)
    }

    fn list(&self, n: usize) -> Result<Vec<Value>, String> {
        list(self.at(n)?)
    }

    fn truth(&self, n: usize) -> Result<bool, String> {
        truth(self.at(n)?)
    }

    fn float(&self, n: usize) -> Result<f64, String> {
        let value = self.at(n)?;
        value.as_f64().or_else(|| value.as_str()?.parse().ok()).ok_or_else(|| "a number is expected".into())
    }

    fn place(&self, n: usize) -> Option<usize> {
        self.values.get(n)?.as_u64().and_then(|n| usize::try_from(n).ok())
    }
}

/// Calls a function of bake.
pub(super) fn call(name: &str, values: &[Value]) -> Result<Value, String> {
    let arguments = Arguments { function: name, values };
    for of_kind in [of_texts, of_lists, of_maps, of_truth] {
        if let Some(result) = of_kind(&arguments)? {
            return Ok(result);
        }
    }
    match name {
        "timestamp" | "formatdate" | "timeadd" | "uuidv4" => {
            Err(format!("{name} is something else each time, which no manifest can say"))
        }
        other => Err(format!("the function {other} is not known here")),
    }
}

/// The result of a function, or `None` when it is one of another kind.
type Called = Result<Option<Value>, String>;

fn of_texts(arguments: &Arguments) -> Called {
    let word = |n| arguments.text(n);
    Ok(Some(match arguments.function {
        "lower" => word(0)?.to_lowercase().into(),
        "upper" => word(0)?.to_uppercase().into(),
        "trim" => word(0)?.trim_matches(word(1)?.chars().collect::<Vec<_>>().as_slice()).into(),
        "trimspace" => word(0)?.trim().into(),
        "trimprefix" => {
            let (whole, prefix) = (word(0)?, word(1)?);
            whole.strip_prefix(prefix.as_str()).unwrap_or(&whole).into()
        }
        "trimsuffix" => {
            let (whole, suffix) = (word(0)?, word(1)?);
            whole.strip_suffix(suffix.as_str()).unwrap_or(&whole).into()
        }
        "replace" => {
            let (whole, from, to) = (word(0)?, word(1)?, word(2)?);
            bounded(whole.len(), whole.matches(&from).count(), to.len())?;
            whole.replace(&from, &to).into()
        }
        "regex_replace" | "regexreplace" => regex_replace(&word(0)?, &word(1)?, &word(2)?)?.into(),
        "sanitize" => sanitize(&word(0)?).into(),
        "split" => {
            let (separator, whole) = (word(0)?, word(1)?);
            whole.split(separator.as_str()).map(Value::from).collect::<Vec<_>>().into()
        }
        "join" => join(&word(0)?, &arguments.values[1..])?.into(),
        "format" => format(&word(0)?, &arguments.values[1..])?.into(),
        "strlen" => word(0)?.chars().count().into(),
        "substr" => {
            let from = arguments.place(1).ok_or("substr takes a place")?;
            let len = arguments.place(2).unwrap_or(usize::MAX);
            word(0)?.chars().skip(from).take(len).collect::<String>().into()
        }
        "tostring" => word(0)?.into(),
        "jsonencode" => serde_json::to_string(arguments.at(0)?).map_err(|error| error.to_string())?.into(),
        "basename" => word(0)?.rsplit('/').next().unwrap_or_default().into(),
        "dirname" => word(0)?.rsplit_once('/').map_or(".", |(folder, _)| folder).to_owned().into(),
        _ => return Ok(None),
    }))
}

/// Refuses a text of `base` bytes and `count` times `each`, before it is made, when it is larger than a value may be.
fn bounded(base: usize, count: usize, each: usize) -> Result<(), String> {
    let len = count.saturating_mul(each).saturating_add(base);
    if len > MAX_VALUE { Err(too_large()) } else { Ok(()) }
}

fn regex_replace(whole: &str, expression: &str, with: &str) -> Result<String, String> {
    let expression = regex::Regex::new(expression).map_err(|error| error.to_string())?;
    // A group that is named in the replacement is at most the whole text.
    let each = with.matches('$').count().saturating_mul(whole.len()).saturating_add(with.len());
    bounded(whole.len(), expression.find_iter(whole).count(), each)?;
    Ok(expression.replace_all(whole, with).into_owned())
}

fn join(separator: &str, lists: &[Value]) -> Result<String, String> {
    let mut all = Vec::new();
    for value in lists {
        all.extend(list(value)?.iter().map(text).collect::<Result<Vec<_>, _>>()?);
    }
    bounded(all.iter().map(String::len).sum(), all.len(), separator.len())?;
    Ok(all.join(separator))
}

fn of_lists(arguments: &Arguments) -> Called {
    Ok(Some(match arguments.function {
        "concat" => arguments.values.iter().map(list).collect::<Result<Vec<_>, _>>()?.concat().into(),
        "flatten" => flatten(&arguments.list(0)?).into(),
        "compact" => {
            arguments.list(0)?.into_iter().filter(|item| text(item).is_ok_and(|t| !t.is_empty())).collect()
        }
        "distinct" | "toset" => {
            let mut found: Vec<Value> = Vec::new();
            for item in arguments.list(0)? {
                if !found.contains(&item) {
                    found.push(item);
                }
            }
            found.into()
        }
        "reverse" | "reverselist" => arguments.list(0)?.into_iter().rev().collect(),
        "element" => {
            let items = arguments.list(0)?;
            let at = arguments.place(1).unwrap_or(0) % items.len().max(1);
            items.get(at).cloned().ok_or("a list is empty")?
        }
        "length" => match arguments.at(0)? {
            Value::String(text) => text.chars().count().into(),
            other => list(other)?.len().into(),
        },
        "contains" => {
            let wanted = arguments.at(1)?;
            arguments.list(0)?.iter().any(|item| equal(item, wanted)).into()
        }
        "values" => arguments.list(0)?.into(),
        "coalesce" => {
            let says = |value: &&Value| !value.is_null() && value.as_str() != Some("");
            arguments.values.iter().find(says).cloned().ok_or("coalesce finds nothing")?
        }
        _ => return Ok(None),
    }))
}

fn of_maps(arguments: &Arguments) -> Called {
    Ok(Some(match arguments.function {
        "keys" => {
            let map = arguments.at(0)?.as_object().ok_or("a map is expected")?;
            map.keys().cloned().map(Value::from).collect()
        }
        "lookup" => match arguments.at(0)?.get(arguments.text(1)?) {
            Some(found) => found.clone(),
            None => arguments.at(2)?.clone(),
        },
        "hasindex" => match arguments.at(1)? {
            Value::Number(_) => {
                let is_in = |list: Vec<Value>| arguments.place(1).is_some_and(|n| n < list.len());
                arguments.list(0).is_ok_and(is_in).into()
            }
            key => arguments.at(0)?.get(text(key)?).is_some().into(),
        },
        "merge" => {
            let mut all = Map::new();
            for map in arguments.values {
                all.extend(map.as_object().ok_or("a map is expected")?.clone());
            }
            all.into()
        }
        _ => return Ok(None),
    }))
}

fn of_truth(arguments: &Arguments) -> Called {
    Ok(Some(match arguments.function {
        "equal" => equal(arguments.at(0)?, arguments.at(1)?).into(),
        "notequal" => (!equal(arguments.at(0)?, arguments.at(1)?)).into(),
        "not" => (!arguments.truth(0)?).into(),
        "and" => (arguments.truth(0)? && arguments.truth(1)?).into(),
        "or" => (arguments.truth(0)? || arguments.truth(1)?).into(),
        "add" => number(arguments.float(0)? + arguments.float(1)?),
        "subtract" => number(arguments.float(0)? - arguments.float(1)?),
        _ => return Ok(None),
    }))
}

fn flatten(items: &[Value]) -> Vec<Value> {
    let inner = |item: &Value| match item {
        Value::Array(inner) => flatten(inner),
        other => vec![other.clone()],
    };
    items.iter().flat_map(inner).collect()
}

/// `%s`, `%d`, `%v` and `%%`.
fn format(pattern: &str, arguments: &[Value]) -> Result<String, String> {
    let (mut out, mut chars, mut arguments) = (String::new(), pattern.chars(), arguments.iter());
    while let Some(c) = chars.next() {
        match (c, if c == '%' { chars.next() } else { None }) {
            ('%', Some('%')) => out.push('%'),
            ('%', Some('s' | 'd' | 'v')) => {
                out.push_str(&text(arguments.next().ok_or("format lacks an argument")?)?);
            }
            ('%', _) => return Err(format!("the format {pattern} is not known here")),
            (c, _) => out.push(c),
        }
    }
    Ok(out)
}
