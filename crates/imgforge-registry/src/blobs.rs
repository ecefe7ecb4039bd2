//! Blobs: looked for, mounted, sent in pieces, fetched.
//!
//! A blob is sent in pieces (section "Pushing a blob in chunks"): when a connection breaks, the registry is asked how much
//! it has, and gets the rest. A registry that has forgotten the upload, or does not go on with one that broke, gets the
//! blob from its start.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use futures_util::StreamExt;
use oci_spec::image::{Descriptor, Digest};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, LOCATION, RANGE};
use reqwest::{Method, Response, StatusCode, Url};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::client::{Client, Fault, Scope, Tries, broken, lock};
use crate::{Error, ProgressSink, digest_of};

/// How much of a blob is sent in one request.
const PIECE: u64 = 8 << 20;

/// A blob to be in a repository.
pub(crate) struct Blob {
    pub(crate) descriptor: Descriptor,
    pub(crate) content: Content,
    pub(crate) mount_from: Vec<String>,
}

/// Where the bytes of a blob are.
pub(crate) enum Content {
    Bytes(Bytes),
    File(Utf8PathBuf),
    /// In the registry, or nowhere.
    There,
}

/// What was done for a blob.
pub(crate) enum Done {
    Existed,
    Mounted,
    Sent(u64),
}

/// Progress of all blobs of an image.
pub(crate) struct Progress {
    sink: ProgressSink,
    done: AtomicU64,
    total: u64,
}

impl Progress {
    pub(crate) fn new(sink: ProgressSink, total: u64) -> Self {
        Self { sink, done: AtomicU64::new(0), total }
    }

    fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (self.sink)(done, self.total);
    }

    /// What was sent has to be sent again.
    fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// How a begun upload goes on.
struct Upload {
    location: Url,
    at: u64,
}

impl Client {
    /// The size of a blob; `None` when it is not there.
    pub(crate) async fn blob_size(&self, repository: &str, digest: &Digest) -> Result<Option<u64>, Error> {
        let what = format!("look for a layer of {repository}");
        let request = |client: &Self| client.request(Method::HEAD, &format!("{repository}/blobs/{digest}"));
        let response = self.send(&Scope::pull(repository), &what, &request).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let size = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        size.map(Some).ok_or_else(|| self.answer(format!("the blob {digest} has no size")))
    }

    /// Brings a blob into a repository, in the cheapest way that there is.
    pub(crate) async fn push_blob(
        &self,
        repository: &str,
        blob: &Blob,
        progress: &Progress,
    ) -> Result<Done, Error> {
        let digest = blob.descriptor.digest();
        // One at a time for each blob: who comes second finds it there, or mounts it.
        let entry = Arc::clone(lock(&self.sending).entry(digest.to_string()).or_default());
        let mut holders = entry.lock().await;
        let size = blob.descriptor.size();
        if holders.iter().any(|holder| holder == repository)
            || self.blob_size(repository, digest).await? == Some(size)
        {
            add(&mut holders, repository);
            progress.add(size);
            return Ok(Done::Existed);
        }
        let mut upload = None;
        let candidates: Vec<String> =
            blob.mount_from.iter().chain(holders.iter()).filter(|from| *from != repository).fold(
                Vec::new(),
                |mut all, from| {
                    add(&mut all, from);
                    all
                },
            );
        for from in candidates {
            match self.mount(repository, digest, &from).await? {
                None => {
                    add(&mut holders, repository);
                    add(&mut holders, &from);
                    progress.add(size);
                    return Ok(Done::Mounted);
                }
                // The last one is gone on with; the registry removes the others by and by.
                Some(begun) => upload = Some(begun),
            }
        }
        if matches!(blob.content, Content::There) {
            let what = format!("the layer {repository}@{digest}, which was there before");
            return Err(Error::Missing { host: self.host().to_owned(), what });
        }
        let sent = self.upload(repository, blob, upload, progress).await?;
        add(&mut holders, repository);
        Ok(Done::Sent(sent))
    }

