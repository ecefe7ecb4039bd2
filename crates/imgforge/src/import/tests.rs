//! Imports of generated repositories, whose edges are known beforehand; and of what real ones have.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use imgforge_core::diagnostic::Problems;
use imgforge_core::graph::ImageGraph;
use imgforge_core::name::ImageName;
use imgforge_core::workspace::{self, Workspace};
use proptest::prelude::*;

use super::*;

struct Repository(tempfile::TempDir);

impl Repository {
    fn new(files: &[(&str, &str)]) -> Self {
        let repository = Self(tempfile::tempdir().unwrap());
        // A folder of its own, so that the workspace has a name.
        fs::create_dir(repository.root()).unwrap();
        for (path, text) in files {
            repository.write(path, text);
        }
        repository
    }

    fn root(&self) -> Utf8PathBuf {
        Utf8Path::from_path(self.0.path()).unwrap().join("acme")
    }

    fn write(&self, path: &str, text: &str) {
        let full = self.root().join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(full, text).unwrap();
    }

    fn import(&self) -> Import {
        let (root, import) = import(&self.root()).unwrap();
        import.write(&root).unwrap();
        import
    }

    fn load(&self) -> Workspace {
        let loaded = workspace::load(&WorkTree::uncached(&self.root()), None);
        let workspace = loaded.unwrap_or_else(|problems| panic!("{:?}", messages(problems)));
        ImageGraph::new(&workspace).unwrap_or_else(|problems| panic!("{:?}", messages(problems)));
        workspace
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }
}

fn messages(problems: Problems) -> Vec<String> {
    problems.sorted().iter().map(|problem| problem.message().to_owned()).collect()
}

/// `child <- parent` by the places that images are described at.
fn edges(import: &Import, workspace: &Workspace) -> BTreeSet<(String, String)> {
    let place = |name: &ImageName| {
        import
            .taken
            .iter()
            .find(|taken| taken.image == name.as_str())
            .map_or(name.to_string(), |taken| taken.place.clone())
    };
    let images = workspace.images.values();
    images
        .flat_map(|image| image.parents.iter().map(|parent| (place(image.name()), place(&parent.name))))
        .collect()
}

/// A family: the parents of each image, all before it.
fn family() -> impl Strategy<Value = Vec<Vec<usize>>> {
    let parents = proptest::collection::btree_set(0_usize..12, 0..3);
    proptest::collection::vec(parents, 1..10).prop_map(|family| {
        let of = |(n, parents): (usize, BTreeSet<usize>)| {
            parents.into_iter().filter(|parent| *parent < n).collect()
        };
        family.into_iter().enumerate().map(of).collect()
    })
}

/// A Dockerfile that stands on the first of these references, and takes files from the others.
fn dockerfile(references: &[String], how: usize) -> String {
    let mut text = String::new();
    let base = references.first().map_or("debian:12", String::as_str);
    match how % 3 {
        0 => text.push_str(&format!("FROM {base}\n")),
        1 => text.push_str(&format!("ARG BASE={base}\nFROM $BASE AS it\n")),
        _ => {
            let (name, tag) = base.rsplit_once(':').unwrap();
            text.push_str(&format!("ARG TAG={tag}\nFROM {name}:${{TAG}} AS one\nRUN make\nFROM one\n"));
        }
    }
    for (n, reference) in references.iter().enumerate().skip(1) {
        text.push_str(&match n % 2 {
            0 => format!("COPY --from={reference} /x /x\n"),
            _ => format!("RUN --mount=type=bind,from={reference},target=/m cp /m/x /\n"),
        });
    }
    text.push_str("COPY file /\n");
    text
}

/// The same family, told in different ways. The place of an image, and its Dockerfile's text.
#[derive(Debug, Clone, Copy)]
enum Told {
    Folders,
    Versions,
    BakeJson,
    BakeHcl,
    BakeContexts,
    Compose,
}

