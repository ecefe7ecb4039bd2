//! Control groups of what runs in a sandbox, of versions 1 and 2.
//!
//! A step and a container have a group of their own in each hierarchy where this process may make one, below the group
//! that it is in itself: what runs sees that group and no other, and what holds for imgforge holds for it too. Where a
//! user has been given no part of a hierarchy there is no group, and nothing of the hierarchy is seen inside.

mod devices;
mod hierarchy;
mod limits;

use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use self::hierarchy::Hierarchy;
pub(crate) use self::limits::Limits;
use crate::worker::start_of;

/// The number of times that an emptied group is asked to go, and the time between two of them.
const TRIES: u32 = 200;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// The beginning of the names of steps' groups; the worker's process and the time of its start follow.
const STEP: &str = "imgforge-step-";

/// A group, as the process that moves into it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its folder.
    pub path: Utf8PathBuf,
    /// The path of the group below `/sys/fs/cgroup` inside; empty for that folder itself, `None` where the group is not
    /// shown.
    pub shown: Option<String>,
    /// Whether nothing may run outside the group.
    pub is_required: bool,
}

/// The groups of a step or a container. They are removed when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    all: Vec<Group>,
    memory: Option<Utf8PathBuf>,
    filters_devices: bool,
}

impl Groups {
    /// Those of the step that this process carries out.
    pub(crate) fn of_step() -> io::Result<Self> {
        let pid = std::process::id();
        let start = i32::try_from(pid).ok().and_then(start_of).unwrap_or_default();
        Self::new(&format!("{STEP}{pid}-{start}"), Limits::default())
    }

    /// Those of the container with this id.
    pub(crate) fn of_container(id: &str, limits: Limits) -> io::Result<Self> {
        Self::new(&of_container(id), limits)
    }

    fn new(name: &str, limits: Limits) -> io::Result<Self> {
        let hierarchies = hierarchy::all()?;
        let holder = |controller| hierarchies.iter().position(|one| one.has(controller));
        let absent = |what: &str, controller: &str| {
            io::Error::other(format!(
                "its {what} cannot be limited on this machine: there is no control group with `{controller}`"
            ))
        };
        let memory = limits.memory.map(|_| holder("memory").ok_or_else(|| absent("memory", "memory")));
        let cpu = limits.cpus.map(|_| holder("cpu").ok_or_else(|| absent("processor time", "cpu")));
        let (memory, cpu) = (memory.transpose()?, cpu.transpose()?);
        let is_mixed = hierarchies.iter().any(|one| !one.is_new);
        let mut groups = Self::default();
        for (index, hierarchy) in hierarchies.iter().enumerate() {
            let needed: Vec<&str> = [("memory", memory), ("cpu", cpu)]
                .into_iter()
                .filter_map(|(controller, holder)| (holder == Some(index)).then_some(controller))
                .collect();
            let made = make(hierarchy, name, &needed);
            let Ok(path) = made.as_ref() else {
                match (&needed[..], made) {
                    ([first, ..], Err(error)) => {
                        let what = if *first == "memory" { "memory" } else { "processor time" };
                        return Err(io::Error::other(format!(
                            "its {what} cannot be limited on this machine: {error}"
                        )));
                    }
                    _ => continue,
                }
            };
            let shown = match (hierarchy.is_new, is_mixed) {
                (true, true) => None,
                (true, false) => Some(String::new()),
                (false, _) => Some(hierarchy.name.clone()),
            };
            groups.all.push(Group { path: path.clone(), shown, is_required: !needed.is_empty() });
            groups.set(path, hierarchy, &needed, limits)?;
        }
        Ok(groups)
    }

