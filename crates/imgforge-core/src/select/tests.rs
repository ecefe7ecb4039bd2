use super::*;
use crate::workspace::testing::good;

/// os <- web <- (ruby <- team/app, py); tool stands alone.
fn family() -> (Workspace, ImageGraph) {
    let workspace = good(&[
        ("imgforge.kdl", "workspace \"acme\"\ngroup \"langs\" \"ruby\" \"py\"\ngroup \"web\" \"web\"\n"),
        ("base/os/image.kdl", "image \"os\" { from \"scratch\" }"),
        ("base/tool/image.kdl", "image \"tool\" { from \"scratch\" }"),
        ("images/web/image.kdl", "image \"web\" { from \"os\" }"),
        ("images/web/ruby/image.kdl", "image \"ruby\" { from \"web\" }"),
        ("images/web-py/image.kdl", "image \"py\" { from \"web\" }"),
        ("images/app/image.kdl", "image \"team/app\" { from \"ruby\" }"),
    ]);
    let graph = ImageGraph::new(&workspace).expect("no circles");
    (workspace, graph)
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn selectors_mean_what_the_table_says() {
    let (workspace, graph) = family();
    for (selectors, exclude, expected) in [
        ("", "", "os py ruby team/app tool web"),
        ("web", "", "web"),
        ("web web ruby", "", "ruby web"),
        ("team/app", "", "team/app"),
        ("*y", "", "py ruby"),
        ("r* t*", "", "ruby tool"),
        ("team/*", "", "team/app"),
        ("{os,py}", "", "os py"),
        ("+ruby", "", "os ruby web"),
        ("web+", "", "py ruby team/app web"),
        ("web+1", "", "py ruby web"),
        ("web+0", "", "web"),
        ("+web+1", "", "os py ruby web"),
        ("+web+", "", "os py ruby team/app web"),
        ("group:langs", "", "py ruby"),
        ("+group:langs", "", "os py ruby web"),
        ("group:langs+", "", "py ruby team/app"),
        ("path:images/web", "", "ruby web"),
        ("path:images/web/", "", "ruby web"),
        ("path:./images/web/ruby", "", "ruby"),
        ("path:.", "", "os py ruby team/app tool web"),
        ("path:base+1", "", "os tool web"),
        ("*", "group:langs", "os tool web"),
        ("", "web+", "os tool"),
        ("web", "web", ""),
    ] {
        let found = select(&workspace, &graph, &words(selectors), &words(exclude)).unwrap();
        let found: Vec<&str> = found.iter().map(ImageName::as_str).collect();
        assert_eq!(found.join(" "), expected, "{selectors} --exclude {exclude}");
    }
}

#[test]
fn a_selector_that_names_nothing_says_so_in_one_line() {
    let (workspace, graph) = family();
    for (selector, message) in [
        ("wbe", "there is no image \"wbe\"; did you mean \"web\"?"),
        ("+wbe+2", "there is no image \"wbe\"; did you mean \"web\"?"),
        ("nothing-like-it", "there is no image \"nothing-like-it\""),
        ("group:lang", "there is no group \"lang\"; did you mean \"langs\"?"),
        ("x*", "no image fits \"x*\""),
        ("path:image", "no image fits \"path:image\""),
        ("[", "\"[\" is no glob: unclosed character class; missing ']'"),
    ] {
        let error = select(&workspace, &graph, &words(selector), &[]).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(select(&workspace, &graph, &[], &words(selector)).unwrap_err(), error, "in --exclude too");
    }
}
