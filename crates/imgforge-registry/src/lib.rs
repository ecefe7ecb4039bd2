//! The OCI distribution side: what a registry holds, pushing to it, moving its tags.
//!
//! [`Registry`] speaks to one registry. It finds credentials when it is asked for them (`auth`), tries again what can be
//! tried again (`client`), sends blobs in pieces and goes on where a connection broke (`blobs`), and believes nothing
//! whose digest it has not computed itself (`manifest`).
//!
//! The rules are those of the OCI Distribution Specification 1.1; sections are named where one is followed.

mod auth;
mod blobs;
mod client;
mod error;
mod manifest;
mod reference;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use camino::Utf8PathBuf;
use futures_util::stream::TryStreamExt;
use futures_util::{FutureExt, StreamExt};
use reqwest::header::{ACCEPT, CONTENT_TYPE, LINK};
use reqwest::{Method, StatusCode};
use serde::Deserialize;

pub use self::auth::{Credentials, Login, PASSWORD_VARIABLE, USER_VARIABLE};
pub use self::client::Traffic;
pub use self::error::Error;
pub use self::manifest::{
    Descriptor, Digest, IMAGE_CONFIG, IMAGE_MANIFEST, Manifest, MediaType, descriptor, digest_of,
};
pub use self::reference::{ImageReference, Reference};
use crate::client::{Client, Scope};

/// What is larger is no manifest (the specification lets registries refuse more than 4 MiB).
const MAX_MANIFEST: u64 = 4 << 20;
/// How many blobs of one image are on their way at once.
const BLOBS_AT_ONCE: usize = 4;

/// How a registry is spoken to.
#[derive(Debug, Clone)]
pub struct Options {
    /// `HOST` or `HOST:PORT`.
    pub host: String,
    /// Whether it is spoken to without TLS; when not given, only one on loopback is.
    pub plain_http: Option<bool>,
    /// A certificate authority in PEM, beside those of the system.
    pub ca_file: Option<Utf8PathBuf>,
    /// Where credentials are looked for.
    pub credentials: Credentials,
    /// How often is tried again.
    pub retry: Retry,
}

impl Options {
    /// The usual way to speak to a host.
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            plain_http: None,
            ca_file: None,
            credentials: Credentials::default(),
            retry: Retry::default(),
        }
    }
}

/// How often, and after which time, is tried again what may go well the next time: connections that break, 408, 429, 5xx.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// How often in all.
    pub attempts: u32,
    /// The first pause; each is twice as long as the one before, and half of it is left to chance.
    pub pause: Duration,
    /// No pause is longer, also not one that the registry asks for.
    pub longest: Duration,
    /// A connection on which nothing comes for so long is broken.
    pub idle: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 6,
            pause: Duration::from_millis(250),
            longest: Duration::from_secs(30),
            idle: Duration::from_secs(30),
        }
    }
}

/// One registry. Clones share connections, tokens and counters.
#[derive(Debug, Clone)]
pub struct Registry {
    client: Arc<Client>,
}

/// An image to be pushed.
#[derive(Debug, Clone)]
pub struct PushImage {
    /// Its configuration: JSON of the type `application/vnd.oci.image.config.v1+json`.
    pub config: Vec<u8>,
    /// Its layers, lowest first.
    pub layers: Vec<PushLayer>,
    /// Annotations of its manifest.
    pub annotations: BTreeMap<String, String>,
}

/// A layer of an image to be pushed.
#[derive(Debug, Clone)]
pub struct PushLayer {
    /// What it is, compressed.
    pub descriptor: Descriptor,
    /// The compressed bytes; none when they must be in the registry already.
    pub file: Option<Utf8PathBuf>,
    /// Repositories of the same registry that may have it.
    pub mount_from: Vec<String>,
}

