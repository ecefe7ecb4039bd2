//! What a command may do, and who it is.

use camino::Utf8Path;
use imgforge_embedded::worker::message::{Action, Mount, MountKind, Network, Reply, Run};
use tokio_util::sync::CancellationToken;

use crate::fixture::{Fixture, list, run, seconds};

#[tokio::test]
async fn a_command_has_no_more_than_it_has_in_docker() {
    let fixture = Fixture::new();
    // Somebody has started the program with a file open.
    let leak = std::fs::File::open("/proc/self/status").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let script = "ls /sys/class/net; cat /sys/class/net/lo/flags; ls /proc/self/fd | wc -l; \
        grep -E '^Cap(Inh|Eff|Bnd|Amb)|^NoNew|^Seccomp:' /proc/self/status; umask; cat /proc/sys/kernel/hostname; \
        cat /proc/timer_list /proc/keys | wc -c; ls /sys/firmware | wc -l; ls /dev; \
        (echo 1 > /proc/sys/kernel/panic) 2>/dev/null || echo refused; mount -t tmpfs x /mnt 2>/dev/null || echo refused";
    for name in ["wc", "grep", "mount"] {
        std::os::unix::fs::symlink("busybox", fixture.base().join("bin").join(name)).unwrap();
    }
    let (reply, printed, _) = fixture.sh(script).await;
    assert!(matches!(reply, Reply::Step(None)), "{reply:?} {printed}");
    let expected = "lo\n0x9\n4\n\
        CapInh:\t0000000000000000\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n\
        NoNewPrivs:\t0\nSeccomp:\t2\n0022\nimgforge\n0\n0\nfd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\n\
        stdout\ntty\nurandom\nzero\nrefused\nrefused\n";
    assert_eq!(printed, expected);
}

#[tokio::test]
async fn a_command_runs_as_the_user_that_the_image_knows() {
    let fixture = Fixture::new();
    std::fs::create_dir(fixture.base().join("etc")).unwrap();
    std::fs::write(fixture.base().join("etc/passwd"), "web:x:1000:1001::/srv:/bin/sh\n").unwrap();
    std::fs::write(fixture.base().join("etc/group"), "web:x:1001:\nlogs:x:7:web\n").unwrap();
    let script = "id -u; id -g; id -G; echo $HOME; grep -E '^CapEff|^NoNew|^Seccomp:' /proc/self/status; pwd; echo by name > /dev/stdout; \
        touch mine 2>/dev/null || echo refused";
    std::os::unix::fs::symlink("busybox", fixture.base().join("bin/grep")).unwrap();
    let of = async |user: &str| {
        let (request, _) =
            fixture.step(Action::Run(Run { user: user.into(), workdir: "/made/here".into(), ..run(script) }));
        let (reply, printed) = fixture.ask(&request).await;
        assert!(matches!(reply, Ok(Reply::Step(Some(_)))), "{reply:?}");
        printed
    };
    let rest = "CapEff:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n/made/here\nby name\nrefused\n";
    assert_eq!(of("web").await, format!("1000\n1001\n1001 7\n/srv\n{rest}"));
    assert_eq!(of("55:66").await, format!("55\n66\n66\n/\n{rest}"));
    let (request, _) = fixture.step(Action::Run(Run { user: "nobody".into(), ..run("true") }));
    let (reply, _) = fixture.ask(&request).await;
    assert!(matches!(&reply, Ok(Reply::Error(text)) if text.contains("no user nobody")), "{reply:?}");
}

#[tokio::test]
async fn nodes_of_devices_can_be_made_and_those_of_the_machine_not_opened() {
    let fixture = Fixture::new();
    for name in ["mknod", "head", "wc", "chmod"] {
        std::os::unix::fs::symlink("busybox", fixture.base().join("bin").join(name)).unwrap();
    }
    // One in a layer of the image: the kernel's log.
    let node = fixture.base().join("log");
    let (character, mode) = (rustix::fs::FileType::CharacterDevice, 0o666.into());
    rustix::fs::mknodat(rustix::fs::CWD, node.as_std_path(), character, mode, rustix::fs::makedev(1, 11))
        .unwrap();
    let cache = fixture.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    let script = "mknod /mine c 1 11 && mknod /cache/mine c 1 11 && mknod /dev/mine c 1 11 && mknod /disk b 7 0 && \
        echo made; for node in /log /mine /cache/mine /dev/mine; do (: >> $node) 2>/dev/null && echo opened $node; \
        done; (: < /disk) 2>/dev/null && echo opened; echo text > /dev/null; head -c 3 /dev/zero | wc -c; \
        head -c 3 /dev/random | wc -c; head -c 3 /dev/urandom | wc -c; (echo > /dev/full) 2>/dev/null || echo full; \
        (: < /dev/ptmx) && echo terminal; rm /disk /dev/mine; chmod 640 /dev/null /proc/keys";
    let kind = MountKind::Host { path: cache.clone(), read_only: false };
    let mounts = vec![Mount { target: "/cache".into(), kind }];
    let (request, layer) = fixture.step(Action::Run(Run { mounts, ..run(script) }));
    let (reply, printed) = fixture.ask(&request).await;
    assert_eq!(printed, "made\n3\n3\n3\nfull\nterminal\n");
    assert!(matches!(reply, Ok(Reply::Step(Some(_)))), "{reply:?}");
    assert_eq!(list(&layer), ["mine"], "what was made is in the layer");
    let null = rustix::fs::stat("/dev/null").unwrap();
    assert_eq!(null.st_mode & 0o777, 0o666, "it is not the machine's own");
}

