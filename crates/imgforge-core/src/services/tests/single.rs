//! Exactly one process: tini, dumb-init and none.

use super::*;
use crate::render::{RenderedImage, render};
use crate::source::memory::Memory;

/// Renders images `i0`, `i1`, ... that stand on one another, the first one on `base`.
fn rendered(base: &str, bodies: &[&str]) -> Vec<RenderedImage> {
    let image = |(n, body): (usize, &&str)| {
        let base = if n == 0 { base.to_owned() } else { format!("from \"i{}\"", n - 1) };
        (format!("i{n}/image.kdl"), format!("image \"i{n}\" {{\n    {base}\n{body}\n}}\n"))
    };
    let images: Vec<(String, String)> = bodies.iter().enumerate().map(image).collect();
    let mut files = vec![("imgforge.kdl", "workspace \"w\"\napt \"debian\" { suite \"bookworm\" }\n")];
    files.extend(images.iter().map(|(path, text)| (path.as_str(), text.as_str())));
    let workspace = loaded(&files).unwrap();
    let graph = ImageGraph::new(&workspace).unwrap();
    let source = Memory::default();
    let names = (0..bodies.len()).map(|n| ImageName::new(format!("i{n}")).unwrap());
    names.map(|name| render(&workspace, &graph, &name, &source).unwrap()).collect()
}

/// `ENTRYPOINT CMD STOPSIGNAL` of an image.
fn process(supervisor: &str, fields: &str) -> String {
    let body = format!(
        "    supervisor \"{supervisor}\"\n    service \"web\" {{ command \"web\" \"-p\"; {fields} }}"
    );
    let image = rendered("root \"debian\"", &[&body]).remove(0);
    let words = ["ENTRYPOINT ", "CMD ", "STOPSIGNAL "];
    let found = words.map(|word| image.dockerfile.lines().find_map(|line| line.strip_prefix(word)).unwrap());
    found.join(" ")
}

