//! What is mounted for a command.

use std::sync::Arc;

use camino::Utf8PathBuf;
use imgforge_embedded::worker::message::{
    Action, Content, ContextEntry, ContextKind, Mount, MountKind, Network, Reply, Run, Tree,
};

use crate::fixture::{Fixture, file, list, run};

#[tokio::test]
async fn what_is_mounted_for_a_command_is_no_part_of_its_layer() {
    let fixture = Fixture::new();
    let other = fixture.path().join("other");
    std::fs::create_dir_all(other.join("lib")).unwrap();
    std::fs::write(other.join("lib/tool"), "tool\n").unwrap();
    std::os::unix::fs::symlink("/lib", other.join("link")).unwrap();
    let host = fixture.path().join("host");
    std::fs::create_dir(&host).unwrap();
    let mount = |target: &str, kind| Mount { target: target.into(), kind };
    let context = vec![
        ContextEntry { path: "dir".into(), kind: ContextKind::Folder { mode: 0o755 } },
        ContextEntry {
            path: "dir/text".into(),
            kind: ContextKind::File { mode: 0o644, content: Content::Bytes(b"context\n".into()) },
        },
    ];
    let tree = |tree, path: &str, read_only| MountKind::Tree { tree, path: path.into(), read_only };
    let mounts = vec![
        file("/run/secrets/key", "secret\n"),
        mount("/cache", MountKind::Host { path: host.clone(), read_only: false }),
        mount("/fixed", MountKind::Host { path: host.clone(), read_only: true }),
        mount("/tree", tree(Tree::Stack(vec![other.clone()]), "link", true)),
        mount("/free", tree(Tree::Stack(vec![other]), "", false)),
        mount("/one", tree(Tree::Context(context.clone()), "dir/text", true)),
        mount("/context", tree(Tree::Context(context), "", false)),
        mount("/memory", MountKind::Tmpfs { size: Some(1 << 20), mode: 0o1777 }),
        mount("/memory/in/it", tree(Tree::Context(Vec::new()), "", true)),
    ];
    let script = "cat /run/secrets/key /tree/tool /one /context/dir/text; echo kept > /cache/kept; \
        (echo x > /fixed/x) 2>/dev/null || echo fixed; (echo x > /tree/x) 2>/dev/null || echo fixed; \
        echo x > /free/x; echo x > /context/x; echo x > /memory/x; ls /memory; \
        (echo x > /run/secrets/key) 2>/dev/null || echo fixed; echo new > /new";
    let (request, layer) = fixture.step(Action::Run(Run { mounts, ..run(script) }));
    let (reply, printed) = fixture.ask(&request).await;
    assert!(matches!(reply, Ok(Reply::Step(Some(_)))), "{reply:?} {printed}");
    assert_eq!(printed, "secret\ntool\ncontext\ncontext\nfixed\nfixed\nin\nx\nfixed\n");
    assert_eq!(list(&layer), ["new"]);
    assert_eq!(list(&host), ["kept"]);
}

/// Lets two paths take each other's place in a cache, again and again, until it is dropped: what a step does that
/// shares the cache with another.
struct Swapping {
    ends: Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Swapping {
    fn new(one: Utf8PathBuf, other: Utf8PathBuf) -> Self {
        let ends = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let end = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            while !end.load(std::sync::atomic::Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let (cwd, one, other) = (rustix::fs::CWD, one.as_std_path(), other.as_std_path());
                rustix::fs::renameat_with(cwd, one, cwd, other, flags).unwrap();
            }
        });
        Self { ends, thread: Some(thread) }
    }
}

