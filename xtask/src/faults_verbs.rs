//! The first part of `cargo xtask bench faults`: every verb that changes something, alone and in pairs, while it is
//! killed, while its disk is full, while calls of the system fail, and through a registry that fails.
//!
//! A family lies in two checkouts of one workspace, with a registry. Each round may change a file, starts one command
//! or two at once, and disturbs them. Then everything must be readable, and say the truth: every tag leads to a whole
//! image that was described once, a fingerprint means the same image wherever it was built, an exit code is one that
//! is documented. At the end of each round somebody pushes without being disturbed, and all tags are as that checkout
//! describes them.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use imgforge_oci::{Descriptor, Digest, MediaType, TagOrDigest};
use imgforge_registry::{ProgressSink, PushImage, PushLayer, Registry};
use imgforge_testkit::fault_proxy::FaultProxy;
use imgforge_testkit::registry::{Registry as RealRegistry, Setup};
use imgforge_testkit::workspace::TestWorkspace;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio::runtime::Runtime;

use crate::soak::{self, FAMILY, FINGERPRINT, Faults, RATE, SEED, TAG};

/// What is run, and how often beside the others.
const VERBS: [(&str, &[&str], u32); 9] = [
    ("build", &["build"], 3),
    ("build --push", &["build", "--push"], 4),
    ("push", &["push"], 2),
    ("promote", &["promote"], 2),
    ("rollback", &["rollback"], 2),
    ("update", &["update"], 2),
    ("prune", &["prune", "--yes"], 1),
    ("prune --registry", &["prune", "--registry", "--keep-promotions", "3", "--yes"], 2),
    ("test", &["test"], 2),
];
/// How many of the rounds have two commands at once.
const PAIRS: f64 = 0.35;
/// Calls of the system that fail, once in a process, and how.
const CALLS: [&str; 10] = [
    "write:error=ENOSPC",
    "write:error=EIO",
    "openat:error=EMFILE",
    "openat:error=EIO",
    "rename:error=EIO",
    "renameat2:error=ENOSPC",
    "mkdir:error=ENOSPC",
    "fsync:error=EIO",
    "ftruncate:error=EIO",
    "mount:error=EPERM",
];
/// Of so many such calls one fails.
const AMONG: u32 = 150;
/// A command that takes longer does not end.
const TIME: Duration = Duration::from_secs(300);
/// The exit codes that `imgforge --help` names, and that of a stdout that cannot be written.
const CODES: [i32; 8] = [0, 1, 2, 3, 10, 70, 74, 130];
/// KiB of the disk of a checkout when nobody makes it small.
const ROOMY: u64 = 2 << 20;
/// The image from outside that the family stands on.
const OUTSIDE: &str = "outside/os";

/// Does so many rounds, and prints what happened.
pub(crate) fn run(rounds: usize) -> Result<()> {
    let server = RealRegistry::start(Setup { delete: true, ..Setup::default() })?;
    let proxy = FaultProxy::start(server.host())?;
    let name = imgforge_testkit::unique("imgforge-bench");
    let checkouts = [(); 2].map(|()| TestWorkspace::at(&proxy.host()));
    let disks = [Disk::mount(&checkouts[0])?, Disk::mount(&checkouts[1])?];
    for checkout in &checkouts {
        write_checkout(checkout, &proxy.host(), &name);
    }
    let mut soak = Soak {
        binary: crate::bench::binary()?,
        runtime: Runtime::new()?,
        direct: soak::observer(server.host())?,
        proxy,
        name,
        disks,
        checkouts,
        chance: StdRng::seed_from_u64(SEED),
        ids: BTreeMap::new(),
        faults: Faults::default(),
        count: Count::default(),
    };
    let start = Instant::now();
    soak.move_outside(0)?;
    for number in 0..2 {
        soak.undisturbed(number, &["build", "--push"])?;
    }
    for _ in 0..rounds {
        soak.round()?;
    }
    soak.last()?;
    soak.print(start.elapsed());
    ensure!(soak.count.wrong == 0, "{} things were wrong", soak.count.wrong);
    Ok(())
}

