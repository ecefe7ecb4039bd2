//! What a container may use: control groups, of version 2 or 1, whichever holds the controller.

use std::io;

use camino::{Utf8Path, Utf8PathBuf};

/// How long a period is in which a container may use its part of the processors, in microseconds. Docker's.
const PERIOD: u64 = 100_000;

/// How often an emptied group is asked to go, and how long after one another.
const TRIES: u32 = 200;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// The control groups of a container. They are removed when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Limits {
    groups: Vec<Utf8PathBuf>,
    memory: Option<Utf8PathBuf>,
}

impl Limits {
    /// Makes the groups that are needed, which is none when nothing is limited.
    pub(super) fn new(name: &str, memory: Option<u64>, cpus: Option<u32>) -> io::Result<Self> {
        let mut limits = Self::default();
        let hierarchies = hierarchies()?;
        if let Some(bytes) = memory {
            let group = limits.group(&hierarchies, "memory", &group_name(name)).map_err(|error| {
                io::Error::other(format!("its memory cannot be limited on this machine: {error}"))
            })?;
            set_memory(&group, bytes).map_err(|error| {
                io::Error::other(format!("its memory cannot be limited to {bytes} bytes: {error}"))
            })?;
            limits.memory = Some(group);
        }
        if let Some(thousandths) = cpus {
            let quota = u64::from(thousandths) * PERIOD / 1000;
            let set = limits.group(&hierarchies, "cpu", &group_name(name)).and_then(|group| {
                if group.join("cpu.max").exists() {
                    return std::fs::write(group.join("cpu.max"), format!("{quota} {PERIOD}"));
                }
                std::fs::write(group.join("cpu.cfs_period_us"), PERIOD.to_string())?;
                std::fs::write(group.join("cpu.cfs_quota_us"), quota.to_string())
            });
            set.map_err(|error| {
                io::Error::other(format!("its processor time cannot be limited on this machine: {error}"))
            })?;
        }
        Ok(limits)
    }

    /// The group for a controller, in the first place that lets it be made.
    fn group(&mut self, hierarchies: &[Hierarchy], controller: &str, name: &str) -> io::Result<Utf8PathBuf> {
        let mut last = io::Error::other(format!("there is no control group with `{controller}`"));
        for hierarchy in hierarchies.iter().filter(|one| one.has(controller)) {
            for parent in &hierarchy.parents {
                let group = parent.join(name);
                let is_ours = self.groups.contains(&group);
                if hierarchy.is_new {
                    // Refused where processes are in it, or it is done already.
                    let _ = std::fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
                }
                if !is_ours && let Err(error) = std::fs::create_dir(&group) {
                    last = io::Error::new(error.kind(), format!("{group}: {error}"));
                    continue;
                }
                let file = if controller == "memory" { "memory.max" } else { "cpu.max" };
                if !hierarchy.is_new || group.join(file).exists() {
                    if !is_ours {
                        self.groups.push(group.clone());
                    }
                    return Ok(group);
                }
                last = io::Error::other(format!("{parent} has not been given `{controller}`"));
                if !is_ours {
                    let _ = std::fs::remove_dir(&group);
                }
            }
        }
        Err(last)
    }

    /// Puts a process in them, with all that it starts from then on.
    pub(super) fn add(&self, process: u32) -> io::Result<()> {
        join(&self.groups, process)
    }

    pub(super) fn groups(&self) -> &[Utf8PathBuf] {
        &self.groups
    }

    /// Whether a process was killed because there was not enough memory.
    pub(super) fn out_of_memory(&self) -> bool {
        let Some(group) = &self.memory else { return false };
        ["memory.events", "memory.oom_control"].iter().any(|file| {
            let text = std::fs::read_to_string(group.join(file)).unwrap_or_default();
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            lines.any(|(key, value)| key == "oom_kill" && value != "0")
        })
    }
}

/// The control groups that there are of a container, wherever this process would make them.
pub(crate) fn of(name: &str) -> io::Result<Vec<Utf8PathBuf>> {
    let hierarchies = hierarchies()?;
    let parents = hierarchies.iter().flat_map(|hierarchy| &hierarchy.parents);
    let groups = parents.map(|parent| parent.join(group_name(name)));
    Ok(groups.filter(|group| group.exists()).collect())
}

