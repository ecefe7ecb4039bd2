//! Where images from outside are: in registries, or in OCI image layouts that `imgforge.kdl` names.

use std::collections::BTreeMap;
use std::fmt;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::diagnostic::Problem;
use imgforge_core::manifest::ExternalPlace;
use imgforge_oci::reference::{LATEST, Parts};
use imgforge_oci::{Descriptor, Digest, Manifest, Reference};
use imgforge_registry::{Credentials, Layout, Options, ProgressSink, Registry, Retry};
use imgforge_syntax::Span;

use crate::{Error, Session};

/// The place that one reference leads to.
pub(crate) enum Place {
    Registry { client: Registry, image: Reference },
    Layout(Box<InLayout>),
}

/// An image of a layout.
pub(crate) struct InLayout {
    pub(crate) layout: Layout,
    /// The names that the image may have there.
    names: Vec<String>,
    platform: String,
    /// The folder's name in `imgforge.kdl`.
    pub(crate) span: Span,
}

impl Place {
    /// Returns the digest that the reference means now; `None` when there is no such tag.
    pub(crate) async fn newest(&self) -> Result<Option<Digest>, imgforge_registry::Error> {
        match self {
            Self::Registry { client, image } => client.digest(&image.repository, &image.wanted()).await,
            Self::Layout(place) => {
                let names: Vec<&str> = place.names.iter().map(String::as_str).collect();
                place.layout.find(&names, &place.platform).map(Some)
            }
        }
    }

    /// Returns whether a digest can still be had.
    pub(crate) async fn holds(&self, digest: &Digest) -> Result<bool, imgforge_registry::Error> {
        match self {
            Self::Registry { client, image } => {
                let found = client.digest(&image.repository, &digest.into()).await?;
                Ok(found.is_some())
            }
            Self::Layout(place) => Ok(place.layout.manifest(digest)?.is_some()),
        }
    }

    /// A manifest or an index; `None` when it is not there any more.
    pub(crate) async fn manifest(
        &self,
        digest: &Digest,
    ) -> Result<Option<Manifest>, imgforge_registry::Error> {
        match self {
            Self::Registry { client, image } => client.manifest(&image.repository, &digest.into()).await,
            Self::Layout(place) => place.layout.manifest(digest),
        }
    }

    /// A file with a layer: `file`, which is fetched, or that of the layout.
    pub(crate) async fn layer(
        &self,
        layer: &Descriptor,
        file: &Utf8Path,
    ) -> Result<Utf8PathBuf, imgforge_registry::Error> {
        match self {
            Self::Registry { client, image } => {
                client.download_blob(&image.repository, layer, file, ProgressSink::silent()).await?;
                Ok(file.to_owned())
            }
            Self::Layout(place) => place.layout.blob(layer),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry { image, .. } => write!(f, "the registry {}", image.host),
            Self::Layout(place) => write!(f, "the OCI image layout {}", place.layout.path()),
        }
    }
}

impl Session {
    /// Returns the places that these references lead to, without those that are no references. One client is made for
    /// each registry; none is asked yet.
    ///
    /// # Errors
    /// A layout that is not there, at the line that names it.
    pub(crate) fn places<'r>(
        &self,
        references: impl Iterator<Item = &'r str>,
    ) -> Result<BTreeMap<&'r str, Place>, Error> {
        let own = self.registry(Retry::default())?;
        let mut clients: BTreeMap<String, Registry> = BTreeMap::new();
        let mut places = BTreeMap::new();
        for reference in references {
            let Ok(image) = reference.parse::<Reference>() else { continue };
            if let Some(known) = self.layout_of(reference) {
                places.insert(reference, self.open_layout(known, &image)?);
                continue;
            }
            let client = match (clients.get(&image.host), &own) {
                (Some(client), _) => client.clone(),
                (None, Some(own)) if own.client.host() == image.host => own.client.clone(),
                (None, _) => Registry::new(Options::new(image.host.as_str(), Credentials::docker()))?,
            };
            clients.insert(image.host.clone(), client.clone());
            places.insert(reference, Place::Registry { client, image });
        }
        Ok(places)
    }

    /// The line of `imgforge.kdl` that says that a reference is in a layout.
    pub(crate) fn layout_of(&self, reference: &str) -> Option<&ExternalPlace> {
        self.workspace.manifest.externals.iter().find(|place| place.reference.value == reference)
    }

    /// The folder of the OCI image layout that an image from outside is in, as `imgforge.kdl` has it; `None` for one
    /// of a registry.
    pub fn oci_layout(&self, reference: &str) -> Option<&Utf8Path> {
        self.layout_of(reference).map(|place| place.oci_layout.value.as_path())
    }

    fn open_layout(&self, known: &ExternalPlace, image: &Reference) -> Result<Place, Error> {
        let span = known.oci_layout.span;
        let layout = Layout::open(&self.root.join(&known.oci_layout.value))
            .map_err(|error| self.layout_problem(span, &error))?;
        let names = match &known.name {
            Some(name) => vec![name.value.clone()],
            None => {
                let written = Parts { digest: None, ..Parts::of(&known.reference.value) };
                let tag = written.tag.unwrap_or(LATEST);
                let whole = format!("{}/{}:{tag}", image.host, image.repository);
                vec![written.to_string(), tag.to_owned(), whole]
            }
        };
        let platform = self.platform().to_owned();
        Ok(Place::Layout(Box::new(InLayout { layout, names, platform, span })))
    }

    /// Returns the problem with a layout, at the line that names it.
    pub(crate) fn layout_problem(&self, span: Span, error: &imgforge_registry::Error) -> Problem {
        let problem = Problem::at(&self.workspace.manifest.file, span, error.to_string(), "this layout");
        let write = "`skopeo copy docker://IMAGE oci:FOLDER:NAME`, `docker buildx build --output type=oci,tar=false` or \
                     `imgforge export --oci` puts an image into one";
        problem.help(match error {
            imgforge_registry::Error::Digest { .. } => format!("it is damaged: {write}"),
            _ => format!("{write}; name=\"NAME\" says which of several it is"),
        })
    }
}
