//! One request: sent, watched for stalls, counted, and its failures sorted into passing and final ones.

use std::error::Error as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use imgforge_core::file;
use imgforge_core::pace::Pace;
use imgforge_oci::reference::{DOCKER_HUB, check_host};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::error::{Error, clean};
use crate::insecure;
use crate::registry::Options;
use crate::retry::{Failure, Retry, retry_after};

/// How often one request may be sent on.
const REDIRECTS: usize = 10;
/// The longest error answer that is read, in bytes.
const MESSAGE: u64 = 1 << 16;

/// What has gone over the network so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests, with those to the token server and those that were tried again.
    pub requests: u64,
    /// Bytes of bodies that were sent.
    pub bytes_up: u64,
    /// Bytes of bodies that came.
    pub bytes_down: u64,
    /// Requests that failed in a way that may pass.
    pub failures: u64,
}

#[derive(Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    failures: AtomicU64,
}

impl Counters {
    pub(crate) fn sent(&self, bytes: u64) {
        self.up.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn traffic(&self) -> Traffic {
        Traffic {
            requests: self.requests.load(Ordering::Relaxed),
            bytes_up: self.up.load(Ordering::Relaxed),
            bytes_down: self.down.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }
}

/// When a body that is being sent last moved.
pub(crate) struct Clock {
    start: Instant,
    moved: AtomicU64,
}

impl Clock {
    pub(crate) fn start() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), moved: AtomicU64::new(0) })
    }

    pub(crate) fn moved(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(millis, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }
}

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
    retry: Retry,
    permits: Arc<Semaphore>,
    pub(crate) counters: Counters,
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
        // Without this reqwest panics. Where the program has chosen another provider already, that one is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder()
            .user_agent(concat!("imgforge/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.retry.connect)
            // Repositories, tags and what signed addresses have in them are nobody else's business.
            .referer(false)
            .redirect(redirects());
        if is_loopback {
            client = client.no_proxy();
        }
        if let Some(path) = &options.ca_file {
            let pem = file::read(path, file::MAX_KEYS)
                .map_err(|error| wrong(format!("the CA file {path}: {error}")))?;
            let found = Certificate::from_pem_bundle(&pem).map_err(|error| error.to_string());
            let found = found.and_then(|found| {
                if found.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(found) }
            });
            client =
                client.tls_certs_merge(found.map_err(|error| wrong(format!("the CA file {path}: {error}")))?);
        }
        let client = client.build().map_err(|error| wrong(deepest(&error)))?;
        let permits = Arc::new(Semaphore::new(options.parallel.max(1)));
        let retry = options.retry.clone();
        Ok(Self { client, base, is_plain, keeps_logins, retry, permits, counters: Counters::default() })
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
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        let start = Instant::now();
        let sent = request.send();
        tokio::pin!(sent);
        let result = loop {
            let last = clock.map_or(start, |clock| clock.last().max(start));
            let until = last + self.retry.idle;
            tokio::select! {
                result = &mut sent => break result.map_err(|error| self.failed(&error)),
                () = tokio::time::sleep_until(until) => {
                    let has_moved = clock.is_some_and(|clock| clock.last() > last);
                    if !has_moved {
                        break Err(Failure::passing(format!("nothing came or went for {} s", self.retry.idle.as_secs_f32())));
                    }
                }
            }
        };
        let result = match result {
            Ok(response) if may_pass(response.status()) => {
                let retry_after = retry_after(response.headers(), SystemTime::now());
                let message = self.message(response).await.message;
                Err(Failure::Passing { reason: format!("it answers {message}"), retry_after })
            }
            result => result,
        };
        if matches!(result, Err(Failure::Passing { .. })) {
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// The next bytes of a body; `None` at its end. One that comes too slowly fails as one that does not come.
    pub(crate) async fn chunk(
        &self,
        response: &mut Response,
        pace: &mut Pace,
    ) -> Result<Option<Bytes>, Failure> {
        let asked = Instant::now();
        let result = match tokio::time::timeout(self.retry.idle, response.chunk()).await {
            Ok(result) => result.map_err(|error| Failure::passing(deepest(&error))),
            Err(_) => Err(Failure::passing(format!("nothing came for {} s", self.retry.idle.as_secs_f32()))),
        };
        let result = match result {
            Ok(Some(bytes)) => match pace.took(asked.elapsed(), bytes.len() as u64, self.retry.idle) {
                Ok(()) => Ok(Some(bytes)),
                Err(reason) => Err(Failure::passing(reason)),
            },
            other => other,
        };
        match &result {
            Ok(Some(bytes)) => drop(self.counters.down.fetch_add(bytes.len() as u64, Ordering::Relaxed)),
            Ok(None) => {}
            Err(_) => drop(self.counters.failures.fetch_add(1, Ordering::Relaxed)),
        }
        result
    }

    /// The whole of a small body.
    pub(crate) async fn read(
        &self,
        mut response: Response,
        limit: u64,
        what: &str,
    ) -> Result<Vec<u8>, Failure> {
        let (mut bytes, mut pace) = (Vec::new(), Pace::default());
        while let Some(chunk) = self.chunk(&mut response, &mut pace).await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > limit {
                return Err(Failure::Final(Error::Answer {
                    registry: self.base.host_str().unwrap_or_default().to_owned(),
                    what: what.to_owned(),
                    reason: format!("it is larger than {}, the most that is read of it", size(limit)),
                }));
            }
        }
        Ok(bytes)
    }

    /// What an answer that is no success says, as far as it can be read.
    pub(crate) async fn message(&self, mut response: Response) -> Message {
        let status = response.status();
        let (mut bytes, mut pace) = (Vec::new(), Pace::default());
        while let Ok(Some(chunk)) = self.chunk(&mut response, &mut pace).await {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > MESSAGE {
                break;
            }
        }
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

    /// A request that got no answer.
    fn failed(&self, error: &reqwest::Error) -> Failure {
        let reason = deepest(error);
        let unreachable = |reason: String| {
            Failure::Final(Error::Unreachable {
                registry: self.base.authority().to_owned(),
                what: "any request".to_owned(),
                reason,
            })
        };
        if reason.contains("certificate") {
            return unreachable(format!("{reason}: give the CA that signs its certificate"));
        }
        if reason.contains("InvalidContentType") {
            return unreachable("it does not speak TLS: plain HTTP has to be allowed for it".to_owned());
        }
        Failure::passing(if error.is_timeout() { "no connection in time".to_owned() } else { reason })
    }
}

/// Where answers may send a request on to: `Authorization` stays behind when that is another host (reqwest's rule),
/// and from TLS nobody is sent to plain HTTP, by which the same host would be shown it.
fn redirects() -> Policy {
    Policy::custom(|attempt| {
        let came_by_tls = attempt.previous().iter().any(|url| url.scheme() == "https");
        let host = attempt.url().host_str().unwrap_or_default();
        if came_by_tls && attempt.url().scheme() != "https" && !is_loopback(host) {
            attempt.error("it sends on from TLS to plain HTTP")
        } else if attempt.previous().len() > REDIRECTS {
            attempt.error(format!("it sends on more than {REDIRECTS} times"))
        } else {
            attempt.follow()
        }
    })
}

/// A limit in words.
fn size(bytes: u64) -> String {
    if bytes >= 1 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{bytes} bytes") }
}

/// Statuses that may pass (distribution specification, "Error Codes", 429; RFC 9110, section 15).
fn may_pass(status: StatusCode) -> bool {
    let is_busy = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    is_busy || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED)
}

/// The deepest cause, without addresses: these may have tokens in them.
pub(crate) fn deepest(error: &reqwest::Error) -> String {
    let mut source = error.source();
    let mut text = error.to_string();
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    clean(&text)
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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
