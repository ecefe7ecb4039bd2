use std::sync::Arc;

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::workspace::testing::{good, problems_of, problems_of_image, shown};

/// One image that stands on os-base and says `lines` too.
fn with(lines: &str) -> String {
    problems_of_image(&format!("image \"web\" {{\n    from \"os-base\"\n    {lines}\n}}\n"))
}

fn image_of(text: &str) -> ImageManifest {
    let file = Arc::new(SourceFile { path: "image.kdl".into(), text: text.to_owned() });
    let (mut read, problems) = read_images(&file);
    assert!(problems.is_empty(), "{}", shown(problems));
    assert!(!read.lacks_some);
    read.images.pop().expect("it has no problems")
}

#[test]
fn an_unknown_node_gets_the_nearest_one() {
    assert_snapshot!(with("pakages \"debian\" \"nginx\"\n    frobnicate 3"));
}

#[test]
fn an_unknown_property_gets_the_nearest_one() {
    assert_snapshot!(with("user \"web\" uuid=1000\n    run \"true\" shell=\"sh\""));
}

#[test]
fn a_value_of_the_wrong_type_is_shown_with_the_right_form() {
    assert_snapshot!(with("workdir 3\n    user \"web\" uid=\"1000\"\n    docs \"yes\""));
}

#[test]
fn a_missing_argument_is_named() {
    assert_snapshot!(with("copy \"a\"\n    env \"A\"\n    packages \"debian\"\n    service"));
}

#[test]
fn a_node_given_twice_shows_both_places() {
    assert_snapshot!(with("workdir \"/a\"\n    workdir \"/b\"\n    env \"A\" \"1\"\n    env \"A\" \"2\""));
}

#[test]
fn what_is_too_much_is_refused() {
    assert_snapshot!(with("workdir \"/a\" \"/b\"\n    expose 80 { x }\n    label \"a\" \"b\" \"c\""));
}

#[test]
fn text_that_is_not_kdl_is_shown_where_it_ends_to_be() {
    assert_snapshot!(problems_of_image("image \"web\" {\n    from \"os-base\n}\n"));
}

#[test]
fn of_a_string_of_several_lines_the_one_line_is_shown_that_has_to_be_mended() {
    assert_snapshot!(problems_of_image(
        "image \"bug-x\" {\n    from \"os-base\"\n    service \"o\" {\n        script \"\"\"\n            python3 -c 'import sys\nprint(\"x\",flush=True)\nsys.exit(0)'\n            \"\"\"\n    }\n}\n"
    ));
    // What else is wrong is told too.
    assert_snapshot!(problems_of_image(
        "image \"web\" {\n    from \"os-base\"\n    run \"\"\"\n        a\n      b\n        \"\"\"\n    workdir true\n    run \"\"\"a\n    \"\"\"\n}\n"
    ));
    assert_snapshot!(problems_of_image("image \"web\" {\n    run \"\"\"\n        a\n}\n"));
}

#[test]
fn a_block_that_does_not_end_is_shown() {
    assert_snapshot!(problems_of_image("image \"web\" {\n    from \"os-base\"\n"));
}

#[test]
fn an_unsafe_service_name_is_refused() {
    assert_snapshot!(with("service \"../../etc\" { command \"x\" }"));
}

#[test]
fn root_is_no_user_to_be_made() {
    assert_snapshot!(with(
        "user \"web\" uid=0\n    user \"db\" uid=7 gid=0\n    user \"Web\" uid=4\n    user \"x\""
    ));
}

#[test]
fn a_second_base_is_refused_and_told_what_it_may_mean() {
    assert_snapshot!(with("from \"builder\""));
}

#[test]
fn an_image_without_a_base_is_told_the_four_it_can_have() {
    assert_snapshot!(problems_of_image("image \"web\" {\n    workdir \"/srv\"\n}\n"));
}

#[test]
fn what_a_dockerfile_says_itself_is_refused_beside_it() {
    assert_snapshot!(problems_of_image("image \"web\" {\n    dockerfile \"Dockerfile\"\n    run \"x\"\n}\n"));
}

