//! What went wrong, for people, and the exit code that says it to programs.

use std::process::ExitCode;

use imgforge::Error;

use crate::console::{BAD, count};

/// Why a verb did not do what it was asked for.
pub(crate) enum Failure {
    /// The library's error, which has its own exit code.
    Library(Error),
    /// Everything was said already (a failed build's report): only the code is left.
    Said(u8),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Library(error)
    }
}

impl Failure {
    /// Says it on stderr.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::Said(code) => ExitCode::from(code),
            Self::Library(error) => {
                let code = error.exit_code();
                say(error);
                ExitCode::from(code)
            }
        }
    }
}

fn say(error: Error) {
    match error {
        Error::Problems(problems) => {
            let problems = problems.sorted();
            let files: std::collections::BTreeSet<_> =
                problems.iter().filter_map(|p| p.file_path()).collect();
            if files.is_empty() {
                anstream::eprintln!("{BAD}Error{BAD:#}: {}\n", count(problems.len(), "problem"));
            } else {
                let (n, files) = (count(problems.len(), "problem"), count(files.len(), "file"));
                anstream::eprintln!("{BAD}Error{BAD:#}: {n} in {files}\n");
            }
            for problem in problems {
                anstream::eprintln!("{:?}", miette::Report::new(problem));
            }
        }
        other => {
            anstream::eprintln!("{BAD}Error{BAD:#}: {other}");
            if let Some(help) = other.help() {
                anstream::eprintln!("  help: {help}");
            }
        }
    }
}
