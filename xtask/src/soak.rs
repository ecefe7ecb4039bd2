//! What the parts of `bench faults` share: the family, the registry that fails, the processes that are killed, and
//! the look at every tag.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use imgforge_oci::{Manifest, TagOrDigest};
use imgforge_registry::{Credentials, Error, Options, Registry, Retry};
use imgforge_testkit::fault_proxy::{Fault, FaultProxy, Seen};
use imgforge_testkit::workspace::{Ran, TestWorkspace};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::runtime::Runtime;

/// The family: each image stands on the one before.
pub(crate) const FAMILY: [&str; 4] = ["os-base", "webapp-base", "ruby-webapp", "guestbook"];
/// The tag that moves.
pub(crate) const TAG: &str = "latest";
/// How many of the requests meet a fault.
pub(crate) const RATE: f64 = 0.06;
/// How many of the processes are to be killed, if they do not end before.
const KILLED: f64 = 0.4;
/// The same faults at the same seed, as far as the order of requests is the same.
pub(crate) const SEED: u64 = 1;

/// The annotation that has an image's whole fingerprint.
pub(crate) const FINGERPRINT: &str = "imgforge.fingerprint";

/// The family in a folder of its own, as a checkout of some commit of the workspace `name`: images that run nothing.
pub(crate) fn checkout(host: &str, name: &str, content: &str) -> TestWorkspace {
    let checkout = TestWorkspace::at(host);
    write_family(&checkout, host, name, content);
    checkout
}

/// Writes that family into a folder.
pub(crate) fn write_family(checkout: &TestWorkspace, host: &str, name: &str, content: &str) {
    checkout.write("imgforge.kdl", &format!("workspace \"{name}\" {{\n    registry \"{host}/{name}\"\n}}\n"));
    let mut from = "scratch";
    for image in FAMILY {
        checkout.write(&format!("{image}/file"), content);
        checkout.image(image, &format!("    from \"{from}\"\n    copy \"file\" \"/{image}\""));
        from = image;
    }
}

/// The command in a checkout, with the embedded engine.
pub(crate) fn command(binary: &Path, workspace: &TestWorkspace, args: &[&str]) -> Result<Command> {
    let mut command = workspace.command(binary.to_str().context("a path in UTF-8")?, args);
    command.args(["--engine", "embedded"]).stdin(Stdio::null());
    Ok(command)
}

/// Runs the command where nothing disturbs it: it has to end well.
pub(crate) fn undisturbed(binary: &Path, workspace: &TestWorkspace, args: &[&str]) -> Result<()> {
    let ran = Ran::of(command(binary, workspace, args)?.output()?);
    ensure!(ran.code == 0, "{args:?} without any trouble ends with {}: {}", ran.code, ran.stderr);
    Ok(())
}

/// The fingerprint that the tag of each image of the workspace `name` leads to.
pub(crate) fn released(runtime: &Runtime, registry: &Registry, name: &str) -> Result<Vec<String>> {
    let tag = TagOrDigest::tag(TAG)?;
    let of = |image: &&str| {
        let manifest = runtime.block_on(registry.manifest(&format!("{name}/{image}"), &tag))?;
        let said = manifest.as_ref().and_then(|manifest| manifest.annotations().get(FINGERPRINT));
        Ok(said.cloned().unwrap_or_default())
    };
    FAMILY.iter().map(of).collect()
}

/// The plan of a checkout, which must be readable at any moment.
pub(crate) fn plan(binary: &Path, workspace: &TestWorkspace) -> Result<Value> {
    let ran = Ran::of(command(binary, workspace, &["plan", "--local", "--format", "json"])?.output()?);
    ensure!(ran.code == 0, "plan ends with {}: {}", ran.code, ran.stderr);
    Ok(serde_json::from_str(&ran.stdout)?)
}

/// The fingerprint of each image of the family, as a checkout describes it.
pub(crate) fn fingerprints(binary: &Path, workspace: &TestWorkspace) -> Result<Vec<String>> {
    let plan = plan(binary, workspace)?;
    let rows = plan["targets"].as_array().context("targets")?;
    let of = |image: &&str| {
        let row = rows.iter().find(|row| row["name"] == **image).context("the image is planned")?;
        Ok(row["fingerprint"].as_str().context("a fingerprint")?.to_owned())
    };
    FAMILY.iter().map(of).collect()
}

/// A proxy in front of the registry, which fails as [`RATE`] and [`SEED`] have it.
pub(crate) fn failing(host: &str) -> Result<FaultProxy> {
    let proxy = FaultProxy::start(host)?;
    proxy.fail_at_random(SEED, RATE, faults());
    Ok(proxy)
}

