//! Requests to repositories, and what their answers mean.

use std::time::Duration;

use imgforge_http::header::{AUTHORIZATION, HeaderValue, RANGE};
use imgforge_http::{Method, Response, Retry, StatusCode, Tries};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio::runtime::Handle;

use crate::address::Login;
use crate::error::Error;
use crate::machine::Repository;

/// What came of one try.
pub(crate) type Failure = imgforge_http::Failure<Error>;

/// What apt escapes in the paths that an index names (`Acquire::URIEncode`: `+` and `~` for servers that read a plus
/// as a space), and what would end the path.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'+').add(b'~').add(b'#').add(b'?');

/// A path of an index (`Filename`) as it stands in an address. An index has names of files, not addresses: the file
/// `a_1%3a2_all.deb` is asked for as `a_1%253a2_all.deb`.
pub(crate) fn encode(path: &str) -> String {
    utf8_percent_encode(path, ESCAPED).to_string()
}

/// Connections to repositories.
#[derive(Debug)]
pub struct Network {
    http: imgforge_http::Client,
    runtime: Handle,
}

impl Network {
    /// Prepares to ask repositories; nothing is sent yet. The connections are looked after by the threads of
    /// `runtime`; those that fetch and wait must be others.
    ///
    /// # Errors
    /// [`Error::Network`].
    pub fn new(runtime: &Handle) -> Result<Self, Error> {
        // Files lie ready there: a server that is silent for so long has no reason to be.
        Self::with(runtime, Retry { idle: Duration::from_secs(30), ..Retry::default() })
    }

    /// The same, with another patience.
    ///
    /// # Errors
    /// [`Error::Network`].
    pub fn with(runtime: &Handle, retry: Retry) -> Result<Self, Error> {
        let http = imgforge_http::Client::new(imgforge_http::Options { ca: None, retry });
        Ok(Self { http: http.map_err(Error::Network)?, runtime: runtime.clone() })
    }
}

/// A network, and the logins that repositories have.
pub(crate) struct Client<'n> {
    network: &'n Network,
    /// By the address that they are for.
    logins: Vec<(String, Login)>,
}

impl<'n> Client<'n> {
    /// For requests to these repositories and their archives.
    pub(crate) fn of<'r>(
        network: &'n Network,
        repositories: impl IntoIterator<Item = &'r Repository>,
    ) -> Self {
        let logins = repositories.into_iter().flat_map(Repository::logins);
        let logins = logins.map(|(address, login)| (address.to_owned(), login.clone())).collect();
        Self { network, logins }
    }

    fn login(&self, url: &str) -> Option<&Login> {
        let is_below = |address: &str| url.strip_prefix(address).is_some_and(|rest| rest.starts_with('/'));
        self.logins.iter().find(|(address, _)| is_below(address)).map(|(_, login)| login)
    }

    /// Waits for `work` in this thread.
    pub(crate) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.network.runtime.block_on(work)
    }

    /// Counts tries of one file.
    pub(crate) fn tries<'a>(&'a self, url: &'a str) -> Tries<'a, impl Fn(String) -> Error> {
        self.network.http.tries(|reason| Error::Unreachable { url: url.to_owned(), reason })
    }

    /// Sends one request, for the bytes from `offset` on. `None` when the server does not have the file (404, 410).
    pub(crate) async fn send(&self, url: &str, offset: u64) -> Result<Option<Response>, Failure> {
        let unreachable = |reason: String| Error::Unreachable { url: url.to_owned(), reason };
        let mut request = self.network.http.request(Method::GET, url);
        if let Some(login) = self.login(url) {
            let mut login = HeaderValue::from_str(login.basic()).expect("Base64 is a header's value");
            login.set_sensitive(true);
            // Where it is sent on to another host, this is left out.
            request = request.header(AUTHORIZATION, login);
        }
        if offset > 0 {
            request = request.header(RANGE, format!("bytes={offset}-"));
        }
        let response = self.network.http.send(request, None).await;
        let response = response.map_err(|none| none.failure(unreachable))?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                Ok(Some(response))
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
            status => Err(Failure::Final(unreachable(format!("the server answers {status}")))),
        }
    }

    /// What a file has below its headers.
    pub(crate) fn body(&self, response: Response) -> imgforge_http::Body<'_> {
        self.network.http.body(response)
    }

    /// The whole of a small file; `None` when the server does not have it. One of more than `limit` bytes is an error.
    pub(crate) fn get(&self, url: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let found = self.get_start(url, limit + 1)?;
        if found.as_ref().is_some_and(|bytes| bytes.len() as u64 > limit) {
            let reason = format!("it is larger than {} MiB, the most that is read of it", limit >> 20);
            return Err(Error::Metadata { url: url.to_owned(), reason });
        }
        Ok(found)
    }

    /// The first `limit` bytes of a file, or all when there are fewer; `None` when the server does not have it.
    pub(crate) fn get_start(&self, url: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        self.wait(async {
            let mut tries = self.tries(url);
            loop {
                match self.try_start(url, limit).await {
                    Ok(found) => return Ok(found),
                    Err(failure) => tries.again(failure).await?,
                }
            }
        })
    }

    async fn try_start(&self, url: &str, limit: u64) -> Result<Option<Vec<u8>>, Failure> {
        let Some(response) = self.send(url, 0).await? else { return Ok(None) };
        self.body(response).start(limit).await.map(Some).map_err(Failure::passing)
    }
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
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let network = Network::new(runtime.handle()).unwrap();
        let client = Client { network: &network, logins: vec![("http://one/debian".to_owned(), login)] };
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
