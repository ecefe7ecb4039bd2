//! `cargo xtask bench faults-push`: pushes of a small family and moves of its tags into a real registry, through a
//! proxy that fails at random, by processes that are killed at random.
//!
//! Whatever happens, every tag must point to a whole image of its repository, and no child's tag may be ahead of its
//! parent's: that is looked at after every process, behind the proxy's back.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use imgforge_oci::{Descriptor, Digest, MediaType, TagOrDigest};
use imgforge_registry::{ProgressSink, PushImage, PushLayer, Registry};
use imgforge_testkit::fault_proxy::FaultProxy;
use imgforge_testkit::registry::{Registry as RealRegistry, Setup};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::runtime::Runtime;

use crate::soak::{self, FAMILY, Faults, Found, Looks, RATE, SEED, TAG};

/// How often a generation is begun again before the next one takes over.
const RUNS: usize = 20;
/// Pushes at least so many images, and prints what happened.
pub(crate) fn run(pushes: usize) -> Result<()> {
    let server = RealRegistry::start(Setup::default())?;
    let proxy = soak::failing(server.host())?;
    let folder = tempfile::tempdir()?;
    let folder = Utf8Path::from_path(folder.path()).context("a temporary folder in UTF-8")?;
    let mut soak = Soak {
        runtime: Runtime::new()?,
        direct: soak::observer(server.host())?,
        proxy,
        chance: StdRng::seed_from_u64(SEED),
        usual: Duration::from_secs(1),
        known: BTreeMap::new(),
        looks: Looks::default(),
        faults: Faults::default(),
        count: Count::default(),
    };
    let start = Instant::now();
    while soak.count.pushed < pushes {
        soak.generation(folder)?;
    }
    soak.last(folder)?;
    soak.print(start.elapsed());
    ensure!(soak.looks.wrong == 0, "{} tags were wrong", soak.looks.wrong);
    Ok(())
}

/// What is pushed by a process of its own: the images of one generation, and then their tags, parents first.
pub(crate) fn push_generation(host: &str, folder: &Utf8Path) -> Result<()> {
    let registry = soak::client(host)?;
    let images = images(folder)?;
    let result = Runtime::new()?.block_on(async {
        let pushes = FAMILY.iter().zip(&images).map(|(name, image)| {
            let registry = registry.clone();
            let image = image.clone();
            tokio::spawn(async move { registry.push_image(name, &image, ProgressSink::silent()).await })
        });
        let mut manifests = Vec::new();
        // All at once, as two machines of a CI do that know nothing of each other.
        for push in pushes.collect::<Vec<_>>() {
            manifests.push(push.await??);
        }
        for (name, pushed) in FAMILY.iter().zip(&manifests) {
            registry.verify(name, &pushed.digest).await?;
        }
        for (name, pushed) in FAMILY.iter().zip(&manifests) {
            registry.put_manifest(name, &TagOrDigest::tag(TAG)?, &pushed.manifest).await?;
        }
        anyhow::Ok(())
    });
    // What the process that started this one counts.
    println!("{} {}", registry.sent().requests, registry.sent().failures);
    result
}

/// The images of a generation: each has its parent's layers, and one of its own.
fn images(folder: &Utf8Path) -> Result<Vec<PushImage>> {
    let mut layers: Vec<PushLayer> = Vec::new();
    let mut images = Vec::new();
    for (number, name) in FAMILY.iter().enumerate() {
        let file: Utf8PathBuf = folder.join(name);
        let bytes = std::fs::read(&file)?;
        let descriptor =
            Descriptor::new(MediaType::ImageLayerGzip, Digest::sha256(&bytes), bytes.len() as u64);
        layers.push(PushLayer { descriptor, file: Some(file), mount_from: Vec::new() });
        for layer in &mut layers[..number] {
            layer.mount_from = vec![FAMILY[number - 1].to_owned()];
        }
        let config = format!("{{\"architecture\":\"amd64\",\"os\":\"linux\",\"x\":\"{name}\"}}").into_bytes();
        images.push(PushImage { config, layers: layers.clone(), annotations: BTreeMap::new() });
    }
    Ok(images)
}

struct Soak {
    runtime: Runtime,
    /// Past the proxy.
    direct: Registry,
    proxy: FaultProxy,
    chance: StdRng,
    /// How long a process took that was not killed.
    usual: Duration,
    /// Which generation's image of which repository a digest is.
    known: BTreeMap<Digest, (usize, usize)>,
    looks: Looks,
    faults: Faults,
    count: Count,
}

