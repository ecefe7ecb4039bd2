//! Images from outside that lie in OCI image layouts: into the engine, before what stands on them is built.
//!
//! The engine has such an image under a name of its own, which no registry can have (`.invalid`, RFC 2606) and which
//! says its digest: what the lock says is what is built on, and a tag of yours with the same reference is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use camino::Utf8PathBuf;
use imgforge_core::diagnostic::Problem;
use imgforge_core::event::{Event, Reporter};
use imgforge_core::lock::Lock;
use imgforge_core::workspace::External;
use imgforge_engine::export::{Blob, Exported, Named};
use imgforge_oci::reference::Parts;
use imgforge_oci::{Digest, ImageConfig, Manifest};
use imgforge_registry::Layout;
use tokio::runtime::Runtime;

use crate::build::planned::Planned;
use crate::lock::externals::gone_help;
use crate::lock::places::Place;
use crate::{Error, Session};

/// The number of a digest's digits that are in the name.
const DIGITS: usize = 32;
const PREFIX: &str = "oci-layout.invalid/";
/// The file that names all that was ever loaded: `NAME REFERENCE`, a line each. An engine cannot say whose it is.
const LOADED: &str = "loaded";

/// Returns the name by which an engine knows an image that came from a layout.
pub(crate) fn name_in_engine(reference: &str, digest: &Digest) -> String {
    format!("{PREFIX}{}:{}", Parts::of(reference).last(), &digest.hex()[..DIGITS])
}

impl Session {
    /// Gives the engine what it lacks of the layouts that the images to be built stand on.
    ///
    /// # Errors
    /// A layout that does not have the locked image, at the line that names either; an engine that does not take it.
    pub(super) fn load_layouts(
        &self,
        runtime: &Runtime,
        planned: &Planned,
        reporter: &mut dyn Reporter,
    ) -> Result<(), Error> {
        let to_build: BTreeSet<&str> = planned.plan.to_build().map(|row| row.name.as_str()).collect();
        let mut wanted: BTreeMap<&str, (&Digest, &External)> = BTreeMap::new();
        for prepared in planned.prepared.iter().filter(|one| to_build.contains(one.target.name.as_str())) {
            for external in &self.workspace.images[&prepared.target.name].externals {
                if self.layout_of(&external.reference).is_some() {
                    let digest = &prepared.build.externals[&external.reference];
                    wanted.insert(&external.reference, (digest, external));
                }
            }
        }
        for (reference, (digest, external)) in wanted {
            let name = name_in_engine(reference, digest);
            if runtime.block_on(planned.engine.stored(&name))?.is_some() {
                continue;
            }
            let started = Instant::now();
            let places = self.places([reference].into_iter())?;
            let Some(Place::Layout(place)) = places.get(reference) else { continue };
            let what = format!("{reference} layers");
            let exported = self.take(&place.layout, digest, external).map_err(|error| match error {
                Error::Registry(error) => self.layout_problem(place.span, &error).into(),
                other => other,
            })?;
            let total = exported.layers.values().map(|blob| blob.size).sum();
            reporter.event(&Event::Fetching { what: what.clone(), done: 0, total });
            let named = exported.configs.keys().map(|id| Named { id: id.clone(), names: vec![name.clone()] });
            let named: Vec<Named> = named.collect();
            let folder = self.own_folder();
            self.remember_loaded(reference, &name);
            runtime.block_on(planned.engine.load(&exported, &named, &folder))?;
            let (files, took) = (exported.layers.len(), started.elapsed());
            reporter.event(&Event::Fetched { what, bytes: total, files, took });
        }
        Ok(())
    }

