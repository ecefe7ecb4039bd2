//! What the commands of a build may read, and nothing that is kept may hold: secrets, and the way to ssh agents.
//!
//! Only the ids are in a Dockerfile (`RUN --mount=type=secret,id=ID`), and so in fingerprints. What they stand for goes
//! from here to the engine, and from there to the command that asks for it.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

/// The number of bytes that a secret may have: BuildKit's limit.
pub const MAX_SECRET: usize = 500 << 10;

/// The number of bytes that a message to or from an agent may have: OpenSSH's limit.
const MAX_MESSAGE: u32 = 256 << 10;

/// Types of messages (draft-miller-ssh-agent, "Protocol message numbers").
const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;

/// Secrets and agents by their ids. What is printed of it are the ids.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    contents: BTreeMap<String, Arc<[u8]>>,
    agents: BTreeMap<String, Utf8PathBuf>,
}

/// Why something cannot be given to a build.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// There must be a name for it.
    #[error("it has no id")]
    NoId,
    /// One id, two meanings.
    #[error("\"{id}\" is given twice")]
    Twice {
        /// The id.
        id: String,
    },
    /// BuildKit takes no more.
    #[error("\"{id}\" has {len} bytes: a secret has at most {MAX_SECRET}")]
    TooLong {
        /// The id.
        id: String,
        /// The number of bytes that there are.
        len: usize,
    },
    /// No agent can listen there.
    #[error("{path} is no socket of an ssh agent{why}")]
    NoSocket {
        /// The path that was named.
        path: Utf8PathBuf,
        /// The kind of file that it is, or what the system says.
        why: String,
    },
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets")
            .field("contents", &self.contents.keys())
            .field("agents", &self.agents)
            .finish()
    }
}

impl Secrets {
    /// Adds a secret.
    ///
    /// # Errors
    /// An id that is empty or there already; more than [`MAX_SECRET`] bytes.
    pub fn add(&mut self, id: &str, content: &[u8]) -> Result<(), SecretError> {
        check_id(id, &self.contents)?;
        if content.len() > MAX_SECRET {
            return Err(SecretError::TooLong { id: id.to_owned(), len: content.len() });
        }
        self.contents.insert(id.to_owned(), content.into());
        Ok(())
    }

    /// Adds the agent that listens on a socket.
    ///
    /// # Errors
    /// An id that is empty or there already; a path that is no socket.
    pub fn add_agent(&mut self, id: &str, socket: &Utf8Path) -> Result<(), SecretError> {
        check_id(id, &self.agents)?;
        let no_socket = |why: String| Err(SecretError::NoSocket { path: socket.to_owned(), why });
        match std::fs::metadata(socket) {
            Err(error) => no_socket(format!(": {error}")),
            Ok(found) if !found.file_type().is_socket() => {
                no_socket(": give a key to an agent with ssh-add".into())
            }
            Ok(_) => {
                self.agents.insert(id.to_owned(), socket.to_owned());
                Ok(())
            }
        }
    }

    /// The content of a secret.
    pub fn content(&self, id: &str) -> Option<&[u8]> {
        self.contents.get(id).map(AsRef::as_ref)
    }

    /// The socket of an agent.
    pub fn agent(&self, id: &str) -> Option<&Utf8Path> {
        self.agents.get(id).map(AsRef::as_ref)
    }
}

/// Returns the message about a step that needs a secret which is not given.
pub fn missing_secret(id: &str) -> String {
    format!("it needs the secret \"{id}\": give it with --secret id={id},src=FILE")
}

/// Returns the message about a step that needs an agent which is not given.
pub fn missing_agent(id: &str) -> String {
    format!("it needs the ssh agent \"{id}\": give it with --ssh {id}")
}

fn check_id<T>(id: &str, known: &BTreeMap<String, T>) -> Result<(), SecretError> {
    match id {
        "" => Err(SecretError::NoId),
        id if known.contains_key(id) => Err(SecretError::Twice { id: id.to_owned() }),
        _ => Ok(()),
    }
}

