//! What a template knows of its image: the `image` value, made from the manifest.

use std::collections::{BTreeMap, BTreeSet};

use imgforge_syntax::{Located, Span};
use minijinja::context;
use minijinja::value::Value;

use super::template::{exec_form, mark};
use crate::graph::ImageGraph;
use crate::manifest::{
    Base, CopyStep, Healthcheck, ImageManifest, Millis, RootInclude, RunStep, SecretKind, SecretMount, Step,
    Supervisor, User,
};
use crate::services::{self, Services};
use crate::workspace::{Image, Workspace};

/// The values for one image; `writes_services` when it has files for services to bring.
pub(super) fn of(
    workspace: &Workspace,
    graph: &ImageGraph,
    image: &Image,
    services: &Services,
    writes_services: bool,
) -> Value {
    let manifest = &image.manifest;
    let chain: Vec<&Image> =
        graph.chain(image.name()).into_iter().map(|name| &workspace.images[name]).collect();
    let parents = &chain[..chain.len().saturating_sub(1)];
    let inherited = parents.iter().rev().find_map(|parent| parent.manifest.run_as.as_ref());
    let run_as = manifest.run_as.as_ref().or(inherited);
    let span = manifest.run_as.as_ref().map_or(manifest.name.span, |user| user.span);
    let user = run_as.map(|user| valued(span, user_id(&chain, &user.value)));
    let has_packages = !manifest.packages.is_empty() || brings_packages(workspace, image, services);
    let is_root = matches!(manifest.base.value, Base::Root(_));
    let values = context! {
        name => image.name().as_str(),
        base => base(manifest),
        inherits_user => inherited.is_some(),
        users => manifest.users.iter().map(account).collect::<Vec<_>>(),
        packages => (has_packages && !is_root).then(|| context! { at => mark(packages_span(manifest)) }),
        apk => apk(workspace, manifest),
        args => args(workspace, manifest),
        env => named(&manifest.env),
        labels => labels(workspace, manifest),
        steps => manifest.steps.iter().map(step).collect::<Vec<_>>(),
        services => services_value(image, services, writes_services),
        expose => located(&manifest.expose),
        volumes => located(&manifest.volumes),
        workdir => manifest.workdir.as_ref().map(|dir| valued(dir.span, dir.value.clone())),
        healthcheck => manifest.healthcheck.as_ref().map(healthcheck),
        entrypoint => manifest.entrypoint.as_ref().map(argv),
        cmd => manifest.cmd.as_ref().map(argv),
        stop_signal => manifest.stop_signal.as_ref().map(|signal| valued(signal.span, signal.value.clone())),
        user,
    };
    context! { image => values }
}

/// apk with its arguments. `--repositories-file` keeps the image's own repositories out where the source names some.
fn apk(workspace: &Workspace, manifest: &ImageManifest) -> Option<Value> {
    let first = manifest.apk_packages.first()?;
    let source = workspace.manifest.apk.iter().find(|source| source.name.value == first.source.value)?;
    // apk 3 writes a log with times.
    let mut argv = vec!["/bin/sh", "-c", "apk \"$@\" && rm -f /var/log/apk.log", "apk"];
    argv.extend(["add", "--no-cache", "--no-progress"]);
    if !source.repositories.is_empty() {
        argv.extend(["--repositories-file", "/dev/null"]);
    }
    for repository in &source.repositories {
        argv.extend(["--repository", &repository.value]);
    }
    let names = manifest.apk_packages.iter().flat_map(|request| &request.names);
    argv.extend(names.map(|name| name.value.as_str()).collect::<BTreeSet<_>>());
    let argv: Vec<String> = argv.into_iter().map(str::to_owned).collect();
    Some(context! { at => mark(first.source.span), argv })
}

/// Whether the image is where the supervisor's packages come in.
fn brings_packages(workspace: &Workspace, image: &Image, services: &Services) -> bool {
    services.topmost.as_ref() == Some(image.name())
        && !services::packages(services::supervisor(workspace, image)).is_empty()
}

fn packages_span(manifest: &ImageManifest) -> Span {
    manifest.packages.first().map_or(manifest.name.span, |request| request.source.span)
}

fn valued(span: Span, value: String) -> Value {
    context! { at => mark(span), value }
}

