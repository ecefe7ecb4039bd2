//! One registry: manifests, small blobs, tags.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use camino::Utf8PathBuf;
use futures_util::future::{BoxFuture, try_join_all};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, LINK};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use crate::auth::{Auth, Scope};
use crate::credentials::Credentials;
use crate::digest::{Descriptor, Digest, Hasher};
use crate::error::{Error, clean};
use crate::http::{Answer, Clock, Http, Traffic};
use crate::manifest::{self, Manifest};
use crate::reference::{Reference, check_repository};
use crate::retry::{Failure, Retry, Tries};

/// The longest manifest (distribution specification, "Pushing Manifests": registries take at least 4 MiB).
const MANIFEST: u64 = 4 << 20;
/// The longest page of tags, in bytes.
const PAGE: u64 = 4 << 20;
/// The most pages of tags.
const PAGES: usize = 10_000;
/// How deep indexes may hold indexes.
const DEPTH: usize = 3;

/// How to reach a registry.
#[derive(Debug, Clone)]
pub struct Options {
    /// `docker.io`, `registry.example.com`, `127.0.0.1:5000`.
    pub host: String,
    /// Whether it is spoken to without encryption; `None`: only on this machine's loopback.
    pub plain_http: Option<bool>,
    /// Certificates, in PEM, that are trusted besides the system's.
    pub ca_file: Option<Utf8PathBuf>,
    /// Who we are to it.
    pub credentials: Credentials,
    /// How patient to be.
    pub retry: Retry,
    /// The most requests at once.
    pub parallel: usize,
    /// Bytes in one request of a longer upload: what is sent again after a cut behind a proxy that waits for whole
    /// requests.
    pub chunk: u64,
}

impl Options {
    /// With all else as it is usual.
    pub fn new(host: impl Into<String>, credentials: Credentials) -> Self {
        Self {
            host: host.into(),
            plain_http: None,
            ca_file: None,
            credentials,
            retry: Retry::default(),
            parallel: 8,
            chunk: 16 << 20,
        }
    }
}

/// One registry host. Clones share its connections, logins and limits.
///
/// Every operation can be dropped at any time: what it has begun is then as if its connection had been cut, and the next
/// one that does the same ends well.
#[derive(Clone)]
pub struct Registry(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    host: String,
    pub(crate) http: Http,
    auth: Auth,
    retry: Retry,
    pub(crate) chunk: u64,
    /// One lock for each blob that is being sent to a repository.
    uploads: Uploads,
}

type Uploads = Mutex<HashMap<(String, Digest), Weak<tokio::sync::Mutex<()>>>>;

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.0.host).finish()
    }
}

impl Registry {
    /// Prepares to speak to a registry; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Options`].
    pub fn new(options: Options) -> Result<Self, Error> {
        let http = Http::new(&options)?;
        let auth = Auth::new(&options.host, options.credentials);
        let (host, retry, chunk) = (options.host, options.retry, options.chunk.max(1));
        Ok(Self(Arc::new(Inner { host, http, auth, retry, chunk, uploads: Mutex::default() })))
    }

    /// As it is written in references.
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// What has gone over the network so far.
    pub fn sent(&self) -> Traffic {
        self.0.http.counters.traffic()
    }

    /// The manifest that a tag or a digest means; `None` when there is none (distribution specification, "Pulling
    /// Manifests"). Its digest is computed from its bytes, and must be the one that was asked for and the one that the
    /// registry says.
    ///
    /// # Errors
    /// [`Error::Digest`], [`Error::Answer`], and those of every request.
    pub async fn manifest(&self, repository: &str, reference: &Reference) -> Result<Option<Manifest>, Error> {
        check(repository)?;
        let what = named("the manifest", repository, reference);
        let url = self.0.http.url(&format!("{repository}/manifests/{reference}"));
        let scope = Scope::pull(repository);
        let mut tries = self.tries(&what);
        loop {
            match self.get_manifest(&what, &scope, &url, reference).await {
                Ok(manifest) => return Ok(manifest),
                Err(failure) => tries.again(failure).await?,
            }
        }
    }

