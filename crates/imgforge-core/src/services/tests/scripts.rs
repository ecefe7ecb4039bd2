//! The scripts that are made for a service.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;

/// Services that differ in what the scripts' templates ask for.
fn variants() -> Vec<MergedService> {
    let users =
        [(None, None), (Some("web"), None), (None, Some("www-data")), (Some("web"), Some("www-data"))];
    let logs = [
        None,
        Some(Log::Stdout { prefix: None }),
        Some(Log::File { dir: "/var/log/my app".into(), max_size: 4096, keep: 1 }),
        Some(Log::Null),
    ];
    let probes = [
        None,
        Some(Probe::Exec(argv(&["it's", "ready"]))),
        Some(Probe::Tcp { host: "127.0.0.1".into(), port: 80 }),
        Some(Probe::Fd(4)),
    ];
    let policies = [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never];
    let mut variants = Vec::new();
    for (at, (user, group)) in users.into_iter().enumerate() {
        for log in &logs {
            for probe in &probes {
                let policy = policies[variants.len() % policies.len()];
                let ready = probe
                    .clone()
                    .map(|probe| field(Ready { probe, interval: Millis(100), timeout: Millis(1000) }));
                let kind =
                    if ready.is_none() && at % 2 == 1 { ServiceType::Oneshot } else { ServiceType::Longrun };
                variants.push(MergedService {
                    kind: Some(field(kind)),
                    user: user.map(|user| field(user.into())),
                    group: group.map(|group| field(group.into())),
                    log: log.clone().map(field),
                    ready,
                    restart: Some(field(Restart { policy, delay: Millis(0), bound: None })),
                    essential: Some(field(variants.len() % 2 == 0)),
                    ..full()
                });
            }
        }
    }
    variants
}

const OF_SCRIPTS: [Supervisor; 5] =
    [Supervisor::S6, Supervisor::Runit, Supervisor::Supervisord, Supervisor::S6Overlay, Supervisor::Systemd];

#[test]
fn every_script_of_every_service_is_one_for_sh() {
    let mut scripts: Vec<ImageFile> = Vec::new();
    for supervisor in OF_SCRIPTS {
        scripts.extend(writer(supervisor).base(&ServiceSet::new()));
        scripts.extend(variants().iter().flat_map(|service| writer(supervisor).service(service)));
    }
    scripts.retain(|file| file.content.starts_with("#!/bin/sh\n"));
    scripts.sort_by(|a, b| a.content.cmp(&b.content));
    scripts.dedup_by(|a, b| a.content == b.content);
    assert!(scripts.len() > 100, "{}", scripts.len());
    for script in scripts {
        let mut sh = Command::new("sh").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
        sh.stdin.take().unwrap().write_all(script.content.as_bytes()).unwrap();
        assert!(sh.wait().unwrap().success(), "{}:\n{}", script.path, script.content);
    }
}

#[test]
fn variables_that_sh_has_no_names_for_are_given_by_env() {
    let env = BTreeMap::from([
        ("A_1".to_owned(), field("a b".to_owned())),
        ("discovery.type".to_owned(), field("single node".to_owned())),
        ("1x".to_owned(), field("$y".to_owned())),
    ]);
    let service = MergedService { env, ..full() };
    for supervisor in OF_SCRIPTS {
        let files = writer(supervisor).service(&service);
        let run = files.iter().find(|file| file.path.ends_with("/run")).unwrap();
        assert!(run.content.contains("\nexport A_1='a b'\n"), "{}", run.content);
        assert!(
            run.content.contains("\nset -- env '1x=$y' 'discovery.type=single node' \"$@\"\n"),
            "{}",
            run.content
        );
    }
}

#[test]
fn runit_keeps_an_older_log_file() {
    let body = r#"
    supervisor "runit"
    service "web" {
        command "web"
        log "file" dir="/var/log/web" keep=0
    }"#;
    insta::assert_snapshot!(shown(merged(&[body]).unwrap_err()));
}

/// Gives lines to the program that writes what services say, and returns what it writes.
fn log_lines(prefix: &str, said: &[u8]) -> Vec<u8> {
    let program = script::programs().into_iter().find(|file| file.path.ends_with("/log-lines")).unwrap();
    let mut sh = Command::new("sh")
        .args(["-c", &program.content, "log-lines", prefix])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = sh.stdin.take().unwrap();
    let said = said.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&said));
    let out = sh.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    out.stdout
}

#[test]
fn lines_of_a_log_arrive_whole() {
    assert_eq!(log_lines("a: ", b""), b"");
    assert_eq!(log_lines("%s\\n\"'& ", b"one\n\n two"), b"%s\\n\"'& one\n%s\\n\"'& \n%s\\n\"'&  two\n");
    assert_eq!(log_lines("", b"-- $x \\ \xff\xfe\n"), b"-- $x \\ \xff\xfe\n");
    let long = vec![b'x'; 3_000_000];
    assert!(log_lines("a: ", &long) == [b"a: ", long.as_slice(), b"\n"].concat());
}