/// What may happen to a request.
pub(crate) fn faults() -> Vec<Fault> {
    let short = Duration::from_millis(900);
    vec![
        Fault::Status(401),
        Fault::Status(403),
        Fault::Status(404),
        Fault::Status(500),
        Fault::Status(502),
        Fault::Status(503),
        Fault::RetryAfter(429, "0".to_owned()),
        Fault::RetryAfter(503, "1".to_owned()),
        Fault::CutUp(0),
        Fault::CutUp(1000),
        Fault::CutUp(100_000),
        Fault::Lost,
        Fault::Lost,
        Fault::CutDown(0),
        Fault::CutDown(100),
        Fault::Stall(short),
        Fault::StallUp(5000, short),
        Fault::StallDown(50, short),
        Fault::Truncate(100),
        Fault::Spoil,
    ]
}

/// Who looks at what is there: as patient as imgforge itself, since nothing stands between it and the registry.
pub(crate) fn observer(host: &str) -> Result<Registry> {
    Ok(Registry::new(Options::new(host, Credentials::anonymous()))?)
}

/// One that is not patient, and cuts what it sends into small chunks.
pub(crate) fn client(host: &str) -> Result<Registry> {
    let retry = Retry {
        tries: 6,
        delay: Duration::from_millis(5),
        max_delay: Duration::from_millis(100),
        max_retry_after: Duration::from_secs(5),
        connect: Duration::from_secs(5),
        idle: Duration::from_millis(600),
    };
    let options = Options { retry, chunk: 100_000, ..Options::new(host, Credentials::anonymous()) };
    Ok(Registry::new(options)?)
}

/// When a process is killed that usually takes so long; `None` when it is not to be.
pub(crate) fn kill_after(chance: &mut StdRng, usual: Duration) -> Option<Duration> {
    chance.gen_bool(KILLED).then(|| usual.mul_f64(chance.gen_range(0.0..1.2)))
}

/// Waits for a process, or kills it after some time: then it has no status.
pub(crate) fn end(child: &mut Child, after: Option<Duration>) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if after.is_some_and(|after| start.elapsed() >= after) {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a tag leads to.
pub(crate) struct Found {
    /// Digest or fingerprint, for a message.
    pub(crate) what: String,
    /// The generation whose image it is; `None` when it is nobody's.
    pub(crate) generation: Option<usize>,
    /// Whether the image is whole.
    pub(crate) verified: Result<Manifest, Error>,
}

/// Looks at tags.
#[derive(Default)]
pub(crate) struct Looks {
    /// How many there were.
    pub(crate) looked_at: usize,
    /// How many of them were not as they must be.
    pub(crate) wrong: usize,
}

impl Looks {
    /// Looks at the tag of every image, parents first: it leads to a whole image of some generation, which is not newer
    /// than its parent's. After a generation that has ended well, it is that one's.
    pub(crate) fn all(
        &mut self,
        finished: Option<usize>,
        mut look: impl FnMut(usize, &str) -> Result<Option<Found>>,
    ) -> Result<()> {
        let mut parent = usize::MAX;
        for (number, name) in FAMILY.iter().enumerate() {
            let Some(Found { what, generation, verified }) = look(number, name)? else {
                self.wrong += usize::from(finished.is_some());
                parent = 0;
                continue;
            };
            self.looked_at += 1;
            let is_right = verified.is_ok()
                && generation.is_some_and(|generation| generation <= parent)
                && (finished.is_none() || generation == finished);
            if !is_right {
                eprintln!(
                    "WRONG: {name}:{TAG} is {what} of {generation:?}, its parent's is {parent}: {verified:?}"
                );
                self.wrong += 1;
            }
            parent = generation.unwrap_or(0);
        }
        Ok(())
    }
}

/// How often each kind of fault was met.
#[derive(Default)]
pub(crate) struct Faults(BTreeMap<String, usize>);

impl Faults {
    pub(crate) fn count(&mut self, seen: &[Seen]) {
        for fault in seen.iter().filter_map(|seen| seen.fault.clone()) {
            *self.0.entry(fault).or_default() += 1;
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<String> = self.0.iter().map(|(kind, number)| format!("{kind} {number}")).collect();
        write!(f, "{} ({})", self.0.values().sum::<usize>(), kinds.join(", "))
    }
}

/// A title, and one figure a line.
pub(crate) fn print(title: &str, rows: &[(&str, String)]) {
    println!("{title}");
    for (name, value) in rows {
        println!("  {name:38}{value}");
    }
}
