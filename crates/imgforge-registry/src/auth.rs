//! Who asks: credentials, where they are found, and the tokens that registries give for them.
//!
//! Rules: the distribution project's "Token Authentication Specification" and "OAuth2 Token Authentication"; RFC 9110
//! for `WWW-Authenticate`; Docker's documentation of `config.json` and of credential helpers.

use std::collections::HashMap;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use camino::Utf8PathBuf;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use crate::Error;

/// The variable that names the user of the workspace's registry.
pub const USER_VARIABLE: &str = "IMGFORGE_REGISTRY_USER";
/// The variable with its password.
pub const PASSWORD_VARIABLE: &str = "IMGFORGE_REGISTRY_PASSWORD";

/// What a helper calls the user when the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// What Docker Hub is called in Docker's configuration.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// A name and a password. It is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The name.
    pub user: String,
    /// The password, or an identity token when the name is `<token>`.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login")
    }
}

/// Where credentials are looked for.
#[derive(Debug, Clone, Default)]
pub enum Credentials {
    /// Nowhere.
    None,
    /// In Docker's configuration: `auths`, `credHelpers`, `credsStore` of `config.json` in `$DOCKER_CONFIG` or
    /// `~/.docker`.
    #[default]
    Docker,
    /// First in `IMGFORGE_REGISTRY_USER` and `IMGFORGE_REGISTRY_PASSWORD`, then in Docker's configuration: for the registry of
    /// the workspace alone.
    Workspace,
    /// These.
    Login(Login),
}

/// What was found, and where, in words for an error.
pub(crate) type Found = (Option<Login>, String);

impl Credentials {
    pub(crate) async fn find(&self, host: &str) -> Result<Found, Error> {
        match self {
            Self::None => Ok((None, "no credentials are used".into())),
            Self::Login(login) => Ok((Some(login.clone()), format!("tried as {}", login.user))),
            Self::Docker => in_docker_config(host).await,
            Self::Workspace => {
                let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
                match (variable(USER_VARIABLE), variable(PASSWORD_VARIABLE)) {
                    (Some(user), Some(password)) => {
                        let tried = format!("tried as {user}, from {USER_VARIABLE}");
                        Ok((Some(Login { user, password }), tried))
                    }
                    _ => in_docker_config(host).await,
                }
            }
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DockerConfig {
    auths: HashMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: HashMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

fn config_file() -> Option<Utf8PathBuf> {
    if let Ok(dir) = std::env::var("DOCKER_CONFIG") {
        return Some(Utf8PathBuf::from(dir).join("config.json"));
    }
    let home = std::env::var("HOME").ok()?;
    Some(Utf8PathBuf::from(home).join(".docker/config.json"))
}

async fn in_docker_config(host: &str) -> Result<Found, Error> {
    let Some(file) = config_file() else { return Ok((None, "there is no Docker configuration".into())) };
    let text = match tokio::fs::read(&file).await {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok((None, format!("there is no {file} with credentials")));
        }
        Err(error) => return Err(Error::File { path: file, error }),
    };
    let config: DockerConfig = serde_json::from_slice(&text)
        .map_err(|error| Error::Configuration { message: format!("{file} is not understood: {error}") })?;
    let hosts = names_of(host);
    let helper = hosts.iter().find_map(|name| config.cred_helpers.get(name)).or(config.creds_store.as_ref());
    if let Some(helper) = helper
        && let Some(login) = ask_helper(helper, &hosts[0]).await?
    {
        let tried = format!("tried as {}, from the credential helper docker-credential-{helper}", login.user);
        return Ok((Some(login), tried));
    }
    for name in &hosts {
        let Some(auth) = config.auths.get(name) else { continue };
        if let Some(login) = login_of(auth, &file, name)? {
            let tried = format!("tried as {}, from {file}", login.user);
            return Ok((Some(login), tried));
        }
    }
    let with = helper.map_or_else(String::new, |name| format!(" and docker-credential-{name} knows none"));
    Ok((None, format!("{file} has no credentials for it{with}")))
}

/// The names under which Docker keeps the credentials of a host.
fn names_of(host: &str) -> Vec<String> {
    if matches!(host, "docker.io" | "registry-1.docker.io") {
        return vec![DOCKER_HUB.to_owned(), "docker.io".to_owned()];
    }
    vec![host.to_owned(), format!("https://{host}"), format!("http://{host}")]
}

fn login_of(auth: &Entry, file: &Utf8PathBuf, name: &str) -> Result<Option<Login>, Error> {
    if let Some(token) = auth.identitytoken.as_ref().filter(|token| !token.is_empty()) {
        return Ok(Some(Login { user: TOKEN_USER.into(), password: token.clone() }));
    }
    if let (Some(user), Some(password)) = (&auth.username, &auth.password) {
        return Ok(Some(Login { user: user.clone(), password: password.clone() }));
    }
    let Some(encoded) = auth.auth.as_ref().filter(|text| !text.is_empty()) else { return Ok(None) };
    let wrong = || Error::Configuration { message: format!("{file}: \"auth\" of {name} is not understood") };
    let decoded = STANDARD.decode(encoded.trim()).map_err(|_| wrong())?;
    let text = String::from_utf8(decoded).map_err(|_| wrong())?;
    let (user, password) = text.split_once(':').ok_or_else(wrong)?;
    Ok(Some(Login { user: user.to_owned(), password: password.trim_end_matches('\0').to_owned() }))
}

/// Asks `docker-credential-NAME get`. `None` when it has none for the host.
async fn ask_helper(helper: &str, host: &str) -> Result<Option<Login>, Error> {
    let program = format!("docker-credential-{helper}");
    let wrong = |message: String| Error::Configuration { message };
    let mut child = tokio::process::Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| wrong(format!("the credential helper {program} cannot be started: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read says so itself.
        let _ = stdin.write_all(host.as_bytes()).await;
    }
    let output = child.wait_with_output().await;
    let output = output.map_err(|error| wrong(format!("the credential helper {program}: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        if text.contains("credentials not found") {
            return Ok(None);
        }
        return Err(wrong(format!(
            "the credential helper {program} ended with {}: {}",
            output.status,
            crate::error::clean(&text)
        )));
    }
    let helped: Helped = serde_json::from_str(&text)
        .map_err(|_| wrong(format!("the credential helper {program} answers what is not understood")))?;
    Ok(Some(Login { user: helped.username, password: helped.secret }))
}

/// What a registry wants to see, from `WWW-Authenticate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

/// The first challenge of a header that is understood, a token before a password.
pub(crate) fn parse_challenge(header: &str) -> Option<Challenge> {
    let bearer = find_scheme(header, "bearer").and_then(|parameters| {
        let parameters = parse_parameters(parameters);
        let realm = parameters.get("realm")?.clone();
        Some(Challenge::Bearer { realm, service: parameters.get("service").cloned() })
    });
    bearer.or_else(|| find_scheme(header, "basic").map(|_| Challenge::Basic))
}

/// What follows the name of a scheme, if that stands where one can begin.
fn find_scheme<'h>(header: &'h str, scheme: &str) -> Option<&'h str> {
    let lower = header.to_ascii_lowercase();
    let mut from = 0;
    while let Some(at) = lower[from..].find(scheme).map(|at| at + from) {
        let begins = lower[..at].trim_end().is_empty() || lower[..at].trim_end().ends_with(',');
        let rest = &header[at + scheme.len()..];
        if begins && (rest.is_empty() || rest.starts_with(' ')) {
            return Some(rest);
        }
        from = at + scheme.len();
    }
    None
}

/// `key="value", key=value`, up to what is neither.
fn parse_parameters(mut text: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    loop {
        text = text.trim_start_matches([' ', ',']);
        let Some((key, rest)) = text.split_once('=') else { return found };
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            return found;
        }
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = rest.find([',', ' ']).unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        found.insert(key.to_ascii_lowercase(), value);
        text = rest;
    }
}

/// A quoted string from behind its first quote, and what follows it.
fn unquote(text: &str) -> (String, &str) {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// What a token server answers.
#[derive(Deserialize)]
pub(crate) struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    pub(crate) expires_in: Option<u64>,
}

impl TokenAnswer {
    pub(crate) fn token(self) -> Option<String> {
        self.token.or(self.access_token).filter(|token| !token.is_empty())
    }
}

impl Login {
    /// Whether the password is an identity token.
    pub(crate) fn is_identity_token(&self) -> bool {
        self.user == TOKEN_USER
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned) }
    }

