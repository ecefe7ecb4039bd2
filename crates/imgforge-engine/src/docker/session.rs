//! The session of one build: the daemon calls back and asks for the files that it lacks.
//!
//! In three steps (fsutil's `receive.go` is the other side): we tell the path, size, mode and time of everything in a
//! folder; the daemon compares that with what it has kept under the session's shared key, and asks for the files that
//! differ, by number; we send them. A file that is not what was hashed ends the session with an error, so that the
//! daemon cannot take its part for the whole.
//!
//! It asks for secrets and agents in the same way, when a step that has them begins.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bollard::fsutil::types::packet::PacketType;
use bollard::fsutil::types::{Packet, Stat};
use bollard::health::health_check_response::ServingStatus;
use bollard::health::health_server::{Health, HealthServer};
use bollard::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use bollard::moby::buildkit::secrets::v1::secrets_server::{Secrets as AnswersSecrets, SecretsServer};
use bollard::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse};
use bollard::moby::filesync::packet::file_sync_server::{FileSync, FileSyncServer};
use bollard::moby::sshforward::v1::ssh_server::{Ssh, SshServer};
use bollard::moby::sshforward::v1::{BytesMessage, CheckAgentRequest, CheckAgentResponse};
use camino::Utf8Path;
use futures_util::{Stream, StreamExt, stream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use imgforge_core::source::Node;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tonic::metadata::MetadataValue;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use super::wire::Wire;
use crate::BuildError;
use crate::context::{Content, Folder, Item};
use crate::secrets::{self, Secrets};

/// The paths that the daemon may call, which it wants to be told when the session begins.
pub(super) const METHODS: [&str; 5] = [
    "/moby.filesync.v1.FileSync/DiffCopy",
    "/grpc.health.v1.Health/Check",
    "/moby.buildkit.secrets.v1.Secrets/GetSecret",
    "/moby.sshforward.v1.SSH/CheckAgent",
    "/moby.sshforward.v1.SSH/ForwardAgent",
];

/// The header in which the daemon says which agent it means.
const AGENT_ID: &str = "buildkit.ssh.id";

/// The number of bytes of an agent's messages that are sent at once.
const PIECE: usize = 16 << 10;

/// Some frontends first ask for this file alone. Without this, all files would be sent for that, and kept twice.
const IGNORE_FILE: &str = ".dockerignore";

/// The daemon names in headers all files that a Dockerfile names.
const MAX_HEADERS: u32 = 64 << 20;

/// The number of messages that may wait to be sent.
const AHEAD: usize = 16;

/// Bits of Go's `fs.FileMode`, in which modes are sent.
const MODE_DIR: u32 = 1 << 31;
const MODE_SYMLINK: u32 = 1 << 27;
const MODE_DEVICE: u32 = 1 << 26;
const MODE_PIPE: u32 = 1 << 25;
const MODE_SETUID: u32 = 1 << 23;
const MODE_SETGID: u32 = 1 << 22;
const MODE_CHARACTER: u32 = 1 << 21;
const MODE_STICKY: u32 = 1 << 20;

type Reply<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The files that a build has to offer.
#[derive(Clone)]
pub(super) struct Files(Arc<Offer>);

struct Offer {
    context: Arc<Folder>,
    /// The context's ignore file, if there is one, and nothing else.
    ignore_file: Arc<Folder>,
    dockerfile: Arc<Folder>,
    secrets: Secrets,
    failure: mpsc::UnboundedSender<BuildError>,
    counter: Arc<Counter>,
}

/// Counts what the daemon has asked for of contexts.
#[derive(Debug, Default)]
pub(super) struct Counter {
    pub(super) files: AtomicU64,
    pub(super) bytes: AtomicU64,
}

impl Files {
    /// Offers two folders under the names that every Dockerfile frontend asks for. A file that cannot be sent is told
    /// to `failure`.
    pub(super) fn new(
        context: Folder,
        dockerfile: Folder,
        secrets: Secrets,
        failure: mpsc::UnboundedSender<BuildError>,
        counter: Arc<Counter>,
    ) -> Self {
        let ignore_file = Arc::new(context.only(IGNORE_FILE));
        let (context, dockerfile) = (Arc::new(context), Arc::new(dockerfile));
        Self(Arc::new(Offer { context, ignore_file, dockerfile, secrets, failure, counter }))
    }

    /// The socket of an agent. A Dockerfile that names none means the default one.
    fn agent(&self, id: &str) -> Result<&Utf8Path, Status> {
        let id = if id.is_empty() { "default" } else { id };
        self.0.secrets.agent(id).ok_or_else(|| Status::not_found(secrets::missing_agent(id)))
    }

    /// Answers the daemon on an upgraded connection until that ends. Dropping the future closes it.
    pub(super) async fn serve(self, wire: Wire) {
        let routes = Routes::new(HealthServer::new(self.clone()))
            .add_service(SecretsServer::new(self.clone()))
            .add_service(SshServer::new(self.clone()))
            .add_service(FileSyncServer::new(self));
        let mut server = auto::Builder::new(TokioExecutor::new()).http2_only();
        server.http2().max_header_list_size(MAX_HEADERS);
        // What ends the connection ends the build too, which says why.
        let _ = server.serve_connection(TokioIo::new(wire), TowerToHyperService::new(routes)).await;
    }
}

#[tonic::async_trait]
impl FileSync for Files {
    type DiffCopyStream = Reply<Packet>;
    type TarStreamStream = Reply<Packet>;

    async fn diff_copy(
        &self,
        request: Request<Streaming<Packet>>,
    ) -> Result<Response<Self::DiffCopyStream>, Status> {
        let name = request.metadata().get("dir-name").and_then(|name| name.to_str().ok());
        let wanted: Vec<&[u8]> =
            request.metadata().get_all("followpaths").iter().map(MetadataValue::as_encoded_bytes).collect();
        let folder = match name {
            Some("context") if wanted == [IGNORE_FILE.as_bytes()] => &self.0.ignore_file,
            Some("context") => &self.0.context,
            Some("dockerfile") => &self.0.dockerfile,
            other => return Err(Status::not_found(format!("there is no folder {other:?}"))),
        };
        let (sender, receiver) = mpsc::channel(AHEAD);
        let transfer = Transfer { folder: Arc::clone(folder), offer: Arc::clone(&self.0), sender };
        // Ends with the connection, which both halves of it see.
        tokio::spawn(transfer.run(request.into_inner()));
        let replies = stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|packet| (packet, receiver))
        });
        Ok(Response::new(replies.boxed()))
    }

    async fn tar_stream(
        &self,
        _: Request<Streaming<Packet>>,
    ) -> Result<Response<Self::TarStreamStream>, Status> {
        Err(Status::unimplemented("files are sent by DiffCopy only"))
    }
}

