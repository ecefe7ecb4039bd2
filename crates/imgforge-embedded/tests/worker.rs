//! Workers carry real steps out: busybox in a sandbox, on overlay mounts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::{Arc, Mutex};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_embedded::worker::message::{
    Action, Compression, Content, ContextEntry, ContextKind, Copy, CopySource, EntryKind, Look, Mount,
    MountKind, Network, Reply, Request, Run, Step, Tree,
};
use imgforge_embedded::worker::{Client, WorkerError};
use tokio_util::sync::CancellationToken;

/// A store in a folder of its own: a layer with busybox in it, and places for workers.
struct Fixture {
    folder: tempfile::TempDir,
    client: Client,
    count: std::cell::Cell<u32>,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("imgforge-worker-").tempdir().unwrap();
        let base = folder.path().join("base/bin");
        std::fs::create_dir_all(&base).unwrap();
        std::fs::copy("/bin/busybox", base.join("busybox")).expect("busybox-static is installed");
        for name in ["sh", "true", "cat", "ls", "id", "echo", "mkdir", "sleep", "rm", "touch", "env", "pwd"] {
            std::os::unix::fs::symlink("busybox", base.join(name)).unwrap();
        }
        let client = Client::new(env!("CARGO_BIN_EXE_imgforge-worker"));
        Self { folder, client, count: std::cell::Cell::new(0) }
    }

    fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.folder.path()).unwrap()
    }

    fn base(&self) -> Utf8PathBuf {
        self.path().join("base")
    }

    fn new_folder(&self) -> Utf8PathBuf {
        self.count.set(self.count.get() + 1);
        let folder = self.path().join(format!("worker-{}", self.count.get()));
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    /// A step's request, and where its layer comes to be.
    fn step(&self, action: Action) -> (Request, Utf8PathBuf) {
        let layer = self.path().join(format!("layer-{}", self.count.get()));
        let step = Step {
            stack: vec![self.base()],
            action,
            blob: self.path().join(format!("blob-{}", self.count.get())),
            folder: layer.clone(),
            epoch: 1_700_000_000,
            compression: Compression::Gzip,
        };
        (Request::Step(step), layer)
    }

    async fn ask(&self, request: &Request) -> (Result<Reply, WorkerError>, String) {
        self.ask_until(request, &CancellationToken::new()).await
    }

    async fn ask_until(
        &self,
        request: &Request,
        cancel: &CancellationToken,
    ) -> (Result<Reply, WorkerError>, String) {
        let printed = Arc::new(Mutex::new(Vec::new()));
        let sink = printed.clone();
        let output = Arc::new(move |_: bool, bytes: &[u8]| sink.lock().unwrap().extend_from_slice(bytes));
        let reply = self.client.run(&self.new_folder(), request, output, cancel).await;
        let printed = String::from_utf8(printed.lock().unwrap().clone()).unwrap();
        (reply, printed)
    }

    async fn sh(&self, script: &str) -> (Reply, String, Utf8PathBuf) {
        let (request, layer) = self.step(Action::Run(run(script)));
        let (reply, printed) = self.ask(&request).await;
        (reply.unwrap(), printed, layer)
    }
}

fn run(script: &str) -> Run {
    Run {
        argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec![("PATH".into(), "/bin".into())],
        workdir: "/".into(),
        user: String::new(),
        mounts: Vec::new(),
        network: Network::None,
        timeout: None,
    }
}

#[tokio::test]
async fn a_command_changes_files_and_they_become_a_layer() {
    let fixture = Fixture::new();
    let (reply, printed, layer) =
        fixture.sh("echo hello; echo world >&2; echo new > /file; id; ls -la /proc/self/fd").await;
    assert!(matches!(reply, Reply::Step(Some(_))), "{reply:?}");
    assert!(printed.starts_with("hello\nworld\nuid=0 gid=0\n"), "{printed}");
    assert_eq!(std::fs::read_to_string(layer.join("file")).unwrap(), "new\n");
    assert_eq!(list(&layer), ["file"], "nothing tells of the mounts");
}

/// Whether a process has this word on its command line.
fn runs(word: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|found| found == word.as_bytes())
    })
}

/// A number of seconds that nothing else on this machine sleeps.
fn seconds() -> String {
    format!("{}", 100_000_000 + u64::from(fastrand::u32(..)))
}

#[tokio::test]
async fn a_command_that_touches_nothing_gives_no_layer() {
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.base().join("etc")).unwrap();
    std::fs::create_dir_all(fixture.base().join("usr/share")).unwrap();
    let mut run = run("cat /etc/hosts /usr/share/deep/er; cat /proc/self/mounts > /dev/null");
    run.mounts.push(file("/usr/share/deep/er", "seen\n"));
    let (request, layer) = fixture.step(Action::Run(run));
    let (reply, printed) = fixture.ask(&request).await;
    assert!(matches!(reply, Ok(Reply::Step(None))), "{reply:?} {printed}");
    assert!(printed.ends_with("seen\n") && printed.contains("127.0.0.1\tlocalhost"), "{printed}");
    assert!(!layer.exists());
    // What a command does in a folder that was copied up for a mount point is in the layer.
    let (_, _, layer) = fixture.sh("touch /etc/new").await;
    assert_eq!(list(&layer.join("etc")), ["new"]);
}

