//! s6: `s6-svscan` as PID 1, one service directory a service, scripts in plain sh (Debian's s6 has no execline).
//!
//! `/etc/imgforge/s6/NAME/` holds what an image says and is never written to; `/run/imgforge/s6/NAME/` is the live
//! service directory, made of links into it when the container starts. A dependency is an empty file in
//! `dependencies.d/`. Every service has every file, so that a child's folder covers its parent's whole. The meaning of
//! `notification-fd`, `down-signal`, `timeout-kill`, `timeout-finish` and of `finish`'s arguments and exit code 125 is
//! that of s6's own pages "service directories" and "s6-supervise".

use std::sync::LazyLock;

use minijinja::{Environment, UndefinedBehavior, context};

use super::{ImageFile, MergedService, Writer};
use crate::manifest::{Millis, RestartPolicy};

/// PID 1's first program.
pub(super) const INIT: &str = "/etc/imgforge/init";

const FOLDER: &str = "/etc/imgforge/s6";

/// How long `finish` may take beside the delay that it waits for.
const FINISH_SLACK: u64 = 5000;

/// The grace of a service that says nothing of `stop`.
const DEFAULT_GRACE: Millis = Millis(10_000);

pub(super) struct S6;

impl Writer for S6 {
    fn base(&self) -> Vec<ImageFile> {
        [
            (INIT, include_str!("../../../../templates/s6/init")),
            ("/etc/imgforge/stop", include_str!("../../../../templates/s6/stop")),
            ("/etc/imgforge/finish", include_str!("../../../../templates/s6/finish")),
        ]
        .into_iter()
        .map(|(path, content)| ImageFile { path: path.into(), executable: true, content: content.into() })
        .collect()
    }

    fn service(&self, service: &MergedService) -> Vec<ImageFile> {
        let file = |name: &str, executable: bool, content: String| ImageFile {
            path: format!("{FOLDER}/{}/{name}", service.name),
            executable,
            content,
        };
        let (signal, grace) = service
            .stop
            .as_ref()
            .map_or(("TERM", DEFAULT_GRACE), |stop| (stop.value.signal.as_str(), stop.value.grace));
        let delay = service.restart.as_ref().map_or(0, |restart| restart.value.delay.0);
        let enabled = if service.is_enabled() { "yes\n" } else { "no\n" };
        let mut files = vec![
            file("run", true, script("run", service)),
            file("check", true, script("check", service)),
            file("finish", true, script("finish", service)),
            file("enabled", false, enabled.into()),
            file("notification-fd", false, "3\n".into()),
            file("down-signal", false, format!("SIG{signal}\n")),
            file("timeout-kill", false, format!("{}\n", grace.0)),
            file("timeout-finish", false, format!("{}\n", delay + FINISH_SLACK)),
        ];
        files.extend(
            service.needs.keys().map(|need| file(&format!("dependencies.d/{need}"), false, String::new())),
        );
        files
    }
}

static SCRIPTS: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_syntax(crate::render::syntax());
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.add_filter("sh", |word: &str| quote(word));
    for (name, text) in [
        ("run", include_str!("../../../../templates/s6/service-run.j2")),
        ("check", include_str!("../../../../templates/s6/service-check.j2")),
        ("finish", include_str!("../../../../templates/s6/service-finish.j2")),
    ] {
        env.add_template(name, text).expect("the built-in scripts are templates");
    }
    env
});

fn script(name: &str, service: &MergedService) -> String {
    let ready = service.ready.as_ref().map(|ready| {
        context! {
            command => ready.value.command.clone(),
            timeout_seconds => ready.value.timeout.0.div_ceil(1000),
            interval_seconds => seconds(ready.value.interval),
        }
    });
    let restart = service.restart.as_ref().map(|restart| &restart.value);
    let policy = restart.map_or(RestartPolicy::Always, |restart| restart.policy).as_str();
    let values = context! {
        name => service.name.as_str(),
        command => service.command.as_ref().map(|command| command.value.clone()).unwrap_or_default(),
        user => service.user.as_ref().map(|user| &user.value).filter(|user| *user != "root"),
        home => service.home.as_ref().filter(|_| service.user.is_some()),
        dir => service.dir.as_ref().map(|dir| &dir.value),
        env => service.env.iter().map(|(key, value)| (key.clone(), value.value.clone())).collect::<Vec<_>>(),
        needs => service.needs.keys().map(ToString::to_string).collect::<Vec<_>>(),
        essential => service.is_essential(),
        delay_seconds => restart.filter(|restart| restart.delay.0 > 0).map(|restart| seconds(restart.delay)),
        ready, policy,
    };
    let template = SCRIPTS.get_template(name).expect("added above");
    template.render(values).expect("the built-in scripts use what is given to them")
}

/// `1.5`, as sleep(1) of coreutils and busybox take it.
fn seconds(time: Millis) -> String {
    match time.0 % 1000 {
        0 => (time.0 / 1000).to_string(),
        rest => format!("{}.{rest:03}", time.0 / 1000),
    }
}

/// A word for sh that means exactly `word`: in single quotes, in which nothing has a meaning but their end.
pub(crate) fn quote(word: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&b);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}
