//! What containers have left whose process was killed. The kernel ends their processes and mounts with the worker; what
//! stays are folders, volumes that were made for one container alone, and control groups.
//!
//! A volume with a name is somebody's data and stays, as with `docker system prune`.

use std::collections::BTreeSet;
use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_oci::Digest;
use imgforge_state::StateDir;

use super::record::{Folder, Record, Status};
use crate::cgroup;

/// The leftovers of killed containers, and what other containers still need.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Leftovers {
    /// Folders of containers, and of their own volumes. Files in them may belong to others.
    pub(crate) folders: Vec<Utf8PathBuf>,
    /// Control groups.
    pub(crate) groups: Vec<Utf8PathBuf>,
    /// The size of these folders in bytes.
    pub(crate) bytes: u64,
    /// The ids of images that other containers are made of.
    pub(crate) images_in_use: BTreeSet<Digest>,
}

/// Looks for it in a store. The containers in `held` are those of this process. `is_alone` says that no other process
/// uses the store, so that a container which does not run is not just being made.
pub(super) fn find(store: &StateDir, held: &BTreeSet<String>, is_alone: bool) -> io::Result<Leftovers> {
    let containers = Folder::new(store);
    let (mut found, mut needed) = (Leftovers::default(), BTreeSet::new());
    for id in containers.ids()? {
        let folder = containers.of(&id);
        // A record that does not read was being written when the machine stopped.
        let record = containers.find_exactly(&id).unwrap_or_default();
        let is_needed = held.contains(&id)
            || match containers.status(&id) {
                // What is there without a record, nobody here has started.
                Ok(Status::Running(_)) => record.is_some(),
                Ok(Status::Made) => !is_alone,
                Ok(Status::Ended(_)) | Err(_) => false,
            };
        if is_needed {
            found.images_in_use.extend(record.map(|record: Record| record.image));
            needed.insert(id);
            continue;
        }
        if record.is_some() {
            found.groups.extend(containers.groups(&id).unwrap_or_default());
        }
        found.groups.extend(cgroup::groups_of(&id)?);
        found.folders.push(folder);
    }
    for (name, folder) in listed(&store.path().join("volumes"))? {
        // Of a container that is being made, the record comes before its volumes.
        if container_of(&name).is_some_and(|id| !needed.contains(id)) {
            found.folders.push(folder);
        }
    }
    found.groups.extend(cgroup::left_by_steps()?);
    found.groups.sort();
    found.groups.dedup();
    found.bytes = found.folders.iter().map(|folder| size(folder)).sum();
    Ok(found)
}

/// The container that a volume was made for: its name is the container's id and a number.
fn container_of(volume: &str) -> Option<&str> {
    let (id, number) = volume.split_once('-')?;
    let is_id = id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_id && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(id)
}

/// Returns the entries of a folder by name; none when there is no such folder.
fn listed(folder: &Utf8Path) -> io::Result<Vec<(String, Utf8PathBuf)>> {
    let entries = match folder.read_dir_utf8() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        found.push((entry.file_name().to_owned(), entry.into_path()));
    }
    found.sort();
    Ok(found)
}

/// Returns the size of a folder, as far as it can be read.
fn size(path: &Utf8Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = path.symlink_metadata() else { return 0 };
    let below = if metadata.is_dir() { listed(path).unwrap_or_default() } else { Vec::new() };
    metadata.blocks() * 512 + below.iter().map(|(_, path)| size(path)).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_volumes_of_one_container_have_its_id() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(container_of(&format!("{id}-0")), Some(id.as_str()));
        assert_eq!(container_of(&format!("{id}-12")), Some(id.as_str()));
        for name in ["data", "data-0", &id, &format!("{id}-"), &format!("{id}-x"), &format!("{id}0-0")] {
            assert_eq!(container_of(name), None, "{name}");
        }
    }

    #[test]
    fn what_belongs_to_no_process_is_left_over() {
        let dir = tempfile::tempdir().unwrap();
        let store = Utf8Path::from_path(dir.path()).unwrap();
        let state = StateDir::at(store);
        // Control groups are the whole machine's: those of a worker that was killed elsewhere are none of this store.
        assert!(find(&state, &BTreeSet::new(), true).unwrap().folders.is_empty());
        let id = |digit: &str| digit.repeat(64);
        let (made, ended, held, broken) = (id("a"), id("b"), id("c"), id("d"));
        for id in [&made, &ended, &held, &broken] {
            fs::create_dir_all(store.join("containers").join(id).join("upper")).unwrap();
        }
        fs::write(
            store.join("containers").join(&ended).join("ended.json"),
            r#"{"code":0,"out_of_memory":false}"#,
        )
        .unwrap();
        fs::write(store.join("containers").join(&broken).join("state.json"), "").unwrap();
        let volumes =
            [format!("{ended}-0"), format!("{held}-0"), format!("{}-1", id("e")), "data".to_owned()];
        for volume in &volumes {
            fs::create_dir_all(store.join("volumes").join(volume)).unwrap();
        }
        let left = |is_alone| -> Vec<String> {
            let found = find(&state, &BTreeSet::from([held.clone()]), is_alone).unwrap();
            assert!(found.bytes > 0);
            found.folders.iter().map(|path| path.file_name().unwrap_or_default().to_owned()).collect()
        };
        let others = [volumes[0].clone(), volumes[2].clone()];
        assert_eq!(left(true), [[made, ended.clone(), broken.clone()].as_slice(), &others].concat());
        assert_eq!(left(false), [[ended, broken].as_slice(), &others].concat());
    }
}