fn located(values: &[Located<String>]) -> Vec<Value> {
    values.iter().map(|value| valued(value.span, value.value.clone())).collect()
}

fn argv(words: &Located<Vec<String>>) -> Value {
    context! { at => mark(words.span), argv => words.value.clone() }
}

fn named(values: &BTreeMap<String, Located<String>>) -> Vec<Value> {
    let value = |(name, value): (&String, &Located<String>)| context! { at => mark(value.span), name, value => value.value.clone() };
    values.iter().map(value).collect()
}

fn base(manifest: &ImageManifest) -> Value {
    let reference = match &manifest.base.value {
        Base::From(reference) => reference.as_str(),
        Base::Scratch | Base::Root(_) | Base::Dockerfile(_) => "scratch",
    };
    let root = match &manifest.base.value {
        Base::Root(root) => Some(context! { configure => is_configured(manifest, root.include) }),
        _ => None,
    };
    context! { at => mark(manifest.base.span), reference, root }
}

/// Whether a root has what configuring its packages needs: dpkg and a shell, which are in every set but `nothing`.
/// Without them packages are only unpacked.
fn is_configured(manifest: &ImageManifest, include: RootInclude) -> bool {
    let names = || manifest.packages.iter().flat_map(|request| &request.names);
    let has = |wanted: &str| names().any(|name| name.value.split('=').next() == Some(wanted));
    include != RootInclude::Nothing || (has("dpkg") && has("dash"))
}

/// A build argument's value is the workspace's, else the image's own default.
fn args(workspace: &Workspace, manifest: &ImageManifest) -> Vec<Value> {
    let arg = |(name, default): (&String, &Located<Option<String>>)| {
        let set = workspace.manifest.args.get(name).map(|value| value.value.clone());
        context! { at => mark(default.span), name, value => set.or_else(|| default.value.clone()) }
    };
    manifest.args.iter().map(arg).collect()
}

/// The workspace's labels, and the image's own over them.
fn labels(workspace: &Workspace, manifest: &ImageManifest) -> Vec<Value> {
    let mut labels: BTreeMap<&str, (String, &str)> = BTreeMap::new();
    for (key, value) in &workspace.manifest.labels {
        labels.insert(key, (String::new(), &value.value));
    }
    for (key, value) in &manifest.labels {
        labels.insert(key, (mark(value.span), &value.value));
    }
    labels.into_iter().map(|(key, (at, value))| context! { at, key, value }).collect()
}

fn services_value(image: &Image, services: &Services, files: bool) -> Option<Value> {
    // An image can change its parents' services without naming one: by making the user that one runs as.
    let span = image.manifest.services.first().map_or(image.manifest.name.span, |service| service.span);
    let process = services.process().map(|process| {
        let first = services.topmost.as_ref() == Some(image.name());
        context! {
            makes_live_folder => first && !services.supervisor.is_some_and(Supervisor::is_single),
            entrypoint => process.entrypoint,
            cmd => process.cmd,
            stop_signal => process.stop_signal,
        }
    });
    (files || process.is_some()).then(|| context! { at => mark(span), files, process })
}

/// `UID:GID` of a user that an image of the chain makes; any other name as it is.
fn user_id(chain: &[&Image], name: &str) -> String {
    let mut users = chain.iter().flat_map(|image| &image.manifest.users);
    let found = users.find(|user| user.name.value == name);
    found.map_or_else(|| name.to_owned(), |user| format!("{}:{}", user.uid.value, user.gid))
}

/// Written into the files themselves: the smallest roots have no useradd. The account is locked (`!` is the hash of
/// no password, shadow(5)).
fn account(user: &User) -> Value {
    let (name, uid, gid, home) = (&user.name.value, user.uid.value, user.gid, &user.home);
    let group = user.group.as_ref().unwrap_or(name);
    let quoted = services::quote(home);
    let mut script = format!(
        "! grep -q '^{name}:' /etc/passwd || {{ echo 'the image has a user {name} already' >&2; exit 1; }}\n\
         cut -d: -f3 /etc/group | grep -qx {gid} || echo '{group}:x:{gid}:' >> /etc/group\n\
         echo {name}:x:{uid}:{gid}::{quoted}:/usr/sbin/nologin >> /etc/passwd\n\
         [ ! -e /etc/shadow ] || echo '{name}:!:::::::' >> /etc/shadow"
    );
    if home != "/nonexistent" {
        script.push_str(&format!("\nmkdir -p {quoted}\nchown {uid}:{gid} {quoted}"));
    }
    context! { at => mark(user.name.span), argv => ["/bin/sh".into(), "-euc".into(), script] }
}

