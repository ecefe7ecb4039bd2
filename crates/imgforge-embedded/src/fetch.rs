//! What ADD takes from a URL.

use imgforge_engine::{BuildError, CancellationToken};
use imgforge_http::header::LAST_MODIFIED;
use imgforge_http::{Client, Failure, Method, Options};
use imgforge_oci::Digest;

/// The size of the largest file that ADD fetches.
const MAX: u64 = 4 << 30;

/// A file that was fetched.
pub(crate) struct Fetched {
    /// As the server calls it, or the last part of the URL's path.
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    /// `Last-Modified`, in seconds since 1970.
    pub(crate) time: Option<i64>,
}

/// Fetches a file; `checksum` is `sha256:HEX`.
pub(crate) async fn fetch(
    url: &str,
    checksum: Option<&str>,
    cancel: &CancellationToken,
) -> Result<Fetched, BuildError> {
    let fetched = tokio::select! {
        fetched = get(url, checksum) => fetched,
        () = cancel.cancelled() => return Err(BuildError::Cancelled),
    };
    fetched.map_err(|why| BuildError::Refused { message: format!("ADD {url}: {why}") })
}

async fn get(url: &str, checksum: Option<&str>) -> Result<Fetched, String> {
    let client = Client::new(Options::default())?;
    let mut tries = client.tries(|reason| reason);
    let mut fetched = loop {
        match get_once(&client, url).await {
            Ok(fetched) => break fetched,
            Err(failure) => tries.again(failure).await?,
        }
    };
    let Some(expected) = checksum else { return Ok(fetched) };
    let hashed = tokio::task::spawn_blocking(move || {
        let found = Digest::sha256(&fetched.bytes);
        (found, fetched)
    });
    let found;
    (found, fetched) = hashed.await.map_err(|error| error.to_string())?;
    if found.as_str() != expected {
        return Err(format!("it is {found}, not {expected}"));
    }
    Ok(fetched)
}

async fn get_once(client: &Client, url: &str) -> Result<Fetched, Failure<String>> {
    let answer = client.send(client.request(Method::GET, url), None).await;
    let answer = answer.map_err(|none| none.failure(|reason| reason))?;
    if !answer.status().is_success() {
        return Err(Failure::Final(format!("the server answers {}", answer.status())));
    }
    let time = answer.headers().get(LAST_MODIFIED).and_then(|value| value.to_str().ok());
    let time = time.and_then(|text| jiff::fmt::rfc2822::parse(text).ok());
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let name = path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("download").to_owned();
    let bytes = client.body(answer).start(MAX + 1).await.map_err(Failure::passing)?;
    if bytes.len() as u64 > MAX {
        return Err(Failure::Final(format!("it is larger than {} GiB, the most that is fetched", MAX >> 30)));
    }
    Ok(Fetched { name, bytes, time: time.map(|zoned| zoned.timestamp().as_second()) })
}
