//! `cargo xtask bench services`: what each supervisor costs, beside images of the same that are written by hand.
//!
//! Three services, each of which needs the one before and takes a quarter of a second to stop; supervisors of one
//! process get one of them.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Each figure is the median of this many containers.
const RUNS: usize = 5;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

const SERVICE: &str = "#!/bin/sh\ntrap 'sleep 0.25; exit 0' TERM\necho \"$1 up $(date +%s%N) $$\"\nwhile :; do sleep 60 & wait $!; done\n";

/// What people write who have no supervisor.
const SHELL: &str = "#!/bin/sh\n/usr/local/bin/service db &\n/usr/local/bin/service app &\n/usr/local/bin/service web &\nwait\n";

const HAND_WRITTEN_SUPERVISORD: &str = "[supervisord]\nnodaemon=true\nuser=root\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile=/run/supervisord.pid\n";

/// One row of the table.
struct Subject {
    image: &'static str,
    what: &'static str,
    /// The options that its containers need.
    options: &'static [&'static str],
    services: &'static [&'static str],
}

const THREE: &[&str] = &["db", "app", "web"];
const ONE: &[&str] = &["web"];
const MACHINE: &[&str] =
    &["--cgroupns=host", "--volume=/sys/fs/cgroup:/sys/fs/cgroup", "--tmpfs=/run", "--tmpfs=/run/lock"];

const SUBJECTS: &[Subject] = &[
    Subject { image: "s6", what: "s6", options: &[], services: THREE },
    Subject { image: "runit", what: "runit", options: &[], services: THREE },
    Subject { image: "supervisord", what: "supervisord", options: &[], services: THREE },
    Subject { image: "systemd", what: "systemd", options: MACHINE, services: THREE },
    Subject { image: "by-hand-s6", what: "s6 by hand, no order", options: &[], services: THREE },
    Subject { image: "by-hand-supervisord", what: "supervisord by hand", options: &[], services: THREE },
    Subject { image: "by-hand-sh", what: "a shell script", options: &[], services: THREE },
    Subject { image: "tini", what: "tini", options: &[], services: ONE },
    Subject { image: "dumb-init", what: "dumb-init", options: &[], services: ONE },
    Subject { image: "none", what: "none", options: &[], services: ONE },
];

/// Prints the table.
pub(crate) fn run() -> Result<()> {
    let bench = Bench::new()?;
    println!("services: medians of {RUNS} containers on a Debian root");
    println!(
        "{:24}{:>10}{:>12}{:>14}{:>12}{:>12}{:>12}",
        "", "adds, MB", "ready, ms", "restart, ms", "stop, ms", "memory, MB", "processes"
    );
    let base = bench.size("os")?;
    for subject in SUBJECTS {
        if !bench.build(subject.image)? {
            println!("{:24}{:>10}", subject.what, "not built");
            continue;
        }
        let added = (bench.size(subject.image)? - base) / 1e6;
        let runs = (0..RUNS).map(|_| bench.measure(subject)).collect::<Result<Vec<_>>>()?;
        let median = |of: fn(&Measured) -> Option<f64>| {
            let mut all: Vec<f64> = runs.iter().filter_map(of).collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).map_or_else(|| "never".to_owned(), |figure| format!("{figure:.1}"))
        };
        println!(
            "{:24}{added:>10.2}{:>12}{:>14}{:>12}{:>12}{:>12}",
            subject.what,
            median(|run| Some(run.ready)),
            median(|run| run.restart),
            median(|run| Some(run.stop)),
            median(|run| Some(run.memory)),
            median(|run| Some(run.processes)),
        );
    }
    Ok(())
}

struct Measured {
    /// From the container's start until the last service has started, in ms.
    ready: f64,
    /// From a KILL of the middle service until it has started again, in ms; `None` where it does not.
    restart: Option<f64>,
    /// `docker stop`, in ms.
    stop: f64,
    /// Proportional set sizes of all processes together, in MB.
    memory: f64,
    processes: f64,
}

struct Bench {
    name: String,
    root: PathBuf,
}

