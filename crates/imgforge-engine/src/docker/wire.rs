//! Connections to the daemon that speak gRPC: an HTTP request that is upgraded to HTTP/2.
//!
//! The daemon offers BuildKit at two paths: on `/grpc` it serves what BuildKit does, on `/session` it calls back to
//! the client for the files of a build. (moby, `api/server/router/grpc` and `api/server/router/session`.)

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

use super::endpoint::Endpoint;
use crate::Error;

/// The time that a daemon on another machine may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A longer answer than this is none of a daemon's.
const MAX_HEAD: usize = 16 * 1024;

/// An open connection.
pub(super) type Wire = Either<UnixStream, TcpStream>;

/// Opens a connection.
pub(super) async fn open(endpoint: &Endpoint) -> io::Result<Wire> {
    match endpoint {
        Endpoint::Unix(path) => UnixStream::connect(path).await.map(Either::Left),
        Endpoint::Tcp(address) => {
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
            // Small messages go to and fro.
            stream.set_nodelay(true)?;
            Ok(Either::Right(stream))
        }
    }
}

/// Opens a connection and has it upgraded at `path`.
///
/// # Errors
/// [`Error::Connection`], or [`Error::Refused`] by a daemon that has no such path.
pub(super) async fn upgrade(
    endpoint: &Endpoint,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<Wire, Error> {
    let failed = |error: io::Error| Error::Connection { message: error.to_string() };
    let mut wire = open(endpoint).await.map_err(failed)?;
    let head = ask(&mut wire, path, headers).await.map_err(failed)?;
    let status_line = head.lines().next().unwrap_or_default();
    let mut words = status_line.splitn(3, ' ').skip(1);
    match words.next().and_then(|status| status.parse::<u16>().ok()) {
        Some(101) => Ok(wire),
        Some(_) => {
            let reason = words.next().unwrap_or_default();
            Err(Error::Refused { message: format!("{reason} to POST {path}: has it no BuildKit?") })
        }
        None => Err(Error::Connection { message: format!("a strange answer: {status_line:?}") }),
    }
}

/// Asks for an upgrade and returns the head of the answer, and not a byte of what follows it.
async fn ask(
    wire: &mut (impl AsyncRead + AsyncWrite + Unpin),
    path: &str,
    headers: &[(&str, &str)],
) -> io::Result<String> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n{headers}\r\n"
    );
    wire.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == MAX_HEAD {
            return Err(io::Error::other("the answer has no end"));
        }
        head.push(wire.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
