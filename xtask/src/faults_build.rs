//! `cargo xtask bench faults-build`: the command itself, `imgforge build --push`, run again and again on a small family that
//! changes, through the proxy of `bench faults`, and killed at random.
//!
//! After every process each release tag must lead to a whole image that the family has once described, and no child's tag may
//! be ahead of its parent's; after one that ended well, to what it describes now.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use imgforge_registry::{Reference, Registry};
use imgforge_testkit::fault_proxy::FaultProxy;
use imgforge_testkit::registry::{Registry as RealRegistry, Setup};
use imgforge_testkit::workspace::TestWorkspace;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::faults::{self, FAMILY, KILLED, RATE, SEED, TAG};

/// How often one state of the family is tried before it changes again.
const TRIES: usize = 10;
/// The annotation that has an image's whole fingerprint.
const FINGERPRINT: &str = "imgforge.fingerprint";

/// Starts at least so many processes, and prints what happened.
pub(crate) fn run(processes: usize) -> Result<()> {
    let server = RealRegistry::start(Setup::default())?;
    let proxy = FaultProxy::start(server.host())?;
    let workspace = TestWorkspace::at(&proxy.host());
    for (number, name) in FAMILY.iter().enumerate() {
        let from = if number == 0 { "scratch" } else { FAMILY[number - 1] };
        workspace.image(name, &format!("    from \"{from}\"\n    copy \"file\" \"/{name}\""));
    }
    let mut soak = Soak {
        binary: crate::bench::binary()?,
        runtime: Runtime::new()?,
        direct: faults::client(server.host())?,
        proxy,
        workspace,
        chance: StdRng::seed_from_u64(SEED),
        usual: Duration::from_secs(3),
        known: BTreeMap::new(),
        count: Count::default(),
    };
    soak.proxy.fail_at_random(SEED, RATE, faults::faults());
    let start = Instant::now();
    while soak.count.processes < processes {
        soak.generation()?;
    }
    soak.proxy.heal();
    ensure!(soak.process(None)?, "a build and push without faults fails");
    soak.check(true)?;
    let left = std::fs::read_dir(soak.workspace.root().join(".imgforge/push")).map_or(0, Iterator::count);
    soak.count.print(start.elapsed(), left);
    ensure!(
        soak.count.wrong == 0 && left == 0,
        "{} tags were wrong, {left} files were left",
        soak.count.wrong
    );
    Ok(())
}

struct Soak {
    binary: PathBuf,
    runtime: Runtime,
    /// Past the proxy.
    direct: Registry,
    proxy: FaultProxy,
    workspace: TestWorkspace,
    chance: StdRng,
    /// How long a process took that was not killed.
    usual: Duration,
    /// By image and fingerprint: the last generation that described it.
    known: BTreeMap<(String, String), usize>,
    count: Count,
}

