//! Where output goes.

use super::Behaviour;

pub(super) const ROWS: &[Behaviour] = &[
    Behaviour {
        name: "into the container's log, with its name before each line",
        images: &[r#"
    service "main" { script "echo out; echo err >&2; printf 'in '; sleep 1; echo 'two parts'; exec sleep 600" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            let prefix = if subject.is_single() {
                subject
                    .differs("The only service there is: its lines are in the container's log as they are.");
                ""
            } else {
                "main: "
            };
            for line in ["out", "err", "in two parts"] {
                running.until(&format!("there is a line {line}"), || {
                    running.log().lines().any(|found| found == format!("{prefix}{line}"))
                });
            }
        },
    },
    Behaviour {
        name: "with a prefix of its own",
        images: &[r#"
    service "main" { script "echo hello; exec sleep 600"; log "stdout" prefix="[n%s$\\ 'x'] " }"#],
        check: |subject| subject.start(&[]).wait_log("[n%s$\\ 'x'] hello\n"),
    },
    Behaviour {
        name: "lines of several services are whole",
        images: &[r#"
    service "one" { script "i=0; while [ $i -lt 300 ]; do printf 'the first '; echo \"line $i.\"; i=$((i + 1)); done; say one end; exec svc one" }
    service "two" { script "i=0; while [ $i -lt 300 ]; do printf 'the other '; echo \"line $i.\"; i=$((i + 1)); done; say two end; exec svc two" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("one end");
            running.wait("two end");
            let logs = running.log();
            for (service, word) in [("one", "first"), ("two", "other")] {
                let is_whole = |line: &&str| {
                    let rest = line.strip_prefix(&format!("{service}: the {word} line "));
                    rest.and_then(|rest| rest.strip_suffix('.')).is_some_and(|n| n.parse::<u32>().is_ok())
                };
                assert_eq!(logs.lines().filter(is_whole).count(), 300, "{service}");
            }
        },
    },
    Behaviour {
        name: "what ends at once: nothing that it wrote is lost",
        images: &[r#"
    service "main" { enabled #false }
    service "one" { type "oneshot"; command "say" "one" "said" }
    service "two" { type "oneshot"; command "say" "two" "said" }
    service "three" { type "oneshot"; command "say" "three" "said" }
    service "four" { type "oneshot"; command "say" "four" "said"; needs "one" "two" "three" }
    service "five" { type "oneshot"; command "say" "five" "said"; needs "one" "two" "three" }
    service "six" { type "oneshot"; command "say" "six" "said"; needs "four" "five" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_state("six", "done");
            for service in ["one", "two", "three", "four", "five", "six"] {
                running.wait_log(&format!("{service}: {service} said "));
            }
        },
    },
    Behaviour {
        name: "a line of a megabyte, and a last line without its end",
        images: &[r#"
    service "main" {
        script "head -c 1000000 /dev/zero | tr '\\0' x; echo; echo after; printf 'no end'; exit 0"
        restart "never"
    }"#],
        check: |subject| {
            let running = subject.start(&[]);
            // Of the only service there is, lines have no prefix.
            let prefix = if subject.is_single() { "" } else { "main: " };
            running.wait_log(&format!("{prefix}no end"));
            let (log, long) = (running.log(), "x".repeat(1_000_000));
            for line in ["after", &long] {
                assert!(log.lines().any(|found| found == format!("{prefix}{line}")), "not whole: {line:.20}");
            }
        },
    },
    Behaviour {
        name: "into the container's log as it is",
        images: &[r#"
    service "main" { script "echo plain; echo to err >&2; exec sleep 600"; log "stdout" prefix=#false }"#],
        check: |subject| {
            let running = subject.start(&[]);
            for line in ["plain", "to err"] {
                running.until(&format!("there is a line {line}"), || {
                    running.log().lines().any(|found| found == line)
                });
            }
        },
    },
    Behaviour {
        name: "into files that are put aside when full, and of which the oldest are removed",
        images: &[r#"
    service "main" {
        script "i=0; while [ $i -lt 30000 ]; do echo \"line $i of a log that is not so short\"; i=$((i + 1)); done; say main written; exec svc main"
        log "file" dir="/var/log/main" max-size="32KB" keep=3
    }"#],
        check: |subject| {
            let running = subject.start(&[]);
            // The file that they are in may have been put aside with them.
            running.until("the last lines are in a file", || {
                running.container.try_exec(&["grep", "-rqs", "main written", "/var/log/main"]).is_some()
            });
            assert!(!running.log().contains("of a log"));
            let list = running.sh("ls -l /var/log/main");
            let files = running.sh("cd /var/log/main && grep -l 'of a log' *");
            assert!((2..=4).contains(&files.lines().count()), "{list}");
            // A supervisor may look at the size after each piece that it has read, of 128 KB at most.
            let sizes = running.sh(&format!("cd /var/log/main && stat -c %s {}", files.replace('\n', " ")));
            assert!(
                sizes.lines().all(|size| size.parse::<u32>().is_ok_and(|size| size <= 164_000)),
                "{list}"
            );
            // What is kept are the last lines, and none of them is lost.
            let kept = running.sh("cd /var/log/main && cat $(grep -l 'of a log' *) | grep -oE 'line [0-9]+ of' | tr -dc '0-9\\n' | sort -n");
            let kept: Vec<u32> = kept.lines().map(|line| line.parse().expect("a number")).collect();
            assert!(kept[0] > 0, "{list}");
            assert_eq!(kept, (kept[0]..30_000).collect::<Vec<_>>());
        },
    },
    Behaviour {
        name: "nowhere",
        images: &[r#"
    service "main" { script "echo not-to-be-seen; echo not-to-be-seen >&2; : > /tmp/ran; exec svc main"; log "null" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.until("it has run", || running.has_file("/tmp/ran"));
            assert_eq!(running.stop(), 0);
            assert!(!running.log().contains("not-to-be-seen"));
        },
    },
    Behaviour {
        name: "values of env are never in the container's log",
        images: &[r#"
    service "main" { env "PASSWORD" "correct-horse"; restart "on-failure"; ready "test" "-e" "/tmp/ready" timeout="2s" }
    service "other" { env "TOKEN" "battery-staple"; script "say other start; exit 1" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_log("imgforge: main was not ready within 2 s");
            running.wait_nth("other start", 2);
            assert_eq!(running.stop(), 0);
            let logs = running.log();
            assert!(!logs.contains("correct-horse") && !logs.contains("battery-staple"), "{logs}");
        },
    },
    Behaviour {
        name: "values of env are never in the log of one service",
        images: &[r#"
    service "main" { env "PASSWORD" "correct-horse" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            running.wait_state("main", "up");
            assert_eq!(running.stop(), 0);
            assert!(!running.log().contains("correct-horse"));
        },
    },
];
