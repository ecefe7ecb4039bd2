//! Where suites are: the manifest, the environment, the machine's apt configuration, in this order.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::manifest::AptSource;

use crate::Error;

/// Debian's own keys, as its package debian-archive-keyring brings them.
const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What this machine knows of repositories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// `IMGFORGE_APT_URI`: `URI` for all suites, or `SUITE=URI` for one, parted by white space.
    variable: String,
    /// Of the apt configuration, by suite: its address and its `Signed-By` file.
    configured: BTreeMap<String, (String, Option<Utf8PathBuf>)>,
}

/// An apt source whose suites have been found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// The source's name in the workspace.
    pub source: String,
    /// The architecture whose packages are wanted: `amd64`.
    pub architecture: String,
    /// `main` and so on.
    pub components: Vec<String>,
    /// Its suites.
    pub suites: Vec<SuiteLocation>,
}

/// Where one suite is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuiteLocation {
    /// Its name: `bookworm-security`.
    pub suite: String,
    /// The repository's root, without a slash at its end.
    pub uri: String,
    /// The OpenPGP keys that sign it.
    pub keyring: Utf8PathBuf,
}

impl Machine {
    /// Reads the environment and `/etc/apt`.
    pub fn read() -> Self {
        let variable = std::env::var("IMGFORGE_APT_URI").unwrap_or_default();
        Self::from_parts(variable, Utf8Path::new("/etc/apt"))
    }

    /// The same, with the variable's value and the configuration folder given.
    pub fn from_parts(variable: String, apt: &Utf8Path) -> Self {
        let mut configured = BTreeMap::new();
        let mut files: Vec<Utf8PathBuf> = std::fs::read_dir(apt.join("sources.list.d"))
            .map(|dir| dir.filter_map(|entry| Utf8PathBuf::from_path_buf(entry.ok()?.path()).ok()).collect())
            .unwrap_or_default();
        files.push(apt.join("sources.list"));
        files.sort();
        for file in files {
            // A file that cannot be read is one that says nothing.
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let found = match file.extension() {
                Some("sources") => deb822_sources(&text),
                Some("list") => one_line_sources(&text),
                _ => Vec::new(),
            };
            for (suite, uri, keyring) in found {
                configured.entry(suite).or_insert((uri, keyring));
            }
        }
        Self { variable, configured }
    }

    fn uri_of(&self, suite: &str) -> Option<String> {
        let words = || self.variable.split_whitespace();
        let named = words().find_map(|word| word.strip_prefix(suite)?.strip_prefix('='));
        // An address may hold `=` too, but not before its scheme.
        let bare = words().find(|word| word.split("://").next().is_some_and(|scheme| !scheme.contains('=')));
        let configured = self.configured.get(suite).map(|(uri, _)| uri.as_str());
        named.or(bare).or(configured).map(str::to_owned)
    }
}

impl Repository {
    /// Finds the suites of a source. `root` is the workspace's folder.
    ///
    /// # Errors
    /// [`Error::NoRepository`] for the first suite that no one knows, [`Error::Keyring`] for keys that are not there.
    pub fn locate(
        source: &AptSource,
        root: &Utf8Path,
        architecture: &str,
        machine: &Machine,
    ) -> Result<Self, Error> {
        let suites = source
            .suites
            .iter()
            .map(|suite| {
                let suite = suite.value.clone();
                let uri = source.uri.as_ref().map(|uri| uri.value.clone()).or_else(|| machine.uri_of(&suite));
                let missing =
                    || Error::NoRepository { source_name: source.name.value.clone(), suite: suite.clone() };
                let uri = uri.ok_or_else(missing)?.trim_end_matches('/').to_owned();
                let configured = machine.configured.get(&suite).and_then(|(_, keyring)| keyring.clone());
                let own = source.keyring.as_ref().map(|keyring| root.join(&keyring.value));
                let keyring = own.or(configured).unwrap_or_else(|| DEBIAN_KEYRING.into());
                if !keyring.is_file() {
                    let message =
                        "there is no such file; `keyring` of the apt source names another".to_owned();
                    return Err(Error::Keyring { path: keyring, suite, message });
                }
                Ok(SuiteLocation { suite, uri, keyring })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            source: source.name.value.clone(),
            architecture: architecture.to_owned(),
            components: source.components.iter().map(|component| component.value.clone()).collect(),
            suites,
        })
    }
}

type Found = (String, String, Option<Utf8PathBuf>);

/// The `.sources` form of sources.list(5).
fn deb822_sources(text: &str) -> Vec<Found> {
    let mut found = Vec::new();
    for stanza in crate::control::stanzas(text) {
        let words = |key: &str| {
            stanza.get(key).unwrap_or("").split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let is_off = stanza.get("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
        if is_off || !words("Types").iter().any(|kind| kind == "deb") {
            continue;
        }
        let keyring =
            stanza.get("Signed-By").map(str::trim).filter(|file| file.starts_with('/')).map(Into::into);
        if let Some(uri) = words("URIs").first() {
            found.extend(words("Suites").into_iter().map(|suite| (suite, uri.clone(), keyring.clone())));
        }
    }
    found
}

/// `deb [signed-by=FILE] URI SUITE COMPONENT...` of sources.list(5).
fn one_line_sources(text: &str) -> Vec<Found> {
    let line = |line: &str| {
        let rest = line.trim().strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let keyring = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        Some((suite.to_owned(), uri.to_owned(), keyring.map(Into::into)))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_apt_configuration_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let apt = Utf8Path::from_path(dir.path()).unwrap();
        std::fs::create_dir(apt.join("sources.list.d")).unwrap();
        std::fs::write(
            apt.join("sources.list.d/debian.sources"),
            "# comment\nTypes: deb deb-src\nURIs: http://a.test/debian/\nSuites: one two\nComponents: main\nSigned-By: /k.gpg\n\nTypes: deb\nEnabled: no\nURIs: http://off.test\nSuites: off\n",
        )
        .unwrap();
        std::fs::write(apt.join("sources.list"), "deb [arch=amd64 signed-by=/l.gpg] http://b.test three main\n# deb x four main\ndeb-src y five main\n").unwrap();
        let machine = Machine::from_parts(String::new(), apt);
        assert_eq!(machine.configured.keys().collect::<Vec<_>>(), ["one", "three", "two"]);
        assert_eq!(machine.configured["three"], ("http://b.test".into(), Some("/l.gpg".into())));
        assert_eq!(machine.uri_of("two").as_deref(), Some("http://a.test/debian/"));
    }

    #[test]
    fn the_variable_comes_before_the_configuration() {
        let machine = |variable: &str| {
            let configured = BTreeMap::from([("a".to_owned(), ("http://c".to_owned(), None))]);
            Machine { variable: variable.into(), configured }
        };
        assert_eq!(machine("").uri_of("a").as_deref(), Some("http://c"));
        assert_eq!(machine("http://v?x=y").uri_of("a").as_deref(), Some("http://v?x=y"));
        assert_eq!(machine("http://v a-security=http://s").uri_of("a-security").as_deref(), Some("http://s"));
        assert_eq!(machine("a-security=http://s").uri_of("a").as_deref(), Some("http://c"));
        assert_eq!(machine("b=http://s").uri_of("z"), None);
    }
}
