mod scripts;
mod single;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::graph::ImageGraph;
use crate::manifest::{GiveUp, Probe, RestartBound};
use crate::render::render;
use crate::source::memory::Memory;
use crate::workspace::load;
use crate::workspace::testing::{loaded, shown};

fn field<T>(value: T) -> Field<T> {
    let file = Arc::new(SourceFile { path: "web/image.kdl".into(), text: String::new() });
    Field { value, file, span: Span::default() }
}

fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

/// A service of which nothing is left out.
fn full() -> MergedService {
    let name = |text: &str| ServiceName::new(text).unwrap();
    MergedService {
        name: name("app"),
        declared: field(ImageName::new("web").unwrap()),
        order: 0,
        enabled: None,
        kind: None,
        process: Some(field(Process::Command(argv(&["/usr/bin/app", "a b", "it's", "$HOME"])))),
        user: Some(field("web".into())),
        group: Some(field("www-data".into())),
        home: Some("/srv/web".into()),
        dir: Some(field("/srv/my web".into())),
        env: BTreeMap::from([("KEY".into(), field("two\nlines".into()))]),
        limits: BTreeMap::from([
            (Limit::Core, field(Some(0))),
            (Limit::As, field(Some(1 << 30))),
            (Limit::Nofile, field(None)),
        ]),
        needs: BTreeMap::from([(name("cache"), field(())), (name("db"), field(()))]),
        ready: Some(field(Ready {
            probe: Probe::Exec(argv(&["curl", "-f", "http://127.0.0.1/"])),
            interval: Millis(250),
            timeout: Millis(30_000),
        })),
        restart: Some(field(Restart {
            policy: RestartPolicy::OnFailure,
            delay: Millis(1500),
            bound: Some(RestartBound { max: 5, within: Millis(60_000), then: GiveUp::Container }),
        })),
        essential: None,
        stop: Some(field(Stop { signal: "QUIT".into(), grace: Millis(5000), group: false })),
        reload: Some(field(Reload::Signal("HUP".into()))),
        before_start: Some(field(argv(&["install", "-d", "/run/my app"]))),
        after_stop: Some(field(argv(&["rm", "-rf", "/run/my app"]))),
        log: Some(field(Log::File { dir: "/var/log/app".into(), max_size: 1 << 20, keep: 5 })),
    }
}

/// A service of which all that can be is left out.
fn bare() -> MergedService {
    MergedService::new(full().name, field(ImageName::new("web").unwrap()), 0)
}

fn written(supervisor: Supervisor, service: &MergedService) -> String {
    let mut text = String::new();
    for file in writer(supervisor).service(service) {
        let mode = if file.executable { "0755" } else { "0644" };
        let _ = writeln!(text, "--- {} {mode}\n{}", file.path, file.content.trim_end());
    }
    text
}

#[test]
fn a_service_becomes_a_service_directory() {
    insta::assert_snapshot!("s6_full", written(Supervisor::S6, &full()));
    insta::assert_snapshot!("runit_full", written(Supervisor::Runit, &full()));
    insta::assert_snapshot!("supervisord_full", written(Supervisor::Supervisord, &full()));
    let process = Some(field(Process::Command(argv(&["/usr/bin/app"]))));
    let least = MergedService { process, essential: Some(field(true)), ..bare() };
    insta::assert_snapshot!("s6_least", written(Supervisor::S6, &least));
    let kind = Some(field(ServiceType::Oneshot));
    let oneshot = MergedService { kind, ready: None, log: None, ..full() };
    insta::assert_snapshot!("supervisord_oneshot", written(Supervisor::Supervisord, &oneshot));
}

#[test]
fn a_service_becomes_a_unit() {
    let log = Some(field(Log::Stdout { prefix: Some("[a'b] ".into()) }));
    insta::assert_snapshot!("systemd_full", written(Supervisor::Systemd, &MergedService { log, ..full() }));
    let kind = Some(field(ServiceType::Oneshot));
    let process = Some(field(Process::Script("echo hello\n".into())));
    let log = Some(field(Log::Stdout { prefix: None }));
    let oneshot = MergedService { kind, process, log, ..bare() };
    insta::assert_snapshot!("systemd_oneshot", written(Supervisor::Systemd, &oneshot));
}