impl Soak {
    /// Pushes one generation, by as many processes as it takes, or gives it up half done.
    fn generation(&mut self, folder: &Utf8Path) -> Result<()> {
        self.count.generations += 1;
        self.make(folder)?;
        for run in 0..RUNS {
            let is_doubled = self.chance.gen_bool(0.1);
            let mut child = start(&self.proxy.host(), folder)?;
            let second = is_doubled.then(|| start(&self.proxy.host(), folder)).transpose()?;
            let after = soak::kill_after(&mut self.chance, self.usual);
            let mut is_done = self.end(&mut child, after)?;
            if let Some(mut second) = second {
                is_done |= self.end(&mut second, None)?;
            }
            self.check(is_done.then_some(self.count.generations))?;
            // Now and then somebody pushes the next commit before this one is through.
            if is_done || (run > 0 && self.chance.gen_bool(0.2)) {
                return Ok(());
            }
        }
        bail!(
            "a generation was not pushed by {RUNS} processes: this is no longer a registry that fails now and then"
        )
    }

    /// Without faults: what was left half done ends well.
    fn last(&mut self, folder: &Utf8Path) -> Result<()> {
        self.proxy.heal();
        let mut child = start(&self.proxy.host(), folder)?;
        ensure!(self.end(&mut child, None)?, "a push without faults fails");
        self.check(Some(self.count.generations))
    }

    /// New layers for the upper images; the lower ones keep theirs now and then.
    fn make(&mut self, folder: &Utf8Path) -> Result<()> {
        let first = if self.count.generations == 1 { 0 } else { self.chance.gen_range(0..FAMILY.len()) };
        for name in &FAMILY[first..] {
            let mut bytes = vec![0; self.chance.gen_range(1..600_000)];
            self.chance.fill_bytes(&mut bytes);
            std::fs::write(folder.join(name), bytes)?;
        }
        for (number, image) in images(folder)?.iter().enumerate() {
            // One that did not change is as new as its generation.
            self.known.insert(image.manifest().digest().clone(), (number, self.count.generations));
        }
        Ok(())
    }

    /// Waits for a process, or kills it after some time. Whether it has ended well.
    fn end(&mut self, child: &mut Child, after: Option<Duration>) -> Result<bool> {
        let start = Instant::now();
        self.count.processes += 1;
        let Some(status) = soak::end(child, after)? else {
            self.count.kills += 1;
            return Ok(false);
        };
        let mut said = String::new();
        child.stdout.take().context("a pipe")?.read_to_string(&mut said)?;
        let (requests, retries) = said.trim().split_once(' ').context("two numbers")?;
        self.count.requests += requests.parse::<u64>()?;
        self.count.retries += retries.parse::<u64>()?;
        if status.success() {
            self.usual = start.elapsed();
            self.count.pushed += FAMILY.len();
        } else {
            self.count.failed += 1;
        }
        Ok(status.success())
    }

    /// Looks at every tag; at the end of a generation they must be that generation's.
    fn check(&mut self, finished: Option<usize>) -> Result<()> {
        self.faults.count(&self.proxy.take_seen());
        let (runtime, direct, known) = (&self.runtime, &self.direct, &self.known);
        self.looks.all(finished, |number, name| {
            let Some(digest) = runtime.block_on(direct.digest(name, &TagOrDigest::tag(TAG)?))? else {
                return Ok(None);
            };
            let known = known.get(&digest).filter(|(image, _)| *image == number);
            Ok(Some(Found {
                what: digest.to_string(),
                generation: known.map(|(_, generation)| *generation),
                verified: runtime.block_on(direct.verify(name, &digest)),
            }))
        })
    }

    fn print(&self, took: Duration) {
        let Count { generations, processes, pushed, kills, failed, requests, retries } = self.count;
        let title =
            format!("faults: pushes into docker-registry through a proxy that fails {RATE} of the requests");
        let rows = [
            ("images pushed, their tags moved", pushed.to_string()),
            ("generations of the family", generations.to_string()),
            ("processes", processes.to_string()),
            ("of them killed with SIGKILL", kills.to_string()),
            ("of them ended with an error", failed.to_string()),
            ("requests of those not killed", requests.to_string()),
            ("of them failed, and were tried again", retries.to_string()),
            ("faults", self.faults.to_string()),
            ("tags looked at", self.looks.looked_at.to_string()),
            ("wrong tags", self.looks.wrong.to_string()),
            ("seconds", format!("{:.1}", took.as_secs_f64())),
        ];
        soak::print(&title, &rows);
    }
}

fn start(host: &str, folder: &Utf8Path) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["push-generation", host, folder.as_str()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().context("cannot start another process of this program")
}

#[derive(Default)]
struct Count {
    generations: usize,
    processes: usize,
    pushed: usize,
    kills: usize,
    failed: usize,
    requests: u64,
    retries: u64,
}
