//! What lies in an image: looked at in a container of it that is never started, so that it works without a shell, and
//! shows what was built and not what a process has made of it since.

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_engine::Containers;
use imgforge_engine::containers::{Entry, EntryKind, follow_links};

use crate::Error;

/// The file system of an image.
pub(super) struct Look {
    containers: Arc<dyn Containers>,
    container: String,
}

/// A line of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: String,
    pub(super) shell: String,
}

impl Look {
    /// Into a container of the image.
    pub(super) fn new(containers: Arc<dyn Containers>, container: String) -> Self {
        Self { containers, container }
    }

    /// Returns the entry at a path; a link at its end is followed unless `is_link_meant`.
    pub(super) async fn entry(&self, path: &str, is_link_meant: bool) -> Result<Option<Entry>, Error> {
        let path = Utf8Path::new(path);
        if is_link_meant {
            return Ok(self.containers.entry(&self.container, path).await?);
        }
        let entry = |at: Utf8PathBuf| async move { self.containers.entry(&self.container, &at).await };
        Ok(follow_links(path, entry).await?)
    }

    /// The text of a file; empty when there is none.
    pub(super) async fn text(&self, path: &str) -> Result<String, Error> {
        let entry = self.entry(path, false).await?;
        Ok(match entry.map(|entry| entry.kind) {
            Some(EntryKind::File(content)) => String::from_utf8_lossy(&content).into_owned(),
            _ => String::new(),
        })
    }

    /// Everything.
    pub(super) async fn walk(&self) -> Result<Vec<(String, Entry)>, Error> {
        Ok(self.containers.walk(&self.container).await?)
    }

    /// The accounts, by name.
    pub(super) async fn accounts(&self) -> Result<BTreeMap<String, Account>, Error> {
        let text = self.text("/etc/passwd").await?;
        Ok(text.lines().filter_map(account).map(|account| (account.name.clone(), account)).collect())
    }

    /// The numbers of groups, by name.
    pub(super) async fn groups(&self) -> Result<BTreeMap<String, u32>, Error> {
        let group = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            Some((name, fields.nth(1)?.parse().ok()?))
        };
        Ok(self.text("/etc/group").await?.lines().filter_map(group).collect())
    }
}

/// `web:x:1000:1000::/srv/web:/usr/sbin/nologin`.
fn account(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, shell] = fields.as_slice() else { return None };
    Some(Account {
        name: (*name).to_owned(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        home: (*home).to_owned(),
        shell: (*shell).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_lines_of_seven_fields() {
        let found = account("web:x:1000:100:The web:/srv/web:/bin/sh").unwrap();
        assert_eq!((found.name.as_str(), found.uid, found.gid), ("web", 1000, 100));
        assert_eq!((found.home.as_str(), found.shell.as_str()), ("/srv/web", "/bin/sh"));
        for wrong in ["", "web", "web:x:no:1::/:/bin/sh", "web:x:1:1::/"] {
            assert_eq!(account(wrong), None, "{wrong}");
        }
    }
}
