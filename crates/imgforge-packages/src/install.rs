//! Packages on top of an image that has dpkg: the files, and a script that installs them in an order that dpkg accepts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use imgforge_core::context::{SuppliedContent, SuppliedFile};
use imgforge_core::lock::LockedPackage;

use crate::control::stanzas;
use crate::deb::Deb;
use crate::resolve::{Group, parse_relations};
use crate::{Cache, DOCS, Error, Options};

/// Raised when a root's tar or an installation comes out differently from the same packages.
const VERSION: &str = "1";

/// Configures an unpacked root, run inside it.
pub(crate) const CONFIGURE: &str = include_str!("../../../templates/debian/configure.sh");

/// Installs packages, run in an image that has dpkg.
const INSTALL: &str = include_str!("../../../templates/debian/install.sh");

/// What the way of installing is, as an input of fingerprints: 64 hex digits.
pub fn script_fingerprint(options: Options) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in [VERSION, CONFIGURE, INSTALL, if options.keep_docs { "docs" } else { "" }] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// The files for a build that installs `packages`: the package files, which of them are installed together, and the
/// script.
///
/// # Errors
/// A package that is not in the cache or is none.
pub fn stage_packages(
    packages: &[LockedPackage],
    options: Options,
    cache: &Cache,
) -> Result<Vec<SuppliedFile>, Error> {
    let sorted: BTreeSet<&LockedPackage> = packages.iter().collect();
    let sorted: Vec<&LockedPackage> = sorted.into_iter().collect();
    let supplied = |path: String, executable: bool, content: SuppliedContent| SuppliedFile {
        path: format!(".imgforge/packages/{path}").into(),
        executable,
        content,
    };
    let text = |text: String| SuppliedContent::Bytes(text.into_bytes());
    let mut files = Vec::new();
    let mut order = String::new();
    for batch in batches(&sorted, cache)? {
        let names: Vec<String> = batch.into_iter().map(|n| file_name(sorted[n])).collect();
        let _ = writeln!(order, "{}", names.join(" "));
    }
    let mut flags = String::new();
    if !options.keep_docs {
        for docs in DOCS {
            let _ = writeln!(flags, "--path-exclude={docs}*");
        }
        flags.push_str("--path-include=/usr/share/doc/*/copyright\n");
        flags.push_str("--path-include=/usr/share/locale/locale.alias\n");
    }
    files.push(supplied("flags".into(), false, text(flags)));
    files.push(supplied("install".into(), true, text(INSTALL.to_owned())));
    files.push(supplied("order".into(), false, text(order)));
    for package in sorted {
        let content = SuppliedContent::File(cache.file(&package.sha256));
        files.push(supplied(file_name(package), false, content));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// As apt names files in its cache: a colon is not safe in every file system.
fn file_name(package: &LockedPackage) -> String {
    let version = package.version.replace(':', "%3a");
    format!("{}_{version}_{}.deb", package.name, package.architecture)
}

/// What a package says in its control file.
struct Needs {
    provides: BTreeSet<String>,
    pre_depends: Vec<Group>,
    depends: Vec<Group>,
}

/// dpkg refuses to unpack a package while one that it pre-depends on is not configured. So what others pre-depend on
/// goes first, with all that it needs itself, and everything else in one batch at the end.
fn batches(packages: &[&LockedPackage], cache: &Cache) -> Result<Vec<Vec<usize>>, Error> {
    let mut needs = Vec::new();
    let mut by_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (n, package) in packages.iter().enumerate() {
        let control = Deb::open_control(package, cache)?.text("control").unwrap_or_default();
        let stanza = stanzas(&control).next();
        let field = |name: &str| {
            stanza.as_ref().and_then(|stanza| stanza.get(name)).map(parse_relations).unwrap_or_default()
        };
        let mut provides: BTreeSet<String> =
            field("Provides").into_iter().flatten().map(|relation| relation.name).collect();
        provides.insert(package.name.clone());
        for name in &provides {
            by_name.entry(name.clone()).or_default().push(n);
        }
        needs.push(Needs { provides, pre_depends: field("Pre-Depends"), depends: field("Depends") });
    }
    Ok(ordered(&needs, &by_name))
}

fn ordered(needs: &[Needs], by_name: &BTreeMap<String, Vec<usize>>) -> Vec<Vec<usize>> {
    let among = |groups: &[Group], own: usize| -> Vec<usize> {
        let relations =
            groups.iter().flatten().filter(|relation| !needs[own].provides.contains(&relation.name));
        relations.filter_map(|relation| by_name.get(&relation.name)).flatten().copied().collect()
    };
    // The smallest sets that can stand alone, of each package that another pre-depends on.
    let mut early: Vec<BTreeSet<usize>> = Vec::new();
    for n in 0..needs.len() {
        for first in among(&needs[n].pre_depends, n) {
            let mut set = BTreeSet::from([first]);
            let mut open = vec![first];
            while let Some(at) = open.pop() {
                let more = among(&needs[at].pre_depends, at).into_iter().chain(among(&needs[at].depends, at));
                open.extend(more.filter(|more| set.insert(*more)));
            }
            early.push(set);
        }
    }
    // What is in fewer packages' way comes first: a set never waits for one that holds it.
    early.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    let mut done = BTreeSet::new();
    let mut batches = Vec::new();
    for set in early {
        let batch: Vec<usize> = set.into_iter().filter(|n| done.insert(*n)).collect();
        if !batch.is_empty() {
            batches.push(batch);
        }
    }
    let rest: Vec<usize> = (0..needs.len()).filter(|n| !done.contains(n)).collect();
    if !rest.is_empty() {
        batches.push(rest);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(packages: &[(&str, &str, &str)]) -> Vec<Vec<usize>> {
        let mut by_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let needs: Vec<Needs> = packages
            .iter()
            .enumerate()
            .map(|(n, (name, pre_depends, depends))| {
                by_name.entry((*name).to_owned()).or_default().push(n);
                Needs {
                    provides: BTreeSet::from([(*name).to_owned()]),
                    pre_depends: parse_relations(pre_depends),
                    depends: parse_relations(depends),
                }
            })
            .collect();
        ordered(&needs, &by_name)
    }

    #[test]
    fn what_is_pre_depended_on_goes_first_with_what_it_needs() {
        assert_eq!(order(&[("a", "", "b"), ("b", "", "a")]), [[0, 1]]);
        assert_eq!(
            order(&[("a", "c", ""), ("b", "", ""), ("c", "", "d"), ("d", "", "")]),
            [vec![2, 3], vec![0, 1]]
        );
        assert_eq!(order(&[("a", "b", ""), ("b", "c", ""), ("c", "", "")]), [[2], [1], [0]]);
        assert_eq!(order(&[("a", "gone", "")]), [[0]]);
    }

    #[test]
    fn the_fingerprint_tells_documentation_from_none() {
        let with = |keep_docs| script_fingerprint(Options { keep_docs });
        assert_ne!(with(true), with(false));
        assert_eq!(with(true).len(), 64);
    }
}
