//! `cargo xtask bench engine`: the embedded engine beside Docker through imgforge, `docker build` and `buildah`, on the
//! same generated families, in one run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use imgforge_testkit::docker::Docker;

use crate::bench::binary;
use crate::family::{Family, plain_docker};

/// How many builds run at once of those that people start themselves.
const SLOTS: usize = 4;

/// RUN steps in the image whose steps are counted.
const STEPS: usize = 50;

/// How the manifest of the example family begins.
const EXAMPLE: &str = "workspace \"example\"";

/// Who builds.
#[derive(Clone, Copy, PartialEq)]
enum Builder {
    Embedded,
    Docker,
    DockerBuild,
    Buildah,
}

const BUILDERS: [Builder; 4] = [Builder::Embedded, Builder::Docker, Builder::DockerBuild, Builder::Buildah];

impl Builder {
    fn title(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Docker => "imgforge on Docker",
            Self::DockerBuild => "docker build, 4",
            Self::Buildah => "buildah, 4",
        }
    }
}

/// Prints a table for each size, and what one step costs.
pub(crate) fn run() -> Result<()> {
    for size in [20, 100] {
        families(size)?;
    }
    example()?;
    steps()
}

/// The example family of this repository: a Debian root of locked packages, and what stands on it. Cold, with the
/// packages in the cache, without tests.
fn example() -> Result<()> {
    let name = format!("imgforge-bench-{}-example", std::process::id());
    let root = Scratch(std::env::temp_dir().join(&name));
    fs::create_dir_all(&root.0)?;
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    for part in ["images", "templates", "imgforge.kdl", "imgforge.lock"] {
        ensure!(
            Command::new("cp").arg("-a").arg(repository.join(part)).arg(&root.0).status()?.success(),
            "cannot copy {part}"
        );
    }
    // Of a name of its own, so that nothing of the repository's own family is removed.
    let manifest = fs::read_to_string(root.0.join("imgforge.kdl"))?;
    ensure!(manifest.contains(EXAMPLE), "the example family has another name");
    fs::write(root.0.join("imgforge.kdl"), manifest.replace(EXAMPLE, &format!("workspace \"{name}\"")))?;
    let label = format!("imgforge.workspace={name}");
    // What it needs is fetched, and locked anew where the mirrors have dropped it.
    imgforge(&root.0, "embedded")?;
    println!("\nthe example family: Debian packages, cold, from the package cache (seconds)");
    BUILDERS.iter().for_each(|builder| print!("{:>24}", builder.title()));
    println!();
    for builder in BUILDERS {
        let took = match builder {
            Builder::Embedded => {
                fs::remove_dir_all(root.0.join(".imgforge/store"))?;
                timed(|| imgforge(&root.0, "embedded"))
            }
            Builder::Docker => {
                Docker::remove_images_labelled(&label);
                Command::new(plain_docker())
                    .args(["builder", "prune", "-af"])
                    .stdout(Stdio::null())
                    .status()?;
                timed(|| imgforge(&root.0, "docker"))
            }
            // They would need the roots and the packages, which imgforge stages while it builds.
            Builder::DockerBuild | Builder::Buildah => Err(anyhow!("imgforge's context")),
        };
        let cell = match took {
            Ok(took) => format!("{:.1}", took.as_secs_f64()),
            Err(error) => format!("not run: {error}"),
        };
        print!("{cell:>24}");
    }
    println!();
    Docker::remove_images_labelled(&label);
    Ok(())
}

