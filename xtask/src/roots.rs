//! `cargo xtask roots`: roots of packages chosen by chance, beside mmdebstrap's of the same package files, file by file.
//! Needs root, a Debian mirror, and the Debian packages mmdebstrap and dpkg-dev.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use imgforge::core::lock::LockedPackage;
use imgforge_packages::{Cache, Index, Machine, Request, Silent, fetch_index};
use imgforge_testkit::apt::sha256;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

const SUITES: &str = "\"bookworm\" \"bookworm-updates\" \"bookworm-security\"";

/// Packages whose maintainer scripts do much, one of which is in each set.
const BUSY: &[&str] = &[
    "postgresql-common libpq-dev",
    "default-jre-headless",
    "python3-numpy",
    "ruby",
    "nginx-light",
    "apache2",
    "openssh-server",
    "exim4-daemon-light",
    "mariadb-server",
    "cron anacron",
    "emacs-nox",
    "texlive-base",
    "dbus systemd",
    "rsyslog",
    "ca-certificates-java",
    "php-fpm",
    "libreoffice-common",
    "fontconfig",
    "man-db",
    "molly-guard",
    "ucf debconf",
    "git",
    "vim",
    "build-essential",
    "initramfs-tools",
    "udev",
    "logrotate",
    "snmpd",
    "redis-server",
    "lighttpd",
    "sudo",
    "ntpsec",
    "slapd",
    "samba-common-bin",
    "dash bash-completion",
];

/// A set with more than this many packages is left out: its time says nothing more.
const LARGEST: usize = 350;

/// What is not compared, with everything below: apt's own files, caches and logs, what the container runtime makes, what
/// is another one each time (a key store of Java's with dates, what a package saw of the network), what depends on which
/// package was configured first (`/usr/local`, whose folders base-files makes), and backups.
const PASSED_OVER: &[&str] = &[
    "",
    "boot/",
    "dev/",
    "etc/.pwd.lock",
    "etc/apt/",
    "etc/fstab",
    "etc/group-",
    "etc/gshadow-",
    "etc/hostname",
    "etc/machine-id",
    "etc/passwd-",
    "etc/resolv.conf",
    "etc/shadow-",
    "etc/subgid-",
    "etc/subuid-",
    "run/",
    "tmp/",
    "usr/share/info/dir",
    "usr/share/mime/",
    "var/backups/",
    "var/cache/",
    "var/lib/apt/",
    "var/lib/dpkg/arch",
    "var/lib/dpkg/available",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/triggers/",
    "var/log/",
    "var/tmp/",
    "etc/GNUstep/gdomap_probes",
    "etc/ssl/certs/java/cacerts",
    "usr/local/",
    "var/lib/dbus/machine-id",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/statoverride-old",
    "var/lib/dpkg/status-old",
];

/// One entry of a root: kind, mode, owner and group by name, and what it holds or leads to.
type Tree = BTreeMap<String, String>;

/// Makes so many sets, and says of each what differs.
pub(crate) fn run(sets: usize, seed: u64) -> Result<()> {
    crate::check::install(&[
        ("mmdebstrap", "/usr/bin/mmdebstrap"),
        ("dpkg-dev", "/usr/bin/dpkg-scanpackages"),
    ])?;
    let binary = crate::bench::binary()?;
    let index = index()?;
    let mut random = StdRng::seed_from_u64(seed);
    let mut failed = Vec::new();
    let mut number = 0;
    while number < sets {
        let names = choose(&index, &mut random);
        let request = Request {
            include: Some(imgforge::core::manifest::RootInclude::Essential),
            wanted: names.iter().cloned().collect(),
            ..Request::default()
        };
        if index.resolve(&request).map_or(true, |found| found.len() > LARGEST) {
            continue;
        }
        number += 1;
        let list: Vec<&str> = names.iter().map(String::as_str).collect();
        match compare(&binary, &list) {
            Ok((packages, differences)) if differences.is_empty() => {
                println!("{number:4}  {packages:3} packages  same       {}", list.join(" "));
            }
            Ok((packages, differences)) => {
                println!("{number:4}  {packages:3} packages  DIFFERENT  {}", list.join(" "));
                differences.iter().for_each(|line| println!("        {line}"));
                failed.push(number);
            }
            Err(error) => {
                println!("{number:4}  FAILED  {}\n{error:#}", list.join(" "));
                failed.push(number);
            }
        }
    }
    println!("{sets} sets, {} with differences (seed {seed})", failed.len());
    ensure!(failed.is_empty(), "sets {failed:?} differ");
    Ok(())
}

