//! Who we are to a registry: the environment, and the configuration that `docker login` writes.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use camino::{Utf8Path, Utf8PathBuf};
use imgforge_oci::reference::DOCKER_HUB;
use serde::{Deserialize, Deserializer};
use tokio::io::AsyncWriteExt;

use crate::error::{Error, clean};

/// How long a helper program may take.
const HELPER_TIME: Duration = Duration::from_secs(30);
/// The user's name that says that the secret is an identity token (`docker help login`; oauth2 of the token
/// specification).
const TOKEN_USER: &str = "<token>";

/// Where credentials are looked for. What is found is never printed.
#[derive(Clone)]
pub struct Credentials {
    login: Option<Login>,
    config: Option<Utf8PathBuf>,
}

#[derive(Clone)]
struct Login {
    user: String,
    password: String,
    source: String,
    of: Whose,
}

/// The registries that a login is for.
#[derive(Clone)]
enum Whose {
    /// Whichever is asked.
    Any,
    /// The one that the environment names.
    Host(String),
    /// The environment does not say it.
    Unsaid,
}

impl Credentials {
    /// Nowhere: nobody is logged in.
    pub fn anonymous() -> Self {
        Self { login: None, config: None }
    }

    /// This user.
    pub fn login(user: impl Into<String>, password: impl Into<String>) -> Self {
        let login = Login {
            user: user.into(),
            password: password.into(),
            source: "the given login".to_owned(),
            of: Whose::Any,
        };
        Self { login: Some(login), config: None }
    }

    /// The Docker configuration: `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
    pub fn docker() -> Self {
        Self::from_environment(|name| std::env::var(name).ok(), false)
    }

    /// The `config.json` of this folder.
    pub fn docker_in(folder: &Utf8Path) -> Self {
        Self { login: None, config: Some(folder.join("config.json")) }
    }

    /// For the workspace's own registry: `IMGFORGE_REGISTRY_USER` and `IMGFORGE_REGISTRY_PASSWORD` when both are set
    /// and `IMGFORGE_REGISTRY_HOST` names that registry, else the Docker configuration. A workspace may name any
    /// host, and gets no password that was meant for another.
    pub fn workspace() -> Self {
        Self::from_environment(|name| std::env::var(name).ok(), true)
    }

    fn from_environment(get: impl Fn(&str) -> Option<String>, is_workspace: bool) -> Self {
        let set = |name: &str| get(name).filter(|value| !value.is_empty());
        let login = set("IMGFORGE_REGISTRY_USER").zip(set("IMGFORGE_REGISTRY_PASSWORD"));
        let login = login.filter(|_| is_workspace).map(|(user, password)| Login {
            user,
            password,
            source: "IMGFORGE_REGISTRY_USER and IMGFORGE_REGISTRY_PASSWORD".to_owned(),
            of: set("IMGFORGE_REGISTRY_HOST").map_or(Whose::Unsaid, Whose::Host),
        });
        let folder = set("DOCKER_CONFIG").map(Utf8PathBuf::from);
        let folder = folder.or_else(|| set("HOME").map(|home| Utf8PathBuf::from(home).join(".docker")));
        Self { login, config: folder.map(|folder| folder.join("config.json")) }
    }

    /// What is known for a registry.
    ///
    /// # Errors
    /// In words, when the configuration or a helper cannot be read: never what is in it.
    pub(crate) async fn find(&self, host: &str) -> Result<Found, String> {
        if let Some(login) = self.login.as_ref().filter(|login| login.of.is_for(host)) {
            if matches!(login.of, Whose::Unsaid) {
                return Err(format!(
                    "{} are set, but not for which registry; if they are for this one, set IMGFORGE_REGISTRY_HOST={host}",
                    login.source
                ));
            }
            let secret = Secret::Password { user: login.user.clone(), password: login.password.clone() };
            return Ok(Found { secret: Some(secret), source: login.source.clone() });
        }
        let Some(path) = &self.config else {
            return Ok(Found { secret: None, source: "no credentials".to_owned() });
        };
        let config = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| format!("{path} is not as Docker writes it, line {}", error.line()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Config::default(),
            Err(error) => return Err(format!("{path}: {error}")),
        };
        config.find(host, path).await
    }
}

impl Credentials {
    /// The user and the password for a registry, for another program that pulls from it; `<token>` and an identity
    /// token where one is kept (as credential helpers name it). `None` when nothing is known.
    ///
    /// # Errors
    /// [`Error::Credentials`] when the configuration or a helper cannot be read.
    pub async fn user_and_password(&self, host: &str) -> Result<Option<(String, String)>, Error> {
        let found = self.find(host).await;
        let found = found.map_err(|reason| Error::Credentials { registry: host.to_owned(), reason })?;
        Ok(match found.secret {
            Some(Secret::Password { user, password }) => Some((user, password)),
            Some(Secret::Identity(token)) => Some((TOKEN_USER.to_owned(), token)),
            Some(Secret::Bearer(_)) | None => None,
        })
    }
}

