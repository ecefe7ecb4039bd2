//! `cargo xtask bench layers`: packing and unpacking a layer beside `tar` with `pigz` and `zstd`, which use all
//! processors too. The Debian packages pigz and zstd are needed.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use imgforge_embedded::layer::{self, Clamp};
use imgforge_embedded::worker::message::Compression;

/// Mixed files: programs and libraries, and texts.
const FILES: [&str; 2] = ["/usr/bin", "/usr/share"];
/// Times are left alone: what is measured twice must be the same twice.
const CLAMP: Clamp = Clamp { since: i64::MAX, epoch: 0 };

/// Prints a table.
pub(crate) fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let root = Utf8PathBuf::try_from(folder.path().to_owned())?;
    let files = root.join("files");
    fs::create_dir(&files)?;
    shell(&format!("cp -a {} {files}", FILES.join(" ")))?;
    // Once for all: what is read is in memory for each of them.
    shell(&format!("tar -C {files} -cf - . | cat > /dev/null"))?;
    println!("\n{} as a layer (MB of files a second, and the size)", FILES.join(" and "));
    println!("{:28}{:>10}{:>12}{:>12}", "", "pack", "unpack", "MB");
    let mut size = 0;
    for (name, compression) in [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)] {
        let (blob, to) = (root.join(name), root.join(format!("{name}-files")));
        settle()?;
        let packed = Instant::now();
        let layer = layer::pack(&files, &[], CLAMP, compression, &blob)?;
        let packed = packed.elapsed();
        size = layer.map_or(0, |layer| layer.unpacked_size);
        settle()?;
        let unpacked = Instant::now();
        layer::unpack(&blob, &[], &to)?;
        row(
            &format!("imgforge {name}"),
            size,
            packed.as_secs_f64(),
            unpacked.elapsed().as_secs_f64(),
            &blob,
        )?;
        fs::remove_dir_all(&to)?;
    }
    for (name, pack, unpack) in
        [("tar, pigz", "pigz", "pigz -dc"), ("tar, zstd -T0", "zstd -q -T0", "zstd -q -dc")]
    {
        let (blob, to) = (root.join("other"), root.join("other-files"));
        fs::create_dir(&to)?;
        settle()?;
        let packed = Instant::now();
        shell(&format!("tar -C {files} --sort=name -cf - . | {pack} > {blob}"))?;
        let packed = packed.elapsed();
        settle()?;
        let unpacked = Instant::now();
        shell(&format!("{unpack} < {blob} | tar -C {to} -xpf -"))?;
        row(name, size, packed.as_secs_f64(), unpacked.elapsed().as_secs_f64(), &blob)?;
        fs::remove_dir_all(&to)?;
    }
    println!("(imgforge counts two SHA-256 meanwhile; the others none)");
    Ok(())
}

/// Puts on the disk what was written before: whoever writes next would wait for it.
fn settle() -> Result<()> {
    shell("sync")
}

fn row(name: &str, size: u64, packed: f64, unpacked: f64, blob: &Utf8Path) -> Result<()> {
    let megabytes = size as f64 / 1e6;
    let blob = fs::metadata(blob)?.len() as f64 / 1e6;
    println!("{name:28}{:>10.0}{:>12.0}{blob:>12.1}", megabytes / packed, megabytes / unpacked);
    Ok(())
}

fn shell(script: &str) -> Result<()> {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("set -eo pipefail; {script}")]).stdin(Stdio::null());
    ensure!(command.status()?.success(), "`{script}` failed");
    Ok(())
}
