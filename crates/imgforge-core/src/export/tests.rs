use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Service};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::*;
use crate::source::memory::Memory;
use crate::workspace::Workspace;
use crate::workspace::testing::{good, shown};

const ALL: [Scheduler; 6] = [
    Scheduler::Compose,
    Scheduler::Kubernetes,
    Scheduler::Marathon,
    Scheduler::Nomad,
    Scheduler::Procfile,
    Scheduler::Quadlet,
];

const MANIFEST: &str = "workspace \"w\"\napt \"debian\" { suite \"bookworm\" }\n";

/// The exports of one image with `lines`, by its folder's name.
fn made(lines: &str) -> Workload {
    let files = [
        ("imgforge.kdl", MANIFEST.to_owned()),
        ("web/image.kdl", format!("image \"acme/web.app\" {{\n    root \"debian\"\n{lines}\n}}\n")),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    of(&good(&files), "acme/web.app")
}

fn of(workspace: &Workspace, name: &str) -> Workload {
    let graph = ImageGraph::new(workspace).unwrap();
    let name = ImageName::new(name).unwrap();
    workload(workspace, &graph, &name, format!("registry.example.com/{name}:1")).unwrap()
}

fn exported(workload: &Workload, to: Scheduler) -> Exported {
    render(workload, to, &Memory::default()).unwrap_or_else(|found| panic!("{}", shown(found)))
}

/// All that there is to say.
const FULL: &str = r#"
    description "A shop: #1, 50% off"
    user "app" uid=1000 home="/srv/app"
    env "GREETING" "say \"hi\" to $USER, ${HOME} and 100% of %{them}"
    expose 8080 "53/udp"
    volume "/var/lib/shop" "/var/lib-shop"
    resources memory="256MB" cpus="0.5"
    healthcheck "curl -fs http://127.0.0.1:8080/ > /dev/null || exit 1" interval="20s" timeout="4s" start-period="30s" retries=5
    service "migrate" { type "oneshot"; command "/srv/app/migrate" "--to" "the end"; user "app"; needs "db" }
    service "db" { command "postgres" "-D" "/var/lib/shop"; user "app"; ready tcp=5432 timeout="1m"; stop signal="INT" grace="20s" }
    service "web" {
        script "set -e\nexec web --port 8080"
        user "app"
        dir "/srv/app"
        env "MODE" "it's on"
        needs "migrate"
        ready http="http://127.0.0.1:8080/healthz" interval="30s"
        stop grace="5s"
        essential #true
    }"#;

/// One service, asked over the network.
const NETWORK: &str = r#"
    run-as "app"
    user "app" uid=1000 gid=1001
    expose 8080
    service "web" { command "web"; ready http="http://127.0.0.1:8080/healthz?a=1&b" timeout="9s" }"#;

fn text(exported: &Exported) -> String {
    let files = exported.files.iter().map(|file| format!("--- {}\n{}", file.name, file.text));
    files.collect()
}

#[test]
fn everything_that_is_known_is_said() {
    let workload = made(FULL);
    for to in ALL {
        let made = exported(&workload, to);
        insta::assert_snapshot!(format!("full_{to:?}").to_lowercase(), text(&made));
    }
}

#[test]
fn what_listens_on_an_exposed_port_is_asked_over_the_network() {
    let workload = made(NETWORK);
    for to in [Scheduler::Kubernetes, Scheduler::Marathon, Scheduler::Nomad] {
        insta::assert_snapshot!(format!("network_{to:?}").to_lowercase(), text(&exported(&workload, to)));
    }
}

#[test]
fn nothing_is_invented() {
    let workload = made("    entrypoint \"/bin/tool\" \"a b\"\n    cmd \"-x\"");
    for to in ALL {
        insta::assert_snapshot!(format!("least_{to:?}").to_lowercase(), text(&exported(&workload, to)));
    }
}

#[test]
fn systemd_is_given_what_it_needs_where_the_format_has_it() {
    let workload = made(
        "    supervisor \"systemd\"\n    volume \"/data\"\n    service \"web\" { command \"web\"; ready tcp=80 }",
    );
    for to in [Scheduler::Compose, Scheduler::Kubernetes, Scheduler::Quadlet] {
        insta::assert_snapshot!(format!("machine_{to:?}").to_lowercase(), text(&exported(&workload, to)));
    }
    let says_so =
        |to| exported(&workload, to).notes.iter().any(|note| note.contains("systemd-in-containers.md"));
    assert_eq!(ALL.map(says_so), [false, true, true, true, false, false]);
}

#[test]
fn readiness_is_asked_in_the_way_that_is_right_for_all_services() {
    let ready = |services: &str| {
        let check = made(&format!("    expose 80 \"81/udp\"\n{services}")).ready.unwrap();
        (check.exec.map(|argv| argv.join(" ")), check.http, check.port)
    };
    let program = || Some(crate::services::READY.to_owned());
    for (service, http, port) in [
        ("ready tcp=80", None, Some(80)),
        ("ready http=\"http://localhost/x\"", Some("/x"), Some(80)),
        // Not exposed, not as TCP, not here, not over the network.
        ("ready tcp=82", None, None),
        ("ready tcp=81", None, None),
        ("ready tcp=\"db.example.com:80\"", None, None),
        ("ready \"true\"", None, None),
        ("ready fd=3", None, None),
        ("", None, None),
    ] {
        let found = ready(&format!("    service \"a\" {{ command \"a\"; {service} }}"));
        assert_eq!(found, (program(), http.map(str::to_owned), port), "{service}");
    }
    // One that is asked over the network would say nothing of the other.
    let two = "    service \"a\" { command \"a\"; ready tcp=80 }\n    service \"b\" { command \"b\"; ready \"true\" }";
    assert_eq!(ready(two), (program(), None, None));
}

#[test]
fn times_are_those_of_the_longest_path() {
    let workload = made(
        r#"
    service "db" { command "db"; ready tcp=1 timeout="40s"; stop grace="20s" }
    service "app" { command "app"; needs "db"; ready tcp=2 timeout="10s"; stop grace="4s"; after-stop "x" }
    service "other" { command "other"; ready tcp=3 timeout="45s" interval="70s"; stop grace="30s" }"#,
    );
    // 20 + 4 + 10 after its stop, and 2 for the supervisor; 40 + 10, and 5.
    assert_eq!((workload.stop.seconds, workload.start_seconds), (36, 55));
    assert!(workload.start_is_bounded && workload.notes.is_empty());
    assert_eq!(workload.ready.unwrap().interval, 70);
    let unbounded = made(r#"    service "a" { command "a"; before-start "x"; ready tcp=1 }"#);
    assert!(!unbounded.start_is_bounded);
    assert_eq!(unbounded.notes.len(), 1);
}

#[test]
fn a_dockerfile_says_what_it_says_and_its_command_takes_the_services_place() {
    let workspace = |dockerfile: &str| {
        good(&[
            ("imgforge.kdl", MANIFEST),
            (
                "base/image.kdl",
                "image \"base\" {\n    root \"debian\"\n    expose 80\n    env \"A\" \"1\"\n    service \"a\" { command \"a\" }\n}\n",
            ),
            ("page/image.kdl", "image \"page\" {\n    dockerfile \"Dockerfile\"\n    resources cpus=2\n}\n"),
            ("page/Dockerfile", dockerfile),
        ])
    };
    let page = of(
        &workspace(
            "FROM base\nEXPOSE 81 80\nENV A=2 B=3\nVOLUME /x\nUSER 7:8\nHEALTHCHECK CMD [\"x\", \"y\"]\n",
        ),
        "page",
    );
    let ports: Vec<u16> = page.ports.iter().map(|port| port.number).collect();
    let env: Vec<&str> = page.env.iter().map(|variable| variable.value.as_str()).collect();
    assert_eq!((ports, env), (vec![80, 81], vec!["2", "3"]));
    assert_eq!((page.supervisor, page.uid, page.gid, page.cpus), (Some("s6"), Some(7), Some(8), Some(2000)));
    assert_eq!(page.health.unwrap().argv, ["x", "y"]);
    let own = of(&workspace("FROM base\nCMD [\"b\", \"c d\"]\nSTOPSIGNAL SIGQUIT\n"), "page");
    assert_eq!((own.supervisor, own.ready.is_none(), own.stop.signal.as_str()), (None, true, "SIGQUIT"));
    assert_eq!(own.services[0].line.as_deref(), Some("b 'c d'"));
    assert_eq!(
        own.notes,
        [
            "the command at page/Dockerfile:2 takes the place of the services that the parents have: they do not run"
        ]
    );
}

/// Reads a document as a type of the published API: what that does not know is lost on the way back.
fn strictly<T: DeserializeOwned + serde::Serialize>(document: &Json) -> T {
    let typed: T =
        serde_json::from_value(document.clone()).unwrap_or_else(|error| panic!("{error}: {document:#}"));
    assert_eq!(&serde_json::to_value(&typed).unwrap(), document);
    typed
}

fn documents(text: &str) -> Vec<Json> {
    let parts = text.split("\n---\n");
    parts.map(|part| yaml_serde::from_str(part).unwrap_or_else(|error| panic!("{error}:\n{part}"))).collect()
}

/// The objects are what the API's types know, and belong together.
fn check_kubernetes(workload: &Workload, text: &str) -> Deployment {
    let documents = documents(text);
    let deployment: Deployment = strictly(&documents[0]);
    let spec = &deployment.spec;
    let labels = spec.template.metadata.as_ref().unwrap().labels.as_ref().unwrap();
    assert_eq!(spec.selector.match_labels.as_ref().unwrap(), labels);
    let pod = spec.template.spec.as_ref().unwrap();
    let mut rest = documents[1..].iter();
    if !workload.ports.is_empty() {
        let service: Service = strictly(rest.next().unwrap());
        let service = service.spec.unwrap();
        assert_eq!(service.selector.as_ref().unwrap(), labels);
        let ports = pod.containers[0].ports.as_ref().unwrap();
        assert_eq!(service.ports.as_ref().unwrap().len(), ports.len());
        assert!(ports.iter().all(|port| port.name.as_ref().is_some_and(|name| name.len() <= 15)));
    }
    let claims: Vec<PersistentVolumeClaim> = rest.map(strictly).collect();
    let (in_memory, claimed): (Vec<_>, Vec<_>) =
        pod.volumes.iter().flatten().partition(|volume| volume.empty_dir.is_some());
    assert_eq!(in_memory.len(), if workload.is_machine { 2 } else { 0 });
    let claimed: Vec<String> = claimed
        .into_iter()
        .map(|volume| volume.persistent_volume_claim.as_ref().unwrap().claim_name.clone())
        .collect();
    let names: Vec<String> = claims.into_iter().map(|claim| claim.metadata.name.unwrap()).collect();
    assert_eq!(names, claimed);
    let mounts = pod.containers[0].volume_mounts.iter().flatten().count();
    assert_eq!(mounts, in_memory.len() + names.len());
    deployment
}

#[test]
fn kubernetes_objects_are_those_of_the_published_api() {
    let machine = "    supervisor \"systemd\"\n    volume \"/a\"\n    service \"a\" { command \"a\" }";
    let volumes = "    volume \"/a\" \"/a b\"\n    resources cpus=2";
    for lines in [FULL, NETWORK, "    entrypoint \"x\"", volumes, machine] {
        let workload = made(lines);
        check_kubernetes(&workload, &exported(&workload, Scheduler::Kubernetes).files[0].text);
    }
    // And that the check sees what the API does not know.
    let workload = made(FULL);
    let text = exported(&workload, Scheduler::Kubernetes).files[0].text.replace("replicas:", "replica:");
    assert!(std::panic::catch_unwind(|| check_kubernetes(&workload, &text)).is_err());
}

/// The job as the fields that Nomad's documentation has for each block; any other is an error.
mod nomad {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    /// A block with one label.
    type Labelled<T> = BTreeMap<String, T>;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct File {
        pub(super) job: Labelled<Job>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Job {
        #[serde(rename = "type")]
        pub(super) kind: String,
        pub(super) group: Labelled<Group>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Group {
        pub(super) count: u32,
        #[serde(default)]
        pub(super) update: BTreeMap<String, String>,
        pub(super) network: Option<Network>,
        pub(super) service: Option<Service>,
        pub(super) task: Labelled<Task>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Network {
        pub(super) port: Labelled<Port>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Port {
        pub(super) to: u16,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Service {
        pub(super) name: String,
        pub(super) provider: String,
        pub(super) port: Option<String>,
        pub(super) check: OneOrMany<Check>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(untagged)]
    pub(super) enum OneOrMany<T> {
        One(T),
        Many(Vec<T>),
    }

    impl<T> OneOrMany<T> {
        pub(super) fn all(&self) -> &[T] {
            match self {
                Self::One(one) => std::slice::from_ref(one),
                Self::Many(many) => many,
            }
        }
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Check {
        pub(super) name: String,
        #[serde(rename = "type")]
        pub(super) kind: String,
        pub(super) path: Option<String>,
        pub(super) task: Option<String>,
        pub(super) command: Option<String>,
        pub(super) args: Option<Vec<String>>,
        pub(super) interval: String,
        pub(super) timeout: String,
        #[serde(rename = "check_restart")]
        pub(super) again: Option<CheckRestart>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct CheckRestart {
        pub(super) limit: u32,
        pub(super) grace: String,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Task {
        pub(super) driver: String,
        pub(super) user: Option<String>,
        pub(super) kill_signal: String,
        pub(super) kill_timeout: String,
        pub(super) config: Config,
        #[serde(default)]
        pub(super) env: BTreeMap<String, String>,
        pub(super) resources: Option<Resources>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Config {
        pub(super) image: String,
        #[serde(default)]
        pub(super) ports: Vec<String>,
        pub(super) init: Option<bool>,
        #[serde(default)]
        pub(super) mount: Option<OneOrMany<Mount>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Mount {
        #[serde(rename = "type")]
        pub(super) kind: String,
        pub(super) source: String,
        pub(super) target: String,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Resources {
        pub(super) memory: Option<u64>,
        pub(super) cores: Option<u32>,
    }
}

fn check_nomad(workload: &Workload, text: &str) -> nomad::File {
    let file: nomad::File = hcl::from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    let job = &file.job[&workload.slug];
    let group = &job.group[&workload.slug];
    let task = &group.task[&workload.slug];
    assert_eq!((job.kind.as_str(), group.count, task.driver.as_str()), ("service", 1, "docker"));
    assert_eq!(
        (task.config.image.as_str(), task.user.as_ref()),
        (workload.reference.as_str(), workload.user.as_ref())
    );
    let ports: Vec<&String> = group.network.iter().flat_map(|network| network.port.keys()).collect();
    assert!(task.config.ports.iter().all(|port| ports.contains(&port)));
    let numbers = group.network.iter().flat_map(|network| network.port.values()).map(|port| port.to);
    assert_eq!(numbers.count(), workload.ports.len());
    assert_eq!(task.kill_timeout, format!("{}s", workload.stop.seconds));
    assert_eq!(task.kill_signal, workload.stop.signal);
    assert!(group.update.keys().all(|key| ["healthy_deadline", "progress_deadline"].contains(&key.as_str())));
    if let Some(service) = &group.service {
        assert_eq!(service.name, workload.slug);
        assert!(service.port.as_ref().is_none_or(|port| ports.contains(&port)));
        for check in service.check.all() {
            // Nomad's own services know the types http and tcp only.
            assert!(
                service.provider == "consul" || ["http", "tcp"].contains(&check.kind.as_str()),
                "{check:?}"
            );
            assert_eq!(check.path.is_some(), check.kind == "http");
            assert_eq!(check.command.is_some(), check.kind == "script");
            assert_eq!(check.args.is_some(), check.kind == "script");
            assert_eq!(check.task.as_ref(), check.command.as_ref().map(|_| &workload.slug));
            assert!(check.again.as_ref().is_none_or(|again| again.limit > 0 && again.grace.ends_with('s')));
            assert!(check.interval.ends_with('s') && check.timeout.ends_with('s') && !check.name.is_empty());
        }
    }
    let mounts = task.config.mount.as_ref().map_or(&[][..], nomad::OneOrMany::all);
    let targets: Vec<&str> = mounts.iter().map(|mount| mount.target.as_str()).collect();
    let paths: Vec<&str> = workload.volumes.iter().map(|volume| volume.path.as_str()).collect();
    assert_eq!(targets, paths);
    assert!(mounts.iter().all(|mount| mount.kind == "volume" && mount.source.starts_with(&workload.slug)));
    assert_eq!(task.config.init.is_some(), workload.supervisor.is_some());
    let memory = task.resources.as_ref().and_then(|resources| resources.memory);
    assert_eq!(memory, workload.memory.map(|bytes| bytes.div_ceil(1 << 20)));
    let cores = task.resources.as_ref().and_then(|resources| resources.cores);
    assert_eq!(cores, workload.cpus.filter(|cpus| cpus % 1000 == 0).map(|cpus| cpus / 1000));
    file
}

#[test]
fn a_nomad_job_has_documented_fields_only() {
    for lines in [FULL, NETWORK, "    entrypoint \"x\"", "    volume \"/a\" \"/a b\"\n    resources cpus=2"] {
        let workload = made(lines);
        check_nomad(&workload, &exported(&workload, Scheduler::Nomad).files[0].text);
    }
}

fn env_of(workload: &Workload) -> Vec<(String, String)> {
    workload.env.iter().map(|variable| (variable.name.clone(), variable.value.clone())).collect()
}

/// Words as a reader of the format might stumble over them. A manifest's values have one line; those of a workload do
/// not have to.
fn any_text() -> impl Strategy<Value = String> {
    let odd = proptest::sample::select(vec![
        "$", "$$", "${A}", "$(A)", "%", "%{", "{{ x }}", "\"", "'", "\\", "\n", "\t", "#", ": ", "- ", "no",
        "é😀", " ", "a", "=", "`", "|", ">", "&", "!", "@",
    ]);
    proptest::collection::vec(odd, 0..10).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// What a wrong answer would do: another value than the manifest's in production.
    #[test]
    fn any_value_arrives_as_it_is(value in any_text(), path in any_text(), line in any_text()) {
        let mut workload = made(FULL);
        workload.env[0].value.clone_from(&value);
        workload.description = Some(line.clone());
        workload.volumes[0].path = format!("/{path}");
        workload.volumes[0].is_plain = false;
        let health = workload.health.as_mut().unwrap();
        health.line = None;
        health.argv = vec!["/bin/x".into(), line.clone()];

        let compose = exported(&workload, Scheduler::Compose).files.remove(0).text;
        let compose: Json = yaml_serde::from_str(&compose).unwrap();
        let service = &compose["services"][&workload.slug];
        let unescaped = |value: &Json| value.as_str().unwrap().replace("$$", "$");
        prop_assert_eq!(unescaped(&service["environment"]["GREETING"]), value.clone());
        prop_assert_eq!(unescaped(&service["volumes"][0]["target"]), format!("/{path}"));
        prop_assert_eq!(unescaped(&service["healthcheck"]["test"][2]), line.clone());

        let deployment = check_kubernetes(&workload, &exported(&workload, Scheduler::Kubernetes).files[0].text);
        let pod = deployment.spec.template.spec.unwrap();
        let env = pod.containers[0].env.as_ref().unwrap();
        prop_assert_eq!(env[0].value.as_ref().unwrap().replace("$$", "$"), value.clone());
        let live = pod.containers[0].liveness_probe.as_ref().unwrap().exec.as_ref().unwrap();
        prop_assert_eq!(&live.command.as_ref().unwrap()[1], &line);

        let job = check_nomad(&workload, &exported(&workload, Scheduler::Nomad).files[0].text);
        let task = &job.job[&workload.slug].group[&workload.slug].task[&workload.slug];
        let found: Vec<(String, String)> = task.env.clone().into_iter().collect();
        prop_assert_eq!(found, env_of(&workload));

        let app: Json = serde_json::from_str(&exported(&workload, Scheduler::Marathon).files[0].text).unwrap();
        prop_assert_eq!(app["env"]["GREETING"].as_str().unwrap(), value);

        // These have readers of their own in the end-to-end tests.
        for to in [Scheduler::Procfile, Scheduler::Quadlet] {
            let text = exported(&workload, to).files.remove(0).text;
            prop_assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text}");
        }
    }
}

#[test]
fn a_workspaces_own_template_comes_first_and_extends_the_built_in_one() {
    let own = "{% extends \"built-in/compose.j2\" %}\n{% block service %}\n    hostname: {{ workload.slug }}\n{% endblock %}\n";
    let source = Memory::of(&[("templates/export/compose.j2", own.as_bytes())]);
    let workload = made(NETWORK);
    let made = render(&workload, Scheduler::Compose, &source).unwrap();
    assert!(made.files[0].text.contains("    hostname: acme-web-app\n"), "{}", made.files[0].text);
    assert!(made.files[0].text.contains("    image: registry.example.com/acme/web.app:1\n"));
    let source = Memory::of(&[("templates/export/nomad.j2", b"# {{ workload.name }}\n{{ workload.nam }}\n")]);
    let problems = render(&workload, Scheduler::Nomad, &source).unwrap_err();
    insta::assert_snapshot!(shown(problems));
}
