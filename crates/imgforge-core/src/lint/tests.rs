use std::collections::BTreeSet;

use super::*;
use crate::manifest::Supervisor;
use crate::workspace::testing::{good, shown};

fn linted(files: &[(&str, &str)]) -> Findings {
    let files: Vec<(&str, &str)> =
        [("imgforge.kdl", "workspace \"w\"\napt \"debian\" { suite \"bookworm\" }\n")]
            .into_iter()
            .chain(files.iter().copied())
            .collect();
    let workspace = good(&files);
    let graph = ImageGraph::new(&workspace).unwrap();
    let all: BTreeSet<ImageName> = workspace.images.keys().cloned().collect();
    lint(&workspace, &graph, &all, &BTreeMap::new()).unwrap()
}

/// An image with `lines`, on a root of packages.
fn image(lines: &str) -> Findings {
    linted(&[("web/image.kdl", &format!("image \"web\" {{\n    root \"debian\"\n{lines}\n}}\n"))])
}

fn dockerfile(text: &str) -> Findings {
    linted(&[
        ("web/image.kdl", "image \"web\" {\n    dockerfile \"Dockerfile\"\n}\n"),
        ("web/Dockerfile", &format!("FROM scratch\n{text}\n")),
    ])
}

fn codes(findings: &Findings) -> Vec<&'static str> {
    findings.found.iter().map(|finding| finding.rule.code()).collect()
}

fn text(findings: Findings) -> String {
    let mut problems = Problems::default();
    problems.extend(findings.found.into_iter().map(|finding| finding.problem));
    shown(problems)
}

