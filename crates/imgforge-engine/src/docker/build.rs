//! One build: the daemon is told what to solve, fetches the files that it lacks, and leaves an image without a name.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::error::Error as _;
use std::hash::BuildHasher;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bollard::moby::buildkit::v1::control_client::ControlClient;
use bollard::moby::buildkit::v1::{SolveRequest, SolveResponse, StatusRequest, StatusResponse};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use imgforge_core::manifest::Network;
use imgforge_oci::Digest;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};

use super::progress::Progress;
use super::session::{Files, METHODS};
use super::steps::Steps;
use super::{Docker, wire};
use crate::context::Folder;
use crate::error::with_causes;
use crate::{BuildError, BuildRequest, BuiltImage, Engine as _, Error, StepSink};

/// The Dockerfile's name in the folder that holds nothing else.
const DOCKERFILE: &str = "Dockerfile";

/// Every frontend takes an ignore file of this name before the context's `.dockerignore`. That has been applied when
/// the files were listed, and it may be one of them; so this one ignores nothing. (An empty one would be taken for
/// none.)
const DOCKERFILE_IGNORE: (&str, Bytes) =
    ("Dockerfile.dockerignore", Bytes::from_static(b"# The context is exactly what is wanted.\n"));

/// A message of progress may hold much of a log.
const MAX_MESSAGE: usize = 256 << 20;

/// The time that the daemon may take to begin with its progress after a build that has ended before it began.
const LATE_PROGRESS: Duration = Duration::from_secs(1);

/// The end of a build in the daemon.
enum End {
    Solved(SolveResponse),
    Failed(Status),
    Unsendable(BuildError),
}

pub(super) async fn build(
    docker: &Docker,
    request: BuildRequest,
    events: StepSink,
    cancel: CancellationToken,
) -> Result<BuiltImage, BuildError> {
    let mut progress = Progress::new(events, Steps::new(&request.dockerfile, &request.args));
    // What is under way is dropped with this future: that closes the connections, upon which the daemon ends the
    // build.
    let end = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(BuildError::Cancelled),
        end = run(docker, request, &mut progress) => end,
    };
    match end {
        Ok(End::Solved(response)) => {
            progress.finish();
            let id = image_id(&response)?;
            let size = docker.size(id.as_str()).await?;
            Ok(BuiltImage { id, size, same_as: Vec::new() })
        }
        Ok(End::Failed(status)) => Err(match status.source() {
            // A call that failed on the way; what the daemon says has no cause on our side. The status itself is
            // no text for people.
            Some(cause) => progress.broken(Error::Connection { message: with_causes(cause) }),
            None => progress.failure(status.message().to_owned()),
        }),
        Ok(End::Unsendable(error)) | Err(error) => Err(error),
    }
}

async fn run(docker: &Docker, request: BuildRequest, progress: &mut Progress) -> Result<End, BuildError> {
    let session = unique_name();
    let shared_key = shared_key(&request);
    let solve = solve_request(&request, &session);
    let text = super::flags::expanded(request.dockerfile, &request.args, &docker.version)?;
    let dockerfile = Folder::in_memory([(DOCKERFILE, Bytes::from(text)), DOCKERFILE_IGNORE]);
    let (root, entries, supplied) = (request.root, request.entries, request.supplied);
    let secrets = request.secrets;
    let listing = tokio::task::spawn_blocking(move || Folder::context(&root, entries, supplied));
    let context = listing.await.map_err(|error| Error::Connection { message: error.to_string() })??;

    let (failure, mut failures) = mpsc::unbounded_channel();
    let files = Files::new(context, dockerfile, secrets, failure, Arc::clone(&docker.counter));
    let session = open_session(docker, &session, &shared_key).await?;
    let control = connect_control(docker).await?;
    let mut serving = pin!(files.serve(session));
    let mut solving = pin!(follow(control, solve, progress));
    let mut is_served = false;
    loop {
        tokio::select! {
            biased;
            Some(error) = failures.recv() => return Ok(End::Unsendable(error)),
            solved = &mut solving => return Ok(match solved {
                Ok(response) => End::Solved(response.into_inner()),
                Err(status) => End::Failed(status),
            }),
            // Without a session the daemon gives up by itself, and says why.
            () = &mut serving, if !is_served => is_served = true,
        }
    }
}