/// The family, whose root stands on an image from outside: each image runs something, and one is tested in a container.
fn write_checkout(checkout: &TestWorkspace, host: &str, name: &str) {
    soak::write_family(checkout, host, name, "0");
    let mut from = format!("{host}/{OUTSIDE}:latest");
    for image in FAMILY {
        let mut text = format!(
            "    from \"{from}\"\n    copy \"file\" \"/{image}\"\n    run \"cat /{image} /{image} > /ran\""
        );
        if image == FAMILY[1] {
            text += &format!(
                "\n    test \"has its file\" {{\n        file \"/{image}\"\n        command \"/bin/cat\" \"/{image}\"\n    }}"
            );
        }
        checkout.image(image, &text);
        image.clone_into(&mut from);
    }
}

/// A disk of its own for a checkout, whose size can be changed while it is used.
struct Disk(camino::Utf8PathBuf);

impl Disk {
    fn mount(checkout: &TestWorkspace) -> Result<Self> {
        let path = checkout.root().to_owned();
        let size = format!("size={ROOMY}k");
        let args = ["-t", "tmpfs", "-o", &size, "imgforge-bench", path.as_str()];
        ensure!(Command::new("mount").args(args).status()?.success(), "full disks need root");
        Ok(Self(path))
    }

    /// Leaves so many KiB free.
    fn shrink(&self, free: u64) -> Result<()> {
        for _ in 0..10 {
            let output = Command::new("df").args(["-k", "--output=used", self.0.as_str()]).output()?;
            let said = String::from_utf8(output.stdout)?;
            let used: u64 = said.lines().last().unwrap_or_default().trim().parse()?;
            // Somebody else may have written meanwhile.
            if self.resize(used + free.max(4))? {
                return Ok(());
            }
        }
        bail!("{} cannot be made small", self.0)
    }

    fn resize(&self, size: u64) -> Result<bool> {
        let options = format!("remount,size={size}k");
        let mut command = Command::new("mount");
        command.args(["-o", &options, self.0.as_str()]).stderr(Stdio::null());
        Ok(command.status()?.success())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", self.0.as_str()]).status();
    }
}

/// What a command is disturbed by.
#[derive(Debug, Clone)]
enum Trouble {
    None,
    /// SIGKILL, after this time.
    Kill(Duration),
    /// The disk of the checkout has so many KiB left.
    FullDisk(u64),
    /// A call of the system fails.
    Call(String),
    /// Requests to the registry fail at random.
    Registry,
}

struct Soak {
    binary: PathBuf,
    runtime: Runtime,
    /// Past the proxy.
    direct: Registry,
    proxy: FaultProxy,
    name: String,
    /// Unmounted before the folders are removed.
    disks: [Disk; 2],
    checkouts: [TestWorkspace; 2],
    chance: StdRng,
    /// By image and fingerprint: the id of the image that it means.
    ids: BTreeMap<(String, String), Option<String>>,
    faults: Faults,
    count: Count,
}

#[derive(Default)]
struct Count {
    rounds: usize,
    pairs: usize,
    verbs: BTreeMap<&'static str, usize>,
    codes: BTreeMap<String, usize>,
    kills: usize,
    full_disks: usize,
    calls: usize,
    tags: usize,
    ids: usize,
    wrong: usize,
}

/// A command on its way.
struct Job {
    verb: &'static str,
    checkout: usize,
    trouble: Trouble,
    child: Child,
}

