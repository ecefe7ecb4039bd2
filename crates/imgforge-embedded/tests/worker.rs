//! Workers carry real steps out: busybox in a sandbox, on overlay mounts.

use std::sync::{Arc, Mutex};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_embedded::worker::message::{Action, Compression, Network, Reply, Request, Run, Step};
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
    let names: Vec<_> = std::fs::read_dir(&layer).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["file"], "nothing tells of the mounts");
}