fn index() -> Result<Index> {
    let folder = tempfile::tempdir()?;
    let session = workspace(folder.path(), &[])?;
    let apt = &session.workspace().manifest.apt[0];
    let root = Utf8Path::from_path(folder.path()).context("the folder's name is no text")?;
    let repository = Machine::read()?.repository(apt, root, "amd64")?;
    Ok(fetch_index(
        &repository,
        &imgforge_packages::Seen::default(),
        &Cache::user().context("no cache folder")?,
        &Silent,
    )?)
}

/// A busy set or two, and up to six names by chance.
fn choose(index: &Index, random: &mut StdRng) -> BTreeSet<String> {
    let all: Vec<&str> = index.names().collect();
    let busy = BUSY.choose_multiple(random, 2).flat_map(|names| names.split(' '));
    let number = random.gen_range(0..6);
    busy.chain(all.choose_multiple(random, number).copied())
        .filter(|name| index.newest(name).is_some())
        .map(str::to_owned)
        .collect()
}

fn workspace(folder: &Path, packages: &[&str]) -> Result<imgforge::Session> {
    fs::create_dir_all(folder.join("os"))?;
    let text = format!("workspace \"roots\"\napt \"debian\" {{\n    suite {SUITES}\n}}\n");
    fs::write(folder.join("imgforge.kdl"), text)?;
    let mut image = "image \"os\" {\n    root \"debian\"\n    docs #true\n    layers \"one\"\n".to_owned();
    if !packages.is_empty() {
        image.push_str(&format!("    packages \"debian\" \"{}\"\n", packages.join("\" \"")));
    }
    image.push_str("}\n");
    fs::write(folder.join("os/image.kdl"), image)?;
    let root = Utf8Path::from_path(folder).context("the folder's name is no text")?;
    Ok(imgforge::Session::open(root, &imgforge::OpenOptions { cache: false, ..Default::default() })?)
}

/// How many packages the root has, and what differs.
fn compare(binary: &Path, names: &[&str]) -> Result<(usize, Vec<String>)> {
    let folder = tempfile::tempdir()?;
    let root = Utf8PathBuf::try_from(folder.path().to_owned())?;
    let session = workspace(folder.path(), names)?;
    for args in [&["update", "-q"][..], &["build", "-q"], &["export", "os", "--docker-archive", "ours.tar"]] {
        let mut command = Command::new(binary);
        succeed(command.args(args).current_dir(&root).env("IMGFORGE_ENGINE", "embedded"))?;
    }
    let packages = session.read_lock()?.packages;
    mmdebstrap(&packages, &root)?;
    let ours = tree(&fs::read(layer(&root)?)?)?;
    let theirs = tree(&fs::read(root.join("theirs.tar"))?)?;
    Ok((packages.len(), differences(&ours, &theirs)))
}

/// The one layer of the image in `ours.tar`.
fn layer(root: &Utf8Path) -> Result<Utf8PathBuf> {
    let folder = root.join("ours");
    fs::create_dir(&folder)?;
    succeed(Command::new("tar").args(["-xf", "ours.tar", "-C", "ours"]).current_dir(root))?;
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("manifest.json"))?)?;
    let layers = manifest[0]["Layers"].as_array().context("an archive lists its layers")?;
    let [only] = &layers[..] else { bail!("{} layers, where one was asked for", layers.len()) };
    Ok(folder.join(only.as_str().context("a layer has a name")?))
}

/// `theirs.tar`: mmdebstrap's root of the same package files, from a repository that has no others.
fn mmdebstrap(packages: &[LockedPackage], root: &Utf8Path) -> Result<()> {
    let pool = root.join("repository");
    fs::create_dir(&pool)?;
    let cache = Cache::user().context("no cache folder")?;
    for package in packages {
        let name = package.path.rsplit('/').next().unwrap_or(&package.name);
        fs::copy(cache.file(&package.sha256), pool.join(name))?;
    }
    succeed(
        Command::new("sh").args(["-c", "dpkg-scanpackages . > Packages 2> /dev/null"]).current_dir(&pool),
    )?;
    let names: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    succeed(
        Command::new("mmdebstrap")
            .args(["--quiet", "--variant=custom"])
            .arg("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr")
            .arg(format!("--include={}", names.join(",")))
            .args(["bookworm", "theirs.tar"])
            .arg(format!("deb [trusted=yes] copy:{pool} ./"))
            .current_dir(root),
    )
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
    Ok(())
}