#[test]
fn what_a_container_starts_with_is_looked_at() {
    for (line, expected) in [
        (r#"CMD ["nginx", "-g", "daemon off;"]"#, &[][..]),
        ("CMD nginx -g 'daemon off;'", &["IF002"]),
        ("CMD exec nginx -g 'daemon off;'", &[]),
        ("CMD migrate && exec server", &[]),
        ("CMD php-fpm & nginx", &["IF001", "IF002"]),
        ("CMD service cron start && exec nginx", &["IF001"]),
        ("CMD /etc/init.d/cron start; nginx", &["IF001", "IF002"]),
        ("ENTRYPOINT [\"tini\", \"--\"]\nCMD [\"sh\", \"-c\", \"a & b\"]", &["IF001"]),
        ("ENTRYPOINT [\"/usr/bin/env\", \"A=1\", \"bash\", \"-euc\", \"exec a\"]", &[]),
        ("ENTRYPOINT a; b\nCMD c & d", &["IF002"]),
        ("CMD [\"bash\"]", &[]),
        ("CMD [\"/entrypoint.sh\"]", &[]),
        ("CMD [\"/usr/bin/supervisord\", \"-n\"]", &["IF003"]),
        ("CMD [\"python3\", \"/usr/bin/supervisord\", \"-n\"]", &["IF003"]),
        ("CMD exec supervisord -n", &["IF003"]),
        ("ENTRYPOINT [\"tini\", \"-g\", \"--\"]\nCMD [\"supervisord\", \"-n\"]", &[]),
        ("CMD echo 'a & b' 2>&1 | exec cat", &[]),
    ] {
        assert_eq!(codes(&dockerfile(line)), expected, "{line}");
    }
    let manifest = image(r#"    entrypoint "/bin/sh" "-c" "a & b""#);
    assert_eq!(codes(&manifest), ["IF001", "IF002"]);
}

#[test]
fn a_command_is_told_where_it_stands_and_once() {
    let findings = linted(&[
        ("base/image.kdl", "image \"base\" {\n    dockerfile \"Dockerfile\"\n}\n"),
        ("base/Dockerfile", "FROM scratch\nCMD nginx -g 'daemon off;'\n"),
        ("a/image.kdl", "image \"a\" {\n    from \"base\"\n    env \"A\" \"1\"\n}\n"),
        ("b/image.kdl", "image \"b\" {\n    from \"base\"\n    cmd \"supervisord\" \"-n\"\n}\n"),
    ]);
    insta::assert_snapshot!(text(findings));
}

#[test]
fn services_are_looked_at() {
    let findings = image(
        r#"    user "app" uid=1000
    service "db" { command "db"; user "app"; stop grace="8s" }
    service "web" {
        command "web"
        needs "db"
        env "SESSION_SECRET" "abc"
        env "KEY_SECRET_FILE" "/run/secrets/key"
        env "API_TOKEN" ""
        stop grace="3s"
    }
    service "other" { command "x"; user "root"; after-stop "rm" "/x" }"#,
    );
    assert_eq!(codes(&findings), ["IF004", "IF005", "IF007", "IF006"]);
    insta::assert_snapshot!(text(findings));
}

#[test]
fn a_secret_is_not_shown() {
    let manifest = text(image("    env \"API_TOKEN\" \"hunter\\\\2\"\n    env \"PASSWORD\" \"hunter3\""));
    let file = text(dockerfile("ENV PASSWORD=hunter4 A=1\nENV TOKEN \"hunter 5\""));
    assert_eq!((manifest.matches("IF007").count(), file.matches("IF007").count()), (2, 2));
    assert!(!manifest.contains("hunter") && !file.contains("hunter"), "{manifest}{file}");
}

#[test]
fn what_says_what_it_means_has_no_findings() {
    let findings = image(
        r#"    user "app" uid=1000
    service "db" { command "db"; user "app"; ready tcp=5432; stop grace="6s" }
    service "migrate" { type "oneshot"; script "true"; user "root"; needs "db"; stop grace="1s" }
    service "web" { command "web"; user "root"; needs "migrate"; stop grace="3s" }"#,
    );
    assert_eq!(text(findings), "");
    let as_other =
        image("    user \"app\" uid=1000\n    run-as \"app\"\n    service \"web\" { command \"web\" }");
    assert_eq!(text(as_other), "");
}

#[test]
fn one_service_that_is_a_script_is_looked_at_under_a_bare_init() {
    let findings = |supervisor: Supervisor, script: &str| {
        let image = format!(
            "image \"web\" {{\n    root \"debian\"\n    service \"a\" {{ user \"root\"; script \"{script}\" }}\n}}\n"
        );
        let workspace = good(&[
            ("imgforge.kdl", "workspace \"w\"\napt \"debian\" { suite \"bookworm\" }\n"),
            ("web/image.kdl", &image),
        ]);
        let graph = ImageGraph::new(&workspace).unwrap();
        let name = ImageName::new("web").unwrap();
        let mut container = Container::of(&workspace, &graph, &name).unwrap();
        container.services.supervisor = Some(supervisor);
        look(&name, &container, None, &[]).into_iter().map(|found| found.rule.code()).collect::<Vec<_>>()
    };
    assert_eq!(findings(Supervisor::None, "a; b"), ["IF002"]);
    assert_eq!(findings(Supervisor::None, "a; exec b"), [""; 0]);
    assert_eq!(findings(Supervisor::None, "a & exec b"), ["IF001"]);
    assert_eq!(findings(Supervisor::Tini, "a & b"), ["IF001"]);
    assert_eq!(findings(Supervisor::Tini, "a; b"), [""; 0]);
    assert_eq!(findings(Supervisor::S6, "a & exec b"), [""; 0]);
}

#[test]
fn a_shell_that_does_not_make_way_is_found_under_a_supervisor() {
    let codes = |service: &str| {
        let image = format!(
            "image \"web\" {{\n    root \"debian\"\n    service \"a\" {{ user \"root\"; {service} }}\n}}\n"
        );
        let workspace = good(&[
            ("imgforge.kdl", "workspace \"w\"\napt \"debian\" { suite \"bookworm\" }\n"),
            ("web/image.kdl", &image),
        ]);
        let graph = ImageGraph::new(&workspace).unwrap();
        let name = ImageName::new("web").unwrap();
        let container = Container::of(&workspace, &graph, &name).unwrap();
        look(&name, &container, None, &[]).into_iter().map(|found| found.rule.code()).collect::<Vec<_>>()
    };
    for found in [
        r#"script "cd /; python3 /s.py; true""#,
        r#"script "python3 /s.py""#,
        r##"script "#!/bin/bash\nexec 2>&1\npython3 /s.py""##,
        r#"command "sh" "-c" "a && b""#,
        r#"script "a | b"; stop grace="5s""#,
    ] {
        assert_eq!(codes(found), ["IF011"], "{found}");
    }
    for right in [
        r#"script "cd /; exec python3 /s.py""#,
        r#"script "trap 'kill $!; wait' TERM; python3 /s.py & wait""#,
        r#"script "a | b"; stop group=#true"#,
        r#"script "a; b"; type "oneshot""#,
        r##"script "#!/usr/bin/perl\nsleep 9""##,
        r#"command "python3" "-c" "a; b""#,
    ] {
        assert_eq!(codes(right), [""; 0], "{right}");
    }
}

#[test]
fn a_rule_is_silenced_for_an_image_and_what_stands_on_it() {
    let base = "image \"base\" {\n    root \"debian\"\n    service \"a\" { command \"a\" }\n    service \"b\" { command \"b\" }\n";
    let child = "image \"child\" {\n    from \"base\"\n    service \"c\" { command \"c\" }\n";
    let with = |base_lint: &str, child_lint: &str| {
        let findings = linted(&[
            ("base/image.kdl", &format!("{base}    {base_lint}\n}}\n")),
            ("child/image.kdl", &format!("{child}    {child_lint}\n}}\n")),
        ]);
        let found: Vec<String> = findings
            .found
            .iter()
            .map(|finding| {
                let service = finding.service.as_ref().map_or("-", ServiceName::as_str);
                format!("{} {} {service}", finding.image, finding.rule.code())
            })
            .collect();
        (found.join(", "), findings.silenced)
    };
    let all = "base IF005 a, base IF005 b, child IF005 c";
    assert_eq!(with("", ""), (all.to_owned(), 0));
    let allow = |more: &str| format!("lint {{ allow \"IF005\" {more} reason=\"why\" }}");
    assert_eq!(with(&allow(""), ""), (String::new(), 5));
    assert_eq!(with(&allow("service=\"a\""), "").0, "base IF005 b, child IF005 c");
    // A child's does not hold for its parent, nor is what the parent tells told again.
    assert_eq!(with("", &allow("")), ("base IF005 a, base IF005 b".to_owned(), 3));
    assert_eq!(
        with(&allow("service=\"x\""), "").0,
        "base IF005 a, base IF005 b, base IF008 x, child IF005 c"
    );
}

#[test]
fn only_selected_images_are_told_of() {
    let workspace = good(&[
        ("imgforge.kdl", "workspace \"w\"\napt \"debian\" { suite \"bookworm\" }\n"),
        ("a/image.kdl", "image \"a\" {\n    root \"debian\"\n    service \"a\" { command \"a\" }\n}\n"),
        ("b/image.kdl", "image \"b\" {\n    from \"a\"\n    service \"b\" { command \"b\" }\n}\n"),
    ]);
    let graph = ImageGraph::new(&workspace).unwrap();
    let count = |name: &str| {
        let only = BTreeSet::from([ImageName::new(name).unwrap()]);
        lint(&workspace, &graph, &only, &BTreeMap::new()).unwrap().found.len()
    };
    assert_eq!((count("a"), count("b")), (1, 2));
}

#[test]
fn every_rule_has_a_page_that_the_index_names() {
    let index = include_str!("../../../../docs/lint/README.md");
    for rule in Rule::ALL {
        let page = rule.page();
        assert!(page.starts_with(&format!("# {}: ", rule.code())), "{page}");
        let level = if rule.level() == Level::Error { "error" } else { "warning" };
        assert!(page.contains(&format!("Level: {level}.\n")), "{}", rule.code());
        for head in ["## What it finds", "## Why", "## Bad", "## Good", "## Silence it"] {
            assert!(page.contains(head), "{} lacks {head}", rule.code());
        }
        let title = page.lines().next().unwrap().split_once(": ").unwrap().1;
        assert!(index.contains(&format!("| [{0}]({0}.md) | {level} | {title} |", rule.code())), "{title}");
    }
}

/// The fenced blocks of a page below `head`.
fn examples<'p>(page: &'p str, head: &str) -> Vec<(&'p str, String)> {
    let after = page.split_once(head).unwrap().1;
    let section = after.split_once("\n## ").map_or(after, |(section, _)| section);
    let mut blocks = Vec::new();
    let mut lines = section.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((language, body.join("\n")));
        }
    }
    blocks
}

