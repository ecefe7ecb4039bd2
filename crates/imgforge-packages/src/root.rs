//! A root file system made of locked packages: one archive with everything unpacked, and a script that configures it.
//!
//! Unpacking needs neither rights nor dpkg, so it is done once here and kept; only configuring runs in the image.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::io;

use imgforge_core::context::{SuppliedContent, SuppliedFile};
use imgforge_core::lock::LockedPackage;
use rayon::prelude::*;

use crate::cache::{self, Cache};
use crate::deb::{Deb, Depth};
use crate::error::Error;
use crate::root_tar::{RootTar, Unpacked};
use crate::scripts::{self, Options};
use crate::stage;

/// Packages that are unpacked in memory at the same time.
const AT_ONCE: usize = 8;

/// Folders that every root has, for a container's mounts and for programs.
const FOLDERS: [(&str, u32); 6] =
    [("dev", 0o755), ("mnt", 0o755), ("proc", 0o755), ("run", 0o755), ("sys", 0o755), ("tmp", 0o1777)];

/// Whether a root of these packages has what configuring needs: dpkg and a shell. Without them packages are only
/// unpacked and recorded as installed, so that scanners see them; no script of theirs has run.
pub fn is_configurable(packages: &[LockedPackage]) -> bool {
    let has = |name: &str| packages.iter().any(|package| package.name == name);
    has("dpkg") && has("dash")
}

/// The files that a root's build needs: `.imgforge/root.tar`, and `.imgforge/packages/configure` with what it reads
/// (when the root [`is_configurable`]). All of `packages` have to be in the cache.
///
/// # Errors
/// [`Error::Package`] when a package cannot be unpacked beside the others, [`Error::Hash`] when the cache is damaged,
/// [`Error::Io`].
pub fn stage_root(
    packages: &[LockedPackage],
    options: Options,
    cache: &Cache,
) -> Result<Vec<SuppliedFile>, Error> {
    let packages = sorted(packages);
    let is_configurable = is_configurable(&packages);
    let path = cache.root(&key(&packages, options));
    let order = path.with_extension("order");
    if !(path.is_file() && order.is_file()) {
        let preinsts = preinst_order(&packages, cache)?;
        cache::replace(&order, |out| {
            io::Write::write_all(out, preinsts.as_bytes()).map_err(Error::io(&order))
        })?;
        cache::replace(&path, |out| write(&packages, options, is_configurable, cache, out))?;
    }
    let file = |path: &str, executable, content| SuppliedFile { path: path.into(), executable, content };
    let mut files = vec![file(".imgforge/root.tar", false, SuppliedContent::File(path))];
    if is_configurable {
        let script = SuppliedContent::Bytes(scripts::configure(options).into_bytes());
        files.push(file(".imgforge/packages/configure", true, script));
        files.push(file(".imgforge/packages/preinst-order", false, SuppliedContent::File(order)));
    }
    Ok(files)
}

/// By name, but base-files first: of a folder that several packages bring, the first says whose it is, and base-files
/// is who knows (`/tmp`, `/root`, `/var/local`).
fn sorted(packages: &[LockedPackage]) -> Vec<LockedPackage> {
    let mut packages = packages.to_vec();
    packages.sort_by(|a, b| {
        let rank = |p: &LockedPackage| p.name != "base-files";
        rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(&b.name))
    });
    packages
}

