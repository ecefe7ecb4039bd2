//! Containers of the embedded engine: busybox, built by it, and run by its workers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::context::{ContextEntry, EntryKind, Origin};
use imgforge_core::manifest::{Compression, Layers, Network};
use imgforge_core::name::ImageName;
use imgforge_core::source::ContentHash;
use imgforge_embedded::{Embedded, Settings};
use imgforge_engine::containers::{Containers, EntryKind as Kind, Health, PublishedPort, RunRequest};
use imgforge_engine::{BuildRequest, CancellationToken, Engine, Error, NotStarted, Secrets};
use imgforge_state::StateDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const WORKER: &str = env!("CARGO_BIN_EXE_imgforge-worker");

/// A store of its own, and an engine.
struct Bench {
    dir: tempfile::TempDir,
    engine: Embedded,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("imgforge-containers-").tempdir().unwrap();
        std::fs::copy("/bin/busybox", dir.path().join("busybox")).expect("busybox-static is installed");
        let engine = open(Utf8Path::from_path(dir.path()).unwrap(), WORKER.as_ref());
        Self { dir, engine }
    }

    /// The same; its workers are `nobody`.
    fn rootless() -> Self {
        let mut bench = Self::new();
        let dir = bench.path();
        std::fs::copy(env!("CARGO_BIN_EXE_imgforge-worker"), dir.join("imgforge-worker")).unwrap();
        let text = format!(
            "#!/bin/bash\nchown -R 65534:65534 {dir}\ncd {dir}\nexec setpriv --reuid 65534 --regid 65534 \
             --clear-groups bash -c 'exec -a imgforge-worker {dir}/imgforge-worker \"$0\"' \"$1\"\n"
        );
        std::fs::write(dir.join("as-nobody"), text).unwrap();
        rustix::fs::chmod(dir.join("as-nobody").as_std_path(), 0o755.into()).unwrap();
        bench.engine = open(&dir, dir.join("as-nobody").as_std_path());
        bench
    }

    /// What its workers are.
    fn worker(&self) -> std::path::PathBuf {
        let rootless = self.path().join("as-nobody");
        if rootless.exists() { rootless.into() } else { WORKER.into() }
    }

    fn path(&self) -> Utf8PathBuf {
        Utf8Path::from_path(self.dir.path()).unwrap().to_owned()
    }

    /// An image with busybox; `steps` follow. Its id.
    async fn image(&self, steps: &str) -> String {
        let busybox = std::fs::read("/bin/busybox").unwrap();
        let origin = Origin::Source("busybox".into());
        let kind = EntryKind::File {
            hash: ContentHash::of(&busybox),
            size: busybox.len() as u64,
            mode: 0o755,
            origin,
        };
        let head = "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n";
        let request = BuildRequest {
            target: ImageName::new("app").unwrap(),
            dockerfile: format!("{head}{steps}"),
            root: self.path(),
            entries: vec![ContextEntry { path: "busybox".into(), kind }],
            supplied: vec![],
            args: BTreeMap::new(),
            labels: BTreeMap::new(),
            network: Network::None,
            layers: Layers::default(),
            compression: Compression::default(),
            platform: "linux/amd64".into(),
            secrets: Secrets::default(),
            anew: false,
        };
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let built = self
            .engine
            .build(request, Arc::new(move |event| sink.lock().unwrap().push(event)), CancellationToken::new())
            .await;
        built.unwrap_or_else(|error| panic!("{error}: {:?}", events.lock().unwrap())).id.to_string()
    }

    async fn end(&self, id: &str) -> (i64, String, String) {
        let printed: Arc<Mutex<[Vec<u8>; 2]>> = Arc::default();
        let kept = Arc::clone(&printed);
        let sink = Arc::new(move |is_error: bool, piece: &[u8]| {
            kept.lock().unwrap()[usize::from(is_error)].extend_from_slice(piece);
        });
        let code = self.engine.follow(id, sink).await.unwrap();
        let printed = printed.lock().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (code, text(&printed[0]), text(&printed[1]))
    }

    /// Runs a script in a container, to its end.
    async fn sh(&self, image: &str, script: &str, request: RunRequest) -> (i64, String, String) {
        let request =
            RunRequest { image: image.into(), entrypoint: Some(words(&["sh", "-c", script])), ..request };
        let started = self.engine.start(request).await.unwrap();
        let end = self.end(&started.id).await;
        self.engine.remove(&started.id).await.unwrap();
        end
    }
}

