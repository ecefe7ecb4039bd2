//! What CI and maintainers run: `cargo xtask test|ci|images|bench`.

mod bench;
mod check;
mod family;
mod images;

use std::process::Command;

use anyhow::{Result, ensure};
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
    /// Build the example family through the library.
    Images {
        /// Which images; all when none is named.
        selectors: Vec<String>,
    },
    /// Time imgforge beside `docker build` on generated families. Needs a Docker Engine whose build cache it may empty.
    Bench {
        /// How many images the families have.
        #[arg(default_values_t = [100, 1000])]
        sizes: Vec<usize>,
    },
}

fn main() -> Result<()> {
    match Args::parse().task {
        Task::Test | Task::Ci => check::run(),
        Task::Images { selectors } => images::run(&selectors),
        Task::Bench { sizes } if cfg!(debug_assertions) => optimised(&sizes),
        Task::Bench { sizes } => bench::run(&sizes),
    }
}

/// Figures of a debug build would say nothing: the same again, built for speed.
fn optimised(sizes: &[usize]) -> Result<()> {
    let cargo = |args: &[&str]| -> Result<()> {
        ensure!(
            Command::new(env!("CARGO")).args(args).status()?.success(),
            "`cargo {}` failed",
            args.join(" ")
        );
        Ok(())
    };
    cargo(&["build", "--release", "-p", "imgforge"])?;
    let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
    let mut args = vec!["run", "--release", "-q", "-p", "xtask", "--", "bench"];
    args.extend(sizes.iter().map(String::as_str));
    cargo(&args)
}
