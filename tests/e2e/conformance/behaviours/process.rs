//! What a service's process is given.

use std::collections::BTreeMap;

use super::Behaviour;
use crate::conformance::running::Running;
use crate::conformance::variables::{environ, variables};

pub(super) const ROWS: &[Behaviour] = &[
    Behaviour {
        name: "its user, with that user's home",
        images: &[r#"
    service "main" { script "echo \"me=$(id -un):$(id -gn) home=$HOME\"; exec svc main"; user "app" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_log("me=app:app home=/srv/app\n");
            running.wait("main start");
            let pid = running.pid("main");
            let ids =
                running.sh(&format!("grep -E '^(Uid|Gid|Groups)' /proc/{pid}/status | tr -s '\\t' ' '"));
            assert!(ids.starts_with("Uid: 1000 1000 1000 1000\nGid: 1000 1000 1000 1000"), "{ids}");
            assert!(!ids.lines().last().is_some_and(|groups| groups.split(' ').any(|id| id == "0")), "{ids}");
        },
    },
    Behaviour {
        name: "its group",
        images: &[r#"
    service "main" { script "echo \"me=$(id -un):$(id -gn)\"; exec svc main"; user "app"; group "www-data" }"#],
        check: |subject| subject.start(&[]).wait_log("me=app:www-data\n"),
    },
    Behaviour {
        name: "its folder",
        images: &[r#"
    service "main" { script "echo \"dir=$PWD\"; exec svc main"; dir "/usr/local/lib" }"#],
        check: |subject| subject.start(&[]).wait_log("dir=/usr/local/lib\n"),
    },
    Behaviour {
        name: "its environment, byte for byte",
        images: &[r#"
    service "main" {
        command "hex"
        env "HEX_A" "two words"
        env "HEX_B" "$HOME ${HOME} `id` %(here)s %%h %h"
        env "HEX_C" "it's \"q\" \\ \\n ; # & é"
        env "HEX_D" "\ta tab "
        env "HEX_E" ""
        env "HEX_F.no-name" "of a shell's"
    }"#],
        check: |subject| {
            let words = [
                "HEX_A=two words",
                "HEX_B=$HOME ${HOME} `id` %(here)s %%h %h",
                "HEX_C=it's \"q\" \\ \\n ; # & é",
                "HEX_D=\ta tab ",
                "HEX_E=",
                "HEX_F.no-name=of a shell's",
            ];
            subject.start(&[]).wait_log(&hex(&words));
        },
    },
    Behaviour {
        name: "the container's variables, whatever their names, and no others",
        images: &[r#"
    service "main" {
        command "environ" "main"
        user "app"
        before-start "/usr/local/bin/environ" "before"
        ready "/usr/local/bin/environ" "ready"
    }"#],
        check: |subject| {
            let given = variables("container");
            let given_as: Vec<String> = given.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let options: Vec<&str> = given_as.iter().flat_map(|pair| ["--env", pair]).collect();
            let running = subject.start(&options);
            let mut expected = given;
            expected.insert("HOME".into(), "/srv/app".into());
            has_environment(&running, &expected);
        },
    },
    Behaviour {
        name: "its own variables, whatever their names, and no others",
        images: &[r#"
    service "main" {
        command "environ" "main"
        user "app"
        before-start "environ" "before"
        ready "environ" "ready"
{variables}
    }"#],
        check: |subject| has_environment(&subject.start(&[]), &variables("service")),
    },
    Behaviour {
        name: "what is run after it has its environment",
        images: &[r#"
    service "main" {
        script "exit 1"
        restart "never"
        after-stop "environ" "after"
{variables}
    }"#],
        check: |subject| {
            let running = subject.start(&[]);
            let expected = variables("service");
            running.until("it was run", || running.has_file("/tmp/environ.after"));
            assert_eq!(environment(&running, "after", &expected), expected);
        },
    },
    Behaviour {
        name: "its words, byte for byte",
        images: &[r#"
    service "main" {
        command "hex" "a b" "it's" "\"q\"" "$HOME ${HOME} `id` $(id)" "two\nlines\t\n" "é" "%%20 %n %(here)s %h" "\\" "\\n" "*" "" "--" "-n" ";#& | > x" "a=b" "{}"
    }"#],
        check: |subject| {
            let words = [
                "a b",
                "it's",
                "\"q\"",
                "$HOME ${HOME} `id` $(id)",
                "two\nlines\t\n",
                "é",
                "%%20 %n %(here)s %h",
                "\\",
                "\\n",
                "*",
                "",
                "--",
                "-n",
                ";#& | > x",
                "a=b",
                "{}",
            ];
            subject.start(&[]).wait_log(&hex(&words));
        },
    },
    Behaviour {
        name: "a script for the shell",
        images: &[r##"
    service "main" {
        script #"""
            # It's a "script" with $(things) in it.
            for word in 'a b' "c
            d"; do
                printf '<%s>' "$word"
            done
            cat <<'EOF'
             100% é $HOME \n
            EOF
            exec svc main
            """#
    }"##],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_log("<a b><c\n");
            running.wait_log("d> 100% é $HOME \\n\n");
            running.wait("main start");
        },
    },
    Behaviour {
        name: "a script for what its first line names",
        images: &[r#"
    service "main" {
        script """
            #!/usr/bin/perl
            $| = 1; print "perl ", "x" x 3, "\\n"; sleep 600;
            """
    }"#],
        check: |subject| subject.start(&[]).wait_log("perl xxx\n"),
    },
    Behaviour {
        name: "resource limits",
        images: &[r#"
    service "main" {
        script "grep -E '^Max (open files|core file size|stack size|file size|processes)' /proc/self/limits | tr -s ' '; exec svc main"
        limit nofile=123 core=0 stack="4MB" fsize="1GB" nproc=5000
    }"#],
        check: |subject| {
            let running = subject.start(&[]);
            for limit in [
                "Max open files 123 123 ",
                "Max core file size 0 0 ",
                "Max stack size 4194304 4194304 ",
                "Max file size 1073741824 1073741824 ",
                "Max processes 5000 5000 ",
            ] {
                running.wait_log(limit);
            }
        },
    },
    Behaviour {
        name: "before-start",
        images: &[r#"
    service "main" { before-start "sh" "-c" "say main \"$1\"" "sh" "pre pared" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_log("main pre pared ");
            assert!(running.wait("main start") > running.wait("main pre pared"));
        },
    },
    Behaviour {
        name: "before-start fails: it does not start",
        images: &[r#"
    service "gated" { command "svc" "gated"; before-start "sh" "-c" "exit 3"; restart "never" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_log("imgforge: gated does not start: what is run before it ended with status 3");
            running.wait_state("gated", "failed");
            running.wait_state("main", "up");
            assert!(!running.has_said("gated start"));
        },
    },
    Behaviour {
        name: "before-start and after-stop at each start and end",
        images: &[r#"
    service "short" {
        script "echo run >> /tmp/events; exit 1"
        before-start "sh" "-c" "echo before >> /tmp/events"
        after-stop "sh" "-c" "echo after >> /tmp/events"
        restart "on-failure" max=2 within="60s"
    }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait_state("short", "failed");
            assert_eq!(running.sh("cat /tmp/events"), ["before\nrun\nafter"; 3].join("\n"));
        },
    },
    Behaviour {
        name: "after-stop when the container stops",
        images: &[r#"
    service "main" { after-stop "sh" "-c" "echo after > /after" }"#],
        check: |subject| {
            let running = subject.start(&[]);
            running.wait("main start");
            running.wait_state("main", "up");
            assert_eq!(running.stop(), 0);
            assert_eq!(running.container.file("/after"), "after\n");
        },
    },
];

/// What `hex` writes.
fn hex(words: &[&str]) -> String {
    let bytes = |word: &&str| word.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("hex {}.\n", words.iter().map(bytes).collect::<Vec<_>>().join(","))
}

/// Looks at the environments of a service, of what is run before it and of what asks whether it is ready.
fn has_environment(running: &Running, expected: &BTreeMap<String, String>) {
    running.wait_state("main", "up");
    for who in ["main", "before", "ready"] {
        running.until(&format!("{who} has run"), || running.has_file(&format!("/tmp/environ.{who}")));
        assert_eq!(&environment(running, who, expected), expected, "of {who}");
    }
}

/// What `environ` has written, without the container's name, which Docker adds.
fn environment(
    running: &Running,
    who: &str,
    expected: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let hex = running.container.exec(&["/bin/cat", &format!("/tmp/environ.{who}")]);
    let mut found = environ(&hex);
    if !expected.contains_key("HOSTNAME") {
        found.remove("HOSTNAME");
    }
    found
}
