//! What containers are started with, and what happens to them.

use super::Behaviour;
use crate::conformance::Subject;

pub(super) const ROWS: &[Behaviour] = &[
    Behaviour {
        name: "a root file system that cannot be written: --read-only --tmpfs /run",
        images: &[r#"
    service "main" { user "app" }"#],
        check: |subject| {
            let options: &[&str] = match subject.supervisor {
                // It has it already.
                "systemd" => &["--read-only"],
                // It starts programs there.
                "s6-overlay" => &["--read-only", "--tmpfs", "/run:exec"],
                _ => &["--read-only", "--tmpfs", "/run"],
            };
            runs_as(subject, options, "1000");
        },
    },
    Behaviour {
        name: "a user that is not root: --user 1000",
        images: &[r#"
    service "main" { user "app" }"#],
        check: |subject| {
            if subject.supervisor == "systemd" {
                return wants_root(subject, &["--user", "1000"]);
            }
            let users = runs_as(subject, &["--user", "1000"], "1000");
            assert_eq!(users, "1000", "nothing runs as another user");
        },
    },
    Behaviour {
        name: "both: --user 1000 --read-only --tmpfs /run:uid=1000",
        images: &[r#"
    service "main" { user "app" }"#],
        check: |subject| {
            if subject.supervisor == "systemd" {
                return wants_root(subject, &["--user", "1000", "--read-only"]);
            }
            // Docker gives a tmpfs the mode of the folder in the image, which nobody but root may write to.
            let run = if subject.supervisor == "s6-overlay" { "/run:uid=1000,exec" } else { "/run:uid=1000" };
            runs_as(subject, &["--user", "1000", "--read-only", "--tmpfs", run], "1000");
        },
    },
    Behaviour {
        name: "a namespace of control groups of its own: --cgroupns=private",
        images: &[r#"
    service "main" { user "app" }"#],
        check: |subject| {
            if subject.supervisor == "systemd" {
                subject.differs("With the host's /sys/fs/cgroup, systemd would take the host's control groups for its own: the container ends with exit code 1, and says so.");
                let running = subject.start(&["--cgroupns=private"]);
                assert_eq!(running.wait_end(), 1);
                assert!(running.log().contains(
                    "imgforge: systemd cannot run in this container: /sys/fs/cgroup is the host's"
                ));
                return;
            }
            runs_as(subject, &["--cgroupns=private"], "1000");
        },
    },
    Behaviour {
        name: "orphans are reaped: 300 of them leave no zombie",
        images: &[r##"
    service "main" {
        script #"""
            perl -e '
                for (1 .. 300) {
                    if (!fork) {
                        exit if fork;
                        sleep 3;
                        open my $file, ">>", "/tmp/parents";
                        syswrite $file, getppid . "\n";
                        exit;
                    }
                    wait;
                }'
            say main start
            exec sleep 600
            """#
    }"##],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            running.until("all have ended", || running.sh("wc -l < /tmp/parents || true") == "300");
            assert_eq!(running.sh("sort -u /tmp/parents"), "1", "whose children they were");
            let zombies = || running.sh("cat /proc/[0-9]*/status 2> /dev/null | grep -c '^State:.Z' || true");
            if subject.supervisor == "none" {
                subject.differs(
                    "The service is process 1, and has to reap them itself; or `docker run --init` does.",
                );
                running.until("there are zombies", || zombies() != "0");
            } else {
                running.until("there are no zombies", || zombies() == "0");
            }
            assert_eq!(running.state("main"), "up");
        },
    },
    Behaviour {
        name: "docker restart",
        images: &[r#"
    service "main" { essential #true }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            running.wait_state("main", "up");
            running.restart();
            running.wait("main stop");
            running.wait_nth("main start", 2);
            running.wait_state("main", "up");
            assert_eq!(running.status()["main"].restarts, 0, "they are counted from the container's start");
            assert_eq!(running.stop(), 0);
        },
    },
    Behaviour {
        name: "docker start after docker kill",
        images: &[r#"
    service "setup" { type "oneshot"; script "say setup done" }
    service "main" { needs "setup"; ready "test" "-e" "/tmp" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            running.wait_state("main", "up");
            running.signal("KILL");
            assert_eq!(running.wait_end(), 137);
            running.start_again();
            assert!(running.wait_nth("main start", 2) > running.wait_nth("setup done", 2));
            running.wait_state("main", "up");
            assert_eq!(running.stop(), 0);
        },
    },
    Behaviour {
        name: "docker run IMAGE COMMAND runs that instead",
        images: &[r#"
    service "main" { essential #true }"#],
        check: |subject| {
            let running =
                subject.start_with(&[], &["sh", "-c", "echo \"$0 $1\"; exit 3", "other", "com mand"]);
            assert_eq!(running.wait_end(), 3);
            assert_eq!(running.log(), "other com mand\n");
        },
    },
];

/// Starts and stops a container with these options; the users of all its processes but those that look.
fn runs_as(subject: &Subject, options: &[&str], user: &str) -> String {
    let running = subject.start(options);
    running.wait("main start");
    let pid = running.pid("main");
    assert_eq!(running.sh(&format!("stat -c %u /proc/{pid}")), user);
    let users = running.sh("stat -c %u /proc/[0-9]* 2> /dev/null | sort -u");
    assert_eq!(running.stop(), 0);
    users
}

fn wants_root(subject: &Subject, options: &[&str]) {
    subject.differs("systemd has to be root: the container ends with exit code 1, and says so.");
    let running = subject.start(options);
    assert_eq!(running.wait_end(), 1);
    assert!(running.log().contains("imgforge: systemd cannot run in this container: it has to be root"));
}
