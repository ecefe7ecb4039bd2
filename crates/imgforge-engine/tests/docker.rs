//! The Docker engine against the daemon of this machine. Images are made from Debian's static busybox.

#![expect(clippy::unwrap_used, reason = "the helpers of these tests fail as the tests do")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::context::{ContextEntry, EntryKind, Origin, SuppliedContent, SuppliedFile};
use imgforge_core::fingerprint::{InputKind, InputManifest};
use imgforge_core::manifest::{Compression, Layers, Network};
use imgforge_core::name::ImageName;
use imgforge_core::source::ContentHash;
use imgforge_engine::{
    BuildError, BuildRequest, BuiltImage, Docker, Engine, Error, Place, Secrets, Sent, StepEvent,
    StepFailure, StepSink, labels,
};
use tokio::net::{TcpListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const BUSYBOX: &str = "/bin/busybox";

/// One test's folder, daemon and images; the images go when the test calls [`clean`](Bench::clean).
struct Bench {
    docker: Docker,
    dir: tempfile::TempDir,
    prefix: String,
    made: Mutex<Vec<String>>,
}

impl Bench {
    async fn new() -> Self {
        Self::with(Docker::connect().await.expect("a Docker daemon runs here"))
    }

    fn with(docker: Docker) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::tempdir().unwrap();
        fs::copy(BUSYBOX, dir.path().join("busybox")).expect("busybox-static is installed");
        let prefix = format!("imgforge-test-{}-{number}", std::process::id());
        Self { docker, dir, prefix, made: Mutex::default() }
    }

    fn root(&self) -> Utf8PathBuf {
        Utf8Path::from_path(self.dir.path()).unwrap().to_owned()
    }

    fn file(&self, path: &str, content: &[u8]) -> ContextEntry {
        let on_disk = self.dir.path().join(path);
        fs::create_dir_all(on_disk.parent().unwrap()).unwrap();
        fs::write(&on_disk, content).unwrap();
        entry(path, content, false)
    }

    /// A request with busybox and a shell; `steps` follow.
    fn request(&self, steps: &str) -> BuildRequest {
        let busybox = fs::read(BUSYBOX).unwrap();
        // The prefix makes the steps of each test its own, so that no cache of another run answers.
        let head = format!(
            "FROM scratch\nCOPY busybox /bin/busybox\nCOPY busybox /bin/sh\nENV RUN_OF={}\n",
            self.prefix
        );
        BuildRequest {
            target: ImageName::new("app").unwrap(),
            dockerfile: head + steps,
            root: self.root(),
            entries: vec![entry("busybox", &busybox, true)],
            supplied: vec![],
            args: BTreeMap::new(),
            labels: BTreeMap::new(),
            network: Network::None,
            layers: Layers::default(),
            compression: Compression::default(),
            platform: "linux/amd64".into(),
            secrets: Secrets::default(),
            anew: false,
        }
    }

    async fn build(&self, request: BuildRequest) -> (Result<BuiltImage, BuildError>, Vec<StepEvent>) {
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let sink: StepSink = Arc::new(move |event| sink.lock().unwrap().push(event));
        let result = self.docker.build(request, sink, CancellationToken::new()).await;
        if let Ok(image) = &result {
            self.made.lock().unwrap().push(image.id.to_string());
        }
        let events = events.lock().unwrap().clone();
        (result, events)
    }

    async fn read(&self, image: &BuiltImage, path: &str) -> Option<String> {
        let content = self.docker.read_file(image.id.as_str(), path).await.unwrap();
        content.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    async fn clean(self) {
        for image in self.made.into_inner().unwrap().into_iter().rev() {
            self.docker.untag(&image).await.unwrap();
        }
    }
}

fn entry(path: &str, content: &[u8], executable: bool) -> ContextEntry {
    let origin = Origin::Source(path.into());
    let kind = EntryKind::File {
        hash: ContentHash::of(content),
        size: content.len() as u64,
        mode: imgforge_core::context::generated_mode(executable),
        origin,
    };
    ContextEntry { path: path.into(), kind }
}

fn log(events: &[StepEvent]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|event| match event {
            StepEvent::Log { line, .. } => Some(line.as_str()),
            StepEvent::Step { .. } => None,
        })
        .collect()
}