/// The entries of an archive (packed with gzip or not) by path.
fn tree(bytes: &[u8]) -> Result<Tree> {
    let mut plain = Vec::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain)?;
    } else {
        plain = bytes.to_vec();
    }
    let names = Accounts::of(&plain)?;
    let mut tree = Tree::new();
    for entry in tar::Archive::new(&plain[..]).entries()? {
        let mut entry = entry?;
        let path = path_of(&entry)?;
        if is_passed_over(&path) {
            continue;
        }
        let header = entry.header().clone();
        let target = entry.link_name()?.map(|target| target.display().to_string());
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        let what = match target {
            // Which of two names of a file is the first is no matter.
            Some(_) if header.entry_type() == tar::EntryType::Link => continue,
            Some(target) => format!("-> {target}"),
            None if header.entry_type().is_dir() => String::new(),
            None => sha256(&canonical(&path, &content)),
        };
        let (owner, group) = (names.user(header.uid()?), names.group(header.gid()?));
        let mode = if header.entry_type().is_symlink() { 0o777 } else { header.mode()? & 0o7777 };
        tree.insert(path, format!("{mode:o} {owner}:{group} {what}"));
    }
    Ok(tree)
}

/// Whether a path is one of those, or below one that ends with a slash.
fn is_passed_over(path: &str) -> bool {
    // Python's compiled files have dates in them there, and hashes of their sources here.
    path.split('/').any(|part| part == "__pycache__")
        || PASSED_OVER.iter().any(|passed| {
            path == passed.trim_end_matches('/') || (passed.ends_with('/') && path.starts_with(passed))
        })
}

fn path_of<R: Read>(entry: &tar::Entry<'_, R>) -> Result<String> {
    Ok(entry.path()?.display().to_string().trim_start_matches("./").trim_end_matches('/').to_owned())
}

/// Where packages are configured in another order, the lines of these files are too, and numbers of accounts differ.
fn canonical(path: &str, content: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(content);
    let separator = match path {
        "var/lib/dpkg/status" => "\n\n",
        "etc/passwd"
        | "etc/group"
        | "etc/shadow"
        | "etc/gshadow"
        | "etc/shells"
        | "etc/subuid"
        | "etc/subgid"
        | "var/lib/dpkg/diversions"
        | "var/lib/dpkg/statoverride"
        | "etc/ca-certificates.conf" => "\n",
        _ if path.starts_with("var/lib/dpkg/info/") && path.ends_with(".list") => "\n",
        _ => return content.to_vec(),
    };
    let is_account = matches!(path, "etc/passwd" | "etc/group" | "etc/shadow" | "etc/gshadow");
    let mut parts: Vec<&str> = text
        .split(separator)
        .map(|part| if is_account { part.split(':').next().unwrap_or("") } else { part.trim() })
        .collect();
    parts.sort_unstable();
    parts.join("\n").into_bytes()
}

/// Names of users and groups by number.
#[derive(Default)]
struct Accounts {
    users: BTreeMap<u64, String>,
    groups: BTreeMap<u64, String>,
}

impl Accounts {
    fn of(archive: &[u8]) -> Result<Self> {
        let mut accounts = Self::default();
        for entry in tar::Archive::new(archive).entries()? {
            let mut entry = entry?;
            let into = match path_of(&entry)?.as_str() {
                "etc/passwd" => &mut accounts.users,
                "etc/group" => &mut accounts.groups,
                _ => continue,
            };
            let mut text = String::new();
            entry.read_to_string(&mut text)?;
            for line in text.lines() {
                let mut fields = line.split(':');
                if let (Some(name), Some(Ok(number))) = (fields.next(), fields.nth(1).map(str::parse)) {
                    into.insert(number, name.to_owned());
                }
            }
        }
        Ok(accounts)
    }

    fn user(&self, number: u64) -> String {
        self.users.get(&number).cloned().unwrap_or_else(|| number.to_string())
    }

    fn group(&self, number: u64) -> String {
        self.groups.get(&number).cloned().unwrap_or_else(|| number.to_string())
    }
}

fn differences(ours: &Tree, theirs: &Tree) -> Vec<String> {
    let paths: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let absent = "absent".to_owned();
    paths
        .into_iter()
        .filter_map(|path| {
            let (a, b) = (ours.get(path).unwrap_or(&absent), theirs.get(path).unwrap_or(&absent));
            (a != b).then(|| format!("/{path}: {a} here, {b} there"))
        })
        .collect()
}