fn step(step: &Step) -> Value {
    match step {
        Step::Copy(copy) => copy_value(copy),
        Step::Run(run) => run_value(run),
    }
}

fn copy_value(copy: &CopyStep) -> Value {
    let mut flags = Vec::new();
    if let Some(from) = &copy.from {
        flags.push(format!("--from={}", from.value));
    }
    if let Some(owner) = &copy.owner {
        flags.push(format!("--chown={}", owner.value));
    }
    if let Some(mode) = &copy.mode {
        flags.push(format!("--chmod={:04o}", mode.value));
    }
    let words: Vec<&str> =
        copy.sources.iter().chain([&copy.destination]).map(|word| word.value.as_str()).collect();
    let is_plain = |word: &&str| {
        !word.starts_with("--")
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./*?+=:@,%".contains(&b))
    };
    let text = if words.iter().all(is_plain) {
        words.join(" ")
    } else {
        exec_form(words.into_iter().map(|word| json_string(&escape_word(word))))
    };
    context! { at => mark(copy.span), keyword => "COPY", text, flags }
}

/// BuildKit expands variables and takes quotes away in the words of COPY and VOLUME, in the JSON form too.
pub(super) fn escape_word(word: &str) -> String {
    let mut out = String::new();
    for c in word.chars() {
        if matches!(c, '\\' | '$' | '"' | '\'') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn run_value(run: &RunStep) -> Value {
    let mounts = run.mounts.iter().map(|mount| {
        let (from, source, target) = (&mount.from.value, &mount.source, &mount.target);
        format!("--mount=type=bind,from={from},source={source},target={target}")
    });
    let flags: Vec<String> = mounts.chain(run.secrets.iter().map(secret_flag)).collect();
    let words: Vec<&str> = run.argv.iter().map(|word| word.value.as_str()).collect();
    context! { at => mark(run.span), keyword => "RUN", text => command(&words), flags }
}

/// The frontend of Docker 20.10 knows these fields.
fn secret_flag(secret: &SecretMount) -> String {
    let kind = match secret.kind {
        SecretKind::File => "secret",
        SecretKind::Agent => "ssh",
    };
    let mut flag = format!("--mount=type={kind},id={}", secret.id);
    let fields = [
        ("target", secret.target.clone()),
        ("mode", secret.mode.map(|mode| format!("{mode:04o}"))),
        ("uid", secret.uid.map(|uid| uid.to_string())),
        ("gid", secret.gid.map(|gid| gid.to_string())),
        ("required", secret.required.then(|| "true".to_owned())),
    ];
    for (name, value) in fields {
        flag.extend(value.map(|value| format!(",{name}={value}")));
    }
    flag
}

/// A command for RUN or HEALTHCHECK CMD: one word is a line for the shell, more are an argument vector. A line that
/// would mean something else in a Dockerfile is given to the shell as one argument.
fn command(words: &[&str]) -> String {
    if let [line] = words {
        let is_plain = !line.contains(['\n', '\r'])
            && !line.contains("<<")
            && !line.trim_start().starts_with(['[', '-', '#'])
            && !line.trim_end().ends_with('\\')
            && line.trim() == *line;
        if is_plain {
            return (*line).to_owned();
        }
        return exec_form(["/bin/sh", "-c", line].map(json_string));
    }
    exec_form(words.iter().map(|word| json_string(word)))
}

fn healthcheck(check: &Located<Healthcheck>) -> Value {
    let time = |name: &str, time: Option<Millis>| time.map(|time| format!("--{name}={}ms", time.0));
    let mut flags: Vec<String> = [
        time("interval", check.value.interval),
        time("timeout", check.value.timeout),
        time("start-period", check.value.start_period),
    ]
    .into_iter()
    .flatten()
    .collect();
    flags.extend(check.value.retries.map(|retries| format!("--retries={retries}")));
    let words: Vec<&str> = check.value.argv.iter().map(String::as_str).collect();
    context! { at => mark(check.span), command => command(&words), flags }
}
