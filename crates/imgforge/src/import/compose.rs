//! Compose files: the services that are built.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// How deep values and defaults of variables may lie in one another.
const MAX_NESTED: usize = 64;

/// What a service's `build` says, and its `image`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) build: Map<String, Value>,
    pub(super) image: Option<String>,
    /// Variables that have no default.
    pub(super) unset: Vec<String>,
}

/// The services with a `build`, of one file and those that override it.
pub(super) fn services(texts: &[String]) -> Result<Vec<Service>, String> {
    let mut merged: BTreeMap<String, Service> = BTreeMap::new();
    for text in texts {
        let mut yaml: yaml_serde::Value = yaml_serde::from_str(text).map_err(|error| error.to_string())?;
        yaml.apply_merge().map_err(|error| error.to_string())?;
        let value = serde_json::to_value(&yaml).map_err(|error| error.to_string())?;
        for (name, service) in value.get("services").and_then(Value::as_object).into_iter().flatten() {
            let known = merged
                .entry(name.clone())
                .or_insert_with(|| Service { name: name.clone(), ..Service::default() });
            let build = match service.get("build") {
                Some(Value::String(context)) => {
                    Map::from_iter([("context".to_owned(), context.clone().into())])
                }
                Some(Value::Object(build)) => build.clone(),
                _ => Map::new(),
            };
            for (key, value) in build {
                let value = interpolated(pairs(&key, value), &mut known.unset)?;
                match (known.build.get_mut(&key), value) {
                    (Some(Value::Object(before)), Value::Object(more)) => before.extend(more),
                    (_, value) => drop(known.build.insert(key, value)),
                }
            }
            if let Some(image) = service.get("image").and_then(Value::as_str) {
                known.image = Some(expand(image, &mut known.unset, 0)?);
            }
        }
    }
    Ok(merged.into_values().filter(|service| !service.build.is_empty()).collect())
}

/// `args`, `labels` and `additional_contexts` may be lists of `NAME=VALUE`.
fn pairs(key: &str, value: Value) -> Value {
    let Value::Array(items) = &value else { return value };
    if !matches!(key, "args" | "labels" | "additional_contexts") {
        return value;
    }
    let pair = |item: &Value| {
        let text = item.as_str()?;
        Some(match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.into()),
            None => (text.to_owned(), Value::Null),
        })
    };
    Value::Object(items.iter().filter_map(pair).collect())
}

fn interpolated(value: Value, unset: &mut Vec<String>) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => expand(&text, unset, 0)?.into(),
        Value::Array(items) => {
            Value::Array(items.into_iter().map(|item| interpolated(item, unset)).collect::<Result<_, _>>()?)
        }
        Value::Object(map) => {
            let map = map.into_iter().map(|(name, value)| Ok((name, interpolated(value, unset)?)));
            Value::Object(map.collect::<Result<_, String>>()?)
        }
        other => other,
    })
}

/// `$X`, `${X}`, `${X:-default}`, `${X-default}` and `$$` (Compose file reference, "Interpolation"); no variable is
/// set.
fn expand(text: &str, unset: &mut Vec<String>, depth: usize) -> Result<String, String> {
    if depth > MAX_NESTED {
        return Err(format!("more than {MAX_NESTED} variables in one another's defaults"));
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = closing(after);
            let inner = &after[..end];
            rest = after.get(end + 1..).unwrap_or_default();
            let name_end =
                inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inner.len());
            let (name, operator) = inner.split_at(name_end);
            match operator.strip_prefix(":-").or_else(|| operator.strip_prefix('-')) {
                Some(default) => out.push_str(&expand(default, unset, depth + 1)?),
                None => unset.push(name.to_owned()),
            }
        } else {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            if end == 0 {
                out.push('$');
            } else {
                unset.push(rest[..end].to_owned());
            }
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Where the brace ends that is open at the beginning.
fn closing(text: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return at,
            '}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_have_their_defaults() {
        let mut unset = Vec::new();
        for (text, expected) in [
            ("a", "a"),
            ("${A:-b}", "b"),
            ("x${A-}y", "xy"),
            ("${A:-${B:-c}}d", "cd"),
            ("$$A", "$A"),
            ("$A-${B}.", "-."),
            ("${A:?said}", ""),
            ("100$", "100$"),
            ("${open", ""),
        ] {
            assert_eq!(expand(text, &mut unset, 0).unwrap(), expected, "{text}");
        }
        assert_eq!(unset, ["A", "B", "A", "open"]);
    }

    #[test]
    fn a_service_is_what_its_files_say_together() {
        let base = "x-build: &b\n  args: [A=1, B]\nservices:\n  web:\n    build:\n      <<: *b\n      context: .\n    image: acme/web:${TAG:-1}\n  db:\n    image: postgres\n  api: {build: api}\n";
        let over = "services:\n  web:\n    build:\n      target: dev\n      args: {A: 2}\n";
        let found = services(&[base.into(), over.into()]).unwrap();
        let names: Vec<&str> = found.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(names, ["api", "web"]);
        let expected = serde_json::json!({"args": {"A": 2, "B": null}, "context": ".", "target": "dev"});
        assert_eq!(Value::Object(found[1].build.clone()), expected);
        assert_eq!(found[1].image.as_deref(), Some("acme/web:1"));
    }
}
