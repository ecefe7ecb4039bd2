//! Evaluates the expressions of bake files: variables, functions of the file, and those of bake's that make names and
//! lists. What is not known is an error that names it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use hcl::expr::{
    BinaryOperator, Conditional, ForExpr, FuncCall, ObjectKey, Operation, Traversal, TraversalOperator,
    UnaryOperator,
};
use hcl::template::{Directive, Element, Template};
use hcl::{Expression, Identifier};
use serde_json::{Map, Value};

use super::functions;

/// How deep expressions, variables and functions may refer to one another.
const MAX_DEPTH: usize = 64;
/// How many bytes one value may have. What is meant for a manifest is a few lines.
pub(super) const MAX_VALUE: usize = 64 << 10;
/// How many bytes all values of a file may have together, each counted as often as it is worked out: variables that
/// refer to one another twice each double the work with each line.
const MAX_ALL: usize = 64 << 20;
/// What a value costs beside its texts.
const PER_VALUE: usize = 16;

/// The name and the expression of each attribute of a block.
pub(super) type Attributes = BTreeMap<String, Expression>;

/// A function that a bake file declares.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) params: Vec<String>,
    pub(super) variadic: Option<String>,
    pub(super) result: Expression,
}

/// What expressions of a file may refer to.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Those without a default are empty.
    pub(super) variables: BTreeMap<String, Option<Expression>>,
    pub(super) functions: BTreeMap<String, Function>,
    pub(super) targets: BTreeMap<String, Attributes>,
    /// The bytes of all values that were worked out so far.
    spent: Cell<usize>,
}

impl Names {
    /// Counts a value, and refuses it when it or all of them together are too large.
    fn spend(&self, bytes: usize) -> Result<(), String> {
        let spent = self.spent.get().saturating_add(bytes);
        if bytes > MAX_VALUE {
            // `try` goes on after an error: what is too much once ends the file.
            self.spent.set(usize::MAX);
            return Err(too_large());
        }
        self.spent.set(spent);
        if spent > MAX_ALL {
            self.spent.set(usize::MAX);
            return Err(format!("its values have more than {} MiB together", MAX_ALL >> 20));
        }
        Ok(())
    }
}

/// Says that one value has more than [`MAX_VALUE`] bytes.
pub(super) fn too_large() -> String {
    format!("a value has more than {} KiB", MAX_VALUE >> 10)
}

/// The bytes of a value with all that is in it.
fn size(value: &Value) -> usize {
    PER_VALUE
        + match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(size).sum(),
            Value::Object(map) => map.iter().map(|(name, value)| name.len() + size(value)).sum(),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
}

/// Where an expression stands.
#[derive(Clone)]
pub(super) struct Scope<'n> {
    names: &'n Names,
    locals: Rc<BTreeMap<String, Value>>,
    depth: usize,
}

type Evaluated = Result<Value, String>;

impl<'n> Scope<'n> {
    pub(super) fn new(names: &'n Names, locals: BTreeMap<String, Value>) -> Self {
        Self { names, locals: Rc::new(locals), depth: 0 }
    }

    pub(super) fn eval(&self, expression: &Expression) -> Evaluated {
        let deeper = Self { depth: self.depth + 1, ..self.clone() };
        if deeper.depth > MAX_DEPTH {
            return Err("expressions refer to one another without end".into());
        }
        // What has no value costs as well: `try` goes on after it.
        self.names.spend(PER_VALUE)?;
        let value = deeper.value(expression)?;
        self.names.spend(size(&value))?;
        Ok(value)
    }

