//! Locked packages in the workspace's registry, for the day when no mirror serves them any more.
//!
//! The packages of a lock are the layers of one artifact, so each lies in the registry under the SHA-256 that the
//! lock has, once for all locks that name it, and is fetched by that alone.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use imgforge_core::event::Reporter;
use imgforge_core::lock::LockedPackage;
use imgforge_oci::annotation::TITLE;
use imgforge_oci::{Descriptor, Digest, TagOrDigest};
use imgforge_packages::Cache;
use imgforge_registry::{ProgressSink, PushArtifact, PushImage, PushLayer, Retry};

use crate::progress::{EventProgress, pump};
use crate::registry::FamilyRegistry;
use crate::{Error, Session};

/// The repository of packages, beside the images. No image has such a name by accident.
const REPOSITORY: &str = "imgforge.packages";
/// The type of the artifact that the packages of a lock are.
const ARTIFACT: &str = "application/vnd.imgforge.packages.v1";
/// The media type of a Debian package as a file of it.
const MEDIA_TYPE: &str = "application/vnd.debian.binary-package";
/// And one of Alpine, for which no type is registered.
const ALPINE_MEDIA_TYPE: &str = "application/octet-stream";

/// The number of packages that are fetched at once.
const AT_ONCE: usize = 8;

/// The outcome of keeping packages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// The packages of the lock.
    pub packages: usize,
    /// Bytes that were sent for those that were not there.
    pub sent: u64,
}

impl Session {
    /// Puts the packages of the lock into the registry, as far as they are not there.
    ///
    /// # Errors
    /// [`Error::NoRegistry`], [`Error::StaleLock`], packages that nobody serves, a registry that does not take them.
    pub fn keep_packages(&self, reporter: &mut dyn Reporter) -> Result<Kept, Error> {
        let registry = self.needed_registry()?;
        let lock = self.read_lock()?;
        self.check_lock(&lock)?;
        if lock.packages.is_empty() {
            return Ok(Kept::default());
        }
        self.fetch_packages(&lock.packages, reporter)?;
        let cache = Cache::user()?;
        // Two sources may have the same file.
        let files: BTreeMap<&str, &LockedPackage> =
            lock.packages.iter().map(|package| (package.sha256.as_str(), package)).collect();
        let layer = |package: &LockedPackage| {
            let mut descriptor = descriptor(package)?;
            let name = package.path.rsplit('/').next().unwrap_or(&package.name);
            descriptor.annotations.insert(TITLE.to_owned(), name.to_owned());
            let file = Some(cache.file(&package.sha256));
            Some(PushLayer { descriptor, file, mount_from: Vec::new() })
        };
        let layers: Vec<PushLayer> = files.values().filter_map(|package| layer(package)).collect();
        let packages = layers.len();
        let sent = self.runtime()?.block_on(keep(&registry, layers))?;
        Ok(Kept { packages, sent })
    }

    /// Brings packages into the cache: from the repositories, else from the archives of their earlier states, else
    /// from the registry.
    ///
    /// # Errors
    /// The repositories' error, for the packages that the registry does not keep either.
    pub(crate) fn fetch_packages(
        &self,
        packages: &[LockedPackage],
        reporter: &mut dyn Reporter,
    ) -> Result<(), Error> {
        let cache = Cache::user()?;
        let is_missing = |package: &&LockedPackage| !cache.file(&package.sha256).is_file();
        if packages.iter().find(is_missing).is_none() {
            return Ok(());
        }
        let fetched = self.repositories(packages).and_then(|repositories| {
            pump(reporter, |events| {
                let (network, progress) = (self.network()?, EventProgress::new(events));
                imgforge_packages::fetch(packages, &repositories, &cache, &network, &progress)?;
                Ok(())
            })
        });
        let Err(error) = fetched else { return Ok(()) };
        let missing: Vec<&LockedPackage> = packages.iter().filter(is_missing).collect();
        match self.fetch_kept(&missing, &cache) {
            Ok(left) if left.is_empty() => Ok(()),
            Ok(left) => match error {
                Error::Packages(imgforge_packages::Error::Vanished { archive, .. }) => {
                    Err(imgforge_packages::Error::Vanished { packages: left, archive }.into())
                }
                error => Err(error),
            },
            // What is wrong with the repositories comes first: the registry is the last resort.
            Err(_) => Err(error),
        }
    }

    /// Fetches packages from the registry; those that it does not keep are given back.
    fn fetch_kept(&self, missing: &[&LockedPackage], cache: &Cache) -> Result<Vec<LockedPackage>, Error> {
        let Some(registry) = self.registry(Retry::default())? else {
            return Ok(missing.iter().copied().cloned().collect());
        };
        let repository = registry.repository(REPOSITORY);
        let fetch = |package: &LockedPackage| {
            let (package, file) = (package.clone(), cache.file(&package.sha256));
            let (client, repository) = (&registry.client, &repository);
            async move {
                let Some(descriptor) = descriptor(&package) else { return Some(package) };
                let made = file.parent().is_none_or(|folder| std::fs::create_dir_all(folder).is_ok());
                let fetched = client.download_blob(repository, &descriptor, &file, ProgressSink::silent());
                if made && fetched.await.is_ok() { None } else { Some(package) }
            }
        };
        let asked: Vec<_> = missing.iter().map(|package| fetch(package)).collect();
        let left: Vec<Option<LockedPackage>> =
            self.runtime()?.block_on(futures_util::stream::iter(asked).buffered(AT_ONCE).collect());
        Ok(left.into_iter().flatten().collect())
    }
}

/// Pushes the artifact of a lock, unless it is there or an image with the same packages is, as there was before
/// artifacts. Returns the bytes that were sent.
async fn keep(registry: &FamilyRegistry, files: Vec<PushLayer>) -> Result<u64, Error> {
    let repository = registry.repository(REPOSITORY);
    let image = PushImage { config: b"{}".to_vec(), layers: files.clone(), annotations: BTreeMap::new() };
    let artifact = PushArtifact { kind: ARTIFACT.into(), text: None, files };
    for manifest in [artifact.manifest(), image.manifest()] {
        let there = registry.client.digest(&repository, &tag_of(manifest.digest())?).await?;
        if there.as_ref() == Some(manifest.digest()) {
            return Ok(0);
        }
    }
    let pushed = registry.push_artifact(&repository, &artifact, &image).await?;
    // What has no tag may be cleaned away.
    registry.client.put_manifest(&repository, &tag_of(&pushed.digest)?, &pushed.manifest).await?;
    Ok(pushed.sent)
}

fn tag_of(digest: &Digest) -> Result<TagOrDigest, Error> {
    Ok(TagOrDigest::tag(&format!("lock-{}", &digest.hex()[..32]))?)
}

fn descriptor(package: &LockedPackage) -> Option<Descriptor> {
    let digest = Digest::from_sha256_hex(&package.sha256).ok()?;
    let media_type = if package.checksum.is_empty() { MEDIA_TYPE } else { ALPINE_MEDIA_TYPE };
    Some(Descriptor::new(media_type, digest, package.size))
}
