//! `cargo xtask bench`: imgforge beside what people use today, in one run, on generated families.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use camino::Utf8Path;
use imgforge::core::name::ImageName;
use imgforge::core::render;
use imgforge::{OpenOptions, Session};
use imgforge_worktree::WorkTree;
use rayon::prelude::*;

use crate::family::Family;

/// Each figure is the median of this many runs; cold and root-changed runs are done once.
const RUNS: usize = 5;

/// Prints a table of one family, and the stages of a no-op.
pub(crate) fn family(size: usize) -> Result<()> {
    let binary = binary()?;
    let family = Family::new(size)?;
    println!("\n{size} images (seconds; `x` is how many times as long as imgforge)");
    println!("{:18}{:>10}{:>22}{:>22}", "", "imgforge", "docker build, 4", "docker build, loop");
    // What takes minutes at 1,000 images is measured at 100.
    let others = size <= 200;
    let row = |name: &str, imgforge: Duration, four: Option<Duration>, one: Option<Duration>| {
        let cell = |other: Option<Duration>| {
            let ratio = |other: Duration| other.as_secs_f64() / imgforge.as_secs_f64();
            other.map_or("not run".into(), |other| {
                format!("{:.2} ({:.1} x)", other.as_secs_f64(), ratio(other))
            })
        };
        println!("{name:18}{:>10.3}{:>22}{:>22}", imgforge.as_secs_f64(), cell(four), cell(one));
    };
    let build = || imgforge(&binary, &family.root);
    let plain = |slots| timed(|| family.docker_builds(slots));

    family.forget_images()?;
    let cold = timed(build)?;
    let four = others
        .then(|| {
            family.forget_images()?;
            plain(4)
        })
        .transpose()?;
    let one = others
        .then(|| {
            family.forget_images()?;
            plain(1)
        })
        .transpose()?;
    row("cold", cold, four, one);
    timed(build)?;
    // What one of them has built is in the daemon's cache for the others, so each gets a change of its own.
    let after = |change: Option<usize>, slots: Option<usize>| {
        change.map_or(Ok(()), |n| family.touch(n))?;
        match slots {
            Some(slots) => plain(slots),
            None => timed(build),
        }
    };
    let other = |change, slots| others.then(|| after(change, Some(slots))).transpose();
    for (name, change) in
        [("nothing changed", None), ("a leaf changed", Some(size - 1)), ("the root changed", Some(0))]
    {
        let own = if change == Some(0) { after(change, None) } else { median(|| after(change, None)) };
        row(name, own?, other(change, 4)?, other(change, 1)?);
    }
    stages(&family)
}

pub(crate) fn binary() -> Result<PathBuf> {
    let binary = std::env::current_exe()?.with_file_name("imgforge");
    ensure!(
        binary.exists(),
        "{} is missing: `cargo build` makes it, with `--release` one for speed",
        binary.display()
    );
    Ok(binary)
}

/// A Debian root with nginx and Ruby from a cold package cache, beside mmdebstrap's archive of the same.
pub(crate) fn packages() -> Result<()> {
    let binary = binary()?;
    let name = format!("imgforge-bench-{}-root", std::process::id());
    let root = std::env::temp_dir().join(&name);
    fs::create_dir_all(root.join("os"))?;
    fs::write(
        root.join("imgforge.kdl"),
        format!(
            "workspace \"{name}\" {{\n    registry \"localhost/{name}\"\n}}\napt \"debian\" {{\n    suite \"bookworm\" \"bookworm-updates\" \"bookworm-security\"\n}}\n"
        ),
    )?;
    let manifest =
        "image \"os\" {\n    root \"debian\"\n    packages \"debian\" \"nginx-light\" \"ruby\"\n}\n";
    fs::write(root.join("os/image.kdl"), manifest)?;
    let imgforge = |verb: &str| -> Result<()> {
        let mut command = Command::new(&binary);
        command.args([verb, "-q"]).current_dir(&root).env("IMGFORGE_CACHE", root.join("cache"));
        command.env("IMGFORGE_LOCAL", "1");
        ensure!(command.status()?.success(), "imgforge {verb} failed");
        Ok(())
    };
    println!("\na Debian root with nginx-light and ruby, cold package cache (seconds)");
    let locked = timed(|| imgforge("update"))?;
    let built = timed(|| imgforge("build"))?;
    println!(
        "  imgforge: {:.1} update + {:.1} fetch, build and check",
        locked.as_secs_f64(),
        built.as_secs_f64()
    );
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .args(["--quiet", "--variant=essential", "--include=nginx-light,ruby", "bookworm"])
        .arg(root.join("other.tar"));
    match timed(|| {
        ensure!(mmdebstrap.status()?.success(), "mmdebstrap failed");
        Ok(())
    }) {
        Ok(other) => {
            let ratio = other.as_secs_f64() / (locked + built).as_secs_f64();
            println!("  mmdebstrap: {:.1} for a tar of it ({ratio:.1} x)", other.as_secs_f64());
        }
        Err(error) => println!("  mmdebstrap: not run ({error})"),
    }
    let label = format!("label=imgforge.workspace={name}");
    let ids = Command::new("docker").args(["images", "-q", "--no-trunc", "--filter", &label]).output()?;
    let ids = String::from_utf8_lossy(&ids.stdout).into_owned();
    let ids: BTreeSet<&str> = ids.lines().collect();
    Command::new("docker").args(["rmi", "-f"]).args(ids).stdout(Stdio::null()).status()?;
    Ok(fs::remove_dir_all(&root)?)
}

