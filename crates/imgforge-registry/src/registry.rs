//! One registry: how to reach it, and one request to it with a login and as many tries as it takes.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Weak};

use camino::Utf8PathBuf;
use imgforge_http::header::{AUTHORIZATION, HeaderMap};
use imgforge_http::{Client, Clock, RequestBuilder, Response, Retry, StatusCode, Traffic, Tries, Url};
use imgforge_oci::{Digest, reference};

use crate::Failure;
use crate::auth::{Auth, Scope};
use crate::credentials::Credentials;
use crate::error::Error;
use crate::http::{Answer, Http};

/// How to reach a registry.
#[derive(Debug, Clone)]
pub struct Options {
    /// `docker.io`, `registry.example.com`, `127.0.0.1:5000`.
    pub host: String,
    /// Whether it is spoken to without encryption; `None`: only on this machine's loopback.
    pub plain_http: Option<bool>,
    /// Whether a stored login may go over plain HTTP beyond loopback; `None`: where the user's own environment calls
    /// the registry insecure (`IMGFORGE_INSECURE_REGISTRIES`, Docker's `daemon.json`).
    pub plain_logins: Option<bool>,
    /// Certificates, in PEM, that are trusted besides the system's.
    pub ca_file: Option<Utf8PathBuf>,
    /// Who we are to it.
    pub credentials: Credentials,
    /// How patient to be.
    pub retry: Retry,
    /// The most requests at once.
    pub parallel: usize,
    /// Bytes in one request of a longer upload: what is sent again after a cut behind a proxy that waits for whole
    /// requests.
    pub chunk: u64,
}

impl Options {
    /// With all else as it is usual.
    pub fn new(host: impl Into<String>, credentials: Credentials) -> Self {
        Self {
            host: host.into(),
            plain_http: None,
            plain_logins: None,
            ca_file: None,
            credentials,
            retry: Retry::default(),
            parallel: 8,
            chunk: 16 << 20,
        }
    }
}

/// One registry host. Clones share its connections, logins and limits.
///
/// Every operation can be dropped at any time: what it has begun is then as if its connection had been cut, and the
/// next one that does the same ends well.
#[derive(Clone)]
pub struct Registry(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    host: String,
    pub(crate) http: Http,
    auth: Auth,
    pub(crate) chunk: u64,
    /// Set when it has refused the first chunk of an upload.
    pub(crate) takes_no_chunks: AtomicBool,
    /// One lock for each blob that is being sent to a repository.
    uploads: Uploads,
}

type Uploads = Mutex<HashMap<(String, Digest), Weak<tokio::sync::Mutex<()>>>>;

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.0.host).finish()
    }
}

impl Registry {
    /// Prepares to speak to a registry; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Options`].
    pub fn new(options: Options) -> Result<Self, Error> {
        let http = Http::new(&options)?;
        let auth = Auth::new(&options.host, options.credentials);
        let (host, chunk) = (options.host, options.chunk.max(1));
        Ok(Self(Arc::new(Inner {
            host,
            http,
            auth,
            chunk,
            takes_no_chunks: AtomicBool::new(false),
            uploads: Mutex::default(),
        })))
    }

    /// As it is written in references.
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// What has gone over the network so far.
    pub fn sent(&self) -> Traffic {
        self.0.http.client().traffic()
    }

    // What the other modules send with.

    pub(crate) fn tries<'a>(&'a self, what: &'a str) -> Tries<'a, impl Fn(String) -> Error> {
        self.0.http.client().tries(|reason| Error::Unreachable {
            registry: self.0.host.clone(),
            what: what.to_owned(),
            reason,
        })
    }