impl Told {
    fn place(self, n: usize) -> String {
        match self {
            Self::Folders => format!("images/it{n}/Dockerfile"),
            Self::Versions => format!("tool/1.{n}/Dockerfile"),
            Self::BakeJson => format!("docker-bake.json: target \"it{n}\""),
            Self::BakeHcl | Self::BakeContexts => format!("docker-bake.hcl: target \"it{n}\""),
            Self::Compose => format!("compose.yaml: service \"it{n}\""),
        }
    }

    fn reference(self, n: usize) -> String {
        match self {
            Self::Folders => format!("ghcr.io/acme/it{n}:2.0"),
            Self::Versions => format!("acme/tool:1.{n}"),
            Self::BakeJson | Self::BakeHcl | Self::Compose => {
                format!("registry.example.com:5000/acme/it{n}:3")
            }
            Self::BakeContexts => format!("base{n}:x"),
        }
    }

    fn write(self, family: &[Vec<usize>], repository: &Repository) {
        let mut bake_hcl = String::from(
            "variable \"V\" { default = \"${MAJOR}\" }\nvariable \"MAJOR\" { default = 3 }\n\
             function \"tag\" {\n  params = [name]\n  result = [\"registry.example.com:5000/acme/${lower(name)}:${V}\"]\n}\n\
             target \"_all\" { args = { SHARED = \"yes\" } }\n",
        );
        let mut json = serde_json::json!({"variable": {"V": {"default": "3"}}, "target": {}});
        let mut compose = String::from("services:\n  db:\n    image: postgres:16\n");
        for (n, parents) in family.iter().enumerate() {
            let references: Vec<String> = parents.iter().map(|parent| self.reference(*parent)).collect();
            let folder = match self {
                Self::Folders => format!("images/it{n}"),
                Self::Versions => format!("tool/1.{n}"),
                _ => format!("src/{n}"),
            };
            repository.write(&format!("{folder}/Dockerfile"), &dockerfile(&references, n));
            repository.write(&format!("{folder}/file"), "");
            let contexts: Vec<String> = parents
                .iter()
                .map(|parent| format!("\"{}\" = \"target:it{parent}\"", self.reference(*parent)))
                .collect();
            let contexts = if let Self::BakeContexts = self { contexts.join(", ") } else { String::new() };
            bake_hcl.push_str(&format!(
                "target \"it{n}\" {{\n  inherits = [\"_all\"]\n  context = \"{folder}\"\n  tags = tag(\"IT{n}\")\n  contexts = {{ {contexts} }}\n}}\n"
            ));
            json["target"][format!("it{n}")] = serde_json::json!({
                "context": folder, "tags": [format!("registry.example.com:5000/acme/it{n}:${{V}}")], "args": {"N": n.to_string()},
            });
            compose.push_str(&format!(
                "  it{n}:\n    build: {{context: ./{folder}, args: {{N: {n}}}}}\n    image: \"registry.example.com:5000/acme/it{n}:${{TAG:-3}}\"\n"
            ));
        }
        match self {
            Self::BakeHcl | Self::BakeContexts => repository.write("docker-bake.hcl", &bake_hcl),
            Self::BakeJson => repository.write("docker-bake.json", &json.to_string()),
            Self::Compose => repository.write("compose.yaml", &compose),
            Self::Folders | Self::Versions => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_family_has_its_edges_in_whatever_way_it_is_told(
        family in family(),
        told in proptest::sample::select(vec![
            Told::Folders, Told::Versions, Told::BakeJson, Told::BakeHcl, Told::BakeContexts, Told::Compose,
        ]),
    ) {
        let repository = Repository::new(&[]);
        told.write(&family, &repository);
        let import = repository.import();
        let workspace = repository.load();
        prop_assert_eq!(import.taken.len(), family.len(), "{:?}", import);
        let expected: BTreeSet<(String, String)> = family
            .iter()
            .enumerate()
            .flat_map(|(n, parents)| parents.iter().map(move |parent| (told.place(n), told.place(*parent))))
            .collect();
        prop_assert_eq!(edges(&import, &workspace), expected);
        for image in workspace.images.values() {
            let outside: Vec<&str> = image.externals.iter().map(|external| external.reference.as_str()).collect();
            prop_assert!(outside.iter().all(|reference| *reference == "debian:12"), "{outside:?}");
        }
        // The same again changes nothing.
        let again = repository.import();
        prop_assert!(again.files.is_empty() && again.taken.is_empty() && again.gone.is_empty(), "{:?}", again);
        prop_assert_eq!(again.kept.len(), family.len());
    }
}

fn left_out(import: &Import) -> Vec<(&str, &str)> {
    import.left_out.iter().map(|left| (left.what.as_str(), left.why.as_str())).collect()
}

fn taken(import: &Import) -> Vec<(&str, &str)> {
    import.taken.iter().map(|taken| (taken.image.as_str(), taken.place.as_str())).collect()
}

#[test]
fn templates_images_of_windows_and_what_is_no_dockerfile_are_left_out_with_a_word() {
    let repository = Repository::new(&[
        ("base/Dockerfile", "FROM debian:12\nRUN apt-get update\n"),
        ("base/Dockerfile.jinja2", "FROM {{ base }}\n"),
        ("Dockerfile.template", "FROM placeholder\n"),
        ("gen/Dockerfile", "FROM {{ base }}\nRUN x\n"),
        ("win/Dockerfile", "FROM mcr.microsoft.com/windows/servercore:ltsc2022\n"),
        ("win-app/Dockerfile", "FROM acme/win:1\nRUN x\n"),
        ("part/Dockerfile.inc", "RUN only\n"),
        ("no-value/Dockerfile", "ARG BASE\nFROM $BASE\n"),
        ("Dockerfile.dockerignore", "x\n"),
        ("docs/Dockerfile.md", "# words\n"),
    ]);
    let import = repository.import();
    assert_eq!(taken(&import), [("base", "base/Dockerfile")]);
    let left = left_out(&import);
    let why = |what: &str| left.iter().find(|(left, _)| *left == what).map_or("", |(_, why)| why);
    assert!(why("base/Dockerfile.jinja2").contains("a template"), "{left:?}");
    assert!(why("Dockerfile.template").contains("a template"), "{left:?}");
    assert!(why("gen/Dockerfile").contains("a template"), "{left:?}");
    assert!(why("win/Dockerfile").contains("servercore"), "{left:?}");
    assert!(why("win-app/Dockerfile").contains("acme/win:1"), "{left:?}");
    assert!(why("part/Dockerfile.inc").contains("line 1"), "{left:?}");
    assert!(why("no-value/Dockerfile").contains("no name of an image"), "{left:?}");
    assert_eq!(left.len(), 7);
    repository.load();
    assert!(repository.read("imgforge.kdl").contains("    network \"default\"\n"));
}

#[test]
fn an_image_is_called_like_its_folder() {
    let places =
        ["tools/Containerfile", "services/a/Dockerfile", "docker/Dockerfile", "images/web/1.2/Dockerfile"];
    let files: Vec<(&str, &str)> = places.iter().map(|place| (*place, "FROM scratch\nCOPY / /\n")).collect();
    let import = Repository::new(&files).import();
    let mut names: Vec<&str> = taken(&import).into_iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "acme", "tools", "web-1.2"]);
}

