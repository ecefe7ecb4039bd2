//! One blob into a repository: found there, mounted, or sent in chunks that go on after a cut.
//!
//! The life of an upload (distribution specification, "Pushing blobs"): a POST opens a session; PATCH requests add
//! chunks where the last one ended; a PUT closes it with the digest, which the registry verifies. After a failure
//! nobody knows how much has arrived: a GET on the session says it, or says that there is no such session any more,
//! and then a new one begins. (Distribution 2.x forgets a session when a chunk is cut after a part of it has
//! arrived.) A registry that takes no chunks gets each blob in one PUT.

use std::io::{self, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use camino::Utf8PathBuf;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use imgforge_http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, LOCATION, RANGE};
use imgforge_http::{Client, Clock, Method, RequestBody, RequestBuilder, StatusCode, Url};
use imgforge_oci::{Descriptor, Hasher};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use crate::Failure;
use crate::auth::Scope;
use crate::error::{Error, Kind};
use crate::progress::{Meter, ProgressSink};
use crate::registry::{Registry, named};

/// Bytes that are read from a file at once.
const READ: usize = 1 << 17;
/// How often a whole blob is sent before a registry that finds another digest is believed.
const WHOLE: u32 = 2;

/// Where a blob's bytes are.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    File(Utf8PathBuf),
    Bytes(Bytes),
    /// In the registry, or else it is an error.
    Nowhere,
}

/// How a blob came to be in a repository.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    Existed,
    Mounted,
    /// So many bytes were sent for it.
    Sent(u64),
}

impl Way {
    pub(crate) fn sent(&self) -> u64 {
        match self {
            Self::Sent(bytes) => *bytes,
            Self::Existed | Self::Mounted => 0,
        }
    }
}

/// An open session.
struct Session {
    url: Url,
    /// Bytes that the registry has.
    offset: u64,
    /// The least that it wants in one chunk.
    min_chunk: u64,
}

/// What one upload needs.
struct Upload<'a> {
    registry: &'a Registry,
    repository: &'a str,
    blob: &'a Descriptor,
    source: &'a Source,
    what: String,
    scope: Scope,
    meter: Arc<Meter>,
    sent: Arc<AtomicU64>,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// A session was opened, or a chunk has arrived.
    On,
    Done,
    /// The session is unknown: from the beginning.
    Anew,
    /// The registry takes no chunks: from the beginning, in one piece.
    Whole,
}

impl Registry {
    /// Sees to it that `repository` has a blob. Of two tasks with the same blob, one sends it and the other waits.
    pub(crate) async fn push_blob(
        &self,
        repository: &str,
        blob: &Descriptor,
        source: Source,
        mount_from: &[String],
        progress: &ProgressSink,
    ) -> Result<Way, Error> {
        let lock = self.upload_lock(repository, &blob.digest);
        let _only_one = lock.lock().await;
        let meter = Meter::new(progress, blob);
        if self.has(repository, blob).await? {
            meter.set(blob.size);
            return Ok(Way::Existed);
        }
        let mut session = None;
        for from in mount_from.iter().filter(|from| *from != repository) {
            if let Some(unused) = session.take() {
                self.cancel(repository, unused).await;
            }
            match self.mount(repository, blob, from).await? {
                Mount::Done => {
                    meter.set(blob.size);
                    return Ok(Way::Mounted);
                }
                Mount::Opened(opened) => session = Some(opened),
                Mount::No => {}
            }
        }
        if matches!(source, Source::Nowhere) {
            if let Some(unused) = session {
                self.cancel(repository, unused).await;
            }
            return Err(self.absent(repository, &blob.digest));
        }
        let upload = Upload {
            registry: self,
            repository,
            blob,
            source: &source,
            what: named("the upload of the blob", repository, &blob.digest),
            scope: Scope::push(repository),
            meter,
            sent: Arc::default(),
        };
        upload.check_file().await?;
        upload.run(session).await?;
        Ok(Way::Sent(upload.sent.load(Ordering::Relaxed)))
    }

    /// Whether a repository has a blob with its right size; one of another size is no such blob.
    async fn has(&self, repository: &str, blob: &Descriptor) -> Result<bool, Error> {
        let size = self.size(repository, &blob.digest).await?;
        if let Some(size) = size.filter(|size| *size != blob.size) {
            let what = named("the blob", repository, &blob.digest);
            return Err(self.answer(&what, format!("it has {size} bytes instead of {}", blob.size)));
        }
        Ok(size.is_some())
    }

