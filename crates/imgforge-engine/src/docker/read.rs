//! Reads a file out of an image, through a container that is never started.

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{CreateContainerOptions, RemoveContainerOptions};
use camino::{Utf8Path, Utf8PathBuf};

use super::archive;
use crate::containers::EntryKind;
use crate::{Error, labels};

/// The number of links that are followed, as in the kernel (`ELOOP`).
const MAX_LINKS: usize = 40;

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
        let removed = client.remove_container(&container, None::<RemoveContainerOptions>).await;
        // What was found before says more.
        let found = found?;
        removed?;
        Ok(found)
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
        let entry = archive::entry(client, container, &path).await?;
        match entry.map(|entry| entry.kind) {
            Some(EntryKind::File(content)) => return Ok(Some(content)),
            // The daemon takes what climbs above the root for the root.
            Some(EntryKind::Link(target)) => {
                path = path.parent().unwrap_or(Utf8Path::new("/")).join(target);
            }
            _ => return Ok(None),
        }
    }
    Ok(None)
}
