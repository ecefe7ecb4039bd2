//! `cargo xtask bench compile`: what a newcomer waits for, and what a change of one verb costs.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The number of crates that are named, the most expensive first.
const NAMED: usize = 25;

/// A unit of the build, as the page that `cargo build --timings` writes has it.
#[derive(Deserialize)]
struct Unit {
    name: String,
    /// `""`, or ` (build script)` and the like.
    target: String,
    /// In seconds, with the others at work beside it.
    duration: f64,
}

/// Compiles the README's first command from nothing into a folder of its own, and prints what that takes, what comes
/// out, which crates it goes to, and how long a debug build takes after a change of one verb.
pub(crate) fn run() -> Result<()> {
    let target = tempfile::tempdir()?;
    let (wall, processor) = build(target.path(), &["--release", "--timings"])?;
    let page = fs::read_to_string(target.path().join("cargo-timings/cargo-timing.html"))?;
    let mut units = units(&page).context("cargo's page of timings has another form than this reads")?;
    let binary = target.path().join("release/imgforge");
    let whole = fs::metadata(&binary)?.len();
    let stripped = target.path().join("stripped");
    let status = Command::new("strip").arg("-o").arg(&stripped).arg(&binary).status()?;
    ensure!(status.success(), "strip failed");
    let stripped = fs::metadata(&stripped)?.len();
    println!("\nrelease build from nothing: {} units", units.len());
    println!(
        "  {:.0} s of processor time, {:.0} s on the clock",
        processor.as_secs_f64(),
        wall.as_secs_f64()
    );
    println!("  binary: {:.1} MB, stripped {:.1} MB", megabytes(whole), megabytes(stripped));
    println!("  the most expensive (seconds on the clock, with others beside them):");
    units.sort_by(|a, b| b.duration.total_cmp(&a.duration));
    for unit in units.iter().take(NAMED) {
        println!("    {:7.1}  {}{}", unit.duration, unit.name, unit.target);
    }

    build(target.path(), &[])?;
    let verb = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/imgforge/src/verbs/list.rs");
    let file = File::options().append(true).open(verb)?;
    let before = file.metadata()?.modified()?;
    file.set_modified(SystemTime::now())?;
    let again = build(target.path(), &[]);
    file.set_modified(before)?;
    println!("debug build after a change of one verb: {:.1} s on the clock", again?.0.as_secs_f64());
    Ok(())
}

/// Builds imgforge into `target`: the time on the clock, and the processor time of cargo and all that it started.
fn build(target: &Path, flags: &[&str]) -> Result<(Duration, Duration)> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", "imgforge", "--target-dir"]).arg(target).args(flags);
    let (began, before) = (Instant::now(), time_of_children()?);
    let status = cargo.stdout(Stdio::null()).status()?;
    ensure!(status.success(), "cargo build failed");
    Ok((began.elapsed(), time_of_children()?.saturating_sub(before)))
}

/// The processor time of all processes that this one has waited for, and theirs (proc(5), `/proc/pid/stat`, fields 16
/// and 17, in hundredths of a second on Linux).
fn time_of_children() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(") ").context("/proc/self/stat")?;
    let ticks: u64 = fields.split(' ').skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// The units that cargo's page lists: it holds them as JSON.
fn units(page: &str) -> Option<Vec<Unit>> {
    let (_, rest) = page.split_once("const UNIT_DATA = ")?;
    let (json, _) = rest.split_once(";\n")?;
    serde_json::from_str(json).ok()
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