impl Whose {
    /// Whether the login is for this host; one of which nobody has said it is for none, which has to be told.
    fn is_for(&self, host: &str) -> bool {
        match self {
            Self::Any | Self::Unsaid => true,
            Self::Host(named) => is_for(&named.to_ascii_lowercase(), host),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = self.login.as_ref().map(|login| &login.source);
        f.debug_struct("Credentials").field("login", &login).field("config", &self.config).finish()
    }
}

/// What was found, and where.
pub(crate) struct Found {
    pub(crate) secret: Option<Secret>,
    /// In words, for errors.
    pub(crate) source: String,
}

/// What a server is shown.
#[derive(Clone)]
pub(crate) enum Secret {
    Password {
        user: String,
        password: String,
    },
    /// A refresh token for the token server.
    Identity(String),
    /// A bearer token for the registry itself.
    Bearer(String),
}

impl Secret {
    /// The value of an `Authorization` header for Basic (RFC 7617); `None` when there is no password.
    pub(crate) fn basic(&self) -> Option<String> {
        match self {
            Self::Password { user, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            Self::Identity(_) | Self::Bearer(_) => None,
        }
    }

    pub(crate) fn user(&self) -> Option<&str> {
        match self {
            Self::Password { user, .. } => Some(user),
            Self::Identity(_) | Self::Bearer(_) => None,
        }
    }
}

/// What is used of Docker's `config.json`. As in Docker, `null` is the same as what is not there.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    #[serde(deserialize_with = "null_is_nothing")]
    auths: BTreeMap<String, Option<Entry>>,
    #[serde(deserialize_with = "null_is_nothing")]
    cred_helpers: BTreeMap<String, Option<String>>,
    #[serde(deserialize_with = "null_is_nothing")]
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    #[serde(deserialize_with = "null_is_nothing")]
    auth: String,
    #[serde(deserialize_with = "null_is_nothing")]
    username: String,
    #[serde(deserialize_with = "null_is_nothing")]
    password: String,
    #[serde(deserialize_with = "null_is_nothing")]
    identitytoken: String,
    #[serde(deserialize_with = "null_is_nothing")]
    registrytoken: String,
}

fn null_is_nothing<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Config {
    /// As Docker does: the registry's own helper, or else the store, or else what is in the file. A registry with a
    /// helper that is empty has none, and no store either (docker/cli, `getConfiguredCredentialStore`).
    async fn find(&self, host: &str, path: &Utf8Path) -> Result<Found, String> {
        let key = server(host);
        let own = self.cred_helpers.iter().find(|(name, _)| is_for(name, host));
        let own = own.map(|(_, helper)| (helper.as_deref().unwrap_or_default(), "credHelpers"));
        let helper = own.or(Some((self.creds_store.as_str(), "credsStore")));
        let helper = helper.filter(|(name, _)| !name.is_empty());
        if let Some((name, setting)) = helper {
            let source = format!("docker-credential-{name} ({setting} in {path})");
            if let Some(secret) =
                ask_helper(name, key).await.map_err(|reason| format!("{source}: {reason}"))?
            {
                return Ok(Found { secret: Some(secret), source });
            }
        }
        let entry = self
            .auths
            .get(key)
            .or_else(|| self.auths.iter().find(|(name, _)| is_for(name, host)).map(|(_, entry)| entry));
        let entry = entry.and_then(Option::as_ref);
        if let Some(secret) =
            entry.map(Entry::secret).transpose().map_err(|e| format!("{path}, {key}: {e}"))?.flatten()
        {
            return Ok(Found { secret: Some(secret), source: format!("auths in {path}") });
        }
        let source = match helper {
            Some((name, _)) => {
                format!("no credentials (neither docker-credential-{name} nor {path} has any for {key})")
            }
            None => format!("no credentials ({path} has none for {key})"),
        };
        Ok(Found { secret: None, source })
    }
}

impl Entry {
    fn secret(&self) -> Result<Option<Secret>, &'static str> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Secret::Identity(self.identitytoken.clone())));
        }
        if !self.registrytoken.is_empty() {
            return Ok(Some(Secret::Bearer(self.registrytoken.clone())));
        }
        if !self.auth.is_empty() {
            let wrong = "`auth` is not the base64 of USER:PASSWORD: run `docker login` again";
            let text = STANDARD.decode(self.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let text = text.ok_or(wrong)?;
            // Docker pads it with zero bytes at times.
            let (user, password) = text.trim_end_matches('\0').split_once(':').ok_or(wrong)?;
            return Ok(Some(Secret::Password { user: user.to_owned(), password: password.to_owned() }));
        }
        let is_set = !self.username.is_empty();
        Ok(is_set.then(|| Secret::Password { user: self.username.clone(), password: self.password.clone() }))
    }
}

/// What Docker calls a registry in its configuration.
fn server(host: &str) -> &str {
    if host == DOCKER_HUB { "https://index.docker.io/v1/" } else { host }
}

/// Whether a key of the configuration means this registry: `HOST`, or an address of it as old versions wrote them.
fn is_for(key: &str, host: &str) -> bool {
    let name = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let name = name.split('/').next().unwrap_or_default();
    name == host || (host == DOCKER_HUB && name == "index.docker.io")
}

/// What a helper says (`docker-credential-helpers`, "Development").
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    secret: String,
}

async fn ask_helper(name: &str, server: &str) -> Result<Option<Secret>, String> {
    if name.contains('/') {
        return Err("a helper's name has no slash".to_owned());
    }
    let mut child = tokio::process::Command::new(format!("docker-credential-{name}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            format!("it cannot be started ({error}): install it, or take it out of the configuration")
        })?;
    let asked = async {
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read what it is asked has its answer all the same.
            let _ = stdin.write_all(format!("{server}\n").as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(HELPER_TIME, asked)
        .await
        .map_err(|_| format!("it has not answered after {} s", HELPER_TIME.as_secs()))?
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        // Helpers say on stdout what is wrong.
        let said = clean(&String::from_utf8_lossy(&output.stdout));
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(format!("it ends with {}: {said}", output.status.code().unwrap_or(-1)));
    }
    let answer: Answer =
        serde_json::from_slice(&output.stdout).map_err(|_| "its answer is not as it should be")?;
    Ok(Some(match answer.username.as_str() {
        TOKEN_USER => Secret::Identity(answer.secret),
        _ => Secret::Password { user: answer.username, password: answer.secret },
    }))
}
