//! The real thing: this machine's Debian repositories and its Docker daemon.

#![expect(clippy::unwrap_used, reason = "these are tests, helpers and all")]

use std::fs;
use std::process::{Command, Output};
use std::sync::LazyLock;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::context::{SuppliedContent, SuppliedFile};
use imgforge_core::lock::LockedPackage;
use imgforge_core::manifest::{AptSource, RootInclude};
use imgforge_packages::{
    Cache, Machine, Network, Options, Request, Scheme, Seen, Silent, compare, fetch, fetch_index,
    is_configurable, stage_packages, stage_root,
};
use imgforge_syntax::{Located, Span};
use tokio::runtime::Runtime;

/// The threads of connections; tests fetch in their own.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
static NETWORK: LazyLock<Network> = LazyLock::new(|| Network::new(RUNTIME.handle()).unwrap());

/// The package set that the essential root gets, and what is installed on it.
const CHILD: [&str; 4] = ["apt", "nginx-light", "ruby", "s6"];

fn debian() -> AptSource {
    let located = |text: &str| Located::new(text.to_owned(), Span::default());
    AptSource {
        snapshots: Vec::new(),
        name: located("debian"),
        suites: ["bookworm", "bookworm-updates", "bookworm-security"].map(located).into(),
        components: vec![located("main")],
        uri: None,
        keyring: None,
    }
}

/// A folder to build from, and the name of the image; the image is removed when this goes.
struct Build {
    folder: tempfile::TempDir,
    image: String,
}

impl Build {
    fn new(name: &str) -> Self {
        let image = format!("imgforge-test-{name}-{}", std::process::id());
        Self { folder: tempfile::tempdir().unwrap(), image }
    }

    fn path(&self, path: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.folder.path()).unwrap().join(path)
    }

    fn supply(&self, files: Vec<SuppliedFile>) {
        for file in files {
            let path = self.path(file.path.as_str());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match file.content {
                SuppliedContent::Bytes(bytes) => fs::write(path, bytes).unwrap(),
                SuppliedContent::File(from) => {
                    fs::copy(from, path).unwrap();
                }
            }
        }
    }

    fn run(&self, dockerfile: &str) -> Output {
        fs::write(self.path("Dockerfile"), dockerfile).unwrap();
        let folder = self.folder.path().to_str().unwrap();
        docker(&["build", "--network=none", "--progress=plain", "--tag", &self.image, folder])
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        docker(&["image", "rm", "--force", &self.image]);
    }
}

/// Debian's own command where it is, since it speaks BuildKit by itself; others need a plug-in for that.
fn docker(arguments: &[&str]) -> Output {
    const DEBIAN: &str = "/usr/bin/docker";
    let command = if Utf8Path::new(DEBIAN).is_file() { DEBIAN } else { "docker" };
    Command::new(command).args(arguments).env("DOCKER_BUILDKIT", "1").output().unwrap()
}

fn log(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a shell command in a container of `image` prints.
fn inside(image: &str, command: &str) -> String {
    let output = docker(&["run", "--rm", "--network=none", image, "/bin/sh", "-c", command]);
    assert!(output.status.success(), "{command}: {}", log(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn assert_is_as_locked(image: &str, locked: &[LockedPackage]) {
    let shown: Vec<String> = compare(Scheme::Debian, &inside(image, "cat /var/lib/dpkg/status"), locked)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(shown, Vec::<String>::new());
    assert_eq!(inside(image, "dpkg --audit"), "");
    let leftovers = "find /usr/share/man -mindepth 1; ls -d /var/lib/dpkg/*-old /usr/sbin/policy-rc.d /var/log/dpkg.log /var/cache/debconf/*-old \
                      /etc/passwd- 2>/dev/null || :";
    assert_eq!(inside(image, leftovers), "");
    let documentation = "find /usr/share/doc '(' -type f ! -name copyright ')' -o -xtype l";
    assert_eq!(inside(image, documentation), "");
}

#[test]
fn a_root_is_made_of_packages_alone_and_more_packages_are_installed_on_it_without_a_network() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(Utf8Path::from_path(folder.path()).unwrap());
    let repository = Machine::read().unwrap().repository(&debian(), Utf8Path::new("/"), "amd64").unwrap();
    let index = fetch_index(&repository, &Seen::default(), &cache, &NETWORK, &Silent).unwrap();
    let request = Request { include: Some(RootInclude::Essential), ..Request::default() };
    let root = index.resolve(&request).unwrap();
    assert!(is_configurable(&root));
    fetch(&root, std::slice::from_ref(&repository), &cache, &NETWORK, &Silent).unwrap();

    let build = Build::new("root");
    let staged = stage_root(&root, Options::default(), &cache).unwrap();
    build.supply(staged.clone());
    let output = build.run(
        "FROM scratch\nADD .imgforge/root.tar /\n\
         RUN --mount=type=bind,source=.imgforge/packages,target=/mnt [\"/bin/sh\",\"/mnt/configure\"]\n",
    );
    assert!(output.status.success(), "{}", log(&output));
    assert_is_as_locked(&build.image, &root);
    assert_eq!(inside(&build.image, "stat -c %a%u%g /tmp /root /bin/sh"), "177700\n70000\n77700\n");

    // The same packages make the same archive, read or made anew.
    assert_eq!(stage_root(&root, Options::default(), &cache).unwrap(), staged);
    let archive = staged.iter().find(|file| file.path == ".imgforge/root.tar").unwrap();
    let SuppliedContent::File(tar) = &archive.content else { panic!("the archive is a file") };
    let first = fs::read(tar).unwrap();
    fs::remove_file(tar).unwrap();
    stage_root(&root, Options::default(), &cache).unwrap();
    assert!(fs::read(tar).unwrap() == first, "the archive differs from run to run");

    install_on(&build.image, &index, &root, &repository, &cache);
}

fn install_on(
    parent: &str,
    index: &imgforge_packages::Index,
    root: &[LockedPackage],
    repository: &imgforge_packages::Repository,
    cache: &Cache,
) {
    let request = Request { include: None, wanted: CHILD.map(str::to_owned).into(), installed: root };
    let added = index.resolve(&request).unwrap();
    assert!(added.iter().all(|package| root.iter().all(|parent| parent.name != package.name)));
    fetch(&added, std::slice::from_ref(repository), cache, &NETWORK, &Silent).unwrap();
    let child = Build::new("child");
    child.supply(stage_packages(&added, Options::default(), cache).unwrap());
    let output = child.run(&format!(
        "FROM {parent}\n\
         RUN --mount=type=bind,source=.imgforge/packages,target=/mnt [\"/bin/sh\",\"/mnt/install\"]\n\
         RUN apt-get check && nginx -t && ruby -e 'puts 6 * 7' && command -v s6-svscan\n"
    ));
    assert!(output.status.success(), "{}", log(&output));
    let all: Vec<LockedPackage> = root.iter().chain(&added).cloned().collect();
    assert_is_as_locked(&child.image, &all);

    // A failure of dpkg fails the build, and says why.
    let broken = Build::new("broken");
    let without: Vec<LockedPackage> = added.iter().filter(|p| p.name != "nginx-common").cloned().collect();
    broken.supply(stage_packages(&without, Options::default(), cache).unwrap());
    let output = broken.run(&format!(
        "FROM {parent}\n\
         RUN --mount=type=bind,source=.imgforge/packages,target=/mnt [\"/bin/sh\",\"/mnt/install\"]\n"
    ));
    assert!(!output.status.success());
    assert!(log(&output).contains("nginx-common"), "{}", log(&output));
}
