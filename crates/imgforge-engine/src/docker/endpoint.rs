//! Where the Docker daemon is: as the `docker` command finds it.
//!
//! `DOCKER_HOST`; else the context named by `DOCKER_CONTEXT` or by `currentContext` in the configuration folder
//! (`DOCKER_CONFIG`, else `~/.docker`); else the usual socket.

use std::fmt;
use std::fs;

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;

use crate::Error;

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// A place where a daemon may listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// A unix socket.
    Unix(Utf8PathBuf),
    /// `HOST:PORT`, without encryption.
    Tcp(String),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{path}"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl Endpoint {
    /// Returns whether this is the address at which a daemon listens when nobody says otherwise.
    pub(super) fn is_default(&self) -> bool {
        matches!(self, Self::Unix(path) if path == DEFAULT_SOCKET)
    }

    /// Finds the endpoint; `env` reads an environment variable.
    pub(super) fn find(env: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        if let Some(host) = env("DOCKER_HOST") {
            let tls = env("DOCKER_TLS_VERIFY").is_some();
            return Self::parse(&host, "DOCKER_HOST", tls);
        }
        let home = || env("HOME").map(|home| Utf8PathBuf::from(home).join(".docker"));
        let config = env("DOCKER_CONFIG").map(Utf8PathBuf::from).or_else(home);
        let current =
            || Some(read_json(&config.as_ref()?.join("config.json"))?["currentContext"].as_str()?.to_owned());
        match env("DOCKER_CONTEXT").or_else(current).filter(|name| !name.is_empty() && name != "default") {
            None => Ok(Self::Unix(DEFAULT_SOCKET.into())),
            Some(name) => Self::of_context(&config.unwrap_or_default(), &name),
        }
    }

    /// Reads an address that `from` has given.
    pub(super) fn parse(host: &str, from: &str, tls: bool) -> Result<Self, Error> {
        match host.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("tcp" | "http", address)) if !tls && !address.is_empty() => {
                Ok(Self::Tcp(address.trim_end_matches('/').to_owned()))
            }
            _ => Err(Error::Configuration {
                message: format!(
                    "{from} is \"{host}\"{}, which is not supported: use unix:///PATH or tcp://HOST:PORT without TLS \
                     (`ssh -L` forwards a remote daemon's socket to a local one)",
                    if tls { " with TLS" } else { "" }
                ),
            }),
        }
    }

    /// The Docker command keeps a context in `contexts/meta/SHA-256 OF ITS NAME/meta.json`, which says the name too.
    fn of_context(config: &Utf8Path, name: &str) -> Result<Self, Error> {
        let folders = config.join("contexts/meta").read_dir_utf8().into_iter().flatten().flatten();
        let meta = folders
            .filter_map(|folder| read_json(&folder.path().join("meta.json")))
            .find(|meta| meta["Name"] == *name)
            .ok_or_else(|| Error::Configuration {
                message: format!(
                    "there is no Docker context \"{name}\" in {config}; `docker context ls` lists them"
                ),
            })?;
        let docker = &meta["Endpoints"]["docker"];
        let host = docker["Host"].as_str().unwrap_or_default();
        Self::parse(host, &format!("the host of the Docker context \"{name}\""), false)
    }
}

fn read_json(path: &Utf8Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(vars: &[(&str, &str)]) -> Result<String, String> {
        let env =
            |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Endpoint::find(env).map(|endpoint| endpoint.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn docker_host_is_taken_first() {
        let found = find(&[("DOCKER_HOST", "tcp://10.0.0.1:2375"), ("DOCKER_CONTEXT", "none")]);
        assert_eq!(found.unwrap(), "tcp://10.0.0.1:2375");
        assert_eq!(find(&[("DOCKER_HOST", "unix:///run/x.sock")]).unwrap(), "unix:///run/x.sock");
        assert_eq!(find(&[]).unwrap(), "unix:///var/run/docker.sock");
    }

    #[test]
    fn a_host_that_cannot_be_used_is_named() {
        for host in ["ssh://me@there", "npipe:////./pipe/docker", "nonsense"] {
            let message = find(&[("DOCKER_HOST", host)]).unwrap_err();
            assert!(message.contains(host) && message.contains("DOCKER_HOST"), "{message}");
        }
        let tls = find(&[("DOCKER_HOST", "tcp://x:2376"), ("DOCKER_TLS_VERIFY", "1")]).unwrap_err();
        assert!(tls.contains("TLS"), "{tls}");
    }

    #[test]
    fn the_current_context_is_read_from_the_docker_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let meta = dir.path().join("contexts/meta/abc");
        fs::create_dir_all(&meta).unwrap();
        fs::write(dir.path().join("config.json"), r#"{"currentContext":"mine"}"#).unwrap();
        let json = r#"{"Name":"mine","Endpoints":{"docker":{"Host":"unix:///run/mine.sock"}}}"#;
        fs::write(meta.join("meta.json"), json).unwrap();
        let config = ("DOCKER_CONFIG", dir.path().to_str().unwrap());
        assert_eq!(find(&[config]).unwrap(), "unix:///run/mine.sock");
        assert_eq!(find(&[config, ("DOCKER_CONTEXT", "default")]).unwrap(), "unix:///var/run/docker.sock");
        assert!(find(&[config, ("DOCKER_CONTEXT", "other")]).unwrap_err().contains("\"other\""));
    }
}