    /// Returns images that came from layouts and are of no use any more: other digests than those of the lock, by their
    /// names in the engine, with the references.
    pub(crate) fn loaded_before(&self, lock: &Lock) -> Vec<(String, String)> {
        let needed: BTreeSet<String> = lock
            .externals
            .iter()
            .map(|(reference, locked)| name_in_engine(reference, &locked.digest))
            .chain(self.pinned_names())
            .collect();
        let text = self.state.read(LOADED).ok().flatten().unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let rows: BTreeSet<(String, String)> = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(name, _)| name.starts_with(PREFIX) && !needed.contains(*name))
            .map(|(name, reference)| (name.to_owned(), reference.to_owned()))
            .collect();
        rows.into_iter().collect()
    }

    /// For what lies on disk meanwhile; a workspace that cannot be written to is built too.
    fn own_folder(&self) -> Utf8PathBuf {
        let own = self.state.folder("").ok();
        let own = own.filter(|own| tempfile::tempfile_in(own).is_ok());
        own.or_else(|| Utf8PathBuf::try_from(std::env::temp_dir()).ok()).unwrap_or_default()
    }

    /// Before it is done: what is told of and is not there harms nobody. What is not told of is not pruned.
    fn remember_loaded(&self, reference: &str, name: &str) {
        let _ = self.state.append_line(LOADED, &format!("{name} {reference}"));
    }

    /// Returns the names that images with a digest in their reference have in an engine if they came from a layout.
    fn pinned_names(&self) -> impl Iterator<Item = String> {
        let externals = self.workspace.images.values().flat_map(|image| &image.externals);
        externals.filter_map(|external| Some(name_in_engine(&external.reference, &external.pinned()?)))
    }

    /// The parts of one image of a layout, as they lie there.
    fn take(&self, layout: &Layout, digest: &Digest, external: &External) -> Result<Exported, Error> {
        let wrong = |message: String, label: &str| {
            Problem::at(&external.file, external.span, message, label).help(gone_help(&external.reference))
        };
        let find = |digest: &Digest| -> Result<Manifest, Error> {
            layout.manifest(digest)?.ok_or_else(|| {
                let used = Parts { digest: Some(digest.as_str()), ..Parts::of(&external.reference) };
                let message = format!("the OCI image layout {} does not have {used}", layout.path());
                wrong(message, "used here").into()
            })
        };
        let mut manifest = find(digest)?;
        if let Some(entries) = manifest.entries() {
            let platform = self.platform();
            let own = entries.iter().find(|entry| entry.is_for(platform)).ok_or_else(|| {
                Error::from(wrong(
                    format!("{} is not there for {platform}", external.reference),
                    "not for this platform",
                ))
            })?;
            manifest = find(&own.digest.clone())?;
        }
        let config = layout.config(&manifest)?;
        let parsed: Option<ImageConfig> = serde_json::from_slice(&config).ok();
        let diff_ids = parsed.map(|config| config.rootfs.diff_ids).unwrap_or_default();
        if diff_ids.is_empty() || diff_ids.len() != manifest.layers().len() {
            let message = format!("{} has other layers than its configuration says", external.reference);
            return Err(wrong(message, "not an image that can be used").into());
        }
        let mut exported = Exported::default();
        for (layer, diff_id) in manifest.layers().iter().zip(diff_ids) {
            let blob = Blob {
                file: layout.blob(layer)?,
                digest: layer.digest.clone(),
                size: layer.size,
                media_type: layer.media_type.clone(),
            };
            exported.layers.insert(diff_id, blob);
        }
        exported.configs.insert(Digest::sha256(&config), config);
        Ok(exported)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_the_engine_says_what_it_is_and_can_be_of_no_registry() {
        let digest = Digest::from_sha256_hex(&"0123456789abcdef".repeat(4)).unwrap();
        let tag = "0123456789abcdef0123456789abcdef";
        for (reference, name) in [
            ("debian:12-slim", "debian"),
            ("127.0.0.1:5000/tools/busybox", "busybox"),
            ("registry.example.com/a/b:1@sha256:00", "b"),
        ] {
            assert_eq!(name_in_engine(reference, &digest), format!("oci-layout.invalid/{name}:{tag}"));
        }
    }
}
