//! `--secret` and `--ssh`, in the words of `docker buildx build`.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;

use camino::{Utf8Path, Utf8PathBuf};
use clap::Args;
use imgforge::Error;
use imgforge::engine::secrets::{MAX_SECRET, Secrets};

use crate::failure::Failure;

/// What commands of a build may read and images do not hold.
#[derive(Args)]
pub(crate) struct SecretArgs {
    /// A secret for `RUN --mount=type=secret`: id=ID with src=FILE or env=VARIABLE, or else the variable ID if it is
    /// set, or the file ID. Another content rebuilds nothing by itself
    #[arg(long = "secret", value_name = "id=ID[,src=FILE|,env=VAR]", value_parser = source)]
    secrets: Vec<(String, Source)>,
    /// An ssh agent for `RUN --mount=type=ssh`: `default` or another id; without a socket that of $SSH_AUTH_SOCK
    #[arg(long = "ssh", value_name = "ID[=SOCKET]")]
    agents: Vec<String>,
}

/// Where a secret is.
#[derive(Clone)]
enum Source {
    File(Utf8PathBuf),
    Variable(String),
}

impl SecretArgs {
    /// Reads them all.
    pub(crate) fn read(&self) -> Result<Secrets, Failure> {
        let mut secrets = Secrets::default();
        for (id, source) in &self.secrets {
            let wrong = |message| Error::Secret { option: format!("--secret id={id}"), message };
            let content = source.read().map_err(wrong)?;
            secrets.add(id, &content).map_err(|error| wrong(error.to_string()))?;
        }
        for agent in &self.agents {
            let wrong = |message| Error::Secret { option: format!("--ssh {agent}"), message };
            let (id, socket) = match agent.split_once('=') {
                Some((id, socket)) => (id, socket.into()),
                None => {
                    let socket = std::env::var("SSH_AUTH_SOCK").ok().filter(|socket| !socket.is_empty());
                    let why = "SSH_AUTH_SOCK is not set: no agent runs here";
                    (agent.as_str(), Utf8PathBuf::from(socket.ok_or_else(|| wrong(why.into()))?))
                }
            };
            secrets.add_agent(id, &socket).map_err(|error| wrong(error.to_string()))?;
        }
        Ok(secrets)
    }
}

impl Source {
    fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Variable(name) => match std::env::var_os(name) {
                Some(value) => Ok(value.into_vec()),
                None => Err(format!("the variable {name} is not set")),
            },
            Self::File(path) => read(path).map_err(|error| format!("{path}: {error}")),
        }
    }
}

/// Reads a file, but not much more than a secret may have.
fn read(path: &Utf8Path) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(MAX_SECRET as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}

/// Reads the fields of `--secret`. `type` says what `src` is, as in buildx.
fn source(text: &str) -> Result<(String, Source), String> {
    let fields = imgforge_syntax::csv::fields(text).ok_or("its quotes do not hold whole fields")?;
    let (mut id, mut kind, mut file, mut variable) = (None, None, None, None);
    for field in &fields {
        let (key, value) = field.split_once('=').ok_or_else(|| format!("{field} is not KEY=VALUE"))?;
        let known = match key.to_lowercase().as_str() {
            "id" => &mut id,
            "type" => &mut kind,
            "src" | "source" => &mut file,
            "env" => &mut variable,
            _ => return Err(format!("there is no field {key}: they are id, src, env and type")),
        };
        if value.is_empty() || known.replace(value.to_owned()).is_some() {
            return Err(format!("{key} needs one value"));
        }
    }
    let id = id.ok_or("a secret needs an id: id=ID,src=FILE or id=ID,env=VARIABLE")?;
    let source = match (kind.as_deref(), file, variable) {
        (_, Some(_), Some(_)) => return Err("src and env are two sources: one of them is enough".into()),
        (None | Some("env"), None, Some(name)) | (Some("env"), Some(name), None) => Source::Variable(name),
        (None | Some("file"), Some(path), None) => Source::File(path.into()),
        (Some("env"), None, None) => Source::Variable(id.clone()),
        (None, None, None) if std::env::var_os(&id).is_some() => Source::Variable(id.clone()),
        (None | Some("file"), None, None) => Source::File(id.clone().into()),
        (Some("file"), None, Some(_)) => return Err("a secret of type=file has no env".into()),
        (Some(kind), ..) => return Err(format!("there is no type {kind}: file or env")),
    };
    Ok((id, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_mean_what_they_mean_to_buildx() {
        let of = |text: &str| {
            source(text).map(|(id, source)| match source {
                Source::File(path) => format!("{id}: file {path}"),
                Source::Variable(name) => format!("{id}: variable {name}"),
            })
        };
        for (text, expected) in [
            ("id=a,src=f", "a: file f"),
            ("source=f,ID=a", "a: file f"),
            ("id=a,env=V", "a: variable V"),
            ("type=env,id=a,src=V", "a: variable V"),
            ("type=env,id=PATH", "PATH: variable PATH"),
            ("type=file,id=PATH", "PATH: file PATH"),
            ("id=PATH", "PATH: variable PATH"),
            ("id=no.such.variable", "no.such.variable: file no.such.variable"),
            ("id=a,\"src=with, comma\"", "a: file with, comma"),
        ] {
            assert_eq!(of(text).as_deref(), Ok(expected), "{text}");
        }
        for (text, expected) in [
            ("", "is not KEY=VALUE"),
            ("src=f", "needs an id"),
            ("id=,src=f", "id needs one value"),
            ("id=a,id=b", "id needs one value"),
            ("id=a,src=f,env=V", "one of them is enough"),
            ("id=a,type=magic", "there is no type magic"),
            ("id=a,type=file,env=V", "type=file has no env"),
            ("id=a,mode=0400", "there is no field mode"),
            ("id=a,\"src=f", "quotes"),
        ] {
            let message = of(text).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
