//! The checks that every commit on main passes.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use imgforge_testkit::needs;

/// Debian packages that tests use, and a file by which each is known to be there.
pub(crate) const TOOLS: &[(&str, &str)] = &[
    ("busybox-static", "/bin/busybox"),
    ("docker-compose", "/usr/bin/docker-compose"),
    ("docker-registry", "/usr/bin/docker-registry"),
    ("dpkg-dev", "/usr/bin/dpkg-scanpackages"),
    ("gcc", "/usr/bin/cc"),
    ("git", "/usr/bin/git"),
    ("iproute2", "/sbin/ip"),
    ("libc6-dev", "/usr/share/doc/libc6-dev/copyright"),
    ("openssh-client", "/usr/bin/ssh-agent"),
    ("openssl", "/usr/bin/openssl"),
    ("passt", "/usr/bin/pasta"),
    ("python3-marathon", "/usr/lib/python3/dist-packages/marathon/__init__.py"),
    ("ruby-foreman", "/usr/bin/foreman"),
    ("skopeo", "/usr/bin/skopeo"),
    ("slirp4netns", "/usr/bin/slirp4netns"),
    ("socat", "/usr/bin/socat"),
    ("strace", "/usr/bin/strace"),
    ("systemd", "/usr/bin/systemd-analyze"),
    ("zstd", "/usr/bin/zstd"),
];

/// Formatting, lints, documentation, tests: stops at the first that fails.
pub(crate) fn run() -> Result<()> {
    ensure!(needs::is_root(), "the tests take root, for mounts and namespaces: run this as root");
    install(TOOLS)?;
    crate::quadlet::install()?;
    mount_control_groups();
    start_docker()?;
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    fuzz_targets()?;
    test()?;
    cargo(&["test", "--workspace", "--doc"])?;
    cargo(&["doc", "--workspace", "--no-deps", "--quiet"])
}

/// The targets of `fuzz/`, which are no members of the workspace: they compile without a warning, with the versions of
/// their own lock. In the folder of the workspace, for what both stand on.
fn fuzz_targets() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    let (manifest, tools) = (root.join("fuzz/Cargo.toml"), needs::tools());
    let target = tools.parent().context("the target folder")?;
    let [manifest, target] = [&manifest, target].map(|path| path.display().to_string());
    let place = ["--locked", "--manifest-path", &manifest, "--target-dir", &target];
    cargo(&[&["clippy"], &place[..], &["--", "-D", "warnings"]].concat())
}

/// Tests that need what no package holds: the variable that names it, part of their paths, and what it is.
const IGNORED: &[(&str, &str, &str)] = &[
    (needs::ALPINE, "alpine::", "a tar of Alpine's minimal root file system"),
    (needs::S6_OVERLAY, "s6_overlay", "a tar of what s6-overlay adds to a root file system"),
];

/// All tests. What those that failed have printed comes again at the end, where it is found; without stack traces,
/// which say less than the message and its place and would bury it, unless they are asked for with
/// `RUST_BACKTRACE=full`. Tests that are ignored run where the variable that they need is set; of others, the end says
/// what they lack.
fn test() -> Result<()> {
    let mut lacking = Vec::new();
    let mut result = run_tests(&[], &[]);
    for (variable, part, what) in IGNORED {
        if std::env::var_os(variable).is_some() {
            result = result.and(run_tests(&["--run-ignored", "only", part], &["--ignored", part]));
        } else {
            lacking.push(format!("{part}: {variable} names {what}"));
        }
    }
    for tests in lacking {
        eprintln!("   Ignored {tests}");
    }
    result
}

/// Runs tests, with these arguments to nextest, or those to the tests themselves where there is no nextest.
fn run_tests(nextest: &[&str], plain: &[&str]) -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    if std::env::var_os("RUST_BACKTRACE").is_none_or(|asked| asked != "full") {
        command.env("RUST_BACKTRACE", "0");
    }
    let all = ["--workspace", "--no-fail-fast"];
    let told = ["--failure-output", "immediate-final", "--final-status-level", "flaky"];
    if has_nextest() {
        check(&mut command, &[&["nextest", "run"], &all[..], &told, nextest].concat())
    } else {
        check(&mut command, &[&["test", "--tests"], &all[..], &["--"], plain].concat())
    }
}

fn cargo(args: &[&str]) -> Result<()> {
    check(Command::new(env!("CARGO")).env("RUSTDOCFLAGS", "-D warnings"), args)
}

fn check(cargo: &mut Command, args: &[&str]) -> Result<()> {
    eprintln!("     Check cargo {}", args.join(" "));
    let status = cargo.args(args).status().context("cannot start cargo")?;
    ensure!(status.success(), "`cargo {}` failed", args.join(" "));
    Ok(())
}

fn has_nextest() -> bool {
    let probe = Command::new(env!("CARGO"))
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    probe.is_ok_and(|status| status.success())
}

/// The tests build on a real Docker Engine. Where one is installed and does not answer, it is started, and stays.
fn start_docker() -> Result<()> {
    let answers = || {
        let probe =
            Command::new("docker").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        probe.is_ok_and(|status| status.success())
    };
    if answers() {
        return Ok(());
    }
    eprintln!("    Start dockerd");
    let daemon =
        Command::new("dockerd").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    daemon.context("no Docker Engine answers, and dockerd cannot be started")?;
    for _ in 0..60 {
        if answers() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    anyhow::bail!("the Docker Engine was started, but does not answer")
}

/// systemd in a container wants a hierarchy of control groups of its own, which a host of version 1 has only where
/// systemd runs. Where it cannot be made, the tests that need it say so.
fn mount_control_groups() {
    let dir = Path::new("/sys/fs/cgroup/systemd");
    let is_version_2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if is_version_2 || dir.join("cgroup.procs").exists() || std::fs::create_dir_all(dir).is_err() {
        return;
    }
    eprintln!("     Mount {}", dir.display());
    let mount =
        Command::new("mount").args(["-t", "cgroup", "-o", "none,name=systemd", "cgroup"]).arg(dir).status();
    if !mount.is_ok_and(|status| status.success()) {
        eprintln!("   Warning: it cannot be mounted");
    }
}

/// Installs what is missing with apt-get, where there is one; elsewhere says what is missing. Each is a Debian
/// package and a file of it.
pub(crate) fn install(tools: &[(&'static str, &str)]) -> Result<()> {
    let missing: Vec<&str> =
        tools.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    ensure!(Path::new("/usr/bin/apt-get").exists(), "these Debian packages are needed: {list}");
    eprintln!("   Install {list}");
    let apt = |args: &[&str]| -> Result<bool> {
        let mut command = Command::new("apt-get");
        command
            .args(["-q", "-o", "DPkg::Lock::Timeout=120"])
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive");
        Ok(command.stdout(Stdio::null()).status().context("cannot start apt-get")?.success())
    };
    let install = [&["install", "-y", "--no-install-recommends"][..], &missing].concat();
    ensure!(apt(&install)? || (apt(&["update"])? && apt(&install)?), "`apt-get install {list}` failed");
    Ok(())
}
