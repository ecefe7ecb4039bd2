use insta::assert_snapshot;

use super::testing::{good, loaded, problems_of, shown};
use super::*;
use crate::manifest::ManifestCache;
use crate::source::memory::Memory;

const WORKSPACE: (&str, &str) = (
    "imgforge.kdl",
    "workspace \"acme\" {\n    registry \"registry.example.com/acme\"\n}\napt \"debian\" { suite \"bookworm\" }\n",
);
const OS: (&str, &str) = ("images/os/image.kdl", "image \"os-base\" {\n    root \"debian\"\n}\n");
const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn with(files: &[(&str, &str)]) -> String {
    problems_of(&[&[WORKSPACE, OS], files].concat())
}

/// An image "web" with a hand-written Dockerfile; the manifest says `lines` too.
fn hand_written(lines: &str, dockerfile: &str) -> Vec<(&'static str, String)> {
    vec![
        ("images/web/image.kdl", format!("image \"web\" {{\n    dockerfile \"Dockerfile\"\n{lines}}}\n")),
        ("images/web/Dockerfile", dockerfile.to_owned()),
    ]
}

fn borrowed<'a>(files: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    files.iter().map(|(path, text)| (*path, text.as_str())).collect()
}

fn with_dockerfile(lines: &str, dockerfile: &str) -> String {
    with(&borrowed(&hand_written(lines, dockerfile)))
}

fn good_dockerfile(lines: &str, dockerfile: &str) -> Workspace {
    good(&[&[WORKSPACE, OS], borrowed(&hand_written(lines, dockerfile)).as_slice()].concat())
}

fn edges(image: &Image) -> Vec<(&str, EdgeKind)> {
    image.parents.iter().map(|parent| (parent.name.as_str(), parent.kind)).collect()
}

fn outside(image: &Image) -> Vec<(&str, EdgeKind)> {
    image.externals.iter().map(|external| (external.reference.as_str(), external.kind)).collect()
}

#[test]
fn a_missing_parent_gets_the_nearest_name() {
    assert_snapshot!(with(&[("web/image.kdl", "image \"web\" {\n    from \"os-bas\"\n}\n")]));
}

#[test]
fn an_external_image_may_have_a_tag_a_host_or_a_digest() {
    let text = "image \"web\" {\n    from \"alpine:3.22\"\n    copy \"/a\" \"/a\" from=\"ghcr.io/x/y\"\n    \
                copy \"/b\" \"/b\" from=\"nonesuch\"\n}\n";
    let workspace = good(&[WORKSPACE, OS, ("web/image.kdl", text)]);
    let externals: Vec<_> = workspace.images["web"].externals.iter().map(|e| e.reference.as_str()).collect();
    assert_eq!(externals, ["alpine:3.22", "ghcr.io/x/y", "nonesuch"]);
    let text = "image \"web\" {\n    from \"alpine:3.22\"\n    copy \"/a\" \"/a\" from=\"ghcr.io/x/y\"\n    \
                copy \"/b\" \"/b\" from=\"busybox@sha256:12\"\n}\n";
    assert_snapshot!(with(&[("web/image.kdl", text)]));
}

#[test]
fn what_is_no_reference_does_not_get_into_a_dockerfile() {
    let text = format!("image \"web\" {{\n    from \"a\\nRUN evil@{DIGEST}\"\n}}\n");
    assert_snapshot!(with(&[("web/image.kdl", &text)]));
}

#[test]
fn two_images_of_one_name_are_both_shown() {
    assert_snapshot!(with(&[("other/image.kdl", "image \"os-base\" {\n    from \"scratch\"\n}\n")]));
}

#[test]
fn a_file_that_is_not_utf8_is_shown_with_the_line_of_the_byte() {
    let source = Memory::of(&[
        ("imgforge.kdl", b"workspace \"acme\"\n"),
        ("web/image.kdl", b"image \"web\" {\n    from \"scratch\"\n    label \"a\" \"\xff\"\n}\n"),
    ]);
    let problems = load(&source, None).unwrap_err();
    assert_snapshot!(shown(problems));
}

