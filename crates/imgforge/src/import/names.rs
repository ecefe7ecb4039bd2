//! Names for images: short, each once, and none that Dockerfiles use for an image from outside.

use std::collections::BTreeSet;

use camino::Utf8Path;
use imgforge_core::name::ImageName;

use super::candidate::Candidate;

/// Folders whose names say nothing of the image in them.
const GENERIC: [&str; 14] = [
    ".docker",
    "build",
    "builds",
    "container",
    "containers",
    "contrib",
    "deploy",
    "docker",
    "dockerfile",
    "dockerfiles",
    "image",
    "images",
    "packaging",
    "src",
];

/// How much of a name stays in front of a number: an image's name has at most 128 characters.
const LONGEST: usize = 100;

/// What a Dockerfile's name says beside that it is one: `alpine` of `Dockerfile.alpine` and of `alpine.Dockerfile`.
fn variant(path: &Utf8Path) -> Option<String> {
    let name = path.file_name()?.to_lowercase();
    let rest = ["dockerfile", "containerfile"].iter().find_map(|word| {
        let after = name.strip_prefix(word).map(|rest| rest.trim_start_matches(['.', '-', '_']));
        after.or_else(|| name.strip_suffix(word).map(|rest| rest.trim_end_matches('.')))
    });
    rest.filter(|rest| !rest.is_empty()).map(str::to_owned)
}

/// Whether a folder is called like a version of what lies above it.
fn is_version(folder: &str) -> bool {
    let digits = folder.strip_prefix('v').unwrap_or(folder);
    digits.starts_with(|c: char| c.is_ascii_digit())
        || matches!(folder, "latest" | "stable" | "edge" | "nightly")
}

/// The names and the repositories that the place of a Dockerfile stands for.
pub(super) fn of_place(candidate: &mut Candidate, top: &str) {
    let folder = candidate.folder().to_owned();
    let all: Vec<String> = folder.components().map(|part| part.as_str().to_lowercase()).collect();
    let parts: Vec<&str> = all.iter().map(String::as_str).filter(|part| !GENERIC.contains(part)).collect();
    let variant = variant(&candidate.dockerfile);
    let mut shortest = 1;
    // A version says nothing without what it is one of, nor does what lies below one.
    let says_nothing =
        |count: usize| is_version(parts[parts.len() - count]) || is_version(parts[parts.len() - count - 1]);
    while shortest < parts.len() && says_nothing(shortest) {
        shortest += 1;
    }
    let mut options = Vec::new();
    for count in shortest..=parts.len() {
        options.push(parts[parts.len() - count..].join("-"));
    }
    // Of a repository whose folders are versions, the repository's name says what they are versions of.
    if parts.first().is_some_and(|part| is_version(part)) {
        options = options.into_iter().map(|name| format!("{top}-{name}")).collect();
    }
    if parts.is_empty() {
        options.extend(variant.clone());
        options.push(variant.as_ref().map_or(top.to_owned(), |variant| format!("{top}-{variant}")));
    } else if let Some(variant) = &variant {
        let is_before =
            candidate.dockerfile.file_name().is_some_and(|name| name.to_lowercase().starts_with(variant));
        let with: Vec<String> = options.iter().map(|name| format!("{name}-{variant}")).collect();
        options = if is_before { std::iter::once(variant.clone()).chain(with).collect() } else { with };
    }
    options.push(all.iter().map(String::as_str).chain(variant.as_deref()).collect::<Vec<_>>().join("-"));
    candidate.wanted.extend(options);

    for from in 0..parts.len() {
        for to in from + 1..=parts.len() {
            let repository = parts[from..to].join("/");
            let rest: Vec<&str> = parts[to..].iter().copied().chain(variant.as_deref()).collect();
            if rest.is_empty() {
                candidate.identities.push((repository, None));
            } else {
                candidate.identities.push((repository, Some(rest.join("-"))));
            }
        }
    }
    let rest: Vec<&str> = parts.iter().copied().chain(variant.as_deref()).collect();
    let tag = (!rest.is_empty()).then(|| rest.join("-"));
    if tag.is_some() || all.is_empty() {
        candidate.identities.push((top.to_owned(), tag));
    }
    if let Some(variant) = &variant {
        candidate.identities.push((variant.clone(), None));
        candidate.identities.extend(parts.last().map(|last| (format!("{last}-{variant}"), None)));
    }
}

