use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use proptest::prelude::*;

use super::s6::quote;
use super::*;
use crate::manifest::{Millis, RestartPolicy};

fn field<T>(value: T) -> Field<T> {
    let file = Arc::new(SourceFile { path: "web/image.kdl".into(), text: String::new() });
    Field { value, file, span: Span::default() }
}

/// A service of which nothing is left out.
fn full() -> MergedService {
    let name = |text: &str| ServiceName::new(text).unwrap();
    MergedService {
        name: name("app"),
        declared: field(ImageName::new("web").unwrap()),
        enabled: None,
        command: Some(field(vec!["/usr/bin/app".into(), "a b".into(), "it's".into(), "$HOME".into()])),
        user: Some(field("web".into())),
        home: Some("/srv/web".into()),
        dir: Some(field("/srv/my web".into())),
        env: BTreeMap::from([("KEY".into(), field("two\nlines".into()))]),
        needs: BTreeMap::from([(name("cache"), field(())), (name("db"), field(()))]),
        ready: Some(field(Ready {
            command: vec!["curl".into(), "-f".into(), "http://127.0.0.1/".into()],
            interval: Millis(250),
            timeout: Millis(30_000),
        })),
        restart: Some(field(Restart { policy: RestartPolicy::OnFailure, delay: Millis(1500) })),
        essential: None,
        stop: Some(field(Stop { signal: "QUIT".into(), grace: Millis(5000) })),
    }
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
    let least = MergedService {
        user: None,
        home: None,
        dir: None,
        env: BTreeMap::new(),
        needs: BTreeMap::new(),
        ready: None,
        restart: None,
        stop: None,
        essential: Some(field(true)),
        ..full()
    };
    insta::assert_snapshot!("s6_least", written(&least));
}

#[test]
fn every_service_has_the_same_files_so_that_a_childs_cover_its_parents() {
    let paths = |service: &MergedService| {
        let files = writer(Supervisor::S6).service(service);
        files
            .into_iter()
            .map(|file| file.path)
            .filter(|path| !path.contains("/dependencies.d/"))
            .collect::<Vec<_>>()
    };
    let bare = MergedService::new(full().name, field(ImageName::new("web").unwrap()));
    assert_eq!(paths(&full()), paths(&bare));
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