    #[test]
    fn challenges_are_read() {
        for (header, expected) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://auth.example.com/token\",service=\"registry\",scope=\"repository:a:pull,push\"",
                Some(bearer("https://auth.example.com/token", Some("registry"))),
            ),
            ("BEARER  Realm=http://a/t , error=\"invalid_token\"", Some(bearer("http://a/t", None))),
            ("Basic realm=\"a, bearer \", Bearer realm=\"b\\\"c\"", Some(bearer("b\"c", None))),
            ("Bearer scope=\"x\"", None),
            ("Negotiate", None),
            ("", None),
        ] {
            assert_eq!(parse_challenge(header), expected, "{header}");
        }
    }

    #[test]
    fn docker_keeps_logins_as_base64() {
        let file = Utf8PathBuf::from("config.json");
        let auth = |text: &str| Entry { auth: Some(text.into()), ..Entry::default() };
        let login = login_of(&auth(&STANDARD.encode("me:pass:word")), &file, "h").unwrap().unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("me", "pass:word"));
        assert_eq!(format!("{login:?}"), "Login");
        assert!(login_of(&auth("***"), &file, "h").is_err());
        assert_eq!(login_of(&auth(""), &file, "h").unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_header_is_read(header in "[ -~é]{0,60}|(Bearer|Basic|bearer)[ -~]{0,60}") {
            parse_challenge(&header);
        }

        #[test]
        fn quoted_values_read_back(realm in "[ -~]{1,40}") {
            let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!("Bearer service=x,realm=\"{quoted}\"");
            prop_assert_eq!(parse_challenge(&header), Some(bearer(&realm, Some("x"))));
        }
    }
}
