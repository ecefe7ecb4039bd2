//! Requests: addressed, allowed, counted, and tried again where that may help.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use rand::Rng;
use reqwest::header::{HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::auth::{Challenge, Found, Login, TokenAnswer, parse_challenge};
use crate::error::clean;
use crate::{Error, Options, Retry};

/// How long a registry may take to answer a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// A token that says nothing about it is good for a minute (Token Authentication Specification).
const TOKEN_LIFE: u64 = 60;
/// A token is not used in the last seconds of its life.
const TOKEN_MARGIN: u64 = 10;
/// What is larger is no error of a registry.
const MAX_ERROR: usize = 64 << 10;

/// What went over the network, blobs and manifests alike.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests, those that were tried again counted each time.
    pub requests: u64,
    /// Bytes of blobs that were sent.
    pub up: u64,
    /// Bytes of blobs that came.
    pub down: u64,
    /// How often something was tried again.
    pub retries: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    pub(crate) up: AtomicU64,
    pub(crate) down: AtomicU64,
    pub(crate) retries: AtomicU64,
}

/// What a request wants to do, as tokens are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Scope(Vec<String>);

impl Scope {
    pub(crate) fn pull(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull")])
    }

    pub(crate) fn push(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull,push")])
    }

    pub(crate) fn delete(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull,delete")])
    }

    /// Also to read in another repository, for a mount.
    pub(crate) fn and_pull(mut self, repository: &str) -> Self {
        self.0.push(format!("repository:{repository}:pull"));
        self
    }
}

/// How one attempt went wrong.
pub(crate) enum Fault {
    /// It may go well the next time, after this pause if the registry has named one.
    Again { why: String, after: Option<Duration>, is_connection: bool },
    /// It will not.
    Final(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

#[derive(Debug)]
struct Token {
    text: String,
    until: Instant,
}

#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    options: Options,
    credentials: OnceCell<Found>,
    /// What the registry wants to see, once it has said so.
    challenge: Mutex<Option<Challenge>>,
    tokens: Mutex<HashMap<Scope, Token>>,
    pub(crate) counters: Counters,
    /// Blobs that this process is sending or has sent, by digest: the repositories that have it.
    pub(crate) sending: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Vec<String>>>>>,
}

impl Client {
    pub(crate) fn new(options: Options) -> Result<Self, Error> {
        let configuration = |message: String| Error::Configuration { message };
        let plain = options.plain_http.unwrap_or_else(|| is_loopback(&options.host));
        let scheme = if plain { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{}/v2/", options.host)).map_err(|error| {
            configuration(format!("\"{}\" is not a registry's name: {error}", options.host))
        })?;
        // Whoever is first; all of us mean the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("imgforge/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(options.retry.idle);
        if is_loopback(&options.host) {
            builder = builder.no_proxy();
        }
        if let Some(file) = &options.ca_file {
            let pem = std::fs::read(file).map_err(|error| Error::File { path: file.clone(), error })?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| configuration(format!("{file} is not a certificate in PEM: {error}")))?;
            for certificate in certificates {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let http = builder.build().map_err(|error| configuration(with_causes(&error)))?;
        Ok(Self {
            http,
            base,
            options,
            credentials: OnceCell::new(),
            challenge: Mutex::default(),
            tokens: Mutex::default(),
            counters: Counters::default(),
            sending: Mutex::default(),
        })
    }

    pub(crate) fn host(&self) -> &str {
        &self.options.host
    }

    pub(crate) fn retry(&self) -> Retry {
        self.options.retry
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { requests, up, down, retries } = &self.counters;
        Traffic { requests: read(requests), up: read(up), down: read(down), retries: read(retries) }
    }

    pub(crate) async fn credentials(&self) -> Result<&Found, Error> {
        self.credentials.get_or_try_init(|| self.options.credentials.find(&self.options.host)).await
    }