#[test]
fn the_process_is_the_command_itself_where_nothing_has_to_be_prepared() {
    let grace = "stop grace=\"3s\"; ready tcp=80; restart \"never\"; essential #true; log \"stdout\"";
    assert_eq!(process("tini", grace), r#"["/usr/bin/tini", "--"] ["web", "-p"] SIGTERM"#);
    assert_eq!(process("dumb-init", grace), r#"["/usr/bin/dumb-init", "--"] ["web", "-p"] SIGTERM"#);
    assert_eq!(process("none", "stop signal=\"QUIT\""), r#"[] ["web", "-p"] SIGQUIT"#);
    for prepared in [
        "user \"web\"",
        "group \"web\"",
        "dir \"/srv\"",
        "env \"A\" \"b\"",
        "limit core=0",
        "before-start \"true\"",
        "log \"null\"",
    ] {
        assert_eq!(process("none", prepared), r#"[] ["/etc/imgforge/run"] SIGTERM"#, "{prepared}");
    }
}

#[test]
fn dumb_init_makes_the_reload_signal_of_hup() {
    let with = |signal: &str| process("dumb-init", &format!("reload signal=\"{signal}\""));
    assert_eq!(with("HUP"), r#"["/usr/bin/dumb-init", "--"] ["web", "-p"] SIGTERM"#);
    assert_eq!(with("USR2"), r#"["/usr/bin/dumb-init", "--rewrite", "1:12", "--"] ["web", "-p"] SIGTERM"#);
}

#[test]
fn what_prepares_and_what_tells_of_one_process_is_written_out() {
    let files = |supervisor: Supervisor, service: MergedService| {
        let set = ServiceSet::from([(service.name.clone(), service)]);
        let mut text = String::new();
        for file in writer(supervisor).base(&set) {
            let _ = writeln!(text, "--- {} {}\n{}", file.path, file.executable, file.content.trim_end());
        }
        text
    };
    let (log, after_stop, restart) = (Some(field(Log::Null)), None, None);
    insta::assert_snapshot!(
        "tini_full",
        files(Supervisor::Tini, MergedService { restart, after_stop, log, ..full() })
    );
    let process = Some(field(Process::Script("exec web\n".into())));
    let probe = Probe::Http { host: "127.0.0.1".into(), port: 80, path: "/it's".into() };
    let ready = Some(field(Ready { probe, interval: Millis(100), timeout: Millis(1500) }));
    insta::assert_snapshot!(
        "dumb_init_ready",
        files(Supervisor::DumbInit, MergedService { ready, ..bare() })
    );
    insta::assert_snapshot!("none_script", files(Supervisor::None, MergedService { process, ..bare() }));
}

#[test]
fn an_image_on_nothing_gets_no_file_that_it_does_not_need() {
    let body = |fields: &str| {
        format!("    supervisor \"none\"\n    service \"web\" {{ command \"/web\"; {fields} }}")
    };
    let plain = rendered("from \"scratch\"", &[&body("")]).remove(0);
    assert!(plain.generated.is_empty());
    assert!(!plain.services.has_program(STATUS));
    assert_eq!(plain.dockerfile, "FROM scratch\nENTRYPOINT []\nCMD [\"/web\"]\nSTOPSIGNAL SIGTERM\n");
    let prepared = rendered("from \"scratch\"", &[&body("env \"A\" \"b\"")]).remove(0);
    let paths: Vec<&str> = prepared.generated.iter().map(|file| file.path.as_str()).collect();
    let path = |name: &str| format!("{ROOTFS}/etc/imgforge/{name}");
    assert_eq!(paths, ["environment", "ready", "reload", "row", "run", "status", "stop"].map(path));
}

#[test]
fn a_child_that_changes_the_command_changes_the_process_and_no_file() {
    let parent = "    supervisor \"tini\"\n    service \"web\" { command \"web\" }";
    let child = "    service \"web\" { command \"other\" }";
    let images = rendered("root \"debian\"", &[parent, child, "    label \"a\" \"b\""]);
    assert!(images[1].generated.is_empty());
    assert_eq!(
        images[1].dockerfile,
        "FROM i0\nENTRYPOINT [\"/usr/bin/tini\", \"--\"]\nCMD [\"other\"]\nSTOPSIGNAL SIGTERM\n"
    );
    assert_eq!(images[2].dockerfile, "FROM i1\nLABEL \"a\"=\"b\"\n");
}

#[test]
fn what_one_process_cannot_have_is_refused_with_its_line() {
    let parent = |supervisor: &str, fields: &str| {
        format!(
            "    supervisor \"{supervisor}\"\n    service \"web\" {{\n        command \"web\"\n        {fields}\n    }}"
        )
    };
    for (name, supervisor, fields) in [
        ("restart", "tini", "restart \"on-failure\""),
        ("not_essential", "tini", "essential #false"),
        ("oneshot", "tini", "type \"oneshot\""),
        ("after_stop", "dumb-init", "after-stop \"true\""),
        ("reload_signal", "none", "reload signal=\"USR1\""),
        ("reload_command", "dumb-init", "reload \"web\" \"-r\""),
        ("ready_fd", "tini", "ready fd=4"),
        ("log_file", "none", "log \"file\" dir=\"/var/log/web\""),
        ("log_prefix", "tini", "log \"stdout\" prefix=\"web> \""),
    ] {
        let problems = merged(&[&parent(supervisor, fields)]).expect_err(name);
        insta::assert_snapshot!(format!("single_{name}"), shown(problems));
    }
    let two = [&parent("tini", ""), "    service \"app\" { command \"app\" }"];
    insta::assert_snapshot!("single_second", shown(merged(&two).expect_err("two services")));
    let off = [&parent("tini", ""), "    service \"web\" { enabled #false }"];
    insta::assert_snapshot!("single_off", shown(merged(&off).expect_err("none")));
    let other = [
        &parent("tini", ""),
        "    service \"web\" { enabled #false }\n    service \"app\" { command \"app\" }",
    ];
    let made = merged(&other).unwrap();
    assert_eq!(made[1].process().unwrap().cmd, ["app"]);
}