    /// Asks for a blob of another repository (distribution specification, "Mounting a blob from another repository").
    async fn mount(&self, repository: &str, blob: &Descriptor, from: &str) -> Result<Mount, Error> {
        let what = named("the mount of the blob", repository, &blob.digest);
        let mut url = self.0.http.url(&format!("{repository}/blobs/uploads/"));
        url.query_pairs_mut().append_pair("mount", blob.digest.as_str()).append_pair("from", from);
        let request = |client: &Client| client.request(Method::POST, url.clone()).header(CONTENT_LENGTH, 0);
        match self.ask(&what, &Scope::mount(repository, from), request).await {
            Ok((StatusCode::CREATED, _)) => Ok(Mount::Done),
            Ok((StatusCode::ACCEPTED, headers)) => Ok(Mount::Opened(self.session(&what, &url, &headers)?)),
            // Whoever may not read there, or a registry that cannot mount: the blob is sent instead.
            Ok(_) => Ok(Mount::No),
            Err(error) if error.kind() == Kind::Authentication => Ok(Mount::No),
            Err(error) => Err(error),
        }
    }

    fn session(&self, what: &str, near: &Url, headers: &HeaderMap) -> Result<Session, Error> {
        let url = location(near, headers).ok_or_else(|| self.answer(what, "it gives no Location"))?;
        let min_chunk =
            headers.get("oci-chunk-min-length").and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Session { url, offset: 0, min_chunk: min_chunk.unwrap_or(0) })
    }

    /// A session that nobody needs. One that stays is removed by the registry some day.
    async fn cancel(&self, repository: &str, session: Session) {
        let request = |client: &Client| client.request(Method::DELETE, session.url.clone());
        if self.0.http.is_ours(&session.url) {
            drop(self.call("the end of an upload", &Scope::push(repository), request, None).await);
        }
    }
}

enum Mount {
    Done,
    Opened(Session),
    No,
}

