//! Who starts when, and oneshots.

use super::Behaviour;

pub(super) const ROWS: &[Behaviour] = &[
    Behaviour {
        name: "starts after what it needs is ready, along a chain",
        images: &[r#"
    service "app" { command "svc" "app"; needs "cache" }
    service "cache" { command "slow" "cache"; needs "db"; ready "test" "-e" "/tmp/cache" interval="50ms" }
    service "db" { command "slow" "db"; ready "test" "-e" "/tmp/db" interval="50ms" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            assert!(running.wait("app start") > running.wait("cache ready"));
            assert!(running.wait("cache start") > running.wait("db ready"));
        },
    },
    Behaviour {
        name: "what waits holds up nothing else",
        images: &[r#"
    service "never" { command "svc" "never"; ready "false" interval="1s" timeout="300s" }
    service "app" { command "svc" "app"; needs "never" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("never start");
            running.wait("main start");
            running.wait_state("main", "up");
            running.wait_state("app", "waiting");
            assert!(!running.has_said("app start"));
        },
    },
    Behaviour {
        name: "starts before another",
        images: &[r#"
    service "app" { command "svc" "app" }
    service "first" { command "slow" "first"; ready "test" "-e" "/tmp/first" interval="50ms"; before "app" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            assert!(running.wait("app start") > running.wait("first ready"));
        },
    },
    Behaviour {
        name: "a child's service starts before its parent's",
        images: &[r#"
    service "first" { command "slow" "first"; ready "test" "-e" "/tmp/first" interval="50ms"; before "main" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            assert!(running.wait("main start") > running.wait("first ready"));
        },
    },
    Behaviour {
        name: "before the anchor init",
        images: &[
            r#"    service "app" { command "svc" "app" }"#,
            r#"
    service "early" { type "oneshot"; script "sleep 1; say early done"; before "init" }"#,
        ],
        check: |subject| {
            let running = subject.start(&[]);
            let early = running.wait("early done");
            assert!(running.wait("main start") > early);
            assert!(running.wait("app start") > early);
        },
    },
    Behaviour {
        name: "after the anchor ready",
        images: &[
            r#"    service "late" { command "svc" "late"; needs "ready" }"#,
            r#"
    service "own" { command "slow" "own"; ready "test" "-e" "/tmp/own" interval="50ms" }"#,
        ],
        check: |subject| {
            let running = subject.start(&[]);
            let late = running.wait("late start");
            assert!(late > running.wait("own ready"));
            assert!(late > running.wait("main start"));
        },
    },
    Behaviour {
        name: "a oneshot runs once, before what needs it",
        images: &[r#"
    service "setup" { type "oneshot"; script "say setup begin; sleep 1; say setup done" }
    service "app" { command "svc" "app"; needs "setup" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            assert!(running.wait("app start") > running.wait("setup done"));
            running.wait_state("setup", "done");
            assert_eq!(running.stop(), 0);
            assert_eq!(running.times("setup begin").len(), 1);
        },
    },
    Behaviour {
        name: "a oneshot that has done its work leaves what it has started",
        images: &[r#"
    service "setup" {
        type "oneshot"
        script "sleep 12345 & (sleep 2; exec setsid sleep 23456) & say setup done"
    }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("setup done");
            running.wait_state("setup", "done");
            // A daemon that takes its time to get a session of its own.
            running.until("the daemon runs", || running.processes().contains("\nsleep 23456"));
            assert!(running.processes().contains("sleep 12345"), "{}", running.processes());
        },
    },
    Behaviour {
        name: "a oneshot that fails leaves no process",
        images: &[r#"
    service "setup" { type "oneshot"; script "sleep 12345 & say setup begin; exit 3" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("setup begin");
            running.wait_state("setup", "failed");
            running.until("nothing of it is left", || !running.processes().contains("sleep 12345"));
        },
    },
    Behaviour {
        name: "a oneshot fails: what needs it does not start",
        images: &[r#"
    service "setup" { type "oneshot"; script "say setup begin; exit 3" }
    service "app" { command "svc" "app"; needs "setup" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_log("imgforge: setup ended with status 3");
            running.wait_state("setup", "failed");
            running.wait_log("imgforge: app does not start: what it needs has failed");
            running.wait_state("app", "failed");
            running.wait_state("main", "up");
            assert!(!running.has_said("app start"));
            assert_eq!(running.stop(), 0);
            assert_eq!(running.times("setup begin").len(), 1);
        },
    },
    Behaviour {
        name: "a oneshot is tried again until it ends with 0",
        images: &[r#"
    service "setup" {
        type "oneshot"
        script "say setup begin; echo x >> /tmp/tries; test $(wc -l < /tmp/tries) -ge 3"
        restart "on-failure"
    }
    service "app" { command "svc" "app"; needs "setup" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            assert!(running.wait("app start") > running.wait_nth("setup begin", 3));
            running.wait_state("setup", "done");
            assert_eq!(running.stop(), 0);
            assert_eq!(running.times("setup begin").len(), 3);
            assert_eq!(running.times("app start").len(), 1);
        },
    },
    Behaviour {
        name: "an essential oneshot that fails ends the container with its code",
        images: &[r#"
    service "setup" { type "oneshot"; script "sleep 1; exit 9"; essential #true }
    service "main" { needs "setup" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            assert_eq!(running.wait_end(), 9);
            assert!(!running.has_said("main start"));
        },
    },
];
