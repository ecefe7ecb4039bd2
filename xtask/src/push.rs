//! `cargo xtask bench push`: what `imgforge build --push` sends and how long it takes, beside `docker build` and
//! `docker push` in a loop, into registries of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use imgforge_testkit::docker::Docker;
use imgforge_testkit::fault_proxy::FaultProxy;
use imgforge_testkit::registry::{Registry, Setup};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// Bytes of the file in the root, in each image on it, and in each leaf; they cannot be compressed.
const SIZES: [usize; 3] = [20 << 20, 1 << 20, 100 << 10];
const MIDDLE: usize = 4;
const LEAVES: usize = 3;

/// An image, its parent, and the size of its file.
type Image = (String, Option<String>, usize);

/// One way to push, with a registry of its own behind a proxy that counts.
struct Side {
    name: String,
    root: PathBuf,
    proxy: FaultProxy,
    _registry: Registry,
}

/// What one run sent.
struct Cost {
    seconds: f64,
    bytes: u64,
    requests: usize,
}

/// Prints a table.
pub(crate) fn run() -> Result<()> {
    let binary = crate::bench::binary()?;
    let ours = Side::new("imgforge")?;
    let loops = Side::new("loop")?;
    let images = images();
    println!("\nbuilding and pushing {} images (root {} MB)", images.len(), SIZES[0] >> 20);
    println!("{:18}{:>34}{:>40}", "", "imgforge build --push", "docker build && docker push, loop");
    let all: Vec<String> = images.iter().map(|(name, ..)| name.clone()).collect();
    let leaf = all.last().context("there are images")?.clone();
    let cases: [(&str, Vec<String>); 4] = [
        ("first", all.clone()),
        ("nothing changed", Vec::new()),
        ("a leaf changed", vec![leaf]),
        ("the root changed", vec![all[0].clone()]),
    ];
    for (number, (case, touched)) in cases.into_iter().enumerate() {
        for side in [&ours, &loops] {
            for name in &touched {
                side.touch(&images, name, number as u64)?;
            }
        }
        let cell = |cost: Cost| {
            format!("{:.2} s, {:.2} MB, {} requests", cost.seconds, cost.bytes as f64 / 1e6, cost.requests)
        };
        let own = ours.measure(|| ours.imgforge(&binary))?;
        let other = loops.measure(|| loops.docker(&images))?;
        println!("{case:18}{:>34}{:>40}", cell(own), cell(other));
    }
    for side in [ours, loops] {
        side.clean();
    }
    Ok(())
}

fn images() -> Vec<Image> {
    let mut images = vec![("root".to_owned(), None, SIZES[0])];
    for middle in 0..MIDDLE {
        let name = format!("mid{middle}");
        images.push((name.clone(), Some("root".into()), SIZES[1]));
        for leaf in 0..LEAVES {
            images.push((format!("{name}-leaf{leaf}"), Some(name.clone()), SIZES[2]));
        }
    }
    images
}

impl Side {
    fn new(what: &str) -> Result<Self> {
        let registry = Registry::start(Setup::default())?;
        let proxy = FaultProxy::start(registry.host())?;
        let name = format!("imgforge-bench-{}-{what}", std::process::id());
        let root = std::env::temp_dir().join(&name);
        let side = Self { name, root, proxy, _registry: registry };
        for (image, parent, _) in images() {
            let folder = side.root.join(&image);
            fs::create_dir_all(&folder)?;
            let from = parent.as_deref().unwrap_or("scratch");
            let text = format!(
                "image \"{image}\" {{\n    from \"{from}\"\n    copy \"file\" \"/{image}\"\n    label \"image\" \"{image}\"\n}}\n"
            );
            fs::write(folder.join("image.kdl"), text)?;
            let from = parent.map_or("scratch".to_owned(), |parent| side.reference(&parent));
            let text = format!("FROM {from}\nLABEL image={image}\nCOPY file /{image}\n");
            fs::write(folder.join("Dockerfile"), text)?;
        }
        let text =
            format!("workspace \"{0}\" {{\n    registry \"{1}/{0}\"\n}}\n", side.name, side.proxy.host());
        fs::write(side.root.join("imgforge.kdl"), text)?;
        Ok(side)
    }

    fn reference(&self, image: &str) -> String {
        format!("{}/{}/{image}:latest", self.proxy.host(), self.name)
    }

    /// Gives an image's file new content. Both sides get files of their own, so that neither finds the other's steps in
    /// the daemon's cache.
    fn touch(&self, images: &[Image], name: &str, seed: u64) -> Result<()> {
        let size = images.iter().find(|(image, ..)| image == name).map_or(0, |(_, _, size)| *size);
        let mut bytes = vec![0; size];
        let salt: u64 = self.name.bytes().chain(name.bytes()).fold(seed, |sum, b| sum * 31 + u64::from(b));
        StdRng::seed_from_u64(salt).fill_bytes(&mut bytes);
        Ok(fs::write(self.root.join(name).join("file"), bytes)?)
    }

    fn measure(&self, work: impl FnOnce() -> Result<()>) -> Result<Cost> {
        self.proxy.take_seen();
        let started = Instant::now();
        work()?;
        let seconds = started.elapsed().as_secs_f64();
        let seen = self.proxy.take_seen();
        Ok(Cost { seconds, bytes: seen.iter().map(|seen| seen.up).sum(), requests: seen.len() })
    }

    fn imgforge(&self, binary: &Path) -> Result<()> {
        let status = Command::new(binary).args(["build", "--push", "-q"]).current_dir(&self.root).status()?;
        ensure!(status.success(), "imgforge build --push failed");
        Ok(())
    }

    fn docker(&self, images: &[Image]) -> Result<()> {
        let docker = |args: &[&str]| -> Result<()> {
            let mut command = Command::new(crate::family::plain_docker());
            command.args(args).env("DOCKER_BUILDKIT", "1").stdout(Stdio::null()).stderr(Stdio::null());
            ensure!(command.status()?.success(), "docker {args:?} failed");
            Ok(())
        };
        for (image, ..) in images {
            let (reference, folder) = (self.reference(image), self.root.join(image));
            docker(&["build", "-q", "-t", &reference, &folder.display().to_string()])?;
            docker(&["push", "-q", &reference])?;
        }
        Ok(())
    }

    fn clean(&self) {
        Docker::remove_images_labelled(&format!("imgforge.workspace={}", self.name));
        for (image, ..) in images() {
            // Only this run has made it.
            let _ = Docker::succeeds(&["rmi", "-f", &self.reference(&image)]);
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}
