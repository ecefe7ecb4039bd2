//! Whose files are used: this user's, and those of whoever this user says.
//!
//! A workspace says what is run and what is read, so one that somebody else has put into a folder above
//! (`/tmp/imgforge.kdl`) is not used. The rules are those of git's `safe.directory` (git-config(1)).

use std::os::unix::fs::MetadataExt;

use camino::{Utf8Path, Utf8PathBuf};

/// The variable that names workspaces of other users that are used: folders, with `:` between them, or `*`.
pub const SAFE_DIRECTORY: &str = "IMGFORGE_SAFE_DIRECTORY";

/// The user that has called `sudo` (sudo(8)).
const SUDO_UID: &str = "SUDO_UID";

/// The users whose files are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owners(Vec<u32>);

/// A workspace of another user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} belongs to another user ({uid}), so the workspace {root} is not used")]
pub struct ForeignWorkspace {
    /// The workspace.
    pub root: Utf8PathBuf,
    /// What belongs to somebody else: the workspace, or its `imgforge.kdl`.
    pub path: Utf8PathBuf,
    /// Its owner.
    pub uid: u32,
}

impl Owners {
    /// The user that this process is; and for root whoever has called `sudo`, who could do as much.
    pub fn of_process() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        Self::new(uid, std::env::var(SUDO_UID).ok().as_deref())
    }

    /// One user alone.
    pub fn only(uid: u32) -> Self {
        Self(vec![uid])
    }

    fn new(uid: u32, sudo: Option<&str>) -> Self {
        let sudo = sudo.filter(|_| uid == 0).and_then(|text| text.parse().ok());
        let own = Self::only(uid);
        match sudo {
            Some(sudo) => own.and(sudo),
            None => own,
        }
    }

    /// Another user too.
    #[must_use]
    pub fn and(mut self, uid: u32) -> Self {
        self.0.push(uid);
        self
    }

    /// Whether what this user owns is used.
    pub fn contains(&self, uid: u32) -> bool {
        self.0.contains(&uid)
    }

    /// The users whose files in the workspace at `root` are used: those of this process, and the workspace's owner
    /// where [`SAFE_DIRECTORY`] names it.
    ///
    /// # Errors
    /// [`ForeignWorkspace`] when it is somebody else's.
    pub fn of_workspace(root: &Utf8Path) -> Result<Self, ForeignWorkspace> {
        let safe = std::env::var(SAFE_DIRECTORY).unwrap_or_default();
        Self::of_process().with_workspace(root, &safe)
    }

    fn with_workspace(self, root: &Utf8Path, safe: &str) -> Result<Self, ForeignWorkspace> {
        let is_safe = is_named(safe, root);
        let mut owners = self;
        for path in [root.to_owned(), root.join("imgforge.kdl")] {
            // What cannot be looked at cannot be read either, which is told by whoever reads it.
            let Ok(metadata) = path.symlink_metadata() else { continue };
            let uid = metadata.uid();
            if owners.contains(uid) {
                continue;
            }
            if !is_safe {
                return Err(ForeignWorkspace { root: root.to_owned(), path, uid });
            }
            owners = owners.and(uid);
        }
        Ok(owners)
    }
}

/// Whether a list names a folder.
fn is_named(list: &str, folder: &Utf8Path) -> bool {
    list.split(':').any(|named| {
        let is_it = || Utf8Path::new(named).canonicalize_utf8().is_ok_and(|named| named == folder);
        named == "*" || (named.starts_with('/') && is_it())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_uses_the_files_of_whoever_has_called_sudo_and_nobody_else_does() {
        let root = Owners::new(0, Some("1000"));
        assert!(root.contains(0) && root.contains(1000) && !root.contains(1001));
        assert!(!Owners::new(1001, Some("1000")).contains(1000), "anybody can set a variable");
        assert!(!Owners::new(0, Some("-1")).contains(u32::MAX) && !Owners::new(0, None).contains(1000));
    }

    #[test]
    fn a_workspace_of_another_user_is_used_when_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap().canonicalize_utf8().unwrap();
        std::fs::write(root.join("imgforge.kdl"), "").unwrap();
        let own = rustix::process::geteuid().as_raw();
        let as_stranger = |safe: &str| Owners::only(own + 1).with_workspace(&root, safe);
        assert_eq!(Owners::only(own).with_workspace(&root, ""), Ok(Owners::only(own)));
        for safe in ["", "/", "/nonexistent:relative", ".", root.parent().unwrap().as_str()] {
            assert!(as_stranger(safe).is_err(), "{safe}");
        }
        for safe in ["*".to_owned(), root.to_string(), format!("/x:{root}/")] {
            assert!(as_stranger(&safe).unwrap().contains(own), "{safe}");
        }
    }
}