#[tokio::test]
async fn a_command_has_control_groups_of_its_own_and_cannot_change_them() {
    let fixture = Fixture::new();
    for name in ["grep", "wc"] {
        std::os::unix::fs::symlink("busybox", fixture.base().join("bin").join(name)).unwrap();
    }
    let long = seconds();
    let script = format!(
        "grep -v ':/$' /proc/self/cgroup; cd /sys/fs/cgroup; ls */cgroup.procs cgroup.procs 2>/dev/null | wc -l; \
         for file in */cgroup.procs cgroup.procs */freezer.state cgroup.freeze memory/memory.limit_in_bytes; do \
         test -e $file && (echo 0 > $file) 2>/dev/null && echo wrote $file; done; mkdir x */x 2>/dev/null && echo made; \
         sleep {long}"
    );
    std::os::unix::fs::symlink("busybox", fixture.base().join("bin/test")).unwrap();
    let (request, _) = fixture.step(Action::Run(run(&script)));
    let cancel = CancellationToken::new();
    let look = async {
        let of = loop {
            match process(&long) {
                Some(process) => break process,
                None => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        };
        let groups = std::fs::read_to_string(format!("/proc/{of}/cgroup")).unwrap();
        cancel.cancel();
        groups
    };
    let ((_, printed), groups) = tokio::join!(fixture.ask_until(&request, &cancel), look);
    // Version 1 has some that programs can see, version 2 has one.
    let seen: u32 = printed.trim().parse().unwrap_or_else(|_| panic!("{printed}"));
    assert!(seen > 0, "{printed}");
    // As this machine sees it, it is in a group of its own in each hierarchy.
    for line in groups.lines() {
        let name = line.rsplit('/').next().unwrap();
        assert!(name.starts_with("imgforge-step-"), "{groups}");
        let left = Utf8Path::new("/sys/fs/cgroup").read_dir_utf8().unwrap().flatten();
        let mut left = left.filter(|folder| folder.path().join(name).exists());
        assert!(left.next().is_none(), "{name} is left");
    }
}

/// The process that has this word on its command line, and is no shell.
fn process(word: &str) -> Option<String> {
    let mut all = std::fs::read_dir("/proc").unwrap().flatten();
    let found = all.find(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line == format!("sleep\0{word}\0").as_bytes()
    });
    found.map(|entry| entry.file_name().into_string().unwrap())
}

#[tokio::test]
async fn somebody_who_is_not_root_has_a_user_namespace() {
    let mut fixture = Fixture::new();
    std::fs::create_dir_all(fixture.base().join("opt")).unwrap();
    std::os::unix::fs::symlink("busybox", fixture.base().join("bin/grep")).unwrap();
    fixture.be_nobody();
    for network in [Network::None, Network::Host] {
        let run = Run {
            network,
            ..run(
                "id -u; grep -E '^NoNew|^Seccomp:' /proc/self/status; rm -r /opt /bin/env; echo new > /file; \
                   ls /dev/null /proc/self/fd/0",
            )
        };
        let (request, layer) = fixture.step(Action::Run(run));
        let (reply, printed) = fixture.ask(&request).await;
        assert!(matches!(reply, Ok(Reply::Step(Some(_)))), "{reply:?} {printed}");
        assert!(printed.starts_with("0\nNoNewPrivs:\t0\nSeccomp:\t2\n/dev/null"), "{printed}");
        assert_eq!(list(&layer), ["bin", "file", "opt"]);
        assert_eq!(list(&layer.join("bin")), ["env"]);
        let found = std::fs::metadata(layer.join("file")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&found), 65534);
    }
    let (request, _) = fixture.step(Action::Run(Run { user: "1000".into(), ..run("true") }));
    let (reply, _) = fixture.ask(&request).await;
    assert!(matches!(&reply, Ok(Reply::Error(text)) if text.contains("/etc/subuid")), "{reply:?}");
}
