//! A workspace in a folder of its own, and the `imgforge` command run in it.

use std::path::Path;
use std::process::{Command, Output};

use camino::{Utf8Path, Utf8PathBuf};

use crate::docker::Docker;

/// A workspace that a test has made. Its images are removed from the Docker Engine when it is dropped.
pub struct TestWorkspace {
    dir: tempfile::TempDir,
    name: String,
    host: String,
}

impl TestWorkspace {
    /// An empty workspace with a name of its own; its images get a registry prefix of that name, so that no other
    /// image of the engine is touched.
    ///
    /// # Panics
    /// When the folder cannot be made.
    pub fn new() -> Self {
        Self::at("localhost")
    }

    /// The same, with images that can be pushed to the registry `host`. Only what is run in one of these asks its
    /// registry.
    ///
    /// # Panics
    /// When the folder cannot be made.
    pub fn at(host: &str) -> Self {
        let workspace = Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
            name: crate::unique("imgforge-test"),
            host: host.to_owned(),
        };
        let text = format!("workspace \"{0}\" {{\n    registry \"{host}/{0}\"\n}}\n", workspace.name);
        workspace.write("imgforge.kdl", &text);
        workspace
    }

    /// A copy of the workspace at `root` (its `imgforge.kdl`, lock, `images/` and `templates/`), renamed as in
    /// [`new`](Self::new).
    ///
    /// # Panics
    /// When something cannot be read or written.
    pub fn copy_of(root: &Path) -> Self {
        let workspace = Self::new();
        for part in ["images", "imgforge.lock"] {
            let from = root.join(part);
            if from.exists() {
                let status = Command::new("cp").arg("-a").arg(&from).arg(workspace.root()).status();
                assert!(status.expect("cp runs").success());
            }
        }
        let manifest = std::fs::read_to_string(root.join("imgforge.kdl")).expect("the workspace's manifest");
        let named = format!("workspace \"{0}\" {{\n    registry \"localhost/{0}\"", workspace.name);
        workspace.write("imgforge.kdl", &manifest.replacen("workspace \"example\" {", &named, 1));
        workspace
    }

    /// Its folder.
    ///
    /// # Panics
    /// When the system's temporary folder has a name that is not UTF-8.
    pub fn root(&self) -> &Utf8Path {
        Utf8Path::from_path(self.dir.path()).expect("UTF-8")
    }

    /// Its name: `workspace "NAME"`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The full repository name of an image.
    pub fn repository(&self, image: &str) -> String {
        format!("{}/{}/{image}", self.host, self.name)
    }

    /// Writes a file, its folders too.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, path: &str, text: &str) -> Utf8PathBuf {
        let full = self.root().join(path);
        std::fs::create_dir_all(full.parent().expect("below the root")).expect("the folder");
        std::fs::write(&full, text).expect("the file");
        full
    }

    /// `image.kdl` of an image in a folder of its name.
    pub fn image(&self, name: &str, body: &str) {
        self.write(&format!("{name}/image.kdl"), &format!("image \"{name}\" {{\n{body}\n}}\n"));
    }

    /// A scratch image with a static busybox at `/bin/busybox` and links for the usual commands: what children run.
    ///
    /// # Panics
    /// When `/bin/busybox` is not there; `cargo xtask test` installs it.
    pub fn busybox_base(&self, name: &str) {
        self.image(
            name,
            "    from \"scratch\"\n    copy \"busybox\" \"/bin/busybox\"\n    run \"/bin/busybox\" \"mkdir\" \"-p\" \"/tmp\" \"/etc\"\n    run \"/bin/busybox\" \"--install\" \"-s\" \"/bin\"",
        );
        std::fs::copy("/bin/busybox", self.root().join(name).join("busybox"))
            .expect("busybox-static is installed");
    }

    /// Runs the command in the workspace.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&self, binary: &str, args: &[&str]) -> Ran {
        Ran::of(self.command(binary, args).output().expect("the command starts"))
    }

    /// The command, to be started by the caller.
    pub fn command(&self, binary: &str, args: &[&str]) -> Command {
        let mut command = Command::new(binary);
        command.args(args).current_dir(self.root()).env("NO_COLOR", "1").env_remove("CLICOLOR_FORCE");
        if self.host == "localhost" {
            command.env("IMGFORGE_LOCAL", "1");
        }
        command
    }
}

impl Default for TestWorkspace {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TestWorkspace {
    fn drop(&mut self) {
        Docker::remove_images_labelled(&format!("imgforge.workspace={}", self.name));
    }
}

/// What a command printed, and how it ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The exit code; -1 after a signal.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Words.
    pub stderr: String,
}

impl Ran {
    /// Takes a finished process apart.
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The same, when it ended with 0.
    ///
    /// # Panics
    /// When it did not.
    #[allow(
        clippy::must_use_candidate,
        clippy::return_self_not_must_use,
        reason = "often called just to check"
    )]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// stdout as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {}", self.stdout))
    }
}
