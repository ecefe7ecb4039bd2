//! One request: sent, watched for stalls, counted; and its body.

use std::error::Error as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{IntoUrl, Method, RequestBuilder, Response, StatusCode};
use tokio::time::Instant;

use crate::pace::Pace;
use crate::proxies::proxies;
use crate::resolver::{Remembering, System};
use crate::retry::{Failure, Retry, Tries, retry_after};
use crate::tls;

/// How often one request may be sent on.
const REDIRECTS: usize = 10;

/// How a [`Client`] is made.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Certificates, in PEM, that are trusted besides the system's.
    pub ca: Option<Vec<u8>>,
    /// How patient it is.
    pub retry: Retry,
}

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

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    failures: AtomicU64,
}

/// Why a request has no answer that means something.
#[derive(Debug)]
pub enum NoAnswer {
    /// No connection, or one that was cut or stalled: in words. It may pass.
    Cut(String),
    /// A status that may pass, and the wait that the server asks for.
    Busy(Box<Response>, Option<Duration>),
    /// The server's certificate is not trusted: in words.
    Untrusted(String),
    /// The server does not speak TLS.
    Plain,
    /// What cannot be asked for, or is sent on where nobody goes: in words.
    Refused(String),
}

impl NoAnswer {
    /// Returns what to do about it, where a status says all that the server has to say: `unreachable` makes an error of
    /// what trying again does not mend.
    pub fn failure<E>(self, unreachable: impl FnOnce(String) -> E) -> Failure<E> {
        let reason = match self {
            Self::Busy(response, retry_after) => {
                return Failure::Passing {
                    reason: format!("the server answers {}", response.status()),
                    retry_after,
                };
            }
            Self::Cut(reason) => return Failure::passing(reason),
            Self::Plain => "the server does not speak TLS".to_owned(),
            Self::Untrusted(reason) => {
                format!("{reason}: the CA that signs its certificate has to be among this machine's")
            }
            Self::Refused(reason) => reason,
        };
        Failure::Final(unreachable(reason))
    }
}

/// When a body that is being sent last moved.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    moved: AtomicU64,
}

impl Clock {
    /// It has moved just now.
    pub fn start() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), moved: AtomicU64::new(0) })
    }

    /// It moves.
    pub fn moved(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(millis, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }
}

/// A pool of connections, and the rules by which it is used. Nothing is unpacked on the way: what comes is what the
/// server has.
#[derive(Debug)]
pub struct Client {
    pool: reqwest::Client,
    retry: Retry,
    counters: Counters,
}

impl Client {
    /// Makes ready; nothing is sent yet.
    ///
    /// # Errors
    /// In words, for certificates that cannot be read.
    pub fn new(options: Options) -> Result<Self, String> {
        let identity = (ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut pool = reqwest::Client::builder()
            .user_agent(concat!("imgforge/", env!("CARGO_PKG_VERSION")))
            .default_headers(HeaderMap::from_iter([identity]))
            .connect_timeout(options.retry.connect)
            .tls_backend_preconfigured(tls::config(options.ca.as_deref())?)
            .dns_resolver(Arc::new(Remembering::<System>::default()))
            // Repositories, tags and what signed addresses have in them are nobody else's business.
            .referer(false)
            .redirect(redirects())
            .no_proxy();
        for proxy in proxies(|name| std::env::var(name).ok()) {
            pool = pool.proxy(proxy);
        }
        let pool = pool.build().map_err(|error| deepest(&error))?;
        Ok(Self { pool, retry: options.retry, counters: Counters::default() })
    }

    /// Begins a request. An address that is none is told when it is sent.
    pub fn request(&self, method: Method, url: impl IntoUrl) -> RequestBuilder {
        self.pool.request(method, url)
    }

    /// Counts tries of one thing; `unreachable` makes an error of the last reason.
    pub fn tries<F>(&self, unreachable: F) -> Tries<'_, F> {
        Tries::new(&self.retry, unreachable)
    }

