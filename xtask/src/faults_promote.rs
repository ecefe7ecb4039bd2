//! The second part of `cargo xtask bench faults`: two promotions of different commits at once, again and again, by
//! processes of their own through proxies that delay what they ask for, some of which are killed.
//!
//! Of two that are left alone, one must have all tags and end well, and the other must have ended well before that,
//! or say that it has lost. After one that was killed, the next promotion must bring all tags to where it wants them.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use imgforge_registry::Registry;
use imgforge_testkit::fault_proxy::{Fault, FaultProxy};
use imgforge_testkit::registry::{Registry as RealRegistry, Setup};
use imgforge_testkit::workspace::{Ran, TestWorkspace};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Runtime;

use crate::soak::{self, SEED};

/// How many of the tries have a process that is killed.
const KILLED: f64 = 0.2;
/// Requests that wait, in milliseconds.
const DELAYS: [u64; 4] = [1, 5, 20, 60];
/// How many of the requests do.
const DELAYED: f64 = 0.3;
/// What is said by the one that has lost.
const LOST: &str = "another promotion ran at the same time and won";

/// Tries it so many times, and prints what happened.
pub(crate) fn run(tries: usize) -> Result<()> {
    let server = RealRegistry::start(Setup::default())?;
    let delays: Vec<Fault> =
        DELAYS.iter().map(|millis| Fault::Delay(Duration::from_millis(*millis))).collect();
    let mut proxies = Vec::new();
    for seed in [SEED, SEED + 1] {
        let proxy = FaultProxy::start(server.host())?;
        proxy.fail_at_random(seed, DELAYED, delays.clone());
        proxies.push(proxy);
    }
    let name = imgforge_testkit::unique("imgforge-bench");
    let mut soak = Soak {
        binary: crate::bench::binary()?,
        runtime: Runtime::new()?,
        direct: soak::observer(server.host())?,
        before: soak::checkout(server.host(), &name, "before"),
        commits: [
            soak::checkout(&proxies[0].host(), &name, "one"),
            soak::checkout(&proxies[1].host(), &name, "two"),
        ],
        name,
        chance: StdRng::seed_from_u64(SEED),
        usual: Duration::from_secs(1),
        count: Count::default(),
    };
    let start = Instant::now();
    soak.all(tries)?;
    soak.print(start.elapsed());
    ensure!(soak.count.wrong == 0, "{} tries left tags as they must not be", soak.count.wrong);
    Ok(())
}

struct Soak {
    binary: PathBuf,
    runtime: Runtime,
    /// Past the proxies.
    direct: Registry,
    name: String,
    /// What tags lead to before each try, so that both have something to move.
    before: TestWorkspace,
    commits: [TestWorkspace; 2],
    chance: StdRng,
    usual: Duration,
    count: Count,
}

#[derive(Default)]
struct Count {
    tries: usize,
    overtaken: usize,
    one_after_another: usize,
    kills: usize,
    wrong: usize,
}

impl Soak {
    fn all(&mut self, tries: usize) -> Result<()> {
        for workspace in [&self.before, &self.commits[0], &self.commits[1]] {
            self.undisturbed(workspace, &["build", "--push"])?;
        }
        let before = soak::fingerprints(&self.binary, &self.before)?;
        let mut wanted = Vec::new();
        for commit in &self.commits {
            wanted.push(soak::fingerprints(&self.binary, commit)?);
        }
        for _ in 0..tries {
            self.count.tries += 1;
            self.undisturbed(&self.before, &["promote"])?;
            ensure!(self.released()? == before, "a promotion that nobody disturbs does not move all tags");
            if self.chance.gen_bool(KILLED) { self.killed(&wanted)? } else { self.left_alone(&wanted)? }
        }
        Ok(())
    }

    fn left_alone(&mut self, wanted: &[Vec<String>]) -> Result<()> {
        let start = Instant::now();
        let jobs = [self.start(0)?, self.start(1)?];
        let mut ended = Vec::new();
        for job in jobs {
            ended.push(Ran::of(job.wait_with_output()?));
        }
        self.usual = start.elapsed();
        let now = self.released()?;
        let winner = wanted.iter().position(|wanted| *wanted == now);
        let is_right = winner.is_some_and(|winner| {
            let (won, other) = (&ended[winner], &ended[1 - winner]);
            self.count.overtaken += usize::from(other.code == 1);
            self.count.one_after_another += usize::from(other.code == 0);
            won.code == 0 && (other.code == 0 || other.code == 1 && other.stderr.contains(LOST))
        });
        if !is_right {
            eprintln!("WRONG: try {}: {winner:?} of {ended:#?}: {now:?}", self.count.tries);
            self.count.wrong += 1;
        }
        Ok(())
    }

    /// One of the two is killed at some moment; then somebody promotes without being disturbed.
    fn killed(&mut self, wanted: &[Vec<String>]) -> Result<()> {
        let mut jobs = [self.start(0)?, self.start(1)?];
        let victim = self.chance.gen_range(0..2);
        let after = self.usual.mul_f64(self.chance.gen_range(0.0..1.0));
        if soak::end(&mut jobs[victim], Some(after))?.is_none() {
            self.count.kills += 1;
        }
        soak::end(&mut jobs[1 - victim], None)?;
        let next = self.chance.gen_range(0..2);
        self.undisturbed(&self.commits[next], &["promote"])?;
        let now = self.released()?;
        if now != wanted[next] {
            eprintln!("WRONG: try {}: after a kill and a promotion: {now:?}", self.count.tries);
            self.count.wrong += 1;
        }
        Ok(())
    }

    fn start(&self, commit: usize) -> Result<Child> {
        let mut command = soak::command(&self.binary, &self.commits[commit], &["promote"])?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().context("the command cannot be started")
    }

    fn undisturbed(&self, workspace: &TestWorkspace, args: &[&str]) -> Result<()> {
        soak::undisturbed(&self.binary, workspace, args)
    }

    /// The fingerprint that the tag of each image leads to.
    fn released(&self) -> Result<Vec<String>> {
        soak::released(&self.runtime, &self.direct, &self.name)
    }

    fn print(&self, took: Duration) {
        let Count { tries, overtaken, one_after_another, kills, wrong } = self.count;
        let title =
            "two promotions of different commits at once, by two processes through proxies that delay";
        let rows = [
            ("tries", tries.to_string()),
            ("one has won, the other has said so", overtaken.to_string()),
            ("one after the other", one_after_another.to_string()),
            ("with a process killed by SIGKILL", kills.to_string()),
            ("tags as they must not be", wrong.to_string()),
            ("seconds", format!("{:.1}", took.as_secs_f64())),
        ];
        soak::print(title, &rows);
    }
}
