//! Images out of the daemon and into it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bollard::auth::DockerCredentials;
use bollard::query_parameters::CreateImageOptionsBuilder;
use camino::Utf8Path;
use futures_util::{StreamExt, TryStreamExt};
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

use crate::export::{Exported, read_archive};
use crate::{Error, Login, PullRequest, Stored};

/// What credential helpers call the user when the secret is an identity token.
const IDENTITY: &str = "<token>";

pub(super) async fn stored(client: &bollard::Docker, image: &str) -> Result<Option<Stored>, Error> {
    let found = match client.inspect_image(image).await.map_err(Error::from) {
        Ok(found) => found,
        Err(error) if error.is_absent() => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(Stored {
        id: found.id.unwrap_or_default(),
        layers: found.root_fs.and_then(|root| root.layers).unwrap_or_default(),
        labels: found.config.and_then(|config| config.labels).map(BTreeMap::from_iter).unwrap_or_default(),
        size: found.size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
    }))
}

pub(super) async fn export(
    client: &bollard::Docker,
    images: &[String],
    there: BTreeSet<String>,
    folder: &Utf8Path,
) -> Result<Exported, Error> {
    let names: Vec<&str> = images.iter().map(String::as_str).collect();
    let pieces = client.export_images(&names).map_err(|error| io::Error::other(Error::from(error))).boxed();
    let archive = SyncIoBridge::new(StreamReader::new(pieces));
    let folder = folder.to_owned();
    let reading = tokio::task::spawn_blocking(move || read_archive(archive, &there, &folder));
    Ok(reading.await.map_err(|error| Error::Connection { message: error.to_string() })??)
}

/// Gives the daemon an archive of images, names and all.
pub(super) async fn load(client: &bollard::Docker, archive: &Utf8Path) -> Result<(), Error> {
    let wrong = |error: io::Error| Error::Connection { message: format!("{archive}: {error}") };
    let file = tokio::fs::File::open(archive).await.map_err(wrong)?;
    let body = bollard::body_try_stream(ReaderStream::with_capacity(file, 1 << 18));
    let options = bollard::query_parameters::ImportImageOptionsBuilder::default().quiet(true).build();
    let mut progress = client.import_image(options, body, None);
    while let Some(step) = progress.next().await {
        step?;
    }
    Ok(())
}

pub(super) async fn pull(client: &bollard::Docker, request: PullRequest) -> Result<Stored, Error> {
    let PullRequest { repository, digest, login } = request;
    let options = CreateImageOptionsBuilder::default().from_image(&repository).tag(&digest).build();
    let credentials = login.map(|Login { user, password }| match user.as_str() {
        IDENTITY => DockerCredentials { identitytoken: Some(password), ..DockerCredentials::default() },
        _ => DockerCredentials {
            username: Some(user),
            password: Some(password),
            ..DockerCredentials::default()
        },
    });
    let mut progress = client.create_image(Some(options), None, credentials);
    while let Some(step) = progress.next().await {
        step?;
    }
    let name = format!("{repository}@{digest}");
    let found = stored(client, &name).await?;
    found.ok_or_else(|| Error::Refused {
        status: 404,
        message: format!("{name} was pulled, but is not there"),
    })
}
