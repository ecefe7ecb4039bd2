//! Unpacked layers: files that are mounted as they lie there.
//!
//! They have nothing to be compared with. So one is believed where this user's imgforge has unpacked it: the record
//! beside its files is sealed together with what tells its folder from a copy.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_oci::Digest;
use imgforge_state::identity;

use super::{Store, StoreError, hex, sealed, unsealed, write_in};
use crate::worker::message::Layer;

/// The purpose that records of layers are sealed for.
const LAYER: &str = "unpacked layer";

impl Store {
    pub(super) fn layer_path(&self, chain: &Digest) -> Result<Utf8PathBuf, StoreError> {
        Ok(self.dir().join("layers").join(hex(chain)?))
    }

    /// The layer at the top of a chain, when its blob and its unpacked files are there.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn layer(&self, chain: &Digest) -> Result<Option<Layer>, StoreError> {
        Ok(self.unpacked_layer(chain)?.filter(|layer| self.has_blob(&layer.digest)))
    }

    /// The folder of the files of the layer at the top of a chain, when it is unpacked.
    pub fn folder(&self, chain: &Digest) -> Option<Utf8PathBuf> {
        let path = self.is_trusted(chain).then(|| self.layer_path(chain).ok()).flatten()?.join("fs");
        path.exists().then_some(path)
    }

    /// Returns the layer that this user has unpacked there.
    pub(super) fn unpacked_layer(&self, chain: &Digest) -> Result<Option<Layer>, StoreError> {
        let folder = format!("layers/{}", hex(chain)?);
        let Some(found) = self.dir.opened(&folder)? else { return Ok(None) };
        let Some(bytes) = self.dir.read(&format!("{folder}/layer"))? else { return Ok(None) };
        let identity = identity(&found).map_err(StoreError::io(self.dir()))?;
        let text = unsealed(self.dir.key(), LAYER, &[chain.as_str().as_bytes(), &identity], &bytes);
        Ok(text.and_then(|text| serde_json::from_slice(text).ok()))
    }

    /// The record of a layer that lies in a folder.
    fn record_of(&self, layer: &Layer, chain: &Digest, folder: &OwnedFd) -> Result<Vec<u8>, StoreError> {
        let identity = identity(folder).map_err(StoreError::io(self.dir()))?;
        let text = serde_json::to_vec(layer).expect("texts and numbers are JSON");
        Ok(sealed(self.dir.key(), LAYER, &[chain.as_str().as_bytes(), &identity], &text)?)
    }

    /// Returns whether the files of a layer are what they were when this user has unpacked it.
    fn is_trusted(&self, chain: &Digest) -> bool {
        let is_ours = || self.unpacked_layer(chain).ok().flatten().is_some();
        let boot = || self.dir.read(&format!("layers/{}/boot", hex(chain).ok()?)).ok();
        is_ours() && boot().is_some_and(|boot| boot.is_none_or(|boot| boot == self.boot.as_bytes()))
    }

    /// Puts everything on the disk, the unpacked layers above all, those of other processes too: without it, they are
    /// unpacked again after the machine has started anew. It takes as long as the disk does for all that was written
    /// to it, and is nothing when no layer needs it.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn flush(&self) -> Result<(), StoreError> {
        let marks = self.dir.names("layers")?.into_iter().map(|layer| format!("layers/{layer}/boot"));
        let is_of_now = |mark: &String| {
            let boot = self.dir.read(mark).ok().flatten();
            boot.is_some_and(|boot| boot == self.boot.as_bytes())
        };
        let marks: Vec<String> = marks.filter(is_of_now).collect();
        if marks.is_empty() {
            return Ok(());
        }
        rustix::fs::syncfs(&self.lock).map_err(|error| StoreError::io(self.dir())(error.into()))?;
        for mark in marks {
            // It may have been pruned meanwhile.
            let _ = self.dir.remove(&mark);
        }
        Ok(())
    }

    /// Keeps a layer: its blob and its unpacked files, which are moved.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn adopt(
        &self,
        blob: &Utf8Path,
        folder: &Utf8Path,
        layer: &Layer,
        chain: &Digest,
    ) -> Result<(), StoreError> {
        self.adopt_blob(blob, &layer.digest)?;
        self.adopt_folder(folder, layer, chain)
    }

    /// Keeps the unpacked files of a layer, which are moved.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn adopt_folder(&self, folder: &Utf8Path, layer: &Layer, chain: &Digest) -> Result<(), StoreError> {
        let path = self.layer_path(chain)?;
        let scratch = self.scratch()?;
        let whole = scratch.path().join("whole");
        fs::create_dir(&whole).map_err(StoreError::io(&whole))?;
        fs::rename(folder, whole.join("fs")).map_err(StoreError::io(folder))?;
        let opened = fs::File::open(&whole).map_err(StoreError::io(&whole))?.into();
        let record = self.record_of(layer, chain, &opened)?;
        fs::write(whole.join("layer"), record).map_err(StoreError::io(&whole))?;
        fs::write(whole.join("boot"), &self.boot).map_err(StoreError::io(&whole))?;
        // One process at a time: what is replaced below must not be what another has just put there.
        let layers = self.dir.folder("layers")?;
        let turn = fs::File::open(&layers).and_then(|folder| folder.lock().map(|()| folder));
        let _turn = turn.map_err(StoreError::io(&layers))?;
        if path.symlink_metadata().is_ok() && !self.is_trusted(chain) {
            fs::rename(&path, scratch.path().join("damaged")).map_err(StoreError::io(&path))?;
        }
        match fs::rename(&whole, &path) {
            Ok(()) => Ok(()),
            // Another build has made the same; but its blob may have been another, or be gone.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                let there = self.dir.opened(&format!("layers/{}", hex(chain)?))?;
                let there = there.ok_or(io::ErrorKind::NotFound.into()).map_err(StoreError::io(&path))?;
                let record = self.record_of(layer, chain, &there)?;
                write_in(&self.workplace, &path.join("layer"), &record)
            }
            Err(error) => Err(StoreError::io(&path)(error)),
        }
    }
}
