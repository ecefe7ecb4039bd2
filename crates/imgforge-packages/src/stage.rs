//! Packages that are installed on an image that has dpkg: the files, and a script that installs them in the right
//! order, with neither apt nor a network.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;

use imgforge_core::context::{SuppliedContent, SuppliedFile};
use imgforge_core::lock::LockedPackage;
use rayon::prelude::*;

use crate::cache::Cache;
use crate::deb::{Deb, Depth};
use crate::error::Error;
use crate::relation::parse_relations;
use crate::scripts::{self, Options};

/// The files that an image's build needs to install `added`: `.imgforge/packages/NAME_VERSION_ARCH.deb`, and
/// `.imgforge/packages/install` with what it reads. All of `added` have to be in the cache.
///
/// # Errors
/// [`Error::Package`], [`Error::Hash`] or [`Error::Io`] when a file of the cache is damaged or missing.
pub fn stage_packages(
    added: &[LockedPackage],
    options: Options,
    cache: &Cache,
) -> Result<Vec<SuppliedFile>, Error> {
    let debs: Vec<Deb> =
        added.par_iter().map(|p| Deb::read(p, cache, Depth::Control)).collect::<Result<_, _>>()?;
    let mut files: Vec<SuppliedFile> = added.iter().map(|package| supplied(package, cache)).collect();
    let bytes = |path: &str, executable, text: String| SuppliedFile {
        path: path.into(),
        executable,
        content: SuppliedContent::Bytes(text.into_bytes()),
    };
    files.push(bytes(".imgforge/packages/install", true, scripts::install(options)));
    files.push(bytes(".imgforge/packages/batches", false, batches(added, &debs)));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// The file of a package, as a build receives it.
pub(crate) fn supplied(package: &LockedPackage, cache: &Cache) -> SuppliedFile {
    SuppliedFile {
        path: format!(".imgforge/packages/{}", file_name(package)).into(),
        executable: false,
        content: SuppliedContent::File(cache.file(&package.sha256)),
    }
}

/// As apt names the files that it has fetched.
pub(crate) fn file_name(package: &LockedPackage) -> String {
    format!("{}_{}_{}.deb", package.name, package.version.replace(':', "%3a"), package.architecture)
}

/// One line for each batch: the file names of packages that one run of dpkg installs.
fn batches(packages: &[LockedPackage], debs: &[Deb]) -> String {
    let mut text = String::new();
    for batch in Relations::of(debs).batches() {
        let names: Vec<String> = batch.iter().map(|at| file_name(&packages[*at])).collect();
        let _ = writeln!(text, "{}", names.join(" "));
    }
    text
}

/// What packages need of each other, by their positions. All that may meet a relation count, and all that provide what
/// is named: more edges than needed only make an order stricter.
pub(crate) struct Relations {
    pub(crate) pre_depends: Vec<Vec<usize>>,
    depends: Vec<Vec<usize>>,
}

impl Relations {
    pub(crate) fn of(debs: &[Deb]) -> Self {
        Self { pre_depends: edges(debs, "Pre-Depends"), depends: edges(debs, "Depends") }
    }

    fn len(&self) -> usize {
        self.depends.len()
    }

    fn below(&self, at: usize) -> impl Iterator<Item = usize> {
        self.pre_depends[at].iter().chain(&self.depends[at]).copied()
    }

    /// `start`, and all that these depend on.
    pub(crate) fn closure(&self, start: impl IntoIterator<Item = usize>) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut todo: Vec<usize> = start.into_iter().collect();
        while let Some(at) = todo.pop() {
            if found.insert(at) {
                todo.extend(self.below(at));
            }
        }
        found
    }

    /// The batches in which packages are installed, none of them empty. In each, what a package depends on comes before
    /// it, as apt has it: dpkg unpacks in this order, and many a preinst uses what its package only depends on.
    pub(crate) fn batches(&self) -> Vec<Vec<usize>> {
        let (numbers, depths) = (self.batch_numbers(), self.depths());
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_key(|at| (numbers[*at], depths[*at]));
        order.chunk_by(|a, b| numbers[*a] == numbers[*b]).map(<[usize]>::to_vec).collect()
    }

    /// Which batch each package is installed in. dpkg unpacks a whole batch before it configures any of it, so what a
    /// package pre-depends on has to be in an earlier one, and what that depends on not in a later one.
    fn batch_numbers(&self) -> Vec<usize> {
        let mut numbers = vec![0; self.len()];
        // Each round settles at least one batch; more batches than packages would be a circle of Pre-Depends, which
        // policy 7.2 forbids, and which dpkg then names.
        for _ in 0..self.len() {
            let mut is_settled = true;
            for at in 0..self.len() {
                let before = self.pre_depends[at].iter().map(|other| numbers[*other] + 1);
                let beside = self.depends[at].iter().map(|other| numbers[*other]);
                let number = before.chain(beside).max().unwrap_or(0).max(numbers[at]);
                if number != numbers[at] && number < self.len() {
                    numbers[at] = number;
                    is_settled = false;
                }
            }
            if is_settled {
                break;
            }
        }
        numbers
    }

    /// For each package, how many others stand below it at least: a package comes after what it depends on, except in
    /// circles.
    pub(crate) fn depths(&self) -> Vec<usize> {
        let below: Vec<Vec<usize>> = (0..self.len()).map(|at| self.below(at).collect()).collect();
        let mut order = Vec::new();
        let mut visited = HashSet::new();
        for start in 0..self.len() {
            visit(start, &below, &mut visited, &mut order);
        }
        let mut depths = vec![0; self.len()];
        for (depth, at) in order.into_iter().enumerate() {
            depths[at] = depth;
        }
        depths
    }
}