/// What the group of a container is called.
fn group_name(name: &str) -> String {
    format!("imgforge-{name}")
}

impl Drop for Limits {
    fn drop(&mut self) {
        remove(&self.groups);
    }
}

/// Puts a process in groups.
pub(super) fn join(groups: &[Utf8PathBuf], process: u32) -> io::Result<()> {
    for group in groups {
        std::fs::write(group.join("cgroup.procs"), process.to_string())
            .map_err(|error| io::Error::new(error.kind(), format!("{group}: {error}")))?;
    }
    Ok(())
}

/// Removes groups whose processes have ended: the kernel needs a moment to see that.
pub(crate) fn remove(groups: &[Utf8PathBuf]) {
    for group in groups {
        for _ in 0..TRIES {
            match std::fs::remove_dir(group) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(PAUSE),
                _ => break,
            }
        }
    }
}

fn set_memory(group: &Utf8Path, bytes: u64) -> io::Result<()> {
    // Docker lets a container have as much swap as memory.
    if group.join("memory.max").exists() {
        std::fs::write(group.join("memory.max"), bytes.to_string())?;
        return optional(std::fs::write(group.join("memory.swap.max"), bytes.to_string()));
    }
    std::fs::write(group.join("memory.limit_in_bytes"), bytes.to_string())?;
    let both = bytes.saturating_mul(2).to_string();
    optional(std::fs::write(group.join("memory.memsw.limit_in_bytes"), both))
}

/// Kernels without swap accounting have no such file.
fn optional(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            Ok(())
        }
        other => other,
    }
}

/// A mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    is_new: bool,
    controllers: Vec<String>,
    /// Where a group can be made: its root, and on the way to the group of this process.
    parents: Vec<Utf8PathBuf>,
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|one| one == controller)
    }
}

fn hierarchies() -> io::Result<Vec<Hierarchy>> {
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
    let mut found = Vec::new();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        let (kind, options) = (right.next().unwrap_or_default(), right.nth(1).unwrap_or_default());
        let mut left = left.split(' ').skip(3);
        let (Some(root), Some(place)) = (left.next(), left.next()) else { continue };
        let is_new = kind == "cgroup2";
        if !is_new && kind != "cgroup" {
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
        found.push(Hierarchy { is_new, controllers, parents });
    }
    // Where both hold a controller, it is the older that has it.
    found.sort_by_key(|hierarchy| hierarchy.is_new);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_is_there_gets_another_controller() {
        let folder = tempfile::tempdir().unwrap();
        let parent = Utf8PathBuf::try_from(folder.path().to_owned()).unwrap();
        let group = parent.join("imgforge-x");
        std::fs::create_dir(&group).unwrap();
        // As the kernel would make it.
        std::fs::write(group.join("cpu.max"), "").unwrap();
        let controllers = vec!["memory".to_owned(), "cpu".to_owned()];
        let hierarchy = Hierarchy { is_new: true, controllers, parents: vec![parent.clone()] };
        let mut limits = Limits { groups: vec![group.clone()], memory: None };
        assert_eq!(limits.group(&[hierarchy], "cpu", "imgforge-x").unwrap(), group);
        assert_eq!(std::fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap(), "+cpu");
        assert_eq!(limits.groups, [group], "it is removed once");
        limits.groups.clear();
    }

    #[test]
    fn hierarchies_of_both_kinds_are_found() {
        let mounts = "36 25 0:31 / /sys/fs/cgroup/memory rw,nosuid shared:1 - cgroup cgroup rw,memory\n\
                      37 25 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      38 25 0:33 / /proc rw - proc proc rw\n";
        let own = "4:memory:/a/b\n0::/user.slice/x\n";
        let memory = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/a", "/sys/fs/cgroup/memory/a/b"];
        let found = parse(mounts, own);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].controllers, ["rw", "memory"]);
        assert_eq!(
            found[0].parents.iter().map(|path| path.as_str().trim_end_matches('/')).collect::<Vec<_>>(),
            memory
        );
        assert!(found[1].is_new);
        assert_eq!(found[1].parents.last().unwrap(), "/sys/fs/cgroup/unified/user.slice/x");
    }
}
