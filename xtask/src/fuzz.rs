//! `cargo xtask fuzz`: the targets of `fuzz/`, run by libFuzzer with the stable compiler.
//!
//! cargo-fuzz wants a nightly compiler for its sanitizers. Coverage alone, which is what guides a fuzzer, is a pass of
//! LLVM that the stable one has too; and in code without `unsafe` a sanitizer has little to find. The flags are those
//! that `cargo fuzz run --sanitizer none` gives, and that works on these targets as well.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use regex::Regex;

/// Where the compiler counts, so that libFuzzer sees what an input reaches.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "--cfg",
    "fuzzing",
];
/// Longest input in bytes: what a reader does wrong, it does with little.
const LONGEST: usize = 16 << 10;
/// What `tar` makes beginnings of: each form of header, and each compression that is read.
const TARS: &[&[&str]] = &[
    &["--format=v7", "--exclude=long*"],
    &["--format=ustar", "--exclude=long*"],
    &["--format=gnu"],
    &["--format=pax"],
    &["--format=gnu", "--sparse"],
    &["--format=pax", "--gzip"],
    &["--format=pax", "--bzip2"],
    &["--format=pax", "--xz"],
    &["--format=pax", "--zstd"],
];

/// What reads the files of others.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// Dockerfiles.
    Dockerfile,
    /// Manifests.
    Manifest,
    /// Debian control data.
    Control,
    /// Layers. Needs root.
    Layer,
    /// The archives of ADD. Needs root.
    Archive,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Dockerfile => "dockerfile",
            Self::Manifest => "manifest",
            Self::Control => "control",
            Self::Layer => "layer",
            Self::Archive => "archive",
        }
    }

    /// What to begin with.
    fn seeds(self, root: &Path) -> Result<BTreeSet<Vec<u8>>> {
        let texts = |folder: &str, endings: &[&str]| -> Result<BTreeSet<Vec<u8>>> {
            let mut found = BTreeSet::new();
            for file in files(&root.join(folder))? {
                if endings.iter().any(|ending| file.to_string_lossy().ends_with(ending)) {
                    found.insert(fs::read(&file)?);
                }
            }
            Ok(found)
        };
        let mut seeds = match self {
            Self::Dockerfile => {
                let mut seeds = literals(&root.join("crates/imgforge-dockerfile/src"))?;
                seeds.extend(literals(&root.join("tests/e2e"))?);
                // An instruction alone is of no use.
                let staged = |text: Vec<u8>| [b"FROM base\n", text.as_slice()].concat();
                let is_whole = |text: &[u8]| text.windows(5).any(|word| word == b"FROM ");
                let (whole, lines): (BTreeSet<_>, BTreeSet<_>) =
                    seeds.into_iter().partition(|text| is_whole(text));
                let mut seeds: BTreeSet<_> = lines.into_iter().map(staged).collect();
                seeds.extend(whole);
                seeds.extend(texts("images", &["Dockerfile"])?);
                seeds
            }
            Self::Manifest => {
                let mut seeds = literals(&root.join("crates/imgforge-core/src"))?;
                seeds.retain(|text| text.contains(&b'"'));
                seeds.extend(texts("images", &[".kdl"])?);
                seeds.extend(texts("crates/imgforge-core", &[".kdl"])?);
                seeds.insert(fs::read(root.join("imgforge.kdl"))?);
                seeds
            }
            Self::Control => literals(&root.join("crates/imgforge-packages"))?,
            Self::Layer | Self::Archive => tars()?,
        };
        seeds.retain(|seed| seed.len() <= LONGEST);
        Ok(seeds)
    }
}

/// Runs each target for so many seconds; all of them when none is given. What makes one fail is kept under the target
/// folder, and told.
pub(crate) fn run(targets: &[Target], seconds: u64) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    let place = place(root)?.join("fuzz");
    let binaries = build(root, &place)?;
    let targets = if targets.is_empty() { Target::value_variants() } else { targets };
    let mut failed = Vec::new();
    for target in targets {
        let name = target.name();
        let [seeds, corpus, failures] =
            ["seeds", "corpus", "failures"].map(|kind| place.join(kind).join(name));
        for folder in [&seeds, &corpus, &failures] {
            fs::create_dir_all(folder)?;
        }
        for seed in target.seeds(root)? {
            let mut hasher = DefaultHasher::new();
            seed.hash(&mut hasher);
            fs::write(seeds.join(format!("{:016x}", hasher.finish())), seed)?;
        }
        eprintln!("      Fuzz {name}, {seconds} s");
        let mut fuzzer = Command::new(binaries.join(name));
        fuzzer.args([&corpus, &seeds]).arg(format!("-artifact_prefix={}/", failures.display())).args([
            format!("-max_total_time={seconds}"),
            format!("-max_len={LONGEST}"),
            "-timeout=10".into(),
            "-print_final_stats=1".into(),
        ]);
        let words = root.join("fuzz/words").join(format!("{name}.dict"));
        if words.exists() {
            fuzzer.arg(format!("-dict={}", words.display()));
        }
        if !fuzzer.status().with_context(|| format!("cannot start the target {name}"))?.success() {
            failed.push(format!("{name}: see {}", failures.display()));
        }
    }
    if !failed.is_empty() {
        bail!("an input does what no input may do\n{}", failed.join("\n"));
    }
    Ok(())
}

