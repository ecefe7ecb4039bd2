//! The family's place in a registry: what of it is there, under which digest.

mod keep;
mod promote;
mod prune;
pub(crate) mod publish;
mod push;
mod pushes;
mod records;
mod revisions;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use futures_util::{FutureExt, StreamExt, TryStreamExt};
use imgforge_core::diagnostic::Problem;
use imgforge_core::fingerprint::Fingerprint;
use imgforge_core::name::ImageName;
use imgforge_core::plan::{Held, Pushed, Target};
use imgforge_engine::labels;
use imgforge_oci::reference::Parts;
use imgforge_oci::{Digest, Manifest, TagOrDigest};
use imgforge_registry::{Credentials, Options, Registry, Retry};
use serde::Deserialize;

pub use self::keep::Kept;
pub use self::promote::{OldBase, Promotion, Promotions};
pub use self::prune::{PruneOptions, Pruned, PrunedImage, PrunedManifest};
pub use self::publish::{PublishOptions, Published};
use crate::built::Built;
use crate::{Error, Session};

/// The whole fingerprint of an image, on its manifest: one request tells whether an image is the wanted one.
pub(crate) const FINGERPRINT: &str = "imgforge.fingerprint";
/// The hash of the tests that the image has passed.
pub(crate) const TESTS: &str = "imgforge.tests";
/// The name of the image in the workspace.
pub(crate) const IMAGE: &str = "imgforge.image";
/// The name of the workspace.
pub(crate) const WORKSPACE: &str = "imgforge.workspace";

/// The number of requests under way at once when the registry is asked what it holds.
pub(crate) const AT_ONCE: usize = 24;
/// The largest configuration of an image that is read.
pub(crate) const MAX_CONFIG: u64 = 16 << 20;

/// A registry, and the part of it that the workspace has.
#[derive(Clone)]
pub(crate) struct FamilyRegistry {
    pub(crate) client: Registry,
    /// `HOST/PATH`, as the manifest has it.
    pub(crate) place: String,
    /// The name of the workspace.
    pub(crate) workspace: String,
    prefix: String,
    credentials: Credentials,
    /// The images that were built here, when only those count.
    built: Option<Arc<Built>>,
    /// The images of which this run has written down that they are pushed or promoted.
    told: Arc<Mutex<BTreeSet<pushes::Content>>>,
}

/// An image of the family that is in the registry under its content tag.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    pub(crate) digest: Digest,
    pub(crate) manifest: Manifest,
    pub(crate) fingerprint: Fingerprint,
}

impl Session {
    /// The workspace's registry, if it names one. Nothing is asked yet.
    ///
    /// # Errors
    /// A CA file that cannot be read.
    pub(crate) fn registry(&self, retry: Retry) -> Result<Option<FamilyRegistry>, Error> {
        let Some(registry) = &self.workspace.manifest.registry else { return Ok(None) };
        let Some(options) = self.registry_options(retry) else { return Ok(None) };
        let credentials = options.credentials.clone();
        let place = registry.place.value.clone();
        let client = Registry::new(options).map_err(|error| {
            let span = registry.ca.as_ref().map_or(registry.place.span, |file| file.span);
            Problem::at(&self.workspace.manifest.file, span, error.to_string(), "given here")
        })?;
        let workspace = self.workspace.manifest.name.value.clone();
        let (prefix, built) = (registry.prefix(), self.trusted().map(Arc::new));
        let told = Arc::default();
        Ok(Some(FamilyRegistry { client, place, workspace, prefix, credentials, built, told }))
    }

    /// Returns the options with which the workspace's registry is reached.
    pub(crate) fn registry_options(&self, retry: Retry) -> Option<Options> {
        let registry = self.workspace.manifest.registry.as_ref()?;
        Some(Options {
            plain_http: registry.plain_http.as_ref().map(|flag| flag.value),
            ca_file: registry.ca.as_ref().map(|file| self.root.join(&file.value)),
            retry,
            parallel: AT_ONCE,
            ..Options::new(registry.host(), Credentials::workspace())
        })
    }

    /// The workspace's registry, which the verb cannot do without.
    pub(crate) fn needed_registry(&self) -> Result<FamilyRegistry, Error> {
        self.registry(Retry::default())?.ok_or(Error::NoRegistry)
    }
}

impl FamilyRegistry {
    /// The credentials for it, for an engine that pulls from it.
    pub(crate) async fn engine_login(&self) -> Result<Option<imgforge_engine::Login>, Error> {
        let login = self.credentials.user_and_password(self.client.host()).await?;
        Ok(login.map(|(user, password)| imgforge_engine::Login { user, password }))
    }