fn families(size: usize) -> Result<()> {
    let family = Family::new(size)?;
    let storage = tempfile::tempdir()?;
    println!("\n{size} images (seconds; `x` is how many times as long as the embedded engine)");
    print!("{:18}", "");
    BUILDERS.iter().for_each(|builder| print!("{:>24}", builder.title()));
    println!();
    for (name, change) in [
        ("cold", None),
        ("nothing changed", None),
        ("a leaf changed", Some(size - 1)),
        ("the root changed", Some(0)),
    ] {
        let mut embedded = None;
        print!("{name:18}");
        for builder in BUILDERS {
            if name == "cold" {
                forget(&family, builder, storage.path())?;
            }
            // What one of them has built is in the daemon's cache for the next, so each gets a change of its own.
            change.map_or(Ok(()), |n| family.touch(n))?;
            let cell = match timed(|| build(&family, builder, storage.path())) {
                Ok(took) => {
                    let took = took.as_secs_f64();
                    let base = *embedded.get_or_insert(took);
                    if builder == Builder::Embedded {
                        format!("{took:.3}")
                    } else {
                        format!("{took:.2} ({:.1} x)", took / base)
                    }
                }
                Err(error) => format!("not run: {error}"),
            };
            print!("{cell:>24}");
        }
        println!();
        if name == "cold" {
            // A cold run of one has taken the images of another away.
            for builder in BUILDERS {
                let _ = build(&family, builder, storage.path());
            }
        }
    }
    // Whatever user namespaces made belongs to others.
    Command::new("rm").arg("-rf").arg(storage.keep()).status()?;
    Ok(())
}

fn forget(family: &Family, builder: Builder, storage: &Path) -> Result<()> {
    match builder {
        Builder::Embedded => {
            let store = family.root.join(".imgforge/store");
            if store.exists() {
                fs::remove_dir_all(store)?;
            }
            Ok(())
        }
        Builder::Docker | Builder::DockerBuild => family.forget_images(),
        Builder::Buildah => {
            for folder in ["root", "run"] {
                Command::new("rm").arg("-rf").arg(storage.join(folder)).status()?;
            }
            Ok(())
        }
    }
}

fn build(family: &Family, builder: Builder, storage: &Path) -> Result<()> {
    match builder {
        Builder::Embedded => imgforge(&family.root, "embedded"),
        Builder::Docker => imgforge(&family.root, "docker"),
        Builder::DockerBuild => family.docker_builds(SLOTS),
        Builder::Buildah => family.buildah_builds(SLOTS, storage),
    }
}

fn imgforge(root: &Path, engine: &str) -> Result<()> {
    let mut command = Command::new(binary()?);
    command.args(["build", "-q", "--local", "--no-test", "--engine", engine]).current_dir(root);
    let status = command.stderr(Stdio::inherit()).status()?;
    ensure!(status.success(), "imgforge build failed");
    Ok(())
}

/// One image with many RUNs that do nothing, and one with none: the difference is what steps cost by themselves.
fn steps() -> Result<()> {
    println!("\none RUN that does nothing, mean of {STEPS} (ms)");
    for engine in ["embedded", "docker"] {
        let none = image_with(0, engine)?;
        let many = image_with(STEPS, engine)?;
        let each = many.saturating_sub(none) / u32::try_from(STEPS)?;
        println!("  {engine:12}{:>8.1}", each.as_secs_f64() * 1000.0);
    }
    Ok(())
}

fn image_with(steps: usize, engine: &str) -> Result<Duration> {
    let name = format!("imgforge-bench-{}-steps-{steps}", std::process::id());
    let root = Scratch(std::env::temp_dir().join(&name));
    fs::create_dir_all(root.0.join("i"))?;
    fs::write(root.0.join("imgforge.kdl"), format!("workspace \"{name}\"\n"))?;
    fs::copy("/bin/busybox", root.0.join("i/busybox"))?;
    let mut manifest = String::from("    from \"scratch\"\n    copy \"busybox\" \"/bin/sh\"\n");
    for n in 0..steps {
        manifest.push_str(&format!("    run \": {n}\"\n"));
    }
    fs::write(root.0.join("i/image.kdl"), format!("image \"{name}\" {{\n{manifest}}}\n"))?;
    timed(|| imgforge(&root.0, engine))
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed())
}
