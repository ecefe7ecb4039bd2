//! The side of a worker that asks.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8Path;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::message::{Reply, Request};
use super::{NAME, NO_ROOM};

/// The time that a worker has to end after it was told to.
const PATIENCE: Duration = Duration::from_secs(5);

/// The sink of what a worker prints: pieces as they come, not lines; whether they are of its stderr.
pub type Output = Arc<dyn Fn(bool, &[u8]) + Send + Sync>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It was cancelled; nothing of it runs any more.
    #[error("cancelled")]
    Cancelled,
    /// A file or the process cannot be had.
    #[error("{what}: {error}")]
    System {
        /// The attempt.
        what: String,
        /// The system's error.
        error: std::io::Error,
    },
    /// The disk is full, so that it could not even answer.
    #[error("there is no space left on the disk of the store")]
    NoRoom,
    /// It has ended without an answer.
    #[error("the worker has ended ({status}) without an answer: {message}")]
    NoAnswer {
        /// The way in which it ended.
        status: String,
        /// The last of what it printed.
        message: String,
    },
}

/// Starts workers.
#[derive(Debug, Clone)]
pub struct Client {
    /// The program whose `main` calls [`super::called`].
    exe: PathBuf,
}

impl Client {
    /// Starts workers as calls of `exe`; `/proc/self/exe` is this program, even when its file was replaced meanwhile.
    pub fn new(exe: impl Into<PathBuf>) -> Self {
        Self { exe: exe.into() }
    }

    /// Starts a worker. It is killed when what is returned is dropped.
    pub(crate) async fn spawn(&self, folder: &Utf8Path, request: &Request) -> Result<Child, WorkerError> {
        let asked = serde_json::to_vec(request).map_err(|error| system("the request")(error.into()))?;
        let mut command = Command::new(&self.exe);
        command.arg0(NAME).arg(folder).env_clear();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        if let Some(path) = std::env::var_os("PATH") {
            // newuidmap is looked for there.
            command.env("PATH", path);
        }
        let mut child = command.spawn().map_err(system("a worker cannot be started"))?;
        if let Some(stdin) = &mut child.stdin {
            // One that has ended by now is asked for its answer, and says why.
            let _ = stdin.write_all(&(asked.len() as u64).to_le_bytes()).await;
            let _ = stdin.write_all(&asked).await;
            let _ = stdin.flush().await;
        }
        Ok(child)
    }

    /// Has one request carried out. `folder` is there, and nobody else's; it holds what is only needed meanwhile, and
    /// should be removed afterwards.
    ///
    /// Dropping this future kills the worker and all that it has started.
    ///
    /// # Errors
    /// [`WorkerError::Cancelled`] once all of it has ended after a cancellation. What goes wrong inside the worker is
    /// [`Reply::Error`].
    pub async fn run(
        &self,
        folder: &Utf8Path,
        request: &Request,
        output: Output,
        cancel: &CancellationToken,
    ) -> Result<Reply, WorkerError> {
        let mut child = self.spawn(folder, request).await?;
        let mut stdin = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let last = std::sync::Mutex::new(Vec::new());
        let talk = async {
            tokio::join!(
                copy(stdout, |bytes| output(false, bytes)),
                copy(stderr, |bytes| {
                    output(true, bytes);
                    if let Ok(mut last) = last.lock() {
                        last.extend_from_slice(bytes);
                        let surplus = last.len().saturating_sub(1 << 12);
                        last.drain(..surplus);
                    }
                }),
                child.wait(),
            )
        };
        let mut was_cancelled = false;
        let ended = {
            let mut talk = std::pin::pin!(talk);
            tokio::select! {
                (.., status) = &mut talk => Some(status),
                () = cancel.cancelled() => {
                    was_cancelled = true;
                    drop(stdin.take());
                    tokio::time::timeout(PATIENCE, &mut talk).await.ok().map(|(.., status)| status)
                }
            }
        };
        let Some(status) = ended else {
            // The kernel ends what it has started with it.
            child.kill().await.map_err(system("the worker"))?;
            return Err(WorkerError::Cancelled);
        };
        let status = status.map_err(system("the worker"))?;
        if was_cancelled {
            return Err(WorkerError::Cancelled);
        }
        let file = folder.join("reply.json");
        let no_answer = || WorkerError::NoAnswer {
            status: status.to_string(),
            message: last
                .lock()
                .map_or_else(|_| String::new(), |last| String::from_utf8_lossy(&last).into_owned()),
        };
        let has_no_room = status.code() == Some(NO_ROOM.into());
        let reply =
            std::fs::read(&file).map_err(|_| if has_no_room { WorkerError::NoRoom } else { no_answer() })?;
        serde_json::from_slice(&reply).map_err(|_| no_answer())
    }
}

fn system(what: &str) -> impl FnOnce(std::io::Error) -> WorkerError {
    let what = what.to_owned();
    move |error| WorkerError::System { what, error }
}

pub(crate) async fn copy(from: Option<impl AsyncRead + Unpin>, mut to: impl FnMut(&[u8])) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 1 << 14];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 {
            break;
        }
        to(&buffer[..read]);
    }
}
