//! Images out of the engine: as files for other programs, or from the embedded engine into Docker.

use std::collections::BTreeSet;
use std::io::BufWriter;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::name::ImageName;
use imgforge_engine::export::{ExportError, Exported, Named, write_archive, write_layout};
use imgforge_engine::{Docker, Engine, Host};
use imgforge_oci::Digest;
use imgforge_state::StateDir;

use crate::{Error, Session};

/// The place that images are written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveTarget {
    /// A folder: an OCI image layout, which is added to when it is there.
    OciLayout(Utf8PathBuf),
    /// A file that `docker load` takes.
    DockerArchive(Utf8PathBuf),
}

impl Session {
    /// Writes images that the engine holds, under their release tags and content tags. Returns how many.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] for images that are not there as the workspace describes them; a target that cannot be
    /// written.
    pub fn export_images(&self, selected: &BTreeSet<ImageName>, to: &ArchiveTarget) -> Result<usize, Error> {
        self.runtime()?.block_on(async {
            let engine = self.engine().await?;
            let named = self.held(&*engine, selected).await?;
            let taken = take(&*engine, &named, &self.state).await?;
            let (path, written) = match to {
                ArchiveTarget::OciLayout(folder) => (folder, write_layout(&taken.exported, &named, folder)),
                ArchiveTarget::DockerArchive(file) => (file, write_file(&taken, &named, file)),
            };
            written.map_err(|error| Error::Archive { message: format!("{path}: {error}") })?;
            Ok(named.len())
        })
    }

    /// Gives the Docker daemon images that the embedded engine holds, under their release tags and content tags.
    /// Returns how many.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] for images that are not there as the workspace describes them; a daemon that does not answer
    /// or does not take them.
    pub fn load(&self, selected: &BTreeSet<ImageName>) -> Result<usize, Error> {
        self.runtime()?.block_on(async {
            let docker = Docker::connect().await?;
            let engine = self.finder().embedded("")?;
            let named = self.held(&engine, selected).await?;
            let taken = take(&engine, &named, &self.state).await?;
            docker.load(&taken.exported, &named, &taken.folder).await?;
            Ok(named.len())
        })
    }

    /// The engine's ids and the names of images, all of which must be there.
    async fn held(&self, engine: &dyn Host, selected: &BTreeSet<ImageName>) -> Result<Vec<Named>, Error> {
        let lock = self.read_lock()?;
        self.check_lock(&lock)?;
        let inventory = self.inventory(engine).await?;
        let (mut named, mut absent) = (Vec::new(), Vec::new());
        for prepared in tokio::task::block_in_place(|| self.prepare(selected, &lock, &[]))? {
            let target = prepared.target;
            if !selected.contains(&target.name) {
                continue;
            }
            let Some(held) = inventory.holds(&target.name, target.fingerprint) else {
                absent.push(target.name.to_string());
                continue;
            };
            let content = self.content_reference(&target.name, target.fingerprint);
            let mut names = target.release_references;
            names.push(content);
            named.push(Named { id: held.id.clone(), names });
        }
        if absent.is_empty() { Ok(named) } else { Err(Error::NotBuilt { images: absent }) }
    }
}

/// The images that were taken out of an engine, in a folder that goes with them.
struct Taken {
    exported: Exported,
    folder: Utf8PathBuf,
    #[expect(dead_code, reason = "keeps the folder")]
    kept: tempfile::TempDir,
}

/// Beside the store, so that nothing has to be copied.
async fn take(engine: &dyn Host, named: &[Named], state: &StateDir) -> Result<Taken, Error> {
    let own = state.folder("")?;
    let io = |error| Error::Io { path: own.clone(), error };
    let kept = tempfile::Builder::new().prefix("export-").tempdir_in(&own).map_err(io)?;
    let folder = Utf8PathBuf::try_from(kept.path().to_owned()).map_err(|error| io(error.into_io_error()))?;
    let ids: Vec<Digest> = named.iter().map(|image| image.id.clone()).collect();
    let exported = engine.export(&ids, BTreeSet::new(), &folder).await?;
    Ok(Taken { exported, folder, kept })
}

/// The file is there only when it is whole.
fn write_file(taken: &Taken, named: &[Named], file: &Utf8Path) -> Result<(), ExportError> {
    let folder = file.parent().filter(|folder| !folder.as_str().is_empty()).unwrap_or(Utf8Path::new("."));
    let part = tempfile::NamedTempFile::new_in(folder)?;
    write_archive(&taken.exported, named, &taken.folder, BufWriter::new(part.as_file()))?;
    part.persist(file).map_err(|error| error.error)?;
    Ok(())
}
