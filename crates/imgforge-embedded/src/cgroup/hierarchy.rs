//! The hierarchies of control groups that are mounted on this machine.

use std::collections::BTreeSet;
use std::io;

use camino::{Utf8Path, Utf8PathBuf};

/// A mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Whether the hierarchy is of version 2.
    pub(super) is_new: bool,
    /// The controllers that it can limit with; beside them the options that one of version 1 is mounted with.
    pub(super) controllers: Vec<String>,
    /// The name of the folder that the hierarchy is mounted on.
    pub(super) name: String,
    /// The folders in which a group can be made: the root, and those on the way to the group of this process.
    pub(super) parents: Vec<Utf8PathBuf>,
}

impl Hierarchy {
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|one| one == controller)
    }
}

/// Those of this machine, version 1 first.
pub(super) fn all() -> io::Result<Vec<Hierarchy>> {
    let mut found = parse(
        &std::fs::read_to_string("/proc/self/mountinfo")?,
        &std::fs::read_to_string("/proc/self/cgroup")?,
    );
    for hierarchy in found.iter_mut().filter(|one| one.is_new) {
        let root = hierarchy.parents.first().map(|root| root.join("cgroup.controllers"));
        let text = root.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        hierarchy.controllers = text.split_whitespace().map(str::to_owned).collect();
    }
    Ok(found)
}

/// Reads `/proc/self/mountinfo` and `/proc/self/cgroup` (`proc(5)`, `cgroups(7)`).
fn parse(mounts: &str, own: &str) -> Vec<Hierarchy> {
    let (mut found, mut devices) = (Vec::new(), BTreeSet::new());
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        let (kind, options) = (right.next().unwrap_or_default(), right.nth(1).unwrap_or_default());
        let mut left = left.split(' ').skip(2);
        let (Some(device), Some(root), Some(place)) = (left.next(), left.next(), left.next()) else {
            continue;
        };
        let is_new = kind == "cgroup2";
        if !is_new && kind != "cgroup" {
            continue;
        }
        // One that is mounted at several places is one.
        if !devices.insert(device) {
            continue;
        }
        let controllers: Vec<String> =
            if is_new { Vec::new() } else { options.split(',').map(str::to_owned).collect() };
        let is_ours = |names: &str| {
            if is_new {
                names.is_empty()
            } else {
                names.split(',').any(|name| controllers.iter().any(|one| one == name))
            }
        };
        let path = own.lines().find_map(|line| {
            let (names, path) = line.split_once(':')?.1.split_once(':')?;
            is_ours(names).then_some(path)
        });
        let below =
            path.and_then(|path| Utf8Path::new(path).strip_prefix(root).ok()).unwrap_or(Utf8Path::new(""));
        let place = Utf8Path::new(place);
        let mut parents: Vec<Utf8PathBuf> = below.ancestors().map(|part| place.join(part)).collect();
        parents.reverse();
        let name = place.file_name().unwrap_or_default().to_owned();
        found.push(Hierarchy { is_new, controllers, name, parents });
    }
    // Where both hold a controller, it is the older that has it.
    found.sort_by_key(|hierarchy| hierarchy.is_new);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_kinds_are_found() {
        let mounts = "36 25 0:31 / /sys/fs/cgroup/memory rw,nosuid shared:1 - cgroup cgroup rw,memory\n\
                      37 25 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      38 25 0:33 / /proc rw - proc proc rw\n\
                      39 25 0:31 / /elsewhere/memory rw,nosuid - cgroup cgroup rw,memory\n";
        let own = "4:memory:/a/b\n0::/user.slice/x\n";
        let memory = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/a", "/sys/fs/cgroup/memory/a/b"];
        let found = parse(mounts, own);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].controllers, ["rw", "memory"]);
        assert_eq!(
            found[0].parents.iter().map(|path| path.as_str().trim_end_matches('/')).collect::<Vec<_>>(),
            memory
        );
        assert_eq!((found[0].name.as_str(), found[1].name.as_str()), ("memory", "unified"));
        assert!(found[1].is_new);
        assert_eq!(found[1].parents.last().unwrap(), "/sys/fs/cgroup/unified/user.slice/x");
    }
}