    async fn get_manifest(
        &self,
        what: &str,
        scope: &Scope,
        url: &Url,
        reference: &Reference,
    ) -> Result<Option<Manifest>, Failure> {
        let request = |client: &Client| client.get(url.clone()).header(ACCEPT, manifest::ACCEPT);
        let answer = self.call(what, scope, request, None).await?;
        match answer.response.status() {
            StatusCode::NOT_FOUND => return Ok(None),
            StatusCode::OK => {}
            _ => return Err(self.refused(what, answer).await),
        }
        let headers = answer.response.headers().clone();
        let bytes: Bytes = self.0.http.read(answer.response, MANIFEST, what).await?.into();
        let found = Digest::sha256(&bytes);
        let differs = |expected: &Digest| {
            Failure::Final(Error::Digest {
                what: what.to_owned(),
                expected: expected.clone(),
                found: found.to_string(),
            })
        };
        if let Reference::Digest(digest) = reference
            && !digest.is_of(&bytes)
        {
            return Err(differs(digest));
        }
        if let Some(said) = self.said_digest(what, &headers)?
            && !said.is_of(&bytes)
        {
            return Err(differs(&said));
        }
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let manifest = Manifest::parse(bytes, content_type).map_err(|reason| self.answer(what, reason))?;
        Ok(Some(match reference {
            Reference::Digest(digest) => manifest.called(digest),
            Reference::Tag(_) => manifest,
        }))
    }

    /// The digest that a tag or a digest means, without its manifest; `None` when there is none. Of a registry that does
    /// not say it, the manifest is read.
    ///
    /// # Errors
    /// As of [`manifest`](Self::manifest).
    pub async fn digest(&self, repository: &str, reference: &Reference) -> Result<Option<Digest>, Error> {
        check(repository)?;
        let what = named("the manifest", repository, reference);
        let url = self.0.http.url(&format!("{repository}/manifests/{reference}"));
        let request = |client: &Client| client.head(url.clone()).header(ACCEPT, manifest::ACCEPT);
        let scope = Scope::pull(repository);
        let (status, headers) = self.ask(&what, &scope, request).await?;
        match status {
            StatusCode::NOT_FOUND => return Ok(None),
            StatusCode::OK => {}
            _ => return Err(self.refused_head(&what, status)),
        }
        match self.said_digest(&what, &headers)? {
            Some(said) => match reference {
                Reference::Digest(digest) if *digest != said => {
                    Err(Error::Digest { what, expected: digest.clone(), found: said.to_string() })
                }
                _ => Ok(Some(said)),
            },
            None => Ok(self.manifest(repository, reference).await?.map(|m| m.digest().clone())),
        }
    }

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
        let answer = self.call(what, scope, |client| client.get(url.clone()), None).await?;
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

    /// Writes a manifest under a tag or its digest (distribution specification, "Pushing Manifests"), and reads a tag
    /// back.
    ///
    /// # Errors
    /// [`Error::TagMoved`], [`Error::Digest`], [`Error::Refused`] when a blob of it is not there.
    pub async fn put_manifest(
        &self,
        repository: &str,
        reference: &Reference,
        manifest: &Manifest,
    ) -> Result<(), Error> {
        check(repository)?;
        let what = named("to take the manifest", repository, reference);
        let digest = manifest.digest();
        if let Reference::Digest(expected) = reference
            && !expected.is_of(manifest.bytes())
        {
            return Err(Error::Digest { what, expected: expected.clone(), found: digest.to_string() });
        }
        let url = self.0.http.url(&format!("{repository}/manifests/{reference}"));
        let request = |client: &Client| {
            self.0.http.counters.sent(manifest.bytes().len() as u64);
            let body = manifest.bytes().clone();
            client.put(url.clone()).header(CONTENT_TYPE, manifest.media_type()).body(body)
        };
        let headers = self.expect(&what, &Scope::push(repository), request, StatusCode::CREATED).await?;
        if let Some(said) = self.said_digest(&what, &headers)?
            && !said.is_of(manifest.bytes())
        {
            return Err(Error::Digest { what, expected: digest.clone(), found: said.to_string() });
        }
        let Reference::Tag(tag) = reference else { return Ok(()) };
        let found = self.digest(repository, reference).await?;
        if found.as_ref().is_some_and(|found| found.is_of(manifest.bytes())) {
            return Ok(());
        }
        Err(Error::TagMoved {
            registry: self.0.host.clone(),
            repository: repository.to_owned(),
            tag: tag.clone(),
            expected: digest.clone(),
            found,
        })
    }