#[test]
fn a_workspace_without_its_file_says_how_to_begin() {
    assert_snapshot!(problems_of(&[("web/image.kdl", "image \"web\" {\n    from \"scratch\"\n}\n")]));
}

#[test]
fn problems_of_all_files_are_found_at_once_and_none_hides_another() {
    assert_snapshot!(problems_of(&[
        ("imgforge.kdl", "workspace \"acme\" {\n"),
        ("a/image.kdl", "image \"a\" {\n    from \"scratch\"\n"),
        // Stands on an image whose file cannot be read: not a second problem.
        ("b/image.kdl", "image \"b\" {\n    from \"a\"\n    workdir \"relative\"\n}\n"),
        ("c/image.kdl", "image \"c\" {\n    from \"nowhere\"\n    packages \"debian\" \"nginx\"\n}\n"),
    ]));
}

#[test]
fn groups_and_package_sources_get_the_nearest_name() {
    let text =
        "workspace \"acme\"\napt \"debian\" { suite \"bookworm\" }\ngroup \"all\" \"os-base\" \"wbe\"\n";
    assert_snapshot!(problems_of(&[
        ("imgforge.kdl", text),
        ("os/image.kdl", "image \"os-base\" {\n    root \"debain\"\n}\n"),
        ("web/image.kdl", "image \"web\" {\n    from \"os-base\"\n    packages \"debian\" \"nginx\"\n}\n"),
    ]));
}

#[test]
fn packages_need_a_root_below_them() {
    assert_snapshot!(with(&[
        ("a/image.kdl", "image \"a\" {\n    from \"scratch\"\n}\n"),
        ("b/image.kdl", "image \"b\" {\n    from \"a\"\n    packages \"debian\" \"nginx\"\n}\n"),
    ]));
}

