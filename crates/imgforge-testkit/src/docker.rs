//! The Docker Engine as a user of the `docker` command meets it.

use std::process::Command;

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
        let output = Command::new("docker").args(["logs", &self.id]).output().expect("docker is installed");
        let mut bytes = output.stdout;
        bytes.extend(output.stderr);
        String::from_utf8_lossy(&bytes).into_owned()
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
