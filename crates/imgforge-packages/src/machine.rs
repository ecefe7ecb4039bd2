//! Where repositories are, as far as this machine knows: an environment variable and apt's own configuration.
//!
//! The lock holds no host names, so that any mirror serves it; the mirror is found anew on every machine.

use std::fs;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::manifest::{ApkSource, AptSource};

use crate::address::{self, Login};
use crate::control::paragraphs;
use crate::error::Error;
use crate::relation::Scheme;

/// The keys that Debian's own archives are signed with, where Debian puts them.
const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where a repository is, and the login for it.
type Address = (String, Option<Login>);

/// What the machine says about repositories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// From `IMGFORGE_APT_URI`: the suite, or none for all suites; and its URI.
    variable: Vec<(Option<String>, Address)>,
    configured: Vec<Configured>,
}

/// One suite of apt's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Configured {
    suite: String,
    uri: Address,
    keyring: Option<Utf8PathBuf>,
}

/// A package source with everything found: what [`fetch_index`](crate::fetch_index) reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// The source's name in the workspace.
    pub source: String,
    /// Debian's or Alpine's.
    pub scheme: Scheme,
    /// `amd64`; packages for `all` architectures are included.
    pub architecture: String,
    /// Its suites in the manifest's order.
    pub suites: Vec<RepositorySuite>,
    /// `main`...
    pub components: Vec<String>,
    /// Archives of its earlier states, without slashes at their ends and without logins.
    pub snapshots: Vec<String>,
    /// The logins of those archives, where they have one.
    pub logins: Vec<(String, Login)>,
}

/// One suite of a [`Repository`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositorySuite {
    /// `bookworm`.
    pub name: String,
    /// The repository's root, without a slash at its end and without the login in it.
    pub uri: String,
    /// The login.
    pub login: Option<Login>,
    /// A file with the OpenPGP keys that may sign it; of Alpine, a folder with public keys.
    pub keyring: Utf8PathBuf,
}

impl Repository {
    /// The repositories of an apk source, whose folder of keys is in `root`.
    pub fn of_apk(source: &ApkSource, root: &Utf8Path, architecture: &str) -> Self {
        let keyring = source.keys.as_ref().map_or_else(|| root.to_owned(), |keys| root.join(&keys.value));
        let suite = |address: &str| {
            let (uri, login) = address::split(address);
            // Mirrors differ in what comes before.
            let mut ends: Vec<&str> = uri.rsplit('/').take(2).collect();
            ends.reverse();
            RepositorySuite { name: ends.join("/"), uri: uri.clone(), login, keyring: keyring.clone() }
        };
        Self {
            source: source.name.value.clone(),
            scheme: Scheme::Alpine,
            architecture: architecture.to_owned(),
            suites: source.repositories.iter().map(|address| suite(&address.value)).collect(),
            components: Vec::new(),
            snapshots: Vec::new(),
            logins: Vec::new(),
        }
    }

    /// The logins, by the addresses that they are for.
    pub(crate) fn logins(&self) -> impl Iterator<Item = (&str, &Login)> {
        let of_suites =
            self.suites.iter().filter_map(|suite| Some((suite.uri.as_str(), suite.login.as_ref()?)));
        of_suites.chain(self.logins.iter().map(|(address, login)| (address.as_str(), login)))
    }
}

impl Machine {
    /// Reads `IMGFORGE_APT_URI` and `/etc/apt`.
    ///
    /// # Errors
    /// [`Error::Io`] when a file of apt's configuration is there but cannot be read.
    pub fn read() -> Result<Self, Error> {
        let variable = std::env::var("IMGFORGE_APT_URI").unwrap_or_default();
        Self::from_parts(&variable, Utf8Path::new("/etc/apt"))
    }

    /// As [`read`](Self::read), with the variable's value and apt's folder given.
    ///
    /// # Errors
    /// [`Error::Io`] when a file of apt's configuration is there but cannot be read.
    pub fn from_parts(variable: &str, apt: &Utf8Path) -> Result<Self, Error> {
        let mut configured = Vec::new();
        for path in source_files(apt)? {
            let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
            match path.extension() {
                Some("sources") => read_deb822(&text, &mut configured),
                _ => text.lines().for_each(|line| read_one_line(line, &mut configured)),
            }
        }
        Ok(Self { variable: variable.split_whitespace().map(read_word).collect(), configured })
    }

