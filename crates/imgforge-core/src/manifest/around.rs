//! Reads what an image says to the tools around it, and not to its build: `resources` and `lint`.

use imgforge_syntax::Located;

use super::reader::Node;
use super::service::{parse_size, service_name};
use super::{Allow, Resources, Rule};
use crate::diagnostic::Problem;

/// What may stand in a `lint`.
pub(super) const IN_LINT: &[&str] = &["allow"];

/// `resources memory="256MB" cpus="0.5"`.
pub(super) fn resources(node: &mut Node<'_, '_, '_>) -> Resources {
    let mut found = Resources::default();
    if let Some(word) = node.text_or_number_property("memory") {
        match parse_size(&word.value).filter(|size| *size > 0) {
            Some(size) => found.memory = Some(Located::new(size, word.span)),
            None => {
                let message = format!("\"{}\" is not an amount of memory", word.value);
                let problem = Problem::at(node.reader.file, word.span, message, "not an amount");
                node.reader.push(problem.help("a number and a unit: \"64MB\" or \"2GB\""));
            }
        }
    }
    if let Some(word) = node.text_or_number_property("cpus") {
        match parse_cpus(&word.value) {
            Some(millis) => found.cpus = Some(Located::new(millis, word.span)),
            None => {
                let message = format!("\"{}\" is not a number of processors", word.value);
                let problem = Problem::at(node.reader.file, word.span, message, "not such a number");
                node.reader.push(problem.help("for example cpus=2, or cpus=\"0.5\" for half of one"));
            }
        }
    }
    if !node.has_any_property() {
        let problem = Problem::at(node.reader.file, node.span(), "\"resources\" names none", "empty");
        node.reader.push(problem.help("for example: resources memory=\"256MB\" cpus=\"0.5\""));
    }
    found
}

/// `2`, `0.5`, `1.25`: in thousandths, of which there is at least one.
fn parse_cpus(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_digits(whole) || !is_digits(part) || part.len() > 3 {
        return None;
    }
    let thousandths: u32 = format!("{part:0<3}").parse().ok()?;
    whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(thousandths).filter(|millis| *millis > 0)
}

/// `lint { allow "IF005" service="nginx" reason="..." }`.
pub(super) fn lint(node: &mut Node<'_, '_, '_>, allowed: &mut Vec<Allow>) {
    let reader = node.reader;
    for kdl in node.children() {
        let mut child = reader.node(kdl);
        if !IN_LINT.contains(&child.name()) {
            reader.unknown(child.name_span(), "node", child.name(), IN_LINT);
            continue;
        }
        allowed.extend(allow(&mut child));
        child.done();
    }
}

fn allow(node: &mut Node<'_, '_, '_>) -> Option<Allow> {
    let span = node.span();
    let word = node.string("a rule, as \"IF005\"");
    let service = node.text_property("service").and_then(|name| service_name(node, name));
    let reason = node.text_property("reason");
    if reason.is_none() && !node.has_property("reason") {
        let problem = Problem::at(node.reader.file, span, "a rule is silenced for a reason", "none is given");
        node.reader.push(problem.help("say why it does not matter here: reason=\"...\""));
    }
    let word = word?;
    let Some(rule) = Rule::ALL.into_iter().find(|rule| rule.code() == word.value) else {
        node.reader.unknown(word.span, "rule", &word.value, &Rule::ALL.map(Rule::code));
        return None;
    };
    Some(Allow { span, rule, service, reason: reason?.value })
}