    /// Whether a manifest is there with all that it names: config and layers with their sizes, and for an index every
    /// manifest of it. Nothing of the blobs is read.
    ///
    /// # Errors
    /// [`Error::Incomplete`] with every part that is not there.
    pub async fn verify(&self, repository: &str, digest: &Digest) -> Result<Manifest, Error> {
        let mut missing = Vec::new();
        let manifest = self.verify_manifest(repository, digest, &mut missing, 0).await?;
        match manifest {
            Some(manifest) if missing.is_empty() => Ok(manifest),
            _ => Err(Error::Incomplete {
                registry: self.0.host.clone(),
                repository: repository.to_owned(),
                digest: digest.clone(),
                missing,
            }),
        }
    }

    fn verify_manifest<'a>(
        &'a self,
        repository: &'a str,
        digest: &'a Digest,
        missing: &'a mut Vec<String>,
        depth: usize,
    ) -> BoxFuture<'a, Result<Option<Manifest>, Error>> {
        Box::pin(async move {
            let Some(manifest) = self.manifest(repository, &digest.into()).await? else {
                missing.push(format!("the manifest {digest} is absent"));
                return Ok(None);
            };
            for entry in manifest.entries().unwrap_or_default() {
                if depth == DEPTH {
                    missing.push(format!("{digest} holds indexes more than {DEPTH} deep"));
                    break;
                }
                self.verify_manifest(repository, &entry.digest, missing, depth + 1).await?;
            }
            let blobs =
                manifest.config().into_iter().chain(manifest.layers()).filter(|blob| !blob.is_elsewhere());
            let sizes =
                blobs.map(|blob| async move { Ok((blob, self.size(repository, &blob.digest).await?)) });
            for (blob, size) in try_join_all(sizes).await? {
                match size {
                    None => missing.push(format!("the blob {} is absent", blob.digest)),
                    Some(size) if size != blob.size => {
                        missing.push(format!(
                            "the blob {} has {size} bytes instead of {}",
                            blob.digest, blob.size
                        ));
                    }
                    Some(_) => {}
                }
            }
            Ok(Some(manifest))
        })
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
        let request = |client: &Client| client.head(url.clone());
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

    /// All tags of a repository, sorted; none when there is no such repository (distribution specification, "Listing
    /// Tags").
    ///
    /// # Errors
    /// [`Error::Answer`] for pages without an end, and those of every request.
    pub async fn tags(&self, repository: &str) -> Result<Vec<String>, Error> {
        check(repository)?;
        let what = format!("the tags of {repository}");
        let scope = Scope::pull(repository);
        let mut url = self.0.http.url(&format!("{repository}/tags/list?n=1000"));
        let mut tags = Vec::new();
        for _ in 0..PAGES {
            let Some((page, next)) = self.page(&what, &scope, &url).await? else { return Ok(tags) };
            tags.extend(page);
            match next {
                None => {
                    // Distribution 2.x does not sort them.
                    tags.sort();
                    return Ok(tags);
                }
                Some(next) if next == url || !self.0.http.is_ours(&next) => {
                    return Err(self.answer(&what, "its next page is this one, or in another registry"));
                }
                Some(next) => url = next,
            }
        }
        Err(self.answer(&what, format!("there are more than {PAGES} pages")))
    }

    /// One page of tags, and where the next one is.
    async fn page(
        &self,
        what: &str,
        scope: &Scope,
        url: &Url,
    ) -> Result<Option<(Vec<String>, Option<Url>)>, Error> {
        let mut tries = self.tries(what);
        loop {
            match self.get_page(what, scope, url).await {
                Ok(page) => return Ok(page),
                Err(failure) => tries.again(failure).await?,
            }
        }
    }

    async fn get_page(
        &self,
        what: &str,
        scope: &Scope,
        url: &Url,
    ) -> Result<Option<(Vec<String>, Option<Url>)>, Failure> {
        let answer = self.call(what, scope, |client| client.get(url.clone()), None).await?;
        match answer.response.status() {
            StatusCode::NOT_FOUND => return Ok(None),
            StatusCode::OK => {}
            _ => return Err(self.refused(what, answer).await),
        }
        let mut links = answer.response.headers().get_all(LINK).iter();
        let next = links.find_map(|link| next_link(link.to_str().ok()?));
        let next = match next {
            Some(next) => {
                Some(url.join(&next).map_err(|_| self.answer(what, "its link to the next page is wrong"))?)
            }
            None => None,
        };
        let bytes = self.0.http.read(answer.response, PAGE, what).await?;
        let page: TagList = serde_json::from_slice(&bytes).map_err(|e| self.answer(what, e.to_string()))?;
        Ok(Some((page.tags.unwrap_or_default(), next)))
    }

    /// Deletes a manifest, and with it every tag that points to it (distribution specification, "Deleting Manifests").
    /// One that is not there is no error.
    ///
    /// # Errors
    /// [`Error::DeletionDisabled`].
    pub async fn delete_manifest(&self, repository: &str, digest: &Digest) -> Result<(), Error> {
        check(repository)?;
        let what = named("to delete", repository, digest);
        let url = self.0.http.url(&format!("{repository}/manifests/{digest}"));
        let scope = Scope::delete(repository);
        let mut tries = self.tries(&what);
        loop {
            let failure = match self.call(&what, &scope, |client| client.delete(url.clone()), None).await {
                Ok(answer) => match answer.response.status() {
                    StatusCode::ACCEPTED
                    | StatusCode::OK
                    | StatusCode::NO_CONTENT
                    | StatusCode::NOT_FOUND => {
                        return Ok(());
                    }
                    StatusCode::METHOD_NOT_ALLOWED => {
                        return Err(Error::DeletionDisabled { registry: self.0.host.clone() });
                    }
                    _ => self.refused(&what, answer).await,
                },
                Err(failure) => failure,
            };
            tries.again(failure).await?;
        }
    }

    // What the other modules send with.

    pub(crate) fn tries<'a>(&'a self, what: &'a str) -> Tries<'a> {
        Tries::new(&self.0.retry, &self.0.host, what)
    }

    /// One try of one request, with a login when the registry wants one. Answers 401 and 403 are errors.
    pub(crate) async fn call(
        &self,
        what: &str,
        scope: &Scope,
        request: impl Fn(&Client) -> RequestBuilder,
        clock: Option<&Clock>,
    ) -> Result<Answer, Failure> {
        let Inner { http, auth, .. } = &*self.0;
        let mut header = auth.header(http, scope).await?;
        let permit = http.permit().await;
        let mut is_first = true;
        loop {
            let mut request = request(http.client());
            if let Some(header) = &header {
                request = request.header(AUTHORIZATION, header.clone());
            }
            let response = http.send(request, clock).await?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && is_first {
                is_first = false;
                let fresh = auth.refresh(http, scope, header.as_ref(), response.headers()).await?;
                if fresh.is_some() {
                    header = fresh;
                    continue;
                }
            }
            if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                return Err(self.unauthorised(what, scope, response).await);
            }
            return Ok(Answer { response, _permit: permit });
        }
    }

    /// Status and headers of an answer whose body does not matter.
    pub(crate) async fn ask(
        &self,
        what: &str,
        scope: &Scope,
        request: impl Fn(&Client) -> RequestBuilder,
    ) -> Result<(StatusCode, HeaderMap), Error> {
        let mut tries = self.tries(what);
        loop {
            match self.call(what, scope, &request, None).await {
                Ok(answer) => return Ok((answer.response.status(), answer.response.headers().clone())),
                Err(failure) => tries.again(failure).await?,
            }
        }
    }

    /// The headers of an answer with this status; every other one is an error.
    async fn expect(
        &self,
        what: &str,
        scope: &Scope,
        request: impl Fn(&Client) -> RequestBuilder,
        status: StatusCode,
    ) -> Result<HeaderMap, Error> {
        let mut tries = self.tries(what);
        loop {
            let failure = match self.call(what, scope, &request, None).await {
                Ok(answer) if answer.response.status() == status => {
                    return Ok(answer.response.headers().clone());
                }
                Ok(answer) => self.refused(what, answer).await,
                Err(failure) => failure,
            };
            tries.again(failure).await?;
        }
    }

    pub(crate) fn blob_url(&self, repository: &str, digest: &Digest) -> Url {
        self.0.http.url(&format!("{repository}/blobs/{digest}"))
    }

    pub(crate) fn answer(&self, what: &str, reason: impl Into<String>) -> Error {
        Error::Answer { registry: self.0.host.clone(), what: what.to_owned(), reason: reason.into() }
    }

    pub(crate) fn absent(&self, repository: &str, digest: &Digest) -> Error {
        Error::Incomplete {
            registry: self.0.host.clone(),
            repository: repository.to_owned(),
            digest: digest.clone(),
            missing: vec!["it is absent".to_owned()],
        }
    }

    /// An answer that is not what was expected.
    pub(crate) async fn refused(&self, what: &str, answer: Answer) -> Failure {
        let status = answer.response.status().as_u16();
        let message = self.0.http.message(answer.response).await;
        Failure::Final(Error::Refused {
            registry: self.0.host.clone(),
            what: what.to_owned(),
            status,
            code: message.code,
            message: message.message,
        })
    }

    /// The same of an answer that has no body.
    pub(crate) fn refused_head(&self, what: &str, status: StatusCode) -> Error {
        Error::Refused {
            registry: self.0.host.clone(),
            what: what.to_owned(),
            status: status.as_u16(),
            code: String::new(),
            message: status.to_string(),
        }
    }

    async fn unauthorised(&self, what: &str, scope: &Scope, response: Response) -> Failure {
        let message = self.0.http.message(response).await.message;
        Failure::Final(Error::Authentication {
            registry: self.0.host.clone(),
            repository: scope.repository().to_owned(),
            what: what.to_owned(),
            tried: self.0.auth.tried(),
            message,
        })
    }

    /// The digest that the registry gives in `Docker-Content-Digest`.
    fn said_digest(&self, what: &str, headers: &HeaderMap) -> Result<Option<Digest>, Error> {
        let Some(value) = headers.get("docker-content-digest") else { return Ok(None) };
        let digest = value.to_str().ok().and_then(|text| text.parse().ok());
        digest.map(Some).ok_or_else(|| self.answer(what, "its Docker-Content-Digest is no digest"))
    }

    /// The lock of a blob on its way to a repository: whoever comes second waits, and then finds the blob there.
    pub(crate) fn upload_lock(&self, repository: &str, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut uploads = self.0.uploads.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        uploads.retain(|_, lock| lock.strong_count() > 0);
        let key = (repository.to_owned(), digest.clone());
        if let Some(lock) = uploads.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        uploads.insert(key, Arc::downgrade(&lock));
        lock
    }
}