    /// Finds the servers and keyrings of `source`; `root` is the workspace's folder.
    ///
    /// # Errors
    /// [`Error::NoUri`] when nothing says where a suite is, [`Error::Keyring`] when its keyring is no file.
    pub fn repository(
        &self,
        source: &AptSource,
        root: &Utf8Path,
        architecture: &str,
    ) -> Result<Repository, Error> {
        let suite = |name: &str| -> Result<RepositorySuite, Error> {
            let given = source.uri.as_ref().map(|uri| address::split(&uri.value));
            let (uri, login) = given
                .or_else(|| self.uri(name).cloned())
                .ok_or_else(|| Error::NoUri { name: source.name.value.clone(), suite: name.to_owned() })?;
            let keyring = self.keyring(source, root, name);
            if !keyring.is_file() {
                let reason = "no such file; give `keyring` in imgforge.kdl, or install \
                              debian-archive-keyring for Debian's own archives";
                return Err(Error::Keyring {
                    suite: name.to_owned(),
                    path: keyring,
                    reason: reason.to_owned(),
                });
            }
            Ok(RepositorySuite { name: name.to_owned(), uri, login, keyring })
        };
        let archives: Vec<Address> = source.snapshots.iter().map(|s| address::split(&s.value)).collect();
        let with_login = |(address, login): &Address| Some((address.clone(), login.clone()?));
        let components: Vec<String> = source.components.iter().map(|c| c.value.clone()).collect();
        Ok(Repository {
            scheme: Scheme::Debian,
            source: source.name.value.clone(),
            architecture: architecture.to_owned(),
            suites: source.suites.iter().map(|s| suite(&s.value)).collect::<Result<_, _>>()?,
            components: if components.is_empty() { vec!["main".to_owned()] } else { components },
            logins: archives.iter().filter_map(with_login).collect(),
            snapshots: archives.into_iter().map(|(address, _)| address).collect(),
        })
    }

    /// A URI for this suite by name comes before one for all suites, the variable before apt's configuration.
    fn uri(&self, suite: &str) -> Option<&Address> {
        let named = self.variable.iter().find(|(name, _)| name.as_deref() == Some(suite));
        let any = || self.variable.iter().find(|(name, _)| name.is_none());
        let configured = || self.configured.iter().find(|c| c.suite == suite).map(|c| &c.uri);
        named.or_else(any).map(|(_, uri)| uri).or_else(configured)
    }

    fn keyring(&self, source: &AptSource, root: &Utf8Path, suite: &str) -> Utf8PathBuf {
        if let Some(keyring) = &source.keyring {
            return root.join(&keyring.value);
        }
        let configured = self.configured.iter().find(|c| c.suite == suite).and_then(|c| c.keyring.clone());
        configured.unwrap_or_else(|| DEBIAN_KEYRING.into())
    }
}

/// The files that apt reads, in apt's order (sources.list(5)).
fn source_files(apt: &Utf8Path) -> Result<Vec<Utf8PathBuf>, Error> {
    let folder = apt.join("sources.list.d");
    let mut files = Vec::new();
    if folder.is_dir() {
        for entry in folder.read_dir_utf8().map_err(Error::io(&folder))? {
            let path = entry.map_err(Error::io(&folder))?.into_path();
            if matches!(path.extension(), Some("sources" | "list")) {
                files.push(path);
            }
        }
    }
    files.sort();
    let first = apt.join("sources.list");
    if first.is_file() {
        files.insert(0, first);
    }
    Ok(files)
}

fn read_word(word: &str) -> (Option<String>, Address) {
    match word.split_once('=') {
        Some((suite, uri)) if !suite.contains("://") => (Some(suite.to_owned()), address::split(uri)),
        _ => (None, address::split(word)),
    }
}