    fn value(&self, expression: &Expression) -> Evaluated {
        Ok(match expression {
            Expression::Null => Value::Null,
            Expression::Bool(bool) => (*bool).into(),
            Expression::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => whole.into(),
                (None, float) => float.into(),
            },
            Expression::String(text) => text.clone().into(),
            Expression::Array(items) => {
                items.iter().map(|item| self.eval(item)).collect::<Result<Vec<_>, _>>()?.into()
            }
            Expression::Object(object) => {
                let mut map = Map::new();
                for (key, value) in object {
                    let key = match key {
                        ObjectKey::Identifier(name) => name.to_string(),
                        ObjectKey::Expression(expression) => text(&self.eval(expression)?)?,
                        _ => return Err("a key that is not known here".into()),
                    };
                    map.insert(key, self.eval(value)?);
                }
                map.into()
            }
            Expression::TemplateExpr(template) => {
                let template = Template::from_expr(template).map_err(|error| error.to_string())?;
                self.template(&template)?
            }
            Expression::Variable(variable) => self.variable(variable.as_str())?,
            Expression::Traversal(traversal) => self.traversal(traversal)?,
            Expression::FuncCall(call) => self.call(call)?,
            Expression::Parenthesis(inner) => self.eval(inner)?,
            Expression::Conditional(conditional) => self.conditional(conditional)?,
            Expression::Operation(operation) => self.operation(operation)?,
            Expression::ForExpr(for_expr) => self.for_expr(for_expr)?,
            _ => return Err("an expression that is not known here".into()),
        })
    }

    /// A template of one interpolation is that value; others are texts.
    fn template(&self, template: &Template) -> Evaluated {
        if let [Element::Interpolation(only)] = template.elements() {
            return self.eval(&only.expr);
        }
        let mut out = String::new();
        for element in template.elements() {
            match element {
                Element::Literal(literal) => out.push_str(literal),
                Element::Interpolation(interpolation) => {
                    out.push_str(&text(&self.eval(&interpolation.expr)?)?);
                }
                Element::Directive(directive) => out.push_str(&self.directive(directive)?),
            }
        }
        Ok(out.into())
    }

    fn directive(&self, directive: &Directive) -> Result<String, String> {
        match directive {
            Directive::If(directive) => {
                match (truth(&self.eval(&directive.cond_expr)?)?, &directive.false_template) {
                    (true, _) => text(&self.template(&directive.true_template)?),
                    (false, Some(template)) => text(&self.template(template)?),
                    (false, None) => Ok(String::new()),
                }
            }
            Directive::For(_) => Err("a for in a text is not known here".into()),
        }
    }

    fn variable(&self, name: &str) -> Evaluated {
        if let Some(value) = self.locals.get(name) {
            return Ok(value.clone());
        }
        match self.names.variables.get(name) {
            // A variable sees the file, and not what is local where it is used.
            Some(Some(default)) => Scope { locals: Rc::default(), ..self.clone() }.eval(default),
            Some(None) => Ok("".into()),
            None if name == "BAKE_LOCAL_PLATFORM" => Ok("linux/amd64".into()),
            None if name == "BAKE_CMD_CONTEXT" => Ok(".".into()),
            None => Err(format!("there is no variable {name}")),
        }
    }

    fn traversal(&self, traversal: &Traversal) -> Evaluated {
        let mut operators = traversal.operators.as_slice();
        let mut value = match (&traversal.expr, operators) {
            (
                Expression::Variable(root),
                [TraversalOperator::GetAttr(target), TraversalOperator::GetAttr(attribute), rest @ ..],
            ) if root.as_str() == "target" => {
                operators = rest;
                let found =
                    self.names.targets.get(target.as_str()).and_then(|target| target.get(attribute.as_str()));
                let found = found.ok_or_else(|| format!("there is no target.{target}.{attribute}"))?;
                Scope { locals: Rc::default(), ..self.clone() }.eval(found)?
            }
            (root, _) => self.eval(root)?,
        };
        for operator in operators {
            let found = match operator {
                TraversalOperator::GetAttr(name) => value.get(name.as_str()).cloned(),
                TraversalOperator::LegacyIndex(index) => {
                    usize::try_from(*index).ok().and_then(|index| value.get(index).cloned())
                }
                TraversalOperator::Index(index) => match self.eval(index)? {
                    Value::Number(index) => index
                        .as_u64()
                        .and_then(|n| usize::try_from(n).ok())
                        .and_then(|n| value.get(n).cloned()),
                    key => value.get(text(&key)?.as_str()).cloned(),
                },
                _ => return Err("a splat is not known here".into()),
            };
            value = found.ok_or("a part of a value is not there")?;
        }
        Ok(value)
    }

    fn call(&self, call: &FuncCall) -> Evaluated {
        let name = call.name.to_string();
        let mut arguments = Vec::new();
        for (n, argument) in call.args.iter().enumerate() {
            // `try` and `can` ask whether something has a value.
            match self.eval(argument) {
                Ok(value) if name == "try" => return Ok(value),
                found if name == "can" => return Ok(found.is_ok().into()),
                Err(_) if name == "try" && n + 1 < call.args.len() => {}
                found => arguments.push(found?),
            }
        }
        if call.expand_final
            && let Some(Value::Array(last)) = arguments.pop()
        {
            arguments.extend(last);
        }
        let Some(function) = self.names.functions.get(&name) else {
            return functions::call(&name, &arguments);
        };
        if arguments.len() < function.params.len() {
            return Err(format!("{name} takes {} arguments", function.params.len()));
        }
        let rest = arguments.split_off(function.params.len());
        let mut locals: BTreeMap<String, Value> = function.params.iter().cloned().zip(arguments).collect();
        locals.extend(function.variadic.iter().map(|name| (name.clone(), rest.clone().into())));
        Scope { locals: Rc::new(locals), ..self.clone() }.eval(&function.result)
    }

    fn conditional(&self, conditional: &Conditional) -> Evaluated {
        let is_true = truth(&self.eval(&conditional.cond_expr)?)?;
        self.eval(if is_true { &conditional.true_expr } else { &conditional.false_expr })
    }

    fn operation(&self, operation: &Operation) -> Evaluated {
        let number = |value: &Value| value.as_f64().ok_or("a number is expected".to_owned());
        let binary = match operation {
            Operation::Unary(unary) => {
                let value = self.eval(&unary.expr)?;
                return match unary.operator {
                    UnaryOperator::Not => Ok((!truth(&value)?).into()),
                    UnaryOperator::Neg => Ok(functions::number(-number(&value)?)),
                };
            }
            Operation::Binary(binary) => binary,
        };
        let left = self.eval(&binary.lhs_expr)?;
        match binary.operator {
            BinaryOperator::And if !truth(&left)? => return Ok(false.into()),
            BinaryOperator::Or if truth(&left)? => return Ok(true.into()),
            _ => {}
        }
        let right = self.eval(&binary.rhs_expr)?;
        let numbers = || Ok::<_, String>((number(&left)?, number(&right)?));
        Ok(match binary.operator {
            BinaryOperator::Eq => functions::equal(&left, &right).into(),
            BinaryOperator::NotEq => (!functions::equal(&left, &right)).into(),
            BinaryOperator::And | BinaryOperator::Or => truth(&right)?.into(),
            BinaryOperator::LessEq => numbers().map(|(a, b)| a <= b)?.into(),
            BinaryOperator::GreaterEq => numbers().map(|(a, b)| a >= b)?.into(),
            BinaryOperator::Less => numbers().map(|(a, b)| a < b)?.into(),
            BinaryOperator::Greater => numbers().map(|(a, b)| a > b)?.into(),
            BinaryOperator::Plus => functions::number(numbers().map(|(a, b)| a + b)?),
            BinaryOperator::Minus => functions::number(numbers().map(|(a, b)| a - b)?),
            BinaryOperator::Mul => functions::number(numbers().map(|(a, b)| a * b)?),
            BinaryOperator::Div => functions::number(numbers().map(|(a, b)| a / b)?),
            BinaryOperator::Mod => functions::number(numbers().map(|(a, b)| a % b)?),
        })
    }

    fn for_expr(&self, expression: &ForExpr) -> Evaluated {
        let items: Vec<(Value, Value)> = match self.eval(&expression.collection_expr)? {
            Value::Array(items) => items.into_iter().enumerate().map(|(n, item)| (n.into(), item)).collect(),
            Value::Object(map) => map.into_iter().map(|(key, value)| (key.into(), value)).collect(),
            _ => return Err("a for goes over a list or a map".into()),
        };
        let (mut list, mut map) = (Vec::new(), Map::new());
        // Each round copies what is known around it.
        let known = self.locals.values().map(size).sum();
        for (key, value) in items {
            self.names.spend(known)?;
            let mut locals = BTreeMap::clone(&self.locals);
            locals.insert(expression.value_var.to_string(), value);
            locals.extend(expression.key_var.as_ref().map(|name: &Identifier| (name.to_string(), key)));
            let inner = Scope { locals: Rc::new(locals), ..self.clone() };
            if let Some(condition) = &expression.cond_expr
                && !truth(&inner.eval(condition)?)?
            {
                continue;
            }
            let value = inner.eval(&expression.value_expr)?;
            match &expression.key_expr {
                None => list.push(value),
                Some(key) => {
                    let key = text(&inner.eval(key)?)?;
                    if !expression.grouping {
                        map.insert(key, value);
                    } else if let Value::Array(group) =
                        map.entry(key).or_insert_with(|| Vec::<Value>::new().into())
                    {
                        group.push(value);
                    }
                }
            }
        }
        Ok(if expression.key_expr.is_some() { map.into() } else { list.into() })
    }
}