impl Soak {
    fn round(&mut self) -> Result<()> {
        self.count.rounds += 1;
        self.change()?;
        self.describe()?;
        let is_pair = self.chance.gen_bool(PAIRS);
        self.count.pairs += usize::from(is_pair);
        let mut jobs = Vec::new();
        for _ in 0..=usize::from(is_pair) {
            jobs.push(self.start(is_pair)?);
        }
        let told: Vec<String> = jobs
            .iter()
            .map(|job| format!("{} in checkout {} with {:?}", job.verb, job.checkout, job.trouble))
            .collect();
        let told = format!("round {}: {}", self.count.rounds, told.join(", "));
        for job in jobs {
            self.end(job, &told)?;
        }
        self.proxy.heal();
        self.faults.count(&self.proxy.take_seen());
        for disk in &self.disks {
            ensure!(disk.resize(ROOMY)?, "a disk cannot be made large again");
        }
        self.look(&told)?;
        let number = self.chance.gen_range(0..2);
        self.undisturbed(number, &["build", "--push"]).with_context(|| told.clone())?;
        let wanted = soak::fingerprints(&self.binary, &self.checkouts[number])?;
        let now = self.released()?;
        if now != wanted {
            self.wrong(&told, &format!("tags are {now:?} after a push, and not {wanted:?}"));
        }
        self.look(&told)
    }

    /// Something to do for the next commands: a file with something new in it or with what it had before, or another
    /// image outside.
    fn change(&mut self) -> Result<()> {
        for number in 0..2 {
            if self.chance.gen_bool(0.5) {
                let image = FAMILY.choose(&mut self.chance).context("an image")?;
                let content = self.chance.gen_range(0..4 + self.count.rounds / 4).to_string().repeat(2000);
                self.checkouts[number].write(&format!("{image}/file"), &content);
            }
        }
        if self.chance.gen_bool(0.05) {
            self.move_outside(self.count.rounds)?;
        }
        Ok(())
    }

    /// What the checkouts describe now may be what a tag leads to.
    fn describe(&mut self) -> Result<()> {
        for checkout in &self.checkouts {
            let fingerprints = soak::fingerprints(&self.binary, checkout)?;
            for (image, fingerprint) in FAMILY.iter().zip(fingerprints) {
                self.ids.entry(((*image).to_owned(), fingerprint)).or_default();
            }
        }
        Ok(())
    }

    fn trouble(&mut self) -> Trouble {
        match self.chance.gen_range(0..10) {
            0 => Trouble::None,
            1..=3 => Trouble::Kill(Duration::from_millis(self.chance.gen_range(0..1500))),
            4 | 5 => Trouble::FullDisk(self.chance.gen_range(0..600)),
            6 | 7 => {
                let call = CALLS.choose(&mut self.chance).copied().unwrap_or(CALLS[0]);
                Trouble::Call(format!("{call}:when={}", self.chance.gen_range(1..=AMONG)))
            }
            _ => Trouble::Registry,
        }
    }