    /// Mounts a blob from another repository (section "Mounting a blob from another repository"). A registry that does not
    /// begins an upload instead.
    async fn mount(&self, repository: &str, digest: &Digest, from: &str) -> Result<Option<Upload>, Error> {
        let what = format!("push to {repository}");
        let scope = Scope::push(repository).and_pull(from);
        let path = format!("{repository}/blobs/uploads/?mount={digest}&from={from}");
        let request = |client: &Self| client.request(Method::POST, &path).header(CONTENT_LENGTH, 0);
        let mut tries = Tries::new(self, &what);
        let response = loop {
            match self.attempt(&scope, &what, &request).await {
                Ok(response) => break response,
                // Who may not read there sends it as if there were nothing.
                Err(Fault::Final(Error::Denied { .. } | Error::Refused { .. })) => {
                    return self.begin(repository).await.map(Some);
                }
                Err(fault) => tries.after(fault).await?,
            }
        };
        match response.status() {
            StatusCode::CREATED => Ok(None),
            StatusCode::NOT_FOUND => self.begin(repository).await.map(Some),
            _ => Ok(Some(Upload { location: self.location(&response)?, at: 0 })),
        }
    }

    async fn begin(&self, repository: &str) -> Result<Upload, Error> {
        let what = format!("push to {repository}");
        let path = format!("{repository}/blobs/uploads/");
        let request = |client: &Self| client.request(Method::POST, &path).header(CONTENT_LENGTH, 0);
        let response = self.send(&Scope::push(repository), &what, &request).await?;
        if response.status() == StatusCode::NOT_FOUND {
            let what = format!("the repository {repository}");
            return Err(Error::Missing { host: self.host().to_owned(), what });
        }
        Ok(Upload { location: self.location(&response)?, at: 0 })
    }

    fn location(&self, response: &Response) -> Result<Url, Error> {
        let text = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let url = text.and_then(|text| response.url().join(text).ok());
        url.ok_or_else(|| self.answer("an upload without a Location".into()))
    }

