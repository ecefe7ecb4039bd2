//! Manifests and indexes in a registry: read, written, verified with all that they name, deleted.

use bytes::Bytes;
use futures_util::future::{BoxFuture, try_join_all};
use imgforge_http::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use imgforge_http::{Client, Method, RequestBuilder, StatusCode, Url};
use imgforge_oci::{Digest, Manifest, TagOrDigest, media_type};

use crate::Failure;
use crate::auth::Scope;
use crate::error::Error;
use crate::registry::{Registry, check, named};

/// The longest manifest (distribution specification, "Pushing Manifests": registries take at least 4 MiB).
const MANIFEST: u64 = 4 << 20;
/// How deep indexes may hold indexes.
const DEPTH: usize = 3;
/// How many manifests may hang together by indexes; an index of all platforms has some twenty.
const MANIFESTS: usize = 1_000;
/// How often a manifest is sent before a registry that calls a digest in it invalid is believed.
const INVALID: u32 = 4;

/// What has been looked at of an image or an index.
#[derive(Default)]
struct Verified {
    /// Every part that is not there.
    missing: Vec<String>,
    manifests: usize,
}

impl Registry {
    /// The manifest that a tag or a digest means; `None` when there is none (distribution specification, "Pulling
    /// Manifests"). Its digest is computed from its bytes, and must be the one that was asked for and the one that the
    /// registry says.
    ///
    /// # Errors
    /// [`Error::Digest`], [`Error::Answer`], and those of every request.
    pub async fn manifest(
        &self,
        repository: &str,
        reference: &TagOrDigest,
    ) -> Result<Option<Manifest>, Error> {
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
        reference: &TagOrDigest,
    ) -> Result<Option<Manifest>, Failure> {
        let request =
            |client: &Client| client.request(Method::GET, url.clone()).header(ACCEPT, media_type::ACCEPT);
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
        if let TagOrDigest::Digest(digest) = reference
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
            TagOrDigest::Digest(digest) => manifest.called(digest),
            TagOrDigest::Tag(_) => manifest,
        }))
    }

    /// The digest that a tag or a digest means, without its manifest; `None` when there is none. Of a registry that
    /// does not say it, the manifest is read.
    ///
    /// # Errors
    /// As of [`manifest`](Self::manifest).
    pub async fn digest(&self, repository: &str, reference: &TagOrDigest) -> Result<Option<Digest>, Error> {
        check(repository)?;
        let what = named("the manifest", repository, reference);
        let url = self.0.http.url(&format!("{repository}/manifests/{reference}"));
        let request =
            |client: &Client| client.request(Method::HEAD, url.clone()).header(ACCEPT, media_type::ACCEPT);
        let scope = Scope::pull(repository);
        let (status, headers) = self.ask(&what, &scope, request).await?;
        match status {
            StatusCode::NOT_FOUND => return Ok(None),
            StatusCode::OK => {}
            _ => return Err(self.refused_head(&what, status)),
        }
        match self.said_digest(&what, &headers)? {
            Some(said) => match reference {
                TagOrDigest::Digest(digest) if *digest != said => {
                    Err(Error::Digest { what, expected: digest.clone(), found: said.to_string() })
                }
                _ => Ok(Some(said)),
            },
            None => Ok(self.manifest(repository, reference).await?.map(|m| m.digest().clone())),
        }
    }

    /// Writes a manifest under a tag or its digest (distribution specification, "Pushing Manifests"), and reads a tag
    /// back.
    ///
    /// # Errors
    /// [`Error::TagMoved`], [`Error::Digest`], [`Error::Refused`] when a blob of it is not there.
    pub async fn put_manifest(
        &self,
        repository: &str,
        reference: &TagOrDigest,
        manifest: &Manifest,
    ) -> Result<(), Error> {
        check(repository)?;
        let what = named("the upload of the manifest", repository, reference);
        let digest = manifest.digest();
        if let TagOrDigest::Digest(expected) = reference
            && !expected.is_of(manifest.bytes())
        {
            return Err(Error::Digest { what, expected: expected.clone(), found: digest.to_string() });
        }
        let url = self.0.http.url(&format!("{repository}/manifests/{reference}"));
        let request = |client: &Client| {
            self.0.http.client().sent(manifest.bytes().len() as u64);
            let body = manifest.bytes().clone();
            client
                .request(Method::PUT, url.clone())
                .header(CONTENT_TYPE, manifest.media_type().as_ref())
                .body(body)
        };
        let headers = self.send_manifest(&what, &Scope::push(repository), request).await?;
        if let Some(said) = self.said_digest(&what, &headers)?
            && !said.is_of(manifest.bytes())
        {
            return Err(Error::Digest { what, expected: digest.clone(), found: said.to_string() });
        }
        let TagOrDigest::Tag(tag) = reference else { return Ok(()) };
        let found = self.digest(repository, reference).await?;
        if found.as_ref().is_some_and(|found| found.is_of(manifest.bytes())) {
            return Ok(());
        }
        let reference = format!("{}/{repository}:{tag}", self.host());
        Err(Error::TagMoved { reference, expected: digest.clone(), found })
    }

    /// The headers of the answer to a manifest that was taken. The digests in it are right, since they are computed
    /// here. Distribution 2.x says of one that it is invalid while another push of the same blob to the same
    /// repository ends: it empties the file that links the blob, and then writes it again.
    async fn send_manifest(
        &self,
        what: &str,
        scope: &Scope,
        request: impl Fn(&Client) -> RequestBuilder,
    ) -> Result<HeaderMap, Error> {
        let (mut tries, mut invalid) = (self.tries(what), 0);
        loop {
            let mut failure = match self.call(what, scope, &request, None).await {
                Ok(answer) if answer.response.status() == StatusCode::CREATED => {
                    return Ok(answer.response.headers().clone());
                }
                Ok(answer) => self.refused(what, answer).await,
                Err(failure) => failure,
            };
            invalid += u32::from(is_invalid_digest(&failure));
            if is_invalid_digest(&failure) && invalid < INVALID {
                failure = Failure::passing("it calls a digest invalid that is not");
            }
            tries.again(failure).await?;
        }
    }

    /// Whether a manifest is there with all that it names: config and layers with their sizes, and for an index every
    /// manifest of it. Nothing of the blobs is read.
    ///
    /// # Errors
    /// [`Error::Incomplete`] with every part that is not there.
    pub async fn verify(&self, repository: &str, digest: &Digest) -> Result<Manifest, Error> {
        let mut verified = Verified::default();
        let manifest = self.verify_manifest(repository, digest, &mut verified, 0).await?;
        let missing = verified.missing;
        match manifest {
            Some(manifest) if missing.is_empty() => Ok(manifest),
            _ => Err(Error::Incomplete {
                registry: self.host().to_owned(),
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
        verified: &'a mut Verified,
        depth: usize,
    ) -> BoxFuture<'a, Result<Option<Manifest>, Error>> {
        Box::pin(async move {
            verified.manifests += 1;
            let Some(manifest) = self.manifest(repository, &digest.into()).await? else {
                verified.missing.push(format!("the manifest {digest} is absent"));
                return Ok(None);
            };
            for entry in manifest.entries().unwrap_or_default() {
                if depth == DEPTH {
                    verified.missing.push(format!("{digest} holds indexes more than {DEPTH} deep"));
                    break;
                }
                if verified.manifests == MANIFESTS {
                    verified.missing.push(format!("{digest} holds more than {MANIFESTS} manifests"));
                    break;
                }
                self.verify_manifest(repository, &entry.digest, verified, depth + 1).await?;
            }
            let blobs =
                manifest.config().into_iter().chain(manifest.layers()).filter(|blob| !blob.is_elsewhere());
            let sizes = blobs.map(|blob| async move {
                Ok::<_, Error>((blob, self.size(repository, &blob.digest).await?))
            });
            for (blob, size) in try_join_all(sizes).await? {
                match size {
                    None => verified.missing.push(format!("the blob {} is absent", blob.digest)),
                    Some(size) if size != blob.size => {
                        verified.missing.push(format!(
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

    /// Deletes a manifest, and with it every tag that points to it (distribution specification, "Deleting Manifests").
    /// One that is not there is no error.
    ///
    /// # Errors
    /// [`Error::DeletionDisabled`].
    pub async fn delete_manifest(&self, repository: &str, digest: &Digest) -> Result<(), Error> {
        check(repository)?;
        let what = named("the deletion of", repository, digest);
        let url = self.0.http.url(&format!("{repository}/manifests/{digest}"));
        let scope = Scope::delete(repository);
        let mut tries = self.tries(&what);
        loop {
            let failure = match self
                .call(&what, &scope, |client| client.request(Method::DELETE, url.clone()), None)
                .await
            {
                Ok(answer) => match answer.response.status() {
                    StatusCode::ACCEPTED
                    | StatusCode::OK
                    | StatusCode::NO_CONTENT
                    | StatusCode::NOT_FOUND => {
                        return Ok(());
                    }
                    StatusCode::METHOD_NOT_ALLOWED => {
                        return Err(Error::DeletionDisabled { registry: self.host().to_owned() });
                    }
                    _ => self.refused(&what, answer).await,
                },
                Err(failure) => failure,
            };
            tries.again(failure).await?;
        }
    }

    /// The digest that the registry gives in `Docker-Content-Digest`.
    fn said_digest(&self, what: &str, headers: &HeaderMap) -> Result<Option<Digest>, Error> {
        let Some(value) = headers.get("docker-content-digest") else { return Ok(None) };
        let digest = value.to_str().ok().and_then(|text| text.parse().ok());
        digest.map(Some).ok_or_else(|| self.answer(what, "its Docker-Content-Digest is no digest"))
    }
}

fn is_invalid_digest(failure: &Failure) -> bool {
    matches!(failure, Failure::Final(Error::Refused { code, .. }) if code == "DIGEST_INVALID")
}