fn read_deb822(text: &str, configured: &mut Vec<Configured>) {
    for paragraph in paragraphs(text) {
        let words = |field| paragraph.get(field).unwrap_or("").split_whitespace();
        let is_off = paragraph.get("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
        if is_off || !words("Types").any(|word| word == "deb") {
            continue;
        }
        // The field may also hold a key itself or fingerprints: only a file is of use here.
        let keyring = words("Signed-By").find(|word| word.starts_with('/')).map(Utf8PathBuf::from);
        // Of several URIs apt takes any; a comment line in a value starts with `#`.
        let Some(uri) = words("URIs").find(|word| word.contains("://")) else { continue };
        for suite in words("Suites").filter(|word| !word.starts_with('#')) {
            configured.push(Configured {
                suite: suite.to_owned(),
                uri: address::split(uri),
                keyring: keyring.clone(),
            });
        }
    }
}

/// `deb [signed-by=/FILE arch=amd64] URI SUITE COMPONENT...`
fn read_one_line(line: &str, configured: &mut Vec<Configured>) {
    let line = line.split('#').next().unwrap_or("").trim();
    let Some(rest) = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t'])) else { return };
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((options, rest)) => (options, rest),
        None => ("", rest),
    };
    let keyring = options
        .split_whitespace()
        .filter_map(|option| option.strip_prefix("signed-by="))
        .flat_map(|files| files.split(','))
        .find(|word| word.starts_with('/'))
        .map(Utf8PathBuf::from);
    let mut words = rest.split_whitespace();
    if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
        configured.push(Configured { suite: suite.to_owned(), uri: address::split(uri), keyring });
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use imgforge_syntax::{Located, Span};

    fn machine(variable: &str) -> (tempfile::TempDir, Machine) {
        let dir = tempfile::tempdir().unwrap();
        let apt = Utf8Path::from_path(dir.path()).unwrap();
        fs::create_dir(apt.join("sources.list.d")).unwrap();
        let key = apt.join("key.gpg");
        fs::write(&key, "").unwrap();
        fs::write(
            apt.join("sources.list"),
            format!(
                "# deb http://no old main\ndeb [arch=amd64 signed-by={key}] http://one/x old main # note\n"
            ),
        )
        .unwrap();
        let deb822 = format!(
            "Types: deb deb-src\n# a comment\nURIs: http://two/debian/\nSuites: new new-updates\nSigned-By: {key}\n\n\
             Types: deb-src\nURIs: http://no\nSuites: src\n\nEnabled: no\nTypes: deb\nURIs: http://no\nSuites: off\n"
        );
        fs::write(apt.join("sources.list.d/b.sources"), deb822).unwrap();
        fs::write(apt.join("sources.list.d/c.sources.bak"), "Types: deb\nURIs: http://no\nSuites: bak\n")
            .unwrap();
        let machine = Machine::from_parts(variable, apt).unwrap();
        (dir, machine)
    }

    fn source(suite: &str, uri: Option<&str>) -> AptSource {
        let located = |text: &str| Located::new(text.to_owned(), Span::default());
        AptSource {
            name: located("debian"),
            suites: vec![located(suite)],
            components: Vec::new(),
            uri: uri.map(located),
            keyring: None,
            snapshots: Vec::new(),
        }
    }

    fn uri_of(machine: &Machine, suite: &str, uri: Option<&str>) -> Option<String> {
        let mut found = machine.repository(&source(suite, uri), Utf8Path::new("/"), "amd64").ok()?;
        assert_eq!(found.components, ["main"]);
        Some(found.suites.remove(0).uri)
    }

    #[test]
    fn the_manifest_comes_before_the_variable_and_the_variable_before_apt() {
        let (_dir, plain) = machine("");
        assert_eq!(uri_of(&plain, "old", None).as_deref(), Some("http://one/x"));
        assert_eq!(uri_of(&plain, "new-updates", None).as_deref(), Some("http://two/debian"));
        assert_eq!(uri_of(&plain, "new", Some("http://m")).as_deref(), Some("http://m"));
        let (_dir, set) = machine("http://every?a=b new=http://three");
        assert_eq!(uri_of(&set, "old", None).as_deref(), Some("http://every?a=b"));
        assert_eq!(uri_of(&set, "new", None).as_deref(), Some("http://three"));
    }

    #[test]
    fn a_suite_that_nobody_knows_is_an_error_that_names_all_three_ways() {
        let (_dir, machine) = machine("");
        for suite in ["src", "off", "bak"] {
            let error = machine.repository(&source(suite, None), Utf8Path::new("/"), "amd64").unwrap_err();
            let text = error.to_string();
            for part in [suite, "imgforge.kdl", "IMGFORGE_APT_URI", "apt configuration"] {
                assert!(text.contains(part), "{text}");
            }
        }
    }

    #[test]
    fn a_keyring_that_is_missing_is_named() {
        let (_dir, machine) = machine("");
        let mut source = source("new", None);
        source.keyring = Some(Located::new("keys/none.gpg".into(), Span::default()));
        let error = machine.repository(&source, Utf8Path::new("/w"), "amd64").unwrap_err();
        assert!(error.to_string().contains("/w/keys/none.gpg"), "{error}");
    }
}
