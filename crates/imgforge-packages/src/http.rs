//! Requests that are tried again when trying again may help.

use std::io::Read;
use std::time::Duration;

use ureq::http::{Response, StatusCode};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body};

use crate::error::Error;
use crate::resolver::Remembering;

/// How often something is tried in all.
pub(crate) const TRIES: u32 = 3;

/// What came of one try.
pub(crate) enum Failure {
    /// The server does not have it (404, 410).
    Absent,
    /// Trying again may help: no answer, a cut, 429, 5xx.
    Passing(String),
    /// It will not.
    Final(Error),
}

pub(crate) fn agent() -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .accept_encoding("identity")
        .user_agent(concat!("imgforge/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(Duration::from_secs(15)))
        .timeout_recv_response(Some(Duration::from_secs(30)))
        .timeout_per_read(Some(Duration::from_secs(30)))
        .max_idle_connections(16)
        .max_idle_connections_per_host(16)
        .build();
    Agent::with_parts(config, DefaultConnector::default(), Remembering::<DefaultResolver>::default())
}

/// Sends one request, for the bytes from `offset` on.
pub(crate) fn send(agent: &Agent, url: &str, offset: u64) -> Result<Response<Body>, Failure> {
    let mut request = agent.get(url);
    if offset > 0 {
        request = request.header("Range", format!("bytes={offset}-"));
    }
    let response = request.call().map_err(|e| Failure::Passing(e.to_string()))?;
    match response.status() {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
        StatusCode::NOT_FOUND | StatusCode::GONE => Err(Failure::Absent),
        status if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
            Err(Failure::Passing(format!("the server answers {status}")))
        }
        status => Err(Failure::Final(Error::Unreachable {
            url: url.to_owned(),
            reason: format!("the server answers {status}"),
        })),
    }
}

/// Calls `attempt` until it succeeds, fails for good, or has been tried [`TRIES`] times. `Ok(None)` when the server
/// does not have it.
pub(crate) fn retry<T>(
    url: &str,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<Option<T>, Error> {
    let mut last = String::new();
    for number in 0..TRIES {
        if number > 0 {
            std::thread::sleep(Duration::from_millis(300) * 3_u32.pow(number - 1));
        }
        match attempt() {
            Ok(value) => return Ok(Some(value)),
            Err(Failure::Absent) => return Ok(None),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing(reason)) => last = reason,
        }
    }
    Err(Error::Unreachable { url: url.to_owned(), reason: format!("{last} ({TRIES} tries)") })
}

/// The whole of a small file, at most `limit` bytes of it; `None` when the server does not have it.
pub(crate) fn get(agent: &Agent, url: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
    retry(url, || {
        let mut response = send(agent, url, 0)?;
        let mut bytes = Vec::new();
        let reader = response.body_mut().as_reader();
        reader.take(limit).read_to_end(&mut bytes).map_err(|e| Failure::Passing(e.to_string()))?;
        Ok(bytes)
    })
}
