//! Functions of bake files (those of go-cty and bake itself) that make names, lists and maps.

use serde_json::{Map, Value};

use super::hcl::{text, truth};

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

/// Calls a function of bake.
pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let at = |n: usize| arguments.get(n).ok_or_else(|| format!("{name} lacks an argument"));
    let word = |n: usize| at(n).and_then(text);
    let words = |value: &Value| list(value)?.iter().map(text).collect::<Result<Vec<_>, _>>();
    Ok(match name {
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
        "replace" => word(0)?.replace(&word(1)?, &word(2)?).into(),
        "regex_replace" | "regexreplace" => {
            let expression = regex::Regex::new(&word(1)?).map_err(|error| error.to_string())?;
            expression.replace_all(&word(0)?, word(2)?.as_str()).into_owned().into()
        }
        "sanitize" => sanitize(&word(0)?).into(),
        "split" => {
            let (separator, whole) = (word(0)?, word(1)?);
            whole.split(separator.as_str()).map(Value::from).collect::<Vec<_>>().into()
        }
        "join" => {
            let mut all = Vec::new();
            for value in &arguments[1.min(arguments.len())..] {
                all.extend(words(value)?);
            }
            all.join(&word(0)?).into()
        }
        "format" => format(&word(0)?, &arguments[1..])?.into(),
        "strlen" => word(0)?.chars().count().into(),
        "substr" => {
            let (whole, from, len) = (word(0)?, at(1)?.as_i64(), at(2)?.as_i64());
            let from = from.and_then(|from| usize::try_from(from).ok()).ok_or("substr takes a place")?;
            let len = len.and_then(|len| usize::try_from(len).ok()).unwrap_or(usize::MAX);
            whole.chars().skip(from).take(len).collect::<String>().into()
        }
        "concat" => {
            let lists = arguments.iter().map(list).collect::<Result<Vec<_>, _>>()?;
            lists.concat().into()
        }
        "flatten" => flatten(&list(at(0)?)?).into(),
        "compact" => {
            list(at(0)?)?.into_iter().filter(|item| text(item).is_ok_and(|t| !t.is_empty())).collect()
        }
        "distinct" | "toset" => {
            let mut found: Vec<Value> = Vec::new();
            for item in list(at(0)?)? {
                if !found.contains(&item) {
                    found.push(item);
                }
            }
            found.into()
        }
        "reverse" | "reverselist" => list(at(0)?)?.into_iter().rev().collect(),
        "element" => {
            let (items, n) =
                (list(at(0)?)?, at(1)?.as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0));
            items.get(n % items.len().max(1)).cloned().ok_or("a list is empty")?
        }
        "length" => match at(0)? {
            Value::String(text) => text.chars().count().into(),
            other => list(other)?.len().into(),
        },
        "contains" => list(at(0)?)?.iter().any(|item| at(1).is_ok_and(|wanted| equal(item, wanted))).into(),
        "keys" => at(0)?.as_object().ok_or("a map is expected")?.keys().cloned().map(Value::from).collect(),
        "values" => list(at(0)?)?.into(),
        "lookup" => match at(0)?.get(word(1)?) {
            Some(found) => found.clone(),
            None => at(2)?.clone(),
        },
        "hasindex" => match at(1)? {
            Value::Number(n) => n
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .is_some_and(|n| list(&arguments[0]).is_ok_and(|l| n < l.len()))
                .into(),
            key => at(0)?.get(text(key)?).is_some().into(),
        },
        "merge" => {
            let mut all = Map::new();
            for map in arguments {
                all.extend(map.as_object().ok_or("a map is expected")?.clone());
            }
            all.into()
        }
        "coalesce" => arguments
            .iter()
            .find(|value| !value.is_null() && value.as_str() != Some(""))
            .cloned()
            .ok_or("coalesce finds nothing")?,
        "equal" => equal(at(0)?, at(1)?).into(),
        "notequal" => (!equal(at(0)?, at(1)?)).into(),
        "not" => (!truth(at(0)?)?).into(),
        "and" => (truth(at(0)?)? && truth(at(1)?)?).into(),
        "or" => (truth(at(0)?)? || truth(at(1)?)?).into(),
        "add" => number(float(at(0)?)? + float(at(1)?)?),
        "subtract" => number(float(at(0)?)? - float(at(1)?)?),
        "tostring" => word(0)?.into(),
        "jsonencode" => serde_json::to_string(at(0)?).map_err(|error| error.to_string())?.into(),
        "basename" => word(0)?.rsplit('/').next().unwrap_or_default().into(),
        "dirname" => word(0)?.rsplit_once('/').map_or(".", |(folder, _)| folder).to_owned().into(),
        "timestamp" | "formatdate" | "timeadd" | "uuidv4" => {
            return Err(format!("{name} is something else each time, which no manifest can say"));
        }
        other => return Err(format!("the function {other} is not known here")),
    })
}

fn float(value: &Value) -> Result<f64, String> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok()).ok_or_else(|| "a number is expected".into())
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
