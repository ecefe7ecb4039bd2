use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::manifest::{GiveUp, Probe, RestartBound};

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
        stop: Some(field(Stop { signal: "QUIT".into(), grace: Millis(5000) })),
        reload: Some(field(Reload::Signal("HUP".into()))),
        before_start: Some(field(argv(&["install", "-d", "/run/my app"]))),
        after_stop: Some(field(argv(&["rm", "-rf", "/run/my app"]))),
        log: Some(field(Log::File { dir: "/var/log/app".into(), max_size: 1 << 20, keep: 5 })),
    }
}

/// A service of which all that can be is left out.
fn bare() -> MergedService {
    MergedService::new(full().name, field(ImageName::new("web").unwrap()))
}

fn written(service: &MergedService) -> String {
    let mut text = String::new();
    for file in writer(Supervisor::S6).service(service) {
        let mode = if file.executable { "0755" } else { "0644" };
        let _ = writeln!(text, "--- {} {mode}\n{}", file.path, file.content.trim_end());
    }
    text
}

#[test]
fn a_service_becomes_an_s6_service_directory() {
    insta::assert_snapshot!("s6_full", written(&full()));
    let process = Some(field(Process::Command(argv(&["/usr/bin/app"]))));
    let least = MergedService { process, essential: Some(field(true)), ..bare() };
    insta::assert_snapshot!("s6_least", written(&least));
}

#[test]
fn every_service_has_the_same_files_so_that_a_childs_cover_its_parents() {
    let paths = |service: &MergedService| {
        let files = writer(Supervisor::S6).service(service);
        files.into_iter().map(|file| file.path).collect::<Vec<_>>()
    };
    assert_eq!(paths(&full()), paths(&bare()));
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