    /// A request for a path behind `/v2/`, or a whole address.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        match self.base.join(path) {
            Ok(url) => self.http.request(method, url),
            // Sending it says what is wrong.
            Err(_) => self.http.request(method, path),
        }
    }

    pub(crate) fn answer(&self, message: String) -> Error {
        Error::Answer { host: self.host().to_owned(), message: clean(&message) }
    }

    /// Sends a request until it is answered. 404 is an answer; other 4xx are errors.
    pub(crate) async fn send(
        &self,
        scope: &Scope,
        what: &str,
        make: &(dyn Fn(&Self) -> RequestBuilder + Sync),
    ) -> Result<Response, Error> {
        let mut tries = Tries::new(self, what);
        loop {
            match self.attempt(scope, what, make).await {
                Ok(response) => return Ok(response),
                Err(fault) => tries.after(fault).await?,
            }
        }
    }

    /// Sends a request and reads the whole body, of at most `limit` bytes.
    pub(crate) async fn fetch(
        &self,
        scope: &Scope,
        what: &str,
        limit: u64,
        make: &(dyn Fn(&Self) -> RequestBuilder + Sync),
    ) -> Result<(StatusCode, HeaderMap, Vec<u8>), Error> {
        let mut tries = Tries::new(self, what);
        loop {
            let fault = match self.attempt(scope, what, make).await {
                Ok(response) => match self.body(response, limit).await {
                    Ok(whole) => return Ok(whole),
                    Err(fault) => fault,
                },
                Err(fault) => fault,
            };
            tries.after(fault).await?;
        }
    }

    async fn body(&self, response: Response, limit: u64) -> Result<(StatusCode, HeaderMap, Vec<u8>), Fault> {
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        let mut pieces = response.bytes_stream();
        while let Some(piece) = pieces.next().await {
            body.extend_from_slice(&piece.map_err(|error| broken(&error))?);
            if body.len() as u64 > limit {
                return Err(self.answer(format!("more than {limit} bytes")).into());
            }
        }
        self.counters.down.fetch_add(body.len() as u64, Ordering::Relaxed);
        Ok((status, headers, body))
    }

    /// Sends a request once, with what the registry wants to see. A refusal for want of that does not count.
    pub(crate) async fn attempt(
        &self,
        scope: &Scope,
        what: &str,
        make: &(dyn Fn(&Self) -> RequestBuilder + Sync),
    ) -> Result<Response, Fault> {
        let mut was_refused = false;
        loop {
            let request = self.allowed(make(self), scope).await?;
            self.counters.requests.fetch_add(1, Ordering::Relaxed);
            let response = request.send().await.map_err(|error| broken(&error))?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && !was_refused {
                was_refused = true;
                let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
                let challenge = headers.filter_map(|value| value.to_str().ok()).find_map(parse_challenge);
                let Some(challenge) = challenge else { return Err(self.refused(response, what).await) };
                lock(&self.tokens).remove(scope);
                *lock(&self.challenge) = Some(challenge);
                continue;
            }
            if status.is_success() || status == StatusCode::NOT_FOUND {
                return Ok(response);
            }
            return Err(self.refused(response, what).await);
        }
    }

    async fn allowed(&self, request: RequestBuilder, scope: &Scope) -> Result<RequestBuilder, Fault> {
        let challenge = lock(&self.challenge).clone();
        match challenge {
            None => Ok(request),
            Some(Challenge::Basic) => Ok(match &self.credentials().await?.0 {
                Some(Login { user, password }) => request.basic_auth(user, Some(password)),
                None => request,
            }),
            Some(Challenge::Bearer { realm, service }) => {
                let known = lock(&self.tokens)
                    .get(scope)
                    .filter(|token| token.until > Instant::now())
                    .map(|token| token.text.clone());
                let token = match known {
                    Some(token) => token,
                    None => self.new_token(&realm, service.as_deref(), scope).await?,
                };
                Ok(request.bearer_auth(token))
            }
        }
    }

    async fn new_token(&self, realm: &str, service: Option<&str>, scope: &Scope) -> Result<String, Fault> {
        let mut url =
            Url::parse(realm).map_err(|_| self.answer(format!("\"{realm}\" is no token server")))?;
        // A password goes in the clear only where the registry itself is spoken to like that.
        if url.scheme() != "https" && self.base.scheme() == "https" {
            return Err(self.answer(format!("its token server {realm} does not speak HTTPS")).into());
        }
        let (login, _) = self.credentials().await?;
        let request = match login {
            Some(login) if login.is_identity_token() => {
                let scopes = scope.0.join(" ");
                let form = [
                    ("grant_type", "refresh_token"),
                    ("client_id", "imgforge"),
                    ("service", service.unwrap_or_default()),
                    ("scope", &scopes),
                    ("refresh_token", &login.password),
                ];
                let mut body = Url::parse("http://form").expect("a URL");
                body.query_pairs_mut().extend_pairs(form);
                self.http
                    .post(url)
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(body.query().unwrap_or_default().to_owned())
            }
            _ => {
                {
                    let mut query = url.query_pairs_mut();
                    if let Some(service) = service {
                        query.append_pair("service", service);
                    }
                    for one in &scope.0 {
                        query.append_pair("scope", one);
                    }
                }
                let request = self.http.get(url);
                match login {
                    Some(login) => request.basic_auth(&login.user, Some(&login.password)),
                    None => request,
                }
            }
        };
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        let response = request.send().await.map_err(|error| broken(&error))?;
        if !response.status().is_success() {
            return Err(self.refused(response, "a token").await);
        }
        let (_, _, body) = self.body(response, MAX_ERROR as u64).await?;
        let answer: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|_| self.answer("no token where one was asked for".into()))?;
        let life = answer.expires_in.unwrap_or(TOKEN_LIFE).max(TOKEN_LIFE).saturating_sub(TOKEN_MARGIN);
        let text =
            answer.token().ok_or_else(|| self.answer("no token where one was asked for".to_owned()))?;
        let token = Token { text: text.clone(), until: Instant::now() + Duration::from_secs(life) };
        lock(&self.tokens).insert(scope.clone(), token);
        Ok(text)
    }

    /// What a status that is no success comes to.
    async fn refused(&self, response: Response, what: &str) -> Fault {
        let status = response.status();
        let after = response.headers().get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?));
        let (host, what) = (self.host().to_owned(), what.to_owned());
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let tried = match self.credentials().await {
                Ok((_, tried)) => tried.clone(),
                Err(error) => return error.into(),
            };
            return Error::Denied { host, what, status: status.as_u16(), tried }.into();
        }
        let message = message_of(response).await;
        let again = status.is_server_error()
            || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        if again && status != StatusCode::NOT_IMPLEMENTED {
            let why = match message.as_str() {
                "" => format!("status {}", status.as_u16()),
                message => format!("status {}: {message}", status.as_u16()),
            };
            return Fault::Again { why, after, is_connection: false };
        }
        let message = match (status, message) {
            (StatusCode::METHOD_NOT_ALLOWED, message)
                if message.is_empty() || message.contains("unsupported") =>
            {
                "this is switched off there".to_owned()
            }
            (_, message) if message.is_empty() => "without a reason".to_owned(),
            (_, message) => message,
        };
        Error::Refused { host, what, status: status.as_u16(), message }.into()
    }
}