#[test]
fn packages_of_an_apk_source_need_exact_versions_a_network_and_an_image_with_apk() {
    let with_apk = |image: &str, more: &[(&str, &str)]| {
        let text = "workspace \"acme\"\napk \"alpine\"\napt \"debian\" { suite \"bookworm\" }\n";
        let files = [&[("imgforge.kdl", text), ("web/image.kdl", image)], more].concat();
        loaded(&files).map(|_| ()).map_err(shown)
    };
    let on_alpine = |names: &str, rest: &str| {
        let image = format!(
            "image \"web\" {{\n    from \"alpine:3.20\"\n    packages \"alpine\" {names}\n    {rest}\n}}\n"
        );
        with_apk(&image, &[])
    };
    assert_eq!(
        on_alpine(r#""nginx=1.26.2-r0" "lua5.4_x=5.4.6_git20240101-r11""#, "network \"default\""),
        Ok(())
    );
    for loose in ["nginx", "nginx=1.26", "nginx=~1.26-r0", "nginx=1.26-r", "nginx=1.26-r0 -rX"] {
        let problems = on_alpine(&format!("{loose:?}"), "network \"default\"").unwrap_err();
        assert!(problems.contains("has no exact version"), "{problems}");
    }
    for network in ["", "network \"none\""] {
        let problems = on_alpine(r#""nginx=1.26.2-r0""#, network).unwrap_err();
        assert!(problems.contains("come over the network"), "{problems}");
    }
    let os = [("os/image.kdl", "image \"os\" {\n    root \"debian\"\n}\n")];
    let image =
        "image \"web\" {\n    from \"os\"\n    packages \"alpine\" \"aa=1-r0\"\n    network \"default\"\n}\n";
    let problems = with_apk(image, &os).unwrap_err();
    assert!(problems.contains("\"os\" is made of Debian packages"), "{problems}");
    let problems = with_apk("image \"web\" {\n    root \"alpine\"\n}\n", &[]).unwrap_err();
    assert!(problems.contains("a root is made of Debian packages"), "{problems}");
}

#[test]
fn packages_of_two_sources_do_not_fit_together() {
    let text = "workspace \"acme\"\napt \"debian\" { suite \"bookworm\" }\napt \"other\" { suite \"x\" }\n";
    assert_snapshot!(problems_of(&[
        ("imgforge.kdl", text),
        ("a/image.kdl", "image \"a\" {\n    root \"debian\"\n    packages \"other\" \"nginx\"\n}\n"),
        ("b/image.kdl", "image \"b\" {\n    from \"a\"\n    packages \"other\" \"nginx\"\n}\n"),
    ]));
}

#[test]
fn a_uid_has_one_name_and_a_name_one_uid_along_a_chain() {
    assert_snapshot!(with(&[
        ("a/image.kdl", "image \"a\" {\n    from \"os-base\"\n    user \"web\" uid=1000\n}\n"),
        (
            "b/image.kdl",
            "image \"b\" {\n    from \"a\"\n    user \"db\" uid=1000\n    user \"web\" uid=1001\n}\n"
        ),
        // Not in the chain of the others.
        ("c/image.kdl", "image \"c\" {\n    from \"os-base\"\n    user \"other\" uid=1000\n}\n"),
    ]));
}

#[test]
fn an_alias_is_no_other_images_name() {
    assert_snapshot!(with(&[
        ("a/image.kdl", "image \"a\" {\n    from \"os-base\"\n    alias \"os-base\" \"legacy\"\n}\n"),
        ("b/image.kdl", "image \"b\" {\n    from \"os-base\"\n    alias \"legacy\"\n}\n"),
    ]));
}

#[test]
fn an_image_does_not_stand_on_itself() {
    assert_snapshot!(with(&[(
        "a/image.kdl",
        "image \"a\" {\n    from \"os-base\"\n    copy \"/a\" \"/b\" from=\"a\"\n}\n"
    )]));
}

#[test]
fn dockerfiles_and_templates_that_are_not_there_or_lie_outside_are_refused() {
    assert_snapshot!(with(&[
        ("a/image.kdl", "image \"a\" {\n    dockerfile \"Dokerfile\"\n}\n"),
        ("a/Dockerfile", "FROM scratch\n"),
        ("b/image.kdl", "image \"b\" {\n    dockerfile \"../a/Dockerfile\"\n}\n"),
        ("c/image.kdl", "image \"c\" {\n    from \"os-base\"\n    template \"/etc/passwd\"\n}\n"),
        ("d/image.kdl", "image \"d\" {\n    from \"os-base\"\n    template \"mine.j2\"\n}\n"),
        ("e/image.kdl", "image \"e\" {\n    dockerfile \"sub\"\n}\n"),
        ("e/sub/Dockerfile", "FROM scratch\n"),
    ]));
}

#[test]
fn links_that_lead_out_of_the_folder_are_refused() {
    let mut source = Memory::of(&[
        ("imgforge.kdl", b"workspace \"acme\"\n"),
        ("elsewhere/Dockerfile", b"FROM scratch\n"),
        ("a/image.kdl", b"image \"a\" {\n    dockerfile \"sub/Dockerfile\"\n}\n"),
        ("b/image.kdl", b"image \"b\" {\n    dockerfile \"Dockerfile\"\n}\n"),
        ("c/image.kdl", b"image \"c\" {\n    dockerfile \"Dockerfile\"\n}\n"),
        ("c/real/Dockerfile", b"FROM scratch\n"),
    ]);
    source.link("../elsewhere", "a/sub");
    source.link("/etc/passwd", "b/Dockerfile");
    source.link("real/Dockerfile", "c/Dockerfile");
    let problems = load(&source, None).unwrap_err();
    assert_snapshot!(shown(problems));
}

#[test]
fn a_template_is_found_in_the_images_folder_or_among_the_shared_ones() {
    good(&[
        WORKSPACE,
        OS,
        ("templates/shared.j2", ""),
        ("a/image.kdl", "image \"a\" {\n    from \"os-base\"\n    template \"shared.j2\"\n}\n"),
        ("b/image.kdl", "image \"b\" {\n    from \"os-base\"\n    template \"own.j2\"\n}\n"),
        ("b/own.j2", ""),
    ]);
}

#[test]
fn images_narrows_by_folder_and_a_glob_must_fit_something() {
    let image = |name: &str| format!("image \"{name}\" {{\n    from \"scratch\"\n}}\n");
    let (a, b, c) = (image("a"), image("b"), image("c"));
    let files = |globs: &str| format!("workspace \"acme\" {{\n    images {globs}\n}}\n");
    let all = [("images/a/image.kdl", &*a), ("images/x/b/image.kdl", &*b), ("test/c/image.kdl", &*c)];
    let names = |globs: &str| -> Vec<String> {
        let text = files(globs);
        good(&[&[("imgforge.kdl", &*text)], all.as_slice()].concat())
            .images
            .keys()
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(names("\"images/*\""), ["a"]);
    assert_eq!(names("\"./images/**/\""), ["a", "b"]);
    assert_eq!(names("\"images/*\" \"test/*\""), ["a", "c"]);
    let text = files("\"image/*\" \"images/[\"");
    assert_snapshot!(problems_of(&[&[("imgforge.kdl", &*text)], all.as_slice()].concat()));
}

#[test]
fn folders_of_other_images_below_are_nested() {
    let image = |name: &str| format!("image \"{name}\" {{\n    from \"scratch\"\n}}\n");
    let texts: Vec<(&str, String)> = vec![
        ("a/image.kdl", image("a")),
        ("a/b/image.kdl", image("b")),
        ("a/b/c/image.kdl", image("c")),
        ("a-b/image.kdl", image("d")),
    ];
    let workspace = good(&[&[WORKSPACE], borrowed(&texts).as_slice()].concat());
    assert_eq!(workspace.images["a"].context.passed_over, ["a/b", "a/b/c"]);
    assert_eq!(workspace.images["b"].context.passed_over, ["a/b/c"]);
    assert!(workspace.images["d"].context.passed_over.is_empty());
}

#[test]
fn a_manifests_parents_are_its_from_copies_and_mounts() {
    let text = format!(
        "image \"web\" {{\n    from \"os-base\"\n    copy \"/x\" \"/x\" from=\"tool\"\n    run \"make\" {{\n        \
         mount from=\"tool\" target=\"/mnt\"\n        mount from=\"alpine@{DIGEST}\" target=\"/mnt2\"\n    }}\n}}\n"
    );
    let tool = "image \"tool\" {\n    from \"scratch\"\n}\n";
    let workspace = good(&[WORKSPACE, OS, ("tool/image.kdl", tool), ("web/image.kdl", &text)]);
    let web = &workspace.images["web"];
    assert_eq!(
        edges(web),
        [("os-base", EdgeKind::From), ("tool", EdgeKind::Copy), ("tool", EdgeKind::Mount)]
    );
    assert_eq!(outside(web), [(format!("alpine@{DIGEST}").as_str(), EdgeKind::Mount)]);
    assert_eq!(web.base.as_ref().map(ImageName::as_str), Some("os-base"));
    assert_eq!(web.parents[0].file.at(web.parents[0].span), "web/image.kdl:2");
}

#[test]
fn a_dockerfile_names_an_image_by_its_name_its_repository_or_an_alias() {
    for reference in [
        "os-base",
        "os-base:latest",
        "registry.example.com/acme/os-base",
        "registry.example.com/acme/os-base:latest",
    ] {
        let workspace = good_dockerfile("", &format!("FROM {reference}\n"));
        let web = &workspace.images["web"];
        assert_eq!(edges(web), [("os-base", EdgeKind::From)], "{reference}");
        assert_eq!(web.parents[0].as_written, reference);
        assert_eq!(web.parents[0].file.path, "images/web/Dockerfile");
    }
    let tool = "image \"tool\" {\n    from \"scratch\"\n    alias \"old/tool\"\n    tag \"1\" \"2\"\n}\n";
    for reference in ["tool", "tool:2", "old/tool", "old/tool:1"] {
        let files = hand_written("", &format!("FROM os-base\nCOPY --from={reference} /x /x\n"));
        let workspace =
            good(&[&[WORKSPACE, OS, ("tool/image.kdl", tool)], borrowed(&files).as_slice()].concat());
        let web = &workspace.images["web"];
        assert_eq!(edges(web), [("os-base", EdgeKind::From), ("tool", EdgeKind::Copy)], "{reference}");
    }
}

#[test]
fn a_digest_makes_a_reference_external_even_with_a_workspace_name() {
    let workspace =
        good_dockerfile("", &format!("FROM os-base@{DIGEST} AS a\nFROM scratch\nCOPY --from=a /x /x\n"));
    let web = &workspace.images["web"];
    assert!(web.parents.is_empty());
    assert_eq!(outside(web), [(format!("os-base@{DIGEST}").as_str(), EdgeKind::From)]);
    assert_eq!(web.base, None);
}

#[test]
fn arguments_take_part_in_from_as_the_workspace_the_image_or_the_dockerfile_says() {
    let text = "workspace \"acme\" {\n    arg \"A\" \"os-base\"\n    arg \"UNDECLARED\" \"x\"\n}\napt \"debian\" { suite \"s\" }\n";
    let files = hand_written(
        "    arg \"A\" \"x\"\n    arg \"B\" \"tool\"\n",
        "ARG A=y\nARG B=y\nARG C=tool\nARG UNDECLARED=os-base\nFROM $C\nFROM $B\nFROM $UNDECLARED\nFROM ${A}\n",
    );
    let tool = ("tool/image.kdl", "image \"tool\" {\n    from \"scratch\"\n}\n");
    let workspace = good(&[&[("imgforge.kdl", text), OS, tool], borrowed(&files).as_slice()].concat());
    let web = &workspace.images["web"];
    let names: Vec<&str> = web.parents.iter().map(|parent| parent.name.as_str()).collect();
    assert_eq!(names, ["tool", "tool", "os-base", "os-base"]);
    assert_eq!(web.base.as_ref().map(ImageName::as_str), Some("os-base"));
}

#[test]
fn the_base_of_a_dockerfile_is_what_its_last_stage_stands_on() {
    let workspace =
        good_dockerfile("", "FROM os-base AS a\nFROM scratch AS b\nFROM a AS c\nCOPY --from=b / /b\n");
    assert_eq!(workspace.images["web"].base.as_ref().map(ImageName::as_str), Some("os-base"));
}

#[test]
fn packages_may_stand_on_a_hand_written_image_whose_base_is_a_root() {
    let app = ("app/image.kdl", "image \"app\" {\n    from \"web\"\n    packages \"debian\" \"nginx\"\n}\n");
    let files = hand_written("", "FROM os-base\n");
    good(&[&[WORKSPACE, OS, app], borrowed(&files).as_slice()].concat());
}

#[test]
fn a_hand_written_dockerfile_with_unknown_parents_is_shown_at_their_lines() {
    assert_snapshot!(with_dockerfile(
        "",
        "ARG V\nFROM os-bse\nFROM os-base:3\nFROM debian:$V\nFROM alpine:3\nFROM web\n"
    ));
}

#[test]
fn a_dockerfile_that_does_not_parse_is_shown() {
    assert_snapshot!(with_dockerfile("", "FORM os-base\nRUN <<EOF\n"));
}

#[test]
fn a_dockerfiles_parents_are_those_that_the_manifest_names() {
    good_dockerfile("    from \"os-base\"\n", "FROM os-base\n");
    let tool = ("tool/image.kdl", "image \"tool\" {\n    from \"scratch\"\n}\n");
    let files = hand_written("    from \"tool\"\n    from \"tol\"\n", "# hello\nFROM os-base\n");
    assert_snapshot!(problems_of(&[&[WORKSPACE, OS, tool], borrowed(&files).as_slice()].concat()));
}

#[test]
fn a_cached_manifest_is_the_manifest() {
    let mut source = Memory::of(&[
        ("imgforge.kdl", WORKSPACE.1.as_bytes()),
        ("images/os/image.kdl", OS.1.as_bytes()),
        (
            "web/image.kdl",
            b"image \"web\" {\n    from \"os-base\"\n    user \"web\" uid=5\n    run \"x\"\n}\n",
        ),
    ]);
    let plain = load(&source, None).unwrap();
    let first = ManifestCache::default();
    load(&source, Some(&first)).unwrap();
    let bytes = first.to_bytes(2).unwrap();
    let second = ManifestCache::from_bytes(&bytes);
    let cached = load(&source, Some(&second)).unwrap();
    assert!(second.get(&plain.images["web"].manifest.file).is_some());
    assert_eq!(second.to_bytes(2), None, "nothing is new");
    for (name, image) in &plain.images {
        assert_eq!(image.manifest, cached.images[name].manifest);
        assert_eq!(image.parents, cached.images[name].parents);
    }
    // A manifest with a problem is never remembered: it is told again.
    source.write("web/image.kdl", b"image \"web\" {\n    from \"os-base\"\n    x\n}\n");
    let mut bytes = bytes;
    for _ in 0..2 {
        let cache = ManifestCache::from_bytes(&bytes);
        assert!(load(&source, Some(&cache)).is_err());
        bytes = cache.to_bytes(2).unwrap_or(bytes);
    }
}

#[test]
fn a_workspace_in_a_workspace_keeps_its_images() {
    let image = |name: &str| format!("image \"{name}\" {{\n    from \"scratch\"\n}}\n");
    let (a, b, c) = (image("a"), image("b"), image("c"));
    let outer = good(&[
        ("imgforge.kdl", "workspace \"outer\"\n"),
        ("a/image.kdl", &a),
        ("inner/imgforge.kdl", "workspace \"inner\"\n"),
        ("inner/image.kdl", &b),
        ("inner/deep/c/image.kdl", &c),
    ]);
    assert_eq!(outer.images.keys().map(ToString::to_string).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn a_layout_that_no_image_uses_is_a_typing_error() {
    let external = |text: &str| format!("{}external {text}\n", WORKSPACE.1);
    let web = ("web/image.kdl", "image \"web\" {\n    from \"debian:12-slim\"\n}\n");
    let right = external("\"debian:12-slim\" oci-layout=\"vendor\" name=\"x\"");
    let workspace = good(&[("imgforge.kdl", &right), OS, web]);
    let place = &workspace.manifest.externals[0];
    assert_eq!(
        (place.oci_layout.value.as_str(), place.name.as_ref().unwrap().value.as_str()),
        ("vendor", "x")
    );

    let wrong = external(
        "\"debian:12-slm\" oci-layout=\"vendor\"\nexternal \"debian:12-slim\"\nexternal \"a:1\" oci-layout=\"v\"\nexternal \"a:1\" oci-layout=\"v\" tag=\"1\"",
    );
    assert_snapshot!(problems_of(&[("imgforge.kdl", &wrong), OS, web]));
    // While a manifest cannot be read, nobody knows what it stands on.
    let unread = ("more/image.kdl", "image \"more\" {\n    fron \"debian:12-slm\"\n}\n");
    let told = problems_of(&[
        ("imgforge.kdl", &external("\"debian:12-slm\" oci-layout=\"vendor\"")),
        OS,
        web,
        unread,
    ]);
    assert!(!told.contains("no image stands on"), "{told}");
}

#[test]
fn a_file_may_describe_several_images_on_one_dockerfile() {
    let images = "image \"one\" {\n    dockerfile \"Dockerfile\" target=\"one\"\n}\nimage \"two\" {\n    dockerfile \"Dockerfile\" target=\"TWO\"\n}\n\
                  image \"three\" {\n    from \"two\"\n}\n";
    let dockerfile = "FROM os-base AS one\nFROM alpine:3 AS tool\nFROM one AS two\nCOPY --from=1 /x /\n";
    let workspace = good(&[WORKSPACE, OS, ("app/image.kdl", images), ("app/Dockerfile", dockerfile)]);
    assert_eq!(edges(&workspace.images["one"]), [("os-base", EdgeKind::From)]);
    assert_eq!(edges(&workspace.images["two"]), [("os-base", EdgeKind::From)]);
    assert!(workspace.images["one"].externals.is_empty());
    assert_eq!(outside(&workspace.images["two"]), [("alpine:3", EdgeKind::From)]);
    assert_eq!(edges(&workspace.images["three"]), [("two", EdgeKind::From)]);
    // One that is wrong does not hide the others.
    let wrong =
        images.replace("target=\"TWO\"", "target=\"tow\"").replace("from \"two\"", "from \"two\"\n    x");
    assert_snapshot!(with(&[("app/image.kdl", &wrong), ("app/Dockerfile", dockerfile)]));
}

#[test]
fn a_context_is_any_folder_of_the_workspace() {
    let image = |name: &str, context: &str| {
        format!("image \"{name}\" {{\n    dockerfile \"Dockerfile\" context=\"{context}\"\n}}\n")
    };
    let with_contexts = |contexts: &[&str]| -> Vec<(String, String)> {
        let one = |(n, context): (usize, &&str)| image(&format!("i{n}"), context);
        vec![
            ("a/b/image.kdl".into(), contexts.iter().enumerate().map(one).collect()),
            ("a/b/Dockerfile".into(), "FROM scratch\n".into()),
            ("a/c/file".into(), String::new()),
        ]
    };
    let files = with_contexts(&[".", "..", "../..", "/", "/a/c", "../c"]);
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let workspace = good(&[&[WORKSPACE, OS], files.as_slice()].concat());
    let dirs: Vec<&str> = workspace.images.values().map(|image| image.context.dir.as_str()).collect();
    assert_eq!(dirs, ["a/b", "a", "", "", "a/c", "a/c", "images/os"]);
    let passed_over = |name: &str| -> Vec<&str> {
        workspace.images[name].context.passed_over.iter().map(|path| path.as_str()).collect()
    };
    assert_eq!(passed_over("i0"), Vec::<&str>::new());
    assert_eq!(passed_over("i1"), ["a/b/image.kdl"]);
    assert_eq!(passed_over("i2"), ["a/b/image.kdl", "images/os/image.kdl", "imgforge.kdl", "imgforge.lock"]);
    let files = with_contexts(&["../../..", "nowhere", "/a/c/file"]);
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    assert_snapshot!(with(&files));
}

#[test]
fn hidden_folders_are_found_when_images_names_them() {
    let image = |name: &str| format!("image \"{name}\" {{\n    from \"scratch\"\n}}\n");
    let (a, b, c, d) = (image("a"), image("b"), image("c"), image("d"));
    let names = |globs: &str| -> Vec<String> {
        let text = format!("workspace \"acme\" {{\n    {globs}\n}}\n");
        let files = [
            ("imgforge.kdl", &*text),
            ("images/a/image.kdl", &a),
            (".devcontainer/image.kdl", &b),
            ("images/.hidden/c/image.kdl", &c),
            (".git/image.kdl", "not KDL {"),
            (".imgforge/image.kdl", "not KDL {"),
            ("image.kdl", &d),
        ];
        good(&files).images.keys().map(ToString::to_string).collect()
    };
    assert_eq!(names(""), ["a", "d"]);
    assert_eq!(names("images \"**\""), ["a", "d"]);
    assert_eq!(names("images \"**\" \".devcontainer\""), ["a", "b", "d"]);
    assert_eq!(names("images \"images/**\" \".dev*\""), ["a", "b"]);
    assert_eq!(names("images \"images/.hidden/*\""), ["c"]);
}

#[test]
fn an_image_without_a_tag_is_an_external_one_in_a_dockerfile() {
    let workspace = good_dockerfile("", "FROM ubuntu AS a\nFROM os-bas\nCOPY --from=golang /x /\n");
    let web = &workspace.images["web"];
    assert_eq!(
        outside(web),
        [("ubuntu", EdgeKind::From), ("os-bas", EdgeKind::From), ("golang", EdgeKind::Copy)]
    );
    assert_eq!(web.outside_base.as_deref(), Some("os-bas"));
    assert!(web.externals.iter().all(|external| !external.has_tag()));
    let told = with_dockerfile("", "FROM ubuntu\nCOPY --from=7 /x /\n");
    assert!(told.contains("there is no stage 7"), "{told}");
}
