//! One build: the context goes up, progress comes down, an image without a name is left.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

use bollard::errors::Error as Bollard;
use bollard::models::{BuildInfo, BuildInfoAux};
use bollard::query_parameters::{BuildImageOptions, BuildImageOptionsBuilder, BuilderVersion};
use futures_util::StreamExt;
use imgforge_core::manifest::Network;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::context::{self, Chunk};
use crate::progress::Progress;
use crate::{BuildError, BuildRequest, BuiltImage, Error, StepSink};

/// How many chunks of the context may wait to be sent.
const CHUNKS_AHEAD: usize = 8;

/// How the daemon's stream ended.
enum End {
    Image(Option<String>),
    Failed(Bollard),
    Cancelled,
}

pub(super) async fn build(
    client: &bollard::Docker,
    request: BuildRequest,
    events: StepSink,
    cancel: CancellationToken,
) -> Result<BuiltImage, BuildError> {
    if cancel.is_cancelled() {
        return Err(BuildError::Cancelled);
    }
    let options = options(&request);
    let (sender, receiver) = mpsc::channel::<Chunk>(CHUNKS_AHEAD);
    let sending = tokio::task::spawn_blocking(move || context::send(&request, sender));
    let body = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    });
    let mut progress = Progress::new(events);
    // The stream is dropped with this block: that closes the connection, upon which the daemon ends the build.
    let end = {
        let stream = client.build_image(options, None, Some(bollard::body_try_stream(body)));
        follow(stream, &mut progress, &cancel).await
    };
    let sent = sending.await.map_err(|error| Error::Connection { message: error.to_string() })?;
    if let Err(error @ (BuildError::ContextChanged { .. } | BuildError::Unreadable { .. })) = sent {
        return Err(error);
    }
    match end {
        End::Cancelled => Err(BuildError::Cancelled),
        End::Failed(Bollard::DockerStreamError { error }) => Err(progress.failure(error)),
        // Before the stream begins, the daemon refuses what the request says (a platform, say).
        End::Failed(Bollard::DockerResponseServerError { message, .. }) => Err(progress.failure(message)),
        End::Failed(error) => Err(progress.broken(error.into())),
        // An image of a context that did not reach its end is none of ours.
        End::Image(Some(id)) if sent.is_ok() => {
            progress.finish();
            let size = super::size(client, &id).await?;
            Ok(BuiltImage { id, size })
        }
        End::Image(_) => {
            let message = "the daemon ended the build without an image".to_owned();
            Err(progress.broken(Error::Connection { message }))
        }
    }
}

async fn follow(
    stream: impl futures_util::Stream<Item = Result<BuildInfo, Bollard>>,
    progress: &mut Progress,
    cancel: &CancellationToken,
) -> End {
    let mut stream = std::pin::pin!(stream);
    let mut id = None;
    loop {
        let message = tokio::select! {
            biased;
            () = cancel.cancelled() => return End::Cancelled,
            message = stream.next() => message,
        };
        match message {
            None => return End::Image(id),
            Some(Err(error)) => return End::Failed(error),
            Some(Ok(info)) => match info.aux {
                Some(BuildInfoAux::BuildKit(status)) => progress.update(&status),
                Some(BuildInfoAux::Default(image)) => id = image.id.or(id),
                None => {}
            },
        }
    }
}

fn options(request: &BuildRequest) -> BuildImageOptions {
    let labels: HashMap<&str, &str> = borrowed(&request.labels);
    let args: HashMap<&str, &str> = borrowed(&request.args);
    let builder = BuildImageOptionsBuilder::default()
        .dockerfile(context::DOCKERFILE)
        .version(BuilderVersion::BuilderBuildKit)
        .session(&session_name())
        .platform(&request.platform)
        .labels(&labels)
        .buildargs(&args);
    match request.network {
        Network::None => builder.networkmode("none"),
        Network::Default => builder,
    }
    .build()
}

fn borrowed(map: &std::collections::BTreeMap<String, String>) -> HashMap<&str, &str> {
    map.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

/// A name that no other session has, of this process or another, on this machine or another.
fn session_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // Each `RandomState` has keys of its own, made from the system's randomness.
    format!("imgforge-{:016x}-{number}", RandomState::new().hash_one(std::process::id()))
}