impl Soak {
    /// One more state of the family, until it is pushed, or given up half done.
    fn generation(&mut self) -> Result<()> {
        self.change()?;
        for number in 0..TRIES {
            let kill = self.chance.gen_bool(KILLED);
            let after = kill.then(|| self.usual.mul_f64(self.chance.gen_range(0.0..1.2)));
            let is_done = self.process(after)?;
            self.check(is_done)?;
            if is_done || (number > 0 && self.chance.gen_bool(0.2)) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A new file for one image, which makes it and all that stand on it other ones.
    fn change(&mut self) -> Result<()> {
        self.count.generations += 1;
        let first = self.count.generations == 1;
        let changed = if first { &FAMILY[..] } else { &[FAMILY[self.chance.gen_range(0..FAMILY.len())]] };
        for name in changed {
            let mut bytes = vec![0; self.chance.gen_range(1..600_000)];
            self.chance.fill_bytes(&mut bytes);
            std::fs::write(self.workspace.root().join(name).join("file"), bytes)?;
        }
        let mut plan = self.workspace.command(path(&self.binary)?, &["plan", "--local", "--format", "json"]);
        let planned = plan.output()?;
        ensure!(planned.status.success(), "plan: {}", String::from_utf8_lossy(&planned.stderr));
        let plan: Value = serde_json::from_slice(&planned.stdout)?;
        for row in plan["targets"].as_array().context("targets")? {
            let text = |key: &str| row[key].as_str().map(str::to_owned).context("a text");
            self.known.insert((text("name")?, text("fingerprint")?), self.count.generations);
        }
        Ok(())
    }

    /// Runs the command, and kills it after some time. Whether it has ended well.
    fn process(&mut self, after: Option<Duration>) -> Result<bool> {
        self.count.processes += 1;
        let mut command = self.workspace.command(path(&self.binary)?, &["build", "--push", "-q"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if after.is_some_and(|after| start.elapsed() >= after) {
                child.kill()?;
                child.wait()?;
                self.count.kills += 1;
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        if status.success() {
            self.usual = start.elapsed();
            self.count.ended_well += 1;
        } else {
            self.count.failed += 1;
        }
        Ok(status.success())
    }

    /// Looks at every tag, past the proxy.
    fn check(&mut self, is_done: bool) -> Result<()> {
        for seen in self.proxy.take_seen() {
            self.count.requests += 1;
            if let Some(fault) = seen.fault {
                *self.count.faults.entry(fault).or_default() += 1;
            }
        }
        let mut parent = usize::MAX;
        for name in FAMILY {
            let place = format!("{}/{name}", self.workspace.name());
            let found = self.runtime.block_on(self.direct.manifest(&place, &Reference::tag(TAG)?))?;
            let Some(manifest) = found else {
                self.count.wrong += usize::from(is_done);
                parent = 0;
                continue;
            };
            self.count.looked_at += 1;
            let verified = self.runtime.block_on(self.direct.verify(&place, manifest.digest()));
            let said = manifest.annotations().get(FINGERPRINT).cloned().unwrap_or_default();
            let generation = self.known.get(&(name.to_owned(), said.clone())).copied();
            let is_right = verified.is_ok()
                && generation.is_some_and(|generation| generation <= parent)
                && (!is_done || generation == Some(self.count.generations));
            if !is_right {
                eprintln!(
                    "WRONG: {name}:{TAG} is {said} of {generation:?}, its parent's is {parent}: {verified:?}"
                );
                self.count.wrong += 1;
            }
            parent = generation.unwrap_or(0);
        }
        Ok(())
    }
}

fn path(binary: &std::path::Path) -> Result<&str> {
    binary.to_str().context("a path in UTF-8")
}

#[derive(Default)]
struct Count {
    generations: usize,
    processes: usize,
    ended_well: usize,
    kills: usize,
    failed: usize,
    requests: usize,
    looked_at: usize,
    wrong: usize,
    faults: BTreeMap<String, usize>,
}

impl Count {
    fn print(&self, took: Duration, left: usize) {
        let faults: Vec<String> =
            self.faults.iter().map(|(kind, number)| format!("{kind} {number}")).collect();
        println!("faults-build: `imgforge build --push` through a proxy that fails {RATE} of the requests");
        let rows = [
            ("states of the family", self.generations.to_string()),
            ("processes", self.processes.to_string()),
            ("of them killed with SIGKILL", self.kills.to_string()),
            ("of them ended with an error", self.failed.to_string()),
            ("of them ended well", self.ended_well.to_string()),
            ("requests", self.requests.to_string()),
            ("faults", format!("{} ({})", self.faults.values().sum::<usize>(), faults.join(", "))),
            ("tags looked at", self.looked_at.to_string()),
            ("wrong tags", self.wrong.to_string()),
            ("files left in the end", left.to_string()),
            ("seconds", format!("{:.1}", took.as_secs_f64())),
        ];
        for (name, value) in rows {
            println!("  {name:38}{value}");
        }
    }
}
