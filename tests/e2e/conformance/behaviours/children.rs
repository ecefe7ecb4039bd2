//! What a child does with its parents' services.

use super::Behaviour;

pub(super) const ROWS: &[Behaviour] = &[
    Behaviour {
        name: "a child overrides single fields",
        images: &[
            r#"
    service "main" { script "echo \"me=$(id -un) dir=$PWD\"; exec hex a"; env "HEX_A" "1"; env "HEX_B" "1"; dir "/usr/local/lib"; user "app" }"#,
            r#"
    service "main" { env "HEX_B" "2"; env "HEX_C" "3"; dir "/srv" }"#,
        ],
        check: |subject| {
            let running = subject.start(&[]);
            // The words are those of the parent: "a", "HEX_A=1", "HEX_B=2", "HEX_C=3".
            running.wait_log("hex 61,4845585f413d31,4845585f423d32,4845585f433d33.\n");
            running.wait_log("me=app dir=/srv\n");
        },
    },
    Behaviour {
        name: "a child overrides the command",
        images: &[
            r#"
    service "main" { script "exec svc parent"; stop signal="TERM" }"#,
            r#"
    service "main" { command "svc" "child" }"#,
        ],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("child start");
            running.wait_state("main", "up");
            assert_eq!(running.stop(), 0);
            assert!(running.has_said("child stop"));
            assert!(!running.has_said("parent start") && !running.has_said("main start"));
        },
    },
    Behaviour {
        name: "a child switches a service off",
        images: &[r#"
    service "main" { enabled #false }
    service "own" { command "svc" "own" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("own start");
            running.wait_state("own", "up");
            assert!(!running.status().contains_key("main"));
            assert_eq!(running.stop(), 0);
            assert!(!running.has_said("main start"));
        },
    },
    Behaviour {
        name: "a grandchild switches it on again",
        images: &[
            r#"
    service "main" { enabled #false }
    service "own" { command "svc" "own" }"#,
            r#"
    service "main" { enabled #true }
    service "own" { enabled #false }"#,
        ],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            running.wait_state("main", "up");
            assert!(!running.status().contains_key("own"));
            assert_eq!(running.stop(), 0);
            assert!(!running.has_said("own start"));
        },
    },
    Behaviour {
        name: "a child takes a need away",
        images: &[
            r#"
    service "gate" { command "svc" "gate"; ready "false" interval="1s" timeout="300s" }
    service "main" { needs "gate" }
    service "other" { command "svc" "other"; needs "gate" }"#,
            r#"
    service "main" { needs "gate" remove=#true }"#,
        ],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            running.wait_state("main", "up");
            running.wait_state("gate", "starting");
            running.wait_state("other", "waiting");
            assert_eq!(running.stop(), 0);
        },
    },
];