/// Where the time of a no-op goes, with warm caches; the last line is the daemon's own answer to one list request.
fn stages(family: &Family) -> Result<()> {
    let root = Utf8Path::from_path(&family.root).expect("a UTF-8 temporary folder");
    let names =
        |session: &Session| session.workspace().images.keys().cloned().collect::<BTreeSet<ImageName>>();
    let lock = imgforge::core::lock::Lock::default();
    let open = |cache| Session::open(root, &OpenOptions { cache, ..OpenOptions::default() });
    timed(|| Ok(open(true)?.prepare(&names(&open(true)?), &lock, &[]).map(drop)?))?;

    println!("  stages of a no-op, each alone (ms)");
    let row = |name: &str, took: Duration| println!("    {name:44}{:>8.1}", took.as_secs_f64() * 1000.0);
    row(
        "find, read and parse manifests, no cache",
        median(|| timed(|| open(false).map(drop).map_err(Into::into)))?,
    );
    row("the same, parsed before", median(|| timed(|| open(true).map(drop).map_err(Into::into)))?);
    let session = open(true)?;
    let source = WorkTree::uncached(root);
    let selected = names(&session);
    row(
        "render",
        median(|| {
            timed(|| {
                let render = |name: &ImageName| {
                    render::render(session.workspace(), session.graph(), name, &source).is_ok()
                };
                ensure!(selected.par_iter().all(render), "an image cannot be rendered");
                Ok(())
            })
        })?,
    );
    let prepare = |cache| {
        let session = open(cache)?;
        timed(|| session.prepare(&selected, &lock, &[]).map(drop).map_err(Into::into))
    };
    row("render, list, hash and fingerprint, no cache", median(|| prepare(false))?);
    row("the same, hashed before", median(|| prepare(true))?);
    row(
        "all of `plan`, with the engine's answer",
        median(|| timed(|| Ok(session.plan(&selected, false, true).map(drop)?)))?,
    );
    row("GET /images/json alone", median(|| timed(|| list_request(&family.name)))?);
    Ok(())
}

/// The same request by the shortest way: a socket.
fn list_request(workspace: &str) -> Result<()> {
    use std::io::{Read, Write};
    let mut socket = std::os::unix::net::UnixStream::connect("/var/run/docker.sock")?;
    let filter = format!("%7B%22label%22%3A%5B%22imgforge.workspace%3D{workspace}%22%5D%7D");
    write!(socket, "GET /v1.41/images/json?filters={filter} HTTP/1.0\r\nHost: docker\r\n\r\n")?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1.0 200") || answer.starts_with(b"HTTP/1.1 200"), "the daemon refused");
    Ok(())
}

fn imgforge(binary: &Path, root: &Path) -> Result<()> {
    let mut command = Command::new(binary);
    command.args(["build", "-q", "--local"]).current_dir(root);
    let status = command.stderr(Stdio::inherit()).status()?;
    ensure!(status.success(), "imgforge build failed");
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed())
}

fn median(mut measure: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut all = (0..RUNS).map(|_| measure()).collect::<Result<Vec<_>>>()?;
    all.sort();
    Ok(all[RUNS / 2])
}
