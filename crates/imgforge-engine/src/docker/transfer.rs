//! Images out of the daemon and into it.

use std::collections::BTreeSet;
use std::io::{self, BufWriter, Seek};

use bollard::auth::DockerCredentials;
use bollard::query_parameters::{CreateImageOptionsBuilder, ImportImageOptionsBuilder};
use camino::Utf8Path;
use futures_util::{StreamExt, TryStreamExt};
use imgforge_oci::Digest;
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

use super::Docker;
use crate::export::{ExportError, Exported, Named, read_archive, write_archive};
use crate::{Error, Login, PullRequest, Stored};

/// The user name that credential helpers give when the secret is an identity token.
const IDENTITY: &str = "<token>";

pub(super) async fn stored(docker: &Docker, image: &str) -> Result<Option<Stored>, Error> {
    let found = match docker.image(image).await {
        Ok(found) => found,
        Err(error) if error.is_absent() => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(Stored {
        id: found.id,
        layers: found.root.layers,
        labels: found.config.labels,
        size: u64::try_from(found.size).unwrap_or_default(),
    }))
}

pub(super) async fn export(
    client: &bollard::Docker,
    images: &[Digest],
    there: BTreeSet<Digest>,
    folder: &Utf8Path,
) -> Result<Exported, Error> {
    let names: Vec<&str> = images.iter().map(Digest::as_str).collect();
    let pieces = client.export_images(&names).map_err(|error| io::Error::other(Error::from(error))).boxed();
    let archive = SyncIoBridge::new(StreamReader::new(pieces));
    let folder = folder.to_owned();
    let reading = tokio::task::spawn_blocking(move || read_archive(archive, &there, &folder));
    Ok(reading.await.map_err(|error| Error::Connection { message: error.to_string() })??)
}

/// Gives the daemon an archive of images as `docker load` does. It compares layers with the configurations itself.
pub(super) async fn load(
    docker: &Docker,
    images: &Exported,
    named: &[Named],
    folder: &Utf8Path,
) -> Result<(), Error> {
    let written = tokio::task::block_in_place(|| {
        let mut file = tempfile::tempfile_in(folder)?;
        write_archive(images, named, folder, BufWriter::new(&file))?;
        file.rewind()?;
        Ok::<_, ExportError>(file)
    });
    let file = written.map_err(|error| Error::Load { message: error.to_string() })?;
    let body = ReaderStream::with_capacity(tokio::fs::File::from_std(file), 1 << 18);
    let options = ImportImageOptionsBuilder::default().quiet(true).build();
    let mut progress = docker.client.import_image(options, bollard::body_try_stream(body), None);
    while let Some(step) = progress.next().await {
        step?;
    }
    for Named { id, names } in named {
        for name in names {
            if stored(docker, name).await?.is_none_or(|found| found.id != *id) {
                return Err(Error::Load { message: format!("{name} was loaded, but is not there") });
            }
        }
    }
    Ok(())
}

pub(super) async fn pull(docker: &Docker, request: PullRequest) -> Result<Stored, Error> {
    let PullRequest { repository, digest, login } = request;
    let options = CreateImageOptionsBuilder::default().from_image(&repository).tag(digest.as_str()).build();
    let credentials = login.map(|Login { user, password }| match user.as_str() {
        IDENTITY => DockerCredentials { identitytoken: Some(password), ..DockerCredentials::default() },
        _ => DockerCredentials {
            username: Some(user),
            password: Some(password),
            ..DockerCredentials::default()
        },
    });
    let mut progress = docker.client.create_image(Some(options), None, credentials);
    while let Some(step) = progress.next().await {
        step?;
    }
    let name = format!("{repository}@{digest}");
    let found = stored(docker, &name).await?;
    found.ok_or_else(|| Error::Absent { message: format!("{name} was pulled, but is not there") })
}