/// Solves, and reads the daemon's progress to its end.
async fn follow(
    control: ControlClient<Channel>,
    request: SolveRequest,
    progress: &mut Progress,
) -> Result<Response<SolveResponse>, Status> {
    let (mut solver, name) = (control.clone(), request.r#ref.clone());
    let mut solving = pin!(solver.solve(request));
    let mut opening = pin!(open_progress(control, name));
    let mut solved = None;
    let messages = tokio::select! {
        biased;
        messages = &mut opening => messages.ok(),
        result = &mut solving => {
            solved = Some(result);
            tokio::time::timeout(LATE_PROGRESS, opening).await.ok().and_then(Result::ok)
        }
    };
    if let Some(mut messages) = messages {
        loop {
            tokio::select! {
                biased;
                message = messages.message() => match message {
                    Ok(Some(message)) => progress.update(&message),
                    // That it broke is told by the other call, on the same connection.
                    Ok(None) | Err(_) => break,
                },
                result = &mut solving, if solved.is_none() => solved = Some(result),
            }
        }
    }
    match solved {
        Some(result) => result,
        None => solving.await,
    }
}

/// The daemon waits for the build of this name to begin, and answers with its first message.
async fn open_progress(
    mut control: ControlClient<Channel>,
    name: String,
) -> Result<Streaming<StatusResponse>, Status> {
    Ok(control.status(StatusRequest { r#ref: name }).await?.into_inner())
}

async fn open_session(docker: &Docker, id: &str, shared_key: &str) -> Result<wire::Wire, Error> {
    let mut headers = vec![
        ("X-Docker-Expose-Session-Uuid", id),
        ("X-Docker-Expose-Session-Name", "imgforge"),
        ("X-Docker-Expose-Session-Sharedkey", shared_key),
    ];
    headers.extend(METHODS.map(|method| ("X-Docker-Expose-Session-Grpc-Method", method)));
    wire::upgrade(&docker.endpoint, &docker.path("session"), &headers).await
}

async fn connect_control(docker: &Docker) -> Result<ControlClient<Channel>, Error> {
    let mut wire = Some(wire::upgrade(&docker.endpoint, &docker.path("grpc"), &[]).await?);
    // One connection for one build: a second one could not know of it.
    let once = tower::service_fn(move |_| {
        let wire = wire.take().map(TokioIo::new);
        std::future::ready(wire.ok_or_else(|| std::io::Error::other("the connection has ended")))
    });
    // The address is only a name here.
    let channel = Endpoint::from_static("http://docker")
        .connect_with_connector(once)
        .await
        .map_err(|error| Error::Connection { message: with_causes(&error) })?;
    Ok(ControlClient::new(channel).max_decoding_message_size(MAX_MESSAGE))
}

fn solve_request(request: &BuildRequest, session: &str) -> SolveRequest {
    let mut attributes = HashMap::from([
        ("filename".to_owned(), DOCKERFILE.to_owned()),
        ("platform".to_owned(), request.platform.clone()),
    ]);
    for (name, value) in &request.args {
        attributes.insert(format!("build-arg:{name}"), value.clone());
    }
    for (key, value) in &request.labels {
        attributes.insert(format!("label:{key}"), value.clone());
    }
    if request.anew {
        attributes.insert("no-cache".to_owned(), String::new());
    }
    // The daemon's own network when nothing is forced.
    if request.network != Network::Default {
        attributes.insert("force-network-mode".to_owned(), request.network.as_str().to_owned());
    }
    // BuildKit wants to be told that the host's network is meant.
    let entitlements =
        if request.network == Network::Host { vec!["network.host".to_owned()] } else { Vec::new() };
    SolveRequest {
        entitlements,
        r#ref: session.to_owned(),
        session: session.to_owned(),
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs: attributes,
        // The daemon's own image store. The newer list of exporters is unknown to older daemons.
        exporter_deprecated: "moby".to_owned(),
        ..SolveRequest::default()
    }
}

/// Under which name the daemon keeps the files of a build for the next one of the same target.
fn shared_key(request: &BuildRequest) -> String {
    let BuildRequest { target, root, platform, .. } = request;
    blake3::hash(format!("{root}\n{target}\n{platform}").as_bytes()).to_hex().to_string()
}

fn image_id(response: &SolveResponse) -> Result<Digest, Error> {
    let id = response.exporter_response.get("containerimage.digest").and_then(|text| text.parse().ok());
    id.ok_or_else(|| Error::Connection { message: "the daemon ended the build without an image".to_owned() })
}

/// A name that no other build has, of this process or another, on this machine or another.
fn unique_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // Each `RandomState` has keys of its own, made from the system's randomness.
    format!("imgforge-{:016x}-{number}", RandomState::new().hash_one(std::process::id()))
}
