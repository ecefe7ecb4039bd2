//! One blob out of a repository: its size, a small one whole, or any into a file, streamed, verified, and resumed
//! where it was cut.

use std::io::{Seek, SeekFrom, Write};

use camino::Utf8Path;
use imgforge_http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use imgforge_http::{Client, Method, StatusCode, Url};
use imgforge_oci::{Descriptor, Digest, Hasher};
use tempfile::NamedTempFile;

use crate::Failure;
use crate::auth::Scope;
use crate::error::{Error, clean};
use crate::http::Answer;
use crate::progress::{Meter, ProgressSink};
use crate::registry::{Registry, check, named};

/// A file that grows, beside the place where it will be.
struct Part {
    file: NamedTempFile,
    hash: Hasher,
    length: u64,
}

impl Registry {
    /// A small blob, such as an image's configuration, of at most `limit` bytes; verified.
    ///
    /// # Errors
    /// [`Error::Incomplete`] when it is not there, [`Error::Digest`], [`Error::Answer`] when it is larger.
    pub async fn blob(&self, repository: &str, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, Error> {
        check(repository)?;
        let what = named("the blob", repository, &blob.digest);
        if blob.size > limit {
            return Err(self.answer(&what, format!("it is larger than {limit} bytes")));
        }
        let url = self.blob_url(repository, &blob.digest);
        let scope = Scope::pull(repository);
        let mut tries = self.tries(&what);
        loop {
            match self.get_blob(&what, &scope, &url, repository, blob).await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => tries.again(failure).await?,
            }
        }
    }

    async fn get_blob(
        &self,
        what: &str,
        scope: &Scope,
        url: &Url,
        repository: &str,
        blob: &Descriptor,
    ) -> Result<Vec<u8>, Failure> {
        let answer = self.call(what, scope, |client| client.request(Method::GET, url.clone()), None).await?;
        match answer.response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(self.absent(repository, &blob.digest).into()),
            _ => return Err(self.refused(what, answer).await),
        }
        let bytes = self.0.http.read(answer.response, blob.size, what).await?;
        let mut hash = Hasher::of(&blob.digest);
        hash.update(&bytes);
        let found = hash.finish();
        if found == blob.digest {
            return Ok(bytes);
        }
        let (expected, found) = (blob.digest.clone(), found.to_string());
        Err(Failure::Final(Error::Digest { what: what.to_owned(), expected, found }))
    }

    /// A blob's size; `None` when it is not there (distribution specification, "Checking if content exists in the
    /// registry").
    ///
    /// # Errors
    /// Those of every request.
    pub async fn size(&self, repository: &str, digest: &Digest) -> Result<Option<u64>, Error> {
        check(repository)?;
        let what = named("the blob", repository, digest);
        let url = self.blob_url(repository, digest);
        let request = |client: &Client| client.request(Method::HEAD, url.clone());
        let (status, headers) = self.ask(&what, &Scope::pull(repository), request).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::OK => {
                let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
                length.map(Some).ok_or_else(|| self.answer(&what, "it does not say its length"))
            }
            _ => Err(self.refused_head(&what, status)),
        }
    }

    /// Fetches a blob into the file `to`, which is there only when all of it has come and has its digest (distribution
    /// specification, "Pulling blobs"). What is there already is replaced.
    ///
    /// # Errors
    /// [`Error::Incomplete`] when it is not there, [`Error::Digest`], [`Error::Io`], and those of every request.
    pub async fn download_blob(
        &self,
        repository: &str,
        blob: &Descriptor,
        to: &Utf8Path,
        progress: ProgressSink,
    ) -> Result<(), Error> {
        check(repository)?;
        let what = named("the blob", repository, &blob.digest);
        let url = self.blob_url(repository, &blob.digest);
        let folder = to.parent().filter(|folder| !folder.as_str().is_empty()).unwrap_or(Utf8Path::new("."));
        let file = NamedTempFile::new_in(folder).map_err(Error::io(to))?;
        let mut part = Part { file, hash: Hasher::of(&blob.digest), length: 0 };
        let meter = Meter::new(&progress, blob);
        let mut tries = self.tries(&what);
        let mut furthest = 0;
        loop {
            match self.fetch(&what, repository, &url, blob, to, &mut part, &meter).await {
                Ok(()) => break,
                Err(failure) => {
                    if part.length > furthest {
                        furthest = part.length;
                        tries.moved_on();
                    }
                    tries.again(failure).await?;
                }
            }
        }
        let found = part.hash.finish();
        if found != blob.digest {
            return Err(Error::Digest {
                what: what.clone(),
                expected: blob.digest.clone(),
                found: found.to_string(),
            });
        }
        part.file.persist(to).map_err(|error| Error::Io { path: to.to_owned(), error: error.error })?;
        Ok(())
    }

    /// One try: goes on where `part` ends.
    #[expect(clippy::too_many_arguments, reason = "all of one blob")]
    async fn fetch(
        &self,
        what: &str,
        repository: &str,
        url: &Url,
        blob: &Descriptor,
        to: &Utf8Path,
        part: &mut Part,
        meter: &Meter,
    ) -> Result<(), Failure> {
        let request = |client: &Client| {
            let request = client.request(Method::GET, url.clone());
            if part.length == 0 { request } else { request.header(RANGE, format!("bytes={}-", part.length)) }
        };
        let answer = self.call(what, &Scope::pull(repository), request, None).await?;
        let goes_on = match answer.response.status() {
            StatusCode::OK => false,
            StatusCode::PARTIAL_CONTENT => {
                let range =
                    answer.response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
                range.is_some_and(|range| range.starts_with(&format!("bytes {}-", part.length)))
            }
            StatusCode::RANGE_NOT_SATISFIABLE if part.length > 0 => {
                part.restart(blob).map_err(Error::io(to))?;
                return Err(Failure::passing("it refuses to go on where it was cut"));
            }
            StatusCode::NOT_FOUND => return Err(self.absent(repository, &blob.digest).into()),
            _ => return Err(self.refused(what, answer).await),
        };
        if !goes_on {
            let is_part = answer.response.status() == StatusCode::PARTIAL_CONTENT;
            part.restart(blob).map_err(Error::io(to))?;
            if is_part {
                return Err(Failure::passing("it sends another part than was asked for"));
            }
        }
        meter.set(part.length);
        let Answer { response, _permit } = answer;
        let mut body = self.0.http.client().body(response);
        while let Some(bytes) = body.chunk().await.map_err(|reason| Failure::passing(clean(&reason)))? {
            part.length += bytes.len() as u64;
            if part.length > blob.size {
                return Err(self.answer(what, format!("it is larger than {} bytes", blob.size)).into());
            }
            part.hash.update(&bytes);
            // Into the page cache, which does not wait: not worth a thread for each part.
            part.file.write_all(&bytes).map_err(Error::io(to))?;
            meter.add(bytes.len() as u64);
        }
        if part.length < blob.size {
            return Err(Failure::passing(format!("cut after {} of {} bytes", part.length, blob.size)));
        }
        Ok(())
    }
}

impl Part {
    fn restart(&mut self, blob: &Descriptor) -> std::io::Result<()> {
        if self.length > 0 {
            self.file.as_file_mut().set_len(0)?;
            self.file.seek(SeekFrom::Start(0))?;
            self.hash = Hasher::of(&blob.digest);
            self.length = 0;
        }
        Ok(())
    }
}