impl Drop for Swapping {
    fn drop(&mut self) {
        self.ends.store(true, std::sync::atomic::Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// A cache with a folder and a link in it that leads to the folder `outside`, where a secret is.
fn cache(fixture: &Fixture) -> (Utf8PathBuf, Utf8PathBuf) {
    let (cache, outside) = (fixture.path().join("cache"), fixture.path().join("outside"));
    std::fs::create_dir_all(cache.join("bus")).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("key"), "secret\n").unwrap();
    std::os::unix::fs::symlink(&outside, cache.join("link")).unwrap();
    (cache, outside)
}

#[tokio::test]
async fn a_path_that_another_step_makes_a_link_leads_nowhere_outside() {
    let fixture = Fixture::new();
    let (cache, outside) = cache(&fixture);
    let swapping = Swapping::new(cache.join("bus"), cache.join("link"));
    let mount = |target: &str, read_only| {
        let path = if read_only { outside.clone() } else { cache.clone() };
        Mount { target: target.into(), kind: MountKind::Host { path, read_only } }
    };
    let (mut leaks, mut refused) = (0, 0);
    for _ in 0..50 {
        let mounts = vec![mount("/proc", false)];
        let (request, _) =
            fixture.step(Action::Run(Run { mounts, ..run("cat /proc/bus/key 2>/dev/null; true") }));
        let (reply, printed) = fixture.ask(&request).await;
        leaks += usize::from(printed.contains("secret"));
        let is_refused =
            matches!(&reply, Ok(Reply::Error(text)) if text.starts_with("nothing can be mounted on /proc"));
        refused += usize::from(is_refused);
    }
    assert_eq!((leaks, refused), (0, 50));
    // What is mounted in the cache is mounted there or not at all, and stays as it was asked for.
    let script = "rm /cache/bus/in/key 2>/dev/null && echo removed; cat /cache/bus/in/key 2>/dev/null; true";
    for _ in 0..50 {
        let mounts = vec![mount("/cache", false), mount("/cache/bus/in", true)];
        let (request, _) = fixture.step(Action::Run(Run { mounts, ..run(script) }));
        let (reply, printed) = fixture.ask(&request).await;
        assert!(matches!(printed.as_str(), "" | "secret\n"), "{reply:?} {printed}");
    }
    drop(swapping);
    assert_eq!(list(&outside), ["key"]);
}

#[tokio::test]
async fn nothing_is_mounted_where_docker_refuses_it() {
    let fixture = Fixture::new();
    std::os::unix::fs::symlink("proc", fixture.base().join("link")).unwrap();
    std::fs::create_dir(fixture.path().join("host")).unwrap();
    let folder = MountKind::Host { path: fixture.path().join("host"), read_only: false };
    let memory = MountKind::Tmpfs { size: None, mode: 0o755 };
    let text = MountKind::File { content: b"text\n".into(), mode: 0o444, uid: 0, gid: 0 };
    let with = async |target: &str, kind: &MountKind, script: &str| {
        let mounts = vec![Mount { target: target.into(), kind: kind.clone() }];
        let (request, _) = fixture.step(Action::Run(Run { mounts, ..run(script) }));
        let (reply, printed) = fixture.ask(&request).await;
        match reply.unwrap() {
            Reply::Error(message) => message,
            other => format!("{other:?} {printed}"),
        }
    };
    // As `docker run` 20.10 with runc 1.1 does.
    for (target, kind) in [
        ("/proc", &folder),
        ("/proc", &memory),
        ("/proc/sys", &folder),
        ("/proc/sys/kernel/domainname", &text),
        ("/proc/version", &text),
        ("/proc/net/dev", &text),
        ("/link/sys", &folder),
        ("/link/../link/version", &text),
        ("/dev", &folder),
        ("/dev", &memory),
        ("/dev/shm/..", &memory),
        ("/link/..", &folder),
    ] {
        let said = with(target, kind, "echo ran").await;
        assert!(said.starts_with(&format!("nothing can be mounted on {target}: it is ")), "{said}");
    }
    for (target, kind) in [("/proc/new", &folder), ("/sys/new", &folder), ("/dev/null", &folder)] {
        let said = with(target, kind, "echo ran").await;
        assert!(said.starts_with(target), "{said}");
    }
    for (target, kind) in [("/proc/uptime", &text), ("/link/cpuinfo", &text), ("/dev/text", &text)] {
        assert_eq!(with(target, kind, &format!("cat {target}")).await, "Step(None) text\n");
    }
    for target in
        ["/sys", "/sys/kernel", "/sys/fs/cgroup", "/sys/firmware", "/dev/shm", "/dev/pts", "/dev/new"]
    {
        assert_eq!(with(target, &folder, "echo ran").await, "Step(None) ran\n", "{target}");
    }
}

/// What a machine may have mounted in the folder `host`.
const MOUNTS: &str = r#"
mkdir -p host/p/q host/twice host/closed/in host/seen && chmod 1777 host
mount -t tmpfs -o mode=1777,nosymfollow,strictatime plain host/seen
echo text > host/seen/text
mkdir host/seen/deep "host/seen/a b" && chmod 1777 host/seen/*
mount -t tmpfs -o mode=1777 deep host/seen/deep
mount -t tmpfs -o mode=1777,noexec,nodev blank "host/seen/a b"
# Hidden behind another one.
mount -t tmpfs -o mode=1777 hidden host/p/q
mount -t tmpfs -o mode=1777 hides host/p
# Two at one place.
mount -t tmpfs -o mode=1777 lower host/twice && mkdir host/twice/in
mount -t tmpfs -o mode=1777 upper host/twice
# Where only root may go.
mount -t tmpfs -o mode=1777 closed host/closed/in
chown 0:0 host/closed && chmod 700 host/closed
"#;

#[tokio::test]
async fn what_is_mounted_in_a_folder_that_can_only_be_read_can_only_be_read_too() {
    let write = "for folder in /host /host/seen /host/seen/deep '/host/seen/a b' /host/p /host/twice /host/closed/in; do \
        (echo x > \"$folder/x\") 2>/dev/null && echo wrote $folder; done; cat /host/seen/text";
    for is_nobody in [false, true] {
        let with = async |read_only| {
            let mut fixture = Fixture::new();
            fixture.mount_before(MOUNTS, is_nobody);
            let kind = MountKind::Host { path: fixture.path().join("host"), read_only };
            let mounts = vec![Mount { target: "/host".into(), kind }];
            let (request, _) = fixture.step(Action::Run(Run { mounts, ..run(write) }));
            let (reply, printed) = fixture.ask(&request).await;
            assert!(matches!(reply, Ok(Reply::Step(None))), "nobody: {is_nobody}: {reply:?} {printed}");
            printed
        };
        assert_eq!(with(true).await, "text\n", "nobody: {is_nobody}");
        let wrote = with(false).await;
        for folder in ["/host", "/host/seen", "/host/seen/deep", "/host/seen/a b", "/host/p", "/host/twice"] {
            assert!(wrote.contains(&format!("wrote {folder}\n")), "nobody: {is_nobody}: {folder}: {wrote}");
        }
        assert_eq!(wrote.contains("/host/closed/in"), !is_nobody, "{wrote}");
    }
}

#[tokio::test]
async fn what_is_mounted_in_the_machines_sysfs_can_only_be_read() {
    let mounts = "mount -t tmpfs -o mode=1777 open /sys/kernel/debug\n\
        mount -t tmpfs -o mode=700 closed /sys/fs/bpf\nmkdir /sys/fs/bpf/in\n\
        mount -t tmpfs -o mode=1777 in /sys/fs/bpf/in\n";
    let write = "for folder in /sys/kernel/debug /sys/fs/bpf/in; do (echo x > $folder/x) 2>/dev/null && echo wrote $folder; \
        done; cat /proc/self/mounts";
    let mut fixture = Fixture::new();
    fixture.mount_before(mounts, true);
    // Only the machine's own network has a user namespace see the machine's own sysfs.
    let (request, _) = fixture.step(Action::Run(Run { network: Network::Host, ..run(write) }));
    let (reply, printed) = fixture.ask(&request).await;
    assert!(matches!(reply, Ok(Reply::Step(None))), "{reply:?} {printed}");
    assert!(printed.contains("open /sys/kernel/debug tmpfs ro,"), "it is there: {printed}");
    assert!(!printed.contains("wrote"), "{printed}");
}
