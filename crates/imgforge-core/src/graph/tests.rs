use std::collections::BTreeMap;

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::workspace::testing::{good, problems_of};
use imgforge_dockerfile::EdgeKind;

/// Images by name with their parents: the first by `from`, the others by `copy`.
fn family(images: &[(&str, &[&str])]) -> Vec<(String, String)> {
    let mut files = vec![("imgforge.kdl".to_owned(), "workspace \"acme\"\n".to_owned())];
    for (name, parents) in images {
        let from = parents.first().unwrap_or(&"scratch");
        let copies: Vec<String> =
            parents.iter().skip(1).map(|p| format!("    copy \"/x\" \"/x\" from=\"{p}\"\n")).collect();
        let copies = copies.concat();
        let text = format!("image \"{name}\" {{\n    from \"{from}\"\n{copies}}}\n");
        files.push((format!("images/{name}/image.kdl"), text));
    }
    files
}

fn borrowed(files: &[(String, String)]) -> Vec<(&str, &str)> {
    files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect()
}

fn graph_of(images: &[(&str, &[&str])]) -> ImageGraph {
    ImageGraph::new(&good(&borrowed(&family(images)))).expect("no circles")
}

fn circles_of(images: &[(&str, &[&str])]) -> String {
    problems_of(&borrowed(&family(images)))
}

fn names<'a>(found: impl IntoIterator<Item = &'a ImageName>) -> Vec<&'a str> {
    found.into_iter().map(ImageName::as_str).collect()
}

fn name(text: &str) -> ImageName {
    ImageName::new(text).unwrap()
}

/// os <- web <- (ruby <- app, py); app also copies from tool.
fn example() -> ImageGraph {
    graph_of(&[
        ("os", &[]),
        ("tool", &[]),
        ("web", &["os"]),
        ("ruby", &["web"]),
        ("py", &["web"]),
        ("app", &["ruby", "tool", "tool", "os"]),
    ])
}

#[test]
fn parents_come_first_and_names_decide_between_equals() {
    assert_eq!(names(example().topological()), ["os", "tool", "web", "py", "ruby", "app"]);
}

#[test]
fn neighbours_ancestors_and_descendants_are_by_name() {
    let graph = example();
    assert_eq!(names(graph.parents(&name("app"))), ["os", "ruby", "tool"]);
    assert_eq!(names(graph.children(&name("os"))), ["app", "web"]);
    assert_eq!(names(graph.ancestors(&name("app"))), ["os", "ruby", "tool", "web"]);
    assert_eq!(names(graph.descendants(&name("web"))), ["app", "py", "ruby"]);
    assert_eq!(names(graph.descendants_within(&name("os"), 1)), ["app", "web"]);
    assert_eq!(names(graph.descendants_within(&name("os"), 0)), [""; 0]);
    assert_eq!(names(graph.parents(&name("unknown"))), [""; 0]);
}

#[test]
fn a_chain_follows_from_alone() {
    let graph = example();
    assert_eq!(names(graph.chain(&name("app"))), ["os", "web", "ruby", "app"]);
    assert_eq!(names(graph.chain(&name("tool"))), ["tool"]);
}

#[test]
fn a_circle_of_three_is_shown_hop_by_hop() {
    assert_snapshot!(circles_of(&[
        ("os", &[]),
        ("a", &["b"]),
        ("b", &["os", "c"]),
        ("c", &["a"]),
        ("d", &["a"])
    ]));
}

#[test]
fn of_a_knot_only_a_shortest_circle_is_shown_and_every_knot_has_its_own_problem() {
    assert_snapshot!(circles_of(&[
        // a -> b -> c -> d -> a, and c -> b: one knot.
        ("a", &["b"]),
        ("b", &["c"]),
        ("c", &["d", "b"]),
        ("d", &["a"]),
        ("x", &["y", "a"]),
        ("y", &["x"]),
    ]));
}

#[test]
fn a_circle_through_dockerfiles_names_their_lines() {
    assert_snapshot!(problems_of(&[
        ("imgforge.kdl", "workspace \"acme\"\n"),
        ("a/image.kdl", "image \"a\" {\n    dockerfile \"Dockerfile\"\n}\n"),
        ("a/Dockerfile", "FROM scratch\n# files of b\nCOPY --from=b / /\n"),
        ("b/image.kdl", "image \"b\" {\n    from \"a\"\n}\n"),
    ]));
}

