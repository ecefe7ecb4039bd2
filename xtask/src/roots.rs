//! `cargo xtask roots`: roots of packages chosen by chance, beside mmdebstrap's of the same package files, file by
//! file. Needs root, a Debian mirror, and the Debian packages mmdebstrap and dpkg-dev.

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

/// The `/etc/hosts` of the engine's steps: scripts write down under which name the host finds itself.
const HOSTS: &str = r"127.0.0.1\tlocalhost imgforge\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// A set with more than this many packages is left out: its time says nothing more.
const LARGEST: usize = 150;

/// What is not compared, with everything below: apt's own files, caches and logs, what the container runtime makes,
/// what packages wrote of the network that they saw, the formats of TeX, which have the minute in them, what depends
/// on which package was unpacked or configured first (`/usr/local`, whose folders base-files makes; the empty cache of
/// ucf, which the preinst of libsensors5 calls where it is there already) or on how a file system orders its folders
/// (GHC's cache), and backups.
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
    "etc/hosts",
    "etc/machine-id",
    "etc/passwd-",
    "etc/resolv.conf",
    "etc/shadow-",
    "etc/subgid-",
    "etc/subuid-",
    "run/",
    "tmp/",
    "usr/share/info/dir",
    "usr/share/info/dir.old",
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
    "var/lib/texmf/",
    "var/lib/ucf/cache",
    "var/lib/ghc/package.conf.d/package.cache",
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
    let (mut number, mut not_there) = (0, 0);
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
        let said = list.join(" ");
        match compare(&binary, &list) {
            Ok((packages, Compared::Same)) => {
                println!("{number:4}  {packages:3} packages  same       {said}");
            }
            Ok((packages, Compared::NotThere(why))) => {
                println!("{number:4}  {packages:3} packages  not there  {said}\n        {why}");
                not_there += 1;
            }
            Ok((packages, Compared::Different(differences))) => {
                println!("{number:4}  {packages:3} packages  DIFFERENT  {said}");
                differences.iter().for_each(|line| println!("        {line}"));
                failed.push(number);
            }
            Err(error) => {
                println!("{number:4}  FAILED  {said}\n{error:#}");
                failed.push(number);
            }
        }
    }
    println!(
        "{sets} sets, {} with differences, {not_there} that mmdebstrap does not make (seed {seed})",
        failed.len()
    );
    ensure!(failed.is_empty(), "sets {failed:?} differ");
    Ok(())
}

/// How a root of ours stands beside mmdebstrap's.
enum Compared {
    Same,
    Different(Vec<String>),
    /// A maintainer script fails under mmdebstrap, which shows it a chroot without services; in its words.
    NotThere(String),
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
        &imgforge_packages::Network::new(session.runtime()?.handle())?,
        &Silent,
    )?)
}

/// A busy set, now and then two, and up to five names by chance.
fn choose(index: &Index, random: &mut StdRng) -> BTreeSet<String> {
    let all: Vec<&str> = index.names().collect();
    let number_of_busy = if random.gen_bool(0.25) { 2 } else { 1 };
    let busy = BUSY.choose_multiple(random, number_of_busy).flat_map(|names| names.split(' '));
    let number = random.gen_range(0..6);
    busy.chain(all.choose_multiple(random, number).copied())
        .filter(|name| index.newest(name).is_some())
        .map(str::to_owned)
        .collect()
}

