//! `imgforge show IMAGE`: what an image is made of.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use imgforge::Session;
use imgforge::core::lock::Lock;
use imgforge::core::manifest::{GiveUp, Log, Millis, Process, Reload, Restart};
use imgforge::core::name::ImageName;
use imgforge::core::services::{self, Field, MergedService};
use imgforge::core::workspace::External;
use imgforge::report::human_duration;
use schemars::JsonSchema;
use serde::Serialize;

use crate::Global;
use crate::console::{DIM, count, print};
use crate::failure::Failure;
use crate::verbs::outdated::short;
use crate::verbs::{Format, json, open};

/// Show what an image is made of: parents, packages, services with the manifest line of each field
///
/// Reads only manifests and the lock; no engine is asked.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  imgforge show guestbook\n  imgforge show guestbook --format json | jq .services"
)]
pub(crate) struct Show {
    /// The image
    image: String,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What `show` prints.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ShowOutput {
    version: u32,
    name: String,
    description: Option<String>,
    folder: String,
    /// From the root of the family down to the image, along `from`.
    chain: Vec<String>,
    parents: Vec<ShownParent>,
    children: Vec<String>,
    externals: Vec<ShownExternal>,
    packages: Vec<ShownPackage>,
    services: Vec<ShownService>,
    ports: Vec<String>,
    volumes: Vec<String>,
    tags: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct ShownParent {
    name: String,
    /// `from`, `copy` or `mount`.
    kind: String,
    /// `path:line`.
    at: String,
}

#[derive(Serialize, JsonSchema)]
struct ShownExternal {
    reference: String,
    /// The digest that is locked or written, or null.
    digest: Option<String>,
    /// By platform: the digest of its image, as it is locked.
    platforms: BTreeMap<String, String>,
    /// The OCI image layout that it is in, when it is in no registry.
    oci_layout: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct ShownPackage {
    name: String,
    version: String,
    architecture: String,
    /// The image that brings it.
    image: String,
}

#[derive(Serialize, JsonSchema)]
struct ShownService {
    name: String,
    enabled: bool,
    fields: Vec<ShownField>,
}

#[derive(Serialize, JsonSchema)]
struct ShownField {
    field: String,
    value: String,
    /// `path:line`.
    at: String,
}

impl Show {
    pub(crate) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        let session = open(global)?;
        let name = session.image(&self.image)?;
        let shown = output(&session, &name)?;
        print(&match self.format {
            Format::Json => json(&shown),
            Format::Text => text(&shown),
        });
        Ok(ExitCode::SUCCESS)
    }
}

fn output(session: &Session, name: &ImageName) -> Result<ShowOutput, Failure> {
    let (workspace, graph) = (session.workspace(), session.graph());
    let image = &workspace.images[name];
    let chain = graph.chain(name);
    let merged = services::merge(workspace, graph, name).map_err(imgforge::Error::from)?;
    let in_chain = || chain.iter().map(|name| &workspace.images[*name]);
    let lock = session.read_lock()?;
    Ok(ShowOutput {
        version: 1,
        name: name.to_string(),
        description: image.manifest.description.clone(),
        folder: image.manifest.file.dir().to_string(),
        chain: chain.iter().map(ToString::to_string).collect(),
        parents: image
            .parents
            .iter()
            .map(|parent| ShownParent {
                name: parent.name.to_string(),
                kind: parent.kind.as_str().to_owned(),
                at: parent.file.at(parent.span),
            })
            .collect(),
        children: graph.children(name).map(ToString::to_string).collect(),
        externals: image.externals.iter().map(|used| external(session, used, &lock)).collect(),
        packages: packages(session, &lock, &chain),
        services: merged.merged.values().map(service).collect(),
        ports: in_chain().flat_map(|image| &image.manifest.expose).map(|port| port.value.clone()).collect(),
        volumes: in_chain()
            .flat_map(|image| &image.manifest.volumes)
            .map(|volume| volume.value.clone())
            .collect(),
        tags: session.release_references(name).map_err(imgforge::Error::Problems)?,
    })
}

fn external(session: &Session, used: &External, lock: &Lock) -> ShownExternal {
    let locked = lock.externals.get(&used.reference);
    let digest = used.pinned().or_else(|| locked.map(|locked| locked.digest.clone()));
    let platforms = locked.iter().flat_map(|locked| &locked.platforms);
    ShownExternal {
        reference: used.reference.clone(),
        digest: digest.map(String::from),
        platforms: platforms.map(|(platform, digest)| (platform.clone(), digest.to_string())).collect(),
        oci_layout: session.oci_layout(&used.reference).map(ToString::to_string),
    }
}

fn packages(session: &Session, lock: &Lock, chain: &[&ImageName]) -> Vec<ShownPackage> {
    let mut shown = Vec::new();
    for name in chain {
        for package in session.packages_of(lock, name) {
            shown.push(ShownPackage {
                name: package.name.clone(),
                version: package.version.clone(),
                architecture: package.architecture.clone(),
                image: name.to_string(),
            });
        }
    }
    shown
}

/// The fields of a service, as they are found.
#[derive(Default)]
struct Fields(Vec<ShownField>);

impl Fields {
    fn put<T>(&mut self, field: Option<&Field<T>>, name: impl Into<String>, text: impl Fn(&T) -> String) {
        if let Some(field) = field {
            self.0.push(ShownField { field: name.into(), value: text(&field.value), at: field.place() });
        }
    }
}

fn service(service: &MergedService) -> ShownService {
    let mut fields = Fields::default();
    fields.put(service.kind.as_ref(), "type", |kind| kind.as_str().to_owned());
    fields.put(service.process.as_ref(), "command", |process| match process {
        Process::Command(argv) => argv.join(" "),
        Process::Script(text) => format!("a script of {}", count(text.trim().lines().count(), "line")),
    });
    fields.put(service.user.as_ref(), "user", Clone::clone);
    fields.put(service.group.as_ref(), "group", Clone::clone);
    fields.put(service.dir.as_ref(), "dir", Clone::clone);
    for (name, value) in &service.env {
        fields.put(Some(value), format!("env {name}"), Clone::clone);
    }
    for (limit, value) in &service.limits {
        let text = |value: &Option<u64>| value.map_or_else(|| "unlimited".into(), |value| value.to_string());
        fields.put(Some(value), format!("limit {}", limit.as_str()), text);
    }
    for (name, need) in &service.needs {
        fields.put(Some(need), "needs", |()| name.to_string());
    }
    fields.put(service.ready.as_ref(), "ready", |ready| {
        format!("{}, within {}", ready.probe, human_duration(millis(ready.timeout)))
    });
    fields.put(service.restart.as_ref(), "restart", restart);
    fields.put(service.essential.as_ref(), "essential", ToString::to_string);
    fields.put(service.stop.as_ref(), "stop", |stop| {
        let whom = if stop.group { " to its process group" } else { "" };
        format!("{}{whom}, killed after {}", stop.signal, human_duration(millis(stop.grace)))
    });
    fields.put(service.reload.as_ref(), "reload", |reload| match reload {
        Reload::Signal(signal) => signal.clone(),
        Reload::Command(argv) => argv.join(" "),
    });
    fields.put(service.before_start.as_ref(), "before-start", |argv| argv.join(" "));
    fields.put(service.after_stop.as_ref(), "after-stop", |argv| argv.join(" "));
    fields.put(service.log.as_ref(), "log", |log| match log {
        Log::Stdout { prefix: Some(prefix) } => format!("stdout, prefix \"{prefix}\""),
        Log::Stdout { prefix: None } => "stdout, no prefix".into(),
        Log::File { dir, max_size, keep } => {
            format!("{dir}/current, up to {max_size} bytes, {keep} older ones")
        }
        Log::Null => "null".into(),
    });
    fields.put(service.enabled.as_ref(), "enabled", ToString::to_string);
    ShownService { name: service.name.to_string(), enabled: service.is_enabled(), fields: fields.0 }
}

fn restart(restart: &Restart) -> String {
    let mut text = restart.policy.as_str().to_owned();
    if restart.delay.0 > 0 {
        let _ = write!(text, ", after {}", human_duration(millis(restart.delay)));
    }
    if let Some(bound) = restart.bound {
        let then = if bound.then == GiveUp::Container { "the container stops" } else { "it is given up" };
        let _ = write!(text, "; {} within {}, then {then}", bound.max, human_duration(millis(bound.within)));
    }
    text
}

fn millis(time: Millis) -> Duration {
    Duration::from_millis(time.0)
}

fn text(shown: &ShowOutput) -> String {
    let mut out = String::new();
    let mut line = |head: &str, rest: String| {
        if !rest.is_empty() {
            // Each field stays on its line.
            let _ = writeln!(out, "{head:9} {}", rest.replace('\n', "␊"));
        }
    };
    line(
        "image",
        format!("{}  {}", shown.name, shown.description.as_deref().unwrap_or("")).trim_end().to_owned(),
    );
    line("folder", shown.folder.clone());
    line("chain", shown.chain.join(" > "));
    for parent in &shown.parents {
        line("parent", format!("{} ({})  {DIM}{}{DIM:#}", parent.name, parent.kind, parent.at));
    }
    for external in &shown.externals {
        let digest = external.digest.as_deref().map_or_else(|| "not locked".into(), short);
        let place = external.oci_layout.as_ref().map(|folder| format!("  in {folder}")).unwrap_or_default();
        line("external", format!("{}  {DIM}{digest}{DIM:#}{place}", external.reference));
        for (platform, digest) in &external.platforms {
            line("", format!("  {platform}  {DIM}{}{DIM:#}", short(digest)));
        }
    }
    line("children", shown.children.join(", "));
    line("tags", shown.tags.join(", "));
    line("ports", shown.ports.join(", "));
    line("volumes", shown.volumes.join(", "));
    for service in &shown.services {
        let state = if service.enabled { "" } else { "  (switched off)" };
        line("service", format!("{}{state}", service.name));
        let width = service.fields.iter().map(|field| field.field.len()).max().unwrap_or(0);
        for field in &service.fields {
            line("", format!("  {:width$}  {}  {DIM}{}{DIM:#}", field.field, field.value, field.at));
        }
    }
    for image in &shown.chain {
        let own: Vec<&ShownPackage> =
            shown.packages.iter().filter(|package| package.image == *image).collect();
        if !own.is_empty() {
            line("packages", format!("{} from {image}", count(own.len(), "package")));
        }
        if *image == shown.name {
            own.iter().for_each(|package| line("", format!("  {} {}", package.name, package.version)));
        }
    }
    out
}