#[test]
fn modes_ports_and_owners_are_checked() {
    assert_snapshot!(with(
        "copy \"a\" \"/a\" mode=\"rw\" owner=\"a b\"\n    expose 70000 \"53/icmp\"\n    run-as \"web\\nUSER root\""
    ));
}

#[test]
fn what_a_container_may_use_has_units() {
    assert_snapshot!(with("resources memory=\"many\" cpus=\"0.0005\""));
    assert_snapshot!(with("resources"));
    assert_snapshot!(with("resources cpus=0 memory=0 disk=1"));
    let text = |line: &str| format!("image \"web\" {{\n    from \"scratch\"\n    {line}\n}}\n");
    let found = image_of(&text("resources memory=\"256MB\" cpus=\"1.25\"")).resources;
    assert_eq!((found.memory.unwrap().value, found.cpus.unwrap().value), (256 << 20, 1250));
    let found = image_of(&text("resources cpus=2")).resources;
    assert_eq!((found.memory, found.cpus.unwrap().value), (None, 2000));
}

#[test]
fn a_rule_is_silenced_by_its_code_and_with_a_reason() {
    assert_snapshot!(with(
        "lint {\n        allow \"IF05\" reason=\"x\"\n        allow \"IF005\"\n        deny \"IF005\"\n        allow \"IF001\" service=\"../x\" reason=\"y\"\n    }"
    ));
    let text = "image \"web\" {\n    from \"scratch\"\n    lint {\n        allow \"IF005\" service=\"a\" reason=\"why\"\n    }\n}\n";
    let allowed = &image_of(text).allowed[0];
    assert_eq!((allowed.rule, allowed.reason.as_str()), (Rule::RunsAsRoot, "why"));
    assert_eq!(allowed.service.as_ref().unwrap().value.as_str(), "a");
}

#[test]
fn a_time_has_a_unit() {
    assert_snapshot!(with(
        "healthcheck \"true\" interval=\"10\" timeout=3\n    service \"a\" { command \"x\"; stop signal=\"HPU\" grace=\"1.5s\" }"
    ));
}

#[test]
fn what_may_take_no_time_cannot_happen() {
    assert_snapshot!(with(
        "service \"a\" { command \"x\"; ready \"y\" timeout=\"0s\"; restart \"always\" max=3 within=\"0s\" }"
    ));
}

#[test]
fn a_supervisor_that_is_none_gets_what_there_is() {
    assert_snapshot!(with("supervisor \"s7\""));
}

#[test]
fn supervisors_that_are_none_any_more_are_told_what_to_use() {
    let workspace = |name: &str| {
        let text = format!("workspace \"acme\" {{\n    supervisor \"{name}\"\n}}\n");
        problems_of(&[("imgforge.kdl", &text)])
    };
    assert_snapshot!([workspace("sysvinit"), workspace("upstart")].join("\n"));
}

#[test]
fn a_workspace_says_its_name_and_images_have_files_of_their_own() {
    assert_snapshot!(problems_of(&[(
        "imgforge.kdl",
        "group \"web\" \"a\"\nimage \"a\" { from \"scratch\" }\n"
    )]));
}

#[test]
fn a_workspaces_registry_platform_and_sources_are_checked() {
    let text = "workspace \"acme\" {\n    registry \"https://example.com/\"\n    platform \"linux/riscv64\"\n    \
                lock vanished=\"maybe\"\n}\napt \"debian\"\napt \"debian\" { suit \"bookworm\" }\n\
                apt \"other\" { suite \"s\"; snapshot \"snapshot.debian.org\" }\n";
    assert_snapshot!(problems_of(&[("imgforge.kdl", text)]));
}

#[test]
fn layers_and_their_compression_are_of_a_few_words() {
    let workspace = problems_of(&[("imgforge.kdl", "workspace \"acme\" {\n    compression \"zst\"\n}\n")]);
    assert_snapshot!(workspace + &with("layers \"on\"\n    layers \"each\""));
    assert_eq!(image_of("image \"a\" { from \"scratch\"; layers \"one\" }").layers, Layers::One);
    assert_eq!(image_of("image \"a\" { from \"scratch\" }").layers, Layers::Each);
}

