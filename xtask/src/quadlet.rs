//! Podman's Quadlet for the tests of `imgforge export`: Debian 12's Podman is older than it, so it is taken out of the
//! package of the next release, and nothing else of that gets onto the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use imgforge_testkit::needs;

/// Where the package has it.
const INSTALLED: &str = "usr/libexec/podman/quadlet";

/// The release whose Podman has Quadlet.
const RELEASE: &str = "trixie";

/// Puts it where the tests find it, unless the machine has one.
pub(crate) fn install() -> Result<()> {
    if needs::find_quadlet().is_some() {
        return Ok(());
    }
    eprintln!("   Install quadlet");
    let tools = needs::tools();
    let work = tools.join("apt");
    fs::create_dir_all(work.join("lists/partial"))?;
    let sources = work.join("sources.list");
    fs::write(&sources, format!("deb {} {RELEASE} main\n", repository()?))?;
    let apt = |args: &[&str]| -> Result<()> {
        let mut command = Command::new("apt-get");
        command.arg("-q").args(options(&work, &sources)).args(args).current_dir(&work);
        ensure!(command.stdout(Stdio::null()).status()?.success(), "`apt-get {}` failed", args.join(" "));
        Ok(())
    };
    apt(&["update"])?;
    apt(&["download", "podman"])?;
    let packages = fs::read_dir(&work)?.filter_map(|entry| Some(entry.ok()?.path()));
    let package = packages.filter(|path| path.extension().is_some_and(|end| end == "deb")).max();
    let root = work.join("root");
    let unpack = Command::new("dpkg-deb").arg("-x").arg(package.context("the package")?).arg(&root).status();
    ensure!(unpack?.success(), "the package of podman cannot be unpacked");
    fs::rename(root.join(INSTALLED), tools.join("quadlet"))?;
    fs::remove_dir_all(&work)?;
    Ok(())
}

/// An apt of its own, with the machine's keyring.
fn options(work: &Path, sources: &Path) -> Vec<String> {
    let option = |name: &str, path: PathBuf| [format!("-o{name}={}", path.display())];
    [
        option("Dir::Etc::sourcelist", sources.to_owned()),
        option("Dir::Etc::sourceparts", work.join("none")),
        option("Dir::State::lists", work.join("lists")),
        option("Dir::Cache", work.to_owned()),
        option("APT::Sandbox::User", "root".into()),
    ]
    .concat()
}

/// Where the machine gets its own release from.
fn repository() -> Result<String> {
    let format = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"];
    let output = Command::new("apt-get").args(format).output().context("cannot start apt-get")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().map(str::to_owned).context("the machine's apt knows no repository of Debian")
}