impl Bench {
    fn new() -> Result<Self> {
        let name = format!("imgforge-bench-{}-services", std::process::id());
        let bench = Self { root: std::env::temp_dir().join(&name), name };
        bench.write(
            "imgforge.kdl",
            &format!(
                "workspace \"{0}\" {{\n    registry \"localhost/{0}\"\n}}\napt \"debian\" {{\n    suite \"bookworm\" \"bookworm-updates\" \"bookworm-security\"\n}}\n",
                bench.name
            ),
        )?;
        bench.write("os/image.kdl", "image \"os\" {\n    root \"debian\"\n}\n")?;
        for subject in SUBJECTS {
            match subject.image {
                "by-hand-s6" => bench.by_hand_s6()?,
                "by-hand-supervisord" => bench.by_hand_supervisord()?,
                "by-hand-sh" => bench.by_hand_sh()?,
                supervisor => bench.declared(supervisor, subject.services)?,
            }
        }
        Ok(bench)
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().context("it is below the folder")?)?;
        Ok(fs::write(path, text)?)
    }

    fn declared(&self, supervisor: &str, names: &[&str]) -> Result<()> {
        let mut services = String::new();
        let mut before = None;
        for name in names {
            let needs = before.map_or(String::new(), |need| format!("        needs \"{need}\"\n"));
            services.push_str(&format!(
                "    service \"{name}\" {{\n        command \"/usr/local/bin/service\" \"{name}\"\n{needs}    }}\n"
            ));
            before = Some(name);
        }
        self.write(&format!("{supervisor}/service"), SERVICE)?;
        self.write(
            &format!("{supervisor}/image.kdl"),
            &format!(
                "image \"{supervisor}\" {{\n    from \"os\"\n    supervisor \"{supervisor}\"\n    copy \"service\" \"/usr/local/bin/service\" mode=\"0755\"\n{services}}}\n"
            ),
        )
    }

    /// An image with packages and a Dockerfile on top.
    fn hand_written(&self, name: &str, packages: &[&str], dockerfile: &str) -> Result<()> {
        let base = if packages.is_empty() { "os".to_owned() } else { format!("{name}-packages") };
        if !packages.is_empty() {
            let list: Vec<String> = packages.iter().map(|package| format!("\"{package}\"")).collect();
            let text = format!(
                "image \"{base}\" {{\n    from \"os\"\n    packages \"debian\" {}\n}}\n",
                list.join(" ")
            );
            self.write(&format!("{base}/image.kdl"), &text)?;
        }
        self.write(&format!("{name}/service"), SERVICE)?;
        self.write(
            &format!("{name}/Dockerfile"),
            &format!("FROM {base}\nCOPY --chmod=755 service /usr/local/bin/service\n{dockerfile}"),
        )?;
        self.write(
            &format!("{name}/image.kdl"),
            &format!("image \"{name}\" {{\n    dockerfile \"Dockerfile\"\n}}\n"),
        )
    }

    fn by_hand_sh(&self) -> Result<()> {
        self.write("by-hand-sh/start", SHELL)?;
        self.hand_written("by-hand-sh", &[], "COPY --chmod=755 start /start\nENTRYPOINT [\"/start\"]\n")
    }

    fn by_hand_s6(&self) -> Result<()> {
        for name in THREE {
            let run = format!("#!/bin/sh\nexec /usr/local/bin/service {name}\n");
            self.write(&format!("by-hand-s6/sv/{name}/run"), &run)?;
        }
        self.hand_written(
            "by-hand-s6",
            &["s6"],
            "COPY --chmod=755 sv /sv\nENTRYPOINT [\"s6-svscan\", \"/sv\"]\n",
        )
    }

    fn by_hand_supervisord(&self) -> Result<()> {
        let mut text = HAND_WRITTEN_SUPERVISORD.to_owned();
        for name in THREE {
            text.push_str(&format!(
                "[program:{name}]\ncommand=/usr/local/bin/service {name}\nstdout_logfile=/dev/stdout\nstdout_logfile_maxbytes=0\n"
            ));
        }
        self.write("by-hand-supervisord/supervisord.conf", &text)?;
        self.hand_written(
            "by-hand-supervisord",
            &["supervisor"],
            "COPY supervisord.conf /etc/supervisord.conf\nENTRYPOINT [\"supervisord\", \"-c\", \"/etc/supervisord.conf\"]\n",
        )
    }

    fn build(&self, image: &str) -> Result<bool> {
        let binary = std::env::current_exe()?.with_file_name("imgforge");
        Ok(Command::new(binary)
            .args(["build", "-q", "--local", image])
            .current_dir(&self.root)
            .status()?
            .success())
    }

    fn reference(&self, image: &str) -> String {
        format!("localhost/{}/{image}", self.name)
    }

    fn size(&self, image: &str) -> Result<f64> {
        if image == "os" {
            ensure!(self.build(image)?, "the root cannot be built");
        }
        Ok(docker(&["image", "inspect", "-f", "{{.Size}}", &self.reference(image)])?.parse()?)
    }

    fn measure(&self, subject: &Subject) -> Result<Measured> {
        let reference = self.reference(subject.image);
        let id = docker(&[&["run", "-d"], subject.options, &[&reference]].concat())?;
        let measured = measure(subject, &id);
        docker(&["rm", "-f", "-v", &id])?;
        measured
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let label = format!("label=imgforge.workspace={}", self.name);
        if let Ok(ids) = docker(&["images", "-q", "--no-trunc", "--filter", &label]) {
            let ids: std::collections::BTreeSet<&str> = ids.lines().collect();
            let _ = Command::new("docker").args(["rmi", "-f"]).args(ids).stdout(Stdio::null()).status();
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn measure(subject: &Subject, id: &str) -> Result<Measured> {
    let mut ready = 0.0;
    let started = nanoseconds(&docker(&["inspect", "-f", "{{.State.StartedAt}}", id])?)?;
    for name in subject.services {
        let (at, _) = wait_for(id, name, 1)?.with_context(|| format!("{name} never starts"))?;
        ready = f64::max(ready, (at - started) / 1e6);
    }
    // Longer than any supervisor's shortest run.
    std::thread::sleep(Duration::from_secs(2));
    let memory = memory(id)?;
    let processes = docker(&["top", id, "-eo", "pid"])?.lines().count() as f64 - 1.0;
    let restart = if subject.services.len() > 1 {
        let (_, pid) = wait_for(id, "app", 1)?.context("it has started")?;
        let killed = docker(&["exec", id, "sh", "-c", &format!("date +%s%N; kill -9 {pid}")])?;
        wait_for(id, "app", 2)?
            .map(|(at, _)| Ok::<_, anyhow::Error>((at - killed.parse::<f64>()?) / 1e6))
            .transpose()?
    } else {
        None
    };
    std::thread::sleep(Duration::from_secs(2));
    let begun = Instant::now();
    docker(&["stop", "-t", "20", id])?;
    Ok(Measured { ready, restart, stop: begun.elapsed().as_secs_f64() * 1000.0, memory, processes })
}

/// The `nth` time that a service has said that it is up, in ns since 1970, and its process; `None` when it never does.
fn wait_for(id: &str, name: &str, nth: usize) -> Result<Option<(f64, u32)>> {
    let begun = Instant::now();
    // Where nothing starts it again, there is no need to wait for long.
    let patience = if nth > 1 { Duration::from_secs(8) } else { PATIENCE };
    while begun.elapsed() < patience {
        let logs = Command::new("docker").args(["logs", id]).output()?;
        let text = String::from_utf8_lossy(&logs.stdout).into_owned();
        let mark = format!("{name} up ");
        let found = text.lines().filter_map(|line| line.split_once(&mark)).nth(nth - 1);
        if let Some((_, rest)) = found {
            let (at, pid) = rest.trim().split_once(' ').context("a time and a process")?;
            return Ok(Some((at.parse()?, pid.parse()?)));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(None)
}

/// Proportional set sizes (proc(5), smaps_rollup) of a container's processes, in MB.
fn memory(id: &str) -> Result<f64> {
    let mut kib = 0.0;
    for pid in docker(&["top", id, "-eo", "pid"])?.lines().skip(1) {
        // A process may have ended since.
        let Ok(text) = fs::read_to_string(format!("/proc/{}/smaps_rollup", pid.trim())) else { continue };
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        kib += line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or(0.0);
    }
    Ok(kib * 1024.0 / 1e6)
}

/// Docker's `2026-01-01T10:00:00.123456789Z` in ns since 1970, as date(1) reads it.
fn nanoseconds(time: &str) -> Result<f64> {
    let output = Command::new("date").args(["-d", time, "+%s%N"]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}

fn docker(args: &[&str]) -> Result<String> {
    let output = Command::new("docker").args(args).output().context("docker cannot be started")?;
    if !output.status.success() {
        bail!("docker {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
