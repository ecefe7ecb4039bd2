//! How it is known that a service is ready.

use super::Behaviour;
use crate::conformance::Subject;

pub(super) const ROWS: &[Behaviour] = &[
    Behaviour {
        name: "by a program",
        images: &[r#"
    service "server" { command "slow" "server"; ready "test" "-e" "/tmp/server" interval="50ms" }
    service "app" { command "svc" "app"; needs "server" }"#],
        check: starts_after_the_server,
    },
    Behaviour {
        name: "by http",
        images: &[r#"
    service "server" { command "serve" "8080"; ready http="http://127.0.0.1:8080/ok" interval="50ms" }
    service "app" { command "svc" "app"; needs "server" }"#],
        check: starts_after_the_server,
    },
    Behaviour {
        name: "by http: a status of 503 is not ready",
        images: &[r#"
    service "server" {
        command "serve" "8080"
        ready http="http://127.0.0.1:8080/no" interval="50ms" timeout="3s"
        restart "never"
    }
    service "app" { command "svc" "app"; needs "server" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_log("imgforge: server was not ready within 3 s");
            running.wait_state("app", "failed");
            assert!(running.has_said("server ready"), "it listened all the time");
            assert!(!running.has_said("app start"));
        },
    },
    Behaviour {
        name: "by tcp",
        images: &[r#"
    service "server" { command "serve" "8080"; ready tcp=8080 interval="50ms" }
    service "app" { command "svc" "app"; needs "server" }"#],
        check: starts_after_the_server,
    },
    Behaviour {
        name: "by a line on a descriptor",
        images: &[r#"
    service "server" { script "sleep 1; say server ready; echo >&5; exec 5>&-; exec svc server"; ready fd=5 }
    service "app" { command "svc" "app"; needs "server" }"#],
        check: starts_after_the_server,
    },
    Behaviour {
        name: "never ready: the log says so, and what needs it does not start",
        images: &[r#"
    service "server" { command "svc" "server"; ready "false" interval="50ms" timeout="2s"; restart "never" }
    service "app" { command "svc" "app"; needs "server" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_log("imgforge: server was not ready within 2 s");
            running.wait("server stop");
            running.wait_state("server", "failed");
            running.wait_log("imgforge: app does not start: what it needs has failed");
            running.wait_state("app", "failed");
            assert!(!running.has_said("app start"));
            assert_eq!(running.state("main"), "up");
            assert_eq!(running.stop(), 0);
        },
    },
    Behaviour {
        name: "not ready in time, and started again: ready at the second try",
        images: &[r#"
    service "server" {
        script "say server start; test ! -e /tmp/tried || : > /tmp/server; : > /tmp/tried; exec svc again"
        ready "test" "-e" "/tmp/server" interval="50ms" timeout="2s"
    }
    service "app" { command "svc" "app"; needs "server" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_log("imgforge: server was not ready within 2 s");
            let app = running.wait("app start");
            assert!(app > running.wait_nth("server start", 2));
            running.wait_state("server", "up");
        },
    },
    Behaviour {
        name: "its timeout begins with the command, not with before-start",
        images: &[r#"
    service "server" {
        command "svc" "server"
        before-start "sleep" "6"
        ready "test" "-e" "/tmp" interval="50ms" timeout="4s"
        restart "never"
    }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("server start");
            running.wait_state("server", "up");
        },
    },
    Behaviour {
        name: "is not told before its limits hold",
        images: &[r#"
    service "told" { command "svc" "told"; limit nofile=2000000000; ready "true"; restart "never" }
    service "plain" { command "svc" "plain"; limit nofile=2000000000; restart "never" }
    service "app" { command "svc" "app"; needs "told" }
    service "other" { command "svc" "other"; needs "plain" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            for service in ["told", "plain", "app", "other"] {
                running.wait_state(service, "failed");
                assert!(!running.has_said(&format!("{service} start")));
            }
        },
    },
    Behaviour {
        name: "is asked for again after a restart",
        images: &[r#"
    service "server" { command "svc" "server"; ready "test" "-e" "/tmp/go" interval="50ms" timeout="300s" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_state("server", "starting");
            running.sh(": > /tmp/go");
            let pid = running.pid("server");
            running.sh(&format!("rm /tmp/go; kill -KILL {pid}"));
            running.wait_nth("server start", 2);
            running.wait_state("server", "starting");
            running.sh(": > /tmp/go");
            assert_ne!(running.pid("server"), pid);
        },
    },
];

fn starts_after_the_server(subject: &Subject) {
    let running = subject.start(&[]);
    assert!(running.wait("app start") > running.wait("server ready"));
    running.wait_state("server", "up");
}