#[test]
fn a_service_becomes_a_source_of_s6_rc() {
    insta::assert_snapshot!("s6_overlay_full", written(Supervisor::S6Overlay, &full()));
    let kind = Some(field(ServiceType::Oneshot));
    let process = Some(field(Process::Script("echo hello\n".into())));
    let oneshot = MergedService { kind, process, enabled: Some(field(false)), ..full() };
    insta::assert_snapshot!("s6_overlay_oneshot_off", written(Supervisor::S6Overlay, &oneshot));
}

#[test]
fn s6_overlay_is_brought_by_the_image() {
    let of = |install: &str| {
        let body = format!("supervisor \"s6-overlay\"{install}\nservice \"web\" {{ command \"web\" }}");
        merged(&[&body])
    };
    insta::assert_snapshot!(shown(of("").unwrap_err()));
    let made = of(" install=#false").unwrap();
    let files = files(&made[0]);
    let content = |path: &str| {
        let found = files.iter().find(|file| file.path.as_str().ends_with(path)).unwrap();
        String::from_utf8(found.content.to_vec()).unwrap()
    };
    assert_eq!(content("/s6-rc.d/imgforge/type"), "bundle\n");
    assert_eq!(content("/s6-rc.d/imgforge/contents"), "imgforge-web\n");
    assert_eq!(content("/user-bundles.d/user/contents.d/imgforge"), "");
}

