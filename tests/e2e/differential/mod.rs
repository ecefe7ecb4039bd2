//! One Dockerfile, two engines: the embedded engine makes what Docker makes.
//!
//! Each case is built by both, through the library. The layers of both are put one upon the other, and what comes out
//! is compared: paths, types, modes, owners, times, links, attributes, content; and the configuration. What Docker
//! 20.10 does not know is in [`newer`], with expectations written by hand.

mod cases;
mod causes;
mod context;
mod generate;
mod newer;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use futures_util::{StreamExt, stream};
use imgforge::CancellationToken;
use imgforge::core::manifest::{Compression, Layers, Network};
use imgforge::core::name::ImageName;
use imgforge::embedded::{Embedded, Settings};
use imgforge::engine::{BuildRequest, BuiltImage, Docker, Engine, Exported, Secrets};
use imgforge_oci::Digest;
use imgforge_state::StateDir;
use imgforge_testkit::{docker, unique};

use self::tree::Tree;
use crate::IMGFORGE;

/// How many builds run at once in each engine.
const AT_ONCE: usize = 6;

/// How many Dockerfiles are made by chance; `IMGFORGE_DIFFERENTIAL=FIRST-LAST` says other seeds.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=60;

/// What all cases stand on: busybox, two users, folders and links to copy over.
const BASE: &str = r#"FROM scratch
COPY busybox /bin/busybox
COPY root /
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /tmp /var /home/app /real/dir /full/sub && chmod 1777 /tmp && chown app:app /home/app \
 && echo old > /real/file && ln /real/file /real/hard && touch /full/f /full/sub/g /full/sub/h \
 && ln -s real /ln && ln -s /real /abs && ln -s nowhere /dangling && ln -s loop /loop
ENV INHERITED=yes
"#;

/// What happens to a case in one engine.
type Built = Result<BuiltImage, String>;

/// Both engines with the base image in them.
struct Engines {
    docker: Docker,
    embedded: Embedded,
    folder: tempfile::TempDir,
    /// Of the images, so that they can be removed.
    label: (String, String),
    /// The base's name in both.
    base: String,
}