    /// Says what may be done in a group that was just made.
    fn set(
        &mut self,
        path: &Utf8Path,
        hierarchy: &Hierarchy,
        needed: &[&str],
        limits: Limits,
    ) -> io::Result<()> {
        if let Some(bytes) = limits.memory.filter(|_| needed.contains(&"memory")) {
            limits::set_memory(path, bytes).map_err(|error| {
                io::Error::other(format!("its memory cannot be limited to {bytes} bytes: {error}"))
            })?;
            self.memory = Some(path.to_owned());
        }
        if let Some(thousandths) = limits.cpus.filter(|_| needed.contains(&"cpu")) {
            limits::set_cpus(path, thousandths).map_err(|error| {
                io::Error::other(format!("its processor time cannot be limited on this machine: {error}"))
            })?;
        }
        if !hierarchy.is_new && hierarchy.has("devices") && devices::restrict(path).is_ok() {
            self.filters_devices = true;
            if let Some(group) = self.all.last_mut() {
                group.is_required = true;
            }
        }
        Ok(())
    }

    /// Each of them.
    pub(crate) fn each(&self) -> &[Group] {
        &self.all
    }

    /// Their folders.
    pub(crate) fn paths(&self) -> Vec<Utf8PathBuf> {
        self.all.iter().map(|group| group.path.clone()).collect()
    }

    /// Returns whether what is in them can open no devices but harmless ones, whatever nodes it makes.
    pub(crate) fn filters_devices(&self) -> bool {
        self.filters_devices
    }

    /// Returns whether a process was killed because there was not enough memory.
    pub(crate) fn out_of_memory(&self) -> bool {
        self.memory.as_deref().is_some_and(limits::out_of_memory)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        remove(&self.paths());
    }
}

