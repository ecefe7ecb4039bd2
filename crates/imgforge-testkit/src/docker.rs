//! The Docker Engine as a user of the `docker` command meets it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

/// A few `docker` commands.
pub struct Docker;

impl Docker {
    /// Runs `docker ARGS` and gives its output, without the newline at its end.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(args: &[&str]) -> String {
        let output = Command::new("docker").args(args).output().expect("docker is installed");
        assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Whether `docker ARGS` ends with 0.
    ///
    /// # Panics
    /// When docker is not installed.
    pub fn succeeds(args: &[&str]) -> bool {
        Command::new("docker").args(args).output().expect("docker is installed").status.success()
    }

    /// The id that a reference means; `None` when there is no such image.
    ///
    /// # Panics
    /// When docker is not installed.
    pub fn image_id(reference: &str) -> Option<String> {
        let args = ["image", "inspect", "--format", "{{.Id}}", reference];
        let output = Command::new("docker").args(args).output().expect("docker is installed");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Removes every image with a label `KEY=VALUE`, as far as it can be removed.
    pub fn remove_images_labelled(label: &str) {
        let list = ["images", "-q", "--no-trunc", "--filter", &format!("label={label}")];
        let Ok(output) = Command::new("docker").args(list).output() else { return };
        let ids = String::from_utf8_lossy(&output.stdout).into_owned();
        let ids: std::collections::BTreeSet<&str> = ids.lines().collect();
        if !ids.is_empty() {
            let _ = Command::new("docker").args(["rmi", "-f"]).args(ids).output();
        }
    }
}

/// A container that is removed, with its volumes, when it is dropped.
pub struct Container {
    /// Its id.
    pub id: String,
}

impl Container {
    /// `docker run -d ARGS`.
    pub fn start(args: &[&str]) -> Self {
        Self { id: Docker::run(&[&["run", "-d"], args].concat()) }
    }

    /// The loopback address `127.0.0.1:PORT` that a published port was given.
    ///
    /// # Panics
    /// When the port is not published.
    pub fn address(&self, port: &str) -> String {
        let ports = Docker::run(&["port", &self.id, port]);
        ports.lines().next().expect("a published port").to_owned()
    }

    /// Runs a command inside, and gives its output.
    pub fn exec(&self, args: &[&str]) -> String {
        Docker::run(&[&["exec", &self.id], args].concat())
    }
}

impl Container {
    /// What it has written so far, stdout and stderr together.
    ///
    /// # Panics
    /// When docker is not installed.
    pub fn logs(&self) -> String {
        logs(&self.id)
    }

    /// Runs a command inside; its output if it ends with 0.
    ///
    /// # Panics
    /// When docker is not installed.
    pub fn try_exec(&self, args: &[&str]) -> Option<String> {
        let args = [&["exec", &self.id], args].concat();
        let output = Command::new("docker").args(args).output().expect("docker is installed");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Sends a signal to its process 1.
    pub fn signal(&self, signal: &str) {
        Docker::run(&["kill", "-s", signal, &self.id]);
    }

    /// Types at its terminal, which it has been given with `--interactive --tty`.
    ///
    /// # Panics
    /// When the daemon does not listen at its usual place, or refuses.
    pub fn types(&self, bytes: &[u8]) {
        let mut daemon = UnixStream::connect("/var/run/docker.sock").expect("the daemon's socket");
        // `docker attach` wants a terminal of its own. Docker's API, "Attach to a container": after the head of the
        // answer the connection is the terminal's.
        let request = format!(
            "POST /containers/{}/attach?stream=1&stdin=1 HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n",
            self.id
        );
        daemon.write_all(request.as_bytes()).expect("it listens");
        let mut answer = [0; 12];
        daemon.read_exact(&mut answer).expect("it answers");
        assert_eq!(&answer, b"HTTP/1.1 101");
        daemon.write_all(bytes).expect("it listens");
    }

    /// The signal that `docker stop` sends, as its image has it.
    pub fn stop_signal(&self) -> String {
        Docker::run(&["inspect", "-f", "{{.Config.StopSignal}}", &self.id])
    }

    /// The text of a file in it, also after its end.
    ///
    /// # Panics
    /// When it is not there.
    pub fn file(&self, path: &str) -> String {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let copy = folder.path().join("file");
        Docker::run(&["cp", &format!("{}:{path}", self.id), copy.to_str().expect("UTF-8")]);
        std::fs::read_to_string(copy).expect("a text")
    }

    /// Its exit code, once it has ended; `None` while it runs.
    ///
    /// # Panics
    /// When docker says something that is none.
    pub fn exit_code(&self) -> Option<i64> {
        let said = Docker::run(&["inspect", "-f", "{{.State.Running}} {{.State.ExitCode}}", &self.id]);
        let (running, code) = said.split_once(' ').expect("two words");
        (running == "false").then(|| code.parse().expect("an exit code"))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-f", "-v", &self.id]).output();
    }
}

/// A container's log as it grows: `docker logs --follow`, which asks the daemon once and not each time that someone
/// looks.
pub struct Log {
    container: String,
    child: Child,
    stdout: Stream,
    stderr: Stream,
    whole: OnceLock<String>,
}

impl Log {
    /// Begins to follow the log of a container, from its beginning to the container's end.
    ///
    /// # Panics
    /// When docker is not installed.
    pub fn follow(container: &Container) -> Self {
        let mut command = Command::new("docker");
        command.args(["logs", "--follow", &container.id]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("docker is installed");
        let stdout = Stream::read(child.stdout.take().expect("piped"));
        let stderr = Stream::read(child.stderr.take().expect("piped"));
        Self { container: container.id.clone(), child, stdout, stderr, whole: OnceLock::new() }
    }

    /// Whether the container has ended.
    pub fn has_ended(&self) -> bool {
        self.stdout.has_ended() && self.stderr.has_ended()
    }

    /// What has been written so far, stdout before stderr.
    pub fn text(&self) -> String {
        if self.has_ended() {
            // Docker 20.10 does not always tell followers of a last line without its end.
            return self.whole.get_or_init(|| logs(&self.container)).clone();
        }
        let [stdout, stderr] = [&self.stdout, &self.stderr].map(Stream::bytes);
        String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned()
    }
}

/// `docker logs`, stdout before stderr.
fn logs(container: &str) -> String {
    let output = Command::new("docker").args(["logs", container]).output().expect("docker is installed");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is read from a pipe.
struct Stream {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Stream {
    fn read(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 1 << 13];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
            }
        });
        Self { bytes, reader }
    }

    fn has_ended(&self) -> bool {
        self.reader.is_finished()
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
