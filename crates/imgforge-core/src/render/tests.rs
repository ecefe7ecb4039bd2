use super::*;
use crate::graph::ImageGraph;
use crate::source::memory::Memory;

#[test]
fn apk_gets_the_packages_sorted_and_only_the_repositories_of_the_source() {
    let image = "image \"web\" {\n    from \"alpine:3.20\"\n    network \"default\"\n    packages \"alpine\" \
                 \"nginx=1.26.2-r0\"\n    packages \"alpine\" \"curl=8.9.1-r2\" \"nginx=1.26.2-r0\"\n}\n";
    let command = |source: &str| {
        let kdl = format!("workspace \"acme\"\napk \"alpine\" {source}\n");
        let source = Memory::of(&[("imgforge.kdl", kdl.as_bytes()), ("web/image.kdl", image.as_bytes())]);
        let workspace = crate::workspace::load(&source, None).unwrap();
        let graph = ImageGraph::new(&workspace).unwrap();
        let rendered = render(&workspace, &graph, &ImageName::new("web").unwrap(), &source).unwrap();
        assert_eq!(rendered.network, Network::Default);
        let line = rendered.dockerfile.lines().find_map(|line| line.strip_prefix("RUN ")).unwrap().to_owned();
        let words: Vec<String> = serde_json::from_str(&line).unwrap();
        assert_eq!(words[..2], ["/bin/sh", "-c"]);
        words[3..].join(" ")
    };
    assert_eq!(command(""), "apk add --no-cache --no-progress curl=8.9.1-r2 nginx=1.26.2-r0");
    assert_eq!(
        command("{ repository \"https://a/main\" \"https://a/community\"; }"),
        "apk add --no-cache --no-progress --repositories-file /dev/null --repository https://a/main --repository \
         https://a/community curl=8.9.1-r2 nginx=1.26.2-r0"
    );
}

#[test]
fn a_step_names_its_secrets_as_a_dockerfile_does() {
    let image = "image \"web\" {\n    from \"scratch\"\n    run \"make\" {\n        secret \"token\"\n        secret \"key\" \
                 target=\"/etc/key\" mode=\"440\" uid=7 gid=8 required=#false\n        ssh\n        ssh \"deploy\" \
                 target=\"/agent\"\n    }\n}\n";
    let source =
        Memory::of(&[("imgforge.kdl", b"workspace \"acme\"\n"), ("web/image.kdl", image.as_bytes())]);
    let workspace = crate::workspace::load(&source, None).unwrap();
    let graph = ImageGraph::new(&workspace).unwrap();
    let rendered = render(&workspace, &graph, &ImageName::new("web").unwrap(), &source).unwrap();
    let line = rendered.dockerfile.lines().find(|line| line.starts_with("RUN ")).unwrap();
    assert_eq!(
        line,
        "RUN --mount=type=secret,id=token,required=true \
         --mount=type=secret,id=key,target=/etc/key,mode=0440,uid=7,gid=8 \
         --mount=type=ssh,id=default,required=true --mount=type=ssh,id=deploy,target=/agent,required=true make"
    );
}

#[test]
fn a_template_without_end_is_told_which_limit_it_reached() {
    let render = |template: &str| {
        let image = "image \"web\" {\n    from \"scratch\"\n    template \"own.j2\"\n}\n";
        let files =
            [("imgforge.kdl", "workspace \"acme\"\n"), ("web/image.kdl", image), ("web/own.j2", template)];
        let source = Memory::of(&files.map(|(path, text)| (path, text.as_bytes())));
        let workspace = crate::workspace::load(&source, None).unwrap();
        let graph = ImageGraph::new(&workspace).unwrap();
        let problems = render(&workspace, &graph, &ImageName::new("web").unwrap(), &source).unwrap_err();
        problems.sorted()[0].message().to_owned()
    };
    let outer = |inner: &str| format!("{{% for a in range(100000) %}}{inner}{{% endfor %}}");
    let endless = render(&outer("{% for b in range(100000) %}{% endfor %}"));
    assert!(endless.contains("more than 10000000 steps"), "{endless}");
    let long = render(&outer(&"x".repeat(1_000)));
    assert!(long.contains("writes more than 16 MiB"), "{long}");
    let itself = render("{% include \"own.j2\" %}");
    assert!(itself.contains("recursion"), "{itself}");
}
