//! Reads a file out of an image, through a container that is never started.

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{CreateContainerOptions, RemoveContainerOptions};
use camino::Utf8PathBuf;

use super::archive;
use crate::containers::{EntryKind, follow_links};
use crate::{Error, labels};

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
        let (asked, from) = (&client, container.as_str());
        let found = follow_links(&path, |at| async move { archive::entry(asked, from, &at).await }).await;
        let removed = client.remove_container(&container, None::<RemoveContainerOptions>).await;
        // What was found before says more.
        let found = found?;
        removed?;
        Ok(match found.map(|entry| entry.kind) {
            Some(EntryKind::File(content)) => Some(content),
            _ => None,
        })
    });
    task.await.map_err(|error| Error::Connection { message: error.to_string() })?
}