/// The folder that cargo builds into.
fn place(root: &Path) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    Ok(target.map_or_else(|| root.join("target"), Path::to_path_buf))
}

/// Builds all targets; the folder that they are in.
fn build(root: &Path, place: &Path) -> Result<PathBuf> {
    let version = Command::new("rustc").arg("-vV").output().context("cannot start rustc")?;
    let version = String::from_utf8(version.stdout)?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc has no host")?;
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--bins", "--manifest-path"])
        .arg(root.join("fuzz/Cargo.toml"))
        // With a target, what runs during the build is not counted in.
        .args(["--target", host, "--target-dir"])
        .arg(place)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"))
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "the fuzz targets do not build (libFuzzer needs a C++ compiler: g++ or clang)");
    Ok(place.join(host).join("release"))
}

/// The files below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut todo = vec![folder.to_path_buf()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                todo.push(path);
            } else {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// The texts that the tests below a folder try.
fn literals(folder: &Path) -> Result<BTreeSet<Vec<u8>>> {
    let literal = Regex::new(r##"(?s)r#"(?<raw>.*?)"#|"(?<text>(?:[^"\\]|\\.)*)""##)?;
    let mut found = BTreeSet::new();
    for file in files(folder)?.iter().filter(|file| file.extension().is_some_and(|ending| ending == "rs")) {
        let source = fs::read_to_string(file)?;
        for captures in literal.captures_iter(&source) {
            let text = match (captures.name("raw"), captures.name("text")) {
                (Some(raw), _) => raw.as_str().to_owned(),
                (None, Some(text)) => unescaped(text.as_str()),
                (None, None) => continue,
            };
            if text.contains(' ') {
                found.insert(text.into_bytes());
            }
        }
    }
    Ok(found)
}

/// A literal's text, nearly: a seed need not be exact.
fn unescaped(literal: &str) -> String {
    let mut out = String::new();
    let mut rest = literal.chars();
    while let Some(c) = rest.next() {
        match (c, (c == '\\').then(|| rest.next()).flatten()) {
            (_, Some('n')) => out.push('\n'),
            (_, Some('t')) => out.push('\t'),
            (_, Some('r')) => out.push('\r'),
            (_, Some('\n')) => rest = rest.as_str().trim_start().chars(),
            (_, Some(escaped)) => out.push(escaped),
            (c, None) => out.push(c),
        }
    }
    out
}

/// Tars of a few files, in every form that is read, and one that stands for entries (see `fuzz/src/lib.rs`).
fn tars() -> Result<BTreeSet<Vec<u8>>> {
    let folder = tempfile::tempdir()?;
    let files = folder.path().join("files");
    fs::create_dir_all(files.join("a/folder"))?;
    fs::write(files.join("a/file"), "content")?;
    fs::write(files.join("a").join("long".repeat(40)), "")?;
    fs::File::create(files.join("hole"))?.set_len(4096)?;
    fs::hard_link(files.join("a/file"), files.join("same"))?;
    std::os::unix::fs::symlink("../outside", files.join("link"))?;
    let mut found = BTreeSet::from([(0..=255).collect::<Vec<u8>>()]);
    for options in TARS {
        let tar = folder.path().join("tar");
        let mut command = Command::new("tar");
        command.args(*options).arg("--blocking-factor=1").arg("-cf").arg(&tar).arg("-C").arg(&files).arg(".");
        let made = command.status().context("cannot start tar")?;
        ensure!(made.success(), "tar {} failed", options.join(" "));
        found.insert(fs::read(&tar)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_something_to_begin_with() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for target in Target::value_variants() {
            let seeds = target.seeds(root).unwrap();
            assert!(seeds.len() >= TARS.len(), "{}: {}", target.name(), seeds.len());
            assert!(root.join("fuzz/targets").join(target.name()).with_extension("rs").exists());
        }
        let dockerfiles = Target::Dockerfile.seeds(root).unwrap();
        assert!(dockerfiles.contains(&b"FROM base\nCOPY a.txt /real/"[..]));
    }

    #[test]
    fn a_literal_is_what_it_stands_for() {
        assert_eq!(
            unescaped(
                r#"a\n\"b\"\\\
              c"#
            ),
            "a\n\"b\"\\c"
        );
    }
}