#[test]
fn names_do_not_shadow_images_from_outside() {
    let repository = Repository::new(&[
        ("alpine/Dockerfile", "FROM alpine:3.20\n"),
        ("python/Dockerfile", "FROM alpine\n"),
        ("app/Dockerfile", "FROM python:3.12\nCOPY --from=acme/alpine:3.20 /x /x\n"),
        ("node/Dockerfile", "FROM scratch\nCOPY --from=node:20 / /\n"),
    ]);
    let import = repository.import();
    let workspace = repository.load();
    let names: Vec<&str> = workspace.images.keys().map(ImageName::as_str).collect();
    assert_eq!(names, ["acme-alpine", "acme-node", "acme-python", "app"]);
    let expected = BTreeSet::from([("app/Dockerfile".to_owned(), "alpine/Dockerfile".to_owned())]);
    assert_eq!(edges(&import, &workspace), expected);
}

#[test]
fn what_a_bake_file_says_is_kept() {
    let repository = Repository::new(&[
        (
            "docker-bake.hcl",
            r#"
variable "REGISTRY" { default = "ghcr.io/acme" }
variable "TAG" {}
variable "FULL" { default = TAG != "" ? TAG : "dev" }
group "default" { targets = ["web", "tools"] }
group "tools" { targets = ["tool"] }
target "docker-metadata-action" {}
target "_common" {
  context = "."
  dockerfile = "docker/Dockerfile"
  args = { A = "1", B = null }
  labels = { "org.example.of" = "all" }
}
target "web" {
  inherits = ["_common", "docker-metadata-action"]
  target = "web"
  args = { A = "2" }
  tags = ["${REGISTRY}/web:${FULL}", "${REGISTRY}/web:latest"]
  platforms = ["linux/amd64", "linux/arm64"]
}
target "tool" {
  name = "tool-${replace(v, ".", "-")}"
  matrix = { v = ["1.0", "2.0"] }
  inherits = ["_common"]
  target = "tool"
  args = { V = v }
  tags = [for n in ["x", "y"]: "${REGISTRY}/tool:${v}-${n}" if n != "y"]
}
target "lint" {
  inherits = ["_common"]
  output = ["type=cacheonly"]
}
target "arm" {
  inherits = ["_common"]
  platforms = ["linux/arm64"]
}
target "when" {
  inherits = ["_common"]
  tags = ["x:${timestamp()}"]
}
target "app" {
  context = "app"
  contexts = { web-image = "target:web" }
}
"#,
        ),
        (
            "docker/Dockerfile",
            "ARG V=0\nFROM debian:12 AS web\nRUN echo\nFROM alpine:$V AS tool\nARG A\nCOPY app /app\n",
        ),
        ("app/Dockerfile", "FROM web-image\nCOPY --from=ghcr.io/acme/tool:2.0-x /x /x\n"),
    ]);
    let import = repository.import();
    let workspace = repository.load();
    let names: Vec<&str> = workspace.images.keys().map(ImageName::as_str).collect();
    assert_eq!(names, ["app", "tool-1-0", "tool-2-0", "web"]);
    insta::assert_snapshot!(repository.read("docker/image.kdl"));
    insta::assert_snapshot!("a_bake_file_as_a_workspace", repository.read("imgforge.kdl"));
    let place = |name: &str| format!("docker-bake.hcl: target \"{name}\"");
    let expected = BTreeSet::from([(place("app"), place("web")), (place("app"), place("tool-2-0"))]);
    assert_eq!(edges(&import, &workspace), expected);
    let left: Vec<String> =
        left_out(&import).into_iter().map(|(what, why)| format!("{what}: {why}")).collect();
    insta::assert_snapshot!("what_a_bake_file_has_that_is_no_image", left.join("\n"));
}

