//! `cargo xtask kernel`: the embedded engine under the kernel of a Debian release, in a virtual machine that QEMU
//! emulates. Machines that run the tests have one kernel and one version of control groups; users have others.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::check::install;

/// What the machine is made with: a Debian package, and a file of it.
const TOOLS: &[(&str, &str)] = &[
    ("busybox-static", "/bin/busybox"),
    ("e2fsprogs", "/sbin/mkfs.ext4"),
    ("mmdebstrap", "/usr/bin/mmdebstrap"),
    ("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
];
/// What is in it.
const PACKAGES: &str = "linux-image-cloud-amd64,initramfs-tools,iproute2,mount,procps,uidmap";
/// What must hold there; those with a digest have the same image as this machine.
const CHECKS: &[&str] = &["root", "quiet", "range", "single"];
const DIGESTS: &[&str] = &["root", "range", "single"];
/// An emulated machine is slow, and one that hangs is ended.
const SECONDS: &str = "600";

pub(crate) fn run(suite: &str) -> Result<()> {
    ensure!(
        suite.bytes().all(|byte| byte.is_ascii_lowercase()),
        "a suite is the name of a Debian release, as `bookworm`"
    );
    install(TOOLS)?;
    succeed(Command::new(env!("CARGO")).args(["build", "--workspace"]))?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernel");
    // Beside this program, where the one that is tested is too.
    let program = std::env::current_exe()?.with_file_name("imgforge");
    let folder = program.with_file_name("kernel");
    fs::create_dir_all(&folder)?;
    let archive = folder.join(format!("{suite}.tar"));
    if !archive.exists() {
        eprintln!("    Making {}", archive.display());
        let part = folder.join(format!("{suite}.part.tar"));
        let include = format!("--include={PACKAGES}");
        succeed(Command::new("mmdebstrap").args(["--quiet", "--variant=apt", &include, suite]).arg(&part))?;
        fs::rename(part, &archive)?;
    }
    let machine = tempfile::tempdir_in(&folder)?;
    let root = machine.path().join("root");
    fs::create_dir(&root)?;
    succeed(Command::new("tar").arg("-C").arg(&root).arg("-xf").arg(&archive))?;
    let workspace = root.join("ws");
    succeed(Command::new("cp").arg("-r").arg(source.join("workspace")).arg(&workspace))?;
    fs::copy("/bin/busybox", workspace.join("base/busybox"))?;
    fs::copy(source.join("guest.sh"), root.join("guest.sh"))?;
    fs::copy(&program, root.join("usr/local/bin/imgforge"))?;

    let here = machine.path().join("ws");
    succeed(Command::new("cp").arg("-r").arg(&workspace).arg(&here))?;
    let mut build = Command::new(&program);
    succeed(build.arg("build").current_dir(&here).env("IMGFORGE_ENGINE", "embedded"))?;
    let expected = digest(&here)?;

    eprintln!("  Starting a virtual machine");
    let told = boot(machine.path(), &root)?;
    print!("{}", judge(&told, &expected)?);
    Ok(())
}

/// Runs `guest.sh` as process 1 on this root file system. What the machine says on its serial line.
fn boot(folder: &Path, root: &Path) -> Result<String> {
    let disk = folder.join("disk");
    File::create(&disk)?.set_len(3 << 30)?;
    succeed(Command::new("/sbin/mkfs.ext4").arg("-qF").arg("-d").arg(root).arg(&disk))?;
    let output = Command::new("timeout")
        .args([SECONDS, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "2048"])
        .args(["-smp", "2", "-nographic", "-no-reboot", "-nic", "none"])
        .args(["-append", "console=ttyS0 root=/dev/vda rw init=/guest.sh quiet panic=-1"])
        .arg("-kernel")
        .arg(only(&root.join("boot"), "vmlinuz-")?)
        .arg("-initrd")
        .arg(only(&root.join("boot"), "initrd.img-")?)
        .arg("-drive")
        .arg(format!("file={},if=virtio,format=raw", disk.display()))
        .stdin(Stdio::null())
        .output()
        .context("cannot start qemu-system-x86_64")?;
    Ok(String::from_utf8_lossy(&output.stdout).replace('\r', ""))
}

/// What holds, a line each.
fn judge(told: &str, expected: &str) -> Result<String> {
    let words = |kind: &str| -> BTreeMap<&str, &str> {
        told.lines().filter_map(|line| line.strip_prefix(kind)?.trim().split_once(' ')).collect()
    };
    let (checks, digests) = (words("CHECK "), words("DIGEST "));
    let kernel = told.lines().find_map(|line| line.strip_prefix("KERNEL ")).unwrap_or("that did not start");
    let mut text = format!("Linux {kernel}, control groups of version 2\n");
    let mut is_good = true;
    for name in CHECKS {
        let found = checks.get(name).copied().unwrap_or("did not come");
        let same = match digests.get(name) {
            _ if !DIGESTS.contains(name) => "",
            Some(digest) if *digest == expected => ", the same digest as here",
            _ => ", another digest than here",
        };
        is_good &= found == "ok" && !same.contains("another");
        text.push_str(&format!("  {name:8} {found}{same}\n"));
    }
    if !is_good {
        bail!("{text}\nThe machine said:\n{told}");
    }
    Ok(text)
}

/// The digest of the image `app` of a workspace's store.
fn digest(workspace: &Path) -> Result<String> {
    let index = fs::read(workspace.join(".imgforge/store/index.json"))?;
    let index: serde_json::Value = serde_json::from_slice(&index)?;
    let manifests = index["manifests"].as_array().context("the store's index lists nothing")?;
    let name = "org.opencontainers.image.ref.name";
    let app = manifests.iter().find(|entry| entry["annotations"][name] == "app:latest");
    let digest = app.and_then(|entry| entry["digest"].as_str()).context("the image `app` is not there")?;
    Ok(digest.to_owned())
}

/// The only file of a folder whose name begins so.
fn only(folder: &Path, start: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(start) {
            found.push(entry.path());
        }
    }
    match found.pop() {
        Some(path) if found.is_empty() => Ok(path),
        _ => bail!("{} has not one file {start}*", folder.display()),
    }
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed");
    Ok(())
}
