//! The rows of the table.

use imgforge_testkit::docker::Docker;

use super::{Behaviour, Subject};

/// In the order of the table.
pub(super) const BEHAVIOURS: &[&Behaviour] = &[
    &Behaviour {
        name: "starts after what it needs is ready",
        services: r#"
    service "db" {
        script "say db start; sleep 1; say db ready; touch /tmp/ready; exec svc db2"
        ready "test" "-e" "/tmp/ready" interval="50ms"
    }
    service "app" { command "svc" "app"; needs "db" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            assert!(running.wait("app start") > running.wait("db ready"));
        },
    },
    &Behaviour {
        name: "starts before a parent's service",
        services: r#"
    service "first" {
        script "sleep 1; say first ready; touch /tmp/ready; exec svc x"
        ready "test" "-e" "/tmp/ready" interval="50ms"
        before "main"
    }"#,
        check: |subject| {
            let running = subject.start(&[]);
            assert!(running.wait("main start") > running.wait("first ready"));
        },
    },
    &Behaviour {
        name: "the anchors init and ready",
        services: r#"
    service "early" { type "oneshot"; script "sleep 1; say early done"; before "init" }
    service "late" { command "svc" "late"; needs "ready" }
    service "slow" {
        script "sleep 1; touch /tmp/ready; say slow ready; exec svc slow2"
        ready "test" "-e" "/tmp/ready" interval="50ms"
    }"#,
        check: |subject| {
            let running = subject.start(&[]);
            let early = running.wait("early done");
            assert!(running.wait("main start") > early);
            let late = running.wait("late start");
            assert!(late > running.wait("slow ready"));
            assert!(late > running.wait("main start"));
        },
    },
    &Behaviour {
        name: "ready by http",
        services: r#"
    service "server" { command "serve" "8080" "1"; ready http="http://127.0.0.1:8080/ok" interval="50ms" }
    service "app" { command "svc" "app"; needs "server" }"#,
        check: after_the_server_listens,
    },
    &Behaviour {
        name: "ready by http is a status below 400",
        services: r#"
    service "server" {
        command "serve" "8080" "0"
        ready http="http://127.0.0.1:8080/no" interval="50ms" timeout="2s"
        restart "never"
    }
    service "app" { command "svc" "app"; needs "server" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_log("server was not ready within 2 s");
            running.wait_state("app", "failed");
            assert!(!running.has_said("app start"));
        },
    },
    &Behaviour {
        name: "ready by tcp",
        services: r#"
    service "server" { command "serve" "8080" "1"; ready tcp=8080 interval="50ms" }
    service "app" { command "svc" "app"; needs "server" }"#,
        check: after_the_server_listens,
    },
    &Behaviour {
        name: "ready by a line on a descriptor",
        services: r#"
    service "server" {
        script "sleep 1; say server ready; echo >&5; exec 5>&-; exec svc x"
        ready fd=5
    }
    service "app" { command "svc" "app"; needs "server" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            assert!(running.wait("app start") > running.wait("server ready"));
        },
    },
    &Behaviour {
        name: "never ready: says so, and what needs it does not start",
        services: r#"
    service "server" { command "svc" "server"; ready "false" interval="50ms" timeout="2s"; restart "never" }
    service "app" { command "svc" "app"; needs "server" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_log("imgforge: server was not ready within 2 s");
            running.wait_state("server", "failed");
            running.wait_log("imgforge: app does not start: what it needs has failed");
            running.wait_state("app", "failed");
            assert!(!running.has_said("app start"));
            assert_eq!(running.state("main"), "up");
            assert_eq!(running.stop(), 0);
        },
    },
    &Behaviour {
        name: "a oneshot runs once, before what needs it",
        services: r#"
    service "setup" { type "oneshot"; script "say setup begin; sleep 1; say setup done" }
    service "app" { command "svc" "app"; needs "setup" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            assert!(running.wait("app start") > running.wait("setup done"));
            running.wait_state("setup", "done");
            assert_eq!(running.0.logs().matches("setup begin").count(), 1);
            assert_eq!(running.stop(), 0);
        },
    },
    &Behaviour {
        name: "a oneshot fails: what needs it does not start",
        services: r#"
    service "setup" { type "oneshot"; script "exit 3" }
    service "app" { command "svc" "app"; needs "setup" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_log("setup ended with status 3");
            running.wait_state("setup", "failed");
            running.wait_state("app", "failed");
            assert!(!running.has_said("app start"));
        },
    },
    &Behaviour {
        name: "stops in order, with exit code 0",
        services: r#"
    service "db" { script "trap 'sleep 0.3; say db stop; exit 0' TERM; say db start; while :; do sleep 60 & wait $!; done" }
    service "app" {
        script "trap 'sleep 0.3; say app stop; exit 0' TERM; say app start; while :; do sleep 60 & wait $!; done"
        needs "db"
    }
    service "main" { needs "app" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            running.wait_state("main", "up");
            assert_eq!(running.stop(), 0);
            assert!(running.wait("app stop") > running.wait("main stop"));
            assert!(running.wait("db stop") > running.wait("app stop"));
        },
    },
    &Behaviour {
        name: "what ignores its stop signal is killed after its grace; others are not delayed",
        services: r#"
    service "stubborn" { script "trap '' TERM; say stubborn start; while :; do sleep 1; done"; stop grace="4s" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("stubborn start");
            running.wait("main start");
            running.wait_state("main", "up");
            let begun = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
            assert_eq!(running.stop(), 0);
            let took = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() - begun;
            assert!(took > 3_500_000_000, "killed too early: {took} ns");
            assert!(took < 20_000_000_000, "not killed after its grace: {took} ns");
            let other = u128::from(running.wait("main stop")) - begun;
            assert!(other < 3_000_000_000, "the other was delayed: {other} ns");
        },
    },
    &Behaviour {
        name: "its own stop signal",
        services: r#"
    service "main" {
        script "trap 'say main quit; exit 0' QUIT; trap 'say main term' TERM; say main start; while :; do sleep 60 & wait $!; done"
        stop signal="QUIT"
    }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            running.wait_state("main", "up");
            running.stop();
            running.wait("main quit");
            assert!(!running.has_said("main term"));
        },
    },
    &Behaviour {
        name: "a killed service comes back, and others are left alone",
        services: r#"
    service "other" { command "svc" "other" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            running.wait("other start");
            running.wait_state("main", "up");
            running.wait_state("other", "up");
            let before = running.status();
            running.sh(&format!("kill -KILL {}", before["main"].1));
            running.wait_nth("main start", 2);
            running.wait_state("main", "up");
            let after = running.status();
            assert_ne!(after["main"].1, before["main"].1);
            assert_eq!(after["main"].2, 1, "one restart");
            assert_eq!(after["other"], before["other"]);
        },
    },
    &Behaviour {
        name: "restart on failure only",
        services: r#"
    service "main" { enabled #false }
    service "good" { script "say good start; exit 0"; restart "on-failure" }
    service "bad" { script "say bad start; exit 4"; restart "on-failure" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_nth("bad start", 3);
            assert_eq!(running.0.logs().matches("good start").count(), 1);
            assert!(running.0.logs().contains("imgforge: bad ended with status 4 and is started again"));
        },
    },
    &Behaviour {
        name: "restart never",
        services: r#"
    service "once" { script "say once start; exit 4"; restart "never" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_log("imgforge: once ended with status 4 and is not started again");
            running.wait_state("once", "failed");
            std::thread::sleep(std::time::Duration::from_secs(3));
            assert_eq!(running.0.logs().matches("once start").count(), 1);
            assert_eq!(running.stop(), 0);
        },
    },
    &Behaviour {
        name: "back-off of what ends at once",
        services: r#"
    service "hasty" { script "say hasty start; exit 1" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            let starts: Vec<u64> = (1..=5).map(|nth| running.wait_nth("hasty start", nth)).collect();
            let pauses: Vec<u64> = starts.windows(2).map(|two| two[1] - two[0]).collect();
            assert!(pauses[3] > 3_000_000_000 && pauses[3] > pauses[1] + 1_000_000_000, "{pauses:?}");
            // A pause does not hold up the container's end.
            let begun = std::time::Instant::now();
            assert_eq!(running.stop(), 0);
            assert!(begun.elapsed().as_secs() < 15);
        },
    },
    &Behaviour {
        name: "too many restarts: given up",
        services: r#"
    service "hasty" { script "say hasty start; exit 6"; restart "always" max=2 within="60s" }
    service "app" { command "svc" "app" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_log("imgforge: hasty ended with status 6, 3 times within 60 s: it is given up");
            running.wait_state("hasty", "failed");
            assert_eq!(running.0.logs().matches("hasty start").count(), 3);
            assert_eq!(running.state("app"), "up");
        },
    },
    &Behaviour {
        name: "too many restarts: the container stops with the service's exit code",
        services: r#"
    service "hasty" { script "say hasty start; exit 6"; restart "always" max=1 within="60s" then="stop" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            assert_eq!(running.wait_end(), 6);
            running.wait("main stop");
        },
    },
    &Behaviour {
        name: "an essential service's exit code is the container's",
        services: r#"
    service "main" { script "say main start; sleep 2; exit 7"; essential #true }"#,
        check: |subject| assert_eq!(subject.start(&[]).wait_end(), 7),
    },
    &Behaviour {
        name: "an essential service's signal is in the container's exit code",
        services: r#"
    service "main" { script "say main start; sleep 2; kill -KILL $$"; essential #true }"#,
        check: |subject| {
            let running = subject.start(&[]);
            // A process that is PID 1 itself cannot send KILL to itself.
            if subject.supervisor == "none" {
                running.wait("main start");
                running.0.signal("KILL");
            }
            assert_eq!(running.wait_end(), 137);
        },
    },
    &Behaviour {
        name: "an essential oneshot that fails ends the container",
        services: r#"
    service "setup" { type "oneshot"; script "sleep 1; exit 9"; essential #true }
    service "main" { needs "setup" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            assert_eq!(running.wait_end(), 9);
            assert!(!running.has_said("main start"));
        },
    },
    &Behaviour {
        name: "what it leaves running is killed with it",
        services: r#"
    service "messy" { script "sleep 12345 & say messy start; sleep 2; exit 1"; restart "never" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_state("messy", "failed");
            let left =
                running.sh("for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done 2>/dev/null");
            assert!(!left.contains("sleep 12345"), "{left}");
        },
    },
    &Behaviour {
        name: "orphans are reaped",
        services: r#"
    service "main" {
        script "for i in 1 2 3 4 5 6 7 8 9 10; do (for j in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.2 &) ; done &) ; done; say main start; exec sleep infinity"
    }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            std::thread::sleep(std::time::Duration::from_secs(2));
            running.until("there are no zombies", || {
                !running.sh("cat /proc/[0-9]*/status 2>/dev/null").contains("State:\tZ")
            });
        },
    },
    &Behaviour { name: "TERM stops the container", services: "", check: |subject| stops_by(subject, "TERM") },
    &Behaviour { name: "INT stops the container", services: INT, check: |subject| stops_by(subject, "INT") },
    &Behaviour {
        name: "QUIT stops the container",
        services: INT,
        check: |subject| stops_by(subject, "QUIT"),
    },
    &Behaviour {
        name: "HUP reloads",
        services: r#"
    service "main" {
        script "trap 'say main reloaded' HUP; trap 'exit 0' TERM; say main start; while :; do sleep 60 & wait $!; done"
        reload signal="HUP"
    }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            running.wait_state("main", "up");
            running.0.signal("HUP");
            running.wait("main reloaded");
        },
    },
    &Behaviour {
        name: "a command that reloads",
        services: r#"
    service "main" { reload "say" "main" "reloaded-by-command" }
    service "other" { command "svc" "other" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_state("main", "up");
            // What is run writes to whoever asks.
            let said = running.0.exec(&["/etc/imgforge/reload", "main"]);
            assert!(
                said.contains("main reloaded-by-command") || running.has_said("main reloaded-by-command"),
                "{said}"
            );
        },
    },
    &Behaviour {
        name: "USR1 to the container harms nothing",
        services: r#"
    service "main" {
        script "trap '' USR1; trap 'exit 0' TERM; say main start; while :; do sleep 60 & wait $!; done"
    }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            running.wait_state("main", "up");
            running.0.signal("USR1");
            std::thread::sleep(std::time::Duration::from_secs(1));
            assert_eq!(running.0.exit_code(), None);
            assert_eq!(running.state("main"), "up");
            assert_eq!(running.stop(), 0);
        },
    },
    &Behaviour {
        name: "stops while it starts",
        services: r#"
    service "slow" { command "svc" "slow"; ready "false" timeout="60s" }
    service "app" { command "svc" "app"; needs "slow" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("slow start");
            let begun = std::time::Instant::now();
            assert_eq!(running.stop(), 0);
            assert!(begun.elapsed().as_secs() < 9, "{:?}", begun.elapsed());
        },
    },
    &Behaviour {
        name: "user, group, folder, environment",
        services: r#"
    service "main" {
        script "echo \"me=$(id -un):$(id -gn) home=$HOME dir=$PWD X=$X Y=$Y\"; exec svc main"
        user "app"
        group "www-data"
        dir "/srv/app"
        env "X" "one"
        env "Y" "a 'b' \"c\" $HOME é"
    }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_log("me=app:www-data home=/srv/app dir=/srv/app X=one Y=a 'b' \"c\" $HOME é");
        },
    },
    &Behaviour {
        name: "its words arrive byte for byte",
        services: r#"
    service "main" {
        command "perl" "-e" "print join('|', map { unpack('H*', $_) } @ARGV), qq{|\\n}; $| = 1; print ''; sleep 600" "a b" "it's" "\"q\"" "$HOME `id` $(id)" "two\nlines" "é%%20%n" "\\" "*" "--" ";#&"
    }"#,
        check: |subject| {
            let words =
                ["a b", "it's", "\"q\"", "$HOME `id` $(id)", "two\nlines", "é%%20%n", "\\", "*", "--", ";#&"];
            let hex = |word: &str| word.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
            let expected: Vec<String> = words.iter().map(|word| hex(word)).collect();
            let running = subject.start(&[]);
            running.wait_log(&format!("{}|", expected.join("|")));
        },
    },
    &Behaviour {
        name: "a script, for the shell or for what its first line names",
        services: r#"
    service "main" {
        script """
            #!/usr/bin/perl
            $| = 1; print "perl ", "x" x 3, "\n"; sleep 600;
            """
    }"#,
        check: |subject| subject.start(&[]).wait_log("perl xxx"),
    },
    &Behaviour {
        name: "resource limits",
        services: r#"
    service "main" {
        script "grep -E '^Max (open files|core file size|stack size)' /proc/self/limits | tr -s ' '; exec svc main"
        limit nofile=123 core=0 stack="4MB"
    }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_log("Max open files 123 123");
            running.wait_log("Max core file size 0 0");
            running.wait_log("Max stack size 4194304 4194304");
        },
    },
    &Behaviour {
        name: "before its start",
        services: r#"
    service "main" { before-start "say" "main" "prepared" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            assert!(running.wait("main start") > running.wait("main prepared"));
        },
    },
    &Behaviour {
        name: "before its start, and after its end",
        services: r#"
    service "short" {
        script "say short start; sleep 1; exit 0"
        before-start "touch" "/tmp/prepared"
        after-stop "mv" "/tmp/prepared" "/tmp/done"
        restart "never"
    }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("short start");
            running.until("it is cleaned up", || running.0.try_exec(&["test", "-e", "/tmp/done"]).is_some());
        },
    },
    &Behaviour {
        name: "log with its name before each line",
        services: r#"
    service "main" {
        script "echo out; echo err >&2; head -c 1000000 /dev/zero | tr '\\0' x; echo; echo after; printf 'no end'; exit 0"
        restart "never"
    }
    service "named" { script "echo hello; exec sleep 600"; log "stdout" prefix="[n%s$] " }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_log("main: no end");
            running.wait_log("[n%s$] hello\n");
            let logs = running.0.logs();
            for line in ["main: out\n", "main: err\n", "main: after\n", "main: no end\n"] {
                assert!(logs.contains(line), "{line}");
            }
            let long = format!("main: {}\n", "x".repeat(1_000_000));
            assert!(logs.contains(&long), "the long line is not whole");
        },
    },
    &Behaviour {
        name: "log as it is",
        services: r#"
    service "main" { script "echo plain; exec sleep 600"; log "stdout" prefix=#false }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_log("plain\n");
            assert!(running.0.logs().lines().any(|line| line == "plain"));
        },
    },
    &Behaviour {
        name: "log into files that are put aside when full",
        services: r#"
    service "main" {
        script "i=0; while [ $i -lt 3000 ]; do echo \"line $i of a log that is not so short\"; i=$((i + 1)); done; say main written; printf last; exec sleep 600"
        log "file" dir="/var/log/main" max-size="32KB" keep=3
    }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.until("the last lines are in the file", || {
                running.0.try_exec(&["grep", "-q", "main written", "/var/log/main/current"]).is_some()
            });
            assert!(!running.0.logs().contains("line 5 of"));
            let count: usize =
                running.sh("ls /var/log/main | grep -cE '^(@|_|current)'").parse().expect("a number");
            assert!((2..=4).contains(&count), "{}", running.sh("ls -l /var/log/main"));
        },
    },
    &Behaviour {
        name: "log nowhere",
        services: r#"
    service "main" { script "echo secret-text; touch /tmp/ran; exec sleep 600"; log "null" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.until("it has run", || running.0.try_exec(&["test", "-e", "/tmp/ran"]).is_some());
            assert!(!running.0.logs().contains("secret-text"));
        },
    },
    &Behaviour {
        name: "values of env are never in the log",
        services: r#"
    service "main" { env "PASSWORD" "correct-horse"; script "say main start; sleep 2; exit 1"; restart "never" }
    service "other" { env "TOKEN" "battery-staple"; command "svc" "other" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("other start");
            running.wait_state("main", "failed");
            assert_eq!(running.stop(), 0);
            let logs = running.0.logs();
            assert!(!logs.contains("correct-horse") && !logs.contains("battery-staple"), "{logs}");
        },
    },
    &Behaviour {
        name: "with a root file system that cannot be written",
        services: r#"
    service "main" { user "app" }"#,
        check: |subject| {
            let tmpfs: &[&str] = if subject.supervisor == "systemd" {
                &["--read-only", "--tmpfs", "/tmp"]
            } else {
                &["--read-only", "--tmpfs", "/run", "--tmpfs", "/tmp"]
            };
            let running = subject.start(tmpfs);
            running.wait("main start");
            running.wait_state("main", "up");
            assert_eq!(running.stop(), 0);
        },
    },
    &Behaviour {
        name: "as a user that is not root",
        services: r#"
    service "main" { user "app" }"#,
        check: |subject| {
            let running = subject.start(&["--user", "1000"]);
            running.wait("main start");
            running.wait_state("main", "up");
            assert_eq!(running.sh("cat /proc/[0-9]*/status | grep -c '^Uid:\t0' || true"), "0");
            assert_eq!(running.stop(), 0);
        },
    },
    &Behaviour {
        name: "docker restart",
        services: r#"
    service "main" { command "svc" "main" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            Docker::run(&["restart", "-t", "30", &running.0.id]);
            running.wait_nth("main start", 2);
            running.wait_state("main", "up");
            assert_eq!(running.status()["main"].2, 0, "restarts are counted from the container's start");
        },
    },
    &Behaviour {
        name: "a command instead of the services",
        services: "",
        check: |subject| {
            let running = subject.start_with(&[], &["sh", "-c", "echo other command; exit 3"]);
            assert_eq!(running.wait_end(), 3);
            assert!(running.0.logs().contains("other command"));
            assert!(!running.has_said("main start"));
        },
    },
    &Behaviour {
        name: "a child overrides single fields",
        services: r#"
    service "main" { env "EXTRA" "from the child"; dir "/srv/app" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            running.wait_state("main", "up");
            let pid = running.status()["main"].1.clone();
            let env = running.sh(&format!("tr '\\0' '\\n' < /proc/{pid}/environ"));
            assert!(env.lines().any(|line| line == "EXTRA=from the child"), "{env}");
            assert_eq!(running.sh(&format!("readlink /proc/{pid}/cwd")), "/srv/app");
        },
    },
    &Behaviour {
        name: "a child switches a service off",
        services: r#"
    service "main" { enabled #false }
    service "own" { command "svc" "own" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("own start");
            running.wait_state("own", "up");
            assert!(!running.has_said("main start"));
            if !subject.is_single() {
                assert!(!running.status().contains_key("main"));
            }
        },
    },
    &Behaviour {
        name: "status tells each state",
        services: r#"
    service "slow" { command "svc" "slow"; ready "test" "-e" "/tmp/go" interval="100ms" }
    service "after" { command "svc" "after"; needs "slow" }
    service "setup" { type "oneshot"; script "true" }
    service "broken" { script "exit 1"; restart "never" }"#,
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_state("main", "up");
            running.wait_state("setup", "done");
            running.wait_state("broken", "failed");
            running.wait_state("slow", "starting");
            running.wait_state("after", "waiting");
            let status = running.status();
            assert_eq!(status["broken"].1, "-");
            let pid = &status["main"].1;
            assert!(running.sh(&format!("tr '\\0' ' ' < /proc/{pid}/cmdline")).contains("svc main"));
            running.sh("touch /tmp/go");
            running.wait_state("slow", "up");
            running.wait_state("after", "up");
        },
    },
];

/// What is stopped by INT and QUIT too, when the container's process passes them on.
const INT: &str = r#"
    service "main" { script "trap 'say main stop; exit 0' TERM INT QUIT; say main start; while :; do sleep 60 & wait $!; done" }"#;

fn stops_by(subject: &Subject, signal: &str) {
    let running = subject.start(&[]);
    running.wait("main start");
    running.wait_state("main", "up");
    running.0.signal(signal);
    assert_eq!(running.wait_end(), 0);
    running.wait("main stop");
}

fn after_the_server_listens(subject: &Subject) {
    let running = subject.start(&[]);
    let (listens, started) = (running.wait("serve listens"), running.wait("app start"));
    assert!(started > listens);
}