/// An example is a whole image, or lines of one.
fn example(language: &str, body: &str) -> Findings {
    if language == "dockerfile" {
        let mut all = Findings::default();
        // Each line is an example of its own, but what belongs together.
        let texts: Vec<&str> = if body.contains("ENTRYPOINT") { vec![body] } else { body.lines().collect() };
        for text in texts {
            all.found.extend(dockerfile(text).found);
        }
        return all;
    }
    if !body.starts_with("image") {
        let body = if body.contains("user \"app\" uid") {
            body.to_owned()
        } else {
            format!("user \"app\" uid=1000\n{body}")
        };
        return image(&body);
    }
    let os = "image \"os-base\" {\n    root \"debian\"\n}\n";
    let name = body.split('"').nth(1).unwrap();
    let folder = format!("{name}/image.kdl");
    linted(&[("os/image.kdl", os), (&folder, body), (&format!("{name}/tool"), "")])
}

#[test]
fn the_examples_of_every_page_are_what_they_say() {
    // Whether a file is a private key is told by its content, which a page does not have.
    for rule in Rule::ALL.into_iter().filter(|rule| *rule != Rule::PrivateKeyInContext) {
        let has = |findings: &Findings| codes(findings).contains(&rule.code());
        for (language, body) in examples(rule.page(), "## Bad") {
            let findings = example(language, &body);
            assert!(has(&findings), "{}: {body}\n{:?}", rule.code(), codes(&findings));
        }
        for (language, body) in examples(rule.page(), "## Good") {
            let findings = example(language, &body);
            assert!(!has(&findings), "{}: {body}", rule.code());
        }
    }
}