    fn start(&mut self, is_pair: bool) -> Result<Job> {
        let weights: u32 = VERBS.iter().map(|(.., weight)| weight).sum();
        let mut at = self.chance.gen_range(0..weights);
        let (verb, args, _) = VERBS
            .iter()
            .find(|(.., weight)| match at.checked_sub(*weight) {
                Some(rest) => {
                    at = rest;
                    false
                }
                None => true,
            })
            .context("a verb")?;
        let number = self.chance.gen_range(0..2);
        let trouble = self.trouble();
        let checkout = &self.checkouts[number];
        let mut plain = soak::command(&self.binary, checkout, args)?;
        if args.contains(&"--registry") && !is_pair {
            // What is young is kept for the sake of others.
            plain.args(["--keep-days", "0"]);
        }
        let mut command = match &trouble {
            Trouble::Call(call) => {
                self.count.calls += 1;
                let name = call.split(':').next().unwrap_or_default();
                let mut traced = checkout.command("strace", &["-f", "-qq", "-o", "/dev/null", "-e"]);
                traced.arg(format!("trace={name}")).args(["-e", &format!("inject={call}")]);
                traced.arg(plain.get_program()).args(plain.get_args());
                traced
            }
            _ => plain,
        };
        match &trouble {
            Trouble::FullDisk(free) => {
                self.count.full_disks += 1;
                self.disks[number].shrink(*free)?;
            }
            Trouble::Registry => self.proxy.fail_at_random(self.chance.r#gen::<u64>(), RATE, soak::faults()),
            Trouble::None | Trouble::Kill(_) | Trouble::Call(_) => {}
        }
        *self.count.verbs.entry(verb).or_default() += 1;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().context("a command cannot be started (strace is needed too)")?;
        Ok(Job { verb, checkout: number, trouble, child })
    }

    fn end(&mut self, mut job: Job, told: &str) -> Result<()> {
        let after = match job.trouble {
            Trouble::Kill(after) => after,
            _ => TIME,
        };
        let status = soak::end(&mut job.child, Some(after))?;
        let output = job.child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let code = match (status, &job.trouble) {
            (None, Trouble::Kill(_)) => {
                self.count.kills += 1;
                "killed".to_owned()
            }
            (None, _) => {
                self.wrong(told, &format!("{} does not end:\n{said}", job.verb));
                "without end".to_owned()
            }
            (Some(status), _) => match status.code() {
                Some(code) => {
                    // Without any trouble each verb does what it is for; nothing to go back to is no trouble.
                    let is_good =
                        CODES.contains(&code) && (code != 70 || matches!(job.trouble, Trouble::Call(_)));
                    if !is_good || said.contains("RUST_BACKTRACE") {
                        self.wrong(told, &format!("{} ends with {code}:\n{said}", job.verb));
                    }
                    code.to_string()
                }
                None => {
                    self.wrong(told, &format!("{} ends by signal {:?}:\n{said}", job.verb, status.signal()));
                    "signal".to_owned()
                }
            },
        };
        *self.count.codes.entry(code).or_default() += 1;
        Ok(())
    }

    /// Whatever has happened, what is there can be read and is right.
    fn look(&mut self, told: &str) -> Result<()> {
        for number in 0..2 {
            let plan = match soak::plan(&self.binary, &self.checkouts[number]) {
                Ok(plan) => plan,
                Err(error) => {
                    self.wrong(told, &format!("checkout {number} cannot be read any more: {error}"));
                    continue;
                }
            };
            for row in plan["targets"].as_array().context("targets")? {
                let text = |key: &str| row[key].as_str().map(str::to_owned);
                let key = (text("name").context("a name")?, text("fingerprint").context("a fingerprint")?);
                let id = text("id");
                self.count.ids += usize::from(id.is_some());
                let known = self.ids.entry(key.clone()).or_default();
                if let (Some(known), Some(id)) = (&*known, &id)
                    && known != id
                {
                    let what = format!("{} of {} is {id}, and was {known}", key.0, key.1);
                    self.wrong(told, &what);
                } else if id.is_some() {
                    *known = id;
                }
            }
        }
        self.look_at_tags(told)
    }

    /// Every tag leads to a whole image that was described once.
    fn look_at_tags(&mut self, told: &str) -> Result<()> {
        for image in FAMILY {
            let place = format!("{}/{image}", self.name);
            let Some(manifest) =
                self.runtime.block_on(self.direct.manifest(&place, &TagOrDigest::tag(TAG)?))?
            else {
                self.wrong(told, &format!("{image} has no tag any more"));
                continue;
            };
            self.count.tags += 1;
            let said = manifest.annotations().get(FINGERPRINT).cloned().unwrap_or_default();
            if !self.ids.contains_key(&(image.to_owned(), said.clone())) {
                self.wrong(told, &format!("{image} leads to {said}, which nobody has described"));
            }
            if let Err(error) = self.runtime.block_on(self.direct.verify(&place, manifest.digest())) {
                self.wrong(told, &format!("{image}: {error}"));
            }
        }
        Ok(())
    }

    /// At the end nothing is left over, and a store that is made anew has the same images.
    fn last(&mut self) -> Result<()> {
        let told = "at the end";
        // What only the registry holds has no id here.
        self.undisturbed(0, &["build", "--local"])?;
        let before = soak::plan(&self.binary, &self.checkouts[0])?;
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        for number in 0..2 {
            self.undisturbed(number, &["prune", "--yes"])?;
            let own = self.checkouts[number].root().join(".imgforge");
            for folder in ["push", "store/tmp", "store/containers", "test-runs"] {
                let left = std::fs::read_dir(own.join(folder)).map_or(0, Iterator::count);
                if left > 0 {
                    self.wrong(told, &format!("{left} files are left in {folder} of checkout {number}"));
                }
            }
            if mounts.contains(own.as_str()) {
                self.wrong(told, &format!("a mount is left in checkout {number}"));
            }
        }
        let store = self.checkouts[0].root().join(".imgforge");
        std::fs::remove_dir_all(&store)?;
        self.undisturbed(0, &["build", "--local"])?;
        let after = soak::plan(&self.binary, &self.checkouts[0])?;
        let ids = |plan: &serde_json::Value| -> Vec<serde_json::Value> {
            plan["targets"].as_array().into_iter().flatten().map(|row| row["id"].clone()).collect()
        };
        if ids(&before) != ids(&after) {
            self.wrong(
                told,
                &format!("built anew, images are {:?}, and were {:?}", ids(&after), ids(&before)),
            );
        }
        Ok(())
    }

    fn undisturbed(&self, number: usize, args: &[&str]) -> Result<()> {
        soak::undisturbed(&self.binary, &self.checkouts[number], args)
    }

    fn released(&self) -> Result<Vec<String>> {
        soak::released(&self.runtime, &self.direct, &self.name)
    }

    fn wrong(&mut self, told: &str, what: &str) {
        eprintln!("WRONG: {told}: {what}");
        self.count.wrong += 1;
    }

    /// An image outside, with a shell, under a tag that moves.
    fn move_outside(&self, version: usize) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let script = "mkdir bin && cp /bin/busybox bin/ && ln -s busybox bin/sh && ln -s busybox bin/cat && echo \"$1\" > version \
                      && tar --sort=name --mtime=@0 --owner=0 --group=0 -cf layer.tar bin version && gzip -nk layer.tar";
        let made = Command::new("sh")
            .args(["-ec", script, "sh", &version.to_string()])
            .current_dir(&folder)
            .status()?;
        ensure!(made.success(), "busybox-static and tar are needed");
        let path = camino::Utf8Path::from_path(folder.path()).context("a folder in UTF-8")?;
        let (tar, packed) =
            (std::fs::read(path.join("layer.tar"))?, std::fs::read(path.join("layer.tar.gz"))?);
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [Digest::sha256(&tar).to_string()] },
        });
        let descriptor =
            Descriptor::new(MediaType::ImageLayerGzip, Digest::sha256(&packed), packed.len() as u64);
        let layer = PushLayer { descriptor, file: Some(path.join("layer.tar.gz")), mount_from: Vec::new() };
        let image = PushImage {
            config: config.to_string().into(),
            layers: vec![layer],
            annotations: BTreeMap::new(),
        };
        self.runtime.block_on(async {
            let pushed = self.direct.push_image(OUTSIDE, &image, ProgressSink::silent()).await?;
            self.direct.put_manifest(OUTSIDE, &TagOrDigest::tag(TAG)?, &pushed.manifest).await?;
            Ok(())
        })
    }

    fn print(&self, took: Duration) {
        let Count { rounds, pairs, verbs, codes, kills, full_disks, calls, tags, ids, wrong } = &self.count;
        let list = |rows: Vec<String>| rows.join(", ");
        let verbs: Vec<String> = verbs.iter().map(|(verb, number)| format!("{verb} {number}")).collect();
        let codes: Vec<String> = codes.iter().map(|(code, number)| format!("{code}: {number}")).collect();
        let rows = [
            ("rounds", rounds.to_string()),
            ("of them with two commands at once", pairs.to_string()),
            ("commands", list(verbs)),
            ("how they ended", list(codes)),
            ("killed with SIGKILL", kills.to_string()),
            ("with a full disk", full_disks.to_string()),
            ("with a call of the system that fails", calls.to_string()),
            ("requests that failed", self.faults.to_string()),
            ("tags looked at", tags.to_string()),
            ("images compared", ids.to_string()),
            ("wrong", wrong.to_string()),
            ("seconds", format!("{:.1}", took.as_secs_f64())),
        ];
        soak::print("faults: commands alone and in pairs, disturbed", &rows);
    }
}
