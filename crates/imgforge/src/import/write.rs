//! The KDL text of what is taken over, and new lines in manifests that are there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::manifest::Network;
use imgforge_core::name::Tag;
use imgforge_core::text::kdl as quoted;
use imgforge_oci::reference::Parts;

use super::candidate::Candidate;

/// The `image` node of a candidate. `network` is what the workspace says.
pub(super) fn image(candidate: &Candidate, network: Network) -> String {
    let name = candidate.name.as_ref().map_or("", |name| name.as_str());
    let mut text = String::new();
    let file = candidate.dockerfile.file_name().unwrap_or_default();
    if candidate.place != candidate.dockerfile {
        let _ = writeln!(text, "// {}", candidate.place.replace(char::is_control, " "));
    }
    let _ = writeln!(text, "image {} {{", quoted(name));
    let mut line = format!("    dockerfile {}", quoted(file));
    if candidate.context != candidate.folder() {
        let _ = write!(line, " context={}", quoted(&format!("/{}", candidate.context)));
    } else if candidate.context.as_str().is_empty() {
        // What imgforge reads at the workspace's root is no part of an image.
        line.push_str(" context=\".\"");
    }
    if let Some(target) = &candidate.target {
        let _ = write!(line, " target={}", quoted(target));
    }
    let _ = writeln!(text, "{line}");
    for alias in &candidate.aliases {
        let _ = writeln!(text, "    alias {}", quoted(alias));
    }
    for (name, value) in &candidate.args {
        let value = value.as_ref().map_or(String::new(), |value| format!(" {}", quoted(value)));
        let _ = writeln!(text, "    arg {}{value}", quoted(name));
    }
    for (key, value) in &candidate.labels {
        let _ = writeln!(text, "    label {} {}", quoted(key), quoted(value));
    }
    if let Some(own) = candidate.network.filter(|own| *own != network) {
        let _ = writeln!(text, "    network \"{}\"", own.as_str());
    }
    let tags = tags(candidate);
    if !tags.is_empty() {
        let tags: Vec<String> = tags.iter().map(|tag| quoted(tag)).collect();
        let _ = writeln!(text, "    tag {}", tags.join(" "));
    }
    text.push_str("}\n");
    text
}

/// The tags of the references that a candidate is published as.
fn tags(candidate: &Candidate) -> BTreeSet<&str> {
    let tags = candidate.published.iter().filter_map(|reference| Parts::of(reference).tag);
    tags.filter(|tag| Tag::new(*tag).is_ok()).collect()
}

/// `imgforge.kdl` of a new workspace.
pub(super) fn workspace(
    name: &str,
    network: Network,
    hidden: &BTreeSet<&Utf8Path>,
    groups: &BTreeMap<String, BTreeSet<String>>,
) -> String {
    let mut lines = Vec::new();
    if network != Network::None {
        lines.push("    // RUN steps of these Dockerfiles fetch from the network, which cannot be hashed: an image whose steps".into());
        lines.push("    // need none says network \"none\".".into());
        lines.push(format!("    network \"{}\"", network.as_str()));
    }
    if !hidden.is_empty() {
        let globs: Vec<String> = hidden.iter().map(|folder| quoted(folder.as_str())).collect();
        lines.push(format!("    images \"**\" {}", globs.join(" ")));
    }
    let mut text = format!("workspace {}", quoted(name));
    if lines.is_empty() {
        text.push('\n');
    } else {
        let _ = writeln!(text, " {{\n{}\n}}", lines.join("\n"));
    }
    for (group, members) in groups {
        let members: Vec<String> = members.iter().map(|member| quoted(member)).collect();
        let _ = writeln!(text, "group {} {}", quoted(group), members.join(" "));
    }
    text
}

/// The manifests with the images of `new`, by path: what is there stays, and new images come behind it.
pub(super) fn manifests(
    new: &[&Candidate],
    network: Network,
    before: impl Fn(&Utf8Path) -> Option<String>,
) -> BTreeMap<Utf8PathBuf, String> {
    let mut files: BTreeMap<Utf8PathBuf, String> = BTreeMap::new();
    for candidate in new {
        let path = candidate.folder().join(imgforge_core::workspace::IMAGE_FILE);
        let text = files.entry(path.clone()).or_insert_with(|| before(&path).unwrap_or_default());
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&image(candidate, network));
    }
    files
}

/// A manifest in which an image has aliases more: lines before the brace that ends its block. `None` when it is not
/// found.
pub(super) fn with_aliases(text: &str, image: &str, aliases: &BTreeSet<String>) -> Option<String> {
    let document = kdl::KdlDocument::parse_v2(text).ok()?;
    let is_it = |node: &&kdl::KdlNode| {
        node.name().value() == "image" && node.get(0).and_then(|value| value.as_string()) == Some(image)
    };
    let node = document.nodes().iter().find(is_it)?;
    let (start, len) = (node.span().offset(), node.span().len());
    let brace = text.get(start..start + len)?.rfind('}')? + start;
    let lines: String = aliases.iter().map(|alias| format!("    alias {}\n", quoted(alias))).collect();
    let before = text[..brace].trim_end_matches([' ', '\t']);
    let gap = if before.ends_with('\n') { "" } else { "\n" };
    Some(format!("{before}{gap}{lines}{}", &text[brace..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_is_added_to_the_image_that_is_meant_and_nothing_else_changes() {
        let text = "// mine\nimage \"a\" { dockerfile \"Dockerfile\"; }\nimage \"b\" {\n    dockerfile \"D\" // \"}\"\n    arg \"X\" \"}\"\n    // }\n} // }\n// end\n";
        let aliases = BTreeSet::from(["acme/b:1".to_owned()]);
        let found = with_aliases(text, "b", &aliases).unwrap();
        assert_eq!(found, text.replace("    // }\n}", "    // }\n    alias \"acme/b:1\"\n}"));
        let found = with_aliases(text, "a", &aliases).unwrap();
        assert_eq!(found, text.replace("Dockerfile\"; }", "Dockerfile\";\n    alias \"acme/b:1\"\n}"));
        assert_eq!(with_aliases(text, "c", &aliases), None);
    }
}