/// An image that was pushed. It has no tag yet.
#[derive(Debug, Clone)]
pub struct PushedImage {
    /// Its manifest.
    pub manifest: Manifest,
    /// How many bytes of blobs were sent for it.
    pub sent: u64,
    /// How many blobs were mounted from another repository.
    pub mounted: usize,
    /// How many blobs were there.
    pub existed: usize,
}

/// Told of progress: bytes of layers that are there, and of all.
pub type ProgressSink = Arc<dyn Fn(u64, u64) + Send + Sync>;

impl Registry {
    /// A registry. Nothing is asked yet.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Configuration`] for a CA file.
    pub fn new(options: Options) -> Result<Self, Error> {
        Ok(Self { client: Arc::new(Client::new(options)?) })
    }

    /// Its name: `HOST` or `HOST:PORT`.
    pub fn host(&self) -> &str {
        self.client.host()
    }

    /// What went over the network so far.
    pub fn traffic(&self) -> Traffic {
        self.client.traffic()
    }

    /// The credentials for it, for another program that pulls from it.
    ///
    /// # Errors
    /// [`Error::Configuration`] when they cannot be read.
    pub async fn login(&self) -> Result<Option<Login>, Error> {
        Ok(self.client.credentials().await?.0.clone())
    }

    /// A manifest; `None` when there is none (section "Pulling manifests").
    ///
    /// # Errors
    /// [`Error::Digest`] when what comes is not what was asked for; those of any request.
    pub async fn manifest(&self, repository: &str, reference: &Reference) -> Result<Option<Manifest>, Error> {
        let what = format!("pull {repository}:{reference}");
        let request = |client: &Client| {
            client
                .request(Method::GET, &format!("{repository}/manifests/{reference}"))
                .header(ACCEPT, manifest::ACCEPTED)
        };
        let (status, headers, body) =
            self.client.fetch(&Scope::pull(repository), &what, MAX_MANIFEST, &request).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let manifest = Manifest::parse(body, media_type).map_err(|message| self.client.answer(message))?;
        let said = headers.get("docker-content-digest").and_then(|value| value.to_str().ok());
        let asked = match reference {
            Reference::Digest(digest) => Some(digest.as_ref()),
            Reference::Tag(_) => said,
        };
        match asked {
            Some(asked) if asked != manifest.digest().as_ref() => Err(Error::Digest {
                host: self.host().to_owned(),
                what: format!("the manifest {repository}:{reference}"),
                expected: error::clean(asked),
                found: manifest.digest().to_string(),
            }),
            _ => Ok(Some(manifest)),
        }
    }