impl Upload<'_> {
    async fn check_file(&self) -> Result<(), Error> {
        let Source::File(path) = self.source else { return Ok(()) };
        let length = tokio::fs::metadata(path).await.map_err(Error::io(path))?.len();
        if length == self.blob.size {
            return Ok(());
        }
        let reason = format!("it has {length} bytes, but its descriptor says {}", self.blob.size);
        Err(Error::File { path: path.clone(), reason })
    }

    async fn run(&self, mut session: Option<Session>) -> Result<(), Error> {
        let mut tries = self.registry.tries(&self.what);
        let mut is_doubtful = false;
        let mut furthest = 0;
        let mut wrong_digests = 0;
        loop {
            let result =
                if is_doubtful { self.look(&mut session).await } else { self.step(&mut session).await };
            let failure = match result {
                Ok(Step::Done) => {
                    self.meter.set(self.blob.size);
                    return Ok(());
                }
                Ok(Step::On) => {
                    let offset = session.as_ref().map_or(0, |session| session.offset);
                    if offset > furthest {
                        furthest = offset;
                        tries.moved_on();
                    }
                    is_doubtful = false;
                    continue;
                }
                Ok(Step::Whole) => {
                    self.registry.0.takes_no_chunks.store(true, Ordering::Relaxed);
                    if let Some(unused) = session.take() {
                        self.registry.cancel(self.repository, unused).await;
                    }
                    continue;
                }
                Ok(Step::Anew) => {
                    session = None;
                    is_doubtful = false;
                    Failure::passing("it has lost what was sent")
                }
                Err(Failure::Final(Error::Refused { code, .. })) if code == "DIGEST_INVALID" => {
                    wrong_digests += 1;
                    if wrong_digests == WHOLE {
                        return Err(self.wrong_digest().await);
                    }
                    session = None;
                    Failure::passing("what has arrived has another digest")
                }
                Err(failure) => {
                    is_doubtful = session.is_some();
                    failure
                }
            };
            self.meter.set(0);
            tries.again(failure).await?;
        }
    }

    /// The next request of an upload that is known to be well.
    async fn step(&self, session: &mut Option<Session>) -> Result<Step, Failure> {
        let size = self.blob.size;
        let Some(open) = session else {
            let url = self.registry.0.http.url(&format!("{}/blobs/uploads/", self.repository));
            let request =
                |client: &Client| client.request(Method::POST, url.clone()).header(CONTENT_LENGTH, 0);
            let answer = self.registry.call(&self.what, &self.scope, request, None).await?;
            if answer.response.status() != StatusCode::ACCEPTED {
                return Err(self.registry.refused(&self.what, answer).await);
            }
            *session = Some(self.registry.session(&self.what, &url, answer.response.headers())?);
            return Ok(Step::On);
        };
        self.meter.set(open.offset);
        let takes_chunks = !self.registry.0.takes_no_chunks.load(Ordering::Relaxed);
        let chunk = if takes_chunks { self.registry.0.chunk.max(open.min_chunk) } else { u64::MAX };
        let left = size.saturating_sub(open.offset);
        let is_last = left <= chunk;
        let end = if is_last { size } else { open.offset + chunk };
        let mut url = open.url.clone();
        if is_last {
            url.query_pairs_mut().append_pair("digest", self.blob.digest.as_str());
        }
        let clock = Clock::start();
        self.check_file().await?;
        let (start, length) = (open.offset, end - open.offset);
        let request = |client: &Client| {
            let request = if is_last {
                client.request(Method::PUT, url.clone())
            } else {
                client.request(Method::PATCH, url.clone())
            };
            let request =
                request.header(CONTENT_TYPE, "application/octet-stream").header(CONTENT_LENGTH, length);
            let is_part = length > 0 && length < size;
            let request =
                if is_part { request.header(CONTENT_RANGE, format!("{start}-{}", end - 1)) } else { request };
            request.body(self.body(start, length, &clock))
        };
        let answer = self.transfer(&open.url, request, &clock).await?;
        match answer.response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT if is_last => Ok(Step::Done),
            StatusCode::ACCEPTED if !is_last => {
                let headers = answer.response.headers();
                let next = location(&open.url, headers);
                open.url = next.ok_or_else(|| self.registry.answer(&self.what, "it gives no Location"))?;
                let arrived = range_end(headers).unwrap_or(end);
                if arrived > end || arrived <= open.offset {
                    return Ok(Step::Anew);
                }
                open.offset = arrived;
                Ok(Step::On)
            }
            StatusCode::NOT_FOUND => Ok(Step::Anew),
            // Only at the first one: whoever has taken a chunk takes others.
            status if !is_last && start == 0 && refuses_chunks(status) => Ok(Step::Whole),
            StatusCode::RANGE_NOT_SATISFIABLE => Err(Failure::passing("it expects another part")),
            _ => Err(self.registry.refused(&self.what, answer).await),
        }
    }

    /// A part of the blob as a body that counts what is taken from it.
    fn body(&self, start: u64, length: u64, clock: &Arc<Clock>) -> RequestBody {
        let bytes = match self.source {
            Source::File(path) => stream::once(open(path.clone(), start, length)).try_flatten().boxed(),
            Source::Bytes(bytes) => {
                let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let part = bytes.slice(at(start)..at(start + length));
                stream::iter((!part.is_empty()).then_some(Ok(part))).boxed()
            }
            Source::Nowhere => stream::empty().boxed(),
        };
        let (clock, meter, sent) = (Arc::clone(clock), Arc::clone(&self.meter), Arc::clone(&self.sent));
        let registry = self.registry.clone();
        RequestBody::wrap_stream(bytes.inspect_ok(move |part: &Bytes| {
            let length = part.len() as u64;
            clock.moved();
            meter.add(length);
            sent.fetch_add(length, Ordering::Relaxed);
            registry.0.http.client().sent(length);
        }))
    }

    /// Whose fault it is that the registry finds another digest.
    async fn wrong_digest(&self) -> Error {
        let Source::File(path) = self.source else {
            return self.registry.answer(&self.what, "it finds another digest than there is");
        };
        let mut hash = Hasher::of(&self.blob.digest);
        let mut parts = stream::once(open(path.clone(), 0, self.blob.size)).try_flatten().boxed();
        loop {
            match parts.next().await {
                Some(Ok(part)) => hash.update(&part),
                Some(Err(error)) => return Error::Io { path: path.clone(), error },
                None => break,
            }
        }
        let found = hash.finish();
        if found == self.blob.digest {
            return self.registry.answer(&self.what, "it finds another digest than there is");
        }
        Error::File {
            path: path.clone(),
            reason: format!("it has the digest {found} instead of {}", self.blob.digest),
        }
    }

    /// After a failure: is the blob there, and if not, how much of it?
    async fn look(&self, session: &mut Option<Session>) -> Result<Step, Failure> {
        let Some(open) = session else { return Ok(Step::On) };
        if self.registry.has(self.repository, self.blob).await? {
            return Ok(Step::Done);
        }
        let request = |client: &Client| client.request(Method::GET, open.url.clone());
        let clock = Clock::start();
        let answer = self.transfer(&open.url, request, &clock).await?;
        if !answer.response.status().is_success() {
            return Ok(Step::Anew);
        }
        let headers = answer.response.headers();
        open.offset = range_end(headers).unwrap_or(0);
        if let Some(next) = location(&open.url, headers) {
            open.url = next;
        }
        Ok(if open.offset > self.blob.size { Step::Anew } else { Step::On })
    }

    /// Sends to a session. One in another place, such as a store of objects, gets no login of ours.
    async fn transfer(
        &self,
        url: &Url,
        request: impl Fn(&Client) -> RequestBuilder,
        clock: &Clock,
    ) -> Result<crate::http::Answer, Failure> {
        let http = &self.registry.0.http;
        if http.is_ours(url) {
            return self.registry.call(&self.what, &self.scope, request, Some(clock)).await;
        }
        let permit = http.permit().await;
        let response = http.send(request(http.client()), Some(clock)).await?;
        Ok(crate::http::Answer { response, _permit: permit })
    }
}

