//! `imgforge lint`: what is allowed and still goes wrong one day.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use imgforge::core::lint::{Finding, Findings};
use imgforge::core::manifest::{Level, Rule};
use imgforge_syntax::nearest;
use schemars::JsonSchema;
use serde::Serialize;

use crate::Global;
use crate::console::{BAD, DIM, GOOD, WORK, count, print, say};
use crate::failure::Failure;
use crate::verbs::{Format, Selection, json, open};

/// Look for what is allowed and still goes wrong one day
///
/// Reads manifests, Dockerfiles and the files that these name; no engine is asked. A finding stands at the line that
/// causes it and is told once. A rule is silenced in the manifest of an image, for it and what stands on it: lint {
/// allow "IF005" reason="..." }. Ends with 1 when there is an error, or a warning with --deny warnings.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  imgforge lint\n  imgforge lint guestbook --deny warnings\n  imgforge lint --format json | jq -r '.findings[] | \"\\(.code) \\(.file):\\(.line)\"'\n  imgforge lint --explain IF005"
)]
pub(crate) struct Lint {
    #[command(flatten)]
    selection: Selection,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// What counts as an error too
    #[arg(long, value_enum, value_name = "LEVEL")]
    deny: Option<Deny>,
    /// Print the page of a rule
    #[arg(long, value_name = "CODE", value_parser = rule, conflicts_with_all = ["selectors", "exclude", "deny"])]
    explain: Option<Rule>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Deny {
    /// Every warning
    Warnings,
}

fn rule(text: &str) -> Result<Rule, String> {
    let upper = text.to_ascii_uppercase();
    let codes = || Rule::ALL.map(Rule::code);
    Rule::ALL.into_iter().find(|rule| rule.code() == upper).ok_or_else(|| match nearest(&upper, codes()) {
        Some(near) => format!("there is no such rule; did you mean {near}?"),
        None => format!("there is no such rule; there are: {}", codes().join(", ")),
    })
}

/// What `lint` prints.
#[derive(Serialize, JsonSchema)]
pub(crate) struct LintOutput {
    version: u32,
    findings: Vec<ShownFinding>,
    /// How many were silenced by an `allow`.
    silenced: usize,
}

#[derive(Serialize, JsonSchema)]
struct ShownFinding {
    /// `IF001`.
    code: String,
    level: Level,
    message: String,
    help: Option<String>,
    /// The image that it was found in; what stands on it has it too.
    image: String,
    /// The service that it is about, if about one.
    service: Option<String>,
    /// Relative to the workspace.
    file: Option<String>,
    /// From 1.
    line: Option<usize>,
    /// From 1, in characters.
    column: Option<usize>,
}

impl Lint {
    pub(crate) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        if let Some(rule) = self.explain {
            print(rule.page());
            return Ok(ExitCode::SUCCESS);
        }
        let session = open(global)?;
        let findings = session.lint(&self.selection.of(&session)?)?;
        let errors = findings.found.iter().filter(|finding| self.is_error(finding)).count();
        match self.format {
            Format::Json => print(&json(&output(&findings))),
            Format::Text => {
                for finding in &findings.found {
                    print(&format!("{:?}\n", miette::Report::new(finding.problem.clone())));
                }
            }
        }
        if !global.quiet {
            summary(&findings, errors);
        }
        Ok(ExitCode::from(u8::from(errors > 0)))
    }

    fn is_error(&self, finding: &Finding) -> bool {
        finding.rule.level() == Level::Error || self.deny == Some(Deny::Warnings)
    }
}

fn summary(findings: &Findings, errors: usize) {
    let warnings = findings.found.len() - errors;
    let silenced = match findings.silenced {
        0 => String::new(),
        n => format!("; {n} silenced"),
    };
    let (errors, warnings) =
        ((errors > 0).then(|| count(errors, "error")), (warnings > 0).then(|| count(warnings, "warning")));
    let style = match (&errors, &warnings) {
        (Some(_), _) => BAD,
        (None, Some(_)) => WORK,
        (None, None) => GOOD,
    };
    let said: Vec<String> = errors.into_iter().chain(warnings).collect();
    if said.is_empty() {
        say(style, "Lint", format_args!("nothing found{DIM}{silenced}{DIM:#}"));
    } else {
        let how = "`imgforge lint --explain CODE` says more";
        say(style, "Lint", format_args!("{}{DIM}{silenced}; {how}{DIM:#}", said.join(", ")));
    }
}

fn output(findings: &Findings) -> LintOutput {
    let shown = |finding: &Finding| {
        let problem = &finding.problem;
        let (line, column) = problem.line_column().unzip();
        ShownFinding {
            code: finding.rule.code().to_owned(),
            level: finding.rule.level(),
            message: problem.message().to_owned(),
            help: problem.help_text().map(str::to_owned),
            image: finding.image.to_string(),
            service: finding.service.as_ref().map(ToString::to_string),
            file: problem.file_path().map(ToString::to_string),
            line,
            column,
        }
    };
    LintOutput {
        version: 1,
        findings: findings.found.iter().map(shown).collect(),
        silenced: findings.silenced,
    }
}