    /// Sends a blob. Returns how many bytes went over the network for it.
    async fn upload(
        &self,
        repository: &str,
        blob: &Blob,
        begun: Option<Upload>,
        progress: &Progress,
    ) -> Result<u64, Error> {
        let what = format!("push a layer to {repository}");
        let scope = Scope::push(repository);
        let (digest, size) = (blob.descriptor.digest(), blob.descriptor.size());
        let mut tries = Tries::new(self, &what);
        // How often it was begun: a registry that lets each one break is given up as well.
        let (mut begins, mut sent) = (0, 0);
        let mut next = begun;
        'anew: loop {
            let mut upload = match next.take() {
                Some(begun) => begun,
                None => self.begin(repository).await?,
            };
            begins += 1;
            if begins > 1 {
                self.counters.retries.fetch_add(1, Ordering::Relaxed);
            }
            if begins > 2 * self.retry().attempts {
                let last = "the upload broke again and again".to_owned();
                let host = self.host().to_owned();
                return Err(Error::GaveUp { host, what, attempts: begins - 1, last });
            }
            loop {
                let is_last = upload.at >= size;
                let result = if is_last {
                    self.finish(&scope, &what, &upload, digest).await
                } else {
                    let piece = read_piece(&blob.content, upload.at, PIECE.min(size - upload.at)).await?;
                    let len = piece.len() as u64;
                    self.counters.up.fetch_add(len, Ordering::Relaxed);
                    sent += len;
                    self.send_piece(&scope, &what, &upload, piece).await
                };
                let fault = match result {
                    Ok(_) if is_last => return Ok(sent),
                    Ok(Some(after)) => {
                        tries.progress();
                        progress.add(after.at.saturating_sub(upload.at));
                        upload = after;
                        continue;
                    }
                    Ok(None) => {
                        progress.take_back(upload.at);
                        continue 'anew;
                    }
                    Err(fault) => fault,
                };
                tries.after(fault).await?;
                if is_last && self.blob_size(repository, digest).await? == Some(size) {
                    return Ok(sent);
                }
                match self.status(&scope, &what, &upload).await? {
                    Some(now) if now.at <= size => {
                        if now.at < upload.at {
                            progress.take_back(upload.at - now.at);
                        } else {
                            progress.add(now.at - upload.at);
                        }
                        upload = now;
                    }
                    _ => {
                        progress.take_back(upload.at);
                        continue 'anew;
                    }
                }
            }
        }
    }

    /// Sends one piece. `None` when the registry does not go on with this upload.
    async fn send_piece(
        &self,
        scope: &Scope,
        what: &str,
        upload: &Upload,
        piece: Bytes,
    ) -> Result<Option<Upload>, Fault> {
        let end = upload.at + piece.len() as u64;
        let request = |client: &Self| {
            client
                .request(Method::PATCH, upload.location.as_str())
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_RANGE, format!("{}-{}", upload.at, end - 1))
                .body(piece.clone())
        };
        match self.attempt(scope, what, &request).await {
            Ok(response) if response.status() == StatusCode::NOT_FOUND => Ok(None),
            Ok(response) => {
                let at = received(response.headers()).filter(|at| *at > upload.at).unwrap_or(end);
                Ok(Some(Upload { location: self.location(&response)?, at }))
            }
            Err(Fault::Final(Error::Refused { .. })) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn finish(
        &self,
        scope: &Scope,
        what: &str,
        upload: &Upload,
        digest: &Digest,
    ) -> Result<Option<Upload>, Fault> {
        let mut url = upload.location.clone();
        url.query_pairs_mut().append_pair("digest", digest.as_ref());
        let request = |client: &Self| client.request(Method::PUT, url.as_str()).header(CONTENT_LENGTH, 0);
        match self.attempt(scope, what, &request).await {
            // An upload that is gone may have been finished by a request whose answer was lost.
            Ok(response) if response.status() == StatusCode::NOT_FOUND => {
                Err(Fault::Again { why: "the upload is gone".into(), after: None, is_connection: false })
            }
            Ok(_) => Ok(None),
            Err(Fault::Final(Error::Refused { message, .. })) => {
                Err(Fault::Again { why: message, after: None, is_connection: false })
            }
            Err(fault) => Err(fault),
        }
    }

    /// How much of an upload has come; `None` when the registry does not know it any more.
    async fn status(&self, scope: &Scope, what: &str, upload: &Upload) -> Result<Option<Upload>, Error> {
        let request = |client: &Self| client.request(Method::GET, upload.location.as_str());
        match self.send(scope, what, &request).await {
            Ok(response) if response.status() == StatusCode::NOT_FOUND => Ok(None),
            Ok(response) => {
                let at = received(response.headers()).unwrap_or(0);
                let location = self.location(&response).unwrap_or_else(|_| upload.location.clone());
                Ok(Some(Upload { location, at }))
            }
            Err(Error::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn small_blob(
        &self,
        repository: &str,
        blob: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>, Error> {
        let digest = blob.digest();
        let what = format!("pull {repository}@{digest}");
        let request = |client: &Self| client.request(Method::GET, &format!("{repository}/blobs/{digest}"));
        let (status, _, body) = self.fetch(&Scope::pull(repository), &what, limit, &request).await?;
        if status == StatusCode::NOT_FOUND {
            return Err(self.missing(repository, digest));
        }
        let found = digest_of(&body);
        if found == *digest { Ok(body) } else { Err(self.wrong_digest(repository, digest, found.as_ref())) }
    }

    pub(crate) async fn download_blob(
        &self,
        repository: &str,
        blob: &Descriptor,
        file: &Utf8Path,
        progress: ProgressSink,
    ) -> Result<(), Error> {
        let digest = blob.digest();
        let what = format!("pull {repository}@{digest}");
        let part = Utf8PathBuf::from(format!("{file}.part-{}", std::process::id()));
        let io = |error| Error::File { path: part.clone(), error };
        let mut out = tokio::fs::File::create(&part).await.map_err(io)?;
        let _remove = RemoveOnDrop(part.clone());
        let (mut at, mut hasher) = (0_u64, Sha256::new());
        let mut tries = Tries::new(self, &what);
        while at < blob.size() {
            let before = at;
            let from = at;
            let request = |client: &Self| {
                let request = client.request(Method::GET, &format!("{repository}/blobs/{digest}"));
                if from > 0 { request.header(RANGE, format!("bytes={from}-")) } else { request }
            };
            let fault = match self.attempt(&Scope::pull(repository), &what, &request).await {
                Ok(response) if response.status() == StatusCode::NOT_FOUND => {
                    return Err(self.missing(repository, digest));
                }
                Ok(response) => {
                    if from > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
                        // All of it comes again.
                        (at, hasher) = (0, Sha256::new());
                        out.set_len(0).await.map_err(io)?;
                        out.rewind().await.map_err(io)?;
                    }
                    let mut pieces = response.bytes_stream();
                    loop {
                        match pieces.next().await {
                            None => break None,
                            Some(Err(error)) => break Some(broken(&error)),
                            Some(Ok(piece)) => {
                                at += piece.len() as u64;
                                if at > blob.size() {
                                    return Err(self.wrong_digest(repository, digest, "more bytes"));
                                }
                                self.counters.down.fetch_add(piece.len() as u64, Ordering::Relaxed);
                                hasher.update(&piece);
                                out.write_all(&piece).await.map_err(io)?;
                                progress(at, blob.size());
                            }
                        }
                    }
                }
                Err(fault) => Some(fault),
            };
            if at > before {
                tries.progress();
            }
            if at < blob.size() {
                let ended = || Fault::Again {
                    why: format!("the connection ended after {at} of {} bytes", blob.size()),
                    after: None,
                    is_connection: false,
                };
                tries.after(fault.unwrap_or_else(ended)).await?;
            }
        }
        let found = format!("sha256:{}", hex::encode(hasher.finalize()));
        if found != digest.as_ref() {
            return Err(self.wrong_digest(repository, digest, &found));
        }
        out.flush().await.map_err(io)?;
        out.sync_all().await.map_err(io)?;
        tokio::fs::rename(&part, file).await.map_err(|error| Error::File { path: file.to_owned(), error })
    }

    fn missing(&self, repository: &str, digest: &Digest) -> Error {
        Error::Missing { host: self.host().to_owned(), what: format!("the blob {repository}@{digest}") }
    }

    fn wrong_digest(&self, repository: &str, digest: &Digest, found: &str) -> Error {
        Error::Digest {
            host: self.host().to_owned(),
            what: format!("a blob of {repository}"),
            expected: digest.to_string(),
            found: found.to_owned(),
        }
    }
}

struct RemoveOnDrop(Utf8PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        // It is not there any more when all went well.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn add(all: &mut Vec<String>, one: &str) {
    if !all.iter().any(|known| known == one) {
        all.push(one.to_owned());
    }
}

/// How many bytes have come: `Range: 0-N`, the last one included.
fn received(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(RANGE)?.to_str().ok()?;
    let (_, last) = range.trim_start_matches("bytes=").split_once('-')?;
    // Of nothing, registries say `0-0`, as of one byte: then that byte is sent again.
    match last.parse::<u64>().ok()? {
        0 => Some(0),
        last => Some(last + 1),
    }
}

async fn read_piece(content: &Content, at: u64, len: u64) -> Result<Bytes, Error> {
    let length = usize::try_from(len).expect("a piece fits into memory");
    match content {
        Content::Bytes(bytes) => {
            let at = usize::try_from(at).expect("what is in memory has such a size");
            Ok(bytes.slice(at..at + length))
        }
        Content::There => Ok(Bytes::new()),
        Content::File(path) => {
            let io = |error| Error::File { path: path.clone(), error };
            let mut file = tokio::fs::File::open(path).await.map_err(io)?;
            file.seek(std::io::SeekFrom::Start(at)).await.map_err(io)?;
            let mut piece = vec![0; length];
            file.read_exact(&mut piece).await.map_err(io)?;
            Ok(piece.into())
        }
    }
}