#[tokio::test]
async fn a_build_sends_its_files_runs_its_steps_and_tells_them() {
    let bench = Bench::new().await;
    let mut request = bench.request(
        "ARG GREETING\nCOPY conf /conf\nCOPY .imgforge/packages /packages\n\
         RUN busybox stat -c '%a %u %g %Y' /conf/a.txt && echo \"$GREETING\" && printf 'x\\ry\\n' && echo done > /out\n",
    );
    request.entries.push(ContextEntry { path: "conf".into(), kind: EntryKind::Dir { mode: 0o755 } });
    request.entries.push(bench.file("conf/a.txt", b"content"));
    let link = EntryKind::Symlink { target: "a.txt".into() };
    request.entries.push(ContextEntry { path: "conf/link".into(), kind: link });
    let supplied = SuppliedContent::Bytes(b"package".to_vec());
    request.supplied.push(SuppliedFile {
        path: ".imgforge/packages/deep/p.deb".into(),
        executable: false,
        content: supplied,
    });
    request.args.insert("GREETING".into(), format!("hello {}", bench.prefix));
    let (image, events) = bench.build(request).await;
    let image = image.unwrap();
    assert_eq!(log(&events), ["644 0 0 0", &format!("hello {}", bench.prefix), "x", "y"]);
    let steps: Vec<(usize, usize, &str)> = events
        .iter()
        .filter_map(|event| match event {
            StepEvent::Step { number, total, text, .. } => Some((*number, *total, text.as_str())),
            StepEvent::Log { .. } => None,
        })
        .collect();
    assert_eq!(steps.iter().map(|step| step.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert!(steps.iter().all(|step| step.1 == 5), "{steps:?}");
    assert!(steps[4].2.starts_with("RUN busybox stat"), "{steps:?}");
    assert_eq!(bench.read(&image, "/out").await.unwrap(), "done\n");
    assert_eq!(bench.read(&image, "/conf/link").await.unwrap(), "content", "links are followed");
    assert_eq!(bench.read(&image, "/packages/deep/p.deb").await.unwrap(), "package");
    assert_eq!(bench.read(&image, "/nothing/here").await, None);
    assert_eq!(bench.read(&image, "/conf").await, None, "a folder is no file");
    assert!(image.size >= fs::metadata(BUSYBOX).unwrap().len());
    assert_eq!(bench.docker.size(image.id.as_str()).await.unwrap(), image.size);
    bench.clean().await;
}

#[tokio::test]
async fn the_same_build_again_is_taken_from_the_cache_and_gives_the_same_image() {
    let bench = Bench::new().await;
    let request = bench.request("RUN echo once\n");
    let (first, _) = bench.build(request.clone()).await;
    let (second, events) = bench.build(request).await;
    assert_eq!(first.unwrap(), second.unwrap());
    let all_cached = events.iter().all(|event| matches!(event, StepEvent::Step { cached: true, .. }));
    assert!(all_cached && !events.is_empty(), "{events:?}");
    bench.clean().await;
}

#[tokio::test]
async fn a_failing_step_is_named_with_its_status_and_its_log() {
    let bench = Bench::new().await;
    let (result, _) = bench.build(bench.request("RUN echo before; echo why >&2; exit 7\n")).await;
    match result.unwrap_err() {
        BuildError::Step { number, total, text, place, why, log_tail } => {
            assert_eq!((number, total), (3, 3));
            assert_eq!(text, "RUN echo before; echo why >&2; exit 7");
            assert_eq!(place, Some(Place { stage: 0, instruction: 4 }));
            assert_eq!(why, StepFailure::Exit(7));
            assert!(log_tail.contains(&"before".to_owned()) && log_tail.contains(&"why".to_owned()));
        }
        other => panic!("{other:?}"),
    }
    let (result, _) = bench.build(bench.request("NONSENSE\n")).await;
    assert!(matches!(result, Err(BuildError::Source { line: 5, why }) if why.contains("NONSENSE")));
    bench.clean().await;
}

/// The place of the step at which a build fails.
async fn failing_place(bench: &Bench, dockerfile: &str) -> Option<Place> {
    let mut request = bench.request("");
    request.dockerfile = dockerfile.to_owned();
    match bench.build(request).await.0.unwrap_err() {
        BuildError::Step { place, .. } => place,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_instruction_that_fails_is_found_in_its_stage_and_after_what_onbuild_brings() {
    let bench = Bench::new().await;
    let shell = "FROM scratch AS Tools\nCOPY busybox /bin/sh\n";
    let stages = format!("{shell}RUN false\nFROM tools\nRUN true\nFROM scratch\nCOPY --from=tools / /\n");
    assert_eq!(failing_place(&bench, &stages).await, Some(Place { stage: 0, instruction: 2 }));
    let stages = format!("{shell}RUN true\nFROM tools\nWORKDIR /x\nRUN exit 3\n");
    assert_eq!(failing_place(&bench, &stages).await, Some(Place { stage: 1, instruction: 5 }));

    let mut base = bench.request("");
    base.dockerfile = format!("{shell}ONBUILD ENV A=1\nONBUILD RUN echo brought\nONBUILD WORKDIR /x\n");
    let built = bench.build(base).await.0.unwrap();
    let name = format!("{}:onbuild", bench.prefix);
    bench.docker.tag(built.id.as_str(), &name).await.unwrap();
    let child = format!("FROM {name}\nRUN true\nENV B=1\nRUN exit 4\n");
    let found = failing_place(&bench, &child).await;
    bench.docker.untag(&name).await.unwrap();
    assert_eq!(found, Some(Place { stage: 0, instruction: 3 }));
    bench.clean().await;
}

#[tokio::test]
async fn a_file_that_is_not_what_was_hashed_stops_the_build() {
    let bench = Bench::new().await;
    let large: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let (mut touched, mut longer) = (large.clone(), large.clone());
    touched[11_999_999] ^= 1;
    longer.push(0);
    let changes: [Option<&[u8]>; 4] = [Some(&touched), Some(&longer), Some(&large[1..]), None];
    for change in changes {
        let mut request = bench.request("COPY data /data\n");
        request.entries.push(bench.file("data", &large));
        let path = bench.dir.path().join("data");
        match change {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let (result, _) = bench.build(request).await;
        assert!(matches!(&result, Err(BuildError::ContextChanged { path }) if path == "data"), "{result:?}");
    }
    bench.clean().await;
}

#[tokio::test]
async fn a_dockerignore_among_the_files_excludes_nothing_in_the_daemon() {
    let bench = Bench::new().await;
    let mut request = bench.request("COPY .dockerignore kept.txt /\n");
    request.entries.push(bench.file(".dockerignore", b"*\n"));
    request.entries.push(bench.file("kept.txt", b"kept"));
    let (image, _) = bench.build(request).await;
    assert_eq!(bench.read(&image.unwrap(), "/kept.txt").await.unwrap(), "kept");
    bench.clean().await;
}

/// The lines of an image's `/list`.
async fn listed(bench: &Bench, image: &BuiltImage) -> Vec<String> {
    let list = bench.read(image, "/list").await.unwrap();
    list.lines().map(str::to_owned).collect()
}

const LIST: &str = "RUN cd /all && busybox find . -mindepth 1 | busybox sort > /list\n";

#[tokio::test]
async fn copying_everything_copies_the_entries_and_nothing_else() {
    let bench = Bench::new().await;
    let mut request = bench.request(&format!("COPY . /all\n{LIST}"));
    bench.file("not-listed", b"is on disk only");
    request.entries.push(bench.file(".dockerignore", b"*\n"));
    request.entries.push(bench.file("a-b", b"sorts between a and a/b as text"));
    request.entries.push(bench.file("a/b/c", b"deep"));
    request.entries.push(bench.file("Dockerfile", b"an ordinary file"));
    let (image, _) = bench.build(request.clone()).await;
    let image = image.unwrap();
    let expected = ["./.dockerignore", "./Dockerfile", "./a", "./a-b", "./a/b", "./a/b/c", "./busybox"];
    assert_eq!(listed(&bench, &image).await, expected);
    assert_eq!(bench.read(&image, "/all/Dockerfile").await.unwrap(), "an ordinary file");

    // The daemon has kept the files of that build; those that are not listed any more must not come back.
    request.entries.retain(|entry| !entry.path.starts_with("a") && entry.path != "Dockerfile");
    let (image, _) = bench.build(request).await;
    assert_eq!(listed(&bench, &image.unwrap()).await, ["./.dockerignore", "./a-b", "./busybox"]);
    bench.clean().await;
}

#[tokio::test]
async fn only_files_that_have_changed_are_sent_again() {
    let bench = Bench::new().await;
    let mut request = bench.request("COPY . /all\n");
    request.entries.push(bench.file("same", b"the same"));
    request.entries.push(bench.file("changing", b"before"));
    let package = bench.dir.path().join("package");
    fs::write(&package, b"package").unwrap();
    request.supplied.push(SuppliedFile {
        path: ".imgforge/packages/p.deb".into(),
        executable: false,
        content: SuppliedContent::File(Utf8PathBuf::from_path_buf(package).unwrap()),
    });
    let (first, _) = bench.build(request.clone()).await;
    assert_eq!(bench.docker.sent().files, 4, "busybox, same, changing, p.deb");
    let before = bench.docker.sent();

    let (again, _) = bench.build(request.clone()).await;
    assert_eq!(again.unwrap(), first.unwrap());
    assert_eq!(bench.docker.sent(), before, "nothing has changed");

    // As large as before, and on disk as old as before.
    let path = bench.dir.path().join("changing");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    *request.entries.last_mut().unwrap() = bench.file("changing", b"after!");
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    let (changed, _) = bench.build(request).await;
    let changed = changed.unwrap();
    let sent = bench.docker.sent();
    assert_eq!((sent.files - before.files, sent.bytes - before.bytes), (1, 6));
    assert_eq!(bench.read(&changed, "/all/changing").await.unwrap(), "after!");
    assert_eq!(bench.read(&changed, "/all/same").await.unwrap(), "the same");
    bench.clean().await;
}

#[tokio::test]
async fn a_transfer_that_is_cancelled_leaves_nothing_that_a_later_build_believes() {
    let bench = Bench::new().await;
    let large: Vec<u8> = (0..8_000_000u32).flat_map(u32::to_le_bytes).collect();
    let mut request = bench.request("COPY large /large\n");
    request.entries.insert(0, bench.file("large", &large));
    let cancel = CancellationToken::new();
    let (docker, token, first) = (bench.docker.clone(), cancel.clone(), request.clone());
    let build = tokio::spawn(async move { docker.build(first, Arc::new(|_| ()), token).await });
    while bench.docker.sent().bytes < large.len() as u64 {
        tokio::task::yield_now().await;
    }
    cancel.cancel();
    assert!(matches!(build.await.unwrap(), Err(BuildError::Cancelled)));
    let (image, _) = bench.build(request).await;
    let found = bench.docker.read_file(image.unwrap().id.as_str(), "/large").await.unwrap().unwrap();
    assert!(found == large);
    bench.clean().await;
}

#[tokio::test]
async fn owners_modes_and_times_in_an_image_do_not_depend_on_the_machine() {
    let bench = Bench::new().await;
    let mut request = bench.request(
        "COPY . /all\nRUN cd /all && busybox stat -c '%n %F %a %u %g %Y' busybox f d/link d/x > /list \\\n\
         && busybox stat -c '%n %F %a %u %g' d >> /list\n",
    );
    request.entries.push(bench.file("f", b"content"));
    request.entries.push(bench.file("d/x", b"x"));
    let link = EntryKind::Symlink { target: "x".into() };
    request.entries.push(ContextEntry { path: "d/link".into(), kind: link });
    let (image, _) = bench.build(request).await;
    let expected = [
        "busybox regular file 755 0 0 0",
        "f regular file 644 0 0 0",
        "d/link symbolic link 777 0 0 0",
        "d/x regular file 644 0 0 0",
        "d directory 755 0 0",
    ];
    assert_eq!(listed(&bench, &image.unwrap()).await, expected);
    bench.clean().await;
}

#[tokio::test]
async fn a_dockerfile_may_name_many_files_with_long_names() {
    let bench = Bench::new().await;
    // Together, and as headers write them, more than the 16 KiB that HTTP servers take if nobody says otherwise; in
    // few files with deep folders, because Engine 20.10 itself loses track of many sources in one COPY.
    let folders = vec!["é".repeat(120); 4].join("/");
    let names: Vec<String> = (0..8).map(|n| format!("{n}-{}", "é".repeat(100))).collect();
    let sources: Vec<String> = names.iter().map(|name| format!("{folders}/{name}")).collect();
    let mut request = bench.request(&format!("COPY {} /all/\n{LIST}", sources.join(" ")));
    request
        .entries
        .extend(sources.iter().zip(&names).map(|(source, name)| bench.file(source, name.as_bytes())));
    let (image, _) = bench.build(request).await;
    let image = image.unwrap();
    let expected: Vec<String> = names.iter().map(|name| format!("./{name}")).collect();
    assert_eq!(listed(&bench, &image).await, expected);
    assert_eq!(bench.read(&image, &format!("/all/{}", names[7])).await.unwrap(), names[7]);
    bench.clean().await;
}

#[tokio::test]
async fn steps_reach_no_network_unless_asked() {
    let bench = Bench::new().await;
    let steps = "RUN busybox ls /sys/class/net\n";
    let (image, events) = bench.build(bench.request(steps)).await;
    image.unwrap();
    assert_eq!(log(&events), ["lo"]);
    let mut request = bench.request(steps);
    request.network = Network::Default;
    request.args.insert("OTHER".into(), "1".into());
    request.dockerfile.push_str("ARG OTHER\nRUN busybox ls /sys/class/net\n");
    let (image, events) = bench.build(request).await;
    image.unwrap();
    assert!(log(&events).len() > 1, "{events:?}");
    bench.clean().await;
}

/// Returns whether a process of this machine has `text` among its arguments.
fn is_running(text: &str) -> bool {
    let commands = fs::read_dir("/proc").unwrap().flatten().filter_map(|process| {
        let is_process = process.file_name().to_str()?.parse::<u32>().is_ok();
        is_process
            .then(|| fs::read(Path::new("/proc").join(process.file_name()).join("cmdline")).ok())
            .flatten()
    });
    commands.into_iter().any(|command| command.split(|b| *b == 0).any(|argument| argument == text.as_bytes()))
}

/// Waits until a process that sleeps for `seconds` is there, or is gone.
async fn wait_until_running(seconds: &str, wanted: bool) {
    while is_running(seconds) != wanted {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn cancelling_and_dropping_end_the_process_in_the_daemon() {
    let bench = Bench::new().await;
    for (number, is_dropped) in [false, true].into_iter().enumerate() {
        let seconds = format!("4242{:06}{number}", std::process::id());
        let request = bench.request(&format!("RUN [\"/bin/busybox\", \"sleep\", \"{seconds}\"]\n"));
        let cancel = CancellationToken::new();
        let (docker, token) = (bench.docker.clone(), cancel.clone());
        let build = tokio::spawn(async move { docker.build(request, Arc::new(|_| ()), token).await });
        wait_until_running(&seconds, true).await;
        if is_dropped {
            build.abort();
            assert!(build.await.unwrap_err().is_cancelled());
        } else {
            cancel.cancel();
            assert!(matches!(build.await.unwrap(), Err(BuildError::Cancelled)));
        }
        wait_until_running(&seconds, false).await;
    }
    bench.clean().await;
}

#[tokio::test]
async fn the_inventory_holds_what_is_labelled_and_believes_only_what_is_named() {
    let bench = Bench::new().await;
    let mut inputs = InputManifest::default();
    inputs.insert(InputKind::Platform, "platform", "linux/amd64");
    let fingerprint = inputs.fingerprint();
    let name = ImageName::new(format!("{}/app", bench.prefix)).unwrap();
    let mut request = bench.request("");
    request.labels = BTreeMap::from([
        (labels::WORKSPACE.to_owned(), bench.prefix.clone()),
        (labels::IMAGE.to_owned(), name.to_string()),
        (labels::FINGERPRINT.to_owned(), fingerprint.to_string()),
        (labels::INPUTS.to_owned(), inputs.to_label()),
    ]);
    let (image, _) = bench.build(request.clone()).await;
    let image = image.unwrap();
    let inventory = bench.docker.inventory(&bench.prefix).await.unwrap();
    assert!(inventory.holds(&name, fingerprint).is_none(), "it has no name yet");

    let content = format!("{name}:{}", fingerprint.content_tag());
    let release = format!("{name}:latest");
    bench.docker.tag(image.id.as_str(), &content).await.unwrap();
    bench.docker.tag(image.id.as_str(), &release).await.unwrap();
    let inventory = bench.docker.inventory(&bench.prefix).await.unwrap();
    let held = inventory.holds(&name, fingerprint).unwrap();
    assert_eq!(held.id, image.id);
    assert_eq!(held.references, [content.clone(), release.clone()].into());
    assert_eq!(held.inputs.as_ref().map(|recorded| inputs.changes_since(recorded)), Some(vec![]));
    let other = bench.docker.inventory("another-workspace").await.unwrap();
    assert!(other.holds(&name, fingerprint).is_none());

    // A child made by hand inherits the labels.
    let mut child = bench.request("");
    child.dockerfile = format!("FROM {content}\nENV A=b\n");
    child.entries.clear();
    let (child, _) = bench.build(child).await;
    let by_hand = format!("{name}:by-hand");
    bench.docker.tag(child.unwrap().id.as_str(), &by_hand).await.unwrap();
    let inventory = bench.docker.inventory(&bench.prefix).await.unwrap();
    assert_eq!(inventory.holds(&name, fingerprint).unwrap().id, image.id);

    for reference in [&by_hand, &release, &content, &content] {
        bench.docker.untag(reference).await.unwrap();
    }
    let inventory = bench.docker.inventory(&bench.prefix).await.unwrap();
    assert!(inventory.holds(&name, fingerprint).is_none());
    bench.clean().await;
}

#[tokio::test]
async fn ten_builds_at_once_do_not_mix() {
    let bench = Bench::new().await;
    // One target, so that all of them want the files that the daemon keeps for it; and one size.
    let build = |n: usize| {
        let mut request = bench.request(&format!("COPY f /f\nRUN echo {n}; echo made-{n} > /n\n"));
        let content = SuppliedContent::Bytes(n.to_string().into_bytes());
        request.supplied.push(SuppliedFile { path: "f".into(), executable: false, content });
        bench.build(request)
    };
    let results = futures_util::future::join_all((0..10).map(build)).await;
    for (n, (image, events)) in results.into_iter().enumerate() {
        let image = image.unwrap();
        assert_eq!(log(&events), [n.to_string()]);
        assert_eq!(bench.read(&image, "/f").await.unwrap(), n.to_string());
        assert_eq!(bench.read(&image, "/n").await.unwrap(), format!("made-{n}\n"));
    }
    bench.clean().await;
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let socket = Utf8Path::from_path(dir.path()).unwrap().join("none.sock");
    let error = Docker::connect_to(&format!("unix://{socket}")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }));
    let text = error.to_string();
    assert!(text.contains(&format!("unix://{socket}")) && text.contains("systemctl start docker"), "{text}");
}

#[tokio::test]
async fn the_engine_says_what_and_where_it_is() {
    let docker = Docker::connect_to("unix:///var/run/docker.sock").await.unwrap();
    let text = docker.describe();
    assert!(text.starts_with("Docker ") && text.ends_with(" at unix:///var/run/docker.sock"), "{text}");
}

/// Gives the daemon of this machine an address on the network, for as long as the returned tasks are kept.
async fn over_tcp() -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = format!("tcp://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut far = UnixStream::connect("/var/run/docker.sock").await.unwrap();
                // A connection that breaks is seen by those who use it.
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (host, tasks)
}

#[tokio::test]
async fn a_daemon_behind_tcp_builds_as_one_behind_a_socket() {
    let (host, _forwarding) = over_tcp().await;
    let bench = Bench::with(Docker::connect_to(&host).await.unwrap());
    assert!(bench.docker.describe().ends_with(&host));
    let content = format!("of {}", bench.prefix);
    let mut request = bench.request("");
    request.dockerfile = "FROM scratch\nCOPY folder /\n".into();
    request.entries = vec![];
    let bytes = SuppliedContent::Bytes(content.clone().into());
    request.supplied = vec![SuppliedFile { path: "folder/file".into(), executable: false, content: bytes }];
    let image = bench.build(request).await.0.unwrap();
    assert_eq!(bench.read(&image, "/file").await.unwrap(), content);
    assert_eq!(bench.docker.sent(), Sent { files: 1, bytes: content.len() as u64 });
    bench.clean().await;
}

#[tokio::test]
async fn a_connection_that_breaks_ends_the_build() {
    let (host, mut forwarding) = over_tcp().await;
    let bench = Bench::with(Docker::connect_to(&host).await.unwrap());
    let request = bench.request(&format!("RUN echo begun; exec busybox sleep 99{}\n", std::process::id()));
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let sink: StepSink = Arc::new(move |event| drop(sender.send(event)));
    let docker = bench.docker.clone();
    let build = tokio::spawn(async move { docker.build(request, sink, CancellationToken::new()).await });
    let mut event = async || events.recv().await.expect("the step begins before the build ends");
    while !matches!(event().await, StepEvent::Log { line, .. } if line == "begun") {}
    forwarding.shutdown().await;
    let error = build.await.unwrap().unwrap_err();
    assert!(matches!(&error, BuildError::Engine(Error::Connection { .. })), "{error:?}");
    bench.clean().await;
}