#[test]
fn a_value_may_be_empty() {
    let image = image_of(
        "image \"a\" { from \"scratch\"; env \"A\" \"\"; arg \"B\" \"\"; arg \"C\"; label \"d\" \"\" }",
    );
    assert_eq!(image.env["A"].value, "");
    assert_eq!(image.args["B"].value.as_deref(), Some(""));
    assert_eq!(image.args["C"].value, None);
    assert_eq!(image.labels["d"].value, "");
}

#[test]
fn a_value_that_gets_into_a_dockerfile_has_one_line() {
    assert_snapshot!(with("env \"A\" \"1\\nUSER root\"\n    label \"k\" \"a\\rb\"\n    arg \"B\" \"\\n\""));
}

#[test]
fn steps_keep_the_order_of_the_manifest() {
    let image = image_of(
        "image \"a\" {\n    from \"scratch\"\n    run \"one\"\n    copy \"a\" \"b\" \"/two/\" mode=\"755\" owner=\"1:web\"\n    \
         run \"three\" \"x\" {\n        mount from=\"b\" source=\"/out\" target=\"/mnt\"\n    }\n}",
    );
    let [Step::Run(one), Step::Copy(two), Step::Run(three)] = image.steps.as_slice() else {
        panic!("{:?}", image.steps);
    };
    assert_eq!(one.argv[0].value, "one");
    assert_eq!((two.sources.len(), two.mode.as_ref().map(|m| m.value)), (2, Some(0o755)));
    assert_eq!((three.argv.len(), three.mounts[0].target.as_str()), (2, "/mnt"));
}

#[test]
fn what_a_step_may_read_is_required_unless_the_manifest_says_otherwise() {
    let image = image_of(
        "image \"a\" {\n    from \"scratch\"\n    run \"x\" {\n        secret \"token\"\n        \
         ssh\n        secret \"token\" target=\"/t\" mode=\"0440\" uid=7 gid=8 required=#false\n        \
         ssh \"deploy.1\" target=\"/agent\"\n    }\n}",
    );
    let [Step::Run(run)] = image.steps.as_slice() else { panic!("{:?}", image.steps) };
    let plain = |kind, id: &str| SecretMount {
        kind,
        id: id.into(),
        target: None,
        mode: None,
        uid: None,
        gid: None,
        required: true,
    };
    let (file, agent) = (SecretKind::File, SecretKind::Agent);
    let given = SecretMount {
        target: Some("/t".into()),
        mode: Some(0o440),
        uid: Some(7),
        gid: Some(8),
        required: false,
        ..plain(file, "token")
    };
    let named = SecretMount { target: Some("/agent".into()), ..plain(agent, "deploy.1") };
    assert_eq!(run.secrets, [plain(file, "token"), plain(agent, "default"), given, named]);
}

#[test]
fn ids_and_properties_of_secrets_are_checked() {
    assert_snapshot!(with(
        "run \"a\" {\n        secrt \"token\"\n        secret\n        secret \"a,b\"\n        ssh \"-v\"\n        \
         secret \"c\" traget=\"/c\"\n        secret \"d\" required=\"yes\" mode=\"rw\"\n        \
         secret \"e\" env=\"TOKEN\"\n        ssh \"f\" env=\"SOCK\"\n    }"
    ));
}

#[test]
fn two_things_in_one_place_of_a_step_are_shown_both() {
    assert_snapshot!(with(
        "run \"a\" {\n        secret \"a\"\n        secret \"a\"\n        secret \"b\" target=\"/run//secrets/./a/\"\n        \
         mount from=\"os-base\" target=\"/mnt\"\n        ssh target=\"/x/../mnt\"\n        ssh\n        ssh\n    }"
    ));
}

#[test]
fn a_place_that_a_dockerfile_would_read_otherwise_is_refused() {
    assert_snapshot!(with(
        "run \"a\" {\n        secret \"a\" target=\"a\"\n        secret \"b\" target=\"/b,c\"\n        secret \"c\" target=\"/..\"\n        \
         mount from=\"os-base\" source=\"/a b\" target=\"/$HOME\"\n    }"
    ));
}