impl Engines {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = StateDir::at(&Utf8Path::from_path(folder.path()).unwrap().join("store"));
        let settings =
            Settings { store, why: String::new(), registries: Vec::new(), worker: IMGFORGE.into() };
        let name = unique("differential");
        let engines = Self {
            docker: Docker::connect().await.unwrap(),
            embedded: Embedded::open(settings).unwrap(),
            folder,
            label: ("imgforge.test".into(), name.clone()),
            base: format!("{name}:base"),
        };
        let request = || BuildRequest { entries: context::base(), ..engines.request(BASE) };
        for engine in engines.both() {
            let built = build(engine, request()).await.unwrap();
            engine.tag(built.id.as_str(), &engines.base).await.unwrap();
        }
        engines
    }

    fn both(&self) -> [&dyn Engine; 2] {
        [&self.docker, &self.embedded]
    }

    fn request(&self, dockerfile: &str) -> BuildRequest {
        let begins = |word: &str| dockerfile.trim_start().to_ascii_lowercase().starts_with(word);
        let is_whole = begins("from") || begins("arg a=1\nfrom") || begins("#");
        let dockerfile = if is_whole { dockerfile.to_owned() } else { format!("FROM BASE\n{dockerfile}") };
        let [name, _] = self.base.split(':').collect::<Vec<_>>()[..] else { panic!("{}", self.base) };
        BuildRequest {
            target: ImageName::new("differential").unwrap(),
            dockerfile: dockerfile.replace("BASE", &self.base).replace("UNIQUE", name),
            root: Utf8PathBuf::from("/"),
            entries: context::entries(),
            supplied: Vec::new(),
            args: BTreeMap::new(),
            labels: [self.label.clone()].into(),
            network: Network::None,
            layers: Layers::default(),
            compression: Compression::default(),
            platform: "linux/amd64".into(),
            secrets: Secrets::default(),
            anew: false,
        }
    }

    /// Builds every case in both engines.
    async fn build(&self, cases: &[(String, String)]) -> Vec<[Built; 2]> {
        let mut built: Vec<[Built; 2]> = Vec::new();
        let mut columns = Vec::new();
        for engine in self.both() {
            let builds = stream::iter(cases).map(|(_, dockerfile)| build(engine, self.request(dockerfile)));
            columns.push(builds.buffered(AT_ONCE).collect::<Vec<Built>>());
        }
        let [docker, embedded] = columns.try_into().unwrap_or_else(|_| panic!("two engines"));
        let (docker, embedded) = futures_util::join!(docker, embedded);
        built.extend(docker.into_iter().zip(embedded).map(|(docker, embedded)| [docker, embedded]));
        built
    }

    /// Takes the images of a column out of their engine.
    async fn export(&self, column: usize, built: &[[Built; 2]]) -> Exported {
        let ids: BTreeSet<&Digest> =
            built.iter().filter_map(|both| both[column].as_ref().ok().map(|built| &built.id)).collect();
        let ids: Vec<Digest> = ids.into_iter().cloned().collect();
        let folder = Utf8Path::from_path(self.folder.path()).unwrap().join(format!("exported-{column}"));
        std::fs::create_dir(&folder).unwrap();
        let engine = self.both()[column];
        if let Ok(exported) = engine.export(&ids, BTreeSet::new(), &folder).await {
            return exported;
        }
        // A daemon on fuse-overlayfs loses the content of files with two names ("file integrity checksum failed"), and
        // then gives nothing at all: one by one, the others can be had.
        let mut all = Exported::default();
        for (number, id) in ids.iter().enumerate() {
            let folder = folder.join(number.to_string());
            std::fs::create_dir(&folder).unwrap();
            let there = all.layers.keys().cloned().collect();
            if let Ok(exported) = engine.export(std::slice::from_ref(id), there, &folder).await {
                all.configs.extend(exported.configs);
                all.layers.extend(exported.layers);
            }
        }
        all
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        docker::Docker::succeeds(&["rmi", &self.base]);
        docker::Docker::remove_images_labelled(&format!("{}={}", self.label.0, self.label.1));
    }
}