#[test]
fn a_long_chain_does_not_need_a_deep_stack() {
    let count = 3000;
    let names: Vec<String> = (0..count).map(|n| format!("i{n:05}")).collect();
    let parents: Vec<Vec<&str>> =
        (0..count).map(|n| if n == 0 { vec![] } else { vec![names[n - 1].as_str()] }).collect();
    let images: Vec<(&str, &[&str])> =
        names.iter().map(String::as_str).zip(parents.iter().map(Vec::as_slice)).collect();
    let graph = graph_of(&images);
    assert_eq!(graph.chain(&name("i02999")).len(), count);
    assert_eq!(graph.ancestors(&name("i02999")).len(), count - 1);
    let mut circle = parents.clone();
    circle[0] = vec!["i02999"];
    let images: Vec<(&str, &[&str])> =
        names.iter().map(String::as_str).zip(circle.iter().map(Vec::as_slice)).collect();
    let files = family(&images);
    assert!(ImageGraph::new(&good(&borrowed(&files))).is_err());
}

/// For each image the images before it that it stands on, as bits.
fn any_family() -> impl Strategy<Value = Vec<u16>> {
    proptest::collection::vec(any::<u16>(), 1..14)
}

/// A workspace made without files: what is tested is the graph alone.
fn workspace_of(family: &[u16]) -> Workspace {
    // Names that sort against the order of the edges, so that the two are not the same by chance.
    let name_of = |n: usize| name(&format!("i{:02}", 99 - n));
    let mut workspace = good(&[
        ("imgforge.kdl", "workspace \"acme\"\n"),
        ("i/image.kdl", "image \"i\" { from \"scratch\" }"),
    ]);
    let template = workspace.images.pop_first().expect("there is one").1;
    for (n, bits) in family.iter().enumerate() {
        let mut image = template.clone();
        image.manifest.name.value = name_of(n);
        image.parents = (0..n)
            .filter(|parent| bits >> parent & 1 == 1)
            .map(|parent| Parent {
                name: name_of(parent),
                kind: EdgeKind::From,
                as_written: String::new(),
                file: template.manifest.file.clone(),
                span: template.manifest.name.span,
            })
            .collect();
        image.base = image.parents.first().map(|parent| parent.name.clone());
        workspace.images.insert(name_of(n), image);
    }
    workspace
}

proptest! {
    #[test]
    fn every_image_comes_once_and_after_its_parents(family in any_family()) {
        let workspace = workspace_of(&family);
        let graph = ImageGraph::new(&workspace).unwrap();
        let place: BTreeMap<&ImageName, usize> = graph.topological().enumerate().map(|(n, name)| (name, n)).collect();
        prop_assert_eq!(place.len(), family.len());
        prop_assert_eq!(graph.topological().count(), family.len());
        for image in workspace.images.values() {
            for parent in &image.parents {
                prop_assert!(place[&parent.name] < place[image.name()]);
            }
        }
    }

    #[test]
    fn ancestors_and_descendants_mirror_one_another_and_are_those_of_the_parents(family in any_family()) {
        let workspace = workspace_of(&family);
        let graph = ImageGraph::new(&workspace).unwrap();
        for name in workspace.images.keys() {
            let mut expected: BTreeSet<&ImageName> = graph.parents(name).collect();
            for parent in graph.parents(name) {
                expected.extend(graph.ancestors(parent));
            }
            prop_assert_eq!(graph.ancestors(name), expected);
            for other in workspace.images.keys() {
                prop_assert_eq!(graph.ancestors(name).contains(other), graph.descendants(other).contains(name));
                prop_assert_eq!(graph.parents(name).any(|p| p == other), graph.children(other).any(|c| c == name));
            }
            let chain = graph.chain(name);
            prop_assert_eq!(chain.last(), Some(&name));
            prop_assert!(chain[..chain.len() - 1].iter().all(|below| graph.ancestors(name).contains(*below)));
        }
    }

    #[test]
    fn one_edge_back_is_a_circle_exactly_when_there_is_a_way_forth(family in any_family(), from in 0usize..14, to in 0usize..14) {
        let mut workspace = workspace_of(&family);
        let names: Vec<ImageName> = workspace.images.keys().cloned().collect();
        let (from, to) = (&names[from % names.len()], &names[to % names.len()]);
        prop_assume!(from != to);
        let closes = ImageGraph::new(&workspace).unwrap().descendants(from).contains(to);
        let mut edge = workspace.images[from].manifest.name.clone();
        edge.value = to.clone();
        let file = workspace.images[from].manifest.file.clone();
        let parent = Parent { name: edge.value, kind: EdgeKind::Copy, as_written: String::new(), file, span: edge.span };
        workspace.images.get_mut(from).unwrap().parents.push(parent);
        let made = ImageGraph::new(&workspace);
        prop_assert_eq!(made.is_err(), closes);
        if let Err(problems) = made {
            prop_assert_eq!(problems.into_iter().count(), 1);
        }
    }
}