#[test]
fn systemd_starts_what_is_switched_on() {
    let child = r#"
        service "web" { enabled #false }
        service "own" { command "own" }"#;
    let parent = "supervisor \"systemd\"\nservice \"web\" { command \"web\" }";
    let made = merged(&[parent, child]).unwrap();
    let target = |services: &Services| {
        let files = files(services);
        let found = files.iter().find(|file| file.path.as_str().ends_with("/imgforge.target")).unwrap();
        String::from_utf8(found.content.to_vec()).unwrap()
    };
    let wants = |services: &Services| {
        let text = target(services);
        text.lines().filter_map(|line| line.strip_prefix("Wants=")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(wants(&made[0]), ["imgforge-web.service"]);
    assert_eq!(wants(&made[1]), ["imgforge-own.service"]);
}

#[test]
fn systemd_puts_no_logs_aside() {
    let body = r#"
    supervisor "systemd"
    service "web" {
        command "web"
        log "file" dir="/var/log/web"
    }"#;
    insta::assert_snapshot!(shown(merged(&[body]).unwrap_err()));
}

#[test]
fn every_service_has_the_same_files_so_that_a_childs_cover_its_parents() {
    for supervisor in Supervisor::ALL {
        let paths = |service: &MergedService| {
            let files = writer(supervisor).service(service);
            files.into_iter().map(|file| file.path).collect::<Vec<_>>()
        };
        assert_eq!(paths(&full()), paths(&bare()), "{}", supervisor.as_str());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_word_arrives_byte_for_byte_through_sh(words in proptest::collection::vec("[^\0]{0,12}", 1..4)) {
        let script = format!("printf '%s\\0' {}", words.iter().map(|w| quote(w)).collect::<Vec<_>>().join(" "));
        let out = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        let expected: String = words.iter().map(|word| format!("{word}\0")).collect();
        prop_assert_eq!(String::from_utf8(out.stdout).unwrap(), expected);
    }
}

/// Merges a chain of images `i0` (a Debian root), `i1`, ... with these bodies, and gives what each ends up with.
fn merged(bodies: &[&str]) -> Result<Vec<Services>, Problems> {
    let mut files = vec![(
        "imgforge.kdl".to_owned(),
        "workspace \"w\"\napt \"debian\" { suite \"bookworm\" }\n".to_owned(),
    )];
    for (n, body) in bodies.iter().enumerate() {
        let base = if n == 0 { "root \"debian\"".to_owned() } else { format!("from \"i{}\"", n - 1) };
        files.push((format!("i{n}/image.kdl"), format!("image \"i{n}\" {{\n    {base}\n{body}\n}}\n")));
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let workspace = loaded(&files)?;
    let graph = ImageGraph::new(&workspace)?;
    let names = (0..bodies.len()).map(|n| ImageName::new(format!("i{n}")).unwrap());
    names.map(|name| merge(&workspace, &graph, &name)).collect()
}

/// `app < db, cache` for each service that waits, sorted by name.
fn order(services: &Services) -> String {
    let row = |service: &MergedService| {
        let needs: Vec<&str> = service.needs.keys().map(ServiceName::as_str).collect();
        (!needs.is_empty()).then(|| format!("{} < {}", service.name, needs.join(", ")))
    };
    services.enabled().filter_map(row).collect::<Vec<_>>().join("; ")
}

#[test]
fn order_crosses_images() {
    let parent = r#"
        service "web" { command "web" }
        service "log" { command "log"; before "web" }"#;
    let child = r#"
        service "migrate" { type "oneshot"; script "true"; before "web"; needs "db" }
        service "db" { command "db" }"#;
    let made = merged(&[parent, child]).unwrap();
    assert_eq!(order(&made[0]), "web < log");
    assert_eq!(order(&made[1]), "migrate < db; web < log, migrate");
}

#[test]
fn anchors_hold_for_services_that_children_add() {
    let parent = r#"
        service "setup" { type "oneshot"; script "true"; before "init" }
        service "announce" { type "oneshot"; script "true"; needs "ready" }
        service "web" { command "web" }"#;
    let child = r#"
        service "app" { command "app" }
        service "key" { type "oneshot"; script "true"; before "setup" }
        service "after" { command "x"; needs "announce" }"#;
    let made = merged(&[parent, child]).unwrap();
    assert_eq!(order(&made[0]), "announce < setup, web; web < setup");
    // What is needed before `init` does not wait for it; what waits for the last one is not waited for.
    assert_eq!(
        order(&made[1]),
        "after < announce, setup; announce < app, key, setup, web; app < setup; setup < key; web < setup"
    );
}

#[test]
fn a_child_overrides_fields_and_takes_needs_and_services_away() {
    let parent = r#"
        service "db" { command "db" }
        service "web" {
            command "web" "-p" "80"
            user "www-data"
            env "A" "1"
            env "B" "2"
            limit nofile=100 core=0
            needs "db"
        }"#;
    let child = r#"
        service "db" { enabled #false }
        service "web" {
            script "exec web"
            env "B" "3"
            limit nofile="unlimited"
            needs "db" remove=#true
        }"#;
    let made = merged(&[parent, child]).unwrap();
    let web = &made[1].merged[&ServiceName::new("web").unwrap()];
    assert_eq!(web.process.as_ref().unwrap().value, Process::Script("exec web".into()));
    assert_eq!(web.user(), Some("www-data"));
    let env: Vec<&str> = web.env.values().map(|value| value.value.as_str()).collect();
    assert_eq!(env, ["1", "3"]);
    let limits: Vec<_> = web.limits.iter().map(|(limit, value)| (limit.as_str(), value.value)).collect();
    assert_eq!(limits, [("core", Some(0)), ("nofile", None)]);
    assert_eq!(order(&made[1]), "");
    let names: Vec<&str> = made[1].enabled().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["web"]);
}

#[test]
fn stopping_takes_the_longest_chain_of_graces() {
    let body = r#"
        service "db" { command "db"; stop grace="20s" }
        service "app" { command "app"; needs "db"; stop grace="5s" }
        service "web" { command "web"; needs "app"; stop grace="2s" }
        service "other" { command "other" }"#;
    let made = merged(&[body]).unwrap();
    assert_eq!(made[0].stop_time(), Millis(27_000));
    assert_eq!(Services::default().stop_time(), Millis(0));
}

/// In dash or whatever `sh` is here, and in busybox's.
#[test]
fn a_container_is_ready_when_every_service_is_up_or_done() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (status, ready) = (dir.path().join("status"), dir.path().join("ready"));
    let script = script::program("services/ready", &ServiceSet::new());
    std::fs::write(&ready, script.replace(STATUS, status.to_str().unwrap())).unwrap();
    for (states, code, said) in [
        (&["up", "done"][..], 0, ""),
        (&["up"], 0, ""),
        (&["up", "starting", "up"], 1, "s1: starting\n"),
        (&["waiting", "up", "failed"], 1, "s0: waiting\ns2: failed\n"),
        (&["down"], 1, "s0: down\n"),
        // The supervisor is not there yet.
        (&[], 1, ""),
    ] {
        let row = |(number, state): (usize, &&str)| format!("echo 's{number}\t{state}\t7\t1\t0'\n");
        let rows: String = states.iter().enumerate().map(row).collect();
        std::fs::write(&status, format!("#!/bin/sh\n{rows}")).unwrap();
        std::fs::set_permissions(&status, std::fs::Permissions::from_mode(0o755)).unwrap();
        for shell in [&["sh"][..], &["busybox", "sh"]] {
            let mut command = std::process::Command::new(shell[0]);
            let Ok(output) = command.args(&shell[1..]).arg(&ready).arg("--alone").output() else { continue };
            assert_eq!(output.status.code(), Some(code), "{states:?} in {shell:?}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), said, "{states:?} in {shell:?}");
        }
    }
}

#[test]
fn what_is_wrong_with_services_is_said_with_its_line() {
    let parent = r#"
    service "web" { command "web"; needs "db" }
    service "db" { command "db" }"#;
    for (name, child) in [
        ("switched_off_but_needed", r#"service "db" { enabled #false }"#),
        ("before_nothing", r#"service "x" { command "x"; before "wep" }"#),
        ("a_circle", r#"service "db" { needs "web" }"#),
        ("a_circle_through_an_anchor", r#"service "a" { command "a"; before "init"; needs "ready" }"#),
        ("ready_of_a_oneshot", r#"service "m" { type "oneshot"; script "true"; ready tcp=80 }"#),
        ("another_supervisor", "supervisor \"runit\""),
        ("an_entrypoint", "entrypoint \"/bin/sh\""),
        ("no_command", r#"service "wbe" { user "x" }"#),
    ] {
        let problems = merged(&[parent, &format!("    {child}")]).expect_err(name);
        insta::assert_snapshot!(format!("wrong_{name}"), shown(problems));
    }
}

#[test]
fn a_supervisor_must_come_from_somewhere() {
    let image = |supervisor: &str| {
        let text = format!(
            "image \"a\" {{\n    from \"scratch\"\n    {supervisor}\n    service \"web\" {{ command \"/web\" }}\n}}\n"
        );
        let workspace = loaded(&[("imgforge.kdl", "workspace \"w\"\n"), ("a/image.kdl", &text)]).unwrap();
        let graph = ImageGraph::new(&workspace).unwrap();
        merge(&workspace, &graph, &ImageName::new("a").unwrap())
    };
    insta::assert_snapshot!(shown(image("").unwrap_err()));
    assert!(image("supervisor \"s6\" install=#false").is_ok());
}

/// Some lines of one service.
fn any_service() -> impl Strategy<Value = String> {
    let field = prop_oneof![
        Just("command \"x\" \"y\""),
        Just("script \"exec z\""),
        Just("user \"app\""),
        Just("env \"K\" \"1\""),
        Just("env \"K\" \"2\""),
        Just("needs \"a\""),
        Just("needs \"a\" remove=#true"),
        Just("needs \"ready\""),
        Just("before \"b\""),
        Just("before \"init\""),
        Just("enabled #false"),
        Just("enabled #true"),
        Just("log \"null\""),
        Just("log \"file\" dir=\"/var/log/x\""),
        Just("ready tcp=80"),
        Just("ready fd=5"),
        Just("stop signal=\"QUIT\""),
        Just("restart \"never\""),
    ];
    (proptest::sample::select(vec!["a", "b", "c"]), proptest::collection::btree_set(field, 0..5)).prop_map(
        |(name, fields)| {
            let mut once = std::collections::BTreeSet::new();
            let lines: Vec<&str> = fields
                .into_iter()
                .filter(|line| {
                    let word = line.split(' ').next().unwrap();
                    let key = if word == "script" { "command" } else { word };
                    matches!(key, "needs" | "before") || once.insert(key)
                })
                .collect();
            format!("    service \"{name}\" {{ {} }}", lines.join("; "))
        },
    )
}

fn any_body() -> impl Strategy<Value = String> {
    proptest::collection::vec(any_service(), 0..3).prop_map(|services| {
        let mut seen = std::collections::BTreeSet::new();
        let services: Vec<String> = services
            .into_iter()
            .filter(|text| seen.insert(text.split('"').nth(1).unwrap().to_owned()))
            .collect();
        services.join("\n")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_global_rejects: 20_000, ..ProptestConfig::default() })]

    /// What a wrong answer here would do: a container that runs other services than `show` says.
    #[test]
    fn the_layers_of_a_chain_together_are_what_its_last_image_ends_up_with(
        children in proptest::collection::vec(any_body(), 1..4),
        user_at in 0usize..4,
    ) {
        let base = "    service \"a\" { command \"a\"; user \"app\" }\n    service \"b\" { command \"b\" }\n    service \"c\" { command \"c\" }".to_owned();
        let mut bodies = vec![base];
        bodies.extend(children);
        // The user of a service may be made by any image, also by one that names no service.
        if let Some(body) = bodies.get_mut(user_at) {
            body.insert_str(0, "    user \"app\" uid=1000 home=\"/srv/app\"\n");
        }
        let texts: Vec<&str> = bodies.iter().map(String::as_str).collect();
        let Ok(made) = merged(&texts) else { return Err(TestCaseError::reject("not a good chain")) };
        let mut union: BTreeMap<String, (bool, String)> = BTreeMap::new();
        for services in &made {
            for file in files(services) {
                let GeneratedFile { path, executable, content } = file;
                let text = String::from_utf8(content.to_vec()).unwrap();
                union.insert(path.to_string(), (executable, text));
            }
        }
        let last = made.last().unwrap();
        let alone = Services { inherited: ServiceSet::new(), ..last.clone() };
        let whole: BTreeMap<String, (bool, String)> = files(&alone)
            .into_iter()
            .map(|file| {
                (file.path.to_string(), (file.executable, String::from_utf8(file.content.to_vec()).unwrap()))
            })
            .collect();
        prop_assert_eq!(union, whole);
    }
}

/// A process that is given as ENTRYPOINT and CMD lies in no file: an image whose service is another one says so.
#[test]
fn a_child_of_a_single_process_has_its_own() {
    let files = [
        ("imgforge.kdl", "workspace \"w\"\n"),
        (
            "a/image.kdl",
            "image \"a\" {\n    from \"scratch\"\n    supervisor \"none\"\n    service \"main\" { command \"/a\" \"1\" }\n}\n",
        ),
        ("b/image.kdl", "image \"b\" {\n    from \"a\"\n    service \"main\" { command \"/b\" }\n}\n"),
        ("c/image.kdl", "image \"c\" {\n    from \"b\"\n}\n"),
    ];
    let source = Memory::of(&files.map(|(path, text)| (path, text.as_bytes())));
    let workspace = load(&source, None).unwrap();
    let graph = ImageGraph::new(&workspace).unwrap();
    let cmd = |name: &str| {
        let name = ImageName::new(name).unwrap();
        let rendered = render(&workspace, &graph, &name, &source).unwrap();
        rendered.dockerfile.lines().filter(|line| line.starts_with("CMD")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(cmd("a"), r#"CMD ["/a", "1"]"#);
    assert_eq!(cmd("b"), r#"CMD ["/b"]"#);
    assert_eq!(cmd("c"), "");
}