fn key(packages: &[LockedPackage], options: Options) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("imgforge 2026 root archive");
    hasher.update(scripts::script_fingerprint(crate::Scheme::Debian, options).as_bytes());
    for package in packages {
        hasher.update(package.sha256.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

fn write(
    packages: &[LockedPackage],
    options: Options,
    is_configurable: bool,
    cache: &Cache,
    out: &mut impl io::Write,
) -> Result<(), Error> {
    let mut root = RootTar::new(out, options.keep_docs);
    let mut database = Database::default();
    let mut unpacked = Vec::new();
    for some in packages.chunks(AT_ONCE) {
        let debs: Result<Vec<Deb>, Error> =
            some.par_iter().map(|p| Deb::read(p, cache, Depth::Data)).collect();
        for (package, mut deb) in some.iter().zip(debs?) {
            let files = root.add(&deb).map_err(|e| Error::package(package, e))?;
            deb.data = Vec::new();
            unpacked.push((deb, files));
        }
    }
    let state = if is_configurable { "unpacked" } else { "installed" };
    for (number, (deb, mut files)) in unpacked.into_iter().enumerate() {
        files.paths.retain(|path| !root.is_replaced(number, path));
        database.record(&deb, &files, state);
    }
    let tar = cache.root("");
    database.add_to(&mut root).map_err(Error::io(&tar))?;
    for (folder, mode) in FOLDERS {
        root.ensure_dir(folder, mode).map_err(Error::io(&tar))?;
    }
    root.finish().map_err(Error::io(&tar))
}

/// dpkg's database (`/var/lib/dpkg`) as it is when all packages are unpacked.
#[derive(Debug, Default)]
struct Database {
    status: String,
    info: BTreeMap<String, (u32, Vec<u8>)>,
    file_triggers: String,
    named_triggers: BTreeMap<String, String>,
}

impl Database {
    fn record(&mut self, deb: &Deb, files: &Unpacked, state: &str) {
        let name = deb.field("Package").unwrap_or("");
        // Such packages may be there for two architectures at once, so dpkg tells them apart.
        let prefix = match deb.field("Multi-Arch") {
            Some("same") => format!("{name}:{}", deb.field("Architecture").unwrap_or("")),
            _ => name.to_owned(),
        };
        self.add_status(deb, files, state);
        let mut list = "/.\n".to_owned();
        for path in &files.paths {
            let _ = writeln!(list, "/{path}");
        }
        self.info.insert(format!("{prefix}.list"), (0o644, list.into_bytes()));
        for file in &deb.info {
            self.info.insert(format!("{prefix}.{}", file.name), (file.mode, file.bytes.clone()));
        }
        self.add_triggers(&prefix, &deb.info("triggers").unwrap_or_default());
    }

    fn add_status(&mut self, deb: &Deb, files: &Unpacked, state: &str) {
        let mut lines = deb.control.trim().lines();
        let first = lines.next().unwrap_or("");
        let _ = writeln!(self.status, "{first}\nStatus: install ok {state}");
        for line in lines {
            let _ = writeln!(self.status, "{line}");
        }
        let conffiles = deb.info("conffiles").unwrap_or_default();
        let mut listed = conffiles.lines().map(str::trim).filter(|line| line.starts_with('/')).peekable();
        if listed.peek().is_some() {
            self.status.push_str("Conffiles:\n");
        }
        for path in listed {
            let hash = files.md5.get(path).map_or("newconffile", String::as_str);
            let _ = writeln!(self.status, " {path} {hash}");
        }
        self.status.push('\n');
    }

    /// deb-triggers(5): whose interest in which files and names.
    fn add_triggers(&mut self, prefix: &str, text: &str) {
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or("");
            let mut words = line.split_whitespace();
            let (Some(directive), Some(what)) = (words.next(), words.next()) else { continue };
            let who = match directive {
                "interest" | "interest-await" => prefix.to_owned(),
                "interest-noawait" => format!("{prefix}/noawait"),
                _ => continue,
            };
            if what.starts_with('/') {
                let _ = writeln!(self.file_triggers, "{what} {who}");
            } else if !what.contains('/') {
                let _ = writeln!(self.named_triggers.entry(what.to_owned()).or_default(), "{who}");
            }
        }
    }

    fn add_to<W: io::Write>(&self, root: &mut RootTar<W>) -> io::Result<()> {
        for folder in ["alternatives", "info", "parts", "triggers", "updates"] {
            root.ensure_dir(&format!("var/lib/dpkg/{folder}"), 0o755)?;
        }
        for (name, (mode, bytes)) in &self.info {
            root.add_file(&format!("var/lib/dpkg/info/{name}"), *mode, bytes)?;
        }
        for (name, text) in &self.named_triggers {
            root.add_file(&format!("var/lib/dpkg/triggers/{name}"), 0o644, text.as_bytes())?;
        }
        let files = [
            ("info/format", "1\n"),
            ("triggers/File", self.file_triggers.as_str()),
            ("triggers/Unincorp", ""),
            ("available", ""),
            ("status", self.status.as_str()),
        ];
        for (name, text) in files {
            root.add_file(&format!("var/lib/dpkg/{name}"), 0o644, text.as_bytes())?;
        }
        Ok(())
    }
}

/// The packages that have a preinst, one `NAME ARCHITECTURE INFO-PREFIX` a line, in the order in which they would have
/// been unpacked: after what they depend on. base-passwd makes `/etc/passwd` in its preinst, which others look into.
fn preinst_order(packages: &[LockedPackage], cache: &Cache) -> Result<String, Error> {
    let debs: Vec<Deb> =
        packages.par_iter().map(|p| Deb::read(p, cache, Depth::Control)).collect::<Result<_, _>>()?;
    let mut positions: Vec<usize> = (0..debs.len()).collect();
    let depth = stage::depths(&debs);
    positions.sort_by_key(|at| (packages[*at].name != "base-passwd", depth[*at], packages[*at].name.clone()));
    let mut seen = HashSet::new();
    let mut order = String::new();
    for at in positions {
        let (package, deb) = (&packages[at], &debs[at]);
        if deb.info("preinst").is_none() || !seen.insert(&package.name) {
            continue;
        }
        let architecture = &package.architecture;
        let prefix = match deb.field("Multi-Arch") {
            Some("same") => format!("{}:{architecture}", package.name),
            _ => package.name.clone(),
        };
        let _ = writeln!(order, "{} {architecture} {prefix}", package.name);
    }
    Ok(order)
}