#[test]
fn a_folder_is_the_context_when_it_has_what_is_copied() {
    let repository = Repository::new(&[
        ("docker/web/Dockerfile", "FROM debian:12\nCOPY services/web/*.py /srv/\n"),
        ("services/web/main.py", ""),
        ("own/Dockerfile", "FROM debian:12\nCOPY here /\n"),
        ("own/here", ""),
        ("lost/Dockerfile", "FROM debian:12\nCOPY nowhere /\n"),
        ("Dockerfile", "FROM debian:12\nCOPY . /all\n"),
        (".devcontainer/Dockerfile", "FROM debian:12\n"),
    ]);
    let import = repository.import();
    let workspace = repository.load();
    let context = |name: &str| workspace.images[name].context.dir.as_str();
    assert_eq!((context("web"), context("own"), context("lost"), context("acme")), ("", "own", "lost", ""));
    assert_eq!(context("devcontainer"), ".devcontainer");
    assert!(workspace.images["acme"].context.passed_over.contains(&"imgforge.kdl".into()));
    let lost = import.decisions.iter().find(|decision| decision.what == "lost").unwrap();
    assert!(lost.text.contains("nowhere"), "{lost:?}");
}

#[test]
fn again_it_adds_what_is_new_says_what_is_gone_and_loses_nothing() {
    let repository = Repository::new(&[
        ("base/Dockerfile", "FROM debian:12\n"),
        ("app/Dockerfile", "FROM acme/base:1\n"),
        ("old/Dockerfile", "FROM acme/base:1\n"),
    ]);
    repository.import();
    let mine = "// mine\nimage \"foundation\" {\n    dockerfile \"Dockerfile\"\n    alias \"acme/base:1\" // kept\n    lint { allow \"IF005\" reason=\"x\"; }\n}\n";
    repository.write("base/image.kdl", mine);
    let workspace_before = repository.read("imgforge.kdl");
    let app_before = repository.read("app/image.kdl");
    repository.write("new/Dockerfile", "FROM acme/base:2\nCOPY --from=acme/app:1 /x /\n");
    repository.write("app/Dockerfile.debug", "FROM acme/app:1\n");
    fs::remove_file(repository.root().join("old/Dockerfile")).unwrap();
    let (_, dry) = import(&repository.root()).unwrap();
    assert_eq!(repository.read("base/image.kdl"), mine, "nothing is written before it is asked for");
    let import = repository.import();
    assert_eq!(serde_json::to_value(&dry).unwrap(), serde_json::to_value(&import).unwrap());
    assert_eq!(taken(&import), [("app-debug", "app/Dockerfile.debug"), ("new", "new/Dockerfile")]);
    assert_eq!(import.kept, ["app", "foundation", "old"]);
    assert_eq!(import.gone.len(), 1);
    assert_eq!(import.gone[0].what, "old");
    assert_eq!(repository.read("imgforge.kdl"), workspace_before);
    let base = repository.read("base/image.kdl");
    assert_eq!(
        base,
        mine.replace(
            "    lint { allow \"IF005\" reason=\"x\"; }\n}",
            "    lint { allow \"IF005\" reason=\"x\"; }\n    alias \"acme/base:2\"\n}"
        )
    );
    let app = repository.read("app/image.kdl");
    assert!(app.contains("    alias \"acme/app:1\"\n") && app.contains("image \"app-debug\""), "{app}");
    assert!(app_before.lines().all(|line| app.contains(line)), "{app}");
    fs::remove_file(repository.root().join("old/image.kdl")).unwrap();
    let workspace = repository.load();
    let parents = |name: &str| -> Vec<&str> {
        workspace.images[name].parents.iter().map(|parent| parent.name.as_str()).collect()
    };
    assert_eq!(parents("new"), ["foundation", "app"]);
    assert_eq!(parents("app-debug"), ["app"]);
}