/// Counts attempts and waits between them.
pub(crate) struct Tries<'c> {
    client: &'c Client,
    what: String,
    done: u32,
}

impl<'c> Tries<'c> {
    pub(crate) fn new(client: &'c Client, what: &str) -> Self {
        Self { client, what: what.to_owned(), done: 0 }
    }

    /// Something has come of it: failures are counted anew.
    pub(crate) fn progress(&mut self) {
        self.done = 0;
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// What cannot be tried again, or has been tried often enough.
    pub(crate) async fn after(&mut self, fault: Fault) -> Result<(), Error> {
        let (why, after, is_connection) = match fault {
            Fault::Final(error) => return Err(error),
            Fault::Again { why, after, is_connection } => (why, after, is_connection),
        };
        self.done += 1;
        let Retry { attempts, pause, longest, .. } = self.client.retry();
        if self.done >= attempts {
            let host = self.client.host().to_owned();
            return Err(if is_connection {
                Error::Unreachable { host, cause: why }
            } else {
                Error::GaveUp { host, what: self.what.clone(), attempts: self.done, last: why }
            });
        }
        self.client.counters.retries.fetch_add(1, Ordering::Relaxed);
        // Half by chance, so that many who failed at once do not come back at once.
        let backoff = pause.saturating_mul(1 << (self.done - 1).min(16)).min(longest);
        let backoff = backoff / 2 + backoff.mul_f64(rand::thread_rng().gen_range(0.0..0.5));
        tokio::time::sleep(after.map_or(backoff, |after| after.min(longest))).await;
        Ok(())
    }
}

/// A connection that broke, as a fault; an address that is none is final.
pub(crate) fn broken(error: &reqwest::Error) -> Fault {
    let why = if error.is_timeout() { "it does not answer in time".to_owned() } else { with_causes(error) };
    if error.is_builder() {
        return Fault::Final(Error::Configuration { message: why });
    }
    Fault::Again { why, after: None, is_connection: true }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(inner) = cause {
        // The last one says what happened, those before it where.
        text = inner.to_string();
        cause = inner.source();
    }
    if text.is_empty() { error.to_string() } else { text }
}

/// `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// What a registry says in an error: the specification's JSON, or the start of whatever it is.
async fn message_of(response: Response) -> String {
    #[derive(Deserialize)]
    struct Answer {
        errors: Vec<Said>,
    }
    #[derive(Deserialize)]
    struct Said {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let mut body = Vec::new();
    let mut pieces = response.bytes_stream();
    while let Some(Ok(piece)) = pieces.next().await {
        body.extend_from_slice(&piece);
        if body.len() > MAX_ERROR {
            break;
        }
    }
    let said = match serde_json::from_slice::<Answer>(&body) {
        Ok(answer) => {
            let all: Vec<String> = answer
                .errors
                .into_iter()
                .map(|said| if said.message.is_empty() { said.code } else { said.message })
                .collect();
            all.join("; ")
        }
        // A page for people says nothing in one line.
        Err(_) if body.starts_with(b"<") => String::new(),
        Err(_) => String::from_utf8_lossy(&body).into_owned(),
    };
    clean(&said)
}

/// Whether a registry is on this machine.
fn is_loopback(host: &str) -> bool {
    let name = host.strip_prefix('[').map_or_else(
        || host.rsplit_once(':').map_or(host, |(name, _)| name),
        |rest| rest.split(']').next().unwrap_or_default(),
    );
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The data is whole between statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_known() {
        for (host, expected) in [
            ("127.0.0.1:5000", true),
            ("127.8.9.1", true),
            ("localhost:5000", true),
            ("[::1]:5000", true),
            ("localhost.example.com", false),
            ("10.0.0.1:5000", false),
            ("registry.example.com", false),
        ] {
            assert_eq!(is_loopback(host), expected, "{host}");
        }
    }

    #[test]
    fn both_forms_of_retry_after_are_read() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        assert!(retry_after(&soon).is_some_and(|wait| wait > Duration::from_secs(90)));
        assert_eq!(retry_after("soon"), None);
    }
}
