//! What happens when a service ends by itself.

use std::time::Duration;

use super::Behaviour;

pub(super) const ROWS: &[Behaviour] = &[
    Behaviour {
        name: "a killed service comes back, and others are left alone",
        images: &[r#"
    service "other" { command "svc" "other" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            let (killed, other) = (running.pid("main"), running.pid("other"));
            running.sh(&format!("kill -KILL {killed}"));
            running.wait_nth("main start", 2);
            assert_ne!(running.pid("main"), killed);
            let status = running.status();
            assert_eq!((status["main"].restarts, status["other"].restarts), (1, 0));
            assert_eq!(status["other"].pid, other);
        },
    },
    Behaviour {
        name: "restart on failure only",
        images: &[r#"
    service "good" { script "say good start; exit 0"; restart "on-failure" }
    service "bad" { script "say bad start; exit 4"; restart "on-failure" }
    service "killed" { script "say killed start; kill -KILL $$"; restart "on-failure" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_nth("bad start", 3);
            running.wait_nth("killed start", 3);
            running.wait_state("good", "done");
            assert_eq!(running.times("good start").len(), 1);
            running.wait_log("imgforge: bad ended with status 4 and is started again");
            running.wait_log("imgforge: killed ended with status 137 and is started again");
        },
    },
    Behaviour {
        name: "restart never",
        images: &[r#"
    service "once" { script "say once start; exit 4"; restart "never" }
    service "well" { script "say well start; exit 0"; restart "never" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_log("imgforge: once ended with status 4 and is not started again");
            running.wait_state("once", "failed");
            running.wait_state("well", "done");
            std::thread::sleep(Duration::from_secs(3));
            assert_eq!((running.times("once start").len(), running.times("well start").len()), (1, 1));
            assert_eq!(running.stop(), 0);
        },
    },
    Behaviour {
        name: "what ends at once is started after longer and longer pauses",
        images: &[r#"
    service "hasty" { script "say hasty start; exit 1" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_nth("hasty start", 5);
            let pauses: Vec<u128> =
                running.times("hasty start").windows(2).map(|two| two[1] - two[0]).collect();
            let second = 1_000_000_000;
            assert!(pauses[3] > 3 * second && pauses[3] > pauses[1] + second, "{pauses:?}");
        },
    },
    Behaviour {
        name: "a delay before a restart",
        images: &[r#"
    service "hasty" { script "say hasty start; exit 1"; restart "always" delay="4s" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            let (first, second) = (running.wait("hasty start"), running.wait_nth("hasty start", 2));
            assert!(second - first >= 4_000_000_000, "{} ns", second - first);
        },
    },
    Behaviour {
        name: "too many restarts: it is given up",
        images: &[r#"
    service "hasty" { script "say hasty start; exit 6"; restart "always" max=2 within="60s" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_log("imgforge: hasty ended with status 6, 3 times within 60 s: it is given up");
            running.wait_state("hasty", "failed");
            assert_eq!(running.state("main"), "up");
            assert_eq!(running.stop(), 0);
            assert_eq!(running.times("hasty start").len(), 3);
        },
    },
    Behaviour {
        name: "too many restarts of what cannot be started: it is given up",
        images: &[r#"
    service "absent" { command "/no/such/program"; restart "always" max=2 within="600s" }
    service "hasty" { script "say hasty start; sleep 2; exit 6"; restart "always" max=2 within="600s" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("hasty start");
            if subject.supervisor == "supervisord" {
                // Then it makes no process.
                running.sh("chmod a-x /etc/imgforge/supervisord/hasty/run");
                running.wait_log("imgforge: hasty cannot be started: command at");
                running
                    .wait_log("imgforge: hasty ended with status 126, 3 times within 600 s: it is given up");
            }
            running.wait_log("3 times within 600 s: it is given up");
            running.wait_state("absent", "failed");
            running.wait_state("hasty", "failed");
            assert_eq!(running.stop(), 0);
        },
    },
    Behaviour {
        name: "too many restarts: the container stops with its code",
        images: &[r#"
    service "hasty" { script "say hasty start; exit 6"; restart "always" max=1 within="60s" then="stop" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            assert_eq!(running.wait_end(), 6);
            assert_eq!(running.times("hasty start").len(), 2);
            assert!(running.has_said("main stop"), "others are stopped, not killed");
        },
    },
    Behaviour {
        name: "an essential service ends: the container ends with its code",
        images: &[r#"
    service "main" { script "say main start; sleep 2; exit 7"; essential #true }"#],
        check: |subject| {
            let running = subject.start(&[]);
            assert_eq!(running.wait_end(), 7);
            assert_eq!(running.times("main start").len(), 1);
        },
    },
    Behaviour {
        name: "an essential service ends with 0: so does the container",
        images: &[r#"
    service "main" { script "say main start; sleep 2; exit 0"; essential #true }"#],
        check: |subject| {
            let running = subject.start(&[]);
            assert_eq!(running.wait_end(), 0);
            assert_eq!(running.times("main start").len(), 1);
        },
    },
    Behaviour {
        name: "an essential service is killed: the container ends with 128 and the signal's number",
        images: &[r#"
    service "main" { essential #true }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            let pid = running.pid("main");
            if pid == "1" {
                // Nothing inside can kill process 1.
                running.signal("KILL");
            } else {
                running.sh(&format!("kill -KILL {pid}"));
            }
            assert_eq!(running.wait_end(), 137);
        },
    },
    Behaviour {
        name: "an essential service ends: the others are stopped in order",
        images: &[r#"
    service "app" { script "sleep 3; say app end; exit 5"; essential #true; needs "main" }
    service "main" { needs "db" }
    service "db" { command "svc" "db" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            assert_eq!(running.wait_end(), 5);
            assert!(running.wait("main stop") > running.wait("app end"));
            assert!(running.wait("db stop") > running.wait("main stop"));
        },
    },
    Behaviour {
        name: "what it leaves running is killed with it",
        images: &[r#"
    service "messy" { script "sleep 12345 & say messy start; sleep 2; exit 1"; restart "never" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("messy start");
            running.wait_state("messy", "failed");
            running.until("nothing of it is left", || !running.processes().contains("sleep 12345"));
        },
    },
];
