//! Bake files, in HCL and in JSON: targets with what they inherit, matrices spread out.

use std::collections::{BTreeMap, BTreeSet};

use hcl::{BlockLabel, Body, Expression};
use serde_json::{Map, Value};

use super::functions::sanitize;
use super::hcl::{Attributes, Function, Names, Scope, of_json, text};

/// A bake file, with the files that override it.
#[derive(Debug, Default)]
pub(super) struct Bake {
    names: Names,
    groups: BTreeMap<String, Attributes>,
}

/// A target whose expressions have values.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) name: String,
    /// Its attributes, with those that it inherits; or why they are not known.
    pub(super) attributes: Result<Map<String, Value>, String>,
    /// Whether others inherit it and neither a group nor a context of another asks for it.
    pub(super) is_abstract: bool,
}

/// What a matrix makes of a target: its name, and the values of the matrix's variables.
struct Spread<'b> {
    name: String,
    block: &'b str,
    locals: BTreeMap<String, Value>,
}

/// How many targets one matrix may make.
const MAX_MATRIX: usize = 1000;
/// How deep targets may inherit.
const MAX_INHERITED: usize = 64;
/// How deep brackets may lie in one another: the parser calls itself.
const MAX_NESTED: usize = 64;

impl Bake {
    /// Reads one file.
    pub(super) fn read(path: &str, source: &str) -> Result<Self, String> {
        let mut depth = 0_usize;
        for byte in source.bytes() {
            match byte {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > MAX_NESTED {
                return Err(format!("more than {MAX_NESTED} brackets in one another"));
            }
        }
        if path.ends_with(".json") {
            let value: Value = serde_json::from_str(source).map_err(|error| error.to_string())?;
            return Ok(Self::of_json(&value));
        }
        let body =
            hcl::parse(source).map_err(|error| error.to_string().lines().collect::<Vec<_>>().join(" "))?;
        Ok(Self::of_body(&body))
    }

    fn of_body(body: &Body) -> Self {
        let mut bake = Self::default();
        let attributes = |body: &Body| -> Attributes {
            body.attributes().map(|one| (one.key().to_owned(), one.expr().clone())).collect()
        };
        for (name, value) in attributes(body) {
            bake.names.variables.insert(name, Some(value));
        }
        for block in body.blocks() {
            let Some(name) = block.labels().first().map(BlockLabel::as_str) else { continue };
            bake.add(block.identifier(), name, attributes(block.body()));
        }
        bake
    }

    fn of_json(value: &Value) -> Self {
        let mut bake = Self::default();
        for kind in ["variable", "function", "target", "group"] {
            for (name, block) in value.get(kind).and_then(Value::as_object).into_iter().flatten() {
                let block = block.as_object().into_iter().flatten();
                bake.add(kind, name, block.map(|(key, value)| (key.clone(), of_json(value))).collect());
            }
        }
        bake
    }

    fn add(&mut self, kind: &str, name: &str, mut attributes: Attributes) {
        match kind {
            "variable" => {
                let default = attributes.remove("default").filter(|default| *default != Expression::Null);
                self.names.variables.insert(name.to_owned(), default);
            }
            "function" => {
                let words = |expression: Option<Expression>| match expression {
                    Some(Expression::Array(items)) => items.iter().filter_map(word).collect(),
                    _ => Vec::new(),
                };
                let params = words(attributes.remove("params"));
                let variadic = attributes.remove("variadic_params").as_ref().and_then(word);
                if let Some(result) = attributes.remove("result") {
                    self.names.functions.insert(name.to_owned(), Function { params, variadic, result });
                }
            }
            "target" => self.names.targets.entry(name.to_owned()).or_default().extend(attributes),
            "group" => self.groups.entry(name.to_owned()).or_default().extend(attributes),
            _ => {}
        }
    }

    /// Takes over what a file says that overrides this one.
    pub(super) fn overridden_by(&mut self, other: Self) {
        self.names.variables.extend(other.names.variables);
        self.names.functions.extend(other.names.functions);
        for (name, attributes) in other.names.targets {
            self.names.targets.entry(name).or_default().extend(attributes);
        }
        for (name, attributes) in other.groups {
            self.groups.entry(name).or_default().extend(attributes);
        }
    }

    /// Variables without a default, which bake takes from the environment.
    pub(super) fn without_default(&self) -> BTreeSet<&str> {
        super::hcl::without_default(&self.names)
    }

    /// All targets, by name.
    pub(super) fn targets(&self) -> Vec<Target> {
        let (spread, mut targets) = self.spread();
        let mut inherited = BTreeSet::new();
        let mut asked: BTreeSet<String> = BTreeSet::new();
        for one in &spread {
            let attributes = self.resolved(&spread, one, 0);
            let own = self.names.targets.get(one.block).and_then(|block| block.get("inherits"));
            inherited.extend(own.and_then(|own| self.scope(one).eval(own).ok()).iter().flat_map(texts));
            let contexts = attributes.as_ref().ok().and_then(|found| found.get("contexts")?.as_object());
            let contexts = contexts.into_iter().flat_map(|contexts| contexts.values());
            asked.extend(
                contexts.filter_map(|place| Some(place.as_str()?.strip_prefix("target:")?.to_owned())),
            );
            targets.push(Target { name: one.name.clone(), attributes, is_abstract: false });
        }
        asked.extend(self.groups().into_values().flatten());
        // What is only inherited is no image, unless it says itself what it makes and is published.
        let makes_one = |target: &Target| {
            let own =
                spread.iter().find(|one| one.name == target.name).map(|one| &self.names.targets[one.block]);
            let says = own.is_some_and(|own| {
                ["context", "dockerfile", "output", "target"].iter().any(|key| own.contains_key(*key))
            });
            let tags = target.attributes.as_ref().ok().and_then(|found| found.get("tags")).map(texts);
            says && tags.is_some_and(|tags| !tags.is_empty())
        };
        for target in &mut targets {
            target.is_abstract =
                inherited.contains(&target.name) && !asked.contains(&target.name) && !makes_one(target);
        }
        targets.sort_by(|a, b| a.name.cmp(&b.name));
        targets
    }

    /// The targets of each group, through groups in groups. A target with a matrix is a group of what it makes.
    pub(super) fn groups(&self) -> BTreeMap<String, BTreeSet<String>> {
        let (spread, _) = self.spread();
        let scope = Scope::new(&self.names, BTreeMap::new());
        let listed = |group: &Attributes| {
            group
                .get("targets")
                .and_then(|list| scope.eval(list).ok())
                .as_ref()
                .map(texts)
                .unwrap_or_default()
        };
        let mut groups = BTreeMap::new();
        for name in self.groups.keys() {
            let (mut members, mut seen, mut next) = (BTreeSet::new(), BTreeSet::new(), vec![name.clone()]);
            while let Some(member) = next.pop() {
                if !seen.insert(member.clone()) {
                    continue;
                }
                match self.groups.get(&member) {
                    // A target may be called as its group.
                    Some(group) => {
                        next.extend(listed(group));
                        if listed(group).contains(&member) {
                            members.insert(member);
                        }
                    }
                    None => {
                        members.extend(
                            spread.iter().filter(|one| one.block == member).map(|one| one.name.clone()),
                        );
                        members.extend(
                            spread.iter().filter(|one| one.name == member).map(|one| one.name.clone()),
                        );
                    }
                }
            }
            groups.insert(name.clone(), members);
        }
        groups
    }

    fn scope(&self, one: &Spread<'_>) -> Scope<'_> {
        Scope::new(&self.names, one.locals.clone())
    }

    /// What matrices make of the targets; and those whose matrix is not known.
    fn spread(&self) -> (Vec<Spread<'_>>, Vec<Target>) {
        let (mut spread, mut unknown) = (Vec::new(), Vec::new());
        for (block, attributes) in &self.names.targets {
            let Some(matrix) = attributes.get("matrix") else {
                spread.push(Spread { name: block.clone(), block, locals: BTreeMap::new() });
                continue;
            };
            match self.of_matrix(block, attributes, matrix) {
                Ok(found) => spread.extend(found),
                Err(why) => {
                    unknown.push(Target { name: block.clone(), attributes: Err(why), is_abstract: false });
                }
            }
        }
        (spread, unknown)
    }

    fn of_matrix<'b>(
        &'b self,
        block: &'b str,
        attributes: &'b Attributes,
        matrix: &Expression,
    ) -> Result<Vec<Spread<'b>>, String> {
        let matrix = Scope::new(&self.names, BTreeMap::new()).eval(matrix)?;
        let mut axes = Vec::new();
        for (variable, values) in matrix.as_object().ok_or("a matrix is a map of lists")? {
            axes.push((variable, values.as_array().ok_or("a matrix is a map of lists")?));
        }
        let count = axes.iter().fold(1_usize, |count, (_, values)| count.saturating_mul(values.len()));
        if count > MAX_MATRIX {
            return Err(format!("its matrix makes more than {MAX_MATRIX} targets"));
        }
        let mut all: Vec<BTreeMap<String, Value>> = vec![BTreeMap::new()];
        for (variable, values) in axes {
            let with = |locals: &BTreeMap<String, Value>, value: &Value| {
                let mut locals = locals.clone();
                locals.insert(variable.clone(), value.clone());
                locals
            };
            all = all.iter().flat_map(|locals| values.iter().map(move |value| with(locals, value))).collect();
        }
        let mut spread = Vec::new();
        for locals in all {
            let name = match attributes.get("name") {
                Some(name) => text(&Scope::new(&self.names, locals.clone()).eval(name)?)?,
                None => return Err("a target with a matrix lacks its name".into()),
            };
            spread.push(Spread { name: sanitize(&name), block, locals });
        }
        Ok(spread)
    }

