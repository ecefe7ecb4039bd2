//! The socket of an ssh agent as a step has it: one of its own, with an owner and a mode of its own, from which
//! requests are passed on. The agent sees this process and not the step's user, whom it might refuse.

use std::io;
use std::os::unix::net::UnixListener;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_engine::secrets::forward;
use tokio::task::JoinSet;

use crate::worker::container::at;

/// Listens on a new socket in a folder until what is returned is dropped.
pub(crate) fn listen(folder: &Utf8Path, name: &str, agent: Utf8PathBuf) -> io::Result<JoinSet<()>> {
    let listener = at(folder, name, |path| UnixListener::bind(path))?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let mut listening = JoinSet::new();
    listening.spawn(async move {
        let mut clients = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            let agent = agent.clone();
            clients.spawn(async move { forward(client, &agent).await });
            while clients.try_join_next().is_some() {}
        }
    });
    Ok(listening)
}