    /// The digest that a tag points to; `None` when there is no such tag.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn digest(&self, repository: &str, reference: &Reference) -> Result<Option<Digest>, Error> {
        let what = format!("look for {repository}:{reference}");
        let request = |client: &Client| {
            client
                .request(Method::HEAD, &format!("{repository}/manifests/{reference}"))
                .header(ACCEPT, manifest::ACCEPTED)
        };
        let response = self.client.send(&Scope::pull(repository), &what, &request).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let said = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        match said.and_then(|text| text.parse().ok()) {
            Some(digest) => Ok(Some(digest)),
            // The header is not promised.
            None => Ok(self.manifest(repository, reference).await?.map(|manifest| manifest.digest().clone())),
        }
    }

    /// Writes a manifest under a tag or its digest, and reads back that it is there (section "Pushing Manifests").
    ///
    /// # Errors
    /// [`Error::Digest`] when something else is there afterwards; those of any request.
    pub async fn put_manifest(
        &self,
        repository: &str,
        reference: &Reference,
        manifest: &Manifest,
    ) -> Result<(), Error> {
        let what = format!("push {repository}:{reference}");
        let bytes = Bytes::copy_from_slice(manifest.bytes());
        let request = |client: &Client| {
            client
                .request(Method::PUT, &format!("{repository}/manifests/{reference}"))
                .header(CONTENT_TYPE, manifest.media_type())
                .body(bytes.clone())
        };
        let response = self.client.send(&Scope::push(repository), &what, &request).await?;
        if response.status() == StatusCode::NOT_FOUND {
            let what = format!("the repository {repository}");
            return Err(Error::Missing { host: self.host().to_owned(), what });
        }
        match self.digest(repository, reference).await? {
            Some(digest) if digest == *manifest.digest() => Ok(()),
            found => Err(Error::Digest {
                host: self.host().to_owned(),
                what: format!("the manifest {repository}:{reference}"),
                expected: manifest.digest().to_string(),
                found: found.map_or_else(|| "nothing".to_owned(), |digest| digest.to_string()),
            }),
        }
    }

    /// Pushes an image by its digest: layers, configuration, manifest, in this order. It has no tag afterwards. What is
    /// there is not sent, also when another task is just sending it.
    ///
    /// # Errors
    /// [`Error::Missing`] for a layer without a file that is not there; those of any request.
    pub async fn push_image(
        &self,
        repository: &str,
        image: &PushImage,
        progress: ProgressSink,
    ) -> Result<PushedImage, Error> {
        let config = Descriptor::new(
            MediaType::from(IMAGE_CONFIG),
            image.config.len() as u64,
            digest_of(&image.config),
        );
        let layers: Vec<Descriptor> = image.layers.iter().map(|layer| layer.descriptor.clone()).collect();
        let manifest = Manifest::image(&config, &layers, &image.annotations);
        let config_blob = blobs::Blob {
            descriptor: config,
            content: blobs::Content::Bytes(Bytes::copy_from_slice(&image.config)),
            mount_from: Vec::new(),
        };
        let mut blobs = vec![config_blob];
        let mut seen = std::collections::BTreeSet::new();
        for layer in &image.layers {
            // Two steps that do the same make the same layer twice.
            if seen.insert(layer.descriptor.digest().to_string()) {
                blobs.push(blobs::Blob {
                    descriptor: layer.descriptor.clone(),
                    content: layer.file.clone().map_or(blobs::Content::There, blobs::Content::File),
                    mount_from: layer.mount_from.clone(),
                });
            }
        }
        let total = blobs.iter().map(|blob| blob.descriptor.size()).sum();
        let progress = blobs::Progress::new(progress, total);
        let push = |blob| self.client.push_blob(repository, blob, &progress).boxed();
        let pushing: Vec<_> = blobs.iter().map(push).collect();
        let done: Vec<blobs::Done> =
            futures_util::stream::iter(pushing).buffer_unordered(BLOBS_AT_ONCE).try_collect().await?;
        let reference = Reference::Digest(manifest.digest().clone());
        self.put_manifest(repository, &reference, &manifest).await?;
        let count = |wanted: fn(&blobs::Done) -> bool| done.iter().filter(|done| wanted(done)).count();
        Ok(PushedImage {
            manifest,
            sent: done.iter().map(|done| if let blobs::Done::Sent(bytes) = done { *bytes } else { 0 }).sum(),
            mounted: count(|done| matches!(done, blobs::Done::Mounted)),
            existed: count(|done| matches!(done, blobs::Done::Existed)),
        })
    }

    /// A small blob, such as a configuration.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Digest`]; [`Error::Answer`] for one larger than `limit` bytes.
    pub async fn blob(&self, repository: &str, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, Error> {
        self.client.small_blob(repository, blob, limit).await
    }

    /// Fetches a blob into a file, which is there only when all of it has come and is what its digest says.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Digest`], [`Error::File`]; those of any request.
    pub async fn download_blob(
        &self,
        repository: &str,
        blob: &Descriptor,
        file: &camino::Utf8Path,
        progress: ProgressSink,
    ) -> Result<(), Error> {
        self.client.download_blob(repository, blob, file, progress).await
    }

    /// Makes sure that an image is whole: its manifest has this digest, and its configuration and all its layers are
    /// there in their sizes. For an index, so is every image in it.
    ///
    /// # Errors
    /// [`Error::Missing`] with what is not there; those of any request.
    pub async fn verify(&self, repository: &str, digest: &Digest) -> Result<Manifest, Error> {
        let missing = |what: String| Error::Missing { host: self.host().to_owned(), what };
        let found = self.manifest(repository, &Reference::Digest(digest.clone())).await?;
        let manifest = found.ok_or_else(|| missing(format!("the manifest {repository}@{digest}")))?;
        for listed in manifest.manifests() {
            Box::pin(self.verify(repository, listed.digest())).await?;
        }
        let blobs = manifest.config().into_iter().chain(manifest.layers());
        let asked: Vec<_> = blobs.map(|blob| self.verify_blob(repository, blob).boxed()).collect();
        futures_util::stream::iter(asked).buffer_unordered(BLOBS_AT_ONCE).try_collect::<Vec<()>>().await?;
        Ok(manifest)
    }

    async fn verify_blob(&self, repository: &str, blob: &Descriptor) -> Result<(), Error> {
        let digest = blob.digest();
        let what = match self.client.blob_size(repository, digest).await? {
            Some(size) if size == blob.size() => return Ok(()),
            Some(size) => {
                format!("the blob {repository}@{digest}: there are {size} bytes of {}", blob.size())
            }
            None => format!("the blob {repository}@{digest}"),
        };
        Err(Error::Missing { host: self.host().to_owned(), what })
    }

    /// All tags of a repository; none for one that is not there (section "Listing Tags").
    ///
    /// # Errors
    /// Those of any request.
    pub async fn tags(&self, repository: &str) -> Result<Vec<String>, Error> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let what = format!("list the tags of {repository}");
        let mut path = format!("{repository}/tags/list?n=1000");
        let mut tags = Vec::new();
        loop {
            let request = |client: &Client| client.request(Method::GET, &path);
            let (status, headers, body) =
                self.client.fetch(&Scope::pull(repository), &what, 64 << 20, &request).await?;
            if status == StatusCode::NOT_FOUND {
                return Ok(tags);
            }
            let page: Page =
                serde_json::from_slice(&body).map_err(|error| self.client.answer(error.to_string()))?;
            tags.extend(page.tags.unwrap_or_default());
            let next = headers.get(LINK).and_then(|value| value.to_str().ok()).and_then(next_page);
            match next {
                Some(next) if next != path => path = next,
                _ => return Ok(tags),
            }
        }
    }

    /// Removes a manifest, and with it every tag that points to it (section "Content Management"). What is not there is
    /// no error.
    ///
    /// # Errors
    /// [`Error::Refused`] with status 405 from a registry in which removing is switched off; those of any request.
    pub async fn delete_manifest(&self, repository: &str, digest: &Digest) -> Result<(), Error> {
        let what = format!("remove {repository}@{digest}");
        let request =
            |client: &Client| client.request(Method::DELETE, &format!("{repository}/manifests/{digest}"));
        self.client.send(&Scope::delete(repository), &what, &request).await?;
        Ok(())
    }
}

/// The path behind `/v2/` of `<...>; rel="next"`.
fn next_page(link: &str) -> Option<String> {
    let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    if !rest.contains("rel=\"next\"") && !rest.contains("rel=next") {
        return None;
    }
    target.split_once("/v2/").map(|(_, path)| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found() {
        let link = "</v2/acme/web/tags/list?last=b&n=2>; rel=\"next\"";
        assert_eq!(next_page(link).as_deref(), Some("acme/web/tags/list?last=b&n=2"));
        assert_eq!(next_page("<http://x/v2/a/tags/list?n=1>; rel=next").as_deref(), Some("a/tags/list?n=1"));
        assert_eq!(next_page("</v2/a>; rel=\"prev\""), None);
        assert_eq!(next_page(""), None);
    }
}