#[tonic::async_trait]
impl AnswersSecrets for Files {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let id = &request.get_ref().id;
        match self.0.secrets.content(id) {
            Some(content) => Ok(Response::new(GetSecretResponse { data: content.to_vec() })),
            // The daemon goes on without one that is not required.
            None => Err(Status::not_found(secrets::missing_secret(id))),
        }
    }
}

#[tonic::async_trait]
impl Ssh for Files {
    type ForwardAgentStream = Reply<BytesMessage>;

    async fn check_agent(
        &self,
        request: Request<CheckAgentRequest>,
    ) -> Result<Response<CheckAgentResponse>, Status> {
        self.agent(&request.get_ref().id)?;
        Ok(Response::new(CheckAgentResponse {}))
    }

    async fn forward_agent(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::ForwardAgentStream>, Status> {
        let id = request.metadata().get(AGENT_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
        let (socket, mut requests) = (self.agent(id)?.to_owned(), request.into_inner());
        let (client, ours) = tokio::io::duplex(PIECE);
        let (answers, mut asking) = tokio::io::split(ours);
        // Both end with the connection of what runs in the step.
        tokio::spawn(async move { secrets::forward(client, &socket).await });
        tokio::spawn(async move {
            while let Ok(Some(BytesMessage { data })) = requests.message().await {
                if asking.write_all(&data).await.is_err() {
                    return;
                }
            }
            let _ = asking.shutdown().await;
        });
        let replies = stream::unfold(answers, async |mut answers| {
            let mut data = vec![0; PIECE];
            let read = answers.read(&mut data).await.ok().filter(|read| *read > 0)?;
            data.truncate(read);
            Some((Ok(BytesMessage { data }), answers))
        });
        Ok(Response::new(replies.boxed()))
    }
}

/// The daemon asks every few seconds whether we are still there.
#[tonic::async_trait]
impl Health for Files {
    type WatchStream = Reply<HealthCheckResponse>;

    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        Err(Status::unimplemented("ask by Check"))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("ask by Check"))
    }
}

/// One folder on its way.
struct Transfer {
    folder: Arc<Folder>,
    offer: Arc<Offer>,
    sender: mpsc::Sender<Result<Packet, Status>>,
}