/// Passes the requests of a client on to an agent, until the client ends. As with BuildKit, that is the keys' names and
/// signatures and nothing more: what a build runs adds no key, removes none and locks nothing.
///
/// # Errors
/// An agent that cannot be reached, a message that is none.
pub async fn forward(client: impl AsyncRead + AsyncWrite, agent: &Utf8Path) -> std::io::Result<()> {
    let mut client = std::pin::pin!(client);
    let mut agent = UnixStream::connect(agent).await?;
    loop {
        let request = match message(&mut client).await {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            request => request?,
        };
        let answer = if matches!(request.first(), Some(&REQUEST_IDENTITIES | &SIGN_REQUEST)) {
            send(&mut agent, &request).await?;
            message(&mut agent).await?
        } else {
            vec![FAILURE]
        };
        send(&mut client, &answer).await?;
    }
}

/// A message, without its length.
async fn message(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let len = from.read_u32().await?;
    if len > MAX_MESSAGE {
        return Err(std::io::Error::other(format!("a message of {len} bytes is none of an ssh agent")));
    }
    let mut message = vec![0; len as usize];
    from.read_exact(&mut message).await?;
    Ok(message)
}

async fn send(to: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> std::io::Result<()> {
    let len = u32::try_from(message.len()).map_err(std::io::Error::other)?;
    to.write_all(&[&len.to_be_bytes(), message].concat()).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_not_printed() {
        let mut secrets = Secrets::default();
        secrets.add("token", b"hunter2").unwrap();
        let text = format!("{secrets:?}");
        assert!(text.contains("token") && !text.contains("hunter2"), "{text}");
        assert!(!text.contains(&format!("{:?}", b"hunter2")), "{text}");
        assert_eq!(secrets.content("token"), Some(&b"hunter2"[..]));
        assert_eq!(secrets.content("other"), None);
    }

    #[test]
    fn what_cannot_be_given_is_told() {
        let mut secrets = Secrets::default();
        secrets.add("a", &vec![0; MAX_SECRET]).unwrap();
        let too_long = secrets.add("b", &vec![0; MAX_SECRET + 1]).unwrap_err();
        assert_eq!(too_long.to_string(), "\"b\" has 512001 bytes: a secret has at most 512000");
        assert_eq!(secrets.add("a", b"x").unwrap_err().to_string(), "\"a\" is given twice");
        assert_eq!(secrets.add("", b"x").unwrap_err().to_string(), "it has no id");
        let file = tempfile::NamedTempFile::new().unwrap();
        let file = Utf8Path::from_path(file.path()).unwrap();
        let no_socket = secrets.add_agent("default", file).unwrap_err().to_string();
        assert!(
            no_socket.ends_with("is no socket of an ssh agent: give a key to an agent with ssh-add"),
            "{no_socket}"
        );
        let absent =
            secrets.add_agent("default", Utf8Path::new("/nonexistent/agent")).unwrap_err().to_string();
        assert!(absent.contains("No such file"), "{absent}");
    }

    #[tokio::test]
    async fn an_agent_is_asked_for_names_and_signatures_alone() {
        let folder = tempfile::tempdir().unwrap();
        let socket = Utf8Path::from_path(folder.path()).unwrap().join("agent");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        // It says which requests have come to it.
        let agent = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while let Ok(request) = message(&mut stream).await {
                seen.push(request[0]);
                send(&mut stream, &[request[0] + 1]).await.unwrap();
            }
            seen
        });
        let (mut client, ours) = tokio::io::duplex(64);
        let forwarded = tokio::spawn(async move { forward(ours, &socket).await });
        // 17 adds a key, 19 removes all, 22 locks, 27 is an extension.
        for (asked, answer) in
            [(11, 12), (17, FAILURE), (19, FAILURE), (13, 14), (22, FAILURE), (27, FAILURE)]
        {
            send(&mut client, &[asked, 1, 2]).await.unwrap();
            assert_eq!(message(&mut client).await.unwrap(), [answer], "{asked}");
        }
        drop(client);
        forwarded.await.unwrap().unwrap();
        assert_eq!(agent.await.unwrap(), [11, 13]);
    }
}