fn open(dir: &Utf8Path, worker: &Path) -> Embedded {
    Embedded::open(Settings {
        // Of workers that are `nobody`, too.
        store: StateDir::at(&dir.join("store")).and_of(65534),
        why: String::new(),
        registries: Vec::new(),
        worker: worker.to_owned(),
    })
    .unwrap()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Returns whether a process has this word on its command line.
fn runs(word: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|found| found == word.as_bytes())
    })
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "it has not come about");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_what_its_image_says_and_its_end_is_told() {
    let bench = Bench::new();
    let steps = "ENV GREETING=hello\nUSER 1000:1000\nWORKDIR /srv\nENTRYPOINT [\"sh\", \"-c\"]\n\
                 CMD [\"echo $GREETING $MORE $$; id -u; pwd; echo $HOSTNAME; hostname; echo oh >&2; exit 3\"]";
    let image = bench.image(steps).await;
    let env = BTreeMap::from([("MORE".to_owned(), "more".to_owned())]);
    let request = RunRequest { image: image.clone(), env, ..RunRequest::default() };
    let started = bench.engine.start(request).await.unwrap();
    let (code, stdout, stderr) = bench.end(&started.id).await;
    let host = &started.id[..12];
    assert_eq!((code, stderr.as_str()), (3, "oh\n"));
    assert_eq!(stdout, format!("hello more 1\n1000\n/srv\n{host}\n{host}\n"));
    let state = bench.engine.state(&started.id).await.unwrap();
    assert_eq!((state.running, state.exit_code, state.out_of_memory, state.health), (false, 3, false, None));
    assert_eq!(bench.engine.images_in_use().await.unwrap(), [image.parse().unwrap()].into());
    bench.engine.remove(&started.id).await.unwrap();
    bench.engine.remove(&started.id).await.unwrap();
    assert!(bench.engine.images_in_use().await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(bench.path().join("store/containers")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_is_the_images_fault() {
    let bench = Bench::new();
    let image = bench.image("CMD [\"nosuch\"]").await;
    let request = RunRequest { image: image.clone(), ..RunRequest::default() };
    let error = bench.engine.start(request).await.unwrap_err();
    let absent = NotStarted::NoProgram("nosuch".into());
    assert!(matches!(&error, Error::NotStarted(found) if *found == absent), "{error:?}");
    assert_eq!(std::fs::read_dir(bench.path().join("store/containers")).unwrap().count(), 0);
    let request =
        RunRequest { image: image.clone(), command: words(&["sleep", "1000"]), ..RunRequest::default() };
    let started = bench.engine.start(request).await.unwrap();
    let error = bench.engine.exec(&started.id, &["nosuch"]).await.unwrap_err();
    assert!(matches!(&error, Error::NotStarted(found) if *found == absent), "{error:?}");
    bench.engine.remove(&started.id).await.unwrap();
    let error = bench.engine.exec(&started.id, &["true"]).await.unwrap_err();
    assert!(matches!(error, Error::Absent { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_join_a_container_and_see_what_it_sees() {
    let bench = Bench::new();
    let image = bench.image("ENV A=1\nWORKDIR /srv\nUSER 7:7").await;
    let long = format!("{}", 100_000_000 + fastrand::u32(..));
    let request = RunRequest {
        image,
        name: Some("joined".into()),
        command: words(&[
            "sh",
            "-c",
            &format!("hostname > /tmp/host; sleep {long} & trap 'exit 5' TERM; wait"),
        ]),
        tmpfs: vec!["/tmp".into()],
        labels: [("imgforge.image".to_owned(), "app".to_owned())].into(),
        ..RunRequest::default()
    };
    let started = bench.engine.start(request).await.unwrap();
    let exec =
        async |script: &str, user| bench.engine.exec_as("joined", &["sh", "-c", script], user).await.unwrap();
    until(async || exec("cat /tmp/host", None).await.code == 0).await;
    let found = exec(
        "cat /tmp/host; hostname; id -u; pwd; echo $A; ps -o comm | grep -cx sleep; echo oh >&2; exit 9",
        None,
    )
    .await;
    let host = &started.id[..12];
    assert_eq!(found.stdout, format!("{host}\n{host}\n7\n/srv\n1\n1\n"));
    assert_eq!((found.code, found.stderr.as_str()), (9, "oh\n"));
    assert_eq!(exec("id -u; id -g", Some("8:9")).await.stdout, "8\n9\n");
    let caps = exec(
        "grep -E 'Cap(Eff|Bnd)|NoNew|Seccomp:' /proc/self/status; ls -l /proc/self/fd | wc -l",
        Some("0"),
    )
    .await;
    assert_eq!(
        caps.stdout,
        "CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nNoNewPrivs:\t0\nSeccomp:\t2\n5\n"
    );
    // Another call of imgforge finds it, joins it, and stops it.
    let other = open(&bench.path(), WORKER.as_ref());
    let found = other.find("joined").await.unwrap().unwrap();
    assert_eq!((found.id.as_str(), found.image.as_deref()), (started.id.as_str(), Some("app")));
    assert_eq!(other.running(Some("app")).await.unwrap(), std::slice::from_ref(&found));
    assert_eq!(other.running(Some("none")).await.unwrap(), []);
    assert_eq!(other.exec(&started.id[..12], &["hostname"]).await.unwrap().stdout, format!("{host}\n"));
    other.stop("joined", Duration::from_secs(10)).await.unwrap();
    assert_eq!(bench.end("joined").await.0, 5);
    assert!(!runs(&long), "a process is left");
    assert_eq!(other.find("joined").await.unwrap(), None);
    assert_eq!(other.state("joined").await.unwrap().exit_code, 5);
    bench.engine.remove("joined").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_does_not_hear_is_killed() {
    let bench = Bench::new();
    let image = bench.image("STOPSIGNAL SIGQUIT").await;
    let script = "trap 'echo quit' QUIT; echo > /deaf; while true; do sleep 0.1; done";
    let request =
        RunRequest { image, entrypoint: Some(words(&["sh", "-c", script])), ..RunRequest::default() };
    let started = bench.engine.start(request).await.unwrap();
    until(async || bench.engine.exec(&started.id, &["test", "-e", "/deaf"]).await.unwrap().code == 0).await;
    let begun = Instant::now();
    bench.engine.stop(&started.id, Duration::from_secs(1)).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(bench.end(&started.id).await, (137, "quit\n".into(), String::new()));
    bench.engine.remove(&started.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_reached_and_those_of_loopback_are_not() {
    let bench = Bench::new();
    let image = bench.image("RUN mkdir /www && echo hello > /www/index.html").await;
    let script = "httpd -p 127.0.0.1:81 -h /www; exec httpd -f -p 80 -h /www";
    let request = RunRequest {
        image,
        entrypoint: Some(words(&["sh", "-c", script])),
        ports: vec![PublishedPort {
            container: "80/tcp".into(),
            host_ip: "127.0.0.1".into(),
            host_port: None,
        }],
        ..RunRequest::default()
    };
    let started = bench.engine.start(request).await.unwrap();
    let [(port, address)] = &started.ports[..] else { panic!("{started:?}") };
    assert_eq!(port, "80/tcp");
    let ask = async |stream: &mut dyn imgforge_engine::containers::Stream| {
        let mut answer = String::new();
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").await.unwrap();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.ends_with("\r\n\r\nhello\n")
    };
    until(async || bench.engine.connect(&started, 80).await.is_ok()).await;
    for _ in 0..3 {
        let mut stream = bench.engine.connect(&started, 80).await.unwrap();
        assert!(ask(&mut *stream).await);
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut stream).await);
    }
    // That it listens there is seen from inside alone.
    let inside = bench.engine.exec(&started.id, &["wget", "-qO-", "127.0.0.1:81"]).await.unwrap();
    assert_eq!(inside.stdout, "hello\n");
    for port in [81, 82] {
        let error = bench.engine.connect(&started, port).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    bench.engine.remove(&started.id).await.unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_begin_with_what_the_image_has_and_stay() {
    let bench = Bench::new();
    let steps = "RUN mkdir /data /anonymous && echo first > /data/file && chown -R 5:6 /data && chmod 700 /data\n\
                 VOLUME /anonymous";
    let image = bench.image(steps).await;
    let host = bench.path().join("host");
    let with = |volume: &str| RunRequest { volumes: vec![volume.into()], ..RunRequest::default() };
    let sh = async |script: &str, volume: &str| bench.sh(&image, script, with(volume)).await;
    let (code, stdout, stderr) =
        sh("cat /data/file; stat -c '%u %g %a' /data /data/file; echo second > /data/file", "mine:/data")
            .await;
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "first\n5 6 700\n5 6 644\n", ""));
    assert_eq!(sh("cat /data/file", "mine:/data").await.1, "second\n");
    assert_eq!(sh("cat /data/file", "other:/data").await.1, "first\n");
    assert_eq!(sh("ls /data; echo x > /data/x", &format!("{host}:/data")).await.1, "");
    assert_eq!(std::fs::read_to_string(host.join("x")).unwrap(), "x\n");
    assert_eq!(sh("echo x > /data/x || echo refused", &format!("{host}:/data:ro")).await.1, "refused\n");
    assert_eq!(sh("grep -c ' /anonymous ' /proc/mounts", "mine:/data").await.1, "1\n");
    let kept: Vec<_> = bench
        .path()
        .join("store/volumes")
        .read_dir_utf8()
        .unwrap()
        .map(|e| e.unwrap().file_name().to_owned())
        .collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    let (code, stdout, _) = bench
        .sh(
            &image,
            "echo x > /x || echo refused; echo x > /tmp/x && echo x > /anonymous/x && stat -c %a /tmp",
            RunRequest { read_only: true, tmpfs: vec!["/tmp".into()], ..RunRequest::default() },
        )
        .await;
    assert_eq!((code, stdout.as_str()), (0, "refused\n1777\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_a_container_is_looked_at_running_or_not() {
    let bench = Bench::new();
    let image = bench.image("RUN echo image > /file && chmod 4755 /file").await;
    let id = bench.engine.create(RunRequest {
        image: image.clone(),
        command: words(&["/"]),
        ..RunRequest::default()
    });
    let id = id.await.unwrap();
    let found = bench.engine.entry(&id, "/file".into()).await.unwrap().unwrap();
    assert_eq!((found.kind, found.mode), (Kind::File(b"image\n".into()), 0o4755));
    assert_eq!(bench.engine.entry(&id, "/nowhere".into()).await.unwrap(), None);
    let all = bench.engine.walk(&id).await.unwrap();
    assert!(
        all.iter().any(|(path, entry)| path == "/bin/sh" && matches!(entry.kind, Kind::Link(_))),
        "{all:?}"
    );
    assert!(!bench.engine.state(&id).await.unwrap().running);
    bench.engine.remove(&id).await.unwrap();
    let command = words(&["sh", "-c", "echo container > /file; rm /bin/vi; sleep 1000"]);
    let started = bench.engine.start(RunRequest { image, command, ..RunRequest::default() }).await.unwrap();
    until(async || bench.engine.entry(&started.id, "/bin/vi".into()).await.unwrap().is_none()).await;
    let found = bench.engine.entry(&started.id, "/file".into()).await.unwrap().unwrap();
    assert_eq!(found.kind, Kind::File(b"container\n".into()));
    bench.engine.remove(&started.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn healthchecks_tell_how_a_container_is() {
    let bench = Bench::new();
    let steps = "HEALTHCHECK --interval=1s --timeout=5s --retries=2 CMD grep -q 'Seccomp:.2' /proc/self/status && test -e /tmp/well";
    let image = bench.image(steps).await;
    let request = RunRequest {
        image,
        command: words(&["sleep", "1000"]),
        tmpfs: vec!["/tmp".into()],
        ..RunRequest::default()
    };
    let started = bench.engine.start(request).await.unwrap();
    let health = async || bench.engine.state(&started.id).await.unwrap().health.unwrap();
    assert_eq!(health().await, Health::Starting);
    until(async || health().await == Health::Unhealthy).await;
    bench.engine.exec(&started.id, &["touch", "/tmp/well"]).await.unwrap();
    until(async || health().await == Health::Healthy).await;
    bench.engine.remove(&started.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_processors_are_limited() {
    let bench = Bench::new();
    let image = bench.image("").await;
    let limits = RunRequest { memory: Some(64 << 20), cpus: Some(500), ..RunRequest::default() };
    let request = RunRequest {
        image: image.clone(),
        entrypoint: Some(words(&["sh", "-c", "tail -c 500m /dev/zero | cat > /dev/null; exit $?; "])),
        ..limits.clone()
    };
    let started = bench.engine.start(request).await.unwrap();
    bench.end(&started.id).await;
    let state = bench.engine.state(&started.id).await.unwrap();
    assert!(state.out_of_memory, "{state:?}");
    bench.engine.remove(&started.id).await.unwrap();
    // What programs look at that size themselves by it, as a JVM does; nobody else's groups, and nothing to write.
    let script = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory.max 2>/dev/null; \
        cat cpu/cpu.cfs_quota_us cpu.max 2>/dev/null; cat memory/cgroup.procs cgroup.procs 2>/dev/null | grep -vx 1; \
        (echo 0 > memory/cgroup.procs || echo 0 > cgroup.procs || mkdir memory/x) 2>/dev/null || echo fixed; \
        grep -o 'cgroup2* [^ ]* cgroup.*' /proc/self/mounts | grep -vc ' ro,'; \
        grep -vc ':/$' /proc/self/cgroup";
    let printed = bench.sh(&image, script, limits).await.1;
    let rest = printed.strip_prefix("67108864\n50000").unwrap_or_else(|| panic!("{printed}"));
    let rest = rest.strip_prefix(" 100000").unwrap_or(rest);
    // `cat` and `grep` are the processes beside the shell.
    let lines: Vec<&str> =
        rest.split_whitespace().filter(|line| line.parse::<u32>().is_err() || *line == "0").collect();
    assert_eq!(lines, ["fixed", "0", "0"], "{printed}");
    assert_eq!(groups(&started.id), 0);
}

/// How many control groups there are with this in their names.
fn groups(name: &str) -> usize {
    fn below(folder: &Utf8Path, name: &str) -> usize {
        let listed = folder.read_dir_utf8().into_iter().flatten().flatten();
        let folders = listed.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.map(|entry| usize::from(entry.file_name().contains(name)) + below(entry.path(), name)).sum()
    }
    below(Utf8Path::new("/sys/fs/cgroup"), name)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_groups_that_a_killed_engine_has_left_go_with_the_container() {
    let bench = Bench::new();
    let image = bench.image("").await;
    let store = bench.path();
    let id = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let command = words(&["sleep", "1000"]);
        let request = RunRequest { image, command, memory: Some(64 << 20), ..RunRequest::default() };
        let started = runtime.block_on(open(&store, WORKER.as_ref()).start(request)).unwrap();
        assert_ne!(groups(&started.id), 0);
        runtime.shutdown_background();
        started.id
    });
    let id = id.join().unwrap();
    until(async || !bench.engine.state(&id).await.unwrap().running).await;
    bench.engine.remove(&id).await.unwrap();
    assert_eq!(groups(&id), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn control_groups_of_steps_whose_worker_was_killed_are_tidied() {
    let bench = Bench::new();
    // Any hierarchy in which a group can be made, as a worker finds it.
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("version 2 is mounted");
    let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Utf8Path::new);
    let root = roots.into_iter().find(|root| root.join("cgroup.procs").exists()).unwrap();
    let me = std::process::id();
    let start = std::fs::read_to_string("/proc/self/stat").unwrap();
    let start = start.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().to_owned();
    let [left, held] = [format!("{me}-1"), format!("{me}-{start}")]
        .map(|worker| root.join(own).join(format!("imgforge-step-{worker}")));
    for group in [&left, &held] {
        std::fs::create_dir(group).unwrap();
    }
    bench.engine.tidy(true).await.unwrap();
    let there = [left.exists(), held.exists()];
    std::fs::remove_dir(&held).unwrap();
    assert_eq!(there, [false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_engine_has_left_is_tidied_but_for_volumes_with_a_name() {
    for bench in [Bench::new(), Bench::rootless()] {
        let image = bench.image("RUN mkdir /data\nVOLUME /data").await;
        let script = words(&["sh", "-c", "mkdir -p /own/x /data/x && chmod 0 /own /data/x && sleep 1000"]);
        let (store, worker, of) = (bench.path(), bench.worker(), image.clone());
        let id = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let volumes = vec!["mine:/mine".to_owned()];
            let request = RunRequest { image: of, command: script, volumes, ..RunRequest::default() };
            let started = runtime.block_on(open(&store, &worker).start(request)).unwrap();
            runtime.shutdown_background();
            started.id
        });
        let id = id.join().unwrap();
        let held =
            RunRequest { image: image.clone(), command: words(&["sleep", "1000"]), ..RunRequest::default() };
        let held = bench.engine.start(held).await.unwrap().id;
        until(async || !bench.engine.state(&id).await.unwrap().running).await;
        let found = bench.engine.tidy(false).await.unwrap();
        assert!(found > 0);
        assert_eq!(bench.engine.tidy(true).await.unwrap(), found);
        let store = bench.path().join("store");
        let names = |folder: &str| -> Vec<String> {
            let listed = store.join(folder).read_dir_utf8().unwrap();
            let mut names: Vec<String> = listed.map(|entry| entry.unwrap().file_name().to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names("containers"), std::slice::from_ref(&held));
        assert_eq!(names("volumes"), [format!("{held}-0"), "mine".to_owned()]);
        assert!(bench.engine.state(&held).await.unwrap().running);
        assert_eq!(bench.engine.images_in_use().await.unwrap(), [image.parse().unwrap()].into());
        assert_eq!(bench.engine.tidy(false).await.unwrap(), 0);
        bench.engine.remove(&held).await.unwrap();
        assert_eq!(names("volumes"), ["mine"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_ends_with_the_engine_that_has_started_it() {
    let bench = Bench::new();
    let image = bench.image("").await;
    let long = format!("{}", 100_000_000 + fastrand::u32(..));
    let store = bench.path();
    let script = words(&["sh", "-c", &format!("sleep {long} & sleep {long}")]);
    let id = std::thread::spawn(move || {
        // A runtime that ends as that of a program does which has ended.
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let request = RunRequest { image, command: script, ..RunRequest::default() };
        let started = runtime.block_on(open(&store, WORKER.as_ref()).start(request)).unwrap();
        runtime.shutdown_background();
        started.id
    })
    .join()
    .unwrap();
    until(async || !runs(&long)).await;
    until(async || !bench.engine.state(&id).await.unwrap().running).await;
    assert_eq!(bench.engine.state(&id).await.unwrap().exit_code, 137);
    bench.engine.remove(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_is_not_root_has_containers_too() {
    let bench = Bench::rootless();
    let image = bench.image("RUN mkdir /www && echo hello > /www/index.html\nVOLUME /data").await;
    let request = RunRequest {
        image: image.clone(),
        command: words(&["sh", "-c", "trap 'exit 4' TERM; httpd -p 80 -h /www; sleep 1000 & wait"]),
        tmpfs: vec!["/tmp".into()],
        ..RunRequest::default()
    };
    let started = bench.engine.start(request).await.unwrap();
    until(async || bench.engine.connect(&started, 80).await.is_ok()).await;
    let found = bench
        .engine
        .exec(
            &started.id,
            &[
                "sh",
                "-c",
                "id -u; wget -qO- 127.0.0.1; grep Seccomp: /proc/self/status; touch /data/x /tmp/x /x",
            ],
        )
        .await;
    assert_eq!(found.unwrap().stdout, "0\nhello\nSeccomp:\t2\n");
    bench.engine.stop(&started.id, Duration::from_secs(10)).await.unwrap();
    assert_eq!(bench.engine.state(&started.id).await.unwrap().exit_code, 4);
    bench.engine.remove(&started.id).await.unwrap();
    let request = RunRequest {
        image: image.clone(),
        command: words(&["true"]),
        memory: Some(1 << 24),
        ..RunRequest::default()
    };
    let error = bench.engine.start(request).await.unwrap_err();
    assert!(error.to_string().contains("memory cannot be limited"), "{error}");
    // This user has been given no group, and so sees none.
    let printed =
        bench.sh(&image, "ls /sys/fs/cgroup; grep -c cgroup /proc/self/mounts", RunRequest::default()).await;
    assert_eq!(printed.1, "0\n", "{printed:?}");
    // Nodes of devices in a volume, and in what is mounted in it, are closed.
    let volume = bench.path().join("volume");
    let below = volume.join("a b");
    std::fs::create_dir_all(&below).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", below.as_std_path(), "tmpfs", flags, None).unwrap();
    let null = rustix::fs::makedev(1, 3);
    for folder in [&volume, &below] {
        let (node, kind) = (folder.join("node"), rustix::fs::FileType::CharacterDevice);
        rustix::fs::mknodat(rustix::fs::CWD, node.as_std_path(), kind, 0o666.into(), null).unwrap();
        rustix::fs::chmod(node.as_std_path(), 0o666.into()).unwrap();
    }
    let request = RunRequest { volumes: vec![format!("{volume}:/volume")], ..RunRequest::default() };
    let script = "cd /volume; ls -R; for node in node a*/node /dev/null; do (: > $node) && echo open; done 2>/dev/null";
    let printed = bench.sh(&image, script, request).await;
    rustix::mount::unmount(below.as_std_path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(printed.1, ".:\na b\nnode\n\n./a b:\nnode\nopen\n", "{printed:?}");
}
