//! A Docker Engine of a test's own: one that may run out of space or be killed without harm to anybody.
//!
//! It runs in a mount, a process and a network namespace of its own: its data lie on a tmpfs that nobody else sees, it
//! does not take away the machine's `docker0` (as a daemon without a bridge does when it starts), and whatever
//! it has started ends with it, also when the test itself is killed.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};

/// How often a new daemon is asked whether it answers; only a daemon that never does needs them all.
const TRIES: u32 = 600;

/// A `dockerd` with a socket, a data folder and processes of its own, and no network but loopback. It is killed, with
/// all its images, when it is dropped.
pub struct SecondEngine {
    dir: tempfile::TempDir,
    daemon: Child,
}

impl SecondEngine {
    /// Starts a daemon whose data have `megabytes` of space, and waits until it answers.
    ///
    /// # Panics
    /// When the test does not run as root; when the daemon does not come up, with its log.
    pub fn start(megabytes: u32) -> Self {
        crate::needs::root("a second Docker Engine");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let at = Utf8Path::from_path(dir.path()).expect("UTF-8");
        std::fs::create_dir(at.join("data")).expect("the data folder");
        // Without a file of its own it would read the machine's configuration, and refuse what that says too.
        std::fs::write(at.join("daemon.json"), "{}").expect("the configuration");
        let log = std::fs::File::create(at.join("log")).expect("the log");
        let script = format!(
            "mount -t tmpfs -o size={megabytes}m tmpfs {at}/data && exec dockerd --config-file {at}/daemon.json \
             --data-root {at}/data --exec-root {at}/exec --pidfile {at}/pid -H unix://{at}/docker.sock \
             --storage-driver overlay2 --bridge=none --iptables=false --ip6tables=false"
        );
        let daemon = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--pid",
                "--net",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .args(["sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log"))
            .stderr(log)
            .spawn()
            .expect("setpriv and unshare of util-linux are installed");
        let mut engine = Self { dir, daemon };
        engine.wait_until_it_answers();
        engine
    }

    /// What `DOCKER_HOST` says for it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.at().join("docker.sock"))
    }

    /// Runs `docker ARGS` on it and gives the output, without the newline at its end.
    ///
    /// # Panics
    /// When it fails.
    pub fn docker(&self, args: &[&str]) -> String {
        let output = self.command(args).output().expect("docker is installed");
        assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Lets it reach what listens on loopback here, at the same address: through a socket file, since its network is
    /// its own. It lasts until the returned value is dropped.
    ///
    /// # Panics
    /// When socat or iproute2 is not installed.
    pub fn reach(&self, address: &str) -> Forwarding {
        let socket = self.at().join("forward.sock");
        let port = address.rsplit_once(':').expect("an address with a port").1;
        let daemon = self.daemon.id();
        // The process that was started is `setpriv`, which has become `unshare`: its child is in the namespace.
        let children = std::fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children"));
        let target = children.expect("it has a child").trim().to_owned();
        let up = inside_of(&target, &["ip", "link", "set", "lo", "up"]).wait();
        assert!(up.expect("ip runs").success(), "its loopback is up");
        let outer = Command::new("socat")
            .args([format!("UNIX-LISTEN:{socket},fork"), format!("TCP:{address}")])
            .spawn()
            .expect("socat is installed");
        let inner = inside_of(
            &target,
            &[
                "socat",
                &format!("TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr"),
                &format!("UNIX-CONNECT:{socket}"),
            ],
        );
        Forwarding { processes: vec![outer, inner] }
    }

    /// Gives its data `megabytes` of space from now on.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn resize(&self, megabytes: u32) {
        let size = format!("remount,size={megabytes}m");
        let data = self.at().join("data");
        let status = Command::new("nsenter")
            .args(["--mount", "--target", &self.daemon.id().to_string()])
            .args(["mount", "-o", &size, data.as_str()])
            .status();
        assert!(
            status.expect("nsenter of util-linux is installed").success(),
            "the data folder has a new size"
        );
    }

    /// Kills the daemon and all that it runs, as a machine does that loses its power.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill(&mut self) {
        self.daemon.kill().expect("the daemon is killed");
        self.daemon.wait().expect("it was started here");
    }

    fn at(&self) -> Utf8PathBuf {
        Utf8Path::from_path(self.dir.path()).expect("UTF-8").to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", self.host()).args(args);
        command
    }

    fn wait_until_it_answers(&mut self) {
        for _ in 0..TRIES {
            let answer = self.command(&["version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
            if answer.is_ok_and(|status| status.success()) {
                return;
            }
            if let Ok(Some(status)) = self.daemon.try_wait() {
                panic!("the second Docker Engine ended with {status}:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the second Docker Engine does not answer:\n{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.at().join("log")).unwrap_or_default()
    }
}

impl Drop for SecondEngine {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Connections from a [`SecondEngine`] to this machine.
pub struct Forwarding {
    processes: Vec<Child>,
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Starts a command in the network of a process.
fn inside_of(process: &str, args: &[&str]) -> Child {
    let mut command = Command::new("nsenter");
    command.args(["--net", "--target", process]).args(args);
    command.spawn().expect("nsenter of util-linux is installed")
}
