//! The scripts that are made for a service.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
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
            run.content.contains("\nset -- '1x=$y' 'discovery.type=single node' \"$@\"\n"),
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

/// A variable's name or value, of any bytes that it may have.
fn any_bytes(names: bool) -> impl Strategy<Value = Vec<u8>> {
    let special: Vec<&[u8]> =
        vec![b"PATH", b"IFS", b"LD_PRELOAD", b"OPTIND", b"UID", b"PWD", b"_", b"ENV", b"a.b"];
    let known = proptest::sample::select(special).prop_map(<[u8]>::to_vec);
    let is_allowed =
        move |bytes: &Vec<u8>| !bytes.contains(&0) && !(names && (bytes.is_empty() || bytes.contains(&b'=')));
    let word = proptest::string::bytes_regex("[A-Za-z_'][A-Za-z0-9_.' ]{0,6}").expect("an expression");
    let any = proptest::collection::vec(1_u8.., 0..12);
    prop_oneof![known, word, any].prop_filter("a name or a value", is_allowed)
}

/// What a process that is started with `env` gets when its environment is kept, and given back by another sh.
fn given_back(env: &BTreeMap<Vec<u8>, Vec<u8>>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let (exports, words) = (dir.path().join("exports"), dir.path().join("words"));
    // Something that needs nothing of its environment.
    let mut holder = Command::new("/bin/cat")
        .env_clear()
        .envs(env.iter().map(|(name, value)| (OsStr::from_bytes(name), OsStr::from_bytes(value))))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It is its own program, with its own environment, when it answers.
    let mut stdin = holder.stdin.take().unwrap();
    stdin.write_all(b"x\n").unwrap();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let program = script::program("services/environment", &ServiceSet::new());
    let kept = Command::new("sh")
        .args(["-c", &program, "environment", &holder.id().to_string()])
        .args([&exports, &words])
        .status()
        .unwrap();
    drop(stdin);
    holder.wait().unwrap();
    assert!(kept.success());
    let give = "set -- /usr/bin/env -0; . \"$WORDS\"; set -- /usr/bin/env -u PATH -u EXPORTS -u WORDS \"$@\"; unset PWD OLDPWD; . \"$EXPORTS\"; exec \"$@\"";
    let out = Command::new("sh")
        .env_clear()
        .envs([("EXPORTS", &exports), ("WORDS", &words)])
        .args(["-c", give])
        .output()
        .unwrap();
    assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    let pair = |pair: &[u8]| {
        let at = pair.iter().position(|byte| *byte == b'=').unwrap();
        (pair[..at].to_vec(), pair[at + 1..].to_vec())
    };
    out.stdout.split(|byte| *byte == 0).filter(|pair| !pair.is_empty()).map(pair).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_environment_is_kept_and_given_back_byte_for_byte(
        env in proptest::collection::btree_map(any_bytes(true), any_bytes(false), 0..8)
    ) {
        let mut env = env;
        // What the dynamic loader says of these would be in the way.
        env.retain(|name, _| !name.starts_with(b"LD_"));
        let shown = |env: &BTreeMap<Vec<u8>, Vec<u8>>| {
            let text = |bytes: &Vec<u8>| OsString::from_vec(bytes.clone());
            env.iter().map(|(name, value)| (text(name), text(value))).collect::<Vec<_>>()
        };
        prop_assert_eq!(shown(&given_back(&env)), shown(&env));
    }
}
