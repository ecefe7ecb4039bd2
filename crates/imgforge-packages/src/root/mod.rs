//! A root file system made of locked packages: one archive with everything unpacked, and a script that configures it.
//!
//! Unpacking needs neither rights nor dpkg, so it is done once here and kept; only what must be done by dpkg
//! ([`steps`]) and configuring run in the image.

mod archive;
mod database;
mod steps;

use std::collections::HashSet;
use std::fs;
use std::io;

use camino::Utf8Path;
use imgforge_core::context::{SuppliedContent, SuppliedFile};
use imgforge_core::lock::LockedPackage;
use rayon::prelude::*;

use crate::cache::{self, Cache};
use crate::deb::{Deb, Depth};
use crate::error::Error;
use crate::scripts::{self, Options};
use crate::stage::{file_name, supplied};

use self::archive::{Conffiles, RootTar};
use self::database::Database;
use self::steps::Steps;

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
    let order = path.with_extension("steps");
    let seal = path.with_extension("seal");
    let kept = cache.read_sealed(&seal);
    if kept.is_none_or(|kept| !hashes(&path, &order).is_ok_and(|hashes| kept == hashes)) {
        let steps = if is_configurable { plan(&packages, cache)? } else { Steps::default() };
        cache::replace(&order, |out| {
            io::Write::write_all(out, steps.text.as_bytes()).map_err(Error::io(&order))
        })?;
        let unpacked = |(at, _): &(usize, &LockedPackage)| !steps.by_dpkg.contains(at);
        let conffiles = |at| {
            if is_configurable && !steps.foundation.contains(&at) {
                Conffiles::New
            } else {
                Conffiles::InPlace
            }
        };
        let here: Vec<(&LockedPackage, Conffiles)> = packages
            .iter()
            .enumerate()
            .filter(unpacked)
            .map(|(at, package)| (package, conffiles(at)))
            .collect();
        cache::replace(&path, |out| write(&here, options, is_configurable, cache, out))?;
        cache.keep_sealed(&seal, &hashes(&path, &order)?)?;
    }
    let file = |path: &str, executable, content| SuppliedFile { path: path.into(), executable, content };
    let mut files = vec![file(".imgforge/root.tar", false, SuppliedContent::File(path))];
    if is_configurable {
        let script = SuppliedContent::Bytes(scripts::configure(options).into_bytes());
        files.push(file(".imgforge/packages/configure", true, script));
        files.extend(unpacked_by_dpkg(&packages, &order, cache)?);
        files.push(file(".imgforge/packages/steps", false, SuppliedContent::File(order)));
        files.sort_by(|a, b| a.path.cmp(&b.path));
    }
    Ok(files)
}

/// The hashes of files.
fn hashes(path: &Utf8Path, order: &Utf8Path) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    for file in [path, order] {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(fs::File::open(file).map_err(Error::io(file))?).map_err(Error::io(file))?;
        all.extend(hasher.finalize().as_bytes());
    }
    Ok(all)
}

/// The files of the packages that the steps in `order` unpack, each compared with its hash: the archive may be one that
/// was made before, and the files beside it in the cache others since.
fn unpacked_by_dpkg(
    packages: &[LockedPackage],
    order: &Utf8Path,
    cache: &Cache,
) -> Result<Vec<SuppliedFile>, Error> {
    let text = fs::read_to_string(order).map_err(Error::io(order))?;
    let names: HashSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("unpack "))
        .flat_map(|line| line.split(' '))
        .collect();
    let is_named = |package: &&LockedPackage| names.contains(file_name(package).as_str());
    let compared = |package| Deb::read(package, cache, Depth::Control).map(|_| supplied(package, cache));
    packages.par_iter().filter(is_named).map(compared).collect()
}

fn plan(packages: &[LockedPackage], cache: &Cache) -> Result<Steps, Error> {
    let debs: Result<Vec<Deb>, Error> =
        packages.par_iter().map(|p| Deb::read(p, cache, Depth::Control)).collect();
    Ok(Steps::of(packages, &debs?))
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
    packages: &[(&LockedPackage, Conffiles)],
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
            some.par_iter().map(|(package, _)| Deb::read(package, cache, Depth::Data)).collect();
        for ((package, conffiles), mut deb) in some.iter().zip(debs?) {
            let files = root.add(&deb, *conffiles).map_err(|e| Error::package(package, e))?;
            deb.data = Vec::new();
            unpacked.push((deb, files, *conffiles));
        }
    }
    let state = if is_configurable { "unpacked" } else { "installed" };
    for (number, (deb, mut files, conffiles)) in unpacked.into_iter().enumerate() {
        files.paths.retain(|path| !root.is_replaced(number, path));
        database.record(&deb, &files, state, conffiles);
    }
    let tar = cache.root("");
    database.add_to(&mut root).map_err(Error::io(&tar))?;
    for (folder, mode) in FOLDERS {
        root.ensure_dir(folder, mode).map_err(Error::io(&tar))?;
    }
    root.finish().map_err(Error::io(&tar))
}
