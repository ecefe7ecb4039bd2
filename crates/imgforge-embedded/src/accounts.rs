//! Users and groups as an image knows them: `/etc/passwd` and `/etc/group` below a folder.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// The user and the group that every image has.
const ROOT: &str = "root";

/// The largest file that is read to its end.
const MAX: u64 = 16 << 20;

/// Who something runs as or belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The other groups that the user is in, only when no group was named.
    pub groups: Vec<u32>,
    /// The user's home folder; `/` for one that the image does not know.
    pub home: String,
}

/// The largest number of a user or group, as runc has it. 4294967295 means "leave it as it is" to the kernel.
const LARGEST: u32 = i32::MAX.unsigned_abs();

/// Whom `USER[:GROUP]` means; an empty text means root. Numbers need no entry in the image's files.
///
/// The rules are runc's (`libcontainer/user`), which Docker and BuildKit use; root is 0 also where no file says so,
/// as it is for COPY in BuildKit.
///
/// # Errors
/// A name that the image does not know.
pub fn look_up(root: impl AsFd, text: &str) -> io::Result<Account> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let passwd = read(&root, "etc/passwd")?;
    let known = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.len() >= 4 && (fields[0] == user || number.is_some_and(|uid| fields[2].parse() == Ok(uid)))
    });
    let mut account = match (&known, number) {
        (Some(fields), _) => Account {
            uid: fields[2]
                .parse()
                .map_err(|_| io::Error::other(format!("/etc/passwd: the line of {user}")))?,
            gid: fields[3]
                .parse()
                .map_err(|_| io::Error::other(format!("/etc/passwd: the line of {user}")))?,
            groups: Vec::new(),
            home: fields.get(5).filter(|home| !home.is_empty()).map_or("/", |home| home).to_owned(),
        },
        (None, None) if user == ROOT => Account { uid: 0, gid: 0, groups: Vec::new(), home: "/".into() },
        (None, Some(uid)) => Account { uid, gid: 0, groups: Vec::new(), home: "/".into() },
        (None, None) => {
            return Err(io::Error::other(format!("there is no user {user} in /etc/passwd of the image")));
        }
    };
    let groups = read(&root, "etc/group")?;
    let mut lines = groups.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|f| f.len() >= 3);
    match group {
        Some(group) => {
            let number = group.parse::<u32>().ok();
            let known = lines.find(|fields| fields[0] == group).and_then(|fields| fields[2].parse().ok());
            let number = number.or((group == ROOT).then_some(0));
            account.gid = known.or(number).ok_or_else(|| {
                io::Error::other(format!("there is no group {group} in /etc/group of the image"))
            })?;
        }
        None => {
            if let Some(name) = known.as_ref().map(|fields| fields[0]) {
                let is_in = |fields: &Vec<&str>| {
                    fields.get(3).is_some_and(|members| members.split(',').any(|member| member == name))
                };
                account.groups = lines.filter(is_in).filter_map(|fields| fields[2].parse().ok()).collect();
            }
        }
    }
    let mut all = [account.uid, account.gid].into_iter().chain(account.groups.iter().copied());
    match all.find(|id| *id > LARGEST) {
        Some(id) => Err(io::Error::other(format!("{id} is no user or group: the largest is {LARGEST}"))),
        None => Ok(account),
    }
}

/// Whom something belongs to that a build makes for `USER[:GROUP]`: a number alone is the group's too (Dockerfile
/// reference, "COPY --chown").
///
/// # Errors
/// A name that the image does not know.
pub fn owner(root: impl AsFd, text: &str) -> io::Result<(u32, u32)> {
    let account = look_up(root, text)?;
    let is_number = !text.contains(':') && text.parse::<u32>().is_ok();
    Ok((account.uid, if is_number { account.uid } else { account.gid }))
}

/// A file below a folder, links followed inside it; empty when there is none.
fn read(root: &impl AsFd, path: &str) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::openat2(root, Path::new(path), flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(fd) => {
            let mut bytes = Vec::new();
            std::fs::File::from(fd).take(MAX).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(String::new()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found_as_runc_finds_them() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/srv:/bin/sh\nbroken\n";
        std::fs::write(folder.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(folder.path().join("etc/group"), "root:x:0:\nweb:x:1001:\nlogs:x:7:a,web\n").unwrap();
        let root = std::fs::File::open(folder.path()).unwrap();
        let of = |text: &str| look_up(&root, text).map(|a| (a.uid, a.gid, a.groups, a.home));
        // The kernel would take this for "leave it as it is", which is root.
        for none in ["4294967295", "0:4294967295", "2147483648"] {
            assert!(of(none).unwrap_err().to_string().contains("the largest is 2147483647"), "{none}");
        }
        assert_eq!(of("").unwrap(), (0, 0, vec![], "/root".into()));
        assert_eq!(of("web").unwrap(), (1000, 1001, vec![7], "/srv".into()));
        assert_eq!(of("1000").unwrap(), (1000, 1001, vec![7], "/srv".into()));
        assert_eq!(of("web:logs").unwrap(), (1000, 7, vec![], "/srv".into()));
        assert_eq!(of("55:66").unwrap(), (55, 66, vec![], "/".into()));
        assert_eq!(of("55").unwrap(), (55, 0, vec![], "/".into()));
        assert_eq!(owner(&root, "55").unwrap(), (55, 55));
        assert_eq!(owner(&root, "web").unwrap(), (1000, 1001));
        assert_eq!(of("root:root").unwrap(), (0, 0, vec![], "/root".into()));
        let empty = tempfile::tempdir().unwrap();
        let without = std::fs::File::open(empty.path()).unwrap();
        for text in ["root", "root:root", "0:root", "root:0"] {
            assert_eq!(owner(&without, text).unwrap(), (0, 0), "{text}");
        }
        assert!(owner(&without, "root:staff").is_err());
        assert!(of("nobody").unwrap_err().to_string().contains("no user nobody"));
        assert!(of("web:none").unwrap_err().to_string().contains("no group none"));
    }
}
