//! What CI and maintainers run: `cargo xtask test|ci|images|bench`.

mod check;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Tasks of the imgforge repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Formatting, lints, documentation and every test; installs the Debian packages that the tests need.
    Test,
    /// The same as `test`: what CI calls.
    Ci,
}

fn main() -> Result<()> {
    match Args::parse().task {
        Task::Test | Task::Ci => check::run(),
    }
}