/// What something is called in errors: `what REPOSITORY:TAG`, `what REPOSITORY@DIGEST`.
pub(crate) fn named(what: &str, repository: &str, reference: &impl fmt::Display) -> String {
    let reference = reference.to_string();
    let separator = if reference.contains(':') { '@' } else { ':' };
    format!("{what} {repository}{separator}{reference}")
}

/// Repositories are checked before they become part of an address.
pub(crate) fn check(repository: &str) -> Result<(), Error> {
    check_repository(repository).map_err(|reason| Error::Reference { text: clean(repository), reason })
}

/// The address of `Link: <ADDRESS>; rel="next"` (RFC 8288).
fn next_link(link: &str) -> Option<String> {
    let mut rest = link;
    while let Some((_, after)) = rest.split_once('<') {
        let (address, parameters) = after.split_once('>')?;
        let end = parameters.find(",<").or_else(|| parameters.find(", <")).unwrap_or(parameters.len());
        let is_next = parameters[..end].split(';').any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            let value = value.trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("rel")
                && value.split(' ').any(|rel| rel.eq_ignore_ascii_case("next"))
        });
        if is_next {
            return Some(address.to_owned());
        }
        rest = &parameters[end..];
    }
    None
}

#[derive(Deserialize)]
struct TagList {
    tags: Option<Vec<String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_links() {
        assert_eq!(
            next_link("</v2/a/tags/list?n=2&last=b>; rel=\"next\"").as_deref(),
            Some("/v2/a/tags/list?n=2&last=b")
        );
        assert_eq!(next_link("<x>; rel=prev, <y>; title=\"z\"; REL=\"last Next\"").as_deref(), Some("y"));
        assert_eq!(next_link("<x>; rel=prev"), None);
        assert_eq!(next_link("rel=next"), None);
        assert_eq!(next_link("<x; rel=next"), None);
    }
}