#[test]
fn packages_in_a_root_and_beside_it_are_all_asked_for() {
    let workspace = good(&[
        ("imgforge.kdl", "workspace \"acme\"\napt \"debian\" { suite \"bookworm\" }\n"),
        (
            "image.kdl",
            "image \"os\" {\n    root \"debian\" { include \"required\"; packages \"bash\" }\n    packages \"debian\" \"s6=2.11\"\n}",
        ),
    ]);
    let image = &workspace.images["os"].manifest;
    let names: Vec<_> =
        image.packages.iter().flat_map(|p| &p.names).map(|name| name.value.as_str()).collect();
    assert_eq!(names, ["bash", "s6=2.11"]);
    assert!(matches!(&image.base.value, Base::Root(root) if root.include == RootInclude::Required));
}

fn word() -> impl Strategy<Value = String> {
    proptest::sample::select(vec![
        "image",
        "workspace",
        "from",
        "copy",
        "run",
        "mount",
        "secret",
        "ssh",
        "target=",
        "service",
        "env",
        "user",
        "uid=",
        "0",
        "80",
        "\"a\"",
        "\"\"",
        "\"\\n\"",
        "{",
        "}",
        "\n",
        ";",
        " ",
        "#true",
        "#null",
        "mode=",
        "\"0644\"",
        "root",
        "include",
        "packages",
        "dockerfile",
        "apt",
        "suite",
        "group",
        "tag",
        "expose",
        "ready",
        "stop",
        "grace=",
        "\"10s\"",
        "=",
        "\\",
        "/-",
        "//",
        "/*",
        "(u8)",
        "1.5",
        "é",
        "\"\"\"",
        "#\"x\"#",
    ])
    .prop_map(str::to_owned)
}

fn read_both(text: String) {
    let file = Arc::new(SourceFile { path: "x.kdl".into(), text });
    for problems in [read_images(&file).1, read_workspace(&file).1] {
        let _ = shown(problems);
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_and_its_problems_can_be_shown(text in "(?s).{0,200}") {
        read_both(text);
    }

    #[test]
    fn text_like_a_manifest_is_read_or_refused(words in proptest::collection::vec(word(), 0..40)) {
        read_both(words.concat());
    }
}

/// What is wrong with a text, without the drawing around it.
fn messages(text: &str) -> Vec<String> {
    let file = Arc::new(SourceFile { path: "image.kdl".into(), text: text.to_owned() });
    read_images(&file).1.sorted().iter().map(|problem| problem.message().to_owned()).collect()
}

#[test]
fn blocks_without_end_or_comments_without_end_do_not_use_up_the_stack() {
    assert_eq!(messages(&"a { ".repeat(100_000))[0], "blocks lie in one another more than 32 deep");
    assert_eq!(messages(&"/* ".repeat(100_000))[0], "comments lie in one another more than 32 deep");
    assert_eq!(messages(&"a\n".repeat(1 << 20))[0], "a manifest has at most 1 MiB");
    let fits = format!("image \"web\" {{\n    from \"os\"\n    run \"{}\"\n}}\n", "{".repeat(90));
    assert!(messages(&fits).is_empty());
}

#[test]
fn a_bare_true_is_told_how_it_is_written() {
    assert!(with("docs true").contains("it is written #true"));
}

#[test]
fn a_base_that_is_only_misspelt_is_not_said_to_be_missing_too() {
    assert_eq!(messages("image \"web\" {\n    form \"os-base\"\n}\n"), ["there is no node \"form\" here"]);
    assert_eq!(messages("image \"web\" {\n    from \"\"\n}\n"), ["an image is empty"]);
    let unknown = messages("image \"web\" {\n    zzz \"os-base\"\n}\n");
    assert_eq!(unknown, ["the image stands on nothing", "there is no node \"zzz\" here"]);
}

#[test]
fn a_path_of_two_lines_is_not_said_to_be_relative() {
    let shown = with("workdir \"/a\\nb\"\n    volume \"b\"");
    assert!(shown.contains("has more than one line") && shown.contains("does not start with /"), "{shown}");
}
