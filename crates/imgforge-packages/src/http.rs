//! Requests that are tried again when trying again may help.

use std::io::Read;
use std::time::Duration;

use imgforge_core::pace::Paced;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use ureq::http::{Response, StatusCode};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body};

use crate::address::Login;
use crate::error::Error;
use crate::machine::Repository;
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

/// What apt escapes in the paths that an index names (`Acquire::URIEncode`: `+` and `~` for servers that read a plus
/// as a space), and what would end the path.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'+').add(b'~').add(b'#').add(b'?');

/// A path of an index (`Filename`) as it stands in an address. An index has names of files, not addresses: the file
/// `a_1%3a2_all.deb` is asked for as `a_1%253a2_all.deb`.
pub(crate) fn encode(path: &str) -> String {
    utf8_percent_encode(path, ESCAPED).to_string()
}

/// How long nothing may come.
pub(crate) const IDLE: Duration = Duration::from_secs(30);

/// Connections, and the logins that repositories have.
pub(crate) struct Client {
    agent: Agent,
    /// By the address that they are for.
    logins: Vec<(String, Login)>,
}

impl Client {
    /// For requests to these repositories and their archives.
    pub(crate) fn of<'r>(repositories: impl IntoIterator<Item = &'r Repository>) -> Self {
        let logins = repositories.into_iter().flat_map(Repository::logins);
        Self {
            agent: agent(),
            logins: logins.map(|(address, login)| (address.to_owned(), login.clone())).collect(),
        }
    }

    fn login(&self, url: &str) -> Option<&Login> {
        let is_below = |address: &str| url.strip_prefix(address).is_some_and(|rest| rest.starts_with('/'));
        self.logins.iter().find(|(address, _)| is_below(address)).map(|(_, login)| login)
    }
}

fn agent() -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .accept_encoding("identity")
        .user_agent(concat!("imgforge/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(Duration::from_secs(15)))
        .timeout_recv_response(Some(Duration::from_secs(30)))
        .timeout_per_read(Some(IDLE))
        .max_idle_connections(16)
        .max_idle_connections_per_host(16)
        .build();
    Agent::with_parts(config, DefaultConnector::default(), Remembering::<DefaultResolver>::default())
}

/// Sends one request, for the bytes from `offset` on.
pub(crate) fn send(client: &Client, url: &str, offset: u64) -> Result<Response<Body>, Failure> {
    let mut request = client.agent.get(url);
    if let Some(login) = client.login(url) {
        // Where it is sent on to, this is left out.
        request = request.header("Authorization", login.basic());
    }
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

/// The whole of a small file; `None` when the server does not have it. One of more than `limit` bytes is an error.
pub(crate) fn get(client: &Client, url: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
    let found = get_start(client, url, limit + 1)?;
    if found.as_ref().is_some_and(|bytes| bytes.len() as u64 > limit) {
        let reason = format!("it is larger than {} MiB, the most that is read of it", limit >> 20);
        return Err(Error::Metadata { url: url.to_owned(), reason });
    }
    Ok(found)
}

/// The first `limit` bytes of a file, or all when there are fewer; `None` when the server does not have it.
pub(crate) fn get_start(client: &Client, url: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
    retry(url, || {
        let mut response = send(client, url, 0)?;
        let mut bytes = Vec::new();
        let reader = Paced::new(response.body_mut().as_reader(), IDLE);
        reader.take(limit).read_to_end(&mut bytes).map_err(|e| Failure::Passing(e.to_string()))?;
        Ok(bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_escaped_as_apt_escapes_them() {
        assert_eq!(encode("pool/v_1%3a1.0_all.deb"), "pool/v_1%253a1.0_all.deb");
        assert_eq!(encode("pool/g/g++_4:1.0~rc1_a b.deb"), "pool/g/g%2B%2B_4:1.0%7Erc1_a%20b.deb");
        assert_eq!(encode("pool/ä#?"), "pool/%C3%A4%23%3F");
    }

    #[test]
    fn a_login_goes_to_the_repository_that_has_it_and_to_no_other() {
        let login = crate::address::split("http://user:p%40ss@one/debian").1.unwrap();
        let client = Client { agent: agent(), logins: vec![("http://one/debian".to_owned(), login)] };
        assert!(client.login("http://one/debian/dists/x/InRelease").is_some());
        for other in [
            "http://one/debian-security/x",
            "http://one.evil/debian/x",
            "https://one/debian/x",
            "http://one/",
        ] {
            assert!(client.login(other).is_none(), "{other}");
        }
    }
}
