use insta::assert_snapshot;

use super::*;
use crate::manifest::read_images;
use crate::workspace::testing::{good, problems_of, problems_of_image, shown};

const WORKSPACE: (&str, &str) = ("imgforge.kdl", "workspace \"acme\"\n");

/// One image that stands on os-base, starts something and has a test with `lines`.
fn with(lines: &str) -> String {
    problems_of_image(&format!(
        "image \"web\" {{\n    from \"os-base\"\n    cmd \"x\"\n    test {{\n        {lines}\n    }}\n}}\n"
    ))
}

/// The checks of a test with `lines`.
fn checks(lines: &str) -> Vec<Check> {
    let text = format!("image \"web\" {{\n    from \"os-base\"\n    test {{\n        {lines}\n    }}\n}}\n");
    let (mut read, problems) = read_images(&Arc::new(SourceFile { path: "image.kdl".into(), text }));
    assert!(problems.is_empty(), "{}", shown(problems));
    read.images.remove(0).tests.remove(0).checks.into_iter().map(|check| check.value).collect()
}

/// A child `web` of `base`, each with lines of its own.
fn family(base: &str, web: &str) -> [(&'static str, String); 3] {
    [
        ("imgforge.kdl", WORKSPACE.1.to_owned()),
        ("base/image.kdl", format!("image \"base\" {{\n    from \"scratch\"\n    {base}\n}}\n")),
        ("web/image.kdl", format!("image \"web\" {{\n    from \"base\"\n    {web}\n}}\n")),
    ]
}

fn wrong(base: &str, web: &str) -> String {
    let files = family(base, web);
    problems_of(&files.each_ref().map(|(path, text)| (*path, text.as_str())))
}

/// The names of the tests of `web`, and the hash over what they ask.
fn tests_of(base: &str, web: &str) -> (Vec<String>, TestsHash) {
    let files = family(base, web);
    let workspace = good(&files.each_ref().map(|(path, text)| (*path, text.as_str())));
    let graph = ImageGraph::new(&workspace).unwrap();
    let tests = of(&workspace, &graph, &ImageName::new("web").unwrap());
    (tests.iter().map(|test| test.name.clone()).collect(), TestsHash::of(&tests, None, None))
}

#[test]
fn every_check_is_read() {
    assert_snapshot!(format!(
        "{:#?}",
        checks(
            "http \"http://{container}:8080/x?y\" status=404 contains=\"no\" within=\"3s\"
        http \"http://{container}\"
        tcp 80 within=\"1m\"
        command \"nginx\" \"-v\" \"\" exit=1 stdout=\"\" stderr-contains=\"nginx/\" user=\"web:www\"
        file \"/a\" mode=\"0644\" owner=\"root:root\" contains=\"server\" type=\"file\"
        file \"/b\" absent=#true
        user \"web\" uid=1000 gid=7 home=\"/srv\" shell=\"/bin/sh\"
        env \"LANG\" \"C.UTF-8\"
        env \"NOT\" absent=#true
        size max=\"120MB\"
        no-setuid \"/bin/su\"
        packages-as-locked
        healthy within=\"10s\"
        stops within=\"10s\" code=5"
        )
    ));
}

#[test]
fn an_unknown_check_and_an_unknown_property_get_the_nearest_one() {
    assert_snapshot!(with(
        "htp \"http://{container}/\"\n        file \"/a\" modus=\"0644\"\n        frobnicate"
    ));
}

#[test]
fn wrong_values_are_all_shown_at_once() {
    assert_snapshot!(with(
        "http \"http://127.0.0.1/\" status=42\n        tcp 70000\n        tcp 80 81\n        file \"a\" mode=\"rw\" sha256=\"ab\" type=\"directory\"\n        command \"x\" exit=256 user=\"a b\"\n        size max=\"many\"\n        size\n        healthy within=\"0s\"\n        stops code=-1"
    ));
}

#[test]
fn what_contradicts_itself_is_refused() {
    assert_snapshot!(with(
        "file \"/a\" absent=#true mode=\"0644\"\n        file \"/b\" type=\"folder\" contains=\"x\"\n        env \"A\" \"1\" absent=#true"
    ));
}

#[test]
fn a_test_checks_something_has_a_name_of_its_own_and_is_switched_off_by_it() {
    assert_snapshot!(problems_of_image(
        "image \"web\" {\n    from \"os-base\"\n    test\n    test inherit=#true { env \"A\" }\n    test \"a\" { env \"A\" }\n    \
         test \"a\" { env \"B\" }\n    test enabled=#false\n    test \"b\" enabled=#false { env \"A\" }\n    test \"\" { env \"A\" }\n}\n"
    ));
}

#[test]
fn an_image_that_starts_nothing_is_not_asked_over_the_network() {
    assert_snapshot!(problems_of_image(
        "image \"web\" {\n    from \"os-base\"\n    test start=#true {\n        http \"http://{container}/\"\n        tcp 80\n        stops\n    }\n}\n"
    ));
}

#[test]
fn what_the_image_does_not_have_is_not_asked() {
    assert_snapshot!(wrong(
        "cmd \"x\"",
        "test {\n        healthy\n        packages-as-locked\n    }\n    test start=#false {\n        tcp 80\n    }"
    ));
}

#[test]
fn a_test_is_inherited_until_a_child_switches_it_off() {
    let base = "test \"here\" { env \"A\" }\n    test \"below\" inherit=#true { env \"A\" }";
    assert_eq!(tests_of(base, "").0, ["below"]);
    assert_eq!(tests_of(base, "test { env \"B\" }\n    test { env \"C\" }").0, ["below", "test", "test 2"]);
    assert_eq!(tests_of(base, "test \"here\" { env \"B\" }").0, ["below", "here"]);
    assert_eq!(tests_of(base, "test \"below\" enabled=#false").0, [""; 0]);
}

#[test]
fn a_child_names_what_it_inherits_or_gives_another_name() {
    let base = "test \"starts\" inherit=#true { env \"A\" }\n    test \"own\" { env \"A\" }";
    assert_snapshot!(wrong(
        base,
        "test \"start\" enabled=#false\n    test \"own\" enabled=#false\n    test \"starts\" { env \"B\" }"
    ));
}

#[test]
fn the_hash_changes_with_what_is_asked_and_with_nothing_else() {
    let hash = |web: &str| tests_of("", web).1;
    let one = hash("test { env \"A\" \"1\" }");
    assert_eq!(hash("// a comment\n    test {\n        env \"A\" \"1\"\n    }"), one);
    for other in [
        "test { env \"A\" \"2\" }",
        "test timeout=\"3s\" { env \"A\" \"1\" }",
        "test \"a\" { env \"A\" \"1\" }",
        "",
    ] {
        assert_ne!(hash(other), one, "{other}");
    }
    let inherited = |base: &str| tests_of(base, "").1;
    assert_ne!(
        inherited("test \"a\" inherit=#true { env \"A\" }"),
        inherited("test \"a\" inherit=#true { env \"B\" }")
    );
}

#[test]
fn a_command_runs_beside_what_stays_and_by_itself_where_nothing_does() {
    let starts = |web: &str| {
        let files = family("", web);
        let workspace = good(&files.each_ref().map(|(path, text)| (*path, text.as_str())));
        let graph = ImageGraph::new(&workspace).unwrap();
        of(&workspace, &graph, &ImageName::new("web").unwrap())[0].starts
    };
    assert!(!starts("entrypoint \"/tool\"\n    test { command \"/tool\" \"-v\" }"));
    assert!(starts("entrypoint \"/server\"\n    expose 80\n    test { command \"/tool\" \"-v\" }"));
    assert!(starts("entrypoint \"/server\"\n    test { command \"/tool\" \"-v\"; tcp 80 }"));
    assert!(!starts("entrypoint \"/server\"\n    expose 80\n    test { env \"A\" absent=#true }"));
    assert!(!starts("cmd \"/server\"\n    expose 80\n    test start=#false { command \"/tool\" }"));
    assert!(starts("cmd \"/server\"\n    test start=#true { command \"/tool\" }"));
}
