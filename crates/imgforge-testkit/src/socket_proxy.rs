//! A stand-in for an engine that speaks a little otherwise than Docker does: a socket of its own before Docker's, and
//! what goes through is rewritten. For orders of failure that no real engine shows when it is asked to.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use anyhow::Result;
use tempfile::TempDir;

/// Docker's own socket.
const DOCKER: &str = "/var/run/docker.sock";

/// Changes what has come in one piece. Where a length was told before, it must stay the same.
pub type Rewrite = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// Passes connections on, until the test ends.
pub struct SocketProxy {
    folder: TempDir,
}

impl SocketProxy {
    /// Starts one that rewrites what is asked, and what is answered.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(asked: Rewrite, answered: Rewrite) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let listener = UnixListener::bind(folder.path().join("docker.sock"))?;
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let (asked, answered) = (Arc::clone(&asked), Arc::clone(&answered));
                // Whoever goes away in the middle is no concern of the proxy.
                std::thread::spawn(move || serve(&near, &asked, &answered).ok());
            }
        });
        Ok(Self { folder })
    }

    /// For `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}/docker.sock", self.folder.path().display())
    }
}

fn serve(near: &UnixStream, asked: &Rewrite, answered: &Rewrite) -> Result<()> {
    let far = UnixStream::connect(DOCKER)?;
    std::thread::scope(|scope| {
        scope.spawn(|| pass_on(near, &far, asked));
        pass_on(&far, near, answered);
    });
    Ok(())
}

fn pass_on(mut from: &UnixStream, mut to: &UnixStream, rewrite: &Rewrite) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        rewrite(&mut buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Replaces a text wherever it is by another one of the same length.
///
/// # Panics
/// When they are not of one length.
pub fn replace(bytes: &mut [u8], old: &str, new: &str) {
    assert_eq!(old.len(), new.len(), "what is told of lengths must stay right");
    let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(old.as_bytes())).collect();
    for at in places {
        bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
    }
}
