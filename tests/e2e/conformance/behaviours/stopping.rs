//! How a container stops, and what its process 1 does with signals.

use std::time::Duration;

use imgforge_testkit::docker::Docker;

use super::Behaviour;
use crate::conformance::Subject;
use crate::conformance::running::now;

pub(super) const ROWS: &[Behaviour] = &[
    Behaviour {
        name: "stops in the reverse order of its start, with exit code 0",
        images: &[r#"
    service "db" { script "trap 'sleep 0.5; say db stop; exit 0' TERM; say db start; while :; do sleep 60 & wait $!; done" }
    service "app" {
        script "trap 'sleep 0.5; say app stop; exit 0' TERM; say app start; while :; do sleep 60 & wait $!; done"
        needs "db"
    }
    service "main" { needs "app" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            running.wait_state("main", "up");
            assert_eq!(running.stop(), 0);
            assert!(running.wait("app stop") > running.wait("main stop"));
            assert!(running.wait("db stop") > running.wait("app stop"));
        },
    },
    Behaviour {
        name: "a clean stop adds nothing to the log",
        images: &[r#"
    service "main" { script "exec sleep 1000" }
    service "plain" { script "exec sleep 1000"; log "stdout" prefix=#false; essential #true }
    service "asked" { script "exec sleep 1000"; ready "true" interval="100ms"; restart "on-failure" }
    service "never" { script "exec sleep 1000"; ready "false" interval="100ms" timeout="300s" }
    service "waits" { script "exec sleep 1000"; needs "never" }
    service "setup" { type "oneshot"; script "sleep 1000 &" }
    service "busy" { type "oneshot"; script "exec sleep 1000" }
    service "stubborn" { script "trap '' TERM; while :; do sleep 1; done"; stop grace="1s" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            for service in ["main", "plain", "asked", "stubborn"] {
                running.wait_state(service, "up");
            }
            running.wait_state("setup", "done");
            let before = running.log();
            assert_eq!(running.stop(), 0);
            assert_eq!(running.log(), before);
        },
    },
    Behaviour {
        name: "a clean stop of one process adds nothing to the log",
        // dumb-init signals the whole group. So the script's shell may see its own sleep end by the signal, and says
        // so: that is its word and nobody else's.
        images: &[r#"
    service "main" { script "trap 'exit 0' TERM; say main start; exec 2>/dev/null; while :; do sleep 60 & wait $!; done" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            running.wait_state("main", "up");
            let before = running.log();
            assert_eq!(running.stop(), 0);
            assert_eq!(running.log(), before);
        },
    },
    Behaviour {
        name: "what ignores its stop signal is killed after its grace, and does not delay others",
        images: &[r#"
    service "abel" { command "svc" "abel" }
    service "stubborn" { script "trap '' TERM; say stubborn start; while :; do sleep 1; done"; stop grace="8s" }
    service "zoe" { command "svc" "zoe" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            let services = ["abel", "main", "zoe"];
            running.wait("stubborn start");
            for service in services {
                running.wait(&format!("{service} start"));
                running.wait_state(service, "up");
            }
            let begun = now();
            assert_eq!(running.stop(), 0);
            let (ended, second) = (now(), 1_000_000_000);
            assert!(ended - begun >= 7 * second, "killed too early: {} ns", ended - begun);
            assert!(ended - begun < 40 * second, "not killed after its grace: {} ns", ended - begun);
            for service in services {
                let stopped = running.wait(&format!("{service} stop"));
                assert!(stopped + 2 * second < ended, "{service} was delayed");
            }
        },
    },
    Behaviour {
        name: "a grace of 0 s: what ignores its stop signal is killed at once",
        images: &[r#"
    service "main" { script "trap '' TERM; say main start; while :; do sleep 1; done"; stop grace="0s" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            running.wait_state("main", "up");
            if subject.is_single() {
                subject.differs("Nothing in the container counts the grace: Docker kills it after `docker stop -t`, and the exit code is 137.");
                Docker::run(&["stop", "-t", "1", &running.container.id]);
                assert_eq!(running.wait_end(), 137);
            } else {
                // After the engine's own minute it would be 137.
                assert_eq!(running.stop(), 0);
            }
        },
    },
    Behaviour {
        name: "a oneshot that still runs gets its stop signal and its grace",
        images: &[r#"
    service "setup" {
        type "oneshot"
        script "trap 'sleep 1; say setup stop; exit 0' TERM; say setup start; while :; do sleep 60 & wait $!; done"
    }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("setup start");
            running.wait_state("setup", "starting");
            assert_eq!(running.stop(), 0);
            running.wait("setup stop");
        },
    },
    Behaviour {
        name: "stopped by hand: it is killed after its grace, and stays down",
        images: &[r#"
    service "stubborn" { script "trap '' TERM; say stubborn start; while :; do sleep 1; done"; stop grace="1s" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("stubborn start");
            running.wait_state("stubborn", "up");
            running.sh(&subject.stop_by_hand("stubborn"));
            running.wait_state("stubborn", "down");
            running.until("nothing is left of it", || running.status()["stubborn"].pid == "-");
            running.wait_state("main", "up");
            assert_eq!(running.stop(), 0);
            assert_eq!(running.times("stubborn start").len(), 1);
        },
    },
    Behaviour {
        name: "its process group gets the stop signal, and has the grace",
        images: &[GROUP],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("child start");
            running.wait_state("main", "up");
            assert_eq!(running.stop(), 0);
            running.wait("child clean");
            assert_eq!(running.container.file("/asked"), "asked\n");
        },
    },
    Behaviour {
        name: "its process group gets the stop signal also when it is stopped by hand",
        images: &[r#"    service "wrapped" {
        script "sh -c 'trap \"echo asked >> /asked; n=1\" TERM; say child start; while [ -z $n ]; do sleep 0.2; done; sleep 0.4; sleep 0.4; sleep 0.4; say child clean'; true"
        stop group=#true
    }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("child start");
            running.wait_state("wrapped", "up");
            running.sh(&subject.stop_by_hand("wrapped"));
            running.wait_state("wrapped", "down");
            running.wait("child clean");
            assert_eq!(running.stop(), 0);
            assert_eq!(running.container.file("/asked"), "asked\n");
        },
    },
    Behaviour {
        name: "what is left of its process group after the grace is killed",
        images: &[r#"    service "main" {
        script "sh -c 'trap : TERM; say child start; while :; do sleep 1; done'; true"
        stop group=#true grace="1s"
    }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("child start");
            running.wait_state("main", "up");
            // After the engine's own minute it would be 137.
            assert_eq!(running.stop(), 0);
        },
    },
    Behaviour {
        name: "what a oneshot has left is asked to end when the container stops",
        images: &[r#"    service "setup" {
        type "oneshot"
        script "sh -c 'trap \"sleep 0.5; echo clean > /left; exit 0\" TERM; say left start; while :; do sleep 60 & wait $!; done' & say setup done"
    }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("left start");
            running.wait_state("setup", "done");
            assert_eq!(running.stop(), 0);
            assert_eq!(running.container.file("/left"), "clean\n");
        },
    },
    Behaviour {
        name: "Ctrl-C in the container's terminal stops in order",
        images: &[r#"
    service "app" { script "trap 'sleep 1; say app stop; exit 0' TERM; say app start; while :; do sleep 60 & wait $!; done"; needs "main" }"#],
        check: |subject| {
            let running = subject.start(&["--interactive", "--tty"]);
            running.wait("app start");
            running.wait_state("app", "up");
            running.container.types(b"\x03");
            if subject.supervisor == "systemd" {
                subject.differs(
                    "systemd lets go of the terminal, and Ctrl-C in it reaches nobody: `docker stop` does.",
                );
                assert_eq!(running.state("app"), "up");
                assert_eq!(running.stop(), 0);
            } else {
                assert_eq!(running.wait_end(), 0);
            }
            assert!(running.wait("main stop") > running.wait("app stop"));
        },
    },
    Behaviour {
        name: "its own stop signal",
        images: &[r#"
    service "main" {
        script "trap 'say main quit; exit 0' QUIT; trap 'say main term' TERM; say main start; while :; do sleep 60 & wait $!; done"
        stop signal="QUIT"
    }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            running.wait_state("main", "up");
            running.stop();
            running.wait("main quit");
            assert!(!running.has_said("main term"));
        },
    },
    Behaviour {
        name: "stops with exit code 0 also when its process ends by the stop signal",
        images: &[r#"
    service "main" { script "say main start; exec sleep 600" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            running.wait_state("main", "up");
            if subject.supervisor == "none" {
                subject.differs("Process 1 does not get a signal that it has no handler for: Docker kills it after `docker stop -t`, and the exit code is 137.");
                Docker::run(&["stop", "-t", "3", &running.container.id]);
                assert_eq!(running.wait_end(), 137);
            } else if subject.is_single() {
                subject.differs("The exit code is that of the process: 143 when TERM has ended it.");
                assert_eq!(running.stop(), 143);
            } else {
                assert_eq!(running.stop(), 0);
            }
        },
    },
    Behaviour {
        name: "stops while it starts",
        images: &[r#"
    service "slow" { command "svc" "slow"; ready "false" timeout="300s"; stop grace="300s" }
    service "app" { command "svc" "app"; needs "slow"; stop grace="300s" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("slow start");
            running.wait_state("app", "waiting");
            assert_eq!(running.stop(), 0);
            running.wait("slow stop");
            assert!(!running.has_said("app start"));
        },
    },
    Behaviour {
        name: "stops in a pause between restarts",
        images: &[r#"
    service "hasty" { script "say hasty start; exit 1"; restart "always" delay="300s"; stop grace="300s" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("hasty start");
            running.wait_state("hasty", "paused");
            assert_eq!(running.stop(), 0);
            assert_eq!(running.times("hasty start").len(), 1);
        },
    },
    Behaviour {
        name: "TERM stops the container",
        images: &[r#"    service "main" { stop signal="TERM" }"#],
        check: |subject| {
            if subject.supervisor != "systemd" {
                return stops_by(subject, "TERM");
            }
            subject.differs("TERM tells systemd to execute itself anew, and services go on. The image's stop signal, which `docker stop` sends, is SIGRTMIN+3.");
            let running = subject.start(&[]);
            let pid = running.pid("main");
            running.signal("TERM");
            std::thread::sleep(Duration::from_secs(2));
            assert_eq!(running.pid("main"), pid);
            assert_eq!(running.stop(), 0);
        },
    },
    Behaviour { name: "INT stops the container", images: &[ANY], check: |subject| stops_by(subject, "INT") },
    Behaviour {
        name: "QUIT stops the container",
        images: &[ANY],
        check: |subject| {
            if subject.supervisor != "systemd" {
                return stops_by(subject, "QUIT");
            }
            subject.differs(
                "systemd takes QUIT for a crash of its own: the container ends at once, with exit code 255.",
            );
            let running = subject.start(&[]);
            running.wait("main start");
            running.signal("QUIT");
            assert_eq!(running.wait_end(), 255);
        },
    },
    Behaviour {
        name: "more stop signals while it stops change nothing",
        images: &[r#"
    service "main" {
        script "trap 'trap \"\" TERM; say main stopping; sleep 3; say main stop; exit 0' TERM; say main start; while :; do sleep 60 & wait $!; done"
    }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            running.wait_state("main", "up");
            let signal = running.container.stop_signal();
            running.signal(&signal);
            running.wait("main stopping");
            running.signal(&signal);
            running.signal(&signal);
            assert_eq!(running.wait_end(), 0);
            assert_eq!(running.times("main stopping").len(), 1);
            assert_eq!(running.times("main stop").len(), 1);
        },
    },
    Behaviour {
        name: "HUP reloads",
        images: &[r#"
    service "main" {
        script "trap 'say main reloaded' HUP; trap 'exit 0' TERM; say main start; while :; do sleep 60 & wait $!; done"
        reload signal="HUP"
    }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            let pid = running.pid("main");
            running.signal("HUP");
            running.wait("main reloaded");
            assert_eq!(running.pid("main"), pid);
            assert_eq!(running.stop(), 0);
        },
    },
    Behaviour {
        name: "HUP reloads by the service's own signal",
        images: &[r#"
    service "main" {
        script "trap 'say main reloaded' USR2; trap 'exit 0' TERM; say main start; while :; do sleep 60 & wait $!; done"
        reload signal="USR2"
    }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            let pid = running.pid("main");
            running.signal("HUP");
            running.wait("main reloaded");
            assert_eq!(running.pid("main"), pid);
        },
    },
    Behaviour {
        name: "HUP leaves alone what has no way to reload",
        images: &[r#"
    service "main" { script "trap 'say main reloaded' HUP; say main start; while :; do sleep 60 & wait $!; done"; reload signal="HUP" }
    service "other" { command "svc" "other" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            let other = running.pid("other");
            running.wait_state("main", "up");
            running.signal("HUP");
            running.wait("main reloaded");
            assert_eq!(running.pid("other"), other);
        },
    },
    Behaviour {
        name: "a command that reloads",
        images: &[r#"
    service "main" { reload "sh" "-c" "echo \"$0 $NAME\" > /tmp/reloaded" "a b"; env "NAME" "c d" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_state("main", "up");
            running.container.exec(&["/etc/imgforge/reload", "main"]);
            running.until("it has run", || running.has_file("/tmp/reloaded"));
            assert_eq!(running.sh("cat /tmp/reloaded"), "a b c d");
        },
    },
    Behaviour {
        name: "USR1 to the container harms nothing",
        images: &[r#"
    service "main" {
        script "trap '' USR1; trap 'exit 0' TERM; say main start; while :; do sleep 60 & wait $!; done"
    }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            let pid = running.pid("main");
            running.signal("USR1");
            std::thread::sleep(Duration::from_secs(1));
            assert_eq!(running.pid("main"), pid);
            assert_eq!(running.stop(), 0);
        },
    },
];

/// A shell that starts another program, which is told to end and takes its time for it. systemd asks what that starts
/// meanwhile, too.
const GROUP: &str = r#"
    service "main" {
        script "sh -c 'trap \"echo asked >> /asked; n=1\" TERM; say child start; while [ -z $n ]; do sleep 0.2; done; sleep 0.4; sleep 0.4; sleep 0.4; say child clean'; true"
        stop group=#true grace="8s"
    }"#;

/// A service that ends at each of the signals, for supervisors that pass them on as they are.
const ANY: &str = r#"
    service "main" {
        script "trap 'say main stop; exit 0' TERM INT QUIT; say main start; while :; do sleep 60 & wait $!; done"
    }"#;

fn stops_by(subject: &Subject, signal: &str) {
    let running = subject.start(&[]);
    running.wait("main start");
    running.wait_state("main", "up");
    running.signal(signal);
    assert_eq!(running.wait_end(), 0);
    assert!(running.has_said("main stop"));
}