/// A value as text; lists and maps are none.
pub(super) fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(bool) => Ok(bool.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Null => Ok(String::new()),
        Value::Array(_) | Value::Object(_) => Err("a text is expected, and a list or a map is there".into()),
    }
}

/// A condition, as HCL converts it.
pub(super) fn truth(value: &Value) -> Result<bool, String> {
    match value {
        Value::Bool(bool) => Ok(*bool),
        Value::String(text) if text == "true" || text == "1" => Ok(true),
        Value::String(text) if text == "false" || text == "0" => Ok(false),
        _ => Err("a condition is neither true nor false".into()),
    }
}

/// The expression of a text of a JSON file, in which `${...}` counts too.
pub(super) fn of_json(value: &Value) -> Expression {
    match value {
        Value::String(text) if text.contains("${") || text.contains("%{") => {
            Expression::TemplateExpr(Box::new(hcl::expr::TemplateExpr::from(text.as_str())))
        }
        Value::Null => Expression::Null,
        Value::Bool(bool) => Expression::Bool(*bool),
        Value::Number(number) => number.as_i64().map_or(Expression::Null, Expression::from),
        Value::String(text) => Expression::String(text.clone()),
        Value::Array(items) => Expression::Array(items.iter().map(of_json).collect()),
        Value::Object(map) => {
            let key = |key: &String| ObjectKey::Expression(of_json(&key.clone().into()));
            Expression::Object(map.iter().map(|(name, value)| (key(name), of_json(value))).collect())
        }
    }
}

/// The names of variables that a file uses and that have no default, which the environment would give.
pub(super) fn without_default(names: &Names) -> BTreeSet<&str> {
    names.variables.iter().filter(|(_, default)| default.is_none()).map(|(name, _)| name.as_str()).collect()
}
