//! A program that is nothing but a worker, for the tests of this crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    imgforge_embedded::worker::called().unwrap_or(ExitCode::FAILURE)
}
