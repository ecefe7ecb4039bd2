//! Where a worker does its work: a mount namespace of its own, and a user namespace when it is not root.
//!
//! In a user namespace this user is root over files of its own. With subordinate ids (`/etc/subuid`, `/etc/subgid`,
//! and the programs `newuidmap` and `newgidmap`) an image's other users are theirs; without, there is only root.

use std::io::{self, BufRead, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use nix::sched::CloneFlags;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::CapabilitySet;

/// The name (`argv[0]`) of the process that maps ids: it must have been there before the namespace is.
pub(super) const MAPPER: &str = "imgforge-mapper";

/// The number of ids that an image needs: `nobody` is 65534.
const ENOUGH: u32 = 65_535;

/// Moves this process, which has one thread, there.
pub(super) fn enter() -> io::Result<()> {
    if may_mount()? {
        return enter_mounts();
    }
    enter_user()?;
    make_private()
}

/// Returns whether this process may mount as it is.
pub(super) fn may_mount() -> io::Result<bool> {
    Ok(rustix::thread::capabilities(None)?.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Moves this process to mounts of its own.
pub(super) fn enter_mounts() -> io::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    make_private()
}

/// Keeps mounts made here from being seen outside, and mounts that are removed outside from being held here.
fn make_private() -> io::Result<()> {
    Ok(mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?)
}

fn enter_user() -> io::Result<()> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let name = name(uid);
    let of =
        |file: &str| std::fs::read_to_string(file).ok().and_then(|text| range(&text, uid, name.as_deref()));
    let ranges = of("/etc/subuid").zip(of("/etc/subgid"));
    let mapper = ranges.map(|(uids, gids)| start_mapper((uid, uids), (gid, gids))).transpose()?;
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(|error| {
        io::Error::other(format!(
            "this user may not have a user namespace: {error}; see the sysctls user.max_user_namespaces, kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns, or run as root"
        ))
    })?;
    let Some(mut mapper) = mapper else { return map_one(uid, gid) };
    // Its stdin ends: now.
    drop(mapper.stdin.take());
    let ended = mapper.wait_with_output()?;
    if ended.status.code() == Some(i32::from(ABSENT)) {
        return map_one(uid, gid);
    }
    if !ended.status.success() {
        let text = String::from_utf8_lossy(&ended.stderr);
        return Err(io::Error::other(format!(
            "the ids of /etc/subuid and /etc/subgid cannot be had: {text}"
        )));
    }
    Ok(())
}

/// This user alone, as root.
fn map_one(uid: u32, gid: u32) -> io::Result<()> {
    // Without this nobody but root may map a group.
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// The exit code of the mapper when there is no `newuidmap`.
const ABSENT: u8 = 3;

fn start_mapper(uids: (u32, (u32, u32)), gids: (u32, (u32, u32))) -> io::Result<std::process::Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(MAPPER).arg(std::process::id().to_string());
    for (own, (first, count)) in [uids, gids] {
        command.args([own, first, count].map(|number| number.to_string()));
    }
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
}

/// The mapper: waits until the namespace is there, and has it filled.
pub(super) fn mapper() -> ExitCode {
    let _ = io::stdin().read(&mut [0]);
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [process, uids @ .., _, _, _] = &args[..] else { return ExitCode::FAILURE };
    let gids = &args[args.len() - 3..];
    for (program, numbers) in [("newuidmap", uids), ("newgidmap", gids)] {
        let [own, first, count] = numbers else { return ExitCode::FAILURE };
        let status = Command::new(program).args([process, "0", own, "1", "1", first, count]).status();
        match status {
            Ok(status) if status.success() => {}
            Ok(_) => return ExitCode::FAILURE,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return ExitCode::from(ABSENT),
            Err(error) => {
                let _ = writeln!(io::stderr(), "{program}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// A user's name on this machine.
fn name(uid: u32) -> Option<String> {
    let file = std::fs::File::open("/etc/passwd").ok()?;
    io::BufReader::new(file).lines().map_while(Result::ok).find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// The first range of subordinate ids that is large enough, and how many of it are needed: `NAME:FIRST:COUNT` a line
/// (`subuid(5)`).
fn range(text: &str, uid: u32, name: Option<&str>) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let first = fields.next()?.parse().ok()?;
        let count: u32 = fields.next()?.parse().ok()?;
        let is_ours = Some(owner) == name || owner.parse() == Ok(uid);
        (is_ours && count >= ENOUGH).then_some((first, count))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ids_are_found_by_name_and_by_number() {
        let text = "other:1:65536\nweb:100000:10\n\nnonsense\nweb:200000:65536\n1000:300000:70000\n";
        assert_eq!(range(text, 5, Some("web")), Some((200_000, 65_536)));
        assert_eq!(range(text, 1000, None), Some((300_000, 70_000)));
        assert_eq!(range(text, 7, Some("nobody")), None);
    }
}