    fn resolved(
        &self,
        spread: &[Spread<'_>],
        one: &Spread<'_>,
        depth: usize,
    ) -> Result<Map<String, Value>, String> {
        if depth > MAX_INHERITED {
            return Err("targets inherit one another".into());
        }
        let scope = self.scope(one);
        let attributes = &self.names.targets[one.block];
        let mut found = Map::new();
        if let Some(inherits) = attributes.get("inherits") {
            for parent in texts(&scope.eval(inherits)?) {
                let parent = spread.iter().find(|other| other.name == parent);
                let parent = parent.ok_or("it inherits a target that is not there")?;
                merge(&mut found, self.resolved(spread, parent, depth + 1)?);
            }
        }
        let mut own = Map::new();
        for (name, expression) in attributes {
            if !matches!(name.as_str(), "inherits" | "matrix" | "name") {
                own.insert(name.clone(), scope.eval(expression).map_err(|why| format!("{name}: {why}"))?);
            }
        }
        merge(&mut found, own);
        Ok(found)
    }
}

/// What is said later comes first; maps come together.
fn merge(found: &mut Map<String, Value>, over: Map<String, Value>) {
    for (name, value) in over {
        match (found.get_mut(&name), value) {
            (_, Value::Null) => {}
            (Some(Value::Object(before)), Value::Object(more)) => before.extend(more),
            (_, value) => drop(found.insert(name, value)),
        }
    }
}

/// The texts of a list.
pub(super) fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|item| text(item).ok()).collect()
}

fn word(expression: &Expression) -> Option<String> {
    match expression {
        Expression::String(text) => Some(text.clone()),
        Expression::Variable(name) => Some(name.to_string()),
        _ => None,
    }
}
