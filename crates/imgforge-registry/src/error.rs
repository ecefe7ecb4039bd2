//! What can go wrong between us and a registry.

use camino::Utf8PathBuf;

/// Why a registry did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing answers, however often it was tried.
    #[error("the registry {host} cannot be reached: {cause}")]
    Unreachable {
        /// The registry.
        host: String,
        /// What the system says.
        cause: String,
    },
    /// It wants to know who asks, or does not let those in.
    #[error("the registry {host} refuses {what} (status {status}); {tried}")]
    Denied {
        /// The registry.
        host: String,
        /// What was asked: `push to acme/web`.
        what: String,
        /// 401 or 403.
        status: u16,
        /// Which credentials were tried, or where they were looked for.
        tried: String,
    },
    /// It says no.
    #[error("the registry {host} refuses {what}: {message} (status {status})")]
    Refused {
        /// The registry.
        host: String,
        /// What was asked.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What it says, without control characters.
        message: String,
    },
    /// It failed each time.
    #[error("the registry {host} failed {attempts} times to {what}: {last}")]
    GaveUp {
        /// The registry.
        host: String,
        /// What was asked.
        what: String,
        /// How often.
        attempts: u32,
        /// What happened the last time.
        last: String,
    },
    /// What came is not what its digest says.
    #[error("{what} from the registry {host} is not what its digest says: {found} instead of {expected}")]
    Digest {
        /// The registry.
        host: String,
        /// What was got.
        what: String,
        /// The digest that was asked for.
        expected: String,
        /// The digest of what came.
        found: String,
    },
    /// What must be there is not.
    #[error("the registry {host} lacks {what}")]
    Missing {
        /// The registry.
        host: String,
        /// A manifest or a blob, with its repository.
        what: String,
    },
    /// An answer cannot be understood.
    #[error("the registry {host} answers what is not understood: {message}")]
    Answer {
        /// The registry.
        host: String,
        /// What is wrong.
        message: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: Utf8PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// Something here is set up wrongly: Docker's configuration, a credential helper, a CA file.
    #[error("{message}")]
    Configuration {
        /// What is wrong, and where.
        message: String,
    },
}

impl Error {
    /// What to do about it, where there is something to say.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Unreachable { .. } => {
                Some("is the name right, and does the registry speak HTTPS? (plain HTTP is used on loopback only, or with `plain-http=#true`)".into())
            }
            Self::Denied { host, .. } => Some(format!(
                "log in with `docker login {host}`, or set {} and {}",
                crate::auth::USER_VARIABLE,
                crate::auth::PASSWORD_VARIABLE
            )),
            _ => None,
        }
    }
}

/// A text of a registry, fit to be shown: one line, without control characters, and not endless.
pub(crate) fn clean(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect();
    line.trim().to_owned()
}