#[test]
fn what_the_workspace_would_not_take_is_left_out_with_its_reason() {
    let repository = Repository::new(&[
        ("a/Dockerfile", "FROM acme/b:1\n"),
        ("b/Dockerfile", "FROM acme/a:1\n"),
        ("c/Dockerfile", "FROM debian:12\nCOPY --from=Not_A_Reference! /x /\n"),
        ("d/Dockerfile", "FROM acme/c:1\n"),
    ]);
    let import = repository.import();
    let workspace = repository.load();
    let left = left_out(&import);
    assert!(
        left.iter().any(|(what, why)| *what == "c/Dockerfile" && why.contains("Not_A_Reference!")),
        "{left:?}"
    );
    assert!(left.iter().any(|(_, why)| why.contains("stand on one another")), "{left:?}");
    assert_eq!(workspace.images.len(), 2);
    assert_eq!(workspace.images["d"].externals[0].reference, "acme/c:1");
}

#[test]
fn an_argument_without_a_value_in_a_tag_gets_one_to_look_at() {
    let repository = Repository::new(&[
        ("base/Dockerfile", "FROM debian:12\n"),
        ("app/Dockerfile", "ARG VERSION\nFROM acme/base:${VERSION}\n"),
    ]);
    let import = repository.import();
    let workspace = repository.load();
    assert_eq!(workspace.images["app"].parents[0].name.as_str(), "base");
    assert!(
        import.decisions.iter().any(|decision| decision.what == "app" && decision.text.contains("VERSION"))
    );
}