fn file(target: &str, content: &str) -> Mount {
    let kind = MountKind::File { content: content.into(), mode: 0o440, uid: 0, gid: 7 };
    Mount { target: target.into(), kind }
}

fn list(folder: &Utf8Path) -> Vec<String> {
    let mut names: Vec<String> =
        folder.read_dir_utf8().unwrap().map(|entry| entry.unwrap().file_name().to_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn how_a_command_ends_is_told_as_a_shell_tells_it() {
    let fixture = Fixture::new();
    let code = async |script: &str| match fixture.sh(script).await.0 {
        Reply::Failed(code) => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code("exit 7").await, 7);
    assert_eq!(code("nowhere").await, 127);
    // Process 1 is not killed by signals of its own namespace that it does not handle, as in Docker.
    assert_eq!(code("sh -c 'kill -9 $$'; exit $?").await, 137);
    let exec = async |program: &str| {
        let argv = vec![program.to_owned()];
        let (request, _) = fixture.step(Action::Run(Run { argv, ..run("") }));
        let (reply, printed) = fixture.ask(&request).await;
        match reply {
            Ok(Reply::Failed(code)) => (code, printed),
            other => panic!("{other:?} {printed}"),
        }
    };
    assert_eq!(exec("nowhere").await, (127, "nowhere: there is no such program\n".into()));
    std::fs::write(fixture.base().join("bin/text"), "#!/nowhere\n").unwrap();
    assert_eq!(exec("/bin/text").await.0, 126);
    rustix::fs::chmod(fixture.base().join("bin/text").as_std_path(), 0o755.into()).unwrap();
    let (code, printed) = exec("text").await;
    assert_eq!(code, 127);
    assert!(printed.contains("interpreter"), "{printed}");
}

#[tokio::test]
async fn after_its_time_a_command_and_all_that_it_started_is_killed() {
    let fixture = Fixture::new();
    let long = seconds();
    let run = Run { timeout: Some(1), ..run(&format!("sleep {long} & echo begun; sleep {long}")) };
    let (request, layer) = fixture.step(Action::Run(run));
    let begun = std::time::Instant::now();
    let (reply, printed) = fixture.ask(&request).await;
    assert!(matches!(reply, Ok(Reply::TimedOut)), "{reply:?}");
    assert_eq!(printed, "begun\n");
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(!runs(&long), "a process is left");
    assert!(!layer.exists());
}

#[tokio::test]
async fn a_process_in_the_background_ends_with_the_command() {
    let fixture = Fixture::new();
    let long = seconds();
    let (reply, ..) = fixture.sh(&format!("sleep {long} & touch /done")).await;
    assert!(matches!(reply, Reply::Step(Some(_))), "{reply:?}");
    assert!(!runs(&long), "a process is left");
}

#[tokio::test]
async fn a_cancelled_worker_leaves_nothing() {
    let fixture = Fixture::new();
    for how in ["cancelled", "dropped"] {
        let long = seconds();
        let (request, layer) = fixture.step(Action::Run(run(&format!("sleep {long} & sleep {long}"))));
        let cancel = CancellationToken::new();
        let asked = fixture.ask_until(&request, &cancel);
        let stop = async {
            while !runs(&long) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            if how == "cancelled" {
                cancel.cancel();
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            (reply, _) = asked => assert!(matches!(reply, Err(WorkerError::Cancelled)), "{reply:?}"),
            () = stop => assert_eq!(how, "dropped"),
        }
        if how == "dropped" {
            // The kernel needs a moment for what was killed.
            for _ in 0..200 {
                if !runs(&long) {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
        assert!(!runs(&long), "{how}: a process is left");
        assert!(!layer.exists());
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(fixture.path().as_str()), "{mounts}");
}

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
async fn hundreds_of_layers_are_one_file_system() {
    let fixture = Fixture::new();
    let mut stack = vec![fixture.base()];
    for number in 0..400 {
        let layer = fixture.path().join(format!("a-layer-with-a-rather-long-name-{number:0>64}"));
        std::fs::create_dir(&layer).unwrap();
        std::fs::write(layer.join(format!("file-{number}")), "").unwrap();
        stack.push(layer);
    }
    let (Request::Step(step), _) =
        fixture.step(Action::Run(run("ls / | wc -l; test -f /file-0 && test -f /file-399")))
    else {
        panic!()
    };
    for name in ["wc", "test"] {
        std::os::unix::fs::symlink("busybox", fixture.base().join("bin").join(name)).unwrap();
    }
    let (reply, printed) = fixture.ask(&Request::Step(Step { stack, ..step })).await;
    assert!(matches!(reply, Ok(Reply::Step(None))), "{reply:?} {printed}");
    // With bin, etc, proc, sys, dev.
    assert_eq!(printed, "405\n");
}

#[tokio::test]
async fn folders_are_made_on_nothing_with_their_owner() {
    use std::os::unix::fs::MetadataExt;
    let fixture = Fixture::new();
    let (Request::Step(step), layer) =
        fixture.step(Action::Folder { path: "/srv/app".into(), owner: "12:34".into() })
    else {
        panic!()
    };
    let (reply, _) = fixture.ask(&Request::Step(Step { stack: Vec::new(), ..step })).await;
    assert!(matches!(reply, Ok(Reply::Step(Some(_)))), "{reply:?}");
    for path in ["srv", "srv/app"] {
        let found = std::fs::metadata(layer.join(path)).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (12, 34, 0o755));
    }
}

#[tokio::test]
async fn copies_come_from_a_context_and_from_other_layers() {
    let fixture = Fixture::new();
    let copy = |tree, source: &str| {
        Action::Copy(Copy {
            tree,
            sources: vec![CopySource::Path(source.into())],
            target: "/to/".into(),
            chown: None,
            chmod: None,
            link: false,
            parents: false,
            excludes: Vec::new(),
            unpack: false,
        })
    };
    let content = ContextKind::File { mode: 0o755, content: Content::Bytes(b"text".into()) };
    let context = vec![ContextEntry { path: "file".into(), kind: content }];
    let (request, layer) = fixture.step(copy(Tree::Context(context), "file"));
    let (reply, _) = fixture.ask(&request).await;
    assert!(matches!(reply, Ok(Reply::Step(Some(_)))), "{reply:?}");
    let (request, second) = fixture.step(copy(Tree::Stack(vec![fixture.base(), layer]), "/to/file"));
    let (reply, _) = fixture.ask(&request).await;
    assert!(matches!(reply, Ok(Reply::Step(Some(_)))), "{reply:?}");
    assert_eq!(std::fs::read_to_string(second.join("to/file")).unwrap(), "text");
}

#[tokio::test]
async fn layers_are_looked_at_and_removed() {
    let fixture = Fixture::new();
    let paths = ["/bin/sh", "/bin", "/nowhere", "/bin/busybox/x"].map(str::to_owned).to_vec();
    let look = Look { stack: vec![fixture.base()], paths, follow: false };
    let (reply, _) = fixture.ask(&Request::Look(look)).await;
    let Ok(Reply::Look(found)) = reply else { panic!("{reply:?}") };
    let kinds: Vec<_> = found.iter().map(|entry| entry.as_ref().map(|entry| &entry.kind)).collect();
    assert!(
        matches!(kinds[..], [Some(EntryKind::Link(target)), Some(EntryKind::Folder), None, None] if target == "busybox")
    );
    let (reply, _) = fixture.ask(&Request::Walk(vec![fixture.base()])).await;
    let Ok(Reply::Walk(found)) = reply else { panic!("{reply:?}") };
    let names: Vec<_> = found.iter().map(|(path, _)| path.as_str()).take(3).collect();
    assert_eq!(names, ["/bin", "/bin/busybox", "/bin/cat"]);
    let gone = fixture.path().join("gone");
    std::fs::create_dir_all(gone.join("in/it")).unwrap();
    let (reply, _) = fixture.ask(&Request::Remove(vec![gone.clone(), fixture.path().join("nowhere")])).await;
    assert!(matches!(reply, Ok(Reply::Remove)), "{reply:?}");
    assert!(!gone.exists());
}

#[tokio::test]
async fn somebody_who_is_not_root_has_a_user_namespace() {
    let mut fixture = Fixture::new();
    std::fs::create_dir_all(fixture.base().join("opt")).unwrap();
    std::os::unix::fs::symlink("busybox", fixture.base().join("bin/grep")).unwrap();
    let exe = fixture.path().join("imgforge-worker");
    std::fs::copy(env!("CARGO_BIN_EXE_imgforge-worker"), &exe).unwrap();
    let script = fixture.path().join("as-nobody");
    let text = format!(
        "#!/bin/bash\nchown -R 65534:65534 {folder}\ncd {folder}\nexec setpriv --reuid 65534 --regid 65534 \
         --clear-groups bash -c 'exec -a imgforge-worker {exe} \"$0\"' \"$1\"\n",
        folder = fixture.path()
    );
    std::fs::write(&script, text).unwrap();
    rustix::fs::chmod(script.as_std_path(), 0o755.into()).unwrap();
    fixture.client = Client::new(&script);
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

/// Run with `--ignored --nocapture`: what a step costs.
#[tokio::test]
#[ignore = "measures"]
async fn a_trivial_step_takes_so_long() {
    let fixture = Fixture::new();
    for _ in 0..5 {
        fixture.sh("true").await;
    }
    let begun = std::time::Instant::now();
    for _ in 0..100 {
        let (reply, ..) = fixture.sh("true").await;
        assert!(matches!(reply, Reply::Step(None)), "{reply:?}");
    }
    println!("{:?} a step", begun.elapsed() / 100);
}