    /// What has gone over the network so far.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            requests: self.counters.requests.load(Ordering::Relaxed),
            bytes_up: self.counters.up.load(Ordering::Relaxed),
            bytes_down: self.counters.down.load(Ordering::Relaxed),
            failures: self.counters.failures.load(Ordering::Relaxed),
        }
    }

    /// Counts bytes of a body that is being sent.
    pub fn sent(&self, bytes: u64) {
        self.counters.up.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Sends one request, once. `clock` tells of a body that takes its time.
    ///
    /// # Errors
    /// [`NoAnswer`], for statuses that may pass too; all others are answers.
    pub async fn send(&self, request: RequestBuilder, clock: Option<&Clock>) -> Result<Response, NoAnswer> {
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        let result = match self.stalling(request, clock).await {
            Ok(response) if may_pass(response.status()) => {
                let wait = retry_after(response.headers(), SystemTime::now());
                Err(NoAnswer::Busy(Box::new(response), wait))
            }
            result => result,
        };
        if matches!(result, Err(NoAnswer::Cut(_) | NoAnswer::Busy(..))) {
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    async fn stalling(&self, request: RequestBuilder, clock: Option<&Clock>) -> Result<Response, NoAnswer> {
        let start = Instant::now();
        let mut sent = std::pin::pin!(request.send());
        loop {
            let last = clock.map_or(start, |clock| clock.last().max(start));
            tokio::select! {
                result = &mut sent => return result.map_err(|error| no_answer(&error)),
                () = tokio::time::sleep_until(last + self.retry.idle) => {
                    let has_moved = clock.is_some_and(|clock| clock.last() > last);
                    if !has_moved {
                        let seconds = self.retry.idle.as_secs_f32();
                        return Err(NoAnswer::Cut(format!("nothing came or went for {seconds} s")));
                    }
                }
            }
        }
    }

    /// What an answer has below its headers.
    pub fn body(&self, response: Response) -> Body<'_> {
        Body { client: self, response, pace: Pace::default() }
    }
}

/// The body of an answer. One that comes too slowly fails as one that does not come: both may pass.
#[derive(Debug)]
pub struct Body<'c> {
    client: &'c Client,
    response: Response,
    pace: Pace,
}

impl Body<'_> {
    /// Returns the next bytes; `None` at the end.
    ///
    /// # Errors
    /// In words, for a cut.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        let (asked, idle) = (Instant::now(), self.client.retry.idle);
        let result = match tokio::time::timeout(idle, self.response.chunk()).await {
            Ok(Ok(Some(bytes))) => {
                self.pace.took(asked.elapsed(), bytes.len() as u64, idle).map(|()| Some(bytes))
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Err(error)) => Err(deepest(&error)),
            Err(_) => Err(format!("nothing came for {} s", idle.as_secs_f32())),
        };
        let counters = &self.client.counters;
        match &result {
            Ok(Some(bytes)) => drop(counters.down.fetch_add(bytes.len() as u64, Ordering::Relaxed)),
            Ok(None) => {}
            Err(_) => drop(counters.failures.fetch_add(1, Ordering::Relaxed)),
        }
        result
    }

    /// Returns the first `most` bytes, or all when there are fewer.
    ///
    /// # Errors
    /// In words, for a cut.
    pub async fn start(mut self, most: u64) -> Result<Vec<u8>, String> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        while bytes.len() < most
            && let Some(chunk) = self.chunk().await?
        {
            bytes.extend_from_slice(&chunk[..chunk.len().min(most - bytes.len())]);
        }
        Ok(bytes)
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

/// Statuses that may pass (distribution specification, "Error Codes", 429; RFC 9110, section 15).
fn may_pass(status: StatusCode) -> bool {
    let is_busy = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    is_busy || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED)
}

fn no_answer(error: &reqwest::Error) -> NoAnswer {
    let reason = deepest(error);
    if error.is_redirect() || error.is_builder() {
        NoAnswer::Refused(reason)
    } else if reason.contains("certificate") {
        NoAnswer::Untrusted(tls::untrusted(reason))
    } else if reason.contains("InvalidContentType") {
        NoAnswer::Plain
    } else if error.is_timeout() {
        NoAnswer::Cut("no connection in time".to_owned())
    } else {
        NoAnswer::Cut(reason)
    }
}

/// The deepest cause, without addresses: these may have tokens in them.
fn deepest(error: &reqwest::Error) -> String {
    let mut source = error.source();
    let mut text = error.to_string();
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}

/// Whether a host, with a port or without, is this machine itself by its name or address.
pub fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