/// Makes a group in the first place that allows it. Where a controller of version 2 is needed, it has to come down from
/// the root, and so that is the first place; otherwise it is the group that this process is in.
fn make(hierarchy: &Hierarchy, name: &str, needed: &[&str]) -> io::Result<Utf8PathBuf> {
    let mut parents: Vec<&Utf8PathBuf> = hierarchy.parents.iter().collect();
    let comes_down = hierarchy.is_new && !needed.is_empty();
    if !comes_down {
        parents.reverse();
    }
    let mut last = io::Error::other("the hierarchy has no root");
    for parent in parents {
        let group = parent.join(name);
        if comes_down {
            for controller in needed {
                // Refused where processes are in it, or it is done already.
                let _ = std::fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        if let Err(error) = std::fs::create_dir(&group) {
            last = io::Error::new(error.kind(), format!("{group}: {error}"));
            continue;
        }
        let lacks = |controller: &&&str| !group.join(format!("{controller}.max")).exists();
        let ready = match needed.iter().find(lacks).filter(|_| comes_down) {
            Some(controller) => Err(io::Error::other(format!("{parent} has not been given `{controller}`"))),
            None => {
                inherit(hierarchy, parent, &group).and_then(|()| thread(hierarchy, parent, &group, needed))
            }
        };
        match ready {
            Ok(()) => return Ok(group),
            Err(error) => last = error,
        }
        let _ = std::fs::remove_dir(&group);
    }
    Err(last)
}

/// A new group of `cpuset` (version 1) has no processors and no memory, and so takes no process.
fn inherit(hierarchy: &Hierarchy, parent: &Utf8Path, group: &Utf8Path) -> io::Result<()> {
    if hierarchy.is_new || !hierarchy.has("cpuset") {
        return Ok(());
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        std::fs::write(group.join(file), std::fs::read(parent.join(file))?)?;
    }
    Ok(())
}

/// Lets a group of version 2 take threads one by one, which saves [`enter`] a wait. A group below another than the root
/// would change that one with it, and one with controllers cannot.
fn thread(hierarchy: &Hierarchy, parent: &Utf8Path, group: &Utf8Path, needed: &[&str]) -> io::Result<()> {
    // The root is the only one without such a file.
    let is_root = !parent.join("cgroup.type").exists();
    if hierarchy.is_new && is_root && needed.is_empty() {
        return std::fs::write(group.join("cgroup.type"), "threaded");
    }
    Ok(())
}

/// Moves this process into a group. It has one thread.
///
/// # Errors
/// Returns an error when the kernel refuses.
pub(crate) fn enter(group: &Utf8Path) -> io::Result<()> {
    // A thread that moves itself need not wait until all others have seen a lock, which takes some milliseconds.
    let is_threaded =
        || std::fs::read_to_string(group.join("cgroup.type")).is_ok_and(|kind| kind.trim_end() == "threaded");
    let file = match group.join("tasks") {
        tasks if tasks.exists() => tasks,
        _ if is_threaded() => group.join("cgroup.threads"),
        _ => group.join("cgroup.procs"),
    };
    std::fs::write(&file, "0").map_err(|error| io::Error::new(error.kind(), format!("{file}: {error}")))
}

/// Moves this process, which has one thread, into the groups of a container that runs. Those that the container could
/// not be moved into are empty.
///
/// # Errors
/// Returns an error when the kernel refuses.
pub(crate) fn enter_all(groups: &[Utf8PathBuf]) -> io::Result<()> {
    for group in groups.iter().filter(|group| !is_empty(group)) {
        enter(group)?;
    }
    Ok(())
}

fn is_empty(group: &Utf8Path) -> bool {
    // `cgroup.procs` of one that takes threads cannot be read.
    let listed = ["cgroup.procs", "cgroup.threads"].iter();
    let mut read = listed.filter_map(|file| std::fs::read_to_string(group.join(file)).ok());
    read.next().is_some_and(|text| text.is_empty())
}

/// The control groups that there are of a container, wherever this process would make them.
pub(crate) fn groups_of(id: &str) -> io::Result<Vec<Utf8PathBuf>> {
    let groups = parents()?.into_iter().map(|parent| parent.join(of_container(id)));
    Ok(groups.filter(|group| group.exists()).collect())
}

/// Groups of steps whose workers were killed.
pub(crate) fn left_by_steps() -> io::Result<Vec<Utf8PathBuf>> {
    let mut found = Vec::new();
    for parent in parents()? {
        let Ok(entries) = parent.read_dir_utf8() else { continue };
        for entry in entries {
            let group = entry?.into_path();
            let is_left = group
                .file_name()
                .and_then(worker_of)
                .is_some_and(|(pid, start)| start_of(pid) != Some(start));
            if is_left && is_empty(&group) {
                found.push(group);
            }
        }
    }
    Ok(found)
}

/// The process, and when it was started, that a step's group was made by.
fn worker_of(name: &str) -> Option<(i32, u64)> {
    let (pid, start) = name.strip_prefix(STEP)?.split_once('-')?;
    Some((pid.parse().ok()?, start.parse().ok()?))
}

/// Wherever this process makes groups.
fn parents() -> io::Result<Vec<Utf8PathBuf>> {
    Ok(hierarchy::all()?.into_iter().flat_map(|hierarchy| hierarchy.parents).collect())
}

/// Returns the name of a container's group.
fn of_container(id: &str) -> String {
    format!("imgforge-{id}")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(parents: &[&Utf8Path]) -> Hierarchy {
        let controllers = vec!["memory".to_owned(), "cpu".to_owned()];
        let parents = parents.iter().map(|path| (*path).to_owned()).collect();
        Hierarchy { is_new: true, controllers, name: "cgroup".into(), parents }
    }

    #[test]
    fn a_group_is_made_where_this_process_is_unless_it_needs_a_controller() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::try_from(folder.path().to_owned()).unwrap();
        let own = root.join("own");
        std::fs::create_dir(&own).unwrap();
        let hierarchy = hierarchy(&[&root, &own]);
        assert_eq!(make(&hierarchy, "x", &[]).unwrap(), own.join("x"));
        // The files of a folder like this one are not the kernel's, and say nothing of controllers.
        let error = make(&hierarchy, "y", &["memory", "cpu"]).unwrap_err();
        assert_eq!(error.to_string(), format!("{own} has not been given `memory`"));
        assert_eq!(std::fs::read_to_string(root.join("cgroup.subtree_control")).unwrap(), "+cpu");
        assert!(!root.join("y").exists() && !own.join("y").exists());
    }

    #[test]
    fn the_group_of_a_step_tells_whose_it_is() {
        assert_eq!(worker_of("imgforge-step-12-345"), Some((12, 345)));
        for name in ["imgforge-step-12", "imgforge-step-a-1", "imgforge-0123", "docker"] {
            assert_eq!(worker_of(name), None, "{name}");
        }
    }
}
