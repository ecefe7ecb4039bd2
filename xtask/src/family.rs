//! Generated families for benchmarks: a static busybox at the root, fan-out 4, each child a COPY of three small files
//! and one RUN.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// How many children an image has.
const FAN_OUT: usize = 4;

/// A generated family: the same images as an imgforge workspace and as plain Dockerfiles.
pub(crate) struct Family {
    /// The folder of both.
    pub(crate) root: PathBuf,
    /// The workspace's name, and the prefix of all references.
    pub(crate) name: String,
    /// How many images.
    pub(crate) size: usize,
    /// Changed by [`touch`](Self::touch).
    edits: std::cell::Cell<u32>,
}

impl Family {
    /// Writes a family of `size` images into a new folder.
    pub(crate) fn new(size: usize) -> Result<Self> {
        let name = format!("imgforge-bench-{}-{size}", std::process::id());
        let root = std::env::temp_dir().join(&name);
        let family = Self { root, name, size, edits: std::cell::Cell::new(0) };
        fs::create_dir_all(&family.root)?;
        let workspace = format!("workspace \"{0}\" {{\n    registry \"localhost/{0}\"\n}}\n", family.name);
        fs::write(family.root.join("imgforge.kdl"), workspace)?;
        for n in 0..size {
            family.write_image(n)?;
        }
        Ok(family)
    }

    fn write_image(&self, n: usize) -> Result<()> {
        let dir = self.dir(n);
        fs::create_dir_all(&dir)?;
        let parent = (n > 0).then(|| (n - 1) / FAN_OUT);
        let (manifest, dockerfile) = match parent {
            None => {
                fs::copy("/bin/busybox", dir.join("busybox")).context("busybox-static is needed")?;
                (
                    "    from \"scratch\"\n    copy \"busybox\" \"/bin/sh\"\n    copy \"a\" \"b\" \"c\" \"/etc/\"\n".to_owned(),
                    "FROM scratch\nCOPY busybox /bin/sh\nCOPY a b c /etc/\n".to_owned(),
                )
            }
            Some(parent) => (
                format!(
                    "    from \"i{parent}\"\n    copy \"a\" \"b\" \"c\" \"/i{n}/\"\n    run \"echo {n} > /i{n}/ran\"\n"
                ),
                format!(
                    "FROM {}\nCOPY a b c /i{n}/\nRUN echo {n} > /i{n}/ran\n",
                    self.plain_reference(parent)
                ),
            ),
        };
        fs::write(dir.join("image.kdl"), format!("image \"i{n}\" {{\n{manifest}}}\n"))?;
        fs::write(dir.join("Dockerfile.plain"), dockerfile)?;
        for file in ["a", "b", "c"] {
            fs::write(dir.join(file), format!("{file} of {n}\n"))?;
        }
        Ok(())
    }

    fn dir(&self, n: usize) -> PathBuf {
        self.root.join(format!("i{n}"))
    }

    fn plain_reference(&self, n: usize) -> String {
        format!("localhost/{}-plain/i{n}", self.name)
    }

    /// Changes one file of image `n`, to something that it never was before.
    pub(crate) fn touch(&self, n: usize) -> Result<()> {
        self.edits.set(self.edits.get() + 1);
        Ok(fs::write(self.dir(n).join("a"), format!("edit {} of {}\n", self.edits.get(), self.name))?)
    }

    /// `docker build` of every image; see [`builds`](Self::builds).
    pub(crate) fn docker_builds(&self, slots: usize) -> Result<()> {
        self.builds(slots, |n| self.docker_build(n))
    }

    /// `buildah build` of every image, with its cache of layers and its storage in `storage`, in its quickest
    /// isolation, which has the host's network; see [`builds`](Self::builds).
    pub(crate) fn buildah_builds(&self, slots: usize, storage: &Path) -> Result<()> {
        self.builds(slots, |n| self.buildah_build(n, storage))
    }

    /// A build of every image, without network as imgforge does it, up to `slots` at a time, each as soon as its parent
    /// is built: what a careful script does.
    fn builds(&self, slots: usize, build: impl Fn(usize) -> Result<std::process::Child>) -> Result<()> {
        let mut running: Vec<(usize, std::process::Child)> = Vec::new();
        let mut done = vec![false; self.size];
        let mut next = 0;
        loop {
            // Images are numbered level by level, so the next one's parent is built or being built.
            while next < self.size && running.len() < slots && (next == 0 || done[(next - 1) / FAN_OUT]) {
                running.push((next, build(next)?));
                next += 1;
            }
            if running.is_empty() {
                return Ok(());
            }
            let mut ended = None;
            while ended.is_none() {
                for (at, (_, child)) in running.iter_mut().enumerate() {
                    if let Some(status) = child.try_wait()? {
                        ensure!(status.success(), "a build failed");
                        ended = Some(at);
                        break;
                    }
                }
                if ended.is_none() {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            }
            let (n, _) = running.swap_remove(ended.expect("the loop ends with one"));
            done[n] = true;
        }
    }

    fn docker_build(&self, n: usize) -> Result<std::process::Child> {
        Command::new(plain_docker())
            .args(["build", "-q", "--network", "none", "-t", &self.plain_reference(n), "-f"])
            .arg(self.dir(n).join("Dockerfile.plain"))
            .arg(self.dir(n))
            .env("DOCKER_BUILDKIT", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("docker cannot be started")
    }

    fn buildah_build(&self, n: usize, storage: &Path) -> Result<std::process::Child> {
        Command::new("buildah")
            .arg("--root")
            .arg(storage.join("root"))
            .arg("--runroot")
            .arg(storage.join("run"))
            .args(["--storage-driver", "overlay", "build", "-q", "--layers", "--isolation", "chroot"])
            .args(["--network", "host", "--pull-never", "-t", &self.plain_reference(n), "-f"])
            .arg(self.dir(n).join("Dockerfile.plain"))
            .arg(self.dir(n))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("buildah cannot be started: it is in Debian's package of that name")
    }

    /// Removes the family's images and the builder's cache, so that the next build is cold.
    pub(crate) fn forget_images(&self) -> Result<()> {
        for filter in [
            format!("reference=localhost/{}/*", self.name),
            format!("reference=localhost/{}-plain/*", self.name),
        ] {
            let ids = Command::new(plain_docker()).args(["images", "-q", "--filter", &filter]).output()?;
            let ids = String::from_utf8_lossy(&ids.stdout).into_owned();
            let ids: std::collections::BTreeSet<&str> = ids.lines().collect();
            for chunk in ids.into_iter().collect::<Vec<_>>().chunks(100) {
                Command::new(plain_docker())
                    .args(["rmi", "-f"])
                    .args(chunk)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status()?;
            }
        }
        Command::new(plain_docker()).args(["builder", "prune", "-af"]).stdout(Stdio::null()).status()?;
        Ok(())
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        let _ = self.forget_images();
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// A newer `docker` in front of Debian's may lack BuildKit; Debian's has it inside.
pub(crate) fn plain_docker() -> &'static Path {
    let debian = Path::new("/usr/bin/docker");
    if debian.exists() { debian } else { Path::new("docker") }
}
