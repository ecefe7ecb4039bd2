//! Reads a file out of an image, through a container that is never started.

use std::io::Read;

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptions, DownloadFromContainerOptionsBuilder, RemoveContainerOptions,
};
use camino::{Utf8Path, Utf8PathBuf};
use futures_util::StreamExt;

use crate::{Error, labels};

/// How many links are followed, as in the kernel (`ELOOP`).
const MAX_LINKS: usize = 40;

enum Found {
    File(Vec<u8>),
    Link(Utf8PathBuf),
    Nothing,
}

pub(super) async fn read_file(
    client: &bollard::Docker,
    image: &str,
    path: &str,
) -> Result<Option<Vec<u8>>, Error> {
    let (client, image, path) = (client.clone(), image.to_owned(), Utf8PathBuf::from(path));
    // A task of its own, since the container must be removed even if the caller stops waiting.
    let task = tokio::spawn(async move {
        let config = ContainerCreateBody {
            image: Some(image),
            // Never run; but an image without a command needs one.
            cmd: Some(vec!["/".into()]),
            labels: Some([(labels::READER.to_owned(), String::new())].into()),
            network_disabled: Some(true),
            ..ContainerCreateBody::default()
        };
        let container = client.create_container(None::<CreateContainerOptions>, config).await?.id;
        let found = follow(&client, &container, path).await;
        client.remove_container(&container, None::<RemoveContainerOptions>).await?;
        found
    });
    task.await.map_err(|error| Error::Connection { message: error.to_string() })?
}

async fn follow(
    client: &bollard::Docker,
    container: &str,
    path: Utf8PathBuf,
) -> Result<Option<Vec<u8>>, Error> {
    let mut path = path;
    for _ in 0..MAX_LINKS {
        match fetch(client, container, &path).await? {
            Found::File(content) => return Ok(Some(content)),
            Found::Nothing => return Ok(None),
            // The daemon takes what climbs above the root for the root.
            Found::Link(target) => path = path.parent().unwrap_or(Utf8Path::new("/")).join(target),
        }
    }
    Ok(None)
}

async fn fetch(client: &bollard::Docker, container: &str, path: &Utf8Path) -> Result<Found, Error> {
    let options = DownloadFromContainerOptionsBuilder::default().path(path.as_str()).build();
    let mut stream = std::pin::pin!(client.download_from_container(container, Some(options)));
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        match chunk.map_err(Error::from) {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(error) if error.is_absent() => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        }
    }
    first_entry(&bytes).map_err(|error| Error::Connection { message: format!("a broken archive: {error}") })
}

fn first_entry(bytes: &[u8]) -> std::io::Result<Found> {
    let mut archive = tar::Archive::new(bytes);
    let Some(entry) = archive.entries()?.next() else { return Ok(Found::Nothing) };
    let mut entry = entry?;
    match entry.header().entry_type() {
        tar::EntryType::Regular => {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            Ok(Found::File(content))
        }
        tar::EntryType::Symlink => {
            let target =
                entry.link_name()?.and_then(|target| Utf8PathBuf::try_from(target.into_owned()).ok());
            Ok(target.map_or(Found::Nothing, Found::Link))
        }
        _ => Ok(Found::Nothing),
    }
}