fn workspace(folder: &Path, packages: &[&str]) -> Result<imgforge::Session> {
    fs::create_dir_all(folder.join("os"))?;
    let text = format!(
        "workspace \"roots\" {{\n    compression \"zstd\"\n}}\napt \"debian\" {{\n    suite {SUITES}\n}}\n"
    );
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

/// How many packages the root has, and what differs. What differs is compared with a second root of mmdebstrap's:
/// what is another one there each time too, such as a host key of OpenSSH, is no difference.
fn compare(binary: &Path, names: &[&str]) -> Result<(usize, Compared)> {
    let folder = tempfile::tempdir()?;
    let root = Utf8PathBuf::try_from(folder.path().to_owned())?;
    let session = workspace(folder.path(), names)?;
    for args in [&["update", "-q"][..], &["build", "-q"], &["export", "os", "--oci", "ours"]] {
        let mut command = Command::new(binary);
        succeed(command.args(args).current_dir(&root).env("IMGFORGE_ENGINE", "embedded"))?;
    }
    let packages = session.read_lock()?.packages;
    let ours = tree(&zstd::decode_all(&fs::read(layer(&root)?)?[..])?)?;
    repository(&packages, &root)?;
    let theirs = match mmdebstrap(&packages, &root) {
        Ok(theirs) => theirs,
        Err(error) => {
            let text = format!("{error:#}");
            let why = text.lines().rev().find(|line| line.contains("rror")).unwrap_or("it fails");
            return Ok((packages.len(), Compared::NotThere(why.trim().to_owned())));
        }
    };
    let mut differing = differences(&ours, &theirs);
    if !differing.is_empty() {
        let again = differences(&theirs, &mmdebstrap(&packages, &root)?);
        differing.retain(|path, _| !again.contains_key(path));
    }
    let lines: Vec<String> = differing.into_iter().map(|(path, what)| format!("/{path}: {what}")).collect();
    Ok((packages.len(), if lines.is_empty() { Compared::Same } else { Compared::Different(lines) }))
}

/// The one layer of the image in the layout `ours`.
fn layer(root: &Utf8Path) -> Result<Utf8PathBuf> {
    let layout = root.join("ours");
    let read =
        |path: &Utf8Path| -> Result<serde_json::Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    let blob = |descriptor: &serde_json::Value| -> Result<Utf8PathBuf> {
        let digest = descriptor["digest"].as_str().context("a descriptor has a digest")?;
        Ok(layout.join("blobs").join(digest.replace(':', "/")))
    };
    let index = read(&layout.join("index.json"))?;
    let manifest = read(&blob(&index["manifests"][0])?)?;
    let layers = manifest["layers"].as_array().context("a manifest lists its layers")?;
    let [only] = &layers[..] else { bail!("{} layers, where one was asked for", layers.len()) };
    blob(only)
}

/// The folder `repository`: the package files of the lock, and no others.
fn repository(packages: &[LockedPackage], root: &Utf8Path) -> Result<()> {
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
    // mmdebstrap asks apt for what is essential in the suite, which is known by this file.
    let index = fs::read(pool.join("Packages"))?;
    let (hash, size) = (sha256(&index), index.len());
    let date = "Thu, 01 Jan 2026 00:00:00 +0000";
    let release =
        format!("Suite: bookworm\nCodename: bookworm\nDate: {date}\nSHA256:\n {hash} {size} Packages\n");
    Ok(fs::write(pool.join("Release"), release)?)
}

/// mmdebstrap's root of what is in the folder `repository`.
fn mmdebstrap(packages: &[LockedPackage], root: &Utf8Path) -> Result<Tree> {
    let names: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    succeed(
        // With the host name and the network of the engine's steps, which scripts write down.
        Command::new("unshare")
            .args(["--uts", "--net", "sh", "-c", "hostname imgforge && exec mmdebstrap \"$@\"", "mmdebstrap"])
            .args(["--quiet", "--variant=essential"])
            .arg("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr")
            .arg(format!("--setup-hook=mkdir -p \"$1/etc\" && printf '{HOSTS}' > \"$1/etc/hosts\""))
            .arg(format!("--include={}", names.join(",")))
            .args(["bookworm", "theirs.tar"])
            .arg(format!("deb [trusted=yes] copy:{root}/repository ./"))
            .current_dir(root),
    )?;
    tree(&fs::read(root.join("theirs.tar"))?)
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
    Ok(())
}

/// The entries of an archive by path.
fn tree(plain: &[u8]) -> Result<Tree> {
    let names = Accounts::of(plain)?;
    let mut tree = Tree::new();
    for entry in tar::Archive::new(plain).entries()? {
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

/// The paths at which two roots differ, and what each has there.
fn differences(ours: &Tree, theirs: &Tree) -> BTreeMap<String, String> {
    let paths: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let absent = "absent".to_owned();
    paths
        .into_iter()
        .filter_map(|path| {
            let (a, b) = (ours.get(path).unwrap_or(&absent), theirs.get(path).unwrap_or(&absent));
            (a != b).then(|| (path.clone(), format!("{a} here, {b} there")))
        })
        .collect()
}
