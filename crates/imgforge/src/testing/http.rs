//! One GET to a container: a request of its own each time, no redirect followed, so that the answer is the one asked
//! about.

use std::io;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use imgforge_engine::containers::Stream;

/// The size of the part of a body that is looked at.
const MAX_BODY: usize = 4 << 20;

/// An answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Asks what is at the other end of `stream`, and is called `authority` (`ADDRESS:PORT`), for `path`.
///
/// # Errors
/// Why there is no answer, in a few words.
pub(super) async fn get(stream: impl Stream, authority: &str, path: &str) -> Result<Answer, String> {
    let wrong = |error: hyper::Error| format!("no HTTP answer ({error})");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(wrong)?;
    let request = Request::get(path)
        .header(HOST, authority)
        .header(CONNECTION, "close")
        .header(USER_AGENT, concat!("imgforge/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    // It owns the sender: a connection ends when nobody can ask any more.
    let answer = async move {
        let answer = sender.send_request(request).await.map_err(wrong)?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|error| format!("status {status} and a body that breaks off ({error})"))?;
        Ok(Answer { status, body: body.to_bytes().to_vec() })
    };
    let answer = std::pin::pin!(answer);
    // The connection does the work; it may end before the answer is taken from it.
    let (_, answer) = tokio::join!(connection, answer);
    answer
}

/// Why a connection was not made, in a few words.
pub(super) fn no_connection(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        _ => format!("no connection ({error})"),
    }
}
