//! The rows of the tables, in groups.

mod children;
mod container;
mod ends;
mod output;
mod process;
mod readiness;
mod starting;
mod status;
mod stopping;

use super::Behaviour;

/// A heading, and what is below it.
pub(super) const GROUPS: &[(&str, &[Behaviour])] = &[
    ("Starting", starting::ROWS),
    ("Readiness", readiness::ROWS),
    ("What happens at an end", ends::ROWS),
    ("Stopping and signals", stopping::ROWS),
    ("What a process gets", process::ROWS),
    ("Output", output::ROWS),
    ("The container", container::ROWS),
    ("Parents and children", children::ROWS),
    ("Being asked", status::ROWS),
];

/// All of them.
pub(super) fn all() -> impl Iterator<Item = &'static Behaviour> {
    GROUPS.iter().flat_map(|(_, rows)| *rows)
}