/// Whether an answer to a PATCH says that there is no such thing.
fn refuses_chunks(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::NOT_IMPLEMENTED
    )
}

/// The bytes of a part of a file.
async fn open(
    path: Utf8PathBuf,
    start: u64,
    length: u64,
) -> io::Result<impl Stream<Item = io::Result<Bytes>>> {
    let mut file = tokio::fs::File::open(&path).await?;
    file.seek(SeekFrom::Start(start)).await?;
    Ok(ReaderStream::with_capacity(file.take(length), READ))
}

/// Where an upload goes on (distribution specification, "Pushing blobs": absolute or relative).
fn location(near: &Url, headers: &HeaderMap) -> Option<Url> {
    near.join(headers.get(LOCATION)?.to_str().ok()?).ok()
}

/// How many bytes have arrived: `Range: 0-END`, END included. Distribution says `0-0` when it has none, so that one
/// byte counts as none: sessions with a single byte are begun anew by the digest being wrong.
fn range_end(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(RANGE)?.to_str().ok()?;
    let text = text.strip_prefix("bytes=").unwrap_or(text);
    let (start, end) = text.split_once('-')?;
    let end: u64 = end.trim().parse().ok()?;
    (start.trim() == "0").then_some(if end == 0 { 0 } else { end.checked_add(1)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_arrived_is_read_from_the_range() {
        let end = |text: &str| range_end(&HeaderMap::from_iter([(RANGE, text.parse().unwrap())]));
        assert_eq!(end("0-0"), Some(0));
        assert_eq!(end("0-1023"), Some(1024));
        assert_eq!(end("bytes=0-1023"), Some(1024));
        assert_eq!(end("5-9"), None);
        assert_eq!(end("0-x"), None);
        assert_eq!(end("0-18446744073709551615"), None);
    }

    #[test]
    fn locations_may_be_relative() {
        let near = Url::parse("http://127.0.0.1:5000/v2/a/blobs/uploads/").unwrap();
        let at = |text: &str| location(&near, &HeaderMap::from_iter([(LOCATION, text.parse().unwrap())]));
        assert_eq!(
            at("/v2/a/blobs/uploads/1?x=y").unwrap().as_str(),
            "http://127.0.0.1:5000/v2/a/blobs/uploads/1?x=y"
        );
        assert_eq!(at("https://store.example.com/1").unwrap().as_str(), "https://store.example.com/1");
        assert_eq!(location(&near, &HeaderMap::new()), None);
    }
}
