//! `cargo xtask bench faults-build`: the command itself, `imgforge build --push`, run again and again on a small
//! family that changes, through the proxy of `bench faults-push`, and killed at random.
//!
//! After every process each release tag must lead to a whole image that the family has once described, and no child's
//! tag may be ahead of its parent's; after one that ended well, to what it describes now.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use imgforge_oci::TagOrDigest;
use imgforge_registry::Registry;
use imgforge_testkit::fault_proxy::FaultProxy;
use imgforge_testkit::registry::{Registry as RealRegistry, Setup};
use imgforge_testkit::workspace::TestWorkspace;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::soak::{self, FAMILY, FINGERPRINT, Faults, Found, Looks, RATE, SEED, TAG};

/// How often one state of the family is tried before it changes again.
const TRIES: usize = 10;

/// Starts at least so many processes, and prints what happened.
pub(crate) fn run(processes: usize) -> Result<()> {
    let server = RealRegistry::start(Setup::default())?;
    let proxy = soak::failing(server.host())?;
    let workspace = TestWorkspace::at(&proxy.host());
    for (number, name) in FAMILY.iter().enumerate() {
        let from = if number == 0 { "scratch" } else { FAMILY[number - 1] };
        workspace.image(name, &format!("    from \"{from}\"\n    copy \"file\" \"/{name}\""));
    }
    let mut soak = Soak {
        binary: crate::bench::binary()?,
        runtime: Runtime::new()?,
        direct: soak::observer(server.host())?,
        proxy,
        workspace,
        chance: StdRng::seed_from_u64(SEED),
        usual: Duration::from_secs(3),
        known: BTreeMap::new(),
        looks: Looks::default(),
        faults: Faults::default(),
        count: Count::default(),
    };
    let start = Instant::now();
    while soak.count.processes < processes {
        soak.generation()?;
    }
    soak.proxy.heal();
    ensure!(soak.process(None)?, "a build and push without faults fails");
    soak.check(true)?;
    let left = std::fs::read_dir(soak.workspace.root().join(".imgforge/push")).map_or(0, Iterator::count);
    soak.print(start.elapsed(), left);
    let wrong = soak.looks.wrong;
    ensure!(wrong == 0 && left == 0, "{wrong} tags were wrong, {left} files were left");
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
    looks: Looks,
    faults: Faults,
    count: Count,
}

impl Soak {
    /// One more state of the family, until it is pushed, or given up half done.
    fn generation(&mut self) -> Result<()> {
        self.change()?;
        for number in 0..TRIES {
            let after = soak::kill_after(&mut self.chance, self.usual);
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
        let Some(status) = soak::end(&mut child, after)? else {
            self.count.kills += 1;
            return Ok(false);
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
        let seen = self.proxy.take_seen();
        self.count.requests += seen.len();
        self.faults.count(&seen);
        let (runtime, direct, known) = (&self.runtime, &self.direct, &self.known);
        let workspace = self.workspace.name();
        self.looks.all(is_done.then_some(self.count.generations), |_, name| {
            let place = format!("{workspace}/{name}");
            let Some(manifest) = runtime.block_on(direct.manifest(&place, &TagOrDigest::tag(TAG)?))? else {
                return Ok(None);
            };
            let said = manifest.annotations().get(FINGERPRINT).cloned().unwrap_or_default();
            Ok(Some(Found {
                generation: known.get(&(name.to_owned(), said.clone())).copied(),
                what: said,
                verified: runtime.block_on(direct.verify(&place, manifest.digest())),
            }))
        })
    }

    fn print(&self, took: Duration, left: usize) {
        let Count { generations, processes, ended_well, kills, failed, requests } = self.count;
        let title = format!(
            "faults-build: `imgforge build --push` through a proxy that fails {RATE} of the requests"
        );
        let rows = [
            ("states of the family", generations.to_string()),
            ("processes", processes.to_string()),
            ("of them killed with SIGKILL", kills.to_string()),
            ("of them ended with an error", failed.to_string()),
            ("of them ended well", ended_well.to_string()),
            ("requests", requests.to_string()),
            ("faults", self.faults.to_string()),
            ("tags looked at", self.looks.looked_at.to_string()),
            ("wrong tags", self.looks.wrong.to_string()),
            ("files left in the end", left.to_string()),
            ("seconds", format!("{:.1}", took.as_secs_f64())),
        ];
        soak::print(&title, &rows);
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
}
