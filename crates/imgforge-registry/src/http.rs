//! One request to a registry: what its address is, who may see credentials, and what its failures mean.

use std::sync::Arc;

use imgforge_http::{Client, Clock, NoAnswer, RequestBuilder, Response, Url, is_loopback};
use imgforge_oci::reference::{DOCKER_HUB, check_host};
use imgforge_state::file;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Failure;
use crate::error::{Error, clean};
use crate::insecure;
use crate::registry::Options;

/// The longest error answer that is read, in bytes.
const MESSAGE: u64 = 1 << 16;

/// What a registry says of a failure (distribution specification, "Error Codes").
pub(crate) struct Message {
    pub(crate) code: String,
    /// Status, code and words, as they may be shown.
    pub(crate) message: String,
}

/// A response that takes one of the places for parallel requests until it is dropped.
pub(crate) struct Answer {
    pub(crate) response: Response,
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// The connection pool of one registry.
pub(crate) struct Http {
    client: Client,
    base: Url,
    is_plain: bool,
    /// Whether a login would be sent for everybody to read, and the user does not say that this is meant.
    pub(crate) keeps_logins: bool,
    permits: Arc<Semaphore>,
}

impl Http {
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Options { host: clean(&options.host), reason };
        check_host(&options.host).map_err(wrong)?;
        // Docker Hub has another name for its registry than in references.
        let api = if options.host == DOCKER_HUB { "registry-1.docker.io" } else { &options.host };
        let is_loopback = is_loopback(api);
        let is_plain = options.plain_http.unwrap_or(is_loopback);
        let is_allowed = || options.plain_logins.unwrap_or_else(|| insecure::says_so(&options.host));
        let keeps_logins = is_plain && !is_loopback && !is_allowed();
        let scheme = if is_plain { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{api}/v2/")).map_err(|error| wrong(error.to_string()))?;
        let ca = options.ca_file.as_ref();
        let of_ca =
            |reason: String| wrong(ca.map_or(reason.clone(), |path| format!("the CA file {path}: {reason}")));
        let pem = ca.map(|path| file::read(path, file::MAX_KEYS)).transpose();
        let pem = pem.map_err(|error| of_ca(error.to_string()))?;
        let client = imgforge_http::Options { ca: pem, retry: options.retry.clone() };
        let client = Client::new(client).map_err(of_ca)?;
        let permits = Arc::new(Semaphore::new(options.parallel.max(1)));
        Ok(Self { client, base, is_plain, keeps_logins, permits })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// `BASE/v2/PATH`.
    pub(crate) fn url(&self, path: &str) -> Url {
        self.base.join(path).expect("checked names and digests make a path")
    }

    /// Whether an address is of this registry, and may be shown its credentials.
    pub(crate) fn is_ours(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// Whether credentials may go to this address without encryption.
    pub(crate) fn may_be_plain(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        is_loopback(host) || (self.is_plain && self.base.host_str() == Some(host))
    }

    pub(crate) async fn permit(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.permits).acquire_owned().await.expect("it is never closed")
    }

    /// Sends one request. `clock` tells of a body that takes its time. Statuses that may pass are failures; all others
    /// are answers.
    pub(crate) async fn send(
        &self,
        request: RequestBuilder,
        clock: Option<&Clock>,
    ) -> Result<Response, Failure> {
        let unreachable = |reason: String| {
            Failure::Final(Error::Unreachable {
                registry: self.base.authority().to_owned(),
                what: "any request".to_owned(),
                reason,
            })
        };
        match self.client.send(request, clock).await {
            Ok(response) => Ok(response),
            Err(NoAnswer::Busy(response, retry_after)) => {
                let message = self.message(*response).await.message;
                Err(Failure::Passing { reason: format!("it answers {message}"), retry_after })
            }
            Err(NoAnswer::Cut(reason)) => Err(Failure::passing(clean(&reason))),
            Err(NoAnswer::Untrusted(reason)) => {
                let reason = clean(&reason);
                Err(unreachable(format!("{reason}: give the CA that signs its certificate")))
            }
            Err(NoAnswer::Plain) => {
                Err(unreachable("it does not speak TLS: plain HTTP has to be allowed for it".to_owned()))
            }
            Err(NoAnswer::Refused(reason)) => Err(unreachable(clean(&reason))),
        }
    }

    /// The whole of a small body.
    pub(crate) async fn read(&self, response: Response, limit: u64, what: &str) -> Result<Vec<u8>, Failure> {
        let bytes = self.client.body(response).start(limit + 1).await;
        let bytes = bytes.map_err(|reason| Failure::passing(clean(&reason)))?;
        if bytes.len() as u64 > limit {
            return Err(Failure::Final(Error::Answer {
                registry: self.base.host_str().unwrap_or_default().to_owned(),
                what: what.to_owned(),
                reason: format!("it is larger than {}, the most that is read of it", size(limit)),
            }));
        }
        Ok(bytes)
    }

    /// What an answer that is no success says, as far as it can be read.
    pub(crate) async fn message(&self, response: Response) -> Message {
        let status = response.status();
        let bytes = self.client.body(response).start(MESSAGE).await.unwrap_or_default();
        let said = serde_json::from_slice::<Errors>(&bytes).unwrap_or_default().errors.into_iter().next();
        let said = said.unwrap_or_default();
        let (code, text) = (clean(&said.code), clean(&said.message));
        let mut message = status.to_string();
        for part in [&code, &text].into_iter().filter(|part| !part.is_empty()) {
            message.push_str(": ");
            message.push_str(part);
        }
        Message { code, message }
    }
}

/// A limit in words.
fn size(bytes: u64) -> String {
    if bytes >= 1 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{bytes} bytes") }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Errors {
    errors: Vec<Said>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    code: String,
    message: String,
}