/// Puts `start` after everything below it (depth first, with a stack of its own: the depth is not ours to limit).
fn visit(start: usize, below: &[Vec<usize>], visited: &mut HashSet<usize>, order: &mut Vec<usize>) {
    if !visited.insert(start) {
        return;
    }
    let mut stack = vec![(start, 0)];
    while let Some((at, next)) = stack.pop() {
        if let Some(other) = below[at].get(next) {
            stack.push((at, next + 1));
            if visited.insert(*other) {
                stack.push((*other, 0));
            }
        } else {
            order.push(at);
        }
    }
}

/// For each package, which of the others may meet its relations `field`.
fn edges(debs: &[Deb], field: &str) -> Vec<Vec<usize>> {
    let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
    for (at, deb) in debs.iter().enumerate() {
        let provided =
            parse_relations(deb.field("Provides").unwrap_or("")).into_iter().flatten().map(|a| a.name);
        for name in std::iter::once(deb.field("Package").unwrap_or("").to_owned()).chain(provided) {
            by_name.entry(name).or_default().push(at);
        }
    }
    let meets = |(at, deb): (usize, &Deb)| {
        let mut others: Vec<usize> = parse_relations(deb.field(field).unwrap_or(""))
            .iter()
            .flatten()
            .filter_map(|alternative| by_name.get(&alternative.name))
            .flatten()
            .copied()
            .filter(|other| *other != at)
            .collect();
        others.sort_unstable();
        others.dedup();
        others
    };
    debs.iter().enumerate().map(meets).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debs(controls: &[&str]) -> Vec<Deb> {
        controls
            .iter()
            .map(|text| Deb { control: text.replace("; ", "\n"), info: Vec::new(), data: Vec::new() })
            .collect()
    }

    #[test]
    fn what_is_pre_depended_on_is_in_an_earlier_batch_with_all_that_it_needs() {
        let debs = debs(&[
            "Package: app; Pre-Depends: lib | other",
            "Package: lib; Depends: data",
            "Package: data; Depends: lib",
            "Package: late; Depends: app, virtual",
            "Package: free",
            "Package: real; Provides: virtual; Pre-Depends: app",
        ]);
        assert_eq!(Relations::of(&debs).batch_numbers(), [1, 0, 0, 2, 0, 2]);
    }

    #[test]
    fn a_circle_of_pre_depends_ends() {
        let debs = debs(&["Package: a; Pre-Depends: b", "Package: b; Pre-Depends: a"]);
        assert_eq!(Relations::of(&debs).batch_numbers().len(), 2);
    }

    #[test]
    fn a_package_comes_after_what_it_depends_on() {
        let debs = debs(&["Package: a; Depends: b", "Package: b; Pre-Depends: c", "Package: c; Depends: a"]);
        let depth = Relations::of(&debs).depths();
        assert!(depth[1] < depth[0] && depth[2] < depth[1], "{depth:?}");
    }

    #[test]
    fn an_epoch_is_written_as_apt_writes_it() {
        let package = LockedPackage {
            name: "a".into(),
            version: "1:2-3".into(),
            architecture: "all".into(),
            ..LockedPackage::default()
        };
        assert_eq!(file_name(&package), "a_1%3a2-3_all.deb");
    }
}
