//! `imgforge plan`: what would be built, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use imgforge::Session;
use imgforge::core::name::ImageName;
use imgforge::core::plan::{Action, Plan, PlannedTarget, Reason};

use crate::Global;
use crate::console::{DIM, GOOD, WARN, WORK, count, print, say};
use crate::failure::Failure;
use crate::verbs::{Format, Selection, json, open};

/// Show what would be built and tested and why, without doing it
///
/// Asks the engine once what it holds, and the workspace's registry for what the engine lacks. An image whose parent
/// is the only reason is shown with that parent's name; the cause stands where it starts. With --format json every
/// reason has its old and new value.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  imgforge plan\n  imgforge plan guestbook --format json\n  imgforge plan --exit-code || echo 'there is work'"
)]
pub(crate) struct PlanVerb {
    #[command(flatten)]
    selection: Selection,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// End with 10 when something would be built or tested
    #[arg(long)]
    exit_code: bool,
    /// Plan as if nothing selected were held
    #[arg(long)]
    force: bool,
    /// Do not ask the registry: only what the engine holds is fresh (or IMGFORGE_LOCAL=1 in the environment)
    #[arg(long)]
    local: bool,
}

impl PlanVerb {
    pub(crate) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        let session = open(global)?;
        let selected = self.selection.of(&session)?;
        let plan = session.plan(&selected, self.force, self.local)?;
        for warning in &plan.warnings {
            say(WARN, "Warning", warning);
        }
        print(&match self.format {
            Format::Json => json(&plan),
            Format::Text => text(&session, &plan),
        });
        let work = plan.to_do().next().is_some();
        Ok(ExitCode::from(if work && self.exit_code { 10 } else { 0 }))
    }
}

fn text(session: &Session, plan: &Plan) -> String {
    let rows: BTreeMap<&str, &PlannedTarget> =
        plan.targets.iter().map(|row| (row.name.as_str(), row)).collect();
    let shown: BTreeSet<ImageName> =
        session.graph().topological().filter(|name| rows.contains_key(name.as_str())).cloned().collect();
    let mut text =
        tree(session, &shown, |name| rows.get(name.as_str()).map_or(String::new(), |row| cell(row, &rows)));
    let build = plan.to_build().count();
    let test = plan.to_do().count() - build;
    let fresh = plan.targets.iter().filter(|row| row.action == Action::Fresh && row.tests == 0).count();
    let parts: Vec<String> = [(build, "to build"), (test, "to test")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let work = if parts.is_empty() { "nothing to build".to_owned() } else { parts.join(", ") };
    let _ = writeln!(text, "  {work}; {fresh} fresh");
    text
}

/// `build     nginx.conf changed`: the action, and the reasons that start here. Parents that are built themselves are
/// named only when nothing else is the reason.
fn cell(row: &PlannedTarget, rows: &BTreeMap<&str, &PlannedTarget>) -> String {
    let (word, style) = match row.action {
        Action::Fresh if row.id.is_none() => ("fresh, in the registry", DIM),
        Action::Fresh => ("fresh", DIM),
        Action::Build => ("build", WORK),
        Action::Required => ("required", WORK),
        Action::Blocked => ("blocked", GOOD),
    };
    let is_arriving =
        |reason: &&Reason| matches!(reason, Reason::Parent { name, .. } if rows.contains_key(name.as_str()));
    let own: Vec<String> = row.reasons.iter().filter(|r| !is_arriving(r)).map(ToString::to_string).collect();
    let arriving: Vec<String> = row.reasons.iter().filter(is_arriving).map(ToString::to_string).collect();
    let mut reasons: Vec<String> = arriving.into_iter().chain(own).collect();
    let more = reasons.len().saturating_sub(4);
    if more > 0 {
        reasons.truncate(4);
        reasons.push(format!("{more} more"));
    }
    if row.action == Action::Fresh && row.tests > 0 {
        reasons.push(format!("{} to run", count(row.tests, "test")));
    }
    if reasons.is_empty() {
        return format!("{style}{word}{style:#}");
    }
    format!("{style}{word:9}{style:#} {}", reasons.join(", "))
}

/// The images as a forest along their `from` edges, with a cell behind each name.
pub(crate) fn tree(
    session: &Session,
    shown: &BTreeSet<ImageName>,
    cell: impl Fn(&ImageName) -> String,
) -> String {
    let mut children: BTreeMap<Option<&ImageName>, Vec<&ImageName>> = BTreeMap::new();
    for name in shown {
        // An image with no `from` in the workspace hangs on its first other parent.
        let image = &session.workspace().images[name];
        let parent = image.parents.iter().map(|parent| &parent.name).find(|parent| shown.contains(*parent));
        children.entry(parent).or_default().push(name);
    }
    let mut lines: Vec<(String, &ImageName)> = Vec::new();
    let mut stack: Vec<(&ImageName, String, String)> = Vec::new();
    for root in children.get(&None).into_iter().flatten().rev() {
        stack.push((root, "  ".into(), "  ".into()));
    }
    while let Some((name, lead, below)) = stack.pop() {
        lines.push((format!("{lead}{name}"), name));
        let kids = children.get(&Some(name)).map_or(&[][..], Vec::as_slice);
        for (n, kid) in kids.iter().enumerate().rev() {
            let last = n + 1 == kids.len();
            let (branch, trunk) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            stack.push((kid, format!("{below}{branch}"), format!("{below}{trunk}")));
        }
    }
    let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (line, name) in lines {
        let _ = writeln!(text, "{}", format!("{line:width$}  {}", cell(name)).trim_end());
    }
    text
}