/// A name of the form that image names have.
fn formed(text: &str) -> Option<ImageName> {
    let lower: String = text
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/') { c } else { '-' })
        .collect();
    let parts = lower.split('/').map(|part| {
        let trimmed = part.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let mut out = String::new();
        for c in trimmed.chars() {
            // One sign between letters, whichever came first.
            if c.is_ascii_alphanumeric() || out.ends_with(|c: char| c.is_ascii_alphanumeric()) {
                out.push(c);
            }
        }
        out
    });
    let parts: Vec<String> = parts.filter(|part| !part.is_empty()).collect();
    ImageName::new(parts.join("/")).ok()
}

/// A free name for a candidate. `used` are those of other images, and what means images from outside.
pub(super) fn choose(candidate: &Candidate, top: &str, used: &BTreeSet<String>) -> ImageName {
    let is_free = |name: &ImageName| !used.contains(name.as_str());
    let mut options: Vec<ImageName> = candidate.wanted.iter().filter_map(|name| formed(name)).collect();
    let with_top = options.iter().filter_map(|name| formed(&format!("{top}-{name}"))).collect::<Vec<_>>();
    options.extend(with_top);
    if let Some(free) = options.iter().find(|name| is_free(name)) {
        return free.clone();
    }
    let mut first = options.first().cloned().or_else(|| formed(top)).map_or("image".to_owned(), String::from);
    first.truncate(LONGEST);
    let numbered = (2_usize..).filter_map(|n| formed(&format!("{first}-{n}")));
    numbered.into_iter().find(is_free).expect("there are more numbers than names")
}

/// The workspace's name, of its folder's.
pub(super) fn of_workspace(root: &Utf8Path) -> String {
    root.file_name()
        .and_then(formed)
        .map_or_else(|| "images".to_owned(), |name| String::from(name).replace('/', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(path: &str) -> (String, Vec<(String, Option<String>)>) {
        let mut candidate = Candidate::new(path.into(), path.into(), "".into());
        of_place(&mut candidate, "acme");
        (choose(&candidate, "acme", &BTreeSet::new()).into(), candidate.identities)
    }

    #[test]
    fn a_name_is_what_the_place_says() {
        for (path, expected) in [
            ("Dockerfile", "acme"),
            ("web/Dockerfile", "web"),
            ("images/web/Dockerfile", "web"),
            ("images/python/3.11/Dockerfile", "python-3.11"),
            ("python/3.11/slim/Dockerfile", "python-3.11-slim"),
            ("web/Dockerfile.debug", "web-debug"),
            ("docker/worker.Dockerfile", "worker"),
            ("Dockerfile.dev", "dev"),
            (".devcontainer/Dockerfile", "devcontainer"),
            ("Some Thing/Dockerfile", "some-thing"),
            ("docker/Dockerfile", "acme"),
            ("3.12/slim/Dockerfile", "acme-3.12-slim"),
        ] {
            assert_eq!(named(path).0, expected, "{path}");
        }
    }

    #[test]
    fn a_place_stands_for_repositories_and_tags() {
        let has = |path: &str, repository: &str, tag: Option<&str>| {
            named(path).1.contains(&(repository.to_owned(), tag.map(str::to_owned)))
        };
        assert!(has("images/web/Dockerfile", "web", None));
        assert!(has("python/3.11/Dockerfile", "python", Some("3.11")));
        assert!(has("python/3.11/slim/Dockerfile", "python", Some("3.11-slim")));
        assert!(has("base/Dockerfile.alpine", "base", Some("alpine")));
        assert!(has("base/Dockerfile.alpine", "base-alpine", None));
        assert!(has("team/web/Dockerfile", "team/web", None));
        assert!(has("Dockerfile", "acme", None));
        assert!(has("3.12/slim/Dockerfile", "acme", Some("3.12-slim")));
    }

    #[test]
    fn a_name_that_is_taken_is_made_longer() {
        let mut candidate = Candidate::new(String::new(), "a/web/Dockerfile".into(), "".into());
        of_place(&mut candidate, "acme");
        let mut used = BTreeSet::new();
        for expected in ["web", "a-web", "acme-web", "acme-a-web", "web-2", "web-3"] {
            let name = choose(&candidate, "acme", &used);
            assert_eq!(name.as_str(), expected);
            used.insert(name.into());
        }
    }

    #[test]
    fn a_long_name_that_is_taken_has_room_for_a_number() {
        let long = "a".repeat(128);
        let mut candidate = Candidate::new(String::new(), format!("{long}/Dockerfile").into(), "".into());
        of_place(&mut candidate, "acme");
        let used = BTreeSet::from([long.clone()]);
        let name = choose(&candidate, "acme", &used);
        assert_eq!(name.as_str(), format!("{}-2", &long[..LONGEST]));
    }
}
