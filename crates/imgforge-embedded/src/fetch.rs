//! What ADD takes from a URL.

use std::io::Read;
use std::time::Duration;

use imgforge_core::pace::Paced;
use imgforge_engine::{BuildError, CancellationToken};
use imgforge_oci::Digest;

/// The size of the largest file that ADD fetches.
const MAX: u64 = 4 << 30;

/// The time for which a server may say nothing.
const PATIENCE: Duration = Duration::from_secs(60);

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
    let (owned, expected) = (url.to_owned(), checksum.map(str::to_owned));
    let fetching = tokio::task::spawn_blocking(move || get(&owned, expected.as_deref()));
    let fetched = tokio::select! {
        fetched = fetching => fetched.unwrap_or_else(|error| Err(error.to_string())),
        () = cancel.cancelled() => return Err(BuildError::Cancelled),
    };
    fetched.map_err(|why| BuildError::Refused { message: format!("ADD {url}: {why}") })
}

fn get(url: &str, checksum: Option<&str>) -> Result<Fetched, String> {
    let config = ureq::Agent::config_builder()
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_per_read(Some(PATIENCE));
    let agent = ureq::Agent::new_with_config(config.build());
    let mut answer = agent.get(url).call().map_err(|error| error.to_string())?;
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let time = header("last-modified")
        .and_then(|text| jiff::fmt::rfc2822::parse(text).ok())
        .map(|zoned| zoned.timestamp().as_second());
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let name = path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("download").to_owned();
    let mut bytes = Vec::new();
    let body = answer.body_mut().with_config().limit(MAX).reader();
    Paced::new(body, PATIENCE).take(MAX).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if let Some(expected) = checksum {
        let found = Digest::sha256(&bytes);
        if found.as_str() != expected {
            return Err(format!("it is {found}, not {expected}"));
        }
    }
    Ok(Fetched { name, bytes, time })
}
