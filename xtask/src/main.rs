//! What CI and maintainers run: `cargo xtask test|ci|images|bench|fuzz|kernel|roots`.

mod bench;
mod check;
mod compile;
mod engine;
mod family;
mod faults_build;
mod faults_promote;
mod faults_push;
mod faults_verbs;
mod fuzz;
mod images;
mod kernel;
mod layers;
mod push;
mod quadlet;
mod roots;
mod services;
mod soak;

use std::process::{Command, ExitCode};

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
    /// Time imgforge beside `docker build` on generated families, and supervisors beside images written by hand.
    /// Needs a Docker Engine whose build cache it may empty.
    Bench {
        /// Sizes of families, `packages`, `services`, `push`, `engine`, `layers`, `compile`, `faults` or `faults:ROUNDS`,
        /// `faults-push` or `faults-push:PUSHES`, `faults-build` or `faults-build:PROCESSES`, `faults-promote` or
        /// `faults-promote:PAIRS`.
        #[arg(default_values_t = [Topic::Family(100), Topic::Family(1000), Topic::Packages, Topic::Services])]
        topics: Vec<Topic>,
    },
    /// Give the readers of files that others have made inputs that libFuzzer makes up.
    Fuzz {
        /// Which readers; all when none is named.
        targets: Vec<fuzz::Target>,
        /// For how long each.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Try the embedded engine under the kernel of a Debian release, in a virtual machine: as root and not. Needs root.
    Kernel {
        /// The release.
        #[arg(default_value = "bookworm")]
        suite: String,
    },
    /// Compare roots of Debian packages that are chosen by chance with mmdebstrap's, file by file. Needs root.
    Roots {
        /// How many.
        #[arg(default_value_t = 10)]
        sets: usize,
        /// The same number gives the same sets, while the mirror has the same packages.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// What `bench faults-push` starts, and kills: pushes one generation of its family.
    #[command(hide = true)]
    PushGeneration {
        /// The registry.
        host: String,
        /// What the generation is made of.
        folder: camino::Utf8PathBuf,
    },
}

/// What is measured.
#[derive(Clone, Copy)]
enum Topic {
    /// A generated family of so many images.
    Family(usize),
    /// A root file system of packages.
    Packages,
    /// Supervisors.
    Services,
    /// What a push sends.
    Push,
    /// The embedded engine.
    Engine,
    /// Layers packed and unpacked.
    Layers,
    /// The build of imgforge itself.
    Compile,
    /// So many rounds of commands that are disturbed, and so many pairs of promotions.
    Faults(usize),
    /// So many pushes into a registry that fails, by processes that are killed.
    FaultsPush(usize),
    /// So many runs of `imgforge build --push` there, killed as well.
    FaultsBuild(usize),
    /// So many pairs of promotions at once.
    FaultsPromote(usize),
}

impl Topic {
    /// Whether what happens is counted, or the speed of this program is not measured: it need not be optimised.
    fn counts(&self) -> bool {
        matches!(
            self,
            Self::Compile
                | Self::Faults(_)
                | Self::FaultsPush(_)
                | Self::FaultsBuild(_)
                | Self::FaultsPromote(_)
        )
    }
}

impl std::str::FromStr for Topic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "packages" => Ok(Self::Packages),
            "services" => Ok(Self::Services),
            "push" => Ok(Self::Push),
            "engine" => Ok(Self::Engine),
            "layers" => Ok(Self::Layers),
            "compile" => Ok(Self::Compile),
            "faults" => Ok(Self::Faults(1000)),
            "faults-push" => Ok(Self::FaultsPush(1000)),
            "faults-build" => Ok(Self::FaultsBuild(100)),
            "faults-promote" => Ok(Self::FaultsPromote(1000)),
            text => {
                let wrong = |_| {
                    "a number of images, `packages`, `services`, `push`, `engine`, `layers`, `compile`, `faults` or `faults:ROUNDS`, \
                     `faults-push` or `faults-push:PUSHES`, `faults-build` or `faults-build:PROCESSES`, \
                     `faults-promote` or `faults-promote:PAIRS`"
                        .to_owned()
                };
                match text.split_once(':') {
                    Some(("faults", number)) => number.parse().map(Self::Faults).map_err(wrong),
                    Some(("faults-push", number)) => number.parse().map(Self::FaultsPush).map_err(wrong),
                    Some(("faults-build", number)) => number.parse().map(Self::FaultsBuild).map_err(wrong),
                    Some(("faults-promote", number)) => {
                        number.parse().map(Self::FaultsPromote).map_err(wrong)
                    }
                    _ => text.parse().map(Self::Family).map_err(wrong),
                }
            }
        }
    }
}

