//! What went wrong, for people, and the exit code that says it to programs.

use std::process::ExitCode;

use imgforge::Error;
use imgforge::report::printable;

use crate::console::{BAD, complain, count};

/// The number of problems that are shown: nobody reads more, and each is drawn with its lines.
const SHOWN: usize = 100;

/// Why a verb did not do what it was asked for: the library's error, which has its own exit code.
pub(crate) struct Failure(Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl Failure {
    /// Says it on stderr.
    pub(crate) fn report(self) -> ExitCode {
        let code = self.0.exit_code();
        say(self.0);
        ExitCode::from(code)
    }
}

fn say(error: Error) {
    match error {
        Error::Problems(problems) => {
            let problems = problems.sorted();
            let files: std::collections::BTreeSet<_> =
                problems.iter().filter_map(|p| p.file_path()).collect();
            if files.is_empty() {
                complain(format_args!("{BAD}Error{BAD:#}: {}\n\n", count(problems.len(), "problem")));
            } else {
                let (n, files) = (count(problems.len(), "problem"), count(files.len(), "file"));
                complain(format_args!("{BAD}Error{BAD:#}: {n} in {files}\n\n"));
            }
            let more = problems.len().saturating_sub(SHOWN);
            for problem in problems.into_iter().take(SHOWN) {
                complain(format_args!("{:?}\n", miette::Report::new(problem)));
            }
            if more > 0 {
                complain(format_args!("  and {}\n", count(more, "more problem")));
            }
        }
        other => {
            complain(format_args!("{BAD}Error{BAD:#}: {}\n", printable(&other.to_string())));
            if let Some(help) = other.help() {
                complain(format_args!("  help: {}\n", printable(&help)));
            }
        }
    }
}