    /// One try of one request, with a login when the registry wants one. Answers 401 and 403 are errors.
    pub(crate) async fn call(
        &self,
        what: &str,
        scope: &Scope,
        request: impl Fn(&Client) -> RequestBuilder,
        clock: Option<&Clock>,
    ) -> Result<Answer, Failure> {
        let Inner { http, auth, .. } = &*self.0;
        // The login after the wait: a token may have ended meanwhile.
        let permit = http.permit().await;
        let mut header = auth.header(http, scope).await?;
        let mut is_first = true;
        loop {
            let mut request = request(http.client());
            if let Some(header) = &header {
                request = request.header(AUTHORIZATION, header.clone());
            }
            let response = http.send(request, clock).await?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && is_first {
                is_first = false;
                let fresh = auth.refresh(http, scope, header.as_ref(), response.headers()).await?;
                if fresh.is_some() {
                    header = fresh;
                    continue;
                }
            }
            if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                return Err(self.unauthorised(what, response).await);
            }
            return Ok(Answer { response, _permit: permit });
        }
    }

    /// Status and headers of an answer whose body does not matter.
    pub(crate) async fn ask(
        &self,
        what: &str,
        scope: &Scope,
        request: impl Fn(&Client) -> RequestBuilder,
    ) -> Result<(StatusCode, HeaderMap), Error> {
        let mut tries = self.tries(what);
        loop {
            match self.call(what, scope, &request, None).await {
                Ok(answer) => return Ok((answer.response.status(), answer.response.headers().clone())),
                Err(failure) => tries.again(failure).await?,
            }
        }
    }

    pub(crate) fn blob_url(&self, repository: &str, digest: &Digest) -> Url {
        self.0.http.url(&format!("{repository}/blobs/{digest}"))
    }

    pub(crate) fn answer(&self, what: &str, reason: impl Into<String>) -> Error {
        Error::Answer { registry: self.0.host.clone(), what: what.to_owned(), reason: reason.into() }
    }

    pub(crate) fn absent(&self, repository: &str, digest: &Digest) -> Error {
        Error::Incomplete {
            registry: self.0.host.clone(),
            repository: repository.to_owned(),
            digest: digest.clone(),
            missing: vec!["it is absent".to_owned()],
        }
    }

    /// An answer that is not what was expected.
    pub(crate) async fn refused(&self, what: &str, answer: Answer) -> Failure {
        let status = answer.response.status().as_u16();
        let message = self.0.http.message(answer.response).await;
        Failure::Final(Error::Refused {
            registry: self.0.host.clone(),
            what: what.to_owned(),
            status,
            code: message.code,
            message: message.message,
        })
    }

    /// The same of an answer that has no body.
    pub(crate) fn refused_head(&self, what: &str, status: StatusCode) -> Error {
        Error::Refused {
            registry: self.0.host.clone(),
            what: what.to_owned(),
            status: status.as_u16(),
            code: String::new(),
            message: status.to_string(),
        }
    }

    async fn unauthorised(&self, what: &str, response: Response) -> Failure {
        let message = self.0.http.message(response).await.message;
        Failure::Final(Error::Authentication {
            registry: self.0.host.clone(),
            what: what.to_owned(),
            tried: self.0.auth.tried(),
            message,
        })
    }

    /// The lock of a blob on its way to a repository: whoever comes second waits, and then finds the blob there.
    pub(crate) fn upload_lock(&self, repository: &str, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut uploads = self.0.uploads.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        uploads.retain(|_, lock| lock.strong_count() > 0);
        let key = (repository.to_owned(), digest.clone());
        if let Some(lock) = uploads.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        uploads.insert(key, Arc::downgrade(&lock));
        lock
    }
}

/// What something is called in errors: `what REPOSITORY:TAG`, `what REPOSITORY@DIGEST`.
pub(crate) fn named(what: &str, repository: &str, reference: &impl fmt::Display) -> String {
    let reference = reference.to_string();
    let separator = if reference.contains(':') { '@' } else { ':' };
    format!("{what} {repository}{separator}{reference}")
}

/// Repositories are checked before they become part of an address.
pub(crate) fn check(repository: &str) -> Result<(), Error> {
    Ok(reference::check_repository(repository)?)
}
