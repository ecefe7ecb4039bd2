//! `/etc/imgforge/status`.

use std::process::Command;
use std::time::Instant;

use super::Behaviour;
use crate::conformance::running::now;

pub(super) const ROWS: &[Behaviour] = &[
    Behaviour {
        name: "status: a service that is up, its process and its time",
        images: &[r#"
    service "main" { essential #true }"#],
        check: |subject| {
            let begun = Instant::now();
            let running = subject.start(&[]);
            running.wait("main start");
            let pid = running.pid("main");
            let words = running.sh(&format!("tr '\\0' ' ' < /proc/{pid}/cmdline"));
            assert!(words.ends_with("svc main"), "{words}");
            running.until("its seconds go on", || running.status()["main"].seconds >= 2);
            assert!(running.status()["main"].seconds <= begun.elapsed().as_secs() + 1);
            assert_eq!(running.status().len(), 1);
        },
    },
    Behaviour {
        name: "status: waiting, starting, up",
        images: &[r#"
    service "slow" { command "svc" "slow"; ready "test" "-e" "/tmp/go" interval="100ms" timeout="300s" }
    service "after" { command "svc" "after"; needs "slow" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_state("main", "up");
            running.wait_state("slow", "starting");
            running.wait_state("after", "waiting");
            running.sh(": > /tmp/go");
            running.wait_state("slow", "up");
            running.wait_state("after", "up");
        },
    },
    Behaviour {
        name: "status: the time is that since it is up, not since it waits",
        images: &[r#"
    service "slow" { command "svc" "slow"; ready "sh" "-c" "test -e /tmp/go && say slow ready > /tmp/ready" interval="100ms" timeout="300s" }
    service "after" { command "svc" "after"; needs "slow" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_state("after", "waiting");
            running.until("it has waited", || running.status()["after"].seconds >= 4);
            running.until("it has started", || running.status()["slow"].seconds >= 4);
            running.sh(": > /tmp/go");
            running.wait_state("after", "up");
            let status = running.status();
            let ready: u128 = running.sh("cut -d ' ' -f 3 /tmp/ready").trim().parse().unwrap();
            let seconds = |since: u128| u64::try_from((now() - since) / 1_000_000_000).unwrap() + 1;
            assert!(status["after"].seconds <= seconds(running.wait("after start")), "{status:?}");
            assert!(status["slow"].seconds <= seconds(ready), "{status:?}");
        },
    },
    Behaviour {
        name: "status: starting until it is ready, up from then on",
        images: &[r#"
    service "main" {
        env "FILE" "/tmp/go on"
        ready "sh" "-c" "test -e \"$FILE\"" interval="100ms" timeout="300s"
    }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            running.wait_state("main", "starting");
            let is_ready = || running.container.try_exec(&["/etc/imgforge/ready"]).is_some();
            assert!(!is_ready());
            running.sh(": > '/tmp/go on'");
            running.wait_state("main", "up");
            assert!(is_ready());
            running.sh("rm '/tmp/go on'");
            assert!(is_ready(), "it has been ready once");
            assert_eq!(running.stop(), 0);
            // Its next process has still to become ready.
            running.start_again();
            running.wait_nth("main start", 2);
            running.wait_state("main", "starting");
        },
    },
    Behaviour {
        name: "status: done and failed",
        images: &[r#"
    service "setup" { type "oneshot"; script "true" }
    service "broken" { script "exit 1"; restart "never" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_state("setup", "done");
            running.wait_state("broken", "failed");
            let status = running.status();
            assert_eq!((status["setup"].pid.as_str(), status["broken"].pid.as_str()), ("-", "-"));
        },
    },
    Behaviour {
        name: "status: paused, and how often it was started again",
        images: &[r#"
    service "hasty" { script "say hasty start; exit 1"; restart "always" delay="3s" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_state("hasty", "paused");
            running.wait_nth("hasty start", 3);
            running.until("it says so", || running.status()["hasty"].restarts >= 2);
            running.wait_state("hasty", "paused");
        },
    },
    Behaviour {
        name: "status: down while others stop",
        images: &[r#"
    service "stubborn" { script "trap '' TERM; say stubborn start; while :; do sleep 1; done"; stop grace="20s" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("stubborn start");
            running.wait_state("main", "up");
            let mut stop =
                Command::new("docker").args(["stop", "-t", "60", &running.container.id]).spawn().unwrap();
            running.wait("main stop");
            running.wait_state("main", "down");
            let status = running.status();
            assert_eq!(status["main"].pid, "-");
            assert_ne!(status["stubborn"].pid, "-");
            running.signal("KILL");
            stop.wait().unwrap();
        },
    },
];