/// The daemon is gone; nobody is left to be told.
struct Gone;

impl Transfer {
    async fn run(self, mut requests: Streaming<Packet>) {
        if self.announce().await.is_err() {
            return;
        }
        while let Ok(Some(packet)) = requests.message().await {
            let answered = match PacketType::try_from(packet.r#type) {
                Ok(PacketType::PacketReq) => self.answer(packet.id).await,
                Ok(PacketType::PacketFin) => {
                    let _ = self.send(empty(PacketType::PacketFin)).await;
                    return;
                }
                Ok(PacketType::PacketErr) => return,
                _ => Ok(()),
            };
            if answered.is_err() {
                return;
            }
        }
    }

    async fn announce(&self) -> Result<(), Gone> {
        for item in &self.folder.items {
            self.send(Packet { stat: Some(stat(item)), ..empty(PacketType::PacketStat) }).await?;
        }
        self.send(empty(PacketType::PacketStat)).await
    }

    async fn answer(&self, number: u32) -> Result<(), Gone> {
        let Some(size) = self.item(number).map(size) else {
            return self.fail(Status::out_of_range(format!("there is no file {number}"))).await;
        };
        // Frontends take the Dockerfile anew each time; that tells nothing.
        if Arc::ptr_eq(&self.folder, &self.offer.context) {
            self.offer.counter.files.fetch_add(1, Ordering::Relaxed);
            self.offer.counter.bytes.fetch_add(size, Ordering::Relaxed);
        }
        let (folder, sender) = (Arc::clone(&self.folder), self.sender.clone());
        let reading = tokio::task::spawn_blocking(move || {
            folder.items[number as usize].read(|bytes| {
                let data = Packet { id: number, data: bytes.into(), ..empty(PacketType::PacketData) };
                sender.blocking_send(Ok(data)).is_ok()
            })
        });
        match reading.await {
            Ok(Ok(())) => self.send(Packet { id: number, ..empty(PacketType::PacketData) }).await,
            Ok(Err(error)) => {
                let status = Status::aborted(error.to_string());
                // Told first, so that it is known when the daemon says that the build failed.
                let _ = self.offer.failure.send(error);
                self.fail(status).await
            }
            Err(error) => self.fail(Status::internal(error.to_string())).await,
        }
    }

    fn item(&self, number: u32) -> Option<&Item> {
        self.folder.items.get(usize::try_from(number).ok()?)
    }

    async fn send(&self, packet: Packet) -> Result<(), Gone> {
        self.sender.send(Ok(packet)).await.map_err(|_| Gone)
    }

    async fn fail(&self, status: Status) -> Result<(), Gone> {
        let _ = self.sender.send(Err(status)).await;
        Err(Gone)
    }
}

fn empty(kind: PacketType) -> Packet {
    Packet { r#type: kind.into(), ..Packet::default() }
}

fn size(item: &Item) -> u64 {
    match &item.content {
        Content::File { size, .. } => *size,
        Content::Dir { .. } | Content::Symlink(_) | Content::Node { .. } => 0,
    }
}

fn stat(item: &Item) -> Stat {
    let mut stat = Stat { path: item.path.to_string(), ..Stat::default() };
    match &item.content {
        Content::Dir { mode } => stat.mode = MODE_DIR | go_mode(*mode),
        Content::Symlink(target) => {
            stat.mode = MODE_SYMLINK | 0o777;
            stat.size = length(target.len() as u64);
            stat.linkname.clone_from(target);
        }
        Content::File { size, mode, mark, .. } => {
            stat.mode = go_mode(*mode);
            stat.size = length(*size);
            stat.mod_time = i64::from(*mark);
        }
        Content::Node { node, mode } => {
            let (bits, (major, minor)) = match *node {
                Node::Pipe => (MODE_PIPE, (0, 0)),
                Node::Character(major, minor) => (MODE_DEVICE | MODE_CHARACTER, (major, minor)),
                Node::Block(major, minor) => (MODE_DEVICE, (major, minor)),
            };
            stat.mode = bits | go_mode(*mode);
            (stat.devmajor, stat.devminor) = (major.into(), minor.into());
        }
    }
    stat
}

/// Permissions as Go's `fs.FileMode` has them.
fn go_mode(mode: u32) -> u32 {
    let special = [(0o4000, MODE_SETUID), (0o2000, MODE_SETGID), (0o1000, MODE_STICKY)];
    special.iter().filter(|(bit, _)| mode & bit != 0).fold(mode & 0o777, |mode, (_, go)| mode | go)
}

fn length(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