impl std::fmt::Display for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Family(size) => size.fmt(f),
            Self::Packages => f.write_str("packages"),
            Self::Services => f.write_str("services"),
            Self::Push => f.write_str("push"),
            Self::Engine => f.write_str("engine"),
            Self::Layers => f.write_str("layers"),
            Self::Compile => f.write_str("compile"),
            Self::Faults(rounds) => write!(f, "faults:{rounds}"),
            Self::FaultsPush(pushes) => write!(f, "faults-push:{pushes}"),
            Self::FaultsBuild(processes) => write!(f, "faults-build:{processes}"),
            Self::FaultsPromote(pairs) => write!(f, "faults-promote:{pairs}"),
        }
    }
}

/// Debian packages of the programs that imgforge is measured beside, and a file by which each is known to be there.
const PEERS: &[(&str, &str)] = &[("buildah", "/usr/bin/buildah"), ("mmdebstrap", "/usr/bin/mmdebstrap")];

/// What went wrong has been told by whoever was started: no stack trace of this program comes after it.
fn main() -> ExitCode {
    match run(Args::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Test | Task::Ci => check::run(),
        Task::Images { selectors } => images::run(&selectors),
        Task::Fuzz { targets, seconds } => fuzz::run(&targets, seconds),
        Task::Roots { sets, seed } => roots::run(sets, seed),
        Task::Kernel { suite } => kernel::run(&suite),
        Task::PushGeneration { host, folder } => faults_push::push_generation(&host, &folder),
        Task::Bench { topics } if cfg!(debug_assertions) && !topics.iter().all(Topic::counts) => {
            optimised(&topics)
        }
        Task::Bench { topics } => {
            // A build of imgforge itself needs nothing but what a build needs.
            if !topics.iter().all(|topic| matches!(topic, Topic::Compile)) {
                check::install(check::TOOLS)?;
                check::install(PEERS)?;
            }
            topics.into_iter().try_for_each(bench)
        }
    }
}

fn bench(topic: Topic) -> Result<()> {
    match topic {
        Topic::Family(size) => bench::family(size),
        Topic::Packages => bench::packages(),
        Topic::Services => services::run(),
        Topic::Push => push::run(),
        Topic::Engine => engine::run(),
        Topic::Layers => layers::run(),
        Topic::Compile => compile::run(),
        Topic::Faults(rounds) => faults_verbs::run(rounds).and_then(|()| faults_promote::run(rounds)),
        Topic::FaultsPush(pushes) => faults_push::run(pushes),
        Topic::FaultsBuild(processes) => faults_build::run(processes),
        Topic::FaultsPromote(pairs) => faults_promote::run(pairs),
    }
}

/// Figures of a debug build would say nothing: the same again, built for speed.
fn optimised(topics: &[Topic]) -> Result<()> {
    let cargo = |args: &[&str]| -> Result<()> {
        ensure!(
            Command::new(env!("CARGO")).args(args).status()?.success(),
            "`cargo {}` failed",
            args.join(" ")
        );
        Ok(())
    };
    cargo(&["build", "--release", "-p", "imgforge"])?;
    let topics: Vec<String> = topics.iter().map(ToString::to_string).collect();
    let mut args = vec!["run", "--release", "-q", "-p", "xtask", "--", "bench"];
    args.extend(topics.iter().map(String::as_str));
    cargo(&args)
}
