//! A store with a layer of busybox, and what tests ask its workers for.

use std::sync::{Arc, Mutex};

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_embedded::worker::message::{
    Action, Compression, Mount, MountKind, Network, Reply, Request, Run, Step,
};
use imgforge_embedded::worker::{Client, WorkerError};
use tokio_util::sync::CancellationToken;

/// A store in a folder of its own: a layer with busybox in it, and places for workers.
pub(crate) struct Fixture {
    folder: tempfile::TempDir,
    client: Client,
    count: std::cell::Cell<u32>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
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

    /// Lets the workers be `nobody`, who has one id of their own.
    pub(crate) fn be_nobody(&mut self) {
        self.start_with("", true);
    }

    /// Lets a shell script mount file systems, in a namespace that nobody else sees, before a worker starts there.
    pub(crate) fn mount_before(&mut self, script: &str, is_nobody: bool) {
        let text = format!(
            "if [ -z \"$INSIDE\" ]; then INSIDE=1 exec unshare --mount --propagation private \"$0\" \"$1\"; fi\n{script}"
        );
        self.start_with(&text, is_nobody);
    }

    fn start_with(&mut self, script: &str, is_nobody: bool) {
        let (folder, exe) = (self.path(), self.path().join("imgforge-worker"));
        std::fs::copy(env!("CARGO_BIN_EXE_imgforge-worker"), &exe).unwrap();
        let (owner, become_nobody) = if is_nobody {
            ("65534:65534", "setpriv --reuid 65534 --regid 65534 --clear-groups")
        } else {
            ("0:0", "")
        };
        let text = format!(
            "#!/bin/bash\nset -e\ncd {folder}\nchown -R {owner} {folder}\n{script}\n\
             exec {become_nobody} bash -c 'exec -a imgforge-worker {exe} \"$0\"' \"$1\"\n"
        );
        let script = folder.join("start-worker");
        std::fs::write(&script, text).unwrap();
        rustix::fs::chmod(script.as_std_path(), 0o755.into()).unwrap();
        self.client = Client::new(&script);
    }

    pub(crate) fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.folder.path()).unwrap()
    }

    pub(crate) fn base(&self) -> Utf8PathBuf {
        self.path().join("base")
    }

    fn new_folder(&self) -> Utf8PathBuf {
        self.count.set(self.count.get() + 1);
        let folder = self.path().join(format!("worker-{}", self.count.get()));
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    /// A step's request, and where its layer comes to be.
    pub(crate) fn step(&self, action: Action) -> (Request, Utf8PathBuf) {
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

    pub(crate) async fn ask(&self, request: &Request) -> (Result<Reply, WorkerError>, String) {
        self.ask_until(request, &CancellationToken::new()).await
    }

    pub(crate) async fn ask_until(
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

    pub(crate) async fn sh(&self, script: &str) -> (Reply, String, Utf8PathBuf) {
        let (request, layer) = self.step(Action::Run(run(script)));
        let (reply, printed) = self.ask(&request).await;
        (reply.unwrap(), printed, layer)
    }
}

pub(crate) fn run(script: &str) -> Run {
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

pub(crate) fn file(target: &str, content: &str) -> Mount {
    let kind = MountKind::File { content: content.into(), mode: 0o440, uid: 0, gid: 7 };
    Mount { target: target.into(), kind }
}

pub(crate) fn list(folder: &Utf8Path) -> Vec<String> {
    let mut names: Vec<String> =
        folder.read_dir_utf8().unwrap().map(|entry| entry.unwrap().file_name().to_owned()).collect();
    names.sort();
    names
}

/// Returns whether a process has this word on its command line.
pub(crate) fn runs(word: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|found| found == word.as_bytes())
    })
}

/// A number of seconds that nothing else on this machine sleeps.
pub(crate) fn seconds() -> String {
    format!("{}", 100_000_000 + u64::from(fastrand::u32(..)))
}