    /// An image's repository, without the host.
    pub(crate) fn repository(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Returns what is there under the content tag of this fingerprint.
    ///
    /// # Errors
    /// A registry that cannot be asked; [`Error::ContentTag`] when the tag is another image's.
    pub(crate) async fn content(
        &self,
        name: &ImageName,
        fingerprint: Fingerprint,
    ) -> Result<Option<Remote>, Error> {
        let tag = fingerprint.content_tag();
        let repository = self.repository(name.as_str());
        let found = self.client.manifest(&repository, &TagOrDigest::tag(&tag)?).await?;
        let Some(manifest) = found else { return Ok(None) };
        let said = manifest.annotations().get(FINGERPRINT).and_then(|text| text.parse().ok());
        if said != Some(fingerprint) {
            return Err(Error::ContentTag { reference: format!("{}/{name}:{tag}", self.place) });
        }
        Ok(Some(Remote { digest: manifest.digest().clone(), manifest, fingerprint }))
    }

    /// Returns whether an image may be led to that somebody else has pushed.
    pub(crate) fn counts(&self, name: &ImageName, manifest: &Manifest) -> bool {
        self.built.as_ref().is_none_or(|built| built.is_ours(name, manifest))
    }

    /// Writes a tag. When another job has moved it at the same moment to an image of the same fingerprint, that one
    /// is as good, unless only what was built here counts; what the tag leads to is returned.
    ///
    /// # Errors
    /// A tag that leads to something else afterwards; a registry that fails.
    pub(crate) async fn put_tag(
        &self,
        repository: &str,
        tag: &str,
        manifest: &Manifest,
    ) -> Result<Manifest, Error> {
        let reference = TagOrDigest::tag(tag)?;
        let moved = match self.client.put_manifest(repository, &reference, manifest).await {
            Ok(()) => return Ok(manifest.clone()),
            Err(moved @ imgforge_registry::Error::TagMoved { .. }) => moved,
            Err(error) => return Err(error.into()),
        };
        let said = |manifest: &Manifest| manifest.annotations().get(FINGERPRINT).cloned();
        match self.client.manifest(repository, &reference).await? {
            Some(now) if self.built.is_none() && said(&now).is_some() && said(&now) == said(manifest) => {
                Ok(now)
            }
            _ => Err(moved.into()),
        }
    }

    /// Returns what of these images is there, asked with one request each.
    ///
    /// # Errors
    /// As [`content`](Self::content).
    pub(crate) async fn contents(
        &self,
        wanted: impl IntoIterator<Item = (ImageName, Fingerprint)>,
    ) -> Result<BTreeMap<ImageName, Remote>, Error> {
        let asked = wanted.into_iter().map(|(name, fingerprint)| async move {
            let found = self.content(&name, fingerprint).await?;
            Ok::<_, Error>(found.map(|remote| (name, remote)))
        });
        let found = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE);
        found.try_filter_map(|row| async { Ok(row) }).try_collect().await
    }
}

impl FamilyRegistry {
    /// Returns what the release tags of targets lead to: their reasons compare with it where the engine knows none of
    /// them.
    pub(crate) async fn released<'t>(
        &self,
        tags: impl Iterator<Item = (&'t Target, &'t String)>,
    ) -> Result<Vec<(String, Held)>, Error> {
        let asked: Vec<_> = tags.map(|(target, reference)| self.release(target, reference).boxed()).collect();
        let found = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE);
        found.try_filter_map(|row| async { Ok(row) }).try_collect().await
    }

    async fn release(&self, target: &Target, reference: &str) -> Result<Option<(String, Held)>, Error> {
        #[derive(Deserialize)]
        struct Image {
            config: Config,
        }
        #[derive(Deserialize)]
        struct Config {
            #[serde(default, rename = "Labels")]
            labels: Option<HashMap<String, String>>,
        }
        let repository = self.repository(target.name.as_str());
        let Some(tag) = Parts::of(reference).tag else { return Ok(None) };
        let Some(manifest) = self.client.manifest(&repository, &TagOrDigest::tag(tag)?).await? else {
            return Ok(None);
        };
        let Some(config) = manifest.config() else { return Ok(None) };
        let text = self.client.blob(&repository, config, MAX_CONFIG).await?;
        // An image that is not ours says nothing.
        let Ok(Image { config: Config { labels: Some(labels) } }) = serde_json::from_slice::<Image>(&text)
        else {
            return Ok(None);
        };
        let id = config.digest.clone();
        let references = BTreeSet::from([reference.to_owned()]);
        Ok(labels::read(id, 0, references, &labels).map(|(name, held)| (name.to_string(), held)))
    }
}

impl Remote {
    /// Returns the image under its content tag.
    fn content(&self, name: &ImageName) -> pushes::Content {
        (name.clone(), self.fingerprint.content_tag())
    }

    /// The hash of the tests that it had passed when it was pushed.
    pub(crate) fn tests(&self) -> Option<&str> {
        self.manifest.annotations().get(TESTS).map(String::as_str)
    }

    /// Returns what a plan needs to know of the image.
    pub(crate) fn pushed(&self) -> Pushed {
        Pushed { fingerprint: self.fingerprint, digest: self.digest.clone() }
    }
}