#[test]
fn no_file_that_others_have_written_is_too_much() {
    let deep = format!("variable \"A\" {{ default = {}1{} }}\n", "[".repeat(100_000), "]".repeat(100_000));
    let round = "variable \"A\" { default = B }\nvariable \"B\" { default = A }\nfunction \"f\" {\n  params = [x]\n  result = f(x)\n}\n\
                 target \"t\" { context = A }\ntarget \"u\" { context = f(1) }\ntarget \"v\" { inherits = [\"w\"] }\ntarget \"w\" { inherits = [\"v\"] }\n\
                 group \"g\" { targets = [\"g\", \"t\"] }\n";
    // Each of these means far more than it says: 2^60 values, a text of 2^60 bytes, and the like.
    let mut doubled = "variable \"A0\" { default = \"xxxxxxxx\" }\n".to_owned();
    let mut tried = "variable \"T0\" { default = f(1) }\n".to_owned();
    for n in 1..60 {
        let before = n - 1;
        writeln!(doubled, "variable \"A{n}\" {{ default = \"${{A{before}}}${{A{before}}}\" }}").unwrap();
        writeln!(tried, "variable \"T{n}\" {{ default = try(T{before}, T{before}) }}").unwrap();
    }
    doubled.push_str("target \"t\" { dockerfile = \"d/Dockerfile\"\n context = A59 }\n");
    tried.push_str("target \"t\" { context = T59 }\n");
    let calls = "function \"f\" {\n  params = [x]\n  result = f(x)\n}\n\
                 function \"g\" {\n  params = [x]\n  result = replace(x, \"a\", x)\n}\n\
                 function \"h\" {\n  params = [x]\n  result = regex_replace(x, \"a*\", join(\"$0\", [x, x, x, x]))\n}\n"
        .to_owned();
    let nested = format!(
        "{calls}target \"t\" {{ context = {}\"aaaa\"{} }}\ntarget \"u\" {{ context = {}\"aaaa\"{} }}\n",
        "g(".repeat(30),
        ")".repeat(30),
        "h(".repeat(30),
        ")".repeat(30)
    );
    let all = (0..40).map(|n| format!("a{n} = [1, 2, 3, 4, 5, 6, 7, 8]")).collect::<Vec<_>>().join("\n");
    let matrix = format!("target \"t\" {{\n name = \"x\"\n matrix = {{\n{all}\n}}\n}}\n");
    let signs = format!("variable \"A\" {{ default = {}true }}\n", "!".repeat(100_000));
    let choices = format!("variable \"A\" {{ default = {}1 }}\n", "true ? 1 : ".repeat(50_000));
    let sum = format!("variable \"A\" {{ default = 1{} }}\n", " + 1".repeat(100_000));
    let defaults = format!(
        "services:\n  a:\n    build: d\n    image: {}x{}\n",
        "${A:-".repeat(50_000),
        "}".repeat(50_000)
    );
    let repository = Repository::new(&[
        ("a/docker-bake.hcl", &deep),
        ("b/docker-bake.hcl", round),
        ("c/docker-bake.json", "{"),
        ("compose.yml", "services: [\n"),
        ("docker-compose.yml", "services:\n  a: &a\n    build: *a\n"),
        ("e/docker-bake.hcl", &doubled),
        ("f/docker-bake.hcl", &format!("{calls}{tried}")),
        ("g/docker-bake.hcl", &nested),
        ("h/docker-bake.hcl", &matrix),
        ("i/docker-bake.hcl", &signs),
        ("j/docker-bake.hcl", &choices),
        ("k/docker-bake.hcl", &sum),
        ("l/compose.yml", &defaults),
        ("d/Dockerfile", "FROM scratch\n"),
    ]);
    let import = repository.import();
    assert_eq!(taken(&import), [("d", "d/Dockerfile")]);
    repository.load();
}