async fn build(engine: &dyn Engine, request: BuildRequest) -> Built {
    let built = engine.build(request, Arc::new(|_| ()), CancellationToken::new()).await;
    built.map_err(|error| error.to_string())
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

/// Builds cases that both engines can build, and tells all differences at once.
fn compare(cases: &[(String, String)]) {
    let found = block_on(async {
        let engines = Engines::new().await;
        let built = engines.build(cases).await;
        let docker = engines.export(0, &built).await;
        let embedded = engines.export(1, &built).await;
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        for ((name, dockerfile), built) in cases.iter().zip(&built) {
            let differences = match built {
                [Ok(theirs), Ok(_)] if !docker.configs.contains_key(&theirs.id) => {
                    vec!["Docker cannot give its image".to_owned()]
                }
                [Ok(theirs), Ok(ours)] => {
                    let (theirs, ours) = (Tree::of(&docker, &theirs.id), Tree::of(&embedded, &ours.id));
                    let mut differences = Tree::differences(&theirs.0, &ours.0);
                    differences.extend(settings(&theirs.1, &ours.1));
                    differences
                }
                [Err(_), Err(_)] if name.starts_with("seed") => Vec::new(),
                [theirs, ours] => vec![format!("Docker: {}; ours: {}", end(theirs), end(ours))],
            };
            let differences = differences.into_iter().filter(|difference| {
                let known = cases::DIFFERENT
                    .iter()
                    .find(|(case, part, _)| (*case == name || *case == "*") && difference.contains(part));
                seen.extend(known.map(|(case, ..)| *case));
                known.is_none()
            });
            let differences: Vec<String> = differences.collect();
            if !differences.is_empty() {
                found.push(format!("--- {name}\n{dockerfile}\n    {}", differences.join("\n    ")));
            }
        }
        for (case, _, why) in cases::DIFFERENT {
            if cases.iter().any(|(name, _)| name == case) && !seen.contains(case) {
                found.push(format!("--- {case}\n    is said to differ ({why}), and does not"));
            }
        }
        found
    });
    assert!(found.is_empty(), "{} of {} differ\n{}", found.len(), cases.len(), found.join("\n"));
}

fn end(built: &Built) -> &str {
    match built {
        Ok(_) => "built",
        Err(message) => message,
    }
}

/// What of an image's configuration is not the same.
fn settings(theirs: &serde_json::Value, ours: &serde_json::Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |name: &str, theirs: &serde_json::Value, ours: &serde_json::Value| {
        let (theirs, ours) = (without_nothing(theirs), without_nothing(ours));
        if theirs != ours {
            found.push(format!("{name}: Docker {theirs}, ours {ours}"));
        }
    };
    for name in ["author", "architecture", "os", "variant"] {
        compare(name, &theirs[name], &ours[name]);
    }
    for name in [
        "ArgsEscaped",
        "Cmd",
        "Entrypoint",
        "Env",
        "ExposedPorts",
        "Healthcheck",
        "Labels",
        "OnBuild",
        "Shell",
        "StopSignal",
        "User",
        "Volumes",
        "WorkingDir",
    ] {
        compare(name, &theirs["config"][name], &ours["config"][name]);
    }
    compare("history", &history(theirs), &history(ours));
    found
}

/// Who made each layer, where BuildKit of 2026 still writes what that of Docker 20.10 wrote.
fn history(config: &serde_json::Value) -> serde_json::Value {
    let rows = config["history"].as_array().into_iter().flatten();
    let texts = rows.filter_map(|row| row["created_by"].as_str());
    texts
        .map(without_flags)
        .filter(|text| !["EXPOSE ", "HEALTHCHECK ", "RUN "].iter().any(|word| text.starts_with(word)))
        .collect()
}

/// Without the flags of COPY and ADD, which Docker 20.10 does not write there.
fn without_flags(text: &str) -> String {
    let is_kept = |word: &&str| !word.starts_with("--ch") && !word.starts_with("--from");
    text.split(' ').filter(is_kept).collect::<Vec<_>>().join(" ")
}

/// Go writes what is empty as `null`, or not at all.
fn without_nothing(value: &serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::String(text) if text.is_empty() => serde_json::Value::Null,
        serde_json::Value::Array(list) if list.is_empty() => serde_json::Value::Null,
        serde_json::Value::Object(map) => {
            let others = map.iter().filter(|(name, _)| !name.starts_with("imgforge."));
            let map: serde_json::Map<_, _> =
                others.map(|(name, value)| (name.clone(), value.clone())).collect();
            if map.is_empty() { serde_json::Value::Null } else { map.into() }
        }
        other => other.clone(),
    }
}

#[test]
fn both_engines_make_the_same_image_of_each_dockerfile() {
    let cases: Vec<_> = cases::BUILT.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
    compare(&cases);
}

#[test]
fn both_engines_refuse_the_same_dockerfiles() {
    let cases: Vec<(String, String)> =
        cases::FAILED.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
    let built = block_on(async { Engines::new().await.build(&cases).await });
    let mut found = Vec::new();
    for ((name, text), [theirs, ours]) in cases.iter().zip(&built) {
        if theirs.is_ok() || ours.is_ok() {
            found.push(format!("--- {name}\n{text}\n    Docker: {}; ours: {}", end(theirs), end(ours)));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn both_engines_make_the_same_image_of_dockerfiles_made_by_chance() {
    let seeds = match std::env::var("IMGFORGE_DIFFERENTIAL") {
        Ok(text) => {
            let (first, last) = text.split_once('-').expect("FIRST-LAST");
            first.parse().unwrap()..=last.parse().unwrap()
        }
        Err(_) => SEEDS,
    };
    let cases: Vec<_> = seeds.map(|seed| (format!("seed {seed}"), generate::dockerfile(seed))).collect();
    compare(&cases);
}
